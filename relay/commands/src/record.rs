//! What a record holds: JSON.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use engine::{EngineError, Inboxes, Message, Question, Response};
use metrics::Counter;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How often it is said that records cannot be read.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// A record in one of the topics.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Of which log it speaks; nil when its sender does not know.
    #[serde(default)]
    log: Uuid,
    /// How far shards are durable, as far as the sender knows: what it says stands on that.
    #[serde(default)]
    durable: Vec<(u16, u64)>,
    pub(crate) what: What,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum What {
    Asked(Box<Asked>),
    Message(Box<Message>),
    Answered(Box<Answered>),
}

/// A question to the engine of the shard whose partition it stands in.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asked {
    /// The same when it is asked again.
    pub(crate) id: Uuid,
    pub(crate) asker: ReplyTo,
    /// Microseconds since 1970. Nobody waits for the answer any more then.
    pub(crate) expires_at: i64,
    pub(crate) question: Question,
}

/// Where somebody takes answers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ReplyTo {
    pub(crate) node: Uuid,
    pub(crate) partition: i32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answered {
    /// Of the question.
    pub(crate) id: Uuid,
    pub(crate) answer: Result<Response, EngineError>,
}

impl Record {
    /// It stands on nothing.
    pub(crate) fn asked(asked: Asked, here: &Inboxes) -> Self {
        Self {
            log: here.log_id(),
            durable: Vec::new(),
            what: What::Asked(Box::new(asked)),
        }
    }

    /// It stands on what its shard has made durable.
    pub(crate) fn message(message: Message, here: &Inboxes) -> Self {
        Self {
            log: here.log_id(),
            durable: vec![(message.from, here.durable(message.from))],
            what: What::Message(Box::new(message)),
        }
    }

    /// It stands on what its shard has made durable, and may stand on what other shards have said.
    pub(crate) fn answered(id: Uuid, answer: Result<Response, EngineError>, here: &Inboxes) -> Self {
        let known = (0..).zip(here.all_durable()).filter(|(_, position)| *position > 0);
        Self {
            log: here.log_id(),
            durable: known.collect(),
            what: What::Answered(Box::new(Answered { id, answer })),
        }
    }

    /// Tells what it stands on.
    pub(crate) fn tell(&self, here: &Inboxes) {
        for (shard, position) in &self.durable {
            here.heard_of(*shard, *position);
        }
    }
}

/// Records that are not for us are passed over: the rest goes on.
pub(crate) struct Unread {
    skipped: Counter,
    said: Mutex<Option<Instant>>,
}

impl Unread {
    pub(crate) fn new() -> Self {
        let skipped = metrics::counter!("jangbu_transport_skipped_total");
        skipped.increment(0);
        Self {
            skipped,
            said: Mutex::default(),
        }
    }

    /// Reads a record of this log; none when it is none, or of a version that has other ones.
    pub(crate) fn read(&self, payload: &[u8], log: Uuid) -> Option<Record> {
        let Ok(record) = serde_json::from_slice::<Record>(payload) else {
            self.skip(payload, "a record cannot be read");
            return None;
        };
        if record.log != log && !record.log.is_nil() && !log.is_nil() {
            self.skip(payload, "a record is of another log: no other shop may have these topics");
            return None;
        }
        Some(record)
    }

    /// What is in it is nobody's business.
    fn skip(&self, payload: &[u8], why: &'static str) {
        self.skipped.increment(1);
        let mut said = self.said.lock();
        if said.is_none_or(|said| said.elapsed() > SAID_EVERY) {
            *said = Some(Instant::now());
            tracing::warn!(bytes = payload.len(), "{why}; it is passed over, and others like it");
        }
    }
}

/// Microseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// From now to a time in microseconds since 1970; none when that has passed.
pub(crate) fn until(time: i64) -> Option<Duration> {
    let left = u64::try_from(time.checked_sub(now())?).ok()?;
    Some(Duration::from_micros(left))
}

/// So long after now, in microseconds since 1970.
pub(crate) fn after(duration: Duration) -> i64 {
    now().saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_log_is_passed_over_and_one_that_names_none_is_read() {
        let unread = Unread::new();
        let (ours, theirs) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let record = |log| {
            let answered = Answered {
                id: Uuid::nil(),
                answer: Err(EngineError::Overloaded),
            };
            let record = Record {
                log,
                durable: vec![(3, 9)],
                what: What::Answered(Box::new(answered)),
            };
            serde_json::to_vec(&record).expect("JSON")
        };
        for (log, here) in [(ours, ours), (Uuid::nil(), ours), (ours, Uuid::nil())] {
            assert!(unread.read(&record(log), here).is_some());
        }
        assert!(unread.read(&record(theirs), ours).is_none());
    }

    #[test]
    fn what_is_no_record_or_one_of_a_later_version_is_passed_over() {
        let unread = Unread::new();
        let later: [&[u8]; 4] = [b"", b"\xff\x00", b"{}", br#"{"what":{"foretold":{"id":7}}}"#];
        assert!(later.iter().all(|payload| unread.read(payload, Uuid::nil()).is_none()));
        let more =
            br#"{"what":{"answered":{"id":"00000000-0000-0000-0000-000000000001","answer":{"Err":"Overloaded"},"more":1}},"more":2}"#;
        assert!(unread.read(more, Uuid::nil()).is_some(), "what a later version adds does no harm");
    }

    #[test]
    fn a_time_that_has_passed_or_cannot_be_is_no_time_to_wait_for() {
        assert!(until(after(Duration::from_secs(5))).is_some_and(|left| left > Duration::from_secs(4)));
        assert!(until(now() - 1).is_none() && until(i64::MIN).is_none());
        assert_eq!(after(Duration::MAX), i64::MAX);
    }
}
