//! Copies of a log, from one that is in use and back into a new place.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use event_store::{DirectoryLock, KEPT, StoreError};
use rusqlite::{
    Connection,
    backup::{Backup, StepResult},
};
use sqlite_file::beside;

use crate::{SqliteStore, connection, errors, log_of, open};

/// How often a copy is tried when the log is busy, and the pause between: a checkpoint is over in less.
const ATTEMPTS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) fn backup(data_dir: &Path, to: &Path) -> Result<(), StoreError> {
    let source = SqliteStore::open_read_only(data_dir)?;
    let unusable =
        |error: std::io::Error| StoreError::Foreign(format!("{} cannot be written: {error}; name another directory", to.display()));
    std::fs::create_dir_all(to).map_err(unusable)?;
    if std::fs::read_dir(to).map_err(unusable)?.next().is_some() {
        return Err(StoreError::Foreign(format!(
            "{} is not empty; name a new or an empty directory for the backup",
            to.display()
        )));
    }
    // One file that needs no other beside it and can be read from a disk that cannot be written.
    copy(source.path(), &log_of(to), "", "delete")?;
    // What cannot be opened is no backup.
    SqliteStore::open_read_only(to).map(drop)
}

pub(crate) fn restore(from: &Path, data_dir: &Path) -> Result<(), StoreError> {
    let source = SqliteStore::open_read_only(from)?;
    source.integrity()?;
    let _lock = DirectoryLock::take(data_dir)?;
    let target = log_of(data_dir);
    if open::exists(&target)? {
        return Err(StoreError::Foreign(format!(
            "{} exists; restore into a data directory without a log",
            target.display()
        )));
    }
    // Whoever held the shards of the log that was copied does not hold those of the copy. But what was kept from everybody stays so.
    let released = format!("UPDATE log_head SET heartbeat = {} WHERE heartbeat < {KEPT}", i64::MIN);
    copy(source.path(), &target, &released, "wal")?;
    open::for_reading(&Arc::from(target))
}

/// Copies a log at one moment of its life to a new file, which gets its name when all is on the disk.
fn copy(from: &Path, to: &Path, then: &str, mode: &str) -> Result<(), StoreError> {
    let new: PathBuf = beside(to, ".new");
    let copied = copy_pages(from, &new, then, mode).and_then(|()| open::publish(&new, to));
    if copied.is_err() {
        for rest in [new.clone(), beside(&new, "-wal"), beside(&new, "-shm"), beside(&new, "-journal")] {
            // There may be none, and the error to tell is the first.
            let _ = std::fs::remove_file(rest);
        }
    }
    copied
}

fn copy_pages(from: &Path, to: &Path, then: &str, mode: &str) -> Result<(), StoreError> {
    let source = connection::reading(from)?;
    let failed = |error| errors::reading(to, error);
    let mut target = Connection::open(to).map_err(failed)?;
    connection::durable(&target).map_err(failed)?;
    let mut attempts = 0;
    let backup = Backup::new(&source, &mut target).map_err(failed)?;
    // All pages in one step: one read transaction sees one moment, and the writer is not waited for.
    while backup.step(-1).map_err(|error| errors::reading(from, error))? != StepResult::Done {
        attempts += 1;
        if attempts == ATTEMPTS {
            return Err(StoreError::Unavailable(format!("{} stayed busy; try again", from.display()).into()));
        }
        thread::sleep(PAUSE);
    }
    drop(backup);
    target.execute_batch(then).map_err(failed)?;
    target
        .pragma_update_and_check(None, "journal_mode", mode, |_| Ok(()))
        .map_err(failed)?;
    target.close().map_err(|(_, error)| failed(error))
}
