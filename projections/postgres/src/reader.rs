//! Answering questions.

use std::{collections::HashMap, hash::Hash};

use aggregates::{AccountId, OrderId, OrderNumber, OrderStatus, PaymentId, ProductId, TrackingId};
use postgres_session::{Address, Error, Row as Found, Session, ToSql};
use projections::{
    AccountView, Checkpoint, InventoryView, MOST_IDS, MOST_ROWS, OrderView, OrdersQuestion, Page, PaymentView, ProcessesQuestion,
    ProductView, ProductsQuestion, ReadError, Scope, Views, WalletEntry, WalletView,
};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::{
    pool::{Pool, Unanswered},
    search::{searchable, under_way},
    table::Row,
    writer::checkpoint,
};

/// The views, for reading, from any thread that may wait.
#[derive(Debug)]
pub struct PostgresViews {
    pool: Pool,
}

impl PostgresViews {
    pub(crate) fn on(first: Session, address: Address) -> Self {
        Self {
            pool: Pool::of(first, address),
        }
    }

    fn batch<K: Copy + Eq + Hash, V: Row>(&self, ids: &[K], uuid: fn(K) -> Uuid) -> Result<HashMap<K, V>, ReadError> {
        if ids.len() > MOST_IDS {
            return Err(ReadError::TooManyIds);
        }
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let wanted: HashMap<Uuid, K> = ids.iter().map(|id| (uuid(*id), *id)).collect();
        let uuids: Vec<Uuid> = wanted.keys().copied().collect();
        self.pool.ask(|session| {
            let mut found = HashMap::with_capacity(wanted.len());
            for row in session.query(V::SELECT, &[&uuids])? {
                let id: Uuid = row.try_get(0).map_err(Error::from)?;
                if let Some(id) = wanted.get(&id) {
                    found.insert(*id, view(&row, 1)?);
                }
            }
            Ok(found)
        })
    }

    fn one<V: DeserializeOwned>(&self, sql: &str, value: &(dyn ToSql + Sync)) -> Result<Option<V>, ReadError> {
        self.pool
            .ask(|session| session.query_opt(sql, &[value])?.map(|row| view(&row, 0)).transpose())
    }

    fn page<V: DeserializeOwned>(&self, mut query: Query, first: usize) -> Result<Page<V>, ReadError> {
        let most = first.min(MOST_ROWS);
        // One more than asked for tells whether others follow.
        query.tail(i64::try_from(most + 1).unwrap_or(i64::MAX));
        let values = query.values();
        self.pool.ask(|session| {
            let rows = session.query(&query.sql, &values)?;
            let rows: Result<Vec<V>, Unanswered> = rows.iter().map(|row| view(row, 0)).collect();
            Ok(Page::of(rows?, most))
        })
    }
}

fn view<V: DeserializeOwned>(row: &Found, column: usize) -> Result<V, Unanswered> {
    Ok(serde_json::from_str(row.try_get(column).map_err(Error::from)?)?)
}

impl Views for PostgresViews {
    fn orders(&self, ids: &[OrderId]) -> Result<HashMap<OrderId, OrderView>, ReadError> {
        self.batch(ids, OrderId::uuid)
    }

    fn order_by_number(&self, number: &OrderNumber) -> Result<Option<OrderView>, ReadError> {
        self.one(BY_NUMBER, &number.as_str())
    }

    fn order_by_tracking(&self, tracking: TrackingId) -> Result<Option<OrderView>, ReadError> {
        self.one(
            "SELECT data::text FROM jangbu_views.orders_v2 WHERE tracking = $1",
            &tracking.uuid(),
        )
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
        self.page(entries_query(account, after), first)
    }

    fn seller_sees(&self, seller: AccountId, buyer: AccountId) -> Result<bool, ReadError> {
        self.pool.ask(|session| {
            let sql = "SELECT 1 FROM jangbu_views.seller_buyers_v1 WHERE seller = $1 AND buyer = $2";
            Ok(session.query_opt(sql, &[&seller.uuid(), &buyer.uuid()])?.is_some())
        })
    }

    fn positions(&self) -> Result<Vec<Checkpoint>, ReadError> {
        self.pool.ask(|session| {
            let rows = session.query(
                "SELECT shard, position, recorded_at FROM jangbu_views.checkpoints ORDER BY shard",
                &[],
            )?;
            Ok(rows.iter().map(|row| checkpoint(row, 0)).collect::<Result<_, _>>()?)
        })
    }
}

const BY_NUMBER: &str = "SELECT o.data::text FROM jangbu_views.orders_v2 o WHERE o.number = $1 ORDER BY o.nth LIMIT 1";

