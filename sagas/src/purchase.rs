//! The purchase: from an order that is placed to one that is confirmed, and every way back.
//!
//! Forward: reserve line after line in ascending product id, prepare the payment, take the money, commit the reservations, confirm.
//! Back: whatever fails, what was reserved is released, what was charged is given back, and the order is cancelled with the reason.
//! While the provider is asked and has not answered, nothing is undone: first its word, then the way on.

use aggregates::{
    AccountId, Command, CommerceEvent, FailureCode, InventoryCommand, InventoryEvent, Money, Obstacle, OrderCommand, OrderEvent, OrderId,
    PaymentCommand, PaymentEvent, PaymentId, PaymentKey, PaymentMethod, ProductId, Quantity, Resolution, Timestamp, WalletCommand,
    WalletEvent,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Ask, ProviderCall, Seen, Settings, is_zero, question_delay};

/// The stored name of a purchase's stream; its id is the order's.
pub const KIND: &str = "purchase";

/// What a purchase remembers: one event for everything that it learnt in one go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum PurchaseEvent {
    /// It went on.
    #[serde(rename = "purchase.advanced")]
    Advanced {
        /// The places of the events that it saw.
        seen: Vec<Seen>,
        /// What it learnt from each.
        steps: Vec<Step>,
    },
}

impl PurchaseEvent {
    /// The name under which it is recorded.
    pub const STORED_NAME: &'static str = "purchase.advanced";
}

/// What a purchase learns from one event: no more than it needs to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// The order is placed.
    Placed(Box<Placed>),
    /// A line's goods are promised, at this price.
    Reserved {
        /// The line.
        product: ProductId,
        /// For one.
        price: Money,
    },
    /// A line's goods cannot be promised.
    Refused {
        /// The line.
        product: ProductId,
        /// Why.
        failure: FailureCode,
    },
    /// The order knows the prices at which its goods are promised.
    Repriced,
    /// The payment is prepared.
    Prepared,
    /// The order waits for its buyer to pay.
    Awaiting {
        /// Until when.
        until: Timestamp,
    },
    /// An authorisation is there.
    Submitted {
        /// The provider's.
        payment_key: PaymentKey,
        /// Until when an attempt may be repeated.
        until: Timestamp,
    },
    /// A line's reservation is held.
    Held {
        /// The line.
        product: ProductId,
    },
    /// A line's reservation was gone before it could be held, or its time was over.
    Expired {
        /// The line.
        product: ProductId,
    },
    /// A line's goods are free again, as was asked.
    Released {
        /// The line.
        product: ProductId,
    },
    /// The provider is to be asked for the money.
    Requested {
        /// How much.
        amount: Money,
        /// The provider's authorisation.
        payment_key: PaymentKey,
        /// Counted from 1.
        attempt: u32,
    },
    /// Nobody knows whether the money was taken.
    Unknown {
        /// How many questions were asked.
        questions: u32,
        /// When.
        #[serde(default)]
        at: Option<Timestamp>,
    },
    /// The provider is to be asked what became of the payment.
    StatusAsked {
        /// The provider's authorisation.
        payment_key: PaymentKey,
        /// Counted from 1.
        question: u32,
    },
    /// The provider says that it took nothing.
    NotCharged {
        /// How many questions were asked.
        questions: u32,
        /// When.
        at: Timestamp,
    },
    /// The balance paid.
    Debited,
    /// The balance is too small.
    DebitRefused,
    /// The money is taken.
    Captured,
    /// The payment is refused for good.
    Declined,
    /// A line's goods are sold.
    Committed {
        /// The line.
        product: ProductId,
    },
    /// A line's goods could not be sold: nothing is promised.
    NotCommitted {
        /// The line.
        product: ProductId,
    },
    /// The time to pay is over.
    DeadlinePassed,
    /// Somebody does not want the order any more.
    CancellationRequested {
        /// Its buyer, or somebody of the shop.
        by: AccountId,
    },
    /// The money is to be given back.
    ReversalRequested {
        /// The provider's authorisation; none for the balance.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payment_key: Option<PaymentKey>,
        /// How much.
        amount: Money,
        /// Counted from 1.
        attempt: u32,
    },
    /// The balance has it back.
    Credited,
    /// Nobody knows whether the money was given back.
    ReversalUnknown {
        /// How often it was tried.
        attempts: u32,
        /// When.
        #[serde(default)]
        at: Option<Timestamp>,
    },
    /// The money is back.
    Reversed,
    /// The provider took another amount than it was asked for: a person has to look.
    Contradicted {
        /// What it says.
        reason: String,
    },
    /// The provider will not give the money back: a person has to look.
    ReversalRefused {
        /// What it says.
        reason: String,
    },
    /// A person was asked to look, because of the provider.
    Stuck,
    /// The provider is not in the way any more.
    Unstuck,
    /// An operator lets it try again.
    Resumed,
    /// An operator has it undone.
    CompensationRequested,
    /// An operator says where the money is.
    Resolved {
        /// Where.
        outcome: Resolution,
    },
    /// A person has found that the money was taken and given back.
    Refunded,
    /// The order is confirmed or cancelled.
    Ended,
}

/// What a purchase must know of its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    buyer: AccountId,
    lines: Vec<Line>,
    total: Money,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stated_total: Option<Money>,
    method: PaymentMethod,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payment_key: Option<PaymentKey>,
    at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    product: ProductId,
    quantity: Quantity,
    price: Money,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stated: bool,
    #[serde(default, skip_serializing_if = "Goods::is_free")]
    goods: Goods,
    /// The reservation found another price than the order's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    repriced: bool,
}

/// Where a line's goods stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Goods {
    /// Nothing was promised yet.
    #[default]
    Free,
    Reserved,
    Held,
    Sold,
    /// Not promised, or not any more.
    Gone,
}

