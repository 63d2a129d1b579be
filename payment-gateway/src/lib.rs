//! The payment provider port: charge a payment key, ask what became of it, give the money back.
//!
//! A call never fails, it answers. A final "no" is [`ChargeOutcome::Declined`] or [`CancellationOutcome::Refused`];
//! whatever leaves doubt about the money (a timeout, a lost connection, an answer that cannot be read or that speaks of
//! another amount) is `Unknown`, and the caller asks for the [status](PaymentGateway::status) before it decides. Nothing
//! here retries: when to ask again is the caller's decision, and it must survive a restart.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

/// A request to take the money that the customer has authenticated under a payment key.
#[derive(Clone, PartialEq, Eq)]
pub struct Charge {
    /// The provider's key of the authenticated payment.
    pub payment_key: String,
    /// Our name for what is paid, the provider's `orderId`: 6 to 64 characters.
    pub order_reference: String,
    /// The amount in the currency's smallest unit.
    pub amount: i64,
    /// The ISO 4217 code of the currency.
    pub currency: String,
    /// The same for every repeat of the same attempt, so that the provider charges once.
    pub idempotency_key: String,
}

/// What the provider said to a [`Charge`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum ChargeOutcome {
    /// The money is taken, exactly the amount that was asked for.
    Charged {
        /// The amount in the currency's smallest unit.
        amount: i64,
    },
    /// A final no: no money was taken and repeating the attempt changes nothing.
    Declined {
        /// The provider's stable code.
        code: String,
        /// The provider's words for people.
        message: String,
    },
    /// The money may or may not be taken; the status says.
    Unknown {
        /// Why it is not known, for operators.
        reason: String,
    },
}

/// A question about what became of a payment.
#[derive(Clone, PartialEq, Eq)]
pub struct StatusQuery {
    /// The provider's key of the payment.
    pub payment_key: String,
    /// Our name for what is paid; the answer must carry the same one.
    pub order_reference: String,
    /// The ISO 4217 code of the currency that was asked for; money of another one is no answer.
    pub currency: String,
}

/// What the provider said to a [`StatusQuery`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum StatusOutcome {
    /// The money is taken, and at least part of it is not given back.
    #[serde(rename_all = "camelCase")]
    Charged {
        /// What the provider has of it, in the currency's smallest unit: what was taken, without what was given back. The caller compares
        /// it with the amount it asked for.
        amount: i64,
        /// What was paid for: always the reference of the question.
        order_reference: String,
    },
    /// The money was taken and all of it given back.
    Cancelled,
    /// The provider knows the payment and has taken no money for this order.
    NotCharged {
        /// The provider's name for the state.
        status: String,
    },
    /// The provider knows no such payment.
    NotFound,
    /// The question was not answered.
    Unknown {
        /// Why it is not known, for operators.
        reason: String,
    },
}

/// A request to give back money, all or part of what was charged.
#[derive(Clone, PartialEq, Eq)]
pub struct Cancellation {
    /// The provider's key of the charged payment.
    pub payment_key: String,
    /// Why, in words that the customer may read on a statement.
    pub reason: String,
    /// The amount to give back, in the currency's smallest unit.
    pub amount: i64,
    /// The ISO 4217 code of the currency.
    pub currency: String,
    /// The same for every repeat of the same cancellation, so that the provider gives back once.
    pub idempotency_key: String,
}

/// What the provider said to a [`Cancellation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum CancellationOutcome {
    /// The money is given back.
    Cancelled,
    /// A final no: nothing was given back.
    Refused {
        /// The provider's stable code.
        code: String,
        /// The provider's words for people.
        message: String,
    },
    /// The money may or may not be given back. Repeating under the same idempotency key is safe.
    Unknown {
        /// Why it is not known, for operators.
        reason: String,
    },
}

/// An answer to wait for, sendable between threads.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A payment provider.
pub trait PaymentGateway: Send + Sync {
    /// Takes the money of an authenticated payment. Safe to repeat under the same idempotency key.
    fn charge(&self, charge: Charge) -> Answer<'_, ChargeOutcome>;

    /// Asks what became of a payment. Changes nothing.
    fn status(&self, query: StatusQuery) -> Answer<'_, StatusOutcome>;

    /// Gives money back. Safe to repeat under the same idempotency key.
    fn cancel(&self, cancellation: Cancellation) -> Answer<'_, CancellationOutcome>;
}

// Whoever holds a payment key can take the money, so no debug output shows one.
impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge")
            .field("order_reference", &self.order_reference)
            .field("amount", &self.amount)
            .field("currency", &self.currency)
            .field("idempotency_key", &self.idempotency_key)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for StatusQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusQuery")
            .field("order_reference", &self.order_reference)
            .field("currency", &self.currency)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancellation")
            .field("amount", &self.amount)
            .field("currency", &self.currency)
            .field("idempotency_key", &self.idempotency_key)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_no_payment_key() {
        let charge = Charge {
            payment_key: "secret-key".into(),
            order_reference: "order-1".into(),
            amount: 1,
            currency: "KRW".into(),
            idempotency_key: "attempt-1".into(),
        };
        let shown = format!("{charge:?}");
        assert!(shown.contains("order-1") && !shown.contains("secret-key"), "{shown}");
    }
}
