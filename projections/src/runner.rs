//! Keeps the views up to the log: one thread that takes what waits, folds it, saves rows and checkpoint together, and goes on.
//!
//! Events come by the [`Tail`], or from the log when the tail had no room or the views were away. Whatever way they come, each counts
//! once and none is left out: an event that cannot be counted stalls its shard, visibly, until it can. The other shards go on.
//!
//! A log may lose its end (a backup that is restored, a standby that had not got everything) and record other events in its place. So wherever
//! the views go on from a checkpoint, the event there has to be the one that they counted; if it is not, they are filled anew.
//!
//! Of several processes that may write the same views one keeps them. The others stand by, and one of them goes on when that one is stopped,
//! dies, or gives no sign of life; should it come back, it is told so by the store, and stands by in its turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use aggregates::{CommerceEvent, Recorded, Timestamp};
use event_store::{Event, EventStore, Head, LogReader, Shards, StoreError};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    Checkpoint, Move, Tail, ViewsError, ViewsWriter,
    fold::{Fold, FoldError},
    tail::{Waiting, tail},
};

/// How often the store is told that this process keeps the views, when nothing is saved.
const KEPT_EVERY: Duration = Duration::from_secs(1);

/// How soon it is tried to take the views over from another process for the second time.
const SOONEST: Duration = Duration::from_millis(10);

/// How long a thread may be told to stop before it notices.
const NOTICED_WITHIN: Duration = Duration::from_millis(100);

/// Why views cannot go on that counted what the log has lost.
const REPLACED: &str = "it has another event where they counted last";

/// How the views are kept.
#[derive(Clone, Debug)]
pub struct RunnerSettings {
    /// About so many events are counted in one transaction, at most.
    pub batch_events: usize,
    /// So many events may wait; more are read from the log.
    pub tail_events: usize,
    /// So many recent rows of each view are kept in memory.
    pub recent_rows: NonZeroUsize,
    /// How often the log's head is looked at when nothing comes by the tail.
    pub poll: Duration,
    /// Whether the log says when there is something new ([`EventStore::wakes`]): for one that nothing comes to by the tail.
    pub listen: bool,
    /// How often it is tried to take the views over from the process that keeps them; at first more often.
    pub standby: Duration,
    /// How soon a failure is tried again at first, and at last.
    pub backoff: (Duration, Duration),
}

impl Default for RunnerSettings {
    fn default() -> Self {
        Self {
            batch_events: 2_000,
            tail_events: 65_536,
            recent_rows: const { NonZeroUsize::new(16_384).expect("16,384 is not zero") },
            poll: Duration::from_millis(100),
            listen: false,
            standby: Duration::from_millis(500),
            backoff: (Duration::from_millis(100), Duration::from_secs(5)),
        }
    }
}

/// How far the views are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// By shard, in ascending order.
    pub shards: Vec<ShardProgress>,
    /// Whether they go on.
    pub state: RunnerState,
    /// The shards that do not go on, in ascending order. Of one of them the state says why.
    pub stalled: Vec<u16>,
    /// How many shards the log has; none as long as the log does not say.
    pub count: Option<Shards>,
}

impl Progress {
    /// Whether this shard does not go on just now.
    pub fn is_stalled(&self, shard: u16) -> bool {
        self.stalled.contains(&shard)
    }

    /// Whether the log has several shards, as far as the views know.
    pub fn several(&self) -> bool {
        self.count.map_or(self.shards.len() > 1, |count| count != Shards::ONE)
    }

    /// The position that the views count up to; 0 when they count nothing of this shard.
    pub fn position(&self, shard: u16) -> u64 {
        self.shards
            .iter()
            .find(|known| known.shard == shard)
            .map_or(0, |known| known.position)
    }
}

/// How far the views are in one shard's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardProgress {
    /// The shard.
    pub shard: u16,
    /// The last event that counts.
    pub position: u64,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// The newest event of the log that the views have heard of.
    pub head: u64,
}

impl ShardProgress {
    /// The last event that counts: where it is, and when it was recorded.
    fn counted(&self) -> (u64, Timestamp) {
        (self.position, self.recorded_at)
    }
}

