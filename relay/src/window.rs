//! What of a shard is under way.

use std::collections::VecDeque;

use uuid::Uuid;

/// What an event is known again by when it is read a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Print(u32);

impl Print {
    pub(crate) fn of(id: Uuid) -> Self {
        let words = id.as_bytes().chunks_exact(4);
        let folded = words.fold(0, |print: u32, word| {
            let word = word.iter().fold(0, |word: u32, byte| word << 8 | u32::from(*byte));
            print.rotate_left(7) ^ word
        });
        Self(folded)
    }

    /// As a number of at most so many bits.
    pub(crate) fn bits(self, bits: u32) -> u64 {
        u64::from(self.0) & ((1 << bits) - 1)
    }
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// It is to be sent, or it is held back.
    Waits,
    Sent,
    Acknowledged,
}

/// What an event that was read means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It is the next one, and is to be sent, or kept.
    New,
    /// It is the next one, and was sent before.
    Passed,
    /// It is the one that was looked at last.
    Last,
    /// Another one stood here before: this is not the log that was read.
    Another,
    /// It is not the next one: one is missing before it.
    TooFar,
}

/// The events of a shard behind those that are all acknowledged. A pass goes over them in order; when one that was held back may go, another
/// pass begins, and sends what waits. So of a stream nothing is sent before what precedes it.
#[derive(Debug)]
pub(crate) struct Window {
    /// Everything up to here is acknowledged.
    done: u64,
    /// The event there, as far as it is known.
    done_print: Option<Print>,
    behind: VecDeque<(Entry, Print)>,
    /// How far the pass is.
    cursor: u64,
    waits: usize,
    sent: usize,
}

impl Window {
    pub(crate) const fn behind(position: u64, print: Option<Print>) -> Self {
        Self {
            done: position,
            done_print: print,
            behind: VecDeque::new(),
            cursor: position,
            waits: 0,
            sent: 0,
        }
    }

    /// Everything up to here is acknowledged.
    pub(crate) const fn done(&self) -> u64 {
        self.done
    }

    /// The event that stands there.
    pub(crate) const fn done_print(&self) -> Option<Print> {
        self.done_print
    }

    /// How far the pass is: what comes behind it is to be read.
    pub(crate) const fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The last event that is known.
    pub(crate) fn last(&self) -> u64 {
        self.done + self.behind.len() as u64
    }

    /// How many events are known and not acknowledged.
    pub(crate) const fn open(&self) -> u64 {
        (self.waits + self.sent) as u64
    }

    /// How many are under way.
    pub(crate) const fn under_way(&self) -> usize {
        self.sent
    }

    /// How many are known and were not sent.
    pub(crate) const fn waiting(&self) -> usize {
        self.waits
    }

    /// How many are kept in mind, acknowledged ones among them.
    pub(crate) fn len(&self) -> usize {
        self.behind.len()
    }

    /// What an event that was read means for the pass.
    pub(crate) fn look(&self, position: u64, print: Print) -> Seen {
        let known = match position.checked_sub(self.done) {
            None => return Seen::TooFar,
            Some(0) => self.done_print,
            Some(_) => self.entry(position).map(|(_, print)| print),
        };
        if known.is_some_and(|known| known != print) {
            return Seen::Another;
        }
        if position == self.cursor {
            return Seen::Last;
        }
        if position != self.cursor + 1 {
            return Seen::TooFar;
        }
        match self.entry(position) {
            Some((Entry::Sent | Entry::Acknowledged, _)) => Seen::Passed,
            Some((Entry::Waits, _)) | None => Seen::New,
        }
    }

    /// What is behind `done` is known to be this event.
    pub(crate) fn recognise(&mut self, print: Print) {
        self.done_print.get_or_insert(print);
    }

    /// The next one was sent.
    pub(crate) fn send(&mut self, print: Print) {
        self.put(Entry::Sent, print);
    }

    /// The next one is held back.
    pub(crate) fn keep(&mut self, print: Print) {
        self.put(Entry::Waits, print);
    }

    /// The next one was sent before.
    pub(crate) const fn pass(&mut self) {
        self.cursor += 1;
    }

    fn put(&mut self, entry: Entry, print: Print) {
        self.cursor += 1;
        let place = self.place(self.cursor);
        if let Some(known) = place.and_then(|place| self.behind.get_mut(place)) {
            // It waited: one that was sent is passed.
            self.waits -= usize::from(known.0 == Entry::Waits);
            *known = (entry, print);
        } else {
            self.behind.push_back((entry, print));
        }
        match entry {
            Entry::Waits => self.waits += 1,
            Entry::Sent | Entry::Acknowledged => self.sent += 1,
        }
    }

