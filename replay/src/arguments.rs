//! The command line.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use event_store::{StreamId, TypePattern};
use jiff::tz::TimeZone;
use uuid::Uuid;

use crate::time::Moment;

/// The heading of the options that every command has.
const LOG: &str = "The log, and how it is shown";

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 usage or unreadable input, 2 verification failed, 3 partial, 130 interrupted.";

const MOMENTS: &str = "Moments: 2026-01-05T10:00+09:00 (RFC 3339), 2026-01-05T10:00[Asia/Seoul], 2026-01-05 (its midnight in --tz), -2h (before now), \
                       pos:N or pos:S/N (that event; S/N where the log has several shards), v:N (the version of a stream, where one is named), start, end.";

/// Reads the log of a shop: a data directory or a database, also while the shop serves, or a copy. Changes nothing and calls nobody.
#[derive(Debug, Parser)]
#[command(
    name = "replay",
    version,
    propagate_version = true,
    after_help = format!("Examples:\n  replay stats\n  replay cat --type 'order.*' --limit 5\n  replay --data ./data verify --ledger none -o json\n\n{EXIT_CODES}"),
    after_long_help = format!("Examples:\n  replay stats\n  replay cat --type 'order.*' --limit 5\n  replay --data ./data verify --ledger none -o json\n\n{MOMENTS}\n\n{EXIT_CODES}")
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the log is, and how what is in it is shown.
#[derive(Debug, Args)]
pub(crate) struct Source {
    #[arg(
        long,
        global = true,
        help_heading = LOG,
        value_name = "DIR",
        help = "The data directory of a shop [default: ./data]",
        long_help = "The data directory of a shop [default: ./data].\n\nWithout --data and --store the shop's own settings say where everything is, \
                     if they are in the environment: JANGBU_DATA, JANGBU_STORE, JANGBU_VIEWS and JANGBU_KEYS."
    )]
    pub(crate) data: Option<PathBuf>,
    #[arg(
        long,
        global = true,
        help_heading = LOG,
        value_name = "URL",
        help = "The log's database, postgres://USER:PASSWORD@HOST/DATABASE; a role that may only read is enough",
        long_help = "The log's database, as JANGBU_STORE names it: postgres://USER:PASSWORD@HOST/DATABASE. A role that may only read is enough. \
                     Everybody on this machine sees a command line, so leave the password to JANGBU_STORE. --data names the directory \
                     that the shop has besides, with its keys. A log on EventStoreDB (esdb://...) is read from the index in that directory."
    )]
    pub(crate) store: Option<String>,
    #[arg(
        long,
        global = true,
        help_heading = LOG,
        value_name = "URL|FILE",
        num_args = 0..=1,
        help = "The views: their database, or a file [default: those beside the log]; `verify` then has to compare them",
    )]
    // None: not said. Some(None): those that there are, and there have to be some.
    #[allow(clippy::option_option, reason = "a flag that may have a value")]
    pub(crate) views: Option<Option<String>>,
    #[arg(
        long,
        global = true,
        help_heading = LOG,
        value_name = "ZONE",
        env = "JANGBU_TIME_ZONE",
        hide_env = true,
        default_value = "Asia/Seoul",
        value_parser = zone,
        help = "The time zone of days and of the times that are shown; JANGBU_TIME_ZONE says it too"
    )]
    pub(crate) tz: TimeZone,
    /// Opens what is sealed with the shop's keys, and shows whole payment keys.
    #[arg(long, global = true, help_heading = LOG)]
    pub(crate) reveal: bool,
    #[arg(
        long,
        global = true,
        help_heading = LOG,
        value_name = "DIR|URL",
        help = "The directory of the keys, or their database, for --reveal [default: keys in the data directory]"
    )]
    pub(crate) keys: Option<String>,
    /// Says nothing on standard error but what went wrong.
    #[arg(short, long, global = true, help_heading = LOG)]
    pub(crate) quiet: bool,
    /// Says on standard error what was asked of the store, and how much of the log was read.
    #[arg(long, global = true, help_heading = LOG)]
    pub(crate) explain: bool,
}

fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| format!("{name:?} is no time zone that this machine knows; write an IANA name, as Asia/Seoul"))
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tells what is in the log: events by type, streams, orders by their end, times, sizes.
    #[command(after_help = "Examples:\n  replay stats\n  replay --data ./data stats -o csv > types.csv")]
    Stats(StatsArgs),
    /// Lists the event types: how many events, since when, until when, how large, in which versions.
    #[command(after_help = "Examples:\n  replay types\n  replay types -o csv --columns type,events --no-header")]
    Types(TypesArgs),
    /// Tells the shape of each event type, as JSON Schema: what is in the log, not what may be.
    ///
    /// Each member comes with the JSON types that it has, in how many events it is, and an example; sealed text and payment keys are not shown.
    #[command(after_help = "Examples:\n  replay schema\n  replay schema order.placed -o json\n  replay schema 'payment.*' -o table")]
    Schema(SchemaArgs),
    /// Prints events: all, or those that are wanted.
    ///
    /// What is asked for is asked of the store, so little else is read: --stream and --order read that stream and that order, --from and --to
    /// find their place without reading what is before. With several shards, events come in the order in which they were recorded.
    #[command(after_help = format!(
        "Examples:\n  replay cat --limit 10\n  replay cat --type 'payment.*' --from 2026-11-20 --to +1d -o ndjson\n  \
         replay cat --kind order --reverse --limit 3 --columns position,event_type,aggregate_id -o csv\n  \
         replay cat --from pos:10 --to pos:20 --explain\n\n{MOMENTS}\nA range ends before the moment that --to names, and with the event that \
         pos:N or v:N names. +1h after --to counts from --from.\n\nColumns: shard, position, recorded_at, event_type, aggregate_type, aggregate_id, \
         sequence, payload, metadata, event_id, event_version: those of the log's table of events."
    ))]
    Cat(CatArgs),
    /// Prints events as they are recorded, until Ctrl-C.
    ///
    /// Each event comes once, and the events of a shard in their order. A shop that stops and starts again is waited for; a log that is
    /// replaced by another ends it with exit code 3.
    #[command(after_help = format!(
        "Examples:\n  replay tail --from start --limit 3\n  replay tail --from start --type 'order.*' --limit 2 -o ndjson\n\n{MOMENTS}"
    ))]
    Tail(TailArgs),
    /// Shows an aggregate as it was at a moment.
    #[command(after_help = format!(
        "Examples:\n  replay state order \"$(replay cat --type order.placed --limit 1 -o csv --columns aggregate_id --no-header)\"\n\n{MOMENTS}"
    ))]
    State(StateArgs),
    /// Shows what changed of an aggregate between two moments.
    #[command(after_help = format!(
        "Examples:\n  replay diff order \"$(replay cat --type order.placed --limit 1 -o csv --columns aggregate_id --no-header)\" v:1 end\n\n{MOMENTS}"
    ))]
    Diff(DiffArgs),
    /// Shows the stock of all products, or of one, as it was at a moment.
    #[command(after_help = format!("Examples:\n  replay inventory\n  replay inventory --at end -o csv\n\n{MOMENTS}"))]
    Inventory(InventoryArgs),
    /// Tells the story of one order: what happened, who asked for it, and what it waits for.
    #[command(
        after_help = "Examples:\n  replay timeline \"$(replay cat --type order.placed --limit 1 -o csv --columns aggregate_id --no-header)\""
    )]
    Timeline(TimelineArgs),
    /// Checks everything that must always hold, and names the positions where something does not.
    ///
    /// All that is there is checked: the log, its views, the simulated provider's ledger. What is not there is said to be not checked;
    /// what was asked for by a flag and is not there makes the exit code 3.
    #[command(
        after_help = "Examples:\n  replay verify\n  replay --data ./data verify --no-views\n  replay verify --ledger none --settled -o ndjson"
    )]
    Verify(VerifyArgs),
    /// Folds the log into fresh views beside the live ones, and tells how fast that went and what came of it.
    #[command(after_help = format!("Examples:\n  replay rebuild --shadow --into ./shadow\n\n{MOMENTS}"))]
    Rebuild(RebuildArgs),
    /// Compares views in two places row by row.
    #[command(
        after_help = "Examples:\n  replay rebuild --shadow --into ./again && replay compare live ./again\n\n\
                            Exit codes: 0 equal, 1 usage or unreadable input, 2 different, 3 not at the same position."
    )]
    Compare(CompareArgs),
    /// Prints what a shell needs to complete this command line.
    #[command(after_help = "Examples:\n  replay completions bash > replay.bash\n  replay completions zsh > _replay")]
    Completions(CompletionsArgs),
    /// Prints the manual page, or writes one for each command.
    #[command(after_help = "Examples:\n  replay man > replay.1\n  replay man --dir ./man")]
    Man(ManArgs),
}

