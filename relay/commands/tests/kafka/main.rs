//! Engines of one log that reach one another through a real Kafka only. Each has what a process of its own would have.

mod lines;
mod moving;
mod records;
mod selling;
mod shop;
mod speed;
mod standing;
mod trouble;

use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// Looks again and again until it is so.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
