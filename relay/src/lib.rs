//! Events out to Kafka: each event of the log becomes one record, a `CloudEvent`, in the order of its stream. And what operators decide in Kafka
//! on inputs that were set aside comes back.
//!
//! The log is the truth and the queue: nothing is kept here but a checkpoint, in the store, that moves only after the broker has acknowledged
//! everything up to it. So records come at least once. What comes again has the same dedupe key, and of each stream no event is ever seen before
//! the one that precedes it, whatever is retried, restarted or run twice (see [`Relay`]). It never changes the log.

mod client;
mod parked;
mod publisher;
mod record;
mod settings;
mod topics;
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
pub use settings::{Compression, KafkaSettings, RelaySettings, Sasl, SecurityProtocol, TopicSettings, UnknownName};
pub use unpark::{Decision, NotUnparked, UnparkSettings, Unparker, Unparking};

use worker::{Signal, Worker};

/// How far a relay is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether Kafka and the log could be used when it last tried.
    pub connected: bool,
    /// Events that are in the log, and that neither this relay nor another has published, as far as it knows.
    pub lag: u64,
}

/// What a relay tells of itself.
#[derive(Debug, Default)]
struct State {
    standing: Standing,
    hindrance: Option<String>,
}

/// A relay that runs as a thread of its own, until it is stopped or dropped.
///
/// Several may run on one log, in several processes. Each shard is published by the one that moves its checkpoint; another that finds the
/// checkpoint moved by somebody else only watches, and goes on in its place when the checkpoint stands still although there are events.
/// While two of them overlap, records come twice, and that is all: each publishes a stream in order, beginning right behind what is
/// acknowledged. So a consumer that drops each record whose `ce_sequence` is not above the last one of its stream sees every event once, in order.
#[derive(Debug)]
pub struct Relay {
    signal: Arc<Signal>,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts a relay. That Kafka or the log cannot be reached is no error: it waits for them.
    ///
    /// # Errors
    /// The settings cannot be used; the text says which.
    pub fn start(settings: RelaySettings, store: Arc<dyn EventStore>) -> Result<Self, KafkaError> {
        let signal = Arc::new(Signal::default());
        let state = Arc::new(Mutex::new(State::default()));
        let worker = Worker::new(settings, store, Arc::clone(&signal), Arc::clone(&state))?;
        let thread = thread::Builder::new().name("relay".into()).spawn(move || worker.run());
        Ok(Self {
            signal,
            state,
            thread: Some(thread.map_err(|error| KafkaError::no_thread(&error))?),
        })
    }

    /// Says that there may be new events. Without it they are found a little later.
    pub fn notify(&self) {
        self.signal.wake();
    }

    /// What wakes it, for whoever cannot hold the relay itself.
    pub fn waker(&self) -> impl Fn() + Clone + Send + Sync + 'static {
        let signal = Arc::clone(&self.signal);
        move || signal.wake()
    }

    /// How far it is.
    pub fn standing(&self) -> Standing {
        self.state.lock().standing
    }

    /// What stands in its way, if something does.
    pub fn hindrance(&self) -> Option<String> {
        self.state.lock().hindrance.clone()
    }

    /// Stops it: what is under way is waited for a few seconds, then the checkpoints are moved to what was acknowledged.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.signal.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the relay has ended by a panic");
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end();
    }
}

pub use unpark::Decisions;
