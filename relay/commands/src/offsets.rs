//! How far a partition is done with: commands are answered in any order, and none of them may be lost with its engine.

use std::collections::{BTreeMap, BTreeSet};

/// The partitions that are assigned to this process.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    partitions: BTreeMap<i32, Partition>,
}

#[derive(Debug, Default)]
struct Partition {
    /// Records that are not done with.
    under_way: BTreeSet<i64>,
    /// Behind the last record that was taken.
    next: Option<i64>,
    committed: Option<i64>,
}

impl Offsets {
    /// A record was taken; one that is `owed` counts as under way until it is done.
    pub(crate) fn taken(&mut self, partition: i32, offset: i64, owed: bool) {
        let partition = self.partitions.entry(partition).or_default();
        partition.next = Some(partition.next.unwrap_or(0).max(offset + 1));
        if owed {
            partition.under_way.insert(offset);
        }
    }

    /// A record that was owed is done with.
    pub(crate) fn done(&mut self, partition: i32, offset: i64) {
        if let Some(partition) = self.partitions.get_mut(&partition) {
            partition.under_way.remove(&offset);
        }
    }

    /// The partition is another process's now.
    pub(crate) fn forget(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    /// Where a process that takes over would have to begin, for each partition where that has moved. It counts as said.
    pub(crate) fn moved(&mut self) -> Vec<(i32, i64)> {
        let mut moved = Vec::new();
        for (number, partition) in &mut self.partitions {
            let begin = partition.under_way.first().copied().or(partition.next);
            if let Some(begin) = begin.filter(|begin| Some(*begin) != partition.committed) {
                partition.committed = Some(begin);
                moved.push((*number, begin));
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_over_begins_with_the_first_that_is_not_done() {
        let mut offsets = Offsets::default();
        assert_eq!(offsets.moved(), []);
        for (offset, owed) in [(10, true), (11, false), (12, true), (13, true)] {
            offsets.taken(3, offset, owed);
        }
        offsets.taken(4, 7, false);
        assert_eq!(offsets.moved(), [(3, 10), (4, 8)]);
        offsets.done(3, 12);
        assert_eq!(offsets.moved(), [], "the first is still under way");
        offsets.done(3, 10);
        assert_eq!(offsets.moved(), [(3, 13)]);
        offsets.done(3, 13);
        assert_eq!(offsets.moved(), [(3, 14)]);
        assert_eq!(offsets.moved(), [], "it was said");
        offsets.forget(3);
        offsets.done(3, 13);
        assert_eq!(offsets.moved(), []);
    }
}
