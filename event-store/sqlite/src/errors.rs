//! What an error of SQLite means for a log.

use std::path::Path;

use event_store::{CommitError, StoreError};
use rusqlite::{Error, ErrorCode, ffi};

/// What to do about a damaged log, said wherever one is found.
pub(crate) const REMEDY: &str = "restore a backup into another data directory with `jangbu restore`";

/// A log that could not be read.
pub(crate) fn reading(path: &Path, error: Error) -> StoreError {
    match error.sqlite_error_code() {
        // Unknown is a table that is not there; none is not from SQLite but a column that is not what a log has there.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) | None => damaged(path, error),
        Some(_) => StoreError::Unavailable(Box::new(error)),
    }
}

pub(crate) fn damaged(path: &Path, what: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("{}: {what}; {REMEDY}", path.display()))
}

/// A statement before COMMIT that failed: whatever it was, nothing is written once the transaction is rolled back.
pub(crate) fn writing(error: Error) -> CommitError {
    if let Error::ToSqlConversionFailure(_) = error {
        // A number that SQLite cannot hold.
        return CommitError::Refused(error.to_string());
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig) => CommitError::Refused(error.to_string()),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) | None => CommitError::Disk(Box::new(error)),
        Some(ErrorCode::SystemIoFailure) if is_sync(&error) => CommitError::Disk(Box::new(error)),
        Some(_) => CommitError::NotWritten(Box::new(error)),
    }
}

/// A COMMIT that failed. After an I/O error nobody knows what the disk holds: the kernel may have dropped the pages.
pub(crate) fn committing(error: Error) -> CommitError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::ReadOnly | ErrorCode::ConstraintViolation) => writing(error),
        Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => CommitError::Disk(Box::new(error)),
        _ => CommitError::Unknown(Box::new(error)),
    }
}

fn is_sync(error: &Error) -> bool {
    matches!(
        error.sqlite_extended_error_code(),
        Some(ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC)
    )
}
