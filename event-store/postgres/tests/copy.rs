//! A log that moves from store to store stays the same log.

use std::ops::ControlFlow;

use event_store::{
    Batch, CopyError, Copying, Event, EventStore, Hash, LogCopy, LogReader, MemoryStore, OwedEffect, Parked, Shards, StoreError, StreamId,
    Timer, Unparked, Unparking, batch_hash, check_copy, copy, give_away, verify_chain,
};
use event_store_postgres::PostgresStore;
use event_store_sqlite::SqliteStore;
use test_servers::Postgres;
use uuid::Uuid;

const HOW: Copying = Copying {
    instance: Uuid::from_u128(7),
    now: 1_000,
};

/// A log of two shards, with batches under two epochs.
fn original() -> MemoryStore {
    let store = MemoryStore::default();
    let mut writer = store.writer().expect("a writer");
    writer.found(Shards::new(2).expect("two")).expect("fixed");
    for shard in [0, 1] {
        for round in 0..3_u64 {
            let head = writer.take(shard, Uuid::nil(), 1).expect("the shard");
            let events: Vec<_> = (head.position + 1..=head.position + 4)
                .map(|position| Event {
                    shard,
                    position,
                    stream: StreamId::new("order", Uuid::from_u128(u128::from(shard) + 1)),
                    sequence: position,
                    event_id: Uuid::from_u128(u128::from(shard) << 64 | u128::from(position)),
                    event_type: "order.placed".into(),
                    event_version: "1.0.0".into(),
                    recorded_at: 1,
                    payload: r#"{"total":{"minor":1,"currency":"KRW"}}"#.into(),
                    metadata: r#"{"actor":"buyer"}"#.into(),
                })
                .collect();
            let batch = Batch {
                shard,
                epoch: head.epoch,
                first_position: head.position + 1,
                previous_hash: head.hash,
                hash: batch_hash(&head.hash, &events),
                events,
                orders_numbered: round,
                owed: vec![OwedEffect {
                    id: Uuid::from_u128(round.into()),
                    effect: "{}".into(),
                }],
                timers: vec![Timer {
                    id: Uuid::from_u128(round.into()),
                    due: 5,
                    command: "{}".into(),
                }],
                parked: [round, round + 100]
                    .map(|id| Parked {
                        id: Uuid::from_u128(id.into()),
                        at: 3,
                        input: "{}".into(),
                        reason: "it panicked".into(),
                    })
                    .into(),
                ..Batch::default()
            };
            let ended = Batch {
                shard,
                epoch: head.epoch,
                first_position: batch.last_position() + 1,
                previous_hash: batch.hash,
                hash: batch.hash,
                orders_numbered: round,
                unparked: vec![Unparked {
                    id: Uuid::from_u128(round.into()),
                    at: 4,
                    by: "account:1".into(),
                    how: Unparking::Dropped,
                }],
                ..Batch::default()
            };
            writer.commit(&[&batch]).expect("written");
            writer.commit(&[&ended]).expect("written");
        }
    }
    store
}

/// What makes a log that log, and not another one.
fn is(reader: &dyn LogReader) -> Vec<(Uuid, u64, Hash, Vec<Event>)> {
    let head = |shard| {
        assert_eq!(verify_chain(reader, shard).expect("sound"), 12);
        let head = reader.head(shard).expect("read").expect("a head");
        let events = reader.events(shard, 0, 100).expect("read");
        (head.log_id, head.position, head.hash, events)
    };
    [0, 1].map(head).into()
}

#[test]
fn a_log_is_the_same_in_memory_in_postgresql_and_in_sqlite() {
    let memory = original();
    let first = memory.reader().expect("a reader");
    let database = Postgres::shared().database();
    let postgres = PostgresStore::open(&database.url().parse().expect("an address")).expect("a log");
    let mut target = postgres.writer().expect("a writer");
    assert_eq!(copy(first.as_ref(), target.as_mut(), HOW, &mut |_| {}).expect("copied"), 24);
    let second = postgres.reader().expect("a reader");
    assert_eq!(is(second.as_ref()), is(first.as_ref()));

    let scratch = tempfile::tempdir().expect("a scratch directory");
    let sqlite = SqliteStore::open(scratch.path()).expect("a log");
    let mut target = sqlite.writer().expect("a writer");
    assert_eq!(copy(second.as_ref(), target.as_mut(), HOW, &mut |_| {}).expect("copied"), 24);
    let third = sqlite.reader().expect("a reader");
    assert_eq!(is(third.as_ref()), is(first.as_ref()));
    for shard in [0, 1] {
        assert_eq!(third.batches(shard, 0, 9).expect("read"), first.batches(shard, 0, 9).expect("read"));
        assert_eq!(third.unfinished(shard).expect("read"), first.unfinished(shard).expect("read"));
        let set_aside = first.set_aside(shard, None, 9).expect("read");
        assert_eq!(set_aside.as_ref().map(Vec::len), Some(6));
        assert_eq!(second.set_aside(shard, None, 9).expect("read"), set_aside);
        assert_eq!(third.set_aside(shard, None, 9).expect("read"), set_aside);
    }
    drop((third, target, sqlite));
    SqliteStore::open(scratch.path()).expect("what it says of itself is sound");
}

#[test]
fn a_copy_that_was_interrupted_goes_on_and_is_nobody_elses_before_it_is_given_away() {
    let memory = original();
    let from = memory.reader().expect("a reader");
    let database = Postgres::shared().database();
    let store = PostgresStore::open(&database.url().parse().expect("an address")).expect("a log");
    let mut stops = 0;
    loop {
        let mut copy = LogCopy::begin(from.as_ref(), &store, HOW).expect("begun, or gone on with");
        let mut left = 2 + stops;
        let copied = copy.copy(&mut |_| {
            left -= 1;
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let taken = store.writer().expect("a writer").take(1, Uuid::nil(), 1_000_000_000_000_000);
        assert!(matches!(taken, Err(StoreError::Held { shard: 1, .. })), "{taken:?}");
        match copied {
            Ok(events) => break assert_eq!(events, 24),
            Err(CopyError::Stopped) => stops += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(stops > 3, "{stops}");
    let to = store.reader().expect("a reader");
    assert_eq!(check_copy(from.as_ref(), to.as_ref()).expect("the same"), 24);
    assert_eq!(is(to.as_ref()), is(from.as_ref()));
    let how = Copying {
        now: 1_000_000_000_000,
        ..HOW
    };
    give_away(from.as_ref(), &store, how).expect("given away");
    store.writer().expect("a writer").take(1, Uuid::nil(), how.now).expect("free");
}

#[test]
fn a_log_that_is_in_use_is_not_copied_into() {
    let database = Postgres::shared().database();
    let postgres = PostgresStore::open(&database.url().parse().expect("an address")).expect("a log");
    let mut target = postgres.writer().expect("a writer");
    target.found(Shards::new(2).expect("two")).expect("an engine has begun");
    let before = database.sql("SELECT log_id FROM log");
    let refused = copy(original().reader().expect("a reader").as_ref(), target.as_mut(), HOW, &mut |_| {});
    let line = refused.expect_err("in use").to_string();
    assert!(line.contains("copy into a new one") && line.contains(before.trim_end()), "{line}");
    assert_eq!(database.sql("SELECT log_id FROM log"), before);
}
