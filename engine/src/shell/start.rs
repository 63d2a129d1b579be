//! Engines are started, and ended in order.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread,
};

use aggregates::Timestamp;
use event_store::{CommitError, EventStore, Head, LogReader, LogWriter, Shards, StoreError};
use payment_gateway::PaymentGateway;
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use super::{
    Engine, EngineSettings, Post, Subscriber, Ticket, Transport,
    clock::now,
    doubt::Doubt,
    provider::{self, Caller},
    traced::Traces,
    worker::{Meters, Worker},
    writing::{Job, Taken, write_batches},
};
use crate::{Core, CoreSettings};

/// What the engines of this process are made of: the shards of a log are started here, all at once or as they come.
pub struct Engines {
    store: Arc<dyn EventStore>,
    core: CoreSettings,
    instance: Uuid,
    caller: Caller,
    transport: Arc<dyn Transport>,
    subscribers: Arc<[Subscriber]>,
    engine: Engine,
}

impl fmt::Debug for Engines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engines").field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// Engines of shards that run; ends them in order.
#[derive(Debug)]
pub struct Running {
    engine: Engine,
    workers: Vec<(mpsc::Sender<Post>, u16)>,
    threads: Vec<thread::JoinHandle<()>>,
    ended: watch::Receiver<Option<String>>,
}

/// A shard that was taken, and what its thread is made of.
struct Shard {
    head: Head,
    core: Core<Ticket>,
    inbox: mpsc::Sender<Post>,
    messages: mpsc::Receiver<Post>,
}

impl Engine {
    /// Takes all of the log's shards over and begins to work. Provider calls run on `runtime`.
    ///
    /// # Errors
    /// The log cannot be read, is damaged, is held by another process, or has another number of shards.
    pub fn start(
        store: &Arc<dyn EventStore>,
        gateway: Arc<dyn PaymentGateway>,
        settings: EngineSettings,
        subscribers: Vec<Subscriber>,
        runtime: tokio::runtime::Handle,
    ) -> Result<Running, StoreError> {
        Engines::new(store, gateway, settings, subscribers, runtime).start_all()
    }
}

impl Engines {
    /// Engines that are started later. Provider calls run on `runtime`.
    pub fn new(
        store: &Arc<dyn EventStore>,
        gateway: Arc<dyn PaymentGateway>,
        settings: EngineSettings,
        subscribers: Vec<Subscriber>,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        provider::begin_to_count();
        let engine = Engine::of(settings.core.shards, &settings);
        Self {
            store: Arc::clone(store),
            caller: Caller {
                gateway,
                timeout: settings.payment_timeout,
                permits: Arc::new(Semaphore::new(settings.calls)),
                runtime,
            },
            core: settings.core,
            instance: settings.instance,
            transport: settings.transport,
            subscribers: subscribers.into(),
            engine,
        }
    }

    /// The handle.
    pub fn engine(&self) -> Engine {
        self.engine.clone()
    }

    /// Takes every shard of the log. When one of them ends by itself, [`Engine::ended`] says why, and the process has to end.
    ///
    /// # Errors
    /// The log cannot be read, is damaged, is held by another process, or has another number of shards.
    pub fn start_all(&self) -> Result<Running, StoreError> {
        let mut writer = self.writer()?;
        let take = |shard| writer.take(shard, self.instance, now().micros());
        let heads = self.core.shards.all().map(take).collect::<Result<_, _>>()?;
        self.run(writer, heads, &self.engine.shared.ended)
    }

    /// Takes one shard from whoever holds it: the caller knows that it is this process's own now. When it ends by itself,
    /// [`Running::ended`] says why, and the others go on.
    ///
    /// # Errors
    /// The log cannot be read, is damaged, or has another number of shards; [`StoreError::Held`] when it is kept from everybody.
    pub fn start_one(&self, shard: u16) -> Result<Running, StoreError> {
        let mut writer = self.writer()?;
        let head = writer.seize(shard, self.instance, now().micros())?;
        self.run(writer, vec![head], &watch::Sender::new(None))
    }

    /// As [`start_one`](Self::start_one), but leaves the shard to a holder that lives.
    ///
    /// # Errors
    /// [`StoreError::Held`], and those.
    pub fn start_if_vacant(&self, shard: u16) -> Result<Running, StoreError> {
        let mut writer = self.writer()?;
        let head = writer.take(shard, self.instance, now().micros())?;
        self.run(writer, vec![head], &watch::Sender::new(None))
    }

    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError> {
        let mut writer = self.store.writer()?;
        found(writer.as_mut(), self.core.shards)?;
        Ok(writer)
    }

