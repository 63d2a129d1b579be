//! A reader that counts what it reads, and of which some streams, or all that is owed, cannot be read.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::{
    Arc, Condvar, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use event_store::{
    Event, Hash, Head, IdempotencyRecord, LogReader, Parked, RecordKey, SetAside, Shards, StoreError, StreamId, StreamRead, StreamSlice,
    Unfinished, Unparked,
};
use uuid::Uuid;

/// What is wrong with a log, and how much of it was read. A clone is the same.
#[derive(Clone, Default)]
pub(crate) struct Badness {
    poisoned: Arc<Mutex<Vec<StreamId>>>,
    unreadable: Arc<AtomicBool>,
    events_read: Arc<AtomicU64>,
    heads: Arc<(Mutex<Heads>, Condvar)>,
}

/// How the heads can be read.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Heads {
    #[default]
    Well,
    /// Whoever asks is told nothing.
    Silent,
    /// Whoever asks hears that it cannot be done.
    Unavailable,
}

impl Badness {
    /// A reader of a log with which this is wrong.
    pub(crate) fn of(&self, inner: Box<dyn LogReader>) -> Box<dyn LogReader> {
        let badness = self.clone();
        Box::new(BadReader { inner, badness })
    }

    /// This stream cannot be read any more.
    pub(crate) fn poison(&self, stream: StreamId) {
        self.poisoned.lock().expect("nobody panics with it").push(stream);
    }

    /// From now on heads are read like this. Whoever waits hears of it.
    pub(crate) fn heads(&self, heads: Heads) {
        *self.heads.0.lock().expect("nobody panics with it") = heads;
        self.heads.1.notify_all();
    }

    /// Every stream can be read.
    pub(crate) fn heal(&self) {
        self.poisoned.lock().expect("nobody panics with it").clear();
    }

    /// What is owed cannot be read, or can again.
    pub(crate) fn unreadable(&self, unreadable: bool) {
        self.unreadable.store(unreadable, Ordering::Relaxed);
    }

    pub(crate) fn reset(&self) {
        self.events_read.store(0, Ordering::Relaxed);
    }

    /// How many events were read since then.
    pub(crate) fn events(&self) -> u64 {
        self.events_read.load(Ordering::Relaxed)
    }

    fn poisons(&self, stream: &StreamId) -> bool {
        self.poisoned.lock().expect("nobody panics with it").contains(stream)
    }
}

struct BadReader {
    inner: Box<dyn LogReader>,
    badness: Badness,
}

impl LogReader for BadReader {
    fn head(&self, shard: u16) -> Result<Option<Head>, StoreError> {
        let (heads, changed) = &*self.badness.heads;
        let heads = heads.lock().expect("nobody panics with it");
        let heads = changed
            .wait_while(heads, |heads| *heads == Heads::Silent)
            .expect("nobody panics with it");
        if *heads == Heads::Unavailable {
            return Err(StoreError::Unavailable("a planted failure".into()));
        }
        self.inner.head(shard)
    }

    fn read(
        &self,
        records: &[RecordKey],
        streams: &[StreamRead],
    ) -> Result<(Vec<Option<IdempotencyRecord>>, Vec<StreamSlice>), StoreError> {
        let (records, mut slices) = self.inner.read(records, streams)?;
        for (read, slice) in streams.iter().zip(&mut slices) {
            self.badness.events_read.fetch_add(slice.events.len() as u64, Ordering::Relaxed);
            if self.badness.poisons(&read.stream) {
                for event in &mut slice.events {
                    event.payload = "{\"type\":\"nobody.knows\"}".into();
                }
            }
        }
        Ok((records, slices))
    }

    fn events(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.inner.events(shard, after, limit)
    }

    fn stream(&self, stream: &StreamId, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.inner.stream(stream, after, limit)
    }

    fn batches(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<(u64, Hash, Hash, u64)>, StoreError> {
        self.inner.batches(shard, after, limit)
    }

    fn unfinished(&self, shard: u16) -> Result<Unfinished, StoreError> {
        if self.badness.unreadable.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("a planted failure".into()));
        }
        self.inner.unfinished(shard)
    }

    fn parked(&self, shard: u16, limit: usize) -> Result<Vec<Parked>, StoreError> {
        self.inner.parked(shard, limit)
    }

    fn parked_input(&self, shard: u16, id: Uuid) -> Result<Option<Parked>, StoreError> {
        self.inner.parked_input(shard, id)
    }

    fn unparked(&self, shard: u16, id: Uuid) -> Result<Option<Unparked>, StoreError> {
        self.inner.unparked(shard, id)
    }

    fn set_aside(&self, shard: u16, after: Option<Uuid>, limit: usize) -> Result<Option<Vec<SetAside>>, StoreError> {
        self.inner.set_aside(shard, after, limit)
    }

    fn shard_count(&self) -> Result<Option<Shards>, StoreError> {
        self.inner.shard_count()
    }

    fn shards(&self) -> Result<Vec<u16>, StoreError> {
        self.inner.shards()
    }
}
