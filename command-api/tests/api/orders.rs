use std::time::Duration;

use command_api::Settings;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::shop::{Deadlines, Reply, Shop, won};

fn card(key: Option<&str>) -> impl FnOnce(&mut Value) {
    let payment = key.map_or_else(|| json!({"method": "CARD"}), |key| json!({"method": "CARD", "paymentKey": key}));
    |body| body["payment"] = payment
}

async fn look(shop: &Shop, order: &str) -> Reply {
    shop.get(&format!("/api/v1/orders/{order}")).token(&shop.buyer).send().await
}

#[tokio::test]
async fn an_order_paid_from_the_balance_is_confirmed() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    shop.deposit(shop.buyer_id, 20_000).await;
    let placed = shop.order(product, 3, |body| body["total"] = won(15_000)).send().await;
    assert_eq!((placed.status.as_u16(), placed.body["status"].as_str()), (202, Some("PLACED")));
    assert!(placed.headers.contains_key("consistency-token") && placed.header("etag") == Some("\"1\""));
    let order = placed.text("orderId");
    assert_eq!(placed.header("location"), Some(format!("/api/v1/orders/{order}").as_str()));

    let now = look(&shop, &order).await;
    assert_eq!((now.status.as_u16(), now.body["status"].as_str()), (200, Some("CONFIRMED")));
    assert_eq!(now.header("etag"), Some(format!("\"{}\"", now.body["version"]).as_str()));
    assert_eq!(
        now.body["lines"],
        json!([{"productId": product, "productName": "Coffee", "quantity": 3, "unitPrice": won(5_000), "lineTotal": won(15_000)}])
    );
    assert_eq!(
        (&now.body["total"], &now.body["payment"]["status"]),
        (&won(15_000), &json!("CAPTURED"))
    );
    assert!(now.text("orderNumber").len() >= 16);
    now.id("trackingId");
    assert_eq!((shop.stock(product).await, shop.balance(shop.buyer_id).await), ((7, 0), 5_000));
}

#[tokio::test]
async fn an_order_is_seen_by_its_buyer_its_seller_and_the_admin_alone() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    let order = shop.order(product, 1, |_| {}).send().await.text("orderId");
    let path = format!("/api/v1/orders/{order}");
    for token in [&shop.buyer, &shop.seller, &shop.admin] {
        assert_eq!(shop.get(&path).token(token).send().await.status, 200);
    }
    for (email, role) in [("other@example.com", "BUYER"), ("rival@example.com", "SELLER")] {
        let stranger = shop.newcomer(email, role).await;
        shop.get(&path).token(&stranger).send().await.refused(404, "unknown-order");
    }
    let stranger = shop.log_in("other@example.com").await;
    let pay = shop.post(&format!("{path}/payment")).token(&stranger).new_key();
    pay.json(json!({"paymentKey": "sim_ok_1", "amount": won(5_000)}))
        .send()
        .await
        .refused(404, "unknown-order");
    let cancel = |token: &str| {
        shop.post(&format!("{path}/cancellation"))
            .token(token)
            .new_key()
            .json(json!({"reason": "mine"}))
    };
    cancel(&stranger).send().await.refused(404, "unknown-order");
    cancel(&shop.seller).send().await.refused(403, "forbidden");
    for id in [Uuid::max().to_string(), "x".to_owned(), "%ff".to_owned()] {
        look(&shop, &id).await.refused(404, "unknown-order");
    }
}

