//! The stock as it was at a moment: every product's, or one's.

use std::{collections::BTreeMap, ops::ControlFlow};

use aggregates::{CommerceEvent, InventoryEvent, Kind, OrderId, ProductEvent, Quantity, Stock};
use event_store::EventRef;
use rustc_hash::FxHashMap;
use uuid::Uuid;

use crate::{
    Done,
    arguments::{InventoryArgs, Source},
    failure::{Failure, OK},
    fold::Subject,
    output::{Cell, Column, Rows},
    progress::Progress,
    source::Log,
    state,
};

const COLUMNS: [Column; 11] = [
    Column::new("product", 36),
    Column::new("name", 40),
    Column::new("on_hand", 20),
    Column::new("reserved", 20),
    Column::new("available", 20),
    Column::new("sold", 20),
    Column::new("received", 20),
    Column::new("written_off", 20),
    Column::new("orders_holding", 20),
    Column::new("unlimited", 9),
    Column::new("version", 20),
];

/// What a table shows when nothing else is asked for: it has to fit a screen.
const TABLE: [&str; 8] = [
    "name",
    "on_hand",
    "reserved",
    "available",
    "sold",
    "received",
    "written_off",
    "orders_holding",
];

/// One product's stock. What came in, as it is counted here, is always what is on hand, sold or written off.
#[derive(Debug, Default)]
struct Shelf {
    name: Option<String>,
    opened: bool,
    unlimited: bool,
    on_hand: u64,
    sold: u64,
    received: u64,
    written_off: u64,
    holding: FxHashMap<OrderId, Quantity>,
    version: u64,
}

pub(crate) fn run(source: &Source, arguments: &InventoryArgs, progress: &Progress) -> Done {
    let log = source.open()?;
    let cut = log.cut(&arguments.at)?;
    let mut shelves: BTreeMap<Uuid, Shelf> = BTreeMap::new();
    let mut count = |event: EventRef<'_>| {
        learn(&mut shelves, &event).map_err(|what| {
            let place = state::position(&log, event.shard, event.position);
            Failure::input(format_args!("what stands at position {place} cannot be counted: {what}"))
        })?;
        Ok(ControlFlow::Continue(()))
    };
    if let Some(product) = arguments.product {
        for kind in [Kind::Product, Kind::Inventory] {
            let mut wanted = Subject::Aggregate(kind).events(&log, product);
            wanted.to = cut.clone();
            log.each(&wanted, "inventory", progress, &mut count)?;
        }
    } else {
        let mut wanted = log.everything();
        wanted.kinds = vec![Kind::Product.name().to_owned(), Kind::Inventory.name().to_owned()];
        wanted.to = cut;
        for shard in log.shards().all() {
            // Each product is in one shard: no order between them is needed.
            wanted.shard = Some(shard);
            log.each(&wanted, "inventory", progress, &mut count)?;
        }
    }
    shelves.retain(|_, shelf| shelf.opened);
    if let Some(product) = arguments.product.filter(|_| shelves.is_empty()) {
        return Err(none(&log, product, arguments));
    }
    print(arguments, &shelves)?;
    Ok(OK)
}

fn none(log: &Log, product: Uuid, arguments: &InventoryArgs) -> Failure {
    let known = log
        .reader()
        .stream(&event_store::StreamId::new(Kind::Inventory.name(), product), 0, 1);
    match known {
        Err(error) => log.explained(error),
        Ok(events) if events.is_empty() => Failure::input(format_args!("there is no product {product} in this log")),
        Ok(_) => Failure::input(format_args!("no stock of {product} was kept yet at {}", arguments.at.text())),
    }
}

