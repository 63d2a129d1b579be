//! Kafka dies, or forgets; answers are lost.

use std::{
    fs,
    time::{Duration, Instant},
};

use aggregates::{Command, WalletCommand};
use engine::EngineError;
use test_servers::Kafka;

use crate::{
    eventually,
    shop::{Shop, all_run, buyer, krw},
};

const STOCK: u64 = 100_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kafka_that_is_killed_again_and_again_costs_time() {
    let mut kafka = Kafka::start();
    let shop = Shop::new(&kafka.url());
    let (one, two, outside) = (shop.process(), shop.process(), shop.outside());
    all_run(&[&one, &two]).await;
    outside.open_with(STOCK).await;
    let buying = outside.everybody_buys(16);
    for _ in 0..3 {
        buying.goes_on_for(50).await;
        kafka.kill();
        kafka.restart();
        let again = Instant::now();
        buying.goes_on_for(20).await;
        println!("orders settle {:?} after Kafka answers again", again.elapsed());
    }
    let sold = buying.ends().await;
    println!("{sold:?}");
    assert_eq!(sold.cancelled, 0);
    shop.assert_exact(&outside, STOCK, sold.confirmed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kafka_that_has_lost_everything_costs_time() {
    let mut kafka = Kafka::start();
    let shop = Shop::new(&kafka.url());
    let (one, two, outside) = (shop.process(), shop.process(), shop.outside());
    all_run(&[&one, &two]).await;
    outside.open_with(STOCK).await;
    let buying = outside.everybody_buys(16);
    for _ in 0..2 {
        buying.goes_on_for(50).await;
        kafka.kill();
        forget_all(&kafka);
        kafka.restart();
        let again = Instant::now();
        all_run(&[&one, &two]).await;
        println!("all shards run {:?} after an empty Kafka answers", again.elapsed());
        buying.goes_on_for(100).await;
        println!("orders settle {:?} after an empty Kafka answers", again.elapsed());
    }
    let sold = buying.ends().await;
    println!("{sold:?}");
    assert_eq!(sold.cancelled, 0);
    shop.assert_exact(&outside, STOCK, sold.confirmed).await;
}

/// What is left is what a new directory is formatted with.
fn forget_all(kafka: &Kafka) {
    for entry in fs::read_dir(kafka.data()).expect("its directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            fs::remove_dir_all(&path).expect("removed");
        } else if !path.ends_with("meta.properties") && !path.ends_with("bootstrap.checkpoint") {
            fs::remove_file(&path).expect("removed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_kafka_is_away_nobody_waits_for_ever() {
    let mut kafka = Kafka::start();
    let mut shop = Shop::new(&kafka.url());
    shop.settings.answered_within = Duration::from_secs(4);
    let (mut one, outside) = (shop.process(), shop.outside());
    all_run(&[&one]).await;
    outside.wallet(0, 1).await;
    kafka.kill();
    let begun = Instant::now();
    let deposit = WalletCommand::Deposit { amount: krw(1) };
    let request = engine::Request::new(Command::Wallet(buyer(0), deposit), crate::shop::cause());
    let asked = outside.engine.execute(request.clone()).await;
    assert!(matches!(asked, Err(EngineError::NoAnswer(_))), "{asked:?}");
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
    // What the process holds itself it goes on with.
    one.engine
        .execute(request)
        .await
        .expect("an answer")
        .answer
        .result
        .expect("not refused");
    eventually("it is said", || !one.is_ready() && outside.commands.hindrance().is_some()).await;
    let begun = Instant::now();
    one.leaves().await;
    println!("it left in {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    let begun = Instant::now();
    tokio::task::spawn_blocking(move || drop((one, outside))).await.expect("no panic");
    println!("all was let go of in {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_key_is_done_once_although_its_answers_are_lost() {
    let kafka = Kafka::start();
    let proxy = kafka.proxy();
    let shop = Shop::new(&kafka.url());
    let (one, outside) = (shop.process(), shop.outside_by(&proxy.address().to_string()));
    all_run(&[&one]).await;
    outside.wallet(0, 1).await;
    let deposit = || Command::Wallet(buyer(0), WalletCommand::Deposit { amount: krw(1) });
    for round in 0..3 {
        let asking: Vec<_> = (0..20)
            .map(|_| {
                let outside = outside.clone();
                tokio::spawn(async move { outside.ask(deposit()).await })
            })
            .collect();
        let wanted = 1 + 20 * (round + 1);
        if round == 1 {
            proxy.hold();
        } else {
            proxy.cut();
        }
        // Some were asked before, some are asked again when the network is there.
        tokio::time::sleep(Duration::from_secs(3)).await;
        proxy.mend();
        for asked in asking {
            asked.await.expect("answered");
        }
        assert_eq!(outside.balance(0).await, wanted);
    }
}
