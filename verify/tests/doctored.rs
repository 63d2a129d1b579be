//! A log that somebody rewrote from end to end, with hashes and heads that fit: every other check has to tell.

mod world;

use std::sync::OnceLock;

use aggregates::PaymentId;
use event_store::{Batch, Event, EventStore, IdempotencyRecord, LogReader, MemoryStore, RecordKey, StoreError, batch_hash};
use serde_json::{Value, json};
use uuid::Uuid;
use verify::{Invariant, Ledger, Options, Report, verify_log};
use world::{World, key, product};

/// What is in a log.
#[derive(Clone)]
struct Contents {
    events: Vec<(Event, Value, Value)>,
    /// Last position and epoch of each batch.
    batches: Vec<(u64, u64)>,
    unfinished: event_store::Unfinished,
    records: Vec<IdempotencyRecord>,
    orders_numbered: u64,
    ledger: Ledger,
    now: i64,
}

fn contents() -> Contents {
    static LIVED: OnceLock<Contents> = OnceLock::new();
    LIVED
        .get_or_init(|| {
            let store = MemoryStore::new(Uuid::from_u128(7));
            let mut world = World::open(&store);
            world.live();
            read(&store, &world).expect("the log can be read")
        })
        .clone()
}

fn read(store: &MemoryStore, world: &World) -> Result<Contents, StoreError> {
    let json = |text: &str| serde_json::from_str(text).expect("JSON");
    let events = store.events(0, 0, usize::MAX)?;
    Ok(Contents {
        events: events
            .into_iter()
            .map(|event| (event.clone(), json(&event.payload), json(&event.metadata)))
            .collect(),
        batches: store
            .batches(0, 0, usize::MAX)?
            .into_iter()
            .map(|(last, _, _, epoch)| (last, epoch))
            .collect(),
        unfinished: store.unfinished(0)?,
        records: store.records(None, usize::MAX)?.expect("this store lists them"),
        orders_numbered: store.head(0)?.map_or(0, |head| head.orders_numbered),
        ledger: world.ledger(),
        now: world.clock,
    })
}

impl Contents {
    /// The n-th event of this name.
    fn nth(&mut self, name: &str, n: usize) -> &mut (Event, Value, Value) {
        let mut of_name = self.events.iter_mut().filter(|(event, ..)| event.event_type == name);
        of_name.nth(n).expect("there is one")
    }

    fn payload(&mut self, name: &str, n: usize, pointer: &str) -> &mut Value {
        self.nth(name, n).1.pointer_mut(pointer).expect("there is such a member")
    }

    /// The event of this name that an order is named by.
    fn of_order(&mut self, name: &str, number: u64) -> &mut (Event, Value, Value) {
        let order = key(number).uuid();
        let named = |(event, payload, _): &(Event, Value, Value)| {
            event.event_type == name && (event.stream.id == order || payload["order"] == json!(order))
        };
        self.events.iter_mut().find(|event| named(event)).expect("there is one")
    }

    /// Takes these events out, and closes the gaps that positions and versions get.
    fn without(&mut self, what: impl Fn(&Event, &Value) -> bool) {
        let before = self.events.len();
        self.events.retain(|(event, payload, _)| !what(event, payload));
        assert!(self.events.len() < before, "something is taken out");
        self.number_anew();
    }

    /// Gives every event the place that it stands at, in the log and in its stream.
    fn number_anew(&mut self) {
        let places: Vec<_> = self.events.iter().map(|(event, ..)| event.position).collect();
        let mut sequences = std::collections::HashMap::new();
        let log = Uuid::from_u128(7);
        let mut ids = std::collections::HashMap::new();
        for ((event, ..), position) in self.events.iter_mut().zip(1..) {
            event.position = position;
            let sequence = sequences.entry(event.stream.clone()).or_insert(0);
            *sequence += 1;
            event.sequence = *sequence;
            let id = made(log, position);
            ids.insert(event.event_id.to_string(), id);
            event.event_id = id;
        }
        for (_, payload, metadata) in &mut self.events {
            if let Some(cause) = metadata.get_mut("causationId") {
                // What is not there any more is said to be caused by the first event.
                *cause = json!(ids.get(cause.as_str().unwrap_or_default()).copied().unwrap_or(made(log, 1)));
            }
            if let Some(seen) = payload.get_mut("seen").and_then(Value::as_array_mut) {
                for seen in seen {
                    let old = seen.as_u64().unwrap_or_default();
                    *seen = json!(places.partition_point(|place| *place < old).max(1));
                }
            }
        }
        let to = self.events.len() as u64;
        self.batches = vec![(to, 1)];
    }

