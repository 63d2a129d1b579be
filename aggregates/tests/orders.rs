//! Orders: given what happened, when asked, then.

use aggregates::{
    AccountId, Currency, Decide, FailureCode, Line, Money, Obstacle, Offer, Order, OrderCommand as Ask, OrderError, OrderEvent as Event,
    OrderId, OrderStatus, PaymentId, PaymentKey, PaymentMethod, PlaceOrder, ProductId, Quantity, RequestedLine, Resolution, Sealed,
    Timestamp, TrackingId,
};
use cqrs_es::test::{AggregateTestExecutor, TestFramework};
use uuid::Uuid;

const BUYER: AccountId = AccountId::new(Uuid::from_u128(1));
const SELLER: AccountId = AccountId::new(Uuid::from_u128(2));
const PAYMENT: PaymentId = PaymentId::new(Uuid::from_u128(3));
const UNTIL: Timestamp = Timestamp::from_micros(1_000_000);

fn krw(minor: i64) -> Money {
    Money::new(minor, Currency::KRW)
}

fn usd(minor: i64) -> Money {
    Money::new(minor, "USD".parse().expect("dollars"))
}

fn product(number: u128) -> ProductId {
    ProductId::new(Uuid::from_u128(number))
}

fn key() -> PaymentKey {
    "pk".parse().expect("a payment key")
}

fn some(count: i64) -> Quantity {
    Quantity::parse(count).expect("a quantity")
}

/// Two of a product that costs 1,000 KRW.
fn requested(number: u128) -> RequestedLine {
    let offer = Offer {
        seller: SELLER,
        name: "Coffee".parse().expect("a name"),
        price: krw(1_000),
    };
    RequestedLine {
        product: product(number),
        quantity: some(2),
        stated_price: None,
        offer: Some(offer),
    }
}

fn line(number: u128, price: i64) -> Line {
    let name = "Coffee".parse().expect("a name");
    Line {
        product: product(number),
        name,
        seller: SELLER,
        quantity: some(2),
        unit_price: krw(price),
        stated: false,
    }
}

fn request(lines: Vec<RequestedLine>) -> PlaceOrder {
    PlaceOrder {
        buyer: BUYER,
        lines,
        stated_total: None,
        address: Sealed::new("sealed"),
        method: PaymentMethod::Card,
        payment_key: None,
        number: Some("2026112100000001".parse().expect("an order number")),
        tracking: TrackingId::for_order(OrderId::default()),
        at: Timestamp::default(),
    }
}

fn place(request: PlaceOrder) -> Ask {
    Ask::Place(Box::new(request))
}

fn placed_with(lines: Vec<Line>, total: i64) -> Event {
    Event::Placed {
        buyer: BUYER,
        number: "2026112100000001".parse().expect("an order number"),
        tracking: TrackingId::for_order(OrderId::default()),
        lines: lines.into(),
        total: krw(total),
        stated_total: None,
        address: Sealed::new("sealed"),
        method: PaymentMethod::Card,
        payment_key: None,
        at: Timestamp::default(),
    }
}

fn placed() -> Event {
    placed_with(vec![line(1, 1_000), line(2, 1_000)], 4_000)
}

fn awaiting() -> Event {
    Event::AwaitingPayment {
        payment: PAYMENT,
        until: UNTIL,
    }
}

fn submitted() -> Event {
    Event::PaymentSubmitted {
        payment: PAYMENT,
        payment_key: key(),
        until: UNTIL,
    }
}

fn confirmed() -> Event {
    Event::Confirmed { payment: PAYMENT }
}

fn cancellation() -> Event {
    Event::CancellationRequested {
        by: BUYER,
        reason: Sealed::new("sealed"),
    }
}

fn cancelled(failure: FailureCode) -> Event {
    Event::Cancelled { failure, product: None }
}

fn new() -> AggregateTestExecutor<Order> {
    TestFramework::<Order>::with(()).given_no_previous_events()
}

/// An order to which this happened after it was placed.
fn order(events: impl IntoIterator<Item = Event>) -> AggregateTestExecutor<Order> {
    TestFramework::<Order>::with(()).given([placed()].into_iter().chain(events).collect())
}

