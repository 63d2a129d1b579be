//! What was found, and what was counted on the way.

use std::{collections::BTreeMap, fmt};

use event_store::Event;
use serde::Serialize;
use uuid::Uuid;

/// What must always hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Invariant {
    /// 1: nothing is sold that is not there.
    Stock,
    /// 2: money is neither made nor lost.
    Money,
    /// 3: every reservation ends once.
    Reservations,
    /// 4: no process is past its deadline without a person knowing.
    Deadlines,
    /// 5: an idempotency key has one effect.
    Idempotency,
    /// 6: the log is whole: positions, versions, ids, causes, times, hashes.
    Chain,
    /// 7: views and snapshots equal the fold of the log.
    Views,
    /// 8: nothing leaves before its cause is durable.
    Durability,
    /// 9: a fenced writer never appends.
    Fencing,
    /// 10: nothing personal stands in the clear.
    Privacy,
}

impl Invariant {
    /// All of them, in order.
    pub const ALL: [Self; 10] = [
        Self::Stock,
        Self::Money,
        Self::Reservations,
        Self::Deadlines,
        Self::Idempotency,
        Self::Chain,
        Self::Views,
        Self::Durability,
        Self::Fencing,
        Self::Privacy,
    ];

    /// From 1 to 10.
    pub const fn number(self) -> u8 {
        self as u8 + 1
    }

    /// In a few words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Stock => "no oversell",
            Self::Money => "money adds up",
            Self::Reservations => "reservations end once",
            Self::Deadlines => "no process past its deadline",
            Self::Idempotency => "one key, one effect",
            Self::Chain => "the log is whole",
            Self::Views => "views and snapshots equal the fold",
            Self::Durability => "nothing leaves before it is durable",
            Self::Fencing => "one writer at a time",
            Self::Privacy => "nothing personal in the clear",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number(), self.words())
    }
}

/// Where something stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The shard whose log it is.
    pub shard: Option<u16>,
    /// The first and the last position: the same when it is one event.
    pub positions: Option<(u64, u64)>,
    /// `kind-id`.
    pub stream: Option<String>,
    /// The order that it concerns.
    pub order: Option<Uuid>,
}

impl Place {
    pub(crate) fn shard(shard: u16) -> Self {
        Self {
            shard: Some(shard),
            ..Self::default()
        }
    }

    pub(crate) fn event(event: &Event) -> Self {
        Self {
            shard: Some(event.shard),
            positions: Some((event.position, event.position)),
            stream: Some(event.stream.to_string()),
            order: None,
        }
    }

    pub(crate) fn at(shard: u16, first: u64, last: u64) -> Self {
        Self {
            shard: Some(shard),
            positions: Some((first, last)),
            ..Self::default()
        }
    }

    pub(crate) fn order(order: Uuid) -> Self {
        Self {
            order: Some(order),
            ..Self::default()
        }
    }

    pub(crate) fn of_order(mut self, order: Uuid) -> Self {
        self.order = Some(order);
        self
    }

    /// Whether this position is at this place.
    pub fn names(&self, position: u64) -> bool {
        self.positions.is_some_and(|(first, last)| (first..=last).contains(&position))
    }
}

impl Place {
    /// In words; where the log has several shards, a position names its own.
    fn text(&self, several: bool) -> String {
        let mut parts = Vec::new();
        match (self.shard, self.positions) {
            (shard, Some((first, last))) => {
                let shard = shard.filter(|shard| several || *shard > 0);
                let shard = shard.map_or(String::new(), |shard| format!("{shard}/"));
                parts.push(if first == last {
                    format!("position {shard}{first}")
                } else {
                    format!("positions {shard}{first} to {shard}{last}")
                });
            }
            (Some(shard), None) => parts.push(format!("shard {shard}")),
            (None, None) => {}
        }
        parts.extend(self.stream.clone());
        let order = self.order.map(|order| order.to_string());
        let named = |order: &String| self.stream.as_ref().is_some_and(|stream| stream.ends_with(order.as_str()));
        parts.extend(order.filter(|order| !named(order)).map(|order| format!("order {order}")));
        parts.join(", ")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(false))
    }
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which invariant it breaks.
    pub invariant: Invariant,
    /// Where.
    pub place: Place,
    /// What is, and what should be.
    pub what: String,
    /// Whether the log has several shards.
    #[serde(skip)]
    several: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place.text(self.several);
        let colon = if place.is_empty() { "" } else { ": " };
        write!(f, "[{}] {place}{colon}{}", self.invariant, self.what)
    }
}

/// What was counted on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Shards.
    pub shards: u64,
    /// Events read.
    pub events: u64,
    /// Batches read.
    pub batches: u64,
    /// Streams.
    pub streams: u64,
    /// Orders placed.
    pub orders: u64,
    /// Orders confirmed.
    pub confirmed: u64,
    /// Orders cancelled.
    pub cancelled: u64,
    /// Orders that need a person.
    pub needs_attention: u64,
    /// Orders under way.
    pub under_way: u64,
    /// Money taken for orders, from providers and balances, in minor units.
    pub captured: i128,
    /// Money given back.
    pub reversed: i128,
    /// What all wallets hold.
    pub balances: i128,
    /// Units sold.
    pub sold: u64,
    /// Requests that came with an idempotency key and were recorded by an event.
    pub keyed_requests: u64,
    /// Idempotency records of requests; none when the store does not list them.
    pub records: Option<u64>,
    /// Idempotency records of messages between shards.
    pub messages: u64,
    /// Snapshots compared with the fold; none when the store does not list them.
    pub snapshots: Option<u64>,
    /// Inputs that were set aside.
    pub parked: u64,
    /// Calls of the provider, messages to other shards, and rests of cascades, that are owed.
    pub owed: u64,
    /// Timers that are set.
    pub timers: u64,
    /// Events that another program wrote, which no engine's id names, by their streams' kind: of kinds that this version does not know no more
    /// than place, version, id, time and hash was checked.
    pub foreign: BTreeMap<String, u64>,
    /// Events behind the last batch that another program wrote while no engine held the log: they are not yet taken into the chain, so nothing
    /// says whether they are what was written.
    pub unchained: u64,
    /// Orders in the provider's ledger; none when it was not compared.
    pub ledger: Option<u64>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The first ones, and the first one of each invariant.
    pub findings: Vec<Finding>,
    /// How many there are in all.
    pub found: u64,
    /// How many there are of each invariant, in order.
    pub found_by: [u64; 10],
    /// What was counted.
    pub counts: Counts,
    #[serde(skip)]
    keep: usize,
    #[serde(skip)]
    several: bool,
}

impl Report {
    /// An empty report that keeps so many findings.
    pub(crate) fn keeping(keep: usize) -> Self {
        Self { keep, ..Self::default() }
    }

    /// What is found from here on is found in a log of several shards, or in one of one.
    pub(crate) fn several(&mut self, several: bool) {
        self.several = several;
    }

    /// Whether everything holds.
    pub fn is_sound(&self) -> bool {
        self.found == 0
    }

    /// How many findings there are of this invariant.
    pub fn found(&self, invariant: Invariant) -> u64 {
        self.found_by[usize::from(invariant.number() - 1)]
    }

    /// Adds a finding.
    pub fn add(&mut self, invariant: Invariant, place: Place, what: impl Into<String>) {
        let of_invariant = &mut self.found_by[usize::from(invariant.number() - 1)];
        *of_invariant += 1;
        self.found += 1;
        if self.findings.len() < self.keep || *of_invariant == 1 {
            self.findings.push(Finding {
                invariant,
                place,
                what: what.into(),
                several: self.several,
            });
        }
    }
}
