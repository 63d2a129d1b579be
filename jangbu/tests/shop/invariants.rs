//! What must always hold, checked on the files that a shop left behind: the log by itself, and against the provider's ledger.
//!
//! Everything is counted again here, from the JSON of the events, with nothing of the shop's own code but the hash chain.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use event_store_sqlite::SqliteStore;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// What no file may hold in the clear.
pub(crate) const PERSONAL: [&str; 5] = [
    "Secret Recipient",
    "Hidden Street",
    "Private Name",
    "@example.com",
    "buyer@jangbu.dev",
];

/// A recorded event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) position: i64,
    pub(crate) kind: String,
    pub(crate) stream: String,
    pub(crate) sequence: i64,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) recorded_at: i64,
    pub(crate) payload: Value,
    pub(crate) metadata: Value,
}

impl Event {
    fn text(&self, member: &str) -> &str {
        self.payload[member].as_str().unwrap_or_else(|| panic!("no {member}: {self:?}"))
    }

    fn count(&self, member: &str) -> i64 {
        self.payload[member].as_i64().unwrap_or_else(|| panic!("no {member}: {self:?}"))
    }

    fn amount(&self) -> i64 {
        self.payload["amount"]["amount"]
            .as_i64()
            .unwrap_or_else(|| panic!("no amount: {self:?}"))
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
    pub(crate) awaiting_payment: bool,
    pub(crate) captured: i64,
    pub(crate) reversed: i64,
    debited: i64,
    credited: i64,
}

/// A stock as the log tells it.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    unlimited: bool,
    pub(crate) received: i64,
    pub(crate) sold: i64,
    written_off: i64,
    pub(crate) on_hand: i64,
    pub(crate) reserved: i64,
}

/// A promise of goods to an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reservation {
    Open(i64),
    Committed,
    Ended,
}

/// The log, counted again.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) events: Vec<Event>,
    pub(crate) orders: HashMap<String, Order>,
    pub(crate) stocks: HashMap<String, Stock>,
    pub(crate) wallets: HashMap<String, i64>,
    reservations: HashMap<(String, String), Reservation>,
}

/// What the provider's ledger says of an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Provided {
    pub(crate) charges: i64,
    pub(crate) charged: i64,
    pub(crate) cancelled: i64,
}

/// Checks everything that must hold of a data directory whose shop has ended. Fails with the first thing that does not.
pub(crate) fn check(data: &Path) -> Log {
    let store = SqliteStore::open_read_only(data).expect("the log can be opened");
    let events = store.integrity().expect("the file is sound and the hash chain holds");
    let log = check_contents(data);
    assert_eq!(log.events.len() as u64, events, "every event was read");
    log
}

/// The same without the hash chain, which would notice any change before the rest could.
pub(crate) fn check_contents(data: &Path) -> Log {
    let log = read(data);
    log.head_is_the_last_event(data);
    log.causes_resolve();
    log.requests_count_once();
    log.order_numbers_are_unique();
    log.orders_end_as_they_should();
    log.provider_agrees(&provider(data));
    nothing_was_set_aside(data);
    nothing_personal_is_readable(data);
    log
}

/// Reads and counts a log, also of a shop that is running.
pub(crate) fn read(data: &Path) -> Log {
    let connection = open(&data.join("log.db"));
    let sql = "SELECT position, aggregate_type, aggregate_id, sequence, event_id, event_type, recorded_at, payload, metadata
               FROM events WHERE shard = 0 ORDER BY position";
    let mut statement = connection.prepare(sql).expect("the table is there");
    let rows = statement.query_map([], |row| {
        let json = |text: String| serde_json::from_str(&text).expect("JSON");
        Ok(Event {
            position: row.get(0)?,
            kind: row.get(1)?,
            stream: row.get(2)?,
            sequence: row.get(3)?,
            id: row.get(4)?,
            name: row.get(5)?,
            recorded_at: row.get(6)?,
            payload: json(row.get(7)?),
            metadata: json(row.get(8)?),
        })
    });
    let events: Vec<_> = rows.expect("rows").collect::<Result<_, _>>().expect("every row can be read");
    let mut log = Log::default();
    let (mut ids, mut versions) = (HashSet::new(), HashMap::new());
    let mut recorded_at = i64::MIN;
    for (event, position) in events.iter().zip(1..) {
        assert_eq!(event.position, position, "positions are contiguous");
        let version = versions.entry((event.kind.clone(), event.stream.clone())).or_insert(0);
        *version += 1;
        assert_eq!(event.sequence, *version, "versions are contiguous: {event:?}");
        assert!(ids.insert(event.id.clone()), "an event id is unique: {event:?}");
        assert!(event.recorded_at >= recorded_at, "recorded time never goes back: {event:?}");
        recorded_at = event.recorded_at;
        log.count(event);
    }
    log.events = events;
    log
}

