//! Making, recognising and checking the file.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read},
    path::Path,
    sync::Arc,
};

use event_store::{GENESIS, Hash, LogReader, StoreError};
use rusqlite::{Connection, OptionalExtension, Result, TransactionBehavior};
use sqlite_file::{Mark, beside};
use uuid::Uuid;

use crate::{
    connection, errors, looking,
    reader::SqliteReader,
    schema::{FORMAT, OURS, PAGE_SIZE, TABLES, UPGRADES},
};

/// Every SQLite file begins with this.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Makes the log when there is none, upgrades an older one, and checks what is cheap to check.
pub(crate) fn for_writing(path: &Arc<Path>) -> Result<(), StoreError> {
    make_ready(path).map_err(|error| errors::unless_disk(path, error))
}

fn make_ready(path: &Arc<Path>) -> Result<(), StoreError> {
    if !exists(path)? {
        create(path, Uuid::new_v4())?;
    }
    check_file(path, true)?;
    // Before it is set up for writing: what belongs to another program stays as it is.
    let format = format_of(&connection::reading(path)?, path)?;
    let mut connection = connection::writing(path)?;
    if format < FORMAT {
        upgrade(&mut connection, format).map_err(|error| errors::reading(path, error))?;
    }
    check_heads(&SqliteReader::on(connection, path), path)
}

/// Makes a log with this id where there is none.
pub(crate) fn create_as(path: &Arc<Path>, log_id: Uuid) -> Result<(), StoreError> {
    if exists(path)? {
        return Err(foreign(path, "is there already"));
    }
    create(path, log_id).map_err(|error| errors::unless_disk(path, error))?;
    for_writing(path)
}

/// The same for one who may not change anything.
pub(crate) fn for_reading(path: &Arc<Path>) -> Result<(), StoreError> {
    for_examining(path)
        .and_then(|connection| check_heads(&SqliteReader::on(connection, path), path))
        .map_err(|error| errors::unless_disk(path, error))
}

/// The same without a look at the heads.
pub(crate) fn for_examining(path: &Arc<Path>) -> Result<Connection, StoreError> {
    known(path, connection::reading)
}

/// The same, leaving no trace.
pub(crate) fn for_looking(path: &Arc<Path>) -> Result<Connection, StoreError> {
    known(path, looking::connect)
}

/// That it is a log of ours and of today's format.
fn known(path: &Path, connect: impl FnOnce(&Path) -> Result<Connection, StoreError>) -> Result<Connection, StoreError> {
    if !exists(path)? {
        return Err(StoreError::Foreign(format!(
            "{} does not exist; name the data directory of a shop",
            path.display()
        )));
    }
    check_file(path, false)?;
    let connection = connect(path)?;
    let format = format_of(&connection, path)?;
    if format < FORMAT {
        return Err(StoreError::Foreign(format!(
            "{} has the older format {format}; `jangbu migrate` upgrades it to {FORMAT}",
            path.display()
        )));
    }
    Ok(connection)
}

/// Whether there is a log. A write-ahead log without its log is the rest of one that was lost.
pub(crate) fn exists(path: &Path) -> Result<bool, StoreError> {
    let is_there = |path: &Path| {
        path.try_exists().map_err(|error| {
            errors::of_disk(path, &error).unwrap_or_else(|| {
                StoreError::Foreign(format!(
                    "{} cannot be looked at: {error}; give this user the right to",
                    path.display()
                ))
            })
        })
    };
    if is_there(path)? {
        return Ok(true);
    }
    if is_there(&beside(path, "-wal"))? {
        return Err(errors::damaged(
            path,
            "the file is missing, but its write-ahead log (log.db-wal) is there",
        ));
    }
    Ok(false)
}

/// Makes an empty log under another name first: a crash leaves no half of one behind.
fn create(path: &Path, log_id: Uuid) -> Result<(), StoreError> {
    let new = beside(path, ".new");
    // A journal that a crash left beside it would be played into the new one.
    for rest in ["", "-journal", "-wal", "-shm"] {
        let rest = beside(&new, rest);
        match std::fs::remove_file(&rest) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(not_usable(&rest, &error)),
            _ => {}
        }
    }
    fill(&new, log_id).map_err(|error| errors::reading(&new, error))?;
    publish(&new, path)
}

/// Gives a finished file its name, durably.
pub(crate) fn publish(new: &Path, path: &Path) -> Result<(), StoreError> {
    let renamed = File::open(new)
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::rename(new, path))
        .and_then(|()| {
            let Some(directory) = path.parent() else { return Ok(()) };
            sync_directory(directory)
        });
    renamed.map_err(|error| {
        errors::of_disk(path, &error).unwrap_or_else(|| StoreError::Unavailable(format!("{}: {error}", path.display()).into()))
    })
}

