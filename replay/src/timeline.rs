//! The story of one order: every event that is about it, in order, and what it waits for.
//!
//! Only what is the order's is read: its stream, its payment's and its purchase's, and of stock and balance the events that the purchase has
//! seen, by their positions.

use std::{
    collections::{BTreeMap, VecDeque},
    io::Write as _,
    ops::ControlFlow,
};

use aggregates::{
    CommerceEvent, FailureCode, InventoryEvent, Kind, Language, Line, Money, OrderEvent, OrderId, OrderStatus, PaymentEvent, PaymentId,
    PaymentMethod, ProductId, Quantity, Recorded, Resolution, Timestamp, WalletEvent,
};
use event_store::{Event, LogPosition};
use projections::{Audience, Explanation, OrderView, Orders, PaymentView, Payments, Projection, explain};
use rustc_hash::{FxHashMap, FxHashSet};
use sagas::{PurchaseEvent, Seen, Step};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    Done,
    arguments::{Format, Source, TimelineArgs},
    failure::{Failure, OK},
    fold::{self, Subject, gap},
    mask::Mask,
    output::{Cell, Column, Rows, count},
    progress::Progress,
    source::{Log, Wanted},
    state,
};

const COLUMNS: [Column; 11] = [
    Column::new("position", 14),
    Column::new("recorded_at", 32),
    Column::new("actor", 44),
    Column::new("event_type", 30),
    Column::new("summary", 110),
    Column::new("aggregate_type", 12),
    Column::new("aggregate_id", 36),
    Column::new("sequence", 12),
    Column::new("caused_by", 14),
    Column::new("correlation_id", 36),
    Column::new("event_id", 36),
];

/// What a table shows when nothing else is asked for.
const TABLE: [&str; 5] = ["position", "recorded_at", "actor", "event_type", "summary"];

/// Why an event was recorded.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Cause {
    correlation_id: Option<String>,
    causation_id: Option<Uuid>,
    actor: Option<String>,
}

pub(crate) fn run(source: &Source, arguments: &TimelineArgs, progress: &Progress) -> Done {
    let log = source.open()?;
    let mask = Mask::new(source)?;
    let order = fold::find_order(source, &log, &arguments.order, progress)?;
    let story = Story::read(&log, order, progress)?;
    let rows = state::on_a_screen(&arguments.rows, &TABLE);
    let table = rows.output == Some(Format::Table);
    let mut rows = Rows::new(&rows, &COLUMNS)?;
    let mut clock = source.clock();
    let places: FxHashMap<Uuid, LogPosition> = story.events.iter().map(|event| (event.event_id, place(event))).collect();
    let mut tale = Tale::default();
    for event in &story.events {
        let cause: Cause = serde_json::from_str(&event.metadata).unwrap_or_default();
        let summary = tale.tell(event, &mask)?;
        let cause_place = cause.causation_id.and_then(|id| places.get(&id));
        // An event's cause that is not about this order has no place in this story.
        let caused_by = cause_place.map_or_else(
            || cause.causation_id.map(|id| id.to_string()),
            |place| Some(place.text(log.shards())),
        );
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        rows.row(&[
            Cell::Text(&place(event).text(log.shards())),
            Cell::Text(clock.show(event.recorded_at)),
            optional(cause.actor.as_deref()),
            Cell::Text(&event.event_type),
            Cell::Text(&summary),
            Cell::Text(&event.stream.kind),
            Cell::Text(&event.stream.id.to_string()),
            Cell::Number(event.sequence),
            optional(caused_by.as_deref()),
            Cell::Text(&text(&cause.correlation_id)),
            Cell::Text(&event.event_id.to_string()),
        ])?;
    }
    rows.finish()?;
    let waits = tale.waits(arguments.stuck_after, source)?;
    if table {
        writeln!(std::io::stdout(), "\n{waits}")?;
    } else {
        progress.say(waits);
    }
    if let Some(remark) = mask.remark() {
        progress.say(remark);
    }
    Ok(OK)
}

fn optional(text: Option<&str>) -> Cell<'_> {
    text.map_or(Cell::None, Cell::Text)
}

fn place(event: &Event) -> LogPosition {
    LogPosition {
        shard: event.shard,
        position: event.position,
    }
}

