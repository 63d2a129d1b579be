//! What the comparison of topics with a log finds.

use std::time::Duration;

use event_store::MemoryStore;
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use relay::{
    Relay, RelaySettings,
    audit::{Audit, audit},
};
use test_servers::Kafka;

use crate::{
    eventually,
    log::Log,
    reading::{Record, read_all},
    settings,
};

fn audited(settings: &RelaySettings, log: &Log) -> Audit {
    audit(settings, log.store.reader().expect("a reader").as_ref()).expect("read")
}

/// Writes a record as it stands elsewhere, with other headers where some are given.
fn copy(settings: &RelaySettings, record: &Record, changed: &[(&str, &str)]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &settings.kafka.brokers)
        .create()
        .expect("a producer");
    let mut headers = OwnedHeaders::new();
    for (key, value) in &record.headers {
        let other = changed
            .iter()
            .find(|(name, _)| name == key)
            .map_or(value.as_str(), |(_, value)| *value);
        headers = headers.insert(Header { key, value: Some(other) });
    }
    let copied = BaseRecord::to(&record.topic)
        .key(&record.key)
        .partition(record.partition)
        .payload(record.payload.as_deref().expect("a payload"))
        .headers(headers);
    producer.send(copied).map_err(|(error, _)| error).expect("taken");
    producer.flush(Duration::from_secs(30)).expect("acknowledged");
}

#[test]
fn what_is_missing_or_changed_or_out_of_order_is_found() {
    let mut log = Log::new(MemoryStore::default(), 2);
    let settings = settings(Kafka::shared().url());
    log.append(300);
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    eventually("all are published", || log.is_published("relay"));
    relay.stop();
    let clean = audited(&settings, &log);
    assert!(clean.is_clean(), "{clean}");
    assert_eq!((clean.records, clean.distinct, clean.events, clean.repeated), (600, 600, 600, 0));
    assert_eq!((clean.topics, clean.streams), (3, 42));

    let records = read_all(&settings);
    let last = |key: &str| records.iter().rfind(|record| record.key == key).expect("it is there");
    let first = records.first().expect("there are some");
    let next = (last(&first.key).headers["ce_sequence"].parse::<u64>().expect("a number") + 1).to_string();
    copy(&settings, first, &[]);
    let repeated = audited(&settings, &log);
    assert!(
        repeated.is_clean() && repeated.repeated == 1 && repeated.records == 601,
        "{repeated}"
    );

    copy(&settings, first, &[("ce_jangbuposition", "77777")]);
    let contradictory = audited(&settings, &log);
    assert_eq!((contradictory.contradictory, contradictory.repeated), (1, 2), "{contradictory}");
    copy(&settings, first, &[("ce_sequence", &next)]);
    let unknown = audited(&settings, &log);
    assert_eq!((unknown.unknown, unknown.distinct), (1, 601), "{unknown}");
    copy(&settings, first, &[("ce_sequence", "5000")]);
    let found = audited(&settings, &log);
    assert_eq!((found.out_of_order, found.contradictory, found.unknown), (1, 1, 1), "{found}");
    log.append(1);
    let found = audited(&settings, &log);
    // One of them may stand where a record was that is none of the log.
    assert_eq!(found.missing + found.different, 2, "{found}");
    assert!(!found.is_clean() && !found.faults.is_empty());
    let text = found.to_string();
    assert!(text.contains("1 out of order") && text.contains("is in no topic"), "{text}");

    // Where the topics are empty, all of it is missing; where the log is, all is unknown.
    let elsewhere = Log::new(MemoryStore::default(), 1);
    assert_eq!(audited(&settings, &elsewhere).unknown, 601);
    let nothing = audited(&crate::settings(&settings.kafka.brokers), &log);
    assert_eq!((nothing.topics, nothing.missing), (0, 602));
}
