//! The core without its shell: every step by hand, on a store in memory that fails when it is told to.

mod world;

use aggregates::{FailureCode, Kind, OrderStatus, PaymentStatus, State};
use engine::{EngineError, Input, Outcome};
use event_store::CommitError;
use payment_gateway::{CancellationOutcome, ChargeOutcome, StatusOutcome};
use sagas::ProviderCall;
use world::{BALANCE, CARD, Paid, World, key};

fn charged(call: &ProviderCall) -> Outcome {
    let ProviderCall::Charge { amount, .. } = call else {
        panic!("a charge was expected, not {call:?}")
    };
    Outcome::Charge(ChargeOutcome::Charged { amount: amount.minor() })
}

#[test]
fn a_purchase_from_the_balance_is_one_batch_and_nothing_leaves_before_it_is_durable() {
    let mut world = World::new();
    let order = world.place(1, Paid::Balance, &[(0, 3)]);
    let outputs = world.step();
    assert_eq!(outputs.answers().count(), 0, "an answer left before its cause was durable");
    let batch = outputs.batch().expect("a batch is given out");
    let types: Vec<_> = batch.events.iter().map(|event| event.event_type.as_ref()).collect();
    let expected = [
        "order.placed",
        "inventory.reserved",
        "payment.prepared",
        "wallet.debited",
        "payment.captured",
        "inventory.committed",
        "order.confirmed",
        "purchase.advanced",
    ];
    assert_eq!(types, expected);
    let outputs = world.commit(&batch);
    assert_eq!(outputs.answers().count(), 1);
    assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
    assert_eq!(world.balance(), BALANCE - 15_000);
    assert_eq!(world.stock(0), (97, 0));
}

#[test]
fn a_card_purchase_asks_the_provider_only_after_the_first_batch_and_is_confirmed_with_the_second() {
    let mut world = World::new();
    let order = world.place(1, Paid::Card(Some("sim_ok_1")), &[(0, 1)]);
    let outputs = world.step();
    assert_eq!(outputs.calls().count(), 0, "the provider was asked before that was durable");
    let outputs = world.commit(&outputs.batch().expect("a batch"));
    let (id, call) = outputs.calls().next().cloned().expect("the provider is asked now");
    assert_eq!(world.order(order).status(), OrderStatus::PaymentPending);
    world.tell(Input::Outcome(id, charged(&call)));
    world.settle();
    assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
    assert_eq!(world.payment(order).status(), PaymentStatus::Captured);
    assert_eq!(world.stock(0), (99, 0));
}

#[test]
fn a_batch_that_was_not_written_leaves_no_trace_and_its_requests_may_come_again() {
    let mut world = World::new();
    let order = world.place(1, Paid::Balance, &[(0, 1)]);
    let head = world.head();
    world.step().batch().expect("a batch");
    let later = world.place(2, Paid::Balance, &[(0, 1)]);
    assert!(world.step().batch().is_none(), "one batch at a time");
    let outputs = world.step_with(vec![Input::Committed(Err(CommitError::NotWritten("disk full".into())))]);
    let answers: Vec<_> = outputs.answers().collect();
    assert_eq!(answers.len(), 2);
    assert!(
        answers.iter().all(|answer| matches!(answer, Err(EngineError::Unavailable(_)))),
        "{answers:?}"
    );
    assert_eq!(world.head(), head);
    assert!(world.state(Kind::Order, order.uuid()).is_none());
    assert_eq!(world.balance(), BALANCE);

    // The same requests under the same keys, once the disk has room again.
    world.place(1, Paid::Balance, &[(0, 1)]);
    world.place(2, Paid::Balance, &[(0, 1)]);
    world.settle();
    assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
    assert_eq!(world.order(later).status(), OrderStatus::Confirmed);
    assert_eq!(world.balance(), BALANCE - 10_000);
}

#[test]
fn an_answer_of_the_provider_outlives_the_batch_that_failed_with_it() {
    let mut world = World::new();
    let order = world.place(1, Paid::Card(Some("sim_ok_1")), &[(0, 1)]);
    let (id, call) = world.settle().first().cloned().expect("a call");
    world.tell(Input::Outcome(id, charged(&call)));
    world.step().batch().expect("a batch");
    world.step_with(vec![Input::Committed(Err(CommitError::NotWritten("disk full".into())))]);
    assert_eq!(world.order(order).status(), OrderStatus::PaymentPending);
    world.wait(1_000);
    world.settle();
    assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
}

