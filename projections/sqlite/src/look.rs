//! Looking at a file of views row by row, as it is stored: for those who compare it with others. It leaves no trace beside the file.

use std::path::{Path, PathBuf};

use aggregates::{OrderNumber, TrackingId};
use projections::{Checkpoint, Field, LookError, ViewRow, ViewTable, ViewsLook};
use rusqlite::{Connection, OptionalExtension, Row, types::Value};
use sqlite_file::{Standing, look};
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

impl ViewsFile {
    /// Opens a file of views of this version, also while its shop serves.
    ///
    /// # Errors
    /// One line that names the file and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let (connection, standing) = look(path).map_err(|error| open::explained(path, error))?;
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
            still: standing.filter(|standing| !standing.is_live()),
        })
    }

    fn explained(&self, error: rusqlite::Error) -> LookError {
        LookError::new(open::explained(&self.path, error))
    }

    fn order(&self, sql: &str, value: Value) -> Result<Option<Uuid>, LookError> {
        let found = self.connection.query_row(sql, [value], |row| row.get::<_, [u8; 16]>(0)).optional();
        Ok(found.map_err(|error| self.explained(error))?.map(Uuid::from_bytes))
    }
}

impl ViewsLook for ViewsFile {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn log(&self) -> Option<Uuid> {
        self.log
    }

    fn checkpoints(&self) -> &[Checkpoint] {
        &self.checkpoints
    }

    fn tables(&self) -> &[ViewTable] {
        &self.tables
    }

    fn page(&self, table: &ViewTable, after: Option<&[Field]>, limit: usize) -> Result<Vec<ViewRow>, LookError> {
        let (key, columns) = (table.key().join(", "), table.columns().join(", "));
        let above = match after {
            Some(after) => format!("WHERE ({key}) > ({})", vec!["?"; after.len()].join(", ")),
            None => String::new(),
        };
        let sql = format!("SELECT {key}, {columns} FROM {} {above} ORDER BY {key} LIMIT {limit}", table.name());
        let values: Vec<Value> = after.unwrap_or_default().iter().map(value).collect();
        let read = || -> rusqlite::Result<Vec<ViewRow>> {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let rows = statement.query_map(rusqlite::params_from_iter(values), |row| read_row(table, row))?;
            rows.collect()
        };
        read().map_err(|error| self.explained(error))
    }

    fn order_by_number(&self, number: &OrderNumber) -> Result<Option<Uuid>, LookError> {
        self.order(
            "SELECT id FROM orders_v2 WHERE number = ?1",
            Value::Text(number.as_str().to_owned()),
        )
    }

    fn order_by_tracking(&self, tracking: TrackingId) -> Result<Option<Uuid>, LookError> {
        self.order(
            "SELECT id FROM orders_v2 WHERE tracking = ?1",
            Value::Blob(tracking.uuid().into_bytes().to_vec()),
        )
    }

    /// Whether it is still the file that was opened: what was read of one that was written meanwhile may be of two moments.
    fn is_unchanged(&self) -> bool {
        match &self.still {
            Some(before) => Standing::of(&self.path).is_ok_and(|now| now == *before),
            None => true,
        }
    }
}

fn read_row(table: &ViewTable, row: &Row<'_>) -> rusqlite::Result<ViewRow> {
    let width = table.key().len();
    let fields = |columns: std::ops::Range<usize>| columns.map(|column| row.get(column).map(field)).collect::<Result<_, _>>();
    Ok(ViewRow::new(fields(0..width)?, fields(width..width + table.columns().len())?))
}

fn field(value: Value) -> Field {
    match value {
        Value::Null => Field::Null,
        Value::Integer(number) => Field::Number(number),
        Value::Real(number) => Field::Real(number),
        Value::Text(text) => Field::Text(text),
        Value::Blob(bytes) => Field::Bytes(bytes),
    }
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Number(number) => Value::Integer(*number),
        Field::Real(number) => Value::Real(*number),
        Field::Text(text) => Value::Text(text.clone()),
        Field::Bytes(bytes) => Value::Blob(bytes.clone()),
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
        Ok(ViewTable::new(name, key, columns))
    };
    all.into_iter().map(table).collect()
}
