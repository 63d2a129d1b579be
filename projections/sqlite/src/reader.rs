//! Answering questions.

use std::{collections::HashMap, hash::Hash};

use aggregates::{AccountId, OrderId, OrderNumber, OrderStatus, PaymentId, ProductId, TrackingId};
use projections::{
    AccountView, Checkpoint, InventoryView, MOST_IDS, MOST_ROWS, OrderView, OrdersQuestion, Page, PaymentView, ProcessesQuestion,
    ProductView, ProductsQuestion, ReadError, Scope, Views, WalletEntry, WalletView,
};
use rusqlite::{Connection, OptionalExtension, params_from_iter, types::Value};
use serde::de::DeserializeOwned;
use unicode_normalization::UnicodeNormalization;
use uuid::Uuid;

use crate::{
    pool::{Pool, Unanswered},
    writer::{Row, checkpoints, under_way},
};

/// The views, for reading, from any thread.
#[derive(Debug)]
pub struct SqliteViews {
    pool: Pool,
}

impl SqliteViews {
    pub(crate) fn on(connections: Vec<Connection>) -> Self {
        Self {
            pool: Pool::of(connections),
        }
    }

    fn batch<K: Copy + Eq + Hash, V: Row>(&self, ids: &[K], uuid: fn(K) -> Uuid) -> Result<HashMap<K, V>, ReadError> {
        if ids.len() > MOST_IDS {
            return Err(ReadError::TooManyIds);
        }
        self.pool.ask(|connection| {
            let mut statement = connection.prepare_cached(V::SELECT)?;
            let mut found = HashMap::with_capacity(ids.len());
            for id in ids {
                let data = statement
                    .query_row([uuid(*id).into_bytes()], |row| row.get::<_, String>(0))
                    .optional()?;
                if let Some(data) = data {
                    found.insert(*id, serde_json::from_str(&data)?);
                }
            }
            Ok(found)
        })
    }

    fn page<V: DeserializeOwned>(&self, mut query: Query, first: usize) -> Result<Page<V>, ReadError> {
        let most = first.min(MOST_ROWS);
        // One more than asked for tells whether others follow.
        query.tail(i64::try_from(most + 1).unwrap_or(i64::MAX));
        self.pool
            .ask(|connection| Ok(Page::of(rows(connection, &query.sql, &query.values)?, most)))
    }
}

impl Views for SqliteViews {
    fn orders(&self, ids: &[OrderId]) -> Result<HashMap<OrderId, OrderView>, ReadError> {
        self.batch(ids, OrderId::uuid)
    }

    fn order_by_number(&self, number: &OrderNumber) -> Result<Option<OrderView>, ReadError> {
        let number = [Value::Text(number.as_str().to_owned())];
        self.pool
            .ask(|connection| Ok(rows(connection, BY_NUMBER, &number)?.into_iter().next()))
    }

    fn order_by_tracking(&self, tracking: TrackingId) -> Result<Option<OrderView>, ReadError> {
        let tracking = [blob(tracking.uuid())];
        self.pool.ask(|connection| {
            Ok(rows(connection, "SELECT data FROM orders_v2 WHERE tracking = ?1", &tracking)?
                .into_iter()
                .next())
        })
    }

    fn orders_page(&self, question: &OrdersQuestion) -> Result<Page<OrderView>, ReadError> {
        // Who types a whole number wants that order, and not a look at every other.
        if let Some(number) = question.search.as_deref().and_then(|text| text.trim().parse::<OrderNumber>().ok())
            && let Some(order) = self.order_by_number(&number)?
        {
            let wanted = question.scope.sees(&order)
                && question.status.is_none_or(|status| order.status == status)
                && question.after.is_none_or(|after| order.cursor() < after);
            return Ok(Page::of(
                if wanted { vec![order] } else { Vec::new() },
                question.first.min(MOST_ROWS),
            ));
        }
        self.page(orders_query(question), question.first)
    }

    fn processes_page(&self, question: &ProcessesQuestion) -> Result<Page<OrderView>, ReadError> {
        self.page(processes_query(question), question.first)
    }

    fn products(&self, ids: &[ProductId]) -> Result<HashMap<ProductId, ProductView>, ReadError> {
        self.batch(ids, ProductId::uuid)
    }

    fn products_page(&self, question: &ProductsQuestion) -> Result<Page<ProductView>, ReadError> {
        self.page(products_query(question), question.first)
    }

    fn inventories(&self, ids: &[ProductId]) -> Result<HashMap<ProductId, InventoryView>, ReadError> {
        self.batch(ids, ProductId::uuid)
    }

