//! Stock that nodes share in Redis: asked for often, read seldom, never older than a question wants, and never made up.

#[path = "../../redis-cache/tests/support/liar.rs"]
mod liar;
mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aggregates::ProductId;
use event_store::Shards;
use liar::Liar;
use projections::Progress;
use query_api::{KeptStock, router_sharing};
use redis_cache::{Redis, Settings, Stock};
use serde_json::{Value, json};
use support::{LOG, Served, Shop, Who, at_position, product_id, token};

/// Nothing that is not wrong takes so long, on a busy machine either.
const PATIENCE: Duration = Duration::from_secs(20);

const QUESTION: &str = "query($a: ID!, $b: ID!) { a: product(id: $a) { inventory { version onHand reserved available unlimited } } \
                        b: product(id: $b) { inventory { available } } }";

fn settings(url: &str) -> Settings {
    Settings::new(url.parse().expect("an address"))
}

/// For what is about answers and not about their time.
fn patient(url: &str) -> Settings {
    Settings {
        within: Duration::from_secs(5),
        ..settings(url)
    }
}

async fn connected(settings: Settings) -> Redis {
    let redis = Redis::start(settings);
    tokio::time::timeout(PATIENCE, redis.connected()).await.expect("Redis answers");
    redis
}

fn at(position: u64) -> Progress {
    Progress {
        count: Some(Shards::ONE),
        ..at_position(position)
    }
}

/// A node that shares stock, at position 10.
fn node(redis: &Redis) -> Served {
    let mut shop = Shop::new();
    shop.progress = at(10);
    shop.serve_with(|settings| {
        let stock = Stock::new(redis.clone(), settings.vault.clone(), LOG);
        router_sharing(settings, Arc::new(stock))
    })
}

async fn ask(node: &Served, token: Option<&str>) -> Value {
    let headers: Vec<_> = token.map(|token| ("consistency-token", token)).into_iter().collect();
    let variables = json!({"a": product_id(1).uuid(), "b": product_id(2).uuid()});
    let answer = node.ask_with(Who::Nobody, QUESTION, variables, &headers).await;
    assert!(answer.json.get("errors").is_none(), "{}", answer.json);
    answer.json
}

fn reads(node: &Served) -> usize {
    node.memory.counted().get("inventories").copied().unwrap_or(0)
}

/// The answer of a node that shares nothing.
async fn as_without() -> Value {
    let mut shop = Shop::new();
    shop.progress = at(10);
    ask(&shop.serve(), None).await
}

/// Asks until the views are not read for it.
async fn until_shared(node: &Served) -> Value {
    let began = Instant::now();
    loop {
        let before = reads(node);
        let answer = ask(node, None).await;
        if reads(node) == before {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "it is shared in time");
    }
}

