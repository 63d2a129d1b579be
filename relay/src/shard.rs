//! A shard, as a relay knows it: whether it publishes it, how far it is, and what it holds back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{
    holds::Holds,
    window::{Print, Window},
};

/// A checkpoint is moved before its time after so many events.
const SAVED_AFTER: u64 = 1_000;

/// So many events are kept in mind behind the first that is not acknowledged. Then the shard waits for that one.
const MOST_BEYOND: usize = 1_000_000;

/// What this relay does for a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Publishes,
    /// Another does; its checkpoint stands still, with events behind it, since then.
    Watches(Instant),
    /// The log is not the one that the checkpoint was made for. An operator says what to do, by moving the checkpoint.
    Stopped,
}

/// How long a shard waits before it sends the next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// It cannot be known which topics there are.
    Until(Instant),
    /// Something has to be acknowledged first.
    ForAnAnswer,
}

/// Why the broker did not take an event.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) why: String,
    /// Its topic takes nothing, whatever it is.
    pub(crate) whole_topic: bool,
}

/// The checkpoints of a relay in a shard, as they stand in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stands {
    pub(crate) at: u64,
    /// How far beyond what it holds back.
    pub(crate) beyond: u64,
    pub(crate) mark: u64,
}

impl Stands {
    /// How far whoever publishes has come, in a log that ends here. Beyond its end there is nothing that this log would know of.
    fn farthest(self, end: u64) -> u64 {
        if self.beyond > end { self.at } else { self.at.max(self.beyond) }
    }
}

#[derive(Debug)]
pub(crate) struct Shard {
    /// What is published by this relay.
    pub(crate) window: Window,
    pub(crate) holds: Holds,
    /// What the broker refused, until the pass comes by and knows what it is.
    pub(crate) refused: BTreeMap<u64, Refused>,
    /// What is too large for its topic, and goes as a reference.
    pub(crate) referred: BTreeSet<u64>,
    /// As the checkpoints were read or moved last.
    pub(crate) saved: Stands,
    /// The event where the checkpoint stands.
    pub(crate) saved_print: Option<Print>,
    /// Where its log ended when it was looked at last.
    pub(crate) end: u64,
    pub(crate) part: Part,
    /// There is more in the log than was read.
    pub(crate) more: bool,
    /// Nothing can be sent for now.
    pub(crate) pause: Option<Pause>,
    /// The checkpoints may have been moved: nobody knows.
    pub(crate) unsure: bool,
    /// Whether this relay has moved a checkpoint since it began to publish. Until then another may publish the same, so it sends one page.
    pub(crate) proven: bool,
}

impl Shard {
    pub(crate) fn new(stands: Stands, print: Option<Print>) -> Self {
        Self {
            window: Window::behind(stands.at, print),
            holds: Holds::default(),
            refused: BTreeMap::new(),
            referred: BTreeSet::new(),
            saved: stands,
            saved_print: print,
            end: stands.at,
            part: Part::Publishes,
            more: true,
            pause: None,
            unsure: false,
            proven: false,
        }
    }

    pub(crate) fn publishes(&self) -> bool {
        self.part == Part::Publishes
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.part == Part::Stopped
    }

    /// Events in the log that nobody has published, as far as is known.
    pub(crate) fn lag(&self) -> u64 {
        if self.publishes() {
            self.end.saturating_sub(self.window.last()) + self.window.open()
        } else {
            self.end.saturating_sub(self.saved.farthest(self.end))
        }
    }

    /// Events that wait because Kafka refuses them, or one before them in their stream.
    pub(crate) fn held(&self) -> u64 {
        if self.holds.is_empty() { 0 } else { self.window.waiting() as u64 }
    }

    /// Whether all that may be sent was sent and taken.
    pub(crate) fn is_at_rest(&self) -> bool {
        !self.publishes() || (self.window.under_way() == 0 && self.window.cursor() >= self.end)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.window.len() >= MOST_BEYOND && self.window.cursor() >= self.window.last()
    }

    /// Whether its next events may be read.
    pub(crate) fn may_go_on(&self, now: Instant) -> bool {
        let settled = self.window.under_way() == 0 && !self.is_unsaved();
        let proven = self.proven || settled || self.window.cursor() == self.saved.at;
        let paused = match self.pause {
            None => false,
            Some(Pause::Until(then)) => now < then,
            Some(Pause::ForAnAnswer) => true,
        };
        self.publishes() && self.more && proven && !paused && !self.is_full()
    }

    /// Whether something is to be saved, before its time or not.
    pub(crate) fn is_unsaved(&self) -> bool {
        self.publishes() && (self.unsure || self.window.done() != self.saved.at || self.beyond_to_be() != self.saved.beyond)
    }

    /// Whether the checkpoint should be moved before its time.
    pub(crate) fn is_to_be_saved(&self) -> bool {
        let unsaved = self.window.done().saturating_sub(self.saved.at);
        let proves = !self.proven && self.window.under_way() == 0 && self.is_unsaved();
        self.publishes() && (unsaved >= SAVED_AFTER || proves)
    }

