//! Looking at views row by row, as they are stored: for those who compare them with others, wherever either are.

use std::{cmp::Ordering, collections::VecDeque, fmt, ops::ControlFlow};

use aggregates::{OrderNumber, TrackingId};
use uuid::Uuid;

use crate::Checkpoint;

/// How many rows are read at once.
const PAGE: usize = 2_000;

/// Why views cannot be looked at: one line that names them and what is wrong.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LookError(#[from] Box<dyn std::error::Error + Send + Sync>);

impl LookError {
    /// The place's own error.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// Views as they stand at one moment. Whatever the store, the same rows look the same: ids are their bytes, truth is 1 or 0, JSON is text.
pub trait ViewsLook {
    /// Where they are, without a password.
    fn place(&self) -> String;

    /// The log that they were folded from; none when they are new.
    fn log(&self) -> Option<Uuid>;

    /// How far each shard's log is counted.
    fn checkpoints(&self) -> &[Checkpoint];

    /// The tables that hold rows, by name.
    fn tables(&self) -> &[ViewTable];

    /// At most `limit` rows of a table whose key is above `after`, in the order of their keys.
    ///
    /// # Errors
    /// They cannot be read.
    fn page(&self, table: &ViewTable, after: Option<&[Field]>, limit: usize) -> Result<Vec<ViewRow>, LookError>;

    /// The order with this number.
    ///
    /// # Errors
    /// They cannot be read.
    fn order_by_number(&self, number: &OrderNumber) -> Result<Option<Uuid>, LookError>;

    /// The order with this tracking id.
    ///
    /// # Errors
    /// They cannot be read.
    fn order_by_tracking(&self, tracking: TrackingId) -> Result<Option<Uuid>, LookError>;

    /// Whether what was read is of one moment still.
    fn is_unchanged(&self) -> bool {
        true
    }
}

/// A table: a view, or what leads to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewTable {
    name: String,
    key: Vec<String>,
    columns: Vec<String>,
}

impl ViewTable {
    /// A table that is found by these columns and has those.
    pub fn new(name: String, key: Vec<String>, columns: Vec<String>) -> Self {
        Self { name, key, columns }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its rows are found by, in the order of [`ViewRow::key_fields`].
    pub fn key(&self) -> &[String] {
        &self.key
    }

    /// Its columns, in the order of [`ViewRow::fields`].
    pub fn columns(&self) -> &[String] {
        &self.columns
    }
}

/// What stands in one column of one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// Nothing.
    Null,
    /// A number, a time in microseconds, or 1 and 0 for yes and no.
    Number(i64),
    /// A number that is none of ours.
    Real(f64),
    /// Text, or JSON as it was written.
    Text(String),
    /// Bytes: an id.
    Bytes(Vec<u8>),
}

impl Field {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The id, if it is one.
    pub fn id(&self) -> Option<Uuid> {
        match self {
            Self::Bytes(bytes) => Uuid::from_slice(bytes).ok(),
            _ => None,
        }
    }

    /// Its bytes behind what tells its kind and its length: different fields have different ones.
    pub fn bytes(&self, to: &mut Vec<u8>) {
        let (kind, bytes): (u8, &[u8]) = match self {
            Self::Null => (0, &[]),
            Self::Number(number) => (1, &number.to_le_bytes()),
            Self::Real(number) => (2, &number.to_le_bytes()),
            Self::Text(text) => (3, text.as_bytes()),
            Self::Bytes(bytes) => (4, bytes),
        };
        to.push(kind);
        to.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        to.extend_from_slice(bytes);
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Number(_) | Self::Real(_) => 1,
            Self::Text(_) => 2,
            Self::Bytes(_) => 3,
        }
    }

    /// As the stores sort them: text by its bytes.
    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(one), Self::Number(other)) => one.cmp(other),
            (Self::Text(one), Self::Text(other)) => one.cmp(other),
            (Self::Bytes(one), Self::Bytes(other)) => one.cmp(other),
            (one, other) => one.rank().cmp(&other.rank()),
        }
    }
}

/// Ids as people know them.
impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Number(number) => number.fmt(f),
            Self::Real(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::Bytes(bytes) => match self.id() {
                Some(id) => id.fmt(f),
                None => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            },
        }
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewRow {
    key: Vec<Field>,
    fields: Vec<Field>,
}

impl ViewRow {
    /// A row with this key and these columns.
    pub fn new(key: Vec<Field>, fields: Vec<Field>) -> Self {
        Self { key, fields }
    }

    /// What it is found by, as people read it.
    pub fn key(&self) -> String {
        let parts: Vec<_> = self.key.iter().map(ToString::to_string).collect();
        parts.join("/")
    }

    /// What it is found by.
    pub fn key_fields(&self) -> &[Field] {
        &self.key
    }

    /// All its columns.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }
}

/// A row that is not the same in two places.
#[derive(Clone, Debug, PartialEq)]
pub enum Difference {
    /// It is in the one only.
    OnlyInOne(ViewRow),
    /// It is in the other only.
    OnlyInOther(ViewRow),
    /// It is in both.
    Changed(ViewRow, ViewRow),
}

/// Shows each row of a table in the order of its key, until the visitor has had enough.
///
/// # Errors
/// The views cannot be read.
pub fn each_row(views: &dyn ViewsLook, table: &ViewTable, visit: &mut dyn FnMut(&ViewRow) -> ControlFlow<()>) -> Result<(), LookError> {
    let mut rows = Rows::of(views, table);
    while let Some(row) = rows.next()? {
        if visit(&row).is_break() {
            break;
        }
    }
    Ok(())
}

