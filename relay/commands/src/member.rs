//! A process in the group of the engines: it takes the shards that it is assigned, and answers what is asked of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use engine::Engines;
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, Statistics, TopicPartitionList,
    config::{FromClientConfigAndContext as _, RDKafkaLogLevel},
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance},
    error::{KafkaError as Cause, KafkaResult},
};
use tokio::runtime::Handle;

use crate::{
    CommandsSettings, KafkaError,
    answering::Answering,
    client::{self, Connected, Said, is_passing, let_go},
    holds::{Changes, Holds},
    post::Post,
    topics,
};

/// How long the member waits for a record before it looks after its shards.
const WAITED: Duration = Duration::from_millis(100);

/// How often it looks after its shards while records come.
const LOOKED_EVERY: Duration = Duration::from_millis(20);

/// How long it rests after Kafka has failed.
const AGAIN: Duration = Duration::from_millis(500);

/// How often it says how far the partitions are done with.
const SAID_EVERY: Duration = Duration::from_secs(1);

/// Longer than opening or ending a shard takes.
const STANDS_STILL: Duration = Duration::from_secs(30);

/// How long joining the group may take while Kafka is there. After that it is begun anew with topics that are looked at: those may have been deleted
/// and made again meanwhile, and a client that was told that they are gone does not ask for them soon.
const JOINED_WITHIN: Duration = Duration::from_mins(1);

/// How long the group may take to let it go.
const LEFT_WITHIN: Duration = Duration::from_secs(3);

/// How long the client may take to close.
const CLOSED_WITHIN: Duration = Duration::from_secs(3);

/// How a member stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The shards that the group has assigned to this process.
    pub assigned: Vec<u16>,
    /// Those whose engines run here.
    pub running: Vec<u16>,
    /// What stands in the way, if something does.
    pub hindrance: Option<String>,
    /// It takes part no more. Where nobody has stopped it, the process should be replaced.
    pub ended: bool,
}

impl Standing {
    /// Whether it does all that it is to do: that may be nothing, when there are more engines than shards.
    pub fn is_ready(&self) -> bool {
        self.hindrance.is_none() && self.assigned.iter().all(|shard| self.running.contains(shard))
    }
}

/// Takes part in the group of the engines as a thread of its own, until it is stopped or dropped.
pub struct Member {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("standing", &self.standing()).finish_non_exhaustive()
    }
}

struct Shared {
    settings: CommandsSettings,
    topic: String,
    post: Arc<Post>,
    holds: Holds,
    answering: Arc<Answering>,
    hindrance: Mutex<Option<String>>,
    /// When its thread last looked after its shards.
    turned: Mutex<Instant>,
    stopped: AtomicBool,
    ended: AtomicBool,
}

/// Says that the thread has ended, however it does.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

impl Member {
    pub(crate) fn join(settings: &CommandsSettings, engines: Engines, post: Arc<Post>, runtime: Handle) -> Result<Self, KafkaError> {
        let mut config = client::listening(settings, &settings.group)?;
        config
            // Only the shards that move are stopped.
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", settings.session.as_millis().to_string())
            // A heartbeat's answer tells that shards are dealt anew.
            .set("heartbeat.interval.ms", (settings.session / 24).as_millis().to_string());
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            topic: settings.commands_topic(),
            answering: Arc::new(Answering::new(engines.engine(), Arc::clone(&post), runtime)),
            holds: Holds::new(engines, settings.session),
            post,
            hindrance: Mutex::new(Some(NOT_JOINED.to_owned())),
            turned: Mutex::new(Instant::now()),
            stopped: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let worker = Worker {
            config,
            shared: Arc::clone(&shared),
        };
        let ends = Ends(Arc::clone(&shared));
        let thread = thread::Builder::new().name("commands".into()).spawn(move || {
            let _ends = ends;
            worker.run();
        });
        Ok(Self {
            shared,
            thread: Some(thread.map_err(|error| KafkaError::new(format!("no thread can be started: {error}")))?),
        })
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        self.shared.standing()
    }

    /// Says how it stands, for whoever cannot hold the member itself.
    pub fn watched(&self) -> impl Fn() -> Standing + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.standing()
    }

    /// Leaves the group: its shards finish what is begun and are given up, and others take them. Blocks until all is durable.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("what takes commands from Kafka has ended by a panic");
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.end();
    }
}

const NOT_JOINED: &str = "the group of the engines is not joined yet";