impl Goods {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_free(&self) -> bool {
        *self == Self::Free
    }
}

/// Where the money stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Funds {
    /// Nothing was prepared.
    #[default]
    None,
    /// What is to be paid is clear; nobody was asked.
    Prepared,
    /// The balance is asked, and has not answered.
    DebitAsked,
    /// Asked, and the last word is not known.
    Asked,
    /// The provider says that it took nothing; it was asked before, so it might still.
    NotCharged,
    /// The balance has paid, and the payment does not know it yet.
    Debited,
    /// Taken.
    Captured,
    /// Refused for good.
    Declined,
    /// Another amount was taken than was asked for.
    Contradicted,
    /// Being given back.
    Reversing,
    /// The balance has it back, and the payment does not know it yet.
    Credited,
    /// Given back.
    Reversed,
}

impl Funds {
    /// Whether somebody else has the next word: the provider, those who sell the goods, or a person.
    fn under_way(self) -> bool {
        matches!(self, Self::Asked | Self::DebitAsked) || self.taken()
    }

    /// Whether it is known that the money was taken.
    fn taken(self) -> bool {
        matches!(
            self,
            Self::Debited | Self::Captured | Self::Contradicted | Self::Reversing | Self::Credited
        )
    }
}

/// A purchase's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own that it remembers")]
pub struct Purchase {
    order: OrderId,
    placed: Option<Box<Placed>>,
    money: Funds,
    until: Option<Timestamp>,
    /// Since when the provider gives no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    silent_since: Option<Timestamp>,
    /// A person was asked to look, because of the provider.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stuck: bool,
    failure: Option<(FailureCode, Option<ProductId>)>,
    /// The order knows the prices at which its goods are promised.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    repriced: bool,
    ended: bool,
    /// The last question about the money.
    #[serde(default, skip_serializing_if = "is_zero")]
    questions: u32,
    /// How many of them were asked since it ended.
    #[serde(default, skip_serializing_if = "is_zero")]
    watched: u32,
    /// A request for the money may be on its way still, whatever is said of another one: an answer was missing, or a person answered instead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    doubtful: bool,
    /// How often the provider has refused to give the money back.
    #[serde(default, skip_serializing_if = "is_zero")]
    refusals: u32,
    /// The last step was no news.
    #[serde(skip)]
    repeated: bool,
}

/// Which purchase an event concerns, and what it learns from it.
pub fn interpret(event: &CommerceEvent, at: Timestamp) -> Option<(OrderId, Step)> {
    match event {
        CommerceEvent::Order(order, event) => interpret_order(event).map(|step| (*order, step)),
        CommerceEvent::Inventory(product, event) => interpret_inventory(*product, event),
        CommerceEvent::Payment(_, event) => interpret_payment(event, at),
        CommerceEvent::Wallet(_, event) => match event {
            WalletEvent::Debited { order, .. } => Some((*order, Step::Debited)),
            WalletEvent::DebitRefused { order, .. } => Some((*order, Step::DebitRefused)),
            WalletEvent::Credited { order, .. } => Some((*order, Step::Credited)),
            WalletEvent::Opened { .. } | WalletEvent::Deposited { .. } => None,
        },
        CommerceEvent::Product(..) | CommerceEvent::Account(..) | CommerceEvent::Email(..) | CommerceEvent::Session(..) => None,
    }
}

fn interpret_order(event: &OrderEvent) -> Option<Step> {
    match event {
        OrderEvent::Placed {
            buyer,
            lines,
            total,
            stated_total,
            method,
            payment_key,
            at,
            ..
        } => {
            let line = |line: &aggregates::Line| Line {
                product: line.product,
                quantity: line.quantity,
                price: line.unit_price,
                stated: line.stated,
                goods: Goods::Free,
                repriced: false,
            };
            Some(Step::Placed(Box::new(Placed {
                buyer: *buyer,
                lines: lines.iter().map(line).collect(),
                total: *total,
                stated_total: *stated_total,
                method: *method,
                payment_key: payment_key.clone(),
                at: *at,
            })))
        }
        OrderEvent::AwaitingPayment { until, .. } => Some(Step::Awaiting { until: *until }),
        OrderEvent::PaymentSubmitted { payment_key, until, .. } => Some(Step::Submitted {
            payment_key: payment_key.clone(),
            until: *until,
        }),
        OrderEvent::PaymentExpired {} => Some(Step::DeadlinePassed),
        OrderEvent::CancellationRequested { by, .. } => Some(Step::CancellationRequested { by: *by }),
        OrderEvent::Resumed { .. } => Some(Step::Resumed),
        OrderEvent::CompensationRequested { .. } => Some(Step::CompensationRequested),
        OrderEvent::Resolved { outcome, .. } => Some(Step::Resolved { outcome: *outcome }),
        OrderEvent::Confirmed { .. } | OrderEvent::Cancelled { .. } => Some(Step::Ended),
        OrderEvent::AttentionNeeded {
            cause: Obstacle::Provider, ..
        } => Some(Step::Stuck),
        OrderEvent::AttentionEnded { cause: Obstacle::Provider } => Some(Step::Unstuck),
        OrderEvent::Repriced { .. } => Some(Step::Repriced),
        OrderEvent::AttentionNeeded {
            cause: Obstacle::SetAside(_),
            ..
        }
        | OrderEvent::AttentionEnded {
            cause: Obstacle::SetAside(_),
        } => None,
    }
}

