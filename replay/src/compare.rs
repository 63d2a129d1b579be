//! Views in two places, row by row.

use std::ops::ControlFlow;

use event_store::LogPosition;
use projections::{Difference, Field, ViewRow, ViewTable, ViewsLook, compare_rows};
use serde_json::Value;

use crate::{
    Done,
    arguments::{CompareArgs, Format, RowsArgs, Source},
    diff::{self, Operation},
    failure::{FAILED, Failure, OK},
    mask::Mask,
    output::{self, Cell, Column, Rows, count},
    place::{Place, open_views, views_at},
    progress::Progress,
    source::Log,
    state::plain,
};

const COLUMNS: [Column; 5] = [
    Column::new("view", 20),
    Column::new("key", 73),
    Column::new("where", 40),
    Column::new("one", 50),
    Column::new("other", 50),
];

pub(crate) fn run(source: &Source, arguments: &CompareArgs, progress: &Progress) -> Done {
    let (one, other) = (open(source, &arguments.one)?, open(source, &arguments.other)?);
    let (one, other) = (one.as_ref(), other.as_ref());
    if let Some(apart) = apart(one, other) {
        return Err(Failure::partial(apart));
    }
    // For what is sealed: an order's buyer is in the log. Views can be compared without it.
    let log = if source.reveal { Some(source.open()?) } else { source.open().ok() };
    let mut shown = Shown {
        source,
        log,
        mask: Mask::new(source)?,
        left: arguments.keep,
    };
    let rows = RowsArgs {
        output: Some(output::format(arguments.output)),
        columns: Vec::new(),
        no_header: false,
    };
    let mut rows = Rows::new(&rows, &COLUMNS)?;
    let (mut looked_at, mut different) = (0, 0_u64);
    let mut compared = Ok(());
    for table in one.tables() {
        let mut ended = None;
        let read = compare_rows(one, other, table, &mut |difference| {
            if progress.go_on().is_break() {
                ended = Some(Failure::interrupted());
                return ControlFlow::Break(());
            }
            let Some(difference) = difference else {
                return ControlFlow::Continue(());
            };
            different += 1;
            match shown.row(table, &difference, &mut rows) {
                Ok(()) => ControlFlow::Continue(()),
                Err(failure) => {
                    ended = Some(failure);
                    ControlFlow::Break(())
                }
            }
        });
        match (read, ended) {
            (Ok(of_table), None) => looked_at += of_table,
            (_, Some(failure)) => {
                compared = Err(failure);
                break;
            }
            (Err(error), None) => {
                compared = Err(Failure::input(error));
                break;
            }
        }
    }
    // A table on a terminal that has no row needs no line of names.
    if rows.written() > 0 || output::format(arguments.output) != Format::Table {
        rows.finish()?;
    }
    compared?;
    for views in [one, other] {
        if !views.is_unchanged() {
            return Err(Failure::input(format_args!(
                "{} was written while it was read; compare it again",
                views.place()
            )));
        }
    }
    let at = positions(one);
    if different == 0 {
        progress.say(format_args!("equal: {} rows at {at}", count(looked_at)));
        return Ok(OK);
    }
    progress.say(format_args!("different: {} of {} rows at {at}", count(different), count(looked_at)));
    Ok(FAILED)
}

/// `live`, a database, a file, or a directory with one.
fn open(source: &Source, which: &str) -> Result<Box<dyn ViewsLook>, Failure> {
    let place = if which == "live" { source.views_place()? } else { views_at(which)? };
    if let Place::Files(path) = &place
        && !path.exists()
    {
        return Err(Failure::input(format_args!(
            "{place} does not exist; name `live`, a database, a file of views, or a directory with one"
        )));
    }
    open_views(&place).map_err(Failure::input)
}

