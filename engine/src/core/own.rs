//! What the core does by itself: timers, answers of the provider and of other shards, the rest of cascades. What cannot be done is tried
//! again, and in the end set aside.

use std::time::Duration;

use aggregates::{Command, Money, PaymentCommand, Refusal};
use event_store::Parked;
use payment_gateway::{CancellationOutcome, ChargeOutcome, StatusOutcome};
use sagas::ProviderCall;
use uuid::Uuid;

use super::{
    Core, Failure, Outcome,
    cascade::{Change, Next},
    open::Own,
};
use crate::{
    EngineError, Request,
    stored::{Deed, Origin, Owed, ParkedInput, Task},
};

/// So many requests are set aside in a process's life at most.
const MOST_REQUESTS_SET_ASIDE: u64 = 1_000;

/// When an input of the core's own that cannot be processed is tried again, before it is set aside.
const TRY_AGAIN_AFTER: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(10), Duration::from_mins(1)];

/// How long until what has happened in another shard is shown again to a purchase that could not be read.
const LEARN_AGAIN_AFTER: Duration = Duration::from_mins(1);

impl<T> Core<T> {
    /// After the store has refused the batch of an input of the core's own: tries to make at least its first step durable. Says whether it
    /// may work.
    pub(super) fn carry_on_in_pieces(&mut self, own: &Own) -> bool {
        let tasks = self.tasks_of(own).unwrap_or_default();
        let done = !tasks.is_empty() && self.carry_on_at_most(1, &tasks, Some(own)).is_ok();
        if done {
            self.open.in_pieces = true;
            self.learnt_at_last(&tasks);
            self.open.own.push(own.clone());
        }
        done
    }

    pub(super) fn process_own(&mut self, own: Own) {
        if let Own::Asked(message) = &own {
            match self.answer_of(message.id) {
                Ok(Some(learnt)) => return self.answer(message.id, message.from, learnt),
                Ok(None) => {}
                Err(Failure::Unavailable(reason)) => return self.read_later(own, &reason),
                Err(failure) => {
                    // Its sender goes on owing it, and sends it again.
                    tracing::error!(message = %message.summary(), ?failure, "what a message was answered cannot be read");
                    return;
                }
            }
        }
        // It was settled, cancelled or moved meanwhile.
        let Some(tasks) = self.tasks_of(&own) else { return };
        match self.carry_on(&tasks, Some(&own)) {
            Ok(()) => {
                self.learnt_at_last(&tasks);
                self.open.own.push(own);
            }
            Err(Failure::Unavailable(reason)) => self.read_later(own, &reason),
            Err(Failure::Refused(Refusal { detail, .. })) => self.give_up(own, &detail, true),
            Err(Failure::Broken(reason)) => self.give_up(own, &reason, true),
        }
    }

    /// An input of the core's own that needs what cannot be read just now.
    pub(super) fn read_later(&mut self, own: Own, reason: &str) {
        tracing::warn!(%reason, "the log cannot be read; this is tried again");
        self.pause_until = Some(self.now.after(super::commit::PAUSE));
        self.take_again(own);
    }

    /// An input that came in and is decided once more, before all else.
    pub(super) fn take_again(&mut self, own: Own) {
        self.heard.extend(own.message());
        self.backlog.push_front(own);
    }

    /// Does what follows from something, each task with all that follows from it.
    ///
    /// When that cannot be done to its end, the first is done alone and the rest is owed: what is to blame comes to stand alone.
    pub(super) fn carry_on(&mut self, tasks: &[Task], own: Option<&Own>) -> Result<(), Failure> {
        match self.carry_on_at_most(self.settings.cascade, tasks, own) {
            Err(Failure::Broken(_) | Failure::Refused(_)) => self.carry_on_at_most(1, tasks, own),
            done => done,
        }
    }

    pub(super) fn carry_on_at_most(&mut self, most: usize, tasks: &[Task], own: Option<&Own>) -> Result<(), Failure> {
        self.undoable(most, |core, cascade| {
            cascade.changes.extend(own.and_then(done));
            cascade.answers = own.and_then(Own::asked).map(|message| (message.id, message.from));
            let todo = tasks.iter().rev().map(|task| (Next::Do(task.deed.clone()), task.origin));
            cascade.stack.extend(todo);
            core.run(cascade)
        })
    }

