//! The thread that shows inputs which were set aside: what the topic holds is compared with what the log holds, and what differs is published.
//!
//! It has a producer of its own, so that whatever becomes of its records is nothing to the events. And it reads its topic: only there stands what
//! readers have been shown, by this relay or another, before a restart or after.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use event_store::{EventStore, LogReader, Parked};
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    config::FromClientConfigAndContext as _,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError as Cause,
    message::{Headers as _, OwnedHeaders},
};
use uuid::Uuid;

use crate::{
    KafkaError, RelaySettings,
    client::Said,
    parked,
    publisher::{self, About, NotTaken, Publisher, Refusal, Together},
    refusal::Blame,
    signal::Signal,
    standing::State,
    topics::{PATIENCE, Topics},
    trouble::Trouble,
};

/// How often it looks what was set aside.
const LOOKED_EVERY: Duration = Duration::from_secs(1);

/// The most inputs that are shown of each shard: the oldest.
const MOST: usize = 1_000;

/// The most that are kept in mind as shown. What the topic shows beyond is left as it is.
const MOST_SHOWN: usize = 100_000;

/// How many are asked for one by one, in a shard where more are set aside than are read at once.
const ASKED_AT_ONCE: usize = 100;

/// How long to wait before something is tried again: at first, and at most.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_mins(1);

/// How long the topic's end may be in coming while nothing else comes.
const SILENT_FOR: Duration = Duration::from_secs(30);

/// How long a record may be on its way; the client gives it back before.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(40);

/// The topic, as it is read.
struct Topic {
    consumer: BaseConsumer<Said>,
    partitions: i32,
    /// Read to their end.
    ended: HashSet<i32>,
}

/// A record that Kafka refuses.
#[derive(Debug)]
struct PutOff {
    shard: u16,
    again: Instant,
    wait: Duration,
    /// It goes without the input, which is too large.
    bare: bool,
}

/// What the topic shows.
#[derive(Debug, Default)]
struct Shown {
    /// As set aside, in this shard.
    inputs: BTreeMap<Uuid, u16>,
    /// Acknowledged, and not read yet: whether it is an end.
    awaited: HashMap<Uuid, bool>,
}

impl Shown {
    /// A record that was read. One without a shard says that it is set aside no more.
    fn read(&mut self, id: Uuid, shard: Option<u16>) {
        if self.awaited.get(&id) == Some(&shard.is_none()) {
            self.awaited.remove(&id);
        }
        match shard {
            Some(shard) if self.inputs.len() < MOST_SHOWN || self.inputs.contains_key(&id) => {
                self.inputs.insert(id, shard);
            }
            Some(_) => {}
            None => {
                self.inputs.remove(&id);
            }
        }
    }
}

pub(crate) struct Shelf {
    store: Arc<dyn EventStore>,
    signal: Arc<Signal>,
    told: Arc<Mutex<State>>,
    topics: Topics,
    name: String,
    producing: ClientConfig,
    consuming: ClientConfig,
    reader: Option<Box<dyn LogReader>>,
    publisher: Option<Publisher>,
    topic: Option<Topic>,
    origin: Option<String>,
    shown: Shown,
    put_off: HashMap<Uuid, PutOff>,
    /// Where it asks on, of inputs that may have ended.
    asked: Uuid,
    again: Duration,
}

impl Shelf {
    pub(crate) fn new(
        settings: &RelaySettings,
        store: Arc<dyn EventStore>,
        signal: Arc<Signal>,
        told: Arc<Mutex<State>>,
    ) -> Result<Self, KafkaError> {
        let mut consuming = settings.kafka.client()?;
        consuming
            // It joins no group: it reads everything, and remembers no place.
            .set("group.id", "jangbu-relay")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("allow.auto.create.topics", "false");
        Ok(Self {
            store,
            signal,
            told,
            topics: Topics::new(settings.topics.clone(), settings.kafka.client()?),
            name: settings.topics.parked(),
            producing: publisher::singly(settings)?,
            consuming,
            reader: None,
            publisher: None,
            topic: None,
            origin: settings.source.clone(),
            shown: Shown::default(),
            put_off: HashMap::new(),
            asked: Uuid::nil(),
            again: AGAIN,
        })
    }

