//! What nodes share in Redis. With it and without it, whatever it does, the answers are the same.

#[path = "../../../redis-cache/tests/support/liar.rs"]
mod liar;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::Router;
use command_api::{AnswerName, Api, Asked, KeptAnswers, RateLimits, Settings, router};
use redis_cache::{Answers, Limits, Redis};
use serde_json::{Value, json};
use test_servers::Proxy;
use uuid::Uuid;

use self::liar::{Liar, Lie};
use crate::sessions::all;
use crate::shop::{Deadlines, PASSWORD, Reply, Shop, order_body, won};

/// Nothing that is not wrong takes so long, on a busy machine either.
const PATIENCE: Duration = Duration::from_secs(20);

fn settings(url: &str) -> redis_cache::Settings {
    redis_cache::Settings::new(url.parse().expect("an address"))
}

/// For what is about answers and not about their time.
fn patient(url: &str) -> redis_cache::Settings {
    redis_cache::Settings {
        within: Duration::from_secs(5),
        rest: Duration::from_millis(50),
        ..settings(url)
    }
}

fn limited(rate_limits: RateLimits) -> Settings {
    Settings {
        behind_proxy: true,
        rate_limits,
        ..Settings::default()
    }
}

async fn shop(settings: Settings) -> Shop {
    let deadlines = Deadlines {
        payment: Duration::from_mins(10),
    };
    Shop::with(settings, deadlines).await
}

/// Shares all there is to share.
fn share(shop: &Shop, api: &Api, redis: &Redis) -> Api {
    let answers = Answers::new(redis.clone(), shop.vault.clone(), shop.engine().log_id());
    let limits = Limits::new(redis.clone());
    api.clone()
        .with_kept_answers(Arc::new(answers))
        .with_shared_limits(Arc::new(limits))
}

async fn connected(settings: redis_cache::Settings) -> Redis {
    let redis = Redis::start(settings);
    tokio::time::timeout(PATIENCE, redis.connected()).await.expect("Redis answers");
    redis
}

/// What is the same for every shop of an answer: not its trace, its times and the log's own id.
fn plain(name: &str, answer: &Reply) -> String {
    fn without(value: &mut Value, members: &[&str]) {
        match value {
            Value::Object(object) => {
                object.retain(|name, _| !members.contains(&name.as_str()));
                object.values_mut().for_each(|value| without(value, members));
            }
            Value::Array(array) => array.iter_mut().for_each(|value| without(value, members)),
            _ => {}
        }
    }
    let mut body = answer.body.clone();
    // A dry run shows the ids of what it does not create.
    let of_its_own = [
        "traceId",
        "placedAt",
        "payUntil",
        "accessToken",
        "refreshToken",
        "orderNumber",
        "aggregateId",
        "payload",
    ];
    without(&mut body, &of_its_own);
    let shown = [
        "content-type",
        "etag",
        "idempotency-replayed",
        "preference-applied",
        "retry-after",
        "location",
    ];
    let headers = shown.map(|name| answer.header(name).unwrap_or("-").to_owned());
    let token = answer
        .header("consistency-token")
        .map(|token| token.split_once('.').map(|(_, place)| place.to_owned()));
    format!("{name}: {} {headers:?} {token:?} {body}", answer.status)
}