#[tokio::test]
async fn waiting_answers_the_outcome_of_the_purchase() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    shop.deposit(shop.buyer_id, 5_000).await;
    let confirmed = shop.order(product, 1, |_| {}).header("prefer", "wait=5").send().await;
    assert_eq!(
        (confirmed.status.as_u16(), confirmed.body["status"].as_str()),
        (200, Some("CONFIRMED"))
    );
    assert_eq!(confirmed.header("preference-applied"), Some("wait=5"));
    assert_eq!(
        confirmed.header("etag"),
        Some(format!("\"{}\"", confirmed.body["version"]).as_str())
    );

    let poor = shop
        .order(product, 1, |_| {})
        .header("prefer", "wait=5")
        .header("accept-language", "ko")
        .send()
        .await;
    assert_eq!(
        poor.body["failure"],
        json!({"code": "INSUFFICIENT_BALANCE", "message": "잔액이 부족합니다"})
    );
    let sold_out = shop.order(product, 100, |_| {}).header("prefer", "wait=5").send().await;
    assert_eq!(sold_out.status, 200);
    assert_eq!(sold_out.body["failure"]["code"], "OUT_OF_STOCK");
    assert_eq!(sold_out.body["failure"]["message"], "재고 부족으로 주문이 취소되었습니다");
    let order = sold_out.text("orderId");
    let english = shop
        .get(&format!("/api/v1/orders/{order}"))
        .token(&shop.buyer)
        .header("accept-language", "en-US")
        .send()
        .await;
    assert!(english.body["failure"]["message"].as_str().is_some_and(str::is_ascii));

    let awaiting = shop.order(product, 1, card(None)).header("prefer", "wait=5").send().await;
    assert_eq!(
        (awaiting.status.as_u16(), awaiting.body["status"].as_str()),
        (200, Some("AWAITING_PAYMENT"))
    );
    awaiting.text("payUntil");
    let slow = shop
        .order(product, 1, card(Some("sim_slow_1")))
        .header("prefer", "wait=5")
        .send()
        .await;
    assert_eq!((slow.status.as_u16(), slow.body["status"].as_str()), (200, Some("CONFIRMED")));
    let impatient = shop
        .order(product, 1, card(Some("sim_slow_2")))
        .header("prefer", "wait=0")
        .send()
        .await;
    assert_eq!(
        (impatient.status.as_u16(), impatient.body["status"].as_str()),
        (202, Some("PAYMENT_PENDING"))
    );
    assert_eq!(impatient.header("preference-applied"), Some("wait=0"));
}

#[tokio::test]
async fn the_token_of_a_waited_answer_covers_what_the_answer_shows() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    let place = || shop.order(product, 1, card(Some("sim_slow_1"))).key("slow-order");
    let position = |answer: &Reply| {
        let token = answer.header("consistency-token").expect("a token");
        let position = token.rsplit('.').next().expect("a position");
        position.parse::<u64>().expect("a number")
    };
    let own = place().send().await;
    let settled = place().header("prefer", "wait=5").send().await;
    assert_eq!(settled.body["status"], "CONFIRMED");
    assert_eq!(
        position(&settled),
        shop.store.head(),
        "the views are waited for until they show the confirmation"
    );
    assert!(position(&own) < position(&settled));
    let again = place().send().await;
    assert_eq!(position(&again), position(&own), "the recorded answer keeps its own");
}

#[tokio::test]
async fn the_wait_is_applied_after_the_recorded_answer_on_a_repeat_too() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    let place = || shop.order(product, 1, card(Some("sim_slow_1"))).key("slow-order");
    let first = place().send().await;
    assert_eq!((first.status.as_u16(), first.body["status"].as_str()), (202, Some("PLACED")));
    let second = place().header("prefer", "wait=5").send().await;
    assert_eq!((second.status.as_u16(), second.body["status"].as_str()), (200, Some("CONFIRMED")));
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    let third = place().send().await;
    assert_eq!(
        (third.status, third.body),
        (first.status, first.body),
        "the recorded answer is the command's own"
    );
}

#[tokio::test]
async fn the_buyer_pays_with_a_payment_key() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    let order = shop.order(product, 2, card(None)).send().await.text("orderId");
    let path = format!("/api/v1/orders/{order}/payment");
    let pay = |key: &str, amount: Value| {
        shop.post(&path)
            .token(&shop.buyer)
            .new_key()
            .json(json!({"paymentKey": key, "amount": amount}))
    };
    pay("sim_ok_1", won(9_999))
        .send()
        .await
        .refused(422, "amount-mismatch")
        .at("/amount");
    pay("sim_ok_1", json!({"amount": 10_000, "currency": "USD"}))
        .send()
        .await
        .refused(422, "currency-mismatch");
    pay("has space", won(10_000))
        .send()
        .await
        .refused(422, "invalid-value")
        .at("/paymentKey");
    pay("sim_ok_1", won(10_000))
        .without("idempotency-key")
        .send()
        .await
        .refused(400, "idempotency-key-required");
    pay("sim_ok_1", won(10_000))
        .token(&shop.admin)
        .send()
        .await
        .refused(403, "forbidden");
    pay("sim_ok_1", won(10_000))
        .header("if-match", "\"1\"")
        .send()
        .await
        .refused(412, "version-mismatch");
    assert_eq!(look(&shop, &order).await.body["status"], "AWAITING_PAYMENT");
    let paid = pay("sim_ok_1", won(10_000)).header("prefer", "wait=5").send().await;
    assert_eq!((paid.status.as_u16(), paid.body["status"].as_str()), (200, Some("CONFIRMED")));
    pay("sim_ok_1", won(10_000)).send().await.refused(409, "order-not-awaiting-payment");

    let declined = shop
        .order(product, 1, card(Some("sim_declined_1")))
        .header("prefer", "wait=5")
        .send()
        .await;
    assert_eq!(declined.body["failure"]["code"], "PAYMENT_DECLINED");
    assert_eq!(shop.stock(product).await, (8, 0));
}

