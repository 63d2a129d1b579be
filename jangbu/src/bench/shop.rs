//! The shop that the load buys in: a seller, buyers with a balance, products with enough stock, all made over REST.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet};

use super::http::{Address, Call};

/// Hashing a password takes a core for a while, on purpose.
const PASSWORDS_AT_ONCE: usize = 2;

/// Who logs in, and with what.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) email: String,
    pub(super) password: String,
}

/// Somebody who is logged in.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) access: String,
    pub(super) refresh: String,
    pub(super) expires_in: Duration,
}

/// What the load buys, and who buys it.
pub(super) struct Shop {
    pub(super) buyers: Vec<Session>,
    pub(super) products: Vec<String>,
}

/// What is to be made.
pub(super) struct Wanted<'a> {
    pub(super) run: &'a str,
    pub(super) admin: &'a Credentials,
    pub(super) currency: &'a str,
    pub(super) buyers: u64,
    /// Each buyer's, in the currency's smallest unit.
    pub(super) balance: u64,
    pub(super) products: u64,
    /// Each product's.
    pub(super) stock: u64,
    pub(super) price: u64,
}

/// Makes it.
pub(super) async fn open(address: &Address, wanted: &Wanted<'_>) -> anyhow::Result<Shop> {
    let admin = log_in(address, wanted.admin).await.context("logging in as the administrator")?;
    let seller = register(address, &person(wanted, "seller", 0), "SELLER").await?.1;
    let products = offer(address, wanted, &seller).await?;
    let mut registrations = JoinSet::new();
    let turns = Arc::new(Semaphore::new(PASSWORDS_AT_ONCE));
    for number in 0..wanted.buyers {
        let (address, buyer, turns) = (address.clone(), person(wanted, "buyer", number), Arc::clone(&turns));
        registrations.spawn(async move {
            let _turn = turns.acquire().await?;
            register(&address, &buyer, "BUYER").await
        });
    }
    let mut buyers = Vec::new();
    while let Some(registered) = registrations.join_next().await {
        let (account, buyer) = registered.context("registering a buyer")??;
        if wanted.balance > 0 {
            deposit(address, wanted, &admin, &account).await?;
        }
        buyers.push(buyer);
    }
    Ok(Shop { buyers, products })
}

fn person(wanted: &Wanted<'_>, role: &str, number: u64) -> Credentials {
    Credentials {
        email: format!("{role}-{number}-{}@bench.example", wanted.run),
        password: format!("bench-{}", wanted.run),
    }
}

/// Registers somebody and logs them in.
async fn register(address: &Address, person: &Credentials, role: &str) -> anyhow::Result<(String, Session)> {
    let body = json!({ "email": person.email, "password": person.password, "name": "Bench", "role": role });
    let account = post("/api/v1/accounts", &body).expect(201, address).await?;
    Ok((text(&account, "accountId")?, log_in(address, person).await?))
}

async fn log_in(address: &Address, person: &Credentials) -> anyhow::Result<Session> {
    let body = json!({ "email": person.email, "password": person.password });
    session(&post("/api/v1/auth/login", &body).expect(200, address).await?)
}

/// The same session with new tokens.
pub(super) async fn refresh(address: &Address, old: &Session) -> anyhow::Result<Session> {
    let body = json!({ "refreshToken": old.refresh });
    session(&post("/api/v1/auth/refresh", &body).expect(200, address).await?)
}

fn session(tokens: &Value) -> anyhow::Result<Session> {
    let expires_in = tokens["expiresIn"].as_u64().context("the answer names no expiresIn")?;
    Ok(Session {
        access: text(tokens, "accessToken")?,
        refresh: text(tokens, "refreshToken")?,
        expires_in: Duration::from_secs(expires_in),
    })
}

async fn offer(address: &Address, wanted: &Wanted<'_>, seller: &Session) -> anyhow::Result<Vec<String>> {
    let mut products = Vec::new();
    for number in 0..wanted.products {
        let body = json!({
            "sku": format!("BENCH-{}-{number}", wanted.run),
            "name": format!("Bench product {number}"),
            "price": { "amount": wanted.price, "currency": wanted.currency },
            "stock": { "onHand": wanted.stock },
        });
        let key = format!("{}-product-{number}", wanted.run);
        let call = Call {
            token: Some(&seller.access),
            key: Some(&key),
            ..post("/api/v1/products", &body)
        };
        products.push(text(&call.expect(201, address).await?, "productId")?);
    }
    Ok(products)
}

async fn deposit(address: &Address, wanted: &Wanted<'_>, admin: &Session, account: &str) -> anyhow::Result<()> {
    let body = json!({ "amount": { "amount": wanted.balance, "currency": wanted.currency } });
    let path = format!("/api/v1/accounts/{account}/deposits");
    let key = format!("{}-deposit", wanted.run);
    let call = Call {
        token: Some(&admin.access),
        key: Some(&key),
        ..post(&path, &body)
    };
    call.expect(201, address).await.map(drop)
}

const fn post<'a>(path: &'a str, body: &'a Value) -> Call<'a> {
    Call {
        method: "POST",
        path,
        token: None,
        key: None,
        body: Some(body),
    }
}

fn text(answer: &Value, member: &str) -> anyhow::Result<String> {
    answer[member]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("the answer names no {member}"))
}