/// Whether the views go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RunnerState {
    /// They do.
    #[default]
    Running,
    /// Another process writes them, and this one would go on in its place.
    StandingBy {
        /// Who writes them.
        by: String,
    },
    /// They wait, and try again from time to time.
    Stalled {
        /// In this shard.
        shard: u16,
        /// This event does not count yet.
        position: u64,
        /// Why.
        reason: String,
    },
    /// They were stopped.
    Stopped,
}

/// Starts the thread.
#[derive(Debug)]
pub struct Runner;

/// A runner that was started; dropping it stops it.
#[derive(Debug)]
pub struct RunnerHandle {
    tail: Tail,
    progress: watch::Receiver<Progress>,
    /// The runner, and who has it look at the log.
    threads: Vec<JoinHandle<()>>,
}

impl Runner {
    /// Keeps these views up to this log.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(store: Arc<dyn EventStore>, views: Box<dyn ViewsWriter>, settings: RunnerSettings) -> std::io::Result<RunnerHandle> {
        metrics::counter!("jangbu_projection_stalls_total").increment(0);
        metrics::counter!("jangbu_projection_tail_dropped_total").increment(0);
        let (tail, waiting) = tail(settings.tail_events);
        let (report, progress) = watch::channel(Progress::default());
        let listening = settings.listen.then(|| (Arc::clone(&store), tail.clone()));
        let work = Work {
            store,
            reader: None,
            views,
            fold: Fold::new(settings.recent_rows),
            known: None,
            count: None,
            stalls: BTreeMap::new(),
            kept_at: Instant::now(),
            stood_by: 0,
            waiting,
            report,
            settings,
        };
        // From here on what was started is stopped when the rest cannot be.
        let mut handle = RunnerHandle {
            tail,
            progress,
            threads: Vec::new(),
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        handle.threads.push(thread("projections").spawn(move || work.run())?);
        if let Some((store, tail)) = listening {
            handle
                .threads
                .push(thread("projections-wakes").spawn(move || listen(&*store, &tail))?);
        }
        Ok(handle)
    }
}

impl RunnerHandle {
    /// Where the engine offers what it has recorded.
    pub fn tail(&self) -> Tail {
        self.tail.clone()
    }

    /// How far the views are, now and from now on.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Finishes the batch at hand and ends the thread. What waits is read from the log at the next start.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.tail.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("the views' thread had panicked");
            }
        }
    }
}

impl Drop for RunnerHandle {
    fn drop(&mut self) {
        self.end();
    }
}

/// Has the log looked at whenever it may have something new.
fn listen(store: &dyn EventStore, tail: &Tail) {
    while !tail.stopped() {
        match store.wakes() {
            Ok(Some(mut wakes)) => {
                // What was recorded before it was heard.
                tail.look();
                while !tail.stopped() {
                    if wakes.wait(NOTICED_WITHIN) {
                        tail.look();
                    }
                }
            }
            Ok(None) => return,
            // Until it works the log is looked at from time to time.
            Err(error) => {
                tracing::debug!(%error, "the log does not say when there is something new");
                std::thread::sleep(NOTICED_WITHIN);
            }
        }
    }
}

/// Why the views do not go on.
struct Trouble {
    shard: u16,
    position: u64,
    reason: String,
    whose: Whose,
}

/// Whom a trouble keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Its shard alone.
    OneShard,
    /// Every shard.
    AllShards,
    /// Nobody: another process writes the views.
    Nobody,
}

/// A shard that does not go on.
struct Stall {
    trouble: Trouble,
    failures: u32,
    /// When it is tried again.
    again: Instant,
}

/// What is counted.
struct Known {
    /// None while there is no log.
    log: Option<Uuid>,
    shards: BTreeMap<u16, ShardProgress>,
}

