//! The server is killed while it is at work, and while it starts, again and again. What it has acknowledged is there afterwards, every
//! order comes to its end, and nothing is done twice.
//!
//! `JANGBU_TEST_KILLS` says how often; `make kill` does it 500 times. With `JANGBU_TEST_STORE=postgres` the log is in a database, and it is the
//! shop that is killed, or the database's server, or both.

mod shop;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use event_store::{Event, LogReader};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use shop::{
    ADMIN, BUYER, COFFEE, Chance, Client, Pay, SELLER, Shop, Token,
    client::{fresh_key, pause, payment_key, won},
    eventually, invariants, kept, order,
};
use test_servers::Postgres;
use tokio::task::JoinSet;
use uuid::Uuid;

/// How often when nothing else is asked for.
const KILLS: usize = 20;
/// So often one shop is killed, then comes a new one: a log can be counted as a whole, and the last start is as quick as the first.
const KILLS_OF_A_SHOP: usize = 50;
/// How often it says how far it is.
const TOLD_EVERY: usize = 25;
const CLIENTS: usize = 6;
/// How many events are read at once.
const PAGE: usize = 1_000;

/// What the shop has acknowledged, remembered outside of it.
#[derive(Default)]
struct Acknowledged {
    orders: Vec<Placed>,
    /// Idempotency keys of deposits and of goods received.
    changes: Vec<String>,
}

/// An order, the request that placed it, and the answer to that.
#[derive(Clone)]
struct Placed {
    order: String,
    buyer: Token,
    key: String,
    body: Value,
    answer: Value,
}

/// A client at work.
struct Worker {
    client: Client,
    chance: Chance,
    buyer: Token,
    account: String,
    admin: Token,
    seller: Token,
    /// One that is often sold out.
    scarce: String,
    acknowledged: Arc<Mutex<Acknowledged>>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    async fn work(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            match self.chance.below(100) {
                0..5 => self.change("deposit").await,
                5..15 => self.change("receipt").await,
                15..25 => self.give_up().await,
                25..45 => self.place_and_decide_later().await,
                _ => {
                    let body = self.an_order();
                    self.place(body).await;
                }
            }
            pause(self.chance.below(30)).await;
        }
    }

    async fn place(&mut self, body: Value) -> String {
        let key = fresh_key();
        let answer = self.client.insist(&self.buyer, "/api/v1/orders", &key, &body).await.expect(202);
        let order = answer.order_id();
        let placed = Placed {
            order: order.clone(),
            buyer: self.buyer.clone(),
            key,
            body,
            answer: answer.body,
        };
        self.acknowledged.lock().expect("nobody panics with it").orders.push(placed);
        order
    }

    /// An order that is then paid, cancelled, paid and cancelled, or forgotten.
    async fn place_and_decide_later(&mut self) {
        let body = order(&[(COFFEE, 1)], Pay::CardLater);
        let order = self.place(body).await;
        let decision = self.chance.below(5);
        if decision < 3 {
            let part = ["ok", "5xx", "lost_applied", "slow"][usize::try_from(self.chance.below(4)).expect("small")];
            let body = json!({ "paymentKey": payment_key(part), "amount": won(5_000) });
            self.decide(&order, "payment", &body).await;
        }
        if decision == 2 || decision == 3 {
            self.decide(&order, "cancellation", &json!({ "reason": "changed my mind" })).await;
        }
    }

    /// Done, or too late: after a kill the deadline may be over.
    async fn decide(&self, order: &str, what: &str, body: &Value) {
        let path = format!("/api/v1/orders/{order}/{what}");
        let answer = self.client.insist(&self.buyer, &path, &fresh_key(), body).await;
        assert!(
            [202, 409, 410].contains(&answer.status),
            "{what}: {} {}",
            answer.status,
            answer.body
        );
    }

    /// Asks once and does not care what becomes of it: that may be there or not.
    async fn give_up(&mut self) {
        let body = self.an_order();
        let _ = Client::send(self.client.command(&self.buyer, "/api/v1/orders", &fresh_key(), &body)).await;
    }

    async fn change(&mut self, what: &str) {
        let key = fresh_key();
        let amount = 1 + self.chance.below(20_000);
        let (token, path, body) = match what {
            "deposit" => {
                let body = json!({ "amount": won(i64::try_from(amount).expect("small")) });
                (&self.admin, format!("/api/v1/accounts/{}/deposits", self.account), body)
            }
            _ => (
                &self.seller,
                format!("/api/v1/products/{}/stock/receipts", self.scarce),
                json!({ "quantity": amount % 5 + 1 }),
            ),
        };
        self.client.insist(token, &path, &key, &body).await.expect(201);
        self.acknowledged.lock().expect("nobody panics with it").changes.push(key);
    }

    fn an_order(&mut self) -> Value {
        let lines = match self.chance.below(4) {
            0 => vec![(COFFEE, 1)],
            1 => vec![(self.scarce.as_str(), 1)],
            2 => vec![(COFFEE, 2), (self.scarce.as_str(), 1)],
            _ => vec![(self.scarce.as_str(), 2), (COFFEE, 1)],
        };
        let part = match self.chance.below(20) {
            0..8 => return order(&lines, Pay::Balance),
            8..12 => "ok",
            12 | 13 => "5xx",
            14 | 15 => "lost_applied",
            16 => "lost",
            17 => "slow",
            18 => "declined",
            _ => "insufficient",
        };
        order(&lines, Pay::Card(&payment_key(part)))
    }
}

