//! Four writers in one process, on one SQLite file: races, messages that are lost, and the end.

mod shop;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aggregates::{Command, FailureCode, InventoryCommand, Kind, OrderId, OrderStatus, PaymentMethod, State};
use engine::{EngineError, EngineSettings, Inboxes, Message, Shards, Transport};
use event_store::{EventStore, verify_chain};
use shop::{Approving, PRICE, Shop, buyer, open, product};

fn four() -> Shards {
    Shards::new(4).expect("four")
}

fn with_four(settings: &mut EngineSettings) {
    settings.core.shards = four();
}

/// Everything is durable, in order, and nothing is owed.
fn assert_at_rest(store: &dyn EventStore, shop_published: &[(u16, u64)]) {
    let reader = store.reader().expect("a reader");
    let mut published: BTreeMap<u16, Vec<u64>> = BTreeMap::new();
    for (shard, position) in shop_published {
        published.entry(*shard).or_default().push(*position);
    }
    for shard in four().all() {
        verify_chain(reader.as_ref(), shard).expect("the chain holds");
        assert_eq!(reader.unfinished(shard).expect("read").effects, [], "shard {shard} owes something");
        let positions = published.remove(&shard).unwrap_or_default();
        assert!(
            positions.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "shard {shard} publishes in order"
        );
    }
}

async fn balance(shop: &Shop, number: u128) -> i64 {
    let wallet = shop
        .engine
        .read(Kind::Wallet, buyer(number).uuid())
        .await
        .expect("an answer")
        .expect("it is open");
    let State::Wallet(wallet) = wallet.state else {
        panic!("not a wallet")
    };
    wallet.balance().expect("open").minor()
}

/// Places so many orders at once, half from balances and half by card, and returns how each ended.
async fn rush(shop: &Shop, first: u64, orders: u64, lines: &[u128]) -> Vec<(OrderId, OrderStatus, Option<FailureCode>)> {
    let tasks: Vec<_> = (first..first + orders)
        .map(|key| {
            let method = if key % 2 == 0 {
                PaymentMethod::Balance
            } else {
                PaymentMethod::Card
            };
            let (id, request) = shop.order(key, u128::from(key % 10), method, lines);
            let engine = shop.engine.clone();
            tokio::spawn(async move { (id, engine.execute(request).await) })
        })
        .collect();
    let mut ends = Vec::new();
    for task in tasks {
        let (id, reply) = task.await.expect("no panic");
        reply.expect("an answer").answer.result.expect("accepted");
        let (status, failure) = shop.settled(id).await;
        ends.push((id, status, failure));
    }
    ends
}

fn confirmed(ends: &[(OrderId, OrderStatus, Option<FailureCode>)]) -> u64 {
    for (_, status, failure) in ends {
        assert!(
            matches!(
                (status, failure),
                (OrderStatus::Confirmed, None) | (OrderStatus::Cancelled, Some(FailureCode::OutOfStock))
            ),
            "{status:?} {failure:?}"
        );
    }
    ends.iter().filter(|(_, status, _)| *status == OrderStatus::Confirmed).count() as u64
}

