//! Looking at views row by row, as they are stored: for those who compare them with others.

use std::{collections::HashMap, time::Duration};

use aggregates::{OrderNumber, TrackingId};
use postgres_session::{Address, Error, Row, Session, ToSql};
use projections::{Checkpoint, Field, LookError, ViewRow, ViewTable, ViewsLook};
use uuid::Uuid;

use crate::{
    OpenError,
    open::{self, PLANS},
    writer::checkpoint,
};

/// So long the server has to answer one who reads everything.
const PATIENCE: Duration = Duration::from_mins(1);

/// One moment, however long the look at it takes.
const SET_UP: &str = "
    SET lock_timeout = '10s';
    SET statement_timeout = '50s';
    SET idle_in_transaction_session_timeout = 0;
    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
";

/// The columns of all tables with their types, and their places in the primary key.
const COLUMNS: &str = "
    SELECT c.relname::text, a.attname::text, a.atttypid::regtype::text, array_position(i.indkey::int2[], a.attnum)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'jangbu_views'
    JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relkind = 'r' AND c.relname NOT IN ('views', 'checkpoints') AND a.attidentity = ''
    ORDER BY c.relname COLLATE \"C\", a.attnum";

/// Views in a database as they stand at one moment: a transaction that only reads is open until this is dropped.
#[derive(Debug)]
pub struct ViewsAtOnce {
    session: Session,
    address: Address,
    log: Option<Uuid>,
    checkpoints: Vec<Checkpoint>,
    tables: Vec<ViewTable>,
    /// By table: its key and its columns, so that they look the same wherever they are.
    selected: HashMap<String, String>,
}

impl ViewsAtOnce {
    /// Looks at views of this version, also while they are written. A role that may only read is enough.
    ///
    /// # Errors
    /// One line that names the database and what is wrong.
    pub fn open(address: &Address) -> Result<Self, OpenError> {
        let unavailable = open::unavailable(address);
        let address = address.clone().named("jangbu views reader");
        let session = Session::open(&address, &[PLANS, SET_UP].concat(), PATIENCE).map_err(&unavailable)?;
        open::check(&session, &address)?;
        let mut views = Self {
            session,
            log: None,
            checkpoints: Vec::new(),
            tables: Vec::new(),
            selected: HashMap::new(),
            address: address.clone(),
        };
        views.read().map_err(&unavailable)?;
        Ok(views)
    }

    fn read(&mut self) -> Result<(), Error> {
        let row = self.session.query_opt("SELECT log FROM jangbu_views.views", &[])?;
        self.log = row.map(|row| row.try_get(0)).transpose()?.flatten();
        let rows = self.session.query(
            "SELECT shard, position, recorded_at FROM jangbu_views.checkpoints ORDER BY shard",
            &[],
        )?;
        self.checkpoints = rows.iter().map(|row| checkpoint(row, 0)).collect::<Result<_, _>>()?;
        let mut columns = self.session.query(COLUMNS, &[])?.into_iter().peekable();
        while let Some(first) = columns.peek() {
            let name: String = first.try_get(0)?;
            let (mut key, mut all, mut shown) = (Vec::new(), Vec::new(), Vec::new());
            while let Some(column) = columns.next_if(|column| column.try_get::<_, &str>(0).is_ok_and(|of| of == name)) {
                let (column, kind, place): (String, String, Option<i32>) = (column.try_get(1)?, column.try_get(2)?, column.try_get(3)?);
                let expression = shown_as(&column, &kind);
                key.extend(place.map(|place| (place, column.clone(), expression.clone())));
                all.push(column);
                shown.push(expression);
            }
            key.sort();
            let selected: Vec<_> = key
                .iter()
                .map(|(_, _, expression)| expression)
                .chain(&shown)
                .map(String::as_str)
                .collect();
            self.selected.insert(name.clone(), selected.join(", "));
            let key = key.into_iter().map(|(_, column, _)| column).collect();
            self.tables.push(ViewTable::new(name, key, all));
        }
        Ok(())
    }

    fn failed(&self) -> impl Fn(Error) -> LookError {
        |error| LookError::new(format!("the views in {}: {error}", self.address))
    }

    fn order(&self, sql: &str, value: &(dyn ToSql + Sync)) -> Result<Option<Uuid>, LookError> {
        let found = self.session.query_opt(sql, &[value]).map_err(self.failed())?;
        found
            .map(|row| row.try_get(0).map_err(Error::from))
            .transpose()
            .map_err(self.failed())
    }
}

impl ViewsLook for ViewsAtOnce {
    fn place(&self) -> String {
        self.address.to_string()
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
        let Some(selected) = self.selected.get(table.name()) else {
            return Err(LookError::new(format!("the views in {} have no {}", self.address, table.name())));
        };
        let key = table.key().join(", ");
        let above = match after {
            Some(after) => {
                let places: Vec<_> = (1..=after.len()).map(|nth| format!("${nth}")).collect();
                format!("WHERE ({key}) > ({})", places.join(", "))
            }
            None => String::new(),
        };
        let sql = format!(
            "SELECT {selected} FROM jangbu_views.{} {above} ORDER BY {key} LIMIT {limit}",
            table.name()
        );
        let values: Vec<_> = after.unwrap_or_default().iter().map(value).collect();
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| &**value).collect();
        let rows = self.session.query(&sql, &values).map_err(self.failed())?;
        rows.iter()
            .map(|row| read_row(table, row))
            .collect::<Result<_, _>>()
            .map_err(self.failed())
    }

    fn order_by_number(&self, number: &OrderNumber) -> Result<Option<Uuid>, LookError> {
        self.order(
            "SELECT id FROM jangbu_views.orders_v2 WHERE number = $1 ORDER BY nth LIMIT 1",
            &number.as_str(),
        )
    }

    fn order_by_tracking(&self, tracking: TrackingId) -> Result<Option<Uuid>, LookError> {
        self.order("SELECT id FROM jangbu_views.orders_v2 WHERE tracking = $1", &tracking.uuid())
    }
}

/// A column as every store shows it.
fn shown_as(column: &str, kind: &str) -> String {
    match kind {
        "uuid" => column.to_owned(),
        "boolean" => format!("{column}::integer::bigint"),
        "smallint" | "integer" | "bigint" => format!("{column}::bigint"),
        _ => format!("{column}::text"),
    }
}

fn read_row(table: &ViewTable, row: &Row) -> Result<ViewRow, Error> {
    let width = table.key().len();
    let fields = |columns: std::ops::Range<usize>| columns.map(|column| field(row, column)).collect::<Result<_, _>>();
    Ok(ViewRow::new(fields(0..width)?, fields(width..width + table.columns().len())?))
}

fn field(row: &Row, column: usize) -> Result<Field, Error> {
    let kind = row.columns().get(column).map(|column| column.type_().name());
    Ok(match kind {
        Some("uuid") => row
            .try_get::<_, Option<Uuid>>(column)?
            .map(|id| Field::Bytes(id.into_bytes().to_vec())),
        Some("int8") => row.try_get::<_, Option<i64>>(column)?.map(Field::Number),
        _ => row.try_get::<_, Option<String>>(column)?.map(Field::Text),
    }
    .unwrap_or(Field::Null))
}

/// A part of a key, to be compared with.
fn value(field: &Field) -> Box<dyn ToSql + Sync> {
    match field {
        Field::Number(number) => Box::new(*number),
        Field::Text(text) => Box::new(text.clone()),
        // A key has neither nothing nor a fraction.
        Field::Bytes(_) | Field::Null | Field::Real(_) => Box::new(field.id()),
    }
}
