//! What happens in a run from outside: the shop, who asks for what and when, what the provider makes of each payment, and which faults.

use aggregates::Resolution;
use engine::Unparking;
use event_store::Shards;
use uuid::Uuid;

use crate::chance::Chance;

/// One second, in microseconds.
pub(crate) const SECOND: i64 = 1_000_000;
/// One minute.
pub(crate) const MINUTE: i64 = 60 * SECOND;
/// One hour.
pub(crate) const HOUR: i64 = 60 * MINUTE;
/// One day.
pub(crate) const DAY: i64 = 24 * HOUR;

/// A run as it is meant to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    /// The products: what there is of each at first (none: unlimited), and its price.
    pub(crate) products: Vec<(Option<u64>, i64)>,
    /// The buyers' balances.
    pub(crate) balances: Vec<i64>,
    /// Who asks for what.
    pub(crate) asks: Vec<Ask>,
    /// What the provider makes of each order's payment, by the order's number.
    pub(crate) payments: Vec<Payment>,
    /// Which faults.
    pub(crate) faults: Faults,
    /// How the core is set up.
    pub(crate) core: CoreShape,
    /// What an operator does about all that is set aside, and when.
    pub(crate) unparkings: Vec<(i64, Unparking)>,
    /// Everybody wants one of the first product, and nothing else happens to it.
    pub(crate) rush: bool,
}

/// The settings of a core that change its ways, and must not change its results.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoreShape {
    /// How many aggregates it keeps in memory.
    pub(crate) cache: usize,
    /// How many commands one input may cause in one turn.
    pub(crate) cascade: usize,
    /// After how many events a batch is full.
    pub(crate) batch: usize,
    /// How long goods are kept, in microseconds.
    pub(crate) reservation_ttl: i64,
    /// How long an order can be paid, in microseconds.
    pub(crate) payment_deadline: i64,
    /// How long the provider may be silent before a person is asked, in microseconds.
    pub(crate) stuck_after: i64,
}

impl Default for CoreShape {
    fn default() -> Self {
        Self {
            cache: 1_000,
            cascade: 1_024,
            batch: 4_096,
            reservation_ttl: HOUR,
            payment_deadline: 10 * MINUTE,
            stuck_after: DAY,
        }
    }
}

/// Somebody asks for something.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// When: after the run began, or after another ask was answered.
    pub(crate) at: i64,
    /// That other ask.
    pub(crate) after: Option<usize>,
    /// What.
    pub(crate) what: What,
    /// The number of its idempotency key, if it has one.
    pub(crate) key: Option<u64>,
    /// Which body it has under this key.
    pub(crate) body: u8,
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// To place an order.
    Place(Basket),
    /// To pay one, with the amount that its buyer saw, or with another.
    Pay {
        /// The order's number.
        order: usize,
        /// Whether the amount is the right one.
        right: bool,
    },
    /// To cancel one.
    Cancel {
        /// The order's number.
        order: usize,
        /// Whether its buyer asks, or somebody of the shop.
        by_buyer: bool,
    },
    /// To take money into a balance.
    Deposit {
        /// The buyer's number.
        buyer: usize,
        /// How much.
        amount: i64,
    },
    /// To take goods in.
    Receive {
        /// The product's number.
        product: usize,
        /// How many.
        units: u64,
    },
    /// To count the shelf.
    Adjust {
        /// The product's number.
        product: usize,
        /// By how many.
        delta: i64,
    },
    /// To change a price.
    Price {
        /// The product's number.
        product: usize,
        /// For one.
        price: i64,
    },
    /// To take a product off the shelf.
    Retire {
        /// The product's number.
        product: usize,
    },
    /// To see an order.
    Read {
        /// The order's number.
        order: usize,
    },
    /// To see a stock.
    Stock {
        /// The product's number.
        product: usize,
    },
    /// To hear when an order has settled.
    Watch {
        /// The order's number.
        order: usize,
    },
    /// An operator, to act on an order that needs a person.
    Operate {
        /// The order's number.
        order: usize,
        /// How.
        how: Operation,
    },
    /// An operator, to see what is set aside in a shard.
    SetAside {
        /// The shard.
        shard: u16,
    },
    /// An operator, to try again what was set aside, or to give it up.
    Unpark {
        /// The shard in which it is.
        shard: u16,
        /// What.
        id: Uuid,
        /// How.
        how: Unparking,
    },
}

