//! The core of a shard's engine: deterministic, without I/O but for reading the durable log.
//!
//! [`Core::step`] takes what has come in and the time, and returns what is to be done. What leaves the engine (answers, calls, events for
//! others) is returned only after the batch that it stands on was reported as committed.

mod cascade;
mod commit;
mod load;
mod messages;
mod open;
mod outbox;
mod own;
mod parked;
mod requests;
mod timers;

use std::collections::VecDeque;

use aggregates::{Kind, Recorded, Refusal, State, Timestamp};
use event_store::{Batch, CommitError, EffectId, Head, LogReader, RecordKey, Shards, StoreError};
use payment_gateway::{CancellationOutcome, ChargeOutcome, StatusOutcome};
use rustc_hash::{FxHashMap, FxHashSet};
use sagas::{ProviderCall, Purchase};
use std::sync::Arc;
use uuid::Uuid;

use crate::{
    Answer, EngineError, Message, Planned, Reply, Represent, Request, SetAside, Unpark, Versioned,
    cache::Cache,
    numbers::OrderNumbers,
    stored::{Learnt, Owed, Task},
};
#[cfg(test)]
pub(crate) use cascade::event_id;
use open::{Committing, Open, Own, Release};
use outbox::Outbox;
use timers::Timers;

/// What a core is told when it is made.
#[derive(Clone, Debug)]
pub struct CoreSettings {
    /// What the processes go by.
    pub processes: sagas::Settings,
    /// The time zone whose day stands in order numbers.
    pub time_zone: jiff::tz::TimeZone,
    /// How many shards the log has.
    pub shards: Shards,
    /// Whether what is known of aggregates that other shards keep is read anew in each turn: so it has to be where nobody in this process
    /// says when they change.
    pub others_read_anew: bool,
    /// How an aggregate is shown in an answer.
    pub represent: Represent,
    /// How many aggregates are kept in memory.
    pub cache: usize,
    /// How many commands one input may cause in one turn; the rest opens the next turn.
    pub cascade: usize,
    /// How many events a batch may have before no further input is decided for it.
    pub batch: usize,
}

impl CoreSettings {
    /// The settings that the shop runs with.
    pub fn new(processes: sagas::Settings, time_zone: jiff::tz::TimeZone, represent: Represent) -> Self {
        Self {
            processes,
            time_zone,
            shards: Shards::ONE,
            others_read_anew: false,
            represent,
            cache: 50_000,
            cascade: 1_024,
            batch: 4_096,
        }
    }
}

/// Something that has come in. `T` is the ticket under which the answer leaves.
#[derive(Debug)]
pub enum Input<T> {
    /// A command from outside.
    Command(T, Box<Request>),
    /// A question for an aggregate.
    Read(T, Kind, Uuid),
    /// The same, to be answered when the aggregate is as wanted.
    Watch(T, Kind, Uuid, fn(&State) -> bool),
    /// What is set aside, the oldest so many.
    Parked(T, usize),
    /// What an operator decides about an input that was set aside.
    Unpark(T, Unpark),
    /// The provider answered a call, or did not.
    Outcome(EffectId, Outcome),
    /// Another shard's engine says something.
    Received(Box<Message>),
    /// An aggregate of another shard has changed: what is known of it is old.
    Changed(Kind, Uuid),
    /// What became of the batch that was given out last.
    Committed(Result<(), CommitError>),
}

/// What became of a call of the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of a charge.
    Charge(ChargeOutcome),
    /// Of a question.
    Status(StatusOutcome),
    /// Of a cancellation.
    Cancel(CancellationOutcome),
}

impl Outcome {
    /// Of a call that was not answered.
    pub(crate) fn unknown(call: &ProviderCall, reason: String) -> Self {
        match call {
            ProviderCall::Charge { .. } => Self::Charge(ChargeOutcome::Unknown { reason }),
            ProviderCall::Status { .. } => Self::Status(StatusOutcome::Unknown { reason }),
            ProviderCall::Cancel { .. } => Self::Cancel(CancellationOutcome::Unknown { reason }),
        }
    }
}