/// A day in a shop: what a client may send, and send again.
async fn a_day(shop: &Shop) -> Vec<String> {
    let mut said = Vec::new();
    let mut say = |name: &str, answer: Reply| {
        said.push(plain(name, &answer));
        answer
    };
    let offer = || {
        let body = json!({"sku": "COFFEE", "name": "Coffee", "price": won(5_000), "stock": {"onHand": 10}});
        shop.post("/api/v1/products").token(&shop.seller).key("coffee").json(body).send()
    };
    let product: Uuid = say("offer", offer().await).id("productId");
    say("offer again", offer().await);
    let order = |key: &str, quantity| {
        let body = order_body(product, quantity, |_| {});
        shop.post("/api/v1/orders").token(&shop.buyer).key(key).json(body)
    };
    say("an order without money", order("poor", 1).send().await);
    say("again", order("poor", 1).send().await);
    say("again, in English", order("poor", 1).header("accept-language", "en").send().await);
    say("again, and wait", order("poor", 1).header("prefer", "wait=5").send().await);
    say("another order under its key", order("poor", 2).send().await);
    say("again after that", order("poor", 1).send().await);
    let deposit = |key: &str, amount: i64| {
        let path = format!("/api/v1/accounts/{}/deposits", shop.buyer_id);
        shop.post(&path).token(&shop.admin).key(key).json(json!({"amount": won(amount)}))
    };
    for key in ["nothing", "nothing", "some", "some"] {
        say(key, deposit(key, if key == "some" { 100_000 } else { 0 }).send().await);
    }
    say("other amount", deposit("some", 5).send().await);
    let placed = say("an order", order("rich", 2).header("prefer", "wait=5").send().await);
    say("again", order("rich", 2).send().await);
    say("again, and wait", order("rich", 2).header("prefer", "wait=0").send().await);
    let dry_run = shop.post("/api/v1/orders?dryRun=true").token(&shop.buyer).key("rich");
    say("a dry run under its key", dry_run.json(order_body(product, 1, |_| {})).send().await);
    let cancellation = format!("/api/v1/orders/{}/cancellation", placed.text("orderId"));
    for _ in 0..2 {
        let cancel = shop
            .post(&cancellation)
            .token(&shop.buyer)
            .key("cancel")
            .json(json!({"reason": "too late"}));
        say("cancel what is done", cancel.send().await);
    }
    say(
        "look",
        shop.get(&format!("/api/v1/orders/{}", placed.text("orderId")))
            .token(&shop.buyer)
            .send()
            .await,
    );
    say("nobody's", order("rich", 2).without("authorization").send().await);
    say(
        "unknown product",
        order("none", 1).json(order_body(Uuid::max(), 1, |_| {})).send().await,
    );
    say("again", order("none", 1).json(order_body(Uuid::max(), 1, |_| {})).send().await);
    for password in ["wrong", PASSWORD] {
        let body = json!({"email": "buyer@jangbu.dev", "password": password});
        say("log in", shop.post("/api/v1/auth/login").json(body).send().await);
    }
    said
}

/// The same day, without Redis.
async fn as_without() -> Vec<String> {
    a_day(&Shop::open().await).await
}

#[tokio::test]
async fn with_redis_a_day_goes_as_without_it() {
    let server = test_servers::Redis::start();
    let (shop, redis) = (Shop::open().await, connected(patient(&server.url())).await);
    share(&shop, &shop.api, &redis);
    assert_eq!(a_day(&shop).await, as_without().await);
}

#[tokio::test]
async fn with_redis_gone_from_the_start_a_day_goes_as_without_it() {
    let url = test_servers::Redis::start().url();
    let shop = Shop::open().await;
    share(&shop, &shop.api, &Redis::start(settings(&url)));
    let began = Instant::now();
    assert_eq!(a_day(&shop).await, as_without().await);
    assert!(began.elapsed() < PATIENCE);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_redis_killed_frozen_flushed_and_cut_off_while_it_is_asked_a_day_goes_as_without_it() {
    let without = as_without().await;
    for trouble in ["killed", "frozen", "flushed", "cut off", "slow"] {
        let mut server = test_servers::Redis::start();
        let proxy = Proxy::to(server.address());
        let redis = connected(settings(&format!("redis://{}", proxy.address()))).await;
        let shop = Shop::open().await;
        share(&shop, &shop.api, &redis);
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let troubling = tokio::task::spawn_blocking(move || {
            while matches!(stopped.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty)) {
                let moment = || std::thread::sleep(Duration::from_millis(15));
                match trouble {
                    "killed" => {
                        server.kill();
                        moment();
                        server.restart();
                    }
                    "frozen" => {
                        server.freeze();
                        moment();
                        server.thaw();
                    }
                    "flushed" => flush(&server),
                    "cut off" => {
                        proxy.cut();
                        moment();
                        proxy.mend();
                    }
                    _ => proxy.delay(Duration::from_millis(60)),
                }
                moment();
            }
        });
        assert_eq!(a_day(&shop).await, without, "{trouble}");
        drop(stop);
        troubling.await.expect("no panic");
    }
}

