//! Answering questions.

use projections::{
    Checkpoint, ReadError,
    sql::{AnswersSql, Dialect, Query, Value},
};
use rusqlite::{Connection, OptionalExtension, params_from_iter};
use uuid::Uuid;

use crate::{
    pool::Pool,
    writer::{by_id, checkpoints},
};

/// Each question names its index: the store has no statistics to choose one by.
const DIALECT: Dialect = Dialect {
    schema: "",
    data: "data",
    place: '?',
    is_true: " = 1",
    position: "instr",
    join: "CROSS JOIN",
    index: Some("INDEXED BY"),
    nth: "o.row",
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
}

impl AnswersSql for SqliteViews {
    fn dialect(&self) -> &'static Dialect {
        &DIALECT
    }

    fn texts(&self, query: &Query) -> Result<Vec<String>, ReadError> {
        self.pool.ask(|connection| {
            let mut statement = connection.prepare_cached(query.sql())?;
            let rows = statement.query_map(params_from_iter(query.values().iter().map(value)), |row| row.get(0))?;
            rows.collect()
        })
    }

    fn by_id(&self, table: &'static str, ids: &[Uuid]) -> Result<Vec<(Uuid, String)>, ReadError> {
        self.pool.ask(|connection| {
            let mut statement = connection.prepare_cached(&by_id(table))?;
            let mut found = Vec::with_capacity(ids.len());
            for id in ids {
                let data = statement.query_row([id.into_bytes()], |row| row.get(0)).optional()?;
                found.extend(data.map(|data| (*id, data)));
            }
            Ok(found)
        })
    }

    fn checkpoints(&self) -> Result<Vec<Checkpoint>, ReadError> {
        self.pool.ask(checkpoints)
    }
}

fn value(value: &Value) -> rusqlite::types::Value {
    match value {
        Value::Id(id) => id.into_bytes().to_vec().into(),
        Value::Text(text) => text.clone().into(),
        Value::Number(number) => (*number).into(),
    }
}

#[cfg(test)]
mod tests {
    use aggregates::{AccountId, OrderStatus, Timestamp};
    use projections::{
        Cursor, OrdersQuestion, ProcessesQuestion, ProductsQuestion, Scope,
        sql::{orders, processes, products},
    };

    use super::*;

    fn plan(connection: &Connection, query: Query) -> String {
        let query = query.limited(21);
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {}", query.sql()))
            .expect("a statement");
        let steps = statement
            .query_map(params_from_iter(query.values().iter().map(value)), |row| row.get::<_, String>(3))
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
                let plan = plan(&connection, orders(&DIALECT, &question));
                let bounded = plan.starts_with("SEARCH") && plan.contains("placed_at") && plan.contains("id");
                assert!(bounded && !plan.contains("TEMP B-TREE"), "{scope:?} {status:?}: {plan}");
            }
        }
        for stuck in [None, Some(true), Some(false)] {
            let plan = plan(&connection, processes(&DIALECT, &ProcessesQuestion { stuck, first: 20, after }));
            let bounded = plan.starts_with("SEARCH") && plan.contains("placed_at") && plan.contains("id");
            assert!(bounded && !plan.contains("TEMP B-TREE"), "{stuck:?}: {plan}");
        }
        for seller in [None, Some(account)] {
            let plan = plan(
                &connection,
                products(
                    &DIALECT,
                    &ProductsQuestion {
                        seller,
                        first: 20,
                        after,
                        ..ProductsQuestion::default()
                    },
                ),
            );
            assert!(plan.starts_with("SEARCH") && !plan.contains("TEMP B-TREE"), "{seller:?}: {plan}");
        }
    }
}
