//! The log in memory: as correct as the others, and gone with the process. For tests and the simulation.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use uuid::Uuid;

use crate::{
    Batch, Bell, Checkpoints, Claim, CommitError, EffectId, Event, EventStore, GENESIS, Hash, Head, IdempotencyRecord, LogReader,
    LogWriter, OwedEffect, Parked, RecordKey, SetAside, Shards, Snapshot, StoreError, StreamId, StreamRead, StreamSlice, Timer, TimerId,
    Unfinished, Unparked, Wakes,
};

/// A store that keeps everything in memory. A clone is the same store.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    log: Arc<Mutex<Log>>,
    news: Bell,
}

impl MemoryStore {
    /// An empty store whose log has this id; a simulation chooses it from its seed.
    pub fn new(log_id: Uuid) -> Self {
        Self {
            log: Arc::new(Mutex::new(Log::new(log_id))),
            news: Bell::default(),
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Uuid::new_v4())
    }
}

impl EventStore for MemoryStore {
    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError> {
        Ok(Box::new(self.clone()))
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        Ok(Box::new(self.clone()))
    }

    fn checkpoints(&self) -> Result<Box<dyn Checkpoints>, StoreError> {
        Ok(Box::new(self.clone()))
    }

    fn wakes(&self) -> Result<Option<Box<dyn Wakes>>, StoreError> {
        Ok(Some(Box::new(self.news.listener())))
    }

    /// Nobody can reach past the port, so there is nothing that a trigger could refuse.
    fn lacks(&self) -> &'static [&'static str] {
        &["append-only-triggers"]
    }
}

impl LogWriter for MemoryStore {
    fn found(&mut self, shards: Shards) -> Result<Shards, StoreError> {
        Ok(*self.log.lock().shard_count.get_or_insert(shards))
    }

    fn found_as(&mut self, shards: Shards, log_id: Uuid) -> Result<Shards, StoreError> {
        let mut log = self.log.lock();
        if log.shard_count.is_none() && log.shards.is_empty() {
            log.id = log_id;
        }
        if log.id == log_id {
            Ok(*log.shard_count.get_or_insert(shards))
        } else {
            Err(StoreError::not_a_copy(log.id, log_id))
        }
    }

    fn take(&mut self, shard: u16, instance: Uuid, now: i64) -> Result<Head, StoreError> {
        self.log.lock().take(shard, instance, now, Claim::Vacant)
    }

    fn seize(&mut self, shard: u16, instance: Uuid, now: i64) -> Result<Head, StoreError> {
        self.log.lock().take(shard, instance, now, Claim::Assigned)
    }

    fn commit(&mut self, batches: &[&Batch]) -> Result<(), CommitError> {
        let mut log = self.log.lock();
        log.admit(batches)?;
        for batch in batches {
            log.apply(batch);
        }
        drop(log);
        if batches.iter().any(|batch| !batch.events.is_empty()) {
            self.news.ring();
        }
        Ok(())
    }

    fn heartbeat(&mut self, shard: u16, epoch: u64, now: i64) -> Result<(), CommitError> {
        match self.log.lock().shards.get_mut(&shard) {
            Some(held) if held.head.epoch == epoch => {
                held.heartbeat = now;
                Ok(())
            }
            _ => Err(CommitError::Fenced(shard)),
        }
    }
}

impl Checkpoints for MemoryStore {
    fn read(&mut self, name: &str) -> Result<Vec<(u16, u64)>, StoreError> {
        let log = self.log.lock();
        let of_name = log.checkpoints.iter().filter(|((reader, _), _)| reader == name);
        Ok(of_name.map(|((_, shard), position)| (*shard, *position)).collect())
    }

    fn advance(&mut self, name: &str, shard: u16, from: u64, to: u64) -> Result<bool, StoreError> {
        let mut log = self.log.lock();
        let place = (name.to_owned(), shard);
        let stands_there = log.checkpoints.get(&place).copied().unwrap_or(0) == from;
        if stands_there {
            log.checkpoints.insert(place, to);
        }
        Ok(stands_there)
    }
}

