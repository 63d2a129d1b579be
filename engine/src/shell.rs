//! The shell around the cores: threads, the store, the provider's client, the clock, and the way from shard to shard.
//!
//! One thread runs the core of each shard, another writes the batches of all that were started together, so that one batch is decided while
//! the one before it is made durable. A process holds all shards of a log, some that come and go, or none: then it asks the others.

mod clock;
mod doubt;
mod elsewhere;
mod provider;
mod start;
mod traced;
mod transport;
mod worker;
mod writing;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aggregates::{Class, Kind, Recorded, Refusal, Timestamp};
use event_store::{RecordKey, Shards};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::{CoreSettings, EngineError, Idempotency, Input, Question, Reply, Request, Response, SetAside, Unpark, Until, Versioned};
use clock::Clock;
pub use elsewhere::{Answering, Elsewhere};
pub use start::{Engines, Running};
use traced::Traced;
pub use transport::{InProcess, Inboxes, Transport};
pub use writing::after_doubt;

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
    /// How long somebody who only asks waits for a log that does not answer.
    pub answered_within: Duration,
    /// How many requests may wait for their answers; more are refused at once.
    pub queue: usize,
    /// How many requests may wait for an aggregate to change.
    pub watchers: usize,
    /// How many calls of the provider may be under way at once.
    pub calls: usize,
    /// Takes messages from shard to shard.
    pub transport: Arc<dyn Transport>,
    /// Asks the engines of shards that are not in this process; none where all are.
    pub elsewhere: Option<Arc<dyn Elsewhere>>,
}

impl EngineSettings {
    /// The settings that the shop runs with.
    pub fn new(core: CoreSettings, instance: Uuid) -> Self {
        Self {
            core,
            instance,
            payment_timeout: Duration::from_secs(5),
            answered_within: Duration::from_secs(10),
            queue: 4_096,
            watchers: 16_384,
            calls: 2_048,
            transport: Arc::new(InProcess),
            elsewhere: None,
        }
    }
}

/// Under which an answer leaves.
struct Ticket {
    answer: oneshot::Sender<Result<Response, EngineError>>,
    /// The place in the queue, taken until there is an answer: also when nobody waits for it any more.
    _place: Option<Arc<Counted>>,
    /// Of a request whose trace is collected.
    traced: Option<Box<Traced>>,
}

enum Post {
    Input(Input<Ticket>),
    /// What the log says of whose the shard is: this engine's, or it cannot be asked.
    StillOurs(Result<(), String>),
    Stop,
}

/// The handle by which everything is changed and asked. Cloning it is cheap.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("log_id", &self.log_id()).finish_non_exhaustive()
    }
}

struct Shared {
    shards: Shards,
    inboxes: Inboxes,
    elsewhere: Option<Arc<dyn Elsewhere>>,
    waiting: Arc<AtomicUsize>,
    watching: Arc<AtomicUsize>,
    /// Questions of each shard that another process is asked.
    asked: Box<[Arc<AtomicUsize>]>,
    /// What each shard's engine is owed an answer to.
    unanswered: Box<[AtomicUsize]>,
    answered_within: Duration,
    queue: usize,
    watchers: usize,
    clock: Mutex<Clock>,
    ended: watch::Sender<Option<String>>,
}

/// Counts itself while it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn below(counter: &Arc<AtomicUsize>, limit: usize, full: &'static str) -> Result<Arc<Self>, EngineError> {
        let counted = Arc::new(Self(Arc::clone(counter)));
        let others = counter.fetch_add(1, Ordering::Relaxed);
        if others < limit { Ok(counted) } else { Err(turned_away(full)) }
    }
}

/// Where there may be no room.
const QUEUE: &str = "queue";
const WATCHERS: &str = "watchers";
const UNANSWERED: &str = "unanswered";

/// Of the places in the queue a shard of another process has one part in so many.
const OF_A_SHARD: usize = 4;

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

