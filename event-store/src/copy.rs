//! A log copied into another store, batch by batch, with the same hashes.

use uuid::Uuid;

use crate::{Batch, CommitError, Hash, Head, LogReader, LogWriter, Shards, StoreError, batch_hash};

/// How many batches, records or snapshots are read at once.
const PAGE: usize = 500;

/// How many inputs of a shard that are set aside are copied.
const MOST_PARKED: usize = 100_000;

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

/// Why a log was not copied to its end. What was copied stays: start again with an empty target.
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
}

/// Copies a log that nobody writes meanwhile into an empty one of another store, and returns how many events it has.
///
/// The copy has the same events, batches, hashes, epochs, idempotency records, snapshots, and what is owed; of inputs that were set aside,
/// those that still are. It takes over the log's id, which its events name. Events that are in no batch yet become one. `progress` is told how
/// many events are copied.
///
/// # Errors
/// The log cannot be read or is damaged, or the target is not empty or cannot be written.
pub fn copy(from: &dyn LogReader, to: &mut dyn LogWriter, how: Copying, progress: &mut dyn FnMut(u64)) -> Result<u64, CopyError> {
    let shards = from.shard_count()?.unwrap_or(Shards::ONE);
    let heads = from.heads()?;
    let founded = match heads.first() {
        Some(head) => to.found_as(shards, head.log_id)?,
        None => to.found(shards)?,
    };
    if founded != shards {
        return Err(CopyError::OtherShards { from: shards, to: founded });
    }
    let mut copied = 0;
    let mut last = None;
    for head in &heads {
        last = Some(copy_shard(from, to, head, how, &mut copied, progress)?);
    }
    if let Some(at) = last {
        copy_kept(from, to, &at)?;
    }
    Ok(copied)
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

fn copy_shard(
    from: &dyn LogReader,
    to: &mut dyn LogWriter,
    head: &Head,
    how: Copying,
    copied: &mut u64,
    progress: &mut dyn FnMut(u64),
) -> Result<At, CopyError> {
    let shard = head.shard;
    let taken = to.take(shard, how.instance, how.now)?;
    if taken.position > 0 {
        return Err(CopyError::NotEmpty {
            shard,
            position: taken.position,
        });
    }
    let mut at = At {
        head: taken,
        orders_numbered: head.orders_numbered,
    };
    loop {
        let batches = from.batches(shard, at.head.position, PAGE)?;
        if batches.is_empty() {
            break;
        }
        let mut rest = batches.as_slice();
        while let Some((_, _, _, epoch)) = rest.first() {
            // An epoch is as old as its batches say, so the ids that name it stay true.
            while at.head.epoch < *epoch {
                at.head.epoch = to.take(shard, how.instance, how.now)?.epoch;
            }
            let after = at.head.position;
            let together = rest
                .iter()
                .take_while(|batch| batch.3 == *epoch && batch.0 <= after + TOGETHER)
                .count();
            let (now, later) = rest.split_at(together.max(1));
            let ends: Vec<_> = now.iter().map(|(last, _, hash, _)| (*last, Some(*hash))).collect();
            *copied += append(from, to, &mut at, &ends)?;
            progress(*copied);
            rest = later;
        }
    }
    while at.head.position < head.position {
        let last = head.position.min(at.head.position + UNCHAINED_AT_ONCE);
        *copied += append(from, to, &mut at, &[(last, None)])?;
        progress(*copied);
    }
    while at.head.epoch < head.epoch {
        at.head.epoch = to.take(shard, how.instance, how.now)?.epoch;
    }
    let unfinished = from.unfinished(shard)?;
    let owed = Batch {
        owed: unfinished.effects,
        timers: unfinished.timers,
        parked: from.parked(shard, MOST_PARKED)?,
        ..at.batch()
    };
    to.commit(&[&owed])?;
    Ok(at)
}

/// Writes batches that end at these positions, in one transaction; returns how many events they have.
fn append(from: &dyn LogReader, to: &mut dyn LogWriter, at: &mut At, ends: &[(u64, Option<Hash>)]) -> Result<u64, CopyError> {
    let (shard, begun) = (at.head.shard, at.head.position);
    let last = ends.last().map_or(begun, |(last, _)| *last);
    let wanted = usize::try_from(last.saturating_sub(begun)).unwrap_or(usize::MAX);
    let mut events = from.events(shard, begun, wanted)?.into_iter().peekable();
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
    to.commit(&batches.iter().collect::<Vec<_>>())?;
    Ok(last - begun)
}

/// What belongs to no shard: recorded answers, snapshots.
fn copy_kept(from: &dyn LogReader, to: &mut dyn LogWriter, at: &At) -> Result<(), CopyError> {
    let mut after = None;
    while let Some(records) = from.records(after, PAGE)?.filter(|records| !records.is_empty()) {
        after = records.last().map(|record| record.key);
        to.commit(&[&Batch { records, ..at.batch() }])?;
    }
    let mut after = None;
    while let Some(snapshots) = from.snapshots(after.as_ref(), PAGE)?.filter(|snapshots| !snapshots.is_empty()) {
        after = snapshots.last().cloned();
        to.commit(&[&Batch { snapshots, ..at.batch() }])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, EventStore as _, GENESIS, MemoryStore, OwedEffect, StreamId, Timer, verify_chain};

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
