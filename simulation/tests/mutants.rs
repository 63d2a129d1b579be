//! Every mutant still has the text that it changes.

use std::{fs, path::Path};

use simulation::mutants::Mutant;

#[test]
fn every_mutant_finds_its_text_exactly_once() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().expect("the simulation is in the tree");
    let mut mutants = 0;
    for entry in fs::read_dir(here.join("mutants")).expect("the mutants are there") {
        let path = entry.expect("a file").path();
        if path.extension().is_none_or(|extension| extension != "mutant") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("text");
        let mutant = Mutant::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mutated = mutant.mutated(root).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!mutant.reason.is_empty() && mutant.find != mutant.replace, "{}", path.display());
        assert!(!mutated.is_empty());
        mutants += 1;
    }
    assert!(mutants >= 48, "{mutants} mutants");
}
