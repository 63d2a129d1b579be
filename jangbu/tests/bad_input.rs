//! What nobody should send, and what should never happen to a disk: a clear answer each time, nothing lost, and the shop goes on.

mod shop;

use std::{fs, path::Path, process::Stdio};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use key_vault::KeyVault;
use reqwest::Method;
use serde_json::{Value, json};
use shop::{
    ADMIN, Answer, BUYER, COFFEE, Client, Pay, SELLER, Shop, Token,
    client::{fresh_key, pause, payment_key, won},
    invariants, order, runs_into,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const ORDERS: &str = "/api/v1/orders";
const NO_ONE: &str = "00000000-0000-4000-8000-000000000000";

impl Shop {
    /// After all that it still sells, and everything holds.
    async fn goes_on(self) -> invariants::Log {
        let buyer = self.client().log_in(BUYER).await;
        let answer = self.client().buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await;
        assert_eq!(answer.outcome(), "CONFIRMED");
        self.close().await
    }
}

/// Sends these bytes as an order.
async fn raw(client: &Client, buyer: &Token, body: impl Into<reqwest::Body>) -> Answer {
    let request = client
        .request(Method::POST, ORDERS)
        .bearer_auth(&buyer.0)
        .header("idempotency-key", fresh_key());
    Client::send(request.header("content-type", "application/json").body(body))
        .await
        .expect("the shop answers")
}

/// An order of one coffee in which one member is something else.
fn with(pointer: &str, value: Value) -> Value {
    let mut body = order(&[(COFFEE, 1)], Pay::Balance);
    let (parent, member) = pointer.rsplit_once('/').expect("a pointer");
    let parent = body.pointer_mut(parent).expect("the parent is there");
    match parent {
        Value::Array(members) => members[member.parse::<usize>().expect("an index")] = value,
        parent => parent[member] = value,
    }
    body
}

#[tokio::test]
async fn what_cannot_be_read_is_refused() {
    let shop = Shop::open(&[]).await;
    let (client, buyer) = (shop.client(), shop.client().log_in(BUYER).await);
    let good = order(&[(COFFEE, 1)], Pay::Balance).to_string();
    let deep = "[".repeat(100_000);
    let bodies: [(&str, Vec<u8>); 10] = [
        ("nothing", Vec::new()),
        ("half of it", good.as_bytes()[..good.len() / 2].to_vec()),
        ("more than it", format!("{good} {good}").into_bytes()),
        ("no JSON", b"lines=coffee".to_vec()),
        ("no object", b"[1, 2, 3]".to_vec()),
        ("too deep", deep.into_bytes()),
        (
            "no UTF-8",
            good.replace("Seoul", "\u{7}")
                .replace('\u{7}', "X")
                .into_bytes()
                .into_iter()
                .map(|byte| if byte == b'X' { 0xff } else { byte })
                .collect(),
        ),
        ("half a character", good.replace("Seoul", "\\ud800").into_bytes()),
        ("a control character", good.replace("Seoul", "Se\\u0000oul").into_bytes()),
        (
            "a member twice",
            good.replacen(
                '{',
                "{\"total\":{\"amount\":1,\"currency\":\"KRW\"},\"total\":{\"amount\":1,\"currency\":\"KRW\"},",
                1,
            )
            .into_bytes(),
        ),
    ];
    for (what, body) in bodies {
        println!("{what}");
        raw(client, &buyer, body).await.expect_some_problem(&[400]);
    }
    let request = client
        .request(Method::POST, ORDERS)
        .bearer_auth(&buyer.0)
        .header("idempotency-key", fresh_key())
        .body(good.clone());
    Client::send(request)
        .await
        .expect("the shop answers")
        .expect_problem(415, "unsupported-media-type");
    let request = client
        .request(Method::POST, ORDERS)
        .bearer_auth(&buyer.0)
        .header("content-type", "application/json")
        .body(good);
    Client::send(request)
        .await
        .expect("the shop answers")
        .expect_problem(400, "idempotency-key-required");
    let log = shop.goes_on().await;
    assert_eq!(log.orders.len(), 1);
}

#[tokio::test]
async fn what_is_no_order_is_refused() {
    let shop = Shop::open(&[]).await;
    let (client, buyer) = (shop.client(), shop.client().log_in(BUYER).await);
    let line = json!({ "productId": COFFEE, "quantity": 1 });
    let bodies = [
        with("/quantity", json!(1)),
        with("/lines/0/discount", json!(1)),
        with("/lines/0/quantity", json!(0)),
        with("/lines/0/quantity", json!(-1)),
        with("/lines/0/quantity", json!(1.5)),
        with("/lines/0/quantity", json!("1")),
        with("/lines/0/quantity", json!(null)),
        with("/lines/0/quantity", json!(1_000_001)),
        with("/lines/0/quantity", json!(u64::MAX)),
        with("/lines/0/quantity", json!(1e300)),
        with("/lines/0/productId", json!("coffee")),
        with("/lines/0/productId", json!(NO_ONE)),
        with("/lines/0/unitPrice", won(-1)),
        with("/lines/0/unitPrice", won(1 << 53)),
        with("/lines/0/unitPrice", json!(5000)),
        with("/lines/0/unitPrice", json!({ "amount": 5000, "currency": "USD" })),
        with("/lines/0/unitPrice", json!({ "amount": 5000, "currency": "???" })),
        with("/lines/0/unitPrice", json!({ "amount": 5000.5, "currency": "KRW" })),
        with("/total", won(i64::MAX)),
        with("/lines", json!([])),
        with("/lines", json!(vec![line.clone(); 2])),
        with("/lines", json!(vec![line; 101])),
        with("/lines", json!({})),
        with("/payment/method", json!("GOLD")),
        with("/payment/paymentKey", json!("sim_ok_1")),
        with("/shippingAddress", json!(null)),
        with("/shippingAddress/street", json!("x".repeat(10_000))),
        with("/shippingAddress/recipient", json!("")),
    ];
    for body in bodies {
        let answer = client.post(&buyer, ORDERS, &body).await;
        println!("{} {}", answer.status, answer.body);
        let answer = answer.expect_some_problem(&[400, 422]);
        assert!(
            !answer.body.to_string().contains("Hidden Street"),
            "a problem repeats nothing personal: {}",
            answer.body
        );
        let words = answer.body["errors"].to_string();
        assert!(
            !words.contains("struct ") && !words.contains("i64"),
            "a problem speaks of JSON: {words}"
        );
    }
    // A price times a quantity that nobody can count.
    let mut body = with("/lines/0/quantity", json!(1_000_000));
    body["lines"][0]["unitPrice"] = won((1 << 53) - 1);
    client.post(&buyer, ORDERS, &body).await.expect_some_problem(&[422]);

    let (admin, seller) = (client.log_in(ADMIN).await, client.log_in(SELLER).await);
    let me = client.ask(&buyer, "{ me { id } }", &json!({})).await["me"]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    for amount in [
        won(0),
        won(-5),
        won(1 << 53),
        won((1 << 53) - 1),
        json!(5),
        json!({ "amount": 1, "currency": "EUR" }),
    ] {
        let path = format!("/api/v1/accounts/{me}/deposits");
        client
            .post(&admin, &path, &json!({ "amount": amount }))
            .await
            .expect_some_problem(&[400, 422]);
    }
    for quantity in [
        json!(0),
        json!(-1),
        json!(1_u64 << 53),
        json!(u64::MAX),
        json!("7"),
        json!(1e30),
        json!((1_u64 << 53) - 1),
    ] {
        let path = format!("/api/v1/products/{COFFEE}/stock/receipts");
        client
            .post(&seller, &path, &json!({ "quantity": quantity }))
            .await
            .expect_some_problem(&[400, 422]);
    }
    for (delta, statuses) in [
        (json!(0), [400, 422]),
        (json!(-1001), [409, 409]),
        (json!(i64::MIN), [400, 422]),
        (json!(i64::MAX), [400, 422]),
    ] {
        let path = format!("/api/v1/products/{COFFEE}/stock/adjustments");
        client
            .post(&seller, &path, &json!({ "delta": delta, "reason": "counted" }))
            .await
            .expect_some_problem(&statuses);
    }
    let log = shop.goes_on().await;
    assert_eq!((log.orders.len(), log.stocks[COFFEE].on_hand), (1, 999));
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let shop = Shop::open(&[]).await;
    let (client, buyer) = (shop.client(), shop.client().log_in(BUYER).await);
    let lines: Vec<_> = (0..10_000)
        .map(|_| json!({ "productId": uuid::Uuid::new_v4(), "quantity": 1 }))
        .collect();
    raw(client, &buyer, with("/lines", json!(lines)).to_string())
        .await
        .expect_problem(413, "body-too-large");
    let large = with("/shippingAddress/street", json!("x".repeat(10 * 1024 * 1024))).to_string();
    raw(client, &buyer, large.clone()).await.expect_problem(413, "body-too-large");
    // The same without saying beforehand how large it is.
    let said = send_in_chunks(&client.address(), &buyer, large.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    let request = client
        .request(Method::POST, "/graphql")
        .bearer_auth(&buyer.0)
        .header("content-type", "application/json");
    let question = json!({ "query": format!("{{ me {{ id }} }} # {}", "x".repeat(10 * 1024 * 1024)) }).to_string();
    let answer = Client::send(request.body(question)).await;
    assert!(
        answer.is_err() || answer.is_ok_and(|answer| answer.status == 413),
        "a question of 10 MB is refused"
    );
    shop.goes_on().await;
}

/// An order in pieces; what was said to it.
async fn send_in_chunks(address: &str, buyer: &Token, body: &[u8]) -> String {
    let connection = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let (mut read, mut write) = connection.into_split();
    let head = format!(
        "POST {ORDERS} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\nidempotency-key: {}\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        buyer.0,
        fresh_key()
    );
    write.write_all(head.as_bytes()).await.expect("the head is sent");
    for piece in body.chunks(64 * 1024) {
        let piece = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        // Nobody has to take all of it.
        if write.write_all(&piece).await.is_err() {
            break;
        }
    }
    let _ = write.write_all(b"0\r\n\r\n").await;
    let mut said = Vec::new();
    let _ = read.read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let shop = Shop::open(&[]).await;
    let client = shop.client();
    let (buyer, seller, admin) = (client.log_in(BUYER).await, client.log_in(SELLER).await, client.log_in(ADMIN).await);
    for id in [NO_ONE, "no-uuid", "%00", "..%2f..%2fetc"] {
        client
            .get(&buyer, &format!("/api/v1/orders/{id}"))
            .await
            .expect_some_problem(&[400, 404]);
        let pay = json!({ "paymentKey": "sim_ok_x", "amount": won(1) });
        client
            .post(&buyer, &format!("/api/v1/orders/{id}/payment"), &pay)
            .await
            .expect_some_problem(&[400, 404]);
        client
            .post(&buyer, &format!("/api/v1/orders/{id}/cancellation"), &json!({ "reason": "?" }))
            .await
            .expect_some_problem(&[400, 404]);
        client
            .post(&seller, &format!("/api/v1/products/{id}/stock/receipts"), &json!({ "quantity": 1 }))
            .await
            .expect_some_problem(&[400, 404]);
        client
            .post(&admin, &format!("/api/v1/accounts/{id}/deposits"), &json!({ "amount": won(1) }))
            .await
            .expect_some_problem(&[400, 404]);
    }
    client.get(&buyer, "/api/v1/nothing").await.expect_some_problem(&[404]);
    let answer = client
        .ask(
            &buyer,
            "query ($id: ID!) { order(id: $id) { id } product(id: $id) { id } }",
            &json!({ "id": NO_ONE }),
        )
        .await;
    assert_eq!(answer, json!({ "order": null, "product": null }));
    shop.goes_on().await;
}

#[tokio::test]
async fn another_s_order_is_as_if_it_were_not_there() {
    let shop = Shop::open(&[]).await;
    let client = shop.client();
    let (buyer, admin) = (client.log_in(BUYER).await, client.log_in(ADMIN).await);
    let (stranger, _) = client.new_buyer(&admin, 0).await;
    let order = client.place(&buyer, &order(&[(COFFEE, 1)], Pay::CardLater)).await.order_id();
    client.shown(&buyer, &order, "AWAITING_PAYMENT").await;

    let path = format!("/api/v1/orders/{order}");
    client.get(&stranger, &path).await.expect_some_problem(&[403, 404]);
    client
        .post(&stranger, &format!("{path}/cancellation"), &json!({ "reason": "mischief" }))
        .await
        .expect_some_problem(&[403, 404]);
    let pay = json!({ "paymentKey": "sim_ok_stranger", "amount": won(5_000) });
    client
        .post(&stranger, &format!("{path}/payment"), &pay)
        .await
        .expect_some_problem(&[403, 404]);
    let seen = client
        .ask(&stranger, "query ($id: ID!) { order(id: $id) { id } }", &json!({ "id": order }))
        .await;
    assert_eq!(seen["order"], Value::Null);
    // A buyer neither receives goods nor fills a balance.
    client
        .post(
            &stranger,
            &format!("/api/v1/products/{COFFEE}/stock/receipts"),
            &json!({ "quantity": 1 }),
        )
        .await
        .expect_some_problem(&[403]);
    client
        .post(
            &stranger,
            &format!("/api/v1/accounts/{NO_ONE}/deposits"),
            &json!({ "amount": won(1) }),
        )
        .await
        .expect_some_problem(&[403, 404]);
    assert_eq!(client.order(&buyer, &order).await.outcome(), "AWAITING_PAYMENT");
    shop.goes_on().await;
}

#[tokio::test]
async fn a_token_that_is_forged_altered_or_expired_opens_nothing() {
    let shop = Shop::open(&[]).await;
    let client = shop.client();
    let real = client.log_in(BUYER).await;
    let [header, payload, signature] = real.0.split('.').collect::<Vec<_>>()[..] else {
        panic!("a JWT has three parts")
    };
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64")).expect("JSON");
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let with_claim = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        claims
    };
    let vault = KeyVault::open_existing(&shop.data().join("keys")).expect("the shop's keys");
    let key = vault.token_keys().current().kid().to_owned();
    let sign = |vault: &KeyVault, claims: &Value| {
        let mut header = Header::new(Algorithm::EdDSA);
        (header.typ, header.kid) = (Some("at+jwt".to_owned()), Some(key.clone()));
        let secret = EncodingKey::from_ed_der(&vault.token_keys().current().private_der());
        jsonwebtoken::encode(&header, claims, &secret).expect("a token")
    };
    let stranger = tempfile::tempdir().expect("a scratch directory");
    let other_keys = KeyVault::open(stranger.path()).expect("keys of another shop");

    let admin = with_claim("role", json!("ADMIN"));
    let none = encode(&json!({ "alg": "none", "typ": "at+jwt", "kid": key }));
    let forged = [
        String::new(),
        "not-a-token".to_owned(),
        format!("{header}.{}.{signature}", encode(&admin)),
        format!("{none}.{}.", encode(&admin)),
        format!("{header}.{payload}."),
        format!("{header}.{payload}.{}", signature.chars().rev().collect::<String>()),
        sign(&other_keys, &admin),
        sign(&vault, &with_claim("iss", json!("somebody"))),
        sign(&vault, &with_claim("aud", json!("something"))),
        "x".repeat(7_000),
    ];
    let coffee = order(&[(COFFEE, 1)], Pay::Balance);
    for token in forged {
        client
            .post(&Token(token.clone()), ORDERS, &coffee)
            .await
            .expect_some_problem(&[401]);
        let request = client
            .request(Method::POST, "/graphql")
            .bearer_auth(&token)
            .json(&json!({ "query": "{ me { id } }" }));
        assert_eq!(Client::send(request).await.expect("the shop answers").status, 401, "{token}");
    }
    let expired = Token(sign(&vault, &with_claim("exp", json!(1_700_000_000))));
    client.post(&expired, ORDERS, &coffee).await.expect_problem(401, "expired-token");
    // The same by the shop's key and in time is believed: so it was the forgery that was refused.
    client.post(&Token(sign(&vault, &claims)), ORDERS, &coffee).await.expect(202);
    let request = client
        .request(Method::POST, ORDERS)
        .header("idempotency-key", fresh_key())
        .json(&coffee);
    Client::send(request)
        .await
        .expect("the shop answers")
        .expect_problem(401, "unauthenticated");
    let log = shop.goes_on().await;
    assert_eq!(log.orders.len(), 2);
}

#[tokio::test]
async fn what_is_not_even_http_ends_its_own_connection_alone() {
    let shop = Shop::open(&[]).await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"POST /api/v1/orders HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        &[0; 4096],
    ] {
        let mut connection = tokio::net::TcpStream::connect(shop.client().address()).await.expect("a connection");
        connection.write_all(bytes).await.expect("it is sent");
        connection.shutdown().await.expect("nothing more comes");
        let mut said = Vec::new();
        // It says that it does not understand, or hangs up.
        let _ = connection.read_to_end(&mut said).await;
        assert!(
            said.is_empty() || said.starts_with(b"HTTP/1.1 4"),
            "{}",
            String::from_utf8_lossy(&said)
        );
    }
    shop.goes_on().await;
}

