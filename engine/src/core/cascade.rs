//! One input, decided to its end: the command, the events, what the processes ask for because of them, and so on.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use aggregates::{Command, CommerceEvent, EVENT_VERSION, Kind, Recorded, Timestamp};
use event_store::{Event, OwedEffect, Snapshot, StreamId, Timer};
use sagas::{Ask, ProviderCall, PurchaseEvent, Seen, Step, purchase};
use serde::Serialize;
use uuid::Uuid;

use super::{
    Core, Failure, Release, Response,
    load::{purchase_shape, shape},
    open::Own,
};
use crate::{
    Message, Versioned,
    stored::{Deed, Learnt, Origin, Owed, Task},
};

/// A stream's state is kept as a snapshot after every so many of its events.
const SNAPSHOT_EVERY: u64 = 500;

/// What one input has led to so far. It joins the open batch at its end, or leaves no trace.
#[derive(Default)]
pub(super) struct Cascade {
    pub(super) events: Vec<Event>,
    recorded: Vec<Recorded>,
    purchases: Vec<Advance>,
    pub(super) changes: Vec<Change>,
    pub(super) numbered: u64,
    /// What is still to be done: the next is the last.
    pub(super) stack: Vec<(Next, Origin)>,
    /// What the purchases of other shards learn from these events.
    pub(super) learnt: Vec<(Learnt, Origin)>,
    /// The message that all this follows from, and the shard that it came from.
    pub(super) answers: Option<(Uuid, u16)>,
    commands: usize,
    /// So many commands at most; the rest opens the next turn.
    most: usize,
}

impl Cascade {
    fn of(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    /// What is asked for comes next, in this order.
    fn ask(&mut self, asks: Vec<Ask>, origin: Origin) {
        self.stack.extend(asks.into_iter().rev().map(|ask| (Next::of(ask), origin)));
    }

    /// Keeps an effect until the end of the cascade.
    fn keep(&mut self, effect: Effect, origin: Origin) {
        match effect {
            Effect::Provider(call) => {
                let id = call.id();
                self.changes.push(Change::Owe(
                    id,
                    Owed::Call {
                        call: call.clone(),
                        origin,
                    },
                ));
                self.changes.push(Change::Call(id, call));
            }
            Effect::SetTimer { id, due, command } => {
                let task = Task::new(Deed::Command(command), origin);
                self.changes.push(Change::SetTimer(id, due, task));
            }
            Effect::CancelTimer { id } => self.changes.push(Change::CancelTimer(id)),
        }
    }
}

/// What is to be done next.
pub(super) enum Next {
    Do(Deed),
    Keep(Effect),
}

/// What leaves the engine, or waits in it, until the cascade has come to its end.
pub(super) enum Effect {
    Provider(ProviderCall),
    SetTimer { id: Uuid, due: Timestamp, command: Command },
    CancelTimer { id: Uuid },
}

impl Next {
    fn of(ask: Ask) -> Self {
        match ask {
            Ask::Tell(command) => Self::Do(Deed::Command(command)),
            Ask::Provider(call) => Self::Keep(Effect::Provider(call)),
            Ask::SetTimer { id, due, command } => Self::Keep(Effect::SetTimer { id, due, command }),
            Ask::CancelTimer { id } => Self::Keep(Effect::CancelTimer { id }),
        }
    }
}

/// What a purchase learnt in this cascade.
struct Advance {
    order: Uuid,
    origin: Origin,
    seen: Vec<Seen>,
    steps: Vec<Step>,
}

pub(super) enum Change {
    SetTimer(Uuid, Timestamp, Task),
    CancelTimer(Uuid),
    Owe(Uuid, Owed),
    Settle(Uuid),
    Call(Uuid, ProviderCall),
    Send(Box<Message>),
}

/// Why events are recorded, as it stands in their metadata.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MetadataJson<'a> {
    pub(super) correlation_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) causation_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) actor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) traceparent: Option<&'a str>,
}

