//! Views on PostgreSQL: a schema, `jangbu_views`, beside the log or in a database of its own. It can always be dropped: the views are then
//! filled anew from the log.
//!
//! One session writes, on the runner's thread; a bounded pool of others reads, from any thread that may wait, never from a task of an
//! asynchronous runtime. Personal data is here only sealed.

mod look;
mod open;
mod pool;
mod reader;
mod schema;
mod table;
mod wakes;
mod writer;

use std::sync::Arc;

use postgres_session::Address;

pub use look::ViewsAtOnce;
pub use open::OpenError;
pub use reader::PostgresViews;
pub use writer::PostgresViewsWriter;

impl PostgresViews {
    /// Opens the views of a database, and makes them when there are none: who writes them, and who reads them.
    ///
    /// # Errors
    /// One line that names the database and the remedy.
    pub fn open(address: &Address) -> Result<(PostgresViewsWriter, Arc<Self>), OpenError> {
        let session = open::migrated(address)?;
        // Its readers too ask the one that is written to: a standby may not show yet what the writer knows to be shown.
        let readers = Self::open_read_only(&address.clone().for_writing())?;
        Ok((PostgresViewsWriter::on(session, address.clone()), readers))
    }

    /// Opens views that another process writes.
    ///
    /// # Errors
    /// One line that names the database and the remedy.
    pub fn open_read_only(address: &Address) -> Result<Arc<Self>, OpenError> {
        let session = open::reading(address)?;
        open::check(&session, address)?;
        Ok(Arc::new(Self::on(session, address.clone())))
    }

    /// Makes the views, or those of today's shapes in the place of older ones, for programs that may not do so themselves.
    ///
    /// # Errors
    /// One line that names the database and the remedy.
    pub fn migrate(address: &Address) -> Result<(), OpenError> {
        open::migrated(address).map(drop)
    }
}
