//! Stocks, and what is promised to orders.

use event_store::Event;
use uuid::Uuid;

use super::{Goods, Order, Reservation, Shop, Status, Stock, index, order_of, read, say};
use crate::{
    Invariant, Place, Report,
    shapes::{Anything, Ended, OutOfStock, Reserved, Stock as Kept, StockAdjusted, StockOpened, StockReceived},
};

impl Shop {
    pub(super) fn inventory(&mut self, event: &Event, name: &str, report: &mut Report) -> Result<bool, serde_json::Error> {
        let number = index(&mut self.products, &mut self.stocks, event.stream.id);
        let Some(stock) = self.stocks.get_mut(number as usize) else {
            return Ok(true);
        };
        let mut wrong = Vec::new();
        match name {
            "opened" => {
                let opened: StockOpened = read(event)?;
                if stock.opened {
                    wrong.push((Invariant::Stock, "a stock is opened once".to_owned()));
                }
                stock.opened = true;
                match opened.stock {
                    Kept::OnHand(units) => (stock.received, stock.on_hand) = (units.into(), units.into()),
                    Kept::Unlimited => stock.unlimited = true,
                }
            }
            "received" => {
                let received: StockReceived = read(event)?;
                stock.received += i128::from(received.quantity);
                stock.on_hand += i128::from(received.quantity);
            }
            "adjusted" => {
                let delta = i128::from(read::<StockAdjusted>(event)?.delta);
                stock.received += delta.max(0);
                stock.written_off += (-delta).max(0);
                stock.on_hand += delta;
            }
            "reserved" => {
                let reserved: Reserved<'_> = read(event)?;
                return Ok(self.reserved(event, number, &reserved, report));
            }
            "committed" | "released" | "expired" => {
                let ended: Ended = read(event)?;
                return Ok(self.ended(event, number, name, &ended, report));
            }
            "held" => {
                let id = order_of(event)?;
                let order = self.orders.entry(id).or_default();
                order.happened(event, self.moment);
                match order.promised(number) {
                    Some(reservation) => reservation.expires_at = None,
                    None => wrong.push((Invariant::Reservations, "what is held is not reserved".to_owned())),
                }
                say(report, event, id, wrong);
                return Ok(true);
            }
            "out_of_stock" => {
                let out: OutOfStock = read(event)?;
                let available = stock.on_hand - stock.reserved;
                if stock.unlimited || i128::from(out.available) != available || i128::from(out.quantity) <= available {
                    wrong.push((
                        Invariant::Stock,
                        format!("{} are refused for {} being free: {available} are", out.quantity, out.available),
                    ));
                }
                self.touch(out.order, event);
                say(report, event, out.order, wrong);
                return Ok(true);
            }
            "price_changed" | "not_offered" | "not_held" | "not_committed" | "release_noted" | "reservation_refused" => {
                let order = order_of(event)?;
                self.touch(order, event);
            }
            _ => {
                read::<Anything>(event)?;
                return Ok(false);
            }
        }
        let what = self.stocks.get(number as usize).and_then(Stock::wrong);
        wrong.extend(what.map(|what| (Invariant::Stock, what)));
        for (invariant, what) in wrong {
            report.add(invariant, Place::event(event), what);
        }
        Ok(true)
    }

    fn touch(&mut self, order: Uuid, event: &Event) {
        self.orders.entry(order).or_default().happened(event, self.moment);
    }

    fn reserved(&mut self, event: &Event, product: u32, reserved: &Reserved<'_>, report: &mut Report) -> bool {
        let mut wrong = Vec::new();
        let order = self.orders.entry(reserved.order).or_default();
        order.happened(event, self.moment);
        // Where not all is in one order, that a step was set aside may be read later than what it did when it was retried.
        let helped = order.helped || !self.alone;
        let again = |known: &Reservation| known.product == product && (known.state == Goods::Promised || !helped);
        if order.reservations.iter().any(again) {
            wrong.push((Invariant::Reservations, RESERVED_TWICE.to_owned()));
        }
        if order.closed && helped {
            (order.closed, order.reopened) = (false, true);
        }
        if self.alone {
            if order.status == Status::Unknown {
                wrong.push((
                    Invariant::Reservations,
                    "goods are promised to an order that was not placed".to_owned(),
                ));
            } else if order.status.ended() && !order.helped {
                wrong.push((Invariant::Reservations, "goods are promised to an order that has ended".to_owned()));
            } else if !order.reopened && !order.orders(product, reserved.quantity) {
                wrong.push((Invariant::Reservations, not_ordered(reserved.quantity)));
            }
        }
        if reserved.quantity < 1 {
            wrong.push((Invariant::Stock, format!("{} cannot be promised", reserved.quantity)));
        }
        order.reservations.push(Reservation {
            product,
            quantity: reserved.quantity,
            price: reserved.price.amount,
            expires_at: reserved.expires_at,
            state: Goods::Promised,
        });
        if let Some(stock) = self.stocks.get_mut(product as usize) {
            stock.reserved += i128::from(reserved.quantity);
            wrong.extend(stock.wrong().map(|what| (Invariant::Stock, what)));
        }
        if !self.one_currency(reserved.price) {
            wrong.push((Invariant::Money, format!("the price is in {}", reserved.price.currency)));
        }
        say(report, event, reserved.order, wrong);
        true
    }

