//! What is asked of the shards of this process is answered.

use std::{collections::HashMap, num::NonZeroUsize, pin::pin, sync::Arc};

use engine::{Engine, EngineError, Inboxes, Question, Response};
use lru::LruCache;
use metrics::Counter;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::{
    offsets::Offsets,
    post::Post,
    record::{Asked, Record, ReplyTo, Unread, What, until},
};

/// More questions than this are not answered at a time; more are turned away.
const MOST_UNDER_WAY: usize = 20_000;

/// Those who wait for something to happen cost little, and are to take no place from those who want it done.
const MOST_WATCHING: usize = 100_000;

/// So many answers are kept: one whose record was lost is asked for again, and is the same then.
const ANSWERS_KEPT: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");

pub(crate) struct Answering {
    engine: Engine,
    inboxes: Inboxes,
    post: Arc<Post>,
    runtime: Handle,
    pub(crate) offsets: Mutex<Offsets>,
    questions: Mutex<Questions>,
    unread: Unread,
    expired: Counter,
}

struct Questions {
    under_way: HashMap<Uuid, Waited>,
    watching: usize,
    given: LruCache<Uuid, Arc<Record>>,
}

/// Somebody waits for the answer to a question.
#[derive(Debug, PartialEq, Eq)]
struct Waited {
    /// Microseconds since 1970.
    until: i64,
    watches: bool,
}

/// What is to be done about a question.
enum Next {
    Answer,
    Nothing,
    Repeat(Arc<Record>),
    TurnAway,
}

impl Questions {
    fn new() -> Self {
        Self {
            under_way: HashMap::new(),
            watching: 0,
            given: LruCache::new(ANSWERS_KEPT),
        }
    }

    fn next(&mut self, id: Uuid, until: i64, watches: bool) -> Next {
        if let Some(given) = self.given.get(&id) {
            return Next::Repeat(Arc::clone(given));
        }
        if let Some(waited) = self.under_way.get_mut(&id) {
            // Somebody waits still.
            waited.until = until.max(waited.until);
            return Next::Nothing;
        }
        let full = if watches {
            self.watching >= MOST_WATCHING
        } else {
            self.under_way.len() - self.watching >= MOST_UNDER_WAY
        };
        if full {
            return Next::TurnAway;
        }
        self.watching += usize::from(watches);
        self.under_way.insert(id, Waited { until, watches });
        Next::Answer
    }

    fn ended(&mut self, id: Uuid) {
        if self.under_way.remove(&id).is_some_and(|waited| waited.watches) {
            self.watching -= 1;
        }
    }
}

impl Answering {
    /// Answers are given on `runtime`.
    pub(crate) fn new(engine: Engine, post: Arc<Post>, runtime: Handle) -> Self {
        let expired = metrics::counter!("jangbu_transport_expired_total");
        expired.increment(0);
        Self {
            inboxes: engine.inboxes(),
            engine,
            post,
            runtime,
            offsets: Mutex::default(),
            questions: Mutex::new(Questions::new()),
            unread: Unread::new(),
            expired,
        }
    }

    /// Takes a record of a shard's partition.
    pub(crate) fn take(self: &Arc<Self>, partition: i32, offset: i64, payload: &[u8]) {
        let Some(record) = self.unread.read(payload, self.inboxes.log_id()) else {
            self.offsets.lock().taken(partition, offset, false);
            return;
        };
        record.tell(&self.inboxes);
        let owed = matches!(&record.what, What::Asked(asked) if asked.question.changes());
        self.offsets.lock().taken(partition, offset, owed);
        match record.what {
            // For a shard that has just gone it is owed still.
            What::Message(message) => drop(self.inboxes.deliver(*message)),
            What::Asked(asked) => self.asked(*asked, partition, offset),
            What::Answered(_) => {}
        }
    }

