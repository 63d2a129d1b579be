//! The suite that every store passes, on a server in memory: one that works, one that takes small appends only, one that loses answers, and with
//! an index that is lost again and again. And what only this store has to show.

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    path::PathBuf,
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
};

use event_store::{
    Batch, Checkpoints, CommitError, CopyError, Copying, Event, EventStore, Head, IdempotencyRecord, LogCopy, LogReader, LogWriter,
    MemoryStore, OwedEffect, Parked, RecordKey, Shards, Snapshot, StoreError, StreamId, StreamRead, Timer, batch_hash, check_copy,
    conformance::Place, copy, give_away, verify_chain,
};
use event_store_sqlite::SqliteStore;
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    EsdbStore, LINKS,
    double::{Double, Fault},
    entry::{BATCH, Entry, LARGEST_APPEND, PART, PIECE, TAKEN},
    server::{Append, AppendError, Expected, Server},
};

/// Splits most of the suite's batches.
const SMALL: usize = 3_000;

mod whole {
    event_store::conformance_suite!(super::Memory::new(super::LARGEST_APPEND));
}

mod split {
    event_store::conformance_suite!(super::Memory::new(super::SMALL));
}

mod rebuilt {
    event_store::conformance_suite!(super::Memory {
        loses_index: true,
        ..super::Memory::new(super::LARGEST_APPEND)
    });
}

mod unreliable {
    event_store::conformance_suite!(super::Unreliable::new(super::LARGEST_APPEND));
}

mod unreliable_and_split {
    event_store::conformance_suite!(super::Unreliable::new(super::SMALL));
}

/// A server in memory, and a directory for indexes.
struct Memory {
    server: Arc<Double>,
    scratch: TempDir,
    limit: usize,
    /// Each opening begins without an index.
    loses_index: bool,
    opened: AtomicUsize,
}

impl Memory {
    fn new(limit: usize) -> Self {
        Self {
            server: Arc::new(Double::with(limit + 48_576, |_| None)),
            scratch: tempfile::tempdir().expect("a scratch directory"),
            limit,
            loses_index: false,
            opened: AtomicUsize::new(0),
        }
    }

    fn index(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The log as another process opens it, with an index of its own.
    fn store(&self, index: &str) -> EsdbStore {
        self.try_store(index).expect("the log opens")
    }

    fn try_store(&self, index: &str) -> Result<EsdbStore, StoreError> {
        EsdbStore::on(
            Arc::clone(&self.server) as Arc<dyn Server>,
            "jangbu",
            &self.index(index),
            self.limit,
        )
    }

    fn shard(&self) -> Vec<Entry> {
        let stream = self.server.stream("jangbu-shard-0");
        assert!(stream.iter().zip(0..).all(|(recorded, revision)| recorded.revision == revision));
        stream.into_iter().map(|recorded| recorded.entry).collect()
    }
}

impl Place for Memory {
    type Store = EsdbStore;

    fn open(&self) -> EsdbStore {
        let opened = self.opened.fetch_add(1, Ordering::Relaxed);
        self.store(&if self.loses_index {
            format!("index-{opened}")
        } else {
            "index".into()
        })
    }
}

/// A server that fails in every way again and again, and a writer that does what the engine does about it.
struct Unreliable(Memory);

impl Unreliable {
    fn new(limit: usize) -> Self {
        const FAULTS: [Fault; 5] = [Fault::AnswerLost, Fault::Late, Fault::NotSent, Fault::VeryLate, Fault::Lost];
        let memory = Memory::new(limit);
        // Ever more appends come between two faults, so a batch of any size is written in the end.
        let (mut left, mut between, mut faults) = (2, 2, FAULTS.iter().cycle());
        memory.server.now(move |append| {
            // A batch without events moves no head, so nobody could tell what became of it; heartbeats are not repeated either.
            let ours = |entry: &Entry| entry.name.starts_with("jangbu-");
            let told_by_the_head = append
                .entries
                .iter()
                .any(|entry| !ours(entry) || [PART, TAKEN].contains(&&*entry.name));
            if !told_by_the_head || append.entries[0].name == PIECE {
                return None;
            }
            left -= 1;
            if left > 0 {
                return None;
            }
            between += 1;
            left = between;
            faults.next().copied()
        });
        Self(memory)
    }
}

impl Place for Unreliable {
    type Store = Patient;

