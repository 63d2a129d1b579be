//! The two topics: there as they have to be, or made.

use std::{
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::Client,
    config::FromClientConfigAndContext as _,
    error::RDKafkaErrorCode,
    metadata::{Metadata, MetadataTopic},
};
use tokio::runtime::Builder;

use crate::{CommandsSettings, KafkaError, client::Connected};

/// How long a broker may take to tell what it knows.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether a topic has its leaders.
const LOOKED_EVERY: Duration = Duration::from_millis(50);

/// How long it may take to make a topic.
const PATIENCE_WITH_MAKING: Duration = Duration::from_secs(5);

/// In how many partitions answers are kept apart: an API node reads one of them.
pub(crate) const REPLY_PARTITIONS: u16 = 16;

/// What is older than that nobody waits for.
const KEPT: &str = "3600000";

/// The most bytes of a record. An aggregate has grown long before its state is as large.
pub(crate) const LARGEST_RECORD: u32 = 8 * 1024 * 1024;

/// Sees that both topics are there, with as many partitions as they need, each with a leader.
pub(crate) fn ensure(settings: &CommandsSettings, kafka: &Client<Connected>) -> Result<(), KafkaError> {
    let (commands, replies) = (settings.commands_topic(), settings.replies_topic());
    let shards = settings.shards.count();
    let wanted = [(&commands, shards), (&replies, REPLY_PARTITIONS)];
    let metadata = known(kafka)?;
    for (name, partitions) in wanted {
        match found(&metadata, name) {
            Some(topic) if *name == commands && topic.partitions().len() != usize::from(shards) => {
                let partitions = topic.partitions().len().to_string();
                return Err(KafkaError::new(other_partitions(name, &partitions, shards)));
            }
            // Who wants another number of partitions for the answers may have it, but for fewer than are written to.
            Some(topic) if topic.partitions().len() < usize::from(partitions) => {
                return Err(KafkaError::new(format!(
                    "the topic {name} has {} partitions and needs {partitions}: add some",
                    topic.partitions().len()
                )));
            }
            Some(_) => {}
            None => make(settings, name, partitions)?,
        }
    }
    wait_for_leaders(kafka, &[&commands, &replies])
}

/// Not by their names: some brokers make what is asked for, with partitions of their own choice.
fn known(kafka: &Client<Connected>) -> Result<Metadata, KafkaError> {
    Ok(kafka.fetch_metadata(None, PATIENCE)?)
}

fn found<'a>(metadata: &'a Metadata, name: &str) -> Option<&'a MetadataTopic> {
    metadata.topics().iter().find(|topic| topic.name() == name)
}

/// One that was just made has none for a moment.
fn wait_for_leaders(kafka: &Client<Connected>, topics: &[&String]) -> Result<(), KafkaError> {
    let begun = Instant::now();
    loop {
        let metadata = known(kafka)?;
        let is_led = |topic: &MetadataTopic| topic.partitions().iter().all(|partition| partition.leader() >= 0);
        let Some(without) = topics.iter().find(|name| !found(&metadata, name).is_some_and(is_led)) else {
            return Ok(());
        };
        if begun.elapsed() > PATIENCE {
            return Err(KafkaError::new(format!("the topic {without} has partitions without a leader")));
        }
        thread::sleep(LOOKED_EVERY);
    }
}

/// Each shard has its partition, and the log keeps its shards.
pub(crate) fn other_partitions(topic: &str, partitions: &str, shards: u16) -> String {
    format!("the topic {topic} has {partitions} partitions, but the log {shards} shards: delete the topic, it is made anew")
}

fn make(settings: &CommandsSettings, name: &str, partitions: u16) -> Result<(), KafkaError> {
    if !settings.topics.create {
        return Err(KafkaError::new(format!(
            "the topic {name} is not there; make it with {partitions} partitions"
        )));
    }
    let admin = AdminClient::from_config_and_context(&settings.kafka.client()?, Connected::new())?;
    // The broker takes its own default.
    let replication = settings.topics.replication.map_or(-1, i32::from);
    let largest = LARGEST_RECORD.to_string();
    let topic = NewTopic::new(name, partitions.into(), TopicReplication::Fixed(replication))
        .set("retention.ms", KEPT)
        .set("max.message.bytes", &largest);
    let options = AdminOptions::new()
        .request_timeout(Some(PATIENCE_WITH_MAKING))
        .operation_timeout(Some(PATIENCE_WITH_MAKING));
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|error| KafkaError::new(format!("no runtime: {error}")))?;
    let made = runtime.block_on(admin.create_topics([&topic], &options))?;
    match made.into_iter().next() {
        // Another was quicker.
        None | Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {
            tracing::info!(topic = name, partitions, "a topic was made");
            Ok(())
        }
        Some(Err((_, error))) => Err(KafkaError::new(format!(
            "the topic {name} is not there and cannot be made ({error}); make it with {partitions} partitions"
        ))),
    }
}
