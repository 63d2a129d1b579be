//! How something was at a moment.

use std::io::{BufWriter, Write as _, stdout};

use event_store::LogPosition;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::Value;

use crate::{
    Done,
    arguments::{Format, RowsArgs, Source, StateArgs},
    failure::OK,
    fold::{self, Subject},
    mask::Mask,
    output::{self, Cell, Column, Rows},
    progress::Progress,
    time::shown,
};

/// A state, as it is printed.
#[derive(Serialize)]
struct Shown {
    kind: &'static str,
    id: uuid::Uuid,
    version: u64,
    position: String,
    recorded_at: String,
    state: Value,
}

const COLUMNS: [Column; 2] = [Column::new("path", 60), Column::new("value", 100)];

pub(crate) fn run(source: &Source, arguments: &StateArgs, progress: &Progress) -> Done {
    let subject = Subject::named(&arguments.kind)?;
    let log = source.open()?;
    let mut mask = Mask::new(source)?;
    let id = fold::find(source, &log, subject, &arguments.id, progress)?;
    let then = fold::at(source, &log, subject, id, &arguments.at, progress)?;
    let state = then.shown(&log, subject, id, &mut mask)?;
    let position = then.place.text(log.shards());
    let recorded_at = source.clock().show(then.recorded_at).to_owned();
    match output::format(arguments.output) {
        format @ (Format::Json | Format::Ndjson) => {
            let shown = Shown {
                kind: subject.name(),
                id,
                version: then.version,
                position,
                recorded_at,
                state,
            };
            let mut out = BufWriter::new(stdout().lock());
            if format == Format::Json {
                output::json(&mut out, &shown)?;
            } else {
                output::ndjson(&mut out, &[shown])?;
            }
            out.flush()?;
        }
        format => {
            let rows = RowsArgs {
                output: Some(format),
                columns: Vec::new(),
                no_header: false,
            };
            let mut rows = Rows::new(&rows, &COLUMNS)?;
            let head = [
                ("kind", subject.name().to_owned()),
                ("id", id.to_string()),
                ("version", then.version.to_string()),
                ("position", position),
                ("recorded_at", recorded_at),
            ];
            for (name, value) in &head {
                rows.row(&[Cell::Text(name), Cell::Text(value)])?;
            }
            for (path, value) in leaves(&state, &source.tz) {
                rows.row(&[Cell::Text(&path), Cell::Text(&value)])?;
            }
            rows.finish()?;
        }
    }
    if let Some(remark) = mask.remark() {
        progress.say(remark);
    }
    Ok(OK)
}

/// Every value that holds no other, with its JSON pointer; for people.
pub(crate) fn leaves(value: &Value, zone: &TimeZone) -> Vec<(String, String)> {
    let mut found = Vec::new();
    collect(String::new(), value, zone, &mut found);
    found
}

fn collect(path: String, value: &Value, zone: &TimeZone, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, member) in members {
                collect(format!("{path}/{}", escaped(name)), member, zone, found);
            }
        }
        Value::Array(elements) if !elements.is_empty() => {
            for (index, element) in elements.iter().enumerate() {
                collect(format!("{path}/{index}"), element, zone, found);
            }
        }
        _ => {
            let text = plain(&path, value, zone);
            found.push((path, text));
        }
    }
}

/// A name as it stands in a JSON pointer (RFC 6901).
pub(crate) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A value for people: texts without quotes, times as times.
pub(crate) fn plain(path: &str, value: &Value, zone: &TimeZone) -> String {
    const TIMES: [&str; 4] = ["at", "until", "expires_at", "silent_since"];
    let name = path.rsplit('/').next().unwrap_or_default();
    let is_time = TIMES.contains(&name) || name.ends_with("_at") || name.ends_with("_until");
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if is_time => {
            let time = number.as_i64().and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
            time.map_or_else(|| number.to_string(), |time| shown(time, zone))
        }
        other => other.to_string(),
    }
}

/// The same arguments, with the columns that fit a screen where a table is printed and none were named.
pub(crate) fn on_a_screen(rows: &RowsArgs, names: &[&str]) -> RowsArgs {
    let format = rows.format();
    let columns = if format == Format::Table && rows.columns.is_empty() {
        names.iter().map(|name| (*name).to_owned()).collect()
    } else {
        rows.columns.clone()
    };
    RowsArgs {
        output: Some(format),
        columns,
        no_header: rows.no_header,
    }
}

/// A position for people.
pub(crate) fn position(log: &crate::source::Log, shard: u16, position: u64) -> String {
    LogPosition { shard, position }.text(log.shards())
}
