//! What stands in a shard's stream, and how a batch becomes that and is read back.
//!
//! A batch is its events, one entry each, and behind them one entry that closes it and holds all that stands beside the events. What is too
//! large for an entry goes before it in pieces. A batch that is too large for one append is sent in several: only the last one closes it.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use event_store::{Batch, Event, IdempotencyRecord, OwedEffect, Parked, RecordKey, Snapshot, StreamId, Timer, Unparked, Unparking};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use uuid::Uuid;

/// Closes a batch.
pub(crate) const BATCH: &str = "jangbu-batch";
/// Ends an append that does not close its batch.
pub(crate) const PART: &str = "jangbu-part";
/// A part of what is too large for one entry.
pub(crate) const PIECE: &str = "jangbu-piece";
/// A writer took the shard.
pub(crate) const TAKEN: &str = "jangbu-taken";
/// Takes the place of an append whose answer never came, so that it cannot arrive any more.
pub(crate) const SETTLED: &str = "jangbu-settled";
/// In the log's own stream: the log was made.
pub(crate) const CREATED: &str = "jangbu-created";
/// There: how many shards it has.
pub(crate) const FOUNDED: &str = "jangbu-founded";
/// There: a shard was opened.
pub(crate) const SHARD: &str = "jangbu-shard";
/// In a holder's stream: it lives.
pub(crate) const HEARTBEAT: &str = "jangbu-heartbeat";

/// In the stream of one who reads the log: how far it is.
pub(crate) const CHECKPOINT: &str = "jangbu-checkpoint";

/// What the entries of this crate are called begins so, and no event does.
const OURS: &str = "jangbu-";

/// The most that the server takes in one append is 1 MiB (`MaxAppendSize`); this leaves room for what it counts beside.
pub(crate) const LARGEST_APPEND: usize = 1_000_000;

/// What an entry that ends a part takes, at most.
const PART_SIZE: usize = 256;

/// An entry, as it is given to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The event's own, or random. The server takes an append that it has seen for done by these ids alone, so each append has one that no
    /// other has.
    pub(crate) id: Uuid,
    /// The event's type.
    pub(crate) name: String,
    /// Whether the server may take the data for JSON.
    pub(crate) json: bool,
    pub(crate) data: Bytes,
    pub(crate) metadata: Bytes,
}

impl Entry {
    /// One of ours, with an id that no other has.
    pub(crate) fn own(name: &str, data: &impl Serialize) -> Self {
        Self {
            id: Uuid::new_v4(),
            name: name.to_owned(),
            json: true,
            data: json(data),
            metadata: Bytes::new(),
        }
    }

    /// As the server counts it, and a little more.
    fn size(&self) -> usize {
        self.data.len() + self.metadata.len() + 2 * self.name.len() + 64
    }
}

/// An entry that stands in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) revision: u64,
    pub(crate) entry: Entry,
}

/// A writer took the shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) epoch: u64,
    pub(crate) instance: Uuid,
    pub(crate) at: i64,
}

/// A holder lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heartbeat {
    pub(crate) epoch: u64,
    pub(crate) at: i64,
}

/// Reads the data of an entry of ours.
pub(crate) fn data<T: DeserializeOwned>(entry: &Entry) -> Result<T, String> {
    serde_json::from_slice(&entry.data).map_err(|error| format!("the data of {} cannot be read ({error})", entry.name))
}

/// The appends that write a batch, each as large as the limit at most. The last one ends with what closes it.
///
/// # Errors
/// The batch cannot be written as it is, in words.
pub(crate) fn appends(batch: &Batch, limit: usize) -> Result<Vec<Vec<Entry>>, String> {
    appends_as(Uuid::new_v4(), batch, limit)
}

fn appends_as(id: Uuid, batch: &Batch, limit: usize) -> Result<Vec<Vec<Entry>>, String> {
    let mut packing = Packing {
        batch: id,
        limit,
        done: Vec::new(),
        open: Vec::new(),
        size: 0,
    };
    for event in &batch.events {
        packing.event(event)?;
    }
    packing.close(batch)
}

