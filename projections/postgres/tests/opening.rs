//! Databases that are not what they should be, and roles that may not do everything.

mod database;

use database::{Shared, address, anybody};
use projections::{ViewsWriter, conformance::Place};
use projections_postgres::{OpenError, PostgresViews};
use test_servers::Postgres;
use uuid::Uuid;

fn refused(url: &str) -> OpenError {
    let error = PostgresViews::open(&address(url)).expect_err("a refusal");
    assert_eq!(error.to_string().lines().count(), 1);
    error
}

#[test]
fn views_of_a_newer_version_are_left_alone() {
    let place = Shared::new();
    drop(place.open());
    place
        .anybody()
        .script("UPDATE jangbu_schemas SET version = 99 WHERE name = 'views'")
        .expect("a change");
    let error = refused(place.url()).to_string();
    assert!(error.contains("version 99"), "{error}");
    assert!(place.open_read_only().is_err());
}

#[test]
fn views_that_were_dropped_are_made_again() {
    let place = Shared::new();
    drop(place.open());
    place.anybody().script("DROP SCHEMA jangbu_views CASCADE").expect("a change");
    assert!(place.open_read_only().is_err());
    let (mut writer, views) = database::take(place.url());
    writer.reset(Uuid::from_u128(1)).expect("new views");
    assert!(views.positions().expect("positions").is_empty());
}

#[test]
fn a_database_without_views_is_not_made_into_one_by_whoever_only_reads() {
    let place = Shared::new();
    let error = PostgresViews::open_read_only(&address(place.url()))
        .expect_err("a refusal")
        .to_string();
    assert!(error.contains("run `jangbu migrate`"), "{error}");
    let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
    assert!(database::texts(&place.anybody(), tables).is_empty());
}

#[test]
fn many_that_open_new_views_at_once_make_them_once() {
    let place = Shared::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| place.open().0.stored().expect("what is stored"));
        }
    });
}

#[test]
fn a_server_that_is_not_there_is_said_without_its_password() {
    let place = Shared::new();
    let wrong = place.url().replace("jangbu@", "jangbu:s3cret@").replace("/jangbu_test", "/nothing");
    let error = refused(&wrong).to_string();
    assert!(error.contains("/nothing") && !error.contains("s3cret"), "{error}");
}

#[test]
fn a_role_that_may_not_make_tables_keeps_views_that_their_owner_made() {
    let server = Postgres::start();
    let database = server.database();
    let owner = anybody(database.url());
    owner.script("CREATE ROLE shop LOGIN").expect("a role");
    let url = database.url().replace("jangbu@", "shop@");
    let error = refused(&url).to_string();
    assert!(error.contains("run `jangbu migrate`"), "{error}");
    PostgresViews::migrate(&address(database.url())).expect("made");
    owner
        .script(
            "GRANT SELECT ON jangbu_schemas TO shop; GRANT USAGE ON SCHEMA jangbu_views TO shop;
             GRANT SELECT, INSERT, UPDATE, TRUNCATE ON ALL TABLES IN SCHEMA jangbu_views TO shop",
        )
        .expect("grants");
    let (mut writer, views) = PostgresViews::open(&address(&url)).expect("views");
    writer.take().expect("nobody else keeps them");
    let log = Uuid::from_u128(1);
    writer.reset(log).expect("new views");
    assert_eq!(writer.stored().expect("what is stored").log, Some(log));
    projections::Views::positions(&*views).expect("positions");
    owner.script("UPDATE jangbu_views.views SET names = 'orders_v0'").expect("a change");
    assert!(matches!(refused(&url), OpenError::OtherShapes { .. }));
}
