//! The binary as a user runs it: on a shop's data directory, while it is written, on copies, and on files that are something else.

#[path = "../../verify/tests/world/mod.rs"]
mod world;

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use event_store::{EventStore, StoreError};
use event_store_sqlite::SqliteStore;
use projections::{Orders, Projection as _, Runner, RunnerHandle, RunnerSettings};
use projections_sqlite::SqliteViews;
use serde_json::Value;
use tempfile::TempDir;
use world::{Paid, World};

/// A shop's data directory: a log and its views, and a ledger that nothing was charged in.
struct Shop {
    scratch: TempDir,
}

impl Shop {
    fn new() -> Self {
        let shop = Self {
            scratch: tempfile::tempdir().expect("a scratch directory"),
        };
        let store = SqliteStore::open(&shop.data()).expect("a log");
        let views = follow(&shop.data(), &store);
        let mut world = World::open(&store);
        for number in 1..=5 {
            world.place(number, Paid::Balance, &[(0, 1), (3, 2)]);
            world.settle();
        }
        world.place(6, Paid::Balance, &[(0, 50)]);
        world.place(7, Paid::Card(Some("declined")), &[(0, 1)]);
        world.settle();
        wait_for(&views, world.head());
        views.stop();
        drop((world, store));
        assert!(!shop.data().join("log.db-wal").exists(), "the log is in one file");
        shop
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn replay(&self, arguments: &[&str]) -> Output {
        replay(&self.data(), arguments)
    }

    /// Writes these bytes into a file of the directory.
    fn write(&self, file: &str, at: u64, bytes: &[u8]) {
        let file = fs::File::options().write(true).open(self.data().join(file)).expect("the file");
        file.write_all_at(bytes, at).expect("written");
    }
}

fn follow(data: &Path, store: &SqliteStore) -> RunnerHandle {
    let (writer, _) = SqliteViews::open(data).expect("views");
    Runner::start(Arc::new(store.clone()), Box::new(writer), RunnerSettings::default()).expect("a runner")
}

fn wait_for(views: &RunnerHandle, head: u64) {
    let begun = Instant::now();
    while views.progress().borrow().position(0) < head {
        assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", views.progress().borrow());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn replay(data: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_replay"))
        .arg("--data")
        .arg(data)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

/// Opens a log that this process had open before. A child that another test is starting just now has the lock too, until it is a program
/// of its own.
fn open_again(data: &Path) -> SqliteStore {
    for _ in 0..500 {
        match SqliteStore::open(data) {
            Err(StoreError::Held { .. }) => std::thread::sleep(Duration::from_millis(10)),
            opened => return opened.expect("the log"),
        }
    }
    panic!("the log stays held");
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

fn said(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

/// One clear line that says this.
fn refused(output: &Output, words: &str) {
    assert_eq!(code(output), 1, "{} {}", out(output), said(output));
    assert_eq!(out(output), "");
    assert!(
        said(output).starts_with("replay: ") && said(output).contains(words),
        "{}",
        said(output)
    );
    assert_eq!(said(output).lines().count(), 1, "{}", said(output));
}

#[test]
fn a_sound_shop_is_ok_in_every_format() {
    let shop = Shop::new();
    let table = shop.replay(&["verify"]);
    assert_eq!((code(&table), said(&table)), (0, ""), "{}", out(&table));
    assert!(
        out(&table)
            .lines()
            .any(|line| line.trim_start().starts_with("6  the log is whole") && line.ends_with("ok")),
        "{}",
        out(&table)
    );
    assert!(
        out(&table).lines().last().is_some_and(|line| line.starts_with("OK: ")),
        "{}",
        out(&table)
    );

    let json = shop.replay(&["verify", "-o", "json"]);
    let verdict: Value = serde_json::from_str(out(&json)).expect("one object");
    assert_eq!(
        (code(&json), &verdict["sound"], &verdict["counts"]["orders"]),
        (0, &Value::Bool(true), &7.into())
    );
    let words: Vec<_> = verdict["invariants"]
        .as_array()
        .expect("ten")
        .iter()
        .map(|line| line["verdict"].as_str())
        .collect();
    // There is no provider here that could have been asked too early.
    let ok = Some("ok");
    assert_eq!(words, [ok, ok, ok, ok, ok, ok, ok, Some("not checked"), ok, ok]);

    let ndjson = shop.replay(&["verify", "--output", "ndjson"]);
    let lines: Vec<Value> = out(&ndjson)
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect();
    assert_eq!((code(&ndjson), lines.len()), (0, 12));
    assert!(lines.iter().all(|line| line["record"].is_string()));

    let csv = shop.replay(&["verify", "-o", "csv"]);
    let rows: Vec<_> = out(&csv).lines().collect();
    assert_eq!((code(&csv), rows.len()), (0, 11));
    assert_eq!(rows[0], "record,number,invariant,verdict,found,shard,first,last,stream,order,what");
    assert!(rows[6].starts_with("invariant,6,the log is whole,ok,0,"), "{}", rows[6]);
}

#[test]
fn stats_tell_the_same_in_every_format() {
    let shop = Shop::new();
    let table = shop.replay(&["stats"]);
    assert_eq!((code(&table), said(&table)), (0, ""));
    for line in [
        "order.placed ",
        "CONFIRMED ",
        "OUT_OF_STOCK ",
        "PAYMENT_DECLINED ",
        "inventory ",
        "log.db ",
    ] {
        assert!(out(&table).lines().any(|known| known.starts_with(line)), "{line}: {}", out(&table));
    }
    let json: Value = serde_json::from_str(out(&shop.replay(&["stats", "-o", "json"]))).expect("one object");
    assert_eq!(json["types"]["order.placed"]["events"], 7);
    assert_eq!(
        json["orders"],
        serde_json::json!({"CONFIRMED": 5, "OUT_OF_STOCK": 1, "PAYMENT_DECLINED": 1})
    );
    assert_eq!(json["streams"]["order"]["streams"], 7);
    assert_eq!(json["first"], "2026-11-20T09:00:00+09:00");
    let over_time: u64 = json["overTime"]
        .as_array()
        .expect("spans")
        .iter()
        .filter_map(|span| span["events"].as_u64())
        .sum();
    assert_eq!(Some(over_time), json["events"].as_u64());

    let ndjson = shop.replay(&["stats", "-o", "ndjson"]);
    let placed = out(&ndjson)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("an object"))
        .find(|line| line["name"] == "order.placed")
        .expect("a line");
    assert_eq!((placed["section"].as_str(), placed["count"].as_u64()), (Some("type"), Some(7)));
    let csv = shop.replay(&["stats", "-o", "csv"]);
    assert!(
        out(&csv).lines().any(|line| line.starts_with("type,order.placed,7,")),
        "{}",
        out(&csv)
    );
}

#[test]
fn help_has_examples_and_a_wrong_command_line_is_usage() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    for arguments in [&["--help"][..], &["verify", "--help"], &["stats", "--help"]] {
        let help = replay(scratch.path(), arguments);
        assert_eq!(code(&help), 0);
        assert!(out(&help).contains("Examples:") && said(&help).is_empty(), "{}", out(&help));
    }
    for arguments in [
        &[][..],
        &["dance"],
        &["verify", "--dance"],
        &["verify", "-o", "parquet"],
        &["verify", "--grace", "soon"],
    ] {
        let output = replay(scratch.path(), arguments);
        assert_eq!((code(&output), out(&output)), (1, ""), "{arguments:?}");
        assert!(!said(&output).is_empty());
    }
    let password = replay(scratch.path(), &["--store", "postgres://me:secret@db/shop", "stats"]);
    refused(&password, "postgres://me@db:5432/shop");
    assert!(!said(&password).contains("secret"));
}

#[test]
fn what_is_no_log_is_refused_with_the_remedy() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    for command in ["stats", "verify"] {
        refused(
            &replay(&scratch.path().join("nowhere"), &[command]),
            "name the data directory of a shop",
        );
        let shop = Shop::new();
        shop.write("log.db", 0, b"This is some other text. ");
        refused(&shop.replay(&[command]), "is not a SQLite file");
        let shop = Shop::new();
        shop.write("log.db", 60, &4_711_u32.to_be_bytes());
        refused(&shop.replay(&[command]), "newer");
        let shop = Shop::new();
        shop.write("log.db", 68, b"else");
        refused(&shop.replay(&[command]), "belongs to another program");
        let shop = Shop::new();
        fs::write(shop.data().join("log.db"), "SQL").expect("written");
        refused(&shop.replay(&[command]), "cut off");
    }
}

