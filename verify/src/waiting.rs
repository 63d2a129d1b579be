//! What is still owed, and who waits for it.

use event_store::{LogReader, StoreError};
use rustc_hash::FxHashMap;
use serde_json::Value;
use uuid::Uuid;

use crate::{Invariant, Place, Report};

/// How many parked inputs of a shard are looked at.
const MOST_PARKED: usize = 10_000;

/// Every id that something owed names, in whatever shard, and when that is due.
#[derive(Default)]
pub(crate) struct Waiting {
    /// Whether it could be read.
    pub(crate) known: bool,
    due: FxHashMap<Uuid, i64>,
}

/// Owed at once.
const NOW: i64 = i64::MAX;

/// One row of what is owed.
struct Row {
    what: &'static str,
    id: Uuid,
    json: Box<str>,
    due: i64,
}

impl Waiting {
    pub(crate) fn read(reader: &dyn LogReader, shards: &[u16], report: &mut Report) -> Result<Self, StoreError> {
        let mut waiting = Self {
            known: true,
            ..Self::default()
        };
        for shard in shards {
            let place = || Place::shard(*shard);
            let rows = match rows(reader, *shard) {
                Ok(rows) => rows,
                Err(StoreError::Corrupt(what)) => {
                    waiting.known = false;
                    report.add(Invariant::Deadlines, place(), format!("what is owed cannot be read: {what}"));
                    continue;
                }
                Err(error) => return Err(error),
            };
            for row in &rows {
                match row.what {
                    EFFECT => report.counts.owed += 1,
                    TIMER => report.counts.timers += 1,
                    _ => report.counts.parked += 1,
                }
                if let Err(error) = waiting.owe(row) {
                    let Row { what, id, .. } = row;
                    let text = format!("{what} {id} is not JSON, so nobody can take it up: {error}");
                    report.add(Invariant::Deadlines, place(), text);
                }
            }
        }
        Ok(waiting)
    }

    /// Adds what is owed by now. What is wrong with it was told before.
    pub(crate) fn read_again(&mut self, reader: &dyn LogReader, shards: &[u16]) -> Result<(), StoreError> {
        for shard in shards {
            match rows(reader, *shard) {
                Ok(rows) => rows.iter().for_each(|row| drop(self.owe(row))),
                Err(StoreError::Corrupt(_)) => self.known = false,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn owe(&mut self, row: &Row) -> Result<(), serde_json::Error> {
        serde_json::from_str(&row.json).map(|value| self.names(&value, row.due))
    }

    fn names(&mut self, value: &Value, due: i64) {
        match value {
            Value::String(text) => self.name(text, due),
            Value::Array(values) => values.iter().for_each(|value| self.names(value, due)),
            Value::Object(members) => members.iter().for_each(|(name, value)| {
                self.name(name, due);
                self.names(value, due);
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn name(&mut self, text: &str, due: i64) {
        if let Ok(id) = Uuid::try_parse(text) {
            let known = self.due.entry(id).or_insert(due);
            *known = due.max(*known);
        }
    }

    /// When the last thing is due that names one of these ids; none when nothing does.
    pub(crate) fn due(&self, ids: [Uuid; 2]) -> Option<i64> {
        ids.iter().filter_map(|id| self.due.get(id)).max().copied()
    }
}

const EFFECT: &str = "the effect";
const TIMER: &str = "the timer";
/// An operator knows of these.
const PARKED: &str = "the parked input";

fn rows(reader: &dyn LogReader, shard: u16) -> Result<Vec<Row>, StoreError> {
    let unfinished = reader.unfinished(shard)?;
    let parked = reader.parked(shard, MOST_PARKED)?;
    let row = |what, id, json, due| Row { what, id, json, due };
    let effects = unfinished
        .effects
        .into_iter()
        .map(|effect| row(EFFECT, effect.id, effect.effect, NOW));
    let timers = unfinished
        .timers
        .into_iter()
        .map(|timer| row(TIMER, timer.id, timer.command, timer.due));
    let parked = parked.into_iter().map(|parked| row(PARKED, parked.id, parked.input, NOW));
    Ok(effects.chain(timers).chain(parked).collect())
}