fn interpret_inventory(product: ProductId, event: &InventoryEvent) -> Option<(OrderId, Step)> {
    match event {
        InventoryEvent::Reserved { order, price, .. } => Some((*order, Step::Reserved { product, price: *price })),
        InventoryEvent::OutOfStock { order, .. } => Some((
            *order,
            Step::Refused {
                product,
                failure: FailureCode::OutOfStock,
            },
        )),
        InventoryEvent::PriceChanged { order, .. } => Some((
            *order,
            Step::Refused {
                product,
                failure: FailureCode::PriceMismatch,
            },
        )),
        InventoryEvent::NotOffered { order } => Some((
            *order,
            Step::Refused {
                product,
                failure: FailureCode::ProductRetired,
            },
        )),
        // Refused because its release came first: the purchase is on its way back already.
        InventoryEvent::ReservationRefused { order } => Some((
            *order,
            Step::Refused {
                product,
                failure: FailureCode::CancelledByBuyer,
            },
        )),
        InventoryEvent::Held { order } => Some((*order, Step::Held { product })),
        InventoryEvent::NotHeld { order } | InventoryEvent::Expired { order, .. } => Some((*order, Step::Expired { product })),
        InventoryEvent::Committed { order, .. } => Some((*order, Step::Committed { product })),
        InventoryEvent::NotCommitted { order } => Some((*order, Step::NotCommitted { product })),
        InventoryEvent::Released { order, .. } => Some((*order, Step::Released { product })),
        InventoryEvent::Opened { .. }
        | InventoryEvent::Received { .. }
        | InventoryEvent::Adjusted { .. }
        | InventoryEvent::ReleaseNoted { .. } => None,
    }
}

fn interpret_payment(event: &PaymentEvent, at: Timestamp) -> Option<(OrderId, Step)> {
    let (order, step) = match event {
        PaymentEvent::Prepared { order, .. } => (order, Step::Prepared),
        PaymentEvent::Requested {
            order,
            payment_key,
            amount,
            attempt,
        } => (
            order,
            Step::Requested {
                amount: *amount,
                payment_key: payment_key.clone(),
                attempt: *attempt,
            },
        ),
        PaymentEvent::OutcomeUnknown { order, questions, .. } => (
            order,
            Step::Unknown {
                questions: *questions,
                at: Some(at),
            },
        ),
        PaymentEvent::StatusAsked {
            order,
            payment_key,
            question,
        } => (
            order,
            Step::StatusAsked {
                payment_key: payment_key.clone(),
                question: *question,
            },
        ),
        PaymentEvent::NotCharged { order, questions, .. } => (order, Step::NotCharged { questions: *questions, at }),
        PaymentEvent::Captured { order, .. } => (order, Step::Captured),
        PaymentEvent::Declined { order, .. } => (order, Step::Declined),
        PaymentEvent::ReversalRequested {
            order,
            payment_key,
            amount,
            attempt,
            ..
        } => (
            order,
            Step::ReversalRequested {
                payment_key: payment_key.clone(),
                amount: *amount,
                attempt: *attempt,
            },
        ),
        PaymentEvent::ReversalUnknown { order, attempts, .. } => (
            order,
            Step::ReversalUnknown {
                attempts: *attempts,
                at: Some(at),
            },
        ),
        PaymentEvent::Reversed { order, .. } => (order, Step::Reversed),
        PaymentEvent::ReversalRefused { order, code, message } => (
            order,
            Step::ReversalRefused {
                reason: format!("the provider refuses to give the money back: {code} {message}"),
            },
        ),
        PaymentEvent::Contradicted { order, expected, found } => (
            order,
            Step::Contradicted {
                reason: format!("the provider took {found} where {expected} was asked for"),
            },
        ),
        PaymentEvent::Resolved { order, outcome, .. } => {
            let step = match outcome {
                Resolution::Charged => Step::Captured,
                Resolution::NotCharged => Step::Declined,
                Resolution::Refunded => Step::Refunded,
            };
            (order, step)
        }
        PaymentEvent::Expired { .. } | PaymentEvent::Cancelled { .. } => return None,
    };
    Some((*order, step))
}

impl Purchase {
    /// Remembers a step. It cannot refuse: it has happened.
    pub fn evolve(&mut self, order: OrderId, step: &Step) {
        self.order = order;
        self.repeated = !self.learn(step);
    }

