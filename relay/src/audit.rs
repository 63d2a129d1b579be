//! Compares what the topics hold with a log: every event is there, in the order of its stream, and nothing else.
//!
//! It reads each topic from its beginning to where it ends when it is asked, keeps a number of eight bytes for each event and about a hundred for
//! each stream, and then reads the log page by page.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    thread,
    time::{Duration, Instant},
};

use event_store::{Event, LogReader, StoreError};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    config::FromClientConfigAndContext as _,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError as Cause,
    message::{BorrowedMessage, Headers as _},
};
use uuid::Uuid;

use crate::{
    KafkaError, RelaySettings,
    client::Said,
    record::{self, DEDUPE, REFERENCE},
};

/// How long the brokers may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long until they are asked again.
const AGAIN: Duration = Duration::from_millis(200);

/// Events of the log that are read at once.
const PAGE: usize = 1_000;

/// So many faults are told, and the others counted.
const TOLD: usize = 20;

/// Why nothing was compared.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Kafka cannot be read.
    #[error("{0}")]
    Kafka(#[from] KafkaError),
    /// The log cannot be read.
    #[error("{0}")]
    Log(#[from] StoreError),
}

impl From<Cause> for AuditError {
    fn from(cause: Cause) -> Self {
        Self::Kafka(cause.into())
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Topics that were read.
    pub topics: u64,
    /// Records in them.
    pub records: u64,
    /// Different events among these, by their dedupe key.
    pub distinct: u64,
    /// Records of an event that was there before.
    pub repeated: u64,
    /// Events whose record refers to the log, because they are too large.
    pub referred: u64,
    /// Streams.
    pub streams: u64,
    /// Events of the log.
    pub events: u64,
    /// Records that came before one that precedes them in their stream.
    pub out_of_order: u64,
    /// Records that cannot be understood, or that differ from another one at the same place of their stream.
    pub contradictory: u64,
    /// Events of the log without a record.
    pub missing: u64,
    /// Events whose record says something else.
    pub different: u64,
    /// Events in the topics that the log does not have.
    pub unknown: u64,
    /// The first faults, in words.
    pub faults: Vec<String>,
}

impl Audit {
    /// Whether every event is there, in order, and nothing else.
    pub const fn is_clean(&self) -> bool {
        self.out_of_order == 0 && self.contradictory == 0 && self.missing == 0 && self.different == 0 && self.unknown == 0
    }

    fn fault(&mut self, what: impl FnOnce() -> String) {
        if self.faults.len() < TOLD {
            self.faults.push(what());
        }
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} records in {} topics: {} events of {} streams, {} repeated, {} as references; the log has {} events. ",
            self.records, self.topics, self.distinct, self.streams, self.repeated, self.referred, self.events
        )?;
        if self.is_clean() {
            return f.write_str("Every event is there, in the order of its stream.");
        }
        write!(
            f,
            "Faults: {} out of order, {} contradictory, {} missing, {} different, {} unknown to the log",
            self.out_of_order, self.contradictory, self.missing, self.different, self.unknown
        )?;
        self.faults.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// What an event is known by: its id, its names, its place, and what it says. One number for the whole event, one for its reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digest(u64);

/// What a record says of its event.
struct Content<'a> {
    id: &'a str,
    kind: &'a str,
    version: &'a str,
    shard: u64,
    position: u64,
    /// None: the record refers to the log.
    payload: Option<&'a [u8]>,
}

impl Content<'_> {
    fn digest(&self) -> Digest {
        let mut hasher = DefaultHasher::new();
        (self.id, self.kind, self.version, self.shard, self.position, self.payload).hash(&mut hasher);
        Digest(hasher.finish())
    }
}

/// A stream, as the topics show it: what stands at each of its sequences, from 1 on.
type Stream = Vec<Digest>;

#[derive(Default)]
struct Reading {
    streams: HashMap<u128, Stream>,
    audit: Audit,
}