impl LogReader for MemoryStore {
    fn head(&self, shard: u16) -> Result<Option<Head>, StoreError> {
        Ok(self.log.lock().shards.get(&shard).map(|shard| shard.head.clone()))
    }

    fn read(
        &self,
        records: &[RecordKey],
        streams: &[StreamRead],
    ) -> Result<(Vec<Option<IdempotencyRecord>>, Vec<StreamSlice>), StoreError> {
        let log = self.log.lock();
        let records = records.iter().map(|key| log.records.get(key).cloned()).collect();
        let streams = streams.iter().map(|question| log.slice(question)).collect();
        Ok((records, streams))
    }

    fn events(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        let log = self.log.lock();
        let skip = usize::try_from(after).unwrap_or(usize::MAX);
        Ok(log
            .shards
            .get(&shard)
            .map(|shard| shard.events.iter().skip(skip).take(limit).cloned().collect())
            .unwrap_or_default())
    }

    fn stream(&self, stream: &StreamId, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        Ok(self.log.lock().stream(stream, after, limit))
    }

    fn batches(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<(u64, Hash, Hash, u64)>, StoreError> {
        let log = self.log.lock();
        let Some(shard) = log.shards.get(&shard) else {
            return Ok(Vec::new());
        };
        let first = shard.batches.partition_point(|(last, ..)| *last <= after);
        Ok(shard.batches[first..].iter().take(limit).copied().collect())
    }

    fn unfinished(&self, shard: u16) -> Result<Unfinished, StoreError> {
        let log = self.log.lock();
        let Some(shard) = log.shards.get(&shard) else {
            return Ok(Unfinished::default());
        };
        Ok(Unfinished {
            effects: shard.effects.values().cloned().collect(),
            timers: shard.timers.values().cloned().collect(),
        })
    }

    fn parked(&self, shard: u16, limit: usize) -> Result<Vec<Parked>, StoreError> {
        let log = self.log.lock();
        let Some(shard) = log.shards.get(&shard) else {
            return Ok(Vec::new());
        };
        let open = shard.parked.values().filter(|(_, ended)| ended.is_none());
        let mut parked: Vec<_> = open.map(|(parked, _)| parked.clone()).collect();
        parked.sort_by_key(|parked| (parked.at, parked.id));
        parked.truncate(limit);
        Ok(parked)
    }

    fn parked_input(&self, shard: u16, id: Uuid) -> Result<Option<Parked>, StoreError> {
        let log = self.log.lock();
        let parked = log.shards.get(&shard).and_then(|shard| shard.parked.get(&id));
        Ok(parked.filter(|(_, ended)| ended.is_none()).map(|(parked, _)| parked.clone()))
    }

    fn unparked(&self, shard: u16, id: Uuid) -> Result<Option<Unparked>, StoreError> {
        let log = self.log.lock();
        let parked = log.shards.get(&shard).and_then(|shard| shard.parked.get(&id));
        Ok(parked.and_then(|(_, ended)| ended.clone()))
    }

    fn set_aside(&self, shard: u16, after: Option<Uuid>, limit: usize) -> Result<Option<Vec<SetAside>>, StoreError> {
        let log = self.log.lock();
        let of_shard = log.shards.get(&shard).into_iter().flat_map(|shard| shard.parked.values());
        let page = of_shard.filter(|(input, _)| Some(input.id) > after).take(limit);
        let page = page.map(|(input, end)| SetAside {
            input: input.clone(),
            end: end.clone(),
        });
        Ok(Some(page.collect()))
    }

    fn shard_count(&self) -> Result<Option<Shards>, StoreError> {
        Ok(self.log.lock().shard_count)
    }

    fn shards(&self) -> Result<Vec<u16>, StoreError> {
        Ok(self.log.lock().shards.keys().copied().collect())
    }

    fn records(&self, after: Option<RecordKey>, limit: usize) -> Result<Option<Vec<IdempotencyRecord>>, StoreError> {
        let log = self.log.lock();
        let mut records: Vec<_> = log.records.values().filter(|record| Some(record.key) > after).collect();
        records.sort_unstable_by_key(|record| record.key);
        Ok(Some(records.into_iter().take(limit).cloned().collect()))
    }

    fn snapshots(&self, after: Option<&Snapshot>, limit: usize) -> Result<Option<Vec<Snapshot>>, StoreError> {
        let log = self.log.lock();
        let place = |snapshot: &Snapshot| (snapshot.stream.clone(), snapshot.shape);
        let after = after.map(place);
        let mut snapshots: Vec<_> = log.snapshots.iter().filter(|(place, _)| Some(*place) > after.as_ref()).collect();
        snapshots.sort_unstable_by_key(|(place, _)| *place);
        Ok(Some(
            snapshots.into_iter().take(limit).map(|(_, snapshot)| snapshot.clone()).collect(),
        ))
    }
}

#[derive(Debug)]
struct Log {
    id: Uuid,
    shard_count: Option<Shards>,
    shards: BTreeMap<u16, Shard>,
    /// Where each event of a stream stands: sequence to shard and index.
    streams: HashMap<StreamId, BTreeMap<u64, (u16, usize)>>,
    records: HashMap<RecordKey, IdempotencyRecord>,
    snapshots: HashMap<(StreamId, Hash), Snapshot>,
    /// Of each reader and shard.
    checkpoints: BTreeMap<(String, u16), u64>,
}

#[derive(Debug)]
struct Shard {
    head: Head,
    instance: Uuid,
    heartbeat: i64,
    events: Vec<Event>,
    batches: Vec<(u64, Hash, Hash, u64)>,
    effects: BTreeMap<EffectId, OwedEffect>,
    timers: BTreeMap<TimerId, Timer>,
    /// What was set aside, and how it ended.
    parked: BTreeMap<Uuid, (Parked, Option<Unparked>)>,
}

impl Shard {
    fn new(shard: u16, log_id: Uuid) -> Self {
        Self {
            head: Head {
                shard,
                position: 0,
                epoch: 0,
                hash: GENESIS,
                recorded_at: 0,
                orders_numbered: 0,
                log_id,
            },
            instance: Uuid::nil(),
            heartbeat: i64::MIN,
            events: Vec::new(),
            batches: Vec::new(),
            effects: BTreeMap::new(),
            timers: BTreeMap::new(),
            parked: BTreeMap::new(),
        }
    }
}

impl Log {
    fn new(id: Uuid) -> Self {
        Self {
            id,
            shard_count: None,
            shards: BTreeMap::new(),
            streams: HashMap::new(),
            records: HashMap::new(),
            snapshots: HashMap::new(),
            checkpoints: BTreeMap::new(),
        }
    }

