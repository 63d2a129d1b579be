//! The server is killed twenty times while it is at work. What it has acknowledged is there afterwards, every order comes to its end,
//! and nobody is charged twice.

mod shop;

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};
use shop::{
    ADMIN, BUYER, COFFEE, Chance, Client, Pay, SELLER, Shop, Token,
    client::{fresh_key, pause, payment_key, won},
    eventually, invariants, order,
};
use tokio::task::JoinSet;

const KILLS: usize = 20;
const CLIENTS: usize = 6;

/// What the shop has acknowledged, remembered outside of it.
#[derive(Default)]
struct Acknowledged {
    orders: Vec<Placed>,
    /// Idempotency keys of deposits and of goods received.
    changes: Vec<String>,
}

/// An order and the request that placed it.
#[derive(Clone)]
struct Placed {
    order: String,
    buyer: Token,
    key: String,
    body: Value,
}

/// A client at work.
struct Worker {
    client: Client,
    chance: Chance,
    buyer: Token,
    account: String,
    admin: Token,
    seller: Token,
    /// One that is often sold out.
    scarce: String,
    acknowledged: Arc<Mutex<Acknowledged>>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    async fn work(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            match self.chance.below(100) {
                0..5 => self.change("deposit").await,
                5..15 => self.change("receipt").await,
                15..25 => self.give_up().await,
                25..45 => self.place_and_decide_later().await,
                _ => {
                    let body = self.an_order();
                    self.place(body).await;
                }
            }
            pause(self.chance.below(30)).await;
        }
    }

    async fn place(&mut self, body: Value) -> String {
        let key = fresh_key();
        let order = self
            .client
            .insist(&self.buyer, "/api/v1/orders", &key, &body)
            .await
            .expect(202)
            .order_id();
        let placed = Placed {
            order: order.clone(),
            buyer: self.buyer.clone(),
            key,
            body,
        };
        self.acknowledged.lock().expect("nobody panics with it").orders.push(placed);
        order
    }

    /// An order that is then paid, cancelled, paid and cancelled, or forgotten.
    async fn place_and_decide_later(&mut self) {
        let body = order(&[(COFFEE, 1)], Pay::CardLater);
        let order = self.place(body).await;
        let decision = self.chance.below(5);
        if decision < 3 {
            let part = ["ok", "5xx", "lost_applied", "slow"][usize::try_from(self.chance.below(4)).expect("small")];
            let body = json!({ "paymentKey": payment_key(part), "amount": won(5_000) });
            self.decide(&order, "payment", &body).await;
        }
        if decision == 2 || decision == 3 {
            self.decide(&order, "cancellation", &json!({ "reason": "changed my mind" })).await;
        }
    }

    /// Done, or too late: after a kill the deadline may be over.
    async fn decide(&self, order: &str, what: &str, body: &Value) {
        let path = format!("/api/v1/orders/{order}/{what}");
        let answer = self.client.insist(&self.buyer, &path, &fresh_key(), body).await;
        assert!(
            [202, 409, 410].contains(&answer.status),
            "{what}: {} {}",
            answer.status,
            answer.body
        );
    }

    /// Asks once and does not care what becomes of it: that may be there or not.
    async fn give_up(&mut self) {
        let body = self.an_order();
        let _ = Client::send(self.client.command(&self.buyer, "/api/v1/orders", &fresh_key(), &body)).await;
    }

    async fn change(&mut self, what: &str) {
        let key = fresh_key();
        let amount = 1 + self.chance.below(20_000);
        let (token, path, body) = match what {
            "deposit" => {
                let body = json!({ "amount": won(i64::try_from(amount).expect("small")) });
                (&self.admin, format!("/api/v1/accounts/{}/deposits", self.account), body)
            }
            _ => (
                &self.seller,
                format!("/api/v1/products/{}/stock/receipts", self.scarce),
                json!({ "quantity": amount % 5 + 1 }),
            ),
        };
        self.client.insist(token, &path, &key, &body).await.expect(201);
        self.acknowledged.lock().expect("nobody panics with it").changes.push(key);
    }

    fn an_order(&mut self) -> Value {
        let lines = match self.chance.below(4) {
            0 => vec![(COFFEE, 1)],
            1 => vec![(self.scarce.as_str(), 1)],
            2 => vec![(COFFEE, 2), (self.scarce.as_str(), 1)],
            _ => vec![(self.scarce.as_str(), 2), (COFFEE, 1)],
        };
        let part = match self.chance.below(20) {
            0..8 => return order(&lines, Pay::Balance),
            8..12 => "ok",
            12 | 13 => "5xx",
            14 | 15 => "lost_applied",
            16 => "lost",
            17 => "slow",
            18 => "declined",
            _ => "insufficient",
        };
        order(&lines, Pay::Card(&payment_key(part)))
    }
}