fn flush(server: &test_servers::Redis) {
    let port = server.port().to_string();
    let flushed = std::process::Command::new("redis-cli").args(["-p", &port, "FLUSHALL"]).output();
    assert!(flushed.expect("redis-cli is there: tools/setup.sh servers").status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_redis_that_lies_a_day_goes_as_without_it() {
    let without = as_without().await;
    let lies: Arc<[_]> = liar::lies().into();
    let all = Arc::clone(&lies);
    let told = AtomicUsize::new(0);
    // One that lies in every way there is, and some that are true to theirs.
    let in_turn: Arc<Lie> = Arc::new(move |command, memory| all[told.fetch_add(1, Ordering::Relaxed) % all.len()].1(command, memory));
    let about_values = lies.iter().filter(|(name, _)| name.contains(" it") || name.contains("another key"));
    let about_values: Vec<_> = about_values.cloned().collect();
    assert!(about_values.len() >= 4);
    for (name, lie) in [("all in turn", in_turn)].into_iter().chain(about_values) {
        let liar = Liar::who(move |command, memory| lie(command, memory)).await;
        let shop = Shop::open().await;
        let redis = Redis::start(redis_cache::Settings {
            rest: Duration::from_millis(2),
            ..settings(&liar.url())
        });
        tokio::time::timeout(PATIENCE, redis.connected())
            .await
            .expect("it pretends to be one");
        share(&shop, &shop.api, &redis);
        assert_eq!(a_day(&shop).await, without, "{name}");
        assert!(liar.asked() > 0, "{name}");
    }
}

#[tokio::test]
async fn a_repeat_is_answered_without_the_engine_byte_for_byte_on_any_node() {
    let server = test_servers::Redis::start();
    let shop = Shop::open().await;
    let product = shop.product(json!({"onHand": 10})).await;
    let found = Arc::new(AtomicU64::new(0));
    let node = async || {
        let redis = connected(patient(&server.url())).await;
        let answers = Answers::new(redis, shop.vault.clone(), shop.engine().log_id());
        let counted = Counted(answers, Arc::clone(&found));
        router(shop.another_node(Settings::default()).with_kept_answers(Arc::new(counted)))
    };
    let (one, other) = (node().await, node().await);
    let order = |to: &Router| {
        let body = order_body(product, 1, |_| {});
        shop.post("/api/v1/orders").token(&shop.buyer).key("o").json(body).to(to)
    };
    let first = order(&one).send().await;
    assert_eq!((first.status.as_u16(), first.header("idempotency-replayed")), (202, None));
    let refused = |to: &Router| {
        let path = format!("/api/v1/accounts/{}/deposits", shop.buyer_id);
        let body = json!({"amount": won(0)});
        shop.post(&path).token(&shop.admin).key("d").json(body).to(to)
    };
    let refusal = refused(&one).send().await;
    refusal.refused(422, "amount-not-positive");
    let began = Instant::now();
    loop {
        if keys(&server) == 2 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "both are kept");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for node in [&one, &other] {
        for (first, again) in [(&first, order(node).send().await), (&refusal, refused(node).send().await)] {
            assert_eq!((again.status, &again.bytes), (first.status, &first.bytes));
            assert_eq!(again.header("idempotency-replayed"), Some("true"));
            for name in ["etag", "consistency-token", "location", "content-type"] {
                assert_eq!(again.header(name), first.header(name), "{name}");
            }
        }
    }
    assert_eq!(found.load(Ordering::Relaxed), 4);
    let other_body = order(&other).json(order_body(product, 2, |_| {})).send().await;
    other_body.refused(422, "idempotency-key-reused");
}

/// Counts what is found.
struct Counted(Answers, Arc<AtomicU64>);

impl KeptAnswers for Counted {
    fn find(&self, of: AnswerName) -> Asked<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            let found = self.0.find(of).await;
            self.1.fetch_add(u64::from(found.is_some()), Ordering::Relaxed);
            found
        })
    }

    fn keep(&self, of: AnswerName, answer: &[u8]) {
        self.0.keep(of, answer);
    }
}

