//! Goods and money, counted again: stocks, reservations, orders, payments, wallets, and what the provider says.

mod end;
mod goods;
mod money;

use event_store::{Event, Shards};
use rustc_hash::{FxHashMap, FxHashSet};
use uuid::Uuid;

use crate::{
    Invariant, Options, Place, Report,
    layout::{Log, Shard},
    origin::Origin,
    shapes::{Anything, Created, InTheWay, Money, Obstacle, OfOrder, OrderCancelled, Paying, Placed, Repriced, Until},
};

/// The whole shop, as far as it was read.
pub(crate) struct Shop {
    /// All is in one shard, and what follows from one input stands together: what comes first in the log happened first.
    alone: bool,
    count: Shards,
    moment: Moment,
    orders: FxHashMap<Uuid, Order>,
    products: FxHashMap<Uuid, u32>,
    stocks: Vec<Stock>,
    wallets: FxHashMap<Uuid, i128>,
    numbers: FxHashSet<u128>,
    /// Placed in the shard that is being read.
    placed: u64,
    currency: Option<[u8; 3]>,
    last_recorded_at: i64,
}

/// What the shard that is being read is compared with.
#[derive(Clone, Copy, Debug, Default)]
struct Moment {
    /// What happened after this may follow from what is not read.
    settled_at: u64,
    /// What happened after this is not compared with the provider's ledger.
    ledger_at: u64,
}

/// Where an order stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Status {
    /// Something names it, and it was not placed (yet).
    #[default]
    Unknown,
    Placed,
    AwaitingPayment,
    PaymentPending,
    Cancelling,
    Confirmed,
    Cancelled,
}

impl Status {
    fn ended(self) -> bool {
        matches!(self, Self::Confirmed | Self::Cancelled)
    }
}

/// Where its payment stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pay {
    #[default]
    None,
    Prepared,
    /// Asked for, and the last word is not known.
    Asked,
    /// Over with nothing taken; money may still turn up.
    Over,
    Declined,
    Captured,
    Reversing,
    Reversed,
    /// A person decides.
    Disputed,
}

/// An order, in few words. What it promises is forgotten when it has ended and was found right.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each says something else, and there are many orders")]
struct Order {
    status: Status,
    /// The provider is in the way.
    provider: bool,
    /// The steps that are set aside.
    set_aside: Vec<Uuid>,
    /// A step was set aside, and may have been done after all when the order had gone on without it.
    helped: bool,
    /// Goods were promised to it once more after it was found right at its end.
    reopened: bool,
    card: bool,
    pay: Pay,
    attempts: u32,
    /// The shard and the position of what was read of it last.
    last: (u16, u64),
    /// Something happened to it while this began, and in other shards more may have happened that is not read.
    moving: bool,
    /// Something happened to it after the provider's ledger was read.
    later: bool,
    /// A balance was asked to pay for it.
    of_balance: bool,
    placed_at: i64,
    until: i64,
    /// An answer about the money was missing, or a person answered instead of the provider.
    doubtful: bool,
    /// When the provider was first asked for the money.
    requested_at: Option<i64>,
    payment: Uuid,
    total: i64,
    billed: i64,
    captured: i64,
    reversed: i64,
    debited: i64,
    credited: i64,
    /// It was found right at its end, and its lines are forgotten.
    closed: bool,
    lines: Vec<Line>,
    reservations: Vec<Reservation>,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    product: u32,
    quantity: i64,
    price: i64,
}

#[derive(Clone, Copy, Debug)]
struct Reservation {
    product: u32,
    quantity: i64,
    price: i64,
    /// None when it is held.
    expires_at: Option<i64>,
    state: Goods,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goods {
    Promised,
    Sold,
    Free,
}

/// A product's stock.
#[derive(Debug, Default)]
struct Stock {
    id: Uuid,
    opened: bool,
    unlimited: bool,
    received: i128,
    sold: i128,
    written_off: i128,
    on_hand: i128,
    reserved: i128,
}

impl Shop {
    pub(crate) fn new(log: &Log, options: &Options) -> Self {
        Self {
            alone: log.shards.len() <= 1 && log.count == Shards::ONE && !options.interleaved,
            count: log.count,
            moment: Moment::default(),
            orders: FxHashMap::default(),
            products: FxHashMap::default(),
            stocks: Vec::new(),
            wallets: FxHashMap::default(),
            numbers: FxHashSet::default(),
            placed: 0,
            currency: None,
            last_recorded_at: 0,
        }
    }

