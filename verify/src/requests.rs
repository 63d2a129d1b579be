//! One key, one effect; and the recorded answers.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use event_store::{Event, IdempotencyRecord, LogReader, StoreError};
use rustc_hash::FxHashSet;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    Invariant, Place, Report,
    layout::{Log, Shard},
    shapes::{Learnt, Metadata, Seen},
    shop::Shop,
};

/// How many records are read at once.
const PAGE: usize = 1_000;

#[derive(Default)]
pub(crate) struct Requests {
    /// By actor, key, name and stream: what a request has done.
    effects: FxHashSet<u128>,
    /// By actor, key and stream: the requests.
    requests: FxHashSet<u128>,
}

/// An answer as the engine records it: a request's, or a message's of another shard.
#[derive(Deserialize)]
struct Answer<'a> {
    version: Option<u64>,
    shard: u16,
    position: u64,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
    #[serde(default)]
    message: Option<Answered>,
}

/// To whom a message is answered, and what that shard's purchases learn from it.
#[derive(Deserialize)]
struct Answered {
    from: u16,
    learnt: Vec<Learnt>,
}

/// What an answer may name.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    order_id: Option<Uuid>,
}

impl Requests {
    /// Counts one event, if it is a request's own.
    pub(crate) fn event(&mut self, event: &Event, metadata: &Metadata<'_>, report: &mut Report) {
        let Some(key) = &metadata.key else { return };
        let actor = metadata.actor.as_deref();
        // An order's id derives from the key, so two orders of one key would be two streams: they are told by the key alone.
        let placed = event.event_type == "order.placed";
        let stream = (!placed).then_some((&event.stream.kind, event.stream.id));
        if !self.effects.insert(digest((actor, key, &event.event_type, stream))) {
            report.add(
                Invariant::Idempotency,
                Place::event(event),
                format!("a key has one effect: {key:?} has had this one before"),
            );
        }
        if self.requests.insert(digest((actor, key, &event.stream))) {
            report.counts.keyed_requests += 1;
        }
    }
}

/// Looks at every recorded answer.
pub(crate) fn records(reader: &dyn LogReader, log: &Log, shop: &Shop, report: &mut Report) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let records = match reader.records(after, PAGE) {
            Ok(Some(records)) => records,
            Ok(None) => return Ok(()),
            Err(StoreError::Corrupt(what)) => {
                report.add(
                    Invariant::Idempotency,
                    Place::default(),
                    format!("the idempotency records cannot be read: {what}"),
                );
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let counted = report.counts.records.get_or_insert(0);
        let Some(last) = records.last() else { break };
        after = Some(last.key);
        let mut wrong = Vec::new();
        for record in &records {
            let (of_a_message, checked) = check(record, reader, log, shop)?;
            if of_a_message {
                report.counts.messages += 1;
            } else {
                *counted += 1;
            }
            wrong.extend(checked.err().map(|what| (record.key, what)));
        }
        for (key, what) in wrong {
            let key = u128::from_be_bytes(key.0);
            report.add(Invariant::Idempotency, Place::default(), format!("the record {key:032x} {what}"));
        }
    }
    let recorded = report.counts.records.unwrap_or_default();
    if recorded < report.counts.keyed_requests {
        report.add(
            Invariant::Idempotency,
            Place::default(),
            format!(
                "{} requests with a key were recorded by events, but only {recorded} have their answer recorded",
                report.counts.keyed_requests
            ),
        );
    }
    Ok(())
}

/// Whether the record is a message's, and what is wrong with it.
fn check(record: &IdempotencyRecord, reader: &dyn LogReader, log: &Log, shop: &Shop) -> Result<(bool, Result<(), String>), StoreError> {
    let answer: Answer<'_> = match serde_json::from_slice(&record.answer) {
        Ok(answer) => answer,
        Err(error) => return Ok((false, Err(format!("holds no answer: {error}")))),
    };
    let of_a_message = answer.message.is_some();
    let checked = match stands(record, &answer, reader, log)? {
        Ok(None) => Ok(()),
        Ok(Some(shard)) => match &answer.message {
            Some(message) => answers_a_message(record, &answer, message, shard, log, shop),
            None => answers_a_request(&answer, shop),
        },
        Err(what) => Err(what),
    };
    Ok((of_a_message, checked))
}

/// The shard where the record stands; none when it was recorded since this began.
fn stands<'l>(
    record: &IdempotencyRecord,
    answer: &Answer<'_>,
    reader: &dyn LogReader,
    log: &'l Log,
) -> Result<Result<Option<&'l Shard>, String>, StoreError> {
    if answer.position != record.position {
        return Ok(Err(format!("stands at {} and its answer at {}", record.position, answer.position)));
    }
    let Some(shard) = log.shard(answer.shard) else {
        return Ok(Err(format!("is of shard {}, which there is not", answer.shard)));
    };
    if answer.position <= shard.head.position {
        return Ok(Ok(Some(shard)));
    }
    let head = reader.head(answer.shard)?;
    if head.is_none_or(|head| answer.position > head.position) {
        return Ok(Err(format!("stands at {}, where the log has not come to", answer.position)));
    }
    Ok(Ok(None))
}

fn answers_a_request(answer: &Answer<'_>, shop: &Shop) -> Result<(), String> {
    let Some(version) = answer.version else {
        return Err("holds no answer: missing field `version`".to_owned());
    };
    let body = answer.body.and_then(|body| serde_json::from_str::<Body>(body.get()).ok());
    match body.and_then(|body| body.order_id) {
        Some(order) if !shop.knows(order) => Err(format!(
            "answers with the order {order} at version {version}, which was never placed"
        )),
        _ => Ok(()),
    }
}

fn answers_a_message(
    record: &IdempotencyRecord,
    answer: &Answer<'_>,
    message: &Answered,
    shard: &Shard,
    log: &Log,
    shop: &Shop,
) -> Result<(), String> {
    let Answered { from, learnt } = message;
    if record.fingerprint != [0; 16] {
        return Err("is that of a message, and has the fingerprint of a request".to_owned());
    }
    if *from == answer.shard || log.shard(*from).is_none() {
        return Err(format!("answers a message of shard {from} in shard {}", answer.shard));
    }
    for Learnt { order, seen } in learnt {
        let (there, position) = match seen {
            Seen::Here(position) => (answer.shard, *position),
            Seen::There(place) => (place.shard, place.position),
        };
        if there != answer.shard || !(1..=answer.position).contains(&position) {
            return Err(format!(
                "tells of {there}/{position}, and stands at {}/{}",
                answer.shard, answer.position
            ));
        }
        if log.count.of(*order) != *from {
            return Err(format!("tells shard {from} of the order {order}, which is not kept there"));
        }
        // What was recorded since this began may be about an order that was placed since.
        if answer.position <= shard.settled_at && !shop.knows(*order) {
            return Err(format!("tells of the order {order}, which was never placed"));
        }
    }
    Ok(())
}

/// 128 bits, so that two requests are not taken for one.
fn digest(what: impl std::hash::Hash) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        what.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}
