//! The tables. Every row is the view as JSON, beside what it is found by.

use postgres_session::Schema;

/// What does not depend on the shapes of the views, which are in the names of their tables: whose log they were folded from, how far, and
/// what keeps a transaction all or nothing although its statements do not wait for one another.
///
/// Whoever changes [`projections::NAMES`] adds a step, which may do nothing: an older program is then refused, instead of dropping what the
/// newer one filled.
pub(crate) const SCHEMA: Schema = Schema {
    name: "views",
    steps: &[V1, V2],
};

const V1: &str = "
    CREATE SCHEMA IF NOT EXISTS jangbu_views;
    CREATE TABLE jangbu_views.views (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        names text COLLATE \"C\" NOT NULL,
        log uuid
    );
    INSERT INTO jangbu_views.views (names) VALUES ('');
    CREATE TABLE jangbu_views.checkpoints (shard integer PRIMARY KEY, position bigint NOT NULL, recorded_at bigint NOT NULL);

    -- Moves each checkpoint from where the writer believes it to be, or ends the transaction. One of 0 is not there yet.
    CREATE FUNCTION jangbu_views.move_checkpoints(shards integer[], froms bigint[], tos bigint[], times bigint[])
    RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        FOR i IN 1 .. cardinality(shards) LOOP
            IF froms[i] = 0 THEN
                INSERT INTO jangbu_views.checkpoints VALUES (shards[i], tos[i], times[i]) ON CONFLICT DO NOTHING;
            ELSE
                UPDATE jangbu_views.checkpoints c SET position = tos[i], recorded_at = times[i]
                WHERE c.shard = shards[i] AND c.position = froms[i];
            END IF;
            IF NOT FOUND THEN
                RAISE EXCEPTION USING ERRCODE = 'JV001', MESSAGE = shards[i]::text;
            END IF;
        END LOOP;
    END $$;

    -- Ends the transaction when fewer rows were changed than there should have been.
    CREATE FUNCTION jangbu_views.expect_rows(changed bigint, wanted bigint) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        IF changed <> wanted THEN
            RAISE EXCEPTION USING ERRCODE = 'JV002', MESSAGE = 'a row is missing';
        END IF;
    END $$;
";

