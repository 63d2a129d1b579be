//! The load: a closed loop over kept connections, on one thread, with requests that are put together from prepared pieces.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::task::LocalSet;

use super::{Payment, shop::Shop};
use crate::client::{
    http::{Address, Answer, Connection, first_text},
    people::{self, Session},
};

/// How long an order asks to be waited for.
const WAIT_SECONDS: u8 = 30;
/// Times are recorded in microseconds, to three figures.
const LONGEST_MICROS: u64 = 120_000_000;
/// How many kinds of failures are told apart.
const MOST_KINDS: usize = 50;
/// How long the connection of a failed request is let be.
const PAUSE: Duration = Duration::from_millis(10);

/// What to place.
#[derive(Clone)]
pub(super) struct Plan {
    address: Address,
    sessions: Vec<Session>,
    /// Each product's body up to its last, varying part, and what follows that.
    bodies: Vec<(Vec<u8>, Vec<u8>)>,
    payment: Payment,
    in_flight: u64,
    orders: u64,
    /// Keys of this run begin with it.
    run: String,
    stage: &'static str,
    seed: u64,
}

impl Plan {
    pub(super) fn new(address: &Address, run: &str, shop: Shop, payment: Payment, in_flight: u64, seed: u64) -> Self {
        let bodies = shop.products.iter().map(|product| body(product, payment)).collect();
        let (address, run) = (address.clone(), run.to_owned());
        Self {
            address,
            sessions: shop.buyers,
            bodies,
            payment,
            in_flight,
            orders: 0,
            run,
            stage: "",
            seed,
        }
    }

    /// The same with so many orders, whose keys are those of this stage.
    pub(super) fn of(self, orders: u64, stage: &'static str) -> Self {
        Self { orders, stage, ..self }
    }
}

/// An order of one unit. A card's payment key differs from order to order.
fn body(product: &str, payment: Payment) -> (Vec<u8>, Vec<u8>) {
    const HERE: &str = "KEY";
    let payment = match payment {
        Payment::Balance => json!({ "method": "BALANCE" }),
        Payment::Card => json!({ "method": "CARD", "paymentKey": HERE }),
    };
    let address = json!({ "recipient": "Bench", "street": "Sejong-daero 110", "city": "Seoul", "postalCode": "04524" });
    let lines = json!([{ "productId": product, "quantity": 1 }]);
    let text = json!({ "lines": lines, "shippingAddress": address, "payment": payment }).to_string();
    let (before, after) = text.split_once(HERE).unwrap_or((&text, ""));
    (before.as_bytes().to_vec(), after.as_bytes().to_vec())
}

/// What came of it.
pub(super) struct Measured {
    pub(super) confirmed: u64,
    /// From the first request sent to the last answer.
    pub(super) took: Duration,
    /// From sending an order to reading that it is confirmed, in microseconds.
    pub(super) times: Histogram<u64>,
    /// What else was answered, and how often.
    pub(super) failures: BTreeMap<String, u64>,
}

/// Places the orders from a thread of its own.
pub(super) async fn run(plan: Plan) -> anyhow::Result<Measured> {
    let (done, measured) = tokio::sync::oneshot::channel();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = runtime
            .context("starting the load")
            .and_then(|runtime| LocalSet::new().block_on(&runtime, place_all(plan)));
        // Nobody waits any more when the bench was interrupted.
        let _ = done.send(result);
    };
    std::thread::Builder::new()
        .name("bench-load".to_owned())
        .spawn(work)
        .context("starting the load")?;
    measured.await.context("the load broke off")?
}

struct Load {
    plan: Plan,
    /// Each buyer's request from its first byte to the value of its `Idempotency-Key`.
    heads: RefCell<Vec<Vec<u8>>>,
    next: Cell<u64>,
    chance: Cell<u64>,
    confirmed: Cell<u64>,
    times: RefCell<Histogram<u64>>,
    failures: RefCell<BTreeMap<String, u64>>,
}

