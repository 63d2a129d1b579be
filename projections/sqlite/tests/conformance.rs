//! The suite that every store of views passes, on SQLite.

use std::sync::Arc;

use projections::{Views, ViewsWriter, conformance::Place};
use projections_sqlite::{FILE, SqliteViews};
use rusqlite::Connection;
use tempfile::TempDir;

struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a scratch directory"))
    }

    fn file(&self) -> Connection {
        Connection::open(self.0.path().join(FILE)).expect("the file")
    }
}

impl Place for Directory {
    fn open(&self) -> (Box<dyn ViewsWriter>, Arc<dyn Views>) {
        let (writer, views) = SqliteViews::open(self.0.path()).expect("views");
        (Box::new(writer), views)
    }

    fn open_read_only(&self) -> Result<Arc<dyn Views>, String> {
        match SqliteViews::open_read_only(self.0.path()) {
            Ok(views) => Ok(views),
            Err(error) => Err(error.to_string()),
        }
    }

    fn another(&self) -> Self {
        Self::new()
    }

    fn dump(&self) -> String {
        let connection = self.file();
        let names = |sql: &str| -> Vec<String> {
            let mut statement = connection.prepare(sql).expect("a statement");
            let rows = statement.query_map([], |row| row.get(0)).expect("rows");
            rows.collect::<Result<_, _>>().expect("names")
        };
        let mut text = String::new();
        for table in names("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name") {
            let columns = names(&format!(
                "SELECT 'quote(' || name || ')' FROM pragma_table_info('{table}') WHERE name <> 'row' ORDER BY cid"
            ));
            let columns = columns.join(" || ',' || ");
            for row in names(&format!("SELECT {columns} FROM {table} ORDER BY 1")) {
                text.extend([table.as_str(), ": ", row.as_str(), "\n"]);
            }
        }
        text
    }

    fn add_an_account_that_no_event_explains(&self) {
        self.file()
            .execute("INSERT INTO accounts_v1 VALUES (x'00', '{}')", [])
            .expect("a row");
    }

    fn make_of_other_shapes(&self) {
        self.file()
            .execute_batch("UPDATE views SET names = 'orders_v0'; UPDATE orders_v2 SET data = '{}'")
            .expect("a change");
    }
}

projections::conformance_suite!(Directory::new());
