//! Says how far views are that another process writes: one thread that asks them, from time to time and when it is woken.
//!
//! It tells what a [`Runner`](crate::Runner) tells, so that whoever waits for a position need not know who writes the views. Why they do
//! not go on only their runner knows; here it shows that they do not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use aggregates::Timestamp;
use event_store::{Bell, EventStore, Listener, LogReader, Shards, StoreError, Wakes as _};
use tokio::sync::watch;

use crate::{Checkpoint, Progress, ReadError, RunnerState, ShardProgress, Views};

/// How long the thread may be told to stop before it notices.
const NOTICED_WITHIN: Duration = Duration::from_millis(100);

/// How long to wait before it is tried again to be told: a standby tells nobody.
const LISTENS_AGAIN: Duration = Duration::from_secs(10);

/// How views that another process writes are followed.
#[derive(Clone, Debug)]
pub struct FollowerSettings {
    /// How often the views are asked, where nobody tells that there is something new.
    pub poll: Duration,
    /// How often they are asked, where somebody does: he may not always get through.
    pub poll_when_told: Duration,
    /// How often they are asked at most, however much is new.
    pub least: Duration,
    /// How often the log is asked for its heads.
    pub heads: Duration,
    /// Views that stand still for so long while the log is ahead of them are stalled.
    pub stalled_after: Duration,
}

impl Default for FollowerSettings {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(50),
            poll_when_told: Duration::from_millis(500),
            least: Duration::from_millis(5),
            heads: Duration::from_secs(1),
            stalled_after: Duration::from_secs(5),
        }
    }
}

/// Starts the thread.
#[derive(Debug)]
pub struct Follower;

/// A follower that was started; dropping it stops it.
#[derive(Debug)]
pub struct FollowerHandle {
    told: Arc<Told>,
    progress: watch::Receiver<Progress>,
    /// The follower, and who hears that views were saved.
    threads: Vec<JoinHandle<()>>,
}

/// What the follower is told.
#[derive(Debug, Default)]
struct Told {
    stop: AtomicBool,
    /// Rung when views may have been saved.
    saved: Bell,
    /// Whether the store of the views rings when they are.
    by_the_store: AtomicBool,
}

impl Told {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

impl Follower {
    /// Follows these views, which are made of this log.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(views: Arc<dyn Views>, store: Arc<dyn EventStore>, settings: FollowerSettings) -> std::io::Result<FollowerHandle> {
        let told = Arc::new(Told::default());
        let (report, progress) = watch::channel(Progress::default());
        let listens = (Arc::clone(&views), Arc::clone(&told));
        let work = Work {
            views,
            news: told.saved.listener(),
            log: Log {
                store,
                reader: None,
                count: None,
                heads: BTreeMap::new(),
                asked: None,
            },
            shards: BTreeMap::new(),
            report,
            told: Arc::clone(&told),
            settings,
        };
        // From here on what was started is stopped when the rest cannot be.
        let mut handle = FollowerHandle {
            told,
            progress,
            threads: Vec::new(),
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        handle.threads.push(thread("views-follower").spawn(move || work.run())?);
        let (views, told) = listens;
        handle.threads.push(thread("views-wakes").spawn(move || listen(&*views, &told))?);
        Ok(handle)
    }
}

/// Has the views looked at whenever their store says that there is something new.
fn listen(views: &dyn Views, told: &Told) {
    while !told.stopped() {
        match views.wakes() {
            Ok(Some(mut wakes)) => {
                told.by_the_store.store(true, Ordering::Release);
                // What was saved before that was told to nobody.
                told.saved.ring();
                while !told.stopped() {
                    if wakes.wait(NOTICED_WITHIN) {
                        told.saved.ring();
                    }
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "nobody tells that views were saved: they are asked again and again");
                let again = Instant::now() + LISTENS_AGAIN;
                while !told.stopped() && Instant::now() < again {
                    std::thread::sleep(NOTICED_WITHIN);
                }
            }
        }
    }
}

impl FollowerHandle {
    /// How far the views are, now and from now on.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Has the views looked at sooner, by who knows that there may be something new. It may be called at any time, and in vain.
    pub fn waker(&self) -> impl Fn() + Send + Sync + 'static {
        let told = Arc::clone(&self.told);
        move || told.saved.ring()
    }

    /// Ends the thread.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.told.stop.store(true, Ordering::Release);
        self.told.saved.ring();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that follows the views had panicked");
            }
        }
    }
}

impl Drop for FollowerHandle {
    fn drop(&mut self) {
        self.end();
    }
}

struct Work {
    views: Arc<dyn Views>,
    news: Listener,
    log: Log,
    shards: BTreeMap<u16, Followed>,
    report: watch::Sender<Progress>,
    told: Arc<Told>,
    settings: FollowerSettings,
}

