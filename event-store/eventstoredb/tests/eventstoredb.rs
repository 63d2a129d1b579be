//! The suite that every store passes, on the server that `JANGBU_TEST_ESDB` names (`esdb://localhost:2113?tls=false`). Each check has a log of its
//! own name there; nothing else is touched, and nothing is removed.

use event_store::conformance::Place;
use event_store_eventstoredb::EsdbStore;
use tempfile::TempDir;
use uuid::Uuid;

struct Server {
    url: String,
    name: String,
    indexes: TempDir,
}

impl Server {
    /// A new log on the server; none when nobody names one.
    fn named() -> Option<Self> {
        let Ok(url) = std::env::var("JANGBU_TEST_ESDB") else {
            println!("skipped: JANGBU_TEST_ESDB names no server");
            return None;
        };
        Some(Self {
            url,
            name: format!("jangbu_test_{}", Uuid::new_v4().simple()),
            indexes: tempfile::tempdir().expect("a scratch directory"),
        })
    }
}

impl Place for Server {
    type Store = EsdbStore;

    fn open(&self) -> EsdbStore {
        EsdbStore::open(&self.url, &self.name, self.indexes.path()).expect("the log opens")
    }
}

event_store::conformance_suite!(match Server::named() {
    Some(server) => server,
    None => return,
});

#[test]
fn selections_are_what_reading_all_gives() {
    let Some(server) = Server::named() else { return };
    event_store::selection_conformance::selections_are_what_reading_all_gives(&server.open());
}

#[test]
fn the_links_are_installed_and_installed_again() {
    let Some(server) = Server::named() else { return };
    for _ in 0..2 {
        EsdbStore::install_links(&server.url, &server.name).expect("installed");
    }
}
