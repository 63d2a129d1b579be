//! The reading side: a session that only asks.

use std::{cell::RefCell, ops::ControlFlow, sync::Arc};

use event_store::{
    Event, EventRef, Hash, Head, IdempotencyRecord, LogReader, OwedEffect, Parked, RecordKey, Selection, SetAside, Shards, Snapshot,
    StoreError, Stray, StreamId, StreamRead, StreamSlice, Timer, Unfinished, Unparked, Unparking,
};
use postgres_session::{Address, Error, FromSql, Row, Session, Trouble, Type};
use uuid::Uuid;

use crate::{PATIENCE, errors, selection};

/// The columns of an event.
pub(crate) const EVENT: &str =
    "shard, position, aggregate_type, aggregate_id, sequence, event_id, event_type, event_version, recorded_at, payload, metadata";

/// Everything that is asked here is found by an index, whatever the planner knows or does not know of the tables.
const SET_UP: &str = "SET default_transaction_read_only = on; SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan";

/// Reads one log, on a session of its own.
pub(crate) struct PostgresReader {
    address: Arc<Address>,
    session: RefCell<Option<Session>>,
}

/// Why nothing was read.
pub(crate) enum Unread {
    /// The server.
    Failed(Error),
    /// What stands there is not what a log has there.
    Damaged(String),
}

impl From<Error> for Unread {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

pub(crate) type Read<T> = Result<T, Unread>;

impl PostgresReader {
    pub(crate) fn open(address: &Arc<Address>) -> Result<Self, StoreError> {
        let reader = Self {
            address: Arc::clone(address),
            session: RefCell::new(None),
        };
        reader.answer(|_| Ok(()))?;
        Ok(reader)
    }

    /// Asks once more on a new session when the one that was there is lost: nothing is changed by asking twice.
    pub(crate) fn answer<T>(&self, read: impl Fn(&Session) -> Read<T>) -> Result<T, StoreError> {
        let mut session = self.session.borrow_mut();
        let kept = session.take().filter(|session| !session.is_closed());
        let again = kept.is_some();
        let mut answer = self.on(&mut session, kept, &read);
        if again
            && let Err(Unread::Failed(error)) = &answer
            && error.trouble() == Trouble::Lost
        {
            answer = self.on(&mut session, None, &read);
        }
        self.judged(answer)
    }

    /// The same reader on a thread of its own, with the session that is at hand. It is to be brought back.
    pub(crate) fn lent(&self) -> Self {
        Self {
            address: Arc::clone(&self.address),
            session: RefCell::new(self.session.borrow_mut().take()),
        }
    }

    /// The session is at hand again.
    pub(crate) fn take_back(&self, lent: Self) {
        if let Some(session) = lent.session.into_inner() {
            *self.session.borrow_mut() = Some(session);
        }
    }

    /// What was read, or what it means that it was not.
    pub(crate) fn judged<T>(&self, read: Read<T>) -> Result<T, StoreError> {
        read.map_err(|error| match error {
            Unread::Failed(error) => errors::reading(&self.address, error),
            Unread::Damaged(what) => errors::damaged(&self.address, what),
        })
    }

    fn on<T>(&self, place: &mut Option<Session>, session: Option<Session>, read: impl Fn(&Session) -> Read<T>) -> Read<T> {
        let session = match session {
            Some(session) => session,
            None => Session::open(&self.address, SET_UP, PATIENCE)?,
        };
        let answer = read(&session);
        let usable = match &answer {
            Err(Unread::Failed(error)) => error.trouble() == Trouble::Refused,
            Ok(_) | Err(Unread::Damaged(_)) => true,
        };
        if usable {
            *place = Some(session);
        }
        answer
    }
}

impl LogReader for PostgresReader {
    fn head(&self, shard: u16) -> Result<Option<Head>, StoreError> {
        self.answer(|session| Ok(head(session, shard)?))
    }

    fn read(
        &self,
        records: &[RecordKey],
        streams: &[StreamRead],
    ) -> Result<(Vec<Option<IdempotencyRecord>>, Vec<StreamSlice>), StoreError> {
        self.answer(|session| read(session, records, streams))
    }

    fn events(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.answer(|session| events(session, shard, bound(after), most(limit)))
    }

