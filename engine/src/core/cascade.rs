//! One input, decided to its end: the command, the events, what the processes ask for because of them, and so on.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use aggregates::{
    Class, Command, CommerceEvent, EVENT_VERSION, InventoryCommand, Kind, Money, Offer, OrderCommand, PaymentCommand, PlaceOrder, Product,
    ProductId, Recorded, Refusal, State, Timestamp,
};
use event_store::{Event, GENESIS, Hash, IdempotencyRecord, OwedEffect, Parked, Snapshot, StreamId, StreamRead, StreamSlice, Timer};
use payment_gateway::{CancellationOutcome, ChargeOutcome, StatusOutcome};
use sagas::{Ask, ProviderCall, Purchase, PurchaseEvent, Step, purchase};
use serde::Serialize;
use std::sync::Arc;
use uuid::Uuid;

use super::{Core, Decided, Failure, Outcome, Release, Response, Work, open::Own};
use crate::{
    Answer, ConsistencyToken, EngineError, Planned, Reply, Request, Versioned,
    stored::{Origin, Owed, ParkedInput, Rest, TimedCommand, decode_answer, encode_answer},
};

/// A stream's state is kept as a snapshot after every so many of its events.
const SNAPSHOT_EVERY: u64 = 500;

/// So many requests are set aside in a process's life at most.
const MOST_REQUESTS_SET_ASIDE: u64 = 1_000;

/// When an input of the core's own that cannot be processed is tried again, before it is set aside.
const TRY_AGAIN_AFTER: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(10), Duration::from_mins(1)];

/// What one input has led to so far. It joins the open batch at its end, or leaves no trace.
#[derive(Default)]
pub(super) struct Cascade {
    events: Vec<Event>,
    recorded: Vec<Recorded>,
    purchases: Vec<Advance>,
    changes: Vec<Change>,
    numbered: u64,
    /// What is still asked for: the next is the last.
    stack: Vec<(Ask, Origin)>,
    commands: usize,
    /// So many commands at most; the rest opens the next turn.
    most: usize,
}

impl Cascade {
    fn of(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    /// Keeps an effect until the end of the cascade.
    fn keep(&mut self, effect: Ask, origin: Origin) {
        match effect {
            Ask::Tell(_) => self.stack.push((effect, origin)),
            Ask::Provider(call) => {
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
            Ask::SetTimer { id, due, command } => {
                let tries = 0;
                let command = TimedCommand { command, origin, tries };
                self.changes.push(Change::SetTimer(id, due, command));
            }
            Ask::CancelTimer { id } => self.changes.push(Change::CancelTimer(id)),
        }
    }
}

/// What a purchase learnt in this cascade.
struct Advance {
    order: Uuid,
    origin: Origin,
    seen: Vec<u64>,
    steps: Vec<Step>,
}

enum Change {
    SetTimer(Uuid, Timestamp, TimedCommand),
    CancelTimer(Uuid),
    Owe(Uuid, Owed),
    Settle(Uuid),
    Call(Uuid, ProviderCall),
}

/// Whether what follows from a request may be owed when it cannot be done: then the request itself counts. An order that is only being
/// placed had better not begin.
fn can_go_in_pieces(request: &Request) -> bool {
    !request.dry_run && !matches!(request.command, Command::Order(_, OrderCommand::Place(_)))
}

/// What becomes of an input of the core's own once it is decided.
fn done(own: &Own) -> Change {
    match own {
        Own::Outcome(effect, _) | Own::Rest(effect) => Change::Settle(*effect),
        Own::Timer(id) => Change::CancelTimer(*id),
    }
}

/// Why events are recorded, as it stands in their metadata.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MetadataJson<'a> {
    correlation_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    causation_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
}

impl<T> Core<T> {
    /// Reads what the waiting requests need, in one query.
    pub(super) fn prefetch(&mut self) {
        let mut records = Vec::new();
        let mut streams = Vec::new();
        for (_, request) in self.waiting.iter().take(self.settings.batch) {
            if let Some(idempotency) = &request.idempotency
                && !request.dry_run
                && !self.fresh_records.contains_key(&idempotency.record)
                && !self.prefetched.contains_key(&idempotency.record)
            {
                records.push(idempotency.record);
            }
            let (kind, id) = request.command.target();
            let named_after_a_new_id =
                request.idempotency.is_some() && matches!(request.command, Command::Order(_, OrderCommand::Place(_)));
            if !named_after_a_new_id && !self.states.contains(&(kind, id)) {
                streams.push((kind, id));
            }
        }
        streams.sort_unstable();
        streams.dedup();
        if records.is_empty() && streams.is_empty() {
            return;
        }
        let reads: Vec<_> = streams
            .iter()
            .map(|(kind, id)| StreamRead {
                stream: StreamId::new(kind.name(), *id),
                shape: shape(*kind),
            })
            .collect();
        // What fails here is read again, and its error answered, when it is needed.
        let Ok((found, slices)) = self.reader.read(&records, &reads) else {
            return;
        };
        self.prefetched.extend(records.into_iter().zip(found));
        for ((kind, id), slice) in streams.into_iter().zip(slices) {
            if let Ok((state, version)) = fold(kind, id, &slice) {
                self.states.loaded((kind, id), state, version, self.turn);
            }
        }
    }

