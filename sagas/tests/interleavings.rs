//! Whatever order things happen in, and however the provider behaves: every order ends, and goods and money are conserved.

mod world;

use aggregates::{Command, FailureCode, Obstacle, OrderCommand, OrderStatus, PlaceOrder, Resolution, Sealed, Timestamp, WalletCommand};
use proptest::prelude::*;
use sagas::ProviderCall;
use uuid::Uuid;
use world::{Answer, BALANCE, BUYER, ON_HAND, World, card_order, key, krw, order};

/// What may happen next.
#[derive(Clone, Copy, Debug)]
enum Move {
    /// One of the commands under way arrives; those to one aggregate keep their order, unless they come from another shard.
    Deliver(usize),
    /// One of the calls is answered.
    Answer(usize, Provider),
    /// The next timer's time comes.
    Timer,
    /// The buyer does not want it any more.
    Cancel,
    /// The buyer pays, if it is their turn.
    Pay,
    /// A charge whose request was on its way is made.
    Late,
    /// One of the commands under way cannot be processed: it is dropped, and the order waits for a person.
    Lose(usize),
    /// An operator does something about an order that waits for a person.
    Operator(usize),
    /// The next timer's time comes, and what it asks for waits with the others: it can be dropped as they can.
    Ring,
    /// The engine ends and begins again: no call has an answer, and whether its request arrived says its bit.
    Restart(u8),
}

/// How the provider behaves.
#[derive(Clone, Copy, Debug)]
enum Provider {
    Honest,
    Declines,
    /// Does it, and the answer is lost.
    LosesAnswer,
    /// The request is lost, or on its way for long.
    LosesRequest,
    /// Turns this request away before it looks at the payment: an earlier one may still go through.
    TurnsAway,
    /// Takes so much more, or less.
    TakesOther(i64),
    /// Will not give the money back.
    Keeps,
}

fn moves(lossy: u32) -> impl Strategy<Value = Vec<Move>> {
    let provider = prop_oneof![
        2 => Just(Provider::Honest),
        1 => Just(Provider::Declines),
        2 => Just(Provider::LosesAnswer),
        3 => Just(Provider::LosesRequest),
        1 => Just(Provider::TurnsAway),
        1 => prop_oneof![Just(500), Just(-500)].prop_map(Provider::TakesOther),
        1 => Just(Provider::Keeps),
    ];
    let next = prop_oneof![
        20 => any::<usize>().prop_map(Move::Deliver),
        8 => (any::<usize>(), provider).prop_map(|(index, provider)| Move::Answer(index, provider)),
        3 => Just(Move::Timer),
        1 => Just(Move::Cancel),
        3 => Just(Move::Pay),
        1 => Just(Move::Late),
        2 => any::<usize>().prop_map(Move::Operator),
        1 => Just(Move::Ring),
        1 => any::<u8>().prop_map(Move::Restart),
        lossy => any::<usize>().prop_map(Move::Lose),
    ];
    prop::collection::vec(next, 0..60)
}

fn orders() -> impl Strategy<Value = PlaceOrder> {
    let lines = prop::sample::subsequence(vec![1_u128, 2, 3], 1..=3).prop_shuffle();
    (lines, 0..3).prop_map(|(lines, method)| match method {
        0 => order(&lines),
        1 => card_order(&lines),
        _ => PlaceOrder {
            payment_key: Some(key("pk")),
            ..card_order(&lines)
        },
    })
}

/// The provider's ledger of this one payment.
#[derive(Debug, Default)]
struct Ledger {
    declined: bool,
    under_way: bool,
    charges: usize,
    taken: i64,
    given_back: i64,
    /// It would not give the money back.
    kept: bool,
}

impl Ledger {
    fn charged(&self) -> bool {
        self.charges > 0
    }

    fn returned(&self) -> bool {
        self.charged() && self.given_back == self.taken
    }

    fn charge(&mut self, amount: i64) {
        if !self.charged() && !self.declined {
            self.charges += 1;
            self.taken = amount;
        }
        self.under_way = false;
    }

