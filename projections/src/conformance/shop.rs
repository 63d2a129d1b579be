//! A shop for tests: a log in memory, and events as a shop records them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aggregates::{
    AccountEvent, AccountId, CommerceEvent, Currency, EmailIndex, FailureCode, InventoryEvent, Kind, Line, Money, Obstacle, OrderEvent,
    OrderId, PaymentEvent, PaymentId, PaymentMethod, ProductEvent, ProductId, Quantity, Recorded, Registration, Role, Sealed, Stock,
    Timestamp, TrackingId, WalletEvent,
};
use event_store::{
    Batch, Event, EventStore, Hash, Head, IdempotencyRecord, LogReader, LogWriter, MemoryStore, Parked, RecordKey, Shards, StoreError,
    StreamId, StreamRead, StreamSlice, Unfinished, Unparked, batch_hash,
};
use tokio::sync::watch;
use uuid::Uuid;

use super::Place;
use crate::{Progress, Runner, RunnerHandle, RunnerSettings, RunnerState, Views};

/// A log with one writer.
pub struct Log {
    /// What the runner reads.
    pub store: MemoryStore,
    writer: Box<dyn LogWriter>,
    heads: BTreeMap<u16, Head>,
    sequences: HashMap<(&'static str, Uuid), u64>,
    /// So many microseconds lie between one record and the next.
    pace: i64,
}

impl Log {
    /// A log that does not say how many shards it has.
    pub fn new(id: u128) -> Self {
        let store = MemoryStore::new(Uuid::from_u128(id));
        let writer = store.writer().expect("a writer");
        Self {
            store,
            writer,
            heads: BTreeMap::new(),
            sequences: HashMap::new(),
            pace: 1_000,
        }
    }

    /// A log that says how many shards it has, each with a head.
    pub fn of(id: u128, shards: u16) -> Self {
        let mut log = Self::new(id);
        for shard in log.found(shards).all() {
            log.head(shard);
        }
        log
    }

    /// Says how many shards it has.
    pub fn found(&mut self, shards: u16) -> Shards {
        let count = Shards::new(shards).expect("a few shards");
        self.writer.found(count).expect("a new log")
    }

    /// What is recorded from now on happens at other times than in a log that has recorded the same so far.
    pub fn part(&mut self) {
        self.pace += 1;
    }

    /// Records what happened in a shard, and returns it as it was recorded. None stands for a process's event.
    pub fn record(&mut self, shard: u16, happened: &[Option<CommerceEvent>]) -> Arc<[Recorded]> {
        let head = self.head(shard).clone();
        let at = Timestamp::from_micros(head.recorded_at + self.pace);
        let recorded: Arc<[Recorded]> = happened
            .iter()
            .zip(head.position + 1..)
            .map(|(event, position)| {
                let sequence = self.next(
                    event
                        .as_ref()
                        .map_or(("purchase", Uuid::nil()), |event| (event.source().0.name(), event.source().1)),
                );
                Recorded {
                    shard,
                    position,
                    sequence,
                    at,
                    event: event.clone(),
                }
            })
            .collect();
        let events = recorded.iter().map(stored).collect();
        self.append(shard, events);
        recorded
    }

    /// Records a payload that no version of ours has written.
    pub fn record_poison(&mut self, shard: u16) -> u64 {
        let position = self.head(shard).position + 1;
        let stream = StreamId::new(Kind::Order.name(), Uuid::from_u128(666));
        let poison = Event {
            shard,
            position,
            stream,
            sequence: 1,
            event_id: Uuid::from_u128(666),
            event_type: "order.vanished".into(),
            event_version: "9.0.0".into(),
            recorded_at: 1,
            payload: r#"{"type":"order.vanished"}"#.into(),
            metadata: "{}".into(),
        };
        self.append(shard, vec![poison]);
        position
    }

    fn head(&mut self, shard: u16) -> &Head {
        let writer = &mut self.writer;
        self.heads
            .entry(shard)
            .or_insert_with(|| writer.take(shard, Uuid::nil(), 0).expect("the shard"))
    }