/// The provider's ledger, by order.
pub(crate) fn provider(data: &Path) -> BTreeMap<String, Provided> {
    let connection = open(&data.join("simulator.db"));
    let mut statement = connection
        .prepare("SELECT order_id, kind, amount FROM ledger ORDER BY id")
        .expect("the ledger is there");
    let rows = statement.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
    });
    let mut ledger: BTreeMap<String, Provided> = BTreeMap::new();
    for row in rows.expect("rows") {
        let (order, kind, amount) = row.expect("every row can be read");
        let provided = ledger.entry(order).or_default();
        match kind.as_str() {
            "CHARGE" => {
                provided.charges += 1;
                provided.charged += amount;
            }
            _ => provided.cancelled += amount,
        }
    }
    ledger
}

fn open(path: &Path) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX).expect("the file can be opened")
}

impl Log {
    fn count(&mut self, event: &Event) {
        match event.kind.as_str() {
            "inventory" => self.count_stock(event),
            "wallet" => self.count_wallet(event),
            "order" => self.count_order(event),
            "payment" => self.count_payment(event),
            _ => {}
        }
    }

    fn count_stock(&mut self, event: &Event) {
        let stock = self.stocks.entry(event.stream.clone()).or_default();
        let reservation = event.payload["order"]
            .as_str()
            .map(|order| (event.stream.clone(), order.to_owned()));
        match event.name.as_str() {
            "inventory.opened" => match event.payload["stock"]["onHand"].as_i64() {
                Some(units) => (stock.received, stock.on_hand) = (units, units),
                None => stock.unlimited = true,
            },
            "inventory.received" => {
                stock.received += event.count("quantity");
                stock.on_hand += event.count("quantity");
            }
            "inventory.adjusted" => {
                let delta = event.count("delta");
                stock.received += delta.max(0);
                stock.written_off += (-delta).max(0);
                stock.on_hand += delta;
            }
            "inventory.reserved" => {
                let quantity = event.count("quantity");
                stock.reserved += quantity;
                let known = self
                    .reservations
                    .insert(reservation.expect("an order"), Reservation::Open(quantity));
                assert_eq!(known, None, "an order reserves a product once: {event:?}");
            }
            "inventory.committed" | "inventory.released" | "inventory.expired" => {
                let quantity = event.count("quantity");
                stock.reserved -= quantity;
                let committed = event.name == "inventory.committed";
                if committed {
                    stock.sold += quantity;
                    stock.on_hand -= quantity;
                }
                let end = if committed { Reservation::Committed } else { Reservation::Ended };
                let open = self.reservations.insert(reservation.expect("an order"), end);
                assert_eq!(open, Some(Reservation::Open(quantity)), "a reservation ends once: {event:?}");
            }
            _ => {}
        }
        let stock = &self.stocks[&event.stream];
        if !stock.unlimited {
            assert_eq!(stock.received, stock.on_hand + stock.sold + stock.written_off, "{event:?}");
            assert!(
                0 <= stock.reserved && stock.reserved <= stock.on_hand,
                "no oversell: {stock:?} after {event:?}"
            );
        }
    }

