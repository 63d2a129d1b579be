//! Commands that show events, as a user runs them: filters, moments, masking, and logs that are not as they should be.

#[path = "../../verify/tests/world/mod.rs"]
mod world;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use event_store::{Batch, Event, EventStore as _, GENESIS, Hash, LogWriter, Shards, StreamId, batch_hash};
use event_store_sqlite::SqliteStore;
use key_vault::KeyVault;
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;
use world::{World, key};

/// 2026-11-20T00:00:00Z
const START: i64 = world::START;

thread_local! {
    /// Everything that a shop does, in a few hundred events; made for each test, and gone with its thread.
    static SHOP: TempDir = {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let store = SqliteStore::open(&scratch.path().join("data")).expect("a log");
        World::open(&store).live();
        scratch
    };
}

fn shop() -> PathBuf {
    SHOP.with(|scratch| scratch.path().join("data"))
}

/// A copy that may be damaged.
fn copy() -> TempDir {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    fs::create_dir(scratch.path().join("data")).expect("made");
    fs::copy(shop().join("log.db"), scratch.path().join("data/log.db")).expect("copied");
    scratch
}

fn command(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_replay"));
    command
        .arg("--data")
        .arg(data)
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("JANGBU_TIME_ZONE");
    command
}

fn replay(data: &Path, arguments: &[&str]) -> Output {
    command(data, arguments).output().expect("the binary runs")
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

fn said(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

fn rows(output: &Output) -> Vec<Value> {
    assert_eq!(output.status.code(), Some(0), "{} {}", out(output), said(output));
    out(output)
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect()
}

/// One clear line that says this.
fn refused(data: &Path, arguments: &[&str], code: i32, words: &[&str]) {
    let output = replay(data, arguments);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}: {} {}",
        out(&output),
        said(&output)
    );
    assert_eq!(said(&output).lines().count(), 1, "{arguments:?}: {}", said(&output));
    for word in words {
        assert!(
            said(&output).starts_with("replay: ") && said(&output).contains(word),
            "{arguments:?}: {}",
            said(&output)
        );
    }
}

/// The same for what the command line itself refuses, in as many lines as clap takes.
fn misused(arguments: &[&str], words: &[&str]) {
    let output = replay(&shop(), arguments);
    assert_eq!(
        (output.status.code(), out(&output)),
        (Some(1), ""),
        "{arguments:?}: {}",
        said(&output)
    );
    for word in words {
        assert!(said(&output).contains(word), "{arguments:?}: {}", said(&output));
    }
}

fn all() -> Vec<Value> {
    rows(&replay(&shop(), &["cat"]))
}

#[test]
fn cat_prints_every_event_once_and_in_order_in_every_format() {
    let events = all();
    assert!(events.len() > 150, "{}", events.len());
    for (event, position) in events.iter().zip(1..) {
        assert_eq!(event["position"], position);
        assert_eq!(event["payload"]["type"], event["event_type"]);
        assert!(event["metadata"]["correlationId"].is_string());
    }
    assert_eq!(events[0]["recorded_at"], "2026-11-20T09:00:00.000000+09:00");
    let json: Value = serde_json::from_str(out(&replay(&shop(), &["cat", "-o", "json"]))).expect("an array");
    assert_eq!(json.as_array(), Some(&events));
    let csv = replay(
        &shop(),
        &[
            "cat",
            "-o",
            "csv",
            "--columns",
            "position,event_type",
            "--no-header",
            "--limit",
            "2",
        ],
    );
    assert_eq!(out(&csv), "1,product.created\n2,inventory.opened\n");
    let table = replay(&shop(), &["--tz", "UTC", "cat", "-o", "table", "--limit", "1"]);
    let lines: Vec<_> = out(&table).lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("shard  position  recorded_at ") && lines[1].contains("2026-11-20T00:00:00.000000Z"));
    misused(&["cat", "--tz", "Mars/Base"], &["no time zone"]);
    refused(
        &shop(),
        &["cat", "--columns", "position,when"],
        1,
        &["no column \"when\"", "recorded_at"],
    );
}

