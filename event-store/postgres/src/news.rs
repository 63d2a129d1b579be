//! Telling other processes that there are new events, and hearing of theirs.
//!
//! A writer that has committed rings a bell, and goes on. One thread of the store tells the server, on a session of its own, at most once per
//! [`APART`], and only what is durable. Those who wait hear it on a thread of theirs, which connects again when it must. Whatever of this is
//! out of order, they look by themselves.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use event_store::{Batch, Bell, Listener, LogPosition, StoreError, Wakes};
use parking_lot::{Condvar, Mutex};
use postgres_session::{Address, Error, Session};

/// Where it is said that a shard has a new head: `SHARD/POSITION`.
const CHANNEL: &str = "jangbu_log";

/// What is told is at least so far apart. The first of several batches is told at once.
const APART: Duration = Duration::from_millis(10);

/// How long the server may take to connect, or to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait after a failure. Everybody looks by themselves meanwhile.
const AGAIN: Duration = Duration::from_millis(500);

/// How often one who hears looks whether anybody still waits.
const TICK: Duration = Duration::from_secs(1);

/// After so many silent ticks the server is asked whether it is there: a connection may be cut without either end being told.
const SILENT_TICKS: u32 = 10;

/// While a transaction with a notification commits, no other one of the whole server that has one can: so it is never the batch's own, and waits
/// for no disk. Should the server fail, nobody misses it: whoever connects again looks.
const SET_UP: &str = "SET synchronous_commit = off";

const TELL: &str = "SELECT pg_notify($1, head) FROM unnest($2::text[]) AS told (head)";

/// Tells others, from the first batch on and for as long as the store or a writer is there.
#[derive(Debug)]
pub(crate) struct Teller {
    shared: Arc<Shared>,
    started: AtomicBool,
}

#[derive(Debug)]
struct Shared {
    address: Address,
    /// The heads that nobody was told of yet: at most one for each shard.
    heads: Mutex<Heads>,
    changed: Condvar,
}

#[derive(Debug)]
struct Heads {
    new: BTreeMap<u16, u64>,
    open: bool,
}

impl Teller {
    pub(crate) fn new(address: &Address) -> Self {
        Self {
            shared: Arc::new(Shared {
                address: address.clone().for_writing(),
                heads: Mutex::new(Heads {
                    new: BTreeMap::new(),
                    open: true,
                }),
                changed: Condvar::new(),
            }),
            started: AtomicBool::new(false),
        }
    }

    /// These batches are durable.
    pub(crate) fn committed(&self, batches: &[&Batch]) {
        let with_events = batches.iter().filter(|batch| !batch.events.is_empty());
        let mut heads = self.shared.heads.lock();
        let before = heads.new.len();
        heads.new.extend(with_events.map(|batch| (batch.shard, batch.last_position())));
        let waiting = before == 0 && !heads.new.is_empty();
        drop(heads);
        if waiting {
            self.changed();
        }
    }

    fn changed(&self) {
        if !self.started.swap(true, Ordering::Relaxed) {
            let shared = Arc::clone(&self.shared);
            if let Err(error) = thread::Builder::new().name("log news".to_owned()).spawn(move || shared.tell()) {
                tracing::warn!(%error, "nobody is told of new events at once: they have to look");
            }
        }
        self.shared.changed.notify_one();
    }
}

/// The thread ends by itself.
impl Drop for Teller {
    fn drop(&mut self) {
        self.shared.heads.lock().open = false;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    /// The heads that are new, once there are any; none when nobody writes any more.
    fn next(&self) -> Option<Vec<String>> {
        let mut heads = self.heads.lock();
        while heads.new.is_empty() {
            if !heads.open {
                return None;
            }
            self.changed.wait(&mut heads);
        }
        let new = std::mem::take(&mut heads.new);
        let text = |(shard, position)| LogPosition { shard, position }.to_string();
        Some(new.into_iter().map(text).collect())
    }

    fn tell(&self) {
        let mut session: Option<Session> = None;
        let mut told = true;
        while let Some(heads) = self.next() {
            let began = Instant::now();
            let ready = match session.take().filter(|session| !session.is_closed()) {
                Some(session) => Ok(session),
                None => Session::open(&self.address, SET_UP, PATIENCE),
            };
            let done = ready.and_then(|session| session.execute(TELL, &[&CHANNEL, &heads]).map(|_| session));
            log_change(&mut told, done.as_ref().err(), "telling others of new events");
            let pause = if done.is_ok() { APART } else { AGAIN };
            session = done.ok();
            thread::sleep(pause.saturating_sub(began.elapsed()));
        }
    }
}

/// Says once that something fails, and once that it works again.
fn log_change(works: &mut bool, error: Option<&Error>, what: &str) {
    match error {
        Some(error) if *works => tracing::info!(%error, "{what} does not work: they look by themselves"),
        None if !*works => tracing::info!("{what} works again"),
        _ => {}
    }
    *works = error.is_none();
}

/// Hears what is told, on a thread of its own that ends with it.
pub(crate) struct Hearing {
    listener: Listener,
    /// As long as it is there, the thread goes on.
    _waits: Arc<()>,
}

impl Hearing {
    pub(crate) fn start(address: &Address) -> Result<Self, StoreError> {
        let bell = Bell::default();
        let listener = bell.listener();
        let waits = Arc::new(());
        let waiting = Arc::downgrade(&waits);
        // A standby has no channels.
        let address = address.clone().for_writing();
        let started = thread::Builder::new()
            .name("log wakes".to_owned())
            .spawn(move || hear(&address, &bell, &waiting));
        started.map_err(|error| StoreError::Unavailable(error.into()))?;
        Ok(Self { listener, _waits: waits })
    }
}

impl Wakes for Hearing {
    fn wait(&mut self, at_most: Duration) -> bool {
        self.listener.wait(at_most)
    }
}

fn hear(address: &Address, bell: &Bell, waiting: &Weak<()>) {
    let is_wanted = || waiting.strong_count() > 0;
    let mut hears = true;
    while is_wanted() {
        let listening = Session::open(address, "", PATIENCE).and_then(|session| session.listen(CHANNEL).map(|()| session));
        log_change(&mut hears, listening.as_ref().err(), "hearing of new events");
        if let Ok(session) = listening {
            // What was said before is not repeated.
            bell.ring();
            let lost = pass_on(&session, bell, is_wanted);
            log_change(&mut hears, lost.as_ref().err(), "hearing of new events");
        }
        if is_wanted() {
            thread::sleep(AGAIN);
        }
    }
}

/// Rings the bell whenever something is said, for as long as somebody may hear it.
fn pass_on(session: &Session, bell: &Bell, is_wanted: impl Fn() -> bool) -> Result<(), Error> {
    let mut silent = 0;
    while is_wanted() {
        if session.heard(TICK)? {
            bell.ring();
            silent = 0;
        } else {
            silent += 1;
        }
        if silent == SILENT_TICKS {
            session.script("")?;
            silent = 0;
        }
    }
    Ok(())
}
