//! The writing port: where a store keeps the rows of the views.

use aggregates::Timestamp;
use uuid::Uuid;

use crate::{AccountView, Checkpoint, InventoryView, OrderView, PaymentView, ProductView, WalletEntry, WalletView};

/// Why views were not saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum ViewsError {
    /// The store cannot be used now; trying again may help.
    #[error("the views cannot be written: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Somebody else has moved this shard's checkpoint: what was folded counts already.
    #[error("another process moved the views' checkpoint of shard {0}")]
    Moved(u16),
    /// Another process keeps the views: this one writes nothing, and stands by. The text says who.
    #[error("the views are kept by another process ({0})")]
    Held(String),
}

/// What a store of views holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The log that the views were folded from; none when they are new.
    pub log: Option<Uuid>,
    /// How far each shard's log is counted.
    pub checkpoints: Vec<Checkpoint>,
}

/// A row that is to be saved.
#[derive(Clone, Copy, Debug)]
pub struct Changed<'a, V> {
    /// The row.
    pub view: &'a V,
    /// Whether the store does not have it yet.
    pub fresh: bool,
}

/// How far one shard's checkpoint moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The shard.
    pub shard: u16,
    /// Where it stands; 0 when nothing was counted.
    pub from: u64,
    /// Where it goes.
    pub to: u64,
    /// When the event there was recorded.
    pub recorded_at: Timestamp,
}

/// One transaction's worth of rows: one for each row that a batch of events touched.
#[derive(Debug, Default)]
pub struct ViewsBatch<'a> {
    /// Orders.
    pub orders: Vec<Changed<'a, OrderView>>,
    /// Products.
    pub products: Vec<Changed<'a, ProductView>>,
    /// Stock.
    pub inventories: Vec<Changed<'a, InventoryView>>,
    /// Payments.
    pub payments: Vec<Changed<'a, PaymentView>>,
    /// Balances.
    pub wallets: Vec<Changed<'a, WalletView>>,
    /// Changes of balances; these are only ever added.
    pub wallet_entries: &'a [WalletEntry],
    /// Accounts.
    pub accounts: Vec<Changed<'a, AccountView>>,
    /// The checkpoints that move with them.
    pub moves: &'a [Move],
}

/// Loads rows of one view.
pub trait Table<V> {
    /// Those of these rows that there are, in any order.
    fn load(&mut self, ids: &[Uuid]) -> Result<Vec<V>, ViewsError>;
}

/// The views, for writing. One thread owns it.
///
/// Where several processes may open the same views, one of them keeps them: who writes has to [`take`](Self::take) them, and is told
/// [`ViewsError::Held`] by every later call when somebody else has done so meanwhile.
pub trait ViewsWriter:
    Table<OrderView> + Table<ProductView> + Table<InventoryView> + Table<PaymentView> + Table<WalletView> + Table<AccountView> + Send
{
    /// Makes this writer the one that keeps the views, and fences the one before: that one was stopped, is gone, or gave no sign of life for a
    /// while. Whoever keeps them already may take them again.
    ///
    /// # Errors
    /// [`ViewsError::Held`] when another one keeps them.
    fn take(&mut self) -> Result<(), ViewsError> {
        // Where one process alone can open them there is nobody to take them from.
        Ok(())
    }

    /// Says that this writer lives, while it has nothing to save.
    ///
    /// # Errors
    /// [`ViewsError::Held`] when another one keeps them by now.
    fn keep(&mut self) -> Result<(), ViewsError> {
        Ok(())
    }

    /// Lets somebody else take them at once. Should that fail they can be taken a little later.
    fn give_up(&mut self) {}

    /// What is stored. Who stands by may ask that too.
    fn stored(&mut self) -> Result<Stored, ViewsError>;

    /// Drops every row and checkpoint: the views are to be filled anew, from this log.
    fn reset(&mut self, log: Uuid) -> Result<(), ViewsError>;

    /// Saves the rows and moves the checkpoints, in one transaction or not at all.
    ///
    /// # Errors
    /// [`ViewsError::Moved`] when a checkpoint does not stand where the batch says, [`ViewsError::Held`] when another one keeps the views.
    fn save(&mut self, batch: &ViewsBatch<'_>) -> Result<(), ViewsError>;
}