fn submit(amount: Money, at: Timestamp) -> Ask {
    Ask::SubmitPayment {
        payment_key: key(),
        amount,
        at,
    }
}

fn cancel(failure: FailureCode) -> Ask {
    Ask::Cancel { failure, product: None }
}

fn request_cancellation() -> Ask {
    cancellation_of_what_is(false)
}

fn cancellation_of_what_is(selling: bool) -> Ask {
    Ask::RequestCancellation {
        by: BUYER,
        reason: Sealed::new("sealed"),
        selling,
    }
}

fn start() -> Ask {
    Ask::StartPayment {
        payment: PAYMENT,
        payment_key: key(),
        until: UNTIL,
    }
}

fn await_payment() -> Ask {
    Ask::AwaitPayment {
        payment: PAYMENT,
        until: UNTIL,
    }
}

#[test]
fn an_order_is_placed_once_with_its_lines_in_ascending_product_id() {
    new()
        .when(place(request(vec![requested(2), requested(1)])))
        .then_expect_events(vec![placed()]);
    order([])
        .when(place(request(vec![requested(1)])))
        .then_expect_error(OrderError::Exists);
}

#[test]
fn nothing_can_be_asked_of_an_order_that_was_never_placed() {
    for ask in [
        submit(krw(1), UNTIL),
        request_cancellation(),
        cancel(FailureCode::OutOfStock),
        Ask::Confirm { payment: PAYMENT },
        start(),
    ] {
        new().when(ask).then_expect_error(OrderError::Unknown);
    }
}

#[test]
fn an_order_has_1_to_100_lines_each_product_once() {
    new().when(place(request(vec![]))).then_expect_error(OrderError::LineCount);
    new()
        .when(place(request((1..=101).map(requested).collect())))
        .then_expect_error(OrderError::LineCount);
    assert_eq!(
        new()
            .when(place(request((1..=100).map(requested).collect())))
            .inspect_result()
            .map(|events| events.len()),
        Ok(1)
    );
    new()
        .when(place(request(vec![requested(1), requested(2), requested(1)])))
        .then_expect_error(OrderError::DuplicateProduct(2));
}

#[test]
fn an_order_names_products_that_are_offered_in_the_shop_s_currency_and_a_total_that_can_be_counted() {
    let unknown = RequestedLine {
        offer: None,
        ..requested(2)
    };
    new()
        .when(place(request(vec![requested(1), unknown])))
        .then_expect_error(OrderError::UnknownProduct(1));
    let dollars = RequestedLine {
        stated_price: Some(usd(1_000)),
        ..requested(1)
    };
    new()
        .when(place(request(vec![dollars])))
        .then_expect_error(OrderError::CurrencyMismatch(Currency::KRW));
    let total = PlaceOrder {
        stated_total: Some(usd(2_000)),
        ..request(vec![requested(1)])
    };
    new()
        .when(place(total))
        .then_expect_error(OrderError::CurrencyMismatch(Currency::KRW));
    let dear = |number| RequestedLine {
        stated_price: Some(krw(Money::MAX_MINOR)),
        quantity: some(1),
        ..requested(number)
    };
    new()
        .when(place(request(vec![dear(1), dear(2)])))
        .then_expect_error(OrderError::TooLarge);
    new()
        .when(place(request(vec![RequestedLine {
            quantity: some(2),
            ..dear(1)
        }])))
        .then_expect_error(OrderError::TooLarge);
    new()
        .when(place(PlaceOrder {
            number: None,
            ..request(vec![requested(1)])
        }))
        .then_expect_error(OrderError::NoNumber);
}

#[test]
fn a_stated_price_is_kept_as_the_buyer_named_it() {
    let line_1 = Line {
        stated: true,
        ..line(1, 900)
    };
    let stated = RequestedLine {
        stated_price: Some(krw(900)),
        ..requested(1)
    };
    new()
        .when(place(request(vec![stated])))
        .then_expect_events(vec![placed_with(vec![line_1], 1_800)]);
}

