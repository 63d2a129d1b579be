//! Files that a shop has open, copies of them, and files that are not there.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use rusqlite::Connection;
use sqlite_file::{Mark, Standing, beside, look, open_to_look, too_old};

fn names(directory: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    names.sort();
    names
}

/// A file that is being written, with one number in its write-ahead log.
fn written(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("a file");
    connection.pragma_update(None, "journal_mode", "wal").expect("a write-ahead log");
    connection
        .execute_batch("CREATE TABLE numbers (number INTEGER); INSERT INTO numbers VALUES (1)")
        .expect("written");
    connection
}

fn sum(connection: &Connection) -> i64 {
    connection
        .query_row("SELECT sum(number) FROM numbers", [], |row| row.get(0))
        .expect("read")
}

#[test]
fn a_file_that_is_written_is_read_as_it_becomes() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let path = scratch.path().join("a.db");
    let writer = written(&path);
    let before = names(scratch.path());
    let (reader, standing) = look(&path).expect("a connection");
    assert!(standing.is_some_and(|standing| standing.is_live()));
    assert_eq!(sum(&reader), 1);
    writer.execute_batch("INSERT INTO numbers VALUES (2)").expect("written");
    assert_eq!(sum(&reader), 3);
    reader.execute_batch("DELETE FROM numbers").expect_err("it only reads");
    assert_eq!(names(scratch.path()), before);
}

#[test]
fn a_copy_is_read_with_its_write_ahead_log_and_gets_no_file_beside_it() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let path = scratch.path().join("a.db");
    let writer = written(&path);
    // A name that a URI would understand otherwise.
    let copies = scratch.path().join("a %41?b#c");
    fs::create_dir(&copies).expect("made");
    let (copy, still) = (copies.join("copy.db"), copies.join("still.db"));
    fs::copy(&path, &copy).expect("copied");
    fs::copy(beside(&path, "-wal"), beside(&copy, "-wal")).expect("copied");
    drop(writer);
    fs::copy(&path, &still).expect("copied");
    let before = names(&copies);
    for file in [&copy, &still] {
        let (reader, standing) = look(file).expect("a connection");
        assert!(standing.is_some_and(|standing| !standing.is_live()));
        assert_eq!(sum(&reader), 1);
        reader.execute_batch("DELETE FROM numbers").expect_err("it only reads");
        drop(reader);
        assert_eq!(names(&copies), before);
    }
}

#[test]
fn what_becomes_of_a_file_shows() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let path = scratch.path().join("a.db");
    let now = || Standing::of(&path).expect("it is there");
    let writer = written(&path);
    let live = now();
    writer.execute_batch("INSERT INTO numbers VALUES (2)").expect("written");
    assert!(!now().is_stale(&live), "SQLite sees to it");
    drop(writer);
    let still = now();
    assert!(still.is_stale(&live) && !still.is_another(&live) && !still.is_shorter(&live));
    assert_eq!(now(), still);

    let file = fs::OpenOptions::new().write(true).open(&path).expect("the file");
    file.set_len(100).expect("cut off");
    assert!(now().is_shorter(&still) && !now().is_another(&still));
    fs::copy(&path, beside(&path, ".new")).expect("copied");
    fs::rename(beside(&path, ".new"), &path).expect("renamed");
    assert!(now().is_another(&still));
}

#[test]
fn a_file_that_is_not_there_is_not_made() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let path = scratch.path().join("a.db");
    assert_eq!(Standing::of(&path).expect_err("nothing is there").kind(), ErrorKind::NotFound);
    open_to_look(&path).expect_err("nothing is there");
    assert!(names(scratch.path()).is_empty());
}

#[test]
fn a_file_says_whose_it_is() {
    let connection = Connection::open_in_memory().expect("a file");
    let nobody = Mark { application: 0, format: 0 };
    let ours = Mark {
        application: 0x4a6e_6762,
        format: 3,
    };
    assert_eq!(Mark::of(&connection).expect("read"), nobody);
    ours.set(&connection).expect("written");
    assert_eq!(Mark::of(&connection).expect("read"), ours);
}

#[test]
fn the_sqlite_that_is_linked_damages_nothing() {
    assert_eq!(too_old(), None);
}