/// All events of an order.
struct Story {
    events: Vec<Event>,
}

impl Story {
    fn read(log: &Log, order: Uuid, progress: &Progress) -> Result<Self, Failure> {
        let payment = PaymentId::for_order(OrderId::new(order)).uuid();
        let mut found: BTreeMap<(i64, u16, u64), Event> = BTreeMap::new();
        let mut seen: Vec<LogPosition> = Vec::new();
        for (subject, id) in [
            (Subject::Aggregate(Kind::Order), order),
            (Subject::Aggregate(Kind::Payment), payment),
            (Subject::Purchase, order),
        ] {
            let mut whole = BTreeMap::new();
            collect(log, &subject.events(log, id), progress, &mut whole)?;
            let mut before = 0;
            for version in whole.values().map(|event| event.sequence) {
                if version != before + 1 {
                    return Err(gap(subject.name(), id, before, version));
                }
                before = version;
            }
            found.append(&mut whole);
        }
        for event in found.values().filter(|event| event.stream.kind == Subject::Purchase.name()) {
            seen.extend(seen_by(event)?);
        }
        let known: Vec<_> = found.values().map(place).collect();
        seen.retain(|place| !known.contains(place));
        for (shard, after, to) in runs(seen) {
            let mut wanted = Wanted {
                shard: Some(shard),
                ..log.everything()
            };
            wanted.after.set(shard, after);
            // The purchase may be ahead of where another shard was when the log was opened.
            let to = to.min(wanted.to.of(shard));
            wanted.to.set(shard, to);
            if after < to {
                collect(log, &wanted, progress, &mut found)?;
            }
        }
        Ok(Self {
            events: causes_first(found.into_values().collect()),
        })
    }
}

/// Events of one time in several shards: those of one shard in their order, and none before its cause.
fn causes_first(events: Vec<Event>) -> Vec<Event> {
    let mut left: FxHashSet<Uuid> = events.iter().map(|event| event.event_id).collect();
    let mut waiting: VecDeque<(Option<Uuid>, Event)> = events
        .into_iter()
        .map(|event| {
            let cause: Cause = serde_json::from_str(&event.metadata).unwrap_or_default();
            (cause.causation_id, event)
        })
        .collect();
    let mut sorted = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let mut held: FxHashSet<u16> = FxHashSet::default();
        let ready = waiting.iter().position(|(cause, event)| {
            let waits = cause.is_some_and(|cause| left.contains(&cause)) || held.contains(&event.shard);
            if waits {
                held.insert(event.shard);
            }
            !waits
        });
        // A circle is nothing that a shop records; its events come as they stand.
        if let Some((_, event)) = waiting.remove(ready.unwrap_or_default()) {
            left.remove(&event.event_id);
            sorted.push(event);
        }
    }
    sorted
}

fn collect(log: &Log, wanted: &Wanted, progress: &Progress, found: &mut BTreeMap<(i64, u16, u64), Event>) -> Result<(), Failure> {
    log.each(wanted, "timeline", progress, &mut |event| {
        found.insert((event.recorded_at, event.shard, event.position), event.to_event()?);
        Ok(ControlFlow::Continue(()))
    })
}

/// Which events a purchase says that it has seen.
fn seen_by(event: &Event) -> Result<Vec<LogPosition>, Failure> {
    let PurchaseEvent::Advanced { seen, .. } = advanced(event)?;
    let place = |seen: Seen| match seen {
        Seen::Here(position) => LogPosition {
            shard: event.shard,
            position,
        },
        Seen::There { shard, position } => LogPosition { shard, position },
    };
    Ok(seen.into_iter().map(place).collect())
}

fn advanced(event: &Event) -> Result<PurchaseEvent, Failure> {
    serde_json::from_str(&event.payload)
        .map_err(|error| Failure::input(format_args!("what stands at {} is not a purchase's event: {error}", place(event))))
}

/// Positions that follow one another are read together: shard, the position before the first, and the last.
fn runs(mut places: Vec<LogPosition>) -> Vec<(u16, u64, u64)> {
    places.sort_unstable();
    places.dedup();
    let mut runs: Vec<(u16, u64, u64)> = Vec::new();
    for LogPosition { shard, position } in places {
        match runs.last_mut() {
            Some((of, _, last)) if *of == shard && *last + 1 == position => *last = position,
            _ if position > 0 => runs.push((shard, position - 1, position)),
            _ => {}
        }
    }
    runs
}

