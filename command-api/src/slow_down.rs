//! Repeated failed logins take longer and longer, per address and per client. Whether the address has an account makes no difference.

use std::{
    net::IpAddr,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use key_vault::KeyVault;
use lru::LruCache;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{
    rate::Doubts,
    shared::{Hashed, SharedLimits},
};

/// Failures are forgotten when there was none for so long.
pub(crate) const WINDOW: Duration = Duration::from_mins(15);
/// Nobody waits longer than this for the next try: an address is slowed, never locked.
const LONGEST: Duration = Duration::from_mins(1);
/// How many addresses and clients are remembered. Each costs a guess of a password, so nobody is pushed out quickly.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// Failures that an address has free.
pub(crate) const FREE_PER_ADDRESS: u32 = 5;
/// Failures that a client has free: many people may share one.
const FREE_PER_CLIENT: u32 = 50;

/// Who fails to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Suspect {
    /// The blind index of an e-mail address.
    Address(Uuid),
    /// Where requests come from.
    Client(IpAddr),
}

impl Suspect {
    /// A client by its address; of IPv6 the network, as one client has all of that.
    pub(crate) fn client(address: IpAddr) -> Self {
        Self::Client(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                IpAddr::V6(network.into())
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }

    /// Under what other nodes know them.
    pub(crate) fn hashed(self, vault: &KeyVault) -> Hashed {
        match self {
            Self::Address(index) => vault.fingerprint(&[b"suspect by address", index.as_bytes()]),
            Self::Client(IpAddr::V4(address)) => vault.fingerprint(&[b"suspect by client", &address.octets()]),
            Self::Client(IpAddr::V6(address)) => vault.fingerprint(&[b"suspect by client", &address.octets()]),
        }
    }

    const fn free(self) -> u32 {
        match self {
            Self::Address(_) => FREE_PER_ADDRESS,
            Self::Client(_) => FREE_PER_CLIENT,
        }
    }
}

struct Failures {
    count: u32,
    last: Instant,
}

/// The failed logins of the last while.
pub(crate) struct SlowDown {
    failures: Mutex<LruCache<Suspect, Failures>>,
    doubts: Doubts,
}

impl SlowDown {
    pub(crate) fn new() -> Self {
        Self {
            failures: Mutex::new(LruCache::new(REMEMBERED)),
            doubts: Doubts::new(),
        }
    }

    /// How long they have to wait before the next try; none when they may try now.
    pub(crate) fn wait(&self, suspects: &[Suspect], now: Instant) -> Option<Duration> {
        let failures = self.failures.lock();
        suspects
            .iter()
            .filter_map(|suspect| failures.peek(suspect)?.wait(suspect.free(), now))
            .max()
    }

    /// The same where nodes count together: what this node knows, and what all know, of which nobody waits longer than the rule says.
    pub(crate) async fn wait_of_all(&self, suspects: &[Suspect], vault: &KeyVault, shared: Option<&dyn SharedLimits>) -> Option<Duration> {
        let here = self.wait(suspects, Instant::now());
        let (None, Some(shared)) = (here, shared) else { return here };
        let names: Vec<_> = suspects.iter().map(|suspect| suspect.hashed(vault)).collect();
        let known = shared.failures(&names).await?;
        let now = Instant::now();
        let wait = |((suspect, name), known): ((&Suspect, &Hashed), crate::Failures)| {
            let Some(wait) = left(known.count, known.since, suspect.free()) else {
                self.doubts.clear(*name);
                return None;
            };
            self.doubts.believe(*name, now, LONGEST).then_some(wait)
        };
        suspects.iter().zip(&names).zip(known).filter_map(wait).max()
    }

    /// Another failure.
    pub(crate) fn failed(&self, suspects: &[Suspect], now: Instant) {
        let mut failures = self.failures.lock();
        for suspect in suspects {
            let known = failures.get_or_insert_mut(*suspect, || Failures { count: 0, last: now });
            if now.duration_since(known.last) > WINDOW {
                known.count = 0;
            }
            known.count = known.count.saturating_add(1);
            known.last = now;
        }
    }

    /// They knew the password: the address starts afresh. The client does not, or one account of one's own would buy guesses at others.
    pub(crate) fn succeeded(&self, suspects: &[Suspect]) {
        let mut failures = self.failures.lock();
        for suspect in suspects.iter().filter(|suspect| matches!(suspect, Suspect::Address(_))) {
            failures.pop(suspect);
        }
    }
}

impl Failures {
    fn wait(&self, free: u32, now: Instant) -> Option<Duration> {
        left(self.count, now.duration_since(self.last), free)
    }
}

/// What is left of the wait after so many failures, of which so many were free.
fn left(count: u32, since: Duration, free: u32) -> Option<Duration> {
    let over = count.checked_sub(free).filter(|_| since <= WINDOW)?;
    let delay = Duration::from_secs(1 << over.min(6)).min(LONGEST);
    delay.checked_sub(since).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_five_failures_each_further_one_doubles_the_wait() {
        let slow_down = SlowDown::new();
        let who = [Suspect::Address(Uuid::nil())];
        let mut now = Instant::now();
        for _ in 0..4 {
            slow_down.failed(&who, now);
        }
        assert_eq!(slow_down.wait(&who, now), None);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            slow_down.failed(&who, now);
            assert_eq!(slow_down.wait(&who, now), Some(Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
            assert_eq!(slow_down.wait(&who, now), None);
        }
        assert_eq!(slow_down.wait(&[Suspect::Address(Uuid::max())], now), None);
        now += WINDOW + Duration::from_secs(1);
        slow_down.failed(&who, now);
        assert_eq!(slow_down.wait(&who, now), None);
    }

    #[test]
    fn a_success_clears_the_address_and_not_the_client() {
        let slow_down = SlowDown::new();
        let client = Suspect::client(IpAddr::from([192, 0, 2, 1]));
        let who = [Suspect::Address(Uuid::nil()), client];
        let now = Instant::now();
        for _ in 0..FREE_PER_CLIENT {
            slow_down.failed(&who, now);
        }
        slow_down.succeeded(&who);
        assert_eq!(slow_down.wait(&who[..1], now), None);
        assert!(slow_down.wait(&[client], now).is_some());
    }

    #[test]
    fn a_client_is_its_ipv6_network() {
        let [one, other]: [IpAddr; 2] = ["2001:db8::1", "2001:db8::2"].map(|address| address.parse().expect("an address"));
        assert_eq!(Suspect::client(one), Suspect::client(other));
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("an address");
        assert_eq!(Suspect::client(mapped), Suspect::Client(IpAddr::from([192, 0, 2, 1])));
    }
}
