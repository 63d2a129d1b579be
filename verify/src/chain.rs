//! The log itself: positions, versions, ids, causes, times, hashes, epochs.

use std::collections::VecDeque;

use event_store::{BatchHasher, Event, GENESIS, Hash, Head, LogReader, StoreError};
use rustc_hash::FxHashMap;
use serde::de::IgnoredAny;
use uuid::Uuid;

use crate::{
    Invariant, Place, Report,
    layout::{Log, Shard},
    made::{EPOCH, Made},
    origin::Origin,
    seen::Sights,
    shapes::{Advanced, Anything, Metadata, Seen},
};

/// How many batches are read at once.
const PAGE: usize = 1_000;

/// How many rows outside every shard are named.
const MOST_STRAYS: usize = 100;

/// How many causes that may stand in a shard that is not read yet are kept, of those whose ids do not say where they stand.
const MOST_UNKNOWN: usize = 10_000;

/// The versions of payloads that this version reads.
const VERSION: &str = "1.0.0";

/// What is known of all logs so far.
pub(crate) struct Chain<'a> {
    hashes: bool,
    heads: FxHashMap<u16, Reach>,
    log_id: Uuid,
    kinds: Vec<Box<str>>,
    /// The last version of each stream.
    versions: FxHashMap<(u16, Uuid), u64>,
    /// The places of the ids that are not made of their place.
    ids: FxHashMap<Uuid, (u16, u64)>,
    /// By shard: from which position on which epoch wrote.
    epochs: FxHashMap<u16, Vec<(u64, u64)>>,
    /// Causes in shards that were not read yet, by shard and the epoch that their ids name: the first and the last of their positions. An
    /// epoch wrote from one position on to another, so those between say no more.
    foreign: FxHashMap<(u16, u64), (u64, u64)>,
    /// Causes that are not known yet, and where they are named.
    unknown: Vec<(Uuid, Place)>,
    sights: Sights,
    now: Option<Current<'a>>,
}

/// How far a shard's log reaches.
struct Reach {
    /// Up to here it is read.
    to: u64,
    /// As far as it is known to be by now.
    now: u64,
}

/// The shard that is being read.
struct Current<'a> {
    reader: &'a dyn LogReader,
    shard: u16,
    /// Up to where it is read.
    to: u64,
    /// The position that comes next.
    next: u64,
    recorded_at: i64,
    /// The last position of the batch before, its hash and its epoch.
    before: (u64, Hash, u64),
    /// The first position of the batch before.
    began: u64,
    waiting: VecDeque<(u64, Hash, Hash, u64)>,
    open: Option<Open>,
    /// No batch covers what comes from here on.
    uncovered: Option<u64>,
    /// What comes from here on was not written by an engine.
    foreign_from: Option<u64>,
    /// The head's hash, and the end of the batch that has it.
    head: Hash,
    head_at: Option<u64>,
}

/// The batch whose events come now.
struct Open {
    first: u64,
    last: u64,
    hash: Hash,
    epoch: u64,
    hasher: BatchHasher,
}

impl<'a> Chain<'a> {
    pub(crate) fn new(log: &Log, hashes: bool) -> Self {
        let reach = |Shard { head, .. }: &Shard| {
            let (to, now) = (head.position, head.position);
            (head.shard, Reach { to, now })
        };
        Self {
            hashes,
            heads: log.shards.iter().map(reach).collect(),
            log_id: log.log_id().unwrap_or_default(),
            kinds: Vec::new(),
            versions: FxHashMap::default(),
            ids: FxHashMap::default(),
            epochs: FxHashMap::default(),
            foreign: FxHashMap::default(),
            unknown: Vec::new(),
            sights: Sights::new(log),
            now: None,
        }
    }

    pub(crate) fn streams(&self) -> u64 {
        self.versions.len() as u64
    }

