//! The store thread: it writes the batches of all shards, those that wait together in one transaction.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use event_store::{Batch, CommitError, GIVEN_UP, Head, LogReader, LogWriter};

use super::{Post, clock::now};
use crate::Input;

/// How often a writer says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// A shard that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) shard: u16,
    pub(super) epoch: u64,
    /// Who hears what became of its batches, and whose the shard is.
    pub(super) inbox: mpsc::Sender<Post>,
}

/// What the store thread is given to do.
#[derive(Debug)]
pub(super) enum Job {
    /// To write a batch.
    Write(Arc<Batch>),
    /// To ask the log whose this shard is now.
    WhoHas(u16),
}

impl Taken {
    /// Says what became of the shard's batch; says whether anybody listens.
    pub(super) fn tell(&self, result: Result<(), CommitError>) -> bool {
        self.inbox.send(Post::Input(Input::Committed(result))).is_ok()
    }
}

/// Asks the log whose these shards are, and tells those who want to know.
fn ask_whose(reader: &dyn LogReader, shards: &[Taken], asked: &BTreeSet<u16>) {
    let heads = match asked.first() {
        None => return,
        Some(only) if asked.len() == 1 => reader.head(*only).map(|head| head.into_iter().collect()),
        Some(_) => reader.heads(),
    };
    for taken in shards.iter().filter(|taken| asked.contains(&taken.shard)) {
        let has = |heads: &Vec<Head>| heads.iter().any(|head| (head.shard, head.epoch) == (taken.shard, taken.epoch));
        let told = match &heads {
            Ok(heads) if has(heads) => Post::StillOurs(Ok(())),
            Ok(_) => Post::Input(Input::Committed(Err(CommitError::Fenced(taken.shard)))),
            Err(error) => Post::StillOurs(Err(error.to_string())),
        };
        // The shard may have ended meanwhile.
        let _ = taken.inbox.send(told);
    }
}

/// Writes until nobody gives it batches any more.
pub(super) fn write_batches(writer: &mut dyn LogWriter, reader: &dyn LogReader, shards: &[Taken], jobs: &mpsc::Receiver<Job>) {
    for outcome in FAILURES {
        metrics::counter!("jangbu_commit_failures_total", "outcome" => outcome).increment(0);
    }
    // Taking the shards was the first, but reading what they had left to do may have taken a while.
    let mut last_beat: Option<Instant> = None;
    loop {
        if last_beat.is_none_or(|beat| beat.elapsed() >= HEARTBEAT) {
            for taken in shards {
                if let Err(error) = beat(writer, taken) {
                    return tell_all(shards, &error);
                }
            }
            last_beat = Some(Instant::now());
        }
        let since = last_beat.map_or(Duration::ZERO, |beat| beat.elapsed());
        match jobs.recv_timeout(HEARTBEAT.saturating_sub(since)) {
            Ok(first) => {
                let (mut together, mut doubts) = (Vec::new(), BTreeSet::new());
                // A shard has one batch and one question under way.
                for job in [first].into_iter().chain(jobs.try_iter().take(2 * shards.len() - 1)) {
                    match job {
                        Job::Write(batch) => together.push(batch),
                        Job::WhoHas(shard) => drop(doubts.insert(shard)),
                    }
                }
                ask_whose(reader, shards, &doubts);
                let mut failed = None;
                for (batch, result) in together.iter().zip(write(writer, reader, &together)) {
                    if let Err(CommitError::Disk(error)) = &result {
                        failed = Some(error.to_string());
                    }
                    if let Some(taken) = shards.iter().find(|taken| taken.shard == batch.shard) {
                        taken.tell(result);
                    }
                }
                if let Some(error) = failed {
                    return tell_all(shards, &error);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return give_up(writer, shards),
        }
    }
}

/// Nobody writes any more: the next one need not wait until this one counts as dead.
fn give_up(writer: &mut dyn LogWriter, shards: &[Taken]) {
    for taken in shards {
        if let Err(error) = writer.heartbeat(taken.shard, taken.epoch, GIVEN_UP) {
            tracing::debug!(%error, shard = taken.shard, "the shard was not given up");
        }
    }
}

/// A disk that does not keep what it is given keeps nothing that is given to it later either: nothing more is written.
fn tell_all(shards: &[Taken], error: &str) {
    for taken in shards {
        taken.tell(Err(CommitError::Disk(error.into())));
    }
}

/// Whoever was taken over has nothing more to say, also when there is nothing to write.
///
/// # Errors
/// The disk failed.
fn beat(writer: &mut dyn LogWriter, taken: &Taken) -> Result<(), String> {
    if let Err(error) = writer.heartbeat(taken.shard, taken.epoch, now().micros()) {
        tracing::warn!(%error, shard = taken.shard, "the heartbeat was not written");
        match error {
            CommitError::Disk(error) => return Err(error.to_string()),
            CommitError::Fenced(_) => {
                taken.tell(Err(error));
            }
            CommitError::Refused(_) | CommitError::NotWritten(_) | CommitError::Unknown(_) => {}
        }
    }
    Ok(())
}

/// What becomes of a batch that is not written.
const FAILURES: [&str; 5] = ["fenced", "refused", "not_written", "unknown", "disk"];

const fn failure(error: &CommitError) -> &'static str {
    match error {
        CommitError::Fenced(_) => "fenced",
        CommitError::Refused(_) => "refused",
        CommitError::NotWritten(_) => "not_written",
        CommitError::Unknown(_) => "unknown",
        CommitError::Disk(_) => "disk",
    }
}

fn write(writer: &mut dyn LogWriter, reader: &dyn LogReader, batches: &[Arc<Batch>]) -> Vec<Result<(), CommitError>> {
    let begun = Instant::now();
    let results = commit(writer, reader, batches);
    metrics::histogram!("jangbu_commit_seconds").record(begun.elapsed().as_secs_f64());
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        metrics::counter!("jangbu_commit_failures_total", "outcome" => failure(error)).increment(1);
    }
    let written: usize = batches
        .iter()
        .zip(&results)
        .filter(|(_, result)| result.is_ok())
        .map(|(batch, _)| batch.events.len())
        .sum();
    if results.iter().any(Result::is_ok) {
        metrics::counter!("jangbu_commits_total").increment(1);
        metrics::counter!("jangbu_events_total").increment(written as u64);
        #[allow(clippy::cast_precision_loss, reason = "a transaction has a few thousand events")]
        metrics::histogram!("jangbu_commit_events").record(written as f64);
    }
    results
}

