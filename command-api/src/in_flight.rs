//! Which idempotency keys are being processed on this node right now.

use parking_lot::Mutex;
use rustc_hash::FxHashSet;

const STRIPES: usize = 64;

/// The keys whose first request has no answer yet. Bounded by the requests that are being served.
pub(crate) struct InFlight {
    stripes: [Mutex<FxHashSet<[u8; 16]>>; STRIPES],
}

impl InFlight {
    pub(crate) fn new() -> Self {
        Self {
            stripes: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Takes this key until the guard is dropped; none when another request has it.
    pub(crate) fn enter(&self, key: [u8; 16]) -> Option<Entered<'_>> {
        let stripe = &self.stripes[usize::from(key[0]) % STRIPES];
        let fresh = stripe.lock().insert(key);
        // Made only when it is wanted: dropping one gives the key back.
        fresh.then(|| Entered { stripe, key })
    }
}

/// A key that is being processed.
pub(crate) struct Entered<'a> {
    stripe: &'a Mutex<FxHashSet<[u8; 16]>>,
    key: [u8; 16],
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.stripe.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_once_until_it_is_given_back() {
        let keys = InFlight::new();
        let first = keys.enter([7; 16]);
        assert!(first.is_some() && keys.enter([7; 16]).is_none() && keys.enter([8; 16]).is_some());
        drop(first);
        assert!(keys.enter([7; 16]).is_some());
    }
}
