//! Looking at a file without leaving a trace: nothing is made beside it, and nothing is locked that a shop needs.
//!
//! SQLite reads a file that is written through two others beside it. A shop that serves has both open. A copy may have none of them, or the
//! write-ahead log alone; then nobody writes, and SQLite is told so instead of making the files itself.

use std::{
    fmt::Write as _,
    fs::Metadata,
    io::{self, ErrorKind},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

use rusqlite::{Connection, OpenFlags, Result, config::DbConfig};

use crate::{READ_ONLY, beside, only_read, reading};

/// Takes no lock: whoever has the file to itself needs none.
const WITHOUT_LOCKS: &str = "unix-none";

/// What there is on the disk where a file is. What has changed since a reader was opened tells what has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    file: (u64, u64),
    length: u64,
    used: Used,
    /// Of the file, where it alone counts.
    modified: Option<(i64, i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Used {
    /// Nobody has it open for writing, and nothing waits beside it.
    Still,
    /// Nobody has it open for writing; the write-ahead log belongs to it.
    WithLog,
    /// Somebody writes, or did until a crash.
    Live,
}

impl Standing {
    /// What there is now.
    ///
    /// # Errors
    /// The file is not there, or cannot be looked at.
    pub fn of(path: &Path) -> io::Result<Self> {
        let file = std::fs::metadata(path)?;
        let used = match (is_there(&beside(path, "-wal"))?, is_there(&beside(path, "-shm"))?) {
            (false, _) => Used::Still,
            (true, true) => Used::Live,
            (true, false) => Used::WithLog,
        };
        let time = |file: &Metadata| (file.mtime(), file.mtime_nsec());
        Ok(Self {
            file: (file.dev(), file.ino()),
            length: file.len(),
            used,
            modified: (used != Used::Live).then(|| time(&file)),
        })
    }

    /// Whether this is another file than the one before.
    pub fn is_another(&self, before: &Self) -> bool {
        self.file != before.file
    }

    /// Whether something was cut off, which no shop does.
    pub fn is_shorter(&self, before: &Self) -> bool {
        self.length < before.length
    }

    /// Whether it is read beside one who may write; else as a file that does not change.
    pub fn is_live(&self) -> bool {
        self.used == Used::Live
    }

    /// Whether a reader that was opened before sees less than there is: it has to be opened anew.
    pub fn is_stale(&self, before: &Self) -> bool {
        self.used != before.used || (self.used != Used::Live && self.modified != before.modified)
    }
}

fn is_there(path: &Path) -> io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens a file for one who only reads it, as it is, and leaves nothing beside it: also a copy in a directory that nobody may write to.
///
/// # Errors
/// There is no such file, or it cannot be read.
pub fn open_to_look(path: &Path) -> Result<Connection> {
    look(path).map(|(connection, _)| connection)
}

/// The same, and what there was on the disk; none when that could not be told.
///
/// # Errors
/// As [`open_to_look`].
pub fn look(path: &Path) -> Result<(Connection, Option<Standing>)> {
    let standing = Standing::of(path).ok();
    let connection = match standing.map(|standing| standing.used) {
        // What is wrong with a file that cannot be looked at SQLite says best.
        None | Some(Used::Live) => reading(path)?,
        Some(Used::WithLog) => alone(path).and_then(only_read)?,
        Some(Used::Still) => Connection::open_with_flags(unchanging(path), READ_ONLY | OpenFlags::SQLITE_OPEN_URI).and_then(only_read)?,
    };
    Ok((connection, standing))
}

/// Whoever says that nobody else uses the file gets the index of the write-ahead log in memory, instead of in a file beside it.
fn alone(path: &Path) -> Result<Connection> {
    let connection = Connection::open_with_flags_and_vfs(path, READ_ONLY, WITHOUT_LOCKS)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update_and_check(None, "locking_mode", "exclusive", |_| Ok(()))?;
    Ok(connection)
}

/// The file's name as a URI that says that nobody changes it.
fn unchanging(path: &Path) -> String {
    let mut uri = String::from(if path.is_absolute() { "file://" } else { "file:" });
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-') {
            uri.push(char::from(*byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri.push_str("?immutable=1");
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_uri_is_the_name_of_the_file() {
        let uri = |path: &str| unchanging(Path::new(path));
        assert_eq!(uri("/data/log.db"), "file:///data/log.db?immutable=1");
        assert_eq!(uri("a %41?b#c/log.db"), "file:a%20%2541%3Fb%23c/log.db?immutable=1");
    }
}
