//! A log copied into another store, batch by batch, with the same hashes.

use std::{collections::HashSet, ops::ControlFlow};

use uuid::Uuid;

use crate::{
    Batch, CommitError, EventStore, GIVEN_UP, Hash, Head, IdempotencyRecord, KEPT, LogReader, LogWriter, SetAside, Shards, StoreError,
    batch_hash, holder_of, verify_chain,
};

/// How many batches, records, snapshots, inputs or effects are read or written at once.
const PAGE: usize = 500;

/// About so many events are written in one transaction.
const TOGETHER: u64 = 2_000;

/// How many events become one batch, of those that are in none.
const UNCHAINED_AT_ONCE: u64 = 1_000;

/// Whose writer copies, and when.
#[derive(Clone, Copy, Debug)]
pub struct Copying {
    /// Names the copier, as a data directory's instance does.
    pub instance: Uuid,
    /// Microseconds since 1970.
    pub now: i64,
}

/// Why a log was not copied to its end.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It cannot be read, or the other cannot be opened for writing.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be written.
    #[error("the copy cannot be written: {0}")]
    Write(#[from] CommitError),
    /// The target is in use.
    #[error("the copy needs an empty log, and shard {shard} of this one ends at {position}")]
    NotEmpty {
        /// The shard.
        shard: u16,
        /// Where it ends.
        position: u64,
    },
    /// The target has another number of shards.
    #[error("the log has {from} shards, the copy {to}")]
    OtherShards {
        /// Of the log.
        from: Shards,
        /// Of the copy.
        to: Shards,
    },
    /// The log contradicts itself.
    #[error("the log is damaged: the batch {first} to {last} of shard {shard} is not what was written")]
    Damaged {
        /// The shard.
        shard: u16,
        /// The first position.
        first: u64,
        /// The last.
        last: u64,
    },
    /// The copy is not the log.
    #[error("shard {shard} of the copy is not that of the log: {what}")]
    Differs {
        /// The shard.
        shard: u16,
        /// What is different first.
        what: &'static str,
    },
    /// It was told to stop.
    #[error("the copy was stopped")]
    Stopped,
}

/// Told how many events are copied; may stop it.
pub type CopyProgress<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// Copies a log that nobody writes meanwhile into an empty one of another store, and returns how many events it has.
///
/// The copy has the same events, batches, hashes, epochs, idempotency records, snapshots, inputs that were set aside with their ends, and what
/// is owed. It takes over the log's id, which its events name. Events that are in no batch yet become one. `progress` is told how many events
/// are copied. What was copied before a failure stays: start again with an empty target, or use [`LogCopy`].
///
/// # Errors
/// The log cannot be read or is damaged, or the target is not empty or cannot be written.
pub fn copy(from: &dyn LogReader, to: &mut dyn LogWriter, how: Copying, progress: &mut dyn FnMut(u64)) -> Result<u64, CopyError> {
    let heads = found(from, to)?;
    let mut begun = Vec::with_capacity(heads.len());
    for head in heads {
        let taken = to.take(head.shard, how.instance, how.now)?;
        if taken.position > 0 {
            return Err(CopyError::NotEmpty {
                shard: head.shard,
                position: taken.position,
            });
        }
        begun.push((head, taken));
    }
    let mut progress = |copied| {
        progress(copied);
        ControlFlow::Continue(())
    };
    let mut work = Work {
        from,
        to,
        known: None,
        how,
        copied: 0,
        progress: &mut progress,
    };
    work.all(&begun)?;
    Ok(work.copied)
}

/// A copy that can be interrupted and gone on with, and that nobody else writes to before it is [given away](give_away): until the end of
/// the year 9999 its shards are the copier's, whichever process that is.
pub struct LogCopy<'a> {
    from: &'a dyn LogReader,
    known: Box<dyn LogReader>,
    to: Box<dyn LogWriter>,
    copier: Uuid,
    /// The shards of the log, and where the copy of each stands.
    begun: Vec<(Head, Head)>,
}

