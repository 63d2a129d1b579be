//! Following what other nodes change.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::Vault;
use crate::error::VaultError;
use crate::place::Seen;

/// So often a vault looks at what other nodes have changed.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks for the sake of unknown names of keys are at least so far apart.
const STRANGERS_APART: Duration = Duration::from_millis(250);

/// So many may wait for such a look at a time; more are answered with what is known.
const MOST_WAITING: usize = 8;

/// They wait no longer than this.
const PATIENCE: Duration = Duration::from_secs(1);

/// The looks of a vault: one at a time.
pub(crate) struct Looks {
    looking: Mutex<Looking>,
    /// When the last one that succeeded began; none when one since then has found that what is known is void.
    done: RwLock<Option<Instant>>,
    waiting: AtomicUsize,
}

/// One's turn to look.
pub(crate) struct Looking {
    pub(crate) seen: Seen,
    /// When the last look began, whatever came of it.
    last: Option<Instant>,
    /// When the last one for the sake of an unknown name began.
    last_for_stranger: Option<Instant>,
    failing: bool,
}

impl Looks {
    pub(crate) fn new() -> Self {
        Self {
            looking: Mutex::new(Looking {
                seen: Seen::default(),
                last: None,
                last_for_stranger: None,
                failing: false,
            }),
            done: RwLock::new(Some(Instant::now())),
            waiting: AtomicUsize::new(0),
        }
    }

    pub(crate) fn turn(&self) -> MutexGuard<'_, Looking> {
        self.looking.lock()
    }

    /// A turn for one who may be anybody: none when many wait already, or it takes too long.
    pub(crate) fn turn_of_stranger(&self) -> Option<MutexGuard<'_, Looking>> {
        let ahead = self.waiting.fetch_add(1, Ordering::Relaxed);
        let turn = if ahead < MOST_WAITING {
            self.looking.try_lock_for(PATIENCE)
        } else {
            None
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        turn
    }

    pub(crate) fn done(&self, began: Instant) {
        *self.done.write() = Some(began);
    }

    /// What was seen before is not so any more.
    pub(crate) fn void(&self) {
        *self.done.write() = None;
    }

    /// How long ago the last look that succeeded began, if what it saw counts.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.done.read().map(|began| began.elapsed())
    }
}

impl Looking {
    /// Whether a look began since then.
    pub(crate) fn was_since(&self, moment: Instant) -> bool {
        self.last.is_some_and(|last| last >= moment)
    }

    /// Says how long the next stranger has to wait for a look, and counts it when that is not at all.
    pub(crate) fn stranger_waits(&mut self) -> Option<Duration> {
        let waits = self.last_for_stranger.and_then(|last| STRANGERS_APART.checked_sub(last.elapsed()));
        if waits.is_none() {
            self.last_for_stranger = Some(Instant::now());
        }
        waits
    }

    pub(crate) fn begin(&mut self) -> Instant {
        let now = Instant::now();
        self.last = Some(now);
        now
    }

    /// Says when looking begins to fail, and when it succeeds again.
    pub(crate) fn report(&mut self, looked: Result<(), VaultError>) {
        let failing = looked.is_err();
        match looked {
            Ok(()) if self.failing => tracing::info!("what other nodes change in the keys is seen again"),
            Err(error) if !self.failing => tracing::warn!(%error, "what other nodes change in the keys cannot be seen"),
            _ => {}
        }
        self.failing = failing;
    }
}

/// Dropped, the thread that looks ends.
pub(crate) struct Watcher {
    _stop: SyncSender<()>,
}

/// Starts a thread that looks for as long as the vault is there.
pub(crate) fn start(vault: &Arc<Vault>) -> Result<Watcher, VaultError> {
    let (stop, stopped) = sync_channel::<()>(0);
    let watched: Weak<Vault> = Arc::downgrade(vault);
    let work = move || {
        while matches!(stopped.recv_timeout(LOOK_EVERY), Err(RecvTimeoutError::Timeout)) {
            let Some(vault) = watched.upgrade() else { return };
            vault.look_as_usual();
        }
    };
    match thread::Builder::new().name("keys".to_owned()).spawn(work) {
        Ok(_) => Ok(Watcher { _stop: stop }),
        Err(error) => Err(no_thread(&vault.place.to_string(), &error)),
    }
}

fn no_thread(place: &str, error: &io::Error) -> VaultError {
    VaultError::Unavailable {
        place: place.to_owned(),
        reason: format!("no thread to look after them: {error}"),
    }
}

/// Does what may take long. On a thread that drives tasks the others are handed over first.
pub(crate) fn waiting<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        // Without a runtime, or on one that has a single thread and cannot hand anything over.
        _ => work(),
    }
}
