//! How fast a store takes events: the same for every store, for its example to print.
//!
//! Batches like a shop's whose orders are paid from the balance: eight events per order (two each of the order and its payment, one of its
//! process, two of one of ten products' stock, one of one of fifty wallets) and one recorded answer.
//! CPU is this thread's own (Linux).

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::{Batch, Event, EventStore, Head, IdempotencyRecord, RecordKey, StreamId, StreamRead, batch_hash};

const EVENTS_PER_ORDER: usize = 8;
const KINDS: [&str; EVENTS_PER_ORDER] = [
    "order",
    "inventory",
    "payment",
    "wallet",
    "payment",
    "inventory",
    "order",
    "purchase",
];

/// Appends so many events, so many at a time, reads them back, and prints what that took.
///
/// # Errors
/// The store cannot be written or read.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub fn append_speed(store: &dyn EventStore, events: usize, per_batch: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut writer = store.writer()?;
    let mut head = writer.take(0, Uuid::nil(), 0)?;
    let (mut elapsed, mut cpu) = (Duration::ZERO, Duration::ZERO);
    let mut slowest = Duration::ZERO;
    for _ in 0..events / per_batch {
        let batch = batch(&head, per_batch);
        let (started, cpu_before) = (Instant::now(), thread_cpu());
        writer.commit(&[&batch])?;
        slowest = slowest.max(started.elapsed());
        elapsed += started.elapsed();
        cpu += thread_cpu().saturating_sub(cpu_before);
        head.position = batch.last_position();
        head.hash = batch.hash;
    }
    let count = head.position as f64;
    println!("events                        {:>9}", head.position);
    println!("append, events/s              {:>9.0}", count / elapsed.as_secs_f64());
    println!("append, µs per event          {:>9.2}", elapsed.as_secs_f64() * 1e6 / count);
    println!("append, CPU µs per event      {:>9.2}", cpu.as_secs_f64() * 1e6 / count);
    println!("append, slowest batch         {:>9.1} ms", slowest.as_secs_f64() * 1e3);
    let reader = store.reader()?;
    let started = Instant::now();
    let mut position = 0;
    while let Some(last) = reader.events(0, position, 1_000)?.last() {
        position = last.position;
    }
    println!("read by position, events/s    {:>9.0}", count / started.elapsed().as_secs_f64());

    let orders = head.position / EVENTS_PER_ORDER as u64;
    let asked = orders.min(10_000);
    let started = Instant::now();
    for nth in 0..asked {
        let order = nth * orders / asked;
        let key = RecordKey(id(order, 9).into_bytes());
        let (records, streams) = reader.read(
            &[key],
            &[StreamRead {
                stream: StreamId::new("order", id(order, 0)),
                shape: [0; 32],
            }],
        )?;
        assert!(records[0].is_some() && !streams[0].events.is_empty());
    }
    println!(
        "read record and stream, µs    {:>9.2}",
        started.elapsed().as_secs_f64() * 1e6 / asked as f64
    );
    Ok(())
}

fn batch(head: &Head, events: usize) -> Batch {
    let first_position = head.position + 1;
    let events: Vec<_> = (first_position..).take(events).map(event).collect();
    let orders = (first_position / EVENTS_PER_ORDER as u64)..((first_position + events.len() as u64) / EVENTS_PER_ORDER as u64);
    let hash = batch_hash(&head.hash, &events);
    Batch {
        shard: 0,
        epoch: head.epoch,
        first_position,
        events,
        records: orders.map(record).collect(),
        previous_hash: head.hash,
        hash,
        ..Batch::default()
    }
}

fn event(position: u64) -> Event {
    let (order, nth) = ((position - 1) / EVENTS_PER_ORDER as u64, (position - 1) % EVENTS_PER_ORDER as u64);
    let kind = KINDS[usize::try_from(nth).unwrap_or(0)];
    let (stream, sequence) = match kind {
        "inventory" => (id(order % 10, 1), order / 10 * 2 + u64::from(nth > 1) + 1),
        "wallet" => (id(order % 50, 2), order / 50 + 1),
        "payment" => (Uuid::from_u128(id(order, 0).as_u128() ^ 1), u64::from(nth > 2) + 1),
        _ => (id(order, 0), u64::from(nth == 6) + 1),
    };
    Event {
        shard: 0,
        position,
        stream: StreamId::new(kind, stream),
        sequence,
        event_id: id(position, 10),
        event_type: "order.placed".into(),
        event_version: "1.0.0".into(),
        recorded_at: 1_750_000_000_000_000 + position.cast_signed(),
        payload: format!(
            r#"{{"order":"{}","lines":[{{"product":"{}","quantity":3}}],"total":{{"minor":{position},"currency":"KRW"}}}}"#,
            id(order, 0),
            id(order, 7)
        )
        .into(),
        metadata: format!(
            r#"{{"correlation_id":"{}","causation_id":"{}","actor":"buyer"}}"#,
            id(order, 5),
            id(position, 6)
        )
        .into(),
    }
}

fn record(order: u64) -> IdempotencyRecord {
    IdempotencyRecord {
        key: RecordKey(id(order, 9).into_bytes()),
        fingerprint: [7; 16],
        position: order,
        recorded_at: 1,
        answer: vec![b'x'; 400].into(),
    }
}

/// An id without order, like the ones that are derived from a request.
fn id(number: u64, kind: u64) -> Uuid {
    let mut x = number.wrapping_mul(16).wrapping_add(kind).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    Uuid::from_u64_pair(next(), next())
}

/// What this thread had of a CPU so far.
fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0))
}
