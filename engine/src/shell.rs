//! The shell around the cores: threads, the store, the provider's client, the clock, and the way from shard to shard.
//!
//! One thread runs the core of each shard, another writes the batches of all, so that one batch is decided while the one before it is made
//! durable.

mod clock;
mod provider;
mod traced;
mod transport;
mod worker;
mod writing;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use aggregates::{Class, Kind, Recorded, Refusal, State, Timestamp};
use event_store::{Batch, CommitError, EventStore, Head, LogReader, LogWriter, Shards, StoreError};
use parking_lot::Mutex;
use payment_gateway::PaymentGateway;
use tokio::sync::{Semaphore, oneshot, watch};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::{Core, CoreSettings, EngineError, Input, Reply, Request, Response, SetAside, Unpark, Versioned};
use clock::{Clock, now};
use provider::Caller;
use traced::{Traced, Traces};
pub use transport::{InProcess, Inboxes, Transport};
use worker::{Meters, Worker};
pub use writing::after_doubt;
use writing::{Taken, write_batches};

/// Called with events right after they became durable, those of a shard in order. Must not block.
pub type Subscriber = Box<dyn Fn(&Arc<[Recorded]>) + Send + Sync>;

/// What an engine is told when it starts.
pub struct EngineSettings {
    /// Of the core.
    pub core: CoreSettings,
    /// Names this data directory: the same instance takes its shards back at once.
    pub instance: Uuid,
    /// How long the provider has to answer a call.
    pub payment_timeout: Duration,
    /// How many requests may wait for their answers; more are refused at once.
    pub queue: usize,
    /// How many requests may wait for an aggregate to change.
    pub watchers: usize,
    /// How many calls of the provider may be under way at once.
    pub calls: usize,
    /// Takes messages from shard to shard.
    pub transport: Arc<dyn Transport>,
}

impl EngineSettings {
    /// The settings that the shop runs with.
    pub fn new(core: CoreSettings, instance: Uuid) -> Self {
        Self {
            core,
            instance,
            payment_timeout: Duration::from_secs(5),
            queue: 4_096,
            watchers: 16_384,
            calls: 2_048,
            transport: Arc::new(InProcess),
        }
    }
}

/// Under which an answer leaves.
struct Ticket {
    answer: oneshot::Sender<Result<Response, EngineError>>,
    /// The place in the queue, taken until there is an answer: also when nobody waits for it any more.
    _place: Option<Counted>,
    /// Of a request whose trace is collected.
    traced: Option<Box<Traced>>,
}

enum Post {
    Input(Input<Ticket>),
    Stop,
}

/// The handle by which everything is changed and asked. Cloning it is cheap.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("log_id", &self.shared.log_id)
            .finish_non_exhaustive()
    }
}

struct Shared {
    shards: Shards,
    inboxes: Inboxes,
    waiting: Arc<AtomicUsize>,
    watching: Arc<AtomicUsize>,
    /// What each shard's engine is owed an answer to.
    unanswered: Box<[AtomicUsize]>,
    stopping: AtomicBool,
    queue: usize,
    watchers: usize,
    log_id: Uuid,
    clock: Mutex<Clock>,
    ended: watch::Receiver<Option<String>>,
}

/// An engine that runs; ends it in order.
#[derive(Debug)]
pub struct Running {
    engine: Engine,
    threads: Vec<thread::JoinHandle<()>>,
}

/// Counts itself while it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn below(counter: &Arc<AtomicUsize>, limit: usize, full: &'static str) -> Result<Self, EngineError> {
        let counted = Self(Arc::clone(counter));
        let others = counter.fetch_add(1, Ordering::Relaxed);
        if others < limit { Ok(counted) } else { Err(turned_away(full)) }
    }
}

/// Where there may be no room.
const QUEUE: &str = "queue";
const WATCHERS: &str = "watchers";
const UNANSWERED: &str = "unanswered";

fn turned_away(full: &'static str) -> EngineError {
    metrics::counter!("jangbu_engine_rejected_total", "full" => full).increment(1);
    EngineError::Overloaded
}

