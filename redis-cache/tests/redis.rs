//! Redis as it is, and as it should not be: gone, frozen, slow, flushed, lying.

#[path = "support/liar.rs"]
mod liar;

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use command_api::{AnswerName, KeptAnswers as _, Rate, SharedLimits as _};
use event_store::{Listener, Wakes as _};
use key_vault::KeyVault;
use liar::Liar;
use query_api::KeptStock as _;
use redis_cache::{Answers, Limits, Redis, RedisWakes, Settings, Stock, Topic};
use test_servers::Proxy;
use uuid::Uuid;

const LOG: Uuid = Uuid::from_u128(0x109);
const NAME: AnswerName = AnswerName {
    record: [1; 16],
    fingerprint: [2; 16],
};
/// Nothing that is not wrong takes so long, on a busy machine either.
const PATIENCE: Duration = Duration::from_secs(20);

fn settings(url: &str) -> Settings {
    Settings::new(url.parse().expect("an address"))
}

/// For what is about answers and not about their time.
fn patient(url: &str) -> Settings {
    Settings {
        within: Duration::from_secs(5),
        rest: Duration::from_millis(50),
        ..settings(url)
    }
}

async fn connected(settings: Settings) -> Redis {
    let redis = Redis::start(settings);
    tokio::time::timeout(PATIENCE, redis.connected()).await.expect("Redis answers");
    redis
}

fn vault() -> (tempfile::TempDir, KeyVault) {
    let keys = tempfile::tempdir().expect("a directory");
    let vault = KeyVault::open(keys.path()).expect("a vault");
    (keys, vault)
}

fn rate(text: &str) -> Rate {
    text.parse().expect("a rate")
}

/// Until it holds, or the test fails.
async fn eventually<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what} in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks the server itself.
fn command(server: &test_servers::Redis, words: &[&str]) -> String {
    let port = server.port().to_string();
    let output = Command::new("redis-cli").args(["-p", &port]).args(words).output();
    String::from_utf8(output.expect("redis-cli is there: tools/setup.sh servers").stdout).expect("text")
}

async fn kept(answers: &Answers, value: &[u8]) {
    answers.keep(NAME, value);
    eventually("it is kept", async || answers.find(NAME).await.filter(|found| found == value)).await;
}

#[tokio::test]
async fn an_answer_that_is_kept_on_one_node_is_found_on_another() {
    let server = test_servers::Redis::start();
    let (_keys, vault) = vault();
    let answers = async |log| Answers::new(connected(patient(&server.url())).await, vault.clone(), log);
    let (one, other, another_log) = (answers(LOG).await, answers(LOG).await, answers(Uuid::max()).await);
    assert_eq!(one.find(NAME).await, None);
    kept(&one, b"the answer").await;
    assert_eq!(other.find(NAME).await.as_deref(), Some(b"the answer" as &[u8]));
    assert_eq!(another_log.find(NAME).await, None);
    let other_body = AnswerName {
        fingerprint: [3; 16],
        ..NAME
    };
    assert_eq!(other.find(other_body).await, None);
    let keys = command(&server, &["KEYS", "*"]);
    assert!(keys.starts_with("jangbu:answers:") && keys.lines().count() == 1, "{keys}");
    let left: i64 = command(&server, &["PTTL", keys.trim()]).trim().parse().expect("a number");
    assert!((86_000_000..=86_400_000).contains(&left), "{left}");

    // What is too long is not kept at all.
    one.keep(other_body, &vec![0; 70_000]);
    kept(&one, b"another answer").await;
    assert_eq!(one.find(other_body).await, None);
}

