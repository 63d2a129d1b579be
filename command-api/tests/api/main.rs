//! The command API as its callers see it: requests against the router, on a real engine, with the log in memory.

mod accounts;
mod documents;
mod edges;
mod idempotency;
mod ops;
mod orders;
mod products;
mod sessions;
mod sharing;
mod shop;
