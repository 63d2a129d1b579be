//! Pages: where one begins, and the opaque text that says so.
//!
//! A cursor names the last row seen by its sort key, so a page begins behind that row whatever came or went since (keyset paging).

use aggregates::Timestamp;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use projections::Cursor;
use uuid::Uuid;

use crate::error::Failed;

/// How many rows a page has when nobody says.
pub(crate) const DEFAULT_FIRST: usize = 20;

/// The most rows of a page.
pub(crate) const MOST_FIRST: usize = projections::MOST_ROWS;

/// How many rows a page shall have.
pub(crate) fn page_size(first: Option<i32>) -> Result<usize, Failed> {
    match first {
        None => Ok(DEFAULT_FIRST),
        Some(first) => usize::try_from(first)
            .ok()
            .filter(|first| (1..=MOST_FIRST).contains(first))
            .ok_or_else(|| Failed::bad_input(format!("`first` is a number from 1 to {MOST_FIRST}"))),
    }
}

/// What a page costs: its rows, each with what is asked of it.
pub(crate) fn page_cost(first: Option<i32>, row: usize) -> usize {
    let rows = first.map_or(DEFAULT_FIRST, |first| usize::try_from(first).unwrap_or(0).min(MOST_FIRST));
    rows.saturating_mul(row).saturating_add(10)
}

/// Which list a cursor is of; one of another list is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Orders,
    Products,
    Entries,
}

impl List {
    // The digit is the version of the cursor's shape.
    const fn mark(self) -> &'static str {
        match self {
            Self::Orders => "o1",
            Self::Products => "p1",
            Self::Entries => "e1",
        }
    }
}

fn encode(list: List, key: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}:{key}", list.mark()))
}

fn decode(list: List, cursor: &str) -> Option<String> {
    // No cursor of ours is longer.
    if cursor.len() > 128 {
        return None;
    }
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    Some(text.strip_prefix(list.mark())?.strip_prefix(':')?.to_owned())
}

fn not_a_cursor() -> Failed {
    Failed::bad_input("`after` is not a cursor of this list: pass the `endCursor` of the page before, as it is")
}

/// A place in a list that is sorted by time.
pub(crate) fn by_time(list: List, cursor: Cursor) -> String {
    encode(list, &format!("{}:{}", cursor.at.micros(), cursor.id.simple()))
}

/// Reads a place in a list that is sorted by time.
pub(crate) fn parse_by_time(list: List, cursor: Option<&str>) -> Result<Option<Cursor>, Failed> {
    let parse = |cursor: &str| {
        let key = decode(list, cursor)?;
        let (at, id) = key.split_once(':')?;
        Some(Cursor {
            at: Timestamp::from_micros(at.parse().ok()?),
            id: id.parse::<Uuid>().ok()?,
        })
    };
    cursor.map(|cursor| parse(cursor).ok_or_else(not_a_cursor)).transpose()
}

/// A place in a list that is sorted by sequence.
pub(crate) fn by_sequence(list: List, sequence: u64) -> String {
    encode(list, &sequence.to_string())
}

/// Reads a place in a list that is sorted by sequence.
pub(crate) fn parse_by_sequence(list: List, cursor: Option<&str>) -> Result<Option<u64>, Failed> {
    cursor
        .map(|cursor| decode(list, cursor).and_then(|key| key.parse().ok()).ok_or_else(not_a_cursor))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        let cursor = Cursor {
            at: Timestamp::from_micros(1_700_000_000_000_123),
            id: Uuid::from_u128(7),
        };
        let text = by_time(List::Orders, cursor);
        assert_eq!(parse_by_time(List::Orders, Some(&text)).expect("our own"), Some(cursor));
        let text = by_sequence(List::Entries, 42);
        assert_eq!(parse_by_sequence(List::Entries, Some(&text)).expect("our own"), Some(42));
    }

    #[test]
    fn a_cursor_of_another_list_or_of_nobody_is_refused() {
        let text = by_time(
            List::Orders,
            Cursor {
                at: Timestamp::from_micros(1),
                id: Uuid::nil(),
            },
        );
        assert!(parse_by_time(List::Products, Some(&text)).is_err());
        for wrong in ["", "x", "bzE6", "한글", &"A".repeat(10_000)] {
            assert!(parse_by_time(List::Orders, Some(wrong)).is_err(), "{wrong}");
            assert!(parse_by_sequence(List::Entries, Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_page_has_between_one_and_a_hundred_rows() {
        assert_eq!(page_size(None).expect("the default"), 20);
        assert_eq!(page_size(Some(100)).expect("the most"), 100);
        for wrong in [0, -1, 101, i32::MAX, i32::MIN] {
            assert!(page_size(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
