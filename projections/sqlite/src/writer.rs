//! Saving rows.

use std::path::{Path, PathBuf};

use aggregates::Timestamp;
use projections::{
    AccountView, Accounts, Changed, Checkpoint, Inventories, InventoryView, Move, OrderView, Orders, PaymentView, Payments, ProductView,
    Products, Projection, Stored, Table, ViewsBatch, ViewsError, ViewsWriter, WalletEntry, WalletView, Wallets,
    sql::{names_of_order, names_of_product, under_way},
};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Statement, Transaction, TransactionBehavior};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{checkpointer::Checkpointer, open};

/// The views, for writing.
#[derive(Debug)]
pub struct SqliteViewsWriter {
    connection: Connection,
    path: PathBuf,
    json: Vec<u8>,
    _checkpointer: Option<Checkpointer>,
}

impl SqliteViewsWriter {
    pub(crate) fn on(connection: Connection, path: PathBuf) -> Self {
        let checkpointer = Checkpointer::start(&path);
        Self {
            _checkpointer: checkpointer,
            connection,
            path,
            json: Vec::with_capacity(4_096),
        }
    }

    /// Of a file that has no write-ahead log.
    pub(crate) fn alone(connection: Connection, path: PathBuf) -> Self {
        Self {
            _checkpointer: None,
            connection,
            path,
            json: Vec::with_capacity(4_096),
        }
    }

    fn save_all(&mut self, batch: &ViewsBatch<'_>) -> Result<(), Failed> {
        let Self { connection, json, .. } = self;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for step in batch.moves {
            checkpoint(&transaction, step)?;
        }
        rows(&transaction, json, &batch.orders)?;
        sellers(&transaction, &batch.orders)?;
        rows(&transaction, json, &batch.products)?;
        rows(&transaction, json, &batch.inventories)?;
        rows(&transaction, json, &batch.payments)?;
        rows(&transaction, json, &batch.wallets)?;
        entries(&transaction, json, batch.wallet_entries)?;
        rows(&transaction, json, &batch.accounts)?;
        Ok(transaction.commit()?)
    }
}

impl ViewsWriter for SqliteViewsWriter {
    fn stored(&mut self) -> Result<Stored, ViewsError> {
        let read = || -> Result<Stored, Failed> {
            let log: Option<[u8; 16]> = self
                .connection
                .query_row("SELECT log FROM views", [], |row| row.get(0))
                .optional()?
                .flatten();
            Ok(Stored {
                log: log.map(Uuid::from_bytes),
                checkpoints: checkpoints(&self.connection)?,
            })
        };
        read().map_err(|error| error.explained(&self.path))
    }

    fn reset(&mut self, log: Uuid) -> Result<(), ViewsError> {
        let reset = |connection: &mut Connection| -> Result<(), Failed> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            open::fill_anew(&transaction, Some(log))?;
            Ok(transaction.commit()?)
        };
        reset(&mut self.connection).map_err(|error| error.explained(&self.path))
    }

    fn save(&mut self, batch: &ViewsBatch<'_>) -> Result<(), ViewsError> {
        self.save_all(batch).map_err(|error| error.explained(&self.path))
    }
}

impl<V: Row> Table<V> for SqliteViewsWriter {
    /// A look-up in this process costs less than a list in a statement would.
    fn load(&mut self, ids: &[Uuid]) -> Result<Vec<V>, ViewsError> {
        let load = || -> Result<Vec<V>, Failed> {
            let mut statement = self.connection.prepare_cached(&by_id(V::TABLE))?;
            let mut found = Vec::with_capacity(ids.len());
            for id in ids {
                if let Some(data) = statement.query_row([id.into_bytes()], |row| row.get::<_, String>(0)).optional()? {
                    found.push(serde_json::from_str(&data)?);
                }
            }
            Ok(found)
        };
        load().map_err(|error| error.explained(&self.path))
    }
}

/// A row as JSON, by its id.
pub(crate) fn by_id(table: &str) -> String {
    format!("SELECT data FROM {table} WHERE id = ?1")
}