#[test]
fn the_culprit_of_a_refused_batch_is_set_aside_and_all_others_get_through() {
    let mut world = World::new();
    let mut good = vec![world.place(1, Paid::Balance, &[(0, 1)]), world.place(2, Paid::Balance, &[(0, 1)])];
    let bad = world.place(3, Paid::Balance, &[(0, 1)]);
    good.push(world.place(4, Paid::Balance, &[(1, 1)]));
    world.refuse_batches_with(bad.uuid());
    world.settle();
    for order in good {
        assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
    }
    assert!(world.state(Kind::Order, bad.uuid()).is_none());
    assert_eq!(
        world
            .answers()
            .iter()
            .filter(|answer| matches!(answer, Err(EngineError::Parked(_))))
            .count(),
        1
    );
    assert_eq!(world.parked().len(), 1);
    assert_eq!(world.stock(0), (98, 0));
    // It is over: many fit into one batch again.
    for number in 10..20 {
        world.place(number, Paid::Balance, &[(0, 1)]);
    }
    let batch = world.step().batch().expect("a batch");
    assert_eq!(batch.records.len(), 10);
}

#[test]
fn a_fenced_writer_stops_and_answers_nobody_with_what_it_could_not_write() {
    let mut world = World::new();
    world.place(1, Paid::Balance, &[(0, 1)]);
    let batch = world.step().batch().expect("a batch");
    world.take_over();
    let outputs = world.commit(&batch);
    assert!(outputs.stopped().is_some());
    assert_eq!(outputs.answers().count(), 1);
    assert!(outputs.answers().all(|answer| matches!(answer, Err(EngineError::Stopping))));
    world.place(2, Paid::Balance, &[(0, 1)]);
    assert!(world.step().batch().is_none());
}

#[test]
fn an_fsync_error_stops_the_engine() {
    let mut world = World::new();
    world.place(1, Paid::Balance, &[(0, 1)]);
    world.step().batch().expect("a batch");
    let outputs = world.step_with(vec![Input::Committed(Err(CommitError::Disk("I/O error".into())))]);
    assert!(outputs.stopped().expect("it stops").contains("I/O error"));
}

#[test]
fn the_same_key_places_one_order_and_every_repeat_gets_the_same_answer() {
    let mut world = World::new();
    let order = world.place(1, Paid::Balance, &[(0, 1)]);
    world.place(1, Paid::Balance, &[(0, 1)]);
    let batch = world.step().batch().expect("a batch");
    world.place(1, Paid::Balance, &[(0, 1)]);
    world.step();
    world.commit(&batch);
    world.settle();
    world.restart();
    world.place(1, Paid::Balance, &[(0, 1)]);
    world.settle();
    let replies = world.replies();
    assert_eq!(
        replies.iter().map(|reply| reply.replayed).collect::<Vec<_>>(),
        [false, true, true, true]
    );
    let first = replies[0].answer.clone();
    assert!(replies.iter().all(|reply| reply.answer == first));
    assert!(
        String::from_utf8_lossy(first.result.as_ref().expect("placed")).contains("PLACED"),
        "the answer is the command's own"
    );
    assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
    assert_eq!(world.balance(), BALANCE - 5_000);
}

#[test]
fn a_key_that_comes_with_another_body_is_refused() {
    let mut world = World::new();
    world.place(1, Paid::Balance, &[(0, 1)]);
    world.settle();
    world.place_with_body(1, [9; 16], Paid::Balance, &[(0, 2)]);
    world.settle();
    assert!(matches!(world.answers().last(), Some(Err(EngineError::KeyReused))));
    assert_eq!(world.stock(0), (99, 0));
}

#[test]
fn a_refusal_is_recorded_like_any_answer() {
    let mut world = World::new();
    world.place(1, Paid::Balance, &[(7, 1)]);
    world.settle();
    world.restart();
    world.place(1, Paid::Balance, &[(7, 1)]);
    world.settle();
    let replies = world.replies();
    let refusals: Vec<_> = replies
        .iter()
        .map(|reply| reply.answer.result.clone().expect_err("refused"))
        .collect();
    assert_eq!(refusals.len(), 2);
    assert_eq!(refusals[0], refusals[1]);
    assert_eq!(refusals[0].code, "unknown-product");
    assert!(replies[1].replayed);
}

