//! Products and their stock: given what happened, when asked, then.

use aggregates::{
    AccountId, Currency, Inventory, InventoryCommand as Ask, InventoryError, InventoryEvent as Event, Money, Note, OrderId, Product,
    ProductCommand, ProductError, ProductEvent, Quantity, Stock, Timestamp,
};
use cqrs_es::test::{AggregateTestExecutor, TestFramework};
use uuid::Uuid;

const ORDER: OrderId = OrderId::new(Uuid::from_u128(1));
const OTHER: OrderId = OrderId::new(Uuid::from_u128(2));
const SELLER: AccountId = AccountId::new(Uuid::from_u128(3));
const PRICE: Money = Money::new(5_000, Currency::KRW);
const NOON: Timestamp = Timestamp::from_micros(1_000_000);
const MOST: u64 = (1 << 53) - 1;

fn some(count: i64) -> Quantity {
    Quantity::parse(count).expect("a quantity")
}

fn why() -> Note {
    "counted".parse().expect("a note")
}

fn opened(units: u64) -> Event {
    Event::Opened {
        seller: SELLER,
        stock: Stock::OnHand(units),
    }
}

fn unlimited() -> Event {
    Event::Opened {
        seller: SELLER,
        stock: Stock::Unlimited,
    }
}

fn reserved(order: OrderId, count: i64) -> Event {
    Event::Reserved {
        order,
        quantity: some(count),
        price: PRICE,
        expires_at: Some(NOON),
    }
}

fn reserve(order: OrderId, count: i64) -> Ask {
    Ask::Reserve {
        order,
        quantity: some(count),
        expected: None,
        price: Some(PRICE),
        expires_at: Some(NOON),
    }
}

fn stock(events: impl Into<Vec<Event>>) -> AggregateTestExecutor<Inventory> {
    TestFramework::<Inventory>::with(()).given(events.into())
}

// Inventory.

#[test]
fn stock_is_kept_once_opened_and_opened_once() {
    let open = Ask::Open {
        seller: SELLER,
        stock: Stock::OnHand(3),
    };
    stock([]).when(open.clone()).then_expect_events(vec![opened(3)]);
    stock([opened(3)]).when(open).then_expect_error(InventoryError::Exists);
    stock([])
        .when(Ask::Open {
            seller: SELLER,
            stock: Stock::OnHand(MOST + 1),
        })
        .then_expect_error(InventoryError::TooMany);
    stock([])
        .when(Ask::Receive {
            quantity: 1,
            reference: None,
        })
        .then_expect_error(InventoryError::Unknown);
    stock([])
        .when(Ask::Commit { order: ORDER })
        .then_expect_error(InventoryError::Unknown);
}

#[test]
fn goods_that_come_in_are_counted_up_to_what_can_be_counted() {
    let receive = |quantity| Ask::Receive {
        quantity,
        reference: Some(why()),
    };
    stock([opened(0)]).when(receive(5)).then_expect_events(vec![Event::Received {
        quantity: 5,
        reference: Some(why()),
    }]);
    stock([opened(0)]).when(receive(0)).then_expect_error(InventoryError::Zero);
    stock([opened(1)]).when(receive(MOST)).then_expect_error(InventoryError::TooMany);
    stock([opened(1)])
        .when(receive(u64::MAX))
        .then_expect_error(InventoryError::TooMany);
    stock([unlimited()]).when(receive(1)).then_expect_error(InventoryError::Unlimited);
}

#[test]
fn what_is_promised_cannot_be_written_off() {
    let adjust = |delta| Ask::Adjust { delta, reason: why() };
    let given = || stock([opened(10), reserved(ORDER, 4)]);
    given()
        .when(adjust(-6))
        .then_expect_events(vec![Event::Adjusted { delta: -6, reason: why() }]);
    given().when(adjust(-7)).then_expect_error(InventoryError::BelowReserved {
        available: 6,
        on_hand: 10,
        reserved: 4,
    });
    given().when(adjust(i64::MIN)).then_expect_error(InventoryError::BelowReserved {
        available: 6,
        on_hand: 10,
        reserved: 4,
    });
    given().when(adjust(0)).then_expect_error(InventoryError::Zero);
    given().when(adjust(i64::MAX)).then_expect_error(InventoryError::TooMany);
    stock([unlimited()]).when(adjust(-1)).then_expect_error(InventoryError::Unlimited);
}