    fn open(&self) -> Patient {
        Patient(self.0.open())
    }
}

struct Patient(EsdbStore);

impl EventStore for Patient {
    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError> {
        Ok(Box::new(PatientWriter {
            writer: self.0.writer()?,
            reader: self.0.reader()?,
        }))
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        self.0.reader()
    }

    fn checkpoints(&self) -> Result<Box<dyn Checkpoints>, StoreError> {
        self.0.checkpoints()
    }

    fn lacks(&self) -> &'static [&'static str] {
        self.0.lacks()
    }
}

struct PatientWriter {
    writer: Box<dyn LogWriter>,
    reader: Box<dyn LogReader>,
}

impl PatientWriter {
    fn insist(&mut self, take: impl Fn(&mut dyn LogWriter) -> Result<Head, StoreError>) -> Result<Head, StoreError> {
        for _ in 0..100 {
            match take(self.writer.as_mut()) {
                Err(StoreError::Unavailable(_)) => {}
                taken => return taken,
            }
        }
        panic!("the shard cannot be taken");
    }

    fn is_there(&self, batch: &Batch) -> bool {
        let last = batch.last_position();
        let there = self.reader.batches(batch.shard, last - 1, 1).expect("read");
        there
            .iter()
            .any(|(position, _, hash, epoch)| (*position, *hash, *epoch) == (last, batch.hash, batch.epoch))
    }
}

impl LogWriter for PatientWriter {
    fn found(&mut self, shards: Shards) -> Result<Shards, StoreError> {
        self.writer.found(shards)
    }

    fn take(&mut self, shard: u16, instance: Uuid, now: i64) -> Result<Head, StoreError> {
        self.insist(|writer| writer.take(shard, instance, now))
    }

    fn seize(&mut self, shard: u16, instance: Uuid, now: i64) -> Result<Head, StoreError> {
        self.insist(|writer| writer.seize(shard, instance, now))
    }

    fn commit(&mut self, batches: &[&Batch]) -> Result<(), CommitError> {
        let mut left = batches.to_vec();
        for _ in 0..10_000 {
            match self.writer.commit(&left) {
                Err(CommitError::NotWritten(_)) => {}
                Err(CommitError::Unknown(_)) => {
                    for batch in batches {
                        let head = self.reader.head(batch.shard).expect("read").expect("a head");
                        // Whoever took over since has not undone it.
                        if !batch.events.is_empty() && self.is_there(batch) {
                            left.retain(|other| other != batch);
                        } else if head.epoch != batch.epoch {
                            return Err(CommitError::Fenced(batch.shard));
                        }
                    }
                    if left.is_empty() {
                        return Ok(());
                    }
                }
                told => return told,
            }
        }
        panic!("the batch cannot be written");
    }

    fn heartbeat(&mut self, shard: u16, epoch: u64, now: i64) -> Result<(), CommitError> {
        self.writer.heartbeat(shard, epoch, now)
    }
}

#[test]
fn selections_are_what_reading_all_gives() {
    for limit in [LARGEST_APPEND, SMALL] {
        event_store::selection_conformance::selections_are_what_reading_all_gives(&Memory::new(limit).open());
    }
}

/// A writer with its head, on a store of its own.
struct Pen {
    writer: Box<dyn LogWriter>,
    reader: Box<dyn LogReader>,
    head: Head,
}

/// The event at this position of one stream.
fn event(position: u64, payload: &str) -> Event {
    Event {
        shard: 0,
        position,
        stream: StreamId::new("order", Uuid::from_u128(1)),
        sequence: position,
        event_id: Uuid::from_u128(u128::from(position)),
        event_type: "order.placed".into(),
        event_version: "1.0.0".into(),
        recorded_at: 5,
        payload: payload.into(),
        metadata: "{}".into(),
    }
}

impl Pen {
    fn take(store: &EsdbStore) -> Self {
        let mut writer = store.writer().expect("a writer");
        let head = writer.take(0, Uuid::nil(), 0).expect("free");
        Self {
            writer,
            reader: store.reader().expect("a reader"),
            head,
        }
    }

