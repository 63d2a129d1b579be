//! The shop that is attacked, and the people of the attack: a seller, buyers, the administrator.
//!
//! Stock and balances are read where they are never stale: from the shop's answer to a receipt of one unit and to a deposit of one.

use std::{
    io,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    MOST_AT_ONCE,
    check::{Ledger, Order},
    volley::{Landed, Volley},
};
use crate::client::{
    http::{Address, Call, Connection},
    people::{self, Credentials, Session, text},
};

/// How long the shop may take to give an answer that lasts.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an order may take to settle.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(5);
/// More than the ledger holds of any one order.
const LEDGER_PAGE: u32 = 1_000;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Admin,
    Seller,
    Buyer(usize),
}

/// A call of the attack.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) who: Who,
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) key: Option<String>,
    pub(super) body: Option<Value>,
}

/// An answer that lasts.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Value,
    pub(super) at: Instant,
    /// The shop said that a request with this key was still on its way.
    pub(super) in_flight: bool,
}

impl Reply {
    pub(super) fn accepted(&self) -> bool {
        (200..300).contains(&self.status)
    }

    fn lasts(&self) -> bool {
        !matches!(self.status, 429 | 503) && !self.is_in_flight()
    }

    fn is_in_flight(&self) -> bool {
        self.status == 409 && self.body["code"] == "request-in-flight"
    }
}

struct Person {
    session: Session,
    since: Instant,
}

impl Person {
    fn new(session: Session) -> Self {
        let since = Instant::now();
        Self { session, since }
    }
}

pub(super) struct Buyer {
    person: Person,
    pub(super) account: String,
    /// As it was when it was last looked at.
    pub(super) balance: i64,
}

/// A shop as the attack sees it.
pub(super) struct Shop {
    address: Address,
    currency: String,
    admin: Person,
    seller: Person,
    buyers: Vec<Buyer>,
    connection: Option<Connection>,
    volley: Volley,
    ledger: bool,
    /// All that this run makes is named after it.
    run: String,
    named: u64,
}

impl Shop {
    /// Logs in as the administrator and makes the others.
    pub(super) async fn enter(address: &Address, admin: &Credentials, currency: &str) -> anyhow::Result<Self> {
        let run = Uuid::new_v4().simple().to_string()[..12].to_owned();
        let admin = people::log_in(address, admin).await.context("logging in as the administrator")?;
        let person = |role: &str| Credentials {
            email: format!("{role}-{run}@attack.example"),
            password: format!("attack-{run}"),
        };
        let (_, seller) = people::register(address, &person("seller"), "Attack", "SELLER").await?;
        let mut buyers = Vec::new();
        for number in 0..MOST_AT_ONCE {
            let (account, session) = people::register(address, &person(&format!("buyer-{number}")), "Attack", "BUYER").await?;
            buyers.push(Buyer {
                person: Person::new(session),
                account,
                balance: 0,
            });
        }
        let ledger = Call::get("/simulator/v1/ledger?limit=1").send(address).await?.0 == 200;
        Ok(Self {
            address: address.clone(),
            currency: currency.to_owned(),
            admin: Person::new(admin),
            seller: Person::new(seller),
            buyers,
            connection: None,
            volley: Volley::default(),
            ledger,
            run,
            named: 0,
        })
    }

    /// Whether the payment provider's ledger can be read.
    pub(super) fn ledger(&self) -> bool {
        self.ledger
    }

    pub(super) fn buyer(&self, number: usize) -> &Buyer {
        &self.buyers[number]
    }

    /// An amount in the shop's currency.
    pub(super) fn money(&self, amount: i64) -> Value {
        json!({ "amount": amount, "currency": self.currency })
    }

    /// A name that nothing else of this run has.
    pub(super) fn fresh(&mut self) -> String {
        self.named += 1;
        format!("{}-{:06}", self.run, self.named)
    }

    /// Keeps everybody logged in.
    pub(super) async fn stay(&mut self) -> anyhow::Result<()> {
        let address = self.address.clone();
        let buyers = self.buyers.iter_mut().map(|buyer| &mut buyer.person);
        for person in buyers.chain([&mut self.admin, &mut self.seller]) {
            if person.since.elapsed() > person.session.expires_in / 2 {
                *person = Person::new(people::refresh(&address, &person.session).await.context("staying logged in")?);
            }
        }
        Ok(())
    }

    /// Offers a product: its id.
    pub(super) async fn offer(&mut self, price: i64, units: i64) -> anyhow::Result<String> {
        let key = self.fresh();
        let body = json!({
            "sku": format!("ATTACK-{key}"),
            "name": "Contested",
            "price": self.money(price),
            "stock": { "onHand": units },
        });
        let reply = self.demand(Who::Seller, "/api/v1/products".to_owned(), body).await?;
        text(&reply, "productId")
    }