#[test]
fn a_torn_log_fails_and_the_position_is_named() {
    let shop = Shop::new();
    let log = fs::read(shop.data().join("log.db")).expect("the log");
    let payload = b"\"method\":\"BALANCE\"";
    let at = log
        .windows(payload.len())
        .position(|window| window == payload)
        .expect("an order in the file");
    shop.write("log.db", at as u64 + 10, b"X");
    let output = shop.replay(&["verify", "-o", "json"]);
    let verdict: Value = serde_json::from_str(out(&output)).expect("one object");
    assert_eq!((code(&output), &verdict["sound"]), (2, &Value::Bool(false)));
    let findings = verdict["findings"].as_array().expect("findings");
    assert!(
        findings
            .iter()
            .any(|finding| finding["what"].as_str().is_some_and(|what| what.contains("XALANCE"))),
        "{findings:#?}"
    );
    assert!(
        findings
            .iter()
            .all(|finding| finding["place"]["positions"].is_array() || finding["invariant"] == "views"),
        "{findings:#?}"
    );
    let table = shop.replay(&["verify", "--no-views"]);
    assert_eq!(code(&table), 2);
    assert!(
        out(&table).contains("[6 the log is whole] positions ") && out(&table).contains("hash chain"),
        "{}",
        out(&table)
    );

    // A page of it is gone.
    let shop = Shop::new();
    shop.write("log.db", at as u64 / 4_096 * 4_096, &[0; 4_096]);
    let output = shop.replay(&["verify"]);
    assert_eq!(code(&output), 2, "{} {}", out(&output), said(&output));
    assert!(
        out(&output).contains("FAILED: ") && out(&output).contains("cannot be read"),
        "{}",
        out(&output)
    );

    // Half of it is gone: no database any more.
    let shop = Shop::new();
    let file = fs::File::options().write(true).open(shop.data().join("log.db")).expect("the log");
    let length = file.metadata().expect("a length").len();
    file.set_len(length / 2 / 4_096 * 4_096).expect("cut");
    refused(&shop.replay(&["verify"]), "restore a backup");
}

