//! The client against a provider whose every answer is chosen by the test, over a real loopback listener.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const ORDER: &str = "order-0001";

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn gateway(address: SocketAddr) -> TossGateway {
    TossGateway::new(TossSettings {
        url: format!("http://{address}/simulator/"),
        secret_key: "test_sk".to_owned().into(),
        timeout: Duration::from_millis(500),
    })
    .expect("the settings are right")
}

/// A provider that answers everything with this.
async fn answering(status: u16, body: impl Into<String>) -> TossGateway {
    let answer = (status, body.into());
    let router = Router::new()
        .fallback(async |State((status, body)): State<(u16, String)>| {
            Response::builder()
                .status(status)
                .header("location", "/elsewhere")
                .body(Body::from(body))
                .expect("a response")
        })
        .with_state(answer);
    gateway(serve(router).await)
}

fn charge() -> Charge {
    Charge {
        payment_key: "key/1 %?".into(),
        order_reference: ORDER.into(),
        amount: 15_000,
        currency: "KRW".into(),
        idempotency_key: "attempt-1".into(),
    }
}

fn query() -> StatusQuery {
    StatusQuery {
        payment_key: charge().payment_key,
        order_reference: ORDER.into(),
        currency: "KRW".into(),
    }
}

fn cancellation() -> Cancellation {
    Cancellation {
        payment_key: charge().payment_key,
        reason: "changed my mind".into(),
        amount: 15_000,
        currency: "KRW".into(),
        idempotency_key: "cancel-1".into(),
    }
}

fn payment(status: &str) -> Value {
    json!({"paymentKey": "key/1 %?", "orderId": ORDER, "status": status, "totalAmount": 15_000, "currency": "KRW", "extra": [1]})
}

fn with(mut payment: Value, field: &str, value: Value) -> String {
    payment[field] = value;
    payment.to_string()
}

fn is_unknown_charge(outcome: &ChargeOutcome, word: &str) -> bool {
    matches!(outcome, ChargeOutcome::Unknown { reason } if reason.contains(word))
}

#[tokio::test]
async fn a_charge_is_sent_as_the_provider_documents_it() {
    let router = Router::new().fallback(async |request: Request<Body>| {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 10_000).await.expect("a body");
        let right = head.method == "POST"
            && head.uri.path() == "/simulator/v1/payments/confirm"
            && head.headers["authorization"] == "Basic dGVzdF9zazo="
            && head.headers["idempotency-key"] == "attempt-1"
            && head.headers["content-type"] == "application/json"
            && body == r#"{"paymentKey":"key/1 %?","orderId":"order-0001","amount":15000}"#;
        if right { payment("DONE").to_string() } else { String::new() }
    });
    let gateway = gateway(serve(router).await);
    assert_eq!(gateway.charge(charge()).await, ChargeOutcome::Charged { amount: 15_000 });
}

#[tokio::test]
async fn a_payment_key_is_percent_encoded_in_the_path() {
    let router = Router::new().fallback(async |request: Request<Body>| match request.uri().path() {
        "/simulator/v1/payments/key%2F1%20%25%3F" => payment("DONE").to_string(),
        "/simulator/v1/payments/key%2F1%20%25%3F/cancel" => with(payment("CANCELED"), "cancels", json!([{"cancelAmount": 15_000}])),
        _ => String::new(),
    });
    let gateway = gateway(serve(router).await);
    let charged = StatusOutcome::Charged {
        amount: 15_000,
        order_reference: ORDER.into(),
    };
    assert_eq!(gateway.status(query()).await, charged);
    assert_eq!(gateway.cancel(cancellation()).await, CancellationOutcome::Cancelled);
}

