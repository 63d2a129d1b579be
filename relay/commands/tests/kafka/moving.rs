//! Shards that come and go while everybody buys.

use std::time::{Duration, Instant};

use test_servers::Kafka;

use crate::{
    eventually,
    shop::{SHARDS, Shop, all_run},
};

const STOCK: u64 = 100_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_joins_or_leaves_while_everybody_buys_loses_nothing_and_does_nothing_twice() {
    let shop = Shop::new(Kafka::shared().url());
    let (one, mut two, outside) = (shop.process(), shop.process(), shop.outside());
    all_run(&[&one, &two]).await;
    outside.open_with(STOCK).await;
    let buying = outside.everybody_buys(16);
    buying.goes_on_for(100).await;
    let three = shop.process();
    all_run(&[&one, &two, &three]).await;
    buying.goes_on_for(100).await;
    let begun = Instant::now();
    two.leaves().await;
    all_run(&[&one, &three]).await;
    println!("all shards run {:?} after one began to leave", begun.elapsed());
    assert!(begun.elapsed() < shop.settings.session, "the group was told: {:?}", begun.elapsed());
    buying.goes_on_for(100).await;
    let sold = buying.ends().await;
    println!("{sold:?}");
    assert_eq!(sold.cancelled, 0);
    shop.assert_exact(&outside, STOCK, sold.confirmed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_cut_off_for_good_is_fenced_by_who_takes_its_shards() {
    let kafka = Kafka::start();
    let proxy = kafka.proxy();
    let shop = Shop::new(&kafka.url());
    let (one, two, outside) = (shop.process(), shop.process_by(&proxy.address().to_string()), shop.outside());
    all_run(&[&one, &two]).await;
    outside.open_with(STOCK).await;
    let buying = outside.everybody_buys(16);
    buying.goes_on_for(100).await;
    proxy.cut();
    let cut = Instant::now();
    eventually("the other has all", || one.running() == usize::from(SHARDS)).await;
    println!("all shards run again {:?} after the cut", cut.elapsed());
    buying.goes_on_for(100).await;
    eventually("it notices", || two.running() == 0).await;
    assert!(!two.is_ready() && two.commands.hindrance().is_some());
    // Its network is mended, and it is one of two again.
    proxy.mend();
    eventually("it has a part again", || two.running() > 0).await;
    all_run(&[&one, &two]).await;
    buying.goes_on_for(100).await;
    // Cut off while it leaves.
    proxy.cut();
    let begun = Instant::now();
    let mut two = two;
    two.leaves().await;
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    eventually("the other has all", || one.running() == usize::from(SHARDS)).await;
    buying.goes_on_for(100).await;
    let sold = buying.ends().await;
    println!("{sold:?}");
    assert_eq!(sold.cancelled, 0);
    shop.assert_exact(&outside, STOCK, sold.confirmed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assignment_that_was_lost_for_a_while_goes_on_where_it_was() {
    let mut kafka = Kafka::start();
    let shop = Shop::new(&kafka.url());
    let (one, outside) = (shop.process(), shop.outside());
    all_run(&[&one]).await;
    outside.open_with(STOCK).await;
    let buying = outside.everybody_buys(8);
    buying.goes_on_for(50).await;
    kafka.kill();
    eventually("the assignment is lost", || {
        one.member.as_ref().is_some_and(|member| member.standing().assigned.is_empty())
    })
    .await;
    assert_eq!(one.running(), usize::from(SHARDS), "its engines go on");
    kafka.restart();
    all_run(&[&one]).await;
    // Records are taken again by engines that never ended.
    buying.goes_on_for(100).await;
    let sold = buying.ends().await;
    assert_eq!(sold.cancelled, 0);
    shop.assert_exact(&outside, STOCK, sold.confirmed).await;
}
