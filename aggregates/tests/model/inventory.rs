//! A stock as numbers and a set of promises.

use std::collections::{BTreeMap, BTreeSet};

use aggregates::{
    AccountId, Class, Inventory, InventoryCommand as Ask, InventoryEvent as Event, Money, OrderId, Quantity, Stock, Timestamp,
};
use proptest::prelude::*;

use crate::{Expected, Model, config, id, krw, order, steps, walk};

const MOST: i128 = (1 << 53) - 1;
const PRICE: i64 = 5_000;

#[derive(Clone, Copy)]
struct Promise {
    units: Quantity,
    /// None when it is held.
    ends: Option<Timestamp>,
}

/// What is there, where it went, and to whom the rest is promised.
#[derive(Default)]
struct Shelf {
    seller: Option<AccountId>,
    uncounted: bool,
    received: i128,
    written_off: i128,
    sold: i128,
    promises: BTreeMap<OrderId, Promise>,
    /// Released before they were reserved: their reservation is refused, once.
    too_early: BTreeSet<OrderId>,
    /// Whose reservation was just refused for that.
    turned_away: Option<OrderId>,
}

impl Shelf {
    fn on_hand(&self) -> i128 {
        self.received - self.written_off - self.sold
    }

    fn promised(&self) -> i128 {
        if self.uncounted {
            return 0;
        }
        self.promises.values().map(|promise| i128::from(promise.units.get())).sum()
    }

    fn free(&self) -> i128 {
        self.on_hand() - self.promised()
    }

    fn open(&mut self, seller: AccountId, stock: Stock) -> Expected<Event> {
        match stock {
            Stock::OnHand(units) if i128::from(units) > MOST => return Err((Class::Rule, "stock-too-large")),
            Stock::OnHand(units) => self.received = units.into(),
            Stock::Unlimited => self.uncounted = true,
        }
        self.seller = Some(seller);
        Ok(vec![Event::Opened { seller, stock }])
    }

    /// Counts by this much, when that leaves a number that is there.
    fn count(&mut self, change: i128, event: Event) -> Expected<Event> {
        if self.uncounted {
            return Err((Class::Rule, "stock-unlimited"));
        }
        match change {
            0 => return Err((Class::Rule, "quantity-zero")),
            more if more > 0 && self.on_hand() + more > MOST => return Err((Class::Rule, "stock-too-large")),
            less if self.free() + less < 0 => return Err((Class::State, "stock-below-reserved")),
            more if more > 0 => self.received += more,
            less => self.written_off -= less,
        }
        Ok(vec![event])
    }

    fn reserve(
        &mut self,
        order: OrderId,
        quantity: Quantity,
        prices: (Option<Money>, Option<Money>),
        ends: Option<Timestamp>,
    ) -> Vec<Event> {
        if self.promises.contains_key(&order) {
            return vec![];
        }
        if self.too_early.remove(&order) {
            self.turned_away = Some(order);
            return vec![Event::ReservationRefused { order }];
        }
        let (expected, found) = prices;
        let Some(price) = found else {
            return vec![Event::NotOffered { order }];
        };
        if let Some(expected) = expected
            && expected != price
        {
            return vec![Event::PriceChanged { order, expected, price }];
        }
        if !self.uncounted && self.free() < i128::from(quantity.get()) {
            let available = u64::try_from(self.free()).expect("never below zero");
            return vec![Event::OutOfStock {
                order,
                quantity,
                available,
            }];
        }
        self.promises.insert(order, Promise { units: quantity, ends });
        vec![Event::Reserved {
            order,
            quantity,
            price,
            expires_at: ends,
        }]
    }

    fn commit(&mut self, order: OrderId) -> Vec<Event> {
        let Some(promise) = self.promises.remove(&order) else {
            return vec![Event::NotCommitted { order }];
        };
        if !self.uncounted {
            self.sold += i128::from(promise.units.get());
        }
        vec![Event::Committed {
            order,
            quantity: promise.units,
        }]
    }

    fn release(&mut self, order: OrderId) -> Vec<Event> {
        match self.promises.remove(&order) {
            Some(promise) => vec![Event::Released {
                order,
                quantity: promise.units,
            }],
            None if self.too_early.insert(order) => vec![Event::ReleaseNoted { order }],
            None => vec![],
        }
    }

    fn hold(&mut self, order: OrderId) -> Vec<Event> {
        match self.promises.get_mut(&order) {
            None => vec![Event::NotHeld { order }],
            Some(promise) if promise.ends.is_none() => vec![],
            Some(promise) => {
                promise.ends = None;
                vec![Event::Held { order }]
            }
        }
    }

    fn expire(&mut self, order: OrderId, now: Timestamp) -> Vec<Event> {
        let over = |promise: &Promise| promise.ends.is_some_and(|ends| now >= ends);
        let Some(promise) = self.promises.get(&order).copied().filter(over) else {
            return vec![];
        };
        self.promises.remove(&order);
        vec![Event::Expired {
            order,
            quantity: promise.units,
        }]
    }
}

