//! A file that somebody changed with any tool: whatever was changed is found, and where.

mod world;

use std::path::Path;

use event_store::EventStore;
use event_store_sqlite::SqliteStore;
use rusqlite::{Connection, types::Value};
use verify::{Options, Report, verify_log};
use world::{Dice, World};

struct Lived {
    scratch: tempfile::TempDir,
    head: u64,
    now: i64,
}

fn live() -> Lived {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    let store = SqliteStore::open(&data).expect("a log");
    let mut world = World::open(&store);
    world.live();
    let (head, now) = (world.head(), world.clock);
    drop(world);
    drop(store);
    let log = Connection::open(data.join("log.db")).expect("the log");
    log.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .expect("in one file");
    drop_triggers(&log);
    Lived { scratch, head, now }
}

fn drop_triggers(log: &Connection) {
    let names: Vec<String> = log
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
        .and_then(|mut names| names.query_map([], |row| row.get(0))?.collect())
        .expect("names");
    for name in names {
        log.execute_batch(&format!("DROP TRIGGER {name}")).expect("dropped");
    }
}

impl Lived {
    /// What is found once this was done to a copy of the file.
    fn tampered<T>(&self, tamper: impl FnOnce(&Connection) -> T) -> Report {
        let copy = tempfile::tempdir_in(self.scratch.path()).expect("a scratch directory");
        std::fs::copy(self.scratch.path().join("data/log.db"), copy.path().join("log.db")).expect("copied");
        let log = Connection::open(copy.path().join("log.db")).expect("the log");
        log.execute_batch("PRAGMA synchronous = OFF; PRAGMA ignore_check_constraints = ON")
            .expect("set");
        tamper(&log);
        log.close().expect("closed");
        self.verified(copy.path())
    }

    fn verified(&self, data: &Path) -> Report {
        let store = SqliteStore::open_to_examine(data).expect("a log");
        let options = Options {
            now: Some(self.now),
            keep: 10_000,
            ..Options::default()
        };
        verify_log(store.reader().expect("a reader").as_ref(), &options).expect("read")
    }
}

/// The value with one byte changed.
fn one_byte(value: Value, dice: &mut Dice) -> Value {
    let flip = |mut bytes: Vec<u8>, dice: &mut Dice| {
        if bytes.is_empty() {
            return vec![b'x'];
        }
        let at = usize::try_from(dice.roll(bytes.len() as u64)).expect("small");
        bytes[at] ^= 1 << dice.roll(7);
        bytes
    };
    match value {
        Value::Integer(number) => Value::Integer(number ^ 1 << dice.roll(40)),
        Value::Text(text) => {
            let changed = flip(text.into_bytes(), dice);
            Value::Text(String::from_utf8_lossy(&changed).into_owned())
        }
        Value::Blob(bytes) => Value::Blob(flip(bytes, dice)),
        other => other,
    }
}

/// Changes one byte in one column of the row at this position.
fn change(log: &Connection, table: &str, place: &str, position: u64, column: &str, dice: &mut Dice) {
    let value: Value = log
        .query_row(&format!("SELECT {column} FROM {table} WHERE {place} = ?1"), [position], |row| {
            row.get(0)
        })
        .expect("the row");
    // Another row may have the value that this one gets; then another byte is changed.
    for _ in 0..20 {
        let changed = one_byte(value.clone(), dice);
        if changed != value
            && log
                .execute(
                    &format!("UPDATE {table} SET {column} = ?2 WHERE {place} = ?1"),
                    rusqlite::params![position, changed],
                )
                .is_ok()
        {
            return;
        }
    }
    panic!("{table}.{column} of {position} cannot be changed");
}

fn names(report: &Report, position: u64) -> bool {
    report.findings.iter().any(|finding| finding.place.names(position))
}

#[test]
fn a_file_that_nobody_changed_is_sound() {
    let lived = live();
    assert_eq!(lived.tampered(|_| ()).findings, []);
}

#[test]
fn one_byte_in_any_column_of_any_event_is_found_at_its_position() {
    let lived = live();
    let columns = [
        "shard",
        "position",
        "aggregate_type",
        "aggregate_id",
        "sequence",
        "event_id",
        "event_type",
        "event_version",
        "recorded_at",
        "payload",
        "metadata",
    ];
    for column in columns {
        let mut dice = Dice(column.len() as u64);
        for _ in 0..12 {
            let position = 1 + dice.roll(lived.head);
            let report = lived.tampered(|log| change(log, "events", "position", position, column, &mut dice));
            assert!(names(&report, position), "{column} of {position}: {:#?}", report.findings);
        }
    }
}

