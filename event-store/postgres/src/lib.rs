//! The log on PostgreSQL: one schema, one writer for each shard, readers anywhere.
//!
//! A commit is one transaction and one round trip: all its statements are sent together. The head's row is the fence. Events go in through a
//! function alone, so the role of an engine can append, and neither it nor any other role can rewrite.

mod checkpoints;
mod errors;
mod news;
mod reader;
mod schema;
mod selection;
mod writer;

use std::{sync::Arc, time::Duration};

use event_store::{Checkpoints, EventStore, LogReader, LogWriter, StoreError, Wakes};
use postgres_session::{Address, Session};

use checkpoints::PostgresCheckpoints;
use news::{Hearing, Teller};
use reader::PostgresReader;
use writer::PostgresWriter;

/// How long a question waits for the server.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a server may be gone before the outcome of a commit is given up: as long as it takes one to recover, or to be replaced.
const OUTCOME_WITHIN: Duration = Duration::from_mins(2);

/// A log in a database.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    address: Arc<Address>,
    outcome_within: Duration,
    teller: Arc<Teller>,
}

/// Roles that get what they need of a log and no more. They have to be there.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    /// Engines: they append, and cannot rewrite.
    pub engines: Vec<String>,
    /// Projections, questions and analysts: they read.
    pub readers: Vec<String>,
    /// Relays: they read, and say how far they are.
    pub relays: Vec<String>,
    /// Programs that write through postgres-es while no engine does.
    pub foreign: Vec<String>,
}

impl Roles {
    /// Whether no role is named.
    pub fn is_empty(&self) -> bool {
        [&self.engines, &self.readers, &self.relays, &self.foreign]
            .into_iter()
            .all(Vec::is_empty)
    }
}

impl PostgresStore {
    /// Opens the log, which is made where there is none, and brought to this version, if the role may do that.
    ///
    /// # Errors
    /// The server cannot be used, or the schema is another one: one line that names the database and the remedy.
    pub fn open(address: &Address) -> Result<Self, StoreError> {
        // Its readers too ask the one that is written to: an engine must not take what a standby does not have yet for what is not there.
        Self::opened(&address.clone().for_writing(), |session| schema::LOG.migrate(session))
    }

    /// Opens a log that is there, and changes nothing.
    ///
    /// # Errors
    /// The server cannot be used, there is no log, or it is one of another version.
    pub fn open_to_look(address: &Address) -> Result<Self, StoreError> {
        Self::opened(address, |session| schema::LOG.check(session))
    }

    fn opened(address: &Address, prepare: impl FnOnce(&Session) -> Result<(), postgres_session::SchemaError>) -> Result<Self, StoreError> {
        let session = Session::open(&address.clone().for_writing(), "", PATIENCE).or_else(|error| {
            // A standby can be read.
            if error.code().is_none() {
                Session::open(address, "", PATIENCE)
            } else {
                Err(error)
            }
        });
        let session = session.map_err(|error| errors::reading(address, error))?;
        prepare(&session).map_err(|error| errors::schema(address, error))?;
        Ok(Self {
            teller: Arc::new(Teller::new(address)),
            address: Arc::new(address.clone()),
            outcome_within: OUTCOME_WITHIN,
        })
    }

    /// How long its writers ask what has become of a commit that got no answer, while the server is gone: two minutes, unless it is said here.
    /// A writer that knows nothing for longer has to start anew.
    #[must_use]
    pub fn asking_for(self, outcome_within: Duration) -> Self {
        Self { outcome_within, ..self }
    }

    /// Gives roles what they need. Only the owner may.
    ///
    /// # Errors
    /// A role is not there, or this role may not give it that.
    pub fn grant(&self, roles: &Roles) -> Result<(), StoreError> {
        let failed = |error| errors::reading(&self.address, error);
        let session = Session::open(&self.address, "", PATIENCE).map_err(failed)?;
        let give = |what: &str, role: &str| {
            let role = role.replace('"', "\"\"");
            session.script(&format!("{what} \"{role}\"")).map_err(failed)
        };
        for role in roles.engines.iter().chain(&roles.readers).chain(&roles.relays) {
            give(schema::GRANT_READING, role)?;
        }
        for role in &roles.engines {
            schema::GRANT_WRITING.iter().try_for_each(|what| give(what, role))?;
        }
        for role in roles.engines.iter().chain(&roles.relays) {
            give(schema::GRANT_RELAYING, role)?;
        }
        for role in &roles.foreign {
            schema::GRANT_FOREIGN.iter().try_for_each(|what| give(what, role))?;
        }
        Ok(())
    }
}

impl EventStore for PostgresStore {
    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError> {
        Ok(Box::new(PostgresWriter::open(&self.address, self.outcome_within, &self.teller)?))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        Ok(Box::new(PostgresReader::open(&self.address)?))
    }

    fn checkpoints(&self) -> Result<Box<dyn Checkpoints>, StoreError> {
        Ok(Box::new(PostgresCheckpoints::open(&self.address)?))
    }

    fn wakes(&self) -> Result<Option<Box<dyn Wakes>>, StoreError> {
        Ok(Some(Box::new(Hearing::start(&self.address)?)))
    }
}