struct Work {
    store: Arc<dyn EventStore>,
    /// None before the first use, and after an error.
    reader: Option<Box<dyn LogReader>>,
    views: Box<dyn ViewsWriter>,
    fold: Fold,
    /// None before the first use, and when what is stored may differ from what was believed.
    known: Option<Known>,
    /// How many shards the log has, once it says so.
    count: Option<Shards>,
    stalls: BTreeMap<u16, Stall>,
    /// When the store was last told that this process keeps the views.
    kept_at: Instant,
    /// How often it was another process that keeps them, one time after the other.
    stood_by: u32,
    waiting: Waiting,
    report: watch::Sender<Progress>,
    settings: RunnerSettings,
}

impl Work {
    fn run(mut self) {
        let mut batches = Vec::new();
        let mut behind = true;
        let mut failures = 0;
        while !self.waiting.stopped() {
            let went = if behind {
                self.catch_up().map(|()| false)
            } else {
                self.waiting.take(&mut batches, self.settings.batch_events, self.settings.poll);
                if batches.is_empty() {
                    Ok(true)
                } else {
                    self.count_offered(&batches)
                }
            };
            match went {
                Ok(more) => {
                    behind = more | self.waiting.look() | self.is_due();
                    failures = 0;
                }
                Err(trouble) => {
                    let pause = self.interrupted(&trouble, &mut failures);
                    self.pause(&mut batches, pause);
                    behind = true;
                }
            }
        }
        self.views.give_up();
        self.report.send_modify(|progress| progress.state = RunnerState::Stopped);
    }

    /// Whether something has to be done however much comes by the tail: a stalled shard is tried again, or the store is told of us.
    fn is_due(&self) -> bool {
        let now = Instant::now();
        self.stalls.values().any(|stall| stall.again <= now) || now.duration_since(self.kept_at) >= KEPT_EVERY
    }

    /// Somebody else may have written: it begins again with what is stored, after a while, which is returned.
    fn interrupted(&mut self, trouble: &Trouble, failures: &mut u32) -> Duration {
        if trouble.whose == Whose::Nobody {
            match self.stand_by(&trouble.reason) {
                Ok(()) => {
                    *failures = 0;
                    // A holder that was killed is gone in a moment; one that lives is asked after more and more seldom.
                    let pause = SOONEST.saturating_mul(1 << self.stood_by.min(16)).min(self.settings.standby);
                    self.stood_by = self.stood_by.saturating_add(1);
                    return pause;
                }
                Err(trouble) => self.stall(&trouble, *failures),
            }
        } else {
            self.stall(trouble, *failures);
            // Another process may be better off.
            self.views.give_up();
        }
        self.fold.forget();
        self.known = None;
        let pause = self.backoff(*failures);
        *failures = failures.saturating_add(1);
        pause
    }

    /// Says how far the views are that another process writes.
    fn stand_by(&mut self, by: &str) -> Result<(), Trouble> {
        self.fold.forget();
        self.stalls.clear();
        self.known = Some(self.stored()?);
        for head in self.heads().map_err(|error| self.unread(0, 0, &error, Whose::AllShards))? {
            self.heard(head.shard, head.position);
        }
        self.tell();
        self.known = None;
        let state = RunnerState::StandingBy { by: by.to_owned() };
        self.report.send_if_modified(|progress| {
            let news = progress.state != state || !progress.stalled.is_empty();
            if !matches!(progress.state, RunnerState::StandingBy { .. }) {
                tracing::info!(by, "another process keeps the views: this one stands by");
            }
            (progress.state, progress.stalled) = (state, Vec::new());
            news
        });
        Ok(())
    }

    fn stored(&mut self) -> Result<Known, Trouble> {
        let stored = self.views.stored().map_err(|error| unsaved(0, 1, error))?;
        let shards = stored.checkpoints.iter().map(|at| (at.shard, ShardProgress::from(*at))).collect();
        Ok(Known { log: stored.log, shards })
    }

    fn heard(&mut self, shard: u16, head: u64) {
        if let Some(known) = &mut self.known {
            heard_of(&mut known.shards, shard, head);
        }
    }