#[tokio::test]
async fn after_the_deadline_it_is_too_late_for_good() {
    let shop = Shop::with(
        Settings::default(),
        Deadlines {
            payment: Duration::from_millis(100),
        },
    )
    .await;
    let product = shop.product(json!({"onHand": 10})).await;
    let order = shop.order(product, 1, card(None)).send().await.text("orderId");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let pay = shop.post(&format!("/api/v1/orders/{order}/payment")).token(&shop.buyer).new_key();
    pay.json(json!({"paymentKey": "sim_ok_1", "amount": won(5_000)}))
        .send()
        .await
        .refused(410, "payment-expired");
    assert_eq!(look(&shop, &order).await.body["failure"]["code"], "PAYMENT_EXPIRED");
    assert_eq!(shop.stock(product).await, (10, 0));
}

#[tokio::test]
async fn an_order_is_cancelled_until_its_money_is_taken() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    let cancel = |order: &str, token: &str| {
        let call = shop.post(&format!("/api/v1/orders/{order}/cancellation")).token(token).new_key();
        call.json(json!({"reason": "ordered twice"}))
    };
    let order = shop.order(product, 1, card(None)).send().await.text("orderId");
    let cancelled = cancel(&order, &shop.buyer).header("prefer", "wait=5").send().await;
    assert_eq!(
        (cancelled.status.as_u16(), cancelled.body["status"].as_str()),
        (200, Some("CANCELLED"))
    );
    assert_eq!(cancelled.body["failure"]["message"], "구매자가 주문을 취소했습니다");
    assert_eq!(shop.stock(product).await, (10, 0));
    let again = cancel(&order, &shop.admin).send().await;
    assert_eq!(
        (again.status.as_u16(), &again.body["failure"]["code"]),
        (202, &json!("CANCELLED_BY_BUYER"))
    );
    assert!(
        again.body["failure"]["message"].is_string(),
        "a recorded answer gets its message too"
    );

    shop.deposit(shop.buyer_id, 5_000).await;
    let confirmed = shop.order(product, 1, |_| {}).send().await.text("orderId");
    cancel(&confirmed, &shop.buyer).send().await.refused(409, "order-not-cancellable");
    cancel(&confirmed, &shop.buyer)
        .json(json!({"reason": "a\u{1b}[31m"}))
        .send()
        .await
        .refused(400, "control-character")
        .at("/reason");
    cancel(&confirmed, &shop.buyer)
        .json(json!({}))
        .send()
        .await
        .refused(400, "invalid-body")
        .at("/reason");
}

#[tokio::test]
async fn an_order_that_can_never_be_one_is_refused() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    let place = |more: &dyn Fn(&mut Value)| shop.order(product, 1, |body| more(body)).send();
    place(&|body| body["lines"] = json!([]))
        .await
        .refused(422, "line-count")
        .at("/lines");
    let line = json!({"productId": product, "quantity": 1});
    place(&|body| body["lines"] = vec![line.clone(); 101].into())
        .await
        .refused(422, "line-count");
    place(&|body| body["lines"] = vec![line.clone(); 2].into())
        .await
        .refused(422, "duplicate-product")
        .at("/lines/1/productId");
    place(&|body| body["lines"][0]["productId"] = json!(Uuid::max()))
        .await
        .refused(422, "unknown-product")
        .at("/lines/0/productId");
    place(&|body| body["lines"][0]["productId"] = json!("x"))
        .await
        .refused(400, "invalid-body")
        .at("/lines/0/productId");
    for quantity in [0, -1, 1_000_001, i64::MAX] {
        place(&|body| body["lines"][0]["quantity"] = json!(quantity))
            .await
            .refused(422, "quantity-out-of-range")
            .at("/lines/0/quantity");
    }
    for quantity in [json!(1.5), json!("1"), json!(null), json!(u64::MAX), json!(true)] {
        place(&|body| body["lines"][0]["quantity"] = quantity.clone())
            .await
            .refused(400, "invalid-body")
            .at("/lines/0/quantity");
    }
    place(&|body| body["lines"][0]["unitPrice"] = json!({"amount": 1, "currency": "USD"}))
        .await
        .refused(422, "currency-mismatch");
    place(&|body| body["total"] = won(9_007_199_254_740_992))
        .await
        .refused(422, "amount-out-of-range")
        .at("/total/amount");
    place(&|body| body["payment"]["paymentKey"] = json!("sim_ok_1"))
        .await
        .refused(422, "payment-key-not-allowed")
        .at("/payment/paymentKey");
    place(&|body| body["payment"]["method"] = json!("CASH"))
        .await
        .refused(400, "invalid-body")
        .at("/payment/method");
    place(&|body| body["shippingAddress"]["city"] = json!("서\u{8}울"))
        .await
        .refused(400, "control-character")
        .at("/shippingAddress/city");
    place(&|body| body["shippingAddress"]["postalCode"] = json!("1".repeat(21)))
        .await
        .refused(422, "invalid-value");
    place(&|body| drop(body.as_object_mut().and_then(|body| body.remove("shippingAddress"))))
        .await
        .refused(400, "invalid-body")
        .at("/shippingAddress");
    shop.order(product, 1, |_| {})
        .token(&shop.seller)
        .send()
        .await
        .refused(403, "forbidden");
    shop.order(product, 1, |_| {})
        .without("authorization")
        .send()
        .await
        .refused(401, "unauthenticated");
    shop.order(product, 1, |_| {})
        .without("idempotency-key")
        .send()
        .await
        .refused(400, "idempotency-key-required");
    let delete = shop
        .request(http::Method::DELETE, &format!("/api/v1/products/{product}"))
        .token(&shop.seller)
        .send()
        .await;
    assert_eq!(delete.status, 204);
    place(&|_| {}).await.refused(422, "unknown-product");
    assert_eq!(shop.stock(product).await, (10, 0));
}