    /// Decides one input and lets it join the open batch; whatever goes wrong concerns this input alone.
    pub(super) fn process(&mut self, work: Work<T>) {
        match work {
            Work::Request(ticket, request) => self.process_request(ticket, request),
            Work::Unpark(ticket, unpark) => self.process_unpark(ticket, unpark),
            Work::Own(own) => self.process_own(own),
        }
    }

    fn process_request(&mut self, ticket: T, request: Box<Request>) {
        if let Some(answer) = self.replay(&request) {
            self.open.releases.push(Release::Answer {
                ticket,
                answer,
                retry: None,
            });
            return;
        }
        let mut decided = self.undoable(self.settings.cascade, |core, cascade| core.decide_request(cascade, &request));
        if let Err(Failure::Broken(_)) = decided
            && can_go_in_pieces(&request)
        {
            decided = self.decide_alone(&request);
        }
        let answer = match decided {
            Ok(decided) => Ok(self.reply(&request, decided)),
            Err(Failure::Refused(refusal)) => self.refuse(&request, refusal),
            Err(Failure::Unavailable(reason)) => Err(EngineError::Unavailable(reason)),
            Err(Failure::Broken(reason)) => Err(self.park(&request, reason)),
        };
        self.open.releases.push(Release::Answer {
            ticket,
            answer,
            retry: Some(request),
        });
    }

    /// Decides a request's own command, whatever becomes of what follows from it: that is owed.
    fn decide_alone(&mut self, request: &Request) -> Result<Decided, Failure> {
        self.undoable(0, |core, cascade| core.decide_request(cascade, request))
    }

    /// After the store has refused a request's batch: tries to make at least its own command durable. Says whether it may work.
    pub(super) fn answer_in_pieces(&mut self, ticket: T, request: Box<Request>) -> Result<(), (T, Box<Request>)> {
        if !can_go_in_pieces(&request) {
            return Err((ticket, request));
        }
        let Ok(decided) = self.decide_alone(&request) else {
            return Err((ticket, request));
        };
        self.open.in_pieces = true;
        let answer = Ok(self.reply(&request, decided));
        self.open.releases.push(Release::Answer {
            ticket,
            answer,
            retry: Some(request),
        });
        Ok(())
    }

    /// The same for an input of the core's own.
    pub(super) fn carry_on_in_pieces(&mut self, own: &Own) -> bool {
        let commands = self.commands_of(own);
        let done = !commands.is_empty() && self.carry_on_at_most(1, &commands, Some(own)).is_ok();
        if done {
            self.open.in_pieces = true;
            self.open.own.push(own.clone());
        }
        done
    }

    fn process_own(&mut self, own: Own) {
        let commands = self.commands_of(&own);
        // It was settled, cancelled or moved meanwhile.
        if commands.is_empty() {
            return;
        }
        match self.carry_on(&commands, Some(&own)) {
            Ok(()) => self.open.own.push(own),
            Err(Failure::Unavailable(reason)) => {
                tracing::warn!(%reason, "the log cannot be read; this is tried again");
                self.pause_until = Some(self.now.after(super::commit::PAUSE));
                self.backlog.push_front(own);
            }
            Err(Failure::Refused(Refusal { detail, .. })) => self.give_up(own, &detail, true),
            Err(Failure::Broken(reason)) => self.give_up(own, &reason, true),
        }
    }