    /// The shards of these heads, which were taken, begin to work.
    fn run(&self, writer: Box<dyn LogWriter>, heads: Vec<Head>, ended: &watch::Sender<Option<String>>) -> Result<Running, StoreError> {
        let shared = &self.engine.shared;
        let mut shards = Vec::new();
        for head in heads {
            let (inbox, messages) = mpsc::channel();
            let core = Core::new(head.clone(), self.store.reader()?, self.core.clone())?;
            shards.push(Shard {
                head,
                core,
                inbox,
                messages,
            });
        }
        for Shard { head, .. } in &shards {
            shared.inboxes.learn_log_id(head.log_id);
            shared.clock.lock().at_least(Timestamp::from_micros(head.recorded_at));
            shared.inboxes.heard_of(head.shard, head.position);
        }
        let taken = |shard: &Shard| Taken {
            shard: shard.head.shard,
            epoch: shard.head.epoch,
            inbox: shard.inbox.clone(),
        };
        let taken = shards.iter().map(taken).collect();
        let (jobs, to_do) = mpsc::channel();
        let store_thread = start_writing(writer, self.store.reader()?, taken, to_do)?;
        // What is remembered is what is as long as nobody else can have the shard.
        let may_be_taken = shared.elsewhere.is_some() || self.store.is_shared();
        let mut running = Running {
            engine: self.engine(),
            workers: Vec::new(),
            threads: Vec::new(),
            ended: ended.subscribe(),
        };
        for shard in shards {
            let number = shard.head.shard;
            running.workers.push((shard.inbox.clone(), number));
            shared.inboxes.open(number, shard.inbox.clone());
            let worker = Worker {
                shard: number,
                core: shard.core,
                inbox: shard.inbox,
                shared: Arc::clone(shared),
                caller: self.caller.clone(),
                transport: Arc::clone(&self.transport),
                subscribers: Arc::clone(&self.subscribers),
                jobs: jobs.clone(),
                doubt: Doubt::new(may_be_taken),
                ended: ended.clone(),
                meters: Meters::new(),
                traces: Traces::default(),
                taken_over: false,
                under_way: None,
                durable: None,
            };
            let messages = shard.messages;
            let thread = thread::Builder::new().name(format!("engine-{number}"));
            running
                .threads
                .push(thread.spawn(move || worker.run_to_its_end(&messages)).map_err(no_thread)?);
        }
        // It ends when the last of those does who give it batches.
        running.threads.push(store_thread);
        Ok(running)
    }
}

impl Running {
    /// The handle.
    pub fn engine(&self) -> Engine {
        self.engine.clone()
    }

    /// Why one of these engines ended by itself, once it has.
    pub fn ended(&self) -> watch::Receiver<Option<String>> {
        self.ended.clone()
    }

    /// Takes nothing more, finishes what is begun, and ends. Calls of the provider stay owed. Blocks until all is durable.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        for (inbox, shard) in self.workers.drain(..) {
            self.engine.shared.inboxes.close(shard);
            // One that has ended already does not listen.
            let _ = inbox.send(Post::Stop);
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the engine panicked");
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Fixes how many shards the log has, which is what the settings say.
fn found(writer: &mut dyn LogWriter, wanted: Shards) -> Result<(), StoreError> {
    let shards = writer.found(wanted)?;
    if shards == wanted {
        return Ok(());
    }
    Err(StoreError::Foreign(format!(
        "this log was made with {shards} shards and keeps them; set JANGBU_SHARDS={shards}, or use another data directory for {wanted}"
    )))
}

fn start_writing(
    mut writer: Box<dyn LogWriter>,
    reader: Box<dyn LogReader>,
    shards: Vec<Taken>,
    jobs: mpsc::Receiver<Job>,
) -> Result<thread::JoinHandle<()>, StoreError> {
    let thread = thread::Builder::new().name("store".to_owned());
    let spawned = thread.spawn(move || {
        let write = AssertUnwindSafe(|| write_batches(writer.as_mut(), reader.as_ref(), &shards, &jobs));
        if catch_unwind(write).is_err() {
            // Nobody knows what became of the batches: only a new start finds out.
            for taken in &shards {
                taken.tell(Err(CommitError::Disk("the store panicked".into())));
            }
        }
    });
    spawned.map_err(no_thread)
}

fn no_thread(error: std::io::Error) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}