    /// Counts what came by the tail; tells whether the log holds something that did not.
    fn count_offered(&mut self, batches: &[Arc<[Recorded]>]) -> Result<bool, Trouble> {
        let Some(Known { log: Some(_), shards }) = &mut self.known else {
            return Ok(true);
        };
        let mut accepted = Vec::new();
        let mut ends: BTreeMap<u16, (u64, Timestamp)> = shards.values().map(|known| (known.shard, known.counted())).collect();
        let mut gap = false;
        for recorded in batches.iter().flat_map(|batch| batch.iter()) {
            let end = ends.entry(recorded.shard).or_default();
            if self.stalls.contains_key(&recorded.shard) {
                // It is read from the log when its shard is tried again.
                heard_of(shards, recorded.shard, recorded.position);
            } else if recorded.position == end.0 + 1 {
                *end = (recorded.position, recorded.at);
                accepted.push(recorded);
            } else if recorded.position > end.0 {
                gap = true;
                heard_of(shards, recorded.shard, recorded.position);
            } else if recorded.position == end.0 && recorded.at != end.1 {
                // Another event than the one that is counted: the log decides.
                return Ok(true);
            } // Else it counts already.
        }
        match self.count(&accepted) {
            Ok(()) => Ok(gap),
            Err(trouble) if trouble.whose != Whose::OneShard => Err(trouble),
            Err(trouble) => {
                self.stall_shard(trouble);
                Ok(true)
            }
        }
    }

    /// Counts what the log holds and the views do not.
    fn catch_up(&mut self) -> Result<(), Trouble> {
        let heads = self.align()?;
        let mut more = true;
        // A batch of each in turn: a shard that is far behind does not keep the others waiting.
        while more && !self.waiting.stopped() {
            more = false;
            for (shard, head) in &heads {
                self.heard(*shard, *head);
                if self.stalls.get(shard).is_some_and(|stall| Instant::now() < stall.again) {
                    continue;
                }
                match self.count_logged(*shard, *head) {
                    Ok(true) => more = true,
                    Ok(false) => {
                        if self.stalls.remove(shard).is_some() {
                            tracing::info!(shard, "the views go on in this shard");
                        }
                    }
                    Err(trouble) if trouble.whose != Whose::OneShard => return Err(trouble),
                    Err(trouble) => self.stall_shard(trouble),
                }
            }
        }
        self.go_on();
        Ok(())
    }

    /// Counts the next batch of a shard's log; tells whether there was one. It is read from the last event on that counts: the others follow
    /// what is counted only if the log still has that one.
    fn count_logged(&mut self, shard: u16, head: u64) -> Result<bool, Trouble> {
        let (after, recorded_at) = self.counted(shard);
        if after >= head {
            return Ok(false);
        }
        let from = after.saturating_sub(1);
        let limit = self.settings.batch_events.saturating_add(1);
        let mut events = self
            .reader()
            .and_then(|reader| reader.events(shard, from, limit))
            .map_err(|error| self.unread(shard, after, &error, Whose::OneShard))?
            .into_iter()
            .peekable();
        let last = events.next_if(|event| event.position == after);
        if last.is_some_and(|event| Timestamp::from_micros(event.recorded_at) != recorded_at) {
            self.fill_anew(REPLACED)?;
            return Ok(true);
        }
        let (recorded, poison) = decode(shard, after, events);
        self.count(&recorded.iter().collect::<Vec<_>>())?;
        if let Some(poison) = poison {
            return Err(poison);
        }
        if recorded.is_empty() {
            let reason = format!("the log ends before its head {head}");
            return Err(Trouble {
                shard,
                position: after + 1,
                reason,
                whose: Whose::OneShard,
            });
        }
        Ok(true)
    }

    /// Makes sure that what is stored was folded from this log, and drops it otherwise. Returns the log's heads.
    fn align(&mut self) -> Result<Vec<(u16, u64)>, Trouble> {
        if self.known.is_none() {
            self.views.take().map_err(|error| unsaved(0, 1, error))?;
            self.kept_at = Instant::now();
            self.stood_by = 0;
            self.known = Some(self.stored()?);
        } else if self.kept_at.elapsed() >= KEPT_EVERY {
            self.views.keep().map_err(|error| unsaved(0, 1, error))?;
            self.kept_at = Instant::now();
        }
        let heads = self.heads().map_err(|error| self.unread(0, 0, &error, Whose::AllShards))?;
        let Some(log) = heads.first().map(|head| head.log_id) else {
            return Ok(Vec::new());
        };
        let folded_from = self.known.as_ref().and_then(|known| known.log);
        if folded_from != Some(log) {
            self.begin(log, folded_from.map(|_| "it has another id"))?;
        } else if let Some(why) = self.contradicted(&heads) {
            self.fill_anew(why)?;
        }
        Ok(heads.into_iter().map(|head| (head.shard, head.position)).collect())
    }