impl<T> Core<T> {
    /// Runs a cascade; takes back what it did unless it comes to its end.
    pub(super) fn undoable<R>(
        &mut self,
        most: usize,
        run: impl FnOnce(&mut Self, &mut Cascade) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        self.states.begin_cascade();
        self.purchases.begin_cascade();
        let mut cascade = Cascade::of(most);
        let result = catch_unwind(AssertUnwindSafe(|| run(self, &mut cascade)));
        let result = result.unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Err(Failure::Broken(format!("panicked: {}", text.unwrap_or("without a word"))))
        });
        match result {
            Ok(value) => match self.join(cascade) {
                Ok(()) => Ok(value),
                Err(failure) => {
                    self.undo();
                    Err(failure)
                }
            },
            Err(failure) => {
                self.undo();
                Err(failure)
            }
        }
    }

    pub(super) fn undo(&mut self) {
        self.states.undo_cascade();
        self.purchases.undo_cascade();
    }

    /// Carries out what is asked for, depth first, until only effects that leave the process remain.
    pub(super) fn run(&mut self, cascade: &mut Cascade) -> Result<(), Failure> {
        while let Some((next, origin)) = cascade.stack.pop() {
            match next {
                Next::Do(deed) if cascade.commands >= cascade.most => {
                    cascade.stack.push((Next::Do(deed), origin));
                    self.owe_the_rest(cascade);
                    break;
                }
                Next::Do(deed) => {
                    cascade.commands += 1;
                    self.carry_out(cascade, deed, origin)?;
                }
                Next::Keep(effect) => cascade.keep(effect, origin),
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, cascade: &mut Cascade, deed: Deed, origin: Origin) -> Result<(), Failure> {
        let (kind, id) = deed.target();
        let shard = self.shard_of(kind, id);
        if shard != self.durable.shard {
            self.owe_message(cascade, shard, deed, origin);
            return Ok(());
        }
        match deed {
            Deed::Command(command) => self.tell(cascade, command, origin),
            Deed::Learn(Learnt { order, seen, event, step }) => {
                let caused = Origin {
                    causation: event,
                    ..origin
                };
                let asks = self.advance(cascade, order, step, seen, caused)?;
                cascade.ask(asks, caused);
                Ok(())
            }
        }
    }

    /// What is too long for one turn is owed, and opens the next.
    fn owe_the_rest(&mut self, cascade: &mut Cascade) {
        let mut rest = Vec::new();
        for (next, origin) in std::mem::take(&mut cascade.stack).into_iter().rev() {
            match next {
                Next::Do(deed) => rest.push(Task::new(deed, origin)),
                Next::Keep(effect) => cascade.keep(effect, origin),
            }
        }
        let id = self.new_id();
        cascade.changes.push(Change::Owe(id, Owed::Cascade { rest }));
    }

    fn tell(&mut self, cascade: &mut Cascade, command: Command, origin: Origin) -> Result<(), Failure> {
        let command = self.enrich(cascade, command)?;
        let (kind, id) = command.target();
        let state = self.load_or_fail(kind, id)?.state;
        let events = state.decide(command).map_err(|refusal| {
            Failure::Broken(format!(
                "a process asked {}-{id} for what it refuses: {} ({})",
                kind.name(),
                refusal.detail,
                refusal.code
            ))
        })?;
        drop(state);
        let causation_id = Some(origin.causation).filter(|id| !id.is_nil());
        let metadata = MetadataJson {
            correlation_id: origin.correlation,
            causation_id,
            actor: None,
            idempotency_key: None,
            traceparent: None,
        };
        self.sequence(cascade, events, origin, &metadata)
    }

    /// Gives events their place and shows each to the processes at once.
    pub(super) fn sequence(
        &mut self,
        cascade: &mut Cascade,
        events: Vec<CommerceEvent>,
        origin: Origin,
        metadata: &MetadataJson<'_>,
    ) -> Result<(), Failure> {
        if events.is_empty() {
            return Ok(());
        }
        let metadata: Box<str> = serde_json::to_string(metadata)?.into();
        for event in events {
            let (kind, id) = event.source();
            self.states.change(&(kind, id), self.turn, 1, |state| state.evolve(&event));
            let sequence = self.states.get(&(kind, id)).map_or(0, |(_, version)| version);
            let position = self.open.position() + cascade.events.len() as u64 + 1;
            let event_id = self.event_id(position);
            cascade.events.push(Event {
                shard: self.durable.shard,
                position,
                stream: StreamId::new(kind.name(), id),
                sequence,
                event_id,
                event_type: event.stored_name().into(),
                event_version: EVENT_VERSION.into(),
                recorded_at: self.now.micros(),
                payload: event.payload()?.into(),
                metadata: metadata.clone(),
            });
            let caused = Origin {
                correlation: origin.correlation,
                causation: event_id,
            };
            let mut asks = sagas::policies(&event, &self.settings.processes);
            if let Some((order, step)) = purchase::interpret(&event, self.now) {
                if self.is_here(Kind::Order, order.uuid()) {
                    asks.extend(self.advance(cascade, order, step, Seen::Here(position), caused)?);
                } else {
                    let shard = self.durable.shard;
                    let seen = Seen::There { shard, position };
                    let event = event_id;
                    cascade.learnt.push((Learnt { order, seen, event, step }, caused));
                }
            }
            cascade.ask(asks, caused);
            cascade.recorded.push(Recorded {
                shard: self.durable.shard,
                position,
                sequence,
                at: self.now,
                event: Some(event),
            });
        }
        Ok(())
    }

    fn advance(
        &mut self,
        cascade: &mut Cascade,
        order: aggregates::OrderId,
        step: Step,
        seen: Seen,
        caused: Origin,
    ) -> Result<Vec<Ask>, Failure> {
        let id = order.uuid();
        self.load_purchase(id)?;
        self.purchases
            .change(&id, self.turn, 0, |purchase| Arc::make_mut(purchase).evolve(order, &step));
        let asks = match self.purchases.get(&id) {
            Some((purchase, _)) => purchase.react(&step, self.now, &self.settings.processes),
            None => Vec::new(),
        };
        match cascade.purchases.iter_mut().find(|advance| advance.order == id) {
            Some(advance) => {
                advance.seen.push(seen);
                advance.steps.push(step);
            }
            None => cascade.purchases.push(Advance {
                order: id,
                origin: caused,
                seen: vec![seen],
                steps: vec![step],
            }),
        }
        Ok(asks)
    }

    /// Each purchase that learnt something says so in its own stream, in one event.
    pub(super) fn remember(&mut self, cascade: &mut Cascade) -> Result<(), Failure> {
        for advance in std::mem::take(&mut cascade.purchases) {
            self.purchases.change(&advance.order, self.turn, 1, |_| ());
            let sequence = self.purchases.get(&advance.order).map_or(0, |(_, version)| version);
            let position = self.open.position() + cascade.events.len() as u64 + 1;
            let causation_id = Some(advance.origin.causation);
            let metadata = MetadataJson {
                correlation_id: advance.origin.correlation,
                causation_id,
                actor: None,
                idempotency_key: None,
                traceparent: None,
            };
            cascade.events.push(Event {
                shard: self.durable.shard,
                position,
                stream: StreamId::new(purchase::KIND, advance.order),
                sequence,
                event_id: self.event_id(position),
                event_type: PurchaseEvent::STORED_NAME.into(),
                event_version: EVENT_VERSION.into(),
                recorded_at: self.now.micros(),
                payload: serde_json::to_string(&PurchaseEvent::Advanced {
                    seen: advance.seen,
                    steps: advance.steps,
                })?
                .into(),
                metadata: serde_json::to_string(&metadata)?.into(),
            });
            cascade.recorded.push(Recorded {
                shard: self.durable.shard,
                position,
                sequence,
                at: self.now,
                event: None,
            });
        }
        Ok(())
    }

    /// The cascade has come to its end: it belongs to the open batch now.
    fn join(&mut self, mut cascade: Cascade) -> Result<(), Failure> {
        self.remember(&mut cascade)?;
        self.tell_other_shards(&mut cascade);
        let mut snapshots = Vec::new();
        let watchers = &self.watchers;
        let mut watched = Vec::new();
        self.states.keep_cascade(|key, before, state, version| {
            if version / SNAPSHOT_EVERY > before / SNAPSHOT_EVERY {
                snapshots.push((key.0.name(), key.1, shape(key.0), version, state.to_json()));
            }
            if watchers.contains_key(key) {
                watched.push((
                    *key,
                    Versioned {
                        version,
                        state: state.clone(),
                    },
                ));
            }
        });
        self.purchases.keep_cascade(|id, before, state, version| {
            if version / SNAPSHOT_EVERY > before / SNAPSHOT_EVERY {
                snapshots.push((purchase::KIND, *id, purchase_shape(), version, serde_json::to_vec(&**state)));
            }
        });
        for (kind, id, shape, sequence, json) in snapshots {
            // Without it the stream is read from further back.
            if let Ok(json) = json {
                self.open.snapshots.push(Snapshot {
                    stream: StreamId::new(kind, id),
                    sequence,
                    shape,
                    state: json.into(),
                });
            }
        }
        self.open.events.append(&mut cascade.events);
        self.open.recorded.append(&mut cascade.recorded);
        self.open.orders_numbered += cascade.numbered;
        for change in cascade.changes {
            self.apply(change);
        }
        for (key, versioned) in watched {
            self.tell_watchers(key, &versioned);
        }
        Ok(())
    }

    fn tell_watchers(&mut self, key: (Kind, Uuid), versioned: &Versioned) {
        let Some(watchers) = self.watchers.remove(&key) else { return };
        let (done, wait): (Vec<_>, Vec<_>) = watchers.into_iter().partition(|(_, until)| until(&versioned.state));
        for (ticket, _) in done {
            let answer = Ok(Response::State(Some(versioned.clone())));
            self.open.releases.push(Release::Answer {
                ticket,
                answer,
                retry: None,
            });
        }
        if !wait.is_empty() {
            self.watchers.insert(key, wait);
        }
    }

    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::SetTimer(id, due, task) => {
                let json = serde_json::to_string(&task).unwrap_or_default();
                self.open.timers.insert(
                    id,
                    Some(Timer {
                        id,
                        due: due.micros(),
                        command: json.into(),
                    }),
                );
                self.timers.set(id, due, task);
            }
            Change::CancelTimer(id) => {
                if self.timers.cancel(id) {
                    self.open.timers.insert(id, None);
                }
            }
            Change::Owe(id, owed) => {
                let json = serde_json::to_string(&owed).unwrap_or_default();
                self.open.effects.insert(id, Some(OwedEffect { id, effect: json.into() }));
                if matches!(owed, Owed::Cascade { .. }) {
                    self.next_turn.push(Own::Rest(id));
                }
                self.owed.insert(id, owed);
            }
            Change::Settle(id) => {
                if matches!(self.owed.remove(&id), Some(Owed::Message { .. })) {
                    self.outbox.answered(id);
                }
                self.open.effects.insert(id, None);
            }
            Change::Call(id, call) => self.open.releases.push(Release::Call(id, call)),
            Change::Send(message) => self.open.releases.push(Release::Send(message)),
        }
    }

    /// Unique by what it is made of: the log, the shard, the writer's epoch and the position; so the position can be read off it.
    fn event_id(&self, position: u64) -> Uuid {
        event_id(self.durable.log_id, self.durable.shard, self.durable.epoch, position)
    }

    /// An id for what is no event: unique by the writer's epoch, the position and how many were made.
    pub(super) fn new_id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::new_v5(&self.event_id(self.open.position()), &self.ids.to_le_bytes())
    }
}

/// An event's id, UUIDv8 (RFC 9562, 5.8): 4 bytes of the log's id, the shard, 12 bits of the epoch, 7 bytes of the position.
pub(crate) fn event_id(log_id: Uuid, shard: u16, epoch: u64, position: u64) -> Uuid {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&log_id.as_bytes()[..4]);
    bytes[4..6].copy_from_slice(&shard.to_be_bytes());
    bytes[6..8].copy_from_slice(&epoch.to_be_bytes()[6..]);
    bytes[8..].copy_from_slice(&position.to_be_bytes());
    Uuid::new_v8(bytes)
}
