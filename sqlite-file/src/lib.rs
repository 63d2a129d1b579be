//! A SQLite file of a shop, before anybody asks what is in it: whose it is, how a connection that reads is made, and how to look at it without
//! leaving a trace.
//!
//! It knows no table, and writes nothing into a file but whose it is.

mod look;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Result};

pub use look::{Standing, look, open_to_look};

/// How long a statement waits for another connection. Only a checkpoint and one who begins to write ever hold a file.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Older ones damage a file, or lose what is committed, when a checkpoint races a reset of the write-ahead log
/// (sqlite.org/wal.html#walresetbug).
const OLDEST_SQLITE: i32 = 3_051_003;

/// What may be opened to read, by one thread at a time.
const READ_ONLY: OpenFlags = OpenFlags::SQLITE_OPEN_READ_ONLY.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// The version of the SQLite that is linked, if it is one that is known to damage files: below 3.51.3.
pub fn too_old() -> Option<&'static str> {
    (rusqlite::version_number() < OLDEST_SQLITE).then(rusqlite::version)
}

/// Whose file it is, and in which format, as its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The program's number, zero in a file of nobody.
    pub application: i64,
    /// Zero in a file that has none.
    pub format: i64,
}

impl Mark {
    /// Of an open file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of(connection: &Connection) -> Result<Self> {
        let number = |name| connection.pragma_query_value(None, name, |row| row.get(0));
        Ok(Self {
            application: number("application_id")?,
            format: number("user_version")?,
        })
    }

    /// Puts it into the file; part of the transaction that is open.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set(self, connection: &Connection) -> Result<()> {
        connection.pragma_update(None, "application_id", self.application)?;
        connection.pragma_update(None, "user_version", self.format)
    }
}

/// A connection that reads, and cannot do anything else.
///
/// # Errors
/// There is no such file, or it cannot be opened.
pub fn reading(path: &Path) -> Result<Connection> {
    Connection::open_with_flags(path, READ_ONLY).and_then(only_read)
}

/// The path with something at its end: SQLite keeps `log.db-wal` beside `log.db`.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn only_read(connection: Connection) -> Result<Connection> {
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}
