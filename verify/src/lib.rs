//! What must always hold of a log, its views and the provider's ledger, counted again from what is recorded.
//!
//! It reads through the port, page after page, and shares no code with the aggregates' decisions: an error in how they decide or count
//! shows here. Whatever stands in a log, it never fails on it: what cannot be read is a finding like any other.

mod chain;
mod layout;
#[cfg(feature = "sqlite")]
mod ledger;
mod made;
mod origin;
mod pages;
mod privacy;
mod report;
mod requests;
mod seen;
mod shapes;
mod shop;
mod snapshots;
#[cfg(feature = "sqlite")]
mod views;
mod waiting;

use std::{collections::HashMap, ops::ControlFlow, time::Duration};

use event_store::{LogReader, StoreError};
use uuid::Uuid;

use origin::Origin;

#[cfg(feature = "sqlite")]
pub use ledger::{LedgerError, read_ledger};
pub use report::{Counts, Finding, Invariant, Place, Report};
#[cfg(feature = "sqlite")]
pub use views::{ViewsChecked, verify_stored_views, verify_views};

/// What the payment provider's own ledger says of one order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Provided {
    /// How often it was charged.
    pub charges: u64,
    /// How much was charged in all, in minor units.
    pub charged: i64,
    /// How much was given back in all.
    pub cancelled: i64,
    /// When it was first charged by the provider's clock, microseconds since 1970; none when that clock is not ours to compare.
    pub charged_at: Option<i64>,
}

/// The provider's ledger, by order.
pub type Ledger = HashMap<Uuid, Provided>;

/// What is to be checked, and how.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "they are switches, each by itself")]
pub struct Options {
    /// The time by which deadlines are judged, microseconds since 1970; none for the time of the last event.
    pub now: Option<i64>,
    /// How long after its deadline a process may still be on its way.
    pub grace: Duration,
    /// The provider's ledger, to be compared with the log. One that is used meanwhile is read before the log.
    pub ledger: Option<Ledger>,
    /// Where the shards' logs stood before the ledger was read: an order that something happened to after that is not compared with it.
    /// Empty when neither is used any more.
    pub ledger_heads: Vec<(u16, u64)>,
    /// Whether nothing is under way any more: then every order has ended or needs a person, and the ledger and the log agree on each.
    pub quiescent: bool,
    /// Whether cascades may have been cut, so that what follows from one input and what others do is interleaved, as it is between shards.
    pub interleaved: bool,
    /// Whether the hashes are computed again. Only to see what the other checks find by themselves.
    pub hashes: bool,
    /// Whether the snapshots are compared with the fold.
    pub snapshots: bool,
    /// How many findings are kept; all are counted.
    pub keep: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            now: None,
            grace: Duration::from_mins(1),
            ledger: None,
            ledger_heads: Vec::new(),
            quiescent: false,
            interleaved: false,
            hashes: true,
            snapshots: true,
            keep: 100,
        }
    }
}

/// Checks every shard of a log, from its beginning to the head that it had when this began.
///
/// It may run beside a writer: what is appended meanwhile is not looked at.
///
/// # Errors
/// The log cannot be read just now. What is read and does not hold is in the report.
pub fn verify_log(reader: &dyn LogReader, options: &Options) -> Result<Report, StoreError> {
    match verify_log_with(reader, options, &mut |_, _| ControlFlow::Continue(()))? {
        ControlFlow::Continue(report) | ControlFlow::Break(report) => Ok(report),
    }
}

/// The same, telling how many events of how many are read; it may be told to stop, and then returns what it has found so far.
///
/// # Errors
/// As [`verify_log`].
pub fn verify_log_with(
    reader: &dyn LogReader,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<ControlFlow<Report, Report>, StoreError> {
    let mut report = Report::keeping(options.keep);
    let log = layout::Log::read(reader, &mut report)?;
    let total = log
        .shards
        .iter()
        .fold(0_u64, |total, shard| total.saturating_add(shard.head.position));
    let mut chain = chain::Chain::new(&log, options.hashes);
    let mut shop = shop::Shop::new(&log, options);
    let mut requests = requests::Requests::default();
    let mut read = 0;
    for shard in &log.shards {
        let mut pages = pages::Pages::new(reader, shard.head.shard, shard.head.position);
        chain.begin(reader, shard);
        shop.begin(shard, options);
        while let Some(page) = pages.next(&mut report)? {
            for event in &page {
                report.counts.events += 1;
                log.event(event, &mut report);
                let origin = origin::of(event, &mut report);
                let Some(metadata) = chain.event(event, origin, &mut report)? else {
                    continue;
                };
                if origin == Origin::Unknown {
                    continue;
                }
                requests.event(event, &metadata, &mut report);
                privacy::event(event, &mut report);
                shop.event(event, origin, &mut report);
            }
            read += page.len() as u64;
            if progress(read, total).is_break() {
                return Ok(ControlFlow::Break(report));
            }
        }
        chain.end(shard, &mut report)?;
        shop.end_of_shard(shard, &mut report);
        chain::beyond(reader, shard, &mut report)?;
    }
    chain.finish(&mut report);
    report.counts.streams = chain.streams();
    chain::strays(reader, &mut report)?;
    requests::records(reader, &log, &shop, &mut report)?;
    shop.end(&log.waiting, options, &mut report);
    if options.snapshots && snapshots::check(reader, &mut report, &mut || progress(read, total))?.is_break() {
        return Ok(ControlFlow::Break(report));
    }
    Ok(ControlFlow::Continue(report))
}
