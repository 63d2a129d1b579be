//! Whether everything can be taken: looked at before anything is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use aggregates::Kind;
use serde_json::Value;

use super::{
    AdoptArgs, ORIGINAL_ID,
    old::{Old, Order, Row},
    stream_of,
};
use crate::failure::Failure;

/// So many rows that cannot be taken are named.
const MOST_NAMED: u64 = 20;

/// So many aggregate types are told apart; an older program that has more uses them for something else.
const MOST_KINDS: usize = 10_000;

/// So many of them are counted by name in the end.
const MOST_SHOWN: usize = 20;

/// Another name for an aggregate type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Renaming {
    old: String,
    new: String,
}

impl FromStr for Renaming {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok(Self {
                old: old.to_owned(),
                new: new.to_owned(),
            }),
            _ => Err("write OLD=NEW, as order=old_order"),
        }
    }
}

/// What is known of the old table when all of it can be taken.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Other names of aggregate types.
    names: BTreeMap<String, String>,
    /// How many events each aggregate type has.
    kinds: BTreeMap<String, u64>,
    streams: u64,
    /// Streams that get another id.
    renamed: u64,
}

impl Judged {
    /// What an aggregate type is called in the log.
    pub(super) fn stored<'a>(&'a self, kind: &'a str) -> &'a str {
        self.names.get(kind).map_or(kind, String::as_str)
    }
}

/// For people, line by line.
impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, events) in self.kinds.iter().take(MOST_SHOWN) {
            let stored = self.stored(kind);
            let name = if stored == kind {
                String::new()
            } else {
                format!(", called {stored} from now on")
            };
            writeln!(f, "{kind}: {events} events{name}")?;
        }
        if self.kinds.len() > MOST_SHOWN {
            writeln!(f, "... and {} more aggregate types", self.kinds.len() - MOST_SHOWN)?;
        }
        writeln!(
            f,
            "{} streams; {} had ids that are no UUIDs, and keep those in the metadata of their events as {ORIGINAL_ID}",
            self.streams, self.renamed
        )?;
        writeln!(
            f,
            "what these events say of people is not sealed, and erasing an account does not erase it"
        )
    }
}

/// Looks at every row. `told` learns how many were read.
pub(super) fn every_row(
    old: &Old,
    arguments: &AdoptArgs,
    page: i64,
    now: i64,
    told: &mut dyn FnMut(u64) -> Result<(), Failure>,
) -> Result<Judged, Failure> {
    let mut judge = Judge {
        judged: Judged {
            names: names(&arguments.rename)?,
            ..Judged::default()
        },
        time_member: arguments.time_member.as_deref(),
        now,
        last: None,
        refused: 0,
    };
    let mut read = 0;
    old.pages(Order::ByStream, page, &mut |rows| {
        for row in rows {
            judge.row(row)?;
        }
        read += rows.len() as u64;
        told(read)
    })?;
    judge.verdict()
}

fn names(renamings: &[Renaming]) -> Result<BTreeMap<String, String>, Failure> {
    let mut names = BTreeMap::new();
    for Renaming { old, new } in renamings {
        if is_ours(new) {
            return Err(Failure::wrong(format_args!(
                "{new} is the name of an aggregate type of the shop; choose another one for {old}"
            )));
        }
        if names.insert(old.clone(), new.clone()).is_some() {
            return Err(Failure::wrong(format_args!("{old} is renamed twice")));
        }
    }
    Ok(names)
}

/// Whether the shop itself has streams of this name, whose events it reads.
fn is_ours(kind: &str) -> bool {
    kind == sagas::purchase::KIND || Kind::named(kind).is_some()
}

/// Row after row.
struct Judge<'a> {
    judged: Judged,
    time_member: Option<&'a str>,
    now: i64,
    /// The stream of the row before, and its sequence.
    last: Option<(String, String, i64)>,
    refused: u64,
}

