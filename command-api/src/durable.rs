//! How far the log is durable, as the engine publishes it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use engine::{ConsistencyToken, Subscriber};

/// The last positions that the engine has published. The engine publishes before it answers: what an answer shows stands at or before them.
///
/// An order that was waited for has moved on since its command, often by another batch, and its goods and its buyer's balance may be kept
/// by other shards. A token of the command's own place would let the views show it as it was before.
#[derive(Clone, Debug)]
pub struct Durable(Arc<[AtomicU64]>);

impl Durable {
    /// Of a log whose shards stand at these positions before its engine starts.
    pub fn from_heads(positions: impl IntoIterator<Item = u64>) -> Self {
        Self(positions.into_iter().map(AtomicU64::new).collect())
    }

    /// What the engine tells of its batches.
    pub fn subscriber(&self) -> Subscriber {
        let durable = self.clone();
        Box::new(move |events| {
            if let Some(last) = events.last()
                && let Some(position) = durable.0.get(usize::from(last.shard))
            {
                position.fetch_max(last.position, Ordering::AcqRel);
            }
        })
    }

    /// A view that shows this shows all that is durable of the token's shard now.
    pub(crate) fn token(&self, token: ConsistencyToken, shard: u16) -> ConsistencyToken {
        let durable = self
            .0
            .get(usize::from(shard))
            .map_or(0, |position| position.load(Ordering::Acquire));
        let decided = if shard == token.shard { token.position } else { 0 };
        ConsistencyToken {
            shard,
            position: durable.max(decided),
            ..token
        }
    }
}
