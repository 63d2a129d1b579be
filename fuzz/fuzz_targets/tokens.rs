//! What callers carry from one answer to the next question: consistency tokens and cursors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use query_api::ConsistencyToken;

#[allow(dead_code, clippy::pedantic)]
#[path = "../../query-api/src/cursor.rs"]
mod cursor;
#[allow(dead_code, clippy::pedantic)]
#[path = "../../query-api/src/error.rs"]
mod error;

use cursor::List;

fuzz_target!(|text: &str| {
    if let Ok(token) = text.parse::<ConsistencyToken>() {
        assert_eq!(token.to_string().parse(), Ok(token));
    }
    for list in [List::Orders, List::Products, List::Entries] {
        // A cursor is opaque, so the input is also what is under its base64.
        let wrapped = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text);
        for cursor in [text, &wrapped] {
            by_time(list, cursor);
            by_sequence(list, cursor);
        }
    }
});

fn by_time(list: List, text: &str) {
    let Ok(read) = cursor::parse_by_time(list, Some(text)) else {
        return;
    };
    let read = read.expect("a cursor was given");
    let written = cursor::by_time(list, read);
    assert_eq!(cursor::parse_by_time(list, Some(&written)).ok().flatten(), Some(read));
}

fn by_sequence(list: List, text: &str) {
    let Ok(read) = cursor::parse_by_sequence(list, Some(text)) else {
        return;
    };
    let read = read.expect("a cursor was given");
    let written = cursor::by_sequence(list, read);
    assert_eq!(cursor::parse_by_sequence(list, Some(&written)).ok().flatten(), Some(read));
}