    /// This shard's events come next.
    pub(crate) fn begin(&mut self, shard: &Shard, options: &Options) {
        let ledger_at = options.ledger_heads.iter().find(|(number, _)| *number == shard.head.shard);
        let never_compared = options.ledger_heads.is_empty();
        self.moment = Moment {
            settled_at: shard.settled_at,
            ledger_at: ledger_at.map_or(if never_compared { u64::MAX } else { 0 }, |(_, head)| *head),
        };
    }

    /// Whether this order was placed.
    pub(crate) fn knows(&self, order: Uuid) -> bool {
        self.orders.get(&order).is_some_and(|order| order.status != Status::Unknown)
    }

    /// Counts one event.
    pub(crate) fn event(&mut self, event: &Event, origin: Origin, report: &mut Report) {
        // What is due is done by an engine: while another program writes there is none.
        if origin == Origin::Engine {
            self.last_recorded_at = self.last_recorded_at.max(event.recorded_at);
        }
        let (kind, counted) = match event.event_type.split_once('.') {
            Some(("inventory", name)) => ("inventory", self.inventory(event, name, report)),
            Some(("order", name)) => ("order", self.order(event, name, report)),
            Some(("payment", name)) => ("payment", self.payment(event, name, report)),
            Some(("wallet", name)) => ("wallet", self.wallet(event, name, report)),
            Some(("product", name)) => ("product", self.product(event, name)),
            Some(("purchase", "advanced")) => ("purchase", Ok(true)),
            Some(("account", "opened")) => ("account", Ok(true)),
            Some(("email", "claimed")) => ("email", Ok(true)),
            Some(("session", "started" | "refreshed" | "revoked" | "ended")) => ("session", Ok(true)),
            _ => ("", Ok(false)),
        };
        match counted {
            Ok(true) if event.stream.kind == kind => {}
            Ok(true) => report.add(
                Invariant::Chain,
                Place::event(event),
                format!("{} is not what happens to a {}", event.event_type, event.stream.kind),
            ),
            // Another program's own: views and engine say whether they can do with it.
            Ok(false) if origin == Origin::Foreign => {}
            Ok(false) => report.add(
                Invariant::Chain,
                Place::event(event),
                format!("the event type {:?} is unknown", event.event_type),
            ),
            Err(error) => report.add(
                Invariant::Chain,
                Place::event(event),
                format!("the payload cannot be read: {error}"),
            ),
        }
    }

