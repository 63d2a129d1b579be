//! What must always hold, checked on the files that a shop left behind, and what those files tell, for each test to look at.
//!
//! What must hold is checked by the crate `verify`, which shares nothing with the aggregates; here it only fails the test.

use std::{collections::HashMap, ops::ControlFlow, path::Path, sync::Arc, time::Duration};

use event_store::{EventStore, LogReader};
use event_store_sqlite::SqliteStore;
use postgres_session::Session;
use serde_json::Value;
use uuid::Uuid;
use verify::{Ledger, Options, Report, ViewsChecked, read_ledger, verify_log, verify_views};

use super::kept::{database_of, in_files, log_of, log_to_examine};

/// What no file may hold in the clear.
pub(crate) const PERSONAL: [&str; 5] = [
    "Secret Recipient",
    "Hidden Street",
    "Private Name",
    "@example.com",
    "buyer@jangbu.dev",
];

/// How many events are read at once.
const PAGE: usize = 1_000;

/// A recorded event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) stream: String,
    pub(crate) name: String,
    pub(crate) recorded_at: i64,
    pub(crate) payload: Value,
    pub(crate) metadata: Value,
}

impl Event {
    fn count(&self, pointer: &str) -> i64 {
        let count = self.payload.pointer(pointer).and_then(Value::as_i64);
        count.unwrap_or_else(|| panic!("no {pointer}: {self:?}"))
    }

    /// The key of the request that it stands for, when it is a request's own event.
    pub(crate) fn key(&self) -> Option<&str> {
        self.metadata["idempotencyKey"].as_str()
    }
}

/// An order as the log tells it.
#[derive(Debug, Default)]
pub(crate) struct Order {
    pub(crate) total: i64,
    pub(crate) method: String,
    pub(crate) products: Vec<(String, i64)>,
    /// `order.confirmed` or `order.cancelled`.
    pub(crate) end: Option<String>,
    pub(crate) failure: Option<String>,
    pub(crate) captured: i64,
    pub(crate) reversed: i64,
}

/// A stock as the log tells it.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    pub(crate) received: i64,
    pub(crate) sold: i64,
    pub(crate) on_hand: i64,
    pub(crate) reserved: i64,
}

/// What the log tells.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) events: Vec<Event>,
    pub(crate) orders: HashMap<String, Order>,
    pub(crate) stocks: HashMap<String, Stock>,
    pub(crate) wallets: HashMap<String, i64>,
}

/// Checks everything that must hold of a data directory whose shop has ended. Fails with all that does not.
pub(crate) fn check(data: &Path) -> Log {
    let mut report = verified(data, true, Some(provider(data)));
    if !in_files(data) {
        return finish(data, &report);
    }
    let log = SqliteStore::open_read_only(data).expect("the log can be opened");
    log.check_file().expect("the file is sound");
    let store: Arc<dyn EventStore> = Arc::new(log);
    let views = verify_views(data, &store, &mut report, &mut |_, _| ControlFlow::Continue(())).expect("the log can be read");
    assert_ne!(views, ViewsChecked::Interrupted);
    finish(data, &report)
}

/// The same without the hash chain, which would notice any change before the rest could.
pub(crate) fn check_contents(data: &Path) -> Log {
    let report = verified(data, false, Some(provider(data)));
    finish(data, &report)
}

/// Checks a log that is at rest, wherever it is, with the ledger of a provider that is a process of its own.
pub(crate) fn check_log(log: &dyn LogReader, ledger: &Path) {
    let options = Options {
        ledger: Some(read_ledger(ledger).expect("the ledger can be read")),
        ..Options::default()
    };
    let report = verify_log(log, &options).expect("the log can be read");
    is_sound(&report);
    assert_eq!(report.counts.parked, 0, "inputs were set aside");
}

fn finish(data: &Path, report: &Report) -> Log {
    is_sound(report);
    assert_eq!(report.counts.parked, 0, "inputs were set aside: {:?}", parked(data));
    let log = told(data);
    assert_eq!(log.events.len() as u64, report.counts.events, "every event was read");
    // Nothing that the provider does is under way any more.
    assert_eq!(log.disagreement(&provider(data)), None, "the provider's ledger and ours differ");
    nothing_personal_is_readable(data);
    log
}

