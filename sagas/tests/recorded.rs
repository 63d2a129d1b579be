//! What a purchase recorded loads for ever, and is written again as it was.

use std::collections::BTreeSet;

use aggregates::OrderId;
use sagas::{Purchase, PurchaseEvent, Step};
use serde_json::Value;

const ADVANCED: &str = include_str!("recorded/purchase.advanced.json");

fn advanced() -> PurchaseEvent {
    serde_json::from_str(ADVANCED).expect("a purchase's event")
}

/// A step that is added here needs its place in the recorded file.
fn number(step: &Step) -> usize {
    match step {
        Step::Placed(_) => 0,
        Step::Reserved { .. } => 1,
        Step::Refused { .. } => 2,
        Step::Prepared => 3,
        Step::Submitted { .. } => 4,
        Step::Held { .. } => 5,
        Step::Expired { .. } => 6,
        Step::Released { .. } => 7,
        Step::Requested { .. } => 8,
        Step::Unknown { .. } => 9,
        Step::StatusAsked { .. } => 10,
        Step::NotCharged { .. } => 11,
        Step::Debited => 12,
        Step::DebitRefused => 13,
        Step::Captured => 14,
        Step::Declined => 15,
        Step::Committed { .. } => 16,
        Step::DeadlinePassed => 17,
        Step::CancellationRequested { .. } => 18,
        Step::ReversalRequested { .. } => 19,
        Step::Credited => 20,
        Step::ReversalUnknown { .. } => 21,
        Step::Reversed => 22,
        Step::Contradicted { .. } => 23,
        Step::Ended => 24,
    }
}

#[test]
fn a_recorded_purchase_loads_and_is_written_again_as_it_was() {
    let recorded: Value = serde_json::from_str(ADVANCED).expect("JSON");
    assert_eq!(serde_json::to_value(advanced()).expect("JSON"), recorded);
    assert_eq!(recorded["type"], PurchaseEvent::STORED_NAME);
}

#[test]
fn every_step_there_is_was_recorded() {
    let PurchaseEvent::Advanced { seen, steps } = advanced();
    assert_eq!(steps.iter().map(number).collect::<BTreeSet<_>>(), (0..25).collect());
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