fn learn(shelves: &mut BTreeMap<Uuid, Shelf>, event: &EventRef<'_>) -> Result<(), String> {
    let id = Uuid::try_parse(event.id).map_err(|error| error.to_string())?;
    let decoded = CommerceEvent::decode(event.kind, id, event.payload).map_err(|error| error.to_string())?;
    let shelf = shelves.entry(id).or_default();
    match decoded {
        Some(CommerceEvent::Product(_, event)) => {
            match event {
                ProductEvent::Created { name, .. } | ProductEvent::Changed { name: Some(name), .. } => shelf.name = Some(name.to_string()),
                ProductEvent::Changed { name: None, .. } | ProductEvent::Retired {} => {}
            }
            Ok(())
        }
        Some(CommerceEvent::Inventory(_, happened)) => {
            shelf.version = event.sequence;
            shelf.count(&happened).ok_or_else(|| "there would be less than nothing".to_owned())
        }
        _ => Err(format!("an event of a {}", event.kind)),
    }
}

impl Shelf {
    /// Counts an event; none when the numbers do not allow it.
    fn count(&mut self, event: &InventoryEvent) -> Option<()> {
        match event {
            InventoryEvent::Opened { stock, .. } => {
                self.opened = true;
                match stock {
                    Stock::OnHand(units) => {
                        self.on_hand = *units;
                        self.received = *units;
                    }
                    Stock::Unlimited => self.unlimited = true,
                }
            }
            InventoryEvent::Received { quantity, .. } => self.came_in(*quantity)?,
            InventoryEvent::Adjusted { delta, .. } if *delta >= 0 => self.came_in(delta.unsigned_abs())?,
            InventoryEvent::Adjusted { delta, .. } => {
                self.on_hand = self.on_hand.checked_sub(delta.unsigned_abs())?;
                self.written_off = self.written_off.checked_add(delta.unsigned_abs())?;
            }
            InventoryEvent::Reserved { order, quantity, .. } => {
                self.holding.insert(*order, *quantity);
            }
            InventoryEvent::Committed { order, quantity } => {
                self.holding.remove(order);
                self.sold = self.sold.checked_add(quantity.units())?;
                if !self.unlimited {
                    self.on_hand = self.on_hand.checked_sub(quantity.units())?;
                }
            }
            InventoryEvent::Released { order, .. } | InventoryEvent::Expired { order, .. } => {
                self.holding.remove(order);
            }
            InventoryEvent::OutOfStock { .. }
            | InventoryEvent::PriceChanged { .. }
            | InventoryEvent::NotOffered { .. }
            | InventoryEvent::Held { .. }
            | InventoryEvent::NotHeld { .. }
            | InventoryEvent::NotCommitted { .. }
            | InventoryEvent::ReleaseNoted { .. }
            | InventoryEvent::ReservationRefused { .. } => {}
        }
        Some(())
    }

    fn came_in(&mut self, units: u64) -> Option<()> {
        self.on_hand = self.on_hand.checked_add(units)?;
        self.received = self.received.checked_add(units)?;
        Some(())
    }

    fn reserved(&self) -> u64 {
        self.holding.values().fold(0, |sum, quantity| sum.saturating_add(quantity.units()))
    }
}

fn print(arguments: &InventoryArgs, shelves: &BTreeMap<Uuid, Shelf>) -> Result<(), Failure> {
    let arguments = state::on_a_screen(&arguments.rows, &TABLE);
    let mut rows = Rows::new(&arguments, &COLUMNS)?;
    let mut sorted: Vec<_> = shelves.iter().collect();
    sorted.sort_by(|(one, of_one), (other, of_other)| (&of_one.name, one).cmp(&(&of_other.name, other)));
    for (product, shelf) in sorted {
        // What is not counted is neither there nor free in any number.
        let counted = |number: u64| if shelf.unlimited { Cell::None } else { Cell::Number(number) };
        let reserved = shelf.reserved();
        rows.row(&[
            Cell::Text(&product.to_string()),
            shelf.name.as_deref().map_or(Cell::None, Cell::Text),
            counted(shelf.on_hand),
            counted(reserved),
            counted(shelf.on_hand.saturating_sub(reserved)),
            Cell::Number(shelf.sold),
            counted(shelf.received),
            counted(shelf.written_off),
            Cell::Number(shelf.holding.len() as u64),
            Cell::Json(if shelf.unlimited { "true" } else { "false" }),
            Cell::Number(shelf.version),
        ])?;
    }
    rows.finish()
}
