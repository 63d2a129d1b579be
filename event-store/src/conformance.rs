//! What every store must do: one suite, run by the tests of each.
//!
//! A store's test says where a store lives ([`Place`]) and names the suite ([`conformance_suite!`](crate::conformance_suite));
//! each check becomes a test of its own, on a place of its own. What a store lacks is skipped by name.

use std::{sync::Barrier, thread, time::Duration};

use uuid::Uuid;

use crate::{
    Batch, CommitError, Event, EventStore, GENESIS, GIVEN_UP, HOLDER_EXPIRES_AFTER, Head, IdempotencyRecord, KEPT, LogReader, LogWriter,
    OwedEffect, Parked, RecordKey, SetAside, Shards, Snapshot, StoreError, StreamId, StreamRead, StreamSlice, Timer, Unparked, Unparking,
    batch_hash, holder_of, verify_chain,
};

/// Where a store under test lives: a directory, a database, a piece of memory. Dropped, it is cleaned up.
pub trait Place {
    /// The store.
    type Store: EventStore;

    /// Opens the store of this place, which is created when there is none. The one opened before is dropped first.
    fn open(&self) -> Self::Store;

    /// Tries to change what is recorded, past the port: each attempt with whether the store refused it.
    ///
    /// Asked only of a store that does not lack `append-only-triggers`.
    fn rewrite_history(&self) -> Vec<(&'static str, bool)> {
        Vec::new()
    }
}

/// Runs a check on a place, unless its store lacks it.
pub fn run<P: Place>(name: &str, place: P, check: impl FnOnce(&P)) {
    let lacking = place.open().lacks().contains(&name);
    if lacking {
        println!("skipped: this store lacks {name}");
    } else {
        check(&place);
    }
    drop(place);
}

/// Makes a test of each check of the suite. Takes an expression that makes a new, empty [`Place`](crate::conformance::Place).
#[macro_export]
macro_rules! conformance_suite {
    ($place:expr) => {
        $crate::conformance_suite! { $place;
            "head" => a_new_shard_has_a_head_under_a_new_epoch,
            "head" => a_commit_moves_every_field_of_the_head,
            "shards" => the_number_of_shards_is_fixed_once,
            "shards" => those_who_fix_the_number_of_shards_at_once_agree,
            "unknown" => what_does_not_exist_reads_as_nothing,
            "expected-version" => an_existing_version_is_refused_with_all_that_is_beside_it,
            "expected-version" => one_version_twice_in_a_commit_is_refused,
            "idempotency" => a_record_is_committed_with_its_events_and_never_twice,
            "batches" => a_batch_that_contradicts_itself_is_refused,
            "batches" => a_batch_on_another_hash_is_refused,
            "batches" => a_batch_without_events_moves_nothing,
            "batches" => batches_of_several_shards_are_one_transaction,
            "batches" => batches_of_one_shard_follow_one_another_in_a_commit,
            "fencing" => an_older_epoch_is_fenced,
            "fencing" => a_head_elsewhere_fences,
            "fencing" => a_live_holder_keeps_its_shard,
            "fencing" => who_holds_a_shard_is_told_and_a_kept_one_is_kept,
            "fencing" => a_shard_that_was_assigned_is_seized_from_a_live_holder,
            "fencing" => a_shard_that_is_kept_is_not_seized,
            "fencing" => of_those_who_seize_a_shard_at_once_one_appends,
            "fencing" => writers_of_different_shards_go_on_beside_one_another,
            "fencing" => writers_that_take_over_one_another_leave_a_gapless_log,
            "append-only-triggers" => recorded_history_cannot_be_rewritten,
            "reading" => a_log_is_read_by_position,
            "reading" => a_stream_is_read_by_sequence,
            "reading" => many_questions_are_answered_in_their_order,
            "reading" => any_text_and_large_payloads_come_back_as_written,
            "hash-chain" => every_batch_is_chained_and_every_column_counts,
            "snapshots" => the_newest_snapshot_of_the_shape_saves_reading,
            "timers" => timers_are_set_moved_and_done,
            "effects" => effects_are_owed_until_settled,
            "parked" => inputs_set_aside_are_kept,
            "unparked" => inputs_set_aside_end_once,
            "unparked" => inputs_set_aside_end_in_their_shard,
            "unparked" => inputs_set_aside_are_listed_with_their_ends,
            "checkpoints" => a_checkpoint_is_moved_from_where_it_stands,
            "checkpoints" => of_those_who_move_a_checkpoint_at_once_one_does,
            "checkpoints" => checkpoints_stay_when_the_log_is_opened_again,
            "reopen" => a_log_opened_again_is_as_it_was_left,
        }
    };
    ($place:expr; $($name:literal => $check:ident,)+) => {
        $(
            #[test]
            fn $check() {
                $crate::conformance::run($name, $place, $crate::conformance::$check);
            }
        )+
    };
}

/// Taking a new shard creates its head; every take has a new epoch.
pub fn a_new_shard_has_a_head_under_a_new_epoch(place: &impl Place) {
    let store = place.open();
    let reader = reader(&store);
    assert_eq!(reader.head(3).expect("read"), None);
    let first = Pen::take(&store, 3).head;
    assert_eq!(
        (first.shard, first.position, first.hash, first.recorded_at, first.orders_numbered),
        (3, 0, GENESIS, 0, 0)
    );
    assert!(first.epoch > 0, "an epoch of 0 is nobody's");
    assert_eq!(reader.head(3).expect("read"), Some(first.clone()));

    let second = Pen::take(&store, 3).head;
    assert!(second.epoch > first.epoch);
    let other = Pen::take(&store, 65_535).head;
    assert_eq!(
        (other.shard, other.log_id),
        (65_535, first.log_id),
        "the log has one id for all its shards"
    );
    assert!(!first.log_id.is_nil());
    assert_eq!(reader.shards().expect("read"), [3, 65_535]);
    let each = [3, 65_535].map(|shard| reader.head(shard).expect("read").expect("a head"));
    assert_eq!(reader.heads().expect("read"), each);
}

/// How many shards a log has is said once, and stays so.
pub fn the_number_of_shards_is_fixed_once(place: &impl Place) {
    let store = place.open();
    let reader = reader(&store);
    assert_eq!(reader.shard_count().expect("read"), None);
    let mut writer = store.writer().expect("a writer");
    let shards = |count| Shards::new(count).expect("so many");
    assert_eq!(writer.found(shards(4)).expect("fixed"), shards(4));
    assert_eq!(writer.found(shards(1)).expect("known"), shards(4));
    drop(writer);
    assert_eq!(reader.shard_count().expect("read"), Some(shards(4)));
    drop(reader);
    drop(store);
    assert_eq!(place.open().writer().expect("a writer").found(shards(2)).expect("known"), shards(4));
}

