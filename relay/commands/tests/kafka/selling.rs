//! Two engines and one that only asks, and nothing fails.

use aggregates::{Command, OrderStatus, ProductCommand};
use event_store::{Event, EventStore};
use test_servers::Kafka;

use crate::shop::{PRODUCTS, Shop, Sold, all_run, product, shards};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_engines_and_one_that_only_asks_sell_as_one_would() {
    let shop = Shop::new(Kafka::shared().url());
    let (one, two, outside) = (shop.process(), shop.process(), shop.outside());
    all_run(&[&one, &two]).await;
    assert!(one.running() > 0 && two.running() > 0, "each has a part: {one:?} {two:?}");
    outside.open_with(50).await;
    // There are 400 things, and an order takes two. Those who want what another holds for a moment go away.
    let sold = outside.sell(30, 10).await;
    assert_eq!(sold.confirmed + sold.cancelled, 300);
    assert!(sold.confirmed <= 200, "{sold:?}");
    assert!(sold.confirmed >= 190, "{sold:?}");
    shop.assert_exact(&outside, 50, sold.confirmed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_process_asks_for_what_it_does_not_hold() {
    let shop = Shop::new(Kafka::shared().url());
    let (one, two) = (shop.process(), shop.process());
    all_run(&[&one, &two]).await;
    let inside = one.inside();
    inside.open_with(1_000).await;
    let sold = inside.sell(8, 5).await;
    assert_eq!(
        sold,
        Sold {
            confirmed: 40,
            cancelled: 0
        }
    );
    shop.assert_exact(&inside, 1_000, 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_answered_sees_what_was_done_before_and_knows_how_far_it_is() {
    let shop = Shop::new(Kafka::shared().url());
    let (one, two, outside) = (shop.process(), shop.process(), shop.outside());
    all_run(&[&one, &two]).await;
    outside.open_with(1_000).await;
    for number in PRODUCTS..PRODUCTS + 8 {
        let key = 1_000 + 10 * u64::try_from(number).expect("small");
        let (_, unknown) = outside.order(key, &[number]);
        let refused = outside.execute(unknown).await.answer.result.expect_err("nobody offers it");
        assert_eq!(refused.code, "unknown-product");
        outside.offer(number, 10).await;
        let (id, known) = outside.order(key + 2, &[number]);
        outside.execute(known).await.answer.result.expect("it is offered now");
        assert_eq!(outside.settled(id).await, OrderStatus::Confirmed);
        // The goods were committed by their shard before the order was confirmed by its own.
        let goods = shards().of(product(number).uuid());
        assert!(outside.engine.durable(goods) >= last_committed(shop.store.as_ref(), goods));
        outside.ask(Command::Product(product(number), ProductCommand::Retire)).await;
        let (_, late) = outside.order(key + 4, &[number]);
        let refused = outside.execute(late).await.answer.result.expect_err("it is retired");
        assert_eq!(refused.code, "unknown-product");
    }
}

fn last_committed(store: &dyn EventStore, shard: u16) -> u64 {
    let events = store.reader().expect("a reader").events(shard, 0, usize::MAX).expect("read");
    let is_commit = |event: &&Event| &*event.event_type == "inventory.committed";
    events.iter().rfind(is_commit).expect("sold").position
}