#[tokio::test]
async fn a_key_is_good_for_one_request() {
    let shop = Shop::open(&[]).await;
    let (client, buyer) = (shop.client(), shop.client().log_in(BUYER).await);
    let (key, coffee) = (fresh_key(), order(&[(COFFEE, 1)], Pay::Balance));
    let first = client.insist(&buyer, ORDERS, &key, &coffee).await.expect(202);
    let again = client.insist(&buyer, ORDERS, &key, &coffee).await.expect(202);
    assert!(again.replayed() && !first.replayed());
    assert_eq!(first.body, again.body);
    client
        .insist(&buyer, ORDERS, &key, &order(&[(COFFEE, 2)], Pay::Balance))
        .await
        .expect_problem(422, "idempotency-key-reused");
    let log = shop.goes_on().await;
    assert_eq!(log.orders.len(), 2);
}

/// A data directory in which somebody has bought something, without its shop.
async fn left_behind() -> (tempfile::TempDir, std::path::PathBuf) {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    let inner = tempfile::tempdir().expect("a scratch directory");
    let shop = Shop::open_in(inner, data.clone(), &[]).await;
    shop.goes_on().await;
    // All of the log in its one file.
    let log = rusqlite::Connection::open(data.join("log.db")).expect("the log");
    log.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .expect("it is copied");
    log.close().expect("it is closed");
    (scratch, data)
}