#[test]
fn after_a_crash_between_question_and_answer_the_status_is_asked_and_the_charge_is_not_repeated_blindly() {
    let mut world = World::new();
    let order = world.place(1, Paid::Card(Some("sim_ok_1")), &[(0, 1)]);
    let calls = world.settle();
    assert!(matches!(calls[0].1, ProviderCall::Charge { .. }));
    world.restart();
    let calls = world.settle();
    assert_eq!(calls.len(), 1);
    let (id, call) = calls[0].clone();
    assert!(matches!(call, ProviderCall::Status { .. }), "{call:?}");
    world.tell(Input::Outcome(
        id,
        Outcome::Status(StatusOutcome::Charged {
            amount: 5_000,
            order_reference: order.to_string(),
        }),
    ));
    world.settle();
    assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
}

#[test]
fn what_was_not_charged_is_asked_for_again_under_the_same_key() {
    let mut world = World::new();
    let order = world.place(1, Paid::Card(Some("sim_5xx_1")), &[(0, 1)]);
    let (id, first) = world.settle()[0].clone();
    world.tell(Input::Outcome(id, Outcome::Charge(ChargeOutcome::Unknown { reason: "500".into() })));
    let (id, _) = world.settle()[0].clone();
    world.tell(Input::Outcome(
        id,
        Outcome::Status(StatusOutcome::NotCharged {
            status: "IN_PROGRESS".into(),
        }),
    ));
    let (id, second) = world.settle()[0].clone();
    assert!(matches!(second, ProviderCall::Charge { attempt: 2, .. }), "{second:?}");
    assert_eq!(first.idempotency_key(), second.idempotency_key());
    assert_ne!(first.id(), second.id());
    world.tell(Input::Outcome(id, charged(&second)));
    world.settle();
    assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
}

#[test]
fn a_payment_that_is_never_made_ends_the_order_at_its_deadline_also_after_a_restart() {
    let mut world = World::new();
    let order = world.place(1, CARD, &[(0, 2), (1, 1)]);
    world.settle();
    assert_eq!(world.order(order).status(), OrderStatus::AwaitingPayment);
    assert_eq!(world.stock(0), (100, 2));
    world.restart();
    world.wait(10 * 60 * 1_000 - 1);
    world.settle();
    assert_eq!(world.order(order).status(), OrderStatus::AwaitingPayment);
    world.wait(1);
    world.settle();
    assert_eq!(world.failure(order), Some(FailureCode::PaymentExpired));
    assert_eq!((world.stock(0), world.stock(1)), ((100, 0), (100, 0)));
    assert_eq!(world.payment(order).status(), PaymentStatus::Expired);
    assert_eq!(world.unfinished(), (0, 0), "no timer is left");
}

#[test]
fn a_cancellation_that_meets_an_order_in_the_middle_of_its_cascade_undoes_it() {
    let mut world = World::with_cascade(1);
    let order = world.place(1, CARD, &[(0, 1), (1, 1), (2, 1)]);
    world.cancel(order);
    world.settle();
    assert_eq!(world.failure(order), Some(FailureCode::CancelledByBuyer));
    for product in 0..3 {
        assert_eq!(world.stock(product), (100, 0));
    }
    assert_eq!(world.unfinished(), (0, 0));
}

#[test]
fn a_cascade_that_is_too_long_for_one_turn_goes_on_in_the_next_and_after_a_crash() {
    let lines: Vec<_> = (0..6).map(|product| (product, 1)).collect();
    for crash_after in 0..20 {
        let mut world = World::with_cascade(2);
        let order = world.place(1, Paid::Balance, &lines);
        let mut outputs = world.step();
        for commits in 0.. {
            let Some(batch) = outputs.batch() else { break };
            outputs = world.commit(&batch);
            if commits == crash_after {
                world.restart();
                outputs = world.step();
            }
        }
        world.settle();
        assert_eq!(
            world.order(order).status(),
            OrderStatus::Confirmed,
            "crash after {crash_after} commits"
        );
        assert_eq!(world.balance(), BALANCE - 30_000);
        for product in 0..6 {
            assert_eq!(world.stock(product), (99, 0));
        }
    }
}

