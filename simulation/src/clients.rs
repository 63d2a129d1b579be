//! Those outside: what they send, and the ledger in which they keep every answer that they got.

use std::collections::BTreeMap;

use aggregates::{
    AccountId, Command, Currency, InventoryCommand, Kind, Money, OrderCommand, OrderId, PaymentMethod, PlaceOrder, ProductCommand,
    ProductId, Quantity, Refusal, RequestedLine, Sealed, State, Timestamp, TrackingId, WalletCommand,
};
use engine::{Actor, Answer, Cause, Idempotency, Input, Request, Unpark};
use event_store::{IdempotencyRecord, LogReader, MemoryStore, RecordKey, StreamId};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::script::{Ask, Basket, Operation, Paid, What};

/// A text as the key vault seals it: nobody in a run looks inside.
const SEALED: &str = "v1.AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0-Pw";

pub(crate) fn sealed() -> Sealed {
    Sealed::new(SEALED)
}

pub(crate) fn product(number: usize) -> ProductId {
    ProductId::new(Uuid::from_u128(0x1000 + number as u128))
}

pub(crate) fn buyer(number: usize) -> AccountId {
    AccountId::new(Uuid::from_u128(0x2000 + number as u128))
}

pub(crate) fn seller() -> AccountId {
    AccountId::new(Uuid::from_u128(0x4000))
}

fn admin() -> AccountId {
    AccountId::new(Uuid::from_u128(0x5000))
}

pub(crate) fn order(number: usize) -> OrderId {
    OrderId::new(Uuid::new_v5(&Uuid::NAMESPACE_OID, &(number as u64).to_le_bytes()))
}

/// The number of the order that goes by this payment key.
pub(crate) fn order_of(payment_key: &str) -> usize {
    payment_key
        .rsplit('-')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(usize::MAX)
}

pub(crate) fn won(amount: i64) -> Money {
    Money::new(amount, Currency::KRW)
}

/// The same for everything that follows from one ask.
pub(crate) fn correlation(ask: usize) -> Uuid {
    Uuid::from_u128(0x3000_0000 + ask as u128)
}

