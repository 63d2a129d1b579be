//! The way from the engine to the views that does not lead over the disk.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use aggregates::Recorded;

/// More batches than this never wait.
const MOST_BATCHES: usize = 4_096;

/// Takes what was just recorded to the views. It never waits: what does not fit is dropped, and the views read it from the log.
#[derive(Clone, Debug)]
pub struct Tail {
    sender: SyncSender<Arc<[Recorded]>>,
    state: Arc<State>,
    most_events: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: AtomicUsize,
    /// The log holds something that does not come by the tail.
    look: AtomicBool,
    stop: AtomicBool,
}

impl Tail {
    /// Offers events that are durable, in the order of the log.
    pub fn offer(&self, events: Arc<[Recorded]>) {
        let count = events.len();
        let waiting = self.state.waiting.fetch_add(count, Ordering::AcqRel);
        let fits = waiting + count <= self.most_events;
        if !fits || self.sender.try_send(events).is_err() {
            self.state.waiting.fetch_sub(count, Ordering::AcqRel);
            metrics::counter!("jangbu_projection_tail_dropped_total").increment(count as u64);
            self.look();
        }
    }

    /// Has the log looked at, as soon as what is at hand is done: by who knows that there may be something new. It may be called in vain.
    pub fn look(&self) {
        self.state.look.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn stopped(&self) -> bool {
        self.state.stop.load(Ordering::Acquire)
    }

    pub(crate) fn stop(&self) {
        self.state.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// When the queue is full nobody sleeps; otherwise an empty batch wakes whoever does.
    fn wake(&self) {
        let _ = self.sender.try_send(Arc::from([]));
    }
}

/// The other end of the tail.
pub(crate) struct Waiting {
    receiver: Receiver<Arc<[Recorded]>>,
    state: Arc<State>,
}

pub(crate) fn tail(most_events: usize) -> (Tail, Waiting) {
    let (sender, receiver) = sync_channel(MOST_BATCHES);
    let state = Arc::new(State::default());
    (
        Tail {
            sender,
            state: Arc::clone(&state),
            most_events,
        },
        Waiting { receiver, state },
    )
}

impl Waiting {
    /// Everything that waits, up to about `most` events; waits for the first at most so long.
    pub(crate) fn take(&self, into: &mut Vec<Arc<[Recorded]>>, most: usize, patience: Duration) {
        into.clear();
        let mut count = match self.receiver.recv_timeout(patience) {
            Ok(first) => self.took(first, into),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        };
        while count < most
            && let Ok(next) = self.receiver.try_recv()
        {
            count += self.took(next, into);
        }
    }

    fn took(&self, events: Arc<[Recorded]>, into: &mut Vec<Arc<[Recorded]>>) -> usize {
        let count = events.len();
        self.state.waiting.fetch_sub(count, Ordering::AcqRel);
        into.push(events);
        count
    }

    /// Whether the log is to be looked at, since this was last asked.
    pub(crate) fn look(&self) -> bool {
        self.state.look.swap(false, Ordering::AcqRel)
    }

    /// Whether it is time to stop.
    pub(crate) fn stopped(&self) -> bool {
        self.state.stop.load(Ordering::Acquire)
    }
}