#[test]
fn the_last_unit_can_be_reserved_and_one_more_cannot() {
    stock([opened(3)])
        .when(reserve(ORDER, 3))
        .then_expect_events(vec![reserved(ORDER, 3)]);
    stock([opened(3), reserved(ORDER, 1)])
        .when(reserve(OTHER, 3))
        .then_expect_events(vec![Event::OutOfStock {
            order: OTHER,
            quantity: some(3),
            available: 2,
        }]);
    stock([unlimited()])
        .when(reserve(ORDER, 1_000_000))
        .then_expect_events(vec![reserved(ORDER, 1_000_000)]);
}

#[test]
fn an_order_reserves_a_product_once() {
    stock([opened(3), reserved(ORDER, 1)])
        .when(reserve(ORDER, 1))
        .then_expect_events(vec![]);
}

#[test]
fn goods_are_promised_at_the_price_of_the_day_or_the_one_that_the_buyer_saw() {
    let reserve = |expected, price| Ask::Reserve {
        order: ORDER,
        quantity: some(1),
        expected,
        price,
        expires_at: None,
    };
    let at = |price| Event::Reserved {
        order: ORDER,
        quantity: some(1),
        price,
        expires_at: None,
    };
    let lower = Money::new(4_000, Currency::KRW);
    stock([opened(3)])
        .when(reserve(None, Some(lower)))
        .then_expect_events(vec![at(lower)]);
    stock([opened(3)])
        .when(reserve(Some(PRICE), Some(PRICE)))
        .then_expect_events(vec![at(PRICE)]);
    let changed = Event::PriceChanged {
        order: ORDER,
        expected: PRICE,
        price: lower,
    };
    stock([opened(3)])
        .when(reserve(Some(PRICE), Some(lower)))
        .then_expect_events(vec![changed]);
}

#[test]
fn a_product_that_is_not_offered_is_not_promised() {
    let reserve = Ask::Reserve {
        order: ORDER,
        quantity: some(1),
        expected: None,
        price: None,
        expires_at: None,
    };
    stock([opened(3)])
        .when(reserve.clone())
        .then_expect_events(vec![Event::NotOffered { order: ORDER }]);
    // Nobody is there to read a refusal.
    stock([]).when(reserve).then_expect_events(vec![Event::NotOffered { order: ORDER }]);
}

#[test]
fn a_held_reservation_does_not_expire() {
    let held = Event::Held { order: ORDER };
    stock([opened(3), reserved(ORDER, 1)])
        .when(Ask::Hold { order: ORDER })
        .then_expect_events(vec![held.clone()]);
    stock([opened(3), reserved(ORDER, 1), held.clone()])
        .when(Ask::Hold { order: ORDER })
        .then_expect_events(vec![]);
    stock([opened(3), reserved(ORDER, 1), held])
        .when(Ask::Expire { order: ORDER, at: NOON })
        .then_expect_events(vec![]);
    stock([opened(3)])
        .when(Ask::Hold { order: ORDER })
        .then_expect_events(vec![Event::NotHeld { order: ORDER }]);
}

#[test]
fn a_reservation_expires_when_its_time_is_over_and_not_before() {
    let given = || stock([opened(3), reserved(ORDER, 2)]);
    given()
        .when(Ask::Expire { order: ORDER, at: NOON })
        .then_expect_events(vec![Event::Expired {
            order: ORDER,
            quantity: some(2),
        }]);
    given()
        .when(Ask::Expire {
            order: ORDER,
            at: Timestamp::from_micros(999_999),
        })
        .then_expect_events(vec![]);
    stock([opened(3)])
        .when(Ask::Expire { order: ORDER, at: NOON })
        .then_expect_events(vec![]);
}

#[test]
fn a_reservation_is_committed_or_released_and_that_once() {
    let committed = Event::Committed {
        order: ORDER,
        quantity: some(2),
    };
    let released = Event::Released {
        order: ORDER,
        quantity: some(2),
    };
    let given = [opened(3), reserved(ORDER, 2)];
    stock(given.clone())
        .when(Ask::Commit { order: ORDER })
        .then_expect_events(vec![committed.clone()]);
    stock(given.clone())
        .when(Ask::Release { order: ORDER })
        .then_expect_events(vec![released.clone()]);
    stock(given.clone())
        .and(vec![committed])
        .when(Ask::Commit { order: ORDER })
        .then_expect_events(vec![Event::NotCommitted { order: ORDER }]);
    stock(given)
        .and(vec![released])
        .when(Ask::Commit { order: ORDER })
        .then_expect_events(vec![Event::NotCommitted { order: ORDER }]);
}

