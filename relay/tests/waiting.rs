//! A relay without a Kafka: it waits, says so once, and goes on when there is one. In a process of its own, for what it says and counts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use event_store::{Batch, Event, EventStore, MemoryStore, StreamId, batch_hash};
use metrics_exporter_prometheus::PrometheusBuilder;
use relay::{KafkaSettings, Relay, RelaySettings, Standing};
use test_servers::Kafka;
use tracing::{Level, Metadata, Subscriber, span};
use uuid::Uuid;

/// Counts what the relay warns of.
struct Warnings(Arc<AtomicU64>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN && metadata.target().starts_with("relay")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_mins(2), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn log_of(events: u64) -> Arc<MemoryStore> {
    let store = MemoryStore::default();
    let mut writer = store.writer().expect("a writer");
    let head = writer.take(0, Uuid::nil(), 0).expect("free");
    let events: Vec<_> = (1..=events)
        .map(|position| Event {
            shard: 0,
            position,
            stream: StreamId::new("order", Uuid::from_u128(1)),
            sequence: position,
            event_id: Uuid::from_u128(position.into()),
            event_type: "order.placed".into(),
            event_version: "1.0.0".into(),
            recorded_at: 1,
            payload: "{}".into(),
            metadata: "{}".into(),
        })
        .collect();
    let batch = Batch {
        epoch: head.epoch,
        first_position: 1,
        previous_hash: head.hash,
        hash: batch_hash(&head.hash, &events),
        events,
        ..Batch::default()
    };
    writer.commit(&[&batch]).expect("written");
    Arc::new(store)
}

#[test]
fn without_a_kafka_it_waits_says_so_once_and_goes_on_when_there_is_one() {
    let warnings = Arc::new(AtomicU64::new(0));
    tracing::subscriber::set_global_default(Warnings(Arc::clone(&warnings))).expect("the first");
    let recorded = PrometheusBuilder::new().install_recorder().expect("the first");

    let mut kafka = Kafka::start();
    kafka.kill();
    let store = log_of(300);
    let relay = Relay::start(RelaySettings::new(KafkaSettings::plaintext(kafka.url())), store.clone()).expect("it waits");
    let tries = || {
        recorded
            .render()
            .lines()
            .any(|line| line.strip_prefix("jangbu_relay_errors_total ").is_some_and(|count| count > "2"))
    };
    eventually("it has tried again and again", tries);
    assert_eq!(warnings.load(Ordering::Relaxed), 1, "it says so once");
    assert!(!relay.standing().connected);
    let unready = relay.readiness().expect_err("it is not ready");
    assert!(relay.hindrance().is_some_and(|hindrance| hindrance == unready), "{unready}");

    kafka.restart();
    let all = Standing {
        connected: true,
        ..Standing::default()
    };
    let checkpoint = || store.checkpoints().and_then(|mut all| all.read("relay")).expect("read");
    eventually("all is published", || checkpoint() == [(0, 300)] && relay.standing() == all);
    assert_eq!(warnings.load(Ordering::Relaxed), 1);
    let numbers = recorded.render();
    for line in [
        r#"jangbu_relay_published_total{topic="jangbu.order-events"} 300"#,
        r#"jangbu_relay_position{shard="0"} 300"#,
        r#"jangbu_relay_lag_events{shard="0"} 0"#,
        r#"jangbu_relay_held_events{shard="0"} 0"#,
        r#"jangbu_relay_stopped{shard="0"} 0"#,
    ] {
        assert!(numbers.contains(line), "{line} is not in\n{numbers}");
    }
    relay.stop();
}

#[test]
fn settings_that_cannot_be_used_are_refused() {
    let refused = |settings: RelaySettings| Relay::start(settings, log_of(1)).map(drop).expect_err("refused").to_string();
    let without = refused(RelaySettings::new(KafkaSettings::plaintext("")));
    assert_eq!(without, "Kafka: no brokers are named; write HOST:PORT");
    let mut unknown = RelaySettings::new(KafkaSettings {
        security: relay::SecurityProtocol::SaslSsl,
        sasl: Some(relay::Sasl {
            mechanism: "ROT13".into(),
            username: "jangbu".into(),
            password: "secret".into(),
        }),
        ..KafkaSettings::plaintext("127.0.0.1:1")
    });
    let line = refused(unknown.clone());
    assert!(!line.contains("secret") && !line.contains('\n'), "{line}");
    let mut missing = unknown.clone();
    missing.kafka.security = relay::SecurityProtocol::Ssl;
    missing.kafka.ca_location = Some("/nowhere/ca.pem".into());
    let line = refused(missing);
    assert!(line.contains("ssl.ca.location") && !line.contains('\n'), "{line}");
    unknown.kafka.sasl = None;
    assert!(refused(unknown).contains("SASL_SSL needs a user"));
}