    fn answer(&mut self, call: &ProviderCall, provider: Provider) -> Answer {
        match (call, provider) {
            (ProviderCall::Charge { .. }, Provider::LosesRequest) => {
                self.under_way = true;
                Answer::Unknown
            }
            (ProviderCall::Charge { .. }, Provider::TurnsAway) if !self.charged() => Answer::Declined,
            (ProviderCall::Charge { amount, .. }, provider) => {
                self.declined |= !self.charged() && matches!(provider, Provider::Declines);
                let more = if let Provider::TakesOther(more) = provider { more } else { 0 };
                self.charge(amount.minor() + more);
                match provider {
                    Provider::LosesAnswer => Answer::Unknown,
                    _ if self.declined => Answer::Declined,
                    // An answer that speaks of another amount is no answer.
                    _ if self.taken != amount.minor() => Answer::Unknown,
                    _ => Answer::Charged(amount.minor()),
                }
            }
            (ProviderCall::Status { .. }, Provider::LosesAnswer | Provider::LosesRequest) => Answer::Unknown,
            // As the engine tells the payment what was charged and given back.
            (ProviderCall::Status { .. }, _) if self.returned() => Answer::Declined,
            (ProviderCall::Status { .. }, _) if self.charged() => Answer::Charged(self.taken),
            (ProviderCall::Status { .. }, _) => Answer::NotCharged,
            (ProviderCall::Cancel { .. }, Provider::LosesRequest) => Answer::NotReturned,
            (ProviderCall::Cancel { amount, .. }, provider) => {
                let more_than_there_is = amount.minor() > self.taken;
                if more_than_there_is || (matches!(provider, Provider::Keeps) && !self.returned()) {
                    self.kept = true;
                    return Answer::Refused;
                }
                // Under one key it gives back once.
                if self.given_back == 0 {
                    self.given_back = amount.minor();
                }
                if matches!(provider, Provider::LosesAnswer) {
                    Answer::NotReturned
                } else {
                    Answer::Returned
                }
            }
        }
    }
}

struct Shop {
    world: World,
    ledger: Ledger,
    repeats: usize,
    /// Stocks and wallets are in other shards: what is asked of them first may come last.
    overtaking: bool,
    /// When the order was cancelled first.
    cancelled_at: Option<Timestamp>,
}

impl Shop {
    fn make(&mut self, next: Move) {
        self.happens(next);
        if self.world.count("order.cancelled") > 0 {
            self.cancelled_at.get_or_insert(self.world.now);
        }
    }

    fn happens(&mut self, next: Move) {
        match next {
            Move::Deliver(index) => {
                let first = self.deliverable();
                if let Some(index) = index.checked_rem(first.len()).and_then(|index| first.get(index)) {
                    self.world.deliver(*index);
                }
            }
            Move::Answer(index, provider) => {
                if let Some(index) = index.checked_rem(self.world.calls.len()) {
                    self.answer(index, provider);
                }
            }
            Move::Timer => {
                self.world.fire_next();
            }
            // Whether the order takes it is the order's to say.
            Move::Cancel => drop(self.world.buyer_cancels()),
            Move::Pay => {
                let total = self.world.order().total().unwrap_or(krw(0));
                let command = aggregates::OrderCommand::SubmitPayment {
                    payment_key: key("pk"),
                    amount: total,
                    at: self.world.now,
                };
                drop(self.world.tell(Command::Order(world::ORDER, command)));
            }
            Move::Late => self.charge_late(),
            Move::Ring => self.world.ring_next(),
            Move::Restart(arrived) => {
                for call in 0..self.world.calls.len() {
                    let loses = [Provider::LosesRequest, Provider::LosesAnswer];
                    self.answer(0, loses[usize::from(arrived >> (call % 8) & 1)]);
                }
            }
            Move::Lose(index) => {
                if let Some(index) = index.checked_rem(self.deliverable().len()) {
                    self.lose(self.deliverable()[index]);
                }
            }
            Move::Operator(choice) => self.operate(choice),
        }
    }

