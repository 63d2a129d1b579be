//! What is in a log.

use std::{
    collections::BTreeMap,
    io::{BufWriter, Write, stdout},
    ops::ControlFlow,
    path::Path,
    time::Duration,
};

use event_store::EventRef;
use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Done,
    arguments::{Format, Source, StatsArgs},
    failure::{Failure, OK},
    output,
    place::Place,
    progress::Progress,
    source::{Log, Wanted},
    time::shown,
};

/// About so many lines tell how many events there were over time.
const MOST_SPANS: i64 = 24;

/// The spans of time by which events are counted, in seconds.
const SPANS: [u64; 9] = [1, 10, 60, 600, 3_600, 21_600, 86_400, 604_800, 2_592_000];

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    log_id: Option<String>,
    shards: u64,
    events: u64,
    first: Option<String>,
    last: Option<String>,
    /// The bytes of all payloads and metadata.
    bytes_of_json: u64,
    bytes_on_disk: BTreeMap<String, u64>,
    types: BTreeMap<String, Type>,
    streams: BTreeMap<String, Kind>,
    /// By `CONFIRMED`, the failure's code, `NEEDS_ATTENTION` or `UNDER_WAY`.
    orders: BTreeMap<String, u64>,
    over_time: Vec<Span>,
}

#[derive(Debug, Default, Serialize)]
struct Type {
    events: u64,
    bytes: u64,
}

#[derive(Debug, Default, Serialize)]
struct Kind {
    streams: u64,
    events: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Span {
    from: String,
    seconds: u64,
    events: u64,
    per_second: f64,
}

/// One line of ndjson or CSV.
#[derive(Debug, Serialize)]
struct Row {
    section: &'static str,
    name: String,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
}

#[derive(Deserialize)]
struct Cancelled<'a> {
    #[serde(borrow)]
    failure: Option<&'a str>,
}

pub(crate) fn run(source: &Source, arguments: &StatsArgs, progress: &Progress) -> Done {
    let log = source.open()?;
    let mut counting = Counting::default();
    counting.read(&log, progress)?;
    progress.clear();
    let mut stats = counting.finish(&source.tz);
    if let Place::Files(directory) = log.location() {
        stats.bytes_on_disk = sizes(directory);
    }
    print(&stats, arguments.output)?;
    Ok(OK)
}

#[derive(Default)]
struct Counting {
    stats: Stats,
    /// By the order's id.
    orders: BTreeMap<[u8; 16], End>,
    /// Events by second, as long as there are few of them, then by wider spans.
    spans: BTreeMap<i64, u64>,
    span: usize,
    times: Option<(i64, i64)>,
}

#[derive(Clone, Debug, Default)]
struct End {
    how: Option<String>,
    attention: bool,
}

