//! Servers that die, stop answering, or are cut off.

mod database;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use aggregates::{Recorded, Timestamp};
use database::{Shared, address, anybody, dump, open, take, texts};
use postgres_session::Session;
use projections::{
    Changed, Fold, InventoryView, Move, OrdersQuestion, ReadError, Runner, Scope, ViewsBatch, ViewsError, ViewsWriter, WalletView,
    conformance::{
        Place,
        shop::{Dice, Log, RandomShop, account, order, product, quick, wait_for, wait_until_counted, won},
    },
};
use projections_postgres::PostgresViews;
use test_servers::{Postgres, Proxy};
use uuid::Uuid;

const LOG: Uuid = Uuid::from_u128(1);

fn step(from: u64, to: u64) -> Move {
    Move {
        shard: 0,
        from,
        to,
        recorded_at: Timestamp::from_micros(7),
    }
}

fn wallet(version: u64) -> WalletView {
    WalletView {
        account: account(1),
        version,
        balance: won(i64::try_from(version).expect("small")),
    }
}

fn stock(version: u64) -> InventoryView {
    InventoryView {
        product: product(1),
        version,
        seller: account(9),
        unlimited: true,
        on_hand: 0,
        reserved: 0,
    }
}

/// Two rows that change together: one before, one behind in the transaction.
fn save(writer: &mut dyn ViewsWriter, version: u64, fresh: bool) -> Result<(), ViewsError> {
    let (wallet, stock) = (wallet(version), stock(version));
    writer.save(&ViewsBatch {
        inventories: vec![Changed { view: &stock, fresh }],
        wallets: vec![Changed { view: &wallet, fresh }],
        moves: &[step(version - 1, version)],
        ..ViewsBatch::default()
    })
}

/// Holds the row of the wallet, so that a save stands still behind the rows before it.
fn hold(url: &str) -> Session {
    let holder = anybody(url);
    holder
        .script("BEGIN; SELECT 1 FROM jangbu_views.wallets_v1 FOR UPDATE")
        .expect("the row is held");
    holder
}

fn wait_until(mut so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < Duration::from_secs(20), "it does not come to that");
        std::thread::yield_now();
    }
}

/// Until a save waits for a row.
fn wait_until_held(watcher: &Session) {
    let waiting = "SELECT 'x' FROM pg_stat_activity WHERE application_name = 'jangbu views writer' AND wait_event_type = 'Lock'";
    wait_until(|| !texts(watcher, waiting).is_empty());
}

fn versions(writer: &mut dyn ViewsWriter) -> (Vec<u64>, u64, u64) {
    let checkpoints = writer.stored().expect("what is stored").checkpoints;
    let wallets = projections::Table::<WalletView>::load(writer, &[account(1).uuid()]).expect("rows");
    let stocks = projections::Table::<InventoryView>::load(writer, &[product(1).uuid()]).expect("rows");
    (
        checkpoints.iter().map(|at| at.position).collect(),
        wallets[0].version,
        stocks[0].version,
    )
}

#[test]
fn a_save_in_the_middle_of_which_the_server_dies_has_saved_nothing() {
    let mut server = Postgres::start();
    let database = server.database();
    let (mut writer, _) = take(database.url());
    writer.reset(LOG).expect("new views");
    save(&mut *writer, 1, true).expect("saved");
    // What is asynchronous is durable with the next checkpoint of the server at the latest.
    anybody(database.url()).script("CHECKPOINT").expect("a checkpoint");
    let held = hold(database.url());
    let saving = std::thread::spawn(move || (save(&mut *writer, 2, false), writer));
    wait_until_held(&anybody(database.url()));
    server.kill();
    let (outcome, mut writer) = saving.join().expect("an outcome");
    assert!(matches!(outcome, Err(ViewsError::Unavailable(_))), "{outcome:?}");
    drop(held);
    assert!(writer.stored().is_err(), "the server is away");
    server.restart();
    assert_eq!(versions(&mut *writer), (vec![1], 1, 1));
    save(&mut *writer, 2, false).expect("saved");
    assert_eq!(versions(&mut *writer), (vec![2], 2, 2));
}

