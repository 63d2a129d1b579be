//! An order as a slip of paper: its lines with their prices, who is to move next, and how it ended.

use std::collections::{BTreeMap, BTreeSet};

use aggregates::{
    AccountId, Class, Currency, FailureCode, Line, Money, Obstacle, Offer, Order, OrderCommand as Ask, OrderEvent as Event, OrderId,
    OrderStatus as Status, PaymentId, PaymentMethod, PlaceOrder, ProductId, Quantity, RequestedLine, Resolution, Sealed, Timestamp,
    TrackingId, order::MOST_LINES,
};
use proptest::prelude::*;
use uuid::Uuid;

use crate::{Expected, Model, config, id, krw, steps, walk};

const BUYER: AccountId = AccountId::new(id(7));
const OPERATOR: AccountId = AccountId::new(id(6));

/// Nobody has paid and nobody has given up.
const UNPAID: [Status; 3] = [Status::Placed, Status::AwaitingPayment, Status::PaymentPending];
/// It ends or has ended without a sale: its process need not have heard of it.
const GIVEN_UP: [Status; 2] = [Status::Cancelling, Status::Cancelled];

#[derive(Default)]
struct Slip {
    placed: bool,
    stands: Status,
    /// Quantity and price, by product.
    lines: BTreeMap<ProductId, (u32, i64)>,
    payment: Option<PaymentId>,
    until: Option<Timestamp>,
    failure: Option<(FailureCode, Option<ProductId>)>,
    /// What it says of the provider that does not answer, or contradicts us.
    silence: Option<String>,
    /// What it says of each step that was set aside, the latest last.
    set_aside: Vec<(Uuid, String)>,
}

type Prices = Vec<(ProductId, Money)>;

impl Slip {
    fn stands_in(&self, any: &[Status]) -> bool {
        any.contains(&self.stands)
    }

    /// What a person has to look at. It hides where the order stands, and holds nothing up.
    fn complaint(&self) -> Option<&str> {
        self.silence.as_deref().or(self.set_aside.last().map(|(_, reason)| reason.as_str()))
    }

    fn becomes(&mut self, status: Status, event: Event) -> Vec<Event> {
        self.stands = status;
        vec![event]
    }

    fn wrong_state() -> Expected<Event> {
        Err((Class::State, "order-state"))
    }

    fn place(&mut self, place: PlaceOrder) -> Expected<Event> {
        let rule = |code| Err((Class::Rule, code));
        if !(1..=MOST_LINES).contains(&place.lines.len()) {
            return rule("line-count");
        }
        let Some(number) = place.number else {
            return rule("order-without-number");
        };
        let mut seen = BTreeSet::new();
        let mut lines = Vec::new();
        for line in place.lines {
            if !seen.insert(line.product) {
                return rule("duplicate-product");
            }
            let Some(offer) = line.offer else { return rule("unknown-product") };
            if line.stated_price.is_some_and(|stated| stated.currency() != offer.price.currency()) {
                return rule("currency-mismatch");
            }
            lines.push(Line {
                product: line.product,
                name: offer.name,
                seller: offer.seller,
                quantity: line.quantity,
                unit_price: line.stated_price.unwrap_or(offer.price),
                stated: line.stated_price.is_some(),
            });
        }
        lines.sort_by_key(|line| line.product);
        let priced: BTreeMap<_, _> = lines
            .iter()
            .map(|line| (line.product, (line.quantity.get(), line.unit_price.minor())))
            .collect();
        let Some(total) = total(&priced) else {
            return rule("total-too-large");
        };
        if place.stated_total.is_some_and(|stated| stated.currency() != Currency::KRW) {
            return rule("currency-mismatch");
        }
        self.placed = true;
        self.lines = priced;
        Ok(self.becomes(
            Status::Placed,
            Event::Placed {
                buyer: place.buyer,
                number,
                tracking: place.tracking,
                lines: lines.into(),
                total,
                stated_total: place.stated_total,
                address: place.address,
                method: place.method,
                payment_key: place.payment_key,
                at: place.at,
            },
        ))
    }

    fn reprice(&mut self, prices: Prices) -> Expected<Event> {
        let already = prices
            .iter()
            .all(|(product, price)| self.lines.get(product).is_some_and(|(_, known)| *known == price.minor()));
        if already || self.stands_in(&GIVEN_UP) {
            return Ok(vec![]);
        }
        if self.stands != Status::Placed {
            return Self::wrong_state();
        }
        let mut lines = self.lines.clone();
        // Where a product is named twice, the first counts.
        for (product, price) in prices.iter().rev() {
            if let Some((_, known)) = lines.get_mut(product) {
                *known = price.minor();
            }
        }
        let Some(total) = total(&lines) else {
            return Err((Class::Rule, "total-too-large"));
        };
        self.lines = lines;
        Ok(vec![Event::Repriced { prices, total }])
    }

