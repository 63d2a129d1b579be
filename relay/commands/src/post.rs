//! Records are sent, and nobody waits for them to arrive.

use std::sync::Arc;

use engine::{Inboxes, Message, Transport};
use metrics::Counter;
use rdkafka::{
    client::Client,
    config::FromClientConfigAndContext as _,
    error::RDKafkaErrorCode,
    producer::{BaseRecord, Producer as _, ThreadedProducer},
};

use crate::{
    CommandsSettings, KafkaError,
    client::Connected,
    record::{Record, ReplyTo},
    topics::LARGEST_RECORD,
};

/// Sends records.
pub(crate) struct Post {
    producer: ThreadedProducer<Connected>,
    commands: String,
    replies: String,
    sent: Counter,
}

/// It is larger than what Kafka takes, so it need not be tried again.
#[derive(Debug)]
pub(crate) struct TooLarge;

impl Post {
    pub(crate) fn new(settings: &CommandsSettings) -> Result<Self, KafkaError> {
        let mut config = settings.kafka.client()?;
        config
            // What is lost with a broker is sent again, so nobody waits for its replicas.
            .set("acks", "1")
            .set("linger.ms", settings.linger.as_millis().to_string())
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536")
            .set("message.timeout.ms", "5000")
            .set("message.max.bytes", LARGEST_RECORD.to_string())
            .set("statistics.interval.ms", "1000");
        Ok(Self {
            producer: ThreadedProducer::from_config_and_context(&config, Connected::new())?,
            commands: settings.commands_topic(),
            replies: settings.replies_topic(),
            sent: metrics::counter!("jangbu_transport_sent_total"),
        })
    }

    /// To the engine of a shard.
    pub(crate) fn to_shard(&self, shard: u16, record: &Record) -> Result<(), TooLarge> {
        self.put(&self.commands, i32::from(shard), &shard.to_be_bytes(), record)
    }

    /// To who asked.
    pub(crate) fn to_asker(&self, asker: ReplyTo, record: &Record) -> Result<(), TooLarge> {
        self.put(&self.replies, asker.partition, asker.node.as_bytes(), record)
    }

    pub(crate) fn client(&self) -> &Client<Connected> {
        self.producer.client()
    }

    fn put(&self, topic: &str, partition: i32, key: &[u8], record: &Record) -> Result<(), TooLarge> {
        let json = match serde_json::to_vec(record) {
            Ok(json) => json,
            Err(error) => {
                tracing::error!(topic, error = ?error.classify(), "a record could not be written");
                return Ok(());
            }
        };
        let queued = self
            .producer
            .send(BaseRecord::to(topic).partition(partition).key(key).payload(&json));
        let Err((error, _)) = queued else {
            self.sent.increment(1);
            return Ok(());
        };
        self.producer.context().lost.increment(1);
        tracing::debug!(%error, topic, bytes = json.len(), "a record is not sent");
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => Err(TooLarge),
            // A full queue, or a topic that is not there: it is sent again.
            _ => Ok(()),
        }
    }
}

/// Messages from shard to shard.
pub(crate) struct ToShards(pub(crate) Arc<Post>);

impl Transport for ToShards {
    fn send(&self, message: Message, here: &Inboxes) {
        let Err(message) = here.deliver(message) else { return };
        let shard = message.to;
        if self.0.to_shard(shard, &Record::message(message, here)).is_err() {
            tracing::error!(shard, "a message is larger than what Kafka takes: it stays owed");
        }
    }
}
