//! Who may do what: roles with no more than they need.

use std::time::Duration;

use event_store::{Batch, Event, EventStore, Shards, StoreError, StreamId, batch_hash};
use event_store_postgres::{PostgresStore, Roles};
use postgres_session::{Address, Session};
use test_servers::{Database, Postgres};
use uuid::Uuid;

struct Fixture {
    database: Database,
    engine: String,
    reader: String,
    relay: String,
}

impl Fixture {
    fn new() -> Self {
        let unique = Uuid::new_v4().simple().to_string();
        let [engine, reader, relay] = ["engine", "reader", "relay"].map(|role| format!("{role}_{unique}"));
        let database = Postgres::shared().database();
        database.sql(&format!(
            "CREATE ROLE {engine} LOGIN; CREATE ROLE {reader} LOGIN; CREATE ROLE {relay} LOGIN"
        ));
        Self {
            database,
            engine,
            reader,
            relay,
        }
    }

    fn address(&self, role: &str) -> Address {
        let url = self.database.url().replace("jangbu@", &format!("{role}@"));
        url.parse().expect("an address")
    }

    fn owner(&self) -> PostgresStore {
        PostgresStore::open(&self.address("jangbu")).expect("made")
    }

    fn granted(&self) {
        let roles = Roles {
            engines: vec![self.engine.clone()],
            readers: vec![self.reader.clone()],
            relays: vec![self.relay.clone()],
            foreign: Vec::new(),
        };
        self.owner().grant(&roles).expect("given");
    }

    fn session(&self, role: &str) -> Session {
        Session::open(&self.address(role), "", Duration::from_secs(10)).expect("it may log in")
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        for role in [&self.engine, &self.reader, &self.relay] {
            self.database.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
        }
    }
}

#[test]
fn an_engine_appends_and_cannot_rewrite() {
    let fixture = Fixture::new();
    fixture.granted();
    let store = PostgresStore::open(&fixture.address(&fixture.engine)).expect("the schema is there");
    let mut writer = store.writer().expect("a writer");
    writer.found(Shards::ONE).expect("fixed");
    let head = writer.take(0, Uuid::nil(), 1).expect("the shard");
    let events = vec![Event {
        shard: 0,
        position: 1,
        stream: StreamId::new("order", Uuid::from_u128(1)),
        sequence: 1,
        event_id: Uuid::from_u128(2),
        event_type: "order.placed".into(),
        event_version: "1.0.0".into(),
        recorded_at: 1,
        payload: "{}".into(),
        metadata: "{}".into(),
    }];
    let batch = Batch {
        epoch: head.epoch,
        first_position: 1,
        previous_hash: head.hash,
        hash: batch_hash(&head.hash, &events),
        events,
        ..Batch::default()
    };
    writer.commit(&[&batch]).expect("appended");
    writer.heartbeat(0, head.epoch, 2).expect("it lives");

    let session = fixture.session(&fixture.engine);
    for attempt in [
        "UPDATE events SET payload = '{}'",
        "DELETE FROM events",
        "TRUNCATE events",
        "INSERT INTO events SELECT shard, 2, aggregate_type, aggregate_id, 2, gen_random_uuid(), '', '', 0, '{}', '{}' FROM events",
        "INSERT INTO batches VALUES (0, 2, '', '', 1)",
        "UPDATE batches SET epoch = 9",
        "UPDATE log_head SET position = 0",
        "UPDATE log_head SET hash = ''",
        "UPDATE log SET log_id = gen_random_uuid()",
        "DELETE FROM idempotency",
        "DELETE FROM log_head",
        "ALTER TABLE events DISABLE TRIGGER ALL",
        "DROP TABLE events",
        "CREATE TABLE mine ()",
    ] {
        let error = session.script(attempt).expect_err(attempt);
        assert!(error.is_forbidden(), "{attempt}: {error}");
    }
}

#[test]
fn a_reader_reads_and_changes_nothing() {
    let fixture = Fixture::new();
    fixture.granted();
    let address = fixture.address(&fixture.reader);
    let store = PostgresStore::open_to_look(&address).expect("the schema is there");
    let reader = store.reader().expect("a reader");
    assert_eq!(reader.head(0).expect("read"), None);
    reader.read(&[], &[]).expect("read");
    reader.unfinished(0).expect("read");
    assert_eq!(reader.records(None, 10).expect("read"), Some(Vec::new()));
    let taken = store.writer().expect("a session").take(0, Uuid::nil(), 1);
    assert!(matches!(taken, Err(StoreError::Unavailable(_))), "{taken:?}");
    let session = fixture.session(&fixture.reader);
    for attempt in [
        "INSERT INTO effects VALUES (0, gen_random_uuid(), '')",
        "DELETE FROM timers",
        "UPDATE log_head SET heartbeat = 0",
        "INSERT INTO checkpoints VALUES ('relay', 0, 1)",
        "SELECT jangbu_chain(0, 1, 1, '', '')",
        "UPDATE jangbu_schemas SET version = 9",
    ] {
        let error = session.script(attempt).expect_err(attempt);
        assert!(error.is_forbidden(), "{attempt}: {error}");
    }
}

#[test]
fn a_relay_reads_and_says_how_far_it_is() {
    let fixture = Fixture::new();
    fixture.granted();
    let store = PostgresStore::open_to_look(&fixture.address(&fixture.relay)).expect("the schema is there");
    let reader = store.reader().expect("a reader");
    assert!(reader.events(0, 0, 10).expect("read").is_empty());
    assert!(reader.parked(0, 10).expect("read").is_empty());
    let mut checkpoints = store.checkpoints().expect("a session");
    assert!(checkpoints.advance("relay", 0, 0, 3).expect("moved"));
    assert!(checkpoints.advance("relay", 0, 3, 4).expect("moved"));
    assert_eq!(checkpoints.read("relay").expect("read"), [(0, 4)]);
    let session = fixture.session(&fixture.relay);
    for attempt in [
        "DELETE FROM checkpoints",
        "UPDATE log_head SET heartbeat = 0",
        "INSERT INTO effects VALUES (0, gen_random_uuid(), '')",
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         VALUES ('order', gen_random_uuid()::text, 1, 'x', '1', '{}', '{}')",
    ] {
        let error = session.script(attempt).expect_err(attempt);
        assert!(error.is_forbidden(), "{attempt}: {error}");
    }
}

#[test]
fn a_role_that_may_not_make_the_schema_is_told_who_may() {
    let fixture = Fixture::new();
    let refused = PostgresStore::open(&fixture.address(&fixture.engine)).expect_err("there is none");
    let line = refused.to_string();
    assert!(matches!(refused, StoreError::Foreign(_)), "{line}");
    assert!(
        line.contains("jangbu migrate") && line.contains(&fixture.engine) && !line.contains('\n'),
        "{line}"
    );
    let refused = PostgresStore::open_to_look(&fixture.address("jangbu")).expect_err("there is none");
    assert!(refused.to_string().contains("jangbu migrate"), "{refused}");
    fixture.owner();
    fixture.database.sql("UPDATE jangbu_schemas SET version = 99");
    let newer = PostgresStore::open(&fixture.address("jangbu")).expect_err("newer");
    assert!(newer.to_string().contains("newer program"), "{newer}");
}

#[test]
fn several_that_make_the_schema_at_once_make_it_once() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| fixture.owner());
        }
    });
    assert_eq!(fixture.database.sql("SELECT count(*) FROM log").trim(), "1");
}
