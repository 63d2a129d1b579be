//! A payment as what is known of the money: asked for, taken, given back.
//!
//! The first model says what each command leads to. The second is the provider itself: it takes the money or does not, and what it did is
//! learnt late, twice or never, or from a person who looked into its books; whatever the payment believes in the end has to be true of it.

use aggregates::{
    AccountId, Class, Money, Payment, PaymentCommand as Ask, PaymentEvent as Event, PaymentKey, PaymentMethod as Method,
    PaymentStatus as Status, Resolution, payment::Bill,
};
use proptest::prelude::*;

use crate::{Expected, Model, config, id, krw, order, steps, walk};

const PRICE: i64 = 5_000;

/// Nothing is taken as far as anybody knows, and it is not over.
const OPEN: [Status; 4] = [Status::Prepared, Status::Pending, Status::Unknown, Status::NotCharged];
/// Over without money. The provider may still say that it took some.
const GIVEN_UP: [Status; 3] = [Status::Declined, Status::Expired, Status::Cancelled];
/// The provider's word on the money has been heard.
const HEARD: [Status; 4] = [Status::Captured, Status::Reversing, Status::Reversed, Status::NeedsAttention];

#[derive(Default)]
struct Ledger {
    bill: Option<Bill>,
    stands: Status,
    key: Option<PaymentKey>,
    attempts: u32,
    questions: u32,
    reversals: u32,
    /// What the provider was last heard to have taken.
    heard_of: Option<Money>,
    /// It would not give that back.
    keeps_it: bool,
}

impl Ledger {
    fn stands_in(&self, any: &[Status]) -> bool {
        any.contains(&self.stands)
    }

    fn becomes(&mut self, status: Status, event: Event) -> Vec<Event> {
        self.stands = status;
        vec![event]
    }

    /// As `becomes`, where the payment stands in one of these; elsewhere nothing.
    fn moves(&mut self, from: &[Status], to: Status, event: Event) -> Vec<Event> {
        if self.stands_in(from) { self.becomes(to, event) } else { vec![] }
    }

    /// News of a payment that was given up is written down and changes nothing.
    fn hears(&mut self, from: &[Status], to: Status, event: Event) -> Vec<Event> {
        if self.stands_in(&GIVEN_UP) {
            return vec![event];
        }
        self.moves(from, to, event)
    }

    fn request(&mut self, bill: Bill, payment_key: PaymentKey) -> Vec<Event> {
        self.key = Some(payment_key.clone());
        self.attempts += 1;
        let (order, amount, attempt) = (bill.order, bill.amount, self.attempts);
        self.becomes(
            Status::Pending,
            Event::Requested {
                order,
                payment_key,
                amount,
                attempt,
            },
        )
    }

    fn capture(&mut self, bill: Bill, found: Money) -> Vec<Event> {
        let Bill {
            order, amount: expected, ..
        } = bill;
        if self.stands_in(&HEARD) {
            return vec![];
        }
        self.heard_of = Some(found);
        if found == expected {
            self.becomes(Status::Captured, Event::Captured { order, amount: found })
        } else {
            self.becomes(Status::NeedsAttention, Event::Contradicted { order, expected, found })
        }
    }

    fn ask_status(&mut self, bill: Bill) -> Vec<Event> {
        let contradicted = self.stands == Status::NeedsAttention && !self.keeps_it;
        let asked_before = self.stands_in(&OPEN[1..]) || self.stands_in(&GIVEN_UP) || contradicted;
        let Some(payment_key) = self.key.clone().filter(|_| asked_before) else {
            return vec![];
        };
        // What it said before counts no more until it answers, so nothing is given up meanwhile.
        if contradicted || self.stands == Status::NotCharged {
            self.stands = Status::Unknown;
        }
        self.questions += 1;
        vec![Event::StatusAsked {
            order: bill.order,
            payment_key,
            question: self.questions,
        }]
    }

    /// What there is to give back: what was taken, which need not be what was asked for.
    fn owed(&self, bill: Bill) -> Money {
        self.heard_of.unwrap_or(bill.amount)
    }

    fn reverse(&mut self, bill: Bill) -> Expected<Event> {
        match (self.stands, bill.method) {
            (Status::Captured | Status::NeedsAttention, _) | (Status::Reversing, Method::Card) => {}
            // It said that it took another amount, and is asked again.
            (Status::Unknown, _) if self.heard_of.is_some() => {}
            // The balance always answers, so it is asked once.
            (Status::Reversing | Status::Reversed, _) => return Ok(vec![]),
            _ => return Err((Class::State, "payment-state")),
        }
        self.reversals += 1;
        let event = Event::ReversalRequested {
            order: bill.order,
            buyer: bill.buyer,
            payment_key: self.key.clone(),
            amount: self.owed(bill),
            attempt: self.reversals,
        };
        self.keeps_it = false;
        Ok(self.becomes(Status::Reversing, event))
    }

