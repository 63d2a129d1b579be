//! The sessions that read: a fixed number, each used by one thread at a time, and opened when it is needed.

use postgres_session::{Address, Error, Session, Trouble};
use projections::{ReadError, sql::Turns};

use crate::open;

/// A question was ended because it took too long.
const CANCELED: &str = "57014";

#[derive(Debug)]
pub(crate) struct Pool {
    address: Address,
    sessions: Turns<Session>,
}

impl Pool {
    /// So many questions are answered at the same time; more wait their turn.
    pub(crate) fn of(first: Option<Session>, most: usize, address: Address) -> Self {
        Self {
            address,
            sessions: Turns::of(first.into_iter().collect(), most),
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Answers a question on the next session that is free.
    pub(crate) fn ask<T>(&self, question: impl Fn(&Session) -> Result<T, Error>) -> Result<T, ReadError> {
        let mut lent = self.sessions.next()?;
        let answer = match lent.connection.take() {
            // A session that was not used for a while may have ended without anybody noticing.
            Some(session) => match asked(session, &question, &mut lent.connection) {
                Err(error) if error.trouble() == Trouble::Lost => self.ask_anew(&question, &mut lent.connection),
                answer => answer,
            },
            None => self.ask_anew(&question, &mut lent.connection),
        };
        answer.map_err(explained)
    }

    fn ask_anew<T>(&self, question: &impl Fn(&Session) -> Result<T, Error>, kept: &mut Option<Session>) -> Result<T, Error> {
        let session = open::reading_again(&self.address)?;
        asked(session, question, kept)
    }
}

/// Keeps the session, unless it is of no more use.
fn asked<T>(session: Session, question: &impl Fn(&Session) -> Result<T, Error>, kept: &mut Option<Session>) -> Result<T, Error> {
    let answer = question(&session);
    let spoils = |error: &Error| matches!(error.trouble(), Trouble::Lost | Trouble::Silent);
    if !answer.as_ref().is_err_and(spoils) {
        *kept = Some(session);
    }
    answer
}

fn explained(error: Error) -> ReadError {
    if error.code() == Some(CANCELED) {
        ReadError::TooSlow
    } else {
        ReadError::Unavailable(Box::new(error))
    }
}
