//! Counts of goods.

use std::{fmt, num::NonZeroU32};

use serde::{Deserialize, Serialize};

/// How many of a product an order line takes: at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Quantity(NonZeroU32);

/// Units of a product in stock.
pub type Units = u64;

/// Why this is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a quantity is a whole number from 1 to 1000000")]
pub struct QuantityError;

impl Quantity {
    /// The most that one line may take.
    pub const MAX: u32 = 1_000_000;

    /// A quantity from a request.
    pub fn parse(count: i64) -> Result<Self, QuantityError> {
        let count = u32::try_from(count).ok().filter(|count| *count <= Self::MAX);
        count.and_then(NonZeroU32::new).map(Self).ok_or(QuantityError)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The number, as stock is counted.
    pub const fn units(self) -> Units {
        self.0.get() as Units
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_between_one_and_a_million() {
        assert!(Quantity::parse(1).is_ok());
        assert!(Quantity::parse(1_000_000).is_ok());
        for wrong in [0, -1, 1_000_001, i64::MAX, i64::MIN] {
            assert_eq!(Quantity::parse(wrong), Err(QuantityError));
        }
    }
}
