//! Producers: what is given to them, in which order, and what came of it.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::Counter;
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError as Cause, RDKafkaErrorCode},
    message::{DeliveryResult, Message as _, OwnedHeaders},
    producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer},
};
use uuid::Uuid;

use crate::{
    KafkaError,
    client::Said,
    partition::{self, Seen},
    refusal::Blame,
    settings::RelaySettings,
    signal::Signal,
    topics::{LARGEST_RECORD, Missing, Topics},
};

/// What waits in the client, in KiB.
const BUFFERED_KIB: &str = "65536";

/// A producer whose records are not acknowledged for so long is replaced: brokers forget one that they hear nothing of.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(1);

/// How many bytes are sent together at most: as the client has it, and as little as it is worth making it.
const TOGETHER: u32 = 1_000_000;
const LEAST_TOGETHER: u32 = 16_384;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// An event.
    Event { shard: u16, position: u64 },
    /// An input that was set aside, or its end.
    Parked { shard: u16, id: Uuid },
}

/// A record on its way.
#[derive(Debug)]
pub(crate) struct Sent {
    about: About,
    published: Counter,
}

/// A record that was given back.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) about: About,
    pub(crate) blame: Blame,
    pub(crate) why: String,
}

/// What came of the records since it was asked last.
#[derive(Debug, Default)]
pub(crate) struct Came {
    pub(crate) acknowledged: Vec<About>,
    pub(crate) refused: Vec<Refusal>,
    /// The producer is at its end.
    pub(crate) failed: Option<KafkaError>,
    /// Where something was acknowledged: partitions by topic.
    reached: HashMap<String, HashSet<i32>>,
    ended: usize,
}

/// Why a record was not taken.
#[derive(Debug)]
pub(crate) enum NotTaken {
    /// Answers are to be waited for first: too much is under way, or what precedes it is.
    Full,
    /// It is not known whether its topic is there.
    Away(KafkaError),
    /// This record, or its topic, is the reason.
    Refused { blame: Blame, why: String },
}

impl From<Missing> for NotTaken {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Unknown(error) => Self::Away(error),
            Missing::Topic(error) => Self::Refused {
                blame: Blame::Topic,
                why: error.to_string(),
            },
        }
    }
}

/// Where the client's thread leaves what came of the records.
pub(crate) struct Inbox {
    came: Mutex<Came>,
    said: Said,
    signal: Arc<Signal>,
}

impl ClientContext for Inbox {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.said.log(level, facility, message);
    }

    fn error(&self, error: Cause, reason: &str) {
        self.said.error(error, reason);
        self.signal.came();
    }
}

impl ProducerContext for Inbox {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        let mut came = self.came.lock();
        came.ended += 1;
        match result {
            Ok(message) => {
                sent.published.increment(1);
                came.reach(message.topic(), message.partition());
                came.acknowledged.push(sent.about);
            }
            Err((error, _)) => came.give_back(sent.about, error),
        }
        drop(came);
        self.signal.came();
    }
}

impl Came {
    fn reach(&mut self, topic: &str, partition: i32) {
        if let Some(partitions) = self.reached.get_mut(topic) {
            partitions.insert(partition);
        } else {
            self.reached.insert(topic.to_owned(), HashSet::from([partition]));
        }
    }

    fn give_back(&mut self, about: About, error: &Cause) {
        let blame = Blame::of(error.rdkafka_error_code());
        // The first one is the cause of the others.
        if self.failed.is_none() {
            self.failed = Some(KafkaError::new(error.to_string()));
        }
        if !matches!(blame, Blame::Another) {
            let why = error.to_string();
            self.refused.push(Refusal { about, blame, why });
        }
    }
}

/// How many records are sent together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Together {
    bytes: u32,
    /// One by one, because some were refused: the broker takes or refuses each by itself.
    one_by_one: bool,
    /// Nobody knows yet whether one of those that were refused is too large, or all of them together.
    suspected: bool,
}

impl Default for Together {
    fn default() -> Self {
        Self {
            bytes: TOGETHER,
            one_by_one: false,
            suspected: false,
        }
    }
}

impl Together {
    pub(crate) const fn is_one_by_one(self) -> bool {
        self.one_by_one
    }

    /// Some were refused, and it is to be found which. `for_size`: because there is too much of them.
    pub(crate) const fn separate(&mut self, for_size: bool) {
        self.one_by_one = true;
        self.suspected |= for_size;
    }

    /// One was found that is too large by itself.
    pub(crate) const fn acquit(&mut self) {
        self.suspected = false;
    }

    /// One by one they were taken: together again, and fewer of them if none was too large by itself.
    pub(crate) fn unite(&mut self) {
        if mem::take(&mut self.suspected) {
            self.bytes = (self.bytes / 2).max(LEAST_TOGETHER);
        }
        self.one_by_one = false;
    }
}

/// A producer from its start to its first failure.
pub(crate) struct Publisher {
    producer: ThreadedProducer<Inbox>,
    in_flight: usize,
    seen: Seen,
    /// When it began, or something was acknowledged last.
    answered: Instant,
}

/// What both kinds of producers have in common.
fn config(settings: &RelaySettings) -> Result<ClientConfig, KafkaError> {
    let mut config = settings.kafka.client()?;
    config
        .set("acks", "all")
        .set("max.in.flight", "1")
        .set("request.timeout.ms", "10000")
        .set("message.max.bytes", LARGEST_RECORD.to_string())
        .set("compression.type", settings.compression.name());
    Ok(config)
}