fn keys(server: &test_servers::Redis) -> usize {
    let port = server.port().to_string();
    let size = std::process::Command::new("redis-cli")
        .args(["-p", &port, "--scan", "--pattern", "jangbu:answers:*"])
        .output();
    String::from_utf8_lossy(&size.expect("redis-cli is there").stdout).lines().count()
}

const TEN_AN_HOUR: fn() -> RateLimits = || RateLimits {
    per_client: Some("10/h".parse().expect("a rate")),
    per_account: None,
};

/// Asks from this address, so often, of these nodes in turn: how many were let through.
async fn let_through(shop: &Shop, nodes: &[&Router], client: &str, times: usize) -> usize {
    let mut through = 0;
    for time in 0..times {
        let ask = shop
            .get("/api/v1/orders/none")
            .header("x-forwarded-for", client)
            .to(nodes[time % nodes.len()]);
        let answer = ask.send().await;
        assert!(
            answer
                .header("ratelimit-policy")
                .is_some_and(|policy| policy.contains("\"client\";q=10;w=3600"))
        );
        if answer.status == 429 {
            let wait: u64 = answer
                .refused(429, "too-many-requests")
                .header("retry-after")
                .expect("a wait")
                .parse()
                .expect("a number");
            assert!((1..=360).contains(&wait), "{wait}");
            assert!(
                answer
                    .header("ratelimit")
                    .is_some_and(|limit| limit.starts_with("\"client\";r=0;t=3")),
                "{answer:?}"
            );
        } else {
            through += 1;
        }
    }
    through
}

#[tokio::test]
async fn nodes_that_share_a_count_let_through_what_one_would() {
    let server = test_servers::Redis::start();
    let shop = shop(limited(TEN_AN_HOUR())).await;
    let node = async || {
        let redis = connected(patient(&server.url())).await;
        router(share(&shop, &shop.another_node(limited(TEN_AN_HOUR())), &redis))
    };
    let (one, other) = (node().await, node().await);
    assert_eq!(let_through(&shop, &[&one, &other], "192.0.2.1", 30).await, 10);
    assert_eq!(let_through(&shop, &[&other], "192.0.2.2", 30).await, 10);
    assert_eq!(let_through(&shop, &[&one], "192.0.2.2", 5).await, 0);
    // Flushed, each node still knows what it has seen itself.
    flush(&server);
    assert_eq!(let_through(&shop, &[&other], "192.0.2.2", 5).await, 0);
}