    /// How far the checkpoint that says so should be beyond what is held back; where it is when nothing is.
    pub(crate) fn beyond_to_be(&self) -> u64 {
        if self.holds.is_empty() {
            self.saved.beyond
        } else {
            self.window.beyond()
        }
    }

    /// Nobody knows what became of what is under way.
    pub(crate) fn forget(&mut self) {
        self.window.forget();
        (self.more, self.pause) = (true, None);
    }

    /// An answer of Kafka's has come.
    pub(crate) fn hears(&mut self) {
        if self.pause == Some(Pause::ForAnAnswer) {
            self.pause = None;
        }
    }

    /// Another pass over what is not acknowledged, because something of it may go now.
    pub(crate) fn go_over_again(&mut self) {
        self.window.again();
        self.more = true;
    }

    /// One is acknowledged.
    pub(crate) fn acknowledge(&mut self, position: u64) {
        self.window.acknowledge(position);
        self.referred.remove(&position);
    }

    /// Somebody else has moved a checkpoint. What this relay has under way is acknowledged or not, and means nothing any more.
    pub(crate) fn yields(&mut self, stands: Stands, now: Instant) {
        let end = self.end;
        *self = Self::new(stands, None);
        (self.part, self.end) = (Part::Watches(now), end);
    }

    /// It goes on behind the checkpoint, where this event stands.
    pub(crate) fn goes_on(&mut self, print: Option<Print>) {
        let end = self.end;
        *self = Self::new(self.saved, print);
        self.end = end;
    }

    /// The log is not the one that was published.
    pub(crate) fn stops(&mut self) {
        self.goes_on(None);
        self.part = Part::Stopped;
    }

    /// Looks whether another relay still publishes. True: it stands still, and this one may go on in its place.
    pub(crate) fn watch(&mut self, stands: Stands, now: Instant, takeover: Duration) -> bool {
        let Part::Watches(since) = self.part else { return false };
        if stands != self.saved || stands.farthest(self.end) >= self.end {
            self.saved = stands;
            self.part = Part::Watches(now);
            return false;
        }
        now.duration_since(since) >= takeover
    }
}

#[cfg(test)]
mod tests {
    use event_store::StreamId;
    use uuid::Uuid;

    use super::*;

    fn at(at: u64) -> Stands {
        Stands { at, ..Stands::default() }
    }

    #[test]
    fn a_watcher_goes_on_when_the_checkpoint_stands_still_with_events_behind_it() {
        let takeover = Duration::from_secs(5);
        let begun = Instant::now();
        let then = |seconds| begun + Duration::from_secs(seconds);
        let mut shard = Shard::new(at(10), None);
        shard.yields(at(20), begun);
        shard.end = 20;
        for seconds in [1, 100] {
            assert!(!shard.watch(at(20), then(seconds), takeover), "nothing waits");
        }
        shard.end = 30;
        assert!(!shard.watch(at(20), then(101), takeover), "it may be on its way");
        assert!(
            !shard.watch(at(25), then(104), takeover) && !shard.watch(at(25), then(108), takeover),
            "it moved"
        );
        assert!(shard.watch(at(25), then(109), takeover));
        shard.goes_on(None);
        assert_eq!((shard.window.cursor(), shard.saved.at, shard.lag()), (25, 25, 5));
    }

    #[test]
    fn who_holds_something_back_lives_as_long_as_it_goes_on_beyond_it() {
        let takeover = Duration::from_secs(5);
        let begun = Instant::now();
        let then = |seconds| begun + Duration::from_secs(seconds);
        let beyond = |beyond| Stands { at: 10, beyond, mark: 0 };
        let mut shard = Shard::new(at(10), None);
        shard.yields(beyond(20), begun);
        shard.end = 30;
        assert!(!shard.watch(beyond(25), then(6), takeover), "it moved");
        assert!(
            !shard.watch(beyond(30), then(12), takeover) && !shard.watch(beyond(30), then(99), takeover),
            "it has all"
        );
        shard.end = 31;
        assert!(shard.watch(beyond(30), then(105), takeover));
        shard.end = 29;
        assert!(
            shard.watch(beyond(30), then(111), takeover),
            "beyond the end of a log that went back"
        );
    }

    #[test]
    fn a_shard_with_a_stream_that_waits_goes_on() {
        let print = |position: u64| Print::of(Uuid::from_u128(position.into()));
        let mut shard = Shard::new(at(0), None);
        shard.end = 3;
        shard
            .holds
            .hold_stream(&StreamId::new("order", Uuid::nil()), "orders", 1, "refused", Instant::now());
        shard.window.keep(print(1));
        shard.window.send(print(2));
        shard.window.send(print(3));
        assert!(!shard.is_at_rest() && !shard.is_to_be_saved());
        shard.acknowledge(2);
        shard.acknowledge(3);
        assert_eq!((shard.window.done(), shard.beyond_to_be(), shard.lag(), shard.held()), (0, 3, 1, 1));
        assert!(
            shard.is_at_rest() && shard.is_to_be_saved(),
            "it proves that it publishes by what is beyond"
        );
    }
}
