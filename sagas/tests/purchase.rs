//! The purchase on the real aggregates: the way forward, and every way back.

mod world;

use std::time::Duration;

use aggregates::{
    AccountId, Command, CommerceEvent, FailureCode, InventoryCommand, InventoryEvent, Obstacle, OrderCommand, OrderStatus, PaymentCommand,
    PaymentId, PaymentStatus, PlaceOrder, ProductCommand, Quantity, Resolution, Sealed, Timestamp, WalletCommand,
};
use sagas::ProviderCall;
use uuid::Uuid;
use world::{Answer, BALANCE, BUYER, DAY, MINUTE, ON_HAND, ORDER, SELLER, World, card_order, key, krw, order, product};

fn with_key(place: PlaceOrder) -> PlaceOrder {
    PlaceOrder {
        payment_key: Some(key("pk")),
        ..place
    }
}

fn stating(mut place: PlaceOrder, price: i64) -> PlaceOrder {
    place.lines[0].stated_price = Some(krw(price));
    place
}

fn change_price(number: u128, price: i64) -> Command {
    Command::Product(
        product(number),
        ProductCommand::Change {
            name: None,
            description: None,
            price: Some(krw(price)),
        },
    )
}

fn sell_out(world: &mut World, number: u128) {
    let delta = -i64::try_from(ON_HAND).expect("small");
    world.expect(Command::Inventory(
        product(number),
        InventoryCommand::Adjust {
            delta,
            reason: "counted".parse().expect("a note"),
        },
    ));
}

// The way forward.

#[test]
fn an_order_paid_from_the_balance_is_confirmed_without_waiting_for_anybody() {
    let world = World::with(order(&[1]));
    assert_eq!(world.status(), OrderStatus::Confirmed);
    assert_eq!(world.stock(1), (ON_HAND - 1, 0));
    assert_eq!(world.balance(), BALANCE - 1_000);
    let path = [
        "order.placed",
        "inventory.reserved",
        "payment.prepared",
        "wallet.debited",
        "payment.captured",
        "inventory.committed",
        "order.confirmed",
    ];
    assert_eq!(world.happened(), path);
    assert_eq!((world.calls.len(), world.timers.len()), (0, 0));
}

#[test]
fn a_card_order_with_a_key_is_confirmed_once_the_provider_has_the_money() {
    let mut world = World::with(with_key(card_order(&[1])));
    assert_eq!(world.status(), OrderStatus::PaymentPending);
    assert_eq!(world.stock(1), (ON_HAND, 1));
    let call = world.answer(Answer::Charged(1_000));
    assert!(matches!(call, ProviderCall::Charge { attempt: 1, .. }));
    assert_eq!(call.idempotency_key(), format!("charge-{}", PaymentId::for_order(ORDER)));
    assert_eq!(world.status(), OrderStatus::Confirmed);
    assert_eq!(world.stock(1), (ON_HAND - 1, 0));
    assert_eq!((world.calls.len(), world.timers.len()), (0, 0));
}

#[test]
fn a_card_order_without_a_key_waits_for_the_buyer_and_holds_its_goods_before_the_provider_is_asked() {
    let mut world = World::with(card_order(&[1, 2]));
    assert_eq!(world.status(), OrderStatus::AwaitingPayment);
    assert_eq!(world.order().pay_until(), Some(world.now.after(10 * MINUTE)));
    assert_eq!(world.calls, []);
    world.buyer_pays(3_000).expect("the right amount");
    let happened = world.happened();
    assert_eq!(
        happened[happened.len() - 4..],
        ["order.payment_submitted", "inventory.held", "inventory.held", "payment.requested"]
    );
    world.answer(Answer::Charged(3_000));
    assert_eq!(world.status(), OrderStatus::Confirmed);
    assert_eq!(world.timers.len(), 0, "neither a deadline nor an expiry is left");
}

#[test]
fn an_order_that_comes_to_wait_after_its_time_to_pay_is_over_does_not_wait() {
    let mut world = World::with_placed(card_order(&[1]));
    let waits = |world: &World| {
        let waits = |command: &Command| matches!(command, Command::Order(_, OrderCommand::AwaitPayment { .. }));
        world.asked.iter().position(waits)
    };
    while waits(&world).is_none() {
        world.deliver(0);
    }
    // It is put off, and what was set before comes first.
    let awaits = world.asked.remove(waits(&world).expect("it was asked for"));
    world.now = world.now.after(11 * MINUTE);
    while world.timers.values().any(|(due, _)| *due <= world.now) {
        world.wait();
    }
    world.expect(awaits);
    world.wait();
    world.assert_undone(FailureCode::PaymentExpired);
}

#[test]
fn a_wrong_amount_leaves_the_order_waiting_for_the_right_one() {
    let mut world = World::with(card_order(&[1]));
    assert_eq!(world.buyer_pays(999).expect_err("too little").code, "amount-mismatch");
    assert_eq!(world.status(), OrderStatus::AwaitingPayment);
    world.buyer_pays(1_000).expect("the right amount");
    world.answer(Answer::Charged(1_000));
    assert_eq!(world.status(), OrderStatus::Confirmed);
}

#[test]
fn lines_are_reserved_one_after_another_in_ascending_product_id_whatever_the_buyer_wrote() {
    let mut world = World::with_placed(order(&[3, 1, 2]));
    for number in 1..=3 {
        let [Command::Inventory(id, InventoryCommand::Reserve { .. })] = &world.asked[..] else {
            panic!("one reservation at a time: {:?}", world.asked)
        };
        assert_eq!(*id, product(number));
        world.deliver(0);
    }
    world.run();
    assert_eq!(world.status(), OrderStatus::Confirmed);
}