impl Engine {
    /// The handle of a process that holds no shard of this log, and asks the others.
    pub fn asking(shards: Shards, log_id: Uuid, settings: &EngineSettings) -> Self {
        let engine = Self::of(shards, settings);
        engine.shared.inboxes.learn_log_id(log_id);
        engine
    }

    fn of(shards: Shards, settings: &EngineSettings) -> Self {
        for full in [QUEUE, WATCHERS, UNANSWERED] {
            metrics::counter!("jangbu_engine_rejected_total", "full" => full).increment(0);
        }
        let shared = Shared {
            shards,
            inboxes: Inboxes::new(shards),
            elsewhere: settings.elsewhere.clone(),
            waiting: Arc::default(),
            watching: Arc::default(),
            asked: shards.all().map(|_| Arc::default()).collect(),
            unanswered: shards.all().map(|_| AtomicUsize::new(0)).collect(),
            answered_within: settings.answered_within,
            queue: settings.queue,
            watchers: settings.watchers,
            clock: Mutex::new(Clock::from(clock::now())),
            ended: watch::Sender::new(None),
        };
        Self { shared: Arc::new(shared) }
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
        if self.shared.elsewhere.is_some() && request.idempotency.is_none() && !request.dry_run {
            request.idempotency = Some(asked_once());
        }
        let place = Counted::below(&self.shared.waiting, self.shared.queue, QUEUE)?;
        if self.unanswered(shard) > MOST_UNANSWERED {
            return Err(turned_away(UNANSWERED));
        }
        if let Some(traced) = &traced {
            // What is recorded says where in the trace it belongs.
            request.cause.traceparent = Some(traced.traceparent().to_owned());
        }
        match self.ask(shard, Some(place), traced, Question::Command(Box::new(request))).await? {
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
            match self.ask(shard, Some(place), None, Question::Parked(limit)).await? {
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
            match self.ask(shard, Some(place), None, Question::Unpark(unpark)).await? {
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
        self.ask_for_state(shard, Some(place), Question::Read(kind, id)).await
    }

    /// Waits until the aggregate is as wanted: it is looked at now and after each change. Drop the future to stop waiting.
    ///
    /// # Errors
    /// [`EngineError`]: too many are waiting, or the engine is stopping.
    pub async fn watch(&self, kind: Kind, id: Uuid, until: Until) -> Result<Versioned, EngineError> {
        // Who stops waiting makes room at once; the core forgets them a little later.
        let _place = Counted::below(&self.shared.watching, self.shared.watchers, WATCHERS)?;
        let shard = self.shard_of(kind, id);
        let state = self.ask_for_state(shard, None, Question::Watch(kind, id, until)).await?;
        state.ok_or(EngineError::Stopping)
    }

    /// Asks a shard's engine for nothing, to hear that it is there.
    ///
    /// # Errors
    /// [`EngineError`]: it is not, or cannot read the log.
    pub async fn is_answered_by(&self, shard: u16) -> Result<(), EngineError> {
        self.ask(shard, None, None, Question::Parked(0)).await.map(drop)
    }

    /// The engine's clock: what is decided later is not decided at an earlier time, also when the system's clock is set back.
    pub fn now(&self) -> Timestamp {
        self.shared.clock.lock().now()
    }

    /// Which log it writes; nil before this process knows, which is when it has taken its first shard.
    pub fn log_id(&self) -> Uuid {
        self.shared.inboxes.log_id()
    }

    /// Why an engine that holds all shards ended by itself, once it has: another writer took over, or the disk failed.
    pub fn ended(&self) -> watch::Receiver<Option<String>> {
        self.shared.ended.subscribe()
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

    /// The last position of a shard's log that this process knows to be durable: what it was answered stands at or before it.
    pub fn durable(&self, shard: u16) -> u64 {
        self.shared.inboxes.durable(shard)
    }

    /// Whether the engines of all shards are in this process.
    pub fn holds_all(&self) -> bool {
        self.shared.inboxes.here().len() == usize::from(self.shared.shards.count())
    }

    /// How many shards the log has.
    pub fn shards(&self) -> Shards {
        self.shared.shards
    }

    /// What is asked of a shard whose engine is in this process; none when it is not, or goes before it has answered.
    pub async fn answer(&self, shard: u16, question: Question) -> Option<Result<Response, EngineError>> {
        let answer = match question {
            Question::Command(_) if self.unanswered(shard) > MOST_UNANSWERED => Err(turned_away(UNANSWERED)),
            Question::Command(request) => {
                let span = traced::span(&request, shard);
                if let Some(traceparent) = &request.cause.traceparent {
                    trace_context::continue_from(&span, traceparent);
                }
                let traced = Traced::begin(&span);
                self.ask_here(shard, None, traced, Question::Command(request))
                    .instrument(span)
                    .await
            }
            question => self.ask_here(shard, None, None, question).await,
        };
        match answer {
            Err(EngineError::Stopping) => None,
            answer => Some(answer),
        }
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

    async fn ask_for_state(&self, shard: u16, place: Option<Arc<Counted>>, question: Question) -> Result<Option<Versioned>, EngineError> {
        match self.ask(shard, place, None, question).await? {
            Response::State(state) => Ok(state),
            _ => Err(other_answer()),
        }
    }

    async fn ask(
        &self,
        shard: u16,
        place: Option<Arc<Counted>>,
        traced: Option<Box<Traced>>,
        question: Question,
    ) -> Result<Response, EngineError> {
        let Some(elsewhere) = &self.shared.elsewhere else {
            return self.ask_here(shard, place, traced, question).await;
        };
        let inboxes = &self.shared.inboxes;
        if inboxes.is_here(shard) {
            match self.ask_here(shard, place.clone(), traced, question.clone()).await {
                // It went to another process meanwhile. A command has a key, so that one does not decide it again.
                Err(EngineError::Stopping) => {}
                answer => return answer,
            }
        }
        // A shard that nobody has at the moment must not take the places of all others. Watchers have places of their own.
        let _of_shard = match (place, self.shared.asked.get(usize::from(shard))) {
            (Some(place), Some(asked)) => Some((place, Counted::below(asked, self.shared.queue / OF_A_SHARD, QUEUE)?)),
            _ => None,
        };
        elsewhere.ask(shard, question, inboxes).await
    }

    async fn ask_here(
        &self,
        shard: u16,
        place: Option<Arc<Counted>>,
        traced: Option<Box<Traced>>,
        question: Question,
    ) -> Result<Response, EngineError> {
        let (sender, answer) = oneshot::channel();
        let ticket = Ticket {
            answer: sender,
            _place: place,
            traced,
        };
        let asks_only = matches!(question, Question::Read(..) | Question::Parked(_));
        let input = match question {
            Question::Command(request) => Input::Command(ticket, request),
            Question::Read(kind, id) => Input::Read(ticket, kind, id),
            Question::Watch(kind, id, until) => Input::Watch(ticket, kind, id, until.holds()),
            Question::Parked(limit) => Input::Parked(ticket, limit),
            Question::Unpark(unpark) => Input::Unpark(ticket, unpark),
        };
        if !self.shared.inboxes.put(shard, input) {
            return Err(EngineError::Stopping);
        }
        let answer = async { answer.await.map_err(|_| EngineError::Stopping)? };
        if asks_only {
            let answered = tokio::time::timeout(self.shared.answered_within, answer).await;
            answered.unwrap_or_else(|_| Err(EngineError::Unavailable("the log has not answered in time".to_owned())))
        } else {
            // What changes something may be written by now.
            answer.await
        }
    }
}

/// The key of a command that its sender gave none: it may be asked several times on its way to another process, and is decided once.
fn asked_once() -> Idempotency {
    let id = Uuid::now_v7();
    Idempotency {
        key: id.to_string(),
        record: RecordKey(id.into_bytes()),
        fingerprint: [0; 16],
    }
}

fn other_answer() -> EngineError {
    EngineError::Unavailable("another answer was expected".to_owned())
}
