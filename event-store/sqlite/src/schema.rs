//! The tables, and how a connection to them is set up.

use sqlite_file::Mark;

/// The format that this version writes.
pub(crate) const FORMAT: i64 = 4;

/// Says in the file's header whose it is: "Jngb".
pub(crate) const OURS: Mark = Mark {
    application: 0x4a6e_6762,
    format: FORMAT,
};

/// What brings a log of format `i + 1` to format `i + 2`; a new format adds its step here and to [`TABLES`].
pub(crate) const UPGRADES: &[&str] = &[
    "
ALTER TABLE parked ADD COLUMN ended_at INTEGER;
ALTER TABLE parked ADD COLUMN ended_by TEXT;
ALTER TABLE parked ADD COLUMN ended_how TEXT;
DROP INDEX parked_by_age;
CREATE INDEX parked_by_age ON parked (shard, at, id) WHERE ended_at IS NULL;
",
    "
ALTER TABLE log ADD COLUMN shards INTEGER;
UPDATE log SET shards = 1;
",
    "
CREATE TABLE checkpoints (
    name TEXT NOT NULL,
    shard INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (name, shard)
) STRICT, WITHOUT ROWID;
",
];

/// Measured with `examples/append_speed.rs` (600,000 events, 1,000 to a batch, 2 cores, fsync 0.13 to 0.18 ms), with a
/// checkpoint after 4,000 pages; wall clock and CPU, µs per event:
///
/// | | 4096 | 8192 | 16384 |
/// |---|---|---|---|
/// | without rowid | 16.4, 12.3 | 16.5, 12.7 | 16.5, 12.5 |
/// | rowid and a second index | 17.4, 12.7 | | |
///
/// For the same WAL of 64 MiB small pages win: 13.2, 10.6 (`connection::CHECKPOINT_PAGES`).
pub(crate) const PAGE_SIZE: u32 = 4096;

/// The stream index begins with the id: an order's streams have ids that are the same or neighbours, and share a page. With the type first
/// the same run took 12.4 µs of CPU per event instead of 10.8 (1,000,000 events, 1,000 to a batch).
///
/// The trigger against replacing costs CPU on every event, so it reads one row that is always at hand: 8.3 µs of CPU per
/// event, 10.0 with two subqueries, 7.9 without a trigger.
pub(crate) const TABLES: &str = "
CREATE TABLE log (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    log_id TEXT NOT NULL,
    shards INTEGER -- how many the log has; NULL before its first writer said so
) STRICT;

CREATE TABLE events (
    shard INTEGER NOT NULL,
    position INTEGER NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    event_version TEXT NOT NULL,
    recorded_at INTEGER NOT NULL, -- microseconds since 1970, UTC
    payload TEXT NOT NULL,
    metadata TEXT NOT NULL,
    PRIMARY KEY (shard, position),
    UNIQUE (aggregate_id, aggregate_type, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE batches (
    shard INTEGER NOT NULL,
    last_position INTEGER NOT NULL,
    previous_hash BLOB NOT NULL,
    hash BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    PRIMARY KEY (shard, last_position)
) STRICT, WITHOUT ROWID;

CREATE TABLE log_head (
    shard INTEGER PRIMARY KEY,
    position INTEGER NOT NULL,
    written INTEGER NOT NULL, -- the position, but while a batch is being written: the one before it
    epoch INTEGER NOT NULL,
    hash BLOB NOT NULL,
    recorded_at INTEGER NOT NULL,
    orders_numbered INTEGER NOT NULL,
    instance TEXT NOT NULL,
    heartbeat INTEGER NOT NULL
) STRICT;

CREATE TABLE idempotency (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    fingerprint BLOB NOT NULL,
    position INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    answer BLOB NOT NULL
) STRICT;

CREATE TABLE effects (
    shard INTEGER NOT NULL,
    id BLOB NOT NULL,
    effect TEXT NOT NULL,
    PRIMARY KEY (shard, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE timers (
    shard INTEGER NOT NULL,
    id BLOB NOT NULL,
    due INTEGER NOT NULL,
    command TEXT NOT NULL,
    PRIMARY KEY (shard, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE parked (
    shard INTEGER NOT NULL,
    id BLOB NOT NULL,
    at INTEGER NOT NULL,
    input TEXT NOT NULL,
    reason TEXT NOT NULL,
    ended_at INTEGER, -- microseconds since 1970; NULL as long as it is set aside
    ended_by TEXT,
    ended_how TEXT,
    PRIMARY KEY (shard, id)
) STRICT;
CREATE INDEX parked_by_age ON parked (shard, at, id) WHERE ended_at IS NULL;

CREATE TABLE snapshots (
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    shape BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, shape)
) STRICT;

CREATE TABLE checkpoints (
    name TEXT NOT NULL, -- of whoever reads the log: a relay
    shard INTEGER NOT NULL,
    position INTEGER NOT NULL, -- of the last event that it is done with
    PRIMARY KEY (name, shard)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER events_are_not_updated BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
-- INSERT OR REPLACE deletes without asking the trigger above. So nothing goes in but at the places that a writer has just taken.
CREATE TRIGGER events_are_not_replaced BEFORE INSERT ON events
WHEN (SELECT NEW.position > written AND NEW.position <= position FROM log_head WHERE shard = NEW.shard) IS NOT 1
BEGIN SELECT RAISE(ABORT, 'events are appended with their batch, never put in or replaced'); END;
CREATE TRIGGER batches_are_not_updated BEFORE UPDATE ON batches BEGIN SELECT RAISE(ABORT, 'batches are never changed'); END;
CREATE TRIGGER batches_are_not_deleted BEFORE DELETE ON batches BEGIN SELECT RAISE(ABORT, 'batches are never deleted'); END;
CREATE TRIGGER batches_are_not_replaced BEFORE INSERT ON batches
WHEN EXISTS (SELECT 1 FROM batches WHERE shard = NEW.shard AND last_position = NEW.last_position)
BEGIN SELECT RAISE(ABORT, 'this batch exists'); END;
";
