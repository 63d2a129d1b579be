//! The binary itself: how it starts, what it refuses, how it ends, and what a backup of it is worth.

mod shop;

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use reqwest::Method;
use rusqlite::{Connection, OpenFlags};
use serde_json::json;
use shop::{BUYER, COFFEE, Pay, SELLER, Shop, client, eventually, order};

/// The binary with these arguments, in this directory, without anybody's settings.
fn jangbu(directory: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jangbu"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("JANGBU_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(directory)
        .args(arguments)
        .envs(settings.iter().copied())
        .stdin(Stdio::null());
    command
}

fn ends(directory: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    jangbu(directory, arguments, settings).output().expect("the binary runs")
}

/// Demands that it ends with this code and one line on standard error, which holds these words, and nothing of a panic.
#[track_caller]
fn refuses(directory: &Path, arguments: &[&str], settings: &[(&str, &str)], code: i32, words: &[&str]) {
    let output = ends(directory, arguments, settings);
    let line = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}");
    assert_eq!(line.trim_end().lines().count(), 1, "{line}");
    for word in words {
        assert!(line.contains(word), "{word:?} is not in {line:?}");
    }
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!line.contains("panicked") && !said.contains("panicked"), "{line}{said}");
}

fn serve(data: &Path) -> [&str; 5] {
    [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data",
        data.to_str().expect("a path in UTF-8"),
    ]
}

fn log(data: &Path) -> Connection {
    Connection::open_with_flags(data.join("log.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the log can be read")
}

fn events(data: &Path) -> i64 {
    log(data)
        .query_row("SELECT count(*) FROM events", [], |row| row.get(0))
        .expect("a count")
}

#[tokio::test]
async fn the_demo_is_loaded_once_however_often_it_is_asked_for() {
    let mut shop = Shop::open(&[]).await;
    let buyer = shop.client().log_in(BUYER).await;
    let products = shop
        .client()
        .ask(
            &buyer,
            "{ products(first: 20) { nodes { id price { amount currency } inventory { available unlimited } } } }",
            &json!({}),
        )
        .await;
    assert_eq!(products["products"]["nodes"].as_array().map(Vec::len), Some(6), "{products}");
    let figures = shop.client().figures(&buyer, &[COFFEE]).await;
    assert_eq!((figures.balance, figures.stock[COFFEE]), (1_000_000, (1_000, 0)));
    // Spent money does not come back by loading the demo again.
    let placed = shop.client().buy(&buyer, &order(&[(COFFEE, 3)], Pay::Balance)).await;
    assert_eq!(placed.outcome(), "CONFIRMED");
    shop.stop().await;
    let before = events(shop.data());
    shop.start_again().await;
    assert_eq!(events(shop.data()), before);
    shop.kill_and_start_again().await;
    assert_eq!(events(shop.data()), before);
    let figures = shop.client().figures(&buyer, &[COFFEE]).await;
    assert_eq!((figures.balance, figures.stock[COFFEE]), (985_000, (997, 0)));
    shop.close().await;
}

#[tokio::test]
async fn without_the_demo_there_is_nobody_but_the_admin_of_the_settings() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    let settings = [
        ("JANGBU_ADMIN__EMAIL", "boss@example.com"),
        ("JANGBU_ADMIN__PASSWORD", shop::PASSWORD),
        ("JANGBU_METRICS__LISTEN", "127.0.0.1:0"),
    ];
    for _ in 0..2 {
        let mut child = jangbu(scratch.path(), &serve(&data), &settings)
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let client = client::Client::new();
        eventually("the shop is ready", async || {
            client.moved_to(fs::read_to_string(data.join("address")).ok()?.trim());
            client.is_ready().await.then_some(())
        })
        .await;
        client.log_in("boss@example.com").await;
        let nobody = client
            .request(Method::POST, "/api/v1/auth/login")
            .json(&json!({ "email": BUYER, "password": shop::PASSWORD }));
        client::Client::send(nobody).await.expect("the shop answers").expect(401);
        let page = client::Client::send(client.request(Method::GET, "/"))
            .await
            .expect("the shop answers")
            .expect(200);
        assert!(!page.body.to_string().contains("jangbu.dev"));
        for (path, status) in [
            ("/graphiql", 404),
            ("/metrics", 404),
            ("/docs/", 200),
            ("/openapi.json", 200),
            ("/nowhere", 404),
            ("/livez", 200),
        ] {
            client::Client::send(client.request(Method::GET, path))
                .await
                .expect("the shop answers")
                .expect(status);
        }
        terminate(child.id());
        assert_eq!(child.wait().expect("it has ended").code(), Some(0));
        assert!(!data.join("log.db-wal").exists(), "log.db alone is the whole log");
    }
    let accounts: i64 = log(&data)
        .query_row("SELECT count(*) FROM events WHERE event_type = 'account.opened'", [], |row| {
            row.get(0)
        })
        .expect("a count");
    assert_eq!(accounts, 1);
}

