//! Giving batches out, and what follows when they are durable, or are not.

use std::sync::Arc;

use event_store::{Batch, CommitError, batch_hash};
use uuid::Uuid;

use super::{
    Core, Output, Release, Work,
    open::{Committing, Open},
    park,
};
use crate::EngineError;

/// How long the core's own work waits after a commit has failed.
pub(super) const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

impl<T> Core<T> {
    pub(super) fn release_or_commit(&mut self, outputs: &mut Vec<Output<T>>) {
        if self.open.is_empty() {
            // Nothing to write. What was decided on a state that is being committed waits for that; the rest may leave.
            let releases = std::mem::take(&mut self.open.releases);
            match &mut self.committing {
                Some(committing) => committing.releases.extend(releases),
                None => release(releases, outputs),
            }
        } else if self.committing.is_none() {
            self.states.seal();
            self.purchases.seal();
            let next = Open::new(self.open.position(), self.open.orders_numbered);
            let open = std::mem::replace(&mut self.open, next);
            let (batch, committing) = self.give_out(open);
            outputs.push(Output::Commit(Arc::new(batch)));
            self.committing = Some(committing);
        }
    }

    fn give_out(&self, mut open: Open<T>) -> (Batch, Committing<T>) {
        let hash = if open.events.is_empty() {
            self.durable.hash
        } else {
            batch_hash(&self.durable.hash, &open.events)
        };
        let records = open.records.iter().map(|record| record.key).collect();
        // An effect that was owed and settled in one batch was never owed.
        let settled: Vec<_> = open.settled.into_iter().filter(|id| open.owed.remove(id).is_none()).collect();
        let mut owed: Vec<_> = open.owed.into_values().collect();
        owed.sort_unstable_by_key(|owed| owed.id);
        let (mut timers, mut timers_done) = (Vec::new(), Vec::new());
        for (id, timer) in open.timers {
            match timer {
                Some(timer) => timers.push(timer),
                None => timers_done.push(id),
            }
        }
        timers.sort_unstable_by_key(|timer| timer.id);
        timers_done.sort_unstable();
        let batch = Batch {
            shard: self.durable.shard,
            epoch: self.durable.epoch,
            first_position: open.base + 1,
            events: open.events,
            records: open.records,
            owed,
            settled,
            timers,
            timers_done,
            parked: open.parked,
            snapshots: open.snapshots,
            orders_numbered: open.orders_numbered,
            previous_hash: self.durable.hash,
            hash,
        };
        let Open {
            recorded,
            orders_numbered,
            releases,
            own,
            ..
        } = Open {
            events: Vec::new(),
            records: Vec::new(),
            owed: Default::default(),
            settled: Vec::new(),
            timers: Default::default(),
            parked: Vec::new(),
            snapshots: Vec::new(),
            ..open
        };
        (
            batch,
            Committing {
                hash,
                records,
                recorded,
                orders_numbered,
                releases,
                own,
            },
        )
    }

    /// Told how the batch that was given out fared.
    pub(super) fn committed(&mut self, result: Result<(), CommitError>, outputs: &mut Vec<Output<T>>) {
        let Some(committing) = self.committing.take() else { return };
        match result {
            Ok(()) => self.durable_now(committing, outputs),
            Err(CommitError::Refused(reason)) => {
                tracing::error!(%reason, "the store refused a batch; its inputs are committed one by one");
                self.take_back(committing, None, &reason, outputs);
            }
            Err(CommitError::NotWritten(error) | CommitError::Unknown(error)) => {
                tracing::error!(%error, "a batch was not written; what it held is dropped");
                self.pause_until = Some(self.now.after(PAUSE));
                let reason = error.to_string();
                self.take_back(committing, Some(EngineError::Unavailable(reason.clone())), &reason, outputs);
            }
            Err(error @ (CommitError::Fenced(_) | CommitError::Disk(_))) => {
                self.stopped = true;
                self.committing = Some(committing);
                self.turn_away(outputs);
                outputs.push(Output::Stop { reason: error.to_string() });
            }
        }
    }

    fn durable_now(&mut self, committing: Committing<T>, outputs: &mut Vec<Output<T>>) {
        self.states.durable();
        self.purchases.durable();
        for key in committing.records {
            self.fresh_records.remove(&key);
        }
        self.durable.orders_numbered = committing.orders_numbered;
        if let Some(last) = committing.recorded.last() {
            self.durable.position = last.position;
            self.durable.recorded_at = last.at.micros();
            self.durable.hash = committing.hash;
            outputs.push(Output::Publish(committing.recorded.into()));
        }
        release(committing.releases, outputs);
    }