    fn answer(&mut self, call: usize, provider: Provider) {
        let call = self.world.calls.remove(call);
        let answer = self.ledger.answer(&call, provider);
        for _ in 0..self.repeats {
            self.world.hear(call.payment(), answer);
        }
    }

    /// Nothing is on its way for longer than the provider is asked about it.
    fn charge_late(&mut self) {
        let asked_about = self.cancelled_at.is_none_or(|at| self.world.now <= at.after(5 * world::DAY));
        if self.ledger.under_way && asked_about {
            let total = self.world.order().total().expect("placed").minor();
            self.ledger.charge(total);
        }
    }

    fn lose(&mut self, index: usize) {
        let command = self.world.asked[index].clone();
        // The order itself is where a person finds what waits; without it, and without the order's new prices, nobody could.
        // And money that is dropped on its way back is gone.
        if matches!(command, Command::Order(..) | Command::Wallet(_, WalletCommand::Credit { .. })) {
            return;
        }
        self.world.asked.remove(index);
        let reason = "set aside".to_owned();
        drop(self.world.tell(Command::Order(
            world::ORDER,
            OrderCommand::NeedAttention {
                cause: Obstacle::SetAside(Uuid::nil()),
                reason,
            },
        )));
    }

    /// What is possible at all; and a person says what the provider's books say.
    fn operate(&mut self, choice: usize) {
        let (by, reason) = (world::SELLER, Sealed::new("sealed"));
        let resolve = |outcome| OrderCommand::Resolve {
            by,
            outcome,
            reason: Sealed::new("sealed"),
        };
        let ledger = &mut self.ledger;
        let total = self.world.order().total().expect("placed").minor();
        let command = match choice % 3 {
            0 => OrderCommand::Resume { by },
            1 => OrderCommand::Compensate { by, reason },
            _ if !ledger.charged() => resolve(Resolution::NotCharged),
            _ if ledger.returned() => resolve(Resolution::Refunded),
            // What it keeps is given back by hand, once a person was asked to.
            _ if ledger.kept && self.world.status() == OrderStatus::NeedsAttention => {
                ledger.given_back = ledger.taken;
                resolve(Resolution::Refunded)
            }
            // Another amount than the order's is nothing to go forward with.
            _ if ledger.taken != total => return,
            _ => resolve(Resolution::Charged),
        };
        drop(self.world.tell(Command::Order(world::ORDER, command)));
    }

    /// The commands that are the first of those to their aggregate.
    fn deliverable(&self) -> Vec<usize> {
        let asked = &self.world.asked;
        let first = |index: &usize| !asked[..*index].iter().any(|earlier| earlier.target() == asked[*index].target());
        let elsewhere = |index: &usize| matches!(asked[*index], Command::Inventory(..) | Command::Wallet(..));
        (0..asked.len())
            .filter(|index| first(index) || (self.overtaking && elsewhere(index)))
            .collect()
    }

    /// Everything that is left happens, with a provider that answers; a charge that is on its way is made after so many timers.
    fn settle(&mut self, late: Option<usize>) {
        let (mut acts, mut waits) = (0, 0);
        for _ in 0..2_000 {
            if !self.world.asked.is_empty() {
                self.make(Move::Deliver(0));
            } else if !self.world.calls.is_empty() {
                self.make(Move::Answer(0, Provider::Honest));
            } else if self.world.status() == OrderStatus::NeedsAttention {
                self.make(Move::Operator(acts % 3));
                acts += 1;
            } else if late == Some(waits) {
                waits += 1;
                self.make(Move::Late);
            } else if self.world.fire_next().is_none() {
                return;
            } else {
                waits += 1;
            }
        }
        panic!("it never comes to rest: {:?}", self.world.happened());
    }

