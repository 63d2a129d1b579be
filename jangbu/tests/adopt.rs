//! `jangbu adopt`: the events of another program, written by the unmodified postgres-es, become a log that a shop serves. The old database stays.

mod shop;

use std::{
    collections::HashMap,
    convert::Infallible,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use cqrs_es::{
    Aggregate, DomainEvent, EventStore as _,
    event_sink::EventSink,
    persist::{PersistedEventRepository, PersistedEventStore},
};
use event_store::{Event, EventStore, StreamId};
use event_store_postgres::PostgresStore;
use event_store_sqlite::SqliteStore;
use postgres_es::PostgresEventRepository;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use shop::{BUYER, COFFEE, Pay, Shop, order};
use sqlx::PgPool;
use test_servers::{Database, Postgres, Proxy};
use uuid::Uuid;
use verify::{Options, Report, verify_log};

/// The table as postgres-es makes it: its db/init.sql.
const TABLE: &str = "(aggregate_type text NOT NULL, aggregate_id text NOT NULL, sequence bigint CHECK (sequence >= 0) NOT NULL,
    event_type text NOT NULL, event_version text NOT NULL, payload json NOT NULL, metadata json NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, sequence))";

/// The old program's aggregates.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Parcel;

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
enum ParcelEvent {
    Moved { to: String },
    // An event without members is a JSON text, and no object.
    Lost,
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct Customer;

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Greeted {
    words: String,
}

impl DomainEvent for ParcelEvent {
    fn event_type(&self) -> String {
        match self {
            Self::Moved { .. } => "Moved".into(),
            Self::Lost => "Lost".into(),
        }
    }

    fn event_version(&self) -> String {
        "1.0".into()
    }
}

impl DomainEvent for Greeted {
    fn event_type(&self) -> String {
        "Greeted".into()
    }

    fn event_version(&self) -> String {
        "2".into()
    }
}

impl Aggregate for Parcel {
    const TYPE: &'static str = "Parcel";
    type Command = ();
    type Event = ParcelEvent;
    type Error = Infallible;
    type Services = ();

    async fn handle(&mut self, (): (), (): &(), _: &EventSink<Self>) -> Result<(), Infallible> {
        Ok(())
    }

    fn apply(&mut self, _: ParcelEvent) {}
}

impl Aggregate for Customer {
    const TYPE: &'static str = "customer";
    type Command = ();
    type Event = Greeted;
    type Error = Infallible;
    type Services = ();

    async fn handle(&mut self, (): (), (): &(), _: &EventSink<Self>) -> Result<(), Infallible> {
        Ok(())
    }

    fn apply(&mut self, _: Greeted) {}
}

/// The old program's database.
struct Old {
    database: Database,
    pool: PgPool,
}

const PARCELS: u64 = 40;
const MOVES: u64 = 150;
const CUSTOMERS: u64 = 25;

impl Old {
    /// An empty one.
    async fn empty() -> Self {
        let database = Postgres::shared().database();
        database.sql(&format!("CREATE TABLE events {TABLE}"));
        let pool = PgPool::connect(database.url()).await.expect("connected");
        Self { database, pool }
    }

    /// One that was in use for a while: parcels by UUID, customers by names of the program's own.
    async fn used() -> Self {
        let old = Self::empty().await;
        for parcel in 1..=PARCELS {
            let mut events: Vec<_> = (1..MOVES)
                .map(|number| ParcelEvent::Moved {
                    to: format!("depot {number}"),
                })
                .collect();
            events.push(ParcelEvent::Lost);
            old.commit::<Parcel>(&Uuid::from_u128(u128::from(parcel)).to_string(), events).await;
        }
        for customer in 1..=CUSTOMERS {
            let words = Greeted {
                words: format!("안녕, {customer}"),
            };
            old.commit::<Customer>(&format!("customer/{customer}"), vec![words.clone(), words])
                .await;
        }
        old
    }

