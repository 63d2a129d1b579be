//! The checks of the other tests notice what they are for: each is shown a log that was doctored in one place.

mod shop;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use rusqlite::Connection;
use shop::{ADMIN, BUYER, COFFEE, Pay, Shop, client::payment_key, invariants, order};

/// What is done to which file, and what the check must say.
const DOCTORED: [(&str, &str, &str); 15] = [
    (
        "log.db",
        "DELETE FROM events WHERE event_type = 'inventory.released'",
        "positions are contiguous",
    ),
    (
        "log.db",
        "UPDATE events SET sequence = 77 WHERE event_type = 'order.cancelled'",
        "versions are contiguous",
    ),
    (
        "log.db",
        "UPDATE events SET event_id = (SELECT event_id FROM events WHERE position = 1) WHERE position = 9",
        "an event id is unique",
    ),
    (
        "log.db",
        "UPDATE events SET recorded_at = 1 WHERE position = 9",
        "recorded time never goes back",
    ),
    ("log.db", "UPDATE log_head SET position = position + 1", "the head is at"),
    (
        "log.db",
        "UPDATE events SET metadata = json_set(metadata, '$.causationId', 'nobody') WHERE event_type = 'order.confirmed'",
        "the cause comes before what it causes",
    ),
    (
        "log.db",
        "UPDATE events SET metadata = json_set(metadata, '$.idempotencyKey', 'twice') WHERE event_type = 'order.placed'",
        "a key has one effect",
    ),
    (
        "log.db",
        "UPDATE events SET payload = json_set(payload, '$.number', '2026112100000001') WHERE event_type = 'order.placed'",
        "an order number is unique",
    ),
    (
        "log.db",
        "UPDATE events SET payload = json_set(payload, '$.quantity', 5000) WHERE event_type = 'inventory.reserved'",
        "no oversell",
    ),
    (
        "log.db",
        "UPDATE events SET payload = json_set(payload, '$.quantity', 1) WHERE event_type = 'inventory.committed'",
        "a reservation ends once",
    ),
    (
        "log.db",
        "UPDATE events SET event_type = 'inventory.held' WHERE event_type = 'inventory.released'",
        "what was promised is free again",
    ),
    (
        "log.db",
        "UPDATE events SET payload = json_set(payload, '$.amount.amount', 2000000) WHERE event_type = 'wallet.debited'",
        "a wallet is never negative",
    ),
    (
        "log.db",
        "UPDATE events SET event_type = 'order.cancelled' WHERE event_type = 'order.confirmed'",
        "a cancelled order keeps no money",
    ),
    (
        "log.db",
        "INSERT INTO parked (shard, id, at, input, reason) VALUES (0, zeroblob(16), 0, '{}', 'because')",
        "set aside",
    ),
    (
        "simulator.db",
        "INSERT INTO ledger (at, kind, payment_key, order_id, amount, currency) SELECT at, kind, 'again', order_id, amount, currency FROM ledger",
        "was charged 2 times",
    ),
];

#[tokio::test]
async fn every_check_notices_what_it_is_for() {
    let shop = Shop::open(&[]).await;
    let client = shop.client().clone();
    let (buyer, admin) = (client.log_in(BUYER).await, client.log_in(ADMIN).await);
    client.new_buyer(&admin, 5_000).await;
    let coffees = [(COFFEE, 2)];
    for (pay, outcome) in [
        (Pay::Balance, "CONFIRMED"),
        (Pay::Card(&payment_key("ok")), "CONFIRMED"),
        (Pay::Card(&payment_key("declined")), "CANCELLED PAYMENT_DECLINED"),
    ] {
        assert_eq!(client.buy(&buyer, &order(&coffees, pay)).await.outcome(), outcome);
    }
    let kept = tempfile::tempdir().expect("a scratch directory");
    let data = kept.path().join("data");
    copy(shop.data(), &data);
    shop.close().await;
    invariants::check_contents(&data);

    for (file, doctoring, verdict) in DOCTORED {
        let doctored = kept.path().join("doctored");
        copy(&data, &doctored);
        let connection = Connection::open(doctored.join(file)).expect("the file");
        drop_triggers(&connection);
        assert!(connection.execute(doctoring, []).expect("it is done") > 0, "{doctoring}");
        connection.close().expect("it is closed");
        let said = words_of(|| drop(invariants::check_contents(&doctored)));
        assert!(said.contains(verdict), "{doctoring}\nis noticed as {verdict:?}, not as: {said}");
        std::fs::remove_dir_all(&doctored).expect("it is thrown away");
    }
    // Whatever is changed, the hash chain tells.
    let connection = Connection::open(data.join("log.db")).expect("the log");
    drop_triggers(&connection);
    connection
        .execute(
            "UPDATE events SET metadata = json_set(metadata, '$.actor', 'nobody') WHERE position = 3",
            [],
        )
        .expect("it is done");
    connection.close().expect("it is closed");
    assert!(words_of(|| drop(invariants::check(&data))).contains("hash chain"));
}

/// Copies the two files, each as it stands at one moment.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a directory");
    for file in ["log.db", "simulator.db"] {
        let connection = Connection::open(from.join(file)).expect("the file");
        connection
            .execute("VACUUM INTO ?1", [to.join(file).to_str().expect("a path of ours")])
            .expect("it is copied");
    }
}

fn drop_triggers(connection: &Connection) {
    let mut names = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
        .expect("the schema");
    let names: Vec<String> = names
        .query_map([], |row| row.get(0))
        .expect("rows")
        .collect::<Result<_, _>>()
        .expect("names");
    for name in names {
        connection.execute_batch(&format!("DROP TRIGGER {name}")).expect("it is dropped");
    }
}

/// What a check says when it fails; nothing when it does not.
fn words_of(check: impl FnOnce()) -> String {
    match catch_unwind(AssertUnwindSafe(check)) {
        Ok(()) => String::new(),
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .unwrap_or_else(|| (*panic.downcast_ref::<&str>().unwrap_or(&"")).to_owned()),
    }
}
