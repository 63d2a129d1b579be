//! Looking at a file of views row by row, as it is stored: for those who compare it with another. It leaves no trace beside the file.

use std::{
    cmp::Ordering,
    fmt::{self, Write as _},
    fs::Metadata,
    ops::ControlFlow,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use aggregates::{OrderNumber, TrackingId};
use projections::Checkpoint;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Rows, config::DbConfig, types::Value};
use uuid::Uuid;

use crate::{OpenError, open, writer::checkpoints};

/// A file of views as it stands at one moment.
#[derive(Debug)]
pub struct ViewsFile {
    connection: Connection,
    path: PathBuf,
    log: Option<Uuid>,
    checkpoints: Vec<Checkpoint>,
    tables: Vec<ViewTable>,
    /// What the file looked like when it was opened; none while its shop serves, which SQLite takes care of.
    still: Option<Standing>,
}

/// A table: a view, or what leads to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewTable {
    name: String,
    key: Vec<String>,
    columns: Vec<String>,
}

impl ViewTable {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its columns, in the order of [`ViewRow::fields`].
    pub fn columns(&self) -> &[String] {
        &self.columns
    }
}

/// What stands in one column of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Field(Value);

impl Field {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.0 {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Its bytes behind what tells its kind and its length: different fields have different ones.
    pub fn bytes(&self, to: &mut Vec<u8>) {
        let (kind, bytes): (u8, &[u8]) = match &self.0 {
            Value::Null => (0, &[]),
            Value::Integer(number) => (1, &number.to_le_bytes()),
            Value::Real(number) => (2, &number.to_le_bytes()),
            Value::Text(text) => (3, text.as_bytes()),
            Value::Blob(bytes) => (4, bytes),
        };
        to.push(kind);
        to.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        to.extend_from_slice(bytes);
    }
}

/// Ids as people know them.
impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Value::Null => f.write_str("null"),
            Value::Integer(number) => number.fmt(f),
            Value::Real(number) => number.fmt(f),
            Value::Text(text) => f.write_str(text),
            Value::Blob(bytes) => match Uuid::from_slice(bytes) {
                Ok(id) => id.fmt(f),
                Err(_) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            },
        }
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewRow {
    key: Vec<Field>,
    fields: Vec<Field>,
}

impl ViewRow {
    /// What it is found by.
    pub fn key(&self) -> String {
        let parts: Vec<_> = self.key.iter().map(ToString::to_string).collect();
        parts.join("/")
    }

    /// All its columns.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }
}

/// A row of two files that is not the same in both.
#[derive(Clone, Debug, PartialEq)]
pub enum Difference {
    /// It is in the one only.
    OnlyInOne(ViewRow),
    /// It is in the other only.
    OnlyInOther(ViewRow),
    /// It is in both.
    Changed(ViewRow, ViewRow),
}

impl ViewsFile {
    /// Opens a file of views of this version, also while its shop serves.
    ///
    /// # Errors
    /// One line that names the file and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let (connection, still) = connect(path).map_err(|error| open::explained(path, error))?;
        open::check_current(&connection, path)?;
        let read = || -> rusqlite::Result<_> {
            connection.execute_batch("BEGIN")?;
            let log: Option<[u8; 16]> = connection.query_row("SELECT log FROM views", [], |row| row.get(0))?;
            Ok((log.map(Uuid::from_bytes), checkpoints(&connection)?, tables(&connection)?))
        };
        let (log, checkpoints, tables) = read().map_err(|error| open::explained(path, error))?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            log,
            checkpoints,
            tables,
            still,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log that they were folded from; none when they are new.
    pub fn log(&self) -> Option<Uuid> {
        self.log
    }

    /// How far each shard's log is counted.
    pub fn checkpoints(&self) -> &[Checkpoint] {
        &self.checkpoints
    }

    /// The tables that hold rows, by name.
    pub fn tables(&self) -> &[ViewTable] {
        &self.tables
    }

