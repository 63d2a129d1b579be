//! The table of postgres-es, as it stood at one moment.

use std::time::Duration;

use postgres_session::{Address, Error, Row as Found, Session};

use crate::failure::Failure;

/// How long the server may take with one answer: it may have to sort the whole table for the first.
const PATIENCE: Duration = Duration::from_hours(1);

/// Nothing is written, whatever this program does, and the server does not lose patience with one who writes elsewhere meanwhile.
const SET_UP: &str = "SET default_transaction_read_only = on; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0";

/// One moment for all that is read.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// The columns of the table of postgres-es 0.5.
const COLUMNS: [&str; 7] = [
    "aggregate_type",
    "aggregate_id",
    "sequence",
    "event_type",
    "event_version",
    "payload",
    "metadata",
];

/// What it has besides where it is a log of ours.
const OURS: [&str; 3] = ["shard", "position", "event_id"];

/// The largest row that is taken: whoever reads a log holds some hundred events in memory.
const LARGEST: i64 = 64 * 1024 * 1024;

/// Where the rows are read.
pub(super) struct Old {
    session: Session,
    address: Address,
    /// As a statement names it.
    table: String,
    /// How many there are.
    pub(super) rows: u64,
    /// How many bytes the largest has.
    pub(super) largest: i64,
}

/// A row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) kind: String,
    pub(super) id: String,
    pub(super) sequence: i64,
    pub(super) event_type: String,
    pub(super) event_version: String,
    pub(super) payload: String,
    pub(super) metadata: String,
    /// When it happened, microseconds since 1970, where its order is that of time: never before an earlier event of its stream.
    pub(super) at: Option<i64>,
}

/// The order in which the rows come. Those of a stream come in the order of their sequences in either.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order<'a> {
    /// Stream after stream.
    ByStream,
    /// As this member of the metadata says.
    ByTime(&'a str),
}

impl Old {
    /// Opens the table, and begins to read it.
    pub(super) fn open(address: Address, table: &str) -> Result<Self, Failure> {
        let session = Session::open(&address, SET_UP, PATIENCE).map_err(|error| unreadable(&address, &error))?;
        let mut old = Self {
            session,
            address,
            table: quoted(table),
            rows: 0,
            largest: 0,
        };
        old.begin(table)?;
        Ok(old)
    }

    fn begin(&mut self, named: &str) -> Result<(), Failure> {
        self.ask(|session| session.script(BEGIN))?;
        self.check_columns(named)?;
        let table = &self.table;
        let sizes = "octet_length(payload::text)::bigint + octet_length(metadata::text)";
        let extent = format!("SELECT count(*), coalesce(max({sizes}), 0)::bigint FROM {table}");
        let extent = self.ask(|session| session.query_opt(&extent, &[]))?;
        let (rows, largest) = extent.map_or((0_i64, 0_i64), |row| (row.get(0), row.get(1)));
        if rows == 0 {
            return Err(Failure::wrong(format_args!(
                "{named} in {} is empty: there is nothing to adopt",
                self.address
            )));
        }
        if largest > LARGEST {
            let large =
                format!("SELECT aggregate_type::text, aggregate_id::text, sequence::text FROM {table} WHERE {sizes} > {LARGEST} LIMIT 1");
            let row = self.ask(|session| session.query_opt(&large, &[]))?;
            let name = row.map_or_else(String::new, |row| {
                let [kind, id, sequence] = [0, 1, 2].map(|column| row.get::<_, String>(column));
                format!("event {sequence} of {kind} {id:?}")
            });
            return Err(Failure::wrong(format_args!(
                "{name} has {largest} bytes, and {LARGEST} are the most; correct it in a copy of the database, and adopt the copy"
            )));
        }
        (self.rows, self.largest) = (rows.unsigned_abs(), largest);
        Ok(())
    }

