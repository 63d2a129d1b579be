//! GraphQL documents against the real schema: one letter says who asks and how, what follows is the document, or the whole body.
#![no_main]

use std::time::Duration;

use axum::{body::Body, http::Request};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

#[allow(clippy::pedantic)]
#[path = "../../query-api/tests/support/mod.rs"]
mod support;

use support::{Served, Shop};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    static SERVED: Served = {
        let mut shop = Shop::new();
        shop.timeouts.consistency = Duration::ZERO;
        RUNTIME.with(|runtime| runtime.block_on(async { shop.serve() }))
    };
}

const ASKERS: [Option<&str>; 4] = [None, Some("token-of-Buyer"), Some("token-of-Seller"), Some("token-of-Admin")];

fuzz_target!(|input: &[u8]| {
    let [how, text @ ..] = input else { return };
    let how = usize::from(how.wrapping_sub(b'a'));
    let Some(request) = request(how / ASKERS.len(), text) else { return };
    let mut request = request;
    if let Some(token) = ASKERS[how % ASKERS.len()] {
        let value = format!("Bearer {token}").parse().expect("a header value");
        request.headers_mut().insert("authorization", value);
    }
    let answer = SERVED.with(|served| RUNTIME.with(|runtime| runtime.block_on(served.send(request))));
    assert!(!answer.status.is_server_error(), "{} {}", answer.status, answer.json);
    assert!(answer.json.is_object(), "{} {}", answer.status, answer.json);
    if answer.status.is_success() {
        assert!(answer.json.get("data").is_some(), "{}", answer.json);
    }
    let errors = answer.json["errors"].as_array().map_or(&[][..], Vec::as_slice);
    assert!(errors.len() <= 20);
    assert!(
        errors.iter().all(|error| error["extensions"]["code"] != "INTERNAL"),
        "{}",
        answer.json
    );
});

fn request(how: usize, text: &[u8]) -> Option<Request<Body>> {
    let post = |body: Vec<u8>| {
        Request::post("/graphql")
            .header("content-type", "application/json")
            .body(Body::from(body))
            .ok()
    };
    match how % 3 {
        0 => post(json!({"query": String::from_utf8_lossy(text)}).to_string().into_bytes()),
        1 => {
            // A document and its variables.
            let text = String::from_utf8_lossy(text);
            let (query, variables) = text.split_once("---\n").unwrap_or((&text, ""));
            let variables = serde_json::from_str(variables).unwrap_or(Value::Null);
            post(json!({"query": query, "variables": variables}).to_string().into_bytes())
        }
        _ => post(text.to_vec()),
    }
}
