//! The Toss Payments client: the payment provider port over the provider's HTTP API.
//!
//! It keeps connections open, follows no redirect, reads no answer beyond 64 KiB and waits no longer than its timeout. It
//! never repeats a call and never takes an answer for a charge that speaks of another payment, order, amount or currency.

pub mod amount;
mod wire;

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use payment_gateway::{Answer, Cancellation, CancellationOutcome, Charge, ChargeOutcome, PaymentGateway, StatusOutcome, StatusQuery};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Method, StatusCode, Url, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;
use tracing::Instrument as _;

use crate::wire::{Cancel, Confirm, Failure, Payment};

/// An answer longer than this is not read: a payment takes 2 KiB.
const LONGEST_ANSWER: usize = 64 * 1024;
/// Enough that 500 calls in flight find their connections again.
const IDLE_CONNECTIONS: usize = 1024;
/// Below the idle time of common servers, so that a call seldom meets a connection that is just being closed.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// The provider's own bounds.
const LONGEST_PAYMENT_KEY: usize = 200;
const LONGEST_CANCEL_REASON: usize = 200;
/// How much of the provider's words is kept.
const LONGEST_CODE: usize = 100;
const LONGEST_MESSAGE: usize = 500;

/// Where the provider is and how to call it.
#[derive(Clone, Debug)]
pub struct TossSettings {
    /// The base of the API, `https://api.tosspayments.com` or a simulator's address; a path is kept.
    pub url: String,
    /// The shop's secret key.
    pub secret_key: SecretString,
    /// How long one call may take, from connecting to the last byte of the answer.
    pub timeout: Duration,
}

/// Why the client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TossError {
    /// The address is no base of an HTTP API.
    #[error("the payment provider's URL must be http or https, without user, query or fragment: {0}")]
    InvalidUrl(String),
    /// The secret key is missing.
    #[error("the payment provider's secret key is empty")]
    EmptySecretKey,
    /// No call could ever succeed.
    #[error("the payment provider's timeout must be longer than zero")]
    ZeroTimeout,
    /// The HTTP client refuses, for example because the machine has no certificate authorities.
    #[error("the HTTP client for the payment provider cannot be made: {0}")]
    Client(#[source] reqwest::Error),
}

/// Toss Payments, or whoever speaks its wire API.
#[derive(Clone)]
pub struct TossGateway {
    client: Client,
    authorization: HeaderValue,
    payments: Url,
    confirm: Url,
    timeout: Duration,
}

impl TossGateway {
    /// A client for these settings. It connects when it is first used.
    pub fn new(settings: TossSettings) -> Result<Self, TossError> {
        let TossSettings { url, secret_key, timeout } = settings;
        if timeout.is_zero() {
            return Err(TossError::ZeroTimeout);
        }
        let base = parse_base(&url)?;
        let payments = below(&base, &["v1", "payments"]);
        let confirm = below(&payments, &["confirm"]);
        Ok(Self {
            client: client(&base, timeout).map_err(TossError::Client)?,
            authorization: authorization(&secret_key)?,
            payments,
            confirm,
            timeout,
        })
    }

    async fn confirm(&self, charge: Charge) -> ChargeOutcome {
        let amount = match wire_amount(charge.amount, &charge.currency) {
            Ok(amount) => amount,
            Err((code, message)) => return ChargeOutcome::Declined { code, message },
        };
        let (Some(idempotency_key), true) = (header(&charge.idempotency_key), is_payment_key(&charge.payment_key)) else {
            let (code, message) = invalid_request();
            return ChargeOutcome::Declined { code, message };
        };
        let body = Confirm {
            payment_key: &charge.payment_key,
            order_id: &charge.order_reference,
            amount: &amount,
        };
        match self.call(Method::POST, self.confirm.clone(), Some((&body, idempotency_key))).await {
            Ok(answer) => read_charge(&answer, &charge),
            Err(reason) => ChargeOutcome::Unknown { reason },
        }
    }

