//! What a purchase recorded loads for ever, and is written again as it was.

use std::collections::BTreeSet;

use aggregates::OrderId;
use sagas::{Purchase, PurchaseEvent, Step};
use serde_json::Value;

const ADVANCED: &str = include_str!("recorded/purchase.advanced.json");

fn advanced() -> PurchaseEvent {
    serde_json::from_str(ADVANCED).expect("a purchase's event")
}

/// Lists the steps. One that is added does not compile until it is listed, and then the test fails until it is recorded.
macro_rules! steps {
    ($($name:ident),+ $(,)?) => {
        const STEPS: &[&str] = &[$(stringify!($name)),+];

        fn name(step: &Step) -> &'static str {
            match step { $(Step::$name { .. } => stringify!($name)),+ }
        }
    };
}

steps![
    Placed,
    Reserved,
    Refused,
    Prepared,
    Awaiting,
    Submitted,
    Held,
    Expired,
    Released,
    Requested,
    Unknown,
    StatusAsked,
    NotCharged,
    Debited,
    DebitRefused,
    Captured,
    Declined,
    Committed,
    DeadlinePassed,
    CancellationRequested,
    ReversalRequested,
    Credited,
    ReversalUnknown,
    Reversed,
    Contradicted,
    ReversalRefused,
    Resumed,
    CompensationRequested,
    Resolved,
    Refunded,
    Stuck,
    Repriced,
    NotCommitted,
    Unstuck,
    Ended,
];

#[test]
fn a_recorded_purchase_loads_and_is_written_again_as_it_was() {
    let recorded: Value = serde_json::from_str(ADVANCED).expect("JSON");
    assert_eq!(serde_json::to_value(advanced()).expect("JSON"), recorded);
    assert_eq!(recorded["type"], PurchaseEvent::STORED_NAME);
}

#[test]
fn every_step_there_is_was_recorded() {
    let PurchaseEvent::Advanced { seen, steps } = advanced();
    assert_eq!(steps.iter().map(name).collect::<BTreeSet<_>>(), STEPS.iter().copied().collect());
    assert_eq!(seen.len(), steps.len());
}

#[test]
fn a_purchase_s_memory_survives_a_snapshot() {
    let PurchaseEvent::Advanced { steps, .. } = advanced();
    let mut purchase = Purchase::default();
    for step in &steps {
        purchase.evolve(OrderId::default(), step);
        let json = serde_json::to_string(&purchase).expect("JSON");
        let mut loaded: Purchase = serde_json::from_str(&json).expect("a memory");
        let mut kept = purchase.clone();
        loaded.evolve(OrderId::default(), &Step::Debited);
        kept.evolve(OrderId::default(), &Step::Debited);
        assert_eq!(loaded, kept, "after {step:?}");
    }
    assert!(purchase.ended());
}

#[test]
fn the_shapes_of_the_first_versions_still_load() {
    let first = r#"{"type":"purchase.advanced","seen":[1,2],"steps":[{"unknown":{"questions":1}},{"reversalUnknown":{"attempts":2}}]}"#;
    let PurchaseEvent::Advanced { steps, .. } = serde_json::from_str(first).expect("a purchase's event");
    assert!(matches!(
        steps[..],
        [
            Step::Unknown { questions: 1, at: None },
            Step::ReversalUnknown { attempts: 2, at: None }
        ]
    ));
}