    fn next(&mut self, stream: (&'static str, Uuid)) -> u64 {
        let sequence = self.sequences.entry(stream).or_default();
        *sequence += 1;
        *sequence
    }

    fn append(&mut self, shard: u16, events: Vec<Event>) {
        let head = self.head(shard).clone();
        let batch = Batch {
            shard,
            epoch: head.epoch,
            first_position: head.position + 1,
            hash: batch_hash(&head.hash, &events),
            previous_hash: head.hash,
            events,
            ..Batch::default()
        };
        self.writer.commit(&[&batch]).expect("a commit");
        let recorded_at = batch.events.last().map_or(head.recorded_at, |event| event.recorded_at);
        self.heads.insert(
            shard,
            Head {
                position: batch.last_position(),
                hash: batch.hash,
                recorded_at,
                ..head
            },
        );
    }

    /// When the last event of a shard was recorded.
    pub fn ended_at(&self, shard: u16) -> Timestamp {
        let at = self.heads.get(&shard).map_or(0, |head| head.recorded_at);
        Timestamp::from_micros(at)
    }

    /// Where each shard ends.
    pub fn positions(&self) -> BTreeMap<u16, u64> {
        self.heads.iter().map(|(shard, head)| (*shard, head.position)).collect()
    }
}

fn stored(recorded: &Recorded) -> Event {
    let (stream, name, payload) = match &recorded.event {
        Some(event) => {
            let (kind, id) = event.source();
            (
                StreamId::new(kind.name(), id),
                event.stored_name(),
                event.payload().expect("a payload"),
            )
        }
        None => (StreamId::new("purchase", Uuid::nil()), "purchase.reacted", "{}".to_owned()),
    };
    Event {
        shard: recorded.shard,
        position: recorded.position,
        stream,
        sequence: recorded.sequence,
        event_id: Uuid::from_u64_pair(u64::from(recorded.shard), recorded.position),
        event_type: name.into(),
        event_version: "1.0.0".into(),
        recorded_at: recorded.at.micros(),
        payload: payload.into(),
        metadata: "{}".into(),
    }
}

/// Starts a runner on the views of a place.
pub fn start(log: &Log, place: &impl Place, settings: RunnerSettings) -> (RunnerHandle, Arc<dyn Views>) {
    let (writer, views) = place.open();
    let handle = Runner::start(Arc::new(log.store.clone()), writer, settings).expect("a thread");
    (handle, views)
}

/// Settings for a log that changes all the time.
pub fn quick() -> RunnerSettings {
    RunnerSettings {
        poll: Duration::from_millis(5),
        standby: Duration::from_millis(5),
        backoff: (Duration::from_millis(5), Duration::from_millis(20)),
        ..RunnerSettings::default()
    }
}

/// Waits until the progress is as wanted.
pub fn wait_for(handle: &RunnerHandle, wanted: impl FnMut(&Progress) -> bool) -> Progress {
    progress_is(&handle.progress(), wanted)
}

/// Waits until this progress is as wanted.
pub fn progress_is(progress: &watch::Receiver<Progress>, wanted: impl FnMut(&Progress) -> bool) -> Progress {
    let mut progress = progress.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let seen = runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), progress.wait_for(wanted))
            .await
            .map(|seen| seen.map(|seen| seen.clone()))
    });
    seen.expect("it happens in time").expect("somebody says so")
}

/// Waits until all of the log counts.
pub fn wait_until_counted(handle: &RunnerHandle, log: &Log) -> Progress {
    let wanted = log.positions();
    wait_for(handle, |progress| {
        let goes_on = matches!(progress.state, RunnerState::Running | RunnerState::StandingBy { .. });
        goes_on && wanted.iter().all(|(shard, position)| progress.position(*shard) == *position)
    })
}

/// So much money.
pub fn won(amount: i64) -> Money {
    Money::new(amount, Currency::KRW)
}

/// The n-th account.
pub fn account(n: u64) -> AccountId {
    AccountId::new(Uuid::from_u64_pair(1, n))
}

/// The n-th product.
pub fn product(n: u64) -> ProductId {
    ProductId::new(Uuid::from_u64_pair(2, n))
}

/// The n-th order.
pub fn order(n: u64) -> OrderId {
    OrderId::new(Uuid::from_u64_pair(3, n))
}

/// So many.
pub fn quantity(n: u64) -> Quantity {
    Quantity::parse(i64::try_from(n).expect("small")).expect("a quantity")
}

