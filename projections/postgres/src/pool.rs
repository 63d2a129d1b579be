//! The sessions that read: a fixed number, each used by one thread at a time, and opened when it is needed.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use postgres_session::{Address, Error, Session, Trouble};
use projections::ReadError;

use crate::open;

/// So many questions are answered at the same time; more wait their turn.
const READERS: usize = 8;

/// So long a question waits for its turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// A question was ended because it took too long.
const CANCELED: &str = "57014";

#[derive(Debug)]
pub(crate) struct Pool {
    address: Address,
    /// Those that are not in use. None is one that is yet to be opened.
    idle: Mutex<Vec<Option<Session>>>,
    returned: Condvar,
}

impl Pool {
    pub(crate) fn of(first: Session, address: Address) -> Self {
        let mut idle: Vec<_> = (1..READERS).map(|_| None).collect();
        // The last is taken first: those that are open are used before others are opened.
        idle.push(Some(first));
        Self {
            address,
            idle: Mutex::new(idle),
            returned: Condvar::new(),
        }
    }

    /// Answers a question on the next session that is free.
    pub(crate) fn ask<T>(&self, question: impl Fn(&Session) -> Result<T, Unanswered>) -> Result<T, ReadError> {
        let mut lent = self.lend()?;
        let answer = match lent.session.take() {
            // A session that was not used for a while may have ended without anybody noticing.
            Some(session) => match lent.ask(session, &question) {
                Err(Unanswered::Postgres(error)) if error.trouble() == Trouble::Lost => lent.ask_anew(&question),
                answer => answer,
            },
            None => lent.ask_anew(&question),
        };
        answer.map_err(Unanswered::explained)
    }

    fn lend(&self) -> Result<Lent<'_>, ReadError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut idle, _) = self
            .returned
            .wait_timeout_while(idle, PATIENCE, |idle| idle.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let session = idle.pop().ok_or(ReadError::Busy)?;
        Ok(Lent { pool: self, session })
    }
}

/// Goes back when it is dropped, also when its question panics.
struct Lent<'a> {
    pool: &'a Pool,
    session: Option<Session>,
}

impl Lent<'_> {
    fn ask_anew<T>(&mut self, question: &impl Fn(&Session) -> Result<T, Unanswered>) -> Result<T, Unanswered> {
        let session = open::reading_again(&self.pool.address)?;
        self.ask(session, question)
    }

    /// Keeps the session, unless it is of no more use.
    fn ask<T>(&mut self, session: Session, question: &impl Fn(&Session) -> Result<T, Unanswered>) -> Result<T, Unanswered> {
        let answer = question(&session);
        let spoilt = matches!(&answer, Err(Unanswered::Postgres(error)) if matches!(error.trouble(), Trouble::Lost | Trouble::Silent));
        if !spoilt {
            self.session = Some(session);
        }
        answer
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let session = self.session.take();
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // Below those that are open, so that these are used first.
        let place = if session.is_some() { idle.len() } else { 0 };
        idle.insert(place, session);
        self.pool.returned.notify_one();
    }
}

/// Why there is no answer.
pub(crate) enum Unanswered {
    Postgres(Error),
    Json(serde_json::Error),
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Self {
        Self::Postgres(error)
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
            Self::Postgres(error) if error.code() == Some(CANCELED) => ReadError::TooSlow,
            Self::Postgres(error) => ReadError::Unavailable(Box::new(error)),
            Self::Json(error) => ReadError::Unavailable(Box::new(error)),
        }
    }
}
