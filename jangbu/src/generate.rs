//! `jangbu generate`: a data directory with the past of a shop in it, for trying out and for measuring.
//!
//! It drives the engine's own core by a clock, chance and a provider that it turns itself, so what it records is what the shop would have
//! recorded. The same number of orders, seed and days give the same bytes of every event, in any directory.

mod calendar;
mod cast;
mod chance;
mod out;
mod plan;
mod provider;
mod tally;
mod town;

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use event_store::{EventStore, Shards};
use event_store_sqlite::SqliteStore;
use key_vault::KeyVault;
use payment_gateway_simulator::Books;
use projections_sqlite::SqliteViews;
use uuid::Uuid;

use crate::{
    failure::Failure,
    serve::{self, Signals},
    settings::{Flags, Settings},
    simulator,
};
use chance::Dice;
use out::{Log, Reader, Views};
use town::Town;

/// The most days that a shop may have had.
const MOST_DAYS: i64 = 3_650;

/// What is generated.
#[derive(Clone, Debug, Args)]
pub(crate) struct GenerateArgs {
    /// How many orders there are.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    orders: u64,
    /// Decides everything that chance decides.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Over how many days they are spread.
    #[arg(long, value_name = "D", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=MOST_DAYS))]
    days: u16,
    #[arg(long, value_name = "P", help = "How many shards the log has [default: JANGBU_SHARDS, else 1]")]
    shards: Option<u16>,
    /// The data directory to make: a new or an empty one [default: ./data].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

/// Makes the shop. A signal ends it early.
pub(crate) fn run(settings: &Settings, arguments: &GenerateArgs) -> Result<(), Failure> {
    settings.check_supported()?;
    let shards = shards_of(settings, arguments)?;
    let (data, keys) = settings.directories("generate")?;
    for place in [data, keys] {
        refuse_occupied(place)?;
    }
    let keys = keys.to_owned();
    let (settings, arguments) = (settings.clone(), arguments.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    serve::on_runtime(async move {
        let mut signals = Signals::listen()?;
        let data = settings.data.clone();
        let mut work = tokio::task::spawn_blocking(move || generate(&settings, &arguments, shards, &keys, &stopped));
        let done = tokio::select! {
            done = &mut work => done,
            () = signals.next() => {
                stop.store(true, Ordering::Relaxed);
                work.await
            }
        };
        let done = done.map_err(|_| Failure::failed("the generator panicked"))?;
        if stop.load(Ordering::Relaxed) {
            // What went wrong on the way to the end is of no interest any more.
            return Err(Failure::interrupted(format_args!(
                "interrupted; {} is not complete, delete it",
                data.display()
            )));
        }
        let summary = done.map_err(|failure| failure.with(format_args!("; {} is not complete, delete it", data.display())))?;
        print!("{summary}");
        Ok(())
    })
}

/// Makes a shop as `jangbu generate` does, for tests and measurements: so many orders in thirty days. Returns what became of them, for people.
///
/// # Errors
/// One line.
pub fn shop(data: &Path, orders: u64, seed: u64, shards: u16) -> Result<String, String> {
    let arguments = GenerateArgs {
        orders,
        seed,
        days: 30,
        shards: Some(shards),
        data: Some(data.to_owned()),
    };
    let make = || {
        let settings = Settings::read(&Flags {
            data: arguments.data.clone(),
            ..Flags::default()
        })?;
        let shards = shards_of(&settings, &arguments)?;
        let (_, keys) = settings.directories("generate")?;
        generate(&settings, &arguments, shards, keys, &AtomicBool::new(false))
    };
    make().map_err(|failure: Failure| failure.line().to_owned())
}

fn shards_of(settings: &Settings, arguments: &GenerateArgs) -> Result<Shards, Failure> {
    let Some(count) = arguments.shards else {
        return Ok(settings.shards.unwrap_or(Shards::ONE));
    };
    Shards::new(count).ok_or_else(|| Failure::wrong(format_args!("--shards is 1 to {}, not {count}", Shards::MOST)))
}

fn refuse_occupied(directory: &Path) -> Result<(), Failure> {
    let occupied = match std::fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(Failure::wrong(format_args!("{} cannot be looked at: {error}", directory.display()))),
    };
    if occupied {
        return Err(Failure::wrong(format_args!(
            "{} is not empty; name a new or an empty directory with --data",
            directory.display()
        )));
    }
    Ok(())
}

/// The keys become a vault at the very end: a directory that is not complete is served by nobody.
fn generate(settings: &Settings, arguments: &GenerateArgs, shards: Shards, keys: &Path, stop: &AtomicBool) -> Result<String, Failure> {
    let mut dice = Dice::new(arguments.seed);
    let calendar = calendar::Calendar::new(arguments.days, &settings.time_zone)?;
    let store = SqliteStore::create(&settings.data, dice.id())?;
    let vault = KeyVault::sow(keys, &dice.bytes())?;
    let books = Books::open(&settings.data.join(simulator::LEDGER), settings.currency.code())?;
    let (views, _) = SqliteViews::open(&settings.data)?;

    let mut writer = store.writer()?;
    writer.found(shards)?;
    let mut heads = Vec::new();
    for shard in shards.all() {
        heads.push(writer.take(shard, Uuid::nil(), calendar.begin())?);
    }
    let log_id = heads.first().map(|head| head.log_id).unwrap_or_default();
    let (log, thread) = Log::start(writer)?;
    let views = Views::start(Box::new(views), log_id)?;
    let reader = || -> Result<_, Failure> {
        Ok(Reader {
            log: Arc::clone(&log),
            durable: store.reader()?,
        })
    };
    let mut readers = Vec::new();
    for _ in &heads {
        readers.push(reader()?);
    }
    let town = Town::new(settings, shards, calendar, dice, arguments.orders, vault.clone(), books);
    let lived = town.live(heads, readers, &log, views, &mut Progress::new(arguments.orders), stop);
    // The log's thread ends also when the town has failed: its word comes first, for it is the cause.
    log.finish(thread)?;
    let (tally, books) = lived?;
    books.finish()?;
    if stop.load(Ordering::Relaxed) {
        return Ok(String::new());
    }
    vault.finish_sown()?;
    let reader = store.reader()?;
    let mut heads = Vec::new();
    for shard in reader.shards()? {
        heads.extend(reader.head(shard)?);
    }
    let summary = tally.summary(&heads, shards).to_string();
    drop(reader);
    // The last one to close the log may write, so that SQLite leaves one file and no write-ahead log beside it.
    drop(store.writer()?);
    Ok(summary)
}

/// Shown on a terminal, and nowhere else.
struct Progress {
    orders: u64,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    fn new(orders: u64) -> Self {
        Self {
            orders,
            shown: None,
            terminal: stderr().is_terminal(),
        }
    }

    fn at(&mut self, placed: u64) {
        const EVERY: Duration = Duration::from_millis(100);
        if self.terminal && self.shown.is_none_or(|shown| shown.elapsed() > EVERY) {
            self.shown = Some(Instant::now());
            // Nobody reads a closed standard error.
            let _ = write!(stderr(), "\r\x1b[Kgenerate {placed}/{} orders", self.orders);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
