//! Every named story, with a crash at every step.

use std::collections::BTreeSet;

use simulation::scenarios::SCENARIOS;

#[test]
fn every_story_survives_a_crash_at_every_step() {
    let (mut names, mut crashes) = (BTreeSet::new(), 0);
    for scenario in SCENARIOS {
        let sweep = scenario.sweep(false);
        assert!(sweep.failures.is_empty(), "{}: {:#?}", scenario.name, sweep.failures);
        assert!(sweep.edges >= 5, "{} has {} edges", scenario.name, sweep.edges);
        assert!(names.insert(scenario.name));
        crashes += sweep.singles;
    }
    assert!(names.len() >= 24 && crashes >= 500, "{} stories, {crashes} crashes", names.len());
}

#[test]
fn a_crash_while_recovering_is_survived() {
    let scenario = SCENARIOS
        .iter()
        .find(|scenario| scenario.name == "paid by card at once")
        .expect("it is there");
    let sweep = scenario.sweep(true);
    assert!(sweep.failures.is_empty(), "{:#?}", sweep.failures);
    assert!(sweep.pairs > sweep.singles);
}