    /// Whether the step was news: one that comes again changes nothing, and nothing follows from it.
    fn learn(&mut self, step: &Step) -> bool {
        match step {
            Step::Placed(placed) => self.placed(placed),
            Step::Reserved { product, price } => self.reserved(*product, *price),
            Step::Refused { product, failure } => {
                let news = self.goods(*product, Goods::Free, Goods::Gone);
                if news {
                    self.fail(*failure, Some(*product));
                }
                news
            }
            Step::Repriced => !std::mem::replace(&mut self.repriced, true),
            // Unless nobody wants it any more, the balance is asked at once.
            Step::Prepared => {
                let balance = self.placed.as_ref().is_some_and(|placed| placed.method == PaymentMethod::Balance);
                let asked = balance && self.failure.is_none() && !self.ended;
                self.funds(Funds::None, if asked { Funds::DebitAsked } else { Funds::Prepared })
            }
            Step::Awaiting { .. } => true,
            Step::Submitted { payment_key, until } => self.submitted(payment_key, *until),
            Step::Held { product } => self.goods(*product, Goods::Reserved, Goods::Held),
            Step::Expired { product } => {
                let news = self.goods(*product, Goods::Reserved, Goods::Gone);
                if news {
                    self.fail(FailureCode::ReservationExpired, Some(*product));
                }
                news
            }
            Step::Released { product } => {
                self.goods(*product, Goods::Reserved, Goods::Gone) || self.goods(*product, Goods::Held, Goods::Gone)
            }
            Step::Committed { product } => self.goods(*product, Goods::Held, Goods::Sold),
            // One that was asked for twice was sold the first time.
            Step::NotCommitted { product } => self.goods(*product, Goods::Held, Goods::Held),
            // Its repeat is told from a new attempt by the provider's idempotency key.
            Step::Requested { .. } => {
                self.funds(Funds::Prepared, Funds::Asked) || self.funds(Funds::NotCharged, Funds::Asked) || self.money == Funds::Asked
            }
            Step::NotCharged { at, .. } => {
                self.silent_since = None;
                let open = matches!(self.money, Funds::Asked | Funds::NotCharged);
                if open && !self.ended {
                    self.money = Funds::NotCharged;
                    if self.is_too_late(*at) {
                        self.fail(FailureCode::PaymentExpired, None);
                    }
                }
                // A refusal that is in doubt is watched, and stays one.
                open || self.money == Funds::Declined
            }
            Step::DebitRefused => {
                self.fail(FailureCode::InsufficientBalance, None);
                true
            }
            Step::Captured => {
                let news = !matches!(self.money, Funds::Captured | Funds::Reversing | Funds::Credited | Funds::Reversed);
                if news {
                    self.silent_since = None;
                    self.money = Funds::Captured;
                }
                news
            }
            Step::Declined => {
                let known = matches!(self.money, Funds::Declined | Funds::Reversed) || self.money.taken();
                let news = !known || self.money == Funds::Contradicted;
                if news {
                    self.silent_since = None;
                    self.money = Funds::Declined;
                    self.fail(FailureCode::PaymentDeclined, None);
                }
                news
            }
            Step::DeadlinePassed => self.fail(FailureCode::PaymentExpired, None),
            // Once the goods are being sold it is too late.
            Step::CancellationRequested { by } => {
                let by_buyer = self.placed.as_ref().is_some_and(|placed| placed.buyer == *by);
                let code = if by_buyer {
                    FailureCode::CancelledByBuyer
                } else {
                    FailureCode::CancelledByShop
                };
                !self.selling() && self.fail(code, None)
            }
            // The balance gives back once; a provider may have to be asked again, and knows the repeat by its key.
            Step::ReversalRequested { payment_key, .. } => {
                self.funds(Funds::Captured, Funds::Reversing)
                    || self.funds(Funds::Contradicted, Funds::Reversing)
                    || (payment_key.is_some() && self.money == Funds::Reversing)
            }
            Step::Reversed => {
                self.silent_since = None;
                self.funds(Funds::Reversing, Funds::Reversed) || self.funds(Funds::Credited, Funds::Reversed)
            }
            Step::Debited => {
                self.funds(Funds::DebitAsked, Funds::Debited) || self.funds(Funds::Prepared, Funds::Debited) || !self.money.taken()
            }
            Step::Credited => self.funds(Funds::Reversing, Funds::Credited),
            Step::Refunded => {
                let news = self.money != Funds::Reversed;
                self.silent_since = None;
                self.money = Funds::Reversed;
                self.fail(FailureCode::CancelledByShop, None);
                news
            }
            Step::Unknown { at, .. } => {
                self.doubtful = true;
                self.silent_since = self.silent_since.or(*at);
                true
            }
            Step::ReversalUnknown { at, .. } => {
                self.silent_since = self.silent_since.or(*at);
                true
            }
            Step::Contradicted { .. } => {
                let news = !self.money.taken() && self.money != Funds::Reversed;
                if news {
                    self.silent_since = None;
                    self.money = Funds::Contradicted;
                }
                news
            }
            Step::ReversalRefused { .. } => {
                self.silent_since = None;
                let news = self.money == Funds::Reversing;
                self.refusals += u32::from(news);
                news
            }
            Step::Stuck => !std::mem::replace(&mut self.stuck, true),
            Step::Unstuck => std::mem::take(&mut self.stuck),
            Step::Resumed => {
                (self.silent_since, self.stuck) = (None, false);
                // What contradicted us is asked again.
                if self.failure.is_none() {
                    self.funds(Funds::Contradicted, Funds::Asked);
                }
                true
            }
            Step::CompensationRequested => {
                (self.silent_since, self.stuck) = (None, false);
                // Once the goods are being sold it is too late.
                if !self.selling() {
                    self.fail(FailureCode::CancelledByShop, None);
                }
                true
            }
            Step::Ended => !std::mem::replace(&mut self.ended, true),
            Step::Resolved { outcome } => {
                self.stuck = false;
                self.doubtful |= matches!(self.money, Funds::Asked | Funds::NotCharged | Funds::Contradicted);
                // Nobody was asked for money, and nobody is going to be.
                if *outcome != Resolution::Charged && matches!(self.money, Funds::None | Funds::Prepared | Funds::DebitAsked) {
                    self.fail(FailureCode::CancelledByShop, None);
                }
                true
            }
            Step::StatusAsked { question, .. } => {
                let news = *question > self.questions;
                if news {
                    self.questions = *question;
                    self.watched += u32::from(self.ended);
                }
                news
            }
        }
    }

    /// What to do now that `step` has happened at `at`; `self` already counts it.
    pub fn react(&self, step: &Step, at: Timestamp, settings: &Settings) -> Vec<Ask> {
        let Some(placed) = self.placed.as_deref().filter(|_| !self.repeated) else {
            return vec![];
        };
        // The provider has spoken: whatever it said, nobody has to ask it any more.
        let clear = matches!(
            step,
            Step::Captured | Step::Declined | Step::NotCharged { .. } | Step::Reversed | Step::Refunded
        );
        let cause = Obstacle::Provider;
        let goes_on = (self.stuck && clear).then(|| self.tell_order(OrderCommand::EndAttention { cause }));
        goes_on.into_iter().chain(self.follow(step, placed, at, settings)).collect()
    }

