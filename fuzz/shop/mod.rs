//! The command API on a real engine with its log in memory, and what must be true of each of its answers.

use std::{cell::RefCell, sync::LazyLock};

use axum::{Router, body::Body};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;

#[allow(dead_code, clippy::pedantic)]
#[path = "../../command-api/tests/api/shop.rs"]
mod harness;

/// The calls there are; `{product}` and `{order}` are ones that exist.
pub(crate) const CALLS: [(Method, &str); 23] = [
    (Method::POST, "/api/v1/orders"),
    (Method::POST, "/api/v1/orders/{order}/payment"),
    (Method::POST, "/api/v1/orders/{order}/cancellation"),
    (Method::GET, "/api/v1/orders/{order}"),
    (Method::POST, "/api/v1/products"),
    (Method::PATCH, "/api/v1/products/{product}"),
    (Method::POST, "/api/v1/products/{product}/stock/receipts"),
    (Method::POST, "/api/v1/products/{product}/stock/adjustments"),
    (Method::POST, "/api/v1/accounts"),
    (Method::POST, "/api/v1/accounts/{buyer}/deposits"),
    (Method::POST, "/api/v1/auth/login"),
    (Method::POST, "/api/v1/auth/refresh"),
    (Method::POST, "/api/v1/auth/logout"),
    (Method::GET, "/api/v1/.well-known/jwks.json"),
    (Method::POST, "/api/v1/nothing/here"),
    (Method::DELETE, "/api/v1/products/{retired}"),
    (Method::POST, "/api/v1/ops/processes/{order}/resume"),
    (Method::POST, "/api/v1/ops/processes/{order}/compensate"),
    (Method::POST, "/api/v1/ops/processes/{order}/resolve"),
    (Method::GET, "/api/v1/ops/processes"),
    (Method::GET, "/api/v1/ops/parked"),
    // Nothing is set aside here, so this names nothing.
    (Method::POST, "/api/v1/ops/parked/{order}/retry"),
    (Method::POST, "/api/v1/ops/parked/{order}/drop"),
];

/// Everything that is recorded stays in memory, so a shop is left for a new one after so many requests.
const REQUESTS_OF_A_SHOP: u32 = 5_000;

/// Who calls.
pub(crate) const CALLERS: u8 = 5;

struct Open {
    router: Router,
    shop: harness::Shop,
    product: String,
    retired: String,
    order: String,
    requests: u32,
}

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    static OPEN: RefCell<Option<Open>> = const { RefCell::new(None) };
}

static DOCUMENT: LazyLock<Value> = LazyLock::new(command_api::openapi_document);

impl Open {
    async fn new() -> Self {
        let shop = harness::Shop::open().await;
        shop.deposit(shop.buyer_id, 1_000_000).await;
        let product = shop.product(json!({"onHand": 1_000_000})).await;
        let retired = shop.product(json!({"unlimited": true})).await;
        let placed = shop
            .order(product, 1, |body| body["payment"] = json!({"method": "CARD"}))
            .send()
            .await;
        Self {
            router: command_api::router(shop.api.clone()),
            product: product.to_string(),
            retired: retired.to_string(),
            order: placed.text("orderId"),
            shop,
            requests: 0,
        }
    }

    fn token(&self, caller: u8) -> Option<String> {
        match caller % CALLERS {
            0 => Some(format!("Bearer {}", self.shop.buyer)),
            1 => Some(format!("Bearer {}", self.shop.seller)),
            2 => Some(format!("Bearer {}", self.shop.admin)),
            3 => None,
            _ => Some("Bearer a.b.c".to_owned()),
        }
    }

    /// Ids are new in each shop, so an input names them by what they are of.
    fn named(&self, text: &str) -> String {
        text.replace("{product}", &self.product)
            .replace("{retired}", &self.retired)
            .replace("{order}", &self.order)
            .replace("{buyer}", &self.shop.buyer_id.to_string())
    }

    fn body(&self, body: &[u8]) -> Vec<u8> {
        std::str::from_utf8(body).map_or_else(|_| body.to_vec(), |text| self.named(text).into_bytes())
    }
}

/// Sends one request to the shop, and checks the answer.
pub(crate) fn send(call: u8, caller: u8, query: &str, headers: &[(&str, &[u8])], body: &[u8]) {
    let (method, template) = &CALLS[usize::from(call) % CALLS.len()];
    RUNTIME.with(|runtime| {
        OPEN.with_borrow_mut(|open| {
            runtime.block_on(async {
                if open.as_ref().is_none_or(|open| open.requests >= REQUESTS_OF_A_SHOP) {
                    *open = None;
                    *open = Some(Open::new().await);
                }
                let open = open.as_mut().expect("opened above");
                open.requests += 1;
                let mut request = Request::builder().method(method.clone()).uri(open.named(template) + query);
                if let Some(token) = open.token(caller) {
                    request = request.header(header::AUTHORIZATION, token);
                }
                for (name, value) in headers {
                    request = request.header(*name, *value);
                }
                // A header that no server would have let through is no request.
                let Ok(request) = request.body(Body::from(open.body(body))) else {
                    return;
                };
                let response = open.router.clone().oneshot(request).await.expect("a router does not fail");
                let (parts, body) = response.into_parts();
                let body = body.collect().await.expect("a body").to_bytes();
                check(method, template, parts.status, &parts.headers, &body);
            });
        });
    });
}

fn check(method: &Method, template: &str, status: StatusCode, headers: &http::HeaderMap, body: &[u8]) {
    assert!(
        !status.is_server_error(),
        "{method} {template}: {status} {}",
        String::from_utf8_lossy(body)
    );
    let json: Option<Value> = (!body.is_empty()).then(|| serde_json::from_slice(body).expect("an answer is JSON"));
    if status.is_client_error() {
        let json = json.expect("a problem has a body");
        assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(json["status"], status.as_u16());
        assert!(
            json["code"].is_string() && json["title"].is_string() && json["traceId"].is_string(),
            "{json}"
        );
    }
    let documented_as = |template: &str, name| template.replace(name, "{id}");
    let template = ["{product}", "{retired}", "{order}", "{buyer}"]
        .into_iter()
        .fold(template.to_owned(), |template, name| documented_as(&template, name));
    let operation = &DOCUMENT["paths"][&template][method.as_str().to_ascii_lowercase()];
    if operation.is_object() {
        let documented = operation["responses"].get(status.as_str()).is_some();
        assert!(documented, "{method} {template} answered {status}, which is not documented");
    }
}
