//! What is stored, as the store sees it.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Hash;

/// A stream: one aggregate's events. The kind is the aggregate's stored name (`order`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamId {
    /// The aggregate's stored name.
    pub kind: Cow<'static, str>,
    /// The aggregate's id.
    pub id: Uuid,
}

impl StreamId {
    /// The stream of an aggregate whose name is known when this is compiled.
    pub const fn new(kind: &'static str, id: Uuid) -> Self {
        Self {
            kind: Cow::Borrowed(kind),
            id,
        }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kind, self.id)
    }
}

/// Metadata of an event, a flat JSON object of strings, as text.
pub type Metadata = Box<str>;

/// A recorded event, one row of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_field_names, reason = "these are the columns' names, which analysts know")]
pub struct Event {
    /// The shard whose log holds it.
    pub shard: u16,
    /// Its place in that log, counted from 1 without a gap.
    pub position: u64,
    /// The stream that it belongs to.
    pub stream: StreamId,
    /// Its place in the stream, counted from 1 without a gap.
    pub sequence: u64,
    /// Unique over all logs.
    pub event_id: Uuid,
    /// The stored name, for ever (`order.placed`).
    pub event_type: Cow<'static, str>,
    /// The version of the payload's shape (`1.0.0`).
    pub event_version: Cow<'static, str>,
    /// Microseconds since 1970, UTC; never decreases within a shard.
    pub recorded_at: i64,
    /// JSON.
    pub payload: Box<str>,
    /// JSON: a flat object of strings.
    pub metadata: Metadata,
}

/// Names an idempotency record: a hash of account, method, path and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordKey(pub [u8; 16]);

/// A keyed hash of a request's body: the same key with another body is refused.
pub type Fingerprint = [u8; 16];

/// The answer that a request got, kept so that a repeat gets it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// Scope and key.
    pub key: RecordKey,
    /// Of the body.
    pub fingerprint: Fingerprint,
    /// The shard's head after the command.
    pub position: u64,
    /// Microseconds since 1970.
    pub recorded_at: i64,
    /// The answer, as the engine encodes it.
    pub answer: Box<[u8]>,
}

/// Names an effect: derived from what caused it.
pub type EffectId = Uuid;

/// Something that the outside was asked, or will be, and whose outcome is not recorded yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwedEffect {
    /// Names it.
    pub id: EffectId,
    /// JSON, as the engine encodes it.
    pub effect: Box<str>,
}

/// Names a timer: derived from what it is for, so setting it again moves it.
pub type TimerId = Uuid;

/// A command to be given when its time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// Names it.
    pub id: TimerId,
    /// When, microseconds since 1970.
    pub due: i64,
    /// JSON, as the engine encodes it.
    pub command: Box<str>,
}

/// An input that could not be processed, set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Names it.
    pub id: Uuid,
    /// When it was set aside, microseconds since 1970.
    pub at: i64,
    /// The input, JSON.
    pub input: Box<str>,
    /// Why.
    pub reason: String,
}

/// The end of an input that was set aside. The row stays, and says how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unparked {
    /// Names the input.
    pub id: Uuid,
    /// When, microseconds since 1970.
    pub at: i64,
    /// Who decided it.
    pub by: Box<str>,
    /// How it ended.
    pub how: Unparking,
}

/// How an input that was set aside came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Unparking {
    /// It was processed after all.
    Retried,
    /// Nobody wants it any more.
    Dropped,
}

impl Unparking {
    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retried => "RETRIED",
            Self::Dropped => "DROPPED",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Retried, Self::Dropped].into_iter().find(|how| how.name() == name)
    }
}

/// An input that was set aside, whether or not it still is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// The input.
    pub input: Parked,
    /// Its end; none while it is set aside.
    pub end: Option<Unparked>,
}

