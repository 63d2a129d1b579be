//! Events, as they are recorded.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io::{IsTerminal as _, stdout},
    ops::ControlFlow,
};

use aggregates::{OrderId, PaymentId};
use event_store::{Event, EventRef, LogPosition, Selection, Shards, StreamId, TypePattern};
use serde::Deserialize;
use uuid::Uuid;

use crate::{
    Done,
    arguments::{CatArgs, FilterArgs, RowsArgs, Source},
    failure::{Failure, OK},
    mask::Mask,
    output::{Cell, Column, Rows},
    progress::Progress,
    source::{Log, PAGE, Wanted},
    time::Clock,
};

/// How many events of one order are taken together: many times what an order of 100 lines has.
const MOST_OF_AN_ORDER: usize = 100_000;

pub(crate) fn run(source: &Source, arguments: &CatArgs, progress: &Progress) -> Done {
    let log = source.open()?;
    let wanted = wanted(&log, arguments)?;
    let mut sheet = Sheet::new(source, &log, &arguments.rows)?;
    let limit = arguments.limit.unwrap_or(u64::MAX);
    if stdout().is_terminal() {
        progress.hide();
    }
    let read = if limit == 0 {
        Ok(())
    } else if let Some(order) = arguments.order {
        of_order(&log, order, &wanted, limit, &mut sheet, progress)
    } else {
        log.each(&wanted, "cat", progress, &mut |event| {
            sheet.show(&log, &event, progress)?;
            Ok(if sheet.shown() < limit {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })
    };
    let shown = sheet.shown();
    sheet.finish(progress)?;
    read?;
    if shown == 0 && limit > 0 {
        progress.say(nothing(&arguments.filters));
    }
    Ok(OK)
}

fn wanted(log: &Log, arguments: &CatArgs) -> Result<Wanted, Failure> {
    let stream = arguments.filters.stream.as_ref();
    let (mut after, to) = log.range(arguments.range.from.as_ref(), arguments.range.to.as_ref(), stream)?;
    if let Some(behind) = &arguments.after {
        after = log.behind(behind, arguments.filters.shard)?;
    }
    // No more than is printed.
    let page = arguments
        .limit
        .and_then(|limit| usize::try_from(limit).ok())
        .map_or(PAGE, |limit| limit.clamp(1, PAGE));
    Ok(Wanted {
        after,
        to,
        backwards: arguments.reverse,
        page: Some(page),
        ..log.filtered(&arguments.filters)?
    })
}

/// That there was nothing, and where to look for what is misspelt.
pub(crate) fn nothing(filters: &FilterArgs) -> String {
    let types: Vec<_> = filters.types.iter().map(TypePattern::as_str).collect();
    if types.is_empty() {
        "no event matches".to_owned()
    } else {
        format!(
            "no event matches --type {}; `replay types` lists the types that there are",
            types.join(" --type ")
        )
    }
}

/// The columns of the log's table of events, by the same names.
const COLUMNS: [Column; 11] = [
    Column::new("shard", 5),
    Column::new("position", 14),
    Column::new("recorded_at", 40),
    Column::new("event_type", 40),
    Column::new("aggregate_type", 20),
    Column::new("aggregate_id", 36),
    Column::new("sequence", 14),
    Column::new("payload", 100),
    Column::new("metadata", 60),
    Column::new("event_id", 36),
    Column::new("event_version", 10),
];
const PAYLOAD: usize = 7;
const METADATA: usize = 8;

/// Where events are printed.
pub(crate) struct Sheet {
    rows: Rows,
    mask: Mask,
    clock: Clock,
    payload: String,
    metadata: String,
    wants_payload: bool,
    wants_metadata: bool,
    shards: Shards,
}

impl Sheet {
    pub(crate) fn new(source: &Source, log: &Log, arguments: &RowsArgs) -> Result<Self, Failure> {
        let mask = Mask::new(source)?;
        let rows = Rows::new(arguments, &COLUMNS)?;
        Ok(Self {
            wants_payload: rows.wants(PAYLOAD),
            wants_metadata: rows.wants(METADATA),
            rows,
            mask,
            clock: source.clock(),
            payload: String::new(),
            metadata: String::new(),
            shards: log.shards(),
        })
    }

    pub(crate) fn shown(&self) -> u64 {
        self.rows.written()
    }

    pub(crate) fn show(&mut self, log: &Log, event: &EventRef<'_>, progress: &Progress) -> Result<(), Failure> {
        let mut json = |text, wanted, buffer| {
            if wanted {
                masked(&mut self.mask, log, event, text, buffer, progress, self.shards)
            } else {
                Ok(Cell::None)
            }
        };
        let payload = json(event.payload, self.wants_payload, &mut self.payload)?;
        let metadata = json(event.metadata, self.wants_metadata, &mut self.metadata)?;
        self.rows.row(&[
            Cell::Number(event.shard.into()),
            Cell::Number(event.position),
            Cell::Text(self.clock.show(event.recorded_at)),
            Cell::Text(event.event_type),
            Cell::Text(event.kind),
            Cell::Text(event.id),
            Cell::Number(event.sequence),
            payload,
            metadata,
            Cell::Text(event.event_id),
            Cell::Text(event.event_version),
        ])
    }

    /// The log has so many shards after all.
    pub(crate) fn of_shards(&mut self, shards: Shards) {
        self.shards = shards;
    }

    /// For somebody who waits for it.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.rows.flush()
    }

    pub(crate) fn finish(self, progress: &Progress) -> Result<(), Failure> {
        self.rows.finish()?;
        if let Some(remark) = self.mask.remark() {
            progress.say(remark);
        }
        Ok(())
    }
}

/// JSON that is none would make the whole output unreadable: it is shown as a text, and counted as an error.
fn masked<'a>(
    mask: &mut Mask,
    log: &Log,
    event: &EventRef<'_>,
    text: &'a str,
    buffer: &'a mut String,
    progress: &Progress,
    shards: Shards,
) -> Result<Cell<'a>, Failure> {
    match line_of(text) {
        Some(Cow::Borrowed(json)) => mask.json(log, event.kind, event.id, json, buffer).map(Cell::Json),
        Some(Cow::Owned(json)) => {
            let mut masked = String::new();
            let shown = mask.json(log, event.kind, event.id, &json, &mut masked)?;
            shown.clone_into(buffer);
            Ok(Cell::Json(buffer))
        }
        None => {
            let place = LogPosition {
                shard: event.shard,
                position: event.position,
            };
            progress.error(format_args!("what the event at {} holds is no JSON", place.text(shards)));
            Ok(Cell::Text(text))
        }
    }
}