#[test]
fn a_price_that_moved_between_the_order_and_its_reservation_is_taken_when_the_buyer_named_none() {
    let mut world = World::with_placed(order(&[1, 2]));
    world.tell(change_price(2, 2_500)).expect("a new price");
    world.run();
    assert_eq!(world.status(), OrderStatus::Confirmed);
    assert_eq!(world.order().total(), Some(krw(3_500)));
    assert_eq!(world.balance(), BALANCE - 3_500);
    assert_eq!(world.count("order.repriced"), 1);
}

// The ways back before the money is asked for.

#[test]
fn out_of_stock_on_line_2_of_3_releases_line_1_and_never_asks_for_line_3() {
    let mut world = World::new();
    sell_out(&mut world, 2);
    world.place(order(&[1, 2, 3]));
    world.run();
    assert_eq!(
        (world.status(), world.failure()),
        (OrderStatus::Cancelled, Some(FailureCode::OutOfStock))
    );
    assert_eq!(world.order().failure().and_then(|(_, product)| product), Some(product(2)));
    assert_eq!((world.count("inventory.reserved"), world.count("inventory.released")), (1, 1));
    assert_eq!(
        (world.stock(1), world.stock(3), world.balance()),
        ((ON_HAND, 0), (ON_HAND, 0), BALANCE)
    );
}

#[test]
fn the_last_unit_is_sold_once() {
    let mut all = order(&[1]);
    all.lines[0].quantity = Quantity::parse(10).expect("ten");
    let world = World::with(all.clone());
    assert_eq!((world.status(), world.stock(1)), (OrderStatus::Confirmed, (0, 0)));
    all.lines[0].quantity = Quantity::parse(11).expect("eleven");
    World::with(all).assert_undone(FailureCode::OutOfStock);
}

#[test]
fn a_price_that_the_buyer_did_not_see_cancels_the_order() {
    let mut place = stating(order(&[2, 1]), 1_999);
    place.lines[1].stated_price = Some(krw(1_000));
    World::with(place).assert_undone(FailureCode::PriceMismatch);
}

#[test]
fn a_price_that_moved_cancels_the_order_of_a_buyer_who_named_it() {
    let mut world = World::with_placed(stating(order(&[1]), 1_000));
    world.tell(change_price(1, 900)).expect("a new price");
    world.run();
    world.assert_undone(FailureCode::PriceMismatch);
}

#[test]
fn a_wrong_total_cancels_the_order_before_anything_is_reserved() {
    let world = World::with(PlaceOrder {
        stated_total: Some(krw(2_999)),
        ..order(&[1, 2])
    });
    world.assert_undone(FailureCode::PriceMismatch);
    assert_eq!(world.count("inventory.reserved"), 0);
}

#[test]
fn a_total_that_a_moved_price_makes_wrong_cancels_the_order() {
    let mut world = World::with_placed(PlaceOrder {
        stated_total: Some(krw(3_000)),
        ..order(&[1, 2])
    });
    world.tell(change_price(2, 2_500)).expect("a new price");
    world.run();
    world.assert_undone(FailureCode::PriceMismatch);
}

#[test]
fn a_product_that_was_retired_before_it_was_reserved_cancels_the_order() {
    let mut world = World::with_placed(order(&[1, 2]));
    world.tell(Command::Product(product(2), ProductCommand::Retire)).expect("retired");
    world.run();
    world.assert_undone(FailureCode::ProductRetired);
}

#[test]
fn a_balance_that_is_too_small_cancels_the_order_and_stays() {
    let mut world = World::new();
    let (payment, debit) = (PaymentId::default(), krw(BALANCE - 999));
    world.expect(Command::Wallet(
        BUYER,
        WalletCommand::Debit {
            payment,
            order: aggregates::OrderId::default(),
            amount: debit,
        },
    ));
    world.place(order(&[1]));
    world.run();
    assert_eq!(
        (world.status(), world.failure()),
        (OrderStatus::Cancelled, Some(FailureCode::InsufficientBalance))
    );
    assert_eq!((world.stock(1), world.balance()), ((ON_HAND, 0), 999));
    assert_eq!(world.payment().status(), PaymentStatus::Declined);
}

#[test]
fn an_order_that_nobody_pays_ends_at_its_deadline_and_frees_its_goods() {
    let mut world = World::with(card_order(&[1, 2]));
    assert_eq!(world.wait(), Some(10 * MINUTE));
    world.assert_undone(FailureCode::PaymentExpired);
    assert_eq!(world.payment().status(), PaymentStatus::Expired);
    assert_eq!(world.timers.len(), 0);
    assert_eq!(world.buyer_pays(3_000).expect_err("too late").code, "payment-expired");
}

#[test]
fn a_reservation_that_expires_before_the_deadline_ends_the_order_and_frees_the_other_lines() {
    let mut world = World::new();
    world.settings.payment_deadline = 120 * MINUTE;
    world.place(card_order(&[1, 2]));
    world.run();
    assert_eq!(world.wait(), Some(60 * MINUTE));
    world.assert_undone(FailureCode::ReservationExpired);
    assert_eq!((world.count("inventory.expired"), world.count("inventory.released")), (1, 1));
    assert_eq!(world.payment().status(), PaymentStatus::Cancelled);
    assert_eq!(world.timers.len(), 0);
}

