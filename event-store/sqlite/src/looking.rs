//! Looking at a log without leaving a trace: nothing is made beside it, and nothing is locked that a shop needs.
//!
//! SQLite reads a log that is written through two files beside it. A shop that serves has both open. A copy may have none of them, or the
//! write-ahead log alone; then nobody writes, and SQLite is told so instead of making the files itself.

use std::{
    fmt::Write as _,
    fs::Metadata,
    io::ErrorKind,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

use event_store::StoreError;
use rusqlite::{Connection, OpenFlags, Result, config::DbConfig};

use crate::{connection, errors, open::beside};

/// Takes no lock: whoever has the file to itself needs none.
const WITHOUT_LOCKS: &str = "unix-none";

/// What there is on the disk where a log is. What has changed since a reader was opened tells what has become of it.
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

pub(crate) fn standing(path: &Path) -> Result<Standing, StoreError> {
    let looked_at = |path: &Path| match std::fs::metadata(path) {
        Ok(known) => Ok(Some(known)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::Unavailable(format!("{}: {error}", path.display()).into())),
    };
    let Some(file) = looked_at(path)? else {
        return Err(StoreError::Foreign(format!("{} is not there any more", path.display())));
    };
    let used = match looked_at(&beside(path, "-wal"))? {
        None => Used::Still,
        Some(_) if looked_at(&beside(path, "-shm"))?.is_some() => Used::Live,
        Some(_) => Used::WithLog,
    };
    let time = |file: &Metadata| (file.mtime(), file.mtime_nsec());
    Ok(Standing {
        file: (file.dev(), file.ino()),
        length: file.len(),
        used,
        modified: (used != Used::Live).then(|| time(&file)),
    })
}

/// A connection that reads what there is as it is.
pub(crate) fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = match standing(path)?.used {
        Used::Live => return connection::reading(path),
        Used::WithLog => alone(path, flags),
        Used::Still => Connection::open_with_flags(unchanging(path), flags | OpenFlags::SQLITE_OPEN_URI),
    };
    opened
        .and_then(|connection| connection::only_read(&connection).map(|()| connection))
        .map_err(|error| errors::reading(path, error))
}

/// Whoever says that nobody else uses the file gets the index of the write-ahead log in memory, instead of in a file beside it.
fn alone(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let connection = Connection::open_with_flags_and_vfs(path, flags, WITHOUT_LOCKS)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update_and_check(None, "locking_mode", "exclusive", |_| Ok(()))?;
    Ok(connection)
}

/// The file's name as a URI that says that nobody changes it.
fn unchanging(path: &Path) -> String {
    let mut uri = String::from("file:");
    if path.is_absolute() {
        uri.push_str("//");
    }
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
    use std::{fs, path::PathBuf};

    use event_store::{Batch, Event, EventStore as _, GENESIS, LogWriter, StreamId, batch_hash};
    use uuid::Uuid;

    use super::*;
    use crate::SqliteStore;

    fn append(writer: &mut dyn LogWriter, position: u64, epoch: u64, previous_hash: event_store::Hash) -> event_store::Hash {
        let events = vec![Event {
            shard: 0,
            position,
            stream: StreamId::new("order", Uuid::from_u128(1)),
            sequence: position,
            event_id: Uuid::from_u128(u128::from(position)),
            event_type: "order.placed".into(),
            event_version: "1.0.0".into(),
            recorded_at: 1,
            payload: "{}".into(),
            metadata: "{}".into(),
        }];
        let hash = batch_hash(&previous_hash, &events);
        let batch = Batch {
            epoch,
            first_position: position,
            events,
            previous_hash,
            hash,
            ..Batch::default()
        };
        writer.commit(&[&batch]).expect("written");
        hash
    }

    fn names(directory: &Path) -> Vec<PathBuf> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        names.sort();
        names
    }

    fn head(store: &SqliteStore) -> u64 {
        let reader = store.reader().expect("a reader");
        reader.head(0).expect("read").map_or(0, |head| head.position)
    }

    #[test]
    fn who_looks_leaves_no_trace_and_notices_what_changes() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        // A name that a URI would understand otherwise.
        let data = scratch.path().join("a %41?b#c");
        let store = SqliteStore::open(&data).expect("a log");
        let mut writer = store.writer().expect("a writer");
        let taken = writer.take(0, Uuid::nil(), 1).expect("the shard");
        let hash = append(writer.as_mut(), 1, taken.epoch, GENESIS);

        // A copy that was made while the shop served has a write-ahead log, and needs it.
        let copy = scratch.path().join("copy");
        fs::create_dir(&copy).expect("made");
        for name in ["log.db", "log.db-wal"] {
            fs::copy(data.join(name), copy.join(name)).expect("copied");
        }
        let before = names(&copy);
        let copied = SqliteStore::open_to_look(&copy).expect("a log");
        assert_eq!(head(&copied), 1);
        assert_eq!(names(&copy), before);

        // The shop's own directory, while it serves.
        let looking = SqliteStore::open_to_look(&data).expect("a log");
        let live = looking.standing().expect("it is there");
        assert_eq!(head(&looking), 1);
        let hash = append(writer.as_mut(), 2, taken.epoch, hash);
        assert_eq!(head(&looking), 2);
        assert!(!looking.standing().expect("it is there").is_stale(&live));
        drop(writer);
        drop(store);

        // After it has stopped there is one file.
        let still = looking.standing().expect("it is there");
        assert!(
            still.is_stale(&live) && !still.is_another(&live) && !still.is_shorter(&live),
            "{live:?} {still:?}"
        );
        let before = names(&data);
        assert!(!before.contains(&data.join("log.db-wal")));
        let reader = looking.reader().expect("a reader");
        assert_eq!(reader.head(0).expect("read").map(|head| head.position), Some(2));
        assert_eq!(names(&data), before);

        // It serves again.
        let store = SqliteStore::open(&data).expect("the log");
        let mut writer = store.writer().expect("a writer");
        let taken = writer.take(0, Uuid::nil(), 1).expect("the shard");
        append(writer.as_mut(), 3, taken.epoch, hash);
        assert!(looking.standing().expect("it is there").is_stale(&still));
        assert_eq!(head(&looking), 3);

        fs::rename(copy.join("log.db"), data.join("log.db")).expect("renamed");
        assert!(looking.standing().expect("it is there").is_another(&still));
        fs::remove_file(data.join("log.db")).expect("removed");
        assert!(looking.standing().is_err());
    }
}
