//! Defects of shops that we learnt from, as far as a crash between two steps or a clock set by hand shows them: each test is named after
//! the number of its defect, and its comment says what that shop does. The others, against the whole binary, are in
//! `jangbu/tests/defects.rs`.

mod world;

use std::collections::BTreeMap;

use aggregates::{Kind, OrderId, OrderStatus};
use engine::{Input, Outcome, Response};
use event_store::CommitError;
use payment_gateway::{CancellationOutcome, ChargeOutcome, StatusOutcome};
use sagas::ProviderCall;
use world::{BALANCE, CARD, Outputs, Paid, Provider, World, key};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const LINES: [(u32, i64); 3] = [(0, 1), (1, 1), (2, 1)];
const TOTAL: i64 = 15_000;
const BY_CARD: Paid = Paid::Card(Some("sim_ok_1"));

/// How a step breaks off.
#[derive(Clone, Copy, Debug)]
enum Break {
    /// The process ends before anything of it is written.
    Before,
    /// The process ends when it is durable and nobody has heard of it.
    After,
    /// The log takes nothing for a moment, and the process goes on.
    NotWritten,
}

const BREAKS: [Break; 3] = [Break::Before, Break::After, Break::NotWritten];

fn not_written() -> Input<u64> {
    Input::Committed(Err(CommitError::NotWritten("a planted failure".into())))
}

/// Breaks off what these outputs want to be written; what leaves the process all the same.
fn break_off(world: &mut World, outputs: &Outputs, how: Break) -> Option<Outputs> {
    let batch = outputs.batch().expect("something is to be written");
    match how {
        Break::Before => world.restart(),
        Break::After => world.write_and_crash(&batch),
        Break::NotWritten => return Some(world.step_with(vec![not_written()])),
    }
    None
}

/// A provider that answers as its part demands.
struct Acquirer {
    part: Part,
    ledger: Provider,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Approves,
    Declines,
    /// Takes the money, and no answer arrives.
    LosesItsAnswer,
    /// No question arrives.
    LosesTheQuestion,
    /// Nothing at all is heard of it.
    Silent,
}

const PARTS: [Part; 4] = [Part::Approves, Part::Declines, Part::LosesItsAnswer, Part::LosesTheQuestion];

impl Acquirer {
    fn new(part: Part) -> Self {
        let ledger = Provider::default();
        Self { part, ledger }
    }

    fn answer(&mut self, call: &ProviderCall) -> Outcome {
        let reason = || "no answer".to_owned();
        let unknown = || Outcome::Charge(ChargeOutcome::Unknown { reason: reason() });
        match (self.part, call) {
            (Part::Silent, ProviderCall::Status { .. }) => Outcome::Status(StatusOutcome::Unknown { reason: reason() }),
            (Part::Silent, ProviderCall::Cancel { .. }) => Outcome::Cancel(CancellationOutcome::Unknown { reason: reason() }),
            (Part::Declines, ProviderCall::Charge { .. }) => Outcome::Charge(ChargeOutcome::Declined {
                code: "REJECT_CARD_PAYMENT".into(),
                message: "no".into(),
            }),
            (Part::LosesItsAnswer, ProviderCall::Charge { .. }) => {
                self.ledger.answer(call);
                unknown()
            }
            (Part::LosesTheQuestion | Part::Silent, ProviderCall::Charge { .. }) => unknown(),
            _ => self.ledger.answer(call),
        }
    }

    /// Answers until nothing more is asked at this moment.
    fn serve(&mut self, world: &mut World) {
        loop {
            let calls = world.settle();
            if calls.is_empty() {
                return;
            }
            for (id, call) in calls {
                let outcome = self.answer(&call);
                world.tell(Input::Outcome(id, outcome));
            }
        }
    }

    /// The same for so long.
    fn serve_for(&mut self, world: &mut World, millis: i64, step: i64) {
        self.serve(world);
        for _ in 0..millis / step {
            world.wait(step);
            self.serve(world);
        }
    }
}

