//! What must hold of every order once the whole log is read.

use rustc_hash::FxHashMap;
use uuid::Uuid;

use super::{
    Goods, Order, Pay, Reservation, Shop, Status, Stock,
    goods::{RESERVED_TWICE, not_ordered},
    money::{NOT_HELD, NOT_OF_BALANCE},
};
use crate::{Invariant, Options, Place, Provided, Report, waiting::Waiting};

/// What an order is judged by.
struct Judge<'a> {
    waiting: &'a Waiting,
    stocks: &'a [Stock],
    options: &'a Options,
    alone: bool,
    now: i64,
    grace: i64,
}

impl Shop {
    pub(crate) fn end(&mut self, waiting: &Waiting, options: &Options, report: &mut Report) {
        let judge = Judge {
            waiting,
            stocks: &self.stocks,
            options,
            alone: self.alone,
            now: options.now.unwrap_or(self.last_recorded_at),
            grace: i64::try_from(options.grace.as_micros()).unwrap_or(i64::MAX),
        };
        let mut ids: Vec<_> = self.orders.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let Some(order) = self.orders.get(&id) else { continue };
            judge.order(id, order, report);
        }
        for stock in &self.stocks {
            report.counts.sold = report.counts.sold.saturating_add(u64::try_from(stock.sold).unwrap_or_default());
        }
        report.counts.balances = self.wallets.values().sum();
        if !self.alone {
            self.reserved_add_up(report);
        }
        if let Some(ledger) = &options.ledger {
            report.counts.ledger = Some(ledger.len() as u64);
            Judge::unknown_to_us(ledger.iter().filter(|(id, _)| !self.knows(**id)), report);
        }
    }

    /// Over several shards: what the stocks have reserved is what the orders are promised.
    fn reserved_add_up(&self, report: &mut Report) {
        let mut promised: FxHashMap<u32, i128> = FxHashMap::default();
        for reservation in self.orders.values().flat_map(|order| &order.reservations) {
            if reservation.state == Goods::Promised {
                *promised.entry(reservation.product).or_default() += i128::from(reservation.quantity);
            }
        }
        for (number, stock) in (0..).zip(&self.stocks) {
            let promised = promised.get(&number).copied().unwrap_or_default();
            if promised != stock.reserved {
                report.add(
                    Invariant::Stock,
                    Place {
                        stream: Some(format!("inventory-{}", stock.id)),
                        ..Place::default()
                    },
                    format!("{} are reserved, and {promised} promised to orders", stock.reserved),
                );
            }
        }
    }
}

