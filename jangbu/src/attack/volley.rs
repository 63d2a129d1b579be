//! Calls that leave together.
//!
//! Every call has a connection of its own, warmed by a request before. All of the call but its last byte is sent in advance, so that the
//! shop has read it when the last byte comes, and the network's own disorder plays no part.

use std::{
    io,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::task::JoinSet;

use super::pair::Side;
use crate::client::http::{Address, Call, Connection};

/// Nearer than this to its time a call waits awake: sleeping is good to a millisecond only.
const AWAKE: Duration = Duration::from_millis(2);
/// The held back bytes wait so long for the others to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_micros(200);

/// What was answered to a call, and when.
pub(super) struct Landed {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    pub(super) at: Instant,
}

/// The connections that are kept from volley to volley.
#[derive(Default)]
pub(super) struct Volley {
    connections: Vec<Connection>,
}

impl Volley {
    /// Sends these whole requests, each so much later than the first. No answer where a connection broke.
    pub(super) async fn fire(&mut self, address: &Address, calls: Vec<(Vec<u8>, Duration)>) -> anyhow::Result<Vec<Option<Landed>>> {
        let what = || format!("connecting to {}", address.authority());
        let mut armed = Vec::with_capacity(calls.len());
        for (request, delay) in calls {
            let mut connection = self.warm(address).await.with_context(what)?;
            let last = request.len().saturating_sub(1);
            connection.send(&request[..last]).await.with_context(what)?;
            armed.push((connection, request[last..].to_owned(), delay));
        }
        let start = Instant::now() + ARRIVES_WITHIN;
        let mut flying = JoinSet::new();
        for (number, (mut connection, rest, delay)) in armed.into_iter().enumerate() {
            flying.spawn(async move {
                until(start + delay).await;
                let landed = land(&mut connection, &rest).await;
                (number, landed, connection)
            });
        }
        let mut answers = Vec::new();
        answers.resize_with(flying.len(), || None);
        while let Some(flown) = flying.join_next().await {
            let (number, landed, connection) = flown.context("a call broke off")?;
            if let Ok((landed, last)) = landed {
                answers[number] = Some(landed);
                if !last {
                    self.connections.push(connection);
                }
            }
        }
        Ok(answers)
    }

    /// A connection that has just answered.
    async fn warm(&mut self, address: &Address) -> io::Result<Connection> {
        let hello = Call::get("/livez").write(address, false);
        while let Some(mut connection) = self.connections.pop() {
            // One that was closed meanwhile is let go.
            if connection.exchange(&hello).await.is_ok_and(|answer| !answer.last) {
                return Ok(connection);
            }
        }
        let mut connection = Connection::open(address).await?;
        let last = connection.exchange(&hello).await?.last;
        if last { Connection::open(address).await } else { Ok(connection) }
    }
}

async fn land(connection: &mut Connection, rest: &[u8]) -> io::Result<(Landed, bool)> {
    connection.send(rest).await?;
    let answer = connection.receive().await?;
    let landed = Landed {
        status: answer.status,
        body: answer.body.to_owned(),
        at: Instant::now(),
    };
    Ok((landed, answer.last))
}

async fn until(moment: Instant) {
    let early = moment.saturating_duration_since(Instant::now()).saturating_sub(AWAKE);
    if !early.is_zero() {
        tokio::time::sleep(early).await;
    }
    while Instant::now() < moment {
        tokio::task::yield_now().await;
    }
}

/// Choices by chance: `SplitMix64`. The same seed, the same choices.
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    /// The choices of one round of one pair, whatever was chosen before.
    pub(super) fn of(seed: u64, pair: &str, round: u32) -> Self {
        let mut chance = Self(seed);
        for byte in pair.bytes() {
            chance.0 = chance.next() ^ u64::from(byte);
        }
        chance.0 = chance.next() ^ u64::from(round);
        chance
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, and without, this.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// An amount or a count from the one up to, and without, the other.
    pub(super) fn between(&mut self, from: i64, end: i64) -> i64 {
        from.saturating_add_unsigned(self.below(end.abs_diff(from)))
    }

    /// True once in so many times.
    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// Finds the moment at which two calls compete: whoever came first is held back a little more the next time.
#[derive(Clone, Debug)]
pub(super) struct Aim {
    /// The other side's delay in microseconds; negative delays side one.
    bias: i64,
    step: i64,
    last: Option<Side>,
}

impl Aim {
    const FIRST_STEP: i64 = 100;
    const SMALLEST_STEP: i64 = 25;
    const LARGEST_STEP: i64 = 50_000;
    const FARTHEST: i64 = 500_000;

    pub(super) fn new() -> Self {
        Self {
            bias: 0,
            step: Self::FIRST_STEP,
            last: None,
        }
    }

    /// Learns who came first.
    pub(super) fn learn(&mut self, first: Side) {
        let factor = |same: bool, step: i64| if same { step * 2 } else { step / 2 };
        self.step = factor(self.last == Some(first), self.step).clamp(Self::SMALLEST_STEP, Self::LARGEST_STEP);
        self.last = Some(first);
        let towards = match first {
            Side::One => -self.step,
            Side::Other => self.step,
        };
        self.bias = (self.bias + towards).clamp(-Self::FARTHEST, Self::FARTHEST);
    }

    /// How long a call of this side waits, with up to so many microseconds by chance.
    pub(super) fn delay(&self, side: Side, jitter: u64) -> Duration {
        let own = match side {
            Side::One => -self.bias,
            Side::Other => self.bias,
        };
        Duration::from_micros(own.max(0).unsigned_abs() + jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::{Side, *};

    #[test]
    fn a_round_has_its_choices_whatever_was_chosen_before() {
        let choices = |seed, pair, round| {
            let mut chance = Chance::of(seed, pair, round);
            (0..8).map(|_| chance.below(1_000)).collect::<Vec<_>>()
        };
        assert_eq!(choices(1, "pay/pay", 3), choices(1, "pay/pay", 3));
        assert_ne!(choices(1, "pay/pay", 3), choices(1, "pay/pay", 4));
        assert_ne!(choices(1, "pay/pay", 3), choices(2, "pay/pay", 3));
        assert_ne!(choices(1, "pay/pay", 3), choices(1, "pay/cancel", 3));
    }

    #[test]
    fn the_aim_finds_the_moment_where_either_comes_first() {
        // The other side needs to be 30 ms later than side one to come second.
        let mut aim = Aim::new();
        let mut firsts = Vec::new();
        for _ in 0..40 {
            let first = if aim.delay(Side::Other, 0) > Duration::from_millis(30) {
                Side::One
            } else {
                Side::Other
            };
            firsts.push(first);
            aim.learn(first);
        }
        let late = &firsts[20..];
        assert!(late.contains(&Side::One) && late.contains(&Side::Other), "{firsts:?}");
        assert!(aim.delay(Side::One, 0).is_zero());
    }
}
