//! The shell around the core: threads, the store, the provider's client and the clock.
//!
//! One thread runs the core, another writes its batches, so that one batch is decided while the one before it is made durable.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use aggregates::{Kind, Recorded, Refusal, State, Timestamp};
use event_store::{Batch, CommitError, EffectId, EventStore, LogReader, LogWriter, StoreError};
use parking_lot::Mutex;
use payment_gateway::{Cancellation, Charge, PaymentGateway, StatusQuery};
use sagas::ProviderCall;
use tokio::sync::{Semaphore, oneshot, watch};
use uuid::Uuid;

use crate::{Core, CoreSettings, EngineError, Input, Outcome, Output, Reply, Request, Response, SetAside, Unpark, Versioned};

/// Called with events right after they became durable, in order. Must not block.
pub type Subscriber = Box<dyn Fn(&Arc<[Recorded]>) + Send>;

/// What an engine is told when it starts.
pub struct EngineSettings {
    /// Of the core.
    pub core: CoreSettings,
    /// Names this data directory: the same instance takes its shard back at once.
    pub instance: Uuid,
    /// How long the provider has to answer a call.
    pub payment_timeout: Duration,
    /// How many requests may wait for their answers; more are refused at once.
    pub queue: usize,
    /// How many requests may wait for an aggregate to change.
    pub watchers: usize,
    /// How many calls of the provider may be under way at once.
    pub calls: usize,
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
        }
    }
}

/// Under which an answer leaves.
struct Ticket {
    answer: oneshot::Sender<Result<Response, EngineError>>,
    /// The place in the queue, taken until there is an answer: also when nobody waits for it any more.
    _place: Option<Counted>,
}

enum Message {
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
    inbox: mpsc::Sender<Message>,
    waiting: Arc<AtomicUsize>,
    watching: Arc<AtomicUsize>,
    calls: AtomicUsize,
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
    core: Option<thread::JoinHandle<()>>,
}