impl Model for Shelf {
    type Of = Inventory;

    fn tell(&mut self, command: &Ask) -> Expected<Event> {
        self.turned_away = None;
        match command.clone() {
            Ask::Open { .. } if self.seller.is_some() => Err((Class::State, "inventory-exists")),
            Ask::Open { seller, stock } => self.open(seller, stock),
            // A process that asks is answered, also where nothing is kept.
            Ask::Reserve { order, .. } if self.seller.is_none() => Ok(vec![Event::NotOffered { order }]),
            _ if self.seller.is_none() => Err((Class::Unknown, "unknown-product")),
            Ask::Receive { quantity, reference } => self.count(quantity.into(), Event::Received { quantity, reference }),
            Ask::Adjust { delta, reason } => self.count(delta.into(), Event::Adjusted { delta, reason }),
            Ask::Reserve {
                order,
                quantity,
                expected,
                price,
                expires_at,
            } => Ok(self.reserve(order, quantity, (expected, price), expires_at)),
            Ask::Hold { order } => Ok(self.hold(order)),
            Ask::Commit { order } => Ok(self.commit(order)),
            Ask::Release { order } => Ok(self.release(order)),
            Ask::Expire { order, at } => Ok(self.expire(order, at)),
        }
    }

    fn check(&self, stock: &Inventory) {
        assert_eq!(stock.seller(), self.seller);
        assert_eq!(stock.unlimited(), self.uncounted);
        let figures = [stock.on_hand(), stock.reserved(), stock.available()].map(i128::from);
        assert_eq!(figures, [self.on_hand(), self.promised(), self.free()]);
        assert!(0 <= self.promised() && self.promised() <= self.on_hand() && self.on_hand() <= MOST);
        for number in 1..6 {
            let order = OrderId::new(id(number));
            let promised = self.promises.get(&order).map(|promise| (promise.units, promise.ends));
            let found = stock
                .reservation(order)
                .map(|reservation| (reservation.quantity, reservation.expires_at));
            assert_eq!(found, promised);
        }
    }

    fn may_repeat(&self, command: &Ask) -> bool {
        match command {
            // Somebody received or counted twice: what tells the two apart is the request's key.
            Ask::Receive { .. } | Ask::Adjust { .. } => false,
            // The release that came first turns away one reservation and no more.
            Ask::Reserve { order, .. } => self.turned_away != Some(*order),
            Ask::Open { .. } | Ask::Hold { .. } | Ask::Commit { .. } | Ask::Release { .. } | Ask::Expire { .. } => true,
        }
    }
}

fn price() -> impl Strategy<Value = Option<Money>> {
    prop_oneof![1 => Just(None), 6 => Just(Some(krw(PRICE))), 1 => Just(Some(krw(PRICE + 1)))]
}

fn moment() -> impl Strategy<Value = Timestamp> {
    (0..6_i64).prop_map(Timestamp::from_micros)
}

fn open() -> impl Strategy<Value = Ask> {
    let stock = prop_oneof![
        8 => (0..30_u64).prop_map(Stock::OnHand),
        2 => Just(Stock::Unlimited),
        1 => Just(Stock::OnHand((1 << 53) - 1)),
        1 => Just(Stock::OnHand(1 << 53)),
    ];
    (1..3_u128, stock).prop_map(|(seller, stock)| Ask::Open {
        seller: AccountId::new(id(seller)),
        stock,
    })
}

fn command() -> impl Strategy<Value = Ask> {
    let units = || prop_oneof![6 => 0..20_u64, 1 => Just((1 << 53) - 1), 1 => Just(u64::MAX)];
    let delta = prop_oneof![6 => -12..12_i64, 1 => Just(i64::MIN), 1 => Just(i64::MAX), 1 => Just((1 << 53) - 1)];
    let quantity = prop_oneof![8 => 1..9_i64, 1 => Just(1_000_000)];
    prop_oneof![
        1 => open(),
        2 => units().prop_map(|quantity| Ask::Receive { quantity, reference: None }),
        2 => delta.prop_map(|delta| Ask::Adjust { delta, reason: "counted".parse().expect("a note") }),
        8 => (order(), quantity, price(), price(), prop::option::weighted(0.7, moment())).prop_map(|(order, quantity, expected, price, expires_at)| {
            let quantity = Quantity::parse(quantity).expect("a quantity");
            Ask::Reserve { order, quantity, expected, price, expires_at }
        }),
        2 => order().prop_map(|order| Ask::Hold { order }),
        3 => order().prop_map(|order| Ask::Commit { order }),
        2 => order().prop_map(|order| Ask::Release { order }),
        2 => (order(), moment()).prop_map(|(order, at)| Ask::Expire { order, at }),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_stock_is_its_numbers_and_its_promises((first, then) in (open(), steps(command()))) {
        walk::<Shelf>([first].into_iter().chain(then).collect());
    }

    #[test]
    fn a_stock_that_nobody_keeps_refuses_all_but_a_process(commands in prop::collection::vec(command(), 0..6)) {
        walk::<Shelf>(commands);
    }
}