    async fn ask(&self, query: StatusQuery) -> StatusOutcome {
        if !is_payment_key(&query.payment_key) {
            return StatusOutcome::NotFound;
        }
        match self.call(Method::GET, below(&self.payments, &[&query.payment_key]), NO_BODY).await {
            Ok(answer) => read_status(&answer, &query.payment_key, &query.currency, Some(&query.order_reference)),
            Err(reason) => StatusOutcome::Unknown { reason },
        }
    }

    async fn give_back(&self, cancellation: Cancellation) -> CancellationOutcome {
        let amount = match wire_amount(cancellation.amount, &cancellation.currency) {
            Ok(amount) => amount,
            Err((code, message)) => return CancellationOutcome::Refused { code, message },
        };
        let idempotency_key = header(&cancellation.idempotency_key);
        let (Some(idempotency_key), true) = (idempotency_key, is_payment_key(&cancellation.payment_key)) else {
            let (code, message) = invalid_request();
            return CancellationOutcome::Refused { code, message };
        };
        let reason = clip(&cancellation.reason, LONGEST_CANCEL_REASON);
        let body = Cancel {
            cancel_reason: &reason,
            cancel_amount: &amount,
        };
        let url = below(&self.payments, &[&cancellation.payment_key, "cancel"]);
        match self.call(Method::POST, url, Some((&body, idempotency_key))).await {
            Ok(answer) => match read_cancellation(&answer, &cancellation) {
                Some(outcome) => outcome,
                None => self.already_cancelled(&cancellation).await,
            },
            Err(reason) => CancellationOutcome::Unknown { reason },
        }
    }

    /// The provider says that nothing is left to give back; its status must say the same before we believe it.
    async fn already_cancelled(&self, cancellation: &Cancellation) -> CancellationOutcome {
        let url = below(&self.payments, &[&cancellation.payment_key]);
        let status = match self.call(Method::GET, url, NO_BODY).await {
            Ok(answer) => read_status(&answer, &cancellation.payment_key, &cancellation.currency, None),
            Err(reason) => return CancellationOutcome::Unknown { reason },
        };
        match status {
            StatusOutcome::Cancelled => CancellationOutcome::Cancelled,
            StatusOutcome::Unknown { reason } => CancellationOutcome::Unknown { reason },
            StatusOutcome::Charged { .. } | StatusOutcome::NotCharged { .. } | StatusOutcome::NotFound => CancellationOutcome::Unknown {
                reason: "the provider called the payment cancelled, but its status says otherwise".into(),
            },
        }
    }

    /// One call, in a span of its own: it names neither address nor payment key, and the provider can continue its trace.
    async fn call<B: serde::Serialize>(&self, method: Method, url: Url, body: Option<(&B, HeaderValue)>) -> Result<HttpAnswer, String> {
        let span = tracing::debug_span!(
            "http",
            otel.name = method.as_str(),
            otel.kind = "client",
            http.request.method = method.as_str(),
            server.address = url.host_str(),
            server.port = url.port_or_known_default(),
            http.response.status_code = tracing::field::Empty,
            otel.status_code = tracing::field::Empty,
        );
        let trace = trace_context::of(&span).and_then(|traceparent| HeaderValue::try_from(traceparent).ok());
        let called = self.call_within(trace, method, url, body).instrument(span.clone()).await;
        match &called {
            Ok(answer) => span.record("http.response.status_code", answer.status.as_u16()),
            Err(_) => span.record("otel.status_code", "ERROR"),
        };
        called
    }

