//! Every named story, with a crash at every step.

use std::collections::BTreeSet;

use simulation::{
    Shards,
    scenarios::{self, Scenario},
};

fn several(count: u16) -> Shards {
    Shards::new(count).expect("so many shards")
}

fn survive(shards: Shards, stories: usize, most: u64) {
    let (mut names, mut crashes) = (BTreeSet::new(), 0);
    for scenario in scenarios::all().filter(|scenario| scenario.is_of(shards)) {
        let sweep = scenario.sweep(shards, false);
        assert!(sweep.failures.is_empty(), "{}: {:#?}", scenario.name, sweep.failures);
        assert!(sweep.edges >= 5, "{} has {} edges", scenario.name, sweep.edges);
        assert!(names.insert(scenario.name));
        crashes += sweep.singles;
    }
    assert!(
        names.len() >= stories && crashes >= most,
        "{} stories, {crashes} crashes",
        names.len()
    );
}

#[test]
fn every_story_survives_a_crash_at_every_step() {
    survive(Shards::ONE, 50, 1_500);
}

#[test]
fn every_story_of_two_shards_survives_a_crash_at_every_step_of_either() {
    survive(several(2), 100, 5_000);
}

fn named(name: &str) -> &'static Scenario {
    scenarios::all().find(|scenario| scenario.name == name).expect("it is there")
}

#[test]
fn a_crash_while_recovering_is_survived() {
    for (shards, name) in [
        (Shards::ONE, "paid by card at once"),
        (several(2), "nobody hears that the balance has paid"),
    ] {
        let sweep = named(name).sweep(shards, true);
        assert!(sweep.failures.is_empty(), "{:#?}", sweep.failures);
        assert!(sweep.pairs > sweep.singles);
    }
}

#[test]
fn a_story_of_several_shards_is_not_told_of_one() {
    assert!(!named("cancelled while the balance is asked").is_of(Shards::ONE));
}