pub(crate) fn checkpoints(connection: &Connection) -> rusqlite::Result<Vec<Checkpoint>> {
    let mut statement = connection.prepare_cached("SELECT shard, position, recorded_at FROM checkpoints ORDER BY shard")?;
    let rows = statement.query_map([], |row| {
        Ok(Checkpoint {
            shard: row.get(0)?,
            position: row.get(1)?,
            recorded_at: Timestamp::from_micros(row.get(2)?),
        })
    })?;
    rows.collect()
}

/// A view that has a table.
pub(crate) trait Row: Serialize + DeserializeOwned {
    /// Where it is.
    const TABLE: &'static str;
    /// Adds the row.
    const INSERT: &'static str;
    /// Changes what may change.
    const UPDATE: &'static str;

    fn insert(&self, statement: &mut Statement<'_>, data: &str) -> rusqlite::Result<usize>;

    fn update(&self, statement: &mut Statement<'_>, data: &str) -> rusqlite::Result<usize>;
}

impl Row for OrderView {
    const TABLE: &'static str = Orders::NAME;
    const INSERT: &'static str = "INSERT INTO orders_v2 (id, number, tracking, buyer, placed_at, status, open, purchase, names, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    const UPDATE: &'static str = "UPDATE orders_v2 SET status = ?2, open = ?3, purchase = ?4, data = ?5 WHERE id = ?1";

    fn insert(&self, statement: &mut Statement<'_>, data: &str) -> rusqlite::Result<usize> {
        statement.execute((
            self.id.uuid().into_bytes(),
            self.number.as_str(),
            self.tracking.uuid().into_bytes(),
            self.buyer.uuid().into_bytes(),
            self.placed_at.micros(),
            self.status.name(),
            under_way(self.status),
            self.purchase_under_way(),
            names_of_order(self),
            data,
        ))
    }

    fn update(&self, statement: &mut Statement<'_>, data: &str) -> rusqlite::Result<usize> {
        statement.execute((
            self.id.uuid().into_bytes(),
            self.status.name(),
            under_way(self.status),
            self.purchase_under_way(),
            data,
        ))
    }
}

impl Row for ProductView {
    const TABLE: &'static str = Products::NAME;
    const INSERT: &'static str = "INSERT INTO products_v1 (id, seller, created_at, retired, names, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    const UPDATE: &'static str = "UPDATE products_v1 SET retired = ?2, names = ?3, data = ?4 WHERE id = ?1";

    fn insert(&self, statement: &mut Statement<'_>, data: &str) -> rusqlite::Result<usize> {
        let (id, seller) = (self.id.uuid().into_bytes(), self.seller.uuid().into_bytes());
        statement.execute((id, seller, self.created_at.micros(), self.retired, names_of_product(self), data))
    }

    fn update(&self, statement: &mut Statement<'_>, data: &str) -> rusqlite::Result<usize> {
        statement.execute((self.id.uuid().into_bytes(), self.retired, names_of_product(self), data))
    }
}

macro_rules! plain_row {
    ($view:ty, $projection:ty, $table:literal, $id:ident) => {
        impl Row for $view {
            const TABLE: &'static str = <$projection>::NAME;
            const INSERT: &'static str = concat!("INSERT INTO ", $table, " (id, data) VALUES (?1, ?2)");
            const UPDATE: &'static str = concat!("UPDATE ", $table, " SET data = ?2 WHERE id = ?1");

            fn insert(&self, statement: &mut Statement<'_>, data: &str) -> rusqlite::Result<usize> {
                statement.execute((self.$id.uuid().into_bytes(), data))
            }

            fn update(&self, statement: &mut Statement<'_>, data: &str) -> rusqlite::Result<usize> {
                self.insert(statement, data)
            }
        }
    };
}

plain_row!(InventoryView, Inventories, "inventories_v1", product);
plain_row!(PaymentView, Payments, "payments_v1", id);
plain_row!(WalletView, Wallets, "wallets_v1", account);
plain_row!(AccountView, Accounts, "accounts_v1", id);

fn checkpoint(transaction: &Transaction<'_>, step: &Move) -> Result<(), Failed> {
    let moved = if step.from == 0 {
        let sql = "INSERT INTO checkpoints (shard, position, recorded_at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
        transaction
            .prepare_cached(sql)?
            .execute((step.shard, step.to, step.recorded_at.micros()))?
    } else {
        let sql = "UPDATE checkpoints SET position = ?2, recorded_at = ?3 WHERE shard = ?1 AND position = ?4";
        transaction
            .prepare_cached(sql)?
            .execute((step.shard, step.to, step.recorded_at.micros(), step.from))?
    };
    if moved == 1 { Ok(()) } else { Err(Failed::Moved(step.shard)) }
}

fn rows<V: Row>(transaction: &Transaction<'_>, json: &mut Vec<u8>, rows: &[Changed<'_, V>]) -> Result<(), Failed> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut insert = transaction.prepare_cached(V::INSERT)?;
    let mut update = transaction.prepare_cached(V::UPDATE)?;
    for row in rows {
        let data = written(json, row.view)?;
        let saved = if row.fresh {
            row.view.insert(&mut insert, data)?
        } else {
            row.view.update(&mut update, data)?
        };
        if saved != 1 {
            return Err(Failed::Missing);
        }
    }
    Ok(())
}

