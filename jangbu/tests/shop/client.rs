//! What anybody outside can ask of the shop.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{LOOK, PASSWORD, PATIENCE, eventually};

/// Somebody who is logged in.
#[derive(Clone, Debug)]
pub(crate) struct Token(pub(crate) String);

/// What the shop said.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// Demands this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    /// Demands this status, and a problem with this code.
    #[track_caller]
    pub(crate) fn expect_problem(self, status: u16, code: &str) -> Self {
        self.expect_some_problem(&[status]).expect_code(code)
    }

    /// Demands one of these statuses, and a problem.
    #[track_caller]
    pub(crate) fn expect_some_problem(self, statuses: &[u16]) -> Self {
        assert!(
            statuses.contains(&self.status),
            "{} is not one of {statuses:?}: {}",
            self.status,
            self.body
        );
        let kind = self
            .headers
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        assert!(kind.starts_with("application/problem+json"), "{kind}: {}", self.body);
        for member in ["type", "title", "status", "code", "traceId"] {
            assert!(!self.body[member].is_null(), "no {member}: {}", self.body);
        }
        self
    }

    #[track_caller]
    fn expect_code(self, code: &str) -> Self {
        assert_eq!(self.body["code"], code, "{}", self.body);
        self
    }

    /// A text of the body.
    #[track_caller]
    pub(crate) fn text(&self, member: &str) -> String {
        self.body[member]
            .as_str()
            .unwrap_or_else(|| panic!("no {member}: {}", self.body))
            .to_owned()
    }

    /// The order's id.
    #[track_caller]
    pub(crate) fn order_id(&self) -> String {
        self.text("orderId")
    }

    /// The order's status, with its reason when it failed.
    pub(crate) fn outcome(&self) -> String {
        outcome(&self.body)
    }

    /// Whether it was recorded by an earlier request with the same key.
    pub(crate) fn replayed(&self) -> bool {
        self.headers.get("idempotency-replayed").is_some_and(|value| value == "true")
    }
}

/// An order's status, with its reason when it failed.
pub(crate) fn outcome(order: &Value) -> String {
    let status = order["status"].as_str().unwrap_or("?");
    match order["failure"]["code"].as_str() {
        Some(code) => format!("{status} {code}"),
        None => status.to_owned(),
    }
}

/// How an order is paid.
#[derive(Clone, Copy)]
pub(crate) enum Pay<'a> {
    Balance,
    Card(&'a str),
    CardLater,
}

/// The body of an order for these products. Its address is what nobody may find in the clear later on.
pub(crate) fn order(lines: &[(&str, u32)], pay: Pay<'_>) -> Value {
    let lines: Vec<_> = lines
        .iter()
        .map(|(product, quantity)| json!({ "productId": product, "quantity": quantity }))
        .collect();
    let payment = match pay {
        Pay::Balance => json!({ "method": "BALANCE" }),
        Pay::Card(key) => json!({ "method": "CARD", "paymentKey": key }),
        Pay::CardLater => json!({ "method": "CARD" }),
    };
    let address = json!({ "recipient": "Secret Recipient", "street": "Hidden Street 9", "city": "Seoul", "postalCode": "04524" });
    json!({ "lines": lines, "shippingAddress": address, "payment": payment })
}

/// An amount in the shop's currency.
pub(crate) fn won(amount: i64) -> Value {
    json!({ "amount": amount, "currency": "KRW" })
}

/// A payment key that plays this part in the simulator, and that no other order has.
pub(crate) fn payment_key(part: &str) -> String {
    format!("sim_{part}_{}", Uuid::new_v4().simple())
}

/// Anything that was not used before.
pub(crate) fn fresh_key() -> String {
    Uuid::new_v4().to_string()
}

/// Balance and stock as the views show them: product to (on hand, reserved).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) balance: i64,
    pub(crate) stock: BTreeMap<String, (i64, i64)>,
}

/// Speaks to a shop, wherever it is at the moment.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    address: Arc<RwLock<String>>,
}

