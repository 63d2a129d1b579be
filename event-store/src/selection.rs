//! Which events of a log are wanted, so that a store reads no others where it can help it.

use std::{fmt, ops::ControlFlow, str::FromStr};

use serde::Deserialize;
use uuid::Uuid;

use crate::{Event, LogReader, StoreError, StreamId};

/// How many events are read at once where a store can do no better than to read them all.
const PAGE: usize = 1_000;

/// Events of one shard. What is empty or none asks for nothing in particular.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The shard.
    pub shard: u16,
    /// Only positions above it.
    pub after: u64,
    /// Only positions up to it.
    pub to: u64,
    /// Only streams of these kinds (`order`).
    pub kinds: Vec<String>,
    /// Only events with such a name.
    pub types: Vec<TypePattern>,
    /// Only this stream, found by its index: the rest of the log is not read.
    pub stream: Option<StreamId>,
    /// Only what has this correlation in its metadata.
    pub correlation: Option<Uuid>,
    /// Only what has this actor in its metadata.
    pub actor: Option<String>,
    /// The last first.
    pub backwards: bool,
    /// At most so many.
    pub limit: usize,
}

impl Selection {
    /// All events of a shard.
    pub const fn of(shard: u16) -> Self {
        Self {
            shard,
            after: 0,
            to: u64::MAX,
            kinds: Vec::new(),
            types: Vec::new(),
            stream: None,
            correlation: None,
            actor: None,
            backwards: false,
            limit: usize::MAX,
        }
    }

    /// Whether the event is one of these; the limit is not looked at.
    pub fn matches(&self, event: &EventRef<'_>) -> bool {
        event.shard == self.shard
            && event.position > self.after
            && event.position <= self.to
            && (self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == event.kind))
            && (self.types.is_empty() || self.types.iter().any(|pattern| pattern.matches(event.event_type)))
            && self
                .stream
                .as_ref()
                .is_none_or(|stream| stream.kind == event.kind && Uuid::try_parse(event.id).is_ok_and(|id| id == stream.id))
            && self.matches_metadata(event.metadata)
    }

    /// Whether the metadata says what is asked for.
    pub fn matches_metadata(&self, metadata: &str) -> bool {
        if self.correlation.is_none() && self.actor.is_none() {
            return true;
        }
        let Ok(known) = serde_json::from_str::<Known>(metadata) else {
            return false;
        };
        (self.correlation.is_none() || known.correlation_id == self.correlation) && (self.actor.is_none() || known.actor == self.actor)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    #[serde(default)]
    correlation_id: Option<Uuid>,
    #[serde(default)]
    actor: Option<String>,
}

/// The name of an event, or a pattern in which each `*` stands for any run of characters (`payment.*`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypePattern(Box<str>);

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no event type: write a name as order.placed, or a pattern as 'payment.*'")]
pub struct TypePatternError(String);

impl TypePattern {
    /// The longest pattern.
    pub const LONGEST: usize = 200;

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a name, and stands for nothing else.
    pub fn is_name(&self) -> bool {
        !self.0.contains('*')
    }

    /// Whether an event of this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        // Where the last star stands, and how much of the name it has taken so far.
        let mut star: Option<(usize, usize)> = None;
        while n < name.len() {
            match (pattern.get(p), star) {
                (Some(b'*'), _) => {
                    star = Some((p, n));
                    p += 1;
                }
                (Some(byte), _) if *byte == name[n] => (p, n) = (p + 1, n + 1),
                (_, Some((at, taken))) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                (_, None) => return false,
            }
        }
        pattern[p..].iter().all(|byte| *byte == b'*')
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TypePattern {
    type Err = TypePatternError;

    fn from_str(text: &str) -> Result<Self, TypePatternError> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'*');
        if text.is_empty() || text.len() > Self::LONGEST || !text.bytes().all(known) {
            return Err(TypePatternError(text.chars().take(Self::LONGEST).collect()));
        }
        Ok(Self(text.into()))
    }
}

