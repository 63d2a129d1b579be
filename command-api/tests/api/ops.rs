use std::{sync::atomic::Ordering, time::Duration};

use aggregates::{AccountId, Command, OrderCommand, OrderId, ProductId, Stock};
use command_api::Settings;
use event_store::{Batch, EventStore as _, Head, Parked, Unparked, Unparking};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::shop::{Deadlines, Reply, Shop, Store, won};

/// How long the provider of these tests may be silent.
const STUCK_AFTER: Duration = Duration::from_millis(50);

async fn impatient(store: Store) -> Shop {
    let settings = Settings {
        stuck_after: STUCK_AFTER,
        ..Settings::default()
    };
    let deadlines = Deadlines {
        payment: Duration::from_mins(10),
    };
    Shop::on(store, settings, deadlines).await
}

/// A shop with an order whose provider was silent for too long.
async fn stuck() -> (Shop, String) {
    let shop = impatient(Store::default()).await;
    let order = stuck_order(&shop).await;
    (shop, order)
}

async fn stuck_order(shop: &Shop) -> String {
    shop.provider.silent.store(true, Ordering::Relaxed);
    let product = shop.product(json!({"onHand": 10})).await;
    let card = |body: &mut Value| body["payment"] = json!({"method": "CARD", "paymentKey": "sim_ok_1"});
    let placed = shop.order(product, 1, card).header("prefer", "wait=30").send().await;
    assert_eq!(
        (placed.status.as_u16(), placed.body["status"].as_str()),
        (200, Some("NEEDS_ATTENTION"))
    );
    placed.text("orderId")
}

async fn operate(shop: &Shop, order: &str, action: &str, body: Value) -> Reply {
    let path = format!("/api/v1/ops/processes/{order}/{action}");
    shop.post(&path)
        .token(&shop.admin)
        .header("prefer", "wait=30")
        .json(body)
        .send()
        .await
}

