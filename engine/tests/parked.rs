//! What cannot be processed is tried again, then set aside, and stops nothing else; an operator takes it up or drops it.

#[allow(unreachable_pub, reason = "shared with the other tests")]
mod world;

use aggregates::{Kind, OrderStatus, PaymentId};
use engine::{Actor, EngineError, Input, Response, Unpark, Unparking};
use event_store::CommitError;
use uuid::Uuid;
use world::{CARD, Paid, Provider, World, product};

/// A captured payment whose second line's stock cannot be read.
fn sold_in_part() -> (World, aggregates::OrderId) {
    let mut world = World::new();
    let mut provider = Provider::default();
    let order = world.place(1, Paid::Card(Some("sim_ok_1")), &[(0, 1), (1, 1), (2, 1)]);
    for (_, call) in world.settle() {
        provider.answer(&call);
    }
    world.poison(Kind::Inventory, product(1).uuid());
    world.restart();
    for (id, call) in world.settle() {
        world.tell(Input::Outcome(id, provider.answer(&call)));
    }
    world.settle();
    (world, order)
}

#[test]
fn one_stream_that_cannot_be_read_does_not_hold_up_the_provider_s_answer() {
    let (mut world, order) = sold_in_part();
    assert_eq!(world.payment(order).status().name(), "CAPTURED");
    assert_eq!([world.stock(0), world.stock(1), world.stock(2)], [(99, 0), (100, 1), (99, 0)]);
    assert_eq!(world.parked(), [], "it is tried again first");
    world.settle_and_try_again();
    assert_eq!(world.parked().len(), 1);
    assert_eq!(world.order(order).status(), OrderStatus::NeedsAttention);
    let reason = world.order(order).attention().expect("a reason").to_owned();
    assert!(reason.starts_with("a step was set aside, because it cannot be done: "), "{reason}");
    // Nobody else is held up.
    let other = world.place(2, Paid::Balance, &[(0, 1), (2, 1)]);
    world.settle();
    assert_eq!(world.order(other).status(), OrderStatus::Confirmed);
}

#[test]
fn what_works_again_before_the_last_try_needs_nobody() {
    let (mut world, order) = sold_in_part();
    world.repair();
    world.wait(1_000);
    world.settle();
    assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
    assert_eq!((world.parked().len(), world.unfinished()), (0, (0, 0)));
}

#[test]
fn what_is_put_off_survives_a_restart() {
    let (mut world, order) = sold_in_part();
    for millis in [1_000, 10_000, 60_000] {
        world.restart();
        world.wait(millis);
        world.settle();
    }
    assert_eq!(world.parked().len(), 1);
    assert_eq!(world.order(order).status(), OrderStatus::NeedsAttention);
}

#[test]
fn tried_again_by_an_operator_the_order_comes_to_its_end() {
    let (mut world, order) = sold_in_part();
    world.settle_and_try_again();
    let parked = world.set_aside().pop().expect("one input");
    assert_eq!(
        (parked.request, parked.target, parked.order),
        (false, Some((Kind::Inventory, product(1).uuid())), Some(order))
    );
    let refused = world.unpark(parked.id, Unparking::Retried).expect_err("it is as it was");
    assert_eq!(refused.code, "parked-again");
    assert_eq!(world.parked().len(), 1);
    world.repair();
    world.unpark(parked.id, Unparking::Retried).expect("done");
    assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
    assert_eq!(world.stock(1), (99, 0));
    assert_eq!(world.set_aside(), []);
    world.verify_chain();
}

/// As [`sold_in_part`], and what could not be read is set aside and can be read again.
fn to_be_decided() -> (World, aggregates::OrderId, Uuid) {
    let (mut world, order) = sold_in_part();
    world.settle_and_try_again();
    let id = world.set_aside().pop().expect("one input").id;
    world.repair();
    (world, order, id)
}

/// An operator's decision comes in, under a ticket of its own.
fn decided(world: &mut World, ticket: u64, id: Uuid, how: Unparking, by: Actor) {
    world.tell(Input::Unpark(ticket, Unpark { id, how, by }));
}

fn told(world: &World, ticket: u64) -> Option<Result<(), String>> {
    match world.answer(ticket)? {
        Ok(Response::Unparked(done)) => Some(done.clone().map_err(|refusal| format!("{}: {}", refusal.code, refusal.detail))),
        other => panic!("no answer to an operator: {other:?}"),
    }
}

const OPERATOR: Actor = Actor::System;

