//! How far somebody who reads the log has come: kept in the store, so that whoever goes on in their place knows.

use crate::StoreError;

/// Checkpoints of readers whose work cannot be written in one transaction with their place: a relay. A view keeps its own, beside its rows.
///
/// One thread owns it. What it says is durable.
pub trait Checkpoints: Send {
    /// How far the reader of this name is: shard and position, in the order of the shards. A shard that it never came forward in is not named.
    ///
    /// # Errors
    /// The store cannot be read.
    fn read(&mut self, name: &str) -> Result<Vec<(u16, u64)>, StoreError>;

    /// Moves a checkpoint to `to`, if it stands at `from`; one that was never moved stands at 0. False: it stands elsewhere, because somebody
    /// else moved it, and nothing was changed.
    ///
    /// # Errors
    /// The store cannot be written, or gave no answer. Then the checkpoint may have been moved: read it.
    fn advance(&mut self, name: &str, shard: u16, from: u64, to: u64) -> Result<bool, StoreError>;
}