#[test]
fn a_save_of_which_nobody_heard_the_outcome_is_told_by_the_checkpoint() {
    let database = Shared::new();
    let (mut direct, _) = take(database.url());
    direct.reset(LOG).expect("new views");
    save(&mut *direct, 1, true).expect("saved");
    direct.give_up();
    let port = database
        .url()
        .rsplit_once(':')
        .and_then(|(_, rest)| rest.split('/').next())
        .and_then(|port| port.parse().ok());
    let proxy = Proxy::to(SocketAddr::from((Ipv4Addr::LOCALHOST, port.expect("a port"))));
    let (mut writer, _) = take(
        &database
            .url()
            .replace(&format!("127.0.0.1:{}", port.expect("a port")), &proxy.address().to_string()),
    );
    writer.stored().expect("what is stored");
    let held = hold(database.url());
    let saving = std::thread::spawn(move || (save(&mut *writer, 2, false), writer));
    wait_until_held(&anybody(database.url()));
    proxy.hold();
    held.script("COMMIT").expect("let go");
    wait_until(|| direct.stored().expect("what is stored").checkpoints[0].position == 2);
    proxy.cut();
    let (outcome, mut writer) = saving.join().expect("an outcome");
    assert!(matches!(outcome, Err(ViewsError::Unavailable(_))), "{outcome:?}");
    proxy.mend();
    let again = save(&mut *writer, 2, false);
    assert!(matches!(again, Err(ViewsError::Moved(0))), "{again:?}");
    assert_eq!(versions(&mut *writer), (vec![2], 2, 2));
}

/// The views of one fold of the first events of each shard.
fn folded(events: &[Arc<[Recorded]>], checkpoints: &BTreeMap<u16, u64>) -> String {
    let place = Shared::new();
    let (mut writer, _) = take(place.url());
    writer.reset(LOG).expect("new views");
    let mut fold = Fold::new(const { std::num::NonZeroUsize::new(1_000).expect("it is 1,000") });
    let counted: Vec<&Recorded> = events
        .iter()
        .flat_map(|batch| batch.iter())
        .filter(|recorded| {
            checkpoints
                .get(&recorded.shard)
                .is_some_and(|position| recorded.position <= *position)
        })
        .collect();
    let moves: Vec<Move> = checkpoints
        .iter()
        .filter_map(|(shard, position)| {
            let last = counted.iter().rfind(|recorded| recorded.shard == *shard)?;
            Some(Move {
                shard: *shard,
                from: 0,
                to: *position,
                recorded_at: last.at,
            })
        })
        .collect();
    assert!(fold.apply(&counted, &mut *writer).is_ok());
    writer.save(&fold.changed(&moves)).expect("saved");
    place.dump()
}

#[test]
fn views_go_on_where_a_server_that_dies_again_and_again_left_them() {
    const SHARDS: u16 = 2;
    let mut server = Postgres::start();
    let database = server.database();
    let mut dice = Dice(7);
    let mut shop = RandomShop::over(SHARDS);
    let mut log = Log::of(1, SHARDS);
    let mut events = Vec::new();
    for (shard, event) in shop.opening() {
        events.push(log.record(shard, &[Some(event)]));
    }
    let (writer, _) = open(database.url());
    let settings = || projections::RunnerSettings {
        batch_events: 20,
        ..quick()
    };
    let mut handle = Runner::start(Arc::new(log.store.clone()), writer, settings()).expect("a thread");
    for round in 1..=4 {
        for _ in 0..300 {
            let (shard, event) = shop.next(&mut dice);
            events.push(log.record(shard, &[event]));
        }
        // Somewhere on the way.
        let some = 40 + 30 * round;
        let before = handle.progress().borrow().position(0);
        wait_for(&handle, |progress| progress.position(0) > before + some / 2);
        server.kill();
        handle.stop();
        server.restart();
        let (mut writer, views) = open(database.url());
        let stored = writer.stored().expect("what is stored");
        let checkpoints: BTreeMap<u16, u64> = stored.checkpoints.iter().map(|at| (at.shard, at.position)).collect();
        assert_eq!(dump(&anybody(database.url())), folded(&events, &checkpoints), "round {round}");
        assert_eq!(views.positions().expect("positions"), stored.checkpoints);
        handle = Runner::start(Arc::new(log.store.clone()), writer, settings()).expect("a thread");
    }
    wait_until_counted(&handle, &log);
    handle.stop();
    assert_eq!(dump(&anybody(database.url())), folded(&events, &log.positions()));
}

