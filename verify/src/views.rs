//! Views equal the fold: they are filled anew beside, up to the same checkpoint, and compared row by row.

use std::{cmp::Ordering, collections::HashMap, ops::ControlFlow, path::Path, sync::Arc, time::Duration};

use event_store::{
    Event, EventStore, Hash, Head, IdempotencyRecord, LogReader, LogWriter, Parked, RecordKey, Shards, StoreError, StreamId, StreamRead,
    StreamSlice, Unfinished,
};
use projections::{Runner, RunnerSettings, RunnerState};
use projections_sqlite::{FILE, SqliteViews, open_to_look};
use rusqlite::{Connection, Rows, types::Value};
use uuid::Uuid;

use crate::{Invariant, Place, Report};

/// How often is looked how far the new views are.
const LOOK: Duration = Duration::from_millis(20);

/// After so long without an event more, the new views are given up.
const PATIENCE: Duration = Duration::from_mins(1);

/// What was compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewsChecked {
    /// All rows.
    Compared {
        /// How far the views count each shard's log.
        checkpoints: Vec<(u16, u64)>,
        /// How many rows there are.
        rows: u64,
    },
    /// There are no views, or none that this version can fill; why, in one line.
    NotChecked(String),
    /// It was told to stop.
    Interrupted,
}

