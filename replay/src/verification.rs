//! Whether everything holds that must always hold.

use std::{
    io::{BufWriter, Write, stdout},
    ops::ControlFlow,
    path::Path,
    time::Instant,
};

use event_store::{EventStore, StoreError};
use event_store_sqlite::Standing;
use serde::Serialize;
use verify::{
    Counts, Finding, Invariant, LedgerError, Options, Place as Spot, Report, ViewsChecked, read_ledger, verify_log_with,
    verify_stored_views,
};

use crate::{
    Done,
    arguments::{Format, Ledger, Source, VerifyArgs},
    failure::{FAILED, Failure, OK, PARTIAL},
    output,
    place::{Place, Store, open_views},
    progress::Progress,
};

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    data: String,
    sound: bool,
    /// Something that was asked for could not be checked.
    partial: bool,
    seconds: f64,
    found: u64,
    invariants: Vec<Line>,
    findings: Vec<Finding>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remedies: Vec<&'static str>,
    counts: Counts,
    /// What was not looked at, and why.
    not_checked: Vec<String>,
}

/// One invariant.
#[derive(Debug, Serialize)]
struct Line {
    number: u8,
    invariant: &'static str,
    verdict: &'static str,
    found: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// What was and was not looked at.
#[derive(Default)]
struct Looked {
    not_checked: Vec<String>,
    partial: bool,
    ledger: Option<String>,
    views: Option<String>,
}

pub(crate) fn run(source: &Source, arguments: &VerifyArgs, progress: &Progress) -> Done {
    let begun = Instant::now();
    let place = source.log_place()?;
    let log = Store::open(&place)?;
    let before = log.standing()?;
    let store = log.shared();
    let mut looked = Looked::default();
    let options = options(source.directory().as_deref(), store.as_ref(), arguments, &mut looked)?;
    let mut report = match log_report(store.as_ref(), &options, progress)? {
        ControlFlow::Continue(report) => report,
        ControlFlow::Break(()) => return Err(Failure::interrupted()),
    };
    looked.not_checked.extend(of_others(&report.counts));
    if !arguments.no_file {
        check_file(&log, &place, &mut report, &mut looked);
    }
    if progress.at("verify", report.counts.events, report.counts.events).is_break() {
        return Err(Failure::interrupted());
    }
    if arguments.no_views {
        looked.views = Some("views were left out".to_owned());
    } else {
        let views = source.views_place()?;
        let checked = match open_views(&views) {
            Ok(views) => verify_stored_views(views.as_ref(), &store, &mut report, &mut |done, of| progress.at("views", done, of))?,
            Err(why) => ViewsChecked::NotChecked(why),
        };
        match checked {
            ViewsChecked::Compared { .. } => {}
            ViewsChecked::NotChecked(why) => {
                looked.partial |= source.views.is_some();
                looked.not_checked.push(format!("views: {why}"));
                looked.views = Some(format!("snapshots only: {why}"));
            }
            ViewsChecked::Interrupted => return Err(Failure::interrupted()),
        }
    }
    check_unchanged(&log, before.as_ref(), &place)?;
    progress.clear();
    let verdict = verdict(&place, report, looked, begun);
    print(&verdict, arguments.output)?;
    Ok(match (verdict.sound, verdict.partial) {
        (false, _) => FAILED,
        (true, true) => PARTIAL,
        (true, false) => OK,
    })
}

/// What SQLite says of its own file.
fn check_file(log: &Store, place: &Place, report: &mut Report, looked: &mut Looked) {
    match log {
        Store::Files(log) => {
            if let Err(StoreError::Corrupt(what)) = log.check_file() {
                report.add(
                    Invariant::Chain,
                    Spot::default(),
                    format!("SQLite does not find the file sound: {what}"),
                );
            }
        }
        Store::Database(_) => looked
            .not_checked
            .push(format!("the files of {place}: pg_amcheck and pg_checksums look at those")),
    }
}

/// What other programs wrote while no engine held the log: it is no damage, and little can be said of it.
fn of_others(counts: &Counts) -> Vec<String> {
    let by_kind = |known: bool| {
        let kinds = counts.foreign.iter().filter(|(kind, _)| is_known(kind) == known);
        let kinds: Vec<_> = kinds.map(|(kind, events)| format!("{kind} {}", output::count(*events))).collect();
        kinds.join(", ")
    };
    let (known, unknown) = (by_kind(true), by_kind(false));
    let mut lines = Vec::new();
    if !unknown.is_empty() {
        lines.push(format!(
            "events of kinds that this version does not know, but for their place, version, id, time and hash: {unknown}"
        ));
    }
    if !known.is_empty() {
        lines.push(format!("who asked for events that no engine wrote, and what caused them: {known}"));
    }
    if counts.unchained > 0 {
        lines.push(format!(
            "{} events that another program wrote are not yet taken into the chain, so nothing says whether they are what was written; the \
             next engine takes them",
            output::count(counts.unchained)
        ));
    }
    lines
}

fn is_known(kind: &str) -> bool {
    kind == sagas::purchase::KIND || aggregates::Kind::named(kind).is_some()
}

/// A log that nobody wrote when it was opened was read as one that does not change. A shop that began meanwhile makes what was read a mixture.
fn check_unchanged(log: &Store, before: Option<&Standing>, place: &Place) -> Result<(), Failure> {
    let (Some(before), Some(after)) = (before, log.standing()?) else {
        return Ok(());
    };
    if after.is_another(before) || after.is_shorter(before) || (after.is_stale(before) && !before.is_live()) {
        return Err(Failure::partial(format_args!(
            "the log in {place} changed while it was read, so nothing is said of it; run it again"
        )));
    }
    Ok(())
}

/// The ledger is read before the log, and the heads before the ledger: so each order can be compared that both know to its end.
fn options(directory: Option<&Path>, store: &dyn EventStore, arguments: &VerifyArgs, looked: &mut Looked) -> Result<Options, Failure> {
    let mut options = Options {
        now: arguments.now.map(jiff::Timestamp::as_microsecond),
        grace: arguments.grace,
        quiescent: arguments.settled,
        keep: arguments.keep,
        ..Options::default()
    };
    let (path, asked) = match (&arguments.ledger, directory) {
        (Some(Ledger::None), _) => {
            looked.ledger = Some("the provider's ledger was left out".to_owned());
            return Ok(options);
        }
        (Some(Ledger::File(path)), _) => (path.clone(), true),
        (None, Some(directory)) => (directory.join("simulator.db"), false),
        (None, None) => {
            let why = "name the simulator's with --ledger, or the shop's data directory with --data";
            looked.not_checked.push(format!("the provider's ledger: {why}"));
            looked.ledger = Some("without the provider's ledger".to_owned());
            return Ok(options);
        }
    };
    if !arguments.settled {
        options.ledger_heads = heads(store)?;
    }
    match read_ledger(&path) {
        Ok(ledger) => options.ledger = Some(ledger),
        Err(error) => {
            // A ledger that is there and cannot be read was meant to be compared.
            looked.partial |= asked || matches!(error, LedgerError::Unusable { .. });
            looked.not_checked.push(format!("the provider's ledger: {error}"));
            looked.ledger = Some(format!("without the provider's ledger: {error}"));
        }
    }
    Ok(options)
}

fn heads(store: &dyn EventStore) -> Result<Vec<(u16, u64)>, Failure> {
    let reader = store.reader()?;
    let read = || -> Result<Vec<_>, StoreError> {
        let mut heads = Vec::new();
        for shard in reader.shards()? {
            heads.extend(reader.head(shard)?.map(|head| (shard, head.position)));
        }
        Ok(heads)
    };
    match read() {
        // The verification says what is wrong with them.
        Err(StoreError::Corrupt(_)) => Ok(Vec::new()),
        heads => Ok(heads?),
    }
}

fn log_report(store: &dyn EventStore, options: &Options, progress: &Progress) -> Result<ControlFlow<(), Report>, Failure> {
    let read = store
        .reader()
        .and_then(|reader| verify_log_with(reader.as_ref(), options, &mut |done, of| progress.at("verify", done, of)));
    match read {
        Ok(ControlFlow::Continue(report)) => Ok(ControlFlow::Continue(report)),
        Ok(ControlFlow::Break(_)) => Ok(ControlFlow::Break(())),
        Err(StoreError::Corrupt(what)) => {
            let mut report = Report::default();
            report.add(
                Invariant::Chain,
                Spot::default(),
                format!("the log cannot be read to its end: {what}"),
            );
            Ok(ControlFlow::Continue(report))
        }
        Err(error) => Err(error.into()),
    }
}

fn verdict(place: &Place, report: Report, looked: Looked, begun: Instant) -> Verdict {
    let line = |invariant: Invariant| {
        let found = report.found(invariant);
        let note = match invariant {
            Invariant::Money | Invariant::Durability => looked.ledger.clone(),
            Invariant::Views => looked.views.clone(),
            _ => None,
        };
        let checked = note.is_none() || invariant == Invariant::Money;
        let verdict = match (found, checked) {
            (1.., _) => "failed",
            (0, true) => "ok",
            (0, false) => "not checked",
        };
        Line {
            number: invariant.number(),
            invariant: invariant.words(),
            verdict,
            found,
            note,
        }
    };
    Verdict {
        data: place.to_string(),
        sound: report.is_sound(),
        partial: looked.partial,
        seconds: (begun.elapsed().as_secs_f64() * 1_000.0).round() / 1_000.0,
        found: report.found,
        invariants: Invariant::ALL.into_iter().map(line).collect(),
        remedies: remedies(&report),
        findings: report.findings,
        counts: report.counts,
        not_checked: looked.not_checked,
    }
}

/// What to do about it.
fn remedies(report: &Report) -> Vec<&'static str> {
    let has = |invariants: &[Invariant]| invariants.iter().any(|invariant| report.found(*invariant) > 0);
    let mut remedies = Vec::new();
    if has(&[Invariant::Chain, Invariant::Fencing]) {
        remedies.push(
            "the log is not what was written: stop the shop, restore a backup into another place and verify that; repair nothing by hand",
        );
    }
    if report.found(Invariant::Views) == report.found && report.found > 0 {
        remedies.push("the log holds: drop the views, and the next start fills them anew from it");
    }
    remedies
}