    /// A person's word fills the provider's silence. It does not overrule what the provider has said.
    fn resolve(&mut self, bill: Bill, outcome: Resolution) -> Vec<Event> {
        let asked = self.stands_in(&OPEN[1..]);
        let contradicted = self.stands == Status::NeedsAttention && !self.keeps_it;
        let (to, amount) = match outcome {
            Resolution::Refunded if self.stands_in(&HEARD[..2]) || self.keeps_it => (Status::Reversed, self.owed(bill)),
            Resolution::Charged if self.stands_in(&GIVEN_UP) && self.key.is_some() => (Status::Captured, bill.amount),
            _ if !asked && !contradicted => return vec![],
            Resolution::Refunded => (Status::Reversed, self.owed(bill)),
            Resolution::Charged => (Status::Captured, bill.amount),
            Resolution::NotCharged => (Status::Declined, bill.amount),
        };
        if outcome == Resolution::Charged {
            self.heard_of = Some(amount);
        }
        self.keeps_it = false;
        let order = bill.order;
        self.becomes(to, Event::Resolved { order, outcome, amount })
    }
}

impl Model for Ledger {
    type Of = Payment;

    fn tell(&mut self, command: &Ask) -> Expected<Event> {
        let Some(bill) = self.bill else {
            let Ask::Prepare {
                order,
                buyer,
                amount,
                method,
            } = command.clone()
            else {
                return Err((Class::Unknown, "unknown-payment"));
            };
            self.bill = Some(Bill {
                order,
                buyer,
                amount,
                method,
            });
            return Ok(vec![Event::Prepared {
                order,
                buyer,
                amount,
                method,
            }]);
        };
        let (order, questions, reversals) = (bill.order, self.questions, self.reversals);
        Ok(match command.clone() {
            Ask::Prepare { .. } => vec![],
            // One payment, one authorisation.
            Ask::Request { payment_key } if self.key.as_ref().is_some_and(|known| *known != payment_key) => {
                return Err((Class::State, "other-payment-key"));
            }
            Ask::Request { payment_key } if self.stands == Status::Prepared => self.request(bill, payment_key),
            Ask::Request { .. } => vec![],
            Ask::Repeat => match self.key.clone().filter(|_| self.stands == Status::NotCharged) {
                Some(payment_key) => self.request(bill, payment_key),
                None => vec![],
            },
            Ask::RecordCapture { amount } => self.capture(bill, amount),
            Ask::RecordDecline { code, message } => self.moves(&OPEN, Status::Declined, Event::Declined { order, code, message }),
            Ask::RecordUnknown { reason } => self.hears(&OPEN[1..], Status::Unknown, Event::OutcomeUnknown { order, reason, questions }),
            Ask::RecordNotCharged { status } => self.hears(&OPEN[1..3], Status::NotCharged, Event::NotCharged { order, status, questions }),
            Ask::AskStatus => self.ask_status(bill),
            // While nobody knows whether the money was taken, nothing is given up.
            Ask::Expire => self.moves(&[Status::Prepared, Status::NotCharged], Status::Expired, Event::Expired { order }),
            Ask::Cancel => self.moves(
                &[Status::Prepared, Status::NotCharged],
                Status::Cancelled,
                Event::Cancelled { order },
            ),
            Ask::Reverse => return self.reverse(bill),
            Ask::RecordReversal => self.moves(
                &[Status::Reversing],
                Status::Reversed,
                Event::Reversed {
                    order,
                    amount: self.owed(bill),
                },
            ),
            Ask::RecordReversalUnknown { reason } => self.moves(
                &[Status::Reversing],
                Status::Reversing,
                Event::ReversalUnknown {
                    order,
                    reason,
                    attempts: reversals,
                },
            ),
            Ask::RecordReversalRefused { code, message } => {
                self.keeps_it |= self.stands == Status::Reversing;
                self.moves(
                    &[Status::Reversing],
                    Status::NeedsAttention,
                    Event::ReversalRefused { order, code, message },
                )
            }
            Ask::Resolve { outcome } => self.resolve(bill, outcome),
        })
    }

    fn check(&self, payment: &Payment) {
        assert_eq!(payment.bill(), self.bill.as_ref());
        assert_eq!(payment.status(), self.stands);
        assert_eq!(payment.payment_key(), self.key.as_ref());
    }

    fn may_repeat(&self, _: &Ask) -> bool {
        true
    }
}