#[test]
fn a_reservation_that_expired_before_it_could_be_held_ends_the_order_and_the_provider_is_never_asked() {
    let mut world = World::with(card_order(&[1, 2]));
    let at = world.now;
    world
        .tell(Command::Order(
            ORDER,
            OrderCommand::SubmitPayment {
                payment_key: key("pk"),
                amount: krw(3_000),
                at,
            },
        ))
        .expect("in time");
    world.deliver(0); // line 1 is held
    world
        .tell(Command::Inventory(
            product(2),
            InventoryCommand::Expire {
                order: ORDER,
                at: world.now.after(60 * MINUTE),
            },
        ))
        .expect("its time is over");
    world.run();
    world.assert_undone(FailureCode::ReservationExpired);
    assert_eq!((world.calls.len(), world.timers.len()), (0, 0));
    assert_eq!(world.count("payment.requested"), 0);
}

#[test]
fn a_buyer_may_cancel_while_a_reservation_is_outstanding_and_it_is_released_when_it_comes() {
    let mut world = World::with_placed(order(&[1, 2]));
    world.deliver(0); // line 1 is reserved, and line 2 asked for
    let outstanding = world.asked.remove(0);
    world.buyer_cancels().expect("not paid yet");
    world.run();
    assert_eq!(world.failure(), Some(FailureCode::CancelledByBuyer));
    assert_eq!(world.stock(1), (ON_HAND, 0));
    world.expect(outstanding);
    world.assert_undone(FailureCode::CancelledByBuyer);
    assert_eq!(world.count("inventory.released"), 2);
}

#[test]
fn a_buyer_may_cancel_after_the_reservation_and_before_the_payment() {
    let mut world = World::with_placed(order(&[1]));
    world.deliver(0); // reserved; the payment is to be prepared
    world.buyer_cancels().expect("not paid yet");
    world.run();
    world.assert_undone(FailureCode::CancelledByBuyer);
    assert_eq!(world.payment().status(), PaymentStatus::Cancelled);
}

#[test]
fn a_buyer_who_cancels_while_the_wallet_is_asked_has_the_money_back() {
    let mut world = World::with_placed(order(&[1]));
    world.deliver(0);
    world.deliver(0); // prepared; the wallet is asked
    let debit = world.asked.remove(0);
    assert!(matches!(debit, Command::Wallet(_, WalletCommand::Debit { .. })));
    world.buyer_cancels().expect("not paid yet");
    world.run();
    assert_eq!(
        world.status(),
        OrderStatus::Cancelling,
        "nothing is undone while money may be taken"
    );
    assert_eq!(world.stock(1), (ON_HAND, 1));
    world.expect(debit);
    world.assert_undone(FailureCode::CancelledByBuyer);
    assert_eq!(world.payment().status(), PaymentStatus::Reversed);
    assert_eq!((world.balance(), world.count("wallet.credited")), (BALANCE, 1));
}

#[test]
fn an_order_that_the_shop_takes_back_says_so() {
    let mut world = World::with(card_order(&[1, 2]));
    world.cancels(SELLER).expect("an administrator may, and it is not paid yet");
    world.run();
    world.assert_undone(FailureCode::CancelledByShop);
}

#[test]
fn a_buyer_may_cancel_instead_of_paying() {
    let mut world = World::with(card_order(&[1, 2]));
    world.buyer_cancels().expect("not paid yet");
    world.run();
    world.assert_undone(FailureCode::CancelledByBuyer);
    assert_eq!(world.payment().status(), PaymentStatus::Cancelled);
    assert_eq!(world.timers.len(), 0);
    assert_eq!(world.buyer_pays(3_000).expect_err("cancelled").code, "order-not-awaiting-payment");
}

#[test]
fn a_confirmed_order_is_not_cancelled_any_more() {
    let mut world = World::with(order(&[1]));
    assert_eq!(world.buyer_cancels().expect_err("sold").code, "order-not-cancellable");
}

// The ways back while the provider is asked.

#[test]
fn a_declined_card_cancels_the_order_and_frees_its_goods_at_once() {
    let mut world = World::with(with_key(card_order(&[1, 2])));
    world.answer(Answer::Declined);
    world.assert_undone(FailureCode::PaymentDeclined);
    assert_eq!((world.calls.len(), world.timers.len()), (0, 0));
}

/// The buyer cancels while the provider is asked: nothing is undone before its word.
fn cancelling() -> World {
    let mut world = World::with(with_key(card_order(&[1])));
    world.buyer_cancels().expect("the money is not taken yet");
    world.run();
    assert_eq!((world.status(), world.stock(1)), (OrderStatus::Cancelling, (ON_HAND, 1)));
    world
}

#[test]
fn a_cancellation_while_the_provider_is_asked_gives_the_money_back_when_it_was_taken() {
    let mut world = cancelling();
    world.answer(Answer::Charged(1_000));
    assert_eq!(
        (world.status(), world.stock(1)),
        (OrderStatus::Cancelling, (ON_HAND, 1)),
        "the money first"
    );
    let call = world.answer(Answer::Returned);
    assert!(matches!(&call, ProviderCall::Cancel { attempt: 1, .. }));
    assert_eq!(call.idempotency_key(), format!("cancel-{}", PaymentId::for_order(ORDER)));
    world.assert_undone(FailureCode::CancelledByBuyer);
}

#[test]
fn a_cancellation_while_the_provider_is_asked_ends_the_order_when_it_declines() {
    let mut world = cancelling();
    world.answer(Answer::Declined);
    world.assert_undone(FailureCode::CancelledByBuyer);
    assert_eq!(world.calls, []);
}

#[test]
fn a_cancellation_while_the_outcome_is_unknown_waits_for_the_provider_s_word() {
    let mut world = cancelling();
    world.answer(Answer::Unknown);
    assert_eq!((world.status(), world.stock(1)), (OrderStatus::Cancelling, (ON_HAND, 1)));
    let question = world.answer(Answer::NotCharged);
    assert!(matches!(question, ProviderCall::Status { question: 1, .. }));
    world.assert_undone(FailureCode::CancelledByBuyer);
    assert_eq!(world.calls, [], "the attempt is not repeated");
    assert_eq!(world.timers.len(), 1, "money that turns up later is looked for");
}

