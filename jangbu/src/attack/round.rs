//! One round: a situation in which calls compete, the calls, and what they left behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::json;

use super::{
    MOST_AT_ONCE,
    check::{Accepted, Account, Anomaly, Facts, Order, Stock, check},
    pair::{Pair, Side},
    shop::{Reply, Request, Shop, Who, order},
    volley::{Aim, Chance},
};

/// A figure that does not add up is looked at once more: what a shop settles a little later is no anomaly.
const SECOND_LOOK: Duration = Duration::from_millis(200);
/// How far the calls of a round may leave apart, in microseconds.
const SPREADS: [u64; 5] = [0, 0, 50, 500, 5_000];

/// What came of a round.
pub(super) struct Outcome {
    pub(super) anomalies: Vec<Anomaly>,
    /// How its calls ended.
    pub(super) ends: Vec<String>,
}

/// The attack, from round to round.
pub(super) struct Attack {
    shop: Shop,
    seed: u64,
    aim: (Option<Pair>, Aim),
}

/// A call of a round, and what it changes when it is accepted.
struct Shot {
    side: Side,
    request: Request,
    effect: Effect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// An order is placed, by a buyer who names this price or none.
    Order { buyer: usize, stated: Option<i64> },
    /// A balance grows.
    Deposit { buyer: usize, amount: i64 },
    /// Units come in or go.
    Units(i64),
    /// An order, a price or an offer changes.
    Other,
}

/// What a round is about.
struct Scene {
    product: String,
    units: i64,
    prices: Vec<i64>,
    /// Orders from before the calls, and whose they are.
    orders: Vec<(String, usize)>,
    shots: Vec<Shot>,
    /// Whether one order's confirmation tells which side was first.
    tells: bool,
}

impl Scene {
    fn shoot(&mut self, request: Request, effect: Effect) {
        let side = Side::of(self.shots.len());
        self.shots.push(Shot { side, request, effect });
    }
}

impl Attack {
    pub(super) fn new(shop: Shop, seed: u64) -> Self {
        Self {
            shop,
            seed,
            aim: (None, Aim::new()),
        }
    }

    /// Tries a pair once.
    pub(super) async fn round(&mut self, pair: Pair, number: u32) -> anyhow::Result<Outcome> {
        self.shop.stay().await?;
        if self.aim.0 != Some(pair) {
            self.aim = (Some(pair), Aim::new());
        }
        let mut chance = Chance::of(self.seed, &pair.name(), number);
        let scene = self.prepare(pair, &mut chance).await?;
        let before = self.balances();
        let calls = self.spread(&scene, &mut chance);
        let replies = self.shop.fire(&calls).await?;
        let mut asked = 0;
        let mut facts = self.facts(&scene, &replies, &before, &mut asked).await?;
        let mut anomalies = check(&facts);
        if !anomalies.is_empty() {
            tokio::time::sleep(SECOND_LOOK).await;
            facts = self.facts(&scene, &replies, &before, &mut asked).await?;
            anomalies = check(&facts);
        }
        self.shop.clear(&scene.product).await?;
        if scene.tells && scene.shots.len() == 2 {
            self.learn(pair, &scene, &facts);
        }
        let ends = ends(pair, &scene, &replies, &facts);
        Ok(Outcome { anomalies, ends })
    }

    fn balances(&self) -> Vec<i64> {
        (0..MOST_AT_ONCE).map(|number| self.shop.buyer(number).balance).collect()
    }

    fn spread(&self, scene: &Scene, chance: &mut Chance) -> Vec<(Request, Duration)> {
        let spread = usize::try_from(chance.below(SPREADS.len() as u64)).map_or(0, |index| SPREADS[index]);
        let shots = scene.shots.iter();
        let delayed = shots.map(|shot| (shot.request.clone(), self.aim.1.delay(shot.side, chance.below(spread + 1))));
        delayed.collect()
    }