/// A key is remembered before the work is done and not forgotten when it fails: the repeat is skipped, and the order stays where it was.
#[test]
fn n01_a_request_that_breaks_off_between_any_two_steps_is_done_by_its_repeat() {
    for how in BREAKS {
        for at in 0.. {
            let mut world = World::with_cascade(1);
            let order = world.place(1, Paid::Balance, &LINES);
            let mut outputs = world.step();
            for _ in 0..at {
                let Some(batch) = outputs.batch() else { break };
                outputs = world.commit(&batch);
            }
            if outputs.batch().is_none() {
                assert!(at > 5, "the purchase has several steps");
                break;
            }
            break_off(&mut world, &outputs, how);
            world.wait(SECOND);
            world.place(1, Paid::Balance, &LINES);
            world.settle();
            assert_eq!(world.order(order).status(), OrderStatus::Confirmed, "{how:?} at {at}");
            assert_eq!(world.balance(), BALANCE - TOTAL, "{how:?} at {at}");
            for (product, _) in LINES {
                assert_eq!(world.stock(product), (99, 0), "{how:?} at {at}");
            }
            assert_eq!(world.unfinished(), (0, 0), "{how:?} at {at}");
        }
    }
}

/// What follows from a change is told to others after it is durable and kept nowhere: a crash between the two loses it.
#[test]
fn n02_what_follows_a_durable_step_follows_also_when_the_process_dies_right_after_it() {
    for paid in [Paid::Balance, BY_CARD] {
        for at in 0.. {
            let mut world = World::with_cascade(1);
            let mut acquirer = Acquirer::new(Part::Approves);
            let order = world.place(1, paid, &LINES);
            let mut steps = 0;
            world.run(|world, outputs| {
                if let Some(batch) = outputs.batch() {
                    steps += 1;
                    if steps == at + 1 {
                        return world.write_and_crash(&batch);
                    }
                    world.commit_and_keep(&batch);
                }
                for (id, call) in outputs.calls() {
                    let outcome = acquirer.answer(call);
                    world.tell(Input::Outcome(*id, outcome));
                }
            });
            // Nobody asked for anything again.
            assert_eq!(world.order(order).status(), OrderStatus::Confirmed, "crash after step {at}");
            let by_card = if matches!(paid, Paid::Balance) { 0 } else { TOTAL };
            assert_eq!((acquirer.ledger.net(), world.balance()), (by_card, BALANCE - TOTAL + by_card));
            assert_eq!((world.stock(0), world.unfinished()), ((99, 0), (0, 0)), "crash after step {at}");
            if steps <= at {
                assert!(at > 5, "the purchase has several steps");
                break;
            }
        }
    }
}

/// A message that could not be processed is written to a log and forgotten: the money is taken, and the order waits for ever.
#[test]
fn n05_a_payment_that_nobody_can_tell_of_for_days_is_settled_by_itself_when_somebody_can() {
    for outage in [20 * HOUR, 70 * HOUR] {
        let mut world = World::new();
        let mut acquirer = Acquirer::new(Part::LosesItsAnswer);
        let order = world.place(1, BY_CARD, &LINES);
        let (id, call) = world.settle().pop().expect("it is asked for the money");
        world.tell(Input::Outcome(id, acquirer.answer(&call)));
        acquirer.part = Part::Silent;
        for hour in 0..outage / HOUR {
            acquirer.serve_for(&mut world, HOUR, MINUTE);
            assert_eq!(world.stock(0), (100, 1), "the goods are kept as long as nobody knows");
            if hour == 5 {
                world.restart();
            }
        }
        assert_ne!(world.order(order).status(), OrderStatus::Confirmed);
        acquirer.part = Part::Approves;
        acquirer.serve_for(&mut world, 25 * HOUR, MINUTE);
        assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
        assert_eq!((acquirer.ledger.net(), world.stock(0)), (TOTAL, (99, 0)));
    }
}

