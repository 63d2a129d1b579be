//! Folds a batch of events in memory: however many events touch a row, it is saved once.

use std::num::NonZeroUsize;

use aggregates::Recorded;
use lru::LruCache;
use rustc_hash::{FxBuildHasher, FxHashMap};
use uuid::Uuid;

use crate::{
    Accounts, Changed, Inventories, Move, Orders, Payments, Products, Projection, Table, ViewsBatch, ViewsError, ViewsWriter,
    WalletEntries, WalletEntry, Wallets,
};

/// Why a batch was not folded.
#[derive(Debug)]
pub enum FoldError {
    /// The rows that it touches could not be loaded.
    Views(ViewsError),
    /// The event at this index of the batch does not fit its row.
    Unfit {
        /// Which.
        index: usize,
        /// Why, in words.
        reason: String,
    },
}

/// All views, while a batch is folded into them. The [`Runner`](crate::Runner) drives one.
#[allow(missing_debug_implementations, reason = "it is nothing but a cache")]
pub struct Fold {
    orders: Rows<Orders>,
    products: Rows<Products>,
    inventories: Rows<Inventories>,
    payments: Rows<Payments>,
    wallets: Rows<Wallets>,
    accounts: Rows<Accounts>,
    entries: Vec<WalletEntry>,
}

impl Fold {
    /// Keeps so many recent rows of each view.
    pub fn new(recent: NonZeroUsize) -> Self {
        Self {
            orders: Rows::new(recent),
            products: Rows::new(recent),
            inventories: Rows::new(recent),
            payments: Rows::new(recent),
            wallets: Rows::new(recent),
            accounts: Rows::new(recent),
            entries: Vec::new(),
        }
    }

    /// Folds a batch. After an error the fold must [`forget`](Self::forget).
    ///
    /// # Errors
    /// The rows cannot be loaded, or an event does not fit its row.
    pub fn apply(&mut self, events: &[&Recorded], store: &mut dyn ViewsWriter) -> Result<(), FoldError> {
        for recorded in events {
            self.touch(recorded);
        }
        self.load(store).map_err(FoldError::Views)?;
        for (index, recorded) in events.iter().enumerate() {
            self.apply_one(recorded).map_err(|reason| FoldError::Unfit { index, reason })?;
        }
        Ok(())
    }

    /// What is to be saved, with the checkpoints that it is saved under.
    pub fn changed<'a>(&'a self, moves: &'a [Move]) -> ViewsBatch<'a> {
        ViewsBatch {
            orders: self.orders.changed(),
            products: self.products.changed(),
            inventories: self.inventories.changed(),
            payments: self.payments.changed(),
            wallets: self.wallets.changed(),
            wallet_entries: &self.entries,
            accounts: self.accounts.changed(),
            moves,
        }
    }

    /// What was changed is saved.
    pub fn saved(&mut self) {
        self.orders.saved();
        self.products.saved();
        self.inventories.saved();
        self.payments.saved();
        self.wallets.saved();
        self.accounts.saved();
        self.entries.clear();
    }

    /// What was changed was not saved, or what is stored was changed by somebody else.
    pub fn forget(&mut self) {
        self.orders.forget();
        self.products.forget();
        self.inventories.forget();
        self.payments.forget();
        self.wallets.forget();
        self.accounts.forget();
        self.entries.clear();
    }

    fn touch(&mut self, recorded: &Recorded) {
        self.orders.touch(recorded);
        self.products.touch(recorded);
        self.inventories.touch(recorded);
        self.payments.touch(recorded);
        self.wallets.touch(recorded);
        self.accounts.touch(recorded);
    }

    fn load(&mut self, store: &mut dyn ViewsWriter) -> Result<(), ViewsError> {
        self.orders.load(store)?;
        self.products.load(store)?;
        self.inventories.load(store)?;
        self.payments.load(store)?;
        self.wallets.load(store)?;
        self.accounts.load(store)
    }

    fn apply_one(&mut self, recorded: &Recorded) -> Result<(), String> {
        self.orders.apply(recorded)?;
        self.products.apply(recorded)?;
        self.inventories.apply(recorded)?;
        self.payments.apply(recorded)?;
        self.wallets.apply(recorded)?;
        self.accounts.apply(recorded)?;
        self.entries.extend(WalletEntries::entry(recorded));
        Ok(())
    }
}

/// The rows of one view that a batch touches, and those that recent batches touched.
struct Rows<P: Projection> {
    /// In the order of their first event, so that new rows are stored in the order of the log.
    touched: Vec<Row<P::View>>,
    index: FxHashMap<Uuid, usize>,
    missing: Vec<Uuid>,
    recent: LruCache<Uuid, P::View, FxBuildHasher>,
}

struct Row<V> {
    id: Uuid,
    view: Option<V>,
    /// Not in the store yet.
    fresh: bool,
}

impl<P: Projection> Rows<P> {
    fn new(recent: NonZeroUsize) -> Self {
        Self {
            touched: Vec::new(),
            index: FxHashMap::default(),
            missing: Vec::new(),
            recent: LruCache::with_hasher(recent, FxBuildHasher),
        }
    }

    fn touch(&mut self, recorded: &Recorded) {
        let Some(id) = recorded.event.as_ref().and_then(P::key) else {
            return;
        };
        if self.index.contains_key(&id) {
            return;
        }
        // A stream's first event makes a new row: there is nothing to load.
        let fresh = recorded.sequence == 1;
        let view = if fresh { None } else { self.recent.pop(&id) };
        if !fresh && view.is_none() {
            self.missing.push(id);
        }
        self.index.insert(id, self.touched.len());
        self.touched.push(Row { id, view, fresh });
    }

    fn load<T: Table<P::View> + ?Sized>(&mut self, table: &mut T) -> Result<(), ViewsError> {
        if self.missing.is_empty() {
            return Ok(());
        }
        for view in table.load(&self.missing)? {
            if let Some(index) = self.index.get(&P::id(&view)) {
                self.touched[*index].view = Some(view);
            }
        }
        self.missing.clear();
        Ok(())
    }

    fn apply(&mut self, recorded: &Recorded) -> Result<(), String> {
        let Some(id) = recorded.event.as_ref().and_then(P::key) else {
            return Ok(());
        };
        let Some(row) = self.index.get(&id).and_then(|index| self.touched.get_mut(*index)) else {
            return Ok(());
        };
        let counted = row.view.as_ref().map_or(0, P::version);
        if recorded.sequence != counted + 1 {
            return Err(format!(
                "event {} of the stream follows event {counted} in {}",
                recorded.sequence,
                P::NAME
            ));
        }
        row.view = P::apply(row.view.take(), recorded);
        if row.view.is_none() {
            return Err(format!(
                "event {} of the stream does not fit its row in {}",
                recorded.sequence,
                P::NAME
            ));
        }
        Ok(())
    }

    fn changed(&self) -> Vec<Changed<'_, P::View>> {
        self.touched
            .iter()
            .filter_map(|row| row.view.as_ref().map(|view| Changed { view, fresh: row.fresh }))
            .collect()
    }

    fn saved(&mut self) {
        self.index.clear();
        for row in self.touched.drain(..) {
            if let Some(view) = row.view {
                self.recent.put(row.id, view);
            }
        }
    }

    fn forget(&mut self) {
        self.touched.clear();
        self.index.clear();
        self.missing.clear();
        self.recent.clear();
    }
}