#[test]
fn a_decision_whose_answer_was_lost_is_answered_again() {
    for how in [Unparking::Retried, Unparking::Dropped] {
        let (mut world, order, id) = to_be_decided();
        world.unpark(id, how).expect("done");
        let (recorded, status) = (world.log().len(), world.order(order).status());
        world.wait(1_000);
        world.unpark(id, how).expect("it is done");
        world.restart();
        world.unpark(id, how).expect("it is done");
        assert_eq!((world.log().len(), world.order(order).status()), (recorded, status));
        assert_eq!(world.set_aside(), []);
        world.verify_chain();
    }
}

#[test]
fn a_decision_that_is_durable_when_the_core_ends_is_answered_by_the_next() {
    let (mut world, order, id) = to_be_decided();
    decided(&mut world, 9_001, id, Unparking::Retried, OPERATOR);
    let batch = world.step().batch().expect("a batch");
    world.write_and_crash(&batch);
    assert_eq!(told(&world, 9_001), None, "the answer is lost");
    world.unpark(id, Unparking::Retried).expect("it is done");
    world.settle();
    assert_eq!((world.order(order).status(), world.stock(1)), (OrderStatus::Confirmed, (99, 0)));
}

#[test]
fn what_ended_otherwise_says_how_and_when_and_by_whom() {
    let (mut world, _, id) = to_be_decided();
    let somebody = Actor::Account(world::buyer());
    decided(&mut world, 9_001, id, Unparking::Dropped, somebody);
    world.settle();
    assert_eq!(told(&world, 9_001), Some(Ok(())));
    let recorded = world.log().len();
    world.wait(60_000);
    let of_now = [
        (9_002, Unparking::Retried, somebody),
        (9_003, Unparking::Dropped, OPERATOR),
        (9_004, Unparking::Retried, OPERATOR),
    ];
    for (ticket, how, by) in of_now {
        decided(&mut world, ticket, id, how, by);
        world.settle();
        let refused = format!("parked-ended: it was dropped at 2026-11-20T00:01:11Z by {somebody}");
        assert_eq!(told(&world, ticket), Some(Err(refused)));
    }
    decided(&mut world, 9_005, id, Unparking::Dropped, somebody);
    world.settle();
    assert_eq!(told(&world, 9_005), Some(Ok(())));
    assert_eq!(world.log().len(), recorded);
}

#[test]
fn decisions_of_one_turn_are_answered_one_after_the_other_once_the_first_is_durable() {
    let (mut world, order, id) = to_be_decided();
    decided(&mut world, 9_001, id, Unparking::Retried, OPERATOR);
    decided(&mut world, 9_002, id, Unparking::Retried, OPERATOR);
    decided(&mut world, 9_003, id, Unparking::Dropped, OPERATOR);
    let step = world.step();
    let batch = step.batch().expect("a batch");
    assert_eq!((batch.unparked.len(), step.answers().count()), (1, 0), "nothing is durable yet");
    let recorded = world.log().len() + batch.events.len();
    let mut then = world.commit(&batch);
    assert_eq!([told(&world, 9_001), told(&world, 9_002)], [Some(Ok(())), Some(Ok(()))]);
    let refused = told(&world, 9_003).expect("an answer").expect_err("it is over");
    assert!(refused.starts_with("parked-ended: it was processed at "), "{refused}");
    assert_eq!(world.log().len(), recorded);
    while let Some(what_follows) = then.batch() {
        then = world.commit(&what_follows);
    }
    assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
}

#[test]
fn a_decision_that_was_not_written_does_not_stand_for_the_one_behind_it() {
    let (mut world, order, id) = to_be_decided();
    decided(&mut world, 9_001, id, Unparking::Retried, OPERATOR);
    decided(&mut world, 9_002, id, Unparking::Dropped, OPERATOR);
    world.step().batch().expect("a batch");
    world.tell(Input::Committed(Err(CommitError::NotWritten("the disk is full".into()))));
    world.settle();
    assert!(matches!(world.answer(9_001), Some(Err(EngineError::Unavailable(_)))));
    assert_eq!(told(&world, 9_002), Some(Ok(())));
    assert_eq!(
        (world.order(order).status(), world.stock(1)),
        (OrderStatus::NeedsAttention, (100, 1))
    );
}

#[test]
fn dropped_it_is_over_and_its_order_still_waits_for_a_person() {
    let (mut world, order) = sold_in_part();
    world.settle_and_try_again();
    let parked = world.set_aside().pop().expect("one input");
    world.unpark(parked.id, Unparking::Dropped).expect("done");
    assert_eq!(world.set_aside(), []);
    assert_eq!(world.order(order).status(), OrderStatus::NeedsAttention);
    world.repair();
    world.resume(order);
    world.settle();
    assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
}

