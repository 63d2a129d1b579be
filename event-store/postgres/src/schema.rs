//! The tables, and the functions through which events go in.

use postgres_session::Schema;

/// Of the log, in the schema that comes first in the role's search path (`public`).
pub(crate) const LOG: Schema = Schema { name: "log", steps: &[V1] };

/// An error of `jangbu_append`: the shard's head is not where the batch says, or under another epoch.
pub(crate) const FENCED: &str = "JB001";

/// An error of the functions: the batch contradicts what is there. It does not follow the hash of the one before, or ends what is not set aside.
pub(crate) const CONTRADICTION: &str = "JB002";

/// The events are a superset of the table of postgres-es 0.5 (its `db/init.sql`): its repository names its seven columns, so the others have
/// defaults, and a row without a position is numbered by a trigger, where no engine holds the shard.
///
/// The stream's key begins with the id, as in SQLite's: an order's streams have ids that are the same or neighbours.
const V1: &str = r#"
-- The functions remember this path: what a role makes for itself, temporary tables too, comes after what is here.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE TABLE log (
    one integer PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    log_id uuid NOT NULL,
    shards integer CHECK (shards BETWEEN 1 AND 1024) -- how many the log has; NULL before its first writer said so
);
INSERT INTO log (log_id) VALUES (gen_random_uuid());