impl Counting {
    fn read(&mut self, log: &Log, progress: &Progress) -> Result<(), Failure> {
        self.stats.log_id = log.heads().first().map(|head| head.log_id.to_string());
        self.stats.shards = log.heads().len() as u64;
        // Their order does not matter, so no shard waits for another.
        for head in log.heads() {
            let wanted = Wanted {
                shard: Some(head.shard),
                ..log.everything()
            };
            log.each(&wanted, "stats", progress, &mut |event| {
                self.count(&event);
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(())
    }

    fn count(&mut self, event: &EventRef<'_>) {
        let bytes = (event.payload.len() + event.metadata.len()) as u64;
        self.stats.events += 1;
        self.stats.bytes_of_json += bytes;
        let kind = of(&mut self.stats.streams, event.kind);
        kind.events += 1;
        kind.streams += u64::from(event.sequence == 1);
        let counted = of(&mut self.stats.types, event.event_type);
        counted.events += 1;
        counted.bytes += bytes;
        let (first, last) = self.times.unwrap_or((event.recorded_at, event.recorded_at));
        self.times = Some((first.min(event.recorded_at), last.max(event.recorded_at)));
        self.count_over_time(event.recorded_at);
        if event.kind == "order" {
            self.count_order(event);
        }
    }

    fn count_order(&mut self, event: &EventRef<'_>) {
        let Ok(id) = Uuid::try_parse(event.id) else { return };
        let end = self.orders.entry(id.into_bytes()).or_default();
        match event.event_type {
            "order.confirmed" => *end = how("CONFIRMED"),
            "order.cancelled" => {
                let cancelled = serde_json::from_str::<Cancelled<'_>>(event.payload);
                *end = how(cancelled.ok().and_then(|cancelled| cancelled.failure).unwrap_or("CANCELLED"));
            }
            "order.attention_needed" => end.attention = true,
            "order.attention_over" | "order.resumed" | "order.compensation_requested" | "order.resolved" => end.attention = false,
            _ => {}
        }
    }

    fn count_over_time(&mut self, at: i64) {
        *self.spans.entry(at.div_euclid(micros(SPANS[self.span]))).or_default() += 1;
        let width = |spans: &BTreeMap<i64, u64>| match (spans.first_key_value(), spans.last_key_value()) {
            (Some((first, _)), Some((last, _))) => last.saturating_sub(*first),
            _ => 0,
        };
        while width(&self.spans) > MOST_SPANS && self.span + 1 < SPANS.len() {
            let narrow = micros(SPANS[self.span]);
            self.span += 1;
            let wide = micros(SPANS[self.span]);
            let mut spans = BTreeMap::new();
            for (span, events) in std::mem::take(&mut self.spans) {
                *spans.entry(span.saturating_mul(narrow).div_euclid(wide)).or_insert(0) += events;
            }
            self.spans = spans;
        }
    }

    fn finish(mut self, zone: &TimeZone) -> Stats {
        let time = |micros: i64| Timestamp::from_microsecond(micros).map_or_else(|_| format!("{micros}us"), |at| shown(at, zone));
        for end in self.orders.into_values() {
            let how = match end {
                End { attention: true, .. } => "NEEDS_ATTENTION",
                End { how: Some(ref how), .. } => how,
                End { how: None, .. } => "UNDER_WAY",
            };
            *self.stats.orders.entry(how.to_owned()).or_default() += 1;
        }
        let seconds = SPANS[self.span];
        self.stats.over_time = self
            .spans
            .into_iter()
            .map(|(span, events)| Span {
                from: time(span.saturating_mul(micros(seconds))),
                seconds,
                events,
                #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
                per_second: (events as f64 / Duration::from_secs(seconds).as_secs_f64() * 10.0).round() / 10.0,
            })
            .collect();
        self.stats.first = self.times.map(|(first, _)| time(first));
        self.stats.last = self.times.map(|(_, last)| time(last));
        self.stats
    }
}

/// What is counted under this name. No name is copied that is known.
fn of<'a, T: Default>(counted: &'a mut BTreeMap<String, T>, name: &str) -> &'a mut T {
    if !counted.contains_key(name) {
        counted.insert(name.to_owned(), T::default());
    }
    counted.get_mut(name).expect("it was put there just now")
}

fn how(end: &str) -> End {
    End {
        how: Some(end.to_owned()),
        attention: false,
    }
}

fn micros(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000)
}

/// The files of a data directory, with what SQLite keeps beside them.
fn sizes(directory: &Path) -> BTreeMap<String, u64> {
    let files = ["log.db", "views.db", "simulator.db"];
    let names = files.iter().flat_map(|file| [(*file).to_owned(), format!("{file}-wal")]);
    names
        .filter_map(|name| {
            let size = std::fs::metadata(directory.join(&name)).ok()?.len();
            Some((name, size))
        })
        .collect()
}

