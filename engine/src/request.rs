//! What the engine is asked, and what it answers.

use std::fmt;

use aggregates::{AccountId, Command, Kind, OrderId, OrderStatus, Refusal, State, Timestamp};
use event_store::{ConsistencyToken, Fingerprint, RecordKey, Unparking};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A command from outside, with everything that the engine must know about its sender.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// What is asked of which aggregate.
    pub command: Command,
    /// Who asks.
    pub cause: Cause,
    /// Makes a repeat of this request harmless.
    pub idempotency: Option<Idempotency>,
    /// The version that the sender believes the aggregate to have (`If-Match`).
    pub if_match: Option<u64>,
    /// Answers what would happen, and records nothing.
    pub dry_run: bool,
}

impl Request {
    /// A command that is not repeated by its sender.
    pub fn new(command: Command, cause: Cause) -> Self {
        Self {
            command,
            cause,
            idempotency: None,
            if_match: None,
            dry_run: false,
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// Somebody who is not logged in.
    Anonymous,
    /// Somebody who is.
    Account(AccountId),
    /// The shop itself: the demo, the settings' admin, a timer.
    System,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Account(id) => write!(f, "account:{id}"),
            Self::System => f.write_str("system"),
        }
    }
}

/// Why something is asked: recorded as the metadata of what follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Who asks.
    pub actor: Actor,
    /// The same for everything that follows from one request.
    pub correlation: Uuid,
    /// W3C Trace Context, as the sender gave it.
    pub traceparent: Option<String>,
}

/// A request's idempotency key, its scope and its body, as hashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// As the sender wrote it: it goes into the metadata of the events.
    pub key: String,
    /// Keyed hash of account, method, path and key.
    pub record: RecordKey,
    /// Keyed hash of the body.
    pub fingerprint: Fingerprint,
}

/// An aggregate's state with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// How many events it counts.
    pub version: u64,
    /// The state.
    pub state: State,
}

/// The answer to a command: the command's own, whatever followed from it. This is what is recorded and repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Where the log stood.
    pub token: ConsistencyToken,
    /// The aggregate's version after the command.
    pub version: u64,
    /// The aggregate as [`Represent`] shows it, or the rule that forbade the command.
    pub result: Result<Box<[u8]>, Refusal>,
}

/// How an aggregate is shown to the outside: JSON. Pure; the API gives it to the engine, which records what it returns.
pub type Represent = fn(kind: Kind, id: Uuid, state: &State, version: u64) -> Vec<u8>;

/// What the engine says to a request once everything that it stands on is durable.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The command's own answer.
    pub answer: Answer,
    /// Whether it was recorded by an earlier request with the same key.
    pub replayed: bool,
    /// The aggregate now, after all that followed at once. Of an answer that was recorded earlier: as this engine remembers the aggregate, which
    /// is not what it is when another process has taken the shard. A [`read`](crate::Engine::read) tells.
    pub latest: Versioned,
    /// Of a dry run: what would be recorded.
    pub planned: Vec<Planned>,
}

/// An event that a dry run would record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Planned {
    /// The aggregate's or process's stored name.
    pub aggregate_type: String,
    /// Its id.
    pub aggregate_id: Uuid,
    /// The event's place in its stream.
    pub sequence: u64,
    /// The event's stored name.
    pub event_type: String,
    /// The event.
    pub payload: Box<serde_json::value::RawValue>,
}

/// An input that was set aside, because it could not be processed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// Names it.
    pub id: Uuid,
    /// When it was set aside.
    pub at: Timestamp,
    /// Whether it is a request from outside: its sender was told, and can send it again.
    pub request: bool,
    /// What it is for; none when it cannot be read.
    pub target: Option<(Kind, Uuid)>,
    /// The order that waits for it.
    pub order: Option<OrderId>,
    /// Why it could not be processed.
    pub reason: String,
}

impl SetAside {
    /// What orders wait for comes first, then the oldest; a request is known to its sender.
    pub(crate) fn order_of_attention(&self) -> (bool, Timestamp, Uuid) {
        (self.request, self.at, self.id)
    }
}

/// What an aggregate is waited for to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Until {
    /// Something has happened to it.
    Exists,
    /// It is an order that has come to its end, or waits for its buyer or for a person.
    OrderSettled,
    /// It is no order that waits for its goods.
    GoodsPromised,
}

impl Until {
    /// Whether an aggregate to which something has happened is so.
    pub fn holds(self) -> fn(&State) -> bool {
        match self {
            Self::Exists => |_| true,
            Self::OrderSettled => |state| matches!(state, State::Order(order) if order.settled()),
            Self::GoodsPromised => |state| !matches!(state, State::Order(order) if order.status() == OrderStatus::Placed),
        }
    }
}

/// What an operator decides about an input that was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpark {
    /// The input.
    pub id: Uuid,
    /// Tried again, or given up.
    pub how: Unparking,
    /// Who decides it.
    pub by: Actor,
}

/// Why the engine gives no answer. The same request may be sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum EngineError {
    /// The key was used for another body.
    #[error("this idempotency key was used for another request")]
    KeyReused,
    /// Too much is waiting.
    #[error("too many requests are waiting")]
    Overloaded,
    /// The log could not be written or read just now; nothing of this request was recorded.
    #[error("the log cannot be written just now: {0}")]
    Unavailable(String),
    /// This request cannot be processed; it is set aside for an operator.
    #[error("this request cannot be processed; it is set aside as {0}")]
    Parked(Uuid),
    /// The engine is stopping, or has been taken over.
    #[error("the engine is stopping")]
    Stopping,
    /// The engine of the shard is in another process, and has not answered in time: whether the request was recorded is not known.
    #[error("the engine of shard {0} has not answered in time: whether this was done is not known")]
    NoAnswer(u16),
}

impl EngineError {
    /// One word for it, for spans and figures.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::KeyReused => "key-reused",
            Self::Overloaded => "overloaded",
            Self::Unavailable(_) => "unavailable",
            Self::Parked(_) => "parked",
            Self::Stopping => "stopping",
            Self::NoAnswer(_) => "no-answer",
        }
    }
}
