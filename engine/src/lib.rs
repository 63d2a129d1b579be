//! The one way to change anything: decide, sequence, react, commit, release.
//!
//! A shard has one writer: a deterministic core without I/O ([`Core`]) and a thin shell around it ([`Engine`]) that owns the threads, the
//! store, the provider's client and the clock. Nothing leaves before what caused it is durable.

mod cache;
mod core;
mod message;
mod numbers;
mod question;
mod request;
mod shell;
mod stored;

pub use core::{Core, CoreSettings, Input, Outcome, Output, Response};
pub use event_store::{ConsistencyToken, Shards, Unparking};
pub use message::Message;
pub use question::Question;
pub use request::{Actor, Answer, Cause, EngineError, Idempotency, Planned, Reply, Represent, Request, SetAside, Unpark, Until, Versioned};
pub use shell::{
    Answering, Elsewhere, Engine, EngineSettings, Engines, InProcess, Inboxes, Load, Running, Subscriber, Transport, after_doubt,
};