    /// Takes the product off the shelf, so that an attack leaves nothing that is offered.
    pub(super) async fn clear(&mut self, product: &str) -> anyhow::Result<()> {
        let request = self.retirement(product);
        self.insist(&request).await.map(drop)
    }

    pub(super) fn retirement(&mut self, product: &str) -> Request {
        Request {
            who: Who::Seller,
            method: "DELETE",
            path: format!("/api/v1/products/{product}"),
            key: Some(self.fresh()),
            body: None,
        }
    }

    /// A command with a key of its own.
    pub(super) fn command(&mut self, who: Who, path: String, body: Value) -> Request {
        Request {
            who,
            method: "POST",
            path,
            key: Some(self.fresh()),
            body: Some(body),
        }
    }

    pub(super) fn deposit(&mut self, buyer: usize, amount: i64) -> Request {
        let path = format!("/api/v1/accounts/{}/deposits", self.buyers[buyer].account);
        let body = json!({ "amount": self.money(amount) });
        self.command(Who::Admin, path, body)
    }

    /// Sees to it that the buyer has at least this much.
    pub(super) async fn fill(&mut self, buyer: usize, wanted: i64) -> anyhow::Result<()> {
        let missing = wanted - self.buyers[buyer].balance;
        if missing > 0 {
            self.put_in(buyer, missing).await?;
        }
        Ok(())
    }

    /// The buyer's balance, with the one unit of money that asking adds.
    pub(super) async fn ask_balance(&mut self, buyer: usize) -> anyhow::Result<i64> {
        self.put_in(buyer, 1).await
    }

    async fn put_in(&mut self, buyer: usize, amount: i64) -> anyhow::Result<i64> {
        let request = self.deposit(buyer, amount);
        let reply = self.demanded(&request).await?;
        let balance = reply["balance"]["amount"].as_i64();
        let balance = balance.context("the answer to a deposit names no balance")?;
        self.buyers[buyer].balance = balance;
        Ok(balance)
    }

    pub(super) fn receipt(&mut self, product: &str, quantity: i64) -> Request {
        let path = format!("/api/v1/products/{product}/stock/receipts");
        self.command(Who::Seller, path, json!({ "quantity": quantity }))
    }

    /// What is on hand, with the one unit that asking adds, and what is reserved.
    pub(super) async fn ask_stock(&mut self, product: &str) -> anyhow::Result<(i64, i64)> {
        let request = self.receipt(product, 1);
        let reply = self.demanded(&request).await?;
        let figure = |member: &str| {
            reply[member]
                .as_i64()
                .with_context(|| format!("the answer to a receipt names no {member}"))
        };
        Ok((figure("onHand")?, figure("reserved")?))
    }

    /// Places an order for one or more units that is to be paid by card later, and waits until it waits for that.
    pub(super) async fn reserve(&mut self, buyer: usize, product: &str, quantity: i64) -> anyhow::Result<String> {
        let body = order(product, quantity, None, &json!({ "method": "CARD" }));
        let reply = self.demand(Who::Buyer(buyer), "/api/v1/orders".to_owned(), body).await?;
        let order = text(&reply, "orderId")?;
        let shown = self.settled(buyer, &order).await?;
        let status = shown["status"].as_str().unwrap_or("?");
        anyhow::ensure!(
            status == "AWAITING_PAYMENT",
            "order {order} does not wait for its payment, it is {status}"
        );
        Ok(order)
    }

