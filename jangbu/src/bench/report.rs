//! What was measured, for programs (`--output json`) and for people.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use super::{Cpu, Measured, Metrics, PurchaseArgs, Target, machine, metrics};

const COMMIT: &str = "jangbu_commit_seconds";
const LAG: &str = "jangbu_projection_lag_seconds";

/// What a report is made from.
pub(super) struct Figures<'a> {
    pub(super) run: &'a PurchaseArgs,
    pub(super) target: &'a Target,
    pub(super) measured: &'a Measured,
    pub(super) before: &'a Metrics,
    pub(super) after: &'a Metrics,
    /// From the last answer until the views showed everything.
    pub(super) caught_up: Duration,
    /// Bytes that the server had written to the disk until then.
    pub(super) written: Option<u64>,
    pub(super) generator: Option<Cpu>,
    pub(super) server_during: Option<Cpu>,
    /// Until the views showed everything.
    pub(super) server_all: Option<Cpu>,
}

/// One run. The names are those of the JSON, and hold; what is not known is null.
#[derive(Serialize)]
pub(super) struct Report {
    /// Of this program, with `build`: `release` or `debug`.
    version: &'static str,
    build: &'static str,
    cores: usize,
    /// `balance` or `card`.
    payment: &'static str,
    hot: bool,
    products: u64,
    buyers: u64,
    in_flight: u64,
    orders: u64,
    warm_up: u64,
    seed: u64,
    /// The server that was measured: one of the bench's own, or the one at `--url`.
    own_server: bool,
    url: String,
    data: Option<String>,
    /// The `JANGBU_*` settings that the own server was started with.
    settings: BTreeMap<String, String>,
    /// What every fsync was delayed by (benches/slow-fsync), in microseconds.
    slow_fsync_us: u64,
    /// Median of 200 appends of 4 KiB, each made durable with fdatasync, where the server keeps its data.
    fsync_p50_us: Option<f64>,

    /// Orders answered 200 with status CONFIRMED, and all other answers by kind.
    pub(super) confirmed: u64,
    failures: BTreeMap<String, u64>,
    /// From the first request to the last answer.
    seconds: f64,
    orders_per_second: f64,
    /// From sending an order to reading that it is confirmed.
    confirm_p50_ms: f64,
    confirm_p99_ms: f64,
    confirm_p999_ms: f64,
    confirm_max_ms: f64,

    events: f64,
    events_per_order: f64,
    events_per_second: f64,
    commits: f64,
    commits_per_second: f64,
    events_per_commit: f64,
    /// One transaction of the log, its barrier included.
    commit_p50_ms: Option<f64>,
    commit_p99_ms: Option<f64>,
    /// Log and views, with their checkpoints, until the views had caught up.
    written_kib_per_order: Option<f64>,

    /// CPU time of the server from the first request until the views had caught up, per confirmed order.
    server_cpu_us_per_order: Option<f64>,
    server_cpu_user_us_per_order: Option<f64>,
    server_cpu_system_us_per_order: Option<f64>,
    /// Of all cores, while the load ran.
    server_cpu_share: Option<f64>,
    server_peak_memory_mib: Option<f64>,
    generator_cpu_us_per_order: Option<f64>,
    generator_cpu_share: Option<f64>,

    /// From recording an event to its being counted in the views.
    projection_lag_p50_ms: Option<f64>,
    projection_lag_p99_ms: Option<f64>,
    /// From the last answer until the views showed everything.
    projections_caught_up_ms: f64,
}

impl Report {
    pub(super) fn new(figures: &Figures<'_>) -> Self {
        let &Figures {
            run,
            target,
            measured,
            before,
            after,
            caught_up,
            written,
            generator,
            server_during,
            server_all,
        } = figures;
        let seconds = measured.took.as_secs_f64();
        let per_order = |value: f64| ratio(value, float(measured.confirmed));
        let micros_per_order = |seconds: f64| per_order(seconds * 1e6);
        let cores = machine::cores();
        let share = |cpu: Cpu| ratio(cpu.total, seconds * float(cores as u64));
        let millis = |quantile: f64| float(measured.times.value_at_quantile(quantile)) / 1e3;
        let events = after.events() - before.events();
        let commits = after.commits() - before.commits();
        let counted = |histogram, quantile| metrics::quantile(before, after, histogram, quantile).map(|seconds| seconds * 1e3);
        let peak = target.own.as_ref().and_then(|server| machine::peak_memory(server.pid()));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            cores,
            payment: run.payment.name(),
            hot: run.hot,
            products: if run.hot { 1 } else { run.products },
            buyers: run.buyers,
            in_flight: run.in_flight,
            orders: run.orders,
            warm_up: run.warm_up,
            seed: run.seed,
            own_server: target.own.is_some(),
            url: format!("http://{}", target.address.authority()),
            data: target.data.as_ref().map(|data| data.display().to_string()),
            settings: target.settings.clone(),
            slow_fsync_us: slow_fsync(),
            fsync_p50_us: target.fsync.map(|fsync| fsync.as_secs_f64() * 1e6),
            confirmed: measured.confirmed,
            failures: measured.failures.clone(),
            seconds,
            orders_per_second: ratio(float(measured.confirmed), seconds),
            confirm_p50_ms: millis(0.5),
            confirm_p99_ms: millis(0.99),
            confirm_p999_ms: millis(0.999),
            confirm_max_ms: float(measured.times.max()) / 1e3,
            events,
            events_per_order: per_order(events),
            events_per_second: ratio(events, seconds),
            commits,
            commits_per_second: ratio(commits, seconds),
            events_per_commit: ratio(events, commits),
            commit_p50_ms: counted(COMMIT, 0.5),
            commit_p99_ms: counted(COMMIT, 0.99),
            written_kib_per_order: written.map(|bytes| per_order(float(bytes) / 1024.0)),
            server_cpu_us_per_order: server_all.map(|cpu| micros_per_order(cpu.total)),
            server_cpu_user_us_per_order: server_all.and_then(|cpu| cpu.parts).map(|(user, _)| micros_per_order(user)),
            server_cpu_system_us_per_order: server_all.and_then(|cpu| cpu.parts).map(|(_, system)| micros_per_order(system)),
            server_cpu_share: server_during.map(share),
            server_peak_memory_mib: peak.map(|bytes| float(bytes) / (1024.0 * 1024.0)),
            generator_cpu_us_per_order: generator.map(|cpu| micros_per_order(cpu.total)),
            generator_cpu_share: generator.map(share),
            projection_lag_p50_ms: counted(LAG, 0.5),
            projection_lag_p99_ms: counted(LAG, 0.99),
            projections_caught_up_ms: caught_up.as_secs_f64() * 1e3,
        }
    }
}

