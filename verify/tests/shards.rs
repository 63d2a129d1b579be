//! A log of several shards: what holds there, and what is found when it does not.

mod world;

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use event_store::{
    Batch, Event, EventStore, Hash, Head, IdempotencyRecord, LogReader, MemoryStore, Parked, RecordKey, Shards, StoreError, StreamId,
    StreamRead, StreamSlice, Unfinished, Unparked, batch_hash,
};
use serde_json::{Value, json};
use uuid::Uuid;
use verify::{Invariant, Ledger, Options, Report, verify_log};
use world::{Paid, World, buyer, key, product};

const LOG: Uuid = Uuid::from_u128(0x1234_5678 << 96 | 7);
const FOUR: u16 = 4;

fn four() -> Shards {
    Shards::new(FOUR).expect("four")
}

fn shard_of(id: Uuid) -> u16 {
    four().of(id)
}

#[test]
fn a_shop_over_several_shards_is_sound_at_every_moment() {
    for shards in [2, FOUR] {
        let store = MemoryStore::new(LOG);
        let mut world = World::open_over(&store, shards);
        let (log, looks) = (store.clone(), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&looks);
        world.look = Some(Box::new(move |now| {
            let options = Options {
                now: Some(now),
                ..Options::default()
            };
            let report = verify_log(&log, &options).expect("the log can be read");
            assert_eq!(report.findings, [], "{:?}", report.counts);
            counted.fetch_add(1, Ordering::Relaxed);
        }));
        world.live();
        assert!(looks.load(Ordering::Relaxed) > 40, "{looks:?}");
        let options = Options {
            ledger: Some(world.ledger()),
            now: Some(world.clock),
            ..Options::default()
        };
        let report = verify_log(&store, &options).expect("the log can be read");
        assert_eq!(report.findings, [], "{:?}", report.counts);
        let counts = &report.counts;
        assert_eq!((counts.events, counts.shards), (world.head(), u64::from(shards)));
        assert_eq!(
            (counts.orders, counts.confirmed, counts.cancelled, counts.under_way),
            (15, 7, 7, 1),
            "{counts:?}"
        );
        assert_eq!((counts.balances, counts.sold), (100_000 - 45_000, 17), "{counts:?}");
        assert_eq!(counts.records, Some(counts.keyed_requests));
        assert!(counts.messages > 10, "{counts:?}");
    }
}

/// A log of which one shard after another goes on whenever somebody looks at it.
struct Live {
    store: MemoryStore,
    /// And how many steps were taken.
    world: Mutex<(World, u64)>,
}

impl Live {
    fn go_on(&self) {
        let (world, next) = &mut *self.world.lock().expect("nobody panics with it");
        // There is always an order that has just begun.
        world.place(100 + *next, Paid::Card(Some("ok")), &[(2, 1)]);
        for _ in 0..3 {
            world.step(u16::try_from(*next % u64::from(FOUR)).expect("small"));
            world.answer_calls();
            *next += 1;
        }
    }
}

impl LogReader for Live {
    fn head(&self, shard: u16) -> Result<Option<Head>, StoreError> {
        self.go_on();
        self.store.head(shard)
    }

    fn read(
        &self,
        records: &[RecordKey],
        streams: &[StreamRead],
    ) -> Result<(Vec<Option<IdempotencyRecord>>, Vec<StreamSlice>), StoreError> {
        self.store.read(records, streams)
    }

    fn events(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.go_on();
        self.store.events(shard, after, limit)
    }

    fn stream(&self, stream: &StreamId, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.store.stream(stream, after, limit)
    }

