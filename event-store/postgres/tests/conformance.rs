//! The suites that every store passes, on PostgreSQL.

use std::time::Duration;

use event_store::{conformance::Place, selection_conformance};
use event_store_postgres::PostgresStore;
use postgres_session::Session;
use test_servers::{Database, Postgres};

struct InDatabase(Database);

impl InDatabase {
    fn new() -> Self {
        Self(Postgres::shared().database())
    }
}

impl Place for InDatabase {
    type Store = PostgresStore;

    fn open(&self) -> PostgresStore {
        PostgresStore::open(&self.0.url().parse().expect("an address")).expect("the log opens")
    }

    /// As the database's superuser, whom nothing but triggers keeps from anything.
    fn rewrite_history(&self) -> Vec<(&'static str, bool)> {
        let anybody = Session::open(&self.0.url().parse().expect("an address"), "", Duration::from_secs(10)).expect("a session");
        [
            "UPDATE events SET payload = '{}'",
            "UPDATE events SET position = position + 10",
            "DELETE FROM events",
            "DELETE FROM events WHERE position = 2",
            "TRUNCATE events",
            "TRUNCATE batches",
            "INSERT INTO events SELECT shard, 9, aggregate_type, aggregate_id, sequence + 9, gen_random_uuid(), '', '', 0, '{}', '{}'
             FROM events WHERE position = 2",
            "INSERT INTO events SELECT shard, 1, aggregate_type, aggregate_id, sequence + 9, gen_random_uuid(), '', '', 0, '{}', '{}'
             FROM events WHERE position = 2",
            "INSERT INTO events SELECT 7, 1, 'x', aggregate_id, 1, gen_random_uuid(), '', '', 0, '{}', '{}' FROM events WHERE position = 2",
            "INSERT INTO events SELECT shard, position, 'x', aggregate_id, sequence, gen_random_uuid(), '', '', 0, '{}', '{}' FROM events
             ON CONFLICT (shard, position) DO UPDATE SET payload = '{}'",
            "UPDATE batches SET hash = previous_hash",
            "DELETE FROM batches",
        ]
        .map(|attempt| (attempt, anybody.script(attempt).is_err()))
        .into()
    }
}

event_store::conformance_suite!(InDatabase::new());

#[test]
fn postgres_selects_as_one_that_reads_all() {
    let place = InDatabase::new();
    selection_conformance::selections_are_what_reading_all_gives(&place.open());
}
