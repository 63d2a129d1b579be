//! PostgreSQL, started, broken and stopped.

use std::{
    fs,
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use test_servers::Postgres;

/// Long enough for an answer that comes at all to have come.
const A_WHILE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_database_is_empty_and_its_own_and_gone_when_it_is_dropped() {
    let shared = Postgres::shared();
    let (one, other) = (shared.database(), shared.database());
    assert_eq!(
        one.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2); SELECT n, n + 1 FROM t"),
        "1|2\n2|3\n"
    );
    assert_eq!(other.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "0\n");
    assert_eq!(
        one.sql("SELECT current_user, datcollate FROM pg_database WHERE datname = current_database()"),
        "jangbu|C.UTF-8\n"
    );
    let name = one.name().to_owned();
    drop(one);
    assert_eq!(
        shared.sql(&format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'")),
        "0\n"
    );
}

#[test]
fn what_was_committed_survives_a_kill() {
    let mut postgres = Postgres::start();
    let (pid, port) = (postgres.pid(), postgres.port());
    assert_eq!(postgres.sql("SHOW fsync"), "on\n");
    for n in 1..=3 {
        postgres.sql(&format!("CREATE TABLE IF NOT EXISTS t (n int); INSERT INTO t VALUES ({n})"));
        postgres.kill();
        assert!(!postgres.runs());
        postgres.restart();
    }
    assert_eq!(postgres.sql("SELECT count(*) FROM t"), "3\n");
    assert_eq!(postgres.port(), port);
    assert_ne!(postgres.pid(), pid);
}

#[test]
fn a_server_that_was_stopped_in_good_order_comes_back() {
    let mut postgres = Postgres::start();
    postgres.sql("CREATE TABLE t AS SELECT 1 AS n");
    postgres.stop();
    assert!(!postgres.runs());
    assert!(postgres.log().contains("database system is shut down"));
    postgres.restart();
    assert_eq!(postgres.sql("SELECT n FROM t"), "1\n");
}

#[test]
fn a_frozen_server_answers_when_it_is_thawed() {
    let postgres = Postgres::start();
    postgres.freeze();
    thread::scope(|scope| {
        let (answered, answer) = mpsc::channel();
        let postgres = &postgres;
        scope.spawn(move || answered.send(postgres.sql("SELECT 1")));
        assert_eq!(answer.recv_timeout(A_WHILE), Err(RecvTimeoutError::Timeout));
        postgres.thaw();
        assert_eq!(answer.recv_timeout(PATIENCE).as_deref(), Ok("1\n"));
    });
}

#[test]
fn settings_and_files_are_the_tests_own() {
    let hba = "local all all trust\nhost all jangbu 127.0.0.1/32 trust\n";
    let settings = [("fsync", "off"), ("cluster_name", "it's"), ("max_connections", "7")];
    let mut postgres = Postgres::start_with_files(&settings, &[("pg_hba.conf", hba)]);
    let shown = "SELECT current_setting('fsync'), current_setting('max_connections'), current_setting('cluster_name')";
    assert_eq!(postgres.sql(shown), "off|7|it's\n");
    postgres.sql("ALTER SYSTEM SET fsync = on");
    postgres.restart();
    assert_eq!(postgres.sql(shown), "on|7|it's\n");
    assert_eq!(fs::read_to_string(postgres.data().join("pg_hba.conf")).expect("written"), hba);
}

#[test]
fn a_standby_has_what_was_committed_and_takes_over() {
    let mut primary = Postgres::start_with(&[("synchronous_standby_names", "other"), ("synchronous_commit", "local")]);
    let standby = primary.standby("other");
    primary.sql("SET synchronous_commit = remote_apply; CREATE TABLE t AS SELECT 1 AS n");
    assert_eq!(standby.sql("SELECT n, pg_is_in_recovery() FROM t"), "1|t\n");
    assert_eq!(
        primary.sql("SELECT application_name, sync_state FROM pg_stat_replication"),
        "other|sync\n"
    );
    primary.kill();
    assert_eq!(standby.sql("SELECT pg_promote()"), "t\n");
    standby.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
    standby.sql("INSERT INTO t VALUES (2)");
}

#[test]
fn nothing_is_left_of_a_server_however_it_went() {
    let ways: [fn(&mut Postgres); 3] = [|_| (), |postgres| postgres.freeze(), |postgres| postgres.kill()];
    let dropped = ways.map(|then| {
        let mut postgres = Postgres::start();
        let interlock = interlock(&postgres.data());
        assert!(interlocks().contains(&interlock));
        let (scratch, pid) = (postgres.scratch().to_owned(), postgres.pid());
        then(&mut postgres);
        (scratch, pid, interlock)
    });
    for (scratch, pid, interlock) in dropped {
        assert!(!scratch.exists());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!interlocks().contains(&interlock));
    }
}

/// The shared memory by which PostgreSQL knows that its data directory is in use.
fn interlock(data: &Path) -> String {
    let file = fs::read_to_string(data.join("postmaster.pid")).expect("it runs");
    file.lines()
        .nth(6)
        .and_then(|line| line.split_whitespace().nth(1))
        .expect("line 7 names it")
        .to_owned()
}

fn interlocks() -> Vec<String> {
    let table = fs::read_to_string("/proc/sysvipc/shm").expect("Linux has it");
    table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .map(str::to_owned)
        .collect()
}