    fn check_columns(&self, named: &str) -> Result<(), Failure> {
        let sql = "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";
        let found = self.ask(|session| session.query(sql, &[&self.table]))?;
        let found: Vec<String> = found.iter().map(|row| row.get(0)).collect();
        let has = |column: &&str| found.iter().any(|known| known == column);
        if found.is_empty() {
            return Err(Failure::wrong(format_args!(
                "{} has no table {named} that this role may see; name the one that postgres-es writes with --table",
                self.address
            )));
        }
        let missing: Vec<_> = COLUMNS.into_iter().filter(|column| !has(column)).collect();
        if !missing.is_empty() {
            return Err(Failure::wrong(format_args!(
                "{named} in {} is no table of postgres-es: it has no column {}; name the right one with --table",
                self.address,
                missing.join(", ")
            )));
        }
        if OURS.iter().all(has) {
            return Err(Failure::wrong(format_args!(
                "{} is a log of Jangbu already: name it as JANGBU_STORE, or copy it with pg_dump",
                self.address
            )));
        }
        Ok(())
    }

    /// Shows all rows, page by page, in this order.
    pub(super) fn pages(&self, order: Order<'_>, page: i64, visit: &mut dyn FnMut(&[Row]) -> Result<(), Failure>) -> Result<(), Failure> {
        let (cursor, query) = self.query(order);
        self.ask(|session| session.script(&format!("DECLARE {cursor} NO SCROLL CURSOR FOR {query}")))?;
        let fetch = format!("FETCH FORWARD {page} FROM {cursor}");
        loop {
            let found = self.ask(|session| session.query(&fetch, &[]))?;
            if found.is_empty() {
                break;
            }
            let rows: Vec<_> = found.into_iter().map(|row| Row::of(&row)).collect();
            visit(&rows)?;
        }
        self.ask(|session| session.script(&format!("CLOSE {cursor}")))
    }

    /// What is missing in a row that somebody made by hand is empty, which is refused by name where it matters.
    fn query(&self, order: Order<'_>) -> (&'static str, String) {
        let table = &self.table;
        let columns = "coalesce(aggregate_type::text, ''), coalesce(aggregate_id::text, ''), coalesce(sequence, 0)::bigint,
             coalesce(event_type::text, ''), coalesce(event_version::text, ''), coalesce(payload::text, ''), coalesce(metadata::text, '')";
        match order {
            Order::ByStream => (
                "by_stream",
                format!("SELECT {columns}, NULL::bigint FROM {table} ORDER BY aggregate_type, aggregate_id, sequence"),
            ),
            // A clock that went back does not turn a stream round.
            Order::ByTime(member) => {
                let member = member.replace('\'', "''");
                let at = format!("(metadata::json ->> '{member}')::timestamptz");
                (
                    "by_time",
                    format!(
                        "SELECT {columns}, (extract(epoch FROM jangbu_at) * 1000000)::bigint
                         FROM (SELECT *, max({at}) OVER (PARTITION BY aggregate_type, aggregate_id ORDER BY sequence) AS jangbu_at FROM {table}) AS old
                         ORDER BY jangbu_at, aggregate_type, aggregate_id, sequence"
                    ),
                )
            }
        }
    }

    fn ask<T>(&self, ask: impl FnOnce(&Session) -> Result<T, Error>) -> Result<T, Failure> {
        ask(&self.session).map_err(|error| unreadable(&self.address, &error))
    }
}

impl Row {
    fn of(found: &Found) -> Self {
        Self {
            kind: found.get(0),
            id: found.get(1),
            sequence: found.get(2),
            event_type: found.get(3),
            event_version: found.get(4),
            payload: found.get(5),
            metadata: found.get(6),
            at: found.get(7),
        }
    }
}

/// As a statement names it, whatever it is called.
fn quoted(table: &str) -> String {
    let parts: Vec<_> = table
        .splitn(2, '.')
        .map(|part| format!("\"{}\"", part.replace('"', "\"\"")))
        .collect();
    parts.join(".")
}

fn unreadable(address: &Address, error: &Error) -> Failure {
    let remedy = match error.code() {
        Some("28P01" | "28000" | "3D000") => "; the address of the old database has to name its user, its password and its name",
        Some("42501") => "; a role that may SELECT from the table is enough",
        _ => "",
    };
    Failure::failed(format_args!("the old database {address} cannot be read: {error}{remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_named_as_it_is() {
        assert_eq!(quoted("events"), r#""events""#);
        assert_eq!(quoted("shop.Old events"), r#""shop"."Old events""#);
        assert_eq!(quoted(r#"a"; DROP TABLE b"#), r#""a""; DROP TABLE b""#);
    }
}