async fn place_all(plan: Plan) -> anyhow::Result<Measured> {
    let mut connections = Vec::new();
    for _ in 0..plan.in_flight.min(plan.orders) {
        connections.push(
            Connection::open(&plan.address)
                .await
                .with_context(|| format!("connecting to {}", plan.address.authority()))?,
        );
    }
    let load = Rc::new(Load::new(plan)?);
    let renewal = tokio::task::spawn_local(renew(Rc::clone(&load)));
    let begun = Instant::now();
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|connection| tokio::task::spawn_local(place(Rc::clone(&load), connection)))
        .collect();
    for task in tasks {
        task.await.context("the load broke off")?;
    }
    let took = begun.elapsed();
    renewal.abort();
    let times = load.times.borrow().clone();
    Ok(Measured {
        confirmed: load.confirmed.get(),
        took,
        times,
        failures: load.failures.take(),
    })
}

impl Load {
    fn new(plan: Plan) -> anyhow::Result<Self> {
        let heads = plan.sessions.iter().map(|session| head(&plan.address, &session.access)).collect();
        Ok(Self {
            heads: RefCell::new(heads),
            next: Cell::new(0),
            chance: Cell::new(plan.seed),
            confirmed: Cell::new(0),
            times: RefCell::new(Histogram::new_with_bounds(1, LONGEST_MICROS, 3)?),
            failures: RefCell::default(),
            plan,
        })
    }

    /// The number of the next order, while there is one.
    fn take(&self) -> Option<u64> {
        let next = self.next.get();
        self.next.set(next + 1);
        (next < self.plan.orders).then_some(next)
    }