/// What an operator does about an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// It tries again.
    Resume,
    /// It is undone.
    Compensate,
    /// A person has looked where the money is.
    Resolve(Resolution),
}

/// An order as its buyer sends it.
#[derive(Clone, Debug)]
pub(crate) struct Basket {
    /// Its number.
    pub(crate) order: usize,
    /// Whose.
    pub(crate) buyer: usize,
    /// Product, quantity, and the price that the buyer saw.
    pub(crate) lines: Vec<(usize, i64, Option<i64>)>,
    /// The total that the buyer saw.
    pub(crate) stated_total: Option<i64>,
    /// How it is paid.
    pub(crate) paid: Paid,
    /// Only what would happen.
    pub(crate) dry_run: bool,
}

/// How an order is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paid {
    /// From the balance.
    Balance,
    /// By card, later.
    Card,
    /// By card, at once.
    CardAtOnce,
}

/// What the provider makes of a payment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Payment {
    /// Of its charge.
    pub(crate) charge: Charging,
    /// Of its cancellation.
    pub(crate) cancel: Cancelling,
}

/// What the provider makes of a charge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Charging {
    /// The money is taken.
    #[default]
    Approved,
    /// A final no.
    Declined,
    /// A final no: no money.
    Insufficient,
    /// An error the first times, with the money taken or not.
    Fails {
        /// How often.
        times: u32,
        /// Whether the money is taken all the same.
        after_effect: bool,
    },
    /// No answer, and the money is taken later.
    Late {
        /// How much later.
        after: i64,
        /// Until then a repeat is refused as if nothing was under way.
        turns_away: bool,
    },
    /// The money is taken; for a while nobody finds the payment.
    Hidden {
        /// How long.
        until: i64,
    },
    /// No answer the first times, with the money taken or not.
    Lost {
        /// How often.
        times: u32,
        /// Whether the money is taken all the same.
        after_effect: bool,
    },
    /// It takes this long.
    Slow {
        /// How long.
        takes: i64,
    },
    /// Another amount is taken.
    WrongAmount,
}

/// What the provider makes of a cancellation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cancelling {
    /// The money is given back.
    #[default]
    Done,
    /// No clear answer the first times, with the money given back or not.
    Unclear {
        /// How often.
        times: u32,
        /// Whether it is given back all the same.
        after_effect: bool,
    },
    /// A final no the first times.
    Refused {
        /// How often.
        times: u32,
    },
}

