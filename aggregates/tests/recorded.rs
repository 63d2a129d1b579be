//! Every event that was ever recorded loads for ever, and is written again as it was.

use std::collections::BTreeSet;

use aggregates::{
    AccountEvent, CommerceEvent, EmailEvent, InventoryEvent, Kind, Obstacle, OrderEvent, PaymentEvent, ProductEvent, SessionEvent,
    WalletEvent,
};
use serde_json::Value;
use uuid::Uuid;

macro_rules! recorded {
    ($($name:literal),+ $(,)?) => { &[$(($name, include_str!(concat!("recorded/", $name, ".json")))),+] };
}

/// One file for each stored name; a new shape of an event is another file.
const RECORDED: &[(&str, &str)] = recorded![
    "product.created",
    "product.changed",
    "product.retired",
    "inventory.opened",
    "inventory.received",
    "inventory.adjusted",
    "inventory.reserved",
    "inventory.out_of_stock",
    "inventory.price_changed",
    "inventory.not_offered",
    "inventory.held",
    "inventory.not_held",
    "inventory.not_committed",
    "inventory.committed",
    "inventory.released",
    "inventory.expired",
    "inventory.release_noted",
    "inventory.reservation_refused",
    "order.placed",
    "order.repriced",
    "order.awaiting_payment",
    "order.payment_submitted",
    "order.payment_expired",
    "order.confirmed",
    "order.cancellation_requested",
    "order.cancelled",
    "order.attention_needed",
    "order.attention_ended",
    "order.resumed",
    "order.compensation_requested",
    "order.resolved",
    "payment.prepared",
    "payment.requested",
    "payment.outcome_unknown",
    "payment.status_asked",
    "payment.not_charged",
    "payment.captured",
    "payment.declined",
    "payment.expired",
    "payment.cancelled",
    "payment.reversal_requested",
    "payment.reversal_unknown",
    "payment.reversed",
    "payment.reversal_refused",
    "payment.contradicted",
    "payment.resolved",
    "wallet.opened",
    "wallet.deposited",
    "wallet.debited",
    "wallet.debit_refused",
    "wallet.credited",
    "account.opened",
    "email.claimed",
    "session.started",
    "session.refreshed",
    "session.revoked",
    "session.ended",
];

fn kind(name: &str) -> &str {
    name.split_once('.').expect("a stored name is the aggregate's and the event's").0
}

fn decode(name: &str, text: &str) -> CommerceEvent {
    let event = CommerceEvent::decode(kind(name), Uuid::from_u128(1), text).unwrap_or_else(|error| panic!("{name}: {error}"));
    event.unwrap_or_else(|| panic!("{name}: of no aggregate"))
}

fn json(name: &str, text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn every_recorded_event_loads_and_is_written_again_as_it_was() {
    for (name, text) in RECORDED {
        let payload = decode(name, text).payload().expect("an event is JSON");
        assert_eq!(json(name, &payload), json(name, text), "{name}");
    }
}

#[test]
fn the_name_in_the_payload_is_the_one_it_is_recorded_under() {
    for (name, text) in RECORDED {
        assert_eq!(decode(name, text).stored_name(), *name);
        assert_eq!(json(name, text)["type"], *name);
    }
}

#[test]
fn there_is_a_recorded_file_for_every_event_there_is() {
    let names = [
        ProductEvent::STORED_NAMES,
        InventoryEvent::STORED_NAMES,
        OrderEvent::STORED_NAMES,
        PaymentEvent::STORED_NAMES,
        WalletEvent::STORED_NAMES,
        AccountEvent::STORED_NAMES,
        EmailEvent::STORED_NAMES,
        SessionEvent::STORED_NAMES,
    ];
    assert_eq!(names.len(), Kind::ALL.len());
    let names: BTreeSet<_> = names.concat().into_iter().collect();
    let files: BTreeSet<_> = RECORDED.iter().map(|(name, _)| *name).collect();
    assert_eq!(files, names);
    assert_eq!(files.len(), RECORDED.len());
}

#[test]
fn an_event_of_no_aggregate_is_none_of_ours_and_a_shape_that_is_unknown_says_so() {
    assert!(
        CommerceEvent::decode("purchase", Uuid::nil(), "{}")
            .expect("not read at all")
            .is_none()
    );
    let error = CommerceEvent::decode("order", Uuid::nil(), r#"{"type":"order.eaten"}"#).expect_err("there is no such event");
    assert!(
        error
            .to_string()
            .starts_with("an event of order-00000000-0000-0000-0000-000000000000 cannot be read"),
        "{error}"
    );
}

#[test]
fn the_shapes_of_the_first_versions_still_load() {
    let first = r#"{"type":"order.attention_needed","reason":"the provider took 10000 KRW where 1000 KRW was asked for"}"#;
    let CommerceEvent::Order(_, OrderEvent::AttentionNeeded { cause, .. }) = decode("order.attention_needed", first) else {
        panic!("another event");
    };
    assert_eq!(cause, Obstacle::Provider);
}
