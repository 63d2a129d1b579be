//! Scalars and small types.

use aggregates::{FailureCode, OrderStatus, PaymentMethod, PaymentStatus, Role, Timestamp};
use async_graphql::{Enum, ID, InputValueError, InputValueResult, Number, Scalar, ScalarType, SimpleObject, Value};
use projections::{AttemptKind, AttemptResult, EntryKind};
use std::str::FromStr;
use uuid::Uuid;

use crate::error::Failed;

/// An amount of money in its currency's smallest unit, as a JSON integer from -(2^53-1) to 2^53-1: every JSON reader keeps it exactly.
pub(crate) struct MinorUnits(i64);

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
    number.as_i64().filter(|number| (-most..=most).contains(number)).ok_or_else(|| InputValueError::custom("an integer up to 2^53-1"))
}

/// A count of goods, as a JSON integer from 0 to 2^53-1.
pub(crate) struct Units(pub(crate) aggregates::Units);

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

#[Scalar]
impl ScalarType for DateTime {
    fn parse(value: Value) -> InputValueResult<Self> {
        match value {
            Value::String(text) => {
                let time: jiff::Timestamp = text.parse().map_err(|_| InputValueError::custom("a moment as RFC 3339 writes it"))?;
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
        Self { amount: MinorUnits(money.minor()), currency: money.currency().code().to_owned() }
    }
}

macro_rules! enums {
    ($($(#[$doc:meta])* $name:ident = $remote:path { $($(#[$variant_doc:meta])* $variant:ident),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
        #[graphql(name = $name, remote = $remote)]
        pub(crate) enum $name { $($(#[$variant_doc])* $variant),+ }
    )+};
}