#[test]
fn a_request_is_sent_again_by_its_sender_and_by_nobody_else() {
    let mut world = World::new();
    world.poison(Kind::Wallet, world::buyer().uuid());
    world.restart();
    world.place(1, Paid::Balance, &[(0, 1)]);
    world.settle();
    let parked = world.set_aside().pop().expect("one input");
    assert!(parked.request);
    world.repair();
    let refused = world
        .unpark(parked.id, Unparking::Retried)
        .expect_err("its sender may have sent it again");
    assert_eq!(refused.code, "parked-request");
    let order = world.place(1, Paid::Balance, &[(0, 1)]);
    world.settle();
    assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
    world.unpark(parked.id, Unparking::Dropped).expect("done");
    assert_eq!(world.set_aside(), []);
}

#[test]
fn nothing_is_known_of_what_was_never_set_aside() {
    let mut world = World::new();
    let refused = world.unpark(Uuid::from_u128(1), Unparking::Retried).expect_err("unknown");
    assert_eq!(refused.code, "unknown-parked");
}

#[test]
fn an_operator_s_decision_is_committed_alone_while_orders_come_in() {
    let (mut world, order) = sold_in_part();
    world.settle_and_try_again();
    let parked = world.set_aside().pop().expect("one input");
    world.repair();
    for number in 2..=5 {
        world.place(number, Paid::Balance, &[(0, 1)]);
    }
    world.unpark(parked.id, Unparking::Retried).expect("done");
    assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
    for number in 2..=5 {
        assert_eq!(world.order(world::key(number)).status(), OrderStatus::Confirmed);
    }
    assert_eq!(world.payment(order).status().name(), "CAPTURED");
    assert_eq!(PaymentId::for_order(order).order(), order);
}

#[test]
fn a_request_counts_although_what_follows_from_it_cannot_be_done() {
    let mut world = World::new();
    let order = world.place(1, CARD, &[(0, 1), (1, 1)]);
    world.settle();
    world.poison(Kind::Inventory, product(1).uuid());
    world.restart();
    world.cancel(order);
    world.settle();
    assert_eq!(world.replies().len(), 2, "{:?}", world.answers());
    assert_eq!(world.order(order).status(), OrderStatus::Cancelled);
    assert_eq!((world.stock(0), world.stock(1)), ((100, 0), (100, 1)));
    world.settle_and_try_again();
    assert_eq!(world.order(order).status(), OrderStatus::NeedsAttention);
    world.repair();
    let parked = world.set_aside().pop().expect("the release");
    world.unpark(parked.id, Unparking::Retried).expect("done");
    assert_eq!((world.order(order).status(), world.stock(1)), (OrderStatus::Cancelled, (100, 0)));
}

#[test]
fn an_order_whose_goods_cannot_be_looked_up_does_not_begin() {
    let mut world = World::new();
    world.poison(Kind::Inventory, product(1).uuid());
    world.restart();
    let order = world.place(1, CARD, &[(0, 1), (1, 1)]);
    world.settle();
    assert!(world.state(Kind::Order, order.uuid()).is_none());
    assert_eq!(world.stock(0), (100, 0));
}

#[test]
fn of_what_the_store_refuses_everything_else_is_written() {
    let mut world = World::new();
    let mut provider = Provider::default();
    let order = world.place(1, Paid::Card(Some("sim_ok_1")), &[(0, 1), (1, 1), (2, 1)]);
    let calls = world.settle();
    world.refuse_batches_with(product(1).uuid());
    for (id, call) in calls {
        world.tell(Input::Outcome(id, provider.answer(&call)));
    }
    world.settle_and_try_again();
    assert_eq!(world.payment(order).status().name(), "CAPTURED");
    assert_eq!([world.stock(0), world.stock(1), world.stock(2)], [(99, 0), (100, 1), (99, 0)]);
    assert_eq!(world.order(order).status(), OrderStatus::NeedsAttention);
    let parked = world.set_aside().pop().expect("the sale");
    world.repair();
    world.unpark(parked.id, Unparking::Retried).expect("done");
    assert_eq!((world.order(order).status(), world.stock(1)), (OrderStatus::Confirmed, (99, 0)));
}

#[test]
fn what_is_dropped_without_a_word_to_its_order_still_waits_for_a_person() {
    let (mut world, order) = sold_in_part();
    // The order can be told nothing either.
    world.refuse_batches_with(order.uuid());
    world.settle_and_try_again();
    let parked = world.set_aside();
    world.repair();
    for input in parked {
        world.unpark(input.id, Unparking::Dropped).expect("dropped");
    }
    assert_eq!(world.order(order).status(), OrderStatus::NeedsAttention);
    world.resume(order);
    world.settle();
    assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
}
