//! The log on SQLite: one file, `log.db`, that any SQLite tool can read while it is written.
//!
//! One process holds the data directory and appends; as many connections as wanted read, in this process or in others.
//! It never changes or deletes an event, and refuses (by trigger) that anybody else does.

mod backup;
mod checkpoints;
mod connection;
mod errors;
mod looking;
mod open;
mod reader;
mod schema;
mod selection;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use event_store::{Checkpoints, DirectoryLock, EventStore, KEPT, LogReader, LogWriter, StoreError, verify_chain};
use rusqlite::OptionalExtension as _;
use uuid::Uuid;

pub use sqlite_file::Standing;

use crate::{checkpoints::SqliteCheckpoints, reader::SqliteReader, writer::SqliteWriter};

/// The log of a data directory.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    path: Arc<Path>,
    /// None for a store that is opened for reading only.
    lock: Option<Arc<DirectoryLock>>,
    /// Whether its readers leave nothing beside the log.
    looks: bool,
}

impl SqliteStore {
    /// Opens the log of a data directory for appending, and holds the directory until the store and its writers are dropped.
    ///
    /// Makes the directory and the log when there are none, and brings a log of an older format to today's.
    ///
    /// # Errors
    /// [`StoreError::Held`] when another process has the directory, [`StoreError::Foreign`] or [`StoreError::Corrupt`] with one
    /// line that names the file and the remedy when this is not a log that can be used.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        connection::check_library()?;
        let lock = DirectoryLock::take(data_dir)?;
        let path: Arc<Path> = log_of(data_dir).into();
        open::for_writing(&path)?;
        Ok(Self {
            path,
            lock: Some(Arc::new(lock)),
            looks: false,
        })
    }

    /// Makes the log of a data directory under this id, and opens it as [`open`](Self::open) does. Two logs must not have one id, so this is
    /// for logs that are made again, byte by byte; every other log draws its id.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`StoreError::Foreign`] when the directory has a log already.
    pub fn create(data_dir: &Path, log_id: Uuid) -> Result<Self, StoreError> {
        connection::check_library()?;
        let lock = DirectoryLock::take(data_dir)?;
        let path: Arc<Path> = log_of(data_dir).into();
        open::create_as(&path, log_id)?;
        Ok(Self {
            path,
            lock: Some(Arc::new(lock)),
            looks: false,
        })
    }

    /// Opens the log of a data directory for reading, also while another process appends to it. Nothing is written.
    ///
    /// # Errors
    /// As [`open`](Self::open); a log that does not exist, or has another format, is refused.
    pub fn open_read_only(data_dir: &Path) -> Result<Self, StoreError> {
        connection::check_library()?;
        let path: Arc<Path> = log_of(data_dir).into();
        open::for_reading(&path)?;
        Ok(Self {
            path,
            lock: None,
            looks: false,
        })
    }

    /// The same for one who looks for damage: whether the heads are where the log ends is not asked first.
    ///
    /// # Errors
    /// As [`open_read_only`](Self::open_read_only), but for that.
    pub fn open_to_examine(data_dir: &Path) -> Result<Self, StoreError> {
        connection::check_library()?;
        let path: Arc<Path> = log_of(data_dir).into();
        open::for_examining(&path)?;
        Ok(Self {
            path,
            lock: None,
            looks: false,
        })
    }

    /// The same for one who leaves no trace: where no shop serves, not even the files are made that SQLite keeps beside a log, so a copy may
    /// lie in a directory that cannot be written. A reader sees the log as it stood when it was opened, until [`standing`](Self::standing)
    /// says otherwise; then it has to be opened anew.
    ///
    /// # Errors
    /// As [`open_to_examine`](Self::open_to_examine).
    pub fn open_to_look(data_dir: &Path) -> Result<Self, StoreError> {
        connection::check_library()?;
        let path: Arc<Path> = log_of(data_dir).into();
        open::for_looking(&path)?;
        Ok(Self {
            path,
            lock: None,
            looks: true,
        })
    }

    /// What there is on the disk in this data directory, as far as it matters to one who looks.
    ///
    /// # Errors
    /// There is no log, or it cannot be looked at.
    pub fn standing_in(data_dir: &Path) -> Result<Standing, StoreError> {
        looking::standing(&log_of(data_dir))
    }

    /// What there is on the disk, as far as it matters to one who looks.
    ///
    /// # Errors
    /// The file is not there any more, or cannot be looked at.
    pub fn standing(&self) -> Result<Standing, StoreError> {
        looking::standing(&self.path)
    }

    /// Whether SQLite finds its own file sound: every page, every row, every index.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] with what is wrong first.
    pub fn check_file(&self) -> Result<(), StoreError> {
        let reader = self.sqlite_reader()?;
        let verdict: String = reader
            .connection()
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
            .map_err(|error| errors::reading(&self.path, error))?;
        if verdict == "ok" {
            Ok(())
        } else {
            Err(errors::damaged(&self.path, verdict))
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The first shard that is [kept](KEPT) from everybody, and who keeps it, as [`StoreError::Held`] says it.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn keeper(&self) -> Result<Option<(u16, String)>, StoreError> {
        let reader = self.sqlite_reader()?;
        let kept = "SELECT shard, instance FROM log_head WHERE heartbeat >= ?1 ORDER BY shard LIMIT 1";
        let keeper = reader.connection().query_row(kept, [KEPT], |row| {
            Ok((row.get(0)?, format!("instance {}", row.get::<_, String>(1)?)))
        });
        keeper.optional().map_err(|error| errors::reading(&self.path, error))
    }

    /// Reads the whole log: that the file is sound, and every batch is what was written. Returns the number of events.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names what is wrong first.
    pub fn integrity(&self) -> Result<u64, StoreError> {
        self.check_file()?;
        let reader = SqliteReader::open(&self.path)?;
        let mut events = 0;
        for shard in reader.shards()? {
            events += verify_chain(&reader, shard)?;
        }
        Ok(events)
    }

    fn lock_for_writing(&self) -> Result<&Arc<DirectoryLock>, StoreError> {
        let refused = || StoreError::Foreign(format!("{} was opened for reading only", self.path.display()));
        self.lock.as_ref().ok_or_else(refused)
    }

    fn sqlite_reader(&self) -> Result<SqliteReader, StoreError> {
        if self.looks {
            Ok(SqliteReader::on(looking::connect(&self.path)?, &self.path))
        } else {
            SqliteReader::open(&self.path)
        }
    }

    /// Copies the log as it stands at one moment into a new or an empty directory, durably, also while another process
    /// appends. Only the log: the keys are kept apart from it, and copied apart.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] when the target is not empty or cannot be written.
    pub fn backup(data_dir: &Path, to: &Path) -> Result<(), StoreError> {
        backup::backup(data_dir, to)
    }

    /// Puts a backup of a log into a data directory that has none, after it was checked throughout.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] when the data directory has a log already, [`StoreError::Corrupt`] when the backup is damaged.
    pub fn restore(from: &Path, data_dir: &Path) -> Result<(), StoreError> {
        backup::restore(from, data_dir)
    }
}

impl EventStore for SqliteStore {
    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError> {
        Ok(Box::new(SqliteWriter::open(&self.path, self.lock_for_writing()?)?))
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        Ok(Box::new(self.sqlite_reader()?))
    }

    fn checkpoints(&self) -> Result<Box<dyn Checkpoints>, StoreError> {
        Ok(Box::new(SqliteCheckpoints::open(&self.path, self.lock_for_writing()?)?))
    }
}

fn log_of(directory: &Path) -> PathBuf {
    directory.join("log.db")
}

/// Ids are text in the log, for those who read it with SQL.
fn id_text(id: Uuid, buffer: &mut [u8; uuid::fmt::Hyphenated::LENGTH]) -> &str {
    id.hyphenated().encode_lower(buffer)
}
