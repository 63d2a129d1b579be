//! Views in a database that speaks SQL: its questions, and their answers. What differs between databases is a [`Dialect`] of few words, and how
//! a statement is run.
//!
//! Every page is read in the order of one index, however many rows there are.

use std::{collections::HashMap, hash::Hash};

use aggregates::{AccountId, OrderId, OrderNumber, OrderStatus, PaymentId, ProductId, TrackingId};
use event_store::Wakes;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::{
    AccountView, Accounts, Checkpoint, Cursor, Inventories, InventoryView, MOST_IDS, MOST_ROWS, OrderView, Orders, OrdersQuestion, Page,
    PaymentView, Payments, ProcessesQuestion, ProductView, Products, ProductsQuestion, Projection, ReadError, Scope, Views, WalletEntries,
    WalletEntry, WalletView, Wallets,
};
pub use crate::{
    search::{names_of_order, names_of_product, searchable, under_way},
    turns::{Lent, Turns},
};

/// In which words a database is asked.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// Before a table's name.
    pub schema: &'static str,
    /// The column `data` as text.
    pub data: &'static str,
    /// Before the number of a value.
    pub place: char,
    /// Behind a column that is true or false.
    pub is_true: &'static str,
    /// The function that says where a text contains another one.
    pub position: &'static str,
    /// Joins the order to its place in a list, the list first.
    pub join: &'static str,
    /// Names the index to read, before its name; none where it needs no telling.
    pub index: Option<&'static str>,
    /// By what the rows of orders are numbered as they came.
    pub nth: &'static str,
}

/// A value of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An id.
    Id(Uuid),
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// A statement of which the parts depend on the question. What people type is always a value, never a part.
#[derive(Clone, Debug)]
pub struct Query {
    dialect: &'static Dialect,
    sql: String,
    order: &'static str,
    values: Vec<Value>,
}

impl Query {
    /// Of a table that is called `o`.
    fn of(dialect: &'static Dialect, table: &str, index: &str, order: &'static str) -> Self {
        let index = dialect
            .index
            .filter(|_| !index.is_empty())
            .map_or_else(String::new, |by| format!(" {by} {index}"));
        let Dialect { schema, data, .. } = dialect;
        Self::new(dialect, format!("SELECT o.{data} FROM {schema}{table} o{index}"), order)
    }

    fn new(dialect: &'static Dialect, sql: String, order: &'static str) -> Self {
        Self {
            dialect,
            sql,
            order,
            values: Vec::new(),
        }
    }

    /// Each `?` of the condition stands for the next of its values.
    fn and(&mut self, condition: &str, values: impl IntoIterator<Item = Value>) {
        self.sql.push_str(if self.values.is_empty() && !self.sql.contains(" WHERE ") {
            " WHERE "
        } else {
            " AND "
        });
        let mut parts = condition.split('?');
        self.sql.push_str(parts.next().unwrap_or_default());
        for (value, part) in values.into_iter().zip(parts) {
            self.place(value);
            self.sql.push_str(part);
        }
    }

    fn place(&mut self, value: Value) {
        self.values.push(value);
        self.sql.push(self.dialect.place);
        self.sql.push_str(&self.values.len().to_string());
    }

    /// Behind this row, in an order from the newest to the oldest, or the other way round.
    fn behind(&mut self, columns: &str, than: char, after: Option<Cursor>) {
        if let Some(after) = after {
            let condition = format!("({columns}) {than} (?, ?)");
            self.and(&condition, [Value::Number(after.at.micros()), Value::Id(after.id)]);
        }
    }

    /// That one of these columns contains what is searched for, if anything is. Nothing but white space searches for nothing.
    fn contains(&mut self, columns: &[&str], search: Option<&str>) {
        let Some(wanted) = search.map(str::trim).filter(|text| !text.is_empty()).map(searchable) else {
            return;
        };
        let position = self.dialect.position;
        let conditions: Vec<_> = columns.iter().map(|column| format!("{position}({column}, ?) > 0")).collect();
        self.and(
            &format!("({})", conditions.join(" OR ")),
            columns.iter().map(|_| Value::Text(wanted.clone())),
        );
    }

    /// In its order, and so many rows at most.
    #[must_use]
    pub fn limited(mut self, rows: usize) -> Self {
        self.sql.extend([" ORDER BY ", self.order, " LIMIT "]);
        self.place(Value::Number(i64::try_from(rows).unwrap_or(i64::MAX)));
        self
    }

    /// The statement.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// Its values, in the order of their numbers.
    pub fn values(&self) -> &[Value] {
        &self.values
    }
}