    fn follow(&self, step: &Step, placed: &Placed, at: Timestamp, settings: &Settings) -> Vec<Ask> {
        match step {
            // What was asked for before the end and comes after it, or is promised a second time, is undone by itself.
            Step::Reserved { product, .. } if self.ended || placed.is_over(*product) => {
                vec![Ask::Tell(Command::Inventory(
                    *product,
                    InventoryCommand::Release { order: self.order },
                ))]
            }

            // The way forward.
            Step::Placed(_) if self.failure.is_none() => self.reserve_next(placed, settings),
            Step::Reserved { .. } if self.failure.is_none() => self.reserve_next(placed, settings),
            Step::Repriced if self.failure.is_none() => self.prepare_payment(placed),
            Step::Prepared if self.failure.is_none() => self.begin_payment(placed, settings),
            // Not before it waits: the time may be over already, and an order that does not wait yet would not hear it.
            Step::Awaiting { until } if !self.ended => vec![self.deadline(*until)],
            Step::Submitted { .. } | Step::Held { .. } if self.failure.is_none() => self.hold_or_request(placed),
            // It was put off until nobody wants it any more, or too late: nothing is attempted. But an earlier attempt may have been made.
            Step::Requested { attempt, .. } if self.failure.is_some() || self.is_too_late(at) => {
                let status = "NOT_ASKED".to_owned();
                vec![self.tell_payment(if *attempt == 1 {
                    PaymentCommand::RecordNotCharged { status }
                } else {
                    PaymentCommand::AskStatus
                })]
            }
            Step::Requested {
                amount,
                payment_key,
                attempt,
            } => vec![Ask::Provider(ProviderCall::Charge {
                payment: self.payment(),
                order: self.order,
                payment_key: payment_key.clone(),
                amount: *amount,
                attempt: *attempt,
            })],
            Step::Debited => vec![self.record_debit(placed)],
            Step::Captured if self.selling() && !self.ended => self.commit(placed),
            Step::Committed { .. } if placed.sold() => self.confirm(),

            // The unknown: ask until the provider says what it did.
            Step::Unknown { questions, .. } => self.ask_later(*questions, at, settings),
            Step::StatusAsked { payment_key, question } => vec![Ask::Provider(ProviderCall::Status {
                payment: self.payment(),
                order: self.order,
                payment_key: payment_key.clone(),
                amount: placed.total,
                question: *question,
            })],
            Step::NotCharged { .. } if self.ended => {
                // It may have been asked while the order was coming to its end, and a release may have been left over.
                let close = self.close_payment();
                self.release(placed).chain(close).chain(self.watch(at)).collect()
            }
            Step::NotCharged { .. } if self.failure.is_none() => vec![self.tell_payment(PaymentCommand::Repeat)],
            Step::NotCharged { .. } => self.undo(placed, at),

            // The ways back.
            Step::DebitRefused => {
                let (code, message) = ("INSUFFICIENT_BALANCE".to_owned(), "the balance is too small".to_owned());
                vec![self.tell_payment(PaymentCommand::RecordDecline { code, message })]
            }
            // Taken although nobody wants it any more, or after the end: it goes back.
            Step::Captured => vec![self.tell_payment(PaymentCommand::Reverse)],
            Step::ReversalRequested {
                payment_key,
                amount,
                attempt,
            } => self.reverse(placed, payment_key.as_ref(), *amount, *attempt),
            Step::Credited => vec![self.tell_payment(PaymentCommand::RecordReversal)],
            Step::ReversalUnknown { attempts, .. } => {
                let due = self.before_a_person_looks(at, at.after(question_delay(*attempts).unwrap_or(DAY)), settings);
                let again = self.set_timer(b"reversal", due, self.payment_command(PaymentCommand::Reverse));
                let stuck = self.stuck(at, settings, "given back");
                stuck.into_iter().chain([again]).collect()
            }

            // A person's turn.
            Step::Contradicted { reason } => vec![Ask::CancelTimer { id: self.timer(STATUS) }, self.need_attention(reason)],
            Step::ReversalRefused { reason } => vec![self.need_attention(reason)],
            Step::NotCommitted { product } => {
                vec![self.need_attention(&format!("nothing is promised of product {product} that could be sold"))]
            }
            Step::CompensationRequested if self.selling() => {
                vec![self.need_attention("it is paid and its goods are being sold: it can only go forward")]
            }
            Step::Resumed | Step::CompensationRequested => self.go_on(placed, at, settings),
            Step::Resolved { outcome } => self.resolve(*outcome, placed, at, settings),
            // What was left over because it was set aside.
            Step::Reversed | Step::Refunded | Step::Declined if self.ended => self.undo_begun(placed, at),
            Step::Prepared if self.ended => vec![self.tell_payment(PaymentCommand::Cancel)],
            // The provider was asked, or the goods are being sold: its word, or the sale, comes first.
            Step::CancellationRequested { .. } | Step::Expired { .. } if self.money.under_way() => vec![],
            Step::Placed(_)
            | Step::Reserved { .. }
            | Step::Refused { .. }
            | Step::Prepared
            | Step::Submitted { .. }
            | Step::Held { .. }
            | Step::Expired { .. }
            | Step::Declined
            | Step::DeadlinePassed
            | Step::CancellationRequested { .. }
            | Step::Reversed
            | Step::Refunded
                if !self.ended =>
            {
                self.undo(placed, at)
            }

            Step::Placed(_)
            | Step::Reserved { .. }
            | Step::Refused { .. }
            | Step::Prepared
            | Step::Awaiting { .. }
            | Step::Submitted { .. }
            | Step::Held { .. }
            | Step::Expired { .. }
            | Step::Released { .. }
            | Step::Committed { .. }
            | Step::Repriced
            | Step::Declined
            | Step::DeadlinePassed
            | Step::CancellationRequested { .. }
            | Step::Reversed
            | Step::Refunded
            | Step::Stuck
            | Step::Unstuck
            | Step::Ended => vec![],
        }
    }

