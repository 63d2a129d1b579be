//! The shop as many processes behind `HAProxy`, on real servers, while everything that can fail does in turn.
//!
//! Orders are placed until every fault has come at least once; `JANGBU_TEST_ORDERS` asks for more of both, and `make cluster` for 20,000.

#[path = "../shop/mod.rs"]
mod shop;
mod topology;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use event_store::{EventStore as _, Shards, Wakes as _};
use event_store_postgres::PostgresStore;
use redis_cache::{RedisWakes, Topic};
use relay::{KafkaSettings, RelaySettings, audit::audit};
use rustix::process::Signal;
use serde_json::{Value, json};
use shop::{
    ADMIN, BUYER, COFFEE, Client, Pay, SELLER, Token,
    client::{fresh_key, payment_key},
    order,
};
use tokio::task::JoinSet;
use topology::{Cluster, SHARDS, Size, tail};

/// How many orders at least when nothing else is asked for.
const ORDERS: usize = 3_000;
const BUYERS: usize = 20;
const PRODUCTS: usize = 10;
const IN_FLIGHT: usize = 48;
/// How long a client repeats a request under the same key: longer than any fault lasts.
const PERSISTENCE: Duration = Duration::from_mins(3);

const SIZE: Size = Size {
    engines: 3,
    apis: 2,
    queries: 2,
};

fn orders() -> usize {
    std::env::var("JANGBU_TEST_ORDERS").map_or(ORDERS, |orders| orders.parse().expect("JANGBU_TEST_ORDERS is a number"))
}

/// What the shop has acknowledged.
struct Placed {
    id: String,
    buyer: Token,
}

