//! Wallets and payments: given what happened, when asked, then.

use aggregates::{
    AccountId, Currency, Money, OrderId, Payment, PaymentCommand as Ask, PaymentError, PaymentEvent as Event, PaymentId, PaymentKey,
    PaymentMethod, Resolution, Wallet, WalletCommand, WalletError, WalletEvent,
};
use cqrs_es::test::{AggregateTestExecutor, TestFramework};
use uuid::Uuid;

const ORDER: OrderId = OrderId::new(Uuid::from_u128(1));
const BUYER: AccountId = AccountId::new(Uuid::from_u128(2));
const PAYMENT: PaymentId = PaymentId::new(Uuid::from_u128(3));
const PRICE: Money = Money::new(5_000, Currency::KRW);

fn krw(minor: i64) -> Money {
    Money::new(minor, Currency::KRW)
}

fn usd(minor: i64) -> Money {
    Money::new(minor, "USD".parse().expect("dollars"))
}

// Wallet.

fn wallet(events: impl Into<Vec<WalletEvent>>) -> AggregateTestExecutor<Wallet> {
    TestFramework::<Wallet>::with(()).given(events.into())
}

fn with(minor: i64) -> AggregateTestExecutor<Wallet> {
    wallet([
        WalletEvent::Opened { currency: Currency::KRW },
        WalletEvent::Deposited { amount: krw(minor) },
    ])
}

fn debit(amount: Money) -> WalletCommand {
    WalletCommand::Debit {
        payment: PAYMENT,
        order: ORDER,
        amount,
    }
}

fn credit(amount: Money) -> WalletCommand {
    WalletCommand::Credit {
        payment: PAYMENT,
        order: ORDER,
        amount,
    }
}

#[test]
fn a_wallet_is_opened_once() {
    let open = WalletCommand::Open { currency: Currency::KRW };
    wallet([])
        .when(open.clone())
        .then_expect_events(vec![WalletEvent::Opened { currency: Currency::KRW }]);
    with(1).when(open).then_expect_events(vec![]);
}

#[test]
fn deposits_are_positive_in_the_wallet_s_currency_and_can_be_counted() {
    let deposit = |amount| WalletCommand::Deposit { amount };
    with(1)
        .when(deposit(krw(5)))
        .then_expect_events(vec![WalletEvent::Deposited { amount: krw(5) }]);
    with(1).when(deposit(krw(0))).then_expect_error(WalletError::NotPositive);
    with(1).when(deposit(krw(-5))).then_expect_error(WalletError::NotPositive);
    with(1)
        .when(deposit(usd(5)))
        .then_expect_error(WalletError::CurrencyMismatch(Currency::KRW));
    with(1).when(deposit(krw(Money::MAX_MINOR))).then_expect_error(WalletError::TooMuch);
    wallet([]).when(deposit(krw(5))).then_expect_error(WalletError::Unknown);
}

#[test]
fn a_wallet_pays_to_its_last_won_and_not_one_more() {
    let paid = |amount| WalletEvent::Debited {
        payment: PAYMENT,
        order: ORDER,
        amount,
    };
    let refused = |amount| WalletEvent::DebitRefused {
        payment: PAYMENT,
        order: ORDER,
        amount,
    };
    with(5).when(debit(krw(5))).then_expect_events(vec![paid(krw(5))]);
    with(5).when(debit(krw(6))).then_expect_events(vec![refused(krw(6))]);
    with(5).when(debit(krw(-1))).then_expect_events(vec![refused(krw(-1))]);
    with(5).when(debit(krw(i64::MIN))).then_expect_events(vec![refused(krw(i64::MIN))]);
    with(5).when(debit(usd(1))).then_expect_events(vec![refused(usd(1))]);
    wallet([]).when(debit(krw(1))).then_expect_events(vec![refused(krw(1))]);
}

#[test]
fn what_was_taken_goes_back_even_nothing_and_even_into_a_full_wallet() {
    let back = |amount| WalletEvent::Credited {
        payment: PAYMENT,
        order: ORDER,
        amount,
    };
    with(5).when(credit(krw(5))).then_expect_events(vec![back(krw(5))]);
    with(5).when(credit(krw(0))).then_expect_events(vec![back(krw(0))]);
    with(Money::MAX_MINOR).when(credit(krw(1))).then_expect_events(vec![back(krw(1))]);
    with(5).when(credit(krw(-1))).then_expect_error(WalletError::NotPositive);
    with(5).when(credit(krw(i64::MAX))).then_expect_error(WalletError::TooMuch);
    with(5)
        .when(credit(usd(1)))
        .then_expect_error(WalletError::CurrencyMismatch(Currency::KRW));
    wallet([]).when(credit(krw(1))).then_expect_error(WalletError::Unknown);
}