    /// The next events of one stream.
    fn batch(&self, events: u64) -> Batch {
        let events: Vec<_> = (self.head.position + 1..=self.head.position + events)
            .map(|position| event(position, &format!(r#"{{"filling":"{}"}}"#, "x".repeat(500))))
            .collect();
        let hash = if events.is_empty() {
            self.head.hash
        } else {
            batch_hash(&self.head.hash, &events)
        };
        Batch {
            epoch: self.head.epoch,
            first_position: self.head.position + 1,
            previous_hash: self.head.hash,
            hash,
            events,
            ..Batch::default()
        }
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        self.writer.commit(&[batch])?;
        self.head.position = batch.last_position();
        self.head.hash = batch.hash;
        Ok(())
    }

    fn write(&mut self, events: u64) {
        let batch = self.batch(events);
        self.commit(&batch).expect("written");
    }

    fn position(&self) -> u64 {
        self.reader.head(0).expect("read").expect("a head").position
    }
}

fn names(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.name.as_str()).collect()
}

#[test]
fn a_turn_is_one_append_and_positions_count_events_alone() {
    let place = Memory::new(LARGEST_APPEND);
    let mut pen = Pen::take(&place.store("a"));
    pen.write(2);
    let empty = pen.batch(0);
    pen.commit(&empty).expect("written");
    pen.write(1);
    assert_eq!(
        names(&place.shard()),
        [TAKEN, "order.placed", "order.placed", BATCH, BATCH, "order.placed", BATCH]
    );
    assert_eq!(pen.position(), 3);
    let events = pen.reader.events(0, 0, 10).expect("read");
    assert_eq!(events.iter().map(|event| event.position).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn who_was_taken_over_is_fenced_by_the_revision_also_before_it_has_heard_of_it() {
    let place = Memory::new(LARGEST_APPEND);
    let mut old = Pen::take(&place.store("a"));
    old.write(1);
    let mut new = Pen::take(&place.store("b"));
    assert_eq!((new.head.epoch, new.head.position), (old.head.epoch + 1, 1));
    let late = old.batch(1);
    let fenced = old.writer.commit(&[&late]);
    assert!(matches!(fenced, Err(CommitError::Fenced(0))), "{fenced:?}");
    new.write(1);
    let fenced = old.writer.commit(&[&late]);
    assert!(matches!(fenced, Err(CommitError::Fenced(0))), "{fenced:?}");
    assert!(matches!(old.writer.heartbeat(0, old.head.epoch, 9), Err(CommitError::Fenced(0))));
    // Each reads what the other wrote.
    assert_eq!((old.position(), new.position()), (2, 2));
    assert_eq!(verify_chain(&*old.reader, 0).expect("sound"), 2);
}

#[test]
fn the_same_events_with_another_content_are_not_taken_for_a_repeat() {
    // Ids of events derive from their cause. If an append had no id of its own, the server would say of the second that it is written.
    let place = Memory::new(LARGEST_APPEND);
    let pen = Pen::take(&place.store("a"));
    let mut other = pen.batch(1);
    other.events[0].payload = "{}".into();
    let append = |batch: &Batch| {
        let entries = crate::entry::appends(batch, LARGEST_APPEND).expect("it can be written").remove(0);
        Append {
            stream: "jangbu-shard-0".into(),
            expected: Expected::After(Some(0)),
            entries,
        }
    };
    let first = append(&pen.batch(1));
    place.server.append(first.clone()).expect("written");
    place.server.append(first).expect("a repeat to the byte is one");
    let second = place.server.append(append(&other));
    assert!(matches!(second, Err(AppendError::Elsewhere)), "{second:?}");
}

#[test]
fn after_an_answer_that_never_came_the_head_tells() {
    for (fault, written) in [
        (Fault::AnswerLost, true),
        (Fault::Late, true),
        (Fault::Lost, false),
        (Fault::VeryLate, false),
    ] {
        let place = Memory::new(LARGEST_APPEND);
        let mut pen = Pen::take(&place.store("a"));
        pen.write(1);
        let batch = pen.batch(2);
        place.server.once(fault);
        let doubtful = pen.writer.commit(&[&batch]);
        assert!(matches!(doubtful, Err(CommitError::Unknown(_))), "{fault:?}: {doubtful:?}");
        assert_eq!(pen.position(), if written { 3 } else { 1 }, "{fault:?}");
        // What the head has told stays so: nothing arrives later.
        if written {
            pen.head.position = 3;
            pen.head.hash = batch.hash;
        }
        pen.write(1);
        let end = if written { 4 } else { 2 };
        assert_eq!(verify_chain(&*pen.reader, 0).expect("sound"), end, "{fault:?}");
        let other = Pen::take(&place.store("b"));
        assert_eq!(verify_chain(&*other.reader, 0).expect("sound"), end, "{fault:?}");
    }
}

#[test]
fn while_the_doubt_cannot_be_settled_the_head_is_not_told() {
    let place = Memory::new(LARGEST_APPEND);
    let mut pen = Pen::take(&place.store("a"));
    let batch = pen.batch(1);
    place.server.now(|_| Some(Fault::Lost));
    assert!(matches!(pen.writer.commit(&[&batch]), Err(CommitError::Unknown(_))));
    assert!(matches!(pen.reader.head(0), Err(StoreError::Unavailable(_))));
    assert!(matches!(pen.writer.commit(&[&batch]), Err(CommitError::NotWritten(_))));
    place.server.now(|_| None);
    pen.write(1);
    assert_eq!(pen.position(), 1);
}

#[test]
fn what_was_not_sent_is_not_written_and_may_be_sent_again() {
    let place = Memory::new(LARGEST_APPEND);
    let mut pen = Pen::take(&place.store("a"));
    let batch = pen.batch(1);
    place.server.once(Fault::NotSent);
    let refused = pen.writer.commit(&[&batch]);
    assert!(matches!(refused, Err(CommitError::NotWritten(_))), "{refused:?}");
    pen.commit(&batch).expect("the same batch");
}

#[test]
fn a_take_whose_answer_is_lost_is_found_in_the_stream() {
    for fault in [Fault::AnswerLost, Fault::Late, Fault::Lost, Fault::VeryLate] {
        let place = Memory::new(LARGEST_APPEND);
        let mut first = Pen::take(&place.store("a"));
        first.write(1);
        let store = place.store("b");
        place.server.once(fault);
        let mut pen = Pen::take(&store);
        assert_eq!(pen.head.epoch, first.head.epoch + 1, "{fault:?}");
        pen.write(1);
        assert_eq!(verify_chain(&*pen.reader, 0).expect("sound"), 2);
    }
}

#[test]
fn a_crash_in_the_middle_of_a_split_batch_leaves_nothing_of_it() {
    for fault in [Fault::NotSent, Fault::AnswerLost, Fault::Lost, Fault::Late, Fault::VeryLate] {
        for at in 1..4 {
            let place = Memory::new(SMALL);
            let mut pen = Pen::take(&place.store("a"));
            pen.write(1);
            let batch = pen.batch(20);
            let mut sent = 0;
            place.server.now(move |_| {
                sent += 1;
                (sent == at).then_some(fault)
            });
            let failed = pen.writer.commit(&[&batch]);
            assert!(matches!(failed, Err(CommitError::NotWritten(_))), "{fault:?}: {failed:?}");
            place.server.now(|_| None);

            // Another process goes on, while the first one is gone.
            let mut next = Pen::take(&place.store("b"));
            assert_eq!((next.head.position, next.head.hash), (1, pen.head.hash));
            next.write(20);
            assert_eq!(verify_chain(&*next.reader, 0).expect("sound"), 21);
            let rebuilt = Pen::take(&place.store("c"));
            assert_eq!(verify_chain(&*rebuilt.reader, 0).expect("sound"), 21);
            assert!(names(&place.shard()).contains(&PART));
        }
    }
}

#[test]
fn the_same_writer_goes_on_after_a_batch_that_it_did_not_close() {
    for fault in [Fault::NotSent, Fault::AnswerLost, Fault::Lost, Fault::Late, Fault::VeryLate] {
        let place = Memory::new(SMALL);
        let mut pen = Pen::take(&place.store("a"));
        let batch = pen.batch(20);
        place.server.once(fault);
        assert!(matches!(pen.writer.commit(&[&batch]), Err(CommitError::NotWritten(_))));
        assert_eq!(pen.position(), 0, "{fault:?}");
        pen.commit(&batch).expect("the same batch");
        assert_eq!(verify_chain(&*pen.reader, 0).expect("sound"), 20, "{fault:?}");
    }
}

/// All that a reader can be asked.
fn everything(reader: &dyn LogReader) -> String {
    let keys: Vec<_> = (0..20).map(|key| RecordKey([key; 16])).collect();
    let question = StreamRead {
        stream: StreamId::new("order", Uuid::from_u128(1)),
        shape: [9; 32],
    };
    format!(
        "{:?}",
        (
            reader.shards().expect("read"),
            reader.shard_count().expect("read"),
            reader.head(0).expect("read"),
            reader.events(0, 0, 1_000).expect("read"),
            reader.batches(0, 0, 1_000).expect("read"),
            reader.unfinished(0).expect("read"),
            reader.parked(0, 1_000).expect("read"),
            reader.read(&keys, &[question]).expect("read"),
            reader.records(None, 1_000).expect("read"),
            reader.snapshots(None, 1_000).expect("read"),
        )
    )
}

#[test]
fn an_index_that_is_lost_is_made_again_from_the_streams() {
    let place = Memory::new(SMALL);
    let mut pen = Pen::take(&place.store("a"));
    pen.writer.found(Shards::new(4).expect("four")).expect("founded");
    for round in 0..15_u8 {
        let mut batch = pen.batch(if round % 4 == 3 { 0 } else { u64::from(round) + 1 });
        let id = Uuid::from_u128(round.into());
        batch.records = vec![IdempotencyRecord {
            key: RecordKey([round; 16]),
            fingerprint: [1; 16],
            position: 1,
            recorded_at: 1,
            answer: vec![round; 100].into(),
        }];
        batch.owed = vec![OwedEffect { id, effect: "{}".into() }];
        batch.settled = vec![Uuid::from_u128(u128::from(round / 2))];
        batch.timers = vec![Timer {
            id,
            due: round.into(),
            command: "{}".into(),
        }];
        batch.parked = vec![Parked {
            id,
            at: round.into(),
            input: "{}".into(),
            reason: "it panicked".into(),
        }];
        if let Some(last) = batch.events.last() {
            batch.snapshots = vec![Snapshot {
                stream: last.stream.clone(),
                sequence: last.sequence,
                shape: [9; 32],
                state: format!("{round}").into_bytes().into(),
            }];
        }
        batch.orders_numbered = round.into();
        pen.commit(&batch).expect("written");
        if round == 7 {
            pen = Pen::take(&place.store("b"));
        }
    }
    let as_written = everything(&*pen.reader);
    let rebuilt = place.store("c");
    assert_eq!(everything(&*rebuilt.reader().expect("a reader")), as_written);
    drop(rebuilt);
    let again = place.store("c");
    assert_eq!(
        everything(&*again.reader().expect("a reader")),
        as_written,
        "opened again it is the same"
    );
    assert!(!as_written.contains(crate::log::INDEX_KIND));
}

#[test]
fn an_index_that_was_left_between_a_take_and_its_mark_goes_on() {
    let place = Memory::new(LARGEST_APPEND);
    let mut pen = Pen::take(&place.store("a"));
    pen.write(2);
    let id = pen.head.log_id;
    {
        let index = SqliteStore::create(&place.index("b").join(id.to_string()), id).expect("an index");
        index.writer().and_then(|mut writer| writer.take(0, Uuid::nil(), 0)).expect("taken");
    }
    let reader = place.store("b").reader().expect("a reader");
    assert_eq!(everything(&*reader), everything(&*pen.reader));
}

#[test]
fn a_server_that_lost_what_it_acknowledged_is_found_out() {
    let place = Memory::new(LARGEST_APPEND);
    {
        let mut pen = Pen::take(&place.store("a"));
        pen.write(2);
        pen.write(2);
    }
    place.server.lose("jangbu-shard-0", 3);
    let lost = place.store("a").reader().expect("a reader").head(0);
    assert!(matches!(&lost, Err(StoreError::Corrupt(text)) if text.contains("lost")), "{lost:?}");
    // Something else in its place is no better.
    let mut other = Pen::take(&place.store("b"));
    other.write(1);
    let lost = place.store("a").reader().expect("a reader").head(0);
    assert!(matches!(&lost, Err(StoreError::Corrupt(text)) if text.contains("lost")), "{lost:?}");
    assert_eq!(other.position(), 3);
}

#[test]
fn what_somebody_else_appends_does_not_stop_the_shop() {
    let place = Memory::new(LARGEST_APPEND);
    let mut pen = Pen::take(&place.store("a"));
    pen.write(1);
    for _ in 0..2 {
        let strange = Append {
            stream: "jangbu-shard-0".into(),
            expected: Expected::Anywhere,
            entries: vec![Entry::own("somebody", &1)],
        };
        place.server.append(strange).expect("written");
        pen.write(2);
    }
    assert_eq!(verify_chain(&*pen.reader, 0).expect("sound"), 5);
    let rebuilt = place.store("b").reader().expect("a reader");
    assert_eq!(verify_chain(&*rebuilt, 0).expect("sound"), 5);
}

#[test]
fn a_batch_that_contradicts_the_stream_is_damage_and_says_where() {
    let place = Memory::new(LARGEST_APPEND);
    let mut pen = Pen::take(&place.store("a"));
    pen.write(1);
    // Somebody appends a copy of what stands there.
    let copy = place.shard()[1..].to_vec();
    let append = Append {
        stream: "jangbu-shard-0".into(),
        expected: Expected::Anywhere,
        entries: copy,
    };
    place.server.append(append).expect("written");
    let read = pen.reader.head(0);
    assert!(
        matches!(&read, Err(StoreError::Corrupt(text)) if text.contains("jangbu-shard-0: the batch at revision 4")),
        "{read:?}"
    );
}

#[test]
fn a_server_that_takes_smaller_appends_says_so() {
    let place = Memory {
        server: Arc::new(Double::with(2_000, |_| None)),
        ..Memory::new(LARGEST_APPEND)
    };
    let mut pen = Pen::take(&place.store("a"));
    let batch = pen.batch(20);
    let refused = pen.commit(&batch);
    assert!(
        matches!(&refused, Err(CommitError::Refused(text)) if text.contains("Maximum Append Size")),
        "{refused:?}"
    );
    pen.write(1);
}

#[test]
fn when_one_of_several_shards_fails_the_heads_tell_what_was_written() {
    let place = Memory::new(LARGEST_APPEND);
    let store = place.store("a");
    let mut writer = store.writer().expect("a writer");
    let batches: Vec<_> = (0..3)
        .map(|shard| {
            let head = writer.take(shard, Uuid::nil(), 0).expect("free");
            let mut batch = Pen {
                writer: store.writer().expect("a writer"),
                reader: store.reader().expect("a reader"),
                head,
            }
            .batch(1);
            batch.shard = shard;
            batch.events[0].shard = shard;
            batch.events[0].stream.id = Uuid::from_u128(u128::from(shard) + 1);
            batch.hash = batch_hash(&batch.previous_hash, &batch.events);
            batch
        })
        .collect();
    let together: Vec<_> = batches.iter().collect();
    place
        .server
        .now(|append| (append.stream == "jangbu-shard-1").then_some(Fault::NotSent));
    let failed = writer.commit(&together);
    assert!(matches!(failed, Err(CommitError::Unknown(_))), "{failed:?}");
    let reader = store.reader().expect("a reader");
    let heads = [0, 1, 2].map(|shard| reader.head(shard).expect("read").expect("a head").position);
    assert_eq!(heads, [1, 0, 1]);
    // Where nothing was written at all, that is what is said.
    let failed = writer.commit(&[&batches[1]]);
    assert!(matches!(failed, Err(CommitError::NotWritten(_))), "{failed:?}");
}

#[test]
fn old_heartbeats_are_let_go_of_and_those_of_others_do_not_count() {
    let place = Memory::new(LARGEST_APPEND);
    let mut writer = place.store("a").writer().expect("a writer");
    let (holder, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let head = writer.take(0, holder, 0).expect("free");
    for beat in 1..50 {
        writer.heartbeat(0, head.epoch, beat).expect("it holds");
    }
    assert!(place.server.stream("jangbu-shard-0-holder").len() <= 11);
    assert_eq!(names(&place.shard()), [TAKEN], "a heartbeat moves no revision of the shard");
    let mut second = place.store("b").writer().expect("a writer");
    let held = second.take(0, other, 10_000_048);
    assert!(matches!(held, Err(StoreError::Held { shard: 0, .. })), "{held:?}");
    second.take(0, other, 10_000_049).expect("the holder is silent");
}

#[test]
fn one_process_has_one_index_and_a_log_is_ours_or_not_opened() {
    let place = Memory::new(LARGEST_APPEND);
    let store = place.store("a");
    assert!(matches!(place.try_store("a"), Err(StoreError::Held { .. })));
    drop(store);
    for name in ["", "a-b", "$all", "장부"] {
        assert!(
            matches!(
                EsdbStore::open("esdb://localhost", name, &place.index("x")),
                Err(StoreError::Foreign(_))
            ),
            "{name}"
        );
    }
    let strange = Append {
        stream: "other-log".into(),
        expected: Expected::Anywhere,
        entries: vec![Entry::own("somebody", &1)],
    };
    place.server.append(strange).expect("written");
    let refused = EsdbStore::on(
        Arc::clone(&place.server) as Arc<dyn Server>,
        "other",
        &place.index("y"),
        LARGEST_APPEND,
    );
    assert!(matches!(refused, Err(StoreError::Foreign(_))));
}

#[test]
fn a_log_is_made_once_whatever_answers_are_lost() {
    for fault in [Fault::AnswerLost, Fault::Late, Fault::VeryLate, Fault::Lost] {
        let place = Memory::new(LARGEST_APPEND);
        place.server.once(fault);
        let ids: BTreeSet<_> = ["a", "b", "c"].map(|index| Pen::take(&place.store(index)).head.log_id).into();
        assert_eq!(ids.len(), 1, "{fault:?}");
        let counts: BTreeSet<_> = [4, 2, 1]
            .map(|count| {
                place.server.once(fault);
                let mut writer = place.store("d").writer().expect("a writer");
                writer.found(Shards::new(count).expect("a few")).expect("founded").count()
            })
            .into();
        assert_eq!(counts, BTreeSet::from([4]), "{fault:?}");
    }
}

#[test]
fn the_projection_reads_what_is_written() {
    assert!(LINKS.contains(&format!("'{BATCH}'")));
    assert!(crate::links("shop_2").contains("fromCategory('shop_2')"));
    let place = Memory::new(LARGEST_APPEND);
    let mut pen = Pen::take(&place.store("a"));
    pen.write(1);
    let about: serde_json::Value = serde_json::from_slice(&place.shard()[1].metadata).expect("JSON");
    for name in ["batch", "kind", "id"] {
        assert!(about[name].is_string() && LINKS.contains(&format!("about.{name}")), "{name}");
    }
}

#[test]
fn a_checkpoint_step_whose_answer_is_lost_is_found_where_it_stands() {
    let memory = Memory::new(LARGEST_APPEND);
    let store = memory.open();
    let mut checkpoints = store.checkpoints().expect("checkpoints");
    assert!(checkpoints.advance("relay", 0, 0, 1).expect("moved"));
    memory.server.once(Fault::AnswerLost);
    checkpoints.advance("relay", 0, 1, 2).expect_err("no answer");
    for fault in [Fault::NotSent, Fault::Lost] {
        memory.server.once(fault);
        checkpoints.advance("relay", 0, 2, 3).expect_err("no answer");
        assert_eq!(checkpoints.read("relay").expect("read"), [(0, 2)], "{fault:?}");
    }
    memory.server.once(Fault::Late);
    checkpoints.advance("relay", 0, 2, 3).expect_err("no answer in time");
    assert!(
        !checkpoints.advance("relay", 0, 2, 9).expect("asked"),
        "the late one was there first"
    );
    assert_eq!(checkpoints.read("relay").expect("read"), [(0, 3)]);
    for position in 3..40 {
        assert!(checkpoints.advance("relay", 0, position, position + 1).expect("moved"));
    }
    assert!(
        memory.server.stream("jangbu-checkpoint-relay").len() <= 11,
        "old ones are let go of"
    );
    assert!(checkpoints.read("a reader").is_err(), "that is no name");
}

#[test]
fn a_log_that_is_made_for_a_copy_has_its_id() {
    let place = Memory::new(LARGEST_APPEND);
    let original = MemoryStore::default();
    let mut writer = original.writer().expect("a writer");
    writer.found(Shards::ONE).expect("fixed");
    let mut head = writer.take(0, Uuid::nil(), 1).expect("the shard");
    let log_id = head.log_id;
    for turn in 0..4 {
        if turn == 2 {
            head = writer.take(0, Uuid::nil(), 1).expect("its own");
        }
        let first = 3 * turn + 1;
        let events: Vec<_> = (first..first + 3).map(|position| event(position, "{}")).collect();
        let hash = batch_hash(&head.hash, &events);
        let batch = Batch {
            epoch: head.epoch,
            first_position: first,
            events,
            previous_hash: head.hash,
            hash,
            owed: vec![OwedEffect {
                id: Uuid::from_u128(u128::from(turn)),
                effect: "{}".into(),
            }],
            records: vec![IdempotencyRecord {
                key: RecordKey([u8::try_from(turn).expect("few"); 16]),
                fingerprint: [1; 16],
                position: first,
                recorded_at: 1,
                answer: [1].into(),
            }],
            ..Batch::default()
        };
        writer.commit(&[&batch]).expect("written");
        head.hash = hash;
    }
    let how = Copying {
        instance: Uuid::nil(),
        now: 1,
    };
    let made = |name: &str, index: &str| {
        let server = Arc::clone(&place.server) as Arc<dyn Server>;
        EsdbStore::made_as(server, name, &place.index(index), LARGEST_APPEND, log_id)
    };
    let log = original.reader().expect("a reader");
    let store = made("copied", "a").expect("made");
    copy(log.as_ref(), store.writer().expect("a writer").as_mut(), how, &mut |_| {}).expect("copied");
    let head = store.reader().expect("a reader").head(0).expect("read").expect("a head");
    assert_eq!(head.log_id, log_id);
    // One that was made before has another id, and keeps it.
    let other = place.store("b");
    let refused = copy(log.as_ref(), other.writer().expect("a writer").as_mut(), how, &mut |_| {});
    assert!(matches!(refused, Err(CopyError::Store(StoreError::Foreign(_)))), "{refused:?}");
    drop(other);
    assert!(matches!(made("jangbu", "b"), Err(StoreError::Foreign(_))));

    // A copy of another name that is interrupted is kept from everybody else, until it is complete and given away.
    let store = made("moved", "c").expect("made");
    let take = |now| store.writer().expect("a writer").take(0, Uuid::from_u128(9), now);
    // After the first events, after the last ones, and never.
    for stop in [6, 12, 99] {
        let mut copy = LogCopy::begin(log.as_ref(), &store, how).expect("begun, or gone on with");
        let copied = copy.copy(&mut |copied| {
            if copied >= stop {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert_eq!(copied.is_err(), stop < 99, "{copied:?}");
        assert!(matches!(take(5_000_000_000_000_000), Err(StoreError::Held { .. })));
    }
    assert_eq!(
        check_copy(log.as_ref(), store.reader().expect("a reader").as_ref()).expect("the same"),
        12
    );
    let (copied, all) = (store.reader().expect("a reader"), 99);
    assert_eq!(copied.events(0, 0, all).expect("read"), log.events(0, 0, all).expect("read"));
    assert_eq!(copied.unfinished(0).expect("read"), log.unfinished(0).expect("read"));
    assert_eq!(copied.records(None, all).expect("read"), log.records(None, all).expect("read"));
    let how = Copying {
        now: 1_000_000_000_000,
        ..how
    };
    give_away(log.as_ref(), &store, how).expect("given away");
    take(how.now).expect("free");
}
