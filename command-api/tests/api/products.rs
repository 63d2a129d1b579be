use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::shop::{Shop, won};

fn pizza(more: impl FnOnce(&mut Value)) -> Value {
    let mut body = json!({"sku": "PIZZA-1", "name": "Pizza", "description": "Margherita", "price": won(20_000), "stock": {"onHand": 30}});
    more(&mut body);
    body
}

#[tokio::test]
async fn a_seller_offers_a_product_with_its_stock() {
    let shop = Shop::open().await;
    let answer = shop.post("/api/v1/products").token(&shop.seller).json(pizza(|_| {})).send().await;
    assert_eq!(answer.status, 201);
    assert_eq!(
        (&answer.body["price"], &answer.body["description"]),
        (&won(20_000), &json!("Margherita"))
    );
    assert_eq!(answer.header("etag"), Some("\"1\""));
    assert_eq!(shop.stock(answer.id("productId")).await, (30, 0));
    let unlimited = shop.product(json!({"unlimited": true})).await;
    let receipt = shop
        .post(&format!("/api/v1/products/{unlimited}/stock/receipts"))
        .token(&shop.seller)
        .new_key();
    receipt.json(json!({"quantity": 1})).send().await.refused(422, "stock-unlimited");
}

#[tokio::test]
async fn an_offer_is_refused_for_what_is_wrong_with_it() {
    let shop = Shop::open().await;
    let offer = |body| shop.post("/api/v1/products").token(&shop.seller).json(body).send();
    offer(pizza(|body| body["price"] = won(0)))
        .await
        .refused(422, "price-not-positive")
        .at("/price/amount");
    offer(pizza(|body| body["price"]["amount"] = json!(-1)))
        .await
        .refused(422, "amount-out-of-range")
        .at("/price/amount");
    offer(pizza(|body| body["price"]["currency"] = json!("EUR")))
        .await
        .refused(422, "currency-mismatch")
        .at("/price/currency");
    offer(pizza(|body| body["price"]["cents"] = json!(1)))
        .await
        .refused(400, "invalid-body")
        .at("/price/cents");
    offer(pizza(|body| body["sku"] = json!("피자")))
        .await
        .refused(422, "invalid-value")
        .at("/sku");
    offer(pizza(|body| body["name"] = json!("a\u{0}b")))
        .await
        .refused(400, "control-character")
        .at("/name");
    offer(pizza(|body| body["stock"] = json!({"onHand": -1})))
        .await
        .refused(422, "quantity-out-of-range")
        .at("/stock/onHand");
    offer(pizza(|body| body["stock"] = json!({})))
        .await
        .refused(422, "invalid-value")
        .at("/stock");
    offer(pizza(|body| body["stock"] = json!({"onHand": 1, "unlimited": true})))
        .await
        .refused(422, "invalid-value")
        .at("/stock");
    shop.post("/api/v1/products")
        .token(&shop.buyer)
        .json(pizza(|_| {}))
        .send()
        .await
        .refused(403, "forbidden");
    shop.post("/api/v1/products")
        .json(pizza(|_| {}))
        .send()
        .await
        .refused(401, "unauthenticated");
}

