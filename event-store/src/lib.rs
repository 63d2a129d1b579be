//! The log: the port that every store implements, the in-memory store, and the conformance suite.
//!
//! A store keeps events and what must be durable together with them: idempotency records, effects still owed, timers,
//! parked inputs, snapshots, and the head of each shard's log. It knows no aggregate: payloads and metadata are JSON text.
//! One writer per shard appends whole batches, fenced by an epoch; anybody may read.

use std::ops::ControlFlow;

mod checkpoints;
mod copy;
mod hash;
mod lock;
#[cfg(feature = "measure")]
mod measure;
mod memory;
mod model;
mod place;
mod selection;
mod token;
mod verify;
mod wakes;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(any(test, feature = "conformance"))]
pub use selection::conformance as selection_conformance;

pub use checkpoints::Checkpoints;
pub use copy::{CopyError, CopyProgress, Copying, LogCopy, check_copy, copy, give_away, let_go};
pub use hash::{BatchHasher, GENESIS, Hash, batch_hash};
pub use lock::DirectoryLock;
#[cfg(feature = "measure")]
pub use measure::append_speed;
pub use memory::MemoryStore;
pub use model::{
    Batch, EffectId, Event, Fingerprint, Head, IdempotencyRecord, Metadata, OwedEffect, Parked, RecordKey, SetAside, Snapshot, Stray,
    StreamId, StreamRead, StreamSlice, Timer, TimerId, Unfinished, Unparked, Unparking,
};
pub use place::{LogPosition, PositionError, Shards};
pub use selection::{EventRef, Selection, TypePattern, TypePatternError, select_by_reading};
pub use token::{ConsistencyToken, TokenError};
pub use verify::verify_chain;
pub use wakes::{Bell, Listener, Wakes};

/// How long after its last heartbeat a holder keeps its shard, in microseconds.
pub const HOLDER_EXPIRES_AFTER: i64 = 10_000_000;

/// The time of a last heartbeat, by which a holder gives its shard up.
pub const GIVEN_UP: i64 = 0;

/// The time of a last heartbeat, by which a shard is kept from everybody who would take it, the end of the year 9999: its log is not complete, or
/// is served elsewhere.
pub const KEPT: i64 = 253_402_300_799_000_000;

/// What entitles a writer to a shard that another instance has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Its holder is silent, or has given it up.
    Vacant,
    /// It is the writer's own by now, whatever its holder says: somebody who decides that for all writers has said so. But nobody decides
    /// over a shard that is [kept](KEPT).
    Assigned,
}

impl Claim {
    /// The last heartbeat of another instance that does not stand against the claim: a younger one does.
    pub const fn gives_way(self, now: i64) -> i64 {
        match self {
            Self::Vacant => now.saturating_sub(HOLDER_EXPIRES_AFTER),
            Self::Assigned => KEPT - 1,
        }
    }
}

/// Why the log could not be read or opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached or answered with an error; trying again may help.
    #[error("the log cannot be read: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What is stored contradicts itself: the text names the place.
    #[error("the log is damaged: {0}")]
    Corrupt(String),
    /// This is not a log of ours, or not one that this version may open; the text says which and what to do.
    #[error("{0}")]
    Foreign(String),
    /// Another live writer holds the shard.
    #[error("shard {shard} is held by another process ({holder}); stop that one first, or use another data directory")]
    Held {
        /// The shard.
        shard: u16,
        /// What is known of the holder.
        holder: String,
    },
}

impl StoreError {
    /// A log in use cannot become the copy of another one.
    pub fn not_a_copy(log_id: uuid::Uuid, of: uuid::Uuid) -> Self {
        Self::Foreign(format!(
            "the log {log_id} is in use and cannot become a copy of {of}: copy into a new one"
        ))
    }
}

