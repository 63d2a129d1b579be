//! The domain: orders, payments, stock, products, wallets and accounts as event-sourced aggregates.
//!
//! Every rule of the shop is here, as pure functions: `decide` says what follows from a command or which rule forbids it, `evolve`
//! says what an event changes. There is no I/O, no clock and no chance: what a decision needs arrives in its command.

#![allow(
    clippy::match_same_arms,
    reason = "each arm of decide and evolve is a rule of its own, read from top to bottom"
)]

pub mod account;
mod commerce;
pub mod email;
pub mod inventory;
mod language;
pub mod order;
pub mod payment;
pub mod product;
mod refusal;
pub mod session;
mod values;
pub mod wallet;

pub use account::{Account, AccountCommand, AccountError, AccountEvent, Registration, Role};
pub use commerce::{Command, CommerceEvent, DecodeError, Kind, Recorded, State};
pub use email::{EmailClaim, EmailCommand, EmailError, EmailEvent};
pub use inventory::{Inventory, InventoryCommand, InventoryError, InventoryEvent, Reservation, Stock};
pub use language::Language;
pub use order::{
    Attention, FailureCode, Line, Obstacle, Offer, Order, OrderCommand, OrderError, OrderEvent, OrderPayment, OrderStatus, PaymentMethod,
    PlaceOrder, RequestedLine, Resolution,
};
pub use payment::{Payment, PaymentCommand, PaymentError, PaymentEvent, PaymentStatus};
pub use product::{Product, ProductCommand, ProductError, ProductEvent};
pub use refusal::{Class, Reason, Refusal};
pub use session::{Session, SessionCommand, SessionError, SessionEvent};
pub use values::{
    AccountId, Currency, Description, Email, EmailIndex, Money, MoneyError, Name, Note, OrderId, OrderNumber, PaymentId, PaymentKey,
    PersonName, Phone, ProductId, Quantity, QuantityError, Sealed, SessionId, Sku, TextError, Timestamp, TrackingId, Units,
};
pub use wallet::{Wallet, WalletCommand, WalletError, WalletEvent};

/// What every aggregate of ours is: a state, what it decides, and how it changes.
pub trait Decide: cqrs_es::Aggregate {
    /// What follows from this command, or the rule that forbids it.
    ///
    /// # Errors
    /// The rule.
    fn decide(&self, command: Self::Command) -> Result<Vec<Self::Event>, Self::Error>;

    /// Changes the state by what has happened. It cannot refuse.
    fn evolve(&mut self, event: &Self::Event);
}

/// Lets cqrs-es drive an aggregate of ours: its `handle` is `decide`, its `apply` is `evolve`.
macro_rules! aggregate {
    ($name:ident, $kind:literal, $command:ty, $event:ty, $error:ty) => {
        impl cqrs_es::Aggregate for $name {
            const TYPE: &'static str = $kind;
            type Command = $command;
            type Event = $event;
            type Error = $error;
            type Services = ();

            async fn handle(&mut self, command: $command, (): &(), sink: &cqrs_es::event_sink::EventSink<Self>) -> Result<(), $error> {
                for event in $crate::Decide::decide(self, command)? {
                    sink.write(event, self).await; // also applies it
                }
                Ok(())
            }

            fn apply(&mut self, event: $event) {
                $crate::Decide::evolve(self, &event);
            }
        }
    };
}

/// Spells out the stored name of each event; the names in the JSON are checked against them in `tests/recorded.rs`.
macro_rules! stored_names {
    ($event:ty { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $event {
            /// The name under which this event is recorded, for ever.
            pub const fn stored_name(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $name),+ }
            }

            /// All stored names.
            pub const STORED_NAMES: &'static [&'static str] = &[$($name),+];
        }

        impl cqrs_es::DomainEvent for $event {
            fn event_type(&self) -> String {
                self.stored_name().to_owned()
            }

            fn event_version(&self) -> String {
                $crate::EVENT_VERSION.to_owned()
            }
        }
    };
}

/// The version of every payload's shape so far.
pub const EVENT_VERSION: &str = "1.0.0";

use aggregate;
use stored_names;
