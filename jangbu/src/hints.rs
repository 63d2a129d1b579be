//! Hints through Redis that there is something new in the log or in the views, from process to process.
//!
//! They save the wait until somebody looks anyway, where the database itself does not tell, or is not heard: `EventStoreDB` is looked at from time
//! to time. They say nothing else. Lost, late or made up, they change no result.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use engine::Subscriber;
use event_store::Wakes as _;
use projections::Progress;
use redis_cache::{Address, RedisWakes, Settings, Topic};
use tokio::{sync::watch, task::AbortHandle};

use crate::failure::Failure;

/// How long a thread may be told to stop before it notices.
const NOTICED_WITHIN: Duration = Duration::from_millis(100);

/// The hints that this process gives and takes; dropping it ends that.
pub(crate) struct Hints {
    log: Arc<RedisWakes>,
    views: Arc<RedisWakes>,
    stop: Arc<AtomicBool>,
    hearing: Vec<JoinHandle<()>>,
    telling: Vec<AbortHandle>,
}

impl Hints {
    /// A connection for each topic. To be called on a tokio runtime.
    pub(crate) fn new(address: &Address) -> Self {
        let wakes = |topic| Arc::new(RedisWakes::start(Settings::new(address.clone()), topic));
        Self {
            log: wakes(Topic::Log),
            views: wakes(Topic::Views),
            stop: Arc::default(),
            hearing: Vec::new(),
            telling: Vec::new(),
        }
    }

    /// Tells others of what the engines of this process record.
    pub(crate) fn tells_of_log(&self) -> Subscriber {
        let log = Arc::clone(&self.log);
        Box::new(move |events| {
            if let Some(last) = events.last() {
                log.notify(last.shard, last.position);
            }
        })
    }

    /// Tells others of what the views of this process count.
    pub(crate) fn tells_of_views(&mut self, mut progress: watch::Receiver<Progress>) {
        let views = Arc::clone(&self.views);
        let telling = tokio::spawn(async move {
            let mut told = Progress::default();
            while progress.changed().await.is_ok() {
                let now = progress.borrow_and_update().clone();
                for shard in &now.shards {
                    if shard.position != told.position(shard.shard) {
                        views.notify(shard.shard, shard.position);
                    }
                }
                told = now;
            }
        });
        self.telling.push(telling.abort_handle());
    }

    /// Does this whenever somebody says that there is something new.
    pub(crate) fn hears(&mut self, topic: Topic, wake: impl Fn() + Send + 'static) -> Result<(), Failure> {
        let wakes = match topic {
            Topic::Log => &self.log,
            Topic::Views => &self.views,
        };
        let (mut news, stop) = (wakes.listener(), Arc::clone(&self.stop));
        let hear = move || {
            while !stop.load(Ordering::Acquire) {
                if news.wait(NOTICED_WITHIN) {
                    wake();
                }
            }
        };
        let thread = std::thread::Builder::new().name("hints".into()).spawn(hear);
        let thread = thread.map_err(|error| Failure::failed(format_args!("no thread can be started: {error}")))?;
        self.hearing.push(thread);
        Ok(())
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for telling in self.telling.drain(..) {
            telling.abort();
        }
        for hearing in self.hearing.drain(..) {
            if hearing.join().is_err() {
                tracing::error!("a thread that hears hints had panicked");
            }
        }
    }
}
