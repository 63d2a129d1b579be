//! What must hold after every round, from what the shop itself says.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Invariant {
    /// Stock is never negative: no more is sold than came in, and what is on hand and reserved is what the orders leave.
    Stock,
    /// Credit is never overspent: no more is confirmed than the balance held.
    Credit,
    /// What was charged is what was ordered, once.
    Charged,
}

/// Something that does not add up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Anomaly {
    pub(super) invariant: Invariant,
    /// By how many units, or how much money in the smallest unit: what makes one worse than another.
    pub(super) off_by: u64,
    /// With the ids and the figures.
    pub(super) text: String,
}

/// What a round left behind.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) stock: Stock,
    pub(super) orders: Vec<Order>,
    pub(super) accounts: Vec<Account>,
    /// What each idempotency key that was used more than once was answered.
    pub(super) keys: BTreeMap<String, Accepted>,
}

/// The product that the round was about.
#[derive(Clone, Debug, Default)]
pub(super) struct Stock {
    pub(super) product: String,
    /// Units it began with, and all that came in or was written off since.
    pub(super) received: i64,
    pub(super) on_hand: i64,
    pub(super) reserved: i64,
    /// Every price that it had.
    pub(super) prices: Vec<i64>,
}

/// An order as the shop shows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    pub(super) id: String,
    pub(super) account: String,
    /// Paid from the balance, not by card.
    pub(super) balance: bool,
    pub(super) status: String,
    pub(super) failure: Option<String>,
    pub(super) quantity: i64,
    pub(super) unit_price: i64,
    pub(super) total: i64,
    /// The price that the buyer saw and named.
    pub(super) stated: Option<i64>,
    /// What the provider took and gave back for it; none where its ledger cannot be read.
    pub(super) ledger: Option<Ledger>,
}

/// The provider's side of an order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ledger {
    pub(super) charges: u64,
    /// Charged less given back.
    pub(super) net: i64,
}

/// A buyer's balance.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) id: String,
    /// Before the round, with all deposits that were accepted since.
    pub(super) held: i64,
    pub(super) balance: i64,
}

/// What the shop accepted under one key.
#[derive(Clone, Debug, Default)]
pub(super) struct Accepted {
    pub(super) orders: BTreeSet<String>,
    pub(super) bodies: BTreeSet<String>,
}

impl Order {
    /// Whether it counts as sold.
    pub(super) fn confirmed(&self) -> bool {
        matches!(self.status.as_str(), "CONFIRMED" | "PREPARING_SHIPMENT" | "SHIPPED" | "DELIVERED")
    }

    fn waiting(&self) -> bool {
        self.status == "AWAITING_PAYMENT"
    }

    fn settled(&self) -> bool {
        self.confirmed() || self.waiting() || self.status == "CANCELLED"
    }

    /// Its reason when it came to nothing, else its status.
    pub(super) fn outcome(&self) -> String {
        match &self.failure {
            Some(failure) => failure.clone(),
            None if self.confirmed() => "CONFIRMED".to_owned(),
            None => self.status.clone(),
        }
    }

    fn told(&self) -> String {
        let Self {
            id,
            quantity,
            unit_price,
            total,
            ..
        } = self;
        let outcome = self.outcome();
        format!("order {id} ({outcome}, {quantity} x {unit_price} = {total})")
    }
}

/// Everything that does not add up.
pub(super) fn check(facts: &Facts) -> Vec<Anomaly> {
    // As long as an order is under way nothing can be said about the figures.
    let unsettled: Vec<_> = facts.orders.iter().filter(|order| !order.settled()).map(unsettled).collect();
    if !unsettled.is_empty() {
        return unsettled;
    }
    let mut found = stock(&facts.stock, &facts.orders);
    for account in &facts.accounts {
        found.extend(money(account, &facts.orders));
    }
    found.extend(facts.orders.iter().filter_map(|order| price(order, &facts.stock)));
    found.extend(facts.orders.iter().filter_map(provider));
    found.extend(facts.keys.iter().filter_map(|(key, accepted)| once(key, accepted)));
    found
}

fn unsettled(order: &Order) -> Anomaly {
    Anomaly {
        invariant: Invariant::Charged,
        off_by: order.total.unsigned_abs(),
        text: format!("{} does not come to an end", order.told()),
    }
}

fn sum<'a>(orders: impl Iterator<Item = &'a Order>, figure: impl Fn(&Order) -> i64) -> i64 {
    orders.map(figure).fold(0, i64::saturating_add)
}

fn listed<'a>(orders: impl Iterator<Item = &'a Order>) -> String {
    let orders = orders.map(Order::told).collect::<Vec<_>>();
    if orders.is_empty() {
        "no order".to_owned()
    } else {
        orders.join(", ")
    }
}

