//! A small shop around a core: a store in memory, a clock that is set by hand, and somebody who keeps the answers.

#![allow(dead_code, reason = "each test uses a part of it")]

#[path = "../bad_reader/mod.rs"]
mod bad_reader;

use std::{sync::Arc, time::Duration};

use aggregates::{
    AccountId, Command, Currency, FailureCode, InventoryCommand, Kind, Money, Order, OrderCommand, OrderId, Payment, PaymentId,
    PaymentMethod, PlaceOrder, ProductCommand, ProductId, Quantity, Refusal, RequestedLine, Sealed, State, Stock, Timestamp, TrackingId,
    WalletCommand,
};
use engine::{
    Actor, Cause, Core, CoreSettings, EngineError, Idempotency, Input, Outcome, Output, Reply, Request, Response, SetAside, Unpark,
    Unparking,
};
use event_store::{Batch, CommitError, EventStore, Fingerprint, LogWriter, MemoryStore, Parked, RecordKey, StreamId};
use payment_gateway::{CancellationOutcome, ChargeOutcome, StatusOutcome};
use sagas::ProviderCall;
use uuid::Uuid;

use bad_reader::Badness;

pub(crate) const BALANCE: i64 = 1_000_000;
pub(crate) const PRODUCTS: u32 = 8;
pub(crate) const CARD: Paid = Paid::Card(None);
const PRICE: i64 = 5_000;
/// 2026-11-20T00:00:00Z
const START: i64 = 1_795_132_800_000_000;

/// How an order is paid.
#[derive(Clone, Copy)]
pub(crate) enum Paid {
    Balance,
    Card(Option<&'static str>),
}

/// What a step returned.
pub(crate) struct Outputs(Vec<Kept>);

enum Kept {
    Batch(Arc<Batch>),
    Answer(Result<Response, EngineError>),
    Call((Uuid, ProviderCall)),
    Stop(String),
}

impl Outputs {
    pub(crate) fn batch(&self) -> Option<Arc<Batch>> {
        self.0.iter().find_map(|kept| {
            if let Kept::Batch(batch) = kept {
                Some(Arc::clone(batch))
            } else {
                None
            }
        })
    }

    pub(crate) fn answers(&self) -> impl Iterator<Item = &Result<Response, EngineError>> {
        self.0
            .iter()
            .filter_map(|kept| if let Kept::Answer(answer) = kept { Some(answer) } else { None })
    }

    pub(crate) fn calls(&self) -> impl Iterator<Item = &(Uuid, ProviderCall)> {
        self.0
            .iter()
            .filter_map(|kept| if let Kept::Call(call) = kept { Some(call) } else { None })
    }

