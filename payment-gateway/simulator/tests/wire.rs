//! The simulator as the engine meets it: through the Toss client, over a real loopback listener.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use payment_gateway::{Cancellation, CancellationOutcome, Charge, ChargeOutcome, PaymentGateway, StatusOutcome, StatusQuery};
use payment_gateway_simulator::{EntryKind, LedgerPage, Simulator, SimulatorError, SimulatorSettings};
use payment_gateway_toss::{TossGateway, TossSettings};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

const ORDER: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
const PRICE: i64 = 15_000;

/// A simulator behind a listener, stopped with the test's runtime.
struct Provider {
    simulator: Simulator,
    address: SocketAddr,
    server: JoinHandle<std::io::Result<()>>,
    folder: tempfile::TempDir,
}

impl Provider {
    async fn start() -> Self {
        let settings = SimulatorSettings {
            slow: Duration::from_millis(200),
            ..SimulatorSettings::default()
        };
        Self::start_with(tempfile::tempdir().expect("a folder"), settings).await
    }

    async fn start_with(folder: tempfile::TempDir, settings: SimulatorSettings) -> Self {
        let simulator = Simulator::open_with(&folder.path().join("simulator.db"), settings).expect("a ledger");
        // As the binary mounts it.
        let router = axum::Router::new().nest("/simulator", simulator.router());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            simulator,
            address,
            server,
            folder,
        }
    }

    async fn restart(self) -> Self {
        self.server.abort();
        let Self {
            simulator, folder, server, ..
        } = self;
        assert!(server.await.is_err(), "the server was stopped");
        drop(simulator);
        Self::start_with(folder, SimulatorSettings::default()).await
    }

    fn url(&self) -> String {
        format!("http://{}/simulator", self.address)
    }

    fn gateway(&self) -> TossGateway {
        self.gateway_with(Duration::from_secs(20))
    }

    fn gateway_with(&self, timeout: Duration) -> TossGateway {
        TossGateway::new(TossSettings {
            url: self.url(),
            secret_key: "test_sk".to_owned().into(),
            timeout,
        })
        .expect("the settings are right")
    }

    async fn ledger(&self) -> LedgerPage {
        self.simulator.entries_after(0, 1000, None).await.expect("a page")
    }

    async fn net(&self) -> i64 {
        self.simulator.net(ORDER).await.expect("a sum")
    }

    /// A raw call with authorization: status and body.
    async fn post(&self, path: &str, idempotency_key: &str, body: &Value) -> (u16, Value) {
        let request = Client::new()
            .post(format!("{}{path}", self.url()))
            .basic_auth("sk", Some(""))
            .json(body);
        let request = if idempotency_key.is_empty() {
            request
        } else {
            request.header("idempotency-key", idempotency_key)
        };
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let request = Client::new().get(format!("{}{path}", self.url())).basic_auth("sk", Some(""));
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }
}

fn charge(payment_key: &str, idempotency_key: &str) -> Charge {
    Charge {
        payment_key: payment_key.into(),
        order_reference: ORDER.into(),
        amount: PRICE,
        currency: "KRW".into(),
        idempotency_key: idempotency_key.into(),
    }
}

fn query(payment_key: &str) -> StatusQuery {
    StatusQuery {
        payment_key: payment_key.into(),
        order_reference: ORDER.into(),
        currency: "KRW".into(),
    }
}

fn cancellation(payment_key: &str, amount: i64, idempotency_key: &str) -> Cancellation {
    Cancellation {
        payment_key: payment_key.into(),
        reason: "재고 부족".into(),
        amount,
        currency: "KRW".into(),
        idempotency_key: idempotency_key.into(),
    }
}

fn charged() -> StatusOutcome {
    StatusOutcome::Charged {
        amount: PRICE,
        order_reference: ORDER.into(),
    }
}

fn not_charged(status: &str) -> StatusOutcome {
    StatusOutcome::NotCharged { status: status.into() }
}

fn code(outcome: ChargeOutcome) -> String {
    match outcome {
        ChargeOutcome::Declined { code, .. } => code,
        outcome => format!("{outcome:?}"),
    }
}

