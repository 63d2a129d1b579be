//! Timers by name and by time.

use std::collections::BTreeSet;

use aggregates::Timestamp;
use rustc_hash::FxHashMap;
use uuid::Uuid;

use crate::stored::Task;

/// The timers that are set.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_id: FxHashMap<Uuid, (Timestamp, Task)>,
    by_due: BTreeSet<(Timestamp, Uuid)>,
}

impl Timers {
    /// Sets a timer, or moves it.
    pub(super) fn set(&mut self, id: Uuid, due: Timestamp, task: Task) {
        self.cancel(id);
        self.by_due.insert((due, id));
        self.by_id.insert(id, (due, task));
    }

    /// Forgets a timer; says whether there was one.
    pub(super) fn cancel(&mut self, id: Uuid) -> bool {
        match self.by_id.remove(&id) {
            Some((due, _)) => {
                self.by_due.remove(&(due, id));
                true
            }
            None => false,
        }
    }

    /// What a timer asks for, if its time has come: it may have been moved since.
    pub(super) fn due(&self, id: Uuid, now: Timestamp) -> Option<&Task> {
        self.by_id.get(&id).filter(|(due, _)| *due <= now).map(|(_, task)| task)
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.by_due.first().map(|(due, _)| *due)
    }

    /// The timers whose time has come, at most a few hundred. They stay known until they are cancelled, but are not named again.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Vec<Uuid> {
        let due: Vec<_> = self.by_due.iter().take_while(|(due, _)| *due <= now).take(512).copied().collect();
        for entry in &due {
            self.by_due.remove(entry);
        }
        due.into_iter().map(|(_, id)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use aggregates::{AccountId, Command, Currency, WalletCommand};

    use super::*;
    use crate::stored::{Deed, Origin};

    #[test]
    fn a_timer_that_is_moved_after_its_time_came_waits_for_its_new_time() {
        let open = Command::Wallet(AccountId::new(Uuid::nil()), WalletCommand::Open { currency: Currency::KRW });
        let origin = Origin {
            correlation: Uuid::nil(),
            causation: Uuid::nil(),
        };
        let task = Task::new(Deed::Command(open), origin);
        let (soon, later) = (Timestamp::from_micros(1), Timestamp::from_micros(10));
        let mut timers = Timers::default();
        timers.set(Uuid::nil(), soon, task.clone());
        assert_eq!(timers.take_due(soon), [Uuid::nil()]);
        timers.set(Uuid::nil(), later, task);
        assert!(timers.due(Uuid::nil(), soon).is_none());
        assert_eq!(timers.take_due(later), [Uuid::nil()]);
        assert!(timers.due(Uuid::nil(), later).is_some());
    }
}