/// JSON on one line. Other programs may have written it on several: within a string there are no breaks, so a blank stands for each.
fn line_of(text: &str) -> Option<Cow<'_, str>> {
    // Without an early end, so that many bytes are looked at in one go.
    let breaks = text.bytes().filter(|byte| *byte < b' ').count();
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    Some(if breaks == 0 {
        text.into()
    } else {
        text.replace(|c| c < ' ', " ").into()
    })
}

/// All that is about one order, which is little: read place by place, and put in order.
fn of_order(log: &Log, order: Uuid, wanted: &Wanted, limit: u64, sheet: &mut Sheet, progress: &Progress) -> Result<(), Failure> {
    let mut events = story(log, order)?;
    if wanted.backwards {
        events.reverse();
    }
    let read = events.len();
    for event in &events {
        if progress.go_on().is_break() {
            return Err(Failure::interrupted());
        }
        if sheet.shown() >= limit {
            break;
        }
        if is_wanted(event, wanted) {
            event.visit(|event| sheet.show(log, &event, progress))?;
        }
    }
    if read == 0 {
        progress.say(format_args!("there is no order {order}"));
    }
    log.explain(
        format_args!("read order, payment and purchase {order} by the stream index, and what the purchase saw: {read} events"),
        progress,
    );
    Ok(())
}

fn is_wanted(event: &Event, wanted: &Wanted) -> bool {
    let selection = Selection {
        after: wanted.after.of(event.shard),
        to: wanted.to.of(event.shard),
        kinds: wanted.kinds.clone(),
        types: wanted.types.clone(),
        correlation: wanted.correlation,
        actor: wanted.actor.clone(),
        ..Selection::of(event.shard)
    };
    wanted.shard.is_none_or(|shard| shard == event.shard) && event.visit(|event| selection.matches(&event))
}

#[derive(Deserialize)]
struct Advanced {
    seen: Vec<Seen>,
}

/// A position of the purchase's own shard, or `S/N` of another.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seen {
    Here(u64),
    There(String),
}

/// The events of an order, in the order in which they were recorded: its own streams, and what its purchase saw of others.
pub(crate) fn story(log: &Log, order: Uuid) -> Result<Vec<Event>, Failure> {
    let mut events = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let payment = PaymentId::for_order(OrderId::new(order)).uuid();
    for (kind, id) in [("order", order), ("payment", payment), ("purchase", order)] {
        for event in stream(log, &StreamId::new(kind, id))? {
            if kind == "purchase" {
                let advanced: Advanced = serde_json::from_str(&event.payload).map_err(|error| {
                    Failure::input(format_args!(
                        "the purchase's event at {} cannot be read: {error}",
                        place(&event).text(log.shards())
                    ))
                })?;
                for place in advanced.seen {
                    seen.insert(match place {
                        Seen::Here(position) => LogPosition {
                            shard: event.shard,
                            position,
                        },
                        Seen::There(text) => text.parse().map_err(Failure::input)?,
                    });
                }
            }
            events.insert(place(&event), event);
        }
    }
    for place in seen {
        if let Entry::Vacant(entry) = events.entry(place) {
            entry.insert(log.event(place)?);
        }
    }
    let mut events: Vec<_> = events.into_values().collect();
    events.sort_by_key(|event| (event.recorded_at, event.shard, event.position));
    Ok(events)
}

fn place(event: &Event) -> LogPosition {
    LogPosition {
        shard: event.shard,
        position: event.position,
    }
}

fn stream(log: &Log, stream: &StreamId) -> Result<Vec<Event>, Failure> {
    log.reader()
        .stream(stream, 0, MOST_OF_AN_ORDER)
        .map_err(|error| log.explained(error))
}
