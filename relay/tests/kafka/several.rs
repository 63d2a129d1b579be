//! Several relays on one log, and relays that are killed.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use event_store::EventStore;
use event_store_postgres::PostgresStore;
use relay::{KafkaSettings, Relay, RelaySettings};
use test_servers::{Kafka, Postgres};

use crate::{eventually, log::Log, reading::check, settings};

/// Says to the process below where everything is.
const TOLD: &str = "RELAY_WHEN_TOLD_TO";

fn store(url: &str) -> PostgresStore {
    PostgresStore::open(&url.parse().expect("an address")).expect("the log opens")
}

fn another(url: &str) -> Arc<dyn EventStore> {
    Arc::new(store(url))
}

#[test]
fn of_several_relays_one_publishes_a_shard_and_another_goes_on_when_it_stops() {
    let database = Postgres::shared().database();
    let mut log = Log::new(store(database.url()), 3);
    let mut settings = settings(Kafka::shared().url());
    settings.takeover = Duration::from_secs(1);
    log.append(2_000);
    let start = || Relay::start(settings.clone(), another(database.url())).expect("sound settings");
    let mut relays = vec![start(), start(), start()];
    for _ in 0..3 {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            log.append(20);
            relays.iter().for_each(Relay::notify);
        }
        // Whichever it is; a new one comes at once and begins in the middle of it.
        relays.remove(0).stop();
        relays.push(start());
    }
    eventually("all are published", || log.is_published("relay"));
    relays.into_iter().for_each(Relay::stop);
    let (events, repeated) = (log.events().len(), check(&settings, &log));
    println!("{events} events, {repeated} repeated");
    // Whoever begins sends one page of each shard before it finds that another was quicker.
    assert!(repeated < events / 2, "they do not all do the same work all the time");
}

#[test]
fn relays_of_different_names_each_publish_everything() {
    let mut log = Log::new(event_store::MemoryStore::default(), 1);
    let first = settings(Kafka::shared().url());
    let second = RelaySettings {
        name: "another".into(),
        ..settings(Kafka::shared().url())
    };
    log.append(300);
    let relays = [&first, &second].map(|settings| Relay::start(settings.clone(), log.store.clone()).expect("sound settings"));
    eventually("both are done", || log.is_published("relay") && log.is_published("another"));
    relays.into_iter().for_each(Relay::stop);
    assert_eq!((check(&first, &log), check(&second, &log)), (0, 0));
}

/// Run by the next test as a process of its own; does nothing otherwise.
#[test]
fn relays_when_told_to() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let [brokers, prefix, database]: [&str; 3] = told.split(' ').collect::<Vec<_>>().try_into().expect("three words");
    let mut settings = RelaySettings::new(KafkaSettings::plaintext(brokers));
    settings.topics.prefix = prefix.into();
    settings.topics.partitions = 4;
    let relay = Relay::start(settings, another(database)).expect("sound settings");
    // Until the other end is closed, or it is killed.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).expect("read");
    relay.stop();
}

fn process(settings: &RelaySettings, database: &str) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["several::relays_when_told_to", "--exact"])
        .env(TOLD, format!("{} {} {database}", settings.kafka.brokers, settings.topics.prefix))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts")
}

#[test]
fn a_relay_that_is_killed_repeats_but_loses_nothing_and_changes_no_order() {
    let database = Postgres::shared().database();
    let mut log = Log::new(store(database.url()), 2);
    let settings = settings(Kafka::shared().url());
    log.append(500);
    for round in 1..=6 {
        let mut relay = process(&settings, database.url());
        let goal = log.published("relay") + 200;
        while log.published("relay") < goal {
            log.append(100);
        }
        // As soon as it has come this far, so in the middle of what follows.
        relay.kill().expect("killed");
        relay.wait().expect("gone");
        println!("round {round}: {} of {}", log.published("relay"), log.events().len());
    }
    let mut relay = process(&settings, database.url());
    eventually("all are published", || log.is_published("relay"));
    drop(relay.stdin.take());
    assert!(relay.wait().expect("it ends").success());
    println!("{} events, {} repeated", log.events().len(), check(&settings, &log));
}
