//! Of several processes one keeps the views; the others stand by, follow them, and go on when that one is gone.

mod database;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use aggregates::{CommerceEvent, Timestamp};
use database::{Shared, anybody, dump, open, take, texts};
use projections::{
    Changed, Follower, FollowerHandle, FollowerSettings, Move, Runner, RunnerHandle, RunnerSettings, RunnerState, Table, ViewsBatch,
    ViewsError, ViewsWriter, WalletView,
    conformance::{
        Place,
        shop::{Dice, Log, RandomShop, account, offered, progress_is, quick, wait_for, wait_until_counted, won},
    },
};
use test_servers::{Postgres, Proxy};
use uuid::Uuid;

const LOG: Uuid = Uuid::from_u128(1);

/// Rows that a second count would change.
fn save(writer: &mut dyn ViewsWriter, version: u64) -> Result<(), ViewsError> {
    let wallet = WalletView {
        account: account(1),
        version,
        balance: won(i64::try_from(version).expect("small")),
    };
    writer.save(&ViewsBatch {
        wallets: vec![Changed {
            view: &wallet,
            fresh: version == 1,
        }],
        moves: &[Move {
            shard: 0,
            from: version - 1,
            to: version,
            recorded_at: Timestamp::from_micros(7),
        }],
        ..ViewsBatch::default()
    })
}

fn version(writer: &mut dyn ViewsWriter) -> (u64, u64) {
    let stored = writer.stored().expect("what is stored");
    let wallets = Table::<WalletView>::load(writer, &[account(1).uuid()]).expect("rows");
    (stored.checkpoints[0].position, wallets[0].version)
}

fn is_held(outcome: &Result<(), ViewsError>) {
    assert!(matches!(outcome, Err(ViewsError::Held(_))), "{outcome:?}");
}

/// As if nothing had been heard of the holder for so long.
fn silent_for(database: &Shared, seconds: u32) {
    let change = format!("UPDATE jangbu_views.views SET seen_at = clock_timestamp() - interval '{seconds} seconds'");
    database.anybody().script(&change).expect("a change");
}

fn follow(url: &str, log: &Log) -> FollowerHandle {
    let settings = FollowerSettings {
        heads: Duration::from_millis(20),
        ..FollowerSettings::default()
    };
    Follower::start(open(url).1, Arc::new(log.store.clone()), settings).expect("a thread")
}

fn started(url: &str, log: &Log, settings: RunnerSettings) -> RunnerHandle {
    Runner::start(Arc::new(log.store.clone()), open(url).0, settings).expect("a thread")
}

fn stands_by(handle: &RunnerHandle) {
    wait_for(handle, |progress| matches!(progress.state, RunnerState::StandingBy { .. }));
}

/// The views of one who wrote alone.
fn alone(log: &Log) -> String {
    let place = Shared::new();
    let handle = started(place.url(), log, quick());
    wait_until_counted(&handle, log);
    handle.stop();
    place.dump()
}

fn port(url: &str) -> u16 {
    let port = url.rsplit_once(':').and_then(|(_, rest)| rest.split('/').next()?.parse().ok());
    port.expect("a port")
}

