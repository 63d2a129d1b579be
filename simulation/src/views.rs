//! The views in memory, and the projector that keeps them: the shop's own fold, driven step by step and without its thread.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroUsize,
    sync::Arc,
};

use aggregates::{CommerceEvent, Kind, Recorded, State, Timestamp};
use event_store::{Event, LogReader, MemoryStore, Shards};
use projections::{
    AccountView, Changed, Checkpoint, InventoryView, Move, OrderView, PaymentView, ProductView, Stored, Table, ViewsBatch, ViewsError,
    ViewsWriter, WalletEntry, WalletView,
};
use rustc_hash::FxHashMap;
use uuid::Uuid;

use projections::{Fold, FoldError};

/// How a save ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum SaveFate {
    /// As it should.
    #[default]
    Saved,
    /// The store does not take it now.
    Unavailable,
    /// The projector ends when so many rows are written: the transaction is not.
    CrashInRows,
    /// The projector ends when all rows are written and the checkpoint is not: nor is the transaction.
    CrashBeforeCheckpoint,
    /// The projector ends before it hears that all is saved.
    CrashAfter,
}

/// Rows that are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    orders: BTreeMap<Uuid, OrderView>,
    products: BTreeMap<Uuid, ProductView>,
    inventories: BTreeMap<Uuid, InventoryView>,
    payments: BTreeMap<Uuid, PaymentView>,
    wallets: BTreeMap<Uuid, WalletView>,
    accounts: BTreeMap<Uuid, AccountView>,
    /// By shard, in the order of its log.
    entries: BTreeMap<u16, Vec<WalletEntry>>,
    checkpoints: BTreeMap<u16, u64>,
}

impl Rows {
    fn checkpoint(&self, shard: u16) -> u64 {
        self.checkpoints.get(&shard).copied().unwrap_or_default()
    }
}

/// The store of the views: rows, and what becomes of the next save.
#[derive(Debug, Default)]
struct Store {
    rows: Rows,
    fate: SaveFate,
    crashed: bool,
    doubled: bool,
}

macro_rules! tables {
    ($($table:ident: $view:ty;)+) => {$(
        impl Table<$view> for Store {
            fn load(&mut self, ids: &[Uuid]) -> Result<Vec<$view>, ViewsError> {
                Ok(ids.iter().filter_map(|id| self.rows.$table.get(id).cloned()).collect())
            }
        }
    )+};
}

tables! {
    orders: OrderView;
    products: ProductView;
    inventories: InventoryView;
    payments: PaymentView;
    wallets: WalletView;
    accounts: AccountView;
}

fn away() -> ViewsError {
    ViewsError::Unavailable("the simulated views do not answer".into())
}

