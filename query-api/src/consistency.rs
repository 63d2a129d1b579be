//! Reading what one has written: a command's answer carries a token, a question that shows it waits for the views, and the answer says
//! honestly whether they got there.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aggregates::Timestamp;
use event_store::{ConsistencyToken, LogPosition};
use projections::{Progress, RunnerState, ShardProgress};
use serde::Serialize;
use tokio::{sync::watch, time::Instant};

use crate::stock::Shown;

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
    /// All that there are.
    pub(crate) const ALL: [Self; 4] = [Self::Reached, Self::TimedOut, Self::Stalled, Self::Suspended];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Reached => "REACHED",
            Self::TimedOut => "TIMED_OUT",
            Self::Stalled => "STALLED",
            Self::Suspended => "SUSPENDED",
        }
    }
}

/// What an answer has to show: of each shard the newest place that a token names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted(BTreeMap<u16, u64>);

impl Wanted {
    /// Another token was shown. Those of other shards keep their say.
    pub(crate) fn add(&mut self, token: ConsistencyToken) {
        let known = self.0.entry(token.shard).or_default();
        *known = token.position.max(*known);
    }

    /// How far this shard has to be.
    pub(crate) fn of(&self, shard: u16) -> u64 {
        self.0.get(&shard).copied().unwrap_or(0)
    }

    /// The shards that are not there yet.
    fn missing(&self, progress: &Progress) -> Vec<u16> {
        let missing = self.0.iter().filter(|(shard, position)| progress.position(**shard) < **position);
        missing.map(|(shard, _)| *shard).collect()
    }
}

/// What every answer says in `extensions.consistency`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Consistency {
    /// Whether the views reached what the tokens name.
    pub(crate) outcome: Outcome,
    /// What they counted at least when they were asked: `N`, or `S/N` with several shards. It is that of the tokens' shards which is
    /// furthest behind, or of all shards where no token was shown.
    position: String,
    /// With several shards: all of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    positions: Option<Vec<String>>,
    /// How old the newest event is that they count there, when there are newer ones; none when they count nothing yet.
    lag_ms: Option<u64>,
    /// The shards that it speaks of.
    #[serde(skip)]
    shards: Vec<ShardProgress>,
    #[serde(skip)]
    several: bool,
}

impl Consistency {
    fn of(outcome: Outcome, shards: Vec<ShardProgress>, several: bool) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Nothing counted at all is further behind than anything.
        let behind = |shard: &ShardProgress| lag(shard, now).unwrap_or(u64::MAX);
        let last = shards.iter().rev().max_by_key(|shard| behind(shard));
        let text = |shard: &ShardProgress| position(shard, several);
        Self {
            outcome,
            position: last.map_or_else(|| "0".to_owned(), text),
            positions: several.then(|| shards.iter().map(text).collect()),
            lag_ms: last.map_or(Some(0), |shard| lag(shard, now)),
            shards,
            several,
        }
    }

    /// What an answer says that shows rows which were read when the views were only there.
    pub(crate) fn showing(mut self, rows: &Shown) -> Self {
        let mut older = false;
        for shard in &mut self.shards {
            if let Some((position, recorded_at)) = rows.get(&shard.shard).filter(|(position, _)| *position < shard.position) {
                (shard.position, shard.recorded_at) = (*position, *recorded_at);
                older = true;
            }
        }
        if older {
            Self::of(self.outcome, self.shards, self.several)
        } else {
            self
        }
    }
}

/// Waits until the views reach what is wanted, for at most `patience`.
pub(crate) async fn reach(mut progress: watch::Receiver<Progress>, wanted: &Wanted, patience: Duration) -> Consistency {
    let outcome = wait(&mut progress, wanted, patience).await;
    let progress = progress.borrow();
    Consistency::of(outcome, shown(&progress, wanted), progress.several())
}

async fn wait(progress: &mut watch::Receiver<Progress>, wanted: &Wanted, patience: Duration) -> Outcome {
    let deadline = Instant::now() + patience;
    let mut stalled_until: Option<Instant> = None;
    loop {
        let (stalled, hopeless) = {
            let now = progress.borrow_and_update();
            let missing = wanted.missing(&now);
            if missing.is_empty() {
                return Outcome::Reached;
            }
            if now.state == RunnerState::Stopped {
                return Outcome::Suspended;
            }
            let stalled = missing.iter().filter(|shard| now.is_stalled(**shard)).count();
            (stalled > 0, stalled == missing.len())
        };
        // As long as another shard may still get there it is waited for.
        stalled_until = hopeless.then(|| stalled_until.unwrap_or_else(|| deadline.min(Instant::now() + STALL_GRACE)));
        match tokio::time::timeout_at(stalled_until.unwrap_or(deadline), progress.changed()).await {
            Ok(Ok(())) => {}
            // Nobody is left who could move the views.
            Ok(Err(_)) => return Outcome::Suspended,
            Err(_) => return if stalled { Outcome::Stalled } else { Outcome::TimedOut },
        }
    }
}