/// A proxy in front of a database's server, and the database behind it.
fn proxied(url: &str) -> (Proxy, String) {
    let port = port(url);
    let proxy = Proxy::to(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let url = url.replace(&format!("127.0.0.1:{port}"), &proxy.address().to_string());
    (proxy, url)
}

#[test]
fn one_writer_keeps_the_views_and_the_others_are_told_who() {
    let database = Shared::new();
    let (mut one, _) = take(database.url());
    let (mut other, _) = open(database.url());
    one.reset(LOG).expect("new views");
    save(&mut *one, 1).expect("saved");
    for _ in 0..2 {
        is_held(&other.take());
        is_held(&other.keep());
        is_held(&other.reset(Uuid::from_u128(2)));
        is_held(&save(&mut *other, 2));
    }
    let Err(ViewsError::Held(who)) = other.take() else {
        panic!("it is held")
    };
    assert!(
        texts(&database.anybody(), "SELECT backend::text FROM jangbu_views.views")
            .iter()
            .all(|process| who.contains(process)),
        "{who}"
    );
    // Whoever stands by may look.
    assert_eq!(version(&mut *other), (1, 1));
    one.take().expect("its own");
    one.keep().expect("its own");
    save(&mut *one, 2).expect("saved");
    one.give_up();
    is_held(&save(&mut *one, 3));
    other.take().expect("given up");
    save(&mut *other, 3).expect("saved");
    is_held(&one.take());
    assert_eq!(version(&mut *one), (3, 3));
}

#[test]
fn a_writer_that_was_frozen_finds_itself_fenced_and_counts_nothing_twice() {
    let database = Shared::new();
    let (mut frozen, _) = take(database.url());
    let (mut other, _) = open(database.url());
    frozen.reset(LOG).expect("new views");
    save(&mut *frozen, 1).expect("saved");
    silent_for(&database, 4);
    is_held(&other.take());
    silent_for(&database, 6);
    other.take().expect("the holder gave no sign of life");
    // The very batch that the other one has in hand, and one that nobody has saved.
    is_held(&save(&mut *frozen, 2));
    assert_eq!(version(&mut *other), (1, 1));
    save(&mut *other, 2).expect("saved");
    is_held(&frozen.reset(Uuid::from_u128(9)));
    is_held(&save(&mut *frozen, 3));
    is_held(&frozen.take());
    assert_eq!(version(&mut *other), (2, 2));
}

#[test]
fn of_many_that_find_the_views_free_at_once_one_takes_them() {
    let database = Shared::new();
    let (mut first, _) = take(database.url());
    first.reset(LOG).expect("new views");
    save(&mut *first, 1).expect("saved");
    first.give_up();
    for round in 1..6 {
        let mut writers: Vec<_> = (0..6).map(|_| open(database.url()).0).collect();
        let together = std::sync::Barrier::new(writers.len());
        let saved: Vec<bool> = std::thread::scope(|scope| {
            let race = |writer: &'_ mut Box<dyn ViewsWriter>| {
                together.wait();
                let taken = writer.take();
                together.wait();
                assert!(matches!(taken, Ok(()) | Err(ViewsError::Held(_))), "{taken:?}");
                let saved = save(&mut **writer, round + 1);
                assert_eq!(taken.is_ok(), saved.is_ok(), "{saved:?}");
                saved.is_ok()
            };
            let threads: Vec<_> = writers.iter_mut().map(|writer| scope.spawn(move || race(writer))).collect();
            threads.into_iter().map(|thread| thread.join().expect("an outcome")).collect()
        });
        assert_eq!(saved.iter().filter(|saved| **saved).count(), 1, "round {round}");
        assert_eq!(version(&mut *first), (round + 1, round + 1));
        for writer in &mut writers {
            writer.give_up();
        }
    }
}

