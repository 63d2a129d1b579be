//! Whatever order things happen in, and however the provider behaves: every order ends, and goods and money are conserved.

mod world;

use aggregates::{Command, FailureCode, Obstacle, OrderCommand, OrderStatus, PlaceOrder, Resolution, Sealed, WalletCommand};
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
}

fn moves(lossy: u32) -> impl Strategy<Value = Vec<Move>> {
    let provider = prop_oneof![
        2 => Just(Provider::Honest),
        1 => Just(Provider::Declines),
        2 => Just(Provider::LosesAnswer),
        3 => Just(Provider::LosesRequest),
    ];
    let next = prop_oneof![
        20 => any::<usize>().prop_map(Move::Deliver),
        8 => (any::<usize>(), provider).prop_map(|(index, provider)| Move::Answer(index, provider)),
        3 => Just(Move::Timer),
        1 => Just(Move::Cancel),
        3 => Just(Move::Pay),
        1 => Just(Move::Late),
        2 => any::<usize>().prop_map(Move::Operator),
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
    returned: bool,
    under_way: bool,
    charges: usize,
}

impl Ledger {
    fn charged(&self) -> bool {
        self.charges > 0
    }

    fn charge(&mut self) {
        if !self.charged() && !self.declined {
            self.charges += 1;
        }
        self.under_way = false;
    }

    fn answer(&mut self, call: &ProviderCall, provider: Provider) -> Answer {
        match (call, provider) {
            (ProviderCall::Charge { .. }, Provider::LosesRequest) => {
                self.under_way = true;
                Answer::Unknown
            }
            (ProviderCall::Charge { amount, .. }, provider) => {
                self.declined |= !self.charged() && matches!(provider, Provider::Declines);
                self.charge();
                match provider {
                    Provider::LosesAnswer => Answer::Unknown,
                    _ if self.declined => Answer::Declined,
                    _ => Answer::Charged(amount.minor()),
                }
            }
            (ProviderCall::Status { .. }, Provider::LosesAnswer | Provider::LosesRequest) => Answer::Unknown,
            // As the engine tells the payment what was charged and given back, or declined.
            (ProviderCall::Status { .. }, _) if self.returned || self.declined => Answer::Declined,
            (ProviderCall::Status { amount, .. }, _) if self.charged() => Answer::Charged(amount.minor()),
            (ProviderCall::Status { .. }, _) => Answer::NotCharged,
            (ProviderCall::Cancel { .. }, Provider::LosesRequest) => Answer::NotReturned,
            (ProviderCall::Cancel { .. }, provider) => {
                self.returned = true;
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
}

impl Shop {
    fn make(&mut self, next: Move) {
        match next {
            Move::Deliver(index) => {
                let first = self.deliverable();
                if let Some(index) = index.checked_rem(first.len()).and_then(|index| first.get(index)) {
                    self.world.deliver(*index);
                }
            }
            Move::Answer(index, provider) => {
                if let Some(index) = index.checked_rem(self.world.calls.len()) {
                    let call = self.world.calls.remove(index);
                    let answer = self.ledger.answer(&call, provider);
                    for _ in 0..self.repeats {
                        self.world.hear(call.payment(), answer);
                    }
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
            // Nothing is on its way for longer than the provider is asked about it.
            Move::Late if self.ledger.under_way && !self.world.timers.is_empty() => self.ledger.charge(),
            Move::Late => {}
            Move::Lose(index) => {
                if let Some(index) = index.checked_rem(self.deliverable().len()) {
                    self.lose(self.deliverable()[index]);
                }
            }
            Move::Operator(choice) => self.operate(choice),
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
        let outcome = match (self.ledger.charged(), self.ledger.returned) {
            (true, true) => Resolution::Refunded,
            (true, false) => Resolution::Charged,
            (false, _) => Resolution::NotCharged,
        };
        let command = match choice % 3 {
            0 => OrderCommand::Resume { by },
            1 => OrderCommand::Compensate { by, reason },
            // Not while a request is on its way: it is not known what becomes of it.
            _ if self.ledger.under_way => return,
            _ => OrderCommand::Resolve { by, outcome, reason },
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

    /// Everything that is left happens, with a provider that answers.
    fn settle(&mut self) {
        let mut acts = 0;
        for _ in 0..2_000 {
            if !self.world.asked.is_empty() {
                self.make(Move::Deliver(0));
            } else if !self.world.calls.is_empty() {
                self.make(Move::Answer(0, Provider::Honest));
            } else if self.world.status() == OrderStatus::NeedsAttention {
                self.make(Move::Operator(acts % 2));
                acts += 1;
            } else if self.world.fire_next().is_none() {
                return;
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
        let net = i64::from(self.ledger.charged() && !self.ledger.returned) * total + BALANCE - world.balance();
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

fn run(place: PlaceOrder, moves: Vec<Move>, poor: bool, deliveries: usize) -> World {
    run_with(place, moves, poor, deliveries, false)
}

fn run_with(place: PlaceOrder, moves: Vec<Move>, poor: bool, deliveries: usize, overtaking: bool) -> World {
    let mut world = World::new();
    world.deliveries = deliveries;
    if poor {
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
        overtaking,
    };
    for next in moves {
        shop.make(next);
    }
    shop.settle();
    if !poor {
        shop.check();
    }
    shop.world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_order_ends_and_goods_and_money_are_conserved(place in orders(), moves in moves(0)) {
        run(place, moves, false, 1);
    }

    #[test]
    fn what_comes_twice_changes_nothing_of_that(place in orders(), moves in moves(0)) {
        run(place, moves, false, 2);
    }

    #[test]
    fn what_is_set_aside_and_dropped_holds_an_order_up_until_an_operator_lets_it_go_on(place in orders(), moves in moves(3)) {
        run(place, moves, false, 1);
    }

    #[test]
    fn messages_to_other_shards_may_overtake_one_another(place in orders(), moves in moves(0)) {
        run_with(place, moves, false, 1, true);
    }

    #[test]
    fn an_order_that_nothing_can_pay_is_never_confirmed(moves in moves(0)) {
        let world = run(order(&[1, 2]), moves, true, 1);
        prop_assert_eq!(world.status(), OrderStatus::Cancelled);
        prop_assert!(matches!(world.failure(), Some(FailureCode::InsufficientBalance | FailureCode::CancelledByBuyer)));
        prop_assert_eq!((world.balance(), world.stock(1), world.stock(2)), (0, (ON_HAND, 0), (ON_HAND, 0)));
    }
}