    fn learn(&mut self, pair: Pair, scene: &Scene, facts: &Facts) {
        // The order that the calls were about, or the one that they placed.
        let subject = match pair {
            Pair::OrderCancel => facts.orders.iter().find(|order| scene.orders.iter().all(|(id, _)| *id != order.id)),
            Pair::PriceOrder => facts.orders.iter().find(|order| order.unit_price == scene.prices[0]),
            _ => facts.orders.first(),
        };
        let confirmed = subject.is_some_and(Order::confirmed);
        if let Some(first) = pair.first(confirmed) {
            self.aim.1.learn(first);
        }
    }

    /// What the shop says now. Asking adds a unit to the stock and to each balance: `asked` counts them, and they are taken off again, so
    /// that they never make up for what is missing.
    async fn facts(&mut self, scene: &Scene, replies: &[Reply], before: &[i64], asked: &mut i64) -> anyhow::Result<Facts> {
        let mut facts = Facts {
            keys: keys(scene, replies),
            ..Facts::default()
        };
        let mut known = scene
            .orders
            .iter()
            .map(|(id, buyer)| (id.clone(), (*buyer, None)))
            .collect::<BTreeMap<_, _>>();
        let mut deposits = BTreeMap::<usize, i64>::new();
        let mut received = scene.units;
        for (shot, reply) in effective(scene, replies) {
            match shot.effect {
                Effect::Order { buyer, stated } => {
                    let id = reply.body["orderId"].as_str().unwrap_or_default();
                    anyhow::ensure!(!id.is_empty(), "the answer to an order names no orderId");
                    known.insert(id.to_owned(), (buyer, stated));
                }
                Effect::Deposit { buyer, amount } => *deposits.entry(buyer).or_default() += amount,
                Effect::Units(units) => received += units,
                Effect::Other => {}
            }
        }
        // Under one key several orders may have been made: all that were answered count.
        for (shot, reply) in scene.shots.iter().zip(replies).filter(|(_, reply)| reply.accepted()) {
            if let (Effect::Order { buyer, stated }, Some(id)) = (shot.effect, reply.body["orderId"].as_str()) {
                known.entry(id.to_owned()).or_insert((buyer, stated));
            }
        }
        for (id, (buyer, stated)) in known {
            facts.orders.push(self.shop.order(buyer, &id, stated).await?);
        }
        *asked += 1;
        for (buyer, before) in before.iter().enumerate() {
            let account = self.shop.buyer(buyer).account.clone();
            if deposits.contains_key(&buyer) || facts.orders.iter().any(|order| order.account == account) {
                facts.accounts.push(Account {
                    held: before + deposits.get(&buyer).unwrap_or(&0),
                    balance: self.shop.ask_balance(buyer).await? - *asked,
                    id: account,
                });
            }
        }
        let (on_hand, reserved) = self.shop.ask_stock(&scene.product).await?;
        facts.stock = Stock {
            product: scene.product.clone(),
            received,
            on_hand: on_hand - *asked,
            reserved,
            prices: scene.prices.clone(),
        };
        Ok(facts)
    }

    async fn prepare(&mut self, pair: Pair, chance: &mut Chance) -> anyhow::Result<Scene> {
        // Two is where a fault is easiest to read, many where it is easiest to hit.
        let calls = if chance.one_in(3) { MOST_AT_ONCE } else { 2 };
        let half = i64::try_from(calls / 2).unwrap_or(1);
        let price = chance.between(1_000, 9_000);
        match pair {
            Pair::LastUnit => self.last_unit(calls, price, chance).await,
            Pair::LastCredit => self.last_credit(calls, chance).await,
            Pair::SameKey | Pair::OtherBody => self.one_key(pair, calls, price).await,
            Pair::OrderCancel => self.order_and_cancel(half, price, chance).await,
            Pair::PayPay | Pair::PayOtherKey | Pair::PayRepeat | Pair::PayCancel => self.pay(pair, calls, price).await,
            Pair::CancelCancel => self.cancel(calls, price, chance).await,
            Pair::DepositOrder => self.deposit_and_order(half, chance).await,
            Pair::DepositDeposit => self.deposit_again(calls, price).await,
            Pair::PriceOrder | Pair::AdjustmentOrder | Pair::RetireOrder | Pair::ReceiptOrder => {
                self.change_and_order(pair, half, price, chance).await
            }
        }
    }

