//! Records and topics that Kafka refuses: their streams wait, others go on.

use std::time::Duration;

use event_store::{Event, MemoryStore, StreamId};
use event_store_postgres::PostgresStore;
use relay::{Compression, Relay, RelaySettings};
use test_servers::{Kafka, Postgres};
use uuid::Uuid;

use crate::{
    alter, eventually, large,
    log::Log,
    reading::{check, read_all},
    settings,
};

fn uncompressed(brokers: &str) -> RelaySettings {
    RelaySettings {
        compression: Compression::None,
        ..settings(brokers)
    }
}

fn large_event(bytes: usize) -> String {
    format!(r#"{{"large":"{}"}}"#, large(bytes))
}

/// The events of the first shard's first order, from this position on.
fn of_first_order(log: &Log, from: u64) -> u64 {
    let is_one = |event: &&Event| event.shard == 0 && event.position >= from && event.stream == StreamId::new("order", Uuid::nil());
    log.events().iter().filter(is_one).count() as u64
}

fn references(settings: &RelaySettings) -> usize {
    read_all(settings)
        .iter()
        .filter(|record| record.headers.contains_key("ce_dataref"))
        .count()
}

#[test]
fn an_event_that_is_too_large_for_its_topic_goes_as_a_reference() {
    let kafka = Kafka::shared();
    let mut log = Log::new(MemoryStore::default(), 2);
    let settings = uncompressed(kafka.url());
    kafka.topic_with(&settings.topics.of_events("order"), 1, &[("max.message.bytes", "100000")]);
    log.append(50);
    log.append_one(large_event(200_000));
    log.append(200);
    log.append_one(large_event(300_000));
    // The client itself takes no more than eight million.
    log.append_one(large_event(9_000_000));
    log.append(200);
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    eventually("all are published", || log.is_published("relay"));
    eventually("it is well", || relay.standing().connected && relay.hindrance().is_none());
    relay.stop();
    println!("{} events, {} repeated", log.events().len(), check(&settings, &log));
    assert_eq!(references(&settings), 3);
}

#[test]
fn a_topic_that_is_made_here_takes_large_events() {
    let mut log = Log::new(MemoryStore::default(), 1);
    let settings = uncompressed(Kafka::shared().url());
    log.append_one(large_event(5_000_000));
    log.append(100);
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    eventually("all are published", || log.is_published("relay"));
    relay.stop();
    assert_eq!((check(&settings, &log), references(&settings)), (0, 0));
}

#[test]
fn many_that_are_too_large_only_together_are_sent_in_smaller_parts() {
    let kafka = Kafka::shared();
    let mut log = Log::new(MemoryStore::default(), 1);
    let settings = uncompressed(kafka.url());
    kafka.topic_with(&settings.topics.of_events("order"), 1, &[("max.message.bytes", "50000")]);
    log.append(6_000);
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    eventually("all are published", || log.is_published("relay"));
    relay.stop();
    println!("{} events, {} repeated", log.events().len(), check(&settings, &log));
    assert_eq!(references(&settings), 0, "none of them is too large");
}

#[test]
fn an_event_that_is_refused_keeps_its_stream_waiting_and_no_other() {
    let kafka = Kafka::shared();
    let mut log = Log::new(MemoryStore::default(), 2);
    let settings = uncompressed(kafka.url());
    let topic = settings.topics.of_events("order");
    kafka.topic_with(&topic, 2, &[("max.message.bytes", "5000")]);
    log.append(50);
    // Its headers alone are too large: a reference is no smaller.
    let refused = log.events().iter().filter(|event| event.shard == 0).count() as u64 + 1;
    log.append_correlated(&large(10_000));
    log.append(400);
    let waiting = of_first_order(&log, refused);
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    eventually("what waits is its stream", || {
        relay.standing().held == waiting && relay.standing().lag == waiting
    });
    log.append(21);
    relay.notify();
    eventually("others go on", || {
        relay.standing().held == waiting + 1 && relay.standing().lag == waiting + 1
    });
    assert!(relay.standing().connected, "nothing else is wrong");
    assert_eq!(relay.readiness(), Ok(()));
    let hindrance = relay.hindrance().expect("it says so");
    assert!(
        hindrance.contains(&format!("waits from position {refused} on")) && hindrance.contains("size"),
        "{hindrance}"
    );
    let all = log.events().len() as u64;
    let distinct = |settings: &RelaySettings| {
        let ids: std::collections::BTreeSet<_> = read_all(settings)
            .into_iter()
            .map(|record| record.headers["ce_id"].clone())
            .collect();
        ids.len() as u64
    };
    assert_eq!(distinct(&settings), all - waiting - 1);
    // The checkpoint waits, too: whoever begins anew publishes from there on.
    assert_eq!(log.published("relay"), refused - 1 + all / 2);
    relay.stop();
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    log.append(21);
    eventually("a restart changes nothing of that", || {
        relay.standing().held == waiting + 2 && relay.standing().lag == waiting + 2
    });

    alter(kafka.url(), &topic, "max.message.bytes", "1000000");
    eventually("all are published", || log.is_published("relay"));
    eventually("it is well", || relay.hindrance().is_none() && relay.standing().lag == 0);
    relay.stop();
    println!("{} events, {} repeated", log.events().len(), check(&settings, &log));
}

#[test]
fn a_topic_that_takes_nothing_keeps_its_events_waiting_and_no_others() {
    let kafka = Kafka::start();
    let proxy = kafka.proxy();
    // Whatever is sent is older by the time that it is there, and that topic takes nothing that is.
    proxy.delay(Duration::from_millis(20));
    let mut log = Log::new(MemoryStore::default(), 2);
    let settings = settings(&proxy.address().to_string());
    let topic = settings.topics.of_events("payment");
    kafka.topic_with(&topic, 2, &[("message.timestamp.before.max.ms", "0")]);
    log.append(600);
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    eventually("the others are published", || {
        relay.standing().held == 400 && relay.standing().lag == 400
    });
    log.append(600);
    eventually("they go on", || relay.standing().held == 800 && relay.standing().lag == 800);
    let hindrances = relay.hindrances();
    assert!(
        hindrances.len() == 2 && hindrances.iter().all(|line| line.contains(&topic)),
        "{hindrances:?}"
    );
    alter(&kafka.url(), &topic, "message.timestamp.before.max.ms", "9223372036854775807");
    eventually("all are published", || log.is_published("relay"));
    eventually("it is well", || relay.hindrance().is_none());
    relay.stop();
    println!("{} events, {} repeated", log.events().len(), check(&settings, &log));
}

#[test]
fn of_several_relays_one_goes_on_beyond_what_is_refused() {
    let kafka = Kafka::shared();
    let database = Postgres::shared().database();
    let store = || PostgresStore::open(&database.url().parse().expect("an address")).expect("the log opens");
    let mut log = Log::new(store(), 1);
    let mut settings = uncompressed(kafka.url());
    settings.takeover = Duration::from_secs(4);
    let topic = settings.topics.of_events("order");
    kafka.topic_with(&topic, 2, &[("max.message.bytes", "5000")]);
    log.append_correlated(&large(10_000));
    let start = || Relay::start(settings.clone(), std::sync::Arc::new(store())).expect("sound settings");
    let (one, other) = (start(), start());
    let mut events = 1;
    for _ in 0..60 {
        log.append(50);
        events += 50;
        std::thread::sleep(Duration::from_millis(100));
    }
    let waiting = of_first_order(&log, 1);
    let is_done = |relay: &Relay| relay.standing().held == waiting && relay.standing().lag == waiting;
    eventually("one of them has published the others", || is_done(&one) || is_done(&other));
    let records = read_all(&settings).len();
    println!("{events} events, {records} records");
    assert!(records < events * 3 / 2, "they do not both publish everything");
    alter(kafka.url(), &topic, "max.message.bytes", "1000000");
    eventually("all are published", || log.is_published("relay"));
    one.stop();
    other.stop();
    println!("{} events, {} repeated", log.events().len(), check(&settings, &log));
}
