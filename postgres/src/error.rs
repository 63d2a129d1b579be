//! What an error of PostgreSQL means.

use std::{error::Error as _, fmt};

use tokio_postgres::error::{Severity, SqlState};

/// An error of a session. It says what the server said, but no values of rows.
#[derive(Clone, Debug)]
pub struct Error {
    trouble: Trouble,
    state: Option<SqlState>,
    text: String,
}

/// What kind of error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// There is no connection, or none any more: what was under way may have happened or not.
    Lost,
    /// The server did not answer in time. The session is of no use any more; what was under way may have happened or not.
    Silent,
    /// The server is there and cannot do it now: full, busy, starting, a standby.
    Unable,
    /// The server refuses what is asked: it would refuse it again.
    Refused,
}

impl Error {
    pub(crate) fn new(trouble: Trouble, text: impl Into<String>) -> Self {
        Self {
            trouble,
            state: None,
            text: text.into(),
        }
    }

    /// The server's answer is not what was asked for.
    pub fn unexpected(what: impl Into<String>) -> Self {
        Self::new(Trouble::Refused, what)
    }

    /// What kind it is.
    pub fn trouble(&self) -> Trouble {
        self.trouble
    }

    /// The five characters that name it, when the server named it.
    /// <https://www.postgresql.org/docs/15/errcodes-appendix.html>
    pub fn code(&self) -> Option<&str> {
        self.state.as_ref().map(SqlState::code)
    }

    /// Whether the role may not do this.
    pub fn is_forbidden(&self) -> bool {
        self.state == Some(SqlState::INSUFFICIENT_PRIVILEGE)
    }

    /// Whether there is no such table, schema or column.
    pub fn is_missing(&self) -> bool {
        let missing = [
            SqlState::UNDEFINED_TABLE,
            SqlState::UNDEFINED_COLUMN,
            SqlState::INVALID_SCHEMA_NAME,
            SqlState::UNDEFINED_FUNCTION,
        ];
        self.state.as_ref().is_some_and(|state| missing.contains(state))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        self.code().map_or(Ok(()), |code| write!(f, " ({code})"))
    }
}

impl std::error::Error for Error {}

/// The detail of an error repeats values of rows; its message does not.
impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let state = error.code().cloned();
        let ended = error
            .as_db_error()
            .is_some_and(|said| matches!(said.parsed_severity(), Some(Severity::Fatal | Severity::Panic)));
        let trouble = match &state {
            // Whatever the server says as it ends the session, or itself: what was under way may have happened.
            _ if ended || error.is_closed() => Trouble::Lost,
            Some(state) => judge(state.code()),
            // Not from the server: the connection broke, or a value does not fit a column.
            None if error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>) => Trouble::Lost,
            None => Trouble::Refused,
        };
        let text = match error.as_db_error() {
            Some(said) => said.message().to_owned(),
            None => match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            },
        };
        Self { trouble, state, text }
    }
}

fn judge(code: &str) -> Trouble {
    match (code.get(..2).unwrap_or_default(), code) {
        // The server ends, or has ended, this connection.
        ("08", _) | (_, "57P01" | "57P02" | "57P05" | "25P03") => Trouble::Lost,
        // Out of something, an operator stepped in, serialization, a lock, a standby, starting or stopping, an I/O error.
        ("53" | "57" | "40" | "55" | "58" | "XX", _) | (_, "25006" | "42501" | "28P01" | "28000" | "3D000") => Trouble::Unable,
        _ => Trouble::Refused,
    }
}
