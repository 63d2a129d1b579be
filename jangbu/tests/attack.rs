//! The attack finds nothing in this shop, and in a shop that reads, decides and writes without isolation it finds every planted fault.

mod naive;
mod shop;

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use naive::{Fault, Naive};
use serde_json::Value;
use shop::Shop;
use tokio::{process::Command, task::JoinSet};

const ROUNDS: u64 = 30;
/// Far longer than an attack takes.
const PATIENCE: Duration = Duration::from_mins(5);

/// Every pair, with two ways in which its calls end: one for each order of events.
const PAIRS: [(&str, [&str; 2]); 16] = [
    ("order/order-last-unit", ["CONFIRMED", "OUT_OF_STOCK"]),
    ("order/order-last-credit", ["CONFIRMED", "INSUFFICIENT_BALANCE"]),
    ("order/order-same-key", ["accepted", "repeated"]),
    ("order/order-other-body", ["accepted", "refused"]),
    ("order/cancel", ["CONFIRMED", "OUT_OF_STOCK"]),
    ("pay/pay", ["accepted", "refused"]),
    ("pay/pay-other-key", ["accepted", "refused"]),
    ("pay/pay-repeat", ["accepted", "repeated"]),
    ("pay/cancel", ["CONFIRMED", "CANCELLED_BY_BUYER"]),
    ("cancel/cancel", ["buyer first", "administrator first"]),
    ("deposit/order", ["CONFIRMED", "INSUFFICIENT_BALANCE"]),
    ("deposit/deposit", ["accepted", "repeated"]),
    ("price/order", ["CONFIRMED", "PRICE_MISMATCH"]),
    ("adjustment/order", ["CONFIRMED", "OUT_OF_STOCK"]),
    ("retire/order", ["CONFIRMED", "unknown-product"]),
    ("receipt/order", ["CONFIRMED", "OUT_OF_STOCK"]),
];

/// What can be planted, and the pairs that are there for it.
const FAULTS: [(&[Fault], &[&str]); 13] = [
    (&[Fault::StockReadThenWritten], &["order/order-last-unit"]),
    (&[Fault::ReceiptOverwrites], &["receipt/order"]),
    (&[Fault::WriteOffChecksFirst], &["adjustment/order"]),
    (&[Fault::ReleaseOverwrites], &["order/cancel"]),
    (&[Fault::BalanceCheckedThenDebited], &["order/order-last-credit"]),
    (&[Fault::DepositOverwrites], &["deposit/order"]),
    (
        &[Fault::KeyCheckedThenInserted],
        &["order/order-same-key", "order/order-other-body", "deposit/deposit"],
    ),
    (&[Fault::PaidTwice], &["pay/pay", "pay/pay-other-key"]),
    // A key that is looked up in time would hide that the order's status is not.
    (&[Fault::PaidTwice, Fault::KeyCheckedThenInserted], &["pay/pay-repeat"]),
    (&[Fault::CancelledWhilePaid], &["pay/cancel"]),
    (&[Fault::ReleasedTwice], &["cancel/cancel"]),
    (&[Fault::PriceReadTwice], &["price/order"]),
    (&[Fault::DroppedAfterDebit], &["retire/order"]),
];

/// Runs the tool: its exit code, what it found, and what else it said.
async fn attack(arguments: &[&str]) -> (Option<i32>, Value, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jangbu"));
    // No setting of whoever runs the tests.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("JANGBU_") {
            command.env_remove(name);
        }
    }
    command.arg("attack").args(arguments).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::time::timeout(PATIENCE, command.output())
        .await
        .expect("it ends by itself")
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (
        output.status.code(),
        serde_json::from_slice(&output.stdout).unwrap_or_default(),
        said,
    )
}

async fn attack_at(address: &str, pairs: &[&str]) -> (Option<i32>, Value, String) {
    let (url, rounds, pairs) = (format!("http://{address}"), ROUNDS.to_string(), pairs.join(","));
    let mut arguments = vec!["--url", &url, "--rounds", &rounds, "--output", "json"];
    if !pairs.is_empty() {
        arguments.extend(["--pairs", &pairs]);
    }
    attack(&arguments).await
}

/// Nothing was found, and every pair met: each of its calls came first at times.
fn met_and_found_nothing((code, report, said): &(Option<i32>, Value, String)) {
    assert_eq!(*code, Some(0), "{report:#}\n{said}");
    assert_eq!((&report["anomalies"], &report["ledger"]), (&0.into(), &true.into()));
    let pairs = report["pairs"].as_array().expect("pairs");
    assert_eq!(pairs.len(), PAIRS.len());
    for ((name, ends), results) in PAIRS.iter().zip(pairs) {
        assert_eq!((&results["pair"], &results["rounds"]), (&(*name).into(), &ROUNDS.into()));
        assert_eq!((&results["anomalies"], &results["worst"]), (&0.into(), &Value::Null), "{results}");
        for end in ends {
            assert!(results["ends"][end].as_u64() > Some(0), "{name} never ended {end}: {results}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn this_shop_is_sound_under_every_pair() {
    let shop = Shop::open(&[]).await;
    let found = attack_at(&shop.client().address(), &[]).await;
    met_and_found_nothing(&found);
    shop.agrees_with_the_provider().await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_naive_shop_that_takes_turns_is_sound_too() {
    let shop = Naive::open(&[]).await;
    let found = attack_at(&shop.address.to_string(), &[]).await;
    met_and_found_nothing(&found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_planted_fault_is_found_by_the_pair_that_is_for_it() {
    let mut attacks = JoinSet::new();
    for (faults, pairs) in FAULTS {
        attacks.spawn(async move {
            let shop = Naive::open(faults).await;
            (faults, pairs, attack_at(&shop.address.to_string(), pairs).await)
        });
    }
    for (faults, pairs, (code, report, said)) in attacks.join_all().await {
        assert_eq!(code, Some(2), "{faults:?}: {report:#}\n{said}");
        let results = report["pairs"].as_array().expect("pairs");
        assert_eq!(results.len(), pairs.len());
        for results in results {
            let worst = results["worst"]["text"].as_str().expect("an example");
            println!("{faults:?}: {} {} times, as in {worst}", results["pair"], results["anomalies"]);
        }
    }
}

#[test]
fn every_pair_is_for_some_fault() {
    let pairs: BTreeSet<_> = PAIRS.iter().map(|(pair, _)| *pair).collect();
    let found_by: BTreeSet<_> = FAULTS.iter().flat_map(|(_, pairs)| pairs.iter().copied()).collect();
    assert_eq!(pairs, found_by);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attack_that_cannot_be_made_is_no_verdict() {
    for arguments in [
        &["--url", "http://127.0.0.1:1"][..],
        &["--url", "https://127.0.0.1:1"],
        &["--url", "http://127.0.0.1:1", "--pairs", "refund/refund"],
        &["--url", "http://127.0.0.1:1", "--rounds", "0"],
        &[],
    ] {
        let (code, report, said) = attack(arguments).await;
        assert_eq!((code, report), (Some(1), Value::Null), "{arguments:?}: {said}");
        assert!(!said.is_empty());
    }
    let (code, _, _) = attack(&["--help"]).await;
    assert_eq!(code, Some(0));
}
