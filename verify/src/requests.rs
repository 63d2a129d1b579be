//! One key, one effect; and the recorded answers.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use event_store::{Event, LogReader, StoreError};
use rustc_hash::FxHashSet;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{Invariant, Place, Report, shapes::Metadata, shop::Shop, waiting::Shard};

/// How many records are read at once.
const PAGE: usize = 1_000;

#[derive(Default)]
pub(crate) struct Requests {
    /// By actor, key, name and stream: what a request has done.
    effects: FxHashSet<u128>,
    /// By actor, key and stream: the requests.
    requests: FxHashSet<u128>,
}

/// An answer as the engine records it.
#[derive(Deserialize)]
struct Answer<'a> {
    version: u64,
    shard: u16,
    position: u64,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
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
pub(crate) fn records(reader: &dyn LogReader, shards: &[Shard], shop: &Shop, report: &mut Report) -> Result<(), StoreError> {
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
        *report.counts.records.get_or_insert(0) += records.len() as u64;
        let Some(last) = records.last() else { break };
        after = Some(last.key);
        for record in &records {
            if let Err(what) = check(record, reader, shards, shop)? {
                let key = u128::from_be_bytes(record.key.0);
                report.add(Invariant::Idempotency, Place::default(), format!("the record {key:032x} {what}"));
            }
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

fn check(
    record: &event_store::IdempotencyRecord,
    reader: &dyn LogReader,
    shards: &[Shard],
    shop: &Shop,
) -> Result<Result<(), String>, StoreError> {
    let answer: Answer<'_> = match serde_json::from_slice(&record.answer) {
        Ok(answer) => answer,
        Err(error) => return Ok(Err(format!("holds no answer: {error}"))),
    };
    if answer.position != record.position {
        return Ok(Err(format!("stands at {} and its answer at {}", record.position, answer.position)));
    }
    let Some(shard) = shards.iter().find(|shard| shard.head.shard == answer.shard) else {
        return Ok(Err(format!("is of shard {}, which there is not", answer.shard)));
    };
    if answer.position > shard.head.position {
        // Recorded since this began, perhaps.
        let head = reader.head(answer.shard)?;
        if head.is_none_or(|head| answer.position > head.position) {
            return Ok(Err(format!("stands at {}, where the log has not come to", answer.position)));
        }
        return Ok(Ok(()));
    }
    let body = answer.body.and_then(|body| serde_json::from_str::<Body>(body.get()).ok());
    if let Some(order) = body.and_then(|body| body.order_id)
        && !shop.knows(order)
    {
        return Ok(Err(format!(
            "answers with the order {order} at version {}, which was never placed",
            answer.version
        )));
    }
    Ok(Ok(()))
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