impl Judge<'_> {
    fn order(&self, id: Uuid, order: &Order, report: &mut Report) {
        match (order.status, order.attention()) {
            (Status::Unknown, _) => {}
            (_, true) => report.counts.needs_attention += 1,
            (Status::Confirmed, false) => report.counts.confirmed += 1,
            (Status::Cancelled, false) => report.counts.cancelled += 1,
            _ => report.counts.under_way += 1,
        }
        report.counts.captured += i128::from(order.captured);
        report.counts.reversed += i128::from(order.reversed);
        let mut wrong = Vec::new();
        if order.status == Status::Unknown {
            let happened = !order.reservations.is_empty() || order.captured != 0 || order.debited != 0;
            if happened && (self.alone || !order.moving) {
                wrong.push((Invariant::Chain, "something happened for an order that was not placed".to_owned()));
            }
        } else {
            if !self.alone && !order.moving && !order.attention() {
                across_shards(order, &mut wrong);
            }
            self.money(id, order, &mut wrong);
            self.goods(id, order, &mut wrong);
            self.deadline(id, order, &mut wrong);
            self.ledger(id, order, &mut wrong);
        }
        for (invariant, what) in wrong {
            let (shard, position) = order.last;
            report.add(invariant, Place::at(shard, position, position).of_order(id), what);
        }
    }

    fn money(&self, id: Uuid, order: &Order, wrong: &mut Vec<(Invariant, String)>) {
        let kept = order.captured.saturating_sub(order.reversed);
        let reversing = matches!(order.pay, Pay::Captured | Pay::Reversing) && !self.options.quiescent && self.owner(id, order).is_some();
        let right = match order.status {
            _ if order.attention() => true,
            Status::Confirmed => kept == order.total,
            // What turned up after the end is on its way back.
            Status::Cancelled => kept == 0 || reversing,
            _ => kept == 0 || kept == order.total,
        };
        if !right {
            let rule = match order.status {
                Status::Confirmed => "a confirmed order is paid",
                Status::Cancelled => "a cancelled order keeps no money",
                _ => "an order under way has all its money or none",
            };
            wrong.push((
                Invariant::Money,
                format!(
                    "{rule}: {} are taken and {} given back, the total is {}",
                    order.captured, order.reversed, order.total
                ),
            ));
        }
        let from_balance = if order.card { 0 } else { kept };
        // The wallet and the payment may be on two shards, and one a message ahead.
        let to_come = order.attention() || self.owner(id, order).is_some();
        let settled = !to_come && (self.alone || order.status.ended() && !reversing);
        if settled && order.debited - order.credited != from_balance {
            wrong.push((
                Invariant::Money,
                format!(
                    "the wallet agrees: {} are debited and {} credited, {} taken and {} given back",
                    order.debited, order.credited, order.captured, order.reversed
                ),
            ));
        }
    }

    fn goods(&self, id: Uuid, order: &Order, wrong: &mut Vec<(Invariant, String)>) {
        if order.status.ended() {
            if order.closed {
                return;
            }
            // A step that was put off, or set aside, is still to come.
            let to_come = order.attention() || !self.options.quiescent && self.owner(id, order).is_some();
            if to_come {
                return;
            }
            order.goods_at_the_end(self.stocks, wrong);
            return;
        }
        if self.alone && order.status == Status::AwaitingPayment && !order.attention() {
            for line in &order.lines {
                let promised = order
                    .reservations
                    .iter()
                    .any(|known| known.product == line.product && known.state == Goods::Promised);
                if !promised {
                    wrong.push((
                        Invariant::Reservations,
                        format!("it waits to be paid, and its {} units are not promised", line.quantity),
                    ));
                }
            }
        }
        for reservation in &order.reservations {
            if let (Goods::Promised, Some(due)) = (reservation.state, reservation.expires_at)
                && self.is_late(due)
            {
                wrong.push((
                    Invariant::Deadlines,
                    format!("its goods were promised until {due}, it is {}, and they still are", self.now),
                ));
            }
        }
    }

    /// A process that has not ended is owned: something is due that takes it on.
    fn deadline(&self, id: Uuid, order: &Order, wrong: &mut Vec<(Invariant, String)>) {
        if order.status.ended() || order.attention() {
            return;
        }
        let mut late = |what: String| wrong.push((Invariant::Deadlines, what));
        if self.options.quiescent {
            late(format!("nothing is under way any more, and it is {:?}", order.status));
        }
        if order.status == Status::AwaitingPayment && self.is_late(order.until) {
            late(format!(
                "it could be paid until {}, it is {}, and it still waits",
                order.until, self.now
            ));
        }
        if !self.comparable(order) {
            return;
        }
        match self.owner(id, order) {
            None => late(format!(
                "it is {:?} since it was placed at {}, and nothing is owed or timed that takes it on",
                order.status, order.placed_at
            )),
            Some(due) if self.is_late(due) => late(format!(
                "it is {:?}, what takes it on was due at {due}, and it is {}",
                order.status, self.now
            )),
            Some(_) => {}
        }
    }

    fn is_late(&self, due: i64) -> bool {
        due.saturating_add(self.grace) < self.now
    }

    /// Whether nothing happened to it since what is owed was read.
    fn comparable(&self, order: &Order) -> bool {
        self.waiting.known && !order.moving
    }

    /// When something is due that concerns it.
    fn owner(&self, id: Uuid, order: &Order) -> Option<i64> {
        if !self.comparable(order) {
            return Some(i64::MAX);
        }
        self.waiting.due([id, order.payment])
    }

    fn ledger(&self, id: Uuid, order: &Order, wrong: &mut Vec<(Invariant, String)>) {
        let Some(ledger) = &self.options.ledger else { return };
        let provided = ledger.get(&id).copied().unwrap_or_default();
        let Provided {
            charges,
            charged,
            cancelled,
            charged_at,
        } = provided;
        if charges > 1 {
            wrong.push((Invariant::Money, format!("it was charged {charges} times by the provider")));
        }
        if cancelled > charged {
            wrong.push((
                Invariant::Money,
                format!("the provider charged {charged} and gave back {cancelled}"),
            ));
        }
        if order.later {
            return;
        }
        match order.requested_at {
            None if charges > 0 => wrong.push((
                Invariant::Durability,
                format!("the provider charged {charged}, and the log does not say that it was asked to"),
            )),
            Some(requested) if charged_at.is_some_and(|at| at < requested) => wrong.push((
                Invariant::Durability,
                format!(
                    "the provider charged at {}, before it was recorded at {requested} that it was asked to",
                    charged_at.unwrap_or_default()
                ),
            )),
            _ => {}
        }
        if !order.card {
            return;
        }
        let ours = (order.captured, order.reversed);
        let agrees = match order.pay {
            // The last word is not known to us yet.
            Pay::Asked | Pay::Over if !self.options.quiescent && order.requested_at.is_some() => ours.0 <= charged,
            // A request may be on its way still, and is watched.
            Pay::Declined if !self.options.quiescent && order.doubtful => ours.0 <= charged,
            Pay::Reversing | Pay::Disputed if !self.options.quiescent || order.attention() => ours.0 == charged && ours.1 <= cancelled,
            _ if order.attention() => true,
            // Charged and given back there without our doing.
            Pay::Declined => charged - cancelled == ours.0 - ours.1,
            _ => (charged, cancelled) == ours,
        };
        if !agrees {
            wrong.push((
                Invariant::Money,
                format!(
                    "the provider's ledger and ours differ: it charged {charged} and gave back {cancelled}, by the log {} and {}",
                    ours.0, ours.1
                ),
            ));
        }
    }

    /// What the provider charged for orders that nobody placed. The ledger is the older of the two, so none is on its way.
    fn unknown_to_us<'l>(unknown: impl Iterator<Item = (&'l Uuid, &'l Provided)>, report: &mut Report) {
        let mut unknown: Vec<_> = unknown.collect();
        unknown.sort_unstable_by_key(|(id, _)| **id);
        for (id, provided) in unknown {
            report.add(
                Invariant::Durability,
                Place::order(*id),
                format!("the provider charged {} for an order that the log does not know", provided.charged),
            );
        }
    }
}

