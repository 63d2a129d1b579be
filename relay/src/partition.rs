//! Which partition a key is in, and whether its broker knows the producer.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

/// A broker forgets a producer that has sent nothing for a day, as it is set up at first. Here it counts as forgotten much sooner.
const KNOWN_FOR: Duration = Duration::from_hours(1);

/// The hash that Kafka's own client finds a key's partition by: other programs find it by the same.
pub(crate) fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let mut hash = 0x9747_b28c ^ length;
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut part = word.iter().rev().fold(0, |part: u32, byte| part << 8 | u32::from(*byte));
        part = part.wrapping_mul(M);
        part = (part ^ part >> 24).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ part;
    }
    if !words.remainder().is_empty() {
        hash ^= words
            .remainder()
            .iter()
            .rev()
            .fold(0, |part: u32, byte| part << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^ hash >> 15
}

/// The partition of a key with this hash.
pub(crate) fn of(hash: u32, partitions: i32) -> i32 {
    i32::try_from(hash & 0x7fff_ffff).unwrap_or(0) % partitions.max(1)
}

/// What of a producer each partition's broker has seen.
///
/// A broker takes the first batch that it sees of a producer whatever its number is. So if that first one is refused, and the client has
/// one more request ready, as it always may, then that one is taken although one is missing before it. Until a broker has acknowledged something
/// of the producer, of each stream there is one event under way; afterwards it refuses what comes after a gap.
#[derive(Debug, Default)]
pub(crate) struct Seen(HashMap<String, HashMap<i32, Partition>>);

#[derive(Debug)]
enum Partition {
    /// Something was acknowledged, last at this time.
    Known(Instant),
    /// Nothing was. What is under way, by the hashes of the keys.
    Unknown(HashSet<u32>),
}

impl Seen {
    /// Whether an event with this key may go, and if so, it goes.
    pub(crate) fn lets_go(&mut self, topic: &str, partition: i32, hash: u32, now: Instant) -> bool {
        if !self.0.contains_key(topic) {
            self.0.insert(topic.to_owned(), HashMap::new());
        }
        let unknown = || Partition::Unknown(HashSet::new());
        let Some(partitions) = self.0.get_mut(topic) else { return false };
        let state = partitions.entry(partition).or_insert_with(unknown);
        if matches!(state, Partition::Known(at) if now.duration_since(*at) > KNOWN_FOR) {
            *state = unknown();
        }
        match state {
            Partition::Known(_) => true,
            Partition::Unknown(under_way) => under_way.insert(hash),
        }
    }

    /// It did not go after all.
    pub(crate) fn stays(&mut self, topic: &str, partition: i32, hash: u32) {
        if let Some(Partition::Unknown(under_way)) = self.0.get_mut(topic).and_then(|partitions| partitions.get_mut(&partition)) {
            under_way.remove(&hash);
        }
    }

    /// Something that was sent there is acknowledged.
    pub(crate) fn acknowledged(&mut self, topic: &str, partition: i32, now: Instant) {
        if let Some(partitions) = self.0.get_mut(topic) {
            partitions.insert(partition, Partition::Known(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_where_kafkas_own_client_puts_them() {
        // As Kafka's own tests have it.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107_i32),
        ] {
            assert_eq!(murmur2(key.as_bytes()), hash.cast_unsigned(), "{key}");
        }
        assert_eq!(of(u32::MAX, 12), 0x7fff_ffff % 12);
        assert_eq!(of(7, 0), 0);
    }

    #[test]
    fn of_a_stream_one_event_is_under_way_until_the_broker_knows_the_producer() {
        let now = Instant::now();
        let mut seen = Seen::default();
        assert!(seen.lets_go("orders", 0, 1, now) && seen.lets_go("orders", 0, 2, now) && seen.lets_go("orders", 1, 3, now));
        assert!(!seen.lets_go("orders", 0, 1, now), "its first is under way");
        seen.acknowledged("orders", 0, now);
        assert!(seen.lets_go("orders", 0, 1, now) && seen.lets_go("orders", 0, 1, now));
        assert!(!seen.lets_go("orders", 1, 3, now), "another partition");
        seen.stays("orders", 1, 3);
        assert!(seen.lets_go("orders", 1, 3, now));
        let later = now + KNOWN_FOR + Duration::from_secs(1);
        assert!(
            seen.lets_go("orders", 0, 1, later) && !seen.lets_go("orders", 0, 1, later),
            "it may have forgotten"
        );
    }
}
