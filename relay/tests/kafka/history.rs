//! Logs that were put back to an earlier state, as by a backup that is restored.

use std::{collections::BTreeSet, sync::Arc};

use event_store_postgres::PostgresStore;
use relay::{Relay, RelaySettings, move_checkpoint};
use test_servers::{Database, Kafka, Postgres};

use crate::{eventually, log::Log, reading::read_all, settings};

fn store(database: &Database) -> PostgresStore {
    PostgresStore::open(&database.url().parse().expect("an address")).expect("the log opens")
}

/// Takes away what was recorded behind this position.
fn put_back(database: &Database, to: u64, with_checkpoints: bool) {
    let checkpoints = if with_checkpoints {
        format!("UPDATE checkpoints SET position = {to} WHERE name = 'relay'; DELETE FROM checkpoints WHERE name <> 'relay';")
    } else {
        String::new()
    };
    database.sql(&format!(
        "BEGIN; SET LOCAL session_replication_role = replica;
         DELETE FROM events WHERE position > {to}; DELETE FROM batches WHERE last_position > {to};
         UPDATE log_head SET position = {to}, hash = (SELECT hash FROM batches WHERE last_position = {to});
         {checkpoints} COMMIT;"
    ));
}

/// Whether each event of the log is in Kafka.
fn has_all(settings: &RelaySettings, log: &Log) -> bool {
    let ids: BTreeSet<_> = read_all(settings)
        .into_iter()
        .map(|record| record.headers["ce_id"].clone())
        .collect();
    log.events().iter().all(|event| ids.contains(&event.event_id.to_string()))
}

#[test]
fn a_log_that_ends_before_the_checkpoint_is_not_published_until_somebody_says_where_to_go_on() {
    let database = Postgres::shared().database();
    let mut log = Log::new(store(&database), 1);
    let settings = settings(Kafka::shared().url());
    log.append(500);
    let start = || Relay::start(settings.clone(), Arc::new(store(&database))).expect("sound settings");
    let relay = start();
    eventually("all are published", || log.is_published("relay"));
    relay.stop();

    put_back(&database, 300, false);
    log.take_again();
    let relay = start();
    eventually("it is noticed", || {
        relay.readiness().is_err_and(|why| why.contains("the log ends at 300"))
    });
    let why = relay.readiness().expect_err("it is not ready");
    assert!(
        why.contains("shard 0") && why.contains("checkpoint is 500") && why.contains("docs/kafka.md"),
        "{why}"
    );
    assert_eq!(relay.hindrance(), Some(why));
    // It has grown beyond the checkpoint by now; nothing of that is skipped.
    log.append(400);
    relay.notify();
    relay.stop();
    let relay = start();
    eventually("it is still known", || {
        relay.readiness().is_err_and(|why| why.contains("another event stands at 500"))
    });
    assert_eq!(log.published("relay"), 500);

    move_checkpoint(log.store.as_ref(), "relay", 0, 300).expect("moved");
    eventually("all are published", || log.is_published("relay"));
    eventually("it is ready", || relay.readiness().is_ok() && relay.hindrance().is_none());
    relay.stop();
    assert!(has_all(&settings, &log));
}

#[test]
fn a_log_that_comes_back_whole_is_gone_on_with() {
    let database = Postgres::shared().database();
    let mut log = Log::new(store(&database), 1);
    let settings = settings(Kafka::shared().url());
    log.append(300);
    let start = || Relay::start(settings.clone(), Arc::new(store(&database))).expect("sound settings");
    let relay = start();
    eventually("all are published", || log.is_published("relay"));
    relay.stop();
    // Some of it cannot be seen for a while.
    database.sql("CREATE TABLE hidden AS SELECT * FROM events WHERE position > 200");
    database.sql("SET session_replication_role = replica; DELETE FROM events WHERE position > 200; UPDATE log_head SET position = 200");
    let relay = start();
    eventually("it is noticed", || {
        relay.readiness().is_err_and(|why| why.contains("the log ends at 200"))
    });
    database.sql("SET session_replication_role = replica; INSERT INTO events SELECT * FROM hidden; UPDATE log_head SET position = 300");
    eventually("it is ready", || relay.readiness().is_ok());
    log.append(100);
    eventually("all are published", || log.is_published("relay"));
    relay.stop();
    assert_eq!(crate::reading::check(&settings, &log), 0);
}

#[test]
fn a_log_that_is_put_back_with_its_checkpoint_under_a_running_relay_skips_nothing() {
    let database = Postgres::shared().database();
    let mut log = Log::new(store(&database), 1);
    let settings = settings(Kafka::shared().url());
    let relay = Relay::start(settings.clone(), Arc::new(store(&database))).expect("sound settings");
    log.append(500);
    eventually("all are published", || log.is_published("relay"));
    for (to, more) in [(300, 100), (400, 600), (700, 300)] {
        put_back(&database, to, true);
        log.take_again();
        log.append(more);
        eventually("all are published", || log.is_published("relay"));
        assert!(has_all(&settings, &log), "put back to {to}, and on to {}", to + more);
    }
    eventually("it is ready", || relay.readiness().is_ok());
    relay.stop();
}

#[test]
fn a_log_that_is_put_back_behind_its_checkpoint_under_a_running_relay_stops_it() {
    let database = Postgres::shared().database();
    let mut log = Log::new(store(&database), 1);
    let settings = settings(Kafka::shared().url());
    let relay = Relay::start(settings.clone(), Arc::new(store(&database))).expect("sound settings");
    log.append(500);
    eventually("all are published", || log.is_published("relay"));
    put_back(&database, 300, false);
    log.take_again();
    log.append(400);
    eventually("it is noticed", || relay.readiness().is_err());
    println!("{}", relay.readiness().expect_err("it is not ready"));
    assert_eq!(log.published("relay"), 500);
    move_checkpoint(log.store.as_ref(), "relay", 0, 300).expect("moved");
    eventually("all are published", || log.is_published("relay"));
    relay.stop();
    assert!(has_all(&settings, &log));
}

#[test]
fn a_checkpoint_that_is_put_back_publishes_again_from_there() {
    let mut log = Log::new(event_store::MemoryStore::default(), 2);
    let settings = settings(Kafka::shared().url());
    log.append(500);
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    eventually("all are published", || log.is_published("relay"));
    move_checkpoint(log.store.as_ref(), "relay", 1, 100).expect("moved");
    eventually("it goes on there", || log.published("relay") < 1_000);
    eventually("all are published", || log.is_published("relay"));
    relay.stop();
    assert_eq!(crate::reading::check(&settings, &log), 400);
}
