//! The payment provider of a shop that is made up: the simulator's books, with the time that its answers take.

use std::time::Duration;

use aggregates::OrderId;
use engine::Outcome;
use http::StatusCode;
use jiff::Timestamp;
use payment_gateway::{CancellationOutcome, ChargeOutcome, StatusOutcome};
use payment_gateway_simulator::{Books, Known, Word};
use rustc_hash::FxHashMap;
use sagas::ProviderCall;

use super::{calendar::SECOND, chance::Dice};
use crate::failure::Failure;

/// Answers calls, and writes what it takes and gives back.
pub(super) struct Provider {
    books: Books,
    /// How long the shop waits for an answer.
    timeout: Duration,
    /// Until when nothing is heard about these orders.
    silent: FxHashMap<OrderId, i64>,
}

impl Provider {
    pub(super) fn new(books: Books, timeout: Duration) -> Self {
        Self {
            books,
            timeout,
            silent: FxHashMap::default(),
        }
    }

    pub(super) fn books(self) -> Books {
        self.books
    }

    /// Says nothing about this order until then.
    pub(super) fn be_silent(&mut self, order: OrderId, until: i64) {
        self.silent.insert(order, until);
    }

    /// What it says to a call that is made now, and when.
    pub(super) fn answer(&mut self, call: &ProviderCall, now: i64, dice: &mut Dice) -> Result<(i64, Outcome), Failure> {
        let at = Timestamp::from_microsecond(now).map_err(Failure::failed)?;
        let key = call.idempotency_key();
        let (order, outcome) = match call {
            ProviderCall::Charge {
                order,
                payment_key,
                amount,
                ..
            } => {
                let word = self
                    .books
                    .confirm(at, payment_key.as_str(), &order.to_string(), amount.minor(), &key)?;
                (*order, self.charged(&word))
            }
            ProviderCall::Status { order, payment_key, .. } => (*order, Outcome::Status(known(self.books.known(payment_key.as_str())?))),
            ProviderCall::Cancel {
                order,
                payment_key,
                amount,
                ..
            } => {
                const REASON: &str = "the order was cancelled";
                let word = self.books.cancel(at, payment_key.as_str(), amount.minor(), REASON, &key)?;
                (*order, self.given_back(&word))
            }
        };
        let silent = self.silent.get(&order).is_some_and(|until| now < *until);
        let outcome = if silent {
            self.unheard(call)
        } else {
            self.silent.remove(&order);
            outcome
        };
        let slow = matches!(call, ProviderCall::Charge { payment_key, .. } if payment_key.as_str().starts_with("sim_slow_"));
        let takes = if silent || is_timeout(&outcome, &self.no_answer()) {
            i64::try_from(self.timeout.as_micros()).unwrap_or(i64::MAX)
        } else if slow {
            3 * SECOND + dice.between(50_000, 400_000)
        } else {
            dice.between(120_000, 900_000)
        };
        Ok((now.saturating_add(takes), outcome))
    }

    fn no_answer(&self) -> String {
        format!("no answer from the provider within {:?}", self.timeout)
    }

    fn unheard(&self, call: &ProviderCall) -> Outcome {
        let reason = self.no_answer();
        match call {
            ProviderCall::Charge { .. } => Outcome::Charge(ChargeOutcome::Unknown { reason }),
            ProviderCall::Status { .. } => Outcome::Status(StatusOutcome::Unknown { reason }),
            ProviderCall::Cancel { .. } => Outcome::Cancel(CancellationOutcome::Unknown { reason }),
        }
    }

    fn charged(&self, word: &Word) -> Outcome {
        Outcome::Charge(match *word {
            Word::Done { amount } => ChargeOutcome::Charged { amount },
            Word::Refused { status: 500.., code, .. } => ChargeOutcome::Unknown { reason: failed(code) },
            Word::Refused { code, message, .. } => ChargeOutcome::Declined {
                code: code.to_owned(),
                message: message.to_owned(),
            },
            Word::Silence => ChargeOutcome::Unknown { reason: self.no_answer() },
        })
    }

    fn given_back(&self, word: &Word) -> Outcome {
        Outcome::Cancel(match *word {
            Word::Done { .. } => CancellationOutcome::Cancelled,
            Word::Refused { code, message, .. } => CancellationOutcome::Refused {
                code: code.to_owned(),
                message: message.to_owned(),
            },
            Word::Silence => CancellationOutcome::Unknown { reason: self.no_answer() },
        })
    }
}

fn failed(code: &str) -> String {
    format!("the provider answered {} {code}", StatusCode::INTERNAL_SERVER_ERROR)
}

fn known(known: Known) -> StatusOutcome {
    match known {
        Known::Charged { amount, order_id } => StatusOutcome::Charged {
            amount,
            order_reference: order_id,
        },
        Known::Cancelled => StatusOutcome::Cancelled,
        Known::NotCharged { status } => StatusOutcome::NotCharged { status: status.to_owned() },
        Known::Nothing => StatusOutcome::NotFound,
    }
}

fn is_timeout(outcome: &Outcome, words: &str) -> bool {
    matches!(outcome, Outcome::Charge(ChargeOutcome::Unknown { reason }) if reason == words)
}
