//! Recorded events: a text is an event and comes back as it was, or it is refused; and no event breaks a state.
#![no_main]

use aggregates::{CommerceEvent, Kind, OrderId, State};
use libfuzzer_sys::fuzz_target;
use sagas::{Purchase, PurchaseEvent};
use uuid::Uuid;

fuzz_target!(|payload: &str| {
    for kind in Kind::ALL {
        if let Ok(Some(event)) = CommerceEvent::decode(kind.name(), Uuid::from_u128(1), payload) {
            written_again(*kind, &event);
            changes(*kind, &event);
        }
    }
    if let Ok(event) = serde_json::from_str::<PurchaseEvent>(payload) {
        remembered(&event);
    }
});

fn written_again(kind: Kind, event: &CommerceEvent) {
    let payload = event.payload().expect("an event is JSON");
    let again = CommerceEvent::decode(kind.name(), Uuid::from_u128(1), &payload);
    let again = again.expect("our own text").expect("of an aggregate");
    assert_eq!(again, *event);
    assert!(event.stored_name().starts_with(kind.name()));
}

/// An aggregate that nothing has happened to meets the event twice: neither time is one that it expects.
fn changes(kind: Kind, event: &CommerceEvent) {
    let mut state = kind.initial();
    for _ in 0..2 {
        state.evolve(event);
        let json = state.to_json().expect("a state is JSON");
        assert_eq!(State::from_json(kind, &json).expect("our own snapshot"), state);
    }
}

fn remembered(event: &PurchaseEvent) {
    let text = serde_json::to_string(event).expect("an event is JSON");
    assert_eq!(serde_json::from_str::<PurchaseEvent>(&text).expect("our own text"), *event);
    let PurchaseEvent::Advanced { steps, .. } = event;
    let mut purchase = Purchase::default();
    for step in steps {
        purchase.evolve(OrderId::default(), step);
    }
    let json = serde_json::to_string(&purchase).expect("a memory is JSON");
    assert_eq!(serde_json::from_str::<Purchase>(&json).expect("our own snapshot"), purchase);
}
