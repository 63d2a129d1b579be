//! The database of a shop dies, and its stand-by takes over: what is kept with synchronous replication, what is lost without, and what tells.

mod shop;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use event_store::{EventStore, LogReader};
use event_store_postgres::PostgresStore;
use postgres_session::{Session, Trouble};
use shop::{
    ADMIN, BUYER, COFFEE, Client, Pay, SELLER, Shop, Token,
    client::{fresh_key, payment_key},
    eventually, invariants, order,
};
use test_servers::{Database, Postgres};
use verify::{Invariant, Options, Report, verify_log};

/// A server, and one that follows it.
struct Pair {
    primary: Postgres,
    standby: Postgres,
    log: Database,
    keys: Database,
}

impl Pair {
    async fn start(synchronous: bool) -> Self {
        let primary = Postgres::start();
        let (log, keys) = (primary.database(), primary.database());
        let standby = primary.standby("b");
        if synchronous {
            primary.sql("ALTER SYSTEM SET synchronous_standby_names = 'b'");
            primary.sql("SELECT pg_reload_conf()");
        }
        let wanted = if synchronous { "sync" } else { "async" };
        eventually("the stand-by follows", async || {
            (primary.sql("SELECT sync_state FROM pg_stat_replication").trim() == wanted).then_some(())
        })
        .await;
        Self {
            primary,
            standby,
            log,
            keys,
        }
    }

    /// The address of a database on both: whoever writes finds the one that can be written to.
    fn on_both(&self, database: &Database) -> String {
        let (first, second) = (self.primary.address(), self.standby.address());
        format!("postgres://jangbu@{first},{second}/{}", database.name())
    }

    /// Settings of a shop that finds its database on both.
    fn settings(&self) -> Vec<(String, String)> {
        vec![
            ("JANGBU_STORE".into(), self.on_both(&self.log)),
            ("JANGBU_KEYS".into(), self.on_both(&self.keys)),
            ("JANGBU_VIEWS".into(), "sqlite".into()),
        ]
    }

    async fn open(&self) -> Shop {
        let settings = self.settings();
        let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Shop::open(&settings).await
    }

    fn promote(&self) {
        self.standby.sql("SELECT pg_promote()");
    }

    /// The log as it is on one of the two.
    fn log_on(&self, server: &Postgres) -> Arc<dyn EventStore> {
        let url = self.log.url_at(server.address());
        Arc::new(PostgresStore::open_to_look(&url.parse().expect("an address")).expect("a log"))
    }

    /// As `replay verify` does, with the provider's ledger beside it.
    fn verified(&self, server: &Postgres, shop: &Shop) -> Report {
        let options = Options {
            ledger: Some(invariants::provider(shop.data())),
            quiescent: true,
            ..Options::default()
        };
        let store = self.log_on(server);
        verify_log(store.reader().expect("a reader").as_ref(), &options).expect("the log can be read")
    }
}

fn findings(report: &Report) -> Vec<String> {
    report.findings.iter().map(ToString::to_string).collect()
}

/// The ids of all orders of a log.
fn orders_of(reader: &dyn LogReader) -> HashSet<String> {
    let head = reader.head(0).expect("read").expect("a head").position;
    let events = reader.events(0, 0, usize::try_from(head).expect("few")).expect("read");
    let placed = events.iter().filter(|event| event.event_type == "order.placed");
    placed.map(|event| event.stream.id.to_string()).collect()
}

/// Buyers who buy one thing after another, and repeat what got no answer, until they are told to stop.
struct Crowd {
    acknowledged: Arc<Mutex<Vec<(Token, String)>>>,
    stop: Arc<AtomicBool>,
    buying: tokio::task::JoinSet<()>,
}

