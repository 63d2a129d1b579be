//! Hints that something new is there, so that who follows the log or the views looks sooner than the next time anyway.

use std::{collections::BTreeMap, sync::Arc};

use event_store::{Bell, Listener, Shards};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::AbortHandle};

use crate::{Redis, Settings, connection::Subscription};

/// More than a log may have are not told of.
const MOST_SHARDS: usize = Shards::MOST as usize;

/// What there is something new in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// The log: events were recorded.
    Log,
    /// The views: events were counted.
    Views,
}

impl Topic {
    /// The channel of Redis.
    pub const fn channel(self) -> &'static str {
        match self {
            Self::Log => "jangbu:log",
            Self::Views => "jangbu:views",
        }
    }
}

/// Hints of one topic. They may be lost, late, repeated or made up: who is woken looks for itself, and who is not looks from time to time.
pub struct RedisWakes {
    redis: Redis,
    bell: Bell,
    said: Arc<Said>,
    saying: AbortHandle,
}

/// What is still to be said: of each shard the newest position.
#[derive(Default)]
struct Said {
    waiting: Mutex<BTreeMap<u16, u64>>,
    more: Notify,
}

impl RedisWakes {
    /// Listens on a connection of its own. To be called on a tokio runtime.
    pub fn start(settings: Settings, topic: Topic) -> Self {
        let bell = Bell::default();
        let rung = bell.clone();
        let subscription = Subscription {
            channel: topic.channel(),
            heard: Arc::new(move |message| {
                if place(message).is_some() {
                    rung.ring();
                }
            }),
        };
        let redis = Redis::start_with(settings, Some(subscription));
        let said = Arc::new(Said::default());
        let saying = tokio::spawn(say(redis.clone(), Arc::clone(&said), topic.channel())).abort_handle();
        Self { redis, bell, said, saying }
    }

    /// One who hears every hint from now on. As long as Redis is gone there is none.
    pub fn listener(&self) -> Listener {
        self.bell.listener()
    }

    /// Tells everybody that this shard has come so far. It waits for nothing.
    pub fn notify(&self, shard: u16, position: u64) {
        let mut waiting = self.said.waiting.lock();
        if waiting.len() < MOST_SHARDS || waiting.contains_key(&shard) {
            let known = waiting.entry(shard).or_default();
            *known = position.max(*known);
        }
        drop(waiting);
        self.said.more.notify_one();
    }

    /// The connection that it listens on.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }
}

impl Drop for RedisWakes {
    fn drop(&mut self) {
        self.saying.abort();
    }
}

async fn say(redis: Redis, said: Arc<Said>, channel: &'static str) {
    loop {
        said.more.notified().await;
        let waiting = std::mem::take(&mut *said.waiting.lock());
        for (shard, position) in waiting {
            let _: Option<i64> = redis
                .ask(redis::cmd("PUBLISH").arg(channel).arg(format!("{shard}/{position}")))
                .await;
        }
    }
}

/// `shard/position`.
fn place(message: &[u8]) -> Option<(u16, u64)> {
    let (shard, position) = std::str::from_utf8(message).ok()?.split_once('/')?;
    Some((shard.parse().ok()?, position.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_no_place_is_no_hint() {
        assert_eq!(place(b"3/17"), Some((3, 17)));
        for message in ["", "3", "/", "3/", "70000/1", "a/b", "1/2/3", "\u{fffd}/1"] {
            assert_eq!(place(message.as_bytes()), None, "{message}");
        }
        assert_eq!(place(&[0xff, b'/', b'1']), None);
    }
}