/// What leads from a seller to their orders and buyers. It never changes, so only new orders bring any.
fn sellers(transaction: &Transaction<'_>, orders: &[Changed<'_, OrderView>]) -> Result<(), Failed> {
    let mut order_sellers = transaction.prepare_cached("INSERT INTO order_sellers_v1 (seller, placed_at, id) VALUES (?1, ?2, ?3)")?;
    let mut seller_buyers =
        transaction.prepare_cached("INSERT INTO seller_buyers_v1 (seller, buyer) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
    for order in orders.iter().filter(|order| order.fresh).map(|order| order.view) {
        let (id, buyer) = (order.id.uuid().into_bytes(), order.buyer.uuid().into_bytes());
        for (index, line) in order.lines.iter().enumerate() {
            if order.lines.iter().take(index).any(|earlier| earlier.seller == line.seller) {
                continue;
            }
            let seller = line.seller.uuid().into_bytes();
            order_sellers.execute((seller, order.placed_at.micros(), id))?;
            seller_buyers.execute((seller, buyer))?;
        }
    }
    Ok(())
}

fn entries(transaction: &Transaction<'_>, json: &mut Vec<u8>, entries: &[WalletEntry]) -> Result<(), Failed> {
    let mut insert = transaction.prepare_cached("INSERT INTO wallet_entries_v1 (account, sequence, data) VALUES (?1, ?2, ?3)")?;
    for entry in entries {
        let data = written(json, entry)?;
        insert.execute((entry.account.uuid().into_bytes(), entry.sequence, data))?;
    }
    Ok(())
}

fn written<'a>(json: &'a mut Vec<u8>, row: &impl Serialize) -> Result<&'a str, Failed> {
    json.clear();
    serde_json::to_writer(&mut *json, row)?;
    std::str::from_utf8(json).map_err(|_| Failed::Missing)
}

enum Failed {
    Sqlite(rusqlite::Error),
    Json(serde_json::Error),
    Moved(u16),
    Missing,
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<serde_json::Error> for Failed {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}

impl Failed {
    fn explained(self, path: &Path) -> ViewsError {
        let damaged = |what: &str| {
            let path = path.display();
            let remedy = "stop, delete the file, and the views are filled anew from the log";
            ViewsError::Unavailable(format!("{path} is damaged ({what}): {remedy}").into())
        };
        match self {
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation) => damaged(&error.to_string()),
                _ => ViewsError::Unavailable(Box::new(error)),
            },
            Self::Json(error) => damaged(&error.to_string()),
            Self::Missing => damaged("a row is missing"),
            Self::Moved(shard) => ViewsError::Moved(shard),
        }
    }
}
