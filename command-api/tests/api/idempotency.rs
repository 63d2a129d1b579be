use std::{collections::HashSet, sync::atomic::Ordering, time::Duration};

use serde_json::json;

use crate::{
    sessions::all,
    shop::{Shop, order_body, won},
};

#[tokio::test]
async fn the_same_key_and_body_get_the_same_answer_however_the_body_is_written() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    let place = |body: String| shop.post("/api/v1/orders").token(&shop.buyer).key("\"order-1\"").raw(body);
    let body = order_body(product, 2, |_| {});
    let first = place(body.to_string()).send().await;
    assert_eq!((first.status.as_u16(), first.header("idempotency-replayed")), (202, None));
    let reordered = format!(
        r#"{{ "payment": {{"method":"BALANCE"}},
            "shippingAddress": {{"phone":"010-1234-5678","postalCode":"04524","city":"\uc11c\uc6b8","street":"세종대로 110","recipient":"김민지"}},
            "lines": [ {{"quantity": 2, "productId": "{product}"}} ] }}"#
    );
    for again in [place(body.to_string()), place(reordered).key("order-1")] {
        let again = again.send().await;
        assert_eq!((again.status, &again.body), (first.status, &first.body));
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(again.header("etag"), first.header("etag"));
        assert_eq!(again.header("consistency-token"), first.header("consistency-token"));
    }
    place(order_body(product, 3, |_| {}).to_string())
        .send()
        .await
        .refused(422, "idempotency-key-reused");
}

#[tokio::test]
async fn a_key_counts_for_one_account_and_one_path() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    let other = shop.newcomer("other@example.com", "BUYER").await;
    let mine = shop.order(product, 1, |_| {}).key("1").send().await;
    let theirs = shop.order(product, 1, |_| {}).key("1").token(&other).send().await;
    assert_eq!((mine.status.as_u16(), theirs.status.as_u16()), (202, 202));
    assert_ne!(mine.text("orderId"), theirs.text("orderId"));
    let receipt = |what: &str| {
        shop.post(&format!("/api/v1/products/{product}/stock/{what}"))
            .token(&shop.seller)
            .key("1")
    };
    assert_eq!(receipt("receipts").json(json!({"quantity": 1})).send().await.status, 201);
    let adjusted = receipt("adjustments").json(json!({"delta": 1, "reason": "found"})).send().await;
    assert_eq!((adjusted.status.as_u16(), adjusted.header("idempotency-replayed")), (201, None));
}

#[tokio::test]
async fn a_refusal_that_the_engine_decided_is_repeated_and_any_other_is_not() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    let deposit = |amount| {
        shop.post(&format!("/api/v1/accounts/{}/deposits", shop.buyer_id))
            .token(&shop.admin)
            .key("d")
            .json(json!({"amount": won(amount)}))
    };
    let first = deposit(0).send().await;
    first.refused(422, "amount-not-positive");
    let again = deposit(0).send().await;
    assert_eq!((again.header("idempotency-replayed"), &again.body), (Some("true"), &first.body));
    deposit(5).send().await.refused(422, "idempotency-key-reused");

    // Unreadable, not allowed: the key is as good as new.
    shop.order(product, 1, |_| {})
        .key("o")
        .raw("{")
        .send()
        .await
        .refused(400, "malformed-json");
    shop.order(product, 0, |_| {})
        .key("o")
        .send()
        .await
        .refused(422, "quantity-out-of-range");
    shop.order(product, 1, |_| {})
        .key("o")
        .token(&shop.seller)
        .send()
        .await
        .refused(403, "forbidden");
    assert_eq!(shop.order(product, 1, |_| {}).key("o").send().await.status, 202);
}

#[tokio::test]
async fn a_refusal_is_repeated_in_the_language_of_each_request() {
    let shop = Shop::open().await;
    let order = |language: &str| {
        shop.order(uuid::Uuid::max(), 1, |_| {})
            .key("o")
            .header("accept-language", language)
    };
    let korean = order("ko").send().await;
    let english = order("en").send().await;
    assert_eq!(english.refused(422, "unknown-product").header("idempotency-replayed"), Some("true"));
    assert_eq!(
        (korean.text("title"), english.text("title")),
        ("상품을 찾을 수 없습니다".to_owned(), "There is no such product".to_owned())
    );
}

#[tokio::test]
async fn while_a_request_is_in_flight_its_repeat_has_to_come_back() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    shop.store.delay_millis.store(200, Ordering::Relaxed);
    let answers = all((0..2).map(|_| shop.order(product, 1, |_| {}).key("o").send())).await;
    shop.store.delay_millis.store(0, Ordering::Relaxed);
    assert_eq!(answers[0].status, 202);
    assert_eq!(answers[1].refused(409, "request-in-flight").header("retry-after"), Some("1"));
    let later = shop.order(product, 1, |_| {}).key("o").send().await;
    assert_eq!((later.status, &later.body), (answers[0].status, &answers[0].body));
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_race_with_one_key_one_order_is_placed() {
    let shop = std::sync::Arc::new(Shop::open().await);
    let product = shop.product(json!({"onHand": 100})).await;
    let racers: Vec<_> = (0..32)
        .map(|_| {
            let shop = std::sync::Arc::clone(&shop);
            tokio::spawn(async move {
                shop.order(product, 1, |body| body["payment"]["method"] = json!("CARD"))
                    .key("race")
                    .send()
                    .await
            })
        })
        .collect();
    let mut orders = HashSet::new();
    let mut first = 0;
    for racer in racers {
        let answer = racer.await.expect("no panic");
        if answer.status == 202 {
            orders.insert(answer.text("orderId"));
            first += usize::from(answer.header("idempotency-replayed").is_none());
        } else {
            answer.refused(409, "request-in-flight");
        }
    }
    assert_eq!((orders.len(), first), (1, 1));
    assert_eq!(shop.stock(product).await, (100, 1));
}

#[tokio::test]
async fn what_could_not_be_written_may_be_sent_again() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    shop.store.broken.store(true, Ordering::Relaxed);
    shop.order(product, 1, |_| {}).key("o").send().await.refused(503, "unavailable");
    shop.store.broken.store(false, Ordering::Relaxed);
    let mut answer = shop.order(product, 1, |_| {}).key("o").send().await;
    for _ in 0..50 {
        if answer.status == 202 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        answer = shop.order(product, 1, |_| {}).key("o").send().await;
    }
    assert_eq!((answer.status.as_u16(), answer.header("idempotency-replayed")), (202, None));
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_refused() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    for key in ["", "\"", "two words", &"k".repeat(256)] {
        shop.order(product, 1, |_| {})
            .key(key)
            .send()
            .await
            .refused(400, "idempotency-key-invalid");
    }
    assert_eq!(shop.order(product, 1, |_| {}).key(&"k".repeat(255)).send().await.status, 202);
}
