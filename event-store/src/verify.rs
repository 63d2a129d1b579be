//! Whether a log is what its writers wrote.

use crate::{GENESIS, LogReader, StoreError, batch_hash};

/// How many batches are read at once.
const PAGE: usize = 1_000;

/// Reads a shard's log from its beginning to its head: every position is there, every batch has its hash, and the last
/// hash is the head's. Returns the head's position.
///
/// It may run beside a writer: what is appended meanwhile is not looked at.
///
/// # Errors
/// [`StoreError::Corrupt`] names the first place that is wrong.
pub fn verify_chain(log: &dyn LogReader, shard: u16) -> Result<u64, StoreError> {
    let Some(head) = log.head(shard)? else { return Ok(0) };
    let (mut position, mut hash) = (0, GENESIS);
    while position < head.position {
        let page = log.batches(shard, position, PAGE)?;
        if page.is_empty() {
            return Err(StoreError::Corrupt(format!(
                "shard {shard} ends at {position}, its head says {}",
                head.position
            )));
        }
        for (last, previous, recorded, _) in page {
            if position == head.position {
                break;
            }
            if previous != hash {
                return Err(StoreError::Corrupt(format!(
                    "shard {shard}: the batch that ends at {last} does not follow the one before"
                )));
            }
            verify_batch(log, shard, position, last, &previous, &recorded)?;
            (position, hash) = (last, recorded);
        }
    }
    if (position, hash) != (head.position, head.hash) {
        return Err(StoreError::Corrupt(format!(
            "shard {shard}: the head at {} is not the end of the last batch",
            head.position
        )));
    }
    Ok(position)
}

fn verify_batch(
    log: &dyn LogReader,
    shard: u16,
    after: u64,
    last: u64,
    previous: &[u8; 32],
    recorded: &[u8; 32],
) -> Result<(), StoreError> {
    let limit = usize::try_from(last.saturating_sub(after)).unwrap_or(usize::MAX);
    let events = log.events(shard, after, limit)?;
    if let Some((event, expected)) = events.iter().zip(after + 1..).find(|(event, expected)| event.position != *expected) {
        return Err(StoreError::Corrupt(format!(
            "shard {shard}: position {expected} is missing before {}",
            event.position
        )));
    }
    if events.len() != limit {
        return Err(StoreError::Corrupt(format!("shard {shard}: events are missing before {last}")));
    }
    if batch_hash(previous, &events) != *recorded {
        return Err(StoreError::Corrupt(format!(
            "shard {shard}: the batch {}..={last} is not what was written",
            after + 1
        )));
    }
    Ok(())
}
