//! The read port: what the views answer. Nothing here decides or changes anything.
//!
//! Methods block: call them from a thread that may wait (`spawn_blocking`). They never answer more than a page.

use std::{collections::HashMap, sync::Arc};

use aggregates::{
    AccountId, Attention, Description, FailureCode, Line, Money, Name, OrderId, OrderNumber, OrderStatus, PaymentId, PaymentMethod,
    PaymentStatus, ProductId, Role, Sealed, Sku, Timestamp, TrackingId, Units,
};
use event_store::Wakes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The most rows of a page; a question for more is answered with this many.
pub const MOST_ROWS: usize = 100;

/// The most ids of one batched question.
pub const MOST_IDS: usize = 1_000;

/// An order, as those who may see it see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderView {
    /// Names it.
    pub id: OrderId,
    /// For people.
    pub number: OrderNumber,
    /// To follow it without knowing its id.
    pub tracking: TrackingId,
    /// Where it stands, as it is shown: `NEEDS_ATTENTION` while a person has to look.
    pub status: OrderStatus,
    /// Where it stands below that, while a person has to look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<OrderStatus>,
    /// Since when it stands where it is shown.
    pub since: Timestamp,
    /// The sequence of the last event that it counts.
    pub version: u64,
    /// Who ordered.
    pub buyer: AccountId,
    /// Where to, sealed with the buyer's key.
    pub address: Sealed,
    /// How it is paid.
    pub method: PaymentMethod,
    /// What, in ascending product id: product, name, seller, quantity and price for one.
    pub lines: Arc<[Line]>,
    /// The sum of the lines.
    pub total: Money,
    /// Why it came to nothing, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Until when it can be paid, once it was all reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pay_until: Option<Timestamp>,
    /// What pays it, once that was prepared for the buyer, or has paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment: Option<PaymentId>,
    /// What a person has to look at.
    #[serde(default, skip_serializing_if = "nothing")]
    pub attention: Attention,
    /// When an operator last had it go on, or had it undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_up_at: Option<Timestamp>,
}

fn nothing(attention: &Attention) -> bool {
    attention.reason().is_none()
}

/// Why an order came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why.
    pub code: FailureCode,
    /// Which product is to blame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<ProductId>,
}

/// A product as it is offered now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductView {
    /// Names it.
    pub id: ProductId,
    /// The sequence of the last event that it counts.
    pub version: u64,
    /// Whose it is.
    pub seller: AccountId,
    /// The seller's own number for it.
    pub sku: Sku,
    /// What it is called.
    pub name: Name,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Description>,
    /// For one.
    pub price: Money,
    /// Whether it was taken off the shelf.
    pub retired: bool,
    /// When it was offered first.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A product's stock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryView {
    /// Of what.
    pub product: ProductId,
    /// The sequence of the last event that it counts.
    pub version: u64,
    /// Whose it is.
    pub seller: AccountId,
    /// Whether it is not counted.
    pub unlimited: bool,
    /// On the shelf.
    pub on_hand: Units,
    /// Of these, promised.
    pub reserved: Units,
}

impl InventoryView {
    /// Free to be promised.
    pub fn available(&self) -> Units {
        self.on_hand.saturating_sub(self.reserved)
    }
}

/// A payment, and the calls that were made for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentView {
    /// Names it.
    pub id: PaymentId,
    /// The order that it pays.
    pub order: OrderId,
    /// Who pays.
    pub buyer: AccountId,
    /// Where it stands.
    pub status: PaymentStatus,
    /// How.
    pub method: PaymentMethod,
    /// How much is to be paid.
    pub amount: Money,
    /// How much was given back.
    pub refunded: Money,
    /// The calls to the provider, oldest first; of very many, the newest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// The sequence of the last event that it counts.
    pub version: u64,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// One call to the payment provider.
#[expect(clippy::struct_field_names, reason = "the outside calls it an attempt, and its number too")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Counted from 1, each kind for itself.
    pub attempt: u32,
    /// What was asked.
    pub kind: AttemptKind,
    /// When.
    pub at: Timestamp,
    /// What came of it; none while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<AttemptOutcome>,
}

/// What the provider was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AttemptKind {
    /// To take the money.
    Charge,
    /// What became of it.
    Status,
    /// To give the money back.
    Reversal,
}

impl AttemptKind {
    /// As the outside sees it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Charge => "CHARGE",
            Self::Status => "STATUS",
            Self::Reversal => "REVERSAL",
        }
    }
}

