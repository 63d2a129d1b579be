//! The payment of an order: what was asked of whom, and what came of it.
//!
//! The hardest state is *unknown*: the provider was asked and gave no answer. Only the provider's own word ends it, and until then no
//! other attempt under another idempotency key is made. Charged means confirmed or given back, always.

use serde::{Deserialize, Serialize};

use crate::{AccountId, Class, Decide, Money, OrderId, PaymentKey, PaymentMethod, Reason, Resolution, aggregate, stored_names};

/// What a payment can be asked or told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PaymentCommand {
    /// Says what is to be paid.
    Prepare {
        /// The order.
        order: OrderId,
        /// Who pays.
        buyer: AccountId,
        /// How much.
        amount: Money,
        /// How.
        method: PaymentMethod,
    },
    /// Asks the provider to take the money.
    Request {
        /// The buyer's authorisation.
        payment_key: PaymentKey,
    },
    /// Asks again, under the same idempotency key: the attempt before took nothing.
    Repeat,
    /// The money was taken.
    RecordCapture {
        /// How much.
        amount: Money,
    },
    /// It was refused for good.
    RecordDecline {
        /// The refuser's code.
        code: String,
        /// The refuser's words.
        message: String,
    },
    /// Nobody knows whether the money was taken.
    RecordUnknown {
        /// What happened instead of an answer.
        reason: String,
    },
    /// The provider says that it took nothing (so far).
    RecordNotCharged {
        /// The provider's word for it.
        status: String,
    },
    /// It is time to ask the provider what became of the payment.
    AskStatus,
    /// The time to pay is over and nothing was taken.
    Expire,
    /// Nobody wants to pay any more and nothing was taken.
    Cancel,
    /// Gives the money back.
    Reverse,
    /// The money was given back.
    RecordReversal,
    /// Nobody knows whether the money was given back.
    RecordReversalUnknown {
        /// What happened instead of an answer.
        reason: String,
    },
    /// The provider will not give it back.
    RecordReversalRefused {
        /// The provider's code.
        code: String,
        /// The provider's words.
        message: String,
    },
    /// A person has looked at the provider's books.
    Resolve {
        /// Where the money is.
        outcome: Resolution,
    },
}