// Payment.

fn key(text: &str) -> PaymentKey {
    text.parse().expect("a payment key")
}

fn prepared(method: PaymentMethod) -> Event {
    Event::Prepared {
        order: ORDER,
        buyer: BUYER,
        amount: PRICE,
        method,
    }
}

fn requested(attempt: u32) -> Event {
    Event::Requested {
        order: ORDER,
        payment_key: key("pk"),
        amount: PRICE,
        attempt,
    }
}

fn captured() -> Event {
    Event::Captured {
        order: ORDER,
        amount: PRICE,
    }
}

fn unknown(questions: u32) -> Event {
    Event::OutcomeUnknown {
        order: ORDER,
        reason: "timeout".to_owned(),
        questions,
    }
}

fn not_charged(questions: u32) -> Event {
    Event::NotCharged {
        order: ORDER,
        status: "READY".to_owned(),
        questions,
    }
}

fn reversal(attempt: u32) -> Event {
    Event::ReversalRequested {
        order: ORDER,
        buyer: BUYER,
        payment_key: Some(key("pk")),
        amount: PRICE,
        attempt,
    }
}

fn declined() -> Event {
    Event::Declined {
        order: ORDER,
        code: "NO".to_owned(),
        message: "no".to_owned(),
    }
}

/// A card payment to which this happened after it was prepared.
fn card(events: impl IntoIterator<Item = Event>) -> AggregateTestExecutor<Payment> {
    let events = [prepared(PaymentMethod::Card)].into_iter().chain(events).collect();
    TestFramework::<Payment>::with(()).given(events)
}

fn decline() -> Ask {
    Ask::RecordDecline {
        code: "NO".to_owned(),
        message: "no".to_owned(),
    }
}

fn say_unknown() -> Ask {
    Ask::RecordUnknown {
        reason: "timeout".to_owned(),
    }
}

fn say_not_charged() -> Ask {
    Ask::RecordNotCharged {
        status: "READY".to_owned(),
    }
}

fn capture() -> Ask {
    Ask::RecordCapture { amount: PRICE }
}

#[test]
fn a_payment_is_prepared_once() {
    let prepare = Ask::Prepare {
        order: ORDER,
        buyer: BUYER,
        amount: PRICE,
        method: PaymentMethod::Card,
    };
    let new = || TestFramework::<Payment>::with(()).given_no_previous_events();
    new().when(prepare.clone()).then_expect_events(vec![prepared(PaymentMethod::Card)]);
    card([]).when(prepare).then_expect_events(vec![]);
    new().when(capture()).then_expect_error(PaymentError::Unknown);
}

#[test]
fn the_provider_is_asked_once_and_under_one_payment_key() {
    card([])
        .when(Ask::Request { payment_key: key("pk") })
        .then_expect_events(vec![requested(1)]);
    for after in [
        vec![requested(1)],
        vec![requested(1), unknown(0)],
        vec![requested(1), captured()],
        vec![requested(1), declined()],
    ] {
        card(after).when(Ask::Request { payment_key: key("pk") }).then_expect_events(vec![]);
    }
    card([requested(1)])
        .when(Ask::Request { payment_key: key("other") })
        .then_expect_error(PaymentError::OtherKey);
}

#[test]
fn an_attempt_is_repeated_only_when_the_provider_took_nothing() {
    card([requested(1), unknown(0), not_charged(1)])
        .when(Ask::Repeat)
        .then_expect_events(vec![requested(2)]);
    card([requested(1), unknown(0)]).when(Ask::Repeat).then_expect_events(vec![]);
    card([requested(1)]).when(Ask::Repeat).then_expect_events(vec![]);
    card([requested(1), captured()]).when(Ask::Repeat).then_expect_events(vec![]);
}

#[test]
fn money_that_was_taken_is_taken_however_late_the_news_is() {
    let ends = [
        Event::Expired { order: ORDER },
        Event::Cancelled { order: ORDER },
        declined(),
        unknown(3),
        not_charged(3),
    ];
    for end in ends {
        card([requested(1), end]).when(capture()).then_expect_events(vec![captured()]);
    }
    card([requested(1), captured()]).when(capture()).then_expect_events(vec![]);
    card([requested(1), captured(), reversal(1)])
        .when(capture())
        .then_expect_events(vec![]);
}

