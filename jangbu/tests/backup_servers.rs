//! Backups of a shop whose log and keys are in databases: a dump while it sells, and a base backup with the write-ahead log, up to a moment.

mod shop;

use std::{collections::HashSet, fs, path::Path, process::Command};

use event_store::EventStore;
use event_store_postgres::PostgresStore;
use shop::{ADMIN, BUYER, COFFEE, Client, Pay, Shop, Token, client::payment_key, eventually, invariants, order};
use test_servers::Postgres;
use verify::{Options, Report, verify_log};

/// Runs a program of PostgreSQL's to its end.
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("it runs");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn verified(url: &str, shop: &Shop) -> Report {
    let store = PostgresStore::open_to_look(&url.parse().expect("an address")).expect("a log");
    let options = Options {
        ledger: Some(invariants::provider(shop.data())),
        ..Options::default()
    };
    verify_log(store.reader().expect("a reader").as_ref(), &options).expect("the log can be read")
}

fn findings(report: &Report) -> Vec<String> {
    report.findings.iter().map(ToString::to_string).collect()
}

async fn buy(client: &Client, buyer: &Token) -> String {
    let bought = client.buy(buyer, &order(&[(COFFEE, 1)], Pay::Card(&payment_key("ok")))).await;
    assert_eq!(bought.outcome(), "CONFIRMED");
    bought.order_id()
}

