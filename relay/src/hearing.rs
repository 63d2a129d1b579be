//! Hears when another process may have appended.

use std::time::Duration;

use event_store::{EventStore, StoreError};

use crate::signal::Signal;

/// How long it waits for news before it looks whether it is to stop.
const WAITED: Duration = Duration::from_millis(200);

/// How long until it tries again to hear.
const AGAIN: Duration = Duration::from_secs(5);

/// Wakes the relay at each piece of news, until it is stopped. A store that does not say when there is news is looked at now and then.
pub(crate) fn run(store: &dyn EventStore, signal: &Signal) {
    while !signal.is_stopped() {
        match store.wakes() {
            Ok(None) => return,
            Ok(Some(mut wakes)) => {
                signal.hears(true);
                while !signal.is_stopped() {
                    if wakes.wait(WAITED) {
                        signal.wake();
                    }
                }
            }
            Err(error) => {
                say(&error);
                signal.rest(AGAIN);
            }
        }
    }
}

fn say(error: &StoreError) {
    tracing::debug!(%error, "the relay does not hear of new events, and looks for them");
}