/// What is to be done now.
#[derive(Debug)]
pub enum Output<T> {
    /// Make this durable, and say what came of it. There is at most one under way.
    Commit(Arc<Batch>),
    /// Answer.
    Answer(T, Result<Response, EngineError>),
    /// Call the provider, and bring its answer.
    Call(EffectId, ProviderCall),
    /// Take this to another shard's engine, if that can be done now: it is sent again when no answer comes.
    Send(Box<Message>),
    /// These events are durable now, in order.
    Publish(Arc<[Recorded]>),
    /// Stop: this core does nothing more.
    Stop {
        /// Why, for the operator.
        reason: String,
    },
}

/// What a ticket's holder gets.
#[derive(Clone, Debug)]
pub enum Response {
    /// To a command.
    Reply(Box<Reply>),
    /// To a question; none when nothing has happened to the aggregate.
    State(Option<Versioned>),
    /// What is set aside.
    Parked(Vec<SetAside>),
    /// To an operator: it is done, or why it is not.
    Unparked(Result<(), Refusal>),
}

/// What the core decides on: from a caller outside, or by itself.
#[derive(Debug)]
enum Work<T> {
    Request(T, Box<Request>),
    Unpark(T, Unpark),
    Own(Own),
}

/// Somebody who waits until an aggregate is as wanted.
type Watcher<T> = (T, fn(&State) -> bool);

/// One shard's engine, without its surroundings.
pub struct Core<T> {
    settings: CoreSettings,
    reader: Box<dyn LogReader>,
    states: Cache<(Kind, Uuid), State>,
    purchases: Cache<Uuid, Arc<Purchase>>,
    /// Which of the states other shards keep, as long as they are read anew in each turn.
    foreign: Vec<(Kind, Uuid)>,
    /// Where the log stands durably.
    durable: Head,
    open: Open<T>,
    committing: Option<Committing<T>>,
    /// Answers that are recorded but not durable yet.
    fresh_records: FxHashMap<RecordKey, (event_store::Fingerprint, Answer)>,
    /// Records that were looked up for the requests that wait.
    prefetched: FxHashMap<RecordKey, Option<event_store::IdempotencyRecord>>,
    /// Answers to messages that are recorded but not durable yet.
    fresh_answers: FxHashMap<Uuid, Vec<Learnt>>,
    timers: Timers,
    owed: FxHashMap<EffectId, Owed>,
    /// Of what is owed, the messages.
    outbox: Outbox,
    /// The names of the messages and answers in the backlog: one that comes again meanwhile is not kept twice.
    heard: FxHashSet<Uuid>,
    /// Work of the core's own that comes before anything from outside.
    backlog: VecDeque<Own>,
    /// What was too long for this turn and opens the next.
    next_turn: Vec<Own>,
    /// Requests from outside that are not decided yet.
    waiting: VecDeque<(T, Box<Request>)>,
    /// What operators have decided. Each is committed alone, so that what it leads to is blamed on nothing else.
    operations: VecDeque<(T, Unpark)>,
    /// After a batch was refused: so many inputs are committed alone, so that the culprit shows.
    careful: usize,
    /// After a failed commit the core's own work waits until then.
    pause_until: Option<Timestamp>,
    /// What is owed could not be read after a failed commit: nothing is decided before it was.
    behind: bool,
    watchers: FxHashMap<(Kind, Uuid), Vec<Watcher<T>>>,
    numbers: OrderNumbers,
    /// Questions for what is set aside: it is read when all else of a turn is done.
    lists: Vec<(T, usize)>,
    /// How many requests were set aside.
    requests_set_aside: u64,
    /// How many ids this core has made that are not an event's.
    ids: u64,
    turn: u64,
    now: Timestamp,
    stopped: bool,
}

