//! How a connection to the log is made and set up.

use std::path::Path;

use event_store::StoreError;
use rusqlite::{Connection, OpenFlags, Result};
use sqlite_file::PATIENCE;

use crate::errors;

/// Pages of the WAL after which it is copied into the log: 64 MiB. A page of the stream index changes many times within
/// it and is copied once: 10.6 µs of CPU per event instead of 12.3 with 16 MiB, for a slowest commit of about 0.1 s
/// either way (`examples/append_speed.rs`).
const CHECKPOINT_PAGES: u32 = 16_000;

/// What the WAL keeps of the disk once it was copied.
const WAL_KEPT_BYTES: u32 = 128 << 20;

/// The writer's page cache, in KiB: it holds the inner pages of the stream index.
const WRITER_CACHE_KIB: i32 = 64 << 10;

/// A reader's.
const READER_CACHE_KIB: i32 = 16 << 10;

/// Statements that are kept prepared: more than either side has.
const STATEMENTS: usize = 32;

/// Refuses a SQLite that is known to lose data.
pub(crate) fn check_library() -> Result<(), StoreError> {
    match sqlite_file::too_old() {
        Some(version) => Err(StoreError::Foreign(format!(
            "SQLite {version} can lose committed data; build with 3.51.3 or newer (the bundled one is)"
        ))),
        None => Ok(()),
    }
}

/// A connection that appends.
pub(crate) fn writing(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags).and_then(|connection| {
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.busy_timeout(PATIENCE)?;
        let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        durable(&connection)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", WAL_KEPT_BYTES)?;
        connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
        Ok((connection, mode))
    });
    let (connection, mode) = opened.map_err(|error| errors::reading(path, error))?;
    if mode == "wal" {
        return Ok(connection);
    }
    Err(StoreError::Foreign(format!(
        "{}: SQLite's write-ahead log does not work here; use a local disk",
        path.display()
    )))
}

/// A connection that reads, and cannot do anything else.
pub(crate) fn reading(path: &Path) -> Result<Connection, StoreError> {
    sqlite_file::reading(path)
        .and_then(for_reader)
        .map_err(|error| errors::reading(path, error))
}

/// What a connection that reads has, however it was opened.
pub(crate) fn for_reader(connection: Connection) -> Result<Connection> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    Ok(connection)
}

/// Every commit on the disk before it returns.
pub(crate) fn durable(connection: &Connection) -> Result<()> {
    connection.pragma_update(None, "synchronous", "full")?;
    // Only macOS knows these: there fsync alone does not reach the disk.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)
}