#[tokio::test]
async fn what_is_asked_often_is_read_once_a_second_and_answered_the_same() {
    let server = test_servers::Redis::start();
    let node = node(&connected(patient(&server.url())).await);
    let without = as_without().await;
    assert_eq!(ask(&node, None).await, without);
    assert_eq!(until_shared(&node).await, without);
    let (began, before) = (Instant::now(), reads(&node));
    let mut asked = 0;
    while began.elapsed() < Duration::from_millis(1_500) {
        assert_eq!(ask(&node, None).await, without);
        asked += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let read = reads(&node) - before;
    assert!(read >= 1 && read * 4 < asked, "read {read} times for {asked} questions");
}

#[tokio::test]
async fn a_question_with_a_newer_token_goes_to_the_views_and_an_older_row_is_called_by_its_age() {
    let server = test_servers::Redis::start();
    let node = node(&connected(patient(&server.url())).await);
    let position = |answer: &Value| answer["extensions"]["consistency"]["position"].clone();
    assert_eq!(position(&until_shared(&node).await), "10");
    node.report.send_replace(at(12));
    let before = reads(&node);
    let told = ask(&node, Some(&token(12))).await;
    assert_eq!((position(&told), reads(&node)), (json!("12"), before + 1));
    assert_eq!(told["extensions"]["consistency"]["outcome"], "REACHED");
    // What was just read is shared in its turn.
    let began = Instant::now();
    loop {
        let before = reads(&node);
        let told = ask(&node, Some(&token(12))).await;
        assert_eq!(position(&told), "12");
        if reads(&node) == before {
            break;
        }
        assert!(began.elapsed() < PATIENCE);
    }
    node.report.send_replace(at(15));
    let before = reads(&node);
    let told = ask(&node, None).await;
    if reads(&node) == before {
        assert_eq!(position(&told), "12", "the rows were read when the views were there");
        assert_ne!(told["extensions"]["consistency"]["lagMs"], 0);
    } else {
        assert_eq!(position(&told), "15");
    }
    let before = reads(&node);
    let told = ask(&node, Some(&token(11))).await;
    assert!(position(&told) == "12" || reads(&node) > before);
}

#[tokio::test]
async fn with_redis_gone_killed_frozen_or_flushed_the_answers_are_the_same() {
    let without = as_without().await;
    let mut server = test_servers::Redis::start();
    let redis = connected(settings(&server.url())).await;
    let node = node(&redis);
    ask(&node, None).await;
    server.freeze();
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(ask(&node, None).await, without);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    server.thaw();
    tokio::time::timeout(PATIENCE, redis.connected()).await.expect("it goes on");
    for _ in 0..5 {
        let port = server.port().to_string();
        let flushed = std::process::Command::new("redis-cli").args(["-p", &port, "FLUSHALL"]).output();
        assert!(flushed.expect("redis-cli is there: tools/setup.sh servers").status.success());
        assert_eq!(ask(&node, None).await, without);
    }
    server.kill();
    for _ in 0..20 {
        assert_eq!(ask(&node, None).await, without);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_makes_up_no_stock() {
    let without = as_without().await;
    for (name, lie) in liar::lies() {
        let liar = Liar::who(move |command, memory| lie(command, memory)).await;
        let redis = connected(Settings {
            rest: Duration::from_millis(5),
            ..settings(&liar.url())
        })
        .await;
        let node = node(&redis);
        for _ in 0..8 {
            assert_eq!(ask(&node, None).await, without, "{name}");
        }
        assert!(liar.asked() > 0, "{name}");
    }
}

/// It finds whatever it is told to.
struct Found(Vec<u8>);

impl KeptStock for Found {
    fn find<'a>(&'a self, products: &'a [uuid::Uuid]) -> query_api::Asked<'a, Vec<Option<Vec<u8>>>> {
        Box::pin(async move { products.iter().map(|_| Some(self.0.clone())).collect() })
    }

    fn keep(&self, _: uuid::Uuid, _: &[u8], _: std::time::SystemTime) {}
}

#[tokio::test]
async fn a_row_of_another_product_or_shard_is_passed_over() {
    let without = as_without().await;
    let row = |product: ProductId, shard: u16| {
        json!({"shard": shard, "position": 10, "recorded_at": 1, "view": {
            "product": product.uuid(), "version": 4, "seller": uuid::Uuid::nil(), "unlimited": false, "on_hand": 1, "reserved": 0}})
    };
    for found in [row(product_id(3), 0), row(product_id(1), 1), json!({"shard": 0}), json!("x")] {
        let mut shop = Shop::new();
        shop.progress = at(10);
        let node = shop.serve_with(|settings| router_sharing(settings, Arc::new(Found(found.to_string().into_bytes()))));
        assert_eq!(ask(&node, None).await, without, "{found}");
    }
    // And what fits is taken.
    let mut shop = Shop::new();
    shop.progress = at(10);
    let fits = row(product_id(1), 0).to_string().into_bytes();
    let node = shop.serve_with(|settings| router_sharing(settings, Arc::new(Found(fits))));
    assert_eq!(ask(&node, None).await["data"]["a"]["inventory"]["onHand"], 1);
}