/// Three of the n-th product, under this name, of this seller.
pub fn line(n: u64, name: &str, seller: u64) -> Line {
    Line {
        product: product(n),
        name: name.parse().expect("a name"),
        seller: account(seller),
        quantity: quantity(3),
        unit_price: won(5_000),
        stated: false,
    }
}

/// The n-th order is placed by this buyer.
pub fn placed(n: u64, buyer: u64, lines: impl IntoIterator<Item = Line>) -> CommerceEvent {
    let lines: Arc<[Line]> = lines.into_iter().collect();
    CommerceEvent::Order(
        order(n),
        OrderEvent::Placed {
            buyer: account(buyer),
            number: format!("20261121{n:08}").parse().expect("a number"),
            tracking: TrackingId::for_order(order(n)),
            total: aggregates::order::total(&lines).expect("a total"),
            lines,
            stated_total: None,
            address: Sealed::new("sealed"),
            method: PaymentMethod::Balance,
            payment_key: None,
            at: Timestamp::from_micros(i64::try_from(n).expect("small") / 2),
        },
    )
}

/// Something happens to the n-th order.
pub fn is(n: u64, event: OrderEvent) -> CommerceEvent {
    CommerceEvent::Order(order(n), event)
}

/// The n-th product is offered under this name.
pub fn offered(n: u64, name: &str, seller: u64) -> CommerceEvent {
    CommerceEvent::Product(
        product(n),
        ProductEvent::Created {
            seller: account(seller),
            sku: format!("SKU-{n}").parse().expect("a sku"),
            name: name.parse().expect("a name"),
            description: None,
            price: won(5_000),
            stock: Stock::OnHand(1_000),
            at: Timestamp::from_micros(i64::try_from(n).expect("small")),
        },
    )
}

/// A small generator of numbers: the same seed, the same numbers.
pub struct Dice(pub u64);

impl Dice {
    /// A number from 0 to below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// The streams of a random shop; each stream begins with what begins it.
pub struct RandomShop {
    shards: u16,
    orders: u64,
    prepared: HashSet<u64>,
}

const PRODUCTS: u64 = 5;
const BUYERS: u64 = 7;

impl RandomShop {
    /// One whose streams are spread over so many shards.
    pub fn over(shards: u16) -> Self {
        Self {
            shards,
            orders: 0,
            prepared: HashSet::new(),
        }
    }

    /// Where everything of this number is kept.
    fn shard(&self, n: u64) -> u16 {
        u16::try_from(n % u64::from(self.shards)).expect("small")
    }

    /// What every shop begins with, in its shard.
    pub fn opening(&self) -> Vec<(u16, CommerceEvent)> {
        let mut events = Vec::new();
        for n in 0..PRODUCTS {
            events.push((self.shard(n), offered(n, &format!("product {n}"), 100 + n % 2)));
            events.push((
                self.shard(n),
                stock(
                    n,
                    InventoryEvent::Opened {
                        seller: account(100 + n % 2),
                        stock: Stock::OnHand(10_000),
                    },
                ),
            ));
        }
        for n in 0..BUYERS {
            let registration = Registration {
                account: account(n),
                email: Sealed::new(format!("email {n}")),
                name: Sealed::new("name"),
                phone: None,
                password: Sealed::new("password"),
                role: Role::Buyer,
                at: Timestamp::from_micros(1),
            };
            events.push((
                self.shard(n),
                CommerceEvent::Account(
                    account(n),
                    AccountEvent::Opened {
                        index: EmailIndex::default(),
                        registration,
                    },
                ),
            ));
            events.push((
                self.shard(n),
                CommerceEvent::Wallet(account(n), WalletEvent::Opened { currency: Currency::KRW }),
            ));
        }
        events
    }