#[tokio::test]
async fn whatever_was_acknowledged_survives_twenty_kills_and_every_order_ends() {
    let mut chance = Chance::new("kill");
    let mut shop = Shop::open(&[
        ("JANGBU_PAYMENT__TIMEOUT", "4s"),
        ("JANGBU_PAYMENT__DEADLINE", "6s"),
        ("JANGBU_LOG", "warn"),
    ])
    .await;
    let client = shop.client().clone();
    let (admin, seller, buyer) = (client.log_in(ADMIN).await, client.log_in(SELLER).await, client.log_in(BUYER).await);
    let scarce = client.new_product(&seller, 700, 20).await;
    let acknowledged = Arc::new(Mutex::new(Acknowledged::default()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = JoinSet::new();
    for _ in 0..CLIENTS {
        let (token, account) = client.new_buyer(&admin, 100_000).await;
        let worker = Worker {
            client: client.clone(),
            chance: chance.fork(),
            buyer: token,
            account,
            admin: admin.clone(),
            seller: seller.clone(),
            scarce: scarce.clone(),
            acknowledged: Arc::clone(&acknowledged),
            stop: Arc::clone(&stop),
        };
        workers.spawn(worker.work());
    }

    for _ in 0..KILLS {
        pause(100 + chance.below(700)).await;
        shop.kill().await;
        // Nobody hears anything now; what was heard before is in the files.
        is_recorded(shop.data(), &acknowledged);
        shop.start_again().await;
        is_answered_again(&client, &acknowledged, &mut chance).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(worker) = workers.join_next().await {
        worker.expect("no client panics");
    }
    is_recorded(shop.data(), &acknowledged);

    eventually("every order comes to its end", async || {
        invariants::read(shop.data()).unfinished().is_empty().then_some(())
    })
    .await;
    // With the provider's slow payments gone too, nothing moves any more but what is owed.
    shop.stop().await;
    shop.start_again().await;
    shop.agrees_with_the_provider().await;
    let log = invariants::read(shop.data());
    let stock = client.figures(&buyer, &[COFFEE, &scarce]).await.stock;
    for product in [COFFEE, &scarce] {
        assert_eq!(
            stock[product],
            (log.stocks[product].on_hand, log.stocks[product].reserved),
            "the views show what the log says"
        );
    }
    let log = shop.close().await;
    assert!(log.unfinished().is_empty());
    let placed = acknowledged.lock().expect("nobody panics with it").orders.len();
    println!(
        "kill: {placed} orders acknowledged, {} placed, {} confirmed, {} out of stock, {} declined, {} expired, {} cancelled, {} without balance",
        log.orders.len(),
        log.ended("order.confirmed"),
        log.ended("OUT_OF_STOCK"),
        log.ended("PAYMENT_DECLINED"),
        log.ended("PAYMENT_EXPIRED"),
        log.ended("CANCELLED_BY_BUYER"),
        log.ended("INSUFFICIENT_BALANCE"),
    );
    assert!(log.orders.len() >= placed && log.ended("order.confirmed") > 0);
}

/// Everything that was acknowledged is in the log, and the log is as it must be at any moment.
fn is_recorded(data: &Path, acknowledged: &Mutex<Acknowledged>) {
    let log = invariants::read(data);
    let acknowledged = acknowledged.lock().expect("nobody panics with it");
    let keys: HashSet<_> = log.events.iter().filter_map(invariants::Event::key).collect();
    let lost: Vec<_> = acknowledged
        .orders
        .iter()
        .map(|placed| &placed.order)
        .filter(|order| !log.orders.contains_key(*order))
        .collect();
    assert!(lost.is_empty(), "acknowledged orders are lost: {lost:?}");
    let lost: Vec<_> = acknowledged.changes.iter().filter(|key| !keys.contains(key.as_str())).collect();
    assert!(lost.is_empty(), "acknowledged deposits or goods are lost: {lost:?}");
}

/// A few requests of before, sent again, get the answer of before.
async fn is_answered_again(client: &Client, acknowledged: &Mutex<Acknowledged>, chance: &mut Chance) {
    for _ in 0..3 {
        let placed = {
            let acknowledged = acknowledged.lock().expect("nobody panics with it");
            let number = chance.below(acknowledged.orders.len().max(1) as u64);
            acknowledged.orders.get(usize::try_from(number).expect("small")).cloned()
        };
        let Some(placed) = placed else { return };
        let again = client
            .insist(&placed.buyer, "/api/v1/orders", &placed.key, &placed.body)
            .await
            .expect(202);
        assert!(again.replayed(), "{}", again.body);
        assert_eq!(again.order_id(), placed.order);
        assert_eq!(client.order(&placed.buyer, &placed.order).await.order_id(), placed.order);
    }
}
