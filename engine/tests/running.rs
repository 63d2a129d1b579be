//! The engine with its threads, on SQLite: races, refusals under load, and the end.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aggregates::{
    AccountId, Command, Currency, FailureCode, Kind, Money, OrderCommand, OrderId, OrderStatus, PaymentMethod, PlaceOrder, ProductCommand,
    ProductId, Quantity, Recorded, RequestedLine, Sealed, State, Stock, TrackingId, WalletCommand,
};
use engine::{Actor, Cause, CoreSettings, Engine, EngineError, EngineSettings, Idempotency, Request, Running};
use event_store::{Batch, CommitError, EventStore, Head, LogReader, LogWriter, MemoryStore, RecordKey, Shards, StoreError, verify_chain};
use event_store_sqlite::SqliteStore;
use payment_gateway::{Answer, Cancellation, CancellationOutcome, Charge, ChargeOutcome, PaymentGateway, StatusOutcome, StatusQuery};
use uuid::Uuid;

/// A provider that approves everything it answers, and counts.
#[derive(Default)]
struct Approving {
    charges: AtomicUsize,
    silent: bool,
    panics: bool,
}

impl PaymentGateway for Approving {
    fn charge(&self, charge: Charge) -> Answer<'_, ChargeOutcome> {
        Box::pin(async move {
            if self.silent {
                std::future::pending::<()>().await;
            }
            self.charges.fetch_add(1, Ordering::Relaxed);
            assert!(!self.panics, "a planted panic");
            ChargeOutcome::Charged { amount: charge.amount }
        })
    }

    fn status(&self, query: StatusQuery) -> Answer<'_, StatusOutcome> {
        Box::pin(async move {
            StatusOutcome::Charged {
                amount: PRICE,
                order_reference: query.order_reference,
            }
        })
    }

    fn cancel(&self, _: Cancellation) -> Answer<'_, CancellationOutcome> {
        Box::pin(async { CancellationOutcome::Cancelled })
    }
}

const PRICE: i64 = 5_000;

struct Shop {
    running: Running,
    engine: Engine,
    published: Arc<Mutex<Vec<u64>>>,
}

fn krw(amount: i64) -> Money {
    Money::new(amount, Currency::KRW)
}

fn product(number: u128) -> ProductId {
    ProductId::new(Uuid::from_u128(0x1000 + number))
}

fn buyer(number: u128) -> AccountId {
    AccountId::new(Uuid::from_u128(0x2000 + number))
}

fn cause() -> Cause {
    Cause {
        actor: Actor::System,
        correlation: Uuid::new_v4(),
        traceparent: None,
    }
}

fn processes() -> sagas::Settings {
    sagas::Settings {
        currency: Currency::KRW,
        reservation_ttl: Duration::from_hours(1),
        payment_deadline: Duration::from_mins(10),
        stuck_after: Duration::from_hours(24),
    }
}

fn represent(_: Kind, id: Uuid, _: &State, version: u64) -> Vec<u8> {
    format!(r#"{{"id":"{id}","version":{version}}}"#).into_bytes()
}

fn open(data: &std::path::Path, gateway: Arc<dyn PaymentGateway>, change: impl FnOnce(&mut EngineSettings)) -> (Shop, Arc<dyn EventStore>) {
    let store: Arc<dyn EventStore> = Arc::new(SqliteStore::open(data).expect("a log"));
    let core = CoreSettings::new(processes(), jiff::tz::TimeZone::UTC, represent);
    let mut settings = EngineSettings::new(core, Uuid::from_u128(7));
    change(&mut settings);
    let published = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&published);
    let subscriber = Box::new(move |events: &Arc<[Recorded]>| {
        seen.lock()
            .expect("nobody panics")
            .extend(events.iter().map(|event| event.position));
    });
    let running = Engine::start(&store, gateway, settings, vec![subscriber], tokio::runtime::Handle::current()).expect("it starts");
    (
        Shop {
            engine: running.engine(),
            running,
            published,
        },
        store,
    )
}

impl Shop {
    async fn ask(&self, command: Command) {
        let reply = self.engine.execute(Request::new(command, cause())).await.expect("an answer");
        reply.answer.result.expect("not refused");
    }