/// A recorded event as the store has it, not copied. Its ids are text, as they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_field_names, reason = "these are the columns' names, which analysts know")]
pub struct EventRef<'a> {
    /// The shard whose log holds it.
    pub shard: u16,
    /// Its place in that log.
    pub position: u64,
    /// The stream's kind.
    pub kind: &'a str,
    /// The stream's id.
    pub id: &'a str,
    /// Its place in the stream.
    pub sequence: u64,
    /// Unique over all logs.
    pub event_id: &'a str,
    /// The stored name.
    pub event_type: &'a str,
    /// The version of the payload's shape.
    pub event_version: &'a str,
    /// Microseconds since 1970, UTC.
    pub recorded_at: i64,
    /// JSON.
    pub payload: &'a str,
    /// JSON: a flat object of strings.
    pub metadata: &'a str,
}

impl EventRef<'_> {
    /// A copy that stays.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when an id is not one.
    pub fn to_event(self) -> Result<Event, StoreError> {
        let id = |text: &str| {
            Uuid::try_parse(text).map_err(|_| StoreError::Corrupt(format!("{text:?} at {}/{} is no id", self.shard, self.position)))
        };
        Ok(Event {
            shard: self.shard,
            position: self.position,
            stream: StreamId {
                kind: self.kind.to_owned().into(),
                id: id(self.id)?,
            },
            sequence: self.sequence,
            event_id: id(self.event_id)?,
            event_type: self.event_type.to_owned().into(),
            event_version: self.event_version.to_owned().into(),
            recorded_at: self.recorded_at,
            payload: self.payload.into(),
            metadata: self.metadata.into(),
        })
    }
}

