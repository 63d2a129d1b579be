//! Brokers that die, connections that are cut or held.

use std::time::{Duration, Instant};

use event_store::MemoryStore;
use relay::Relay;
use test_servers::Kafka;

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