/// How much an engine has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests without an answer.
    pub waiting: usize,
    /// Requests that wait for an aggregate to change.
    pub watching: usize,
    /// Calls of the provider and messages to other shards without an answer, by shard.
    pub unanswered: Vec<usize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// With more calls of the provider and messages to other shards than this without an answer, new requests are turned away.
const MOST_UNANSWERED: usize = 20_000;

/// What a shard's thread is made of.
struct Shard {
    head: Head,
    core: Core<Ticket>,
    messages: mpsc::Receiver<Post>,
}

impl Engine {
    /// Takes the log's shards over and begins to work. Provider calls run on `runtime`.
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
        let EngineSettings {
            core: core_settings,
            instance,
            payment_timeout: timeout,
            queue,
            watchers,
            calls,
            transport,
        } = settings;
        for full in [QUEUE, WATCHERS, UNANSWERED] {
            metrics::counter!("jangbu_engine_rejected_total", "full" => full).increment(0);
        }
        provider::begin_to_count();
        let mut writer = store.writer()?;
        let shards = found(writer.as_mut(), core_settings.shards)?;
        let mut taken = Vec::new();
        let mut parts = Vec::new();
        for shard in shards.all() {
            let head = writer.take(shard, instance, now().micros())?;
            let (inbox, messages) = mpsc::channel();
            taken.push(Taken {
                shard,
                epoch: head.epoch,
                inbox,
            });
            let core = Core::new(head.clone(), store.reader()?, core_settings.clone())?;
            parts.push(Shard { head, core, messages });
        }
        let (ended_sender, ended) = watch::channel(None);
        let newest = parts.iter().map(|shard| shard.head.recorded_at).max().unwrap_or_default();
        let shared = Arc::new(Shared {
            shards,
            inboxes: Inboxes::new(taken.iter().map(|taken| taken.inbox.clone()).collect()),
            waiting: Arc::default(),
            watching: Arc::default(),
            unanswered: parts.iter().map(|_| AtomicUsize::new(0)).collect(),
            stopping: AtomicBool::new(false),
            queue,
            watchers,
            log_id: parts.first().map_or(Uuid::nil(), |shard| shard.head.log_id),
            clock: Mutex::new(Clock::from(Timestamp::from_micros(newest))),
            ended,
        });
        let (batches, batches_to_write) = mpsc::channel();
        let store_thread = start_writing(writer, store.reader()?, taken, batches_to_write)?;
        let caller = Caller {
            gateway,
            timeout,
            permits: Arc::new(Semaphore::new(calls)),
            runtime,
        };
        let subscribers: Arc<[Subscriber]> = subscribers.into();
        let mut running = Running {
            engine: Self {
                shared: Arc::clone(&shared),
            },
            threads: Vec::new(),
        };
        for Shard { head, core, messages } in parts {
            let worker = Worker {
                shard: head.shard,
                core,
                shared: Arc::clone(&shared),
                caller: caller.clone(),
                transport: Arc::clone(&transport),
                subscribers: Arc::clone(&subscribers),
                batches: batches.clone(),
                ended: ended_sender.clone(),
                meters: Meters::new(),
                traces: Traces::default(),
                under_way: None,
                durable: None,
            };
            let thread = thread::Builder::new().name(format!("engine-{}", head.shard));
            running
                .threads
                .push(thread.spawn(move || worker.run_to_its_end(&messages)).map_err(no_thread)?);
        }
        // It ends when the last of those does who give it batches.
        running.threads.push(store_thread);
        Ok(running)
    }

    /// Decides a command, and answers when everything that the answer stands on is durable.
    ///
    /// # Errors
    /// [`EngineError`]: there is no answer, and nothing is recorded of the request.
    pub async fn execute(&self, request: Request) -> Result<Reply, EngineError> {
        let (kind, id) = request.command.target();
        let shard = self.shard_of(kind, id);
        let span = traced::span(&request, shard);
        self.execute_in(shard, request, Traced::begin(&span)).instrument(span).await
    }

    async fn execute_in(&self, shard: u16, mut request: Request, traced: Option<Box<Traced>>) -> Result<Reply, EngineError> {
        let place = Counted::below(&self.shared.waiting, self.shared.queue, QUEUE)?;
        if self.unanswered(shard) > MOST_UNANSWERED {
            return Err(turned_away(UNANSWERED));
        }
        if let Some(traced) = &traced {
            // What is recorded says where in the trace it belongs.
            request.cause.traceparent = Some(traced.traceparent().to_owned());
        }
        let input = |ticket| Input::Command(ticket, Box::new(request));
        match self.ask_traced(shard, Some(place), traced, input).await? {
            Response::Reply(reply) => Ok(*reply),
            _ => Err(other_answer()),
        }
    }

    /// The inputs that are set aside because they could not be processed: at most so many, oldest first.
    ///
    /// # Errors
    /// [`EngineError`]: the log cannot be read just now, or the engine is stopping.
    pub async fn parked(&self, limit: usize) -> Result<Vec<SetAside>, EngineError> {
        let mut all = Vec::new();
        for shard in self.shared.shards.all() {
            let place = Counted::below(&self.shared.waiting, self.shared.queue, QUEUE)?;
            match self.ask(shard, Some(place), |ticket| Input::Parked(ticket, limit)).await? {
                Response::Parked(parked) => all.extend(parked),
                _ => return Err(other_answer()),
            }
        }
        all.sort_by_key(SetAside::order_of_attention);
        all.truncate(limit);
        Ok(all)
    }

    /// Processes an input that was set aside, or gives it up. A refusal says why it is not done, and then nothing has changed.
    ///
    /// # Errors
    /// [`EngineError`]: the log cannot be read or written just now, or the engine is stopping.
    pub async fn unpark(&self, unpark: Unpark) -> Result<Result<(), Refusal>, EngineError> {
        let mut unknown = Err(other_answer());
        // One of the shards knows it.
        for shard in self.shared.shards.all() {
            let place = Counted::below(&self.shared.waiting, self.shared.queue, QUEUE)?;
            match self.ask(shard, Some(place), |ticket| Input::Unpark(ticket, unpark)).await? {
                Response::Unparked(Err(refusal)) if refusal.class == Class::Unknown => unknown = Ok(Err(refusal)),
                Response::Unparked(done) => return Ok(done),
                _ => return Err(other_answer()),
            }
        }
        unknown
    }

    /// The aggregate itself, never stale; none when nothing has happened to it. What it shows is durable.
    ///
    /// # Errors
    /// [`EngineError`]: the log cannot be read just now, or the engine is stopping.
    pub async fn read(&self, kind: Kind, id: Uuid) -> Result<Option<Versioned>, EngineError> {
        let place = Counted::below(&self.shared.waiting, self.shared.queue, QUEUE)?;
        let shard = self.shard_of(kind, id);
        self.ask_for_state(shard, Some(place), |ticket| Input::Read(ticket, kind, id)).await
    }

    /// Waits until the aggregate is as wanted: it is looked at now and after each change. Drop the future to stop waiting.
    ///
    /// # Errors
    /// [`EngineError`]: too many are waiting, or the engine is stopping.
    pub async fn watch(&self, kind: Kind, id: Uuid, until: fn(&State) -> bool) -> Result<Versioned, EngineError> {
        // Who stops waiting makes room at once; the core forgets them a little later.
        let _place = Counted::below(&self.shared.watching, self.shared.watchers, WATCHERS)?;
        let shard = self.shard_of(kind, id);
        let state = self
            .ask_for_state(shard, None, |ticket| Input::Watch(ticket, kind, id, until))
            .await?;
        state.ok_or(EngineError::Stopping)
    }

    /// The engine's clock: what is decided later is not decided at an earlier time, also when the system's clock is set back.
    pub fn now(&self) -> Timestamp {
        self.shared.clock.lock().now()
    }

    /// Which log it writes.
    pub fn log_id(&self) -> Uuid {
        self.shared.log_id
    }

    /// Why it ended by itself, once it has: another writer took over, or the disk failed.
    pub fn ended(&self) -> watch::Receiver<Option<String>> {
        self.shared.ended.clone()
    }

    /// How much it has to do.
    pub fn load(&self) -> Load {
        let unanswered = self.shared.unanswered.iter();
        Load {
            waiting: self.shared.waiting.load(Ordering::Relaxed),
            watching: self.shared.watching.load(Ordering::Relaxed),
            unanswered: unanswered.map(|unanswered| unanswered.load(Ordering::Relaxed)).collect(),
        }
    }

    /// How many shards the log has.
    pub fn shards(&self) -> Shards {
        self.shared.shards
    }

    /// Where a transport delivers messages from other processes.
    pub fn inboxes(&self) -> Inboxes {
        self.shared.inboxes.clone()
    }

    fn shard_of(&self, kind: Kind, id: Uuid) -> u16 {
        self.shared.shards.of(kind.key(id))
    }

    /// How many effects and messages of a shard have no answer.
    fn unanswered(&self, shard: u16) -> usize {
        let unanswered = self.shared.unanswered.get(usize::from(shard));
        unanswered.map_or(0, |unanswered| unanswered.load(Ordering::Relaxed))
    }

    async fn ask_for_state(
        &self,
        shard: u16,
        place: Option<Counted>,
        input: impl FnOnce(Ticket) -> Input<Ticket>,
    ) -> Result<Option<Versioned>, EngineError> {
        match self.ask(shard, place, input).await? {
            Response::State(state) => Ok(state),
            _ => Err(other_answer()),
        }
    }

    async fn ask(&self, shard: u16, place: Option<Counted>, input: impl FnOnce(Ticket) -> Input<Ticket>) -> Result<Response, EngineError> {
        self.ask_traced(shard, place, None, input).await
    }

    async fn ask_traced(
        &self,
        shard: u16,
        place: Option<Counted>,
        traced: Option<Box<Traced>>,
        input: impl FnOnce(Ticket) -> Input<Ticket>,
    ) -> Result<Response, EngineError> {
        if self.shared.stopping.load(Ordering::Relaxed) {
            return Err(EngineError::Stopping);
        }
        let (sender, answer) = oneshot::channel();
        let ticket = Ticket {
            answer: sender,
            _place: place,
            traced,
        };
        if !self.shared.inboxes.put(shard, input(ticket)) {
            return Err(EngineError::Stopping);
        }
        answer.await.map_err(|_| EngineError::Stopping)?
    }
}

