//! What the engines of several shards say to one another.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::stored::{Deed, Learnt, Task};

/// From one shard's engine to another's. It may be lost, come twice, late, or before one that was sent earlier: its sender owes it, and
/// sends it again until it has recorded the answer; its receiver records what it has answered and says the same again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Names the task, and its answer too.
    pub id: Uuid,
    /// The shard that says it.
    pub from: u16,
    /// The shard that it is for.
    pub to: u16,
    pub(crate) body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Body {
    /// Something to be done.
    Task(Box<Task>),
    /// It is done, or its receiver sees to it that it will be; the sender's purchases learn this from it.
    Answer(Vec<Learnt>),
}

impl Message {
    /// Whether it is an answer.
    pub fn is_answer(&self) -> bool {
        matches!(self.body, Body::Answer(_))
    }

    /// What it says in a few words, for a log that people read: which aggregate, and nothing of its contents.
    pub fn summary(&self) -> String {
        let Self { id, from, to, body } = self;
        match body {
            Body::Task(task) => {
                let (kind, target) = task.deed.target();
                let what = match task.deed {
                    Deed::Command(_) => "a command to",
                    Deed::Learn(_) => "news for",
                };
                format!("{id} from {from} to {to}: {what} {}-{target}", kind.name())
            }
            Body::Answer(learnt) => format!("{id} from {from} to {to}: its answer, {} learnt", learnt.len()),
        }
    }
}

/// Names a message: the same deed for the same cause is the same message.
pub(crate) fn message_id(cause: Uuid, deed: &Deed) -> Uuid {
    let deed = serde_json::to_vec(deed).unwrap_or_default();
    Uuid::new_v5(&cause, &deed)
}
