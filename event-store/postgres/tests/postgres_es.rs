//! The unmodified repository of postgres-es on a log of ours: it reads any, writes one that no engine holds, and is refused otherwise.

use std::{collections::HashMap, time::Duration};

use cqrs_es::{
    Aggregate, DomainEvent, EventEnvelope, EventStore as _,
    event_sink::EventSink,
    persist::{PersistedEventRepository, PersistedEventStore},
};
use event_store::{Batch, Event, EventStore, GENESIS, Shards, StreamId, batch_hash, verify_chain};
use event_store_postgres::{PostgresStore, Roles};
use postgres_es::PostgresEventRepository;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use test_servers::{Database, Postgres};
use uuid::Uuid;

/// An aggregate of another program.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Parcel {
    moves: u32,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "type")]
enum ParcelEvent {
    #[serde(rename = "parcel.moved")]
    Moved { to: String },
}

impl DomainEvent for ParcelEvent {
    fn event_type(&self) -> String {
        "parcel.moved".into()
    }

    fn event_version(&self) -> String {
        "1.0.0".into()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("it cannot be moved")]
struct CannotMove;

impl Aggregate for Parcel {
    const TYPE: &'static str = "parcel";
    type Command = String;
    type Event = ParcelEvent;
    type Error = CannotMove;
    type Services = ();

    async fn handle(&mut self, to: String, (): &(), sink: &EventSink<Self>) -> Result<(), CannotMove> {
        sink.write(ParcelEvent::Moved { to }, self).await;
        Ok(())
    }

    fn apply(&mut self, _: ParcelEvent) {
        self.moves += 1;
    }
}

/// What the store keeps of its own, in the shape that it gives it.
struct Fixture {
    database: Database,
    store: PostgresStore,
}

impl Fixture {
    fn new() -> Self {
        let database = Postgres::shared().database();
        let store = PostgresStore::open(&database.url().parse().expect("an address")).expect("a log");
        Self { database, store }
    }

    async fn repository(&self) -> PostgresEventRepository {
        PostgresEventRepository::new(PgPool::connect(self.database.url()).await.expect("connected"))
    }

    /// Commits events of one parcel through an engine's writer.
    fn engine_writes(&self, id: Uuid, first: u64, last: u64) -> Event {
        let mut writer = self.store.writer().expect("a writer");
        writer.found(Shards::ONE).expect("one shard");
        let head = writer.take(0, Uuid::from_u128(1), now()).expect("the shard");
        let events: Vec<_> = (first..=last)
            .map(|sequence| Event {
                shard: 0,
                position: head.position + 1 + sequence - first,
                stream: StreamId::new("parcel", id),
                sequence,
                event_id: Uuid::from_u128(u128::from(sequence) + 1_000),
                event_type: "parcel.moved".into(),
                event_version: "1.0.0".into(),
                recorded_at: now(),
                payload: r#"{"type":"parcel.moved","to":"Seoul"}"#.into(),
                metadata: r#"{"actor":"engine"}"#.into(),
            })
            .collect();
        let batch = Batch {
            epoch: head.epoch,
            first_position: head.position + 1,
            previous_hash: head.hash,
            hash: batch_hash(&head.hash, &events),
            events,
            ..Batch::default()
        };
        writer.commit(&[&batch]).expect("written");
        batch.events[0].clone()
    }

