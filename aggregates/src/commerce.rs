//! All aggregates side by side: one command, one event and one state type for those who carry any of them.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Account, AccountCommand, AccountEvent, AccountId, Decide, EmailClaim, EmailCommand, EmailEvent, EmailIndex, Inventory,
    InventoryCommand, InventoryEvent, Order, OrderCommand, OrderEvent, OrderId, Payment, PaymentCommand, PaymentEvent, PaymentId, Product,
    ProductCommand, ProductEvent, ProductId, Refusal, Session, SessionCommand, SessionEvent, SessionId, Timestamp, Wallet, WalletCommand,
    WalletEvent,
};

macro_rules! commerce {
    ($($(#[$doc:meta])* $kind:ident($id:ident): $state:ident, $command:ident, $event:ident = $name:literal;)+) => {
        /// The aggregates there are.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Kind { $($(#[$doc])* $kind,)+ }

        impl Kind {
            /// The stored name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)+ }
            }

            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)+];

            /// The aggregate with this stored name.
            pub fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$kind),)+ _ => None }
            }

            /// What has the same key is kept together, by one writer: an order with its payment, a product with its stock, an account with
            /// its wallet.
            pub fn key(self, id: Uuid) -> Uuid {
                match self {
                    Self::Payment => PaymentId::new(id).order().uuid(),
                    Self::Order | Self::Product | Self::Inventory | Self::Wallet | Self::Account | Self::Email | Self::Session => id,
                }
            }

            /// The state of an aggregate that nothing has happened to.
            pub fn initial(self) -> State {
                match self { $(Self::$kind => State::$kind(Arc::default()),)+ }
            }
        }

        /// A command to one aggregate.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Command { $($(#[$doc])* $kind($id, $command),)+ }

        impl Command {
            /// The aggregate that is asked.
            pub fn target(&self) -> (Kind, Uuid) {
                match self { $(Self::$kind(id, _) => (Kind::$kind, id.uuid()),)+ }
            }
        }

        /// An event of one aggregate.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum CommerceEvent { $($(#[$doc])* $kind($id, $event),)+ }

        impl CommerceEvent {
            /// The aggregate that it happened to.
            pub fn source(&self) -> (Kind, Uuid) {
                match self { $(Self::$kind(id, _) => (Kind::$kind, id.uuid()),)+ }
            }

            /// The name under which it is recorded.
            pub fn stored_name(&self) -> &'static str {
                match self { $(Self::$kind(_, event) => event.stored_name(),)+ }
            }

            /// The payload as it is recorded.
            ///
            /// # Errors
            /// None that this type allows; the serialiser's signature has one.
            pub fn payload(&self) -> Result<String, serde_json::Error> {
                match self { $(Self::$kind(_, event) => serde_json::to_string(event),)+ }
            }

            /// Reads a recorded event; none when its stream is not an aggregate's (a process's, for example).
            ///
            /// # Errors
            /// The payload is not of a shape that this version knows.
            pub fn decode(kind: &str, id: Uuid, payload: &str) -> Result<Option<Self>, DecodeError> {
                match kind {
                    $($name => serde_json::from_str(payload)
                        .map(|event| Some(Self::$kind($id::new(id), event)))
                        .map_err(|source| DecodeError { kind: $name, id, source }),)+
                    _ => Ok(None),
                }
            }
        }

        /// The state of one aggregate; cloning it is cheap.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum State { $($(#[$doc])* $kind(Arc<$state>),)+ }

        impl State {
            /// Which aggregate's state it is.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)+ }
            }

            /// What follows from a command to this aggregate.
            ///
            /// # Errors
            /// The rule that forbids it. A command to another kind of aggregate is refused too.
            pub fn decide(&self, command: Command) -> Result<Vec<CommerceEvent>, Refusal> {
                match (self, command) {
                    $((Self::$kind(state), Command::$kind(id, command)) => {
                        let events = state.decide(command)?;
                        Ok(events.into_iter().map(|event| CommerceEvent::$kind(id, event)).collect())
                    })+
                    (_, command) => Err(Refusal {
                        class: crate::Class::Rule,
                        code: Cow::Borrowed("wrong-aggregate"),
                        detail: Cow::Owned(format!("a {} does not take this command", command.target().0.name())),
                        pointer: None,
                    }),
                }
            }

            /// Changes the state by an event of this aggregate; an event of another kind changes nothing.
            pub fn evolve(&mut self, event: &CommerceEvent) {
                match (self, event) {
                    $((Self::$kind(state), CommerceEvent::$kind(_, event)) => Arc::make_mut(state).evolve(event),)+
                    _ => {}
                }
            }

            /// The state as a snapshot holds it.
            ///
            /// # Errors
            /// None that these types allow; the serialiser's signature has one.
            pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
                match self { $(Self::$kind(state) => serde_json::to_vec(&**state),)+ }
            }

            /// Reads a snapshot.
            ///
            /// # Errors
            /// It is not of today's shape.
            pub fn from_json(kind: Kind, json: &[u8]) -> Result<Self, serde_json::Error> {
                match kind { $(Kind::$kind => serde_json::from_slice(json).map(|state| Self::$kind(Arc::new(state))),)+ }
            }
        }
    };
}

commerce! {
    /// A product.
    Product(ProductId): Product, ProductCommand, ProductEvent = "product";
    /// A product's stock.
    Inventory(ProductId): Inventory, InventoryCommand, InventoryEvent = "inventory";
    /// An order.
    Order(OrderId): Order, OrderCommand, OrderEvent = "order";
    /// A payment.
    Payment(PaymentId): Payment, PaymentCommand, PaymentEvent = "payment";
    /// A wallet.
    Wallet(AccountId): Wallet, WalletCommand, WalletEvent = "wallet";
    /// An account.
    Account(AccountId): Account, AccountCommand, AccountEvent = "account";
    /// An e-mail address.
    Email(EmailIndex): EmailClaim, EmailCommand, EmailEvent = "email";
    /// A session.
    Session(SessionId): Session, SessionCommand, SessionEvent = "session";
}

/// A recorded event that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("an event of {kind}-{id} cannot be read: {source}")]
pub struct DecodeError {
    kind: &'static str,
    id: Uuid,
    source: serde_json::Error,
}

/// An event with its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The shard whose log holds it.
    pub shard: u16,
    /// Its place in that log, from 1 without a gap.
    pub position: u64,
    /// Its place in its stream, from 1 without a gap.
    pub sequence: u64,
    /// When it was recorded.
    pub at: Timestamp,
    /// What happened; none when it is not an aggregate's event.
    pub event: Option<CommerceEvent>,
}
