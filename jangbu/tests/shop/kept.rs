//! Where the log of a shop under test is kept: in its files, in a database of its own, or in streams of its own on EventStoreDB.

use std::{
    collections::HashMap,
    env,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process,
    sync::{Arc, Mutex, MutexGuard, Once, OnceLock},
};

use event_store::EventStore;
use event_store_eventstoredb::{DEFAULT_NAME, EsdbStore};
use event_store_postgres::PostgresStore;
use event_store_sqlite::SqliteStore;
use tempfile::TempDir;
use test_servers::{Database, Postgres};
use uuid::Uuid;

use super::carried;

/// Where a shop's log is, if it is not in its files.
pub(crate) struct Kept {
    place: Place,
    data: PathBuf,
}

enum Place {
    /// Dropped with the shop, together with its views.
    Database(Database),
    /// Streams of a name of their own; nothing removes them.
    Streams { url: String, _index: TempDir },
}

/// The same for those who look into a shop, and know its directory.
#[derive(Clone)]
enum Look {
    Database(String),
    Streams {
        url: String,
        index: PathBuf,
        store: Option<EsdbStore>,
    },
}

fn looks() -> MutexGuard<'static, HashMap<PathBuf, Look>> {
    static LOOKS: OnceLock<Mutex<HashMap<PathBuf, Look>>> = OnceLock::new();
    LOOKS.get_or_init(Mutex::default).lock().expect("nobody panics with it")
}

/// What `JANGBU_TEST_STORE` asks for: `postgres` keeps the log and the views of each shop of these tests in a database, `esdb` its log on the
/// server that `JANGBU_TEST_ESDB` names, which is what the tests that are carried to such a server do anyway.
fn asked_for() -> String {
    let otherwise = if carried() { "esdb" } else { "sqlite" };
    env::var("JANGBU_TEST_STORE").unwrap_or_else(|_| otherwise.to_owned())
}

/// Whether it is databases.
pub(crate) fn in_databases() -> bool {
    asked_for() == "postgres"
}

/// Whether the log of the shop with this data directory is in its files.
pub(crate) fn in_files(data: &Path) -> bool {
    !looks().contains_key(data)
}

impl Kept {
    /// What is asked for; none for files.
    pub(crate) fn for_shop(data: &Path) -> Option<Self> {
        match asked_for().as_str() {
            "sqlite" => None,
            "postgres" => Some(Self::on(Postgres::shared().database(), data)),
            "esdb" => Some(Self::on_esdb(data)),
            other => panic!("JANGBU_TEST_STORE is sqlite, postgres or esdb, not {other}"),
        }
    }

    pub(crate) fn on(database: Database, data: &Path) -> Self {
        looks().insert(data.to_owned(), Look::Database(database.url().to_owned()));
        Self {
            place: Place::Database(database),
            data: data.to_owned(),
        }
    }

    fn on_esdb(data: &Path) -> Self {
        let server = env::var("JANGBU_TEST_ESDB").unwrap_or_else(|_| no_server());
        let url = format!("{server}#jangbu_test_{}", Uuid::new_v4().simple());
        let index = tempfile::tempdir().expect("a scratch directory");
        let look = Look::Streams {
            url: url.clone(),
            index: index.path().to_owned(),
            store: None,
        };
        looks().insert(data.to_owned(), look);
        Self {
            place: Place::Streams { url, _index: index },
            data: data.to_owned(),
        }
    }

    /// The settings that lead there.
    pub(crate) fn settings(&self) -> [(String, String); 1] {
        let url = match &self.place {
            Place::Database(database) => database.url(),
            Place::Streams { url, .. } => url,
        };
        [("JANGBU_STORE".to_owned(), url.to_owned())]
    }

    /// The database that holds its views too, if there is one.
    pub(crate) fn database(&self) -> Option<&Database> {
        match &self.place {
            Place::Database(database) => Some(database),
            Place::Streams { .. } => None,
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        looks().remove(&self.data);
    }
}

/// Nothing can be run. Of a binary that was carried somewhere to be run there, that is all there is to say.
fn no_server() -> ! {
    const WHY: &str = "not run: JANGBU_TEST_ESDB names no server (esdb://localhost:2113?tls=false)";
    if carried() {
        // Once, whichever test comes first. What a test prints is shown when it has ended, and this one never does.
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            let _ = writeln!(io::stderr(), "{WHY}");
            process::exit(2);
        });
    }
    panic!("{WHY}");
}

/// The database of the shop with this data directory, if its log is in one.
pub(crate) fn database_of(data: &Path) -> Option<String> {
    match looks().get(data) {
        Some(Look::Database(url)) => Some(url.clone()),
        Some(Look::Streams { .. }) | None => None,
    }
}

/// The log of a shop, to read.
pub(crate) fn log_of(data: &Path) -> Arc<dyn EventStore> {
    match looks().get_mut(data) {
        Some(Look::Database(url)) => {
            Arc::new(PostgresStore::open_to_look(&url.parse().expect("an address")).expect("the log can be opened"))
        }
        // Opened once: its index is one reader's alone.
        Some(Look::Streams { url, index, store }) => {
            let open = || EsdbStore::open(url, DEFAULT_NAME, index).expect("the log can be opened");
            Arc::new(store.get_or_insert_with(open).clone())
        }
        None => Arc::new(SqliteStore::open_read_only(data).expect("the log can be opened")),
    }
}

/// The log of a shop, to be examined: a file is not taken for what it says it is.
pub(crate) fn log_to_examine(data: &Path) -> Arc<dyn EventStore> {
    if in_files(data) {
        Arc::new(SqliteStore::open_to_examine(data).expect("the log can be opened"))
    } else {
        log_of(data)
    }
}
