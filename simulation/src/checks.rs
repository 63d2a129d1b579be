//! What must hold when nothing is left to do.

use std::time::Duration;

use aggregates::{
    CommerceEvent, Decide, InventoryEvent, Kind, Order, OrderEvent, OrderId, OrderStatus, Payment, PaymentEvent, PaymentId, PaymentStatus,
    ProductId, Recorded, State,
};
use event_store::{LogReader, MemoryStore};
use rustc_hash::{FxHashMap, FxHashSet};
use uuid::Uuid;
use verify::{Finding, Invariant, Options, verify_log};

use crate::{clients, script::What, views::decode, world::World};

/// Checks everything, and counts how the orders ended.
pub(crate) fn check(world: &mut World) {
    let log = world.disk.durable().clone();
    let mut events = Vec::new();
    for shard in world.shards.all() {
        let result = log.events(shard, 0, usize::MAX).map_err(|error| error.to_string());
        match result.and_then(|events| decode(&events)) {
            Ok(of_shard) => events.extend(of_shard),
            Err(what) => return world.fail("every event can be read", what),
        }
    }
    world.figures.events = events.len() as u64;
    let states = fold(&events);
    settled(world, &log, &states);
    if !world.cuts_cascades() {
        attempt(world, "the provider has the first word", |_| {
            the_provider_has_the_first_word(&events)
        });
        attempt(world, "no attempt after the time to pay", |_| nobody_pays_too_late(&events));
    }
    attempt(world, "as many are sold as there are", |world| sold_out(world, &states));
    attempt(world, "what was acknowledged is in the log", |world| {
        world.outside.compare(world.disk.durable())
    });
    attempt(world, "the views equal the fold of the log", |world| world.views.compare(&events));
    attempt(world, "the views show the aggregates", |world| world.views.agree(&states));
    attempt(world, "each line is sold once, or not at all", |_| {
        sold_once(&promised(&events), &states)
    });
    attempt(world, "the invariants hold", |world| verified(world, &log));
    if world.failure.is_some() {
        return;
    }
    let heads = |world: &World| world.shards.all().map(|shard| log.head(shard).ok().flatten()).collect::<Vec<_>>();
    let before = heads(world);
    world.repeat_everything();
    if heads(world) != before {
        world.fail("a repeat changes nothing", "the log has grown");
    }
}

fn attempt(world: &mut World, check: &'static str, run: impl FnOnce(&mut World) -> Result<(), String>) {
    if let Err(what) = run(world) {
        world.fail(check, what);
    }
}

fn fold(events: &[Recorded]) -> FxHashMap<(Kind, Uuid), State> {
    let mut states = FxHashMap::default();
    for event in events.iter().filter_map(|recorded| recorded.event.as_ref()) {
        let (kind, id) = event.source();
        states.entry((kind, id)).or_insert_with(|| kind.initial()).evolve(event);
    }
    states
}

