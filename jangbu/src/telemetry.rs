//! Logs, traces and figures. None of them holds personal data or secrets: the crates that write them see to that.

mod lines;
mod looks;
mod names;
mod traces;

use std::{fmt::Write as _, io::IsTerminal as _};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt as _, filter_fn},
    fmt,
    layer::{Filter, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

pub(crate) use looks::{Looking, Looks};
pub(crate) use traces::Traces;

use crate::{
    failure::Failure,
    settings::{LogFormat, Settings},
};

/// From a barrier of a fast disk to the longest wait that anybody has patience for.
const SECONDS: [f64; 24] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.4, 0.5,
    1.0, 2.5, 10.0, 60.0,
];

const COUNTS: [f64; 13] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0,
];

/// Begins to log to standard output, and has panics logged too.
pub(crate) fn start_logging(settings: &Settings) -> Result<(), Failure> {
    let registry = Registry::default().with(lines(settings)?);
    registry.try_init().map_err(Failure::failed)?;
    log_panics();
    Ok(())
}

/// The same, and sends traces to where the settings say. They end when what is returned does.
pub(crate) fn start(settings: &Settings) -> Result<Traces, Failure> {
    let Some(endpoint) = &settings.otlp else {
        start_logging(settings)?;
        return Ok(Traces::none());
    };
    let traces = Traces::start(endpoint, settings.otlp_sampling)?;
    let registry = Registry::default().with(lines(settings)?).with(traces.layer());
    registry.try_init().map_err(Failure::failed)?;
    log_panics();
    Ok(traces)
}

type Lines<S> = Box<dyn Layer<S> + Send + Sync>;

/// What no setting lets through: the client of PostgreSQL shows the values of its statements, keys among them, from DEBUG on.
fn unless_values<S>() -> impl Filter<S> {
    filter_fn(|of| !of.target().starts_with("tokio_postgres") || *of.level() <= tracing::Level::INFO)
}

/// What is logged, and how.
fn lines(settings: &Settings) -> Result<Lines<Registry>, Failure> {
    let filter = EnvFilter::try_new(&settings.log).map_err(Failure::wrong)?;
    let json = match settings.log_format {
        LogFormat::Auto => !std::io::stdout().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    Ok(if json {
        let lines = fmt::layer()
            .fmt_fields(fmt::format::JsonFields::new())
            .event_format(lines::JsonLines);
        lines.with_filter(filter.and(unless_values())).boxed()
    } else {
        fmt::layer().with_filter(filter.and(unless_values())).boxed()
    })
}

fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        // The message may quote what was being worked on; the place says enough.
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!(place, thread, "a thread panicked");
    }));
}

/// Begins to count, and returns what writes the figures down.
pub(crate) fn start_counting() -> Result<PrometheusHandle, Failure> {
    let builder = || -> Result<PrometheusHandle, BuildError> {
        PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_events".to_owned()), &COUNTS)?
            .set_buckets_for_metric(Matcher::Suffix("_inputs".to_owned()), &COUNTS)?
            .install_recorder()
    };
    let figures = builder().map_err(Failure::failed)?;
    names::describe();
    traces::begin_to_count();
    metrics::gauge!("jangbu_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(figures)
}

/// A figure that is looked up when it is asked for.
#[expect(clippy::cast_precision_loss, reason = "nothing here is counted that far")]
pub(crate) fn gauge(name: &'static str, value: usize) {
    metrics::gauge!(name).set(value as f64);
}

/// The figures of this process, in Prometheus's text format. On a system without `/proc` there are none.
pub(crate) fn process_figures() -> String {
    let mut text = String::new();
    let mut figure = |name: &str, kind: &str, help: &str, value: f64| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    if let Some(seconds) = processor_seconds() {
        figure(
            "process_cpu_seconds_total",
            "counter",
            "Processor time of this process, user and system.",
            seconds,
        );
    }
    if let Some(bytes) = resident_bytes() {
        figure(
            "process_resident_memory_bytes",
            "gauge",
            "Memory of this process that is in RAM.",
            bytes,
        );
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        #[allow(clippy::cast_precision_loss, reason = "there are not that many files")]
        figure(
            "process_open_fds",
            "gauge",
            "Open files and connections of this process.",
            files.count() as f64,
        );
    }
    text
}

fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name comes before, in parentheses, and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    #[allow(clippy::cast_precision_loss, reason = "a hundred or so")]
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Some(ticks / per_second)
}

fn resident_bytes() -> Option<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
    let size = rustix::param::page_size() as f64;
    Some(pages * size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_knows_its_processor_time_and_memory() {
        let text = process_figures();
        for name in ["process_cpu_seconds_total ", "process_resident_memory_bytes ", "process_open_fds "] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{name}{value}");
        }
    }
}
