//! `deploy/postgres/roles.sh`, which Compose and Kubernetes run: the tables are made by their owners, every role can do what its process
//! does, and no more.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use test_servers::Postgres;

const PATIENCE: Duration = Duration::from_mins(1);

const ROLES: [&str; 9] = [
    "LOG_OWNER",
    "LOG_ENGINE",
    "LOG_READER",
    "LOG_RELAY",
    "VIEWS_OWNER",
    "VIEWS_READER",
    "KEYS_OWNER",
    "KEYS_WRITER",
    "KEYS_READER",
];

/// A PostgreSQL with the databases of a shop, migrated as the deployments do it.
struct Servers {
    postgres: Postgres,
}

impl Servers {
    fn prepared() -> Self {
        let servers = Self {
            postgres: Postgres::start(),
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/postgres/roles.sh");
        let passwords = ROLES.map(|role| (format!("{role}_PASSWORD"), "of-the-test"));
        let made = servers.command(script).env("POSTGRES_USER", "jangbu").envs(passwords).output();
        worked(&made.expect("bash and psql run"));
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let migrated = servers
            .jangbu(&[
                ("STORE", "log_owner", "jangbu"),
                ("VIEWS", "views_owner", "jangbu_views"),
                ("KEYS", "keys_owner", "jangbu_keys"),
            ])
            .env("JANGBU_SHARDS", "4")
            .args(["migrate", "--data"])
            .arg(scratch.path())
            .args([
                "--engine-role",
                "log_engine",
                "--reader-role",
                "log_reader",
                "--relay-role",
                "log_relay",
            ])
            .output();
        worked(&migrated.expect("jangbu runs"));
        servers
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.postgres.port().to_string())
            .env("PGCONNECT_TIMEOUT", "10");
        command
    }

    /// The program with these places, each as a role: setting, role, database.
    fn jangbu(&self, places: &[(&str, &str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jangbu"));
        for (setting, role, database) in places {
            let address = format!("postgres://{role}:of-the-test@127.0.0.1:{}/{database}", self.postgres.port());
            command.env(format!("JANGBU_{setting}"), address);
        }
        command
    }

    /// What a role is told when it asks for this: what comes back, or the error.
    fn ask(&self, role: &str, database: &str, what: &str) -> Result<String, String> {
        let asked = self
            .command("psql")
            .args(["-qXAt", "-U", role, "-d", database, "-c", what])
            .output();
        let Output { status, stdout, stderr } = asked.expect("psql runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text").trim().to_owned();
        if status.success() { Ok(text(stdout)) } else { Err(text(stderr)) }
    }
}

fn worked(output: &Output) {
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn each_role_can_do_what_its_process_does_and_no_more() {
    let servers = Servers::prepared();
    let allowed = [
        ("log_engine", "jangbu", "SELECT count(*) FROM events"),
        ("log_reader", "jangbu", "SELECT count(*) FROM events"),
        ("log_relay", "jangbu", "SELECT count(*) FROM checkpoints"),
        ("views_owner", "jangbu_views", "DELETE FROM jangbu_views.orders_v2"),
        ("views_reader", "jangbu_views", "SELECT count(*) FROM jangbu_views.orders_v2"),
        ("views_reader", "jangbu_views", "SELECT count(*) FROM jangbu_schemas"),
        ("keys_writer", "jangbu_keys", "UPDATE subject_keys SET key = key WHERE false"),
        ("keys_reader", "jangbu_keys", "SELECT count(*) FROM shop_keys"),
    ];
    for (role, database, what) in allowed {
        let answer = servers.ask(role, database, what);
        assert!(answer.is_ok(), "{role} in {database}: {what}: {answer:?}");
    }
    let refused = [
        ("log_engine", "jangbu", "INSERT INTO events SELECT * FROM events"),
        ("log_engine", "jangbu", "UPDATE events SET payload = '{}'"),
        ("log_engine", "jangbu", "DELETE FROM events"),
        ("log_engine", "jangbu", "TRUNCATE events"),
        ("log_engine", "jangbu", "UPDATE log_head SET position = 0"),
        ("log_reader", "jangbu", "INSERT INTO idempotency SELECT * FROM idempotency"),
        ("log_reader", "jangbu", "UPDATE checkpoints SET position = 0"),
        ("log_relay", "jangbu", "UPDATE log_head SET epoch = 0"),
        ("views_reader", "jangbu_views", "DELETE FROM jangbu_views.orders_v2"),
        ("views_reader", "jangbu_views", "CREATE TABLE mine ()"),
        ("keys_reader", "jangbu_keys", "DELETE FROM subject_keys"),
        ("keys_writer", "jangbu_keys", "DROP TABLE shop_keys"),
    ];
    for (role, database, what) in refused {
        let answer = servers.ask(role, database, what).expect_err(what);
        assert!(
            answer.contains("permission denied") || answer.contains("must be owner"),
            "{role}: {what}: {answer}"
        );
    }
    // Nobody is in a database where they have nothing to do; above all those of the log not in that of the keys.
    let homes = BTreeMap::from([("log", "jangbu"), ("views", "jangbu_views"), ("keys", "jangbu_keys")]);
    for role in ROLES.map(str::to_lowercase) {
        let (kind, _) = role.split_once('_').expect("a kind of role");
        for (of, database) in &homes {
            let came_in = servers.ask(&role, database, "SELECT 1");
            assert_eq!(came_in.is_ok(), *of == kind, "{role} in {database}: {came_in:?}");
        }
    }
}

#[test]
fn the_roles_of_the_processes_suffice_for_the_whole_shop_once_the_tables_are_there() {
    let servers = Servers::prepared();
    let places = [
        ("STORE", "log_engine", "jangbu"),
        ("VIEWS", "views_owner", "jangbu_views"),
        ("KEYS", "keys_writer", "jangbu_keys"),
    ];
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let serving = servers
        .jangbu(&places)
        .args(["serve", "--demo", "--listen", "127.0.0.1:0", "--data"])
        .arg(scratch.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut shop = Shop(serving.expect("jangbu runs"));
    let start = Instant::now();
    while !servers
        .jangbu(&places)
        .args(["healthcheck", "--data"])
        .arg(scratch.path())
        .output()
        .expect("it runs")
        .status
        .success()
    {
        assert!(matches!(shop.0.try_wait(), Ok(None)), "it ended by itself");
        assert!(start.elapsed() < PATIENCE, "it is not ready");
    }
    // What loading the demo wrote: events by the engine's role, rows by the views', keys by the keys'.
    let some = |role, database, what| servers.ask(role, database, what).expect(what).parse::<u64>().expect("a number") > 0;
    assert!(some("log_reader", "jangbu", "SELECT count(*) FROM events"));
    assert!(some("keys_reader", "jangbu_keys", "SELECT count(*) FROM subject_keys"));
    while !some("views_reader", "jangbu_views", "SELECT count(*) FROM jangbu_views.products_v1") {
        assert!(start.elapsed() < PATIENCE, "the views show nothing");
    }
}

/// It ends with the test.
struct Shop(Child);

impl Drop for Shop {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