    /// Any product, each as likely as the others (splitmix64).
    fn any_product(&self) -> usize {
        let chance = self.chance.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.chance.set(chance);
        let mixed = (chance ^ (chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % self.plan.bodies.len().max(1) as u64).unwrap_or(0)
    }

    fn write(&self, order: u64, request: &mut Vec<u8>) {
        use io::Write as _;

        let heads = self.heads.borrow();
        let buyer = usize::try_from(order).unwrap_or(0) % heads.len().max(1);
        let (before, after) = &self.plan.bodies[self.any_product()];
        let key = format!("{}-{}-{order:08}", self.plan.run, self.plan.stage);
        let payment_key: [&str; 2] = if self.plan.payment == Payment::Card {
            ["sim_ok_", &key]
        } else {
            ["", ""]
        };
        let length = before.len() + payment_key.iter().map(|part| part.len()).sum::<usize>() + after.len();
        request.clear();
        request.extend_from_slice(&heads[buyer]);
        // Writing to memory cannot fail.
        let _ = write!(request, "{key}\r\nContent-Length: {length}\r\n\r\n");
        request.extend_from_slice(before);
        for part in payment_key {
            request.extend_from_slice(part.as_bytes());
        }
        request.extend_from_slice(after);
    }

    fn count(&self, took: Duration) {
        self.confirmed.set(self.confirmed.get() + 1);
        self.times
            .borrow_mut()
            .saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    fn count_failure(&self, kind: String) {
        let mut failures = self.failures.borrow_mut();
        let kind = if failures.len() < MOST_KINDS || failures.contains_key(&kind) {
            kind
        } else {
            "other".to_owned()
        };
        *failures.entry(kind).or_default() += 1;
    }
}

fn head(address: &Address, token: &str) -> Vec<u8> {
    format!(
        "POST /api/v1/orders HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Prefer: wait={WAIT_SECONDS}\r\nIdempotency-Key: ",
        address.authority()
    )
    .into_bytes()
}

/// One order after the other on one connection.
async fn place(load: Rc<Load>, connection: Connection) {
    let mut connection = Some(connection);
    let mut request = Vec::with_capacity(2048);
    while let Some(order) = load.take() {
        load.write(order, &mut request);
        let begun = Instant::now();
        match exchange(&load.plan.address, &mut connection, &request).await {
            Ok(None) => load.count(begun.elapsed()),
            Ok(Some(kind)) => load.count_failure(kind),
            Err(error) => {
                connection = None;
                load.count_failure(format!("connection: {}", error.kind()));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// None when the order is confirmed, else what was answered.
async fn exchange(address: &Address, connection: &mut Option<Connection>, request: &[u8]) -> io::Result<Option<String>> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(address).await?,
    };
    let answer = open.exchange(request).await?;
    let (kind, last) = (failure(&answer), answer.last);
    *connection = (!last).then_some(open);
    Ok(kind)
}

/// What an answer is, unless it is a confirmed order.
fn failure(answer: &Answer) -> Option<String> {
    let status = first_text(answer.body, "status");
    if answer.status == 200 && status == Some("CONFIRMED") {
        return None;
    }
    let words = [status, first_text(answer.body, "code")].into_iter().flatten();
    let kind = words.fold(answer.status.to_string(), |kind, word| kind + " " + word);
    Some(kind.chars().take(100).collect())
}

/// Keeps the buyers logged in when the load takes longer than their tokens last.
async fn renew(load: Rc<Load>) {
    let mut sessions = load.plan.sessions.clone();
    loop {
        let shortest = sessions.iter().map(|session| session.expires_in).min().unwrap_or(Duration::MAX);
        tokio::time::sleep((shortest / 2).max(Duration::from_secs(1))).await;
        for (buyer, session) in sessions.iter_mut().enumerate() {
            // Without a new token the orders themselves tell: they are answered 401 and counted.
            if let Ok(renewed) = people::refresh(&load.plan.address, session).await {
                load.heads.borrow_mut()[buyer] = head(&load.plan.address, &renewed.access);
                *session = renewed;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(payment: Payment) -> Plan {
        let address: Address = "127.0.0.1:1".parse().expect("an address");
        let session = |access: &str| Session {
            access: access.to_owned(),
            refresh: String::new(),
            expires_in: Duration::MAX,
        };
        let products = vec!["p0".to_owned(), "p1".to_owned(), "p2".to_owned()];
        let shop = Shop {
            buyers: vec![session("alice"), session("bob")],
            products,
        };
        Plan::new(&address, "run", shop, payment, 1, 7).of(10, "load")
    }

    fn written(load: &Load, order: u64) -> (String, serde_json::Value) {
        let mut request = b"of the one before".to_vec();
        load.write(order, &mut request);
        let text = String::from_utf8(request).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        (head.to_owned(), serde_json::from_str(body).expect("JSON"))
    }

    #[test]
    fn a_request_is_whole_and_its_keys_are_its_own() {
        let load = Load::new(plan(Payment::Card)).expect("a load");
        let (head, body) = written(&load, 1);
        assert!(
            head.starts_with("POST /api/v1/orders HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAuthorization: Bearer bob\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nIdempotency-Key: run-load-00000001\r\n"), "{head}");
        assert_eq!(body["payment"]["paymentKey"], "sim_ok_run-load-00000001");
        let (head, body) = written(&Load::new(plan(Payment::Balance)).expect("a load"), 2);
        assert!(head.contains("Bearer alice"), "{head}");
        assert_eq!(body["payment"], json!({ "method": "BALANCE" }));
        assert_eq!(body["lines"][0]["quantity"], 1);
    }

    #[test]
    fn a_seed_chooses_the_products() {
        let choose = || {
            let load = Load::new(plan(Payment::Balance)).expect("a load");
            (0..3_000).map(|_| load.any_product()).collect::<Vec<_>>()
        };
        let chosen = choose();
        assert_eq!(chosen, choose());
        for product in 0..3 {
            let share = chosen.iter().filter(|one| **one == product).count();
            assert!((900..1_100).contains(&share), "product {product}: {share} of 3,000");
        }
    }

    #[test]
    fn only_a_confirmed_order_counts() {
        let kind = |status, body: &[u8]| failure(&Answer { status, body, last: false });
        assert_eq!(kind(200, br#"{"status":"CONFIRMED","payment":{"status":"CAPTURED"}}"#), None);
        let cancelled = br#"{"status":"CANCELLED","failure":{"code":"OUT_OF_STOCK"}}"#;
        assert_eq!(kind(200, cancelled).as_deref(), Some("200 CANCELLED OUT_OF_STOCK"));
        assert_eq!(kind(202, br#"{"status":"PLACED"}"#).as_deref(), Some("202 PLACED"));
        assert_eq!(
            kind(503, br#"{"status":503,"code":"overloaded"}"#).as_deref(),
            Some("503 overloaded")
        );
        assert_eq!(kind(502, b"<html>").as_deref(), Some("502"));
    }

    #[test]
    fn kinds_of_failures_are_bounded() {
        let load = Load::new(plan(Payment::Balance)).expect("a load");
        (0..200).for_each(|kind| load.count_failure(kind.to_string()));
        load.count_failure("0".to_owned());
        let failures = load.failures.borrow();
        assert_eq!(failures.len(), MOST_KINDS + 1);
        assert_eq!((failures["0"], failures["other"]), (2, 150));
    }
}
