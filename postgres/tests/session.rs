//! Sessions on a real server: statements that share a round trip, and what others say.

use std::{
    thread,
    time::{Duration, Instant},
};

use postgres_session::{Session, Trouble};
use test_servers::{Database, Postgres, Proxy};

const PATIENCE: Duration = Duration::from_secs(10);

fn session(url: &str) -> Session {
    Session::open(&url.parse().expect("an address"), "", PATIENCE).expect("a session")
}

fn numbers(database: &Database) -> String {
    database
        .sql("SELECT string_agg(number::text, ',' ORDER BY number) FROM numbers")
        .trim_end()
        .to_owned()
}

#[test]
fn a_value_that_does_not_fit_leaves_nothing_of_its_transaction() {
    let database = Postgres::shared().database();
    database.sql("CREATE TABLE numbers (number integer)");
    let session = session(database.url());
    let put = "INSERT INTO numbers VALUES ($1)";
    let mut pipeline = session.pipeline();
    pipeline.script("BEGIN");
    pipeline.query(put, vec![Box::new(1_i32)]).expect("prepared");
    pipeline.query(put, vec![Box::new("a text")]).expect("prepared");
    pipeline.query(put, vec![Box::new(3_i32)]).expect("prepared");
    pipeline.script("COMMIT");
    let error = pipeline.run().expect_err("a text is no number");
    assert_eq!(error.trouble(), Trouble::Refused, "{error}");
    assert_eq!(numbers(&database), "", "neither what is before it nor what is behind it");

    // The session goes on, outside of any transaction.
    let mut pipeline = session.pipeline();
    pipeline.query(put, vec![Box::new(4_i32)]).expect("prepared");
    pipeline.query("SELECT number FROM numbers", vec![]).expect("prepared");
    assert_eq!(pipeline.run().expect("done")[1].len(), 1);
    assert_eq!(numbers(&database), "4");
}

#[test]
fn what_the_server_refuses_leaves_nothing_of_its_transaction_either() {
    let database = Postgres::shared().database();
    database.sql("CREATE TABLE numbers (number integer CHECK (number < 10))");
    let session = session(database.url());
    let mut pipeline = session.pipeline();
    pipeline.script("BEGIN");
    for number in [1_i32, 20, 3] {
        pipeline
            .query("INSERT INTO numbers VALUES ($1)", vec![Box::new(number)])
            .expect("prepared");
    }
    pipeline.script("COMMIT");
    let error = pipeline.run().expect_err("20 is too much");
    assert_eq!(error.code(), Some("23514"), "the first error is told, not its aftermath: {error}");
    assert_eq!(numbers(&database), "");
}

#[test]
fn the_answers_of_many_statements_come_in_their_order() {
    let database = Postgres::shared().database();
    let session = session(database.url());
    let mut pipeline = session.pipeline();
    for number in 0..200_i32 {
        pipeline.query("SELECT $1::integer", vec![Box::new(number)]).expect("prepared");
    }
    let answers = pipeline.run().expect("answered");
    let numbers: Vec<i32> = answers.iter().map(|rows| rows[0].get(0)).collect();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
}

#[test]
fn what_is_said_on_a_channel_is_heard_at_once_and_once() {
    let database = Postgres::shared().database();
    let (listening, saying) = (session(database.url()), session(database.url()));
    listening.listen("a \"channel\"").expect("it listens");
    assert!(!listening.heard(Duration::from_millis(1)).expect("connected"));
    let say = || saying.script("NOTIFY \"a \"\"channel\"\"\", 'news'").expect("said");
    say();
    say();
    assert!(listening.heard(PATIENCE).expect("connected"));
    // What is said between other questions is heard too.
    say();
    listening.script("SELECT 1").expect("answered");
    assert!(listening.heard(PATIENCE).expect("connected"));
    thread::scope(|scope| {
        let heard = scope.spawn(move || {
            let said = listening.heard(PATIENCE).expect("connected");
            (said, Instant::now())
        });
        thread::sleep(Duration::from_millis(50));
        let began = Instant::now();
        say();
        let (said, at) = heard.join().expect("it ends");
        assert!(
            said && at.duration_since(began) < Duration::from_secs(1),
            "{:?}",
            at.duration_since(began)
        );
    });
}

#[test]
fn one_who_listens_is_told_that_the_connection_is_lost() {
    let server = Postgres::start();
    let proxy = Proxy::to(server.address());
    let listening = session(&server.url().replace(&server.address().to_string(), &proxy.address().to_string()));
    listening.listen("news").expect("it listens");
    thread::scope(|scope| {
        let heard = scope.spawn(move || listening.heard(Duration::from_mins(1)));
        proxy.cut();
        let error = heard.join().expect("it ends").expect_err("lost");
        assert_eq!(error.trouble(), Trouble::Lost);
    });
}

#[test]
fn a_session_knows_the_process_that_serves_it() {
    let database = Postgres::shared().database();
    let (one, other) = (session(database.url()), session(database.url()));
    assert_ne!(one.process().number, other.process().number);
    assert!(one.process().began <= other.process().began);
    let began = "SELECT (extract(epoch FROM backend_start) * 1000000)::bigint FROM pg_stat_activity WHERE pid = ";
    let said = database.sql(&format!("{began}{}", one.process().number));
    assert_eq!(said.trim_end(), one.process().began.to_string());
}