#[test]
fn filters_give_what_they_say_and_nothing_else() {
    let events = all();
    let check = |arguments: &[&str], is_in: &dyn Fn(&Value) -> bool| {
        let mut wanted: Vec<_> = events.iter().filter(|event| is_in(event)).cloned().collect();
        assert!(!wanted.is_empty(), "{arguments:?}");
        assert_eq!(rows(&replay(&shop(), &[&["cat"], arguments].concat())), wanted, "{arguments:?}");
        let three = replay(&shop(), &[&["cat", "--limit", "3"], arguments].concat());
        assert_eq!(rows(&three), wanted[..wanted.len().min(3)], "{arguments:?}");
        wanted.reverse();
        assert_eq!(
            rows(&replay(&shop(), &[&["cat", "--reverse"], arguments].concat())),
            wanted,
            "{arguments:?}"
        );
    };
    let at = |event: &Value| event["position"].as_u64().expect("a position");
    let name = |event: &Value| event["event_type"].as_str().expect("a name").to_owned();
    check(&["--type", "order.placed"], &|event| name(event) == "order.placed");
    check(&["--type", "payment.*", "--type", "*.placed"], &|event| {
        name(event).starts_with("payment.") || name(event).ends_with(".placed")
    });
    check(&["--kind", "wallet", "--kind", "inventory"], &|event| {
        ["wallet", "inventory"].contains(&event["aggregate_type"].as_str().expect("a kind"))
    });
    let stream = format!("order-{}", key(10));
    check(&["--stream", &stream], &|event| {
        event["aggregate_type"] == "order" && event["aggregate_id"] == key(10).to_string()
    });
    check(&["--stream", &stream, "--from", "v:2"], &|event| {
        event["aggregate_type"] == "order" && event["aggregate_id"] == key(10).to_string() && event["sequence"].as_u64() >= Some(2)
    });
    let correlation = events[100]["metadata"]["correlationId"].as_str().expect("an id");
    check(&["--correlation", correlation], &|event| {
        event["metadata"]["correlationId"] == correlation
    });
    let actor = format!("account:{}", world::buyer());
    check(&["--actor", &actor, "--type", "order.*"], &|event| {
        event["metadata"]["actor"] == *actor && name(event).starts_with("order.")
    });
    check(&["--from", "pos:100"], &|event| at(event) >= 100);
    check(&["--from", "pos:100", "--to", "pos:110"], &|event| (100..=110).contains(&at(event)));
    check(&["--to", "pos:110", "--shard", "0"], &|event| at(event) <= 110);
    check(&["--after", "150"], &|event| at(event) > 150);
    check(&["--from", "start", "--to", "end"], &|_| true);
    // A range of times begins with its first and ends before its last.
    let times: Vec<_> = events
        .iter()
        .map(|event| event["recorded_at"].as_str().expect("a time").to_owned())
        .collect();
    let (first, last) = (&times[50], &times[150]);
    assert!(first < last && times.iter().filter(|time| *time == last).count() >= 1);
    check(&["--from", first, "--to", last], &|event| {
        let time = event["recorded_at"].as_str().expect("a time");
        time >= first.as_str() && time < last.as_str()
    });
    check(&["--from", first, "--to", "+1s"], &|event| {
        let micros = |text: &str| text.parse::<jiff::Timestamp>().expect("a time").as_microsecond();
        let time = micros(event["recorded_at"].as_str().expect("a time"));
        (micros(first)..micros(first) + 1_000_000).contains(&time)
    });
    check(&["--from", "2026-11-20", "--to", "+1d"], &|event| {
        event["recorded_at"].as_str() < Some("2026-11-21")
    });
}