    /// Writes it all anew, hashes and head too.
    fn rewritten(&self) -> MemoryStore {
        let store = MemoryStore::new(Uuid::from_u128(7));
        let mut writer = store.writer().expect("a writer");
        let mut head = writer.take(0, Uuid::nil(), 0).expect("free");
        let mut events = self.events.iter().map(|(event, payload, metadata)| Event {
            payload: payload.to_string().into(),
            metadata: metadata.to_string().into(),
            ..event.clone()
        });
        for (number, (last, epoch)) in self.batches.iter().enumerate() {
            while head.epoch < *epoch {
                head = writer.take(0, Uuid::nil(), 0).expect("free");
            }
            let first_position = head.position + 1;
            let events: Vec<_> = events
                .by_ref()
                .take(usize::try_from(*last - head.position).expect("small"))
                .collect();
            let at_the_end = number + 1 == self.batches.len();
            let batch = Batch {
                epoch: head.epoch,
                first_position,
                hash: batch_hash(&head.hash, &events),
                previous_hash: head.hash,
                records: if at_the_end { self.records.clone() } else { Vec::new() },
                owed: if at_the_end { self.unfinished.effects.clone() } else { Vec::new() },
                timers: if at_the_end { self.unfinished.timers.clone() } else { Vec::new() },
                orders_numbered: self.orders_numbered,
                events,
                ..Batch::default()
            };
            writer.commit(&[&batch]).expect("written");
            head.position = *last;
            head.hash = batch.hash;
        }
        store
    }

    fn verified(&self) -> Report {
        let options = Options {
            ledger: Some(self.ledger.clone()),
            now: Some(self.now),
            ..Options::default()
        };
        verify_log(&self.rewritten(), &options).expect("the log can be read")
    }
}

/// An event's id, as the engine makes it.
fn made(log: Uuid, position: u64) -> Uuid {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&log.as_bytes()[..4]);
    bytes[7] = 1;
    bytes[8..].copy_from_slice(&position.to_be_bytes());
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// Changes the log, and says what must be found.
fn doctored(invariant: Invariant, words: &str, change: impl FnOnce(&mut Contents)) {
    let mut contents = contents();
    change(&mut contents);
    let report = contents.verified();
    let found = report
        .findings
        .iter()
        .any(|finding| finding.invariant == invariant && finding.what.contains(words));
    assert!(found, "{invariant}: {words:?} is not among {:#?}", report.findings);
}

#[test]
fn a_log_that_is_only_written_anew_is_sound() {
    assert_eq!(contents().verified().findings, []);
}

#[test]
fn a_log_without_an_order_and_all_of_it_is_sound_but_for_its_number_and_the_rest() {
    let mut contents = contents();
    let order = json!(key(2).uuid());
    contents.without(|event, payload| event.stream.id == key(2).uuid() || payload["order"] == order);
    let report = contents.verified();
    assert!(
        report.findings.iter().all(|finding| !finding.what.contains("contiguous")),
        "{:#?}",
        report.findings
    );
    assert!(
        report
            .findings
            .iter()
            .any(|finding| finding.what.contains("the head has numbered 15 orders, and 14 were placed"))
    );
    assert!(
        report
            .findings
            .iter()
            .any(|finding| finding.what.contains("which was never placed"))
    );
}

