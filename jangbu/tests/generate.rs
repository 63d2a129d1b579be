//! `jangbu generate`: the same seed makes the same shop, everything holds of it, and it can be served.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
};

use event_store::{EventStore, Shards};
use event_store_sqlite::SqliteStore;
use verify::{Options, ViewsChecked, read_ledger, verify_log, verify_views};

mod shop;

fn jangbu() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jangbu"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("JANGBU_") {
            command.env_remove(name);
        }
    }
    command
}

fn generate(data: &Path, arguments: &[&str]) -> Output {
    let output = jangbu()
        .current_dir(data.parent().expect("a directory above"))
        .args(["generate", "--data"])
        .arg(data)
        .args(arguments)
        .output();
    output.expect("the binary runs")
}

fn generated(data: &Path, orders: &str, seed: &str) -> String {
    let output = generate(data, &["--orders", orders, "--seed", seed]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
    String::from_utf8(output.stdout).expect("text")
}

/// How often each name stands in the summary.
fn counts(summary: &str) -> BTreeMap<&str, u64> {
    summary
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some(name), Some(count), None) => count.parse().ok().map(|count| (name, count)),
                _ => None,
            }
        })
        .collect()
}

fn keys(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![data.join("keys")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(data).expect("below it").display().to_string();
                found.insert(name, std::fs::read(&path).expect("a key"));
            }
        }
    }
    found
}

#[test]
fn the_same_seed_makes_the_same_shop_and_another_makes_another() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let at = |name: &str| scratch.path().join(name);
    let first = generated(&at("first"), "300", "7");
    assert_eq!(first, generated(&at("again"), "300", "7"));
    assert_eq!(keys(&at("first")), keys(&at("again")));
    let other = generated(&at("other"), "300", "8");
    let head = |summary: &str| summary.lines().last().map(str::to_owned);
    assert_ne!(head(&first), head(&other));
    assert_ne!(keys(&at("first")), keys(&at("other")));
}

#[test]
fn everything_holds_of_it_and_every_promised_end_comes() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("shop");
    let summary = generated(&data, "2000", "7");

    let log = SqliteStore::open_read_only(&data).expect("a log");
    let store: Arc<dyn EventStore> = Arc::new(log);
    let ledger = read_ledger(&data.join("simulator.db")).expect("the provider's ledger");
    assert!(ledger.len() > 500);
    let options = Options {
        ledger: Some(ledger),
        ..Options::default()
    };
    let mut report = verify_log(store.reader().expect("a reader").as_ref(), &options).expect("it can be read");
    let views = verify_views(&data, &store, &mut report, &mut |_, _| ControlFlow::Continue(())).expect("they can be read");
    assert!(matches!(views, ViewsChecked::Compared { .. }));
    assert!(report.is_sound(), "{:#?}", report.findings);

    let counts = counts(&summary);
    let names: BTreeSet<_> = counts.keys().copied().collect();
    let promised = BTreeSet::from([
        "orders",
        "events",
        "AWAITING_PAYMENT",
        "PAYMENT_PENDING",
        "CONFIRMED",
        "CANCELLING",
        "CANCELLED",
        "NEEDS_ATTENTION",
        "OUT_OF_STOCK",
        "PRICE_MISMATCH",
        "PAYMENT_DECLINED",
        "INSUFFICIENT_BALANCE",
        "PAYMENT_EXPIRED",
        "CANCELLED_BY_BUYER",
        "CANCELLED_BY_SHOP",
    ]);
    assert_eq!(names, promised);
    assert_eq!(counts["orders"], 2_000);
    assert_eq!(counts["CONFIRMED"], report.counts.confirmed);
    assert_eq!(counts["CANCELLED"], report.counts.cancelled);
    assert_eq!(counts["events"], report.counts.events);
}

#[test]
fn a_shop_of_several_shards_holds_too() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("shop");
    let output = generate(&data, &["--orders", "500", "--shards", "4"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let log = SqliteStore::open_read_only(&data).expect("a log");
    let store: Arc<dyn EventStore> = Arc::new(log);
    let reader = store.reader().expect("a reader");
    assert_eq!(reader.shard_count().expect("it says so"), Shards::new(4));
    let options = Options {
        ledger: read_ledger(&data.join("simulator.db")).ok(),
        ..Options::default()
    };
    let mut report = verify_log(reader.as_ref(), &options).expect("it can be read");
    let views = verify_views(&data, &store, &mut report, &mut |_, _| ControlFlow::Continue(())).expect("they can be read");
    assert!(matches!(views, ViewsChecked::Compared { .. }));
    assert!(report.is_sound(), "{:#?}", report.findings);
}

#[test]
fn what_is_there_is_not_written_over() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("shop");
    std::fs::create_dir(&data).expect("a directory");
    std::fs::write(data.join("notes.txt"), "mine").expect("a file");
    let output = generate(&data, &["--orders", "10"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said.contains("is not empty; name a new or an empty directory with --data") && said.lines().count() == 1,
        "{said}"
    );
    assert_eq!(std::fs::read_dir(&data).expect("a directory").count(), 1);
    for wrong in [["--orders", "0"], ["--shards", "0"], ["--days", "0"], ["--seed", "x"]] {
        let output = generate(&scratch.path().join("other"), &[&["--orders", "10"][..], &wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
    assert!(!scratch.path().join("other").exists());
}

#[cfg(unix)]
#[test]
fn a_signal_ends_it_and_says_that_it_is_not_complete() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("shop");
    let mut command = jangbu();
    command.args(["generate", "--orders", "1000000", "--data"]).arg(&data);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let begun = std::time::Instant::now();
    // It listens before it makes the first file.
    while !data.join("views.db").exists() {
        assert!(begun.elapsed() < shop::PATIENCE, "it has not begun");
        std::thread::sleep(shop::LOOK);
    }
    let asked = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status();
    assert!(asked.expect("a shell can be run").success());
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("is not complete, delete it") && said.lines().count() == 1, "{said}");
    assert!(output.stdout.is_empty());
    let served = jangbu()
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(&data)
        .output()
        .expect("the binary runs");
    assert_eq!(served.status.code(), Some(2), "nobody takes it for a shop");
}

#[tokio::test]
async fn it_can_be_served_and_its_people_log_in() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("shop");
    generated(&data, "300", "7");
    let mut shop = shop::Shop::open_in(scratch, data, &[]).await;
    for email in [shop::ADMIN, shop::SELLER, shop::BUYER] {
        shop.client().log_in(email).await;
    }
    shop.stop().await;
}
