//! A log as it is found at first: which shards there are, how far each is, and what is still to come.

use aggregates::Kind;
use event_store::{Event, Head, LogReader, Shards, StoreError};
use uuid::Uuid;

use crate::{Invariant, Place, Report, waiting::Waiting};

/// How many shards without a head are named.
const MOST_NAMED: usize = 10;

/// A log. Its shards are read one after another while they may go on, so what is in one of them may follow from what is not read any
/// more in another: see [`Shard::settled_at`].
pub(crate) struct Log {
    pub(crate) count: Shards,
    pub(crate) shards: Vec<Shard>,
    /// What any of them still owes.
    pub(crate) waiting: Waiting,
}

/// A shard as it is found at first.
pub(crate) struct Shard {
    /// Up to here it is read.
    pub(crate) head: Head,
    /// Where it stood before anything else was looked at. All that led to what happened up to here, in whatever shard, is read; and what
    /// is owed was read later. Of what happened after it neither is sure.
    pub(crate) settled_at: u64,
}

impl Log {
    pub(crate) fn read(reader: &dyn LogReader, report: &mut Report) -> Result<Self, StoreError> {
        let before = heads(reader, report, true)?;
        let count = count(reader, &before, report)?;
        report.several(count != Shards::ONE);
        let numbers: Vec<_> = before.iter().map(|head| head.shard).collect();
        let mut waiting = Waiting::read(reader, &numbers, report)?;
        if numbers.len() > 1 {
            // What is owed goes from shard to shard, perhaps from one that was not looked at yet to one that was.
            waiting.read_again(reader, &numbers)?;
        }
        let now = heads(reader, report, false)?;
        let settled_at = |shard: u16| before.iter().find(|head| head.shard == shard).map_or(0, |head| head.position);
        let shards: Vec<_> = now
            .into_iter()
            .map(|head| Shard {
                settled_at: settled_at(head.shard),
                head,
            })
            .collect();
        report.counts.shards = shards.len() as u64;
        let log = Self { count, shards, waiting };
        log.check(report);
        Ok(log)
    }

    /// Whether all shards are there, and no others.
    fn check(&self, report: &mut Report) {
        let mut wrong = |shard: Option<u16>, what: String| {
            let place = shard.map_or_else(Place::default, Place::shard);
            report.add(Invariant::Chain, place, what);
        };
        for Shard { head, .. } in &self.shards {
            if head.shard >= self.count.count() {
                let what = format!("it has a head, and the log has {} of them", shards_in_words(self.count));
                wrong(Some(head.shard), what);
            }
        }
        let missing: Vec<_> = self.count.all().filter(|shard| self.shard(*shard).is_none()).collect();
        if !missing.is_empty() && self.shards.iter().any(|shard| shard.head.position > 0) {
            let names: Vec<_> = missing.iter().take(MOST_NAMED).map(ToString::to_string).collect();
            let more = if missing.len() > MOST_NAMED { " and more" } else { "" };
            let what = format!(
                "the log has {}, and no head of {}{more}",
                shards_in_words(self.count),
                names.join(", ")
            );
            wrong(None, what);
        }
    }

    pub(crate) fn log_id(&self) -> Option<Uuid> {
        self.shards.first().map(|shard| shard.head.log_id)
    }

    pub(crate) fn shard(&self, number: u16) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.head.shard == number)
    }

    /// Whether a stream is kept where its key belongs. Of a kind that is unknown somebody else tells.
    pub(crate) fn event(&self, event: &Event, report: &mut Report) {
        if self.count == Shards::ONE {
            return;
        }
        let Some(key) = key(&event.stream.kind, event.stream.id) else {
            return;
        };
        let home = self.count.of(key);
        if home != event.shard {
            report.add(
                Invariant::Chain,
                Place::event(event),
                format!("a stream is in its key's shard, and this one's is {home}"),
            );
        }
    }
}

/// A process is kept where its order is.
fn key(kind: &str, id: Uuid) -> Option<Uuid> {
    if kind == sagas::purchase::KIND {
        return Some(id);
    }
    Kind::named(kind).map(|kind| kind.key(id))
}

fn shards_in_words(count: Shards) -> String {
    if count == Shards::ONE {
        "1 shard".to_owned()
    } else {
        format!("{count} shards")
    }
}

/// The heads that can be read; of the others `tell` says something.
fn heads(reader: &dyn LogReader, report: &mut Report, tell: bool) -> Result<Vec<Head>, StoreError> {
    let mut say = |place: Place, what: String| {
        if tell {
            report.add(Invariant::Chain, place, what);
        }
    };
    let shards = match reader.shards() {
        Ok(shards) => shards,
        Err(StoreError::Corrupt(what)) => {
            say(Place::default(), format!("the heads cannot be read: {what}"));
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut heads = Vec::with_capacity(shards.len());
    for shard in shards {
        match reader.head(shard) {
            Ok(head) => heads.extend(head),
            Err(StoreError::Corrupt(what)) => say(Place::shard(shard), format!("the head cannot be read: {what}")),
            Err(error) => return Err(error),
        }
    }
    Ok(heads)
}

/// How many shards the log says that it has. Where it does not say so, it has one; where that cannot be read, those that are there.
fn count(reader: &dyn LogReader, heads: &[Head], report: &mut Report) -> Result<Shards, StoreError> {
    match reader.shard_count() {
        Ok(count) => Ok(count.unwrap_or(Shards::ONE)),
        Err(StoreError::Corrupt(what)) => {
            report.add(
                Invariant::Chain,
                Place::default(),
                format!("how many shards the log has cannot be read: {what}"),
            );
            let last = heads.iter().map(|head| head.shard).max().unwrap_or_default();
            Ok(Shards::new(last.saturating_add(1)).unwrap_or(Shards::ONE))
        }
        Err(error) => Err(error),
    }
}
