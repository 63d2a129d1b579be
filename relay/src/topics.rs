//! Topics: there, or made.

use std::{collections::HashSet, time::Duration};

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

/// The topics that are known to be there.
#[derive(Debug)]
pub(crate) struct Topics {
    settings: TopicSettings,
    client: ClientConfig,
    there: HashSet<String>,
}

impl Topics {
    pub(crate) fn new(settings: TopicSettings, client: ClientConfig) -> Self {
        Self {
            settings,
            client,
            there: HashSet::new(),
        }
    }

    /// Asks which are there. Not for a topic by its name: some brokers make what is asked for, with partitions of their own choice.
    pub(crate) fn look(&mut self, kafka: &Client<impl ClientContext>) -> Result<(), KafkaError> {
        let metadata = kafka.fetch_metadata(None, PATIENCE)?;
        self.there = metadata.topics().iter().map(|topic| topic.name().to_owned()).collect();
        Ok(())
    }

    /// Sees that a topic is there, and makes it where that is wanted. `settings` are those of the topic, when it is made.
    pub(crate) fn ensure(&mut self, kafka: &Client<impl ClientContext>, topic: &str, settings: &[(&str, &str)]) -> Result<(), KafkaError> {
        if self.there.contains(topic) {
            return Ok(());
        }
        self.look(kafka)?;
        if self.there.contains(topic) {
            return Ok(());
        }
        if !self.settings.create {
            return Err(KafkaError::new(format!("the topic {topic} is not there; make it")));
        }
        self.make(topic, settings)
            .map_err(|error| KafkaError::new(format!("the topic {topic} is not there and cannot be made ({error}); make it")))?;
        self.there.insert(topic.to_owned());
        tracing::info!(topic, partitions = self.settings.partitions, "a topic was made");
        Ok(())
    }

    fn make(&self, name: &str, settings: &[(&str, &str)]) -> Result<(), KafkaError> {
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
        match made.into_iter().next() {
            // Another was quicker.
            None | Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            Some(Err((_, error))) => Err(KafkaError::new(error.to_string())),
        }
    }

    /// How a topic is made whose records replace one another by their key.
    pub(crate) const COMPACTED: &'static [(&'static str, &'static str)] = &[("cleanup.policy", "compact")];
}
