//! The simulator's ledger file: what it holds, how it is opened, and every question asked of it.
//!
//! The `ledger` table is the only truth about money and is never changed, only added to; a payment is what its rows say.
//! `attempts` remembers the payments that were tried and not charged.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use crate::SimulatorError;

/// "JBSP" in ASCII: how a simulator's ledger is told from any other database.
const APPLICATION_ID: i64 = 0x4a42_5350;
const FORMAT: i64 = 1;
/// The most entries of one page.
pub const LARGEST_PAGE: usize = 1000;

const SCHEMA: &str = "
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('CHARGE', 'CANCEL')),
    payment_key TEXT NOT NULL,
    order_id TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    currency TEXT NOT NULL,
    idempotency_key TEXT,
    reason TEXT
) STRICT;
CREATE UNIQUE INDEX one_charge_per_payment ON ledger (payment_key) WHERE kind = 'CHARGE';
CREATE INDEX cancels_of_payment ON ledger (payment_key) WHERE kind = 'CANCEL';
CREATE INDEX entries_of_order ON ledger (order_id);
CREATE TRIGGER ledger_keeps_rows BEFORE DELETE ON ledger BEGIN SELECT RAISE(ABORT, 'the ledger is only added to'); END;
CREATE TRIGGER ledger_keeps_values BEFORE UPDATE ON ledger BEGIN SELECT RAISE(ABORT, 'the ledger is only added to'); END;
CREATE TABLE attempts (
    payment_key TEXT PRIMARY KEY,
    order_id TEXT NOT NULL,
    amount INTEGER NOT NULL,
    currency TEXT NOT NULL,
    declined INTEGER NOT NULL,
    failures INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Which way the money went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EntryKind {
    /// From the customer to the shop.
    Charge,
    /// Back to the customer.
    Cancel,
}

/// One movement of money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The place in the ledger; a later entry has a higher one.
    pub id: i64,
    /// When it was booked.
    pub at: Timestamp,
    /// Which way the money went.
    pub kind: EntryKind,
    /// The payment.
    pub payment_key: String,
    /// What was paid for.
    pub order_id: String,
    /// How much, in the currency's smallest unit; above zero for both kinds.
    pub amount: i64,
    /// The ISO 4217 code of the currency.
    pub currency: String,
    /// The key of the request that caused it.
    pub idempotency_key: Option<String>,
    /// Why the money was given back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A page of the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerPage {
    /// The entries in the order they were booked.
    pub entries: Vec<Entry>,
    /// For each order on this page what the shop has kept of it: all its charges less all its cancellations in the
    /// whole ledger, in the currency's smallest unit.
    pub net: BTreeMap<String, i64>,
    /// Where the next page starts (`after`); none on the last page.
    pub next: Option<i64>,
}

/// A charge and what was given back of it.
#[derive(Clone, Debug)]
pub(crate) struct Payment {
    pub(crate) charge: Entry,
    pub(crate) cancels: Vec<Entry>,
}

impl Payment {
    /// What is left of the charge. Never below zero: no cancellation beyond it is booked.
    pub(crate) fn balance(&self) -> i64 {
        self.cancels
            .iter()
            .fold(self.charge.amount, |balance, cancel| balance.saturating_sub(cancel.amount))
    }

    /// The payment as it was when this entry had just been booked.
    pub(crate) fn up_to(mut self, id: i64) -> Self {
        self.cancels.retain(|cancel| cancel.id <= id);
        self
    }
}

/// A payment that was tried and not charged.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) order_id: String,
    pub(crate) amount: i64,
    pub(crate) currency: String,
    pub(crate) declined: bool,
    pub(crate) failures: i64,
}

/// What the ledger knows of a payment key.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    Charged(Payment),
    Attempted(Attempt),
    Untouched,
}

/// Opens the ledger for writing and creates it in a new or empty file.
pub(crate) fn open(path: &Path) -> Result<Connection, SimulatorError> {
    let unusable = |source| SimulatorError::unusable(path, source);
    let mut connection = Connection::open(path).map_err(unusable)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(unusable)?;
    // Looked at before anything is written: somebody else's database stays as it is.
    check_owner(&connection, path)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(unusable)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(unusable)?;
    connection.pragma_update(None, "fullfsync", true).map_err(unusable)?;
    connection.set_prepared_statement_cache_capacity(32);
    create(&mut connection).map_err(unusable)?;
    // A torn file is found here rather than at the first payment.
    standing(&connection, "")
        .and_then(|_| entries_after(&connection, 0, 1, None))
        .map_err(unusable)?;
    Ok(connection)
}

/// Opens the ledger for reading only.
pub(crate) fn open_to_read(path: &Path) -> Result<Connection, SimulatorError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let unusable = |source| SimulatorError::unusable(path, source);
    let connection = Connection::open_with_flags(path, flags).map_err(unusable)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(unusable)?;
    Ok(connection)
}

fn check_owner(connection: &Connection, path: &Path) -> Result<(), SimulatorError> {
    let number = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let unusable = |source| SimulatorError::unusable(path, source);
    let application = number("PRAGMA application_id").map_err(unusable)?;
    let tables = number("SELECT count(*) FROM sqlite_schema").map_err(unusable)?;
    let format = number("PRAGMA user_version").map_err(unusable)?;
    match application {
        APPLICATION_ID if format > FORMAT => Err(SimulatorError::Newer { path: path.into(), format }),
        APPLICATION_ID => Ok(()),
        0 if tables == 0 => Ok(()),
        _ => Err(SimulatorError::Foreign { path: path.into() }),
    }
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let format: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if format == 0 {
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
    }
    transaction.commit()
}