#[tokio::test]
async fn an_approved_payment_is_charged_once_and_can_be_given_back() {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    assert_eq!(gateway.status(query("sim_ok_1")).await, not_charged("IN_PROGRESS"));
    assert_eq!(
        gateway.charge(charge("sim_ok_1", "a1")).await,
        ChargeOutcome::Charged { amount: PRICE }
    );
    assert_eq!(
        gateway.charge(charge("sim_ok_1", "a1")).await,
        ChargeOutcome::Charged { amount: PRICE }
    );
    assert_eq!(gateway.status(query("sim_ok_1")).await, charged());
    assert_eq!(provider.net().await, PRICE);

    let again = cancellation("sim_ok_1", 5_000, "c1");
    assert_eq!(gateway.cancel(again.clone()).await, CancellationOutcome::Cancelled);
    assert_eq!(gateway.cancel(again).await, CancellationOutcome::Cancelled);
    assert_eq!(provider.net().await, 10_000);
    let rest = StatusOutcome::Charged {
        amount: 10_000,
        order_reference: ORDER.into(),
    };
    assert_eq!(gateway.status(query("sim_ok_1")).await, rest);

    let refused = gateway.cancel(cancellation("sim_ok_1", 10_001, "c2")).await;
    assert!(matches!(refused, CancellationOutcome::Refused { code, .. } if code == "NOT_CANCELABLE_AMOUNT"));
    assert_eq!(
        gateway.cancel(cancellation("sim_ok_1", 10_000, "c3")).await,
        CancellationOutcome::Cancelled
    );
    assert_eq!(gateway.status(query("sim_ok_1")).await, StatusOutcome::Cancelled);
    // Nothing is left: the provider says so and its status agrees.
    assert_eq!(
        gateway.cancel(cancellation("sim_ok_1", 1, "c4")).await,
        CancellationOutcome::Cancelled
    );
    assert_eq!(provider.net().await, 0);
    let kinds: Vec<_> = provider
        .ledger()
        .await
        .entries
        .iter()
        .map(|entry| (entry.kind, entry.amount))
        .collect();
    assert_eq!(
        kinds,
        [(EntryKind::Charge, PRICE), (EntryKind::Cancel, 5_000), (EntryKind::Cancel, 10_000)]
    );
}

#[tokio::test]
async fn a_declined_payment_moves_no_money() {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    for (key, refusal) in [
        ("sim_declined_1", "REJECT_CARD_COMPANY"),
        ("sim_insufficient_1", "REJECT_CARD_PAYMENT"),
    ] {
        assert_eq!(code(gateway.charge(charge(key, "a1")).await), refusal);
        assert_eq!(code(gateway.charge(charge(key, "a1")).await), refusal);
        assert_eq!(gateway.status(query(key)).await, not_charged("ABORTED"));
        let refused = gateway.cancel(cancellation(key, PRICE, "c1")).await;
        assert!(matches!(refused, CancellationOutcome::Refused { code, .. } if code == "NOT_CANCELABLE_PAYMENT"));
    }
    assert_eq!(provider.ledger().await, LedgerPage::default());
}

#[tokio::test]
async fn a_lost_answer_never_comes_but_the_status_does() {
    let provider = Provider::start().await;
    let gateway = provider.gateway_with(Duration::from_millis(300));
    for _ in 0..2 {
        let outcome = gateway.charge(charge("sim_lost_1", "a1")).await;
        assert!(matches!(outcome, ChargeOutcome::Unknown { .. }), "{outcome:?}");
        assert_eq!(gateway.status(query("sim_lost_1")).await, not_charged("IN_PROGRESS"));
        let outcome = gateway.charge(charge("sim_lost_applied_1", "a2")).await;
        assert!(matches!(outcome, ChargeOutcome::Unknown { .. }), "{outcome:?}");
        assert_eq!(gateway.status(query("sim_lost_applied_1")).await, charged());
    }
    assert_eq!(provider.net().await, PRICE);
    let refused = gateway.cancel(cancellation("sim_lost_1", PRICE, "c1")).await;
    assert!(matches!(refused, CancellationOutcome::Refused { .. }), "{refused:?}");
    let outcome = gateway.cancel(cancellation("sim_lost_applied_1", PRICE, "c2")).await;
    assert_eq!(outcome, CancellationOutcome::Cancelled);
    assert_eq!(provider.net().await, 0);
}

