//! What cannot be processed is tried again, then set aside, and stops nothing else; an operator takes it up or drops it.

#[allow(unreachable_pub, reason = "shared with the other tests")]
mod world;

use aggregates::{Kind, OrderStatus, PaymentId};
use engine::{Input, Unparking};
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
    for how in [Unparking::Retried, Unparking::Dropped] {
        let refused = world.unpark(parked.id, how).expect_err("it is over");
        assert_eq!(refused.code, "unknown-parked");
    }
    world.verify_chain();
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
