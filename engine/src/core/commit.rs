//! Giving batches out, and what follows when they are durable, or are not.

use std::sync::Arc;

use event_store::{Batch, CommitError, StoreError, batch_hash};
use rustc_hash::FxHashMap;
use uuid::Uuid;

use super::{
    Core, Output,
    open::{Committing, Open, Own, Release},
};
use crate::{EngineError, Request};

/// How long the core's own work waits after a commit has failed.
pub(super) const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

impl<T> Core<T> {
    pub(super) fn release_or_commit(&mut self, outputs: &mut Vec<Output<T>>) {
        if self.open.is_empty() {
            // Nothing to write. What was decided on a state that is being committed waits for that; the rest may leave.
            let releases = std::mem::take(&mut self.open.releases);
            match &mut self.committing {
                Some(committing) => committing.releases.extend(releases),
                None => self.release(releases, outputs),
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

    fn give_out(&self, open: Open<T>) -> (Batch, Committing<T>) {
        let previous_hash = self.durable.hash;
        let hash = if open.events.is_empty() {
            previous_hash
        } else {
            batch_hash(&previous_hash, &open.events)
        };
        let committing = Committing {
            hash,
            records: open.records.iter().map(|record| record.key).collect(),
            recorded: open.recorded,
            orders_numbered: open.orders_numbered,
            releases: open.releases,
            own: open.own,
            gives_up: open.gives_up,
            tells: open.tells,
            in_pieces: open.in_pieces,
        };
        let (owed, settled) = set_and_done(open.effects);
        let (timers, timers_done) = set_and_done(open.timers);
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
            unparked: open.unparked,
            snapshots: open.snapshots,
            orders_numbered: open.orders_numbered,
            previous_hash,
            hash,
        };
        (batch, committing)
    }

    /// Told how the batch that was given out fared.
    pub(super) fn committed(&mut self, result: Result<(), CommitError>, outputs: &mut Vec<Output<T>>) {
        if let Err(error @ (CommitError::Fenced(_) | CommitError::Disk(_))) = result {
            self.stopped = true;
            self.turn_away(outputs);
            outputs.push(Output::Stop { reason: error.to_string() });
            return;
        }
        let Some(committing) = self.committing.take() else { return };
        match result {
            Ok(()) => self.durable_now(committing, outputs),
            Err(CommitError::Refused(reason)) => {
                tracing::error!(%reason, "the store refused a batch; its inputs are committed one by one");
                self.take_back(committing, true, &reason, outputs);
            }
            Err(error) => {
                tracing::error!(%error, "a batch was not written; what it held is dropped");
                self.pause_until = Some(self.now.after(PAUSE));
                self.take_back(committing, false, &error.to_string(), outputs);
            }
        }
    }

    fn durable_now(&mut self, committing: Committing<T>, outputs: &mut Vec<Output<T>>) {
        self.states.durable();
        self.purchases.durable();
        for key in committing.records {
            self.fresh_records.remove(&key);
            self.fresh_answers.remove(&Uuid::from_bytes(key.0));
        }
        self.durable.orders_numbered = committing.orders_numbered;
        if let Some(last) = committing.recorded.last() {
            self.durable.position = last.position;
            self.durable.recorded_at = last.at.micros();
            self.durable.hash = committing.hash;
            outputs.push(Output::Publish(committing.recorded.into()));
        }
        self.release(committing.releases, outputs);
    }

    fn release(&mut self, releases: Vec<Release<T>>, outputs: &mut Vec<Output<T>>) {
        for release in releases {
            outputs.push(match release {
                Release::Answer { ticket, answer, .. } => Output::Answer(ticket, answer),
                Release::Call(id, call) => Output::Call(id, call),
                Release::Send(message) => {
                    // It may have been answered meanwhile, if it was owed before.
                    if !message.is_answer() && self.owed.contains_key(&message.id) {
                        self.outbox.sent(message.id, self.now);
                    }
                    Output::Send(message)
                }
            });
        }
    }

    /// Drops everything that is not durable and goes back to the durable head.
    ///
    /// Requests are answered with the reason. But when the batch was refused for what it contains, its inputs are decided again, each in
    /// a batch of its own, and the one that is refused alone is set aside.
    fn take_back(&mut self, mut committing: Committing<T>, refused: bool, reason: &str, outputs: &mut Vec<Output<T>>) {
        let next = Open::after(&self.durable);
        let open = std::mem::replace(&mut self.open, next);
        self.states.forget_undurable();
        self.purchases.forget_undurable();
        self.fresh_records.clear();
        self.fresh_answers.clear();
        self.prefetched.clear();
        self.next_turn.clear();
        let requests = committing
            .releases
            .iter()
            .filter(|release| matches!(release, Release::Answer { retry: Some(_), .. }))
            .count();
        let culprit = refused && requests + committing.own.len() == 1;
        let guilty = committing.own.pop_if(|_| culprit);

        // Timers and the rest of cascades come back with what is owed.
        self.backlog.retain(Own::came_in);
        let own: Vec<_> = committing.own.into_iter().chain(open.own).collect();
        let timers = own.iter().filter(|own| matches!(own, Own::Timer(_))).count();
        for own in own.into_iter().filter(Own::came_in).rev() {
            self.take_again(own);
        }
        let mut again = Vec::new();
        let mut guilty_request = None;
        let of_committing = committing.releases.into_iter().map(|release| (release, culprit));
        for (release, culprit) in of_committing.chain(open.releases.into_iter().map(|release| (release, false))) {
            let Release::Answer { ticket, retry, .. } = release else { continue };
            match retry {
                Some(request) if culprit => guilty_request = Some((ticket, request)),
                Some(request) if refused => again.push((ticket, request)),
                _ => outputs.push(Output::Answer(ticket, Err(EngineError::Unavailable(reason.to_owned())))),
            }
        }
        self.catch_up(outputs);
        if refused && !culprit {
            self.careful = self.backlog.len() + timers + again.len();
        }
        for request in again.into_iter().rev() {
            self.waiting.push_front(request);
        }
        if guilty_request.is_some() || guilty.is_some() {
            // What is tried next stands alone too, or whatever follows would be blamed with it and all begin again.
            self.careful = self.careful.max(1);
        }
        if let Some((ticket, request)) = guilty_request {
            self.condemn(ticket, request, committing.in_pieces || self.behind, reason);
        }
        match guilty {
            // Not even giving it up can be written now.
            Some(own) if committing.gives_up && !committing.tells || self.behind => {
                self.pause_until = Some(self.now.after(PAUSE));
                if own.came_in() {
                    self.take_again(own);
                }
            }
            Some(own) => {
                self.backlog
                    .retain(|again| !matches!((again, &own), (Own::Rest(again), Own::Rest(guilty)) if again == guilty));
                let whole = !committing.gives_up && !committing.in_pieces;
                if !(whole && self.carry_on_in_pieces(&own)) {
                    // Where the order cannot be told, it is set aside without a word.
                    self.give_up(own, reason, !committing.tells);
                }
            }
            None => {}
        }
    }

    /// A request whose batch was refused: its own command may still be written without what follows. If not it is set aside.
    fn condemn(&mut self, ticket: T, request: Box<Request>, in_pieces: bool, reason: &str) {
        let condemned = if in_pieces {
            Err((ticket, request))
        } else {
            self.answer_in_pieces(ticket, request)
        };
        if let Err((ticket, request)) = condemned {
            let answer = Err(self.park(&request, reason.to_owned()));
            self.open.releases.push(Release::Answer {
                ticket,
                answer,
                retry: None,
            });
        }
    }

    /// Reads what is owed, after a batch was dropped. When that fails it is tried again a little later.
    pub(super) fn catch_up(&mut self, outputs: &mut Vec<Output<T>>) {
        match self.take_up_what_is_owed(false) {
            Ok(()) => self.behind = false,
            Err(StoreError::Unavailable(error)) => {
                tracing::warn!(%error, "what is owed cannot be read; this is tried again");
                self.behind = true;
                self.pause_until = Some(self.now.after(PAUSE));
            }
            Err(error) => {
                self.stopped = true;
                self.turn_away(outputs);
                outputs.push(Output::Stop { reason: error.to_string() });
            }
        }
    }
}

/// What is set and what is done, in the order of their names.
fn set_and_done<V>(changes: FxHashMap<Uuid, Option<V>>) -> (Vec<V>, Vec<Uuid>) {
    let mut changes: Vec<_> = changes.into_iter().collect();
    changes.sort_unstable_by_key(|(id, _)| *id);
    let (mut set, mut done) = (Vec::new(), Vec::new());
    for (id, change) in changes {
        match change {
            Some(change) => set.push(change),
            None => done.push(id),
        }
    }
    (set, done)
}
