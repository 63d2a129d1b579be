//! What holds in whatever order things are asked.

use std::collections::BTreeMap;

use aggregates::{
    AccountId, CommerceEvent, Currency, Decide, Inventory, InventoryCommand, InventoryEvent, Kind, Money, MoneyError, OrderId, Payment,
    PaymentCommand, PaymentEvent, PaymentId, PaymentMethod, PaymentStatus, Quantity, Stock, Timestamp, Wallet, WalletCommand, WalletEvent,
};
use proptest::prelude::*;
use uuid::Uuid;

const PRICE: Money = Money::new(5_000, Currency::KRW);

fn krw(minor: i64) -> Money {
    Money::new(minor, Currency::KRW)
}

fn order() -> impl Strategy<Value = OrderId> {
    (0..6_u128).prop_map(|number| OrderId::new(Uuid::from_u128(number)))
}

/// Small, and now and then as large as it can be.
fn number() -> impl Strategy<Value = i64> {
    prop_oneof![8 => -20..20_i64, 1 => Just(i64::MAX), 1 => Just(i64::MIN), 1 => Just(Money::MAX_MINOR)]
}

fn inventory_command() -> impl Strategy<Value = InventoryCommand> {
    use InventoryCommand as Ask;
    prop_oneof![
        1 => prop_oneof![Just(0), Just(u64::MAX), 0..20_u64].prop_map(|quantity| Ask::Receive { quantity, reference: None }),
        1 => number().prop_map(|delta| Ask::Adjust { delta, reason: "counted".parse().expect("a note") }),
        4 => (order(), 1..8_i64, prop::option::of(0..5_i64), prop::option::weighted(0.9, Just(PRICE))).prop_map(|(order, quantity, due, price)| {
            let quantity = Quantity::parse(quantity).expect("a quantity");
            Ask::Reserve { order, quantity, expected: None, price, expires_at: due.map(Timestamp::from_micros) }
        }),
        1 => order().prop_map(|order| Ask::Hold { order }),
        2 => order().prop_map(|order| Ask::Commit { order }),
        1 => order().prop_map(|order| Ask::Release { order }),
        1 => (order(), 0..5_i64).prop_map(|(order, at)| Ask::Expire { order, at: Timestamp::from_micros(at) }),
    ]
}

/// What the events of a stock add up to.
#[derive(Default)]
struct Books {
    received: u64,
    written_off: u64,
    sold: u64,
    open: BTreeMap<OrderId, u64>,
}

impl Books {
    fn enter(&mut self, event: &InventoryEvent) {
        match event {
            InventoryEvent::Opened {
                stock: Stock::OnHand(units),
                ..
            } => self.received += units,
            InventoryEvent::Received { quantity, .. } => self.received += quantity,
            InventoryEvent::Adjusted { delta, .. } if *delta > 0 => self.received += delta.unsigned_abs(),
            InventoryEvent::Adjusted { delta, .. } => self.written_off += delta.unsigned_abs(),
            InventoryEvent::Reserved { order, quantity, .. } => {
                assert_eq!(self.open.insert(*order, quantity.units()), None, "reserved twice");
            }
            InventoryEvent::Committed { order, quantity } => {
                self.sold += quantity.units();
                assert_eq!(self.open.remove(order), Some(quantity.units()), "ended what was not open");
            }
            InventoryEvent::Released { order, quantity } | InventoryEvent::Expired { order, quantity } => {
                assert_eq!(self.open.remove(order), Some(quantity.units()), "ended what was not open");
            }
            _ => {}
        }
    }
}

/// Tells an aggregate what it accepts, and hands out each event with the state after it.
fn tell<A: Decide>(aggregate: &mut A, command: A::Command, mut seen: impl FnMut(&A, &A::Event)) {
    for event in aggregate.decide(command).unwrap_or_default() {
        aggregate.evolve(&event);
        seen(aggregate, &event);
    }
}