    fn stream(&self, stream: &StreamId, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.answer(|session| {
            let sql = format!(
                "SELECT {EVENT} FROM events WHERE aggregate_id = $1 AND aggregate_type = $2 AND sequence > $3 ORDER BY sequence LIMIT $4"
            );
            let values: (String, &str, i64, i64) = (stream.id.to_string(), &stream.kind, bound(after), most(limit));
            let rows = session.query(&sql, &[&values.0, &values.1, &values.2, &values.3])?;
            rows.iter().map(|row| event(row, 0)).collect()
        })
    }

    fn select_each(&self, selection: &Selection, visit: &mut dyn FnMut(EventRef<'_>) -> ControlFlow<()>) -> Result<(), StoreError> {
        selection::each(self, selection, visit)
    }

    fn batches(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<(u64, Hash, Hash, u64)>, StoreError> {
        self.answer(|session| {
            let rows = session.query(
                "SELECT last_position, previous_hash, hash, epoch FROM batches WHERE shard = $1 AND last_position > $2
                 ORDER BY last_position LIMIT $3",
                &[&i32::from(shard), &bound(after), &most(limit)],
            )?;
            rows.iter()
                .map(|row| Ok((number(row, 0)?, bytes(row, 1)?, bytes(row, 2)?, number(row, 3)?)))
                .collect()
        })
    }

    fn unfinished(&self, shard: u16) -> Result<Unfinished, StoreError> {
        self.answer(|session| {
            let mut pipeline = session.pipeline();
            pipeline.script(ONE_MOMENT);
            pipeline.query(
                "SELECT id, effect FROM effects WHERE shard = $1 ORDER BY id",
                vec![Box::new(i32::from(shard))],
            )?;
            pipeline.query(
                "SELECT id, due, command FROM timers WHERE shard = $1 ORDER BY id",
                vec![Box::new(i32::from(shard))],
            )?;
            pipeline.script("COMMIT");
            let mut answers = pipeline.run()?.into_iter().skip(1);
            let (effects, timers) = (answers.next().unwrap_or_default(), answers.next().unwrap_or_default());
            Ok(Unfinished {
                effects: effects
                    .iter()
                    .map(|row| {
                        Ok(OwedEffect {
                            id: get(row, 0)?,
                            effect: text(row, 1)?.into(),
                        })
                    })
                    .collect::<Read<_>>()?,
                timers: timers
                    .iter()
                    .map(|row| {
                        Ok(Timer {
                            id: get(row, 0)?,
                            due: get(row, 1)?,
                            command: text(row, 2)?.into(),
                        })
                    })
                    .collect::<Read<_>>()?,
            })
        })
    }

    fn parked(&self, shard: u16, limit: usize) -> Result<Vec<Parked>, StoreError> {
        self.answer(|session| {
            let rows = session.query(
                "SELECT id, at, input, reason FROM parked WHERE shard = $1 AND ended_at IS NULL ORDER BY at, id LIMIT $2",
                &[&i32::from(shard), &most(limit)],
            )?;
            rows.iter().map(parked).collect()
        })
    }

    fn parked_input(&self, shard: u16, id: Uuid) -> Result<Option<Parked>, StoreError> {
        self.answer(|session| {
            let row = session.query_opt(
                "SELECT id, at, input, reason FROM parked WHERE shard = $1 AND id = $2 AND ended_at IS NULL",
                &[&i32::from(shard), &id],
            )?;
            row.as_ref().map(parked).transpose()
        })
    }

    fn unparked(&self, shard: u16, id: Uuid) -> Result<Option<Unparked>, StoreError> {
        self.answer(|session| {
            let row = session.query_opt(
                "SELECT id, ended_at, ended_by, ended_how FROM parked WHERE shard = $1 AND id = $2 AND ended_at IS NOT NULL",
                &[&i32::from(shard), &id],
            )?;
            row.as_ref().map(|row| unparked(row, 0)).transpose()
        })
    }

    fn set_aside(&self, shard: u16, after: Option<Uuid>, limit: usize) -> Result<Option<Vec<SetAside>>, StoreError> {
        let Some(first) = after.map_or(Some(0), |after| after.as_u128().checked_add(1)) else {
            return Ok(Some(Vec::new()));
        };
        self.answer(|session| {
            let rows = session.query(
                "SELECT id, at, input, reason, id, ended_at, ended_by, ended_how FROM parked
                 WHERE shard = $1 AND id >= $2 ORDER BY id LIMIT $3",
                &[&i32::from(shard), &Uuid::from_u128(first), &most(limit)],
            )?;
            let set_aside = |row: &Row| {
                let has_ended = get::<Option<i64>>(row, 5)?.is_some();
                Ok(SetAside {
                    input: parked(row)?,
                    end: has_ended.then(|| unparked(row, 4)).transpose()?,
                })
            };
            rows.iter().map(set_aside).collect::<Read<_>>().map(Some)
        })
    }

    fn shard_count(&self) -> Result<Option<Shards>, StoreError> {
        self.answer(|session| Ok(shard_count(session)?))
    }

    fn shards(&self) -> Result<Vec<u16>, StoreError> {
        self.answer(|session| {
            let rows = session.query("SELECT shard FROM log_head ORDER BY shard", &[])?;
            rows.iter().map(|row| shard_of(row, 0)).collect()
        })
    }

    fn heads(&self) -> Result<Vec<Head>, StoreError> {
        self.answer(|session| {
            let rows = session.query(&format!("SELECT {HEAD} FROM log_head ORDER BY shard"), &[])?;
            rows.iter().map(head_of).collect()
        })
    }

    fn records(&self, after: Option<RecordKey>, limit: usize) -> Result<Option<Vec<IdempotencyRecord>>, StoreError> {
        // Every key is longer than nothing.
        let after = after.map_or(Vec::new(), |key| key.0.to_vec());
        self.answer(|session| {
            let rows = session.query(
                "SELECT key, fingerprint, position, recorded_at, answer FROM idempotency WHERE key > $1 ORDER BY key LIMIT $2",
                &[&after, &most(limit)],
            )?;
            rows.iter().map(record).collect::<Read<_>>().map(Some)
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
        self.answer(|session| {
            let rows = session.query(
                "SELECT aggregate_type, aggregate_id, shape, sequence, state FROM snapshots
                 WHERE (aggregate_type, aggregate_id, shape) > ($1, $2, $3) ORDER BY aggregate_type, aggregate_id, shape LIMIT $4",
                &[&kind, &id, &shape, &most(limit)],
            )?;
            let snapshot = |row: &Row| {
                Ok(Snapshot {
                    stream: StreamId {
                        kind: text(row, 0)?.to_owned().into(),
                        id: text_id(row, 1)?,
                    },
                    shape: bytes(row, 2)?,
                    sequence: number(row, 3)?,
                    state: get::<&[u8]>(row, 4)?.into(),
                })
            };
            rows.iter().map(snapshot).collect::<Read<_>>().map(Some)
        })
    }

    fn strays(&self, limit: usize) -> Result<Vec<Stray>, StoreError> {
        self.answer(|session| {
            let mut strays = Vec::new();
            for (table, column) in [("events", "position"), ("batches", "last_position")] {
                // Shard after shard, each found by one look into the key: the table is not read through.
                let sql = format!(
                    "WITH RECURSIVE shards (shard) AS (
                         SELECT min(shard) FROM {table}
                         UNION ALL
                         SELECT (SELECT min(t.shard) FROM {table} AS t WHERE t.shard > shards.shard) FROM shards WHERE shards.shard IS NOT NULL
                     ), bounds (shard, below) AS (
                         SELECT shard, CASE WHEN shard IN (SELECT shard FROM log_head) THEN 1 ELSE 9223372036854775807 END FROM shards
                     )
                     SELECT t.shard, t.{column} FROM bounds JOIN {table} AS t ON t.shard = bounds.shard AND t.{column} < bounds.below LIMIT $1"
                );
                for row in session.query(&sql, &[&most(limit)])? {
                    strays.push(Stray {
                        table,
                        shard: get::<i32>(&row, 0)?.into(),
                        position: get(&row, 1)?,
                    });
                }
            }
            strays.truncate(limit);
            Ok(strays)
        })
    }
}

/// Begins to read several things as they stood at one moment.
const ONE_MOMENT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

fn read(session: &Session, records: &[RecordKey], streams: &[StreamRead]) -> Read<(Vec<Option<IdempotencyRecord>>, Vec<StreamSlice>)> {
    let mut pipeline = session.pipeline();
    pipeline.script(ONE_MOMENT);
    if !records.is_empty() {
        pipeline.query(
            "SELECT n - 1, k.key, fingerprint, position, recorded_at, answer
             FROM unnest($1::bytea[]) WITH ORDINALITY AS k (key, n) JOIN idempotency USING (key)",
            vec![Box::new(records.iter().map(|key| key.0.as_slice()).collect::<Vec<_>>())],
        )?;
    }
    let events_sql = format!(
        "SELECT n - 1, e.* FROM unnest($1::text[], $2::text[], $3::bytea[]) WITH ORDINALITY AS q (kind, id, shape, n)
         LEFT JOIN snapshots s ON s.aggregate_type = q.kind AND s.aggregate_id = q.id AND s.shape = q.shape
         CROSS JOIN LATERAL (SELECT {EVENT} FROM events WHERE aggregate_id = q.id AND aggregate_type = q.kind
             AND events.sequence > coalesce(s.sequence, 0) ORDER BY events.sequence) AS e
         ORDER BY n, e.sequence"
    );
    if !streams.is_empty() {
        let asked = || -> Vec<Box<dyn postgres_session::ToSql + Sync>> {
            vec![
                Box::new(streams.iter().map(|question| question.stream.kind.to_string()).collect::<Vec<_>>()),
                Box::new(streams.iter().map(|question| question.stream.id.to_string()).collect::<Vec<_>>()),
                Box::new(streams.iter().map(|question| question.shape.to_vec()).collect::<Vec<_>>()),
            ]
        };
        pipeline.query(
            "SELECT n - 1, s.sequence, s.state FROM unnest($1::text[], $2::text[], $3::bytea[]) WITH ORDINALITY AS q (kind, id, shape, n)
             JOIN snapshots s ON s.aggregate_type = q.kind AND s.aggregate_id = q.id AND s.shape = q.shape",
            asked(),
        )?;
        pipeline.query(&events_sql, asked())?;
    }
    pipeline.script("COMMIT");
    let mut answers = pipeline.run()?.into_iter().skip(1);

    let mut known = vec![None; records.len()];
    if !records.is_empty() {
        for row in answers.next().unwrap_or_default() {
            let place = place(&row)?;
            let record = IdempotencyRecord {
                key: RecordKey(bytes(&row, 1)?),
                fingerprint: bytes(&row, 2)?,
                position: number(&row, 3)?,
                recorded_at: get(&row, 4)?,
                answer: get::<&[u8]>(&row, 5)?.into(),
            };
            known.get_mut(place).map(|known| known.replace(record));
        }
    }
    let mut slices = vec![StreamSlice::default(); streams.len()];
    if !streams.is_empty() {
        for row in answers.next().unwrap_or_default() {
            let place = place(&row)?;
            if let (Some(slice), Some(question)) = (slices.get_mut(place), streams.get(place)) {
                slice.snapshot = Some(Snapshot {
                    stream: question.stream.clone(),
                    sequence: number(&row, 1)?,
                    shape: question.shape,
                    state: get::<&[u8]>(&row, 2)?.into(),
                });
            }
        }
        for row in answers.next().unwrap_or_default() {
            if let Some(slice) = slices.get_mut(place(&row)?) {
                slice.events.push(event(&row, 1)?);
            }
        }
    }
    Ok((known, slices))
}

/// Which question a row answers.
fn place(row: &Row) -> Read<usize> {
    usize::try_from(get::<i64>(row, 0)?).map_err(|_| Unread::Damaged("an answer to no question".into()))
}

/// How many shards the log has, if that is fixed.
pub(crate) fn shard_count(session: &Session) -> Result<Option<Shards>, Error> {
    let count = session.query_opt("SELECT shards FROM log", &[])?;
    // The table allows 1 to 1,024.
    Ok(count
        .and_then(|row| row.get::<_, Option<i32>>(0))
        .and_then(|count| Shards::new(u16::try_from(count).ok()?)))
}

/// The head of a shard, as the session sees it (within its transaction, if there is one).
pub(crate) fn head(session: &Session, shard: u16) -> Result<Option<Head>, Error> {
    let row = session.query_opt(&format!("SELECT {HEAD} FROM log_head WHERE shard = $1"), &[&i32::from(shard)])?;
    row.as_ref().map(head_of).transpose().map_err(Unread::into_error)
}

/// What a head is read from.
const HEAD: &str = "shard, position, epoch, hash, recorded_at, orders_numbered, (SELECT log_id FROM log)";

fn head_of(row: &Row) -> Read<Head> {
    Ok(Head {
        shard: shard_of(row, 0)?,
        position: number(row, 1)?,
        epoch: number(row, 2)?,
        hash: bytes(row, 3)?,
        recorded_at: get(row, 4)?,
        orders_numbered: number(row, 5)?,
        log_id: get(row, 6)?,
    })
}

/// Events of a shard.
pub(crate) fn events(session: &Session, shard: u16, after: i64, limit: i64) -> Read<Vec<Event>> {
    let sql = format!("SELECT {EVENT} FROM events WHERE shard = $1 AND position > $2 ORDER BY position LIMIT $3");
    let rows = session.query(&sql, &[&i32::from(shard), &after, &limit])?;
    rows.iter().map(|row| event(row, 0)).collect()
}

impl Unread {
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Failed(error) => error,
            Self::Damaged(what) => Error::unexpected(what),
        }
    }
}

fn event(row: &Row, first: usize) -> Read<Event> {
    Ok(Event {
        shard: shard_of(row, first)?,
        position: number(row, first + 1)?,
        stream: StreamId {
            kind: text(row, first + 2)?.to_owned().into(),
            id: text_id(row, first + 3)?,
        },
        sequence: number(row, first + 4)?,
        event_id: get(row, first + 5)?,
        event_type: text(row, first + 6)?.to_owned().into(),
        event_version: text(row, first + 7)?.to_owned().into(),
        recorded_at: get(row, first + 8)?,
        payload: json(row, first + 9)?.into(),
        metadata: json(row, first + 10)?.into(),
    })
}

fn record(row: &Row) -> Read<IdempotencyRecord> {
    Ok(IdempotencyRecord {
        key: RecordKey(bytes(row, 0)?),
        fingerprint: bytes(row, 1)?,
        position: number(row, 2)?,
        recorded_at: get(row, 3)?,
        answer: get::<&[u8]>(row, 4)?.into(),
    })
}

fn parked(row: &Row) -> Read<Parked> {
    Ok(Parked {
        id: get(row, 0)?,
        at: get(row, 1)?,
        input: text(row, 2)?.into(),
        reason: get(row, 3)?,
    })
}

fn unparked(row: &Row, first: usize) -> Read<Unparked> {
    let how = text(row, first + 3)?;
    Ok(Unparked {
        id: get(row, first)?,
        at: get(row, first + 1)?,
        by: text(row, first + 2)?.into(),
        how: Unparking::named(how).ok_or_else(|| Unread::Damaged(format!("{how:?} stands where the end of an input belongs")))?,
    })
}

pub(crate) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Read<T> {
    row.try_get(column)
        .map_err(|error| Unread::Damaged(format!("column {column}: {error}")))
}

pub(crate) fn text(row: &Row, column: usize) -> Read<&str> {
    get(row, column)
}

/// JSON as it was written: the server sends the text of a `json` as it is.
struct Json<'a>(&'a str);

impl<'a> FromSql<'a> for Json<'a> {
    fn from_sql(_: &Type, bytes: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(bytes)?))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSON
    }
}

pub(crate) fn json(row: &Row, column: usize) -> Read<&str> {
    get::<Json<'_>>(row, column).map(|json| json.0)
}

pub(crate) fn number(row: &Row, column: usize) -> Read<u64> {
    let number: i64 = get(row, column)?;
    u64::try_from(number).map_err(|_| Unread::Damaged(format!("{number} stands where a count belongs")))
}

pub(crate) fn shard_of(row: &Row, column: usize) -> Read<u16> {
    let number: i32 = get(row, column)?;
    u16::try_from(number).map_err(|_| Unread::Damaged(format!("{number} stands where a shard belongs")))
}

fn bytes<const N: usize>(row: &Row, column: usize) -> Read<[u8; N]> {
    let bytes: &[u8] = get(row, column)?;
    bytes
        .try_into()
        .map_err(|_| Unread::Damaged(format!("{} bytes stand where {N} belong", bytes.len())))
}

/// The table sees to it that an id has one spelling.
fn text_id(row: &Row, column: usize) -> Read<Uuid> {
    let id = text(row, column)?;
    Uuid::try_parse(id).map_err(|_| Unread::Damaged(format!("{id:?} stands where an id belongs")))
}

/// As the server counts: nothing is above it.
pub(crate) fn bound(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