async fn listed(shop: &Shop, query: &str) -> Value {
    shop.counted().await;
    let answer = shop
        .get(&format!("/api/v1/ops/processes{query}"))
        .token(&shop.admin)
        .header("accept-language", "en")
        .send()
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

#[tokio::test]
async fn an_order_that_needs_a_person_is_listed_with_what_can_be_done() {
    let (shop, order) = stuck().await;
    let body = listed(&shop, "?stuck=true").await;
    assert_eq!(body["items"].as_array().map(Vec::len), Some(1));
    assert!(body.get("next").is_none());
    assert_eq!(body["views"][0]["position"], shop.store.head());
    let item = &body["items"][0];
    assert_eq!(
        (&item["processId"], &item["orderId"], &item["stuck"]),
        (&json!(order), &json!(order), &json!(true))
    );
    assert_eq!(
        (&item["status"], &item["paymentStatus"]),
        (&json!("NEEDS_ATTENTION"), &json!("UNKNOWN"))
    );
    assert_eq!(
        (&item["total"], &item["actions"]),
        (&won(5_000), &json!(["resume", "compensate", "resolve"]))
    );
    let reason = item["reason"].as_str().expect("a reason");
    assert!(item["waitingFor"].as_str().expect("what it waits for").ends_with(reason), "{item}");
    assert!(item["next"].as_str().expect("what follows").contains("(resume)"), "{item}");
    assert!(item["since"].is_string() && item["orderNumber"].is_string() && item.get("until").is_none());
}

#[tokio::test]
async fn purchases_that_have_not_ended_are_listed_oldest_first_a_page_at_a_time() {
    let shop = impatient(Store::default()).await;
    let product = shop.product(json!({"onHand": 10})).await;
    let later = |body: &mut Value| body["payment"] = json!({"method": "CARD"});
    let mut orders = Vec::new();
    for _ in 0..3 {
        orders.push(shop.order(product, 1, later).send().await.text("orderId"));
    }
    shop.deposit(shop.buyer_id, 5_000).await;
    let ended = shop.order(product, 1, |_| {}).header("prefer", "wait=10").send().await;
    assert_eq!(ended.body["status"], "CONFIRMED");
    let stuck = stuck_order(&shop).await;

    let (mut seen, mut query) = (Vec::new(), "?first=2".to_owned());
    loop {
        let body = listed(&shop, &query).await;
        let items = body["items"].as_array().expect("items");
        seen.extend(items.iter().map(|item| item["orderId"].as_str().expect("an id").to_owned()));
        let Some(next) = body["next"].as_str() else { break };
        assert_eq!(items.len(), 2);
        query = format!("?first=2&after={next}");
    }
    assert_eq!(seen, [&orders[..], &[stuck]].concat());
    let others = listed(&shop, "?stuck=false").await;
    let others = others["items"].as_array().expect("items");
    assert_eq!(others.len(), 3);
    assert_eq!(
        (&others[0]["status"], &others[0]["actions"]),
        (&json!("AWAITING_PAYMENT"), &json!([]))
    );
    assert_eq!(others[0]["waitingFor"], "the buyer to pay");
    assert!(others[0]["until"].is_string() && others[0].get("reason").is_none());
}

#[tokio::test]
async fn only_an_admin_operates() {
    let (shop, order) = stuck().await;
    let reason = json!({"reason": "why"});
    let resolution = json!({"reason": "why", "outcome": "CHARGED"});
    let process = |action: &str| format!("/api/v1/ops/processes/{order}/{action}");
    let parked = |action: &str| format!("/api/v1/ops/parked/{}/{action}", Uuid::nil());
    let calls = [
        ("GET", "/api/v1/ops/processes".to_owned(), Value::Null),
        ("GET", "/api/v1/ops/parked".to_owned(), Value::Null),
        ("POST", process("resume"), json!({})),
        ("POST", process("compensate"), reason),
        ("POST", process("resolve"), resolution),
        ("POST", parked("retry"), Value::Null),
        ("POST", parked("drop"), Value::Null),
    ];
    for (method, path, body) in calls {
        let call = || shop.request(method.parse().expect("a method"), &path).json(body.clone());
        call().send().await.refused(401, "unauthenticated");
        call().token("forged").send().await.refused(401, "invalid-token");
        for token in [&shop.buyer, &shop.seller] {
            call().token(token).send().await.refused(403, "forbidden");
        }
    }
    let now = shop.get(&format!("/api/v1/orders/{order}")).token(&shop.admin).send().await;
    assert_eq!(now.body["status"], "NEEDS_ATTENTION");
}

#[tokio::test]
async fn resumed_an_order_asks_again_and_comes_to_its_end() {
    let (shop, order) = stuck().await;
    let silent = operate(&shop, &order, "resume", json!({})).await;
    assert_eq!(
        (silent.status.as_u16(), silent.body["status"].as_str()),
        (200, Some("NEEDS_ATTENTION")),
        "it is silent still"
    );
    shop.provider.silent.store(false, Ordering::Relaxed);
    let path = format!("/api/v1/ops/processes/{order}/resume");
    let own = shop.post(&path).token(&shop.admin).json(json!({})).send().await;
    assert_eq!((own.status.as_u16(), own.body["status"].as_str()), (202, Some("PAYMENT_PENDING")));
    assert!(own.headers.contains_key("etag") && own.headers.contains_key("consistency-token"));
    let engine = shop.engine();
    let ended = engine.watch(aggregates::Kind::Order, order.parse().expect("an id"), engine::Until::OrderSettled);
    let ended = tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .expect("it ends")
        .expect("an order");
    assert!(
        matches!(&ended.state, aggregates::State::Order(order) if order.status() == aggregates::OrderStatus::Confirmed),
        "{ended:?}"
    );
    assert_eq!(listed(&shop, "").await["items"], json!([]));
}

#[tokio::test]
async fn compensated_an_order_is_undone_by_the_shop() {
    let (shop, order) = stuck().await;
    shop.provider.silent.store(false, Ordering::Relaxed);
    let answer = operate(&shop, &order, "compensate", json!({"reason": "김민지 called"})).await;
    assert_eq!((answer.status.as_u16(), answer.body["status"].as_str()), (200, Some("CANCELLED")));
    assert_eq!(answer.body["failure"]["code"], "CANCELLED_BY_SHOP");
    assert!(!shop.store.events().contains("김민지 called"), "the reason is sealed");
}

#[tokio::test]
async fn resolved_an_order_goes_on_from_where_the_money_is() {
    for (outcome, status, failure) in [
        ("CHARGED", "CONFIRMED", Value::Null),
        ("NOT_CHARGED", "CANCELLED", json!("PAYMENT_DECLINED")),
        ("REFUNDED", "CANCELLED", json!("CANCELLED_BY_SHOP")),
    ] {
        let (shop, order) = stuck().await;
        let answer = operate(&shop, &order, "resolve", json!({"outcome": outcome, "reason": "seen in its books"})).await;
        assert_eq!((answer.status.as_u16(), &answer.body["status"]), (200, &json!(status)), "{outcome}");
        assert_eq!(answer.body["failure"]["code"], failure);
        operate(&shop, &order, "resolve", json!({"outcome": outcome, "reason": "again"}))
            .await
            .refused(409, "order-not-stuck");
        assert!(!shop.store.events().contains("seen in its books"), "the reason is sealed");
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let (shop, order) = stuck().await;
    let head = shop.store.head();
    for unknown in [Uuid::nil().to_string(), "x".to_owned()] {
        operate(&shop, &unknown, "resume", json!({})).await.refused(404, "unknown-order");
        let reason = json!({"reason": "why"});
        operate(&shop, &unknown, "compensate", reason).await.refused(404, "unknown-order");
    }
    let resolve = async |body| operate(&shop, &order, "resolve", body).await;
    operate(&shop, &order, "resume", json!({"by": "me"}))
        .await
        .refused(400, "invalid-body")
        .at("/by");
    operate(&shop, &order, "compensate", json!({}))
        .await
        .refused(400, "invalid-body")
        .at("/reason");
    operate(&shop, &order, "compensate", json!({"reason": " "}))
        .await
        .refused(422, "invalid-value")
        .at("/reason");
    operate(&shop, &order, "compensate", json!({"reason": "a\u{0}"}))
        .await
        .refused(400, "control-character");
    resolve(json!({"outcome": "LOST", "reason": "why"}))
        .await
        .refused(400, "invalid-body")
        .at("/outcome");
    resolve(json!({"outcome": "CHARGED", "reason": "x".repeat(501)}))
        .await
        .refused(422, "invalid-value");
    for query in ["stuck=1", "first=0", "first=101", "after=x"] {
        let call = shop.get(&format!("/api/v1/ops/processes?{query}")).token(&shop.admin);
        call.send().await.refused(400, "invalid-query");
    }
    let path = format!("/api/v1/ops/processes/{order}/resume");
    let call = || shop.post(&path).token(&shop.admin).json(json!({}));
    call().header("if-match", "\"1\"").send().await.refused(412, "version-mismatch");
    let planned = shop
        .post(&format!("{path}?dryRun=true"))
        .token(&shop.admin)
        .json(json!({}))
        .send()
        .await;
    assert_eq!(
        (planned.status.as_u16(), &planned.body["events"][0]["eventType"]),
        (200, &json!("order.resumed"))
    );
    assert_eq!(shop.store.head(), head);
}

#[tokio::test]
async fn an_operator_s_key_makes_a_repeat_harmless() {
    let (shop, order) = stuck().await;
    let path = format!("/api/v1/ops/processes/{order}/resolve");
    let call = |outcome: &str| {
        let body = json!({"outcome": outcome, "reason": "seen in its books"});
        shop.post(&path).token(&shop.admin).key("resolve-1").json(body)
    };
    let first = call("CHARGED").send().await;
    assert_eq!(first.status, 202);
    let again = call("CHARGED").send().await;
    assert_eq!((again.status.as_u16(), again.header("idempotency-replayed")), (202, Some("true")));
    assert_eq!(again.body["version"], first.body["version"]);
    call("REFUNDED").send().await.refused(422, "idempotency-key-reused");
}

fn parked_id(n: u128) -> Uuid {
    Uuid::from_u128(0xa51d_e000 + n)
}

/// A store in which inputs were set aside before: a request, a step of a process that can be done, one that cannot be, and one that no version of
/// ours can read.
fn with_parked() -> Store {
    let order = OrderId::new(Uuid::from_u128(7));
    let origin = origin();
    let release = Command::Inventory(ProductId::new(Uuid::from_u128(9)), aggregates::InventoryCommand::Release { order });
    let expire = Command::Order(
        order,
        OrderCommand::EndAttention {
            cause: aggregates::Obstacle::Provider,
        },
    );
    let inputs = [
        request(&release),
        json!({"command": release, "origin": origin}),
        json!({"command": expire, "origin": origin}),
        json!({"command": "of another version"}),
    ];
    set_aside(&inputs)
}

fn request(command: &Command) -> Value {
    let cause = json!({"actor": "Anonymous", "correlation": Uuid::nil(), "traceparent": null});
    json!({"command": command, "cause": cause})
}

fn origin() -> Value {
    json!({"correlation": Uuid::from_u128(1), "causation": Uuid::from_u128(2)})
}

fn set_aside(inputs: &[Value]) -> Store {
    let store = Store::default();
    let mut writer = store.writer().expect("a writer");
    let head = writer.take(0, Uuid::from_u128(1), 0).expect("the shard");
    let parked = inputs.iter().zip(1..).map(|(input, n)| Parked {
        id: parked_id(n),
        at: i64::try_from(n).expect("a small number"),
        input: input.to_string().into(),
        reason: "it panicked".into(),
    });
    let batch = Batch {
        parked: parked.collect(),
        ..without_events(&head)
    };
    writer.commit(&[&batch]).expect("a commit");
    store
}

/// A batch that moves no head.
fn without_events(head: &Head) -> Batch {
    Batch {
        shard: head.shard,
        epoch: head.epoch,
        first_position: head.position + 1,
        hash: head.hash,
        previous_hash: head.hash,
        ..Batch::default()
    }
}

/// ... of which the second was done by somebody else, long ago.
fn with_one_retried_by_another() -> Store {
    let store = with_parked();
    let mut writer = store.writer().expect("a writer");
    let head = writer.take(0, Uuid::from_u128(1), 0).expect("the shard");
    let retried = Unparked {
        id: parked_id(2),
        at: 2_000_000,
        by: "system".into(),
        how: Unparking::Retried,
    };
    let batch = Batch {
        unparked: vec![retried],
        ..without_events(&head)
    };
    writer.commit(&[&batch]).expect("a commit");
    store
}

async fn end(shop: &Shop, n: u128, how: &str) -> Reply {
    let path = format!("/api/v1/ops/parked/{}/{how}", parked_id(n));
    shop.post(&path).token(&shop.admin).header("accept-language", "en").send().await
}

#[tokio::test]
async fn what_an_operator_decided_is_answered_again_when_the_answer_was_lost() {
    let opened = aggregates::InventoryCommand::Open {
        seller: AccountId::new(Uuid::from_u128(5)),
        stock: Stock::Unlimited,
    };
    let open = Command::Inventory(ProductId::new(Uuid::from_u128(9)), opened);
    let shop = impatient(set_aside(&[request(&open), json!({"command": open, "origin": origin()})])).await;
    for (n, how, outcome) in [(2, "retry", "RETRIED"), (1, "drop", "DROPPED")] {
        let first = end(&shop, n, how).await;
        assert_eq!(
            (first.status.as_u16(), first.body["outcome"].as_str()),
            (200, Some(outcome)),
            "{}",
            first.body
        );
        let head = shop.store.head();
        let again = end(&shop, n, how).await;
        assert_eq!((again.status, &again.body), (first.status, &first.body));
        assert_eq!(shop.store.head(), head, "nothing is recorded again");
    }
}

#[tokio::test]
async fn what_has_ended_has_no_other_end() {
    let shop = impatient(with_one_retried_by_another()).await;
    let refused = async |n, how| {
        let answer = end(&shop, n, how).await;
        answer.refused(409, "parked-ended");
        assert_eq!(answer.body["title"], "It has come to its end already");
        answer.text("detail")
    };
    // It is over by somebody else's word, whichever.
    for how in ["retry", "drop"] {
        assert_eq!(refused(2, how).await, "it was processed at 1970-01-01T00:00:02Z by system");
    }
    assert_eq!(end(&shop, 1, "drop").await.status, 200);
    let detail = refused(1, "retry").await;
    let by = format!(" by account:{}", Uuid::from_u128(0xa));
    assert!(detail.starts_with("it was dropped at ") && detail.ends_with(&by), "{detail}");
}

#[tokio::test]
async fn what_was_set_aside_is_listed_tried_again_and_dropped() {
    let shop = impatient(with_parked()).await;
    let list = async || {
        let answer = shop.get("/api/v1/ops/parked").token(&shop.admin).send().await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["more"]),
            (200, &json!(false)),
            "{}",
            answer.body
        );
        answer.body["items"].as_array().expect("items").clone()
    };
    let end = |n, how| end(&shop, n, how);
    let items = list().await;
    let shown: Vec<_> = items
        .iter()
        .map(|item| (item["from"].as_str(), item["actions"].as_array().map(Vec::len)))
        .collect();
    let (request, process) = (Some("REQUEST"), Some("PROCESS"));
    // What orders wait for comes first.
    assert_eq!(shown[..2], [(process, Some(2)), (process, Some(2))]);
    assert_eq!(shown[3], (request, Some(1)));
    assert_eq!(items[2]["actions"], json!(["drop"]), "what cannot be read cannot be done");
    assert_eq!(
        items[0],
        json!({"parkedId": parked_id(2), "at": "1970-01-01T00:00:00.000002Z", "from": "PROCESS", "aggregateType": "inventory",
            "aggregateId": Uuid::from_u128(9), "orderId": Uuid::from_u128(7), "reason": "it panicked", "actions": ["retry", "drop"]})
    );

    end(1, "retry").await.refused(409, "parked-request");
    end(4, "retry").await.refused(409, "parked-unreadable");
    for unknown in [Uuid::nil().to_string(), "x".to_owned()] {
        for how in ["retry", "drop"] {
            let path = format!("/api/v1/ops/parked/{unknown}/{how}");
            shop.post(&path).token(&shop.admin).send().await.refused(404, "unknown-parked");
        }
    }
    let dry = format!("/api/v1/ops/parked/{}/drop?dryRun=true", parked_id(1));
    shop.post(&dry).token(&shop.admin).send().await.refused(400, "invalid-query");
    assert_eq!(list().await.len(), 4, "nothing has changed");

    for n in [1, 3, 4] {
        let dropped = end(n, "drop").await;
        assert_eq!(
            (dropped.status.as_u16(), &dropped.body),
            (200, &json!({"parkedId": parked_id(n), "outcome": "DROPPED"}))
        );
        let again = end(n, "drop").await;
        assert_eq!((again.status, again.body), (dropped.status, dropped.body.clone()));
    }
    assert_eq!(list().await.len(), 1);
}
