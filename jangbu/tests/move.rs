//! `jangbu move`: a shop goes from files into databases and back, and is the same shop there; nobody goes on from where it was.

mod shop;

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use event_store::{Copying, EventStore, GIVEN_UP, KEPT, LogCopy};
use event_store_postgres::PostgresStore;
use event_store_sqlite::SqliteStore;
use key_vault::KeyVault;
use reqwest::Method;
use serde_json::{Value, json};
use shop::{ADMIN, BUYER, COFFEE, Client, PASSWORD, Pay, Shop, Token, client::fresh_key, client::payment_key, order};
use tempfile::TempDir;
use test_servers::{Database, Postgres, Proxy};
use uuid::{Uuid, uuid};
use verify::{Options, verify_log};

/// Of one copy, as docs/operations.md names both.
const MOVER: Uuid = uuid!("307e0000-0000-5000-8000-0123456789ab");
const MOVED: Uuid = uuid!("307e0001-0000-5000-8000-0123456789ab");

type Settings<'a> = &'a [(&'a str, &'a str)];

fn command(arguments: &[&str], settings: Settings<'_>) -> Command {
    let mut command = shop::jangbu(arguments);
    command.envs(settings.iter().copied()).stdin(Stdio::null());
    command
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// Moves the shop there, into this data directory.
fn move_shop(from: &[&str], data: &Path, settings: Settings<'_>) -> Output {
    let arguments = [&["move"], from, &["--data", text(data)]].concat();
    command(&arguments, settings).output().expect("the binary runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn moved(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", said(output));
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    let said = said(output);
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    for words in words {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
    assert!(!said.contains("s3cret"), "{said}");
}

fn backup(data: &Path, to: &Path) -> Output {
    let arguments = ["backup", "--to", text(to), "--data", text(data)];
    command(&arguments, &[]).output().expect("the binary runs")
}

/// A shop that is started here ends at once, and says why.
#[track_caller]
fn is_not_served(data: &Path, settings: Settings<'_>, words: &str) {
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--data", text(data)];
    let output = command(&arguments, settings).output().expect("the binary runs");
    assert!(said(&output).contains(words), "{}", said(&output));
    assert_ne!(output.status.code(), Some(0));
}

/// As `replay verify` does; how many events there are.
fn is_sound(store: &dyn EventStore) -> u64 {
    let report = verify_log(store.reader().expect("a reader").as_ref(), &Options::default()).expect("the log can be read");
    let findings: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
    assert!(report.is_sound(), "{findings:?}");
    report.counts.events
}

fn in_directory(data: &Path) -> SqliteStore {
    SqliteStore::open_read_only(data).expect("a log")
}

fn in_database(database: &Database) -> PostgresStore {
    PostgresStore::open_to_look(&database.url().parse().expect("an address")).expect("a log")
}

async fn serve(data: &Path, settings: Settings<'_>) -> Shop {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    Shop::open_in(scratch, data.to_owned(), settings).await
}

/// What somebody knows of a shop who has been there.
struct Visitor {
    email: String,
    /// An order, how it was placed, and what was answered.
    order: Value,
    key: String,
    answer: Value,
    etag: String,
}

impl Visitor {
    async fn of(client: &Client) -> Self {
        let email = format!("{}@example.com", Uuid::new_v4().simple());
        let body = json!({ "email": email, "password": PASSWORD, "name": "Private Name", "role": "BUYER" });
        let request = client.request(Method::POST, "/api/v1/accounts").json(&body);
        let account = Client::send(request).await.expect("answered").expect(201).text("accountId");
        let (admin, buyer) = (client.log_in(ADMIN).await, client.log_in(&email).await);
        let deposit = json!({ "amount": { "amount": 100_000, "currency": "KRW" } });
        client
            .post(&admin, &format!("/api/v1/accounts/{account}/deposits"), &deposit)
            .await
            .expect(201);
        let (body, key) = (order(&[(COFFEE, 1)], Pay::Balance), fresh_key());
        let answer = client.insist(&buyer, "/api/v1/orders", &key, &body).await.expect(202);
        client.settled(&buyer, &answer.order_id()).await;
        let etag = etag(client, &buyer, &answer.order_id()).await;
        Self {
            email,
            order: body,
            key,
            answer: answer.body,
            etag,
        }
    }

    /// Finds all as it was, and buys once more.
    async fn comes_back(&self, client: &Client) {
        let buyer = client.log_in(&self.email).await;
        let order_id = self.answer["orderId"].as_str().expect("an id");
        assert_eq!(etag(client, &buyer, order_id).await, self.etag);
        let again = client.insist(&buyer, "/api/v1/orders", &self.key, &self.order).await.expect(202);
        assert!(again.replayed() && again.body == self.answer, "{again:?}");
        let asked = "query ($id: ID!) { order(id: $id) { shippingAddress { recipient } } }";
        client.shown(&buyer, order_id, "CONFIRMED").await;
        let asked = client.ask(&buyer, asked, &json!({ "id": order_id })).await;
        assert_eq!(asked["order"]["shippingAddress"]["recipient"], "Secret Recipient", "the keys fit");
        let new = client.buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await;
        assert_eq!(new.outcome(), "CONFIRMED");
    }
}

async fn etag(client: &Client, token: &Token, order: &str) -> String {
    let answer = client.order(token, order).await;
    answer.headers["etag"].to_str().expect("text").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_goes_from_files_into_databases_and_back_and_is_the_same_shop() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let (old, host, back) = (scratch.path().join("old"), scratch.path().join("host"), scratch.path().join("back"));
    let server = Postgres::shared();
    let (log, keys) = (server.database(), server.database());
    let databases = [("JANGBU_STORE", log.url()), ("JANGBU_KEYS", keys.url()), ("JANGBU_VIEWS", "sqlite")];

    let mut shop = serve(&old, &[]).await;
    let client = shop.client().clone();
    let buyer = client.log_in(BUYER).await;
    let card = client.buy(&buyer, &order(&[(COFFEE, 2)], Pay::Card(&payment_key("ok")))).await;
    assert_eq!(card.outcome(), "CONFIRMED");
    let visitor = Visitor::of(&client).await;
    refused(
        &move_shop(&["--from", text(&old)], &host, &databases),
        &["is in use by another process", "stop its shop first"],
    );
    shop.stop().await;
    let events = is_sound(&in_directory(&old));

    let summary = moved(&move_shop(&["--from", text(&old)], &host, &databases));
    for words in [
        format!("{events} events are in the log in postgres://"),
        "every hash of it was computed again".to_owned(),
        "the keys are in postgres://".to_owned(),
        "no shop serves the log in".to_owned(),
        "simulator.db stays: copy it".to_owned(),
    ] {
        assert!(summary.contains(&words), "{words}: {summary}");
    }
    assert_eq!(is_sound(&in_database(&log)), events);
    is_not_served(&old, &[], "this log has moved (`jangbu move`)");
    // Done again, nothing is left to do; done elsewhere, it is refused.
    assert!(moved(&move_shop(&["--from", text(&old)], &host, &databases)).starts_with("the log has moved to postgres://"));
    refused(
        &move_shop(&["--from", text(&old)], &back, &[]),
        &["has moved already", "and not to"],
    );
    assert!(!back.join("log.db").exists());

    let mut shop = serve(&host, &databases).await;
    visitor.comes_back(shop.client()).await;
    refused(
        &move_shop(&["--from", log.url(), "--from-keys", keys.url()], &back, &[]),
        &["is held by another process", "stop its shop first"],
    );
    shop.stop().await;
    let events = is_sound(&in_database(&log));

    // Back: addresses are in files, as those with a password should be.
    let file = |name: &str, url: &str| -> PathBuf {
        let path = scratch.path().join(name);
        std::fs::write(&path, format!("{url}\n")).expect("written");
        path
    };
    let (log_file, keys_file) = (file("log.url", log.url()), file("keys.url", keys.url()));
    let from = ["--from-file", text(&log_file), "--from-keys-file", text(&keys_file)];
    let summary = moved(&move_shop(&from, &back, &[]));
    assert!(
        summary.contains(&format!("{events} events are in the log in {}", back.display())),
        "{summary}"
    );
    assert_eq!(is_sound(&in_directory(&back)), events);
    let names: Vec<_> = std::fs::read_dir(&back)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert!(names.iter().all(|name| name != "keys.part"), "{names:?}");
    is_not_served(&host, &databases, "this log has moved (`jangbu move`)");
    let mut shop = serve(&back, &[]).await;
    visitor.comes_back(shop.client()).await;
    shop.stop().await;
    is_sound(&in_directory(&back));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_alone_moves_where_the_keys_stay_in_the_same_data_directory() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    let mut shop = serve(&data, &[]).await;
    let visitor = Visitor::of(shop.client()).await;
    shop.stop().await;
    let log = Postgres::shared().database();
    let settings = [("JANGBU_STORE", log.url())];
    let summary = moved(&move_shop(&["--from", text(&data)], &data, &settings));
    assert!(
        summary.contains("the keys stay in") && !summary.contains("simulator.db"),
        "{summary}"
    );
    is_not_served(&data, &[], "this log has moved (`jangbu move`)");
    let mut shop = serve(&data, &settings).await;
    visitor.comes_back(shop.client()).await;
    shop.stop().await;
    is_sound(&in_database(&log));
}

/// A shop with a past, which nobody serves.
fn generated(scratch: &TempDir, orders: &str, shards: &str) -> PathBuf {
    let data = scratch.path().join("generated");
    let arguments = ["generate", "--orders", orders, "--shards", shards, "--data", text(&data)];
    let output = command(&arguments, &[]).output().expect("the binary runs");
    assert!(output.status.success(), "{}", said(&output));
    data
}

#[test]
fn what_cannot_be_moved_or_has_no_place_is_refused_in_one_line() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let old = generated(&scratch, "50", "2");
    let events = is_sound(&in_directory(&old));
    let new = scratch.path().join("new");
    let place = |name: &str| scratch.path().join(name);
    let from = ["--from", text(&old)];
    let server = Postgres::shared();
    let (used, empty, keys) = (server.database(), server.database(), server.database());

    refused(&move_shop(&["--from", text(&place("none"))], &new, &[]), &["holds no log.db"]);
    refused(&move_shop(&["--from", "mysql://h/d"], &new, &[]), &["begins with postgres://"]);
    refused(
        &move_shop(&["--from", empty.url(), "--from-keys", "k"], &new, &[]),
        &["postgres://"],
    );
    refused(&move_shop(&from, &old, &[]), &["is in", "already", "JANGBU_STORE or --data"]);
    refused(
        &move_shop(&from, &new, &[("JANGBU_SHARDS", "4")]),
        &["has 2 shards", "set JANGBU_SHARDS=2"],
    );
    let none = place("none");
    let without = [&from[..], &["--from-keys", text(&none)]].concat();
    refused(&move_shop(&without, &new, &[]), &["format", "is missing"]);

    // A directory with something else in it, a database with somebody's events, one with a log, keys of another shop.
    let full = place("full");
    std::fs::create_dir(&full).expect("made");
    std::fs::write(full.join("notes"), "mine").expect("written");
    refused(&move_shop(&from, &full, &[]), &["holds notes but no log.db", "name another one"]);
    used.sql("CREATE TABLE events (id integer)");
    refused(
        &move_shop(&from, &new, &[("JANGBU_STORE", used.url())]),
        &["holds events of another program"],
    );
    let other = TempDir::new_in(scratch.path()).expect("a scratch directory");
    let other = generated(&other, "10", "2");
    refused(&move_shop(&from, &other, &[]), &["it is no copy that was begun from this one"]);
    KeyVault::open(&place("keys")).expect("keys of another shop");
    refused(
        &move_shop(&from, &new, &[("JANGBU_KEYS", text(&place("keys")))]),
        &["there are keys in", "JANGBU_KEYS"],
    );
    let migrated = [("JANGBU_STORE", empty.url()), ("JANGBU_KEYS", keys.url())];
    let made = command(&["migrate", "--data", text(&place("host"))], &migrated).output();
    assert!(made.expect("the binary runs").status.success());
    refused(&move_shop(&from, &place("host"), &migrated), &["there are keys in postgres://"]);
    refused(
        &move_shop(&["--from", empty.url(), "--from-keys", keys.url()], &new, &[]),
        &["there are no events in postgres://"],
    );

    // A log that is not complete, and one whose keys were not named.
    let adopter = uuid!("ad097000-0000-5000-8000-000000000000");
    let hold = |instance| {
        let mut writer = SqliteStore::open(&old).expect("the log").writer().expect("a writer");
        let head = writer.seize(0, instance, 1).expect("the shard");
        move |at| writer.heartbeat(0, head.epoch, at).expect("its own")
    };
    hold(adopter)(KEPT);
    refused(&move_shop(&from, &new, &[]), &["is not complete", "run that to its end first"]);
    refused(
        &backup(&old, &place("copy")),
        &["the log is not complete: `jangbu adopt` writes it"],
    );
    assert!(!place("copy").exists());
    hold(adopter)(GIVEN_UP);
    assert_eq!(is_sound(&in_directory(&old)), events);

    // After all that it moves, and the old one is none to begin with.
    let fresh = place("fresh");
    moved(&move_shop(&from, &fresh, &[]));
    refused(&move_shop(&from, &new, &[]), &["has moved already"]);
    // Where no keys are, or those of another shop, nobody is told that they may delete the old ones.
    for name in ["keys", "no-keys"] {
        let keys = place(name);
        let output = move_shop(&from, &fresh, &[("JANGBU_KEYS", text(&keys))]);
        refused(&output, &["the log has moved, but the keys in", "JANGBU_KEYS", "delete none"]);
        assert!(output.stdout.is_empty());
    }
    assert!(moved(&move_shop(&from, &fresh, &[])).contains("delete them"));
    let named = Postgres::shared().database();
    let kept = place("fresh-keys");
    let store = [("JANGBU_STORE", named.url()), ("JANGBU_KEYS", text(&kept))];
    moved(&move_shop(&["--from", text(&fresh)], &place("host"), &store));
    refused(&move_shop(&["--from", named.url()], &new, &[]), &["--from-keys"]);
}

#[test]
fn one_that_is_interrupted_anywhere_leaves_a_log_that_nobody_serves_and_goes_on() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let old = generated(&scratch, "3000", "2");
    let events = is_sound(&in_directory(&old));
    let server = Postgres::shared();
    let (log, keys) = (server.database(), server.database());
    let address = server.url();
    let address = address.split('@').nth(1).and_then(|rest| rest.split('/').next()).expect("a host");
    let network = Proxy::to(address.parse().expect("an address"));
    let slow = log.url_at(network.address());
    let host = scratch.path().join("host");
    let there = || -> u64 {
        if log.sql("SELECT to_regclass('log_head') IS NOT NULL").trim() != "t" {
            return 0;
        }
        let sum = log.sql("SELECT coalesce(sum(position), 0) FROM log_head");
        sum.trim().parse().expect("a number")
    };
    let mut before = 0;
    // The last one comes when all events are there, and not yet what a log has beside them.
    for (signal, code, enough) in [("TERM", Some(130), 1), ("KILL", None, 1), ("TERM", Some(130), events)] {
        network.delay(Duration::from_millis(20));
        let settings = [("JANGBU_STORE", slow.as_str()), ("JANGBU_KEYS", keys.url())];
        let mut moving = command(&["move", "--from", text(&old), "--data", text(&host)], &settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs");
        let begun = Instant::now();
        let enough = enough.max(before + 1);
        while there() < enough {
            assert!(begun.elapsed() < shop::PATIENCE, "it writes");
            std::thread::sleep(shop::LOOK);
        }
        network.hold();
        let kill = format!("kill -{signal} {}", moving.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
        network.mend();
        assert_eq!(moving.wait().expect("it ends").code(), code);
        before = there();
        assert!(
            before >= enough && (before == events) == (enough == events),
            "it is interrupted on the way: {before}"
        );
        // The half that is there is nobody's, and the old log is as it was.
        let settings = [("JANGBU_STORE", log.url()), ("JANGBU_KEYS", keys.url())];
        is_not_served(&host, &settings, "the log is not complete: `jangbu move`");
    }
    let settings = [("JANGBU_STORE", log.url()), ("JANGBU_KEYS", keys.url())];
    // Nothing else is taken for the rest of it.
    let other = TempDir::new_in(scratch.path()).expect("a scratch directory");
    let other = generated(&other, "10", "2");
    refused(
        &move_shop(&["--from", text(&other)], &host, &settings),
        &["it is no copy that was begun from this one"],
    );
    assert_eq!(there(), before);
    moved(&move_shop(&["--from", text(&old)], &host, &settings));
    assert_eq!((there(), is_sound(&in_database(&log))), (events, events));
    is_not_served(&old, &[], "this log has moved (`jangbu move`)");
}

/// What a mover does before it gives the old log up. It stops after so many steps behind the last event.
fn copy_by_hand(old: &Path, new: &Path, steps: u64) {
    let (from, to) = (SqliteStore::open(old).expect("the log"), SqliteStore::open(new).expect("a log"));
    let (reader, mut writer) = (from.reader().expect("a reader"), from.writer().expect("a writer"));
    let now = jiff::Timestamp::now().as_microsecond();
    for shard in reader.shards().expect("read") {
        let head = writer.take(shard, Uuid::new_v4(), now).expect("free");
        writer.heartbeat(shard, head.epoch, GIVEN_UP).expect("its own");
    }
    let events: u64 = reader.heads().expect("read").iter().map(|head| head.position).sum();
    let how = Copying { instance: MOVER, now };
    let mut copy = LogCopy::begin(reader.as_ref(), &to, how).expect("begun");
    KeyVault::restore(&old.join("keys"), &new.join("keys")).expect("its keys");
    let mut left = steps;
    let copied = copy.copy(&mut |copied| {
        left -= u64::from(copied == events);
        if left == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert_eq!(copied.is_ok(), steps == u64::MAX, "{copied:?}");
}

fn give_up_by_hand(old: &Path, shards: &[u16]) {
    let mut writer = SqliteStore::open(old).expect("the log").writer().expect("a writer");
    for shard in shards {
        writer.seize(*shard, MOVED, KEPT).expect("the shard");
    }
}

#[test]
fn of_two_copies_that_were_begun_the_one_that_was_finished_is_given_away() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let old = generated(&scratch, "100", "2");
    let events = is_sound(&in_directory(&old));
    let (half, whole, saved, restored) = (
        scratch.path().join("half"),
        scratch.path().join("whole"),
        scratch.path().join("saved"),
        scratch.path().join("restored"),
    );
    // All events of both shards, under the newest epoch, and nothing of what belongs to no shard.
    copy_by_hand(&old, &half, 2);
    let from = ["--from", text(&old)];
    moved(&move_shop(&from, &whole, &[]));
    for _ in 0..2 {
        refused(&move_shop(&from, &half, &[]), &["has moved already", "and not to"]);
        is_not_served(&half, &[], "the log is not complete: `jangbu move`");
    }
    assert!(moved(&move_shop(&from, &whole, &[])).starts_with("the log has moved to"));
    assert_eq!(is_sound(&in_directory(&whole)), events);

    // What is not complete is not backed up; what has moved has moved in its backup too.
    refused(&backup(&half, &saved), &["the log is not complete: `jangbu move`"]);
    assert_eq!(backup(&old, &saved).status.code(), Some(0));
    let arguments = ["restore", "--from", text(&saved), "--data", text(&restored)];
    assert!(command(&arguments, &[]).output().expect("the binary runs").status.success());
    is_not_served(&restored, &[], "this log has moved (`jangbu move`)");
    assert_eq!(is_sound(&in_directory(&restored)), events);
}

#[test]
fn one_that_ended_when_some_shards_were_given_up_has_not_moved_yet_and_may_go_elsewhere() {
    for elsewhere in [false, true] {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let old = generated(&scratch, "30", "3");
        let events = is_sound(&in_directory(&old));
        let (new, other) = (scratch.path().join("new"), scratch.path().join("other"));
        copy_by_hand(&old, &new, u64::MAX);
        give_up_by_hand(&old, &[0, 1]);
        is_not_served(&old, &[], "this log has moved (`jangbu move`)");
        let target = if elsewhere { &other } else { &new };
        let summary = moved(&move_shop(&["--from", text(&old)], target, &[]));
        assert!(summary.starts_with(&format!("{events} events are in the log in")), "{summary}");
        is_not_served(&old, &[], "this log has moved (`jangbu move`)");
        assert_eq!(is_sound(&in_directory(target)), events);
        if elsewhere {
            refused(&move_shop(&["--from", text(&old)], &new, &[]), &["has moved already"]);
            is_not_served(&new, &[], "the log is not complete: `jangbu move`");
        }
    }
}

#[test]
fn what_is_in_a_file_is_not_shown() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let old = generated(&scratch, "3", "1");
    let (file, new) = (scratch.path().join("secret.url"), scratch.path().join("new"));
    for content in [
        "host=db user=owner password=s3cret",
        "postgres:/owner:s3cret@db/jangbu",
        "mysql://owner:s3cret@db/jangbu",
        "postgres://owner:s3cret@db:no-port/jangbu",
        "",
    ] {
        std::fs::write(&file, content).expect("written");
        let named = if content.contains("://") {
            "postgres"
        } else {
            "secret.url holds neither"
        };
        refused(&move_shop(&["--from-file", text(&file)], &new, &[]), &[named]);
        let keys = ["--from", text(&old), "--from-keys-file", text(&file)];
        refused(
            &move_shop(&keys, &new, &[]),
            &[if named == "postgres" { "the keys of the shop" } else { named }],
        );
    }
    // A directory may be in a file too.
    std::fs::write(&file, text(&old)).expect("written");
    moved(&move_shop(&["--from-file", text(&file)], &new, &[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_ended_between_its_last_two_steps_is_finished_by_the_next() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let (old, new) = (scratch.path().join("old"), scratch.path().join("new"));
    let shards = [("JANGBU_SHARDS", "3")];
    let mut shop = serve(&old, &shards).await;
    let visitor = Visitor::of(shop.client()).await;
    shop.stop().await;
    // What a mover leaves that is killed when the old log is given up: all of it is there, and kept.
    copy_by_hand(&old, &new, u64::MAX);
    give_up_by_hand(&old, &[0, 1, 2]);
    is_not_served(&old, &[], "this log has moved (`jangbu move`)");
    is_not_served(&new, &[], "the log is not complete: `jangbu move`");

    for _ in 0..2 {
        let summary = moved(&move_shop(&["--from", text(&old)], &new, &[]));
        assert!(summary.starts_with(&format!("the log has moved to {}", new.display())), "{summary}");
    }
    let mut shop = serve(&new, &shards).await;
    visitor.comes_back(shop.client()).await;
    shop.stop().await;
    is_sound(&in_directory(&new));
}
