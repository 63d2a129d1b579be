//! Limits that hold over all nodes: who sent how much, and whose logins failed.
//!
//! Each is one script, which Redis runs as a whole and by its own clock. What it returns is checked by who asks.

use std::{sync::LazyLock, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use command_api::{Asked, Failures, Hashed, Rate, SharedLimits, Taken};
use redis::Script;

use crate::Redis;

/// The generic cell rate algorithm: kept is the time at which all that was taken will have been given back. A time that the rule cannot
/// have left there counts as the latest that it can. Numbers are written out: Lua would round them.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local free_at = tonumber(redis.call('GET', KEYS[1]) or now) or now
local owed = math.max(0, math.min(free_at - now, most))
if owed + interval > most then
    return {0, owed}
end
owed = owed + interval
redis.call('SET', KEYS[1], string.format('%.0f', now + owed), 'PX', math.ceil(owed / 1000))
return {1, owed}
",
    )
});

static FAILURES: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all = {}
for at, key in ipairs(KEYS) do
    local known = redis.call('HMGET', key, 'count', 'last')
    all[2 * at - 1] = tonumber(known[1] or 0) or 0
    all[2 * at] = now - (tonumber(known[2] or now) or now)
end
return all
",
    )
});

static FAILED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, key in ipairs(KEYS) do
    redis.call('HINCRBY', key, 'count', 1)
    redis.call('HSET', key, 'last', string.format('%.0f', now))
    redis.call('PEXPIRE', key, ARGV[1])
end
return 1
",
    )
});

/// What all nodes count together.
pub struct Limits(Redis);

impl Limits {
    /// Those that are counted there.
    pub fn new(redis: Redis) -> Self {
        Self(redis)
    }
}

/// Who it is was hashed with the shop's key.
fn key(what: &str, who: Hashed) -> String {
    format!("jangbu:{what}:{}", URL_SAFE_NO_PAD.encode(who))
}

impl SharedLimits for Limits {
    fn take(&self, who: Hashed, rate: Rate) -> Asked<'_, Option<Taken>> {
        Box::pin(async move {
            let mut script = TAKE.key(key("rate", who));
            script.arg(rate.interval_micros()).arg(rate.most_micros());
            let (allowed, owed): (i64, u64) = self.0.run(&script).await?;
            let allowed = match allowed {
                0 => false,
                1 => true,
                _ => return None,
            };
            Some(Taken {
                allowed,
                owed: Duration::from_micros(owed),
            })
        })
    }

    fn failures<'a>(&'a self, of: &'a [Hashed]) -> Asked<'a, Option<Vec<Failures>>> {
        Box::pin(async move {
            let mut script = FAILURES.prepare_invoke();
            for who in of {
                script.key(key("logins", *who));
            }
            let all: Vec<i64> = self.0.run(&script).await?;
            let known = all.chunks_exact(2).map(|known| {
                Some(Failures {
                    count: u32::try_from(known[0]).ok()?,
                    // A clock that was set back makes it later than now.
                    since: Duration::from_millis(u64::try_from(known[1]).unwrap_or(0)),
                })
            });
            let known: Vec<_> = known.collect::<Option<_>>()?;
            (known.len() == of.len()).then_some(known)
        })
    }

    fn failed<'a>(&'a self, who: &'a [Hashed], forgotten_after: Duration) -> Asked<'a, ()> {
        Box::pin(async move {
            let mut script = FAILED.prepare_invoke();
            for who in who {
                script.key(key("logins", *who));
            }
            script.arg(u64::try_from(forgotten_after.as_millis()).unwrap_or(u64::MAX));
            let _: Option<i64> = self.0.run(&script).await;
        })
    }

    fn succeeded(&self, who: Hashed) -> Asked<'_, ()> {
        Box::pin(async move {
            let _: Option<i64> = self.0.ask(redis::cmd("UNLINK").arg(key("logins", who))).await;
        })
    }
}