    /// How many rows a table has.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn count(&self, table: &ViewTable) -> Result<u64, OpenError> {
        let sql = format!("SELECT count(*) FROM {}", table.name);
        let count = self.connection.query_row(&sql, [], |row| row.get(0));
        count.map_err(|error| open::explained(&self.path, error))
    }

    /// Shows each row of a table in the order of its key, until the visitor has had enough.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn each(&self, table: &ViewTable, visit: &mut dyn FnMut(&ViewRow) -> ControlFlow<()>) -> Result<(), OpenError> {
        let mut read = || -> rusqlite::Result<()> {
            let mut statement = self.connection.prepare(&table.sql())?;
            let mut rows = statement.query([])?;
            while let Some(row) = table.next(&mut rows)? {
                if visit(&row).is_break() {
                    break;
                }
            }
            Ok(())
        };
        read().map_err(|error| open::explained(&self.path, error))
    }

    /// Compares a table with the same of another file; returns how many rows were looked at. Both are read once, side by side.
    ///
    /// # Errors
    /// One of the files cannot be read.
    pub fn compare(
        &self,
        other: &Self,
        table: &ViewTable,
        visit: &mut dyn FnMut(Option<Difference>) -> ControlFlow<()>,
    ) -> Result<u64, OpenError> {
        let of_one = |error| open::explained(&self.path, error);
        let of_other = |error| open::explained(&other.path, error);
        let sql = table.sql();
        let mut statement = self.connection.prepare(&sql).map_err(of_one)?;
        let mut ones = statement.query([]).map_err(of_one)?;
        let mut statement = other.connection.prepare(&sql).map_err(of_other)?;
        let mut others = statement.query([]).map_err(of_other)?;
        let (mut one, mut another) = (table.next(&mut ones).map_err(of_one)?, table.next(&mut others).map_err(of_other)?);
        let mut looked_at = 0;
        loop {
            let order = match (&one, &another) {
                (None, None) => return Ok(looked_at),
                (Some(one), Some(another)) => compare_keys(&one.key, &another.key),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
            };
            looked_at += 1;
            let mine = if order == Ordering::Greater {
                None
            } else {
                std::mem::replace(&mut one, table.next(&mut ones).map_err(of_one)?)
            };
            let theirs = if order == Ordering::Less {
                None
            } else {
                std::mem::replace(&mut another, table.next(&mut others).map_err(of_other)?)
            };
            let difference = match (mine, theirs) {
                (Some(one), Some(other)) => (one != other).then_some(Difference::Changed(one, other)),
                (Some(one), None) => Some(Difference::OnlyInOne(one)),
                (None, other) => other.map(Difference::OnlyInOther),
            };
            if visit(difference).is_break() {
                return Ok(looked_at);
            }
        }
    }

    /// The order with this number.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn order_by_number(&self, number: &OrderNumber) -> Result<Option<Uuid>, OpenError> {
        self.order(
            "SELECT id FROM orders_v2 WHERE number = ?1",
            Value::Text(number.as_str().to_owned()),
        )
    }

    /// The order with this tracking id.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn order_by_tracking(&self, tracking: TrackingId) -> Result<Option<Uuid>, OpenError> {
        self.order(
            "SELECT id FROM orders_v2 WHERE tracking = ?1",
            Value::Blob(tracking.uuid().into_bytes().to_vec()),
        )
    }

    fn order(&self, sql: &str, value: Value) -> Result<Option<Uuid>, OpenError> {
        let found = self.connection.query_row(sql, [value], |row| row.get::<_, [u8; 16]>(0)).optional();
        Ok(found.map_err(|error| open::explained(&self.path, error))?.map(Uuid::from_bytes))
    }

    /// Whether it is still the file that was opened: what was read of one that was written meanwhile may be of two moments.
    pub fn is_unchanged(&self) -> bool {
        match &self.still {
            Some(before) => standing(&self.path).is_ok_and(|now| now == *before),
            None => true,
        }
    }
}

