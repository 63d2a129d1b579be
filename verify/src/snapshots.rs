//! Snapshots equal the fold. What they are folded with is the aggregates' own code: here it is compared with itself, at another time.

use std::ops::ControlFlow;

use aggregates::{CommerceEvent, Kind, OrderId, State};
use event_store::{Hash, LogReader, Snapshot, StoreError};
use sagas::{Purchase, Step, purchase};
use serde::Deserialize;

use crate::{Invariant, Place, Report};

/// How many snapshots, and how many events of a stream, are read at once.
const PAGE: usize = 500;

/// Compares every snapshot of today's shapes; those of other shapes are never used.
pub(crate) fn check(
    reader: &dyn LogReader,
    report: &mut Report,
    progress: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<ControlFlow<()>, StoreError> {
    let mut after: Option<Snapshot> = None;
    loop {
        let snapshots = match reader.snapshots(after.as_ref(), PAGE) {
            Ok(Some(snapshots)) => snapshots,
            Ok(None) => return Ok(ControlFlow::Continue(())),
            Err(StoreError::Corrupt(what)) => {
                report.add(Invariant::Views, Place::default(), format!("the snapshots cannot be read: {what}"));
                return Ok(ControlFlow::Continue(()));
            }
            Err(error) => return Err(error),
        };
        report.counts.snapshots.get_or_insert(0);
        for snapshot in &snapshots {
            if progress().is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let Some(state) = Fold::of(snapshot) else { continue };
            *report.counts.snapshots.get_or_insert(0) += 1;
            if let Err(what) = compare(reader, snapshot, state)? {
                let place = Place {
                    stream: Some(snapshot.stream.to_string()),
                    ..Place::default()
                };
                report.add(
                    Invariant::Views,
                    place,
                    format!(
                        "the snapshot at version {} is not the fold of the stream: {what}",
                        snapshot.sequence
                    ),
                );
            }
        }
        after = snapshots.into_iter().last();
        if after.is_none() {
            return Ok(ControlFlow::Continue(()));
        }
    }
}

/// What a purchase learnt.
#[derive(Deserialize)]
struct Steps {
    steps: Vec<Step>,
}

/// A state that is folded anew.
enum Fold {
    Aggregate(Kind, State),
    Purchase(Box<Purchase>),
}

impl Fold {
    /// Where the fold of a snapshot's stream begins; none when it is not of today's shape.
    fn of(snapshot: &Snapshot) -> Option<Self> {
        let kind = &*snapshot.stream.kind;
        let (initial, fold) = if kind == purchase::KIND {
            let purchase = Purchase::default();
            (serde_json::to_vec(&purchase), Self::Purchase(Box::new(purchase)))
        } else {
            let state = Kind::named(kind)?.initial();
            (state.to_json(), Self::Aggregate(state.kind(), state))
        };
        (shape(kind, &initial.ok()?) == snapshot.shape).then_some(fold)
    }

    fn apply(&mut self, event: &event_store::Event) -> Result<(), String> {
        match self {
            Self::Aggregate(kind, state) => match CommerceEvent::decode(kind.name(), event.stream.id, &event.payload) {
                Ok(Some(event)) => {
                    state.evolve(&event);
                    Ok(())
                }
                Ok(None) => Err(format!("version {} is not an event of a {}", event.sequence, kind.name())),
                Err(error) => Err(error.to_string()),
            },
            Self::Purchase(purchase) => {
                let Steps { steps } = serde_json::from_str(&event.payload).map_err(|error| error.to_string())?;
                for step in &steps {
                    purchase.evolve(OrderId::new(event.stream.id), step);
                }
                Ok(())
            }
        }
    }

    fn json(&self) -> Result<Vec<u8>, serde_json::Error> {
        match self {
            Self::Aggregate(_, state) => state.to_json(),
            Self::Purchase(purchase) => serde_json::to_vec(purchase),
        }
    }
}

fn compare(reader: &dyn LogReader, snapshot: &Snapshot, mut fold: Fold) -> Result<Result<(), String>, StoreError> {
    let mut version = 0;
    while version < snapshot.sequence {
        let left = usize::try_from(snapshot.sequence - version).unwrap_or(PAGE);
        let events = match reader.stream(&snapshot.stream, version, left.min(PAGE)) {
            Ok(events) => events,
            Err(StoreError::Corrupt(what)) => return Ok(Err(what)),
            Err(error) => return Err(error),
        };
        if events.is_empty() {
            return Ok(Err(format!("the stream ends at version {version}")));
        }
        for event in &events {
            if let Err(what) = fold.apply(event) {
                return Ok(Err(what));
            }
            version = event.sequence;
        }
    }
    Ok(match fold.json() {
        Ok(json) if *json == *snapshot.state => Ok(()),
        Ok(_) => Err("the states differ".to_owned()),
        Err(error) => Err(error.to_string()),
    })
}

/// Names the shape of a state, as the engine does when it writes a snapshot (`engine/src/core/cascade.rs`).
fn shape(kind: &str, initial: &[u8]) -> Hash {
    const REVISION: u32 = 4;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&REVISION.to_le_bytes()).update(kind.as_bytes()).update(initial);
    *hasher.finalize().as_bytes()
}