/// The shards that the tokens name; all when there is none.
fn shown(progress: &Progress, wanted: &Wanted) -> Vec<ShardProgress> {
    if wanted.0.is_empty() {
        return progress.shards.clone();
    }
    let nothing = |shard| ShardProgress {
        shard,
        position: 0,
        recorded_at: Timestamp::default(),
        // There is something, or nobody would have a token of it.
        head: 1,
    };
    let known = |shard: &u16| progress.shards.iter().find(|known| known.shard == *shard).copied();
    wanted
        .0
        .keys()
        .map(|shard| known(shard).unwrap_or_else(|| nothing(*shard)))
        .collect()
}

fn position(shard: &ShardProgress, several: bool) -> String {
    let place = LogPosition {
        shard: shard.shard,
        position: shard.position,
    };
    if several { place.to_string() } else { place.position.to_string() }
}

fn lag(shard: &ShardProgress, now: Duration) -> Option<u64> {
    if shard.position >= shard.head {
        return Some(0);
    }
    let counted = Duration::from_micros(u64::try_from(shard.recorded_at.micros()).ok().filter(|_| shard.position > 0)?);
    u64::try_from(now.saturating_sub(counted).as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use event_store::Shards;
    use uuid::Uuid;

    use super::*;

    const TWO: Duration = Duration::from_secs(2);

    /// Where each shard is, of so many.
    fn over(positions: &[u64], state: RunnerState, stalled: &[u16]) -> Progress {
        let shard = |(shard, position): (u16, &u64)| ShardProgress {
            shard,
            position: *position,
            recorded_at: Timestamp::from_micros(1 + i64::from(shard)),
            head: 10,
        };
        Progress {
            shards: (0..).zip(positions).map(shard).collect(),
            state,
            stalled: stalled.to_vec(),
            count: Shards::new(u16::try_from(positions.len()).expect("few")),
        }
    }

    fn progress(position: u64, state: RunnerState) -> Progress {
        let stalled = matches!(state, RunnerState::Stalled { .. });
        over(&[position], state, if stalled { &[0] } else { &[] })
    }

    fn stalled(shard: u16) -> RunnerState {
        RunnerState::Stalled {
            shard,
            position: 6,
            reason: "of a test".to_owned(),
        }
    }

    fn wanted(tokens: &[(u16, u64)]) -> Wanted {
        let mut wanted = Wanted::default();
        for (shard, position) in tokens {
            wanted.add(ConsistencyToken {
                log_id: Uuid::nil(),
                shard: *shard,
                position: *position,
            });
        }
        wanted
    }

    async fn outcome(progress: &watch::Receiver<Progress>, tokens: &[(u16, u64)]) -> Outcome {
        reach(progress.clone(), &wanted(tokens), TWO).await.outcome
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_that_ends_soon_is_waited_for() {
        let (report, watch) = watch::channel(progress(5, stalled(0)));
        let reached = tokio::spawn(async move { reach(watch, &wanted(&[(0, 7)]), TWO).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        report.send(progress(7, RunnerState::Running)).expect("somebody waits");
        assert_eq!(reached.await.expect("no panic").outcome, Outcome::Reached);
    }

    #[tokio::test(start_paused = true)]
    async fn views_that_are_stalled_stopped_or_slow_say_so() {
        let (report, watch) = watch::channel(progress(5, stalled(0)));
        assert_eq!(outcome(&watch, &[(0, 7)]).await, Outcome::Stalled);
        assert_eq!(outcome(&watch, &[(0, 5)]).await, Outcome::Reached);
        report.send_replace(progress(5, RunnerState::Running));
        assert_eq!(outcome(&watch, &[(0, 7)]).await, Outcome::TimedOut);
        report.send_replace(progress(5, RunnerState::Stopped));
        assert_eq!(outcome(&watch, &[(0, 7)]).await, Outcome::Suspended);
        report.send_replace(progress(5, RunnerState::Running));
        drop(report);
        assert_eq!(outcome(&watch, &[(0, 7)]).await, Outcome::Suspended);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_waits_for_its_own_shard_alone() {
        let (_report, watch) = watch::channel(over(&[5, 9], stalled(0), &[0]));
        let began = Instant::now();
        assert_eq!(outcome(&watch, &[(1, 9)]).await, Outcome::Reached);
        assert_eq!(began.elapsed(), Duration::ZERO);
        // Its shard goes on, so it is waited for as long as it may be, whatever the other does.
        assert_eq!(outcome(&watch, &[(1, 10)]).await, Outcome::TimedOut);
        assert_eq!(began.elapsed(), TWO);
        assert_eq!(outcome(&watch, &[(0, 10)]).await, Outcome::Stalled);
        assert_eq!(began.elapsed(), TWO + STALL_GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_of_several_shards_are_all_waited_for() {
        let (report, watch) = watch::channel(over(&[5, 9, 3], RunnerState::Running, &[]));
        let of_all = [(0, 7), (1, 9), (0, 6), (2, 4)];
        assert_eq!(outcome(&watch, &of_all).await, Outcome::TimedOut);
        report.send_replace(over(&[7, 9, 3], RunnerState::Running, &[]));
        assert_eq!(outcome(&watch, &of_all).await, Outcome::TimedOut);
        report.send_replace(over(&[7, 9, 3], stalled(2), &[2]));
        assert_eq!(outcome(&watch, &of_all).await, Outcome::Stalled);
        report.send_replace(over(&[7, 9, 4], RunnerState::Running, &[]));
        assert_eq!(outcome(&watch, &of_all).await, Outcome::Reached);
    }

    #[tokio::test(start_paused = true)]
    async fn beside_a_stalled_shard_the_others_are_still_waited_for() {
        let (report, watch) = watch::channel(over(&[5, 5], stalled(0), &[0]));
        let asked = tokio::spawn(async move { reach(watch, &wanted(&[(0, 6), (1, 6)]), TWO).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        report.send_replace(over(&[5, 6], stalled(0), &[0]));
        let told = asked.await.expect("no panic");
        assert_eq!(told.outcome, Outcome::Stalled);
        assert_eq!(told.positions, Some(vec!["0/5".to_owned(), "1/6".to_owned()]));
    }

    #[tokio::test]
    async fn the_position_names_its_shard_only_when_there_are_several() {
        let (_report, one) = watch::channel(progress(5, RunnerState::Running));
        let told = reach(one, &Wanted::default(), Duration::ZERO).await;
        assert_eq!((told.position.as_str(), told.positions), ("5", None));

        // The log has several, also as long as the views know of one alone.
        let mut begun = progress(5, RunnerState::Running);
        begun.count = Shards::new(4);
        let (_report, watch) = watch::channel(begun);
        let told = reach(watch, &Wanted::default(), Duration::ZERO).await;
        assert_eq!(told.position, "0/5");
    }

    #[tokio::test]
    async fn without_a_token_it_is_the_shard_that_is_furthest_behind_and_else_the_tokens() {
        let mut many = over(&[10, 7, 10], RunnerState::Running, &[]);
        let (report, watch) = watch::channel(many.clone());
        let told = reach(watch.clone(), &Wanted::default(), Duration::ZERO).await;
        assert_eq!(told.position, "1/7");
        assert_eq!(told.positions, Some(["0/10", "1/7", "2/10"].map(str::to_owned).to_vec()));
        assert!(told.lag_ms.is_some_and(|lag| lag > 1_000), "{told:?}");
        let told = reach(watch.clone(), &wanted(&[(2, 9)]), Duration::ZERO).await;
        assert_eq!((told.position.as_str(), told.lag_ms), ("2/10", Some(0)));
        assert_eq!(told.positions, Some(vec!["2/10".to_owned()]));
        many.shards[2].position = 0;
        report.send_replace(many);
        let told = reach(watch.clone(), &Wanted::default(), Duration::ZERO).await;
        assert_eq!((told.position.as_str(), told.lag_ms), ("2/0", None));
        // Nothing is known of it yet.
        let told = reach(watch, &wanted(&[(3, 1)]), Duration::ZERO).await;
        assert_eq!(
            (told.outcome, told.position.as_str(), told.lag_ms),
            (Outcome::TimedOut, "3/0", None)
        );
    }
}
