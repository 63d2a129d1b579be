use aggregates::{AccountId, Role};
use command_api::{EnsureError, ensure_account};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::shop::{PASSWORD, Shop, won};

fn somebody(more: impl FnOnce(&mut Value)) -> Value {
    let mut body = json!({"email": "minji@example.com", "password": PASSWORD, "name": "김민지", "phone": "010-1234-5678", "role": "BUYER"});
    more(&mut body);
    body
}

fn subject_keys(shop: &Shop) -> usize {
    let folders = std::fs::read_dir(shop.keys().join("subjects")).expect("a folder");
    folders
        .map(|folder| std::fs::read_dir(folder.expect("an entry").path()).expect("a folder").count())
        .sum()
}

#[tokio::test]
async fn whoever_registers_can_log_in_and_an_address_registers_once() {
    let shop = Shop::open().await;
    let registered = shop.post("/api/v1/accounts").json(somebody(|_| {})).send().await;
    assert_eq!(registered.status, 201);
    registered.id("accountId");
    assert!(registered.headers.contains_key("etag") && registered.headers.contains_key("consistency-token"));
    assert!(!registered.body.to_string().contains("example.com"));
    shop.log_in("minji@example.com").await;

    let keys = subject_keys(&shop);
    let again = shop
        .post("/api/v1/accounts")
        .json(somebody(|body| body["email"] = json!("MinJi@Example.com")))
        .send()
        .await;
    again.refused(409, "email-taken").at("/email");
    assert_eq!(subject_keys(&shop), keys, "a refused registration leaves no key behind");
    shop.log_in("minji@example.com").await;
}

#[tokio::test]
async fn a_registration_with_a_key_happens_once() {
    let shop = Shop::open().await;
    let register = |body| shop.post("/api/v1/accounts").key("registration-1").json(body).send();
    let first = register(somebody(|_| {})).await;
    let second = register(somebody(|_| {})).await;
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (201, 201));
    assert_eq!(first.body, second.body);
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    register(somebody(|body| body["name"] = json!("김민수")))
        .await
        .refused(422, "idempotency-key-reused");
    shop.log_in("minji@example.com").await;
}

#[tokio::test]
async fn a_dry_registration_leaves_nothing_behind() {
    let shop = Shop::open().await;
    let keys = subject_keys(&shop);
    let planned = shop.post("/api/v1/accounts?dryRun=true").json(somebody(|_| {})).send().await;
    assert_eq!(planned.status, 200);
    let types: Vec<_> = planned.body["events"]
        .as_array()
        .expect("events")
        .iter()
        .map(|event| event["eventType"].clone())
        .collect();
    assert_eq!(types, ["email.claimed", "account.opened", "wallet.opened"]);
    assert!(!planned.body.to_string().contains("minji"));
    assert_eq!(subject_keys(&shop), keys);
    assert_eq!(shop.post("/api/v1/accounts").json(somebody(|_| {})).send().await.status, 201);
}

#[tokio::test]
async fn a_registration_is_refused_for_what_is_wrong_with_it() {
    let shop = Shop::open().await;
    let cases: [(&str, Value, u16, &str); 9] = [
        ("email", json!("no address"), 422, "invalid-value"),
        ("email", json!("a\u{7}@b.kr"), 400, "control-character"),
        ("password", json!("short"), 422, "invalid-value"),
        ("password", json!("x".repeat(129)), 422, "invalid-value"),
        ("name", json!("  "), 422, "invalid-value"),
        ("phone", json!("call me"), 422, "invalid-value"),
        ("role", json!("ADMIN"), 400, "invalid-body"),
        ("role", json!("buyer"), 400, "invalid-body"),
        ("name", json!(31_415_926_535_u64), 400, "invalid-body"),
    ];
    for (member, value, status, code) in cases {
        let shown = value.to_string();
        let answer = shop
            .post("/api/v1/accounts")
            .json(somebody(|body| body[member] = value))
            .send()
            .await;
        answer.refused(status, code).at(&format!("/{member}"));
        assert!(
            !answer.body.to_string().contains(&shown),
            "a problem repeats no value: {}",
            answer.body
        );
    }
    let two = shop
        .post("/api/v1/accounts")
        .json(somebody(|body| (body["email"], body["name"]) = (json!("x"), json!(""))))
        .send()
        .await;
    assert_eq!(two.body["errors"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn an_admin_puts_money_into_a_balance() {
    let shop = Shop::open().await;
    let path = format!("/api/v1/accounts/{}/deposits", shop.buyer_id);
    let deposit = |amount: Value| shop.post(&path).token(&shop.admin).new_key().json(json!({"amount": amount}));
    let answer = deposit(won(1_000)).send().await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.body["balance"], won(1_000));

    deposit(won(0)).send().await.refused(422, "amount-not-positive");
    deposit(won(-1))
        .send()
        .await
        .refused(422, "amount-out-of-range")
        .at("/amount/amount");
    deposit(won(1 << 53))
        .send()
        .await
        .refused(422, "amount-out-of-range")
        .at("/amount/amount");
    deposit(won((1 << 53) - 1)).send().await.refused(422, "balance-too-large");
    deposit(json!({"amount": 1, "currency": "USD"}))
        .send()
        .await
        .refused(422, "currency-mismatch")
        .at("/amount/currency");
    deposit(json!({"amount": 1, "currency": "won"}))
        .send()
        .await
        .refused(400, "invalid-body")
        .at("/amount/currency");
    deposit(json!({"amount": 1.5, "currency": "KRW"}))
        .send()
        .await
        .refused(400, "invalid-body")
        .at("/amount/amount");
    deposit(won(1))
        .without("idempotency-key")
        .send()
        .await
        .refused(400, "idempotency-key-required");
    deposit(won(1)).token(&shop.seller).send().await.refused(403, "forbidden");
    deposit(won(1))
        .without("authorization")
        .send()
        .await
        .refused(401, "unauthenticated");
    let nobody = shop
        .post(&format!("/api/v1/accounts/{}/deposits", Uuid::max()))
        .token(&shop.admin)
        .new_key();
    nobody.json(json!({"amount": won(1)})).send().await.refused(404, "unknown-account");
    assert_eq!(shop.balance(shop.buyer_id).await, 1_000);
}

#[tokio::test]
async fn ensuring_an_account_twice_changes_nothing() {
    let shop = Shop::open().await;
    let admin = AccountId::new(Uuid::from_u128(0xa));
    let ensured = ensure_account(&shop.api, admin, "admin@jangbu.dev", PASSWORD, "admin", Role::Admin).await;
    assert_eq!(ensured.expect("there already"), admin);
    let other = AccountId::new(Uuid::from_u128(0xaa));
    let ensured = ensure_account(&shop.api, other, "admin@jangbu.dev", PASSWORD, "admin", Role::Admin).await;
    assert_eq!(ensured.expect("there under another id"), admin);
    let buyer = ensure_account(&shop.api, other, "admin@jangbu.dev", PASSWORD, "admin", Role::Buyer).await;
    assert!(matches!(buyer, Err(EnsureError::OtherRole)));
    let short = ensure_account(&shop.api, other, "new@jangbu.dev", "short", "new", Role::Admin).await;
    assert!(matches!(short, Err(EnsureError::Value { what: "password", .. })));
}