#[test]
fn a_crash_at_any_commit_of_a_card_purchase_ends_it_as_the_provider_says() {
    for crash_at in 0..4 {
        let mut world = World::new();
        let mut provider = world::Provider::default();
        let order = world.place(1, Paid::Card(Some("sim_ok_1")), &[(0, 1)]);
        let mut commits = 0;
        world.run(|world, outputs| {
            if let Some(batch) = outputs.batch() {
                commits += 1;
                if commits == crash_at + 1 {
                    // Durable, but the process ends before anything leaves.
                    world.write_and_crash(&batch);
                    return;
                }
                world.commit_and_keep(&batch);
            }
            for (id, call) in outputs.calls() {
                let outcome = provider.answer(call);
                world.tell(Input::Outcome(*id, outcome));
            }
        });
        assert_eq!(world.order(order).status(), OrderStatus::Confirmed, "crash at commit {crash_at}");
        assert_eq!(provider.net(), 5_000);
        assert_eq!(world.stock(0), (99, 0));
    }
}

#[test]
fn a_dry_run_says_what_would_be_recorded_and_records_nothing() {
    let mut world = World::new();
    world.place_dry(1, Paid::Balance, &[(0, 1)]);
    let head = world.head();
    world.settle();
    assert_eq!(world.head(), head);
    let planned = world.replies()[0].planned.clone();
    world.place(1, Paid::Balance, &[(0, 1)]);
    let batch = world.step().batch().expect("a batch");
    let real: Vec<_> = batch
        .events
        .iter()
        .map(|event| (event.event_type.to_string(), event.payload.to_string()))
        .collect();
    let dry: Vec<_> = planned
        .iter()
        .map(|event| (event.event_type.clone(), event.payload.get().to_owned()))
        .collect();
    assert_eq!(dry, real);
    assert_eq!(batch.records.len(), 1, "a dry run does not use its key up");
}

#[test]
fn a_version_that_is_not_the_current_one_is_refused() {
    let mut world = World::new();
    let order = world.place(1, CARD, &[(0, 1)]);
    world.settle();
    let version = world.version(Kind::Order, order.uuid());
    world.cancel_if_match(order, version - 1);
    world.settle();
    let refusal = world
        .replies()
        .last()
        .expect("an answer")
        .answer
        .result
        .clone()
        .expect_err("refused");
    assert_eq!(refusal.code, "version-mismatch");
    world.cancel_if_match(order, version);
    world.settle();
    assert_eq!(world.order(order).status(), OrderStatus::Cancelled);
}

#[test]
fn a_command_on_the_longest_stream_reads_at_most_500_events() {
    let mut world = World::new();
    for number in 0..1_700 {
        world.deposit(number, 1);
        if number % 100 == 0 {
            world.settle();
        }
    }
    world.settle();
    world.restart();
    world.badness.reset();
    world.deposit(5_000, 1);
    world.settle();
    assert!(
        (1..=500).contains(&world.badness.events()),
        "read {} events",
        world.badness.events()
    );
    assert_eq!(world.balance(), BALANCE + 1_701);
}

#[test]
fn a_start_reads_what_is_unfinished_and_no_event() {
    let mut world = World::new();
    for number in 0..50 {
        world.place(number, Paid::Balance, &[(0, 1)]);
        world.settle();
    }
    world.place(900, CARD, &[(1, 1)]);
    world.settle();
    world.badness.reset();
    world.restart();
    assert_eq!(world.badness.events(), 0);
    // The timers of the one order that waits: its reservation's and its payment's.
    assert_eq!(world.unfinished(), (0, 2));
}

#[test]
fn whoever_waits_for_an_order_hears_of_it_only_when_it_is_durable() {
    let mut world = World::new();
    let order = world.place(1, Paid::Card(Some("sim_ok_1")), &[(0, 1)]);
    let (id, call) = world.settle()[0].clone();
    let settled = |state: &State| matches!(state, State::Order(order) if order.settled());
    let ticket = world.watch(Kind::Order, order.uuid(), settled);
    world.settle();
    assert!(world.answer(ticket).is_none());
    world.tell(Input::Outcome(id, charged(&call)));
    let batch = world.step().batch().expect("a batch");
    assert!(world.answer(ticket).is_none());
    world.commit(&batch);
    assert!(world.answer(ticket).is_some());
}

#[test]
fn a_poisoned_stream_stops_no_other() {
    let mut world = World::new();
    world.poison(Kind::Inventory, world::product(0).uuid());
    world.restart();
    let bad = world.place(1, Paid::Balance, &[(0, 1)]);
    let good = world.place(2, Paid::Balance, &[(1, 1)]);
    world.settle();
    assert_eq!(world.order(good).status(), OrderStatus::Confirmed);
    assert!(world.state(Kind::Order, bad.uuid()).is_none());
    assert!(world.answers().iter().any(|answer| matches!(answer, Err(EngineError::Parked(_)))));
    assert_eq!(world.balance(), BALANCE - 5_000);
}

