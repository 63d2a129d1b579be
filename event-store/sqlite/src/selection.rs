//! Selections as SQL: what can be asked of SQLite is, and an event is shown as SQLite has it, without a copy.

use std::{fmt::Write as _, ops::ControlFlow};

use event_store::{EventRef, Selection};
use rusqlite::{Connection, Result, Row, ToSql, types::Type};
use uuid::fmt::Hyphenated;

use crate::{id_text, reader::bound};

/// A statement, and what is bound to it.
struct Question {
    sql: String,
    bound: Vec<Box<dyn ToSql>>,
}

impl Question {
    fn bind(&mut self, value: impl ToSql + 'static) -> usize {
        self.bound.push(Box::new(value));
        self.bound.len()
    }

    /// One more condition, with each `?` a value.
    fn and(&mut self, condition: &str, value: impl ToSql + 'static) {
        let place = self.bind(value);
        // Writing into a String cannot fail.
        let _ = write!(self.sql, " AND {}", condition.replace('?', &format!("?{place}")));
    }

    fn or(&mut self, conditions: Vec<(&str, String)>) {
        let mut any = Vec::with_capacity(conditions.len());
        for (condition, value) in conditions {
            let place = self.bind(value);
            any.push(condition.replace('?', &format!("?{place}")));
        }
        let _ = write!(self.sql, " AND ({})", any.join(" OR "));
    }
}

/// Shows each event that is wanted.
pub(crate) fn each(
    connection: &Connection,
    columns: &str,
    selection: &Selection,
    visit: &mut dyn FnMut(EventRef<'_>) -> ControlFlow<()>,
) -> Result<()> {
    if selection.limit == 0 {
        return Ok(());
    }
    let question = question(columns, selection);
    let mut statement = connection.prepare_cached(&question.sql)?;
    let mut rows = statement.query(rusqlite::params_from_iter(question.bound.iter()))?;
    let mut left = selection.limit;
    while let Some(row) = rows.next()? {
        let event = event(row)?;
        if !selection.matches_metadata(event.metadata) {
            continue;
        }
        left -= 1;
        if visit(event).is_break() || left == 0 {
            break;
        }
    }
    Ok(())
}

fn question(columns: &str, selection: &Selection) -> Question {
    let mut question = Question {
        sql: format!("SELECT {columns} FROM events WHERE"),
        bound: Vec::new(),
    };
    let order = if let Some(stream) = &selection.stream {
        let id = id_text(stream.id, &mut [0; Hyphenated::LENGTH]).to_owned();
        let (id, kind) = (question.bind(id), question.bind(stream.kind.to_string()));
        let (shard, after) = (question.bind(selection.shard), question.bind(bound(selection.after)));
        // By the stream's index. Whoever goes on after an event of the stream goes on after its sequence; the plus keeps the conditions on
        // shard and position from choosing the table instead.
        let _ = write!(
            question.sql,
            " aggregate_id = ?{id} AND aggregate_type = ?{kind} AND sequence > coalesce((SELECT e.sequence FROM events AS e
              WHERE e.shard = ?{shard} AND e.position = ?{after} AND e.aggregate_id = ?{id} AND e.aggregate_type = ?{kind}), 0)
              AND +shard = ?{shard} AND +position > ?{after}"
        );
        question.and("+position <= ?", bound(selection.to));
        "sequence"
    } else {
        let shard = question.bind(selection.shard);
        let _ = write!(question.sql, " shard = ?{shard}");
        question.and("position > ?", bound(selection.after));
        question.and("position <= ?", bound(selection.to));
        "position"
    };
    if !selection.kinds.is_empty() {
        question.or(selection.kinds.iter().map(|kind| ("+aggregate_type = ?", kind.clone())).collect());
    }
    if !selection.types.is_empty() {
        let condition = |pattern: &event_store::TypePattern| {
            // A pattern has no other character that GLOB takes for one of its own.
            let condition = if pattern.is_name() { "event_type = ?" } else { "event_type GLOB ?" };
            (condition, pattern.as_str().to_owned())
        };
        question.or(selection.types.iter().map(condition).collect());
    }
    // Where the text does not stand at all, nobody needs to read the JSON.
    if let Some(correlation) = selection.correlation {
        question.and("instr(metadata, ?) > 0", correlation.hyphenated().to_string());
    }
    if let Some(actor) = selection.actor.as_ref().filter(|actor| is_plain(actor)) {
        question.and("instr(metadata, ?) > 0", actor.clone());
    }
    let direction = if selection.backwards { " DESC" } else { "" };
    let _ = write!(question.sql, " ORDER BY {order}{direction}");
    question
}

/// Whether JSON has it as it is.
fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\' | b'/'))
}

fn event<'a>(row: &'a Row<'_>) -> Result<EventRef<'a>> {
    Ok(EventRef {
        shard: row.get(0)?,
        position: row.get(1)?,
        kind: text(row, 2)?,
        id: text(row, 3)?,
        sequence: row.get(4)?,
        event_id: text(row, 5)?,
        event_type: text(row, 6)?,
        event_version: text(row, 7)?,
        recorded_at: row.get(8)?,
        payload: text(row, 9)?,
        metadata: text(row, 10)?,
    })
}

fn text<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a str> {
    row.get_ref(column)?
        .as_str()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

#[cfg(test)]
mod tests {
    use event_store::{EventStore as _, Selection, StreamId, selection_conformance};
    use uuid::Uuid;

    use super::question;
    use crate::{SqliteStore, connection};

    #[test]
    fn sqlite_selects_as_one_that_reads_all() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let store = SqliteStore::open(scratch.path()).expect("a log");
        selection_conformance::selections_are_what_reading_all_gives(&store);
    }

    #[test]
    fn a_stream_is_found_by_its_index_and_a_range_by_the_key() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let store = SqliteStore::open(scratch.path()).expect("a log");
        drop(store.reader().expect("a reader"));
        let connection = connection::reading(store.path()).expect("a connection");
        let plan = |selection: &Selection| {
            let question = question("payload", selection);
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {}", question.sql)).expect("SQL");
            let rows = statement.query_map(rusqlite::params_from_iter(question.bound.iter()), |row| row.get::<_, String>(3));
            rows.expect("a plan").collect::<Result<Vec<_>, _>>().expect("a plan").join("; ")
        };
        for backwards in [false, true] {
            let range = Selection {
                kinds: vec!["order".into()],
                types: vec!["order.*".parse().expect("a pattern")],
                correlation: Some(Uuid::nil()),
                backwards,
                ..Selection::of(0)
            };
            let of_range = plan(&range);
            assert!(
                of_range.contains("PRIMARY KEY (shard=? AND position>? AND position<?)"),
                "{of_range}"
            );
            let of_stream = plan(&Selection {
                stream: Some(StreamId::new("order", Uuid::nil())),
                ..range
            });
            assert!(
                of_stream.contains("(aggregate_id=? AND aggregate_type=? AND sequence>?)") && !of_stream.contains("TEMP B-TREE"),
                "{of_stream}"
            );
        }
    }
}