impl Event {
    /// Shows the event as a store shows those that it does not copy.
    pub fn visit<T>(&self, visit: impl FnOnce(EventRef<'_>) -> T) -> T {
        let (mut id, mut event_id) = ([0; 36], [0; 36]);
        visit(EventRef {
            shard: self.shard,
            position: self.position,
            kind: &self.stream.kind,
            id: self.stream.id.hyphenated().encode_lower(&mut id),
            sequence: self.sequence,
            event_id: self.event_id.hyphenated().encode_lower(&mut event_id),
            event_type: &self.event_type,
            event_version: &self.event_version,
            recorded_at: self.recorded_at,
            payload: &self.payload,
            metadata: &self.metadata,
        })
    }
}

/// Shows each event that is wanted, in order, until the visitor has had enough: by reading all events of the shard (or of the stream), page
/// after page. For stores that can do no better, and to compare those with that can.
///
/// # Errors
/// The log cannot be read.
pub fn select_by_reading(
    reader: &(impl LogReader + ?Sized),
    selection: &Selection,
    visit: &mut dyn FnMut(EventRef<'_>) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let mut left = selection.limit;
    let mut show = |event: &Event| {
        event.visit(|event| {
            if left > 0 && selection.matches(&event) {
                left -= 1;
                if visit(event).is_break() {
                    left = 0;
                }
            }
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
    };
    if let (Some(stream), true) = (&selection.stream, selection.backwards) {
        return backwards(
            last_sequence(reader, stream)?,
            0,
            &mut |after, limit| reader.stream(stream, after, limit),
            &mut show,
        );
    }
    if selection.backwards {
        let head = reader.head(selection.shard)?.map_or(0, |head| head.position);
        let read = &mut |after, limit| reader.events(selection.shard, after, limit);
        return backwards(head.min(selection.to), selection.after, read, &mut show);
    }
    let mut after = if selection.stream.is_some() { 0 } else { selection.after };
    loop {
        let (page, last) = if let Some(stream) = &selection.stream {
            let page = reader.stream(stream, after, PAGE)?;
            let last = page.last().map(|event| event.sequence);
            (page, last)
        } else {
            let page = reader.events(selection.shard, after, PAGE)?;
            let last = page.last().map(|event| event.position);
            (page, last)
        };
        let beyond = page.last().is_none_or(|event| event.position >= selection.to);
        if page.iter().any(|event| show(event).is_break()) || beyond {
            return Ok(());
        }
        after = last.unwrap_or(u64::MAX);
    }
}

/// Pages from `to` down to the one after `after`.
fn backwards(
    to: u64,
    after: u64,
    read: &mut dyn FnMut(u64, usize) -> Result<Vec<Event>, StoreError>,
    show: &mut dyn FnMut(&Event) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let mut to = to;
    while to > after {
        let from = to.saturating_sub(PAGE as u64).max(after);
        let page = read(from, usize::try_from(to - from).unwrap_or(PAGE))?;
        if page.iter().rev().any(|event| show(event).is_break()) {
            return Ok(());
        }
        to = from;
    }
    Ok(())
}

fn last_sequence(reader: &(impl LogReader + ?Sized), stream: &StreamId) -> Result<u64, StoreError> {
    let mut last = 0;
    loop {
        match reader.stream(stream, last, PAGE)?.last() {
            Some(event) => last = event.sequence,
            None => return Ok(last),
        }
    }
}

/// What every store answers as one does that reads all.
#[cfg(any(test, feature = "conformance"))]
pub mod conformance {
    use std::ops::ControlFlow;

    use uuid::Uuid;

    use crate::{Batch, Event, EventStore, GENESIS, Selection, Shards, StreamId, TypePattern, batch_hash, select_by_reading};

    const TYPES: [&str; 5] = [
        "order.placed",
        "order.confirmed",
        "payment.captured",
        "inventory.reserved",
        "order_x.placed",
    ];

    /// Fills the store with a log of two shards.
    fn fill(store: &dyn EventStore) {
        let mut writer = store.writer().expect("a writer");
        writer.found(Shards::new(2).expect("two")).expect("founded");
        for shard in 0..2 {
            let head = writer.take(shard, Uuid::nil(), 1).expect("the shard");
            let events: Vec<_> = (1..=2_500).map(|position| event(shard, position)).collect();
            let batch = Batch {
                shard,
                epoch: head.epoch,
                first_position: 1,
                previous_hash: GENESIS,
                hash: batch_hash(&GENESIS, &events),
                events,
                ..Batch::default()
            };
            writer.commit(&[&batch]).expect("written");
        }
    }

    fn event(shard: u16, position: u64) -> Event {
        let name = TYPES[usize::try_from(position % 5).expect("below five")];
        let kind = name.split('.').next().expect("a kind");
        // Five streams in each shard: each type has one of its own, so sequences count what came before of the same type.
        let id = Uuid::from_u128((u128::from(shard) << 64) + u128::from(position % 5) + 1);
        let metadata = match position % 7 {
            0 => r#"{"correlationId":"00000000-0000-0000-0000-000000000007","actor":"account:x \"y\""}"#.to_owned(),
            1 => r#"{ "correlationId" : "00000000-0000-0000-0000-000000000007" }"#.to_owned(),
            2 => r#"{"idempotencyKey":"00000000-0000-0000-0000-000000000007","actor":"system"}"#.to_owned(),
            _ => "{}".to_owned(),
        };
        Event {
            shard,
            position,
            stream: StreamId {
                kind: kind.to_owned().into(),
                id,
            },
            sequence: position.div_ceil(5),
            event_id: Uuid::from_u128((u128::from(shard) << 64) + u128::from(position) + 1_000_000),
            event_type: name.into(),
            event_version: "1.0.0".into(),
            recorded_at: i64::try_from(position).expect("small") * 10,
            payload: format!(r#"{{"type":"{name}","n":{position}}}"#).into(),
            metadata: metadata.into(),
        }
    }

    /// Each selection gives what reading all gives, in the same order.
    ///
    /// # Panics
    /// When it does not.
    pub fn selections_are_what_reading_all_gives(store: &dyn EventStore) {
        fill(store);
        let reader = store.reader().expect("a reader");
        for selection in selections() {
            let mut wanted = Vec::new();
            select_by_reading(reader.as_ref(), &selection, &mut |event| {
                wanted.push(event.to_event().expect("ids"));
                ControlFlow::Continue(())
            })
            .expect("read");
            let mut seen = Vec::new();
            reader
                .select_each(&selection, &mut |event| {
                    seen.push(event.to_event().expect("ids"));
                    ControlFlow::Continue(())
                })
                .expect("selected");
            assert_eq!(seen, wanted, "{selection:?}");
            assert_eq!(reader.select(&selection).expect("selected"), wanted, "{selection:?}");
            let brute: Vec<_> = (1..=2_500).map(|position| event(selection.shard, position)).collect();
            let mut brute: Vec<_> = brute
                .into_iter()
                .filter(|event| event.visit(|event| selection.matches(&event)))
                .collect();
            if selection.backwards {
                brute.reverse();
            }
            brute.truncate(selection.limit);
            assert_eq!(wanted, if selection.shard < 2 { brute } else { Vec::new() }, "{selection:?}");
            // Whoever has seen enough is shown no more.
            let mut shown = 0;
            reader
                .select_each(&selection, &mut |_| {
                    shown += 1;
                    if shown == 3 {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                })
                .expect("selected");
            assert_eq!(shown, wanted.len().min(3), "{selection:?}");
        }
    }

    fn selections() -> Vec<Selection> {
        let pattern = |text: &str| text.parse::<TypePattern>().expect("a pattern");
        let correlation = Some(Uuid::from_u128(7));
        let stream = |kind: &'static str, id: u128| Some(StreamId::new(kind, Uuid::from_u128(id)));
        let all = Selection::of(0);
        let narrow = vec![
            all.clone(),
            Selection::of(1),
            Selection::of(2),
            Selection {
                after: 17,
                to: 2_017,
                ..all.clone()
            },
            Selection {
                after: 17,
                to: 3,
                ..all.clone()
            },
            Selection {
                after: u64::MAX,
                ..all.clone()
            },
            Selection {
                kinds: vec!["order".into()],
                ..all.clone()
            },
            Selection {
                kinds: vec!["order".into(), "payment".into(), "nothing".into()],
                after: 100,
                ..all.clone()
            },
            Selection {
                types: vec![pattern("order.placed")],
                ..all.clone()
            },
            Selection {
                types: vec![pattern("order.placed"), pattern("payment.*"), pattern("*reserved")],
                ..all.clone()
            },
            Selection {
                types: vec![pattern("order_*")],
                ..all.clone()
            },
            Selection {
                types: vec![pattern("*.pl*ed*")],
                ..all.clone()
            },
            Selection {
                types: vec![pattern("Order.*")],
                ..all.clone()
            },
            Selection {
                stream: stream("order", 1),
                ..all.clone()
            },
            Selection {
                stream: stream("order", 1),
                after: 20,
                to: 2_000,
                ..all.clone()
            },
            Selection {
                stream: stream("order", 1),
                after: 21,
                to: 2_000,
                types: vec![pattern("order.confirmed")],
                ..all.clone()
            },
            Selection {
                stream: stream("order", (1 << 64) + 2),
                shard: 1,
                ..all.clone()
            },
            Selection {
                stream: stream("order", (1 << 64) + 2),
                ..all.clone()
            },
            Selection {
                stream: stream("payment", 1),
                ..all.clone()
            },
            Selection {
                correlation,
                ..all.clone()
            },
            Selection {
                correlation: Some(Uuid::nil()),
                ..all.clone()
            },
            Selection {
                actor: Some("system".into()),
                ..all.clone()
            },
            Selection {
                actor: Some("account:x \"y\"".into()),
                correlation,
                kinds: vec!["order".into()],
                ..all.clone()
            },
        ];
        let limited = |selection: &Selection| Selection {
            limit: 4,
            ..selection.clone()
        };
        let reversed = |selection: &Selection| Selection {
            backwards: true,
            ..selection.clone()
        };
        let mut selections = narrow.clone();
        selections.extend(narrow.iter().map(limited));
        selections.extend(narrow.iter().map(reversed));
        selections.extend(narrow.iter().map(limited).map(|selection| reversed(&selection)));
        selections.push(Selection { limit: 0, ..all });
        selections
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        let matches = |pattern: &str, name: &str| pattern.parse::<TypePattern>().expect("a pattern").matches(name);
        for (pattern, name) in [
            ("order.placed", "order.placed"),
            ("order.*", "order.placed"),
            ("*", ""),
            ("**", "order.placed"),
            ("*.placed", "order.placed"),
            ("o*r.p*d", "order.placed"),
            ("*a*a*", "banana"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("order.placed", "order.place"),
            ("order.*", "orders.placed"),
            ("*.place", "order.placed"),
            ("*x*", "order.placed"),
            ("a*b", "ab_a"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        for wrong in ["", "order placed", "order.[a-z]", "order.?", "주문.*"] {
            assert!(wrong.parse::<TypePattern>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_memory_store_selects_as_one_that_reads_all() {
        conformance::selections_are_what_reading_all_gives(&crate::MemoryStore::default());
    }
}
