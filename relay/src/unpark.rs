//! What operators decide in Kafka on inputs that were set aside.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use rdkafka::{
    Message as _,
    config::{ClientConfig, FromClientConfigAndContext},
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext},
    message::BorrowedMessage,
};
use serde::Deserialize;
use uuid::Uuid;

pub use event_store::Unparking;

use crate::{
    KafkaError, KafkaSettings, TopicSettings,
    client::{self, Said},
    signal::Signal,
    topics::Topics,
};

/// How long it waits for a record before it looks whether it is to stop.
const LOOKED_EVERY: Duration = Duration::from_millis(100);

/// How long to wait before something is tried again: at first, and at most.
const AGAIN: Duration = Duration::from_millis(200);
const AGAIN_AT_MOST: Duration = Duration::from_secs(5);

/// What an operator decides about an input that was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The input.
    pub id: Uuid,
    /// Tried again, or given up.
    pub how: Unparking,
}

/// Why a decision was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotUnparked {
    /// No such input is known here.
    #[error("no such input is set aside")]
    Unknown,
    /// It was refused, and changes nothing: the input stays set aside, or has come to another end.
    #[error("{0}")]
    Refused(String),
    /// Nobody could decide; it is tried again until somebody can.
    #[error("{0}")]
    Unavailable(String),
}

/// Who carries out decisions: the engine. A decision may come more than once, and what was carried out before is done.
pub trait Unparker: Send + Sync {
    /// Tries an input again, or gives it up.
    ///
    /// # Errors
    /// Why that was not done.
    fn unpark(&self, decision: Decision) -> Result<(), NotUnparked>;
}

/// Where the decisions come from.
#[derive(Clone, Debug)]
pub struct UnparkSettings {
    /// How Kafka is reached.
    pub kafka: KafkaSettings,
    /// What the topic is called.
    pub topics: TopicSettings,
    /// The consumer group. A decision goes to one member of it, so engines that hold different shards have groups of their own.
    pub group: String,
}

impl UnparkSettings {
    /// The usual ones, for this Kafka.
    pub fn new(kafka: KafkaSettings) -> Self {
        Self {
            kafka,
            topics: TopicSettings::default(),
            group: "jangbu-unpark".into(),
        }
    }
}

/// Takes decisions from Kafka to the engine, as a thread of its own, until it is stopped or dropped.
#[derive(Debug)]
pub struct Decisions {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl Decisions {
    /// Starts it. That Kafka cannot be reached is no error: it waits.
    ///
    /// # Errors
    /// The settings cannot be used; the text says which.
    pub fn start(settings: &UnparkSettings, unparker: Arc<dyn Unparker>) -> Result<Self, KafkaError> {
        let signal = Arc::new(Signal::default());
        let worker = Worker {
            client: config(settings)?,
            topics: Topics::new(settings.topics.clone(), settings.kafka.client()?),
            topic: settings.topics.unpark(),
            unparker,
            signal: Arc::clone(&signal),
            said: false,
        };
        client::try_out(&worker.client)?;
        let thread = thread::Builder::new().name("relay-unpark".into()).spawn(move || worker.run());
        Ok(Self {
            signal,
            thread: Some(thread.map_err(|error| KafkaError::no_thread(&error))?),
        })
    }

    /// Stops it, when what it is about to carry out is done.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.signal.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("what takes decisions from Kafka has ended by a panic");
        }
    }
}

impl Drop for Decisions {
    fn drop(&mut self) {
        self.end();
    }
}