#[test]
fn a_cancellation_that_comes_when_the_money_is_taken_is_too_late() {
    let mut world = World::with(with_key(card_order(&[1])));
    let call = world.calls.remove(0);
    world.hear(call.payment(), Answer::Charged(1_000));
    // The goods are still being sold: the order does not know it yet, its process does.
    assert_eq!(world.status(), OrderStatus::PaymentPending);
    assert_eq!(world.buyer_cancels().expect_err("paid").code, "order-not-cancellable");
    world.run();
    assert_eq!(world.status(), OrderStatus::Confirmed);
    assert_eq!((world.stock(1), world.calls.len()), ((ON_HAND - 1, 0), 0));
}

// The unknown.

#[test]
fn an_unknown_outcome_is_asked_for_at_once_then_ever_more_rarely_and_once_a_day_for_as_long_as_it_takes() {
    let mut world = World::new();
    world.settings.payment_deadline = 60 * DAY;
    world.settings.stuck_after = 60 * DAY;
    world.place(with_key(card_order(&[1])));
    world.run();
    world.answer(Answer::Unknown);
    assert_eq!(world.calls.len(), 1, "at once");
    for (question, seconds) in [1, 2, 5, 15, 60, 300, 3_600, 86_400, 86_400, 86_400, 86_400, 86_400, 86_400, 86_400]
        .into_iter()
        .enumerate()
    {
        world.answer(Answer::Unknown);
        assert_eq!(world.wait(), Some(Duration::from_secs(seconds)), "after question {}", question + 1);
        assert_eq!(world.calls.len(), 1);
        assert_eq!(world.stock(1), (ON_HAND, 1), "the goods are held");
    }
    world.answer(Answer::Charged(1_000));
    assert_eq!(world.status(), OrderStatus::Confirmed);
    assert_eq!(world.count("payment.requested"), 1, "no second attempt while the first is open");
}

#[test]
fn the_question_is_asked_at_the_deadline_too() {
    let mut world = World::with(with_key(card_order(&[1])));
    world.answer(Answer::Unknown);
    let deadline = world.now.after(10 * MINUTE);
    let mut asked = vec![];
    while world.now <= deadline {
        world.answer(Answer::Unknown);
        world.wait();
        asked.push(world.now);
    }
    assert!(asked.contains(&deadline), "{asked:?}");
}

#[test]
fn an_attempt_that_took_nothing_is_repeated_under_the_same_idempotency_key() {
    let mut world = World::with(with_key(card_order(&[1])));
    let first = world.answer(Answer::Unknown);
    world.answer(Answer::NotCharged);
    let second = world.answer(Answer::Charged(1_000));
    assert!(matches!(second, ProviderCall::Charge { attempt: 2, .. }));
    assert_eq!(first.idempotency_key(), second.idempotency_key());
    assert_ne!(first.id(), second.id());
    assert_eq!(world.status(), OrderStatus::Confirmed);
    assert_eq!(world.count("payment.captured"), 1);
}

#[test]
fn an_answer_that_was_lost_after_the_charge_confirms_the_order_when_the_status_says_so() {
    let mut world = World::with(with_key(card_order(&[1])));
    world.answer(Answer::Unknown);
    world.answer(Answer::Charged(1_000));
    assert_eq!(world.status(), OrderStatus::Confirmed);
}

/// Not charged, asked after the deadline.
fn expired_while_unknown() -> World {
    let mut world = World::with(with_key(card_order(&[1])));
    world.answer(Answer::Unknown);
    world.now = world.now.after(11 * MINUTE);
    world.answer(Answer::NotCharged);
    world
}

#[test]
fn an_order_whose_money_was_not_taken_by_the_deadline_expires_and_is_watched() {
    let mut world = expired_while_unknown();
    world.assert_undone(FailureCode::PaymentExpired);
    assert_eq!(world.payment().status(), PaymentStatus::Expired);
    let mut waits = vec![];
    while let Some(waited) = world.wait() {
        waits.push(waited.as_secs());
        let answer = if waits.len() % 2 == 0 {
            Answer::NotCharged
        } else {
            Answer::Unknown
        };
        world.answer(answer);
        assert_eq!(world.calls, []);
    }
    assert_eq!(waits, [1, 2, 5, 15, 60, 300, 3_600, 86_400, 86_400, 86_400, 86_400, 86_400]);
    world.assert_undone(FailureCode::PaymentExpired);
}

#[test]
fn the_watch_goes_on_every_day_until_its_last_question_is_answered() {
    let mut world = expired_while_unknown();
    for _ in 0..12 {
        world.wait().expect("it is watched");
        world.answer(Answer::Unknown);
    }
    for _ in 0..30 {
        assert_eq!(world.wait(), Some(DAY));
        world.answer(Answer::Unknown);
    }
    assert_eq!(world.wait(), Some(DAY));
    world.answer(Answer::Charged(1_000));
    world.answer(Answer::Returned);
    world.assert_undone(FailureCode::PaymentExpired);
    assert_eq!((world.payment().status(), world.timers.len()), (PaymentStatus::Reversed, 0));
}

#[test]
fn money_that_turns_up_after_the_order_expired_goes_back() {
    let mut world = expired_while_unknown();
    world.wait();
    world.answer(Answer::Charged(1_000));
    world.answer(Answer::Returned);
    world.assert_undone(FailureCode::PaymentExpired);
    assert_eq!(world.payment().status(), PaymentStatus::Reversed);
}