/// The log, as far as it is asked.
struct Log {
    store: Arc<dyn EventStore>,
    /// None before the first use, and after an error.
    reader: Option<Box<dyn LogReader>>,
    /// How many shards it has, once it says so.
    count: Option<Shards>,
    /// What it last said. One that does not answer stalls no view.
    heads: BTreeMap<u16, u64>,
    asked: Option<Instant>,
}

/// A shard's views.
struct Followed {
    at: ShardProgress,
    /// When they last moved, or had nothing left to count.
    well: Instant,
}

impl Work {
    fn run(mut self) {
        while !self.stopped() {
            let began = Instant::now();
            let positions = self.views.positions();
            self.log.ask(self.settings.heads);
            match positions {
                Ok(positions) => self.moved(&positions),
                // Too many ask at once: that says nothing about the views.
                Err(ReadError::Busy) => {}
                Err(error) => self.unread(&error),
            }
            self.rest(began);
        }
        self.report.send_modify(|progress| progress.state = RunnerState::Stopped);
    }

    fn stopped(&self) -> bool {
        self.told.stopped()
    }

    /// Waits until there may be something new.
    fn rest(&mut self, began: Instant) {
        let every = if self.told.by_the_store.load(Ordering::Acquire) {
            self.settings.poll_when_told
        } else {
            self.settings.poll
        };
        std::thread::sleep(self.settings.least);
        let left = (began + every).saturating_duration_since(Instant::now());
        if !left.is_zero() {
            self.news.wait(left);
        }
    }

    /// Says how far the views are.
    fn moved(&mut self, positions: &[Checkpoint]) {
        let now = Instant::now();
        let known = positions.iter().map(|at| at.shard).chain(self.log.heads.keys().copied());
        let shards: BTreeSet<u16> = known.collect();
        self.shards.retain(|shard, _| shards.contains(shard));
        for shard in shards {
            let stands = positions.iter().find(|at| at.shard == shard);
            let head = self.log.heads.get(&shard).copied().unwrap_or_default();
            let position = stands.map_or(0, |at| at.position);
            let at = ShardProgress {
                shard,
                position,
                recorded_at: stands.map_or_else(Timestamp::default, |at| at.recorded_at),
                head: head.max(position),
            };
            let before = self.shards.get(&shard);
            let well = match before {
                Some(before) if before.at.position == position && position < at.head => before.well,
                _ => now,
            };
            self.shards.insert(shard, Followed { at, well });
        }
        let still = |shard: &&Followed| now.duration_since(shard.well) > self.settings.stalled_after;
        let stalled: Vec<&ShardProgress> = self.shards.values().filter(still).map(|shard| &shard.at).collect();
        let state = stalled.first().map_or(RunnerState::Running, |at| RunnerState::Stalled {
            shard: at.shard,
            position: at.position + 1,
            reason: format!(
                "the views have not moved for {} s, and the log has {} events more",
                self.settings.stalled_after.as_secs(),
                at.head - at.position
            ),
        });
        let stalled = stalled.iter().map(|at| at.shard).collect();
        self.tell(state, stalled);
    }

    /// Says that nobody knows.
    fn unread(&self, error: &ReadError) {
        let all = self.log.count.unwrap_or(Shards::ONE).all();
        let stalled: BTreeSet<u16> = all.chain(self.shards.keys().copied()).collect();
        let state = RunnerState::Stalled {
            shard: 0,
            position: self.shards.get(&0).map_or(1, |shard| shard.at.position + 1),
            reason: error.to_string(),
        };
        self.tell(state, stalled.into_iter().collect());
    }

    fn tell(&self, state: RunnerState, stalled: Vec<u16>) {
        let now = Progress {
            shards: self.shards.values().map(|shard| shard.at).collect(),
            state,
            stalled,
            count: self.log.count,
        };
        self.report.send_if_modified(|progress| {
            match (&progress.state, &now.state) {
                (RunnerState::Running, RunnerState::Stalled { reason, .. }) => tracing::error!(reason, "the views are stalled"),
                (RunnerState::Stalled { .. }, RunnerState::Running) => tracing::info!("all views go on"),
                _ => {}
            }
            let news = *progress != now;
            *progress = now;
            news
        });
    }
}

impl Log {
    /// Asks for the heads, unless that was done a moment ago.
    fn ask(&mut self, every: Duration) {
        if self.asked.is_some_and(|asked| asked.elapsed() < every) {
            return;
        }
        self.asked = Some(Instant::now());
        if let Err(error) = self.read() {
            self.reader = None;
            tracing::debug!(%error, "the log does not say how far it is");
        }
    }

    fn read(&mut self) -> Result<(), StoreError> {
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.store.reader()?,
        };
        if self.count.is_none() {
            self.count = reader.shard_count()?;
        }
        self.heads = reader.heads()?.into_iter().map(|head| (head.shard, head.position)).collect();
        self.reader = Some(reader);
        Ok(())
    }
}