    /// What an input of the core's own asks for; none when it is no longer wanted.
    pub(super) fn tasks_of(&self, own: &Own) -> Option<Vec<Task>> {
        match own {
            Own::Outcome(effect, outcome) => match self.owed.get(effect)? {
                Owed::Call { call, origin } => Some(vec![Task::new(Deed::Command(command_of(call, outcome.clone())), *origin)]),
                Owed::Cascade { .. } | Owed::Message { .. } => None,
            },
            Own::Timer(id) => self.timers.due(*id, self.now).map(|task| vec![task.clone()]),
            Own::Rest(effect) => match self.owed.get(effect)? {
                Owed::Cascade { rest } => Some(rest.clone()),
                Owed::Call { .. } | Owed::Message { .. } => None,
            },
            Own::Asked(message) => message.task().map(|task| vec![task.clone()]),
            Own::Answered(effect, learnt) => match self.owed.get(effect)? {
                Owed::Message { task, .. } => Some(learnt.iter().map(|learnt| task.leads_to(learnt)).collect()),
                Owed::Call { .. } | Owed::Cascade { .. } => None,
            },
        }
    }

    /// Puts an input of the core's own off, and after some tries sets it aside, so that it stops nothing else.
    pub(super) fn give_up(&mut self, own: Own, reason: &str, tell: bool) {
        if let Some(message) = own.asked().filter(|message| message.is_attention()) {
            // Its sender owes it until it is heard, or the order could hear that later than that what it waits for is done.
            tracing::warn!(message = %message.summary(), %reason, "an order cannot be told that it waits; it is told again");
            return;
        }
        let mut tasks = self.tasks_of(&own).unwrap_or_default();
        self.open.gives_up = true;
        if let Some(done) = done(&own) {
            self.apply(done);
        }
        if let Some(message) = own.asked() {
            // This shard sees to it from now on.
            self.record_answer(message.id, message.from, Vec::new());
        }
        if tasks.len() > 1 {
            // Each goes on by itself, so that the culprit alone is set aside.
            for task in tasks {
                let id = self.new_id();
                self.apply(Change::Owe(id, Owed::Cascade { rest: vec![task] }));
            }
        } else if let Some(task) = tasks.pop() {
            match TRY_AGAIN_AFTER.get(task.tries) {
                Some(delay) => self.put_off(task, *delay, reason),
                None => self.hold_up(task, reason, tell),
            }
        }
        self.open.own.push(own);
    }

    pub(super) fn put_off(&mut self, task: Task, delay: Duration, reason: &str) {
        let (kind, target) = task.deed.target();
        tracing::warn!(aggregate = kind.name(), %target, %reason, ?delay, "an input cannot be processed and is tried again");
        let tries = task.tries + 1;
        let id = self.new_id();
        self.apply(Change::SetTimer(id, self.now.after(delay), Task { tries, ..task }));
    }

    /// What was tried in vain: the order that waits for it says so, if it can.
    ///
    /// A command is set aside. What has happened in another shard has happened, and cannot be given up: it is shown to its purchase again.
    fn hold_up(&mut self, task: Task, reason: &str, tell: bool) {
        let (origin, order) = (task.origin, task.deed.order());
        let attention = match task.deed {
            Deed::Learn(ref learnt) => {
                let attention = sagas::not_learnt(learnt.order, learnt.event, reason);
                self.put_off(task, LEARN_AGAIN_AFTER, reason);
                Some(attention)
            }
            deed @ Deed::Command(_) => {
                let input = ParkedInput {
                    deed,
                    cause: None,
                    origin: Some(origin),
                };
                let id = self.set_aside(&input, reason.to_owned());
                order.map(|order| sagas::set_aside(order, id, reason))
            }
        };
        if let Some(attention) = attention.filter(|_| tell) {
            self.open.tells = true;
            self.tell_order(attention, origin);
        }
    }