    fn payments(&self, ids: &[PaymentId]) -> Result<HashMap<PaymentId, PaymentView>, ReadError> {
        self.batch(ids, PaymentId::uuid)
    }

    fn accounts(&self, ids: &[AccountId]) -> Result<HashMap<AccountId, AccountView>, ReadError> {
        self.batch(ids, AccountId::uuid)
    }

    fn wallets(&self, ids: &[AccountId]) -> Result<HashMap<AccountId, WalletView>, ReadError> {
        self.batch(ids, AccountId::uuid)
    }

    fn wallet_entries(&self, account: AccountId, first: usize, after: Option<u64>) -> Result<Page<WalletEntry>, ReadError> {
        let mut query = Query::of("SELECT data FROM wallet_entries_v1 e", "e.sequence DESC");
        query.and("e.account = ?", [blob(account.uuid())]);
        if let Some(after) = after {
            query.and("e.sequence < ?", [Value::Integer(i64::try_from(after).unwrap_or(i64::MAX))]);
        }
        self.page(query, first)
    }

    fn seller_sees(&self, seller: AccountId, buyer: AccountId) -> Result<bool, ReadError> {
        self.pool.ask(|connection| {
            let mut statement = connection.prepare_cached("SELECT 1 FROM seller_buyers_v1 WHERE seller = ?1 AND buyer = ?2")?;
            Ok(statement.exists([seller.uuid().into_bytes(), buyer.uuid().into_bytes()])?)
        })
    }

    fn positions(&self) -> Result<Vec<Checkpoint>, ReadError> {
        self.pool.ask(|connection| Ok(checkpoints(connection)?))
    }
}

const BY_NUMBER: &str = "SELECT data FROM orders_v2 WHERE number = ?1 ORDER BY row";

/// Text as it is searched: composed, and in lower case.
pub(crate) fn searchable(text: &str) -> String {
    text.nfc().collect::<String>().to_lowercase()
}

/// Each question names its index: the store has no statistics to choose one by.
fn orders_query(question: &OrdersQuestion) -> Query {
    let open = question.status.filter(|status| under_way(*status));
    let (from, place) = match (question.scope, open) {
        (Scope::Seller(_), _) => ("SELECT o.data FROM order_sellers_v1 p CROSS JOIN orders_v2 o ON o.id = p.id", "p"),
        (Scope::Buyer(_), _) => ("SELECT o.data FROM orders_v2 o INDEXED BY orders_v2_buyer", "o"),
        (Scope::All, Some(_)) => ("SELECT o.data FROM orders_v2 o INDEXED BY orders_v2_open", "o"),
        (Scope::All, None) => ("SELECT o.data FROM orders_v2 o INDEXED BY orders_v2_placed", "o"),
    };
    let mut query = Query::of(from, format!("{place}.placed_at DESC, {place}.id DESC"));
    match question.scope {
        Scope::Seller(seller) => query.and("p.seller = ?", [blob(seller.uuid())]),
        Scope::Buyer(buyer) => query.and("o.buyer = ?", [blob(buyer.uuid())]),
        Scope::All => {}
    }
    if let Some(status) = question.status {
        query.and("o.status = ?", [Value::Text(status.name().to_owned())]);
    }
    if open.is_some() {
        query.and("o.open = 1", []);
    }
    if let Some(after) = question.after {
        query.and(
            &format!("({place}.placed_at, {place}.id) < (?, ?)"),
            [Value::Integer(after.at.micros()), blob(after.id)],
        );
    }
    if let Some(text) = wanted(question.search.as_deref()) {
        query.and("(instr(o.number, ?) > 0 OR instr(o.names, ?) > 0)", [text.clone(), text]);
    }
    query
}

fn processes_query(question: &ProcessesQuestion) -> Query {
    let stuck = Value::Text(OrderStatus::NeedsAttention.name().to_owned());
    let order = "o.placed_at, o.id";
    let mut query = match question.stuck {
        Some(true) => {
            let mut query = Query::of("SELECT o.data FROM orders_v2 o INDEXED BY orders_v2_open", order);
            query.and("o.open = 1", []);
            query.and("o.status = ?", [stuck]);
            query
        }
        others => {
            let mut query = Query::of("SELECT o.data FROM orders_v2 o INDEXED BY orders_v2_purchase", order);
            query.and("o.purchase = 1", []);
            if others.is_some() {
                query.and("o.status <> ?", [stuck]);
            }
            query
        }
    };
    if let Some(after) = question.after {
        query.and("(o.placed_at, o.id) > (?, ?)", [Value::Integer(after.at.micros()), blob(after.id)]);
    }
    query
}