/// Several that begin an empty log at once, each with a number of its own, get the same answer.
pub fn those_who_fix_the_number_of_shards_at_once_agree(place: &impl Place) {
    let store = place.open();
    let mut writers: Vec<_> = (1..=4_u16).map(|count| (count, store.writer().expect("a writer"))).collect();
    let begin = Barrier::new(writers.len());
    let found: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = writers
            .iter_mut()
            .map(|(count, writer)| {
                let begin = &begin;
                scope.spawn(move || {
                    begin.wait();
                    writer.found(Shards::new(*count).expect("so many")).expect("fixed")
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("it ends")).collect()
    });
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{found:?}");
    assert_eq!(reader(&store).shard_count().expect("read"), Some(found[0]));
}

/// The head says where the log stands: position, hash, time, orders numbered.
pub fn a_commit_moves_every_field_of_the_head(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    let batch = Batch {
        orders_numbered: 7,
        ..pen.batch(&[(order(1), 1), (order(1), 2), (order(2), 1)])
    };
    pen.write(&batch);

    let head = reader(&store).head(0).expect("read").expect("a head");
    assert_eq!(
        (head.position, head.hash, head.orders_numbered, head.epoch),
        (3, batch.hash, 7, pen.head.epoch)
    );
    assert_eq!(head.recorded_at, batch.events[2].recorded_at);
    assert_eq!(reader(&store).events(0, 0, 10).expect("read"), batch.events);
    let retaken = Pen::take(&store, 0).head;
    assert_eq!(
        retaken,
        Head {
            epoch: retaken.epoch,
            ..head
        },
        "a take moves nothing but the epoch"
    );
}

/// Shards, streams, records that do not exist are no error.
pub fn what_does_not_exist_reads_as_nothing(place: &impl Place) {
    let store = place.open();
    let reader = reader(&store);
    assert!(reader.shards().expect("read").is_empty());
    assert!(reader.events(9, 0, 10).expect("read").is_empty());
    assert!(reader.events(9, u64::MAX, usize::MAX).expect("read").is_empty());
    assert!(reader.stream(&order(1), 0, 10).expect("read").is_empty());
    assert!(reader.stream(&order(1), u64::MAX, usize::MAX).expect("read").is_empty());
    assert!(reader.batches(9, 0, 10).expect("read").is_empty());
    assert!(reader.parked(9, 10).expect("read").is_empty());
    assert_eq!(reader.unfinished(9).expect("read"), crate::Unfinished::default());
    let (records, streams) = reader.read(&[RecordKey([1; 16])], &[question(&order(1))]).expect("read");
    assert_eq!((records, streams), (vec![None], vec![StreamSlice::default()]));
    assert_eq!(reader.read(&[], &[]).expect("read"), (vec![], vec![]));
    assert_eq!(verify_chain(&*reader, 9).expect("nothing is sound"), 0);
}

/// A version that exists is refused, and nothing of the batch is written, nor of the other batches of the commit.
pub fn an_existing_version_is_refused_with_all_that_is_beside_it(place: &impl Place) {
    let store = place.open();
    let mut first = Pen::take(&store, 0);
    let mut second = Pen::take(&store, 1);
    first.write_events(&[(order(1), 1)]);
    let before = reader(&store).head(0).expect("read");

    let innocent = full(second.batch(&[(order(5), 1)]), 50);
    let culprit = full(first.batch(&[(order(2), 1), (order(1), 1)]), 60);
    let refused = first.writer.commit(&[&innocent, &culprit]);
    assert!(matches!(refused, Err(CommitError::Refused(_))), "{refused:?}");

    let reader = reader(&store);
    assert_eq!(reader.head(0).expect("read"), before);
    assert_eq!(reader.head(1).expect("read").expect("a head").position, 0);
    for shard in [0, 1] {
        assert!(reader.events(shard, 1, 10).expect("read").is_empty());
        assert!(reader.batches(shard, 1, 10).expect("read").is_empty());
        assert!(reader.parked(shard, 10).expect("read").is_empty());
        assert_eq!(reader.unfinished(shard).expect("read"), crate::Unfinished::default());
    }
    let (records, streams) = reader
        .read(
            &[innocent.records[0].key, culprit.records[0].key],
            &[question(&order(5)), question(&order(2))],
        )
        .expect("read");
    assert_eq!(
        (records, streams),
        (vec![None, None], vec![StreamSlice::default(), StreamSlice::default()])
    );

    // The writer goes on, and what was refused beside the culprit is accepted without it.
    second.write(&innocent);
    first.write_events(&[(order(2), 1), (order(1), 2)]);
}

/// A version cannot be taken twice within one commit either.
pub fn one_version_twice_in_a_commit_is_refused(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    let other = Pen::take(&store, 1);
    let twice = pen.batch(&[(order(1), 1), (order(1), 1)]);
    assert!(matches!(pen.writer.commit(&[&twice]), Err(CommitError::Refused(_))));
    let (here, there) = (pen.batch(&[(order(1), 1)]), other.batch(&[(order(1), 1)]));
    assert!(matches!(pen.writer.commit(&[&here, &there]), Err(CommitError::Refused(_))));
    assert!(reader(&store).stream(&order(1), 0, 10).expect("read").is_empty());
}

/// An idempotency record is there exactly when its events are; its key is unique.
pub fn a_record_is_committed_with_its_events_and_never_twice(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    let first = Batch {
        records: vec![record(1), record(2)],
        ..pen.batch(&[(order(1), 1)])
    };
    pen.write(&first);
    let found = records(&store, &[1, 2, 3]);
    assert_eq!(found, [Some(record(1)), Some(record(2)), None]);

    let again = Batch {
        records: vec![record(3), record(1)],
        ..pen.batch(&[(order(2), 1)])
    };
    assert!(matches!(pen.writer.commit(&[&again]), Err(CommitError::Refused(_))));
    assert_eq!(records(&store, &[3]), [None], "a refused batch leaves no record");
    assert!(reader(&store).stream(&order(2), 0, 10).expect("read").is_empty());

    let twice = Batch {
        records: vec![record(4), record(4)],
        ..pen.batch(&[(order(2), 1)])
    };
    assert!(matches!(pen.writer.commit(&[&twice]), Err(CommitError::Refused(_))));
    assert_eq!(reader(&store).head(0).expect("read"), Some(pen.head.clone()));
}

/// Positions with a gap, events of another shard, sequence 0: refused, not recorded.
pub fn a_batch_that_contradicts_itself_is_refused(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    let sound = pen.batch(&[(order(1), 1), (order(1), 2)]);
    let broken = |break_it: fn(&mut Batch)| {
        let mut batch = sound.clone();
        break_it(&mut batch);
        batch
    };
    for batch in [
        broken(|batch| batch.events[1].position = 3),
        broken(|batch| batch.events[0].position = 2),
        broken(|batch| batch.events[1].shard = 1),
        broken(|batch| batch.events[1].sequence = 0),
        broken(|batch| batch.first_position = 0),
        broken(|batch| batch.events.clear()),
    ] {
        let refused = pen.writer.commit(&[&batch]);
        assert!(matches!(refused, Err(CommitError::Refused(_))), "{refused:?}");
    }
    assert!(reader(&store).events(0, 0, 10).expect("read").is_empty());
    pen.write(&sound);
}

/// A batch follows the hash of the batch before it, or it is refused.
pub fn a_batch_on_another_hash_is_refused(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    pen.write_events(&[(order(1), 1)]);
    let mut batch = pen.batch(&[(order(1), 2)]);
    batch.previous_hash = [9; 32];
    batch.hash = batch_hash(&batch.previous_hash, &batch.events);
    assert!(matches!(pen.writer.commit(&[&batch]), Err(CommitError::Refused(_))));
    pen.write_events(&[(order(1), 2)]);
}

/// A batch of records and timers only moves neither position nor hash, and is no row of the batches.
pub fn a_batch_without_events_moves_nothing(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    pen.write_events(&[(order(1), 1)]);
    let before = reader(&store).head(0).expect("read").expect("a head");

    let batch = Batch {
        records: vec![record(1)],
        timers: vec![timer(1, 5)],
        orders_numbered: 4,
        ..pen.batch(&[])
    };
    pen.write(&batch);
    let reader = reader(&store);
    assert_eq!(
        reader.head(0).expect("read"),
        Some(Head {
            orders_numbered: 4,
            ..before
        })
    );
    assert_eq!(reader.batches(0, 0, 10).expect("read").len(), 1);
    assert_eq!(records(&store, &[1]), [Some(record(1))]);
    assert_eq!(reader.unfinished(0).expect("read").timers, [timer(1, 5)]);

    pen.writer.commit(&[]).expect("nothing to write is written");
    pen.write_events(&[(order(1), 2)]);
    assert_eq!(verify_chain(&*reader, 0).expect("sound"), 2);
}

/// One commit carries batches of several shards; each has its own positions and its own chain.
pub fn batches_of_several_shards_are_one_transaction(place: &impl Place) {
    let store = place.open();
    let mut pens: Vec<_> = (0..4).map(|shard| Pen::take(&store, shard)).collect();
    for round in 1..=3 {
        let batches: Vec<_> = pens.iter().map(|pen| pen.batch(&[(order(pen.head.shard.into()), round)])).collect();
        let together: Vec<_> = batches.iter().collect();
        pens[0]
            .writer
            .commit(&together)
            .expect("one writer may write for all shards it was given the epochs of");
        for (pen, batch) in pens.iter_mut().zip(&batches) {
            pen.follow(batch);
        }
    }
    let reader = reader(&store);
    for shard in 0..4 {
        assert_eq!(verify_chain(&*reader, shard).expect("sound"), 3);
        assert!(
            reader
                .events(shard, 0, 10)
                .expect("read")
                .iter()
                .all(|event| event.shard == shard && event.stream == order(shard.into()))
        );
    }

    // One shard is fenced: nothing of the others is written.
    let stale = pens[1].batch(&[(order(1), 4)]);
    Pen::take(&store, 1);
    let good = pens[0].batch(&[(order(0), 4)]);
    let fenced = pens[0].writer.commit(&[&good, &stale]);
    assert!(matches!(fenced, Err(CommitError::Fenced(1))), "{fenced:?}");
    assert_eq!(reader.head(0).expect("read").expect("a head").position, 3);
}

/// Two batches of one shard in one commit are written one after the other.
pub fn batches_of_one_shard_follow_one_another_in_a_commit(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    let first = pen.batch(&[(order(1), 1), (order(2), 1)]);
    let start = pen.head.clone();
    pen.follow(&first);
    let second = pen.batch(&[(order(1), 2)]);
    pen.head = start;
    pen.writer.commit(&[&first, &second]).expect("both follow");
    let reader = reader(&store);
    assert_eq!(verify_chain(&*reader, 0).expect("sound"), 3);
    let ends: Vec<_> = reader.batches(0, 0, 10).expect("read").into_iter().map(|(last, ..)| last).collect();
    assert_eq!(ends, [2, 3]);
}

/// A writer whose epoch has passed writes nothing any more, not even a heartbeat or a batch without events.
pub fn an_older_epoch_is_fenced(place: &impl Place) {
    let store = place.open();
    let mut old = Pen::take(&store, 0);
    old.write_events(&[(order(1), 1)]);
    let mut new = Pen::take(&store, 0);

    let late = full(old.batch(&[(order(1), 2)]), 10);
    assert!(matches!(old.writer.commit(&[&late]), Err(CommitError::Fenced(0))));
    let empty = Batch {
        records: vec![record(1)],
        ..old.batch(&[])
    };
    assert!(matches!(old.writer.commit(&[&empty]), Err(CommitError::Fenced(0))));
    assert!(matches!(old.writer.heartbeat(0, old.head.epoch, 1), Err(CommitError::Fenced(0))));
    let from_the_future = Batch {
        epoch: new.head.epoch + 1,
        ..new.batch(&[(order(1), 2)])
    };
    assert!(matches!(new.writer.commit(&[&from_the_future]), Err(CommitError::Fenced(0))));

    assert_eq!(records(&store, &[1]), [None]);
    assert_eq!(reader(&store).head(0).expect("read"), Some(new.head.clone()));
    new.writer.heartbeat(0, new.head.epoch, 1).expect("the holder lives");
    new.write_events(&[(order(1), 2)]);
}

/// A batch for a head that stands elsewhere, or for a shard that nobody took, is fenced.
pub fn a_head_elsewhere_fences(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    let first = pen.batch(&[(order(1), 1)]);
    pen.write(&first);
    let mut renamed = first.clone();
    renamed.events[0].stream = order(2);
    renamed.hash = batch_hash(&renamed.previous_hash, &renamed.events);
    assert!(
        matches!(pen.writer.commit(&[&renamed]), Err(CommitError::Fenced(0))),
        "the place is taken"
    );

    let ahead = Pen {
        writer: store.writer().expect("a writer"),
        head: Head {
            position: 5,
            ..pen.head.clone()
        },
    }
    .batch(&[(order(3), 1)]);
    assert!(
        matches!(pen.writer.commit(&[&ahead]), Err(CommitError::Fenced(0))),
        "a gap would be left"
    );
    let nobody = Pen {
        writer: store.writer().expect("a writer"),
        head: Head {
            shard: 8,
            ..pen.head.clone()
        },
    }
    .batch(&[]);
    assert!(matches!(pen.writer.commit(&[&nobody]), Err(CommitError::Fenced(8))));
    assert!(matches!(pen.writer.heartbeat(8, 1, 1), Err(CommitError::Fenced(8))));
    assert_eq!(reader(&store).head(0).expect("read"), Some(pen.head.clone()));
}

/// Another instance takes a shard only when the holder's heartbeat is old; the holder itself may always.
pub fn a_live_holder_keeps_its_shard(place: &impl Place) {
    let store = place.open();
    let mut writer = store.writer().expect("a writer");
    let (holder, other, start) = (Uuid::from_u128(1), Uuid::from_u128(2), 1_000_000_000);
    let head = writer.take(0, holder, start).expect("free");
    writer.heartbeat(0, head.epoch, start + 5_000_000).expect("holds");

    let too_early = start + 5_000_000 + HOLDER_EXPIRES_AFTER - 1;
    let held = writer.take(0, other, too_early);
    assert!(matches!(held, Err(StoreError::Held { shard: 0, .. })), "{held:?}");
    assert_eq!(
        reader(&store).head(0).expect("read"),
        Some(head.clone()),
        "the attempt changed nothing"
    );
    writer.take(1, other, start).expect("another shard is free");

    let again = writer.take(0, holder, too_early).expect("the same instance, restarted");
    assert!(again.epoch > head.epoch);
    let after = writer
        .take(0, other, too_early + HOLDER_EXPIRES_AFTER)
        .expect("the holder is silent");
    assert!(after.epoch > again.epoch);
    assert!(matches!(writer.heartbeat(0, again.epoch, too_early), Err(CommitError::Fenced(0))));

    writer.heartbeat(0, after.epoch, GIVEN_UP).expect("it is the holder's to give up");
    writer
        .take(0, holder, too_early + HOLDER_EXPIRES_AFTER)
        .expect("what was given up is free at once");
}

/// Whoever was given the shard has it at once, however fresh the holder's heartbeat is; the holder is fenced.
pub fn a_shard_that_was_assigned_is_seized_from_a_live_holder(place: &impl Place) {
    let store = place.open();
    let (holder, other, now) = (Uuid::from_u128(1), Uuid::from_u128(2), 1_000_000_000);
    let seize = |instance| {
        let mut writer = store.writer().expect("a writer");
        let head = writer.seize(0, instance, now).expect("it is its own");
        Pen { writer, head }
    };
    // One that nobody ever had can be seized too.
    let mut first = seize(holder);
    first.write_events(&[(order(1), 1)]);
    first.writer.heartbeat(0, first.head.epoch, now).expect("it holds");

    let mut second = seize(other);
    assert!(second.head.epoch > first.head.epoch);
    assert_eq!((second.head.position, second.head.hash), (1, first.head.hash));
    let late = first.batch(&[(order(1), 2)]);
    assert!(matches!(first.writer.commit(&[&late]), Err(CommitError::Fenced(0))));
    assert!(matches!(
        first.writer.heartbeat(0, first.head.epoch, now),
        Err(CommitError::Fenced(0))
    ));
    second.write_events(&[(order(1), 2)]);
    second.writer.heartbeat(0, second.head.epoch, now).expect("it holds");

    let mut again = seize(other);
    assert!(again.head.epoch > second.head.epoch, "one's own, under a new epoch");
    again.write_events(&[(order(1), 3)]);
    let held = first.writer.take(0, holder, now);
    assert!(
        matches!(held, Err(StoreError::Held { shard: 0, .. })),
        "it is the seizer's, as if it had taken it: {held:?}"
    );
    verify_chain(&*reader(&store), 0).expect("sound");
}

/// A log that is not complete, or has moved, is nobody's to give: also who was given its shard waits until it is let go of.
pub fn a_shard_that_is_kept_is_not_seized(place: &impl Place) {
    let store = place.open();
    let (keeper, other, now) = (Uuid::from_u128(1), Uuid::from_u128(2), 1_000_000_000);
    let mut writer = store.writer().expect("a writer");
    writer.take(0, other, now).expect("free");
    let kept = writer.seize(0, keeper, KEPT).expect("from a live holder, at once kept");
    for now in [now, KEPT - 1, KEPT, i64::MAX] {
        let refused = writer.seize(0, other, now);
        assert!(
            matches!(&refused, Err(StoreError::Held { shard: 0, holder }) if holder.contains(&keeper.to_string())),
            "{refused:?}"
        );
    }
    assert_eq!(reader(&store).head(0).expect("read"), Some(kept.clone()), "nobody was fenced");
    writer.heartbeat(0, kept.epoch, KEPT).expect("its own");
    let again = writer.seize(0, keeper, now).expect("its own, also under a new epoch");
    assert_eq!(again.epoch, kept.epoch + 1);
    // The time before that is one of somebody who lives.
    writer.heartbeat(0, again.epoch, KEPT - 1).expect("its own");
    writer.seize(0, other, now).expect("assigned");
}

/// Of two that seize a shard at the same time each gets an epoch, and only the later one's is worth something.
pub fn of_those_who_seize_a_shard_at_once_one_appends(place: &impl Place) {
    const SEIZERS: u16 = 2;
    let store = place.open();
    Pen::take(&store, 0);
    for round in 0..5_u16 {
        let seized = Barrier::new(usize::from(SEIZERS));
        let mut written: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (1..=SEIZERS)
                .map(|name| {
                    let (store, seized) = (&store, &seized);
                    scope.spawn(move || {
                        let mut writer = store.writer().expect("a writer");
                        seized.wait();
                        let head = writer.seize(0, Uuid::from_u128(name.into()), 5).expect("it is its own");
                        seized.wait();
                        let mut pen = Pen { writer, head };
                        let batch = pen.batch(&[(order((round * SEIZERS + name).into()), 1)]);
                        (pen.head.epoch, pen.writer.commit(&[&batch]))
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("it ends")).collect()
        });
        written.sort_by_key(|(epoch, _)| *epoch);
        assert!(written[0].0 < written[1].0, "an epoch is one writer's");
        assert!(
            matches!(written[0].1, Err(CommitError::Fenced(0))) && written[1].1.is_ok(),
            "{written:?}"
        );
    }
    assert_eq!(verify_chain(&*reader(&store), 0).expect("sound"), 5);
}

/// Each shard has its writer, and each writer its pace.
pub fn writers_of_different_shards_go_on_beside_one_another(place: &impl Place) {
    const BATCHES: u64 = 20;
    let store = place.open();
    thread::scope(|scope| {
        for shard in 0..4_u16 {
            let store = &store;
            scope.spawn(move || {
                let instance = Uuid::from_u128(u128::from(shard) + 1);
                let mut writer = store.writer().expect("a writer");
                let head = writer.take(shard, instance, 1_000).expect("it is free");
                let mut pen = Pen { writer, head };
                for sequence in 1..=BATCHES {
                    pen.write_events(&[(order(shard.into()), sequence)]);
                    pen.writer.heartbeat(shard, pen.head.epoch, 1_001).expect("it holds");
                }
            });
        }
    });
    let reader = reader(&store);
    assert_eq!(reader.shards().expect("read"), [0, 1, 2, 3]);
    for shard in 0..4 {
        assert_eq!(verify_chain(&*reader, shard).expect("sound"), BATCHES);
    }
}

/// Several threads write one shard and take it over from one another: no gap, no append by a fenced one, one chain.
pub fn writers_that_take_over_one_another_leave_a_gapless_log(place: &impl Place) {
    const WRITERS: u64 = 4;
    const BATCHES: u64 = 25;
    let store = place.open();
    let mut acknowledged: Vec<Event> = thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS)
            .map(|name| {
                scope.spawn({
                    let store = &store;
                    move || contend(store, name, BATCHES)
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("a writer failed"))
            .collect()
    });
    acknowledged.sort_by_key(|event| event.position);

    let reader = reader(&store);
    let log = reader.events(0, 0, usize::MAX).expect("read");
    assert_eq!(log.len() as u64, WRITERS * BATCHES * 3);
    assert!(
        log.iter().zip(1..).all(|(event, position)| event.position == position),
        "positions are contiguous"
    );
    assert_eq!(log, acknowledged, "what was acknowledged is there, and nothing else");
    verify_chain(&*reader, 0).expect("sound");
    let epochs: Vec<_> = reader
        .batches(0, 0, usize::MAX)
        .expect("read")
        .into_iter()
        .map(|(.., epoch)| epoch)
        .collect();
    assert!(epochs.is_sorted(), "an epoch that has passed never comes back");
}

/// Writes its batches to shard 0, taking it back whenever another writer took it; answers what was acknowledged.
fn contend(store: &impl EventStore, name: u64, batches: u64) -> Vec<Event> {
    let mut pen = Pen::take(store, 0);
    let mut acknowledged = Vec::new();
    let (mut sequence, mut fenced) = (0, 0);
    while sequence < batches * 3 {
        let stream = order(u128::from(name));
        let batch = pen.batch(&[
            (stream.clone(), sequence + 1),
            (stream.clone(), sequence + 2),
            (stream, sequence + 3),
        ]);
        match pen.writer.commit(&[&batch]) {
            Ok(()) => {
                pen.follow(&batch);
                acknowledged.extend(batch.events);
                sequence += 3;
            }
            Err(CommitError::Fenced(0)) => {
                fenced += 1;
                assert!(fenced < 10_000, "no writer gets forward");
                let still = pen.writer.commit(&[&batch]);
                assert!(
                    matches!(still, Err(CommitError::Fenced(0) | CommitError::NotWritten(_))),
                    "once fenced, fenced for good: {still:?}"
                );
                // Waiting a little, each another time, lets somebody get forward.
                thread::sleep(Duration::from_micros(200 * (name + 1)));
                pen = Pen::take(store, 0);
            }
            Err(CommitError::NotWritten(_)) => thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
        // Take over now and then also without having been fenced.
        if sequence.is_multiple_of(9) {
            thread::yield_now();
            pen = Pen::take(store, 0);
        }
    }
    acknowledged
}

/// Updates, deletes and replacements of recorded events are refused by the store itself.
pub fn recorded_history_cannot_be_rewritten(place: &impl Place) {
    let written = {
        let store = place.open();
        let mut pen = Pen::take(&store, 0);
        pen.write_events(&[(order(1), 1), (order(1), 2)]);
        reader(&store).events(0, 0, 10).expect("read")
    };
    let attempts = place.rewrite_history();
    assert!(!attempts.is_empty(), "the test of this store tries nothing");
    for (attempt, refused) in attempts {
        assert!(refused, "not refused: {attempt}");
    }
    let store = place.open();
    assert_eq!(reader(&store).events(0, 0, 10).expect("read"), written);
    verify_chain(&*reader(&store), 0).expect("sound");
}

/// Events come in the order of their positions, after the one named, at most as many as asked for.
pub fn a_log_is_read_by_position(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    for sequence in 1..=10 {
        pen.write_events(&[(order(1), sequence), (order(2), sequence)]);
    }
    let reader = reader(&store);
    let positions = |after, limit| -> Vec<u64> {
        let events = reader.events(0, after, limit).expect("read");
        events.iter().map(|event| event.position).collect()
    };
    assert_eq!(positions(0, usize::MAX), (1..=20).collect::<Vec<_>>());
    assert_eq!(positions(0, 3), [1, 2, 3]);
    assert_eq!(positions(17, 100), [18, 19, 20]);
    assert!(positions(20, 100).is_empty());
    assert!(positions(0, 0).is_empty());
    let ends = |after, limit| -> Vec<u64> {
        let batches = reader.batches(0, after, limit).expect("read");
        batches.iter().map(|(last, ..)| *last).collect()
    };
    assert_eq!(ends(0, 3), [2, 4, 6]);
    assert_eq!(ends(5, 2), [6, 8], "a position within a batch: that batch is not behind it");
    assert_eq!(ends(18, 100), [20]);
}

/// A stream has its own events only, in order, after the one named, at most as many as asked for.
pub fn a_stream_is_read_by_sequence(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    let namesake = StreamId::new("payment", order(1).id);
    for sequence in 1..=10 {
        pen.write_events(&[(order(1), sequence), (order(2), sequence), (namesake.clone(), sequence)]);
    }
    let reader = reader(&store);
    let sequences = |stream: &StreamId, after, limit| -> Vec<u64> {
        let events = reader.stream(stream, after, limit).expect("read");
        assert!(events.iter().all(|event| event.stream == *stream));
        events.iter().map(|event| event.sequence).collect()
    };
    assert_eq!(sequences(&order(1), 0, usize::MAX), (1..=10).collect::<Vec<_>>());
    assert_eq!(sequences(&namesake, 0, 2), [1, 2]);
    assert_eq!(sequences(&order(2), 8, 100), [9, 10]);
    assert!(sequences(&order(2), 10, 100).is_empty());
    assert!(sequences(&order(2), 0, 0).is_empty());
}

/// One read answers records and streams in the order of the questions, also when one is asked twice.
pub fn many_questions_are_answered_in_their_order(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    let batch = Batch {
        records: (1..=50).map(record).collect(),
        ..pen.batch(&(1..=50).map(|id| (order(id), 1)).collect::<Vec<_>>())
    };
    pen.write(&batch);

    let asked: Vec<u8> = vec![7, 200, 7, 50, 1];
    let keys: Vec<_> = asked.iter().map(|key| record(*key).key).collect();
    let questions: Vec<_> = asked.iter().map(|id| question(&order((*id).into()))).collect();
    let (records, streams) = reader(&store).read(&keys, &questions).expect("read");
    for (((key, record_found), stream), question) in asked.iter().zip(&records).zip(&streams).zip(&questions) {
        if *key == 200 {
            assert_eq!((record_found, stream), (&None, &StreamSlice::default()));
        } else {
            assert_eq!(record_found, &Some(record(*key)));
            assert_eq!(stream.events.len(), 1);
            assert_eq!(stream.events[0].stream, question.stream);
        }
    }
}

/// Names, payloads and metadata in any script, with any character, of a megabyte, come back to the byte.
pub fn any_text_and_large_payloads_come_back_as_written(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    let mut batch = pen.batch(&[(order(1), 1), (order(1), 2), (order(1), 3)]);
    batch.events[0].payload = r#"{"이름":"장부 🧾","quote":"it's \"so\"; -- DROP TABLE","nul":"\u0000"}"#.into();
    batch.events[0].metadata = r#"{"actor":"구매자 é 한"}"#.into();
    batch.events[1].payload = format!(r#"{{"text":"{}"}}"#, "가".repeat(350_000)).into();
    batch.events[2].payload = "{}".into();
    batch.events[2].recorded_at = batch.events[1].recorded_at;
    batch.records = vec![IdempotencyRecord {
        answer: (0..=255).cycle().take(1 << 20).collect(),
        ..record(1)
    }];
    batch.parked = vec![Parked {
        id: Uuid::from_u128(1),
        at: 1,
        input: r#"{"입력":1}"#.into(),
        reason: "이유".into(),
    }];
    batch.hash = batch_hash(&batch.previous_hash, &batch.events);
    assert!(batch.events[1].payload.len() > 1 << 20);
    pen.write(&batch);

    let reader = reader(&store);
    assert_eq!(reader.events(0, 0, 10).expect("read"), batch.events);
    assert_eq!(reader.stream(&order(1), 0, 10).expect("read"), batch.events);
    let (records, _) = reader.read(&[record(1).key], &[]).expect("read");
    assert_eq!(records, [Some(batch.records[0].clone())]);
    assert_eq!(reader.parked(0, 10).expect("read"), batch.parked);
    assert_eq!(verify_chain(&*reader, 0).expect("sound"), 3);
}

/// Each batch is chained to the one before, over what is read back; no column of any event can change unseen.
pub fn every_batch_is_chained_and_every_column_counts(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    for sequence in 1..=4 {
        pen.write_events(&[(order(1), sequence), (order(2), sequence)]);
    }
    let reader = reader(&store);
    let (events, batches) = (reader.events(0, 0, 100).expect("read"), reader.batches(0, 0, 100).expect("read"));
    assert_eq!(batches.len(), 4);
    let mut previous = GENESIS;
    for ((last, before, hash, epoch), events) in batches.into_iter().zip(events.chunks(2)) {
        assert_eq!((before, epoch, events[1].position), (previous, pen.head.epoch, last));
        assert_eq!(hash, batch_hash(&previous, events));
        for tamper in TAMPERINGS {
            let mut tampered = events.to_vec();
            tamper(&mut tampered[0]);
            assert_ne!(tampered, events);
            assert_ne!(hash, batch_hash(&previous, &tampered));
        }
        assert_ne!(hash, batch_hash(&previous, &events[..1]), "a cut tail shows");
        assert_ne!(hash, batch_hash(&[1; 32], events), "the batch before counts");
        previous = hash;
    }
    assert_eq!(reader.head(0).expect("read").expect("a head").hash, previous);
}

/// One change of each column. Moving a byte from one column to the next must show too.
const TAMPERINGS: [fn(&mut Event); 12] = [
    |event| event.shard += 1,
    |event| event.position += 1,
    |event| event.stream.kind = "Order".into(),
    |event| event.stream.id = Uuid::from_u128(99),
    |event| event.sequence += 1,
    |event| event.event_id = Uuid::from_u128(99),
    |event| event.event_type = "order.paid".into(),
    |event| event.event_version = "1.0.1".into(),
    |event| event.recorded_at += 1,
    |event| event.payload = "{}".into(),
    |event| event.metadata = "{}".into(),
    |event| {
        event.event_type = format!("{}1", event.event_type).into();
        event.event_version = event.event_version[1..].to_owned().into();
    },
];

/// A stream is read as its newest snapshot of the shape asked for, and the events after it.
pub fn the_newest_snapshot_of_the_shape_saves_reading(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    let snapshot = |sequence, shape| Snapshot {
        stream: order(1),
        sequence,
        shape: [shape; 32],
        state: format!(r#"{{"counted":{sequence}}}"#).into_bytes().into(),
    };
    let ask = |shape| {
        let question = StreamRead {
            stream: order(1),
            shape: [shape; 32],
        };
        let (_, mut slices) = reader(&store).read(&[], &[question]).expect("read");
        let slice = slices.pop().expect("one answer");
        (slice.snapshot, slice.events.iter().map(|event| event.sequence).collect::<Vec<_>>())
    };
    for sequence in 1..=6 {
        let mut batch = pen.batch(&[(order(1), sequence), (order(2), sequence)]);
        if sequence == 2 || sequence == 4 {
            batch.snapshots = vec![snapshot(sequence, 1)];
        }
        pen.write(&batch);
    }
    assert_eq!(ask(1), (Some(snapshot(4, 1)), vec![5, 6]), "the newest, and what came after");
    assert_eq!(ask(2), (None, (1..=6).collect()), "another shape is of no use");

    let late = Batch {
        snapshots: vec![snapshot(3, 1), snapshot(6, 2)],
        ..pen.batch(&[])
    };
    pen.write(&late);
    assert_eq!(ask(1), (Some(snapshot(4, 1)), vec![5, 6]), "an older one replaces no newer one");
    assert_eq!(ask(2), (Some(snapshot(6, 2)), vec![]));
}

/// A timer set again moves; one that is done is gone. Each shard has its own.
pub fn timers_are_set_moved_and_done(place: &impl Place) {
    let store = place.open();
    let (mut pen, mut other) = (Pen::take(&store, 0), Pen::take(&store, 1));
    pen.write(&Batch {
        timers: vec![timer(1, 10), timer(2, 20), timer(3, 30)],
        ..pen.batch(&[(order(1), 1)])
    });
    other.write(&Batch {
        timers: vec![timer(1, 99)],
        ..other.batch(&[])
    });
    pen.write(&Batch {
        timers: vec![timer(2, 25), timer(4, 40)],
        timers_done: vec![timer(1, 0).id, timer(4, 0).id, timer(77, 0).id],
        ..pen.batch(&[(order(1), 2)])
    });
    assert_eq!(by_id(&store, 0), [timer(2, 25), timer(3, 30)]);
    assert_eq!(by_id(&store, 1), [timer(1, 99)]);
}

fn by_id(store: &impl EventStore, shard: u16) -> Vec<Timer> {
    let mut timers = reader(store).unfinished(shard).expect("read").timers;
    timers.sort_by_key(|timer| timer.id);
    timers
}

/// An effect is owed until its outcome is recorded; one asked and answered in the same batch is never owed.
pub fn effects_are_owed_until_settled(place: &impl Place) {
    let store = place.open();
    let (mut pen, mut other) = (Pen::take(&store, 0), Pen::take(&store, 1));
    pen.write(&Batch {
        owed: vec![effect(1), effect(2)],
        ..pen.batch(&[(order(1), 1)])
    });
    other.write(&Batch {
        owed: vec![effect(1)],
        ..other.batch(&[])
    });
    pen.write(&Batch {
        owed: vec![effect(3), effect(4)],
        settled: vec![effect(1).id, effect(4).id, effect(99).id],
        ..pen.batch(&[(order(1), 2)])
    });
    let owed = |shard| {
        let mut effects = reader(&store).unfinished(shard).expect("read").effects;
        effects.sort_by_key(|effect| effect.id);
        effects
    };
    assert_eq!(owed(0), [effect(2), effect(3)]);
    assert_eq!(owed(1), [effect(1)]);
}

fn set_aside(id: u128, at: i64) -> Parked {
    Parked {
        id: Uuid::from_u128(id),
        at,
        input: format!(r#"{{"n":{id}}}"#).into(),
        reason: "it panicked".into(),
    }
}

/// Inputs that could not be processed are listed oldest first.
pub fn inputs_set_aside_are_kept(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    pen.write(&Batch {
        parked: vec![set_aside(5, 10), set_aside(4, 20)],
        ..pen.batch(&[])
    });
    pen.write(&Batch {
        parked: vec![set_aside(6, 15)],
        ..pen.batch(&[(order(1), 1)])
    });
    let reader = reader(&store);
    assert_eq!(
        reader.parked(0, 10).expect("read"),
        [set_aside(5, 10), set_aside(6, 15), set_aside(4, 20)]
    );
    assert_eq!(reader.parked(0, 2).expect("read").len(), 2);
    assert!(reader.parked(1, 10).expect("read").is_empty());
}

/// An input that was set aside comes to its end once, and is not listed any more.
pub fn inputs_set_aside_end_once(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    let ends = |id, how| Unparked {
        id: Uuid::from_u128(id),
        at: 30,
        by: "account:1".into(),
        how,
    };
    let end = |shard, id| reader(&store).unparked(shard, Uuid::from_u128(id)).expect("read");
    pen.write(&Batch {
        parked: vec![set_aside(5, 10), set_aside(4, 20)],
        ..pen.batch(&[])
    });
    pen.write(&Batch {
        unparked: vec![ends(5, Unparking::Retried)],
        ..pen.batch(&[(order(1), 1)])
    });
    let reader = reader(&store);
    assert_eq!(reader.parked(0, 10).expect("read"), [set_aside(4, 20)]);
    assert_eq!(reader.parked_input(0, Uuid::from_u128(5)).expect("read"), None);
    assert_eq!(reader.parked_input(0, Uuid::from_u128(4)).expect("read"), Some(set_aside(4, 20)));
    assert_eq!(reader.parked_input(1, Uuid::from_u128(4)).expect("read"), None);
    assert_eq!(end(0, 5), Some(ends(5, Unparking::Retried)));
    assert_eq!((end(0, 4), end(0, 6), end(1, 5)), (None, None, None));
    for unparked in [
        vec![ends(5, Unparking::Dropped)],
        vec![ends(6, Unparking::Retried)],
        vec![ends(4, Unparking::Dropped), ends(4, Unparking::Retried)],
    ] {
        let batch = Batch {
            unparked,
            ..pen.batch(&[(order(1), 2)])
        };
        let refused = pen.writer.commit(&[&batch]);
        assert!(matches!(refused, Err(CommitError::Refused(_))), "{refused:?}");
    }
    assert_eq!(reader.parked(0, 10).expect("read"), [set_aside(4, 20)]);
    assert_eq!(end(0, 5), Some(ends(5, Unparking::Retried)), "what was refused changes no end");
    pen.write(&Batch {
        unparked: vec![ends(4, Unparking::Dropped)],
        ..pen.batch(&[])
    });
    assert!(reader.parked(0, 10).expect("read").is_empty());
    assert_eq!(end(0, 4), Some(ends(4, Unparking::Dropped)));
}

/// An input of the same name in another shard has an end of its own.
pub fn inputs_set_aside_end_in_their_shard(place: &impl Place) {
    let store = place.open();
    let (mut pen, mut other) = (Pen::take(&store, 0), Pen::take(&store, 1));
    for pen in [&mut pen, &mut other] {
        pen.write(&Batch {
            parked: vec![set_aside(5, 10)],
            ..pen.batch(&[])
        });
    }
    let end = |shard| reader(&store).unparked(shard, Uuid::from_u128(5)).expect("read");
    let ends = |at, by: &str, how| Unparked {
        id: Uuid::from_u128(5),
        at,
        by: by.into(),
        how,
    };
    let (dropped, retried) = (ends(30, "system", Unparking::Dropped), ends(40, "account:1", Unparking::Retried));
    other.write(&Batch {
        unparked: vec![dropped.clone()],
        ..other.batch(&[])
    });
    assert_eq!((end(0), end(1)), (None, Some(dropped.clone())));
    assert_eq!(reader(&store).parked(0, 10).expect("read"), [set_aside(5, 10)]);
    pen.write(&Batch {
        unparked: vec![retried.clone()],
        ..pen.batch(&[(order(1), 1)])
    });
    assert_eq!((end(0), end(1)), (Some(retried), Some(dropped)));
}

/// All inputs that were ever set aside are listed by their ids, page by page, those that have ended with their ends.
pub fn inputs_set_aside_are_listed_with_their_ends(place: &impl Place) {
    let store = place.open();
    let (mut pen, mut other) = (Pen::take(&store, 0), Pen::take(&store, 1));
    let last = Uuid::max().as_u128();
    pen.write(&Batch {
        parked: vec![set_aside(7, 10), set_aside(0, 20), set_aside(last, 5)],
        ..pen.batch(&[])
    });
    other.write(&Batch {
        parked: vec![set_aside(5, 10)],
        ..other.batch(&[])
    });
    let end = Unparked {
        id: Uuid::from_u128(7),
        at: 30,
        by: "account:1".into(),
        how: Unparking::Retried,
    };
    pen.write(&Batch {
        unparked: vec![end.clone()],
        ..pen.batch(&[])
    });
    let listed = |shard, after: Option<u128>, limit| {
        let page = reader(&store).set_aside(shard, after.map(Uuid::from_u128), limit);
        page.expect("read").expect("it can be listed")
    };
    let one = |input, end| SetAside { input, end };
    let all = [
        one(set_aside(0, 20), None),
        one(set_aside(7, 10), Some(end)),
        one(set_aside(last, 5), None),
    ];
    assert_eq!(listed(0, None, 10), all);
    assert_eq!(listed(0, None, 2), all[..2]);
    assert_eq!(listed(0, Some(0), 2), all[1..]);
    assert_eq!(listed(0, Some(7), 2), all[2..]);
    assert!(listed(0, Some(last), 2).is_empty() && listed(9, None, 2).is_empty());
    assert_eq!(listed(1, None, 10), [one(set_aside(5, 10), None)]);
}

/// Who asks for the holder changes nothing; and a shard can be kept from whoever takes shards.
pub fn who_holds_a_shard_is_told_and_a_kept_one_is_kept(place: &impl Place) {
    let store = place.open();
    let (reader, mut writer) = (reader(&store), store.writer().expect("a writer"));
    let (holder, now) = (Uuid::from_u128(3), 5_000_000_000_000_000);
    assert_eq!(holder_of(0, reader.as_ref(), writer.as_mut()).expect("asked"), None);
    assert_eq!(reader.head(0).expect("read"), None, "nobody has taken it");
    let head = writer.take(0, holder, now).expect("free");
    for heartbeat in [now, KEPT] {
        writer.heartbeat(0, head.epoch, heartbeat).expect("its own");
        let told = holder_of(0, reader.as_ref(), writer.as_mut()).expect("asked").expect("somebody");
        assert!(told.contains(&holder.to_string()), "{told}");
        assert_eq!(reader.head(0).expect("read"), Some(head.clone()));
    }
    let taken = writer.take(0, Uuid::from_u128(4), now + 1_000 * HOLDER_EXPIRES_AFTER);
    assert!(matches!(taken, Err(StoreError::Held { shard: 0, .. })), "{taken:?}");
    let again = writer.take(0, holder, KEPT).expect("its own");
    assert_eq!(again.epoch, head.epoch + 1);
    writer.heartbeat(0, again.epoch, GIVEN_UP).expect("its own");
    let told = holder_of(0, reader.as_ref(), writer.as_mut()).expect("asked");
    assert!(
        told.is_some_and(|told| told.contains(&holder.to_string())),
        "the last one's name stays"
    );
    writer.take(0, Uuid::from_u128(4), now).expect("given up");
}

/// Dropped and opened again, a log has its id, its heads, what it owes, and goes on where it stood.
pub fn a_log_opened_again_is_as_it_was_left(place: &impl Place) {
    let (head, batch) = {
        let store = place.open();
        let mut pen = Pen::take(&store, 0);
        pen.write_events(&[(order(1), 1)]);
        let batch = full(
            Batch {
                orders_numbered: 12,
                ..pen.batch(&[(order(1), 2)])
            },
            1,
        );
        pen.write(&batch);
        (pen.head, batch)
    };
    let store = place.open();
    let reader = reader(&store);
    assert_eq!(reader.head(0).expect("read"), Some(head.clone()));
    let unfinished = reader.unfinished(0).expect("read");
    assert_eq!((unfinished.effects, unfinished.timers), (batch.owed.clone(), batch.timers.clone()));
    assert_eq!(reader.parked(0, 10).expect("read"), batch.parked);
    let (records, slices) = reader
        .read(
            &[batch.records[0].key],
            &[StreamRead {
                stream: order(1),
                shape: [1; 32],
            }],
        )
        .expect("read");
    assert_eq!(records, [Some(batch.records[0].clone())]);
    assert_eq!(slices[0].snapshot, Some(batch.snapshots[0].clone()));
    assert_eq!(verify_chain(&*reader, 0).expect("sound"), 2);

    let mut pen = Pen::take(&store, 0);
    assert_eq!((pen.head.log_id, pen.head.orders_numbered), (head.log_id, 12));
    assert!(pen.head.epoch > head.epoch);
    pen.write_events(&[(order(1), 3)]);
    assert_eq!(verify_chain(&*reader, 0).expect("sound"), 3);
}

/// A checkpoint moves only from where it stands, forwards and back; each reader and each shard has its own.
pub fn a_checkpoint_is_moved_from_where_it_stands(place: &impl Place) {
    let store = place.open();
    let mut checkpoints = store.checkpoints().expect("checkpoints");
    assert!(checkpoints.read("relay").expect("read").is_empty());
    assert!(
        !checkpoints.advance("relay", 0, 5, 9).expect("asked"),
        "one that was never moved stands at 0"
    );
    assert!(
        checkpoints.read("relay").expect("read").is_empty(),
        "what is refused leaves nothing"
    );
    assert!(checkpoints.advance("relay", 0, 0, 7).expect("moved"));
    assert!(!checkpoints.advance("relay", 0, 0, 9).expect("asked"));
    assert!(!checkpoints.advance("relay", 0, 6, 9).expect("asked"));
    assert!(checkpoints.advance("relay", 65_535, 0, 3).expect("moved"));
    assert!(checkpoints.advance("another", 0, 0, 40).expect("moved"));
    assert!(checkpoints.advance("relay", 0, 7, 1 << 40).expect("moved"));
    assert_eq!(checkpoints.read("relay").expect("read"), [(0, 1 << 40), (65_535, 3)]);
    assert_eq!(checkpoints.read("another").expect("read"), [(0, 40)]);
    assert!(checkpoints.advance("relay", 0, 1 << 40, 2).expect("moved back"));
    assert!(checkpoints.advance("relay", 65_535, 3, 0).expect("moved back"));
    let stands = store.checkpoints().expect("others").read("relay").expect("read");
    assert_eq!(
        stands.iter().find(|(shard, _)| *shard == 0),
        Some(&(0, 2)),
        "everybody sees the same"
    );
    assert!(checkpoints.advance("relay", 65_535, 0, 1).expect("moved"), "0 is where it began");
}

/// Of several that move a checkpoint from the same place at the same time, one moves it.
pub fn of_those_who_move_a_checkpoint_at_once_one_does(place: &impl Place) {
    const ROUNDS: u64 = 20;
    let store = place.open();
    let moved: u64 = thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let mut checkpoints = store.checkpoints().expect("checkpoints");
                scope.spawn(move || {
                    let moves = (0..ROUNDS).filter(|from| checkpoints.advance("relay", 1, *from, from + 1).expect("asked"));
                    moves.count() as u64
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("it ends")).sum()
    });
    let stands = store.checkpoints().expect("checkpoints").read("relay").expect("read");
    assert_eq!(stands, [(1, moved)], "each step was taken once");
    assert!(moved > 0);
}

/// A checkpoint is durable, and no part of the log: a batch moves none, and none moves a head.
pub fn checkpoints_stay_when_the_log_is_opened_again(place: &impl Place) {
    let store = place.open();
    let mut pen = Pen::take(&store, 0);
    pen.write_events(&[(order(1), 1), (order(1), 2)]);
    let head = reader(&store).head(0).expect("read");
    let mut checkpoints = store.checkpoints().expect("checkpoints");
    assert!(checkpoints.advance("relay", 0, 0, 2).expect("moved"));
    assert_eq!(reader(&store).head(0).expect("read"), head);
    pen.write_events(&[(order(1), 3)]);
    assert_eq!(checkpoints.read("relay").expect("read"), [(0, 2)]);
    drop(checkpoints);
    drop(pen);
    drop(store);

    let store = place.open();
    let mut checkpoints = store.checkpoints().expect("checkpoints");
    assert_eq!(checkpoints.read("relay").expect("read"), [(0, 2)]);
    assert!(checkpoints.advance("relay", 0, 2, 3).expect("moved"));
    assert_eq!(verify_chain(&*reader(&store), 0).expect("sound"), 3);
}

/// A writer and the head it stands at.
struct Pen {
    writer: Box<dyn LogWriter>,
    head: Head,
}

impl Pen {
    fn take(store: &impl EventStore, shard: u16) -> Self {
        let mut writer = store.writer().expect("a writer");
        let head = writer.take(shard, Uuid::nil(), 0).expect("the shard is free");
        Self { writer, head }
    }

    /// The next batch, with an event for each stream and sequence.
    fn batch(&self, events: &[(StreamId, u64)]) -> Batch {
        let first_position = self.head.position + 1;
        let events: Vec<_> = events
            .iter()
            .zip(first_position..)
            .map(|((stream, sequence), position)| Event {
                shard: self.head.shard,
                position,
                stream: stream.clone(),
                sequence: *sequence,
                event_id: Uuid::from_u128(u128::from(self.head.shard) << 64 | u128::from(position)),
                event_type: "order.placed".into(),
                event_version: "1.0.0".into(),
                recorded_at: 1_750_000_000_000_000 + i64::try_from(position).expect("few events"),
                payload: format!(r#"{{"total":{{"minor":{position},"currency":"KRW"}}}}"#).into(),
                metadata: r#"{"correlation_id":"0197","actor":"buyer"}"#.into(),
            })
            .collect();
        let hash = if events.is_empty() {
            self.head.hash
        } else {
            batch_hash(&self.head.hash, &events)
        };
        Batch {
            shard: self.head.shard,
            epoch: self.head.epoch,
            first_position,
            events,
            orders_numbered: self.head.orders_numbered,
            previous_hash: self.head.hash,
            hash,
            ..Batch::default()
        }
    }

    fn write(&mut self, batch: &Batch) {
        self.writer.commit(&[batch]).expect("the batch is sound");
        self.follow(batch);
    }

    fn write_events(&mut self, events: &[(StreamId, u64)]) {
        self.write(&self.batch(events));
    }

    /// The batch was written, by whomever: the head stands behind it.
    fn follow(&mut self, batch: &Batch) {
        self.head.position = batch.last_position();
        self.head.hash = batch.hash;
        self.head.orders_numbered = batch.orders_numbered;
        if let Some(last) = batch.events.last() {
            self.head.recorded_at = last.recorded_at;
        }
    }
}

/// The batch with one of everything that may stand beside events.
fn full(batch: Batch, id: u8) -> Batch {
    let stream = batch.events[0].stream.clone();
    Batch {
        records: vec![record(id)],
        owed: vec![effect(id)],
        timers: vec![timer(id, 9)],
        parked: vec![Parked {
            id: Uuid::from_u128(id.into()),
            at: 3,
            input: "{}".into(),
            reason: "it panicked".into(),
        }],
        snapshots: vec![Snapshot {
            stream,
            sequence: 1,
            shape: [1; 32],
            state: b"{}".as_slice().into(),
        }],
        ..batch
    }
}

fn reader(store: &impl EventStore) -> Box<dyn LogReader> {
    store.reader().expect("a reader")
}

fn records(store: &impl EventStore, keys: &[u8]) -> Vec<Option<IdempotencyRecord>> {
    let keys: Vec<_> = keys.iter().map(|key| record(*key).key).collect();
    reader(store).read(&keys, &[]).expect("read").0
}

fn order(id: u128) -> StreamId {
    StreamId::new("order", Uuid::from_u128(id))
}

fn question(stream: &StreamId) -> StreamRead {
    StreamRead {
        stream: stream.clone(),
        shape: [1; 32],
    }
}

fn record(key: u8) -> IdempotencyRecord {
    IdempotencyRecord {
        key: RecordKey([key; 16]),
        fingerprint: [key.wrapping_add(1); 16],
        position: u64::from(key),
        recorded_at: 1_750_000_000_000_000,
        answer: format!("answer {key}").into_bytes().into(),
    }
}

fn effect(id: u8) -> OwedEffect {
    OwedEffect {
        id: Uuid::from_u128(id.into()),
        effect: format!(r#"{{"confirm":{id}}}"#).into(),
    }
}

fn timer(id: u8, due: i64) -> Timer {
    Timer {
        id: Uuid::from_u128(id.into()),
        due,
        command: format!(r#"{{"expire":{id},"due":{due}}}"#).into(),
    }
}
