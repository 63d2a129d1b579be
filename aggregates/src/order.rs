//! An order: placed by a buyer, then paid and confirmed, or cancelled.
//!
//! Price, stock and payment are not decided here: the purchase process does that and tells the order how it went.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    AccountId, Class, Decide, Money, MoneyError, Name, OrderNumber, PaymentId, PaymentKey, ProductId, Quantity, Reason, Sealed, Timestamp,
    TrackingId, aggregate, stored_names,
};

/// The most lines that an order may have.
pub const MOST_LINES: usize = 100;

/// How an order is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PaymentMethod {
    /// By a payment provider, with the buyer's payment key.
    Card,
    /// From the buyer's balance.
    Balance,
}

/// What a buyer asks for in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestedLine {
    /// The product.
    pub product: ProductId,
    /// How many.
    pub quantity: Quantity,
    /// The price that the buyer saw, if they named one.
    pub stated_price: Option<Money>,
    /// What the product is, filled in by the engine; none when there is no such product, or it is retired.
    pub offer: Option<Offer>,
}

/// A product as it is offered when an order is placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Whose it is.
    pub seller: AccountId,
    /// What it is called.
    pub name: Name,
    /// For one.
    pub price: Money,
}

/// One line of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The product.
    pub product: ProductId,
    /// What it was called when the order was placed.
    pub name: Name,
    /// Whose it is.
    pub seller: AccountId,
    /// How many.
    pub quantity: Quantity,
    /// For one.
    pub unit_price: Money,
    /// Whether the buyer named this price; else it is the one of the day, and the reservation locks what it finds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stated: bool,
}

impl Line {
    /// Quantity times price.
    pub fn total(&self) -> Result<Money, MoneyError> {
        self.unit_price.checked_mul(self.quantity.get())
    }
}

/// The sum of all lines.
pub fn total(lines: &[Line]) -> Result<Money, MoneyError> {
    let (first, rest) = lines.split_first().ok_or(MoneyError::Overflow)?;
    let sum = rest.iter().try_fold(first.total()?, |sum, line| sum.checked_add(line.total()?))?;
    if sum.minor() <= Money::MAX_MINOR {
        Ok(sum)
    } else {
        Err(MoneyError::Overflow)
    }
}

/// Everything that placing an order takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceOrder {
    /// Who orders.
    pub buyer: AccountId,
    /// What.
    pub lines: Vec<RequestedLine>,
    /// The total that the buyer saw, if they named one.
    pub stated_total: Option<Money>,
    /// Where to: sealed with the buyer's key.
    pub address: Sealed,
    /// How it is paid.
    pub method: PaymentMethod,
    /// The provider's authorisation, when the buyer has it already.
    pub payment_key: Option<PaymentKey>,
    /// The order's number, filled in by the engine.
    pub number: Option<OrderNumber>,
    /// What may be shown to follow the order.
    pub tracking: TrackingId,
    /// When.
    pub at: Timestamp,
}