    fn submit(&mut self, payment_key: aggregates::PaymentKey, amount: Money, at: Timestamp) -> Expected<Event> {
        let expired = matches!(self.failure, Some((FailureCode::PaymentExpired, _)));
        match (self.stands, self.payment, self.until) {
            (Status::Cancelled, ..) if expired => Err((Class::Gone, "payment-expired")),
            (Status::AwaitingPayment, Some(_), Some(until)) if at > until => Err((Class::Gone, "payment-expired")),
            (Status::AwaitingPayment, Some(_), Some(_)) if Some(amount) != total(&self.lines) => Err((Class::Rule, "amount-mismatch")),
            (Status::AwaitingPayment, Some(payment), Some(until)) => Ok(self.becomes(
                Status::PaymentPending,
                Event::PaymentSubmitted {
                    payment,
                    payment_key,
                    until,
                },
            )),
            _ => Err((Class::State, "order-not-awaiting-payment")),
        }
    }

    /// The process begins a payment: the buyer's turn, or the provider's.
    fn begin(&mut self, to: Status, payment: PaymentId, until: Timestamp, event: Event) -> Expected<Event> {
        let begun: &[Status] = match to {
            Status::AwaitingPayment => &[Status::AwaitingPayment, Status::PaymentPending, Status::Confirmed],
            _ => &[Status::PaymentPending, Status::Confirmed],
        };
        if self.stands_in(begun) && self.payment == Some(payment) || self.stands_in(&GIVEN_UP) {
            return Ok(vec![]);
        }
        if self.stands != Status::Placed {
            return Self::wrong_state();
        }
        (self.payment, self.until) = (Some(payment), Some(until));
        Ok(self.becomes(to, event))
    }

    fn confirm(&mut self, payment: PaymentId) -> Expected<Event> {
        match self.stands {
            Status::Confirmed if self.payment == Some(payment) => Ok(vec![]),
            // Money that was taken before a cancellation came through sells the goods.
            Status::Placed | Status::PaymentPending | Status::Cancelling => {
                self.payment = Some(payment);
                Ok(self.becomes(Status::Confirmed, Event::Confirmed { payment }))
            }
            _ => Self::wrong_state(),
        }
    }

    fn ask_cancellation(&mut self, by: AccountId, reason: Sealed, selling: bool) -> Expected<Event> {
        let wanted = matches!(
            self.failure,
            Some((FailureCode::CancelledByBuyer | FailureCode::CancelledByShop, _))
        );
        match self.stands {
            Status::Cancelling => Ok(vec![]),
            Status::Cancelled if wanted => Ok(vec![]),
            _ if self.stands_in(&UNPAID) && !selling => Ok(self.becomes(Status::Cancelling, Event::CancellationRequested { by, reason })),
            _ => Err((Class::State, "order-not-cancellable")),
        }
    }

    fn cancel(&mut self, failure: FailureCode, product: Option<ProductId>) -> Expected<Event> {
        match self.stands {
            Status::Cancelled => Ok(vec![]),
            _ if self.stands_in(&UNPAID) || self.stands == Status::Cancelling => {
                self.failure = Some((failure, product));
                Ok(self.becomes(Status::Cancelled, Event::Cancelled { failure, product }))
            }
            _ => Self::wrong_state(),
        }
    }
}

/// What people have to look at, and what they do about it.
impl Slip {
    fn complain(&mut self, cause: Obstacle, reason: String) -> Vec<Event> {
        let known = match cause {
            Obstacle::Provider => self.silence.as_ref(),
            Obstacle::SetAside(step) => self.set_aside.iter().find(|(known, _)| *known == step).map(|(_, reason)| reason),
        };
        // The same complaint once more is none.
        if known == Some(&reason) {
            return vec![];
        }
        match cause {
            Obstacle::Provider => self.silence = Some(reason.clone()),
            Obstacle::SetAside(step) => {
                self.strike_out(step);
                self.set_aside.push((step, reason.clone()));
            }
        }
        vec![Event::AttentionNeeded { cause, reason }]
    }

    fn calm(&mut self, cause: Obstacle) -> Vec<Event> {
        let known = match cause {
            Obstacle::Provider => self.silence.take(),
            Obstacle::SetAside(step) => self.strike_out(step),
        };
        known.map(|_| Event::AttentionEnded { cause }).into_iter().collect()
    }

    fn strike_out(&mut self, step: Uuid) -> Option<String> {
        let place = self.set_aside.iter().position(|(known, _)| *known == step)?;
        Some(self.set_aside.remove(place).1)
    }