    /// Gives commands that follow from something, each with all that follows from it.
    ///
    /// When that cannot be done to its end, the first command is given alone and the rest is owed: what is to blame comes to stand alone.
    pub(super) fn carry_on(&mut self, commands: &[Rest], own: Option<&Own>) -> Result<(), Failure> {
        match self.carry_on_at_most(self.settings.cascade, commands, own) {
            Err(Failure::Broken(_) | Failure::Refused(_)) => self.carry_on_at_most(1, commands, own),
            done => done,
        }
    }

    pub(super) fn carry_on_at_most(&mut self, most: usize, commands: &[Rest], own: Option<&Own>) -> Result<(), Failure> {
        self.undoable(most, |core, cascade| {
            cascade.changes.extend(own.map(done));
            let asks = commands.iter().rev().map(|rest| (Ask::Tell(rest.command.clone()), rest.origin));
            cascade.stack.extend(asks);
            core.run(cascade)
        })
    }

    /// What an input of the core's own asks for; nothing when it is no longer wanted.
    fn commands_of(&self, own: &Own) -> Vec<Rest> {
        match own {
            Own::Outcome(effect, outcome) => match self.owed.get(effect) {
                Some(Owed::Call { call, origin }) => vec![Rest {
                    command: command_of(call, outcome.clone()),
                    origin: *origin,
                    tries: 0,
                }],
                Some(Owed::Cascade { .. }) | None => Vec::new(),
            },
            Own::Timer(id) => {
                let timer = self.timers.due(*id, self.now).cloned();
                let rest = timer.map(|TimedCommand { command, origin, tries }| Rest { command, origin, tries });
                rest.into_iter().collect()
            }
            Own::Rest(effect) => match self.owed.get(effect) {
                Some(Owed::Cascade { rest }) => rest.clone(),
                Some(Owed::Call { .. }) | None => Vec::new(),
            },
        }
    }

    /// Puts an input of the core's own off, and after some tries sets it aside, so that it stops nothing else.
    pub(super) fn give_up(&mut self, own: Own, reason: &str, tell: bool) {
        let mut commands = self.commands_of(&own);
        self.open.gives_up = true;
        self.apply(done(&own));
        if commands.len() > 1 {
            // Each goes on by itself, so that the culprit alone is set aside.
            for rest in commands {
                let id = self.new_id();
                self.apply(Change::Owe(id, Owed::Cascade { rest: vec![rest] }));
            }
        } else if let Some(rest) = commands.pop() {
            match TRY_AGAIN_AFTER.get(rest.tries) {
                Some(delay) => self.put_off(rest, *delay, reason),
                None => self.set_aside_for_good(rest, reason, tell),
            }
        }
        self.open.own.push(own);
    }

    fn put_off(&mut self, rest: Rest, delay: Duration, reason: &str) {
        let (kind, target) = rest.command.target();
        tracing::warn!(aggregate = kind.name(), %target, %reason, ?delay, "an input cannot be processed and is tried again");
        let again = TimedCommand {
            command: rest.command,
            origin: rest.origin,
            tries: rest.tries + 1,
        };
        let id = self.new_id();
        self.apply(Change::SetTimer(id, self.now.after(delay), again));
    }

    fn set_aside_for_good(&mut self, rest: Rest, reason: &str, tell: bool) {
        let origin = rest.origin;
        let input = ParkedInput {
            command: rest.command,
            cause: None,
            origin: Some(origin),
        };
        let id = self.set_aside(&input, reason.to_owned());
        let attention = sagas::set_aside(&input.command, id, reason).filter(|_| tell);
        // The order that waits for it says so, if it can.
        self.open.tells |= attention.is_some();
        let told = attention.map(|attention| {
            self.undoable(self.settings.cascade, |core, cascade| {
                cascade.stack.push((attention, origin));
                core.run(cascade)
            })
        });
        if let Some(Err(failure)) = told {
            tracing::error!(?failure, "nor can the order say that it waits for it");
        }
    }