fn config(settings: &UnparkSettings) -> Result<ClientConfig, KafkaError> {
    let mut config = settings.kafka.client()?;
    config
        .set("group.id", &settings.group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false");
    Ok(config)
}

impl ConsumerContext for Said {}

struct Worker {
    client: ClientConfig,
    topics: Topics,
    topic: String,
    unparker: Arc<dyn Unparker>,
    signal: Arc<Signal>,
    /// Whether it was said that Kafka cannot be used.
    said: bool,
}

/// A record, as it is written by people and scripts.
#[derive(Deserialize)]
struct Asked {
    id: Uuid,
    action: Action,
}

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Action {
    Retry,
    Drop,
}

impl Worker {
    fn run(mut self) {
        let mut again = AGAIN;
        while !self.signal.is_stopped() {
            match self.consume() {
                Ok(()) => again = AGAIN,
                Err(error) => {
                    metrics::counter!("jangbu_relay_errors_total").increment(1);
                    if !self.said {
                        tracing::warn!(topic = %self.topic, %error, "decisions on inputs that were set aside do not come from Kafka");
                        self.said = true;
                    }
                    self.signal.rest(again);
                    again = (again * 2).min(AGAIN_AT_MOST);
                }
            }
        }
    }

    /// Takes decisions until it is stopped, or Kafka fails.
    fn consume(&mut self) -> Result<(), KafkaError> {
        let consumer: BaseConsumer<Said> = BaseConsumer::from_config_and_context(&self.client, Said::default())?;
        self.topics.ensure(consumer.client(), &self.topic, &[])?;
        consumer.subscribe(&[&self.topic])?;
        if std::mem::take(&mut self.said) {
            tracing::info!(topic = %self.topic, "decisions on inputs that were set aside come from Kafka again");
        }
        while !self.signal.is_stopped() {
            let Some(record) = consumer.poll(LOOKED_EVERY) else { continue };
            let record = record?;
            if self.carry_out(&record) {
                consumer.commit_message(&record, CommitMode::Sync)?;
            }
        }
        Ok(())
    }

    /// False: it is stopped before the decision could be carried out, so it comes again.
    fn carry_out(&self, record: &BorrowedMessage<'_>) -> bool {
        let (partition, offset) = (record.partition(), record.offset());
        let Some(decision) = record.payload().and_then(parsed) else {
            tracing::warn!(topic = %self.topic, partition, offset, "this is no decision; write {{\"id\": ID, \"action\": \"RETRY\" or \"DROP\"}}");
            return true;
        };
        let Decision { id, how } = decision;
        let mut again = AGAIN;
        loop {
            match self.unparker.unpark(decision) {
                Ok(()) => tracing::info!(%id, how = how.name(), "an input that was set aside has come to its end"),
                Err(NotUnparked::Unknown) => tracing::info!(%id, "no such input is set aside here"),
                Err(NotUnparked::Refused(reason)) => {
                    tracing::warn!(%id, how = how.name(), %reason, "a decision on an input that was set aside changes nothing");
                }
                Err(NotUnparked::Unavailable(reason)) => {
                    tracing::debug!(%id, %reason, "a decision waits");
                    self.signal.rest(again);
                    again = (again * 2).min(AGAIN_AT_MOST);
                    if self.signal.is_stopped() {
                        return false;
                    }
                    continue;
                }
            }
            return true;
        }
    }
}

fn parsed(text: &[u8]) -> Option<Decision> {
    let Asked { id, action } = serde_json::from_slice(text).ok()?;
    let how = match action {
        Action::Retry => Unparking::Retried,
        Action::Drop => Unparking::Dropped,
    };
    Some(Decision { id, how })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_names_an_input_and_what_becomes_of_it() {
        let id = Uuid::from_u128(7);
        let text = |action: &str| format!(r#"{{"id":"{id}","action":"{action}","note":"by hand"}}"#).into_bytes();
        assert_eq!(
            parsed(&text("RETRY")),
            Some(Decision {
                id,
                how: Unparking::Retried
            })
        );
        assert_eq!(
            parsed(&text("DROP")),
            Some(Decision {
                id,
                how: Unparking::Dropped
            })
        );
        assert_eq!(parsed(&text("drop")), None);
        assert_eq!(parsed(b""), None);
        assert_eq!(parsed(b"{}"), None);
    }
}
