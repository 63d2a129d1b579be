//! Inputs that were set aside: out, and back.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use relay::{Compression, Decision, Decisions, KafkaSettings, NotUnparked, Relay, RelaySettings, UnparkSettings, Unparker, Unparking};
use test_servers::Kafka;
use uuid::Uuid;

use crate::{
    alter, eventually, large,
    log::Log,
    reading::{Record, check, read_all},
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

    let count = parked(&settings).len();
    log.unpark(1, third);
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    let ended = |id: Uuid| {
        parked(&settings)
            .iter()
            .any(|record| record.key == id.to_string() && record.payload.is_none())
    };
    eventually("what ended while no relay ran has its end", || ended(third));
    log.unpark(0, first);
    eventually("and what ends then", || ended(first));
    relay.stop();
    assert_eq!(parked(&settings).len(), count + 2, "what was published is not published again");
}

#[test]
fn what_one_relay_has_shown_another_ends() {
    let mut log = Log::new(event_store::MemoryStore::default(), 1);
    let settings = settings(Kafka::shared().url());
    let id = Uuid::from_u128(7);
    log.park(0, id);
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    eventually("it is there", || parked(&settings).len() == 1);
    relay.stop();
    log.unpark(0, id);
    let another = RelaySettings {
        name: "another".into(),
        ..settings.clone()
    };
    let relay = Relay::start(another, log.store.clone()).expect("sound settings");
    eventually("its end is there", || parked(&settings).len() == 2);
    relay.stop();
}

#[test]
fn what_is_set_aside_and_refused_keeps_back_nothing_else() {
    let kafka = Kafka::shared();
    let mut log = Log::new(event_store::MemoryStore::default(), 1);
    let mut settings = settings(kafka.url());
    settings.compression = Compression::None;
    let topic = settings.topics.parked();
    kafka.topic_with(&topic, 2, &[("cleanup.policy", "compact"), ("max.message.bytes", "4000")]);
    let [refused, bare, small] = [1, 2, 3].map(Uuid::from_u128);
    log.park_with(0, refused, "{}", &large(8_000));
    log.park_with(0, bare, &format!(r#"{{"large":"{}"}}"#, large(8_000)), "it is large");
    log.park(0, small);
    log.append(300);
    let relay = Relay::start(settings.clone(), log.store.clone()).expect("sound settings");
    eventually("the events are published", || log.is_published("relay"));
    eventually("what is not refused is shown", || parked(&settings).len() == 2);
    let records = parked(&settings);
    let of = |id: Uuid| {
        records
            .iter()
            .find(|record| record.key == id.to_string())
            .and_then(|record| record.payload.clone())
    };
    assert!(of(small).is_some() && of(refused).is_none());
    let text = String::from_utf8(of(bare).expect("it is there")).expect("text");
    assert!(text.ends_with(r#""reason":"it is large","input":null,"tooLarge":true}"#), "{text}");
    let refused_one = |relay: &Relay| relay.hindrance().is_some_and(|line| line.contains("1 of them are refused"));
    eventually("it says so", || refused_one(&relay));
    assert_eq!((relay.readiness(), relay.standing().held), (Ok(()), 0));
    log.append(300);
    eventually("events go on", || log.is_published("relay"));

    alter(kafka.url(), &topic, "max.message.bytes", "1000000");
    eventually("it is shown, too", || parked(&settings).len() == 3);
    eventually("it is well", || relay.hindrance().is_none());
    relay.stop();
    assert_eq!(check(&settings, &log), 0, "the events knew nothing of it");
}

/// An engine that knows two inputs, one of which it refuses to try again, and that is not there at first. What has ended stays as it ended.
#[derive(Default)]
struct Double {
    asked: Mutex<Vec<(Decision, Result<(), NotUnparked>)>>,
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
        let mut asked = self.asked.lock().expect("nobody panics");
        let ended = asked.iter().find(|(before, answer)| before.id == decision.id && answer.is_ok());
        let answer = match ended {
            Some((before, _)) if before.how == decision.how => Ok(()),
            Some(_) => Err(NotUnparked::Refused("it has come to another end".into())),
            None => match decision.id {
                REFUSED if decision.how == Unparking::Retried => Err(NotUnparked::Refused("it would fail again".into())),
                id if id == REFUSED || id == Uuid::from_u128(1) => Ok(()),
                _ => Err(NotUnparked::Unknown),
            },
        };
        asked.push((decision, answer.clone()));
        answer
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
        text(one, "RETRY"),
    ];
    write(kafka.url(), &settings.topics.unpark(), &written);
    let refused = |why: &str| Err(NotUnparked::Refused(why.into()));
    let wanted = [
        (one, Unparking::Retried, Ok(())),
        (REFUSED, Unparking::Retried, refused("it would fail again")),
        (other, Unparking::Dropped, Err(NotUnparked::Unknown)),
        (REFUSED, Unparking::Dropped, Ok(())),
        // It was written twice: it is done.
        (one, Unparking::Retried, Ok(())),
    ];
    let wanted = wanted.map(|(id, how, answer)| (Decision { id, how }, answer));
    eventually("all were asked", || asked().len() >= 5);
    assert_eq!(asked(), wanted);
    decisions.stop();

    let decisions = Decisions::start(&settings, double.clone()).expect("sound settings");
    write(kafka.url(), &settings.topics.unpark(), &[text(one, "DROP")]);
    let dropped = Decision {
        id: one,
        how: Unparking::Dropped,
    };
    eventually("the new one was asked", || asked().iter().any(|(decision, _)| *decision == dropped));
    decisions.stop();
    let asked = asked();
    assert_eq!(asked.len(), 6, "what was carried out does not come again");
    assert_eq!(asked[5], (dropped, refused("it has come to another end")));
}
