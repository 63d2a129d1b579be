//! How fast the log takes events: `cargo run --release -p event-store-postgres --example append_speed URL [EVENTS] [BATCH]`.
//!
//! The URL names an empty database.

use std::error::Error;

use event_store::append_speed;
use event_store_postgres::PostgresStore;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("name an empty database: postgres://...")?;
    let events: usize = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let per_batch: usize = arguments.next().map_or(Ok(1_000), |text| text.parse())?;
    append_speed(&PostgresStore::open(&url.parse()?)?, events, per_batch)
}