/// How often what goes wrong, of a thousand times unless it says otherwise.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// The process ends, at any edge.
    pub(crate) crash: u32,
    /// How long it is away at most.
    pub(crate) away: i64,
    /// Commits are not written.
    pub(crate) not_written: u32,
    /// Their outcome is unknown.
    pub(crate) unknown: u32,
    /// The disk fails.
    pub(crate) disk: u32,
    /// Batches are refused.
    pub(crate) refused: u32,
    /// Commits are slow.
    pub(crate) slow: u32,
    /// Reads fail, by the turn.
    pub(crate) reads: u32,
    /// This ask is refused for what it contains.
    pub(crate) poisoned: Option<usize>,
    /// In this shard alone.
    pub(crate) poisoned_in: Option<u16>,
    /// From then on, after the shop was opened.
    pub(crate) poisoned_from: i64,
    /// Until then.
    pub(crate) poisoned_until: Option<i64>,
    /// When another process takes a shard over, after the run began.
    pub(crate) take_overs: Vec<(i64, u16)>,
    /// When the clock jumps, and by how much.
    pub(crate) clock_jumps: Vec<(i64, i64)>,
    /// The clock shows an earlier time, by the turn.
    pub(crate) clock_back: u32,
    /// Wake-ups come early, late, twice.
    pub(crate) timers: u32,
    /// Requests are lost, late, doubled.
    pub(crate) requests: u32,
    /// Answers are lost.
    pub(crate) answers: u32,
    /// Calls of the provider are lost, doubled.
    pub(crate) calls: u32,
    /// The provider's answers are lost, late, doubled.
    pub(crate) outcomes: u32,
    /// When the provider is away: from, to.
    pub(crate) provider_down: Vec<(i64, i64)>,
    /// The provider tells repeats by the idempotency key alone, and not by the payment key too.
    pub(crate) key_alone: bool,
    /// The projector's saves fail in every way.
    pub(crate) views: u32,
    /// What is published is lost, doubled, reordered.
    pub(crate) tail: u32,
    /// Several inputs are taken in one step, by the input.
    pub(crate) together: u32,
    /// Messages between shards are lost, late, doubled.
    pub(crate) messages: u32,
    /// When no message goes from one shard to another.
    pub(crate) cuts: Vec<Cut>,
    /// When nothing carries messages, from, to; what was on its way then is lost.
    pub(crate) transport_down: Vec<(i64, i64)>,
    /// When a shard ends, which one, and how long it is away.
    pub(crate) downs: Vec<(i64, u16, i64)>,
    /// A crash is one of all shards, by the crash.
    pub(crate) all_at_once: u32,
    /// Batches of several shards are written in one transaction, by the commit.
    pub(crate) joint: u32,
    /// What is in the way of single messages.
    pub(crate) hitches: Vec<Hitch>,
}

/// No message goes from one shard to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Since when.
    pub(crate) begin: i64,
    /// Until when.
    pub(crate) end: i64,
    /// From this shard.
    pub(crate) from: u16,
    /// To this one.
    pub(crate) to: u16,
}

/// Something in the way of messages of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hitch {
    /// What they have done, by the command's name; `Learn` is news for a purchase.
    pub(crate) of: &'static str,
    /// Whether it is in the way of the answers, and not of the messages.
    pub(crate) answer: bool,
    /// What becomes of them.
    pub(crate) how: Hindrance,
    /// For how long, after the first of them was sent.
    pub(crate) span: i64,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hindrance {
    /// It is lost.
    Lost,
    /// It arrives when that is over.
    Late,
}

impl Faults {
    fn drawn(chance: &mut Chance, window: i64, asks: usize) -> Self {
        // Each kind is away in half of the runs, so that each combination of kinds occurs.
        let mut rate = |most: i64| -> u32 {
            if chance.per_mille(500) {
                u32::try_from(chance.span(5, most)).unwrap_or_default()
            } else {
                0
            }
        };
        let mut faults = Self {
            crash: rate(60),
            not_written: rate(200),
            unknown: rate(200),
            disk: rate(60),
            refused: rate(600),
            slow: rate(300),
            reads: rate(100),
            clock_back: rate(100),
            timers: rate(500),
            requests: rate(400),
            answers: rate(400),
            calls: rate(400),
            outcomes: rate(500),
            views: rate(400),
            tail: rate(300),
            ..Self::default()
        };
        faults.together = chance.pick(&[0, 300, 900, 1_000]);
        faults.away = chance.pick(&[SECOND, MINUTE, HOUR]);
        faults.key_alone = chance.per_mille(500);
        if chance.per_mille(30) {
            faults.poisoned = Some(chance.index(asks));
        }
        for _ in 0..chance.pick(&[0, 0, 0, 1, 2]) {
            faults.take_overs.push((chance.between(0, window), 0));
        }
        for _ in 0..chance.pick(&[0, 0, 0, 1, 3]) {
            let by = chance.span(SECOND, 2 * DAY);
            let sign = chance.pick(&[1, -1]);
            faults.clock_jumps.push((chance.between(0, window), sign * by));
        }
        if chance.per_mille(200) {
            let from = chance.between(0, window);
            faults.provider_down.push((from, from + chance.span(SECOND, 2 * DAY)));
        }
        faults
    }
}

