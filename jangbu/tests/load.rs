//! The load test of a shop that we learnt from, exactly: one buyer who can pay 66 orders places 100 at once.

mod shop;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::json;
use shop::{BUYER, COFFEE, Chance, Client, Pay, Shop, Token, eventually, order};
use tokio::task::JoinSet;

const ORDERS: usize = 100;

/// How far the clients have come.
#[derive(Default)]
struct Progress {
    sent: AtomicUsize,
    answered: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_orders_at_once_exactly_the_66_that_can_be_paid_are_confirmed() {
    let shop = Shop::open(&[]).await;
    let buyer = shop.client().log_in(BUYER).await;
    let mut clients = order_at_once(shop.client(), &buyer, &Arc::default());
    let mut orders = Vec::new();
    while let Some(order) = clients.join_next().await {
        orders.push(order.expect("no client panics"));
    }
    is_as_it_must_be(shop, &buyer, &orders).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_when_the_server_is_killed_and_restarted_in_the_middle() {
    let mut shop = Shop::open(&[]).await;
    let buyer = shop.client().log_in(BUYER).await;
    let mut chance = Chance::new("load");
    let progress = Arc::new(Progress::default());
    let mut clients = order_at_once(shop.client(), &buyer, &progress);
    // Somewhere among the first requests, and once more among the answers.
    let (sent, answered) = (1 + chance.below(ORDERS as u64 - 1), chance.below(ORDERS as u64 / 2));
    reaches(&progress.sent, sent).await;
    shop.kill_and_start_again().await;
    reaches(&progress.answered, answered).await;
    shop.kill_and_start_again().await;
    let mut orders = Vec::new();
    while let Some(order) = clients.join_next().await {
        orders.push(order.expect("no client panics"));
    }
    is_as_it_must_be(shop, &buyer, &orders).await;
}

/// 100 clients, each with an order of its own for three coffees, who repeat it under the same key until it is answered.
fn order_at_once(client: &Client, buyer: &Token, progress: &Arc<Progress>) -> JoinSet<String> {
    let body = order(&[(COFFEE, 3)], Pay::Balance);
    let mut clients = JoinSet::new();
    for number in 0..ORDERS {
        let (client, buyer, body, progress) = (client.clone(), buyer.clone(), body.clone(), Arc::clone(progress));
        clients.spawn(async move {
            let key = format!("load-{number}");
            progress.sent.fetch_add(1, Ordering::Relaxed);
            let answer = client.insist(&buyer, "/api/v1/orders", &key, &body).await.expect(202);
            progress.answered.fetch_add(1, Ordering::Relaxed);
            let order = answer.order_id();
            client.settled(&buyer, &order).await;
            order
        });
    }
    clients
}

async fn reaches(counter: &AtomicUsize, wanted: u64) {
    eventually("the clients get on", async || {
        (counter.load(Ordering::Relaxed) as u64 >= wanted).then_some(())
    })
    .await;
}

async fn is_as_it_must_be(shop: Shop, buyer: &Token, orders: &[String]) {
    let client = shop.client();
    let mut outcomes = Vec::new();
    for order in orders {
        outcomes.push(client.order(buyer, order).await.outcome());
    }
    let count = |wanted: &str| outcomes.iter().filter(|outcome| *outcome == wanted).count();
    assert_eq!(
        (count("CONFIRMED"), count("CANCELLED INSUFFICIENT_BALANCE")),
        (66, 34),
        "{outcomes:?}"
    );

    // The views show the same.
    for (order, outcome) in orders.iter().zip(&outcomes) {
        client.shown(buyer, order, outcome).await;
    }
    let figures = client.figures_at_rest(buyer, &[COFFEE]).await;
    assert_eq!((figures.balance, figures.stock[COFFEE]), (10_000, (802, 0)));
    assert_eq!(listed(client, buyer, "CONFIRMED").await, 66);
    assert_eq!(listed(client, buyer, "CANCELLED").await, 34);

    let log = shop.close().await;
    assert_eq!(
        (log.ended("order.confirmed"), log.ended("INSUFFICIENT_BALANCE"), log.orders.len()),
        (66, 34, 100)
    );
    // The demo was loaded once, however often the server was started.
    assert_eq!((log.times("product.created"), log.times("wallet.deposited")), (6, 1));
    let coffee = &log.stocks[COFFEE];
    assert_eq!((coffee.on_hand, coffee.reserved, coffee.sold), (802, 0, 198));
}

/// How many of the buyer's orders the query API lists with this status, page by page.
async fn listed(client: &Client, buyer: &Token, status: &str) -> usize {
    let query = "query ($status: OrderStatus!, $after: String) {
        orders(first: 30, after: $after, status: $status) { edges { node { id } } pageInfo { hasNextPage endCursor } } }";
    let (mut listed, mut after) = (0, json!(null));
    loop {
        let data = client.ask(buyer, query, &json!({ "status": status, "after": after })).await;
        listed += data["orders"]["edges"].as_array().expect("edges").len();
        if data["orders"]["pageInfo"]["hasNextPage"] != true {
            return listed;
        }
        after = data["orders"]["pageInfo"]["endCursor"].clone();
    }
}
