//! What the nodes of a shop share in Redis: rate limits, answers to repeated requests, the stock of products, and wake-ups.
//!
//! Nothing here is the truth, and nobody waits for it. Redis may be gone, flushed, frozen, slow, or answer nonsense: then each question
//! is answered without it, as on a node that has none. So every call is bounded in time ([`Settings::within`]); after failures Redis is
//! not asked for a moment ([`Settings::rest`]); what it sends is bounded in size before it is parsed; what is kept there is sealed under
//! its own name, and what does not open, or is too old, was never there.

mod address;
mod answers;
mod connection;
mod guard;
mod limits;
mod meters;
mod sealed;
mod stock;
mod wakes;

pub use crate::address::{Address, AddressError};
pub use crate::answers::Answers;
pub use crate::connection::{Redis, Settings};
pub use crate::limits::Limits;
pub use crate::stock::Stock;
pub use crate::wakes::{RedisWakes, Topic};
