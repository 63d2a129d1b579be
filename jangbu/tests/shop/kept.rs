//! Where the log of a shop under test is kept: in its files, or in a database of its own.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
};

use event_store::EventStore;
use event_store_postgres::PostgresStore;
use event_store_sqlite::SqliteStore;
use test_servers::{Database, Postgres};

/// A database of a shop's own, dropped with it.
pub(crate) struct Kept {
    database: Database,
    data: PathBuf,
}

/// The databases by data directory: those who look into a shop know its directory.
fn databases() -> &'static Mutex<HashMap<PathBuf, String>> {
    static DATABASES: OnceLock<Mutex<HashMap<PathBuf, String>>> = OnceLock::new();
    DATABASES.get_or_init(Mutex::default)
}

/// What `JANGBU_TEST_STORE` asks for: `postgres` keeps the log and the views of each shop of these tests in a database.
pub(crate) fn in_databases() -> bool {
    match std::env::var("JANGBU_TEST_STORE").as_deref() {
        Ok("postgres") => true,
        Ok("sqlite") | Err(_) => false,
        Ok(other) => panic!("JANGBU_TEST_STORE is sqlite or postgres, not {other}"),
    }
}

impl Kept {
    /// A database, if that is asked for.
    pub(crate) fn for_shop(data: &Path) -> Option<Self> {
        in_databases().then(|| Self::on(Postgres::shared().database(), data))
    }

    pub(crate) fn on(database: Database, data: &Path) -> Self {
        let known = databases().lock();
        known
            .expect("nobody panics with it")
            .insert(data.to_owned(), database.url().to_owned());
        Self {
            database,
            data: data.to_owned(),
        }
    }

    /// The settings that lead there.
    pub(crate) fn settings(&self) -> [(String, String); 1] {
        [("JANGBU_STORE".to_owned(), self.database.url().to_owned())]
    }

    /// As `psql` prints it.
    pub(crate) fn sql(&self, statements: &str) -> String {
        self.database.sql(statements)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Ok(mut known) = databases().lock() {
            known.remove(&self.data);
        }
    }
}

/// The database of the shop with this data directory; none if its files hold the log.
pub(crate) fn database_of(data: &Path) -> Option<String> {
    databases().lock().expect("nobody panics with it").get(data).cloned()
}

/// The log of a shop, to read.
pub(crate) fn log_of(data: &Path) -> Arc<dyn EventStore> {
    match database_of(data) {
        Some(url) => Arc::new(PostgresStore::open_to_look(&url.parse().expect("an address")).expect("the log can be opened")),
        None => Arc::new(SqliteStore::open_read_only(data).expect("the log can be opened")),
    }
}

/// The log of a shop, to be examined: a file is not taken for what it says it is.
pub(crate) fn log_to_examine(data: &Path) -> Arc<dyn EventStore> {
    match database_of(data) {
        Some(_) => log_of(data),
        None => Arc::new(SqliteStore::open_to_examine(data).expect("the log can be opened")),
    }
}