/// Sends a command until it is answered for good, as whoever wants it done once must.
async fn insist(client: &Client, token: &Token, path: &str, key: &str, body: &Value) -> shop::Answer {
    let begun = Instant::now();
    loop {
        let answer = Client::send(client.command(token, path, key, body)).await;
        match answer {
            Ok(answer) if answer.status < 500 && answer.status != 429 && answer.body["code"] != "request-in-flight" => return answer,
            answer => assert!(begun.elapsed() < PERSISTENCE, "no answer that lasts: {answer:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Buyers with a balance, and products.
async fn prepare(client: &Client, on_hand: u32) -> (Vec<Token>, Vec<String>) {
    let (admin, seller) = (client.log_in(ADMIN).await, client.log_in(SELLER).await);
    let mut buyers = Vec::new();
    for _ in 0..BUYERS {
        buyers.push(client.new_buyer(&admin, 1_000_000_000).await.0);
    }
    let mut products = Vec::new();
    for _ in 0..PRODUCTS {
        products.push(client.new_product(&seller, 1_000, on_hand).await);
    }
    (buyers, products)
}

/// Places orders until it is told to stop, and returns what was acknowledged.
async fn place(client: &Client, buyers: &[Token], products: &[String], stop: &Arc<AtomicBool>, placed: &Arc<AtomicUsize>) -> Vec<Placed> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (client, next, placed, stop) = (client.clone(), Arc::clone(&next), Arc::clone(placed), Arc::clone(stop));
        let (buyers, products) = (buyers.to_vec(), products.to_vec());
        clients.spawn(async move {
            let mut acknowledged = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let buyer = &buyers[number % buyers.len()];
                let card = payment_key(match number % 20 {
                    1 => "declined",
                    3 => "5xx",
                    _ => "ok",
                });
                let pay = if number % 2 == 0 { Pay::Balance } else { Pay::Card(&card) };
                let other = &products[(number / 7) % products.len()];
                let product = &products[number % products.len()];
                let lines: Vec<_> = if number % 5 == 0 && other != product {
                    vec![(product.as_str(), 1), (other.as_str(), 2)]
                } else {
                    vec![(product.as_str(), 1)]
                };
                let answer = insist(&client, buyer, "/api/v1/orders", &fresh_key(), &order(&lines, pay)).await;
                assert_eq!(answer.status, 202, "{}", answer.body);
                acknowledged.push(Placed {
                    id: answer.order_id(),
                    buyer: buyer.clone(),
                });
                placed.fetch_add(1, Ordering::Relaxed);
            }
            acknowledged
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

/// Waits until each has come to its end, and counts the ends.
async fn ends(client: &Client, placed: &[Placed]) -> HashMap<String, usize> {
    let mut ends = HashMap::new();
    for chunk in placed.chunks(64) {
        let mut asked = JoinSet::new();
        for placed in chunk {
            let (client, id, buyer) = (client.clone(), placed.id.clone(), placed.buyer.clone());
            asked.spawn(async move { client.ended(&buyer, &id).await.outcome() });
        }
        for end in asked.join_all().await {
            *ends.entry(end).or_default() += 1;
        }
    }
    ends
}

/// All of them, or those that `JANGBU_TEST_FAULTS` names, with commas between.
fn faults_asked_for() -> Vec<String> {
    let asked = std::env::var("JANGBU_TEST_FAULTS");
    asked.map_or_else(
        |_| FAULTS.iter().map(|fault| (*fault).to_owned()).collect(),
        |asked| asked.split(',').map(|fault| fault.trim().to_owned()).collect(),
    )
}

/// What goes wrong, one after another.
const FAULTS: &[&str] = &[
    "engine-1 killed",
    "kafka cut",
    "command-api-1 killed",
    "engine-2 frozen",
    "postgres killed",
    "redis killed",
    "projections-1 killed",
    "kafka killed",
    "engine-3 stopped",
    "relay-1 killed",
    "redis cut",
    "postgres cut",
    "query-api-1 killed",
    "kafka frozen",
    "postgres frozen",
    "command-api-2 stopped",
    "redis frozen",
];

/// For so long each of them lasts, and so long is it whole before the next.
const LASTS: Duration = Duration::from_secs(3);
/// Longer than an engine may be silent before its shards go to others.
const FROZEN: Duration = Duration::from_secs(9);

/// Breaks it, and mends it again.
async fn go_wrong(cluster: &mut Cluster, fault: &str) {
    let (what, how) = fault.split_once(' ').expect("what and how");
    let rest = tokio::time::sleep;
    match (what, how) {
        ("kafka", "cut") => {
            cluster.to_kafka.cut();
            rest(LASTS).await;
            cluster.to_kafka.mend();
        }
        ("kafka", "killed") => {
            cluster.kafka.kill();
            rest(LASTS).await;
            cluster.kafka.restart();
        }
        ("kafka", "frozen") => {
            cluster.kafka.freeze();
            rest(LASTS).await;
            cluster.kafka.thaw();
        }
        ("redis", "cut") => {
            cluster.to_redis.cut();
            rest(LASTS).await;
            cluster.to_redis.mend();
        }
        ("postgres", "cut") => {
            cluster.to_postgres.cut();
            rest(LASTS).await;
            cluster.to_postgres.mend();
        }
        ("postgres", "killed") => {
            cluster.postgres.kill();
            rest(LASTS).await;
            cluster.postgres.restart();
        }
        ("postgres", "frozen") => {
            cluster.postgres.freeze();
            rest(LASTS).await;
            cluster.postgres.thaw();
        }
        ("redis", "killed") => {
            cluster.redis.kill();
            rest(LASTS).await;
            cluster.redis.restart();
        }
        ("redis", "frozen") => {
            cluster.redis.freeze();
            rest(LASTS).await;
            cluster.redis.thaw();
        }
        (node, "killed") => {
            cluster.node(node).kill().await;
            rest(LASTS).await;
            cluster.node(node).start();
        }
        (node, "stopped") => {
            cluster.node(node).stop().await;
            rest(LASTS).await;
            cluster.node(node).start();
        }
        (node, "frozen") => {
            cluster.node(node).signal(Signal::STOP);
            rest(FROZEN).await;
            cluster.node(node).signal(Signal::CONT);
        }
        _ => panic!("nobody knows how {fault}"),
    }
}

/// Every process is ready again. One that has ended by itself, as it may when the log is gone for too long, is started anew.
async fn is_whole_again(cluster: &mut Cluster) {
    let begun = Instant::now();
    for node in cluster.nodes.iter_mut().skip(1) {
        node.wait_until_ready().await;
    }
    eprintln!("cluster: whole again after {:.1} s", begun.elapsed().as_secs_f64());
}

/// What a log that is at rest has to be, with the views and the provider's ledger.
fn examine(cluster: &Cluster) {
    let address = cluster.log.url().parse().expect("an address");
    let store = PostgresStore::open_to_look(&address).expect("the log");
    let shards = Shards::new(SHARDS).expect("sixteen");
    let reader = store.reader().expect("a reader");
    assert_eq!(reader.shard_count().expect("read"), Some(shards));
    shop::invariants::check_log(reader.as_ref(), &cluster.ledger());
    let kafka = RelaySettings::new(KafkaSettings::plaintext(cluster.kafka.url()));
    let found = audit(&kafka, reader.as_ref()).expect("the topics can be read");
    eprintln!("cluster: {found}");
    assert!(found.is_clean(), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_every_acknowledged_order_settles_and_kafka_carries_every_event_once() {
    let mut cluster = Cluster::open(SIZE).await;
    let client = cluster.client();
    let orders = orders();
    let (buyers, products) = prepare(&client, 1_000_000).await;
    let stop = Arc::new(AtomicBool::new(false));
    let placed = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let placing = {
        let (client, stop, placed) = (client.clone(), Arc::clone(&stop), Arc::clone(&placed));
        tokio::spawn(async move { place(&client, &buyers, &products, &stop, &placed).await })
    };
    let mut faults = 0;
    let chosen = faults_asked_for();
    for fault in chosen.iter().cycle() {
        if faults >= chosen.len() && placed.load(Ordering::Relaxed) >= orders {
            break;
        }
        eprintln!(
            "cluster: {:.0} s, {} orders: {fault}",
            begun.elapsed().as_secs_f64(),
            placed.load(Ordering::Relaxed)
        );
        go_wrong(&mut cluster, fault).await;
        is_whole_again(&mut cluster).await;
        faults += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = placing.await.expect("no panic");
    eprintln!(
        "cluster: {} orders in {:.0} s, {faults} faults",
        acknowledged.len(),
        begun.elapsed().as_secs_f64()
    );
    let ends = ends(&client, &acknowledged).await;
    eprintln!("cluster: {ends:?}");
    assert!(acknowledged.len() >= orders);
    let known = |end: &str| matches!(end, "CONFIRMED" | "CANCELLED PAYMENT_DECLINED");
    assert!(ends.keys().all(|end| known(end)), "{ends:?}");
    cluster.stop().await;
    examine(&cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_after_another_is_replaced_and_no_request_fails() {
    let mut cluster = Cluster::open(SIZE).await;
    let client = cluster.client();
    let (buyers, products) = prepare(&client, 1_000_000).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..8_usize {
        let (client, stop, buyer) = (client.clone(), Arc::clone(&stop), buyers[number].clone());
        let product = products[number % products.len()].clone();
        clients.spawn(async move {
            let mut answered = 0_usize;
            while !stop.load(Ordering::Relaxed) {
                // Sent once: nothing is repeated here.
                let request = client.command(&buyer, "/api/v1/orders", &fresh_key(), &order(&[(&product, 1)], Pay::Balance));
                let answer = Client::send(request.header("prefer", "wait=10")).await.expect("an answer");
                assert!(matches!(answer.status, 200 | 202), "{} {}", answer.status, answer.body);
                let question = json!({ "query": "{ me { id } }" });
                let request = client
                    .request(reqwest::Method::POST, "/graphql")
                    .bearer_auth(&buyer.0)
                    .json(&question);
                let answer = Client::send(request).await.expect("an answer");
                assert_eq!(answer.status, 200, "{}", answer.body);
                assert!(answer.body["errors"].is_null(), "{}", answer.body);
                answered += 2;
            }
            answered
        });
    }
    let names: Vec<_> = cluster.nodes.iter().skip(1).map(|node| node.name.clone()).collect();
    for name in names {
        let begun = Instant::now();
        let node = cluster.node(&name);
        node.stop().await;
        node.start();
        node.wait_until_ready().await;
        for (backend, processes) in [("command-api", SIZE.apis), ("query-api", SIZE.queries)] {
            cluster.entry.wait_until_up(backend, processes);
        }
        eprintln!("cluster: {name} was replaced in {:.1} s", begun.elapsed().as_secs_f64());
    }
    stop.store(true, Ordering::Relaxed);
    let answered: usize = clients.join_all().await.into_iter().sum();
    eprintln!("cluster: {answered} requests, none failed");
    assert!(answered > 100, "{answered}: {}", tail(&cluster.nodes[1].output()));
    cluster.stop().await;
    examine(&cluster);
}

/// As the shop that we learnt from was measured: one buyer with a balance for 66 orders of three coffees places 100 at once, at two processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_orders_at_two_processes_exactly_the_66_that_can_be_paid_are_confirmed() {
    let two = Size {
        engines: 2,
        apis: 2,
        queries: 2,
    };
    let mut cluster = Cluster::open(two).await;
    let client = cluster.client();
    let buyer = client.log_in(BUYER).await;
    let address: redis_cache::Address = cluster.redis.url().parse().expect("its address");
    let hints = [Topic::Log, Topic::Views].map(|topic| RedisWakes::start(redis_cache::Settings::new(address.clone()), topic));
    for hints in &hints {
        hints.redis().connected().await;
    }
    let mut heard = hints.each_ref().map(RedisWakes::listener);
    let mut clients = JoinSet::new();
    for number in 0..100 {
        let (client, buyer) = (client.clone(), buyer.clone());
        clients.spawn(async move {
            let body = order(&[(COFFEE, 3)], Pay::Balance);
            let answer = insist(&client, &buyer, "/api/v1/orders", &format!("load-{number}"), &body).await;
            let id = answer.expect(202).order_id();
            let end = client.settled(&buyer, &id).await.outcome();
            (id, end)
        });
    }
    let ends = clients.join_all().await;
    for (id, end) in &ends {
        client.shown(&buyer, id, end).await;
    }
    let count = |wanted: &str| ends.iter().filter(|(_, end)| end == wanted).count();
    let paid = (count("CONFIRMED"), count("CANCELLED INSUFFICIENT_BALANCE"));
    assert_eq!(paid, (66, 34), "{ends:?}");
    // The engines told of the events before the orders had ended, and the projections of what the views showed.
    assert!(
        heard.iter_mut().all(|heard| heard.wait(Duration::ZERO)),
        "the processes give hints through Redis"
    );
    let figures = client.figures_at_rest(&buyer, &[COFFEE]).await;
    assert_eq!((figures.balance, figures.stock[COFFEE]), (10_000, (802, 0)));
    eprintln!("cluster: {paid:?}, balance {}, stock {:?}", figures.balance, figures.stock[COFFEE]);
    cluster.stop().await;
    examine(&cluster);
}
