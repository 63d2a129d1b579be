//! What the shop has come to: counted from its events as they are recorded.

use std::{collections::BTreeMap, fmt};

use aggregates::{CommerceEvent, OrderEvent, OrderId, OrderStatus, Recorded};
use event_store::{Head, LogPosition, Shards};
use projections::{OrderView, Orders, Projection};
use rustc_hash::FxHashMap;

/// Orders by where they stand.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) placed: u64,
    ended: BTreeMap<&'static str, u64>,
    failures: BTreeMap<&'static str, u64>,
    /// Those that have not come to their end.
    open: FxHashMap<OrderId, OrderView>,
}

impl Tally {
    /// Counts an event.
    pub(super) fn count(&mut self, recorded: &Recorded) {
        let Some(CommerceEvent::Order(id, event)) = &recorded.event else {
            return;
        };
        if matches!(event, OrderEvent::Placed { .. }) {
            self.placed += 1;
        }
        let view = self.open.remove(id);
        let Some(view) = Orders::apply(view, recorded) else { return };
        let code = view.failure.as_ref().map(|failure| failure.code.code());
        match view.status {
            OrderStatus::Confirmed | OrderStatus::Cancelled => {
                *self.ended.entry(view.status.name()).or_default() += 1;
                if let Some(code) = code {
                    *self.failures.entry(code).or_default() += 1;
                }
            }
            _ => {
                self.open.insert(*id, view);
            }
        }
    }

    /// What became of the shop, for people.
    pub(super) fn summary<'a>(&'a self, heads: &'a [Head], shards: Shards) -> Summary<'a> {
        Summary {
            tally: self,
            heads,
            shards,
        }
    }
}

/// [`Tally`], shown.
#[derive(Debug)]
pub(super) struct Summary<'a> {
    tally: &'a Tally,
    heads: &'a [Head],
    shards: Shards,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut statuses = self.tally.ended.clone();
        for order in self.tally.open.values() {
            *statuses.entry(order.status.name()).or_default() += 1;
        }
        let events: u64 = self.heads.iter().map(|head| head.position).sum();
        writeln!(f, "{:<24}{:>12}", "orders", self.tally.placed)?;
        for status in OrderStatus::ALL {
            if let Some(count) = statuses.get(status.name()) {
                writeln!(f, "  {:<22}{count:>12}", status.name())?;
                if status == OrderStatus::Cancelled {
                    for (code, count) in &self.tally.failures {
                        writeln!(f, "    {code:<20}{count:>12}")?;
                    }
                }
            }
        }
        writeln!(f, "{:<24}{events:>12}", "events")?;
        for head in self.heads {
            let place = LogPosition {
                shard: head.shard,
                position: head.position,
            };
            write!(f, "head {} ", place.text(self.shards))?;
            head.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}