impl<'a> LogCopy<'a> {
    /// Takes an empty log, or one that the same copier has begun to copy from the same log.
    ///
    /// # Errors
    /// As those of [`copy`]: [`CopyError::NotEmpty`] also for a log that is held by another, or holds something else.
    pub fn begin(from: &'a dyn LogReader, store: &dyn EventStore, how: Copying) -> Result<Self, CopyError> {
        let (known, mut to) = (store.reader()?, store.writer()?);
        let heads = found(from, to.as_mut())?;
        let mut begun = Vec::with_capacity(heads.len());
        for head in heads {
            let there = keep(from, &head, known.as_ref(), to.as_mut(), how)?;
            begun.push((head, there));
        }
        Ok(Self {
            from,
            known,
            to,
            copier: how.instance,
            begun,
        })
    }

    /// Copies what is not there yet. What the log has finished since an earlier copier looked is finished in the copy too.
    ///
    /// # Errors
    /// As those of [`copy`], and [`CopyError::Stopped`].
    pub fn copy(&mut self, progress: CopyProgress<'_>) -> Result<u64, CopyError> {
        let mut work = Work {
            from: self.from,
            to: self.to.as_mut(),
            known: Some(self.known.as_ref()),
            how: Copying {
                instance: self.copier,
                now: KEPT,
            },
            copied: self.begun.iter().map(|(_, there)| there.position).sum(),
            progress,
        };
        work.all(&self.begun)?;
        Ok(work.copied)
    }
}

/// Lets whoever wants to write to a complete copy, whose epochs are those of the log at least. What is given away already stays so.
///
/// # Errors
/// A log cannot be asked, the copy lacks what the log has, or cannot be written.
pub fn give_away(from: &dyn LogReader, store: &dyn EventStore, how: Copying) -> Result<(), CopyError> {
    let (reader, mut to) = (store.reader()?, store.writer()?);
    let heads = from.heads()?;
    for head in &heads {
        let lacks = CopyError::Differs {
            shard: head.shard,
            what: "it lacks what the log has",
        };
        let there = reader.head(head.shard)?.filter(|there| there.log_id == head.log_id);
        if there.is_none() || !goes_on_behind(reader.as_ref(), head.shard, head)? {
            return Err(lacks);
        }
    }
    for Head { shard, epoch, .. } in heads {
        if !is_held_by(how.instance, shard, reader.as_ref(), to.as_mut())? {
            continue;
        }
        let mut reached = reader.head(shard)?.map_or(0, |there| there.epoch);
        while reached < epoch {
            // Somebody may have it by now, of another one who gives it away: that one keeps it.
            reached = to.take(shard, how.instance, how.now)?.epoch;
        }
        let_go(shard, reached, to.as_mut(), how.now)?;
    }
    Ok(())
}

