//! The engine with its threads, on SQLite: races, refusals under load, and the end.

mod shop;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aggregates::{Command, Currency, FailureCode, Kind, OrderStatus, PaymentMethod, WalletCommand};
use engine::{CoreSettings, Engine, EngineError, EngineSettings, Request};
use event_store::{Batch, CommitError, EventStore, Head, LogReader, LogWriter, MemoryStore, Shards, StoreError, verify_chain};
use shop::{Approving, Shop, buyer, cause, open, processes, product, represent};
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_more_buyers_than_units_exactly_as_many_as_there_are_units_get_one_cold_and_warm() {
    const UNITS: u64 = 40;
    let scratch = tempfile::tempdir().expect("a directory");
    let (shop, _) = open(scratch.path(), Arc::new(Approving::default()), |_| ());
    for number in 0..3 {
        shop.offer(number, UNITS).await;
    }
    for number in 0..10 {
        shop.wallet(number, 10_000_000).await;
    }
    shop.running.stop();

    for round in 0..2_u64 {
        // Cold: right after a start, nothing is in memory.
        let gateway = Arc::new(Approving::default());
        let (shop, store) = open(scratch.path(), gateway.clone(), |_| ());
        if round == 1 {
            for number in 0..3 {
                let receive = aggregates::InventoryCommand::Receive {
                    quantity: UNITS,
                    reference: None,
                };
                shop.ask(Command::Inventory(product(number), receive)).await;
            }
        }
        let at_first = [shop.stock(0).await.0, shop.stock(1).await.0, shop.stock(2).await.0];
        let lines: [&[u128]; 4] = [&[0], &[0, 1], &[1, 0, 2], &[2, 1]];
        let orders: Vec<_> = (0..200_u64)
            .map(|key| {
                let method = if key % 2 == 0 {
                    PaymentMethod::Balance
                } else {
                    PaymentMethod::Card
                };
                let lines = lines[usize::try_from(key % 4).expect("small")];
                (shop.order(round * 1_000 + key, u128::from(key % 10), method, lines), lines)
            })
            .collect();
        let placed = orders.iter().map(|((_, request), _)| {
            let (engine, request) = (shop.engine.clone(), request.clone());
            tokio::spawn(async move { engine.execute(request).await })
        });
        for task in placed.collect::<Vec<_>>() {
            task.await.expect("no panic").expect("an answer").answer.result.expect("accepted");
        }
        let mut sold = [0_u64; 3];
        for ((id, _), lines) in &orders {
            match shop.settled(*id).await {
                (OrderStatus::Confirmed, None) => lines.iter().for_each(|number| sold[usize::try_from(*number).expect("small")] += 1),
                (OrderStatus::Cancelled, Some(FailureCode::OutOfStock)) => {}
                other => panic!("{other:?}"),
            }
        }
        for number in 0..3_u128 {
            let (on_hand, reserved) = shop.stock(number).await;
            assert_eq!(reserved, 0);
            let index = usize::try_from(number).expect("small");
            assert_eq!(on_hand + sold[index], at_first[index], "product {number}");
        }
        // More buyers than there are units want nothing but product 0.
        assert_eq!(shop.stock(0).await.0, 0);
        let published = shop.published.lock().expect("nobody panics").clone();
        assert!(
            published.windows(2).all(|pair| pair[1].1 == pair[0].1 + 1),
            "events are published once, in order"
        );
        shop.running.stop();
        verify_chain(store.reader().expect("a reader").as_ref(), 0).expect("the chain holds");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_racing_itself_is_one_order() {
    let scratch = tempfile::tempdir().expect("a directory");
    let gateway = Arc::new(Approving::default());
    let (shop, _) = open(scratch.path(), gateway.clone(), |_| ());
    shop.offer(0, 100).await;
    let (id, request) = shop.order(1, 0, PaymentMethod::Card, &[0]);
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let (engine, request) = (shop.engine.clone(), request.clone());
            tokio::spawn(async move { engine.execute(request).await.expect("an answer") })
        })
        .collect();
    let mut fresh = 0;
    let mut answers = Vec::new();
    for task in tasks {
        let reply = task.await.expect("no panic");
        fresh += usize::from(!reply.replayed);
        answers.push(reply.answer);
    }
    assert_eq!(fresh, 1);
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(shop.settled(id).await.0, OrderStatus::Confirmed);
    assert_eq!(gateway.charges.load(Ordering::Relaxed), 1);
    assert_eq!(shop.stock(0).await, (99, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_waiting_requests_are_refused_at_once_and_lost_answers_are_not() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (shop, _) = open(scratch.path(), Arc::new(Approving::default()), |settings| settings.queue = 8);
    let (mut accepted, mut refused) = (0, 0);
    for task in shop.rush(400).await {
        match task.await.expect("no panic") {
            (id, Ok(_)) => {
                accepted += 1;
                assert_eq!(shop.settled(id).await.0, OrderStatus::Confirmed);
            }
            (_, Err(EngineError::Overloaded)) => refused += 1,
            (_, Err(other)) => panic!("{other}"),
        }
    }
    assert!(refused > 0, "nothing was refused");
    assert_eq!(shop.stock(0).await, (10_000 - accepted, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_provider_is_asked_for_the_status_after_its_timeout() {
    let scratch = tempfile::tempdir().expect("a directory");
    let gateway = Arc::new(Approving {
        silent: true,
        ..Approving::default()
    });
    let (shop, _) = open(scratch.path(), gateway, |settings| {
        settings.payment_timeout = Duration::from_millis(50);
    });
    shop.offer(0, 100).await;
    let (id, request) = shop.order(1, 0, PaymentMethod::Card, &[0]);
    shop.engine.execute(request).await.expect("an answer");
    assert_eq!(shop.settled(id).await.0, OrderStatus::Confirmed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_panics_is_one_without_an_answer() {
    let scratch = tempfile::tempdir().expect("a directory");
    let gateway = Arc::new(Approving {
        panics: true,
        ..Approving::default()
    });
    let (shop, _) = open(scratch.path(), gateway.clone(), |_| ());
    shop.offer(0, 100).await;
    let (id, request) = shop.order(1, 0, PaymentMethod::Card, &[0]);
    shop.engine.execute(request).await.expect("an answer");
    assert_eq!(shop.settled(id).await.0, OrderStatus::Confirmed);
    assert_eq!(gateway.charges.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_asked_for_as_soon_as_the_engine_starts_again() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (shop, _) = open(
        scratch.path(),
        Arc::new(Approving {
            silent: true,
            ..Approving::default()
        }),
        |settings| settings.payment_timeout = Duration::from_mins(1),
    );
    shop.offer(0, 100).await;
    let (id, request) = shop.order(1, 0, PaymentMethod::Card, &[0]);
    shop.engine.execute(request).await.expect("an answer");
    tokio::task::spawn_blocking(move || shop.running.stop()).await.expect("no panic");

    let (shop, store) = open(scratch.path(), Arc::new(Approving::default()), |_| ());
    // Nobody asks the engine for anything.
    let reader = store.reader().expect("a reader");
    let confirmed = |event: event_store::Event| event.stream.id == id.uuid() && event.event_type == "order.confirmed";
    for _ in 0..500 {
        if reader.events(0, 0, 1_000).expect("the log").into_iter().any(confirmed) {
            drop(shop);
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the order is not confirmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_waiting_makes_no_room_before_the_request_is_answered() {
    let (store, gate) = Gated::new();
    let core = CoreSettings::new(processes(), jiff::tz::TimeZone::UTC, represent);
    let mut settings = EngineSettings::new(core, Uuid::from_u128(7));
    settings.queue = 4;
    let store: Arc<dyn EventStore> = Arc::new(store);
    let gateway = Arc::new(Approving::default());
    let running = Engine::start(&store, gateway, settings, Vec::new(), tokio::runtime::Handle::current()).expect("it starts");
    let engine = running.engine();
    let open = |number| {
        let command = Command::Wallet(buyer(number), WalletCommand::Open { currency: Currency::KRW });
        engine.execute(Request::new(command, cause()))
    };
    let closed = gate.lock().await;
    for number in 0..4 {
        let gone = tokio::time::timeout(Duration::from_millis(10), open(number)).await;
        assert!(gone.is_err(), "nothing is written");
    }
    assert_eq!(open(4).await.expect_err("four are waiting"), EngineError::Overloaded);
    drop(closed);
    for _ in 0..500 {
        if open(5).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("there is no room again");
}

/// A log in memory that writes nothing while its gate is held.
struct Gated {
    store: MemoryStore,
    gate: Arc<tokio::sync::Mutex<()>>,
}

struct GatedWriter {
    writer: Box<dyn LogWriter>,
    gate: Arc<tokio::sync::Mutex<()>>,
}

impl Gated {
    fn new() -> (Self, Arc<tokio::sync::Mutex<()>>) {
        let gate = Arc::default();
        let store = Self {
            store: MemoryStore::default(),
            gate: Arc::clone(&gate),
        };
        (store, gate)
    }
}

impl EventStore for Gated {
    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError> {
        Ok(Box::new(GatedWriter {
            writer: self.store.writer()?,
            gate: Arc::clone(&self.gate),
        }))
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        self.store.reader()
    }
}

impl LogWriter for GatedWriter {
    fn found(&mut self, shards: Shards) -> Result<Shards, StoreError> {
        self.writer.found(shards)
    }

    fn take(&mut self, shard: u16, instance: Uuid, now: i64) -> Result<Head, StoreError> {
        self.writer.take(shard, instance, now)
    }

    fn commit(&mut self, batches: &[&Batch]) -> Result<(), CommitError> {
        let _open = self.gate.blocking_lock();
        self.writer.commit(batches)
    }

    fn heartbeat(&mut self, shard: u16, epoch: u64, now: i64) -> Result<(), CommitError> {
        self.writer.heartbeat(shard, epoch, now)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_engine_has_written_what_it_answered_and_refuses_the_rest() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (shop, _) = open(scratch.path(), Arc::new(Approving::default()), |_| ());
    let engine = shop.engine.clone();
    let acknowledged = shop.stop_in_a_rush().await;
    assert_eq!(
        engine.read(Kind::Product, product(0).uuid()).await.expect_err("it has ended"),
        EngineError::Stopping
    );
    let (shop, _) = open(scratch.path(), Arc::new(Approving::default()), |_| ());
    for id in acknowledged {
        assert_eq!(shop.settled(id).await.0, OrderStatus::Confirmed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_whose_shard_is_taken_over_ends_and_says_why() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (shop, store) = open(scratch.path(), Arc::new(Approving::default()), |_| ());
    shop.offer(0, 10).await;
    let mut other = store.writer().expect("a writer");
    other
        .take(0, Uuid::from_u128(7), shop.engine.now().micros())
        .expect("the same instance");
    shop.wallet_is_refused().await;
    let mut ended = shop.engine.ended();
    tokio::time::timeout(Duration::from_secs(10), ended.wait_for(Option::is_some))
        .await
        .expect("it ends")
        .expect("a reason");
    assert!(ended.borrow().as_deref().is_some_and(|reason| reason.contains("took over")));
}

impl Shop {
    async fn wallet_is_refused(&self) {
        let open = Command::Wallet(buyer(1), WalletCommand::Open { currency: Currency::KRW });
        let error = self.engine.execute(Request::new(open, cause())).await.expect_err("it is fenced");
        assert_eq!(error, EngineError::Stopping);
    }
}

/// A store in memory whose writer panics at its first batch.
struct PanickingStore(MemoryStore);

struct PanickingWriter(Box<dyn LogWriter>);

impl EventStore for PanickingStore {
    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError> {
        Ok(Box::new(PanickingWriter(self.0.writer()?)))
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        self.0.reader()
    }
}

impl LogWriter for PanickingWriter {
    fn found(&mut self, shards: Shards) -> Result<Shards, StoreError> {
        self.0.found(shards)
    }

    fn take(&mut self, shard: u16, instance: Uuid, now: i64) -> Result<Head, StoreError> {
        self.0.take(shard, instance, now)
    }

    fn commit(&mut self, _: &[&Batch]) -> Result<(), CommitError> {
        panic!("a planted panic")
    }

    fn heartbeat(&mut self, shard: u16, epoch: u64, now: i64) -> Result<(), CommitError> {
        self.0.heartbeat(shard, epoch, now)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_panics_ends_the_engine_and_leaves_nobody_waiting() {
    let store: Arc<dyn EventStore> = Arc::new(PanickingStore(MemoryStore::default()));
    let core = CoreSettings::new(processes(), jiff::tz::TimeZone::UTC, represent);
    let settings = EngineSettings::new(core, Uuid::from_u128(7));
    let gateway = Arc::new(Approving::default());
    let running = Engine::start(&store, gateway, settings, vec![], tokio::runtime::Handle::current()).expect("it starts");
    let open = Command::Wallet(buyer(1), WalletCommand::Open { currency: Currency::KRW });
    let engine = running.engine();
    let answer = engine.execute(Request::new(open, cause()));
    let answer = tokio::time::timeout(Duration::from_secs(10), answer)
        .await
        .expect("nobody waits for ever");
    assert_eq!(answer.expect_err("it is not written"), EngineError::Stopping);
    let mut ended = engine.ended();
    tokio::time::timeout(Duration::from_secs(10), ended.wait_for(Option::is_some))
        .await
        .expect("it ends")
        .expect("a reason");
}