#[tokio::test]
async fn without_a_server_every_answer_is_there_at_once() {
    let (_keys, vault) = vault();
    let gone = {
        let server = test_servers::Redis::start();
        server.url()
    };
    let redis = Redis::start(settings(&gone));
    let (answers, limits) = (Answers::new(redis.clone(), vault, LOG), Limits::new(redis.clone()));
    let began = Instant::now();
    for _ in 0..1_000 {
        answers.keep(NAME, b"value");
        assert_eq!(answers.find(NAME).await, None);
        assert_eq!(limits.take([1; 16], rate("10/s")).await, None);
    }
    assert!(began.elapsed() < Duration::from_secs(2) && !redis.is_connected());
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_is_asked_again() {
    let mut server = test_servers::Redis::start();
    let (_keys, vault) = vault();
    let redis = connected(patient(&server.url())).await;
    let answers = Answers::new(redis.clone(), vault, LOG);
    kept(&answers, b"value").await;
    server.kill();
    assert_eq!(answers.find(NAME).await, None);
    eventually("it is noticed", async || (!redis.is_connected()).then_some(())).await;
    server.restart();
    tokio::time::timeout(PATIENCE, redis.connected()).await.expect("it comes back");
    assert_eq!(answers.find(NAME).await, None);
    kept(&answers, b"value").await;
}

#[tokio::test]
async fn a_frozen_server_costs_a_few_calls_their_time_and_then_nobody_waits() {
    let server = test_servers::Redis::start();
    let (_keys, vault) = vault();
    let redis = connected(settings(&server.url())).await;
    let answers = Answers::new(redis.clone(), vault, LOG);
    server.freeze();
    let began = Instant::now();
    for _ in 0..200 {
        assert_eq!(answers.find(NAME).await, None);
    }
    // Three calls of 20 ms, and as much again for a busy machine.
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(!redis.is_connected());
    server.thaw();
    tokio::time::timeout(PATIENCE, redis.connected()).await.expect("it goes on");
}

#[tokio::test]
async fn a_slow_network_costs_no_more_than_a_frozen_server() {
    let server = test_servers::Redis::start();
    let proxy = Proxy::to(server.address());
    let (_keys, vault) = vault();
    let redis = connected(settings(&format!("redis://{}", proxy.address()))).await;
    let answers = Answers::new(redis.clone(), vault, LOG);
    proxy.delay(Duration::from_millis(200));
    let mut longest = Duration::ZERO;
    let began = Instant::now();
    let mut asked = 0_u32;
    // Over two seconds it is tried again, and found to be too slow still.
    while began.elapsed() < Duration::from_secs(2) {
        let now = Instant::now();
        assert_eq!(answers.find(NAME).await, None);
        longest = longest.max(now.elapsed());
        asked += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    assert!(asked > 500, "{asked} of a millisecond each, but for a few");
    proxy.mend();
    tokio::time::timeout(PATIENCE, redis.connected()).await.expect("it is fast again");
}

#[tokio::test]
async fn a_server_that_pauses_its_clients_or_refuses_writes_is_gone_on_without() {
    let server = test_servers::Redis::start_with(&[("maxmemory", "1"), ("maxmemory-policy", "noeviction")]);
    let (_keys, vault) = vault();
    let redis = connected(settings(&server.url())).await;
    let (answers, limits) = (Answers::new(redis.clone(), vault, LOG), Limits::new(redis.clone()));
    answers.keep(NAME, b"value");
    assert_eq!(limits.take([1; 16], rate("10/s")).await, None);
    command(&server, &["CLIENT", "PAUSE", "500", "ALL"]);
    let began = Instant::now();
    for _ in 0..50 {
        assert_eq!(answers.find(NAME).await, None);
    }
    assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
}

#[tokio::test]
async fn stock_is_good_for_a_second() {
    let server = test_servers::Redis::start();
    let (_keys, vault) = vault();
    let stock = Stock::new(connected(patient(&server.url())).await, vault, LOG);
    let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let read_at = std::time::SystemTime::now();
    stock.keep(one, b"7 left", read_at);
    let found = eventually("it is kept", async || {
        let found = stock.find(&[other, one]).await;
        found[1].is_some().then_some(found)
    })
    .await;
    assert_eq!(found, [None, Some(b"7 left".to_vec())]);
    eventually("it is forgotten", async || stock.find(&[one]).await[0].is_none().then_some(())).await;
    assert!(read_at.elapsed().expect("time goes on") >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_rate_is_shared_and_what_cannot_be_there_is_put_right() {
    let server = test_servers::Redis::start();
    let [one, other] = [connected(patient(&server.url())).await, connected(patient(&server.url())).await].map(Limits::new);
    let (who, ten) = ([5; 16], rate("10/h"));
    for taken in 1..=10_u64 {
        let node = if taken % 2 == 0 { &one } else { &other };
        let answer = node.take(who, ten).await.expect("an answer");
        assert!(answer.allowed);
        let given_back = Duration::from_mins(6 * taken).checked_sub(answer.owed);
        assert!(given_back.is_some_and(|given_back| given_back < PATIENCE), "{answer:?}");
    }
    for node in [&one, &other] {
        let refused = node.take(who, ten).await.expect("an answer");
        assert!(!refused.allowed && refused.owed <= Duration::from_hours(1) && refused.owed > Duration::from_mins(59));
    }
    // Another rule finds what this one left, and what somebody wrote there, and makes the best of it.
    let ten_a_second = other.take(who, rate("10/s")).await.expect("an answer");
    assert!(!ten_a_second.allowed && ten_a_second.owed == Duration::from_secs(1));
    let key = command(&server, &["KEYS", "jangbu:rate:*"]).trim().to_owned();
    for nonsense in ["9e300", "-5", "1.5", "nan", "inf", "x", ""] {
        command(&server, &["SET", &key, nonsense]);
        let taken = one.take(who, ten).await.expect("an answer");
        assert!(taken.owed <= Duration::from_hours(1), "{nonsense}: {taken:?}");
    }
    command(&server, &["DEL", &key]);
    command(&server, &["LPUSH", &key, "x"]);
    assert_eq!(one.take(who, ten).await, None);
    command(&server, &["FLUSHALL"]);
    command(&server, &["SCRIPT", "FLUSH"]);
    assert!(one.take(who, ten).await.expect("an answer").allowed);
    let left: i64 = command(&server, &["PTTL", &key]).trim().parse().expect("a number");
    assert!((300_000..=360_000).contains(&left), "{left}");
}

#[tokio::test]
async fn failed_logins_are_shared_and_forgotten() {
    let server = test_servers::Redis::start();
    let [one, other] = [connected(patient(&server.url())).await, connected(patient(&server.url())).await].map(Limits::new);
    let (address, client) = ([1; 16], [2; 16]);
    one.failed(&[address, client], Duration::from_mins(15)).await;
    other.failed(&[address], Duration::from_mins(15)).await;
    let known = one.failures(&[client, address, [3; 16]]).await.expect("an answer");
    assert_eq!(known.iter().map(|known| known.count).collect::<Vec<_>>(), [1, 2, 0]);
    assert!(known.iter().all(|known| known.since < PATIENCE));
    one.succeeded(address).await;
    let known = other.failures(&[client, address]).await.expect("an answer");
    assert_eq!(known.iter().map(|known| known.count).collect::<Vec<_>>(), [1, 0]);
    one.failed(&[address], Duration::from_millis(30)).await;
    eventually("it is forgotten", async || {
        let known = other.failures(&[address]).await?;
        (known[0].count == 0).then_some(())
    })
    .await;
}

/// What docs/redis.md gives the shop's user.
const RIGHTS: &str = "resetchannels &jangbu:* ~jangbu:* -@all +get +mget +set +unlink +hmget +hset +hincrby +pexpire +time +evalsha +script|load +publish +subscribe +ping";

#[tokio::test]
async fn the_documented_rights_are_enough_and_no_more_than_that() {
    assert!(
        include_str!("../../docs/redis.md").contains(RIGHTS),
        "docs/redis.md gives these rights"
    );
    let user = format!("shop on >secret {RIGHTS}");
    let server = test_servers::Redis::start_with(&[("user", &user)]);
    let url = format!("redis://shop:secret@{}", server.address());
    let (_keys, vault) = vault();
    let redis = connected(patient(&url)).await;
    kept(&Answers::new(redis.clone(), vault.clone(), LOG), b"value").await;
    assert_eq!(Stock::new(redis.clone(), vault, LOG).find(&[LOG, Uuid::nil()]).await, [None, None]);
    let limits = Limits::new(redis);
    assert!(limits.take([1; 16], rate("10/s")).await.is_some_and(|taken| taken.allowed));
    limits.failed(&[[1; 16]], Duration::from_mins(15)).await;
    assert_eq!(limits.failures(&[[1; 16]]).await.expect("an answer")[0].count, 1);
    limits.succeeded([1; 16]).await;
    assert_eq!(limits.failures(&[[1; 16]]).await.expect("an answer")[0].count, 0);
    let wakes = RedisWakes::start(patient(&url), Topic::Log);
    let listener = Arc::new(Mutex::new(wakes.listener()));
    tokio::time::timeout(PATIENCE, wakes.redis().connected())
        .await
        .expect("it may listen");
    wakes.notify(0, 1);
    assert!(woken(&listener, PATIENCE).await);

    let wrong = Redis::start(patient(&format!("redis://shop:wrong@{}", server.address())));
    let refused = tokio::time::timeout(Duration::from_millis(300), wrong.connected()).await;
    assert!(refused.is_err(), "a wrong password is not let in");
}

#[tokio::test]
async fn tls_is_spoken_to_those_whose_certificate_is_trusted() {
    let scratch = tempfile::tempdir().expect("a directory");
    certificate(scratch.path());
    let file = |name: &str| scratch.path().join(name).display().to_string();
    let server = test_servers::Redis::start();
    // Both on one server: the tests' own readiness is asked in the clear.
    let port = tls_port(&server, &file("certificate.pem"), &file("key.pem"));
    let trusting = format!("rediss://localhost:{port}?sslrootcert={}", file("certificate.pem"));
    let (_keys, vault) = vault();
    kept(&Answers::new(connected(patient(&trusting)).await, vault, LOG), b"value").await;
    let other_name = format!("rediss://127.0.0.1:{port}?sslrootcert={}", file("certificate.pem"));
    let refused = Redis::start(patient(&other_name));
    assert!(tokio::time::timeout(Duration::from_millis(500), refused.connected()).await.is_err());
}

/// A key and a certificate for localhost, which vouches for itself.
fn certificate(scratch: &Path) {
    let arguments = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
                     -addext basicConstraints=critical,CA:FALSE -keyout key.pem -out certificate.pem";
    let made = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(scratch)
        .output()
        .expect("openssl is there: tools/setup.sh servers");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::read(scratch.join("key.pem")).expect("written");
}

/// Lets the server speak TLS on another port.
fn tls_port(server: &test_servers::Redis, certificate: &str, key: &str) -> u16 {
    for setting in [
        ["tls-cert-file", certificate, "tls-key-file", key, "tls-ca-cert-file", certificate],
        ["tls-auth-clients", "no", "tls-replication", "no", "tls-cluster", "no"],
    ] {
        let said = command(server, &[&["CONFIG", "SET"] as &[&str], &setting].concat());
        assert_eq!(said.trim(), "OK");
    }
    (0..10)
        .find_map(|_| {
            let port = std::net::TcpListener::bind(("127.0.0.1", 0)).ok()?.local_addr().ok()?.port();
            let said = command(server, &["CONFIG", "SET", "tls-port", &port.to_string()]);
            (said.trim() == "OK").then_some(port)
        })
        .expect("a free port")
}

async fn woken(listener: &Arc<Mutex<Listener>>, at_most: Duration) -> bool {
    let listener = Arc::clone(listener);
    let waiting = tokio::task::spawn_blocking(move || listener.lock().expect("nobody panics with it").wait(at_most));
    waiting.await.expect("no panic")
}

#[tokio::test]
async fn a_hint_wakes_every_node_and_without_redis_nobody_is_woken() {
    let mut server = test_servers::Redis::start();
    let url = server.url();
    let start = async |topic| {
        let wakes = RedisWakes::start(patient(&url), topic);
        tokio::time::timeout(PATIENCE, wakes.redis().connected()).await.expect("it listens");
        let listener = Arc::new(Mutex::new(wakes.listener()));
        (wakes, listener)
    };
    let (one, of_one) = start(Topic::Log).await;
    let (_other, of_other) = start(Topic::Log).await;
    let (_views, of_views) = start(Topic::Views).await;
    assert!(!woken(&of_one, Duration::from_millis(20)).await);
    one.notify(3, 17);
    one.notify(0, 18);
    assert!(woken(&of_other, PATIENCE).await && woken(&of_one, PATIENCE).await);
    assert!(!woken(&of_views, Duration::from_millis(50)).await, "it was of another topic");
    // Anybody may say anything: what names no place wakes nobody.
    command(&server, &["PUBLISH", "jangbu:views", "nonsense"]);
    assert!(!woken(&of_views, Duration::from_millis(50)).await);
    command(&server, &["PUBLISH", "jangbu:views", "1/2"]);
    assert!(woken(&of_views, PATIENCE).await);

    server.kill();
    for position in 0..10_000 {
        one.notify(0, position);
    }
    let began = Instant::now();
    // The last hints of before may still be there.
    while woken(&of_other, Duration::from_millis(50)).await {
        assert!(began.elapsed() < PATIENCE);
    }
    server.restart();
    eventually("it wakes again", async || {
        one.notify(0, 10_000);
        woken(&of_other, Duration::from_millis(50)).await.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_liar_says_every_answer_comes_in_time_and_none_is_made_up() {
    let (_keys, vault) = vault();
    for (name, lie) in liar::lies() {
        let liar = Liar::who(move |command, memory| lie(command, memory)).await;
        let lied_to = Settings {
            rest: Duration::from_millis(10),
            ..settings(&liar.url())
        };
        let redis = Redis::start(lied_to.clone());
        let (answers, stock, limits) = (
            Answers::new(redis.clone(), vault.clone(), LOG),
            Stock::new(redis.clone(), vault.clone(), LOG),
            Limits::new(redis.clone()),
        );
        let wakes = RedisWakes::start(lied_to, Topic::Log);
        let began = Instant::now();
        let other = AnswerName {
            record: [9; 16],
            fingerprint: [9; 16],
        };
        let mut longest = Duration::ZERO;
        while liar.asked() < 30 {
            let now = Instant::now();
            answers.keep(NAME, b"value");
            answers.keep(other, b"other");
            assert_eq!(answers.find(NAME).await, None, "{name}");
            assert_eq!(stock.find(&[LOG, Uuid::nil()]).await, [None, None], "{name}");
            let taken = limits.take([1; 16], rate("10/s")).await;
            assert!(
                taken.is_none() || name == "yes to everything" || name == "a wait of centuries",
                "{name}: {taken:?}"
            );
            // It may say anything of failures: who asks knows how long a wait can be.
            limits.failed(&[[1; 16]], Duration::from_mins(1)).await;
            let _ = limits.failures(&[[1; 16]]).await;
            wakes.notify(0, 1);
            longest = longest.max(now.elapsed());
            assert!(began.elapsed() < PATIENCE, "{name}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Five calls, each of which may take 20 ms; a script may take two of them.
        assert!(longest < Duration::from_secs(2), "{name}: {longest:?}");
    }
}

#[tokio::test]
async fn a_liar_from_the_first_word_on_is_never_asked_anything() {
    for hello in [
        b"-ERR no\r\n" as &[u8],
        b"$2147483647\r\n",
        b"+OK\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"",
    ] {
        let liar = Liar::start(move |command, _| match command[0].as_slice() {
            b"HELLO" => Some(hello.to_vec()),
            _ => Some(b"$2\r\nno\r\n".to_vec()),
        })
        .await;
        let redis = Redis::start(Settings {
            rest: Duration::from_millis(10),
            ..settings(&liar.url())
        });
        let (_keys, vault) = vault();
        let answers = Answers::new(redis, vault, LOG);
        for _ in 0..50 {
            assert_eq!(answers.find(NAME).await, None);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