    /// Why a log with these heads is not the one that was counted, although it has the same id.
    ///
    /// That its last event is the one that counts is told by when it was recorded: its id names but a place and an epoch, and whoever goes on
    /// with a log that lost its end may write under the same epoch again.
    fn contradicted(&self, heads: &[Head]) -> Option<&'static str> {
        let known = self.known.as_ref()?;
        known.shards.values().find_map(|known| {
            let (position, recorded_at) = known.counted();
            let head = heads.iter().find(|head| head.shard == known.shard);
            let (end, ended_at) = head.map_or((0, 0), |head| (head.position, head.recorded_at));
            if position > end {
                Some("it ends before the last event that they count")
            } else {
                let replaced = position > 0 && position == end && recorded_at != Timestamp::from_micros(ended_at);
                replaced.then_some(REPLACED)
            }
        })
    }

    /// Drops what was folded from a history that the log does not have any more.
    fn fill_anew(&mut self, why: &str) -> Result<(), Trouble> {
        match self.known.as_ref().and_then(|known| known.log) {
            Some(log) => self.begin(log, Some(why)),
            None => Ok(()),
        }
    }

    /// Begins with nothing: the views are folded from this log from now on. What was folded before, if anything was, is not right, for a reason.
    fn begin(&mut self, log: Uuid, why: Option<&str>) -> Result<(), Trouble> {
        if let Some(why) = why {
            tracing::warn!(%log, why, "the views were folded from another log than this one: they are filled anew");
        }
        self.fold.forget();
        self.stalls.clear();
        let count = self.reader().and_then(LogReader::shard_count);
        self.count = count.map_err(|error| self.unread(0, 0, &error, Whose::AllShards))?;
        self.views.reset(log).map_err(|error| unsaved(0, 1, error))?;
        self.known = Some(Known {
            log: Some(log),
            shards: BTreeMap::new(),
        });
        Ok(())
    }

    fn heads(&mut self) -> Result<Vec<Head>, StoreError> {
        let count = match self.count {
            // How many shards a log has is fixed once.
            Some(count) => Some(count),
            None => self.reader()?.shard_count()?,
        };
        self.count = count;
        self.reader()?.heads()
    }

    /// Counts events that follow what is counted. Those before one that does not fit are counted.
    fn count(&mut self, events: &[&Recorded]) -> Result<(), Trouble> {
        let Some(first) = events.first() else { return Ok(()) };
        match self.fold.apply(events, &mut *self.views) {
            Ok(()) => self.save(events),
            Err(FoldError::Views(error)) => {
                self.fold.forget();
                Err(unsaved(first.shard, first.position, error))
            }
            Err(FoldError::Unfit { index, reason }) => {
                self.fold.forget();
                self.count(&events[..index])?;
                Err(Trouble {
                    shard: events[index].shard,
                    position: events[index].position,
                    reason,
                    whose: Whose::OneShard,
                })
            }
        }
    }

    fn save(&mut self, events: &[&Recorded]) -> Result<(), Trouble> {
        let Some(known) = &mut self.known else { return Ok(()) };
        let moves = moves(&known.shards, events);
        let saved = self.views.save(&self.fold.changed(&moves));
        if let Err(error) = saved {
            // What is stored may differ from what was believed.
            self.fold.forget();
            self.known = None;
            let (shard, position) = moves.first().map_or((0, 1), |first| (first.shard, first.from + 1));
            return Err(unsaved(shard, position, error));
        }
        self.fold.saved();
        self.kept_at = Instant::now();
        for Move {
            shard, to, recorded_at, ..
        } in moves
        {
            let progress = heard_of(&mut known.shards, shard, to);
            progress.position = to;
            progress.recorded_at = recorded_at;
        }
        measure(events);
        self.tell();
        Ok(())
    }

    fn counted(&self, shard: u16) -> (u64, Timestamp) {
        let known = self.known.as_ref().and_then(|known| known.shards.get(&shard));
        known.map_or_else(Default::default, ShardProgress::counted)
    }

    fn reader(&mut self) -> Result<&dyn LogReader, StoreError> {
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.store.reader()?,
        };
        Ok(&**self.reader.insert(reader))
    }

    fn unread(&mut self, shard: u16, after: u64, error: &StoreError, whose: Whose) -> Trouble {
        self.reader = None;
        Trouble {
            shard,
            position: after + 1,
            reason: error.to_string(),
            whose,
        }
    }

    /// Says how far the views are.
    fn tell(&self) {
        let (shards, count) = (self.shards(), self.count);
        for known in &shards {
            gauge(
                "jangbu_projection_behind_events",
                known.shard,
                known.head.saturating_sub(known.position),
            );
            gauge(
                "jangbu_projection_stalled",
                known.shard,
                u64::from(self.stalls.contains_key(&known.shard)),
            );
        }
        self.report.send_if_modified(|progress| {
            let news = progress.shards != shards || progress.count != count;
            (progress.shards, progress.count) = (shards, count);
            news
        });
    }

    /// Says that nothing is left behind any more, but for the shards that are stalled.
    fn go_on(&self) {
        self.tell();
        let state = self
            .stalls
            .values()
            .next()
            .map_or(RunnerState::Running, |stall| stall.trouble.state());
        let stalled: Vec<_> = self.stalls.keys().copied().collect();
        self.report.send_if_modified(|progress| {
            let news = progress.state != state || progress.stalled != stalled;
            if news && state == RunnerState::Running {
                tracing::info!("all views go on");
            }
            (progress.state, progress.stalled) = (state, stalled);
            news
        });
    }

    fn shards(&self) -> Vec<ShardProgress> {
        self.known.iter().flat_map(|known| known.shards.values().copied()).collect()
    }

    /// One shard does not go on; it is tried again a little later.
    fn stall_shard(&mut self, trouble: Trouble) {
        let before = self.stalls.remove(&trouble.shard);
        let failures = before
            .filter(|stall| stall.trouble.position == trouble.position)
            .map_or(0, |stall| stall.failures.saturating_add(1));
        trouble.tell(failures);
        let again = Instant::now() + self.backoff(failures);
        let stall = Stall { trouble, failures, again };
        self.stalls.insert(stall.trouble.shard, stall);
    }

    /// No shard goes on.
    fn stall(&self, trouble: &Trouble, failures: u32) {
        trouble.tell(failures);
        let shards = self.shards();
        let state = trouble.state();
        let all = self.count.unwrap_or(Shards::ONE).all();
        self.report.send_modify(|progress| {
            if !shards.is_empty() {
                progress.shards = shards;
            }
            let known = progress.shards.iter().map(|known| known.shard);
            progress.stalled = all.chain(known).collect::<BTreeSet<_>>().into_iter().collect();
            progress.state = state;
            for shard in &progress.stalled {
                gauge("jangbu_projection_stalled", *shard, 1);
            }
        });
    }

    fn backoff(&self, failures: u32) -> Duration {
        let (first, last) = self.settings.backoff;
        first.saturating_mul(1 << failures.min(16)).min(last)
    }

    /// Waits before the next try. What comes by the tail meanwhile is in the log as well.
    fn pause(&self, batches: &mut Vec<Arc<[Recorded]>>, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.waiting.stopped() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.waiting.take(batches, self.settings.batch_events, left);
        }
    }
}

