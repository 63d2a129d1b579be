//! Reads a shard's events page after page, past what cannot be read.

use event_store::{Event, LogReader, StoreError};

use crate::{Invariant, Place, Report};

/// How many events are read at once.
const PAGE: usize = 1_000;

/// After so many positions that cannot be read the rest is given up.
const MOST_UNREADABLE: usize = 10_000;

pub(crate) struct Pages<'a> {
    reader: &'a dyn LogReader,
    shard: u16,
    after: u64,
    /// The last position that is read.
    to: u64,
    /// So many events are read one by one, because one among them cannot be.
    careful: usize,
    unreadable: usize,
}

impl<'a> Pages<'a> {
    pub(crate) fn new(reader: &'a dyn LogReader, shard: u16, to: u64) -> Self {
        Self {
            reader,
            shard,
            after: 0,
            to,
            careful: 0,
            unreadable: 0,
        }
    }

    /// The next events, at least one; none at the end.
    pub(crate) fn next(&mut self, report: &mut Report) -> Result<Option<Vec<Event>>, StoreError> {
        while self.after < self.to {
            let limit = if self.careful > 0 { 1 } else { PAGE };
            match self.reader.events(self.shard, self.after, limit) {
                Ok(mut events) => {
                    self.careful = self.careful.saturating_sub(1);
                    events.retain(|event| event.position <= self.to);
                    let Some(last) = events.last() else { return Ok(None) };
                    self.after = last.position.max(self.after + 1);
                    return Ok(Some(events));
                }
                Err(StoreError::Corrupt(_)) if self.careful == 0 => self.careful = PAGE,
                Err(StoreError::Corrupt(what)) => {
                    self.after += 1;
                    self.careful -= 1;
                    self.unreadable += 1;
                    report.add(
                        Invariant::Chain,
                        Place::at(self.shard, self.after, self.after),
                        format!("the event cannot be read: {what}"),
                    );
                    if self.unreadable >= MOST_UNREADABLE {
                        report.add(
                            Invariant::Chain,
                            Place::at(self.shard, self.after, self.to),
                            format!("{MOST_UNREADABLE} events cannot be read; the rest is not looked at"),
                        );
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}