impl Judge<'_> {
    fn row(&mut self, row: &Row) -> Result<(), Failure> {
        let before = match &self.last {
            Some((kind, id, sequence)) if (kind, id) == (&row.kind, &row.id) => Some(*sequence),
            _ => None,
        };
        if before.is_none() {
            self.stream(row)?;
        }
        if let Some(events) = self.judged.kinds.get_mut(&row.kind) {
            *events += 1;
        }
        for wrong in [place(row, before), self.content(row)].into_iter().filter_map(Result::err) {
            self.refused += 1;
            if self.refused <= MOST_NAMED {
                eprintln!("event {} of {} {:?}: {wrong}", row.sequence, row.kind, row.id);
            }
        }
        self.last = Some((row.kind.clone(), row.id.clone(), row.sequence));
        Ok(())
    }

    fn stream(&mut self, row: &Row) -> Result<(), Failure> {
        self.judged.streams += 1;
        let (_, renamed) = stream_of(&row.kind, &row.kind, &row.id);
        self.judged.renamed += u64::from(renamed);
        if self.judged.kinds.contains_key(&row.kind) {
            return Ok(());
        }
        if self.judged.kinds.len() == MOST_KINDS {
            return Err(Failure::wrong(format_args!("there are more than {MOST_KINDS} aggregate types")));
        }
        if is_ours(self.judged.stored(&row.kind)) {
            return Err(Failure::wrong(format_args!(
                "the shop has an aggregate type {0} of its own, and would read these events as its own; give the old one another name, as --rename {0}=old_{0}",
                row.kind
            )));
        }
        self.judged.kinds.insert(row.kind.clone(), 0);
        Ok(())
    }

    /// What is in it, whoever reads it later.
    fn content(&self, row: &Row) -> Result<(), String> {
        if row.event_type.is_empty() {
            return Err("it has no event_type".into());
        }
        serde_json::from_str::<Value>(&row.payload).map_err(|error| format!("its payload cannot be read: {error}"))?;
        let metadata = members(&row.metadata)?;
        if metadata.contains_key(ORIGINAL_ID) && stream_of(&row.kind, &row.kind, &row.id).1 {
            return Err(format!(
                "its metadata has a member {ORIGINAL_ID}, which the original id is to be kept in"
            ));
        }
        let Some(member) = self.time_member else { return Ok(()) };
        let time = metadata.get(member).ok_or_else(|| format!("its metadata has no {member}"))?;
        match time.parse::<jiff::Timestamp>() {
            Ok(time) if time.as_microsecond() <= self.now => Ok(()),
            Ok(_) => Err(format!("{member} in its metadata is in the future")),
            Err(error) => Err(format!("{member} in its metadata is no time as RFC 3339 writes it: {error}")),
        }
    }

    fn verdict(self) -> Result<Judged, Failure> {
        let judged = self.judged;
        let mut stored = BTreeSet::new();
        for kind in judged.kinds.keys() {
            if !stored.insert(judged.stored(kind)) {
                return Err(Failure::wrong(format_args!(
                    "two aggregate types would be called {}; choose another name with --rename",
                    judged.stored(kind)
                )));
            }
        }
        if let Some(unknown) = judged.names.keys().find(|name| !judged.kinds.contains_key(*name)) {
            return Err(Failure::wrong(format_args!("there is no aggregate type {unknown} to rename")));
        }
        match self.refused {
            0 => Ok(judged),
            refused => {
                if refused > MOST_NAMED {
                    eprintln!("... and {} more", refused - MOST_NAMED);
                }
                let what = if refused == 1 {
                    "1 row".to_owned()
                } else {
                    format!("{refused} rows")
                };
                Err(Failure::wrong(format_args!(
                    "{what} cannot be adopted, and nothing was written; correct them in a copy of the database (pg_dump), and adopt the copy"
                )))
            }
        }
    }
}

