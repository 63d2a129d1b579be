//! What is particular to a log in a file: files that are none, disks that are full, copies.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use event_store::{Batch, CommitError, Event, EventStore, Head, KEPT, LogWriter, Shards, StoreError, StreamId, batch_hash, verify_chain};
use event_store_sqlite::SqliteStore;
use rusqlite::Connection;
use tempfile::TempDir;
use uuid::Uuid;

#[test]
fn a_log_is_made_where_there_is_none() {
    let scratch = scratch();
    let data = scratch.path().join("new/data");
    let head = write(&SqliteStore::open(&data).expect("made"), 3);
    assert_eq!(SqliteStore::open(&data).expect("opened").integrity().expect("sound"), 3);
    let reader = SqliteStore::open_read_only(&data).expect("opened").reader().expect("a reader");
    assert_eq!(reader.head(0).expect("read").expect("a head").log_id, head.log_id);

    let rows = Connection::open(data.join("log.db")).expect("any tool opens it");
    let ordinary: bool = rows
        .query_row(
            "SELECT json_extract(payload, '$.n') = position AND aggregate_id = ?1 AND typeof(recorded_at) = 'integer' FROM events WHERE shard = 0 AND position = 2",
            [Uuid::from_u128(2).to_string()],
            |row| row.get(0),
        )
        .expect("analysts read it with SQL");
    assert!(ordinary);
}

#[test]
fn a_log_of_format_1_is_upgraded_with_what_it_has_set_aside() {
    let scratch = scratch();
    write(&SqliteStore::open(scratch.path()).expect("made"), 3);
    sql(
        &scratch.path().join("log.db"),
        "DROP INDEX parked_by_age;
         ALTER TABLE parked DROP COLUMN ended_at;
         ALTER TABLE parked DROP COLUMN ended_by;
         ALTER TABLE parked DROP COLUMN ended_how;
         CREATE INDEX parked_by_age ON parked (shard, at, id);
         INSERT INTO parked VALUES (0, zeroblob(16), 7, '{}', 'why');
         ALTER TABLE log DROP COLUMN shards;
         DROP TABLE checkpoints;
         PRAGMA user_version = 1",
    );
    let line = SqliteStore::open_read_only(scratch.path()).expect_err("too old").to_string();
    assert!(line.contains("older format 1; `jangbu migrate` upgrades it to 4"), "{line}");
    let store = SqliteStore::open(scratch.path()).expect("upgraded");
    let reader = store.reader().expect("a reader");
    assert_eq!(reader.parked(0, 10).expect("read").len(), 1);
    assert!(reader.parked_input(0, Uuid::nil()).expect("read").is_some());
    assert_eq!(reader.shard_count().expect("read"), Some(Shards::ONE), "older logs have one");
    assert_eq!(store.integrity().expect("sound"), 3);
    assert!(store.checkpoints().expect("checkpoints").read("relay").expect("read").is_empty());
}

#[test]
fn a_log_of_format_3_is_upgraded_and_keeps_its_shards() {
    let scratch = scratch();
    let store = SqliteStore::open(scratch.path()).expect("made");
    let four = Shards::new(4).expect("so many");
    store.writer().expect("a writer").found(four).expect("fixed");
    write(&store, 3);
    drop(store);
    sql(&scratch.path().join("log.db"), "DROP TABLE checkpoints; PRAGMA user_version = 3");
    let line = SqliteStore::open_read_only(scratch.path()).expect_err("too old").to_string();
    assert!(line.contains("older format 3; `jangbu migrate` upgrades it to 4"), "{line}");
    let store = SqliteStore::open(scratch.path()).expect("upgraded");
    assert_eq!(store.reader().expect("a reader").shard_count().expect("read"), Some(four));
    assert!(store.checkpoints().expect("checkpoints").advance("relay", 3, 0, 1).expect("moved"));
    assert_eq!(store.integrity().expect("sound"), 3);
    drop(store);
    let mut found = SqliteStore::open(scratch.path())
        .expect("opened")
        .checkpoints()
        .expect("checkpoints");
    assert_eq!(found.read("relay").expect("read"), [(3, 1)]);
}

