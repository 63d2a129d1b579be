//! How a thread speaks to PostgreSQL: where the server is, TLS, a session that blocks, prepared statements, versioned schemas.
//!
//! The log, the views and the keys are read and written by plain threads. A [`Session`] belongs to one of them: it drives its own
//! connection on its own small runtime, so that a query costs no hop to another thread, and several statements share a round trip.

mod address;
mod error;
mod schema;
mod session;

pub use address::{Address, AddressError};
pub use error::{Error, Trouble};
pub use schema::{Schema, SchemaError};
pub use session::{Pipeline, Process, Session};
pub use tokio_postgres::{
    Client, Row, Statement,
    types::{FromSql, FromSqlOwned, ToSql, Type},
};