/// A page of orders, newest first.
pub fn orders(dialect: &'static Dialect, question: &OrdersQuestion) -> Query {
    let open = question.scope == Scope::All && question.status.is_some_and(under_way);
    let mut query = match question.scope {
        Scope::Seller(seller) => {
            let Dialect { schema, data, join, .. } = dialect;
            let orders = Orders::NAME;
            let sql = format!("SELECT o.{data} FROM {schema}order_sellers_v1 p {join} {schema}{orders} o ON o.id = p.id");
            let mut query = Query::new(dialect, sql, "p.placed_at DESC, p.id DESC");
            query.and("p.seller = ?", [Value::Id(seller.uuid())]);
            query
        }
        Scope::Buyer(buyer) => {
            let mut query = Query::of(dialect, Orders::NAME, "orders_v2_buyer", NEWEST_ORDERS);
            query.and("o.buyer = ?", [Value::Id(buyer.uuid())]);
            query
        }
        // Whoever has few orders is not sent through all that are under way.
        Scope::All if open => Query::of(dialect, Orders::NAME, "orders_v2_open", NEWEST_ORDERS),
        Scope::All => Query::of(dialect, Orders::NAME, "orders_v2_placed", NEWEST_ORDERS),
    };
    if let Some(status) = question.status {
        query.and("o.status = ?", [Value::Text(status.name().to_owned())]);
    }
    if open {
        query.and(&format!("o.open{}", dialect.is_true), []);
    }
    let columns = if matches!(question.scope, Scope::Seller(_)) {
        "p.placed_at, p.id"
    } else {
        "o.placed_at, o.id"
    };
    query.behind(columns, '<', question.after);
    query.contains(&["o.number", "o.names"], question.search.as_deref());
    query
}

const NEWEST_ORDERS: &str = "o.placed_at DESC, o.id DESC";

/// A page of the orders whose purchase has not come to its end, oldest first.
pub fn processes(dialect: &'static Dialect, question: &ProcessesQuestion) -> Query {
    let order = "o.placed_at, o.id";
    let stuck = Value::Text(OrderStatus::NeedsAttention.name().to_owned());
    let mut query = if question.stuck == Some(true) {
        let mut query = Query::of(dialect, Orders::NAME, "orders_v2_open", order);
        query.and(&format!("o.open{}", dialect.is_true), []);
        query.and("o.status = ?", [stuck]);
        query
    } else {
        let mut query = Query::of(dialect, Orders::NAME, "orders_v2_purchase", order);
        query.and(&format!("o.purchase{}", dialect.is_true), []);
        if question.stuck.is_some() {
            query.and("o.status <> ?", [stuck]);
        }
        query
    };
    query.behind(order, '>', question.after);
    query
}

/// A page of products, newest first.
pub fn products(dialect: &'static Dialect, question: &ProductsQuestion) -> Query {
    let order = "o.created_at DESC, o.id DESC";
    let mut query = match question.seller {
        Some(seller) => {
            let mut query = Query::of(dialect, Products::NAME, "products_v1_seller", order);
            query.and("o.seller = ?", [Value::Id(seller.uuid())]);
            query
        }
        None => Query::of(dialect, Products::NAME, "products_v1_created", order),
    };
    if !question.retired {
        query.and(&format!("NOT (o.retired{})", dialect.is_true), []);
    }
    query.behind("o.created_at, o.id", '<', question.after);
    query.contains(&["o.names"], question.search.as_deref());
    query
}

/// A page of the changes of a balance, newest first.
pub fn wallet_entries(dialect: &'static Dialect, account: AccountId, after: Option<u64>) -> Query {
    let mut query = Query::of(dialect, WalletEntries::NAME, "", "o.sequence DESC");
    query.and("o.account = ?", [Value::Id(account.uuid())]);
    if let Some(after) = after {
        query.and("o.sequence < ?", [Value::Number(i64::try_from(after).unwrap_or(i64::MAX))]);
    }
    query
}

/// The order with a number; the first, should there be several.
pub fn order_by_number(dialect: &'static Dialect, number: &OrderNumber) -> Query {
    let mut query = Query::of(dialect, Orders::NAME, "orders_v2_number", dialect.nth);
    query.and("o.number = ?", [Value::Text(number.as_str().to_owned())]);
    query
}

fn order_by_tracking(dialect: &'static Dialect, tracking: TrackingId) -> Query {
    let mut query = Query::of(dialect, Orders::NAME, "orders_v2_tracking", "o.id");
    query.and("o.tracking = ?", [Value::Id(tracking.uuid())]);
    query
}

fn seller_sees(dialect: &'static Dialect, seller: AccountId, buyer: AccountId) -> Query {
    let sql = format!("SELECT 'x' FROM {}seller_buyers_v1 o", dialect.schema);
    let mut query = Query::new(dialect, sql, "o.buyer");
    query.and("o.seller = ?", [Value::Id(seller.uuid())]);
    query.and("o.buyer = ?", [Value::Id(buyer.uuid())]);
    query
}

/// A database that holds views: whoever can do this much answers every question ([`Views`]).
pub trait AnswersSql: Send + Sync {
    /// In which words it is asked.
    fn dialect(&self) -> &'static Dialect;

    /// The first column of each row that a query finds.
    fn texts(&self, query: &Query) -> Result<Vec<String>, ReadError>;

