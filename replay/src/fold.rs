//! One stream, folded up to a moment; and how an order is found by what people know of it.

use std::{ops::ControlFlow, sync::Arc};

use aggregates::{CommerceEvent, Kind, OrderId, OrderNumber, PaymentId, State, TrackingId};
use event_store::{EventRef, LogPosition, StreamId, TypePattern};
use jiff::{ToSpan as _, civil::Date};
use projections::ViewsLook;
use sagas::{Purchase, PurchaseEvent, purchase};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    arguments::Source,
    failure::Failure,
    mask::Mask,
    place::open_views,
    progress::Progress,
    source::{At, Log, Wanted},
    time::Moment,
};

/// What has a stream: an aggregate, or the process that carries an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Aggregate(Kind),
    Purchase,
}

impl Subject {
    /// What is stored under this name.
    pub(crate) fn named(name: &str) -> Result<Self, Failure> {
        match Kind::named(name) {
            Some(kind) => Ok(Self::Aggregate(kind)),
            None if name == purchase::KIND => Ok(Self::Purchase),
            None => {
                let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).chain([purchase::KIND]).collect();
                Err(Failure::input(format_args!("there is no {name:?}; there are {}", names.join(", "))))
            }
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Aggregate(kind) => kind.name(),
            Self::Purchase => purchase::KIND,
        }
    }

    /// What its shard is found by.
    fn key(self, id: Uuid) -> Uuid {
        match self {
            Self::Aggregate(kind) => kind.key(id),
            Self::Purchase => id,
        }
    }

    /// The events of one of these, wherever they are.
    pub(crate) fn events(self, log: &Log, id: Uuid) -> Wanted {
        Wanted {
            stream: Some(StreamId::new(self.name(), id)),
            shard: Some(log.shards().of(self.key(id))),
            ..log.everything()
        }
    }

    fn initial(self) -> Folded {
        match self {
            Self::Aggregate(kind) => Folded::Aggregate(kind.initial()),
            Self::Purchase => Folded::Purchase(Arc::default()),
        }
    }
}

/// A state.
#[derive(Clone, Debug)]
enum Folded {
    Aggregate(State),
    Purchase(Arc<Purchase>),
}

impl Folded {
    fn evolve(&mut self, id: Uuid, event: &EventRef<'_>) -> Result<(), String> {
        match self {
            Self::Aggregate(state) => {
                let decoded = CommerceEvent::decode(event.kind, id, event.payload).map_err(|error| error.to_string())?;
                let decoded = decoded.ok_or_else(|| format!("an event of a {}", event.kind))?;
                state.evolve(&decoded);
            }
            Self::Purchase(state) => {
                let PurchaseEvent::Advanced { steps, .. } = serde_json::from_str(event.payload).map_err(|error| error.to_string())?;
                let state = Arc::make_mut(state);
                for step in &steps {
                    state.evolve(OrderId::new(id), step);
                }
            }
        }
        Ok(())
    }

    fn to_json(&self) -> Result<String, Failure> {
        let json = match self {
            Self::Aggregate(state) => state.to_json(),
            Self::Purchase(state) => serde_json::to_vec(&**state),
        };
        String::from_utf8(json.map_err(Failure::input)?).map_err(Failure::input)
    }
}

/// A state as it was after one of its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Then {
    pub(crate) version: u64,
    pub(crate) place: LogPosition,
    pub(crate) recorded_at: i64,
    /// JSON, with everything that is in it.
    pub(crate) state: String,
}

impl Then {
    /// The state as it may be shown. A payment's key stands there by itself, under a name that other things have too.
    ///
    /// # Errors
    /// The keys are not those that it was sealed with.
    pub(crate) fn shown(&self, log: &Log, subject: Subject, id: Uuid, mask: &mut Mask) -> Result<Value, Failure> {
        let mut buffer = String::new();
        let state = mask.json(log, subject.name(), &id.to_string(), &self.state, &mut buffer)?;
        let mut state: Value = serde_json::from_str(state).map_err(Failure::input)?;
        if subject == Subject::Aggregate(Kind::Payment)
            && let Some(Value::String(key)) = state.get_mut("key")
        {
            *key = mask.key(key);
        }
        Ok(state)
    }
}

