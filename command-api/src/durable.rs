//! How far the log is durable, as the engine publishes it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use engine::Subscriber;

/// The last position that the engine has published. The engine publishes before it answers: what an answer shows stands at or before it.
///
/// An order that was waited for has moved on since its command, often by another batch. A token of the command's own place would let
/// the views show it as it was before.
#[derive(Clone, Debug, Default)]
pub struct Durable(Arc<AtomicU64>);

impl Durable {
    /// Of a log that stands at this position before its engine starts.
    pub fn from_head(position: u64) -> Self {
        Self(Arc::new(AtomicU64::new(position)))
    }

    /// What the engine tells of its batches.
    pub fn subscriber(&self) -> Subscriber {
        let durable = self.clone();
        Box::new(move |events| {
            if let Some(last) = events.last() {
                durable.0.fetch_max(last.position, Ordering::AcqRel);
            }
        })
    }

    pub(crate) fn position(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}