    /// An error is the reason why there is no answer to read; it names neither address nor payment key.
    async fn call_within<B: serde::Serialize>(
        &self,
        trace: Option<HeaderValue>,
        method: Method,
        url: Url,
        body: Option<(&B, HeaderValue)>,
    ) -> Result<HttpAnswer, String> {
        let mut request = self.client.request(method, url).header(AUTHORIZATION, self.authorization.clone());
        if let Some(trace) = trace {
            request = request.header(trace_context::TRACEPARENT, trace);
        }
        if let Some((body, idempotency_key)) = body {
            let body = serde_json::to_vec(body).map_err(|error| format!("the request cannot be written: {error}"))?;
            request = request
                .header("idempotency-key", idempotency_key)
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .body(body);
        }
        let mut response = request.send().await.map_err(|error| self.no_answer(error))?;
        let mut body = Vec::with_capacity(1024);
        while let Some(chunk) = response.chunk().await.map_err(|error| self.no_answer(error))? {
            if body.len() + chunk.len() > LONGEST_ANSWER {
                return Err(format!("the provider's answer is longer than {LONGEST_ANSWER} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(HttpAnswer {
            status: response.status(),
            body,
        })
    }

    fn no_answer(&self, error: reqwest::Error) -> String {
        if error.is_timeout() {
            return format!("no answer from the provider within {:?}", self.timeout);
        }
        let what = if error.is_connect() {
            "no connection to the provider"
        } else {
            "the provider's answer was lost"
        };
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        format!("{what}: {cause}")
    }
}

impl PaymentGateway for TossGateway {
    fn charge(&self, charge: Charge) -> Answer<'_, ChargeOutcome> {
        Box::pin(self.confirm(charge))
    }

    fn status(&self, query: StatusQuery) -> Answer<'_, StatusOutcome> {
        Box::pin(self.ask(query))
    }

    fn cancel(&self, cancellation: Cancellation) -> Answer<'_, CancellationOutcome> {
        Box::pin(self.give_back(cancellation))
    }
}

impl fmt::Debug for TossGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TossGateway")
            .field("payments", &self.payments.as_str())
            .finish_non_exhaustive()
    }
}

/// A status and the bytes that came with it.
struct HttpAnswer {
    status: StatusCode,
    body: Vec<u8>,
}

/// What an answer says before its payment is looked at.
enum Reading<'a> {
    Payment(Payment<'a>),
    Failure(Failure),
    Doubt(String),
}

impl HttpAnswer {
    fn read(&self) -> Reading<'_> {
        let status = self.status;
        if status.is_success() {
            return match serde_json::from_slice(&self.body) {
                Ok(payment) => Reading::Payment(payment),
                Err(_) => Reading::Doubt(format!("the provider's answer with status {status} cannot be read")),
            };
        }
        let failure = serde_json::from_slice::<Failure>(&self.body).ok();
        // A refused secret key says nothing about the payment: it may have been charged under the key before.
        let leaves_doubt = !status.is_client_error()
            || matches!(
                status,
                StatusCode::UNAUTHORIZED | StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS
            );
        match failure {
            Some(failure) if !leaves_doubt && !is_doubtful(&failure.code) => Reading::Failure(Failure {
                code: clip(&failure.code, LONGEST_CODE),
                message: clip(&failure.message, LONGEST_MESSAGE),
            }),
            Some(failure) => Reading::Doubt(format!("the provider answered {status} {}", clip(&failure.code, LONGEST_CODE))),
            None => Reading::Doubt(format!("the provider answered {status} without a readable code")),
        }
    }
}

/// The codes after which the money may or may not have moved, or may move yet, and those that speak of the shop's key or of the address and
/// not of a payment (<https://docs.tosspayments.com/reference/error-codes>); and what is none of the provider's codes (they are written
/// `LIKE_THIS`): then somebody else has answered, a proxy or another server at its address.
fn is_doubtful(code: &str) -> bool {
    let its = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let is_its = !code.is_empty() && code.bytes().all(its);
    !is_its
        || matches!(
            code,
            "ALREADY_PROCESSED_PAYMENT"
                | "ALREADY_COMPLETED_PAYMENT"
                | "IDEMPOTENT_REQUEST_PROCESSING"
                | "INVALID_IDEMPOTENCY_KEY"
                | "PROVIDER_ERROR"
                | "CARD_PROCESSING_ERROR"
                | "UNAUTHORIZED_KEY"
                | "INVALID_API_KEY"
                | "INCORRECT_BASIC_AUTH_FORMAT"
                | "NOT_FOUND"
        )
}

