//! Names of things. Each is a UUID of its own type.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// The id that this UUID stands for.
            pub const fn new(id: Uuid) -> Self {
                Self(id)
            }

            /// The UUID.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id!(/// A person's or a shop's account; its wallet has the same id.
    AccountId);
id!(/// The blind index of an e-mail address: equal addresses have equal indexes, and an index tells nothing of its address.
    EmailIndex);
id!(/// An order; its purchase process has the same id.
    OrderId);
id!(/// A payment.
    PaymentId);
id!(/// A product; its inventory has the same id.
    ProductId);
id!(/// A login on one device, from the first token to the last.
    SessionId);
id!(/// What a buyer may show to others to follow an order; it does not reveal the order's id.
    TrackingId);

impl PaymentId {
    /// The one payment of an order. Derived, so that preparing it twice prepares it once; and the order's neighbour (the last bit differs), so
    /// that a store finds both streams in one place of its index.
    pub const fn for_order(order: OrderId) -> Self {
        Self(Uuid::from_u128(order.0.as_u128() ^ 1))
    }

    /// The order that it pays.
    pub const fn order(self) -> OrderId {
        OrderId(Uuid::from_u128(self.0.as_u128() ^ 1))
    }
}

impl TrackingId {
    /// The tracking id of an order, derived by a one-way function.
    pub fn for_order(order: OrderId) -> Self {
        Self(Uuid::new_v5(&order.0, b"tracking"))
    }
}
