//! Topics: there, or made.

use std::{collections::HashMap, time::Duration};

use rdkafka::{
    ClientConfig, ClientContext,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::Client,
    config::FromClientConfigAndContext,
    error::RDKafkaErrorCode,
};
use tokio::runtime::Builder;

use crate::{KafkaError, TopicSettings, client::Said};

/// How long a broker may take to tell what it knows.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take to make a topic.
const PATIENCE_WITH_MAKING: Duration = Duration::from_secs(15);

/// The broker takes its own default.
const DEFAULT_REPLICATION: i32 = -1;

/// The largest record that the client sends, and that a topic which is made here takes. Brokers that are rented take no more.
pub(crate) const LARGEST_RECORD: u32 = 8 << 20;

/// What a topic takes; a broker's own default is 1 MiB.
const LARGEST: &str = "max.message.bytes";

/// Why a topic cannot be used.
#[derive(Debug)]
pub(crate) enum Missing {
    /// The brokers do not tell whether it is there.
    Unknown(KafkaError),
    /// It is not there, and cannot be made.
    Topic(KafkaError),
}

/// The topics that are known to be there.
#[derive(Debug)]
pub(crate) struct Topics {
    settings: TopicSettings,
    client: ClientConfig,
    /// With so many partitions.
    there: HashMap<String, i32>,
}

impl Topics {
    pub(crate) fn new(settings: TopicSettings, client: ClientConfig) -> Self {
        Self {
            settings,
            client,
            there: HashMap::new(),
        }
    }

    /// Asks which are there. Not for a topic by its name: some brokers make what is asked for, with partitions of their own choice.
    pub(crate) fn look(&mut self, kafka: &Client<impl ClientContext>) -> Result<(), KafkaError> {
        let metadata = kafka.fetch_metadata(None, PATIENCE)?;
        let known = metadata.topics().iter();
        self.there = known
            .map(|topic| (topic.name().to_owned(), i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX)))
            .collect();
        Ok(())
    }

    /// Whether a topic was there when it was looked for last.
    pub(crate) fn is_there(&self, topic: &str) -> bool {
        self.there.contains_key(topic)
    }

    /// How many partitions a topic has, as far as it is known.
    pub(crate) fn partitions(&self, topic: &str) -> i32 {
        self.there.get(topic).copied().unwrap_or(1)
    }

    /// Sees that a topic is there, and makes it where that is wanted. `settings` are those of the topic, when it is made.
    pub(crate) fn ensure(&mut self, kafka: &Client<impl ClientContext>, topic: &str, settings: &[(&str, &str)]) -> Result<(), Missing> {
        if self.there.contains_key(topic) {
            return Ok(());
        }
        self.look(kafka).map_err(Missing::Unknown)?;
        if self.there.contains_key(topic) {
            return Ok(());
        }
        if !self.settings.create {
            return Err(Missing::Topic(KafkaError::new(format!("the topic {topic} is not there; make it"))));
        }
        self.make(topic, settings).map_err(|error| {
            let text = format!("the topic {topic} is not there and cannot be made ({error}); make it");
            Missing::Topic(KafkaError::new(text))
        })?;
        // Another may have been quicker, and have made it with more partitions. Not every broker knows it at once.
        self.look(kafka).map_err(Missing::Unknown)?;
        if self.partitions(topic) < 1 || !self.there.contains_key(topic) {
            let text = format!("the topic {topic} was made, and is not known everywhere yet");
            return Err(Missing::Unknown(KafkaError::new(text)));
        }
        tracing::info!(topic, partitions = self.settings.partitions, "a topic was made");
        Ok(())
    }

    /// Makes a topic that takes large records, or one that takes what the broker takes where that is not allowed.
    fn make(&self, name: &str, settings: &[(&str, &str)]) -> Result<(), KafkaError> {
        let largest = LARGEST_RECORD.to_string();
        let all: Vec<_> = settings.iter().copied().chain([(LARGEST, &*largest)]).collect();
        match self.make_with(name, &all)? {
            Some(RDKafkaErrorCode::InvalidConfig | RDKafkaErrorCode::PolicyViolation) => match self.make_with(name, settings)? {
                Some(error) => Err(KafkaError::new(error.to_string())),
                None => Ok(()),
            },
            Some(error) => Err(KafkaError::new(error.to_string())),
            None => Ok(()),
        }
    }

    /// None: it is there now.
    fn make_with(&self, name: &str, settings: &[(&str, &str)]) -> Result<Option<RDKafkaErrorCode>, KafkaError> {
        let admin = AdminClient::from_config_and_context(&self.client, Said::default())?;
        let replication = self.settings.replication.map_or(DEFAULT_REPLICATION, i32::from);
        let mut topic = NewTopic::new(name, self.settings.partitions.max(1).into(), TopicReplication::Fixed(replication));
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        let options = AdminOptions::new()
            .request_timeout(Some(PATIENCE_WITH_MAKING))
            .operation_timeout(Some(PATIENCE_WITH_MAKING));
        let runtime = Builder::new_current_thread()
            .build()
            .map_err(|error| KafkaError::new(format!("no runtime: {error}")))?;
        let made = runtime.block_on(admin.create_topics([&topic], &options))?;
        Ok(match made.into_iter().next() {
            // Another was quicker.
            None | Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => None,
            Some(Err((_, error))) => Some(error),
        })
    }

    /// How a topic is made whose records replace one another by their key.
    pub(crate) const COMPACTED: &'static [(&'static str, &'static str)] = &[("cleanup.policy", "compact")];
}
