//! How fast the log takes events: `cargo run --release -p event-store-sqlite --example append_speed [EVENTS] [BATCH] [DIRECTORY]`.
//!
//! The disk's fsync is printed because the rest depends on it.

#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::{
    error::Error,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use event_store::append_speed;
use event_store_sqlite::SqliteStore;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let events: usize = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let per_batch: usize = arguments.next().map_or(Ok(1_000), |text| text.parse())?;
    let scratch = tempfile::tempdir_in(arguments.next().map_or_else(std::env::temp_dir, PathBuf::from))?;
    println!("fsync of 4 KiB, median        {:>9.1} µs", fsync_median(scratch.path())?);
    let store = SqliteStore::open(scratch.path())?;
    append_speed(&store, events, per_batch)?;
    println!(
        "log.db, bytes per event       {:>9.0}",
        std::fs::metadata(store.path())?.len() as f64 / events as f64
    );
    Ok(())
}

fn fsync_median(directory: &Path) -> std::io::Result<f64> {
    let mut file = File::create(directory.join("fsync"))?;
    let mut times = Vec::new();
    for _ in 0..100 {
        file.write_all(&[0; 4096])?;
        let started = Instant::now();
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[50])
}