    /// Something that happens next.
    pub fn next(&mut self, dice: &mut Dice) -> (u16, Option<CommerceEvent>) {
        let buyer = dice.roll(BUYERS);
        let n = dice.roll(PRODUCTS);
        match dice.roll(8) {
            0 => (self.shard(n), None),
            1 => (self.shard(n), Some(Self::stock_event(n, dice))),
            2 => (self.shard(buyer), Some(Self::wallet_event(buyer, dice))),
            3 => {
                let change = ProductEvent::Changed {
                    name: None,
                    description: None,
                    price: Some(won(4_000 + i64::try_from(dice.roll(9)).expect("small"))),
                };
                (self.shard(n), Some(CommerceEvent::Product(product(n), change)))
            }
            4 | 5 if self.orders > 0 => {
                let n = dice.roll(self.orders);
                (self.shard(n), Some(is(n, Self::order_event(n, dice))))
            }
            6 if self.orders > 0 => {
                let n = dice.roll(self.orders);
                (
                    self.shard(n),
                    Some(CommerceEvent::Payment(PaymentId::for_order(order(n)), self.payment_event(n, dice))),
                )
            }
            _ => {
                let n = self.orders;
                self.orders += 1;
                let lines = (0..=dice.roll(2)).map(|line_of| line(line_of, &format!("product {line_of}"), 100 + line_of % 2));
                (self.shard(n), Some(placed(n, buyer, lines)))
            }
        }
    }

    fn stock_event(n: u64, dice: &mut Dice) -> CommerceEvent {
        let (order, quantity) = (order(dice.roll(9)), quantity(1 + dice.roll(5)));
        stock(
            n,
            match dice.roll(5) {
                0 => InventoryEvent::Received {
                    quantity: 7,
                    reference: None,
                },
                1 | 2 => InventoryEvent::Reserved {
                    order,
                    quantity,
                    price: won(5_000),
                    expires_at: None,
                },
                3 => InventoryEvent::Committed { order, quantity },
                _ => InventoryEvent::Released { order, quantity },
            },
        )
    }

    fn wallet_event(n: u64, dice: &mut Dice) -> CommerceEvent {
        let (order, amount) = (order(dice.roll(9)), won(100 + i64::try_from(dice.roll(50)).expect("small")));
        let payment = PaymentId::for_order(order);
        let event = match dice.roll(4) {
            0 => WalletEvent::Deposited { amount },
            1 => WalletEvent::Debited { payment, order, amount },
            2 => WalletEvent::DebitRefused { payment, order, amount },
            _ => WalletEvent::Credited { payment, order, amount },
        };
        CommerceEvent::Wallet(account(n), event)
    }

    fn order_event(n: u64, dice: &mut Dice) -> OrderEvent {
        let payment = PaymentId::for_order(order(n));
        match dice.roll(5) {
            0 => OrderEvent::Confirmed { payment },
            1 => OrderEvent::AwaitingPayment {
                payment,
                until: Timestamp::from_micros(9),
            },
            2 => OrderEvent::Repriced {
                prices: vec![(product(0), won(6_000))],
                total: won(18_000),
            },
            3 => OrderEvent::Cancelled {
                failure: FailureCode::OutOfStock,
                product: Some(product(0)),
            },
            _ => OrderEvent::AttentionNeeded {
                cause: Obstacle::Provider,
                reason: "look".into(),
            },
        }
    }

    /// A payment is prepared before anything else happens to it.
    fn payment_event(&mut self, n: u64, dice: &mut Dice) -> PaymentEvent {
        let (order, amount, payment_key) = (order(n), won(15_000), "sim_ok_1".parse().expect("a key"));
        if self.prepared.insert(n) {
            return PaymentEvent::Prepared {
                order,
                buyer: account(n % BUYERS),
                amount,
                method: PaymentMethod::Card,
            };
        }
        match dice.roll(5) {
            0 => PaymentEvent::Requested {
                order,
                payment_key,
                amount,
                attempt: 1,
            },
            1 => PaymentEvent::OutcomeUnknown {
                order,
                reason: "timeout".into(),
                questions: 1,
            },
            2 => PaymentEvent::StatusAsked {
                order,
                payment_key,
                question: 1,
            },
            3 => PaymentEvent::Captured { order, amount },
            _ => PaymentEvent::Reversed { order, amount: won(1) },
        }
    }
}

fn stock(n: u64, event: InventoryEvent) -> CommerceEvent {
    CommerceEvent::Inventory(product(n), event)
}

/// A log of which shard 1 cannot be read for the time being.
pub struct Broken {
    store: MemoryStore,
    breaks: Arc<AtomicBool>,
}

impl Broken {
    /// Around a log, and the switch that makes it whole.
    pub fn around(log: &Log) -> (Self, Arc<AtomicBool>) {
        let breaks = Arc::new(AtomicBool::new(true));
        let broken = Self {
            store: log.store.clone(),
            breaks: Arc::clone(&breaks),
        };
        (broken, breaks)
    }
}

impl EventStore for Broken {
    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError> {
        self.store.writer()
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        Ok(Box::new(Self {
            store: self.store.clone(),
            breaks: Arc::clone(&self.breaks),
        }))
    }
}

impl LogReader for Broken {
    fn head(&self, shard: u16) -> Result<Option<Head>, StoreError> {
        self.store.head(shard)
    }

