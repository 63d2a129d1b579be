//! One connection that is there or is not: nobody waits for it to come back.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, PushInfo, PushKind, RedisError, RedisResult, ScriptInvocation, Value,
    aio::MultiplexedConnection, cmd,
};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::AbortHandle,
    time::timeout,
};

use crate::{Address, guard::Guarded, meters::CallMeters};

/// How many calls may wait for an answer; the next is answered without Redis.
const CALLS: usize = 256;
/// How many values wait to be kept; the next is not kept.
const WRITES: usize = 1_024;
/// How many are sent together.
const WRITES_AT_ONCE: usize = 64;
/// So many failures in a row, and Redis is not asked for a while.
const FAILURES: u32 = 3;
/// How long a connection may take to be made.
const CONNECTS_WITHIN: Duration = Duration::from_secs(1);
/// How often a connection that nobody uses is looked after.
const LOOKED_AFTER: Duration = Duration::from_secs(5);

/// How often a Redis that fails is complained of.
const COMPLAINS_EVERY: Duration = Duration::from_mins(1);

/// Where Redis is, and how long it is waited for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it is.
    pub address: Address,
    /// How long a call may take; then it is answered without Redis.
    pub within: Duration,
    /// How long Redis is not asked after it failed.
    pub rest: Duration,
}

impl Settings {
    /// 20 ms for a call, one second of rest.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            within: Duration::from_millis(20),
            rest: Duration::from_secs(1),
        }
    }
}

/// Redis, as far as it can be had. Clones share one connection, which is kept up in the background until the last clone is dropped.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Shared>,
    _tasks: Arc<[Task; 2]>,
}

struct Shared {
    settings: Settings,
    link: Mutex<Option<Link>>,
    connected: watch::Sender<bool>,
    /// The connection is to be given up.
    broken: Notify,
    failures: AtomicU32,
    calls: Semaphore,
    writes: mpsc::Sender<Write>,
    subscription: Option<Subscription>,
    meters: CallMeters,
}

/// A connection and its number: a call that fails late must not end the one that came after.
#[derive(Clone)]
struct Link {
    number: u64,
    connection: MultiplexedConnection,
}

/// What reads and writes a connection, until it ends.
type Reading = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A channel, and what is done with its messages. It is called where the connection is read, so it is quick.
pub(crate) struct Subscription {
    pub(crate) channel: &'static str,
    pub(crate) heard: Arc<Heard>,
}

/// What is done with a message.
pub(crate) type Heard = dyn Fn(&[u8]) + Send + Sync;

struct Write {
    key: String,
    value: Vec<u8>,
    keep: Duration,
}

/// Ends with its owner.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Redis {
    /// Begins to connect, and does not wait for it. To be called on a tokio runtime.
    pub fn start(settings: Settings) -> Self {
        Self::start_with(settings, None)
    }

    pub(crate) fn start_with(settings: Settings, subscription: Option<Subscription>) -> Self {
        let (writes, waiting) = mpsc::channel(WRITES);
        let shared = Arc::new(Shared {
            settings,
            link: Mutex::default(),
            connected: watch::Sender::new(false),
            broken: Notify::new(),
            failures: AtomicU32::new(0),
            calls: Semaphore::new(CALLS),
            writes,
            meters: CallMeters::of(subscription.as_ref().map_or("calls", |subscription| subscription.channel)),
            subscription,
        });
        let keeping = tokio::spawn(keep_up(Arc::clone(&shared)));
        let writing = tokio::spawn(write_all(Arc::clone(&shared), waiting));
        Self {
            shared,
            _tasks: Arc::new([Task(keeping.abort_handle()), Task(writing.abort_handle())]),
        }
    }

    /// Whether Redis is asked just now.
    pub fn is_connected(&self) -> bool {
        *self.shared.connected.borrow()
    }

    /// Waits until Redis is asked.
    pub async fn connected(&self) {
        // The sender lives as long as this does.
        let _ = self.shared.connected.subscribe().wait_for(|connected| *connected).await;
    }

    /// The answer, if there is one in time.
    pub(crate) async fn ask<T: FromRedisValue>(&self, question: &Cmd) -> Option<T> {
        self.shared
            .ask(async |mut connection| question.query_async(&mut connection).await)
            .await
    }

    /// What a script returns, if that is in time.
    pub(crate) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Option<T> {
        self.shared
            .ask(async |mut connection| script.invoke_async(&mut connection).await)
            .await
    }

    /// Keeps a value for so long, some time soon or not at all.
    pub(crate) fn put(&self, key: String, value: Vec<u8>, keep: Duration) {
        if !self.is_connected() {
            return;
        }
        if self.shared.writes.try_send(Write { key, value, keep }).is_err() {
            self.shared.meters.dropped.increment(1);
        }
    }
}

impl Shared {
    async fn ask<T>(&self, call: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>) -> Option<T> {
        let link = self.link.lock().clone();
        let (Some(link), Ok(_place)) = (link, self.calls.try_acquire()) else {
            self.meters.skipped.increment(1);
            return None;
        };
        self.judge(link.number, timeout(self.settings.within, call(link.connection)).await)
    }

