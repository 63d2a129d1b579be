//! However the events come, in whatever batches, again, not at all, or after a restart: the views are those of one fold.

use std::sync::Arc;

use super::{
    Place,
    shop::{Dice, Log, RandomShop, quick, start, wait_until_counted},
};
use crate::RunnerSettings;
use aggregates::Recorded;

const SEEDS: u64 = 15;
const STEPS: usize = 60;

/// Live, in pieces, twice, after restarts, or all at once. Each log is another one, so that nothing of the one before is left either.
pub fn any_way_to_the_views_gives_the_views_of_one_fold(place: &impl Place) {
    let rebuilt = place.another();
    for (seed, shards) in (0..SEEDS).flat_map(|seed| [1, 2, 4].map(|shards| (seed, shards))) {
        let log = live_through(seed, shards, place);
        let (handle, _) = start(
            &log,
            &rebuilt,
            RunnerSettings {
                batch_events: 1_000_000,
                ..quick()
            },
        );
        wait_until_counted(&handle, &log);
        handle.stop();
        assert_eq!(place.dump(), rebuilt.dump(), "seed {seed}, {shards} shards");
    }
}

/// Records a random shop while views follow it, with everything that may happen on the way.
fn live_through(seed: u64, shards: u16, place: &impl Place) -> Log {
    let mut dice = Dice(seed);
    let mut shop = RandomShop::over(shards);
    let mut log = Log::of(u128::from(seed) * 8 + u128::from(shards), shards);
    let mut offered: Vec<Arc<[Recorded]>> = Vec::new();
    let settings = |dice: &mut Dice| RunnerSettings {
        batch_events: usize::try_from(1 + dice.roll(40)).expect("small"),
        tail_events: usize::try_from(dice.roll(60)).expect("small"),
        recent_rows: std::num::NonZeroUsize::new(usize::try_from(1 + dice.roll(10)).expect("small")).expect("not zero"),
        ..quick()
    };
    let (mut handle, _) = start(&log, place, settings(&mut dice));
    for (shard, event) in shop.opening() {
        offered.push(log.record(shard, &[Some(event)]));
    }
    for _ in 0..STEPS {
        let mut happened = vec![Vec::new(); usize::from(shards)];
        for _ in 0..=dice.roll(20) {
            let (shard, event) = shop.next(&mut dice);
            happened[usize::from(shard)].push(event);
        }
        for (shard, happened) in (0..).zip(happened).filter(|(_, happened)| !happened.is_empty()) {
            let batch = log.record(shard, &happened);
            match dice.roll(6) {
                0 => {} // Lost on the way.
                1 => handle
                    .tail()
                    .offer(offered[usize::try_from(dice.roll(offered.len() as u64)).expect("small")].clone()),
                2 => {
                    let (one, other) = batch.split_at(batch.len() / 2);
                    handle.tail().offer(one.into());
                    handle.tail().offer(other.into());
                }
                3 => {
                    handle.tail().offer(batch.clone());
                    handle.tail().offer(batch.clone());
                }
                _ => handle.tail().offer(batch.clone()),
            }
            offered.push(batch);
        }
        if dice.roll(15) == 0 {
            handle.stop();
            (handle, _) = start(&log, place, settings(&mut dice));
        }
    }
    wait_until_counted(&handle, &log);
    handle.stop();
    log
}
