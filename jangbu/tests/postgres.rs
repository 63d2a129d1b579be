//! The shop with its log, its views and its keys in databases: roles with little rights, a stand-by that takes over, a backup that is restored.

mod shop;

use std::{process::Command, time::Duration};

use event_store::EventStore;
use event_store_postgres::PostgresStore;
use shop::{BUYER, COFFEE, Pay, SELLER, Shop, eventually, order};
use test_servers::{Database, Postgres};
use verify::{Options, verify_log};

/// Runs the binary to its end: what it said on standard error.
fn jangbu(arguments: &[&str], settings: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jangbu"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("JANGBU_") {
            command.env_remove(name);
        }
    }
    let scratch = tempfile::tempdir().expect("a scratch directory");
    command.current_dir(scratch.path()).args(arguments).envs(settings.iter().copied());
    let output = command.output().expect("the binary runs");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn is_sound(database: &Database) -> u64 {
    let store = PostgresStore::open_to_look(&database.url().parse().expect("an address")).expect("a log");
    let report = verify_log(store.reader().expect("a reader").as_ref(), &Options::default()).expect("the log can be read");
    let findings: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
    assert!(report.is_sound(), "{findings:?}");
    report.counts.confirmed
}

fn as_role(url: &str, role: &str) -> String {
    url.replacen("jangbu@", &format!("{role}@"), 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_only_append_serves_a_shop_with_its_keys_in_another_database() {
    let server = Postgres::start();
    let (log, keys) = (server.database(), server.database());
    log.sql("CREATE ROLE shop LOGIN; CREATE ROLE guest LOGIN");
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("owner");
    let data = data.to_str().expect("UTF-8");
    let owner = [("JANGBU_STORE", log.url()), ("JANGBU_KEYS", keys.url()), ("JANGBU_VIEWS", "sqlite")];
    let (done, said) = jangbu(&["migrate", "--data", data, "--engine-role", "shop"], &owner);
    assert!(done, "{said}");

    let shop_url = as_role(log.url(), "shop");
    let settings = [
        ("JANGBU_STORE", shop_url.as_str()),
        ("JANGBU_KEYS", keys.url()),
        ("JANGBU_VIEWS", "sqlite"),
    ];
    let mut shop = Shop::open(&settings).await;
    let client = shop.client().clone();
    let buyer = client.log_in(BUYER).await;
    let bought = client.buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await;
    assert_eq!(bought.outcome(), "CONFIRMED");
    assert!(!shop.data().join("keys").exists() && !shop.data().join("log.db").exists());
    // The keys are rotated, and nobody has to log in again.
    let (done, said) = jangbu(&["keys", "rotate", "--data", data], &settings);
    assert!(done, "{said}");
    let bought = client.buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await;
    assert_eq!(bought.outcome(), "CONFIRMED");
    shop.stop().await;
    assert_eq!(is_sound(&log), 2);

    // A role without rights is told what to do, and so is one whose keys would lie beside what they seal.
    let guest = as_role(log.url(), "guest");
    let (done, said) = jangbu(&["serve", "--listen", "127.0.0.1:0", "--data", data], &[("JANGBU_STORE", &guest)]);
    assert!(!done && said.contains("guest@") && said.lines().count() == 1, "{said}");
    let together = [("JANGBU_STORE", log.url()), ("JANGBU_KEYS", &shop_url)];
    let (done, said) = jangbu(&["check-config", "--data", data], &together);
    assert!(!done && said.contains("JANGBU_KEYS"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_that_stands_by_takes_over_when_the_one_that_serves_is_gone() {
    let server = Postgres::start();
    let (log, keys) = (server.database(), server.database());
    let settings = [("JANGBU_STORE", log.url()), ("JANGBU_KEYS", keys.url())];
    let mut first = Shop::open(&settings).await;
    let client = first.client().clone();
    let buyer = client.log_in(BUYER).await;
    assert_eq!(
        client.buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await.outcome(),
        "CONFIRMED"
    );

    for planned in [true, false] {
        let (log_url, keys_url) = (log.url().to_owned(), keys.url().to_owned());
        let standing_by = tokio::spawn(async move { Shop::open(&[("JANGBU_STORE", &log_url), ("JANGBU_KEYS", &keys_url)]).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!standing_by.is_finished(), "it waits");
        if planned {
            first.stop().await;
        } else {
            first.kill().await;
        }
        first = standing_by.await.expect("it takes over");
        let buyer = first.client().log_in(BUYER).await;
        let bought = first.client().buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await;
        assert_eq!(bought.outcome(), "CONFIRMED");
    }
    first.stop().await;
    assert_eq!(is_sound(&log), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_the_databases_is_restored_into_new_ones_and_sells_on() {
    let server = Postgres::start();
    let (log, keys) = (server.database(), server.database());
    let mut shop = Shop::open(&[("JANGBU_STORE", log.url()), ("JANGBU_KEYS", keys.url()), ("JANGBU_VIEWS", "sqlite")]).await;
    let client = shop.client().clone();
    let buyer = client.log_in(BUYER).await;
    for _ in 0..3 {
        assert_eq!(
            client.buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await.outcome(),
            "CONFIRMED"
        );
    }
    // While it serves: the log first, then the keys.
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let (restored_log, restored_keys) = (server.database(), server.database());
    for (from, to) in [(&log, &restored_log), (&keys, &restored_keys)] {
        let file = scratch.path().join(from.name());
        let dumped = Command::new("pg_dump").args(["-Fc", "-d", from.url(), "-f"]).arg(&file).status();
        assert!(dumped.expect("pg_dump runs").success());
        let restored = Command::new("pg_restore")
            .args(["--exit-on-error", "-d", to.url()])
            .arg(&file)
            .status();
        assert!(restored.expect("pg_restore runs").success());
    }
    client.buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await;
    shop.stop().await;
    assert_eq!((is_sound(&log), is_sound(&restored_log)), (4, 3));

    // What was restored says that the other one holds it, until its heartbeat is old.
    let settings = [
        ("JANGBU_STORE", restored_log.url()),
        ("JANGBU_KEYS", restored_keys.url()),
        ("JANGBU_VIEWS", "sqlite"),
    ];
    let mut again = Shop::open(&settings).await;
    let client = again.client().clone();
    let buyer = client.log_in(BUYER).await;
    assert_eq!(
        client.buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await.outcome(),
        "CONFIRMED"
    );
    let seller = client.log_in(SELLER).await;
    eventually("the views are filled anew", async || {
        let stock = client.figures(&seller, &[COFFEE]).await.stock;
        (stock[COFFEE].0 == 996).then_some(())
    })
    .await;
    again.stop().await;
    assert_eq!(is_sound(&restored_log), 4);
}