fn stock(stock: &Stock, orders: &[Order]) -> Vec<Anomaly> {
    let Stock {
        product,
        received,
        on_hand,
        reserved,
        ..
    } = stock;
    let confirmed = || orders.iter().filter(|order| order.confirmed());
    let sold = sum(confirmed(), |order| order.quantity);
    let held = sum(orders.iter().filter(|order| order.waiting()), |order| order.quantity);
    let anomaly = |off_by, text| Anomaly {
        invariant: Invariant::Stock,
        off_by,
        text,
    };
    let mut found = Vec::new();
    if sold.saturating_add(held) > *received {
        let off_by = sold.saturating_add(held).abs_diff(*received);
        let text = format!(
            "product {product}: {received} to sell, {sold} confirmed and {held} held: {}",
            listed(confirmed())
        );
        found.push(anomaly(off_by, text));
    }
    let left = received.saturating_sub(sold);
    if (*on_hand, *reserved) != (left, held) {
        let off_by = on_hand.abs_diff(left).saturating_add(reserved.abs_diff(held));
        let negative = if *on_hand < 0 || *reserved < 0 { ", negative stock" } else { "" };
        let text = format!(
            "product {product}: on hand {on_hand} and reserved {reserved}, should be {left} and {held}{negative}: {}",
            listed(orders.iter())
        );
        found.push(anomaly(off_by, text));
    }
    found
}

fn money(account: &Account, orders: &[Order]) -> Vec<Anomaly> {
    let Account { id, held, balance } = account;
    let paid = || {
        let own = orders.iter().filter(|order| order.account == *id);
        own.filter(|order| order.balance && order.confirmed())
    };
    let spent = sum(paid(), |order| order.total);
    let mut found = Vec::new();
    if spent > *held || *balance < 0 {
        found.push(Anomaly {
            invariant: Invariant::Credit,
            off_by: spent
                .saturating_sub(*held)
                .max(0)
                .unsigned_abs()
                .max(balance.min(&0).unsigned_abs()),
            text: format!("account {id}: held {held}, spent {spent}, left with {balance}: {}", listed(paid())),
        });
    }
    let left = held.saturating_sub(spent);
    if *balance != left {
        found.push(Anomaly {
            invariant: Invariant::Charged,
            off_by: balance.abs_diff(left),
            text: format!(
                "account {id}: held {held}, confirmed {spent}, so {left} should be left and {balance} is: {}",
                listed(orders.iter().filter(|order| order.account == *id))
            ),
        });
    }
    found
}

/// A confirmed order costs what was shown, and its total is that of its line.
fn price(order: &Order, stock: &Stock) -> Option<Anomaly> {
    if !order.confirmed() {
        return None;
    }
    let due = order.unit_price.saturating_mul(order.quantity);
    let (shown, text) = if order.total != due {
        (due, format!("{} has another total than its line", order.told()))
    } else if let Some(stated) = order.stated.filter(|stated| *stated != order.unit_price) {
        (
            stated.saturating_mul(order.quantity),
            format!("{} was confirmed although its buyer named {stated}", order.told()),
        )
    } else if !stock.prices.contains(&order.unit_price) {
        (0, format!("{} costs what was never asked: {:?}", order.told(), stock.prices))
    } else {
        return None;
    };
    Some(Anomaly {
        invariant: Invariant::Charged,
        off_by: order.total.abs_diff(shown),
        text,
    })
}

fn provider(order: &Order) -> Option<Anomaly> {
    let Ledger { charges, net } = order.ledger?;
    // A card pays a confirmed order with one charge; for any other order nothing is kept.
    let due = if order.confirmed() && !order.balance { order.total } else { 0 };
    (net != due || (due > 0 && charges != 1)).then(|| Anomaly {
        invariant: Invariant::Charged,
        off_by: net.abs_diff(due),
        text: format!(
            "{}: the provider charged {charges} times and kept {net}, due is {due}",
            order.told()
        ),
    })
}

