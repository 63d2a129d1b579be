//! The whole engine under seeded faults.
//!
//! The real core, with the real aggregates, processes and projections, runs in a world that is simulated: disk, clock, network, payment
//! provider and everybody outside. One seed is one run, the same each time, whatever the machine. A run asks nothing of the machine: no
//! file, no thread, no clock.

mod chance;
mod checks;
mod clients;
mod disk;
mod figures;
pub mod mutants;
pub mod pieces;
mod provider;
pub mod scenarios;
mod script;
mod story;
mod views;
mod world;

pub use event_store::Shards;
pub use figures::{Fault, Figures};
pub use world::Failure;

use chance::Chance;
use script::Script;
use world::{Crashes, World};

/// What became of one run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it did.
    pub figures: Figures,
    /// The same for the same seed, and only then.
    pub story_hash: u64,
    /// What happened, line by line, when it was asked for.
    pub story: Vec<String>,
    /// The first thing that broke.
    pub failure: Option<Failure>,
    /// At how many places a process could have ended.
    pub edges: u64,
    /// How many of these came after the last crash that was planned.
    pub edges_after: u64,
}

/// Runs the run that belongs to a seed, with so many shards; tells its story if that is wanted.
pub fn run(seed: u64, shards: Shards, told: bool) -> Outcome {
    let mut chance = Chance::new(seed);
    let script = Script::drawn(&mut chance, shards);
    play(script, shards, Crashes::ByChance, chance, told)
}

fn play(script: Script, shards: Shards, crashes: Crashes, chance: Chance, told: bool) -> Outcome {
    let mut world = World::new(script, shards, crashes, chance, told);
    world.run();
    if world.failure.is_none() {
        checks::check(&mut world);
    }
    let mut figures = world.figures;
    figures.seeds = 1;
    figures.faults = world.injected.by_name();
    Outcome {
        figures,
        story_hash: world.story.hash(),
        story: world.story.into_lines(),
        failure: world.failure,
        edges: world.edges_in_all,
        edges_after: world.edges,
    }
}