/// Zero where there is nothing to divide by: JSON has no infinity.
fn ratio(value: f64, by: f64) -> f64 {
    if by > 0.0 { value / by } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
const fn float(count: u64) -> f64 {
    count as f64
}

/// Set for the preload library, which the server inherits.
fn slow_fsync() -> u64 {
    let loaded = std::env::var("LD_PRELOAD").is_ok_and(|libraries| libraries.contains("slow_fsync"));
    let delay = std::env::var("SLOW_FSYNC_US").ok().and_then(|delay| delay.parse().ok());
    delay.filter(|_| loaded).unwrap_or(0)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown =
            |value: Option<f64>, unit: &str| value.map_or_else(|| "not known".to_owned(), |value| format!("{value:.1} {unit}"));
        let percent = |share: Option<f64>| share.map_or_else(|| "not known".to_owned(), |share| format!("{:.0} %", share * 100.0));
        let Self {
            orders,
            in_flight,
            payment,
            buyers,
            products,
            ..
        } = self;
        let of = if self.hot {
            "one hot product".to_owned()
        } else {
            format!("{products} products")
        };
        writeln!(
            f,
            "{orders} orders paid by {payment}, {in_flight} in flight, {buyers} buyers, {of}, after {} to warm up",
            self.warm_up
        )?;
        let server = if self.own_server { "own server" } else { "server at" };
        writeln!(
            f,
            "jangbu {} ({}), {} cores, {server} {}",
            self.version, self.build, self.cores, self.url
        )?;
        if let Some(data) = &self.data {
            writeln!(f, "data in {data}")?;
        }
        for (name, value) in &self.settings {
            writeln!(f, "{name}={value}")?;
        }
        let delayed = if self.slow_fsync_us > 0 {
            format!(", delayed by {} us", self.slow_fsync_us)
        } else {
            String::new()
        };
        let rows = [
            ("confirmed", format!("{} in {:.2} s", self.confirmed, self.seconds)),
            ("confirmed orders/s", format!("{:.0}", self.orders_per_second)),
            (
                "accept to confirmed",
                format!(
                    "p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, at most {:.1} ms",
                    self.confirm_p50_ms, self.confirm_p99_ms, self.confirm_p999_ms, self.confirm_max_ms
                ),
            ),
            (
                "events",
                format!("{:.1} per order, {:.0} per s", self.events_per_order, self.events_per_second),
            ),
            (
                "commits",
                format!(
                    "{:.0} per s, {:.0} events each, p50 {}, p99 {}, {} written per order",
                    self.commits_per_second,
                    self.events_per_commit,
                    or_unknown(self.commit_p50_ms, "ms"),
                    or_unknown(self.commit_p99_ms, "ms"),
                    or_unknown(self.written_kib_per_order, "KiB"),
                ),
            ),
            ("fsync", format!("p50 {}{delayed}", or_unknown(self.fsync_p50_us, "us"))),
            (
                "server CPU",
                format!(
                    "{} per order (user {}, system {}), {} of the machine, memory at most {}",
                    or_unknown(self.server_cpu_us_per_order, "us"),
                    or_unknown(self.server_cpu_user_us_per_order, "us"),
                    or_unknown(self.server_cpu_system_us_per_order, "us"),
                    percent(self.server_cpu_share),
                    or_unknown(self.server_peak_memory_mib, "MiB"),
                ),
            ),
            (
                "generator CPU",
                format!(
                    "{} per order, {} of the machine",
                    or_unknown(self.generator_cpu_us_per_order, "us"),
                    percent(self.generator_cpu_share)
                ),
            ),
            (
                "projection lag",
                format!(
                    "p50 {}, p99 {}, all shown {:.0} ms after the last answer",
                    or_unknown(self.projection_lag_p50_ms, "ms"),
                    or_unknown(self.projection_lag_p99_ms, "ms"),
                    self.projections_caught_up_ms
                ),
            ),
        ];
        for (name, value) in rows {
            writeln!(f, "  {name:<20} {value}")?;
        }
        for (kind, count) in &self.failures {
            writeln!(f, "  NOT CONFIRMED        {count} x {kind}")?;
        }
        Ok(())
    }
}