/// How an aggregate is shown in an answer.
pub(crate) fn represent(kind: Kind, id: Uuid, state: &State, version: u64) -> Vec<u8> {
    let shown = match state {
        State::Order(order) => format!("{} {}", order.status().name(), order.total().map_or(0, Money::minor)),
        State::Inventory(stock) => format!("{} on hand, {} reserved", stock.on_hand(), stock.reserved()),
        State::Wallet(wallet) => wallet.balance().map_or(0, Money::minor).to_string(),
        _ => kind.name().to_owned(),
    };
    format!(r#"{{"id":"{id}","version":{version},"shown":"{shown}"}}"#).into_bytes()
}

/// Who is asked.
pub(crate) fn target(what: &What) -> (Kind, Uuid) {
    match what {
        What::Place(Basket { order: number, .. })
        | What::Pay { order: number, .. }
        | What::Cancel { order: number, .. }
        | What::Read { order: number }
        | What::Operate { order: number, .. }
        | What::Watch { order: number } => (Kind::Order, order(*number).uuid()),
        What::Deposit { buyer: number, .. } => (Kind::Wallet, buyer(*number).uuid()),
        What::Receive { product: number, .. } | What::Adjust { product: number, .. } | What::Stock { product: number } => {
            (Kind::Inventory, product(*number).uuid())
        }
        What::Price { product: number, .. } | What::Retire { product: number } => (Kind::Product, product(*number).uuid()),
        What::SetAside { .. } | What::Unpark { .. } => (Kind::Order, Uuid::nil()),
    }
}

/// What an ask is on the wire now, when its order is this buyer's, who believes that it costs this.
pub(crate) fn input(ticket: u64, number: usize, ask: &Ask, at: Timestamp, owner: AccountId, total: i64) -> Input<u64> {
    let settled = |state: &State| matches!(state, State::Order(order) if order.settled());
    let command = match &ask.what {
        What::Read { .. } | What::Stock { .. } => {
            let (kind, id) = target(&ask.what);
            return Input::Read(ticket, kind, id);
        }
        What::SetAside { .. } => return Input::Parked(ticket, 100),
        What::Unpark { id, how, .. } => {
            let (id, how, by) = (*id, *how, Actor::Account(admin()));
            return Input::Unpark(ticket, Unpark { id, how, by });
        }
        What::Operate { order: number, how } => Command::Order(order(*number), operation(*how)),
        What::Watch { order: number } => return Input::Watch(ticket, Kind::Order, order(*number).uuid(), settled),
        What::Place(basket) => Command::Order(order(basket.order), OrderCommand::Place(Box::new(place(basket, at)))),
        What::Pay { order: number, right } => {
            let amount = if *right { total } else { total + 1 };
            let submit = OrderCommand::SubmitPayment {
                payment_key: payment_key(*number),
                amount: won(amount),
                at,
            };
            Command::Order(order(*number), submit)
        }
        What::Cancel { order: number, by_buyer } => {
            let by = if *by_buyer { owner } else { seller() };
            let cancel = OrderCommand::RequestCancellation {
                by,
                reason: sealed(),
                selling: false,
            };
            Command::Order(order(*number), cancel)
        }
        What::Deposit { buyer: number, amount } => Command::Wallet(buyer(*number), WalletCommand::Deposit { amount: won(*amount) }),
        What::Receive { product: number, units } => Command::Inventory(
            product(*number),
            InventoryCommand::Receive {
                quantity: *units,
                reference: None,
            },
        ),
        What::Adjust { product: number, delta } => Command::Inventory(
            product(*number),
            InventoryCommand::Adjust {
                delta: *delta,
                reason: "counted".parse().expect("a note"),
            },
        ),
        What::Price { product: number, price } => Command::Product(
            product(*number),
            ProductCommand::Change {
                name: None,
                description: None,
                price: Some(won(*price)),
            },
        ),
        What::Retire { product: number } => Command::Product(product(*number), ProductCommand::Retire),
    };
    let cause = Cause {
        actor: Actor::Account(actor(&ask.what, owner)),
        correlation: correlation(number),
        traceparent: None,
    };
    let mut request = Request::new(command, cause);
    request.dry_run = matches!(&ask.what, What::Place(basket) if basket.dry_run);
    request.idempotency = ask.key.map(|key| Idempotency {
        key: format!("key-{key}"),
        record: record_key(key),
        fingerprint: [ask.body; 16],
    });
    Input::Command(ticket, Box::new(request))
}

fn actor(what: &What, owner: AccountId) -> AccountId {
    match what {
        What::Place(_) | What::Pay { .. } => owner,
        What::Deposit { buyer: number, .. } => buyer(*number),
        _ => seller(),
    }
}

fn operation(how: Operation) -> OrderCommand {
    let (by, reason) = (admin(), sealed());
    match how {
        Operation::Resume => OrderCommand::Resume { by },
        Operation::Compensate => OrderCommand::Compensate { by, reason },
        Operation::Resolve(outcome) => OrderCommand::Resolve { by, outcome, reason },
    }
}

fn payment_key(order: usize) -> aggregates::PaymentKey {
    format!("sim-{order}").parse().expect("a payment key")
}

fn place(basket: &Basket, at: Timestamp) -> PlaceOrder {
    let line = |(number, quantity, stated): &(usize, i64, Option<i64>)| RequestedLine {
        product: product(*number),
        quantity: Quantity::parse(*quantity).expect("a quantity"),
        stated_price: stated.map(won),
        offer: None,
    };
    let (method, payment_key) = match basket.paid {
        Paid::Balance => (PaymentMethod::Balance, None),
        Paid::Card => (PaymentMethod::Card, None),
        Paid::CardAtOnce => (PaymentMethod::Card, Some(payment_key(basket.order))),
    };
    PlaceOrder {
        buyer: buyer(basket.buyer),
        lines: basket.lines.iter().map(line).collect(),
        stated_total: basket.stated_total.map(won),
        address: sealed(),
        method,
        payment_key,
        number: None,
        tracking: TrackingId::for_order(order(basket.order)),
        at,
    }
}

fn record_key(key: u64) -> RecordKey {
    let mut record = [0; 16];
    record[..8].copy_from_slice(&key.to_le_bytes());
    RecordKey(record)
}

/// An answer that somebody got.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    /// Which ask it answered first.
    pub(crate) ask: usize,
    pub(crate) body: u8,
    pub(crate) answer: Answer,
    /// Whether it was given as the first, and not as a repeat.
    first: bool,
}