#[tokio::test]
async fn a_price_that_the_buyer_did_not_see_cancels_the_order_and_refuses_nothing() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    shop.deposit(shop.buyer_id, 50_000).await;
    for wrong in [json!({"unitPrice": won(4_999)}), json!({"total": won(5_001)})] {
        let placed = shop.order(product, 1, |body| {
            if let Some(price) = wrong.get("unitPrice") {
                body["lines"][0]["unitPrice"] = price.clone();
            } else {
                body["total"] = wrong["total"].clone();
            }
        });
        let settled = placed.header("prefer", "wait=5").send().await;
        assert_eq!(
            (settled.status.as_u16(), settled.body["failure"]["code"].as_str()),
            (200, Some("PRICE_MISMATCH"))
        );
    }
    assert_eq!((shop.stock(product).await, shop.balance(shop.buyer_id).await), ((10, 0), 50_000));
}

#[tokio::test]
async fn a_dry_run_answers_the_events_of_the_real_one_and_records_nothing() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    shop.deposit(shop.buyer_id, 5_000).await;
    let dry = || {
        shop.post("/api/v1/orders?dryRun=true")
            .token(&shop.buyer)
            .json(crate::shop::order_body(product, 1, |_| {}))
    };
    let types = |reply: &Reply| -> Vec<String> {
        let events = reply.body["events"].as_array().expect("events");
        events
            .iter()
            .map(|event| event["eventType"].as_str().expect("a type").to_owned())
            .collect()
    };
    let first = dry().send().await;
    assert_eq!(first.status, 200, "without a key, too");
    assert!(types(&first).contains(&"order.confirmed".to_owned()), "{:?}", types(&first));
    assert!(!first.body.to_string().contains("세종대로"));
    assert_eq!(types(&dry().key("order-1").send().await), types(&first));
    assert_eq!((shop.stock(product).await, shop.balance(shop.buyer_id).await), ((10, 0), 5_000));

    let real = shop.order(product, 1, |_| {}).key("order-1").send().await;
    assert_eq!(
        (real.status.as_u16(), real.header("idempotency-replayed")),
        (202, None),
        "a dry run uses no key up"
    );
    assert_eq!(look(&shop, &real.text("orderId")).await.body["status"], "CONFIRMED");
    let poor = dry().send().await;
    assert!(
        types(&poor).contains(&"order.cancelled".to_owned()),
        "a dry run is decided anew: {:?}",
        types(&poor)
    );
    let unknown = shop.post("/api/v1/orders?dryRun=true").token(&shop.buyer);
    unknown
        .json(crate::shop::order_body(Uuid::max(), 1, |_| {}))
        .send()
        .await
        .refused(422, "unknown-product");
    let odd = shop.post("/api/v1/orders?dryRun=yes").token(&shop.buyer).new_key();
    odd.json(crate::shop::order_body(product, 1, |_| {}))
        .send()
        .await
        .refused(400, "invalid-query");
}
