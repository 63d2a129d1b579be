//! The relay with a real Kafka: what comes out of it is compared with the log.

mod auditing;
mod history;
mod log;
mod parked;
mod publishing;
mod reading;
mod refused;
mod secured;
mod several;
mod trouble;

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
};
use relay::{KafkaSettings, RelaySettings};
use uuid::Uuid;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// Settings whose topics no other test has.
fn settings(brokers: &str) -> RelaySettings {
    let mut settings = RelaySettings::new(KafkaSettings::plaintext(brokers));
    settings.topics.prefix = format!("t{}.", Uuid::new_v4().simple());
    settings.topics.partitions = 4;
    settings
}

/// Looks again and again until it is so.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Changes a setting of a topic.
fn alter(brokers: &str, topic: &str, name: &str, value: &str) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a client");
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let altered = runtime
        .block_on(admin.alter_configs([&change], &AdminOptions::new()))
        .expect("asked");
    assert!(altered.iter().all(Result::is_ok), "{altered:?}");
}

/// What cannot be compressed, so that the broker sees how much it is.
fn large(bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 40);
    while text.len() < bytes {
        text.push_str(&Uuid::new_v4().simple().to_string());
    }
    text
}
