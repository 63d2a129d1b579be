//! Read models: what a view is, how events fold into it, and the runner that keeps views up to the log.
//!
//! A projection adds up; it decides nothing and calls nobody. Rows and checkpoint are saved together, so an event counts once.

mod accounts;
#[cfg(feature = "conformance")]
pub mod conformance;
mod explain;
mod fold;
mod follower;
mod inventories;
mod look;
mod orders;
mod payments;
mod products;
mod projection;
pub mod read;
mod runner;
mod search;
pub mod sql;
mod store;
mod tail;
mod turns;
mod wallets;

pub use accounts::Accounts;
pub use explain::{Audience, Explanation, explain};
pub use fold::{Fold, FoldError};
pub use follower::{Follower, FollowerHandle, FollowerSettings};
pub use inventories::Inventories;
pub use look::{Difference, Field, LookError, ViewRow, ViewTable, ViewsLook, compare_rows, each_row};
pub use orders::Orders;
pub use payments::{FOUND_BY_AN_OPERATOR, MOST_ATTEMPTS, Payments};
pub use products::Products;
pub use projection::{NAMES, Projection};
pub use read::{
    AccountView, Attempt, AttemptKind, AttemptOutcome, AttemptResult, Checkpoint, Cursor, EntryKind, Failure, InventoryView, MOST_IDS,
    MOST_ROWS, OrderView, OrdersQuestion, Page, PaymentView, ProcessesQuestion, ProductView, ProductsQuestion, ReadError, Scope, Views,
    WalletEntry, WalletView,
};
pub use runner::{Progress, Runner, RunnerHandle, RunnerSettings, RunnerState, ShardProgress};
pub use store::{Changed, Move, Stored, Table, ViewsBatch, ViewsError, ViewsWriter};
pub use tail::Tail;
pub use wallets::{WalletEntries, Wallets};