#[test]
fn a_runner_whose_server_was_restarted_goes_on_by_itself() {
    let mut server = Postgres::start();
    let database = server.database();
    let mut log = Log::of(1, 1);
    let (writer, views) = open(database.url());
    let handle = Runner::start(Arc::new(log.store.clone()), writer, quick()).expect("a thread");
    for n in 1..=3 {
        log.record(0, &[Some(projections::conformance::shop::offered(n, "coffee", 9))]);
        wait_until_counted(&handle, &log);
        server.kill();
        assert!(matches!(views.positions(), Err(ReadError::Unavailable(_))));
        server.restart();
    }
    log.record(0, &[Some(projections::conformance::shop::offered(4, "coffee", 9))]);
    wait_until_counted(&handle, &log);
    assert_eq!(views.positions().expect("positions")[0].position, 4);
    let products: Vec<_> = (1..=4).map(product).collect();
    assert_eq!(views.products(&products).expect("an answer").len(), 4);
}

#[test]
fn readers_whose_sessions_were_ended_answer_on_new_ones() {
    let database = Shared::new();
    let (mut writer, views) = take(database.url());
    writer.reset(LOG).expect("new views");
    save(&mut *writer, 1, true).expect("saved");
    for _ in 0..3 {
        database
            .anybody()
            .script("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
            .expect("they are ended");
        assert_eq!(views.positions().expect("positions")[0].position, 1);
    }
    // Whoever writes says that it did not; the next call works.
    assert!(matches!(save(&mut *writer, 2, false), Err(ViewsError::Unavailable(_))));
    save(&mut *writer, 2, false).expect("saved");
}

#[test]
fn a_server_that_stands_still_is_not_waited_for_without_a_bound() {
    let server = Postgres::start();
    let database = server.database();
    let (_writer, views) = open(database.url());
    views.positions().expect("positions");
    server.freeze();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| assert!(matches!(views.positions(), Err(ReadError::Unavailable(_) | ReadError::Busy))));
        }
    });
    let took = started.elapsed();
    server.thaw();
    assert!(took < Duration::from_secs(8), "{took:?}");
    views.positions().expect("positions");
}

#[test]
fn a_question_that_takes_too_long_is_ended_and_said_to() {
    let database = Shared::new();
    let (_writer, views) = database.open();
    database
        .anybody()
        .script(
            "ALTER TABLE jangbu_views.orders_v2 RENAME TO orders;
             INSERT INTO jangbu_views.orders (id, number, tracking, buyer, placed_at, status, open, purchase, names, data)
             SELECT gen_random_uuid(), '', gen_random_uuid(), gen_random_uuid(), 1, '', true, true, '', '{}';
             CREATE VIEW jangbu_views.orders_v2 AS SELECT * FROM jangbu_views.orders WHERE pg_sleep(10) IS NOT NULL",
        )
        .expect("a slow table");
    let question = OrdersQuestion {
        scope: Scope::All,
        status: None,
        search: Some("nothing".into()),
        first: 10,
        after: None,
    };
    let started = Instant::now();
    assert!(matches!(views.orders_page(&question), Err(ReadError::TooSlow)));
    assert!(matches!(
        views.order_by_tracking(aggregates::TrackingId::for_order(order(1))),
        Ok(None) | Err(ReadError::TooSlow)
    ));
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    views.positions().expect("positions");
}

#[test]
fn views_may_be_let_go_where_nothing_may_block() {
    let database = Shared::new();
    let (writer, views) = PostgresViews::open(&address(database.url())).expect("views");
    projections::Views::positions(&*views).expect("positions");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async move { drop((writer, views)) });
}