fn print(verdict: &Verdict, format: Format) -> Result<(), Failure> {
    let mut out = BufWriter::new(stdout().lock());
    match format {
        Format::Table => table(&mut out, verdict)?,
        Format::Json => output::json(&mut out, verdict)?,
        Format::Ndjson => output::ndjson(&mut out, &records(verdict)?)?,
        Format::Csv => csv(&mut out, verdict)?,
    }
    out.flush()?;
    Ok(())
}

fn table(out: &mut dyn Write, verdict: &Verdict) -> std::io::Result<()> {
    let lines: Vec<_> = verdict
        .invariants
        .iter()
        .map(|line| {
            let failed = if line.found > 0 {
                format!("{} found", output::count(line.found))
            } else {
                String::new()
            };
            let note = line.note.clone().unwrap_or_default();
            let said: Vec<_> = [failed, note].into_iter().filter(|text| !text.is_empty()).collect();
            vec![
                line.number.to_string(),
                line.invariant.to_owned(),
                line.verdict.to_owned(),
                said.join("; "),
            ]
        })
        .collect();
    output::table(out, &["#", "invariant", "verdict", ""], &lines)?;
    if !verdict.findings.is_empty() {
        writeln!(out)?;
        for finding in &verdict.findings {
            writeln!(out, "{finding}")?;
        }
        let shown = verdict.findings.len() as u64;
        if shown < verdict.found {
            writeln!(out, "... and {} more (--keep shows more)", output::count(verdict.found - shown))?;
        }
    }
    for remedy in &verdict.remedies {
        writeln!(out, "remedy: {remedy}")?;
    }
    let counts = &verdict.counts;
    let figures = [
        ("events", output::count(counts.events)),
        ("batches", output::count(counts.batches)),
        ("streams", output::count(counts.streams)),
        ("orders", output::count(counts.orders)),
        ("confirmed", output::count(counts.confirmed)),
        ("cancelled", output::count(counts.cancelled)),
        ("need a person", output::count(counts.needs_attention)),
        ("under way", output::count(counts.under_way)),
        ("units sold", output::count(counts.sold)),
        ("money taken", output::count(counts.captured)),
        ("given back", output::count(counts.reversed)),
        ("in wallets", output::count(counts.balances)),
        ("set aside", output::count(counts.parked)),
    ];
    writeln!(out)?;
    output::table(out, &["counted", ""], &figures.map(|(name, count)| vec![name.to_owned(), count]))?;
    writeln!(out)?;
    for line in &verdict.not_checked {
        writeln!(out, "not checked: {line}")?;
    }
    let word = match (verdict.sound, verdict.partial) {
        (false, _) => "FAILED",
        (true, true) => "PARTIAL",
        (true, false) => "OK",
    };
    writeln!(
        out,
        "{word}: {} events of {} in {:.1} s",
        output::count(counts.events),
        verdict.data,
        verdict.seconds
    )
}

