//! REST bodies: two letters choose the call and the caller, what follows is the body.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../shop/mod.rs"]
mod shop;

/// Runs are counted, so that each names a key of its own: what is repeated is `rest_headers`' matter.
fn key() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).to_string()
}

fuzz_target!(|input: &[u8]| {
    let [call, caller, body @ ..] = input else { return };
    let key = key();
    let headers: [(&str, &[u8]); 2] = [("content-type", b"application/json"), ("idempotency-key", key.as_bytes())];
    shop::send(call.wrapping_sub(b'a'), caller.wrapping_sub(b'a'), "", &headers, body);
});
