//! What is held back because Kafka refuses it: the streams, or whole topics, of a shard.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use event_store::StreamId;

/// How long to wait before what was refused is tried again: at first, and at most.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_mins(1);

/// So many streams of one topic are held back one by one. When there are more, it is the topic.
const STREAMS_OF_A_TOPIC: usize = 100;

/// How many are tried at once.
const TRIED_AT_ONCE: usize = 16;

/// What is held back, from this event on.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    /// The first event that waits: the one that is tried.
    pub(crate) position: u64,
    topic: String,
    why: String,
    wait: Duration,
    again: Instant,
    is_tried: bool,
}

impl Hold {
    fn new(position: u64, topic: &str, why: &str, now: Instant) -> Self {
        Self {
            position,
            topic: topic.to_owned(),
            why: why.to_owned(),
            wait: AGAIN,
            again: now + AGAIN,
            is_tried: false,
        }
    }
}

/// What of a shard is held back.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    streams: HashMap<StreamId, Hold>,
    topics: BTreeMap<String, Hold>,
}

impl Holds {
    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.topics.is_empty()
    }

    /// Whether this event waits, because one before it in its stream or in its topic does.
    pub(crate) fn cover(&mut self, stream: &StreamId, topic: &str, position: u64) -> bool {
        // A pass begins at the first that waits, so the first that is met is the one to be tried.
        let mut covered = false;
        for hold in [self.topics.get_mut(topic), self.streams.get_mut(stream)].into_iter().flatten() {
            hold.position = hold.position.min(position);
            covered = true;
        }
        covered
    }

    /// Holds a stream back. Its first event that was not taken stands here.
    pub(crate) fn hold_stream(&mut self, stream: &StreamId, topic: &str, position: u64, why: &str, now: Instant) {
        if self.streams.values().filter(|hold| hold.topic == topic).count() >= STREAMS_OF_A_TOPIC {
            return self.hold_topic(topic, position, why, now);
        }
        self.streams
            .entry(stream.clone())
            .or_insert_with(|| Hold::new(position, topic, why, now));
    }

    /// Holds all streams of a topic back.
    pub(crate) fn hold_topic(&mut self, topic: &str, position: u64, why: &str, now: Instant) {
        self.topics
            .entry(topic.to_owned())
            .or_insert_with(|| Hold::new(position, topic, why, now));
    }

    /// The events that are to be tried now. Of a topic that is held back one is enough.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<u64> {
        let Self { streams, topics } = self;
        let room = TRIED_AT_ONCE.saturating_sub(streams.values().chain(topics.values()).filter(|hold| hold.is_tried).count());
        let free: Vec<&mut Hold> = streams.values_mut().filter(|hold| !topics.contains_key(&hold.topic)).collect();
        let due = free.into_iter().chain(topics.values_mut());
        let due = due.filter(|hold| !hold.is_tried && hold.again <= now).take(room);
        due.map(|hold| {
            hold.is_tried = true;
            hold.position
        })
        .collect()
    }

    /// The broker has taken this one: what was held back because of it may go on.
    pub(crate) fn lift(&mut self, position: u64) -> bool {
        let before = self.streams.len() + self.topics.len();
        self.streams.retain(|_, hold| hold.position != position);
        self.topics.retain(|_, hold| hold.position != position);
        self.streams.len() + self.topics.len() < before
    }

    /// It was not taken. It is tried again later, and later still.
    pub(crate) fn put_off(&mut self, position: u64, why: &str, now: Instant) {
        for hold in self.of(position) {
            hold.wait = (hold.wait * 2).min(AGAIN_AT_MOST);
            hold.again = now + hold.wait;
            hold.is_tried = false;
            why.clone_into(&mut hold.why);
        }
    }

    /// It was not tried after all, and is to be when there is room.
    pub(crate) fn try_later(&mut self, position: u64, now: Instant) {
        for hold in self.of(position) {
            hold.again = now + AGAIN;
            hold.is_tried = false;
        }
    }

    /// Nobody knows what became of what was tried.
    pub(crate) fn forget_trials(&mut self, now: Instant) {
        for hold in self
            .streams
            .values_mut()
            .chain(self.topics.values_mut())
            .filter(|hold| hold.is_tried)
        {
            hold.again = now + hold.wait;
            hold.is_tried = false;
        }
    }

    fn of(&mut self, position: u64) -> impl Iterator<Item = &mut Hold> {
        let all = self.streams.values_mut().chain(self.topics.values_mut());
        all.filter(move |hold| hold.position == position)
    }

    /// What waits and why, the first of it.
    pub(crate) fn tell(&self, shard: u16) -> Option<String> {
        let streams = self
            .streams
            .iter()
            .map(|(stream, hold)| (hold, format!("{stream} in {}", hold.topic)));
        let topics = self.topics.values().map(|hold| (hold, format!("everything in {}", hold.topic)));
        let (hold, what) = streams.chain(topics).min_by_key(|(hold, _)| hold.position)?;
        let more = match self.streams.len() + self.topics.len() {
            1 => String::new(),
            all => format!(", and {} more", all - 1),
        };
        Some(format!(
            "shard {shard}: {what} waits from position {} on ({}){more}",
            hold.position, hold.why
        ))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const TOPIC: &str = "jangbu.order-events";

    fn stream(id: u128) -> StreamId {
        StreamId::new("order", Uuid::from_u128(id))
    }

    #[test]
    fn a_stream_waits_from_the_event_on_that_was_refused_and_others_do_not() {
        let now = Instant::now();
        let mut holds = Holds::default();
        holds.hold_stream(&stream(1), TOPIC, 7, "too large", now);
        assert!(holds.cover(&stream(1), TOPIC, 9) && !holds.cover(&stream(2), TOPIC, 8));
        assert!(holds.due(now).is_empty());
        assert_eq!(holds.due(now + AGAIN), [7]);
        assert!(holds.due(now + AGAIN).is_empty(), "one at a time");
        holds.put_off(7, "still too large", now);
        assert!(holds.due(now + AGAIN).is_empty());
        assert_eq!(holds.due(now + AGAIN * 2), [7]);
        let told = holds.tell(3).expect("something waits");
        assert!(
            told.starts_with("shard 3: order-00000000") && told.ends_with("waits from position 7 on (still too large)"),
            "{told}"
        );
        assert!(holds.lift(7) && !holds.lift(7) && holds.is_empty());
    }

    #[test]
    fn many_streams_of_a_topic_are_the_topic() {
        let now = Instant::now();
        let mut holds = Holds::default();
        for id in 0..=STREAMS_OF_A_TOPIC {
            holds.hold_stream(&stream(id as u128), TOPIC, 10 + id as u64, "refused", now);
        }
        assert!(holds.cover(&stream(9_999), TOPIC, 500) && !holds.cover(&stream(9_999), "jangbu.payment-events", 501));
        assert_eq!(
            holds.due(now + AGAIN),
            [10 + STREAMS_OF_A_TOPIC as u64],
            "one of the topic is tried"
        );
        assert!(holds.lift(10 + STREAMS_OF_A_TOPIC as u64));
        assert_eq!(holds.due(now + AGAIN).len(), TRIED_AT_ONCE);
    }
}
