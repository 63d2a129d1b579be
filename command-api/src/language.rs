//! The language that a request is answered in.

use aggregates::FailureCode;
pub(crate) use aggregates::Language;
use http::{HeaderMap, header::ACCEPT_LANGUAGE};

/// The language that a request likes best.
pub(crate) fn preferred(headers: &HeaderMap) -> Language {
    Language::preferred(headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()))
}

/// Why an order was cancelled, in words for people.
pub(crate) fn failure_message(code: &str, language: Language) -> &'static str {
    match (FailureCode::named(code), language) {
        (Some(code), language) => code.message(language),
        // Recorded by a version that knows more.
        (None, Language::Korean) => "주문이 취소되었습니다",
        (None, Language::English) => "The order was cancelled",
    }
}