    /// An operator's word answers all complaints at once; where there is none, nobody asked for it.
    fn act(&mut self, event: Event) -> Expected<Event> {
        if self.complaint().is_none() {
            return Err((Class::State, "order-not-stuck"));
        }
        self.silence = None;
        self.set_aside.clear();
        Ok(vec![event])
    }
}

/// The sum, as far as it can be counted.
fn total(lines: &BTreeMap<ProductId, (u32, i64)>) -> Option<Money> {
    let mut sum = 0_i128;
    for (quantity, price) in lines.values() {
        let line = i128::from(*quantity) * i128::from(*price);
        sum += Some(line).filter(|line| *line <= i128::from(Money::MAX_MINOR))?;
    }
    i64::try_from(sum).ok().filter(|sum| *sum <= Money::MAX_MINOR).map(krw)
}

impl Model for Slip {
    type Of = Order;

    fn tell(&mut self, command: &Ask) -> Expected<Event> {
        match command.clone() {
            Ask::Place(_) if self.placed => Err((Class::State, "order-exists")),
            Ask::Place(place) => self.place(*place),
            _ if !self.placed => Err((Class::Unknown, "unknown-order")),
            Ask::Reprice { prices } => self.reprice(prices),
            Ask::AwaitPayment { payment, until } => {
                self.begin(Status::AwaitingPayment, payment, until, Event::AwaitingPayment { payment, until })
            }
            Ask::StartPayment {
                payment,
                payment_key,
                until,
            } => self.begin(
                Status::PaymentPending,
                payment,
                until,
                Event::PaymentSubmitted {
                    payment,
                    payment_key,
                    until,
                },
            ),
            Ask::SubmitPayment { payment_key, amount, at } => self.submit(payment_key, amount, at),
            Ask::ExpirePayment { at } if self.stands == Status::AwaitingPayment && Some(at) >= self.until => {
                Ok(self.becomes(Status::Cancelling, Event::PaymentExpired {}))
            }
            Ask::ExpirePayment { .. } => Ok(vec![]),
            Ask::Confirm { payment } => self.confirm(payment),
            Ask::RequestCancellation { by, reason, selling } => self.ask_cancellation(by, reason, selling),
            Ask::Cancel { failure, product } => self.cancel(failure, product),
            Ask::NeedAttention { cause, reason } => Ok(self.complain(cause, reason)),
            Ask::EndAttention { cause } => Ok(self.calm(cause)),
            Ask::Resume { by } => self.act(Event::Resumed { by }),
            Ask::Resolve { by, outcome, reason } => self.act(Event::Resolved { by, outcome, reason }),
            Ask::Compensate { by, reason } => {
                let decided = self.act(Event::CompensationRequested { by, reason })?;
                // What has come to its end stays there: the payment's business is all that is left.
                if self.stands_in(&UNPAID) {
                    self.stands = Status::Cancelling;
                }
                Ok(decided)
            }
        }
    }

    fn check(&self, order: &Order) {
        assert_eq!(order.placed().is_some(), self.placed);
        let shows = if self.complaint().is_some() {
            Status::NeedsAttention
        } else {
            self.stands
        };
        assert_eq!(order.status(), shows);
        let lines = order
            .lines()
            .iter()
            .map(|line| (line.product, (line.quantity.get(), line.unit_price.minor())));
        assert!(lines.eq(self.lines.clone()), "{:?}", order.lines());
        assert_eq!(order.total(), total(&self.lines).filter(|_| self.placed));
        assert_eq!((order.payment(), order.pay_until()), (self.payment, self.until));
        assert_eq!(order.failure(), self.failure);
        assert_eq!(order.failure().is_some(), self.stands == Status::Cancelled);
        assert_eq!(order.attention(), self.complaint());
        let under_way = [Status::Placed, Status::PaymentPending, Status::Cancelling];
        assert_eq!(order.settled(), self.placed && !under_way.contains(&shows));
    }

    fn may_repeat(&self, _: &Ask) -> bool {
        true
    }
}

fn product(number: u128) -> ProductId {
    ProductId::new(id(number))
}

fn products() -> impl Strategy<Value = ProductId> {
    (1..5_u128).prop_map(product)
}

fn price() -> impl Strategy<Value = Money> {
    prop_oneof![10 => (0..4_i64).prop_map(krw), 1 => Just(krw(Money::MAX_MINOR)), 1 => Just(krw(Money::MAX_MINOR / 2))]
}

/// Now and then in dollars.
fn stated() -> impl Strategy<Value = Option<Money>> {
    let dollars = Money::new(1, "USD".parse().expect("a currency"));
    prop_oneof![6 => Just(None), 6 => price().prop_map(Some), 1 => Just(Some(dollars))]
}

