//! Ids that say where they were made.

use uuid::Uuid;

/// An id holds so much of its writer's epoch.
pub(crate) const EPOCH: u64 = 0xfff;

/// What an id is made of: UUIDv8, 4 bytes of the log's id, the shard, 12 bits of the epoch, the position.
pub(crate) struct Made {
    pub(crate) log: [u8; 4],
    pub(crate) shard: u16,
    pub(crate) epoch: u64,
    pub(crate) position: u64,
}

impl Made {
    /// None for an id that no engine made.
    pub(crate) fn of(id: Uuid) -> Option<Self> {
        let bytes = id.as_bytes();
        if bytes[6] >> 4 != 8 || bytes[8] >> 6 != 0b10 {
            return None;
        }
        let (high, low) = id.as_u64_pair();
        Some(Self {
            log: [bytes[0], bytes[1], bytes[2], bytes[3]],
            shard: u16::from_be_bytes([bytes[4], bytes[5]]),
            epoch: high & EPOCH,
            position: low & (u64::MAX >> 2),
        })
    }
}