/// One object for each invariant, each finding and the counts.
fn records(verdict: &Verdict) -> Result<Vec<serde_json::Value>, Failure> {
    let record = |name: &str, value: serde_json::Result<serde_json::Value>| {
        let mut value = value.map_err(|error| Failure::input(format_args!("the output cannot be written: {error}")))?;
        if let Some(members) = value.as_object_mut() {
            members.insert("record".to_owned(), name.into());
        }
        Ok::<_, Failure>(value)
    };
    let mut records = Vec::new();
    for line in &verdict.invariants {
        records.push(record("invariant", serde_json::to_value(line))?);
    }
    for finding in &verdict.findings {
        records.push(record("finding", serde_json::to_value(finding))?);
    }
    records.push(record("counts", serde_json::to_value(&verdict.counts))?);
    let end = serde_json::json!({
        "data": verdict.data, "sound": verdict.sound, "partial": verdict.partial, "found": verdict.found, "seconds": verdict.seconds,
        "notChecked": verdict.not_checked,
    });
    records.push(record("verdict", Ok(end))?);
    Ok(records)
}

/// A row for each invariant, then one for each finding.
fn csv(out: &mut dyn Write, verdict: &Verdict) -> std::io::Result<()> {
    let names = [
        "record",
        "number",
        "invariant",
        "verdict",
        "found",
        "shard",
        "first",
        "last",
        "stream",
        "order",
        "what",
    ];
    let text = |value: Option<String>| value.unwrap_or_default();
    let mut rows: Vec<_> = verdict
        .invariants
        .iter()
        .map(|line| {
            let mut row = vec![
                "invariant".to_owned(),
                line.number.to_string(),
                line.invariant.to_owned(),
                line.verdict.to_owned(),
                line.found.to_string(),
            ];
            row.resize(names.len() - 1, String::new());
            row.push(text(line.note.clone()));
            row
        })
        .collect();
    rows.extend(verdict.findings.iter().map(|finding| {
        let Spot {
            shard,
            positions,
            stream,
            order,
        } = &finding.place;
        vec![
            "finding".to_owned(),
            finding.invariant.number().to_string(),
            finding.invariant.words().to_owned(),
            "failed".to_owned(),
            String::new(),
            text(shard.map(|shard| shard.to_string())),
            text(positions.map(|(first, _)| first.to_string())),
            text(positions.map(|(_, last)| last.to_string())),
            text(stream.clone()),
            text(order.map(|order| order.to_string())),
            finding.what.clone(),
        ]
    }));
    output::csv(out, &names, &rows)
}