#[test]
fn views_that_differ_from_the_fold_are_found_row_by_row() {
    let shop = Shop::new();
    let views = fs::read(shop.data().join("views.db")).expect("the views");
    let status = b"\"CONFIRMED\"";
    // Older copies of a row may lie about in the file.
    let places = views.windows(status.len()).enumerate().filter(|(_, window)| window == status);
    let places: Vec<_> = places.map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "a row in the file");
    for at in places {
        shop.write("views.db", at as u64 + 1, b"X");
    }
    let output = shop.replay(&["verify"]);
    assert_eq!(code(&output), 2, "{}", out(&output));
    let found = format!("of {} is not the fold of the log in data", Orders::NAME);
    assert!(out(&output).contains(&found), "{}", out(&output));
    assert_eq!(code(&shop.replay(&["verify", "--no-views"])), 0);
}

#[test]
fn what_is_not_there_is_not_checked_and_partial_only_when_it_was_asked_for() {
    let shop = Shop::new();
    for name in ["views.db", "views.db-wal", "views.db-shm"] {
        let _ = fs::remove_file(shop.data().join(name));
    }
    let output = shop.replay(&["verify"]);
    assert_eq!(code(&output), 0, "{}", out(&output));
    assert!(out(&output).contains("not checked: views: ") && out(&output).contains("not checked: the provider's ledger: "));
    let asked = shop.replay(&["verify", "--views"]);
    assert_eq!(code(&asked), 3);
    assert!(out(&asked).lines().last().is_some_and(|line| line.starts_with("PARTIAL: ")));
    assert_eq!(code(&shop.replay(&["verify", "--ledger", "nowhere.db"])), 3);
    assert_eq!(code(&shop.replay(&["verify", "--ledger", "none"])), 0);
    fs::write(shop.data().join("simulator.db"), "no ledger").expect("written");
    assert_eq!(code(&shop.replay(&["verify"])), 3);
    // The log alone is enough.
    let alone = tempfile::tempdir().expect("a scratch directory");
    fs::copy(shop.data().join("log.db"), alone.path().join("log.db")).expect("copied");
    assert_eq!(code(&replay(alone.path(), &["verify"])), 0);
}