#[tokio::test]
async fn without_redis_and_with_any_other_each_node_keeps_the_limit_itself() {
    let shop = shop(limited(TEN_AN_HOUR())).await;
    let alone = router(shop.another_node(limited(TEN_AN_HOUR())));
    assert_eq!(let_through(&shop, &[&alone], "192.0.2.1", 30).await, 10);

    let mut server = test_servers::Redis::start();
    let redis = connected(patient(&server.url())).await;
    let node = router(share(&shop, &shop.another_node(limited(TEN_AN_HOUR())), &redis));
    assert_eq!(let_through(&shop, &[&node], "192.0.2.1", 7).await, 7);
    server.kill();
    assert_eq!(let_through(&shop, &[&node], "192.0.2.1", 30).await, 3);
    server.restart();
    tokio::time::timeout(PATIENCE, redis.connected()).await.expect("it comes back");
    assert_eq!(let_through(&shop, &[&node], "192.0.2.1", 30).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lie_lets_more_through_than_the_rule_and_none_locks_anybody_out_for_ever() {
    let second = RateLimits {
        per_client: None,
        per_account: Some("5/s".parse().expect("a rate")),
    };
    let shop = shop(limited(second)).await;
    let mut lies = liar::lies();
    // As the rule would have it, but always: no.
    lies.push(("no to everything", Arc::new(|_, _| Some(b"*2\r\n:0\r\n:1000000\r\n".to_vec()))));
    lies.push((
        "yes to everything, as it may be",
        Arc::new(|_, _| Some(b"*2\r\n:1\r\n:200000\r\n".to_vec())),
    ));
    let shop = &shop;
    let tried = lies.into_iter().map(async |(name, lie)| {
        let liar = Liar::who(move |command, memory| lie(command, memory)).await;
        let redis = Redis::start(redis_cache::Settings {
            rest: Duration::from_millis(5),
            ..settings(&liar.url())
        });
        tokio::time::timeout(PATIENCE, redis.connected())
            .await
            .expect("it pretends to be one");
        let node = router(share(shop, &shop.another_node(limited(second)), &redis));
        let began = Instant::now();
        let mut through = 0_u32;
        while began.elapsed() < Duration::from_millis(1_500) {
            let path = format!("/api/v1/orders/{}", Uuid::nil());
            let answer = shop.get(&path).token(&shop.buyer).to(&node).send().await;
            through += u32::from(answer.status != 429);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (name, through, began.elapsed())
    });
    for (name, through, took) in all(tried).await {
        let most = 5.0 + took.as_secs_f64() * 5.0 + 2.0;
        assert!(f64::from(through) <= most, "{name}: {through} of {most}");
        let least = if name == "no to everything" { 1 } else { 5 };
        assert!(through >= least, "{name}: {through}");
    }
}

#[tokio::test]
async fn failed_logins_on_one_node_slow_the_next_try_on_another() {
    let server = test_servers::Redis::start();
    let shop = Shop::open().await;
    let node = async || {
        let redis = connected(patient(&server.url())).await;
        router(share(&shop, &shop.another_node(Settings::default()), &redis))
    };
    let (one, other) = (node().await, node().await);
    let log_in = |to: &Router, password: &str| {
        let body = json!({"email": "buyer@jangbu.dev", "password": password});
        shop.post("/api/v1/auth/login").json(body).to(to)
    };
    for _ in 0..4 {
        log_in(&one, "wrong").send().await.refused(401, "invalid-credentials");
    }
    log_in(&other, "wrong").send().await.refused(401, "invalid-credentials");
    let slowed = log_in(&other, PASSWORD).send().await;
    assert_eq!(slowed.refused(429, "too-many-failed-logins").header("retry-after"), Some("1"));
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    assert_eq!(log_in(&one, PASSWORD).send().await.status, 200);
    log_in(&other, "wrong").send().await.refused(401, "invalid-credentials");
}

#[tokio::test]
async fn a_liar_slows_logins_by_a_minute_at_most() {
    let liar = Liar::who(|_, _| Some(b"*2\r\n:4000000000\r\n:0\r\n".to_vec())).await;
    let shop = Shop::open().await;
    let redis = connected(settings(&liar.url())).await;
    let node = router(share(&shop, &shop.another_node(Settings::default()), &redis));
    let body = json!({"email": "buyer@jangbu.dev", "password": PASSWORD});
    let slowed = shop.post("/api/v1/auth/login").json(body).to(&node).send().await;
    assert_eq!(slowed.refused(429, "too-many-failed-logins").header("retry-after"), Some("60"));
}