fn terminate(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("not zero");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a process of this test");
}

#[tokio::test]
async fn commands_and_questions_of_a_client_count_together() {
    let shop = Shop::open(&[("JANGBU_RATE_LIMIT__PER_CLIENT", "3/h")]).await;
    let client = shop.client();
    let question = || {
        let request = client.request(Method::POST, "/graphql").header("accept-language", "en");
        client::Client::send(request.json(&json!({ "query": "{ products(first: 1) { nodes { id } } }" })))
    };
    let left = |answer: &client::Answer| answer.headers["ratelimit"].to_str().expect("text").to_owned();
    let first = question().await.expect("the shop answers").expect(200);
    assert!(left(&first).starts_with("\"client\";r=2;"), "{}", left(&first));
    let nobody = client
        .request(Method::POST, "/api/v1/auth/refresh")
        .json(&json!({ "refreshToken": "x" }));
    let second = client::Client::send(nobody).await.expect("the shop answers");
    assert!(left(&second).starts_with("\"client\";r=1;"), "{}", left(&second));
    question().await.expect("the shop answers").expect(200);
    let refused = question().await.expect("the shop answers").expect_problem(429, "too-many-requests");
    assert!(refused.headers.contains_key("retry-after"));
    let order = client.request(Method::GET, &format!("/api/v1/orders/{}", uuid::Uuid::nil()));
    client::Client::send(order)
        .await
        .expect("the shop answers")
        .expect_problem(429, "too-many-requests");
    for free in ["/readyz", "/metrics", "/docs/", "/graphiql"] {
        client::Client::send(client.request(Method::GET, free))
            .await
            .expect("the shop answers")
            .expect(200);
    }
    shop.close().await;
}

#[tokio::test]
async fn what_is_in_use_is_refused_in_one_line() {
    let shop = Shop::open(&[]).await;
    let elsewhere = tempfile::tempdir().expect("a scratch directory");
    let (address, data) = (shop.client().address(), shop.data().to_owned());
    let fresh = elsewhere.path().join("data");
    refuses(
        elsewhere.path(),
        &["serve", "--listen", &address, "--data", fresh.to_str().expect("UTF-8")],
        &[],
        1,
        &[&address, "in use"],
    );
    assert!(!fresh.exists(), "nothing is made before the address is there");
    refuses(elsewhere.path(), &serve(&data), &[], 1, &["in use by another process"]);
    let migrate = ["migrate", "--data", data.to_str().expect("UTF-8")];
    refuses(elsewhere.path(), &migrate, &[], 1, &["in use by another process"]);
    // The first one has not noticed.
    assert!(shop.client().is_ready().await);
    let healthy = ends(elsewhere.path(), &["healthcheck", "--data", data.to_str().expect("UTF-8")], &[]);
    assert!(healthy.status.success());
    shop.close().await;
    refuses(elsewhere.path(), &["healthcheck", "--listen", &address], &[], 1, &[&address]);
}