impl Crowd {
    async fn gather(client: &Client) -> Self {
        const BUYERS: usize = 6;
        let (admin, seller) = (client.log_in(ADMIN).await, client.log_in(SELLER).await);
        let product = client.new_product(&seller, 1_000, 1_000_000).await;
        let acknowledged: Arc<Mutex<Vec<(Token, String)>>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let mut buying = tokio::task::JoinSet::new();
        for number in 0..BUYERS {
            let (token, _) = client.new_buyer(&admin, 1_000_000).await;
            let (client, product) = (client.clone(), product.clone());
            let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
            buying.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let key = payment_key("ok");
                    let pay = if number % 2 == 0 { Pay::Balance } else { Pay::Card(&key) };
                    let body = order(&[(&product, 1)], pay);
                    let answer = client.insist(&token, "/api/v1/orders", &fresh_key(), &body).await.expect(202);
                    let mut known = acknowledged.lock().expect("nobody panics with it");
                    known.push((token.clone(), answer.order_id()));
                }
            });
        }
        Self {
            acknowledged,
            stop,
            buying,
        }
    }

    fn bought(&self) -> usize {
        self.acknowledged.lock().expect("nobody panics with it").len()
    }

    async fn buys_more(&self, orders: usize) {
        let wanted = self.bought() + orders;
        eventually("orders are acknowledged", async || (self.bought() >= wanted).then_some(())).await;
    }

    /// All orders that somebody was told of.
    async fn go_home(self) -> Vec<(Token, String)> {
        self.stop.store(true, Ordering::Relaxed);
        self.buying.join_all().await;
        self.acknowledged.lock().expect("nobody panics with it").clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_synchronous_stand_by_every_acknowledged_order_is_there_and_the_shop_goes_on_by_itself() {
    let mut pair = Pair::start(true).await;
    let mut shop = pair.open().await;
    let crowd = Crowd::gather(shop.client()).await;
    crowd.buys_more(60).await;
    pair.primary.kill();
    pair.promote();
    crowd.buys_more(60).await;
    let acknowledged = crowd.go_home().await;
    for (token, order) in &acknowledged {
        assert_eq!(shop.client().ended(token, order).await.outcome(), "CONFIRMED");
    }
    shop.agrees_on(&pair).await;
    shop.stop().await;
    let report = pair.verified(&pair.standby, &shop);
    assert!(report.is_sound(), "{:?}", findings(&report));
    let recorded = orders_of(pair.log_on(&pair.standby).reader().expect("a reader").as_ref());
    assert_eq!(recorded.len(), acknowledged.len(), "each once");
    assert!(acknowledged.iter().all(|(_, order)| recorded.contains(order)));

    // The old one comes back, and still takes itself for the first: nobody follows it, so it acknowledges nothing.
    pair.primary.restart();
    let url = pair.log.url_at(pair.primary.address());
    let session = Session::open(&url.parse().expect("an address"), "", Duration::from_secs(3)).expect("it lets us in");
    let written = session.execute("UPDATE log_head SET epoch = epoch + 1", &[]);
    assert_eq!(written.expect_err("it waits for its stand-by").trouble(), Trouble::Silent);
}

impl Shop {
    /// Waits until nothing is under way between the shop and its provider.
    async fn agrees_on(&self, pair: &Pair) {
        eventually("the provider's ledger and the log agree", async || {
            pair.verified(&pair.standby, self).is_sound().then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_asynchronous_one_the_last_moments_are_lost_and_it_is_told_which() {
    let mut pair = Pair::start(false).await;
    let mut shop = pair.open().await;
    let client = shop.client().clone();
    let buyer = client.log_in(BUYER).await;
    let buy = async |client: &Client, buyer: &Token| {
        let bought = client.buy(buyer, &order(&[(COFFEE, 1)], Pay::Card(&payment_key("ok")))).await;
        assert_eq!(bought.outcome(), "CONFIRMED");
        bought.order_id()
    };
    let mut kept = Vec::new();
    for _ in 0..5 {
        kept.push(buy(&client, &buyer).await);
    }
    let all = pair.primary.sql("SELECT pg_current_wal_lsn()");
    eventually("the stand-by has all so far", async || {
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", all.trim());
        (pair.standby.sql(&sql).trim() == "t").then_some(())
    })
    .await;
    // It is cut off, and nobody notices.
    pair.standby.sql("ALTER SYSTEM SET primary_conninfo = ''");
    pair.standby.sql("SELECT pg_reload_conf()");
    eventually("the stand-by follows no more", async || {
        (pair.standby.sql("SELECT count(*) FROM pg_stat_wal_receiver").trim() == "0").then_some(())
    })
    .await;
    let mut lost = Vec::new();
    for _ in 0..3 {
        lost.push(buy(&client, &buyer).await);
    }
    client.shown(&buyer, &lost[2], "CONFIRMED").await;

    pair.primary.kill();
    pair.promote();
    // The shop cannot go on by mistake: the head is not where it left it. It ends, and says why.
    let begun = Instant::now();
    while shop.runs() {
        let body = order(&[(COFFEE, 1)], Pay::Balance);
        let answer = Client::send(client.command(&buyer, "/api/v1/orders", &fresh_key(), &body)).await;
        assert!(
            answer.is_err() || answer.is_ok_and(|answer| answer.status == 503),
            "nothing is acknowledged"
        );
        assert!(begun.elapsed() < shop::PATIENCE, "it ends:\n{}", shop.output());
        tokio::time::sleep(shop::LOOK).await;
    }
    assert!(shop.output().contains("another writer took over shard 0"), "{}", shop.output());

    // Started again, it goes on from what there is; its views knew more, and are filled anew.
    shop.start_again().await;
    assert!(shop.output().contains("they are filled anew"), "{}", shop.output());
    let buyer = client.log_in(BUYER).await;
    for order in &kept {
        assert_eq!(client.order(&buyer, order).await.outcome(), "CONFIRMED");
        client.shown(&buyer, order, "CONFIRMED").await;
    }
    for order in &lost {
        client.get(&buyer, &format!("/api/v1/orders/{order}")).await.expect(404);
    }
    kept.push(buy(&client, &buyer).await);
    shop.stop().await;

    // The log is sound in itself, and the provider has charges that it does not know: those of the orders that are lost, and no others.
    let report = pair.verified(&pair.standby, &shop);
    let told: HashSet<_> = report
        .findings
        .iter()
        .map(|finding| {
            assert_eq!(finding.invariant, Invariant::Durability, "{finding}");
            finding.to_string()
        })
        .collect();
    assert_eq!(told.len(), lost.len(), "{told:?}");
    for order in &lost {
        assert!(told.iter().any(|told| told.contains(order)), "{order}: {told:?}");
    }

    // The old one comes back. It takes itself for the first, and nothing in it knows better: whoever writes there writes another past.
    pair.primary.restart();
    let (old_log, old_keys) = (pair.log.url_at(pair.primary.address()), pair.keys.url_at(pair.primary.address()));
    let settings = [
        ("JANGBU_STORE", old_log.as_str()),
        ("JANGBU_KEYS", &old_keys),
        ("JANGBU_VIEWS", "sqlite"),
    ];
    let mut mistaken = Shop::open(&settings).await;
    let client = mistaken.client().clone();
    let buyer = client.log_in(BUYER).await;
    let elsewhere = buy(&client, &buyer).await;
    mistaken.stop().await;
    let (old, new) = (pair.log_on(&pair.primary), pair.log_on(&pair.standby));
    let (old, new) = (old.reader().expect("a reader"), new.reader().expect("a reader"));
    assert!(orders_of(old.as_ref()).contains(&elsewhere) && !orders_of(new.as_ref()).contains(&elsewhere));
    // What tells: the same batch of both has not the same hash. docs/operations.md says how to ask.
    let hashes = |reader: &dyn LogReader| -> Vec<_> {
        let batches = reader.batches(0, 0, 100_000).expect("read");
        batches.into_iter().map(|(last, _, hash, _)| (last, hash)).collect()
    };
    let (old, new) = (hashes(old.as_ref()), hashes(new.as_ref()));
    let common = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    assert!(0 < common && common < old.len() && common < new.len());
}
