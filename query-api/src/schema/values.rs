//! Scalars, money, enumerations and ids.

use aggregates::Timestamp;
use async_graphql::{Enum, ID, InputValueError, InputValueResult, Number, Scalar, ScalarType, SimpleObject, Value};
use uuid::Uuid;

use crate::error::Failed;

/// An amount of money in its currency's smallest unit, as a JSON integer from -(2^53-1) to 2^53-1: every JSON reader keeps it exactly.
pub(crate) struct MinorUnits(i64);

/// An amount of money in its currency's smallest unit, as a JSON integer from -(2^53-1) to 2^53-1: every JSON reader keeps it exactly.
#[Scalar]
impl ScalarType for MinorUnits {
    fn parse(value: Value) -> InputValueResult<Self> {
        match value {
            Value::Number(number) => integer(&number).map(Self),
            other => Err(InputValueError::expected_type(other)),
        }
    }

    fn to_value(&self) -> Value {
        self.0.into()
    }
}

fn integer<T: async_graphql::InputType>(number: &Number) -> Result<i64, InputValueError<T>> {
    let most = aggregates::Money::MAX_MINOR;
    number
        .as_i64()
        .filter(|number| (-most..=most).contains(number))
        .ok_or_else(|| InputValueError::custom("an integer up to 2^53-1"))
}

/// A count of goods, as a JSON integer from 0 to 2^53-1.
pub(crate) struct Units(pub(crate) aggregates::Units);

/// A count of goods, as a JSON integer from 0 to 2^53-1.
#[Scalar]
impl ScalarType for Units {
    fn parse(value: Value) -> InputValueResult<Self> {
        match value {
            Value::Number(number) => {
                let units = aggregates::Units::try_from(integer(&number)?);
                units.map(Self).map_err(|_| InputValueError::custom("an integer from 0 to 2^53-1"))
            }
            other => Err(InputValueError::expected_type(other)),
        }
    }

    fn to_value(&self) -> Value {
        self.0.into()
    }
}

/// A moment in UTC, as RFC 3339 writes it.
pub(crate) struct DateTime(pub(crate) Timestamp);

/// A moment in UTC, as RFC 3339 writes it.
#[Scalar]
impl ScalarType for DateTime {
    fn parse(value: Value) -> InputValueResult<Self> {
        match value {
            Value::String(text) => {
                let time: jiff::Timestamp = text
                    .parse()
                    .map_err(|_| InputValueError::custom("a moment as RFC 3339 writes it"))?;
                Ok(Self(Timestamp::from_micros(time.as_microsecond())))
            }
            other => Err(InputValueError::expected_type(other)),
        }
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_string())
    }
}

/// An amount of money.
#[derive(SimpleObject)]
pub(crate) struct Money {
    /// In the currency's smallest unit.
    amount: MinorUnits,
    /// By its ISO 4217 code.
    currency: String,
}

impl From<aggregates::Money> for Money {
    fn from(money: aggregates::Money) -> Self {
        Self {
            amount: MinorUnits(money.minor()),
            currency: money.currency().code().to_owned(),
        }
    }
}

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "aggregates::OrderStatus")]
pub(crate) enum OrderStatus {
    /// Placed; its goods are being reserved.
    Placed,
    /// Reserved; the buyer has to pay.
    AwaitingPayment,
    /// The payment is under way.
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

/// Why an order was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "aggregates::FailureCode")]
pub(crate) enum FailureCode {
    /// Not enough in stock.
    OutOfStock,
    /// A price or the total is not what the buyer named.
    PriceMismatch,
    /// A product was taken off the shelf before it could be reserved.
    ProductRetired,
    /// The payment provider said no, for good.
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

/// Where a payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "aggregates::PaymentStatus")]
pub(crate) enum PaymentStatus {
    /// It is clear what is to be paid.
    Prepared,
    /// The provider is asked.
    Pending,
    /// No answer came: the money may be taken, or not.
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

/// How an order is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "aggregates::PaymentMethod")]
pub(crate) enum PaymentMethod {
    /// Through the payment provider.
    Card,
    /// From the buyer's balance.
    Balance,
}

/// What an account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "aggregates::Role")]
pub(crate) enum Role {
    /// Orders.
    Buyer,
    /// Offers.
    Seller,
    /// Runs the shop.
    Admin,
}

/// What the payment provider was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "projections::AttemptKind")]
pub(crate) enum AttemptKind {
    /// To take the money.
    Charge,
    /// What became of it.
    Status,
    /// To give the money back.
    Reversal,
}

/// How a call to the payment provider ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "projections::AttemptResult")]
pub(crate) enum AttemptResult {
    /// The money is taken.
    Captured,
    /// Nothing is taken, for good.
    Declined,
    /// Nothing is taken so far.
    NotCharged,
    /// The money is back.
    Reversed,
    /// The money is not given back.
    Refused,
    /// Another amount than the one asked for.
    Contradicted,
    /// No answer came.
    Unknown,
}

/// Why a balance changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[graphql(remote = "projections::EntryKind")]
pub(crate) enum EntryKind {
    /// Money came in.
    Deposit,
    /// An order was paid.
    Debit,
    /// An order gave back what it took.
    Credit,
}

/// Reads an id of an argument.
pub(crate) fn id<T: From<Id>>(argument: &str, id: &ID) -> Result<T, Failed> {
    // Longer ones are none, and would only be repeated in a message.
    let uuid: Option<Uuid> = Some(id.as_str()).filter(|id| id.len() <= 64).and_then(|id| id.parse().ok());
    uuid.map(|uuid| T::from(Id(uuid)))
        .ok_or_else(|| Failed::bad_input(format!("`{argument}` is not an id: an id is a UUID")))
}

/// Any of the ids there are.
pub(crate) struct Id(Uuid);

macro_rules! ids {
    ($($name:ident),+) => {$(
        impl From<Id> for aggregates::$name {
            fn from(id: Id) -> Self {
                Self::new(id.0)
            }
        }
    )+};
}

ids!(AccountId, OrderId, PaymentId, ProductId, TrackingId);

impl From<Id> for Uuid {
    fn from(id: Id) -> Self {
        id.0
    }
}