impl Faults {
    /// What goes wrong where there are several shards.
    fn drawn_for(&mut self, shards: Shards, chance: &mut Chance, window: i64, asks: usize) {
        let any = |chance: &mut Chance| u16::try_from(chance.below(u64::from(shards.count()))).unwrap_or_default();
        if chance.per_mille(600) {
            self.messages = u32::try_from(chance.span(5, 500)).unwrap_or_default();
        }
        for take_over in &mut self.take_overs {
            take_over.1 = any(chance);
        }
        self.all_at_once = chance.pick(&[0, 0, 300, 1_000]);
        self.joint = chance.pick(&[0, 500, 1_000]);
        if self.poisoned.is_none() && chance.per_mille(70) {
            self.poisoned = Some(chance.index(asks));
        }
        if self.poisoned.is_some() && chance.per_mille(700) {
            self.poisoned_in = Some(any(chance));
        }
        if self.poisoned.is_some() && chance.per_mille(500) {
            self.poisoned_until = Some(chance.span(SECOND, DAY));
        }
        for _ in 0..chance.pick(&[0, 0, 1, 3]) {
            let (begin, from, to) = (chance.between(0, window), any(chance), any(chance));
            let end = begin + chance.span(SHORTEST_CUT, LONGEST_CUT);
            self.cuts.push(Cut { begin, end, from, to });
            if chance.per_mille(500) {
                let (from, to) = (to, from);
                self.cuts.push(Cut { begin, end, from, to });
            }
        }
        if chance.per_mille(200) {
            let from = chance.between(0, window);
            self.transport_down.push((from, from + chance.span(SHORTEST_CUT, LONGEST_CUT)));
        }
        for _ in 0..chance.pick(&[0, 0, 1, 2]) {
            let (at, shard) = (chance.between(0, window), any(chance));
            self.downs.push((at, shard, chance.span(SECOND, 3 * HOUR)));
        }
    }
}

/// The least time in which no message comes through.
const SHORTEST_CUT: i64 = SECOND / 2;
/// The longest.
const LONGEST_CUT: i64 = 6 * HOUR;

impl Script {
    /// The run that belongs to this seed.
    pub(crate) fn drawn(chance: &mut Chance, shards: Shards) -> Self {
        if shards == Shards::ONE {
            return Self::drawn_for_one(chance).0;
        }
        let (mut script, window) = if chance.per_mille(50) {
            Self::rush(chance)
        } else {
            Self::drawn_for_one(chance)
        };
        script.faults.drawn_for(shards, chance, window, script.asks.len());
        if script.faults.poisoned.is_some() {
            for _ in 0..chance.below(4) {
                let how = chance.pick(&[Unparking::Retried, Unparking::Retried, Unparking::Dropped]);
                script.unparkings.push((chance.span(MINUTE, 2 * DAY), how));
            }
        }
        script
    }

    /// More buyers than goods, all at once.
    fn rush(chance: &mut Chance) -> (Self, i64) {
        let window = chance.pick(&[SECOND / 10, SECOND, 20 * SECOND]);
        let mut script = Self {
            products: vec![(Some(chance.below(8)), 1_000)],
            balances: vec![1_000_000; 4],
            rush: true,
            core: CoreShape {
                cache: chance.pick(&[1, 8, 1_000]),
                cascade: chance.pick(&[1, 2, 1_024]),
                ..CoreShape::default()
            },
            ..Self::default()
        };
        for order in 0..usize::try_from(chance.between(4, 14)).unwrap_or_default() {
            let basket = Basket {
                order,
                buyer: chance.index(script.balances.len()),
                lines: vec![(0, 1, None)],
                stated_total: None,
                paid: Paid::Balance,
                dry_run: false,
            };
            script.ask(chance.between(0, window), None, What::Place(basket), true);
        }
        script.repeat_some(chance, window);
        script.faults = Faults::drawn(chance, window, script.asks.len());
        (script, window)
    }