/// Counts itself while it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn below(counter: &Arc<AtomicUsize>, limit: usize) -> Result<Self, EngineError> {
        let counted = Self(Arc::clone(counter));
        let others = counter.fetch_add(1, Ordering::Relaxed);
        if others < limit {
            Ok(counted)
        } else {
            Err(EngineError::Overloaded)
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// With more calls of the provider than this without an outcome, new requests are turned away.
const MOST_CALLS_WITHOUT_OUTCOME: usize = 20_000;

impl Engine {
    /// Takes the shard over and begins to work. Provider calls run on `runtime`.
    ///
    /// # Errors
    /// The log cannot be read, is damaged, or is held by another process.
    pub fn start(
        store: &Arc<dyn EventStore>,
        gateway: Arc<dyn PaymentGateway>,
        settings: EngineSettings,
        subscribers: Vec<Subscriber>,
        runtime: tokio::runtime::Handle,
    ) -> Result<Running, StoreError> {
        let mut writer = store.writer()?;
        let head = writer.take(SHARD, settings.instance, now().micros())?;
        let log_id = head.log_id;
        let epoch = head.epoch;
        let clock = Clock::from(Timestamp::from_micros(head.recorded_at));
        let core = Core::new(head, store.reader()?, settings.core)?;
        let checker = store.reader()?;
        let (inbox, messages) = mpsc::channel();
        let (ended_sender, ended) = watch::channel(None);
        let shared = Arc::new(Shared {
            inbox: inbox.clone(),
            waiting: Arc::default(),
            watching: Arc::default(),
            calls: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            queue: settings.queue,
            watchers: settings.watchers,
            log_id,
            clock: Mutex::new(clock),
            ended,
        });
        let (batches, batches_to_write) = mpsc::channel();
        let results = inbox.clone();
        let store_thread = thread::Builder::new().name("store".to_owned());
        let store_thread = store_thread.spawn(move || {
            let write = AssertUnwindSafe(|| write_batches(writer.as_mut(), checker.as_ref(), epoch, &batches_to_write, &results));
            if catch_unwind(write).is_err() {
                // Nobody knows what became of the batch: only a new start finds out.
                let error = CommitError::Disk("the store panicked".into());
                let _ = results.send(Message::Input(Input::Committed(Err(error))));
            }
        });
        let store_thread = store_thread.map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        let caller = Caller {
            gateway,
            timeout: settings.payment_timeout,
            permits: Arc::new(Semaphore::new(settings.calls)),
            inbox,
            runtime,
        };
        let worker = Worker {
            core,
            shared: Arc::clone(&shared),
            caller,
            subscribers,
            batches,
            ended: ended_sender,
        };
        let core_thread = thread::Builder::new().name("engine".to_owned()).spawn(move || {
            worker.run(&messages);
            // The store thread ends when its channel does.
            if store_thread.join().is_err() {
                tracing::error!("the store thread panicked");
            }
        });
        let core_thread = core_thread.map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        Ok(Running {
            engine: Self { shared },
            core: Some(core_thread),
        })
    }

    /// Decides a command, and answers when everything that the answer stands on is durable.
    ///
    /// # Errors
    /// [`EngineError`]: there is no answer, and nothing is recorded of the request.
    pub async fn execute(&self, request: Request) -> Result<Reply, EngineError> {
        let place = Counted::below(&self.shared.waiting, self.shared.queue)?;
        if self.shared.calls.load(Ordering::Relaxed) > MOST_CALLS_WITHOUT_OUTCOME {
            return Err(EngineError::Overloaded);
        }
        match self.ask(Some(place), |ticket| Input::Command(ticket, Box::new(request))).await? {
            Response::Reply(reply) => Ok(*reply),
            _ => Err(other_answer()),
        }
    }

    /// The inputs that are set aside because they could not be processed: at most so many, oldest first.
    ///
    /// # Errors
    /// [`EngineError`]: the log cannot be read just now, or the engine is stopping.
    pub async fn parked(&self, limit: usize) -> Result<Vec<SetAside>, EngineError> {
        let place = Counted::below(&self.shared.waiting, self.shared.queue)?;
        match self.ask(Some(place), |ticket| Input::Parked(ticket, limit)).await? {
            Response::Parked(parked) => Ok(parked),
            _ => Err(other_answer()),
        }
    }

    /// Processes an input that was set aside, or gives it up. A refusal says why it is not done, and then nothing has changed.
    ///
    /// # Errors
    /// [`EngineError`]: the log cannot be read or written just now, or the engine is stopping.
    pub async fn unpark(&self, unpark: Unpark) -> Result<Result<(), Refusal>, EngineError> {
        let place = Counted::below(&self.shared.waiting, self.shared.queue)?;
        match self.ask(Some(place), |ticket| Input::Unpark(ticket, unpark)).await? {
            Response::Unparked(done) => Ok(done),
            _ => Err(other_answer()),
        }
    }

    /// The aggregate itself, never stale; none when nothing has happened to it. What it shows is durable.
    ///
    /// # Errors
    /// [`EngineError`]: the log cannot be read just now, or the engine is stopping.
    pub async fn read(&self, kind: Kind, id: Uuid) -> Result<Option<Versioned>, EngineError> {
        let place = Counted::below(&self.shared.waiting, self.shared.queue)?;
        self.ask_for_state(Some(place), |ticket| Input::Read(ticket, kind, id)).await
    }

    /// Waits until the aggregate is as wanted: it is looked at now and after each change. Drop the future to stop waiting.
    ///
    /// # Errors
    /// [`EngineError`]: too many are waiting, or the engine is stopping.
    pub async fn watch(&self, kind: Kind, id: Uuid, until: fn(&State) -> bool) -> Result<Versioned, EngineError> {
        // Who stops waiting makes room at once; the core forgets them a little later.
        let _place = Counted::below(&self.shared.watching, self.shared.watchers)?;
        let state = self.ask_for_state(None, |ticket| Input::Watch(ticket, kind, id, until)).await?;
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

    async fn ask_for_state(
        &self,
        place: Option<Counted>,
        input: impl FnOnce(Ticket) -> Input<Ticket>,
    ) -> Result<Option<Versioned>, EngineError> {
        match self.ask(place, input).await? {
            Response::State(state) => Ok(state),
            _ => Err(other_answer()),
        }
    }

    async fn ask(&self, place: Option<Counted>, input: impl FnOnce(Ticket) -> Input<Ticket>) -> Result<Response, EngineError> {
        if self.shared.stopping.load(Ordering::Relaxed) {
            return Err(EngineError::Stopping);
        }
        let (sender, answer) = oneshot::channel();
        let ticket = Ticket {
            answer: sender,
            _place: place,
        };
        self.shared
            .inbox
            .send(Message::Input(input(ticket)))
            .map_err(|_| EngineError::Stopping)?;
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
        // An engine that has ended already does not listen.
        let _ = self.engine.shared.inbox.send(Message::Stop);
        if let Some(core) = self.core.take()
            && core.join().is_err()
        {
            tracing::error!("the engine's thread panicked");
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

const SHARD: u16 = 0;

/// The most inputs that one turn takes.
const INPUTS: usize = 1_024;

/// How often waiting requests are looked through for those that nobody waits for any more.
const PRUNE_EVERY: Duration = Duration::from_secs(5);

struct Worker {
    core: Core<Ticket>,
    shared: Arc<Shared>,
    caller: Caller,
    subscribers: Vec<Subscriber>,
    batches: mpsc::Sender<Arc<Batch>>,
    ended: watch::Sender<Option<String>>,
}

impl Worker {
    fn run(mut self, messages: &mpsc::Receiver<Message>) {
        let mut stopping = false;
        let mut pruned = Instant::now();
        let mut inputs = Vec::new();
        loop {
            if stopping && self.core.idle() {
                return;
            }
            self.wait(messages, &mut inputs, &mut stopping);
            for output in self.core.step(self.now(), inputs.drain(..)) {
                if self.carry_out(output) {
                    self.shared.stopping.store(true, Ordering::Relaxed);
                    return;
                }
            }
            self.shared.calls.store(self.core.calls_under_way(), Ordering::Relaxed);
            if pruned.elapsed() > PRUNE_EVERY {
                self.core.forget_watchers(|ticket| ticket.answer.is_closed());
                pruned = Instant::now();
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.lock().now()
    }

    /// Waits for something to do, and takes all that is there.
    fn wait(&mut self, messages: &mpsc::Receiver<Message>, inputs: &mut Vec<Input<Ticket>>, stopping: &mut bool) {
        let first = match self.core.wake_at() {
            Some(due) => {
                let left = u64::try_from(due.micros().saturating_sub(self.now().micros())).unwrap_or(0);
                match messages.recv_timeout(Duration::from_micros(left).min(PRUNE_EVERY)) {
                    Ok(message) => Some(message),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => Some(Message::Stop),
                }
            }
            None => Some(messages.recv().unwrap_or(Message::Stop)),
        };
        for message in first.into_iter().chain(messages.try_iter().take(INPUTS)) {
            match message {
                Message::Input(input) => inputs.push(input),
                Message::Stop => *stopping = true,
            }
        }
    }

    /// Says whether the engine is at its end.
    fn carry_out(&self, output: Output<Ticket>) -> bool {
        match output {
            Output::Commit(batch) => {
                if self.batches.send(batch).is_err() {
                    self.end("the store thread has ended");
                    return true;
                }
            }
            // Whoever asked may have gone.
            Output::Answer(ticket, answer) => drop(ticket.answer.send(answer)),
            Output::Call(id, call) => self.caller.call(id, call),
            Output::Publish(events) => {
                for subscriber in &self.subscribers {
                    subscriber(&events);
                }
            }
            Output::Stop { reason } => {
                self.end(&reason);
                return true;
            }
        }
        false
    }

    fn end(&self, reason: &str) {
        tracing::error!(%reason, "the engine stops");
        self.ended.send_replace(Some(reason.to_owned()));
    }
}

/// How often a writer says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(3);

fn write_batches(
    writer: &mut dyn LogWriter,
    reader: &dyn LogReader,
    epoch: u64,
    batches: &mpsc::Receiver<Arc<Batch>>,
    results: &mpsc::Sender<Message>,
) {
    let seconds = metrics::histogram!("jangbu_commit_seconds");
    let commits = metrics::counter!("jangbu_commits_total");
    let events = metrics::counter!("jangbu_events_total");
    let sizes = metrics::histogram!("jangbu_commit_events");
    // Taking the shard was the first.
    let mut last_beat = Instant::now();
    loop {
        if last_beat.elapsed() >= HEARTBEAT {
            if let Err(error) = writer.heartbeat(SHARD, epoch, now().micros()) {
                tracing::warn!(%error, "the heartbeat was not written");
                // Whoever was taken over, or has a disk that does not keep what it is given, has nothing more to say, also when there is
                // nothing to write.
                if matches!(error, CommitError::Fenced(_) | CommitError::Disk(_))
                    && results.send(Message::Input(Input::Committed(Err(error)))).is_err()
                {
                    return;
                }
            }
            last_beat = Instant::now();
        }
        match batches.recv_timeout(HEARTBEAT.saturating_sub(last_beat.elapsed())) {
            Ok(batch) => {
                let begun = Instant::now();
                let result = writer.commit(&[&batch]).or_else(|error| after_doubt(reader, &batch, error));
                seconds.record(begun.elapsed().as_secs_f64());
                if result.is_ok() {
                    commits.increment(1);
                    events.increment(batch.events.len() as u64);
                    #[allow(clippy::cast_precision_loss, reason = "a batch has a few thousand events")]
                    sizes.record(batch.events.len() as f64);
                }
                if results.send(Message::Input(Input::Committed(result))).is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What became of a commit: where its outcome is unknown, the head tells.
///
/// # Errors
/// What the writer said; instead of [`CommitError::Unknown`] what the head shows.
pub fn after_doubt(reader: &dyn LogReader, batch: &Batch, error: CommitError) -> Result<(), CommitError> {
    let CommitError::Unknown(source) = error else { return Err(error) };
    if batch.events.is_empty() {
        // It moves no head, so the head cannot tell. Dropping it is safe: what it held is read again, and a record that was written
        // answers the repeat.
        return Err(CommitError::NotWritten(source));
    }
    match reader.head(batch.shard) {
        Ok(Some(head)) if head.position == batch.last_position() && head.hash == batch.hash && head.epoch == batch.epoch => Ok(()),
        Ok(Some(head)) if head.epoch != batch.epoch => Err(CommitError::Fenced(batch.shard)),
        Ok(_) => Err(CommitError::NotWritten(source)),
        // Neither written nor not: only a new start finds out.
        Err(_) => Err(CommitError::Disk(source)),
    }
}

struct Caller {
    gateway: Arc<dyn PaymentGateway>,
    timeout: Duration,
    permits: Arc<Semaphore>,
    inbox: mpsc::Sender<Message>,
    runtime: tokio::runtime::Handle,
}

impl Caller {
    fn call(&self, id: EffectId, call: ProviderCall) {
        let (gateway, permits, inbox, timeout) = (
            Arc::clone(&self.gateway),
            Arc::clone(&self.permits),
            self.inbox.clone(),
            self.timeout,
        );
        self.runtime.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let asked = tokio::spawn(perform(gateway, call.clone(), timeout)).await;
            let outcome = asked.unwrap_or_else(|_| Outcome::unknown(&call, "the call broke off".to_owned()));
            // An engine that has ended asks again when it starts.
            let _ = inbox.send(Message::Input(Input::Outcome(id, outcome)));
        });
    }
}

async fn perform(gateway: Arc<dyn PaymentGateway>, call: ProviderCall, timeout: Duration) -> Outcome {
    let answer = tokio::time::timeout(timeout, ask_provider(gateway.as_ref(), &call)).await;
    answer.unwrap_or_else(|_| Outcome::unknown(&call, format!("no answer within {timeout:?}")))
}

async fn ask_provider(gateway: &dyn PaymentGateway, call: &ProviderCall) -> Outcome {
    let idempotency_key = call.idempotency_key();
    match call {
        ProviderCall::Charge {
            order,
            payment_key,
            amount,
            ..
        } => Outcome::Charge(
            gateway
                .charge(Charge {
                    payment_key: payment_key.to_string(),
                    order_reference: order.to_string(),
                    amount: amount.minor(),
                    currency: amount.currency().to_string(),
                    idempotency_key,
                })
                .await,
        ),
        ProviderCall::Status { order, payment_key, .. } => Outcome::Status(
            gateway
                .status(StatusQuery {
                    payment_key: payment_key.to_string(),
                    order_reference: order.to_string(),
                })
                .await,
        ),
        ProviderCall::Cancel { payment_key, amount, .. } => Outcome::Cancel(
            gateway
                .cancel(Cancellation {
                    payment_key: payment_key.to_string(),
                    reason: "the order was cancelled".to_owned(),
                    amount: amount.minor(),
                    currency: amount.currency().to_string(),
                    idempotency_key,
                })
                .await,
        ),
    }
}

/// The time as the core is told it: the system's, but when that is set back it goes on from where it was. A core whose time stood
/// still would let no timer and no pause come to its end.
struct Clock {
    since: Instant,
    time: Timestamp,
}

impl Clock {
    /// A clock that shows this time at least.
    fn from(time: Timestamp) -> Self {
        let since = Instant::now();
        Self { since, time }
    }

    fn now(&mut self) -> Timestamp {
        let time = now().max(self.time.after(self.since.elapsed()));
        *self = Self::from(time);
        time
    }
}

fn now() -> Timestamp {
    let micros = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
    Timestamp::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use event_store::{Head, IdempotencyRecord, MemoryStore, RecordKey};

    use super::*;

    fn batch(head: &Head, key: u8) -> Batch {
        let record = IdempotencyRecord {
            key: RecordKey([key; 16]),
            fingerprint: [0; 16],
            position: 0,
            recorded_at: 0,
            answer: Box::default(),
        };
        Batch {
            epoch: head.epoch,
            first_position: head.position + 1,
            records: vec![record],
            ..Batch::default()
        }
    }

    #[test]
    fn a_clock_that_was_set_back_goes_on() {
        let ahead = now().after(Duration::from_hours(1));
        let mut clock = Clock::from(ahead);
        thread::sleep(Duration::from_millis(2));
        let then = clock.now();
        assert!(then >= ahead.after(Duration::from_millis(2)));
        thread::sleep(Duration::from_millis(2));
        assert!(clock.now() >= then.after(Duration::from_millis(2)));
    }

    #[test]
    fn a_doubtful_batch_without_events_counts_as_not_written() {
        let store = MemoryStore::default();
        let head = store
            .writer()
            .and_then(|mut writer| writer.take(0, Uuid::nil(), 0))
            .expect("the shard");
        let reader = store.reader().expect("a reader");
        let doubt = || CommitError::Unknown("the connection died".into());
        let settled = after_doubt(reader.as_ref(), &batch(&head, 1), doubt());
        assert!(matches!(settled, Err(CommitError::NotWritten(_))), "{settled:?}");
    }

    #[test]
    fn a_doubtful_batch_of_a_writer_that_was_fenced_meanwhile_is_not_taken_for_written() {
        let store = MemoryStore::default();
        let mut writer = store.writer().expect("a writer");
        let head = writer.take(0, Uuid::nil(), 0).expect("the shard");
        writer.take(0, Uuid::nil(), 0).expect("the shard again");
        let reader = store.reader().expect("a reader");
        let mut doubtful = batch(&head, 1);
        doubtful.events.push(event_store::Event {
            shard: 0,
            position: 1,
            stream: event_store::StreamId::new("order", Uuid::nil()),
            sequence: 1,
            event_id: Uuid::nil(),
            event_type: "order.placed".into(),
            event_version: "1.0.0".into(),
            recorded_at: 0,
            payload: "{}".into(),
            metadata: "{}".into(),
        });
        let settled = after_doubt(reader.as_ref(), &doubtful, CommitError::Unknown("the connection died".into()));
        assert!(matches!(settled, Err(CommitError::Fenced(0))), "{settled:?}");
    }
}
