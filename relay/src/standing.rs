//! What a relay tells of itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// A turn waits for the store, for the brokers, for a topic that is made. After so long it has got stuck.
const STUCK_AFTER: Duration = Duration::from_mins(2);

/// How far a relay is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether Kafka and the log could be used when it last tried.
    pub connected: bool,
    /// Events that are in the log, and that neither this relay nor another has published, as far as it knows.
    pub lag: u64,
    /// Those of them that wait because Kafka refuses them, or one before them in their stream.
    pub held: u64,
}

/// Kept by the relay's threads, read by whoever asks.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) standing: Standing,
    /// Nothing can be published.
    pub(crate) hindrance: Option<String>,
    /// Shards whose log is not the one that was published.
    pub(crate) stopped: BTreeMap<u16, String>,
    /// Shards in which something is held back.
    pub(crate) held: BTreeMap<u16, String>,
    /// Inputs that were set aside cannot be published.
    pub(crate) parked: Option<String>,
    /// The shards that this relay publishes.
    pub(crate) publishes: BTreeSet<u16>,
    /// When its last turn began.
    pub(crate) turned: Option<Instant>,
}

impl State {
    /// What stands in its way, what weighs most first.
    pub(crate) fn hindrances(&self) -> impl Iterator<Item = &String> {
        let whole = self.hindrance.iter().chain(self.stopped.values());
        whole.chain(self.held.values()).chain(&self.parked)
    }

    /// Why it is not ready.
    pub(crate) fn unready(&self) -> Option<String> {
        if let Some(what) = self.hindrance.iter().chain(self.stopped.values()).next() {
            return Some(what.clone());
        }
        if self.turned.is_some_and(|at| at.elapsed() > STUCK_AFTER) {
            return Some("the relay has got stuck".into());
        }
        (!self.standing.connected).then(|| "the relay has not come to the log and to Kafka yet".into())
    }
}