/// What an order can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderCommand {
    /// Places it.
    Place(Box<PlaceOrder>),
    /// Its reservations found other prices than those of the day it was placed, where the buyer had named none.
    Reprice {
        /// Product and locked price.
        prices: Vec<(ProductId, Money)>,
    },
    /// All is reserved: the buyer may pay.
    AwaitPayment {
        /// What has to be paid.
        payment: PaymentId,
        /// Until when.
        until: Timestamp,
    },
    /// The buyer pays with this authorisation.
    SubmitPayment {
        /// Of the provider.
        payment_key: PaymentKey,
        /// What the buyer believes to pay.
        amount: Money,
        /// Now.
        at: Timestamp,
    },
    /// The payment begins with the authorisation that came with the order.
    StartPayment {
        /// What is paid.
        payment: PaymentId,
        /// Of the provider.
        payment_key: PaymentKey,
        /// Until when an attempt may be repeated.
        until: Timestamp,
    },
    /// The time to pay may be over: judged here.
    ExpirePayment {
        /// Now.
        at: Timestamp,
    },
    /// It is paid and the goods are sold.
    Confirm {
        /// What paid it.
        payment: PaymentId,
    },
    /// Somebody does not want it any more.
    RequestCancellation {
        /// Who.
        by: AccountId,
        /// Why, sealed with the buyer's key.
        reason: Sealed,
        /// Whether the money is taken and the goods are being sold: its process knows.
        selling: bool,
    },
    /// It comes to nothing.
    Cancel {
        /// Why.
        failure: FailureCode,
        /// Which product is to blame.
        product: Option<ProductId>,
    },
    /// Nobody but a person can go on.
    NeedAttention {
        /// What is in the way.
        cause: Obstacle,
        /// What happened.
        reason: String,
    },
    /// That is not in the way any more.
    EndAttention {
        /// What was in the way.
        cause: Obstacle,
    },
    /// An operator lets it try again.
    Resume {
        /// Who.
        by: AccountId,
    },
    /// An operator has it undone: as soon as it is known what was taken, that goes back.
    Compensate {
        /// Who.
        by: AccountId,
        /// Why, sealed with the buyer's key.
        reason: Sealed,
    },
    /// An operator has looked at the provider's books and says where the money is.
    Resolve {
        /// Who.
        by: AccountId,
        /// Where it is.
        outcome: Resolution,
        /// How they know, sealed with the buyer's key.
        reason: Sealed,
    },
}

/// What keeps a purchase from going on by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Obstacle {
    /// The provider is silent, or contradicts us.
    #[default]
    Provider,
    /// A step cannot be processed: it is set aside under this name.
    SetAside(Uuid),
}

/// Where the money of a payment is, as a person found it at the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// It was taken, all of it.
    Charged,
    /// It was not taken, and will not be.
    NotCharged,
    /// It was taken and given back.
    Refunded,
}

impl Resolution {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Charged, Self::NotCharged, Self::Refunded];

    /// As the outside sees it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Charged => "CHARGED",
            Self::NotCharged => "NOT_CHARGED",
            Self::Refunded => "REFUNDED",
        }
    }
}

/// Why an order was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureCode {
    /// Not enough in stock.
    OutOfStock,
    /// A price or the total is not what the buyer named.
    PriceMismatch,
    /// A product was retired before it could be reserved.
    ProductRetired,
    /// The provider's final no.
    PaymentDeclined,
    /// The balance is too small.
    InsufficientBalance,
    /// Not paid in time.
    PaymentExpired,
    /// Not paid while the goods were kept.
    ReservationExpired,
    /// Its buyer did not want it any more.
    CancelledByBuyer,
    /// The shop took it back.
    CancelledByShop,
}

impl FailureCode {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::OutOfStock,
        Self::PriceMismatch,
        Self::ProductRetired,
        Self::PaymentDeclined,
        Self::InsufficientBalance,
        Self::PaymentExpired,
        Self::ReservationExpired,
        Self::CancelledByBuyer,
        Self::CancelledByShop,
    ];

    /// The reason with this code.
    pub fn named(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }

    /// As the outside sees it.
    pub const fn code(self) -> &'static str {
        match self {
            Self::OutOfStock => "OUT_OF_STOCK",
            Self::PriceMismatch => "PRICE_MISMATCH",
            Self::ProductRetired => "PRODUCT_RETIRED",
            Self::PaymentDeclined => "PAYMENT_DECLINED",
            Self::InsufficientBalance => "INSUFFICIENT_BALANCE",
            Self::PaymentExpired => "PAYMENT_EXPIRED",
            Self::ReservationExpired => "RESERVATION_EXPIRED",
            Self::CancelledByBuyer => "CANCELLED_BY_BUYER",
            Self::CancelledByShop => "CANCELLED_BY_SHOP",
        }
    }
}

