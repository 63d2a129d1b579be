//! The hash chain over batches.

use crate::Event;

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// What stands before the first batch of a log.
pub const GENESIS: Hash = [0; 32];

/// The hash of a batch: over the hash before it and every column of every event, each column with its length.
pub fn batch_hash(previous: &Hash, events: &[Event]) -> Hash {
    let mut hasher = BatchHasher::after(previous);
    for event in events {
        hasher.event(event);
    }
    hasher.finish()
}

/// Computes the hash of a batch whose events come one after another: [`batch_hash`] for one who does not keep them.
#[derive(Clone, Debug)]
pub struct BatchHasher {
    hasher: blake3::Hasher,
    row: Vec<u8>,
}

impl BatchHasher {
    /// A batch that follows the one with this hash.
    pub fn after(previous: &Hash) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(previous);
        Self {
            hasher,
            row: Vec::with_capacity(1024),
        }
    }

    /// Its next event.
    pub fn event(&mut self, event: &Event) {
        let row = &mut self.row;
        row.clear();
        row.extend_from_slice(&event.shard.to_le_bytes());
        row.extend_from_slice(&event.position.to_le_bytes());
        column(row, event.stream.kind.as_bytes());
        row.extend_from_slice(event.stream.id.as_bytes());
        row.extend_from_slice(&event.sequence.to_le_bytes());
        row.extend_from_slice(event.event_id.as_bytes());
        column(row, event.event_type.as_bytes());
        column(row, event.event_version.as_bytes());
        row.extend_from_slice(&event.recorded_at.to_le_bytes());
        column(row, event.payload.as_bytes());
        column(row, event.metadata.as_bytes());
        self.hasher.update(row);
    }

    /// The hash of the events so far.
    pub fn finish(&self) -> Hash {
        *self.hasher.finalize().as_bytes()
    }
}

fn column(row: &mut Vec<u8>, bytes: &[u8]) {
    row.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    row.extend_from_slice(bytes);
}
