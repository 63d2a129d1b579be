//! The whole engine under seeded faults: `cargo run --release -p simulation -- --help`.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use clap::Parser;
use simulation::{
    Failure, Figures, Shards,
    pieces::{self, Piece},
    run,
    scenarios::{self, Sweep},
};

/// Runs the whole engine under seeded faults. One seed is one run, the same each time.
#[derive(Parser)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[command(after_help = "Examples:
  simulation --seeds 10000                                   the first 10,000 seeds
  simulation --seed 4711                                     one seed, step by step
  simulation --seeds 10000 --shards 4                        the same with four shards, and messages between them
  simulation --from 0 --seeds 1000000 --out figures.jsonl --resume
  simulation --scenarios                                     each story with a crash at every step, and at every pair of steps

Ends with 0 when all held, 1 when the arguments or files are wrong, 2 when something broke.")]
struct Arguments {
    /// This seed; alone it is run by itself and its story is told.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds [default: 10000]
    #[arg(long)]
    seeds: Option<u64>,
    /// The first of them.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    from: u64,
    /// How many shards the log has.
    #[arg(long, default_value = "1", value_parser = shards)]
    shards: Shards,
    /// How many at once [default: one for each core]
    #[arg(long)]
    jobs: Option<usize>,
    /// The named stories instead, with crashes at every step.
    #[arg(long)]
    scenarios: bool,
    /// Of the stories: one crash only.
    #[arg(long, requires = "scenarios")]
    singles: bool,
    /// Of the stories: this one alone, told step by step, with crashes at these edges.
    #[arg(long, requires = "scenarios", value_name = "NAME")]
    scenario: Option<String>,
    /// The edges at which it crashes, each counted from the recovery before it.
    #[arg(long, requires = "scenario", value_delimiter = ',')]
    crash: Vec<u64>,
    /// Adds one line of figures to this file for each piece that is finished.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Leaves out the pieces that the file has.
    #[arg(long, requires = "out")]
    resume: bool,
    /// Stops at the first seed that breaks something.
    #[arg(long, conflicts_with = "out")]
    first: bool,
    /// How many seeds make a piece.
    #[arg(long, default_value_t = 10_000)]
    piece: u64,
}

fn shards(text: &str) -> Result<Shards, String> {
    let count = text.parse().ok().and_then(Shards::new);
    count.ok_or_else(|| format!("from 1 to {}", Shards::MOST))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let jobs = arguments
        .jobs
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
        .max(1);
    if let Some(name) = &arguments.scenario {
        return tell_scenario(name, arguments.shards, &arguments.crash);
    }
    if arguments.scenarios {
        return sweep(jobs, arguments.shards, !arguments.singles);
    }
    if let (Some(seed), None) = (arguments.seed, arguments.seeds) {
        return tell(seed, arguments.shards);
    }
    match run_seeds(&arguments, jobs) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("simulation: {error}");
            ExitCode::from(1)
        }
    }
}

/// One seed, told.
fn tell(seed: u64, shards: Shards) -> ExitCode {
    let begun = Instant::now();
    let outcome = run(seed, shards, true);
    let mut out = std::io::stdout().lock();
    for line in &outcome.story {
        // Whoever reads it may have read enough.
        if writeln!(out, "{line}").is_err() {
            return ExitCode::SUCCESS;
        }
    }
    drop(out);
    println!();
    print_figures(&outcome.figures);
    println!("story {:016x}, {:.1?}", outcome.story_hash, begun.elapsed());
    judge(outcome.failure.as_ref(), &format!("seed {seed}"), &replay(seed, shards))
}

fn tell_scenario(name: &str, shards: Shards, crashes: &[u64]) -> ExitCode {
    let Some(scenario) = scenarios::all().find(|scenario| scenario.name == name) else {
        eprintln!("simulation: there is no story {name:?}; --scenarios lists them");
        return ExitCode::from(1);
    };
    if !scenario.is_of(shards) {
        eprintln!("simulation: {name:?} is a story of several shards; say how many with --shards");
        return ExitCode::from(1);
    }
    let outcome = scenario.play(shards, crashes, true);
    for line in &outcome.story {
        println!("{line}");
    }
    println!();
    print_figures(&outcome.figures);
    judge(outcome.failure.as_ref(), name, &replay_scenario(name, shards, crashes))
}

fn judge(failure: Option<&Failure>, what: &str, replay: &str) -> ExitCode {
    match failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            print_failure(failure, what, replay);
            ExitCode::from(2)
        }
    }
}

fn print_failure(failure: &Failure, what: &str, replay: &str) {
    let found: String = failure.what.chars().take(800).collect();
    println!("BROKEN {what}: {}: {found}    again: {replay}", failure.check);
}

fn replay(seed: u64, shards: Shards) -> String {
    if shards == Shards::ONE {
        format!("make simulate SEED={seed}")
    } else {
        format!("make simulate SEED={seed} SHARDS={shards}")
    }
}

fn replay_scenario(name: &str, shards: Shards, crashes: &[u64]) -> String {
    let mut command = format!("cargo run --release -p simulation -- --scenarios --scenario {name:?}");
    if shards != Shards::ONE {
        command.push_str(" --shards ");
        command.push_str(&shards.to_string());
    }
    if !crashes.is_empty() {
        let edges: Vec<_> = crashes.iter().map(ToString::to_string).collect();
        command.push_str(" --crash ");
        command.push_str(&edges.join(","));
    }
    command
}

