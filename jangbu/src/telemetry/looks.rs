//! Figures that nobody counts as they happen: every few seconds somebody looks at the views and the log. Each look is bounded.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aggregates::{OrderStatus, PaymentId, PaymentStatus, Timestamp};
use event_store::{EventStore, LogReader, Shards, StoreError};
use metrics_exporter_prometheus::PrometheusHandle;
use projections::{OrderView, ProcessesQuestion, ReadError, Views};

use crate::failure::Failure;

/// How often.
const EVERY: Duration = Duration::from_secs(5);

/// So many orders are looked at, and so many inputs that are set aside: with more than that an alert rings anyway. The oldest come first.
const MOST_ORDERS: usize = 1_000;
const MOST_PARKED: usize = 1_000;

/// Where an order may stand whose purchase has not come to its end.
const UNDER_WAY: [OrderStatus; 5] = [
    OrderStatus::Placed,
    OrderStatus::AwaitingPayment,
    OrderStatus::PaymentPending,
    OrderStatus::Cancelling,
    OrderStatus::NeedsAttention,
];

/// What is looked at.
pub(crate) struct Looks {
    /// None in a process that has no log.
    pub(crate) log: Option<(Arc<dyn EventStore>, Shards)>,
    /// None in a process that has no views.
    pub(crate) views: Option<Arc<dyn Views>>,
    /// The directory on whose disk there should be room.
    pub(crate) data: PathBuf,
    pub(crate) figures: PrometheusHandle,
}

/// A thread that looks; dropped, it ends.
pub(crate) struct Looking {
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Looks {
    pub(crate) fn start(self) -> Result<Looking, Failure> {
        let (end, ended) = mpsc::channel();
        let thread = std::thread::Builder::new().name("figures".to_owned());
        let thread = thread.spawn(move || {
            let mut reader = None;
            loop {
                self.look(&mut reader);
                // Without it the figures of each second would be kept until somebody asks for them.
                self.figures.run_upkeep();
                if ended.recv_timeout(EVERY) != Err(mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        Ok(Looking {
            end: Some(end),
            thread: Some(thread.map_err(|error| Failure::failed(format_args!("no threads can be started: {error}")))?),
        })
    }

    fn look(&self, reader: &mut Option<Box<dyn LogReader>>) {
        if let Some((store, shards)) = &self.log
            && let Err(error) = at_the_log(store.as_ref(), *shards, reader)
        {
            *reader = None;
            tracing::debug!(%error, "what is set aside cannot be counted now");
        }
        if let Some(views) = &self.views
            && let Err(error) = at_the_views(views.as_ref())
        {
            tracing::debug!(%error, "the orders under way cannot be counted now");
        }
        if let Ok(disk) = rustix::fs::statvfs(&self.data) {
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            metrics::gauge!("jangbu_data_free_bytes").set(disk.f_bavail.saturating_mul(disk.f_frsize) as f64);
        }
    }
}

impl Looking {
    /// Looks no more: then nothing of it holds the log.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the figures' thread had panicked");
        }
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.end();
    }
}

fn at_the_log(store: &dyn EventStore, shards: Shards, reader: &mut Option<Box<dyn LogReader>>) -> Result<(), StoreError> {
    let reader = match reader.take() {
        Some(kept) => reader.insert(kept),
        None => reader.insert(store.reader()?),
    };
    let mut since = Vec::new();
    for shard in shards.all() {
        let parked = reader.parked(shard, MOST_PARKED)?;
        since.extend(parked.iter().map(|parked| Timestamp::from_micros(parked.at)));
    }
    let (count, oldest) = count(since.into_iter());
    metrics::gauge!("jangbu_parked_inputs").set(f64::from(count));
    metrics::gauge!("jangbu_parked_oldest_seconds").set(age(oldest));
    Ok(())
}

fn at_the_views(views: &dyn Views) -> Result<(), ReadError> {
    let orders = [under_way(views, true)?, under_way(views, false)?].concat();
    for status in UNDER_WAY {
        let since = orders.iter().filter(|order| order.status == status).map(|order| order.since);
        let (count, oldest) = count(since);
        metrics::gauge!("jangbu_orders_under_way", "status" => status.name()).set(f64::from(count));
        metrics::gauge!("jangbu_orders_under_way_oldest_seconds", "status" => status.name()).set(age(oldest));
    }
    let asked = orders.iter().filter(|order| {
        let stage = order.stage();
        matches!(stage, OrderStatus::PaymentPending | OrderStatus::Cancelling)
    });
    let payments: Vec<_> = asked.map(|order| PaymentId::for_order(order.id)).collect();
    let mut unknown = Vec::new();
    for payments in payments.chunks(projections::MOST_IDS) {
        let payments = views.payments(payments)?;
        unknown.extend(payments.into_values().filter(|payment| payment.status == PaymentStatus::Unknown));
    }
    // Since it was asked first: whatever was said later left it unknown.
    let since = unknown
        .iter()
        .map(|payment| payment.attempts.first().map_or(payment.updated_at, |first| first.at));
    let (count, oldest) = count(since);
    metrics::gauge!("jangbu_payments_unknown").set(f64::from(count));
    metrics::gauge!("jangbu_payments_unknown_oldest_seconds").set(age(oldest));
    Ok(())
}

/// The oldest orders under way: those that need a person, or the others.
fn under_way(views: &dyn Views, stuck: bool) -> Result<Vec<OrderView>, ReadError> {
    let mut orders: Vec<OrderView> = Vec::new();
    while orders.len() < MOST_ORDERS {
        let question = ProcessesQuestion {
            stuck: Some(stuck),
            first: projections::MOST_ROWS,
            after: orders.last().map(OrderView::cursor),
        };
        let page = views.processes_page(&question)?;
        orders.extend(page.rows);
        if !page.more {
            break;
        }
    }
    Ok(orders)
}

fn count(since: impl Iterator<Item = Timestamp>) -> (u32, Option<Timestamp>) {
    since.fold((0, None), |(count, oldest), since| {
        (count + 1, [oldest, Some(since)].into_iter().flatten().min())
    })
}

/// In seconds; 0 where there is nothing.
fn age(since: Option<Timestamp>) -> f64 {
    let Some(since) = since else { return 0.0 };
    let since = Duration::from_micros(u64::try_from(since.micros()).unwrap_or(0));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(since).as_secs_f64()
}