/// One process at a time keeps the views: the holder, under an epoch that grows with each that takes them. Every transaction that writes says
/// under which, so one that was taken for dead and comes back writes nothing. The times are the server's own.
///
/// A holder whose session has ended is gone. One whose session is there gives a sign of life with each batch, and every second at least;
/// after five without one anybody may take its place.
const V2: &str = "
    ALTER TABLE jangbu_views.views
        ADD epoch bigint NOT NULL DEFAULT 0,
        ADD holder uuid, -- a writer; NULL when it gave the views up
        ADD backend integer, -- the server's process that serves it, and since when
        ADD backend_start timestamptz,
        ADD seen_at timestamptz NOT NULL DEFAULT '-infinity';
    -- It changes with every batch.
    ALTER TABLE jangbu_views.views SET (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
    ALTER TABLE jangbu_views.checkpoints SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

    CREATE FUNCTION jangbu_views.is_free(held jangbu_views.views, writer uuid) RETURNS boolean LANGUAGE sql AS $$
        SELECT held.holder IS NULL OR held.holder = writer OR held.seen_at < clock_timestamp() - interval '5 seconds'
            OR NOT EXISTS (
                -- When it began is not for every role to see.
                SELECT 1 FROM pg_catalog.pg_stat_activity a
                WHERE a.pid = held.backend AND coalesce(a.backend_start, held.backend_start) = held.backend_start
            )
    $$;

    -- Returns the new epoch, or none and the process that serves the holder.
    CREATE FUNCTION jangbu_views.take(writer uuid, shapes text, OUT taken bigint, OUT holder integer) LANGUAGE plpgsql AS $$
    DECLARE
        held jangbu_views.views%ROWTYPE;
    BEGIN
        SELECT * INTO held FROM jangbu_views.views;
        -- Whoever only asks whether the holder lives does not get in its way.
        IF jangbu_views.is_free(held, writer) THEN
            SELECT * INTO held FROM jangbu_views.views FOR UPDATE;
            -- What was seen before may be what another who takes them has not changed yet.
            PERFORM pg_stat_clear_snapshot();
            IF held.names <> shapes THEN
                RAISE EXCEPTION USING ERRCODE = 'JV004', MESSAGE = 'the views are of another version';
            END IF;
            IF jangbu_views.is_free(held, writer) THEN
                taken := held.epoch + 1;
                UPDATE jangbu_views.views v SET epoch = taken, holder = writer, seen_at = clock_timestamp(),
                    backend = a.pid, backend_start = a.backend_start
                FROM pg_catalog.pg_stat_activity a WHERE a.pid = pg_backend_pid();
            END IF;
        END IF;
        holder := held.backend;
    END $$;

    -- Ends the transaction of a writer that no longer keeps the views; the others wait until this transaction has ended.
    CREATE FUNCTION jangbu_views.keep(writer uuid, under bigint) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE jangbu_views.views v SET seen_at = clock_timestamp() WHERE v.holder = writer AND v.epoch = under;
        IF NOT FOUND THEN
            RAISE EXCEPTION USING ERRCODE = 'JV003', MESSAGE = 'another process has taken the views';
        END IF;
    END $$;

    -- By its first name programs find it that do not ask who keeps the views.
    ALTER FUNCTION jangbu_views.move_checkpoints RENAME TO set_checkpoints;
    CREATE FUNCTION jangbu_views.advance(writer uuid, under bigint, shards integer[], froms bigint[], tos bigint[], times bigint[])
    RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM jangbu_views.keep(writer, under);
        PERFORM jangbu_views.set_checkpoints(shards, froms, tos, times);
        NOTIFY jangbu_views;
    END $$;
";

/// A checkpoint was not where the writer believed; the message is its shard.
pub(crate) const MOVED: &str = "JV001";

/// A row that was to be changed is not there.
pub(crate) const MISSING: &str = "JV002";

/// Another process keeps the views.
pub(crate) const TAKEN: &str = "JV003";

/// Those who listen on it hear of every batch that was saved.
pub(crate) const CHANNEL: &str = "jangbu_views";

/// The tables of today's shapes. One index for each question: by id, number and tracking id; a buyer's, a seller's and all orders by time;
/// and the few that are under way by status, and those whose purchase is, into which an order that is confirmed at once never comes.
///
/// Rows that change all the time leave room on their page, so that a change touches no index. Where there is one buyer, one
/// seller or one status, there may be more tomorrow: no plan is made for the one (`n_distinct`).
pub(crate) const TABLES: &str = "
    CREATE TABLE jangbu_views.orders_v2 (
        nth bigint GENERATED ALWAYS AS IDENTITY,
        id uuid PRIMARY KEY,
        number text COLLATE \"C\" NOT NULL,
        tracking uuid NOT NULL,
        buyer uuid NOT NULL,
        placed_at bigint NOT NULL,
        status text COLLATE \"C\" NOT NULL,
        open boolean NOT NULL,
        purchase boolean NOT NULL,
        names text COLLATE \"C\" NOT NULL,
        data json NOT NULL
    ) WITH (fillfactor = 80);
    ALTER TABLE jangbu_views.orders_v2 ALTER COLUMN buyer SET (n_distinct = -0.2);
    ALTER TABLE jangbu_views.orders_v2 ALTER COLUMN status SET (n_distinct = 1000);
    CREATE INDEX orders_v2_number ON jangbu_views.orders_v2 (number, nth);
    CREATE INDEX orders_v2_tracking ON jangbu_views.orders_v2 (tracking);
    CREATE INDEX orders_v2_placed ON jangbu_views.orders_v2 (placed_at, id);
    CREATE INDEX orders_v2_buyer ON jangbu_views.orders_v2 (buyer, placed_at, id);
    CREATE INDEX orders_v2_open ON jangbu_views.orders_v2 (status, placed_at, id) WHERE open;
    CREATE INDEX orders_v2_purchase ON jangbu_views.orders_v2 (placed_at, id) WHERE purchase;
    CREATE TABLE jangbu_views.order_sellers_v1 (
        seller uuid NOT NULL,
        placed_at bigint NOT NULL,
        id uuid NOT NULL,
        PRIMARY KEY (seller, placed_at, id)
    );
    CREATE TABLE jangbu_views.seller_buyers_v1 (seller uuid NOT NULL, buyer uuid NOT NULL, PRIMARY KEY (seller, buyer));

    CREATE TABLE jangbu_views.products_v1 (
        id uuid PRIMARY KEY,
        seller uuid NOT NULL,
        created_at bigint NOT NULL,
        retired boolean NOT NULL,
        names text COLLATE \"C\" NOT NULL,
        data json NOT NULL
    ) WITH (fillfactor = 80);
    ALTER TABLE jangbu_views.products_v1 ALTER COLUMN seller SET (n_distinct = -0.2);
    CREATE INDEX products_v1_created ON jangbu_views.products_v1 (created_at, id);
    CREATE INDEX products_v1_seller ON jangbu_views.products_v1 (seller, created_at, id);

    CREATE TABLE jangbu_views.inventories_v1 (id uuid PRIMARY KEY, data json NOT NULL) WITH (fillfactor = 50);
    CREATE TABLE jangbu_views.payments_v1 (id uuid PRIMARY KEY, data json NOT NULL) WITH (fillfactor = 70);
    CREATE TABLE jangbu_views.wallets_v1 (id uuid PRIMARY KEY, data json NOT NULL) WITH (fillfactor = 50);
    CREATE TABLE jangbu_views.wallet_entries_v1 (
        account uuid NOT NULL,
        sequence bigint NOT NULL,
        data json NOT NULL,
        PRIMARY KEY (account, sequence)
    );
    CREATE TABLE jangbu_views.accounts_v1 (id uuid PRIMARY KEY, data json NOT NULL);
";

/// Empties today's tables and their checkpoints.
pub(crate) const EMPTY: &str = "TRUNCATE jangbu_views.checkpoints, jangbu_views.orders_v2, jangbu_views.order_sellers_v1,
    jangbu_views.seller_buyers_v1, jangbu_views.products_v1, jangbu_views.inventories_v1, jangbu_views.payments_v1,
    jangbu_views.wallets_v1, jangbu_views.wallet_entries_v1, jangbu_views.accounts_v1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_are_named_anew_have_a_step_of_their_own() {
        let shapes = "orders_v2 products_v1 inventories_v1 payments_v1 wallets_v1 wallet_entries_v1 accounts_v1";
        assert_eq!((projections::NAMES.join(" ").as_str(), SCHEMA.version()), (shapes, 2));
    }

    #[test]
    fn every_table_is_emptied() {
        for made in TABLES.split("CREATE TABLE ").skip(1) {
            let name = made.split_whitespace().next().expect("a name");
            assert!(EMPTY.contains(name), "{name}");
        }
        for view in projections::NAMES {
            assert!(EMPTY.contains(view), "{view}");
        }
    }
}