fn run_seeds(arguments: &Arguments, jobs: usize) -> std::io::Result<ExitCode> {
    let begun = Instant::now();
    let from = arguments.seed.unwrap_or(arguments.from);
    let seeds = arguments.seeds.unwrap_or(10_000);
    let known = match &arguments.out {
        Some(path) if arguments.resume => pieces::read(path)?,
        _ => Vec::new(),
    };
    let (mut figures, mut failures, mut milliseconds) = (Figures::default(), 0, 0);
    for (first, count) in pieces::ranges(from, seeds, arguments.piece) {
        let same = |piece: &&Piece| (piece.shards, piece.from, piece.seeds) == (arguments.shards.count(), first, count);
        let before = known.iter().find(same);
        let piece = if let Some(piece) = before {
            piece.clone()
        } else {
            let piece = run_piece(first, count, arguments.shards, jobs, arguments.first);
            finish(arguments.out.as_deref(), &piece)?;
            piece
        };
        figures.add(&piece.figures);
        failures += piece.failures;
        milliseconds += piece.milliseconds;
        if arguments.first && failures > 0 {
            return Ok(ExitCode::from(2));
        }
    }
    print_figures(&figures);
    println!(
        "{seeds} seeds from {from}, shards {}: {failures} failed; {:.1} s now, {:.1} s in all",
        arguments.shards,
        begun.elapsed().as_secs_f64(),
        std::time::Duration::from_millis(milliseconds).as_secs_f64()
    );
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn finish(out: Option<&Path>, piece: &Piece) -> std::io::Result<()> {
    let Some(path) = out else { return Ok(()) };
    pieces::append(path, piece)?;
    let (first, last) = (piece.from, piece.from + piece.seeds - 1);
    println!("seeds {first} to {last}: {} failed, {} ms", piece.failures, piece.milliseconds);
    Ok(())
}

/// How many failures of a piece are printed.
const MOST_PRINTED: u64 = 20;

fn run_piece(first: u64, count: u64, shards: Shards, jobs: usize, until_broken: bool) -> Piece {
    let begun = Instant::now();
    let next = AtomicU64::new(first);
    let failures = AtomicU64::new(0);
    let total = Mutex::new(Figures::default());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let mut figures = Figures::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || until_broken && failures.load(Ordering::Relaxed) > 0 {
                        break;
                    }
                    let outcome = run(seed, shards, false);
                    figures.add(&outcome.figures);
                    if let Some(failure) = &outcome.failure
                        && failures.fetch_add(1, Ordering::Relaxed) < MOST_PRINTED
                    {
                        print_failure(failure, &format!("seed {seed}"), &replay(seed, shards));
                    }
                }
                total.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(&figures);
            });
        }
    });
    Piece {
        from: first,
        seeds: count,
        shards: shards.count(),
        failures: failures.into_inner(),
        milliseconds: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        figures: total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner),
    }
}

fn sweep(jobs: usize, shards: Shards, pairs: bool) -> ExitCode {
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    let stories: Vec<_> = scenarios::all().filter(|scenario| scenario.is_of(shards)).collect();
    let swept: Mutex<Vec<(usize, Sweep)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(scenario) = stories.get(number) else { break };
                    let result = scenario.sweep(shards, pairs);
                    swept
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .push((number, result));
                }
            });
        }
    });
    let mut swept = swept.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    swept.sort_by_key(|(number, _)| *number);
    println!("{:<58} {:>6} {:>8} {:>8}", "story", "edges", "crashes", "pairs");
    let mut sum = Sweep::default();
    for (number, result) in swept {
        let name = stories[number].name;
        println!("{name:<58} {:>6} {:>8} {:>8}", result.edges, result.singles, result.pairs);
        for (crashes, failure) in &result.failures {
            print_failure(
                failure,
                &format!("{name:?} with crashes at {crashes:?}"),
                &replay_scenario(name, shards, crashes),
            );
        }
        sum.edges += result.edges;
        sum.singles += result.singles;
        sum.pairs += result.pairs;
        sum.failures.extend(result.failures);
    }
    println!(
        "{:<58} {:>6} {:>8} {:>8}",
        format!("{} stories, {:.1} s", stories.len(), begun.elapsed().as_secs_f64()),
        sum.edges,
        sum.singles,
        sum.pairs
    );
    if sum.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(2)
    }
}

fn print_figures(figures: &Figures) {
    let rows = [
        ("steps", figures.steps),
        ("requests", figures.requests),
        ("answers", figures.answers),
        ("calls of the provider", figures.calls),
        ("messages between shards", figures.messages),
        ("batches", figures.batches),
        ("events", figures.events),
        ("crashes", figures.crashes),
        ("recoveries", figures.recoveries),
    ];
    for (name, count) in rows {
        println!("{name:<32} {count:>14}");
    }
    for (title, counts) in [("orders", &figures.orders), ("faults", &figures.faults)] {
        println!("{title}");
        for (name, count) in counts {
            println!("  {name:<30} {count:>14}");
        }
    }
}