fn payment_command() -> impl Strategy<Value = PaymentCommand> {
    use PaymentCommand as Ask;
    let text = || "x".to_owned();
    prop_oneof![
        2 => Just(Ask::Request { payment_key: "pk".parse().expect("a payment key") }),
        1 => Just(Ask::Repeat),
        2 => Just(Ask::RecordCapture { amount: PRICE }),
        1 => Just(Ask::RecordDecline { code: text(), message: text() }),
        1 => Just(Ask::RecordUnknown { reason: text() }),
        1 => Just(Ask::RecordNotCharged { status: text() }),
        1 => Just(Ask::AskStatus),
        1 => Just(Ask::Expire),
        1 => Just(Ask::Cancel),
        2 => Just(Ask::Reverse),
        1 => Just(Ask::RecordReversal),
        1 => Just(Ask::RecordReversalUnknown { reason: text() }),
        1 => Just(Ask::RecordReversalRefused { code: text(), message: text() }),
    ]
}

fn wallet_command() -> impl Strategy<Value = WalletCommand> {
    let (payment, order) = (PaymentId::default(), OrderId::default());
    prop_oneof![
        2 => number().prop_map(|minor| WalletCommand::Deposit { amount: krw(minor) }),
        3 => number().prop_map(move |minor| WalletCommand::Debit { payment, order, amount: krw(minor) }),
        1 => number().prop_map(move |minor| WalletCommand::Credit { payment, order, amount: krw(minor) }),
    ]
}

