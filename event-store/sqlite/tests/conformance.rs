//! The suite that every store passes, on SQLite.

use event_store::conformance::Place;
use event_store_sqlite::SqliteStore;
use rusqlite::Connection;
use tempfile::TempDir;

struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a scratch directory"))
    }
}

impl Place for Directory {
    type Store = SqliteStore;

    fn open(&self) -> SqliteStore {
        SqliteStore::open(self.0.path()).expect("the log opens")
    }

    fn rewrite_history(&self) -> Vec<(&'static str, bool)> {
        let anybody = Connection::open(self.0.path().join("log.db")).expect("it is a SQLite file");
        [
            "UPDATE events SET payload = '{}'",
            "UPDATE events SET position = position + 10",
            "UPDATE OR REPLACE events SET sequence = 1",
            "DELETE FROM events",
            "DELETE FROM events WHERE position = 2",
            "INSERT OR REPLACE INTO events SELECT * FROM events",
            "INSERT OR REPLACE INTO events SELECT shard, 9, aggregate_type, aggregate_id, sequence, '', '', '', 0, '{}', '{}' FROM events",
            "REPLACE INTO events SELECT shard, position, 'x', aggregate_id, sequence, '', '', '', 0, '{}', '{}' FROM events",
            "INSERT INTO events SELECT shard, 3, aggregate_type, aggregate_id, 3, 'x', '', '', 0, '{}', '{}' FROM events WHERE position = 2",
            "INSERT INTO events SELECT 7, 1, 'x', aggregate_id, 1, 'x', '', '', 0, '{}', '{}' FROM events WHERE position = 2",
            "UPDATE batches SET hash = zeroblob(32)",
            "DELETE FROM batches",
            "INSERT OR REPLACE INTO batches SELECT shard, last_position, previous_hash, zeroblob(32), 1 FROM batches",
        ]
        .map(|attempt| (attempt, anybody.execute(attempt, []).is_err()))
        .into()
    }
}

event_store::conformance_suite!(Directory::new());