    fn take(&mut self, shard: u16, instance: Uuid, now: i64, claim: Claim) -> Result<Head, StoreError> {
        let log_id = self.id;
        let held = self.shards.entry(shard).or_insert_with(|| Shard::new(shard, log_id));
        if held.instance != instance && held.heartbeat > claim.gives_way(now) {
            return Err(StoreError::Held {
                shard,
                holder: format!("instance {}", held.instance),
            });
        }
        held.head.epoch += 1;
        held.instance = instance;
        held.heartbeat = now;
        Ok(held.head.clone())
    }

    /// Whether all batches, one after another, may be written. Nothing is changed before the last one is admitted.
    fn admit(&self, batches: &[&Batch]) -> Result<(), CommitError> {
        let mut heads: HashMap<u16, (u64, Hash)> = HashMap::new();
        let mut versions = HashSet::new();
        let mut keys = HashSet::new();
        let mut ends = HashSet::new();
        for batch in batches {
            batch.check().map_err(CommitError::Refused)?;
            let head = self
                .shards
                .get(&batch.shard)
                .map(|shard| &shard.head)
                .ok_or(CommitError::Fenced(batch.shard))?;
            let (position, hash) = heads.entry(batch.shard).or_insert((head.position, head.hash));
            if (batch.epoch, batch.first_position - 1) != (head.epoch, *position) {
                return Err(CommitError::Fenced(batch.shard));
            }
            if batch.previous_hash != *hash {
                return Err(CommitError::Refused("the batch does not follow the hash of the one before".into()));
            }
            (*position, *hash) = (batch.last_position(), batch.hash);
            for event in &batch.events {
                let exists = self
                    .streams
                    .get(&event.stream)
                    .is_some_and(|stream| stream.contains_key(&event.sequence));
                if exists || !versions.insert((&event.stream, event.sequence)) {
                    return Err(CommitError::Refused(format!(
                        "{} has a version {} already",
                        event.stream, event.sequence
                    )));
                }
            }
            for unparked in &batch.unparked {
                let open = self.shards.get(&batch.shard).and_then(|shard| shard.parked.get(&unparked.id));
                if !open.is_some_and(|(_, ended)| ended.is_none()) || !ends.insert(unparked.id) {
                    return Err(CommitError::Refused(format!("{} is not set aside", unparked.id)));
                }
            }
            for record in &batch.records {
                if self.records.contains_key(&record.key) || !keys.insert(record.key) {
                    return Err(CommitError::Refused("the idempotency key has a record already".into()));
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, batch: &Batch) {
        let log_id = self.id;
        let shard = self.shards.entry(batch.shard).or_insert_with(|| Shard::new(batch.shard, log_id));
        for event in &batch.events {
            self.streams
                .entry(event.stream.clone())
                .or_default()
                .insert(event.sequence, (batch.shard, shard.events.len()));
            shard.events.push(event.clone());
            shard.head.recorded_at = event.recorded_at;
        }
        if !batch.events.is_empty() {
            shard
                .batches
                .push((batch.last_position(), batch.previous_hash, batch.hash, batch.epoch));
        }
        shard.head.position = batch.last_position();
        shard.head.hash = batch.hash;
        shard.head.orders_numbered = batch.orders_numbered;
        shard.effects.extend(batch.owed.iter().map(|owed| (owed.id, owed.clone())));
        for settled in &batch.settled {
            shard.effects.remove(settled);
        }
        shard.timers.extend(batch.timers.iter().map(|timer| (timer.id, timer.clone())));
        for done in &batch.timers_done {
            shard.timers.remove(done);
        }
        shard
            .parked
            .extend(batch.parked.iter().map(|parked| (parked.id, (parked.clone(), None))));
        for unparked in &batch.unparked {
            if let Some((_, ended)) = shard.parked.get_mut(&unparked.id) {
                *ended = Some(unparked.clone());
            }
        }
        self.records.extend(batch.records.iter().map(|record| (record.key, record.clone())));
        for snapshot in &batch.snapshots {
            self.keep(snapshot);
        }
    }

    /// Only the newest snapshot of a stream and shape is of use.
    fn keep(&mut self, snapshot: &Snapshot) {
        let key = (snapshot.stream.clone(), snapshot.shape);
        if self.snapshots.get(&key).is_none_or(|kept| kept.sequence <= snapshot.sequence) {
            self.snapshots.insert(key, snapshot.clone());
        }
    }

    fn slice(&self, question: &StreamRead) -> StreamSlice {
        let snapshot = self.snapshots.get(&(question.stream.clone(), question.shape)).cloned();
        let after = snapshot.as_ref().map_or(0, |snapshot| snapshot.sequence);
        StreamSlice {
            snapshot,
            events: self.stream(&question.stream, after, usize::MAX),
        }
    }

    fn stream(&self, stream: &StreamId, after: u64, limit: usize) -> Vec<Event> {
        let Some(places) = self.streams.get(stream) else {
            return Vec::new();
        };
        let first = after.saturating_add(1);
        places
            .range(first..)
            .take(limit)
            .filter_map(|(_, (shard, index))| self.shards.get(shard)?.events.get(*index).cloned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Place;

    impl Place for MemoryStore {
        type Store = Self;

        fn open(&self) -> Self {
            self.clone()
        }
    }

    crate::conformance_suite!(MemoryStore::default());
}
