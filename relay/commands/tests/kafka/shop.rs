//! A small shop whose engines reach one another through Kafka.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use aggregates::{
    AccountId, Command, Currency, Kind, Money, OrderCommand, OrderId, OrderStatus, PaymentMethod, PlaceOrder, ProductCommand, ProductId,
    Quantity, RequestedLine, Sealed, State, Stock, TrackingId, WalletCommand,
};
use engine::{Actor, Cause, CoreSettings, Engine, EngineError, EngineSettings, Engines, Idempotency, Reply, Request, Shards, Until};
use event_store::{EventStore, MemoryStore, RecordKey, verify_chain};
use parking_lot::Mutex;
use payment_gateway::{Answer, Cancellation, CancellationOutcome, Charge, ChargeOutcome, PaymentGateway, StatusOutcome, StatusQuery};
use relay::KafkaSettings;
use relay_commands::{Commands, CommandsSettings, Member};
use tokio::{runtime::Handle, task::JoinSet};
use uuid::Uuid;

use crate::{PATIENCE, eventually, lines::Lines};

pub(crate) const SHARDS: u16 = 16;
pub(crate) const PRODUCTS: u128 = 8;
pub(crate) const BUYERS: u64 = 10;
pub(crate) const PRICE: i64 = 5_000;
/// Of each buyer.
const BALANCE: i64 = 1_000_000_000;

/// A provider that approves everything, and charges once for each key.
#[derive(Default)]
pub(crate) struct Provider {
    charges: Mutex<HashMap<String, i64>>,
}

impl PaymentGateway for Provider {
    fn charge(&self, charge: Charge) -> Answer<'_, ChargeOutcome> {
        Box::pin(async move {
            let amount = charge.amount;
            self.charges.lock().insert(charge.idempotency_key, amount);
            ChargeOutcome::Charged { amount }
        })
    }

    fn status(&self, query: StatusQuery) -> Answer<'_, StatusOutcome> {
        Box::pin(async move {
            StatusOutcome::Charged {
                amount: 2 * PRICE,
                order_reference: query.order_reference,
            }
        })
    }

    fn cancel(&self, _: Cancellation) -> Answer<'_, CancellationOutcome> {
        Box::pin(async { CancellationOutcome::Cancelled })
    }
}

/// A log, and how its engines are reached.
pub(crate) struct Shop {
    pub(crate) store: Arc<dyn EventStore>,
    provider: Arc<Provider>,
    pub(crate) settings: CommandsSettings,
}

/// A process that takes shards, or has left the group.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) engine: Engine,
    pub(crate) member: Option<Member>,
    pub(crate) commands: Arc<Commands>,
}

/// A process that only asks.
#[derive(Clone)]
pub(crate) struct Outside {
    pub(crate) engine: Engine,
    pub(crate) commands: Arc<Commands>,
}

/// What was sold: of each product, and by card or from balances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sold {
    pub(crate) confirmed: u64,
    pub(crate) cancelled: u64,
}

/// Everybody buys until they are told to stop.
pub(crate) struct Buying {
    tasks: JoinSet<Sold>,
    stopped: Arc<AtomicBool>,
    pub(crate) settled: Arc<AtomicU64>,
}

pub(crate) fn shards() -> Shards {
    Shards::new(SHARDS).expect("sixteen")
}

pub(crate) fn krw(amount: i64) -> Money {
    Money::new(amount, Currency::KRW)
}

pub(crate) fn product(number: u128) -> ProductId {
    ProductId::new(Uuid::from_u128(0x1000 + number))
}

pub(crate) fn buyer(number: u64) -> AccountId {
    AccountId::new(Uuid::from_u128(0x2000 + u128::from(number)))
}

pub(crate) fn cause() -> Cause {
    Cause {
        actor: Actor::System,
        correlation: Uuid::new_v4(),
        traceparent: None,
    }
}