/// Nobody looks for orders that are never paid, and what would cancel them is never sent.
#[test]
fn n06_every_abandoned_order_ends_at_its_own_deadline_and_gives_its_goods_back() {
    let mut world = World::new();
    let mut acquirer = Acquirer::new(Part::Approves);
    for number in 0..30 {
        // Every third is paid.
        world.place(number, if number % 3 == 0 { BY_CARD } else { CARD }, &[(0, 1)]);
        if number % 7 == 0 {
            acquirer.serve(&mut world);
            world.restart();
        }
        acquirer.serve_for(&mut world, 30 * SECOND, SECOND);
    }
    acquirer.serve_for(&mut world, 10 * MINUTE, SECOND);
    let log = world.log();
    let times = |name: &str| -> BTreeMap<_, _> {
        let named = log.iter().filter(|event| event.event_type.as_ref() == name);
        named.map(|event| (event.stream.id, event.recorded_at)).collect()
    };
    let (placed, cancelled) = (times("order.placed"), times("order.cancelled"));
    for number in 0..30 {
        let order = key(number);
        if number % 3 == 0 {
            assert_eq!(world.order(order).status(), OrderStatus::Confirmed);
        } else {
            let lived = cancelled[&order.uuid()] - placed[&order.uuid()];
            assert_eq!(lived, 10 * MINUTE * 1_000, "order {number} lives until its deadline, and no longer");
        }
    }
    assert_eq!((world.stock(0), world.unfinished()), ((90, 0), (0, 0)));
}

/// A message that could not be delivered is marked as failed, and never sent again.
#[test]
fn n08_what_cannot_be_delivered_is_tried_again_less_and_less_often_and_stops_nobody_else() {
    let mut world = World::new();
    let mut acquirer = Acquirer::new(Part::Silent);
    let order = world.place(1, BY_CARD, &[(0, 1)]);
    let (mut second, mut asked) = (0, Vec::new());
    while second < 2 * 3_600 {
        let calls = world.settle();
        if calls.is_empty() {
            world.wait(SECOND);
            second += 1;
        }
        for (id, call) in calls {
            asked.push(second);
            world.tell(Input::Outcome(id, acquirer.answer(&call)));
        }
    }
    world.restart();
    // At the deadline it is asked once more, whatever the schedule says.
    let gaps: Vec<_> = asked
        .windows(2)
        .take_while(|pair| pair[1] < 10 * 60)
        .map(|pair| pair[1] - pair[0])
        .collect();
    assert!(gaps.is_sorted() && gaps.last() > Some(&60), "less and less often: {asked:?}");
    assert!((8..=12).contains(&asked.len()), "again and again, and not all the time: {asked:?}");
    // Meanwhile others buy.
    let another = world.place(2, Paid::Balance, &[(0, 1)]);
    world.settle();
    assert_eq!(world.order(another).status(), OrderStatus::Confirmed);
    acquirer.part = Part::Approves;
    acquirer.serve_for(&mut world, 25 * HOUR, MINUTE);
    assert_eq!(
        world.order(order).status(),
        OrderStatus::Cancelled,
        "nothing was charged, and the time is over"
    );
    assert_eq!((acquirer.ledger.net(), world.stock(0)), (0, (99, 0)));
}

/// From some states there is no way back: an order that is paid and cannot be delivered is neither cancelled nor refunded.
#[test]
fn n09_a_cancellation_ends_with_the_goods_or_with_the_money_from_every_state() {
    let mut outcomes = BTreeMap::new();
    for part in PARTS {
        for paid in [Paid::Balance, BY_CARD, CARD] {
            for crash in [false, true] {
                for at in 0.. {
                    let Some((world, acquirer, order)) = cancelled_at(part, paid, at, crash) else {
                        break;
                    };
                    let case = format!("{part:?}, cancelled at {at}, crash: {crash}");
                    let spent = acquirer.ledger.net() + BALANCE - world.balance();
                    let kept = match world.order(order).status() {
                        OrderStatus::Confirmed => {
                            assert_eq!(spent, TOTAL, "{case}");
                            99
                        }
                        OrderStatus::Cancelled => {
                            assert_eq!(spent, 0, "{case}");
                            100
                        }
                        other => panic!("{case}: {other:?}"),
                    };
                    for (product, _) in LINES {
                        assert_eq!(world.stock(product), (kept, 0), "{case}");
                    }
                    *outcomes.entry(kept).or_insert(0) += 1;
                }
            }
        }
    }
    assert!(outcomes.values().all(|times| *times > 10) && outcomes.len() == 2, "{outcomes:?}");
}