    fn product(&mut self, event: &Event, name: &str) -> Result<bool, serde_json::Error> {
        match name {
            "created" => {
                let created: Created<'_> = read(event)?;
                self.one_currency(created.price);
            }
            "changed" | "retired" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn order(&mut self, event: &Event, name: &str, report: &mut Report) -> Result<bool, serde_json::Error> {
        let id = event.stream.id;
        if name == "placed" {
            self.order_placed(event, &read(event)?, report);
            return Ok(true);
        }
        let mut wrong = Vec::new();
        let currency = self.currency;
        let products = &mut self.products;
        let stocks = &mut self.stocks;
        let order = self.orders.entry(id).or_default();
        order.happened(event, self.moment);
        if order.status == Status::Unknown {
            wrong.push((Invariant::Chain, format!("{name} happens to an order that was not placed")));
        }
        if order.status.ended()
            && !matches!(
                name,
                "attention_needed" | "attention_ended" | "resumed" | "compensation_requested" | "resolved"
            )
        {
            wrong.push((Invariant::Reservations, format!("an order ends once: {name} comes after its end")));
        }
        match name {
            "repriced" => {
                let repriced: Repriced<'_> = read(event)?;
                for (product, price) in &repriced.prices {
                    let index = index(products, stocks, *product);
                    match order.lines.iter_mut().find(|line| line.product == index) {
                        Some(line) => line.price = price.amount,
                        None => wrong.push((Invariant::Money, format!("{product} has a new price and is in no line"))),
                    }
                }
                order.total = repriced.total.amount;
                wrong.extend(order.sum(currency, repriced.total).map(|what| (Invariant::Money, what)));
            }
            "awaiting_payment" => {
                let until: Until = read(event)?;
                (order.status, order.until, order.payment) = (Status::AwaitingPayment, until.until, until.payment);
            }
            "payment_submitted" => {
                let until: Until = read(event)?;
                if order.status == Status::AwaitingPayment && event.recorded_at > order.until.saturating_add(SUBMITTED_LATE) {
                    wrong.push((
                        Invariant::Deadlines,
                        format!("it is paid at {}, and could be until {}", event.recorded_at, order.until),
                    ));
                }
                (order.status, order.until, order.payment) = (Status::PaymentPending, until.until, until.payment);
            }
            "payment_expired" => {
                read::<Anything>(event)?;
                if event.recorded_at < order.until {
                    wrong.push((
                        Invariant::Deadlines,
                        format!("its time to pay is over at {}, before {}", event.recorded_at, order.until),
                    ));
                }
                order.status = Status::Cancelling;
            }
            "cancellation_requested" => order.status = Status::Cancelling,
            "confirmed" => {
                let paying: Paying = read(event)?;
                if order.status == Status::Cancelling {
                    wrong.push((
                        Invariant::Reservations,
                        "it was being cancelled, and is sold all the same".to_owned(),
                    ));
                }
                (order.status, order.payment) = (Status::Confirmed, paying.payment);
            }
            "cancelled" => {
                order.status = Status::Cancelled;
                if let Err(error) = read::<OrderCancelled<'_>>(event) {
                    wrong.push((Invariant::Chain, format!("the payload cannot be read: {error}")));
                }
            }
            "attention_needed" => {
                let obstacle: InTheWay = read(event)?;
                match obstacle.cause {
                    Obstacle::Provider => order.provider = true,
                    Obstacle::SetAside(input) if order.set_aside.contains(&input) => {}
                    Obstacle::SetAside(input) => {
                        order.helped = true;
                        order.set_aside.push(input);
                    }
                }
            }
            "attention_ended" => {
                let obstacle: InTheWay = read(event)?;
                match obstacle.cause {
                    Obstacle::Provider => order.provider = false,
                    Obstacle::SetAside(input) => order.set_aside.retain(|known| *known != input),
                }
            }
            // A person acted: from here on it is a process like any other.
            "resumed" | "compensation_requested" | "resolved" => {
                read::<Anything>(event)?;
                (order.provider, order.set_aside) = (false, Vec::new());
            }
            _ => return Ok(false),
        }
        if self.alone && order.status.ended() {
            order.close(&self.stocks);
        }
        say(report, event, id, wrong);
        Ok(true)
    }

    fn order_placed(&mut self, event: &Event, placed: &Placed<'_>, report: &mut Report) {
        let id = event.stream.id;
        let mut wrong = Vec::new();
        if placed.number.len() < 16 || !placed.number.bytes().all(|byte| byte.is_ascii_digit()) {
            wrong.push((Invariant::Chain, format!("{:?} is no order number", placed.number)));
        }
        match placed.number.parse::<u128>() {
            Ok(number) if !self.numbers.insert(number) => {
                wrong.push((Invariant::Chain, format!("an order number is unique: {number} is another's too")));
            }
            _ => {}
        }
        // Numbers that the shards count by themselves never meet.
        let counted = placed.number.get(8..).and_then(|counted| counted.parse::<u128>().ok());
        let shards = u128::from(self.count.count());
        if shards > 1 && counted.is_some_and(|counted| counted % shards != u128::from(event.shard)) {
            let what = format!(
                "the order number {} is not one that shard {} of {shards} gives",
                placed.number, event.shard
            );
            wrong.push((Invariant::Chain, what));
        }
        self.placed += 1;
        if !placed.lines.is_sorted_by(|one, next| one.product < next.product) || placed.lines.is_empty() {
            wrong.push((
                Invariant::Stock,
                "an order has lines, each of another product, in the order of their products".to_owned(),
            ));
        }
        let lines: Vec<_> = placed
            .lines
            .iter()
            .map(|line| Line {
                product: index(&mut self.products, &mut self.stocks, line.product),
                quantity: line.quantity,
                price: line.unit_price.amount,
            })
            .collect();
        if lines.iter().any(|line| line.quantity < 1 || line.price < 0) {
            wrong.push((Invariant::Stock, "a line has at least one, and no negative price".to_owned()));
        }
        for line in &placed.lines {
            self.one_currency(line.unit_price);
        }
        let currency = self.currency;
        let order = self.orders.entry(id).or_default();
        if order.status != Status::Unknown {
            wrong.push((Invariant::Chain, "an order is placed once".to_owned()));
        }
        order.status = Status::Placed;
        order.happened(event, self.moment);
        order.placed_at = event.recorded_at;
        order.card = placed.method == "CARD";
        order.total = placed.total.amount;
        order.lines = lines;
        if !matches!(placed.method, "CARD" | "BALANCE") {
            wrong.push((Invariant::Chain, format!("{:?} is no way to pay", placed.method)));
        }
        wrong.extend(order.sum(currency, placed.total).map(|what| (Invariant::Money, what)));
        report.counts.orders += 1;
        say(report, event, id, wrong);
    }

    /// Whether this is the shop's one currency.
    fn one_currency(&mut self, money: Money<'_>) -> bool {
        is_currency(&mut self.currency, money)
    }

    /// The shard is read: whether its writer has numbered as many orders as there are.
    pub(crate) fn end_of_shard(&mut self, shard: &Shard, report: &mut Report) {
        let placed = std::mem::take(&mut self.placed);
        let numbered = shard.head.orders_numbered;
        if placed != numbered {
            report.add(
                Invariant::Chain,
                Place::shard(shard.head.shard),
                format!("the head has numbered {numbered} orders, and {placed} were placed"),
            );
        }
    }
}

/// What is recorded may be a little younger than the command that was judged.
const SUBMITTED_LATE: i64 = 60_000_000;

impl Order {
    /// Something happened that concerns it.
    fn happened(&mut self, event: &Event, moment: Moment) {
        self.last = (event.shard, event.position);
        self.moving |= event.position > moment.settled_at;
        self.later |= event.position > moment.ledger_at;
    }