    /// Sets a request aside, and says so to its sender.
    pub(super) fn park(&mut self, request: &Request, reason: String) -> EngineError {
        let input = ParkedInput {
            command: request.command.clone(),
            cause: Some(request.cause.clone()),
            origin: None,
        };
        EngineError::Parked(self.set_aside(&input, reason))
    }

    fn set_aside(&mut self, input: &ParkedInput, reason: String) -> Uuid {
        let id = self.new_id();
        self.open.gives_up = true;
        let (kind, target) = input.command.target();
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

    /// Runs a cascade; takes back what it did unless it comes to its end.
    fn undoable<R>(&mut self, most: usize, run: impl FnOnce(&mut Self, &mut Cascade) -> Result<R, Failure>) -> Result<R, Failure> {
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

    fn undo(&mut self) {
        self.states.undo_cascade();
        self.purchases.undo_cascade();
    }

    fn decide_request(&mut self, cascade: &mut Cascade, request: &Request) -> Result<Decided, Failure> {
        let (kind, id) = request.command.target();
        if request.idempotency.is_some()
            && !request.dry_run
            && let Command::Order(order, OrderCommand::Place(_)) = &request.command
        {
            self.new_order(*order);
        }
        let command = self.enrich(cascade, request.command.clone())?;
        let before = self.load_or_fail(kind, id)?;
        if let Some(expected) = request.if_match
            && expected != before.version
        {
            return Err(Failure::Refused(version_mismatch(before.version)));
        }
        let origin = Origin {
            correlation: request.cause.correlation,
            causation: Uuid::nil(),
        };
        let events = before.state.decide(command).map_err(Failure::Refused)?;
        let actor = request.cause.actor.to_string();
        let metadata = MetadataJson {
            correlation_id: request.cause.correlation,
            causation_id: None,
            actor: Some(&actor),
            idempotency_key: request.idempotency.as_ref().map(|idempotency| idempotency.key.as_str()),
            traceparent: request.cause.traceparent.as_deref(),
        };
        drop(before);
        self.sequence(cascade, events, origin, &metadata)?;
        // The command's own answer, whatever follows.
        let own = self.load_or_fail(kind, id)?;
        let body = (self.settings.represent)(kind, id, &own.state, own.version);
        let position = self.open.position() + cascade.events.len() as u64;
        let token = ConsistencyToken {
            log_id: self.durable.log_id,
            shard: self.durable.shard,
            position,
        };
        let answer = Answer {
            token,
            version: own.version,
            result: Ok(body.into()),
        };
        drop(own);
        self.run(cascade)?;
        let latest = self.load_or_fail(kind, id)?;
        if request.dry_run {
            self.remember(cascade)?;
            let planned = planned(&cascade.events)?;
            // Nothing of this joins.
            self.undo();
            *cascade = Cascade::default();
            return Ok(Decided { answer, latest, planned });
        }
        Ok(Decided {
            answer,
            latest,
            planned: Vec::new(),
        })
    }

    /// The order's streams are named after an id that was made for this request: there is nothing to read.
    fn new_order(&mut self, order: aggregates::OrderId) {
        let payment = aggregates::PaymentId::for_order(order).uuid();
        let fresh = [(Kind::Order, order.uuid()), (Kind::Payment, payment)];
        for (kind, id) in fresh {
            if !self.states.contains(&(kind, id)) {
                self.states.loaded((kind, id), kind.initial(), 0, self.turn);
            }
        }
        if !self.purchases.contains(&order.uuid()) {
            self.purchases.loaded(order.uuid(), Arc::default(), 0, self.turn);
        }
    }

    /// Carries out what is asked for, depth first, until only effects that leave the process remain.
    fn run(&mut self, cascade: &mut Cascade) -> Result<(), Failure> {
        while let Some((ask, origin)) = cascade.stack.pop() {
            match ask {
                Ask::Tell(command) if cascade.commands >= cascade.most => {
                    cascade.stack.push((Ask::Tell(command), origin));
                    self.owe_the_rest(cascade);
                    break;
                }
                Ask::Tell(command) => {
                    cascade.commands += 1;
                    self.tell(cascade, command, origin)?;
                }
                effect => cascade.keep(effect, origin),
            }
        }
        Ok(())
    }

    /// What is too long for one turn is owed, and opens the next.
    fn owe_the_rest(&mut self, cascade: &mut Cascade) {
        let mut rest = Vec::new();
        for (ask, origin) in std::mem::take(&mut cascade.stack).into_iter().rev() {
            match ask {
                Ask::Tell(command) => rest.push(Rest { command, origin, tries: 0 }),
                effect => cascade.keep(effect, origin),
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
    fn sequence(
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
                asks.extend(self.advance(cascade, order, step, position, caused)?);
            }
            cascade.stack.extend(asks.into_iter().rev().map(|ask| (ask, caused)));
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
        position: u64,
        caused: Origin,
    ) -> Result<Vec<Ask>, Failure> {
        let id = order.uuid();
        if !self.purchases.contains(&id) {
            let stream = StreamId::new(purchase::KIND, id);
            let (state, version) = self.fold_purchase(&stream)?;
            self.purchases.loaded(id, state, version, self.turn);
        }
        self.purchases
            .change(&id, self.turn, 0, |purchase| Arc::make_mut(purchase).evolve(order, &step));
        let asks = match self.purchases.get(&id) {
            Some((purchase, _)) => purchase.react(&step, self.now, &self.settings.processes),
            None => Vec::new(),
        };
        match cascade.purchases.iter_mut().find(|advance| advance.order == id) {
            Some(advance) => {
                advance.seen.push(position);
                advance.steps.push(step);
            }
            None => cascade.purchases.push(Advance {
                order: id,
                origin: caused,
                seen: vec![position],
                steps: vec![step],
            }),
        }
        Ok(asks)
    }

    /// Each purchase that learnt something says so in its own stream, in one event.
    fn remember(&mut self, cascade: &mut Cascade) -> Result<(), Failure> {
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

    fn apply(&mut self, change: Change) {
        match change {
            Change::SetTimer(id, due, command) => {
                let json = serde_json::to_string(&command).unwrap_or_default();
                self.open.timers.insert(
                    id,
                    Some(Timer {
                        id,
                        due: due.micros(),
                        command: json.into(),
                    }),
                );
                self.timers.set(id, due, command);
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
                self.owed.remove(&id);
                self.open.effects.insert(id, None);
            }
            Change::Call(id, call) => self.open.releases.push(Release::Call(id, call)),
        }
    }

    fn reply(&mut self, request: &Request, decided: Decided) -> Response {
        if !request.dry_run {
            self.record(request, &decided.answer);
        }
        Response::Reply(Box::new(Reply {
            answer: decided.answer,
            replayed: false,
            latest: decided.latest,
            planned: decided.planned,
        }))
    }

    fn refuse(&mut self, request: &Request, refusal: Refusal) -> Result<Response, EngineError> {
        let (kind, id) = request.command.target();
        let latest = self.load(kind, id)?;
        let token = ConsistencyToken {
            log_id: self.durable.log_id,
            shard: self.durable.shard,
            position: self.open.position(),
        };
        let answer = Answer {
            token,
            version: latest.version,
            result: Err(refusal),
        };
        let planned = Vec::new();
        Ok(self.reply(request, Decided { answer, latest, planned }))
    }

    fn record(&mut self, request: &Request, answer: &Answer) {
        let Some(idempotency) = &request.idempotency else { return };
        self.prefetched.remove(&idempotency.record);
        let Ok(json) = encode_answer(answer) else {
            tracing::error!("an answer is not JSON; it is not recorded");
            return;
        };
        self.fresh_records
            .insert(idempotency.record, (idempotency.fingerprint, answer.clone()));
        self.open.records.push(IdempotencyRecord {
            key: idempotency.record,
            fingerprint: idempotency.fingerprint,
            position: answer.token.position,
            recorded_at: self.now.micros(),
            answer: json,
        });
    }

    /// The answer that a request with this key got before, if there was one.
    fn replay(&mut self, request: &Request) -> Option<Result<Response, EngineError>> {
        if request.dry_run {
            return None;
        }
        let idempotency = request.idempotency.as_ref()?;
        let known = match self.fresh_records.get(&idempotency.record) {
            Some((fingerprint, answer)) => Some(Ok((*fingerprint, answer.clone()))),
            None => match self.prefetched.remove(&idempotency.record) {
                Some(found) => found.map(Ok),
                None => match self.reader.read(&[idempotency.record], &[]) {
                    Ok((mut found, _)) => found.pop().flatten().map(Ok),
                    Err(error) => Some(Err(EngineError::Unavailable(error.to_string()))),
                },
            }
            .map(|found: Result<IdempotencyRecord, EngineError>| {
                let record = found?;
                let answer =
                    decode_answer(self.durable.log_id, &record.answer).map_err(|error| EngineError::Unavailable(error.to_string()))?;
                Ok((record.fingerprint, answer))
            }),
        }?;
        Some(known.and_then(|(fingerprint, answer)| {
            if fingerprint != idempotency.fingerprint {
                return Err(EngineError::KeyReused);
            }
            let (kind, id) = request.command.target();
            let latest = self.load(kind, id)?;
            Ok(Response::Reply(Box::new(Reply {
                answer,
                replayed: true,
                latest,
                planned: Vec::new(),
            })))
        }))
    }

    /// Looks up what a decision needs and only the log knows.
    fn enrich(&mut self, cascade: &mut Cascade, command: Command) -> Result<Command, Failure> {
        match command {
            Command::Order(id, OrderCommand::Place(mut place)) => {
                self.offers(&mut place)?;
                cascade.numbered += 1;
                let count = self.open.orders_numbered + cascade.numbered;
                place.number = Some(
                    self.numbers
                        .number(count, place.at)
                        .map_err(|error| Failure::Broken(error.to_string()))?,
                );
                Ok(Command::Order(id, OrderCommand::Place(place)))
            }
            Command::Inventory(
                id,
                InventoryCommand::Reserve {
                    order,
                    quantity,
                    expected,
                    expires_at,
                    ..
                },
            ) => {
                let price = self.offer(id)?.map(|offer| offer.price);
                Ok(Command::Inventory(
                    id,
                    InventoryCommand::Reserve {
                        order,
                        quantity,
                        expected,
                        price,
                        expires_at,
                    },
                ))
            }
            other => Ok(other),
        }
    }

    fn offers(&mut self, place: &mut PlaceOrder) -> Result<(), Failure> {
        for line in &mut place.lines {
            line.offer = self.offer(line.product)?;
        }
        Ok(())
    }

    fn offer(&mut self, product: ProductId) -> Result<Option<Offer>, Failure> {
        let state = self.load_or_fail(Kind::Product, product.uuid())?.state;
        let State::Product(product) = state else { return Ok(None) };
        Ok(match &*product {
            Product::Offered {
                seller,
                name,
                price,
                retired: false,
                ..
            } => Some(Offer {
                seller: *seller,
                name: name.clone(),
                price: *price,
            }),
            Product::Offered { .. } | Product::New => None,
        })
    }

    pub(super) fn load(&mut self, kind: Kind, id: Uuid) -> Result<Versioned, EngineError> {
        self.load_or_fail(kind, id).map_err(|failure| match failure {
            Failure::Unavailable(reason) | Failure::Broken(reason) => EngineError::Unavailable(reason),
            Failure::Refused(refusal) => EngineError::Unavailable(refusal.detail.into_owned()),
        })
    }

    /// An aggregate's state, from memory or from the log.
    pub(super) fn load_or_fail(&mut self, kind: Kind, id: Uuid) -> Result<Versioned, Failure> {
        if let Some((state, version)) = self.states.get(&(kind, id)) {
            return Ok(Versioned {
                version,
                state: state.clone(),
            });
        }
        let stream = StreamId::new(kind.name(), id);
        let slice = self.read_stream(&stream, shape(kind))?;
        let folded = fold(kind, id, &slice);
        let (state, version) = match folded {
            // A snapshot that cannot be read is no loss: the events are the truth.
            Err(_) if slice.snapshot.is_some() => fold(kind, id, &self.read_stream(&stream, NO_SHAPE)?)?,
            folded => folded?,
        };
        self.states.loaded((kind, id), state.clone(), version, self.turn);
        Ok(Versioned { version, state })
    }

    fn fold_purchase(&self, stream: &StreamId) -> Result<(Arc<Purchase>, u64), Failure> {
        let slice = self.read_stream(stream, purchase_shape())?;
        let snapshot = slice
            .snapshot
            .as_ref()
            .map(|snapshot| (serde_json::from_slice::<Purchase>(&snapshot.state), snapshot.sequence));
        let (mut state, mut version, events) = match snapshot {
            Some((Ok(state), sequence)) => (state, sequence, slice.events),
            Some((Err(_), _)) => (Purchase::default(), 0, self.read_stream(stream, NO_SHAPE)?.events),
            None => (Purchase::default(), 0, slice.events),
        };
        for event in events {
            let PurchaseEvent::Advanced { steps, .. } = serde_json::from_str(&event.payload)?;
            for step in &steps {
                state.evolve(aggregates::OrderId::new(stream.id), step);
            }
            version = event.sequence;
        }
        Ok((Arc::new(state), version))
    }

    fn read_stream(&self, stream: &StreamId, shape: Hash) -> Result<StreamSlice, Failure> {
        let (_, mut slices) = self.reader.read(
            &[],
            &[StreamRead {
                stream: stream.clone(),
                shape,
            }],
        )?;
        Ok(slices.pop().unwrap_or_default())
    }

    /// Unique by what it is made of: the log, the shard, the writer's epoch and the position; so the position can be read off it.
    fn event_id(&self, position: u64) -> Uuid {
        event_id(self.durable.log_id, self.durable.shard, self.durable.epoch, position)
    }

    /// An id for what is no event: unique by the writer's epoch, the position and how many were made.
    fn new_id(&mut self) -> Uuid {
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

/// A shape that no snapshot has.
const NO_SHAPE: Hash = GENESIS;

/// Names the shape of an aggregate's state: a snapshot of another shape is ignored.
fn shape(kind: Kind) -> Hash {
    static SHAPES: std::sync::OnceLock<Vec<Hash>> = std::sync::OnceLock::new();
    let shapes = SHAPES.get_or_init(|| {
        let shape = |kind: &Kind| hash_shape(kind.name(), &kind.initial().to_json().unwrap_or_default());
        Kind::ALL.iter().map(shape).collect()
    });
    Kind::ALL
        .iter()
        .position(|known| *known == kind)
        .and_then(|index| shapes.get(index))
        .copied()
        .unwrap_or(NO_SHAPE)
}

fn purchase_shape() -> Hash {
    static SHAPE: std::sync::OnceLock<Hash> = std::sync::OnceLock::new();
    *SHAPE.get_or_init(|| hash_shape(purchase::KIND, &serde_json::to_vec(&Purchase::default()).unwrap_or_default()))
}

/// The names of a state's members show in the JSON of its first value; what that does not show is counted here.
fn hash_shape(kind: &str, initial: &[u8]) -> Hash {
    const REVISION: u32 = 2;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&REVISION.to_le_bytes()).update(kind.as_bytes()).update(initial);
    *hasher.finalize().as_bytes()
}

fn fold(kind: Kind, id: Uuid, slice: &StreamSlice) -> Result<(State, u64), Failure> {
    let (mut state, mut version) = match &slice.snapshot {
        Some(snapshot) => (State::from_json(kind, &snapshot.state)?, snapshot.sequence),
        None => (kind.initial(), 0),
    };
    for event in &slice.events {
        let decoded = CommerceEvent::decode(kind.name(), id, &event.payload);
        let decoded = decoded.map_err(|_| {
            Failure::Broken(format!(
                "what stands at position {} is not an event of a {}",
                event.position,
                kind.name()
            ))
        })?;
        match decoded {
            Some(decoded) => state.evolve(&decoded),
            None => {
                return Err(Failure::Broken(format!(
                    "position {}: not an event of a {}",
                    event.position,
                    kind.name()
                )));
            }
        }
        version = event.sequence;
    }
    Ok((state, version))
}

fn planned(events: &[Event]) -> Result<Vec<Planned>, Failure> {
    let plan = |event: &Event| {
        Ok(Planned {
            aggregate_type: event.stream.kind.to_string(),
            aggregate_id: event.stream.id,
            sequence: event.sequence,
            event_type: event.event_type.to_string(),
            payload: serde_json::value::RawValue::from_string(event.payload.to_string())?,
        })
    };
    events.iter().map(plan).collect()
}

fn version_mismatch(version: u64) -> Refusal {
    Refusal {
        class: Class::Version,
        code: "version-mismatch".into(),
        detail: format!("the current version is {version}").into(),
        pointer: None,
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
