//! Makes the log and the views of a large shop, to see how long it takes to verify: `cargo run --release -p verify --example million -- DIRECTORY
//! [EVENTS]`. Two of three orders are paid from the balance, every third by card, every tenth is cancelled; 250 at a time.

#[path = "../tests/world/mod.rs"]
mod world;

use std::{path::PathBuf, sync::Arc, time::Duration};

use aggregates::Stock;
use event_store_sqlite::SqliteStore;
use projections::{Runner, RunnerSettings};
use projections_sqlite::SqliteViews;
use world::{Paid, World};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory: PathBuf = arguments.next().ok_or("name a directory that is not there yet")?.into();
    let events: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let store = SqliteStore::open(&directory)?;
    let mut world = World::closed(&store);
    for number in 0..10 {
        world.create(number, Stock::OnHand(10_000_000));
    }
    world.open_wallet();
    world.deposit(5_000_000_000_000);
    world.settle();
    let mut orders = 0;
    while world.head() < events {
        for number in orders..orders + 250 {
            let line = u32::try_from(number % 10)?;
            let paid = match number % 30 {
                0 | 3 | 6 | 9 | 12 | 15 | 18 | 21 | 24 => Paid::Card(Some("ok")),
                27 => Paid::Card(Some("declined")),
                _ => Paid::Balance,
            };
            world.place(number, paid, &[(line, 1)]);
        }
        orders += 250;
        world.settle();
    }
    println!("{orders} orders, {} events", world.head());
    let (writer, _) = SqliteViews::open(&directory)?;
    let views = Runner::start(Arc::new(store.clone()), Box::new(writer), RunnerSettings::default())?;
    while views.progress().borrow().position(0) < world.head() {
        std::thread::sleep(Duration::from_millis(100));
    }
    views.stop();
    Ok(())
}