/// No order is cancelled while nobody knows whether its money was taken, or before it is back.
fn the_provider_has_the_first_word(events: &[Recorded]) -> Result<(), String> {
    let mut payments: FxHashMap<Uuid, Payment> = FxHashMap::default();
    // A person may say that the money is there while the order is being undone: then it goes back after the end.
    let mut resolved = FxHashSet::default();
    for recorded in events {
        match &recorded.event {
            Some(CommerceEvent::Payment(id, event)) => payments.entry(id.uuid()).or_default().evolve(event),
            Some(CommerceEvent::Order(order, OrderEvent::Resolved { .. })) => drop(resolved.insert(*order)),
            Some(CommerceEvent::Order(order, OrderEvent::Cancelled { .. })) if !resolved.contains(order) => {
                let payment = payments.get(&PaymentId::for_order(*order).uuid());
                let status = payment.map_or(PaymentStatus::Prepared, Payment::status);
                if matches!(
                    status,
                    PaymentStatus::Pending | PaymentStatus::Unknown | PaymentStatus::Captured | PaymentStatus::Reversing
                ) {
                    let position = recorded.position;
                    return Err(format!(
                        "position {position}: order {order} is cancelled, and its payment is {}",
                        status.name()
                    ));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// No attempt is repeated when the time to pay is over.
fn nobody_pays_too_late(events: &[Recorded]) -> Result<(), String> {
    let mut until = FxHashMap::default();
    // An attempt that was put off until too late is none: the provider is asked what became of the payment instead.
    let mut too_late = FxHashMap::default();
    for recorded in events {
        match &recorded.event {
            Some(CommerceEvent::Order(order, OrderEvent::PaymentSubmitted { until: last, .. })) => {
                until.insert(*order, *last);
            }
            Some(CommerceEvent::Payment(_, PaymentEvent::Requested { order, attempt, .. }))
                if *attempt > 1 && until.get(order).is_some_and(|until| recorded.at >= *until) =>
            {
                too_late.insert(*order, (recorded.position, *attempt));
            }
            Some(CommerceEvent::Payment(_, PaymentEvent::StatusAsked { order, .. })) => {
                too_late.remove(order);
            }
            Some(CommerceEvent::Payment(_, PaymentEvent::Captured { order, .. } | PaymentEvent::Declined { order, .. })) => {
                if let Some((position, attempt)) = too_late.get(order) {
                    return Err(format!("position {position}: attempt {attempt} for order {order}"));
                }
            }
            _ => {}
        }
    }
    match too_late.into_iter().next() {
        Some((order, (position, attempt))) => Err(format!("position {position}: attempt {attempt} for order {order}")),
        None => Ok(()),
    }
}

/// Nobody waits, nothing is owed, and every order has come to its end, with or without a person's help.
fn settled(world: &mut World, log: &MemoryStore, states: &FxHashMap<(Kind, Uuid), State>) {
    for ((_, id), state) in states {
        match state {
            State::Order(order) => {
                let end = end_of(order);
                *world.figures.orders.entry(end.to_owned()).or_default() += 1;
                if !ended(order) {
                    world.fail("every order comes to its end", format!("order {id} is {}", order.status().name()));
                }
            }
            State::Inventory(stock) if stock.reserved() > stock.on_hand() && !stock.unlimited() => {
                world.fail("nothing is oversold", format!("{id}: {} of {}", stock.reserved(), stock.on_hand()));
            }
            _ => {}
        }
    }
    nothing_is_left(world, log, states);
    let placed = |world: &World, ask: usize| match world.what(ask) {
        What::Watch { order } => states.contains_key(&(Kind::Order, clients::order(*order).uuid())),
        _ => true,
    };
    if let Some(ask) = world.unanswered().into_iter().find(|ask| placed(world, *ask)) {
        world.fail("every question is answered", format!("ask {ask}: {:?}", world.what(ask)));
    }
    if let Some(ask) = world.unheard().first() {
        world.fail("everybody has an answer in the end", format!("ask {ask}: {:?}", world.what(*ask)));
    }
}

/// What became of the goods that were promised to an order.
#[derive(Debug, Default)]
struct Promised {
    open: bool,
    sold: u32,
}

fn promised(events: &[Recorded]) -> FxHashMap<(OrderId, ProductId), Promised> {
    let mut goods: FxHashMap<_, Promised> = FxHashMap::default();
    for recorded in events {
        let Some(CommerceEvent::Inventory(product, event)) = &recorded.event else {
            continue;
        };
        match event {
            InventoryEvent::Reserved { order, .. } => {
                goods.entry((*order, *product)).or_default().open = true;
            }
            InventoryEvent::Committed { order, .. } => {
                let promised = goods.entry((*order, *product)).or_default();
                (promised.open, promised.sold) = (false, promised.sold + 1);
            }
            InventoryEvent::Released { order, .. } | InventoryEvent::Expired { order, .. } => {
                goods.entry((*order, *product)).or_default().open = false;
            }
            _ => {}
        }
    }
    goods
}

fn sold_once(goods: &FxHashMap<(OrderId, ProductId), Promised>, states: &FxHashMap<(Kind, Uuid), State>) -> Result<(), String> {
    for ((kind, id), state) in states {
        let State::Order(order) = state else { continue };
        let wanted = u32::from(order.status() == OrderStatus::Confirmed);
        for line in order.lines() {
            let promised = goods.get(&(OrderId::new(*id), line.product));
            let sold = promised.map_or(0, |promised| promised.sold);
            if sold != wanted || promised.is_some_and(|promised| promised.open) {
                let (status, product) = (order.status().name(), line.product);
                return Err(format!("{}-{id} is {status}, and of {product} {promised:?}", kind.name()));
            }
        }
    }
    Ok(())
}

/// Where all want the same and nobody changes his mind, as many are sold as there are, however many shards there are.
fn sold_out(world: &World, states: &FxHashMap<(Kind, Uuid), State>) -> Result<(), String> {
    let Some((stock, wanted)) = world.rush(states) else { return Ok(()) };
    let confirmed = world.figures.orders.get(OrderStatus::Confirmed.name()).copied().unwrap_or_default();
    if confirmed == stock.min(wanted) {
        Ok(())
    } else {
        Err(format!("{confirmed} of {stock} are sold, and {wanted} were wanted"))
    }
}

fn nothing_is_left(world: &mut World, log: &MemoryStore, states: &FxHashMap<(Kind, Uuid), State>) {
    for shard in world.shards.all() {
        match log.unfinished(shard) {
            Ok(left) if left.effects.is_empty() && left.timers.is_empty() => {}
            Ok(left) => world.fail("nothing is owed in the end", format!("{left:?}")),
            Err(error) => world.fail("nothing is owed in the end", error.to_string()),
        }
    }
    for ((_, id), state) in states {
        if let State::Inventory(stock) = state
            && stock.reserved() > 0
        {
            world.fail("no reservation is open in the end", format!("{id}: {}", stock.reserved()));
        }
    }
    let parked: Vec<_> = world
        .shards
        .all()
        .flat_map(|shard| log.parked(shard, 100).unwrap_or_default())
        .collect();
    // A request that is set aside was answered so; what the shop itself wanted is tried again by an operator.
    if let Some(parked) = parked.iter().find(|parked| parked.input.contains(r#""origin""#)) {
        world.fail(
            "nothing of the shop's own is set aside in the end",
            format!("{}: {}", parked.reason, parked.input),
        );
    }
}

fn ended(order: &Order) -> bool {
    matches!(order.status(), OrderStatus::Confirmed | OrderStatus::Cancelled)
}

fn end_of(order: &Order) -> &'static str {
    match order.failure() {
        Some((code, _)) if order.status() == OrderStatus::Cancelled => code.code(),
        _ => order.status().name(),
    }
}

fn verified(world: &World, log: &MemoryStore) -> Result<(), String> {
    // When a cascade is cut, others come between as they do between shards.
    let options = Options {
        interleaved: world.cuts_cascades(),
        now: Some(world.system_time()),
        grace: Duration::from_mins(1),
        ledger: Some(world.provider.ledger()),
        quiescent: true,
        keep: 20,
        ..Options::default()
    };
    let report = verify_log(log, &options).map_err(|error| error.to_string())?;
    // An order is paid late by the log that was paid in time by the clock before it jumped.
    let tolerated = |finding: &Finding| finding.invariant == Invariant::Deadlines && world.clock_jumped();
    let findings: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| !tolerated(finding))
        .map(ToString::to_string)
        .collect();
    if findings.is_empty() { Ok(()) } else { Err(findings.join("; ")) }
}