/// The settings of a shop that has its log and its keys there.
fn settings<'a>(log: &'a str, keys: &'a str) -> [(&'static str, &'a str); 3] {
    [("JANGBU_STORE", log), ("JANGBU_KEYS", keys), ("JANGBU_VIEWS", "sqlite")]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_a_shop_that_sells_is_restored_on_another_server_and_the_keys_open_what_the_log_seals() {
    let (server, other) = (Postgres::start(), Postgres::start());
    let (log, keys) = (server.database(), server.database());
    let mut shop = Shop::open(&settings(log.url(), keys.url())).await;
    let client = shop.client().clone();
    let (buyer, admin) = (client.log_in(BUYER).await, client.log_in(ADMIN).await);
    let before = buy(&client, &buyer).await;

    // People come while the log is copied: their keys are younger than the copy, or in it.
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let (log_dump, keys_dump) = (scratch.path().join("log.dump"), scratch.path().join("keys.dump"));
    let selling = tokio::spawn({
        let client = client.clone();
        async move {
            for _ in 0..10 {
                let (token, _) = client.new_buyer(&admin, 100_000).await;
                client.buy(&token, &order(&[(COFFEE, 1)], Pay::Balance)).await;
            }
        }
    });
    let dump = |url: &str, file: &Path| run("pg_dump", &["-Fc", "-d", url, "-f", text(file)]);
    tokio::task::block_in_place(|| dump(log.url(), &log_dump));
    selling.await.expect("all is bought");
    tokio::task::block_in_place(|| dump(keys.url(), &keys_dump));
    let after = buy(&client, &buyer).await;
    shop.stop().await;

    let (restored_log, restored_keys) = (other.database(), other.database());
    for (file, to) in [(&log_dump, restored_log.url()), (&keys_dump, restored_keys.url())] {
        run("pg_restore", &["--exit-on-error", "-d", to, text(file)]);
    }
    // Each of the two by itself opens nothing: the log has no keys in it, and the keys no past.
    let tables = "SELECT string_agg(tablename, ' ') FROM pg_tables WHERE schemaname = 'public'";
    assert!(!restored_log.sql(tables).contains("keys") && !restored_keys.sql(tables).contains("events"));

    let mut again = Shop::open(&settings(restored_log.url(), restored_keys.url())).await;
    let client = again.client().clone();
    let buyer = client.log_in(BUYER).await;
    assert_eq!(client.order(&buyer, &before).await.outcome(), "CONFIRMED");
    client.get(&buyer, &format!("/api/v1/orders/{after}")).await.expect(404);
    let asked = client
        .ask(
            &buyer,
            "query ($id: ID!) { order(id: $id) { shippingAddress { recipient } } }",
            &serde_json::json!({ "id": before }),
        )
        .await;
    assert_eq!(asked["order"]["shippingAddress"]["recipient"], "Secret Recipient", "the keys fit");
    buy(&client, &buyer).await;
    again.stop().await;
    let report = verified(restored_log.url(), &again);
    // The provider's ledger of the new process knows nothing of the order before; the log, as a log, is sound.
    let hashes = Options::default();
    let store = PostgresStore::open_to_look(&restored_log.url().parse().expect("an address")).expect("a log");
    let alone = verify_log(store.reader().expect("a reader").as_ref(), &hashes).expect("read");
    assert!(alone.is_sound(), "{:?}", findings(&alone));
    assert!(
        findings(&report).iter().all(|finding| finding.contains(&before)),
        "{:?}",
        findings(&report)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_backup_and_the_archived_log_bring_a_shop_back_to_a_moment() {
    let archive = [
        ("archive_mode", "on"),
        // As PostgreSQL's manual has it, beside the data directory, which is where the server works.
        (
            "archive_command",
            "mkdir -p ../archive && test ! -f ../archive/%f && cp %p ../archive/%f",
        ),
    ];
    let server = Postgres::start_with(&archive);
    let (log, keys) = (server.database(), server.database());
    let mut shop = Shop::open(&settings(log.url(), keys.url())).await;
    let client = shop.client().clone();
    let buyer = client.log_in(BUYER).await;
    let mut kept = vec![buy(&client, &buyer).await];

    let scratch = tempfile::tempdir().expect("a scratch directory");
    let base = scratch.path().join("base");
    let url = server.url();
    tokio::task::block_in_place(|| {
        run(
            "pg_basebackup",
            &["-d", &url, "-D", text(&base), "--checkpoint=fast", "--wal-method=fetch"],
        );
    });
    for _ in 0..4 {
        kept.push(buy(&client, &buyer).await);
    }
    // A moment that is after everything so far, whatever the clocks: a mark in the log of the server.
    server.sql("SELECT pg_create_restore_point('before the mistake')");
    let mut later = Vec::new();
    for _ in 0..2 {
        later.push(buy(&client, &buyer).await);
    }
    shop.stop().await;
    let segment = server.sql("SELECT pg_walfile_name(pg_switch_wal())");
    let archived = server.scratch().join("archive");
    let last = archived.join(segment.trim());
    eventually("the last segment is archived", async || last.exists().then_some(())).await;

    // On another machine: the base backup, and the archive up to that moment.
    let mut other = Postgres::start();
    other.stop();
    let configuration = fs::read_to_string(other.data().join("postgresql.conf")).expect("its own settings");
    run("cp", &["-a", text(&archived), text(&other.scratch().join("archive"))]);
    run("chown", &["-R", "--reference", text(&other.data()), text(&base)]);
    fs::remove_dir_all(other.data()).expect("an empty place");
    run("cp", &["-a", text(&base), text(&other.data())]);
    let recovery = "restore_command = 'cp ../archive/%f %p'
recovery_target_name = 'before the mistake'
recovery_target_action = 'promote'
";
    fs::write(other.data().join("postgresql.conf"), configuration + recovery).expect("written");
    fs::write(other.data().join("recovery.signal"), "").expect("written");
    other.restart();
    eventually("it has come to that moment", async || {
        (other.sql("SELECT pg_is_in_recovery()").trim() == "f").then_some(())
    })
    .await;

    let (log, keys) = (log.url_at(other.address()), keys.url_at(other.address()));
    let mut again = Shop::open(&settings(&log, &keys)).await;
    let client = again.client().clone();
    let buyer = client.log_in(BUYER).await;
    for order in &kept {
        assert_eq!(client.order(&buyer, order).await.outcome(), "CONFIRMED");
    }
    for order in &later {
        client.get(&buyer, &format!("/api/v1/orders/{order}")).await.expect(404);
    }
    assert_eq!(
        client.buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await.outcome(),
        "CONFIRMED"
    );
    again.stop().await;
    // The provider's ledger is that of the first shop: it tells which orders lie behind the moment.
    let report = verified(&log, &shop);
    let told: HashSet<_> = findings(&report).into_iter().collect();
    assert_eq!(told.len(), later.len(), "{told:?}");
    assert!(later.iter().all(|order| told.iter().any(|told| told.contains(order))), "{told:?}");
}