impl Trouble {
    fn tell(&self, failures: u32) {
        if failures == 0 {
            let Self { shard, position, .. } = self;
            let reason = self.reason();
            tracing::error!(shard, position, reason, "the views are stalled");
        }
        metrics::counter!("jangbu_projection_stalls_total").increment(1);
    }

    fn state(&self) -> RunnerState {
        RunnerState::Stalled {
            shard: self.shard,
            position: self.position,
            reason: self.reason().to_owned(),
        }
    }

    /// No longer than anybody reads.
    fn reason(&self) -> &str {
        let end = self.reason.char_indices().nth(500).map_or(self.reason.len(), |(end, _)| end);
        &self.reason[..end]
    }
}

impl From<Checkpoint> for ShardProgress {
    fn from(at: Checkpoint) -> Self {
        Self {
            shard: at.shard,
            position: at.position,
            recorded_at: at.recorded_at,
            head: at.position,
        }
    }
}

fn heard_of(shards: &mut BTreeMap<u16, ShardProgress>, shard: u16, head: u64) -> &mut ShardProgress {
    let nothing = ShardProgress {
        shard,
        position: 0,
        recorded_at: Timestamp::default(),
        head: 0,
    };
    let known = shards.entry(shard).or_insert(nothing);
    known.head = known.head.max(head);
    known
}