#[test]
fn money_that_turns_up_after_the_buyer_cancelled_goes_back() {
    let mut world = cancelling();
    world.answer(Answer::Unknown);
    world.answer(Answer::NotCharged);
    world.wait();
    world.answer(Answer::Charged(1_000));
    world.answer(Answer::Returned);
    world.assert_undone(FailureCode::CancelledByBuyer);
}

#[test]
fn a_reversal_without_an_answer_is_repeated_under_the_same_key_until_there_is_one() {
    let mut world = cancelling();
    world.settings.stuck_after = 60 * DAY;
    world.answer(Answer::Charged(1_000));
    let first = world.answer(Answer::NotReturned);
    for (attempt, seconds) in [1, 2, 5, 15, 60, 300, 3_600, 86_400].into_iter().enumerate() {
        assert_eq!(world.wait(), Some(Duration::from_secs(seconds)), "after attempt {}", attempt + 1);
        let again = world.answer(Answer::NotReturned);
        assert_eq!(again.idempotency_key(), first.idempotency_key());
        assert_eq!(world.status(), OrderStatus::Cancelling);
    }
    world.wait();
    world.answer(Answer::Returned);
    world.assert_undone(FailureCode::CancelledByBuyer);
}

#[test]
fn money_that_the_provider_will_not_give_back_needs_a_person() {
    let mut world = cancelling();
    world.answer(Answer::Charged(1_000));
    world.answer(Answer::Refused);
    assert_eq!(world.status(), OrderStatus::NeedsAttention);
    assert_eq!(world.payment().status(), PaymentStatus::NeedsAttention);
    assert_eq!((world.calls.len(), world.timers.len()), (0, 0));
    assert_eq!(world.stock(1), (ON_HAND, 1), "the goods stay until somebody has decided");
}

#[test]
fn a_charge_of_another_amount_needs_a_person() {
    let mut world = World::with(with_key(card_order(&[1])));
    world.answer(Answer::Charged(10_000));
    assert_eq!(world.status(), OrderStatus::NeedsAttention);
    assert_eq!(
        world.order().attention(),
        Some("the provider took 10000 KRW where 1000 KRW was asked for")
    );
    assert_eq!(world.count("payment.captured"), 0);
}

// A person's turn.

fn operator() -> AccountId {
    AccountId::new(Uuid::from_u128(0x0b))
}

fn resume() -> OrderCommand {
    OrderCommand::Resume { by: operator() }
}

fn compensate() -> OrderCommand {
    OrderCommand::Compensate {
        by: operator(),
        reason: Sealed::new("sealed"),
    }
}

fn resolve(outcome: Resolution) -> OrderCommand {
    OrderCommand::Resolve {
        by: operator(),
        outcome,
        reason: Sealed::new("sealed"),
    }
}

fn set_aside() -> OrderCommand {
    OrderCommand::NeedAttention {
        cause: Obstacle::SetAside(Uuid::nil()),
        reason: "set aside".to_owned(),
    }
}

/// The provider was asked for the money and has been silent for a day.
fn stuck() -> World {
    let mut world = World::with(with_key(card_order(&[1])));
    silent_for_a_day(&mut world, Answer::Unknown);
    world
}

/// The provider gives no answer until a person is asked to look.
fn silent_for_a_day(world: &mut World, silence: Answer) {
    let begun = world.now;
    world.answer(silence);
    while world.status() != OrderStatus::NeedsAttention {
        if world.calls.is_empty() {
            world.wait();
        }
        world.answer(silence);
    }
    assert_eq!(world.now, begun.after(DAY), "after a day exactly");
}

/// The provider has the money, will not give it back, and nobody wants the goods.
fn not_given_back() -> World {
    let mut world = cancelling();
    world.answer(Answer::Charged(1_000));
    world.answer(Answer::Refused);
    world
}

#[test]
fn a_payment_that_stays_unknown_is_stuck_after_a_day_exactly_and_is_asked_about_on() {
    let mut world = stuck();
    assert_eq!(world.now, Timestamp::default().after(DAY));
    assert_eq!(
        world.order().attention(),
        Some("the provider has given no clear answer since 1970-01-01T00:00:00Z: nobody knows whether the money was taken")
    );
    assert_eq!(world.stock(1), (ON_HAND, 1), "the goods stay until it is known");
    // It goes on by itself if the provider speaks at last.
    assert_eq!(world.wait(), Some(DAY));
    world.answer(Answer::Charged(1_000));
    assert_eq!(world.status(), OrderStatus::Confirmed);
    assert_eq!(world.order().attention(), None);
    assert_eq!(world.count("order.attention_needed"), 1);
}

#[test]
fn resumed_it_asks_at_once_and_is_stuck_again_a_day_later() {
    let mut world = stuck();
    world.operator(resume());
    assert_eq!(world.status(), OrderStatus::PaymentPending);
    assert!(matches!(world.calls.as_slice(), [ProviderCall::Status { .. }]));
    silent_for_a_day(&mut world, Answer::Unknown);
    // And what nobody waits for is not done.
    world.operator(resolve(Resolution::NotCharged));
    world.assert_undone(FailureCode::PaymentDeclined);
    let refused = world.tell(Command::Order(ORDER, resume())).expect_err("it has ended");
    assert_eq!(refused.code, "order-not-stuck");
}

#[test]
fn compensated_it_is_undone_as_soon_as_it_is_known_what_was_taken() {
    for (answer, reversed) in [(Answer::Charged(1_000), 1), (Answer::NotCharged, 0)] {
        let mut world = stuck();
        world.operator(compensate());
        assert_eq!(world.status(), OrderStatus::Cancelling);
        world.answer(answer);
        if reversed == 1 {
            world.answer(Answer::Returned);
        }
        world.assert_undone(FailureCode::CancelledByShop);
        assert_eq!(world.count("payment.reversed"), reversed);
    }
}