    async fn commit<A: Aggregate<Event: DeserializeOwned + Serialize> + Default + DeserializeOwned + Serialize>(
        &self,
        id: &str,
        events: Vec<A::Event>,
    ) {
        let repository = PostgresEventRepository::new(self.pool.clone());
        let store: PersistedEventStore<PostgresEventRepository, A> = PersistedEventStore::new_event_store(repository);
        let context = store.load_aggregate(id).await.expect("loaded");
        let metadata = HashMap::from([("actor".to_owned(), "the old program".to_owned())]);
        assert!(store.commit(events, context, metadata).await.is_ok(), "written");
    }

    /// Everything that could tell that somebody was here: each row with its place in the file and its transaction, and what relations there are.
    fn fingerprint(&self) -> String {
        self.database.sql(
            "SELECT md5(string_agg(ctid::text || xmin::text || events::text, '|' ORDER BY aggregate_type, aggregate_id, sequence)) FROM events;
             SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace;
             SELECT count(*) FROM pg_namespace",
        )
    }

    const fn events() -> u64 {
        PARCELS * MOVES + CUSTOMERS * 2
    }
}

fn command(arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jangbu"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("JANGBU_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).envs(settings.iter().copied()).stdin(Stdio::null());
    command
}

/// Adopts, with the shop's data in this directory.
fn adopt(data: &Path, from: &str, more: &[&str], settings: &[(&str, &str)]) -> Output {
    let data = data.to_str().expect("text");
    let arguments = [&["adopt", "--from", from, "--data", data], more].concat();
    command(&arguments, settings).output().expect("the binary runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn adopted(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", said(output));
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[track_caller]
fn refused(output: &Output, code: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for words in words {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
}

fn in_directory(data: &Path) -> Arc<dyn EventStore> {
    Arc::new(SqliteStore::open_read_only(data).expect("a log"))
}

fn in_database(database: &Database) -> Arc<dyn EventStore> {
    Arc::new(PostgresStore::open_to_look(&database.url().parse().expect("an address")).expect("a log"))
}

/// As `replay verify` does.
fn is_sound(store: &dyn EventStore) -> Report {
    let report = verify_log(store.reader().expect("a reader").as_ref(), &Options::default()).expect("the log can be read");
    let findings: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
    assert!(report.is_sound(), "{findings:?}");
    report
}

/// Whether the log holds what the old program wrote, of one stream of each kind.
fn tells_what_was(store: &dyn EventStore) {
    let reader = store.reader().expect("a reader");
    let stream = |kind: &'static str, id: Uuid| -> Vec<Event> { reader.stream(&StreamId::new(kind, id), 0, 1_000).expect("read") };
    let parcel = stream("Parcel", Uuid::from_u128(7));
    assert_eq!(parcel.len() as u64, MOVES);
    assert_eq!((&*parcel[0].event_type, &*parcel[0].event_version), ("Moved", "1.0"));
    let json = |text: &str| -> Value { serde_json::from_str(text).expect("JSON") };
    assert_eq!(json(&parcel[0].payload), json!({ "Moved": { "to": "depot 1" } }));
    assert_eq!(json(&parcel[0].metadata), json!({ "actor": "the old program" }));
    assert_eq!(json(&parcel.last().expect("an event").payload), json!("Lost"));
    // docs/postgres-es.md tells how others find it.
    let namespace = "6a9c8f0e-3d5b-5c1a-9e42-7b1d0c64a5f3".parse().expect("a UUID");
    let customer = stream("customer", Uuid::new_v5(&namespace, b"customer/customer/7"));
    assert_eq!(customer.len(), 2);
    assert_eq!(json(&customer[1].payload), json!({ "words": "안녕, 7" }));
    let metadata: HashMap<String, String> = serde_json::from_str(&customer[1].metadata).expect("a flat object of strings");
    assert_eq!(metadata["originalId"], "customer/7");
    assert_eq!(metadata["actor"], "the old program");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_database_becomes_a_log_in_files_that_a_shop_sells_from() {
    let old = Old::used().await;
    let before = old.fingerprint();
    let role = format!("reader_{}", Uuid::new_v4().simple());
    old.database
        .sql(&format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON events TO {role}"));
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    // The address is read from a file, as one with a password should be.
    let address = scratch.path().join("address");
    let from = old.database.url().replacen("jangbu@", &format!("{role}@"), 1);
    std::fs::write(&address, format!("{from}\n")).expect("written");
    let arguments = [
        "adopt",
        "--from-file",
        address.to_str().expect("text"),
        "--data",
        data.to_str().expect("text"),
    ];
    let summary = adopted(&command(&arguments, &[]).output().expect("the binary runs"));
    old.database.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    for words in [
        format!("Parcel: {} events", PARCELS * MOVES),
        format!("{} streams; {CUSTOMERS} had ids that are no UUIDs", PARCELS + CUSTOMERS),
        "is not sealed".to_owned(),
        format!("{} events are in the log", Old::events()),
    ] {
        assert!(summary.contains(&words), "{words}: {summary}");
    }
    assert_eq!(old.fingerprint(), before, "the old database is as it was");

    let report = is_sound(in_directory(&data).as_ref());
    assert_eq!(
        (report.counts.events, report.counts.foreign["Parcel"]),
        (Old::events(), PARCELS * MOVES)
    );
    tells_what_was(in_directory(&data).as_ref());
    // Again, it finds all there.
    let again = adopted(&adopt(&data, &from.replacen(&role, "jangbu", 1), &[], &[]));
    assert!(again.contains("of them by the runs before"), "{again}");

    let mut shop = Shop::open_in(scratch, data, &[]).await;
    let buyer = shop.client().log_in(BUYER).await;
    let bought = shop.client().buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await;
    assert_eq!(bought.outcome(), "CONFIRMED");
    shop.client()
        .shown(&buyer, bought.body["orderId"].as_str().expect("an id"), "CONFIRMED")
        .await;
    shop.stop().await;
    let report = is_sound(in_directory(shop.data()).as_ref());
    assert_eq!((report.counts.confirmed, report.counts.foreign["customer"]), (1, CUSTOMERS * 2));

    // Now it is a shop's.
    refused(
        &adopt(shop.data(), old.database.url(), &[], &[]),
        2,
        &["the log is not empty", "name an empty"],
    );
    shop.start_again().await;
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_database_becomes_a_log_in_a_database_that_the_old_program_reads() {
    let (old, log) = (Old::used().await, Postgres::shared().database());
    let before = old.fingerprint();
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    let settings = [("JANGBU_STORE", log.url()), ("JANGBU_VIEWS", "sqlite")];
    adopted(&adopt(&data, old.database.url(), &["--rename", "Parcel=old_parcel"], &settings));
    assert_eq!(old.fingerprint(), before, "the old database is as it was");
    let report = is_sound(in_database(&log).as_ref());
    assert_eq!(
        (report.counts.events, report.counts.unchained, report.counts.foreign["old_parcel"]),
        (Old::events(), 0, PARCELS * MOVES)
    );

    // The unmodified crate reads there what it wrote elsewhere.
    let id = "SELECT DISTINCT aggregate_id FROM events WHERE metadata ->> 'originalId' = 'customer/7'";
    let id = log.sql(id);
    let repository = PostgresEventRepository::new(PgPool::connect(log.url()).await.expect("connected"));
    let events = repository.get_events::<Customer>(id.trim()).await.expect("read");
    assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2]);
    let store: PersistedEventStore<PostgresEventRepository, Customer> = PersistedEventStore::new_event_store(repository);
    let loaded = store.load_events(id.trim()).await.expect("its own events");
    assert_eq!(loaded[0].payload.words, "안녕, 7");
    // What docs/postgres-es.md tells those who look for an id.
    old.database.sql(r#"CREATE EXTENSION "uuid-ossp""#);
    let computed = old.database.sql(
        "SELECT uuid_generate_v5('6a9c8f0e-3d5b-5c1a-9e42-7b1d0c64a5f3', aggregate_type || '/' || aggregate_id)
         FROM events WHERE aggregate_id = 'customer/7' LIMIT 1",
    );
    assert_eq!(computed.trim(), id.trim());

    let mut shop = Shop::open_in(scratch, data, &settings).await;
    let buyer = shop.client().log_in(BUYER).await;
    let bought = shop.client().buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await;
    assert_eq!(bought.outcome(), "CONFIRMED");
    shop.stop().await;
    assert_eq!(is_sound(in_database(&log).as_ref()).counts.confirmed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_in_the_metadata_may_decide_the_order_and_streams_are_spread_over_the_shards() {
    let old = Old::empty().await;
    // The clock of the second parcel's program goes back once.
    old.database.sql(
        r#"INSERT INTO events VALUES
           ('Parcel', 'b', 1, 'Moved', '1', '{}', '{"at":"2026-01-05T10:00:00+09:00"}'),
           ('Parcel', 'a', 1, 'Moved', '1', '{}', '{"at":"2026-01-05T01:30:00Z"}'),
           ('Parcel', 'b', 2, 'Moved', '1', '{}', '{"at":"2026-01-05T00:30:00Z"}'),
           ('Parcel', 'a', 2, 'Moved', '1', '{}', '{"at":"2026-01-05T02:00:00.123456Z"}'),
           ('Parcel', 'c', 1, 'Moved', '1', '{}', '{"at":"2025-12-31T23:00:00Z"}')"#,
    );
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    for _ in 0..2 {
        adopted(&adopt(&data, old.database.url(), &["--time-member", "at"], &[]));
    }
    let told: Vec<_> = in_directory(&data).reader().expect("a reader").events(0, 0, 10).expect("read");
    let told: Vec<_> = told
        .iter()
        .map(|event| {
            let metadata: HashMap<String, String> = serde_json::from_str(&event.metadata).expect("metadata");
            (metadata["originalId"].clone(), event.sequence, event.recorded_at)
        })
        .collect();
    let at = |text: &str| text.parse::<jiff::Timestamp>().expect("a time").as_microsecond();
    let expected = [
        ("c", 1, "2025-12-31T23:00:00Z"),
        ("b", 1, "2026-01-05T01:00:00Z"),
        ("b", 2, "2026-01-05T01:00:00Z"),
        ("a", 1, "2026-01-05T01:30:00Z"),
        ("a", 2, "2026-01-05T02:00:00.123456Z"),
    ];
    assert_eq!(told, expected.map(|(id, sequence, time)| (id.to_owned(), sequence, at(time))));
    is_sound(in_directory(&data).as_ref());

    let old = Old::used().await;
    let data = scratch.path().join("four");
    let four = [("JANGBU_SHARDS", "4")];
    for _ in 0..2 {
        adopted(&adopt(&data, old.database.url(), &[], &four));
    }
    let store = in_directory(&data);
    assert_eq!(is_sound(store.as_ref()).counts.events, Old::events());
    let reader = store.reader().expect("a reader");
    for shard in 0..4 {
        assert!(reader.head(shard).expect("read").is_some_and(|head| head.position > 0), "{shard}");
    }
    tells_what_was(store.as_ref());
    refused(
        &adopt(&data, old.database.url(), &[], &[("JANGBU_SHARDS", "2")]),
        2,
        &["4 shards", "JANGBU_SHARDS says 2"],
    );
}

/// A process that adopts, through a network that can be cut.
struct Adopting {
    child: Child,
}

impl Adopting {
    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_interrupted_leaves_a_log_that_nobody_serves_and_goes_on_when_it_is_run_again() {
    let (old, log) = (Old::used().await, Postgres::shared().database());
    let server: std::net::SocketAddr = {
        let url = Postgres::shared().url();
        let host = url.split('@').nth(1).and_then(|rest| rest.split('/').next());
        host.expect("a host").parse().expect("an address")
    };
    let network = Proxy::to(server);
    let from = old.database.url_at(network.address());
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    let settings = [("JANGBU_STORE", log.url())];
    let arguments = ["adopt", "--from", &from, "--data", data.to_str().expect("text")];
    let there = || -> u64 {
        let is_made = "SELECT to_regclass('log_head') IS NOT NULL";
        if log.sql(is_made).trim() != "t" {
            return 0;
        }
        log.sql("SELECT coalesce(sum(position), 0) FROM log_head")
            .trim()
            .parse()
            .expect("a number")
    };
    let mut before = 0;
    for (signal, code) in [("TERM", Some(130)), ("KILL", None)] {
        network.delay(Duration::from_millis(50));
        let mut adopting = Adopting {
            child: command(&arguments, &settings)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("it runs"),
        };
        let begun = Instant::now();
        while there() <= before {
            assert!(begun.elapsed() < shop::PATIENCE, "it writes");
            std::thread::sleep(shop::LOOK);
        }
        network.hold();
        adopting.signal(signal);
        network.mend();
        assert_eq!(adopting.child.wait().expect("it ends").code(), code);
        before = there();
        assert!((1..Old::events()).contains(&before), "it is interrupted on the way: {before}");
    }
    // A shop that finds it waits, or is told; nobody takes it for a log that is complete.
    let store = PostgresStore::open(&log.url().parse().expect("an address")).expect("a log");
    let taken = store
        .writer()
        .expect("a writer")
        .take(0, Uuid::new_v4(), jiff::Timestamp::now().as_microsecond());
    assert!(matches!(taken, Err(event_store::StoreError::Held { .. })), "{taken:?}");

    // Something else goes on behind it by no means.
    let other = Old::used().await;
    other.database.sql("UPDATE events SET payload = '{}' WHERE sequence = 3");
    refused(&adopt(&data, other.database.url(), &[], &settings), 2, &["holds something else"]);
    assert_eq!(there(), before);

    let summary = adopted(&adopt(&data, old.database.url(), &[], &settings));
    assert!(summary.contains(&format!("{before} of them by the runs before")), "{summary}");
    assert_eq!(is_sound(&store).counts.events, Old::events());
    tells_what_was(&store);
    let taken = store
        .writer()
        .expect("a writer")
        .take(0, Uuid::new_v4(), jiff::Timestamp::now().as_microsecond());
    taken.expect("now whoever wants to serves it");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_cannot_be_adopted_are_named_and_nothing_is_written() {
    let old = Old::empty().await;
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let cases: &[(&str, &[&str], &[&str])] = &[
        (
            "('P', 'p-7', 1, 'M', '1', '{}', '{}'), ('P', 'p-7', 3, 'M', '1', '{}', '{}')",
            &[],
            &["event 3 of P \"p-7\"", "after event 1", "1 row cannot"],
        ),
        (
            "('P', 'p-7', 2, 'M', '1', '{}', '{}')",
            &[],
            &["event 2 of P \"p-7\"", "begins with event 1"],
        ),
        ("('P', 'p-7', 0, 'M', '1', '{}', '{}')", &[], &["event 0 of P \"p-7\""]),
        (
            "('P', 'p-7', 1, 'M', '1', '{}', '{\"a\":{\"b\":1}}')",
            &[],
            &["metadata is no object of strings", "copy of the database"],
        ),
        ("('P', 'p-7', 1, 'M', '1', '\"\\ud800\"', '[]')", &[], &["payload cannot be read"]),
        ("('P', 'p-7', 1, NULL, '1', NULL, NULL)", &[], &["no event_type"]),
        ("('P', 'p-7', 1, 'M', '1', '{}', '{\"originalId\":\"x\"}')", &[], &["originalId"]),
        (
            "('P', 'p-7', 1, 'M', '1', '{}', '{}')",
            &["--time-member", "at"],
            &["metadata has no at"],
        ),
        (
            "('P', 'p-7', 1, 'M', '1', '{}', '{\"at\":\"2999-01-01T00:00:00Z\"}')",
            &["--time-member", "at"],
            &["in the future"],
        ),
        ("('order', 'o-7', 1, 'M', '1', '{}', '{}')", &[], &["--rename order=old_order"]),
        (
            "('a', 'o-7', 1, 'M', '1', '{}', '{}')",
            &["--rename", "a=order"],
            &["the name of an aggregate type of the shop"],
        ),
        (
            "('a', 'o', 1, 'M', '1', '{}', '{}'), ('b', 'o', 1, 'M', '1', '{}', '{}')",
            &["--rename", "a=b"],
            &["would be called b"],
        ),
        (
            "('a', 'o', 1, 'M', '1', '{}', '{}')",
            &["--rename", "c=d"],
            &["no aggregate type c"],
        ),
    ];
    for (number, (rows, arguments, words)) in cases.iter().enumerate() {
        // Somebody's own table, which forbids less.
        let table = format!("Case {number}");
        old.database.sql(&format!(
            "CREATE TABLE \"{table}\" (aggregate_type text, aggregate_id text, sequence bigint, event_type text, event_version text, payload json, metadata json);
             INSERT INTO \"{table}\" VALUES {rows}"
        ));
        let data = scratch.path().join(number.to_string());
        let table = format!("public.{table}");
        let arguments = [&["--table", &table], *arguments].concat();
        refused(&adopt(&data, old.database.url(), &arguments, &[]), 2, words);
        let log = in_directory(&data);
        assert_eq!(log.reader().expect("a reader").head(0).expect("read"), None, "{rows}");
        assert!(!data.join("keys").exists());
    }
    // With another name they are what they are: events that the shop does not read.
    let data = scratch.path().join("9");
    adopted(&adopt(
        &data,
        old.database.url(),
        &["--table", "public.Case 9", "--rename", "order=old_order"],
        &[],
    ));
    assert_eq!(is_sound(in_directory(&data).as_ref()).counts.foreign["old_order"], 1);
}

/// Where the data is to be, the old database, more arguments, settings; the exit code, and what is said.
type Case<'a> = (&'a Path, &'a str, &'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a [&'a str]);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_table_of_postgres_es_or_cannot_be_read_is_refused_in_one_line() {
    let hba = "host all jangbu 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    let server = Postgres::start_with_files(&[], &[("pg_hba.conf", hba)]);
    let (old, log) = (server.database(), server.database());
    old.sql(&format!(
        "CREATE TABLE events {TABLE}; CREATE TABLE stock (sku text, sequence bigint); CREATE ROLE guest LOGIN PASSWORD 'right'"
    ));
    PostgresStore::open(&log.url().parse().expect("an address")).expect("a log");
    let guest = |password: &str| old.url().replacen("jangbu@", &format!("guest:{password}@"), 1);
    let (wrong, right) = (guest("wrong-secret"), guest("right"));
    let gone = old.url().replacen(&server.port().to_string(), "1", 1);
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let full = scratch.path().join("full");
    std::fs::create_dir(&full).expect("made");
    std::fs::write(full.join("notes"), "mine").expect("written");
    let data = scratch.path().join("data");
    let cases: &[Case<'_>] = &[
        (&data, &wrong, &[], &[], 1, &["password authentication failed", "guest@"]),
        (&data, &right, &[], &[], 1, &["permission denied", "SELECT"]),
        (&data, &gone, &[], &[], 1, &["cannot be read"]),
        (&data, old.url(), &[], &[], 2, &["is empty"]),
        (&data, old.url(), &["--table", "parcels"], &[], 2, &["no table parcels", "--table"]),
        (
            &data,
            old.url(),
            &["--table", "stock"],
            &[],
            2,
            &["no column aggregate_type, aggregate_id, event_type"],
        ),
        (&data, log.url(), &[], &[], 2, &["is a log of Jangbu already"]),
        (&data, "mysql://h/d", &[], &[], 2, &["begins with postgres://"]),
        (&full, old.url(), &[], &[], 2, &["is not empty"]),
        (
            &data,
            old.url(),
            &[],
            &[("JANGBU_STORE", old.url())],
            2,
            &["holds events of another program"],
        ),
        (
            &data,
            old.url(),
            &[],
            &[("JANGBU_STORE", "esdb://h:2113")],
            2,
            &["SQLite or PostgreSQL"],
        ),
    ];
    for (data, from, arguments, settings, code, words) in cases {
        let output = adopt(data, from, arguments, settings);
        refused(&output, *code, words);
        let said = said(&output);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!said.contains("wrong-secret"), "{said}");
    }
    let relations = old.sql("SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace");
    assert_eq!(relations.trim(), "events events_pkey stock", "nothing was made there");
}