/// Makes the names in a directory durable, and its own name in the one above.
pub(crate) fn sync_directory(directory: &Path) -> std::io::Result<()> {
    // A path of one part has an empty parent.
    let open = |path: &Path| File::open(if path.as_os_str().is_empty() { Path::new(".") } else { path });
    open(directory)?.sync_all()?;
    directory.parent().map_or(Ok(()), |parent| open(parent)?.sync_all())
}

fn fill(new: &Path, log_id: Uuid) -> Result<()> {
    let mut connection = Connection::open(new)?;
    connection.pragma_update(None, "page_size", PAGE_SIZE)?;
    connection::durable(&connection)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(TABLES)?;
    transaction.execute("INSERT INTO log (one, log_id) VALUES (1, ?1)", [log_id.to_string()])?;
    OURS.set(&transaction)?;
    transaction.commit()?;
    // Before it has its name: a crash while the mode changes leaves a rollback journal, which nobody may play back who only reads.
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)
}

fn upgrade(connection: &mut Connection, format: i64) -> Result<()> {
    let done = usize::try_from(format - 1).unwrap_or(0);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in UPGRADES.iter().skip(done) {
        transaction.execute_batch(step)?;
    }
    OURS.set(&transaction)?;
    transaction.commit()
}

/// What the file's first bytes and its rights say, before SQLite sees it.
fn check_file(path: &Path, write: bool) -> Result<(), StoreError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(write)
        .open(path)
        .map_err(|error| not_usable(path, &error))?;
    let mut header = [0; MAGIC.len()];
    match file.read_exact(&mut header) {
        Ok(()) if header == *MAGIC => Ok(()),
        Ok(()) => Err(foreign(path, "is not a SQLite file")),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(errors::damaged(path, "the file is cut off at its beginning")),
        Err(error) => Err(not_usable(path, &error)),
    }
}

/// The format of a log of ours.
fn format_of(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let mark = Mark::of(connection).map_err(|error| errors::reading(path, error))?;
    if mark.application != OURS.application {
        return Err(foreign(path, "belongs to another program"));
    }
    match mark.format {
        format @ 1..=FORMAT => Ok(format),
        newer if newer > FORMAT => Err(StoreError::Foreign(format!(
            "{} has the newer format {newer}, this version knows {FORMAT}; use the newer version of jangbu",
            path.display()
        ))),
        _ => Err(errors::damaged(path, "the format number is missing")),
    }
}

/// That every table is there, and every head the end of its last batch and of its events. Quick, however long the log is.
fn check_heads(reader: &SqliteReader, path: &Path) -> Result<(), StoreError> {
    // Together, or an append between them looks like damage.
    let connection = reader.connection();
    for table in [
        "log",
        "events",
        "batches",
        "log_head",
        "idempotency",
        "effects",
        "timers",
        "parked",
        "snapshots",
        "checkpoints",
    ] {
        connection
            .prepare(&format!("SELECT 1 FROM {table}"))
            .map_err(|error| errors::reading(path, error))?;
    }
    let transaction = connection.unchecked_transaction().map_err(|error| errors::reading(path, error))?;
    for shard in reader.shards()? {
        let Some(head) = reader.head(shard)? else { continue };
        let (position, hash) = last_batch(connection, shard).map_err(|error| errors::reading(path, error))?;
        if (head.position, head.hash) != (position, hash) {
            let what = format!(
                "the head of shard {shard} is at {}, its last batch ends at {position}",
                head.position
            );
            return Err(errors::damaged(path, what));
        }
        let end = reader.events(shard, head.position.saturating_sub(1), 2)?;
        if end.last().map_or(0, |event| event.position) != head.position || end.len() > 1 {
            return Err(errors::damaged(
                path,
                format!("the events of shard {shard} do not end at {}", head.position),
            ));
        }
    }
    transaction.finish().map_err(|error| errors::reading(path, error))
}

fn last_batch(connection: &Connection, shard: u16) -> Result<(u64, Hash)> {
    let last = connection
        .query_row(
            "SELECT last_position, hash FROM batches WHERE shard = ?1 ORDER BY last_position DESC LIMIT 1",
            [shard],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    Ok(last.unwrap_or((0, GENESIS)))
}

fn not_usable(path: &Path, error: &std::io::Error) -> StoreError {
    errors::of_disk(path, error).unwrap_or_else(|| {
        StoreError::Foreign(format!(
            "{} cannot be used: {error}; give this user the right to read and write it",
            path.display()
        ))
    })
}

fn foreign(path: &Path, what: &str) -> StoreError {
    StoreError::Foreign(format!(
        "{} {what}; name another data directory, or move that file away",
        path.display()
    ))
}
