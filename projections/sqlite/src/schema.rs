//! The tables. Every row is the view as JSON, beside what it is found by.

use sqlite_file::Mark;

/// The file's layout; the shapes of the views are in their names.
pub(crate) const FORMAT: i64 = 1;

/// Marks the file as ours: "JBVW".
pub(crate) const OURS: Mark = Mark {
    application: 0x4A42_5657,
    format: FORMAT,
};

/// One index for each question: by id, number and tracking id; a buyer's, a seller's and all orders by time; and the few that are
/// under way by status, and those whose purchase is, into which an order that is confirmed at once never comes.
pub(crate) const TABLES: &str = "
    CREATE TABLE views (one INTEGER PRIMARY KEY CHECK (one = 1), names TEXT NOT NULL, log BLOB) STRICT;
    CREATE TABLE checkpoints (shard INTEGER PRIMARY KEY, position INTEGER NOT NULL, recorded_at INTEGER NOT NULL) STRICT;

    CREATE TABLE orders_v2 (
        row INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        number TEXT NOT NULL,
        tracking BLOB NOT NULL,
        buyer BLOB NOT NULL,
        placed_at INTEGER NOT NULL,
        status TEXT NOT NULL,
        open INTEGER NOT NULL,
        purchase INTEGER NOT NULL,
        names TEXT NOT NULL,
        data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX orders_v2_number ON orders_v2 (number);
    CREATE INDEX orders_v2_tracking ON orders_v2 (tracking);
    CREATE INDEX orders_v2_placed ON orders_v2 (placed_at, id);
    CREATE INDEX orders_v2_buyer ON orders_v2 (buyer, placed_at, id);
    CREATE INDEX orders_v2_open ON orders_v2 (status, placed_at, id) WHERE open = 1;
    CREATE INDEX orders_v2_purchase ON orders_v2 (placed_at, id) WHERE purchase = 1;
    CREATE TABLE order_sellers_v1 (
        seller BLOB NOT NULL,
        placed_at INTEGER NOT NULL,
        id BLOB NOT NULL,
        PRIMARY KEY (seller, placed_at, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE seller_buyers_v1 (seller BLOB NOT NULL, buyer BLOB NOT NULL, PRIMARY KEY (seller, buyer)) STRICT, WITHOUT ROWID;

    CREATE TABLE products_v1 (
        id BLOB NOT NULL PRIMARY KEY,
        seller BLOB NOT NULL,
        created_at INTEGER NOT NULL,
        retired INTEGER NOT NULL,
        names TEXT NOT NULL,
        data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX products_v1_created ON products_v1 (created_at, id);
    CREATE INDEX products_v1_seller ON products_v1 (seller, created_at, id);

    CREATE TABLE inventories_v1 (id BLOB NOT NULL PRIMARY KEY, data TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE payments_v1 (id BLOB NOT NULL PRIMARY KEY, data TEXT NOT NULL) STRICT;
    CREATE TABLE wallets_v1 (id BLOB NOT NULL PRIMARY KEY, data TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE wallet_entries_v1 (
        account BLOB NOT NULL,
        sequence INTEGER NOT NULL,
        data TEXT NOT NULL,
        PRIMARY KEY (account, sequence)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE accounts_v1 (id BLOB NOT NULL PRIMARY KEY, data TEXT NOT NULL) STRICT, WITHOUT ROWID;
";