impl<T> Core<T> {
    /// A core for the shard whose head was just taken. What was owed when the writer before ended is taken up again.
    ///
    /// # Errors
    /// The log cannot be read, or holds an effect or a timer that this version does not know.
    pub fn new(head: Head, reader: Box<dyn LogReader>, settings: CoreSettings) -> Result<Self, StoreError> {
        let numbers = OrderNumbers::new(settings.time_zone.clone(), head.shard, settings.shards);
        let mut core = Self {
            states: Cache::new(settings.cache),
            purchases: Cache::new(settings.cache),
            foreign: Vec::new(),
            open: Open::after(&head),
            committing: None,
            fresh_records: FxHashMap::default(),
            fresh_answers: FxHashMap::default(),
            outbox: Outbox::default(),
            heard: FxHashSet::default(),
            prefetched: FxHashMap::default(),
            timers: Timers::default(),
            owed: FxHashMap::default(),
            backlog: VecDeque::new(),
            next_turn: Vec::new(),
            waiting: VecDeque::new(),
            operations: VecDeque::new(),
            careful: 0,
            pause_until: None,
            behind: false,
            watchers: FxHashMap::default(),
            numbers,
            lists: Vec::new(),
            requests_set_aside: 0,
            ids: 0,
            turn: 0,
            now: Timestamp::from_micros(head.recorded_at),
            stopped: false,
            durable: head,
            reader,
            settings,
        };
        core.take_up_what_is_owed(true)?;
        Ok(core)
    }

    /// What to do now that `inputs` have come in and it is `now`.
    pub fn step(&mut self, now: Timestamp, inputs: impl IntoIterator<Item = Input<T>>) -> Vec<Output<T>> {
        self.turn += 1;
        // Recorded time never goes back.
        self.now = now.max(self.now);
        for key in self.foreign.drain(..) {
            self.states.forget(&key);
        }
        let mut outputs = Vec::new();
        for input in inputs {
            self.accept(input, &mut outputs);
        }
        self.work(&mut outputs);
        for (ticket, limit) in std::mem::take(&mut self.lists) {
            let answer = if self.stopped {
                Err(EngineError::Stopping)
            } else {
                self.parked(limit)
            };
            outputs.push(Output::Answer(ticket, answer));
        }
        self.states.sweep();
        self.purchases.sweep();
        outputs
    }

    /// When `step` has to be called at the latest, even if nothing comes in.
    pub fn wake_at(&self) -> Option<Timestamp> {
        let pause = self.pause_until.filter(|until| self.now < *until);
        let own_work = pause.is_none() && !self.backlog.is_empty();
        let work = own_work || !(self.next_turn.is_empty() && self.nobody_waits() && self.open.is_empty());
        if work && self.committing.is_none() {
            return Some(self.now);
        }
        let due = [self.timers.next_due(), self.outbox.next_due()].into_iter().flatten().min();
        match pause {
            Some(pause) if self.behind || !self.backlog.is_empty() => Some(pause),
            Some(pause) => due.map(|due| due.max(pause)),
            None => due,
        }
    }

    /// Whether there is nothing to decide and nothing to write, or nothing that can be now: it may end here. What is owed stays owed.
    pub fn idle(&self) -> bool {
        let own_work = !(self.backlog.is_empty() || self.paused());
        self.committing.is_none() && self.open.is_empty() && !own_work && self.next_turn.is_empty() && self.nobody_waits()
    }

    /// Whether nothing from outside is to be decided.
    fn nobody_waits(&self) -> bool {
        self.waiting.is_empty() && self.operations.is_empty()
    }

    /// How much is owed and has no answer yet: calls of the provider, and messages to other shards.
    pub fn unanswered(&self) -> usize {
        self.owed.len()
    }

    /// Forgets those who wait for a change and have gone.
    pub fn forget_watchers(&mut self, gone: impl Fn(&T) -> bool) {
        self.watchers.retain(|_, watchers| {
            watchers.retain(|(ticket, _)| !gone(ticket));
            !watchers.is_empty()
        });
    }