#[test]
fn stock() {
    use Invariant::Stock;
    doctored(Stock, "no oversell", |log| {
        *log.payload("inventory.reserved", 0, "/quantity") = json!(500);
    });
    doctored(Stock, "no oversell", |log| {
        *log.payload("inventory.opened", 0, "/stock/onHand") = json!(0);
    });
    doctored(Stock, "never opened", |log| {
        log.nth("inventory.opened", 1).0.stream.id = Uuid::from_u128(1);
    });
    doctored(Stock, "are refused for", |log| {
        *log.payload("inventory.out_of_stock", 0, "/available") = json!(60);
    });
    doctored(Stock, "are refused for", |log| {
        *log.payload("inventory.opened", 0, "/stock/onHand") = json!(60);
    });
    doctored(Stock, "in the order of their products", |log| {
        *log.payload("order.placed", 0, "/lines/1/product") = json!(product(0).uuid());
    });
}

#[test]
fn money() {
    use Invariant::Money;
    doctored(Money, "the sum of the lines", |log| {
        *log.payload("order.placed", 0, "/total/amount") = json!(1);
    });
    doctored(Money, "what is captured is the total", |log| {
        *log.payload("payment.captured", 0, "/amount/amount") = json!(1);
    });
    doctored(Money, "a wallet is never negative", |log| {
        *log.payload("wallet.debited", 0, "/amount/amount") = json!(200_000);
    });
    doctored(Money, "an order is debited once", |log| {
        *log.payload("wallet.debited", 1, "/order") = json!(key(1).uuid());
    });
    doctored(Money, "are refused, and", |log| {
        *log.payload("wallet.debit_refused", 0, "/amount/amount") = json!(5);
    });
    doctored(Money, "an order is paid once", |log| {
        *log.payload("payment.captured", 1, "/order") = json!(key(1).uuid());
    });
    doctored(Money, "another currency", |log| {
        *log.payload("wallet.debited", 0, "/amount/currency") = json!("USD");
    });
    doctored(Money, "are asked for, and", |log| {
        *log.payload("payment.requested", 0, "/amount/amount") = json!(1);
    });
    doctored(Money, "given back once", |log| {
        *log.payload("payment.reversed", 0, "/amount/amount") = json!(1);
    });
    doctored(Money, "attempt 7 follows", |log| {
        *log.payload("payment.requested", 0, "/attempt") = json!(7);
    });
    doctored(Money, "a confirmed order is paid", |log| {
        let order = json!(key(10).uuid());
        log.without(|event, payload| event.event_type == "payment.captured" && payload["order"] == order);
    });
    doctored(Money, "a cancelled order keeps no money", |log| {
        let order = json!(key(40).uuid());
        log.without(|event, payload| event.event_type == "payment.reversed" && payload["order"] == order);
    });
    doctored(Money, "the wallet agrees", |log| {
        let order = json!(key(1).uuid());
        log.without(|event, payload| event.event_type == "wallet.debited" && payload["order"] == order);
    });
    doctored(Money, "ledger and ours differ", |log| {
        log.ledger.remove(&key(10).uuid());
    });
    doctored(Money, "was charged 2 times", |log| {
        log.ledger.entry(key(10).uuid()).or_default().charges = 2;
    });
    doctored(Money, "and gave back", |log| {
        log.ledger.entry(key(10).uuid()).or_default().cancelled = 77_000;
    });
}