#[test]
fn upper_case_in_an_id_is_a_change_too() {
    let lived = live();
    for column in ["aggregate_id", "event_id"] {
        let mut position = 0;
        let report = lived.tampered(|log| {
            let letters = format!("SELECT min(position) FROM events WHERE {column} <> upper({column}) AND position > 20");
            position = log.query_row(&letters, [], |row| row.get(0)).expect("an id with letters");
            let changed = log.execute(
                &format!("UPDATE events SET {column} = upper({column}) WHERE position = ?1"),
                [position],
            );
            assert_eq!(changed.expect("changed"), 1);
        });
        assert!(names(&report, position), "{column} of {position}: {:#?}", report.findings);
    }
}

#[test]
fn an_event_that_is_dropped_is_found_also_when_the_rest_moves_up() {
    let lived = live();
    let mut dice = Dice(2);
    for _ in 0..15 {
        let position = 1 + dice.roll(lived.head - 1);
        let dropped = lived.tampered(|log| log.execute("DELETE FROM events WHERE position = ?1", [position]).expect("dropped"));
        assert!(names(&dropped, position), "{position}: {:#?}", dropped.findings);
        let closed = lived.tampered(|log| {
            log.execute("DELETE FROM events WHERE position = ?1", [position]).expect("dropped");
            log.execute("UPDATE events SET position = -position WHERE position > ?1", [position])
                .expect("moved");
            log.execute("UPDATE events SET position = -position - 1 WHERE position < 0", [])
                .expect("moved");
            log.execute_batch(
                "UPDATE log_head SET position = position - 1, written = written - 1;
                 UPDATE batches SET last_position = (SELECT position FROM log_head) WHERE last_position > (SELECT position FROM log_head);",
            )
            .expect("patched");
        });
        assert!(names(&closed, position), "{position}: {:#?}", closed.findings);
    }
}

#[test]
fn two_events_that_are_swapped_are_found() {
    let lived = live();
    let mut dice = Dice(3);
    for _ in 0..15 {
        let (one, other) = (1 + dice.roll(lived.head), 1 + dice.roll(lived.head));
        if one == other {
            continue;
        }
        let report = lived.tampered(|log| {
            for (from, to) in [(one, 1_000_000), (other, one), (1_000_000, other)] {
                log.execute("UPDATE events SET position = ?2 WHERE position = ?1", [from, to])
                    .expect("moved");
            }
        });
        assert!(
            names(&report, one) && names(&report, other),
            "{one} and {other}: {:#?}",
            report.findings
        );
    }
}

#[test]
fn an_event_that_is_added_is_found_wherever_it_stands() {
    let lived = live();
    let add = |log: &Connection, shard: i64, position: i64| {
        let added = log.execute(
            "INSERT INTO events SELECT ?1, ?2, aggregate_type, '00000000-0000-4000-8000-000000000001', 1, '00000000-0000-4000-8000-000000000002',
             event_type, event_version, recorded_at, payload, metadata FROM events WHERE shard = 0 AND position = 9",
            [shard, position],
        );
        assert_eq!(added.expect("added"), 1);
    };
    let head = i64::try_from(lived.head).expect("small");
    for (shard, position) in [(0, head + 1), (0, head + 50), (0, 0), (0, -3), (3, 1), (-1, 5), (70_000, 5)] {
        let report = lived.tampered(|log| add(log, shard, position));
        assert!(
            report
                .findings
                .iter()
                .any(|finding| finding.what.contains("no writer puts one") || finding.what.contains("behind the head")),
            "{shard}/{position}: {:#?}",
            report.findings
        );
        if let (true, Ok(position)) = (shard == 0, u64::try_from(position)) {
            assert!(names(&report, position), "{shard}/{position}: {:#?}", report.findings);
        }
    }
    // In the midst, the rest moved up by one.
    let mut dice = Dice(4);
    for _ in 0..10 {
        let position = 10 + i64::try_from(dice.roll(lived.head - 10)).expect("small");
        let report = lived.tampered(|log| {
            log.execute("UPDATE events SET position = -position WHERE position >= ?1", [position])
                .expect("moved");
            log.execute("UPDATE events SET position = -position + 1 WHERE position < 0", [])
                .expect("moved");
            add(log, 0, position);
            log.execute_batch("UPDATE log_head SET position = position + 1, written = written + 1")
                .expect("patched");
            log.execute(
                "UPDATE batches SET last_position = (SELECT position FROM log_head) WHERE last_position = ?1",
                [head],
            )
            .expect("patched");
        });
        assert!(
            names(&report, u64::try_from(position).expect("positive")),
            "{position}: {:#?}",
            report.findings
        );
    }
}

