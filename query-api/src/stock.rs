//! Stock as some node read it a moment ago, where nodes share that: a product that many look at is read from the views once a second.
//!
//! A row carries the position that the views counted at least when it was read. A question that has to see more passes it over, and an
//! answer that shows it says no newer position than that.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use aggregates::{Kind, ProductId, Timestamp};
use event_store::Shards;
use projections::{InventoryView, Progress};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::consistency::Wanted;

/// An answer that may take a moment. Whoever gives it bounds how long.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Rows of the stock view, kept for a moment where all nodes find them.
///
/// What is found for a product was kept for it, less than a second ago, by a node that reads the same views: an implementation that cannot
/// be sure of that finds nothing. It may find nothing at any time.
pub trait KeptStock: Send + Sync {
    /// What is known of each of these, in their order.
    fn find<'a>(&'a self, products: &'a [Uuid]) -> Asked<'a, Vec<Option<Vec<u8>>>>;

    /// Keeps what was read at this time, soon or not at all; it waits for nothing.
    fn keep(&self, product: Uuid, row: &[u8], read_at: SystemTime);
}

/// A row, and how far the views were when it was read.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    shard: u16,
    position: u64,
    recorded_at: i64,
    view: InventoryView,
}

/// How far the views were when the oldest row was read that an answer shows, by shard.
pub(crate) type Shown = BTreeMap<u16, (u64, Timestamp)>;

/// What nodes share.
#[derive(Clone)]
pub(crate) struct SharedStock {
    kept: Arc<dyn KeptStock>,
    progress: watch::Receiver<Progress>,
}

/// The same, for one request.
#[derive(Clone)]
pub(crate) struct StockSource {
    shared: SharedStock,
    wanted: Wanted,
    shown: Arc<Mutex<Shown>>,
}

/// What is known before the views are read.
pub(crate) struct Before {
    progress: Progress,
    at: SystemTime,
}

impl SharedStock {
    pub(crate) fn new(kept: Arc<dyn KeptStock>, progress: watch::Receiver<Progress>) -> Self {
        Self { kept, progress }
    }

    pub(crate) fn for_request(&self, wanted: &Wanted) -> StockSource {
        StockSource {
            shared: self.clone(),
            wanted: wanted.clone(),
            shown: Arc::default(),
        }
    }
}

impl StockSource {
    /// The rows that are known and new enough.
    pub(crate) async fn find(&self, products: &[ProductId]) -> HashMap<ProductId, InventoryView> {
        let Some(shards) = self.shared.progress.borrow().count else {
            return HashMap::new();
        };
        let ids: Vec<_> = products.iter().map(|product| product.uuid()).collect();
        let found = self.shared.kept.find(&ids).await;
        let rows = products.iter().zip(found);
        rows.filter_map(|(product, bytes)| Some((*product, self.take(*product, &bytes?, shards)?)))
            .collect()
    }

    fn take(&self, product: ProductId, bytes: &[u8], shards: Shards) -> Option<InventoryView> {
        let row: Row = serde_json::from_slice(bytes).ok()?;
        let fits = row.view.product == product && row.shard == shard_of(product, shards) && row.position >= self.wanted.of(row.shard);
        if !fits {
            return None;
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = shown
            .entry(row.shard)
            .or_insert((row.position, Timestamp::from_micros(row.recorded_at)));
        if row.position < oldest.0 {
            *oldest = (row.position, Timestamp::from_micros(row.recorded_at));
        }
        Some(row.view)
    }

    /// To be asked before the views are: what they show then counts at least this.
    pub(crate) fn before(&self) -> Before {
        Before {
            progress: self.shared.progress.borrow().clone(),
            at: SystemTime::now(),
        }
    }

    /// Keeps what the views have just shown.
    pub(crate) fn keep(&self, rows: &HashMap<ProductId, InventoryView>, before: &Before) {
        let Some(shards) = before.progress.count else { return };
        for (product, view) in rows {
            let shard = shard_of(*product, shards);
            let Some(counted) = before.progress.shards.iter().find(|counted| counted.shard == shard) else {
                continue;
            };
            let row = Row {
                shard,
                position: counted.position,
                recorded_at: counted.recorded_at.micros(),
                view: view.clone(),
            };
            if let Ok(bytes) = serde_json::to_vec(&row) {
                self.shared.kept.keep(product.uuid(), &bytes, before.at);
            }
        }
    }

    /// How old the oldest is that was shown.
    pub(crate) fn shown(&self) -> Shown {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn shard_of(product: ProductId, shards: Shards) -> u16 {
    shards.of(Kind::Inventory.key(product.uuid()))
}