/// How rows are printed.
#[derive(Debug, Args)]
pub(crate) struct RowsArgs {
    /// How it is printed [default: table on a terminal, ndjson elsewhere].
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Format>,
    /// Only these columns, in this order.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
    /// Leaves out the line of names of a table or of CSV.
    #[arg(long)]
    pub(crate) no_header: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct TypesArgs {
    #[command(flatten)]
    pub(crate) rows: RowsArgs,
    /// Only these types; may be repeated.
    #[arg(long = "type", value_name = "GLOB")]
    pub(crate) types: Vec<TypePattern>,
    #[command(flatten)]
    pub(crate) range: RangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// A type, or a pattern as 'payment.*' [default: all].
    #[arg(value_name = "TYPE")]
    pub(crate) types: Vec<TypePattern>,
    #[command(flatten)]
    pub(crate) rows: RowsArgs,
    #[command(flatten)]
    pub(crate) range: RangeArgs,
}

/// Between which moments.
#[derive(Debug, Args)]
pub(crate) struct RangeArgs {
    /// From this moment on.
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    pub(crate) from: Option<Moment>,
    /// Up to this moment.
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    pub(crate) to: Option<Moment>,
}

/// Which events.
#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// Only this stream, as order-0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0.
    #[arg(long, value_name = "KIND-ID", value_parser = stream)]
    pub(crate) stream: Option<StreamId>,
    /// Only streams of this kind, as order; may be repeated.
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Vec<String>,
    /// Only events of this type; `*` stands for any characters; may be repeated.
    #[arg(long = "type", value_name = "GLOB")]
    pub(crate) types: Vec<TypePattern>,
    /// Only what one request led to.
    #[arg(long, value_name = "ID")]
    pub(crate) correlation: Option<Uuid>,
    /// Only what this one asked for: system, anonymous, or account:ID.
    #[arg(long, value_name = "WHO")]
    pub(crate) actor: Option<String>,
    /// Only this shard.
    #[arg(long, value_name = "S")]
    pub(crate) shard: Option<u16>,
}

fn stream(text: &str) -> Result<StreamId, String> {
    let wrong = || format!("{text:?} is no stream; write its kind and its id, as order-0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0");
    let (kind, id) = text.split_once('-').ok_or_else(wrong)?;
    let id = Uuid::try_parse(id).map_err(|_| wrong())?;
    if kind.is_empty() {
        return Err(wrong());
    }
    Ok(StreamId {
        kind: kind.to_owned().into(),
        id,
    })
}