struct Packing {
    batch: Uuid,
    limit: usize,
    done: Vec<Vec<Entry>>,
    open: Vec<Entry>,
    size: usize,
}

impl Packing {
    fn event(&mut self, event: &Event) -> Result<(), String> {
        let place = || format!("the event at {}/{}", event.shard, event.position);
        if event.event_type.is_empty() || event.event_type.starts_with('$') || event.event_type.starts_with(OURS) {
            return Err(format!(
                "{} has the type {:?}, which the server or this store keeps for itself",
                place(),
                event.event_type
            ));
        }
        let Some(metadata) = exact_json(&event.metadata) else {
            return Err(format!("the metadata of {} is no JSON", place()));
        };
        let causes: Causes = serde_json::from_str(metadata.get()).unwrap_or_default();
        let payload = Bytes::copy_from_slice(event.payload.as_bytes());
        let is_json = exact_json(&event.payload).is_some();
        let (data, pieces) = self.in_pieces(payload);
        let metadata = json(&EventMetadata {
            batch: self.batch,
            position: event.position,
            kind: Cow::Borrowed(&event.stream.kind),
            id: event.stream.id,
            sequence: event.sequence,
            version: Cow::Borrowed(&event.event_version),
            recorded_at: event.recorded_at,
            pieces,
            correlation: causes.correlation_id,
            causation: causes.causation_id,
            metadata: Cow::Borrowed(metadata),
        });
        if metadata.len() > self.limit / 3 {
            return Err(format!("the metadata of {} is larger than an append can hold", place()));
        }
        self.put(Entry {
            id: event.event_id,
            name: event.event_type.to_string(),
            json: is_json || pieces > 0,
            data,
            metadata,
        });
        Ok(())
    }

    fn close(mut self, batch: &Batch) -> Result<Vec<Vec<Entry>>, String> {
        let (data, pieces) = self.in_pieces(json(&Closing::of(batch)?));
        self.put(Entry {
            id: Uuid::new_v4(),
            name: BATCH.to_owned(),
            json: true,
            data,
            metadata: json(&Belongs { batch: self.batch, pieces }),
        });
        self.done.push(self.open);
        Ok(self.done)
    }

    /// Puts what is too large before its entry; the data that is left for the entry, and how many pieces it has.
    fn in_pieces(&mut self, data: Bytes) -> (Bytes, usize) {
        let largest = (self.limit / 3).max(1);
        if data.len() <= largest {
            return (data, 0);
        }
        let mut pieces = 0;
        let mut rest = data;
        while !rest.is_empty() {
            let piece = rest.split_to(largest.min(rest.len()));
            self.put(Entry {
                id: Uuid::new_v4(),
                name: PIECE.to_owned(),
                json: false,
                data: piece,
                metadata: json(&Belongs {
                    batch: self.batch,
                    pieces: 0,
                }),
            });
            pieces += 1;
        }
        (Bytes::from_static(b"{}"), pieces)
    }

    fn put(&mut self, entry: Entry) {
        if !self.open.is_empty() && self.size + entry.size() + PART_SIZE > self.limit {
            self.open.push(Entry {
                metadata: json(&Belongs {
                    batch: self.batch,
                    pieces: 0,
                }),
                ..Entry::own(PART, &Nothing {})
            });
            self.done.push(std::mem::take(&mut self.open));
            self.size = 0;
        }
        self.size += entry.size();
        self.open.push(entry);
    }
}

/// What was found in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A batch, closed.
    Batch(Box<Batch>),
    /// Somebody took the shard.
    Taken(Taken),
}

/// Puts a shard's batches together again, entry after entry. What is never closed was never written.
#[derive(Debug)]
pub(crate) struct Assembly {
    shard: u16,
    batch: Option<Uuid>,
    pieces: Vec<Bytes>,
    events: Vec<Event>,
}

