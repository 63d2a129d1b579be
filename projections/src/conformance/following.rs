//! Views that another process writes, as one who follows them sees them.

use std::{sync::Arc, time::Duration};

use super::{
    Place,
    shop::{Log, line, order, placed, progress_is, quick, start, wait_until_counted},
};
use crate::{Follower, FollowerHandle, FollowerSettings, RunnerState, Views};

fn follow(log: &Log, views: Arc<dyn Views>, stalled_after: Duration) -> FollowerHandle {
    let settings = FollowerSettings {
        poll: Duration::from_millis(5),
        poll_when_told: Duration::from_millis(100),
        heads: Duration::from_millis(5),
        stalled_after,
        ..FollowerSettings::default()
    };
    Follower::start(views, Arc::new(log.store.clone()), settings).expect("a thread")
}

fn record(log: &mut Log, shard: u16, n: u64) {
    log.record(shard, &[Some(placed(n, 1, [line(1, "coffee", 9)]))]);
}

/// How far, how far the log is, and how many shards it has: what the one who writes says too.
pub fn a_follower_says_how_far_views_are_that_somebody_else_writes(place: &impl Place) {
    let mut log = Log::of(1, 3);
    record(&mut log, 0, 1);
    let (handle, _) = start(&log, place, quick());
    wait_until_counted(&handle, &log);
    let follower = follow(&log, place.open_read_only().expect("views"), Duration::from_mins(10));
    for n in 2..20 {
        record(&mut log, u16::from(n % 2 == 0), n);
        let written = wait_until_counted(&handle, &log);
        let seen = progress_is(&follower.progress(), |progress| progress.shards == written.shards);
        assert_eq!((&seen.state, seen.count), (&RunnerState::Running, written.count));
    }
    let progress = follower.progress();
    follower.stop();
    assert_eq!(progress.borrow().state, RunnerState::Stopped);
}

/// Whoever waits for them is told.
pub fn a_follower_says_that_views_stand_still_while_the_log_goes_on(place: &impl Place) {
    let mut log = Log::of(1, 2);
    record(&mut log, 0, 1);
    let (handle, _) = start(&log, place, quick());
    wait_until_counted(&handle, &log);
    handle.stop();
    let follower = follow(&log, place.open_read_only().expect("views"), Duration::from_millis(50));
    // What stands still at the log's end is as far as it can be.
    let begun = progress_is(&follower.progress(), |progress| progress.position(0) == 1);
    assert_eq!(begun.state, RunnerState::Running);
    record(&mut log, 1, 2);
    let seen = progress_is(&follower.progress(), |progress| progress.stalled == [1]);
    let RunnerState::Stalled { shard, position, reason } = &seen.state else {
        panic!("it is stalled: {seen:?}")
    };
    assert_eq!((*shard, *position), (1, 1));
    assert!(reason.contains("1 events more"), "{reason}");
    let (handle, _) = start(&log, place, quick());
    wait_until_counted(&handle, &log);
    let seen = progress_is(&follower.progress(), |progress| {
        progress.position(1) == 1 && progress.stalled.is_empty()
    });
    assert_eq!(seen.state, RunnerState::Running);
}

/// By somebody who has heard of it another way than from the store of the views.
pub fn a_follower_looks_at_views_as_soon_as_somebody_says_that_there_is_something_new(place: &impl Place) {
    let mut log = Log::of(1, 2);
    record(&mut log, 0, 1);
    let (handle, _) = start(&log, place, quick());
    wait_until_counted(&handle, &log);
    let settings = FollowerSettings {
        poll: Duration::from_mins(10),
        poll_when_told: Duration::from_mins(10),
        ..FollowerSettings::default()
    };
    let views = place.open_read_only().expect("views");
    let follower = Follower::start(views, Arc::new(log.store.clone()), settings).expect("a thread");
    let wake = follower.waker();
    for n in 2..10 {
        record(&mut log, 0, n);
        wait_until_counted(&handle, &log);
        wake();
        progress_is(&follower.progress(), |progress| progress.position(0) == n);
    }
}

/// Positions of a log that is restored go back.
pub fn a_follower_of_views_that_are_filled_anew_begins_again(place: &impl Place) {
    let (mut log, mut restored) = (Log::new(1), Log::new(1));
    for n in 1..4 {
        record(&mut log, 0, n);
    }
    record(&mut restored, 0, 1);
    let (handle, _) = start(&log, place, quick());
    wait_until_counted(&handle, &log);
    handle.stop();
    let views = place.open_read_only().expect("views");
    let follower = follow(&restored, Arc::clone(&views), Duration::from_mins(10));
    progress_is(&follower.progress(), |progress| progress.position(0) == 3);
    let (handle, _) = start(&restored, place, quick());
    wait_until_counted(&handle, &restored);
    progress_is(&follower.progress(), |progress| progress.position(0) == 1);
    assert_eq!(views.orders(&[order(1), order(2)]).expect("an answer").len(), 1);
}
