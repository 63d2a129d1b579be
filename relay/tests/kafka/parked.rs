//! Inputs that were set aside: out, and back.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use relay::{Decision, Decisions, KafkaSettings, NotUnparked, Relay, RelaySettings, UnparkSettings, Unparker, Unparking};
use test_servers::Kafka;
use uuid::Uuid;

use crate::{
    eventually,
    log::Log,
    reading::{Record, read_all},
    settings,
};

fn parked(settings: &RelaySettings) -> Vec<Record> {
    let topic = settings.topics.parked();
    read_all(settings).into_iter().filter(|record| record.topic == topic).collect()
}

#[test]
fn what_is_set_aside_is_published_and_its_end_too() {
    let mut log = Log::new(event_store::MemoryStore::default(), 2);
    let settings = settings(Kafka::shared().url());
    let [first, second, third] = [1, 2, 3].map(Uuid::from_u128);
    log.park(0, first);
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    eventually("the first is there", || parked(&settings).len() == 1);
    log.park(1, second);
    log.park(1, third);
    eventually("all are there", || parked(&settings).len() == 3);
    let records = parked(&settings);
    let record = records.iter().find(|record| record.key == second.to_string()).expect("it is there");
    assert_eq!(record.headers["ce_id"], second.to_string());
    assert_eq!(record.headers["jangbu-dedupe-key"], second.to_string());
    assert_eq!(record.headers["ce_type"], "jangbu.input.parked");
    let body = String::from_utf8(record.payload.clone().expect("a body")).expect("text");
    assert_eq!(
        body,
        format!(
            r#"{{"id":"{second}","shard":1,"parkedAt":1750000000000000,"reason":"it cannot be processed","input":{{"command":"sealed"}}}}"#
        )
    );
    log.unpark(1, second);
    eventually("the end is there", || {
        parked(&settings)
            .iter()
            .any(|record| record.key == second.to_string() && record.payload.is_none())
    });
    relay.stop();

    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    eventually("what is set aside still is published again", || parked(&settings).len() == 6);
    relay.stop();
    let again: Vec<_> = parked(&settings)
        .into_iter()
        .filter(|record| record.key == second.to_string())
        .collect();
    assert_eq!(again.len(), 2, "what has ended is not");
}

/// An engine that knows two inputs, one of which it refuses to try again, and that is not there at first.
#[derive(Default)]
struct Double {
    asked: Mutex<Vec<Decision>>,
    away: Mutex<u32>,
}

const REFUSED: Uuid = Uuid::from_u128(2);

impl Unparker for Double {
    fn unpark(&self, decision: Decision) -> Result<(), NotUnparked> {
        let mut away = self.away.lock().expect("nobody panics");
        if *away > 0 {
            *away -= 1;
            return Err(NotUnparked::Unavailable("it starts".into()));
        }
        self.asked.lock().expect("nobody panics").push(decision);
        match decision.id {
            REFUSED if decision.how == Unparking::Retried => Err(NotUnparked::Refused("it would fail again".into())),
            id if id == REFUSED || id == Uuid::from_u128(1) => Ok(()),
            _ => Err(NotUnparked::Unknown),
        }
    }
}

fn write(brokers: &str, topic: &str, texts: &[String]) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a producer");
    for text in texts {
        producer
            .send(BaseRecord::to(topic).key("one partition").payload(text))
            .map_err(|(error, _)| error)
            .expect("taken");
    }
    producer.flush(Duration::from_secs(30)).expect("acknowledged");
}

#[test]
fn decisions_come_back_and_each_is_carried_out() {
    let kafka = Kafka::shared();
    let topics = settings(kafka.url()).topics;
    let mut settings = UnparkSettings::new(KafkaSettings::plaintext(kafka.url()));
    settings.group = topics.prefix.clone();
    settings.topics = topics;
    let double = Arc::new(Double::default());
    *double.away.lock().expect("nobody panics") = 3;
    let asked = || double.asked.lock().expect("nobody panics").clone();
    let text = |id: Uuid, action: &str| format!(r#"{{"id":"{id}","action":"{action}"}}"#);
    let [one, other] = [1, 9].map(Uuid::from_u128);

    let decisions = Decisions::start(&settings, double.clone()).expect("sound settings");
    // The topic is made by whoever is first.
    kafka.topic(&settings.topics.unpark(), 12);
    let written = [
        text(one, "RETRY"),
        "no decision".into(),
        text(REFUSED, "RETRY"),
        text(one, "EXPLODE"),
        text(other, "DROP"),
        text(REFUSED, "DROP"),
    ];
    write(kafka.url(), &settings.topics.unpark(), &written);
    let wanted = [
        (one, Unparking::Retried),
        (REFUSED, Unparking::Retried),
        (other, Unparking::Dropped),
        (REFUSED, Unparking::Dropped),
    ];
    let wanted = wanted.map(|(id, how)| Decision { id, how });
    eventually("all were asked", || asked().len() >= 4);
    assert_eq!(asked(), wanted);
    decisions.stop();

    let decisions = Decisions::start(&settings, double.clone()).expect("sound settings");
    write(kafka.url(), &settings.topics.unpark(), &[text(one, "DROP")]);
    eventually("the new one was asked", || {
        asked()
            .iter()
            .any(|decision| decision.id == one && decision.how == Unparking::Dropped)
    });
    decisions.stop();
    assert_eq!(asked().len(), 5, "what was carried out does not come again");
}
