//! The shards of this process: those that the group assigns to it, and those whose engines run here.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::{Duration, Instant},
};

use engine::{Engines, Running};
use event_store::StoreError;
use parking_lot::Mutex;

/// How long after a shard could not be taken it is tried again.
const TAKEN_AGAIN: Duration = Duration::from_secs(1);

pub(crate) struct Holds {
    engines: Engines,
    /// How long a process may take for its own that was the group's word once.
    outdated: Duration,
    shards: Mutex<BTreeMap<u16, Held>>,
}

#[derive(Debug)]
struct Held {
    /// Whether it is assigned still: Kafka may have been lost, and then it is kept until somebody else takes it.
    assigned: bool,
    /// Whether records are taken for it.
    open: bool,
    running: Option<Running>,
    /// When it is to be taken.
    try_at: Instant,
    /// From when on whoever has it is to give way. At once when the group has just assigned it. One that was fenced here was assigned to
    /// another, and the group's word that it goes by may be old: it waits until that is impossible.
    seize_from: Instant,
    /// Why it could not be taken.
    trouble: Option<String>,
}

/// For which shards records are taken from now on, and for which not any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) opened: Vec<u16>,
    pub(crate) closed: Vec<u16>,
}

impl Holds {
    /// No shards yet. After `session` the group counts a silent process as gone, and that process knows.
    pub(crate) fn new(engines: Engines, session: Duration) -> Self {
        Self {
            engines,
            outdated: session * 2,
            shards: Mutex::default(),
        }
    }

    /// Shards that the group has assigned; nothing is taken for them yet.
    pub(crate) fn assigned(&self, shards: &[u16]) {
        if shards.is_empty() {
            return;
        }
        tracing::info!(?shards, "shards were assigned");
        let now = Instant::now();
        let mut held = self.shards.lock();
        for shard in shards {
            let running = held.remove(shard).and_then(|held| held.running);
            let assigned = Held {
                assigned: true,
                open: false,
                running,
                try_at: now,
                seize_from: now,
                trouble: None,
            };
            held.insert(*shard, assigned);
        }
    }

    /// The group has not heard of this process for a while, or this process of the group: others may have its shards by now. Their epochs
    /// tell. As long as nobody has taken them, they go on here.
    pub(crate) fn lost(&self) {
        let mut lost = Vec::new();
        for (shard, held) in self.shards.lock().iter_mut().filter(|(_, held)| held.assigned) {
            (held.assigned, held.open) = (false, false);
            lost.push(*shard);
        }
        if !lost.is_empty() {
            tracing::warn!(shards = ?lost, "the assignment of shards was lost: they are kept until another process takes them");
        }
    }

    /// Another process is to have them: what is begun is finished first.
    pub(crate) fn give_up(&self, shards: &[u16]) {
        tracing::info!(?shards, "shards are given up");
        let mut held = self.shards.lock();
        let running = shards.iter().filter_map(|shard| held.remove(shard)?.running).collect();
        drop(held);
        stop_all(running);
    }

    pub(crate) fn give_up_all(&self) {
        let all: Vec<_> = self.shards.lock().keys().copied().collect();
        if !all.is_empty() {
            self.give_up(&all);
        }
    }

    /// Puts away what has ended by itself, and takes what is to be taken.
    pub(crate) fn look_after(&self) -> Changes {
        let closed = self.put_away();
        self.take(&self.due());
        let mut opened = Vec::new();
        for (shard, held) in self.shards.lock().iter_mut() {
            if held.assigned && held.running.is_some() && !held.open {
                held.open = true;
                opened.push(*shard);
            }
        }
        Changes { opened, closed }
    }

    pub(crate) fn all_assigned(&self) -> Vec<u16> {
        self.those(|held| held.assigned)
    }

    pub(crate) fn all_running(&self) -> Vec<u16> {
        self.those(|held| held.running.is_some())
    }

    fn those(&self, wanted: impl Fn(&Held) -> bool) -> Vec<u16> {
        let shards = self.shards.lock();
        shards.iter().filter(|(_, held)| wanted(held)).map(|(shard, _)| *shard).collect()
    }

    /// Why a shard that is assigned does not run.
    pub(crate) fn trouble(&self) -> Option<String> {
        let shards = self.shards.lock();
        let mut assigned = shards.iter().filter(|(_, held)| held.assigned && held.running.is_none());
        assigned.find_map(|(shard, held)| {
            held.trouble
                .as_ref()
                .map(|trouble| format!("shard {shard} does not run here: {trouble}"))
        })
    }

    /// Those that ended by themselves; returns those of them for which records were taken.
    fn put_away(&self) -> Vec<u16> {
        let (mut ended, mut closed) = (Vec::new(), Vec::new());
        let now = Instant::now();
        let mut shards = self.shards.lock();
        for (shard, held) in shards.iter_mut() {
            let reason = held.running.as_ref().and_then(|running| running.ended().borrow().clone());
            let Some(reason) = reason else { continue };
            tracing::warn!(shard, %reason, assigned = held.assigned, "the shard has ended here");
            ended.extend(held.running.take());
            if std::mem::take(&mut held.open) {
                closed.push(*shard);
            }
            held.trouble = Some(reason);
            held.try_at = now + TAKEN_AGAIN;
            held.seize_from = now + self.outdated;
        }
        shards.retain(|_, held| held.assigned || held.running.is_some());
        drop(shards);
        stop_all(ended);
        closed
    }

    /// Shards that are to be taken, and whether whoever has them is to give way.
    fn due(&self) -> Vec<(u16, bool)> {
        let now = Instant::now();
        let shards = self.shards.lock();
        let due = shards
            .iter()
            .filter(|(_, held)| held.assigned && held.running.is_none() && held.try_at <= now);
        due.map(|(shard, held)| (*shard, held.seize_from <= now)).collect()
    }

    /// All at once, and not under the lock: the log may take its time.
    fn take(&self, due: &[(u16, bool)]) {
        thread::scope(|scope| {
            for (shard, seize) in due.iter().copied() {
                scope.spawn(move || {
                    let start = AssertUnwindSafe(|| {
                        if seize {
                            self.engines.start_one(shard)
                        } else {
                            self.engines.start_if_vacant(shard)
                        }
                    });
                    // One shard that cannot be started at all is no reason to give the others up.
                    let taken =
                        catch_unwind(start).unwrap_or_else(|_| Err(StoreError::Corrupt("its engine panicked when it started".to_owned())));
                    self.taken(shard, taken);
                });
            }
        });
    }

    fn taken(&self, shard: u16, taken: Result<Running, StoreError>) {
        let mut shards = self.shards.lock();
        let Some(held) = shards.get_mut(&shard) else { return };
        match taken {
            Ok(running) => {
                tracing::info!(shard, "the shard is taken");
                held.running = Some(running);
                held.trouble = None;
            }
            Err(error) => {
                held.try_at = Instant::now() + TAKEN_AGAIN;
                let error = error.to_string();
                // It is tried again and again, and said once.
                if held.trouble.as_ref() != Some(&error) {
                    tracing::warn!(shard, %error, "the shard cannot be taken: it is tried again");
                }
                held.trouble = Some(error);
            }
        }
    }
}

/// All at once, so that the slowest counts and not the sum.
fn stop_all(running: Vec<Running>) {
    thread::scope(|scope| {
        for running in running {
            scope.spawn(move || running.stop());
        }
    });
}