fn put<V: Clone>(table: &mut BTreeMap<Uuid, V>, changed: &[Changed<'_, V>], id: impl Fn(&V) -> Uuid) -> bool {
    let mut doubled = false;
    for row in changed {
        let before = table.insert(id(row.view), row.view.clone());
        doubled |= before.is_some() == row.fresh;
    }
    doubled
}

impl ViewsWriter for Store {
    fn stored(&mut self) -> Result<Stored, ViewsError> {
        let checkpoint = |(shard, position): (&u16, &u64)| Checkpoint {
            shard: *shard,
            position: *position,
            recorded_at: Timestamp::default(),
        };
        Ok(Stored {
            log: None,
            checkpoints: self.rows.checkpoints.iter().map(checkpoint).collect(),
        })
    }

    fn reset(&mut self, _log: Uuid) -> Result<(), ViewsError> {
        self.rows = Rows::default();
        Ok(())
    }

    fn save(&mut self, batch: &ViewsBatch<'_>) -> Result<(), ViewsError> {
        let fate = std::mem::take(&mut self.fate);
        if fate == SaveFate::Unavailable {
            return Err(away());
        }
        for step in batch.moves {
            if step.from != self.rows.checkpoint(step.shard) {
                return Err(ViewsError::Moved(step.shard));
            }
        }
        if matches!(fate, SaveFate::CrashInRows | SaveFate::CrashBeforeCheckpoint) {
            // Rows and checkpoint are one transaction: wherever it ends early, none of it is there.
            self.crashed = true;
            return Err(away());
        }
        let rows = &mut self.rows;
        self.doubled |= put(&mut rows.orders, &batch.orders, |view| view.id.uuid());
        self.doubled |= put(&mut rows.products, &batch.products, |view| view.id.uuid());
        self.doubled |= put(&mut rows.inventories, &batch.inventories, |view| view.product.uuid());
        self.doubled |= put(&mut rows.payments, &batch.payments, |view| view.id.uuid());
        self.doubled |= put(&mut rows.wallets, &batch.wallets, |view| view.account.uuid());
        self.doubled |= put(&mut rows.accounts, &batch.accounts, |view| view.id.uuid());
        for step in batch.moves {
            rows.checkpoints.insert(step.shard, step.to);
            rows.entries
                .entry(step.shard)
                .or_default()
                .extend(batch.wallet_entries.iter().cloned());
        }
        if fate == SaveFate::CrashAfter {
            self.crashed = true;
            return Err(away());
        }
        Ok(())
    }
}

/// Keeps the views up to the log.
pub(crate) struct Projector {
    store: Store,
    fold: Fold,
    tail: VecDeque<(u16, Arc<[Recorded]>)>,
    shards: Shards,
    checkpoints: BTreeMap<u16, u64>,
    /// The log may hold what did not come by the tail.
    behind: bool,
}

const RECENT: NonZeroUsize = NonZeroUsize::new(3).expect("3 is not zero");
const MOST_EVENTS: usize = 64;

impl Projector {
    pub(crate) fn new(shards: Shards) -> Self {
        Self {
            store: Store::default(),
            fold: Fold::new(RECENT),
            tail: VecDeque::new(),
            shards,
            checkpoints: BTreeMap::new(),
            behind: false,
        }
    }

    fn checkpoint(&self, shard: u16) -> u64 {
        self.checkpoints.get(&shard).copied().unwrap_or_default()
    }

    /// What was published. The tail never waits: what does not fit is read from the log.
    pub(crate) fn offer(&mut self, shard: u16, events: Arc<[Recorded]>) {
        if self.tail.len() < MOST_EVENTS {
            self.tail.push_back((shard, events));
        } else {
            self.behind = true;
        }
    }

    /// What came by the tail is lost; the log has it.
    pub(crate) fn miss(&mut self) {
        self.behind = true;
    }

    /// The last two batches of a shard come in the wrong order.
    pub(crate) fn reorder(&mut self, shard: u16) -> bool {
        let mut of_shard = (0..self.tail.len()).rev().filter(|index| self.tail[*index].0 == shard);
        let (last, before) = (of_shard.next(), of_shard.next());
        match (last, before) {
            (Some(last), Some(before)) => {
                self.tail.swap(last, before);
                true
            }
            _ => false,
        }
    }

    /// Counts what waits; the save ends like this. Says what is wrong with what it counted.
    pub(crate) fn work(&mut self, log: &MemoryStore, fate: SaveFate) -> Result<(), String> {
        self.store.fate = fate;
        let batches = std::mem::take(&mut self.tail);
        for shard in self.shards.all() {
            let mut accepted = Vec::new();
            let mut end = self.checkpoint(shard);
            let of_shard = batches.iter().filter(|(of, _)| *of == shard);
            for recorded in of_shard.flat_map(|(_, batch)| batch.iter()) {
                if recorded.position == end + 1 {
                    end = recorded.position;
                    accepted.push(recorded);
                } else if recorded.position > end {
                    self.behind = true;
                } // Else it counts already.
            }
            self.count(shard, &accepted)?;
        }
        if self.behind {
            self.catch_up(log)?;
        }
        Ok(())
    }

    /// Counts what the log holds and the views do not.
    pub(crate) fn catch_up(&mut self, log: &MemoryStore) -> Result<(), String> {
        for shard in self.shards.all() {
            loop {
                let before = self.checkpoint(shard);
                let events = log.events(shard, before, MOST_EVENTS).map_err(|error| error.to_string())?;
                if events.is_empty() {
                    break;
                }
                let recorded = decode(&events)?;
                self.count(shard, &recorded.iter().collect::<Vec<_>>())?;
                if self.checkpoint(shard) == before {
                    // The save failed: later.
                    return Ok(());
                }
            }
        }
        self.behind = false;
        Ok(())
    }

    pub(crate) fn behind(&self) -> bool {
        self.behind || !self.tail.is_empty()
    }

    fn count(&mut self, shard: u16, events: &[&Recorded]) -> Result<(), String> {
        let (Some(_), Some(last)) = (events.first(), events.last()) else {
            return Ok(());
        };
        match self.fold.apply(events, &mut self.store) {
            Ok(()) => {}
            Err(FoldError::Views(error)) => return Err(error.to_string()),
            Err(FoldError::Unfit { index, reason }) => {
                return Err(format!("the views stall at {}: {reason}", events[index].position));
            }
        }
        let moves = [Move {
            shard,
            from: self.checkpoint(shard),
            to: last.position,
            recorded_at: last.at,
        }];
        let saved = self.store.save(&self.fold.changed(&moves));
        if std::mem::take(&mut self.store.doubled) {
            return Err(format!(
                "a row that is new was there, or one that was there is new, before {}",
                last.position
            ));
        }
        match saved {
            Ok(()) => {
                self.fold.saved();
                self.checkpoints.insert(shard, last.position);
                Ok(())
            }
            Err(ViewsError::Moved(_) | ViewsError::Held(_)) => Err("the checkpoint was moved by nobody".to_owned()),
            Err(ViewsError::Unavailable(_)) => {
                if std::mem::take(&mut self.store.crashed) {
                    self.fold = Fold::new(RECENT);
                    self.tail.clear();
                } else {
                    self.fold.forget();
                }
                self.checkpoints.clone_from(&self.store.rows.checkpoints);
                self.behind = true;
                Ok(())
            }
        }
    }

    /// Compares the views with a fold of the log from nothing.
    pub(crate) fn compare(&self, events: &[Recorded]) -> Result<(), String> {
        let mut anew = Self::new(self.shards);
        for event in events {
            anew.count(event.shard, &[event])?;
        }
        let (live, anew) = (&self.store.rows, &anew.store.rows);
        if live == anew {
            return Ok(());
        }
        let differs = [
            ("orders", live.orders != anew.orders),
            ("products", live.products != anew.products),
            ("inventories", live.inventories != anew.inventories),
            ("payments", live.payments != anew.payments),
            ("wallets", live.wallets != anew.wallets),
            ("accounts", live.accounts != anew.accounts),
            ("wallet entries", live.entries != anew.entries),
            ("checkpoint", live.checkpoints != anew.checkpoints),
        ];
        let names: Vec<_> = differs.iter().filter(|(_, differ)| *differ).map(|(name, _)| *name).collect();
        Err(format!(
            "the views differ from a fold of the log: {}; counted up to {:?} of {:?}",
            names.join(", "),
            live.checkpoints,
            anew.checkpoints
        ))
    }
}

impl Projector {
    /// Compares what the views show with the aggregates themselves.
    pub(crate) fn agree(&self, states: &FxHashMap<(Kind, Uuid), State>) -> Result<(), String> {
        let rows = &self.store.rows;
        for ((_, id), state) in states {
            let same = match state {
                State::Order(order) => {
                    let view = rows.orders.get(id);
                    view.is_some_and(|view| {
                        let failure = view.failure.map(|failure| (failure.code, failure.product));
                        (view.status, Some(view.total), failure) == (order.status(), order.total(), order.failure())
                    })
                }
                State::Inventory(stock) => {
                    let view = rows.inventories.get(id);
                    // A process that asks for what nobody offers is answered: a stream, but nothing to show.
                    view.map_or(stock.seller().is_none(), |view| {
                        (view.on_hand, view.reserved) == (stock.on_hand(), stock.reserved())
                    })
                }
                State::Wallet(wallet) => rows.wallets.get(id).is_some_and(|view| Some(view.balance) == wallet.balance()),
                State::Payment(payment) => rows.payments.get(id).is_some_and(|view| view.status == payment.status()),
                _ => true,
            };
            if !same {
                return Err(format!("the view of {}-{id} is not the aggregate: {state:?}", state.kind().name()));
            }
        }
        Ok(())
    }
}

/// Events as the projector sees them.
pub(crate) fn decode(events: &[Event]) -> Result<Vec<Recorded>, String> {
    let decode = |event: &Event| {
        let decoded = CommerceEvent::decode(&event.stream.kind, event.stream.id, &event.payload).map_err(|error| error.to_string())?;
        Ok(Recorded {
            shard: event.shard,
            position: event.position,
            sequence: event.sequence,
            at: Timestamp::from_micros(event.recorded_at),
            event: decoded,
        })
    };
    events.iter().map(decode).collect()
}
