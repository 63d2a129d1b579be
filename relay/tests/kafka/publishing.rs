//! What is published, and how.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use event_store_postgres::PostgresStore;
use event_store_sqlite::SqliteStore;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
};
use relay::{Compression, Relay, Standing, audit::audit};
use test_servers::{Kafka, Postgres};

use crate::{
    PATIENCE, eventually,
    log::Log,
    reading::{check, read_all},
    settings,
};

#[test]
fn every_event_comes_once_in_the_order_of_its_stream_also_after_a_restart() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let mut log = Log::new(SqliteStore::open(scratch.path()).expect("a log"), 3);
    let settings = settings(Kafka::shared().url());
    log.append(1_000);
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    eventually("the first are published", || log.is_published("relay"));
    for events in [1, 30, 250, 251, 777] {
        log.append(events);
        relay.notify();
    }
    // It may stop wherever it is.
    relay.stop();
    log.append(400);
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    eventually("all are published", || log.is_published("relay"));
    eventually("it knows", || relay.standing() == all_is_well());
    relay.stop();
    assert_eq!(check(&settings, &log), 0, "nothing was repeated: nothing went wrong");
}

#[test]
fn an_event_is_a_cloud_event_in_a_topic_of_its_kind() {
    let mut log = Log::new(event_store::MemoryStore::default(), 1);
    let mut settings = settings(Kafka::shared().url());
    settings
        .topics
        .names
        .insert("payment".into(), format!("{}money", settings.topics.prefix));
    settings.compression = Compression::Lz4;
    settings.source = Some("/shops/7".into());
    log.append(3);
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    eventually("all are published", || log.is_published("relay"));
    relay.stop();

    let records = read_all(&settings);
    let topics: BTreeSet<_> = records
        .iter()
        .map(|record| record.topic.trim_start_matches(&settings.topics.prefix))
        .collect();
    assert_eq!(topics, BTreeSet::from(["order-events", "inventory-events", "money"]));
    let placed = records
        .iter()
        .find(|record| record.topic.ends_with("order-events"))
        .expect("it came");
    let event = log
        .events()
        .into_iter()
        .find(|event| event.stream.kind == "order")
        .expect("it is there");
    assert_eq!(placed.key, format!("order-{}", event.stream.id));
    let id = event.event_id.to_string();
    for (name, value) in [
        ("ce_specversion", "1.0"),
        ("ce_id", &*id),
        ("jangbu-dedupe-key", &id),
        ("ce_source", "/shops/7"),
        ("ce_type", "order.changed"),
        ("ce_time", "2025-06-15T15:06:40.000001Z"),
        ("ce_sequence", "1"),
        ("ce_jangbushard", "0"),
        ("ce_jangbuposition", "1"),
        ("ce_jangbuversion", "1.0.0"),
        ("ce_correlationid", "0197-c"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(placed.headers[name], value, "{name}");
    }
    assert!(
        placed.headers.values().all(|value| value != "somebody"),
        "who did it stays in the log"
    );

    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &settings.kafka.brokers)
        .create()
        .expect("a client");
    let metadata = consumer.fetch_metadata(None, PATIENCE).expect("the broker answers");
    let made: Vec<_> = metadata
        .topics()
        .iter()
        .filter(|topic| topics_of(topic.name(), &settings.topics.prefix))
        .collect();
    assert_eq!(made.len(), 3);
    assert!(made.iter().all(|topic| topic.partitions().len() == 4), "made as the settings say");
}

fn all_is_well() -> Standing {
    Standing {
        connected: true,
        ..Standing::default()
    }
}

fn topics_of(name: &str, prefix: &str) -> bool {
    name.starts_with(prefix)
}

#[test]
fn a_topic_that_may_not_be_made_is_waited_for() {
    let mut log = Log::new(event_store::MemoryStore::default(), 2);
    let kafka = Kafka::shared();
    let mut settings = settings(kafka.url());
    settings.topics.create = false;
    kafka.topic(&settings.topics.of_events("order"), 2);
    kafka.topic(&settings.topics.of_events("inventory"), 2);
    log.append(30);
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    // Of each shard two events come before the first payment; and ten are payments.
    eventually("what has a topic is published", || {
        log.published("relay") == 4 && relay.standing().held == 20
    });
    eventually("and nothing else waits", || relay.standing().lag == 20);
    assert!(relay.standing().connected && relay.readiness().is_ok());
    let missing = relay.hindrance().expect("it says so");
    assert!(missing.contains("payment-events is not there; make it"), "{missing}");
    kafka.topic(&settings.topics.of_events("payment"), 2);
    eventually("the topic is found", || log.is_published("relay"));
    eventually("it knows", || relay.standing() == all_is_well());
    assert_eq!((relay.hindrances(), relay.readiness()), (Vec::new(), Ok(())));
    relay.stop();
    assert_eq!(check(&settings, &log), 0);
}

#[test]
fn an_event_that_another_process_appends_is_heard_of() {
    let database = Postgres::shared().database();
    let mut log = Log::new(
        PostgresStore::open(&database.url().parse().expect("an address")).expect("the log opens"),
        1,
    );
    let mut settings = settings(Kafka::shared().url());
    // It does not look by itself.
    settings.idle = Duration::from_hours(1);
    log.append(10);
    let other = PostgresStore::open(&database.url().parse().expect("an address")).expect("the log opens");
    let relay = Relay::start(settings.clone(), Arc::new(other)).expect("sound settings");
    eventually("the first are published", || log.is_published("relay"));
    for _ in 0..3 {
        log.append(3);
        eventually("the next are published", || log.is_published("relay"));
    }
    relay.stop();
    assert_eq!(check(&settings, &log), 0);
}

#[test]
fn many_events_pass_in_little_time() {
    let mut log = Log::new(event_store::MemoryStore::default(), 4);
    let settings = settings(Kafka::shared().url());
    log.append(10_000);
    let begun = Instant::now();
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    eventually("all are published", || log.is_published("relay"));
    println!("40,000 events in {:?}", begun.elapsed());
    relay.stop();
    assert_eq!(check(&settings, &log), 0);
    let begun = Instant::now();
    let audit = audit(&settings, log.store.reader().expect("a reader").as_ref()).expect("read");
    println!("{audit} In {:?}", begun.elapsed());
    assert!(audit.is_clean() && audit.records == 40_000 && audit.events == 40_000, "{audit}");
}