#[tokio::test]
async fn a_failing_payment_fails_twice_and_then_is_approved_also_across_a_restart() {
    let mut provider = Provider::start().await;
    for failure in 0..2 {
        let outcome = provider.gateway().charge(charge("sim_5xx_1", "a1")).await;
        assert!(
            matches!(&outcome, ChargeOutcome::Unknown { reason } if reason.contains("500")),
            "{failure} {outcome:?}"
        );
        assert_eq!(provider.gateway().status(query("sim_5xx_1")).await, not_charged("IN_PROGRESS"));
        provider = provider.restart().await;
    }
    let gateway = provider.gateway();
    assert_eq!(
        gateway.charge(charge("sim_5xx_1", "a1")).await,
        ChargeOutcome::Charged { amount: PRICE }
    );
    assert_eq!(
        gateway.charge(charge("sim_5xx_1", "a1")).await,
        ChargeOutcome::Charged { amount: PRICE }
    );
    assert_eq!(provider.net().await, PRICE);
}

#[tokio::test]
async fn a_slow_payment_is_approved_also_when_nobody_waits() {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    assert_eq!(
        gateway.charge(charge("sim_slow_1", "a1")).await,
        ChargeOutcome::Charged { amount: PRICE }
    );

    let impatient = provider.gateway_with(Duration::from_millis(50));
    let outcome = impatient.charge(charge("sim_slow_2", "a2")).await;
    assert!(matches!(outcome, ChargeOutcome::Unknown { .. }), "{outcome:?}");
    let (status, body) = provider
        .post(
            "/v1/payments/confirm",
            "a2",
            &json!({"paymentKey": "sim_slow_2", "orderId": ORDER, "amount": PRICE}),
        )
        .await;
    assert_eq!((status, body["code"].as_str()), (409, Some("IDEMPOTENT_REQUEST_PROCESSING")));
    while gateway.status(query("sim_slow_2")).await != charged() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        gateway.charge(charge("sim_slow_2", "a2")).await,
        ChargeOutcome::Charged { amount: PRICE }
    );
    assert_eq!(provider.net().await, 2 * PRICE);
}

#[tokio::test]
async fn a_payment_that_does_not_exist_is_not_found() {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    for key in ["tviva2024", "sim_ok", "sim_/..%2F", "확인"] {
        assert_eq!(code(gateway.charge(charge(key, "a1")).await), "NOT_FOUND_PAYMENT", "{key}");
        assert_eq!(gateway.status(query(key)).await, StatusOutcome::NotFound, "{key}");
        let refused = gateway.cancel(cancellation(key, 1, "c1")).await;
        assert!(
            matches!(refused, CancellationOutcome::Refused { code, .. } if code == "NOT_FOUND_PAYMENT"),
            "{key}"
        );
    }
}

#[tokio::test]
async fn a_payment_key_belongs_to_one_order_and_one_confirmation() {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    assert_eq!(
        gateway.charge(charge("sim_ok_1", "a1")).await,
        ChargeOutcome::Charged { amount: PRICE }
    );
    for changed in [
        Charge {
            idempotency_key: "a2".into(),
            ..charge("sim_ok_1", "a1")
        },
        Charge {
            amount: 1,
            ..charge("sim_ok_1", "a1")
        },
    ] {
        let outcome = gateway.charge(changed).await;
        assert!(matches!(outcome, ChargeOutcome::Unknown { .. }), "{outcome:?}");
    }
    let stolen = Charge {
        order_reference: "another-order".into(),
        ..charge("sim_ok_1", "a3")
    };
    assert_eq!(code(gateway.charge(stolen).await), "INVALID_REQUEST");
    let stolen = StatusQuery {
        order_reference: "another-order".into(),
        ..query("sim_ok_1")
    };
    let paid_another = StatusOutcome::NotCharged {
        status: "DONE for another order".into(),
    };
    assert_eq!(gateway.status(stolen).await, paid_another);

    let body = json!({"paymentKey": "sim_ok_1", "orderId": ORDER, "amount": PRICE});
    for idempotency_key in ["a2", ""] {
        let (status, answer) = provider.post("/v1/payments/confirm", idempotency_key, &body).await;
        assert_eq!((status, answer["code"].as_str()), (400, Some("ALREADY_PROCESSED_PAYMENT")));
    }
    assert_eq!(provider.ledger().await.entries.len(), 1);
}

