//! The command line.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::failure::Failure;

/// Reads the log of a shop: a data directory, also while the shop serves, or a copy of one. Changes nothing and calls nobody.
#[derive(Debug, Parser)]
#[command(
    name = "replay",
    version,
    propagate_version = true,
    after_help = "Examples:\n  replay stats\n  replay --data /srv/shop verify\n  replay --data ./copy verify --ledger none -o json | jq .findings\n\n\
                  Exit codes: 0 ok, 1 usage or unreadable input, 2 verification failed, 3 partial, 130 interrupted."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the log is.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// The data directory of a shop.
    #[arg(long, global = true, value_name = "DIR", default_value = "./data")]
    data: PathBuf,
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help = "The store, as JANGBU_STORE names it; this version reads sqlite, which is in the data directory"
    )]
    store: Option<String>,
}

impl Source {
    /// The data directory.
    pub(crate) fn directory(&self) -> Result<&PathBuf, Failure> {
        match self.store.as_deref() {
            None | Some("sqlite") => Ok(&self.data),
            Some(other) => {
                // What stands behind the scheme may hold a password.
                let scheme = other.split(':').next().unwrap_or_default();
                Err(Failure::input(format_args!(
                    "this version reads no log on {scheme}; use --data with the data directory of a shop on sqlite"
                )))
            }
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tells what is in the log: events by type, streams, orders by their end, times, sizes.
    #[command(after_help = "Examples:\n  replay stats\n  replay --data ./copy stats -o csv > types.csv")]
    Stats(StatsArgs),
    /// Checks everything that must always hold, and names the positions where something does not.
    ///
    /// All that is there is checked: the log, its views, the simulated provider's ledger. What is not there is said to be not checked;
    /// what was asked for by a flag and is not there makes the exit code 3.
    #[command(
        after_help = "Examples:\n  replay verify\n  replay --data ./copy verify --views\n  replay verify --ledger simulator.db --settled\n  \
                      replay verify -o ndjson | jq 'select(.record == \"finding\")'"
    )]
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct VerifyArgs {
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// The views have to be compared: without them the exit code is 3.
    #[arg(long, conflicts_with = "no_views")]
    pub(crate) views: bool,
    /// Leaves the views out, which takes most of the time.
    #[arg(long)]
    pub(crate) no_views: bool,
    /// The provider's ledger: a file of the simulator, or `none` [default: simulator.db of the data directory, if there is one].
    #[arg(long, value_name = "FILE|none")]
    pub(crate) ledger: Option<Ledger>,
    /// Leaves out the look of the database itself at its file.
    #[arg(long)]
    pub(crate) no_file: bool,
    /// Nothing is under way any more: every order has ended, and the provider's ledger and the log agree on each.
    #[arg(long)]
    pub(crate) settled: bool,
    /// The time by which deadlines are judged, RFC 3339 [default: that of the last event].
    #[arg(long, value_name = "TIME")]
    pub(crate) now: Option<jiff::Timestamp>,
    /// How long after its deadline a process may still be on its way.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) grace: Duration,
    /// How many findings are shown; all are counted.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) keep: usize,
}

/// Which ledger.
#[derive(Clone, Debug)]
pub(crate) enum Ledger {
    None,
    File(PathBuf),
}

impl FromStr for Ledger {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "none" { Self::None } else { Self::File(text.into()) })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One object.
    Json,
    /// One object a line.
    Ndjson,
    /// RFC 4180, with a first line of names.
    Csv,
}