fn moves(shards: &BTreeMap<u16, ShardProgress>, events: &[&Recorded]) -> Vec<Move> {
    let mut moves: Vec<Move> = Vec::new();
    for recorded in events {
        let (shard, to, recorded_at) = (recorded.shard, recorded.position, recorded.at);
        match moves.iter_mut().find(|known| known.shard == shard) {
            Some(known) => (known.to, known.recorded_at) = (to, recorded_at),
            None => moves.push(Move {
                shard,
                from: shards.get(&shard).map_or(0, |known| known.position),
                to,
                recorded_at,
            }),
        }
    }
    moves
}

/// Reads what the log holds after a position, up to the first event that cannot be read.
fn decode(shard: u16, after: u64, events: impl Iterator<Item = Event>) -> (Vec<Recorded>, Option<Trouble>) {
    let mut recorded = Vec::with_capacity(events.size_hint().0);
    for (event, position) in events.zip(after + 1..) {
        if event.position != position {
            let reason = format!("the log has {} where {position} belongs", event.position);
            let whose = Whose::OneShard;
            return (
                recorded,
                Some(Trouble {
                    shard,
                    position,
                    reason,
                    whose,
                }),
            );
        }
        match CommerceEvent::decode(&event.stream.kind, event.stream.id, &event.payload) {
            Ok(decoded) => {
                let at = Timestamp::from_micros(event.recorded_at);
                recorded.push(Recorded {
                    shard,
                    position,
                    sequence: event.sequence,
                    at,
                    event: decoded,
                });
            }
            Err(error) => {
                return (
                    recorded,
                    Some(Trouble {
                        shard,
                        position,
                        reason: error.to_string(),
                        whose: Whose::OneShard,
                    }),
                );
            }
        }
    }
    (recorded, None)
}

fn unsaved(shard: u16, position: u64, error: ViewsError) -> Trouble {
    let (reason, whose) = match error {
        ViewsError::Held(by) => (by, Whose::Nobody),
        ViewsError::Moved(_) | ViewsError::Unavailable(_) => (error.to_string(), Whose::AllShards),
    };
    Trouble {
        shard,
        position,
        reason,
        whose,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn gauge(name: &'static str, shard: u16, value: u64) {
    metrics::gauge!(name, "shard" => shard.to_string()).set(value as f64);
}

/// How long after it was recorded an event counted, for each event.
fn measure(events: &[&Recorded]) {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |now| i64::try_from(now.as_micros()).unwrap_or(i64::MAX));
    let lag = metrics::histogram!("jangbu_projection_lag_seconds");
    for together in events.chunk_by(|one, next| one.at == next.at) {
        let micros = now.saturating_sub(together[0].at.micros()).max(0);
        lag.record_many(Duration::from_micros(micros.unsigned_abs()).as_secs_f64(), together.len());
    }
    metrics::histogram!("jangbu_projection_batch_events").record(u32::try_from(events.len()).unwrap_or(u32::MAX));
    metrics::counter!("jangbu_projection_events_total").increment(events.len() as u64);
    for together in events.chunk_by(|one, next| one.shard == next.shard) {
        if let Some(last) = together.last() {
            gauge("jangbu_projection_position", last.shard, last.position);
        }
    }
}