    fn read(
        &self,
        records: &[RecordKey],
        streams: &[StreamRead],
    ) -> Result<(Vec<Option<IdempotencyRecord>>, Vec<StreamSlice>), StoreError> {
        self.store.read(records, streams)
    }

    fn events(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        if shard == 1 && self.breaks.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("this disk does not answer".into()));
        }
        self.store.events(shard, after, limit)
    }

    fn stream(&self, stream: &StreamId, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.store.stream(stream, after, limit)
    }

    fn batches(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<(u64, Hash, Hash, u64)>, StoreError> {
        self.store.batches(shard, after, limit)
    }

    fn unfinished(&self, shard: u16) -> Result<Unfinished, StoreError> {
        self.store.unfinished(shard)
    }

    fn parked(&self, shard: u16, limit: usize) -> Result<Vec<Parked>, StoreError> {
        self.store.parked(shard, limit)
    }

    fn parked_input(&self, shard: u16, id: Uuid) -> Result<Option<Parked>, StoreError> {
        self.store.parked_input(shard, id)
    }

    fn unparked(&self, shard: u16, id: Uuid) -> Result<Option<Unparked>, StoreError> {
        self.store.unparked(shard, id)
    }

    fn shard_count(&self) -> Result<Option<Shards>, StoreError> {
        self.store.shard_count()
    }

    fn shards(&self) -> Result<Vec<u16>, StoreError> {
        self.store.shards()
    }
}

/// A log that was lost, and of which a copy took its place; both at the same address.
#[derive(Clone)]
pub struct Replaced(Arc<Mutex<MemoryStore>>);

impl Replaced {
    /// As long as the first one is there.
    pub fn at_first(log: &Log) -> Self {
        Self(Arc::new(Mutex::new(log.store.clone())))
    }

    /// From now on it is this one, also for who reads already.
    pub fn by(&self, log: &Log) {
        *self.0.lock().expect("nobody has panicked") = log.store.clone();
    }

    fn now(&self) -> MemoryStore {
        self.0.lock().expect("nobody has panicked").clone()
    }
}

impl EventStore for Replaced {
    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError> {
        self.now().writer()
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        Ok(Box::new(self.clone()))
    }
}

impl LogReader for Replaced {
    fn head(&self, shard: u16) -> Result<Option<Head>, StoreError> {
        self.now().head(shard)
    }

    fn read(
        &self,
        records: &[RecordKey],
        streams: &[StreamRead],
    ) -> Result<(Vec<Option<IdempotencyRecord>>, Vec<StreamSlice>), StoreError> {
        self.now().read(records, streams)
    }

    fn events(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.now().events(shard, after, limit)
    }

    fn stream(&self, stream: &StreamId, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.now().stream(stream, after, limit)
    }

    fn batches(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<(u64, Hash, Hash, u64)>, StoreError> {
        self.now().batches(shard, after, limit)
    }

    fn unfinished(&self, shard: u16) -> Result<Unfinished, StoreError> {
        self.now().unfinished(shard)
    }

    fn parked(&self, shard: u16, limit: usize) -> Result<Vec<Parked>, StoreError> {
        self.now().parked(shard, limit)
    }

    fn parked_input(&self, shard: u16, id: Uuid) -> Result<Option<Parked>, StoreError> {
        self.now().parked_input(shard, id)
    }

    fn unparked(&self, shard: u16, id: Uuid) -> Result<Option<Unparked>, StoreError> {
        self.now().unparked(shard, id)
    }

    fn shard_count(&self) -> Result<Option<Shards>, StoreError> {
        self.now().shard_count()
    }

    fn shards(&self) -> Result<Vec<u16>, StoreError> {
        self.now().shards()
    }
}