/// What has happened to an order. Recorded for ever, so a variant never changes its meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum OrderEvent {
    /// It is placed. Nothing is promised yet.
    #[serde(rename = "order.placed")]
    Placed {
        /// Who ordered.
        buyer: AccountId,
        /// For people.
        number: OrderNumber,
        /// To follow it without knowing its id.
        tracking: TrackingId,
        /// What, in ascending product id.
        lines: Arc<[Line]>,
        /// The sum of the lines.
        total: Money,
        /// The total that the buyer named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stated_total: Option<Money>,
        /// Where to, sealed.
        address: Sealed,
        /// How it is paid.
        method: PaymentMethod,
        /// The provider's authorisation, when it came with the order.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payment_key: Option<PaymentKey>,
        /// When.
        at: Timestamp,
    },
    /// Its reservations locked other prices than those of the day.
    #[serde(rename = "order.repriced")]
    Repriced {
        /// Product and locked price.
        prices: Vec<(ProductId, Money)>,
        /// The new sum.
        total: Money,
    },
    /// All is reserved: it waits for the buyer to pay.
    #[serde(rename = "order.awaiting_payment")]
    AwaitingPayment {
        /// What has to be paid.
        payment: PaymentId,
        /// Until when.
        until: Timestamp,
    },
    /// The buyer gave an authorisation: the provider is going to be asked.
    #[serde(rename = "order.payment_submitted")]
    PaymentSubmitted {
        /// What is paid.
        payment: PaymentId,
        /// Of the provider.
        payment_key: PaymentKey,
        /// Until when an attempt may be repeated.
        until: Timestamp,
    },
    /// Nobody paid in time.
    #[serde(rename = "order.payment_expired")]
    PaymentExpired {},
    /// It is paid and the goods are sold.
    #[serde(rename = "order.confirmed")]
    Confirmed {
        /// What paid it.
        payment: PaymentId,
    },
    /// Somebody does not want it any more; what was begun is undone first.
    #[serde(rename = "order.cancellation_requested")]
    CancellationRequested {
        /// Who.
        by: AccountId,
        /// Why, sealed with the buyer's key.
        reason: Sealed,
    },
    /// It came to nothing.
    #[serde(rename = "order.cancelled")]
    Cancelled {
        /// Why.
        failure: FailureCode,
        /// Which product is to blame.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        product: Option<ProductId>,
    },
    /// Nobody but a person can go on.
    #[serde(rename = "order.attention_needed")]
    AttentionNeeded {
        /// What is in the way. The first events of this kind do not say it: it was the provider.
        #[serde(default)]
        cause: Obstacle,
        /// What happened.
        reason: String,
    },
    /// That is not in the way any more: it goes on by itself after all.
    #[serde(rename = "order.attention_ended")]
    AttentionEnded {
        /// What was in the way.
        cause: Obstacle,
    },
    /// An operator lets it try again.
    #[serde(rename = "order.resumed")]
    Resumed {
        /// Who.
        by: AccountId,
    },
    /// An operator has it undone.
    #[serde(rename = "order.compensation_requested")]
    CompensationRequested {
        /// Who.
        by: AccountId,
        /// Why, sealed with the buyer's key.
        reason: Sealed,
    },
    /// An operator says where the money is.
    #[serde(rename = "order.resolved")]
    Resolved {
        /// Who.
        by: AccountId,
        /// Where it is.
        outcome: Resolution,
        /// How they know, sealed with the buyer's key.
        reason: Sealed,
    },
}

stored_names!(OrderEvent {
    Placed => "order.placed",
    Repriced => "order.repriced",
    AwaitingPayment => "order.awaiting_payment",
    PaymentSubmitted => "order.payment_submitted",
    PaymentExpired => "order.payment_expired",
    Confirmed => "order.confirmed",
    CancellationRequested => "order.cancellation_requested",
    Cancelled => "order.cancelled",
    AttentionNeeded => "order.attention_needed",
    AttentionEnded => "order.attention_ended",
    Resumed => "order.resumed",
    CompensationRequested => "order.compensation_requested",
    Resolved => "order.resolved",
});