/// What is released after an order has ended may still be on its way.
async fn nothing_reserved(shop: &Shop, number: u128) -> u64 {
    let free = async {
        loop {
            let stock = shop.engine.read(Kind::Inventory, product(number).uuid()).await.expect("an answer");
            match stock.expect("a product").state {
                State::Inventory(inventory) if inventory.reserved() == 0 => return inventory.on_hand(),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), free)
        .await
        .expect("it is free in the end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_product_exactly_as_many_are_sold_as_there_are() {
    let scratch = tempfile::tempdir().expect("a directory");
    let gateway = Arc::new(Approving::default());
    let (shop, store) = open(scratch.path(), gateway.clone(), with_four);
    shop.offer(0, 66).await;
    for number in 0..10 {
        shop.wallet(number, 10_000_000).await;
    }
    let ends = rush(&shop, 0, 100, &[0]).await;
    assert_eq!(confirmed(&ends), 66);
    assert_eq!(shop.stock(0).await, (0, 0));
    let mut paid = i64::try_from(gateway.charges.load(Ordering::Relaxed)).expect("few") * PRICE;
    for number in 0..10 {
        paid += 10_000_000 - balance(&shop, number).await;
    }
    assert_eq!(paid, 66 * PRICE, "charged is what is confirmed");
    let published = shop.published.lock().expect("nobody panics").clone();
    shop.running.stop();
    assert_at_rest(store.as_ref(), &published);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_products_never_more_is_sold_than_there_is_cold_and_warm() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (shop, _) = open(scratch.path(), Arc::new(Approving::default()), with_four);
    for number in 0..3 {
        shop.offer(number, 40).await;
    }
    for number in 0..10 {
        shop.wallet(number, 10_000_000).await;
    }
    shop.running.stop();
    for round in 0..2_u64 {
        let (shop, store) = open(scratch.path(), Arc::new(Approving::default()), with_four);
        if round == 1 {
            for number in 0..3 {
                let receive = InventoryCommand::Receive {
                    quantity: 40,
                    reference: None,
                };
                shop.ask(Command::Inventory(product(number), receive)).await;
            }
        }
        let mut before = [0; 3];
        for (number, stock) in (0..).zip(&mut before) {
            *stock = shop.stock(number).await.0;
        }
        let of_two = rush(&shop, round * 1_000, 60, &[0, 1]).await;
        let of_three = rush(&shop, round * 1_000 + 500, 60, &[2, 1]).await;
        let (two, three) = (confirmed(&of_two), confirmed(&of_three));
        for (number, sold) in [(0, two), (1, two + three), (2, three)] {
            let index = usize::try_from(number).expect("small");
            assert_eq!(nothing_reserved(&shop, number).await + sold, before[index], "product {number}");
        }
        let published = shop.published.lock().expect("nobody panics").clone();
        shop.running.stop();
        assert_at_rest(store.as_ref(), &published);
    }
}

/// Of every seven messages one is lost, one comes twice and one comes late.
#[derive(Default)]
struct Unreliable {
    sent: AtomicUsize,
}

impl Transport for Unreliable {
    fn send(&self, message: Message, here: &Inboxes) {
        match self.sent.fetch_add(1, Ordering::Relaxed) % 7 {
            0 => {}
            1 => {
                drop(here.deliver(message.clone()));
                drop(here.deliver(message));
            }
            2 => {
                let here = here.clone();
                std::thread::spawn(move || {
                    // Long enough for others to overtake it.
                    std::thread::sleep(Duration::from_millis(50));
                    drop(here.deliver(message));
                });
            }
            _ => drop(here.deliver(message)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transport_that_loses_repeats_and_delays_changes_nothing_but_time() {
    let scratch = tempfile::tempdir().expect("a directory");
    let gateway = Arc::new(Approving::default());
    let (shop, store) = open(scratch.path(), gateway.clone(), |settings| {
        with_four(settings);
        settings.transport = Arc::new(Unreliable::default());
    });
    shop.offer(0, 30).await;
    for number in 0..10 {
        shop.wallet(number, 1_000_000).await;
    }
    let ends = rush(&shop, 0, 50, &[0]).await;
    assert_eq!(confirmed(&ends), 30);
    assert_eq!(nothing_reserved(&shop, 0).await, 0);
    let mut paid = i64::try_from(gateway.charges.load(Ordering::Relaxed)).expect("few") * PRICE;
    for number in 0..10 {
        paid += 1_000_000 - balance(&shop, number).await;
    }
    assert_eq!(paid, 30 * PRICE);
    shop.running.stop();
    let reader = store.reader().expect("a reader");
    for shard in four().all() {
        verify_chain(reader.as_ref(), shard).expect("the chain holds");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_in_the_middle_every_order_that_was_acknowledged_ends_after_the_next_start() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (shop, _) = open(scratch.path(), Arc::new(Approving::default()), with_four);
    let acknowledged = shop.stop_in_a_rush().await;
    let (shop, _) = open(scratch.path(), Arc::new(Approving::default()), with_four);
    for id in acknowledged {
        assert_eq!(shop.settled(id).await.0, OrderStatus::Confirmed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_panics_ends_the_engine_and_says_why() {
    for shards in [Shards::ONE, four()] {
        let scratch = tempfile::tempdir().expect("a directory");
        let store: Arc<dyn EventStore> = Arc::new(event_store_sqlite::SqliteStore::open(scratch.path()).expect("a log"));
        let core = engine::CoreSettings {
            shards,
            ..engine::CoreSettings::new(shop::processes(), jiff::tz::TimeZone::UTC, shop::represent)
        };
        let settings = EngineSettings::new(core, uuid::Uuid::from_u128(7));
        let panics = Box::new(|_: &Arc<[aggregates::Recorded]>| panic!("a planted panic"));
        let runtime = tokio::runtime::Handle::current();
        let running = engine::Engine::start(&store, Arc::new(Approving::default()), settings, vec![panics], runtime).expect("it starts");
        let open = Command::Wallet(
            buyer(1),
            aggregates::WalletCommand::Open {
                currency: aggregates::Currency::KRW,
            },
        );
        let answer = running.engine().execute(engine::Request::new(open, shop::cause())).await;
        assert_eq!(answer.expect_err("nobody answers"), EngineError::Stopping);
        let mut ended = running.engine().ended();
        let ended = tokio::time::timeout(Duration::from_secs(10), ended.wait_for(Option::is_some)).await;
        let reason = ended.expect("somebody hears of it").expect("a reason").clone();
        assert_eq!(reason.as_deref(), Some("a thread of the engine panicked"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_keeps_its_shards() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (shop, store) = open(scratch.path(), Arc::new(Approving::default()), with_four);
    shop.offer(0, 1).await;
    shop.running.stop();
    drop(store);
    let store: Arc<dyn EventStore> = Arc::new(event_store_sqlite::SqliteStore::open(scratch.path()).expect("a log"));
    let core = engine::CoreSettings::new(shop::processes(), jiff::tz::TimeZone::UTC, shop::represent);
    let settings = EngineSettings::new(core, uuid::Uuid::from_u128(7));
    let runtime = tokio::runtime::Handle::current();
    let refused = engine::Engine::start(&store, Arc::new(Approving::default()), settings, Vec::new(), runtime);
    let line = refused.expect_err("another number of shards").to_string();
    assert!(
        line.contains("was made with 4 shards") && line.contains("JANGBU_SHARDS=4"),
        "{line}"
    );
}
