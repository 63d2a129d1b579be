//! The reading side: prepared statements on a connection that cannot write.

use std::{ops::ControlFlow, path::Path, sync::Arc};

use event_store::{
    Event, EventRef, Hash, Head, IdempotencyRecord, LogReader, OwedEffect, Parked, RecordKey, Selection, SetAside, Shards, Snapshot,
    StoreError, Stray, StreamId, StreamRead, StreamSlice, Timer, Unfinished, Unparked, Unparking,
};
use rusqlite::{Connection, OptionalExtension, Result, Row, types::Type};
use uuid::{Uuid, fmt::Hyphenated};

use crate::{connection, errors, id_text, selection};

const EVENT: &str =
    "shard, position, aggregate_type, aggregate_id, sequence, event_id, event_type, event_version, recorded_at, payload, metadata";

/// Reads one log, on a connection of its own.
pub(crate) struct SqliteReader {
    connection: Connection,
    path: Arc<Path>,
    events: String,
    stream: String,
}

impl SqliteReader {
    pub(crate) fn open(path: &Arc<Path>) -> Result<Self, StoreError> {
        Ok(Self::on(connection::reading(path)?, path))
    }

    pub(crate) fn on(connection: Connection, path: &Arc<Path>) -> Self {
        Self {
            connection,
            path: Arc::clone(path),
            events: format!("SELECT {EVENT} FROM events WHERE shard = ?1 AND position > ?2 ORDER BY position LIMIT ?3"),
            stream: format!(
                "SELECT {EVENT} FROM events WHERE aggregate_type = ?1 AND aggregate_id = ?2 AND sequence > ?3 ORDER BY sequence LIMIT ?4"
            ),
        }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn answer<T>(&self, read: impl FnOnce(&Self) -> Result<T>) -> Result<T, StoreError> {
        read(self).map_err(|error| errors::reading(&self.path, error))
    }

    /// Reads several things as they stood at one moment.
    fn snapshot<T>(&self, read: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.connection.prepare_cached("BEGIN")?.execute([])?;
        let answer = read(self);
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        answer
    }

    fn record(&self, key: &RecordKey) -> Result<Option<IdempotencyRecord>> {
        self.connection
            .prepare_cached("SELECT fingerprint, position, recorded_at, answer FROM idempotency WHERE key = ?1")?
            .query_row([key.0.as_slice()], |row| {
                Ok(IdempotencyRecord {
                    key: *key,
                    fingerprint: row.get(0)?,
                    position: row.get(1)?,
                    recorded_at: row.get(2)?,
                    answer: row.get_ref(3)?.as_blob()?.into(),
                })
            })
            .optional()
    }

    fn slice(&self, question: &StreamRead) -> Result<StreamSlice> {
        let snapshot = self.newest_snapshot(question)?;
        let after = snapshot.as_ref().map_or(0, |snapshot| snapshot.sequence);
        Ok(StreamSlice {
            snapshot,
            events: self.stream_after(&question.stream, after, -1)?,
        })
    }

    fn newest_snapshot(&self, question: &StreamRead) -> Result<Option<Snapshot>> {
        let mut id = [0; Hyphenated::LENGTH];
        self.connection
            .prepare_cached("SELECT sequence, state FROM snapshots WHERE aggregate_type = ?1 AND aggregate_id = ?2 AND shape = ?3")?
            .query_row(
                (
                    &*question.stream.kind,
                    id_text(question.stream.id, &mut id),
                    question.shape.as_slice(),
                ),
                |row| {
                    Ok(Snapshot {
                        stream: question.stream.clone(),
                        sequence: row.get(0)?,
                        shape: question.shape,
                        state: row.get_ref(1)?.as_blob()?.into(),
                    })
                },
            )
            .optional()
    }

    fn stream_after(&self, stream: &StreamId, after: u64, limit: i64) -> Result<Vec<Event>> {
        let mut id = [0; Hyphenated::LENGTH];
        self.connection
            .prepare_cached(&self.stream)?
            .query_map((&*stream.kind, id_text(stream.id, &mut id), bound(after), limit), event)?
            .collect()
    }
}

impl SqliteReader {
    /// Shard after shard, each found by one look into the key: the table is not read through.
    fn strays_of(&self, table: &'static str, column: &str, limit: usize) -> Result<Vec<Stray>> {
        let sql = format!(
            "WITH RECURSIVE shards (shard) AS (
                 SELECT min(shard) FROM {table}
                 UNION ALL
                 SELECT (SELECT min(shard) FROM {table} WHERE shard > shards.shard) FROM shards WHERE shards.shard IS NOT NULL
             ), bounds (shard, below) AS (
                 SELECT shard, iif(shard IN (SELECT shard FROM log_head) AND shard BETWEEN 0 AND 65535, 1, 9223372036854775807) FROM shards
             )
             SELECT t.shard, t.{column} FROM bounds CROSS JOIN {table} AS t ON t.shard = bounds.shard AND t.{column} < bounds.below LIMIT ?1"
        );
        self.connection
            .prepare(&sql)?
            .query_map([most(limit)], |row| {
                Ok(Stray {
                    table,
                    shard: row.get(0)?,
                    position: row.get(1)?,
                })
            })?
            .collect()
    }
}

