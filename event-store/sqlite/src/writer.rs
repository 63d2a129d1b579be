//! The writing side: one connection, one transaction per commit.

use std::{path::Path, sync::Arc};

use event_store::{Batch, Claim, CommitError, DirectoryLock, GENESIS, Head, LogWriter, Shards, StoreError};
use rusqlite::{Connection, OptionalExtension, Result, params};
use uuid::{Uuid, fmt::Hyphenated};

use crate::{connection, errors, id_text, reader};

/// Appends to one log.
pub(crate) struct SqliteWriter {
    connection: Connection,
    path: Arc<Path>,
    /// The directory stays this process's as long as somebody may write.
    _lock: Arc<DirectoryLock>,
}

impl SqliteWriter {
    pub(crate) fn open(path: &Arc<Path>, lock: &Arc<DirectoryLock>) -> Result<Self, StoreError> {
        Ok(Self {
            connection: connection::writing(path)?,
            path: Arc::clone(path),
            _lock: Arc::clone(lock),
        })
    }

    /// Runs a transaction that is open no more when this returns, whatever happened in it.
    fn transaction<T>(&mut self, work: impl FnOnce(&Connection) -> Result<T, CommitError>) -> Result<T, CommitError> {
        self.statement("BEGIN IMMEDIATE").map_err(errors::writing)?;
        let done = work(&self.connection).and_then(|answer| match self.statement("COMMIT") {
            Ok(()) => Ok(answer),
            Err(error) => Err(errors::committing(error)),
        });
        // Some errors (a full disk among them) end the transaction themselves, others leave it open.
        if done.is_err()
            && !self.connection.is_autocommit()
            && let Err(error) = self.statement("ROLLBACK")
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
        done
    }

    fn claim(&mut self, shard: u16, instance: Uuid, now: i64, claim: Claim) -> Result<Head, StoreError> {
        let gives_way = claim.gives_way(now);
        let taken = self.transaction(|connection| take(connection, shard, instance, now, gives_way).map_err(errors::writing));
        match taken {
            Ok(Ok(head)) => Ok(head),
            Ok(Err(holder)) => Err(StoreError::Held {
                shard,
                holder: format!("instance {holder}"),
            }),
            Err(error) => Err(errors::taking(&self.path, error)),
        }
    }

    fn statement(&self, sql: &str) -> Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(drop)
    }
}

impl LogWriter for SqliteWriter {
    fn found(&mut self, shards: Shards) -> Result<Shards, StoreError> {
        let found = self.transaction(|connection| {
            let fix = || {
                connection
                    .prepare_cached("UPDATE log SET shards = ?1 WHERE shards IS NULL")?
                    .execute([shards.count()])?;
                reader::shard_count(connection)
            };
            fix().map_err(errors::writing)
        });
        let found = found.map_err(|error| errors::taking(&self.path, error))?;
        found.ok_or_else(|| errors::damaged(&self.path, "the log does not say how many shards it has"))
    }

    fn found_as(&mut self, shards: Shards, log_id: Uuid) -> Result<Shards, StoreError> {
        let named = self.transaction(|connection| {
            let name = || {
                let mut text = [0; Hyphenated::LENGTH];
                connection
                    .prepare_cached("UPDATE log SET log_id = ?1 WHERE shards IS NULL AND NOT EXISTS (SELECT 1 FROM log_head)")?
                    .execute([id_text(log_id, &mut text)])?;
                connection.query_row("SELECT log_id FROM log", [], |row| row.get::<_, String>(0))
            };
            name().map_err(errors::writing)
        });
        let named = named.map_err(|error| errors::taking(&self.path, error))?;
        match Uuid::try_parse(&named) {
            Ok(id) if id == log_id => self.found(shards),
            Ok(id) => Err(StoreError::not_a_copy(id, log_id)),
            Err(_) => Err(errors::damaged(&self.path, "the log's id is none")),
        }
    }