    fn batches(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<(u64, Hash, Hash, u64)>, StoreError> {
        self.store.batches(shard, after, limit)
    }

    fn unfinished(&self, shard: u16) -> Result<Unfinished, StoreError> {
        self.go_on();
        self.store.unfinished(shard)
    }

    fn parked(&self, shard: u16, limit: usize) -> Result<Vec<Parked>, StoreError> {
        self.store.parked(shard, limit)
    }

    fn parked_input(&self, shard: u16, id: Uuid) -> Result<Option<Parked>, StoreError> {
        self.store.parked_input(shard, id)
    }

    fn unparked(&self, shard: u16, id: Uuid) -> Result<Option<Unparked>, StoreError> {
        self.store.unparked(shard, id)
    }

    fn shard_count(&self) -> Result<Option<Shards>, StoreError> {
        self.store.shard_count()
    }

    fn shards(&self) -> Result<Vec<u16>, StoreError> {
        self.store.shards()
    }

    fn records(&self, after: Option<RecordKey>, limit: usize) -> Result<Option<Vec<IdempotencyRecord>>, StoreError> {
        self.go_on();
        self.store.records(after, limit)
    }
}

#[test]
fn a_log_that_goes_on_while_it_is_read_is_sound_whenever_that_begins() {
    let (mut went_on, mut moved) = (0, 0);
    for begins in 0..60 {
        let store = MemoryStore::new(LOG);
        let mut world = World::open_over(&store, FOUR);
        for number in 1..=4 {
            world.place(number, Paid::Balance, &[(0, 1), (3, 2)]);
        }
        world.place(10, Paid::Card(Some("ok-10")), &[(0, 1), (1, 2)]);
        world.place(11, Paid::Card(Some("declined-11")), &[(1, 2), (2, 1)]);
        world.place(12, Paid::Card(None), &[(1, 1), (2, 1)]);
        world.place(13, Paid::Balance, &[(0, 50), (2, 1)]);
        world.receive(2, 1_000);
        let options = Options {
            now: Some(world.clock),
            ..Options::default()
        };
        let live = Live {
            store: store.clone(),
            world: Mutex::new((world, 0)),
        };
        for _ in 0..begins {
            live.go_on();
        }
        let head = || live.world.lock().expect("nobody panicked").0.head();
        let before = head();
        let report = verify_log(&live, &options).expect("the log can be read");
        assert_eq!(report.findings, [], "it began after {begins} steps: {:?}", report.counts);
        went_on += u64::from(head() > report.counts.events);
        moved += u64::from(report.counts.events > before);
    }
    assert!(went_on > 20 && moved > 20, "{went_on} {moved}");
}

/// What is in a log of four shards.
#[derive(Clone)]
struct Contents {
    /// How many shards it says that it has.
    count: Option<u16>,
    /// By shard.
    events: Vec<Vec<(Event, Value, Value)>>,
    /// By shard: last position and epoch of each batch.
    batches: Vec<Vec<(u64, u64)>>,
    unfinished: Vec<Unfinished>,
    numbered: Vec<u64>,
    records: Vec<IdempotencyRecord>,
    ledger: Ledger,
    now: i64,
}

fn contents() -> Contents {
    static LIVED: OnceLock<Contents> = OnceLock::new();
    LIVED
        .get_or_init(|| {
            let store = MemoryStore::new(LOG);
            let mut world = World::open_over(&store, FOUR);
            world.live();
            read(&store, &world).expect("the log can be read")
        })
        .clone()
}

fn read(store: &MemoryStore, world: &World) -> Result<Contents, StoreError> {
    let json = |text: &str| serde_json::from_str(text).expect("JSON");
    let events = |shard: u16| {
        let events = store.events(shard, 0, usize::MAX)?;
        let parts = |event: Event| {
            let (payload, metadata) = (json(&event.payload), json(&event.metadata));
            (event, payload, metadata)
        };
        Ok(events.into_iter().map(parts).collect())
    };
    let batches = |shard: u16| {
        let batches = store.batches(shard, 0, usize::MAX)?;
        Ok(batches.into_iter().map(|(last, _, _, epoch)| (last, epoch)).collect())
    };
    let numbered = |shard: u16| Ok(store.head(shard)?.map_or(0, |head| head.orders_numbered));
    Ok(Contents {
        count: Some(FOUR),
        events: four().all().map(events).collect::<Result<_, StoreError>>()?,
        batches: four().all().map(batches).collect::<Result<_, StoreError>>()?,
        unfinished: four().all().map(|shard| store.unfinished(shard)).collect::<Result<_, _>>()?,
        numbered: four().all().map(numbered).collect::<Result<_, StoreError>>()?,
        records: store.records(None, usize::MAX)?.expect("this store lists them"),
        ledger: world.ledger(),
        now: world.clock,
    })
}

/// The id of another log's position, or of another epoch's, is another.
fn made(shard: u16, epoch: u16, position: u64) -> Uuid {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&LOG.as_bytes()[..4]);
    bytes[4..6].copy_from_slice(&shard.to_be_bytes());
    bytes[6..8].copy_from_slice(&epoch.to_be_bytes());
    bytes[8..].copy_from_slice(&position.to_be_bytes());
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// The shard of a place `S/N`.
fn shard_seen(seen: &Value) -> Option<u16> {
    seen.as_str()?.split_once('/')?.0.parse().ok()
}

impl Contents {
    fn find(&mut self, wanted: impl Fn(&Event, &Value) -> bool) -> &mut (Event, Value, Value) {
        let mut all = self.events.iter_mut().flatten();
        all.find(|(event, payload, _)| wanted(event, payload)).expect("there is one")
    }