/// What came of a call to the provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptOutcome {
    /// When it was recorded.
    pub at: Timestamp,
    /// What it was.
    pub result: AttemptResult,
    /// The provider's code or status, or what happened instead of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The provider's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How a call to the provider ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AttemptResult {
    /// The money is taken.
    Captured,
    /// Nothing is taken, for good.
    Declined,
    /// Nothing is taken so far.
    NotCharged,
    /// The money is back.
    Reversed,
    /// The money is not given back.
    Refused,
    /// Another amount than the one asked for.
    Contradicted,
    /// No answer came.
    Unknown,
}

impl AttemptResult {
    /// As the outside sees it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Captured => "CAPTURED",
            Self::Declined => "DECLINED",
            Self::NotCharged => "NOT_CHARGED",
            Self::Reversed => "REVERSED",
            Self::Refused => "REFUSED",
            Self::Contradicted => "CONTRADICTED",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// An account; what is personal is sealed with its own key. Its password is not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountView {
    /// Names it.
    pub id: AccountId,
    /// The sequence of the last event that it counts.
    pub version: u64,
    /// The e-mail address.
    pub email: Sealed,
    /// The name.
    pub name: Sealed,
    /// The telephone number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<Sealed>,
    /// What the account may do.
    pub role: Role,
    /// When it was opened.
    pub opened_at: Timestamp,
}

/// An account's balance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalletView {
    /// Whose it is.
    pub account: AccountId,
    /// The sequence of the last event that it counts.
    pub version: u64,
    /// What is in it.
    pub balance: Money,
}

/// One change of a balance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalletEntry {
    /// Whose balance.
    pub account: AccountId,
    /// The sequence of its event; also the cursor behind it.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub kind: EntryKind,
    /// How much, always positive.
    pub amount: Money,
    /// The order that took it or gave it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderId>,
}

/// Why a balance changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EntryKind {
    /// Money came in.
    Deposit,
    /// An order was paid.
    Debit,
    /// An order gave back what it took.
    Credit,
}

impl EntryKind {
    /// As the outside sees it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deposit => "DEPOSIT",
            Self::Debit => "DEBIT",
            Self::Credit => "CREDIT",
        }
    }
}

/// Whose orders somebody may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// This buyer's own.
    Buyer(AccountId),
    /// Those with a line of this seller's.
    Seller(AccountId),
    /// All.
    All,
}

impl Scope {
    /// Whether an order is within it.
    pub fn sees(self, order: &OrderView) -> bool {
        match self {
            Self::Buyer(buyer) => order.buyer == buyer,
            Self::Seller(seller) => order.lines.iter().any(|line| line.seller == seller),
            Self::All => true,
        }
    }
}

/// A place in a list that is sorted by time: the row behind which a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cursor {
    /// The row's time.
    pub at: Timestamp,
    /// The row's id.
    pub id: Uuid,
}

impl OrderView {
    /// Where it stands, whether a person has to look or not.
    pub fn stage(&self) -> OrderStatus {
        self.below.unwrap_or(self.status)
    }

    /// Whether a person has to look.
    pub fn stuck(&self) -> bool {
        self.attention.reason().is_some()
    }

    /// Whether its purchase has not come to its end: it waits for somebody, the provider, its buyer or a person.
    pub fn purchase_under_way(&self) -> bool {
        match self.status {
            OrderStatus::Placed
            | OrderStatus::AwaitingPayment
            | OrderStatus::PaymentPending
            | OrderStatus::Cancelling
            | OrderStatus::NeedsAttention => true,
            OrderStatus::Confirmed
            | OrderStatus::PreparingShipment
            | OrderStatus::Shipped
            | OrderStatus::Delivered
            | OrderStatus::Cancelled
            | OrderStatus::Refunded => false,
        }
    }

    /// Where it stands in a list of orders.
    pub fn cursor(&self) -> Cursor {
        Cursor {
            at: self.placed_at,
            id: self.id.uuid(),
        }
    }
}

impl ProductView {
    /// Where it stands in a list of products.
    pub fn cursor(&self) -> Cursor {
        Cursor {
            at: self.created_at,
            id: self.id.uuid(),
        }
    }
}

/// Which orders are wanted; newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrdersQuestion {
    /// Whose.
    pub scope: Scope,
    /// Only those that stand here.
    pub status: Option<OrderStatus>,
    /// Only those whose number, or the name of one of whose products, contains this text.
    pub search: Option<String>,
    /// How many; at most [`MOST_ROWS`].
    pub first: usize,
    /// Behind which row.
    pub after: Option<Cursor>,
}

