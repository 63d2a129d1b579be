//! The batch that is being filled.

use aggregates::Recorded;
use event_store::{EffectId, Event, Hash, Head, IdempotencyRecord, OwedEffect, Parked, RecordKey, Snapshot, Timer, TimerId, Unparked};
use rustc_hash::FxHashMap;

use super::{Outcome, Response};
use crate::{EngineError, Message, Request, stored::Learnt};
use sagas::ProviderCall;

/// What one turn, or several, have decided and what waits for it to be durable.
#[derive(Debug)]
pub(super) struct Open<T> {
    /// The last position before it.
    pub(super) base: u64,
    pub(super) events: Vec<Event>,
    pub(super) recorded: Vec<Recorded>,
    pub(super) records: Vec<IdempotencyRecord>,
    /// The effect that is owed from now on, or none when it is settled.
    pub(super) effects: FxHashMap<EffectId, Option<OwedEffect>>,
    /// The timer that is set now, or none when one that was durable is done.
    pub(super) timers: FxHashMap<TimerId, Option<Timer>>,
    pub(super) parked: Vec<Parked>,
    pub(super) unparked: Vec<Unparked>,
    /// Whether an input is given up here: set aside, or put off.
    pub(super) gives_up: bool,
    /// Whether the order that waits for an input is told that it is set aside.
    pub(super) tells: bool,
    /// Whether an input whose batch was refused is decided here without what follows from it.
    pub(super) in_pieces: bool,
    pub(super) snapshots: Vec<Snapshot>,
    pub(super) orders_numbered: u64,
    /// What leaves once all this is durable, in order.
    pub(super) releases: Vec<Release<T>>,
    /// The core's own inputs that are decided here: if this comes to nothing they are decided again.
    pub(super) own: Vec<Own>,
}

/// An input of the core's own.
#[derive(Clone, Debug)]
pub(super) enum Own {
    /// The provider answered a call, or did not.
    Outcome(EffectId, Outcome),
    /// A timer's time came.
    Timer(TimerId),
    /// The rest of a cascade.
    Rest(EffectId),
    /// Another shard has something done here.
    Asked(Box<Message>),
    /// Another shard has answered.
    Answered(EffectId, Vec<Learnt>),
}

impl Own {
    /// Whether the log does not hold it: timers and the rest of cascades come back with what is owed.
    pub(super) fn came_in(&self) -> bool {
        matches!(self, Self::Outcome(..) | Self::Asked(_) | Self::Answered(..))
    }
}

/// What is being committed: all that is left of an open batch once its rows are given out.
#[derive(Debug)]
pub(super) struct Committing<T> {
    pub(super) hash: Hash,
    pub(super) records: Vec<RecordKey>,
    pub(super) recorded: Vec<Recorded>,
    pub(super) orders_numbered: u64,
    pub(super) releases: Vec<Release<T>>,
    pub(super) own: Vec<Own>,
    /// Whether an input is given up here: set aside, or put off.
    pub(super) gives_up: bool,
    /// Whether the order that waits for an input is told that it is set aside.
    pub(super) tells: bool,
    /// Whether an input whose batch was refused is decided here without what follows from it.
    pub(super) in_pieces: bool,
}

/// Something that leaves.
#[derive(Debug)]
pub(super) enum Release<T> {
    /// An answer, and the request again in case the batch is refused.
    Answer {
        ticket: T,
        answer: Result<Response, EngineError>,
        retry: Option<Box<Request>>,
    },
    /// A call of the provider.
    Call(EffectId, ProviderCall),
    /// To another shard's engine.
    Send(Box<Message>),
}

impl<T> Open<T> {
    /// An empty batch after this head.
    pub(super) fn after(head: &Head) -> Self {
        Self::new(head.position, head.orders_numbered)
    }

    pub(super) fn new(base: u64, orders_numbered: u64) -> Self {
        Self {
            base,
            events: Vec::new(),
            recorded: Vec::new(),
            records: Vec::new(),
            effects: FxHashMap::default(),
            timers: FxHashMap::default(),
            parked: Vec::new(),
            unparked: Vec::new(),
            gives_up: false,
            tells: false,
            in_pieces: false,
            snapshots: Vec::new(),
            orders_numbered,
            releases: Vec::new(),
            own: Vec::new(),
        }
    }

    /// Whether there is nothing to be made durable.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.records.is_empty()
            && self.effects.is_empty()
            && self.timers.is_empty()
            && self.parked.is_empty()
            && self.unparked.is_empty()
            && self.snapshots.is_empty()
    }

    /// The position of its last event.
    pub(super) fn position(&self) -> u64 {
        self.base + self.events.len() as u64
    }
}
