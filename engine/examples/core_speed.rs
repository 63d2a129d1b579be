//! What an order costs the core, and what it costs the store: `cargo run --release -p engine --example core_speed [ORDERS] [BATCH] [DIRECTORY]`.
//!
//! Orders of one line, paid from the balance, ten products, fifty buyers; no HTTP, no views. One thread does all, so the times are CPU's
//! but for the store's fsync.

#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use aggregates::{
    AccountId, Command, Currency, Kind, Money, OrderCommand, OrderId, PaymentMethod, PlaceOrder, ProductCommand, ProductId, Quantity,
    RequestedLine, Sealed, State, Stock, Timestamp, TrackingId, WalletCommand,
};
use engine::{Actor, Cause, Core, CoreSettings, Idempotency, Input, Output, Request};
use event_store::{EventStore, LogWriter, RecordKey};
use event_store_sqlite::SqliteStore;
use uuid::Uuid;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let orders: u64 = arguments.next().map_or(Ok(100_000), |text| text.parse())?;
    let batch: u64 = arguments.next().map_or(Ok(250), |text| text.parse())?;
    let scratch = tempfile::tempdir_in(arguments.next().map_or_else(std::env::temp_dir, PathBuf::from))?;
    let store = SqliteStore::open(scratch.path())?;
    let mut writer = store.writer()?;
    let head = writer.take(0, Uuid::nil(), 0)?;
    let processes = sagas::Settings {
        currency: Currency::KRW,
        reservation_ttl: Duration::from_hours(1),
        payment_deadline: Duration::from_mins(10),
        stuck_after: Duration::from_hours(24),
    };
    let mut core = Core::new(
        head,
        store.reader()?,
        CoreSettings::new(processes, jiff::tz::TimeZone::UTC, represent),
    )?;
    let mut spent = Spent::default();
    open_shop(&mut core, writer.as_mut(), &mut spent)?;

    spent = Spent::default();
    let begun = Instant::now();
    for first in (0..orders).step_by(usize::try_from(batch)?) {
        let inputs = (first..(first + batch).min(orders)).map(order).collect();
        turn(&mut core, writer.as_mut(), inputs, &mut spent)?;
    }
    let elapsed = begun.elapsed();
    let per_order = |time: Duration| time.as_secs_f64() * 1e6 / orders as f64;
    println!("orders/s                 {:>10.0}", orders as f64 / elapsed.as_secs_f64());
    println!("core, µs per order       {:>10.1}", per_order(spent.core));
    println!("store, µs per order      {:>10.1}", per_order(spent.store));
    println!("events per order         {:>10.2}", spent.events as f64 / orders as f64);
    println!("bytes of JSON per order  {:>10.0}", spent.bytes as f64 / orders as f64);
    Ok(())
}

#[derive(Default)]
struct Spent {
    core: Duration,
    store: Duration,
    events: usize,
    bytes: usize,
}

fn turn(
    core: &mut Core<()>,
    writer: &mut dyn LogWriter,
    mut inputs: Vec<Input<()>>,
    spent: &mut Spent,
) -> Result<(), Box<dyn std::error::Error>> {
    loop {
        let begun = Instant::now();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros();
        let outputs = core.step(Timestamp::from_micros(i64::try_from(now)?), inputs);
        spent.core += begun.elapsed();
        let Some(batch) = outputs
            .into_iter()
            .find_map(|output| if let Output::Commit(batch) = output { Some(batch) } else { None })
        else {
            return Ok(());
        };
        spent.events += batch.events.len();
        spent.bytes += batch
            .events
            .iter()
            .map(|event| event.payload.len() + event.metadata.len())
            .sum::<usize>();
        let begun = Instant::now();
        let result = writer.commit(&[&batch]);
        spent.store += begun.elapsed();
        inputs = vec![Input::Committed(result)];
    }
}

fn product(number: u64) -> ProductId {
    ProductId::new(Uuid::from_u128(0x1000 + u128::from(number)))
}

fn buyer(number: u64) -> AccountId {
    AccountId::new(Uuid::from_u128(0x2000 + u128::from(number)))
}

fn cause() -> Cause {
    Cause {
        actor: Actor::Account(buyer(0)),
        correlation: Uuid::new_v4(),
        traceparent: None,
    }
}

fn open_shop(core: &mut Core<()>, writer: &mut dyn LogWriter, spent: &mut Spent) -> Result<(), Box<dyn std::error::Error>> {
    let mut inputs = Vec::new();
    let mut ask = |command| inputs.push(Input::Command((), Box::new(Request::new(command, cause()))));
    for number in 0..10 {
        let create = ProductCommand::Create {
            seller: buyer(999),
            sku: format!("P{number}").parse()?,
            name: format!("Product {number}").parse()?,
            description: None,
            price: Money::new(5_000, Currency::KRW),
            stock: Stock::OnHand(1_000_000_000),
            at: Timestamp::from_micros(0),
        };
        ask(Command::Product(product(number), create));
    }
    for number in 0..50 {
        ask(Command::Wallet(buyer(number), WalletCommand::Open { currency: Currency::KRW }));
        ask(Command::Wallet(
            buyer(number),
            WalletCommand::Deposit {
                amount: Money::new(1_000_000_000_000, Currency::KRW),
            },
        ));
    }
    turn(core, writer, inputs, spent)
}

fn order(number: u64) -> Input<()> {
    let id = OrderId::new(Uuid::new_v5(&Uuid::NAMESPACE_OID, &number.to_le_bytes()));
    let line = RequestedLine {
        product: product(number % 10),
        quantity: Quantity::parse(1).expect("a quantity"),
        stated_price: None,
        offer: None,
    };
    let place = PlaceOrder {
        buyer: buyer(number % 50),
        lines: vec![line],
        stated_total: None,
        address: Sealed::new("x".repeat(220)),
        method: PaymentMethod::Balance,
        payment_key: None,
        number: None,
        tracking: TrackingId::for_order(id),
        at: Timestamp::from_micros(1),
    };
    let mut record = *id.uuid().as_bytes();
    record.reverse();
    let idempotency = Some(Idempotency {
        key: number.to_string(),
        record: RecordKey(record),
        fingerprint: [0; 16],
    });
    Input::Command(
        (),
        Box::new(Request {
            idempotency,
            ..Request::new(Command::Order(id, OrderCommand::Place(Box::new(place))), cause())
        }),
    )
}

fn represent(_: Kind, id: Uuid, _: &State, version: u64) -> Vec<u8> {
    format!(r#"{{"id":"{id}","filling":"{}","version":{version}}}"#, "x".repeat(350)).into_bytes()
}
