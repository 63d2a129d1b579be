//! Messages that other shards have not answered yet, and when they are sent again.

use std::{collections::BTreeSet, time::Duration};

use aggregates::Timestamp;
use rustc_hash::FxHashMap;
use uuid::Uuid;

/// How long to wait for the first answer; twice as long for each that follows.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest.
const MOST_PATIENCE: Duration = Duration::from_secs(30);

/// So many messages are sent again in one step.
const MOST_AT_ONCE: usize = 512;

/// Durable messages without an answer.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    by_id: FxHashMap<Uuid, (Timestamp, Duration)>,
    by_due: BTreeSet<(Timestamp, Uuid)>,
}

impl Outbox {
    /// A message was sent now for the first time.
    pub(super) fn sent(&mut self, id: Uuid, now: Timestamp) {
        self.wait(id, now.after(PATIENCE), PATIENCE);
    }

    /// A message is to be sent now.
    pub(super) fn send(&mut self, id: Uuid, now: Timestamp) {
        self.wait(id, now, PATIENCE);
    }

    /// A message was answered.
    pub(super) fn answered(&mut self, id: Uuid) {
        if let Some((due, _)) = self.by_id.remove(&id) {
            self.by_due.remove(&(due, id));
        }
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.by_due.first().map(|(due, _)| *due)
    }

    /// The messages that are to be sent again; each then waits longer than before.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Vec<Uuid> {
        let due = self.by_due.iter().take_while(|(due, _)| *due <= now).take(MOST_AT_ONCE);
        let due: Vec<_> = due.map(|(_, id)| *id).collect();
        for id in &due {
            let patience = self.by_id.get(id).map_or(PATIENCE, |(_, patience)| *patience);
            self.wait(*id, now.after(patience), (patience * 2).min(MOST_PATIENCE));
        }
        due
    }

    fn wait(&mut self, id: Uuid, due: Timestamp, patience: Duration) {
        self.answered(id);
        self.by_due.insert((due, id));
        self.by_id.insert(id, (due, patience));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_answered_is_sent_again_less_and_less_often() {
        let id = Uuid::nil();
        let mut now = Timestamp::from_micros(0);
        let mut outbox = Outbox::default();
        outbox.sent(id, now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let due = outbox.next_due().expect("it is owed");
            assert!(outbox.take_due(Timestamp::from_micros(due.micros() - 1)).is_empty());
            waits.push((due.micros() - now.micros()) / 1_000_000);
            assert_eq!(outbox.take_due(due), [id]);
            now = due;
        }
        assert_eq!(waits, [1, 1, 2, 4, 8, 16, 30, 30]);
        outbox.answered(id);
        assert_eq!(outbox.next_due(), None);
    }
}