    /// A product, and nothing else yet.
    async fn scene(&mut self, price: i64, units: i64) -> anyhow::Result<Scene> {
        Ok(Scene {
            product: self.shop.offer(price, units).await?,
            units,
            prices: vec![price],
            orders: Vec::new(),
            shots: Vec::new(),
            tells: true,
        })
    }

    /// An order of one unit, by card or from the balance.
    fn order(&mut self, scene: &Scene, buyer: usize, card: bool, stated: Option<i64>) -> (Request, Effect) {
        let payment = if card {
            json!({ "method": "CARD", "paymentKey": format!("sim_ok_{}", self.shop.fresh()) })
        } else {
            json!({ "method": "BALANCE" })
        };
        let price = stated.map(|price| self.shop.money(price));
        let body = order(&scene.product, 1, price.as_ref(), &payment);
        let request = self.shop.command(Who::Buyer(buyer), "/api/v1/orders".to_owned(), body);
        (request, Effect::Order { buyer, stated })
    }

    async fn last_unit(&mut self, calls: usize, price: i64, chance: &mut Chance) -> anyhow::Result<Scene> {
        let units = chance.between(1, i64::try_from(calls).unwrap_or(2));
        let mut scene = self.scene(price, units).await?;
        for buyer in 0..calls {
            self.shop.fill(buyer, price).await?;
            let card = chance.one_in(4);
            let (request, effect) = self.order(&scene, buyer, card, None);
            scene.shoot(request, effect);
        }
        Ok(scene)
    }

    async fn last_credit(&mut self, calls: usize, chance: &mut Chance) -> anyhow::Result<Scene> {
        self.shop.fill(0, chance.between(1_000, 9_000)).await?;
        let calls_paid = chance.between(1, i64::try_from(calls).unwrap_or(2));
        let price = (self.shop.buyer(0).balance / calls_paid).max(1);
        let mut scene = self.scene(price, 2 * i64::try_from(calls).unwrap_or(2)).await?;
        for _ in 0..calls {
            let (request, effect) = self.order(&scene, 0, false, None);
            scene.shoot(request, effect);
        }
        Ok(scene)
    }

    async fn one_key(&mut self, pair: Pair, calls: usize, price: i64) -> anyhow::Result<Scene> {
        let mut scene = self.scene(price, 2 * i64::try_from(calls).unwrap_or(2)).await?;
        self.shop.fill(0, 2 * price * i64::try_from(calls).unwrap_or(2)).await?;
        let (request, effect) = self.order(&scene, 0, false, None);
        for number in 0..calls {
            let mut request = request.clone();
            if pair == Pair::OtherBody
                && number % 2 == 1
                && let Some(body) = &mut request.body
            {
                body["lines"][0]["quantity"] = json!(2);
            }
            scene.shoot(request, effect);
        }
        Ok(scene)
    }

    async fn order_and_cancel(&mut self, half: i64, price: i64, chance: &mut Chance) -> anyhow::Result<Scene> {
        // With units to spare both are possible at once, without any the order needs what the cancellation frees.
        let spare = if chance.one_in(3) { half } else { 0 };
        let mut scene = self.scene(price, half + spare).await?;
        scene.tells = spare == 0;
        for buyer in 0..usize::try_from(half).unwrap_or(1) {
            self.shop.fill(buyer, price).await?;
            let waiting = self.shop.reserve(buyer, &scene.product, 1).await?;
            let (request, effect) = self.order(&scene, buyer, false, None);
            scene.shoot(request, effect);
            let cancel = self.cancellation(Who::Buyer(buyer), &waiting);
            scene.shoot(cancel, Effect::Other);
            scene.orders.push((waiting, buyer));
        }
        Ok(scene)
    }

    fn cancellation(&mut self, who: Who, order: &str) -> Request {
        let path = format!("/api/v1/orders/{order}/cancellation");
        self.shop.command(who, path, json!({ "reason": "changed my mind" }))
    }

