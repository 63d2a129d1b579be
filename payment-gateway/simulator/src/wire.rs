//! The HTTP side: parses requests, answers in the provider's words.

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use payment_gateway_toss::amount;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::decide::{Cancel, Change, Confirm, Refusal};
use crate::ledger::{Attempt, Entry, LARGEST_PAGE, Payment, Standing};
use crate::script::Script;
use crate::{Simulator, SimulatorError};

const LONGEST_BODY: usize = 64 * 1024;
const LONGEST_PAYMENT_KEY: usize = 200;
const LONGEST_REASON: usize = 200;
const LONGEST_IDEMPOTENCY_KEY: usize = 300;
/// The largest integer that every JSON reader takes exactly.
const LARGEST_AMOUNT: i64 = (1 << 53) - 1;
const USUAL_PAGE: usize = 100;

pub(crate) fn router(simulator: Simulator) -> Router {
    Router::new()
        .route("/v1/payments/confirm", post(confirm))
        .route("/v1/payments/{payment_key}", get(payment))
        .route("/v1/payments/{payment_key}/cancel", post(cancel))
        .route("/v1/ledger", get(entries))
        .fallback(async || Refusal::NO_SUCH_CALL)
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .with_state(simulator)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfirmBody<'a> {
    payment_key: String,
    order_id: String,
    #[serde(borrow)]
    amount: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CancelBody<'a> {
    cancel_reason: String,
    #[serde(borrow)]
    cancel_amount: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LedgerQuery {
    #[serde(default)]
    after: i64,
    limit: Option<usize>,
    order_id: Option<String>,
}

async fn confirm(State(simulator): State<Simulator>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Response, Refusal> {
    authorize(&headers)?;
    let confirm = parse_confirm(&simulator, &headers, &body.map_err(|rejection| unreadable_body(&rejection))?)?;
    let payment = match confirm.script {
        Script::Lost => return Err(simulator.hold().await),
        Script::LostApplied => {
            // Refused or charged, the caller never learns.
            let _ = simulator.change(Change::Confirm(confirm)).await;
            return Err(simulator.hold().await);
        }
        Script::Slow => simulator.confirm_slowly(confirm).await?,
        Script::Ok | Script::Declined | Script::Insufficient | Script::ServerError => simulator.change(Change::Confirm(confirm)).await?,
    };
    Ok(PaymentBody::charged(&payment).into_response())
}

async fn cancel(
    State(simulator): State<Simulator>,
    payment_key: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    authorize(&headers)?;
    let Path(payment_key) = payment_key.map_err(|_| Refusal::NOT_FOUND)?;
    let cancel = parse_cancel(
        &simulator,
        payment_key,
        &headers,
        &body.map_err(|rejection| unreadable_body(&rejection))?,
    )?;
    let payment = simulator.change(Change::Cancel(cancel)).await?;
    Ok(PaymentBody::charged(&payment).into_response())
}

async fn payment(
    State(simulator): State<Simulator>,
    payment_key: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    authorize(&headers)?;
    let Path(payment_key) = payment_key.map_err(|_| Refusal::NOT_FOUND)?;
    if Script::of(&payment_key).is_none() {
        return Err(Refusal::NOT_FOUND);
    }
    Ok(
        match simulator
            .standing(payment_key.clone())
            .await
            .map_err(|error| unreadable_ledger(&error))?
        {
            Standing::Charged(payment) => PaymentBody::charged(&payment).into_response(),
            Standing::Attempted(attempt) => PaymentBody::attempted(&payment_key, &attempt).into_response(),
            Standing::Untouched => PaymentBody::untouched(&payment_key, &simulator.settings().currency).into_response(),
        },
    )
}

/// Open to everyone: any secret key opens the rest, so asking for one here would protect nothing.
async fn entries(State(simulator): State<Simulator>, query: Result<Query<LedgerQuery>, QueryRejection>) -> Result<Response, Refusal> {
    let Query(LedgerQuery { after, limit, order_id }) = query.map_err(|_| Refusal::INVALID)?;
    let limit = limit.unwrap_or(USUAL_PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return Err(Refusal::INVALID);
    }
    let page = simulator
        .entries_after(after, limit, order_id.as_deref())
        .await
        .map_err(|error| unreadable_ledger(&error))?;
    Ok(axum::Json(page).into_response())
}

/// Basic with the secret key as user; which one does not matter.
fn authorize(headers: &HeaderMap) -> Result<(), Refusal> {
    let secret_key = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, encoded)| STANDARD.decode(encoded.trim()).ok());
    match secret_key
        .as_deref()
        .and_then(|credentials| credentials.split(|byte| *byte == b':').next())
    {
        Some(secret_key) if !secret_key.is_empty() => Ok(()),
        _ => Err(Refusal::UNAUTHORIZED),
    }
}

fn parse_confirm(simulator: &Simulator, headers: &HeaderMap, body: &[u8]) -> Result<Confirm, Refusal> {
    let ConfirmBody {
        payment_key,
        order_id,
        amount,
    } = serde_json::from_slice(body).map_err(|_| Refusal::INVALID)?;
    let currency = simulator.settings().currency.clone();
    let amount = parse_amount(amount, &currency)?;
    let order_id_is_right = (6..=64).contains(&order_id.len())
        && order_id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'='));
    if !order_id_is_right || payment_key.chars().count() > LONGEST_PAYMENT_KEY {
        return Err(Refusal::INVALID);
    }
    let script = Script::of(&payment_key).ok_or(Refusal::NOT_FOUND)?;
    Ok(Confirm {
        script,
        payment_key,
        order_id,
        amount,
        currency,
        idempotency_key: idempotency_key(headers)?,
    })
}