    /// Whether nothing more can follow but news of money that came late.
    pub fn ended(&self) -> bool {
        self.ended
    }

    fn payment(&self) -> PaymentId {
        PaymentId::for_order(self.order)
    }

    fn payment_command(&self, command: PaymentCommand) -> Command {
        Command::Payment(self.payment(), command)
    }

    fn tell_payment(&self, command: PaymentCommand) -> Ask {
        Ask::Tell(self.payment_command(command))
    }

    fn tell_order(&self, command: OrderCommand) -> Ask {
        Ask::Tell(Command::Order(self.order, command))
    }

    fn set_timer(&self, name: &[u8], due: Timestamp, command: Command) -> Ask {
        Ask::SetTimer {
            id: self.timer(name),
            due,
            command,
        }
    }

    fn timer(&self, name: &[u8]) -> Uuid {
        Uuid::new_v5(&self.order.uuid(), name)
    }

    /// Whether an attempt to pay may not be repeated any more.
    fn is_too_late(&self, at: Timestamp) -> bool {
        self.until.is_some_and(|until| at >= until)
    }

    /// Remembers why it fails, and says whether that was not known before.
    fn fail(&mut self, code: FailureCode, product: Option<ProductId>) -> bool {
        let news = self.failure.is_none() && !self.ended;
        self.failure.get_or_insert((code, product));
        news
    }

    /// Whether the money was taken for goods that are still wanted: they are being sold, or are sold, and nobody can cancel it any more.
    pub fn selling(&self) -> bool {
        self.money == Funds::Captured && self.failure.is_none()
    }

    /// Moves a line's goods, if they are where they should be.
    fn goods(&mut self, product: ProductId, from: Goods, to: Goods) -> bool {
        let line = self
            .placed
            .as_mut()
            .and_then(|placed| placed.lines.iter_mut().find(|line| line.product == product));
        line.filter(|line| line.goods == from).map(|line| line.goods = to).is_some()
    }

    /// Moves the money, if it is where it should be.
    fn funds(&mut self, from: Funds, to: Funds) -> bool {
        let there = self.money == from;
        if there {
            self.money = to;
        }
        there
    }

    fn placed(&mut self, placed: &Placed) -> bool {
        if self.placed.is_some() {
            return false;
        }
        if placed.stated_total.is_some_and(|stated| stated != placed.total) {
            self.fail(FailureCode::PriceMismatch, None);
        }
        self.placed = Some(Box::new(placed.clone()));
        true
    }

    fn submitted(&mut self, payment_key: &PaymentKey, until: Timestamp) -> bool {
        let news = self.until.replace(until).is_none();
        if let Some(placed) = &mut self.placed {
            placed.payment_key = Some(payment_key.clone());
        }
        news
    }

    fn reserved(&mut self, product: ProductId, price: Money) -> bool {
        let Some(placed) = &mut self.placed else { return false };
        let held = placed.pays_at_once();
        // Promised once more than was asked for: that is news too.
        if placed.is_over(product) {
            return true;
        }
        let Some(line) = placed
            .lines
            .iter_mut()
            .find(|line| line.product == product && line.goods == Goods::Free)
        else {
            return false;
        };
        line.goods = if held { Goods::Held } else { Goods::Reserved };
        line.repriced = line.price != price;
        line.price = price;
        if placed.lines.iter().any(|line| line.repriced) {
            match placed.sum() {
                Some(total) => placed.total = total,
                None => {
                    self.fail(FailureCode::PriceMismatch, Some(product));
                }
            }
        }
        if let Some(placed) = &self.placed
            && placed.stated_total.is_some_and(|stated| stated != placed.total)
        {
            self.fail(FailureCode::PriceMismatch, Some(product));
        }
        true
    }

    fn reserve_next(&self, placed: &Placed, settings: &Settings) -> Vec<Ask> {
        let Some(line) = placed.lines.iter().find(|line| line.goods == Goods::Free) else {
            return self.prepare_payment(placed);
        };
        // What is paid at once is held from the start; the rest is kept for a while.
        let expires_at = (!placed.pays_at_once()).then(|| placed.at.after(settings.reservation_ttl));
        let expected = line.stated.then_some(line.price);
        let reserve = InventoryCommand::Reserve {
            order: self.order,
            quantity: line.quantity,
            expected,
            price: None,
            expires_at,
        };
        vec![Ask::Tell(Command::Inventory(line.product, reserve))]
    }

    fn prepare_payment(&self, placed: &Placed) -> Vec<Ask> {
        let prices: Vec<_> = placed
            .lines
            .iter()
            .filter(|line| line.repriced)
            .map(|line| (line.product, line.price))
            .collect();
        let prepare = PaymentCommand::Prepare {
            order: self.order,
            buyer: placed.buyer,
            amount: placed.total,
            method: placed.method,
        };
        // The order knows what it costs before anybody is asked to pay it.
        if !prices.is_empty() && !self.repriced {
            return vec![self.tell_order(OrderCommand::Reprice { prices })];
        }
        vec![self.tell_payment(prepare)]
    }

    fn begin_payment(&self, placed: &Placed, settings: &Settings) -> Vec<Ask> {
        let until = placed.at.after(settings.payment_deadline);
        let payment = self.payment();
        match (placed.method, &placed.payment_key) {
            (PaymentMethod::Balance, _) => {
                vec![Ask::Tell(Command::Wallet(
                    placed.buyer,
                    WalletCommand::Debit {
                        payment,
                        order: self.order,
                        amount: placed.total,
                    },
                ))]
            }
            (PaymentMethod::Card, Some(key)) => vec![self.tell_order(OrderCommand::StartPayment {
                payment,
                payment_key: key.clone(),
                until,
            })],
            (PaymentMethod::Card, None) => vec![self.tell_order(OrderCommand::AwaitPayment { payment, until })],
        }
    }

