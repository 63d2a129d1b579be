//! The shop that the load buys in: a seller, buyers with a balance, products with enough stock, all made over REST.

use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::client::{
    http::{Address, Call},
    people::{Credentials, Session, log_in, register, text},
};

/// Hashing a password takes a core for a while, on purpose.
const PASSWORDS_AT_ONCE: usize = 2;

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
    let seller = register(address, &person(wanted, "seller", 0), "Bench", "SELLER").await?.1;
    let products = offer(address, wanted, &seller).await?;
    let mut registrations = JoinSet::new();
    let turns = Arc::new(Semaphore::new(PASSWORDS_AT_ONCE));
    for number in 0..wanted.buyers {
        let (address, buyer, turns) = (address.clone(), person(wanted, "buyer", number), Arc::clone(&turns));
        registrations.spawn(async move {
            let _turn = turns.acquire().await?;
            register(&address, &buyer, "Bench", "BUYER").await
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
            ..Call::post("/api/v1/products", &body)
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
        ..Call::post(&path, &body)
    };
    call.expect(201, address).await.map(drop)
}
