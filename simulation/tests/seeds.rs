//! Seeds: repeatable, biting, and green.

use simulation::{Fault, Figures, run};

/// So many seeds show every fault, and are enough for every day.
const SEEDS: u64 = 1_500;

#[test]
fn a_seed_is_the_same_run_each_time() {
    for seed in 0..40 {
        let (once, again) = (run(seed, false), run(seed, true));
        assert_eq!(once.story_hash, again.story_hash, "seed {seed}");
        assert_eq!(once.figures, again.figures, "seed {seed}");
        assert!(once.story.is_empty() && !again.story.is_empty());
    }
}

#[test]
fn two_seeds_are_two_runs() {
    assert_ne!(run(1, false).story_hash, run(2, false).story_hash);
}

#[test]
fn every_fault_strikes_and_nothing_breaks() {
    let mut figures = Figures::default();
    for seed in 0..SEEDS {
        let outcome = run(seed, false);
        assert_eq!(outcome.failure, None, "make simulate SEED={seed}");
        figures.add(&outcome.figures);
    }
    assert_eq!(figures.seeds, SEEDS);
    for fault in Fault::ALL {
        let (count, floor) = (figures.fault(*fault), floor(*fault));
        assert!(
            count >= floor,
            "{} struck {count} times in {SEEDS} seeds, and should at least {floor} times",
            fault.name()
        );
    }
    for end in [
        "CONFIRMED",
        "OUT_OF_STOCK",
        "PRICE_MISMATCH",
        "PRODUCT_RETIRED",
        "PAYMENT_DECLINED",
        "INSUFFICIENT_BALANCE",
        "PAYMENT_EXPIRED",
        "RESERVATION_EXPIRED",
        "CANCELLED_BY_BUYER",
        "CANCELLED_BY_SHOP",
    ] {
        assert!(figures.orders.contains_key(end), "no order ended as {end}: {:?}", figures.orders);
    }
    assert!(figures.crashes > SEEDS && figures.recoveries > SEEDS, "{figures:?}");
}

/// How often a fault strikes at least.
fn floor(fault: Fault) -> u64 {
    match fault {
        // These need something else to have gone wrong before.
        Fault::CancellationRefused => 2,
        Fault::Poisoned => 10,
        Fault::WrongAmount | Fault::CancellationUnknown => 20,
        _ => 50,
    }
}