    pub(crate) fn run(mut self) {
        while !self.signal.is_stopped() {
            match self.turn() {
                Ok(()) => {
                    self.again = AGAIN;
                    self.tell(None);
                    self.signal.rest(LOOKED_EVERY);
                }
                Err(trouble) => {
                    self.fail(&trouble);
                    self.signal.rest(self.again);
                    self.again = (self.again * 2).min(AGAIN_AT_MOST);
                }
            }
        }
    }

    fn turn(&mut self) -> Result<(), Trouble> {
        let shards = self.told.lock().publishes.clone();
        if shards.is_empty() {
            return Ok(());
        }
        self.put_off.retain(|_, put_off| shards.contains(&put_off.shard));
        self.open()?;
        self.read_topic()?;
        for shard in shards {
            self.show(shard)?;
        }
        self.collect()
    }

    fn open(&mut self) -> Result<(), Trouble> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => none.insert(self.store.reader()?),
        };
        if self.origin.is_none() {
            let mut shards = reader.shards()?.into_iter();
            let head = shards.next().map(|shard| reader.head(shard)).transpose()?.flatten();
            self.origin = head.map(|head| format!("/jangbu/{}", head.log_id));
        }
        if self.publisher.is_none() {
            self.publisher = Some(Publisher::open(
                &self.producing,
                Together::default(),
                &mut self.topics,
                Arc::clone(&self.signal),
            )?);
        }
        if self.topic.is_none() && self.topics.is_there(&self.name) {
            self.shown = Shown::default();
            self.topic = Some(self.begin_reading()?);
        }
        Ok(())
    }

    fn begin_reading(&self) -> Result<Topic, Trouble> {
        let consumer: BaseConsumer<Said> = BaseConsumer::from_config_and_context(&self.consuming, Said::default())?;
        let metadata = consumer.fetch_metadata(Some(&self.name), PATIENCE)?;
        let mut wanted = TopicPartitionList::new();
        for partition in metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions) {
            wanted.add_partition_offset(&self.name, partition.id(), Offset::Beginning)?;
        }
        if wanted.count() == 0 {
            return Err(KafkaError::new(format!("the topic {} has no partitions that can be read", self.name)).into());
        }
        consumer.assign(&wanted)?;
        Ok(Topic {
            consumer,
            partitions: i32::try_from(wanted.count()).unwrap_or(i32::MAX),
            ended: HashSet::new(),
        })
    }

    /// Reads what has come; the first time all there is.
    fn read_topic(&mut self) -> Result<(), Trouble> {
        let Some(topic) = &mut self.topic else { return Ok(()) };
        let is_read = |topic: &Topic| i32::try_from(topic.ended.len()).is_ok_and(|ended| ended >= topic.partitions);
        let mut silent_since = Instant::now();
        while !self.signal.is_stopped() {
            let patience = if is_read(topic) {
                Duration::ZERO
            } else {
                Duration::from_millis(100)
            };
            match topic.consumer.poll(patience) {
                None if is_read(topic) => return Ok(()),
                None if silent_since.elapsed() > SILENT_FOR => {
                    return Err(KafkaError::new(format!("the topic {} cannot be read to its end", self.name)).into());
                }
                None => {}
                Some(Err(Cause::PartitionEOF(partition))) => {
                    topic.ended.insert(partition);
                }
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(message)) => {
                    silent_since = Instant::now();
                    let Some(id) = message.key().and_then(|key| Uuid::try_parse_ascii(key).ok()) else {
                        continue;
                    };
                    let ours = || {
                        let mut headers = message.headers().into_iter().flat_map(|headers| headers.iter());
                        headers.any(|header| header.key == "ce_source" && header.value == self.origin.as_deref().map(str::as_bytes))
                    };
                    match message.payload() {
                        None => self.shown.read(id, None),
                        Some(text) if ours() => {
                            if let Some(shard) = parked::shard_of(text) {
                                self.shown.read(id, Some(shard));
                            }
                        }
                        Some(_) => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Publishes what of a shard was set aside and is not shown, and the ends of what is shown.
    fn show(&mut self, shard: u16) -> Result<(), Trouble> {
        let Some(reader) = &self.reader else { return Ok(()) };
        let parked = reader.parked(shard, MOST)?;
        let ended = self.ended(shard, &parked)?;
        let now = Instant::now();
        let may_go = |id: &Uuid| !self.shown.awaited.contains_key(id) && self.put_off.get(id).is_none_or(|put_off| put_off.again <= now);
        let unseen: Vec<&Parked> = parked
            .iter()
            .filter(|parked| !self.shown.inputs.contains_key(&parked.id) && may_go(&parked.id))
            .collect();
        let ended: Vec<Uuid> = ended.into_iter().filter(may_go).collect();
        if unseen.is_empty() && ended.is_empty() {
            return Ok(());
        }
        let (Some(publisher), Some(origin)) = (&mut self.publisher, &self.origin) else {
            return Ok(());
        };
        publisher
            .ensure(&mut self.topics, &self.name, Topics::COMPACTED)
            .map_err(KafkaError::from)?;
        let partitions = self.topics.partitions(&self.name);
        for parked in unseen {
            let bare = self.put_off.get(&parked.id).is_some_and(|put_off| put_off.bare);
            let (headers, text) = parked::record(shard, parked, origin, bare);
            match publisher.send(
                &self.name,
                &parked.id.to_string(),
                Some(&text),
                headers,
                About::Parked { shard, id: parked.id },
                partitions,
            ) {
                Ok(()) => self.shown.awaited.insert(parked.id, false).map_or((), drop),
                Err(NotTaken::Full) => break,
                Err(NotTaken::Away(error)) => return Err(error.into()),
                Err(NotTaken::Refused { blame, why }) => put_off(&mut self.put_off, shard, parked.id, blame, &why),
            }
        }
        for id in ended {
            // Nothing under its key: it is set aside no more.
            match publisher.send(
                &self.name,
                &id.to_string(),
                None,
                OwnedHeaders::new(),
                About::Parked { shard, id },
                partitions,
            ) {
                Ok(()) => self.shown.awaited.insert(id, true).map_or((), drop),
                Err(NotTaken::Full) => break,
                Err(NotTaken::Away(error)) => return Err(error.into()),
                Err(NotTaken::Refused { blame, why }) => put_off(&mut self.put_off, shard, id, blame, &why),
            }
        }
        Ok(())
    }

    /// Of what is shown, what has come to its end.
    fn ended(&mut self, shard: u16, parked: &[Parked]) -> Result<Vec<Uuid>, Trouble> {
        let Some(reader) = &self.reader else { return Ok(Vec::new()) };
        let still: BTreeSet<Uuid> = parked.iter().map(|parked| parked.id).collect();
        let shown = self.shown.inputs.iter().filter(|(_, of)| **of == shard).map(|(id, _)| *id);
        let mut gone = shown.filter(|id| !still.contains(id));
        if parked.len() < MOST {
            let is_there = |id: &Uuid| still.contains(id) || self.shown.inputs.contains_key(id);
            self.put_off.retain(|id, put_off| put_off.shard != shard || is_there(id));
            return Ok(gone.take(MOST).collect());
        }
        // There may be more that are set aside than were read.
        let some: Vec<Uuid> = gone.by_ref().filter(|id| *id > self.asked).take(ASKED_AT_ONCE).collect();
        self.asked = some.last().copied().unwrap_or_default();
        let mut ended = Vec::new();
        for id in some {
            if reader.parked_input(shard, id)?.is_none() {
                ended.push(id);
            }
        }
        Ok(ended)
    }

    /// Waits for what the broker says.
    fn collect(&mut self) -> Result<(), Trouble> {
        let begun = Instant::now();
        let mut is_spent = false;
        while let Some(publisher) = &mut self.publisher {
            let came = publisher.collect();
            for about in &came.acknowledged {
                if let About::Parked { id, .. } = about {
                    self.put_off.remove(id);
                }
            }
            for Refusal { about, blame, why } in &came.refused {
                if let About::Parked { shard, id } = about {
                    self.shown.awaited.remove(id);
                    put_off(&mut self.put_off, *shard, *id, *blame, why);
                }
            }
            is_spent |= came.failed.is_some();
            if publisher.in_flight() == 0 {
                break;
            }
            if begun.elapsed() > ACKNOWLEDGED_WITHIN {
                return Err(KafkaError::new("the brokers do not say what became of records").into());
            }
            self.signal.wait_for_answers(Duration::from_millis(100));
            if self.signal.is_stopped() {
                break;
            }
        }
        if is_spent {
            // It may remember what it was refused, and what was given back may be in the topic all the same: it is read anew.
            self.let_go();
        } else if self.topic.is_none() && !self.shown.awaited.is_empty() {
            // It was made for these: from now on it is read.
            self.shown = Shown::default();
            self.topic = Some(self.begin_reading()?);
            self.read_topic()?;
        }
        Ok(())
    }

    fn let_go(&mut self) {
        self.publisher = None;
        self.topic = None;
        self.shown = Shown::default();
    }

    fn fail(&mut self, trouble: &Trouble) {
        metrics::counter!("jangbu_relay_errors_total").increment(1);
        match trouble {
            Trouble::Log(_) => self.reader = None,
            Trouble::Kafka(_) => self.let_go(),
        }
        self.tell(Some(trouble.to_string()));
    }

    /// Says what stands in the way, each thing once.
    fn tell(&self, trouble: Option<String>) {
        let refused = || match self.put_off.len() {
            0 => None,
            some => Some(format!("{some} of them are refused by {}", self.name)),
        };
        let line = trouble
            .or_else(refused)
            .map(|what| format!("inputs that were set aside are not published: {what}"));
        #[allow(clippy::cast_precision_loss, reason = "a gauge is a float, and exact up to 2^53")]
        metrics::gauge!("jangbu_relay_held_parked").set(self.put_off.len() as f64);
        let mut told = self.told.lock();
        // Who cannot reach Kafka at all has said so.
        let is_said = told.hindrance.is_some();
        let said = std::mem::replace(&mut told.parked, line.clone());
        drop(told);
        match (said, line) {
            (None, Some(line)) if is_said => tracing::debug!("{line}"),
            (None, Some(line)) => tracing::warn!("{line}"),
            (Some(_), None) => tracing::info!("inputs that were set aside are published again"),
            _ => {}
        }
    }
}

/// One that was refused is tried again later, and later still. It keeps back no other.
fn put_off(all: &mut HashMap<Uuid, PutOff>, shard: u16, id: Uuid, blame: Blame, why: &str) {
    metrics::counter!("jangbu_relay_errors_total").increment(1);
    let now = Instant::now();
    let put_off = all.entry(id).or_insert_with(|| {
        tracing::warn!(shard, %id, why, "an input that was set aside is refused by its topic; it is tried again");
        PutOff {
            shard,
            again: now,
            wait: AGAIN,
            bare: false,
        }
    });
    if blame == Blame::Size && !put_off.bare {
        put_off.bare = true;
        return;
    }
    put_off.again = now + put_off.wait;
    put_off.wait = (put_off.wait * 2).min(AGAIN_AT_MOST);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_awaited_until_it_is_read() {
        let mut shown = Shown::default();
        let id = Uuid::from_u128(1);
        shown.awaited.insert(id, true);
        shown.read(id, Some(3));
        assert!(shown.awaited.contains_key(&id), "that was before its end");
        shown.read(id, None);
        assert!(shown.awaited.is_empty() && shown.inputs.is_empty());
    }

    #[test]
    fn what_is_refused_waits_longer_each_time_and_what_is_too_large_goes_without_its_input() {
        let mut all = HashMap::new();
        let id = Uuid::from_u128(1);
        put_off(&mut all, 0, id, Blame::Size, "too large");
        assert!(all[&id].bare && all[&id].again <= Instant::now());
        put_off(&mut all, 0, id, Blame::Size, "still too large");
        put_off(&mut all, 0, id, Blame::Topic, "not allowed");
        assert!(all[&id].again > Instant::now() && all[&id].wait == AGAIN * 4);
    }
}