#[test]
fn whoever_stands_by_goes_on_at_once_when_the_holders_session_ends() {
    let database = Shared::new();
    let mut log = Log::of(1, 2);
    log.record(0, &[Some(offered(1, "coffee", 9))]);
    let (writer, _) = take(database.url());
    let second = started(database.url(), &log, quick());
    stands_by(&second);
    let began = Instant::now();
    // It is not given up: what a process that is killed leaves is a session that ends.
    drop(writer);
    wait_for(&second, |progress| {
        progress.state == RunnerState::Running && progress.position(0) == 1
    });
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn a_runner_that_is_cut_off_is_replaced_and_stands_by_when_it_is_back() {
    let database = Shared::new();
    let (proxy, url) = proxied(database.url());
    let mut log = Log::of(1, 2);
    let first = started(&url, &log, quick());
    log.record(0, &[Some(offered(1, "coffee", 9))]);
    wait_until_counted(&first, &log);
    let second = started(database.url(), &log, quick());
    stands_by(&second);
    // From now on it hears nothing any more, and what it sends may be heard or not.
    proxy.hold();
    log.record(0, &[Some(offered(2, "tea", 9))]);
    log.record(1, &[Some(offered(3, "milk", 9))]);
    wait_for(&second, |progress| progress.state == RunnerState::Running);
    wait_until_counted(&second, &log);
    proxy.mend();
    stands_by(&first);
    log.record(0, &[Some(offered(4, "salt", 9))]);
    wait_until_counted(&second, &log);
    // Whoever stands by knows how far they are, too.
    wait_until_counted(&first, &log);
    second.stop();
    log.record(1, &[Some(offered(5, "bread", 9))]);
    wait_for(&first, |progress| progress.state == RunnerState::Running);
    wait_until_counted(&first, &log);
    first.stop();
    assert_eq!(database.dump(), alone(&log));
}

#[test]
fn runners_that_take_the_views_from_one_another_again_and_again_count_each_event_once() {
    let database = Shared::new();
    let mut dice = Dice(11);
    let mut shop = RandomShop::over(2);
    let mut log = Log::of(1, 2);
    for (shard, event) in shop.opening() {
        log.record(shard, &[Some(event)]);
    }
    let settings = |batch_events| RunnerSettings { batch_events, ..quick() };
    let runners: Vec<_> = [1, 7, 100].map(|most| started(database.url(), &log, settings(most))).into();
    let operator = database.anybody();
    for round in 0..60 {
        let mut happened: [Vec<Option<CommerceEvent>>; 2] = [Vec::new(), Vec::new()];
        for _ in 0..=dice.roll(20) {
            let (shard, event) = shop.next(&mut dice);
            happened[usize::from(shard)].push(event);
        }
        for (shard, events) in (0..).zip(&happened).filter(|(_, events)| !events.is_empty()) {
            let batch = log.record(shard, events);
            for runner in &runners {
                runner.tail().offer(batch.clone());
            }
        }
        match dice.roll(3) {
            // Its session ends in the middle of whatever it does.
            0 => operator.script("SELECT pg_terminate_backend(backend) FROM jangbu_views.views"),
            // It counts as frozen, and is not.
            1 => operator.script("UPDATE jangbu_views.views SET seen_at = '-infinity'"),
            _ => Ok(()),
        }
        .expect("done");
        if round % 10 == 0 {
            wait_until_counted(&runners[0], &log);
        }
    }
    for runner in &runners {
        wait_until_counted(runner, &log);
    }
    drop(runners);
    let epochs = texts(&operator, "SELECT epoch::text FROM jangbu_views.views");
    assert!(
        epochs.iter().all(|epoch| epoch.parse().is_ok_and(|epoch: u32| epoch > 5)),
        "{epochs:?}"
    );
    assert_eq!(database.dump(), alone(&log));
}

#[test]
fn views_of_a_newer_program_are_not_written_by_the_one_before() {
    let database = Shared::new();
    let (mut writer, _) = take(database.url());
    writer.reset(LOG).expect("new views");
    database.make_of_other_shapes();
    writer.give_up();
    let taken = writer.take();
    assert!(
        matches!(&taken, Err(ViewsError::Unavailable(error)) if error.to_string().contains("another version")),
        "{taken:?}"
    );
}

#[test]
fn a_writer_whose_server_may_only_be_read_any_more_goes_on_at_the_one_that_took_over() {
    let server = Postgres::start();
    let database = server.database();
    let before = server.address().to_string();
    let mut log = Log::of(1, 1);
    log.record(0, &[Some(offered(1, "coffee", 9))]);
    drop(open(database.url()));
    let follower = server.standby("follower");
    let both = database.url().replace(&before, &format!("{before},{}", follower.address()));
    let its_own = database.url().replace(&before, &follower.address().to_string());
    let runner = started(&both, &log, quick());
    wait_until_counted(&runner, &log);
    let has_it = anybody(&its_own);
    let began = Instant::now();
    while texts(&has_it, "SELECT position::text FROM jangbu_views.checkpoints").is_empty() {
        assert!(began.elapsed() < Duration::from_secs(20), "the follower does not follow");
        std::thread::sleep(Duration::from_millis(20));
    }
    // The first goes on as one that is read only, with all its sessions.
    server.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    server.sql("SELECT pg_reload_conf()");
    follower.sql("SELECT pg_promote()");
    log.record(0, &[Some(offered(2, "tea", 9))]);
    wait_until_counted(&runner, &log);
    runner.stop();
    assert_eq!(dump(&anybody(&its_own)), alone(&log));
}

#[test]
fn a_follower_is_told_of_what_is_saved() {
    let database = Shared::new();
    let mut log = Log::of(1, 2);
    let runner = started(database.url(), &log, quick());
    wait_for(&runner, |progress| progress.state == RunnerState::Running);
    let settings = FollowerSettings {
        poll: Duration::from_mins(10),
        poll_when_told: Duration::from_mins(10),
        ..FollowerSettings::default()
    };
    let follower = Follower::start(open(database.url()).1, Arc::new(log.store.clone()), settings).expect("a thread");
    for n in 1..20 {
        log.record(u16::from(n % 2 == 0), &[Some(offered(n, "coffee", 9))]);
        let wanted = log.positions();
        progress_is(&follower.progress(), |progress| {
            wanted.iter().all(|(shard, position)| progress.position(*shard) == *position)
        });
        if n % 5 == 0 {
            // Also when it was not there to be told.
            database
                .anybody()
                .script(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()",
                )
                .expect("its session ends");
        }
    }
}

#[test]
fn a_follower_of_a_server_that_dies_says_so_and_goes_on_when_it_is_back() {
    let mut server = Postgres::start();
    let database = server.database();
    let mut log = Log::of(1, 1);
    log.record(0, &[Some(offered(1, "coffee", 9))]);
    let runner = started(database.url(), &log, quick());
    wait_until_counted(&runner, &log);
    anybody(database.url()).script("CHECKPOINT").expect("a checkpoint");
    let follower = follow(database.url(), &log);
    progress_is(&follower.progress(), |progress| progress.position(0) == 1);
    server.kill();
    let progress = progress_is(&follower.progress(), |progress| progress.is_stalled(0));
    assert!(matches!(progress.state, RunnerState::Stalled { .. }), "{progress:?}");
    assert_eq!(progress.position(0), 1);
    server.restart();
    log.record(0, &[Some(offered(2, "tea", 9))]);
    let progress = progress_is(&follower.progress(), |progress| progress.position(0) == 2);
    assert_eq!((&progress.state, progress.stalled.len()), (&RunnerState::Running, 0));
}
