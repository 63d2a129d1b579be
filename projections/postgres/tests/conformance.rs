//! The suite that every store of views passes, on PostgreSQL.

mod database;

use database::Shared;

projections::conformance_suite!(Shared::new());