#[test]
fn money_that_turns_up_after_the_buyer_has_cancelled_goes_back() {
    let mut world = World::new();
    let order = world.place(1, Paid::Card(Some("sim_lost_1")), &[(0, 1)]);
    let (charge, _) = world.settle()[0].clone();
    world.cancel(order);
    world.settle();
    assert_eq!(world.order(order).status(), OrderStatus::Cancelling, "first the provider's word");
    world.tell(Input::Outcome(
        charge,
        Outcome::Charge(ChargeOutcome::Unknown { reason: "timeout".into() }),
    ));
    let (status, _) = world.settle()[0].clone();
    world.tell(Input::Outcome(status, Outcome::Status(StatusOutcome::NotFound)));
    world.settle();
    assert_eq!(world.failure(order), Some(FailureCode::CancelledByBuyer));
    assert_eq!(world.stock(0), (100, 0));
    // Not found, then found.
    world.wait(1_000);
    let (status, call) = world.settle()[0].clone();
    assert!(matches!(call, ProviderCall::Status { .. }));
    world.tell(Input::Outcome(
        status,
        Outcome::Status(StatusOutcome::Charged {
            amount: 5_000,
            order_reference: order.to_string(),
        }),
    ));
    let (cancel, call) = world.settle()[0].clone();
    assert!(matches!(call, ProviderCall::Cancel { .. }), "{call:?}");
    world.tell(Input::Outcome(cancel, Outcome::Cancel(CancellationOutcome::Cancelled)));
    world.settle();
    assert_eq!(world.payment(order).status(), PaymentStatus::Reversed);
    assert_eq!(world.order(order).status(), OrderStatus::Cancelled);
}

#[test]
fn recorded_time_never_goes_back() {
    let mut world = World::new();
    world.place(1, Paid::Balance, &[(0, 1)]);
    world.settle();
    world.set_clock_back(3_600_000);
    world.place(2, Paid::Balance, &[(0, 1)]);
    world.settle();
    world.restart();
    world.place(3, Paid::Balance, &[(0, 1)]);
    world.settle();
    let times: Vec<_> = world.log().iter().map(|event| event.recorded_at).collect();
    assert!(times.is_sorted());
}

#[test]
fn every_causation_names_an_event_of_the_log_and_ids_and_places_are_without_a_gap() {
    let mut world = World::new();
    for number in 0..30_u64 {
        let paid = if number % 3 == 0 { CARD } else { Paid::Balance };
        world.place(number, paid, &[(u32::try_from(number % 4).expect("small"), 1), (5, 1)]);
        if number % 7 == 0 {
            world.restart_after_settling();
        }
    }
    world.settle();
    world.wait(3_600_000);
    world.settle();
    let log = world.log();
    let ids: std::collections::BTreeSet<_> = log.iter().map(|event| event.event_id.to_string()).collect();
    assert_eq!(ids.len(), log.len());
    let mut versions = std::collections::BTreeMap::new();
    for (index, event) in log.iter().enumerate() {
        assert_eq!(event.position, index as u64 + 1);
        let version = versions.entry(event.stream.clone()).or_insert(0);
        *version += 1;
        assert_eq!(event.sequence, *version);
        let metadata: std::collections::BTreeMap<String, String> = serde_json::from_str(&event.metadata).expect("a flat object of strings");
        if let Some(causation) = metadata.get("causationId") {
            assert!(ids.contains(causation), "{causation} of position {}", event.position);
        }
    }
    world.verify_chain();
}

#[test]
fn the_cache_may_be_tiny() {
    let mut world = World::with_cache(2);
    for number in 0..50_u64 {
        let product = |offset| u32::try_from((number + offset) % 6).expect("small");
        world.place(
            number,
            if number % 2 == 0 { Paid::Balance } else { CARD },
            &[(product(0), 1), (product(1), 1)],
        );
    }
    world.settle();
    world.wait(3_600_000);
    world.settle();
    let confirmed = (0..50)
        .filter(|number| world.order(key(*number)).status() == OrderStatus::Confirmed)
        .count();
    assert_eq!(confirmed, 25);
    assert_eq!((0..6).map(|product| world.stock(product).1).sum::<u64>(), 0);
}