#[test]
fn one_order_is_its_streams_and_what_its_purchase_saw() {
    let order = key(10).to_string();
    let events = rows(&replay(&shop(), &["cat", "--order", &order]));
    let names: Vec<_> = events.iter().map(|event| event["event_type"].as_str().expect("a name")).collect();
    for name in [
        "order.placed",
        "inventory.reserved",
        "payment.requested",
        "payment.captured",
        "inventory.committed",
        "order.confirmed",
    ] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    // All that names it, and nothing that does not.
    let named: Vec<_> = all()
        .into_iter()
        .filter(|event| event["aggregate_id"] == *order || event.to_string().contains(&order))
        .collect();
    let positions = |events: &[Value]| {
        events
            .iter()
            .map(|event| event["position"].as_u64().expect("a number"))
            .collect::<Vec<_>>()
    };
    for position in positions(&named) {
        assert!(positions(&events).contains(&position), "{position}");
    }
    let only = rows(&replay(
        &shop(),
        &["cat", "--order", &order, "--kind", "inventory", "--reverse", "--limit", "1"],
    ));
    assert_eq!((only.len(), &only[0]["aggregate_type"]), (1, &"inventory".into()));
    let explained = replay(&shop(), &["cat", "--order", &order, "--explain"]);
    assert!(said(&explained).contains("by the stream index"), "{}", said(&explained));
    let unknown = replay(&shop(), &["cat", "--order", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"]);
    assert_eq!((unknown.status.code(), out(&unknown)), (Some(0), ""));
    assert!(said(&unknown).contains("there is no order"));
}

#[test]
fn one_order_is_found_in_all_shards_that_had_to_do_with_it() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    let store = SqliteStore::open(&data).expect("a log");
    World::open_over(&store, 4).live();
    drop(store);
    let events = rows(&replay(&data, &["cat"]));
    let mut elsewhere = 0;
    for number in [1, 2, 3, 10, 11, 13, 20, 40] {
        let order = key(number).to_string();
        let of_order = rows(&replay(&data, &["cat", "--order", &order]));
        let own = of_order.iter().find(|event| event["aggregate_type"] == "order").expect("the order")["shard"].as_u64();
        elsewhere += of_order.iter().filter(|event| event["shard"].as_u64() != own).count();
        for kind in ["order", "payment", "purchase", "inventory"] {
            let wanted: Vec<_> = events
                .iter()
                .filter(|event| event["aggregate_type"] == kind)
                .filter(|event| event["aggregate_id"] == *order || event["payload"].to_string().contains(&order))
                .collect();
            let found: Vec<_> = of_order.iter().filter(|event| event["aggregate_type"] == kind).collect();
            assert!(!wanted.is_empty() && found == wanted, "{kind} of {order}: {found:#?} {wanted:#?}");
        }
    }
    assert!(elsewhere > 0, "they had to do with other shards");
}

#[test]
fn what_was_pushed_down_is_told() {
    let head = all().len();
    let explained = |arguments: &[&str]| said(&replay(&shop(), &[&["cat", "--explain"], arguments].concat())).to_owned();
    let of_stream = explained(&["--stream", &format!("order-{}", key(10))]);
    assert!(
        of_stream.contains("by its index") && of_stream.contains("looked at 3 rows"),
        "{of_stream}"
    );
    let of_type = explained(&["--type", "order.placed"]);
    assert!(
        of_type.contains("type order.placed") && of_type.contains(&format!("looked at {head} rows")),
        "{of_type}"
    );
    let of_range = explained(&["--from", "pos:10", "--to", "pos:19", "--type", "order.placed"]);
    assert!(
        of_range.contains("0: 10 to 19") && of_range.contains("looked at 10 rows"),
        "{of_range}"
    );
    assert!(explained(&["--limit", "7"]).contains("looked at 7 rows"));
}

#[test]
fn a_filter_that_nothing_matches_is_no_error_and_is_told() {
    let output = replay(&shop(), &["cat", "--type", "paymnt.*"]);
    assert_eq!((output.status.code(), out(&output)), (Some(0), ""));
    assert!(said(&output).contains("no event matches --type paymnt.*") && said(&output).contains("`replay types`"));
    let quiet = replay(&shop(), &["cat", "--quiet", "--kind", "nothing", "-o", "json"]);
    assert_eq!((quiet.status.code(), out(&quiet), said(&quiet)), (Some(0), "[]\n", ""));
}

#[test]
fn moments_that_mean_two_things_or_none_are_refused() {
    refused(
        &shop(),
        &["cat", "--from", "2026-11-20T10:00"],
        1,
        &["2026-11-20T10:00:00Z or 2026-11-20T10:00:00+09:00"],
    );
    refused(&shop(), &["cat", "--from", "2026-10-25T02:30[Europe/Berlin]"], 1, &["comes twice"]);
    misused(
        &["cat", "--from", "1795132800"],
        &["pos:1795132800", "v:1795132800", "2026-11-20T00:00:00Z"],
    );
    misused(&["cat", "--to", "2026-13-01"], &["pos:N"]);
    misused(&["cat", "--from", "-2"], &["-2h"]);
    misused(&["cat", "--from", "pos:1", "--after", "1"], &["cannot be used with"]);
    refused(
        &shop(),
        &["cat", "--from", "2026-11-21", "--to", "2026-11-20"],
        1,
        &["ends before it begins"],
    );
    refused(
        &shop(),
        &["cat", "--from", "pos:20", "--to", "pos:10"],
        1,
        &["ends before it begins"],
    );
    refused(
        &shop(),
        &["cat", "--from", "pos:20", "--to", "2026-11-19"],
        1,
        &["ends before it begins"],
    );
    refused(&shop(), &["cat", "--from", "pos:1000000"], 1, &["behind the end of the log"]);
    refused(&shop(), &["cat", "--after", "1000000"], 1, &["behind the end of the log"]);
    refused(&shop(), &["cat", "--from", "pos:1/5"], 1, &["there is no shard 1: the log has one"]);
    refused(&shop(), &["cat", "--shard", "4"], 1, &["there is no shard 4"]);
    refused(&shop(), &["cat", "--from", "v:2"], 1, &["name a stream"]);
    refused(
        &shop(),
        &["cat", "--stream", &format!("order-{}", key(10)), "--from", "v:99"],
        1,
        &["has no version 99"],
    );
    misused(&["cat", "--stream", "order"], &["no stream"]);
    misused(&["cat", "--type", "order.[a-z]"], &["no event type"]);
}

#[test]
fn types_count_what_cat_prints() {
    let events = all();
    let types = rows(&replay(&shop(), &["types"]));
    let total: u64 = types.iter().map(|known| known["events"].as_u64().expect("a number")).sum();
    assert_eq!(total, events.len() as u64);
    for known in &types {
        let of: Vec<_> = events.iter().filter(|event| event["event_type"] == known["type"]).collect();
        assert_eq!(known["events"], of.len());
        assert_eq!(
            (&known["first"], &known["last"]),
            (&of[0]["recorded_at"], &of[of.len() - 1]["recorded_at"])
        );
        assert_eq!(known["first_position"], of[0]["position"].to_string());
        assert_eq!(known["versions"], "1.0.0");
    }
    let some = rows(&replay(&shop(), &["types", "--type", "order.*", "--to", "pos:60"]));
    assert!(
        !some.is_empty()
            && some
                .iter()
                .all(|known| known["type"].as_str().is_some_and(|name| name.starts_with("order.")))
    );
    assert!(out(&replay(&shop(), &["types", "-o", "table"])).starts_with("type "));
}

#[test]
fn schemas_describe_every_payload_and_show_nothing_that_is_sealed() {
    let document: Value = serde_json::from_str(out(&replay(&shop(), &["schema", "-o", "json"]))).expect("a document");
    let types = rows(&replay(&shop(), &["types"]));
    let definitions = document["$defs"].as_object().expect("definitions");
    assert_eq!(definitions.len(), types.len());
    for event in all() {
        let schema = &definitions[event["event_type"].as_str().expect("a name")];
        let payload = event["payload"].as_object().expect("an object");
        assert!(
            schema["required"]
                .as_array()
                .expect("names")
                .iter()
                .all(|name| payload.contains_key(name.as_str().expect("a name")))
        );
        assert!(payload.keys().all(|name| schema["properties"][name].is_object()));
    }
    assert!(!document.to_string().contains("\"v1."));
    let placed: Value = serde_json::from_str(out(&replay(&shop(), &["schema", "order.placed", "-o", "json"]))).expect("a schema");
    assert_eq!(
        (&placed["title"], &placed["properties"]["address"]["examples"][0]),
        (&"order.placed".into(), &"⟨sealed⟩".into())
    );
    assert!(!placed["required"].as_array().expect("names").contains(&"payment_key".into()));
    let lines = replay(&shop(), &["schema", "order.placed", "-o", "csv"]);
    assert!(
        out(&lines).contains("order.placed,1.0.0,lines[].quantity,integer,"),
        "{}",
        out(&lines)
    );
}

/// A log of a few events with personal data, and the keys.
struct Sealed {
    scratch: TempDir,
    order: Uuid,
    vault: KeyVault,
    buyer: Uuid,
}

fn event(position: u64, stream: StreamId, sequence: u64, name: &'static str, payload: String) -> Event {
    Event {
        shard: 0,
        position,
        stream,
        sequence,
        event_id: Uuid::from_u128(u128::from(position)),
        event_type: name.into(),
        event_version: "1.0.0".into(),
        recorded_at: START + i64::try_from(position).expect("small"),
        payload: payload.into(),
        metadata: r#"{"correlationId":"00000000-0000-0000-0000-000000000001","idempotencyKey":"a-long-key-of-a-request"}"#.into(),
    }
}

fn append(writer: &mut dyn LogWriter, epoch: u64, previous: Hash, events: Vec<Event>) -> Hash {
    let hash = batch_hash(&previous, &events);
    let batch = Batch {
        shard: events[0].shard,
        epoch,
        first_position: events[0].position,
        previous_hash: previous,
        hash,
        events,
        ..Batch::default()
    };
    writer.commit(&[&batch]).expect("written");
    hash
}

fn sealed() -> Sealed {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    let store = SqliteStore::open(&data).expect("a log");
    let vault = KeyVault::open(&data.join("keys")).expect("a vault");
    let (order, buyer) = (Uuid::from_u128(1), Uuid::from_u128(2));
    vault.create_subject(buyer).expect("a key");
    let seal = |text: &str| vault.seal(buyer, text).expect("sealed");
    let events = vec![
        event(
            1,
            StreamId::new("email", Uuid::from_u128(3)),
            1,
            "email.claimed",
            format!(
                r#"{{"type":"email.claimed","registration":{{"account":"{buyer}","email":"{}"}}}}"#,
                seal("minji@example.com")
            ),
        ),
        event(
            2,
            StreamId::new("account", buyer),
            1,
            "account.opened",
            format!(
                r#"{{"type":"account.opened","registration":{{"account":"{buyer}","name":"{}"}}}}"#,
                seal("김민지")
            ),
        ),
        event(
            3,
            StreamId::new("order", order),
            1,
            "order.placed",
            format!(
                r#"{{"type":"order.placed","buyer":"{buyer}","address":"{}","payment_key":"sim_ok_1234567890"}}"#,
                seal(r#"{"street":"세종대로 \"1\""}"#)
            ),
        ),
        event(
            4,
            StreamId::new("order", order),
            2,
            "order.cancellation_requested",
            format!(
                r#"{{"type":"order.cancellation_requested","by":"{}","reason":"{}"}}"#,
                Uuid::from_u128(9),
                seal("changed my mind")
            ),
        ),
    ];
    let mut writer = store.writer().expect("a writer");
    writer.found(Shards::ONE).expect("founded");
    let head = writer.take(0, Uuid::nil(), START).expect("the shard");
    append(writer.as_mut(), head.epoch, GENESIS, events);
    drop((writer, store));
    Sealed {
        scratch,
        order,
        vault,
        buyer,
    }
}

impl Sealed {
    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }
}

#[test]
fn personal_data_is_shown_only_to_those_who_have_the_keys_and_ask() {
    let shop = sealed();
    let masked = replay(&shop.data(), &["cat"]);
    assert!(
        !out(&masked).contains("v1.") && !out(&masked).contains("1234567890") && !out(&masked).contains("a-long-key"),
        "{}",
        out(&masked)
    );
    let events = rows(&masked);
    assert_eq!(events[0]["payload"]["registration"]["email"], "⟨sealed⟩");
    assert_eq!(events[2]["payload"]["address"], "⟨sealed⟩");
    assert_eq!(events[2]["payload"]["payment_key"], "sim_ok_1…");
    assert_eq!(events[2]["metadata"]["idempotencyKey"], "a-long-k…");

    let revealed = rows(&replay(&shop.data(), &["cat", "--reveal"]));
    assert_eq!(revealed[0]["payload"]["registration"]["email"], "minji@example.com");
    assert_eq!(revealed[1]["payload"]["registration"]["name"], "김민지");
    assert_eq!(revealed[2]["payload"]["address"], r#"{"street":"세종대로 \"1\""}"#);
    assert_eq!(revealed[2]["payload"]["payment_key"], "sim_ok_1234567890");
    assert_eq!(revealed[3]["payload"]["reason"], "changed my mind");
    let order = shop.order.to_string();
    assert_eq!(rows(&replay(&shop.data(), &["cat", "--order", &order, "--reveal"])), revealed[2..]);

    // Somebody is erased.
    shop.vault.erase_subject(shop.buyer).expect("erased");
    let shredded = replay(&shop.data(), &["cat", "--reveal"]);
    assert_eq!(rows(&shredded)[2]["payload"]["address"], "⟨shredded⟩");
    assert!(said(&shredded).contains("the keys of another shop"), "{}", said(&shredded));
}

#[test]
fn reveal_without_the_right_keys_is_refused() {
    let shop = sealed();
    let keys = shop.data().join("keys");
    let elsewhere = shop.scratch.path().join("elsewhere");
    fs::rename(&keys, &elsewhere).expect("moved");
    refused(&shop.data(), &["cat", "--reveal"], 1, &["--reveal needs the shop's keys", "--keys"]);
    assert!(!keys.exists(), "nothing is made");
    let elsewhere = elsewhere.to_str().expect("text").to_owned();
    assert_eq!(rows(&replay(&shop.data(), &["cat", "--reveal", "--keys", &elsewhere])).len(), 4);

    // Another shop's keys, which have a key for the same person.
    let other = KeyVault::open(&keys).expect("a vault");
    other.create_subject(shop.buyer).expect("a key");
    refused(
        &shop.data(),
        &["cat", "--reveal", "--type", "order.*"],
        1,
        &["are not the keys of this shop"],
    );

    let file = fs::read_dir(keys.join("subjects/02"))
        .expect("a folder")
        .next()
        .expect("a key")
        .expect("an entry")
        .path();
    fs::write(&file, "nonsense").expect("written");
    refused(&shop.data(), &["cat", "--reveal"], 1, &["is damaged"]);
}

#[test]
fn what_is_no_log_or_not_whole_is_refused_by_every_command() {
    for arguments in [&["cat"][..], &["types"], &["schema"], &["tail", "--limit", "1"]] {
        let scratch = copy();
        refused(
            &scratch.path().join("nowhere"),
            arguments,
            1,
            &["does not exist", "name the data directory"],
        );
        let log = scratch.path().join("data/log.db");
        let data = scratch.path().join("data");
        let whole = fs::read(&log).expect("the log");
        let with = |at: u64, bytes: &[u8]| {
            fs::write(&log, &whole).expect("written");
            fs::File::options()
                .write(true)
                .open(&log)
                .expect("the log")
                .write_all_at(bytes, at)
                .expect("written");
        };
        with(0, b"This is some other text. ");
        refused(&data, arguments, 1, &["is not a SQLite file"]);
        with(68, b"else");
        refused(&data, arguments, 1, &["belongs to another program"]);
        with(60, &2_u32.to_be_bytes());
        refused(&data, arguments, 1, &["older format 2", "jangbu migrate"]);
        with(60, &4_711_u32.to_be_bytes());
        refused(&data, arguments, 1, &["newer format 4711"]);
        fs::write(&log, "SQL").expect("written");
        refused(&data, arguments, 1, &["cut off"]);
        fs::write(&log, &whole[..whole.len() / 2]).expect("written");
        refused(&data, arguments, 1, &["restore a backup"]);
        fs::remove_file(&log).expect("removed");
        fs::write(data.join("log.db-wal"), "x").expect("written");
        refused(&data, arguments, 1, &["is missing"]);
    }
}

#[test]
fn a_torn_page_ends_it_with_what_was_before_it() {
    let scratch = copy();
    let log = scratch.path().join("data/log.db");
    let bytes = fs::read(&log).expect("the log");
    let last = b"\"type\":\"order.confirmed\"";
    let at = bytes.windows(last.len()).position(|window| window == last).expect("an event") as u64;
    let file = fs::File::options().write(true).open(&log).expect("the log");
    file.write_all_at(&[0; 4_096], at / 4_096 * 4_096).expect("written");
    let output = replay(&scratch.path().join("data"), &["cat", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("damaged") && said(&output).contains("restore a backup"),
        "{}",
        said(&output)
    );
    // What came before it is whole.
    assert!(serde_json::from_str::<Value>(out(&output)).expect("an array").is_array());
}

#[test]
fn a_payload_that_is_no_json_is_counted_and_the_rest_is_shown() {
    let scratch = copy();
    let log = scratch.path().join("data/log.db");
    let bytes = fs::read(&log).expect("the log");
    let text = b"{\"type\":\"wallet.opened\"";
    let at = bytes.windows(text.len()).position(|window| window == text).expect("an event") as u64;
    let file = fs::File::options().write(true).open(&log).expect("the log");
    file.write_all_at(b"[", at).expect("written");
    let output = replay(&scratch.path().join("data"), &["cat"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(
        said(&output).contains("is no JSON") && said(&output).ends_with("replay: 1 error\n"),
        "{}",
        said(&output)
    );
    let shown: Vec<Value> = out(&output)
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect();
    assert_eq!(shown.len(), all().len());
    assert!(
        shown
            .iter()
            .any(|event| event["payload"].as_str().is_some_and(|text| text.starts_with("[\"type\"")))
    );
    assert_eq!(replay(&scratch.path().join("data"), &["schema"]).status.code(), Some(3));
}

/// A log that is long enough to fill a pipe many times.
fn long() -> TempDir {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let store = SqliteStore::open(&scratch.path().join("data")).expect("a log");
    let mut writer = store.writer().expect("a writer");
    writer.found(Shards::ONE).expect("founded");
    let head = writer.take(0, Uuid::nil(), START).expect("the shard");
    let filler = "x".repeat(200);
    let events = (1..=60_000).map(|position| {
        let payload = format!(r#"{{"type":"order.placed","filler":"{filler}"}}"#);
        event(
            position,
            StreamId::new("order", Uuid::from_u128(u128::from(position))),
            1,
            "order.placed",
            payload,
        )
    });
    append(writer.as_mut(), head.epoch, GENESIS, events.collect());
    drop(writer);
    drop(store);
    scratch
}

fn spawned(data: &Path, arguments: &[&str]) -> Child {
    command(data, arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs")
}

fn interrupt(child: &Child) {
    let sent = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status();
    assert!(sent.expect("a shell").success());
}

/// Reads some of what it prints, and leaves it waiting with a full pipe.
fn begun(child: &mut Child) -> (BufReader<std::process::ChildStdout>, String) {
    let mut pipe = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    pipe.read_line(&mut line).expect("a line");
    (pipe, line)
}

fn ended(mut child: Child) -> (Option<i32>, String) {
    let status = child.wait().expect("it has ended");
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    (status.code(), said)
}

#[test]
fn ctrl_c_leaves_a_whole_prefix() {
    let log = long();
    for format in ["json", "ndjson", "csv", "table"] {
        let mut child = spawned(&log.path().join("data"), &["cat", "-o", format]);
        let (mut pipe, mut text) = begun(&mut child);
        interrupt(&child);
        pipe.read_to_string(&mut text).expect("text");
        assert_eq!(ended(child), (Some(130), "replay: interrupted\n".to_owned()), "{format}");
        let shown = match format {
            "json" => serde_json::from_str::<Vec<Value>>(&text).expect("an array").len(),
            "ndjson" => {
                let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
                events.len()
            }
            _ => text.lines().count(),
        };
        assert!(text.ends_with('\n') && (1..60_000).contains(&shown), "{format}: {shown}");
    }
}

#[test]
fn who_has_seen_enough_may_close_the_pipe() {
    let log = long();
    for arguments in [
        &["cat"][..],
        &["cat", "-o", "json"],
        &["cat", "--reverse"],
        &["tail", "--from", "start"],
    ] {
        let mut child = spawned(&log.path().join("data"), arguments);
        drop(begun(&mut child));
        assert_eq!(ended(child), (Some(0), String::new()), "{arguments:?}");
    }
}

#[test]
fn a_log_that_is_replaced_or_cut_off_while_it_is_read_is_told() {
    let log = long();
    let data = log.path().join("data");
    let mut child = spawned(&data, &["cat"]);
    let (mut pipe, _) = begun(&mut child);
    fs::copy(shop().join("log.db"), data.join("other")).expect("copied");
    fs::rename(data.join("other"), data.join("log.db")).expect("renamed");
    std::io::copy(&mut pipe, &mut std::io::sink()).expect("read");
    let (code, said) = ended(child);
    assert!(
        code == Some(1) && said.contains("was replaced by another file") && said.lines().count() == 1,
        "{code:?} {said}"
    );

    let log = long();
    let data = log.path().join("data");
    let mut child = spawned(&data, &["cat"]);
    let (mut pipe, _) = begun(&mut child);
    fs::File::options()
        .write(true)
        .open(data.join("log.db"))
        .expect("the log")
        .set_len(8_192)
        .expect("cut");
    std::io::copy(&mut pipe, &mut std::io::sink()).expect("read");
    let (code, said) = ended(child);
    assert!(
        code == Some(1) && said.contains("was cut off") && said.lines().count() == 1,
        "{code:?} {said}"
    );
}

#[test]
fn a_copy_is_read_where_nothing_can_be_written_and_nothing_is_left() {
    let scratch = copy();
    let data = scratch.path().join("data");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o555)).expect("changed");
    let before = modified(&data);
    for arguments in [
        &["cat"][..],
        &["types"],
        &["schema"],
        &["tail", "--from", "start", "--limit", "5"],
        &["stats"],
        &["verify", "--no-views"],
    ] {
        let output = replay(&data, arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
        let names: Vec<_> = fs::read_dir(&data)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(names, ["log.db"], "{arguments:?}");
    }
    assert_eq!(modified(&data), before);
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).expect("changed back");
}

/// A directory's time tells whether a file was ever made or removed in it.
fn modified(directory: &Path) -> std::time::SystemTime {
    fs::metadata(directory).and_then(|known| known.modified()).expect("a time")
}

/// A log of four shards whose events of one time stand in all of them.
fn sharded() -> TempDir {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let store = SqliteStore::open(&scratch.path().join("data")).expect("a log");
    let mut writer = store.writer().expect("a writer");
    writer.found(Shards::new(4).expect("four")).expect("founded");
    for shard in 0..4_u16 {
        let head = writer.take(shard, Uuid::nil(), START).expect("the shard");
        // The last shard has nothing yet.
        if shard == 3 {
            continue;
        }
        let events = (1..=2_500_u64).map(|position| Event {
            shard,
            event_id: Uuid::from_u128((u128::from(shard) << 64) + u128::from(position)),
            // Each shard has its own rhythm, and now and then two have the same time.
            recorded_at: START + i64::try_from(position * (u64::from(shard) + 2)).expect("small"),
            ..event(
                position,
                StreamId::new("inventory", Uuid::from_u128(u128::from(shard) * 10 + u128::from(position % 3))),
                position.div_ceil(3),
                "inventory.received",
                format!(r#"{{"type":"inventory.received","quantity":{position}}}"#),
            )
        });
        let mut hash = GENESIS;
        for events in events.collect::<Vec<_>>().chunks(500) {
            let events: Vec<_> = events.to_vec();
            hash = append(writer.as_mut(), head.epoch, hash, events);
        }
    }
    drop(writer);
    drop(store);
    scratch
}

#[test]
fn several_shards_come_in_the_order_in_which_they_were_recorded() {
    let scratch = sharded();
    let data = scratch.path().join("data");
    let key = |event: &Value| {
        (
            event["recorded_at"].as_str().expect("a time").to_owned(),
            event["shard"].as_u64().expect("a number"),
            event["position"].as_u64().expect("a number"),
        )
    };
    let events = rows(&replay(&data, &["cat"]));
    assert_eq!(events.len(), 7_500);
    assert!(events.is_sorted_by_key(key));
    let mut backwards = rows(&replay(&data, &["cat", "--reverse"]));
    backwards.reverse();
    assert_eq!(backwards, events);
    // Where one run ended, the next goes on.
    let first = rows(&replay(&data, &["cat", "--limit", "3210"]));
    let last = first.last().expect("an event");
    let rest = rows(&replay(
        &data,
        &["cat", "--after", &format!("{}/{}", last["shard"], last["position"])],
    ));
    assert_eq!([first, rest].concat(), events);
    // Half of the log by a time, the other half from it on.
    let middle = events[4_000]["recorded_at"].as_str().expect("a time");
    let halves = [
        rows(&replay(&data, &["cat", "--to", middle])),
        rows(&replay(&data, &["cat", "--from", middle])),
    ]
    .concat();
    assert_eq!(halves, events);
    let one = rows(&replay(&data, &["cat", "--shard", "2", "--from", "pos:2/11", "--to", "pos:2/20"]));
    assert_eq!(
        one.iter()
            .map(|event| event["position"].as_u64().expect("a number"))
            .collect::<Vec<_>>(),
        (11..=20).collect::<Vec<_>>()
    );
    refused(&data, &["cat", "--from", "pos:7"], 1, &["names no shard", "0/7"]);
    refused(&data, &["cat", "--from", "pos:3/1"], 1, &["shard 3 ends at 3/0"]);
    refused(&data, &["cat", "--shard", "4"], 1, &["the log has 4, 0 to 3"]);
    let types = rows(&replay(&data, &["types"]));
    assert_eq!((&types[0]["events"], &types[0]["first_position"]), (&7_500.into(), &"0/1".into()));
    let stream = format!("inventory-{}", Uuid::from_u128(21));
    assert_eq!(rows(&replay(&data, &["cat", "--stream", &stream, "--limit", "1000"])).len(), 834);
    let tailed = rows(&replay(&data, &["tail", "--from", "start", "--limit", "7500"]));
    assert_eq!(tailed, events);
}

/// Lines that `tail` prints, as they come.
struct Tail {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Tail {
    fn start(data: &Path, arguments: &[&str]) -> Self {
        let mut child = spawned(data, &[&["tail", "--poll", "5ms"], arguments].concat());
        let pipe = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in pipe.lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn next(&mut self) -> u64 {
        let line = self.lines.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| {
            // It has ended, or is ended.
            let _ = self.child.kill();
            let mut said = String::new();
            let _ = self.child.stderr.take().expect("piped").read_to_string(&mut said);
            panic!("no line comes; it said: {said}")
        });
        let event: Value = serde_json::from_str(&line).expect("an object");
        event["position"].as_u64().expect("a position")
    }
}

fn appended(writer: &mut dyn LogWriter, epoch: u64, hash: &mut Hash, positions: std::ops::RangeInclusive<u64>) {
    for position in positions {
        let stream = StreamId::new("order", Uuid::from_u128(u128::from(position)));
        let events = vec![event(position, stream, 1, "order.placed", r#"{"type":"order.placed"}"#.to_owned())];
        *hash = append(writer, epoch, *hash, events);
    }
}

/// Opens a log that this process had open before. A child that another test is starting just now has the lock too, until it is a program
/// of its own.
fn open_again(data: &Path) -> SqliteStore {
    let begun = Instant::now();
    loop {
        match SqliteStore::open(data) {
            Err(event_store::StoreError::Held { .. }) if begun.elapsed() < Duration::from_secs(10) => std::thread::yield_now(),
            opened => return opened.expect("the log"),
        }
    }
}

#[test]
fn tail_shows_every_event_once_while_the_shop_serves_stops_and_starts_again() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    // A log that no shop has started on yet. From its start, because nobody knows when the new process comes to look at its end.
    drop(SqliteStore::open(&data).expect("a log"));
    let mut tail = Tail::start(&data, &["--from", "start"]);
    let mut hash = GENESIS;
    let mut next = 1;
    for _ in 0..3 {
        let store = open_again(&data);
        let mut writer = store.writer().expect("a writer");
        writer.found(Shards::ONE).expect("founded");
        let epoch = writer.take(0, Uuid::nil(), START).expect("the shard").epoch;
        for _ in 0..5 {
            appended(writer.as_mut(), epoch, &mut hash, next..=next + 9);
            for position in next..next + 10 {
                assert_eq!(tail.next(), position);
            }
            next += 10;
        }
        // The last one is written when the shop is about to stop.
        appended(writer.as_mut(), epoch, &mut hash, next..=next);
        drop(writer);
        drop(store);
        assert_eq!(tail.next(), next);
        next += 1;
    }
    interrupt(&tail.child);
    assert_eq!(ended(tail.child), (Some(130), "replay: interrupted\n".to_owned()));
    assert!(tail.lines.recv().is_err(), "nothing came twice");
}

#[test]
fn tail_ends_when_the_log_is_another_one() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    for how in ["replaced", "removed"] {
        let data = scratch.path().join(how);
        fs::create_dir(&data).expect("made");
        fs::copy(shop().join("log.db"), data.join("log.db")).expect("copied");
        let mut tail = Tail::start(&data, &["--from", "pos:1"]);
        assert_eq!(tail.next(), 1);
        if how == "replaced" {
            fs::copy(shop().join("log.db"), data.join("other")).expect("copied");
            fs::rename(data.join("other"), data.join("log.db")).expect("renamed");
        } else {
            fs::remove_file(data.join("log.db")).expect("removed");
        }
        let (code, said) = ended(tail.child);
        assert!(code == Some(3) && said.lines().count() == 1, "{code:?} {said}");
    }
}

#[test]
fn tail_ends_after_its_limit_and_filters_like_cat() {
    let tailed = replay(&shop(), &["tail", "--from", "start", "--type", "order.placed", "--limit", "4"]);
    assert_eq!(
        rows(&tailed),
        rows(&replay(&shop(), &["cat", "--type", "order.placed", "--limit", "4"]))
    );
    let none = replay(&shop(), &["tail", "--limit", "0"]);
    assert_eq!((none.status.code(), out(&none)), (Some(0), ""));
    let table = replay(&shop(), &["tail", "--from", "start", "--limit", "2", "-o", "table"]);
    assert_eq!(out(&table).lines().count(), 3);
}
