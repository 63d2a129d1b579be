//! The command line with which a log is read: for analysts and operators, on a shop that serves or on a copy of its data.
//!
//! It reads only, calls nobody, and says what it could not look at. Data goes to standard output, all else to standard error.

mod arguments;
mod cat;
mod compare;
mod diff;
mod failure;
mod fold;
mod inventory;
mod manual;
mod mask;
mod output;
mod place;
mod progress;
mod rebuild;
mod schema;
mod source;
mod state;
mod stats;
mod tail;
mod time;
mod timeline;
mod types;
mod verification;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
use failure::Failure;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and the version are what was asked for; nothing else that clap says is.
            let code = if error.use_stderr() { failure::USAGE } else { failure::OK };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let source = &arguments.source;
    let progress = progress::Progress::start(source.quiet);
    let done = match &arguments.command {
        Command::Stats(stats) => stats::run(source, stats, &progress),
        Command::Types(types) => types::run(source, types, &progress),
        Command::Schema(schema) => schema::run(source, schema, &progress),
        Command::Cat(cat) => cat::run(source, cat, &progress),
        Command::Tail(tail) => tail::run(source, tail, &progress),
        Command::State(state) => state::run(source, state, &progress),
        Command::Diff(diff) => diff::run(source, diff, &progress),
        Command::Inventory(inventory) => inventory::run(source, inventory, &progress),
        Command::Timeline(timeline) => timeline::run(source, timeline, &progress),
        Command::Verify(verify) => verification::run(source, verify, &progress),
        Command::Rebuild(rebuild) => rebuild::run(source, rebuild, &progress),
        Command::Compare(compare) => compare::run(source, compare, &progress),
        Command::Completions(completions) => manual::completions(completions),
        Command::Man(man) => manual::man(man),
    };
    let errors = progress.finish();
    match done {
        Ok(failure::OK) if errors > 0 => ExitCode::from(failure::PARTIAL),
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(),
    }
}

/// How it ended, or why it did not come to its end.
type Done = Result<u8, Failure>;