fn rows(stats: &Stats) -> Vec<Row> {
    let row = |section, name: &str, count, bytes, at| Row {
        section,
        name: name.to_owned(),
        count,
        bytes,
        at,
    };
    let mut rows = vec![
        row("log", "events", stats.events, Some(stats.bytes_of_json), None),
        row("log", "shards", stats.shards, None, None),
    ];
    rows.extend(stats.first.iter().map(|first| row("log", "first", 1, None, Some(first.clone()))));
    rows.extend(
        stats
            .last
            .iter()
            .map(|last| row("log", "last", stats.events, None, Some(last.clone()))),
    );
    rows.extend(
        stats
            .bytes_on_disk
            .iter()
            .map(|(file, bytes)| row("disk", file, 1, Some(*bytes), None)),
    );
    rows.extend(
        stats
            .types
            .iter()
            .map(|(name, of)| row("type", name, of.events, Some(of.bytes), None)),
    );
    rows.extend(stats.streams.iter().map(|(name, of)| row("stream", name, of.streams, None, None)));
    rows.extend(stats.orders.iter().map(|(name, count)| row("order", name, *count, None, None)));
    let spans = stats.over_time.iter();
    rows.extend(spans.map(|span| row("time", &format!("{}s", span.seconds), span.events, None, Some(span.from.clone()))));
    rows
}

fn print(stats: &Stats, format: Format) -> Result<(), Failure> {
    let mut out = BufWriter::new(stdout().lock());
    match format {
        Format::Table => tables(&mut out, stats)?,
        Format::Json => output::json(&mut out, stats)?,
        Format::Ndjson => output::ndjson(&mut out, &rows(stats))?,
        Format::Csv => {
            let optional = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
            let cells = rows(stats)
                .into_iter()
                .map(|row| {
                    let at = row.at.unwrap_or_default();
                    vec![row.section.to_owned(), row.name, row.count.to_string(), optional(row.bytes), at]
                })
                .collect::<Vec<_>>();
            output::csv(&mut out, &["section", "name", "count", "bytes", "at"], &cells)?;
        }
    }
    out.flush()?;
    Ok(())
}

fn tables(out: &mut dyn Write, stats: &Stats) -> std::io::Result<()> {
    let none = || "-".to_owned();
    writeln!(out, "log      {}", stats.log_id.clone().unwrap_or_else(none))?;
    writeln!(out, "shards   {}", stats.shards)?;
    writeln!(
        out,
        "events   {} ({} bytes of JSON)",
        output::count(stats.events),
        output::count(stats.bytes_of_json)
    )?;
    writeln!(out, "first    {}", stats.first.clone().unwrap_or_else(none))?;
    writeln!(out, "last     {}", stats.last.clone().unwrap_or_else(none))?;
    let sizes: Vec<_> = stats
        .bytes_on_disk
        .iter()
        .map(|(file, bytes)| vec![file.clone(), output::count(bytes)])
        .collect();
    let types: Vec<_> = stats
        .types
        .iter()
        .map(|(name, of)| vec![name.clone(), output::count(of.events), output::count(of.bytes)])
        .collect();
    let streams: Vec<_> = stats
        .streams
        .iter()
        .map(|(name, of)| vec![name.clone(), output::count(of.streams), output::count(of.events)])
        .collect();
    let orders: Vec<_> = stats
        .orders
        .iter()
        .map(|(end, count)| vec![end.clone(), output::count(count)])
        .collect();
    let spans: Vec<_> = stats
        .over_time
        .iter()
        .map(|span| vec![span.from.clone(), output::count(span.events), format!("{:.1}", span.per_second)])
        .collect();
    for (names, rows) in [
        (&["file", "bytes"][..], sizes),
        (&["event type", "events", "bytes of JSON"], types),
        (&["stream", "streams", "events"], streams),
        (&["orders by end", "orders"], orders),
        (&["from", "events", "per second"], spans),
    ] {
        if !rows.is_empty() {
            writeln!(out)?;
            output::table(out, names, &rows)?;
        }
    }
    Ok(())
}