    /// The event of this name that an order is named by.
    fn of_order(&mut self, name: &str, number: u64) -> &mut (Event, Value, Value) {
        let order = key(number).uuid();
        self.find(|event, payload| event.event_type == name && (event.stream.id == order || payload["order"] == json!(order)))
    }

    /// A purchase that saw something in a shard that is read after its own, or before.
    fn saw(&mut self, later: bool) -> (&mut (Event, Value, Value), usize) {
        let index = move |event: &Event, payload: &Value| {
            let seen = payload["seen"].as_array()?;
            let wanted = |shard: u16| if later { shard > event.shard } else { shard < event.shard };
            seen.iter().position(|seen| shard_seen(seen).is_some_and(wanted))
        };
        let found = self.find(|event, payload| index(event, payload).is_some());
        let at = index(&found.0, &found.1).expect("it was found by that");
        (found, at)
    }

    /// An event that was caused in a shard that is read after its own, or before.
    fn caused(&mut self, later: bool) -> &mut (Event, Value, Value) {
        let wanted = move |event: &Event, metadata: &Value| {
            let cause: Uuid = metadata["causationId"].as_str()?.parse().ok()?;
            let shard = u16::from_be_bytes([cause.as_bytes()[4], cause.as_bytes()[5]]);
            Some(if later { shard > event.shard } else { shard < event.shard })
        };
        let mut all = self.events.iter_mut().flatten();
        all.find(|(event, _, metadata)| wanted(event, metadata) == Some(true))
            .expect("there is one")
    }

    fn message(&mut self) -> (&mut IdempotencyRecord, Value) {
        let answer = |record: &IdempotencyRecord| serde_json::from_slice::<Value>(&record.answer).expect("JSON");
        let learnt = |record: &IdempotencyRecord| {
            answer(record)["message"]["learnt"]
                .as_array()
                .is_some_and(|learnt| !learnt.is_empty())
        };
        let record = self.records.iter_mut().find(|record| learnt(record)).expect("there is one");
        let answer = answer(record);
        (record, answer)
    }