    pub(crate) fn stopped(&self) -> Option<&str> {
        self.0.iter().find_map(|kept| {
            if let Kept::Stop(reason) = kept {
                Some(reason.as_str())
            } else {
                None
            }
        })
    }
}

pub(crate) struct World {
    store: MemoryStore,
    writer: Box<dyn LogWriter>,
    core: Core<u64>,
    settings: CoreSettings,
    clock: i64,
    inbox: Vec<Input<u64>>,
    tickets: u64,
    answers: Vec<(u64, Result<Response, EngineError>)>,
    refused: Option<Uuid>,
    pub(crate) badness: Badness,
}

pub(crate) fn product(number: u32) -> ProductId {
    ProductId::new(Uuid::from_u128(0x1000 + u128::from(number)))
}

pub(crate) fn buyer() -> AccountId {
    AccountId::new(Uuid::from_u128(0x2000))
}

/// The id of the order that was placed under this number.
pub(crate) fn key(number: u64) -> OrderId {
    OrderId::new(Uuid::new_v5(&Uuid::NAMESPACE_OID, &number.to_le_bytes()))
}

fn represent(kind: Kind, id: Uuid, state: &State, version: u64) -> Vec<u8> {
    let status = match state {
        State::Order(order) => order.status().name(),
        _ => kind.name(),
    };
    format!(r#"{{"id":"{id}","status":"{status}","version":{version}}}"#).into_bytes()
}

fn krw(amount: i64) -> Money {
    Money::new(amount, Currency::KRW)
}

fn cause() -> Cause {
    Cause {
        actor: Actor::Account(buyer()),
        correlation: Uuid::from_u128(0x3000),
        traceparent: None,
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(crate) fn with_cascade(cascade: usize) -> Self {
        let mut world = Self::new();
        world.settings.cascade = cascade;
        world.restart();
        world
    }

    pub(crate) fn with_cache(cache: usize) -> Self {
        Self::with(|settings| settings.cache = cache)
    }

    fn with(change: impl FnOnce(&mut CoreSettings)) -> Self {
        let processes = sagas::Settings {
            currency: Currency::KRW,
            reservation_ttl: Duration::from_hours(1),
            payment_deadline: Duration::from_mins(10),
            stuck_after: Duration::from_hours(24),
        };
        let mut settings = CoreSettings::new(processes, jiff::tz::TimeZone::UTC, represent);
        change(&mut settings);
        let store = MemoryStore::default();
        let mut writer = store.writer().expect("a writer");
        let head = writer.take(0, Uuid::nil(), START).expect("the shard is free");
        let core = Core::new(head, store.reader().expect("a reader"), settings.clone()).expect("an empty log");
        let mut world = Self {
            store,
            writer,
            core,
            settings,
            clock: START,
            inbox: Vec::new(),
            tickets: 0,
            answers: Vec::new(),
            refused: None,
            badness: Badness::default(),
        };
        world.restart();
        world.open_shop();
        world
    }

    fn open_shop(&mut self) {
        for number in 0..PRODUCTS {
            let command = ProductCommand::Create {
                seller: AccountId::new(Uuid::from_u128(0x4000)),
                sku: format!("P{number}").parse().expect("a SKU"),
                name: format!("Product {number}").parse().expect("a name"),
                description: None,
                price: krw(PRICE),
                stock: Stock::OnHand(100),
                at: Timestamp::from_micros(START),
            };
            if number != 7 {
                self.request(Command::Product(product(number), command));
            }
        }
        self.request(Command::Wallet(buyer(), WalletCommand::Open { currency: Currency::KRW }));
        self.request(Command::Wallet(buyer(), WalletCommand::Deposit { amount: krw(BALANCE) }));
        self.settle();
        self.answers.clear();
    }

    fn request(&mut self, command: Command) -> u64 {
        self.send(Request::new(command, cause()))
    }

    fn send(&mut self, request: Request) -> u64 {
        self.tickets += 1;
        self.inbox.push(Input::Command(self.tickets, Box::new(request)));
        self.tickets
    }

    pub(crate) fn place(&mut self, number: u64, paid: Paid, lines: &[(u32, i64)]) -> OrderId {
        self.place_with_body(number, [0; 16], paid, lines)
    }

    pub(crate) fn place_with_body(&mut self, number: u64, fingerprint: Fingerprint, paid: Paid, lines: &[(u32, i64)]) -> OrderId {
        let request = self.order_request(number, fingerprint, paid, lines);
        self.send(request);
        key(number)
    }

    pub(crate) fn place_dry(&mut self, number: u64, paid: Paid, lines: &[(u32, i64)]) {
        let request = self.order_request(number, [0; 16], paid, lines);
        self.send(Request { dry_run: true, ..request });
    }

    fn order_request(&self, number: u64, fingerprint: Fingerprint, paid: Paid, lines: &[(u32, i64)]) -> Request {
        let line = |(number, quantity): &(u32, i64)| RequestedLine {
            product: product(*number),
            quantity: Quantity::parse(*quantity).expect("a quantity"),
            stated_price: None,
            offer: None,
        };
        let (method, payment_key) = match paid {
            Paid::Balance => (PaymentMethod::Balance, None),
            Paid::Card(key) => (PaymentMethod::Card, key.map(|key| key.parse().expect("a payment key"))),
        };
        let place = PlaceOrder {
            buyer: buyer(),
            lines: lines.iter().map(line).collect(),
            stated_total: None,
            address: Sealed::new("v1.sealed"),
            method,
            payment_key,
            number: None,
            tracking: TrackingId::for_order(key(number)),
            at: Timestamp::from_micros(self.clock),
        };
        let mut record = [0; 16];
        record[..8].copy_from_slice(&number.to_le_bytes());
        Request {
            idempotency: Some(Idempotency {
                key: number.to_string(),
                record: RecordKey(record),
                fingerprint,
            }),
            ..Request::new(Command::Order(key(number), OrderCommand::Place(Box::new(place))), cause())
        }
    }

    pub(crate) fn cancel(&mut self, order: OrderId) {
        self.request(Command::Order(
            order,
            OrderCommand::RequestCancellation {
                by: buyer(),
                reason: Sealed::new("v1.sealed"),
                selling: false,
            },
        ));
    }

    /// An operator lets the order try again.
    pub(crate) fn resume(&mut self, order: OrderId) {
        self.request(Command::Order(order, OrderCommand::Resume { by: buyer() }));
    }

    pub(crate) fn cancel_if_match(&mut self, order: OrderId, version: u64) {
        let command = OrderCommand::RequestCancellation {
            by: buyer(),
            reason: Sealed::new("v1.sealed"),
            selling: false,
        };
        self.send(Request {
            if_match: Some(version),
            ..Request::new(Command::Order(order, command), cause())
        });
    }

    pub(crate) fn deposit(&mut self, _number: u64, amount: i64) {
        self.request(Command::Wallet(buyer(), WalletCommand::Deposit { amount: krw(amount) }));
    }

    pub(crate) fn receive(&mut self, _number: u64, number: u32, quantity: u64) {
        self.request(Command::Inventory(
            product(number),
            InventoryCommand::Receive { quantity, reference: None },
        ));
    }

    pub(crate) fn watch(&mut self, kind: Kind, id: Uuid, until: fn(&State) -> bool) -> u64 {
        self.tickets += 1;
        self.inbox.push(Input::Watch(self.tickets, kind, id, until));
        self.tickets
    }

    pub(crate) fn tell(&mut self, input: Input<u64>) {
        self.inbox.push(input);
    }

    pub(crate) fn step(&mut self) -> Outputs {
        let inputs = std::mem::take(&mut self.inbox);
        self.step_with(inputs)
    }

    pub(crate) fn step_with(&mut self, inputs: Vec<Input<u64>>) -> Outputs {
        let outputs = self.core.step(Timestamp::from_micros(self.clock), inputs);
        let mut kept = Vec::new();
        for output in outputs {
            match output {
                Output::Commit(batch) => kept.push(Kept::Batch(batch)),
                Output::Answer(ticket, answer) => {
                    self.answers.push((ticket, answer.clone()));
                    kept.push(Kept::Answer(answer));
                }
                Output::Call(id, call) => kept.push(Kept::Call((id, call))),
                Output::Publish(_) => {}
                Output::Send(message) => panic!("one shard sends to nobody: {}", message.summary()),
                Output::Stop { reason } => kept.push(Kept::Stop(reason)),
            }
        }
        Outputs(kept)
    }

    fn write(&mut self, batch: &Batch) -> Result<(), CommitError> {
        if self
            .refused
            .is_some_and(|id| batch.events.iter().any(|event| event.stream.id == id))
        {
            return Err(CommitError::Refused("a planted refusal".to_owned()));
        }
        self.writer.commit(&[batch])
    }

    /// Writes the batch and takes the step that follows.
    pub(crate) fn commit(&mut self, batch: &Batch) -> Outputs {
        let result = self.write(batch);
        self.step_with(vec![Input::Committed(result)])
    }

    /// Writes the batch; what follows is taken with the next step.
    pub(crate) fn commit_and_keep(&mut self, batch: &Batch) {
        let result = self.write(batch);
        self.inbox.push(Input::Committed(result));
    }

    /// The batch is durable, and nobody hears of it.
    pub(crate) fn write_and_crash(&mut self, batch: &Batch) {
        self.write(batch).expect("written");
        self.restart();
    }

    /// Steps and commits until nothing moves; returns the provider's calls on the way.
    pub(crate) fn settle(&mut self) -> Vec<(Uuid, ProviderCall)> {
        let mut calls = Vec::new();
        let mut outputs = self.step();
        loop {
            calls.extend(outputs.calls().cloned());
            outputs = match outputs.batch() {
                Some(batch) => self.commit(&batch),
                None if self.core.wake_at().is_some_and(|due| due.micros() <= self.clock) => self.step(),
                None => return calls,
            };
        }
    }

    /// Until what cannot be processed was tried for the last time.
    pub(crate) fn settle_and_try_again(&mut self) -> Vec<(Uuid, ProviderCall)> {
        let mut calls = self.settle();
        for millis in [1_000, 10_000, 60_000] {
            self.wait(millis);
            calls.extend(self.settle());
        }
        calls
    }

    /// An operator's decision about an input that was set aside.
    pub(crate) fn unpark(&mut self, id: Uuid, how: Unparking) -> Result<(), Refusal> {
        let unpark = Unpark {
            id,
            how,
            by: Actor::System,
        };
        self.tickets += 1;
        let ticket = self.tickets;
        self.inbox.push(Input::Unpark(ticket, unpark));
        self.settle();
        match self.answer(ticket) {
            Some(Ok(Response::Unparked(done))) => done.clone(),
            other => panic!("no answer to the operator: {other:?}"),
        }
    }

    /// What the core says is set aside.
    pub(crate) fn set_aside(&mut self) -> Vec<SetAside> {
        self.tickets += 1;
        let ticket = self.tickets;
        self.inbox.push(Input::Parked(ticket, 100));
        self.settle();
        match self.answer(ticket) {
            Some(Ok(Response::Parked(parked))) => parked.clone(),
            other => panic!("no list: {other:?}"),
        }
    }

    /// Nothing is poisoned and nothing refused any more.
    pub(crate) fn repair(&mut self) {
        self.badness.heal();
        self.refused = None;
        self.restart();
    }

    /// Steps until nothing moves, with somebody else deciding what becomes of each step's outputs.
    pub(crate) fn run(&mut self, mut carry_out: impl FnMut(&mut Self, &Outputs)) {
        for _ in 0..100 {
            let outputs = self.step();
            carry_out(self, &outputs);
            if self.inbox.is_empty() && outputs.0.is_empty() && self.core.idle() {
                // Somebody may still wait for the next question about a payment.
                match self.core.wake_at() {
                    Some(due) if due.micros() < self.clock + 10_000_000 => self.clock = self.clock.max(due.micros()),
                    _ => return,
                }
            }
        }
        panic!("it does not come to rest");
    }

    /// The process ends and starts again: only what is durable is left.
    pub(crate) fn restart(&mut self) {
        self.inbox.clear();
        let head = self.writer.take(0, Uuid::nil(), self.clock).expect("the shard is ours");
        let reader = self.badness.of(self.store.reader().expect("a reader"));
        self.core = Core::new(head, reader, self.settings.clone()).expect("the log is sound");
    }

    pub(crate) fn restart_after_settling(&mut self) {
        self.settle();
        self.restart();
    }

    /// Another process takes the shard.
    pub(crate) fn take_over(&mut self) {
        self.store
            .writer()
            .expect("a writer")
            .take(0, Uuid::nil(), self.clock)
            .expect("the same instance");
    }

    pub(crate) fn refuse_batches_with(&mut self, stream: Uuid) {
        self.refused = Some(stream);
    }

    pub(crate) fn poison(&mut self, kind: Kind, id: Uuid) {
        self.badness.poison(StreamId::new(kind.name(), id));
    }

    /// Whether the core wants to be called at once.
    pub(crate) fn wakes_now(&self) -> bool {
        self.core.wake_at().is_some_and(|due| due.micros() <= self.clock)
    }

    /// Whether the core may be ended.
    pub(crate) fn idle(&self) -> bool {
        self.core.idle()
    }

    pub(crate) fn wait(&mut self, millis: i64) {
        self.clock += millis * 1_000;
    }

    pub(crate) fn set_clock_back(&mut self, millis: i64) {
        self.clock -= millis * 1_000;
    }

    pub(crate) fn head(&self) -> u64 {
        self.core.head().position
    }

    pub(crate) fn answers(&self) -> Vec<&Result<Response, EngineError>> {
        self.answers.iter().map(|(_, answer)| answer).collect()
    }

    pub(crate) fn answer(&self, ticket: u64) -> Option<&Result<Response, EngineError>> {
        self.answers.iter().find(|(known, _)| *known == ticket).map(|(_, answer)| answer)
    }

    pub(crate) fn replies(&self) -> Vec<&Reply> {
        let reply = |(_, answer): &'_ (u64, Result<Response, EngineError>)| matches!(answer, Ok(Response::Reply(_)));
        let replies = self.answers.iter().filter(|answer| reply(answer));
        replies
            .filter_map(|(_, answer)| {
                if let Ok(Response::Reply(reply)) = answer {
                    Some(&**reply)
                } else {
                    None
                }
            })
            .collect()
    }

    /// The durable state of an aggregate, folded from its stream alone.
    pub(crate) fn state(&self, kind: Kind, id: Uuid) -> Option<State> {
        let events = self
            .store
            .reader()
            .expect("a reader")
            .stream(&StreamId::new(kind.name(), id), 0, usize::MAX)
            .expect("a stream");
        let mut state = kind.initial();
        for event in &events {
            let decoded = aggregates::CommerceEvent::decode(kind.name(), id, &event.payload).expect("an event of ours");
            state.evolve(&decoded.expect("an aggregate's event"));
        }
        (!events.is_empty()).then_some(state)
    }

    pub(crate) fn version(&self, kind: Kind, id: Uuid) -> u64 {
        self.store
            .reader()
            .expect("a reader")
            .stream(&StreamId::new(kind.name(), id), 0, usize::MAX)
            .expect("a stream")
            .len() as u64
    }

    pub(crate) fn order(&self, id: OrderId) -> Order {
        match self.state(Kind::Order, id.uuid()) {
            Some(State::Order(order)) => (*order).clone(),
            other => panic!("no order: {other:?}"),
        }
    }

    pub(crate) fn failure(&self, id: OrderId) -> Option<FailureCode> {
        self.order(id).failure().map(|(code, _)| code)
    }

    pub(crate) fn payment(&self, order: OrderId) -> Payment {
        match self.state(Kind::Payment, PaymentId::for_order(order).uuid()) {
            Some(State::Payment(payment)) => (*payment).clone(),
            other => panic!("no payment: {other:?}"),
        }
    }

    pub(crate) fn balance(&self) -> i64 {
        match self.state(Kind::Wallet, buyer().uuid()) {
            Some(State::Wallet(wallet)) => wallet.balance().expect("an open wallet").minor(),
            other => panic!("no wallet: {other:?}"),
        }
    }

    /// On hand, and reserved of these.
    pub(crate) fn stock(&self, number: u32) -> (u64, u64) {
        match self.state(Kind::Inventory, product(number).uuid()) {
            Some(State::Inventory(inventory)) => (inventory.on_hand(), inventory.reserved()),
            None => (0, 0),
            other => panic!("no inventory: {other:?}"),
        }
    }

    pub(crate) fn parked(&self) -> Vec<Parked> {
        self.store.reader().expect("a reader").parked(0, 100).expect("parked inputs")
    }

    /// Effects and timers that are owed.
    pub(crate) fn unfinished(&self) -> (usize, usize) {
        let unfinished = self.store.reader().expect("a reader").unfinished(0).expect("unfinished work");
        (unfinished.effects.len(), unfinished.timers.len())
    }

    pub(crate) fn log(&self) -> Vec<event_store::Event> {
        self.store.reader().expect("a reader").events(0, 0, usize::MAX).expect("the log")
    }

    pub(crate) fn verify_chain(&self) {
        event_store::verify_chain(self.store.reader().expect("a reader").as_ref(), 0).expect("the chain holds");
    }
}

/// A provider that tells repeats by their key, and forgets nothing.
#[derive(Default)]
pub(crate) struct Provider {
    charged: std::collections::BTreeMap<String, i64>,
    cancelled: std::collections::BTreeMap<String, i64>,
}

impl Provider {
    pub(crate) fn answer(&mut self, call: &ProviderCall) -> Outcome {
        match call {
            ProviderCall::Charge { amount, .. } => {
                self.charged.insert(call.idempotency_key(), amount.minor());
                Outcome::Charge(ChargeOutcome::Charged { amount: amount.minor() })
            }
            ProviderCall::Status { order, .. } => Outcome::Status(match self.charged.get(&call.idempotency_key()) {
                Some(amount) => StatusOutcome::Charged {
                    amount: *amount,
                    order_reference: order.to_string(),
                },
                None => StatusOutcome::NotFound,
            }),
            ProviderCall::Cancel { amount, .. } => {
                self.cancelled.insert(call.idempotency_key(), amount.minor());
                Outcome::Cancel(CancellationOutcome::Cancelled)
            }
        }
    }

    pub(crate) fn net(&self) -> i64 {
        self.charged.values().sum::<i64>() - self.cancelled.values().sum::<i64>()
    }
}
