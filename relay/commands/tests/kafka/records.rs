//! Records that are not for us, and topics that are not as they have to be.

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewPartitions},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use test_servers::Kafka;

use crate::{
    PATIENCE, eventually,
    lines::Lines,
    shop::{SHARDS, Shop, all_run},
};

/// Sends it to each partition.
fn send(brokers: &str, topic: &str, payload: &[u8]) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a client");
    for partition in 0..i32::from(SHARDS) {
        let record = BaseRecord::<(), _>::to(topic).partition(partition).payload(payload);
        producer.send(record).map_err(|(error, _)| error).expect("sent");
    }
    producer.flush(PATIENCE).expect("arrived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_are_not_for_us_are_passed_over_and_said() {
    let kafka = Kafka::shared();
    let shop = Shop::new(kafka.url());
    let (one, two, outside) = (shop.process(), shop.process(), shop.outside());
    all_run(&[&one, &two]).await;
    outside.open_with(1_000).await;
    let commands = format!("{}commands", shop.settings.topics.prefix);
    let replies = format!("{}replies", shop.settings.topics.prefix);
    let message = r#"{"id":"00000000-0000-0000-0000-000000000001","from":3,"to":900,"body":{"answer":[]}}"#;
    let question = r#"{"id":"00000000-0000-0000-0000-000000000002","asker":{"node":"00000000-0000-0000-0000-000000000003","partition":99},"expiresAt":9000000000000000,"question":{"parked":3}}"#;
    let not_for_us = [
        b"\xff\x00 not JSON".to_vec(),
        Vec::new(),
        br#"{"what":{"foretold":{"id":7}},"version":9}"#.to_vec(),
        // Another shop's.
        format!(r#"{{"log":"00000000-0000-0000-0000-00000000000a","what":{{"message":{message}}}}}"#).into_bytes(),
        // For a shard that is not there, and from one that is not there.
        format!(r#"{{"durable":[[900,7]],"what":{{"message":{message}}}}}"#).into_bytes(),
        // An answer where questions are asked, and a question for an asker that is not there.
        br#"{"what":{"answered":{"id":"00000000-0000-0000-0000-000000000001","answer":{"Err":"Overloaded"}}}}"#.to_vec(),
        format!(r#"{{"what":{{"asked":{question}}}}}"#).into_bytes(),
    ];
    for payload in &not_for_us {
        send(kafka.url(), &commands, payload);
        send(kafka.url(), &replies, payload);
    }
    let sold = outside.sell(8, 5).await;
    assert_eq!(sold.confirmed, 40);
    shop.assert_exact(&outside, 1_000, 40).await;
    let lines = Lines::kept();
    assert!(lines.hold("a record cannot be read"));
    assert!(one.is_ready() && two.is_ready(), "{one:?} {two:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_with_another_number_of_partitions_is_refused_in_words() {
    let kafka = Kafka::shared();
    let shop = Shop::new(kafka.url());
    let commands = format!("{}commands", shop.settings.topics.prefix);
    kafka.topic(&commands, 3);
    let one = shop.process();
    let wanted = format!("Kafka: the topic {commands} has 3 partitions, but the log 16 shards: delete the topic, it is made anew");
    eventually("it is said", || {
        let standing = one.member.as_ref().expect("in the group").standing();
        standing.hindrance.as_deref() == Some(&wanted) && one.commands.hindrance().as_deref() == Some(&wanted)
    })
    .await;
    assert_eq!(one.running(), 0);

    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", kafka.url())
        .create()
        .expect("a client");
    let deleted = admin.delete_topics(&[&commands], &AdminOptions::new()).await.expect("asked");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    all_run(&[&one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_are_added_later_are_left_alone_and_said() {
    let kafka = Kafka::shared();
    let shop = Shop::new(kafka.url());
    let (one, outside) = (shop.process(), shop.outside());
    all_run(&[&one]).await;
    outside.open_with(1_000).await;
    let commands = format!("{}commands", shop.settings.topics.prefix);
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", kafka.url())
        .create()
        .expect("a client");
    let more = NewPartitions::new(&commands, 20);
    let added = admin.create_partitions([&more], &AdminOptions::new()).await.expect("asked");
    assert!(added.iter().all(Result::is_ok), "{added:?}");
    // Whoever joins the group has it dealt anew.
    let two = shop.process();
    eventually("it is refused", || {
        let standing = two.member.as_ref().expect("in the group").standing();
        standing.hindrance.is_some_and(|hindrance| hindrance.contains("has 20 partitions"))
    })
    .await;
    assert_eq!(outside.sell(4, 5).await.confirmed, 20);
    let shards = shop.store.reader().and_then(|reader| reader.shards()).expect("read");
    assert!(shards.iter().all(|shard| *shard < SHARDS), "{shards:?}");
}