    fn check(&self) {
        let world = &self.world;
        let told = || format!("{:?} {:?}", world.happened(), self.ledger);
        assert_eq!(world.refused, [], "{}", told());
        let lines = world.order().lines().len();
        let total = world.order().total().expect("placed").minor();
        let net = self.ledger.taken - self.ledger.given_back + BALANCE - world.balance();
        let (on_hand, reserved) = (1..=3)
            .map(|number| world.stock(number))
            .fold((0, 0), |sum, stock| (sum.0 + stock.0, sum.1 + stock.1));
        assert_eq!(reserved, 0, "{}", told());
        assert!(self.ledger.charges <= 1, "{}", told());
        assert!(world.count("payment.captured") <= 1, "{}", told());
        match world.status() {
            OrderStatus::Confirmed => {
                assert_eq!(net, total, "{}", told());
                assert_eq!(usize::try_from(3 * ON_HAND - on_hand), Ok(lines), "{}", told());
                assert_eq!(
                    (
                        world.count("payment.captured") + world.count("payment.resolved"),
                        world.count("inventory.committed")
                    ),
                    (1, lines),
                    "{}",
                    told()
                );
            }
            OrderStatus::Cancelled => {
                assert_eq!(net, 0, "{}", told());
                assert_eq!(on_hand, 3 * ON_HAND, "{}", told());
                assert_eq!(world.count("inventory.committed"), 0, "{}", told());
            }
            status => panic!("the order is still {}: {}", status.name(), told()),
        }
    }
}

/// How an order's world is, besides what happens in it.
#[derive(Clone, Copy, Debug, Default)]
struct Given {
    /// The balance holds nothing.
    poor: bool,
    /// Everything is told twice.
    twice: bool,
    /// Stocks and wallets are in other shards.
    overtaking: bool,
    /// After so many timers, when all else has come to rest, a charge that was on its way is made.
    late: Option<usize>,
}

fn run(place: PlaceOrder, moves: Vec<Move>, given: Given) -> World {
    let mut world = World::new();
    let deliveries = if given.twice { 2 } else { 1 };
    world.deliveries = deliveries;
    if given.poor {
        let (payment, order) = (aggregates::PaymentId::default(), aggregates::OrderId::default());
        world.expect(Command::Wallet(
            BUYER,
            WalletCommand::Debit {
                payment,
                order,
                amount: krw(BALANCE),
            },
        ));
        // The wallet is empty, and what is measured is measured from there.
        world.log.clear();
    }
    world.place(place);
    let mut shop = Shop {
        world,
        ledger: Ledger::default(),
        repeats: deliveries,
        overtaking: given.overtaking,
        cancelled_at: None,
    };
    for next in moves {
        shop.make(next);
    }
    shop.settle(given.late);
    if !given.poor {
        shop.check();
    }
    shop.world
}

/// Within the five days of the schedule.
fn late() -> impl Strategy<Value = Option<usize>> {
    prop::option::of(0..20_usize)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_order_ends_and_goods_and_money_are_conserved(place in orders(), moves in moves(0), late in late()) {
        run(place, moves, Given { late, ..Given::default() });
    }

    #[test]
    fn what_comes_twice_changes_nothing_of_that(place in orders(), moves in moves(0), late in late()) {
        run(place, moves, Given { twice: true, late, ..Given::default() });
    }

    #[test]
    fn what_is_set_aside_and_dropped_holds_an_order_up_until_an_operator_lets_it_go_on(place in orders(), moves in moves(3), late in late()) {
        run(place, moves, Given { late, ..Given::default() });
    }

    #[test]
    fn messages_to_other_shards_may_overtake_one_another(place in orders(), moves in moves(0), late in late()) {
        run(place, moves, Given { overtaking: true, late, ..Given::default() });
    }

    #[test]
    fn an_order_that_nothing_can_pay_is_never_confirmed(moves in moves(0)) {
        let world = run(order(&[1, 2]), moves, Given { poor: true, ..Given::default() });
        prop_assert_eq!(world.status(), OrderStatus::Cancelled);
        prop_assert!(matches!(world.failure(), Some(FailureCode::InsufficientBalance | FailureCode::CancelledByBuyer)));
        prop_assert_eq!((world.balance(), world.stock(1), world.stock(2)), (0, (ON_HAND, 0), (ON_HAND, 0)));
    }
}