    /// Counts how a call ended, and gives the connection up when it is no good.
    fn judge<T>(&self, link: u64, ended: Result<RedisResult<T>, tokio::time::error::Elapsed>) -> Option<T> {
        match ended {
            Ok(Ok(answer)) => {
                self.meters.answered.increment(1);
                self.failures.store(0, Ordering::Relaxed);
                return Some(answer);
            }
            Ok(Err(error)) => {
                self.meters.failed.increment(1);
                tracing::debug!(%error, "Redis failed");
                if error.is_unrecoverable_error() {
                    self.give_up(link);
                    return None;
                }
            }
            Err(_) => self.meters.late.increment(1),
        }
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES {
            self.give_up(link);
        }
        None
    }

    fn give_up(&self, number: u64) {
        let mut link = self.link.lock();
        if link.as_ref().is_some_and(|link| link.number == number) {
            *link = None;
            self.connected.send_replace(false);
            self.broken.notify_one();
        }
    }
}

/// Connects, and connects again, for ever.
async fn keep_up(shared: Arc<Shared>) {
    let place = shared.settings.address.to_string();
    let (mut said, mut complained): (bool, Option<Instant>) = (false, None);
    for number in 0_u64.. {
        let began = timeout(CONNECTS_WITHIN, open(&shared)).await;
        let reason = match began {
            Ok(Ok((connection, reading))) => {
                if !said {
                    tracing::info!(redis = place, "Redis answers");
                    said = true;
                }
                shared.stay(Link { number, connection }, reading).await;
                "it failed, or was too slow".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer in time".to_owned(),
        };
        // One that comes and goes is not told of each time.
        if complained.is_none_or(|last| last.elapsed() > COMPLAINS_EVERY) {
            tracing::warn!(
                redis = place,
                reason,
                "Redis is not asked until it answers again; this node goes on without it"
            );
            (said, complained) = (false, Some(Instant::now()));
        }
        tokio::time::sleep(shared.settings.rest).await;
    }
}

/// A connection that has answered once in time, and what reads from it.
async fn open(shared: &Shared) -> RedisResult<(MultiplexedConnection, Reading)> {
    let settings = &shared.settings;
    let stream = settings.address.connect().await.map_err(RedisError::from)?;
    let mut config = AsyncConnectionConfig::new()
        .set_pipeline_buffer_size(CALLS)
        .set_response_timeout(None)
        .set_connection_timeout(None);
    if let Some(Subscription { channel, heard }) = &shared.subscription {
        let (channel, heard) = (*channel, Arc::clone(heard));
        config = config.set_push_sender(move |push: PushInfo| {
            if let (PushKind::Message, [Value::BulkString(on), Value::BulkString(message)]) = (&push.kind, &push.data[..])
                && on == channel.as_bytes()
            {
                heard(message);
            }
            Ok::<_, ()>(())
        });
    }
    let (mut connection, reading) = MultiplexedConnection::new_with_config(&settings.address.hello, Guarded::new(stream), config).await?;
    let mut reading: Reading = Box::pin(reading);
    {
        let mut probe = connection.clone();
        let probing = async {
            let answered = timeout(settings.within, cmd("PING").query_async::<String>(&mut probe)).await;
            answered.map_err(|_| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)))??;
            if let Some(subscription) = &shared.subscription {
                connection.subscribe(subscription.channel).await?;
            }
            Ok(())
        };
        let mut probing = pin!(probing);
        tokio::select! {
            probed = &mut probing => probed,
            () = &mut reading => Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset))),
        }?;
    }
    Ok((connection, reading))
}

impl Shared {
    /// Asks over this connection until it is no good any more. What still waits for an answer then has none.
    async fn stay(&self, link: Link, reading: Reading) {
        let number = link.number;
        self.failures.store(0, Ordering::Relaxed);
        *self.link.lock() = Some(link);
        self.meters.connected.set(1.0);
        self.connected.send_replace(true);
        tokio::select! {
            () = reading => {}
            () = self.broken.notified() => {}
            () = self.look_after() => {}
        }
        self.give_up(number);
        // What was said of this connection is not said of the next.
        let _ = timeout(Duration::ZERO, self.broken.notified()).await;
        self.meters.connected.set(0.0);
    }

    /// A connection that nobody uses may have ended without a word.
    async fn look_after(&self) {
        loop {
            tokio::time::sleep(LOOKED_AFTER).await;
            let _: Option<String> = self
                .ask(async |mut connection| cmd("PING").query_async(&mut connection).await)
                .await;
        }
    }
}

/// Sends what waits to be kept, several at a time.
async fn write_all(shared: Arc<Shared>, mut waiting: mpsc::Receiver<Write>) {
    let mut some = Vec::with_capacity(WRITES_AT_ONCE);
    while waiting.recv_many(&mut some, WRITES_AT_ONCE).await > 0 {
        let mut pipeline = redis::pipe();
        for Write { key, value, keep } in some.drain(..) {
            let keep = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
            pipeline.cmd("SET").arg(key).arg(value).arg("PX").arg(keep.max(1)).ignore();
        }
        let _: Option<()> = shared.ask(async |mut connection| pipeline.query_async(&mut connection).await).await;
    }
}