/// Every answer that somebody outside got.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    keyed: BTreeMap<u64, Acknowledged>,
    /// Without a key: that this stream had this version.
    others: Vec<(StreamId, u64)>,
}

impl Outside {
    /// Somebody got this answer. Says what is wrong with it.
    pub(crate) fn keep(&mut self, number: usize, ask: &Ask, answer: &Answer, replayed: bool) -> Result<(), String> {
        let Some(key) = ask.key else {
            let (kind, id) = target(&ask.what);
            if answer.result.is_ok() {
                self.others.push((StreamId::new(kind.name(), id), answer.version));
            }
            return Ok(());
        };
        match self.keyed.get_mut(&key) {
            None => {
                let acknowledged = Acknowledged {
                    ask: number,
                    body: ask.body,
                    answer: answer.clone(),
                    first: !replayed,
                };
                self.keyed.insert(key, acknowledged);
                Ok(())
            }
            Some(known) if known.body != ask.body => Err(format!("key {key} was answered for two bodies")),
            Some(known) if known.answer != *answer => Err(format!("key {key} was answered {:?}, and now {answer:?}", known.answer)),
            // A process that was frozen may say last what it was the first to do, but only once.
            Some(known) if known.first && !replayed => Err(format!("key {key} was answered twice as if each was the first")),
            Some(known) => {
                known.first |= !replayed;
                Ok(())
            }
        }
    }

    /// Whether somebody got an answer to this key and this body.
    pub(crate) fn knows(&self, key: u64, body: u8) -> bool {
        self.keyed.get(&key).is_some_and(|known| known.body == body)
    }

    /// What was answered under a key.
    pub(crate) fn keyed(&self) -> impl Iterator<Item = (&u64, &Acknowledged)> {
        self.keyed.iter()
    }

    /// Whether everything that somebody was told is in the log.
    pub(crate) fn compare(&self, log: &MemoryStore) -> Result<(), String> {
        for (key, known) in &self.keyed {
            recorded(log, *key, known.body, &known.answer)?;
        }
        for (stream, version) in &self.others {
            if !reaches(log, stream, *version) {
                return Err(format!("{stream} was told to have version {version}, and has not"));
            }
        }
        Ok(())
    }
}

/// Whether a stream has this version durably.
pub(crate) fn reaches(log: &MemoryStore, stream: &StreamId, version: u64) -> bool {
    version == 0 || log.stream(stream, version - 1, 1).is_ok_and(|events| !events.is_empty())
}

/// Whether the answer under this key is recorded as it was given.
pub(crate) fn recorded(log: &MemoryStore, key: u64, body: u8, answer: &Answer) -> Result<(), String> {
    let (mut found, _) = log.read(&[record_key(key)], &[]).map_err(|error| error.to_string())?;
    let record = found
        .pop()
        .flatten()
        .ok_or_else(|| format!("the answer to key {key} is not recorded"))?;
    if record.fingerprint != [body; 16] {
        return Err(format!("the answer to key {key} is recorded for another body"));
    }
    if same(&record, answer) {
        Ok(())
    } else {
        Err(format!(
            "the answer to key {key} is recorded as {}",
            String::from_utf8_lossy(&record.answer)
        ))
    }
}

/// An answer as a record holds it.
#[derive(Deserialize)]
struct Stored<'a> {
    version: u64,
    position: u64,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
    #[serde(default)]
    refusal: Option<Refusal>,
}

fn same(record: &IdempotencyRecord, answer: &Answer) -> bool {
    let Ok(stored) = serde_json::from_slice::<Stored<'_>>(&record.answer) else {
        return false;
    };
    let result = match &answer.result {
        Ok(body) => stored.body.is_some_and(|stored| stored.get().as_bytes() == &**body),
        Err(refusal) => stored.refusal.as_ref() == Some(refusal),
    };
    result && (stored.version, stored.position, record.position) == (answer.version, answer.token.position, answer.token.position)
}