/// Gives up a shard that was kept from everybody, and takes the keeper's name off it: a shop may have it by then.
///
/// # Errors
/// The shard is another's, or the log cannot be written.
pub fn let_go(shard: u16, epoch: u64, writer: &mut dyn LogWriter, now: i64) -> Result<(), CopyError> {
    writer.heartbeat(shard, epoch, GIVEN_UP)?;
    match writer.take(shard, Uuid::new_v4(), now) {
        Ok(head) => Ok(writer.heartbeat(shard, head.epoch, GIVEN_UP)?),
        Err(StoreError::Held { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_held_by(instance: Uuid, shard: u16, reader: &dyn LogReader, writer: &mut dyn LogWriter) -> Result<bool, StoreError> {
    let holder = holder_of(shard, reader, writer)?;
    Ok(holder.is_some_and(|holder| holder.contains(&instance.to_string())))
}

/// That a copy is its log: the same number of shards, which end in the same place with the same hash after the same batches, under no lower
/// epoch. Each hash of the copy is computed anew. Returns how many events it has.
///
/// # Errors
/// One of them cannot be read, the copy is damaged, or [differs](CopyError::Differs).
pub fn check_copy(from: &dyn LogReader, copy: &dyn LogReader) -> Result<u64, CopyError> {
    if let (Some(from), Some(to)) = (from.shard_count()?, copy.shard_count()?)
        && from != to
    {
        return Err(CopyError::OtherShards { from, to });
    }
    let mut events = 0;
    for head in from.heads()? {
        let shard = head.shard;
        let differs = |what| CopyError::Differs { shard, what };
        let there = copy.head(shard)?.ok_or_else(|| differs("it is not there"))?;
        if there.log_id != head.log_id {
            return Err(differs("it belongs to another log"));
        }
        if (there.position, there.hash) != (head.position, head.hash) {
            return Err(differs("it does not end where the log ends"));
        }
        if (there.recorded_at, there.orders_numbered) != (head.recorded_at, head.orders_numbered) || there.epoch < head.epoch {
            return Err(differs("its head says something else"));
        }
        let mut after = 0;
        loop {
            let page = from.batches(shard, after, PAGE)?;
            if page != copy.batches(shard, after, PAGE)? {
                return Err(differs("its batches are not the same"));
            }
            let Some((last, ..)) = page.last() else { break };
            after = *last;
        }
        events += verify_chain(copy, shard)?;
    }
    Ok(events)
}

/// Makes the target a log of that id and number of shards; the heads that are to be copied.
fn found(from: &dyn LogReader, to: &mut dyn LogWriter) -> Result<Vec<Head>, CopyError> {
    let shards = from.shard_count()?.unwrap_or(Shards::ONE);
    let heads = from.heads()?;
    let founded = match heads.first() {
        Some(head) => to.found_as(shards, head.log_id)?,
        None => to.found(shards)?,
    };
    if founded != shards {
        return Err(CopyError::OtherShards { from: shards, to: founded });
    }
    Ok(heads)
}

/// Keeps a shard of the target from everybody else. One that has a head already is the copier's, and as far as it goes that of the log.
fn keep(from: &dyn LogReader, head: &Head, known: &dyn LogReader, to: &mut dyn LogWriter, how: Copying) -> Result<Head, CopyError> {
    let shard = head.shard;
    let there = match known.head(shard)? {
        Some(there) => {
            let not_ours = CopyError::NotEmpty {
                shard,
                position: there.position,
            };
            let ours = is_held_by(how.instance, shard, known, to)? && there.log_id == head.log_id;
            if !ours || !goes_on_behind(from, shard, &there)? {
                return Err(not_ours);
            }
            there
        }
        None => to.take(shard, how.instance, how.now)?,
    };
    to.heartbeat(shard, there.epoch, KEPT)?;
    Ok(there)
}

/// Whether a log has a batch that ends at this head, with the same hash: then all before it is the same too.
fn goes_on_behind(log: &dyn LogReader, shard: u16, head: &Head) -> Result<bool, StoreError> {
    if head.position == 0 {
        return Ok(true);
    }
    let batches = log.batches(shard, head.position - 1, 1)?;
    Ok(batches
        .iter()
        .any(|(last, _, hash, _)| (*last, *hash) == (head.position, head.hash)))
}

/// Where the copy of a shard stands.
struct At {
    head: Head,
    orders_numbered: u64,
}

impl At {
    /// The next batch, without events.
    fn batch(&self) -> Batch {
        Batch {
            shard: self.head.shard,
            epoch: self.head.epoch,
            first_position: self.head.position + 1,
            orders_numbered: self.orders_numbered,
            previous_hash: self.head.hash,
            hash: self.head.hash,
            ..Batch::default()
        }
    }
}

/// What one who copies works with.
struct Work<'a> {
    from: &'a dyn LogReader,
    to: &'a mut dyn LogWriter,
    /// The target, where an earlier copier may have left something.
    known: Option<&'a dyn LogReader>,
    how: Copying,
    copied: u64,
    progress: CopyProgress<'a>,
}

impl Work<'_> {
    fn all(&mut self, begun: &[(Head, Head)]) -> Result<(), CopyError> {
        let mut last = None;
        for (head, there) in begun {
            last = Some(self.shard(head, there)?);
        }
        if let Some(at) = last {
            self.records(&at)?;
            self.snapshots(&at)?;
        }
        Ok(())
    }

    /// Says how far it is.
    fn goes_on(&mut self) -> Result<(), CopyError> {
        match (self.progress)(self.copied) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(CopyError::Stopped),
        }
    }

    fn take(&mut self, at: &mut At) -> Result<(), CopyError> {
        at.head.epoch = self.to.take(at.head.shard, self.how.instance, self.how.now)?.epoch;
        Ok(())
    }

    fn shard(&mut self, head: &Head, there: &Head) -> Result<At, CopyError> {
        let mut at = At {
            head: there.clone(),
            orders_numbered: head.orders_numbered,
        };
        loop {
            let batches = self.from.batches(head.shard, at.head.position, PAGE)?;
            if batches.is_empty() {
                break;
            }
            let mut rest = batches.as_slice();
            while let Some((_, _, _, epoch)) = rest.first() {
                // An epoch is as old as its batches say, so the ids that name it stay true.
                while at.head.epoch < *epoch {
                    self.take(&mut at)?;
                }
                let after = at.head.position;
                let together = rest
                    .iter()
                    .take_while(|batch| batch.3 == *epoch && batch.0 <= after + TOGETHER)
                    .count();
                let (now, later) = rest.split_at(together.max(1));
                let ends: Vec<_> = now.iter().map(|(last, _, hash, _)| (*last, Some(*hash))).collect();
                self.append(&mut at, &ends)?;
                rest = later;
            }
        }
        while at.head.position < head.position {
            let last = head.position.min(at.head.position + UNCHAINED_AT_ONCE);
            self.append(&mut at, &[(last, None)])?;
        }
        while at.head.epoch < head.epoch {
            self.take(&mut at)?;
        }
        self.unfinished(&at)?;
        self.set_aside(&at)?;
        Ok(at)
    }

    /// Writes batches that end at these positions, in one transaction.
    fn append(&mut self, at: &mut At, ends: &[(u64, Option<Hash>)]) -> Result<(), CopyError> {
        let (shard, begun) = (at.head.shard, at.head.position);
        let last = ends.last().map_or(begun, |(last, _)| *last);
        let wanted = usize::try_from(last.saturating_sub(begun)).unwrap_or(usize::MAX);
        let mut events = self.from.events(shard, begun, wanted)?.into_iter().peekable();
        let mut batches = Vec::with_capacity(ends.len());
        for (last, hash) in ends {
            let first = at.head.position + 1;
            let of_batch: Vec<_> = std::iter::from_fn(|| events.next_if(|event| event.position <= *last)).collect();
            let computed = batch_hash(&at.head.hash, &of_batch);
            if of_batch.len() as u64 != (*last + 1).saturating_sub(first) || hash.is_some_and(|hash| hash != computed) {
                return Err(CopyError::Damaged { shard, first, last: *last });
            }
            batches.push(Batch {
                events: of_batch,
                hash: computed,
                ..at.batch()
            });
            (at.head.position, at.head.hash) = (*last, computed);
        }
        self.to.commit(&batches.iter().collect::<Vec<_>>())?;
        self.copied += last - begun;
        self.goes_on()
    }

    /// What the shard owes; what an earlier copier found owed, and the log has finished since, is owed no more.
    fn unfinished(&mut self, at: &At) -> Result<(), CopyError> {
        let owed = self.from.unfinished(at.head.shard)?;
        if let Some(known) = self.known {
            let before = known.unfinished(at.head.shard)?;
            let (effects, timers): (HashSet<_>, HashSet<_>) = (
                owed.effects.iter().map(|owed| owed.id).collect(),
                owed.timers.iter().map(|timer| timer.id).collect(),
            );
            let settled: Vec<_> = before
                .effects
                .iter()
                .map(|owed| owed.id)
                .filter(|id| !effects.contains(id))
                .collect();
            let timers_done: Vec<_> = before
                .timers
                .iter()
                .map(|timer| timer.id)
                .filter(|id| !timers.contains(id))
                .collect();
            for settled in settled.chunks(PAGE) {
                self.commit(&Batch {
                    settled: settled.to_vec(),
                    ..at.batch()
                })?;
            }
            for timers_done in timers_done.chunks(PAGE) {
                self.commit(&Batch {
                    timers_done: timers_done.to_vec(),
                    ..at.batch()
                })?;
            }
        }
        for owed in owed.effects.chunks(PAGE) {
            self.commit(&Batch {
                owed: owed.to_vec(),
                ..at.batch()
            })?;
        }
        for timers in owed.timers.chunks(PAGE) {
            self.commit(&Batch {
                timers: timers.to_vec(),
                ..at.batch()
            })?;
        }
        // The head says how many orders are numbered, also where nothing is owed.
        self.commit(&at.batch())
    }

    /// Each input that was ever set aside, then its end: a batch ends only what is set aside before it.
    fn set_aside(&mut self, at: &At) -> Result<(), CopyError> {
        let mut after = None;
        loop {
            let page = self.from.set_aside(at.head.shard, after, PAGE)?.ok_or_else(not_listed)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.input.id);
            let (parked, ends): (Vec<_>, Vec<_>) = page.into_iter().map(|SetAside { input, end }| (input, end)).unzip();
            self.commit(&Batch { parked, ..at.batch() })?;
            let unparked: Vec<_> = ends.into_iter().flatten().collect();
            if !unparked.is_empty() {
                self.commit(&Batch { unparked, ..at.batch() })?;
            }
        }
    }

    /// The recorded answers, which belong to no shard. One that an earlier copier has written cannot be written again.
    fn records(&mut self, at: &At) -> Result<(), CopyError> {
        let mut after = None;
        loop {
            let page = self.from.records(after, PAGE)?.ok_or_else(not_listed)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.key);
            let records = self.not_there_yet(page)?;
            if !records.is_empty() {
                self.commit(&Batch { records, ..at.batch() })?;
            }
        }
    }

    fn not_there_yet(&self, page: Vec<IdempotencyRecord>) -> Result<Vec<IdempotencyRecord>, CopyError> {
        let Some(known) = self.known else { return Ok(page) };
        let keys: Vec<_> = page.iter().map(|record| record.key).collect();
        let (there, _) = known.read(&keys, &[])?;
        let new = page.into_iter().zip(there).filter(|(_, there)| there.is_none());
        Ok(new.map(|(record, _)| record).collect())
    }

    /// The snapshots, which belong to no shard either.
    fn snapshots(&mut self, at: &At) -> Result<(), CopyError> {
        let mut after = None;
        loop {
            let snapshots = self.from.snapshots(after.as_ref(), PAGE)?.ok_or_else(not_listed)?;
            let Some(last) = snapshots.last() else { return Ok(()) };
            after = Some(last.clone());
            self.commit(&Batch { snapshots, ..at.batch() })?;
        }
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), CopyError> {
        self.to.commit(&[batch])?;
        self.goes_on()
    }
}

