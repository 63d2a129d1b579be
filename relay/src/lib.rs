//! Events out to Kafka: each event of the log becomes one record, a `CloudEvent`, in the order of its stream. And what operators decide in Kafka
//! on inputs that were set aside comes back.
//!
//! The log is the truth and the queue: nothing is kept here but checkpoints, in the store, that move only after the broker has acknowledged
//! everything up to them. So records come at least once. What comes again has the same dedupe key, and of each stream no event is ever seen before
//! the one that precedes it, whatever is retried, restarted or run twice (see [`Relay`]). It never changes the log.

#[cfg(feature = "audit")]
pub mod audit;
mod client;
mod hearing;
mod holds;
mod parked;
mod partition;
mod place;
mod publisher;
mod record;
mod refusal;
mod settings;
mod shard;
mod shelf;
mod signal;
mod standing;
mod topics;
mod trouble;
mod unpark;
mod window;
mod worker;

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

use event_store::EventStore;
use parking_lot::Mutex;

pub use client::KafkaError;
pub use place::move_checkpoint;
pub use settings::{Compression, KafkaSettings, RelaySettings, Sasl, SecurityProtocol, TopicSettings, UnknownName};
pub use standing::Standing;
pub use unpark::{Decision, Decisions, NotUnparked, UnparkSettings, Unparker, Unparking};

use shelf::Shelf;
use signal::Signal;
use standing::State;
use worker::Worker;

/// A relay that runs on threads of its own, until it is stopped or dropped.
///
/// Several may run on one log, in several processes. Each shard is published by the one that moves its checkpoint; another that finds the
/// checkpoint moved by somebody else only watches, and goes on in its place when the checkpoint stands still although there are events.
/// While two of them overlap, records come twice, and that is all: each publishes a stream in order, beginning right behind what is
/// acknowledged. So a consumer that drops each record whose `ce_sequence` is not above the last one of its stream sees every event once, in order.
#[derive(Debug)]
pub struct Relay {
    /// One for each thread; the first is that of the events.
    signals: Vec<Arc<Signal>>,
    state: Arc<Mutex<State>>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Starts a relay. That Kafka or the log cannot be reached is no error: it waits for them.
    ///
    /// # Errors
    /// The settings cannot be used; the text says which.
    pub fn start(settings: RelaySettings, store: Arc<dyn EventStore>) -> Result<Self, KafkaError> {
        let signal = Arc::new(Signal::default());
        let state = Arc::new(Mutex::new(State::default()));
        let shelving = Arc::new(Signal::default());
        let shelf = Shelf::new(&settings, Arc::clone(&store), Arc::clone(&shelving), Arc::clone(&state))?;
        let worker = Worker::new(settings, Arc::clone(&store), Arc::clone(&signal), Arc::clone(&state))?;
        let mut relay = Self {
            signals: vec![Arc::clone(&signal), shelving],
            state,
            threads: Vec::new(),
        };
        relay.spawn("relay", move || worker.run())?;
        relay.spawn("relay-parked", move || shelf.run())?;
        relay.spawn("relay-wakes", move || hearing::run(store.as_ref(), &signal))?;
        Ok(relay)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), KafkaError> {
        let thread = thread::Builder::new().name(name.into()).spawn(work);
        self.threads.push(thread.map_err(|error| KafkaError::no_thread(&error))?);
        Ok(())
    }

    /// Says that there may be new events. Without it they are found a little later.
    pub fn notify(&self) {
        self.signals.iter().take(1).for_each(|signal| signal.wake());
    }

    /// What wakes it, for whoever cannot hold the relay itself.
    pub fn waker(&self) -> impl Fn() + Clone + Send + Sync + 'static {
        let signal = self.signals.first().cloned();
        move || signal.iter().for_each(|signal| signal.wake())
    }

    /// How far it is.
    pub fn standing(&self) -> Standing {
        self.state.lock().standing
    }

    /// What stands in its way, if something does: what weighs most. Not everything keeps it from publishing the rest.
    pub fn hindrance(&self) -> Option<String> {
        self.state.lock().hindrances().next().cloned()
    }

    /// All that stands in its way, one line each, what weighs most first.
    pub fn hindrances(&self) -> Vec<String> {
        self.state.lock().hindrances().cloned().collect()
    }

    /// Whether it does its work: it comes to the log and to Kafka, and the log is the one that it has published. A relay that has nothing to do
    /// because another does it is ready. Records that Kafka refuses make it no less ready, others go on: [`Relay::hindrances`] names them.
    ///
    /// # Errors
    /// Why it is not ready, in words for an operator.
    pub fn readiness(&self) -> Result<(), String> {
        if self.threads.first().is_none_or(JoinHandle::is_finished) {
            return Err("the relay has ended".into());
        }
        self.state.lock().unready().map_or(Ok(()), Err)
    }

    /// Stops it: what is under way is waited for a few seconds, then the checkpoints are moved to what was acknowledged.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.signals.iter().for_each(|signal| signal.stop());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the relay has ended by a panic");
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end();
    }
}