/// What has happened to a payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum PaymentEvent {
    /// It is clear what is to be paid.
    #[serde(rename = "payment.prepared")]
    Prepared {
        /// The order.
        order: OrderId,
        /// Who pays.
        buyer: AccountId,
        /// How much.
        amount: Money,
        /// How.
        method: PaymentMethod,
    },
    /// The provider is asked to take the money.
    #[serde(rename = "payment.requested")]
    Requested {
        /// The order, so that what follows needs no look-up.
        order: OrderId,
        /// The buyer's authorisation.
        payment_key: PaymentKey,
        /// How much.
        amount: Money,
        /// 1 for the first time; all attempts go under one idempotency key.
        attempt: u32,
    },
    /// No answer came: the money may be taken, or not.
    #[serde(rename = "payment.outcome_unknown")]
    OutcomeUnknown {
        /// The order.
        order: OrderId,
        /// What happened instead of an answer.
        reason: String,
        /// How many questions about it went without a clear answer.
        questions: u32,
    },
    /// The provider is asked what became of it.
    #[serde(rename = "payment.status_asked")]
    StatusAsked {
        /// The order.
        order: OrderId,
        /// The buyer's authorisation.
        payment_key: PaymentKey,
        /// Counted from 1.
        question: u32,
    },
    /// The provider says that it took nothing (so far).
    #[serde(rename = "payment.not_charged")]
    NotCharged {
        /// The order.
        order: OrderId,
        /// The provider's word for it.
        status: String,
        /// How many questions were asked so far.
        questions: u32,
    },
    /// The money is taken.
    #[serde(rename = "payment.captured")]
    Captured {
        /// The order.
        order: OrderId,
        /// How much.
        amount: Money,
    },
    /// Refused for good: nothing is taken.
    #[serde(rename = "payment.declined")]
    Declined {
        /// The order.
        order: OrderId,
        /// The refuser's code.
        code: String,
        /// The refuser's words.
        message: String,
    },
    /// Not paid in time: nothing is taken.
    #[serde(rename = "payment.expired")]
    Expired {
        /// The order.
        order: OrderId,
    },
    /// Not wanted any more: nothing is taken.
    #[serde(rename = "payment.cancelled")]
    Cancelled {
        /// The order.
        order: OrderId,
    },
    /// The money is asked back.
    #[serde(rename = "payment.reversal_requested")]
    ReversalRequested {
        /// The order.
        order: OrderId,
        /// Who paid.
        buyer: AccountId,
        /// The buyer's authorisation; none when it was paid from the balance.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payment_key: Option<PaymentKey>,
        /// How much.
        amount: Money,
        /// 1 for the first time; all attempts go under one idempotency key.
        attempt: u32,
    },
    /// No answer came: the money may be back, or not.
    #[serde(rename = "payment.reversal_unknown")]
    ReversalUnknown {
        /// The order.
        order: OrderId,
        /// What happened instead of an answer.
        reason: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The money is back.
    #[serde(rename = "payment.reversed")]
    Reversed {
        /// The order.
        order: OrderId,
        /// How much.
        amount: Money,
    },
    /// The provider will not give it back: a person has to look.
    #[serde(rename = "payment.reversal_refused")]
    ReversalRefused {
        /// The order.
        order: OrderId,
        /// The provider's code.
        code: String,
        /// The provider's words.
        message: String,
    },
    /// The provider says another amount than the one asked for: a person has to look.
    #[serde(rename = "payment.contradicted")]
    Contradicted {
        /// The order.
        order: OrderId,
        /// What was asked for.
        expected: Money,
        /// What the provider says.
        found: Money,
    },
    /// A person has looked at the provider's books: their word ends what the provider did not say.
    #[serde(rename = "payment.resolved")]
    Resolved {
        /// The order.
        order: OrderId,
        /// Where the money is.
        outcome: Resolution,
        /// How much of it.
        amount: Money,
    },
}

stored_names!(PaymentEvent {
    Prepared => "payment.prepared",
    Requested => "payment.requested",
    OutcomeUnknown => "payment.outcome_unknown",
    StatusAsked => "payment.status_asked",
    NotCharged => "payment.not_charged",
    Captured => "payment.captured",
    Declined => "payment.declined",
    Expired => "payment.expired",
    Cancelled => "payment.cancelled",
    ReversalRequested => "payment.reversal_requested",
    ReversalUnknown => "payment.reversal_unknown",
    Reversed => "payment.reversed",
    ReversalRefused => "payment.reversal_refused",
    Contradicted => "payment.contradicted",
    Resolved => "payment.resolved",
});

/// Why a payment refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PaymentError {
    /// There is no such payment.
    #[error("there is no such payment")]
    Unknown,
    /// A process asked for what its state does not allow.
    #[error("the payment is {0}")]
    NotAllowed(&'static str),
    /// It has one authorisation for ever.
    #[error("this payment goes by another payment key")]
    OtherKey,
}

impl Reason for PaymentError {
    fn class(&self) -> Class {
        match self {
            Self::Unknown => Class::Unknown,
            Self::NotAllowed(_) | Self::OtherKey => Class::State,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown-payment",
            Self::NotAllowed(_) => "payment-state",
            Self::OtherKey => "other-payment-key",
        }
    }
}

/// Where a payment stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PaymentStatus {
    /// It is clear what is to be paid.
    #[default]
    Prepared,
    /// The provider is asked.
    Pending,
    /// No answer came.
    Unknown,
    /// The provider says that nothing was taken so far.
    NotCharged,
    /// Taken.
    Captured,
    /// Refused for good.
    Declined,
    /// Not paid in time.
    Expired,
    /// Not wanted any more.
    Cancelled,
    /// Being given back.
    Reversing,
    /// Given back.
    Reversed,
    /// A person has to look.
    NeedsAttention,
}

