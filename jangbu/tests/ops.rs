//! Orders that need a person, in the real binary: the provider takes a payment, or does not, and then says nothing any more; or a step
//! cannot be done, because a stock cannot be read.

mod shop;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    extract::Request,
    http::{Method, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use payment_gateway_simulator::Simulator;
use rusqlite::Connection;
use serde_json::{Value, json};
use shop::{
    ADMIN, Answer, BUYER, COFFEE, Client, Pay, Shop, Token,
    client::{fresh_key, payment_key},
    eventually, invariants, order,
};

/// Two coffees.
const TOTAL: i64 = 10_000;

/// Lets an operator speak to the provider by hand, when the shop cannot reach it.
const BY_HAND: &str = "x-by-hand";

/// The simulated provider in this process: it takes payments, and may be silent about what became of them.
struct Provider {
    url: String,
    silent: Arc<AtomicBool>,
}

impl Provider {
    /// With its ledger where the shop's own would be.
    async fn start(data: &Path) -> Self {
        std::fs::create_dir_all(data).expect("a directory");
        let simulator = Simulator::open(&data.join("simulator.db")).expect("a ledger");
        let silent = Arc::new(AtomicBool::new(true));
        let flag = Arc::clone(&silent);
        let hush = move |request: Request, next: Next| {
            let asked = request.method() == Method::GET || request.uri().path().ends_with("/cancel");
            let by_hand = request.headers().contains_key(BY_HAND);
            let silent = asked && !by_hand && flag.load(Ordering::Relaxed);
            async move {
                if silent {
                    StatusCode::SERVICE_UNAVAILABLE.into_response()
                } else {
                    let answer: Response = next.run(request).await;
                    answer
                }
            }
        };
        let router = simulator.router().layer(middleware::from_fn(hush));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        // It ends with the test's runtime.
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, silent }
    }

    fn speaks(&self) {
        self.silent.store(false, Ordering::Relaxed);
    }

    /// An operator gives the money back on the provider's own pages.
    async fn give_back_by_hand(&self, payment_key: &str) {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let request = client.post(format!("{}/v1/payments/{payment_key}/cancel", self.url));
        let request = request.basic_auth("test_sk_jangbu", Some("")).header(BY_HAND, "yes");
        let answer = Client::send(request.json(&json!({ "cancelReason": "by hand" }))).await;
        answer.expect("the provider answers").expect(200);
    }
}

/// The first event of the coffee's stock, which nobody can read. The shop is down while it becomes so, and while it is put right.
struct Unreadable {
    log: PathBuf,
    payload: String,
}

impl Unreadable {
    fn becomes(data: &Path) -> Self {
        let log = data.join("log.db");
        let first = "SELECT payload FROM events WHERE aggregate_type = 'inventory' AND aggregate_id = ?1 AND sequence = 1";
        let connection = Connection::open(&log).expect("the log");
        let payload = connection.query_row(first, [COFFEE], |row| row.get(0)).expect("the event");
        connection.close().expect("it is closed");
        let unreadable = Self { log, payload };
        unreadable.write("[]");
        unreadable
    }

    fn put_right(self) {
        self.write(&self.payload);
    }

    fn write(&self, payload: &str) {
        const GUARD: &str = "events_are_not_updated";
        let connection = Connection::open(&self.log).expect("the log");
        let guard: String = connection
            .query_row("SELECT sql FROM sqlite_schema WHERE name = ?1", [GUARD], |row| row.get(0))
            .expect("the trigger");
        connection.execute_batch(&format!("DROP TRIGGER {GUARD}")).expect("it is dropped");
        let update = "UPDATE events SET payload = ?1 WHERE aggregate_type = 'inventory' AND aggregate_id = ?2 AND sequence = 1";
        assert_eq!(connection.execute(update, [payload, COFFEE]).expect("it is changed"), 1);
        connection.execute_batch(&guard).expect("it is there again");
        connection.close().expect("it is closed");
    }
}

/// A shop with an order of two coffees that needs a person.
struct Scene {
    shop: Shop,
    provider: Provider,
    admin: Token,
    buyer: Token,
    order: String,
    payment_key: String,
}

