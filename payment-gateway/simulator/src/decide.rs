//! What the provider answers to a confirmation or a cancellation, decided against the ledger alone.
//!
//! Runs inside the writer's transaction, so two requests never decide on the same state.

use jiff::Timestamp;
use rusqlite::Connection;

use crate::ledger::{self, Attempt, Entry, EntryKind, Payment, Standing};
use crate::script::Script;

/// After this many failures a `sim_5xx_*` payment is approved.
const FAILURES: i64 = 2;
/// Keeps the answer about one payment small.
const MOST_CANCELS: usize = 50;

/// A no, as the wire says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    pub(crate) message: &'static str,
}

impl Refusal {
    const fn new(status: u16, code: &'static str, message: &'static str) -> Self {
        Self { status, code, message }
    }
    pub(crate) const INVALID: Self = Self::new(400, "INVALID_REQUEST", "잘못된 요청입니다.");
    pub(crate) const TOO_LARGE: Self = Self::new(413, "INVALID_REQUEST", "요청 본문이 너무 큽니다.");
    pub(crate) const UNAUTHORIZED: Self = Self::new(401, "UNAUTHORIZED_KEY", "인증되지 않은 시크릿 키 혹은 클라이언트 키 입니다.");
    pub(crate) const NOT_FOUND: Self = Self::new(404, "NOT_FOUND_PAYMENT", "존재하지 않는 결제 정보 입니다.");
    pub(crate) const NO_SUCH_CALL: Self = Self::new(404, "NOT_FOUND", "존재하지 않는 API 입니다.");
    pub(crate) const BUSY: Self = Self::new(503, "SERVICE_UNAVAILABLE", "잠시 후 다시 시도해주세요.");
    pub(crate) const FAILED: Self = Self::new(500, "FAILED_INTERNAL_SYSTEM_PROCESSING", "내부 시스템 처리 작업이 실패했습니다.");
    pub(crate) const NO_ANSWER: Self = Self::new(504, "UNKNOWN_PAYMENT_ERROR", "결제에 실패했어요.");
    pub(crate) const IN_PROGRESS: Self = Self::new(409, "IDEMPOTENT_REQUEST_PROCESSING", "이전 멱등 요청이 처리중입니다.");
    const OTHER_BODY: Self = Self::new(400, "INVALID_IDEMPOTENCY_KEY", "같은 멱등키로 다른 요청을 보낼 수 없습니다.");
    const OTHER_ORDER: Self = Self::new(400, "INVALID_REQUEST", "결제의 주문번호가 일치하지 않습니다.");
    const ALREADY_PROCESSED: Self = Self::new(400, "ALREADY_PROCESSED_PAYMENT", "이미 처리된 결제 입니다.");
    const DECLINED: Self = Self::new(403, "REJECT_CARD_COMPANY", "결제 승인이 거절되었습니다.");
    const INSUFFICIENT: Self = Self::new(403, "REJECT_CARD_PAYMENT", "한도초과 혹은 잔액부족으로 결제에 실패했습니다.");
    const NOT_CANCELABLE: Self = Self::new(403, "NOT_CANCELABLE_PAYMENT", "취소할 수 없는 결제 입니다.");
    const ABOVE_BALANCE: Self = Self::new(403, "NOT_CANCELABLE_AMOUNT", "취소할 수 없는 금액 입니다.");
    const ALREADY_CANCELED: Self = Self::new(400, "ALREADY_CANCELED_PAYMENT", "이미 취소된 결제 입니다.");
}

/// A confirmation whose fields are in order.
#[derive(Clone, Debug)]
pub(crate) struct Confirm {
    pub(crate) script: Script,
    pub(crate) payment_key: String,
    pub(crate) order_id: String,
    pub(crate) amount: i64,
    pub(crate) currency: String,
    pub(crate) idempotency_key: Option<String>,
}

/// A cancellation whose fields are in order.
#[derive(Clone, Debug)]
pub(crate) struct Cancel {
    pub(crate) payment_key: String,
    /// None gives back all that is left.
    pub(crate) amount: Option<i64>,
    pub(crate) reason: String,
    pub(crate) idempotency_key: Option<String>,
}

/// What changes the ledger.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Confirm(Confirm),
    Cancel(Cancel),
}

pub(crate) type Decision = Result<Payment, Refusal>;

impl Change {
    /// Decides and books. An error of the database undoes the whole batch.
    pub(crate) fn decide(&self, connection: &Connection, now: Timestamp) -> rusqlite::Result<Decision> {
        match self {
            Self::Confirm(confirm) => match confirm.script {
                Script::Ok | Script::Slow | Script::LostApplied => charge(connection, confirm, now),
                Script::Declined => decline(connection, confirm, Refusal::DECLINED),
                Script::Insufficient => decline(connection, confirm, Refusal::INSUFFICIENT),
                Script::ServerError => fail_then_charge(connection, confirm, now),
                Script::Lost => Ok(Err(Refusal::NO_ANSWER)),
            },
            Self::Cancel(request) => cancel(connection, request, now),
        }
    }
}

