//! What is the same for everybody here who speaks to Kafka.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use metrics::Counter;
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext, Statistics,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, ConsumerContext},
    error::{KafkaError as Cause, RDKafkaErrorCode},
    producer::{DeliveryResult, ProducerContext},
};

use crate::{CommandsSettings, KafkaError};

/// How often the same trouble is said.
const SAID_EVERY: Duration = Duration::from_mins(1);

/// How often a client asks which topics and brokers there are, when nothing makes it ask. It is five minutes otherwise, and so long a client that was
/// told of a topic that it is gone, or of a broker, while Kafka was beginning anew may do without it.
const LOOKED_AROUND_EVERY: Duration = Duration::from_secs(5);

const AWAY: &str = "no broker of Kafka can be reached";

/// How whoever listens is set: soon told of what comes and of brokers that are gone, and the one who says how far it is done.
pub(crate) fn listening(settings: &CommandsSettings, group: &str) -> Result<ClientConfig, KafkaError> {
    let mut config = settings.kafka.client()?;
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.error.backoff.ms", "50")
        .set("statistics.interval.ms", "1000")
        .set("topic.metadata.refresh.interval.ms", LOOKED_AROUND_EVERY.as_millis().to_string());
    Ok(config)
}

/// What a client of Kafka says of its connections.
#[derive(Debug)]
pub(crate) struct Connected {
    trouble: Mutex<Option<String>>,
    pub(crate) lost: Counter,
}

impl Connected {
    pub(crate) fn new() -> Self {
        let lost = metrics::counter!("jangbu_transport_lost_total");
        lost.increment(0);
        Self {
            trouble: Mutex::new(Some("no broker has answered yet".to_owned())),
            lost,
        }
    }

    /// Why no broker is connected, if none is.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }
}

impl ClientContext for Connected {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "Kafka's client");
    }

    fn stats(&self, statistics: Statistics) {
        *self.trouble.lock() = away(&statistics);
    }

    fn error(&self, error: Cause, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.trouble.lock() = Some(AWAY.to_owned());
        }
        tracing::debug!(%error, reason, "Kafka's client");
    }
}

/// Says what is wrong when no broker is connected. Any connection will do: a consumer that has nothing to fetch just now speaks to the coordinator of
/// its group alone, and a client that has just begun to one of those that it was told of.
fn away(statistics: &Statistics) -> Option<String> {
    // One is the client itself.
    let brokers = || statistics.brokers.values().filter(|broker| broker.source != "internal");
    if brokers().any(|broker| matches!(broker.state.as_str(), "UP" | "UPDATE")) {
        return None;
    }
    let mut seen: Vec<_> = brokers()
        .map(|broker| format!("{} {} for {} s", broker.name, broker.state, broker.stateage / 1_000_000))
        .collect();
    seen.sort();
    Some(if seen.is_empty() {
        AWAY.to_owned()
    } else {
        format!("{AWAY} ({})", seen.join(", "))
    })
}

impl ConsumerContext for Connected {}

impl ProducerContext for Connected {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, record)) = result {
            // What it was is sent again by whoever owes it or waits for it.
            self.lost.increment(1);
            tracing::debug!(%error, topic = rdkafka::Message::topic(record), "a record did not arrive");
        }
    }
}

/// What passes by itself, when a broker comes back. A refusal does not: somebody has to hear of it.
pub(crate) fn is_passing(error: &Cause) -> bool {
    !matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
        )
    )
}

/// Lets go of a consumer, and waits so long for that. It may take as long as Kafka is away; then it goes on behind.
pub(crate) fn let_go<C: ConsumerContext + 'static>(consumer: BaseConsumer<C>, within: Duration) {
    let (gone, has_gone) = mpsc::channel();
    let letting_go = thread::Builder::new().name("kafka-close".into()).spawn(move || {
        drop(consumer);
        // Nobody may wait any more.
        let _ = gone.send(());
    });
    match letting_go {
        Ok(_) if has_gone.recv_timeout(within).is_ok() => {}
        Ok(_) => tracing::debug!("a consumer is let go of without Kafka's word"),
        Err(error) => tracing::debug!(%error, "no thread can be started"),
    }
}

/// What stands in the way is said when it is another than before, and once in a while.
#[derive(Default)]
pub(crate) struct Said(Option<(String, Instant)>);

impl Said {
    pub(crate) fn is_news(&mut self, error: &KafkaError) -> bool {
        let text = error.to_string();
        let is_news = self.0.as_ref().is_none_or(|(said, at)| *said != text || at.elapsed() > SAID_EVERY);
        if is_news {
            self.0 = Some((text, Instant::now()));
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::Broker;

    use super::*;

    fn statistics(brokers: &[(&str, &str, i32, &str)]) -> Statistics {
        let broker = |(name, source, nodeid, state): &(&str, &str, i32, &str)| Broker {
            name: (*name).to_owned(),
            source: (*source).to_owned(),
            nodeid: *nodeid,
            state: (*state).to_owned(),
            stateage: 2_500_000,
            ..Broker::default()
        };
        Statistics {
            brokers: brokers.iter().map(|seen| (seen.0.to_owned(), broker(seen))).collect(),
            ..Statistics::default()
        }
    }

    #[test]
    fn a_consumer_that_speaks_to_its_coordinator_alone_reaches_kafka() {
        let internal = (":0/internal", "internal", -1, "UP");
        let learned = |state| ("kafka:9092/1", "learned", 1, state);
        assert_eq!(away(&statistics(&[internal, learned("UP")])), None);
        assert_eq!(
            away(&statistics(&[internal, learned("INIT"), ("GroupCoordinator", "logical", -1, "UP")])),
            None
        );
        assert_eq!(
            away(&statistics(&[internal, ("kafka:9092/bootstrap", "configured", -1, "UPDATE")])),
            None
        );
        assert_eq!(away(&statistics(&[internal])).as_deref(), Some(AWAY));
        let away = away(&statistics(&[
            internal,
            learned("DOWN"),
            ("GroupCoordinator", "logical", -1, "CONNECT"),
        ]));
        assert_eq!(
            away.as_deref(),
            Some("no broker of Kafka can be reached (GroupCoordinator CONNECT for 2 s, kafka:9092/1 DOWN for 2 s)")
        );
    }
}
