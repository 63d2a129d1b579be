//! Bodies: read within bounds, strictly, and turned into values that are right.

use std::{borrow::Cow, str::FromStr, time::Duration};

use aggregates::{Currency, Money, PaymentMethod, TextError};
use axum::{
    body::Body as Stream,
    extract::{FromRequest, Request},
};
use bytes::Bytes;
use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_path_to_error::Segment;
use utoipa::ToSchema;

use crate::problem::{self, Code, Fault, Problem};

/// The most bytes that a body may have.
pub(crate) const LARGEST: usize = 256 * 1024;
/// How long a body may take to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);
/// How much of a body that is too large is read and thrown away, so that its sender gets to read the answer.
const THROWN_AWAY: usize = 16 * 1024 * 1024;
const THROWN_AWAY_WITHIN: Duration = Duration::from_secs(5);
/// The most faults that one answer names.
const MOST_FAULTS: usize = 20;

/// A JSON body of this shape, and of no other.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let json = is_json(request.headers());
        let declared = declared_length(request.headers());
        let mut stream = request.into_body();
        if declared.is_some_and(|length| length > LARGEST) {
            return Err(too_large(&mut stream).await);
        }
        if !json {
            return Err(Problem::of(&problem::UNSUPPORTED_MEDIA_TYPE));
        }
        let read = tokio::time::timeout(ARRIVES_WITHIN, collect(&mut stream)).await;
        let Some(bytes) = read.map_err(|_| Problem::of(&problem::REQUEST_TIMEOUT))?? else {
            return Err(too_large(&mut stream).await);
        };
        parse(&bytes).map(Self)
    }
}

fn declared_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `application/json` or `application/…+json`, in UTF-8.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    if value == "application/json" {
        return true;
    }
    let mut parts = value.split(';').map(|part| part.trim().to_ascii_lowercase());
    let kind = parts.next().unwrap_or_default();
    let json = kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
    json && parts
        .all(|parameter| !parameter.starts_with("charset=") || parameter.trim_start_matches("charset=").trim_matches('"') == "utf-8")
}

/// The body, or none when it is too large.
async fn collect(stream: &mut Stream) -> Result<Option<Bytes>, Problem> {
    let mut one = Bytes::new();
    let mut more = Vec::new();
    while let Some(frame) = stream.frame().await {
        let frame = frame.map_err(|_| Problem::with(&problem::MALFORMED_JSON, "the body broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        if one.len() + more.len() + data.len() > LARGEST {
            return Ok(None);
        }
        // Most bodies come in one piece, which is used as it is.
        if one.is_empty() && more.is_empty() {
            one = data;
            continue;
        }
        if more.is_empty() {
            more.extend_from_slice(&std::mem::take(&mut one));
        }
        more.extend_from_slice(&data);
    }
    Ok(Some(if more.is_empty() { one } else { more.into() }))
}

async fn too_large(stream: &mut Stream) -> Problem {
    let throw_away = async {
        let mut left = THROWN_AWAY;
        while let Some(Ok(frame)) = stream.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // Whether it all came makes no difference to the answer.
    let _ = tokio::time::timeout(THROWN_AWAY_WITHIN, throw_away).await;
    Problem::with(&problem::BODY_TOO_LARGE, "a body has at most 262144 bytes")
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Knowing where a fault is costs as much as reading, so it is found out only when there is one.
    serde_json::from_slice(bytes).or_else(|_| parse_with_path(bytes))
}

fn parse_with_path<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = pointer(error.path());
        unreadable(error.inner(), path)
    })?;
    json.end().map_err(|error| unreadable(&error, String::new()))?;
    Ok(value)
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => push(&mut pointer, &index.to_string()),
            Segment::Map { key } => push(&mut pointer, key),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// One more step of a JSON pointer (RFC 6901).
fn push(pointer: &mut String, step: &str) {
    pointer.push('/');
    let step: Cow<'_, str> = if step.contains(['~', '/']) {
        step.replace('~', "~0").replace('/', "~1").into()
    } else {
        step.into()
    };
    pointer.extend(step.chars().take(128));
}

/// Says what is wrong with a body without repeating any of its values.
fn unreadable(error: &serde_json::Error, mut pointer: String) -> Problem {
    let text = error.to_string();
    let position = format!("line {} column {}", error.line(), error.column());
    if !error.is_data() {
        return Problem::with(&problem::MALFORMED_JSON, format!("the body is not valid JSON at {position}"));
    }
    let quoted = text.split('`').nth(1).unwrap_or_default();
    let detail = if text.starts_with("missing field") {
        push(&mut pointer, quoted);
        Cow::Borrowed("is required")
    } else if text.starts_with("unknown field") {
        // Some readers point at the member, others at what holds it.
        let mut member = String::new();
        push(&mut member, quoted);
        if !pointer.ends_with(&member) {
            pointer.push_str(&member);
        }
        Cow::Borrowed("is not a member of this body")
    } else if text.starts_with("duplicate field") {
        Cow::Borrowed("is named twice")
    } else {
        expected(&text)
    };
    let code = Cow::Borrowed(problem::INVALID_BODY.name);
    Problem::faults(&problem::INVALID_BODY, vec![Fault { pointer, code, detail }])
}

