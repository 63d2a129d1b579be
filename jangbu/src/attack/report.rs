//! What was found, for programs (`--output json`) and for people.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{check::Anomaly, pair::Pair, round::Outcome};
use crate::client::http::Address;

/// How many ways to end are told apart in each pair.
const MOST_ENDS: usize = 50;

/// One attack. The names are those of the JSON, and hold.
#[derive(Serialize)]
pub(super) struct Report {
    /// Of this program.
    version: &'static str,
    url: String,
    seed: u64,
    /// Whether the payment provider's ledger could be read and was compared.
    ledger: bool,
    anomalies: u64,
    pairs: Vec<Results>,
}

/// What one pair came to.
#[derive(Serialize)]
pub(super) struct Results {
    pair: String,
    rounds: u64,
    anomalies: u64,
    /// How the competing calls ended, and how often: an attack that never saw both sides win has not met.
    ends: BTreeMap<String, u64>,
    worst: Option<Worst>,
}

/// The largest anomaly.
#[derive(Serialize)]
struct Worst {
    round: u32,
    #[serde(flatten)]
    anomaly: Anomaly,
}

impl Results {
    pub(super) fn new(pair: Pair) -> Self {
        Self {
            pair: pair.name(),
            rounds: 0,
            anomalies: 0,
            ends: BTreeMap::new(),
            worst: None,
        }
    }

    /// Counts a round.
    pub(super) fn add(&mut self, round: u32, outcome: Outcome) {
        self.rounds += 1;
        for end in outcome.ends {
            let known = self.ends.len() < MOST_ENDS || self.ends.contains_key(&end);
            *self.ends.entry(if known { end } else { "other".to_owned() }).or_default() += 1;
        }
        for anomaly in outcome.anomalies {
            self.anomalies += 1;
            if self.worst.as_ref().is_none_or(|worst| worst.anomaly.off_by < anomaly.off_by) {
                self.worst = Some(Worst { round, anomaly });
            }
        }
    }

    /// In one line.
    pub(super) fn line(&self) -> String {
        format!("{}: {} rounds, {} anomalies", self.pair, self.rounds, self.anomalies)
    }

    fn ends(&self) -> String {
        let ends = self.ends.iter().map(|(end, count)| format!("{count} {end}"));
        ends.collect::<Vec<_>>().join(", ")
    }
}

impl Report {
    pub(super) fn new(address: &Address, seed: u64, ledger: bool) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            url: format!("http://{}", address.authority()),
            seed,
            ledger,
            anomalies: 0,
            pairs: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, results: Results) {
        self.anomalies += results.anomalies;
        self.pairs.push(results);
    }

    pub(super) fn anomalies(&self) -> u64 {
        self.anomalies
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ledger = if self.ledger {
            "compared with the provider's ledger"
        } else {
            "the provider's ledger cannot be read, so card payments are judged by the orders alone"
        };
        writeln!(f, "{} attacked with seed {}, {ledger}", self.url, self.seed)?;
        writeln!(f, "  {:<24} {:>7} {:>10}  ends of its calls", "pair", "rounds", "anomalies")?;
        for results in &self.pairs {
            let Results {
                pair, rounds, anomalies, ..
            } = results;
            writeln!(f, "  {pair:<24} {rounds:>7} {anomalies:>10}  {}", results.ends())?;
            if let Some(Worst { round, anomaly }) = &results.worst {
                writeln!(f, "    worst, in round {round}: {}", anomaly.text)?;
            }
        }
        match self.anomalies {
            0 => writeln!(f, "no anomaly: stock, credit and charges add up"),
            found => writeln!(f, "{found} ANOMALIES"),
        }
    }
}
