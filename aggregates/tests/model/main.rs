//! Each aggregate beside a small model of it: whatever is asked, in whatever order, both say the same.
//!
//! A model is written from what the shop promises and not from the code beside it: plain numbers, sets and tables. It says of every
//! command which events follow or which rule forbids it, and which figures can be read afterwards. What processes may ask twice is asked
//! twice at every step.

#![allow(clippy::match_same_arms, reason = "each arm is a promise of its own")]

mod inventory;
mod order;
mod payment;
mod people;
mod product;
mod session;
mod wallet;

use std::fmt::Debug;

use aggregates::{Class, Currency, Decide, Money, OrderId, Reason, Refusal};
use cqrs_es::Aggregate;
use proptest::{prelude::*, test_runner::Config};
use uuid::Uuid;

/// What a command leads to: these events, or a refusal of this class and code.
type Expected<E> = Result<Vec<E>, (Class, &'static str)>;

type CommandOf<M> = <<M as Model>::Of as Aggregate>::Command;
type EventOf<M> = <<M as Model>::Of as Aggregate>::Event;

/// An aggregate, told in fewer words.
trait Model: Default {
    /// Of which aggregate.
    type Of: Decide<Command: Clone + Debug, Error: Reason> + Clone + Debug + PartialEq;

    /// What the command leads to. The model counts it.
    fn tell(&mut self, command: &CommandOf<Self>) -> Expected<EventOf<Self>>;

    /// Whether the aggregate shows what the model knows.
    fn check(&self, state: &Self::Of);

    /// Whether a process may ask this twice, now that it was asked once: then the second time must change nothing.
    fn may_repeat(&self, command: &CommandOf<Self>) -> bool;
}

/// Asks the aggregate and the model the same, one command after the other.
fn walk<M: Model>(commands: Vec<CommandOf<M>>) {
    let mut model = M::default();
    let mut state = M::Of::default();
    let mut history = Vec::new();
    for command in commands {
        let expected = model.tell(&command);
        let decided = state.decide(command.clone());
        assert_eq!(decided.as_ref().map_err(seen).cloned(), expected, "{command:?} to {state:?}");
        // A refusal has no events, so there the model must find its figures unchanged.
        for event in decided.unwrap_or_default() {
            state.evolve(&event);
            history.push(event);
        }
        model.check(&state);
        if model.may_repeat(&command) {
            model.check(&asked_again::<M>(&state, command));
        }
        state = through_json(&state);
    }
    assert_eq!(fold::<M>(&history), state);
}

/// What outsiders see of a refusal. Its words go into a record, so it has to survive that.
fn seen<R: Reason>(reason: &R) -> (Class, &'static str) {
    let refusal = Refusal {
        class: reason.class(),
        code: reason.code().into(),
        detail: reason.to_string().into(),
        pointer: reason.pointer(),
    };
    assert_eq!(through_json(&refusal), refusal);
    (reason.class(), reason.code())
}

fn asked_again<M: Model>(state: &M::Of, command: CommandOf<M>) -> M::Of {
    let mut twice = state.clone();
    for event in twice.decide(command).unwrap_or_default() {
        twice.evolve(&event);
    }
    twice
}

/// The state that the recorded events add up to.
fn fold<M: Model>(history: &[EventOf<M>]) -> M::Of {
    let mut state = M::Of::default();
    for event in history {
        state.evolve(&through_json(event));
    }
    state
}

fn through_json<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_string(value).expect("it is JSON");
    serde_json::from_str(&text).expect("our own text")
}

/// Nothing is kept of a failure: it names its input, and becomes a test with that.
fn config() -> Config {
    Config {
        cases: 2_000,
        failure_persistence: None,
        ..Config::default()
    }
}

/// A walk: mostly long enough to get into the corners.
fn steps<T: Debug>(command: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(command, 0..50)
}

const fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn order() -> impl Strategy<Value = OrderId> {
    (1..6_u128).prop_map(|number| OrderId::new(id(number)))
}

fn krw(minor: i64) -> Money {
    Money::new(minor, Currency::KRW)
}

/// Small, and now and then as large as it can be.
fn minor() -> impl Strategy<Value = i64> {
    prop_oneof![
        12 => -3..40_i64,
        1 => Just(0),
        1 => Just(Money::MAX_MINOR),
        1 => Just(Money::MAX_MINOR - 10),
        1 => Just(i64::MAX),
        1 => Just(i64::MIN),
    ]
}

/// Mostly of the shop's currency.
fn money() -> impl Strategy<Value = Money> {
    let other: Currency = "USD".parse().expect("a currency");
    (minor(), prop::bool::weighted(0.05)).prop_map(move |(minor, foreign)| Money::new(minor, if foreign { other } else { Currency::KRW }))
}
