//! The runner, when things are not as they should be.

use super::{
    Place,
    shop::{Broken, Log, Replaced, account, is, line, order, placed, quick, start, wait_for, wait_until_counted},
};
use crate::{Runner, RunnerSettings, RunnerState};
use aggregates::{OrderEvent, PaymentId};

fn purchase(n: u64) -> [Option<aggregates::CommerceEvent>; 3] {
    let payment = PaymentId::for_order(order(n));
    [
        Some(placed(n, 1, [line(1, "coffee", 9)])),
        None,
        Some(is(n, OrderEvent::Confirmed { payment })),
    ]
}

/// What comes by the tail counts.
pub fn what_is_offered_is_shown_and_says_how_far_it_is(place: &impl Place) {
    let mut log = Log::new(1);
    let (handle, views) = start(&log, place, quick());
    let recorded = log.record(0, &purchase(1));
    handle.tail().offer(recorded.clone());
    let progress = wait_until_counted(&handle, &log);
    assert_eq!((progress.shards[0].position, progress.shards[0].head), (3, 3));
    let position = views.positions().expect("positions")[0];
    assert_eq!((position.position, position.recorded_at), (3, recorded[2].at));
    assert_eq!(views.orders(&[order(1)]).expect("an answer")[&order(1)].version, 2);
}

/// A tail that is full loses nothing.
pub fn what_the_tail_has_no_room_for_is_read_from_the_log(place: &impl Place) {
    let mut log = Log::new(1);
    // It would not look at the log by itself before the test is over.
    let settings = RunnerSettings {
        tail_events: 2,
        poll: std::time::Duration::from_mins(10),
        ..quick()
    };
    let first = log.record(0, &[Some(placed(1, 1, [line(1, "coffee", 9)]))]);
    let (handle, _) = start(&log, place, settings);
    handle.tail().offer(first);
    wait_until_counted(&handle, &log);
    for n in 2..50 {
        handle.tail().offer(log.record(0, &purchase(n)));
    }
    wait_until_counted(&handle, &log);
}

/// The log is looked at from time to time.
pub fn events_that_nobody_offers_are_read_from_the_log(place: &impl Place) {
    let mut log = Log::new(1);
    let (handle, _) = start(&log, place, quick());
    log.record(3, &purchase(1));
    assert_eq!(wait_until_counted(&handle, &log).position(3), 3);
}

/// Whoever has the views in a process of its own does not wait for the next look.
pub fn events_that_the_log_tells_of_are_read_at_once(place: &impl Place) {
    let mut log = Log::new(1);
    let settings = RunnerSettings {
        listen: true,
        poll: std::time::Duration::from_mins(10),
        ..quick()
    };
    let (handle, _) = start(&log, place, settings);
    wait_for(&handle, |progress| progress.state == RunnerState::Running);
    for n in 1..10 {
        log.record(0, &purchase(n));
        wait_until_counted(&handle, &log);
    }
}

/// What is before it counts, and so do the other shards.
pub fn an_event_that_cannot_be_read_stalls_the_views_after_all_before_it(place: &impl Place) {
    let mut log = Log::new(1);
    log.record(0, &purchase(1));
    let position = log.record_poison(0);
    log.record(1, &purchase(2));
    let (handle, views) = start(&log, place, quick());
    let progress = wait_for(&handle, |progress| {
        matches!(progress.state, RunnerState::Stalled { .. }) && progress.position(1) == 3
    });
    let RunnerState::Stalled {
        shard,
        position: at,
        reason,
    } = progress.state
    else {
        panic!("it is stalled")
    };
    assert_eq!(
        (shard, at, progress.shards[0].position, progress.shards[0].head),
        (0, position, position - 1, position)
    );
    assert!(reason.contains("cannot be read") && reason.contains("order.vanished"), "{reason}");
    assert_eq!(views.orders(&[order(1), order(2)]).expect("an answer").len(), 2);
}