impl Running {
    /// The handle.
    pub fn engine(&self) -> Engine {
        self.engine.clone()
    }

    /// Takes nothing more, finishes what is begun, and ends. Calls of the provider stay owed. Blocks until all is durable.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.engine.shared.stopping.store(true, Ordering::Relaxed);
        self.engine.shared.inboxes.stop();
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

fn other_answer() -> EngineError {
    EngineError::Unavailable("another answer was expected".to_owned())
}

/// How many shards the log has, which is what the settings say.
fn found(writer: &mut dyn LogWriter, wanted: Shards) -> Result<Shards, StoreError> {
    let shards = writer.found(wanted)?;
    if shards == wanted {
        return Ok(shards);
    }
    Err(StoreError::Foreign(format!(
        "this log was made with {shards} shards and keeps them; set JANGBU_SHARDS={shards}, or use another data directory for {wanted}"
    )))
}

fn start_writing(
    mut writer: Box<dyn LogWriter>,
    reader: Box<dyn LogReader>,
    shards: Vec<Taken>,
    batches: mpsc::Receiver<Arc<Batch>>,
) -> Result<thread::JoinHandle<()>, StoreError> {
    let thread = thread::Builder::new().name("store".to_owned());
    let spawned = thread.spawn(move || {
        let write = AssertUnwindSafe(|| write_batches(writer.as_mut(), reader.as_ref(), &shards, &batches));
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