#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    #[command(flatten)]
    pub(crate) rows: RowsArgs,
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
    #[command(flatten)]
    pub(crate) range: RangeArgs,
    /// Only what is behind this position: N, or S/N for one shard; to go on where an earlier run ended.
    #[arg(long, value_name = "POSITION", conflicts_with = "from")]
    pub(crate) after: Option<String>,
    /// All events of one order: its own, its payment's and its purchase's, and those of stock and balance that are about it.
    #[arg(long, value_name = "ID", conflicts_with_all = ["stream"])]
    pub(crate) order: Option<Uuid>,
    /// At most so many.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// The last first.
    #[arg(long)]
    pub(crate) reverse: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    #[command(flatten)]
    pub(crate) rows: RowsArgs,
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
    /// From this moment on.
    #[arg(long, value_name = "MOMENT", default_value = "end", allow_hyphen_values = true)]
    pub(crate) from: Moment,
    /// Ends after so many.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// How often the log is looked at.
    #[arg(long, value_name = "DURATION", default_value = "200ms", value_parser = humantime::parse_duration)]
    pub(crate) poll: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct StateArgs {
    /// What it is: order, payment, purchase, product, inventory, account, wallet, email or session.
    #[arg(value_name = "KIND")]
    pub(crate) kind: String,
    /// Its id; for an order also its number, tracking id or payment key.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// As it was at this moment.
    #[arg(long, value_name = "MOMENT", default_value = "end", allow_hyphen_values = true)]
    pub(crate) at: Moment,
    /// How it is printed.
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Format>,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// What it is, as for `state`.
    #[arg(value_name = "KIND")]
    pub(crate) kind: String,
    /// Its id, as for `state`.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// The one moment.
    #[arg(value_name = "A", allow_hyphen_values = true)]
    pub(crate) before: Moment,
    /// The other.
    #[arg(value_name = "B", allow_hyphen_values = true)]
    pub(crate) after: Moment,
    /// How it is printed.
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Format>,
}

#[derive(Debug, Args)]
pub(crate) struct InventoryArgs {
    /// One product's id [default: all products].
    #[arg(value_name = "PRODUCT")]
    pub(crate) product: Option<Uuid>,
    /// As it was at this moment.
    #[arg(long, value_name = "MOMENT", default_value = "end", allow_hyphen_values = true)]
    pub(crate) at: Moment,
    #[command(flatten)]
    pub(crate) rows: RowsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TimelineArgs {
    /// An order number, tracking id, payment key, order id or payment id.
    #[arg(value_name = "ORDER")]
    pub(crate) order: String,
    #[command(flatten)]
    pub(crate) rows: RowsArgs,
    /// How long the provider may be silent before a person is asked to look, as the shop has it.
    #[arg(
        long,
        value_name = "DURATION",
        env = "JANGBU_PAYMENT__STUCK_AFTER",
        hide_env_values = true,
        default_value = "24h",
        value_parser = humantime::parse_duration
    )]
    pub(crate) stuck_after: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// Beside the live views, which stay as they are; the only way there is.
    #[arg(long, required = true)]
    pub(crate) shadow: bool,
    /// Where to: a file that is not there yet (its name ends in .db), or a directory that is not there yet or is empty.
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) into: PathBuf,
    /// Up to this moment.
    #[arg(long, value_name = "MOMENT", default_value = "end", allow_hyphen_values = true)]
    pub(crate) to: Moment,
    /// How it is printed.
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Format>,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The one: `live`, a database, a views file, or a directory with one.
    #[arg(value_name = "A")]
    pub(crate) one: String,
    /// The other.
    #[arg(value_name = "B")]
    pub(crate) other: String,
    /// How many differences are shown; all are counted.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) keep: usize,
    /// How it is printed.
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Format>,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Of which shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Writes a page for each command into this directory, which is made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Leaves the views out, which takes most of the time. With --views instead they have to be compared, or the exit code is 3.
    #[arg(long, conflicts_with = "views")]
    pub(crate) no_views: bool,
    /// The provider's ledger: a file of the simulator, or `none` [default: simulator.db of the data directory, if there is one].
    #[arg(long, value_name = "FILE|none")]
    pub(crate) ledger: Option<Ledger>,
    /// Leaves out the look of SQLite itself at its file.
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
    /// One document.
    Json,
    /// One object a line.
    Ndjson,
    /// As RFC 4180, with a first line of names; lines end in LF.
    Csv,
}