impl Scene {
    /// The order is paid under a key that plays this part; nobody says what became of it.
    async fn stuck(part: &str) -> Self {
        let scene = Self::pending(part, "2s").await;
        assert_eq!(scene.ended().await, "NEEDS_ATTENTION");
        scene
    }

    /// The same, as long as nobody is asked yet.
    async fn pending(part: &str, stuck_after: &str) -> Self {
        Self::pending_with(part, stuck_after, &[]).await
    }

    async fn pending_with(part: &str, stuck_after: &str, more: &[(&str, &str)]) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let data = scratch.path().join("data");
        let provider = Provider::start(&data).await;
        let settings = [
            ("JANGBU_TOSS__URL", provider.url.as_str()),
            ("JANGBU_PAYMENT__TIMEOUT", "300ms"),
            ("JANGBU_PAYMENT__STUCK_AFTER", stuck_after),
        ];
        let shop = Shop::open_in(scratch, data, &[&settings, more].concat()).await;
        let (buyer, admin) = (shop.client().log_in(BUYER).await, shop.client().log_in(ADMIN).await);
        let payment_key = payment_key(part);
        let body = order(&[(COFFEE, 2)], Pay::Card(&payment_key));
        let order = shop.client().place(&buyer, &body).await.order_id();
        Self {
            shop,
            provider,
            admin,
            buyer,
            order,
            payment_key,
        }
    }

    fn client(&self) -> &Client {
        self.shop.client()
    }

    /// How the order stands once it is paid, has come to nothing, or needs a person.
    async fn ended(&self) -> String {
        self.client().ended(&self.buyer, &self.order).await.outcome()
    }

    async fn operate(&self, action: &str, body: &Value) -> Answer {
        let path = format!("/api/v1/ops/processes/{}/{action}", self.order);
        self.client().post(&self.admin, &path, body).await
    }

    async fn comes_to(&self, outcome: &str) {
        eventually(&format!("the order is {outcome}"), async || {
            let now = self.client().order(&self.buyer, &self.order).await.outcome();
            (now == outcome).then_some(())
        })
        .await;
        self.client().shown(&self.buyer, &self.order, outcome).await;
    }

    /// The orders that are listed, once this one is, or is not any more.
    async fn listed(&self, wanted: bool) -> Value {
        eventually("the list shows how it is", async || {
            let answer = self.client().get(&self.admin, "/api/v1/ops/processes?stuck=true").await.expect(200);
            let items = answer.body["items"].as_array().expect("items").clone();
            (items.iter().any(|item| item["orderId"] == self.order.as_str()) == wanted).then(|| items.into())
        })
        .await
    }

    /// What is set aside.
    async fn parked(&self) -> Vec<Value> {
        let answer = self.client().get(&self.admin, "/api/v1/ops/parked").await.expect(200);
        assert_eq!(answer.body["more"], json!(false));
        answer.body["items"].as_array().expect("items").clone()
    }

    /// Decides what becomes of something that is set aside.
    async fn unpark(&self, parked: &Value, action: &str) -> Answer {
        let id = parked["parkedId"].as_str().expect("an id");
        self.client()
            .post(&self.admin, &format!("/api/v1/ops/parked/{id}/{action}"), &json!({}))
            .await
    }

    /// Ends the shop: everything holds, and the provider has taken and given back this much.
    async fn ends_with(self, charged: i64, cancelled: i64, stock: (i64, i64)) -> invariants::Log {
        assert_eq!(self.listed(false).await, json!([]));
        self.shop.agrees_with_the_provider().await;
        let ledger = invariants::provider(self.shop.data());
        let order = self.order.parse::<uuid::Uuid>().expect("an id");
        let provided = ledger.get(&order).map(|provided| (provided.charged, provided.cancelled));
        assert_eq!(provided.unwrap_or_default(), (charged, cancelled));
        let log = self.shop.close().await;
        assert_eq!((log.stocks[COFFEE].on_hand, log.stocks[COFFEE].reserved), stock);
        assert!(log.unfinished().is_empty());
        log
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_provider_stays_silent_is_listed_and_goes_on_by_itself_when_it_answers() {
    let scene = Scene::stuck("lost_applied").await;
    let items = scene.listed(true).await;
    assert_eq!(items.as_array().map(Vec::len), Some(1));
    assert_eq!(items[0]["actions"], json!(["resume", "compensate", "resolve"]));
    assert_eq!((&items[0]["stuck"], &items[0]["paymentStatus"]), (&json!(true), &json!("UNKNOWN")));
    assert!(
        items[0]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("no clear answer since")),
        "{items}"
    );
    let query = "query ($id: ID!) { order(id: $id) { explain { status waitingFor next } } }";
    let told = scene.client().ask(&scene.buyer, query, &json!({ "id": scene.order })).await;
    let told = &told["order"]["explain"];
    assert_eq!(told["status"], "NEEDS_ATTENTION");
    assert!(told["waitingFor"].is_string() && told["next"].is_string(), "{told}");
    scene.provider.speaks();
    scene.comes_to("CONFIRMED").await;
    let log = scene.ends_with(TOTAL, 0, (998, 0)).await;
    assert_eq!((log.times("order.attention_needed"), log.times("order.resumed")), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn resumed_an_order_asks_again_and_needs_a_person_again_until_the_provider_answers() {
    let scene = Scene::stuck("lost_applied").await;
    let resumed = scene.operate("resume", &json!({})).await.expect(202);
    assert_eq!(resumed.outcome(), "PAYMENT_PENDING");
    assert_eq!(scene.ended().await, "NEEDS_ATTENTION");
    scene.provider.speaks();
    // The next question of the schedule may be quicker: then nobody is needed any more.
    let again = scene.operate("resume", &json!({})).await;
    assert!(again.status == 202 || again.body["code"] == "order-not-stuck", "{}", again.body);
    scene.comes_to("CONFIRMED").await;
    let log = scene.ends_with(TOTAL, 0, (998, 0)).await;
    assert_eq!(log.times("order.attention_needed"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn compensated_an_order_gives_back_what_was_taken_as_soon_as_that_is_known() {
    let scene = Scene::stuck("lost_applied").await;
    let answer = scene
        .operate("compensate", &json!({ "reason": "Private Name called" }))
        .await
        .expect(202);
    assert_eq!(answer.outcome(), "CANCELLING");
    scene.provider.speaks();
    scene.comes_to("CANCELLED CANCELLED_BY_SHOP").await;
    scene.ends_with(TOTAL, TOTAL, (1_000, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compensated_an_order_that_was_not_charged_takes_no_money() {
    let scene = Scene::stuck("lost").await;
    scene
        .operate("compensate", &json!({ "reason": "nobody wants it" }))
        .await
        .expect(202);
    scene.provider.speaks();
    scene.comes_to("CANCELLED CANCELLED_BY_SHOP").await;
    scene.ends_with(0, 0, (1_000, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_a_person_found_charged_is_confirmed() {
    let scene = Scene::stuck("lost_applied").await;
    let found = json!({ "outcome": "CHARGED", "reason": "it is in the provider's books" });
    scene.operate("resolve", &found).await.expect(202);
    scene.comes_to("CONFIRMED").await;
    scene.operate("resolve", &found).await.expect_problem(409, "order-not-stuck");
    scene.ends_with(TOTAL, 0, (998, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_a_person_found_not_charged_is_cancelled() {
    let scene = Scene::stuck("lost").await;
    let found = json!({ "outcome": "NOT_CHARGED", "reason": "it is not in the provider's books" });
    scene.operate("resolve", &found).await.expect(202);
    scene.comes_to("CANCELLED PAYMENT_DECLINED").await;
    scene.ends_with(0, 0, (1_000, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_money_a_person_gave_back_is_cancelled() {
    let scene = Scene::stuck("lost_applied").await;
    scene.provider.give_back_by_hand(&scene.payment_key).await;
    let found = json!({ "outcome": "REFUNDED", "reason": "given back by hand" });
    scene.operate("resolve", &found).await.expect(202);
    scene.comes_to("CANCELLED CANCELLED_BY_SHOP").await;
    scene.ends_with(TOTAL, TOTAL, (1_000, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_needs_a_person_still_does_after_a_crash() {
    let mut scene = Scene::stuck("lost_applied").await;
    scene.shop.kill_and_start_again().await;
    scene.listed(true).await;
    assert_eq!(scene.ended().await, "NEEDS_ATTENTION");
    let found = json!({ "outcome": "CHARGED", "reason": "it is in the provider's books" });
    scene.operate("resolve", &found).await.expect(202);
    scene.comes_to("CONFIRMED").await;
    scene.ends_with(TOTAL, 0, (998, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_aside_is_done_when_an_operator_says_so_and_what_it_needs_can_be_read_again() {
    // In one shard, so that the request itself meets the stock that cannot be read.
    let mut scene = Scene::pending_with("lost_applied", "1h", &[("JANGBU_SHARDS", "1")]).await;
    scene.comes_to("PAYMENT_PENDING").await;
    scene.shop.stop().await;
    let stock = Unreadable::becomes(scene.shop.data());
    scene.shop.start_again().await;
    // A request that meets it is set aside at once: its sender is told, and can send it again.
    let (key, coffee) = (fresh_key(), order(&[(COFFEE, 1)], Pay::Balance));
    let sent = |scene: &Scene| scene.client().command(&scene.buyer, "/api/v1/orders", &key, &coffee);
    let refused = Client::send(sent(&scene)).await.expect("the shop answers");
    refused.expect_problem(500, "set-aside");
    // The order's own step is tried again for a good minute first.
    scene.provider.speaks();
    eventually("the step is tried for the last time", async || {
        let said = scene.shop.output();
        (said.matches("an input cannot be processed and is tried again").count() == 3).then_some(())
    })
    .await;
    assert_eq!(scene.parked().await.len(), 1, "the request alone");
    assert_eq!(scene.ended().await, "NEEDS_ATTENTION");
    assert_eq!(scene.listed(true).await[0]["orderId"], scene.order.as_str());
    let parked = scene.parked().await;
    assert_eq!(parked.len(), 2, "a request and a step: {parked:?}");
    let from = |from: &str| parked.iter().find(|item| item["from"] == from).expect("it is listed");
    let (request, step) = (from("REQUEST"), from("PROCESS"));
    assert_eq!(
        (&request["actions"], &step["actions"]),
        (&json!(["drop"]), &json!(["retry", "drop"]))
    );
    assert_eq!((&step["orderId"], &step["aggregateId"]), (&json!(scene.order), &json!(COFFEE)));
    scene.unpark(request, "retry").await.expect_problem(409, "parked-request");
    scene.unpark(step, "retry").await.expect_problem(409, "parked-again");
    assert_eq!(scene.parked().await, parked, "it is still there");
    // Put right, it is done, once.
    scene.shop.stop().await;
    stock.put_right();
    scene.shop.start_again().await;
    assert_eq!(scene.parked().await, parked, "a start alone does nothing about it");
    assert_eq!(scene.ended().await, "NEEDS_ATTENTION");
    let done = scene.unpark(step, "retry").await.expect(200);
    assert_eq!(done.text("outcome"), "RETRIED");
    scene.comes_to("CONFIRMED").await;
    let again = scene.unpark(step, "retry").await.expect(200);
    assert_eq!(again.body, done.body, "as if the first answer had been lost");
    scene.unpark(step, "drop").await.expect_problem(409, "parked-ended");
    // So is the request, by its sender.
    let again = Client::send(sent(&scene)).await.expect("the shop answers").expect(202);
    assert_eq!(scene.client().settled(&scene.buyer, &again.order_id()).await.outcome(), "CONFIRMED");
    let dropped = scene.unpark(request, "drop").await.expect(200);
    assert_eq!(dropped.text("outcome"), "DROPPED");
    assert_eq!(scene.parked().await, Vec::<Value>::new());
    let log = scene.ends_with(TOTAL, 0, (997, 0)).await;
    assert_eq!((log.times("order.attention_needed"), log.times("order.attention_ended")), (1, 1));
}
