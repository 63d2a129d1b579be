//! How many requests somebody may send, and how that is counted: the generic cell rate algorithm.
//!
//! What was taken is given back evenly, one request at a time. So a rate of 100/s lets 100 through at once, and then one every 10 ms.

use std::{
    fmt,
    num::NonZeroUsize,
    str::FromStr,
    time::{Duration, Instant},
};

use lru::LruCache;
use parking_lot::Mutex;

use crate::shared::Hashed;

const MOST: u32 = 1_000_000;
const LONGEST: Duration = Duration::from_hours(24);
/// How many senders are remembered. Whoever is pushed out starts afresh.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// So many requests in so long a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    window: Duration,
}

/// Why a text is no rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write how many in how long, as 100/s, 600/10m or 5000/h: from 1 to 1000000, in one second to one day")]
pub struct RateError;

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (count, window) = text.split_once('/').ok_or(RateError)?;
        let count = digits(count)?;
        let (number, unit) = window.split_at(window.len() - window.chars().next_back().map_or(0, char::len_utf8));
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(RateError),
        };
        let number = if number.is_empty() { 1 } else { digits(number)? };
        let window = Duration::from_secs(u64::from(number) * seconds);
        let fits = (1..=MOST).contains(&count) && !window.is_zero() && window <= LONGEST;
        if fits { Ok(Self { count, window }) } else { Err(RateError) }
    }
}

fn digits(text: &str) -> Result<u32, RateError> {
    let fits = !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit());
    if fits {
        text.parse().map_err(|_| RateError)
    } else {
        Err(RateError)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}s", self.count, self.window.as_secs())
    }
}

impl Rate {
    /// How many.
    pub const fn count(self) -> u32 {
        self.count
    }

    /// In how long.
    pub const fn window(self) -> Duration {
        self.window
    }

    /// One request is given back after so long, in microseconds.
    pub fn interval_micros(self) -> u64 {
        micros(self.window) / u64::from(self.count)
    }

    /// All are given back after so long, in microseconds.
    pub fn most_micros(self) -> u64 {
        self.interval_micros() * u64::from(self.count)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What taking a request led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whether there was one left.
    pub allowed: bool,
    /// After so long all are given back.
    pub owed: Duration,
}

impl Taken {
    /// Whether the rule can lead to this. A wait that is longer than any that it imposes is none.
    pub(crate) fn can_be(self, rate: Rate) -> bool {
        let (owed, most) = (micros(self.owed), rate.most_micros());
        let (left, one) = (most.saturating_sub(owed), rate.interval_micros());
        owed <= most && if self.allowed { owed >= one } else { left < one }
    }

    /// How many are left.
    pub(crate) fn left(self, rate: Rate) -> u64 {
        rate.most_micros().saturating_sub(micros(self.owed)) / rate.interval_micros()
    }

    /// How long until there is another one.
    pub(crate) fn wait(self, rate: Rate) -> Duration {
        Duration::from_micros((micros(self.owed) + rate.interval_micros()).saturating_sub(rate.most_micros()))
    }
}

/// What was taken on this node, and is not given back yet.
pub(crate) struct Buckets {
    rate: Rate,
    began: Instant,
    /// By sender, when all will be given back: microseconds since the beginning.
    free_at: Mutex<LruCache<Hashed, u64>>,
}

impl Buckets {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            rate,
            began: Instant::now(),
            free_at: Mutex::new(LruCache::new(REMEMBERED)),
        }
    }

    /// Takes a request, if there is one left.
    pub(crate) fn take(&self, who: Hashed, now: Instant) -> Taken {
        let now = self.at(now);
        let mut free_at = self.free_at.lock();
        let known = free_at.get_or_insert_mut(who, || now);
        let owed = known.saturating_sub(now);
        let taken = self.owing(owed, Duration::ZERO);
        if taken.allowed {
            *known = now + micros(taken.owed);
        }
        taken
    }

    /// Whether more was taken here alone than anybody may take, by more than clocks and the way between machines explain.
    pub(crate) fn over(&self, who: Hashed, now: Instant, leeway: Duration) -> Option<Taken> {
        let now = self.at(now);
        let owed = self.free_at.lock().peek(&who).map_or(0, |free_at| free_at.saturating_sub(now));
        let taken = self.owing(owed, leeway);
        (!taken.allowed).then(|| Taken {
            owed: taken.owed.min(Duration::from_micros(self.rate.most_micros())),
            ..taken
        })
    }

    /// A request was taken that somebody else allowed.
    pub(crate) fn note(&self, who: Hashed, now: Instant) {
        let now = self.at(now);
        let mut free_at = self.free_at.lock();
        let known = free_at.get_or_insert_mut(who, || now);
        *known = now.max(*known) + self.rate.interval_micros();
    }

    fn owing(&self, owed: u64, leeway: Duration) -> Taken {
        let after = owed + self.rate.interval_micros();
        let allowed = after <= self.rate.most_micros() + micros(leeway);
        Taken {
            allowed,
            owed: Duration::from_micros(if allowed { after } else { owed }),
        }
    }

    fn at(&self, now: Instant) -> u64 {
        micros(now.saturating_duration_since(self.began))
    }
}

