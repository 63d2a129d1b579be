//! A log, its views and its keys on PostgreSQL: every command says what it says of the same shop in a directory, with a role that may only read.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use event_store::{Copying, EventStore as _, copy};
use event_store_postgres::{PostgresStore, Roles};
use event_store_sqlite::SqliteStore;
use postgres_session::Address;
use projections::{Runner, RunnerSettings};
use projections_postgres::PostgresViews;
use serde_json::Value;
use tempfile::TempDir;
use test_servers::{Database, Postgres};
use uuid::Uuid;

/// The same shop in a directory and in a database.
struct Shop {
    scratch: TempDir,
    database: Database,
    role: String,
    url: String,
}

impl Shop {
    fn of(shards: u16) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let data = scratch.path().join("data");
        jangbu::generate::shop(&data, 200, 11, shards).expect("a shop");
        let database = Postgres::shared().database();
        let address: Address = database.url().parse().expect("an address");
        let store = PostgresStore::open(&address).expect("a log");
        let original = SqliteStore::open_read_only(&data).expect("the log").reader().expect("a reader");
        let head = original.head(0).expect("read").expect("a head");
        database.sql(&format!("UPDATE log SET log_id = '{}'", head.log_id));
        let how = Copying {
            instance: Uuid::nil(),
            now: 1,
        };
        let mut writer = store.writer().expect("a writer");
        let copied = copy(original.as_ref(), writer.as_mut(), how, &mut |_| {}).expect("copied");
        drop(writer);
        fill_views(&address, &store, copied);
        let role = format!("analyst_{}", Uuid::new_v4().simple());
        database.sql(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 's3cret'; GRANT USAGE ON SCHEMA jangbu_views TO {role};
             GRANT SELECT ON ALL TABLES IN SCHEMA jangbu_views TO {role}"
        ));
        let roles = Roles {
            readers: vec![role.clone()],
            ..Roles::default()
        };
        store.grant(&roles).expect("given");
        Self {
            url: database.url().replace("jangbu@", &format!("{role}:s3cret@")),
            scratch,
            database,
            role,
        }
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_replay"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("JANGBU_") {
                command.env_remove(name);
            }
        }
        command.args(arguments).current_dir(self.scratch.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }

    fn of_directory(&self, arguments: &[&str]) -> Output {
        let data = self.data();
        self.run(&[&["--data", text_of(&data)], arguments].concat())
    }

    fn of_database(&self, arguments: &[&str]) -> Output {
        self.run(&[&["--store", &self.url], arguments].concat())
    }

    fn prints(&self, arguments: &[&str]) -> String {
        let output = self.of_database(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {} {}", out(&output), said(&output));
        out(&output).to_owned()
    }

    /// The verdict, and the exit code.
    fn verdict(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let output = self.of_database(&[&["verify", "-o", "json"], arguments].concat());
        let verdict = serde_json::from_str(out(&output)).unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
        (output.status.code(), verdict)
    }

    /// As the owner does who has nothing to lose.
    fn doctor(&self, statements: &str) {
        self.database.sql(&format!(
            "ALTER TABLE events DISABLE TRIGGER ALL; ALTER TABLE batches DISABLE TRIGGER ALL; {statements};
             ALTER TABLE events ENABLE TRIGGER ALL; ALTER TABLE batches ENABLE TRIGGER ALL"
        ));
    }

    /// As postgres-es puts events in: by its seven columns.
    fn foreign(&self, kind: &str, sequence: u64, event_type: &str, payload: &str) {
        self.database.sql(&format!(
            "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
             VALUES ('{kind}', '00000000-0000-0000-0000-00000000000a', {sequence}, '{event_type}', '2', '{payload}', '{{\"by\":\"hand\"}}')"
        ));
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.database.sql(&format!("DROP OWNED BY {0}; DROP ROLE {0}", self.role));
    }
}