#[test]
fn a_release_that_was_dropped_is_asked_for_again_once_the_provider_has_said_that_it_took_nothing() {
    let mut world = World::new();
    world.place(with_key(card_order(&[1])));
    // It is cancelled while the provider is asked; the release that follows is set aside and dropped.
    world.run();
    world.buyer_cancels().expect("not too late");
    world.run();
    let call = world.calls.remove(0);
    world.hear(call.payment(), Answer::NotCharged);
    let release = |command: &Command| matches!(command, Command::Inventory(_, InventoryCommand::Release { .. }));
    while world.asked.iter().any(|command| !release(command)) {
        let next = world.asked.iter().position(|command| !release(command)).unwrap_or_default();
        world.deliver(next);
    }
    world.asked.clear();
    assert_eq!((world.status(), world.stock(1)), (OrderStatus::Cancelled, (ON_HAND, 1)));
    world.wait();
    world.answer(Answer::NotCharged);
    assert_eq!(world.stock(1), (ON_HAND, 0));
}

#[test]
fn a_person_s_word_ends_what_the_provider_did_not_say() {
    let mut world = stuck();
    world.operator(resolve(Resolution::Charged));
    assert_eq!(
        (world.status(), world.payment().status()),
        (OrderStatus::Confirmed, PaymentStatus::Captured)
    );
    assert_eq!(world.stock(1), (ON_HAND - 1, 0));

    let mut world = stuck();
    world.operator(resolve(Resolution::NotCharged));
    assert_eq!(world.payment().status(), PaymentStatus::Declined);
    world.assert_undone(FailureCode::PaymentDeclined);

    let mut world = stuck();
    world.operator(resolve(Resolution::Refunded));
    assert_eq!(
        (world.status(), world.failure()),
        (OrderStatus::Cancelled, Some(FailureCode::CancelledByShop))
    );
    assert_eq!((world.payment().status(), world.stock(1)), (PaymentStatus::Reversed, (ON_HAND, 0)));
}

#[test]
fn money_that_was_taken_after_all_goes_back_whatever_a_person_said() {
    let mut world = stuck();
    world.operator(resolve(Resolution::NotCharged));
    world.hear(PaymentId::for_order(ORDER), Answer::Charged(1_000));
    world.run();
    assert!(matches!(world.calls.as_slice(), [ProviderCall::Cancel { .. }]));
    world.answer(Answer::Returned);
    assert_eq!(world.payment().status(), PaymentStatus::Reversed);
}

#[test]
fn what_the_provider_will_not_give_back_is_asked_for_again_or_given_back_by_hand() {
    let mut world = not_given_back();
    world.operator(resume());
    // Under the key of the first the provider would refuse again without looking.
    let refused = world.answer(Answer::Refused);
    world.operator(resume());
    let unanswered = world.answer(Answer::NotReturned);
    assert_ne!(unanswered.idempotency_key(), refused.idempotency_key());
    world.wait();
    let repeated = world.answer(Answer::Returned);
    assert_eq!(repeated.idempotency_key(), unanswered.idempotency_key());
    world.assert_undone(FailureCode::CancelledByBuyer);

    let mut world = not_given_back();
    world.operator(compensate());
    world.answer(Answer::Refused);
    assert_eq!(world.status(), OrderStatus::NeedsAttention, "it still will not");
    // The provider has it: that it has not is no word to go on.
    world.operator(resolve(Resolution::NotCharged));
    assert_eq!(world.status(), OrderStatus::NeedsAttention);
    world.operator(resolve(Resolution::Refunded));
    assert_eq!(world.status(), OrderStatus::Cancelled);
    assert_eq!((world.payment().status(), world.stock(1)), (PaymentStatus::Reversed, (ON_HAND, 0)));
}

#[test]
fn a_reversal_without_an_answer_for_a_day_is_stuck_and_goes_on_trying() {
    let mut world = cancelling();
    world.answer(Answer::Charged(1_000));
    silent_for_a_day(&mut world, Answer::NotReturned);
    world.wait();
    world.answer(Answer::Returned);
    world.assert_undone(FailureCode::CancelledByBuyer);
}

#[test]
fn a_charge_of_another_amount_is_asked_about_again_or_given_back_whole() {
    let contradicted = || {
        let mut world = World::with(with_key(card_order(&[1])));
        world.answer(Answer::Charged(10_000));
        world
    };
    let mut world = contradicted();
    world.operator(resume());
    world.answer(Answer::Charged(10_000));
    assert_eq!(world.status(), OrderStatus::NeedsAttention, "it says the same");
    world.operator(resume());
    world.answer(Answer::Charged(1_000));
    assert_eq!(world.status(), OrderStatus::Confirmed);

    let mut world = contradicted();
    world.operator(compensate());
    let cancel = world.calls[0].clone();
    assert!(matches!(cancel, ProviderCall::Cancel { amount, .. } if amount == krw(10_000)));
    world.answer(Answer::Returned);
    assert_eq!(
        (world.status(), world.failure()),
        (OrderStatus::Cancelled, Some(FailureCode::CancelledByShop))
    );
    assert_eq!(world.stock(1), (ON_HAND, 0));
}