/// Which purchases that have not come to their end are wanted; oldest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessesQuestion {
    /// Only those at which a person has to look, or only the others.
    pub stuck: Option<bool>,
    /// How many; at most [`MOST_ROWS`].
    pub first: usize,
    /// Behind which row.
    pub after: Option<Cursor>,
}

/// Which products are wanted; newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProductsQuestion {
    /// Only this seller's.
    pub seller: Option<AccountId>,
    /// Only those whose name, description or SKU contains this text.
    pub search: Option<String>,
    /// Also those that were taken off the shelf.
    pub retired: bool,
    /// How many; at most [`MOST_ROWS`].
    pub first: usize,
    /// Behind which row.
    pub after: Option<Cursor>,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Whether others follow.
    pub more: bool,
}

impl<T> Page<T> {
    /// The first `most` of these rows, which are one more than asked for when others follow.
    pub fn of(mut rows: Vec<T>, most: usize) -> Self {
        let more = rows.len() > most;
        rows.truncate(most);
        Self { rows, more }
    }
}

/// How far the views count a shard's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    /// The shard.
    pub shard: u16,
    /// The last event that counts.
    pub position: u64,
    /// When that event was recorded.
    pub recorded_at: Timestamp,
}

/// Why the views did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store of the views cannot be read now.
    #[error("the views cannot be read: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Too many questions at once.
    #[error("too many questions at once; try again")]
    Busy,
    /// The question takes too long: a search that finds too little in too much.
    #[error("this question takes too long; search for something rarer")]
    TooSlow,
    /// More ids than one question may name.
    #[error("one question names at most {MOST_IDS} ids")]
    TooManyIds,
}

/// The views, for reading.
///
/// Batched questions answer by id; an id that is not there is missing in the answer. An order by its tracking id or number is
/// found whoever asks: who may see what is the caller's to judge ([`Scope::sees`]).
pub trait Views: Send + Sync {
    /// Orders by id.
    fn orders(&self, ids: &[OrderId]) -> Result<HashMap<OrderId, OrderView>, ReadError>;

    /// The order with this number.
    fn order_by_number(&self, number: &OrderNumber) -> Result<Option<OrderView>, ReadError>;

    /// The order with this tracking id.
    fn order_by_tracking(&self, tracking: TrackingId) -> Result<Option<OrderView>, ReadError>;

    /// A page of orders, newest first.
    fn orders_page(&self, question: &OrdersQuestion) -> Result<Page<OrderView>, ReadError>;

    /// A page of the orders whose purchase has not come to its end, oldest first.
    fn processes_page(&self, question: &ProcessesQuestion) -> Result<Page<OrderView>, ReadError>;

    /// Products by id.
    fn products(&self, ids: &[ProductId]) -> Result<HashMap<ProductId, ProductView>, ReadError>;

    /// A page of products, newest first.
    fn products_page(&self, question: &ProductsQuestion) -> Result<Page<ProductView>, ReadError>;

    /// Stock by product.
    fn inventories(&self, ids: &[ProductId]) -> Result<HashMap<ProductId, InventoryView>, ReadError>;

    /// Payments by id.
    fn payments(&self, ids: &[PaymentId]) -> Result<HashMap<PaymentId, PaymentView>, ReadError>;

    /// Accounts by id.
    fn accounts(&self, ids: &[AccountId]) -> Result<HashMap<AccountId, AccountView>, ReadError>;

    /// Balances by account.
    fn wallets(&self, ids: &[AccountId]) -> Result<HashMap<AccountId, WalletView>, ReadError>;

    /// A page of the changes of a balance, newest first: those with a sequence below `after`.
    fn wallet_entries(&self, account: AccountId, first: usize, after: Option<u64>) -> Result<Page<WalletEntry>, ReadError>;

    /// Whether a seller may see a buyer: whether the buyer ever ordered something of theirs.
    fn seller_sees(&self, seller: AccountId, buyer: AccountId) -> Result<bool, ReadError>;

    /// How far the views count each shard's log.
    fn positions(&self) -> Result<Vec<Checkpoint>, ReadError>;

    /// Wakes whoever follows views that another process writes when something was saved; none where they have to be asked again and again.
    fn wakes(&self) -> Result<Option<Box<dyn Wakes>>, ReadError> {
        Ok(None)
    }
}