/// Compares a table with the same of others; returns how many rows were looked at. Both are read once, side by side.
///
/// # Errors
/// One of them cannot be read.
pub fn compare_rows(
    one: &dyn ViewsLook,
    other: &dyn ViewsLook,
    table: &ViewTable,
    visit: &mut dyn FnMut(Option<Difference>) -> ControlFlow<()>,
) -> Result<u64, LookError> {
    let (mut ones, mut others) = (Rows::of(one, table), Rows::of(other, table));
    let (mut one, mut another) = (ones.next()?, others.next()?);
    let mut looked_at = 0;
    loop {
        let order = match (&one, &another) {
            (None, None) => return Ok(looked_at),
            (Some(one), Some(another)) => compare_keys(&one.key, &another.key),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        looked_at += 1;
        let mine = if order == Ordering::Greater {
            None
        } else {
            std::mem::replace(&mut one, ones.next()?)
        };
        let theirs = if order == Ordering::Less {
            None
        } else {
            std::mem::replace(&mut another, others.next()?)
        };
        let difference = match (mine, theirs) {
            (Some(one), Some(other)) => (one != other).then_some(Difference::Changed(one, other)),
            (Some(one), None) => Some(Difference::OnlyInOne(one)),
            (None, other) => other.map(Difference::OnlyInOther),
        };
        if visit(difference).is_break() {
            return Ok(looked_at);
        }
    }
}

fn compare_keys(one: &[Field], other: &[Field]) -> Ordering {
    let orders = one.iter().zip(other).map(|(one, other)| one.order(other));
    orders.into_iter().find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// The rows of a table, page by page.
struct Rows<'a> {
    views: &'a dyn ViewsLook,
    table: &'a ViewTable,
    page: VecDeque<ViewRow>,
    last: Option<Vec<Field>>,
    ended: bool,
}

impl<'a> Rows<'a> {
    fn of(views: &'a dyn ViewsLook, table: &'a ViewTable) -> Self {
        Self {
            views,
            table,
            page: VecDeque::new(),
            last: None,
            ended: false,
        }
    }

    fn next(&mut self) -> Result<Option<ViewRow>, LookError> {
        if self.page.is_empty() && !self.ended {
            self.page = self.views.page(self.table, self.last.as_deref(), PAGE)?.into();
            self.ended = self.page.len() < PAGE;
            self.last = self.page.back().map(|row| row.key.clone());
        }
        Ok(self.page.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of one table, in memory.
    struct Kept(Vec<ViewTable>, Vec<ViewRow>);

    impl Kept {
        fn of(numbers: impl IntoIterator<Item = (i64, i64)>) -> Self {
            let names = || vec!["id".to_owned()];
            let row = |(key, value)| ViewRow::new(vec![Field::Number(key)], vec![Field::Number(value)]);
            Self(
                vec![ViewTable::new("numbers_v1".to_owned(), names(), names())],
                numbers.into_iter().map(row).collect(),
            )
        }
    }

    impl ViewsLook for Kept {
        fn place(&self) -> String {
            "memory".to_owned()
        }

        fn log(&self) -> Option<Uuid> {
            None
        }

        fn checkpoints(&self) -> &[Checkpoint] {
            &[]
        }

        fn tables(&self) -> &[ViewTable] {
            &self.0
        }

        fn page(&self, _: &ViewTable, after: Option<&[Field]>, limit: usize) -> Result<Vec<ViewRow>, LookError> {
            let rows = self.1.iter();
            let behind = rows.filter(|row| after.is_none_or(|after| compare_keys(&row.key, after).is_gt()));
            Ok(behind.take(limit).cloned().collect())
        }

        fn order_by_number(&self, _: &OrderNumber) -> Result<Option<Uuid>, LookError> {
            Ok(None)
        }

        fn order_by_tracking(&self, _: TrackingId) -> Result<Option<Uuid>, LookError> {
            Ok(None)
        }
    }

    #[test]
    fn every_row_is_compared_once_also_over_many_pages() {
        let all = i64::try_from(PAGE).expect("small") * 2 + 7;
        let one = Kept::of((0..all).filter(|n| *n != 3).map(|n| (n, n)));
        let other = Kept::of((0..all - 1).map(|n| (n, if n.unsigned_abs() == PAGE as u64 { -1 } else { n })));
        let mut found = Vec::new();
        let looked_at = compare_rows(&one, &other, &one.tables()[0], &mut |difference| {
            found.extend(difference);
            ControlFlow::Continue(())
        })
        .expect("read");
        assert_eq!(looked_at, all.unsigned_abs());
        let row = |key: i64, value: i64| ViewRow::new(vec![Field::Number(key)], vec![Field::Number(value)]);
        let changed = i64::try_from(PAGE).expect("small");
        assert_eq!(
            found,
            [
                Difference::OnlyInOther(row(3, 3)),
                Difference::Changed(row(changed, changed), row(changed, -1)),
                Difference::OnlyInOne(row(all - 1, all - 1)),
            ]
        );
        let mut seen = 0;
        each_row(&one, &one.tables()[0], &mut |_| {
            seen += 1;
            if seen == 5 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .expect("read");
        assert_eq!(seen, 5);
    }
}