const COLUMNS: &str = "id, at, kind, payment_key, order_id, amount, currency, idempotency_key, reason";

/// Books an entry and gives it its id; false when the payment is charged already. The id in `entry` is ignored.
pub(crate) fn book(connection: &Connection, entry: &mut Entry) -> rusqlite::Result<bool> {
    let booked = connection
        .prepare_cached(
            "INSERT INTO ledger (at, kind, payment_key, order_id, amount, currency, idempotency_key, reason)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (payment_key) WHERE kind = 'CHARGE' DO NOTHING",
        )?
        .execute(params![
            entry.at.as_microsecond(),
            entry.kind,
            entry.payment_key,
            entry.order_id,
            entry.amount,
            entry.currency,
            entry.idempotency_key,
            entry.reason,
        ])?;
    entry.id = connection.last_insert_rowid();
    Ok(booked == 1)
}

/// Remembers a payment that was tried and not charged.
pub(crate) fn remember(connection: &Connection, payment_key: &str, attempt: &Attempt) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO attempts (payment_key, order_id, amount, currency, declined, failures)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (payment_key) DO UPDATE SET declined = excluded.declined, failures = excluded.failures",
        )?
        .execute(params![
            payment_key,
            attempt.order_id,
            attempt.amount,
            attempt.currency,
            attempt.declined,
            attempt.failures
        ])?;
    Ok(())
}

pub(crate) fn standing(connection: &Connection, payment_key: &str) -> rusqlite::Result<Standing> {
    if let Some(payment) = payment(connection, payment_key)? {
        return Ok(Standing::Charged(payment));
    }
    let attempt = connection
        .prepare_cached("SELECT order_id, amount, currency, declined, failures FROM attempts WHERE payment_key = ?1")?
        .query_row([payment_key], |row| {
            Ok(Attempt {
                order_id: row.get(0)?,
                amount: row.get(1)?,
                currency: row.get(2)?,
                declined: row.get(3)?,
                failures: row.get(4)?,
            })
        })
        .optional()?;
    Ok(attempt.map_or(Standing::Untouched, Standing::Attempted))
}

fn payment(connection: &Connection, payment_key: &str) -> rusqlite::Result<Option<Payment>> {
    let charge = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM ledger WHERE payment_key = ?1 AND kind = 'CHARGE'"))?
        .query_row([payment_key], entry)
        .optional()?;
    let Some(charge) = charge else { return Ok(None) };
    let cancels = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM ledger WHERE payment_key = ?1 AND kind = 'CANCEL' ORDER BY id"
        ))?
        .query_map([payment_key], entry)?
        .collect::<Result<_, _>>()?;
    Ok(Some(Payment { charge, cancels }))
}

/// At most `limit` entries after this id, of one order or of all.
pub(crate) fn entries_after(connection: &Connection, after: i64, limit: usize, order_id: Option<&str>) -> rusqlite::Result<LedgerPage> {
    let limit = limit.clamp(1, LARGEST_PAGE);
    // One more than asked for shows whether a page follows.
    let rows = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut entries: Vec<Entry> = match order_id {
        None => connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM ledger WHERE id > ?1 ORDER BY id LIMIT ?2"))?
            .query_map(params![after, rows], entry)?
            .collect::<Result<_, _>>()?,
        Some(order_id) => connection
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM ledger WHERE order_id = ?3 AND id > ?1 ORDER BY id LIMIT ?2"
            ))?
            .query_map(params![after, rows, order_id], entry)?
            .collect::<Result<_, _>>()?,
    };
    let more = entries.len() > limit;
    entries.truncate(limit);
    let mut sums = BTreeMap::new();
    for Entry { order_id, .. } in &entries {
        if !sums.contains_key(order_id) {
            sums.insert(order_id.clone(), net(connection, order_id)?);
        }
    }
    let next = entries.last().filter(|_| more).map(|last| last.id);
    Ok(LedgerPage { entries, net: sums, next })
}

/// All charges of an order less all its cancellations.
pub(crate) fn net(connection: &Connection, order_id: &str) -> rusqlite::Result<i64> {
    // Summed in two halves: no sum of amounts overflows on the way.
    let (high, low): (i64, i64) = connection
        .prepare_cached(
            "SELECT coalesce(sum(amount / 4294967296 * iif(kind = 'CHARGE', 1, -1)), 0),
                    coalesce(sum(amount % 4294967296 * iif(kind = 'CHARGE', 1, -1)), 0)
             FROM ledger WHERE order_id = ?1",
        )?
        .query_row([order_id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(high.saturating_mul(1 << 32).saturating_add(low))
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        id: row.get(0)?,
        at: Timestamp::from_microsecond(row.get(1)?).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(1, row.get(1).unwrap_or(0)))?,
        kind: row.get(2)?,
        payment_key: row.get(3)?,
        order_id: row.get(4)?,
        amount: row.get(5)?,
        currency: row.get(6)?,
        idempotency_key: row.get(7)?,
        reason: row.get(8)?,
    })
}

impl ToSql for EntryKind {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Charge => "CHARGE",
            Self::Cancel => "CANCEL",
        }
        .into())
    }
}

impl FromSql for EntryKind {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_str()? {
            "CHARGE" => Ok(Self::Charge),
            "CANCEL" => Ok(Self::Cancel),
            _ => Err(FromSqlError::InvalidType),
        }
    }
}