impl PaymentStatus {
    /// As the outside sees it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepared => "PREPARED",
            Self::Pending => "PENDING",
            Self::Unknown => "UNKNOWN",
            Self::NotCharged => "NOT_CHARGED",
            Self::Captured => "CAPTURED",
            Self::Declined => "DECLINED",
            Self::Expired => "EXPIRED",
            Self::Cancelled => "CANCELLED",
            Self::Reversing => "REVERSING",
            Self::Reversed => "REVERSED",
            Self::NeedsAttention => "NEEDS_ATTENTION",
        }
    }
}

/// A payment's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    bill: Option<Bill>,
    status: PaymentStatus,
    key: Option<PaymentKey>,
    attempts: u32,
    questions: u32,
    reversals: u32,
    /// What the provider has, if that is another amount than the bill's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    found: Option<Money>,
}

/// What is to be paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    /// The order.
    pub order: OrderId,
    /// Who pays.
    pub buyer: AccountId,
    /// How much.
    pub amount: Money,
    /// How.
    pub method: PaymentMethod,
}

impl Payment {
    /// What is to be paid; none before it is prepared.
    pub fn bill(&self) -> Option<&Bill> {
        self.bill.as_ref()
    }

    /// Where it stands.
    pub fn status(&self) -> PaymentStatus {
        self.status
    }

    /// The buyer's authorisation, once one was given.
    pub fn payment_key(&self) -> Option<&PaymentKey> {
        self.key.as_ref()
    }

    /// Whether it is over with nothing taken, as far as is known. Money may still turn up: another request may have been on its way.
    fn is_over(&self) -> bool {
        matches!(
            self.status,
            PaymentStatus::Declined | PaymentStatus::Expired | PaymentStatus::Cancelled
        )
    }

    fn request(&self, bill: &Bill, payment_key: PaymentKey) -> Vec<PaymentEvent> {
        vec![PaymentEvent::Requested {
            order: bill.order,
            payment_key,
            amount: bill.amount,
            attempt: self.attempts.saturating_add(1),
        }]
    }

    fn reverse(&self, bill: &Bill) -> Vec<PaymentEvent> {
        vec![PaymentEvent::ReversalRequested {
            order: bill.order,
            buyer: bill.buyer,
            payment_key: self.key.clone(),
            amount: self.taken(bill),
            attempt: self.reversals.saturating_add(1),
        }]
    }

    /// What there is to give back.
    fn taken(&self, bill: &Bill) -> Money {
        self.found.unwrap_or(bill.amount)
    }

    /// A person's word counts where the provider's is missing: not against what it has said. But that nothing was taken it can only say of
    /// the moment when it was asked: money that a person finds later is taken.
    fn resolve(&self, bill: &Bill, outcome: Resolution) -> Vec<PaymentEvent> {
        use PaymentStatus as Status;
        // The provider has said that it has the money, and would not give it back.
        let kept = self.status == Status::NeedsAttention && self.reversals > 0;
        let open = matches!(
            self.status,
            Status::Pending | Status::Unknown | Status::NotCharged | Status::NeedsAttention
        ) && !kept;
        let amount = match outcome {
            Resolution::Charged | Resolution::NotCharged if open => bill.amount,
            Resolution::Charged if self.is_over() && self.key.is_some() => bill.amount,
            Resolution::Refunded if open || kept || matches!(self.status, Status::Captured | Status::Reversing) => self.taken(bill),
            Resolution::Charged | Resolution::NotCharged | Resolution::Refunded => return vec![],
        };
        vec![PaymentEvent::Resolved {
            order: bill.order,
            outcome,
            amount,
        }]
    }

    fn capture(bill: &Bill, amount: Money) -> Vec<PaymentEvent> {
        let order = bill.order;
        vec![if amount == bill.amount {
            PaymentEvent::Captured { order, amount }
        } else {
            PaymentEvent::Contradicted {
                order,
                expected: bill.amount,
                found: amount,
            }
        }]
    }
}

