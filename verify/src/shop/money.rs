//! Payments and wallets.

use event_store::Event;

use super::{Goods, Order, Pay, Reservation, Shop, Status, order_of, read, say};
use crate::{
    Invariant, Place, Report,
    shapes::{Amount, Anything, Contradicted, OrderAmount, Requested, Resolved},
};

impl Shop {
    pub(super) fn payment(&mut self, event: &Event, name: &str, report: &mut Report) -> Result<bool, serde_json::Error> {
        let id = order_of(event)?;
        let mut wrong = Vec::new();
        let mut money = None;
        let alone = self.alone;
        let order = self.orders.entry(id).or_default();
        order.happened(event, self.moment);
        order.payment = event.stream.id;
        // Its order is in the same shard, and what comes first there happened first.
        if order.status == Status::Unknown {
            wrong.push((Invariant::Money, format!("{name} happens for an order that was not placed")));
        }
        let mut expect = |holds: bool, what: &dyn Fn() -> String| {
            if !holds {
                wrong.push((Invariant::Money, what()));
            }
        };
        match name {
            "prepared" => {
                let prepared: OrderAmount<'_> = read(event)?;
                let amount = prepared.amount.amount;
                money = Some(prepared.amount);
                expect(order.pay == Pay::None, &|| "a payment is prepared once".to_owned());
                expect(amount == order.total, &|| {
                    format!("{amount} are to be paid, and the total is {}", order.total)
                });
                (order.pay, order.billed) = (Pay::Prepared, amount);
            }
            "requested" => {
                let requested: Requested<'_> = read(event)?;
                let amount = requested.amount.amount;
                money = Some(requested.amount);
                expect(order.card, &|| "the provider is asked for what the balance pays".to_owned());
                expect(amount == order.billed, &|| {
                    format!("{amount} are asked for, and {} are to be paid", order.billed)
                });
                expect(matches!(order.pay, Pay::Prepared | Pay::Asked), &|| {
                    format!("the provider is asked for the money, and the payment is {:?}", order.pay)
                });
                expect(requested.attempt == u64::from(order.attempts) + 1, &|| {
                    format!("attempt {} follows attempt {}", requested.attempt, order.attempts)
                });
                order.attempts = order.attempts.saturating_add(1);
                order.requested_at.get_or_insert(event.recorded_at);
                order.pay = Pay::Asked;
            }
            "outcome_unknown" | "status_asked" | "not_charged" => {
                expect(order.requested_at.is_some(), &|| format!("{name} comes where nobody was asked"));
                order.doubtful |= name == "outcome_unknown";
            }
            "captured" => {
                let captured: OrderAmount<'_> = read(event)?;
                let amount = captured.amount.amount;
                money = Some(captured.amount);
                expect(order.captured == 0, &|| "an order is paid once".to_owned());
                expect(amount == order.total, &|| {
                    format!("what is captured is the total: {amount} are, and it is {}", order.total)
                });
                expect(!order.card || order.requested_at.is_some(), &|| {
                    "money is taken that nobody asked for".to_owned()
                });
                expect(order.card || !alone || order.debited == amount, &|| {
                    format!("{amount} are taken from the balance, which says {}", order.debited)
                });
                order.captured = order.captured.saturating_add(amount);
                order.pay = Pay::Captured;
            }
            "contradicted" => {
                let contradicted: Contradicted<'_> = read(event)?;
                money = Some(contradicted.found);
                // Asked again, the provider says the same again.
                expect(order.captured == 0 || order.captured == contradicted.found.amount, &|| {
                    "an order is paid once".to_owned()
                });
                order.captured = contradicted.found.amount;
                order.pay = Pay::Disputed;
            }
            "declined" => {
                expect(order.captured == order.reversed, &|| {
                    format!("it is declined, and {} are taken", order.captured)
                });
                order.pay = Pay::Declined;
            }
            "expired" | "cancelled" => {
                expect(order.captured == order.reversed, &|| {
                    format!("it is {name}, and {} are taken", order.captured)
                });
                order.pay = Pay::Over;
            }
            "reversal_requested" => {
                let requested: Requested<'_> = read(event)?;
                money = Some(requested.amount);
                expect(requested.amount.amount == order.captured && order.captured > 0, &|| {
                    format!("{} are asked back, and {} are taken", requested.amount.amount, order.captured)
                });
                order.pay = Pay::Reversing;
            }
            "reversal_unknown" => {}
            "reversed" => {
                let reversed: OrderAmount<'_> = read(event)?;
                let amount = reversed.amount.amount;
                money = Some(reversed.amount);
                expect(order.reversed == 0 && order.captured == amount, &|| {
                    format!(
                        "what was captured is given back once: {} are taken, {} given back, now {amount}",
                        order.captured, order.reversed
                    )
                });
                order.reversed = order.reversed.saturating_add(amount);
                order.pay = Pay::Reversed;
            }
            "reversal_refused" => order.pay = Pay::Disputed,
            "resolved" => {
                let resolved: Resolved<'_> = read(event)?;
                money = Some(resolved.amount);
                order.doubtful = true;
                if let Err(what) = order.resolve(resolved.outcome, resolved.amount.amount) {
                    expect(false, &|| what.clone());
                }
            }
            _ => {
                read::<Anything>(event)?;
                return Ok(false);
            }
        }
        expect(money.is_none_or(|money| money.amount >= 0), &|| "an amount is negative".to_owned());
        if alone && name == "requested" && !order.held(|known| known.state == Goods::Promised) {
            wrong.push((Invariant::Reservations, NOT_HELD.to_owned()));
        }
        if money.is_some_and(|money| !self.one_currency(money)) {
            wrong.push((Invariant::Money, "the amount is in another currency".to_owned()));
        }
        say(report, event, id, wrong);
        Ok(true)
    }