/// The shop does not start on this, says why in few words that name the file, and leaves it as it is.
async fn is_refused(scratch: &Path, data: &Path, file: &str, word: &str) {
    let before = fs::read(data.join(file)).expect("the file");
    let (status, said) = runs_into(scratch, data, "127.0.0.1:0").await;
    assert!(!status.success(), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(
        said.contains(file) && said.contains(word),
        "names {file} and says {word:?}:\n{said}"
    );
    assert!(fs::read(data.join(file)).expect("the file") == before, "{file} is left as it was");
}

#[tokio::test]
async fn a_log_that_is_garbage_is_refused_and_left_as_it_is() {
    let (scratch, data) = left_behind().await;
    let log = data.join("log.db");
    let good = fs::read(&log).expect("the log");
    // Overwritten from end to end.
    let garbage: Vec<u8> = (0..good.len()).map(|index| (index * 31 % 251).to_le_bytes()[0]).collect();
    fs::write(&log, garbage).expect("it is overwritten");
    is_refused(scratch.path(), &data, "log.db", "not a SQLite file").await;
    // Only its inside.
    let mut torn = good.clone();
    for byte in &mut torn[4096..] {
        *byte = 0x5a;
    }
    fs::write(&log, &torn).expect("it is overwritten");
    is_refused(scratch.path(), &data, "log.db", "").await;
    // Cut off.
    fs::write(&log, &good[..7]).expect("it is cut off");
    is_refused(scratch.path(), &data, "log.db", "cut off").await;
    // With what was there before it goes on.
    fs::write(&log, &good).expect("it is put back");
    Shop::open_in(scratch, data, &[]).await.goes_on().await;
}

#[tokio::test]
async fn a_database_of_another_program_is_refused_and_left_as_it_is() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    fs::create_dir(&data).expect("a data directory");
    let other = rusqlite::Connection::open(data.join("log.db")).expect("a database");
    other
        .execute_batch("CREATE TABLE recipes (name TEXT); INSERT INTO recipes VALUES ('soup')")
        .expect("a table");
    other.close().expect("it is closed");
    is_refused(scratch.path(), &data, "log.db", "another program").await;
}