fn parse_cancel(simulator: &Simulator, payment_key: String, headers: &HeaderMap, body: &[u8]) -> Result<Cancel, Refusal> {
    let CancelBody {
        cancel_reason: reason,
        cancel_amount,
    } = serde_json::from_slice(body).map_err(|_| Refusal::INVALID)?;
    let currency = &simulator.settings().currency;
    let amount = cancel_amount.map(|amount| parse_amount(amount, currency)).transpose()?;
    if reason.is_empty() || reason.chars().count() > LONGEST_REASON {
        return Err(Refusal::INVALID);
    }
    Ok(Cancel {
        payment_key,
        amount,
        reason,
        idempotency_key: idempotency_key(headers)?,
    })
}

fn parse_amount(number: &RawValue, currency: &str) -> Result<i64, Refusal> {
    amount::from_wire(number.get(), currency)
        .filter(|amount| (1..=LARGEST_AMOUNT).contains(amount))
        .ok_or(Refusal::INVALID)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match key.to_str() {
        Ok(key) if (1..=LONGEST_IDEMPOTENCY_KEY).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Refusal::INVALID),
    }
}

fn unreadable_body(rejection: &BytesRejection) -> Refusal {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        Refusal::TOO_LARGE
    } else {
        Refusal::INVALID
    }
}

fn unreadable_ledger(error: &SimulatorError) -> Refusal {
    if matches!(error, SimulatorError::Busy) {
        return Refusal::BUSY;
    }
    tracing::error!(%error, "the payment simulator's ledger cannot be read");
    Refusal::FAILED
}

/// A payment with the provider's field names.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PaymentBody<'a> {
    payment_key: &'a str,
    order_id: Option<&'a str>,
    status: &'static str,
    total_amount: Box<RawValue>,
    balance_amount: Box<RawValue>,
    currency: &'a str,
    method: Option<&'static str>,
    approved_at: Option<String>,
    cancels: Option<Vec<CancelledBody<'a>>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CancelledBody<'a> {
    cancel_amount: Box<RawValue>,
    cancel_reason: &'a str,
    transaction_key: String,
    canceled_at: String,
}

impl<'a> PaymentBody<'a> {
    fn charged(payment: &'a Payment) -> Self {
        let Payment { charge, cancels } = payment;
        let balance = payment.balance();
        let status = match (balance, cancels.is_empty()) {
            (_, true) => "DONE",
            (0, false) => "CANCELED",
            (_, false) => "PARTIAL_CANCELED",
        };
        let cancelled = (!cancels.is_empty()).then(|| cancels.iter().map(CancelledBody::of).collect());
        Self {
            payment_key: &charge.payment_key,
            order_id: Some(&charge.order_id),
            status,
            total_amount: number(charge.amount, &charge.currency),
            balance_amount: number(balance, &charge.currency),
            currency: &charge.currency,
            method: Some("카드"),
            approved_at: Some(korean_time(charge.at)),
            cancels: cancelled,
        }
    }

    fn attempted(payment_key: &'a str, attempt: &'a Attempt) -> Self {
        let status = if attempt.declined { "ABORTED" } else { "IN_PROGRESS" };
        Self {
            order_id: Some(&attempt.order_id),
            status,
            total_amount: number(attempt.amount, &attempt.currency),
            ..Self::untouched(payment_key, &attempt.currency)
        }
    }

    fn untouched(payment_key: &'a str, currency: &'a str) -> Self {
        Self {
            payment_key,
            order_id: None,
            status: "IN_PROGRESS",
            total_amount: number(0, currency),
            balance_amount: number(0, currency),
            currency,
            method: None,
            approved_at: None,
            cancels: None,
        }
    }
}

impl<'a> CancelledBody<'a> {
    fn of(entry: &'a Entry) -> Self {
        Self {
            cancel_amount: number(entry.amount, &entry.currency),
            cancel_reason: entry.reason.as_deref().unwrap_or_default(),
            transaction_key: format!("sim{:020}", entry.id),
            canceled_at: korean_time(entry.at),
        }
    }
}

/// The amount as a JSON number; the plain integer for a currency that only an edited ledger can name.
fn number(amount: i64, currency: &str) -> Box<RawValue> {
    let number = amount::to_wire(amount, currency).unwrap_or_else(|| amount.to_string());
    RawValue::from_string(number).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The provider writes its times in Korean time, to the second.
fn korean_time(at: Timestamp) -> String {
    at.to_zoned(TimeZone::fixed(Offset::constant(9)))
        .strftime("%Y-%m-%dT%H:%M:%S%:z")
        .to_string()
}

impl IntoResponse for PaymentBody<'_> {
    fn into_response(self) -> Response {
        axum::Json(self).into_response()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::json!({"code": self.code, "message": self.message});
        (status, axum::Json(body)).into_response()
    }
}