impl ViewTable {
    fn sql(&self) -> String {
        let (key, columns) = (self.key.join(", "), self.columns.join(", "));
        format!("SELECT {key}, {columns} FROM {} ORDER BY {key}", self.name)
    }

    fn next(&self, rows: &mut Rows<'_>) -> rusqlite::Result<Option<ViewRow>> {
        let Some(row) = rows.next()? else { return Ok(None) };
        let fields = |from: usize, count: usize| -> rusqlite::Result<Vec<Field>> {
            (from..from + count).map(|column| row.get(column).map(Field)).collect()
        };
        Ok(Some(ViewRow {
            key: fields(0, self.key.len())?,
            fields: fields(self.key.len(), self.columns.len())?,
        }))
    }
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<ViewTable>> {
    let names = |sql: &str| -> rusqlite::Result<Vec<String>> { connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect() };
    let all = names(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('views', 'checkpoints')
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
    )?;
    let table = |name: String| {
        let columns = names(&format!(
            "SELECT name FROM pragma_table_info('{name}') WHERE name <> 'row' ORDER BY cid"
        ))?;
        let mut key = names(&format!(
            "SELECT name FROM pragma_table_info('{name}') WHERE pk > 0 AND name <> 'row' ORDER BY pk"
        ))?;
        // Its rows are numbered as they came, which is nobody's business.
        if key.is_empty() {
            key.push("id".to_owned());
        }
        Ok(ViewTable { name, key, columns })
    };
    all.into_iter().map(table).collect()
}

/// As SQLite sorts them.
fn compare_keys(one: &[Field], other: &[Field]) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Null => 0,
        Value::Integer(_) | Value::Real(_) => 1,
        Value::Text(_) => 2,
        Value::Blob(_) => 3,
    };
    let order = |(one, other): (&Field, &Field)| match (&one.0, &other.0) {
        (Value::Integer(one), Value::Integer(other)) => one.cmp(other),
        (Value::Text(one), Value::Text(other)) => one.cmp(other),
        (Value::Blob(one), Value::Blob(other)) => one.cmp(other),
        (one, other) => rank(one).cmp(&rank(other)),
    };
    one.iter()
        .zip(other)
        .map(order)
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// Which file it is, and when it was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    with_log: bool,
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn standing(path: &Path) -> std::io::Result<Standing> {
    let of = |file: &Metadata| Standing {
        file: (file.dev(), file.ino()),
        length: file.len(),
        modified: (file.mtime(), file.mtime_nsec()),
        with_log: beside(path, "-wal").exists(),
    };
    std::fs::metadata(path).map(|file| of(&file))
}

/// A connection that makes no file. Beside a file that is written SQLite keeps two others; where one is missing nobody writes, and SQLite is
/// told so, or it would make them.
/// Opens a SQLite file of a shop for one who only reads, and leaves nothing beside it: also a copy in a directory that nobody may write to.
///
/// # Errors
/// There is no such file, or it cannot be read.
pub fn open_to_look(path: &Path) -> rusqlite::Result<Connection> {
    connect(path).map(|(connection, _)| connection)
}

fn connect(path: &Path) -> rusqlite::Result<(Connection, Option<Standing>)> {
    const WITHOUT_LOCKS: &str = "unix-none";
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let still = standing(path).ok();
    let with_log = still.is_some_and(|standing| standing.with_log);
    let live = with_log && beside(path, "-shm").exists();
    let connection = if live || still.is_none() {
        Connection::open_with_flags(path, flags)?
    } else if with_log {
        let connection = Connection::open_with_flags_and_vfs(path, flags, WITHOUT_LOCKS)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update_and_check(None, "locking_mode", "exclusive", |_| Ok(()))?;
        connection
    } else {
        Connection::open_with_flags(unchanging(path), flags | OpenFlags::SQLITE_OPEN_URI)?
    };
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "query_only", true)?;
    Ok((connection, still.filter(|_| !live)))
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