fn read_charge(answer: &HttpAnswer, charge: &Charge) -> ChargeOutcome {
    let payment = match answer.read() {
        Reading::Payment(payment) => payment,
        Reading::Failure(Failure { code, message }) => return ChargeOutcome::Declined { code, message },
        Reading::Doubt(reason) => return ChargeOutcome::Unknown { reason },
    };
    let unknown = |reason: String| ChargeOutcome::Unknown { reason };
    if payment.key != charge.payment_key {
        return unknown("the provider answered for another payment key".into());
    }
    if payment.order_id.as_deref() != Some(&charge.order_reference) {
        return unknown("the provider answered for another order id".into());
    }
    if payment.status != "DONE" {
        return unknown(format!(
            "the provider left the payment in status {}",
            clip(&payment.status, LONGEST_CODE)
        ));
    }
    if payment.currency.as_deref() != Some(&charge.currency) {
        return unknown("the provider answered with another currency".into());
    }
    match payment.total() {
        Some(amount) if amount == charge.amount => ChargeOutcome::Charged { amount },
        Some(amount) => unknown(format!(
            "the provider answered with another amount: {amount}, not {}",
            charge.amount
        )),
        None => unknown("the amount in the provider's answer cannot be read".into()),
    }
}

fn read_status(answer: &HttpAnswer, payment_key: &str, currency: &str, order_reference: Option<&str>) -> StatusOutcome {
    let payment = match answer.read() {
        Reading::Payment(payment) => payment,
        Reading::Failure(failure) if failure.code == "NOT_FOUND_PAYMENT" => return StatusOutcome::NotFound,
        Reading::Failure(Failure { code, .. }) => {
            return StatusOutcome::Unknown {
                reason: format!("the provider refused the status query: {code}"),
            };
        }
        Reading::Doubt(reason) => return StatusOutcome::Unknown { reason },
    };
    let unknown = |reason: &str| StatusOutcome::Unknown { reason: reason.into() };
    if payment.key != payment_key {
        return unknown("the provider answered for another payment key");
    }
    let same_order = order_reference.is_none_or(|ours| payment.order_id.as_deref() == Some(ours));
    match (&*payment.status, same_order) {
        // Nobody's money was taken under this key, whichever order it is for.
        (status @ ("READY" | "IN_PROGRESS" | "WAITING_FOR_DEPOSIT" | "ABORTED" | "EXPIRED"), _) => {
            StatusOutcome::NotCharged { status: status.into() }
        }
        ("DONE" | "PARTIAL_CANCELED" | "CANCELED", false) if payment.order_id.is_none() => {
            unknown("the provider's answer names no order id")
        }
        // A payment key is for one order: what it paid is that order's, and it can never pay this one.
        (status @ ("DONE" | "PARTIAL_CANCELED" | "CANCELED"), false) => StatusOutcome::NotCharged {
            status: format!("{status} for another order"),
        },
        ("CANCELED", true) => StatusOutcome::Cancelled,
        ("DONE" | "PARTIAL_CANCELED", true) if payment.currency.as_deref() != Some(currency) => {
            unknown("the provider answered with another currency")
        }
        (status @ ("DONE" | "PARTIAL_CANCELED"), true) => {
            let kept = if status == "DONE" { payment.total() } else { payment.balance() };
            match (kept, payment.order_id) {
                (Some(amount), Some(order_id)) => StatusOutcome::Charged {
                    amount,
                    order_reference: order_id.into_owned(),
                },
                (_, None) => unknown("the provider's answer names no order id"),
                (None, _) => unknown("the amount in the provider's answer cannot be read"),
            }
        }
        (status, _) => StatusOutcome::Unknown {
            reason: format!("the provider's status is new to us: {}", clip(status, LONGEST_CODE)),
        },
    }
}

