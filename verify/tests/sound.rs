//! What a shop leaves behind holds, wherever it is kept.

mod world;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use event_store::{EventStore, MemoryStore};
use event_store_sqlite::SqliteStore;
use uuid::Uuid;
use verify::{Invariant, Options, Provided, Report, verify_log};
use world::{Paid, World, key};

fn options(world: &World) -> Options {
    Options {
        ledger: Some(world.ledger()),
        now: Some(world.clock),
        ..Options::default()
    }
}

fn verify(store: &dyn EventStore, world: &World) -> Report {
    verify_log(store.reader().expect("a reader").as_ref(), &options(world)).expect("the log can be read")
}

#[test]
fn a_shop_that_went_every_way_is_sound_at_every_moment() {
    let store = MemoryStore::new(Uuid::from_u128(7));
    let mut world = World::open(&store);
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
    assert!(looks.load(Ordering::Relaxed) > 15, "{looks:?}");
    let report = verify(&store, &world);
    assert_eq!(report.findings, [], "{:?}", report.counts);
    let counts = &report.counts;
    assert_eq!(counts.events, world.head());
    assert_eq!(
        (counts.orders, counts.confirmed, counts.cancelled, counts.under_way),
        (15, 7, 7, 1),
        "{counts:?}"
    );
    assert_eq!(
        (counts.captured, counts.reversed),
        (3 * 15_000 + 15_000 + 5_000 + 5_000 + 15_000 + 5_000, 5_000)
    );
    assert_eq!((counts.balances, counts.sold), (100_000 - 45_000, 17), "{counts:?}");
    assert_eq!(counts.records, Some(counts.keyed_requests));
}

#[test]
fn the_same_on_sqlite_in_the_same_words() {
    let memory = MemoryStore::new(Uuid::from_u128(7));
    let mut world = World::open(&memory);
    world.live();
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let sqlite = SqliteStore::open(scratch.path()).expect("a log");
    let mut other = World::open(&sqlite);
    other.live();
    assert_eq!(verify(&memory, &world), verify(&sqlite, &other));
}

#[test]
fn snapshots_are_compared_with_the_fold() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let memory = MemoryStore::new(Uuid::from_u128(7));
    let sqlite = SqliteStore::open(scratch.path()).expect("a log");
    for store in [&memory as &dyn EventStore, &sqlite] {
        let mut world = World::open(store);
        for _ in 0..600 {
            world.deposit(5);
            world.receive(1, 1);
        }
        world.settle();
        let report = verify(store, &world);
        assert_eq!((report.findings.as_slice(), report.counts.snapshots), ([].as_slice(), Some(2)));
    }
    let log = rusqlite::Connection::open(sqlite.path()).expect("the log");
    log.execute(
        "UPDATE snapshots SET state = CAST(replace(CAST(state AS TEXT), '10', '11') AS BLOB)",
        [],
    )
    .expect("changed");
    let options = Options::default();
    let report = verify_log(sqlite.reader().expect("a reader").as_ref(), &options).expect("the log can be read");
    assert!(report.found(Invariant::Views) > 0, "{:#?}", report.findings);
}

#[test]
fn money_that_a_refused_order_may_have_been_charged_is_a_finding_once_nobody_looks_for_it_any_more() {
    let store = MemoryStore::new(Uuid::from_u128(7));
    let mut world = World::open(&store);
    world.place(60, Paid::Card(Some("declined-60")), &[(0, 1)]);
    world.place(61, Paid::Card(Some("doubtful-61")), &[(0, 1)]);
    world.settle();
    let found = |order, quiescent| {
        let charged = Provided {
            charges: 1,
            charged: 5_000,
            ..Provided::default()
        };
        let options = Options {
            ledger: Some([(key(order).uuid(), charged)].into_iter().collect()),
            quiescent,
            ..options(&world)
        };
        let report = verify_log(&store, &options).expect("the log can be read");
        report
            .findings
            .iter()
            .any(|finding| finding.what.contains("ledger and ours differ"))
    };
    // A refusal that nothing casts doubt on is the last word.
    assert!(found(60, false) && found(60, true));
    // A first request may be on its way, and is looked for.
    assert!(!found(61, false) && found(61, true));
}
