//! Making and recognising the file.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use sqlite_file::{Mark, PATIENCE};
use uuid::Uuid;

use crate::checkpointer::WRITER_CHECKPOINTS_AFTER;
use crate::schema::{FORMAT, OURS, TABLES};

/// Statements that a connection keeps prepared.
const STATEMENTS: usize = 64;

/// Why the views cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A newer version made them.
    #[error("{} has format {found}, newer than this version's {FORMAT}: use the newer version, or delete the file to fill the views anew from the log", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// It is not a file of views, or a damaged one.
    #[error("{} {what}: move or delete the file, and the views are filled anew from the log", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// It cannot be opened or written.
    #[error("{} cannot be opened: {source}", .path.display())]
    Unavailable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// It cannot be made.
    #[error("{} cannot be made: {source}", .path.display())]
    NotMade {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// SQLite itself is too old.
    #[error("SQLite {0} can damage its files; 3.51.3 or newer is needed")]
    OldSqlite(&'static str),
}

/// The one connection that writes. Makes the file when there is none; views of other names or an older format are dropped.
pub(crate) fn writing(path: &Path) -> Result<Connection, OpenError> {
    if let Some(version) = sqlite_file::too_old() {
        return Err(OpenError::OldSqlite(version));
    }
    let prepared = || -> rusqlite::Result<Result<Connection, OpenError>> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(PATIENCE)?;
        let found = Found::read(&connection)?;
        if let Some(error) = found.refused(path) {
            return Ok(Err(error));
        }
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", WRITER_CHECKPOINTS_AFTER)?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        connection.pragma_update(None, "cache_size", -65_536)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        if !found.current() {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            fill_anew(&transaction, None)?;
            transaction.commit()?;
        }
        Ok(Ok(connection))
    };
    prepared().map_err(|source| explained(path, source))?
}

/// The same for a file that is made now, and is nobody else's until it is full: there is nothing to go back to, and nothing to wait for.
pub(crate) fn new(path: &Path) -> Result<Connection, OpenError> {
    match std::fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => begun(path).map_err(|source| explained(path, source)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(OpenError::Unusable {
            path: path.to_owned(),
            what: "is there already",
        }),
        Err(error) => Err(OpenError::NotMade {
            path: path.to_owned(),
            source: error,
        }),
    }
}

fn begun(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update_and_check(None, "locking_mode", "exclusive", |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_mode", "off", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "off")?;
    connection.pragma_update(None, "cache_size", -131_072)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    fill_anew(&transaction, None)?;
    transaction.commit()?;
    Ok(connection)
}

/// That a file holds views of this version.
pub(crate) fn check_current(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let found = Found::read(connection).map_err(|source| explained(path, source))?;
    match found.refused(path) {
        Some(error) => Err(error),
        None if found.current() => Ok(()),
        None => Err(OpenError::Unusable {
            path: path.to_owned(),
            what: "holds the views of another version",
        }),
    }
}

/// A connection that only reads.
pub(crate) fn reading(path: &Path) -> Result<Connection, OpenError> {
    let connection = sqlite_file::reading(path).map_err(|source| explained(path, source))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    check_current(&connection, path)?;
    Ok(connection)
}

/// Drops all tables and makes today's, empty.
pub(crate) fn fill_anew(transaction: &Transaction<'_>, log: Option<Uuid>) -> rusqlite::Result<()> {
    let tables: Vec<String> = transaction
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for table in tables {
        transaction.execute_batch(&format!("DROP TABLE \"{}\"", table.replace('"', "\"\"")))?;
    }
    transaction.execute_batch(TABLES)?;
    let log = log.map(Uuid::into_bytes);
    transaction.execute("INSERT INTO views VALUES (1, ?1, ?2)", (projections::NAMES.join(" "), log))?;
    OURS.set(transaction)
}

/// What a file says of itself.
struct Found {
    mark: Mark,
    tables: i64,
    names: Option<String>,
}

impl Found {
    fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let count = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        let ours = count("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'views'")? == 1;
        let mark = Mark::of(connection)?;
        let names = ours && mark.application == OURS.application;
        Ok(Self {
            mark,
            tables: count("SELECT count(*) FROM sqlite_schema")?,
            names: if names {
                Some(connection.query_row("SELECT names FROM views", [], |row| row.get(0))?)
            } else {
                None
            },
        })
    }

    fn refused(&self, path: &Path) -> Option<OpenError> {
        let empty = self.tables == 0 && self.mark.application == 0;
        if empty {
            return None;
        }
        if self.mark.application != OURS.application {
            return Some(OpenError::Unusable {
                path: path.to_owned(),
                what: "is not a file of views",
            });
        }
        (self.mark.format > OURS.format).then(|| OpenError::Newer {
            path: path.to_owned(),
            found: self.mark.format,
        })
    }

    fn current(&self) -> bool {
        self.mark.format == OURS.format && self.names.as_deref() == Some(&projections::NAMES.join(" "))
    }
}

pub(crate) fn explained(path: &Path, source: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::Unusable {
            path,
            what: "is not a file of views",
        },
        Some(ErrorCode::DatabaseCorrupt) => OpenError::Unusable { path, what: "is damaged" },
        _ => OpenError::Unavailable { path, source },
    }
}
