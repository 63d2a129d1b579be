//! What wakes a thread of the relay.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether somebody says when there are new events.
    hears: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    events: bool,
    answers: bool,
    stop: bool,
}

impl Signal {
    /// There may be new events.
    pub(crate) fn wake(&self) {
        self.state.lock().events = true;
        self.changed.notify_one();
    }

    /// Somebody says when there are new events, from now on.
    pub(crate) fn hears(&self, hears: bool) {
        self.hears.store(hears, Ordering::Relaxed);
    }

    pub(crate) fn is_hearing(&self) -> bool {
        self.hears.load(Ordering::Relaxed)
    }

    /// An answer of Kafka's has come.
    pub(crate) fn came(&self) {
        self.state.lock().answers = true;
        self.changed.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.state.lock().stop
    }

    /// Waits until something comes. True: there may be new events.
    pub(crate) fn wait(&self, at_most: Duration) -> bool {
        let mut state = self.state.lock();
        let nothing = |state: &mut State| !state.events && !state.answers && !state.stop;
        self.changed.wait_while_for(&mut state, nothing, at_most);
        state.answers = false;
        std::mem::take(&mut state.events)
    }

    /// Waits for an answer of Kafka's, also when it is stopped.
    pub(crate) fn wait_for_answers(&self, at_most: Duration) {
        let mut state = self.state.lock();
        self.changed.wait_while_for(&mut state, |state| !state.answers, at_most);
        state.answers = false;
    }

    /// Waits, whatever comes, unless it is stopped.
    pub(crate) fn rest(&self, for_so_long: Duration) {
        let mut state = self.state.lock();
        self.changed.wait_while_for(&mut state, |state| !state.stop, for_so_long);
    }
}
