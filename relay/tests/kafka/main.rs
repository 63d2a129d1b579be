//! The relay with a real Kafka: what comes out of it is compared with the log.

mod log;
mod parked;
mod publishing;
mod reading;
mod secured;
mod several;
mod trouble;

use std::time::{Duration, Instant};

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
