//! What a shard still owes, and who waits for it.

use event_store::{Head, LogReader, StoreError};
use rustc_hash::FxHashMap;
use serde_json::Value;
use uuid::Uuid;

use crate::{Invariant, Place, Report};

/// How many parked inputs are looked at.
const MOST_PARKED: usize = 10_000;

/// A shard as it is found at first.
pub(crate) struct Shard {
    pub(crate) head: Head,
    /// Where the head stood before what is owed was read: what happened after it may have changed that.
    pub(crate) owed_at: u64,
    pub(crate) waiting: Waiting,
}

/// Every id that something owed names, and when that is due.
#[derive(Default)]
pub(crate) struct Waiting {
    /// Whether it could be read.
    pub(crate) known: bool,
    due: FxHashMap<Uuid, i64>,
}

/// Owed at once.
const NOW: i64 = i64::MAX;

impl Shard {
    pub(crate) fn read(reader: &dyn LogReader, shard: u16, report: &mut Report) -> Result<Option<Self>, StoreError> {
        let Some(before) = reader.head(shard)? else { return Ok(None) };
        let waiting = match Waiting::read(reader, shard, report) {
            Err(StoreError::Corrupt(what)) => {
                report.add(
                    Invariant::Deadlines,
                    Place::shard(shard),
                    format!("what is owed cannot be read: {what}"),
                );
                Waiting::default()
            }
            waiting => waiting?,
        };
        let Some(head) = reader.head(shard)? else { return Ok(None) };
        Ok(Some(Self {
            head,
            owed_at: before.position,
            waiting,
        }))
    }
}

impl Waiting {
    fn read(reader: &dyn LogReader, shard: u16, report: &mut Report) -> Result<Self, StoreError> {
        let mut waiting = Self {
            known: true,
            ..Self::default()
        };
        let unfinished = reader.unfinished(shard)?;
        report.counts.owed += unfinished.effects.len() as u64;
        report.counts.timers += unfinished.timers.len() as u64;
        for effect in &unfinished.effects {
            waiting.owe(shard, &format!("the effect {}", effect.id), &effect.effect, NOW, report);
        }
        for timer in &unfinished.timers {
            waiting.owe(shard, &format!("the timer {}", timer.id), &timer.command, timer.due, report);
        }
        // An operator knows of these.
        let parked = reader.parked(shard, MOST_PARKED)?;
        report.counts.parked += parked.len() as u64;
        for parked in &parked {
            waiting.owe(shard, &format!("the parked input {}", parked.id), &parked.input, NOW, report);
        }
        Ok(waiting)
    }

    fn owe(&mut self, shard: u16, what: &str, json: &str, due: i64, report: &mut Report) {
        match serde_json::from_str(json) {
            Ok(value) => self.names(&value, due),
            Err(error) => report.add(
                Invariant::Deadlines,
                Place::shard(shard),
                format!("{what} is not JSON, so nobody can take it up: {error}"),
            ),
        }
    }

    fn names(&mut self, value: &Value, due: i64) {
        match value {
            Value::String(text) => {
                if let Ok(id) = Uuid::try_parse(text) {
                    let known = self.due.entry(id).or_insert(due);
                    *known = due.max(*known);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| self.names(value, due)),
            Value::Object(members) => members.values().for_each(|value| self.names(value, due)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// When the last thing is due that names one of these ids; none when nothing does.
    pub(crate) fn due(&self, ids: [Uuid; 2]) -> Option<i64> {
        ids.iter().filter_map(|id| self.due.get(id)).max().copied()
    }
}