fn once(key: &str, accepted: &Accepted) -> Option<Anomaly> {
    let Accepted { orders, bodies } = accepted;
    let text = if orders.len() > 1 {
        let orders = orders.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        format!("Idempotency-Key {key} made several orders: {orders}")
    } else if bodies.len() > 1 {
        let bodies = bodies.iter().map(String::as_str).collect::<Vec<_>>().join(" and ");
        format!("Idempotency-Key {key} was accepted with different bodies: {bodies}")
    } else {
        return None;
    };
    Some(Anomaly {
        invariant: Invariant::Charged,
        off_by: orders.len().max(bodies.len()).saturating_sub(1) as u64,
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(status: &str) -> Order {
        Order {
            id: "o".to_owned(),
            account: "a".to_owned(),
            balance: true,
            status: status.to_owned(),
            quantity: 2,
            unit_price: 500,
            total: 1_000,
            ..Order::default()
        }
    }

    /// Ten units and 3,000 at first; one confirmed order, one that was refused, one that waits.
    fn sound() -> Facts {
        let waiting = Order {
            balance: false,
            ledger: Some(Ledger::default()),
            ..order("AWAITING_PAYMENT")
        };
        Facts {
            stock: Stock {
                product: "p".to_owned(),
                received: 10,
                on_hand: 8,
                reserved: 2,
                prices: vec![500, 600],
            },
            orders: vec![order("CONFIRMED"), order("CANCELLED"), waiting],
            accounts: vec![Account {
                id: "a".to_owned(),
                held: 3_000,
                balance: 2_000,
            }],
            keys: BTreeMap::new(),
        }
    }

    fn found(change: impl FnOnce(&mut Facts)) -> Vec<(Invariant, u64)> {
        let mut facts = sound();
        change(&mut facts);
        let found = check(&facts);
        found.iter().map(|anomaly| (anomaly.invariant, anomaly.off_by)).collect()
    }

    #[test]
    fn figures_that_add_up_are_no_anomaly() {
        assert_eq!(check(&sound()), []);
    }

    #[test]
    fn more_sold_than_received_is_found_whatever_the_shop_shows() {
        assert_eq!(
            found(|facts| (facts.stock.received, facts.stock.on_hand) = (1, -1)),
            [(Invariant::Stock, 3)]
        );
    }

    #[test]
    fn lost_units_and_lost_reservations_are_found() {
        assert_eq!(found(|facts| facts.stock.on_hand = 10), [(Invariant::Stock, 2)]);
        assert_eq!(found(|facts| facts.stock.reserved = -2), [(Invariant::Stock, 4)]);
    }

    #[test]
    fn overspent_credit_is_found() {
        assert_eq!(
            found(|facts| facts.accounts[0] = Account {
                held: 400,
                balance: -600,
                ..facts.accounts[0].clone()
            }),
            [(Invariant::Credit, 600)]
        );
        // Overwritten, so that the balance looks well.
        assert_eq!(
            found(|facts| facts.accounts[0] = Account {
                held: 400,
                balance: 0,
                ..facts.accounts[0].clone()
            }),
            [(Invariant::Credit, 600), (Invariant::Charged, 600)]
        );
    }

    #[test]
    fn a_balance_that_paid_for_nothing_or_not_at_all_is_found() {
        assert_eq!(found(|facts| facts.accounts[0].balance = 1_000), [(Invariant::Charged, 1_000)]);
        assert_eq!(found(|facts| facts.accounts[0].balance = 3_000), [(Invariant::Charged, 1_000)]);
    }

    #[test]
    fn another_price_than_the_one_shown_is_found() {
        assert_eq!(found(|facts| facts.orders[0].stated = Some(600)), [(Invariant::Charged, 200)]);
        assert_eq!(found(|facts| facts.stock.prices = vec![600]), [(Invariant::Charged, 1_000)]);
        assert_eq!(found(|facts| facts.orders[0].unit_price = 600), [(Invariant::Charged, 200)]);
    }

    #[test]
    fn a_card_that_is_charged_twice_or_for_nothing_is_found() {
        let card = |status: &str, charges, net| {
            let ledger = Some(Ledger { charges, net });
            let order = Order {
                balance: false,
                ledger,
                ..order(status)
            };
            provider(&order).map(|anomaly| anomaly.off_by)
        };
        assert_eq!((card("CONFIRMED", 1, 1_000), card("CANCELLED", 1, 0)), (None, None));
        assert_eq!(card("CONFIRMED", 2, 2_000), Some(1_000));
        assert_eq!(card("CONFIRMED", 2, 1_000), Some(0), "given back, but taken twice");
        assert_eq!(card("CONFIRMED", 0, 0), Some(1_000));
        assert_eq!(card("CANCELLED", 1, 1_000), Some(1_000));
    }

    #[test]
    fn a_key_with_two_effects_is_found() {
        let accepted = |orders: &[&str], bodies: &[&str]| Accepted {
            orders: orders.iter().map(|id| (*id).to_owned()).collect(),
            bodies: bodies.iter().map(|body| (*body).to_owned()).collect(),
        };
        assert_eq!(once("k", &accepted(&["o"], &["{}"])), None);
        assert!(once("k", &accepted(&["o", "p"], &["{}"])).is_some());
        assert!(once("k", &accepted(&["o"], &["{}", "{1}"])).is_some());
    }

    #[test]
    fn an_order_that_does_not_end_is_an_anomaly_of_its_own() {
        let found = found(|facts| facts.orders[0].status = "NEEDS_ATTENTION".to_owned());
        assert_eq!(found, [(Invariant::Charged, 1_000)]);
    }
}