    /// Drops everything that is not durable and goes back to the durable head.
    ///
    /// With an error, requests are answered with it. Without one the batch was refused for what it contains: its inputs are decided again,
    /// each in a batch of its own, and the one that is refused alone is set aside.
    fn take_back(&mut self, mut committing: Committing<T>, error: Option<EngineError>, reason: &str, outputs: &mut Vec<Output<T>>) {
        let next = Open::after(&self.durable);
        let mut open = std::mem::replace(&mut self.open, next);
        self.states.forget_undurable();
        self.purchases.forget_undurable();
        self.fresh_records.clear();
        self.prefetched.clear();
        self.next_turn.clear();
        let requests = committing
            .releases
            .iter()
            .filter(|release| matches!(release, Release::Answer { retry: Some(_), .. }))
            .count();
        let culprit = error.is_none() && requests + committing.own.len() == 1;

        let mut own: Vec<_> = open.own.drain(..).collect();
        let mut guilty = None;
        if culprit {
            guilty = committing.own.pop();
        }
        own.splice(0..0, committing.own.drain(..));
        let mut again = Vec::new();
        for (release, of_committing) in committing
            .releases
            .into_iter()
            .map(|release| (release, true))
            .chain(open.releases.into_iter().map(|release| (release, false)))
        {
            let Release::Answer { ticket, retry, .. } = release else { continue };
            match (&error, retry) {
                (Some(error), _) => outputs.push(Output::Answer(ticket, Err(error.clone()))),
                (None, Some(request)) if culprit && of_committing => {
                    let id = Uuid::new_v5(&request.cause.correlation, b"parked");
                    self.set_aside(
                        id,
                        park(request.command.clone(), Some(request.cause.clone()), None),
                        reason.to_owned(),
                    );
                    self.open.releases.push(Release::Answer {
                        ticket,
                        answer: Err(EngineError::Parked(id)),
                        retry: None,
                    });
                }
                (None, Some(request)) => again.push(Work::Request { ticket, request }),
                (None, None) => outputs.push(Output::Answer(ticket, Err(EngineError::Unavailable("try again".to_owned())))),
            }
        }
        // Timers and the rest of cascades come back with what is owed.
        self.backlog.retain(|work| matches!(work, Work::Outcome { .. }));
        for own in own.into_iter().rev() {
            if let super::open::Own::Outcome(..) = own {
                self.backlog.push_front(own.work());
            }
        }
        self.careful = if error.is_none() && !culprit {
            again.len() + self.backlog.len()
        } else {
            self.careful
        };
        for work in again.into_iter().rev() {
            self.waiting.push_front(work);
        }
        if let Err(error) = self.take_up_what_is_owed(false) {
            self.stopped = true;
            outputs.push(Output::Stop { reason: error.to_string() });
        }
        if let Some(own) = guilty {
            self.give_up(own, reason);
        }
    }

    /// Sets aside an input of the core's own that the store refuses.
    fn give_up(&mut self, own: super::open::Own, reason: &str) {
        use super::open::Own;
        let first = match &own {
            Own::Outcome(effect, outcome) => match self.owed.get(effect) {
                Some(crate::stored::Owed::Call { call, origin }) => Some(crate::stored::Rest {
                    command: super::cascade::command_of(call, outcome.clone()),
                    origin: origin.clone(),
                }),
                _ => None,
            },
            Own::Timer(id) => self.timers.command(*id).map(|timer| crate::stored::Rest {
                command: timer.command.clone(),
                origin: timer.origin.clone(),
            }),
            Own::Rest(effect) => self
                .owed
                .get(effect)
                .and_then(super::rest_of)
                .and_then(|rest| rest.into_iter().next()),
        };
        self.backlog
            .retain(|work| !matches!((work, &own), (Work::Rest { effect }, Own::Rest(guilty)) if effect == guilty));
        self.park_own(&own, first, reason.to_owned());
    }
}

fn release<T>(releases: Vec<Release<T>>, outputs: &mut Vec<Output<T>>) {
    outputs.extend(releases.into_iter().map(|release| match release {
        Release::Answer { ticket, answer, .. } => Output::Answer(ticket, answer),
        Release::Call(id, call) => Output::Call(id, call),
    }));
}