#[test]
fn who_only_reads_a_log_keeps_no_checkpoints_in_it() {
    let scratch = scratch();
    write(&SqliteStore::open(scratch.path()).expect("made"), 1);
    let reading = SqliteStore::open_read_only(scratch.path()).expect("opened");
    let refused = reading.checkpoints().map(drop).expect_err("refused");
    assert!(refused.to_string().contains("reading only"), "{refused}");
}

#[test]
fn a_log_has_its_journal_mode_before_it_has_its_name() {
    let scratch = scratch();
    let data = scratch.path().join("data");
    fs::create_dir_all(&data).expect("made");
    for rest in ["log.db.new", "log.db.new-journal", "log.db.new-wal"] {
        fs::write(data.join(rest), "left over by a crash").expect("write");
    }
    write(&SqliteStore::open(&data).expect("made"), 3);
    let copy = scratch.path().join("copy");
    let restored = scratch.path().join("restored");
    SqliteStore::backup(&data, &copy).expect("copied");
    SqliteStore::restore(&copy, &restored).expect("restored");
    // Bytes 18 and 19 of the header: 2 is the write-ahead log, 1 a rollback journal (sqlite.org/fileformat2.html).
    let modes = |directory: &Path| fs::read(directory.join("log.db")).expect("read")[18..20].to_vec();
    assert_eq!((modes(&data), modes(&restored)), (vec![2, 2], vec![2, 2]));
    assert_eq!(modes(&copy), [1, 1], "a backup is one file");
    let left: Vec<_> = fs::read_dir(&restored)
        .expect("read")
        .map(|entry| entry.expect("read").file_name())
        .collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("journal")), "{left:?}");
}

/// A name, what makes the file, what the refusal says.
type Case<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);

#[test]
fn files_that_are_no_log_are_refused_in_one_line_that_names_them() {
    let cases: [Case<'_>; 8] = [
        (
            "text",
            &|log| fs::write(log, "dear diary\n".repeat(1000)).expect("write"),
            "is not a SQLite file",
        ),
        ("empty", &|log| fs::write(log, "").expect("write"), "cut off"),
        ("a directory", &|log| fs::create_dir(log).expect("made"), "cannot be used"),
        (
            "foreign",
            &|log| sql(log, "CREATE TABLE recipes (name)"),
            "belongs to another program",
        ),
        ("newer", &|log| ours(log, "PRAGMA user_version = 5"), "newer format 5"),
        (
            "without a format",
            &|log| ours(log, "PRAGMA user_version = 0"),
            "format number is missing",
        ),
        ("cut", &|log| cut(log), "malformed"),
        (
            "only a write-ahead log",
            &|log| fs::write(log.with_extension("db-wal"), "x").expect("write"),
            "is missing",
        ),
    ];
    for (name, make, says) in cases {
        let scratch = scratch();
        let log = scratch.path().join("log.db");
        make(&log);
        for refused in [SqliteStore::open(scratch.path()), SqliteStore::open_read_only(scratch.path())] {
            let error = refused.expect_err(name);
            let line = error.to_string();
            assert!(
                matches!(error, StoreError::Foreign(_) | StoreError::Corrupt(_)),
                "{name}: {error:?}"
            );
            assert!(
                line.contains(says) && line.contains("log.db") && !line.contains('\n') && line.contains("; "),
                "{name}: {line}"
            );
        }
    }
}

#[test]
fn a_log_whose_end_is_cut_off_is_refused() {
    for tamper in [
        "UPDATE log_head SET position = 2",
        "UPDATE log_head SET hash = zeroblob(32)",
        "DROP TRIGGER events_are_not_deleted; DELETE FROM events WHERE position = 3",
        "DROP TRIGGER batches_are_not_deleted; DELETE FROM batches",
        "DROP TABLE timers",
    ] {
        let scratch = scratch();
        write(&SqliteStore::open(scratch.path()).expect("made"), 3);
        sql(&scratch.path().join("log.db"), tamper);
        let refused = SqliteStore::open(scratch.path());
        assert!(
            matches!(&refused, Err(StoreError::Corrupt(line)) if line.contains("log.db")),
            "{tamper}: {refused:?}"
        );
    }
}