/// Why an order refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// There is no such order.
    #[error("there is no such order")]
    Unknown,
    /// Another order has this id.
    #[error("this order exists already")]
    Exists,
    /// No line, or too many.
    #[error("an order has 1 to {MOST_LINES} lines")]
    LineCount,
    /// A product in two lines.
    #[error("line {0} names a product that an earlier line names: add up the quantities")]
    DuplicateProduct(usize),
    /// No such product, or it is retired.
    #[error("line {0} names a product that is not offered")]
    UnknownProduct(usize),
    /// A price or total in another currency.
    #[error("this shop sells in {0}")]
    CurrencyMismatch(crate::Currency),
    /// More money than can be counted.
    #[error("the order's total is larger than 9007199254740991")]
    TooLarge,
    /// The engine gave it no number.
    #[error("the order has no number")]
    NoNumber,
    /// It does not wait to be paid.
    #[error("the order is {0} and does not wait for a payment")]
    NotAwaitingPayment(&'static str),
    /// The buyer's amount is not the order's.
    #[error("the order costs {0}")]
    AmountMismatch(Money),
    /// Too late to pay.
    #[error("the time to pay this order was over at {0}")]
    PaymentExpired(Timestamp),
    /// Too late to cancel.
    #[error("the order is {0} and cannot be cancelled any more")]
    NotCancellable(&'static str),
    /// Too late to cancel: the sale is only not written down everywhere yet.
    #[error("the order is paid and its goods are being sold: it cannot be cancelled any more")]
    BeingSold,
    /// It goes on by itself.
    #[error("the order is {0}: it goes on by itself and needs nobody")]
    NotStuck(&'static str),
    /// A process asked for what its state does not allow.
    #[error("the order is {0}")]
    NotAllowed(&'static str),
}

impl Reason for OrderError {
    fn class(&self) -> Class {
        match self {
            Self::Unknown => Class::Unknown,
            Self::Exists
            | Self::NotAwaitingPayment(_)
            | Self::NotCancellable(_)
            | Self::BeingSold
            | Self::NotStuck(_)
            | Self::NotAllowed(_) => Class::State,
            Self::PaymentExpired(_) => Class::Gone,
            Self::LineCount
            | Self::DuplicateProduct(_)
            | Self::UnknownProduct(_)
            | Self::CurrencyMismatch(_)
            | Self::TooLarge
            | Self::NoNumber
            | Self::AmountMismatch(_) => Class::Rule,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown-order",
            Self::Exists => "order-exists",
            Self::LineCount => "line-count",
            Self::DuplicateProduct(_) => "duplicate-product",
            Self::UnknownProduct(_) => "unknown-product",
            Self::CurrencyMismatch(_) => "currency-mismatch",
            Self::TooLarge => "total-too-large",
            Self::NoNumber => "order-without-number",
            Self::NotAwaitingPayment(_) => "order-not-awaiting-payment",
            Self::AmountMismatch(_) => "amount-mismatch",
            Self::PaymentExpired(_) => "payment-expired",
            Self::NotCancellable(_) | Self::BeingSold => "order-not-cancellable",
            Self::NotStuck(_) => "order-not-stuck",
            Self::NotAllowed(_) => "order-state",
        }
    }

    fn pointer(&self) -> Option<String> {
        match self {
            Self::DuplicateProduct(line) | Self::UnknownProduct(line) => Some(format!("/lines/{line}/productId")),
            Self::AmountMismatch(_) => Some("/amount".to_owned()),
            Self::LineCount => Some("/lines".to_owned()),
            _ => None,
        }
    }
}

/// Where an order stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OrderStatus {
    /// Placed; its goods are being reserved.
    #[default]
    Placed,
    /// Reserved; the buyer has to pay.
    AwaitingPayment,
    /// The provider is asked.
    PaymentPending,
    /// Paid and sold.
    Confirmed,
    /// Being packed.
    PreparingShipment,
    /// On its way.
    Shipped,
    /// Handed over.
    Delivered,
    /// Being undone.
    Cancelling,
    /// Came to nothing.
    Cancelled,
    /// Paid back.
    Refunded,
    /// A person has to look.
    NeedsAttention,
}

impl OrderStatus {
    /// As the outside sees it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Placed => "PLACED",
            Self::AwaitingPayment => "AWAITING_PAYMENT",
            Self::PaymentPending => "PAYMENT_PENDING",
            Self::Confirmed => "CONFIRMED",
            Self::PreparingShipment => "PREPARING_SHIPMENT",
            Self::Shipped => "SHIPPED",
            Self::Delivered => "DELIVERED",
            Self::Cancelling => "CANCELLING",
            Self::Cancelled => "CANCELLED",
            Self::Refunded => "REFUNDED",
            Self::NeedsAttention => "NEEDS_ATTENTION",
        }
    }

    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Placed,
        Self::AwaitingPayment,
        Self::PaymentPending,
        Self::Confirmed,
        Self::PreparingShipment,
        Self::Shipped,
        Self::Delivered,
        Self::Cancelling,
        Self::Cancelled,
        Self::Refunded,
        Self::NeedsAttention,
    ];
}

