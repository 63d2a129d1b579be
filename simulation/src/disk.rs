//! The simulated disk: what is durable, and what becomes of a commit.
//!
//! A commit takes the time that the world gives it; here is decided only how it ends. What is durable is a [`MemoryStore`]; a batch that
//! a crash tears is looked at by its hash and dropped, as a recovery would.

use std::sync::Arc;

use event_store::{
    Batch, CommitError, EffectId, Event, EventStore, Hash, Head, IdempotencyRecord, LogReader, LogWriter, MemoryStore, Parked, RecordKey,
    SetAside, Shards, StoreError, StreamId, StreamRead, StreamSlice, Unfinished, Unparked, batch_hash,
};
use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use uuid::Uuid;

/// How a commit ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fate {
    /// As it should.
    #[default]
    Written,
    /// The disk is full.
    NotWritten,
    /// Written, but the writer is not told.
    UnknownWritten,
    /// Not written, and the writer is not told.
    UnknownNotWritten,
    /// The disk fails, and holds the batch or not.
    Failed {
        /// What the next start finds.
        survives: bool,
    },
    /// The store does not take it for what it contains.
    Refused,
}

#[derive(Debug, Default)]
struct Weather {
    /// Every effect that was ever owed durably.
    owed: FxHashSet<EffectId>,
    /// Every effect that is owed durably and not settled, with its shard.
    owing: FxHashSet<(u16, EffectId)>,
    fate: Fate,
    reads_to_fail: u32,
    failed_reads: u32,
}

/// The disk. A clone is the same disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    durable: MemoryStore,
    weather: Arc<Mutex<Weather>>,
}

impl Disk {
    pub(crate) fn new(log: Uuid) -> Self {
        Self {
            durable: MemoryStore::new(log),
            weather: Arc::default(),
        }
    }

    /// A commit that ends like this.
    pub(crate) fn commit_as(&self, fate: Fate, batches: &[&Batch]) -> Result<(), CommitError> {
        self.weather.lock().fate = fate;
        self.clone().commit(batches)
    }

    /// So many of the next reads fail.
    pub(crate) fn fail_reads(&self, count: u32) {
        self.weather.lock().reads_to_fail = count;
    }

    /// How many reads have failed since this was last asked.
    pub(crate) fn failed_reads(&self) -> u32 {
        std::mem::take(&mut self.weather.lock().failed_reads)
    }

    /// What is durable, read without faults.
    pub(crate) fn durable(&self) -> &MemoryStore {
        &self.durable
    }

    /// What a recovery makes of a batch of which only the first rows were written: nothing, unless it is whole after all.
    pub(crate) fn recover_torn(&self, batch: &Batch, rows: usize) -> bool {
        let kept = &batch.events[..rows.min(batch.events.len())];
        let whole = batch_hash(&batch.previous_hash, kept) == batch.hash;
        whole && self.write(&[batch]).is_ok()
    }

    /// Makes batches durable, if their writer still has the shard.
    pub(crate) fn write(&self, batches: &[&Batch]) -> Result<(), CommitError> {
        self.durable.clone().commit(batches)?;
        let mut weather = self.weather.lock();
        for batch in batches {
            weather.owed.extend(batch.owed.iter().map(|owed| owed.id));
            weather.owing.extend(batch.owed.iter().map(|owed| (batch.shard, owed.id)));
            for settled in &batch.settled {
                weather.owing.remove(&(batch.shard, *settled));
            }
        }
        Ok(())
    }

    /// Whether this effect is owed durably, or was before its outcome became known.
    pub(crate) fn owed(&self, effect: EffectId) -> bool {
        self.weather.lock().owed.contains(&effect)
    }

    /// Whether a shard owes this effect durably.
    pub(crate) fn owes(&self, shard: u16, effect: EffectId) -> bool {
        self.weather.lock().owing.contains(&(shard, effect))
    }

