use http::{HeaderMap, Method};
use serde_json::json;
use uuid::Uuid;

use crate::shop::Shop;

const LOGIN: &str = "/api/v1/auth/login";

#[tokio::test]
async fn a_body_that_is_not_json_is_refused_and_never_repeated() {
    let shop = Shop::open().await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for bad in [
        "",
        "{",
        "{\"email\":",
        "nonsense",
        "{} {}",
        "\u{feff}{}",
        "{\"email\": 1e400}",
        "{\"email\":\"\u{1}\"}",
        "{\"email\":\"\\ud800\"}",
    ] {
        let answer = shop.post(LOGIN).raw(bad.to_owned()).send().await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.body);
    }
    assert_eq!(shop.post(LOGIN).raw(vec![0xff, 0xfe, 0x00]).send().await.status, 400);
    assert_eq!(shop.post(LOGIN).raw(deep.clone()).send().await.status, 400);
    assert_eq!(shop.post(LOGIN).raw(format!("{{\"email\": {deep}}}")).send().await.status, 400);

    let wrong = shop
        .post(LOGIN)
        .json(json!({"email": ["minji@example.com"], "password": "p"}))
        .send()
        .await;
    wrong.refused(400, "invalid-body").at("/email");
    let unknown = shop
        .post(LOGIN)
        .json(json!({"email": "a@b.kr", "password": "p", "ad/min": true}))
        .send()
        .await;
    unknown.refused(400, "invalid-body").at("/ad~1min");
    let twice = shop
        .post(LOGIN)
        .raw(r#"{"email": "a@b.kr", "email": "minji@example.com", "password": "p"}"#)
        .send()
        .await;
    twice.refused(400, "invalid-body");
    let number = shop
        .post(LOGIN)
        .json(json!({"email": 3.25, "password": "secret words"}))
        .send()
        .await;
    number.refused(400, "invalid-body").at("/email");
    for answer in [wrong, twice, number] {
        let text = answer.body.to_string();
        assert!(
            !text.contains("minji") && !text.contains("secret") && !text.contains("3.25"),
            "{text}"
        );
    }
    shop.post(LOGIN).json(json!([])).send().await.refused(400, "invalid-body");
}

