//! The log on EventStoreDB (`KurrentDB`, as it is called now): one stream per shard, one append per batch at the exact expected revision, which is also the fence.
//!
//! The server's streams are the truth. An index beside them (a log of the SQLite store) is brought up to date before each read, and made again
//! when it is missing. The crate never changes or deletes what stands in a stream.

mod checkpoints;
mod client;
mod entry;
mod log;
mod reader;
mod server;
mod writer;

#[cfg(test)]
mod double;
#[cfg(test)]
mod tests;

use std::{fmt, path::Path, sync::Arc};

use event_store::{Checkpoints, EventStore, LogReader, LogWriter, StoreError};
use uuid::Uuid;

use crate::{checkpoints::EsdbCheckpoints, client::Client, entry::LARGEST_APPEND, log::Log, reader::EsdbReader, writer::EsdbWriter};

/// What a log is called when nobody says otherwise: its streams are `jangbu-log`, `jangbu-shard-0` and so on.
pub const DEFAULT_NAME: &str = "jangbu";

/// The projection that links each event to a stream of its aggregate (`order-0197...`), for others to read. For a log of the default name.
pub const LINKS: &str = include_str!("../projections/links.js");

/// The longest name of a log.
const LONGEST_NAME: usize = 60;

/// A log on EventStoreDB.
#[derive(Clone)]
pub struct EsdbStore {
    log: Arc<Log>,
}

impl EsdbStore {
    /// Opens the log of this name on the server, which is made when there is none.
    ///
    /// `url` is a connection string of EventStoreDB (`esdb://user:password@host:2113?tls=false`); a name at its end (`...#shop_7`) is used instead of
    /// this one, so that several shops have a log each on one server. `index` is a directory of this process alone; the index of each log lies
    /// there under the log's id.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the server cannot be reached, [`StoreError::Foreign`] for an address or a name that cannot be one, and when the
    /// streams belong to another program, [`StoreError::Held`] when another process has the index.
    pub fn open(url: &str, name: &str, index: &Path) -> Result<Self, StoreError> {
        let (url, name) = url.split_once('#').unwrap_or((url, name));
        check_name(name)?;
        Self::on(Arc::new(Client::new(url)?), name, index, LARGEST_APPEND)
    }

    /// Makes the log of this name under this id, for a log that is to be copied into it, and opens it as [`open`](Self::open) does. Done twice it
    /// changes nothing.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`StoreError::Foreign`] when there is one with another id.
    pub fn create(url: &str, name: &str, index: &Path, log_id: Uuid) -> Result<Self, StoreError> {
        let (url, name) = url.split_once('#').unwrap_or((url, name));
        check_name(name)?;
        Self::made_as(Arc::new(Client::new(url)?), name, index, LARGEST_APPEND, log_id)
    }

    fn on(server: Arc<dyn server::Server>, name: &str, index: &Path, limit: usize) -> Result<Self, StoreError> {
        let log = Log::open(server, name, index, limit, Uuid::new_v4())?;
        Ok(Self { log: Arc::new(log) })
    }

    fn made_as(server: Arc<dyn server::Server>, name: &str, index: &Path, limit: usize, log_id: Uuid) -> Result<Self, StoreError> {
        let log = Log::open(server, name, index, limit, log_id)?;
        if log.id() != log_id {
            return Err(StoreError::not_a_copy(log.id(), log_id));
        }
        Ok(Self { log: Arc::new(log) })
    }

    /// Installs the projection that links each event to a stream of its aggregate, or brings it up to date: `NAME-links` on the server.
    ///
    /// # Errors
    /// The server cannot be reached, or this user may not install projections.
    pub fn install_links(url: &str, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        client::install_projection(url, &format!("{name}-links"), &links(name))
    }
}

/// The projection for a log of this name.
fn links(name: &str) -> String {
    LINKS.replace("fromCategory('jangbu')", &format!("fromCategory('{name}')"))
}

/// The server takes what stands before the first `-` for a stream's category, so a name has none.
fn check_name(name: &str) -> Result<(), StoreError> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(known) {
        return Err(StoreError::Foreign(format!(
            "{name:?} is no name of a log or of one who reads it: use letters, digits and _, at most {LONGEST_NAME}"
        )));
    }
    Ok(())
}

impl fmt::Debug for EsdbStore {
    /// Without the address, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EsdbStore").finish_non_exhaustive()
    }
}

impl EventStore for EsdbStore {
    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError> {
        Ok(Box::new(EsdbWriter::new(Arc::clone(&self.log))))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        Ok(Box::new(EsdbReader::open(Arc::clone(&self.log))?))
    }

    fn checkpoints(&self) -> Result<Box<dyn Checkpoints>, StoreError> {
        Ok(Box::new(EsdbCheckpoints::new(Arc::clone(&self.log))))
    }

    /// Whoever has the rights on the server may truncate or delete a stream; nothing in it refuses that. The hash chain shows it.
    fn lacks(&self) -> &'static [&'static str] {
        &["append-only-triggers"]
    }
}