#[tokio::test]
async fn a_directory_that_is_not_this_shops_is_refused_in_one_line() {
    let mut shop = Shop::open(&[]).await;
    shop.stop().await;
    let scratch = tempfile::tempdir().expect("a scratch directory");
    // Copies of the shop's directory, each with one thing wrong.
    let copy = |name: &str| {
        let to = scratch.path().join(name);
        let copied = Command::new("cp")
            .arg("-r")
            .arg(shop.data())
            .arg(&to)
            .status()
            .expect("cp can be run");
        assert!(copied.success());
        to
    };

    let theirs = scratch.path().join("theirs");
    fs::create_dir(&theirs).expect("a directory");
    fs::write(theirs.join("thesis.txt"), "important").expect("a file");
    refuses(scratch.path(), &serve(&theirs), &[], 2, &["thesis.txt"]);
    assert_eq!(fs::read_dir(&theirs).expect("it is there").count(), 1, "nothing was put beside it");

    let text = scratch.path().join("text");
    fs::create_dir(&text).expect("a directory");
    fs::write(text.join("log.db"), "this is a diary, and no database at all").expect("a file");
    refuses(scratch.path(), &serve(&text), &[], 2, &["log.db", "not a SQLite file"]);

    let other = scratch.path().join("other");
    fs::create_dir(&other).expect("a directory");
    Connection::open(other.join("log.db"))
        .and_then(|database| database.execute_batch("CREATE TABLE diary (page)"))
        .expect("a database");
    refuses(scratch.path(), &serve(&other), &[], 2, &["log.db", "another program"]);

    for file in ["log.db", "views.db"] {
        let newer = copy(&format!("newer-{file}"));
        Connection::open(newer.join(file))
            .and_then(|database| database.pragma_update(None, "user_version", 99))
            .expect("a newer format");
        refuses(scratch.path(), &serve(&newer), &[], 2, &[file, "99", "newer"]);
    }

    let cut = copy("cut");
    fs::write(cut.join("log.db"), &fs::read(cut.join("log.db")).expect("a log")[..5_000]).expect("a shorter log");
    let _ = fs::remove_file(cut.join("log.db-wal"));
    refuses(scratch.path(), &serve(&cut), &[], 2, &["log.db"]);

    let without_keys = copy("without-keys");
    fs::remove_dir_all(without_keys.join("keys")).expect("there were keys");
    refuses(scratch.path(), &serve(&without_keys), &[], 2, &["keys"]);
    assert!(!without_keys.join("keys").exists(), "no new keys are made for an old log");

    // What can be made anew from the log is no reason to refuse.
    let without_views = copy("without-views");
    for file in ["views.db", "views.db-wal", "views.db-shm"] {
        let _ = fs::remove_file(without_views.join(file));
    }
    let views = Shop::open_in(tempfile::tempdir().expect("a scratch directory"), without_views, &[]).await;
    let buyer = views.client().log_in(BUYER).await;
    assert_eq!(views.client().figures(&buyer, &[COFFEE]).await.balance, 1_000_000);
    views.close().await;
}

#[test]
fn a_setting_that_is_unknown_bad_or_beyond_this_version_ends_it_with_2() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    for (name, value, word) in [
        ("JANGBU_PAYMENT__TIMOUT", "5s", "no setting"),
        ("JANGBU_PAYMENT__TIMEOUT", "5 parsecs", "the environment"),
        ("JANGBU_STORE", "postgres://shop:secret@db/shop?sslmode=verify-ca", "sslmode"),
        ("JANGBU_SHARDS", "0", "1 to 1024"),
        ("JANGBU_GATEWAY", "toss", "JANGBU_TOSS__SECRET_KEY"),
    ] {
        refuses(scratch.path(), &serve(&data), &[(name, value)], 2, &[name, word]);
        let output = ends(scratch.path(), &["check-config"], &[(name, value)]);
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("secret@"), "{said}");
    }
    let relay = [&serve(&data)[..], &["--role", "relay"]].concat();
    refuses(scratch.path(), &relay, &[], 2, &["role"]);
    refuses(
        scratch.path(),
        &["serve", "--listen", "nowhere"],
        &[],
        2,
        &["JANGBU_LISTEN", "--listen"],
    );
    fs::write(scratch.path().join("jangbu.toml"), "[payment]\ntimeout = \"soon\"\n").expect("a file");
    refuses(scratch.path(), &serve(&data), &[], 2, &["JANGBU_PAYMENT__TIMEOUT", "jangbu.toml"]);
    let checked = ends(
        scratch.path(),
        &["check-config"],
        &[("JANGBU_PAYMENT__TIMEOUT", "7s"), ("JANGBU_TEST_SEED", "1")],
    );
    assert!(checked.status.success());
    assert!(String::from_utf8_lossy(&checked.stdout).contains("JANGBU_PAYMENT__TIMEOUT=7s"));
    assert!(!data.exists(), "nothing was made");
}

