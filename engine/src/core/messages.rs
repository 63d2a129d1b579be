//! What comes from other shards and goes to them.
//!
//! What follows from an event here may be for an aggregate of another shard: then it is owed as a message, until that shard's answer is
//! recorded. What another shard asks is done like anything of the core's own, once: the record of its answer is committed with what it did.

use aggregates::{Command, Kind, OrderCommand, OrderId};
use event_store::{IdempotencyRecord, RecordKey};
use uuid::Uuid;

use super::{
    Core, Failure, Output,
    cascade::{Cascade, Change},
    open::{Own, Release},
};
use crate::{
    Message,
    message::{Body, message_id},
    stored::{Answered, Deed, Learnt, MessageAnswer, Origin, Owed, Task},
};

/// The idempotency record of a message.
pub(super) fn record_of(message: Uuid) -> RecordKey {
    RecordKey(message.into_bytes())
}

impl Message {
    /// What one shard owes another.
    fn of_task(id: Uuid, from: u16, to: u16, task: Task) -> Self {
        let body = Body::Task(Box::new(task));
        Self { id, from, to, body }
    }

    pub(super) fn task(&self) -> Option<&Task> {
        match &self.body {
            Body::Task(task) => Some(task),
            Body::Answer(_) => None,
        }
    }

    /// Whether it tells an order that it waits for something.
    pub(super) fn is_attention(&self) -> bool {
        let deed = self.task().map(|task| &task.deed);
        matches!(deed, Some(Deed::Command(Command::Order(_, OrderCommand::NeedAttention { .. }))))
    }
}

impl Task {
    /// What its sender does with what came of it.
    pub(super) fn leads_to(&self, learnt: &Learnt) -> Self {
        Self::new(Deed::Learn(learnt.clone()), self.origin)
    }
}

impl Own {
    /// The message that is to be answered.
    pub(super) fn asked(&self) -> Option<&Message> {
        match self {
            Self::Asked(message) => Some(message),
            Self::Outcome(..) | Self::Timer(_) | Self::Rest(_) | Self::Answered(..) => None,
        }
    }

    /// The name of the message that came in, if one did.
    pub(super) fn message(&self) -> Option<Uuid> {
        match self {
            Self::Asked(message) => Some(message.id),
            Self::Answered(id, _) => Some(*id),
            Self::Outcome(..) | Self::Timer(_) | Self::Rest(_) => None,
        }
    }
}

impl<T> Core<T> {
    /// The shard that keeps an aggregate.
    pub(super) fn shard_of(&self, kind: Kind, id: Uuid) -> u16 {
        self.settings.shards.of(kind.key(id))
    }

    /// Whether it is this one.
    pub(super) fn is_here(&self, kind: Kind, id: Uuid) -> bool {
        self.shard_of(kind, id) == self.durable.shard
    }

    pub(super) fn received(&mut self, message: Message) {
        if message.to != self.durable.shard {
            tracing::error!(message = %message.summary(), "a message came to the wrong shard");
            return;
        }
        // It waits already, perhaps for long.
        if !self.heard.insert(message.id) {
            return;
        }
        self.backlog.push_back(match message.body {
            Body::Task(_) => Own::Asked(Box::new(message)),
            Body::Answer(learnt) => Own::Answered(message.id, learnt),
        });
    }

    /// What is known of an aggregate of another shard is read anew.
    pub(super) fn forget_foreign(&mut self, kind: Kind, id: Uuid) {
        if !self.is_here(kind, id) {
            self.states.forget(&(kind, id));
        }
    }

    /// Something that another shard has to do.
    pub(super) fn owe_message(&self, cascade: &mut Cascade, to: u16, deed: Deed, origin: Origin) {
        let id = message_id(origin.causation, &deed);
        let task = Task::new(deed, origin);
        let message = Message::of_task(id, self.durable.shard, to, task.clone());
        cascade.changes.push(Change::Owe(id, Owed::Message { to, task }));
        cascade.changes.push(Change::Send(Box::new(message)));
    }

    /// At the end of a cascade: who asked for it is answered, and other shards' purchases hear what concerns them.
    pub(super) fn tell_other_shards(&mut self, cascade: &mut Cascade) {
        let asked = cascade.answers;
        let mut answer = Vec::new();
        for (learnt, origin) in std::mem::take(&mut cascade.learnt) {
            let shard = self.shard_of(Kind::Order, learnt.order.uuid());
            match asked {
                Some((_, from)) if from == shard => answer.push(learnt),
                _ => self.owe_message(cascade, shard, Deed::Learn(learnt), origin),
            }
        }
        if let Some((message, from)) = asked {
            let position = self.open.position() + cascade.events.len() as u64;
            self.record_answer_at(message, from, answer, position);
        }
    }

    /// Records what a message is answered, and answers it.
    pub(super) fn record_answer(&mut self, message: Uuid, from: u16, learnt: Vec<Learnt>) {
        self.record_answer_at(message, from, learnt, self.open.position());
    }

    fn record_answer_at(&mut self, message: Uuid, from: u16, learnt: Vec<Learnt>, position: u64) {
        self.prefetched.remove(&record_of(message));
        let recorded = MessageAnswer {
            shard: self.durable.shard,
            position,
            message: Answered {
                from,
                learnt: learnt.clone(),
            },
        };
        self.open.records.push(IdempotencyRecord {
            key: record_of(message),
            fingerprint: Default::default(),
            position,
            recorded_at: self.now.micros(),
            answer: serde_json::to_vec(&recorded).unwrap_or_default().into(),
        });
        self.fresh_answers.insert(message, learnt.clone());
        self.answer(message, from, learnt);
    }

    /// Answers a message as soon as all that is open now is durable.
    pub(super) fn answer(&mut self, message: Uuid, from: u16, learnt: Vec<Learnt>) {
        self.open.releases.push(Release::Send(Box::new(Message {
            id: message,
            from: self.durable.shard,
            to: from,
            body: Body::Answer(learnt),
        })));
    }

    /// What a message was answered, if it came before.
    pub(super) fn answer_of(&mut self, message: Uuid) -> Result<Option<Vec<Learnt>>, Failure> {
        if let Some(learnt) = self.fresh_answers.get(&message) {
            return Ok(Some(learnt.clone()));
        }
        let record = match self.prefetched.remove(&record_of(message)) {
            Some(found) => found,
            None => self.reader.read(&[record_of(message)], &[])?.0.pop().flatten(),
        };
        let answer = record.map(|record| serde_json::from_slice::<MessageAnswer>(&record.answer));
        Ok(answer.transpose()?.map(|answer| answer.message.learnt))
    }

    /// Messages that were not answered in time.
    pub(super) fn send_again(&mut self, outputs: &mut Vec<Output<T>>) {
        for id in self.outbox.take_due(self.now) {
            let Some(Owed::Message { to, task }) = self.owed.get(&id) else {
                self.outbox.answered(id);
                continue;
            };
            let message = Message::of_task(id, self.durable.shard, *to, task.clone());
            outputs.push(Output::Send(Box::new(message)));
        }
    }

    /// Whether an order of another shard has still to hear that this input is set aside.
    pub(super) fn is_to_be_told(&self, order: OrderId, input: Uuid) -> bool {
        let attention = |task: &Task| {
            let Deed::Command(command) = &task.deed else { return false };
            sagas::is_attention(command, order, input)
        };
        self.owed
            .values()
            .any(|owed| matches!(owed, Owed::Message { task, .. } if attention(task)))
    }
}
