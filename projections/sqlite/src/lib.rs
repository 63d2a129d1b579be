//! Views on SQLite: one file, `views.db`, beside the log. It can always be deleted: the views are then filled anew from the log.
//!
//! One connection writes, on the runner's thread; a bounded pool of others reads, from any thread. Personal data is here only sealed.

mod checkpointer;
mod look;
mod open;
mod pool;
mod reader;
mod schema;
mod writer;

use std::{path::Path, sync::Arc};

pub use look::ViewsFile;
pub use open::OpenError;
pub use reader::SqliteViews;
pub use sqlite_file::open_to_look;
pub use writer::SqliteViewsWriter;

/// The name of the file in the data directory.
pub const FILE: &str = "views.db";

/// So many questions are answered at the same time; more wait their turn.
const READERS: usize = 4;

impl SqliteViews {
    /// Opens the views of a data directory, and makes them when there are none: who writes them, and who reads them.
    ///
    /// # Errors
    /// One line that names the file and the remedy.
    pub fn open(data_dir: &Path) -> Result<(SqliteViewsWriter, Arc<Self>), OpenError> {
        let path = data_dir.join(FILE);
        let connection = open::writing(&path)?;
        let readers = Self::open_read_only(data_dir)?;
        Ok((SqliteViewsWriter::on(connection, path), readers))
    }

    /// Makes views in a file that is not there yet, to be filled in one go: what is saved is durable when the file is synced, and whoever
    /// is interrupted deletes it.
    ///
    /// # Errors
    /// One line that names the file and the remedy.
    pub fn create(path: &Path) -> Result<SqliteViewsWriter, OpenError> {
        Ok(SqliteViewsWriter::alone(open::new(path)?, path.to_owned()))
    }

    /// Opens views that another process writes.
    ///
    /// # Errors
    /// One line that names the file and the remedy.
    pub fn open_read_only(data_dir: &Path) -> Result<Arc<Self>, OpenError> {
        let path = data_dir.join(FILE);
        let connections: Result<_, _> = (0..READERS).map(|_| open::reading(&path)).collect();
        Ok(Arc::new(Self::on(connections?)))
    }
}
