//! How far those have come who read the log.

use std::{path::Path, sync::Arc};

use event_store::{Checkpoints, DirectoryLock, StoreError};
use rusqlite::{Connection, Result};

use crate::{connection, errors};

/// On a connection of its own: the writer's may be anybody's.
pub(crate) struct SqliteCheckpoints {
    connection: Connection,
    path: Arc<Path>,
    /// The directory stays this process's as long as somebody may write.
    _lock: Arc<DirectoryLock>,
}

impl SqliteCheckpoints {
    pub(crate) fn open(path: &Arc<Path>, lock: &Arc<DirectoryLock>) -> Result<Self, StoreError> {
        Ok(Self {
            connection: connection::writing(path)?,
            path: Arc::clone(path),
            _lock: Arc::clone(lock),
        })
    }
}

impl Checkpoints for SqliteCheckpoints {
    fn read(&mut self, name: &str) -> Result<Vec<(u16, u64)>, StoreError> {
        read(&self.connection, name).map_err(|error| errors::reading(&self.path, error))
    }

    /// One statement, so it is a transaction by itself.
    fn advance(&mut self, name: &str, shard: u16, from: u64, to: u64) -> Result<bool, StoreError> {
        let (Ok(from), Ok(to)) = (i64::try_from(from), i64::try_from(to)) else {
            return Err(StoreError::Foreign(format!("no log of SQLite has a position {}", from.max(to))));
        };
        // The first step makes the row, and meets one that was moved back to the beginning.
        let sql = if from == 0 {
            "INSERT INTO checkpoints (name, shard, position) VALUES (?1, ?2, ?4)
             ON CONFLICT (name, shard) DO UPDATE SET position = excluded.position WHERE position = ?3"
        } else {
            "UPDATE checkpoints SET position = ?4 WHERE name = ?1 AND shard = ?2 AND position = ?3"
        };
        let moved = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute((name, shard, from, to)));
        moved.map(|moved| moved == 1).map_err(|error| errors::reading(&self.path, error))
    }
}

fn read(connection: &Connection, name: &str) -> Result<Vec<(u16, u64)>> {
    connection
        .prepare_cached("SELECT shard, position FROM checkpoints WHERE name = ?1 ORDER BY shard")?
        .query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}