/// Compares the topics of these settings with the log.
///
/// What is recorded or published while it runs may be missing or unknown: stop the engine, and wait until the relay has no lag.
///
/// # Errors
/// Kafka or the log cannot be read.
pub fn audit(settings: &RelaySettings, log: &dyn LogReader) -> Result<Audit, AuditError> {
    let mut config = settings.kafka.client()?;
    config
        // It joins no group: it reads everything, and remembers no place.
        .set("group.id", "jangbu-audit")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("allow.auto.create.topics", "false");
    let consumer: BaseConsumer<Said> = BaseConsumer::from_config_and_context(&config, Said::default())?;
    let mut reading = Reading::default();
    for (topic, partitions) in topics(settings, &consumer)? {
        reading.audit.topics += 1;
        read(&consumer, &topic, &partitions, &mut reading)?;
    }
    reading.audit.streams = reading.streams.len() as u64;
    compare(log, reading).map_err(AuditError::from)
}

/// The topics of events, with their partitions.
fn topics(settings: &RelaySettings, consumer: &BaseConsumer<Said>) -> Result<Vec<(String, Vec<i32>)>, AuditError> {
    let named: BTreeSet<&String> = settings
        .topics
        .names
        .iter()
        .filter(|(kind, _)| !matches!(kind.as_str(), "parked" | "unpark"))
        .map(|(_, name)| name)
        .collect();
    let metadata = consumer.fetch_metadata(None, PATIENCE)?;
    let is_wanted = |name: &str| {
        let of_events = name.starts_with(&settings.topics.prefix) && name.ends_with("-events");
        of_events || named.iter().any(|wanted| *wanted == name)
    };
    let wanted = metadata.topics().iter().filter(|topic| is_wanted(topic.name()));
    Ok(wanted
        .map(|topic| {
            let partitions = topic.partitions().iter().map(rdkafka::metadata::MetadataPartition::id);
            (topic.name().to_owned(), partitions.collect())
        })
        .collect())
}

/// Reads a topic from its beginning to where it ends now.
fn read(consumer: &BaseConsumer<Said>, topic: &str, partitions: &[i32], reading: &mut Reading) -> Result<(), AuditError> {
    let mut wanted = TopicPartitionList::new();
    let mut left = HashMap::new();
    for partition in partitions {
        let (low, high) = ends(consumer, topic, *partition)?;
        if high > low {
            wanted.add_partition_offset(topic, *partition, Offset::Beginning)?;
            left.insert(*partition, high);
        }
    }
    consumer.assign(&wanted)?;
    let mut heard = Instant::now();
    while !left.is_empty() {
        match consumer.poll(Duration::from_secs(1)) {
            None if heard.elapsed() > PATIENCE => {
                return Err(KafkaError::new(format!("the topic {topic} cannot be read to its end")).into());
            }
            None => {}
            // What ended it may be gone by now: records expire.
            Some(Err(Cause::PartitionEOF(partition))) => {
                left.remove(&partition);
            }
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(message)) => {
                heard = Instant::now();
                if left.get(&message.partition()).is_some_and(|high| message.offset() < *high) {
                    reading.take(topic, &message);
                }
                if left.get(&message.partition()).is_some_and(|high| message.offset() + 1 >= *high) {
                    left.remove(&message.partition());
                }
            }
        }
    }
    consumer.unassign()?;
    Ok(())
}

/// Where a partition begins and ends. One that is being made, or is going to another broker, has no leader for a moment.
fn ends(consumer: &BaseConsumer<Said>, topic: &str, partition: i32) -> Result<(i64, i64), AuditError> {
    let begun = Instant::now();
    loop {
        match consumer.fetch_watermarks(topic, partition, PATIENCE) {
            Ok(ends) => return Ok(ends),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => thread::sleep(AGAIN),
        }
    }
}