    fn take(&mut self, shard: u16, instance: Uuid, now: i64) -> Result<Head, StoreError> {
        self.claim(shard, instance, now, Claim::Vacant)
    }

    fn seize(&mut self, shard: u16, instance: Uuid, now: i64) -> Result<Head, StoreError> {
        self.claim(shard, instance, now, Claim::Assigned)
    }

    fn commit(&mut self, batches: &[&Batch]) -> Result<(), CommitError> {
        for batch in batches {
            batch.check().map_err(CommitError::Refused)?;
        }
        if batches.is_empty() {
            return Ok(());
        }
        self.transaction(|connection| batches.iter().try_for_each(|batch| write(connection, batch)))
    }

    fn heartbeat(&mut self, shard: u16, epoch: u64, now: i64) -> Result<(), CommitError> {
        self.transaction(|connection| {
            let moved = connection
                .prepare_cached("UPDATE log_head SET heartbeat = ?1 WHERE shard = ?2 AND epoch = ?3")
                .and_then(|mut update| update.execute((now, shard, epoch)))
                .map_err(errors::writing)?;
            if moved == 1 { Ok(()) } else { Err(CommitError::Fenced(shard)) }
        })
    }
}

/// The head under its new epoch, or the instance that holds it.
fn take(connection: &Connection, shard: u16, instance: Uuid, now: i64, gives_way: i64) -> Result<Result<Head, String>> {
    let holder: Option<(String, i64)> = connection
        .prepare_cached("SELECT instance, heartbeat FROM log_head WHERE shard = ?1")?
        .query_row([shard], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let mut text = [0; Hyphenated::LENGTH];
    let instance = id_text(instance, &mut text);
    if let Some((holder, heartbeat)) = holder
        && holder != instance
        && heartbeat > gives_way
    {
        return Ok(Err(holder));
    }
    connection
        .prepare_cached(
            "INSERT INTO log_head (shard, position, written, epoch, hash, recorded_at, orders_numbered, instance, heartbeat)
             VALUES (?1, 0, 0, 1, ?2, 0, 0, ?3, ?4)
             ON CONFLICT (shard) DO UPDATE SET epoch = epoch + 1, instance = excluded.instance, heartbeat = excluded.heartbeat",
        )?
        .execute((shard, GENESIS.as_slice(), instance, now))?;
    reader::head(connection, shard)?.map(Ok).ok_or(rusqlite::Error::QueryReturnedNoRows)
}

fn write(connection: &Connection, batch: &Batch) -> Result<(), CommitError> {
    move_head(connection, batch)?;
    write_events(connection, batch).map_err(errors::writing)?;
    write_unfinished(connection, batch).map_err(errors::writing)?;
    end_parked(connection, batch)?;
    write_kept(connection, batch).map_err(errors::writing)
}

/// The fence: a head that another writer moved, or took, is not found.
fn move_head(connection: &Connection, batch: &Batch) -> Result<(), CommitError> {
    let from = batch.first_position - 1;
    let moved = connection
        .prepare_cached(
            "UPDATE log_head SET position = position + ?1, hash = ?2, recorded_at = coalesce(?3, recorded_at), orders_numbered = ?4
             WHERE shard = ?5 AND epoch = ?6 AND position = ?7 AND hash = ?8",
        )
        .and_then(|mut update| {
            update.execute(params![
                batch.events.len(),
                batch.hash.as_slice(),
                batch.events.last().map(|event| event.recorded_at),
                batch.orders_numbered,
                batch.shard,
                batch.epoch,
                from,
                batch.previous_hash.as_slice(),
            ])
        })
        .map_err(errors::writing)?;
    if moved == 1 {
        return Ok(());
    }
    match reader::head(connection, batch.shard).map_err(errors::writing)? {
        Some(head) if (head.epoch, head.position) == (batch.epoch, from) => {
            Err(CommitError::Refused("the batch does not follow the hash of the one before".into()))
        }
        _ => Err(CommitError::Fenced(batch.shard)),
    }
}

fn write_events(connection: &Connection, batch: &Batch) -> Result<()> {
    if batch.events.is_empty() {
        return Ok(());
    }
    let mut insert = connection.prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)")?;
    let (mut stream, mut id) = ([0; Hyphenated::LENGTH], [0; Hyphenated::LENGTH]);
    for event in &batch.events {
        insert.execute(params![
            event.shard,
            event.position,
            &*event.stream.kind,
            id_text(event.stream.id, &mut stream),
            event.sequence,
            id_text(event.event_id, &mut id),
            &*event.event_type,
            &*event.event_version,
            event.recorded_at,
            &*event.payload,
            &*event.metadata,
        ])?;
    }
    connection
        .prepare_cached("UPDATE log_head SET written = position WHERE shard = ?1")?
        .execute([batch.shard])?;
    connection
        .prepare_cached("INSERT INTO batches VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((
            batch.shard,
            batch.last_position(),
            batch.previous_hash.as_slice(),
            batch.hash.as_slice(),
            batch.epoch,
        ))?;
    Ok(())
}

