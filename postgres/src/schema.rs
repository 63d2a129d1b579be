//! Versioned schemas.

use crate::{Error, Session};

/// A schema and how it came to be: step `n` brings version `n - 1` to version `n`.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// Its name in the table of versions, `jangbu_schemas`.
    pub name: &'static str,
    /// The steps, the first of which makes it where there is nothing.
    pub steps: &'static [&'static str],
}

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// It is not there, or is older, and this role may not make or change it.
    #[error("the database has version {found} of the schema `{name}`, this program needs {needed}; run `jangbu migrate` as its owner")]
    Older {
        /// Which schema.
        name: &'static str,
        /// Its version there; 0 when there is none.
        found: i32,
        /// The version of this program.
        needed: i32,
    },
    /// It is newer than this program.
    #[error("the database has version {found} of the schema `{name}`, this program knows {known}: use the newer program")]
    Newer {
        /// Which schema.
        name: &'static str,
        /// Its version there.
        found: i32,
        /// The version of this program.
        known: i32,
    },
    /// The database cannot be asked, or refuses a step.
    #[error("the schema `{name}`: {source}")]
    Failed {
        /// Which schema.
        name: &'static str,
        /// What the database says.
        source: Error,
    },
}

impl Schema {
    /// The version that this program needs.
    pub fn version(&self) -> i32 {
        i32::try_from(self.steps.len()).unwrap_or(i32::MAX)
    }

    /// The version that is there; 0 when there is none.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub fn found(&self, session: &Session) -> Result<i32, SchemaError> {
        let failed = |source| SchemaError::Failed { name: self.name, source };
        match session.query_opt("SELECT version FROM jangbu_schemas WHERE name = $1", &[&self.name]) {
            Ok(row) => Ok(row.map_or(0, |row| row.get(0))),
            Err(error) if error.is_missing() => Ok(0),
            Err(error) => Err(failed(error)),
        }
    }

    /// Sees that the schema is the one that this program needs, and changes nothing.
    ///
    /// # Errors
    /// It is older, newer, or cannot be looked at.
    pub fn check(&self, session: &Session) -> Result<(), SchemaError> {
        let (found, needed) = (self.found(session)?, self.version());
        match found.cmp(&needed) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => Err(SchemaError::Older {
                name: self.name,
                found,
                needed,
            }),
            std::cmp::Ordering::Greater => Err(SchemaError::Newer {
                name: self.name,
                found,
                known: needed,
            }),
        }
    }

    /// Makes the schema, or brings it to the version that this program needs. Several that do so at once do it once.
    ///
    /// # Errors
    /// It is newer, or this role may not change it.
    pub fn migrate(&self, session: &Session) -> Result<(), SchemaError> {
        if self.found(session)? >= self.version() {
            return self.check(session);
        }
        match self.take_steps(session) {
            Ok(()) => {
                tracing::info!(
                    schema = self.name,
                    version = self.version(),
                    "the database's schema was brought up to date"
                );
                self.check(session)
            }
            Err(error) if error.is_forbidden() => {
                self.check(session)?;
                Ok(())
            }
            Err(source) => Err(SchemaError::Failed { name: self.name, source }),
        }
    }

    fn take_steps(&self, session: &Session) -> Result<(), Error> {
        // Two that make the same table at once get in each other's way, whatever "if not exists" says.
        let make = || {
            session.script(
                "CREATE TABLE IF NOT EXISTS jangbu_schemas (
                     name text COLLATE \"C\" PRIMARY KEY,
                     version integer NOT NULL,
                     changed_at timestamptz NOT NULL DEFAULT now()
                 )",
            )
        };
        make().or_else(|error| if error.is_forbidden() { Err(error) } else { make() })?;
        session.execute(
            "INSERT INTO jangbu_schemas (name, version) VALUES ($1, 0) ON CONFLICT (name) DO NOTHING",
            &[&self.name],
        )?;
        session.script("BEGIN")?;
        let done = self.steps_from_there(session).and_then(|()| session.script("COMMIT"));
        if done.is_err() && !session.is_closed() {
            // The first error is the one to tell.
            let _ = session.script("ROLLBACK");
        }
        done
    }

    fn steps_from_there(&self, session: &Session) -> Result<(), Error> {
        let row = session.query_opt("SELECT version FROM jangbu_schemas WHERE name = $1 FOR UPDATE", &[&self.name])?;
        let found: i32 = row.map_or(0, |row| row.get(0));
        for step in self.steps.iter().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
            session.script(step)?;
        }
        session
            .execute(
                "UPDATE jangbu_schemas SET version = greatest(version, $2), changed_at = now() WHERE name = $1",
                &[&self.name, &self.version()],
            )
            .map(drop)
    }
}