    fn count_wallet(&mut self, event: &Event) {
        let balance = self.wallets.entry(event.stream.clone()).or_default();
        match event.name.as_str() {
            "wallet.deposited" => *balance += event.amount(),
            "wallet.debited" => {
                *balance -= event.amount();
                let order = self.orders.get_mut(event.text("order")).expect("the order is placed first");
                assert_eq!(order.debited, 0, "an order is debited once: {event:?}");
                order.debited = event.amount();
            }
            "wallet.debit_refused" => assert!(*balance < event.amount(), "enough was there: {event:?}"),
            "wallet.credited" => {
                *balance += event.amount();
                let order = self.orders.get_mut(event.text("order")).expect("the order is placed first");
                assert_eq!(
                    (order.credited, order.debited),
                    (0, event.amount()),
                    "what was debited is credited once: {event:?}"
                );
                order.credited = event.amount();
            }
            _ => {}
        }
        assert!(self.wallets[&event.stream] >= 0, "a wallet is never negative: {event:?}");
    }

    fn count_order(&mut self, event: &Event) {
        let order = self.orders.entry(event.stream.clone()).or_default();
        match event.name.as_str() {
            "order.placed" => {
                order.total = event.payload["total"]["amount"].as_i64().expect("a total");
                event.text("method").clone_into(&mut order.method);
                let lines = event.payload["lines"].as_array().expect("lines");
                let line = |line: &Value| {
                    (
                        line["product"].as_str().unwrap_or_default().to_owned(),
                        line["quantity"].as_i64().unwrap_or_default(),
                    )
                };
                order.products = lines.iter().map(line).collect();
                assert!(
                    order.products.is_sorted_by_key(|(product, _)| product),
                    "lines stand in the order of their products: {event:?}"
                );
            }
            "order.repriced" => order.total = event.payload["total"]["amount"].as_i64().expect("a total"),
            "order.awaiting_payment" => order.awaiting_payment = true,
            "order.payment_submitted" => order.awaiting_payment = false,
            "order.confirmed" | "order.cancelled" => {
                assert_eq!(order.end, None, "an order ends once: {event:?}");
                order.end = Some(event.name.clone());
                order.awaiting_payment = false;
                order.failure = event.payload["failure"].as_str().map(str::to_owned);
            }
            _ => {}
        }
    }

    fn count_payment(&mut self, event: &Event) {
        match event.name.as_str() {
            "payment.captured" => {
                let order = self.orders.get_mut(event.text("order")).expect("the order is placed first");
                assert_eq!(order.captured, 0, "an order is paid once: {event:?}");
                assert_eq!(order.total, event.amount(), "what is captured is the total: {event:?}");
                order.captured = event.amount();
            }
            "payment.reversed" => {
                let order = self.orders.get_mut(event.text("order")).expect("the order is placed first");
                assert_eq!(
                    (order.reversed, order.captured),
                    (0, event.amount()),
                    "what was captured is given back once: {event:?}"
                );
                order.reversed = event.amount();
            }
            _ => {}
        }
    }

    fn head_is_the_last_event(&self, data: &Path) {
        let head: i64 = open(&data.join("log.db"))
            .query_row("SELECT position FROM log_head WHERE shard = 0", [], |row| row.get(0))
            .expect("the log has a head");
        assert_eq!(head, self.events.last().map_or(0, |event| event.position));
    }

    fn causes_resolve(&self) {
        let mut earlier = HashSet::new();
        for event in &self.events {
            let metadata = event.metadata.as_object().expect("metadata is an object");
            assert!(metadata.values().all(Value::is_string), "metadata is flat: {event:?}");
            assert!(metadata.contains_key("correlationId"), "{event:?}");
            if let Some(cause) = event.metadata["causationId"].as_str() {
                assert!(earlier.contains(cause), "the cause comes before what it causes: {event:?}");
            } else {
                assert!(metadata.contains_key("actor"), "what nothing caused, somebody asked for: {event:?}");
            }
            earlier.insert(event.id.as_str());
            if event.kind == "purchase" {
                let seen = event.payload["seen"].as_array().expect("positions");
                assert!(
                    seen.iter()
                        .all(|seen| seen.as_i64().is_some_and(|seen| (1..event.position).contains(&seen))),
                    "{event:?}"
                );
            }
        }
    }