#[tokio::test]
async fn a_log_of_a_newer_version_is_refused_and_left_as_it_is() {
    let (scratch, data) = left_behind().await;
    let log = rusqlite::Connection::open(data.join("log.db")).expect("the log");
    log.pragma_update(None, "user_version", 4_711).expect("it is marked");
    log.close().expect("it is closed");
    is_refused(scratch.path(), &data, "log.db", "newer").await;
}

#[tokio::test]
async fn a_second_shop_on_the_same_data_or_port_does_not_start_and_the_first_goes_on() {
    let shop = Shop::open(&[]).await;
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let (status, said) = runs_into(scratch.path(), shop.data(), "127.0.0.1:0").await;
    assert!(!status.success() && !said.contains("panicked"), "{said}");
    assert!(said.contains("another process"), "says that the data is in use:\n{said}");
    let (status, said) = runs_into(scratch.path(), &scratch.path().join("data"), &shop.client().address()).await;
    assert!(!status.success() && !said.contains("panicked"), "{said}");
    assert!(said.contains(&shop.client().address()), "names the address that is in use:\n{said}");
    shop.goes_on().await;
}

/// A file system of its own, for as long as this lives.
struct SmallDisk {
    scratch: tempfile::TempDir,
}

impl SmallDisk {
    /// None, with the reason printed, when this user may not mount one.
    fn mount(size: &str) -> Option<Self> {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "jangbu-test"])
            .arg(scratch.path())
            .stderr(Stdio::piped());
        let reason = match mount.output() {
            Ok(output) if output.status.success() => return Some(Self { scratch }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        println!("skipped: a small disk cannot be mounted: {}", reason.trim());
        None
    }

    fn path(&self) -> &Path {
        self.scratch.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a test that failed may have left something open.
        let unmounted = std::process::Command::new("umount").arg("-l").arg(self.scratch.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.scratch.path().display());
        }
    }
}

