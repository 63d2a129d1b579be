//! The language that a question is answered in.

pub(crate) use aggregates::Language;
use axum::http::{HeaderMap, header};

/// The language that a request likes best.
pub(crate) fn preferred(headers: &HeaderMap) -> Language {
    Language::preferred(headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()))
}