#[tokio::test]
async fn when_it_is_told_to_end_it_answers_what_it_has_taken_and_ends_with_0() {
    let mut shop = Shop::open(&[]).await;
    let client = shop.client().clone();
    let buyer = client.log_in(BUYER).await;
    // A payment that the provider never answers is not waited for; one that takes three seconds is, by its buyer.
    client
        .place(&buyer, &order(&[(COFFEE, 1)], Pay::Card(&client::payment_key("lost"))))
        .await;
    let slow = order(&[(COFFEE, 1)], Pay::Card(&client::payment_key("slow")));
    let waits = client::Client::send(
        client
            .command(&buyer, "/api/v1/orders", &client::fresh_key(), &slow)
            .header("prefer", "wait=20"),
    );
    let begun = Instant::now();
    let ends = async {
        client::pause(700).await;
        shop.stop().await;
    };
    let (answer, ()) = tokio::join!(waits, ends);
    assert_eq!(answer.expect("the answer came").expect(200).outcome(), "CONFIRMED");
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    assert!(!shop.data().join("address").exists(), "it is not there any more");
    shop.start_again().await;
    shop.agrees_with_the_provider().await;
    shop.close().await;
}

#[tokio::test]
async fn an_engine_that_lost_its_log_ends_the_process_with_1() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    let arguments = [&serve(&data)[..], &["--demo"]].concat();
    let mut child = jangbu(scratch.path(), &arguments, &[])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let client = client::Client::new();
    eventually("the shop is ready", async || {
        client.moved_to(fs::read_to_string(data.join("address")).ok()?.trim());
        client.is_ready().await.then_some(())
    })
    .await;
    let buyer = client.log_in(BUYER).await;
    let another = Connection::open(data.join("log.db")).expect("the log can be opened");
    another
        .execute("UPDATE log_head SET epoch = epoch + 1", [])
        .expect("another writer takes over");
    drop(another);
    // Whatever it says to this, it is its last word.
    let _ = client::Client::send(client.command(&buyer, "/api/v1/orders", "last", &order(&[(COFFEE, 1)], Pay::Balance))).await;
    let begun = Instant::now();
    let status = eventually("it ends", async || child.try_wait().expect("it can be asked")).await;
    assert_eq!(status.code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(5));
    let mut line = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().expect("piped"), &mut line).expect("text");
    assert!(
        line.contains("the engine has ended") && line.trim_end().lines().count() == 1,
        "{line}"
    );
}