    pub(super) fn wallet(&mut self, event: &Event, name: &str, report: &mut Report) -> Result<bool, serde_json::Error> {
        let mut wrong = Vec::new();
        let balance = self.wallets.entry(event.stream.id).or_insert(0);
        let mut id = None;
        let alone = self.alone;
        let amount = match name {
            "opened" => {
                read::<Anything>(event)?;
                None
            }
            "deposited" => {
                let deposited: Amount<'_> = read(event)?;
                *balance += i128::from(deposited.amount.amount);
                Some(deposited.amount)
            }
            "debited" | "debit_refused" | "credited" => {
                let moved: OrderAmount<'_> = read(event)?;
                let amount = moved.amount.amount;
                let order = self.orders.entry(moved.order).or_default();
                order.happened(event, self.moment);
                order.of_balance = true;
                id = Some(moved.order);
                if alone && (order.card || order.status == Status::Unknown) {
                    wrong.push(NOT_OF_BALANCE.to_owned());
                }
                match name {
                    "debited" => {
                        if order.debited != 0 || alone && amount != order.total {
                            wrong.push(format!(
                                "an order is debited once, with its total of {}: it was with {}, now with {amount}",
                                order.total, order.debited
                            ));
                        }
                        order.debited = order.debited.saturating_add(amount);
                        *balance -= i128::from(amount);
                    }
                    "credited" => {
                        if order.credited != 0 || order.debited != amount {
                            wrong.push(format!(
                                "what was debited is credited once: {} were debited, {} credited, now {amount}",
                                order.debited, order.credited
                            ));
                        }
                        order.credited = order.credited.saturating_add(amount);
                        *balance += i128::from(amount);
                    }
                    _ if *balance >= i128::from(amount) => {
                        wrong.push(format!("{amount} are refused, and {balance} are there"));
                    }
                    _ => {}
                }
                Some(moved.amount)
            }
            _ => {
                read::<Anything>(event)?;
                return Ok(false);
            }
        };
        if *balance < 0 {
            wrong.push(format!("a wallet is never negative: it holds {balance}"));
        }
        if amount.is_some_and(|amount| amount.amount < 1) {
            wrong.push("an amount is at least 1".to_owned());
        }
        if amount.is_some_and(|amount| !self.one_currency(amount)) {
            wrong.push("the amount is in another currency".to_owned());
        }
        for what in wrong {
            let place = Place {
                order: id,
                ..Place::event(event)
            };
            report.add(Invariant::Money, place, what);
        }
        Ok(true)
    }
}

pub(super) const NOT_HELD: &str = "the provider is asked for the money, and not all goods are held";

pub(super) const NOT_OF_BALANCE: &str = "the order is not one that this balance pays";

impl Order {
    /// Whether every line is reserved like this, and none can expire.
    pub(super) fn held(&self, like: impl Fn(&Reservation) -> bool) -> bool {
        self.lines.iter().all(|line| {
            self.reservations
                .iter()
                .any(|known| known.product == line.product && like(known) && known.expires_at.is_none())
        })
    }

    /// A person saw at the provider what became of the money.
    fn resolve(&mut self, outcome: &str, amount: i64) -> Result<(), String> {
        let taken = if self.captured == 0 { amount } else { self.captured };
        match outcome {
            "CHARGED" => {
                self.captured = taken;
                self.pay = Pay::Captured;
            }
            "NOT_CHARGED" if self.captured == self.reversed => self.pay = Pay::Declined,
            "NOT_CHARGED" => return Err(format!("nothing was taken, a person says, and {} were captured", self.captured)),
            "REFUNDED" => {
                (self.captured, self.reversed) = (taken, taken);
                self.pay = Pay::Reversed;
            }
            _ => return Err(format!("{outcome:?} is no outcome")),
        }
        Ok(())
    }
}