/// Compares the views of a data directory with the fold of the log up to their checkpoint, also while both are written.
///
/// # Errors
/// The log cannot be read just now.
pub fn verify_views(
    data_dir: &Path,
    store: &Arc<dyn EventStore>,
    report: &mut Report,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<ViewsChecked, StoreError> {
    let path = data_dir.join(FILE);
    if !path.exists() {
        return Ok(ViewsChecked::NotChecked(format!("{} does not exist", path.display())));
    }
    let views = match Kept::open(&path) {
        Ok(views) => views,
        Err(reason) => return Ok(ViewsChecked::NotChecked(format!("{} {reason}", path.display()))),
    };
    let reader = store.reader()?;
    let mut heads = Vec::new();
    for shard in reader.shards()? {
        heads.extend(reader.head(shard)?);
    }
    if !views.belong(&heads, report) {
        return Ok(ViewsChecked::Compared {
            checkpoints: views.checkpoints,
            rows: 0,
        });
    }
    let scratch = match tempfile::tempdir() {
        Ok(scratch) => scratch,
        Err(error) => return Ok(ViewsChecked::NotChecked(format!("there is no room to fill views anew: {error}"))),
    };
    match fill(scratch.path(), store, &views.checkpoints, report, progress) {
        Ok(ControlFlow::Continue(true)) => {}
        Ok(ControlFlow::Continue(false)) => {
            return Ok(ViewsChecked::Compared {
                checkpoints: views.checkpoints,
                rows: 0,
            });
        }
        Ok(ControlFlow::Break(())) => return Ok(ViewsChecked::Interrupted),
        Err(reason) => return Ok(ViewsChecked::NotChecked(reason)),
    }
    match views.compare(scratch.path(), report) {
        Ok(rows) => Ok(ViewsChecked::Compared {
            checkpoints: views.checkpoints,
            rows,
        }),
        Err(error) => Ok(ViewsChecked::NotChecked(format!("{} cannot be compared: {error}", path.display()))),
    }
}

/// Fills new views up to these checkpoints. False when an event does not fit, which is a finding.
fn fill(
    directory: &Path,
    store: &Arc<dyn EventStore>,
    checkpoints: &[(u16, u64)],
    report: &mut Report,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<ControlFlow<(), bool>, String> {
    let (writer, _readers) = SqliteViews::open(directory).map_err(|error| error.to_string())?;
    let bounded: Arc<dyn EventStore> = Arc::new(Bounded {
        store: Arc::clone(store),
        to: checkpoints.iter().copied().collect(),
    });
    let runner = Runner::start(bounded, Box::new(writer), RunnerSettings::default()).map_err(|error| error.to_string())?;
    let watched = runner.progress();
    let total: u64 = checkpoints.iter().map(|(_, position)| position).sum();
    let (mut last, mut waited) = (0, Duration::ZERO);
    let filled = loop {
        let now = watched.borrow().clone();
        let done = checkpoints.iter().map(|(shard, _)| now.position(*shard)).sum();
        if progress(done, total).is_break() {
            break Ok(ControlFlow::Break(()));
        }
        if done >= total {
            break Ok(ControlFlow::Continue(true));
        }
        if let RunnerState::Stalled { shard, position, reason } = &now.state {
            report.add(
                Invariant::Views,
                Place::at(*shard, *position, *position),
                format!("views cannot be filled beyond here: {reason}"),
            );
            break Ok(ControlFlow::Continue(false));
        }
        waited = if done > last { Duration::ZERO } else { waited + LOOK };
        if waited > PATIENCE {
            break Err(format!("the new views do not go on at {done} of {total}"));
        }
        last = done;
        std::thread::sleep(LOOK);
    };
    runner.stop();
    filled
}

/// The views as they stand at one moment: a transaction that reads is open until this is dropped.
struct Kept {
    connection: Connection,
    log: Option<Uuid>,
    checkpoints: Vec<(u16, u64)>,
}

impl Kept {
    fn open(path: &Path) -> Result<Self, String> {
        let read = || -> rusqlite::Result<(Self, String)> {
            let connection = open_to_look(path)?;
            connection.execute_batch("BEGIN")?;
            let (names, log): (String, Option<Vec<u8>>) =
                connection.query_row("SELECT names, log FROM views", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let checkpoints = connection
                .prepare("SELECT shard, position FROM checkpoints ORDER BY shard")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?;
            let log = log.and_then(|log| Uuid::from_slice(&log).ok());
            Ok((
                Self {
                    connection,
                    log,
                    checkpoints,
                },
                names,
            ))
        };
        let (kept, names) = read().map_err(|error| format!("cannot be read as views: {error}"))?;
        if names == projections::NAMES.join(" ") {
            Ok(kept)
        } else {
            Err("holds the views of another version".to_owned())
        }
    }

    /// Whether they are of this log and not ahead of it.
    fn belong(&self, heads: &[Head], report: &mut Report) -> bool {
        let found = report.found;
        if let Some(log) = self.log.filter(|log| heads.iter().any(|head| head.log_id != *log)) {
            report.add(Invariant::Views, Place::default(), format!("the views are of another log, {log}"));
        }
        for (shard, position) in &self.checkpoints {
            let head = heads.iter().find(|head| head.shard == *shard).map_or(0, |head| head.position);
            if *position > head {
                report.add(
                    Invariant::Views,
                    Place::at(*shard, head, *position),
                    format!("the views count up to {position}, and the log ends at {head}"),
                );
            }
        }
        report.found == found
    }

    /// Compares every row of every table with those filled anew; returns how many there are.
    fn compare(&self, directory: &Path, report: &mut Report) -> rusqlite::Result<u64> {
        let anew = open_to_look(&directory.join(FILE))?;
        // Whose views they are was looked at before; those of a shop that has just begun do not know their log yet.
        let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'views' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
                      ORDER BY name";
        let mut rows = 0;
        for table in names(&anew, tables)? {
            rows += self.compare_table(&anew, &table, report)?;
        }
        Ok(rows)
    }

    fn compare_table(&self, anew: &Connection, table: &str, report: &mut Report) -> rusqlite::Result<u64> {
        let columns = names(
            anew,
            &format!("SELECT name FROM pragma_table_info('{table}') WHERE name <> 'row' ORDER BY cid"),
        )?;
        let mut key = names(
            anew,
            &format!("SELECT name FROM pragma_table_info('{table}') WHERE pk > 0 AND name <> 'row' ORDER BY pk"),
        )?;
        if key.is_empty() {
            key.push("id".to_owned());
        }
        let sql = format!(
            "SELECT {}, {} FROM {table} ORDER BY {}",
            key.join(", "),
            columns.join(", "),
            key.join(", ")
        );
        let (mut kept, mut new) = (self.connection.prepare(&sql)?, anew.prepare(&sql)?);
        let (mut kept, mut new) = (kept.query([])?, new.query([])?);
        let width = key.len();
        let next = |rows: &mut Rows<'_>| read_row(rows, width + columns.len());
        let (mut one, mut other) = (next(&mut kept)?, next(&mut new)?);
        let mut rows = 0;
        while one.is_some() || other.is_some() {
            let order = match (&one, &other) {
                (Some(one), Some(other)) => compare_keys(&one[..width], &other[..width]),
                (Some(_), None) => Ordering::Less,
                _ => Ordering::Greater,
            };
            let row = if order == Ordering::Greater { &other } else { &one };
            let key = row.as_deref().map(|row| row[..width].to_vec()).unwrap_or_default();
            match order {
                Ordering::Less => differ(table, &key, "is in the views, and not by the fold of the log", report),
                Ordering::Greater => differ(table, &key, "is missing in the views", report),
                Ordering::Equal if one != other => {
                    let wrong: Vec<_> = columns
                        .iter()
                        .enumerate()
                        .filter(|(at, _)| one.as_ref().map(|row| &row[width + at]) != other.as_ref().map(|row| &row[width + at]))
                        .map(|(_, name)| name.as_str())
                        .collect();
                    differ(table, &key, &format!("is not the fold of the log in {}", wrong.join(", ")), report);
                }
                Ordering::Equal => {}
            }
            if order != Ordering::Greater {
                one = next(&mut kept)?;
            }
            if order != Ordering::Less {
                other = next(&mut new)?;
            }
            rows += 1;
        }
        Ok(rows)
    }
}

fn differ(table: &str, key: &[Value], what: &str, report: &mut Report) {
    let ids: Vec<_> = key
        .iter()
        .map(|value| match value {
            Value::Blob(bytes) => Uuid::from_slice(bytes).map_or_else(|_| "?".to_owned(), |id| id.to_string()),
            Value::Integer(number) => number.to_string(),
            Value::Text(text) => text.clone(),
            Value::Null | Value::Real(_) => "?".to_owned(),
        })
        .collect();
    let order = match key {
        [Value::Blob(id)] if table.starts_with("orders") => Uuid::from_slice(id).ok(),
        _ => None,
    };
    let place = Place { order, ..Place::default() };
    report.add(Invariant::Views, place, format!("the row {} of {table} {what}", ids.join("/")));
}

fn names(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

fn read_row(rows: &mut Rows<'_>, columns: usize) -> rusqlite::Result<Option<Vec<Value>>> {
    rows.next()?
        .map(|row| (0..columns).map(|column| row.get(column)).collect())
        .transpose()
}

/// As SQLite sorts them.
fn compare_keys(one: &[Value], other: &[Value]) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Null => 0,
        Value::Integer(_) | Value::Real(_) => 1,
        Value::Text(_) => 2,
        Value::Blob(_) => 3,
    };
    one.iter()
        .zip(other)
        .map(|pair| match pair {
            (Value::Integer(one), Value::Integer(other)) => one.cmp(other),
            (Value::Text(one), Value::Text(other)) => one.cmp(other),
            (Value::Blob(one), Value::Blob(other)) => one.cmp(other),
            (one, other) => rank(one).cmp(&rank(other)),
        })
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// A log that ends where the views do.
struct Bounded {
    store: Arc<dyn EventStore>,
    to: HashMap<u16, u64>,
}

impl EventStore for Bounded {
    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError> {
        Err(StoreError::Foreign("this log is only read".to_owned()))
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        Ok(Box::new(BoundedReader {
            reader: self.store.reader()?,
            to: self.to.clone(),
        }))
    }
}

struct BoundedReader {
    reader: Box<dyn LogReader>,
    to: HashMap<u16, u64>,
}

impl BoundedReader {
    fn to(&self, shard: u16) -> u64 {
        self.to.get(&shard).copied().unwrap_or_default()
    }
}

impl LogReader for BoundedReader {
    fn head(&self, shard: u16) -> Result<Option<Head>, StoreError> {
        let to = self.to(shard);
        Ok(self.reader.head(shard)?.map(|head| Head {
            position: head.position.min(to),
            ..head
        }))
    }

    fn read(
        &self,
        records: &[RecordKey],
        streams: &[StreamRead],
    ) -> Result<(Vec<Option<IdempotencyRecord>>, Vec<StreamSlice>), StoreError> {
        self.reader.read(records, streams)
    }

    fn events(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        let to = self.to(shard);
        let left = usize::try_from(to.saturating_sub(after)).unwrap_or(usize::MAX);
        let mut events = self.reader.events(shard, after, limit.min(left))?;
        events.retain(|event| event.position <= to);
        Ok(events)
    }

    fn stream(&self, stream: &StreamId, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.reader.stream(stream, after, limit)
    }

    fn batches(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<(u64, Hash, Hash, u64)>, StoreError> {
        self.reader.batches(shard, after, limit)
    }

    fn unfinished(&self, shard: u16) -> Result<Unfinished, StoreError> {
        self.reader.unfinished(shard)
    }

    fn parked(&self, shard: u16, limit: usize) -> Result<Vec<Parked>, StoreError> {
        self.reader.parked(shard, limit)
    }

    fn parked_input(&self, shard: u16, id: Uuid) -> Result<Option<Parked>, StoreError> {
        self.reader.parked_input(shard, id)
    }

    fn shard_count(&self) -> Result<Option<Shards>, StoreError> {
        self.reader.shard_count()
    }

    fn shards(&self) -> Result<Vec<u16>, StoreError> {
        self.reader.shards()
    }
}
