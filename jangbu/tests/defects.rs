//! Defects of shops that we learnt from, shown not to be ours: each test is named after the number of its defect, and its comment says
//! what that shop does. Where a crash between two steps or a clock set by hand is needed, the test is in `engine/tests/defects.rs`.

mod shop;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Method;
use serde_json::{Value, json};
use shop::{
    ADMIN, Answer, BUYER, COFFEE, Client, Pay, SELLER, Shop, Token,
    client::{fresh_key, payment_key, won},
    eventually, invariants, order,
};
use tokio::{net::TcpListener, task::JoinSet};

const ORDERS: &str = "/api/v1/orders";
const SECRET: &str = "test_sk_of_this_shop";

/// A payment provider whose behaviour the payment key decides, in a way of its own that the shop knows nothing of.
#[derive(Default)]
struct Bank {
    payments: Mutex<HashMap<String, Payment>>,
    calls: Mutex<Vec<Call>>,
}

#[derive(Clone)]
struct Payment {
    order: String,
    amount: i64,
    cancelled: i64,
}

/// A call that it received.
#[derive(Clone, Debug)]
struct Call {
    method: String,
    path: String,
    authorization: String,
    idempotency_key: String,
}

impl Bank {
    async fn open() -> (Arc<Self>, String) {
        let bank = Arc::new(Self::default());
        let router = Router::new().fallback(Self::answer).with_state(Arc::clone(&bank));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        (bank, format!("http://{address}"))
    }

    /// The demo shop with this bank as its provider.
    async fn shop(address: &str, more: &[(&str, &str)]) -> Shop {
        let own = [
            ("JANGBU_GATEWAY", "toss"),
            ("JANGBU_TOSS__URL", address),
            ("JANGBU_TOSS__SECRET_KEY", SECRET),
        ];
        Shop::open(&[&own[..], more].concat()).await
    }