/// Writes batches of several shards in one transaction; what became of each, in their order.
///
/// One that is refused, or whose shard was taken over, must not keep the others from being written: then each is written by itself.
fn commit(writer: &mut dyn LogWriter, reader: &dyn LogReader, batches: &[Arc<Batch>]) -> Vec<Result<(), CommitError>> {
    let all: Vec<_> = batches.iter().map(Arc::as_ref).collect();
    match writer.commit(&all) {
        Ok(()) => batches.iter().map(|_| Ok(())).collect(),
        Err(CommitError::Refused(_) | CommitError::Fenced(_)) if batches.len() > 1 => {
            let mut disk = None;
            let alone = |batch: &Arc<Batch>| {
                if let Some(error) = &disk {
                    return Err(CommitError::Disk(String::clone(error).into()));
                }
                let result = writer.commit(&[batch]).or_else(|error| after_doubt(reader, batch, error));
                if let Err(CommitError::Disk(error)) = &result {
                    disk = Some(error.to_string());
                }
                result
            };
            batches.iter().map(alone).collect()
        }
        Err(error) => {
            let (alike, text) = (alike(&error), error.to_string());
            let errors = [error].into_iter().chain(std::iter::repeat_with(|| alike(text.as_str().into())));
            batches
                .iter()
                .zip(errors)
                .map(|(batch, error)| after_doubt(reader, batch, error))
                .collect()
        }
    }
}

/// What makes an error of the same kind: each shard is told its own.
fn alike(error: &CommitError) -> fn(Box<dyn std::error::Error + Send + Sync>) -> CommitError {
    match error {
        CommitError::Unknown(_) => CommitError::Unknown,
        CommitError::Disk(_) => CommitError::Disk,
        CommitError::NotWritten(_) | CommitError::Refused(_) | CommitError::Fenced(_) => CommitError::NotWritten,
    }
}

/// What became of a commit: where its outcome is unknown, the head tells.
///
/// # Errors
/// What the writer said; instead of [`CommitError::Unknown`] what the head shows.
pub fn after_doubt(reader: &dyn LogReader, batch: &Batch, error: CommitError) -> Result<(), CommitError> {
    let CommitError::Unknown(source) = error else { return Err(error) };
    if batch.events.is_empty() {
        // It moves no head, so the head cannot tell. Dropping it is safe: what it held is read again, and a record that was written
        // answers the repeat.
        return Err(CommitError::NotWritten(source));
    }
    match reader.head(batch.shard) {
        Ok(Some(head)) if head.position == batch.last_position() && head.hash == batch.hash && head.epoch == batch.epoch => Ok(()),
        Ok(Some(head)) if head.epoch != batch.epoch => Err(CommitError::Fenced(batch.shard)),
        Ok(_) => Err(CommitError::NotWritten(source)),
        // Neither written nor not: only a new start finds out.
        Err(_) => Err(CommitError::Disk(source)),
    }
}