/// None when the provider says that everything was given back already.
fn read_cancellation(answer: &HttpAnswer, cancellation: &Cancellation) -> Option<CancellationOutcome> {
    let payment = match answer.read() {
        Reading::Payment(payment) => payment,
        Reading::Failure(failure) if failure.code == "ALREADY_CANCELED_PAYMENT" => return None,
        Reading::Failure(Failure { code, message }) => return Some(CancellationOutcome::Refused { code, message }),
        Reading::Doubt(reason) => return Some(CancellationOutcome::Unknown { reason }),
    };
    let unknown = |reason: &str| Some(CancellationOutcome::Unknown { reason: reason.into() });
    if payment.key != cancellation.payment_key {
        return unknown("the provider answered for another payment key");
    }
    if !matches!(&*payment.status, "CANCELED" | "PARTIAL_CANCELED") {
        return unknown("the provider accepted the cancellation, but its status says otherwise");
    }
    if payment.currency.as_deref() != Some(&cancellation.currency) {
        return unknown("the provider answered with another currency");
    }
    if !payment.gave_back(cancellation.amount) {
        return unknown("the provider's answer shows no cancellation of this amount");
    }
    Some(CancellationOutcome::Cancelled)
}

const NO_BODY: Option<(&(), HeaderValue)> = None;

fn wire_amount(amount: i64, currency: &str) -> Result<Box<RawValue>, (String, String)> {
    if amount <= 0 {
        return Err(("INVALID_AMOUNT".into(), "the amount must be above zero".into()));
    }
    amount::to_wire(amount, currency)
        .and_then(|number| RawValue::from_string(number).ok())
        .ok_or_else(|| {
            (
                "UNSUPPORTED_CURRENCY".into(),
                format!("the provider takes no {}", clip(currency, 3)),
            )
        })
}

fn invalid_request() -> (String, String) {
    (
        "INVALID_REQUEST".into(),
        "the payment key or the idempotency key has characters that cannot be sent".into(),
    )
}

/// Dots alone would climb out of the path, so they are no key.
fn is_payment_key(key: &str) -> bool {
    !key.is_empty() && key.chars().count() <= LONGEST_PAYMENT_KEY && !key.chars().any(char::is_control) && !matches!(key, "." | "..")
}

fn header(value: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(value).ok().filter(|value| !value.is_empty())
}

fn clip(text: &str, characters: usize) -> String {
    text.chars().filter(|character| !character.is_control()).take(characters).collect()
}

fn parse_base(url: &str) -> Result<Url, TossError> {
    let invalid = |reason: &str| TossError::InvalidUrl(reason.to_owned());
    let base = Url::parse(url).map_err(|error| invalid(&error.to_string()))?;
    if !matches!(base.scheme(), "http" | "https") {
        return Err(invalid("another scheme"));
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err(invalid("it names a user"));
    }
    if base.query().is_some() || base.fragment().is_some() {
        return Err(invalid("it has a query or a fragment"));
    }
    Ok(base)
}

/// The address with these segments added, each percent-encoded as a whole.
fn below(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

fn authorization(secret_key: &SecretString) -> Result<HeaderValue, TossError> {
    let secret_key = secret_key.expose_secret();
    if secret_key.is_empty() {
        return Err(TossError::EmptySecretKey);
    }
    let encoded = STANDARD.encode(format!("{secret_key}:"));
    let mut value = HeaderValue::try_from(format!("Basic {encoded}")).map_err(|_| TossError::EmptySecretKey)?;
    value.set_sensitive(true);
    Ok(value)
}

fn client(base: &Url, timeout: Duration) -> Result<Client, reqwest::Error> {
    let mut builder = Client::builder()
        .timeout(timeout)
        .connect_timeout(timeout)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .pool_idle_timeout(IDLE_TIME)
        .http1_only()
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        // Where to call is a setting; the environment has no say in it.
        .no_proxy();
    if base.scheme() == "https" {
        builder = builder.https_only(true);
    } else {
        // Over plain HTTP no certificate is looked at, so a machine without any can still run the simulator.
        builder = builder.tls_certs_only([]);
    }
    builder.build()
}

#[cfg(test)]
mod tests;
