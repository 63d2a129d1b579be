//! What an error of SQLite means for a log.

use std::{fmt::Display, fs::File, io::ErrorKind, path::Path};

use event_store::{CommitError, StoreError};
use rusqlite::{Error, ErrorCode, ffi};
use sqlite_file::beside;

/// What to do about a damaged log, said wherever one is found.
pub(crate) const REMEDY: &str = "restore a backup into another data directory with `jangbu restore`";

/// The same number on every Unix, and none of the kinds of the standard library.
const EIO: i32 = 5;

/// A log that could not be read, or not be made ready for writing.
pub(crate) fn reading(path: &Path, error: Error) -> StoreError {
    match error.sqlite_error_code() {
        // Unknown is a table that is not there; none is not from SQLite but a column that is not what a log has there.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) | None => damaged(path, error),
        Some(ErrorCode::SystemIoFailure) => failing_disk(path, error),
        Some(ErrorCode::DiskFull) => full_disk(path, error),
        Some(_) => StoreError::Unavailable(format!("{}: {error}; try again", path.display()).into()),
    }
}

/// A shard that could not be taken.
pub(crate) fn taking(path: &Path, error: CommitError) -> StoreError {
    match error {
        CommitError::NotWritten(error) | CommitError::Unknown(error) | CommitError::Disk(error) => match error.downcast::<Error>() {
            Ok(error) => unless_disk(path, reading(path, *error)),
            Err(error) => StoreError::Unavailable(error),
        },
        CommitError::Fenced(_) | CommitError::Refused(_) => StoreError::Unavailable(Box::new(error)),
    }
}

/// The same for what was asked of the file without SQLite; nothing when it is not the disk's fault.
pub(crate) fn of_disk(path: &Path, error: &std::io::Error) -> Option<StoreError> {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(full_disk(path, error)),
        _ if error.raw_os_error() == Some(EIO) => Some(failing_disk(path, error)),
        _ => None,
    }
}

/// A log that was found damaged, but for when its disk does not give all of it: SQLite takes what cannot be read for damage
/// (`SQLITE_IOERR_CORRUPTFS`). Reads the whole file, so only for a start that fails.
pub(crate) fn unless_disk(path: &Path, error: StoreError) -> StoreError {
    let StoreError::Corrupt(_) = error else { return error };
    let files = [path.to_owned(), beside(path, "-wal")];
    let failed = files.iter().find_map(|file| {
        let read = File::open(file).and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
        of_disk(file, &read.err()?)
    });
    failed.unwrap_or(error)
}

/// Nothing is wrong with what the log says, as far as anybody knows: it may all be there once the disk works again.
fn failing_disk(path: &Path, error: impl Display) -> StoreError {
    let path = path.display();
    StoreError::Unavailable(
        format!("{path}: the disk cannot be read or written ({error}); look at the disk, for instance with `dmesg`, and start again")
            .into(),
    )
}

fn full_disk(path: &Path, error: impl Display) -> StoreError {
    let path = path.display();
    StoreError::Unavailable(format!("{path}: the disk has no room left ({error}); make some, and start again").into())
}

pub(crate) fn damaged(path: &Path, what: impl Display) -> StoreError {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fails_is_no_damage() {
        let path = Path::new("log.db");
        for code in [
            ffi::SQLITE_IOERR_READ,
            ffi::SQLITE_IOERR_WRITE,
            ffi::SQLITE_IOERR_FSYNC,
            ffi::SQLITE_FULL,
        ] {
            let read = reading(path, failure(code));
            assert!(matches!(read, StoreError::Unavailable(_)), "{read}");
            for meant in [writing, committing] {
                let taken = taking(path, meant(failure(code)));
                assert!(matches!(taken, StoreError::Unavailable(_)), "{taken}");
                assert_eq!(taken.to_string(), reading(path, failure(code)).to_string());
            }
        }
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB] {
            let taken = taking(path, committing(failure(code)));
            assert!(matches!(&taken, StoreError::Corrupt(line) if line.contains(REMEDY)), "{taken}");
        }
    }

    #[test]
    fn what_the_disk_says_of_a_file_is_told_from_what_the_user_may_do() {
        let path = Path::new("log.db");
        let said = |error: std::io::Error| of_disk(path, &error).map(|error| error.to_string());
        assert!(said(std::io::Error::from_raw_os_error(EIO)).is_some_and(|line| line.contains("log.db: the disk cannot be read")));
        assert!(said(ErrorKind::StorageFull.into()).is_some_and(|line| line.contains("log.db: the disk has no room left")));
        assert_eq!(said(ErrorKind::PermissionDenied.into()), None);
    }

    fn failure(code: i32) -> Error {
        Error::SqliteFailure(ffi::Error::new(code), None)
    }
}