#[test]
fn a_change_in_the_middle_is_found_by_the_full_check() {
    let scratch = scratch();
    write(&SqliteStore::open(scratch.path()).expect("made"), 9);
    sql(
        &scratch.path().join("log.db"),
        "DROP TRIGGER events_are_not_updated; UPDATE events SET payload = '{}' WHERE position = 4",
    );
    let store = SqliteStore::open(scratch.path()).expect("the end is sound");
    assert!(matches!(store.integrity(), Err(StoreError::Corrupt(_))));
}

#[test]
fn a_directory_that_cannot_be_used_is_refused() {
    let scratch = scratch();
    let file = scratch.path().join("file");
    fs::write(&file, "").expect("write");
    assert!(matches!(SqliteStore::open(&file), Err(StoreError::Foreign(line)) if line.contains("file")));
    let missing = SqliteStore::open_read_only(scratch.path());
    assert!(matches!(missing, Err(StoreError::Foreign(line)) if line.contains("does not exist")));
    assert!(!scratch.path().join("log.db").exists(), "a reader makes nothing");
}

#[test]
fn a_data_directory_has_one_process_that_writes() {
    let scratch = scratch();
    let store = SqliteStore::open(scratch.path()).expect("free");
    let us = format!("process {}", std::process::id());
    assert!(matches!(SqliteStore::open(scratch.path()), Err(StoreError::Held { holder, .. }) if holder == us));
    SqliteStore::open_read_only(scratch.path()).expect("readers may");

    let writer = store.writer().expect("a writer");
    drop(store);
    assert!(SqliteStore::open(scratch.path()).is_err(), "a writer of it is still there");
    drop(writer);
    SqliteStore::open(scratch.path()).expect("free again");
}

/// Run by the next test as a process of its own; does nothing otherwise.
#[test]
fn holds_a_directory_when_told_to() {
    if let Ok(data) = std::env::var("HOLD_THIS_DIRECTORY") {
        let store = SqliteStore::open(Path::new(&data)).expect("free");
        write(&store, 5);
        fs::write(Path::new(&data).join("held"), "").expect("write");
        thread::sleep(Duration::from_mins(1));
    }
}

#[test]
fn a_killed_process_holds_nothing_and_leaves_what_it_committed() {
    let scratch = scratch();
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "holds_a_directory_when_told_to"])
        .env("HOLD_THIS_DIRECTORY", scratch.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("started");
    let started = Instant::now();
    while !scratch.path().join("held").exists() {
        assert!(started.elapsed() < Duration::from_secs(30), "the child does not hold the directory");
        thread::sleep(Duration::from_millis(10));
    }
    let other = format!("process {}", child.id());
    assert!(matches!(SqliteStore::open(scratch.path()), Err(StoreError::Held { holder, .. }) if holder == other));
    assert_eq!(
        SqliteStore::open_read_only(scratch.path())
            .expect("readers may")
            .integrity()
            .expect("sound"),
        5
    );

    child.kill().expect("killed");
    child.wait().expect("ended");
    assert_eq!(SqliteStore::open(scratch.path()).expect("free").integrity().expect("sound"), 5);
}

#[test]
fn a_reader_cannot_write() {
    let scratch = scratch();
    write(&SqliteStore::open(scratch.path()).expect("made"), 1);
    let store = SqliteStore::open_read_only(scratch.path()).expect("opened");
    assert!(matches!(store.writer().err(), Some(StoreError::Foreign(_))));
}

#[test]
fn a_log_that_is_busy_is_not_written_and_tried_again() {
    let scratch = scratch();
    let store = SqliteStore::open(scratch.path()).expect("made");
    let mut writer = store.writer().expect("a writer");
    let mut head = writer.take(0, Uuid::nil(), 0).expect("free");
    let other = Connection::open(store.path()).expect("opened");
    other.execute_batch("BEGIN IMMEDIATE").expect("nobody writes");
    let busy = writer.commit(&[&batch(&head, 1, "x")]);
    assert!(matches!(busy, Err(CommitError::NotWritten(_))), "{busy:?}");
    other.execute_batch("ROLLBACK").expect("let go");
    append(&mut *writer, &mut head, 1);
}