fn core() -> CoreSettings {
    let processes = sagas::Settings {
        currency: Currency::KRW,
        reservation_ttl: Duration::from_hours(1),
        payment_deadline: Duration::from_mins(10),
        stuck_after: Duration::from_hours(24),
    };
    CoreSettings {
        shards: shards(),
        others_read_anew: true,
        ..CoreSettings::new(processes, jiff::tz::TimeZone::UTC, |_, id, _, version| {
            format!(r#"{{"id":"{id}","version":{version}}}"#).into_bytes()
        })
    }
}

impl Shop {
    /// In topics that no other test has.
    pub(crate) fn new(brokers: &str) -> Self {
        Self::on(brokers, Arc::new(MemoryStore::default()))
    }

    pub(crate) fn on(brokers: &str, store: Arc<dyn EventStore>) -> Self {
        Lines::kept();
        let mut settings = CommandsSettings::new(KafkaSettings::plaintext(brokers), shards());
        settings.topics.prefix = format!("t{}.", Uuid::new_v4().simple());
        settings.group = format!("{}engines", settings.topics.prefix);
        Self {
            store,
            provider: Arc::default(),
            settings,
        }
    }

    /// A process that reaches Kafka by these brokers, in the group or soon.
    pub(crate) fn process_by(&self, brokers: &str) -> Process {
        let (commands, settings) = self.way_by(brokers);
        let engines = Engines::new(&self.store, self.provider.clone(), settings, Vec::new(), Handle::current());
        Process {
            engine: engines.engine(),
            member: Some(commands.join(engines, Handle::current()).expect("sound settings")),
            commands: Arc::new(commands),
        }
    }

    pub(crate) fn process(&self) -> Process {
        self.process_by(&self.settings.kafka.brokers)
    }

    pub(crate) fn outside_by(&self, brokers: &str) -> Outside {
        let (commands, settings) = self.way_by(brokers);
        Outside {
            engine: Engine::asking(shards(), Uuid::nil(), &settings),
            commands: Arc::new(commands),
        }
    }

    pub(crate) fn outside(&self) -> Outside {
        self.outside_by(&self.settings.kafka.brokers)
    }

    fn way_by(&self, brokers: &str) -> (Commands, EngineSettings) {
        let settings = CommandsSettings {
            kafka: KafkaSettings::plaintext(brokers),
            ..self.settings.clone()
        };
        let node = Uuid::new_v4();
        let commands = Commands::open(settings, node).expect("sound settings");
        let settings = EngineSettings {
            transport: commands.transport(),
            elsewhere: Some(commands.elsewhere()),
            ..EngineSettings::new(core(), node)
        };
        (commands, settings)
    }

    /// Everything that was sold was paid for and taken from the stock, once; nothing is reserved or owed any more.
    pub(crate) async fn assert_exact(&self, outside: &Outside, stock: u64, confirmed: u64) {
        eventually("nothing is owed", || self.owes_nothing()).await;
        let mut taken = 0;
        for number in 0..PRODUCTS {
            let State::Inventory(inventory) = outside.read(Kind::Inventory, product(number).uuid()).await else {
                panic!("not an inventory")
            };
            assert_eq!(inventory.reserved(), 0, "of product {number}");
            taken += stock - inventory.on_hand();
        }
        assert_eq!(taken, 2 * confirmed, "an order takes two");
        let mut paid: i64 = self.provider.charges.lock().values().sum();
        for number in 0..BUYERS {
            paid += BALANCE - outside.balance(number).await;
        }
        assert_eq!(paid, 2 * PRICE * i64::try_from(confirmed).expect("few"));
        let reader = self.store.reader().expect("a reader");
        for shard in shards().all() {
            verify_chain(reader.as_ref(), shard).expect("the chain holds");
        }
    }

    fn owes_nothing(&self) -> bool {
        let reader = self.store.reader().expect("a reader");
        shards()
            .all()
            .all(|shard| reader.unfinished(shard).expect("read").effects.is_empty())
    }
}

impl Process {
    /// As one of its own handlers asks.
    pub(crate) fn inside(&self) -> Outside {
        Outside {
            engine: self.engine.clone(),
            commands: Arc::clone(&self.commands),
        }
    }

    /// How many shards run here.
    pub(crate) fn running(&self) -> usize {
        self.member.as_ref().map_or(0, |member| member.standing().running.len())
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.member.as_ref().is_some_and(|member| member.standing().is_ready()) && self.commands.hindrance().is_none()
    }

    /// Leaves in order.
    pub(crate) async fn leaves(&mut self) {
        let member = self.member.take().expect("it is in the group");
        tokio::task::spawn_blocking(move || member.stop()).await.expect("no panic");
    }
}

/// All shards run, and each process knows that all is well.
pub(crate) async fn all_run(processes: &[&Process]) {
    eventually("all shards run", || {
        let running: usize = processes.iter().map(|process| process.running()).sum();
        running == usize::from(SHARDS) && processes.iter().all(|process| process.is_ready())
    })
    .await;
}

impl Outside {
    /// Asks until there is an answer: the request has a key.
    pub(crate) async fn execute(&self, request: Request) -> Reply {
        let begun = std::time::Instant::now();
        loop {
            match self.engine.execute(request.clone()).await {
                Ok(reply) => return reply,
                Err(EngineError::NoAnswer(_) | EngineError::Unavailable(_) | EngineError::Overloaded) => {
                    assert!(begun.elapsed() < PATIENCE, "no answer");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) async fn ask(&self, command: Command) {
        let reply = self.engine.execute(Request::new(command, cause())).await.expect("an answer");
        reply.answer.result.expect("not refused");
    }

    pub(crate) async fn read(&self, kind: Kind, id: Uuid) -> State {
        self.engine.read(kind, id).await.expect("an answer").expect("it exists").state
    }

    pub(crate) async fn balance(&self, number: u64) -> i64 {
        let State::Wallet(wallet) = self.read(Kind::Wallet, buyer(number).uuid()).await else {
            panic!("not a wallet")
        };
        wallet.balance().expect("open").minor()
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

    pub(crate) async fn wallet(&self, number: u64, amount: i64) {
        self.ask(Command::Wallet(buyer(number), WalletCommand::Open { currency: Currency::KRW }))
            .await;
        self.ask(Command::Wallet(buyer(number), WalletCommand::Deposit { amount: krw(amount) }))
            .await;
    }

    /// Eight products with so many each, and ten buyers.
    pub(crate) async fn open_with(&self, stock: u64) {
        for number in 0..PRODUCTS {
            self.offer(number, stock).await;
        }
        for number in 0..BUYERS {
            self.wallet(number, BALANCE).await;
        }
    }

    /// The order of this number, one of each of these products.
    pub(crate) fn order(&self, key: u64, products: &[u128]) -> (OrderId, Request) {
        let id = OrderId::new(Uuid::new_v5(&Uuid::NAMESPACE_OID, &key.to_le_bytes()));
        let by_card = key % 2 == 1;
        let line = |number: &u128| RequestedLine {
            product: product(*number),
            quantity: Quantity::parse(1).expect("a quantity"),
            stated_price: None,
            offer: None,
        };
        let place = PlaceOrder {
            buyer: buyer(key % BUYERS),
            lines: products.iter().map(line).collect(),
            stated_total: None,
            address: Sealed::new("v1.sealed"),
            method: if by_card { PaymentMethod::Card } else { PaymentMethod::Balance },
            payment_key: by_card.then(|| format!("sim_ok_{key}").parse().expect("a key")),
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
        let request = Request {
            idempotency,
            ..Request::new(Command::Order(id, OrderCommand::Place(Box::new(place))), cause())
        };
        (id, request)
    }

    /// Buys two different products.
    async fn buy(&self, key: u64) -> OrderStatus {
        let first = u128::from(key) % PRODUCTS;
        let (id, request) = self.order(key, &[first, (first + 3) % PRODUCTS]);
        self.execute(request).await.answer.result.expect("accepted");
        self.settled(id).await
    }

    pub(crate) async fn settled(&self, id: OrderId) -> OrderStatus {
        let watch = self.engine.watch(Kind::Order, id.uuid(), Until::OrderSettled);
        let settled = tokio::time::timeout(PATIENCE, watch).await.expect("it settles").expect("an answer");
        let State::Order(order) = settled.state else {
            panic!("not an order")
        };
        order.status()
    }

    /// So many at once buy so much each.
    pub(crate) async fn sell(&self, buyers: u64, each: u64) -> Sold {
        let mut tasks = JoinSet::new();
        for buying in 0..buyers {
            let shop = self.clone();
            tasks.spawn(async move {
                let mut sold = Sold::default();
                for number in 0..each {
                    sold.count(shop.buy(buying * each + number).await);
                }
                sold
            });
        }
        sum(tasks).await
    }

    /// So many at once buy until they are told to stop.
    pub(crate) fn everybody_buys(&self, buyers: u64) -> Buying {
        let (stopped, settled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for buying in 0..buyers {
            let (shop, stopped, settled) = (self.clone(), Arc::clone(&stopped), Arc::clone(&settled));
            tasks.spawn(async move {
                let mut sold = Sold::default();
                for number in 0.. {
                    if stopped.load(Ordering::Relaxed) {
                        break;
                    }
                    sold.count(shop.buy(number * buyers + buying).await);
                    settled.fetch_add(1, Ordering::Relaxed);
                }
                sold
            });
        }
        Buying { tasks, stopped, settled }
    }
}

async fn sum(mut tasks: JoinSet<Sold>) -> Sold {
    let mut all = Sold::default();
    while let Some(sold) = tasks.join_next().await {
        let sold = sold.expect("no panic");
        all.confirmed += sold.confirmed;
        all.cancelled += sold.cancelled;
    }
    all
}

impl Sold {
    fn count(&mut self, status: OrderStatus) {
        match status {
            OrderStatus::Confirmed => self.confirmed += 1,
            OrderStatus::Cancelled => self.cancelled += 1,
            other => panic!("{other:?}"),
        }
    }
}

impl Buying {
    /// So many more orders settle.
    pub(crate) async fn goes_on_for(&self, orders: u64) {
        let from = self.settled.load(Ordering::Relaxed);
        eventually("orders settle", || self.settled.load(Ordering::Relaxed) >= from + orders).await;
    }

    /// What is begun settles.
    pub(crate) async fn ends(self) -> Sold {
        self.stopped.store(true, Ordering::Relaxed);
        sum(self.tasks).await
    }
}
