//! Servers that die, connections that are cut, writers that are taken over: what was acknowledged is there, and nothing is there twice.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use event_store::{
    Batch, CommitError, Event, EventStore, Head, IdempotencyRecord, LogWriter, RecordKey, StreamId, batch_hash, verify_chain,
};
use event_store_postgres::PostgresStore;
use test_servers::{Postgres, Proxy};
use uuid::Uuid;

fn store(url: &str) -> PostgresStore {
    PostgresStore::open(&url.parse().expect("an address")).expect("a log")
}

/// A writer that knows where its shard stands.
struct Pen {
    writer: Box<dyn LogWriter>,
    head: Head,
}

impl Pen {
    fn take(store: &PostgresStore) -> Self {
        let mut writer = store.writer().expect("a writer");
        let head = writer.take(0, Uuid::nil(), 1).expect("the shard");
        Self { writer, head }
    }

    fn batch(&self, events: u64) -> Batch {
        let first_position = self.head.position + 1;
        let events: Vec<_> = (first_position..first_position + events)
            .map(|position| Event {
                shard: 0,
                position,
                stream: StreamId::new("order", Uuid::from_u128(1)),
                sequence: position,
                event_id: Uuid::from_u128(position.into()),
                event_type: "order.placed".into(),
                event_version: "1.0.0".into(),
                recorded_at: 1,
                payload: format!(r#"{{"filling":"{}"}}"#, "x".repeat(500)).into(),
                metadata: "{}".into(),
            })
            .collect();
        Batch {
            epoch: self.head.epoch,
            first_position,
            previous_hash: self.head.hash,
            hash: batch_hash(&self.head.hash, &events),
            events,
            ..Batch::default()
        }
    }

    fn write(&mut self, events: u64) -> Result<(), CommitError> {
        let batch = self.batch(events);
        self.writer.commit(&[&batch])?;
        (self.head.position, self.head.hash) = (batch.last_position(), batch.hash);
        Ok(())
    }

    /// Writes the same until it is written.
    fn insist(&mut self, events: u64) {
        let begun = Instant::now();
        while let Err(error) = self.write(events) {
            assert!(matches!(error, CommitError::NotWritten(_)), "{error}");
            assert!(begun.elapsed() < Duration::from_mins(2), "{error}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_server_that_is_killed_under_a_writer_loses_nothing_and_the_writer_goes_on() {
    let mut server = Postgres::start();
    let database = server.database();
    let store = store(database.url());
    let mut pen = Pen::take(&store);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writing = thread::spawn(move || {
        let mut commits = 0;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            pen.insist(20);
            commits += 1;
        }
        (pen, commits)
    });
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(150));
        server.kill();
        server.restart();
    }
    drop(stop);
    let (mut pen, commits) = writing.join().expect("it goes on");
    pen.insist(1);
    let reader = store.reader().expect("a reader");
    assert_eq!(reader.head(0).expect("read").expect("a head").position, pen.head.position);
    assert_eq!(
        verify_chain(reader.as_ref(), 0).expect("sound"),
        commits * 20 + 1,
        "no more and no less than was acknowledged"
    );
}

#[test]
fn a_commit_whose_answer_is_lost_is_found_out() {
    let server = Postgres::start();
    let database = server.database();
    let proxy = Proxy::to(server.address());
    let store = store(&database.url_at(proxy.address()));
    let mut pen = Pen::take(&store);
    for round in 0..10_u64 {
        // The answer is under way for long enough to be cut off.
        proxy.delay(Duration::from_millis(40));
        let delay = Duration::from_millis(10 + 15 * round);
        let position = pen.head.position;
        thread::scope(|scope| {
            let written = scope.spawn(|| pen.write(3));
            thread::sleep(delay);
            proxy.cut();
            thread::sleep(Duration::from_millis(100));
            proxy.mend();
            match written.join().expect("it ends") {
                Ok(()) | Err(CommitError::NotWritten(_)) => {}
                Err(error) => panic!("{error}"),
            }
        });
        let reader = store.reader().expect("a reader");
        let head = reader.head(0).expect("read").expect("a head");
        assert_eq!(
            head.position, pen.head.position,
            "round {round}: what the writer was told is so (before it was {position})"
        );
    }
    pen.insist(1);
    verify_chain(store.reader().expect("a reader").as_ref(), 0).expect("sound");
}

#[test]
fn whoever_was_taken_over_while_it_was_cut_off_is_fenced() {
    let server = Postgres::start();
    let database = server.database();
    let proxy = Proxy::to(server.address());
    let mut cut_off = Pen::take(&store(&database.url_at(proxy.address())).asking_for(Duration::from_secs(1)));
    cut_off.insist(2);
    proxy.cut();
    let refused = cut_off.write(2).expect_err("nobody is there");
    assert!(matches!(refused, CommitError::NotWritten(_) | CommitError::Disk(_)), "{refused}");
    let mut next = Pen::take(&store(database.url()));
    next.insist(3);
    proxy.mend();
    let fenced = cut_off.write(2).expect_err("taken over");
    assert!(matches!(fenced, CommitError::Fenced(0)), "{fenced}");
    let fenced = cut_off.writer.heartbeat(0, cut_off.head.epoch, 1).expect_err("taken over");
    assert!(matches!(fenced, CommitError::Fenced(0)), "{fenced}");
    next.insist(1);
    assert_eq!(next.head.position, 6);
}

#[test]
fn whoever_was_taken_over_does_not_take_the_record_of_another_for_its_own() {
    let server = Postgres::start();
    let database = server.database();
    let proxy = Proxy::to(server.address());
    let (cut_off, near) = (store(&database.url_at(proxy.address())), store(database.url()));
    // A refusal leaves a record, and nothing else.
    let refused = |pen: &Pen, answer: &str| {
        let record = IdempotencyRecord {
            key: RecordKey([7; 16]),
            fingerprint: [1; 16],
            position: pen.head.position,
            recorded_at: 1,
            answer: answer.as_bytes().into(),
        };
        Batch {
            records: vec![record],
            hash: pen.head.hash,
            ..pen.batch(0)
        }
    };
    let mut pen = Pen::take(&cut_off);
    pen.insist(1);
    proxy.cut();
    let mut other = Pen::take(&near);
    let theirs = refused(&other, "theirs");
    other.writer.commit(&[&theirs]).expect("it is written");
    proxy.mend();
    let ours = refused(&pen, "ours");
    let fenced = pen.writer.commit(&[&ours]);
    assert!(matches!(fenced, Err(CommitError::Fenced(0))), "{fenced:?}");
    let reader = near.reader().expect("a reader");
    let (found, _) = reader.read(&[RecordKey([7; 16])], &[]).expect("read");
    assert_eq!(found[0].as_ref().map(|record| &*record.answer), Some("theirs".as_bytes()));
}

#[test]
fn a_reader_asks_again_when_its_server_was_started_anew() {
    let mut server = Postgres::start();
    let database = server.database();
    let store = store(database.url());
    Pen::take(&store).insist(5);
    let reader = store.reader().expect("a reader");
    assert_eq!(reader.events(0, 0, 10).expect("read").len(), 5);
    server.kill();
    let gone = reader.events(0, 0, 10).expect_err("nobody is there").to_string();
    assert!(gone.contains("the log cannot be read") && !gone.contains('\n'), "{gone}");
    server.restart();
    assert_eq!(reader.events(0, 0, 10).expect("read again").len(), 5);
    drop(database);
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let server = Postgres::start();
    let database = server.database();
    let store = store(database.url());
    Pen::take(&store).insist(1);
    let reader = store.reader().expect("a reader");
    server.freeze();
    let begun = Instant::now();
    let silent = reader.head(0);
    let waited = begun.elapsed();
    server.thaw();
    assert!(silent.is_err(), "{silent:?}");
    assert!(waited < Duration::from_secs(30), "{waited:?}");
    assert!(reader.head(0).expect("it answers again").is_some());
}

#[test]
fn where_nobody_listens_is_said_in_one_line_without_the_password() {
    // A port that was free a moment ago.
    let free: SocketAddr = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port");
    let address = format!("postgres://jangbu:s3cret@{free}/shop").parse().expect("an address");
    let line = PostgresStore::open(&address).expect_err("nobody is there").to_string();
    assert!(line.contains(&format!("postgres://jangbu@{free}/shop")), "{line}");
    assert!(!line.contains("s3cret") && !line.contains('\n'), "{line}");
}

#[test]
fn checkpoints_go_on_after_the_session_was_lost() {
    let mut server = Postgres::start();
    let database = server.database();
    let store = store(database.url());
    let mut checkpoints = store.checkpoints().expect("a session");
    assert!(checkpoints.advance("relay", 0, 0, 1).expect("moved"));
    server.kill();
    checkpoints.advance("relay", 0, 1, 2).expect_err("nobody is there");
    server.restart();
    // The outcome of what got no answer is read.
    let stands = checkpoints.read("relay").expect("read");
    assert_eq!(stands, [(0, 1)]);
    assert!(checkpoints.advance("relay", 0, 1, 2).expect("moved"));
}

#[test]
fn checkpoints_go_on_where_the_server_that_took_over_is() {
    let server = Postgres::start();
    let database = server.database();
    let before = server.address().to_string();
    // Its log is there before the other one copies it.
    drop(store(database.url()));
    let follower = server.standby("follower");
    let both = format!("{before},{}", follower.address());
    let mut checkpoints = store(&database.url().replace(&before, &both)).checkpoints().expect("a session");
    assert!(checkpoints.advance("relay", 0, 0, 1).expect("moved"));
    let has_it = "SELECT count(*) FROM checkpoints";
    let begun = Instant::now();
    let follower_url = database.url().replace(&before, &follower.address().to_string());
    let ask = |question: &str| {
        let session = postgres_session::Session::open(&follower_url.parse().expect("an address"), "", Duration::from_secs(10));
        let row = session.and_then(|session| session.query_opt(question, &[]));
        row.expect("asked").map_or(0, |row| row.get::<_, i64>(0))
    };
    while ask(has_it) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the follower does not follow");
        thread::sleep(Duration::from_millis(20));
    }
    // The first goes on as one that is read only, with all its sessions.
    server.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    server.sql("SELECT pg_reload_conf()");
    follower.sql("SELECT pg_promote()");
    let begun = Instant::now();
    let mut moved = checkpoints.advance("relay", 0, 1, 2);
    while moved.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{moved:?}");
        thread::sleep(Duration::from_millis(20));
        moved = checkpoints.advance("relay", 0, 1, 2);
    }
    assert!(moved.expect("asked"), "it stands where it was left");
    assert_eq!(ask("SELECT position FROM checkpoints"), 2, "on the one that took over");
}