impl Assembly {
    pub(crate) const fn new(shard: u16) -> Self {
        Self {
            shard,
            batch: None,
            pieces: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Adds the next entry.
    ///
    /// # Errors
    /// It is one of ours and cannot be understood, or what it closes is not there, in words.
    pub(crate) fn add(&mut self, recorded: &Recorded) -> Result<Option<Found>, String> {
        let entry = &recorded.entry;
        match entry.name.as_str() {
            TAKEN => {
                self.forget();
                Ok(Some(Found::Taken(data(entry)?)))
            }
            SETTLED => {
                self.forget();
                Ok(None)
            }
            PART => Ok(None),
            PIECE => {
                self.belongs_to(about::<Belongs>(entry)?.batch);
                self.pieces.push(entry.data.clone());
                Ok(None)
            }
            BATCH => self.close(entry).map(Some),
            _ => self.event(recorded).map(|()| None),
        }
    }

    fn event(&mut self, recorded: &Recorded) -> Result<(), String> {
        let entry = &recorded.entry;
        let Ok(about) = serde_json::from_slice::<EventMetadata<'_>>(&entry.metadata) else {
            // Nothing can be put in order there any more, so somebody else's entry must not stop the shop: the events do not need it.
            tracing::warn!(
                shard = self.shard,
                revision = recorded.revision,
                "an entry of somebody else stands in the shard's stream"
            );
            return Ok(());
        };
        self.belongs_to(about.batch);
        let payload = self.whole(&entry.data, about.pieces)?;
        let payload = std::str::from_utf8(&payload).map_err(|_| format!("the payload of {} is no text", entry.name))?;
        self.events.push(Event {
            shard: self.shard,
            position: about.position,
            stream: StreamId {
                kind: about.kind.into_owned().into(),
                id: about.id,
            },
            sequence: about.sequence,
            event_id: entry.id,
            event_type: entry.name.clone().into(),
            event_version: about.version.into_owned().into(),
            recorded_at: about.recorded_at,
            payload: payload.into(),
            metadata: about.metadata.get().into(),
        });
        Ok(())
    }

    fn close(&mut self, entry: &Entry) -> Result<Found, String> {
        let about: Belongs = about(entry)?;
        self.belongs_to(about.batch);
        let data = self.whole(&entry.data, about.pieces)?;
        let closing: Closing<'_> = serde_json::from_slice(&data).map_err(|error| format!("the batch cannot be read ({error})"))?;
        if closing.events != self.events.len() {
            return Err(format!("a batch of {} events has {}", closing.events, self.events.len()));
        }
        let batch = closing.batch(self.shard, std::mem::take(&mut self.events))?;
        self.forget();
        batch.check()?;
        Ok(Found::Batch(Box::new(batch)))
    }

    /// What belongs to another batch than the one before begins a new one; the one before will never be closed.
    fn belongs_to(&mut self, batch: Uuid) {
        if self.batch != Some(batch) {
            self.forget();
            self.batch = Some(batch);
        }
    }

    fn forget(&mut self) {
        self.batch = None;
        self.pieces.clear();
        self.events.clear();
    }

    fn whole(&mut self, data: &Bytes, pieces: usize) -> Result<Bytes, String> {
        if pieces != self.pieces.len() {
            return Err(format!("{pieces} pieces belong to an entry, {} are there", self.pieces.len()));
        }
        if pieces == 0 {
            return Ok(data.clone());
        }
        Ok(self.pieces.drain(..).collect::<Vec<_>>().concat().into())
    }
}

fn about<T: DeserializeOwned>(entry: &Entry) -> Result<T, String> {
    serde_json::from_slice(&entry.metadata).map_err(|error| format!("the metadata of {} cannot be read ({error})", entry.name))
}

/// The text as JSON that is written as it stands; none when it is no JSON, or has space around it, which would be lost.
fn exact_json(text: &str) -> Option<&RawValue> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    (raw.get().len() == text.len()).then_some(raw)
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value)
        .expect("plain structs of numbers and text have JSON")
        .into()
}

#[derive(Serialize, Deserialize)]
struct Nothing {}