/// Why a batch was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another writer took the shard over: this one must stop.
    #[error("another writer took over shard {0}")]
    Fenced(u16),
    /// The batch itself is refused (a version that exists, a record key that exists): committing it again cannot help.
    #[error("the batch was refused: {0}")]
    Refused(String),
    /// Nothing was written; the same batch may be tried again later (a disk that is full, a store that is busy).
    #[error("nothing was written: {0}")]
    NotWritten(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is not known whether the batch was written: read the head to find out.
    #[error("it is unknown whether the batch was written: {0}")]
    Unknown(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The disk failed to make data durable. What it holds is unknown until the process starts anew.
    #[error("the disk failed to make data durable: {0}")]
    Disk(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The writing side of a store. One thread owns it. It may hold some of a log's shards, and others hold the rest.
pub trait LogWriter: Send {
    /// Fixes how many shards the log has, if that is not fixed yet, and returns how many it has.
    ///
    /// # Errors
    /// The log cannot be read or written.
    fn found(&mut self, shards: Shards) -> Result<Shards, StoreError>;

    /// As [`found`](Self::found), for the copy of a log: one that nobody used yet takes over the id of the log that is to be copied into it.
    /// Ids of events name their log, so a copy under another id would not verify.
    ///
    /// # Errors
    /// The log is in use under another id, or this store's logs keep the id that they were made with.
    fn found_as(&mut self, _shards: Shards, log_id: uuid::Uuid) -> Result<Shards, StoreError> {
        Err(StoreError::Foreign(format!("this store cannot make a log with the id {log_id}")))
    }

    /// Takes the shard over under a new epoch, creating its head when there is none, and fences the writer before.
    ///
    /// `instance` names this engine's data directory; a holder with another instance whose heartbeat is younger than
    /// `now - 10 s` keeps the shard.
    ///
    /// # Errors
    /// [`StoreError::Held`] when another live instance holds it.
    fn take(&mut self, shard: u16, instance: uuid::Uuid, now: i64) -> Result<Head, StoreError>;

    /// Takes the shard over also from a holder that lives, and fences it: for a writer that knows by other means that the shard is its own
    /// now, as a member of a consumer group does. Of several that seize it the last has it.
    ///
    /// A store that does not say how waits for the holder, as [`take`](Self::take) does.
    ///
    /// # Errors
    /// The log cannot be read or written; [`StoreError::Held`] when the shard is [kept](KEPT) by another instance.
    fn seize(&mut self, shard: u16, instance: uuid::Uuid, now: i64) -> Result<Head, StoreError> {
        self.take(shard, instance, now)
    }

    /// Writes all batches in one transaction and makes them durable before it returns.
    ///
    /// Each batch moves its shard's head from `first_position - 1` under its epoch; a head that is elsewhere, or an
    /// epoch that is not the current one, is [`CommitError::Fenced`]. A batch without events (only records, timers and
    /// the like) keeps the head's position and hash and adds no row to the batches.
    ///
    /// # Errors
    /// With any error but [`CommitError::Unknown`] and [`CommitError::Disk`] nothing of any batch was written, and the
    /// writer may be used again.
    fn commit(&mut self, batches: &[&Batch]) -> Result<(), CommitError>;

    /// Says that the writer lives. Microseconds since 1970; [`GIVEN_UP`] says that it goes, and anybody may take the shard at once.
    fn heartbeat(&mut self, shard: u16, epoch: u64, now: i64) -> Result<(), CommitError>;
}

/// The reading side of a store. Opened as often as needed; what it reads is durable.
pub trait LogReader: Send {
    /// The head of a shard, or none when nothing was ever written to it.
    fn head(&self, shard: u16) -> Result<Option<Head>, StoreError>;

    /// Idempotency records and streams in one query: answers in the order of the questions.
    ///
    /// A stream comes as its newest snapshot of the wanted shape (when there is one) and the events after it.
    #[allow(clippy::type_complexity, reason = "one answer for each of the two questions")]
    fn read(&self, records: &[RecordKey], streams: &[StreamRead])
    -> Result<(Vec<Option<IdempotencyRecord>>, Vec<StreamSlice>), StoreError>;

    /// At most `limit` events of a shard with a position above `after`, in order.
    fn events(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<Event>, StoreError>;

    /// At most `limit` events of a stream with a sequence above `after`, in order.
    fn stream(&self, stream: &StreamId, after: u64, limit: usize) -> Result<Vec<Event>, StoreError>;

    /// Shows each event that is wanted, in order, until the visitor has had enough. A store pushes down what it can.
    fn select_each(&self, selection: &Selection, visit: &mut dyn FnMut(EventRef<'_>) -> ControlFlow<()>) -> Result<(), StoreError> {
        select_by_reading(self, selection, visit)
    }

    /// The events that are wanted, in order. For few of them: the selection's limit is the only bound.
    fn select(&self, selection: &Selection) -> Result<Vec<Event>, StoreError> {
        let mut events = Vec::new();
        self.select_each(selection, &mut |event| {
            events.push(event.to_event());
            ControlFlow::Continue(())
        })?;
        events.into_iter().collect()
    }

    /// At most `limit` batches of a shard whose last position is above `after`, in order: (last position, previous hash, hash, epoch).
    fn batches(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<(u64, Hash, Hash, u64)>, StoreError>;

    /// What a shard still owes: effects without an outcome, timers that are set. In proportion to what is unfinished.
    fn unfinished(&self, shard: u16) -> Result<Unfinished, StoreError>;

    /// At most `limit` inputs that are set aside, oldest first.
    fn parked(&self, shard: u16, limit: usize) -> Result<Vec<Parked>, StoreError>;

    /// An input that is set aside; none when there is no such input, or it has come to its end.
    fn parked_input(&self, shard: u16, id: uuid::Uuid) -> Result<Option<Parked>, StoreError>;

    /// How an input that was set aside came to its end; none when there is no such input, or it is still set aside.
    fn unparked(&self, shard: u16, id: uuid::Uuid) -> Result<Option<Unparked>, StoreError>;

    /// At most `limit` inputs of a shard that were set aside, each with its end if it has come to one, with an id above `after`, in the order of
    /// their ids; none when this reader cannot list them.
    fn set_aside(&self, _shard: u16, _after: Option<uuid::Uuid>, _limit: usize) -> Result<Option<Vec<SetAside>>, StoreError> {
        Ok(None)
    }

    /// How many shards the log has; none before that is fixed.
    fn shard_count(&self) -> Result<Option<Shards>, StoreError>;

    /// The shards that have a head.
    fn shards(&self) -> Result<Vec<u16>, StoreError>;

    /// All heads, in the order of the shards.
    fn heads(&self) -> Result<Vec<Head>, StoreError> {
        let mut heads = Vec::new();
        for shard in self.shards()? {
            heads.extend(self.head(shard)?);
        }
        Ok(heads)
    }

    /// At most `limit` idempotency records with a key above `after`, in the order of their keys; none when this reader cannot list them.
    fn records(&self, _after: Option<RecordKey>, _limit: usize) -> Result<Option<Vec<IdempotencyRecord>>, StoreError> {
        Ok(None)
    }

    /// At most `limit` snapshots above `after`, in the order of stream and shape; none when this reader cannot list them.
    fn snapshots(&self, _after: Option<&Snapshot>, _limit: usize) -> Result<Option<Vec<Snapshot>>, StoreError> {
        Ok(None)
    }

    /// At most `limit` rows that nobody who reads shard by shard, from position 1 on, ever sees: put in by somebody who is no writer.
    fn strays(&self, _limit: usize) -> Result<Vec<Stray>, StoreError> {
        Ok(Vec::new())
    }
}

/// Who has a shard, as [`StoreError::Held`] says it; none when nobody ever had it. Nothing is changed by asking.
///
/// # Errors
/// The log cannot be asked.
pub fn holder_of(shard: u16, reader: &dyn LogReader, writer: &mut dyn LogWriter) -> Result<Option<String>, StoreError> {
    if reader.head(shard)?.is_none() {
        return Ok(None);
    }
    // No last heartbeat is so long ago that it would stand back.
    match writer.take(shard, uuid::Uuid::new_v4(), i64::MIN) {
        Err(StoreError::Held { holder, .. }) => Ok(Some(holder)),
        Err(error) => Err(error),
        Ok(_) => Ok(None),
    }
}

/// A store: one writer, as many readers as wanted.
pub trait EventStore: Send + Sync {
    /// The writing side. A second one may be opened; the epochs keep them apart.
    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError>;

    /// A reading side of its own, for one thread.
    fn reader(&self) -> Result<Box<dyn LogReader>, StoreError>;

    /// The checkpoints of those who read.
    ///
    /// # Errors
    /// The store cannot be reached, may not be written, or keeps none.
    fn checkpoints(&self) -> Result<Box<dyn Checkpoints>, StoreError> {
        Err(StoreError::Foreign("this store keeps no checkpoints".into()))
    }

    /// What wakes one who reads when another process may have appended; none where only looking tells. It hears what is appended from now on.
    ///
    /// # Errors
    /// There is no thread to listen with. That the server is away is none: it is listened to once it is back.
    fn wakes(&self) -> Result<Option<Box<dyn Wakes>>, StoreError> {
        Ok(None)
    }

    /// Whether a writer in another process can take a shard while this process lives.
    fn is_shared(&self) -> bool {
        false
    }

    /// What this store lacks of the conformance suite, by name.
    fn lacks(&self) -> &'static [&'static str] {
        &[]
    }
}