#[test]
fn locked_prices_make_a_new_total() {
    let prices = vec![(product(2), krw(1_500))];
    let repriced = Event::Repriced {
        prices: prices.clone(),
        total: krw(5_000),
    };
    order([])
        .when(Ask::Reprice { prices: prices.clone() })
        .then_expect_events(vec![repriced.clone()]);
    order([repriced.clone()])
        .when(Ask::Reprice { prices: prices.clone() })
        .then_expect_events(vec![]);
    order([repriced, awaiting()])
        .when(Ask::Reprice { prices: prices.clone() })
        .then_expect_events(vec![]);
    order([awaiting()])
        .when(Ask::Reprice { prices: prices.clone() })
        .then_expect_error(OrderError::NotAllowed("AWAITING_PAYMENT"));
    order([cancellation()]).when(Ask::Reprice { prices }).then_expect_events(vec![]);
    let endless = Ask::Reprice {
        prices: vec![(product(1), krw(i64::MAX))],
    };
    order([]).when(endless).then_expect_error(OrderError::TooLarge);
}

#[test]
fn a_reserved_order_waits_for_its_payment_or_starts_it() {
    order([]).when(await_payment()).then_expect_events(vec![awaiting()]);
    order([]).when(start()).then_expect_events(vec![submitted()]);
    order([awaiting()]).when(await_payment()).then_expect_events(vec![]);
    order([submitted()]).when(start()).then_expect_events(vec![]);
    order([submitted()])
        .when(Ask::StartPayment {
            payment: PaymentId::default(),
            payment_key: key(),
            until: UNTIL,
        })
        .then_expect_error(OrderError::NotAllowed("PAYMENT_PENDING"));
    for gone in [cancellation(), cancelled(FailureCode::CancelledByBuyer)] {
        order([gone.clone()]).when(await_payment()).then_expect_events(vec![]);
        order([gone]).when(start()).then_expect_events(vec![]);
    }
}

#[test]
fn the_buyer_pays_the_whole_order_in_time() {
    order([awaiting()])
        .when(submit(krw(4_000), UNTIL))
        .then_expect_events(vec![submitted()]);
    order([awaiting()])
        .when(submit(krw(3_999), UNTIL))
        .then_expect_error(OrderError::AmountMismatch(krw(4_000)));
    order([awaiting()])
        .when(submit(usd(4_000), UNTIL))
        .then_expect_error(OrderError::AmountMismatch(krw(4_000)));
    let late = Timestamp::from_micros(1_000_001);
    order([awaiting()])
        .when(submit(krw(4_000), late))
        .then_expect_error(OrderError::PaymentExpired(UNTIL));
}

#[test]
fn an_order_that_does_not_wait_for_a_payment_takes_none() {
    order([])
        .when(submit(krw(4_000), UNTIL))
        .then_expect_error(OrderError::NotAwaitingPayment("PLACED"));
    order([submitted()])
        .when(submit(krw(4_000), UNTIL))
        .then_expect_error(OrderError::NotAwaitingPayment("PAYMENT_PENDING"));
    order([confirmed()])
        .when(submit(krw(4_000), UNTIL))
        .then_expect_error(OrderError::NotAwaitingPayment("CONFIRMED"));
    let expired = [awaiting(), Event::PaymentExpired {}, cancelled(FailureCode::PaymentExpired)];
    order(expired)
        .when(submit(krw(4_000), UNTIL))
        .then_expect_error(OrderError::PaymentExpired(UNTIL));
}

#[test]
fn the_time_to_pay_ends_when_it_is_over_and_only_while_the_order_waits() {
    let expire = |micros| Ask::ExpirePayment {
        at: Timestamp::from_micros(micros),
    };
    order([awaiting()])
        .when(expire(1_000_000))
        .then_expect_events(vec![Event::PaymentExpired {}]);
    order([awaiting()]).when(expire(999_999)).then_expect_events(vec![]);
    for other in [submitted(), confirmed(), cancellation(), cancelled(FailureCode::OutOfStock)] {
        order([awaiting(), other]).when(expire(1_000_000)).then_expect_events(vec![]);
    }
}