    /// Writes it all anew, hashes and heads too.
    fn rewritten(&self) -> MemoryStore {
        let store = MemoryStore::new(LOG);
        let mut writer = store.writer().expect("a writer");
        if let Some(count) = self.count.and_then(Shards::new) {
            writer.found(count).expect("a new log");
        }
        for (shard, index) in four().all().zip(0..) {
            let mut head = writer.take(shard, Uuid::nil(), 0).expect("free");
            let mut events = self.events[index].iter().map(|(event, payload, metadata)| Event {
                payload: payload.to_string().into(),
                metadata: metadata.to_string().into(),
                ..event.clone()
            });
            let batches = &self.batches[index];
            for (number, (last, epoch)) in batches.iter().enumerate() {
                while head.epoch < *epoch {
                    head = writer.take(shard, Uuid::nil(), 0).expect("free");
                }
                let few = usize::try_from(*last - head.position).expect("small");
                let events: Vec<_> = events.by_ref().take(few).collect();
                let ends = number + 1 == batches.len();
                let batch = Batch {
                    shard,
                    epoch: head.epoch,
                    first_position: head.position + 1,
                    hash: batch_hash(&head.hash, &events),
                    previous_hash: head.hash,
                    // Records are the whole log's.
                    records: if ends && index == 0 { self.records.clone() } else { Vec::new() },
                    owed: if ends { self.unfinished[index].effects.clone() } else { Vec::new() },
                    timers: if ends { self.unfinished[index].timers.clone() } else { Vec::new() },
                    orders_numbered: self.numbered[index],
                    events,
                    ..Batch::default()
                };
                writer.commit(&[&batch]).expect("written");
                (head.position, head.hash) = (*last, batch.hash);
            }
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

/// Changes the log, and says what must be found.
fn doctored(invariant: Invariant, words: &str, change: impl FnOnce(&mut Contents)) -> Report {
    let mut contents = contents();
    change(&mut contents);
    let report = contents.verified();
    let found = report
        .findings
        .iter()
        .any(|finding| finding.invariant == invariant && finding.what.contains(words));
    assert!(found, "{invariant}: {words:?} is not among {:#?}", report.findings);
    report
}

/// The same, and nothing else may be found.
fn doctored_only(invariant: Invariant, words: &str, change: impl FnOnce(&mut Contents)) -> String {
    let report = doctored(invariant, words, change);
    assert_eq!(report.found, 1, "{:#?}", report.findings);
    report.findings[0].to_string()
}

#[test]
fn a_log_that_is_only_written_anew_is_sound() {
    assert_eq!(contents().verified().findings, []);
}

#[test]
fn a_stream_is_in_its_keys_shard() {
    use Invariant::Chain;
    let told = doctored_only(Chain, "a stream is in its key's shard", |log| {
        let (event, ..) = log.find(|event, _| event.event_type == "email.claimed");
        let elsewhere = (0..1_000).map(Uuid::from_u128).find(|id| shard_of(*id) != event.shard);
        event.stream.id = elsewhere.expect("there are others");
    });
    assert!(told.contains(": a stream is in its key's shard, and this one's is "), "{told}");
    // A purchase is kept where its order is.
    doctored(Chain, "a stream is in its key's shard", |log| {
        let (event, ..) = log.find(|event, _| event.stream.kind == "purchase");
        let elsewhere = (0..1_000).map(Uuid::from_u128).find(|id| shard_of(*id) != event.shard);
        event.stream.id = elsewhere.expect("there are others");
    });
}

#[test]
fn the_heads_are_those_of_the_shards() {
    use Invariant::Chain;
    doctored(Chain, "the log has 6 shards, and no head of 4, 5", |log| log.count = Some(6));
    doctored(
        Chain,
        "the log has 1024 shards, and no head of 4, 5, 6, 7, 8, 9, 10, 11, 12, 13 and more",
        |log| {
            log.count = Some(1_024);
        },
    );
    let beyond = doctored(Chain, "it has a head, and the log has 3 shards of them", |log| log.count = Some(3));
    assert!(
        beyond.findings.iter().any(|finding| finding.place.shard == Some(3)),
        "{:#?}",
        beyond.findings
    );
    doctored(Chain, "it has a head, and the log has 1 shard of them", |log| log.count = None);
    // A log in which nothing has happened yet may still be at its beginning.
    let store = MemoryStore::new(LOG);
    let mut writer = store.writer().expect("a writer");
    writer.found(four()).expect("a new log");
    writer.take(0, Uuid::nil(), 0).expect("free");
    let report = verify_log(&store, &Options::default()).expect("the log can be read");
    assert_eq!(report.findings, []);
}

#[test]
fn what_a_purchase_saw_in_another_shard_is_an_event_of_its_order() {
    use Invariant::Chain;
    for later in [true, false] {
        let see = |seen: Value| {
            move |log: &mut Contents| {
                let ((_, payload, _), at) = log.saw(later);
                payload["seen"][at] = seen;
            }
        };
        doctored_only(Chain, "it has seen 9/3, and there is no such shard", see(json!("9/3")));
        doctored_only(Chain, "the payload cannot be read", see(json!("3")));
        let far = |log: &mut Contents| {
            let ((_, payload, _), at) = log.saw(later);
            let shard = shard_seen(&payload["seen"][at]).expect("a place");
            payload["seen"][at] = json!(format!("{shard}/70000"));
        };
        doctored_only(Chain, "where the log has not come to", far);
        let before_all = |log: &mut Contents| {
            let ((_, payload, _), at) = log.saw(later);
            let shard = shard_seen(&payload["seen"][at]).expect("a place");
            payload["seen"][at] = json!(format!("{shard}/0"));
        };
        doctored_only(Chain, "where the log has not come to", before_all);
        // The first event of each shard is what a shop begins with.
        let first = |log: &mut Contents| {
            let ((_, payload, _), at) = log.saw(later);
            let shard = shard_seen(&payload["seen"][at]).expect("a place");
            payload["seen"][at] = json!(format!("{shard}/1"));
        };
        let words = if later {
            "has seen this, which is no event of that order"
        } else {
            "which is no event of this order"
        };
        doctored_only(Chain, words, first);
        let own = |log: &mut Contents| {
            let ((event, payload, _), at) = log.saw(later);
            payload["seen"][at] = json!(format!("{}/1", event.shard));
        };
        doctored_only(Chain, "which is a place in its own shard", own);
        // One that concerns another order, and is seen by that order's purchase too.
        let of_another = |log: &mut Contents| {
            let ((event, payload, _), at) = log.saw(later);
            let (order, position) = (event.stream.id, event.position);
            let (home, shard) = (event.shard, shard_seen(&payload["seen"][at]).expect("a place"));
            let seen_by_another = log.events[usize::from(home)].iter().find_map(|(event, payload, _)| {
                let seen = payload["seen"].as_array().filter(|_| event.stream.id != order)?;
                seen.iter().find(|seen| shard_seen(seen) == Some(shard)).cloned()
            });
            let ((_, payload, _), at) = log.saw(later);
            payload["seen"][at] = seen_by_another.unwrap_or_else(|| panic!("nobody else than {home}/{position} saw anything in {shard}"));
        };
        doctored(Chain, if later { "order" } else { "which is no event of this order" }, of_another);
    }
    doctored_only(Chain, "which does not come before it", |log| {
        let (_, payload, _) = log.find(|_, payload| payload["seen"][0].is_number());
        payload["seen"][0] = json!(5_000);
    });
}

#[test]
fn a_cause_in_another_shard_is_there() {
    use Invariant::Chain;
    for later in [true, false] {
        let cause = |change: fn(u16, u64) -> Uuid| {
            move |log: &mut Contents| {
                let (_, _, metadata) = log.caused(later);
                let cause: Uuid = metadata["causationId"].as_str().expect("a text").parse().expect("an id");
                let bytes = cause.as_bytes();
                let shard = u16::from_be_bytes([bytes[4], bytes[5]]);
                metadata["causationId"] = json!(change(shard, cause.as_u64_pair().1 & (u64::MAX >> 2)));
            }
        };
        doctored_only(Chain, "the cause comes before", cause(|shard, _| made(shard, 1, 70_000)));
        doctored_only(Chain, "the cause comes before", cause(|shard, _| made(shard, 1, 0)));
        doctored_only(Chain, "the cause comes before", cause(|_, _| made(9, 1, 1)));
        doctored_only(Chain, "the cause comes before", cause(|_, _| Uuid::nil()));
        doctored_only(
            Chain,
            "is of another log",
            cause(|_, _| Uuid::from_u128(0x8 << 76 | 0b10 << 62 | 1)),
        );
        let words = if later {
            "was made by epoch 7, and epoch 1 wrote here"
        } else {
            "is that of"
        };
        doctored_only(Chain, words, cause(|shard, position| made(shard, 7, position)));
        assert_eq!(
            {
                let mut log = contents();
                cause(|shard, position| made(shard, 1, position))(&mut log);
                log.verified().findings
            },
            []
        );
    }
    // An id that does not say where it was made is known once all shards are read.
    let foreign = Uuid::from_u128(0x4000_8000_0000_0000_0000);
    let mut log = contents();
    log.events[3][0].0.event_id = foreign;
    let old = made(3, 1, 1).to_string();
    for (_, _, metadata) in log.events.iter_mut().flatten() {
        if metadata["causationId"] == json!(old) {
            metadata["causationId"] = json!(foreign);
        }
    }
    log.caused(true).2["causationId"] = json!(foreign);
    assert_eq!(log.verified().findings, []);
}

#[test]
fn a_message_is_answered_once_for_an_order_of_its_senders() {
    use Invariant::Idempotency;
    let change = |words: &'static str, change: fn(&mut IdempotencyRecord, &mut Value)| {
        doctored_only(Idempotency, words, |log| {
            let (record, mut answer) = log.message();
            change(record, &mut answer);
            record.answer = answer.to_string().into_bytes().into();
        })
    };
    change("which there is not", |_, answer| answer["shard"] = json!(9));
    change("where the log has not come to", |record, answer| {
        record.position = 70_000;
        answer["position"] = json!(70_000);
    });
    change("and its answer at", |record, _| record.position += 1);
    change("has the fingerprint of a request", |record, _| record.fingerprint = [7; 16]);
    change("answers a message of shard", |_, answer| {
        answer["message"]["from"] = answer["shard"].clone();
    });
    change("answers a message of shard 9", |_, answer| answer["message"]["from"] = json!(9));
    change("tells of", |_, answer| {
        let shard = answer["shard"].clone();
        answer["message"]["learnt"][0]["seen"] = json!(format!("{shard}/70000"));
    });
    change("which is not kept there", |_, answer| {
        let from = answer["message"]["from"].as_u64().expect("a number");
        let elsewhere = (0..1_000).map(Uuid::from_u128).find(|id| u64::from(shard_of(*id)) != from);
        answer["message"]["learnt"][0]["order"] = json!(elsewhere.expect("there are others"));
    });
    change("which was never placed", |_, answer| {
        let from = answer["message"]["from"].as_u64().expect("a number");
        let unknown = (0..1_000).map(Uuid::from_u128).find(|id| u64::from(shard_of(*id)) == from);
        answer["message"]["learnt"][0]["order"] = json!(unknown.expect("there are some"));
    });
    change("holds no answer", |_, answer| answer["message"] = Value::Null);
    // They are not taken for the answers of requests.
    doctored(Idempotency, "have their answer recorded", |log| {
        let request = |record: &IdempotencyRecord| record.fingerprint != [0; 16];
        let at = log.records.iter().position(request).expect("there is one");
        log.records.remove(at);
    });
}

#[test]
fn an_order_number_says_which_shard_gave_it() {
    doctored_only(Invariant::Chain, "is not one that shard", |log| {
        let number = &mut log.find(|event, _| event.event_type == "order.placed").1["number"];
        let next = number.as_str().expect("a text").parse::<u64>().expect("a number") + 4 * 1_000 + 1;
        *number = json!(next.to_string());
    });
}

#[test]
fn goods() {
    use Invariant::{Reservations, Stock};
    doctored(Stock, "no oversell", |log| {
        log.find(|event, _| event.event_type == "inventory.reserved" && event.stream.id == product(0).uuid())
            .1["quantity"] = json!(500);
    });
    doctored(Stock, "are refused for", |log| {
        log.find(|event, _| event.event_type == "inventory.out_of_stock").1["available"] = json!(60);
    });
    doctored(Reservations, "which is not what the order says", |log| {
        log.of_order("inventory.reserved", 1).1["quantity"] = json!(3);
    });
    doctored(
        Reservations,
        "the provider is asked for the money, and not all goods are held",
        |log| {
            let held = log.of_order("inventory.held", 20);
            held.0.event_type = "inventory.not_held".into();
            held.1["type"] = json!("inventory.not_held");
        },
    );
    doctored(
        Reservations,
        "the balance is asked for the money, and not all goods are held",
        |log| {
            log.of_order("inventory.reserved", 1).1["expires_at"] = json!(i64::MAX);
        },
    );
    doctored(Reservations, "are not sold", |log| {
        let sold = log.of_order("inventory.committed", 10);
        sold.0.event_type = "inventory.released".into();
        sold.1["type"] = json!("inventory.released");
    });
    doctored(Reservations, "are sold", |log| {
        let free = log.of_order("inventory.released", 11);
        free.0.event_type = "inventory.committed".into();
        free.1["type"] = json!("inventory.committed");
    });
    doctored(Reservations, "what was promised is free again", |log| {
        let free = log.of_order("inventory.released", 11);
        free.0.event_type = "inventory.release_noted".into();
        free.1["type"] = json!("inventory.release_noted");
    });
    doctored(Reservations, "a reservation ends once", |log| {
        log.of_order("inventory.committed", 2).1["order"] = json!(key(1).uuid());
    });
    doctored(Invariant::Chain, "for an order that was not placed", |log| {
        log.of_order("inventory.reserved", 1).1["order"] = json!(Uuid::from_u128(5));
    });
}

#[test]
fn money() {
    use Invariant::Money;
    doctored(Money, "an order is debited once, with its total of 15000: it was with 1", |log| {
        log.of_order("wallet.debited", 1).1["amount"]["amount"] = json!(1);
    });
    doctored(Money, "are taken from the balance, which says 0", |log| {
        let debited = log.of_order("wallet.debited", 1);
        debited.0.event_type = "wallet.debit_refused".into();
        debited.1["type"] = json!("wallet.debit_refused");
    });
    doctored(Money, "the order is not one that this balance pays", |log| {
        log.of_order("wallet.debited", 1).1["order"] = json!(key(10).uuid());
    });
    doctored(Money, "what is captured is the total", |log| {
        log.of_order("payment.captured", 1).1["amount"]["amount"] = json!(1);
    });
    doctored(Money, "are to be paid, and the total is", |log| {
        log.of_order("payment.prepared", 1).1["amount"]["amount"] = json!(1);
    });
    doctored(Money, "ledger and ours differ", |log| {
        log.ledger.remove(&key(10).uuid());
    });
    doctored(Money, "a wallet is never negative", |log| {
        log.find(|event, _| event.event_type == "wallet.deposited").1["amount"]["amount"] = json!(5);
    });
    doctored(Invariant::Durability, "for an order that the log does not know", |log| {
        let provided = log.ledger[&key(10).uuid()];
        log.ledger.insert(Uuid::from_u128(5), provided);
    });
}

#[test]
fn an_order_on_its_way_is_waited_for_by_something_in_any_shard() {
    use Invariant::Deadlines;
    let waits = |log: &mut Contents| {
        let order = key(50).uuid().to_string();
        let payment = Uuid::from_u128(key(50).uuid().as_u128() ^ 1).to_string();
        let names = move |json: &str| json.contains(&order) || json.contains(&payment);
        let mut timers = Vec::new();
        for unfinished in &mut log.unfinished {
            let (named, rest) = unfinished.timers.drain(..).partition(|timer| names(&timer.command));
            timers.extend::<Vec<_>>(named);
            unfinished.timers = rest;
        }
        timers
    };
    doctored(Deadlines, "nothing is owed or timed that takes it on", |log| {
        assert!(waits(log).len() > 1);
    });
    // One of them in a shard that has nothing to do with it is enough: a message, say.
    let mut log = contents();
    let elsewhere = four()
        .all()
        .find(|shard| *shard != shard_of(key(50).uuid()))
        .expect("there are others");
    let timer = waits(&mut log).pop().expect("there is one");
    let message = format!(r#"{{"Message":{{"to":1,"task":{{"deed":{{"{}":[]}}}}}}}}"#, key(50).uuid());
    log.unfinished[usize::from(elsewhere)].effects.push(event_store::OwedEffect {
        id: timer.id,
        effect: message.into(),
    });
    let found = log.verified().findings;
    assert!(found.iter().all(|finding| !finding.what.contains("nothing is owed")), "{found:#?}");
    let quiescent = Options {
        quiescent: true,
        now: Some(log.now),
        ..Options::default()
    };
    let report = verify_log(&contents().rewritten(), &quiescent).expect("the log can be read");
    assert_eq!(report.found, 1, "{:#?}", report.findings);
    assert!(report.findings[0].what.contains("nothing is under way any more"));
}

#[test]
fn a_position_names_its_shard() {
    let report = doctored(Invariant::Privacy, "is not sealed", |log| {
        log.find(|event, _| event.shard == 0 && event.event_type == "order.placed").1["address"] = json!("Hidden Street 1");
    });
    let told = report.findings[0].to_string();
    assert!(told.contains("position 0/"), "{told}");
}

#[test]
fn what_happens_after_the_ledger_was_read_is_not_compared_with_it_in_any_shard() {
    let log = contents();
    let store = log.rewritten();
    let verified = |ledger_heads: Vec<(u16, u64)>| {
        let options = Options {
            ledger: Some(Ledger::new()),
            ledger_heads,
            now: Some(log.now),
            ..Options::default()
        };
        verify_log(&store, &options).expect("the log can be read").found(Invariant::Money)
    };
    let heads: Vec<_> = four()
        .all()
        .zip(&log.events)
        .map(|(shard, events)| (shard, events.len() as u64))
        .collect();
    let all = verified(heads.clone());
    assert_eq!(verified(Vec::new()), all);
    assert!(all > 3);
    // Only the shards of the orders move, and those orders are passed over.
    let home = shard_of(key(10).uuid());
    let mut moved = heads.clone();
    moved[usize::from(home)].1 = 0;
    assert!(verified(moved) < all);
    assert_eq!(verified(heads.into_iter().map(|(shard, _)| (shard, 0)).collect()), 0);
}

/// The buyer's wallet, the products and the orders are kept by several shards, or nothing of this shows anything.
#[test]
fn what_belongs_together_is_spread() {
    let mut log = contents();
    let later = log.saw(true).0.0.shard;
    assert_ne!(later, log.saw(false).0.0.shard);
    let orders: std::collections::BTreeSet<_> = [1, 2, 3, 10, 11, 12, 13].map(|number| shard_of(key(number).uuid())).into();
    assert!(orders.len() > 2, "{orders:?}");
    assert!(orders.iter().any(|shard| *shard != shard_of(buyer().uuid())), "{orders:?}");
    assert!(log.events.iter().all(|events| events.len() > 10));
}
