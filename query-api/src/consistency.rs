//! Reading what one has written: a command's answer carries a token, a question that shows it waits for the views, and the answer says
//! honestly whether they got there.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use event_store::ConsistencyToken;
use projections::{Progress, RunnerState, ShardProgress};
use serde::Serialize;
use tokio::{sync::watch, time::Instant};

/// A stall that ends by itself within this time is no reason to answer with old data.
const STALL_GRACE: Duration = Duration::from_millis(250);

/// Whether an answer shows what its token asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Outcome {
    /// It does, or no token was shown.
    Reached,
    /// The views go on, but were not there in time.
    TimedOut,
    /// The views cannot count an event before that, and try again from time to time.
    Stalled,
    /// The views are stopped.
    Suspended,
}

impl Outcome {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Reached => "REACHED",
            Self::TimedOut => "TIMED_OUT",
            Self::Stalled => "STALLED",
            Self::Suspended => "SUSPENDED",
        }
    }
}

/// What every answer says in `extensions.consistency`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Consistency {
    /// Whether the views reached the token.
    pub(crate) outcome: Outcome,
    /// What they counted at least when they were asked: `N`, or `S/N` with several shards.
    position: String,
    /// How old the newest event that they count is, when there are newer ones; none when they count nothing yet.
    lag_ms: Option<u64>,
}

/// Waits until the views reach the token, for at most `patience`.
pub(crate) async fn reach(mut progress: watch::Receiver<Progress>, token: Option<ConsistencyToken>, patience: Duration) -> Consistency {
    let outcome = match token {
        Some(token) => wait(&mut progress, token, patience).await,
        None => Outcome::Reached,
    };
    let progress = progress.borrow();
    let shards: Vec<_> = progress
        .shards
        .iter()
        .filter(|shard| token.is_none_or(|token| token.shard == shard.shard))
        .collect();
    Consistency {
        outcome,
        position: position(&shards, progress.shards.len() > 1),
        lag_ms: lag(&shards),
    }
}

async fn wait(progress: &mut watch::Receiver<Progress>, token: ConsistencyToken, patience: Duration) -> Outcome {
    let deadline = Instant::now() + patience;
    let mut stalled_until: Option<Instant> = None;
    loop {
        let stalled = {
            let now = progress.borrow_and_update();
            if now.position(token.shard) >= token.position {
                return Outcome::Reached;
            }
            match now.state {
                RunnerState::Stopped => return Outcome::Suspended,
                RunnerState::Stalled { .. } => true,
                RunnerState::Running => false,
            }
        };
        stalled_until = stalled.then(|| stalled_until.unwrap_or_else(|| deadline.min(Instant::now() + STALL_GRACE)));
        match tokio::time::timeout_at(stalled_until.unwrap_or(deadline), progress.changed()).await {
            Ok(Ok(())) => {}
            // Nobody is left who could move the views.
            Ok(Err(_)) => return Outcome::Suspended,
            Err(_) => return if stalled { Outcome::Stalled } else { Outcome::TimedOut },
        }
    }
}

fn position(shards: &[&ShardProgress], several: bool) -> String {
    match shards {
        [] => "0".to_owned(),
        [shard] if !several => shard.position.to_string(),
        shards => shards
            .iter()
            .map(|shard| format!("{}/{}", shard.shard, shard.position))
            .collect::<Vec<_>>()
            .join(","),
    }
}

fn lag(shards: &[&ShardProgress]) -> Option<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let lag = |shard: &&ShardProgress| {
        if shard.position >= shard.head {
            return Some(0);
        }
        let counted = Duration::from_micros(u64::try_from(shard.recorded_at.micros()).ok().filter(|_| shard.position > 0)?);
        u64::try_from(now.saturating_sub(counted).as_millis()).ok()
    };
    shards.iter().map(lag).try_fold(0, |most, lag| Some(most.max(lag?)))
}

#[cfg(test)]
mod tests {
    use aggregates::Timestamp;

    use uuid::Uuid;

    use super::*;

    fn progress(position: u64, state: RunnerState) -> Progress {
        Progress {
            shards: vec![ShardProgress {
                shard: 0,
                position,
                recorded_at: Timestamp::from_micros(1),
                head: 10,
            }],
            state,
        }
    }

    fn stalled() -> RunnerState {
        RunnerState::Stalled {
            shard: 0,
            position: 6,
            reason: "of a test".to_owned(),
        }
    }

    fn token(position: u64) -> ConsistencyToken {
        ConsistencyToken {
            log_id: Uuid::nil(),
            shard: 0,
            position,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_that_ends_soon_is_waited_for() {
        let (report, watch) = watch::channel(progress(5, stalled()));
        let reached = tokio::spawn(reach(watch, Some(token(7)), Duration::from_secs(2)));
        tokio::time::sleep(Duration::from_millis(100)).await;
        report.send(progress(7, RunnerState::Running)).expect("somebody waits");
        assert_eq!(reached.await.expect("no panic").outcome, Outcome::Reached);
    }

    #[tokio::test(start_paused = true)]
    async fn views_that_are_stalled_stopped_or_slow_say_so() {
        let (report, watch) = watch::channel(progress(5, stalled()));
        let two = Duration::from_secs(2);
        assert_eq!(reach(watch.clone(), Some(token(7)), two).await.outcome, Outcome::Stalled);
        assert_eq!(reach(watch.clone(), Some(token(5)), two).await.outcome, Outcome::Reached);
        report.send_replace(progress(5, RunnerState::Running));
        assert_eq!(reach(watch.clone(), Some(token(7)), two).await.outcome, Outcome::TimedOut);
        report.send_replace(progress(5, RunnerState::Stopped));
        assert_eq!(reach(watch.clone(), Some(token(7)), two).await.outcome, Outcome::Suspended);
        report.send_replace(progress(5, RunnerState::Running));
        drop(report);
        assert_eq!(reach(watch, Some(token(7)), two).await.outcome, Outcome::Suspended);
    }

    #[tokio::test]
    async fn the_position_names_its_shard_only_when_there_are_several() {
        let mut many = progress(5, RunnerState::Running);
        let (_report, one) = watch::channel(many.clone());
        assert_eq!(reach(one, None, Duration::ZERO).await.position, "5");
        many.shards.push(ShardProgress {
            shard: 1,
            position: 9,
            recorded_at: Timestamp::from_micros(1),
            head: 9,
        });
        let (_report, two) = watch::channel(many);
        assert_eq!(reach(two.clone(), None, Duration::ZERO).await.position, "0/5,1/9");
        let reached = reach(
            two,
            Some(ConsistencyToken {
                log_id: Uuid::nil(),
                shard: 1,
                position: 9,
            }),
            Duration::ZERO,
        )
        .await;
        assert_eq!((reached.position.as_str(), reached.lag_ms), ("1/9", Some(0)));
    }
}