/// One shard in trouble is the trouble of that shard.
pub fn a_shard_that_is_stalled_is_named_and_the_others_go_on_by_the_tail(place: &impl Place) {
    let mut log = Log::of(1, 4);
    let poison = log.record_poison(2);
    // Nothing but the tail brings the others on before the test is over.
    let settings = RunnerSettings {
        poll: std::time::Duration::from_mins(10),
        backoff: (std::time::Duration::from_mins(10), std::time::Duration::from_mins(10)),
        ..quick()
    };
    let (handle, views) = start(&log, place, settings);
    let progress = wait_for(&handle, |progress| progress.is_stalled(2));
    assert_eq!(
        (progress.count.map(event_store::Shards::count), progress.several()),
        (Some(4), true)
    );
    for n in 1..20 {
        let shard = u16::try_from(n % 4).expect("small");
        handle.tail().offer(log.record(shard, &purchase(n)));
    }
    let wanted = log.positions();
    let others = [0, 1, 3];
    let progress = wait_for(&handle, |progress| {
        others.iter().all(|shard| progress.position(*shard) == wanted[shard])
            && progress.shards.iter().any(|known| (known.shard, known.head) == (2, wanted[&2]))
    });
    assert_eq!((progress.stalled.as_slice(), progress.position(2)), ([2].as_slice(), poison - 1));
    assert!(
        matches!(progress.state, RunnerState::Stalled { shard: 2, .. }),
        "{:?}",
        progress.state
    );
    assert_eq!(views.orders(&[order(1), order(2), order(3)]).expect("an answer").len(), 2);
}

/// By itself.
pub fn a_shard_whose_trouble_is_over_goes_on(place: &impl Place) {
    let mut log = Log::of(1, 2);
    let (broken, breaks) = Broken::around(&log);
    log.record(0, &purchase(1));
    log.record(1, &purchase(2));
    let (writer, _) = place.open();
    let handle = Runner::start(std::sync::Arc::new(broken), writer, quick()).expect("a thread");
    wait_for(&handle, |progress| progress.stalled == [1] && progress.position(0) == 3);
    breaks.store(false, std::sync::atomic::Ordering::Relaxed);
    let progress = wait_until_counted(&handle, &log);
    assert!(progress.stalled.is_empty(), "{progress:?}");
}

/// Views may be there before the first event.
pub fn views_that_are_kept_before_there_is_a_log_are_not_filled_anew_by_the_next_start(place: &impl Place) {
    let mut log = Log::new(1);
    // It has been looked at, and nobody has taken a shard yet: there is no head.
    log.found(1);
    let (handle, _) = start(&log, place, quick());
    wait_for(&handle, |progress| progress.count.is_some());
    handle.tail().offer(log.record(0, &purchase(1)));
    wait_until_counted(&handle, &log);
    handle.stop();
    // What no event explains is gone when the views are filled anew.
    place.add_an_account_that_no_event_explains();
    let (handle, _) = start(&log, place, quick());
    log.record(0, &purchase(2));
    wait_until_counted(&handle, &log);
    handle.stop();
    let kept = place.dump().lines().filter(|row| row.starts_with("accounts_v1: ")).count();
    assert_eq!(kept, 1, "they were filled anew");
}

/// A log that contradicts itself is not counted past that place.
pub fn an_event_that_does_not_fit_stalls_the_views_after_all_before_it(place: &impl Place) {
    let mut log = Log::new(1);
    log.record(0, &purchase(1));
    let bad = log.record(0, &[Some(is(7, OrderEvent::PaymentExpired {}))]);
    let (handle, views) = start(&log, place, quick());
    let progress = wait_for(&handle, |progress| matches!(progress.state, RunnerState::Stalled { .. }));
    let RunnerState::Stalled { position, reason, .. } = progress.state else {
        panic!("it is stalled")
    };
    assert_eq!(position, bad[0].position);
    assert!(reason.contains("orders_v2"), "{reason}");
    assert_eq!(views.orders(&[order(1)]).expect("an answer").len(), 1);
}

/// A shop that is busy is no reason to leave one shard behind.
pub fn a_stalled_shard_is_tried_again_however_much_comes_of_the_others(place: &impl Place) {
    let mut log = Log::of(1, 2);
    let (broken, breaks) = Broken::around(&log);
    log.record(1, &purchase(1));
    let (writer, _) = place.open();
    let handle = Runner::start(std::sync::Arc::new(broken), writer, quick()).expect("a thread");
    wait_for(&handle, |progress| progress.stalled == [1]);
    breaks.store(false, std::sync::atomic::Ordering::Relaxed);
    let began = std::time::Instant::now();
    let mut n = 1;
    while handle.progress().borrow().position(1) < 3 {
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "the shard is left behind");
        n += 1;
        handle.tail().offer(log.record(0, &purchase(n)));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    wait_until_counted(&handle, &log);
}