    /// As if the engine had been gone for a while.
    fn engine_is_gone(&self) {
        self.database.sql("UPDATE log_head SET heartbeat = heartbeat - 11000000");
    }
}

fn now() -> i64 {
    let elapsed = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    i64::try_from(elapsed.as_micros()).expect("soon")
}

async fn commit(repository: PostgresEventRepository, id: Uuid, places: &[&str]) -> Result<Vec<EventEnvelope<Parcel>>, String> {
    let store: PersistedEventStore<PostgresEventRepository, Parcel> = PersistedEventStore::new_event_store(repository);
    let context = store.load_aggregate(&id.to_string()).await.map_err(|error| error.to_string())?;
    let events = places.iter().map(|to| ParcelEvent::Moved { to: (*to).to_owned() }).collect();
    let metadata = HashMap::from([("actor".to_owned(), "a postgres-es program".to_owned())]);
    store.commit(events, context, metadata).await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_any_log_of_ours() {
    let fixture = Fixture::new();
    let id = Uuid::from_u128(7);
    fixture.engine_writes(id, 1, 3);
    let repository = fixture.repository().await;
    let events = repository.get_events::<Parcel>(&id.to_string()).await.expect("read");
    assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(events[0].event_type, "parcel.moved");
    assert_eq!(events[0].metadata["actor"], "engine");
    let store: PersistedEventStore<PostgresEventRepository, Parcel> = PersistedEventStore::new_event_store(repository);
    let loaded = store.load_events(&id.to_string()).await.expect("read as its own events");
    assert_eq!(loaded[2].payload, ParcelEvent::Moved { to: "Seoul".into() });
}

#[tokio::test(flavor = "multi_thread")]
async fn it_writes_a_log_that_no_engine_holds_and_the_next_engine_takes_that_into_the_chain() {
    let fixture = Fixture::new();
    let (ours, theirs) = (Uuid::from_u128(7), Uuid::from_u128(8));
    // Before any engine, and after one.
    commit(fixture.repository().await, theirs, &["Busan", "Daegu"])
        .await
        .expect("nobody holds it");
    let first = fixture.engine_writes(ours, 1, 2);
    assert_eq!(first.position, 3, "it goes on behind what it found");
    fixture.engine_is_gone();
    let written = commit(fixture.repository().await, theirs, &["Jeju"])
        .await
        .expect("nobody holds it any more");
    assert_eq!(written[0].sequence, 3);

    let mut writer = fixture.store.writer().expect("a writer");
    let head = writer.take(0, Uuid::from_u128(2), now()).expect("the shard");
    let reader = fixture.store.reader().expect("a reader");
    assert_eq!(head.position, 5);
    assert_ne!(head.hash, GENESIS);
    assert_eq!(verify_chain(reader.as_ref(), 0).expect("every event is in the chain"), 5);
    let events = reader.events(0, 0, 10).expect("read");
    assert!(events.iter().zip(1..).all(|(event, position)| event.position == position));
    assert!(
        events.windows(2).all(|pair| pair[0].recorded_at <= pair[1].recorded_at),
        "time does not go back"
    );
    let ids: std::collections::HashSet<_> = events.iter().map(|event| event.event_id).collect();
    assert_eq!(ids.len(), 5);
    let metadata: serde_json::Value = serde_json::from_str(&events[4].metadata).expect("JSON");
    assert_eq!(metadata["actor"], "a postgres-es program");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_refused_while_an_engine_holds_the_log() {
    let fixture = Fixture::new();
    fixture.engine_writes(Uuid::from_u128(7), 1, 1);
    let refused = commit(fixture.repository().await, Uuid::from_u128(8), &["Busan"])
        .await
        .expect_err("it is held");
    assert!(refused.contains("an engine holds this log"), "{refused}");
    assert_eq!(fixture.store.reader().expect("a reader").events(0, 0, 10).expect("read").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_refused_by_a_log_of_several_shards_and_for_ids_that_are_none() {
    let fixture = Fixture::new();
    let repository = fixture.repository().await;
    let store: PersistedEventStore<PostgresEventRepository, Parcel> = PersistedEventStore::new_event_store(repository);
    let context = store.load_aggregate("parcel-7").await.expect("there is none");
    let event = ParcelEvent::Moved { to: "Busan".into() };
    let refused = store.commit(vec![event], context, HashMap::new()).await.expect_err("not an id");
    assert!(refused.to_string().contains("uuid"), "{refused}");

    let two = fixture
        .store
        .writer()
        .expect("a writer")
        .found(Shards::new(2).expect("two"))
        .expect("fixed");
    assert_eq!(two.count(), 2, "what was refused fixed nothing");
    let refused = commit(fixture.repository().await, Uuid::from_u128(8), &["Busan"])
        .await
        .expect_err("which shard?");
    assert!(refused.contains("2 shards"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_of_them_at_once_leave_no_gap() {
    let fixture = Fixture::new();
    let mut racing = tokio::task::JoinSet::new();
    for parcel in 0..8 {
        let pool = PgPool::connect(fixture.database.url()).await.expect("connected");
        racing.spawn(async move {
            let id = Uuid::from_u128(parcel);
            for _ in 0..10 {
                commit(PostgresEventRepository::new(pool.clone()), id, &["here", "there"])
                    .await
                    .expect("it waits for its turn");
            }
        });
    }
    racing.join_all().await;
    let head = fixture
        .store
        .writer()
        .expect("a writer")
        .take(0, Uuid::nil(), now())
        .expect("nobody holds it");
    assert_eq!(head.position, 160);
    assert_eq!(
        verify_chain(fixture.store.reader().expect("a reader").as_ref(), 0).expect("sound"),
        160
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn its_role_needs_no_more_than_its_seven_columns() {
    let fixture = Fixture::new();
    let role = format!("parcels_{}", Uuid::new_v4().simple());
    fixture.database.sql(&format!("CREATE ROLE {role} LOGIN"));
    let roles = Roles {
        foreign: vec![role.clone()],
        ..Roles::default()
    };
    fixture.store.grant(&roles).expect("given");
    let url = fixture.database.url().replace("jangbu@", &format!("{role}@"));
    let pool = PgPool::connect(&url).await.expect("it may log in");
    commit(PostgresEventRepository::new(pool.clone()), Uuid::from_u128(1), &["Busan"])
        .await
        .expect("written");
    for attempt in [
        "INSERT INTO events (shard, position, aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         SELECT 0, 9, 'x', aggregate_id, 1, '', '', '{}', '{}' FROM events",
        "UPDATE events SET payload = '{}'",
        "UPDATE log_head SET position = 9",
        "SELECT * FROM idempotency",
    ] {
        let refused = tokio::time::timeout(Duration::from_secs(10), sqlx::query(attempt).execute(&pool))
            .await
            .expect("an answer");
        assert!(
            refused.expect_err("not allowed").to_string().contains("permission denied"),
            "{attempt}"
        );
    }
    pool.close().await;
    fixture.database.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}
