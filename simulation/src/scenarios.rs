//! Named stories, each with a crash at every step of it, and then with a second one at every step from the recovery on.
//!
//! The clean run counts its edges: before a commit and after it is durable, before and after each answer and each call of the provider is
//! handed over, when a request or an outcome has come in, and while a process starts. A crash at an edge loses what the process knew.

mod shards;

use aggregates::Resolution;

use crate::{
    Failure, Outcome, Shards,
    chance::Chance,
    play,
    script::{Basket, Cancelling, Charging, DAY, HOUR, MINUTE, Operation, Paid, Payment, SECOND, Script, What},
    world::Crashes,
};

/// A story.
pub struct Scenario {
    /// What it is about.
    pub name: &'static str,
    /// How its orders end when nothing crashes, in any order.
    pub ends: &'static [&'static str],
    /// Whether it can only be told of several shards.
    pub several: bool,
    script: fn() -> Script,
}

/// What a scenario went through.
#[derive(Debug, Default)]
pub struct Sweep {
    /// At how many places its process could end.
    pub edges: u64,
    /// Runs with one crash.
    pub singles: u64,
    /// Runs with two.
    pub pairs: u64,
    /// What broke, at which edges.
    pub failures: Vec<(Vec<u64>, Failure)>,
}

/// How many failures of a scenario are kept.
const MOST_FAILURES: usize = 5;

impl Scenario {
    /// Plays it with crashes at these edges, each counted from the recovery before it.
    pub fn play(&self, shards: Shards, crashes: &[u64], told: bool) -> Outcome {
        let mut script = (self.script)();
        if shards != Shards::ONE {
            script.apart();
        }
        play(script, shards, Crashes::At(crashes.to_vec()), Chance::new(1), told)
    }

    /// Whether it is a story of so many shards.
    pub fn is_of(&self, shards: Shards) -> bool {
        !self.several || shards != Shards::ONE
    }

    /// Plays it clean, with one crash at every edge and, if wanted, with every pair.
    pub fn sweep(&self, shards: Shards, pairs: bool) -> Sweep {
        let mut sweep = Sweep::default();
        let clean = self.play(shards, &[], false);
        sweep.edges = clean.edges;
        sweep.judge(&[], clean.failure.or_else(|| self.unexpected(&clean.figures.orders)));
        for first in 0..clean.edges {
            let outcome = self.play(shards, &[first], false);
            sweep.singles += 1;
            let after = outcome.edges_after;
            sweep.judge(&[first], outcome.failure);
            for second in 0..if pairs { after } else { 0 } {
                let outcome = self.play(shards, &[first, second], false);
                sweep.pairs += 1;
                sweep.judge(&[first, second], outcome.failure);
            }
        }
        sweep
    }

    fn unexpected(&self, orders: &std::collections::BTreeMap<String, u64>) -> Option<Failure> {
        let found: Vec<_> = orders.iter().flat_map(|(end, count)| (0..*count).map(|_| end.as_str())).collect();
        let mut wanted = self.ends.to_vec();
        wanted.sort_unstable();
        (found != wanted).then(|| Failure {
            check: "a clean run ends as it is told to",
            what: format!("{found:?}, not {wanted:?}"),
        })
    }
}

impl Sweep {
    fn judge(&mut self, crashes: &[u64], failure: Option<Failure>) {
        if let Some(failure) = failure
            && self.failures.len() < MOST_FAILURES
        {
            self.failures.push((crashes.to_vec(), failure));
        }
    }
}

/// A shop with three products at 1,000, 2,000 and 3,000, five of each, and two buyers who have 100,000.
fn shop() -> Script {
    Script {
        products: vec![(Some(5), 1_000), (Some(5), 2_000), (Some(5), 3_000)],
        balances: vec![100_000, 100_000],
        ..Script::default()
    }
}

const BOTH: &[(usize, i64)] = &[(0, 1), (1, 2)];
const ALL: &[(usize, i64)] = &[(0, 1), (1, 1), (2, 1)];

fn basket(order: usize, buyer: usize, paid: Paid, lines: &[(usize, i64)]) -> Basket {
    Basket {
        order,
        buyer,
        lines: lines.iter().map(|(product, quantity)| (*product, *quantity, None)).collect(),
        stated_total: None,
        paid,
        dry_run: false,
    }
}