#[test]
fn a_paid_order_is_confirmed_even_if_a_cancellation_came_while_its_goods_were_sold() {
    let confirm = Ask::Confirm { payment: PAYMENT };
    order([]).when(confirm.clone()).then_expect_events(vec![confirmed()]);
    order([submitted()]).when(confirm.clone()).then_expect_events(vec![confirmed()]);
    order([submitted(), cancellation()])
        .when(confirm.clone())
        .then_expect_events(vec![confirmed()]);
    order([confirmed()]).when(confirm.clone()).then_expect_events(vec![]);
    order([cancelled(FailureCode::OutOfStock)])
        .when(confirm)
        .then_expect_error(OrderError::NotAllowed("CANCELLED"));
}

#[test]
fn an_order_can_be_cancelled_until_it_is_confirmed() {
    for before in [vec![], vec![awaiting()], vec![submitted()]] {
        order(before).when(request_cancellation()).then_expect_events(vec![cancellation()]);
    }
    order([confirmed()])
        .when(request_cancellation())
        .then_expect_error(OrderError::NotCancellable("CONFIRMED"));
    order([cancelled(FailureCode::OutOfStock)])
        .when(request_cancellation())
        .then_expect_error(OrderError::NotCancellable("CANCELLED"));
    // Paid, but not confirmed yet: other shards still write down what they have sold.
    for before in [vec![], vec![submitted()]] {
        order(before)
            .when(cancellation_of_what_is(true))
            .then_expect_error(OrderError::BeingSold);
    }
    // Asking for what is already so is no error.
    order([cancellation()]).when(request_cancellation()).then_expect_events(vec![]);
    order([cancelled(FailureCode::CancelledByBuyer)])
        .when(request_cancellation())
        .then_expect_events(vec![]);
}

#[test]
fn an_order_comes_to_nothing_once_and_never_after_it_is_confirmed() {
    for before in [vec![], vec![awaiting()], vec![submitted()], vec![cancellation()]] {
        order(before)
            .when(cancel(FailureCode::OutOfStock))
            .then_expect_events(vec![cancelled(FailureCode::OutOfStock)]);
    }
    order([cancelled(FailureCode::OutOfStock)])
        .when(cancel(FailureCode::PaymentDeclined))
        .then_expect_events(vec![]);
    order([confirmed()])
        .when(cancel(FailureCode::OutOfStock))
        .then_expect_error(OrderError::NotAllowed("CONFIRMED"));
}

fn needed() -> Event {
    Event::AttentionNeeded {
        cause: Obstacle::Provider,
        reason: "why".to_owned(),
    }
}

fn set_aside() -> Event {
    Event::AttentionNeeded {
        cause: Obstacle::SetAside(Uuid::nil()),
        reason: "broken".to_owned(),
    }
}

fn need(cause: Obstacle) -> Ask {
    let reason = if cause == Obstacle::Provider { "why" } else { "broken" };
    Ask::NeedAttention {
        cause,
        reason: reason.to_owned(),
    }
}

const ASIDE: Obstacle = Obstacle::SetAside(Uuid::nil());
const ASIDE_TOO: Obstacle = Obstacle::SetAside(Uuid::max());

#[test]
fn an_order_asks_for_a_person_once_for_each_thing_that_is_in_the_way() {
    use Obstacle::Provider;
    order([submitted()]).when(need(Provider)).then_expect_events(vec![needed()]);
    order([cancelled(FailureCode::PaymentExpired)])
        .when(need(Provider))
        .then_expect_events(vec![needed()]);
    order([submitted(), needed()]).when(need(Provider)).then_expect_events(vec![]);
    order([submitted(), set_aside()])
        .when(need(Provider))
        .then_expect_events(vec![needed()]);
    order([submitted(), set_aside()]).when(need(ASIDE)).then_expect_events(vec![]);
    order([submitted(), set_aside()])
        .when(need(ASIDE_TOO))
        .then_expect_events(vec![Event::AttentionNeeded {
            cause: ASIDE_TOO,
            reason: "broken".to_owned(),
        }]);
    // Another reason is news.
    let reason = "the provider will not give it back".to_owned();
    order([submitted(), needed()])
        .when(Ask::NeedAttention {
            cause: Provider,
            reason: reason.clone(),
        })
        .then_expect_events(vec![Event::AttentionNeeded { cause: Provider, reason }]);
}