    /// Where the log stands durably.
    pub fn head(&self) -> &Head {
        &self.durable
    }

    fn accept(&mut self, input: Input<T>, outputs: &mut Vec<Output<T>>) {
        match input {
            Input::Committed(result) => self.committed(result, outputs),
            Input::Command(ticket, _)
            | Input::Read(ticket, ..)
            | Input::Watch(ticket, ..)
            | Input::Parked(ticket, _)
            | Input::Unpark(ticket, _)
                if self.stopped =>
            {
                outputs.push(Output::Answer(ticket, Err(EngineError::Stopping)));
            }
            Input::Command(ticket, request) => match self.kept_elsewhere(request.command.target()) {
                None => self.waiting.push_back((ticket, request)),
                Some(error) => outputs.push(Output::Answer(ticket, Err(error))),
            },
            Input::Unpark(ticket, unpark) => self.operations.push_back((ticket, unpark)),
            Input::Parked(ticket, limit) => self.lists.push((ticket, limit)),
            Input::Outcome(effect, outcome) => self.backlog.push_back(Own::Outcome(effect, outcome)),
            Input::Received(message) => self.received(*message),
            Input::Changed(kind, id) => self.forget_foreign(kind, id),
            Input::Read(ticket, kind, id) => {
                let answer = self
                    .load(kind, id)
                    .map(|versioned| Response::State(Some(versioned).filter(|versioned| versioned.version > 0)));
                self.open.releases.push(Release::Answer {
                    ticket,
                    answer,
                    retry: None,
                });
            }
            Input::Watch(ticket, kind, id, until) => match self.load(kind, id) {
                Ok(versioned) if versioned.version > 0 && until(&versioned.state) => {
                    self.open.releases.push(Release::Answer {
                        ticket,
                        answer: Ok(Response::State(Some(versioned))),
                        retry: None,
                    });
                }
                Ok(_) => self.watchers.entry((kind, id)).or_default().push((ticket, until)),
                Err(error) => self.open.releases.push(Release::Answer {
                    ticket,
                    answer: Err(error),
                    retry: None,
                }),
            },
        }
    }

    /// Whoever asks the wrong shard must not get a stream of the same name there.
    fn kept_elsewhere(&self, (kind, id): (Kind, Uuid)) -> Option<EngineError> {
        let shard = self.shard_of(kind, id);
        (shard != self.durable.shard).then(|| EngineError::Unavailable(format!("shard {shard} keeps {}-{id}", kind.name())))
    }

    /// Decides what waits, and gives the open batch out when none is being committed.
    fn work(&mut self, outputs: &mut Vec<Output<T>>) {
        if self.behind && !self.paused() {
            self.catch_up(outputs);
        }
        if self.stopped {
            self.turn_away(outputs);
            return;
        }
        if self.behind {
            let operations = self.operations.drain(..).map(|(ticket, _)| ticket);
            for ticket in self.waiting.drain(..).map(|(ticket, _)| ticket).chain(operations) {
                outputs.push(Output::Answer(
                    ticket,
                    Err(EngineError::Unavailable("nor can it be read".to_owned())),
                ));
            }
            self.release_or_commit(outputs);
            return;
        }
        self.due_timers();
        self.send_again(outputs);
        if self.open.events.len() < self.settings.batch {
            self.prefetch();
        }
        for rest in self.next_turn.drain(..).rev() {
            self.backlog.push_front(rest);
        }
        while self.open.events.len() < self.settings.batch {
            let alone = self.careful > 0 || !self.operations.is_empty();
            if alone && !(self.open.is_empty() && self.committing.is_none()) {
                break;
            }
            let Some(work) = self.next_work() else { break };
            self.process(work);
            self.careful = self.careful.saturating_sub(1);
            if alone {
                // Also its answer, if there is nothing to write, leaves before the next is decided.
                self.release_or_commit(outputs);
            }
        }
        self.release_or_commit(outputs);
    }

