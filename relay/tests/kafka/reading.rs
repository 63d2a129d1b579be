//! A consumer that reads all there is, and compares it with the log.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use event_store::Event;
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::{Headers as _, OwnedHeaders, OwnedMessage},
};
use relay::RelaySettings;

use crate::log::Log;

const PATIENCE: Duration = Duration::from_secs(30);

/// A record, as a consumer sees it.
pub(crate) struct Record {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) key: String,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: HashMap<String, String>,
}

/// Everything in the topics whose name begins so, each partition in its order.
pub(crate) fn read_all(settings: &RelaySettings) -> Vec<Record> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &settings.kafka.brokers)
        .set("group.id", "reader")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(None, PATIENCE).expect("the broker answers");
    let mut left = BTreeMap::new();
    let mut wanted = TopicPartitionList::new();
    for topic in metadata
        .topics()
        .iter()
        .filter(|topic| topic.name().starts_with(&settings.topics.prefix))
    {
        for partition in topic.partitions() {
            let begun = Instant::now();
            let (low, high) = loop {
                match consumer.fetch_watermarks(topic.name(), partition.id(), PATIENCE) {
                    Ok(ends) => break ends,
                    // The topic is being made.
                    Err(error) => assert!(begun.elapsed() < PATIENCE, "the broker does not answer: {error}"),
                }
            };
            if high > low {
                left.insert((topic.name().to_owned(), partition.id()), high);
                wanted
                    .add_partition_offset(topic.name(), partition.id(), Offset::Beginning)
                    .expect("a place");
            }
        }
    }
    consumer.assign(&wanted).expect("assigned");
    let mut records = Vec::new();
    while !left.is_empty() {
        let message = consumer.poll(PATIENCE).expect("there is more").expect("read").detach();
        let place = (message.topic().to_owned(), message.partition());
        if left.get(&place).is_some_and(|high| message.offset() + 1 >= *high) {
            left.remove(&place);
        }
        records.push(record(&message));
    }
    records
}

fn record(message: &OwnedMessage) -> Record {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let headers = message.headers().map(OwnedHeaders::as_borrowed);
    let headers = headers.into_iter().flat_map(|headers| headers.iter());
    Record {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        key: text(message.key().expect("a key")),
        payload: message.payload().map(<[u8]>::to_vec),
        headers: headers
            .map(|header| (header.key.to_owned(), text(header.value.expect("a value"))))
            .collect(),
    }
}

/// That Kafka has every event of the log and nothing else, and that whoever drops repeats sees each stream in its order, without a gap.
/// Returns how many records were repeats.
pub(crate) fn check(settings: &RelaySettings, log: &Log) -> usize {
    let events: HashMap<String, Event> = log.events().into_iter().map(|event| (event.event_id.to_string(), event)).collect();
    let records: Vec<_> = read_all(settings)
        .into_iter()
        .filter(|record| record.topic.ends_with("-events"))
        .collect();
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    let mut places: BTreeMap<&str, i32> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for record in &records {
        let event = events.get(&record.headers["jangbu-dedupe-key"]).expect("it is in the log");
        assert_eq!(record.headers["ce_id"], record.headers["jangbu-dedupe-key"]);
        match record.headers.get("ce_dataref") {
            None => assert_eq!(record.payload.as_deref(), Some(event.payload.as_bytes())),
            Some(place) => {
                assert!(
                    place.ends_with(&format!("/shards/{}/events/{}", event.shard, event.position)),
                    "{place}"
                );
                assert_eq!(record.payload.as_deref(), Some(&b""[..]), "not missing: that would delete it");
            }
        }
        assert_eq!(record.topic, settings.topics.of_events(&event.stream.kind));
        assert_eq!(
            (&record.key, &record.headers["ce_subject"]),
            (&event.stream.to_string(), &event.stream.to_string())
        );
        assert_eq!(record.headers["ce_sequence"], event.sequence.to_string());
        assert_eq!(
            *places.entry(&record.key).or_insert(record.partition),
            record.partition,
            "a stream has one partition"
        );
        let last = seen.entry(&record.key).or_default();
        assert!(
            event.sequence <= *last + 1,
            "{} {} comes before {}",
            record.key,
            event.sequence,
            *last + 1
        );
        *last = event.sequence.max(*last);
        ids.insert(event.event_id);
    }
    assert_eq!(ids.len(), events.len(), "events are missing");
    records.len() - ids.len()
}