#[tokio::test]
async fn answers_have_the_providers_shape_and_a_repeat_gets_the_same_one() {
    let provider = Provider::start().await;
    let confirm = json!({"paymentKey": "sim_ok_1", "orderId": ORDER, "amount": PRICE, "extra": null});
    let (status, first) = provider.post("/v1/payments/confirm", "a1", &confirm).await;
    assert_eq!(status, 200);
    let approved_at = first["approvedAt"].as_str().expect("a time");
    assert!(approved_at.ends_with("+09:00") && approved_at.len() == 25, "{approved_at}");
    let expected = json!({
        "paymentKey": "sim_ok_1", "orderId": ORDER, "status": "DONE", "totalAmount": PRICE, "balanceAmount": PRICE,
        "currency": "KRW", "method": "카드", "approvedAt": approved_at, "cancels": null,
    });
    assert_eq!(first, expected);

    let part = json!({"cancelReason": "part", "cancelAmount": 4_000});
    let (_, cancelled) = provider.post("/v1/payments/sim_ok_1/cancel", "c1", &part).await;
    assert_eq!(cancelled["status"], "PARTIAL_CANCELED");
    assert_eq!(cancelled["balanceAmount"], 11_000);
    assert_eq!(cancelled["cancels"][0]["cancelReason"], "part");
    assert_eq!(cancelled["cancels"][0]["cancelAmount"], 4_000);
    assert!(cancelled["cancels"][0]["transactionKey"].is_string() && cancelled["cancels"][0]["canceledAt"].is_string());

    // Without an amount all that is left goes back.
    let (_, rest) = provider
        .post("/v1/payments/sim_ok_1/cancel", "c2", &json!({"cancelReason": "rest"}))
        .await;
    assert_eq!(
        (rest["status"].as_str(), rest["balanceAmount"].as_i64()),
        (Some("CANCELED"), Some(0))
    );
    assert_eq!(provider.get("/v1/payments/sim_ok_1").await, (200, rest));

    let provider = provider.restart().await;
    assert_eq!(provider.post("/v1/payments/sim_ok_1/cancel", "c1", &part).await, (200, cancelled));
    assert_eq!(provider.post("/v1/payments/confirm", "a1", &confirm).await, (200, first));
    let other = json!({"cancelReason": "part", "cancelAmount": 4_001});
    let (status, answer) = provider.post("/v1/payments/sim_ok_1/cancel", "c1", &other).await;
    assert_eq!((status, answer["code"].as_str()), (400, Some("INVALID_IDEMPOTENCY_KEY")));
    let (status, answer) = provider.post("/v1/payments/sim_ok_1/cancel", "c3", &part).await;
    assert_eq!((status, answer["code"].as_str()), (400, Some("ALREADY_CANCELED_PAYMENT")));
}