/// What the reader expected; what it found stays unsaid.
fn expected(text: &str) -> Cow<'static, str> {
    let text = text.rsplit_once(" at line ").map_or(text, |(text, _)| text);
    match text.rsplit_once(", expected ") {
        Some((_, expected)) => format!("must be {}", in_words_of_json(expected)).into(),
        None => Cow::Borrowed("is not of the form that is expected"),
    }
}

/// Our readers name types of Rust, which mean nothing to those who wrote the body.
fn in_words_of_json(expected: &str) -> &str {
    match expected {
        "i64" => "a whole number",
        "a sequence" => "an array",
        "a map" => "an object",
        name if name.starts_with("struct ") => "an object",
        words => words,
    }
}

/// An amount in the smallest unit of its currency.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Money)]
pub(crate) struct MoneyBody {
    /// A whole number of the currency's smallest unit.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_i64, example = 15000)]
    pub(crate) amount: i64,
    /// ISO 4217; the shop's own.
    #[schema(value_type = String, example = "KRW", pattern = "^[A-Z]{3}$")]
    pub(crate) currency: Currency,
}

/// How an order is paid.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = PaymentMethod)]
pub(crate) enum MethodBody {
    /// By the payment provider.
    Card,
    /// From the buyer's balance.
    Balance,
}

impl From<MethodBody> for PaymentMethod {
    fn from(method: MethodBody) -> Self {
        match method {
            MethodBody::Card => Self::Card,
            MethodBody::Balance => Self::Balance,
        }
    }
}

/// What is wrong with the values of a body: all of it, up to a bound.
#[derive(Default)]
pub(crate) struct Faults {
    code: Option<&'static Code>,
    faults: Vec<Fault>,
}

impl Faults {
    /// Names a fault.
    pub(crate) fn add(&mut self, code: &'static Code, pointer: impl Into<String>, detail: impl Into<Cow<'static, str>>) {
        // What cannot be read comes before what is not allowed.
        if self.code.is_none_or(|known| code.status < known.status) {
            self.code = Some(code);
        }
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(Fault {
                pointer: pointer.into(),
                code: Cow::Borrowed(code.name),
                detail: detail.into(),
            });
        }
    }

    /// A text of some kind.
    pub(crate) fn text<T: FromStr<Err = TextError>>(&mut self, pointer: &'static str, text: &str) -> Option<T> {
        text.parse()
            .map_err(|error| self.add(text_code(&error), pointer, error.to_string()))
            .ok()
    }

    /// A text that may be left out; none within when it was.
    #[expect(clippy::option_option, reason = "nothing wrong, and nothing there")]
    pub(crate) fn optional_text<T: FromStr<Err = TextError>>(&mut self, pointer: &'static str, text: Option<&str>) -> Option<Option<T>> {
        match text {
            Some(text) => self.text(pointer, text).map(Some),
            None => Some(None),
        }
    }

    /// An amount in the shop's currency.
    pub(crate) fn money(&mut self, pointer: impl FnOnce() -> String, money: MoneyBody, shop: Currency) -> Option<Money> {
        if money.currency != shop {
            self.add(
                &problem::CURRENCY_MISMATCH,
                pointer() + "/currency",
                format!("this shop sells in {shop}"),
            );
            return None;
        }
        if !(0..=Money::MAX_MINOR).contains(&money.amount) {
            let detail = "an amount is a whole number of minor units from 0 to 9007199254740991";
            self.add(&problem::AMOUNT_OUT_OF_RANGE, pointer() + "/amount", detail);
            return None;
        }
        Some(Money::new(money.amount, money.currency))
    }

    /// A price: an amount of at least 1.
    pub(crate) fn price(&mut self, pointer: &'static str, money: MoneyBody, shop: Currency) -> Option<Money> {
        let price = self.money(|| pointer.to_owned(), money, shop)?;
        if price.minor() == 0 {
            self.add(&problem::PRICE_NOT_POSITIVE, format!("{pointer}/amount"), "a price is at least 1");
            return None;
        }
        Some(price)
    }

    /// A whole number within a range.
    pub(crate) fn count(&mut self, pointer: &'static str, count: i64, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        if range.contains(&count) {
            return Some(count);
        }
        let detail = format!("must be a whole number from {} to {}", range.start(), range.end());
        self.add(&problem::QUANTITY_OUT_OF_RANGE, pointer, detail);
        None
    }

    /// The answer that names them.
    pub(crate) fn problem(self) -> Problem {
        Problem::faults(self.code.unwrap_or(&problem::INVALID_BODY), self.faults)
    }

    /// Nothing, when there is no fault.
    pub(crate) fn none(self) -> Result<(), Problem> {
        if self.faults.is_empty() { Ok(()) } else { Err(self.problem()) }
    }
}

const fn text_code(error: &TextError) -> &'static Code {
    match error {
        TextError::Control => &problem::CONTROL_CHARACTER,
        TextError::Empty | TextError::TooLong(_) | TextError::Form(_) => &problem::INVALID_VALUE,
    }
}