#[test]
fn a_release_that_comes_first_refuses_the_reservation_that_comes_after() {
    let noted = Event::ReleaseNoted { order: ORDER };
    let refused = Event::ReservationRefused { order: ORDER };
    stock([opened(3)])
        .when(Ask::Release { order: ORDER })
        .then_expect_events(vec![noted.clone()]);
    stock([opened(3), noted.clone()])
        .when(Ask::Release { order: ORDER })
        .then_expect_events(vec![]);
    stock([opened(3), noted.clone()])
        .when(reserve(ORDER, 1))
        .then_expect_events(vec![refused]);
    stock([opened(3), noted])
        .when(reserve(OTHER, 3))
        .then_expect_events(vec![reserved(OTHER, 3)]);
}

// Product.

fn create() -> ProductCommand {
    ProductCommand::Create {
        seller: SELLER,
        sku: "COFFEE-001".parse().expect("a SKU"),
        name: "Coffee".parse().expect("a name"),
        description: None,
        price: PRICE,
        stock: Stock::OnHand(1_000),
        at: NOON,
    }
}

fn created() -> ProductEvent {
    ProductEvent::Created {
        seller: SELLER,
        sku: "COFFEE-001".parse().expect("a SKU"),
        name: "Coffee".parse().expect("a name"),
        description: None,
        price: PRICE,
        stock: Stock::OnHand(1_000),
        at: NOON,
    }
}

fn change(name: Option<&str>, price: Option<Money>) -> ProductCommand {
    ProductCommand::Change {
        name: name.map(|name| name.parse().expect("a name")),
        description: None,
        price,
    }
}

fn product(events: impl Into<Vec<ProductEvent>>) -> AggregateTestExecutor<Product> {
    TestFramework::<Product>::with(()).given(events.into())
}

#[test]
fn a_product_is_offered_once() {
    product([]).when(create()).then_expect_events(vec![created()]);
    product([created()]).when(create()).then_expect_error(ProductError::Exists);
    product([]).when(change(Some("Tea"), None)).then_expect_error(ProductError::Unknown);
    product([]).when(ProductCommand::Retire).then_expect_error(ProductError::Unknown);
}

#[test]
fn only_what_differs_is_a_change_of_a_product() {
    let changed = |name: Option<&str>, price| ProductEvent::Changed {
        name: name.map(|name| name.parse().expect("a name")),
        description: None,
        price,
    };
    let dearer = Money::new(5_500, Currency::KRW);
    product([created()])
        .when(change(Some("Coffee"), Some(dearer)))
        .then_expect_events(vec![changed(None, Some(dearer))]);
    product([created()])
        .when(change(Some("Coffee"), Some(PRICE)))
        .then_expect_events(vec![]);
    product([created(), changed(Some("Tea"), None)])
        .when(change(Some("Coffee"), None))
        .then_expect_events(vec![changed(Some("Coffee"), None)]);
    let dollars = Money::new(5, "USD".parse().expect("dollars"));
    product([created()])
        .when(change(None, Some(dollars)))
        .then_expect_error(ProductError::CurrencyMismatch(Currency::KRW));
}

#[test]
fn a_described_product_keeps_its_description_when_something_else_changes() {
    let describe = |text: &str| ProductCommand::Change {
        name: None,
        description: Some(text.parse().expect("a description")),
        price: None,
    };
    let described = ProductEvent::Changed {
        name: None,
        description: Some("Hot".parse().expect("a description")),
        price: None,
    };
    let renamed = ProductEvent::Changed {
        name: Some("Tea".parse().expect("a name")),
        description: None,
        price: None,
    };
    product([created()])
        .when(describe("Hot"))
        .then_expect_events(vec![described.clone()]);
    product([created(), described, renamed])
        .when(describe("Hot"))
        .then_expect_events(vec![]);
}

#[test]
fn a_retired_product_stays_retired() {
    product([created()])
        .when(ProductCommand::Retire)
        .then_expect_events(vec![ProductEvent::Retired {}]);
    product([created(), ProductEvent::Retired {}])
        .when(ProductCommand::Retire)
        .then_expect_events(vec![]);
    product([created(), ProductEvent::Retired {}])
        .when(change(Some("Tea"), None))
        .then_expect_error(ProductError::Retired);
}