#[test]
fn the_simulators_ledger_is_compared() {
    let shop = Shop::new();
    let ledger = shop.data().join("simulator.db");
    drop(payment_gateway_simulator::Simulator::open(&ledger).expect("an empty ledger"));
    let output = shop.replay(&["verify", "--settled", "-o", "json"]);
    let verdict: Value = serde_json::from_str(out(&output)).expect("one object");
    assert_eq!(code(&output), 0, "{verdict:#}");
    assert_eq!(
        (&verdict["counts"]["ledger"], &verdict["invariants"][7]["verdict"]),
        (&0.into(), &"ok".into())
    );
}

#[test]
fn a_directory_that_cannot_be_written_is_read_all_the_same() {
    let shop = Shop::new();
    fs::set_permissions(shop.data(), fs::Permissions::from_mode(0o555)).expect("changed");
    let output = shop.replay(&["verify"]);
    fs::set_permissions(shop.data(), fs::Permissions::from_mode(0o755)).expect("changed back");
    assert_eq!(code(&output), 0, "{} {}", out(&output), said(&output));
}

#[test]
fn a_shop_that_serves_is_sound_at_every_moment() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    let store = SqliteStore::open(&data).expect("a log");
    let views = follow(&data, &store);
    let stop = Arc::new(AtomicBool::new(false));
    let serves = std::thread::spawn({
        let (stop, store) = (Arc::clone(&stop), store.clone());
        move || {
            let mut world = World::open(&store);
            world.receive(0, 1_000_000);
            world.deposit(50_000_000_000);
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                world.place(number, Paid::Balance, &[(0, 1)]);
                world.place(number + 1, Paid::Card(Some("ok")), &[(3, 1)]);
                world.place(number + 2, Paid::Card(None), &[(3, 1)]);
                world.settle();
                world.cancel(number + 2);
                number += 3;
            }
            world.settle();
        }
    });
    for _ in 0..8 {
        let output = replay(&data, &["verify"]);
        assert_eq!(code(&output), 0, "{} {}", out(&output), said(&output));
        assert_eq!(code(&replay(&data, &["stats"])), 0);
    }
    stop.store(true, Ordering::Relaxed);
    serves.join().expect("it served to the end");
    views.stop();
    assert!(
        store
            .reader()
            .and_then(|reader| reader.head(0))
            .expect("a head")
            .is_some_and(|head| head.position > 1_000)
    );
}

#[test]
fn ctrl_c_ends_it_with_130() {
    let shop = Shop::new();
    // Somebody reads slowly, so that it does not end before it is interrupted.
    let store = open_again(&shop.data());
    let mut world = World::open(&store);
    world.receive(0, 1_000_000);
    world.deposit(50_000_000_000);
    for number in 100..3_100 {
        world.place(number, Paid::Balance, &[(0, 1)]);
    }
    world.settle();
    let mut interrupted = false;
    for wait in [30, 20, 40, 10, 60, 5, 80] {
        let child = Command::new(env!("CARGO_BIN_EXE_replay"))
            .arg("--data")
            .arg(shop.data())
            .arg("verify")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        std::thread::sleep(Duration::from_millis(wait));
        let pid = child.id().to_string();
        let _ = Command::new("sh").args(["-c", &format!("kill -INT {pid}")]).status();
        let output = child.wait_with_output().expect("it has ended");
        // Before it listens, Ctrl-C ends it as it ends any program.
        if output.status.code() == Some(130) {
            assert_eq!((out(&output), said(&output)), ("", "replay: interrupted\n"));
            interrupted = true;
            break;
        }
    }
    assert!(interrupted, "it was never interrupted on its way");
}