impl LogReader for SqliteReader {
    fn head(&self, shard: u16) -> Result<Option<Head>, StoreError> {
        self.answer(|reader| head(&reader.connection, shard))
    }

    fn read(
        &self,
        records: &[RecordKey],
        streams: &[StreamRead],
    ) -> Result<(Vec<Option<IdempotencyRecord>>, Vec<StreamSlice>), StoreError> {
        self.answer(|reader| {
            reader.snapshot(|reader| {
                let records = records.iter().map(|key| reader.record(key)).collect::<Result<_>>()?;
                let streams = streams.iter().map(|question| reader.slice(question)).collect::<Result<_>>()?;
                Ok((records, streams))
            })
        })
    }

    fn events(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.answer(|reader| {
            reader
                .connection
                .prepare_cached(&reader.events)?
                .query_map((shard, bound(after), most(limit)), event)?
                .collect()
        })
    }

    fn stream(&self, stream: &StreamId, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.answer(|reader| reader.stream_after(stream, after, most(limit)))
    }

    fn select_each(&self, selection: &Selection, visit: &mut dyn FnMut(EventRef<'_>) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.answer(|reader| selection::each(&reader.connection, EVENT, selection, visit))
    }

    fn batches(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<(u64, Hash, Hash, u64)>, StoreError> {
        self.answer(|reader| {
            reader
                .connection
                .prepare_cached(
                    "SELECT last_position, previous_hash, hash, epoch FROM batches WHERE shard = ?1 AND last_position > ?2
                     ORDER BY last_position LIMIT ?3",
                )?
                .query_map((shard, bound(after), most(limit)), |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })?
                .collect()
        })
    }

    fn unfinished(&self, shard: u16) -> Result<Unfinished, StoreError> {
        self.answer(|reader| {
            reader.snapshot(|reader| {
                let effects = reader
                    .connection
                    .prepare_cached("SELECT id, effect FROM effects WHERE shard = ?1 ORDER BY id")?
                    .query_map([shard], |row| {
                        Ok(OwedEffect {
                            id: bytes_id(row, 0)?,
                            effect: text(row, 1)?,
                        })
                    })?
                    .collect::<Result<_>>()?;
                let timers = reader
                    .connection
                    .prepare_cached("SELECT id, due, command FROM timers WHERE shard = ?1 ORDER BY id")?
                    .query_map([shard], |row| {
                        Ok(Timer {
                            id: bytes_id(row, 0)?,
                            due: row.get(1)?,
                            command: text(row, 2)?,
                        })
                    })?
                    .collect::<Result<_>>()?;
                Ok(Unfinished { effects, timers })
            })
        })
    }

    fn parked(&self, shard: u16, limit: usize) -> Result<Vec<Parked>, StoreError> {
        self.answer(|reader| {
            reader
                .connection
                .prepare_cached("SELECT id, at, input, reason FROM parked WHERE shard = ?1 AND ended_at IS NULL ORDER BY at, id LIMIT ?2")?
                .query_map((shard, most(limit)), parked)?
                .collect()
        })
    }

    fn parked_input(&self, shard: u16, id: Uuid) -> Result<Option<Parked>, StoreError> {
        self.answer(|reader| {
            reader
                .connection
                .prepare_cached("SELECT id, at, input, reason FROM parked WHERE shard = ?1 AND id = ?2 AND ended_at IS NULL")?
                .query_row((shard, id.as_bytes().as_slice()), parked)
                .optional()
        })
    }

    fn unparked(&self, shard: u16, id: Uuid) -> Result<Option<Unparked>, StoreError> {
        self.answer(|reader| {
            reader
                .connection
                .prepare_cached(
                    "SELECT id, ended_at, ended_by, ended_how FROM parked WHERE shard = ?1 AND id = ?2 AND ended_at IS NOT NULL",
                )?
                .query_row((shard, id.as_bytes().as_slice()), |row| unparked(row, 0))
                .optional()
        })
    }

    fn set_aside(&self, shard: u16, after: Option<Uuid>, limit: usize) -> Result<Option<Vec<SetAside>>, StoreError> {
        // Every id is longer than nothing.
        let after = after.map_or(Vec::new(), |id| id.as_bytes().to_vec());
        self.answer(|reader| {
            reader
                .connection
                .prepare_cached(
                    "SELECT id, at, input, reason, id, ended_at, ended_by, ended_how FROM parked WHERE shard = ?1 AND id > ?2
                     ORDER BY id LIMIT ?3",
                )?
                .query_map((shard, after, most(limit)), |row| {
                    let has_ended = row.get::<_, Option<i64>>(5)?.is_some();
                    Ok(SetAside {
                        input: parked(row)?,
                        end: has_ended.then(|| unparked(row, 4)).transpose()?,
                    })
                })?
                .collect::<Result<_>>()
                .map(Some)
        })
    }

    fn shard_count(&self) -> Result<Option<Shards>, StoreError> {
        self.answer(|reader| shard_count(&reader.connection))
    }

    fn shards(&self) -> Result<Vec<u16>, StoreError> {
        self.answer(|reader| {
            reader
                .connection
                .prepare_cached("SELECT shard FROM log_head ORDER BY shard")?
                .query_map([], |row| row.get(0))?
                .collect()
        })
    }

    fn records(&self, after: Option<RecordKey>, limit: usize) -> Result<Option<Vec<IdempotencyRecord>>, StoreError> {
        // Every key is longer than nothing.
        let after = after.map_or(Vec::new(), |key| key.0.to_vec());
        self.answer(|reader| {
            reader
                .connection
                .prepare_cached(
                    "SELECT key, fingerprint, position, recorded_at, answer FROM idempotency WHERE key > ?1 ORDER BY key LIMIT ?2",
                )?
                .query_map((after, most(limit)), |row| {
                    Ok(IdempotencyRecord {
                        key: RecordKey(row.get(0)?),
                        fingerprint: row.get(1)?,
                        position: row.get(2)?,
                        recorded_at: row.get(3)?,
                        answer: row.get_ref(4)?.as_blob()?.into(),
                    })
                })?
                .collect::<Result<_>>()
                .map(Some)
        })
    }

    fn snapshots(&self, after: Option<&Snapshot>, limit: usize) -> Result<Option<Vec<Snapshot>>, StoreError> {
        let (kind, id, shape) = after.map_or((String::new(), String::new(), Vec::new()), |snapshot| {
            (
                snapshot.stream.kind.to_string(),
                snapshot.stream.id.to_string(),
                snapshot.shape.to_vec(),
            )
        });
        self.answer(|reader| {
            reader
                .connection
                .prepare_cached(
                    "SELECT aggregate_type, aggregate_id, shape, sequence, state FROM snapshots
                     WHERE (aggregate_type, aggregate_id, shape) > (?1, ?2, ?3) ORDER BY aggregate_type, aggregate_id, shape LIMIT ?4",
                )?
                .query_map((kind, id, shape, most(limit)), |row| {
                    Ok(Snapshot {
                        stream: StreamId {
                            kind: row.get::<_, String>(0)?.into(),
                            id: text_id(row, 1)?,
                        },
                        shape: row.get(2)?,
                        sequence: row.get(3)?,
                        state: row.get_ref(4)?.as_blob()?.into(),
                    })
                })?
                .collect::<Result<_>>()
                .map(Some)
        })
    }

    fn strays(&self, limit: usize) -> Result<Vec<Stray>, StoreError> {
        self.answer(|reader| {
            reader.snapshot(|reader| {
                let mut strays = Vec::new();
                for (table, column) in [("events", "position"), ("batches", "last_position")] {
                    strays.extend(reader.strays_of(table, column, limit)?);
                }
                strays.truncate(limit);
                Ok(strays)
            })
        })
    }
}

/// How many shards the log has, if that is fixed.
pub(crate) fn shard_count(connection: &Connection) -> Result<Option<Shards>> {
    let count: Option<u16> = connection
        .prepare_cached("SELECT shards FROM log")?
        .query_row([], |row| row.get(0))?;
    count
        .map(|count| {
            let what = || format!("a log has 1 to {} shards, not {count}", Shards::MOST);
            Shards::new(count).ok_or_else(|| rusqlite::Error::FromSqlConversionFailure(0, Type::Integer, what().into()))
        })
        .transpose()
}

/// The head of a shard, as the connection sees it (within its transaction, if there is one).
pub(crate) fn head(connection: &Connection, shard: u16) -> Result<Option<Head>> {
    connection
        .prepare_cached(
            "SELECT position, epoch, hash, recorded_at, orders_numbered, (SELECT log_id FROM log) FROM log_head WHERE shard = ?1",
        )?
        .query_row([shard], |row| {
            Ok(Head {
                shard,
                position: row.get(0)?,
                epoch: row.get(1)?,
                hash: row.get(2)?,
                recorded_at: row.get(3)?,
                orders_numbered: row.get(4)?,
                log_id: text_id(row, 5)?,
            })
        })
        .optional()
}

fn event(row: &Row<'_>) -> Result<Event> {
    Ok(Event {
        shard: row.get(0)?,
        position: row.get(1)?,
        stream: StreamId {
            kind: row.get::<_, String>(2)?.into(),
            id: text_id(row, 3)?,
        },
        sequence: row.get(4)?,
        event_id: text_id(row, 5)?,
        event_type: row.get::<_, String>(6)?.into(),
        event_version: row.get::<_, String>(7)?.into(),
        recorded_at: row.get(8)?,
        payload: text(row, 9)?,
        metadata: text(row, 10)?,
    })
}

fn text(row: &Row<'_>, column: usize) -> Result<Box<str>> {
    Ok(row.get_ref(column)?.as_str()?.into())
}

fn text_id(row: &Row<'_>, column: usize) -> Result<Uuid> {
    let text = row.get_ref(column)?.as_str()?;
    let id = Uuid::try_parse(text).map_err(|error| not_an_id(column, Type::Text, error))?;
    // An id has one spelling: the hashes are over the id, so another spelling would be a change that they do not show.
    if id_text(id, &mut [0; Hyphenated::LENGTH]) != text {
        return Err(rusqlite::Error::FromSqlConversionFailure(
            column,
            Type::Text,
            format!("{text} is not how an id is written").into(),
        ));
    }
    Ok(id)
}

fn bytes_id(row: &Row<'_>, column: usize) -> Result<Uuid> {
    Uuid::from_slice(row.get_ref(column)?.as_blob()?).map_err(|error| not_an_id(column, Type::Blob, error))
}

fn not_an_id(column: usize, kind: Type, error: uuid::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
}

/// SQLite counts in i64; nothing is behind its last number.
pub(crate) fn bound(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn parked(row: &Row<'_>) -> Result<Parked> {
    Ok(Parked {
        id: bytes_id(row, 0)?,
        at: row.get(1)?,
        input: text(row, 2)?,
        reason: row.get(3)?,
    })
}

fn unparked(row: &Row<'_>, first: usize) -> Result<Unparked> {
    let how = row.get_ref(first + 3)?.as_str()?;
    Ok(Unparked {
        id: bytes_id(row, first)?,
        at: row.get(first + 1)?,
        by: text(row, first + 2)?,
        how: Unparking::named(how).ok_or_else(|| {
            rusqlite::Error::FromSqlConversionFailure(first + 3, Type::Text, format!("{how:?} is no end of an input").into())
        })?,
    })
}