fn products_query(question: &ProductsQuestion) -> Query {
    let from = match question.seller {
        Some(_) => "SELECT o.data FROM products_v1 o INDEXED BY products_v1_seller",
        None => "SELECT o.data FROM products_v1 o INDEXED BY products_v1_created",
    };
    let mut query = Query::of(from, "o.created_at DESC, o.id DESC");
    if let Some(seller) = question.seller {
        query.and("o.seller = ?", [blob(seller.uuid())]);
    }
    if !question.retired {
        query.and("o.retired = 0", []);
    }
    if let Some(after) = question.after {
        query.and("(o.created_at, o.id) < (?, ?)", [Value::Integer(after.at.micros()), blob(after.id)]);
    }
    if let Some(text) = wanted(question.search.as_deref()) {
        query.and("instr(o.names, ?) > 0", [text]);
    }
    query
}

/// What is searched for; nothing but white space searches for nothing.
fn wanted(search: Option<&str>) -> Option<Value> {
    search
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(|text| Value::Text(searchable(text)))
}

fn blob(id: Uuid) -> Value {
    Value::Blob(id.as_bytes().to_vec())
}

/// A statement of which the parts depend on the question. What people type is always a value, never a part.
struct Query {
    sql: String,
    order: String,
    values: Vec<Value>,
    joined: &'static str,
}

impl Query {
    fn of(from: &str, order: impl Into<String>) -> Self {
        Self {
            sql: from.to_owned(),
            order: order.into(),
            values: Vec::new(),
            joined: " WHERE ",
        }
    }

    fn and<const N: usize>(&mut self, condition: &str, values: [Value; N]) {
        self.sql.push_str(self.joined);
        self.sql.push_str(condition);
        self.values.extend(values);
        self.joined = " AND ";
    }

    fn tail(&mut self, limit: i64) {
        self.sql.push_str(" ORDER BY ");
        self.sql.push_str(&self.order);
        self.sql.push_str(" LIMIT ?");
        self.values.push(Value::Integer(limit));
    }
}

fn rows<V: DeserializeOwned>(connection: &Connection, sql: &str, values: &[Value]) -> Result<Vec<V>, Unanswered> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(serde_json::from_str(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use aggregates::Timestamp;
    use projections::Cursor;

    use super::*;

    fn plan(connection: &Connection, mut query: Query) -> String {
        query.tail(21);
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {}", query.sql))
            .expect("a statement");
        let steps = statement
            .query_map(params_from_iter(&query.values), |row| row.get::<_, String>(3))
            .expect("a plan");
        steps.collect::<Result<Vec<_>, _>>().expect("steps").join("; ")
    }

    #[test]
    fn every_page_is_read_in_the_order_of_an_index() {
        let directory = tempfile::tempdir().expect("a directory");
        let connection = crate::open::writing(&directory.path().join("views.db")).expect("views");
        let after = Some(Cursor {
            at: Timestamp::default(),
            id: Uuid::nil(),
        });
        let account = AccountId::default();
        for status in [None, Some(OrderStatus::NeedsAttention), Some(OrderStatus::Confirmed)] {
            for scope in [Scope::All, Scope::Buyer(account), Scope::Seller(account)] {
                let question = OrdersQuestion {
                    scope,
                    status,
                    search: Some("x".into()),
                    first: 20,
                    after,
                };
                let plan = plan(&connection, orders_query(&question));
                let bounded = plan.starts_with("SEARCH") && plan.contains("placed_at") && plan.contains("id");
                assert!(bounded && !plan.contains("TEMP B-TREE"), "{scope:?} {status:?}: {plan}");
            }
        }
        for stuck in [None, Some(true), Some(false)] {
            let plan = plan(&connection, processes_query(&ProcessesQuestion { stuck, first: 20, after }));
            let bounded = plan.starts_with("SEARCH") && plan.contains("placed_at") && plan.contains("id");
            assert!(bounded && !plan.contains("TEMP B-TREE"), "{stuck:?}: {plan}");
        }
        for seller in [None, Some(account)] {
            let plan = plan(
                &connection,
                products_query(&ProductsQuestion {
                    seller,
                    first: 20,
                    after,
                    ..ProductsQuestion::default()
                }),
            );
            assert!(plan.starts_with("SEARCH") && !plan.contains("TEMP B-TREE"), "{seller:?}: {plan}");
        }
    }
}