/// How long others have said no to somebody, so that they cannot for ever.
pub(crate) struct Doubts(Mutex<LruCache<Hashed, Instant>>);

impl Doubts {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }

    /// Whether a no is believed: not when nothing but no was heard for so long. Then one is let through, and it begins anew.
    pub(crate) fn believe(&self, who: Hashed, now: Instant, at_most: Duration) -> bool {
        let mut since = self.0.lock();
        let first = *since.get_or_insert_mut(who, || now);
        let believed = now.saturating_duration_since(first) < at_most;
        if !believed {
            since.pop(&who);
        }
        believed
    }

    /// They said yes.
    pub(crate) fn clear(&self, who: Hashed) {
        self.0.lock().pop(&who);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Hashed = [7; 16];

    fn rate(text: &str) -> Rate {
        text.parse().expect("a rate")
    }

    #[test]
    fn a_rate_is_a_number_and_a_time() {
        for (text, shown) in [
            ("100/s", "100/1s"),
            ("1/d", "1/86400s"),
            ("600/10m", "600/600s"),
            ("1000000/s", "1000000/1s"),
        ] {
            assert_eq!(rate(text).to_string(), shown);
        }
        for text in [
            "",
            "/",
            "100",
            "100/",
            "/s",
            "0/s",
            "1000001/s",
            "1/0s",
            "1/2d",
            "1/25h",
            "-1/s",
            "+1/s",
            "1.5/s",
            "1/s/s",
            "1/초",
            "1 /s",
            "1/999999999d",
        ] {
            assert_eq!(text.parse::<Rate>(), Err(RateError), "{text}");
        }
    }

    #[test]
    fn all_may_be_taken_at_once_and_come_back_one_by_one() {
        let rate = rate("10/s");
        let buckets = Buckets::new(rate);
        let now = Instant::now();
        for left in (0..10).rev() {
            let taken = buckets.take(WHO, now);
            assert!(taken.allowed && taken.can_be(rate));
            assert_eq!(taken.left(rate), left);
        }
        let refused = buckets.take(WHO, now);
        assert!(!refused.allowed && refused.can_be(rate));
        assert_eq!((refused.left(rate), refused.wait(rate)), (0, Duration::from_millis(100)));
        assert!(buckets.take([8; 16], now).allowed);
        let later = now + Duration::from_millis(100);
        assert!(buckets.take(WHO, later).allowed && !buckets.take(WHO, later).allowed);
        let rested = (0..20).filter(|_| buckets.take(WHO, now + Duration::from_mins(1)).allowed).count();
        assert_eq!(rested, 10);
    }

    #[test]
    fn over_long_times_the_rate_holds() {
        let buckets = Buckets::new(rate("7/s"));
        let began = Instant::now();
        let tries = (0..60_000).map(|milli| buckets.take(WHO, began + Duration::from_millis(milli)));
        assert_eq!(tries.filter(|taken| taken.allowed).count(), 7 * 60 + 6);
    }

    #[test]
    fn what_the_rule_cannot_lead_to_is_known() {
        let rate = rate("10/s");
        let taken = |allowed, millis| Taken {
            allowed,
            owed: Duration::from_millis(millis),
        };
        for (taken, can_be) in [
            (taken(true, 100), true),
            (taken(true, 1_000), true),
            (taken(true, 99), false),
            (taken(true, 1_001), false),
            (taken(false, 1_000), true),
            (taken(false, 901), true),
            (taken(false, 900), false),
            (taken(false, 60_000), false),
        ] {
            assert_eq!(taken.can_be(rate), can_be, "{taken:?}");
        }
    }

    #[test]
    fn what_others_allowed_counts_here_too() {
        let buckets = Buckets::new(rate("10/s"));
        let (now, leeway) = (Instant::now(), Duration::from_millis(150));
        for _ in 0..11 {
            assert_eq!(buckets.over(WHO, now, leeway), None);
            buckets.note(WHO, now);
        }
        assert!(buckets.over(WHO, now, leeway).is_some_and(|taken| taken.can_be(rate("10/s"))));
        assert!(!buckets.take(WHO, now).allowed);
    }

    #[test]
    fn nobody_is_refused_for_ever() {
        let (doubts, began, window) = (Doubts::new(), Instant::now(), Duration::from_secs(10));
        let believed = (0..35).filter(|second| doubts.believe(WHO, began + Duration::from_secs(*second), window));
        assert_eq!(believed.count(), 32);
    }
}
