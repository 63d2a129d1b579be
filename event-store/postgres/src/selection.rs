//! Selections as SQL: what can be asked of PostgreSQL is.

use std::{fmt::Write as _, ops::ControlFlow, panic::resume_unwind, sync::mpsc::sync_channel, thread};

use event_store::{EventRef, Selection, StoreError, TypePattern};
use postgres_session::{Row, ToSql};
use uuid::{Uuid, fmt::Hyphenated};

use crate::reader::{self, EVENT, PostgresReader, Read, bound, get, json, number, shard_of, text};

/// How many rows are fetched at once.
const PAGE: usize = 2_000;

/// So many pages wait to be shown.
const AHEAD: usize = 1;

/// A statement, and what is bound to it.
struct Question {
    sql: String,
    bound: Vec<Box<dyn ToSql + Sync>>,
}

impl Question {
    /// The place of a value, as SQL names it.
    fn bind(&mut self, value: impl ToSql + Sync + 'static) -> String {
        self.bound.push(Box::new(value));
        format!("${}", self.bound.len())
    }

    /// One more condition, with `?` for the value.
    fn and(&mut self, condition: &str, value: impl ToSql + Sync + 'static) {
        let place = self.bind(value);
        // Writing into a String cannot fail.
        let _ = write!(self.sql, " AND {}", condition.replace('?', &place));
    }
}

/// Shows each event that is wanted, page by page. While one page is shown the next is read.
pub(crate) fn each(
    reader: &PostgresReader,
    selection: &Selection,
    visit: &mut dyn FnMut(EventRef<'_>) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let mut pages = Pages::of(selection);
    let mut left = selection.limit;
    let Some(first) = pages.next(reader)? else { return Ok(()) };
    if show(reader, selection, &first, &mut left, visit)?.is_break() || pages.ended {
        return Ok(());
    }
    drop(first);
    let lent = reader.lent();
    thread::scope(|scope| {
        let (line, read) = sync_channel(AHEAD);
        let ahead = thread::Builder::new().name("log reader".to_owned()).spawn_scoped(scope, move || {
            while !pages.ended {
                let page = pages.next(&lent);
                let stop = !matches!(page, Ok(Some(_)));
                // Whoever has seen enough takes no more.
                if line.send(page).is_err() || stop {
                    break;
                }
            }
            lent
        });
        let ahead = ahead.map_err(|error| StoreError::Unavailable(error.into()))?;
        let mut shown = Ok(ControlFlow::Continue(()));
        for page in &read {
            shown = match page {
                Ok(Some(rows)) => show(reader, selection, &rows, &mut left, visit),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            if !matches!(shown, Ok(ControlFlow::Continue(()))) {
                break;
            }
        }
        drop(read);
        match ahead.join() {
            Ok(lent) => reader.take_back(lent),
            Err(panicked) => resume_unwind(panicked),
        }
        shown.map(drop)
    })
}

fn show(
    reader: &PostgresReader,
    selection: &Selection,
    rows: &[Row],
    left: &mut usize,
    visit: &mut dyn FnMut(EventRef<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, StoreError> {
    for row in rows {
        let mut event_id = [0; Hyphenated::LENGTH];
        let event_id = reader.judged(get::<Uuid>(row, 5))?.hyphenated().encode_lower(&mut event_id);
        let event = reader.judged(event(row, event_id))?;
        if !selection.matches_metadata(event.metadata) {
            continue;
        }
        *left = left.saturating_sub(1);
        if visit(event).is_break() || *left == 0 {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The rows that are wanted, and perhaps some more: what the metadata says is looked at again by who shows them.
struct Pages {
    rest: Selection,
    ended: bool,
}

impl Pages {
    fn of(selection: &Selection) -> Self {
        Self {
            rest: selection.clone(),
            ended: selection.limit == 0,
        }
    }

    /// The next rows; none at the end.
    fn next(&mut self, reader: &PostgresReader) -> Result<Option<Vec<Row>>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        let by_metadata = self.rest.correlation.is_some() || self.rest.actor.is_some();
        let most = if by_metadata { PAGE } else { self.rest.limit.min(PAGE) };
        let question = question(&self.rest, most);
        let rows = reader.answer(|session| {
            let values: Vec<&(dyn ToSql + Sync)> = question.bound.iter().map(|value| &**value).collect();
            Ok(session.query(&question.sql, &values)?)
        })?;
        let Some(last) = rows.last() else {
            self.ended = true;
            return Ok(None);
        };
        let last = reader.judged(number(last, 1))?;
        if self.rest.backwards {
            self.rest.to = last.saturating_sub(1);
        } else {
            self.rest.after = last;
        }
        if !by_metadata {
            self.rest.limit -= rows.len().min(self.rest.limit);
        }
        self.ended = rows.len() < most || self.rest.limit == 0;
        Ok(Some(rows))
    }
}

fn question(selection: &Selection, most: usize) -> Question {
    let mut question = Question {
        sql: format!("SELECT {EVENT} FROM events WHERE TRUE"),
        bound: Vec::new(),
    };
    let order = if let Some(stream) = &selection.stream {
        question.and("aggregate_id = ?", stream.id.to_string());
        question.and("aggregate_type = ?", stream.kind.to_string());
        // A stream is in one shard, so its order is the log's. Nothing is added, which keeps the conditions from choosing the other index.
        question.and("shard + 0 = ?", i32::from(selection.shard));
        question.and("position + 0 > ?", bound(selection.after));
        question.and("position + 0 <= ?", bound(selection.to));
        "sequence"
    } else {
        question.and("shard = ?", i32::from(selection.shard));
        question.and("position > ?", bound(selection.after));
        question.and("position <= ?", bound(selection.to));
        "position"
    };
    if !selection.kinds.is_empty() {
        question.and("aggregate_type = ANY (?)", selection.kinds.clone());
    }
    if !selection.types.is_empty() {
        question.and("event_type LIKE ANY (?)", selection.types.iter().map(like).collect::<Vec<_>>());
    }
    // Where the text does not stand at all, nobody needs to read the JSON.
    if let Some(correlation) = selection.correlation {
        question.and("strpos(metadata::text, ?) > 0", correlation.hyphenated().to_string());
    }
    if let Some(actor) = selection.actor.as_ref().filter(|actor| is_plain(actor)) {
        question.and("strpos(metadata::text, ?) > 0", actor.clone());
    }
    let direction = if selection.backwards { " DESC" } else { "" };
    let most = question.bind(reader::most(most));
    let _ = write!(question.sql, " ORDER BY {order}{direction} LIMIT {most}");
    question
}

/// The pattern as LIKE reads it.
fn like(pattern: &TypePattern) -> String {
    let escaped = pattern.as_str().replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    escaped.replace('*', "%")
}

/// Whether JSON has it as it is.
fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\' | b'/'))
}

fn event<'a>(row: &'a Row, event_id: &'a str) -> Read<EventRef<'a>> {
    Ok(EventRef {
        shard: shard_of(row, 0)?,
        position: number(row, 1)?,
        kind: text(row, 2)?,
        id: text(row, 3)?,
        sequence: number(row, 4)?,
        event_id,
        event_type: text(row, 6)?,
        event_version: text(row, 7)?,
        recorded_at: get(row, 8)?,
        payload: json(row, 9)?,
        metadata: json(row, 10)?,
    })
}