#[test]
fn numbers_that_the_log_cannot_hold_are_refused() {
    let scratch = scratch();
    let store = SqliteStore::open(scratch.path()).expect("made");
    let mut writer = store.writer().expect("a writer");
    let mut head = writer.take(0, Uuid::nil(), 0).expect("free");
    let mut huge = batch(&head, 1, "x");
    huge.events[0].sequence = u64::MAX;
    huge.hash = batch_hash(&huge.previous_hash, &huge.events);
    assert!(matches!(writer.commit(&[&huge]), Err(CommitError::Refused(_))));
    append(&mut *writer, &mut head, 1);
}

#[test]
fn a_backup_taken_while_events_are_appended_is_one_moment_of_the_log() {
    let scratch = scratch();
    let data = scratch.path().join("data");
    let store = SqliteStore::open(&data).expect("made");
    let done = AtomicBool::new(false);
    let mut backups = Vec::new();
    let last = thread::scope(|scope| {
        let appending = scope.spawn(|| {
            let mut writer = store.writer().expect("a writer");
            let mut head = writer.take(0, Uuid::from_u128(7), KEPT - 1).expect("free");
            while !done.load(Ordering::Relaxed) {
                append(&mut *writer, &mut head, 20);
            }
            head
        });
        while store
            .reader()
            .expect("a reader")
            .head(0)
            .expect("read")
            .is_none_or(|head| head.position < 100)
        {
            thread::sleep(Duration::from_millis(1));
        }
        for nth in 0..5 {
            let to = scratch.path().join(format!("backups/{nth}/log"));
            SqliteStore::backup(&data, &to).expect("copied");
            backups.push(to);
        }
        done.store(true, Ordering::Relaxed);
        appending.join().expect("the writer failed")
    });

    let mut sizes = Vec::new();
    for backup in &backups {
        assert_eq!(fs::read_dir(backup).expect("made").count(), 1, "one file, nothing beside it");
        let copy = SqliteStore::open_read_only(backup).expect("opened");
        sizes.push(copy.integrity().expect("sound"));
    }
    assert!(sizes.is_sorted() && sizes[0] >= 100 && sizes[4] <= last.position, "{sizes:?}");
    let again = SqliteStore::backup(&data, &backups[0]);
    assert!(matches!(again, Err(StoreError::Foreign(line)) if line.contains("not empty")));

    let restored = scratch.path().join("restored");
    SqliteStore::restore(&backups[4], &restored).expect("restored");
    let store = SqliteStore::open(&restored).expect("opened");
    let mut writer = store.writer().expect("a writer");
    let mut head = writer
        .take(0, Uuid::from_u128(8), 1)
        .expect("whoever held the first log does not hold this one");
    assert!(head.epoch > last.epoch && head.log_id == last.log_id && head.position == sizes[4]);
    append(&mut *writer, &mut head, 2);
    assert_eq!(verify_chain(&*store.reader().expect("a reader"), 0).expect("sound"), sizes[4] + 2);
}

#[test]
fn what_is_kept_from_everybody_is_kept_in_its_backup_too_and_the_rest_is_free() {
    let scratch = scratch();
    let (data, backup, restored) = (
        scratch.path().join("data"),
        scratch.path().join("backup"),
        scratch.path().join("restored"),
    );
    let store = SqliteStore::open(&data).expect("made");
    write(&store, 4);
    let (keeper, now) = (Uuid::from_u128(7), 5_000_000_000_000_000);
    let mut writer = store.writer().expect("a writer");
    writer.take(0, Uuid::from_u128(1), now).expect("free");
    assert_eq!(store.keeper().expect("read"), None, "one who lives keeps it from nobody for ever");
    writer.take(1, keeper, KEPT).expect("free");
    let kept = Some((1, format!("instance {keeper}")));
    assert_eq!(store.keeper().expect("read"), kept);

    SqliteStore::backup(&data, &backup).expect("copied");
    SqliteStore::restore(&backup, &restored).expect("restored");
    let store = SqliteStore::open(&restored).expect("opened");
    assert_eq!(store.keeper().expect("read"), kept);
    let mut writer = store.writer().expect("a writer");
    writer.take(0, Uuid::from_u128(2), now).expect("its holder holds the other log");
    let refused = writer.seize(1, Uuid::from_u128(2), now);
    assert!(matches!(refused, Err(StoreError::Held { shard: 1, .. })), "{refused:?}");
}