    /// One is acknowledged. One that is not known is none of ours.
    pub(crate) fn acknowledge(&mut self, position: u64) {
        let place = self.place(position);
        if let Some((entry, _)) = place.and_then(|place| self.behind.get_mut(place)) {
            match std::mem::replace(entry, Entry::Acknowledged) {
                Entry::Waits => self.waits -= 1,
                Entry::Sent => self.sent -= 1,
                Entry::Acknowledged => {}
            }
        }
        while let Some((Entry::Acknowledged, print)) = self.behind.front() {
            self.done_print = Some(*print);
            self.done += 1;
            self.behind.pop_front();
        }
        self.cursor = self.cursor.max(self.done);
    }

    /// Begins another pass.
    pub(crate) const fn again(&mut self) {
        self.cursor = self.done;
    }

    /// Nobody knows what became of those that are under way: they are to be sent again.
    pub(crate) fn forget(&mut self) {
        for (entry, _) in self.behind.iter_mut().filter(|(entry, _)| *entry == Entry::Sent) {
            *entry = Entry::Waits;
        }
        (self.waits, self.sent) = (self.waits + self.sent, 0);
        self.again();
    }

    /// Up to where the pass has come and nothing is under way: what is not acknowledged there is held back.
    pub(crate) fn beyond(&self) -> u64 {
        let under_way = self.behind.iter().position(|(entry, _)| *entry == Entry::Sent);
        let first = under_way.map_or(u64::MAX, |place| self.done + place as u64);
        first.min(self.cursor)
    }

    fn place(&self, position: u64) -> Option<usize> {
        position.checked_sub(self.done + 1).and_then(|place| usize::try_from(place).ok())
    }

    fn entry(&self, position: u64) -> Option<(Entry, Print)> {
        self.behind.get(self.place(position)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(position: u64) -> Print {
        Print::of(Uuid::from_u128(position.into()))
    }

    /// Reads the next one as the worker does: sends it, or keeps it.
    fn read(window: &mut Window, keep: &[u64]) {
        let next = window.cursor() + 1;
        match window.look(next, print(next)) {
            Seen::New if keep.contains(&next) => window.keep(print(next)),
            Seen::New => window.send(print(next)),
            Seen::Passed => window.pass(),
            other => panic!("{next}: {other:?}"),
        }
    }

    #[test]
    fn it_is_done_up_to_the_first_that_is_not_acknowledged() {
        let mut window = Window::behind(10, None);
        for _ in 0..4 {
            read(&mut window, &[]);
        }
        assert_eq!((window.done(), window.cursor()), (10, 14));
        for (position, done) in [(12, 10), (14, 10), (11, 12), (11, 12), (99, 12), (0, 12), (13, 14)] {
            window.acknowledge(position);
            assert_eq!(window.done(), done, "after {position}");
        }
        assert_eq!((window.last(), window.open(), window.done_print()), (14, 0, Some(print(14))));
    }

    #[test]
    fn what_was_held_back_is_sent_by_the_next_pass_and_nothing_else() {
        let mut window = Window::behind(0, None);
        for _ in 0..6 {
            read(&mut window, &[2, 5]);
        }
        for position in [1, 3, 4] {
            window.acknowledge(position);
        }
        assert_eq!((window.done(), window.beyond(), window.open()), (1, 5, 3));
        window.acknowledge(6);
        assert_eq!((window.done(), window.beyond(), window.waiting()), (1, 6, 2));
        window.again();
        for _ in 0..6 {
            if window.cursor() < 6 {
                read(&mut window, &[]);
            }
        }
        assert_eq!((window.under_way(), window.waiting()), (2, 0));
        window.acknowledge(5);
        window.acknowledge(2);
        assert_eq!((window.done(), window.len()), (6, 0));
    }

    #[test]
    fn what_is_under_way_when_a_producer_fails_is_sent_again() {
        let mut window = Window::behind(0, None);
        for _ in 0..4 {
            read(&mut window, &[]);
        }
        window.acknowledge(2);
        window.forget();
        assert_eq!((window.cursor(), window.under_way(), window.waiting()), (0, 0, 3));
        for _ in 0..4 {
            read(&mut window, &[]);
        }
        assert_eq!(window.under_way(), 3, "what is acknowledged is not");
    }

    #[test]
    fn an_event_that_is_not_the_one_that_stood_there_is_noticed() {
        let mut window = Window::behind(7, Some(print(7)));
        assert_eq!(window.look(7, print(7)), Seen::Last);
        assert_eq!(window.look(7, print(8)), Seen::Another);
        assert_eq!(window.look(9, print(9)), Seen::TooFar);
        read(&mut window, &[]);
        read(&mut window, &[]);
        window.again();
        assert_eq!(window.look(8, print(88)), Seen::Another);
        assert_eq!(window.look(6, print(6)), Seen::TooFar);
    }
}