    /// The rows of a table that have these ids, as id and data.
    fn by_id(&self, table: &'static str, ids: &[Uuid]) -> Result<Vec<(Uuid, String)>, ReadError>;

    /// How far the views count each shard's log.
    fn checkpoints(&self) -> Result<Vec<Checkpoint>, ReadError>;

    /// As [`Views::wakes`].
    fn wakes(&self) -> Result<Option<Box<dyn Wakes>>, ReadError> {
        Ok(None)
    }
}

fn read<V: DeserializeOwned>(data: &str) -> Result<V, ReadError> {
    serde_json::from_str(data).map_err(|error| ReadError::Unavailable(Box::new(error)))
}

fn batch<K: Copy + Eq + Hash, P: Projection>(
    store: &impl AnswersSql,
    ids: &[K],
    uuid: fn(K) -> Uuid,
) -> Result<HashMap<K, P::View>, ReadError>
where
    P::View: DeserializeOwned,
{
    if ids.len() > MOST_IDS {
        return Err(ReadError::TooManyIds);
    }
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let wanted: HashMap<Uuid, K> = ids.iter().map(|id| (uuid(*id), *id)).collect();
    let uuids: Vec<Uuid> = wanted.keys().copied().collect();
    let rows = store.by_id(P::NAME, &uuids)?;
    rows.iter()
        .filter_map(|(id, data)| Some((*wanted.get(id)?, data)))
        .map(|(id, data)| Ok((id, read(data)?)))
        .collect()
}

fn one<V: DeserializeOwned>(store: &impl AnswersSql, query: Query) -> Result<Option<V>, ReadError> {
    store.texts(&query.limited(1))?.first().map(|data| read(data)).transpose()
}

fn page<V: DeserializeOwned>(store: &impl AnswersSql, query: Query, first: usize) -> Result<Page<V>, ReadError> {
    let most = first.min(MOST_ROWS);
    // One more than asked for tells whether others follow.
    let rows = store.texts(&query.limited(most + 1))?;
    let rows: Result<Vec<V>, ReadError> = rows.iter().map(|data| read(data)).collect();
    Ok(Page::of(rows?, most))
}

impl<S: AnswersSql> Views for S {
    fn orders(&self, ids: &[OrderId]) -> Result<HashMap<OrderId, OrderView>, ReadError> {
        batch::<_, Orders>(self, ids, OrderId::uuid)
    }

    fn order_by_number(&self, number: &OrderNumber) -> Result<Option<OrderView>, ReadError> {
        one(self, order_by_number(self.dialect(), number))
    }

    fn order_by_tracking(&self, tracking: TrackingId) -> Result<Option<OrderView>, ReadError> {
        one(self, order_by_tracking(self.dialect(), tracking))
    }

    fn orders_page(&self, question: &OrdersQuestion) -> Result<Page<OrderView>, ReadError> {
        // Who types a whole number wants that order, and not a look at every other.
        if let Some(number) = question.search.as_deref().and_then(|text| text.trim().parse::<OrderNumber>().ok())
            && let Some(order) = self.order_by_number(&number)?
        {
            let wanted = question.scope.sees(&order)
                && question.status.is_none_or(|status| order.status == status)
                && question.after.is_none_or(|after| order.cursor() < after);
            let rows = if wanted { vec![order] } else { Vec::new() };
            return Ok(Page::of(rows, question.first.min(MOST_ROWS)));
        }
        page(self, orders(self.dialect(), question), question.first)
    }

    fn processes_page(&self, question: &ProcessesQuestion) -> Result<Page<OrderView>, ReadError> {
        page(self, processes(self.dialect(), question), question.first)
    }

    fn products(&self, ids: &[ProductId]) -> Result<HashMap<ProductId, ProductView>, ReadError> {
        batch::<_, Products>(self, ids, ProductId::uuid)
    }

    fn products_page(&self, question: &ProductsQuestion) -> Result<Page<ProductView>, ReadError> {
        page(self, products(self.dialect(), question), question.first)
    }

    fn inventories(&self, ids: &[ProductId]) -> Result<HashMap<ProductId, InventoryView>, ReadError> {
        batch::<_, Inventories>(self, ids, ProductId::uuid)
    }

    fn payments(&self, ids: &[PaymentId]) -> Result<HashMap<PaymentId, PaymentView>, ReadError> {
        batch::<_, Payments>(self, ids, PaymentId::uuid)
    }

    fn accounts(&self, ids: &[AccountId]) -> Result<HashMap<AccountId, AccountView>, ReadError> {
        batch::<_, Accounts>(self, ids, AccountId::uuid)
    }

    fn wallets(&self, ids: &[AccountId]) -> Result<HashMap<AccountId, WalletView>, ReadError> {
        batch::<_, Wallets>(self, ids, AccountId::uuid)
    }

    fn wallet_entries(&self, account: AccountId, first: usize, after: Option<u64>) -> Result<Page<WalletEntry>, ReadError> {
        page(self, wallet_entries(self.dialect(), account, after), first)
    }

    fn seller_sees(&self, seller: AccountId, buyer: AccountId) -> Result<bool, ReadError> {
        Ok(!self.texts(&seller_sees(self.dialect(), seller, buyer).limited(1))?.is_empty())
    }

    fn positions(&self) -> Result<Vec<Checkpoint>, ReadError> {
        self.checkpoints()
    }

    fn wakes(&self) -> Result<Option<Box<dyn Wakes>>, ReadError> {
        AnswersSql::wakes(self)
    }
}