fn line() -> impl Strategy<Value = RequestedLine> {
    let offer = price().prop_map(|price| Offer {
        seller: AccountId::new(id(8)),
        name: "coffee".parse().expect("a name"),
        price,
    });
    (products(), 1..4_i64, stated(), prop::option::weighted(0.97, offer)).prop_map(|(product, quantity, stated_price, offer)| {
        let quantity = Quantity::parse(quantity).expect("a quantity");
        RequestedLine {
            product,
            quantity,
            stated_price,
            offer,
        }
    })
}

fn place() -> impl Strategy<Value = Ask> {
    let lines = prop_oneof![
        8 => prop::collection::vec(line(), 1..3),
        1 => prop::collection::vec(line(), 0..6),
    ];
    let number = prop::option::weighted(0.95, Just("2026112100000001".parse().expect("an order number")));
    let method = prop::sample::select(&[PaymentMethod::Card, PaymentMethod::Balance][..]);
    (lines, stated(), number, method).prop_map(|(lines, stated_total, number, method)| {
        Ask::Place(Box::new(PlaceOrder {
            buyer: BUYER,
            lines,
            stated_total,
            address: Sealed::new("sealed"),
            method,
            payment_key: None,
            number,
            tracking: TrackingId::for_order(OrderId::default()),
            at: Timestamp::default(),
        }))
    })
}

fn command() -> impl Strategy<Value = Ask> {
    let payment = || prop_oneof![9 => Just(PaymentId::new(id(1))), 1 => Just(PaymentId::new(id(2)))];
    let moment = || (0..6_i64).prop_map(Timestamp::from_micros);
    let key = || "pk".parse().expect("a payment key");
    let failure = prop::sample::select(&FailureCode::ALL[..]);
    let cause = || prop_oneof![Just(Obstacle::Provider), (1..4_u128).prop_map(|step| Obstacle::SetAside(id(step)))];
    let words = prop::sample::select(&["nobody knows", "nobody answers", "nobody can read it"][..]);
    let (by, sealed) = (OPERATOR, || Sealed::new("sealed"));
    prop_oneof![
        1 => place(),
        3 => prop::collection::vec((products(), price()), 0..3).prop_map(|prices| Ask::Reprice { prices }),
        3 => (payment(), moment()).prop_map(|(payment, until)| Ask::AwaitPayment { payment, until }),
        2 => (payment(), moment()).prop_map(move |(payment, until)| Ask::StartPayment { payment, payment_key: key(), until }),
        3 => ((0..12_i64).prop_map(krw), moment()).prop_map(move |(amount, at)| Ask::SubmitPayment { payment_key: key(), amount, at }),
        2 => moment().prop_map(|at| Ask::ExpirePayment { at }),
        1 => payment().prop_map(|payment| Ask::Confirm { payment }),
        1 => prop::bool::ANY.prop_map(move |selling| Ask::RequestCancellation { by: BUYER, reason: sealed(), selling }),
        1 => (failure, prop::option::of(products())).prop_map(|(failure, product)| Ask::Cancel { failure, product }),
        3 => (cause(), words).prop_map(|(cause, reason)| Ask::NeedAttention { cause, reason: reason.to_owned() }),
        2 => cause().prop_map(|cause| Ask::EndAttention { cause }),
        1 => Just(Ask::Resume { by }),
        1 => Just(Ask::Compensate { by, reason: sealed() }),
        1 => prop::sample::select(&Resolution::ALL[..]).prop_map(move |outcome| Ask::Resolve { by, outcome, reason: sealed() }),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn an_order_is_what_its_slip_says((first, then) in (place(), steps(command()))) {
        walk::<Slip>([first].into_iter().chain(then).collect());
    }

    #[test]
    fn an_order_that_nobody_placed_is_none(commands in prop::collection::vec(command(), 0..6)) {
        walk::<Slip>(commands);
    }

    #[test]
    fn an_order_has_one_hundred_lines_and_no_more(count in 98..103_usize) {
        let offer = Offer { seller: AccountId::new(id(8)), name: "coffee".parse().expect("a name"), price: krw(1) };
        let line = |number: usize| RequestedLine {
            product: product(number as u128),
            quantity: Quantity::parse(1).expect("a quantity"),
            stated_price: None,
            offer: Some(offer.clone()),
        };
        let place = PlaceOrder {
            buyer: BUYER,
            lines: (0..count).map(line).collect(),
            stated_total: None,
            address: Sealed::new("sealed"),
            method: PaymentMethod::Card,
            payment_key: None,
            number: Some("2026112100000001".parse().expect("an order number")),
            tracking: TrackingId::default(),
            at: Timestamp::default(),
        };
        walk::<Slip>(vec![Ask::Place(Box::new(place))]);
    }
}