    pub(crate) fn begin(&mut self, reader: &'a dyn LogReader, shard: &Shard) {
        self.now = Some(Current {
            reader,
            shard: shard.head.shard,
            to: shard.head.position,
            next: 1,
            recorded_at: i64::MIN,
            before: (0, GENESIS, 0),
            began: 0,
            waiting: VecDeque::new(),
            open: None,
            uncovered: None,
            foreign_from: None,
            head: shard.head.hash,
            head_at: (shard.head.hash == GENESIS).then_some(0),
        });
    }

    /// Looks at one event; returns its metadata, or none when its place or its JSON is wrong, so that nothing can be counted of it.
    pub(crate) fn event<'e>(&mut self, event: &'e Event, origin: Origin, report: &mut Report) -> Result<Option<Metadata<'e>>, StoreError> {
        let Some(now) = &mut self.now else { return Ok(None) };
        if event.shard != now.shard || event.position < now.next {
            report.add(
                Invariant::Chain,
                Place::event(event),
                format!("positions are contiguous: {} stands where {} belongs", event.position, now.next),
            );
            return Ok(None);
        }
        if event.position > now.next {
            missing(now.shard, now.next, event.position - 1, report);
        }
        now.next = event.position + 1;
        now.advance_to(event.position, self.hashes, &mut self.epochs, report)?;
        now.foreign_from = (origin != Origin::Engine).then(|| now.foreign_from.unwrap_or(event.position));
        if let Some(open) = &mut now.open
            && self.hashes
        {
            open.hasher.event(event);
        }
        if event.recorded_at < now.recorded_at {
            report.add(
                Invariant::Chain,
                Place::event(event),
                format!(
                    "recorded time never goes back: {} comes after {}",
                    event.recorded_at, now.recorded_at
                ),
            );
        }
        now.recorded_at = event.recorded_at.max(now.recorded_at);
        let epoch = now.open.as_ref().map(|open| open.epoch);
        self.id(event, epoch, report);
        self.version(event, report);
        self.sights.event(event, report);
        self.contents(event, origin, report)
    }

    fn version(&mut self, event: &Event, report: &mut Report) {
        let kind = self.kind(&event.stream.kind);
        let version = self.versions.entry((kind, event.stream.id)).or_insert(0);
        if event.sequence != *version + 1 {
            report.add(
                Invariant::Chain,
                Place::event(event),
                format!("versions are contiguous: {} stands where {} belongs", event.sequence, *version + 1),
            );
        }
        *version = event.sequence;
    }

    fn kind(&mut self, name: &str) -> u16 {
        let known = self.kinds.iter().position(|kind| **kind == *name).unwrap_or_else(|| {
            self.kinds.push(name.into());
            self.kinds.len() - 1
        });
        // As many kinds as that are no kinds; each of the rest has a finding of its own.
        u16::try_from(known).unwrap_or(u16::MAX)
    }

    /// An id is made of its place, or known by itself.
    fn id(&mut self, event: &Event, epoch: Option<u64>, report: &mut Report) {
        let place = (event.shard, event.position);
        let Some(made) = Made::of(event.event_id) else {
            if let Some((shard, position)) = self.ids.insert(event.event_id, place) {
                report.add(
                    Invariant::Chain,
                    Place::event(event),
                    format!("an event id is unique: this one is that of {shard}/{position} too"),
                );
            }
            return;
        };
        if made.log != self.log_id.as_bytes()[..4] {
            report.add(
                Invariant::Chain,
                Place::event(event),
                format!("the event id {} is of another log", event.event_id),
            );
        } else if (made.shard, made.position) != place {
            report.add(
                Invariant::Chain,
                Place::event(event),
                format!("an event id is unique: this one is that of {}/{}", made.shard, made.position),
            );
        } else if epoch.is_some_and(|epoch| epoch & EPOCH != made.epoch) {
            report.add(
                Invariant::Fencing,
                Place::event(event),
                format!(
                    "the event id says that a writer of epoch {} made it, and its batch that it was one of epoch {}",
                    made.epoch,
                    epoch.unwrap_or_default()
                ),
            );
        }
    }

    /// What every event holds, whatever it says.
    fn contents<'e>(&mut self, event: &'e Event, origin: Origin, report: &mut Report) -> Result<Option<Metadata<'e>>, StoreError> {
        let mut wrong = |what: String| {
            report.add(Invariant::Chain, Place::event(event), what);
        };
        if origin == Origin::Unknown {
            if let Err(error) = serde_json::from_str::<IgnoredAny>(&event.payload) {
                wrong(format!("the payload cannot be read: {error}"));
            }
            if let Err(error) = serde_json::from_str::<IgnoredAny>(&event.metadata) {
                wrong(format!("the metadata cannot be read: {error}"));
            }
            return Ok(Some(Metadata::default()));
        }
        if event.event_version != VERSION && origin == Origin::Engine {
            wrong(format!("the event's version {:?} is unknown", event.event_version));
        }
        match type_of(&event.payload) {
            Ok(name) if name == event.event_type => {}
            Ok(name) => wrong(format!("the event is a {:?}, and its payload a {name:?}", event.event_type)),
            Err(error) => {
                wrong(format!("the payload cannot be read: {error}"));
                return Ok(None);
            }
        }
        let metadata: Metadata<'e> = match serde_json::from_str(&event.metadata) {
            Ok(metadata) => metadata,
            Err(error) => {
                wrong(format!("the metadata cannot be read: {error}"));
                return Ok(Some(Metadata::default()));
            }
        };
        match metadata.correlation.as_deref().map(Uuid::try_parse) {
            Some(Ok(_)) => {}
            None if origin == Origin::Foreign => {}
            _ => wrong("the correlation is missing".to_owned()),
        }
        match metadata.causation.as_deref() {
            Some(cause) => {
                if let Err(what) = self.cause(event, cause)? {
                    wrong(format!("the cause comes before what it causes: {what}"));
                }
            }
            None if metadata.actor.is_none() && origin == Origin::Engine => {
                wrong("what nothing caused, somebody asked for: there is neither".to_owned());
            }
            None => {}
        }
        if event.stream.kind == "purchase" {
            self.seen(event, report)?;
        }
        Ok(Some(metadata))
    }

    fn cause(&mut self, event: &Event, cause: &str) -> Result<Result<(), String>, StoreError> {
        let Ok(cause) = Uuid::try_parse(cause) else {
            return Ok(Err(format!("{cause:?} is no id")));
        };
        let Some(made) = Made::of(cause) else {
            return Ok(self.known_by_itself(event, cause));
        };
        if made.log != self.log_id.as_bytes()[..4] {
            return Ok(Err(format!("{cause} is of another log")));
        }
        let elsewhere = || Ok(Err(format!("{cause} is that of {}/{}", made.shard, made.position)));
        if made.position < 1 {
            return elsewhere();
        }
        if made.shard != event.shard {
            // What was recorded since this began is not read.
            match self.reaches(&made)? {
                None => return elsewhere(),
                Some(false) => return Ok(Ok(())),
                Some(true) => {}
            }
        } else if made.position >= event.position {
            return elsewhere();
        }
        match self.epoch_at(made.shard, made.position) {
            Some(epoch) if epoch & EPOCH != made.epoch => return elsewhere(),
            // That shard is not read yet.
            None if made.shard != event.shard => {
                let place = made.position;
                let known = self.foreign.entry((made.shard, made.epoch)).or_insert((place, place));
                *known = (known.0.min(place), known.1.max(place));
            }
            Some(_) | None => {}
        }
        Ok(Ok(()))
    }

    /// A cause whose id does not say where it stands.
    fn known_by_itself(&mut self, event: &Event, cause: Uuid) -> Result<(), String> {
        match self.ids.get(&cause) {
            Some((shard, position)) if *shard != event.shard || *position < event.position => Ok(()),
            // It may stand in a shard that is read later.
            None if self.heads.len() > 1 && self.unknown.len() < MOST_UNKNOWN => {
                self.unknown.push((cause, Place::event(event)));
                Ok(())
            }
            _ => Err(format!("{cause} is not known by then")),
        }
    }

    /// Whether the place in another shard where this id was made is read; none when the log has not come to it.
    fn reaches(&mut self, made: &Made) -> Result<Option<bool>, StoreError> {
        let Some(reach) = self.heads.get_mut(&made.shard) else {
            return Ok(None);
        };
        if made.position > reach.now
            && let Some(now) = &self.now
        {
            // Recorded since this began, perhaps.
            reach.now = now.reader.head(made.shard)?.map_or(reach.now, |head| head.position.max(reach.now));
        }
        Ok((made.position <= reach.now).then_some(made.position <= reach.to))
    }

    /// Which epoch wrote this position, if that shard was read so far.
    fn epoch_at(&self, shard: u16, position: u64) -> Option<u64> {
        let epochs = self.epochs.get(&shard)?;
        let after = epochs.partition_point(|(from, _)| *from <= position);
        epochs.get(after.checked_sub(1)?).map(|(_, epoch)| *epoch)
    }

    fn seen(&mut self, event: &Event, report: &mut Report) -> Result<(), StoreError> {
        let advanced: Advanced = match serde_json::from_str(&event.payload) {
            Ok(advanced) => advanced,
            Err(error) => {
                report.add(
                    Invariant::Chain,
                    Place::event(event),
                    format!("the payload cannot be read: {error}"),
                );
                return Ok(());
            }
        };
        if advanced.seen.len() != advanced.steps.len() {
            report.add(
                Invariant::Chain,
                Place::event(event),
                format!(
                    "{} positions were seen, and {} steps learnt",
                    advanced.seen.len(),
                    advanced.steps.len()
                ),
            );
        }
        for seen in advanced.seen {
            match seen {
                Seen::Here(position) if (1..event.position).contains(&position) => {}
                Seen::Here(position) => report.add(
                    Invariant::Chain,
                    Place::event(event),
                    format!("it has seen position {position}, which does not come before it"),
                ),
                Seen::There(place) => {
                    if let Some(now) = &self.now {
                        self.sights.saw(event, place, now.reader, report)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The shard is read: whether its end is where the head says.
    pub(crate) fn end(&mut self, shard: &Shard, report: &mut Report) -> Result<(), StoreError> {
        let Some(mut now) = self.now.take() else { return Ok(()) };
        let head = &shard.head;
        if now.next <= head.position {
            missing(head.shard, now.next, head.position, report);
        }
        if head.position > 0 {
            now.advance_to(head.position, self.hashes, &mut self.epochs, report)?;
        }
        now.close(self.hashes, report);
        self.sights.end_of_shard(head.shard, report);
        let place = || Place::at(head.shard, now.began.max(1).min(head.position), head.position);
        let (last, _, epoch) = now.before;
        // Nobody who writes through an engine leaves events in no batch: whoever wrote these did so while none held the log, and the next one
        // takes them into the chain, perhaps since this began.
        let chained = now
            .head_at
            .filter(|at| *at < head.position && now.foreign_from.is_some_and(|from| from <= at + 1));
        if chained.is_some() {
            report.counts.unchained += head.position - last;
        } else {
            now.check_head(head, place(), report);
        }
        if epoch > head.epoch {
            report.add(
                Invariant::Fencing,
                place(),
                format!("the head is of epoch {}, the last batch of epoch {epoch}", head.epoch),
            );
        }
        if head.position > 0 && now.next > head.position && now.recorded_at != head.recorded_at {
            report.add(
                Invariant::Chain,
                place(),
                format!(
                    "the head was recorded at {}, the last event at {}",
                    head.recorded_at, now.recorded_at
                ),
            );
        }
        Ok(())
    }

    /// All shards are read: whether what was said of shards that were read later is so.
    pub(crate) fn finish(&mut self, report: &mut Report) {
        let mut foreign: Vec<_> = std::mem::take(&mut self.foreign).into_iter().collect();
        foreign.sort_unstable();
        for ((shard, epoch), (first, last)) in foreign {
            for position in [first, last] {
                let wrote = self.epoch_at(shard, position);
                if let Some(wrote) = wrote.filter(|wrote| wrote & EPOCH != epoch) {
                    let what = format!("what caused something in another shard was made by epoch {epoch}, and epoch {wrote} wrote here");
                    report.add(Invariant::Chain, Place::at(shard, position, position), what);
                    break;
                }
            }
        }
        for (cause, place) in std::mem::take(&mut self.unknown) {
            if !self.ids.contains_key(&cause) {
                let what = format!("the cause comes before what it causes: {cause} is in no shard");
                report.add(Invariant::Chain, place, what);
            }
        }
    }
}

fn missing(shard: u16, first: u64, last: u64, report: &mut Report) {
    report.add(
        Invariant::Chain,
        Place::at(shard, first, last),
        "positions are contiguous: these are missing",
    );
}

impl Current<'_> {
    /// Opens the batch that this position is in, and closes those before.
    fn advance_to(
        &mut self,
        position: u64,
        hashes: bool,
        epochs: &mut FxHashMap<u16, Vec<(u64, u64)>>,
        report: &mut Report,
    ) -> Result<(), StoreError> {
        while self.open.as_ref().is_none_or(|open| open.last < position) {
            self.close(hashes, report);
            let Some((last, previous, hash, epoch)) = self.next_batch(report)? else {
                self.uncovered.get_or_insert(position);
                return Ok(());
            };
            report.counts.batches += 1;
            let (before, hash_before, epoch_before) = self.before;
            let place = || Place::at(self.shard, before + 1, last);
            if previous != hash_before {
                report.add(
                    Invariant::Chain,
                    place(),
                    "the hash chain: this batch does not follow the one before it",
                );
            }
            if epoch < epoch_before {
                report.add(
                    Invariant::Fencing,
                    Place::at(self.shard, self.began, last),
                    format!("a writer of epoch {epoch} appended after one of epoch {epoch_before}"),
                );
            }
            let epochs = epochs.entry(self.shard).or_default();
            if epochs.last().is_none_or(|(_, known)| *known != epoch) {
                epochs.push((before + 1, epoch));
            }
            self.open = Some(Open {
                first: before + 1,
                last,
                hash,
                epoch,
                hasher: BatchHasher::after(&previous),
            });
        }
        Ok(())
    }

    /// The batch is read: whether it is what was written.
    fn close(&mut self, hashes: bool, report: &mut Report) {
        let Some(open) = self.open.take() else { return };
        if hashes && open.hasher.finish() != open.hash {
            report.add(
                Invariant::Chain,
                Place::at(self.shard, open.first, open.last),
                "the hash chain: this batch is not what was written",
            );
        }
        self.before = (open.last, open.hash, open.epoch);
        if open.hash == self.head {
            self.head_at = Some(open.last);
        }
        self.began = open.first;
    }

    /// That the last batch ends where the head is, and has its hash.
    fn check_head(&self, head: &Head, place: Place, report: &mut Report) {
        if let Some(first) = self.uncovered {
            report.add(
                Invariant::Chain,
                Place::at(head.shard, first, head.position),
                "no batch holds these",
            );
        }
        let (last, hash, _) = self.before;
        if last != head.position {
            let what = format!("the head is at {}, the last batch ends at {last}", head.position);
            report.add(Invariant::Chain, place, what);
        } else if hash != head.hash {
            report.add(
                Invariant::Chain,
                place,
                "the hash chain: the head's hash is not that of the last batch",
            );
        }
    }

    fn next_batch(&mut self, report: &mut Report) -> Result<Option<(u64, Hash, Hash, u64)>, StoreError> {
        let after = self.before.0;
        if self.waiting.is_empty() && self.uncovered.is_none() {
            match self.reader.batches(self.shard, after, PAGE) {
                Ok(batches) => self.waiting.extend(batches),
                Err(StoreError::Corrupt(_)) => self.one_by_one(after, report)?,
                Err(error) => return Err(error),
            }
        }
        let batch = self.waiting.pop_front().filter(|(last, ..)| *last <= self.to);
        Ok(batch)
    }

    /// Some batch of the next page cannot be read: those before it are read, and where it begins is said.
    fn one_by_one(&mut self, mut after: u64, report: &mut Report) -> Result<(), StoreError> {
        for _ in 0..PAGE {
            match self.reader.batches(self.shard, after, 1) {
                Ok(batches) => {
                    let Some(batch) = batches.first() else { return Ok(()) };
                    after = batch.0;
                    self.waiting.push_back(*batch);
                }
                Err(StoreError::Corrupt(what)) => {
                    report.add(
                        Invariant::Chain,
                        Place::at(self.shard, after + 1, self.to),
                        format!("the next batch cannot be read: {what}"),
                    );
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether something stands behind the head. What was appended meanwhile does not: its head moved with it.
pub(crate) fn beyond(reader: &dyn LogReader, shard: &Shard, report: &mut Report) -> Result<(), StoreError> {
    let (number, to) = (shard.head.shard, shard.head.position);
    let event = match reader.events(number, to, 1) {
        Ok(events) => events.first().map(|event| event.position),
        Err(StoreError::Corrupt(what)) => {
            report.add(
                Invariant::Chain,
                Place::at(number, to + 1, to + 1),
                format!("what stands behind the head cannot be read: {what}"),
            );
            None
        }
        Err(error) => return Err(error),
    };
    let batch = match reader.batches(number, to, 1) {
        Ok(batches) => batches.first().map(|batch| batch.0),
        Err(StoreError::Corrupt(_)) => None,
        Err(error) => return Err(error),
    };
    if event.is_none() && batch.is_none() {
        return Ok(());
    }
    let head = match reader.head(number) {
        Ok(head) => head.map_or(0, |head| head.position),
        Err(StoreError::Corrupt(_)) => to,
        Err(error) => return Err(error),
    };
    for (position, what) in [(event, "an event"), (batch, "a batch")] {
        if let Some(position) = position.filter(|position| *position > head) {
            report.add(
                Invariant::Chain,
                Place::at(number, position, position),
                format!("{what} stands behind the head, which is at {head}"),
            );
        }
    }
    Ok(())
}

/// Whether something stands where no reader comes.
pub(crate) fn strays(reader: &dyn LogReader, report: &mut Report) -> Result<(), StoreError> {
    match reader.strays(MOST_STRAYS) {
        Ok(strays) => {
            for stray in strays {
                let place = Place {
                    shard: u16::try_from(stray.shard).ok(),
                    positions: u64::try_from(stray.position).ok().map(|position| (position, position)),
                    ..Place::default()
                };
                report.add(
                    Invariant::Chain,
                    place,
                    format!(
                        "a row of {} stands at {}/{}, where no writer puts one",
                        stray.table, stray.shard, stray.position
                    ),
                );
            }
            Ok(())
        }
        Err(StoreError::Corrupt(what)) => {
            report.add(
                Invariant::Chain,
                Place::default(),
                format!("whether rows stand where no writer puts them cannot be read: {what}"),
            );
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// The name in the payload. As the engine writes it, it stands first, and the rest is read by those who count it.
fn type_of(payload: &str) -> Result<std::borrow::Cow<'_, str>, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Named<'a> {
        #[serde(rename = "type", borrow)]
        name: crate::shapes::Text<'a>,
    }
    if let Some((name, _)) = payload.strip_prefix(r#"{"type":""#).and_then(|rest| rest.split_once('"'))
        && !name.contains('\\')
    {
        serde_json::from_str::<Anything>(payload)?;
        return Ok(name.into());
    }
    serde_json::from_str::<Named<'_>>(payload).map(|named| named.name.0)
}