    /// Whether a person has to look.
    fn attention(&self) -> bool {
        self.provider || !self.set_aside.is_empty()
    }

    /// What is wrong with this total.
    fn sum(&self, currency: Option<[u8; 3]>, total: Money<'_>) -> Option<String> {
        let sum = self
            .lines
            .iter()
            .map(|line| i128::from(line.quantity) * i128::from(line.price))
            .sum::<i128>();
        if sum != i128::from(total.amount) {
            return Some(format!("the total is {}, the sum of the lines {sum}", total.amount));
        }
        currency
            .is_some_and(|known| known != *total.currency.as_bytes())
            .then(|| format!("the total is in {}", total.currency))
    }
}

fn is_currency(known: &mut Option<[u8; 3]>, money: Money<'_>) -> bool {
    match money.currency.as_bytes().try_into() {
        Ok(currency) => *known.get_or_insert(currency) == currency,
        Err(_) => false,
    }
}

/// Products by number: an order remembers four bytes of each.
fn index(products: &mut FxHashMap<Uuid, u32>, stocks: &mut Vec<Stock>, product: Uuid) -> u32 {
    *products.entry(product).or_insert_with(|| {
        stocks.push(Stock {
            id: product,
            ..Stock::default()
        });
        u32::try_from(stocks.len() - 1).unwrap_or(u32::MAX)
    })
}

fn read<'a, T: serde::Deserialize<'a>>(event: &'a Event) -> Result<T, serde_json::Error> {
    serde_json::from_str(&event.payload)
}

/// The order that an event names.
fn order_of(event: &Event) -> Result<Uuid, serde_json::Error> {
    read::<OfOrder>(event).map(|of| of.order)
}

fn say(report: &mut Report, event: &Event, order: Uuid, wrong: Vec<(Invariant, String)>) {
    for (invariant, what) in wrong {
        report.add(invariant, Place::event(event).of_order(order), what);
    }
}