    fn hold_or_request(&self, placed: &Placed) -> Vec<Ask> {
        let cancel_deadline = Ask::CancelTimer { id: self.timer(DEADLINE) };
        if placed.lines.iter().all(|line| line.goods == Goods::Held) {
            let request = placed
                .payment_key
                .clone()
                .map(|payment_key| self.tell_payment(PaymentCommand::Request { payment_key }));
            return request.into_iter().chain([cancel_deadline]).collect();
        }
        let hold = |line: &Line| Ask::Tell(Command::Inventory(line.product, InventoryCommand::Hold { order: self.order }));
        // One after another, as they were reserved.
        placed
            .lines
            .iter()
            .find(|line| line.goods == Goods::Reserved)
            .map(hold)
            .into_iter()
            .collect()
    }

    fn commit(&self, placed: &Placed) -> Vec<Ask> {
        let commit = |line: &Line| Ask::Tell(Command::Inventory(line.product, InventoryCommand::Commit { order: self.order }));
        placed.lines.iter().filter(|line| line.goods != Goods::Sold).map(commit).collect()
    }

    fn record_debit(&self, placed: &Placed) -> Ask {
        self.tell_payment(PaymentCommand::RecordCapture { amount: placed.total })
    }

    fn confirm(&self) -> Vec<Ask> {
        vec![self.tell_order(OrderCommand::Confirm { payment: self.payment() })]
    }

    fn ask_later(&self, questions: u32, at: Timestamp, settings: &Settings) -> Vec<Ask> {
        // Without an answer it is asked on, after the end too: the watch ends at the provider's word only.
        let delay = question_delay(if self.ended { self.watched + 1 } else { questions }).unwrap_or(DAY);
        let ask = self.payment_command(PaymentCommand::AskStatus);
        if delay.is_zero() {
            return vec![Ask::Tell(ask)];
        }
        // Asked at the deadline too, so that no order waits beyond it for the next question of the schedule.
        let due = at.after(delay);
        let due = self.until.filter(|until| at < *until).map_or(due, |until| due.min(until));
        let again = self.set_timer(STATUS, self.before_a_person_looks(at, due, settings), ask);
        let stuck = if self.ended { None } else { self.stuck(at, settings, "taken") };
        stuck.into_iter().chain([again]).collect()
    }

    /// Asks for a person once the provider has been silent for too long. It is asked on nevertheless.
    fn stuck(&self, at: Timestamp, settings: &Settings, what: &str) -> Option<Ask> {
        let since = self.silent_since?;
        let too_long = at >= since.after(settings.stuck_after);
        too_long.then(|| {
            self.need_attention(&format!(
                "the provider has given no clear answer since {since}: nobody knows whether the money was {what}"
            ))
        })
    }

    /// Tried once more right before a person is asked to look.
    fn before_a_person_looks(&self, at: Timestamp, due: Timestamp, settings: &Settings) -> Timestamp {
        let bound = self.silent_since.map(|since| since.after(settings.stuck_after));
        bound.filter(|bound| at < *bound).map_or(due, |bound| due.min(bound))
    }

    fn deadline(&self, until: Timestamp) -> Ask {
        let expire = Command::Order(self.order, OrderCommand::ExpirePayment { at: until });
        self.set_timer(DEADLINE, until, expire)
    }

    fn need_attention(&self, reason: &str) -> Ask {
        self.tell_order(OrderCommand::NeedAttention {
            cause: Obstacle::Provider,
            reason: reason.to_owned(),
        })
    }

    /// Asks again for what comes next, wherever it stands: what was asked before and did happen is not done twice.
    fn go_on(&self, placed: &Placed, at: Timestamp, settings: &Settings) -> Vec<Ask> {
        let undo = self.failure.is_some();
        match self.money {
            Funds::Asked => vec![self.tell_payment(PaymentCommand::AskStatus)],
            Funds::Captured if !undo && self.ended => vec![],
            Funds::Captured if !undo && placed.sold() => self.confirm(),
            Funds::Captured if !undo => self.commit(placed),
            Funds::Debited => vec![self.record_debit(placed)],
            Funds::Credited => vec![self.tell_payment(PaymentCommand::RecordReversal)],
            // A wallet does what it is asked, each time: it is never asked twice.
            Funds::DebitAsked if !undo && !self.ended => {
                vec![self.need_attention("the balance was asked to pay: retry the step that was set aside, or compensate")]
            }
            Funds::Reversing if placed.method == PaymentMethod::Balance => {
                vec![self.need_attention("the balance was asked to take the money back: retry the step that was set aside")]
            }
            Funds::Captured | Funds::Contradicted | Funds::Reversing => vec![self.tell_payment(PaymentCommand::Reverse)],
            _ if self.ended => self.undo_begun(placed, at),
            // What comes too late is not repeated: the provider is asked what became of it, for the last time.
            Funds::NotCharged if !undo && self.is_too_late(at) => vec![self.tell_payment(PaymentCommand::AskStatus)],
            Funds::NotCharged if !undo => vec![self.tell_payment(PaymentCommand::Repeat)],
            Funds::None if !undo => self.reserve_next(placed, settings),
            Funds::Prepared if !undo && self.until.is_some() => self.hold_or_request(placed),
            Funds::Prepared if !undo => {
                // The timer that ends the waiting may have been set aside.
                let deadline = (!placed.pays_at_once()).then(|| self.deadline(placed.at.after(settings.payment_deadline)));
                self.begin_payment(placed, settings).into_iter().chain(deadline).collect()
            }
            Funds::None | Funds::Prepared | Funds::DebitAsked | Funds::NotCharged | Funds::Declined | Funds::Reversed => {
                self.undo(placed, at)
            }
        }
    }