    async fn pay(&mut self, pair: Pair, calls: usize, price: i64) -> anyhow::Result<Scene> {
        let mut scene = self.scene(price, 2).await?;
        let waiting = self.shop.reserve(0, &scene.product, 1).await?;
        let payment = |shop: &mut Shop| {
            let body = json!({ "paymentKey": format!("sim_ok_{}", shop.fresh()), "amount": shop.money(price) });
            shop.command(Who::Buyer(0), format!("/api/v1/orders/{waiting}/payment"), body)
        };
        let one = payment(&mut self.shop);
        for number in 0..calls {
            let request = match pair {
                Pair::PayCancel if number % 2 == 1 => self.cancellation(Who::Buyer(0), &waiting),
                Pair::PayPay => Request {
                    key: Some(self.shop.fresh()),
                    ..one.clone()
                },
                Pair::PayRepeat => one.clone(),
                _ => payment(&mut self.shop),
            };
            scene.shoot(request, Effect::Other);
        }
        scene.orders.push((waiting, 0));
        Ok(scene)
    }

    async fn cancel(&mut self, calls: usize, price: i64, chance: &mut Chance) -> anyhow::Result<Scene> {
        // One order or two; another one keeps its units, whatever happens to these.
        let cancelled = if chance.one_in(3) { 2 } else { 1 };
        let mut scene = self.scene(price, 8).await?;
        for buyer in 0..=cancelled {
            let waiting = self.shop.reserve(buyer, &scene.product, 2).await?;
            scene.orders.push((waiting, buyer));
        }
        for number in 0..calls {
            let (order, buyer) = scene.orders[(number / 2 + number) % cancelled].clone();
            let who = if number % 2 == 0 { Who::Buyer(buyer) } else { Who::Admin };
            let request = self.cancellation(who, &order);
            scene.shoot(request, Effect::Other);
        }
        Ok(scene)
    }

    async fn deposit_and_order(&mut self, half: i64, chance: &mut Chance) -> anyhow::Result<Scene> {
        self.shop.fill(0, 1_000).await?;
        let amount = chance.between(100, 1_000);
        // The order needs the deposit, or takes from the same balance beside it.
        let needed = !chance.one_in(3);
        let balance = self.shop.buyer(0).balance;
        let mut scene = self.scene(if needed { balance + amount } else { balance }, half).await?;
        scene.tells = needed;
        for _ in 0..half {
            let deposit = self.shop.deposit(0, amount);
            scene.shoot(deposit, Effect::Deposit { buyer: 0, amount });
            let (request, effect) = self.order(&scene, 0, false, None);
            scene.shoot(request, effect);
        }
        Ok(scene)
    }

    async fn deposit_again(&mut self, calls: usize, amount: i64) -> anyhow::Result<Scene> {
        let mut scene = self.scene(amount, 0).await?;
        let request = self.shop.deposit(0, amount);
        for _ in 0..calls {
            scene.shoot(request.clone(), Effect::Deposit { buyer: 0, amount });
        }
        Ok(scene)
    }

    async fn change_and_order(&mut self, pair: Pair, half: i64, price: i64, chance: &mut Chance) -> anyhow::Result<Scene> {
        let units = match pair {
            // What comes in is what is sold, or is added to what is sold.
            Pair::ReceiptOrder if !chance.one_in(3) => 0,
            Pair::PriceOrder | Pair::RetireOrder => 2 * half,
            _ => half,
        };
        let mut scene = self.scene(price, units).await?;
        scene.tells = units == 0 || pair != Pair::ReceiptOrder;
        let stated = (pair == Pair::PriceOrder && !chance.one_in(4)).then_some(price);
        for number in 0..half {
            let (change, effect) = self.change(pair, &mut scene, number, chance);
            scene.shoot(change, effect);
            let buyer = usize::try_from(number).unwrap_or(0);
            self.shop.fill(buyer, 2 * price).await?;
            let (request, effect) = self.order(&scene, buyer, false, stated);
            scene.shoot(request, effect);
        }
        Ok(scene)
    }

