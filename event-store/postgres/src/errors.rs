//! What an error of PostgreSQL means for a log.

use event_store::{CommitError, StoreError};
use postgres_session::{Address, Error, SchemaError, Trouble};

use crate::schema::{CONTRADICTION, FENCED};

/// Nothing could be read.
#[allow(clippy::needless_pass_by_value, reason = "it takes the place of the error, in map_err")]
pub(crate) fn reading(address: &Address, error: Error) -> StoreError {
    if error.is_missing() {
        return StoreError::Foreign(format!("{address} holds no log; `jangbu migrate` makes one"));
    }
    StoreError::Unavailable(format!("{address}: {error}").into())
}

/// The schema cannot be used.
pub(crate) fn schema(address: &Address, error: SchemaError) -> StoreError {
    match error {
        SchemaError::Older { .. } | SchemaError::Newer { .. } => StoreError::Foreign(format!("{address}: {error}")),
        SchemaError::Failed { source, .. } => StoreError::Unavailable(format!("{address}: {source}").into()),
    }
}

pub(crate) fn damaged(address: &Address, what: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("{address}: {what}; restore a backup into another database"))
}

/// A transaction that came to nothing: the server said so, and rolled it back.
pub(crate) fn writing(error: Error, shard: impl FnOnce() -> u16) -> CommitError {
    match (error.trouble(), error.code()) {
        (_, Some(FENCED)) => CommitError::Fenced(shard()),
        (Trouble::Lost | Trouble::Silent, _) => CommitError::Unknown(Box::new(error)),
        (Trouble::Unable, _) => CommitError::NotWritten(Box::new(error)),
        (_, Some(CONTRADICTION)) | (Trouble::Refused, _) => CommitError::Refused(error.to_string()),
    }
}
