//! How many events a second the views take, and how long after it was recorded an event counts.
//!
//! `cargo run --release -p projections-sqlite --example fold_speed -- [ORDERS] [ORDERS PER BATCH] [ORDERS PER SECOND]`: purchases paid from the balance, seven
//! events of aggregates and one of the process each, of ten products by fifty buyers, offered by the tail as an engine does.

use std::{
    collections::HashMap,
    sync::{Arc, mpsc::Receiver},
    time::{Duration, Instant},
};

use aggregates::{
    AccountId, CommerceEvent, Currency, InventoryEvent, Kind, Line, Money, OrderEvent, OrderId, PaymentEvent, PaymentId, PaymentMethod,
    ProductId, Quantity, Recorded, Sealed, Stock, Timestamp, TrackingId, WalletEvent,
};
use event_store::{Batch, Event, EventStore, LogWriter, MemoryStore, StreamId, batch_hash};
use projections::{Progress, Runner, RunnerSettings};
use projections_sqlite::SqliteViews;
use tokio::sync::watch;
use uuid::Uuid;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let orders: u64 = arguments.next().map_or(Ok(50_000), |text| text.parse())?;
    let per_batch: u64 = arguments.next().map_or(Ok(200), |text| text.parse())?;
    let pace: u32 = arguments.next().map_or(Ok(0), |text| text.parse())?;
    let directory = tempfile::tempdir()?;
    let store = MemoryStore::default();
    let mut shop = Shop::default();
    let opening = shop.record(opening());
    append(&mut *store.writer()?, &opening)?;
    let batches: Vec<Arc<[Recorded]>> = (0..orders)
        .step_by(usize::try_from(per_batch)?)
        .map(|first| shop.record((first..orders.min(first + per_batch)).flat_map(purchase)))
        .collect();

    let (writer, _views) = SqliteViews::open(directory.path())?;
    let settings = RunnerSettings {
        tail_events: usize::MAX,
        poll: Duration::from_mins(1),
        ..RunnerSettings::default()
    };
    let handle = Runner::start(Arc::new(store), Box::new(writer), settings)?;
    let mut progress = handle.progress();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(progress.wait_for(|progress| progress.position(0) == opening.len() as u64))?;

    let started = (Instant::now(), processor_time());
    let (offers, offered) = std::sync::mpsc::channel::<(u64, Instant)>();
    let lags = std::thread::spawn(move || lags(&offered, progress));
    let mut progress = handle.progress();
    let mut behind = 0;
    for (batch, n) in batches.into_iter().zip(0_u32..) {
        let last = batch.last().map_or(0, |recorded| recorded.position);
        if pace > 0 {
            let due = Duration::from_secs(1) * n * u32::try_from(per_batch)? / pace;
            std::thread::sleep(due.saturating_sub(started.0.elapsed()));
        } else {
            // As much waits as the tail holds, and no more: this measures the fold, not the log.
            runtime.block_on(progress.wait_for(|progress| progress.position(0) + 16_000 > last))?;
        }
        offers.send((last, Instant::now()))?;
        handle.tail().offer(batch);
        behind = last;
    }
    drop(offers);
    let mut lags = lags.join().map_err(|_| "the watching thread panicked")?;
    let wall = started.0.elapsed().as_secs_f64();
    let processor = processor_time().zip(started.1).map(|(now, then)| now - then);
    let events = f64::from(u32::try_from(behind - opening.len() as u64)?);
    println!("{events} events in {wall:.2} s: {:.0} events/s", events / wall);
    if let Some(processor) = processor {
        println!(
            "{processor:.2} s of processor time: {:.0} events/s on half a core",
            events / processor / 2.0
        );
    }
    lags.sort_unstable();
    let at = |percent: usize| lags.get(lags.len() * percent / 100).or(lags.last()).copied().unwrap_or_default();
    println!("from offered to counted: p50 {:?}, p99 {:?}, longest {:?}", at(50), at(99), at(100));
    handle.stop();
    println!(
        "views.db: {} bytes",
        std::fs::metadata(directory.path().join(projections_sqlite::FILE))?.len()
    );
    Ok(())
}

/// How long each batch took from being offered to being counted.
fn lags(offered: &Receiver<(u64, Instant)>, mut progress: watch::Receiver<Progress>) -> Vec<Duration> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else {
        return Vec::new();
    };
    let mut lags = Vec::new();
    while let Ok((last, at)) = offered.recv() {
        if runtime
            .block_on(progress.wait_for(|progress| progress.position(0) >= last))
            .is_err()
        {
            break;
        }
        lags.push(at.elapsed());
    }
    lags
}

/// Seconds that this process has used, where /proc tells it (in hundredths).
fn processor_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

const PRODUCTS: u64 = 10;
const BUYERS: u64 = 50;

fn account(n: u64) -> AccountId {
    AccountId::new(Uuid::from_u64_pair(1, n))
}