/// What is known of the order so far, while its events are told.
#[derive(Default)]
struct Tale {
    names: FxHashMap<ProductId, String>,
    order: Option<OrderView>,
    payment: Option<PaymentView>,
}

impl Tale {
    /// One event in a few words, which the next ones may build on.
    fn tell(&mut self, event: &Event, mask: &Mask) -> Result<String, Failure> {
        if event.stream.kind == Subject::Purchase.name() {
            let PurchaseEvent::Advanced { steps, .. } = advanced(event)?;
            return Ok(format!(
                "the purchase remembers: {}",
                steps.iter().map(name_of).collect::<Vec<_>>().join(", ")
            ));
        }
        let decoded = CommerceEvent::decode(&event.stream.kind, event.stream.id, &event.payload).map_err(Failure::input)?;
        let recorded = Recorded {
            shard: event.shard,
            position: event.position,
            sequence: event.sequence,
            at: Timestamp::from_micros(event.recorded_at),
            event: decoded,
        };
        self.order = Orders::apply(self.order.take(), &recorded);
        self.payment = Payments::apply(self.payment.take(), &recorded);
        Ok(match &recorded.event {
            Some(CommerceEvent::Order(_, event)) => self.order(event, mask),
            Some(CommerceEvent::Payment(_, event)) => payment(event, mask),
            Some(CommerceEvent::Inventory(product, event)) => self.inventory(*product, event),
            Some(CommerceEvent::Wallet(_, event)) => wallet(event),
            _ => event.event_type.to_string(),
        })
    }

    fn order(&mut self, event: &OrderEvent, mask: &Mask) -> String {
        match event {
            OrderEvent::Placed {
                number,
                lines,
                total,
                method,
                ..
            } => {
                self.names.extend(lines.iter().map(|line| (line.product, line.name.to_string())));
                let how = match method {
                    PaymentMethod::Card => "by card",
                    PaymentMethod::Balance => "from the balance",
                };
                format!("order {number} placed: {}; {} to be paid {how}", Self::bought(lines), money(*total))
            }
            OrderEvent::Repriced { total, .. } => format!("prices have changed since the page was shown: {} in all", money(*total)),
            OrderEvent::AwaitingPayment { until, .. } => format!("all is reserved; to be paid until {until}"),
            OrderEvent::PaymentSubmitted { payment_key, .. } => {
                format!("the buyer pays with payment key {}", mask.key(payment_key.as_str()))
            }
            OrderEvent::PaymentExpired {} => "not paid in time".to_owned(),
            OrderEvent::Confirmed { .. } => "paid and sold: the order is confirmed".to_owned(),
            OrderEvent::CancellationRequested { by, .. } => {
                let buyer = self.order.as_ref().is_some_and(|order| order.buyer == *by);
                format!("{} wants it cancelled", if buyer { "the buyer" } else { "the shop" })
            }
            OrderEvent::Cancelled { failure, product } => {
                let blame = product
                    .map(|product| format!(", because of {}", self.name(product)))
                    .unwrap_or_default();
                format!("the order is cancelled: {}{blame}", reason(*failure))
            }
            OrderEvent::AttentionNeeded { reason, .. } => format!("a person has to look: {reason}"),
            OrderEvent::AttentionEnded { .. } => "nobody has to look any more".to_owned(),
            OrderEvent::Resumed { .. } => "an operator has it try again".to_owned(),
            OrderEvent::CompensationRequested { .. } => "an operator has it undone".to_owned(),
            OrderEvent::Resolved { outcome, .. } => format!("an operator says that {}", found(*outcome)),
        }
    }