/// An order's payment, as far as the order knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OrderPayment {
    /// Nothing was asked for yet.
    NotStarted,
    /// It waits for the buyer.
    Prepared,
    /// The provider is asked.
    Pending,
    /// Taken.
    Captured,
    /// Not taken, or given back.
    Ended,
}

/// An order that was placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    placed: Option<Arc<Placed>>,
    status: OrderStatus,
    lines: Arc<[Line]>,
    total: Option<Money>,
    pay_until: Option<Timestamp>,
    payment: Option<PaymentId>,
    failure: Option<(FailureCode, Option<ProductId>)>,
    attention: Attention,
}

/// What a person has to look at: as long as there is something, an order needs attention, wherever else it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attention {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    set_aside: Arc<[(Uuid, Arc<str>)]>,
}

impl Attention {
    /// What happened; none when nobody has to look.
    pub fn reason(&self) -> Option<&str> {
        let set_aside = self.set_aside.last().map(|(_, reason)| &**reason);
        self.provider.as_deref().or(set_aside)
    }

    /// Counts what happened to its order.
    pub fn evolve(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::AttentionNeeded { cause, reason } => self.needed(*cause, reason),
            OrderEvent::AttentionEnded { cause } => self.ended(*cause),
            OrderEvent::Resumed { .. } | OrderEvent::CompensationRequested { .. } | OrderEvent::Resolved { .. } => *self = Self::default(),
            _ => {}
        }
    }

    fn needed(&mut self, cause: Obstacle, reason: &str) {
        match cause {
            Obstacle::Provider => self.provider = Some(reason.into()),
            Obstacle::SetAside(input) => {
                let others = self.set_aside.iter().filter(|(known, _)| *known != input).cloned();
                self.set_aside = others.chain([(input, reason.into())]).collect();
            }
        }
    }

    fn ended(&mut self, cause: Obstacle) {
        match cause {
            Obstacle::Provider => self.provider = None,
            Obstacle::SetAside(input) => self.set_aside = self.set_aside.iter().filter(|(known, _)| *known != input).cloned().collect(),
        }
    }

    /// Why this is in the way, if it is.
    fn because_of(&self, cause: Obstacle) -> Option<&str> {
        match cause {
            Obstacle::Provider => self.provider.as_deref(),
            Obstacle::SetAside(input) => {
                let known = self.set_aside.iter().find(|(known, _)| *known == input);
                known.map(|(_, reason)| &**reason)
            }
        }
    }
}

/// What never changes about an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Who ordered.
    pub buyer: AccountId,
    /// For people.
    pub number: OrderNumber,
    /// To follow it without knowing its id.
    pub tracking: TrackingId,
    /// Where to, sealed.
    pub address: Sealed,
    /// How it is paid.
    pub method: PaymentMethod,
    /// When.
    pub at: Timestamp,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            placed: None,
            status: OrderStatus::Placed,
            lines: Arc::from([]),
            total: None,
            pay_until: None,
            payment: None,
            failure: None,
            attention: Attention::default(),
        }
    }
}

impl Order {
    /// What never changes about it; none before it is placed.
    pub fn placed(&self) -> Option<&Placed> {
        self.placed.as_deref()
    }

    /// Where it stands.
    pub fn status(&self) -> OrderStatus {
        if self.attention.reason().is_some() {
            OrderStatus::NeedsAttention
        } else {
            self.status
        }
    }

    /// What was ordered.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// What it costs.
    pub fn total(&self) -> Option<Money> {
        self.total
    }

    /// Until when it can be paid.
    pub fn pay_until(&self) -> Option<Timestamp> {
        self.pay_until
    }