/// What an event's metadata has that the server's own projections know how to read.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Causes {
    correlation_id: Option<String>,
    causation_id: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Belongs {
    batch: Uuid,
    #[serde(default, skip_serializing_if = "is_zero")]
    pieces: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventMetadata<'a> {
    batch: Uuid,
    position: u64,
    kind: Cow<'a, str>,
    id: Uuid,
    sequence: u64,
    version: Cow<'a, str>,
    recorded_at: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pieces: usize,
    #[serde(rename = "$correlationId", default, skip_serializing_if = "Option::is_none")]
    correlation: Option<String>,
    #[serde(rename = "$causationId", default, skip_serializing_if = "Option::is_none")]
    causation: Option<String>,
    metadata: Cow<'a, RawValue>,
}

/// All of a batch but its events.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Closing<'a> {
    epoch: u64,
    first_position: u64,
    events: usize,
    previous_hash: String,
    hash: String,
    orders_numbered: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    records: Vec<WrittenRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    owed: Vec<WrittenEffect<'a>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    settled: Vec<Uuid>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    timers: Vec<WrittenTimer<'a>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    timers_done: Vec<Uuid>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parked: Vec<WrittenParked<'a>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unparked: Vec<WrittenUnparked<'a>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    snapshots: Vec<WrittenSnapshot<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenRecord {
    key: String,
    fingerprint: String,
    position: u64,
    recorded_at: i64,
    answer: String,
}

#[derive(Serialize, Deserialize)]
struct WrittenEffect<'a> {
    id: Uuid,
    effect: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct WrittenTimer<'a> {
    id: Uuid,
    due: i64,
    command: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct WrittenParked<'a> {
    id: Uuid,
    at: i64,
    input: Cow<'a, str>,
    reason: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct WrittenUnparked<'a> {
    id: Uuid,
    at: i64,
    by: Cow<'a, str>,
    how: Unparking,
}

#[derive(Serialize, Deserialize)]
struct WrittenSnapshot<'a> {
    kind: Cow<'a, str>,
    id: Uuid,
    sequence: u64,
    shape: String,
    state: String,
}

impl<'a> Closing<'a> {
    fn of(batch: &'a Batch) -> Result<Self, String> {
        storable(batch)?;
        Ok(Self {
            epoch: batch.epoch,
            first_position: batch.first_position,
            events: batch.events.len(),
            previous_hash: BASE64.encode(batch.previous_hash),
            hash: BASE64.encode(batch.hash),
            orders_numbered: batch.orders_numbered,
            records: batch.records.iter().map(WrittenRecord::of).collect(),
            owed: batch.owed.iter().map(WrittenEffect::of).collect(),
            settled: batch.settled.clone(),
            timers: batch.timers.iter().map(WrittenTimer::of).collect(),
            timers_done: batch.timers_done.clone(),
            parked: batch.parked.iter().map(WrittenParked::of).collect(),
            unparked: batch.unparked.iter().map(WrittenUnparked::of).collect(),
            snapshots: batch.snapshots.iter().map(WrittenSnapshot::of).collect(),
        })
    }

    fn batch(self, shard: u16, events: Vec<Event>) -> Result<Batch, String> {
        let batch = Batch {
            shard,
            epoch: self.epoch,
            first_position: self.first_position,
            events,
            records: self.records.iter().map(WrittenRecord::record).collect::<Result<_, _>>()?,
            owed: self.owed.into_iter().map(WrittenEffect::effect).collect(),
            settled: self.settled,
            timers: self.timers.into_iter().map(WrittenTimer::timer).collect(),
            timers_done: self.timers_done,
            parked: self.parked.into_iter().map(WrittenParked::parked).collect(),
            unparked: self.unparked.into_iter().map(WrittenUnparked::unparked).collect(),
            snapshots: self
                .snapshots
                .into_iter()
                .map(WrittenSnapshot::snapshot)
                .collect::<Result<_, _>>()?,
            orders_numbered: self.orders_numbered,
            previous_hash: array(&self.previous_hash)?,
            hash: array(&self.hash)?,
        };
        storable(&batch)?;
        Ok(batch)
    }
}

