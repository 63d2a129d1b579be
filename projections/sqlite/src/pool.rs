//! The connections that read: a fixed number, each used by one thread at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use projections::{ReadError, sql::Turns};
use rusqlite::{Connection, ErrorCode};

/// So long a question may take.
const LIMIT: Duration = Duration::from_secs(2);

/// So many steps of SQLite's machine go by between two looks at the clock.
const STEPS: i32 = 20_000;

#[derive(Debug)]
pub(crate) struct Pool(Turns<Reading>);

/// A connection whose questions end when their time is over.
#[derive(Debug)]
struct Reading {
    connection: Connection,
    /// Milliseconds after `since`.
    until: Arc<AtomicU64>,
    since: Instant,
}

impl Pool {
    pub(crate) fn of(connections: Vec<Connection>) -> Self {
        let count = connections.len();
        Self(Turns::of(connections.into_iter().map(Reading::on).collect(), count))
    }

    /// Answers a question on the next connection that is free.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, ReadError> {
        let lent = self.0.next()?;
        let Some(reading) = &lent.connection else {
            return Err(ReadError::Busy);
        };
        reading.begin();
        question(&reading.connection).map_err(explained)
    }
}

impl Reading {
    fn on(mut connection: Connection) -> Self {
        let since = Instant::now();
        let until = Arc::new(AtomicU64::new(u64::MAX));
        let watched = Arc::clone(&until);
        let over = move || since.elapsed().as_millis() >= u128::from(watched.load(Ordering::Relaxed));
        // A connection that cannot be watched still answers; only its questions are not cut short.
        let _ = connection.progress_handler(STEPS, Some(over));
        Self { connection, until, since }
    }

    fn begin(&self) {
        let until = (self.since.elapsed() + LIMIT).as_millis();
        self.until.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Why there is no answer.
fn explained(error: rusqlite::Error) -> ReadError {
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => ReadError::TooSlow,
        _ => ReadError::Unavailable(Box::new(error)),
    }
}