    /// What pays it, once that was prepared for the buyer, or has paid.
    pub fn payment(&self) -> Option<PaymentId> {
        self.payment
    }

    /// Where its payment stands, as far as the order knows.
    pub fn payment_status(&self) -> OrderPayment {
        match self.status {
            OrderStatus::Placed => OrderPayment::NotStarted,
            OrderStatus::AwaitingPayment => OrderPayment::Prepared,
            OrderStatus::PaymentPending | OrderStatus::Cancelling | OrderStatus::NeedsAttention => OrderPayment::Pending,
            OrderStatus::Confirmed | OrderStatus::PreparingShipment | OrderStatus::Shipped | OrderStatus::Delivered => {
                OrderPayment::Captured
            }
            OrderStatus::Cancelled | OrderStatus::Refunded => OrderPayment::Ended,
        }
    }

    /// Why it was cancelled, and which product is to blame.
    pub fn failure(&self) -> Option<(FailureCode, Option<ProductId>)> {
        self.failure
    }

    /// What a person has to look at.
    pub fn attention(&self) -> Option<&str> {
        self.attention.reason()
    }

    /// Whether the purchase has come to an end, or to the buyer's turn.
    pub fn settled(&self) -> bool {
        match self.status() {
            OrderStatus::Placed | OrderStatus::PaymentPending | OrderStatus::Cancelling => false,
            OrderStatus::AwaitingPayment
            | OrderStatus::Confirmed
            | OrderStatus::PreparingShipment
            | OrderStatus::Shipped
            | OrderStatus::Delivered
            | OrderStatus::Cancelled
            | OrderStatus::Refunded
            | OrderStatus::NeedsAttention => self.placed.is_some(),
        }
    }

    fn place(place: PlaceOrder) -> Result<Vec<OrderEvent>, OrderError> {
        if place.lines.is_empty() || place.lines.len() > MOST_LINES {
            return Err(OrderError::LineCount);
        }
        let number = place.number.ok_or(OrderError::NoNumber)?;
        let mut lines = Vec::with_capacity(place.lines.len());
        for (index, line) in place.lines.into_iter().enumerate() {
            if lines.iter().any(|earlier: &Line| earlier.product == line.product) {
                return Err(OrderError::DuplicateProduct(index));
            }
            let offer = line.offer.ok_or(OrderError::UnknownProduct(index))?;
            let unit_price = line.stated_price.unwrap_or(offer.price);
            if unit_price.currency() != offer.price.currency() {
                return Err(OrderError::CurrencyMismatch(offer.price.currency()));
            }
            let stated = line.stated_price.is_some();
            lines.push(Line {
                product: line.product,
                name: offer.name,
                seller: offer.seller,
                quantity: line.quantity,
                unit_price,
                stated,
            });
        }
        lines.sort_unstable_by_key(|line| line.product);
        let total = total(&lines).map_err(|error| match error {
            MoneyError::CurrencyMismatch => OrderError::CurrencyMismatch(lines[0].unit_price.currency()),
            _ => OrderError::TooLarge,
        })?;
        if place.stated_total.is_some_and(|stated| stated.currency() != total.currency()) {
            return Err(OrderError::CurrencyMismatch(total.currency()));
        }
        Ok(vec![OrderEvent::Placed {
            buyer: place.buyer,
            number,
            tracking: place.tracking,
            lines: lines.into(),
            total,
            stated_total: place.stated_total,
            address: place.address,
            method: place.method,
            payment_key: place.payment_key,
            at: place.at,
        }])
    }

    fn reprice(&self, prices: Vec<(ProductId, Money)>) -> Result<Vec<OrderEvent>, OrderError> {
        let lines = repriced(&self.lines, &prices);
        let total = total(&lines).map_err(|_| OrderError::TooLarge)?;
        Ok(vec![OrderEvent::Repriced { prices, total }])
    }

    fn costs(&self, prices: &[(ProductId, Money)]) -> bool {
        prices
            .iter()
            .all(|(product, price)| self.lines.iter().any(|line| line.product == *product && line.unit_price == *price))
    }