#[test]
fn another_amount_than_the_bill_is_a_contradiction_and_no_capture() {
    for found in [krw(4_999), krw(5_001), krw(0), usd(5_000)] {
        let contradicted = Event::Contradicted {
            order: ORDER,
            expected: PRICE,
            found,
        };
        card([requested(1)])
            .when(Ask::RecordCapture { amount: found })
            .then_expect_events(vec![contradicted]);
    }
}

#[test]
fn a_refusal_ends_a_payment_unless_it_has_ended_already() {
    for before in [
        vec![],
        vec![requested(1)],
        vec![requested(1), unknown(0)],
        vec![requested(1), not_charged(1)],
    ] {
        card(before).when(decline()).then_expect_events(vec![declined()]);
    }
    card([requested(1), captured()]).when(decline()).then_expect_events(vec![]);
    card([requested(1), declined()]).when(decline()).then_expect_events(vec![]);
}

#[test]
fn questions_are_counted_and_their_answers_remember_the_count() {
    let asked = |question| Event::StatusAsked {
        order: ORDER,
        payment_key: key("pk"),
        question,
    };
    card([requested(1)]).when(say_unknown()).then_expect_events(vec![unknown(0)]);
    card([requested(1), unknown(0)])
        .when(Ask::AskStatus)
        .then_expect_events(vec![asked(1)]);
    card([requested(1), unknown(0), asked(1)])
        .when(say_unknown())
        .then_expect_events(vec![unknown(1)]);
    card([requested(1), unknown(0), asked(1)])
        .when(say_not_charged())
        .then_expect_events(vec![not_charged(1)]);
    card([]).when(Ask::AskStatus).then_expect_events(vec![]);
    card([requested(1), captured()]).when(Ask::AskStatus).then_expect_events(vec![]);
}

#[test]
fn a_payment_that_has_ended_without_money_is_still_asked_about() {
    let asked = Event::StatusAsked {
        order: ORDER,
        payment_key: key("pk"),
        question: 1,
    };
    for end in [Event::Expired { order: ORDER }, Event::Cancelled { order: ORDER }] {
        let given = || card([requested(1), not_charged(0), end.clone()]);
        given().when(Ask::AskStatus).then_expect_events(vec![asked.clone()]);
        given()
            .and(vec![asked.clone()])
            .when(say_not_charged())
            .then_expect_events(vec![not_charged(1)]);
        given()
            .and(vec![asked.clone()])
            .when(say_unknown())
            .then_expect_events(vec![unknown(1)]);
        // It stays ended: nothing is tried again.
        given()
            .and(vec![asked.clone(), not_charged(1)])
            .when(Ask::Repeat)
            .then_expect_events(vec![]);
    }
}

#[test]
fn nothing_expires_or_is_cancelled_while_the_provider_has_the_word() {
    for (ask, event) in [
        (Ask::Expire, Event::Expired { order: ORDER }),
        (Ask::Cancel, Event::Cancelled { order: ORDER }),
    ] {
        card([]).when(ask.clone()).then_expect_events(vec![event.clone()]);
        card([requested(1), not_charged(1)])
            .when(ask.clone())
            .then_expect_events(vec![event.clone()]);
        for under_way in [vec![requested(1)], vec![requested(1), unknown(0)], vec![requested(1), captured()]] {
            card(under_way).when(ask.clone()).then_expect_events(vec![]);
        }
        card([event]).when(ask).then_expect_events(vec![]);
    }
}

#[test]
fn only_money_that_was_taken_is_given_back() {
    card([requested(1), captured()])
        .when(Ask::Reverse)
        .then_expect_events(vec![reversal(1)]);
    card([requested(1), captured(), reversal(1)])
        .when(Ask::Reverse)
        .then_expect_events(vec![reversal(2)]);
    card([requested(1)])
        .when(Ask::Reverse)
        .then_expect_error(PaymentError::NotAllowed("PENDING"));
    let back = Event::Reversed {
        order: ORDER,
        amount: PRICE,
    };
    card([requested(1), captured(), reversal(1), back])
        .when(Ask::Reverse)
        .then_expect_events(vec![]);
}

#[test]
fn the_balance_gives_back_once() {
    let asked = Event::ReversalRequested {
        order: ORDER,
        buyer: BUYER,
        payment_key: None,
        amount: PRICE,
        attempt: 1,
    };
    let given = |events: Vec<Event>| {
        TestFramework::<Payment>::with(())
            .given(vec![prepared(PaymentMethod::Balance), captured()])
            .and(events)
    };
    given(vec![]).when(Ask::Reverse).then_expect_events(vec![asked.clone()]);
    given(vec![asked]).when(Ask::Reverse).then_expect_events(vec![]);
}