fn key(number: u32) -> PaymentKey {
    format!("pk_{number}").parse().expect("a payment key")
}

fn prepare() -> impl Strategy<Value = Ask> {
    (order(), prop::sample::select(&[Method::Card, Method::Balance][..]), 0..2_i64).prop_map(|(order, method, more)| Ask::Prepare {
        order,
        buyer: AccountId::new(id(9)),
        amount: krw(PRICE + more),
        method,
    })
}

fn command() -> impl Strategy<Value = Ask> {
    let text = || "x".to_owned();
    prop_oneof![
        1 => prepare(),
        4 => prop_oneof![9 => Just(1), 1 => Just(2)].prop_map(|number| Ask::Request { payment_key: key(number) }),
        3 => Just(Ask::Repeat),
        3 => prop_oneof![4 => Just(0), 1 => Just(-1)].prop_map(|less| Ask::RecordCapture { amount: krw(PRICE + less) }),
        1 => Just(Ask::RecordDecline { code: text(), message: text() }),
        2 => Just(Ask::RecordUnknown { reason: text() }),
        3 => Just(Ask::RecordNotCharged { status: text() }),
        3 => Just(Ask::AskStatus),
        1 => Just(Ask::Expire),
        1 => Just(Ask::Cancel),
        4 => Just(Ask::Reverse),
        1 => Just(Ask::RecordReversal),
        1 => Just(Ask::RecordReversalUnknown { reason: text() }),
        2 => Just(Ask::RecordReversalRefused { code: text(), message: text() }),
        2 => prop::sample::select(&Resolution::ALL[..]).prop_map(|outcome| Ask::Resolve { outcome }),
    ]
}

/// The provider: what it did, and what it answered that has not arrived yet.
struct Provider {
    /// What it takes when it is asked for the price: sometimes something else.
    takes: Money,
    taken: bool,
    given_back: bool,
    /// Its final no, which no repeat changes.
    declined: bool,
    under_way: Vec<Ask>,
}

/// What the provider does with a call, and what becomes of its answer.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Done,
    DoneAndAnsweredTwice,
    DoneAndNotHeardOf,
    Lost,
    Refused,
}

/// What happens next to a payment.
#[derive(Clone, Debug)]
enum Turn {
    /// Its process asks something of it.
    Asked(Ask),
    /// One of the provider's answers arrives: whichever comes first.
    Arrives(prop::sample::Index),
    /// A person looks into the provider's books and says what is there.
    LookedUp,
}

impl Provider {
    fn new(takes: Money) -> Self {
        Self {
            takes,
            taken: false,
            given_back: false,
            declined: false,
            under_way: Vec::new(),
        }
    }

    /// The call that an event owes, and its answer.
    fn called(&mut self, event: &Event, fate: Fate) {
        let unheard = "no answer".to_owned();
        let (answer, silence) = match event {
            Event::Requested { .. } => (self.charge(fate), Ask::RecordUnknown { reason: unheard }),
            Event::StatusAsked { .. } => (self.look_up(), Ask::RecordUnknown { reason: unheard }),
            Event::ReversalRequested { amount, .. } => {
                assert_eq!(*amount, self.takes, "as much goes back as was taken");
                (self.give_back(fate), Ask::RecordReversalUnknown { reason: unheard })
            }
            _ => return,
        };
        match fate {
            Fate::Done | Fate::Refused => self.under_way.push(answer),
            Fate::DoneAndAnsweredTwice => self.under_way.extend([answer.clone(), answer]),
            Fate::DoneAndNotHeardOf | Fate::Lost => self.under_way.push(silence),
        }
    }

    /// All attempts go under one idempotency key: what was done once is answered the same for ever.
    fn charge(&mut self, fate: Fate) -> Ask {
        if matches!(fate, Fate::Refused) && !self.taken {
            self.declined = true;
        }
        if self.declined {
            return Ask::RecordDecline {
                code: "REJECTED".to_owned(),
                message: "no".to_owned(),
            };
        }
        self.taken |= !matches!(fate, Fate::Lost);
        Ask::RecordCapture { amount: self.takes }
    }

    fn look_up(&self) -> Ask {
        if self.taken {
            Ask::RecordCapture { amount: self.takes }
        } else {
            Ask::RecordNotCharged {
                status: "READY".to_owned(),
            }
        }
    }

    fn give_back(&mut self, fate: Fate) -> Ask {
        if matches!(fate, Fate::Refused) && !self.given_back {
            return Ask::RecordReversalRefused {
                code: "TOO_LATE".to_owned(),
                message: "no".to_owned(),
            };
        }
        self.given_back |= self.taken && !matches!(fate, Fate::Lost);
        Ask::RecordReversal
    }