fn write_unfinished(connection: &Connection, batch: &Batch) -> Result<()> {
    let shard = batch.shard;
    let mut owe = connection.prepare_cached("INSERT OR REPLACE INTO effects VALUES (?1, ?2, ?3)")?;
    for owed in &batch.owed {
        owe.execute((shard, owed.id.as_bytes().as_slice(), &*owed.effect))?;
    }
    let mut settle = connection.prepare_cached("DELETE FROM effects WHERE shard = ?1 AND id = ?2")?;
    for settled in &batch.settled {
        settle.execute((shard, settled.as_bytes().as_slice()))?;
    }
    let mut set = connection.prepare_cached("INSERT OR REPLACE INTO timers VALUES (?1, ?2, ?3, ?4)")?;
    for timer in &batch.timers {
        set.execute((shard, timer.id.as_bytes().as_slice(), timer.due, &*timer.command))?;
    }
    let mut unset = connection.prepare_cached("DELETE FROM timers WHERE shard = ?1 AND id = ?2")?;
    for done in &batch.timers_done {
        unset.execute((shard, done.as_bytes().as_slice()))?;
    }
    Ok(())
}

fn end_parked(connection: &Connection, batch: &Batch) -> Result<(), CommitError> {
    for unparked in &batch.unparked {
        let ended = connection
            .prepare_cached(
                "UPDATE parked SET ended_at = ?1, ended_by = ?2, ended_how = ?3 WHERE shard = ?4 AND id = ?5 AND ended_at IS NULL",
            )
            .and_then(|mut update| {
                let id = unparked.id.as_bytes().as_slice();
                update.execute((unparked.at, &*unparked.by, unparked.how.name(), batch.shard, id))
            })
            .map_err(errors::writing)?;
        if ended != 1 {
            return Err(CommitError::Refused(format!("{} is not set aside", unparked.id)));
        }
    }
    Ok(())
}