#[test]
fn a_reversal_ends_by_the_provider_s_word() {
    let given = || card([requested(1), captured(), reversal(1)]);
    let (code, message, reason) = ("NO".to_owned(), "no".to_owned(), "timeout".to_owned());
    given().when(Ask::RecordReversal).then_expect_events(vec![Event::Reversed {
        order: ORDER,
        amount: PRICE,
    }]);
    given()
        .when(Ask::RecordReversalUnknown { reason: reason.clone() })
        .then_expect_events(vec![Event::ReversalUnknown {
            order: ORDER,
            reason: reason.clone(),
            attempts: 1,
        }]);
    given()
        .when(Ask::RecordReversalRefused {
            code: code.clone(),
            message: message.clone(),
        })
        .then_expect_events(vec![Event::ReversalRefused {
            order: ORDER,
            code: code.clone(),
            message: message.clone(),
        }]);
    for late in [
        Ask::RecordReversal,
        Ask::RecordReversalUnknown { reason },
        Ask::RecordReversalRefused { code, message },
    ] {
        card([requested(1), captured()]).when(late).then_expect_events(vec![]);
    }
}

// A person's word.

fn resolve(outcome: Resolution) -> Ask {
    Ask::Resolve { outcome }
}

fn resolved(outcome: Resolution, amount: Money) -> Event {
    Event::Resolved {
        order: ORDER,
        outcome,
        amount,
    }
}

fn contradicted() -> Event {
    Event::Contradicted {
        order: ORDER,
        expected: PRICE,
        found: krw(9_000),
    }
}

#[test]
fn a_person_s_word_stands_where_the_provider_s_is_missing() {
    for outcome in Resolution::ALL {
        for before in [
            vec![requested(1)],
            vec![requested(1), unknown(3)],
            vec![requested(1), not_charged(1)],
        ] {
            card(before)
                .when(resolve(outcome))
                .then_expect_events(vec![resolved(outcome, PRICE)]);
        }
        for after in [captured(), declined()] {
            let expected = match (outcome, &after) {
                // One request was refused; a person may find that another one took the money.
                (Resolution::Refunded, Event::Captured { .. }) | (Resolution::Charged, Event::Declined { .. }) => {
                    vec![resolved(outcome, PRICE)]
                }
                _ => vec![],
            };
            card([requested(1), after]).when(resolve(outcome)).then_expect_events(expected);
        }
    }
}

#[test]
fn what_the_provider_has_and_would_not_give_back_is_given_back_by_hand_or_not_at_all() {
    let refused = || Event::ReversalRefused {
        order: ORDER,
        code: "NO".to_owned(),
        message: "no".to_owned(),
    };
    let before = || [requested(1), captured(), reversal(1), refused()];
    card(before()).when(resolve(Resolution::Charged)).then_expect_events(vec![]);
    card(before()).when(resolve(Resolution::NotCharged)).then_expect_events(vec![]);
    card(before())
        .when(resolve(Resolution::Refunded))
        .then_expect_events(vec![resolved(Resolution::Refunded, PRICE)]);
    card(before()).when(Ask::Reverse).then_expect_events(vec![reversal(2)]);
    card(before()).when(Ask::AskStatus).then_expect_events(vec![]);
}

#[test]
fn a_contradiction_is_given_back_whole_or_asked_about_once_more() {
    let whole = Event::ReversalRequested {
        order: ORDER,
        buyer: BUYER,
        payment_key: Some(key("pk")),
        amount: krw(9_000),
        attempt: 1,
    };
    card([requested(1), contradicted()])
        .when(Ask::Reverse)
        .then_expect_events(vec![whole.clone()]);
    card([requested(1), contradicted()])
        .when(resolve(Resolution::Refunded))
        .then_expect_events(vec![resolved(Resolution::Refunded, krw(9_000))]);
    card([requested(1), contradicted()]).when(capture()).then_expect_events(vec![]);
    let asked = Event::StatusAsked {
        order: ORDER,
        payment_key: key("pk"),
        question: 1,
    };
    card([requested(1), contradicted()])
        .when(Ask::AskStatus)
        .then_expect_events(vec![asked.clone()]);
    card([requested(1), contradicted(), asked.clone()])
        .when(capture())
        .then_expect_events(vec![captured()]);
    card([requested(1), contradicted(), asked])
        .when(Ask::Reverse)
        .then_expect_events(vec![whole]);
}