#[cfg(test)]
mod tests {
    use event_store::{EventStore, IdempotencyRecord, MemoryStore, RecordKey, Shards, StoreError};
    use uuid::Uuid;

    use super::*;

    fn batch(head: &Head, key: u8) -> Batch {
        let record = IdempotencyRecord {
            key: RecordKey([key; 16]),
            fingerprint: [0; 16],
            position: 0,
            recorded_at: 0,
            answer: Box::default(),
        };
        Batch {
            epoch: head.epoch,
            first_position: head.position + 1,
            records: vec![record],
            ..Batch::default()
        }
    }

    /// Refuses what comes together; its disk fails with shard 1.
    struct Failing {
        commits: usize,
    }

    impl LogWriter for Failing {
        fn found(&mut self, shards: Shards) -> Result<Shards, StoreError> {
            Ok(shards)
        }

        fn take(&mut self, shard: u16, _: Uuid, _: i64) -> Result<Head, StoreError> {
            Err(StoreError::Corrupt(format!("nobody takes shard {shard} here")))
        }

        fn commit(&mut self, batches: &[&Batch]) -> Result<(), CommitError> {
            self.commits += 1;
            match batches {
                [batch] if batch.shard == 1 => Err(CommitError::Disk("a planted failure".into())),
                [_] => Ok(()),
                _ => Err(CommitError::Refused("one of them".to_owned())),
            }
        }

        fn heartbeat(&mut self, _: u16, _: u64, _: i64) -> Result<(), CommitError> {
            Ok(())
        }
    }

    #[test]
    fn after_the_disk_has_failed_nothing_is_written_any_more_and_every_shard_hears_of_it() {
        let reader = MemoryStore::default().reader().expect("a reader");
        let batch = |shard| Arc::new(Batch { shard, ..Batch::default() });
        let mut failing = Failing { commits: 0 };
        let results = commit(&mut failing, reader.as_ref(), &[batch(0), batch(1), batch(2)]);
        assert!(
            matches!(results[..], [Ok(()), Err(CommitError::Disk(_)), Err(CommitError::Disk(_))]),
            "{results:?}"
        );
        assert_eq!(failing.commits, 3, "together, and two of them alone");

        let (inboxes, posts): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::channel()).unzip();
        let taken: Vec<_> = (0..).zip(inboxes).map(|(shard, inbox)| Taken { shard, epoch: 1, inbox }).collect();
        let (batches, to_write) = mpsc::channel();
        batches.send(Job::Write(batch(1))).expect("somebody listens");
        write_batches(&mut Failing { commits: 0 }, reader.as_ref(), &taken, &to_write);
        for (shard, post) in posts.iter().enumerate() {
            let told = post.try_recv();
            assert!(
                matches!(told, Ok(Post::Input(Input::Committed(Err(CommitError::Disk(_)))))),
                "shard {shard}"
            );
        }
    }

    #[test]
    fn a_doubtful_batch_without_events_counts_as_not_written() {
        let store = MemoryStore::default();
        let head = store
            .writer()
            .and_then(|mut writer| writer.take(0, Uuid::nil(), 0))
            .expect("the shard");
        let reader = store.reader().expect("a reader");
        let doubt = || CommitError::Unknown("the connection died".into());
        let settled = after_doubt(reader.as_ref(), &batch(&head, 1), doubt());
        assert!(matches!(settled, Err(CommitError::NotWritten(_))), "{settled:?}");
    }

    #[test]
    fn a_doubtful_batch_of_a_writer_that_was_fenced_meanwhile_is_not_taken_for_written() {
        let store = MemoryStore::default();
        let mut writer = store.writer().expect("a writer");
        let head = writer.take(0, Uuid::nil(), 0).expect("the shard");
        writer.take(0, Uuid::nil(), 0).expect("the shard again");
        let reader = store.reader().expect("a reader");
        let mut doubtful = batch(&head, 1);
        doubtful.events.push(event_store::Event {
            shard: 0,
            position: 1,
            stream: event_store::StreamId::new("order", Uuid::nil()),
            sequence: 1,
            event_id: Uuid::nil(),
            event_type: "order.placed".into(),
            event_version: "1.0.0".into(),
            recorded_at: 0,
            payload: "{}".into(),
            metadata: "{}".into(),
        });
        let settled = after_doubt(reader.as_ref(), &doubtful, CommitError::Unknown("the connection died".into()));
        assert!(matches!(settled, Err(CommitError::Fenced(0))), "{settled:?}");
    }
}
