//! Who asks: a question goes out, and its answer comes back by another topic.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use engine::{Answering, Elsewhere, EngineError, Inboxes, Question};
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    config::FromClientConfigAndContext as _,
    consumer::{BaseConsumer, Consumer as _},
    message::BorrowedMessage,
};
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use crate::{
    CommandsSettings, KafkaError,
    client::{self, Connected, Said, is_passing, let_go},
    post::Post,
    record::{Asked, Record, ReplyTo, Unread, What, after},
    topics::{self, PATIENCE, REPLY_PARTITIONS},
};

/// How often it is looked whether the thread is to end.
const LOOKED_EVERY: Duration = Duration::from_millis(100);

/// How long it rests after something failed.
const AGAIN: Duration = Duration::from_millis(500);

/// How long Kafka may take to let it go.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

/// Asks the engines of other processes.
pub(crate) struct Asker {
    asking: Arc<Asking>,
    post: Arc<Post>,
    answered_within: Duration,
    asked_again: Duration,
    thread: Option<JoinHandle<()>>,
}

/// What the answers are taken for.
struct Asking {
    here: ReplyTo,
    waiting: Mutex<HashMap<Uuid, oneshot::Sender<Record>>>,
    hindrance: Mutex<Option<String>>,
    unread: Unread,
    stopped: AtomicBool,
}

/// Who waits for the answer to a question: takes itself off the list.
struct Waits {
    id: Uuid,
    asking: Arc<Asking>,
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.asking.waiting.lock().remove(&self.id);
    }
}

impl Asker {
    pub(crate) fn start(settings: &CommandsSettings, node: Uuid, post: Arc<Post>) -> Result<Self, KafkaError> {
        let partition = i32::try_from(node.as_u128() % u128::from(REPLY_PARTITIONS)).unwrap_or_default();
        let asking = Arc::new(Asking {
            here: ReplyTo { node, partition },
            waiting: Mutex::default(),
            hindrance: Mutex::new(Some("Kafka has not been reached yet".to_owned())),
            unread: Unread::new(),
            stopped: AtomicBool::new(false),
        });
        let listener = Listener {
            // It takes part in no group, but the client wants a name.
            config: client::listening(settings, &format!("jangbu-asker-{node}"))?,
            settings: settings.clone(),
            post: Arc::clone(&post),
            asking: Arc::clone(&asking),
        };
        let thread = thread::Builder::new().name("answers".into()).spawn(move || listener.run());
        Ok(Self {
            asking,
            post,
            answered_within: settings.answered_within,
            asked_again: settings.asked_again,
            thread: Some(thread.map_err(|error| KafkaError::new(format!("no thread can be started: {error}")))?),
        })
    }

    /// Whether its thread runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// What stands in the way of being answered.
    pub(crate) fn hindrance(&self) -> Option<String> {
        self.asking.hindrance.lock().clone()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.asking.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("what takes the answers of other engines has ended by a panic");
        }
    }
}

impl Elsewhere for Asker {
    fn ask(&self, shard: u16, question: Question, here: &Inboxes) -> Answering {
        let (post, asking, here) = (Arc::clone(&self.post), Arc::clone(&self.asking), here.clone());
        let (within, again) = (self.answered_within, self.asked_again);
        Box::pin(async move {
            let id = Uuid::now_v7();
            let (sender, mut answer) = oneshot::channel();
            asking.waiting.lock().insert(id, sender);
            let waits = Waits { id, asking };
            // Who waits for something to happen waits as long as its asker does.
            let patient = matches!(question, Question::Watch(..));
            let gives_up = Instant::now() + within;
            let expires_at = after(within);
            let asker = waits.asking.here;
            let asked = Asked {
                id,
                asker,
                expires_at,
                question,
            };
            let mut asked = Record::asked(asked, &here);
            loop {
                if patient && let What::Asked(asked) = &mut asked.what {
                    // Its engine forgets it soon after its asker has gone.
                    asked.expires_at = after(again * 4);
                }
                if post.to_shard(shard, &asked).is_err() {
                    return Err(EngineError::Unavailable("the question is larger than what Kafka takes".to_owned()));
                }
                match tokio::time::timeout(again, &mut answer).await {
                    Ok(Ok(record)) => {
                        record.tell(&here);
                        let What::Answered(answered) = record.what else {
                            return Err(EngineError::NoAnswer(shard));
                        };
                        return answered.answer;
                    }
                    Ok(Err(_)) => return Err(EngineError::Stopping),
                    Err(_) if !patient && Instant::now() >= gives_up => return Err(EngineError::NoAnswer(shard)),
                    Err(_) => {}
                }
            }
        })
    }
}