    async fn offer(&self, number: u128, stock: u64) {
        let create = ProductCommand::Create {
            seller: buyer(999),
            sku: "SKU".parse().expect("a SKU"),
            name: "Coffee".parse().expect("a name"),
            description: None,
            price: krw(PRICE),
            stock: Stock::OnHand(stock),
            at: self.engine.now(),
        };
        self.ask(Command::Product(product(number), create)).await;
    }

    async fn wallet(&self, number: u128, amount: i64) {
        self.ask(Command::Wallet(buyer(number), WalletCommand::Open { currency: Currency::KRW }))
            .await;
        self.ask(Command::Wallet(buyer(number), WalletCommand::Deposit { amount: krw(amount) }))
            .await;
    }

    fn order(&self, key: u64, by: u128, method: PaymentMethod, products: &[u128]) -> (OrderId, Request) {
        let id = OrderId::new(Uuid::new_v5(&Uuid::NAMESPACE_OID, &key.to_le_bytes()));
        let line = |number: &u128| RequestedLine {
            product: product(*number),
            quantity: Quantity::parse(1).expect("a quantity"),
            stated_price: None,
            offer: None,
        };
        let place = PlaceOrder {
            buyer: buyer(by),
            lines: products.iter().map(line).collect(),
            stated_total: None,
            address: Sealed::new("v1.sealed"),
            method,
            payment_key: (method == PaymentMethod::Card).then(|| format!("sim_ok_{key}").parse().expect("a key")),
            number: None,
            tracking: TrackingId::for_order(id),
            at: self.engine.now(),
        };
        let mut record = [0; 16];
        record[..8].copy_from_slice(&key.to_le_bytes());
        let idempotency = Some(Idempotency {
            key: key.to_string(),
            record: RecordKey(record),
            fingerprint: [0; 16],
        });
        (
            id,
            Request {
                idempotency,
                ..Request::new(Command::Order(id, OrderCommand::Place(Box::new(place))), cause())
            },
        )
    }

    async fn settled(&self, id: OrderId) -> (OrderStatus, Option<FailureCode>) {
        let settled = |state: &State| matches!(state, State::Order(order) if order.settled());
        let watch = self.engine.watch(Kind::Order, id.uuid(), settled);
        let versioned = tokio::time::timeout(Duration::from_secs(30), watch)
            .await
            .expect("it settles")
            .expect("an answer");
        let State::Order(order) = versioned.state else {
            panic!("not an order")
        };
        (order.status(), order.failure().map(|(code, _)| code))
    }

    async fn stock(&self, number: u128) -> (u64, u64) {
        let versioned = self
            .engine
            .read(Kind::Inventory, product(number).uuid())
            .await
            .expect("an answer")
            .expect("it exists");
        let State::Inventory(inventory) = versioned.state else {
            panic!("not an inventory")
        };
        (inventory.on_hand(), inventory.reserved())
    }
}

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
            published.windows(2).all(|pair| pair[1] == pair[0] + 1),
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
    shop.offer(0, 10_000).await;
    shop.wallet(0, 1_000_000_000).await;
    let tasks: Vec<_> = (0..400_u64)
        .map(|key| {
            let (id, request) = shop.order(key, 0, PaymentMethod::Balance, &[0]);
            let engine = shop.engine.clone();
            tokio::spawn(async move { (id, engine.execute(request).await) })
        })
        .collect();
    let (mut accepted, mut refused) = (0, 0);
    for task in tasks {
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
    shop.offer(0, 10_000).await;
    shop.wallet(0, 1_000_000_000).await;
    let engine = shop.engine.clone();
    let tasks: Vec<_> = (0..300_u64)
        .map(|key| {
            let (id, request) = shop.order(key, 0, PaymentMethod::Balance, &[0]);
            let engine = shop.engine.clone();
            tokio::spawn(async move { (id, engine.execute(request).await) })
        })
        .collect();
    tokio::task::spawn_blocking(move || shop.running.stop()).await.expect("no panic");
    let mut acknowledged = Vec::new();
    for task in tasks {
        match task.await.expect("no panic") {
            (id, Ok(_)) => acknowledged.push(id),
            (_, Err(error)) => assert_eq!(error, EngineError::Stopping),
        }
    }
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