/// What the group says of this process's partitions, as long as this process listens to it.
struct InGroup {
    connected: Connected,
    shared: Arc<Shared>,
    joined: AtomicBool,
    over: AtomicBool,
    /// Something was said since the shards were looked after.
    said: AtomicBool,
    /// Partitions that no shard has.
    unknown: Mutex<Vec<u16>>,
}

impl InGroup {
    fn new(shared: &Arc<Shared>) -> Self {
        Self {
            connected: Connected::new(),
            shared: Arc::clone(shared),
            joined: AtomicBool::new(false),
            over: AtomicBool::new(false),
            said: AtomicBool::new(false),
            unknown: Mutex::default(),
        }
    }

    /// What stands in the way of the whole.
    fn hindrance(&self) -> Option<String> {
        if let Some(trouble) = self.connected.trouble() {
            return Some(trouble);
        }
        if !self.joined.load(Ordering::Relaxed) {
            return Some(NOT_JOINED.to_owned());
        }
        let more = !self.unknown.lock().is_empty();
        let Shared { topic, settings, .. } = &*self.shared;
        more.then(|| topics::other_partitions(topic, "more", settings.shards.count()))
    }
}

impl ClientContext for InGroup {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.connected.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.connected.stats(statistics);
    }

    fn error(&self, error: Cause, reason: &str) {
        self.connected.error(error, reason);
    }
}

impl ConsumerContext for InGroup {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if self.over.load(Ordering::Relaxed) {
            return;
        }
        self.said.store(true, Ordering::Relaxed);
        match rebalance {
            Rebalance::Revoke(_) if consumer.assignment_lost() => self.shared.lost(self),
            Rebalance::Revoke(partitions) => {
                let shards = shards_of(partitions);
                self.unknown.lock().retain(|shard| !shards.contains(shard));
                if !shards.is_empty() {
                    self.shared.holds.give_up(&shards);
                    // The group takes them away when this has arrived, or cannot.
                    self.shared.say_how_far(consumer);
                    self.shared.forget_offsets(&shards);
                }
            }
            Rebalance::Assign(_) => {}
            Rebalance::Error(error) => tracing::warn!(%error, "the group of the engines"),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(partitions) = rebalance else { return };
        if self.over.load(Ordering::Relaxed) {
            return;
        }
        // Nothing is taken for a shard before its engine is there.
        if let Err(error) = consumer.pause(partitions) {
            tracing::debug!(%error, "partitions were not paused");
        }
        let count = self.shared.settings.shards.count();
        let (known, unknown): (Vec<_>, Vec<_>) = shards_of(partitions).into_iter().partition(|shard| *shard < count);
        if !unknown.is_empty() {
            tracing::error!(partitions = ?unknown, shards = count, "the topic has partitions that no shard has: they are left alone");
            self.unknown.lock().extend(unknown);
        }
        self.shared.holds.assigned(&known);
        self.joined.store(true, Ordering::Relaxed);
    }
}

fn shards_of(partitions: &TopicPartitionList) -> Vec<u16> {
    let elements = partitions.elements();
    elements
        .iter()
        .filter_map(|element| u16::try_from(element.partition()).ok())
        .collect()
}

impl Shared {
    fn standing(&self) -> Standing {
        let still = self.turned.lock().elapsed();
        let hindrance = if still > STANDS_STILL {
            Some(format!(
                "the thread that takes commands from Kafka has stood still for {} s",
                still.as_secs()
            ))
        } else {
            self.hindrance.lock().clone()
        };
        Standing {
            assigned: self.holds.all_assigned(),
            running: self.holds.all_running(),
            hindrance: hindrance.or_else(|| self.holds.trouble()),
            ended: self.ended.load(Ordering::Relaxed),
        }
    }

    fn lost(&self, group: &InGroup) {
        group.joined.store(false, Ordering::Relaxed);
        group.unknown.lock().clear();
        let shards = self.holds.all_assigned();
        self.holds.lost();
        self.forget_offsets(&shards);
    }

    fn forget_offsets(&self, shards: &[u16]) {
        let mut offsets = self.answering.offsets.lock();
        for shard in shards {
            offsets.forget(i32::from(*shard));
        }
    }

    fn say_how_far(&self, consumer: &BaseConsumer<InGroup>) {
        let moved = self.answering.offsets.lock().moved();
        if moved.is_empty() {
            return;
        }
        let mut partitions = TopicPartitionList::new();
        for (partition, offset) in moved {
            // The list takes each partition once.
            let _ = partitions.add_partition_offset(&self.topic, partition, Offset::Offset(offset));
        }
        // Whoever takes over meets what it does not say once more, and has a record of it.
        if let Err(error) = consumer.commit(&partitions, CommitMode::Async) {
            tracing::debug!(%error, "how far the partitions are done with was not said");
        }
    }

