//! A database with views, for tests.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::{sync::Arc, time::Duration};

use postgres_session::{Address, Session};
use projections::{Views, ViewsWriter, conformance::Place};
use projections_postgres::PostgresViews;
use test_servers::{Database, Postgres};

pub(crate) fn address(url: &str) -> Address {
    url.parse().expect("an address")
}

/// Of the server that the tests of a file share.
pub(crate) struct Shared(Database);

impl Shared {
    pub(crate) fn new() -> Self {
        Self(Postgres::shared().database())
    }

    pub(crate) fn url(&self) -> &str {
        self.0.url()
    }

    pub(crate) fn anybody(&self) -> Session {
        anybody(self.0.url())
    }
}

/// Somebody with a session of their own, who may do everything.
pub(crate) fn anybody(url: &str) -> Session {
    Session::open(&address(url), "", Duration::from_secs(20)).expect("a session")
}

pub(crate) fn texts(session: &Session, sql: &str) -> Vec<String> {
    let rows = session.query(sql, &[]).expect("rows");
    rows.iter().map(|row| row.get(0)).collect()
}

/// A line for each row, whatever its place in the database.
pub(crate) fn dump(session: &Session) -> String {
    let mut text = String::new();
    let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'jangbu_views' ORDER BY 1";
    for table in texts(session, tables) {
        let columns = format!(
            "SELECT format('coalesce(%I::text, ''-'')', column_name) FROM information_schema.columns
             WHERE table_schema = 'jangbu_views' AND table_name = '{table}' AND column_name NOT IN ('nth', 'epoch', 'holder', 'backend', 'backend_start', 'seen_at') ORDER BY ordinal_position"
        );
        let columns = texts(session, &columns).join(" || ',' || ");
        for row in texts(session, &format!("SELECT {columns} FROM jangbu_views.{table} ORDER BY 1")) {
            text.extend([table.as_str(), ": ", row.as_str(), "\n"]);
        }
    }
    text
}

/// Opens the views, and takes them.
pub(crate) fn take(url: &str) -> (Box<dyn ViewsWriter>, Arc<dyn Views>) {
    let (mut writer, views) = open(url);
    writer.take().expect("nobody else keeps them");
    (writer, views)
}

pub(crate) fn open(url: &str) -> (Box<dyn ViewsWriter>, Arc<dyn Views>) {
    let (writer, views) = PostgresViews::open(&address(url)).expect("views");
    (Box::new(writer), views)
}

impl Place for Shared {
    fn open(&self) -> (Box<dyn ViewsWriter>, Arc<dyn Views>) {
        open(self.url())
    }

    fn open_read_only(&self) -> Result<Arc<dyn Views>, String> {
        match PostgresViews::open_read_only(&address(self.url())) {
            Ok(views) => Ok(views),
            Err(error) => Err(error.to_string()),
        }
    }

    fn another(&self) -> Self {
        Self::new()
    }

    fn dump(&self) -> String {
        dump(&self.anybody())
    }

    fn add_an_account_that_no_event_explains(&self) {
        let row = "INSERT INTO jangbu_views.accounts_v1 VALUES ('00000000-0000-0000-0000-000000000000', '{}')";
        self.anybody().script(row).expect("a row");
    }

    fn make_of_other_shapes(&self) {
        self.anybody()
            .script("UPDATE jangbu_views.views SET names = 'orders_v0'; UPDATE jangbu_views.orders_v2 SET data = '{}'")
            .expect("a change");
    }
}
