//! Stories of several shards: what becomes of an order when a message on its way is lost, late, or finds nobody.
//!
//! With two shards the orders of these stories, but the fifth, are in one shard; their buyers and the goods in [`FAR`] are in the other.

use aggregates::Resolution;
use engine::Unparking;

use super::{Scenario, basket, shop};
use crate::script::{Cut, Hindrance, Hitch, MINUTE, Operation, Paid, SECOND, Script, What};

/// In the other shard.
const FAR: &[(usize, i64)] = &[(0, 1), (2, 2)];
/// In the order's own.
const NEAR: &[(usize, i64)] = &[(1, 1)];

/// The shard of the goods and of the buyer; that of the order is the other one.
const THERE: u16 = 0;
const HERE: u16 = 1;

impl Script {
    /// This is in the way of such messages for so long.
    fn hitch(mut self, of: &'static str, how: Hindrance, span: i64) -> Self {
        let answer = false;
        self.faults.hitches.push(Hitch { of, answer, how, span });
        self
    }

    /// The same for the answers to them.
    fn hitch_answer(mut self, of: &'static str, how: Hindrance, span: i64) -> Self {
        let answer = true;
        self.faults.hitches.push(Hitch { of, answer, how, span });
        self
    }

    /// What follows from this ask is refused, in the other shard, from then on until then.
    fn poison(mut self, ask: usize, from: i64, until: i64) -> Self {
        self.faults.poisoned = Some(ask);
        self.faults.poisoned_in = Some(THERE);
        self.faults.poisoned_from = from;
        self.faults.poisoned_until = Some(until);
        self
    }

    fn operate(mut self, after: i64, how: Operation) -> Self {
        self.ask(after, Some(0), What::Operate { order: 0, how }, true);
        self
    }

    fn unpark(mut self, at: i64, how: Unparking) -> Self {
        self.unparkings.push((at, how));
        self
    }

    fn meanwhile(mut self, at: i64, what: What) -> Self {
        self.ask(at, None, what, true);
        self
    }
}

/// An order for goods in the other shard, paid like this.
fn far(paid: Paid) -> Script {
    let mut script = shop();
    let place = script.place(0, basket(0, 0, paid, FAR));
    if paid == Paid::Card {
        script.pay(2 * SECOND, place, 0);
    }
    script
}

/// The same, cancelled by its buyer after so long.
fn cancelled(paid: Paid, after: i64) -> Script {
    let mut script = far(paid);
    script.cancel(after, 0, 0, true);
    script
}

/// An order that is not paid, and cancelled by its buyer.
fn unpaid() -> Script {
    let mut script = shop();
    let place = script.place(0, basket(0, 0, Paid::Card, FAR));
    script.cancel(SECOND, place, 0, true);
    script
}

/// The order is cancelled while its balance is being asked: what it paid goes back.
fn paid_back() -> Script {
    cancelled(Paid::Balance, 3 * SECOND).hitch("Debit", Hindrance::Late, 10 * SECOND)
}

/// Goods are at home, the balance is not, and it cannot be asked for ten minutes.
fn debit_set_aside() -> Script {
    let mut script = shop();
    script.place(0, basket(0, 0, Paid::Balance, NEAR));
    script.poison(0, 0, 10 * MINUTE)
}

/// The goods are promised and paid, and cannot be sold for ten minutes.
fn commit_set_aside() -> Script {
    far(Paid::Balance)
        .hitch("Commit", Hindrance::Late, 10 * SECOND)
        .poison(0, 5 * SECOND, 10 * MINUTE)
}

/// The goods cannot be promised for ten minutes.
fn reserve_set_aside() -> Script {
    far(Paid::Balance).poison(0, 0, 10 * MINUTE)
}