#[test]
fn reservations() {
    use Invariant::Reservations;
    doctored(Reservations, "what was promised is free again", |log| {
        log.without(|event, _| event.event_type == "inventory.released");
    });
    doctored(Reservations, "are not sold", |log| {
        let order = json!(key(10).uuid());
        log.without(|event, payload| event.event_type == "inventory.committed" && payload["order"] == order);
    });
    doctored(Reservations, "a reservation ends once", |log| {
        *log.payload("inventory.committed", 2, "/order") = json!(key(1).uuid());
    });
    doctored(Reservations, "reserves a product once", |log| {
        let order = json!(key(10).uuid());
        let place = log.of_order("inventory.reserved", 10).0.stream.id;
        for (event, payload, _) in &mut log.events {
            if event.event_type == "inventory.reserved" && payload["order"] == order {
                event.stream.id = place;
            }
        }
        log.number_anew();
    });
    doctored(Reservations, "which is not what the order says", |log| {
        *log.payload("inventory.reserved", 0, "/quantity") = json!(2);
    });
    doctored(Reservations, "an order ends once", |log| {
        let order = key(10).uuid();
        log.of_order("order.cancelled", 40).0.stream.id = order;
        log.number_anew();
    });
    doctored(Reservations, "it was being cancelled, and is sold all the same", |log| {
        let payment = json!(PaymentId::for_order(key(40)).uuid());
        let (event, payload, _) = log.of_order("order.cancelled", 40);
        event.event_type = "order.confirmed".into();
        *payload = json!({ "type": "order.confirmed", "payment": payment });
    });
    doctored(Reservations, "not all goods are held", |log| {
        log.of_order("inventory.reserved", 10).1["expires_at"] = json!(i64::MAX);
    });
    doctored(Reservations, "goods are promised to an order that was not placed", |log| {
        *log.payload("inventory.reserved", 0, "/order") = json!(Uuid::from_u128(5));
    });
    doctored(Reservations, "are not promised", |log| {
        let order = json!(key(50).uuid());
        log.without(|event, payload| event.event_type == "inventory.reserved" && payload["order"] == order);
    });
}

#[test]
fn deadlines() {
    use Invariant::Deadlines;
    doctored(Deadlines, "it still waits", |log| log.now += 3_600_000_000);
    doctored(Deadlines, "and they still are", |log| log.now += 2 * 3_600_000_000);
    doctored(Deadlines, "nothing is owed or timed", |log| log.unfinished.timers.clear());
    doctored(Deadlines, "was due at", |log| {
        for timer in &mut log.unfinished.timers {
            timer.due = 5;
        }
    });
    doctored(Deadlines, "is not JSON", |log| log.unfinished.timers[0].command = "{".into());
    doctored(Deadlines, "its time to pay is over", |log| {
        *log.payload("order.awaiting_payment", 2, "/until") = json!(i64::MAX);
    });
}