fn write_kept(connection: &Connection, batch: &Batch) -> Result<()> {
    let mut record = connection
        .prepare_cached("INSERT INTO idempotency (key, fingerprint, position, recorded_at, answer) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for kept in &batch.records {
        record.execute((
            kept.key.0.as_slice(),
            kept.fingerprint.as_slice(),
            kept.position,
            kept.recorded_at,
            &*kept.answer,
        ))?;
    }
    let mut park = connection.prepare_cached("INSERT OR REPLACE INTO parked (shard, id, at, input, reason) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for parked in &batch.parked {
        park.execute((
            batch.shard,
            parked.id.as_bytes().as_slice(),
            parked.at,
            &*parked.input,
            &parked.reason,
        ))?;
    }
    let mut keep = connection.prepare_cached(
        "INSERT INTO snapshots VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (aggregate_type, aggregate_id, shape) DO UPDATE SET sequence = excluded.sequence, state = excluded.state
         WHERE excluded.sequence >= sequence",
    )?;
    let mut id = [0; Hyphenated::LENGTH];
    for snapshot in &batch.snapshots {
        let stream = id_text(snapshot.stream.id, &mut id);
        keep.execute((
            &*snapshot.stream.kind,
            stream,
            snapshot.shape.as_slice(),
            snapshot.sequence,
            &*snapshot.state,
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use event_store::{Event, EventStore, StreamId, batch_hash, verify_chain};

    use super::*;
    use crate::SqliteStore;

    #[test]
    fn a_full_disk_writes_nothing_and_the_same_writer_goes_on_when_there_is_room() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let store = SqliteStore::open(scratch.path()).expect("made");
        let mut writer = SqliteWriter::open(&store.path, store.lock.as_ref().expect("opened for writing")).expect("a writer");
        let head = writer.take(0, Uuid::nil(), 0).expect("free");

        limit_pages(&writer, 60);
        let large = batch(&head, 100);
        for _ in 0..2 {
            let full = writer.commit(&[&large]);
            assert!(matches!(full, Err(CommitError::NotWritten(_))), "{full:?}");
            assert!(writer.connection.is_autocommit(), "no transaction is left open");
        }
        let reader = store.reader().expect("a reader");
        assert_eq!(reader.head(0).expect("read"), Some(head.clone()));
        assert!(reader.events(0, 0, 1).expect("read").is_empty());

        limit_pages(&writer, 1_000_000);
        writer.commit(&[&large]).expect("the same batch is written once there is room");
        assert_eq!(verify_chain(&*reader, 0).expect("sound"), 100);
    }

    #[test]
    fn what_a_failed_commit_means_depends_on_the_failure() {
        use rusqlite::ffi;
        let failure = |code| rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        assert!(matches!(errors::committing(failure(ffi::SQLITE_FULL)), CommitError::NotWritten(_)));
        assert!(matches!(errors::committing(failure(ffi::SQLITE_BUSY)), CommitError::NotWritten(_)));
        assert!(matches!(errors::committing(failure(ffi::SQLITE_IOERR_FSYNC)), CommitError::Disk(_)));
        assert!(matches!(errors::committing(failure(ffi::SQLITE_IOERR_WRITE)), CommitError::Disk(_)));
        assert!(matches!(errors::committing(failure(ffi::SQLITE_NOMEM)), CommitError::Unknown(_)));
        assert!(matches!(errors::writing(failure(ffi::SQLITE_FULL)), CommitError::NotWritten(_)));
        assert!(matches!(errors::writing(failure(ffi::SQLITE_IOERR_FSYNC)), CommitError::Disk(_)));
        assert!(matches!(
            errors::writing(failure(ffi::SQLITE_IOERR_READ)),
            CommitError::NotWritten(_)
        ));
        assert!(matches!(errors::writing(failure(ffi::SQLITE_CORRUPT)), CommitError::Disk(_)));
        assert!(matches!(
            errors::writing(failure(ffi::SQLITE_CONSTRAINT_UNIQUE)),
            CommitError::Refused(_)
        ));
    }

    fn limit_pages(writer: &SqliteWriter, pages: u32) {
        writer
            .connection
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
            .expect("a limit");
    }

    fn batch(head: &Head, events: u64) -> Batch {
        let events: Vec<_> = (1..=events)
            .map(|position| Event {
                shard: 0,
                position,
                stream: StreamId::new("order", Uuid::from_u128(1)),
                sequence: position,
                event_id: Uuid::from_u128(position.into()),
                event_type: "order.placed".into(),
                event_version: "1.0.0".into(),
                recorded_at: 0,
                payload: format!(r#"{{"filling":"{}"}}"#, "x".repeat(5_000)).into(),
                metadata: "{}".into(),
            })
            .collect();
        let hash = batch_hash(&head.hash, &events);
        Batch {
            epoch: head.epoch,
            first_position: 1,
            events,
            previous_hash: head.hash,
            hash,
            ..Batch::default()
        }
    }
}
