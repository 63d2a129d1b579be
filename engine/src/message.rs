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

/// Names a message, UUIDv8 (RFC 9562, 5.8): the shard and 48 bits of the position of the event that it follows from, then 58 bits of a hash of
/// what it asks. The same deed for the same cause is the same message, and what a shard sends one after another is kept side by side.
pub(crate) fn message_id(cause: Uuid, deed: &Deed) -> Uuid {
    const BITS_OF_HASH: u32 = 58;
    let deed = serde_json::to_vec(deed).unwrap_or_default();
    let hash = blake3::hash(&deed)
        .as_bytes()
        .first_chunk()
        .map_or(0, |first| u64::from_be_bytes(*first));
    let hash = u128::from(hash >> (u64::BITS - BITS_OF_HASH));
    // An event's id names its place: see `event_id`.
    let (shard_and_epoch, position) = cause.as_u64_pair();
    let shard = u128::from(shard_and_epoch >> 16 & 0xffff);
    let named = shard << 48 | u128::from(position & 0xffff_ffff_ffff);
    let named = named << BITS_OF_HASH | hash;
    // The version and the variant stand between.
    let (high, middle, low) = (named >> 74, named >> 62 & 0xfff, named & 0x3fff_ffff_ffff_ffff);
    Uuid::from_u128(high << 80 | 8 << 76 | middle << 64 | 2 << 62 | low)
}

#[cfg(test)]
mod tests {
    use aggregates::{AccountId, Command, Currency, WalletCommand};

    use super::*;
    use crate::core::event_id;

    fn open(account: u128) -> Deed {
        let account = AccountId::new(Uuid::from_u128(account));
        Deed::Command(Command::Wallet(account, WalletCommand::Open { currency: Currency::KRW }))
    }

    #[test]
    fn a_message_is_named_after_its_cause_and_what_it_asks() {
        let log = Uuid::new_v4();
        let cause = |shard, epoch, position| event_id(log, shard, epoch, position);
        let id = message_id(cause(3, 7, 100_000_000_000), &open(1));
        assert_eq!((id.get_version_num(), id.get_variant()), (8, uuid::Variant::RFC4122));
        assert_eq!(id, message_id(cause(3, 7, 100_000_000_000), &open(1)));
        let others = [
            message_id(cause(3, 7, 100_000_000_000), &open(2)),
            message_id(cause(3, 7, 100_000_000_001), &open(1)),
            message_id(cause(2, 7, 100_000_000_000), &open(1)),
            message_id(cause(3, 7, 1), &open(1)),
        ];
        assert!(others.iter().all(|other| *other != id));
        let distinct: std::collections::BTreeSet<_> = others.iter().collect();
        assert_eq!(distinct.len(), others.len());
    }

    #[test]
    fn what_is_sent_later_is_named_later() {
        let id = |position| message_id(event_id(Uuid::nil(), 1, 1, position), &open(u128::from(position)));
        assert!((1..1_000).map(id).is_sorted());
    }
}
