//! Opening sessions, and seeing that the views there are of today's shapes.

use std::time::Duration;

use postgres_session::{Address, Error, SchemaError, Session};

use crate::schema::{SCHEMA, TABLES};

/// So long the server has to answer who writes. It gives up a little earlier by itself, and says so.
const WRITER_PATIENCE: Duration = Duration::from_secs(30);

/// So long the server has to answer who asks; a question that takes longer than 2 s it ends by itself.
const READER_PATIENCE: Duration = Duration::from_secs(3);

/// The store need not have statistics: every statement is written for one index, and reads it in its order.
pub(crate) const PLANS: &str = "
    SET plan_cache_mode = force_generic_plan;
    SET enable_seqscan = off;
    SET enable_bitmapscan = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET enable_sort = off;
    SET enable_incremental_sort = off;
";

/// A crash of the server may take back the last transactions, whole: the checkpoint says which, and the log has the events.
const WRITER: &str = "
    SET synchronous_commit = off;
    SET statement_timeout = '25s';
    SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '10s';
";

const READER: &str = "
    SET default_transaction_read_only = on;
    SET statement_timeout = '2s';
    SET lock_timeout = '1500ms';
";

/// Why the views cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The schema is not the one that this version needs, or cannot be made.
    #[error("the views in {address}: {source}")]
    Schema {
        /// The database.
        address: Box<Address>,
        /// Why.
        source: SchemaError,
    },
    /// They are of other shapes than this version's, and this role may not make them anew.
    #[error("the views in {address} are of another version; run `jangbu migrate` as their owner, and they are filled anew from the log")]
    OtherShapes {
        /// The database.
        address: Box<Address>,
    },
    /// The database cannot be used.
    #[error("the views in {address} cannot be opened: {source}")]
    Unavailable {
        /// The database.
        address: Box<Address>,
        /// Why.
        source: Error,
    },
}

pub(crate) fn unavailable(address: &Address) -> impl Fn(Error) -> OpenError {
    |source| OpenError::Unavailable {
        address: Box::new(address.clone()),
        source,
    }
}

/// A session that writes.
pub(crate) fn writing(address: &Address) -> Result<Session, Error> {
    let address = address.clone().named("jangbu views writer").for_writing();
    Session::open(&address, &[PLANS, WRITER].concat(), WRITER_PATIENCE)
}

/// A session that only reads.
pub(crate) fn reading(address: &Address) -> Result<Session, OpenError> {
    reading_again(address).map_err(unavailable(address))
}

/// A session that only reads, of views that were looked at before.
pub(crate) fn reading_again(address: &Address) -> Result<Session, Error> {
    let address = address.clone().named("jangbu views reader");
    Session::open(&address, &[PLANS, READER].concat(), READER_PATIENCE)
}

/// A session that writes, to views of today's shapes: others are dropped, to be filled anew.
pub(crate) fn migrated(address: &Address) -> Result<Session, OpenError> {
    let unavailable = unavailable(address);
    let session = writing(address).map_err(&unavailable)?;
    let schema = |source| OpenError::Schema {
        address: Box::new(address.clone()),
        source,
    };
    SCHEMA.migrate(&session).map_err(schema)?;
    let mut current = of_today(&session);
    if current.as_ref().is_err_and(Error::is_missing) {
        // Somebody dropped the schema, as it may be at any time.
        session
            .execute("DELETE FROM jangbu_schemas WHERE name = $1", &[&SCHEMA.name])
            .map_err(&unavailable)?;
        SCHEMA.migrate(&session).map_err(schema)?;
        current = of_today(&session);
    }
    if !current.map_err(&unavailable)? {
        let made = session
            .script("BEGIN")
            .and_then(|()| make_anew(&session))
            .and_then(|()| session.script("COMMIT"));
        match made {
            Err(error) if error.is_forbidden() => {
                return Err(OpenError::OtherShapes {
                    address: Box::new(address.clone()),
                });
            }
            made => made.map_err(&unavailable)?,
        }
    }
    Ok(session)
}

/// That the views are those of this version.
pub(crate) fn check(session: &Session, address: &Address) -> Result<(), OpenError> {
    SCHEMA.check(session).map_err(|source| OpenError::Schema {
        address: Box::new(address.clone()),
        source,
    })?;
    if of_today(session).map_err(unavailable(address))? {
        Ok(())
    } else {
        Err(OpenError::OtherShapes {
            address: Box::new(address.clone()),
        })
    }
}

fn of_today(session: &Session) -> Result<bool, Error> {
    let row = session.query_opt("SELECT names FROM jangbu_views.views", &[])?;
    row.map_or(Ok(false), |row| Ok(row.try_get::<_, String>(0)? == projections::NAMES.join(" ")))
}

/// Drops the tables of other shapes and makes today's, empty, unless somebody else has done so meanwhile.
fn make_anew(session: &Session) -> Result<(), Error> {
    session.query("SELECT names FROM jangbu_views.views FOR UPDATE", &[])?;
    if of_today(session)? {
        return Ok(());
    }
    let tables = "SELECT format('%I', tablename) FROM pg_catalog.pg_tables
                  WHERE schemaname = 'jangbu_views' AND tablename NOT IN ('views', 'checkpoints')";
    for table in session.query(tables, &[])? {
        let table: String = table.try_get(0)?;
        session.script(&format!("DROP TABLE jangbu_views.{table}"))?;
    }
    session.script(TABLES)?;
    session.script("TRUNCATE jangbu_views.checkpoints")?;
    let names = projections::NAMES.join(" ");
    session.execute(
        "INSERT INTO jangbu_views.views AS v (names) VALUES ($1)
         ON CONFLICT (one) DO UPDATE SET names = excluded.names, log = NULL, epoch = v.epoch + 1, holder = NULL",
        &[&names],
    )?;
    tracing::info!("the views are of today's shapes now, and empty");
    Ok(())
}