impl Script {
    /// Moves the orders on by one number: then with two shards the first order is in one, its buyer and its first product in the other.
    fn apart(&mut self) {
        for ask in &mut self.asks {
            match &mut ask.what {
                What::Place(basket) => basket.order += 1,
                What::Pay { order, .. }
                | What::Cancel { order, .. }
                | What::Read { order }
                | What::Watch { order }
                | What::Operate { order, .. } => *order += 1,
                _ => {}
            }
        }
        if !self.payments.is_empty() {
            self.payments.insert(0, Payment::default());
        }
    }

    fn place(&mut self, at: i64, basket: Basket) -> usize {
        self.ask(at, None, What::Place(basket), true)
    }

    fn pay(&mut self, after: i64, place: usize, order: usize) -> usize {
        self.ask(after, Some(place), What::Pay { order, right: true }, true)
    }

    fn cancel(&mut self, after: i64, place: usize, order: usize, by_buyer: bool) -> usize {
        self.ask(after, Some(place), What::Cancel { order, by_buyer }, true)
    }

    fn again(&mut self, ask: usize, at: i64, after: Option<usize>) -> usize {
        let mut again = self.asks[ask].clone();
        again.at = at;
        again.after = after;
        self.asks.push(again);
        self.asks.len() - 1
    }

    fn charging(mut self, charge: Charging) -> Self {
        self.payments = vec![Payment {
            charge,
            cancel: Cancelling::Done,
        }];
        self
    }

    fn cancelling(mut self, charge: Charging, cancel: Cancelling) -> Self {
        self.payments = vec![Payment { charge, cancel }];
        self
    }
}

/// One order of two lines, paid like this.
fn one(paid: Paid) -> Script {
    let mut script = shop();
    let place = script.place(0, basket(0, 0, paid, BOTH));
    script.ask(1_000, Some(place), What::Watch { order: 0 }, false);
    if paid == Paid::Card {
        script.pay(2 * SECOND, place, 0);
    }
    script
}

/// One order by card that is cancelled this long after it was placed.
fn cancelled_by(by_buyer: bool, after: i64, charge: Charging, cancel: Cancelling) -> Script {
    let mut script = shop();
    let place = script.place(0, basket(0, 0, Paid::CardAtOnce, BOTH));
    script.cancel(after, place, 0, by_buyer);
    script.cancelling(charge, cancel)
}

/// An order by card whose payment the provider says nothing about for two days; an operator acts after 30 hours.
fn silent(how: Option<Operation>, charge: Charging) -> Script {
    let mut script = shop();
    let place = script.place(0, basket(0, 0, Paid::CardAtOnce, BOTH));
    if let Some(how) = how {
        script.ask(30 * HOUR, Some(place), What::Operate { order: 0, how }, true);
    }
    let from = if charge == TAKEN_IN_SILENCE { SECOND } else { 0 };
    script.faults.provider_down = vec![(from, 2 * DAY)];
    script.charging(charge)
}

/// The money is taken, and nobody hears of it.
const TAKEN_IN_SILENCE: Charging = Charging::Lost {
    times: 1,
    after_effect: true,
};

/// An order whose cascade takes a turn for each line, while this happens to the last one.
fn meanwhile(stated: Option<i64>, what: What) -> Script {
    let mut script = shop();
    script.core.cascade = 1;
    let mut order = basket(0, 0, Paid::Balance, ALL);
    order.lines[2].2 = stated;
    script.place(0, order);
    script.ask(100, None, what, true);
    script
}

const SLOW: Charging = Charging::Slow { takes: 3 * SECOND };

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    SCENARIOS.iter().chain(shards::STORIES)
}

