//! Seeds: repeatable, biting, and green.

use simulation::{Fault, Figures, Outcome, Shards, run};

/// So many seeds show every fault, and are enough for every day.
const SEEDS: u64 = 1_500;

/// So many with four shards show what can only happen between shards.
const SEEDS_OF_FOUR: u64 = 700;

fn several(count: u16) -> Shards {
    Shards::new(count).expect("so many shards")
}

#[test]
fn a_seed_is_the_same_run_each_time() {
    for seed in 0..40 {
        for shards in [Shards::ONE, several(2), several(4)] {
            let (once, again) = (run(seed, shards, false), run(seed, shards, true));
            assert_eq!(once.story_hash, again.story_hash, "seed {seed}");
            assert_eq!(once.figures, again.figures, "seed {seed}");
            assert!(once.story.is_empty() && !again.story.is_empty());
        }
    }
}

#[test]
fn two_seeds_are_two_runs() {
    let hash = |seed, shards| run(seed, shards, false).story_hash;
    assert_ne!(hash(1, Shards::ONE), hash(2, Shards::ONE));
    assert_ne!(hash(1, several(2)), hash(1, several(4)));
}

fn all(seeds: u64, shards: Shards) -> Figures {
    let mut figures = Figures::default();
    for seed in 0..seeds {
        let Outcome { failure, figures: of, .. } = run(seed, shards, false);
        assert_eq!(failure, None, "make simulate SEED={seed} SHARDS={shards}");
        figures.add(&of);
    }
    assert_eq!(figures.seeds, seeds);
    figures
}

fn strike(figures: &Figures, faults: impl Fn(Fault) -> bool) {
    for fault in Fault::ALL.iter().copied().filter(|fault| faults(*fault)) {
        let (count, floor, seeds) = (figures.fault(fault), floor(fault), figures.seeds);
        assert!(
            count >= floor,
            "{} struck {count} times in {seeds} seeds, and should at least {floor} times",
            fault.name()
        );
    }
}

#[test]
fn every_fault_between_shards_strikes_and_nothing_breaks() {
    let figures = all(SEEDS_OF_FOUR, several(4));
    strike(&figures, Fault::of_shards);
    assert!(figures.messages > 50 * SEEDS_OF_FOUR, "{figures:?}");
    all(SEEDS_OF_FOUR / 2, several(2));
}

#[test]
fn every_fault_strikes_and_nothing_breaks() {
    let figures = all(SEEDS, Shards::ONE);
    strike(&figures, |fault| !fault.of_shards());
    assert_eq!(figures.messages, 0);
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
        Fault::Poisoned | Fault::MessageForgotten => 10,
        Fault::WrongAmount | Fault::CancellationUnknown => 20,
        _ => 50,
    }
}