/// A reader that answers a few questions alone is none that a log can be copied by.
fn not_listed() -> StoreError {
    StoreError::Foreign("this reader cannot list everything that a log keeps".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, GENESIS, MemoryStore, OwedEffect, Parked, RecordKey, Snapshot, StreamId, Timer, Unparked, Unparking};

    fn event(position: u64) -> Event {
        Event {
            shard: 0,
            position,
            stream: StreamId::new("order", Uuid::from_u128(1)),
            sequence: position,
            event_id: Uuid::from_u128(u128::from(position) + 9),
            event_type: "order.placed".into(),
            event_version: "1.0.0".into(),
            recorded_at: 1,
            payload: "{}".into(),
            metadata: "{}".into(),
        }
    }

    const HOW: Copying = Copying {
        instance: Uuid::from_u128(7),
        now: 1_000,
    };

    #[test]
    fn a_copy_has_the_same_batches_under_the_same_epochs_and_owes_the_same() {
        let log = MemoryStore::default();
        let mut writer = log.writer().expect("a writer");
        writer.found(Shards::ONE).expect("one");
        let mut hash = GENESIS;
        for (first, last) in [(1, 2), (3, 3), (4, 9)] {
            let head = writer.take(0, Uuid::nil(), 1).expect("the shard");
            let events: Vec<_> = (first..=last).map(event).collect();
            let next = batch_hash(&hash, &events);
            let batch = Batch {
                epoch: head.epoch,
                first_position: first,
                events,
                previous_hash: hash,
                hash: next,
                orders_numbered: last,
                owed: vec![OwedEffect {
                    id: Uuid::from_u128(u128::from(first)),
                    effect: "{}".into(),
                }],
                timers: vec![Timer {
                    id: Uuid::from_u128(u128::from(first)),
                    due: 5,
                    command: "{}".into(),
                }],
                ..Batch::default()
            };
            writer.commit(&[&batch]).expect("written");
            hash = next;
        }
        let (other, reader) = (MemoryStore::default(), log.reader().expect("a reader"));
        let mut target = other.writer().expect("a writer");
        assert_eq!(copy(reader.as_ref(), target.as_mut(), HOW, &mut |_| {}).expect("copied"), 9);
        let copied = other.reader().expect("a reader");
        assert_eq!(copied.batches(0, 0, 9).expect("read"), reader.batches(0, 0, 9).expect("read"));
        assert_eq!(copied.unfinished(0).expect("read"), reader.unfinished(0).expect("read"));
        assert_eq!(verify_chain(copied.as_ref(), 0).expect("sound"), 9);
        let head = copied.head(0).expect("read").expect("a head");
        assert_eq!((head.epoch, head.orders_numbered), (3, 9));
        assert_eq!(head.log_id, reader.head(0).expect("read").expect("a head").log_id);
        let again = copy(reader.as_ref(), target.as_mut(), HOW, &mut |_| {});
        assert!(matches!(again, Err(CopyError::NotEmpty { shard: 0, position: 9 })), "{again:?}");
    }

    fn input(id: u128) -> Parked {
        Parked {
            id: Uuid::from_u128(id),
            at: 5,
            input: "{}".into(),
            reason: "it panicked".into(),
        }
    }

    fn end(id: u128) -> Unparked {
        Unparked {
            id: Uuid::from_u128(id),
            at: 6,
            by: "account:1".into(),
            how: Unparking::Dropped,
        }
    }

    /// A log of two shards that is appended to, turn by turn.
    struct Shop(MemoryStore);

    impl Shop {
        fn new() -> Self {
            let store = MemoryStore::default();
            store
                .writer()
                .expect("a writer")
                .found(Shards::new(2).expect("two"))
                .expect("fixed");
            Self(store)
        }

        /// A turn of a new epoch, which does one thing of each kind, and finishes some of what the one before it did.
        fn turn(&self, shard: u16) {
            let mut writer = self.0.writer().expect("a writer");
            let head = writer.take(shard, Uuid::nil(), 1).expect("the shard");
            let event = |position| Event {
                shard,
                stream: StreamId::new("order", Uuid::from_u128(u128::from(shard))),
                event_id: Uuid::from_u128(u128::from(shard) << 64 | u128::from(position)),
                ..event(position)
            };
            let events: Vec<_> = (head.position + 1..head.position + 4).map(event).collect();
            let id = Uuid::from_u128(head.epoch.into());
            let before = Uuid::from_u128(u128::from(head.epoch) - 1);
            let mut batch = Batch {
                shard,
                epoch: head.epoch,
                first_position: head.position + 1,
                previous_hash: head.hash,
                hash: batch_hash(&head.hash, &events),
                orders_numbered: head.epoch,
                owed: vec![OwedEffect { id, effect: "{}".into() }],
                settled: vec![before],
                timers: vec![Timer {
                    id,
                    due: 5,
                    command: "{}".into(),
                }],
                timers_done: vec![before],
                parked: vec![input(head.epoch.into()), input(u128::from(head.epoch) + 1_000)],
                records: vec![IdempotencyRecord {
                    key: RecordKey([u8::try_from(head.epoch).expect("few") + 100 * u8::try_from(shard).expect("few"); 16]),
                    fingerprint: [1; 16],
                    position: head.position,
                    recorded_at: 1,
                    answer: [1, 2].into(),
                }],
                snapshots: vec![Snapshot {
                    stream: StreamId::new("order", Uuid::from_u128(u128::from(shard))),
                    sequence: head.position + 3,
                    shape: [1; 32],
                    state: [3].into(),
                }],
                ..Batch::default()
            };
            batch.events = events;
            writer.commit(&[&batch]).expect("written");
            let ended = Batch {
                first_position: batch.last_position() + 1,
                events: Vec::new(),
                previous_hash: batch.hash,
                unparked: vec![end(head.epoch.into())],
                ..Batch {
                    shard,
                    epoch: head.epoch,
                    hash: batch.hash,
                    orders_numbered: head.epoch,
                    ..Batch::default()
                }
            };
            writer.commit(&[&ended]).expect("written");
        }

        fn reader(&self) -> Box<dyn LogReader> {
            self.0.reader().expect("a reader")
        }
    }

    fn assert_same(from: &dyn LogReader, to: &dyn LogReader) {
        let events = check_copy(from, to).expect("it is the log");
        assert_eq!(events, from.heads().expect("read").iter().map(|head| head.position).sum::<u64>());
        for shard in from.shards().expect("read") {
            assert_eq!(to.events(shard, 0, 999).expect("read"), from.events(shard, 0, 999).expect("read"));
            assert_eq!(to.unfinished(shard).expect("read"), from.unfinished(shard).expect("read"));
            assert_eq!(
                to.set_aside(shard, None, 9_999).expect("read"),
                from.set_aside(shard, None, 9_999).expect("read")
            );
        }
        assert_eq!(to.records(None, 999).expect("read"), from.records(None, 999).expect("read"));
        assert_eq!(to.snapshots(None, 999).expect("read"), from.snapshots(None, 999).expect("read"));
    }

    fn held(store: &MemoryStore, shard: u16) -> bool {
        let taken = store.writer().expect("a writer").take(shard, Uuid::new_v4(), i64::from(i32::MAX));
        matches!(taken, Err(StoreError::Held { .. }))
    }

    #[test]
    fn a_copy_that_is_stopped_anywhere_goes_on_also_when_the_log_has_grown_meanwhile() {
        for steps in 1..40 {
            let (shop, target) = (Shop::new(), MemoryStore::default());
            for turn in 0..4 {
                shop.turn(turn % 2);
            }
            let mut runs = 0;
            loop {
                runs += 1;
                assert!(runs < 99, "it ends");
                let from = shop.reader();
                let mut copy = LogCopy::begin(from.as_ref(), &target, HOW).expect("begun, or gone on with");
                let mut left = steps;
                let done = copy.copy(&mut |_| {
                    left -= 1;
                    if left == 0 {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                });
                assert!(held(&target, 0) && held(&target, 1), "nobody else has it meanwhile");
                match done {
                    Ok(_) => break,
                    Err(CopyError::Stopped) if runs < 4 => shop.turn(runs % 2),
                    // One step is never enough for what is written again each time.
                    Err(CopyError::Stopped) if steps < 20 => {
                        let mut copy = LogCopy::begin(from.as_ref(), &target, HOW).expect("gone on with");
                        copy.copy(&mut |_| ControlFlow::Continue(())).expect("copied");
                        break;
                    }
                    Err(CopyError::Stopped) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            let (from, to) = (shop.reader(), target.reader().expect("a reader"));
            assert_same(from.as_ref(), to.as_ref());
            for _ in 0..2 {
                give_away(from.as_ref(), &target, HOW).expect("given away, once or twice");
            }
            assert!(!held(&target, 0) && !held(&target, 1), "now whoever wants to has it");
        }
    }

    #[test]
    fn every_input_that_was_set_aside_is_copied_with_its_end_however_many_they_are() {
        let (shop, target) = (Shop::new(), MemoryStore::default());
        shop.turn(0);
        let mut writer = shop.0.writer().expect("a writer");
        let head = writer.take(0, Uuid::nil(), 1).expect("the shard");
        let nothing = Batch {
            epoch: head.epoch,
            first_position: head.position + 1,
            previous_hash: head.hash,
            hash: head.hash,
            ..Batch::default()
        };
        let many = 2 * PAGE as u128 + 7;
        let parked = (2..2 + many).map(|id| input(id << 64)).collect();
        let unparked = (2..2 + many).step_by(3).map(|id| end(id << 64)).collect();
        writer.commit(&[&Batch { parked, ..nothing.clone() }]).expect("written");
        writer.commit(&[&Batch { unparked, ..nothing }]).expect("written");
        let mut to = target.writer().expect("a writer");
        copy(shop.reader().as_ref(), to.as_mut(), HOW, &mut |_| {}).expect("copied");
        assert_same(shop.reader().as_ref(), target.reader().expect("a reader").as_ref());
    }

    #[test]
    fn what_is_no_copy_of_the_log_is_not_gone_on_with_nor_given_away() {
        let (shop, other) = (Shop::new(), Shop::new());
        for shop in [&shop, &other] {
            shop.turn(0);
        }
        let from = shop.reader();
        let begin = |target: &MemoryStore| LogCopy::begin(from.as_ref(), target, HOW).map(drop);
        // Another log; the log itself, and a copy that nobody holds.
        assert!(matches!(begin(&other.0), Err(CopyError::Store(StoreError::Foreign(_)))));
        assert!(matches!(begin(&shop.0), Err(CopyError::NotEmpty { shard: 0, position: 3 })));
        let copied = MemoryStore::default();
        let mut to = copied.writer().expect("a writer");
        copy(from.as_ref(), to.as_mut(), HOW, &mut |_| {}).expect("copied");
        to.take(0, Uuid::from_u128(8), 1_000 + 2 * crate::HOLDER_EXPIRES_AFTER)
            .expect("free by now");
        assert!(matches!(begin(&copied), Err(CopyError::NotEmpty { shard: 0, position: 3 })));
        // A copy that is not complete.
        shop.turn(0);
        let refused = give_away(from.as_ref(), &copied, HOW);
        assert!(matches!(refused, Err(CopyError::Differs { shard: 0, .. })), "{refused:?}");
        let differs = check_copy(from.as_ref(), copied.reader().expect("a reader").as_ref());
        assert!(matches!(differs, Err(CopyError::Differs { shard: 0, .. })), "{differs:?}");
    }

    #[test]
    fn a_log_in_use_does_not_become_the_copy_of_another_one() {
        let (log, used) = (MemoryStore::default(), MemoryStore::default());
        log.writer().expect("a writer").take(0, Uuid::nil(), 1).expect("the shard");
        let mut target = used.writer().expect("a writer");
        let own = target.take(0, Uuid::nil(), 1).expect("the shard").log_id;
        let refused = copy(log.reader().expect("a reader").as_ref(), target.as_mut(), HOW, &mut |_| {});
        assert!(matches!(refused, Err(CopyError::Store(StoreError::Foreign(_)))), "{refused:?}");
        let head = used.reader().expect("a reader").head(0).expect("read").expect("a head");
        assert_eq!(head.log_id, own);
    }
}