    async fn answer(State(bank): State<Arc<Self>>, request: Request) -> Response<Body> {
        let (head, body) = request.into_parts();
        let header = |name: &str| {
            let value = head.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let call = Call {
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            authorization: header("authorization"),
            idempotency_key: header("idempotency-key"),
        };
        let body = to_bytes(body, 10_000).await.expect("a body");
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let key = match call.path.rsplit('/').next() {
            Some("confirm") => body["paymentKey"].as_str().unwrap_or_default().to_owned(),
            Some("cancel") => call.path.rsplit('/').nth(1).unwrap_or_default().to_owned(),
            last => last.unwrap_or_default().to_owned(),
        };
        let before = bank.calls_of(&key, &call.method).len();
        bank.calls.lock().expect("nobody panics with it").push(call.clone());
        let (status, answer) = if call.path.ends_with("/confirm") {
            if key.starts_with("silent") {
                tokio::time::sleep(Duration::from_mins(1)).await;
            }
            bank.confirm(&key, &body, before)
        } else if call.path.ends_with("/cancel") {
            bank.cancel(&key, &body)
        } else {
            bank.status(&key, before)
        };
        Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .body(Body::from(answer.to_string()))
            .expect("an answer")
    }

    fn confirm(&self, key: &str, body: &Value, before: usize) -> (u16, Value) {
        let mut payments = self.payments.lock().expect("nobody panics with it");
        if payments.contains_key(key) {
            return (
                400,
                json!({ "code": "ALREADY_PROCESSED_PAYMENT", "message": "이미 처리된 결제 입니다." }),
            );
        }
        let asked = body["amount"].as_i64().expect("an amount");
        let payment = Payment {
            order: body["orderId"].as_str().expect("an order").to_owned(),
            amount: if key.starts_with("other_amount") { asked - 1_000 } else { asked },
            cancelled: 0,
        };
        payments.insert(key.to_owned(), payment.clone());
        // The money is taken, and the first answer says nothing of it.
        if before == 0 && (key.starts_with("half") || key.starts_with("other_amount")) {
            return (500, json!({ "code": "FAILED_INTERNAL_SYSTEM_PROCESSING", "message": "?" }));
        }
        (200, payment.shown(key))
    }

    fn status(&self, key: &str, before: usize) -> (u16, Value) {
        let payments = self.payments.lock().expect("nobody panics with it");
        match payments.get(key) {
            // Not found, then found.
            Some(payment) if before > 0 || !key.starts_with("half") => (200, payment.shown(key)),
            _ => (404, json!({ "code": "NOT_FOUND_PAYMENT", "message": "존재하지 않는 결제 입니다." })),
        }
    }

    fn cancel(&self, key: &str, body: &Value) -> (u16, Value) {
        let mut payments = self.payments.lock().expect("nobody panics with it");
        let payment = payments.get_mut(key).expect("a payment that was made");
        payment.cancelled += body["cancelAmount"].as_i64().expect("an amount");
        (200, payment.shown(key))
    }

    /// What it keeps of an order.
    fn net(&self, order: &str) -> i64 {
        let payments = self.payments.lock().expect("nobody panics with it");
        let of_order = payments.values().filter(|payment| payment.order == order);
        of_order.map(|payment| payment.amount - payment.cancelled).sum()
    }

    /// The calls with this method about a payment.
    fn calls_of(&self, key: &str, method: &str) -> Vec<Call> {
        let calls = self.calls.lock().expect("nobody panics with it");
        let all = calls.iter().filter(|call| call.method == method);
        all.filter(|call| call.path.ends_with("/confirm") || call.path.contains(key))
            .cloned()
            .collect()
    }
}

impl Payment {
    fn shown(&self, key: &str) -> Value {
        let cancels = if self.cancelled > 0 {
            json!([{ "cancelAmount": self.cancelled }])
        } else {
            Value::Null
        };
        json!({
            "paymentKey": key,
            "orderId": self.order,
            "status": if self.cancelled == self.amount { "CANCELED" } else { "DONE" },
            "totalAmount": self.amount,
            "currency": "KRW",
            "cancels": cancels,
        })
    }
}

/// A product of the seller with this name, price and stock.
async fn offer(client: &Client, seller: &Token, name: &str, price: i64, stock: &Value) -> String {
    let sku = format!("D-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
    let body = json!({ "sku": sku, "name": name, "price": won(price), "stock": stock });
    client.post(seller, "/api/v1/products", &body).await.expect(201).text("productId")
}

async fn pay(client: &Client, buyer: &Token, order: &str, key: &str, amount: i64) -> Answer {
    let body = json!({ "paymentKey": key, "amount": won(amount) });
    client.post(buyer, &format!("{ORDERS}/{order}/payment"), &body).await
}

async fn cancel(client: &Client, buyer: &Token, order: &str) -> Answer {
    let body = json!({ "reason": "changed my mind" });
    client.post(buyer, &format!("{ORDERS}/{order}/cancellation"), &body).await
}

fn count(outcomes: &[String], wanted: &str) -> usize {
    outcomes.iter().filter(|outcome| *outcome == wanted).count()
}

/// All orders at once; how each ended.
async fn race(client: &Client, buyer: &Token, orders: Vec<Value>) -> Vec<String> {
    let mut racing = JoinSet::new();
    for body in orders {
        let (client, buyer) = (client.clone(), buyer.clone());
        racing.spawn(async move { client.buy(&buyer, &body).await.outcome() });
    }
    racing.join_all().await
}

/// The provider approves and the service dies: the payment is marked as failed and the stock put back, and the money is never returned.
#[tokio::test(flavor = "multi_thread")]
async fn n03_whoever_was_charged_when_the_shop_died_has_the_goods_or_the_money() {
    let mut shop = Shop::open(&[]).await;
    let client = shop.client().clone();
    let buyer = client.log_in(BUYER).await;
    let mut orders = Vec::new();
    for _ in 0..4 {
        let body = order(&[(COFFEE, 1)], Pay::Card(&payment_key("lost_applied")));
        let order = client.place(&buyer, &body).await.order_id();
        client.ledger_is(&order, &[("CHARGE", 5_000)]).await;
        orders.push(order);
    }
    let (wanted, unwanted) = orders.split_at(2);
    for order in unwanted {
        cancel(&client, &buyer, order).await.expect(202);
    }
    shop.kill_and_start_again().await;
    for order in wanted {
        assert_eq!(client.ended(&buyer, order).await.outcome(), "CONFIRMED");
        client.ledger_is(order, &[("CHARGE", 5_000)]).await;
    }
    for order in unwanted {
        assert_eq!(client.ended(&buyer, order).await.outcome(), "CANCELLED CANCELLED_BY_BUYER");
        client.ledger_is(order, &[("CHARGE", 5_000), ("CANCEL", 5_000)]).await;
    }
    shop.agrees_with_the_provider().await;
    let log = shop.close().await;
    assert_eq!((log.stocks[COFFEE].on_hand, log.stocks[COFFEE].reserved), (998, 0));
}

/// The provider is called without an idempotency key, and that it has processed the payment already counts as a failure.
#[tokio::test(flavor = "multi_thread")]
async fn n04_a_payment_that_was_processed_already_is_a_success_when_its_amount_is_right() {
    let (bank, address) = Bank::open().await;
    let mut shop = Bank::shop(&address, &[]).await;
    let client = shop.client().clone();
    let buyer = client.log_in(BUYER).await;
    let bought = client.buy(&buyer, &order(&[(COFFEE, 1)], Pay::Card("half_1"))).await;
    assert_eq!(bought.outcome(), "CONFIRMED");
    assert_eq!(bank.net(&bought.order_id()), 5_000);
    let calls = bank.calls_of("half_1", "POST");
    assert!(calls.len() >= 2, "it was asked again: {calls:?}");
    assert!(!calls[0].idempotency_key.is_empty());
    assert!(
        calls.iter().all(|call| call.idempotency_key == calls[0].idempotency_key),
        "under one key: {calls:?}"
    );
    shop.stop().await;
    assert_eq!(invariants::read(shop.data()).times("payment.captured"), 1);
}

/// An expired payment key is answered with 204 as if all were well, the provider's secret stands in the code, and certain amounts and
/// names make production fail.
#[tokio::test(flavor = "multi_thread")]
async fn n07_no_amount_name_or_payment_key_makes_a_real_shop_fail_and_what_expired_is_said_to_be() {
    let (bank, address) = Bank::open().await;
    let shop = Bank::shop(&address, &[("JANGBU_PAYMENT__DEADLINE", "2s")]).await;
    let client = shop.client().clone();
    let (buyer, seller) = (client.log_in(BUYER).await, client.log_in(SELLER).await);
    for (name, price) in [("재고부족", 888), ("없는상품", 999), ("sim_declined_1", 777), ("fail", 1)] {
        let product = offer(&client, &seller, name, price, &json!({ "onHand": 5 })).await;
        let from_balance = client.buy(&buyer, &order(&[(&product, 1)], Pay::Balance)).await;
        assert_eq!(from_balance.outcome(), "CONFIRMED", "{name}");
        // Words of the simulator mean nothing to anybody else.
        for part in ["declined", "insufficient", "lost", "5xx"] {
            let by_card = client.buy(&buyer, &order(&[(&product, 1)], Pay::Card(&payment_key(part)))).await;
            assert_eq!(by_card.outcome(), "CONFIRMED", "{name} by {part}");
            assert_eq!(bank.net(&by_card.order_id()), price);
        }
    }
    let basic = format!("Basic {}", STANDARD.encode(format!("{SECRET}:")));
    let calls = bank.calls.lock().expect("nobody panics with it").clone();
    assert!(calls.iter().all(|call| call.authorization == basic), "the secret is the setting's");

    let forgotten = client.place(&buyer, &order(&[(COFFEE, 1)], Pay::CardLater)).await.order_id();
    assert_eq!(client.ended(&buyer, &forgotten).await.outcome(), "CANCELLED PAYMENT_EXPIRED");
    pay(&client, &buyer, &forgotten, "sim_ok_late", 5_000)
        .await
        .expect_problem(410, "payment-expired");
    assert_eq!(bank.net(&forgotten), 0);
}

/// Reservations never end, and placing an order waits for two other services.
#[tokio::test(flavor = "multi_thread")]
async fn n10_placing_waits_for_nobody_and_a_reservation_ends() {
    let (bank, address) = Bank::open().await;
    let settings = [("JANGBU_PAYMENT__TIMEOUT", "30s"), ("JANGBU_RESERVATION__TTL", "2s")];
    let shop = Bank::shop(&address, &settings).await;
    let client = shop.client().clone();
    let (buyer, seller) = (client.log_in(BUYER).await, client.log_in(SELLER).await);
    let begun = Instant::now();
    for number in 0..5 {
        let body = order(&[(COFFEE, 1)], Pay::Card(&format!("silent_{number}")));
        client.place(&buyer, &body).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "the provider is not waited for");
    eventually("the provider was asked", async || {
        (bank.calls.lock().expect("nobody panics with it").len() == 5).then_some(())
    })
    .await;

    let last = client.new_product(&seller, 1_000, 1).await;
    let forgotten = client.place(&buyer, &order(&[(&last, 1)], Pay::CardLater)).await.order_id();
    let too_late = client.buy(&buyer, &order(&[(&last, 1)], Pay::Balance)).await;
    assert_eq!(too_late.outcome(), "CANCELLED OUT_OF_STOCK");
    assert_eq!(client.ended(&buyer, &forgotten).await.outcome(), "CANCELLED RESERVATION_EXPIRED");
    let next = client.buy(&buyer, &order(&[(&last, 1)], Pay::Balance)).await;
    assert_eq!(next.outcome(), "CONFIRMED");
}

/// `quantity < stock` refuses the last unit, a check that fails takes the stock all the same, and nothing is locked.
#[tokio::test(flavor = "multi_thread")]
async fn n11_the_last_unit_is_sold_and_never_twice() {
    let shop = Shop::open(&[]).await;
    let client = shop.client().clone();
    let (buyer, seller) = (client.log_in(BUYER).await, client.log_in(SELLER).await);
    for contended in [false, true] {
        let product = client.new_product(&seller, 1_000, 3).await;
        let wants = |quantity| order(&[(&product, quantity)], Pay::Balance);
        let too_many = client.buy(&buyer, &wants(4)).await;
        assert_eq!(too_many.outcome(), "CANCELLED OUT_OF_STOCK");
        assert_eq!(client.figures(&buyer, &[&product]).await.stock[&product], (3, 0));
        let together = client.buy(&buyer, &wants(2)).await;
        assert_eq!(together.outcome(), "CONFIRMED");
        let last = vec![wants(1); if contended { 40 } else { 1 }];
        let outcomes = race(&client, &buyer, last).await;
        assert_eq!(count(&outcomes, "CONFIRMED"), 1);
        assert_eq!(count(&outcomes, "CANCELLED OUT_OF_STOCK"), outcomes.len() - 1);
        assert_eq!(client.buy(&buyer, &wants(1)).await.outcome(), "CANCELLED OUT_OF_STOCK");
    }
    let log = shop.close().await;
    assert_eq!(log.ended("order.confirmed"), 4);
}

/// What the provider says it took is not compared with what was asked for. (That a cancellation gives the money back, and that a buyer
/// pays the order's amount or nothing, is in `ways_back.rs`.)
#[tokio::test(flavor = "multi_thread")]
async fn n12_money_of_another_amount_confirms_no_order() {
    let (bank, address) = Bank::open().await;
    let mut shop = Bank::shop(&address, &[]).await;
    let client = shop.client().clone();
    let buyer = client.log_in(BUYER).await;
    let placed = client
        .place(&buyer, &order(&[(COFFEE, 1)], Pay::Card("other_amount_1")))
        .await
        .order_id();
    eventually("the provider has contradicted us", async || {
        (invariants::read(shop.data()).times("payment.contradicted") > 0).then_some(())
    })
    .await;
    assert_eq!(client.settled(&buyer, &placed).await.outcome(), "NEEDS_ATTENTION");
    assert!([0, 4_000].contains(&bank.net(&placed)), "nothing more is taken");
    // Every event says what it is.
    shop.stop().await;
    let log = invariants::read(shop.data());
    assert_eq!((log.times("payment.captured"), log.times("order.confirmed")), (0, 0));
    for event in &log.events {
        assert_eq!(event.payload["type"], event.name.as_str(), "{event:?}");
    }
}

/// Completing a payment twice takes the stock twice, and cancelling twice puts it back twice.
#[tokio::test(flavor = "multi_thread")]
async fn n14_paying_or_cancelling_twice_counts_once() {
    let shop = Shop::open(&[]).await;
    let client = shop.client().clone();
    let buyer = client.log_in(BUYER).await;
    let later = order(&[(COFFEE, 1)], Pay::CardLater);

    let paid = client.place(&buyer, &later).await.order_id();
    client.settled(&buyer, &paid).await.expect(200);
    let (key, card) = (fresh_key(), payment_key("ok"));
    let path = format!("{ORDERS}/{paid}/payment");
    let body = json!({ "paymentKey": card, "amount": won(5_000) });
    let first = client.insist(&buyer, &path, &key, &body).await.expect(202);
    let again = client.insist(&buyer, &path, &key, &body).await.expect(202);
    assert!(again.replayed() && again.body == first.body);
    assert_eq!(client.ended(&buyer, &paid).await.outcome(), "CONFIRMED");
    for card in [card, payment_key("ok")] {
        pay(&client, &buyer, &paid, &card, 5_000)
            .await
            .expect_problem(409, "order-not-awaiting-payment");
    }
    cancel(&client, &buyer, &paid).await.expect_problem(409, "order-not-cancellable");
    client.ledger_is(&paid, &[("CHARGE", 5_000)]).await;

    let unwanted = client.place(&buyer, &later).await.order_id();
    client.settled(&buyer, &unwanted).await.expect(200);
    let mut cancelling = JoinSet::new();
    for _ in 0..10 {
        let (client, buyer, unwanted) = (client.clone(), buyer.clone(), unwanted.clone());
        cancelling.spawn(async move { cancel(&client, &buyer, &unwanted).await.expect(202) });
    }
    cancelling.join_all().await;
    assert_eq!(client.ended(&buyer, &unwanted).await.outcome(), "CANCELLED CANCELLED_BY_BUYER");
    cancel(&client, &buyer, &unwanted).await.expect(202);
    client.shown(&buyer, &unwanted, "CANCELLED CANCELLED_BY_BUYER").await;
    assert_eq!(client.figures_at_rest(&buyer, &[COFFEE]).await.stock[COFFEE], (999, 0));
    let log = shop.close().await;
    assert_eq!(log.stock_story(COFFEE, &paid).last(), Some(&"inventory.committed"));
    assert_eq!(log.stock_story(COFFEE, &unwanted), ["inventory.reserved", "inventory.released"]);
}

/// All reservations of a product share one time to live, which each new one prolongs; when it is over its stock is lost, and a copy made
/// anew forgets them all.
#[tokio::test(flavor = "multi_thread")]
async fn n15_each_reservation_has_its_own_end_and_frees_its_own_goods_also_across_a_crash() {
    const TTL: i64 = 8_000_000;
    let mut shop = Shop::open(&[("JANGBU_RESERVATION__TTL", "8s")]).await;
    let client = shop.client().clone();
    let (buyer, seller) = (client.log_in(BUYER).await, client.log_in(SELLER).await);
    let product = client.new_product(&seller, 1_000, 2).await;
    let later = order(&[(&product, 1)], Pay::CardLater);
    let first = client.place(&buyer, &later).await.order_id();
    shop::client::pause(4_000).await;
    let second = client.place(&buyer, &later).await.order_id();
    shop.kill_and_start_again().await;
    // Both are promised, whatever was in memory.
    let nothing_left = client.buy(&buyer, &order(&[(&product, 1)], Pay::Balance)).await;
    assert_eq!(nothing_left.outcome(), "CANCELLED OUT_OF_STOCK");
    assert_eq!(client.ended(&buyer, &first).await.outcome(), "CANCELLED RESERVATION_EXPIRED");
    // One is free, and one is not.
    let outcomes = race(&client, &buyer, vec![order(&[(&product, 1)], Pay::Balance); 2]).await;
    assert_eq!(client.order(&buyer, &second).await.outcome(), "AWAITING_PAYMENT");
    assert_eq!((count(&outcomes, "CONFIRMED"), count(&outcomes, "CANCELLED OUT_OF_STOCK")), (1, 1));
    assert_eq!(client.ended(&buyer, &second).await.outcome(), "CANCELLED RESERVATION_EXPIRED");
    let freed = client.buy(&buyer, &order(&[(&product, 1)], Pay::Balance)).await;
    assert_eq!(freed.outcome(), "CONFIRMED");

    let log = shop.close().await;
    let at = |order: &str, name: &str| {
        let event = log
            .events
            .iter()
            .find(|event| event.name == name && event.payload["order"] == order);
        event.expect("it happened").recorded_at
    };
    for order in [&first, &second] {
        let lived = at(order, "inventory.expired") - at(order, "inventory.reserved");
        // It counts from when the request came in, a moment before; and is not prolonged by the other's.
        assert!(
            (TTL - 100_000..TTL + 3_900_000).contains(&lived),
            "a reservation lived for {lived} us"
        );
    }
    assert_eq!((log.stocks[&product].on_hand, log.stocks[&product].sold), (0, 2));
}

/// Confirmed stock is taken from what is reserved twice, and a cancellation is told twice: after a while nothing adds up.
#[tokio::test(flavor = "multi_thread")]
async fn n16_after_every_kind_of_end_the_books_add_up_to_the_unit() {
    let shop = Shop::open(&[("JANGBU_PAYMENT__DEADLINE", "3s"), ("JANGBU_PAYMENT__TIMEOUT", "1s")]).await;
    let client = shop.client().clone();
    let (buyer, seller) = (client.log_in(BUYER).await, client.log_in(SELLER).await);
    let products = [
        client.new_product(&seller, 1_000, 20).await,
        client.new_product(&seller, 2_000, 30).await,
    ];
    // One of each end that needs goods, while there are some; in the rush nobody knows who gets them.
    let one = [(products[1].as_str(), 1)];
    let unwanted = client.place(&buyer, &order(&one, Pay::CardLater)).await.order_id();
    assert_eq!(cancel(&client, &buyer, &unwanted).await.status, 202);
    let forgotten = client.place(&buyer, &order(&one, Pay::CardLater)).await.order_id();
    let declined = client
        .buy(&buyer, &order(&one, Pay::Card(&payment_key("declined"))))
        .await
        .outcome();
    let mut working = JoinSet::new();
    for number in 0..64_u32 {
        let (client, buyer, products) = (client.clone(), buyer.clone(), products.clone());
        working.spawn(async move {
            let lines = [(products[0].as_str(), 1), (products[1].as_str(), 1 + number % 2)];
            let lines = &lines[usize::from(number % 3 == 0)..];
            let part = ["ok", "declined", "lost_applied", "lost", "5xx"][number as usize % 5];
            let card = payment_key(part);
            let how = match number % 4 {
                0 => Pay::Balance,
                1 => Pay::CardLater,
                _ => Pay::Card(&card),
            };
            let order = client.place(&buyer, &order(lines, how)).await.order_id();
            if number % 5 == 0 {
                let twice = tokio::join!(cancel(&client, &buyer, &order), cancel(&client, &buyer, &order));
                assert!([twice.0, twice.1].iter().all(|answer| [202, 409].contains(&answer.status)));
            }
            client.ended(&buyer, &order).await.outcome()
        });
    }
    let mut outcomes = working.join_all().await;
    outcomes.push(declined);
    for order in [&unwanted, &forgotten] {
        outcomes.push(client.ended(&buyer, order).await.outcome());
    }
    for wanted in [
        "CONFIRMED",
        "CANCELLED OUT_OF_STOCK",
        "CANCELLED PAYMENT_DECLINED",
        "CANCELLED PAYMENT_EXPIRED",
        "CANCELLED CANCELLED_BY_BUYER",
    ] {
        assert!(count(&outcomes, wanted) > 0, "none is {wanted}: {outcomes:?}");
    }
    shop.agrees_with_the_provider().await;
    let names: Vec<_> = products.iter().map(String::as_str).collect();
    let shown = client.figures_at_rest(&buyer, &names).await.stock;
    let log = shop.close().await;
    let of_products = |name: &str| {
        let named = log
            .events
            .iter()
            .filter(|event| event.name == name && products.contains(&event.stream));
        named.count()
    };
    let ends = ["inventory.committed", "inventory.released", "inventory.expired"].map(of_products);
    assert_eq!(
        of_products("inventory.reserved"),
        ends.iter().sum::<usize>(),
        "each reservation ends once"
    );
    for product in &products {
        let stock = &log.stocks[product];
        assert_eq!(
            (stock.reserved, stock.received),
            (0, stock.on_hand + stock.sold),
            "no drift: {stock:?}"
        );
        assert_eq!(shown[product], (stock.on_hand, 0), "the views show the same");
    }
}

/// Unlimited stock is the largest number and is counted down from there, too little stock is an error of the server, and the table of
/// allowed transitions is never asked.
#[tokio::test(flavor = "multi_thread")]
async fn n18_unlimited_is_without_a_limit_and_what_is_not_allowed_is_refused_by_name() {
    const ORDERS_BEYOND_31_BITS: usize = 2_150;
    let shop = Shop::open(&[]).await;
    let client = shop.client().clone();
    let (admin, seller) = (client.log_in(ADMIN).await, client.log_in(SELLER).await);
    let (buyer, _) = client.new_buyer(&admin, 10_000_000_000).await;
    let endless = offer(&client, &seller, "Endless", 1, &json!({ "unlimited": true })).await;
    let mut racing = JoinSet::new();
    for worker in 0..20 {
        let (client, buyer, endless) = (client.clone(), buyer.clone(), endless.clone());
        racing.spawn(async move {
            let body = order(&[(&endless, 1_000_000)], Pay::Balance);
            for _ in (worker..ORDERS_BEYOND_31_BITS).step_by(20) {
                assert_eq!(client.buy(&buyer, &body).await.outcome(), "CONFIRMED");
            }
        });
    }
    racing.join_all().await;
    let question = "query ($id: ID!) { inventory(productId: $id) { unlimited onHand reserved } }";
    let shown = client.ask(&buyer, question, &json!({ "id": endless })).await;
    assert_eq!(
        shown["inventory"],
        json!({ "unlimited": true, "onHand": 0, "reserved": 0 }),
        "nothing is counted down"
    );

    // Too little of something is an answer, not an accident.
    let few = client.new_product(&seller, 1_000, 1).await;
    let sold_out = client.buy(&buyer, &order(&[(&few, 2)], Pay::Balance)).await;
    assert_eq!(sold_out.outcome(), "CANCELLED OUT_OF_STOCK");
    let write_off = json!({ "delta": -2, "reason": "counted" });
    let path = format!("/api/v1/products/{few}/stock/adjustments");
    client.post(&seller, &path, &write_off).await.expect_some_problem(&[409]);

    // What an order is decides what may be asked of it.
    let confirmed = client.buy(&buyer, &order(&[(&few, 1)], Pay::Balance)).await.order_id();
    let declined = order(&[(COFFEE, 1)], Pay::Card(&payment_key("declined")));
    let declined = client.buy(&buyer, &declined).await.order_id();
    for order in [&confirmed, &sold_out.order_id(), &declined] {
        let before = client.order(&buyer, order).await.body;
        pay(
            &client,
            &buyer,
            order,
            &payment_key("ok"),
            before["total"]["amount"].as_i64().expect("a total"),
        )
        .await
        .expect_problem(409, "order-not-awaiting-payment");
        cancel(&client, &buyer, order).await.expect_problem(409, "order-not-cancellable");
        assert_eq!(client.order(&buyer, order).await.body, before, "nothing has changed");
    }
    shop.close().await;
}

/// A cold cache is filled over what others have taken meanwhile, and writing the cache back sells the stock once more. (Fifty units to
/// more buyers, warm and right after a crash, are in `races.rs`.)
#[tokio::test(flavor = "multi_thread")]
async fn n19_what_is_sold_out_stays_so_when_all_that_is_derived_is_filled_anew() {
    const UNITS: usize = 50;
    let mut shop = Shop::open(&[]).await;
    let client = shop.client().clone();
    let (buyer, seller) = (client.log_in(BUYER).await, client.log_in(SELLER).await);
    let product = client.new_product(&seller, 1_000, 50).await;
    let mut sold = 0;
    for (buyers, expected) in [(20, 20), (60, UNITS - 20), (20, 0)] {
        // Cold, and with nothing left of what was derived.
        shop.kill().await;
        shop.forget_views();
        shop.start_again().await;
        let outcomes = race(&client, &buyer, vec![order(&[(&product, 1)], Pay::Balance); buyers]).await;
        assert_eq!(count(&outcomes, "CONFIRMED"), expected);
        assert_eq!(count(&outcomes, "CANCELLED OUT_OF_STOCK"), buyers - expected);
        sold += expected;
        eventually("the views show what is left", async || {
            let shown = client.figures(&buyer, &[&product]).await.stock[&product];
            (shown == (i64::try_from(UNITS - sold).expect("small"), 0)).then_some(())
        })
        .await;
    }
    let log = shop.close().await;
    assert_eq!((log.stocks[&product].on_hand, log.stocks[&product].sold), (0, 50));
}

/// That an order is paid is told before it is written, so that who hears of it finds the old status and drops it; and each start adds
/// the examples once more.
#[tokio::test(flavor = "multi_thread")]
async fn n20_whoever_hears_of_a_change_finds_it_and_the_demo_is_loaded_once() {
    let mut shop = Shop::open(&[]).await;
    let client = shop.client().clone();
    let buyer = client.log_in(BUYER).await;
    let mut hearing = JoinSet::new();
    for number in 0..60 {
        let (client, buyer) = (client.clone(), buyer.clone());
        hearing.spawn(async move {
            let card = payment_key("ok");
            let pay = if number % 2 == 0 { Pay::Balance } else { Pay::Card(&card) };
            let body = order(&[(COFFEE, 1)], pay);
            let request = client.command(&buyer, ORDERS, &fresh_key(), &body).header("prefer", "wait=30");
            let told = Client::send(request).await.expect("the shop answers").expect(200);
            assert_eq!(told.outcome(), "CONFIRMED");
            let order = told.order_id();
            assert_eq!(client.order(&buyer, &order).await.outcome(), "CONFIRMED");
            let token = told.headers["consistency-token"].clone();
            let question = json!({ "query": "query ($id: ID!) { order(id: $id) { status } }", "variables": { "id": order } });
            let request = client.request(Method::POST, "/graphql").bearer_auth(&buyer.0);
            let request = request.header("consistency-token", token).json(&question);
            let shown = Client::send(request).await.expect("the shop answers").expect(200).body;
            assert_eq!(shown["data"]["order"]["status"], "CONFIRMED", "{shown}");
        });
    }
    hearing.join_all().await;
    for _ in 0..2 {
        shop.kill_and_start_again().await;
    }
    let listed = client
        .ask(&buyer, "{ products(first: 50) { edges { node { sku } } } }", &json!({}))
        .await;
    assert_eq!(listed["products"]["edges"].as_array().map(Vec::len), Some(6));
    let log = shop.close().await;
    assert_eq!(
        (
            log.times("product.created"),
            log.times("account.opened"),
            log.times("wallet.deposited")
        ),
        (6, 3, 1)
    );
}
