//! The producer: what is given to it, in which order, and what came of it.

use std::{mem, sync::Arc};

use metrics::Counter;
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError as Cause, RDKafkaErrorCode},
    message::{DeliveryResult, OwnedHeaders},
    producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer},
};
use uuid::Uuid;

use crate::{KafkaError, client::Said, settings::RelaySettings, topics::Topics, worker::Signal};

/// What waits in the client, in KiB.
const BUFFERED_KIB: &str = "65536";

/// The largest record that the client takes; the broker and its topics have limits of their own.
const LARGEST_RECORD: &str = "16000000";

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// An event.
    Event { shard: u16, position: u64 },
    /// An input that was set aside, or its end.
    Parked { id: Uuid },
}

/// A record that the broker has acknowledged.
#[derive(Debug)]
pub(crate) struct Sent {
    about: About,
    published: Counter,
}

/// Why a record was not taken.
#[derive(Debug)]
pub(crate) enum NotTaken {
    /// Too much is waiting.
    Full,
    /// This record cannot be sent.
    Refused(KafkaError),
}

/// Where the client's thread leaves what came of the records.
pub(crate) struct Inbox {
    came: Mutex<Came>,
    said: Said,
    signal: Arc<Signal>,
}

#[derive(Default)]
struct Came {
    acknowledged: Vec<About>,
    failed: Option<Cause>,
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
        match result {
            Ok(_) => {
                sent.published.increment(1);
                came.acknowledged.push(sent.about);
            }
            // The first one is the cause of the others.
            Err((error, _)) => {
                came.failed.get_or_insert_with(|| error.clone());
            }
        }
        drop(came);
        self.signal.came();
    }
}

/// A producer from its start to its first failure. After that nobody knows what the broker has and what not, so another one takes its place
/// and begins behind what is acknowledged.
///
/// It is idempotent, waits for all replicas, and has no time limit: what is not acknowledged stays in its place until it is, and if the client
/// gives a record up in spite of that, it stops altogether instead of leaving a gap before the next one.
///
/// A broker has one request of its at a time. An idempotent producer may have five, but a broker takes the first batch that it sees of a
/// producer whatever its number is: with the one before it refused, or its answer lost on the way to another leader, that leaves a gap.
pub(crate) struct Publisher {
    producer: ThreadedProducer<Inbox>,
    in_flight: usize,
}

/// The client's settings for a producer.
pub(crate) fn config(settings: &RelaySettings) -> Result<ClientConfig, KafkaError> {
    let mut config = settings.kafka.client()?;
    config
        .set("enable.idempotence", "true")
        .set("enable.gapless.guarantee", "true")
        .set("acks", "all")
        .set("max.in.flight", "1")
        .set("message.timeout.ms", "0")
        .set("request.timeout.ms", "10000")
        .set("message.max.bytes", LARGEST_RECORD)
        .set("queue.buffering.max.messages", "0")
        .set("queue.buffering.max.kbytes", BUFFERED_KIB)
        .set("linger.ms", "5")
        .set("compression.type", settings.compression.name())
        // As Kafka's own client does it, so that other programs find a stream's partition.
        .set("partitioner", "murmur2_random");
    Ok(config)
}

impl Publisher {
    /// A producer, and what the broker knows of the topics.
    ///
    /// `one_by_one`: the broker refuses or takes each record by itself, not together with those that are sent with it.
    pub(crate) fn open(config: &ClientConfig, one_by_one: bool, topics: &mut Topics, signal: Arc<Signal>) -> Result<Self, KafkaError> {
        let inbox = Inbox {
            came: Mutex::default(),
            said: Said::default(),
            signal,
        };
        let mut config = config.clone();
        if one_by_one {
            config.set("batch.num.messages", "1");
        }
        let producer = ThreadedProducer::from_config_and_context(&config, inbox)?;
        topics.look(producer.client()).map_err(|error| {
            // What the client says of its own accord tells more than that it timed out.
            producer.context().said.last().map_or(error, KafkaError::new)
        })?;
        Ok(Self { producer, in_flight: 0 })
    }

    /// How many records are under way.
    pub(crate) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Sees that a topic is there.
    pub(crate) fn ensure(&self, topics: &mut Topics, topic: &str, settings: &[(&str, &str)]) -> Result<(), KafkaError> {
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
    ) -> Result<(), NotTaken> {
        let sent = Box::new(Sent {
            about,
            published: metrics::counter!("jangbu_relay_published_total", "topic" => topic.to_owned()),
        });
        let mut record = BaseRecord::with_opaque_to(topic, sent).key(key).headers(headers);
        record.payload = payload;
        match self.producer.send(record) {
            Ok(()) => {
                self.in_flight += 1;
                Ok(())
            }
            Err((error, _)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => Err(NotTaken::Full),
            Err((error, _)) => Err(NotTaken::Refused(error.into())),
        }
    }

    /// What was acknowledged since it was asked last. What comes with an error counts, too.
    pub(crate) fn collect(&mut self) -> (Vec<About>, Result<(), KafkaError>) {
        let Came { acknowledged, failed } = mem::take(&mut *self.producer.context().came.lock());
        self.in_flight = self.in_flight.saturating_sub(acknowledged.len());
        let failed = failed.map(|cause| {
            let fatal = self.producer.client().fatal_error();
            KafkaError::new(fatal.map_or_else(|| cause.to_string(), |(_, reason)| reason))
        });
        (acknowledged, failed.map_or(Ok(()), Err))
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