#[tokio::test]
async fn numbers_that_overflow_are_refused() {
    let shop = Shop::open().await;
    let path = format!("/api/v1/accounts/{}/deposits", shop.buyer_id);
    for (amount, status) in [
        ("1e400", 400),
        ("1.5", 400),
        ("1e3", 400),
        ("-1", 422),
        ("9007199254740992", 422),
        ("9223372036854775808", 400),
        ("-0.0", 400),
    ] {
        let body = format!(r#"{{"amount": {{"amount": {amount}, "currency": "KRW"}}}}"#);
        let answer = shop.post(&path).token(&shop.admin).new_key().raw(body).send().await;
        assert_eq!(answer.status.as_u16(), status, "{amount}: {}", answer.body);
    }
    assert_eq!(shop.balance(shop.buyer_id).await, 0);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_whether_its_length_is_told_or_not() {
    let shop = Shop::open().await;
    let ten_megabytes = vec![b'x'; 10 * 1024 * 1024];
    shop.post(LOGIN)
        .raw(ten_megabytes.clone())
        .send()
        .await
        .refused(413, "body-too-large");
    shop.post(LOGIN)
        .header("content-length", "10485760")
        .raw(ten_megabytes)
        .send()
        .await
        .refused(413, "body-too-large");
    let lines: Vec<_> = (0..10_000).map(|_| json!({"productId": Uuid::max(), "quantity": 1})).collect();
    shop.order(Uuid::max(), 1, |body| body["lines"] = lines.into())
        .send()
        .await
        .refused(413, "body-too-large");
    let lines: Vec<_> = (0..3_000).map(|_| json!({"productId": Uuid::max(), "quantity": 1})).collect();
    shop.order(Uuid::max(), 1, |body| body["lines"] = lines.into())
        .send()
        .await
        .refused(422, "line-count");
    let fits = format!("{{\"email\":\"a@b.kr\",\"password\":\"p\"{}}}", " ".repeat(250_000));
    shop.post(LOGIN).raw(fits).send().await.refused(401, "invalid-credentials");
}

#[tokio::test]
async fn a_body_that_is_not_declared_json_is_refused() {
    let shop = Shop::open().await;
    let login = || json!({"email": "buyer@jangbu.dev", "password": crate::shop::PASSWORD});
    let send = |kind: &str| shop.post(LOGIN).json(login()).header("content-type", kind).send();
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=euc-kr",
        "json",
        "",
    ] {
        send(kind).await.refused(415, "unsupported-media-type");
    }
    shop.post(LOGIN)
        .json(login())
        .without("content-type")
        .send()
        .await
        .refused(415, "unsupported-media-type");
    for kind in [
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/vnd.jangbu+json",
        "application/json;charset=\"UTF-8\"",
    ] {
        assert_eq!(send(kind).await.status, 200, "{kind}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let shop = Shop::open().await;
    for path in ["/api/v1/nope", "/api/v1/orders/x/refunds", "/api/v1/"] {
        shop.get(path).send().await.refused(404, "not-found");
    }
    let wrong = shop.request(Method::PUT, "/api/v1/orders").send().await;
    wrong.refused(405, "method-not-allowed");
    assert_eq!(wrong.header("allow"), Some("POST"));
    let wrong = shop.get("/api/v1/products/0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0").send().await;
    let allow = wrong.refused(405, "method-not-allowed").header("allow").unwrap_or_default();
    assert!(allow.contains("PATCH") && allow.contains("DELETE"), "{allow}");

    let response = command_api::unknown_path(HeaderMap::new()).await;
    assert_eq!(
        (response.status().as_u16(), response.headers()["content-type"].to_str().ok()),
        (404, Some("application/problem+json"))
    );
}

#[tokio::test]
async fn a_problem_speaks_the_language_of_the_request_and_names_its_trace() {
    let shop = Shop::open().await;
    let ask = |language: &str| shop.get("/api/v1/orders/x").header("accept-language", language).send();
    for (language, title, tag) in [
        ("ko", "로그인이 필요합니다", "ko"),
        ("en-GB, ko;q=0.5", "Log in first", "en"),
        ("de, ko;q=0.1", "로그인이 필요합니다", "ko"),
    ] {
        let answer = ask(language).await;
        assert_eq!(
            (answer.text("title").as_str(), answer.header("content-language")),
            (title, Some(tag))
        );
    }
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traced = shop
        .get("/api/v1/orders/x")
        .header("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"))
        .send()
        .await;
    assert_eq!(traced.text("traceId"), trace);
    assert_ne!(ask("ko").await.text("traceId"), ask("ko").await.text("traceId"));

    let page = shop.get("/problems/unknown-order").send().await;
    assert_eq!(
        (page.status.as_u16(), page.body["title"]["ko"].as_str()),
        (200, Some("주문을 찾을 수 없습니다"))
    );
    shop.get("/problems/nope").send().await.refused(404, "not-found");
}

#[tokio::test]
async fn what_is_personal_does_not_reach_the_log() {
    let shop = Shop::open().await;
    shop.newcomer("minji@example.com", "BUYER").await;
    let product = shop.product(json!({"onHand": 1})).await;
    let order = shop
        .order(product, 1, |body| body["payment"] = json!({"method": "CARD"}))
        .send()
        .await
        .text("orderId");
    let cancel = shop
        .post(&format!("/api/v1/orders/{order}/cancellation"))
        .token(&shop.buyer)
        .new_key();
    assert_eq!(cancel.json(json!({"reason": "sent to Minji by mistake"})).send().await.status, 202);
    let events = shop.store.events();
    assert!(events.contains("order.placed") && events.contains("account.opened"));
    for personal in ["minji", "Minji", "새 사람", "김민지", "세종대로", "010-1234", "argon2"] {
        assert!(!events.contains(personal), "{personal}");
    }
}