#[test]
fn what_is_in_the_way_is_in_the_way_until_it_ends() {
    use Obstacle::Provider;
    let end = |cause| Ask::EndAttention { cause };
    let ended = |cause| Event::AttentionEnded { cause };
    order([submitted()]).when(end(Provider)).then_expect_events(vec![]);
    order([submitted(), set_aside()]).when(end(ASIDE_TOO)).then_expect_events(vec![]);
    order([submitted(), needed()])
        .when(end(Provider))
        .then_expect_events(vec![ended(Provider)]);
    let mut order = Order::default();
    order.evolve(&placed());
    let too = Event::AttentionNeeded {
        cause: ASIDE_TOO,
        reason: "broken".to_owned(),
    };
    for event in [set_aside(), needed(), too, ended(Provider), ended(ASIDE_TOO)] {
        order.evolve(&event);
        assert_eq!(order.status(), OrderStatus::NeedsAttention);
    }
    order.evolve(&ended(ASIDE));
    assert_eq!((order.status(), order.attention()), (OrderStatus::Placed, None));
}

#[test]
fn an_operator_acts_on_an_order_that_waits_for_a_person_and_on_no_other() {
    let operator = AccountId::new(Uuid::from_u128(0x0b));
    let sealed = || Sealed::new("sealed");
    let resolve = || Ask::Resolve {
        by: operator,
        outcome: Resolution::Charged,
        reason: sealed(),
    };
    let compensate = || Ask::Compensate {
        by: operator,
        reason: sealed(),
    };
    order([submitted(), needed()])
        .when(Ask::Resume { by: operator })
        .then_expect_events(vec![Event::Resumed { by: operator }]);
    order([submitted(), needed()])
        .when(compensate())
        .then_expect_events(vec![Event::CompensationRequested {
            by: operator,
            reason: sealed(),
        }]);
    order([submitted(), needed()])
        .when(resolve())
        .then_expect_events(vec![Event::Resolved {
            by: operator,
            outcome: Resolution::Charged,
            reason: sealed(),
        }]);
    for ask in [Ask::Resume { by: operator }, compensate(), resolve()] {
        order([submitted()])
            .when(ask.clone())
            .then_expect_error(OrderError::NotStuck("PAYMENT_PENDING"));
        order([submitted(), needed(), Event::Resumed { by: operator }])
            .when(ask.clone())
            .then_expect_error(OrderError::NotStuck("PAYMENT_PENDING"));
        new().when(ask).then_expect_error(OrderError::Unknown);
    }
}

#[test]
fn an_order_that_waits_for_a_person_goes_on_where_it_stood() {
    order([submitted(), needed()])
        .when(Ask::Confirm { payment: PAYMENT })
        .then_expect_events(vec![confirmed()]);
    order([submitted(), needed()])
        .when(Ask::EndAttention { cause: Obstacle::Provider })
        .then_expect_events(vec![Event::AttentionEnded { cause: Obstacle::Provider }]);
    order([submitted()])
        .when(Ask::EndAttention { cause: Obstacle::Provider })
        .then_expect_events(vec![]);
    let mut order = Order::default();
    for (event, status) in [
        (placed(), OrderStatus::Placed),
        (submitted(), OrderStatus::PaymentPending),
        (needed(), OrderStatus::NeedsAttention),
        (cancellation(), OrderStatus::NeedsAttention),
        (Event::AttentionEnded { cause: Obstacle::Provider }, OrderStatus::Cancelling),
        (cancelled(FailureCode::CancelledByBuyer), OrderStatus::Cancelled),
        (needed(), OrderStatus::NeedsAttention),
        (Event::Resumed { by: BUYER }, OrderStatus::Cancelled),
    ] {
        order.evolve(&event);
        assert_eq!(order.status(), status, "after {event:?}");
    }
}
