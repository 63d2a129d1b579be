//! The terms of a request. Two letters choose the call and the caller; then come a query and header values, one a line: `Idempotency-Key`,
//! `If-Match`, `Prefer`, `Accept-Language`, `traceparent`, `Content-Type`, `Authorization`, `Content-Length`. An empty line is a header that is not sent.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../shop/mod.rs"]
mod shop;

const NAMES: [&str; 8] = [
    "idempotency-key",
    "if-match",
    "prefer",
    "accept-language",
    "traceparent",
    "content-type",
    "authorization",
    "content-length",
];

const BODIES: [&[u8]; 3] = [
    br#"{"quantity": 1}"#,
    br#"{"amount": {"amount": 1, "currency": "KRW"}}"#,
    br#"{"name": "coffee"}"#,
];

fuzz_target!(|input: &[u8]| {
    let [call, caller, lines @ ..] = input else { return };
    let mut lines = lines.split(|byte| *byte == b'\n');
    let query = lines.next().and_then(|query| std::str::from_utf8(query).ok()).unwrap_or_default();
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    let headers: Vec<_> = NAMES.into_iter().zip(lines).filter(|(_, value)| !value.is_empty()).collect();
    let (call, caller) = (call.wrapping_sub(b'a'), caller.wrapping_sub(b'a'));
    shop::send(call, caller, &query, &headers, BODIES[usize::from(call) % BODIES.len()]);
});
