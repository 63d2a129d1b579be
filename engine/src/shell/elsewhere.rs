//! The engines of other processes.

use std::{future::Future, pin::Pin};

use crate::{EngineError, Inboxes, Question, Response};

/// An answer on its way.
pub type Answering = Pin<Box<dyn Future<Output = Result<Response, EngineError>> + Send>>;

/// Asks the engines of shards that are not in this process.
pub trait Elsewhere: Send + Sync {
    /// Asks the engine of a shard, wherever it is. It is asked again until it answers, or [`EngineError::NoAnswer`] after a time that this
    /// sets. It tells `here` of the durable positions that come with the answer. Nobody waits any more once the future is dropped.
    ///
    /// A question that [changes](Question::changes) something can be decided twice only if it has no idempotency key.
    fn ask(&self, shard: u16, question: Question, here: &Inboxes) -> Answering;
}