impl Decide for Payment {
    fn decide(&self, command: PaymentCommand) -> Result<Vec<PaymentEvent>, PaymentError> {
        use PaymentCommand as Command;
        use PaymentStatus as Status;
        let Some(bill) = &self.bill else {
            return match command {
                Command::Prepare {
                    order,
                    buyer,
                    amount,
                    method,
                } => Ok(vec![PaymentEvent::Prepared {
                    order,
                    buyer,
                    amount,
                    method,
                }]),
                _ => Err(PaymentError::Unknown),
            };
        };
        let order = bill.order;
        match (self.status, command) {
            (_, Command::Prepare { .. }) => Ok(vec![]),
            (_, Command::Request { payment_key }) if self.key.as_ref().is_some_and(|known| *known != payment_key) => {
                Err(PaymentError::OtherKey)
            }
            (Status::Prepared, Command::Request { payment_key }) => Ok(self.request(bill, payment_key)),
            (Status::NotCharged, Command::Repeat) => Ok(self.key.clone().map(|key| self.request(bill, key)).unwrap_or_default()),

            // Money that was taken is taken, however late the news is.
            (
                Status::Prepared
                | Status::Pending
                | Status::Unknown
                | Status::NotCharged
                | Status::Expired
                | Status::Cancelled
                | Status::Declined,
                Command::RecordCapture { amount },
            ) => Ok(Self::capture(bill, amount)),
            (Status::Captured | Status::Reversing | Status::Reversed | Status::NeedsAttention, Command::RecordCapture { .. }) => Ok(vec![]),
            (Status::Prepared | Status::Pending | Status::Unknown | Status::NotCharged, Command::RecordDecline { code, message }) => {
                Ok(vec![PaymentEvent::Declined { order, code, message }])
            }
            (Status::Pending | Status::Unknown | Status::NotCharged, Command::RecordUnknown { reason }) => {
                Ok(vec![PaymentEvent::OutcomeUnknown {
                    order,
                    reason,
                    questions: self.questions,
                }])
            }
            (Status::Pending | Status::Unknown, Command::RecordNotCharged { status }) => Ok(vec![PaymentEvent::NotCharged {
                order,
                status,
                questions: self.questions,
            }]),
            // After the end: the answer to a last look, or no answer. The watch goes on as its schedule says.
            (Status::Declined | Status::Expired | Status::Cancelled, Command::RecordNotCharged { status }) => {
                Ok(vec![PaymentEvent::NotCharged {
                    order,
                    status,
                    questions: self.questions,
                }])
            }
            (Status::Declined | Status::Expired | Status::Cancelled, Command::RecordUnknown { reason }) => {
                Ok(vec![PaymentEvent::OutcomeUnknown {
                    order,
                    reason,
                    questions: self.questions,
                }])
            }
            // What the provider has refused to give back it has: there is nothing to ask.
            (Status::NeedsAttention, Command::AskStatus) if self.reversals > 0 => Ok(vec![]),
            (
                Status::Pending
                | Status::Unknown
                | Status::NotCharged
                | Status::Declined
                | Status::Expired
                | Status::Cancelled
                | Status::NeedsAttention,
                Command::AskStatus,
            ) => {
                let key = self.key.clone();
                Ok(key
                    .map(|payment_key| PaymentEvent::StatusAsked {
                        order,
                        payment_key,
                        question: self.questions.saturating_add(1),
                    })
                    .into_iter()
                    .collect())
            }

            (Status::Prepared | Status::NotCharged, Command::Expire) => Ok(vec![PaymentEvent::Expired { order }]),
            (Status::Prepared | Status::NotCharged, Command::Cancel) => Ok(vec![PaymentEvent::Cancelled { order }]),

            // The balance answers every time; only a provider may have to be asked again.
            (Status::Reversing, Command::Reverse) if bill.method == PaymentMethod::Balance => Ok(vec![]),
            (Status::Captured | Status::Reversing | Status::NeedsAttention, Command::Reverse) => Ok(self.reverse(bill)),
            // It has said what it took, and is being asked once more.
            (Status::Unknown, Command::Reverse) if self.found.is_some() => Ok(self.reverse(bill)),
            (Status::Reversing, Command::RecordReversal) => Ok(vec![PaymentEvent::Reversed {
                order,
                amount: self.taken(bill),
            }]),
            (Status::Reversing, Command::RecordReversalUnknown { reason }) => Ok(vec![PaymentEvent::ReversalUnknown {
                order,
                reason,
                attempts: self.reversals,
            }]),
            (Status::Reversing, Command::RecordReversalRefused { code, message }) => {
                Ok(vec![PaymentEvent::ReversalRefused { order, code, message }])
            }

            // A late or repeated word about what has ended already, or is decided by the provider's word alone. Nobody would read a refusal.
            (
                _,
                Command::Request { .. }
                | Command::Expire
                | Command::Cancel
                | Command::RecordDecline { .. }
                | Command::RecordUnknown { .. }
                | Command::RecordNotCharged { .. }
                | Command::RecordReversal
                | Command::RecordReversalUnknown { .. }
                | Command::RecordReversalRefused { .. }
                | Command::AskStatus
                | Command::Repeat,
            )
            | (Status::Reversed, Command::Reverse) => Ok(vec![]),
            (_, Command::Resolve { outcome }) => Ok(self.resolve(bill, outcome)),
            (status, Command::Reverse) => Err(PaymentError::NotAllowed(status.name())),
        }
    }