fn charge(connection: &Connection, confirm: &Confirm, now: Timestamp) -> rusqlite::Result<Decision> {
    let mut entry = Entry {
        id: 0,
        at: now,
        kind: EntryKind::Charge,
        payment_key: confirm.payment_key.clone(),
        order_id: confirm.order_id.clone(),
        amount: confirm.amount,
        currency: confirm.currency.clone(),
        idempotency_key: confirm.idempotency_key.clone(),
        reason: None,
    };
    if ledger::book(connection, &mut entry)? {
        return Ok(Ok(Payment {
            charge: entry,
            cancels: Vec::new(),
        }));
    }
    match ledger::standing(connection, &confirm.payment_key)? {
        Standing::Charged(payment) => Ok(repeat(confirm, payment)),
        Standing::Attempted(_) | Standing::Untouched => Ok(Err(Refusal::FAILED)),
    }
}

/// The payment is charged already: the same request gets the same answer, any other is refused.
fn repeat(confirm: &Confirm, payment: Payment) -> Decision {
    let charge = &payment.charge;
    if charge.order_id != confirm.order_id {
        return Err(Refusal::OTHER_ORDER);
    }
    if confirm.idempotency_key.is_none() || charge.idempotency_key != confirm.idempotency_key {
        return Err(Refusal::ALREADY_PROCESSED);
    }
    if charge.amount != confirm.amount {
        return Err(Refusal::OTHER_BODY);
    }
    let id = charge.id;
    Ok(payment.up_to(id))
}

fn decline(connection: &Connection, confirm: &Confirm, refusal: Refusal) -> rusqlite::Result<Decision> {
    match ledger::standing(connection, &confirm.payment_key)? {
        Standing::Charged(payment) => return Ok(repeat(confirm, payment)),
        Standing::Attempted(attempt) if attempt.order_id != confirm.order_id => return Ok(Err(Refusal::OTHER_ORDER)),
        Standing::Attempted(_) => {}
        Standing::Untouched => ledger::remember(connection, &confirm.payment_key, &attempt(confirm, true, 0))?,
    }
    Ok(Err(refusal))
}

fn fail_then_charge(connection: &Connection, confirm: &Confirm, now: Timestamp) -> rusqlite::Result<Decision> {
    let failures = match ledger::standing(connection, &confirm.payment_key)? {
        Standing::Charged(payment) => return Ok(repeat(confirm, payment)),
        Standing::Attempted(attempt) if attempt.order_id != confirm.order_id => return Ok(Err(Refusal::OTHER_ORDER)),
        Standing::Attempted(attempt) => attempt.failures,
        Standing::Untouched => 0,
    };
    if failures >= FAILURES {
        return charge(connection, confirm, now);
    }
    ledger::remember(connection, &confirm.payment_key, &attempt(confirm, false, failures + 1))?;
    Ok(Err(Refusal::FAILED))
}

fn attempt(confirm: &Confirm, declined: bool, failures: i64) -> Attempt {
    Attempt {
        order_id: confirm.order_id.clone(),
        amount: confirm.amount,
        currency: confirm.currency.clone(),
        declined,
        failures,
    }
}

fn cancel(connection: &Connection, request: &Cancel, now: Timestamp) -> rusqlite::Result<Decision> {
    let mut payment = match ledger::standing(connection, &request.payment_key)? {
        Standing::Charged(payment) => payment,
        Standing::Untouched if Script::of(&request.payment_key).is_none() => return Ok(Err(Refusal::NOT_FOUND)),
        Standing::Attempted(_) | Standing::Untouched => return Ok(Err(Refusal::NOT_CANCELABLE)),
    };
    let earlier = payment
        .cancels
        .iter()
        .find(|cancel| request.idempotency_key.is_some() && cancel.idempotency_key == request.idempotency_key);
    if let Some(earlier) = earlier {
        let same = request.amount.is_none_or(|amount| amount == earlier.amount);
        let id = earlier.id;
        return Ok(if same { Ok(payment.up_to(id)) } else { Err(Refusal::OTHER_BODY) });
    }
    let balance = payment.balance();
    let amount = request.amount.unwrap_or(balance);
    if balance == 0 {
        return Ok(Err(Refusal::ALREADY_CANCELED));
    }
    if amount > balance {
        return Ok(Err(Refusal::ABOVE_BALANCE));
    }
    // The last one that fits must be for all that is left, so that no money stays behind.
    if payment.cancels.len() + 1 >= MOST_CANCELS && amount < balance {
        return Ok(Err(Refusal::ABOVE_BALANCE));
    }
    let mut entry = Entry {
        id: 0,
        at: now,
        kind: EntryKind::Cancel,
        amount,
        idempotency_key: request.idempotency_key.clone(),
        reason: Some(request.reason.clone()),
        ..payment.charge.clone()
    };
    ledger::book(connection, &mut entry)?;
    payment.cancels.push(entry);
    Ok(Ok(payment))
}
