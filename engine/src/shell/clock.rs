//! The time as the cores are told it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use aggregates::Timestamp;

/// The system's, but when that is set back it goes on from where it was. A core whose time stood
/// still would let no timer and no pause come to its end.
pub(super) struct Clock {
    since: Instant,
    time: Timestamp,
}

impl Clock {
    /// A clock that shows this time at least.
    pub(super) fn from(time: Timestamp) -> Self {
        let since = Instant::now();
        Self { since, time }
    }

    /// It does not show an earlier time than this from now on.
    pub(super) fn at_least(&mut self, time: Timestamp) {
        let now = self.now();
        *self = Self::from(now.max(time));
    }

    pub(super) fn now(&mut self) -> Timestamp {
        let time = now().max(self.time.after(self.since.elapsed()));
        *self = Self::from(time);
        time
    }
}

pub(super) fn now() -> Timestamp {
    let micros = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
    Timestamp::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn a_clock_that_was_set_back_goes_on() {
        let ahead = now().after(Duration::from_hours(1));
        let mut clock = Clock::from(ahead);
        thread::sleep(Duration::from_millis(2));
        let then = clock.now();
        assert!(then >= ahead.after(Duration::from_millis(2)));
        thread::sleep(Duration::from_millis(2));
        assert!(clock.now() >= then.after(Duration::from_millis(2)));
    }
}