fn fill_views(address: &Address, store: &PostgresStore, events: u64) {
    let (writer, _) = PostgresViews::open(address).expect("views");
    let runner = Runner::start(Arc::new(store.clone()), Box::new(writer), RunnerSettings::default()).expect("a runner");
    let shards = store.reader().expect("a reader").shards().expect("shards");
    let begun = Instant::now();
    loop {
        let now = runner.progress().borrow().clone();
        if shards.iter().map(|shard| now.position(*shard)).sum::<u64>() >= events {
            break;
        }
        assert!(begun.elapsed() < Duration::from_mins(1), "{now:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    runner.stop();
}

fn text_of(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

fn said(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

/// What verify could not look at.
fn not_checked(verdict: &Value) -> String {
    verdict["notChecked"].to_string()
}

fn every_command_says_the_same(shards: u16) {
    let shop = Shop::of(shards);
    let placed = lines(&shop.prints(&["cat", "--type", "order.placed", "--limit", "1"]));
    let order = placed[0]["aggregate_id"].as_str().expect("an id");
    let number = placed[0]["payload"]["number"].as_str().expect("a number");
    let commands: &[&[&str]] = &[
        &["types", "-o", "csv"],
        &["schema"],
        &["cat"],
        &["cat", "--reverse", "--limit", "50"],
        &["cat", "--type", "payment.*", "--columns", "position,event_id,payload"],
        &["cat", "--kind", "order", "--kind", "wallet", "--limit", "7"],
        &["cat", "--actor", "system", "-o", "csv"],
        &["cat", "--order", order],
        &["cat", "--stream", &format!("order-{order}"), "--reverse"],
        &["cat", "--from", "2026-01-10", "--to", "+2d"],
        &["tail", "--from", "start", "--limit", "25"],
        &["state", "order", number, "-o", "json"],
        &["state", "purchase", order, "--at", "v:1"],
        &["diff", "order", number, "v:1", "end"],
        &["inventory", "--at", "2026-01-20", "-o", "csv"],
        &["timeline", number],
        &["cat", "--type", "no.such"],
        &["cat", "--from", "pos:0/99999999"],
        &["state", "order", "20200101000000000001"],
        &["--reveal", "--keys", "data/keys", "cat", "--type", "account.opened", "--limit", "2"],
    ];
    for command in commands {
        let (directory, database) = (shop.of_directory(command), shop.of_database(command));
        assert_eq!(database.status, directory.status, "{command:?}: {}", said(&database));
        assert_eq!(out(&database), out(&directory), "{command:?}");
        assert_eq!(said(&database), said(&directory), "{command:?}");
    }
    // The files of the directory are the directory's.
    let without_files = |output: &Output| {
        let rows = lines(out(output));
        rows.into_iter().filter(|row| row["section"] != "disk").collect::<Vec<_>>()
    };
    let stats = ["stats", "-o", "ndjson"];
    assert_eq!(without_files(&shop.of_database(&stats)), without_files(&shop.of_directory(&stats)));

    // Views that are folded from the one are those of the other, wherever they are kept.
    let rebuilt = |place: &str, output: &Output| {
        assert_eq!(output.status.code(), Some(0), "{place}: {}", said(output));
        out(output).to_owned()
    };
    let one = rebuilt("directory", &shop.of_directory(&["rebuild", "--shadow", "--into", "one"]));
    let other = rebuilt("database", &shop.of_database(&["rebuild", "--shadow", "--into", "other"]));
    assert_eq!(one, other);
    for [mine, theirs] in [["live", "other"], ["other", "live"], [&shop.url, "one"], ["live", "data"]] {
        let output = shop.of_database(&["compare", mine, theirs]);
        assert_eq!(output.status.code(), Some(0), "{} {}", out(&output), said(&output));
        assert!(
            said(&output).contains("equal: ") && !said(&output).contains("s3cret"),
            "{}",
            said(&output)
        );
    }
    let asked = shop.of_database(&["--explain", "timeline", number]);
    assert!(
        said(&asked).contains("asked the views, which have an index for it"),
        "{}",
        said(&asked)
    );

    let (code, verdict) = shop.verdict(&["--views"]);
    assert_eq!((code, &verdict["sound"]), (Some(0), &Value::Bool(true)), "{verdict:#}");
    let counted = |output: &Output| serde_json::from_str::<Value>(out(output)).expect("an object")["counts"].take();
    let of_directory = shop.of_directory(&["verify", "-o", "json", "--ledger", "none"]);
    assert_eq!(verdict["counts"], counted(&of_directory));
    assert!(
        not_checked(&verdict).contains("pg_amcheck") && !verdict.to_string().contains("s3cret"),
        "{verdict:#}"
    );
    // The ledger is in the shop's directory, and the views may be anywhere.
    let ledger = shop.of_database(&["--data", "data", "verify", "--views", "other/views.db"]);
    assert_eq!(ledger.status.code(), Some(0), "{} {}", out(&ledger), said(&ledger));
    assert!(!out(&ledger).contains("without the provider's ledger"), "{}", out(&ledger));
}

#[test]
fn every_command_says_of_a_database_what_it_says_of_a_directory() {
    every_command_says_the_same(1);
}

#[test]
fn every_command_says_the_same_of_several_shards() {
    every_command_says_the_same(4);
}

#[test]
fn what_somebody_changed_is_found_with_its_position_and_the_remedy() {
    let shop = Shop::of(1);
    let names = |verdict: &Value, position: u64| {
        let findings = verdict["findings"].as_array().expect("findings");
        findings.iter().any(|finding| {
            let place = &finding["place"]["positions"];
            place[0].as_u64().is_some_and(|first| first <= position) && place[1].as_u64() >= Some(position)
        })
    };
    let head = shop
        .database
        .sql("SELECT position FROM log_head")
        .trim()
        .parse::<u64>()
        .expect("a position");
    let altered = [
        ("payload", "(payload::text || ' ')::json", "hash chain"),
        ("metadata", "'{}'", "correlation"),
        ("event_type", "'order.vanished'", "order.vanished"),
        ("recorded_at", "recorded_at + 1", "hash chain"),
        ("sequence", "sequence + 70000", "versions are contiguous"),
    ];
    for (column, value, words) in altered {
        let before = format!(
            "CREATE TABLE kept AS SELECT * FROM events WHERE position = 100; UPDATE events SET {column} = {value} WHERE position = 100"
        );
        shop.doctor(&before);
        let (code, verdict) = shop.verdict(&["--no-views"]);
        assert!(code == Some(2) && names(&verdict, 100), "{column}: {verdict:#}");
        assert!(verdict["findings"].to_string().contains(words), "{column}: {verdict:#}");
        assert!(
            verdict["remedies"][0]
                .as_str()
                .is_some_and(|line| line.contains("restore a backup")),
            "{verdict:#}"
        );
        shop.doctor("DELETE FROM events WHERE position = 100; INSERT INTO events SELECT * FROM kept; DROP TABLE kept");
    }
    assert_eq!(shop.verdict(&[]).0, Some(0), "it is as it was");

    // A row of the views is another.
    shop.database
        .sql("UPDATE jangbu_views.wallets_v1 SET data = '{}' WHERE id = (SELECT min(id::text)::uuid FROM jangbu_views.wallets_v1)");
    let (code, verdict) = shop.verdict(&[]);
    assert_eq!((code, &verdict["found"]), (Some(2), &1.into()), "{verdict:#}");
    assert!(
        verdict["findings"][0]["what"]
            .as_str()
            .is_some_and(|what| what.contains("of wallets_v1 is not the fold of the log in data"))
    );
    assert!(
        verdict["remedies"][0].as_str().is_some_and(|line| line.contains("drop the views")),
        "{verdict:#}"
    );
    assert_eq!(shop.of_database(&["rebuild", "--shadow", "--into", "again"]).status.code(), Some(0));
    assert_eq!(shop.of_database(&["compare", "live", "again"]).status.code(), Some(2));

    // The end is cut off.
    shop.doctor(&format!("DELETE FROM events WHERE position > {head} - 2"));
    let (code, verdict) = shop.verdict(&["--no-views"]);
    assert!(code == Some(2) && names(&verdict, head) && names(&verdict, head - 1), "{verdict:#}");
    let refused = shop.of_database(&["cat"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said(&refused).contains("do not end at") && !said(&refused).contains("s3cret"),
        "{}",
        said(&refused)
    );

    // So that the log itself is whole again, but shorter: the views have counted more.
    shop.doctor(
        "DELETE FROM batches WHERE last_position = (SELECT max(last_position) FROM batches);
         DELETE FROM events WHERE position > (SELECT max(last_position) FROM batches);
         UPDATE log_head SET position = last.last_position, hash = last.hash,
             recorded_at = (SELECT recorded_at FROM events WHERE position = last.last_position)
         FROM (SELECT * FROM batches ORDER BY last_position DESC LIMIT 1) AS last",
    );
    let (code, verdict) = shop.verdict(&["--views"]);
    assert_eq!(code, Some(2), "{verdict:#}");
    assert!(verdict["findings"].to_string().contains("the views count up to"), "{verdict:#}");
}

#[test]
fn what_another_program_wrote_is_shown_and_told_from_damage() {
    let shop = Shop::of(1);
    let head = shop
        .database
        .sql("SELECT position FROM log_head")
        .trim()
        .parse::<u64>()
        .expect("a position");
    shop.foreign(
        "parcel",
        1,
        "parcel.moved",
        r#"{"Moved": {"to": "Busan", "call": "minji@example.com"}}"#,
    );
    shop.foreign("parcel", 2, "parcel.lost", r#""Lost""#);
    shop.foreign("parcel", 3, "parcel.found", "{\n  \"Found\": [1,\n 2]\n}");
    shop.foreign("product", 1, "product.noticed", r#"{"type": "product.noticed"}"#);

    let parcels = lines(&shop.prints(&["cat", "--kind", "parcel"]));
    assert_eq!(parcels.len(), 3);
    assert_eq!(
        (&parcels[1]["payload"], &parcels[2]["payload"]["Found"][1]),
        (&"Lost".into(), &2.into())
    );
    assert_eq!(
        (&parcels[0]["position"], &parcels[0]["metadata"]["by"]),
        (&(head + 1).into(), &"hand".into())
    );
    let stats: Value = serde_json::from_str(&shop.prints(&["stats", "-o", "json"])).expect("an object");
    assert_eq!(
        (&stats["types"]["parcel.lost"]["events"], &stats["streams"]["parcel"]["streams"]),
        (&1.into(), &1.into())
    );
    for command in [
        &["types"][..],
        &["schema"],
        &["inventory", "--at", "2026-01-20"],
        &["tail", "--from", "start", "--limit", "9"],
    ] {
        shop.prints(command);
    }
    let placed = lines(&shop.prints(&["cat", "--type", "order.placed", "--limit", "1"]));
    shop.prints(&["timeline", placed[0]["aggregate_id"].as_str().expect("an id")]);

    // Nobody has taken it into the chain, and no view has counted it.
    let (code, verdict) = shop.verdict(&["--views"]);
    assert_eq!((code, &verdict["sound"]), (Some(0), &Value::Bool(true)), "{verdict:#}");
    assert_eq!(
        (&verdict["counts"]["unchained"], &verdict["counts"]["foreign"]["parcel"]),
        (&4.into(), &3.into())
    );
    let told = not_checked(&verdict);
    assert!(
        told.contains("not yet taken into the chain") && told.contains("parcel 3") && told.contains("product 1"),
        "{told}"
    );

    // An engine starts.
    let store = PostgresStore::open(&shop.database.url().parse().expect("an address")).expect("the log");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    let now = i64::try_from(now.as_micros()).expect("soon");
    store.writer().expect("a writer").take(0, Uuid::nil(), now).expect("the shard");
    let (code, verdict) = shop.verdict(&["--views"]);
    assert_eq!((code, &verdict["counts"]["unchained"]), (Some(0), &0.into()), "{verdict:#}");
    let told = not_checked(&verdict);
    assert!(!told.contains("taken into the chain") && told.contains("parcel 3"), "{told}");
    // From now on its words are kept too.
    shop.doctor("UPDATE events SET payload = '\"Sold\"' WHERE event_type = 'parcel.lost'");
    let (code, verdict) = shop.verdict(&["--no-views"]);
    assert!(
        code == Some(2) && verdict["findings"].to_string().contains("hash chain"),
        "{verdict:#}"
    );
}

#[test]
fn a_log_that_no_engine_ever_held_can_be_read() {
    let shop = Shop::of(1);
    let database = Postgres::shared().database();
    PostgresStore::open(&database.url().parse().expect("an address")).expect("a log");
    let run = |arguments: &[&str]| shop.run(&[&["--store", database.url()], arguments].concat());
    for command in [&["stats"][..], &["cat"], &["types"], &["verify"], &["inventory"]] {
        assert_eq!(run(command).status.code(), Some(0), "{command:?}: {}", said(&run(command)));
    }
    database.sql(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         SELECT 'parcel', '00000000-0000-0000-0000-00000000000a', n, 'parcel.moved', '1', '{}', '{}' FROM generate_series(1, 3) AS n",
    );
    assert_eq!(lines(out(&run(&["cat"]))).len(), 3);
    let verdict: Value = serde_json::from_str(out(&run(&["verify", "-o", "json"]))).expect("an object");
    assert_eq!(
        (&verdict["sound"], &verdict["counts"]["unchained"]),
        (&true.into(), &3.into()),
        "{verdict:#}"
    );
    // Another's row that is no other's: an engine's id says who made it.
    database.sql(
        "ALTER TABLE events DISABLE TRIGGER events_are_not_changed;
         UPDATE events SET event_id = '63cbe1e4-0000-8001-8000-00000000004d' WHERE position = 3",
    );
    assert_eq!(run(&["verify"]).status.code(), Some(2));
}

#[test]
fn the_shops_settings_say_where_it_is_unless_the_command_line_does() {
    let shop = Shop::of(1);
    let of_settings = |arguments: &[&str]| {
        let mut command = shop.command(arguments);
        command.env("JANGBU_STORE", &shop.url).env("JANGBU_DATA", "nowhere");
        command.output().expect("the binary runs")
    };
    let verified = of_settings(&["verify", "--views", "--ledger", "none"]);
    assert_eq!(verified.status.code(), Some(0), "{} {}", out(&verified), said(&verified));
    assert!(
        out(&verified).contains(" events of postgres://") && !out(&verified).contains("s3cret"),
        "{}",
        out(&verified)
    );
    let directory = of_settings(&["--data", "data", "verify", "--ledger", "none"]);
    assert!(
        out(&directory).lines().last().is_some_and(|line| line.contains(" events of data ")),
        "{}",
        out(&directory)
    );
    // Keys have a place of their own.
    let keyless = of_settings(&["--reveal", "cat", "--type", "order.placed", "--limit", "1"]);
    assert!(
        keyless.status.code() == Some(1) && said(&keyless).contains("--keys"),
        "{}",
        said(&keyless)
    );
    let named = shop.of_database(&["--reveal", "cat", "--type", "order.placed", "--limit", "1"]);
    assert!(
        named.status.code() == Some(1) && said(&named).contains("their directory or their database"),
        "{}",
        said(&named)
    );

    // What cannot be used is told in a line, without the password.
    let nobody = shop.url.replace(&shop.role, "nobody_at_all");
    let gone = "postgres://me:s3cret@127.0.0.1:1/shop";
    let empty = Postgres::shared().database();
    for (store, words) in [
        (nobody.as_str(), "nobody_at_all"),
        (gone, "127.0.0.1:1"),
        (empty.url(), "jangbu migrate"),
        ("postgres://me:s3cret@/shop?what=s3cret", "write postgres://"),
        ("mysql://me:s3cret@db/shop", "no log is on mysql"),
        ("esdb://me:s3cret@db:2113", "EventStoreDB"),
    ] {
        for command in [&["stats"][..], &["verify"], &["cat"], &["tail"]] {
            let output = shop.run(&[&["--store", store], command].concat());
            assert_eq!((output.status.code(), out(&output)), (Some(1), ""), "{store}");
            assert!(
                said(&output).contains(words) && !said(&output).contains("s3cret"),
                "{}",
                said(&output)
            );
            assert_eq!(said(&output).lines().count(), 1, "{}", said(&output));
        }
    }
}

#[test]
fn the_index_of_a_log_on_eventstoredb_is_read() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let index = scratch.path().join("shop/index/0f1e2d3c");
    fs::create_dir_all(&index).expect("made");
    jangbu::generate::shop(&scratch.path().join("data"), 20, 11, 1).expect("a shop");
    fs::copy(scratch.path().join("data/log.db"), index.join("log.db")).expect("copied");
    let run = |data: &str, store: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_replay"))
            .args(["--data", data, "cat"])
            .args(store)
            .current_dir(scratch.path())
            .output()
            .expect("the binary runs");
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        out(&output).to_owned()
    };
    assert_eq!(run("shop", &["--store", "esdb://admin:s3cret@db:2113"]), run("data", &[]));
}

fn ended(mut child: Child) -> Output {
    let begun = Instant::now();
    while child.try_wait().expect("it runs").is_none() {
        if begun.elapsed() > Duration::from_mins(1) {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("what it printed")
}

#[test]
fn tail_shows_what_is_appended_meanwhile() {
    let shop = Shop::of(1);
    let mut tail = shop.command(&["--store", &shop.url, "tail", "--kind", "parcel", "--limit", "2", "--poll", "20ms"]);
    let mut tail = tail.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut sequence = 0;
    // It may take some time to begin: what came before that it does not show.
    while tail.try_wait().expect("it runs").is_none() && sequence < 600 {
        sequence += 1;
        shop.foreign("parcel", sequence, "parcel.moved", "{}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let output = ended(tail);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let shown = lines(out(&output));
    assert_eq!(shown.len(), 2);
    let sequences: Vec<_> = shown.iter().filter_map(|event| event["sequence"].as_u64()).collect();
    assert_eq!(sequences[0] + 1, sequences[1]);
}

/// The statements of the page for analysts, one after another.
fn statements() -> Vec<String> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/analysts.md")).expect("the page");
    let blocks = page.split("```sql\n").skip(1);
    blocks.filter_map(|block| block.split("```").next().map(str::to_owned)).collect()
}

#[test]
fn the_pages_statements_say_what_replay_says() {
    let shop = Shop::of(1);
    let statements = statements();
    assert_eq!(statements.len(), 2, "docs/analysts.md");
    let as_analyst = |statement: &str| {
        let answer = shop.database.sql(&format!("SET ROLE {}; {statement}", shop.role));
        answer.lines().filter(|line| *line != "SET").map(str::to_owned).collect::<Vec<_>>()
    };

    // How orders ended.
    let stats: Value = serde_json::from_str(&shop.prints(&["stats", "-o", "json"])).expect("an object");
    let mut ends: Vec<_> = stats["orders"]
        .as_object()
        .expect("ends")
        .iter()
        .filter(|(end, _)| !["UNDER_WAY", "NEEDS_ATTENTION"].contains(&end.as_str()))
        .map(|(end, count)| format!("{end}|{count}"))
        .collect();
    ends.sort();
    let mut told = as_analyst(&statements[0]);
    // The server sorts as its language does.
    told.sort();
    assert_eq!(told, ends);

    // What was taken by day.
    let mut days = std::collections::BTreeMap::<String, (u64, u64)>::new();
    for event in lines(&shop.prints(&["cat", "--type", "payment.captured"])) {
        let day = event["recorded_at"].as_str().expect("a time")[..10].to_owned();
        let of_day = days.entry(day).or_default();
        of_day.0 += 1;
        of_day.1 += event["payload"]["amount"]["amount"].as_u64().expect("an amount");
    }
    let days: Vec<_> = days
        .iter()
        .map(|(day, (payments, won))| format!("{day}|{payments}|{won}"))
        .collect();
    assert_eq!(as_analyst(&statements[1]), days);
}
