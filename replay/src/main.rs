//! The command line with which a log is read: for analysts and operators, on a shop that serves or on a copy of its data.
//!
//! It reads only, calls nobody, and says what it could not look at. Data goes to standard output, all else to standard error.

mod arguments;
mod failure;
mod output;
mod progress;
mod stats;
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
    let progress = progress::Progress::start();
    let done = match &arguments.command {
        Command::Stats(stats) => stats::run(&arguments.source, stats, &progress),
        Command::Verify(verify) => verification::run(&arguments.source, verify, &progress),
    };
    progress.clear();
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(),
    }
}

/// A data directory's log, or why there is none that can be read.
type Done = Result<u8, Failure>;
