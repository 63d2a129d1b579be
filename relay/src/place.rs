//! Where a relay stands in a log: its checkpoints, and whether the log is still the one that they were made for.

use event_store::{Checkpoints, EventStore, LogReader, StoreError};

use crate::window::Print;

/// How many bits of a mark tell the event, and how many its position.
const PRINT_BITS: u32 = 23;
const POSITION_BITS: u32 = 40;

/// The checkpoint that says how far a relay is beyond events that it holds back, so that others see that it lives.
pub(crate) fn beyond(name: &str) -> String {
    format!("{name}_beyond")
}

/// The checkpoint that says which event stood at a position that was published.
pub(crate) fn mark(name: &str) -> String {
    format!("{name}_mark")
}

/// What a mark says, as the number that a checkpoint holds. None beyond a million million events.
pub(crate) fn as_mark(position: u64, print: Print) -> Option<u64> {
    (position < 1 << POSITION_BITS).then(|| position << PRINT_BITS | print.bits(PRINT_BITS))
}

/// Whether a mark is made at this very position.
pub(crate) const fn is_marked(position: u64, mark: u64) -> bool {
    position > 0 && mark >> PRINT_BITS == position
}

/// Where a reader of this name stands in a shard.
pub(crate) fn stands_at(checkpoints: &mut dyn Checkpoints, name: &str, shard: u16) -> Result<u64, StoreError> {
    let all = checkpoints.read(name)?;
    Ok(all.iter().find(|(number, _)| *number == shard).map_or(0, |(_, position)| *position))
}

/// What a log has where a relay's checkpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The event that stands there; none at the log's beginning.
    Event(Option<Print>),
    /// The log ends before it.
    LogEnds(u64),
    /// Another event stands where the mark is.
    AnotherAt(u64),
}

/// Looks whether the log is still the one that was published up to its checkpoint.
///
/// A mark behind the checkpoint says nothing: somebody has moved the checkpoint back since.
pub(crate) fn find(reader: &dyn LogReader, shard: u16, stands: u64, mark: u64) -> Result<Found, StoreError> {
    let (at, bits) = (mark >> PRINT_BITS, mark & ((1 << PRINT_BITS) - 1));
    if (1..=stands).contains(&at)
        && let Some(print) = print_at(reader, shard, at)?
        && print.bits(PRINT_BITS) != bits
    {
        return Ok(Found::AnotherAt(at));
    }
    if stands == 0 {
        return Ok(Found::Event(None));
    }
    match print_at(reader, shard, stands)? {
        Some(print) => Ok(Found::Event(Some(print))),
        None => Ok(Found::LogEnds(reader.head(shard)?.map_or(0, |head| head.position))),
    }
}

fn print_at(reader: &dyn LogReader, shard: u16, position: u64) -> Result<Option<Print>, StoreError> {
    let events = reader.events(shard, position - 1, 1)?;
    let there = events.first().filter(|event| event.position == position);
    Ok(there.map(|event| Print::of(event.event_id)))
}

/// Sets a relay's checkpoint, for a log that was put back to an earlier state: what comes behind `to` is published next, whatever was published
/// before. A relay that runs finds it within seconds.
///
/// # Errors
/// The store cannot be read or written, or the relay moves the checkpoint at this very moment.
pub fn move_checkpoint(store: &dyn EventStore, name: &str, shard: u16, to: u64) -> Result<(), StoreError> {
    let mut checkpoints = store.checkpoints()?;
    // The mark goes first: without it, any log is the one that was published.
    for (name, to) in [(mark(name), 0), (beyond(name), 0), (name.to_owned(), to)] {
        let stands = stands_at(checkpoints.as_mut(), &name, shard)?;
        if stands != to && !checkpoints.advance(&name, shard, stands, to)? {
            let moved = format!("the checkpoint {name} of shard {shard} is moved by a relay at this moment; stop it, or try again");
            return Err(StoreError::Foreign(moved));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_mark_holds_a_position_and_an_event() {
        let print = Print::of(Uuid::from_u128(0x1234_5678_9abc));
        let mark = as_mark(4_711, print).expect("it fits");
        assert_eq!(
            (mark >> PRINT_BITS, mark & ((1 << PRINT_BITS) - 1)),
            (4_711, print.bits(PRINT_BITS))
        );
        let largest = as_mark((1 << POSITION_BITS) - 1, print).expect("it fits");
        assert!(i64::try_from(largest).is_ok(), "a database's number holds it");
        assert_eq!(as_mark(1 << POSITION_BITS, print), None);
    }
}