#[tokio::test]
async fn bad_requests_get_clear_answers_and_book_nothing() {
    let provider = Provider::start().await;
    let confirm = |key: &str, order: &str, amount: Value| json!({"paymentKey": key, "orderId": order, "amount": amount});
    for body in [
        json!([]),
        json!({}),
        confirm("sim_ok_1", "short", json!(1)),
        confirm("sim_ok_1", &"o".repeat(65), json!(1)),
        confirm("sim_ok_1", "order 0001", json!(1)),
        confirm("sim_ok_1", ORDER, json!(0)),
        confirm("sim_ok_1", ORDER, json!(-1)),
        confirm("sim_ok_1", ORDER, json!(1.5)),
        confirm("sim_ok_1", ORDER, json!("1")),
        confirm("sim_ok_1", ORDER, json!(u64::MAX)),
        confirm("sim_ok_1", ORDER, json!(1_i64 << 53)),
        confirm(&format!("sim_ok_{}", "k".repeat(200)), ORDER, json!(1)),
    ] {
        let (status, answer) = provider.post("/v1/payments/confirm", "a1", &body).await;
        assert_eq!((status, answer["code"].as_str()), (400, Some("INVALID_REQUEST")), "{body}");
    }
    let right = confirm("sim_ok_1", ORDER, json!(1));
    let (status, _) = provider.post("/v1/payments/confirm", &"k".repeat(301), &right).await;
    assert_eq!(status, 400);
    let huge = json!({"paymentKey": "sim_ok_1", "padding": "x".repeat(70_000)});
    assert_eq!(provider.post("/v1/payments/confirm", "a1", &huge).await.0, 413);
    for body in [
        json!({}),
        json!({"cancelReason": ""}),
        json!({"cancelReason": "x", "cancelAmount": 0}),
    ] {
        assert_eq!(provider.post("/v1/payments/sim_ok_1/cancel", "c1", &body).await.0, 400, "{body}");
    }
    for path in ["/v1/ledger?limit=0", "/v1/ledger?limit=1001", "/v1/ledger?after=x"] {
        assert_eq!(provider.get(path).await.0, 400, "{path}");
    }
    assert_eq!(provider.get("/v1/nothing").await.0, 404);
    assert_eq!(provider.get("/v1/payments/%FF").await.0, 404);

    let url = format!("{}/v1/payments/confirm", provider.url());
    for authorization in [
        None,
        Some("Basic"),
        Some("Basic Og=="),
        Some("Basic !"),
        Some("Bearer dGVzdF9zazo="),
    ] {
        let request = Client::new().post(&url).json(&right);
        let request = authorization
            .into_iter()
            .fold(request, |request, value| request.header("authorization", value));
        assert_eq!(request.send().await.expect("an answer").status(), 401, "{authorization:?}");
    }
    assert!(provider.ledger().await.entries.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_confirmations_of_one_payment_charge_once() {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    let mut same = JoinSet::new();
    let mut different = JoinSet::new();
    for n in 0..20 {
        let (one, other) = (gateway.clone(), gateway.clone());
        same.spawn(async move { one.charge(charge("sim_ok_same", "a1")).await });
        different.spawn(async move { other.charge(charge("sim_ok_different", &format!("b{n}"))).await });
    }
    for outcome in same.join_all().await {
        assert_eq!(outcome, ChargeOutcome::Charged { amount: PRICE });
    }
    let outcomes = different.join_all().await;
    let charges = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, ChargeOutcome::Charged { .. }))
        .count();
    let unknown = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, ChargeOutcome::Unknown { .. }))
        .count();
    assert_eq!((charges, unknown), (1, 19));
    assert_eq!(provider.net().await, 2 * PRICE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_cancellations_never_give_back_more_than_was_charged() {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    gateway.charge(charge("sim_ok_1", "a1")).await;
    let mut races = JoinSet::new();
    for n in 0..40 {
        let gateway = gateway.clone();
        // Each of twenty cancellations is sent twice.
        races.spawn(async move { gateway.cancel(cancellation("sim_ok_1", 2_000, &format!("c{}", n / 2))).await });
    }
    let cancelled = races
        .join_all()
        .await
        .iter()
        .filter(|outcome| **outcome == CancellationOutcome::Cancelled)
        .count();
    assert_eq!(cancelled, 14, "seven cancellations fit, each answered twice");
    assert_eq!(provider.net().await, PRICE - 7 * 2_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirmations_at_once_share_commits() {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    // While somebody else has the file, requests pile up as they do behind a slow disk.
    let other = rusqlite::Connection::open(file(&provider.folder, "simulator.db")).expect("the ledger");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let mut races = JoinSet::new();
    for n in 0..200 {
        let gateway = gateway.clone();
        races.spawn(async move { gateway.charge(charge(&format!("sim_ok_{n}"), &format!("a{n}"))).await });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    other.execute_batch("ROLLBACK").expect("the lock is given back");
    for outcome in races.join_all().await {
        assert_eq!(outcome, ChargeOutcome::Charged { amount: PRICE });
    }
    let commits = provider.simulator.commits();
    assert!((1..100).contains(&commits), "{commits}");
    assert_eq!(provider.net().await, 200 * PRICE);
    let keys: BTreeSet<_> = provider.ledger().await.entries.into_iter().map(|entry| entry.payment_key).collect();
    assert_eq!(keys.len(), 200);
}

#[tokio::test]
async fn the_ledger_is_paged_and_summed_per_order() {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    for n in 0..5 {
        let order = format!("order-{:04}", n % 2);
        let one = Charge {
            order_reference: order,
            ..charge(&format!("sim_ok_{n}"), &format!("a{n}"))
        };
        gateway.charge(one).await;
    }
    gateway.cancel(cancellation("sim_ok_0", PRICE, "c1")).await;

    let (status, first) = provider.get("/v1/ledger?limit=4").await;
    assert_eq!(
        (status, first["entries"].as_array().map(Vec::len), &first["next"]),
        (200, Some(4), &json!(4))
    );
    assert_eq!(first["net"], json!({"order-0000": 2 * PRICE, "order-0001": 2 * PRICE}));
    let entry = &first["entries"][0];
    for (field, value) in [
        ("id", json!(1)),
        ("kind", json!("CHARGE")),
        ("paymentKey", json!("sim_ok_0")),
        ("orderId", json!("order-0000")),
        ("amount", json!(PRICE)),
        ("currency", json!("KRW")),
        ("idempotencyKey", json!("a0")),
    ] {
        assert_eq!(entry[field], value, "{field}");
    }
    let (_, last) = provider.get("/v1/ledger?limit=4&after=4").await;
    assert_eq!((last["entries"].as_array().map(Vec::len), &last["next"]), (Some(2), &Value::Null));
    let (_, order) = provider.get("/v1/ledger?orderId=order-0000").await;
    assert_eq!(order["entries"].as_array().map(Vec::len), Some(4));
    // Whoever only looks needs no secret key.
    let open = Client::new()
        .get(format!("{}/v1/ledger", provider.url()))
        .send()
        .await
        .expect("an answer");
    assert_eq!(open.status(), 200);
}

#[tokio::test]
async fn a_restart_forgets_nothing() {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    gateway.charge(charge("sim_ok_1", "a1")).await;
    gateway.charge(charge("sim_declined_1", "a2")).await;
    gateway.cancel(cancellation("sim_ok_1", 1_000, "c1")).await;
    let before = provider.ledger().await;
    let provider = provider.restart().await;
    assert_eq!(provider.ledger().await, before);
    let gateway = provider.gateway();
    assert_eq!(
        gateway.charge(charge("sim_ok_1", "a1")).await,
        ChargeOutcome::Charged { amount: PRICE }
    );
    assert_eq!(
        gateway.cancel(cancellation("sim_ok_1", 1_000, "c1")).await,
        CancellationOutcome::Cancelled
    );
    assert_eq!(gateway.status(query("sim_declined_1")).await, not_charged("ABORTED"));
    assert_eq!(provider.ledger().await, before);
}

#[tokio::test]
async fn a_currency_with_decimals_is_charged_exactly() {
    let settings = SimulatorSettings {
        currency: "USD".into(),
        ..SimulatorSettings::default()
    };
    let provider = Provider::start_with(tempfile::tempdir().expect("a folder"), settings).await;
    let gateway = provider.gateway();
    let dollars = Charge {
        amount: 1_205,
        currency: "USD".into(),
        ..charge("sim_ok_1", "a1")
    };
    assert_eq!(gateway.charge(dollars).await, ChargeOutcome::Charged { amount: 1_205 });
    let back = Cancellation {
        currency: "USD".into(),
        ..cancellation("sim_ok_1", 1_205, "c1")
    };
    assert_eq!(gateway.cancel(back).await, CancellationOutcome::Cancelled);
    assert_eq!(provider.net().await, 0);
    // Another currency than the provider's is no charge that we believe.
    let won = gateway.charge(charge("sim_ok_2", "a2")).await;
    assert!(matches!(won, ChargeOutcome::Unknown { .. }), "{won:?}");
}

/// The message of an open that must fail, checked to be one line that names the file.
fn refusal(path: &Path) -> String {
    let message = Simulator::open(path).err().expect("the file is not a ledger").to_string();
    assert!(
        message.contains(&path.display().to_string()) && !message.contains('\n'),
        "{message}"
    );
    message
}

fn file(folder: &tempfile::TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

#[tokio::test]
async fn a_corrupt_or_foreign_file_is_refused_with_one_line_that_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let garbage = file(&folder, "garbage.db");
    std::fs::write(&garbage, "not a database, not at all".repeat(1000)).expect("a file");
    assert!(refusal(&garbage).contains("not a database"));
    assert_eq!(std::fs::read(&garbage).expect("the file").len(), 26_000, "it is left alone");
    refusal(folder.path());
    refusal(&file(&folder, "missing/simulator.db"));

    let foreign = file(&folder, "foreign.db");
    let database = rusqlite::Connection::open(&foreign).expect("a database");
    database.execute_batch("CREATE TABLE events (position INTEGER)").expect("a table");
    drop(database);
    assert!(refusal(&foreign).contains("is not a ledger"));

    let newer = file(&folder, "newer.db");
    drop(Simulator::open(&newer).expect("a new ledger"));
    let database = rusqlite::Connection::open(&newer).expect("a database");
    database.pragma_update(None, "user_version", 99).expect("a format");
    drop(database);
    assert!(refusal(&newer).contains("format 99"));

    let torn = file(&folder, "torn.db");
    drop(Simulator::open(&torn).expect("a new ledger"));
    let whole = std::fs::read(&torn).expect("the file");
    std::fs::write(&torn, &whole[..whole.len() / 2]).expect("half a file");
    refusal(&torn);

    let settings = SimulatorSettings {
        currency: "BHD".into(),
        ..SimulatorSettings::default()
    };
    let unknown = Simulator::open_with(&file(&folder, "unknown.db"), settings).err();
    assert!(matches!(unknown, Some(SimulatorError::Currency(_))));
}