#[test]
fn idempotency() {
    use Invariant::Idempotency;
    doctored(Idempotency, "a key has one effect", |log| {
        let key = log.nth("order.placed", 0).2["idempotencyKey"].clone();
        log.nth("order.placed", 1).2["idempotencyKey"] = key;
    });
    doctored(Idempotency, "have their answer recorded", |log| drop(log.records.pop()));
    doctored(Idempotency, "holds no answer", |log| log.records[0].answer = (*b"nothing").into());
    doctored(Idempotency, "where the log has not come to", |log| {
        log.records[0].position = 70_000;
        log.records[0].answer = (*br#"{"version":1,"shard":0,"position":70000}"#).into();
    });
    doctored(Idempotency, "and its answer at", |log| log.records[0].position = 1);
    doctored(Idempotency, "which was never placed", |log| {
        let answer = format!(
            r#"{{"version":1,"shard":0,"position":3,"body":{{"orderId":"{}"}}}}"#,
            Uuid::from_u128(9)
        );
        log.records[0] = IdempotencyRecord {
            position: 3,
            answer: answer.into_bytes().into(),
            key: RecordKey([1; 16]),
            ..log.records[0].clone()
        };
    });
}

#[test]
fn chain() {
    use Invariant::Chain;
    doctored(Chain, "versions are contiguous", |log| {
        log.nth("order.cancelled", 0).0.sequence = 77;
    });
    doctored(Chain, "an event id is unique", |log| {
        let id = log.events[0].0.event_id;
        log.events[8].0.event_id = id;
    });
    doctored(Chain, "an event id is unique", |log| {
        log.events[7].0.event_id = Uuid::from_u128(9);
        log.events[8].0.event_id = Uuid::from_u128(9);
    });
    doctored(Chain, "is of another log", |log| {
        let (high, low) = log.events[8].0.event_id.as_u64_pair();
        log.events[8].0.event_id = Uuid::from_u64_pair(high ^ (1 << 40), low);
    });
    doctored(Chain, "recorded time never goes back", |log| log.events[9].0.recorded_at = 1);
    doctored(Chain, "the cause comes before", |log| {
        log.nth("order.confirmed", 0).2["causationId"] = json!("nobody");
    });
    doctored(Chain, "the cause comes before", |log| {
        let later = log.events[100].0.event_id;
        log.events[50].2["causationId"] = json!(later);
    });
    doctored(Chain, "the correlation is missing", |log| {
        drop(log.events[5].2.as_object_mut().map(|members| members.remove("correlationId")));
    });
    doctored(Chain, "there is neither", |log| {
        drop(log.nth("order.placed", 0).2.as_object_mut().map(|members| members.remove("actor")));
    });
    doctored(Chain, "the metadata cannot be read", |log| log.events[5].2["more"] = json!({}));
    doctored(Chain, "the payload cannot be read", |log| log.events[5].1 = json!(7));
    doctored(Chain, "the payload cannot be read", |log| {
        drop(log.nth("order.placed", 0).1.as_object_mut().map(|members| members.remove("total")));
    });
    doctored(Chain, "and its payload a", |log| {
        log.nth("order.confirmed", 0).1["type"] = json!("order.cancelled");
    });
    doctored(Chain, "is unknown", |log| {
        let confirmed = log.nth("order.confirmed", 0);
        confirmed.0.event_type = "order.blessed".into();
        confirmed.1["type"] = json!("order.blessed");
    });
    doctored(Chain, "version \"9.0.0\" is unknown", |log| {
        log.events[5].0.event_version = "9.0.0".into();
    });
    doctored(Chain, "is not what happens to a", |log| {
        log.nth("order.confirmed", 0).0.stream.kind = "wallet".into();
    });
    doctored(Chain, "an order number is unique", |log| {
        let number = log.nth("order.placed", 0).1["number"].clone();
        log.nth("order.placed", 1).1["number"] = number;
    });
    doctored(Chain, "which does not come before it", |log| {
        *log.payload("purchase.advanced", 0, "/seen/0") = json!(5_000);
    });
    doctored(Chain, "the head has numbered", |log| log.orders_numbered += 1);
    doctored(Chain, "an order that was not placed", |log| {
        log.nth("order.confirmed", 0).0.stream.id = Uuid::from_u128(5);
    });
}

#[test]
fn durability_fencing_and_privacy() {
    doctored(Invariant::Durability, "for an order that the log does not know", |log| {
        let provided = log.ledger[&key(10).uuid()];
        log.ledger.insert(Uuid::from_u128(5), provided);
    });
    doctored(Invariant::Durability, "before it was recorded", |log| {
        log.ledger.entry(key(10).uuid()).or_default().charged_at = Some(5);
    });
    doctored(Invariant::Durability, "does not say that it was asked to", |log| {
        let provided = log.ledger[&key(10).uuid()];
        log.ledger.insert(key(50).uuid(), provided);
    });
    doctored(Invariant::Fencing, "epoch", |log| {
        let batches = log.batches.len();
        log.batches[batches - 1].1 = 2;
    });
    doctored(Invariant::Privacy, "address is not sealed", |log| {
        *log.payload("order.placed", 0, "/address") = json!("Hidden Street 1");
    });
    doctored(Invariant::Privacy, "name is not sealed", |log| {
        *log.payload("email.claimed", 0, "/registration/name") = json!("민지");
    });
    doctored(Invariant::Privacy, "reason is not sealed", |log| {
        *log.payload("order.cancellation_requested", 0, "/reason") = json!("I changed my mind");
    });
    doctored(Invariant::Privacy, "e-mail address", |log| {
        *log.payload("inventory.adjusted", 0, "/reason") = json!("minji@example.com broke it");
    });
}

#[test]
fn nothing_may_be_left_when_nothing_is_under_way_any_more() {
    let log = contents();
    let options = Options {
        quiescent: true,
        ledger: Some(log.ledger.clone()),
        now: Some(log.now),
        ..Options::default()
    };
    let report = verify_log(&log.rewritten(), &options).expect("the log can be read");
    assert_eq!(report.found, 1, "{:#?}", report.findings);
    assert!(report.findings[0].what.contains("nothing is under way any more"));
    assert_eq!(report.findings[0].place.order, Some(key(50).uuid()));
}