fn orders_query(question: &OrdersQuestion) -> Query {
    let (from, place) = match question.scope {
        Scope::Seller(_) => (
            "SELECT o.data::text FROM jangbu_views.order_sellers_v1 p JOIN jangbu_views.orders_v2 o ON o.id = p.id",
            "p",
        ),
        Scope::Buyer(_) | Scope::All => ("SELECT o.data::text FROM jangbu_views.orders_v2 o", "o"),
    };
    let mut query = Query::of(from, format!("{place}.placed_at DESC, {place}.id DESC"));
    match question.scope {
        Scope::Seller(seller) => query.and("p.seller = ?", [id(seller.uuid())]),
        Scope::Buyer(buyer) => query.and("o.buyer = ?", [id(buyer.uuid())]),
        Scope::All => {}
    }
    if let Some(status) = question.status {
        query.and("o.status = ?", [text(status.name())]);
    }
    // Whoever has few orders is not sent through all that are under way.
    if question.scope == Scope::All && question.status.is_some_and(under_way) {
        query.and("o.open", []);
    }
    if let Some(after) = question.after {
        query.and(
            &format!("({place}.placed_at, {place}.id) < (?, ?)"),
            [number(after.at.micros()), id(after.id)],
        );
    }
    if let Some(wanted) = wanted(question.search.as_deref()) {
        query.and(
            "(strpos(o.number, ?) > 0 OR strpos(o.names, ?) > 0)",
            [text(&wanted), text(&wanted)],
        );
    }
    query
}

fn processes_query(question: &ProcessesQuestion) -> Query {
    let mut query = Query::of("SELECT o.data::text FROM jangbu_views.orders_v2 o", "o.placed_at, o.id");
    let stuck = || text(OrderStatus::NeedsAttention.name());
    if question.stuck == Some(true) {
        query.and("o.open", []);
        query.and("o.status = ?", [stuck()]);
    } else {
        query.and("o.purchase", []);
        if question.stuck.is_some() {
            query.and("o.status <> ?", [stuck()]);
        }
    }
    if let Some(after) = question.after {
        query.and("(o.placed_at, o.id) > (?, ?)", [number(after.at.micros()), id(after.id)]);
    }
    query
}

fn products_query(question: &ProductsQuestion) -> Query {
    let mut query = Query::of(
        "SELECT o.data::text FROM jangbu_views.products_v1 o",
        "o.created_at DESC, o.id DESC",
    );
    if let Some(seller) = question.seller {
        query.and("o.seller = ?", [id(seller.uuid())]);
    }
    if !question.retired {
        query.and("NOT o.retired", []);
    }
    if let Some(after) = question.after {
        query.and("(o.created_at, o.id) < (?, ?)", [number(after.at.micros()), id(after.id)]);
    }
    if let Some(wanted) = wanted(question.search.as_deref()) {
        query.and("strpos(o.names, ?) > 0", [text(&wanted)]);
    }
    query
}

fn entries_query(account: AccountId, after: Option<u64>) -> Query {
    let mut query = Query::of("SELECT e.data::text FROM jangbu_views.wallet_entries_v1 e", "e.sequence DESC");
    query.and("e.account = ?", [id(account.uuid())]);
    if let Some(after) = after {
        query.and("e.sequence < ?", [number(i64::try_from(after).unwrap_or(i64::MAX))]);
    }
    query
}

/// What is searched for; nothing but white space searches for nothing.
fn wanted(search: Option<&str>) -> Option<String> {
    search.map(str::trim).filter(|text| !text.is_empty()).map(searchable)
}

type Value = Box<dyn ToSql + Sync>;

fn id(id: Uuid) -> Value {
    Box::new(id)
}

fn text(text: &str) -> Value {
    Box::new(text.to_owned())
}

fn number(number: i64) -> Value {
    Box::new(number)
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

    /// Each `?` of the condition stands for the next of its values.
    fn and<const N: usize>(&mut self, condition: &str, values: [Value; N]) {
        self.sql.push_str(self.joined);
        let mut parts = condition.split('?');
        self.sql.push_str(parts.next().unwrap_or_default());
        for (value, part) in values.into_iter().zip(parts) {
            self.values.push(value);
            self.sql.push_str(&placeholder(self.values.len()));
            self.sql.push_str(part);
        }
        self.joined = " AND ";
    }

    fn tail(&mut self, limit: i64) {
        self.values.push(number(limit));
        let parts = [" ORDER BY ", &self.order, " LIMIT ", &placeholder(self.values.len())];
        self.sql.extend(parts);
    }

    fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values.iter().map(|value| &**value).collect()
    }
}

fn placeholder(nth: usize) -> String {
    format!("${nth}")
}

#[cfg(test)]
mod tests {
    use aggregates::Timestamp;
    use projections::Cursor;
    use test_servers::Postgres;