/// Where the next answer will be. One of a topic that was just made is not known at once.
fn end_of(consumer: &BaseConsumer<Connected>, topic: &str, partition: i32) -> Result<i64, KafkaError> {
    let begun = Instant::now();
    loop {
        match consumer.fetch_watermarks(topic, partition, PATIENCE) {
            Ok((_, end)) => return Ok(end),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => thread::sleep(LOOKED_EVERY),
        }
    }
}

/// Takes the answers.
struct Listener {
    settings: CommandsSettings,
    config: ClientConfig,
    post: Arc<Post>,
    asking: Arc<Asking>,
}

impl Listener {
    fn run(self) {
        let mut said = Said::default();
        while !self.stopped() {
            let Err(error) = self.listen() else { return };
            if said.is_news(&error) {
                tracing::warn!(%error, "answers of other engines do not come: it is tried again");
            }
            *self.asking.hindrance.lock() = Some(error.to_string());
            thread::sleep(AGAIN);
        }
    }

    fn stopped(&self) -> bool {
        self.asking.stopped.load(Ordering::Relaxed)
    }

    /// Listens until it is stopped, or cannot go on.
    fn listen(&self) -> Result<(), KafkaError> {
        topics::ensure(&self.settings, self.post.client())?;
        let consumer: BaseConsumer<Connected> = BaseConsumer::from_config_and_context(&self.config, Connected::new())?;
        let listened = self.listen_by(&consumer);
        let_go(consumer, CLOSED_WITHIN);
        listened
    }

    fn listen_by(&self, consumer: &BaseConsumer<Connected>) -> Result<(), KafkaError> {
        let topic = self.settings.replies_topic();
        let partition = self.asking.here.partition;
        let end = end_of(consumer, &topic, partition)?;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&topic, partition, Offset::Offset(end))?;
        consumer.assign(&assignment)?;
        tracing::debug!(topic, partition, "answers of other engines come here");
        let mut looked: Option<Instant> = None;
        while !self.stopped() {
            if looked.is_none_or(|looked| looked.elapsed() >= LOOKED_EVERY) {
                *self.asking.hindrance.lock() = consumer.context().trouble();
                looked = Some(Instant::now());
            }
            match consumer.poll(LOOKED_EVERY) {
                Some(Ok(record)) => self.take(&record),
                Some(Err(error)) if is_passing(&error) => tracing::debug!(%error, "answers"),
                Some(Err(error)) => return Err(error.into()),
                None => {}
            }
        }
        Ok(())
    }

    fn take(&self, record: &BorrowedMessage<'_>) {
        // Answers of several nodes come by one partition.
        if record.key() != Some(self.asking.here.node.as_bytes()) {
            return;
        }
        // Whoever asked knows whether it is of its log: it has asked.
        let read = self.asking.unread.read(record.payload().unwrap_or_default(), Uuid::nil());
        let Some(record) = read else { return };
        if let What::Answered(answered) = &record.what {
            let waiting = self.asking.waiting.lock().remove(&answered.id);
            if let Some(waiting) = waiting {
                // Whoever asked may have gone.
                let _ = waiting.send(record);
            }
        }
    }
}
