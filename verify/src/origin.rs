//! Who wrote an event: an engine, or another program while no engine held the log.

use aggregates::Kind;
use event_store::Event;

use crate::{Report, made::Made};

/// So many kinds of other programs are counted by their names; the rest are counted together.
const MOST_NAMED: usize = 20;

/// What is counted of the rest.
const REST: &str = "others";

/// Whose an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An engine's: everything about it is known.
    Engine,
    /// Another program's, of a kind that this version knows: what it says is checked, but not what an engine says besides.
    Foreign,
    /// Another program's, of a kind that this version does not know: its place, version, id, time and hash are checked, and no more.
    Unknown,
}

/// An engine's ids say where they were made, and it writes no kinds that this version does not know.
pub(crate) fn of(event: &Event, report: &mut Report) -> Origin {
    if Made::of(event.event_id).is_some() {
        return Origin::Engine;
    }
    let kind = &*event.stream.kind;
    let named = &mut report.counts.foreign;
    let name = if named.contains_key(kind) || named.len() < MOST_NAMED {
        kind
    } else {
        REST
    };
    *named.entry(name.to_owned()).or_default() += 1;
    if kind == sagas::purchase::KIND || Kind::named(kind).is_some() {
        Origin::Foreign
    } else {
        Origin::Unknown
    }
}