/// Those that can be told of one shard.
const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "paid from the balance",
        ends: &["CONFIRMED"],
        several: false,
        script: || one(Paid::Balance),
    },
    Scenario {
        name: "paid by card at once",
        ends: &["CONFIRMED"],
        several: false,
        script: || one(Paid::CardAtOnce),
    },
    Scenario {
        name: "paid by card later",
        ends: &["CONFIRMED"],
        several: false,
        script: || one(Paid::Card),
    },
    Scenario {
        name: "out of stock on the first line",
        ends: &["OUT_OF_STOCK"],
        several: false,
        script: || {
            let mut script = shop();
            script.place(0, basket(0, 0, Paid::CardAtOnce, &[(0, 6), (1, 1)]));
            script
        },
    },
    Scenario {
        name: "out of stock on the last line",
        ends: &["OUT_OF_STOCK"],
        several: false,
        script: || {
            let mut script = shop();
            script.place(0, basket(0, 0, Paid::Card, &[(0, 1), (1, 1), (2, 6)]));
            script
        },
    },
    Scenario {
        name: "price mismatch of a line",
        ends: &["PRICE_MISMATCH"],
        several: false,
        script: || {
            let mut script = shop();
            let mut order = basket(0, 0, Paid::Balance, BOTH);
            order.lines[1].2 = Some(1_999);
            script.place(0, order);
            script
        },
    },
    Scenario {
        name: "price mismatch of the total",
        ends: &["PRICE_MISMATCH"],
        several: false,
        script: || {
            let mut script = shop();
            let mut order = basket(0, 0, Paid::CardAtOnce, BOTH);
            order.stated_total = Some(5_001);
            script.place(0, order);
            script
        },
    },
    Scenario {
        name: "declined",
        ends: &["PAYMENT_DECLINED"],
        several: false,
        script: || one(Paid::Card).charging(Charging::Declined),
    },
    Scenario {
        name: "no money on the card",
        ends: &["PAYMENT_DECLINED"],
        several: false,
        script: || one(Paid::CardAtOnce).charging(Charging::Insufficient),
    },
    Scenario {
        name: "balance too small",
        ends: &["INSUFFICIENT_BALANCE"],
        several: false,
        script: || {
            let mut script = one(Paid::Balance);
            script.balances[0] = 4_999;
            script
        },
    },
    Scenario {
        name: "never paid",
        ends: &["PAYMENT_EXPIRED"],
        several: false,
        script: || {
            let mut script = shop();
            script.place(0, basket(0, 0, Paid::Card, BOTH));
            script
        },
    },
    Scenario {
        name: "reservation expired before it was paid",
        ends: &["RESERVATION_EXPIRED"],
        several: false,
        script: || {
            let mut script = shop();
            script.core.reservation_ttl = 5 * MINUTE;
            let place = script.place(0, basket(0, 0, Paid::Card, BOTH));
            script.pay(6 * MINUTE, place, 0);
            script
        },
    },
    Scenario {
        name: "retired before it was ordered",
        ends: &[],
        several: false,
        script: || {
            let mut script = shop();
            script.ask(0, None, What::Retire { product: 1 }, true);
            script.place(SECOND, basket(0, 0, Paid::Balance, BOTH));
            script
        },
    },
    Scenario {
        name: "retired between two lines",
        ends: &["PRODUCT_RETIRED"],
        several: false,
        script: || meanwhile(None, What::Retire { product: 2 }),
    },
    Scenario {
        name: "price change between two lines, price stated",
        ends: &["PRICE_MISMATCH"],
        several: false,
        script: || meanwhile(Some(3_000), What::Price { product: 2, price: 3_500 }),
    },
    Scenario {
        name: "price change between two lines, no price stated",
        ends: &["CONFIRMED"],
        several: false,
        script: || meanwhile(None, What::Price { product: 2, price: 3_500 }),
    },
    Scenario {
        name: "cancelled by its buyer before it was paid",
        ends: &["CANCELLED_BY_BUYER"],
        several: false,
        script: || {
            let mut script = shop();
            let place = script.place(0, basket(0, 0, Paid::Card, BOTH));
            script.cancel(SECOND, place, 0, true);
            script
        },
    },
    Scenario {
        name: "cancelled by the shop before it was paid",
        ends: &["CANCELLED_BY_SHOP"],
        several: false,
        script: || {
            let mut script = shop();
            let place = script.place(0, basket(0, 0, Paid::Card, BOTH));
            script.cancel(SECOND, place, 0, false);
            script
        },
    },
    Scenario {
        name: "cancelled by its buyer while the provider is asked",
        ends: &["CANCELLED_BY_BUYER"],
        several: false,
        script: || cancelled_by(true, SECOND, SLOW, Cancelling::Done),
    },
    Scenario {
        name: "cancelled by the shop while the provider is asked",
        ends: &["CANCELLED_BY_SHOP"],
        several: false,
        script: || cancelled_by(false, SECOND, SLOW, Cancelling::Done),
    },
    Scenario {
        name: "cancelled while nobody knows whether the money was taken",
        ends: &["CANCELLED_BY_BUYER"],
        several: false,
        script: || {
            let lost = Charging::Lost {
                times: 1,
                after_effect: true,
            };
            let mut script = cancelled_by(true, 7 * SECOND, lost, Cancelling::Done);
            script.faults.provider_down = vec![(SECOND, MINUTE)];
            script
        },
    },
    Scenario {
        name: "cancelled when it is too late",
        ends: &["CONFIRMED"],
        several: false,
        script: || cancelled_by(true, 10 * SECOND, Charging::Approved, Cancelling::Done),
    },
    Scenario {
        name: "sent twice at once",
        ends: &["CONFIRMED"],
        several: false,
        script: || {
            let mut script = one(Paid::CardAtOnce);
            script.again(0, 0, None);
            script.again(0, 50, None);
            script
        },
    },
    Scenario {
        name: "sent again later",
        ends: &["CONFIRMED"],
        several: false,
        script: || {
            let mut script = one(Paid::Card);
            script.again(0, MINUTE, Some(0));
            script.again(2, HOUR, Some(2));
            script
        },
    },
    Scenario {
        name: "the same key with another body",
        ends: &["CONFIRMED"],
        several: false,
        script: || {
            let mut script = one(Paid::Balance);
            for at in [SECOND, 2 * SECOND] {
                let other = script.again(0, at, Some(0));
                script.asks[other].body = 1;
                script.asks[other].what = What::Place(basket(0, 0, Paid::Balance, ALL));
            }
            script
        },
    },
    Scenario {
        name: "the provider is away and comes back",
        ends: &["CONFIRMED"],
        several: false,
        script: || {
            let mut script = one(Paid::CardAtOnce);
            script.faults.provider_down = vec![(0, 3 * MINUTE)];
            script
        },
    },
    Scenario {
        name: "the provider is away until it is too late",
        ends: &["PAYMENT_EXPIRED"],
        several: false,
        script: || {
            let mut script = one(Paid::CardAtOnce);
            script.faults.provider_down = vec![(0, 2 * HOUR)];
            script
        },
    },
    Scenario {
        name: "no answer, and the money was taken",
        ends: &["CONFIRMED"],
        several: false,
        script: || {
            one(Paid::CardAtOnce).charging(Charging::Lost {
                times: 1,
                after_effect: true,
            })
        },
    },
    Scenario {
        name: "no answer, and the money was not taken",
        ends: &["CONFIRMED"],
        several: false,
        script: || {
            one(Paid::CardAtOnce).charging(Charging::Lost {
                times: 2,
                after_effect: false,
            })
        },
    },
    Scenario {
        name: "an error after the money was taken",
        ends: &["CONFIRMED"],
        several: false,
        script: || {
            one(Paid::CardAtOnce).charging(Charging::Fails {
                times: 1,
                after_effect: true,
            })
        },
    },
    Scenario {
        name: "two errors, then approved",
        ends: &["CONFIRMED"],
        several: false,
        script: || {
            one(Paid::CardAtOnce).charging(Charging::Fails {
                times: 2,
                after_effect: false,
            })
        },
    },
    Scenario {
        name: "slow beyond the time to answer",
        ends: &["CONFIRMED"],
        several: false,
        script: || one(Paid::CardAtOnce).charging(Charging::Slow { takes: 8 * SECOND }),
    },
    Scenario {
        name: "not found, then found",
        ends: &["CONFIRMED"],
        several: false,
        script: || one(Paid::CardAtOnce).charging(Charging::Hidden { until: 20 * SECOND }),
    },
    Scenario {
        name: "money taken after the order was cancelled",
        ends: &["CANCELLED_BY_BUYER"],
        several: false,
        script: || {
            let late = Charging::Late {
                after: HOUR,
                turns_away: false,
            };
            cancelled_by(true, 2 * SECOND, late, Cancelling::Done)
        },
    },
    Scenario {
        name: "a repeat is refused, and the first request takes the money",
        ends: &["PAYMENT_DECLINED"],
        several: false,
        script: || {
            one(Paid::Card).charging(Charging::Late {
                after: HOUR,
                turns_away: true,
            })
        },
    },
    Scenario {
        name: "nobody knows whether the money went back",
        ends: &["CANCELLED_BY_BUYER"],
        several: false,
        script: || {
            cancelled_by(
                true,
                SECOND,
                SLOW,
                Cancelling::Unclear {
                    times: 2,
                    after_effect: true,
                },
            )
        },
    },
    Scenario {
        name: "the money does not go back at first",
        ends: &["CANCELLED_BY_SHOP"],
        several: false,
        script: || {
            cancelled_by(
                false,
                SECOND,
                SLOW,
                Cancelling::Unclear {
                    times: 3,
                    after_effect: false,
                },
            )
        },
    },
    Scenario {
        name: "the provider refuses to give back at first, and an operator insists",
        ends: &["CANCELLED_BY_BUYER"],
        several: false,
        script: || cancelled_by(true, SECOND, SLOW, Cancelling::Refused { times: 1 }),
    },
    Scenario {
        name: "the provider takes another amount, and an operator has it undone",
        ends: &["CANCELLED_BY_SHOP"],
        several: false,
        script: || one(Paid::CardAtOnce).charging(Charging::WrongAmount),
    },
    Scenario {
        name: "the provider is silent for two days, and goes on by itself",
        ends: &["PAYMENT_EXPIRED"],
        several: false,
        script: || silent(None, Charging::Approved),
    },
    Scenario {
        name: "an operator lets it try again while the provider is silent",
        ends: &["PAYMENT_EXPIRED"],
        several: false,
        script: || silent(Some(Operation::Resume), Charging::Approved),
    },
    Scenario {
        name: "an operator has it undone while the provider is silent",
        ends: &["CANCELLED_BY_SHOP"],
        several: false,
        script: || silent(Some(Operation::Compensate), Charging::Approved),
    },
    Scenario {
        name: "an operator says that the money was taken",
        ends: &["CONFIRMED"],
        several: false,
        script: || silent(Some(Operation::Resolve(Resolution::Charged)), TAKEN_IN_SILENCE),
    },
    Scenario {
        name: "an operator says that the money was not taken",
        ends: &["PAYMENT_DECLINED"],
        several: false,
        script: || silent(Some(Operation::Resolve(Resolution::NotCharged)), Charging::Approved),
    },
    Scenario {
        name: "two orders for the last unit",
        ends: &["CONFIRMED", "OUT_OF_STOCK"],
        several: false,
        script: || {
            let mut script = shop();
            script.products[1].0 = Some(1);
            script.place(0, basket(0, 0, Paid::Balance, &[(1, 1)]));
            script.place(10, basket(1, 1, Paid::CardAtOnce, &[(1, 1)]));
            script
        },
    },
    Scenario {
        name: "hot stock: two buyers, the same lines",
        ends: &["CONFIRMED", "OUT_OF_STOCK", "CONFIRMED"],
        several: false,
        script: || {
            let mut script = shop();
            script.core.cascade = 2;
            script.products = vec![(Some(3), 1_000), (Some(2), 2_000), (Some(4), 3_000)];
            script.place(0, basket(0, 0, Paid::CardAtOnce, ALL));
            script.place(10, basket(1, 1, Paid::Balance, ALL));
            script.place(20, basket(2, 0, Paid::Balance, ALL));
            script
        },
    },
    Scenario {
        name: "deposit just in time",
        ends: &["CONFIRMED"],
        several: false,
        script: || {
            let mut script = shop();
            script.balances[0] = 4_000;
            script.ask(0, None, What::Deposit { buyer: 0, amount: 1_000 }, true);
            script.place(10, basket(0, 0, Paid::Balance, BOTH));
            script
        },
    },
    Scenario {
        name: "goods come in just in time",
        ends: &["CONFIRMED"],
        several: false,
        script: || {
            let mut script = shop();
            script.products[0].0 = Some(0);
            script.ask(0, None, What::Receive { product: 0, units: 1 }, true);
            script.place(10, basket(0, 0, Paid::CardAtOnce, BOTH));
            script
        },
    },
    Scenario {
        name: "written off what is promised",
        ends: &["CONFIRMED"],
        several: false,
        script: || {
            let mut script = one(Paid::Card);
            script.ask(SECOND, Some(0), What::Adjust { product: 1, delta: -4 }, true);
            script.ask(SECOND, Some(0), What::Adjust { product: 0, delta: -4 }, true);
            script
        },
    },
    Scenario {
        name: "paid with a wrong amount, then with the right one",
        ends: &["CONFIRMED"],
        several: false,
        script: || {
            let mut script = shop();
            let place = script.place(0, basket(0, 0, Paid::Card, BOTH));
            let wrong = script.ask(SECOND, Some(place), What::Pay { order: 0, right: false }, true);
            script.ask(SECOND, Some(wrong), What::Pay { order: 0, right: true }, true);
            script
        },
    },
    Scenario {
        name: "a dry run, then the order",
        ends: &["CONFIRMED"],
        several: false,
        script: || {
            let mut script = shop();
            let dry = Basket {
                dry_run: true,
                ..basket(0, 0, Paid::Balance, BOTH)
            };
            let dry = script.ask(0, None, What::Place(dry), false);
            script.ask(SECOND, Some(dry), What::Place(basket(0, 0, Paid::Balance, BOTH)), true);
            script.ask(DAY, Some(dry), What::Read { order: 0 }, false);
            script
        },
    },
];