    /// A person's word takes the place of the provider's where that is missing.
    fn resolve(&self, outcome: Resolution, placed: &Placed, at: Timestamp, settings: &Settings) -> Vec<Ask> {
        let charged = outcome == Resolution::Charged;
        match self.money {
            // After the end: the watch may have been set aside, and goes on.
            Funds::NotCharged | Funds::Declined if self.ended && !charged => self.undo_begun(placed, at),
            // What was taken for an order that nobody wants goes back, all of it.
            Funds::Contradicted if charged && self.failure.is_some() => vec![self.tell_payment(PaymentCommand::Reverse)],
            Funds::Declined if !charged => self.go_on(placed, at, settings),
            Funds::Asked | Funds::NotCharged | Funds::Contradicted | Funds::Declined => {
                vec![self.tell_payment(PaymentCommand::Resolve { outcome })]
            }
            Funds::Captured if self.selling() => self.go_on(placed, at, settings),
            Funds::Captured | Funds::Reversing if outcome == Resolution::Refunded => {
                vec![self.tell_payment(PaymentCommand::Resolve { outcome })]
            }
            Funds::Captured | Funds::Reversing => {
                vec![self.need_attention(
                    "the provider has the money and nobody wants the goods: it has to be given back, and resolved as REFUNDED",
                )]
            }
            Funds::None | Funds::Prepared | Funds::DebitAsked | Funds::Debited | Funds::Credited | Funds::Reversed => {
                self.go_on(placed, at, settings)
            }
        }
    }

    /// After the end, and the provider has just said that it took nothing: asks on for as long as the schedule goes, counted from the end, in
    /// case the money turns up.
    fn watch(&self, at: Timestamp) -> Vec<Ask> {
        let ask = self.payment_command(PaymentCommand::AskStatus);
        question_delay(self.watched + 1)
            .map(|delay| self.set_timer(STATUS, at.after(delay), ask))
            .into_iter()
            .collect()
    }

    fn reverse(&self, placed: &Placed, payment_key: Option<&PaymentKey>, amount: Money, attempt: u32) -> Vec<Ask> {
        let (payment, order) = (self.payment(), self.order);
        vec![match payment_key {
            Some(key) => Ask::Provider(ProviderCall::Cancel {
                payment,
                order,
                payment_key: key.clone(),
                amount,
                attempt,
                refusals: self.refusals,
            }),
            None => Ask::Tell(Command::Wallet(placed.buyer, WalletCommand::Credit { payment, order, amount })),
        }]
    }

    /// The payment comes to its end with nothing taken.
    fn close_payment(&self) -> Option<Ask> {
        let (failure, _) = self.failure?;
        let end = if failure == FailureCode::PaymentExpired {
            PaymentCommand::Expire
        } else {
            PaymentCommand::Cancel
        };
        Some(self.tell_payment(end))
    }

    /// Everything that was begun is undone, and the order says why.
    fn undo(&self, placed: &Placed, at: Timestamp) -> Vec<Ask> {
        let Some((failure, product)) = self.failure else { return vec![] };
        let cancel = self.tell_order(OrderCommand::Cancel { failure, product });
        self.undo_begun(placed, at).into_iter().chain([cancel]).collect()
    }

    /// Whatever is promised is free again.
    fn release(&self, placed: &Placed) -> impl Iterator<Item = Ask> {
        let promised = |line: &&Line| matches!(line.goods, Goods::Reserved | Goods::Held);
        let release = |line: &Line| Ask::Tell(Command::Inventory(line.product, InventoryCommand::Release { order: self.order }));
        placed.lines.iter().filter(promised).map(release)
    }

    fn undo_begun(&self, placed: &Placed, at: Timestamp) -> Vec<Ask> {
        let mut asks: Vec<_> = self.release(placed).collect();
        if matches!(self.money, Funds::Prepared | Funds::DebitAsked | Funds::NotCharged) {
            asks.extend(self.close_payment());
        }
        if self.money == Funds::Prepared {
            asks.push(Ask::CancelTimer { id: self.timer(DEADLINE) });
        }
        let refused_in_doubt = self.money == Funds::Declined && self.doubtful && placed.method == PaymentMethod::Card;
        if self.money == Funds::NotCharged || refused_in_doubt {
            // A request may still be under way somewhere: money that turns up later is given back.
            asks.extend(self.watch(at));
        }
        asks
    }
}

impl Placed {
    /// Whether a line's goods are sold, or not promised any more.
    fn is_over(&self, product: ProductId) -> bool {
        self.lines
            .iter()
            .any(|line| line.product == product && matches!(line.goods, Goods::Sold | Goods::Gone))
    }

    fn sold(&self) -> bool {
        self.lines.iter().all(|line| line.goods == Goods::Sold)
    }

    /// Whether the payment follows without waiting for the buyer.
    fn pays_at_once(&self) -> bool {
        self.method == PaymentMethod::Balance || self.payment_key.is_some()
    }

    fn sum(&self) -> Option<Money> {
        let mut sum = Money::zero(self.total.currency());
        for line in &self.lines {
            sum = sum.checked_add(line.price.checked_mul(line.quantity.get()).ok()?).ok()?;
        }
        (sum.minor() <= Money::MAX_MINOR).then_some(sum)
    }
}

const DEADLINE: &[u8] = b"deadline";
const STATUS: &[u8] = b"status";
const DAY: std::time::Duration = std::time::Duration::from_hours(24);