    fn readable(&self) -> Result<(), StoreError> {
        let mut weather = self.weather.lock();
        if weather.reads_to_fail == 0 {
            return Ok(());
        }
        weather.reads_to_fail -= 1;
        weather.failed_reads += 1;
        Err(StoreError::Unavailable("the simulated disk does not answer".into()))
    }
}

impl EventStore for Disk {
    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError> {
        Ok(Box::new(self.clone()))
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        Ok(Box::new(self.clone()))
    }

    fn lacks(&self) -> &'static [&'static str] {
        self.durable.lacks()
    }
}

impl LogWriter for Disk {
    fn found(&mut self, shards: Shards) -> Result<Shards, StoreError> {
        self.durable.found(shards)
    }

    fn take(&mut self, shard: u16, instance: Uuid, now: i64) -> Result<Head, StoreError> {
        self.durable.take(shard, instance, now)
    }

    fn commit(&mut self, batches: &[&Batch]) -> Result<(), CommitError> {
        let fate = std::mem::take(&mut self.weather.lock().fate);
        match fate {
            Fate::Written => self.write(batches),
            Fate::NotWritten => Err(CommitError::NotWritten("the simulated disk is full".into())),
            Fate::UnknownWritten => {
                self.write(batches)?;
                Err(CommitError::Unknown("the connection broke during the commit".into()))
            }
            Fate::UnknownNotWritten => Err(CommitError::Unknown("the connection broke before the commit".into())),
            Fate::Failed { survives } => {
                if survives {
                    self.write(batches)?;
                }
                Err(CommitError::Disk("the simulated disk failed".into()))
            }
            Fate::Refused => Err(CommitError::Refused("the simulated disk does not take this".to_owned())),
        }
    }

    fn heartbeat(&mut self, shard: u16, epoch: u64, now: i64) -> Result<(), CommitError> {
        self.durable.heartbeat(shard, epoch, now)
    }
}

impl LogReader for Disk {
    fn head(&self, shard: u16) -> Result<Option<Head>, StoreError> {
        self.readable()?;
        self.durable.head(shard)
    }

    fn read(
        &self,
        records: &[RecordKey],
        streams: &[StreamRead],
    ) -> Result<(Vec<Option<IdempotencyRecord>>, Vec<StreamSlice>), StoreError> {
        self.readable()?;
        self.durable.read(records, streams)
    }

    fn events(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.readable()?;
        self.durable.events(shard, after, limit)
    }

    fn stream(&self, stream: &StreamId, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.readable()?;
        self.durable.stream(stream, after, limit)
    }

    fn batches(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<(u64, Hash, Hash, u64)>, StoreError> {
        self.readable()?;
        self.durable.batches(shard, after, limit)
    }

    fn unfinished(&self, shard: u16) -> Result<Unfinished, StoreError> {
        self.readable()?;
        self.durable.unfinished(shard)
    }

    fn parked(&self, shard: u16, limit: usize) -> Result<Vec<Parked>, StoreError> {
        self.readable()?;
        self.durable.parked(shard, limit)
    }

    fn parked_input(&self, shard: u16, id: Uuid) -> Result<Option<Parked>, StoreError> {
        self.readable()?;
        self.durable.parked_input(shard, id)
    }

    fn unparked(&self, shard: u16, id: Uuid) -> Result<Option<Unparked>, StoreError> {
        self.readable()?;
        self.durable.unparked(shard, id)
    }

    fn set_aside(&self, shard: u16, after: Option<Uuid>, limit: usize) -> Result<Option<Vec<SetAside>>, StoreError> {
        self.readable()?;
        self.durable.set_aside(shard, after, limit)
    }

    fn shard_count(&self) -> Result<Option<Shards>, StoreError> {
        self.readable()?;
        self.durable.shard_count()
    }

    fn shards(&self) -> Result<Vec<u16>, StoreError> {
        self.durable.shards()
    }
}
