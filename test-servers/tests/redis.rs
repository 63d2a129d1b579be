//! Redis, started, broken and stopped.

use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use test_servers::Redis;

const A_WHILE: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);

/// One connection, which speaks the plain form of the protocol.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn to(address: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(address).expect("it listens")))
    }

    fn ask(&mut self, command: &str, patience: Duration) -> Result<String, ErrorKind> {
        let stream = self.0.get_mut();
        stream.set_read_timeout(Some(patience)).expect("not zero");
        write!(stream, "{command}\r\n").map_err(|error| error.kind())?;
        self.hear()
    }

    fn hear(&mut self) -> Result<String, ErrorKind> {
        let mut line = String::new();
        self.0.read_line(&mut line).map_err(|error| error.kind())?;
        Ok(line.trim_end().to_owned())
    }
}

#[test]
fn the_shared_one_answers_at_its_url() {
    let address = Redis::shared()
        .url()
        .strip_prefix("redis://")
        .and_then(|address| address.parse().ok());
    // Another one may be named by something else than an address.
    if let Some(address) = address {
        assert_eq!(Connection::to(address).ask("PING", PATIENCE).as_deref(), Ok("+PONG"));
    }
    assert!(std::ptr::eq(Redis::shared(), Redis::shared()));
}

#[test]
fn one_that_was_killed_comes_back_empty_on_the_same_port() {
    let mut redis = Redis::start();
    let port = redis.port();
    let mut connection = Connection::to(redis.address());
    assert_eq!(connection.ask("SET a 1", PATIENCE).as_deref(), Ok("+OK"));
    redis.kill();
    assert_ne!(connection.ask("GET a", PATIENCE).as_deref(), Ok("$1"));
    TcpStream::connect(redis.address()).expect_err("nobody listens");
    redis.restart();
    assert_eq!(Connection::to(redis.address()).ask("GET a", PATIENCE).as_deref(), Ok("$-1"));
    assert_eq!(redis.port(), port);
}

#[test]
fn a_frozen_one_answers_when_it_is_thawed() {
    let redis = Redis::start();
    let mut connection = Connection::to(redis.address());
    redis.freeze();
    assert_eq!(connection.ask("PING", A_WHILE), Err(ErrorKind::WouldBlock));
    redis.thaw();
    connection.0.get_mut().set_read_timeout(Some(PATIENCE)).expect("not zero");
    assert_eq!(connection.hear().as_deref(), Ok("+PONG"));
}

#[test]
fn settings_are_the_tests_own() {
    let mut redis = Redis::start_with(&[("appendonly", "yes"), ("appendfsync", "always"), ("requirepass", "secret")]);
    let mut connection = Connection::to(redis.address());
    assert!(connection.ask("GET a", PATIENCE).expect("an answer").starts_with("-NOAUTH"));
    assert_eq!(connection.ask("AUTH secret", PATIENCE).as_deref(), Ok("+OK"));
    assert_eq!(connection.ask("SET a 1", PATIENCE).as_deref(), Ok("+OK"));
    redis.stop();
    redis.restart();
    let mut connection = Connection::to(redis.address());
    assert_eq!(connection.ask("AUTH secret", PATIENCE).as_deref(), Ok("+OK"));
    assert_eq!(connection.ask("GET a", PATIENCE).as_deref(), Ok("$1"));
}
