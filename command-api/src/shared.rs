//! Ports to what the nodes of a shop may share. None of it is needed, and none of it is trusted to be there, in time, or right: without an
//! answer, or with one that cannot be, a node goes on by itself.

use std::{future::Future, pin::Pin, time::Duration};

use crate::rate::{Rate, Taken};

/// An answer that may take a moment. Whoever gives it bounds how long.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Somebody, as a hash with the shop's key.
pub type Hashed = [u8; 16];

/// Which request an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerName {
    /// Keyed hash of account, method, path and idempotency key.
    pub record: [u8; 16],
    /// Keyed hash of the body.
    pub fingerprint: [u8; 16],
}

/// Answers that the engine has recorded, kept where a repeat on any node finds them without asking the engine.
///
/// What is found under a name was kept under the same name, for the same log, by a node of the same shop, and not longer ago than the
/// engine's records live: an implementation that cannot be sure of that finds nothing.
pub trait KeptAnswers: Send + Sync {
    /// The answer to this request, if it is known.
    fn find(&self, of: AnswerName) -> Asked<'_, Option<Vec<u8>>>;

    /// Keeps an answer, soon or not at all; it waits for nothing.
    fn keep(&self, of: AnswerName, answer: &[u8]);
}

/// Failed logins of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    /// How many, until there was none for a while.
    pub count: u32,
    /// How long ago the last one was.
    pub since: Duration,
}

/// What all nodes count together. None, or nothing: this node counts by itself.
pub trait SharedLimits: Send + Sync {
    /// Takes a request from what this rate leaves somebody.
    fn take(&self, who: Hashed, rate: Rate) -> Asked<'_, Option<Taken>>;

    /// The failed logins of each of these, in their order.
    fn failures<'a>(&'a self, of: &'a [Hashed]) -> Asked<'a, Option<Vec<Failures>>>;

    /// Another failed login of each of these; all are forgotten when there was none for so long.
    fn failed<'a>(&'a self, who: &'a [Hashed], forgotten_after: Duration) -> Asked<'a, ()>;

    /// Forgets somebody's failed logins.
    fn succeeded(&self, who: Hashed) -> Asked<'_, ()>;
}
