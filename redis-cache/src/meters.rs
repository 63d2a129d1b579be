//! The figures, by name. `docs/metrics.md` says what they mean.

use metrics::{Counter, Gauge, counter, gauge};

/// How the calls of Redis ended, and whether it is asked at all.
pub(crate) struct CallMeters {
    pub(crate) answered: Counter,
    pub(crate) failed: Counter,
    pub(crate) late: Counter,
    /// Not asked: there is no connection, or too many wait for an answer.
    pub(crate) skipped: Counter,
    pub(crate) connected: Gauge,
    /// What was to be kept and found the queue full.
    pub(crate) dropped: Counter,
}

impl CallMeters {
    /// Those of one connection: the one for calls, or one that listens.
    pub(crate) fn of(connection: &'static str) -> Self {
        let calls = |outcome: &'static str| counter!("jangbu_redis_calls_total", "connection" => connection, "outcome" => outcome);
        let meters = Self {
            answered: calls("answered"),
            failed: calls("failed"),
            late: calls("late"),
            skipped: calls("skipped"),
            connected: gauge!("jangbu_redis_connected", "connection" => connection),
            dropped: counter!("jangbu_redis_writes_dropped_total", "connection" => connection),
        };
        meters.connected.set(0.0);
        meters.dropped.increment(0);
        meters
    }
}

/// What a cache had to say.
pub(crate) struct CacheMeters {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    /// It had something, and it was not to be believed.
    pub(crate) disbelieved: Counter,
}

impl CacheMeters {
    pub(crate) fn of(cache: &'static str) -> Self {
        let asked = |outcome: &'static str| counter!("jangbu_cache_requests_total", "cache" => cache, "outcome" => outcome);
        Self {
            hits: asked("hit"),
            misses: asked("miss"),
            disbelieved: asked("disbelieved"),
        }
    }
}
