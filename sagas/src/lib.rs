//! Process managers: what follows from what happened.
//!
//! They remember and react, and do nothing else: no clock, no I/O. What they ask for is a value ([`Ask`]); the engine carries it out.

#![allow(clippy::match_same_arms, reason = "the arms of react tell the story, read from top to bottom")]

mod ask;
mod policies;
pub mod purchase;
mod seen;

pub use ask::{Ask, ProviderCall};
pub use policies::{is_attention, not_learnt, order_of, policies, set_aside, taken_up};
pub use purchase::{Purchase, PurchaseEvent, Step};
pub use seen::Seen;

use std::time::Duration;

use aggregates::Currency;

/// What the shop's owner may set about its processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The shop's one currency.
    pub currency: Currency,
    /// How long goods are kept for an order that is not being paid.
    pub reservation_ttl: Duration,
    /// How long an order can be paid.
    pub payment_deadline: Duration,
    /// How long the provider may leave a question unanswered before a person is asked to look.
    pub stuck_after: Duration,
}

/// How long to wait before the next question about an outcome that is unknown, after so many questions; none after the last.
///
/// At once, then 1, 2, 5, 15 and 60 s; then as Kill Bill's Janitor asks: 5 minutes, 1 hour, and once a day for five days.
pub fn question_delay(questions: u32) -> Option<Duration> {
    const DAY: u64 = 24 * 60 * 60;
    const SECONDS: [u64; 13] = [0, 1, 2, 5, 15, 60, 300, 3_600, DAY, DAY, DAY, DAY, DAY];
    let index = usize::try_from(questions).ok()?;
    SECONDS.get(index).copied().map(Duration::from_secs)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}