#[tokio::test]
async fn on_a_disk_that_is_full_nothing_is_lost_and_with_room_again_the_shop_goes_on() {
    let Some(disk) = SmallDisk::mount("24m") else { return };
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let shop = Shop::open_in(scratch, disk.path().join("data"), &[("JANGBU_PAYMENT__TIMEOUT", "1s")]).await;
    let client = shop.client();
    let buyer = client.log_in(BUYER).await;
    let coffee = order(&[(COFFEE, 1)], Pay::Balance);
    let mut acknowledged = Vec::new();
    for _ in 0..20 {
        acknowledged.push(client.place(&buyer, &coffee).await.order_id());
    }
    // The provider takes its money, and its answer will be missed while nothing can be recorded.
    let by_card = order(&[(COFFEE, 1)], Pay::Card(&payment_key("lost_applied")));
    let by_card = client.place(&buyer, &by_card).await.order_id();
    acknowledged.push(by_card.clone());
    client.ledger_is(&by_card, &[("CHARGE", 5_000)]).await;

    let ballast = disk.path().join("ballast");
    fill(&ballast);
    let refused = loop {
        let key = fresh_key();
        let answer = Client::send(client.command(&buyer, ORDERS, &key, &coffee))
            .await
            .expect("the shop answers");
        // What the files have room for already is still taken.
        match answer.status {
            202 => acknowledged.push(answer.order_id()),
            _ => break (key, answer),
        }
        assert!(acknowledged.len() < 20_000, "the disk is never full");
        fill(&ballast);
    };
    let (key, answer) = refused;
    let answer = answer.expect_problem(503, "unavailable");
    assert!(answer.headers.contains_key("retry-after"));
    // It lives, shows what it has, and refuses whoever comes at once.
    let alive = Client::send(client.request(Method::GET, "/livez")).await.expect("the shop answers");
    assert_eq!(alive.status, 200);
    for order in &acknowledged {
        client.order(&buyer, order).await;
    }
    let mut keys = vec![key];
    for _ in 0..20 {
        let key = fresh_key();
        let answer = Client::send(client.command(&buyer, ORDERS, &key, &coffee))
            .await
            .expect("the shop answers");
        answer.expect_problem(503, "unavailable");
        keys.push(key);
    }
    // Longer than the provider has to answer: that it did not cannot be recorded either.
    pause(1_500).await;

    fs::remove_file(&ballast).expect("the ballast is thrown off");
    for key in &keys {
        let answer = client.insist(&buyer, ORDERS, key, &coffee).await.expect(202);
        assert!(!answer.replayed(), "what was refused left no record");
        acknowledged.push(answer.order_id());
    }
    for order in &acknowledged {
        assert_eq!(client.ended(&buyer, order).await.outcome(), "CONFIRMED");
        client.shown(&buyer, order, "CONFIRMED").await;
    }
    client.ledger_is(&by_card, &[("CHARGE", 5_000)]).await;
    let lines = shop.output().lines().count();
    assert!(lines < 1_000, "a full disk is told {lines} times");
    let log = shop.close().await;
    assert!(
        acknowledged.iter().all(|order| log.orders.contains_key(order)),
        "what was acknowledged is there"
    );
    assert_eq!(log.orders.len(), acknowledged.len(), "what was refused is not");
}

/// Writes until there is no room.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("a file");
    for size in [64 * 1024, 4 * 1024, 1] {
        let block = vec![0; size];
        while file.write_all(&block).is_ok() {}
    }
}
