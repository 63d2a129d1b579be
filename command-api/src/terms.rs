//! The terms of a request: what its headers and query ask for beside its body.

use std::time::Duration;

use axum::extract::FromRequestParts;
use http::{HeaderMap, HeaderValue, header::IF_MATCH, request::Parts};
use uuid::Uuid;

use crate::{
    edge::Trace,
    language::Language,
    problem::{self, Problem},
};

/// The longest that `Prefer: wait` waits.
const LONGEST_WAIT: u64 = 60;

/// What a request asks for beside its body.
pub(crate) struct Terms {
    /// `Idempotency-Key`.
    key: Option<String>,
    /// `If-Match`.
    pub(crate) if_match: Option<u64>,
    /// `Prefer: wait`.
    pub(crate) wait: Option<Duration>,
    /// `?dryRun=true`.
    pub(crate) dry_run: bool,
    /// The language of messages.
    pub(crate) language: Language,
    /// What it belongs to.
    pub(crate) trace: Trace,
}

impl<S: Send + Sync> FromRequestParts<S> for Terms {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self {
            key: idempotency_key(&parts.headers)?,
            if_match: if_match(&parts.headers)?,
            wait: wait(&parts.headers),
            dry_run: dry_run(parts.uri.query())?,
            language: crate::language::preferred(&parts.headers),
            trace: parts
                .extensions
                .get::<Trace>()
                .cloned()
                .unwrap_or_else(|| Trace::of(&parts.headers)),
        })
    }
}

impl Terms {
    /// The idempotency key, where the call can do without one.
    pub(crate) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The idempotency key, where a repeat would do harm. A dry run does none.
    pub(crate) fn required_key(&self) -> Result<Option<&str>, Problem> {
        if self.key.is_none() && !self.dry_run {
            return Err(Problem::with(
                &problem::IDEMPOTENCY_KEY_REQUIRED,
                "name a new Idempotency-Key for each request, and the same one when you repeat it",
            ));
        }
        Ok(self.key())
    }
}

/// A structured-field string (`"…"`), or the same without quotes: up to 255 visible ASCII characters.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let invalid = || {
        Problem::with(
            &problem::IDEMPOTENCY_KEY_INVALID,
            "an idempotency key is a string of 1 to 255 visible ASCII characters",
        )
    };
    if values.next().is_some() {
        return Err(invalid());
    }
    let key = value.to_str().ok().and_then(unquoted).ok_or_else(invalid)?;
    let fits = !key.is_empty() && key.len() <= 255 && key.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(Some(key)) } else { Err(invalid()) }
}

fn unquoted(text: &str) -> Option<String> {
    let Some(rest) = text.strip_prefix('"') else {
        return (!text.contains('"')).then(|| text.to_owned());
    };
    let quoted = rest.strip_suffix('"')?;
    let mut key = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => key.push(chars.next().filter(|escaped| matches!(escaped, '"' | '\\'))?),
            '"' => return None,
            char => key.push(char),
        }
    }
    Some(key)
}

/// `"<version>"`, or `*` for any.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let mut values = headers.get_all(IF_MATCH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" && values.next().is_none() {
        return Ok(None);
    }
    let version = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let version = version.filter(|version| !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()));
    match (version.and_then(|version| version.parse().ok()), values.next()) {
        (Some(version), None) => Ok(Some(version)),
        _ => Err(Problem::with(
            &problem::INVALID_HEADER,
            "If-Match takes one version as the ETag has it, for example \"3\", or *",
        )),
    }
}

/// `Prefer: wait=N` in seconds, up to the longest (RFC 7240: what cannot be read is no preference).
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut preferences = preferences.flat_map(|value| value.split(','));
    let wait = preferences.find_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"'))
    })?;
    let digits = !wait.is_empty() && wait.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| Duration::from_secs(wait.parse().unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)))
}

/// What `Preference-Applied` says of a wait.
pub(crate) fn preference_applied(wait: Duration) -> HeaderValue {
    HeaderValue::try_from(format!("wait={}", wait.as_secs())).unwrap_or_else(|_| HeaderValue::from_static("wait"))
}

fn dry_run(query: Option<&str>) -> Result<bool, Problem> {
    let Some(query) = query else { return Ok(false) };
    let mut dry_run = false;
    for pair in query.split('&') {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("dryRun", "true") => dry_run = true,
            ("dryRun", "false") => dry_run = false,
            ("dryRun", _) => return Err(Problem::with(&problem::INVALID_QUERY, "dryRun is true or false")),
            _ => {}
        }
    }
    Ok(dry_run)
}

/// An id of a path: a UUID with its hyphens.
pub(crate) fn path_id(text: &str) -> Option<Uuid> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn a_key_is_the_same_with_and_without_quotes() {
        let key = |text| idempotency_key(&headers("idempotency-key", text)).map_err(|_| ());
        assert_eq!(key("order-1"), Ok(Some("order-1".to_owned())));
        assert_eq!(key("\"order-1\""), Ok(Some("order-1".to_owned())));
        assert_eq!(key(r#""a\"b\\c""#), Ok(Some(r#"a"b\c"#.to_owned())));
        for bad in ["", "\"\"", "\"a", "a\"", "a b", r#""a\b""#, "\"a\"b\""] {
            assert_eq!(key(bad), Err(()), "{bad}");
        }
        assert!(idempotency_key(&HeaderMap::new()).is_ok_and(|key| key.is_none()));
    }

    #[test]
    fn if_match_is_one_version_or_any() {
        let version = |text| if_match(&headers("if-match", text)).map_err(|_| ());
        assert_eq!(version("\"3\""), Ok(Some(3)));
        assert_eq!(version("*"), Ok(None));
        for bad in [
            "3",
            "W/\"3\"",
            "\"three\"",
            "\"+3\"",
            "\"1\", \"2\"",
            "\"\"",
            "\"99999999999999999999\"",
        ] {
            assert_eq!(version(bad), Err(()), "{bad}");
        }
    }

    #[test]
    fn a_wait_is_capped_and_one_that_cannot_be_read_is_none() {
        let seconds = |text| wait(&headers("prefer", text)).map(|wait| wait.as_secs());
        assert_eq!(seconds("wait=10"), Some(10));
        assert_eq!(seconds("respond-async, Wait = \"5\""), Some(5));
        assert_eq!(seconds("wait=100000000000000000000"), Some(60));
        for none in ["", "wait", "wait=", "wait=-1", "wait=1.5", "return=minimal"] {
            assert_eq!(seconds(none), None, "{none}");
        }
    }

    #[test]
    fn a_dry_run_is_asked_for_by_true_alone() {
        assert!(dry_run(Some("dryRun=true")).is_ok_and(|dry_run| dry_run));
        assert!(dry_run(Some("a=b&dryRun=false")).is_ok_and(|dry_run| !dry_run));
        assert!(dry_run(Some("dryRun=1")).is_err());
        assert!(dry_run(Some("dryRun")).is_err());
    }

    #[test]
    fn an_id_has_its_hyphens() {
        assert!(path_id("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0").is_some());
        assert!(path_id("0f1e2d3c4b5a69788796a5b4c3d2e1f0").is_none());
        assert!(path_id("not-a-uuid").is_none());
    }
}