fn product(n: u64) -> ProductId {
    ProductId::new(Uuid::from_u64_pair(2, n))
}

fn won(amount: i64) -> Money {
    Money::new(amount, Currency::KRW)
}

fn opening() -> Vec<Option<CommerceEvent>> {
    let stocks = (0..PRODUCTS).map(|n| {
        let opened = InventoryEvent::Opened {
            seller: account(900 + n),
            stock: Stock::OnHand(1 << 50),
        };
        Some(CommerceEvent::Inventory(product(n), opened))
    });
    let wallets = (0..BUYERS).flat_map(|n| {
        let opened = WalletEvent::Opened { currency: Currency::KRW };
        let deposited = WalletEvent::Deposited { amount: won(1 << 50) };
        [opened, deposited].map(|event| Some(CommerceEvent::Wallet(account(n), event)))
    });
    stocks.chain(wallets).collect()
}

fn purchase(n: u64) -> [Option<CommerceEvent>; 8] {
    // Like a UUID of version 7: ascending, with chance at the end.
    let order = OrderId::new(Uuid::from_u64_pair(
        0x0199_0000_0000_7000 + n,
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
    ));
    let (payment, buyer, product, amount) = (PaymentId::for_order(order), account(n % BUYERS), product(n % PRODUCTS), won(15_000));
    let (Ok(quantity), Ok(name), Ok(number)) = (Quantity::parse(3), "아메리카노".parse(), format!("20261121{n:08}").parse()) else {
        return [const { None }; 8];
    };
    let line = Line {
        product,
        name,
        seller: account(900 + n % PRODUCTS),
        quantity,
        unit_price: won(5_000),
        stated: false,
    };
    let placed = OrderEvent::Placed {
        buyer,
        number,
        tracking: TrackingId::for_order(order),
        lines: [line].into(),
        total: amount,
        stated_total: None,
        address: Sealed::new("v1.Yb3kQ2l0cmFuZG9tLWNpcGhlcnRleHQ".repeat(8)),
        method: PaymentMethod::Balance,
        payment_key: None,
        at: Timestamp::from_micros(i64::try_from(n).unwrap_or(0)),
    };
    let reserved = InventoryEvent::Reserved {
        order,
        quantity,
        price: won(5_000),
        expires_at: None,
    };
    [
        Some(CommerceEvent::Order(order, placed)),
        Some(CommerceEvent::Inventory(product, reserved)),
        Some(CommerceEvent::Payment(
            payment,
            PaymentEvent::Prepared {
                order,
                buyer,
                amount,
                method: PaymentMethod::Balance,
            },
        )),
        Some(CommerceEvent::Wallet(buyer, WalletEvent::Debited { payment, order, amount })),
        Some(CommerceEvent::Payment(payment, PaymentEvent::Captured { order, amount })),
        Some(CommerceEvent::Inventory(product, InventoryEvent::Committed { order, quantity })),
        Some(CommerceEvent::Order(order, OrderEvent::Confirmed { payment })),
        None,
    ]
}

/// Gives events their places.
#[derive(Default)]
struct Shop {
    position: u64,
    sequences: HashMap<(Kind, Uuid), u64>,
}

impl Shop {
    fn record(&mut self, events: impl IntoIterator<Item = Option<CommerceEvent>>) -> Arc<[Recorded]> {
        let place = |event: Option<CommerceEvent>| {
            self.position += 1;
            let sequence = event.as_ref().map_or(1, |event| {
                let sequence = self.sequences.entry(event.source()).or_default();
                *sequence += 1;
                *sequence
            });
            Recorded {
                shard: 0,
                position: self.position,
                sequence,
                at: Timestamp::from_micros(1),
                event,
            }
        };
        events.into_iter().map(place).collect()
    }
}

/// The log holds the beginning only; all that follows comes by the tail.
fn append(writer: &mut dyn LogWriter, recorded: &[Recorded]) -> Result<(), Box<dyn std::error::Error>> {
    let head = writer.take(0, Uuid::nil(), 0)?;
    let mut events = Vec::new();
    for recorded in recorded {
        let Some(event) = &recorded.event else { continue };
        let (kind, id) = event.source();
        events.push(Event {
            shard: 0,
            position: recorded.position,
            stream: StreamId::new(kind.name(), id),
            sequence: recorded.sequence,
            event_id: Uuid::from_u64_pair(9, recorded.position),
            event_type: event.stored_name().into(),
            event_version: "1.0.0".into(),
            recorded_at: recorded.at.micros(),
            payload: event.payload()?.into(),
            metadata: "{}".into(),
        });
    }
    let hash = batch_hash(&head.hash, &events);
    writer.commit(&[&Batch {
        epoch: head.epoch,
        first_position: 1,
        events,
        previous_hash: head.hash,
        hash,
        ..Batch::default()
    }])?;
    Ok(())
}
