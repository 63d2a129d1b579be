//! A small shop around a running engine, on SQLite.

#![allow(dead_code, reason = "each test uses a part of it")]

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
use engine::{Actor, Cause, CoreSettings, Engine, EngineError, EngineSettings, Idempotency, Reply, Request, Running, Until};
use event_store::{EventStore, RecordKey};
use event_store_sqlite::SqliteStore;
use payment_gateway::{Answer, Cancellation, CancellationOutcome, Charge, ChargeOutcome, PaymentGateway, StatusOutcome, StatusQuery};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// A provider that approves everything it answers, and counts.
#[derive(Default)]
pub(crate) struct Approving {
    pub(crate) charges: AtomicUsize,
    pub(crate) silent: bool,
    pub(crate) panics: bool,
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

pub(crate) const PRICE: i64 = 5_000;

/// Where everything is asked and changed.
pub(crate) struct Counter {
    pub(crate) engine: Engine,
}

pub(crate) struct Shop {
    pub(crate) running: Running,
    pub(crate) counter: Counter,
    /// Shard and position of every event, as they were published.
    pub(crate) published: Arc<Mutex<Vec<(u16, u64)>>>,
}

impl std::ops::Deref for Shop {
    type Target = Counter;

    fn deref(&self) -> &Counter {
        &self.counter
    }
}

pub(crate) fn krw(amount: i64) -> Money {
    Money::new(amount, Currency::KRW)
}

pub(crate) fn product(number: u128) -> ProductId {
    ProductId::new(Uuid::from_u128(0x1000 + number))
}

pub(crate) fn buyer(number: u128) -> AccountId {
    AccountId::new(Uuid::from_u128(0x2000 + number))
}

pub(crate) fn cause() -> Cause {
    Cause {
        actor: Actor::System,
        correlation: Uuid::new_v4(),
        traceparent: None,
    }
}

pub(crate) fn processes() -> sagas::Settings {
    sagas::Settings {
        currency: Currency::KRW,
        reservation_ttl: Duration::from_hours(1),
        payment_deadline: Duration::from_mins(10),
        stuck_after: Duration::from_hours(24),
    }
}

pub(crate) fn represent(_: Kind, id: Uuid, _: &State, version: u64) -> Vec<u8> {
    format!(r#"{{"id":"{id}","version":{version}}}"#).into_bytes()
}

pub(crate) fn open(
    data: &std::path::Path,
    gateway: Arc<dyn PaymentGateway>,
    change: impl FnOnce(&mut EngineSettings),
) -> (Shop, Arc<dyn EventStore>) {
    let store: Arc<dyn EventStore> = Arc::new(SqliteStore::open(data).expect("a log"));
    let core = CoreSettings::new(processes(), jiff::tz::TimeZone::UTC, represent);
    let mut settings = EngineSettings::new(core, Uuid::from_u128(7));
    change(&mut settings);
    let published = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&published);
    let subscriber = Box::new(move |events: &Arc<[Recorded]>| {
        seen.lock()
            .expect("nobody panics")
            .extend(events.iter().map(|event| (event.shard, event.position)));
    });
    let running = Engine::start(&store, gateway, settings, vec![subscriber], tokio::runtime::Handle::current()).expect("it starts");
    (
        Shop {
            counter: Counter { engine: running.engine() },
            running,
            published,
        },
        store,
    )
}

impl Counter {
    pub(crate) async fn ask(&self, command: Command) {
        let reply = self.engine.execute(Request::new(command, cause())).await.expect("an answer");
        reply.answer.result.expect("not refused");
    }

    pub(crate) async fn offer(&self, number: u128, stock: u64) {
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

    pub(crate) async fn wallet(&self, number: u128, amount: i64) {
        self.ask(Command::Wallet(buyer(number), WalletCommand::Open { currency: Currency::KRW }))
            .await;
        self.ask(Command::Wallet(buyer(number), WalletCommand::Deposit { amount: krw(amount) }))
            .await;
    }

    pub(crate) fn order(&self, key: u64, by: u128, method: PaymentMethod, products: &[u128]) -> (OrderId, Request) {
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

    /// Places so many orders at once, all of the first product and the first buyer, who have enough for all of them.
    pub(crate) async fn rush(&self, orders: u64) -> Vec<JoinHandle<(OrderId, Result<Reply, EngineError>)>> {
        self.offer(0, 10_000).await;
        self.wallet(0, 1_000_000_000).await;
        let place = |key| {
            let (id, request) = self.order(key, 0, PaymentMethod::Balance, &[0]);
            let engine = self.engine.clone();
            tokio::spawn(async move { (id, engine.execute(request).await) })
        };
        (0..orders).map(place).collect()
    }

    pub(crate) async fn settled(&self, id: OrderId) -> (OrderStatus, Option<FailureCode>) {
        let watch = self.engine.watch(Kind::Order, id.uuid(), Until::OrderSettled);
        let versioned = tokio::time::timeout(Duration::from_secs(30), watch)
            .await
            .expect("it settles")
            .expect("an answer");
        let State::Order(order) = versioned.state else {
            panic!("not an order")
        };
        (order.status(), order.failure().map(|(code, _)| code))
    }

    pub(crate) async fn stock(&self, number: u128) -> (u64, u64) {
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

impl Shop {
    /// Stops the engine while many orders are being placed; returns those that were acknowledged. The others hear that it stops.
    pub(crate) async fn stop_in_a_rush(self) -> Vec<OrderId> {
        let tasks = self.rush(300).await;
        tokio::task::spawn_blocking(move || self.running.stop()).await.expect("no panic");
        let mut acknowledged = Vec::new();
        for task in tasks {
            match task.await.expect("no panic") {
                (id, Ok(_)) => acknowledged.push(id),
                (_, Err(error)) => assert_eq!(error, EngineError::Stopping),
            }
        }
        acknowledged
    }
}
