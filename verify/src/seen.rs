//! What a purchase says that it saw in another shard stands there, and concerns its order.
//!
//! The shards are read one after another, so the event may come before or after the purchase that saw it. Of either no more is kept than
//! its place and a digest of the order.

use event_store::{Event, LogPosition, LogReader, Shards, StoreError};
use rustc_hash::{FxHashMap, FxHashSet};
use uuid::Uuid;

use crate::{Invariant, Place, Report, layout::Log, shapes::OfOrder};

pub(crate) struct Sights {
    count: Shards,
    /// Where the shards' logs stand: up to where they are read, and how far they are known to be by now.
    heads: FxHashMap<u16, (u64, u64)>,
    /// Those that are read.
    read: FxHashSet<u16>,
    /// What happened for orders of other shards.
    happened: FxHashMap<(u16, u64), u64>,
    /// What purchases saw in shards that are not read yet: by shard, position and order.
    claimed: FxHashMap<u16, FxHashMap<u64, u64>>,
}

impl Sights {
    pub(crate) fn new(log: &Log) -> Self {
        let head = |shard: &crate::layout::Shard| (shard.head.shard, (shard.head.position, shard.head.position));
        Self {
            count: log.count,
            heads: log.shards.iter().map(head).collect(),
            read: FxHashSet::default(),
            happened: FxHashMap::default(),
            claimed: FxHashMap::default(),
        }
    }

    /// Remembers what happened for an order of another shard.
    pub(crate) fn event(&mut self, event: &Event, report: &mut Report) {
        if self.count == Shards::ONE || !matches!(&*event.stream.kind, "inventory" | "wallet") {
            return;
        }
        let order = serde_json::from_str::<OfOrder>(&event.payload).ok().map(|of| of.order);
        let Some(order) = order.filter(|order| self.count.of(*order) != event.shard) else {
            return;
        };
        let claimed = self.claimed.get_mut(&event.shard).and_then(|claims| claims.remove(&event.position));
        if claimed.is_some_and(|claimed| claimed != digest(order)) {
            not_its_own(Place::event(event), report);
        }
        self.happened.insert((event.shard, event.position), digest(order));
    }

    /// A purchase, whose event this is, saw something in another shard.
    pub(crate) fn saw(&mut self, event: &Event, place: LogPosition, reader: &dyn LogReader, report: &mut Report) -> Result<(), StoreError> {
        let mut wrong = |what: String| report.add(Invariant::Chain, Place::event(event), what);
        if place.shard == event.shard {
            wrong(format!("it has seen {place}, which is a place in its own shard"));
            return Ok(());
        }
        let Some((to, now)) = self.heads.get_mut(&place.shard) else {
            wrong(format!("it has seen {place}, and there is no such shard"));
            return Ok(());
        };
        if place.position > *now {
            // Recorded since this began, perhaps.
            *now = reader.head(place.shard)?.map_or(*now, |head| head.position.max(*now));
        }
        if !(1..=*now).contains(&place.position) {
            wrong(format!("it has seen {place}, where the log has not come to"));
            return Ok(());
        }
        if place.position > *to {
            return Ok(());
        }
        let order = digest(event.stream.id);
        if self.read.contains(&place.shard) {
            if self.happened.get(&(place.shard, place.position)) != Some(&order) {
                wrong(format!("it has seen {place}, which is no event of this order"));
            }
            return Ok(());
        }
        let claims = self.claimed.entry(place.shard).or_default();
        if claims.insert(place.position, order).is_some_and(|known| known != order) {
            wrong(format!("it has seen {place}, and so has another order's"));
        }
        Ok(())
    }

    /// The shard is read: what was seen in it and was not found, is none.
    pub(crate) fn end_of_shard(&mut self, shard: u16, report: &mut Report) {
        self.read.insert(shard);
        let mut left: Vec<_> = self.claimed.remove(&shard).unwrap_or_default().into_keys().collect();
        left.sort_unstable();
        for position in left {
            not_its_own(Place::at(shard, position, position), report);
        }
    }
}

fn not_its_own(place: Place, report: &mut Report) {
    report.add(
        Invariant::Chain,
        place,
        "an order's purchase of another shard has seen this, which is no event of that order",
    );
}

/// Ids are random, or derived by a hash: half of one tells orders apart well enough.
fn digest(order: Uuid) -> u64 {
    let (high, low) = order.as_u64_pair();
    high.rotate_left(32) ^ low
}