/// The sequences of a stream are 1, 2, 3 and so on.
fn place(row: &Row, before: Option<i64>) -> Result<(), String> {
    let belongs = before.map_or(Some(1), |before| before.checked_add(1));
    if belongs == Some(row.sequence) {
        return Ok(());
    }
    Err(match before {
        None => "its stream begins with it, and a stream begins with event 1".into(),
        Some(before) if before == row.sequence => "there are two of it".into(),
        Some(before) => format!("it comes after event {before}, and those between are missing"),
    })
}

/// Metadata, as postgres-es reads it: a flat object of strings.
pub(super) fn members(metadata: &str) -> Result<BTreeMap<String, String>, String> {
    serde_json::from_str(metadata).map_err(|_| "its metadata is no object of strings".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(sequence: i64, payload: &str, metadata: &str) -> Row {
        Row {
            kind: "parcel".into(),
            id: "p-7".into(),
            sequence,
            event_type: "moved".into(),
            event_version: "1".into(),
            payload: payload.into(),
            metadata: metadata.into(),
            at: None,
        }
    }

    fn judge(time_member: Option<&str>) -> Judge<'_> {
        Judge {
            judged: Judged::default(),
            time_member,
            now: 1_800_000_000_000_000,
            last: None,
            refused: 0,
        }
    }

    #[test]
    fn sequences_begin_with_one_and_have_no_gap() {
        for (before, sequence, fits) in [(None, 1, true), (Some(1), 2, true), (None, 0, false), (None, 2, false)] {
            assert_eq!(place(&row(sequence, "{}", "{}"), before).is_ok(), fits, "{before:?} {sequence}");
        }
        for (before, sequence) in [(1, 1), (1, 3), (i64::MAX, i64::MIN), (2, 1)] {
            assert!(place(&row(sequence, "{}", "{}"), Some(before)).is_err(), "{before} {sequence}");
        }
    }

    #[test]
    fn any_json_is_a_payload_and_metadata_is_a_flat_object_of_strings() {
        // An event without members is a text, as serde writes an enum.
        for payload in ["{}", r#""Closed""#, "[1]", "null"] {
            assert_eq!(judge(None).content(&row(1, payload, r#"{"a":"b"}"#)), Ok(()), "{payload}");
        }
        for payload in ["", "{", r#""\ud800""#, "1e999"] {
            assert!(judge(None).content(&row(1, payload, "{}")).is_err(), "{payload}");
        }
        for metadata in ["", "null", "[]", r#"{"a":1}"#, r#"{"a":{"b":"c"}}"#, r#"{"originalId":"x"}"#] {
            assert!(judge(None).content(&row(1, "{}", metadata)).is_err(), "{metadata}");
        }
    }

    #[test]
    fn times_are_there_readable_and_past_if_they_are_to_count() {
        let judge = judge(Some("at"));
        assert_eq!(judge.content(&row(1, "{}", r#"{"at":"2026-01-05T10:00:00+09:00"}"#)), Ok(()));
        for metadata in [
            "{}",
            r#"{"at":""}"#,
            r#"{"at":"2026-01-05"}"#,
            r#"{"at":"1767571200"}"#,
            r#"{"at":"2999-01-05T10:00:00Z"}"#,
        ] {
            assert!(judge.content(&row(1, "{}", metadata)).is_err(), "{metadata}");
        }
    }

    #[test]
    fn what_the_shop_calls_its_own_needs_another_name() {
        for kind in ["order", "payment", "purchase"] {
            let mut row = row(1, "{}", "{}");
            row.kind = kind.into();
            let refused = judge(None).row(&row).expect_err("it is the shop's");
            assert!(
                refused.line().contains(&format!("--rename {kind}=old_{kind}")),
                "{}",
                refused.line()
            );
        }
        assert!(names(&["order=product".parse().expect("a renaming")]).is_err());
        for text in ["", "order", "=a", "a="] {
            assert!(text.parse::<Renaming>().is_err(), "{text}");
        }
    }
}