#[test]
fn a_restore_overwrites_nothing_and_takes_no_damaged_backup() {
    let scratch = scratch();
    let (data, backup) = (scratch.path().join("data"), scratch.path().join("backup"));
    write(&SqliteStore::open(&data).expect("made"), 4);
    SqliteStore::backup(&data, &backup).expect("copied");
    assert!(matches!(SqliteStore::restore(&backup, &data), Err(StoreError::Foreign(line)) if line.contains("exists")));

    sql(
        &backup.join("log.db"),
        "DROP TRIGGER events_are_not_updated; UPDATE events SET metadata = '{}' WHERE position = 2",
    );
    let fresh = scratch.path().join("fresh");
    assert!(matches!(SqliteStore::restore(&backup, &fresh), Err(StoreError::Corrupt(_))));
    assert!(!fresh.join("log.db").exists());
    assert!(matches!(
        SqliteStore::restore(&scratch.path().join("nowhere"), &fresh),
        Err(StoreError::Foreign(_))
    ));
}

#[test]
fn the_rest_of_a_log_that_was_never_finished_is_replaced() {
    let scratch = scratch();
    fs::write(scratch.path().join("log.db.new"), "half").expect("write");
    write(&SqliteStore::open(scratch.path()).expect("made"), 1);
    assert!(!scratch.path().join("log.db.new").exists());
}

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a scratch directory")
}

fn sql(log: &Path, statements: &str) {
    Connection::open(log)
        .and_then(|file| file.execute_batch(statements))
        .expect("the statements are right");
}

/// A log of ours that something was done to.
fn ours(log: &Path, statements: &str) {
    SqliteStore::open(log.parent().expect("in a directory")).expect("made");
    sql(log, statements);
}

/// A log whose file lost its second half.
fn cut(log: &Path) {
    write(&SqliteStore::open(log.parent().expect("in a directory")).expect("made"), 500);
    let file = fs::OpenOptions::new().write(true).open(log).expect("opened");
    file.set_len(file.metadata().expect("a file").len() / 2).expect("cut");
}

/// Takes shard 0 and appends this many events.
fn write(store: &SqliteStore, events: usize) -> Head {
    let mut writer = store.writer().expect("a writer");
    let mut head = writer.take(0, Uuid::nil(), 0).expect("free");
    append(&mut *writer, &mut head, events);
    head
}

fn append(writer: &mut dyn LogWriter, head: &mut Head, events: usize) {
    let batch = batch(head, events, "");
    writer.commit(&[&batch]).expect("written");
    head.position = batch.last_position();
    head.hash = batch.hash;
}

fn batch(head: &Head, events: usize, filling: &str) -> Batch {
    let first_position = head.position + 1;
    let events: Vec<_> = (first_position..)
        .take(events)
        .map(|position| Event {
            shard: 0,
            position,
            stream: StreamId::new("order", Uuid::from_u128(position.into())),
            sequence: 1,
            event_id: Uuid::from_u128(position.into()),
            event_type: "order.placed".into(),
            event_version: "1.0.0".into(),
            recorded_at: position.cast_signed(),
            payload: format!(r#"{{"n":{position},"filling":"{filling}"}}"#).into(),
            metadata: r#"{"actor":"buyer"}"#.into(),
        })
        .collect();
    let hash = batch_hash(&head.hash, &events);
    Batch {
        epoch: head.epoch,
        first_position,
        events,
        previous_hash: head.hash,
        hash,
        ..Batch::default()
    }
}