/// Reads a log, also of a shop that is running, and checks what must hold at any moment.
pub(crate) fn read(data: &Path) -> Log {
    is_sound(&verified(data, true, None));
    told(data)
}

/// The provider's ledger, by order.
pub(crate) fn provider(data: &Path) -> Ledger {
    read_ledger(&data.join("simulator.db")).expect("the ledger can be read")
}

fn verified(data: &Path, hashes: bool, ledger: Option<Ledger>) -> Report {
    let store = log_to_examine(data);
    let options = Options {
        hashes,
        ledger,
        ..Options::default()
    };
    verify_log(store.reader().expect("a reader").as_ref(), &options).expect("the log can be read")
}

fn is_sound(report: &Report) {
    let findings: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
    assert!(report.is_sound(), "{} things do not hold:\n{}", report.found, findings.join("\n"));
}

fn told(data: &Path) -> Log {
    let store = log_of(data);
    let reader = store.reader().expect("a reader");
    let mut log = Log::default();
    for shard in reader.shards().expect("the heads can be read") {
        tell(reader.as_ref(), shard, &mut log);
    }
    log
}

fn tell(reader: &dyn LogReader, shard: u16, log: &mut Log) {
    let mut after = 0;
    loop {
        let page = reader.events(shard, after, PAGE).expect("the log can be read");
        let Some(last) = page.last() else { return };
        after = last.position;
        let json = |text: &str| serde_json::from_str(text).expect("JSON");
        for event in page {
            let event = Event {
                kind: event.stream.kind.into_owned(),
                stream: event.stream.id.to_string(),
                name: event.event_type.into_owned(),
                recorded_at: event.recorded_at,
                payload: json(&event.payload),
                metadata: json(&event.metadata),
            };
            log.count(&event);
            log.events.push(event);
        }
    }
}

