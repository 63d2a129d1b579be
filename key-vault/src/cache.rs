//! The subject keys in memory: a lock per stripe, held for no longer than a look.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::place::Secret;

const STRIPES: usize = 64;
const KEYS_PER_STRIPE: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not zero");

pub(crate) struct Cache {
    stripes: Vec<Mutex<Stripe>>,
}

struct Stripe {
    keys: LruCache<Uuid, Secret>,
    /// How many removals it has seen.
    removals: u64,
}

/// From before a key was read. A key that was read before a removal is not put in after it.
#[derive(Clone, Copy)]
pub(crate) struct Ticket(u64);

impl Cache {
    pub(crate) fn new() -> Self {
        let stripe = || {
            Mutex::new(Stripe {
                keys: LruCache::new(KEYS_PER_STRIPE),
                removals: 0,
            })
        };
        Self {
            stripes: (0..STRIPES).map(|_| stripe()).collect(),
        }
    }

    /// The key, or a ticket to put it in with.
    pub(crate) fn get(&self, subject: Uuid) -> Result<Secret, Ticket> {
        let mut stripe = self.stripe(subject).lock();
        let removals = stripe.removals;
        stripe.keys.get(&subject).cloned().ok_or(Ticket(removals))
    }

    pub(crate) fn ticket(&self, subject: Uuid) -> Ticket {
        Ticket(self.stripe(subject).lock().removals)
    }

    pub(crate) fn put(&self, subject: Uuid, key: Secret, ticket: Ticket) {
        let mut stripe = self.stripe(subject).lock();
        if stripe.removals == ticket.0 {
            stripe.keys.put(subject, key);
        }
    }

    /// Forgets a key that is not there any more.
    pub(crate) fn forget(&self, subject: Uuid) {
        let mut stripe = self.stripe(subject).lock();
        stripe.removals += 1;
        stripe.keys.pop(&subject);
    }

    pub(crate) fn forget_all(&self) {
        for stripe in &self.stripes {
            let mut stripe = stripe.lock();
            stripe.removals += 1;
            stripe.keys.clear();
        }
    }

    /// The last byte, because the first ones of a `UUIDv7` are the time.
    fn stripe(&self, subject: Uuid) -> &Mutex<Stripe> {
        &self.stripes[usize::from(subject.as_bytes()[15]) % STRIPES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_read_before_its_removal_is_not_kept() {
        let (cache, subject) = (Cache::new(), Uuid::from_u128(7));
        let key = Secret::random().expect("randomness");
        let early = cache.get(subject).expect_err("nothing yet");
        cache.forget(subject);
        cache.put(subject, key.clone(), early);
        let late = cache.get(subject).expect_err("it was removed meanwhile");
        cache.put(subject, key.clone(), late);
        assert!(cache.get(subject).is_ok_and(|kept| kept == key));
        cache.forget_all();
        assert!(cache.get(subject).is_err());
    }
}