impl WrittenRecord {
    fn of(record: &IdempotencyRecord) -> Self {
        Self {
            key: BASE64.encode(record.key.0),
            fingerprint: BASE64.encode(record.fingerprint),
            position: record.position,
            recorded_at: record.recorded_at,
            answer: BASE64.encode(&record.answer),
        }
    }

    fn record(&self) -> Result<IdempotencyRecord, String> {
        Ok(IdempotencyRecord {
            key: RecordKey(array(&self.key)?),
            fingerprint: array(&self.fingerprint)?,
            position: self.position,
            recorded_at: self.recorded_at,
            answer: bytes_of(&self.answer)?.into(),
        })
    }
}

impl<'a> WrittenEffect<'a> {
    fn of(owed: &'a OwedEffect) -> Self {
        Self {
            id: owed.id,
            effect: Cow::Borrowed(&owed.effect),
        }
    }

    fn effect(self) -> OwedEffect {
        OwedEffect {
            id: self.id,
            effect: self.effect.into(),
        }
    }
}

impl<'a> WrittenTimer<'a> {
    fn of(timer: &'a Timer) -> Self {
        Self {
            id: timer.id,
            due: timer.due,
            command: Cow::Borrowed(&timer.command),
        }
    }

    fn timer(self) -> Timer {
        Timer {
            id: self.id,
            due: self.due,
            command: self.command.into(),
        }
    }
}

impl<'a> WrittenParked<'a> {
    fn of(parked: &'a Parked) -> Self {
        Self {
            id: parked.id,
            at: parked.at,
            input: Cow::Borrowed(&parked.input),
            reason: Cow::Borrowed(&parked.reason),
        }
    }

    fn parked(self) -> Parked {
        Parked {
            id: self.id,
            at: self.at,
            input: self.input.into(),
            reason: self.reason.into(),
        }
    }
}

impl<'a> WrittenUnparked<'a> {
    fn of(unparked: &'a Unparked) -> Self {
        Self {
            id: unparked.id,
            at: unparked.at,
            by: Cow::Borrowed(&unparked.by),
            how: unparked.how,
        }
    }

    fn unparked(self) -> Unparked {
        Unparked {
            id: self.id,
            at: self.at,
            by: self.by.into(),
            how: self.how,
        }
    }
}

impl<'a> WrittenSnapshot<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        Self {
            kind: Cow::Borrowed(&snapshot.stream.kind),
            id: snapshot.stream.id,
            sequence: snapshot.sequence,
            shape: BASE64.encode(snapshot.shape),
            state: BASE64.encode(&snapshot.state),
        }
    }

    fn snapshot(self) -> Result<Snapshot, String> {
        Ok(Snapshot {
            stream: StreamId {
                kind: self.kind.into_owned().into(),
                id: self.id,
            },
            sequence: self.sequence,
            shape: array(&self.shape)?,
            state: bytes_of(&self.state)?.into(),
        })
    }
}

/// That the index can hold every number: SQLite counts in i64. What it cannot hold must never come into the stream.
pub(crate) fn storable(batch: &Batch) -> Result<(), String> {
    let largest = [
        batch.epoch,
        batch.first_position.saturating_add(batch.events.len() as u64),
        batch.orders_numbered,
    ]
    .into_iter()
    .chain(batch.events.iter().map(|event| event.sequence))
    .chain(batch.records.iter().map(|record| record.position))
    .chain(batch.snapshots.iter().map(|snapshot| snapshot.sequence))
    .max();
    match largest.map(i64::try_from) {
        Some(Err(_)) => Err("a number is larger than a store counts".into()),
        _ => Ok(()),
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

fn bytes_of(text: &str) -> Result<Vec<u8>, String> {
    BASE64.decode(text).map_err(|error| format!("{error} in a batch"))
}

fn array<const N: usize>(text: &str) -> Result<[u8; N], String> {
    bytes_of(text)?
        .try_into()
        .map_err(|_| "a hash or key in a batch is too short or too long".into())
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
