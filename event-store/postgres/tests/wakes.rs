//! Readers that are woken by what another process appends.

use std::time::{Duration, Instant};

use event_store::{Batch, Event, EventStore, Head, LogWriter, StreamId, Wakes, batch_hash};
use event_store_postgres::PostgresStore;
use postgres_session::Session;
use test_servers::Postgres;
use uuid::Uuid;

/// As another process opens it.
fn store(url: &str) -> PostgresStore {
    PostgresStore::open(&url.parse().expect("an address")).expect("a log")
}

struct Pen {
    writer: Box<dyn LogWriter>,
    head: Head,
}

impl Pen {
    fn take(store: &PostgresStore, shard: u16) -> Self {
        let mut writer = store.writer().expect("a writer");
        let head = writer.take(shard, Uuid::nil(), 1).expect("the shard");
        Self { writer, head }
    }

    fn write(&mut self) {
        let position = self.head.position + 1;
        let events = vec![Event {
            shard: self.head.shard,
            position,
            stream: StreamId::new("order", Uuid::from_u128(self.head.shard.into())),
            sequence: position,
            event_id: Uuid::from_u128(position.into()),
            event_type: "order.placed".into(),
            event_version: "1.0.0".into(),
            recorded_at: 1,
            payload: "{}".into(),
            metadata: "{}".into(),
        }];
        let batch = Batch {
            shard: self.head.shard,
            epoch: self.head.epoch,
            first_position: position,
            previous_hash: self.head.hash,
            hash: batch_hash(&self.head.hash, &events),
            events,
            ..Batch::default()
        };
        self.writer.commit(&[&batch]).expect("written");
        (self.head.position, self.head.hash) = (position, batch.hash);
    }
}

/// Who is woken once the connection stands, and then hears nothing before something is appended.
fn wakes(store: &PostgresStore) -> Box<dyn Wakes> {
    let mut wakes = store.wakes().expect("a thread").expect("it can be told");
    assert!(wakes.wait(Duration::from_secs(10)), "it listens");
    wakes
}

#[test]
fn a_batch_of_another_process_wakes_within_milliseconds() {
    let database = Postgres::shared().database();
    let mut pen = Pen::take(&store(database.url()), 3);
    let other = store(database.url());
    let (mut one, mut two) = (wakes(&other), wakes(&other));
    // The first has to connect.
    pen.write();
    assert!(one.wait(Duration::from_secs(10)) && two.wait(Duration::from_secs(10)));
    assert!(!one.wait(Duration::from_millis(50)), "one batch is told once");
    let mut waited = Vec::new();
    for _ in 0..20 {
        pen.write();
        let began = Instant::now();
        assert!(one.wait(Duration::from_secs(10)));
        waited.push(began.elapsed());
        // More than what is told is apart.
        assert!(!one.wait(Duration::from_millis(20)), "one batch is told once");
    }
    waited.sort_unstable();
    println!("woken after {:?} (median), {:?} (longest)", waited[10], waited[19]);
    assert!(waited[10] < Duration::from_millis(100), "{waited:?}");
    assert!(two.wait(Duration::ZERO), "what came meanwhile is heard when it is asked for");
}

#[test]
fn others_are_told_where_the_heads_are_and_not_once_for_every_batch() {
    const BATCHES: u64 = 300;
    let database = Postgres::shared().database();
    let written = store(database.url());
    let (mut first, mut second) = (Pen::take(&written, 0), Pen::take(&written, 1));
    let anybody = Session::open(&database.url().parse().expect("an address"), "", Duration::from_secs(10)).expect("a session");
    anybody.listen("jangbu_log").expect("it listens");
    let before = transactions(&database);
    let began = Instant::now();
    for _ in 0..BATCHES {
        first.write();
        second.write();
    }
    let lasted = began.elapsed();
    assert!(anybody.heard(Duration::from_secs(10)).expect("connected"));
    // 600 batches, one take or two, and at most a notification for each 10 ms.
    let most = 2 * BATCHES + u64::try_from(lasted.as_millis() / 10).expect("seconds") + 50;
    let made = transactions(&database) - before;
    assert!(made <= most, "{made} transactions within {lasted:?}");
}

fn transactions(database: &test_servers::Database) -> u64 {
    let made =
        database.sql("SELECT pg_stat_force_next_flush(); SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()");
    made.trim().parse().expect("a number")
}

#[test]
fn when_the_server_is_gone_time_wakes_and_what_comes_after_is_heard_again() {
    let mut server = Postgres::start();
    let database = server.database();
    let mut pen = Pen::take(&store(database.url()), 0);
    let mut wakes = wakes(&store(database.url()));
    pen.write();
    assert!(wakes.wait(Duration::from_secs(10)));
    server.kill();
    let began = Instant::now();
    wakes.wait(Duration::from_millis(300));
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(3), "a lost connection holds up nobody: {waited:?}");
    server.restart();
    // Something may have been missed while nobody listened.
    assert!(wakes.wait(Duration::from_secs(30)), "it listens again");
    let mut pen = Pen::take(&store(database.url()), 0);
    pen.write();
    assert!(wakes.wait(Duration::from_secs(30)), "and is told");
}

#[test]
fn where_nobody_answers_the_time_is_kept() {
    let server = Postgres::start();
    let database = server.database();
    let store = store(database.url());
    server.freeze();
    let began = Instant::now();
    let mut wakes = store.wakes().expect("a thread").expect("it can be told");
    assert!(!wakes.wait(Duration::from_millis(200)));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    server.thaw();
    assert!(wakes.wait(Duration::from_secs(30)), "it listens now");
}

#[test]
fn whoever_waits_no_more_leaves_no_session_behind() {
    let database = Postgres::shared().database();
    let store = store(database.url());
    let listening = || -> u32 {
        let count = database.sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'");
        count.trim().parse().expect("a number")
    };
    let wakes = [wakes(&store), wakes(&store)];
    assert_eq!(listening(), 2);
    drop(wakes);
    let began = Instant::now();
    while listening() > 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "its session is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}
