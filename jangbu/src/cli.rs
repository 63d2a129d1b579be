//! The command line.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use event_store_postgres::Roles;

use crate::{
    adopt, attack, bench, copies,
    failure::Failure,
    generate, health, move_log, places, serve,
    settings::{Flags, Settings},
    simulator,
};

/// Jangbu: an event-sourced commerce engine.
///
/// Every setting of .env.example may stand in the environment or in jangbu.toml; a flag wins over both.
#[derive(Debug, Parser)]
#[command(name = "jangbu", version, propagate_version = true)]
struct Cli {
    /// The settings file, instead of jangbu.toml in the working directory.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the shop: REST, GraphQL and their pages.
    Serve(ServeArgs),
    /// Serves the simulated payment provider as a process of its own.
    Simulator(SimulatorArgs),
    /// Checks the settings and shows them, with where each came from.
    CheckConfig(DataArgs),
    /// Makes or upgrades the log, the views and the keys of a data directory, and ends.
    Migrate(MigrateArgs),
    /// Works on the keys of a shop, also while it is served.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Works on what is published to Kafka.
    #[cfg(feature = "kafka")]
    #[command(subcommand)]
    Relay(RelayCommand),
    /// Ends with 0 when the shop is ready, else with 1.
    Healthcheck(HealthcheckArgs),
    /// Measures a shop that is served, over real HTTP.
    Bench(bench::BenchArgs),
    /// Attacks a shop with concurrent pairs of calls, and checks that stock, credit and charges still add up.
    Attack(Box<attack::AttackArgs>),
    /// Copies the log and the keys to a new directory, also while the shop is served.
    Backup(BackupArgs),
    /// Makes a data directory from a backup.
    Restore(RestoreArgs),
    /// Makes a log from the events of another program, which postgres-es has written into a database. That database is only read.
    ///
    /// The log is the one that the settings name, and has to be empty. Interrupted, it goes on when it is run again.
    Adopt(adopt::AdoptArgs),
    /// Moves a shop that is stopped: its log and its keys, from files into databases, or back.
    ///
    /// They go to where the settings name them, which has to be empty. The old log is kept from being served again. Interrupted, it goes on when
    /// it is run again.
    Move(move_log::MoveArgs),
    /// Makes a data directory with the past of a shop in it, the same for the same seed: for trying out, and for measuring.
    ///
    /// The shop has several sellers, stock that runs out and comes in again, balances, cards of all kinds, and everything that goes wrong with
    /// them. It can be served and verified. Every account has the password of the demo, and whoever knows the seed knows its keys.
    Generate(generate::GenerateArgs),
}