    fn inventory(&self, product: ProductId, event: &InventoryEvent) -> String {
        let name = self.name(product);
        let pieces = |quantity: &Quantity| count(quantity.get());
        match event {
            InventoryEvent::Reserved { quantity, price, .. } => format!("reserved {} of {name} at {}", pieces(quantity), money(*price)),
            InventoryEvent::OutOfStock { quantity, available, .. } => {
                format!("{} of {name} are wanted, and {} are free", pieces(quantity), count(*available))
            }
            InventoryEvent::PriceChanged { expected, price, .. } => {
                format!("{name} costs {}, and not {} as the order says", money(*price), money(*expected))
            }
            InventoryEvent::NotOffered { .. } => format!("{name} is not offered any more"),
            InventoryEvent::Held { .. } => format!("{name} is held until the payment has ended"),
            InventoryEvent::NotHeld { .. } => format!("nothing of {name} is reserved that could be held"),
            InventoryEvent::NotCommitted { .. } => format!("nothing of {name} is reserved that could be sold"),
            InventoryEvent::Committed { quantity, .. } => format!("sold {} of {name}", pieces(quantity)),
            InventoryEvent::Released { quantity, .. } => format!("{} of {name} are free again", pieces(quantity)),
            InventoryEvent::Expired { quantity, .. } => {
                format!("the time of the reservation is over: {} of {name} are free again", pieces(quantity))
            }
            InventoryEvent::ReleaseNoted { .. } => format!("nothing of {name} is reserved yet, and nothing is going to be"),
            InventoryEvent::ReservationRefused { .. } => format!("{name} is not reserved: the order was undone before"),
            InventoryEvent::Opened { .. } => format!("stock of {name} is kept from now on"),
            InventoryEvent::Received { quantity, .. } => format!("{} of {name} came in", count(*quantity)),
            InventoryEvent::Adjusted { delta, .. } => format!("the shelf of {name} was counted: {delta:+}"),
        }
    }

    fn name(&self, product: ProductId) -> String {
        self.names.get(&product).cloned().unwrap_or_else(|| format!("product {product}"))
    }

    fn bought(lines: &[Line]) -> String {
        let line = |line: &Line| format!("{} of {} at {}", count(line.quantity.get()), line.name, money(line.unit_price));
        lines.iter().map(line).collect::<Vec<_>>().join(", ")
    }

    /// What the order waits for now.
    fn waits(&self, stuck_after: std::time::Duration, source: &Source) -> Result<String, Failure> {
        let order = self.order.as_ref().ok_or_else(|| Failure::input("the order was not placed"))?;
        let status = order.status.name();
        let explained = explain(order, self.payment.as_ref(), stuck_after, Audience::Operator, Language::English);
        Ok(match explained {
            // It is sold; what the seller does next is not part of the purchase.
            Some(Explanation { waiting_for, next, .. }) if order.status == OrderStatus::Confirmed => {
                format!("{status}: the purchase has ended; it waits for {waiting_for}, {next}")
            }
            Some(Explanation { waiting_for, until, next }) => {
                let until = until
                    .map(|until| format!(" until {}", source.clock().show(until.micros())))
                    .unwrap_or_default();
                format!("{status}: it waits for {waiting_for}{until}; {next}")
            }
            None => format!("{status}: it has ended"),
        })
    }
}

fn payment(event: &PaymentEvent, mask: &Mask) -> String {
    match event {
        PaymentEvent::Prepared { amount, .. } => format!("{} are to be paid", money(*amount)),
        PaymentEvent::Requested {
            payment_key,
            amount,
            attempt,
            ..
        } => format!(
            "asked the provider for {} with payment key {}, attempt {attempt}",
            money(*amount),
            mask.key(payment_key.as_str())
        ),
        PaymentEvent::OutcomeUnknown { reason, .. } => format!("nobody knows whether the money was taken: {reason}"),
        PaymentEvent::StatusAsked { question, .. } => format!("asked the provider what became of the payment, question {question}"),
        PaymentEvent::NotCharged { status, .. } => format!("the provider has taken nothing so far ({status})"),
        PaymentEvent::Captured { amount, .. } => format!("{} are taken", money(*amount)),
        PaymentEvent::Declined { code, message, .. } => format!("the payment is declined: {code} {message}"),
        PaymentEvent::Expired { .. } => "the time to pay is over, and nothing was taken".to_owned(),
        PaymentEvent::Cancelled { .. } => "nobody wants to pay any more, and nothing was taken".to_owned(),
        PaymentEvent::ReversalRequested {
            amount,
            attempt,
            payment_key,
            ..
        } => {
            let who = if payment_key.is_some() { "the provider" } else { "the balance" };
            format!("asked {who} to take back {}, attempt {attempt}", money(*amount))
        }
        PaymentEvent::ReversalUnknown { reason, .. } => format!("nobody knows whether the money was given back: {reason}"),
        PaymentEvent::Reversed { amount, .. } => format!("{} are given back", money(*amount)),
        PaymentEvent::ReversalRefused { code, message, .. } => format!("the provider will not give it back: {code} {message}"),
        PaymentEvent::Contradicted { expected, found, .. } => {
            format!("the provider speaks of {}, and was asked for {}", money(*found), money(*expected))
        }
        PaymentEvent::Resolved { outcome, amount, .. } => format!("as an operator found, {} ({})", found(*outcome), money(*amount)),
    }
}