    /// The order as its buyer sees it, once it has settled or does not in time.
    pub(super) async fn settled(&mut self, buyer: usize, order: &str) -> anyhow::Result<Value> {
        let request = Request {
            who: Who::Buyer(buyer),
            method: "GET",
            path: format!("/api/v1/orders/{order}"),
            key: None,
            body: None,
        };
        let begun = Instant::now();
        loop {
            let reply = self.insist(&request).await?;
            anyhow::ensure!(
                reply.status == 200,
                "GET {} was answered {}: {}",
                request.path,
                reply.status,
                reply.body
            );
            let on_its_way = matches!(reply.body["status"].as_str(), Some("PLACED" | "PAYMENT_PENDING" | "CANCELLING"));
            if !on_its_way || begun.elapsed() > SETTLES_WITHIN {
                return Ok(reply.body);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The order and what the provider booked for it.
    pub(super) async fn order(&mut self, buyer: usize, id: &str, stated: Option<i64>) -> anyhow::Result<Order> {
        let shown = self.settled(buyer, id).await?;
        let figure = |value: &Value| value.as_i64().with_context(|| format!("order {id} lacks a figure: {shown}"));
        let line = &shown["lines"][0];
        Ok(Order {
            id: id.to_owned(),
            account: self.buyers[buyer].account.clone(),
            balance: shown["payment"]["method"] == "BALANCE",
            status: text(&shown, "status")?,
            failure: shown["failure"]["code"].as_str().map(str::to_owned),
            quantity: figure(&line["quantity"])?,
            unit_price: figure(&line["unitPrice"]["amount"])?,
            total: figure(&shown["total"]["amount"])?,
            stated,
            ledger: self.booked(id).await?,
        })
    }

    async fn booked(&mut self, order: &str) -> anyhow::Result<Option<Ledger>> {
        if !self.ledger {
            return Ok(None);
        }
        let path = format!("/simulator/v1/ledger?limit={LEDGER_PAGE}&orderId={order}");
        let bytes = Call::get(&path).write(&self.address, false);
        let page = self.repeat("GET", &path, &bytes).await?.body;
        let entries = page["entries"].as_array().context("the provider's ledger has no entries")?;
        let mut ledger = Ledger::default();
        for entry in entries {
            let amount = entry["amount"]
                .as_i64()
                .context("an entry of the provider's ledger has no amount")?;
            if entry["kind"] == "CHARGE" {
                ledger.charges += 1;
                ledger.net = ledger.net.saturating_add(amount);
            } else {
                ledger.net = ledger.net.saturating_sub(amount);
            }
        }
        Ok(Some(ledger))
    }

    /// Sends these together, each so much later than the first; then, one by one, again what had no answer that lasts.
    pub(super) async fn fire(&mut self, requests: &[(Request, Duration)]) -> anyhow::Result<Vec<Reply>> {
        let calls = requests.iter().map(|(request, delay)| (self.write(request), *delay)).collect();
        let address = self.address.clone();
        let landed = self.volley.fire(&address, calls).await?;
        let mut replies = Vec::with_capacity(landed.len());
        for ((request, _), landed) in requests.iter().zip(landed) {
            let reply = landed.map(reply);
            replies.push(match reply {
                Some(reply) if reply.lasts() => reply,
                first => {
                    let in_flight = first.is_some_and(|first| first.is_in_flight());
                    let again = self.insist(request).await?;
                    Reply { in_flight, ..again }
                }
            });
        }
        Ok(replies)
    }

    async fn demand(&mut self, who: Who, path: String, body: Value) -> anyhow::Result<Value> {
        let request = self.command(who, path, body);
        self.demanded(&request).await
    }

    /// The body of a call that has to be accepted.
    async fn demanded(&mut self, request: &Request) -> anyhow::Result<Value> {
        let reply = self.insist(request).await?;
        if !reply.accepted() {
            bail!("{} {} was answered {}: {}", request.method, request.path, reply.status, reply.body);
        }
        Ok(reply.body)
    }

    /// Sends a call under its one key until it has an answer that lasts.
    async fn insist(&mut self, request: &Request) -> anyhow::Result<Reply> {
        let bytes = self.write(request);
        self.repeat(request.method, &request.path, &bytes).await
    }

    async fn repeat(&mut self, method: &str, path: &str, request: &[u8]) -> anyhow::Result<Reply> {
        let begun = Instant::now();
        loop {
            let what = match self.exchange(request).await {
                Ok(reply) if reply.lasts() => return Ok(reply),
                Ok(reply) => format!("{} {}", reply.status, reply.body),
                Err(error) => error.to_string(),
            };
            if begun.elapsed() > PATIENCE {
                bail!("{method} {path} has no answer that lasts: {what}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn exchange(&mut self, request: &[u8]) -> io::Result<Reply> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.address).await?,
        };
        let answer = connection.exchange(request).await?;
        let last = answer.last;
        let landed = Landed {
            status: answer.status,
            body: answer.body.to_owned(),
            at: Instant::now(),
        };
        self.connection = (!last).then_some(connection);
        Ok(reply(landed))
    }

    fn write(&self, request: &Request) -> Vec<u8> {
        let session = match request.who {
            Who::Admin => &self.admin.session,
            Who::Seller => &self.seller.session,
            Who::Buyer(number) => &self.buyers[number].person.session,
        };
        let call = Call {
            method: request.method,
            path: &request.path,
            token: Some(&session.access),
            key: request.key.as_deref(),
            body: request.body.as_ref(),
        };
        call.write(&self.address, false)
    }
}

fn reply(landed: Landed) -> Reply {
    let Landed { status, body, at } = landed;
    // A refusal may have no JSON, and no content has none.
    let body =
        serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).chars().take(200).collect::<String>().into());
    Reply {
        status,
        body,
        at,
        in_flight: false,
    }
}

/// The body of an order.
pub(super) fn order(product: &str, quantity: i64, unit_price: Option<&Value>, payment: &Value) -> Value {
    let mut line = json!({ "productId": product, "quantity": quantity });
    if let Some(price) = unit_price {
        line["unitPrice"] = price.clone();
    }
    let address = json!({ "recipient": "Attack", "street": "Sejong-daero 110", "city": "Seoul", "postalCode": "04524" });
    json!({ "lines": [line], "shippingAddress": address, "payment": payment })
}
