//! What a process says of itself.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use event_store::{Checkpoints, EventStore, KEPT, LogReader, LogWriter, MemoryStore, StoreError};
use relay_commands::Standing;
use test_servers::Kafka;

use crate::{
    eventually,
    shop::{Outside, Process, SHARDS, Shop, all_run},
};

/// A store that can be taken away.
#[derive(Default)]
struct Failing {
    store: MemoryStore,
    fails: Arc<AtomicBool>,
}

impl EventStore for Failing {
    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("the disk is on fire".into()));
        }
        self.store.writer()
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        self.store.reader()
    }

    fn checkpoints(&self) -> Result<Box<dyn Checkpoints>, StoreError> {
        self.store.checkpoints()
    }
}

fn standing(process: &Process) -> Standing {
    process.member.as_ref().expect("in the group").standing()
}

fn is_hindered(process: &Process, outside: &Outside) -> bool {
    let standing = standing(process);
    standing.hindrance.is_some() && !standing.is_ready() && outside.commands.hindrance().is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_ready_when_kafka_is_there_and_not_before_and_not_when_it_has_gone() {
    let mut kafka = Kafka::start();
    let proxy = kafka.proxy();
    proxy.cut();
    let shop = Shop::new(&proxy.address().to_string());
    let (one, outside) = (shop.process(), shop.outside());
    assert!(is_hindered(&one, &outside), "{one:?}");
    proxy.mend();
    all_run(&[&one]).await;
    eventually("its asker is well", || outside.commands.hindrance().is_none()).await;
    assert_eq!(standing(&one).assigned, standing(&one).running);
    proxy.cut();
    eventually("cut off", || is_hindered(&one, &outside)).await;
    proxy.mend();
    eventually("well again", || standing(&one).is_ready() && outside.commands.hindrance().is_none()).await;
    kafka.freeze();
    eventually("it has not answered for a while", || is_hindered(&one, &outside)).await;
    kafka.thaw();
    all_run(&[&one]).await;
    kafka.kill();
    eventually("it is gone", || is_hindered(&one, &outside)).await;
    kafka.restart();
    all_run(&[&one]).await;
    eventually("well again", || outside.commands.hindrance().is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_cannot_take_what_it_is_assigned_says_so() {
    let failing = Failing::default();
    let fails = Arc::clone(&failing.fails);
    fails.store(true, Ordering::Relaxed);
    let shop = Shop::on(Kafka::shared().url(), Arc::new(failing));
    let one = shop.process();
    eventually("all are assigned", || standing(&one).assigned.len() == usize::from(SHARDS)).await;
    eventually("it is said", || {
        let hindrance = standing(&one).hindrance;
        hindrance.is_some_and(|hindrance| hindrance.contains("does not run here: ") && hindrance.contains("on fire"))
    })
    .await;
    assert!(!standing(&one).is_ready());
    assert_eq!(one.running(), 0);
    fails.store(false, Ordering::Relaxed);
    all_run(&[&one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_taken_from_its_process_by_hand_comes_back() {
    let shop = Shop::new(Kafka::shared().url());
    let (one, outside) = (shop.process(), shop.outside());
    all_run(&[&one]).await;
    outside.open_with(1_000).await;
    // Somebody who is no member takes a shard, and lets go of it.
    let mut writer = shop.store.writer().expect("a writer");
    let head = writer.seize(3, uuid::Uuid::new_v4(), KEPT - 1).expect("the shard");
    eventually("it is fenced", || !standing(&one).running.contains(&3)).await;
    let said = standing(&one);
    assert!(!said.is_ready() && said.hindrance.is_some_and(|hindrance| hindrance.starts_with("shard 3 ")));
    writer.heartbeat(3, head.epoch, event_store::GIVEN_UP).expect("still its holder");
    all_run(&[&one]).await;
    assert_eq!(outside.sell(8, 5).await.confirmed, 40);

    // One that does not let go gives way to whom the group names.
    writer.seize(5, uuid::Uuid::new_v4(), KEPT - 1).expect("the shard");
    eventually("it is fenced", || !standing(&one).running.contains(&5)).await;
    all_run(&[&one]).await;
    shop.assert_exact(&outside, 1_000, 40).await;
}