    fn ended(&mut self, event: &Event, product: u32, name: &str, ended: &Ended, report: &mut Report) -> bool {
        let mut wrong = Vec::new();
        let order = self.orders.entry(ended.order).or_default();
        order.happened(event, self.moment);
        match order.promised(product) {
            None => wrong.push((
                Invariant::Reservations,
                format!("a reservation ends once: {name} comes where nothing is promised (any more)"),
            )),
            Some(reservation) => {
                if reservation.quantity != ended.quantity {
                    wrong.push((
                        Invariant::Reservations,
                        format!(
                            "a reservation ends once and whole: {} of {} end",
                            ended.quantity, reservation.quantity
                        ),
                    ));
                }
                if name == "expired" && reservation.expires_at.is_none_or(|due| event.recorded_at < due) {
                    wrong.push((
                        Invariant::Reservations,
                        match reservation.expires_at {
                            None => "a reservation that is held expires".to_owned(),
                            Some(due) => format!("a reservation expires at {}, before {due}", event.recorded_at),
                        },
                    ));
                }
                reservation.state = if name == "committed" { Goods::Sold } else { Goods::Free };
            }
        }
        if let Some(stock) = self.stocks.get_mut(product as usize) {
            stock.reserved -= i128::from(ended.quantity);
            if name == "committed" {
                stock.sold += i128::from(ended.quantity);
                stock.on_hand -= i128::from(ended.quantity);
            }
            wrong.extend(stock.wrong().map(|what| (Invariant::Stock, what)));
        }
        say(report, event, ended.order, wrong);
        true
    }
}

impl Stock {
    /// What does not add up.
    fn wrong(&self) -> Option<String> {
        let Self {
            received,
            sold,
            written_off,
            on_hand,
            reserved,
            ..
        } = self;
        if !self.opened {
            Some("this stock was never opened".to_owned())
        } else if self.unlimited {
            (*reserved < 0).then(|| format!("{reserved} are reserved"))
        } else if *reserved < 0 || reserved > on_hand {
            Some(format!("no oversell: {on_hand} on hand, {reserved} reserved"))
        } else if *received != on_hand + sold + written_off {
            Some(format!(
                "{received} received, {on_hand} on hand, {sold} sold, {written_off} written off"
            ))
        } else {
            None
        }
    }
}

/// A second promise is possible only by a step that was set aside and retried after its order had gone on without it.
pub(super) const RESERVED_TWICE: &str = "an order reserves a product once";

/// What is wrong with a promise of so many.
pub(super) fn not_ordered(quantity: i64) -> String {
    format!("{quantity} are promised, which is not what the order says")
}

impl Order {
    /// Whether one of its lines is so many of this product.
    pub(super) fn orders(&self, product: u32, quantity: i64) -> bool {
        self.lines.iter().any(|line| line.product == product && line.quantity == quantity)
    }

    /// What is promised of a product now.
    fn promised(&mut self, product: u32) -> Option<&mut Reservation> {
        self.reservations
            .iter_mut()
            .find(|known| known.product == product && known.state == Goods::Promised)
    }

    fn sold(&self, product: u32) -> impl Iterator<Item = &Reservation> {
        let sold = move |known: &&Reservation| known.product == product && known.state == Goods::Sold;
        self.reservations.iter().filter(sold)
    }

    /// It has ended: when what it was promised has ended too, as its end says, nothing of that needs to be remembered. When not, a step
    /// may be put off or set aside, and the end of the log tells.
    pub(super) fn close(&mut self, stocks: &[Stock]) {
        let mut wrong = Vec::new();
        self.goods_at_the_end(stocks, &mut wrong);
        if wrong.is_empty() {
            self.closed = true;
            self.lines = Vec::new();
            self.reservations = Vec::new();
        }
    }

    /// What is wrong with the goods of an order that has ended.
    pub(super) fn goods_at_the_end(&self, stocks: &[Stock], wrong: &mut Vec<(Invariant, String)>) {
        let name = |product: u32| stocks.get(product as usize).map_or(Uuid::nil(), |stock| stock.id);
        for reservation in &self.reservations {
            let product = name(reservation.product);
            match (self.status, reservation.state) {
                // What was sold at the end is not remembered any more.
                (Status::Confirmed, Goods::Sold) if self.reopened || self.sold(reservation.product).count() > 1 => wrong.push((
                    Invariant::Reservations,
                    format!("the order is confirmed, and {product} is sold to it more than once"),
                )),
                (Status::Confirmed, Goods::Sold) | (Status::Cancelled, Goods::Free) => {}
                // Promised a second time, by a step that was retried too late.
                (Status::Confirmed, Goods::Free) if self.reopened || self.sold(reservation.product).next().is_some() => {}
                (Status::Confirmed, _) => wrong.push((
                    Invariant::Reservations,
                    format!("the order is confirmed, and its {} of {product} are not sold", reservation.quantity),
                )),
                (Status::Cancelled, Goods::Sold) => wrong.push((
                    Invariant::Reservations,
                    format!("the order is cancelled, and its {} of {product} are sold", reservation.quantity),
                )),
                _ => wrong.push((
                    Invariant::Reservations,
                    format!(
                        "what was promised is free again: the order has ended, and {} of {product} are not",
                        reservation.quantity
                    ),
                )),
            }
        }
        if self.status == Status::Confirmed {
            for line in &self.lines {
                let sold = self.sold(line.product).next();
                let known = sold.or_else(|| self.reservations.iter().find(|known| known.product == line.product));
                if known.is_none_or(|sold| (sold.quantity, sold.price) != (line.quantity, line.price)) {
                    wrong.push((
                        Invariant::Reservations,
                        format!(
                            "the order is confirmed, and {} of {} at {} were not reserved",
                            line.quantity,
                            name(line.product),
                            line.price
                        ),
                    ));
                }
            }
        }
    }
}