/// A purchase whose buyer cancels after so many steps, long after; none when it has fewer.
fn cancelled_at(part: Part, paid: Paid, at: usize, crash: bool) -> Option<(World, Acquirer, OrderId)> {
    let mut world = World::with_cascade(1);
    let mut acquirer = Acquirer::new(part);
    let order = world.place(1, paid, &LINES);
    let mut outputs = world.step();
    let mut steps = 0;
    while steps <= at {
        for (id, call) in outputs.calls() {
            let outcome = acquirer.answer(call);
            world.tell(Input::Outcome(*id, outcome));
        }
        outputs = match outputs.batch() {
            Some(batch) => {
                steps += 1;
                world.commit(&batch)
            }
            None => world.step(),
        };
        let nothing_moves = outputs.batch().is_none() && outputs.calls().next().is_none();
        if nothing_moves && world.idle() {
            break;
        }
    }
    if steps <= at {
        return None;
    }
    world.cancel(order);
    for (id, call) in outputs.calls() {
        let outcome = acquirer.answer(call);
        world.tell(Input::Outcome(*id, outcome));
    }
    let outputs = match outputs.batch() {
        Some(batch) => world.commit(&batch),
        None => world.step(),
    };
    if crash && let Some(batch) = outputs.batch() {
        world.write_and_crash(&batch);
    } else {
        keep(&mut world, &mut acquirer, &outputs);
    }
    acquirer.serve_for(&mut world, 2 * MINUTE, SECOND);
    acquirer.serve_for(&mut world, 3 * HOUR, MINUTE);
    Some((world, acquirer, order))
}

/// Carries out what a step returned.
fn keep(world: &mut World, acquirer: &mut Acquirer, outputs: &Outputs) {
    for (id, call) in outputs.calls() {
        let outcome = acquirer.answer(call);
        world.tell(Input::Outcome(*id, outcome));
    }
    if let Some(batch) = outputs.batch() {
        world.commit_and_keep(&batch);
    }
}

/// What was done outside is done although the transaction around it is then taken back.
#[test]
fn n17_nothing_leaves_whose_cause_is_not_durable() {
    for how in BREAKS {
        for at in 0.. {
            let mut world = World::with_cascade(1);
            let mut acquirer = Acquirer::new(Part::Approves);
            let order = world.place(1, BY_CARD, &LINES);
            let mut steps = 0;
            world.run(|world, outputs| {
                stands_in_the_log(world, outputs, order);
                if outputs.batch().is_some() {
                    steps += 1;
                    if steps == at + 1 {
                        if let Some(outputs) = break_off(world, outputs, how) {
                            stands_in_the_log(world, &outputs, order);
                        }
                        return;
                    }
                }
                keep(world, &mut acquirer, outputs);
            });
            if steps <= at {
                assert!(at > 5, "the purchase has several steps");
                break;
            }
            if world.state(Kind::Order, order.uuid()).is_none() {
                assert_eq!(
                    (at, acquirer.ledger.net()),
                    (0, 0),
                    "{how:?}: what was never written was never paid"
                );
            }
        }
    }
}

/// Whatever these outputs tell the outside is durable already.
fn stands_in_the_log(world: &World, outputs: &Outputs, order: OrderId) {
    let log = world.log();
    let recorded = |name: &str| {
        log.iter().any(|event| {
            event.event_type.as_ref() == name && event.payload.contains(&order.to_string()) | (event.stream.id == order.uuid())
        })
    };
    for (_, call) in outputs.calls() {
        let cause = match call {
            ProviderCall::Charge { .. } => "payment.requested",
            ProviderCall::Status { .. } => "payment.status_asked",
            ProviderCall::Cancel { .. } => "payment.reversal_requested",
        };
        assert!(recorded(cause), "{call:?} left before {cause} was durable");
    }
    for answer in outputs.answers() {
        if let Ok(Response::Reply(_)) = answer {
            assert!(recorded("order.placed"), "an answer left before its order was durable");
        }
    }
}