    fn drawn_for_one(chance: &mut Chance) -> (Self, i64) {
        let window = chance.pick(&[SECOND / 10, SECOND, 20 * SECOND, 5 * MINUTE, 2 * HOUR]);
        let mut products = Vec::new();
        for _ in 0..chance.between(1, 4) {
            let stock = if chance.per_mille(100) { None } else { Some(chance.below(12)) };
            products.push((stock, chance.between(1, 9) * 1_000));
        }
        let mut balances = Vec::new();
        for _ in 0..chance.between(2, 4) {
            balances.push(chance.pick(&[0, 5_000, 30_000, 1_000_000]));
        }
        let orders = chance.between(3, 12);
        let mut script = Self {
            products,
            balances,
            asks: Vec::new(),
            payments: Vec::new(),
            faults: Faults::default(),
            core: CoreShape {
                cache: chance.pick(&[1, 2, 8, 1_000]),
                cascade: chance.pick(&[1, 2, 5, 1_024, 1_024]),
                batch: chance.pick(&[1, 16, 4_096]),
                reservation_ttl: chance.pick(&[5 * MINUTE, HOUR]),
                payment_deadline: chance.pick(&[2 * MINUTE, 10 * MINUTE, 2 * HOUR]),
                stuck_after: chance.pick(&[3 * HOUR, DAY]),
            },
            unparkings: Vec::new(),
            rush: false,
        };
        for order in 0..usize::try_from(orders).unwrap_or_default() {
            script.payments.push(payment(chance));
            script.order(chance, order, window);
        }
        for _ in 0..chance.between(0, 8) {
            script.of_the_shop(chance, window);
        }
        script.repeat_some(chance, window);
        script.faults = Faults::drawn(chance, window, script.asks.len());
        (script, window)
    }

    /// Adds an ask, under the next key unless it needs none.
    pub(crate) fn ask(&mut self, at: i64, after: Option<usize>, what: What, keyed: bool) -> usize {
        let number = self.asks.len();
        let key = keyed.then_some(number as u64);
        self.asks.push(Ask {
            at,
            after,
            what,
            key,
            body: 0,
        });
        number
    }

    fn order(&mut self, chance: &mut Chance, order: usize, window: i64) {
        let at = chance.between(0, window);
        let basket = self.basket(chance, order);
        let paid = basket.paid;
        if chance.per_mille(100) {
            let dry = Basket {
                dry_run: true,
                ..basket.clone()
            };
            self.ask(chance.between(0, window), None, What::Place(dry), false);
        }
        let place = self.ask(at, None, What::Place(basket), true);
        if paid == Paid::Card && chance.per_mille(800) {
            let delay = if chance.per_mille(200) {
                chance.span(MINUTE, 3 * HOUR)
            } else {
                chance.span(1_000, 30 * SECOND)
            };
            let right = !chance.per_mille(100);
            let pay = self.ask(delay, Some(place), What::Pay { order, right }, chance.per_mille(900));
            if !right {
                self.ask(SECOND, Some(pay), What::Pay { order, right: true }, true);
            }
        }
        if chance.per_mille(300) {
            let by_buyer = chance.per_mille(700);
            let what = What::Cancel { order, by_buyer };
            let keyed = chance.per_mille(800);
            if chance.per_mille(300) {
                self.ask(chance.between(0, window), None, what, keyed);
            } else {
                self.ask(chance.span(1_000, HOUR), Some(place), what, keyed);
            }
        }
        if chance.per_mille(300) {
            self.ask(chance.span(1_000, MINUTE), Some(place), What::Watch { order }, false);
        }
        if chance.per_mille(200) {
            self.ask(chance.between(0, window), None, What::Read { order }, false);
        }
        if chance.per_mille(100) {
            // Mostly in vain: only an order that needs a person takes it.
            let how = chance.pick(&[Operation::Resume, Operation::Compensate]);
            self.ask(chance.span(SECOND, 2 * DAY), Some(place), What::Operate { order, how }, true);
        }
    }