    use super::*;
    use crate::open;

    fn plan(session: &Session, mut query: Query) -> String {
        query.tail(21);
        plan_of(session, &query.sql, query.values.len())
    }

    /// The plan that does not look at the values.
    fn plan_of(session: &Session, sql: &str, values: usize) -> String {
        let nothing = vec!["NULL"; values].join(", ");
        session.script(&format!("PREPARE question AS {sql}")).expect("a statement");
        let steps = session.query(&format!("EXPLAIN EXECUTE question({nothing})"), &[]).expect("a plan");
        session.script("DEALLOCATE question").expect("an end");
        steps
            .iter()
            .map(|step| step.get::<_, &str>(0).trim())
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// No index is left out, and nothing is sorted.
    fn assert_bounded(plan: &str, index: &str, what: &str) {
        let good = plan.contains(&format!("using {index} ")) && plan.contains("Index Cond");
        let bad = ["Seq Scan", "Sort", "Bitmap", "Hash", "Merge"]
            .iter()
            .any(|step| plan.contains(step));
        assert!(good && !bad, "{what}: {plan}");
    }

    fn every_page_is_read_in_the_order_of_its_index(session: &Session) {
        let after = Some(Cursor {
            at: Timestamp::default(),
            id: Uuid::nil(),
        });
        let account = AccountId::default();
        for status in [None, Some(OrderStatus::NeedsAttention), Some(OrderStatus::Confirmed)] {
            for (scope, index) in [
                (
                    Scope::All,
                    if status == Some(OrderStatus::NeedsAttention) {
                        "orders_v2_open"
                    } else {
                        "orders_v2_placed"
                    },
                ),
                (Scope::Buyer(account), "orders_v2_buyer"),
                (Scope::Seller(account), "order_sellers_v1_pkey"),
            ] {
                let question = OrdersQuestion {
                    scope,
                    status,
                    search: Some("x".into()),
                    first: 20,
                    after,
                };
                assert_bounded(&plan(session, orders_query(&question)), index, &format!("{scope:?} {status:?}"));
            }
        }
        for stuck in [None, Some(true), Some(false)] {
            let index = if stuck == Some(true) {
                "orders_v2_open"
            } else {
                "orders_v2_purchase"
            };
            let plan = plan(session, processes_query(&ProcessesQuestion { stuck, first: 20, after }));
            assert_bounded(&plan, index, &format!("{stuck:?}"));
        }
        for (seller, index) in [(None, "products_v1_created"), (Some(account), "products_v1_seller")] {
            let question = ProductsQuestion {
                seller,
                first: 20,
                after,
                ..ProductsQuestion::default()
            };
            assert_bounded(&plan(session, products_query(&question)), index, index);
        }
        let index = "wallet_entries_v1_pkey";
        assert_bounded(&plan(session, entries_query(account, Some(9))), index, index);
        assert_bounded(&plan_of(session, OrderView::SELECT, 1), "orders_v2_pkey", "by id");
        assert_bounded(&plan_of(session, BY_NUMBER, 1), "orders_v2_number", "by number");
    }

    #[test]
    fn every_page_is_read_in_the_order_of_an_index_whatever_the_store_knows_of_its_rows() {
        let database = Postgres::shared().database();
        let address: Address = database.url().parse().expect("an address");
        let writer = open::migrated(&address).expect("views");
        let session = open::reading(&address).expect("a session");
        every_page_is_read_in_the_order_of_its_index(&session);
        // One buyer and one seller have almost all: what a planner with statistics would rather read otherwise.
        writer
            .script(
                "INSERT INTO jangbu_views.orders_v2 (id, number, tracking, buyer, placed_at, status, open, purchase, names, data)
                 SELECT gen_random_uuid(), n::text, gen_random_uuid(), '00000000-0000-0000-0000-000000000000', n,
                     CASE n % 3 WHEN 0 THEN 'CONFIRMED' ELSE 'NEEDS_ATTENTION' END, n % 3 > 0, n % 3 > 0, '', '{}'
                 FROM generate_series(1, 20000) n;
                 INSERT INTO jangbu_views.order_sellers_v1
                 SELECT '00000000-0000-0000-0000-000000000000', placed_at, id FROM jangbu_views.orders_v2;
                 INSERT INTO jangbu_views.products_v1
                 SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000000', n, false, '', '{}' FROM generate_series(1, 5000) n;
                 INSERT INTO jangbu_views.wallet_entries_v1
                 SELECT '00000000-0000-0000-0000-000000000000', n, '{}' FROM generate_series(1, 5000) n;
                 ANALYZE",
            )
            .expect("rows");
        every_page_is_read_in_the_order_of_its_index(&open::reading(&address).expect("a session"));
    }
}
