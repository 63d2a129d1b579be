//! Which event types there are, and how many events of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use event_store::{EventRef, LogPosition};

use crate::{
    Done,
    arguments::{Source, TypesArgs},
    failure::OK,
    output::{Cell, Column, Rows},
    progress::Progress,
    source::Wanted,
};

const COLUMNS: [Column; 8] = [
    Column::new("type", 60),
    Column::new("events", 20),
    Column::new("bytes", 20),
    Column::new("versions", 40),
    Column::new("first", 40),
    Column::new("first_position", 20),
    Column::new("last", 40),
    Column::new("last_position", 20),
];

/// More types are counted together: a log of ours has less than a hundred.
const MOST: usize = 10_000;
/// Of one type.
const MOST_VERSIONS: usize = 100;
const OTHERS: &str = "(others)";

/// What is known of one type.
struct Type {
    events: u64,
    /// Of payloads and metadata.
    bytes: u64,
    versions: BTreeSet<String>,
    first: (i64, LogPosition),
    last: (i64, LogPosition),
}

pub(crate) fn run(source: &Source, arguments: &TypesArgs, progress: &Progress) -> Done {
    let log = source.open()?;
    let (after, to) = log.range(arguments.range.from.as_ref(), arguments.range.to.as_ref(), None)?;
    let wanted = Wanted {
        types: arguments.types.clone(),
        after,
        to,
        ..log.everything()
    };
    let mut rows = Rows::new(&arguments.rows, &COLUMNS)?;
    let mut types: BTreeMap<String, Type> = BTreeMap::new();
    // The order of the events does not matter, so no shard waits for another.
    for shard in log.shards().all() {
        let wanted = Wanted {
            shard: Some(shard),
            ..wanted.clone()
        };
        log.each(&wanted, "types", progress, &mut |event| {
            count(&mut types, &event);
            Ok(ControlFlow::Continue(()))
        })?;
    }
    let mut clock = source.clock();
    for (name, known) in &types {
        let versions = known.versions.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let (first, last) = (clock.show(known.first.0).to_owned(), clock.show(known.last.0).to_owned());
        let (first_position, last_position) = (known.first.1.text(log.shards()), known.last.1.text(log.shards()));
        rows.row(&[
            Cell::Text(name),
            Cell::Number(known.events),
            Cell::Number(known.bytes),
            Cell::Text(&versions),
            Cell::Text(&first),
            Cell::Text(&first_position),
            Cell::Text(&last),
            Cell::Text(&last_position),
        ])?;
    }
    rows.finish()?;
    if types.is_empty() {
        progress.say("no event matches");
    }
    Ok(OK)
}

fn count(types: &mut BTreeMap<String, Type>, event: &EventRef<'_>) {
    let place = LogPosition {
        shard: event.shard,
        position: event.position,
    };
    let at = (event.recorded_at, place);
    // Most events have a type that is known: no name is copied for them.
    let name = if types.contains_key(event.event_type) || types.len() < MOST {
        event.event_type
    } else {
        OTHERS
    };
    if !types.contains_key(name) {
        let new = Type {
            events: 0,
            bytes: 0,
            versions: BTreeSet::new(),
            first: at,
            last: at,
        };
        types.insert(name.to_owned(), new);
    }
    let Some(known) = types.get_mut(name) else { return };
    known.events += 1;
    known.bytes += (event.payload.len() + event.metadata.len()) as u64;
    if !known.versions.contains(event.event_version) && known.versions.len() < MOST_VERSIONS {
        known.versions.insert(event.event_version.to_owned());
    }
    known.first = known.first.min(at);
    known.last = known.last.max(at);
}