/// The recorded events of every aggregate, to be thrown at states that never expected them.
fn any_event() -> impl Strategy<Value = CommerceEvent> {
    macro_rules! texts {
        ($($name:literal),+ $(,)?) => { &[$(($name, include_str!(concat!("recorded/", $name, ".json")))),+] };
    }
    const TEXTS: &[(&str, &str)] = texts![
        "account.opened",
        "email.claimed",
        "inventory.adjusted",
        "inventory.committed",
        "inventory.expired",
        "inventory.held",
        "inventory.not_held",
        "inventory.not_offered",
        "inventory.opened",
        "inventory.out_of_stock",
        "inventory.price_changed",
        "inventory.received",
        "inventory.release_noted",
        "inventory.released",
        "inventory.reservation_refused",
        "inventory.reserved",
        "order.attention_needed",
        "order.awaiting_payment",
        "order.cancellation_requested",
        "order.cancelled",
        "order.confirmed",
        "order.payment_expired",
        "order.payment_submitted",
        "order.placed",
        "order.repriced",
        "payment.cancelled",
        "payment.captured",
        "payment.contradicted",
        "payment.declined",
        "payment.expired",
        "payment.not_charged",
        "payment.outcome_unknown",
        "payment.prepared",
        "payment.requested",
        "payment.reversal_refused",
        "payment.reversal_requested",
        "payment.reversal_unknown",
        "payment.reversed",
        "payment.status_asked",
        "product.changed",
        "product.created",
        "product.retired",
        "session.ended",
        "session.refreshed",
        "session.revoked",
        "session.started",
        "wallet.credited",
        "wallet.debit_refused",
        "wallet.debited",
        "wallet.deposited",
        "wallet.opened",
    ];
    prop::sample::select(TEXTS).prop_map(|(name, text)| {
        let kind = name.split_once('.').expect("a stored name").0;
        CommerceEvent::decode(kind, Uuid::nil(), text)
            .expect("recorded")
            .expect("of an aggregate")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stock_is_never_oversold_and_never_lost(commands in prop::collection::vec(inventory_command(), 0..60), units in 0..20_u64) {
        let mut stock = Inventory::default();
        let mut books = Books::default();
        let open = InventoryCommand::Open { seller: AccountId::default(), stock: Stock::OnHand(units) };
        for command in [open].into_iter().chain(commands) {
            tell(&mut stock, command, |stock, event| {
                books.enter(event);
                assert!(stock.reserved() <= stock.on_hand(), "{event:?}");
                assert_eq!(books.received, stock.on_hand() + books.sold + books.written_off, "{event:?}");
                assert_eq!(stock.reserved(), books.open.values().sum::<u64>(), "{event:?}");
            });
        }
    }

    #[test]
    fn unlimited_stock_never_refuses_for_want_of_goods(commands in prop::collection::vec(inventory_command(), 0..60)) {
        let mut stock = Inventory::default();
        let open = InventoryCommand::Open { seller: AccountId::default(), stock: Stock::Unlimited };
        let mut books = Books::default();
        for command in [open].into_iter().chain(commands) {
            tell(&mut stock, command, |stock, event| {
                books.enter(event);
                assert!(!matches!(event, InventoryEvent::OutOfStock { .. }));
                assert_eq!((stock.on_hand(), stock.reserved()), (0, 0));
            });
        }
    }

    #[test]
    fn a_balance_is_never_negative_and_no_money_appears_or_is_lost(commands in prop::collection::vec(wallet_command(), 0..60)) {
        let mut wallet = Wallet::default();
        let mut sum = 0_i128;
        for command in [WalletCommand::Open { currency: Currency::KRW }].into_iter().chain(commands) {
            tell(&mut wallet, command, |wallet, event| {
                sum += match event {
                    WalletEvent::Deposited { amount } | WalletEvent::Credited { amount, .. } => i128::from(amount.minor()),
                    WalletEvent::Debited { amount, .. } => -i128::from(amount.minor()),
                    WalletEvent::Opened { .. } | WalletEvent::DebitRefused { .. } => 0,
                };
                let balance = wallet.balance().expect("open").minor();
                assert!(balance >= 0, "{event:?}");
                assert_eq!(i128::from(balance), sum, "{event:?}");
            });
        }
    }

    #[test]
    fn money_is_taken_at_most_once_and_given_back_only_after(commands in prop::collection::vec(payment_command(), 0..60)) {
        let mut payment = Payment::default();
        let prepare = PaymentCommand::Prepare { order: OrderId::default(), buyer: AccountId::default(), amount: PRICE, method: PaymentMethod::Card };
        let (mut captured, mut reversed) = (0, 0);
        for command in [prepare].into_iter().chain(commands) {
            tell(&mut payment, command, |_, event| {
                captured += u32::from(matches!(event, PaymentEvent::Captured { .. }));
                reversed += u32::from(matches!(event, PaymentEvent::Reversed { .. }));
                assert!(reversed <= captured && captured <= 1, "{event:?}");
            });
        }
        // Charged is kept, given back, on its way back, or a person's: never forgotten.
        let remembered = matches!(
            payment.status(),
            PaymentStatus::Captured | PaymentStatus::Reversing | PaymentStatus::Reversed | PaymentStatus::NeedsAttention
        );
        prop_assert_eq!(captured == 1, remembered);
        prop_assert_eq!(reversed == 1, payment.status() == PaymentStatus::Reversed);
    }

    #[test]
    fn money_adds_and_multiplies_as_numbers_do_or_says_that_it_cannot(a in any::<i64>(), b in any::<i64>(), times in any::<u32>()) {
        let exact = |sum: i128| i64::try_from(sum).map_err(|_| MoneyError::Overflow);
        prop_assert_eq!(krw(a).checked_add(krw(b)).map(Money::minor), exact(i128::from(a) + i128::from(b)));
        prop_assert_eq!(krw(a).checked_sub(krw(b)).map(Money::minor), exact(i128::from(a) - i128::from(b)));
        let product = i128::from(a) * i128::from(times);
        let fits = product.abs() <= i128::from(Money::MAX_MINOR);
        prop_assert_eq!(krw(a).checked_mul(times).map(Money::minor), exact(product).and_then(|minor| if fits { Ok(minor) } else { Err(MoneyError::Overflow) }));
    }

    #[test]
    fn money_survives_its_json(minor in any::<i64>()) {
        let json = serde_json::to_string(&krw(minor)).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<Money>(&json).expect("money"), krw(minor));
    }

    #[test]
    fn any_event_on_any_state_changes_it_or_not_but_breaks_nothing(events in prop::collection::vec(any_event(), 0..40)) {
        for kind in Kind::ALL {
            let mut state = kind.initial();
            for event in &events {
                state.evolve(event);
                let json = state.to_json().expect("a state is JSON");
                prop_assert_eq!(&aggregates::State::from_json(*kind, &json).expect("a snapshot"), &state);
            }
        }
    }
}
