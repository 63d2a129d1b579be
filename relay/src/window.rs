//! What of a shard is under way.

use std::collections::VecDeque;

/// The events of a shard that were sent and not all acknowledged, in order.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Everything up to here is acknowledged.
    done: u64,
    /// Of what was sent behind it: whether it is acknowledged. The first one is not.
    sent: VecDeque<bool>,
}

impl Window {
    pub(crate) const fn behind(position: u64) -> Self {
        Self {
            done: position,
            sent: VecDeque::new(),
        }
    }

    /// Everything up to here is acknowledged.
    pub(crate) const fn done(&self) -> u64 {
        self.done
    }

    /// The last one that was sent.
    pub(crate) fn sent(&self) -> u64 {
        self.done + self.sent.len() as u64
    }

    /// The next one is sent.
    pub(crate) fn send(&mut self) {
        self.sent.push_back(false);
    }

    /// One is acknowledged. One that was not sent is none of ours.
    pub(crate) fn acknowledge(&mut self, position: u64) {
        let place = position.checked_sub(self.done + 1).and_then(|place| usize::try_from(place).ok());
        if let Some(acknowledged) = place.and_then(|place| self.sent.get_mut(place)) {
            *acknowledged = true;
        }
        while self.sent.front() == Some(&true) {
            self.sent.pop_front();
            self.done += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_done_up_to_the_first_that_is_not_acknowledged() {
        let mut window = Window::behind(10);
        for _ in 0..4 {
            window.send();
        }
        assert_eq!((window.done(), window.sent()), (10, 14));
        for (position, done) in [(12, 10), (14, 10), (11, 12), (11, 12), (99, 12), (0, 12), (13, 14)] {
            window.acknowledge(position);
            assert_eq!(window.done(), done, "after {position}");
        }
        assert_eq!(window.sent(), 14);
    }
}