    fn submit_payment(&self, payment_key: PaymentKey, amount: Money, at: Timestamp) -> Result<Vec<OrderEvent>, OrderError> {
        let (Some(total), Some(until), Some(payment)) = (self.total, self.pay_until, self.payment) else {
            return Err(OrderError::NotAwaitingPayment(self.status.name()));
        };
        if at > until {
            return Err(OrderError::PaymentExpired(until));
        }
        if amount != total {
            return Err(OrderError::AmountMismatch(total));
        }
        Ok(vec![OrderEvent::PaymentSubmitted {
            payment,
            payment_key,
            until,
        }])
    }
}

fn repriced(lines: &[Line], prices: &[(ProductId, Money)]) -> Vec<Line> {
    let price = |line: &Line| {
        prices
            .iter()
            .find(|(product, _)| *product == line.product)
            .map_or(line.unit_price, |(_, price)| *price)
    };
    lines
        .iter()
        .map(|line| Line {
            unit_price: price(line),
            ..line.clone()
        })
        .collect()
}

impl Decide for Order {
    fn decide(&self, command: OrderCommand) -> Result<Vec<OrderEvent>, OrderError> {
        use OrderCommand as Command;
        use OrderStatus as Status;
        if self.placed.is_none() {
            return match command {
                Command::Place(place) => Self::place(*place),
                _ => Err(OrderError::Unknown),
            };
        }
        match (self.status, command) {
            (_, Command::Place(_)) => Err(OrderError::Exists),

            // Its process asks again for what is already so.
            (_, Command::Reprice { prices }) if self.costs(&prices) => Ok(vec![]),
            (Status::AwaitingPayment | Status::PaymentPending | Status::Confirmed, Command::AwaitPayment { payment, .. })
            | (Status::PaymentPending | Status::Confirmed, Command::StartPayment { payment, .. })
            | (Status::Confirmed, Command::Confirm { payment })
                if self.payment == Some(payment) =>
            {
                Ok(vec![])
            }

            (Status::Placed, Command::Reprice { prices }) => self.reprice(prices),
            (Status::Placed, Command::AwaitPayment { payment, until }) => Ok(vec![OrderEvent::AwaitingPayment { payment, until }]),
            (
                Status::Placed,
                Command::StartPayment {
                    payment,
                    payment_key,
                    until,
                },
            ) => Ok(vec![OrderEvent::PaymentSubmitted {
                payment,
                payment_key,
                until,
            }]),
            (Status::AwaitingPayment, Command::SubmitPayment { payment_key, amount, at }) => self.submit_payment(payment_key, amount, at),
            (Status::Cancelled, Command::SubmitPayment { .. })
                if self.failure.is_some_and(|(code, _)| code == FailureCode::PaymentExpired) =>
            {
                Err(OrderError::PaymentExpired(self.pay_until.unwrap_or_default()))
            }
            (status, Command::SubmitPayment { .. }) => Err(OrderError::NotAwaitingPayment(status.name())),
            (Status::Placed | Status::PaymentPending | Status::Cancelling, Command::Confirm { payment }) => {
                Ok(vec![OrderEvent::Confirmed { payment }])
            }

            (Status::AwaitingPayment, Command::ExpirePayment { at }) if self.pay_until.is_some_and(|until| at >= until) => {
                Ok(vec![OrderEvent::PaymentExpired {}])
            }
            // Too early, or somebody was quicker than the timer.
            (_, Command::ExpirePayment { .. }) => Ok(vec![]),

            (Status::Placed | Status::AwaitingPayment | Status::PaymentPending, Command::RequestCancellation { selling: true, .. }) => {
                Err(OrderError::BeingSold)
            }
            (Status::Placed | Status::AwaitingPayment | Status::PaymentPending, Command::RequestCancellation { by, reason, .. }) => {
                Ok(vec![OrderEvent::CancellationRequested { by, reason }])
            }
            // Asking for what is already so is no error; it changes nothing.
            (Status::Cancelling, Command::RequestCancellation { .. }) => Ok(vec![]),
            (Status::Cancelled, Command::RequestCancellation { .. })
                if self
                    .failure
                    .is_some_and(|(code, _)| matches!(code, FailureCode::CancelledByBuyer | FailureCode::CancelledByShop)) =>
            {
                Ok(vec![])
            }
            (status, Command::RequestCancellation { .. }) => Err(OrderError::NotCancellable(status.name())),

            (
                Status::Placed | Status::AwaitingPayment | Status::PaymentPending | Status::Cancelling,
                Command::Cancel { failure, product },
            ) => Ok(vec![OrderEvent::Cancelled { failure, product }]),
            (Status::Cancelled, Command::Cancel { .. }) => Ok(vec![]),
            // What its process asked for before it learnt of the cancellation.
            (
                Status::Cancelling | Status::Cancelled,
                Command::Reprice { .. } | Command::AwaitPayment { .. } | Command::StartPayment { .. },
            ) => Ok(vec![]),
            (_, Command::NeedAttention { cause, reason }) if self.attention.because_of(cause) == Some(reason.as_str()) => Ok(vec![]),
            (_, Command::NeedAttention { cause, reason }) => Ok(vec![OrderEvent::AttentionNeeded { cause, reason }]),
            (_, Command::EndAttention { cause }) if self.attention.because_of(cause).is_none() => Ok(vec![]),
            (_, Command::EndAttention { cause }) => Ok(vec![OrderEvent::AttentionEnded { cause }]),
            (status, Command::Resume { .. } | Command::Compensate { .. } | Command::Resolve { .. })
                if self.attention.reason().is_none() =>
            {
                Err(OrderError::NotStuck(status.name()))
            }
            (_, Command::Resume { by }) => Ok(vec![OrderEvent::Resumed { by }]),
            (_, Command::Compensate { by, reason }) => Ok(vec![OrderEvent::CompensationRequested { by, reason }]),
            (_, Command::Resolve { by, outcome, reason }) => Ok(vec![OrderEvent::Resolved { by, outcome, reason }]),
            (
                status,
                Command::Reprice { .. }
                | Command::AwaitPayment { .. }
                | Command::StartPayment { .. }
                | Command::Confirm { .. }
                | Command::Cancel { .. },
            ) => Err(OrderError::NotAllowed(status.name())),
        }
    }

