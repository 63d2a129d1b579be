//! Commands between the shards of a log, and from API nodes to its engines, through Kafka.
//!
//! The topic `jangbu.commands` has one partition for each shard. The engines are one consumer group: who is assigned a partition takes the
//! shard, and the shard's epoch in the log fences whoever had it before. What an API node asks is a record in the shard's partition; the answer
//! is a record for that node in `jangbu.replies`. Messages from shard to shard travel the same way.
//!
//! Kafka keeps nothing that counts. A message is owed in the log, and sent again, until its answer is recorded there. A question is asked again
//! until it is answered or its asker gives up; what changes something carries an idempotency key, so that it is decided once. So records may be
//! lost, come twice or late, and a Kafka that has lost everything costs time.

mod answering;
mod asker;
mod client;
mod holds;
mod member;
mod offsets;
mod post;
mod record;
mod topics;

use std::{sync::Arc, time::Duration};

use engine::{Elsewhere, Engines, Shards, Transport};
pub use relay::KafkaError;
use relay::{KafkaSettings, TopicSettings};
use tokio::runtime::Handle;
use uuid::Uuid;

use asker::Asker;
pub use member::{Member, Standing};
use post::{Post, ToShards};

/// How the engines of a log are reached.
#[derive(Clone, Debug)]
pub struct CommandsSettings {
    /// How Kafka is reached.
    pub kafka: KafkaSettings,
    /// What the topics are called: `commands` and `replies` behind the prefix.
    pub topics: TopicSettings,
    /// The shards of the log.
    pub shards: Shards,
    /// The consumer group of the engines.
    pub group: String,
    /// How long a question is asked before it counts as not answered. It has to be longer than another engine takes to take a shard over.
    pub answered_within: Duration,
    /// How often it is asked again until then.
    pub asked_again: Duration,
    /// How long an engine may be silent before its shards go to others.
    pub session: Duration,
    /// How long a record waits for others that go its way. Each costs the broker as much as a few do together: the longer, the more can be
    /// done, and the longer each takes on its way there and back.
    pub linger: Duration,
}

impl CommandsSettings {
    /// The usual ones, for this Kafka and a log with so many shards.
    pub fn new(kafka: KafkaSettings, shards: Shards) -> Self {
        Self {
            kafka,
            topics: TopicSettings::default(),
            shards,
            group: "jangbu-engines".to_owned(),
            answered_within: Duration::from_secs(30),
            asked_again: Duration::from_secs(2),
            session: Duration::from_secs(6),
            linger: Duration::from_millis(4),
        }
    }

    fn commands_topic(&self) -> String {
        format!("{}commands", self.topics.prefix)
    }

    fn replies_topic(&self) -> String {
        format!("{}replies", self.topics.prefix)
    }
}

/// The way to the engines of a log. Dropped, it takes no answers any more.
pub struct Commands {
    settings: CommandsSettings,
    post: Arc<Post>,
    asker: Arc<Asker>,
}

impl Commands {
    /// Opens the way for a process of this name. That Kafka cannot be reached is no error: it waits for it.
    ///
    /// # Errors
    /// The settings cannot be used; the text says which.
    pub fn open(settings: CommandsSettings, node: Uuid) -> Result<Self, KafkaError> {
        let post = Arc::new(Post::new(&settings)?);
        let asker = Arc::new(Asker::start(&settings, node, Arc::clone(&post))?);
        Ok(Self { settings, post, asker })
    }

    /// From shard to shard: what is not for an engine of this process goes to Kafka.
    pub fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(ToShards(Arc::clone(&self.post)))
    }

    /// Asks the engines of other processes.
    pub fn elsewhere(&self) -> Arc<dyn Elsewhere> {
        Arc::clone(&self.asker) as Arc<dyn Elsewhere>
    }

    /// Whether answers are taken still. Where they are not, the process should be replaced.
    pub fn is_alive(&self) -> bool {
        self.asker.is_alive()
    }

    /// What stands in the way of being answered, if something does.
    pub fn hindrance(&self) -> Option<String> {
        self.asker.hindrance()
    }

    /// Joins the group of the engines: from now on this process takes the shards that it is assigned. Answers are given on `runtime`.
    ///
    /// # Errors
    /// The settings cannot be used, or the system gives no thread.
    pub fn join(&self, engines: Engines, runtime: Handle) -> Result<Member, KafkaError> {
        Member::join(&self.settings, engines, Arc::clone(&self.post), runtime)
    }
}

impl std::fmt::Debug for Commands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commands").field("settings", &self.settings).finish_non_exhaustive()
    }
}