#[test]
fn one_byte_in_any_column_of_any_batch_or_head_is_found() {
    let lived = live();
    let lasts: Vec<u64> = {
        let log = Connection::open(lived.scratch.path().join("data/log.db")).expect("the log");
        log.prepare("SELECT last_position FROM batches ORDER BY 1")
            .and_then(|mut lasts| lasts.query_map([], |row| row.get(0))?.collect())
            .expect("batches")
    };
    for column in ["shard", "last_position", "previous_hash", "hash", "epoch"] {
        let mut dice = Dice(column.len() as u64);
        for _ in 0..8 {
            let last = lasts[usize::try_from(dice.roll(lasts.len() as u64)).expect("small")];
            let report = lived.tampered(|log| change(log, "batches", "last_position", last, column, &mut dice));
            assert!(names(&report, last), "{column} of {last}: {:#?}", report.findings);
        }
    }
    for (column, words) in [
        ("position", ""),
        ("epoch", "epoch"),
        ("hash", "the head's hash"),
        ("recorded_at", "recorded at"),
        ("orders_numbered", "has numbered"),
    ] {
        let report = lived.tampered(|log| {
            let change = match column {
                "hash" => "UPDATE log_head SET hash = x'00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff'".to_owned(),
                _ => format!("UPDATE log_head SET {column} = {column} - 1"),
            };
            log.execute(&change, []).expect("changed");
        });
        assert!(
            report.findings.iter().any(|finding| finding.what.contains(words)),
            "{column}: {:#?}",
            report.findings
        );
    }
    let report = lived.tampered(|log| drop(log.execute("UPDATE log SET log_id = '00000000-0000-4000-8000-000000000001'", [])));
    assert!(report.found > lived.head, "every id is of another log");
}

#[test]
fn a_tail_that_is_cut_is_found_also_when_batches_go_with_it() {
    let lived = live();
    let head = lived.head;
    let cut = lived.tampered(|log| log.execute("DELETE FROM events WHERE position > ?1", [head - 5]).expect("cut"));
    assert!(names(&cut, head) && names(&cut, head - 4), "{:#?}", cut.findings);
    let clean = lived.tampered(|log| {
        log.execute_batch(
            "DELETE FROM events WHERE position > (SELECT max(last_position) FROM batches WHERE last_position < (SELECT max(last_position) FROM batches));
             DELETE FROM batches WHERE last_position = (SELECT max(last_position) FROM batches);",
        )
        .expect("cut");
    });
    assert!(names(&clean, head), "{:#?}", clean.findings);
    // With the head too: what the other tables know of it.
    let all = lived.tampered(|log| {
        log.execute_batch(
            "DELETE FROM events WHERE position > 40; DELETE FROM batches WHERE last_position > 40;
             UPDATE log_head SET position = (SELECT max(position) FROM events), written = (SELECT max(position) FROM events),
             hash = (SELECT hash FROM batches ORDER BY last_position DESC LIMIT 1), recorded_at = (SELECT max(recorded_at) FROM events);",
        )
        .expect("cut");
    });
    assert!(!all.is_sound());
}

#[test]
fn what_cannot_be_read_at_all_is_a_finding_at_its_position() {
    let lived = live();
    for change in [
        "UPDATE events SET event_id = 'nobody' WHERE position = 30",
        "UPDATE events SET payload = CAST(x'ff' AS TEXT) WHERE position = 30",
        "UPDATE events SET recorded_at = 0, payload = '' WHERE position = 30",
        "UPDATE events SET sequence = -1 WHERE position = 30",
        "UPDATE events SET payload = '[' WHERE position = 30",
        "UPDATE events SET metadata = '[]' WHERE position = 30",
    ] {
        let report = lived.tampered(|log| log.execute(change, []).expect("changed"));
        assert!(names(&report, 30), "{change}: {:#?}", report.findings);
        // The rest is read all the same.
        assert!(report.counts.events + 1 >= lived.head, "{:?}", report.counts);
    }
    for change in [
        "UPDATE batches SET hash = x'00' WHERE last_position = (SELECT min(last_position) FROM batches)",
        "UPDATE log_head SET hash = x'00'",
        "UPDATE log_head SET position = -1",
        "UPDATE idempotency SET answer = x'00' WHERE id = 3",
        "UPDATE idempotency SET key = x'00' WHERE id = 3",
        "UPDATE timers SET id = x'00' WHERE id = (SELECT min(id) FROM timers)",
        "UPDATE timers SET command = '' ",
        "DELETE FROM idempotency WHERE id = 3",
        "DELETE FROM timers",
        "DELETE FROM batches",
        "DELETE FROM log_head",
        "DELETE FROM log",
    ] {
        let report = lived.tampered(|log| log.execute(change, []).expect("changed"));
        assert!(!report.is_sound(), "{change}");
    }
}
