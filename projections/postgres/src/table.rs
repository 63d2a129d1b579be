//! What is written of each view, and how: many rows in one statement.

use postgres_session::ToSql;
use projections::{
    AccountView, Accounts, Inventories, InventoryView, OrderView, Orders, PaymentView, Payments, ProductView, Products, Projection,
    WalletView, Wallets,
    sql::{names_of_order, names_of_product, under_way},
};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

/// One column of many rows.
pub(crate) type Column = Box<dyn ToSql + Sync>;

/// A view that has a table. Of each statement the first value is the rows' ids, the second the rows as JSON.
pub(crate) trait Row: Serialize + DeserializeOwned {
    /// Where it is.
    const TABLE: &'static str;
    /// Adds rows.
    const INSERT: &'static str;
    /// Changes what may change, of as many rows as there are ids.
    const UPDATE: &'static str;

    fn id(&self) -> Uuid;

    /// What an insert takes besides.
    fn columns(_: &[&Self]) -> Vec<Column> {
        Vec::new()
    }

    /// What an update takes besides.
    fn changing(_: &[&Self]) -> Vec<Column> {
        Vec::new()
    }
}

/// Rows by id, as id and JSON.
pub(crate) fn by_id(table: &str) -> String {
    format!("SELECT id, data::text FROM jangbu_views.{table} WHERE id = ANY($1)")
}

fn column<V, T: ToSql + Sync + 'static>(rows: &[&V], of: impl Fn(&V) -> T) -> Column
where
    Vec<T>: ToSql,
{
    Box::new(rows.iter().map(|row| of(row)).collect::<Vec<T>>())
}

impl Row for OrderView {
    const TABLE: &'static str = Orders::NAME;
    const INSERT: &'static str = "
        INSERT INTO jangbu_views.orders_v2 (id, data, number, tracking, buyer, placed_at, status, open, purchase, names)
        SELECT n.id, n.data::json, n.number, n.tracking, n.buyer, n.placed_at, n.status, n.open, n.purchase, n.names
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::uuid[], $6::bigint[], $7::text[], $8::boolean[], $9::boolean[],
            $10::text[]) WITH ORDINALITY AS n(id, data, number, tracking, buyer, placed_at, status, open, purchase, names, nth)
        ORDER BY n.nth";
    const UPDATE: &'static str = "
        WITH changed AS (
            UPDATE jangbu_views.orders_v2 o SET data = n.data::json, status = n.status, open = n.open, purchase = n.purchase
            FROM unnest($1::uuid[], $2::text[], $3::text[], $4::boolean[], $5::boolean[]) AS n(id, data, status, open, purchase)
            WHERE o.id = n.id RETURNING 1
        ) SELECT jangbu_views.expect_rows((SELECT count(*) FROM changed), cardinality($1::uuid[]))";

    fn id(&self) -> Uuid {
        self.id.uuid()
    }

    fn columns(orders: &[&Self]) -> Vec<Column> {
        vec![
            column(orders, |order| order.number.as_str().replace('\0', "\u{ffff}")),
            column(orders, |order| order.tracking.uuid()),
            column(orders, |order| order.buyer.uuid()),
            column(orders, |order| order.placed_at.micros()),
            column(orders, |order| order.status.name()),
            column(orders, |order| under_way(order.status)),
            column(orders, OrderView::purchase_under_way),
            column(orders, names_of_order),
        ]
    }

    fn changing(orders: &[&Self]) -> Vec<Column> {
        vec![
            column(orders, |order| order.status.name()),
            column(orders, |order| under_way(order.status)),
            column(orders, OrderView::purchase_under_way),
        ]
    }
}

impl Row for ProductView {
    const TABLE: &'static str = Products::NAME;
    const INSERT: &'static str = "
        INSERT INTO jangbu_views.products_v1 (id, data, seller, created_at, retired, names)
        SELECT n.id, n.data::json, n.seller, n.created_at, n.retired, n.names
        FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::bigint[], $5::boolean[], $6::text[])
            AS n(id, data, seller, created_at, retired, names)";
    const UPDATE: &'static str = "
        WITH changed AS (
            UPDATE jangbu_views.products_v1 o SET data = n.data::json, retired = n.retired, names = n.names
            FROM unnest($1::uuid[], $2::text[], $3::boolean[], $4::text[]) AS n(id, data, retired, names)
            WHERE o.id = n.id RETURNING 1
        ) SELECT jangbu_views.expect_rows((SELECT count(*) FROM changed), cardinality($1::uuid[]))";

    fn id(&self) -> Uuid {
        self.id.uuid()
    }

    fn columns(products: &[&Self]) -> Vec<Column> {
        vec![
            column(products, |product| product.seller.uuid()),
            column(products, |product| product.created_at.micros()),
            column(products, |product| product.retired),
            column(products, names_of_product),
        ]
    }

    fn changing(products: &[&Self]) -> Vec<Column> {
        vec![column(products, |product| product.retired), column(products, names_of_product)]
    }
}

macro_rules! plain_row {
    ($view:ty, $projection:ty, $table:literal, $id:ident) => {
        impl Row for $view {
            const TABLE: &'static str = <$projection>::NAME;
            const INSERT: &'static str = concat!(
                "INSERT INTO jangbu_views.",
                $table,
                " (id, data) SELECT n.id, n.data::json FROM unnest($1::uuid[], $2::text[]) AS n(id, data)"
            );
            const UPDATE: &'static str = concat!(
                "WITH changed AS (UPDATE jangbu_views.",
                $table,
                " o SET data = n.data::json FROM unnest($1::uuid[], $2::text[]) AS n(id, data) WHERE o.id = n.id RETURNING 1)
                SELECT jangbu_views.expect_rows((SELECT count(*) FROM changed), cardinality($1::uuid[]))"
            );

            fn id(&self) -> Uuid {
                self.$id.uuid()
            }
        }
    };
}

plain_row!(InventoryView, Inventories, "inventories_v1", product);
plain_row!(PaymentView, Payments, "payments_v1", id);
plain_row!(WalletView, Wallets, "wallets_v1", account);
plain_row!(AccountView, Accounts, "accounts_v1", id);