#[tokio::test]
async fn a_product_is_changed_and_retired_by_its_own_seller() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 1})).await;
    let path = format!("/api/v1/products/{product}");
    let change = |body: Value| shop.request(Method::PATCH, &path).token(&shop.seller).json(body);
    let changed = change(json!({"price": won(5_500)})).header("if-match", "\"1\"").send().await;
    assert_eq!((changed.status.as_u16(), &changed.body["price"]), (200, &won(5_500)));
    assert_eq!(changed.header("etag"), Some("\"2\""));
    let stale = change(json!({"price": won(6_000)})).header("if-match", "\"1\"").send().await;
    stale.refused(412, "version-mismatch");
    assert_eq!(stale.header("etag"), Some("\"2\""));
    assert_eq!(change(json!({})).header("if-match", "*").send().await.status, 200);
    change(json!({}))
        .header("if-match", "2")
        .send()
        .await
        .refused(400, "invalid-header");
    change(json!({"price": won(0)})).send().await.refused(422, "price-not-positive");
    change(json!({"stock": {"onHand": 5}}))
        .send()
        .await
        .refused(400, "invalid-body")
        .at("/stock");

    let rival = shop.newcomer("rival@example.com", "SELLER").await;
    change(json!({"name": "Mine"}))
        .token(&rival)
        .send()
        .await
        .refused(403, "not-your-product");
    shop.request(Method::DELETE, &path)
        .token(&rival)
        .send()
        .await
        .refused(403, "not-your-product");
    let dry = shop
        .request(Method::DELETE, &format!("{path}?dryRun=true"))
        .token(&shop.seller)
        .send()
        .await;
    assert_eq!(dry.body["events"][0]["eventType"], "product.retired");
    let retired = shop.request(Method::DELETE, &path).token(&shop.seller).send().await;
    assert_eq!((retired.status.as_u16(), retired.body), (204, Value::Null));
    assert_eq!(shop.request(Method::DELETE, &path).token(&shop.seller).send().await.status, 204);
    change(json!({"name": "Again"})).send().await.refused(409, "product-retired");
    for id in [Uuid::max().to_string(), "not-a-uuid".to_owned()] {
        let unknown = shop
            .request(Method::DELETE, &format!("/api/v1/products/{id}"))
            .token(&shop.seller)
            .send()
            .await;
        unknown.refused(404, "unknown-product");
    }
}

#[tokio::test]
async fn stock_is_counted_up_and_down_and_never_below_what_is_promised() {
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    let stock = |what: &str, body: Value| {
        shop.post(&format!("/api/v1/products/{product}/stock/{what}"))
            .token(&shop.seller)
            .new_key()
            .json(body)
    };
    let received = stock("receipts", json!({"quantity": 5, "reference": "note 1"})).send().await;
    assert_eq!((received.status.as_u16(), &received.body["onHand"]), (201, &json!(15)));
    let adjusted = stock("adjustments", json!({"delta": -3, "reason": "broken"}))
        .token(&shop.admin)
        .send()
        .await;
    assert_eq!((adjusted.status.as_u16(), &adjusted.body["available"]), (201, &json!(12)));

    let placed = shop
        .order(product, 10, |body| body["payment"] = json!({"method": "CARD"}))
        .send()
        .await;
    assert_eq!(placed.status, 202);
    assert_eq!(shop.stock(product).await, (12, 10));
    stock("adjustments", json!({"delta": -3, "reason": "lost"}))
        .send()
        .await
        .refused(409, "stock-below-reserved");
    stock("adjustments", json!({"delta": 0, "reason": "nothing"}))
        .send()
        .await
        .refused(422, "quantity-zero");
    stock("adjustments", json!({"delta": 1}))
        .send()
        .await
        .refused(400, "invalid-body")
        .at("/reason");
    stock("receipts", json!({"quantity": 0}))
        .send()
        .await
        .refused(422, "quantity-out-of-range")
        .at("/quantity");
    stock("receipts", json!({"quantity": 9_007_199_254_740_991_i64}))
        .send()
        .await
        .refused(422, "stock-too-large");
    stock("receipts", json!({"quantity": 1}))
        .without("idempotency-key")
        .send()
        .await
        .refused(400, "idempotency-key-required");
    stock("receipts", json!({"quantity": 1}))
        .token(&shop.buyer)
        .send()
        .await
        .refused(403, "forbidden");
    let rival = shop.newcomer("rival@example.com", "SELLER").await;
    stock("receipts", json!({"quantity": 1}))
        .token(&rival)
        .send()
        .await
        .refused(403, "not-your-product");
    let unknown = shop
        .post(&format!("/api/v1/products/{}/stock/receipts", Uuid::max()))
        .token(&shop.seller)
        .new_key();
    unknown.json(json!({"quantity": 1})).send().await.refused(404, "unknown-product");
}
