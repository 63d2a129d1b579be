//! What goes wrong beside something else that goes wrong: nothing is lost, and nothing is tried for ever.

#[allow(unreachable_pub, reason = "shared with the other tests")]
mod world;

use aggregates::{Kind, OrderStatus, PaymentId};
use engine::{EngineError, Input};
use event_store::CommitError;
use world::{BALANCE, CARD, Paid, Provider, World, buyer, product};

fn not_written() -> Input<u64> {
    Input::Committed(Err(CommitError::NotWritten("disk full".into())))
}

#[test]
fn a_call_whose_answer_was_lost_is_taken_up_without_waiting_for_a_request() {
    let mut world = World::new();
    world.place(1, Paid::Card(Some("sim_ok_1")), &[(0, 1)]);
    world.settle();
    world.restart();
    assert!(world.wakes_now());
}

#[test]
fn an_input_that_leaves_nothing_to_write_does_not_hide_the_culprit() {
    let mut world = World::new();
    // Refused without a record, and tried out: neither has a row in the batch.
    world.cancel(world::key(99));
    world.place_dry(98, Paid::Balance, &[(0, 1)]);
    let bad = world.place(3, Paid::Balance, &[(0, 1)]);
    let good = world.place(4, Paid::Balance, &[(0, 1)]);
    world.refuse_batches_with(bad.uuid());
    world.settle();
    assert_eq!(world.order(good).status(), OrderStatus::Confirmed);
    assert_eq!(world.parked().len(), 1);
    assert_eq!(world.answers().len(), 4);
    assert_eq!(world.replies().len(), 3);
}

#[test]
fn of_timers_that_are_due_together_the_culprit_alone_is_set_aside() {
    let mut world = World::new();
    let good = world.place(1, CARD, &[(0, 1)]);
    let bad = world.place(2, CARD, &[(0, 1)]);
    world.settle();
    world.refuse_batches_with(bad.uuid());
    world.wait(601_000);
    world.settle_and_try_again();
    assert_eq!(world.order(good).status(), OrderStatus::Cancelled);
    assert_eq!(world.order(bad).status(), OrderStatus::AwaitingPayment);
    assert_eq!(world.parked().len(), 1);
}

#[test]
fn of_the_rest_of_a_cascade_the_culprit_alone_is_set_aside() {
    let mut world = World::with_cascade(1);
    let mut provider = Provider::default();
    world.place(1, Paid::Card(Some("sim_ok_1")), &[(0, 1), (1, 1), (2, 1)]);
    for (_, call) in world.settle() {
        provider.answer(&call);
    }
    world.poison(Kind::Inventory, product(1).uuid());
    world.restart();
    for (id, call) in world.settle() {
        world.tell(Input::Outcome(id, provider.answer(&call)));
    }
    world.settle_and_try_again();
    assert_eq!([world.stock(0), world.stock(1), world.stock(2)], [(99, 0), (100, 1), (99, 0)]);
    assert_eq!(world.parked().len(), 1);
    assert_eq!(world.unfinished().0, 0);
}

#[test]
fn inputs_that_are_set_aside_one_after_another_are_all_kept() {
    let mut world = World::new();
    world.poison(Kind::Wallet, buyer().uuid());
    world.restart();
    for number in 1..=3 {
        world.place(number, Paid::Balance, &[(0, 1)]);
        world.settle();
    }
    assert_eq!(world.parked().len(), 3);
    assert!(world.answers().iter().all(|answer| matches!(answer, Err(EngineError::Parked(_)))));
}

#[test]
fn an_answer_that_is_set_aside_is_set_aside_again_after_a_failed_commit() {
    let mut world = World::new();
    let order = world.place(1, Paid::Card(Some("sim_ok_1")), &[(0, 1)]);
    world.settle();
    world.poison(Kind::Payment, PaymentId::for_order(order).uuid());
    world.restart();
    let batch = world.step().batch().expect("a batch");
    assert_eq!((batch.parked.len(), batch.timers.len(), batch.settled.len()), (0, 1, 1), "put off");
    world.step_with(vec![not_written()]);
    assert!(world.idle(), "what waits for a better moment may be ended: it is owed");
    world.wait(1_000);
    world.settle_and_try_again();
    assert_eq!(world.parked().len(), 1);
    assert_eq!(world.unfinished(), (0, 0));
}

#[test]
fn a_log_that_can_neither_be_written_nor_read_for_a_moment_stops_nothing() {
    let mut world = World::new();
    let order = world.place(1, Paid::Card(Some("sim_ok_1")), &[(0, 1)]);
    let (id, call) = world.settle().first().cloned().expect("a call");
    let mut provider = Provider::default();
    world.tell(Input::Outcome(id, provider.answer(&call)));
    world.step().batch().expect("a batch");
    world.badness.unreadable(true);
    assert!(world.step_with(vec![not_written()]).stopped().is_none());
    for _ in 0..3 {
        let turned_away = world.place(2, Paid::Balance, &[(0, 1)]);
        let outputs = world.step();
        assert!(outputs.batch().is_none());
        assert!(matches!(outputs.answers().next(), Some(Err(EngineError::Unavailable(_)))));
        assert!(!world.wakes_now());
        assert!(world.state(Kind::Order, turned_away.uuid()).is_none());
        world.wait(1_000);
    }
    world.badness.unreadable(false);
    world.place(2, Paid::Balance, &[(0, 1)]);
    world.settle();
    assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
    assert_eq!(world.balance(), BALANCE - 5_000);
    world.verify_chain();
}

#[test]
fn while_a_batch_is_being_written_the_core_sleeps_although_its_pause_is_over() {
    let mut world = World::new();
    let order = world.place(1, Paid::Card(Some("sim_ok_1")), &[(0, 1)]);
    let (id, call) = world.settle().first().cloned().expect("a call");
    let outcome = Input::Outcome(id, Provider::default().answer(&call));
    let bad = world.place(2, Paid::Balance, &[(1, 1)]);
    world.place(3, Paid::Balance, &[(1, 1)]);
    world.place(4, Paid::Balance, &[(1, 1)]);
    world.refuse_batches_with(bad.uuid());
    let refused = world.step().batch().expect("a batch");
    // From here each input is committed alone, and the second is under way when the answer comes.
    world.commit(&refused).batch().expect("the first alone");
    let second = world.step_with(vec![outcome, not_written()]).batch().expect("the second alone");
    world.wait(1_000);
    world.step();
    assert!(!world.wakes_now());
    world.commit_and_keep(&second);
    world.settle();
    assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
}

#[test]
fn a_writer_that_is_taken_over_stops_also_when_it_has_nothing_to_write() {
    let mut world = World::new();
    let waiting = world.watch(Kind::Wallet, world::key(1).uuid(), |_| true);
    world.step();
    let outputs = world.step_with(vec![Input::Committed(Err(CommitError::Fenced(0)))]);
    assert!(outputs.stopped().is_some());
    assert!(matches!(world.answer(waiting), Some(Err(EngineError::Stopping))));
}