    fn asked(self: &Arc<Self>, asked: Asked, partition: i32, offset: i64) {
        let done = || self.offsets.lock().done(partition, offset);
        let (Some(_), Ok(shard)) = (until(asked.expires_at), u16::try_from(partition)) else {
            self.expired.increment(1);
            return done();
        };
        let watches = matches!(asked.question, Question::Watch(..));
        let next = self.questions.lock().next(asked.id, asked.expires_at, watches);
        match next {
            Next::Answer => drop(self.runtime.spawn(Arc::clone(self).answer(asked, shard, offset))),
            Next::Nothing => done(),
            Next::Repeat(given) => {
                self.send(asked.asker, asked.id, &given);
                done();
            }
            Next::TurnAway => {
                let refused = Record::answered(asked.id, Err(EngineError::Overloaded), &self.inboxes);
                self.send(asked.asker, asked.id, &refused);
                done();
            }
        }
    }

    async fn answer(self: Arc<Self>, asked: Asked, shard: u16, offset: i64) {
        let Asked { id, asker, question, .. } = asked;
        let changes = question.changes();
        let answer = self.while_somebody_waits(id, shard, question).await;
        // What a shard leaves unanswered that goes elsewhere is not done with: its record goes there too.
        let done = !matches!(answer, Some(None));
        if let Some(Some(answer)) = answer {
            let record = Arc::new(Record::answered(id, answer, &self.inboxes));
            self.send(asker, id, &record);
            if changes {
                self.questions.lock().given.put(id, record);
            }
        }
        self.questions.lock().ended(id);
        if done {
            self.offsets.lock().done(i32::from(shard), offset);
        }
    }

    /// None when nobody waits any more.
    async fn while_somebody_waits(&self, id: Uuid, shard: u16, question: Question) -> Option<Option<Result<Response, EngineError>>> {
        let mut answer = pin!(self.engine.answer(shard, question));
        loop {
            let waited_until = self.questions.lock().under_way.get(&id)?.until;
            let left = until(waited_until)?;
            if let Ok(answer) = tokio::time::timeout(left, &mut answer).await {
                return Some(answer);
            }
        }
    }

    fn send(&self, asker: ReplyTo, id: Uuid, record: &Record) {
        if self.post.to_asker(asker, record).is_err() {
            let refused = EngineError::Unavailable("the answer is larger than what Kafka takes".to_owned());
            // A few words are not.
            let _ = self.post.to_asker(asker, &Record::answered(id, Err(refused), &self.inboxes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_decided_once_and_waited_for_as_long_as_its_asker_does() {
        let mut questions = Questions::new();
        let id = Uuid::from_u128(1);
        assert!(matches!(questions.next(id, 10, false), Next::Answer));
        assert!(matches!(questions.next(id, 30, false), Next::Nothing));
        assert!(matches!(questions.next(id, 20, false), Next::Nothing), "it came late");
        assert_eq!(questions.under_way.get(&id).map(|waited| waited.until), Some(30));
        questions.ended(id);
        assert!(matches!(questions.next(id, 40, false), Next::Answer), "nobody answers it any more");
    }

    #[test]
    fn too_many_questions_are_turned_away_and_those_who_watch_take_no_place_from_the_others() {
        let mut questions = Questions::new();
        let mut ids = (1..).map(Uuid::from_u128);
        let mut fill = |questions: &mut Questions, watches| {
            let answered = |id: &Uuid| matches!(questions.next(*id, 10, watches), Next::Answer);
            ids.by_ref().take_while(answered).count()
        };
        assert_eq!(fill(&mut questions, true), MOST_WATCHING);
        assert_eq!(fill(&mut questions, false), MOST_UNDER_WAY);
        assert_eq!(questions.under_way.len(), MOST_WATCHING + MOST_UNDER_WAY);
        questions.ended(Uuid::from_u128(1));
        assert_eq!((fill(&mut questions, false), fill(&mut questions, true)), (0, 1));
    }
}