CREATE TABLE log_head (
    shard integer PRIMARY KEY CHECK (shard BETWEEN 0 AND 65535),
    position bigint NOT NULL,
    epoch bigint NOT NULL,
    hash bytea NOT NULL,
    recorded_at bigint NOT NULL,
    orders_numbered bigint NOT NULL,
    instance uuid NOT NULL,
    heartbeat bigint NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE events (
    shard integer NOT NULL DEFAULT 0 CHECK (shard >= 0),
    position bigint NOT NULL DEFAULT 0 CHECK (position > 0),
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL CHECK (aggregate_id::uuid::text = aggregate_id),
    sequence bigint NOT NULL CHECK (sequence > 0),
    event_id uuid NOT NULL DEFAULT gen_random_uuid(),
    event_type text COLLATE "C" NOT NULL,
    event_version text COLLATE "C" NOT NULL,
    recorded_at bigint NOT NULL DEFAULT 0, -- microseconds since 1970, UTC
    payload json NOT NULL,
    metadata json NOT NULL,
    PRIMARY KEY (shard, position),
    UNIQUE (aggregate_id, aggregate_type, sequence)
);

CREATE TABLE batches (
    shard integer NOT NULL,
    last_position bigint NOT NULL,
    previous_hash bytea NOT NULL,
    hash bytea NOT NULL,
    epoch bigint NOT NULL,
    PRIMARY KEY (shard, last_position)
);

CREATE TABLE idempotency (
    key bytea PRIMARY KEY,
    fingerprint bytea NOT NULL,
    position bigint NOT NULL,
    recorded_at bigint NOT NULL,
    answer bytea NOT NULL
);

CREATE TABLE effects (
    shard integer NOT NULL,
    id uuid NOT NULL,
    effect text NOT NULL,
    PRIMARY KEY (shard, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE TABLE timers (
    shard integer NOT NULL,
    id uuid NOT NULL,
    due bigint NOT NULL,
    command text NOT NULL,
    PRIMARY KEY (shard, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE TABLE parked (
    shard integer NOT NULL,
    id uuid NOT NULL,
    at bigint NOT NULL,
    input text NOT NULL,
    reason text NOT NULL,
    ended_at bigint, -- microseconds since 1970; NULL as long as it is set aside
    ended_by text,
    ended_how text,
    PRIMARY KEY (shard, id)
);
CREATE INDEX parked_by_age ON parked (shard, at, id) WHERE ended_at IS NULL;

CREATE TABLE snapshots (
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    shape bytea NOT NULL,
    sequence bigint NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, shape)
);

CREATE TABLE checkpoints (
    name text COLLATE "C" NOT NULL, -- of whoever reads the log: a relay
    shard integer NOT NULL,
    position bigint NOT NULL, -- of the last event that it is done with
    PRIMARY KEY (name, shard)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE FUNCTION jangbu_never() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% are never changed and never deleted', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER events_are_not_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION jangbu_never();
CREATE TRIGGER batches_are_not_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON batches FOR EACH STATEMENT EXECUTE FUNCTION jangbu_never();

-- Whoever is no engine names no position: the row gets the next one, if no engine holds the shard. The head's row keeps others waiting
-- until this transaction ends, so the positions have no gap. An engine that takes the shard chains what it finds.
CREATE FUNCTION jangbu_number() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    now_micros constant bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    holder log_head%ROWTYPE;
    known integer;
BEGIN
    UPDATE log SET shards = 1 WHERE shards IS NULL;
    SELECT shards INTO known FROM log;
    IF known <> 1 THEN
        RAISE EXCEPTION 'this log has % shards: only its engine can say where an event belongs', known USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO log_head VALUES (0, 0, 0, decode(repeat('00', 32), 'hex'), 0, 0, '00000000-0000-0000-0000-000000000000', 0) ON CONFLICT DO NOTHING;
    SELECT * INTO holder FROM log_head WHERE shard = 0 FOR UPDATE;
    IF holder.heartbeat > now_micros - 10000000 THEN
        RAISE EXCEPTION 'an engine holds this log: send it a command, or stop it and wait for ten seconds' USING ERRCODE = 'insufficient_privilege';
    END IF;
    UPDATE log_head SET position = position + 1, recorded_at = greatest(recorded_at, now_micros) WHERE shard = 0
        RETURNING position, recorded_at INTO NEW.position, NEW.recorded_at;
    NEW.shard := 0;
    RETURN NEW;
END $$;
CREATE TRIGGER events_are_numbered BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.position = 0) EXECUTE FUNCTION jangbu_number();

-- Nothing goes in behind the head. In front of it every place is taken. The way in below sees to that itself, and says so: it would be
-- counted again with every batch of theirs. Who could say so too may insert whole rows: the owner alone, who could drop the trigger as well.
CREATE FUNCTION jangbu_behind_no_head() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM generate_series(0, (SELECT coalesce(shards, 1) - 1 FROM log)) AS of_log (shard) LEFT JOIN log_head USING (shard)
               WHERE EXISTS (SELECT FROM events WHERE events.shard = of_log.shard AND events.position > coalesce(log_head.position, 0)))
       OR EXISTS (SELECT FROM events WHERE events.shard >= (SELECT coalesce(shards, 1) FROM log)) THEN
        RAISE EXCEPTION 'events are appended with their batch, never put in' USING ERRCODE = 'insufficient_privilege';
    END IF;
    -- A row that was numbered and then not put in (ON CONFLICT DO NOTHING) would leave a gap.
    IF EXISTS (SELECT FROM log_head WHERE shard = 0 AND position > 0
               AND NOT EXISTS (SELECT FROM events WHERE events.shard = 0 AND events.position = log_head.position)) THEN
        RAISE EXCEPTION 'a row was numbered and not put in: leave ON CONFLICT away' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER events_are_behind_no_head AFTER INSERT ON events FOR EACH STATEMENT
    WHEN (current_setting('jangbu.appending', true) IS DISTINCT FROM 'yes') EXECUTE FUNCTION jangbu_behind_no_head();

-- The only way in: moves the head, which is the fence, and writes the events behind it.
CREATE FUNCTION jangbu_append(
    its_shard integer, its_epoch bigint, head bigint, its_previous_hash bytea, its_hash bytea, its_recorded_at bigint, its_orders_numbered bigint,
    kinds text[], ids text[], sequences bigint[], event_ids uuid[], types text[], versions text[], times bigint[], payloads text[], metadatas text[]
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    added constant bigint := cardinality(kinds);
BEGIN
    UPDATE log_head
        SET position = position + added, hash = its_hash, recorded_at = coalesce(its_recorded_at, recorded_at), orders_numbered = its_orders_numbered
        WHERE shard = its_shard AND epoch = its_epoch AND position = head AND hash = its_previous_hash;
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM log_head WHERE shard = its_shard AND epoch = its_epoch AND position = head) THEN
            RAISE EXCEPTION 'the batch does not follow the hash of the one before' USING ERRCODE = 'JB002';
        END IF;
        RAISE EXCEPTION 'another writer took over shard %', its_shard USING ERRCODE = 'JB001';
    END IF;
    IF added > 0 THEN
        PERFORM set_config('jangbu.appending', 'yes', true);
        INSERT INTO events (shard, position, aggregate_type, aggregate_id, sequence, event_id, event_type, event_version, recorded_at, payload, metadata)
            SELECT its_shard, head + n, kind, id, sequence, event_id, type, version, at, payload::json, metadata::json
            FROM unnest(kinds, ids, sequences, event_ids, types, versions, times, payloads, metadatas)
                WITH ORDINALITY AS event (kind, id, sequence, event_id, type, version, at, payload, metadata, n);
        PERFORM set_config('jangbu.appending', '', true);
        INSERT INTO batches VALUES (its_shard, head + added, its_previous_hash, its_hash, its_epoch);
    END IF;
END $$;

-- What somebody else put in while no engine held the shard becomes a batch.
CREATE FUNCTION jangbu_chain(its_shard integer, its_epoch bigint, last bigint, its_previous_hash bytea, its_hash bytea)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE log_head SET hash = its_hash WHERE shard = its_shard AND epoch = its_epoch AND position >= last AND hash = its_previous_hash;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another writer took over shard %', its_shard USING ERRCODE = 'JB001';
    END IF;
    INSERT INTO batches VALUES (its_shard, last, its_previous_hash, its_hash, its_epoch);
END $$;
REVOKE EXECUTE ON FUNCTION jangbu_append, jangbu_chain, jangbu_number, jangbu_behind_no_head FROM PUBLIC;

CREATE FUNCTION jangbu_unpark(its_shard integer, ids uuid[], ats bigint[], bys text[], hows text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1 .. cardinality(ids) LOOP
        UPDATE parked SET ended_at = ats[n], ended_by = bys[n], ended_how = hows[n]
            WHERE shard = its_shard AND id = ids[n] AND ended_at IS NULL;
        IF NOT FOUND THEN
            RAISE EXCEPTION '% is not set aside', ids[n] USING ERRCODE = 'JB002';
        END IF;
    END LOOP;
END $$;
"#;

/// What roles may do, least first. Each is given by the owner, to roles that are there.
pub(crate) const GRANT_READING: &str =
    "GRANT SELECT ON log, log_head, events, batches, idempotency, effects, timers, parked, snapshots, checkpoints, jangbu_schemas TO";

pub(crate) const GRANT_WRITING: &[&str] = &[
    "GRANT INSERT ON log_head, idempotency, effects, timers, parked, snapshots TO",
    "GRANT UPDATE (shards) ON log TO",
    "GRANT UPDATE (epoch, instance, heartbeat) ON log_head TO",
    "GRANT UPDATE ON effects, timers, parked, snapshots TO",
    "GRANT DELETE ON effects, timers TO",
    "GRANT EXECUTE ON FUNCTION jangbu_append, jangbu_chain TO",
];

/// Of a relay: it reads, and says how far it is.
pub(crate) const GRANT_RELAYING: &str = "GRANT INSERT, UPDATE ON checkpoints TO";

/// Of a program that writes through postgres-es while no engine does.
pub(crate) const GRANT_FOREIGN: &[&str] = &[
    "GRANT SELECT ON events TO",
    "GRANT INSERT (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata) ON events TO",
];