/// Views belong to one log.
pub fn views_of_another_log_are_filled_anew(place: &impl Place) {
    let (mut one, mut other) = (Log::new(1), Log::new(2));
    for n in 1..4 {
        one.record(0, &purchase(n));
    }
    other.record(0, &purchase(8));
    other.record(0, &purchase(9));
    let (handle, _) = start(&one, place, quick());
    wait_until_counted(&handle, &one);
    handle.stop();
    let (handle, views) = start(&other, place, quick());
    wait_until_counted(&handle, &other);
    assert_eq!(views.orders(&[order(1), order(8)]).expect("an answer").len(), 1);
}

/// A backup is older than its views.
pub fn views_that_are_ahead_of_a_restored_log_are_filled_anew(place: &impl Place) {
    let (mut log, mut restored) = (Log::new(1), Log::new(1));
    for n in 1..4 {
        log.record(0, &purchase(n));
    }
    restored.record(0, &purchase(1));
    let (handle, _) = start(&log, place, quick());
    wait_until_counted(&handle, &log);
    handle.stop();
    let (handle, views) = start(&restored, place, quick());
    wait_until_counted(&handle, &restored);
    assert_eq!(views.orders(&[order(1), order(2), order(3)]).expect("an answer").len(), 1);
}

/// A log in which `before` happened, then `after`; logs that part at the same place are equal up to it.
fn parted(before: &[u64], after: &[u64]) -> Log {
    let mut log = Log::new(1);
    for n in before {
        log.record(0, &purchase(*n));
    }
    log.part();
    for n in after {
        log.record(0, &purchase(*n));
    }
    log
}

/// The log that was counted, with what it is to lose: ten events, of which the last four are the third order's.
fn that_loses_its_end() -> Log {
    let mut log = Log::new(1);
    for n in 1..3 {
        log.record(0, &purchase(n));
    }
    let mut end = purchase(3).to_vec();
    end.insert(1, None);
    log.record(0, &end);
    assert_eq!(log.positions()[&0], 10);
    log
}

/// What these views hold is what a fold of this log gives, and they show these orders alone.
fn are_of(log: &Log, place: &impl Place, orders: &[u64]) {
    let alone = place.another();
    let (handle, views) = start(log, &alone, quick());
    wait_until_counted(&handle, log);
    handle.stop();
    let all = [1, 2, 3, 4, 5, 6, 7].map(order);
    let mut shown: Vec<_> = views.orders(&all).expect("an answer").into_keys().collect();
    shown.sort_by_key(|id| id.uuid());
    assert_eq!(shown, orders.iter().map(|n| order(*n)).collect::<Vec<_>>());
    assert_eq!(place.dump(), alone.dump());
}

/// A log that was restored, or failed over, may have got as far as the views before they are asked again, and farther.
pub fn views_of_events_that_the_log_has_lost_are_filled_anew(place: &impl Place) {
    // Farther than they are, by many batches; and exactly as far, by an event of no aggregate.
    let farther = parted(&[1, 2], &[4, 5, 6]);
    let mut as_far = parted(&[1, 2], &[4]);
    as_far.record(0, &[None]);
    for (other, orders) in [(farther, [1, 2, 4, 5, 6].as_slice()), (as_far, &[1, 2, 4])] {
        let place = place.another();
        let log = that_loses_its_end();
        let (handle, _) = start(&log, &place, quick());
        wait_until_counted(&handle, &log);
        handle.stop();
        let settings = RunnerSettings {
            batch_events: 2,
            ..quick()
        };
        let (handle, _) = start(&other, &place, settings);
        // Views that are as far already show nothing wrong by their position.
        wait_for(&handle, |progress| {
            progress.shards.iter().any(|known| known.recorded_at == other.ended_at(0)) && progress.position(0) == other.positions()[&0]
        });
        handle.stop();
        are_of(&other, &place, orders);
    }
}

/// Nobody tells the runner, and no read of it fails: the log at its address is another one.
pub fn views_whose_log_loses_its_end_while_they_are_kept_are_filled_anew(place: &impl Place) {
    let (log, mut other) = (that_loses_its_end(), parted(&[1, 2], &[]));
    let store = Replaced::at_first(&log);
    // It would not look at the log by itself before the test is over.
    let settings = RunnerSettings {
        poll: std::time::Duration::from_mins(10),
        ..quick()
    };
    let (writer, _) = place.open();
    let handle = Runner::start(std::sync::Arc::new(store.clone()), writer, settings).expect("a thread");
    wait_until_counted(&handle, &log);
    let offered = [4, 5, 6].map(|n| other.record(0, &purchase(n)));
    store.by(&other);
    // The first of them have the positions of those that were lost.
    for batch in offered {
        handle.tail().offer(batch);
    }
    wait_until_counted(&handle, &other);
    handle.stop();
    are_of(&other, place, &[1, 2, 4, 5, 6]);
}