#[tokio::test]
async fn a_backup_made_while_serving_is_the_shop_at_one_moment() {
    let shop = Shop::open(&[]).await;
    let client = shop.client().clone();
    let (buyer, seller) = (client.log_in(BUYER).await, client.log_in(SELLER).await);
    let thing = client.new_product(&seller, 100, 5_000).await;
    let before = client.buy(&buyer, &order(&[(COFFEE, 2)], Pay::Balance)).await.order_id();
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let to = scratch.path().join("backup");
    let orders = async {
        let mut placed = Vec::new();
        for _ in 0..100 {
            placed.push(client.place(&buyer, &order(&[(&thing, 1)], Pay::Balance)).await.order_id());
        }
        placed
    };
    let copies = async {
        client::pause(50).await;
        let data = shop.data().to_owned();
        let (directory, to) = (scratch.path().to_owned(), to.clone());
        let copy = move || {
            ends(
                &directory,
                &[
                    "backup",
                    "--to",
                    to.to_str().expect("UTF-8"),
                    "--data",
                    data.to_str().expect("UTF-8"),
                ],
                &[],
            )
        };
        tokio::task::spawn_blocking(copy).await.expect("it ran")
    };
    let (placed, copied) = tokio::join!(orders, copies);
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    assert!(to.join("log/log.db").exists() && to.join("keys/format").exists());
    let (to_text, scratch_path) = (to.to_str().expect("UTF-8"), scratch.path());
    refuses(
        scratch_path,
        &["backup", "--to", to_text, "--data", shop.data().to_str().expect("UTF-8")],
        &[],
        2,
        &["not empty"],
    );
    shop.close().await;

    let restored = scratch_path.join("restored");
    let restored_text = restored.to_str().expect("UTF-8");
    let output = ends(scratch_path, &["restore", "--from", to_text, "--data", restored_text], &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    refuses(
        scratch_path,
        &["restore", "--from", to_text, "--data", restored_text],
        &[],
        2,
        &["not empty"],
    );
    let again = Shop::open_in(tempfile::tempdir().expect("a scratch directory"), restored, &[]).await;
    let client = again.client().clone();
    // The keys came along: the token of before is still good, and what is sealed can be read.
    assert_eq!(client.order(&buyer, &before).await.outcome(), "CONFIRMED");
    let shown = client
        .ask(
            &buyer,
            "query ($id: ID!) { order(id: $id) { status shippingAddress { recipient } } }",
            &json!({ "id": before }),
        )
        .await;
    assert_eq!(shown["order"]["shippingAddress"]["recipient"], "Secret Recipient", "{shown}");
    let mut known = 0;
    for id in &placed {
        let answer = client.get(&buyer, &format!("/api/v1/orders/{id}")).await;
        assert!(answer.status == 404 || answer.status == 200, "{}", answer.body);
        // What the copy has is a beginning of what there was.
        assert!(answer.status == 404 || known == placed.iter().position(|placed| placed == id).expect("it was placed"));
        known += usize::from(answer.status == 200);
    }
    let eventually_sold = client.figures(&buyer, &[&thing]).await.stock[&thing];
    assert_eq!(eventually_sold, (5_000 - i64::try_from(known).expect("at most a hundred"), 0));
    again.close().await;
}

#[tokio::test]
async fn the_simulator_runs_as_a_process_of_its_own() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let provider = scratch.path().join("provider");
    let arguments = ["simulator", "--listen", "127.0.0.1:0", "--data", provider.to_str().expect("UTF-8")];
    let mut child = jangbu(scratch.path(), &arguments, &[])
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let address = eventually("the simulator is served", async || {
        fs::read_to_string(provider.join("simulator.address")).ok()
    })
    .await;
    let shop = Shop::open(&[("JANGBU_TOSS__URL", &format!("http://{}", address.trim()))]).await;
    assert!(!shop.data().join("simulator.db").exists());
    let buyer = shop.client().log_in(BUYER).await;
    let bought = shop
        .client()
        .buy(&buyer, &order(&[(COFFEE, 1)], Pay::Card(&client::payment_key("ok"))))
        .await;
    assert_eq!(bought.outcome(), "CONFIRMED");
    let ledger = reqwest::get(format!("http://{}/v1/ledger?orderId={}", address.trim(), bought.order_id()))
        .await
        .expect("the provider answers");
    let ledger: serde_json::Value = ledger.json().await.expect("a ledger");
    assert_eq!(ledger["net"][bought.order_id()], 5_000, "{ledger}");
    terminate(child.id());
    assert_eq!(child.wait().expect("it has ended").code(), Some(0));
    // Without the provider nobody knows what became of a payment; the order waits for it.
    let placed = shop
        .client()
        .place(&buyer, &order(&[(COFFEE, 1)], Pay::Card(&client::payment_key("ok"))))
        .await;
    shop.client().stands(&buyer, &placed.order_id(), "PAYMENT_PENDING").await;
}