/// Why there is nothing to compare: they are of two logs, or of two moments.
fn apart(one: &dyn ViewsLook, other: &dyn ViewsLook) -> Option<String> {
    let (first, second) = (one.place(), other.place());
    if one.log() != other.log() {
        return Some(format!("{first} and {second} are views of two different logs: nothing is compared"));
    }
    let at = |views: &dyn ViewsLook, shard: u16| {
        let known = views.checkpoints().iter().find(|known| known.shard == shard);
        known.map_or(0, |known| known.position)
    };
    let mut shards: Vec<_> = one
        .checkpoints()
        .iter()
        .chain(other.checkpoints())
        .map(|known| known.shard)
        .collect();
    shards.sort_unstable();
    shards.dedup();
    let several = shards.iter().any(|shard| *shard > 0);
    let differing: Vec<_> = shards
        .into_iter()
        .filter(|shard| at(one, *shard) != at(other, *shard))
        .map(|shard| {
            let (mine, theirs) = (at(one, shard), at(other, shard));
            let place = |position: u64| {
                if several {
                    LogPosition { shard, position }.to_string()
                } else {
                    position.to_string()
                }
            };
            format!(
                "{} and {} ({} events apart)",
                place(mine),
                place(theirs),
                count(mine.abs_diff(theirs))
            )
        })
        .collect();
    (!differing.is_empty()).then(|| {
        format!(
            "{first} and {second} are not at the same position: {}; rebuild --to the position of the other, or wait for it",
            differing.join(", ")
        )
    })
}

fn positions(views: &dyn ViewsLook) -> String {
    let place = |known: &projections::Checkpoint| {
        LogPosition {
            shard: known.shard,
            position: known.position,
        }
        .to_string()
    };
    match views.checkpoints() {
        [] => "the beginning".to_owned(),
        [only] if only.shard == 0 => format!("position {}", only.position),
        several => format!("positions {}", several.iter().map(place).collect::<Vec<_>>().join(", ")),
    }
}

/// What is printed of the first differences.
struct Shown<'a> {
    source: &'a Source,
    log: Option<Log>,
    mask: Mask,
    left: usize,
}

impl Shown<'_> {
    fn row(&mut self, table: &ViewTable, difference: &Difference, rows: &mut Rows) -> Result<(), Failure> {
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        let (key, place, one, other) = match difference {
            Difference::OnlyInOne(row) => (row.key(), String::new(), Some("a row".to_owned()), None),
            Difference::OnlyInOther(row) => (row.key(), String::new(), None, Some("a row".to_owned())),
            Difference::Changed(one, other) => {
                let (place, mine, theirs) = self.first(table, one, other)?;
                (one.key(), place, Some(mine), Some(theirs))
            }
        };
        let cell = |text: &Option<String>| text.clone().unwrap_or_else(|| "nothing".to_owned());
        rows.row(&[
            Cell::Text(table.name()),
            Cell::Text(&key),
            Cell::Text(&place),
            Cell::Text(&cell(&one)),
            Cell::Text(&cell(&other)),
        ])
    }

    /// Where two rows differ first: the column, or the place in the view itself.
    fn first(&mut self, table: &ViewTable, one: &ViewRow, other: &ViewRow) -> Result<(String, String, String), Failure> {
        let fields = table.columns().iter().zip(one.fields().iter().zip(other.fields()));
        let mut differing: Vec<_> = fields.filter(|(_, (mine, theirs))| mine != theirs).collect();
        // The view itself says more than what it is found by.
        differing.sort_by_key(|(name, _)| name.as_str() != "data");
        let Some((name, (mine, theirs))) = differing.first() else {
            return Ok(Default::default());
        };
        let parsed = |field: &Field| field.text().and_then(|text| serde_json::from_str::<Value>(text).ok());
        if name.as_str() == "data"
            && let (Some(before), Some(after)) = (parsed(mine), parsed(theirs))
            && let Some(operation) = diff::patch(&before, &after).into_iter().next()
        {
            let (path, before, after) = match operation {
                Operation::Add { path, value } => (path, None, Some(value)),
                Operation::Remove { path, before } => (path, Some(before), None),
                Operation::Replace { path, value, before } => (path, Some(before), Some(value)),
            };
            let before = self.masked(table, one, &path, before)?;
            let after = self.masked(table, other, &path, after)?;
            return Ok((path, before, after));
        }
        Ok(((*name).clone(), mine.to_string(), theirs.to_string()))
    }

    fn masked(&mut self, table: &ViewTable, row: &ViewRow, path: &str, value: Option<Value>) -> Result<String, Failure> {
        let Some(value) = value else {
            return Ok("nothing".to_owned());
        };
        let Some(log) = &self.log else {
            return Ok(if value.is_string() {
                "a text".to_owned()
            } else {
                value.to_string()
            });
        };
        let kind = if table.name().starts_with("orders") { "order" } else { "account" };
        let json = value.to_string();
        let mut buffer = String::new();
        let shown = self.mask.json(log, kind, &row.key(), &json, &mut buffer)?;
        let value = serde_json::from_str(shown).map_err(Failure::input)?;
        Ok(plain(path, &value, &self.source.tz))
    }
}