/// Only one shard's log lost its end, or all of it.
pub fn views_are_filled_anew_whichever_shard_lost_events(place: &impl Place) {
    let of = |of_the_first: &[u64], of_the_second: &[u64]| {
        let mut log = Log::new(1);
        for (shard, orders) in [(0, of_the_first), (1, of_the_second)] {
            for n in orders {
                log.record(shard, &purchase(*n));
            }
            log.part();
        }
        log
    };
    let log = of(&[1, 2], &[3]);
    let (handle, _) = start(&log, place, quick());
    wait_until_counted(&handle, &log);
    handle.stop();
    let other = of(&[1, 2, 4], &[]);
    let (handle, _) = start(&other, place, quick());
    wait_for(&handle, |progress| progress.position(0) == 9 && progress.position(1) == 0);
    handle.stop();
    are_of(&other, place, &[1, 2, 4]);
}

/// A log that goes on as it was is no other one, however often the views are asked.
pub fn views_of_a_log_that_goes_on_are_not_filled_anew(place: &impl Place) {
    let mut log = that_loses_its_end();
    let (handle, _) = start(&log, place, quick());
    wait_until_counted(&handle, &log);
    handle.stop();
    // What no event explains is gone when the views are filled anew.
    place.add_an_account_that_no_event_explains();
    for n in 4..8 {
        let (handle, _) = start(&log, place, quick());
        wait_until_counted(&handle, &log);
        let batch = log.record(0, &purchase(n));
        if n % 2 == 0 {
            handle.tail().offer(batch);
        }
        wait_until_counted(&handle, &log);
        handle.stop();
    }
    let kept = place.dump().lines().filter(|row| row.starts_with("accounts_v1: ")).count();
    assert_eq!(kept, 1, "they were filled anew");
}

/// Two processes may keep the same views by mistake.
pub fn two_runners_on_the_same_views_count_each_event_once(place: &impl Place) {
    let alone = place.another();
    let mut log = Log::new(1);
    let (one, _) = start(&log, place, quick());
    let (two, _) = start(&log, place, quick());
    for n in 1..200 {
        let batch = log.record(0, &purchase(n));
        one.tail().offer(batch.clone());
        two.tail().offer(batch);
    }
    wait_until_counted(&one, &log);
    wait_until_counted(&two, &log);
    one.stop();
    two.stop();
    let (handle, _) = start(&log, &alone, quick());
    wait_until_counted(&handle, &log);
    handle.stop();
    assert_eq!(place.dump(), alone.dump());
}

/// Whoever stands by knows how far the views are, and begins there.
pub fn a_runner_that_takes_over_goes_on_where_the_other_was(place: &impl Place) {
    let alone = place.another();
    let mut log = Log::of(1, 2);
    let mut runners = vec![start(&log, place, quick()).0];
    for n in 1..40 {
        runners.push(start(&log, place, quick()).0);
        let batch = log.record(u16::from(n % 3 == 0), &purchase(n));
        // What the one that keeps the views has not saved yet is read by the other.
        for runner in &runners {
            runner.tail().offer(batch.clone());
        }
        if n % 2 == 0 {
            wait_until_counted(&runners[0], &log);
        }
        runners.remove(0).stop();
    }
    wait_until_counted(&runners[0], &log);
    drop(runners);
    let (handle, _) = start(&log, &alone, quick());
    wait_until_counted(&handle, &log);
    handle.stop();
    assert_eq!(place.dump(), alone.dump());
}

/// Stopped, and started again.
pub fn a_runner_that_is_stopped_says_so_and_leaves_the_rest_for_later(place: &impl Place) {
    let mut log = Log::new(1);
    let (handle, _) = start(&log, place, quick());
    let progress = handle.progress();
    handle.stop();
    assert_eq!(progress.borrow().state, RunnerState::Stopped);
    log.record(0, &purchase(1));
    let (handle, views) = start(&log, place, quick());
    wait_until_counted(&handle, &log);
    assert!(views.seller_sees(account(9), account(1)).expect("an answer"));
}
