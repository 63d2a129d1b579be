//! Waking whoever reads the log when there is something new.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// Wakes one who reads the log. It saves waiting and promises nothing: whoever reads looks now and then, woken or not.
pub trait Wakes: Send {
    /// Waits until there may be something new since the last call, `at_most` so long, and says whether there may be.
    ///
    /// False: the time is over and nothing was heard. Something may be there all the same, where hearing is out of order.
    fn wait(&mut self, at_most: Duration) -> bool;
}

/// Rung by who knows of news, heard by all who wait for them. However often it was rung meanwhile, each hears it once.
#[derive(Clone, Debug, Default)]
pub struct Bell {
    rung: Arc<(Mutex<u64>, Condvar)>,
}

impl Bell {
    /// Wakes all who wait.
    pub fn ring(&self) {
        *self.rung.0.lock() += 1;
        self.rung.1.notify_all();
    }

    /// One who hears what is rung from now on.
    pub fn listener(&self) -> Listener {
        Listener {
            heard: *self.rung.0.lock(),
            bell: self.clone(),
        }
    }
}

/// One who hears a [`Bell`].
#[derive(Debug)]
pub struct Listener {
    bell: Bell,
    heard: u64,
}

impl Wakes for Listener {
    fn wait(&mut self, at_most: Duration) -> bool {
        let (count, rung) = &*self.bell.rung;
        let mut count = count.lock();
        // A time that no clock has is as good as none.
        let until = Instant::now().checked_add(at_most);
        while *count == self.heard {
            let Some(until) = until else {
                rung.wait(&mut count);
                continue;
            };
            if rung.wait_until(&mut count, until).timed_out() {
                break;
            }
        }
        let news = *count != self.heard;
        self.heard = *count;
        news
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn what_is_rung_while_nobody_waits_is_heard_once_by_each() {
        let bell = Bell::default();
        bell.ring();
        let (mut one, mut other) = (bell.listener(), bell.listener());
        assert!(!one.wait(Duration::ZERO), "it was rung before anybody listened");
        bell.ring();
        bell.ring();
        for listener in [&mut one, &mut other] {
            assert!(listener.wait(Duration::MAX));
            assert!(!listener.wait(Duration::from_millis(1)));
        }
    }

    #[test]
    fn one_who_waits_is_woken() {
        let bell = Bell::default();
        let mut listener = bell.listener();
        thread::scope(|scope| {
            let woken = scope.spawn(move || listener.wait(Duration::from_mins(1)));
            bell.ring();
            assert!(woken.join().expect("it ends"));
        });
    }
}