    fn basket(&self, chance: &mut Chance, order: usize) -> Basket {
        let mut lines: Vec<(usize, i64, Option<i64>)> = Vec::new();
        for _ in 0..chance.between(1, 3) {
            let product = chance.index(self.products.len());
            if lines.iter().any(|(known, ..)| *known == product) {
                continue;
            }
            let stated = match chance.below(10) {
                0 => Some(self.products[product].1 + 500),
                1..=4 => Some(self.products[product].1),
                _ => None,
            };
            lines.push((product, chance.between(1, 3), stated));
        }
        if chance.per_mille(20) {
            // A product that nobody has heard of.
            lines.push((99, 1, None));
        }
        let total: i64 = lines
            .iter()
            .map(|(product, quantity, stated)| stated.unwrap_or(self.products.get(*product).map_or(0, |(_, price)| *price)) * quantity)
            .sum();
        Basket {
            order,
            buyer: chance.index(self.balances.len()),
            lines,
            stated_total: match chance.below(10) {
                0 => Some(total + 1),
                1..=4 => Some(total),
                _ => None,
            },
            paid: chance.pick(&[Paid::Balance, Paid::Card, Paid::CardAtOnce]),
            dry_run: false,
        }
    }

    fn of_the_shop(&mut self, chance: &mut Chance, window: i64) {
        let product = chance.index(self.products.len());
        let what = match chance.below(12) {
            0..=2 => What::Deposit {
                buyer: chance.index(self.balances.len()),
                amount: chance.between(1, 40) * 1_000,
            },
            3..=5 => What::Receive {
                product,
                units: chance.below(6),
            },
            6 | 7 => What::Adjust {
                product,
                delta: chance.between(-4, 4),
            },
            8 | 9 => What::Price {
                product,
                price: chance.between(1, 9) * 1_000,
            },
            10 => What::Stock { product },
            _ => What::Retire { product },
        };
        self.ask(chance.between(0, window), None, what, chance.per_mille(700));
    }

    /// The same key again: at once, later, with another body.
    fn repeat_some(&mut self, chance: &mut Chance, window: i64) {
        for number in 0..self.asks.len() {
            if self.asks[number].key.is_none() || !chance.per_mille(150) {
                continue;
            }
            let mut again = self.asks[number].clone();
            if chance.per_mille(500) {
                again.at = chance.span(1, DAY);
                again.after = Some(number);
            } else if again.after.is_none() {
                again.at += chance.span(1, window);
            }
            if chance.per_mille(300) {
                again.body = 1;
                other_body(&mut again.what);
            }
            self.asks.push(again);
        }
    }
}

/// The same request, but for one thing.
fn other_body(what: &mut What) {
    match what {
        What::Place(basket) => basket.lines[0].1 += 1,
        What::Pay { right, .. } => *right = !*right,
        What::Cancel { by_buyer, .. } => *by_buyer = !*by_buyer,
        What::Deposit { amount, .. } => *amount += 1,
        What::Receive { units, .. } => *units += 1,
        What::Adjust { delta, .. } => *delta += 1,
        What::Price { price, .. } => *price += 1,
        What::Operate { how, .. } => *how = Operation::Compensate,
        What::Retire { .. } | What::Read { .. } | What::Stock { .. } | What::Watch { .. } | What::SetAside { .. } | What::Unpark { .. } => {
        }
    }
}

fn payment(chance: &mut Chance) -> Payment {
    let times = u32::try_from(chance.between(1, 4)).unwrap_or(1);
    let after_effect = chance.per_mille(500);
    let charge = match chance.below(20) {
        0 => Charging::Declined,
        1 => Charging::Insufficient,
        2 | 3 => Charging::Fails { times, after_effect },
        4 | 5 => Charging::Late {
            after: chance.span(SECOND, 3 * HOUR),
            turns_away: after_effect,
        },
        6 => Charging::Hidden {
            until: chance.span(SECOND, HOUR),
        },
        7 | 8 => Charging::Lost { times, after_effect },
        9 => Charging::Slow {
            takes: chance.span(SECOND, 20 * SECOND),
        },
        10 if chance.per_mille(300) => Charging::WrongAmount,
        _ => Charging::Approved,
    };
    let cancel = match chance.below(8) {
        0 | 1 => Cancelling::Unclear { times, after_effect },
        2 if chance.per_mille(500) => Cancelling::Refused { times },
        _ => Cancelling::Done,
    };
    Payment { charge, cancel }
}
