//! Files that are not what they should be.

use projections_sqlite::{FILE, OpenError, SqliteViews};
use rusqlite::Connection;

fn refused(data_dir: &std::path::Path) -> OpenError {
    let error = SqliteViews::open(data_dir).expect_err("a refusal");
    assert_eq!(error.to_string().lines().count(), 1);
    error
}

#[test]
fn a_newer_format_is_refused_in_one_line() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(SqliteViews::open(directory.path()).expect("views"));
    Connection::open(directory.path().join(FILE))
        .expect("the file")
        .pragma_update(None, "user_version", 99)
        .expect("a change");
    assert!(matches!(refused(directory.path()), OpenError::Newer { found: 99, .. }));
}

#[test]
fn a_file_of_somebody_else_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(FILE);
    Connection::open(&path)
        .expect("a file")
        .execute_batch("CREATE TABLE diary (text TEXT)")
        .expect("a table");
    let error = refused(directory.path());
    assert!(
        error.to_string().contains("is not a file of views: move or delete the file"),
        "{error}"
    );
    assert!(
        Connection::open(&path)
            .expect("the file")
            .table_exists(None, "diary")
            .expect("an answer")
    );
}

#[test]
fn a_file_that_is_not_sqlite_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(
        directory.path().join(FILE),
        "not a database, but long enough to be looked at ".repeat(40),
    )
    .expect("a file");
    assert!(matches!(refused(directory.path()), OpenError::Unusable { .. }));
}

#[test]
fn a_directory_that_is_not_there_is_said() {
    let directory = tempfile::tempdir().expect("a directory");
    assert!(matches!(refused(&directory.path().join("missing")), OpenError::Unavailable { .. }));
}
