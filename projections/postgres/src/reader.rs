//! Answering questions.

use event_store::Wakes;
use postgres_session::{Address, Session, ToSql};
use projections::{
    Checkpoint, ReadError,
    sql::{AnswersSql, Dialect, Query, Value},
};
use uuid::Uuid;

use crate::{pool::Pool, table::by_id, wakes::Listening, writer::checkpoint};

/// So many questions are answered at the same time; more wait their turn.
const READERS: usize = 8;

const DIALECT: Dialect = Dialect {
    schema: "jangbu_views.",
    data: "data::text",
    place: '$',
    is_true: "",
    position: "strpos",
    join: "JOIN",
    // What the settings of the session leave it to choose.
    index: None,
    nth: "o.nth",
};

/// The views, for reading, from any thread that may wait.
#[derive(Debug)]
pub struct PostgresViews {
    pool: Pool,
    /// Whoever asks how far the views are does not wait for those who ask what is in them.
    places: Pool,
}

impl PostgresViews {
    pub(crate) fn on(first: Session, address: Address) -> Self {
        Self {
            places: Pool::of(None, 1, address.clone()),
            pool: Pool::of(Some(first), READERS, address),
        }
    }
}

impl AnswersSql for PostgresViews {
    fn dialect(&self) -> &'static Dialect {
        &DIALECT
    }

    fn texts(&self, query: &Query) -> Result<Vec<String>, ReadError> {
        let values: Vec<&(dyn ToSql + Sync)> = query.values().iter().map(value).collect();
        self.pool
            .ask(|session| session.query(query.sql(), &values)?.iter().map(|row| Ok(row.try_get(0)?)).collect())
    }

    fn by_id(&self, table: &'static str, ids: &[Uuid]) -> Result<Vec<(Uuid, String)>, ReadError> {
        let sql = by_id(table);
        self.pool.ask(|session| {
            let rows = session.query(&sql, &[&ids])?;
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
        })
    }

    fn checkpoints(&self) -> Result<Vec<Checkpoint>, ReadError> {
        let sql = "SELECT shard, position, recorded_at FROM jangbu_views.checkpoints ORDER BY shard";
        self.places
            .ask(|session| session.query(sql, &[])?.iter().map(|row| checkpoint(row, 0)).collect())
    }

    fn wakes(&self) -> Result<Option<Box<dyn Wakes>>, ReadError> {
        let listening = Listening::to(self.pool.address());
        Ok(Some(Box::new(listening.map_err(|error| ReadError::Unavailable(Box::new(error)))?)))
    }
}

fn value(value: &Value) -> &(dyn ToSql + Sync) {
    match value {
        Value::Id(id) => id,
        Value::Text(text) => text,
        Value::Number(number) => number,
    }
}

#[cfg(test)]
mod tests {
    use aggregates::{AccountId, OrderNumber, OrderStatus, Timestamp};
    use projections::{
        Cursor, Orders, OrdersQuestion, ProcessesQuestion, ProductsQuestion, Projection, Scope,
        sql::{order_by_number, orders, processes, products, wallet_entries},
    };
    use test_servers::Postgres;

    use super::*;
    use crate::open;

    fn plan(session: &Session, query: Query) -> String {
        let query = query.limited(21);
        plan_of(session, query.sql(), query.values().len())
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
                assert_bounded(&plan(session, orders(&DIALECT, &question)), index, &format!("{scope:?} {status:?}"));
            }
        }
        for stuck in [None, Some(true), Some(false)] {
            let index = if stuck == Some(true) {
                "orders_v2_open"
            } else {
                "orders_v2_purchase"
            };
            let plan = plan(session, processes(&DIALECT, &ProcessesQuestion { stuck, first: 20, after }));
            assert_bounded(&plan, index, &format!("{stuck:?}"));
        }
        for (seller, index) in [(None, "products_v1_created"), (Some(account), "products_v1_seller")] {
            let question = ProductsQuestion {
                seller,
                first: 20,
                after,
                ..ProductsQuestion::default()
            };
            assert_bounded(&plan(session, products(&DIALECT, &question)), index, index);
        }
        let index = "wallet_entries_v1_pkey";
        assert_bounded(&plan(session, wallet_entries(&DIALECT, account, Some(9))), index, index);
        assert_bounded(&plan_of(session, &by_id(Orders::NAME), 1), "orders_v2_pkey", "by id");
        let number: OrderNumber = "2026010100000007".parse().expect("a number");
        assert_bounded(&plan(session, order_by_number(&DIALECT, &number)), "orders_v2_number", "by number");
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