    fn look_after_shards(&self, consumer: &BaseConsumer<InGroup>) {
        let Changes { opened, closed } = self.holds.look_after();
        self.forget_offsets(&closed);
        let partitions = |shards: &[u16]| {
            let mut partitions = TopicPartitionList::new();
            for shard in shards {
                partitions.add_partition(&self.topic, i32::from(*shard));
            }
            partitions
        };
        let said = |what: &str, result: KafkaResult<()>| {
            if let Err(error) = result {
                tracing::warn!(%error, "partitions were not {what}");
            }
        };
        if !closed.is_empty() {
            said("paused", consumer.pause(&partitions(&closed)));
        }
        if !opened.is_empty() {
            said("resumed", consumer.resume(&partitions(&opened)));
        }
    }
}

struct Worker {
    config: ClientConfig,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(self) {
        let mut said = Said::default();
        while !self.stopped() {
            let Err(error) = self.take_part() else { break };
            if said.is_news(&error) {
                tracing::warn!(%error, "commands do not come: it is tried again");
            }
            *self.shared.hindrance.lock() = Some(error.to_string());
            *self.shared.turned.lock() = Instant::now();
            // What runs goes on, and may end by itself.
            self.shared.holds.look_after();
            thread::sleep(AGAIN);
        }
        self.shared.holds.give_up_all();
    }

    fn stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Relaxed)
    }

    /// Takes part in the group until it is stopped, or cannot go on.
    fn take_part(&self) -> Result<(), KafkaError> {
        topics::ensure(&self.shared.settings, self.shared.post.client())?;
        let context = InGroup::new(&self.shared);
        let consumer: BaseConsumer<InGroup> = BaseConsumer::from_config_and_context(&self.config, context)?;
        let taken_part = self.take_part_by(&consumer);
        if taken_part.is_ok() {
            leave(&consumer, &self.shared.topic);
        }
        // What it is told from now on is for the one before.
        consumer.context().over.store(true, Ordering::Relaxed);
        self.shared.lost(consumer.context());
        let_go(consumer, CLOSED_WITHIN);
        taken_part
    }

    fn take_part_by(&self, consumer: &BaseConsumer<InGroup>) -> Result<(), KafkaError> {
        let (shared, group) = (&self.shared, consumer.context());
        consumer.subscribe(&[&shared.topic])?;
        let mut looked = Instant::now();
        let mut said = Instant::now();
        let mut well = Instant::now();
        while !self.stopped() {
            let busy = match consumer.poll(WAITED) {
                Some(Ok(record)) => {
                    let payload = record.payload().unwrap_or_default();
                    shared.answering.take(record.partition(), record.offset(), payload);
                    true
                }
                Some(Err(error)) if is_passing(&error) => {
                    tracing::debug!(%error, "commands");
                    false
                }
                Some(Err(error)) => return Err(error.into()),
                None => false,
            };
            if busy && looked.elapsed() < LOOKED_EVERY && !group.said.load(Ordering::Relaxed) {
                continue;
            }
            group.said.store(false, Ordering::Relaxed);
            shared.look_after_shards(consumer);
            *shared.hindrance.lock() = group.hindrance();
            *shared.turned.lock() = Instant::now();
            looked = Instant::now();
            if group.joined.load(Ordering::Relaxed) || group.connected.trouble().is_some() {
                well = looked;
            } else if well.elapsed() > JOINED_WITHIN {
                return Err(KafkaError::new(
                    "the group of the engines cannot be joined, although Kafka is there",
                ));
            }
            if said.elapsed() >= SAID_EVERY {
                shared.say_how_far(consumer);
                said = Instant::now();
            }
        }
        Ok(())
    }
}

/// The group hears that this process goes, so that its shards need not wait for a timeout.
fn leave(consumer: &BaseConsumer<InGroup>, topic: &str) {
    consumer.unsubscribe();
    let begun = Instant::now();
    while begun.elapsed() < LEFT_WITHIN && consumer.assignment().is_ok_and(|assigned| assigned.count() > 0) {
        // What comes still is asked of the next one.
        let _ = consumer.poll(LOOKED_EVERY);
    }
    // Kafka hears of it when it has heard how far the partitions are done with. A client that is closed before that says nothing. What it is
    // asked now it answers after that.
    let mut any = TopicPartitionList::new();
    any.add_partition(topic, 0);
    if let Err(error) = consumer.committed_offsets(any, LEFT_WITHIN) {
        tracing::debug!(%error, "the group may not have heard that this process goes");
    }
}