    /// What could not be learnt for long is learnt: nobody has to look any more.
    fn learnt_at_last(&mut self, tasks: &[Task]) {
        for task in tasks.iter().filter(|task| task.tries > TRY_AGAIN_AFTER.len()) {
            if let Deed::Learn(learnt) = &task.deed {
                self.tell_order(sagas::taken_up(learnt.order, learnt.event), task.origin);
            }
        }
    }

    fn tell_order(&mut self, command: Command, origin: Origin) {
        let told = self.carry_on_at_most(self.settings.cascade, &[Task::new(Deed::Command(command), origin)], None);
        if let Err(failure) = told {
            tracing::error!(?failure, "an order cannot be told what it waits for");
        }
    }

    /// Sets a request aside, and says so to its sender.
    pub(super) fn park(&mut self, request: &Request, reason: String) -> EngineError {
        let input = ParkedInput {
            deed: Deed::Command(request.command.clone()),
            cause: Some(request.cause.clone()),
            origin: None,
        };
        EngineError::Parked(self.set_aside(&input, reason))
    }

    pub(super) fn set_aside(&mut self, input: &ParkedInput, reason: String) -> Uuid {
        let id = self.new_id();
        self.open.gives_up = true;
        let (kind, target) = input.deed.target();
        tracing::error!(parked = %id, aggregate = kind.name(), %target, %reason, "an input cannot be processed and is set aside");
        // Its sender knows, and may send it again and again: so many are kept for operators to see, and all are in the process's log.
        if input.origin.is_none() {
            self.requests_set_aside += 1;
            if self.requests_set_aside > MOST_REQUESTS_SET_ASIDE {
                return id;
            }
        }
        let json = serde_json::to_string(input).unwrap_or_default();
        self.open.parked.push(Parked {
            id,
            at: self.now.micros(),
            input: json.into(),
            reason,
        });
        id
    }
}

/// What becomes of an input of the core's own once it is decided; of a message that it is answered is seen to apart.
fn done(own: &Own) -> Option<Change> {
    match own {
        Own::Outcome(effect, _) | Own::Rest(effect) | Own::Answered(effect, _) => Some(Change::Settle(*effect)),
        Own::Timer(id) => Some(Change::CancelTimer(*id)),
        Own::Asked(_) => None,
    }
}

/// What an answer of the provider means for the payment.
fn command_of(call: &ProviderCall, outcome: Outcome) -> Command {
    let (ProviderCall::Charge {
        payment, amount: asked, ..
    }
    | ProviderCall::Status {
        payment, amount: asked, ..
    }
    | ProviderCall::Cancel {
        payment, amount: asked, ..
    }) = call;
    let taken = |amount: i64| PaymentCommand::RecordCapture {
        amount: Money::new(amount, asked.currency()),
    };
    let command = match outcome {
        Outcome::Charge(ChargeOutcome::Charged { amount }) | Outcome::Status(StatusOutcome::Charged { amount, .. }) => taken(amount),
        Outcome::Charge(ChargeOutcome::Declined { code, message }) => PaymentCommand::RecordDecline { code, message },
        Outcome::Charge(ChargeOutcome::Unknown { reason }) | Outcome::Status(StatusOutcome::Unknown { reason }) => {
            PaymentCommand::RecordUnknown { reason }
        }
        Outcome::Status(StatusOutcome::NotCharged { status }) => PaymentCommand::RecordNotCharged { status },
        Outcome::Status(StatusOutcome::NotFound) => PaymentCommand::RecordNotCharged {
            status: "NOT_FOUND".to_owned(),
        },
        Outcome::Status(StatusOutcome::Cancelled) => PaymentCommand::RecordDecline {
            code: "CANCELED".to_owned(),
            message: "the payment was cancelled at the provider".to_owned(),
        },
        Outcome::Cancel(CancellationOutcome::Cancelled) => PaymentCommand::RecordReversal,
        Outcome::Cancel(CancellationOutcome::Refused { code, message }) => PaymentCommand::RecordReversalRefused { code, message },
        Outcome::Cancel(CancellationOutcome::Unknown { reason }) => PaymentCommand::RecordReversalUnknown { reason },
    };
    Command::Payment(*payment, command)
}