/// A story of several shards.
const fn story(name: &'static str, ends: &'static [&'static str], script: fn() -> Script) -> Scenario {
    Scenario {
        name,
        ends,
        several: true,
        script,
    }
}

const LOST: Hindrance = Hindrance::Lost;
const LATE: Hindrance = Hindrance::Late;
const SOME: i64 = 10 * SECOND;

/// All of them.
pub(super) const STORIES: &[Scenario] = &[
    // A message, or its answer, is lost for a while.
    story("the goods are not asked for at first", &["CONFIRMED"], || {
        far(Paid::Balance).hitch("Reserve", LOST, SOME)
    }),
    story("nobody hears that the goods are promised", &["CONFIRMED"], || {
        far(Paid::Balance).hitch_answer("Reserve", LOST, SOME)
    }),
    story("the goods are not held at first", &["CONFIRMED"], || {
        far(Paid::Card).hitch("Hold", LOST, SOME)
    }),
    story("nobody hears that the goods are held", &["CONFIRMED"], || {
        far(Paid::Card).hitch_answer("Hold", LOST, SOME)
    }),
    story("the balance is not asked at first", &["CONFIRMED"], || {
        far(Paid::Balance).hitch("Debit", LOST, SOME)
    }),
    story("nobody hears that the balance has paid", &["CONFIRMED"], || {
        far(Paid::Balance).hitch_answer("Debit", LOST, SOME)
    }),
    story("nobody hears that the balance is too small", &["INSUFFICIENT_BALANCE"], || {
        let mut script = far(Paid::Balance).hitch_answer("Debit", LOST, SOME);
        script.balances[0] = 6_999;
        script
    }),
    story("the goods are not sold at first", &["CONFIRMED"], || {
        far(Paid::Balance).hitch("Commit", LOST, SOME)
    }),
    story("nobody hears that the goods are sold", &["CONFIRMED"], || {
        far(Paid::CardAtOnce).hitch_answer("Commit", LOST, SOME)
    }),
    story("the goods are not released at first", &["CANCELLED_BY_BUYER"], || {
        unpaid().hitch("Release", LOST, SOME)
    }),
    story("nobody hears that the goods are released", &["CANCELLED_BY_BUYER"], || {
        unpaid().hitch_answer("Release", LOST, SOME)
    }),
    story("the balance is not paid back at first", &["CANCELLED_BY_BUYER"], || {
        paid_back().hitch("Credit", LOST, SOME)
    }),
    story("nobody hears that the balance is paid back", &["CANCELLED_BY_BUYER"], || {
        paid_back().hitch_answer("Credit", LOST, SOME)
    }),
    // Cancelled while a message is on its way.
    story("cancelled while the goods are asked for", &["CANCELLED_BY_BUYER"], || {
        cancelled(Paid::Balance, 3 * SECOND).hitch("Reserve", LATE, SOME)
    }),
    story(
        "cancelled before it is known that the goods are promised",
        &["CANCELLED_BY_BUYER"],
        || cancelled(Paid::CardAtOnce, 3 * SECOND).hitch_answer("Reserve", LATE, SOME),
    ),
    story("cancelled while the goods are to be held", &["CANCELLED_BY_BUYER"], || {
        cancelled(Paid::Card, 4 * SECOND).hitch("Hold", LATE, SOME)
    }),
    story(
        "cancelled before it is known that the goods are held",
        &["CANCELLED_BY_BUYER"],
        || cancelled(Paid::Card, 4 * SECOND).hitch_answer("Hold", LATE, SOME),
    ),
    story("cancelled while the balance is asked", &["CANCELLED_BY_BUYER"], paid_back),
    story(
        "cancelled before it is known that the balance has paid",
        &["CANCELLED_BY_BUYER"],
        || cancelled(Paid::Balance, 3 * SECOND).hitch_answer("Debit", LATE, SOME),
    ),
    story(
        "cancelled while the balance is asked, and it is too small",
        &["CANCELLED_BY_BUYER"],
        || {
            let mut script = paid_back();
            script.balances[0] = 6_999;
            script
        },
    ),
    story("cancelled while the goods are being sold", &["CONFIRMED"], || {
        cancelled(Paid::Balance, 3 * SECOND).hitch("Commit", LATE, SOME)
    }),
    story(
        "cancelled again while the goods are to be released",
        &["CANCELLED_BY_BUYER"],
        || {
            let mut script = unpaid().hitch("Release", LATE, SOME);
            script.cancel(3 * SECOND, 0, 0, false);
            script
        },
    ),
    // Nobody is there.
    story("the shard of the goods is away", &["CONFIRMED"], || {
        let mut script = far(Paid::Balance);
        script.faults.downs = vec![(0, THERE, MINUTE)];
        script
    }),
    story("the shard of the goods goes away before they are sold", &["CONFIRMED"], || {
        let mut script = far(Paid::Balance).hitch("Commit", LATE, SOME);
        script.faults.downs = vec![(5 * SECOND, THERE, MINUTE)];
        script
    }),
    story("the shard of the order goes away before it is answered", &["CONFIRMED"], || {
        let mut script = far(Paid::Balance).hitch_answer("Debit", LATE, SOME);
        script.faults.downs = vec![(5 * SECOND, HERE, MINUTE)];
        script
    }),
    story("nothing goes to the other shard for a while", &["CONFIRMED"], || {
        let mut script = far(Paid::Balance);
        let (begin, end, from, to) = (0, MINUTE, HERE, THERE);
        script.faults.cuts = vec![Cut { begin, end, from, to }];
        script
    }),
    story("nothing comes from the other shard for a while", &["CONFIRMED"], || {
        let mut script = far(Paid::Balance);
        let (begin, end, from, to) = (0, MINUTE, THERE, HERE);
        script.faults.cuts = vec![Cut { begin, end, from, to }];
        script
    }),
    story("all messages are lost, and none is taken for a while", &["CONFIRMED"], || {
        let mut script = far(Paid::Balance).hitch("Debit", LATE, SOME);
        script.faults.transport_down = vec![(5 * SECOND, MINUTE)];
        script
    }),
    story("both shards have two writers", &["CONFIRMED"], || {
        let mut script = far(Paid::Balance).hitch("Debit", LATE, SOME).hitch_answer("Commit", LATE, SOME);
        script.faults.take_overs = vec![(5 * SECOND, THERE), (15 * SECOND, HERE)];
        script
    }),
    // Time passes, and the shop goes on.
    story("expired in the other shard while the buyer pays", &["RESERVATION_EXPIRED"], || {
        let mut script = shop();
        script.core.reservation_ttl = 5 * MINUTE;
        let place = script.place(0, basket(0, 0, Paid::Card, FAR));
        script.pay(5 * MINUTE - 2 * SECOND, place, 0);
        script.hitch("Hold", LATE, SOME)
    }),
    story(
        "paid before it is known that the goods have expired",
        &["RESERVATION_EXPIRED"],
        || {
            let mut script = shop();
            script.core.reservation_ttl = 5 * MINUTE;
            let place = script.place(0, basket(0, 0, Paid::Card, FAR));
            script.pay(5 * MINUTE + 2 * SECOND, place, 0);
            script.hitch("Learn", LATE, SOME)
        },
    ),
    story("a new price in the other shard, price stated", &["PRICE_MISMATCH"], || {
        let mut script = shop();
        let mut order = basket(0, 0, Paid::Balance, FAR);
        order.lines[1].2 = Some(3_000);
        script.place(0, order);
        let change = What::Price { product: 2, price: 3_500 };
        script.hitch("Reserve", LATE, SOME).meanwhile(3 * SECOND, change)
    }),
    story("a new price in the other shard, no price stated", &["CONFIRMED"], || {
        let change = What::Price { product: 2, price: 3_500 };
        far(Paid::Balance).hitch("Reserve", LATE, SOME).meanwhile(3 * SECOND, change)
    }),
    story(
        "retired in the other shard before the goods are asked for",
        &["PRODUCT_RETIRED"],
        || {
            let retire = What::Retire { product: 2 };
            far(Paid::CardAtOnce).hitch("Reserve", LATE, SOME).meanwhile(3 * SECOND, retire)
        },
    ),
    story("a new price, then an order in another shard", &["CONFIRMED"], || {
        let mut script = shop();
        let first = script.ask(0, None, What::Price { product: 0, price: 1_500 }, true);
        let mut order = basket(0, 0, Paid::Balance, FAR);
        order.stated_total = Some(1_500 + 6_000);
        script.ask(SECOND, Some(first), What::Place(order), true);
        script
    }),
    // Everybody wants the same.
    story("orders of two shards for the last unit", &["CONFIRMED", "OUT_OF_STOCK"], || {
        let mut script = shop();
        script.products[0].0 = Some(1);
        script.rush = true;
        script.place(0, basket(0, 0, Paid::Balance, &[(0, 1)]));
        script.place(10, basket(4, 1, Paid::Balance, &[(0, 1)]));
        script
    }),
    story(
        "six orders for three units, and nobody hears what is promised",
        &[
            "CONFIRMED",
            "CONFIRMED",
            "CONFIRMED",
            "OUT_OF_STOCK",
            "OUT_OF_STOCK",
            "OUT_OF_STOCK",
        ],
        || {
            let mut script = shop();
            script.products[0].0 = Some(3);
            script.rush = true;
            for order in 0..6 {
                script.place(0, basket(order, order % 2, Paid::Balance, &[(0, 1)]));
            }
            script.hitch_answer("Reserve", LOST, SOME)
        },
    ),
    // What cannot be done in the other shard, and operators.
    story("the goods cannot be promised, and it is resumed", &["CONFIRMED"], || {
        reserve_set_aside().operate(20 * MINUTE, Operation::Resume)
    }),
    story("the goods cannot be promised, and it is tried again", &["CONFIRMED"], || {
        reserve_set_aside().unpark(20 * MINUTE, Unparking::Retried)
    }),
    story(
        "the goods cannot be promised, and it is resumed and then tried again",
        &["CONFIRMED"],
        || {
            reserve_set_aside()
                .operate(20 * MINUTE, Operation::Resume)
                .unpark(30 * MINUTE, Unparking::Retried)
        },
    ),
    story(
        "the goods cannot be promised, it is dropped and undone",
        &["CANCELLED_BY_SHOP"],
        || {
            reserve_set_aside()
                .unpark(20 * MINUTE, Unparking::Dropped)
                .operate(30 * MINUTE, Operation::Compensate)
        },
    ),
    story(
        "the goods cannot be promised, it is undone and then tried again",
        &["CANCELLED_BY_SHOP"],
        || {
            reserve_set_aside()
                .operate(20 * MINUTE, Operation::Compensate)
                .unpark(30 * MINUTE, Unparking::Retried)
        },
    ),
    story("the balance cannot be asked, and it is tried again", &["CONFIRMED"], || {
        debit_set_aside().unpark(20 * MINUTE, Unparking::Retried)
    }),
    story("the balance cannot be asked, it is resumed and tried again", &["CONFIRMED"], || {
        debit_set_aside()
            .operate(20 * MINUTE, Operation::Resume)
            .unpark(30 * MINUTE, Unparking::Retried)
    }),
    story(
        "the balance cannot be asked, it is undone and then tried again",
        &["CANCELLED_BY_SHOP"],
        || {
            debit_set_aside()
                .operate(20 * MINUTE, Operation::Compensate)
                .unpark(30 * MINUTE, Unparking::Retried)
        },
    ),
    story(
        "the balance cannot be asked, it is dropped and resolved",
        &["CANCELLED_BY_SHOP"],
        || {
            debit_set_aside()
                .unpark(20 * MINUTE, Unparking::Dropped)
                .operate(30 * MINUTE, Operation::Resolve(Resolution::NotCharged))
        },
    ),
    story("the goods cannot be sold, and it is tried again", &["CONFIRMED"], || {
        commit_set_aside().unpark(20 * MINUTE, Unparking::Retried)
    }),
    story("the goods cannot be sold, it is dropped and resumed", &["CONFIRMED"], || {
        commit_set_aside()
            .unpark(20 * MINUTE, Unparking::Dropped)
            .operate(30 * MINUTE, Operation::Resume)
    }),
    story(
        "the goods cannot be sold, somebody wants it undone, and it is tried again",
        &["CONFIRMED"],
        || {
            commit_set_aside()
                .operate(20 * MINUTE, Operation::Compensate)
                .unpark(30 * MINUTE, Unparking::Retried)
        },
    ),
    story(
        "the goods cannot be released, and it is tried again",
        &["CANCELLED_BY_BUYER"],
        || unpaid().poison(1, 0, 10 * MINUTE).unpark(20 * MINUTE, Unparking::Retried),
    ),
];
