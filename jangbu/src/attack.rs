//! `jangbu attack`: concurrent pairs of calls at a running shop, and from outside the question whether money and stock still add up.
//!
//! After Warszawski and Bailis, "`ACIDRain`: Concurrency-Related Attacks on Database-Backed Web Applications" (SIGMOD 2017): where a shop
//! reads, decides and writes without isolation, two calls at the same time do what neither does alone. Each round makes a situation in
//! which two calls compete, sends them together, waits until the orders have settled, and compares what the shop then says about stock,
//! balances and payments with what its own answers add up to. It decides nothing by the time that an answer took.

mod check;
mod pair;
mod report;
mod round;
mod shop;
mod volley;

use std::io::Write as _;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use self::{
    pair::Pair,
    report::{Report, Results},
    round::Attack,
    shop::Shop,
};
use crate::client::{http::Address, people::Administrator};

/// How many calls leave together at most.
const MOST_AT_ONCE: usize = 8;

/// What `jangbu attack` takes.
#[derive(Args, Debug)]
#[command(
    after_help = "Ends with 0 when everything adds up, with 1 when the attack could not be made, and with 2 when anomalies were found.\n\n\
    Every pair runs in many rounds: two calls together or eight, held back by some microseconds that the seed chooses. Accounts and \
    products are made anew for every run; the shop's other customers are not touched. Not attacked are refunds: the shop has none yet."
)]
pub(crate) struct AttackArgs {
    /// The shop: http://HOST:PORT.
    #[arg(long)]
    url: Address,
    /// How often each pair is tried.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: u32,
    /// Chooses prices, quantities and which call is held back for how long.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The pairs to try, as a,b; without it all of them.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PAIRS")]
    pairs: Vec<Pair>,
    #[command(flatten)]
    administrator: Administrator,
    /// The shop's currency.
    #[arg(long, env = "JANGBU_CURRENCY", default_value = "KRW")]
    currency: String,
    /// For people or for programs.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Attacks a shop, prints what was found on standard output, and says how many anomalies there were.
pub(crate) async fn run(args: AttackArgs) -> anyhow::Result<u64> {
    let report = tokio::select! {
        report = attack(&args) => report?,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    };
    let text = match args.output {
        Output::Text => report.to_string(),
        Output::Json => serde_json::to_string(&report)? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes()).context("writing the result")?;
    Ok(report.anomalies())
}

async fn attack(args: &AttackArgs) -> anyhow::Result<Report> {
    say("preparing a seller and buyers");
    let admin = args.administrator.credentials();
    let shop = Shop::enter(&args.url, &admin, &args.currency).await?;
    let mut report = Report::new(&args.url, args.seed, shop.ledger());
    let mut attack = Attack::new(shop, args.seed);
    for pair in chosen(&args.pairs) {
        let mut results = Results::new(pair);
        for number in 0..args.rounds {
            let round = attack.round(pair, number).await;
            results.add(number, round.with_context(|| format!("round {number} of {}", pair.name()))?);
        }
        say(&results.line());
        report.add(results);
    }
    Ok(report)
}

/// Each pair once, in the order of the list.
fn chosen(pairs: &[Pair]) -> Vec<Pair> {
    let all = Pair::value_variants().iter().copied();
    all.filter(|pair| pairs.is_empty() || pairs.contains(pair)).collect()
}

/// Progress is for people and goes to standard error.
fn say(text: &str) {
    eprintln!("attack: {text}");
}