impl Log {
    fn count(&mut self, event: &Event) {
        match event.kind.as_str() {
            "inventory" => self.stocks.entry(event.stream.clone()).or_default().count(event),
            "wallet" => {
                let balance = self.wallets.entry(event.stream.clone()).or_default();
                match event.name.as_str() {
                    "wallet.deposited" | "wallet.credited" => *balance += event.count("/amount/amount"),
                    "wallet.debited" => *balance -= event.count("/amount/amount"),
                    _ => {}
                }
            }
            "order" => self.orders.entry(event.stream.clone()).or_default().count(event),
            "payment" => {
                let order = event.payload["order"].as_str().unwrap_or_default();
                let order = self.orders.get_mut(order).expect("the order is placed first");
                match event.name.as_str() {
                    "payment.captured" => order.captured += event.count("/amount/amount"),
                    "payment.contradicted" => order.captured += event.count("/found/amount"),
                    "payment.reversed" => order.reversed += event.count("/amount/amount"),
                    "payment.resolved" => order.resolve(event),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// The first order on which the provider's ledger and the log differ.
    pub(crate) fn disagreement(&self, ledger: &Ledger) -> Option<String> {
        self.orders
            .iter()
            .filter(|(_, order)| order.method == "CARD")
            .find_map(|(id, order)| {
                let provided = Uuid::try_parse(id).ok().and_then(|id| ledger.get(&id)).copied().unwrap_or_default();
                let same = (provided.charged, provided.cancelled) == (order.captured, order.reversed);
                (!same).then(|| format!("{id}: {provided:?}, {order:?}"))
            })
    }

    /// Orders that have not come to an end.
    pub(crate) fn unfinished(&self) -> Vec<&str> {
        self.orders
            .iter()
            .filter(|(_, order)| order.end.is_none())
            .map(|(id, _)| id.as_str())
            .collect()
    }

    /// How many orders ended like this: `order.confirmed`, or the reason for which they were cancelled.
    pub(crate) fn ended(&self, how: &str) -> usize {
        self.orders
            .values()
            .filter(|order| order.end.as_deref() == Some(how) || order.failure.as_deref() == Some(how))
            .count()
    }

    /// The names of what happened to this stock because of this order.
    pub(crate) fn stock_story(&self, product: &str, order: &str) -> Vec<&str> {
        let of_order = |event: &&Event| event.kind == "inventory" && event.stream == product && event.payload["order"] == order;
        self.events.iter().filter(of_order).map(|event| event.name.as_str()).collect()
    }

    /// How often this was recorded.
    pub(crate) fn times(&self, name: &str) -> usize {
        self.events.iter().filter(|event| event.name == name).count()
    }
}

impl Order {
    /// What a person found at the provider counts like what it says itself.
    fn resolve(&mut self, event: &Event) {
        let outcome = event.payload["outcome"].as_str().unwrap_or_default();
        let amount = event.count("/amount/amount");
        if outcome == "CHARGED" || outcome == "REFUNDED" && self.captured == 0 {
            self.captured += amount;
        }
        if outcome == "REFUNDED" {
            self.reversed += amount;
        }
    }

    fn count(&mut self, event: &Event) {
        match event.name.as_str() {
            "order.placed" => {
                self.total = event.count("/total/amount");
                event.payload["method"].as_str().unwrap_or_default().clone_into(&mut self.method);
                let lines = event.payload["lines"].as_array().expect("lines");
                let line = |line: &Value| {
                    (
                        line["product"].as_str().unwrap_or_default().to_owned(),
                        line["quantity"].as_i64().unwrap_or_default(),
                    )
                };
                self.products = lines.iter().map(line).collect();
            }
            "order.repriced" => self.total = event.count("/total/amount"),
            "order.confirmed" | "order.cancelled" => {
                self.end = Some(event.name.clone());
                self.failure = event.payload["failure"].as_str().map(str::to_owned);
            }
            _ => {}
        }
    }
}

impl Stock {
    fn count(&mut self, event: &Event) {
        match event.name.as_str() {
            "inventory.opened" => {
                let units = event.payload["stock"]["onHand"].as_i64().unwrap_or_default();
                (self.received, self.on_hand) = (units, units);
            }
            "inventory.received" => {
                self.received += event.count("/quantity");
                self.on_hand += event.count("/quantity");
            }
            "inventory.adjusted" => {
                self.received += event.count("/delta").max(0);
                self.on_hand += event.count("/delta");
            }
            "inventory.reserved" => self.reserved += event.count("/quantity"),
            "inventory.committed" => {
                self.reserved -= event.count("/quantity");
                self.sold += event.count("/quantity");
                self.on_hand -= event.count("/quantity");
            }
            "inventory.released" | "inventory.expired" => self.reserved -= event.count("/quantity"),
            _ => {}
        }
    }
}

fn parked(data: &Path) -> Vec<String> {
    let store = log_of(data);
    let reader = store.reader().expect("a reader");
    let shards = reader.shards().expect("the heads can be read");
    let parked: Vec<_> = shards
        .iter()
        .flat_map(|shard| reader.parked(*shard, 10).expect("what was set aside"))
        .collect();
    parked.iter().map(|parked| format!("{}: {}", parked.reason, parked.input)).collect()
}

fn nothing_personal_is_readable(data: &Path) {
    if let Some(url) = database_of(data) {
        return nothing_personal_is_in_the_database(&url);
    }
    for name in ["log.db", "log.db-wal", "views.db", "views.db-wal", "simulator.db"] {
        let bytes = std::fs::read(data.join(name)).unwrap_or_default();
        for text in PERSONAL {
            let found = bytes.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(!found, "{name} holds {text:?} in the clear");
        }
    }
}

/// Every table, row by row as text, and bytes as the text that is in them.
fn nothing_personal_is_in_the_database(url: &str) {
    let session = Session::open(&url.parse().expect("an address"), "", Duration::from_mins(1)).expect("a session");
    let columns = "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns
                   WHERE table_schema NOT IN ('pg_catalog', 'information_schema')";
    for row in session.query(columns, &[]).expect("the columns") {
        let [schema, table, column, kind] = [0, 1, 2, 3].map(|index| row.get::<_, String>(index));
        let text = if kind == "bytea" {
            format!("encode(\"{column}\", 'escape')")
        } else {
            format!("\"{column}\"::text")
        };
        for personal in PERSONAL {
            let sql = format!("SELECT count(*) FROM \"{schema}\".\"{table}\" WHERE {text} LIKE '%{personal}%'");
            let found: i64 = session.query(&sql, &[]).expect("counted")[0].get(0);
            assert_eq!(found, 0, "{schema}.{table}.{column} holds {personal:?} in the clear");
        }
    }
}