fn wallet(event: &WalletEvent) -> String {
    match event {
        WalletEvent::Opened { .. } => "the balance begins".to_owned(),
        WalletEvent::Deposited { amount } => format!("{} came into the balance", money(*amount)),
        WalletEvent::Debited { amount, .. } => format!("{} are taken from the balance", money(*amount)),
        WalletEvent::DebitRefused { amount, .. } => format!("the balance is too small for {}", money(*amount)),
        WalletEvent::Credited { amount, .. } => format!("{} are back in the balance", money(*amount)),
    }
}

const fn found(outcome: Resolution) -> &'static str {
    match outcome {
        Resolution::Charged => "the money was taken",
        Resolution::NotCharged => "no money was taken",
        Resolution::Refunded => "the money was taken and given back",
    }
}

const fn reason(failure: FailureCode) -> &'static str {
    match failure {
        FailureCode::OutOfStock => "there is not enough in stock",
        FailureCode::PriceMismatch => "the price is not the one that the buyer named",
        FailureCode::ProductRetired => "a product is not offered any more",
        FailureCode::PaymentDeclined => "the payment was declined",
        FailureCode::InsufficientBalance => "the balance is too small",
        FailureCode::PaymentExpired => "it was not paid in time",
        FailureCode::ReservationExpired => "its goods were not kept any longer",
        FailureCode::CancelledByBuyer => "the buyer did not want it any more",
        FailureCode::CancelledByShop => "the shop took it back",
    }
}

/// With its thousands set apart: `15,000 KRW`.
fn money(amount: Money) -> String {
    let text = amount.to_string();
    let (number, currency) = text.split_once(' ').unwrap_or((&text, ""));
    let (whole, fraction) = number
        .split_once('.')
        .map_or((number, None), |(whole, fraction)| (whole, Some(fraction)));
    let point = fraction.map(|fraction| format!(".{fraction}")).unwrap_or_default();
    format!("{}{point} {currency}", count(whole))
}

/// A step's name, as it is recorded, in words: `NotCharged` is `not charged`.
fn name_of(step: &Step) -> String {
    let value = serde_json::to_value(step).unwrap_or_default();
    let name = match &value {
        Value::String(name) => name.as_str(),
        Value::Object(members) => members.keys().next().map_or("", String::as_str),
        _ => "",
    };
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use aggregates::Currency;

    use super::*;

    #[test]
    fn amounts_are_read_at_a_glance() {
        assert_eq!(money(Money::new(15_000, Currency::KRW)), "15,000 KRW");
        assert_eq!(money(Money::new(-1_234_567, Currency::KRW)), "-1,234,567 KRW");
        let dollar = "USD".parse().expect("a currency");
        assert_eq!(money(Money::new(123_456, dollar)), "1,234.56 USD");
    }

    #[test]
    fn steps_are_named_in_words() {
        let step = Step::NotCharged {
            questions: 1,
            at: Timestamp::from_micros(0),
        };
        assert_eq!(name_of(&step), "not charged");
        assert_eq!(name_of(&Step::Debited), "debited");
    }

    #[test]
    fn positions_that_follow_one_another_are_read_together() {
        let at = |shard, position| LogPosition { shard, position };
        let places = vec![at(0, 7), at(1, 3), at(0, 5), at(0, 6), at(0, 9), at(0, 6)];
        assert_eq!(runs(places), [(0, 4, 7), (0, 8, 9), (1, 2, 3)]);
    }
}
