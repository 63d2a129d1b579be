//! Real servers for a command, or for a terminal.
//!
//!     test-servers with postgres redis kafka -- COMMAND...
//!     test-servers hold postgres redis kafka
//!
//! `with` starts them, gives COMMAND their addresses as `JANGBU_TEST_POSTGRES`, `JANGBU_TEST_REDIS` and `JANGBU_TEST_KAFKA`, stops them and
//! ends as COMMAND did. `hold` prints the same as lines for a shell, and keeps them until the end of its input or Ctrl-C.

use std::{
    env,
    ffi::OsString,
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
};

use rustix::process::{Signal, getpid, kill_process};
use test_servers::{Guarded, Kafka, Postgres, Redis};

const USAGE: &str = "usage: test-servers with SERVER... -- COMMAND...
       test-servers hold SERVER...
SERVER is postgres, redis or kafka.";
const MISUSE: u8 = 2;
/// What a shell says of a command that cannot be run.
const NOT_RUN: u8 = 126;

/// Servers that run while this is kept.
#[derive(Default)]
struct Servers {
    postgres: Option<Postgres>,
    redis: Option<Redis>,
    kafka: Option<Kafka>,
}

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let kind = arguments.next().unwrap_or_default();
    let arguments = arguments.collect::<Vec<_>>();
    let split = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    let (names, command) = arguments.split_at(split);
    match (kind.to_str(), names, command) {
        (Some("with"), [_, ..], [_, command @ ..]) if !command.is_empty() => with(names, command),
        (Some("hold"), [_, ..], []) => hold(names),
        _ => misuse(),
    }
}

fn with(names: &[OsString], command: &[OsString]) -> ExitCode {
    let Some(servers) = Servers::start(names) else { return misuse() };
    let ended = Guarded::command(command, &servers.settings()).and_then(|mut command| command.wait());
    drop(servers);
    match ended {
        Ok(status) => end_as(status),
        Err(error) => {
            complain(&format!("{}: {error}", command[0].display()));
            ExitCode::from(NOT_RUN)
        }
    }
}

fn hold(names: &[OsString]) -> ExitCode {
    let Some(servers) = Servers::start(names) else { return misuse() };
    let lines = servers
        .settings()
        .iter()
        .map(|(name, value)| format!("export {name}={value}\n"))
        .collect::<Vec<_>>()
        .concat();
    // Nobody reads the lines: then nobody uses the servers.
    if io::stdout().write_all(lines.as_bytes()).and_then(|()| io::stdout().flush()).is_ok() {
        while io::stdin().read(&mut [0; 1024]).is_ok_and(|read| read > 0) {}
    }
    ExitCode::SUCCESS
}

impl Servers {
    /// None when one of the names is no server's.
    fn start(names: &[OsString]) -> Option<Self> {
        if !names.iter().all(|name| name == "postgres" || name == "redis" || name == "kafka") {
            return None;
        }
        let named = |wanted: &str| names.iter().any(|name| name == wanted);
        Some(Self {
            postgres: named("postgres").then(Postgres::start),
            redis: named("redis").then(Redis::start),
            kafka: named("kafka").then(Kafka::start),
        })
    }

    /// The variables that name them.
    fn settings(&self) -> Vec<(String, String)> {
        let urls = [
            ("JANGBU_TEST_POSTGRES", self.postgres.as_ref().map(Postgres::url)),
            ("JANGBU_TEST_REDIS", self.redis.as_ref().map(Redis::url)),
            ("JANGBU_TEST_KAFKA", self.kafka.as_ref().map(Kafka::url)),
        ];
        urls.into_iter().filter_map(|(name, url)| Some((name.to_owned(), url?))).collect()
    }
}

/// Ends as a command did, by its exit code or by its signal.
fn end_as(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal().and_then(Signal::from_named_raw) {
        // One that this process ignores does not end it; then the code below says it, as a shell does.
        let _ = kill_process(getpid(), signal);
    }
    let code = status
        .code()
        .or_else(|| Some(128 + status.signal()?))
        .and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(u8::MAX))
}

fn misuse() -> ExitCode {
    complain(USAGE);
    ExitCode::from(MISUSE)
}

fn complain(text: &str) {
    // There is no other place to say so.
    let _ = writeln!(io::stderr(), "{text}");
}
