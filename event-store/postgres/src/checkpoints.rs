//! How far those have come who read the log.

use std::sync::Arc;

use event_store::{Checkpoints, StoreError};
use postgres_session::{Address, Error, Session, Trouble};

use crate::{PATIENCE, errors};

/// Whoever acknowledges must know that it is durable, whatever the database's own setting is.
const SET_UP: &str = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local');
SET lock_timeout = '5s'";

/// The first step makes the row, and meets one that was moved back to the beginning.
const FIRST: &str = "INSERT INTO checkpoints (name, shard, position) VALUES ($1, $2, $4)
     ON CONFLICT (name, shard) DO UPDATE SET position = excluded.position WHERE checkpoints.position = $3";

const NEXT: &str = "UPDATE checkpoints SET position = $4 WHERE name = $1 AND shard = $2 AND position = $3";

/// On a session of its own.
pub(crate) struct PostgresCheckpoints {
    address: Arc<Address>,
    session: Option<Session>,
}

impl PostgresCheckpoints {
    pub(crate) fn open(address: &Arc<Address>) -> Result<Self, StoreError> {
        let address = Arc::new(address.as_ref().clone().for_writing());
        let session = Session::open(&address, SET_UP, PATIENCE).map_err(|error| errors::reading(&address, error))?;
        Ok(Self {
            address,
            session: Some(session),
        })
    }

    /// Asks once. A session that is lost on it is opened again for the next question: nobody knows what became of this one. So is one that the
    /// server is unable on: it may be a standby by now, and another of the hosts the one that is written to.
    fn ask<T>(&mut self, work: impl FnOnce(&Session) -> Result<T, Error>) -> Result<T, StoreError> {
        let session = match self.session.take().filter(|session| !session.is_closed()) {
            Some(session) => Ok(session),
            None => Session::open(&self.address, SET_UP, PATIENCE),
        };
        let answer = session.and_then(|session| {
            let answer = work(&session);
            let unusable = |error: &Error| error.trouble() != Trouble::Refused;
            if !answer.as_ref().is_err_and(unusable) {
                self.session = Some(session);
            }
            answer
        });
        answer.map_err(|error| errors::reading(&self.address, error))
    }
}

impl Checkpoints for PostgresCheckpoints {
    fn read(&mut self, name: &str) -> Result<Vec<(u16, u64)>, StoreError> {
        let sql = "SELECT shard, position FROM checkpoints WHERE name = $1 ORDER BY shard";
        let rows = self.ask(|session| session.query(sql, &[&name]))?;
        let place = |shard: i32, position: i64| Some((u16::try_from(shard).ok()?, u64::try_from(position).ok()?));
        rows.iter()
            .map(|row| {
                let (shard, position) = (row.get(0), row.get(1));
                place(shard, position).ok_or_else(|| errors::damaged(&self.address, format!("{name} is at {position} in shard {shard}")))
            })
            .collect()
    }

    fn advance(&mut self, name: &str, shard: u16, from: u64, to: u64) -> Result<bool, StoreError> {
        let (Ok(from), Ok(to)) = (i64::try_from(from), i64::try_from(to)) else {
            return Err(StoreError::Foreign(format!("no log of PostgreSQL has a position {}", from.max(to))));
        };
        let sql = if from == 0 { FIRST } else { NEXT };
        let moved = self.ask(|session| session.execute(sql, &[&name, &i32::from(shard), &from, &to]))?;
        Ok(moved == 1)
    }
}