    fn next_work(&mut self) -> Option<Work<T>> {
        if let Some((ticket, unpark)) = self.operations.pop_front() {
            return Some(Work::Unpark(ticket, unpark));
        }
        if !self.paused()
            && let Some(own) = self.backlog.pop_front()
        {
            if let Some(message) = own.message() {
                self.heard.remove(&message);
            }
            return Some(Work::Own(own));
        }
        self.waiting.pop_front().map(|(ticket, request)| Work::Request(ticket, request))
    }

    /// Whether the core's own work waits, because a commit has failed just now.
    fn paused(&self) -> bool {
        self.pause_until.is_some_and(|until| self.now < until)
    }

    fn due_timers(&mut self) {
        if !self.paused() {
            self.backlog.extend(self.timers.take_due(self.now).into_iter().map(Own::Timer));
        }
    }

    fn turn_away(&mut self, outputs: &mut Vec<Output<T>>) {
        let operations = self.operations.drain(..).map(|(ticket, _)| ticket);
        for ticket in self.waiting.drain(..).map(|(ticket, _)| ticket).chain(operations) {
            outputs.push(Output::Answer(ticket, Err(EngineError::Stopping)));
        }
        let releases = self
            .open
            .releases
            .drain(..)
            .chain(self.committing.iter_mut().flat_map(|open| open.releases.drain(..)));
        for release in releases {
            if let Release::Answer { ticket, .. } = release {
                outputs.push(Output::Answer(ticket, Err(EngineError::Stopping)));
            }
        }
        for (ticket, _) in self.watchers.drain().flat_map(|(_, watchers)| watchers) {
            outputs.push(Output::Answer(ticket, Err(EngineError::Stopping)));
        }
    }

    /// Effects and timers as the log holds them. Calls whose answer was lost with the process before are unknown now.
    fn take_up_what_is_owed(&mut self, restarted: bool) -> Result<(), StoreError> {
        let unfinished = self.reader.unfinished(self.durable.shard)?;
        self.timers = Timers::default();
        for timer in unfinished.timers {
            let task: Task =
                serde_json::from_str(&timer.command).map_err(|error| StoreError::Corrupt(format!("timer {}: {error}", timer.id)))?;
            self.timers.set(timer.id, Timestamp::from_micros(timer.due), task);
        }
        self.owed.clear();
        self.outbox = Outbox::default();
        for effect in unfinished.effects {
            let owed: Owed =
                serde_json::from_str(&effect.effect).map_err(|error| StoreError::Corrupt(format!("effect {}: {error}", effect.id)))?;
            match &owed {
                Owed::Cascade { .. } => self.backlog.push_back(Own::Rest(effect.id)),
                Owed::Call { call, .. } if restarted => {
                    let outcome = Outcome::unknown(call, "the process ended before the answer came".to_owned());
                    self.backlog.push_back(Own::Outcome(effect.id, outcome));
                }
                Owed::Call { .. } => {}
                Owed::Message { .. } if restarted => self.outbox.send(effect.id, self.now),
                Owed::Message { .. } => self.outbox.sent(effect.id, self.now),
            }
            self.owed.insert(effect.id, owed);
        }
        Ok(())
    }
}

/// Why an input comes to nothing.
#[derive(Debug)]
enum Failure {
    /// A rule forbids it: that is an answer too.
    Refused(Refusal),
    /// The log cannot be read just now.
    Unavailable(String),
    /// It cannot be processed at all.
    Broken(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt(_) => Self::Broken(error.to_string()),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Broken(unreadable(&error))
    }
}

/// What is wrong with stored JSON, without a word of what it says: that may be nobody's business.
fn unreadable(error: &serde_json::Error) -> String {
    format!(
        "what is stored cannot be read ({:?} error at column {})",
        error.classify(),
        error.column()
    )
}

/// What a decided request is answered with.
struct Decided {
    answer: Answer,
    latest: Versioned,
    planned: Vec<Planned>,
}