    fn evolve(&mut self, event: &OrderEvent) {
        self.attention.evolve(event);
        match event {
            OrderEvent::Placed {
                buyer,
                number,
                tracking,
                lines,
                total,
                address,
                method,
                at,
                ..
            } => {
                self.placed = Some(Arc::new(Placed {
                    buyer: *buyer,
                    number: number.clone(),
                    tracking: *tracking,
                    address: address.clone(),
                    method: *method,
                    at: *at,
                }));
                self.lines = Arc::clone(lines);
                self.total = Some(*total);
                self.status = OrderStatus::Placed;
            }
            OrderEvent::Repriced { prices, total } => {
                self.lines = repriced(&self.lines, prices).into();
                self.total = Some(*total);
            }
            OrderEvent::AwaitingPayment { payment, until } => {
                self.payment = Some(*payment);
                self.pay_until = Some(*until);
                self.status = OrderStatus::AwaitingPayment;
            }
            OrderEvent::PaymentSubmitted { payment, until, .. } => {
                self.payment = Some(*payment);
                self.pay_until = Some(*until);
                self.status = OrderStatus::PaymentPending;
            }
            OrderEvent::PaymentExpired {} | OrderEvent::CancellationRequested { .. } => self.status = OrderStatus::Cancelling,
            OrderEvent::Confirmed { payment } => {
                self.payment = Some(*payment);
                self.status = OrderStatus::Confirmed;
            }
            OrderEvent::Cancelled { failure, product } => {
                self.failure = Some((*failure, *product));
                self.status = OrderStatus::Cancelled;
            }
            OrderEvent::AttentionNeeded { .. }
            | OrderEvent::AttentionEnded { .. }
            | OrderEvent::Resumed { .. }
            | OrderEvent::Resolved { .. } => {}
            OrderEvent::CompensationRequested { .. } => {
                if !matches!(self.status, OrderStatus::Confirmed | OrderStatus::Cancelled) {
                    self.status = OrderStatus::Cancelling;
                }
            }
        }
    }
}

aggregate!(Order, "order", OrderCommand, OrderEvent, OrderError);