/// How something was at a moment. Only its own stream is read.
///
/// # Errors
/// There is no such thing, or there was none then.
pub(crate) fn at(source: &Source, log: &Log, subject: Subject, id: Uuid, moment: &Moment, progress: &Progress) -> Result<Then, Failure> {
    let at = log.at(moment)?;
    let mut wanted = subject.events(log, id);
    let mut last = None;
    if let At::Cut(cut) = &at {
        wanted.to = cut.clone();
    }
    if let At::Version(version) = at {
        last = Some(version);
    }
    let mut state = subject.initial();
    let mut then: Option<(u64, LogPosition, i64)> = None;
    log.each(&wanted, "state", progress, &mut |event| {
        let place = LogPosition {
            shard: event.shard,
            position: event.position,
        };
        let before = then.as_ref().map_or(0, |(version, ..)| *version);
        if event.sequence != before + 1 {
            return Err(gap(subject.name(), id, before, event.sequence));
        }
        state.evolve(id, &event).map_err(|what| {
            Failure::input(format_args!(
                "what stands at position {} cannot be read as an event of a {}: {what}",
                place.text(log.shards()),
                subject.name()
            ))
        })?;
        then = Some((event.sequence, place, event.recorded_at));
        Ok(if last == Some(event.sequence) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    match then {
        Some((version, ..)) if last.is_some_and(|last| version < last) => Err(Failure::input(format_args!(
            "{}-{id} has {version} versions, and no {}",
            subject.name(),
            moment.text()
        ))),
        Some((version, place, recorded_at)) => Ok(Then {
            version,
            place,
            recorded_at,
            state: state.to_json()?,
        }),
        None => Err(not_yet(source, log, subject, id, moment)),
    }
}

/// Versions are counted without a gap; what is folded over one is not how anything was.
pub(crate) fn gap(kind: &str, id: Uuid, before: u64, after: u64) -> Failure {
    Failure::input(format_args!(
        "the log is damaged: {kind}-{id} goes from version {before} to {after}; `replay verify` names the place"
    ))
}

/// Why there is nothing: it is not there at all, or not yet.
fn not_yet(source: &Source, log: &Log, subject: Subject, id: Uuid, moment: &Moment) -> Failure {
    let name = subject.name();
    let first = match log.reader().stream(&StreamId::new(name, id), 0, 1) {
        Ok(first) => first.into_iter().next(),
        Err(error) => return log.explained(error),
    };
    let Some(first) = first else {
        return Failure::input(format_args!("there is no {name} {id} in this log"));
    };
    let place = LogPosition {
        shard: first.shard,
        position: first.position,
    };
    let mut clock = source.clock();
    let time = clock.show(first.recorded_at);
    Failure::input(format_args!(
        "nothing had happened to {name} {id} at {}: its first event is at {time}, position {}",
        moment.text(),
        place.text(log.shards())
    ))
}

/// The id that is meant: itself, or of an order its number, its tracking id, its payment's id or its payment key.
///
/// # Errors
/// There is no such thing.
pub(crate) fn find(source: &Source, log: &Log, subject: Subject, text: &str, progress: &Progress) -> Result<Uuid, Failure> {
    match subject {
        Subject::Aggregate(Kind::Order) | Subject::Purchase => find_order(source, log, text, progress),
        Subject::Aggregate(Kind::Payment) => {
            let order = find_order(source, log, text, progress)?;
            Ok(PaymentId::for_order(OrderId::new(order)).uuid())
        }
        Subject::Aggregate(kind) => {
            let text = text
                .strip_prefix(kind.name())
                .and_then(|rest| rest.strip_prefix('-'))
                .unwrap_or(text);
            Uuid::try_parse(text).map_err(|_| Failure::input(format_args!("{text:?} is no id of {} {}", article(kind.name()), kind.name())))
        }
    }
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// The order that is meant.
///
/// # Errors
/// There is none in this log.
pub(crate) fn find_order(source: &Source, log: &Log, text: &str, progress: &Progress) -> Result<Uuid, Failure> {
    let text = text.trim();
    let bare = ["order-", "payment-", "purchase-"]
        .iter()
        .find_map(|kind| text.strip_prefix(kind))
        .unwrap_or(text);
    if let Ok(id) = Uuid::try_parse(bare) {
        return by_id(source, log, id, progress);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(number) = text.parse::<OrderNumber>()
    {
        return by_number(source, log, &number, progress);
    }
    by_payment_key(log, text, progress)
}

fn has_begun(log: &Log, subject: Subject, id: Uuid) -> Result<bool, Failure> {
    let events = log.reader().stream(&StreamId::new(subject.name(), id), 0, 1);
    Ok(!events.map_err(|error| log.explained(error))?.is_empty())
}

const ORDER: Subject = Subject::Aggregate(Kind::Order);

fn by_id(source: &Source, log: &Log, id: Uuid, progress: &Progress) -> Result<Uuid, Failure> {
    if has_begun(log, ORDER, id)? {
        return Ok(id);
    }
    let paid = PaymentId::new(id).order().uuid();
    if has_begun(log, ORDER, paid)? {
        return Ok(paid);
    }
    let tracking = TrackingId::new(id);
    let known = views(source, log, progress).and_then(|views| views.order_by_tracking(tracking).ok().flatten());
    if let Some(order) = known.filter(|order| TrackingId::for_order(OrderId::new(*order)) == tracking)
        && has_begun(log, ORDER, order)?
    {
        return Ok(order);
    }
    let placed = placements(log);
    let found = first(log, &placed, "orders", progress, |event| {
        let order = Uuid::try_parse(event.id).ok()?;
        (TrackingId::for_order(OrderId::new(order)) == tracking).then_some(order)
    })?;
    found.ok_or_else(|| Failure::input(format_args!("no order, payment or tracking id of this log is {id}")))
}

fn by_number(source: &Source, log: &Log, number: &OrderNumber, progress: &Progress) -> Result<Uuid, Failure> {
    let known = views(source, log, progress).and_then(|views| views.order_by_number(number).ok().flatten());
    if let Some(order) = known
        && has_begun(log, ORDER, order)?
    {
        return Ok(order);
    }
    let needle = format!("\"number\":\"{number}\"");
    let mut placed = placements(log);
    if let Some((after, to)) = around(log, number)? {
        (placed.after, placed.to) = (after, to);
    }
    let found = first(log, &placed, "orders", progress, |event| {
        event.payload.contains(&needle).then(|| Uuid::try_parse(event.id).ok()).flatten()
    })?;
    found.ok_or_else(|| Failure::input(format_args!("no order of this log has the number {number}")))
}

/// Where the log tells of the day that an order number names, whatever the shop's time zone.
fn around(log: &Log, number: &OrderNumber) -> Result<Option<(crate::source::Cut, crate::source::Cut)>, Failure> {
    let Ok(day) = Date::strptime("%Y%m%d", number.as_str().get(..8).unwrap_or_default()) else {
        return Ok(None);
    };
    let moment = |days: i64| {
        let day = day.checked_add(days.days()).ok()?;
        format!("{day}T00:00:00Z").parse::<Moment>().ok()
    };
    match (moment(-1), moment(2)) {
        (Some(from), Some(to)) => log.range(Some(&from), Some(&to), None).map(Some),
        _ => Ok(None),
    }
}

fn by_payment_key(log: &Log, key: &str, progress: &Progress) -> Result<Uuid, Failure> {
    if key.ends_with('…') {
        return Err(Failure::input(format_args!(
            "{key} is the beginning of a payment key: --reveal shows the whole; or name the order by its number"
        )));
    }
    let needle = format!("\"payment_key\":{}", serde_json::to_string(key).map_err(Failure::input)?);
    let wanted = Wanted {
        types: types(&["order.placed", "order.payment_submitted"]),
        // People ask for what has just happened.
        backwards: true,
        ..log.everything()
    };
    let found = first(log, &wanted, "payment keys", progress, |event| {
        event.payload.contains(&needle).then(|| Uuid::try_parse(event.id).ok()).flatten()
    })?;
    found.ok_or_else(|| {
        Failure::input(format_args!(
            "{key:?} is no id, order number, tracking id or payment key of an order in this log"
        ))
    })
}

/// The events that begin orders: where nothing leads to one, all of these are looked at.
fn placements(log: &Log) -> Wanted {
    Wanted {
        types: types(&["order.placed"]),
        ..log.everything()
    }
}

fn types(names: &[&str]) -> Vec<TypePattern> {
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

fn first(
    log: &Log,
    wanted: &Wanted,
    what: &str,
    progress: &Progress,
    mut is_meant: impl FnMut(&EventRef<'_>) -> Option<Uuid>,
) -> Result<Option<Uuid>, Failure> {
    let mut found = None;
    log.each(wanted, what, progress, &mut |event| {
        found = is_meant(&event);
        Ok(if found.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    Ok(found)
}

/// The views beside the log, if they are this log's: they have an index of what people know an order by.
fn views(source: &Source, log: &Log, progress: &Progress) -> Option<Box<dyn ViewsLook>> {
    let place = source.views_place().map_err(Failure::into_line);
    let views = place.and_then(|place| open_views(&place));
    let ours = |views: &dyn ViewsLook| log.heads().first().is_some_and(|head| Some(head.log_id) == views.log());
    match views {
        Ok(views) if ours(views.as_ref()) => {
            if source.explain {
                progress.say("asked the views, which have an index for it");
            }
            Some(views)
        }
        Ok(_) => None,
        Err(error) => {
            if source.explain {
                progress.say(format_args!("without views: {error}"));
            }
            None
        }
    }
}
