//! Brokers that die, connections that are cut or held, records that are refused.

use std::time::{Duration, Instant};

use event_store::MemoryStore;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
};
use relay::{Compression, Relay};
use test_servers::Kafka;
use uuid::Uuid;

use crate::{eventually, log::Log, reading::check, settings};

/// How long each disturbance lasts.
const FOR: Duration = Duration::from_millis(1_500);

/// Appends, bit by bit, for so long.
fn under_load(log: &mut Log, relay: &Relay) {
    let begun = Instant::now();
    while begun.elapsed() < FOR {
        log.append(40);
        relay.notify();
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_broker_that_is_killed_under_load_loses_nothing_and_changes_no_order() {
    let mut kafka = Kafka::start();
    let mut log = Log::new(MemoryStore::default(), 2);
    let settings = settings(&kafka.url());
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    for round in 0..3 {
        under_load(&mut log, &relay);
        kafka.kill();
        under_load(&mut log, &relay);
        eventually("it notices", || !relay.standing().connected);
        kafka.restart();
        under_load(&mut log, &relay);
        eventually("it goes on", || relay.standing().connected);
        println!("round {round}: {} of {} published", log.published("relay"), log.events().len());
    }
    eventually("all are published", || log.is_published("relay"));
    relay.stop();
    println!("{} events, {} repeated", log.events().len(), check(&settings, &log));
}

#[test]
fn a_network_that_is_cut_or_silent_loses_nothing_and_changes_no_order() {
    let kafka = Kafka::start();
    let proxy = kafka.proxy();
    let mut log = Log::new(MemoryStore::default(), 2);
    let settings = settings(&proxy.address().to_string());
    let mut relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    for round in 0..4 {
        under_load(&mut log, &relay);
        match round {
            0 | 2 => proxy.cut(),
            _ => proxy.hold(),
        }
        under_load(&mut log, &relay);
        if round == 2 {
            // What it could not send is its successor's.
            relay.stop();
            relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
        }
        proxy.mend();
        under_load(&mut log, &relay);
    }
    proxy.delay(Duration::from_millis(30));
    under_load(&mut log, &relay);
    proxy.mend();
    eventually("all are published", || log.is_published("relay"));
    relay.stop();
    println!("{} events, {} repeated", log.events().len(), check(&settings, &log));
}

/// What cannot be compressed, so that the broker sees how much it is.
fn large(bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 40);
    while text.len() < bytes {
        text.push_str(&Uuid::new_v4().simple().to_string());
    }
    format!(r#"{{"large":"{text}"}}"#)
}

#[test]
fn what_comes_after_a_record_that_the_broker_refuses_waits_until_it_takes_it() {
    let kafka = Kafka::shared();
    let mut log = Log::new(MemoryStore::default(), 1);
    let mut settings = settings(kafka.url());
    settings.compression = Compression::None;
    let topic = settings.topics.of_events("order");
    kafka.topic_with(&topic, 1, &[("max.message.bytes", "100000")]);
    log.append(50);
    let refused = log.events().len() as u64;
    log.append_one(large(200_000));
    log.append(200);
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    eventually("what comes before is published", || log.published("relay") == refused);
    eventually("it is known that it does not go on", || !relay.standing().connected);
    log.append(200);
    relay.notify();

    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", kafka.url())
        .create()
        .expect("a client");
    let larger = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("max.message.bytes", "1000000");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let altered = runtime
        .block_on(admin.alter_configs([&larger], &AdminOptions::new()))
        .expect("asked");
    assert!(altered.iter().all(Result::is_ok), "{altered:?}");
    eventually("all are published", || log.is_published("relay"));
    eventually("it is well", || relay.standing().connected);
    relay.stop();
    println!("{} events, {} repeated", log.events().len(), check(&settings, &log));
}