#[derive(Debug, Args)]
struct DataArgs {
    /// The data directory [default: ./data].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Loads the demo shop: three accounts, six products. Doing so twice changes nothing.
    #[arg(long)]
    demo: bool,
    /// all, command-api, engine, projections, query-api or relay [default: all].
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// Where to serve: host:port; port 0 takes a free one [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
struct MigrateArgs {
    /// Lets this role of the database append to the log, and no more. May be given several times, as the others.
    #[arg(long, value_name = "ROLE")]
    engine_role: Vec<String>,
    /// Lets this role read the log.
    #[arg(long, value_name = "ROLE")]
    reader_role: Vec<String>,
    /// Lets this role read the log and keep its own place in it, as a relay does.
    #[arg(long, value_name = "ROLE")]
    relay_role: Vec<String>,
    /// Lets a program of this role write through postgres-es, while no engine does.
    #[arg(long, value_name = "ROLE")]
    foreign_role: Vec<String>,
    #[command(flatten)]
    data: DataArgs,
}

#[cfg(feature = "kafka")]
#[derive(Debug, Subcommand)]
enum RelayCommand {
    /// Has a shard's events published from behind a position on, also while a relay runs: after the log was put back to an older copy, or to
    /// publish it once more from 0.
    Move {
        /// The shard.
        #[arg(long, default_value_t = 0)]
        shard: u16,
        /// The last position that counts as published.
        #[arg(long, value_name = "POSITION")]
        to: u64,
        #[command(flatten)]
        data: DataArgs,
    },
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Signs access tokens with a new key from now on. Nobody has to log in again: tokens of the key before it are still believed.
    Rotate(DataArgs),
}

#[derive(Debug, Args)]
struct SimulatorArgs {
    /// Where to serve: host:port; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    listen: String,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
struct HealthcheckArgs {
    /// Where the shop is: host:port [default: where the settings say].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
struct BackupArgs {
    /// A new or empty directory: the log goes to DIR/log, the keys to DIR/keys.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
struct RestoreArgs {
    /// The backup.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The data directory to make.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

/// Does what the command line asks, and says how it ended.
pub fn main() -> ExitCode {
    main_with(std::env::args_os().collect())
}

/// The same for these arguments, of which the first is the program's name.
pub fn main_with(arguments: Vec<OsString>) -> ExitCode {
    // Libraries bring two kinds of cryptography with them, and rustls takes neither by itself.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let Cli { config, command } = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && attacks(arguments.into_iter().skip(1)) => return unusable(&error),
        Err(error) => error.exit(),
    };
    match run(config.as_ref(), command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Whether the subcommand is `attack`.
fn attacks(arguments: impl Iterator<Item = OsString>) -> bool {
    let mut arguments = arguments.skip_while(|argument| argument.to_string_lossy().starts_with("--config="));
    match arguments.next() {
        Some(first) if first == "--config" => arguments.nth(1).is_some_and(|argument| argument == "attack"),
        Some(first) => first == "attack",
        None => false,
    }
}

/// For an attack 2 means that it found something, so a command line that cannot be read is 1.
fn unusable(error: &clap::Error) -> ExitCode {
    // Nobody reads a closed standard error.
    let _ = error.print();
    ExitCode::FAILURE
}

/// What was found is the reason to end with 2.
fn verdict(anomalies: u64) -> Result<(), Failure> {
    match anomalies {
        0 => Ok(()),
        1 => Err(Failure::wrong("the attack found an anomaly")),
        found => Err(Failure::wrong(format_args!("the attack found {found} anomalies"))),
    }
}

fn run(config: Option<&PathBuf>, command: Command) -> Result<(), Failure> {
    let flags = |data: DataArgs| Flags {
        config: config.cloned(),
        data: data.data,
        ..Flags::default()
    };
    match command {
        Command::Serve(ServeArgs { demo, role, listen, data }) => serve::run(&Settings::read(&Flags {
            listen,
            role,
            demo,
            ..flags(data)
        })?),
        Command::Simulator(SimulatorArgs { listen, data }) => simulator::run(&Settings::read(&Flags {
            listen: Some(listen),
            ..flags(data)
        })?),
        Command::CheckConfig(data) => {
            let settings = Settings::read(&flags(data))?;
            print!("{}", settings.listing());
            settings.check_supported()
        }
        Command::Migrate(MigrateArgs {
            engine_role,
            reader_role,
            relay_role,
            foreign_role,
            data,
        }) => {
            let roles = Roles {
                engines: engine_role,
                readers: reader_role,
                relays: relay_role,
                foreign: foreign_role,
            };
            places::migrate(&Settings::read(&flags(data))?, &roles)
        }
        Command::Keys(KeysCommand::Rotate(data)) => places::rotate_keys(&Settings::read(&flags(data))?),
        #[cfg(feature = "kafka")]
        Command::Relay(RelayCommand::Move { shard, to, data }) => crate::kafka::move_checkpoint(&Settings::read(&flags(data))?, shard, to),
        Command::Healthcheck(HealthcheckArgs { listen, data }) => {
            let given = listen.is_some();
            health::check(&Settings::read(&Flags { listen, ..flags(data) })?, given)
        }
        Command::Bench(arguments) => serve::on_runtime(async { Ok(bench::run(arguments).await?) }),
        Command::Attack(arguments) => serve::on_runtime(async { verdict(attack::run(*arguments).await?) }),
        Command::Backup(BackupArgs { to, data }) => copies::backup(&Settings::read(&flags(data))?, &to),
        Command::Adopt(arguments) => {
            let data = DataArgs {
                data: arguments.data.clone(),
            };
            adopt::run(&Settings::read(&flags(data))?, arguments)
        }
        Command::Move(arguments) => {
            let data = DataArgs {
                data: arguments.data.clone(),
            };
            move_log::run(&Settings::read(&flags(data))?, arguments)
        }
        Command::Generate(arguments) => {
            let data = DataArgs {
                data: arguments.data.clone(),
            };
            generate::run(&Settings::read(&flags(data))?, &arguments)
        }
        Command::Restore(RestoreArgs { from, data }) => copies::restore(&from, &Settings::read(&flags(DataArgs { data: Some(data) }))?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attack_is_known_by_its_subcommand() {
        let attacks = |line: &str| attacks(line.split_whitespace().map(OsString::from));
        for line in ["attack", "attack --url", "--config f attack", "--config=f attack --x"] {
            assert!(attacks(line), "{line}");
        }
        for line in ["", "backup --to attack", "--config attack serve", "--config", "--url attack"] {
            assert!(!attacks(line), "{line}");
        }
    }
}