    /// What a person finds in the books; none when no word fits it.
    fn books(&self) -> Option<Resolution> {
        match (self.taken, self.given_back) {
            (false, _) => Some(Resolution::NotCharged),
            (true, true) => Some(Resolution::Refunded),
            (true, false) => Some(Resolution::Charged).filter(|_| self.takes == krw(PRICE)),
        }
    }
}

fn turn() -> impl Strategy<Value = (Turn, Fate)> {
    let asked = prop::sample::select(vec![
        Ask::Request { payment_key: key(1) },
        Ask::Repeat,
        Ask::AskStatus,
        Ask::Expire,
        Ask::Cancel,
        Ask::Reverse,
    ]);
    let turn = prop_oneof![
        20 => asked.prop_map(Turn::Asked),
        30 => any::<prop::sample::Index>().prop_map(Turn::Arrives),
        1 => Just(Turn::LookedUp),
    ];
    let fates = [Fate::Done, Fate::DoneAndAnsweredTwice, Fate::DoneAndNotHeardOf, Fate::Lost];
    let fate = prop_oneof![12 => prop::sample::select(fates.to_vec()), 1 => Just(Fate::Refused)];
    (turn, fate)
}

/// Tells a payment something, and the provider what it owes for that.
fn tell(payment: &mut Payment, provider: &mut Provider, command: Ask, fate: Fate) {
    use aggregates::Decide as _;
    for event in payment.decide(command).unwrap_or_default() {
        payment.evolve(&event);
        provider.called(&event, fate);
    }
}

fn all_arrive(payment: &mut Payment, provider: &mut Provider) {
    while let Some(answer) = provider.under_way.pop() {
        tell(payment, provider, answer, Fate::Done);
    }
}

/// Asks until everything is known: a process that never gives up, a provider that answers at last, and an operator who has undone what
/// somebody has to look at.
fn settle(payment: &mut Payment, provider: &mut Provider) {
    for _ in 0..4 {
        all_arrive(payment, provider);
        tell(payment, provider, Ask::AskStatus, Fate::Done);
        all_arrive(payment, provider);
        if matches!(payment.status(), Status::Reversing | Status::NeedsAttention) {
            tell(payment, provider, Ask::Reverse, Fate::Done);
        }
    }
    all_arrive(payment, provider);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_payment_is_what_is_known_of_the_money((first, then) in (prepare(), steps(command()))) {
        walk::<Ledger>([first].into_iter().chain(then).collect());
    }

    #[test]
    fn a_payment_that_nobody_prepared_is_none(commands in prop::collection::vec(command(), 0..6)) {
        walk::<Ledger>(commands);
    }

    #[test]
    fn what_a_payment_believes_in_the_end_is_what_the_provider_did(
        (less, turns) in (prop_oneof![4 => Just(0), 1 => Just(1)], prop::collection::vec(turn(), 0..40))
    ) {
        let (mut payment, mut provider) = (Payment::default(), Provider::new(krw(PRICE - less)));
        let prepare = Ask::Prepare { order: aggregates::OrderId::new(id(1)), buyer: AccountId::new(id(9)), amount: krw(PRICE), method: Method::Card };
        tell(&mut payment, &mut provider, prepare, Fate::Done);
        for (turn, fate) in turns {
            match turn {
                Turn::Asked(command) => tell(&mut payment, &mut provider, command, fate),
                Turn::Arrives(which) if !provider.under_way.is_empty() => {
                    let answer = provider.under_way.remove(which.index(provider.under_way.len()));
                    tell(&mut payment, &mut provider, answer, fate);
                }
                Turn::Arrives(_) => {}
                Turn::LookedUp => if let Some(outcome) = provider.books() {
                    tell(&mut payment, &mut provider, Ask::Resolve { outcome }, fate);
                }
            }
            // It may not know yet; what it says it knows is so.
            match payment.status() {
                Status::Captured => prop_assert!(provider.taken && provider.takes == krw(PRICE)),
                Status::Reversing | Status::NeedsAttention => prop_assert!(provider.taken),
                Status::Reversed => prop_assert!(provider.taken && provider.given_back),
                Status::Prepared | Status::Declined => prop_assert!(!provider.taken),
                _ => {}
            }
        }
        settle(&mut payment, &mut provider);
        let kept = provider.taken && !provider.given_back;
        match payment.status() {
            Status::Captured => prop_assert!(kept && provider.takes == krw(PRICE)),
            Status::Reversed => prop_assert!(provider.taken && provider.given_back),
            Status::Prepared | Status::NotCharged | Status::Declined | Status::Expired | Status::Cancelled => prop_assert!(!provider.taken),
            other => prop_assert!(false, "{other:?} is no end"),
        }
    }
}