    fn evolve(&mut self, event: &PaymentEvent) {
        use PaymentEvent as Event;
        let over = self.is_over();
        match event {
            Event::Prepared {
                order,
                buyer,
                amount,
                method,
            } => {
                self.bill = Some(Bill {
                    order: *order,
                    buyer: *buyer,
                    amount: *amount,
                    method: *method,
                });
                self.status = PaymentStatus::Prepared;
            }
            Event::Requested { payment_key, attempt, .. } => {
                self.key = Some(payment_key.clone());
                self.attempts = *attempt;
                self.status = PaymentStatus::Pending;
            }
            Event::OutcomeUnknown { .. } if over => {}
            Event::OutcomeUnknown { .. } => self.status = PaymentStatus::Unknown,
            Event::StatusAsked { question, .. } => {
                self.questions = *question;
                // Asked once more after it contradicted itself, or said that nothing was taken: it counts as silent until it answers.
                if matches!(self.status, PaymentStatus::NeedsAttention | PaymentStatus::NotCharged) {
                    self.status = PaymentStatus::Unknown;
                }
            }
            Event::NotCharged { .. } if over => {}
            Event::NotCharged { .. } => self.status = PaymentStatus::NotCharged,
            Event::Captured { .. } => {
                self.found = None;
                self.status = PaymentStatus::Captured;
            }
            Event::Declined { .. } => self.status = PaymentStatus::Declined,
            Event::Expired { .. } => self.status = PaymentStatus::Expired,
            Event::Cancelled { .. } => self.status = PaymentStatus::Cancelled,
            Event::ReversalRequested { attempt, .. } => {
                self.reversals = *attempt;
                self.status = PaymentStatus::Reversing;
            }
            Event::ReversalUnknown { .. } => self.status = PaymentStatus::Reversing,
            Event::Reversed { .. } => self.status = PaymentStatus::Reversed,
            Event::ReversalRefused { .. } => self.status = PaymentStatus::NeedsAttention,
            Event::Contradicted { found, .. } => {
                self.found = Some(*found);
                self.status = PaymentStatus::NeedsAttention;
            }
            Event::Resolved { outcome, .. } => {
                self.status = match outcome {
                    Resolution::Charged => PaymentStatus::Captured,
                    Resolution::NotCharged => PaymentStatus::Declined,
                    Resolution::Refunded => PaymentStatus::Reversed,
                };
                if *outcome == Resolution::Charged {
                    self.found = None;
                }
            }
        }
    }
}

aggregate!(Payment, "payment", PaymentCommand, PaymentEvent, PaymentError);