/// What is checked at each event where all happens in one order, and of the whole where it does not.
fn across_shards(order: &Order, wrong: &mut Vec<(Invariant, String)>) {
    for known in &order.reservations {
        if !order.orders(known.product, known.quantity) {
            wrong.push((Invariant::Reservations, not_ordered(known.quantity)));
        }
    }
    let twice = |known: &Reservation| order.reservations.iter().filter(|other| other.product == known.product).count() > 1;
    if !order.helped && order.reservations.iter().any(twice) {
        wrong.push((Invariant::Reservations, RESERVED_TWICE.to_owned()));
    }
    // They are held when the money is asked for, and may have ended since.
    let held = order.held(|_| true);
    if order.requested_at.is_some() && !held {
        wrong.push((Invariant::Reservations, NOT_HELD.to_owned()));
    }
    if order.of_balance && !held {
        let what = "the balance is asked for the money, and not all goods are held".to_owned();
        wrong.push((Invariant::Reservations, what));
    }
    if order.card && order.of_balance {
        wrong.push((Invariant::Money, NOT_OF_BALANCE.to_owned()));
    }
    if order.debited != 0 && order.debited != order.total {
        let what = format!(
            "an order is debited once, with its total of {}: it was with {}",
            order.total, order.debited
        );
        wrong.push((Invariant::Money, what));
    }
    // The wallet is asked first.
    if !order.card && order.captured != 0 && order.debited != order.captured {
        let what = format!("{} are taken from the balance, which says {}", order.captured, order.debited);
        wrong.push((Invariant::Money, what));
    }
}