impl Client {
    pub(crate) fn new() -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
        Self {
            http,
            address: Arc::default(),
        }
    }

    pub(crate) fn moved_to(&self, address: &str) {
        address.clone_into(&mut self.address.write().expect("nobody panics with it"));
    }

    /// Where the shop listens.
    pub(crate) fn address(&self) -> String {
        self.address.read().expect("nobody panics with it").clone()
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.address()))
    }

    pub(crate) async fn is_ready(&self) -> bool {
        self.request(Method::GET, "/readyz")
            .send()
            .await
            .is_ok_and(|answer| answer.status() == 200)
    }

    /// Sends it once.
    pub(crate) async fn send(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await?;
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
        Ok(Answer { status, headers, body })
    }

    pub(crate) async fn get(&self, token: &Token, path: &str) -> Answer {
        Self::send(self.request(Method::GET, path).bearer_auth(&token.0))
            .await
            .expect("the shop answers")
    }

    /// A command, sent once.
    pub(crate) async fn post(&self, token: &Token, path: &str, body: &Value) -> Answer {
        Self::send(self.command(token, path, &fresh_key(), body))
            .await
            .expect("the shop answers")
    }

    pub(crate) fn command(&self, token: &Token, path: &str, key: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, path)
            .bearer_auth(&token.0)
            .header("idempotency-key", key)
            .json(body)
    }

    /// A command, sent under the same key until there is an answer that lasts: as a client must who wants it done once.
    pub(crate) async fn insist(&self, token: &Token, path: &str, key: &str, body: &Value) -> Answer {
        let begun = Instant::now();
        loop {
            let answer = Self::send(self.command(token, path, key, body)).await;
            match answer {
                Ok(answer) if answer.status != 503 && answer.body["code"] != "request-in-flight" => return answer,
                answer => assert!(begun.elapsed() < PATIENCE, "no answer that lasts: {answer:?}"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(crate) async fn log_in(&self, email: &str) -> Token {
        let body = json!({ "email": email, "password": PASSWORD });
        let request = self.request(Method::POST, "/api/v1/auth/login").json(&body);
        let answer = Self::send(request).await.expect("the shop answers").expect(200);
        Token(answer.text("accessToken"))
    }

    /// A new buyer with this much in the balance: their token and account.
    pub(crate) async fn new_buyer(&self, admin: &Token, balance: i64) -> (Token, String) {
        let email = format!("{}@example.com", Uuid::new_v4().simple());
        let body = json!({ "email": email, "password": PASSWORD, "name": "Private Name", "role": "BUYER" });
        let request = self.request(Method::POST, "/api/v1/accounts").json(&body);
        let account = Self::send(request).await.expect("the shop answers").expect(201).text("accountId");
        if balance > 0 {
            self.post(
                admin,
                &format!("/api/v1/accounts/{account}/deposits"),
                &json!({ "amount": won(balance) }),
            )
            .await
            .expect(201);
        }
        (self.log_in(&email).await, account)
    }

    /// A new product of the seller with this much in stock.
    pub(crate) async fn new_product(&self, seller: &Token, price: i64, on_hand: u32) -> String {
        let sku = format!("T-{}", &Uuid::new_v4().simple().to_string()[..12]);
        let body = json!({ "sku": sku, "name": "Thing", "price": won(price), "stock": { "onHand": on_hand } });
        self.post(seller, "/api/v1/products", &body).await.expect(201).text("productId")
    }

    /// Places an order and says how it stands right after.
    pub(crate) async fn place(&self, token: &Token, body: &Value) -> Answer {
        self.post(token, "/api/v1/orders", body).await.expect(202)
    }

    /// Places an order, and waits until it has settled.
    pub(crate) async fn buy(&self, token: &Token, body: &Value) -> Answer {
        let order = self.place(token, body).await.order_id();
        self.settled(token, &order).await
    }

    /// The order itself, as it is now.
    pub(crate) async fn order(&self, token: &Token, order: &str) -> Answer {
        self.get(token, &format!("/api/v1/orders/{order}")).await.expect(200)
    }

    /// The order stands like this as soon as its goods are promised: that takes messages where other shards keep them.
    pub(crate) async fn stands(&self, token: &Token, order: &str, outcome: &str) {
        let promised = self.order_that(token, order, |status| status != "PLACED").await;
        assert_eq!(promised.outcome(), outcome);
    }

    /// The order, once it has settled.
    pub(crate) async fn settled(&self, token: &Token, order: &str) -> Answer {
        self.order_that(token, order, |status| {
            matches!(
                status,
                "CONFIRMED"
                    | "CANCELLED"
                    | "AWAITING_PAYMENT"
                    | "NEEDS_ATTENTION"
                    | "PREPARING_SHIPMENT"
                    | "SHIPPED"
                    | "DELIVERED"
                    | "REFUNDED"
            )
        })
        .await
    }

    /// The order, once it is paid or has come to nothing.
    pub(crate) async fn ended(&self, token: &Token, order: &str) -> Answer {
        self.order_that(token, order, |status| {
            matches!(status, "CONFIRMED" | "CANCELLED" | "NEEDS_ATTENTION")
        })
        .await
    }

    async fn order_that(&self, token: &Token, order: &str, wanted: impl Fn(&str) -> bool) -> Answer {
        let path = format!("/api/v1/orders/{order}");
        let begun = Instant::now();
        loop {
            // The shop may be down at the moment, or just up.
            let answer = Self::send(self.request(Method::GET, &path).bearer_auth(&token.0)).await;
            if let Ok(answer) = &answer
                && answer.status == 200
                && answer.body["status"].as_str().is_some_and(&wanted)
            {
                return answer.clone();
            }
            assert!(begun.elapsed() < PATIENCE, "order {order} does not get on: {answer:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A question, and the data of its answer.
    pub(crate) async fn ask(&self, token: &Token, query: &str, variables: &Value) -> Value {
        let request = self.request(Method::POST, "/graphql").bearer_auth(&token.0);
        let request = request.json(&json!({ "query": query, "variables": variables }));
        let answer = Self::send(request).await.expect("the shop answers").expect(200);
        assert!(answer.body["errors"].is_null(), "{}", answer.body);
        answer.body["data"].clone()
    }

    /// Waits until the views show the order as it is told here.
    pub(crate) async fn shown(&self, token: &Token, order: &str, outcome: &str) {
        let query = "query ($id: ID!) { order(id: $id) { status failure { code } } }";
        eventually(&format!("the views show that {order} is {outcome}"), async || {
            let data = self.ask(token, query, &json!({ "id": order })).await;
            (self::outcome(&data["order"]) == outcome).then_some(())
        })
        .await;
    }

    /// The asker's balance, and the stock of these products, as the views show them now.
    pub(crate) async fn figures(&self, token: &Token, products: &[&str]) -> Figures {
        eventually("the views know the account and the products", async || {
            let balance = self.ask(token, "{ me { balance { amount } } }", &json!({})).await["me"]["balance"]["amount"].as_i64()?;
            let mut stock = BTreeMap::new();
            for product in products {
                let data = self
                    .ask(
                        token,
                        "query ($id: ID!) { inventory(productId: $id) { onHand reserved } }",
                        &json!({ "id": product }),
                    )
                    .await;
                stock.insert(
                    (*product).to_owned(),
                    (number(&data["inventory"]["onHand"])?, number(&data["inventory"]["reserved"])?),
                );
            }
            Some(Figures { balance, stock })
        })
        .await
    }

    /// The same once nothing of these products is reserved: an order that is cancelled may have ended before other shards have heard that
    /// its goods are free.
    pub(crate) async fn figures_at_rest(&self, token: &Token, products: &[&str]) -> Figures {
        eventually("nothing is reserved any more", async || {
            let figures = self.figures(token, products).await;
            let at_rest = figures.stock.values().all(|(_, reserved)| *reserved == 0);
            at_rest.then_some(figures)
        })
        .await
    }

    /// The payment provider's own ledger of an order: what it took and gave back, in order.
    pub(crate) async fn ledger(&self, order: &str) -> Vec<(String, i64)> {
        let request = self.request(Method::GET, &format!("/simulator/v1/ledger?limit=1000&orderId={order}"));
        let answer = Self::send(request).await.expect("the provider answers").expect(200);
        let entries = answer.body["entries"].as_array().expect("entries").clone();
        let entry = |entry: &Value| {
            (
                entry["kind"].as_str().unwrap_or_default().to_owned(),
                entry["amount"].as_i64().unwrap_or_default(),
            )
        };
        entries.iter().map(entry).collect()
    }

    /// Waits until the provider's ledger of an order is this.
    pub(crate) async fn ledger_is(&self, order: &str, expected: &[(&str, i64)]) {
        let expected: Vec<_> = expected.iter().map(|(kind, amount)| ((*kind).to_owned(), *amount)).collect();
        eventually(&format!("the provider's ledger of {order} is {expected:?}"), async || {
            (self.ledger(order).await == expected).then_some(())
        })
        .await;
    }
}

/// A count may be a number or, beyond 2^53, a text.
fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// A moment that a client waits between two requests of its own.
pub(crate) async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}
