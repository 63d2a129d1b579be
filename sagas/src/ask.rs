//! What a process manager asks for.

use aggregates::{Command, Money, OrderId, PaymentId, PaymentKey, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Something that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Of an aggregate. It answers by an event.
    Tell(Command),
    /// Of the payment provider. Its answer comes back as a command to the payment.
    Provider(ProviderCall),
    /// A command for later. Setting a timer that is set moves it.
    SetTimer {
        /// Names it, derived from what it is for.
        id: Uuid,
        /// When.
        due: Timestamp,
        /// What.
        command: Command,
    },
    /// That timer is not wanted any more.
    CancelTimer {
        /// Names it.
        id: Uuid,
    },
}

/// A call of the payment provider. Made at least once; the provider tells repeats by the idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProviderCall {
    /// Takes the money.
    Charge {
        /// Our payment.
        payment: PaymentId,
        /// Our order: the provider's order id.
        order: OrderId,
        /// The buyer's authorisation.
        payment_key: PaymentKey,
        /// How much.
        amount: Money,
        /// Counted from 1.
        attempt: u32,
    },
    /// Asks what became of a charge.
    Status {
        /// Our payment.
        payment: PaymentId,
        /// Our order.
        order: OrderId,
        /// The buyer's authorisation.
        payment_key: PaymentKey,
        /// How much was asked for.
        amount: Money,
        /// Counted from 1.
        question: u32,
    },
    /// Gives the money back.
    Cancel {
        /// Our payment.
        payment: PaymentId,
        /// Our order.
        order: OrderId,
        /// The buyer's authorisation.
        payment_key: PaymentKey,
        /// How much.
        amount: Money,
        /// Counted from 1.
        attempt: u32,
        /// How often the provider has refused it so far.
        #[serde(default, skip_serializing_if = "crate::is_zero")]
        refusals: u32,
    },
}

impl ProviderCall {
    /// Names this call: derived from what it is for.
    pub fn id(&self) -> Uuid {
        let (name, count) = match self {
            Self::Charge { attempt, .. } => ("charge", attempt),
            Self::Status { question, .. } => ("status", question),
            Self::Cancel { attempt, .. } => ("cancel", attempt),
        };
        Uuid::new_v5(&self.payment().uuid(), format!("{name}/{count}").as_bytes())
    }

    /// Our payment.
    pub fn payment(&self) -> PaymentId {
        match self {
            Self::Charge { payment, .. } | Self::Status { payment, .. } | Self::Cancel { payment, .. } => *payment,
        }
    }

    /// The key under which the provider does this once, however often it is asked. All attempts of a payment share it, but for a
    /// cancellation after it was refused: under the same key the provider would give the same answer for 15 days, whatever has changed
    /// (<https://docs.tosspayments.com/guides/using-api/idempotency-key>), and nothing was given back under that one.
    pub fn idempotency_key(&self) -> String {
        match self {
            Self::Charge { payment, .. } | Self::Status { payment, .. } => format!("charge-{payment}"),
            Self::Cancel { payment, refusals: 0, .. } => format!("cancel-{payment}"),
            Self::Cancel { payment, refusals, .. } => format!("cancel-{payment}-{refusals}"),
        }
    }
}