    /// A key has at most one effect: on one stream, by one account.
    fn requests_count_once(&self) {
        let mut known = HashSet::new();
        for event in self.events.iter().filter(|event| event.key().is_some()) {
            // An order's id derives from the key, so two orders of one key would be two streams: they are told by the key alone.
            let stream = if event.name == "order.placed" { "" } else { event.stream.as_str() };
            let request = (event.metadata["actor"].as_str(), event.key(), event.name.as_str(), stream);
            assert!(known.insert(request), "a key has one effect: {event:?}");
        }
    }

    fn order_numbers_are_unique(&self) {
        let mut numbers = HashSet::new();
        for event in self.events.iter().filter(|event| event.name == "order.placed") {
            let number = event.text("number");
            assert!(number.len() >= 16 && number.bytes().all(|byte| byte.is_ascii_digit()), "{event:?}");
            assert!(numbers.insert(number), "an order number is unique: {event:?}");
        }
    }

    fn orders_end_as_they_should(&self) {
        for (id, order) in &self.orders {
            let kept = order.captured - order.reversed;
            match order.end.as_deref() {
                Some("order.confirmed") => assert_eq!(kept, order.total, "a confirmed order is paid: {id} {order:?}"),
                Some(_) => assert_eq!(kept, 0, "a cancelled order keeps no money: {id} {order:?}"),
                None => assert!(kept == 0 || kept == order.total, "{id} {order:?}"),
            }
            let from_balance = order.method == "BALANCE";
            assert_eq!(
                order.debited - order.credited,
                if from_balance { kept } else { 0 },
                "the wallet agrees: {id} {order:?}"
            );
            for (product, quantity) in &order.products {
                let reservation = self.reservations.get(&(product.clone(), id.clone()));
                match order.end.as_deref() {
                    Some("order.confirmed") => assert_eq!(reservation, Some(&Reservation::Committed), "{id} {order:?}"),
                    Some(_) => assert!(
                        matches!(reservation, None | Some(Reservation::Ended)),
                        "what was promised is free again: {id} {order:?}"
                    ),
                    None if order.awaiting_payment => assert_eq!(reservation, Some(&Reservation::Open(*quantity)), "{id} {order:?}"),
                    None => {}
                }
            }
        }
    }

    /// Money at the provider and in our events is the same, order for order, and nobody was charged twice.
    fn provider_agrees(&self, ledger: &BTreeMap<String, Provided>) {
        let disagreement = self.disagreement(ledger);
        assert_eq!(disagreement, None, "the provider's ledger and ours differ");
    }

    /// The first order on which the provider's ledger and the log differ.
    pub(crate) fn disagreement(&self, ledger: &BTreeMap<String, Provided>) -> Option<String> {
        for (id, provided) in ledger {
            assert!(provided.charges <= 1, "{id} was charged {} times", provided.charges);
            assert!(provided.cancelled <= provided.charged, "{id}: {provided:?}");
            assert!(self.orders.contains_key(id), "the provider knows an order that we do not: {id}");
        }
        let nothing = Provided::default();
        self.orders
            .iter()
            .filter(|(_, order)| order.method == "CARD")
            .find_map(|(id, order)| {
                let provided = ledger.get(id).unwrap_or(&nothing);
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

fn nothing_was_set_aside(data: &Path) {
    let connection = open(&data.join("log.db"));
    let mut statement = connection.prepare("SELECT reason, input FROM parked").expect("the table is there");
    let rows = statement.query_map([], |row| Ok(format!("{}: {}", row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
    let parked: Vec<_> = rows.expect("rows").collect::<Result<_, _>>().expect("every row can be read");
    assert!(parked.is_empty(), "set aside: {parked:#?}");
}

fn nothing_personal_is_readable(data: &Path) {
    for name in ["log.db", "log.db-wal", "views.db", "views.db-wal", "simulator.db"] {
        let bytes = std::fs::read(data.join(name)).unwrap_or_default();
        for text in PERSONAL {
            let found = bytes.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(!found, "{name} holds {text:?} in the clear");
        }
    }
}