/// What became of it all.
#[derive(Default)]
struct Totals {
    shops: usize,
    kills: usize,
    /// Of these while the shop was starting.
    at_start: usize,
    /// How often the database's server was killed besides, or alone.
    servers: usize,
    replays: usize,
    acknowledged: usize,
    changes: usize,
    placed: usize,
    confirmed: usize,
    out_of_stock: usize,
    declined: usize,
    expired: usize,
    cancelled: usize,
    without_balance: usize,
    events: usize,
}

impl Totals {
    fn add(&mut self, log: &invariants::Log, acknowledged: &Acknowledged) {
        self.acknowledged += acknowledged.orders.len();
        self.changes += acknowledged.changes.len();
        self.placed += log.orders.len();
        self.confirmed += log.ended("order.confirmed");
        self.out_of_stock += log.ended("OUT_OF_STOCK");
        self.declined += log.ended("PAYMENT_DECLINED");
        self.expired += log.ended("PAYMENT_EXPIRED");
        self.cancelled += log.ended("CANCELLED_BY_BUYER");
        self.without_balance += log.ended("INSUFFICIENT_BALANCE");
        self.events += log.events.len();
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills ({} while it was starting, {} of the database) of {} shops, with 1 and 4 shards in turn, {} orders and {} deposits and deliveries acknowledged and all there, {} replays checked; \
             {} orders placed: {} confirmed, {} out of stock, {} declined, {} expired, {} cancelled, {} without balance; {} events",
            self.kills,
            self.at_start,
            self.servers,
            self.shops,
            self.acknowledged,
            self.changes,
            self.replays,
            self.placed,
            self.confirmed,
            self.out_of_stock,
            self.declined,
            self.expired,
            self.cancelled,
            self.without_balance,
            self.events,
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_acknowledged_survives_every_kill_and_every_order_ends() {
    let kills = match std::env::var("JANGBU_TEST_KILLS") {
        Ok(kills) => kills.parse().expect("JANGBU_TEST_KILLS is a number"),
        Err(_) => KILLS,
    };
    let begun = Instant::now();
    let mut chance = Chance::new("kill");
    let mut totals = Totals::default();
    while totals.kills < kills {
        // At least two: one with one shard, one with four.
        let until = kills.min(totals.kills + KILLS_OF_A_SHOP.min(kills.div_ceil(2)));
        let shards = if totals.shops.is_multiple_of(2) { "1" } else { "4" };
        totals.shops += 1;
        one_shop(shards, until, &mut chance, &mut totals, begun).await;
    }
    println!("kill: {totals}; {} s", begun.elapsed().as_secs());
    assert!(totals.placed >= totals.acknowledged && totals.confirmed > 0 && totals.replays > 0);
}

/// A shop of its own, killed until the total is reached, and then looked at as a whole.
async fn one_shop(shards: &str, until: usize, chance: &mut Chance, totals: &mut Totals, begun: Instant) {
    let settings = [
        ("JANGBU_SHARDS", shards),
        ("JANGBU_PAYMENT__TIMEOUT", "4s"),
        ("JANGBU_PAYMENT__DEADLINE", "6s"),
        ("JANGBU_LOG", "warn"),
    ];
    let mut server = kept::in_databases().then(Postgres::start);
    let mut shop = match &server {
        Some(server) => Shop::open_on(server.database(), &settings).await,
        None => Shop::open(&settings).await,
    };
    let client = shop.client().clone();
    let (admin, seller, buyer) = (client.log_in(ADMIN).await, client.log_in(SELLER).await, client.log_in(BUYER).await);
    let scarce = client.new_product(&seller, 700, 20).await;
    let acknowledged = Arc::new(Mutex::new(Acknowledged::default()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = JoinSet::new();
    for _ in 0..CLIENTS {
        let (token, account) = client.new_buyer(&admin, 100_000).await;
        let worker = Worker {
            client: client.clone(),
            chance: chance.fork(),
            buyer: token,
            account,
            admin: admin.clone(),
            seller: seller.clone(),
            scarce: scarce.clone(),
            acknowledged: Arc::clone(&acknowledged),
            stop: Arc::clone(&stop),
        };
        workers.spawn(worker.work());
    }

    let mut auditor = Auditor::default();
    while totals.kills < until {
        pause(100 + chance.below(700)).await;
        if let Some(server) = &mut server {
            let both = chance.below(3);
            if both > 0 {
                server.kill();
                totals.servers += 1;
            }
            if both == 1 {
                // The shop goes on by itself, after a while without its log.
                pause(chance.below(400)).await;
                server.restart();
                totals.kills += 1;
                auditor.look(shop.data(), &acknowledged);
                tell(totals, begun);
                totals.replays += are_answered_again(&client, &acknowledged, chance).await;
                continue;
            }
        }
        shop.kill().await;
        if let Some(server) = &mut server
            && !server.runs()
        {
            server.restart();
        }
        totals.kills += 1;
        // Nobody hears anything now; what was heard before is in the files.
        auditor.look(shop.data(), &acknowledged);
        tell(totals, begun);
        // Now and then it does not come up either, and not the next time.
        while totals.kills < until && chance.below(3) == 0 {
            let moment = Duration::from_micros(chance.below(250_000));
            let _ = tokio::time::timeout(moment, shop.start_again()).await;
            shop.kill().await;
            totals.kills += 1;
            totals.at_start += 1;
            auditor.look(shop.data(), &acknowledged);
            tell(totals, begun);
        }
        shop.start_again().await;
        totals.replays += are_answered_again(&client, &acknowledged, chance).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(worker) = workers.join_next().await {
        worker.expect("no client panics");
    }
    auditor.look(shop.data(), &acknowledged);

    eventually("every order comes to its end", async || {
        auditor.all_ended(shop.data()).then_some(())
    })
    .await;
    // With the provider's slow payments gone too, nothing moves any more but what is owed.
    shop.stop().await;
    shop.start_again().await;
    shop.agrees_with_the_provider().await;
    let log = invariants::read(shop.data());
    let stock = client.figures(&buyer, &[COFFEE, &scarce]).await.stock;
    for product in [COFFEE, &scarce] {
        assert_eq!(
            stock[product],
            (log.stocks[product].on_hand, log.stocks[product].reserved),
            "the views show what the log says"
        );
    }
    let log = shop.close().await;
    assert!(log.unfinished().is_empty());
    let acknowledged = acknowledged.lock().expect("nobody panics with it");
    is_in_the_end(&log, &acknowledged);
    totals.add(&log, &acknowledged);
}

fn tell(totals: &Totals, begun: Instant) {
    if totals.kills.is_multiple_of(TOLD_EVERY) {
        println!(
            "kill: {} kills, {} replays checked, {} s",
            totals.kills,
            totals.replays,
            begun.elapsed().as_secs()
        );
    }
}

/// Reads what was added to the files since the last time, so that the five hundredth look takes no longer than the first.
#[derive(Default)]
struct Auditor {
    /// By shard, the last event that was seen: its position and id.
    last: HashMap<u16, (u64, Uuid)>,
    /// How many orders were placed, and how many have come to their end.
    counted: (usize, usize),
    /// Which order a key has placed.
    orders: HashMap<String, String>,
    /// What a key has done: the event's name, and the key.
    done: HashSet<(String, String)>,
    /// So many of the acknowledged orders and changes were found.
    found: (usize, usize),
}

impl Auditor {
    /// Everything that was acknowledged is in the log, what was there is there still, and nothing is there twice.
    fn look(&mut self, data: &Path, acknowledged: &Mutex<Acknowledged>) {
        let acknowledged = acknowledged.lock().expect("nobody panics with it");
        self.read(kept::log_of(data).reader().expect("a reader").as_ref());
        for placed in &acknowledged.orders[self.found.0..] {
            assert_eq!(
                self.orders.get(&placed.key),
                Some(&placed.order),
                "an acknowledged order is lost, or its key placed another"
            );
        }
        for key in &acknowledged.changes[self.found.1..] {
            let there = ["wallet.deposited", "inventory.received"]
                .iter()
                .any(|name| self.done.contains(&((*name).to_owned(), key.clone())));
            assert!(there, "an acknowledged deposit or delivery is lost: {key}");
        }
        self.found = (acknowledged.orders.len(), acknowledged.changes.len());
        let twice: Option<String> = open(&data.join("simulator.db"))
            .query_row(
                "SELECT max(order_id) FROM (SELECT order_id FROM ledger WHERE kind = 'CHARGE' GROUP BY order_id HAVING count(*) > 1)",
                [],
                |row| row.get(0),
            )
            .expect("the ledger can be read");
        assert_eq!(twice, None, "an order is charged twice");
    }

    fn read(&mut self, log: &dyn LogReader) {
        for shard in log.shards().expect("the heads can be read") {
            self.read_shard(log, shard);
        }
    }

    fn read_shard(&mut self, log: &dyn LogReader, shard: u16) {
        let mut position = 0;
        if let Some((last, id)) = self.last.get(&shard) {
            let there = log.events(shard, last - 1, 1).expect("what was there is there still");
            assert_eq!(there.first().map(|event| event.event_id), Some(*id), "what was there is as it was");
            position = *last;
        }
        loop {
            let page = log.events(shard, position, PAGE).expect("every event can be read");
            if page.is_empty() {
                return;
            }
            for event in page {
                position += 1;
                assert_eq!(event.position, position, "positions are contiguous");
                self.last.insert(shard, (position, event.event_id));
                self.count(&event);
            }
        }
    }

    fn count(&mut self, event: &Event) {
        let name = &*event.event_type;
        self.counted.0 += usize::from(name == "order.placed");
        self.counted.1 += usize::from(matches!(name, "order.confirmed" | "order.cancelled"));
        let metadata: Value = serde_json::from_str(&event.metadata).expect("JSON");
        let Some(key) = metadata["idempotencyKey"].as_str() else { return };
        if name == "order.placed" {
            let before = self.orders.insert(key.to_owned(), event.stream.id.to_string());
            assert_eq!(before, None, "the key {key} placed two orders");
        }
        assert!(
            self.done.insert((name.to_owned(), key.to_owned())),
            "the key {key} did the same twice"
        );
    }

    /// Every order has come to its end, and no shard owes another a message.
    fn all_ended(&mut self, data: &Path) -> bool {
        let log = kept::log_of(data).reader().expect("a reader");
        self.read(log.as_ref());
        let shards = log.shards().expect("the heads can be read");
        let owes = |shard: &u16| {
            let owed = log.unfinished(*shard).expect("what is owed").effects;
            owed.iter().any(|owed| owed.effect.starts_with(r#"{"Message""#))
        };
        self.counted.0 == self.counted.1 && !shards.iter().any(owes)
    }
}

fn open(path: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags).expect("the file can be opened")
}

/// The same once more on the log as a whole.
fn is_in_the_end(log: &invariants::Log, acknowledged: &Acknowledged) {
    let keys: HashSet<_> = log.events.iter().filter_map(invariants::Event::key).collect();
    assert!(acknowledged.orders.iter().all(|placed| log.orders.contains_key(&placed.order)));
    assert!(acknowledged.changes.iter().all(|key| keys.contains(key.as_str())));
}

/// A few requests of before, sent again, get the answer of before, word for word. How many.
async fn are_answered_again(client: &Client, acknowledged: &Mutex<Acknowledged>, chance: &mut Chance) -> usize {
    for number in 0..3 {
        let placed = {
            let acknowledged = acknowledged.lock().expect("nobody panics with it");
            let orders = acknowledged.orders.len();
            // The last one is the one that the kill came closest to.
            let index = match number {
                0 => orders.saturating_sub(1),
                _ => usize::try_from(chance.below(orders.max(1) as u64)).expect("small"),
            };
            acknowledged.orders.get(index).cloned()
        };
        let Some(placed) = placed else { return number };
        let again = client
            .insist(&placed.buyer, "/api/v1/orders", &placed.key, &placed.body)
            .await
            .expect(202);
        assert!(again.replayed(), "{}", again.body);
        assert_eq!(again.body, placed.answer, "the answer of before");
        assert_eq!(client.order(&placed.buyer, &placed.order).await.order_id(), placed.order);
    }
    3
}