#[test]
fn money_that_turns_up_after_the_end_and_does_not_go_back_needs_a_person_and_ends_again() {
    let mut world = expired_while_unknown();
    world.wait();
    world.answer(Answer::Charged(1_000));
    world.answer(Answer::Refused);
    assert_eq!(world.status(), OrderStatus::NeedsAttention);
    world.operator(resume());
    assert_eq!(world.status(), OrderStatus::Cancelled);
    world.answer(Answer::Returned);
    world.assert_undone(FailureCode::PaymentExpired);
}

#[test]
fn an_order_that_is_sold_in_part_can_only_go_forward() {
    let mut world = World::with(with_key(card_order(&[1, 2])));
    let payment = world.calls.remove(0).payment();
    world.hear(payment, Answer::Charged(3_000));
    // The first line is sold; the second cannot be, for now.
    world.deliver(0);
    world.asked.clear();
    world.operator(set_aside());
    world.operator(compensate());
    assert_eq!(world.status(), OrderStatus::NeedsAttention);
    assert_eq!(world.count("payment.reversal_requested"), 0);
    world.operator(resume());
    assert_eq!(world.status(), OrderStatus::Confirmed);
    assert_eq!((world.stock(1), world.stock(2)), ((ON_HAND - 1, 0), (ON_HAND - 1, 0)));
}

#[test]
fn resumed_at_any_step_that_was_lost_it_comes_to_its_end() {
    for place in [order(&[1, 2]), with_key(card_order(&[1, 2]))] {
        for steps in 0..12 {
            let mut world = World::with_placed(place.clone());
            for _ in 0..steps {
                if world.asked.is_empty() {
                    break;
                }
                world.deliver(0);
            }
            // What was asked for next is set aside and dropped; but what was asked of a balance is retried.
            if !matches!(world.asked.first(), Some(Command::Wallet(..))) {
                world.asked.clear();
            }
            world.operator(set_aside());
            if world.status() == OrderStatus::NeedsAttention {
                world.operator(resume());
            }
            while !world.calls.is_empty() {
                world.answer(Answer::Charged(3_000));
            }
            assert_eq!(world.status(), OrderStatus::Confirmed, "after {steps} steps");
            assert_eq!((world.count("payment.captured"), world.count("inventory.committed")), (1, 2));
        }
    }
}

#[test]
fn cancelled_while_a_repeat_is_put_off_the_first_attempt_is_still_watched() {
    let mut world = World::with(with_key(card_order(&[1])));
    let payment = world.answer(Answer::Unknown).payment();
    world.calls.clear();
    world.hear(payment, Answer::NotCharged);
    let repeat = world.asked.remove(0);
    world.buyer_cancels().expect("nothing is taken");
    world.run();
    world.assert_undone(FailureCode::CancelledByBuyer);
    world.expect(repeat);
    assert_eq!(world.calls.len(), 0, "nothing is attempted any more");
    world.wait();
    world.answer(Answer::Charged(1_000));
    world.answer(Answer::Returned);
    world.assert_undone(FailureCode::CancelledByBuyer);
    assert_eq!(world.count("payment.reversed"), 1);
}

#[test]
fn a_first_attempt_that_is_put_off_until_nobody_wants_it_is_not_made() {
    let mut world = World::with_placed(with_key(card_order(&[1])));
    while !matches!(world.asked.first(), Some(Command::Payment(_, PaymentCommand::Request { .. }))) {
        world.deliver(0);
    }
    let request = world.asked.remove(0);
    world.run();
    world.buyer_cancels().expect("nothing is asked for yet");
    let undo = world.asked.clone();
    world.asked = vec![request];
    world.run();
    assert_eq!(world.calls.len(), 0, "the provider is not asked");
    world.asked = undo;
    world.run();
    world.assert_undone(FailureCode::CancelledByBuyer);
}

// What comes twice.

#[test]
fn a_purchase_that_is_told_everything_twice_charges_sells_and_releases_once() {
    for place in [order(&[1, 2]), with_key(card_order(&[1, 2]))] {
        let mut world = World::new();
        world.deliveries = 2;
        world.place(place);
        world.run();
        while !world.calls.is_empty() {
            world.answer(Answer::Charged(3_000));
        }
        assert_eq!(world.status(), OrderStatus::Confirmed);
        assert_eq!((world.count("payment.captured"), world.count("inventory.committed")), (1, 2));
        assert!(world.count("wallet.debited") <= 1);
        assert_eq!(world.count("payment.reversal_requested"), 0);
    }
}

#[test]
fn a_purchase_that_is_told_twice_of_a_cancellation_gives_back_once() {
    let mut world = World::new();
    world.deliveries = 2;
    world.place(order(&[1]));
    for _ in 0..2 {
        world.deliver(0);
    }
    let debit = world.asked.remove(0);
    world.buyer_cancels().expect("not paid yet");
    world.run();
    world.expect(debit);
    world.assert_undone(FailureCode::CancelledByBuyer);
    assert_eq!((world.count("wallet.credited"), world.count("inventory.released")), (1, 1));
}

#[test]
fn words_of_the_provider_that_come_again_after_the_end_change_nothing() {
    let mut world = World::with(with_key(card_order(&[1])));
    let payment = world.answer(Answer::Charged(1_000)).payment();
    let before = world.log.len();
    for answer in [
        Answer::Charged(1_000),
        Answer::Declined,
        Answer::Unknown,
        Answer::NotCharged,
        Answer::Returned,
        Answer::NotReturned,
        Answer::Refused,
    ] {
        world.hear(payment, answer);
        world.run();
    }
    for command in [
        PaymentCommand::AskStatus,
        PaymentCommand::Repeat,
        PaymentCommand::Cancel,
        PaymentCommand::Expire,
    ] {
        world.expect(Command::Payment(payment, command));
    }
    assert_eq!(world.log.len(), before);
    assert_eq!(world.status(), OrderStatus::Confirmed);
}

