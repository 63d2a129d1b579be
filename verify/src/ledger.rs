//! The simulated provider's ledger, from the file of a data directory.

use std::path::{Path, PathBuf};

use sqlite_file::open_to_look;
use uuid::Uuid;

use crate::Ledger;

/// Why the ledger was not read.
#[derive(Debug)]
pub enum LedgerError {
    /// There is no such file.
    Missing(PathBuf),
    /// It is not the simulated provider's ledger, or a damaged one.
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl std::fmt::Display for LedgerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "{} does not exist", path.display()),
            Self::Unusable { path, reason } => write!(f, "{} is not a provider's ledger that can be read: {reason}", path.display()),
        }
    }
}

impl std::error::Error for LedgerError {}

/// Reads the ledger that the simulator keeps (`simulator.db`), also while it is used.
///
/// # Errors
/// There is no such file, or it is not such a ledger.
pub fn read_ledger(path: &Path) -> Result<Ledger, LedgerError> {
    if !path.exists() {
        return Err(LedgerError::Missing(path.to_owned()));
    }
    rows(path).map_err(|error| LedgerError::Unusable {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn rows(path: &Path) -> rusqlite::Result<Ledger> {
    let connection = open_to_look(path)?;
    let mut statement = connection.prepare("SELECT order_id, kind, amount, at FROM ledger ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut ledger = Ledger::default();
    while let Some(row) = rows.next()? {
        let order = Uuid::try_parse(row.get_ref(0)?.as_str()?)
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error)))?;
        let (charge, amount, at): (bool, i64, i64) = (row.get_ref(1)?.as_str()? == "CHARGE", row.get(2)?, row.get(3)?);
        let provided = ledger.entry(order).or_default();
        if charge {
            provided.charges += 1;
            provided.charged = provided.charged.saturating_add(amount);
            provided.charged_at.get_or_insert(at);
        } else {
            provided.cancelled = provided.cancelled.saturating_add(amount);
        }
    }
    Ok(ledger)
}