    /// What the seller does while there are orders.
    fn change(&mut self, pair: Pair, scene: &mut Scene, number: i64, chance: &mut Chance) -> (Request, Effect) {
        match pair {
            Pair::PriceOrder => {
                let price = scene.prices[0] + 10 * (number + 1) * if chance.one_in(2) { 1 } else { -1 };
                scene.prices.push(price);
                let request = Request {
                    who: Who::Seller,
                    method: "PATCH",
                    path: format!("/api/v1/products/{}", scene.product),
                    key: Some(self.shop.fresh()),
                    body: Some(json!({ "price": self.shop.money(price) })),
                };
                (request, Effect::Other)
            }
            Pair::RetireOrder => (self.shop.retirement(&scene.product), Effect::Other),
            Pair::AdjustmentOrder => {
                let path = format!("/api/v1/products/{}/stock/adjustments", scene.product);
                let body = json!({ "delta": -1, "reason": "broken" });
                (self.shop.command(Who::Seller, path, body), Effect::Units(-1))
            }
            _ => (self.shop.receipt(&scene.product, 1), Effect::Units(1)),
        }
    }
}

/// The accepted calls, each key counted once: a repeat has no effect of its own.
fn effective<'a>(scene: &'a Scene, replies: &'a [Reply]) -> Vec<(&'a Shot, &'a Reply)> {
    let mut accepted: Vec<_> = scene.shots.iter().zip(replies).filter(|(_, reply)| reply.accepted()).collect();
    accepted.sort_by_key(|(_, reply)| reply.at);
    let mut seen = BTreeSet::new();
    accepted.retain(|(shot, _)| seen.insert(shot.request.key.as_deref()));
    accepted
}

/// What was accepted under each key that was used more than once.
fn keys(scene: &Scene, replies: &[Reply]) -> BTreeMap<String, Accepted> {
    let mut keys = BTreeMap::<String, Accepted>::new();
    for (shot, reply) in scene.shots.iter().zip(replies).filter(|(_, reply)| reply.accepted()) {
        let accepted = keys.entry(shot.request.key.clone().unwrap_or_default()).or_default();
        accepted.orders.extend(reply.body["orderId"].as_str().map(str::to_owned));
        accepted.bodies.extend(shot.request.body.as_ref().map(ToString::to_string));
    }
    keys
}

/// How a round's calls ended, in words that tell one interleaving from another.
fn ends(pair: Pair, scene: &Scene, replies: &[Reply], facts: &Facts) -> Vec<String> {
    let shown = |id: &str| facts.orders.iter().find(|order| order.id == id);
    let answered = |reply: &Reply| match shown(reply.body["orderId"].as_str().unwrap_or_default()) {
        Some(order) => order.outcome(),
        None => reply.body["code"].as_str().unwrap_or("refused").to_owned(),
    };
    match pair {
        Pair::PayCancel => facts.orders.iter().map(Order::outcome).collect(),
        Pair::CancelCancel => {
            let first = scene.shots.iter().zip(replies).min_by_key(|(_, reply)| reply.at);
            let buyer = first.is_some_and(|(shot, _)| shot.request.who != Who::Admin);
            vec![if buyer { "buyer first" } else { "administrator first" }.to_owned()]
        }
        Pair::SameKey | Pair::OtherBody | Pair::DepositDeposit | Pair::PayRepeat | Pair::PayPay | Pair::PayOtherKey => {
            let first: Vec<_> = effective(scene, replies)
                .iter()
                .map(|(shot, _)| std::ptr::from_ref(*shot))
                .collect();
            let end = |(shot, reply): (&Shot, &Reply)| {
                if !reply.accepted() {
                    "refused"
                } else if first.contains(&std::ptr::from_ref(shot)) {
                    "accepted"
                } else {
                    "repeated"
                }
            };
            let waited = replies.iter().filter(|reply| reply.in_flight).map(|_| "told to wait first");
            let ends = scene.shots.iter().zip(replies).map(end).chain(waited);
            ends.map(str::to_owned).collect()
        }
        _ => {
            let orders = scene.shots.iter().zip(replies);
            let orders = orders.filter(|(shot, _)| matches!(shot.effect, Effect::Order { .. }));
            orders.map(|(_, reply)| answered(reply)).collect()
        }
    }
}