#[test]
fn each_reserved_line_is_committed_for_what_was_reserved() {
    let mut place = order(&[1]);
    place.lines[0].quantity = Quantity::parse(3).expect("three");
    let world = World::with(place);
    let sold = world.log.iter().find_map(|event| match event {
        CommerceEvent::Inventory(_, InventoryEvent::Committed { quantity, .. }) => Some(quantity.get()),
        _ => None,
    });
    assert_eq!(sold, Some(3));
}

/// The provider has the money from now on, and it goes back because somebody asks what became of it.
#[track_caller]
fn assert_late_charge_goes_back(mut world: World) {
    while world.count("payment.reversed") == 0 {
        if let Some(call) = world.calls.first() {
            let answer = match call {
                ProviderCall::Charge { amount, .. } | ProviderCall::Status { amount, .. } => Answer::Charged(amount.minor()),
                ProviderCall::Cancel { .. } => Answer::Returned,
            };
            world.answer(answer);
        } else {
            assert!(world.wait().is_some(), "nobody asks any more: {:?}", world.happened());
        }
    }
    assert_eq!(
        (world.status(), world.payment().status()),
        (OrderStatus::Cancelled, PaymentStatus::Reversed)
    );
    assert_eq!(world.stock(1), (ON_HAND, 0));
}

#[test]
fn a_person_who_finds_nothing_taken_does_not_end_the_watch_over_a_request_without_an_answer() {
    let mut world = World::with(with_key(card_order(&[1])));
    world.answer(Answer::Unknown);
    world.operator(set_aside());
    world.operator(resolve(Resolution::NotCharged));
    world.answer(Answer::Unknown);
    assert_eq!(world.status(), OrderStatus::Cancelled);
    assert_late_charge_goes_back(world);
}

#[test]
fn a_request_that_is_under_way_while_a_person_decides_is_watched() {
    let mut world = World::with(with_key(card_order(&[1])));
    world.operator(set_aside());
    world.operator(resolve(Resolution::NotCharged));
    assert!(matches!(world.calls.as_slice(), [ProviderCall::Charge { .. }]));
    world.answer(Answer::Unknown);
    assert_late_charge_goes_back(world);
}

#[test]
fn a_repeat_that_is_refused_does_not_end_the_watch_over_the_first_request() {
    let mut world = World::with(with_key(card_order(&[1])));
    world.answer(Answer::Unknown);
    world.answer(Answer::NotCharged);
    assert!(matches!(world.calls.as_slice(), [ProviderCall::Charge { attempt: 2, .. }]));
    world.answer(Answer::Declined);
    assert_eq!(world.failure(), Some(FailureCode::PaymentDeclined));
    assert_late_charge_goes_back(world);
}

#[test]
fn a_refusal_that_nothing_casts_doubt_on_is_not_watched() {
    let mut world = World::with(with_key(card_order(&[1])));
    world.answer(Answer::Declined);
    assert_eq!(world.timers.len(), 0);
    world.assert_undone(FailureCode::PaymentDeclined);
}

/// Cancelled and watched, and the watch's question was set aside and dropped.
fn watch_set_aside() -> World {
    let mut world = cancelling();
    world.answer(Answer::Unknown);
    world.answer(Answer::NotCharged);
    assert_eq!((world.status(), world.timers.len()), (OrderStatus::Cancelled, 1));
    world.ring_next();
    world.asked.clear();
    world.operator(set_aside());
    assert_eq!(world.status(), OrderStatus::NeedsAttention);
    world
}

#[test]
fn money_that_a_person_finds_after_the_end_goes_back() {
    let mut world = watch_set_aside();
    world.operator(resolve(Resolution::Charged));
    assert!(matches!(world.calls.as_slice(), [ProviderCall::Cancel { .. }]));
    assert_late_charge_goes_back(world);
}

#[test]
fn a_watch_that_was_set_aside_goes_on_when_a_person_has_looked() {
    for outcome in [Resolution::NotCharged, Resolution::Refunded] {
        let mut world = watch_set_aside();
        world.operator(resolve(outcome));
        assert_eq!((world.status(), world.timers.len()), (OrderStatus::Cancelled, 1));
        assert_late_charge_goes_back(world);
    }
}

#[test]
fn goods_whose_release_was_dropped_are_free_when_a_person_has_looked_after_the_end() {
    let mut world = cancelling();
    world.answer(Answer::Unknown);
    let payment = world.calls.remove(0).payment();
    world.hear(payment, Answer::NotCharged);
    world.asked.retain(|command| !matches!(command, Command::Inventory(..)));
    world.run();
    world.operator(set_aside());
    world.operator(resolve(Resolution::NotCharged));
    world.assert_undone(FailureCode::CancelledByBuyer);
}

#[test]
fn all_that_was_taken_for_an_order_that_nobody_wants_goes_back() {
    let mut world = cancelling();
    world.answer(Answer::Unknown);
    world.answer(Answer::Charged(5_000));
    assert_eq!(world.status(), OrderStatus::NeedsAttention);
    world.operator(resolve(Resolution::Charged));
    assert!(matches!(world.calls.as_slice(), [ProviderCall::Cancel { amount, .. }] if *amount == krw(5_000)));
}

#[test]
fn an_order_whose_deadline_was_dropped_ends_once_it_is_resumed() {
    for dropped in [1, 2] {
        let mut world = World::with(card_order(&[1]));
        for _ in 0..dropped {
            world.ring_next();
            world.asked.clear();
        }
        world.operator(set_aside());
        world.operator(resume());
        while world.wait().is_some() {}
        world.assert_undone(FailureCode::PaymentExpired);
    }
}