#[tokio::test]
async fn an_answer_about_something_else_is_never_a_charge() {
    for (field, value, word) in [
        ("totalAmount", json!(14_999), "amount"),
        ("totalAmount", json!(15_000.5), "amount"),
        ("totalAmount", json!("15000"), "amount"),
        ("orderId", json!("order-0002"), "order id"),
        ("orderId", json!(null), "order id"),
        ("paymentKey", json!("other"), "payment key"),
        ("currency", json!("USD"), "currency"),
        ("status", json!("IN_PROGRESS"), "status"),
        ("status", json!("CANCELED"), "status"),
    ] {
        let gateway = answering(200, with(payment("DONE"), field, value.clone())).await;
        let outcome = gateway.charge(charge()).await;
        assert!(is_unknown_charge(&outcome, word), "{field} {value}: {outcome:?}");
    }
}

#[tokio::test]
async fn what_leaves_doubt_is_unknown_and_a_final_no_is_declined() {
    for (status, body) in [
        (500, r#"{"code":"FAILED_INTERNAL_SYSTEM_PROCESSING","message":"x"}"#),
        (503, ""),
        (302, ""),
        (200, "<html>"),
        (200, ""),
        (404, "not found"),
        // Another server at its address.
        (404, r#"{"code":"not-found","message":"x","type":"/problems/not-found"}"#),
        (400, r#"{"code":"","message":"x"}"#),
        (401, r#"{"code":"UNAUTHORIZED_KEY","message":"x"}"#),
        (429, r#"{"code":"TOO_MANY_REQUESTS","message":"x"}"#),
        (409, r#"{"code":"IDEMPOTENT_REQUEST_PROCESSING","message":"x"}"#),
        (400, r#"{"code":"IDEMPOTENT_REQUEST_PROCESSING","message":"x"}"#),
        (400, r#"{"code":"ALREADY_PROCESSED_PAYMENT","message":"x"}"#),
        (400, r#"{"code":"PROVIDER_ERROR","message":"x"}"#),
        // Of the shop's key, or of the address, and not of a payment.
        (400, r#"{"code":"INVALID_API_KEY","message":"x"}"#),
        (403, r#"{"code":"INCORRECT_BASIC_AUTH_FORMAT","message":"x"}"#),
        (404, r#"{"code":"NOT_FOUND","message":"x"}"#),
    ] {
        let gateway = answering(status, body).await;
        let outcome = gateway.charge(charge()).await;
        assert!(is_unknown_charge(&outcome, ""), "{status} {body}: {outcome:?}");
        let outcome = gateway.cancel(cancellation()).await;
        assert!(
            matches!(outcome, CancellationOutcome::Unknown { .. }),
            "{status} {body}: {outcome:?}"
        );
        let outcome = gateway.status(query()).await;
        assert!(matches!(outcome, StatusOutcome::Unknown { .. }), "{status} {body}: {outcome:?}");
    }
    for (status, code) in [
        (403, "REJECT_CARD_PAYMENT"),
        (400, "EXCEED_MAX_DAILY_PAYMENT_COUNT"),
        (404, "NOT_FOUND_PAYMENT_SESSION"),
        (403, "NOT_CANCELABLE_AMOUNT"),
    ] {
        let body = json!({"code": code, "message": "no"}).to_string();
        let gateway = answering(status, body).await;
        let declined = ChargeOutcome::Declined {
            code: code.into(),
            message: "no".into(),
        };
        assert_eq!(gateway.charge(charge()).await, declined);
        let refused = CancellationOutcome::Refused {
            code: code.into(),
            message: "no".into(),
        };
        assert_eq!(gateway.cancel(cancellation()).await, refused);
    }
}

#[tokio::test]
async fn every_status_of_the_provider_has_its_meaning() {
    let charged = StatusOutcome::Charged {
        amount: 15_000,
        order_reference: ORDER.into(),
    };
    assert_eq!(answering(200, payment("DONE").to_string()).await.status(query()).await, charged);
    let in_part = with(payment("PARTIAL_CANCELED"), "balanceAmount", json!(1));
    let one_is_left = StatusOutcome::Charged {
        amount: 1,
        order_reference: ORDER.into(),
    };
    assert_eq!(answering(200, in_part).await.status(query()).await, one_is_left);
    let cancelled = answering(200, payment("CANCELED").to_string()).await.status(query()).await;
    assert_eq!(cancelled, StatusOutcome::Cancelled);
    for status in ["READY", "IN_PROGRESS", "WAITING_FOR_DEPOSIT", "ABORTED", "EXPIRED"] {
        let outcome = answering(200, payment(status).to_string()).await.status(query()).await;
        assert_eq!(outcome, StatusOutcome::NotCharged { status: status.into() });
    }
    let not_found = answering(404, r#"{"code":"NOT_FOUND_PAYMENT","message":"x"}"#).await;
    assert_eq!(not_found.status(query()).await, StatusOutcome::NotFound);
    for body in [
        payment("BRAND_NEW").to_string(),
        with(payment("DONE"), "orderId", Value::Null),
        with(payment("DONE"), "currency", json!("XYZ")),
        with(payment("DONE"), "currency", json!("JPY")),
        with(payment("DONE"), "currency", Value::Null),
        payment("PARTIAL_CANCELED").to_string(),
        with(payment("DONE"), "paymentKey", json!("other")),
    ] {
        let outcome = answering(200, body).await.status(query()).await;
        assert!(matches!(outcome, StatusOutcome::Unknown { .. }), "{outcome:?}");
    }
    let unknown = answering(404, r#"{"code":"NOT_FOUND_PAYMENT_SESSION","message":"x"}"#).await;
    assert!(matches!(unknown.status(query()).await, StatusOutcome::Unknown { .. }));
}

#[tokio::test]
async fn a_payment_key_that_paid_another_order_has_not_paid_this_one() {
    for status in ["DONE", "PARTIAL_CANCELED", "CANCELED"] {
        let body = with(payment(status), "orderId", json!("order-0002"));
        let expected = StatusOutcome::NotCharged {
            status: format!("{status} for another order"),
        };
        assert_eq!(answering(200, body).await.status(query()).await, expected);
    }
}

#[tokio::test]
async fn a_cancellation_counts_only_when_the_answer_shows_it() {
    let done = json!([{"cancelAmount": 15_000, "cancelStatus": "DONE"}]);
    let shown = with(payment("CANCELED"), "cancels", done);
    assert_eq!(
        answering(200, shown).await.cancel(cancellation()).await,
        CancellationOutcome::Cancelled
    );
    let whole = json!([{"cancelAmount": 15_000}]);
    let shown = with(payment("CANCELED"), "cancels", whole.clone());
    assert_eq!(
        answering(200, shown).await.cancel(cancellation()).await,
        CancellationOutcome::Cancelled
    );
    for body in [
        payment("CANCELED").to_string(),
        with(payment("DONE"), "cancels", whole),
        with(payment("PARTIAL_CANCELED"), "cancels", json!([{"cancelAmount": 1}])),
        with(
            payment("CANCELED"),
            "cancels",
            json!([{"cancelAmount": 15_000, "cancelStatus": "IN_PROGRESS"}]),
        ),
    ] {
        let outcome = answering(200, body).await.cancel(cancellation()).await;
        assert!(matches!(outcome, CancellationOutcome::Unknown { .. }), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_payment_called_cancelled_is_asked_for_its_status_first() {
    for (status, cancelled) in [("CANCELED", true), ("DONE", false), ("PARTIAL_CANCELED", false)] {
        let router = Router::new().fallback(async move |request: Request<Body>| {
            if request.method() == "GET" {
                return (axum::http::StatusCode::OK, payment(status).to_string());
            }
            (
                axum::http::StatusCode::BAD_REQUEST,
                r#"{"code":"ALREADY_CANCELED_PAYMENT","message":"x"}"#.to_owned(),
            )
        });
        let outcome = gateway(serve(router).await).cancel(cancellation()).await;
        assert_eq!(outcome == CancellationOutcome::Cancelled, cancelled, "{status}: {outcome:?}");
        assert!(cancelled || matches!(outcome, CancellationOutcome::Unknown { .. }), "{outcome:?}");
    }
}

#[tokio::test]
async fn silence_hang_ups_and_endless_answers_are_unknown() {
    let silent = Router::new().fallback(async || std::future::pending::<()>().await);
    let outcome = gateway(serve(silent).await).charge(charge()).await;
    assert!(is_unknown_charge(&outcome, "within"), "{outcome:?}");

    let outcome = answering(200, " ".repeat(LONGEST_ANSWER + 1)).await.charge(charge()).await;
    assert!(is_unknown_charge(&outcome, "longer"), "{outcome:?}");

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    let hang_up = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").await;
    });
    let outcome = gateway(address).charge(charge()).await;
    assert!(is_unknown_charge(&outcome, "lost"), "{outcome:?}");
    hang_up.await.expect("the listener ends");

    let outcome = gateway(address).charge(charge()).await;
    assert!(is_unknown_charge(&outcome, "no connection"), "{outcome:?}");
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_without_a_call() {
    // Nobody listens here, so a call would be Unknown.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let gateway = gateway(listener.local_addr().expect("a bound address"));
    drop(listener);
    let declined = async |change: fn(&mut Charge)| {
        let mut charge = charge();
        change(&mut charge);
        match gateway.charge(charge).await {
            ChargeOutcome::Declined { code, .. } => code,
            outcome => format!("{outcome:?}"),
        }
    };
    assert_eq!(declined(|charge| charge.currency = "BHD".into()).await, "UNSUPPORTED_CURRENCY");
    assert_eq!(declined(|charge| charge.amount = 0).await, "INVALID_AMOUNT");
    assert_eq!(declined(|charge| charge.amount = -1).await, "INVALID_AMOUNT");
    assert_eq!(declined(|charge| charge.payment_key = "..".into()).await, "INVALID_REQUEST");
    assert_eq!(declined(|charge| charge.payment_key = String::new()).await, "INVALID_REQUEST");
    assert_eq!(declined(|charge| charge.payment_key = "k".repeat(201)).await, "INVALID_REQUEST");
    assert_eq!(declined(|charge| charge.idempotency_key = "a\nb".into()).await, "INVALID_REQUEST");
    let nothing = StatusQuery {
        payment_key: "..".into(),
        ..query()
    };
    assert_eq!(gateway.status(nothing).await, StatusOutcome::NotFound);
    let dots = Cancellation {
        payment_key: ".".into(),
        ..cancellation()
    };
    assert!(matches!(gateway.cancel(dots).await, CancellationOutcome::Refused { .. }));
}

#[test]
fn bad_settings_are_named_and_no_secret_is_shown() {
    let with = |url: &str, secret: &str, timeout| {
        TossGateway::new(TossSettings {
            url: url.into(),
            secret_key: secret.to_owned().into(),
            timeout,
        })
    };
    let second = Duration::from_secs(1);
    for url in [
        "",
        "toss",
        "ftp://host",
        "http://user:pass@host",
        "http://host/?a=1",
        "http://host/#a",
    ] {
        assert!(matches!(with(url, "sk", second), Err(TossError::InvalidUrl(_))), "{url}");
    }
    assert!(matches!(with("http://host", "", second), Err(TossError::EmptySecretKey)));
    assert!(matches!(with("http://host", "sk", Duration::ZERO), Err(TossError::ZeroTimeout)));
    // A machine without certificate authorities gets an error, not a panic.
    let tls = with("https://api.tosspayments.com", "sk", second);
    assert!(matches!(tls, Ok(_) | Err(TossError::Client(_))), "{tls:?}");
    let shown = format!("{:?}", with("http://host/a", "hidden", second).expect("right settings"));
    assert!(shown.contains("host/a/v1/payments") && !shown.contains("hidden"), "{shown}");
}