/// The state of a stream after one of its events. Never the truth: it saves reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The stream.
    pub stream: StreamId,
    /// The sequence of the last event that it counts.
    pub sequence: u64,
    /// Names the state's shape; a snapshot of another shape is ignored.
    pub shape: Hash,
    /// JSON.
    pub state: Box<[u8]>,
}

/// One turn's work: written in one transaction or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The shard.
    pub shard: u16,
    /// The writer's epoch.
    pub epoch: u64,
    /// The position of the first event; the head stands one before it. A batch may have no event.
    pub first_position: u64,
    /// The events, in order, contiguous.
    pub events: Vec<Event>,
    /// New idempotency records.
    pub records: Vec<IdempotencyRecord>,
    /// Effects owed from now on.
    pub owed: Vec<OwedEffect>,
    /// Effects owed before, whose outcome is in this batch. Applied after `owed`.
    pub settled: Vec<EffectId>,
    /// Timers set (or moved).
    pub timers: Vec<Timer>,
    /// Timers that are done or not wanted any more. Applied after `timers`.
    pub timers_done: Vec<TimerId>,
    /// Inputs set aside.
    pub parked: Vec<Parked>,
    /// Inputs set aside before that have come to their end. Each is one that is still set aside, or the batch is refused.
    pub unparked: Vec<Unparked>,
    /// New snapshots.
    pub snapshots: Vec<Snapshot>,
    /// How many orders the shard's writer has numbered, after this batch.
    pub orders_numbered: u64,
    /// The hash of the batch before.
    pub previous_hash: Hash,
    /// [`crate::batch_hash`] over the previous hash and the events; without events it is the previous hash.
    pub hash: Hash,
}

impl Batch {
    /// The head's position once this batch is written.
    pub fn last_position(&self) -> u64 {
        self.first_position + self.events.len() as u64 - 1
    }

    /// Whether the batch is sound in itself; every store asks before it writes.
    ///
    /// Its events are of its shard and contiguous from `first_position`; without events the hash stays as it was.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn check(&self) -> Result<(), String> {
        if self.first_position == 0 {
            return Err("positions count from 1".into());
        }
        for (event, position) in self.events.iter().zip(self.first_position..) {
            if (event.shard, event.position) != (self.shard, position) {
                return Err(format!(
                    "{}/{} stands where {}/{position} belongs",
                    event.shard, event.position, self.shard
                ));
            }
            if event.sequence == 0 {
                return Err(format!("{}/{position} has sequence 0; sequences count from 1", self.shard));
            }
        }
        if self.events.is_empty() && self.hash != self.previous_hash {
            return Err("a batch without events has a hash of its own".into());
        }
        Ok(())
    }
}

/// Where a shard's log stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The shard.
    pub shard: u16,
    /// The position of the last event; 0 when there is none.
    pub position: u64,
    /// The current writer's epoch.
    pub epoch: u64,
    /// The hash of the last batch, or [`crate::GENESIS`].
    pub hash: Hash,
    /// The recorded time of the last event, or 0.
    pub recorded_at: i64,
    /// How many orders were numbered.
    pub orders_numbered: u64,
    /// Random, chosen when the log was created, the same for all its shards.
    pub log_id: Uuid,
}

/// A question for a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRead {
    /// The stream.
    pub stream: StreamId,
    /// The shape that a snapshot must have to be of use.
    pub shape: Hash,
}

/// The answer: a snapshot if there is one, and all events after it. Empty for a stream that does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamSlice {
    /// The newest snapshot of the shape asked for.
    pub snapshot: Option<Snapshot>,
    /// The events after it.
    pub events: Vec<Event>,
}

/// What a shard still owes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Effects without an outcome.
    pub effects: Vec<OwedEffect>,
    /// Timers that are set.
    pub timers: Vec<Timer>,
}

/// A row that stands where no writer puts one: in a shard without a head, or before position 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stray {
    /// `events` or `batches`.
    pub table: &'static str,
    /// As the row says.
    pub shard: i64,
    /// As the row says.
    pub position: i64,
}