/// The client's settings for events in the order of their streams.
///
/// The producer is idempotent, waits for all replicas, and has no time limit: what is not acknowledged stays in its place until it is, and if
/// the client gives a record up in spite of that, it stops altogether instead of leaving a gap before the next one. After that nobody knows what
/// the broker has and what not, so another one takes its place and begins behind what is acknowledged.
///
/// A broker has one request of its at a time. An idempotent producer may have five, but then a refused one may be followed by one that was on its
/// way already ([`Seen`] says when).
pub(crate) fn in_order(settings: &RelaySettings) -> Result<ClientConfig, KafkaError> {
    let mut config = config(settings)?;
    config
        .set("enable.idempotence", "true")
        .set("enable.gapless.guarantee", "true")
        .set("message.timeout.ms", "0")
        .set("queue.buffering.max.messages", "0")
        .set("queue.buffering.max.kbytes", BUFFERED_KIB)
        .set("linger.ms", "5");
    Ok(config)
}

/// The client's settings for records that each stand for themselves: one that is refused, or not acknowledged in time, is given back, and is
/// nothing to the others.
pub(crate) fn singly(settings: &RelaySettings) -> Result<ClientConfig, KafkaError> {
    let mut config = config(settings)?;
    config
        .set("enable.idempotence", "false")
        .set("message.timeout.ms", "20000")
        .set("batch.num.messages", "1")
        .set("linger.ms", "0");
    Ok(config)
}

impl Publisher {
    /// A producer, and what the broker knows of the topics.
    pub(crate) fn open(config: &ClientConfig, together: Together, topics: &mut Topics, signal: Arc<Signal>) -> Result<Self, KafkaError> {
        let inbox = Inbox {
            came: Mutex::default(),
            said: Said::default(),
            signal,
        };
        let mut config = config.clone();
        if together.one_by_one {
            config.set("batch.num.messages", "1");
        }
        config.set("batch.size", together.bytes.to_string());
        let producer = ThreadedProducer::from_config_and_context(&config, inbox)?;
        topics.look(producer.client()).map_err(|error| {
            // What the client says of its own accord tells more than that it timed out.
            producer.context().said.last().map_or(error, KafkaError::new)
        })?;
        Ok(Self {
            producer,
            in_flight: 0,
            seen: Seen::default(),
            answered: Instant::now(),
        })
    }

    /// How many records are under way.
    pub(crate) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether it waits for so long that brokers may have forgotten it.
    pub(crate) fn is_forgotten(&self) -> bool {
        self.in_flight > 0 && self.answered.elapsed() > FORGOTTEN_AFTER
    }

    /// Sees that a topic is there.
    pub(crate) fn ensure(&self, topics: &mut Topics, topic: &str, settings: &[(&str, &str)]) -> Result<(), Missing> {
        topics.ensure(self.producer.client(), topic, settings)
    }

    /// Gives a record to the client.
    pub(crate) fn send(
        &mut self,
        topic: &str,
        key: &str,
        payload: Option<&[u8]>,
        headers: OwnedHeaders,
        about: About,
        partitions: i32,
    ) -> Result<(), NotTaken> {
        let hash = partition::murmur2(key.as_bytes());
        let partition = partition::of(hash, partitions);
        if !self.seen.lets_go(topic, partition, hash, Instant::now()) {
            return Err(NotTaken::Full);
        }
        let sent = Box::new(Sent {
            about,
            published: metrics::counter!("jangbu_relay_published_total", "topic" => topic.to_owned()),
        });
        let mut record = BaseRecord::with_opaque_to(topic, sent)
            .key(key)
            .headers(headers)
            .partition(partition);
        record.payload = payload;
        match self.producer.send(record) {
            Ok(()) => {
                self.in_flight += 1;
                Ok(())
            }
            Err((error, _)) => {
                self.seen.stays(topic, partition, hash);
                Err(match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::QueueFull) => NotTaken::Full,
                    code => match Blame::of(code) {
                        // The producer is at its end; why is told with what it gives back.
                        Blame::Everything | Blame::Another => NotTaken::Away(error.into()),
                        blame => NotTaken::Refused {
                            blame,
                            why: error.to_string(),
                        },
                    },
                })
            }
        }
    }

    /// What came of the records since it was asked last.
    pub(crate) fn collect(&mut self) -> Came {
        let mut came = mem::take(&mut *self.producer.context().came.lock());
        self.in_flight = self.in_flight.saturating_sub(came.ended);
        let now = Instant::now();
        if !came.acknowledged.is_empty() {
            self.answered = now;
        }
        for (topic, partitions) in mem::take(&mut came.reached) {
            for partition in partitions {
                self.seen.acknowledged(&topic, partition, now);
            }
        }
        if came.failed.is_some()
            && let Some((_, reason)) = self.producer.client().fatal_error()
        {
            came.failed = Some(KafkaError::new(reason));
        }
        came
    }

    /// Why no broker can be reached, if that was noticed since it was asked last.
    pub(crate) fn away(&self) -> Option<String> {
        self.producer.context().said.away()
    }

    /// Whether a broker answers, asked after none could be reached.
    pub(crate) fn answers(&self, topics: &mut Topics) -> bool {
        topics.look(self.producer.client()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_are_sent_together_when_only_together_they_are_too_large() {
        let mut together = Together::default();
        together.separate(true);
        assert!(together.is_one_by_one());
        together.acquit();
        together.unite();
        assert_eq!((together.bytes, together.is_one_by_one()), (TOGETHER, false), "one of them was");
        for _ in 0..20 {
            together.separate(true);
            together.unite();
        }
        assert_eq!(together.bytes, LEAST_TOGETHER);
    }
}