impl Reading {
    fn take(&mut self, topic: &str, message: &BorrowedMessage<'_>) {
        self.audit.records += 1;
        let (partition, offset) = (message.partition(), message.offset());
        let place = || format!("{topic} {partition}@{offset}");
        let headers: HashMap<&str, &str> = message
            .headers()
            .into_iter()
            .flat_map(|headers| headers.iter())
            .filter_map(|header| Some((header.key, std::str::from_utf8(header.value?).ok()?)))
            .collect();
        let number = |name| headers.get(name).and_then(|text| text.parse::<u64>().ok());
        let text = |name| headers.get(name).copied();
        let understood = || {
            let mut said = Content {
                id: text(DEDUPE).filter(|id| text("ce_id") == Some(id))?,
                kind: text("ce_type")?,
                version: text("ce_jangbuversion")?,
                shard: number("ce_jangbushard")?,
                position: number("ce_jangbuposition")?,
                payload: if headers.contains_key(REFERENCE) {
                    None
                } else {
                    Some(message.payload()?)
                },
            };
            let key = std::str::from_utf8(message.key()?)
                .ok()
                .filter(|key| text("ce_subject") == Some(key))?;
            let sequence = number("ce_sequence").filter(|sequence| *sequence > 0)?;
            let digest = said.digest();
            said.payload = None;
            Some((stream(key), sequence, digest, said.digest()))
        };
        let Some((stream, sequence, digest, reference)) = understood() else {
            self.audit.contradictory += 1;
            self.audit.fault(|| format!("{}: this is no record of an event", place()));
            return;
        };
        let known = self.streams.entry(stream).or_default();
        let at = usize::try_from(sequence - 1).unwrap_or(usize::MAX);
        if at == known.len() {
            known.push(digest);
            self.audit.distinct += 1;
            self.audit.referred += u64::from(headers.contains_key(REFERENCE));
        } else if let Some(first) = known.get(at) {
            self.audit.repeated += 1;
            // One that was too large once may have found room later, or the other way round.
            if *first != digest && *first != reference && digest != reference {
                self.audit.contradictory += 1;
                self.audit
                    .fault(|| format!("{}: another event was at sequence {sequence} before", place()));
            }
        } else {
            let last = known.len();
            self.audit.out_of_order += 1;
            self.audit
                .fault(|| format!("{}: sequence {sequence} comes when {last} was the last of its stream", place()));
        }
    }
}

/// Reads the log and looks for each of its events.
fn compare(log: &dyn LogReader, reading: Reading) -> Result<Audit, StoreError> {
    let Reading { streams, mut audit } = reading;
    let mut found = 0;
    for shard in log.shards()? {
        let mut after = 0;
        loop {
            let events = log.events(shard, after, PAGE)?;
            let Some(last) = events.last() else { break };
            after = last.position;
            for event in &events {
                audit.events += 1;
                let at = usize::try_from(event.sequence).ok().and_then(|sequence| sequence.checked_sub(1));
                let known = streams.get(&stream(&record::key(event)));
                let place = || format!("shard {shard}, position {}: {} {}", event.position, event.stream, event.sequence);
                match known.zip(at).and_then(|(known, at)| known.get(at)) {
                    None => {
                        audit.missing += 1;
                        audit.fault(|| format!("{} is in no topic", place()));
                    }
                    Some(digest) => {
                        found += 1;
                        if *digest != said(event, Some(event.payload.as_bytes())) && *digest != said(event, None) {
                            audit.different += 1;
                            audit.fault(|| format!("{} is another event in its topic", place()));
                        }
                    }
                }
            }
        }
    }
    audit.unknown = audit.distinct.saturating_sub(found);
    if audit.unknown > 0 {
        let unknown = audit.unknown;
        audit.fault(|| format!("{unknown} events are in the topics, and not in the log"));
    }
    Ok(audit)
}

fn said(event: &Event, payload: Option<&[u8]>) -> Digest {
    Content {
        id: &event.event_id.to_string(),
        kind: &event.event_type,
        version: &event.event_version,
        shard: event.shard.into(),
        position: event.position,
        payload,
    }
    .digest()
}

/// A stream, in sixteen bytes.
fn stream(key: &str) -> u128 {
    // `order-0193...`: the id tells streams apart, the kind those that belong together.
    let mut hasher = DefaultHasher::new();
    let id = key.get(key.len().saturating_sub(36)..).and_then(|id| Uuid::try_parse(id).ok());
    key.hash(&mut hasher);
    id.map_or(0, |id| id.as_u128()) ^ u128::from(hasher.finish())
}
