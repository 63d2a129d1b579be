//! The connections that read: a fixed number, each used by one thread at a time.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use projections::ReadError;
use rusqlite::{Connection, ErrorCode};

/// So long a question waits for its turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// So long a question may take.
const LIMIT: Duration = Duration::from_secs(2);

/// So many steps of SQLite's machine go by between two looks at the clock.
const STEPS: i32 = 20_000;

#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<Vec<Reading>>,
    returned: Condvar,
}

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
        Self {
            idle: Mutex::new(connections.into_iter().map(Reading::on).collect()),
            returned: Condvar::new(),
        }
    }

    /// Answers a question on the next connection that is free.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Connection) -> Result<T, Unanswered>) -> Result<T, ReadError> {
        let lent = self.lend()?;
        let Some(reading) = &lent.reading else {
            return Err(ReadError::Busy);
        };
        reading.begin();
        question(&reading.connection).map_err(Unanswered::explained)
    }

    fn lend(&self) -> Result<Lent<'_>, ReadError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut idle, _) = self
            .returned
            .wait_timeout_while(idle, PATIENCE, |idle| idle.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let reading = idle.pop().ok_or(ReadError::Busy)?;
        Ok(Lent {
            pool: self,
            reading: Some(reading),
        })
    }
}

/// Goes back when it is dropped, also when its question panics.
struct Lent<'a> {
    pool: &'a Pool,
    reading: Option<Reading>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(reading) = self.reading.take() {
            self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reading);
            self.pool.returned.notify_one();
        }
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
pub(crate) enum Unanswered {
    Sqlite(rusqlite::Error),
    Json(serde_json::Error),
}

impl From<rusqlite::Error> for Unanswered {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<serde_json::Error> for Unanswered {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}

impl Unanswered {
    fn explained(self) -> ReadError {
        match self {
            Self::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => ReadError::TooSlow,
            Self::Sqlite(error) => ReadError::Unavailable(Box::new(error)),
            Self::Json(error) => ReadError::Unavailable(Box::new(error)),
        }
    }
}
