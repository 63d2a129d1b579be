//! The tables.

use postgres_session::Schema;

/// The keys, as a database holds them.
///
/// `vault` has one row, which is there when the shop has its keys; it counts what nodes have to hear of. A removal takes that row, so
/// removals are numbered (as erasures) in the order in which they become visible. A subject that was erased keeps its row, without a key; one
/// that was discarded keeps it for a while, until all nodes have heard of it, and may have another key.
pub(crate) const SCHEMA: Schema = Schema {
    name: "keys",
    steps: &[V1, V2],
};

const V1: &str = "
        CREATE TABLE vault (
            one boolean PRIMARY KEY DEFAULT true CHECK (one),
            made_at timestamptz NOT NULL DEFAULT now(),
            erasures bigint NOT NULL DEFAULT 0,
            rotations bigint NOT NULL DEFAULT 0
        );
        CREATE TABLE shop_keys (
            name text COLLATE \"C\" PRIMARY KEY CHECK (name IN ('index', 'fingerprint', 'token-current', 'token-previous')),
            key bytea NOT NULL CHECK (octet_length(key) = 32),
            mark text COLLATE \"C\" NOT NULL,
            made_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE TABLE subject_keys (
            subject uuid PRIMARY KEY,
            key bytea CHECK (octet_length(key) = 32),
            mark text COLLATE \"C\",
            made_at timestamptz NOT NULL DEFAULT now(),
            erasure bigint,
            erased_at timestamptz,
            CHECK ((key IS NULL) = (mark IS NULL)),
            CHECK ((key IS NULL) = (erasure IS NOT NULL)),
            CHECK ((key IS NULL) = (erased_at IS NOT NULL))
        );
        CREATE UNIQUE INDEX subject_keys_erasure ON subject_keys (erasure) WHERE erasure IS NOT NULL;
        COMMENT ON TABLE subject_keys IS 'Keys in the clear: whoever reads this table opens what was sealed. Back it up apart from the log.';
";

const V2: &str = "
        ALTER TABLE subject_keys ADD COLUMN discarded boolean NOT NULL DEFAULT false CHECK (NOT discarded OR key IS NULL);
        CREATE INDEX subject_keys_discarded ON subject_keys (erasure) WHERE discarded;
";

/// All keys of a new shop, or none of them: whoever comes second waits for the first, and changes nothing.
pub(crate) const MAKE: &str = "
    WITH made AS (INSERT INTO vault DEFAULT VALUES ON CONFLICT DO NOTHING RETURNING one)
    INSERT INTO shop_keys (name, key, mark)
    SELECT proposed.name, proposed.key, proposed.mark
    FROM made, unnest($1::text[], $2::bytea[], $3::text[]) AS proposed (name, key, mark)";

/// A key of access tokens where there is none. The other nodes hear of it as of a rotation.
pub(crate) const ADD_TOKEN: &str = "
    WITH added AS (
        INSERT INTO shop_keys (name, key, mark) VALUES ('token-current', $1, $2) ON CONFLICT DO NOTHING RETURNING name
    )
    UPDATE vault SET rotations = rotations + 1 FROM added";

pub(crate) const IS_MADE: &str = "SELECT one FROM vault";

pub(crate) const SHOP_KEYS: &str = "SELECT name, key, mark FROM shop_keys";

/// Of several that count from the same rotation, one turns.
pub(crate) const ROTATE: &str = "
    WITH turned AS (UPDATE vault SET rotations = rotations + 1 WHERE rotations = $1 RETURNING rotations),
         kept AS (
             INSERT INTO shop_keys (name, key, mark, made_at)
             SELECT 'token-previous', current.key, current.mark, current.made_at
             FROM turned, shop_keys AS current WHERE current.name = 'token-current'
             ON CONFLICT (name) DO UPDATE SET key = EXCLUDED.key, mark = EXCLUDED.mark, made_at = EXCLUDED.made_at
         )
    INSERT INTO shop_keys (name, key, mark) SELECT 'token-current', $2::bytea, $3::text FROM turned
    ON CONFLICT (name) DO UPDATE SET key = EXCLUDED.key, mark = EXCLUDED.mark, made_at = EXCLUDED.made_at";

pub(crate) const COUNTS: &str = "SELECT erasures, rotations FROM vault";

pub(crate) const GONE_BETWEEN: &str = "SELECT subject FROM subject_keys WHERE erasure > $1 AND erasure <= $2";

pub(crate) const SUBJECT: &str = "SELECT subject, key, mark FROM subject_keys WHERE subject = $1";

pub(crate) const CREATE_SUBJECT: &str = "
    INSERT INTO subject_keys (subject, key, mark) VALUES ($1, $2, $3)
    ON CONFLICT (subject) DO UPDATE
    SET key = EXCLUDED.key, mark = EXCLUDED.mark, made_at = EXCLUDED.made_at, erasure = NULL, erased_at = NULL, discarded = false
    WHERE subject_keys.discarded";

pub(crate) const CREATE_SUBJECTS: &str = "
    INSERT INTO subject_keys (subject, key, mark)
    SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::text[])
    ON CONFLICT (subject) DO UPDATE
    SET key = EXCLUDED.key, mark = EXCLUDED.mark, made_at = EXCLUDED.made_at, erasure = NULL, erased_at = NULL, discarded = false
    WHERE subject_keys.discarded";

pub(crate) const SAME_SUBJECTS: &str = "
    SELECT count(*) FROM unnest($1::uuid[], $2::bytea[]) AS proposed (subject, key)
    JOIN subject_keys AS kept ON kept.subject = proposed.subject AND kept.key = proposed.key";

/// A subject that never had a key is marked too: one may be on its way.
pub(crate) const ERASE: &str = "
    WITH numbered AS (UPDATE vault SET erasures = erasures + 1 RETURNING erasures)
    INSERT INTO subject_keys (subject, key, mark, erasure, erased_at) SELECT $1::uuid, NULL, NULL, erasures, now() FROM numbered
    ON CONFLICT (subject) DO UPDATE
    SET key = NULL, mark = NULL, erasure = EXCLUDED.erasure, erased_at = EXCLUDED.erased_at, discarded = false
    WHERE subject_keys.key IS NOT NULL OR subject_keys.discarded";

pub(crate) const IS_ERASED: &str = "SELECT key IS NULL AND NOT discarded FROM subject_keys WHERE subject = $1";

/// It keeps its number until nobody asks for it by name any more: whoever has not looked for `$2` removals forgets all.
pub(crate) const DISCARD: &str = "
    WITH numbered AS (UPDATE vault SET erasures = erasures + 1 RETURNING erasures),
         heard AS (DELETE FROM subject_keys USING numbered WHERE discarded AND erasure < erasures - $2 AND subject <> $1)
    UPDATE subject_keys SET key = NULL, mark = NULL, erasure = erasures, erased_at = now(), discarded = true
    FROM numbered WHERE subject = $1 AND key IS NOT NULL";

pub(crate) const SUBJECTS: &str =
    "SELECT subject, key, mark FROM subject_keys WHERE subject >= $1 AND key IS NOT NULL ORDER BY subject LIMIT $2";
