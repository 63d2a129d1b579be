//! The writing side: checks against the index, then appends at the exact revision.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use event_store::{Batch, Claim, CommitError, GENESIS, GIVEN_UP, Hash, Head, LogWriter, Shards, StoreError};
use uuid::Uuid;

use crate::{
    entry::{self, BATCH, Entry, HEARTBEAT, Heartbeat, TAKEN, Taken},
    log::{Log, State, overtaken},
    server::{Append, AppendError, Expected},
};

/// How often a take or a commit is tried that others come before.
const TRIES: usize = 1_000;

/// How many heartbeats are kept: those of holders before come first.
const HEARTBEATS: u8 = 10;

/// Appends to one log.
pub(crate) struct EsdbWriter {
    log: Arc<Log>,
    /// The shards whose holder's stream was told how much to keep.
    kept_short: BTreeSet<u16>,
}

impl EsdbWriter {
    pub(crate) const fn new(log: Arc<Log>) -> Self {
        Self {
            log,
            kept_short: BTreeSet::new(),
        }
    }

    /// When the holder of a shard was last heard of.
    fn last_heard(&self, shard: u16, taken: &Taken) -> Result<i64, StoreError> {
        let beats = self.log.server.last(&self.log.holder_stream(shard), HEARTBEATS.into());
        let beats = beats.map_err(StoreError::Unavailable)?;
        let of_holder: Vec<_> = beats
            .iter()
            .filter(|entry| entry.name == HEARTBEAT)
            .filter_map(|entry| entry::data::<Heartbeat>(entry).ok())
            .filter(|beat| beat.epoch == taken.epoch)
            .map(|beat| beat.at)
            .collect();
        if of_holder.contains(&GIVEN_UP) {
            return Ok(GIVEN_UP);
        }
        Ok(of_holder.into_iter().max().map_or(taken.at, |beat| beat.max(taken.at)))
    }

    fn claim(&self, shard: u16, instance: Uuid, now: i64, claim: Claim) -> Result<Head, StoreError> {
        let mut mine: Option<(Uuid, Head)> = None;
        for _ in 0..TRIES {
            let mut state = self.log.caught_up([shard])?;
            let holder = state.taken(shard).cloned();
            if let (Some((by, _)), Some((asked, head))) = (&holder, mine.take())
                && *by == asked
            {
                return Ok(head);
            }
            let before = state.head(shard)?;
            let after = state.shard(shard)?.tail;
            drop(state);
            if let Some((_, taken)) = &holder
                && taken.instance != instance
                && self.last_heard(shard, taken)? > claim.gives_way(now)
            {
                return Err(StoreError::Held {
                    shard,
                    holder: format!("instance {}", taken.instance),
                });
            }
            if before.is_none() {
                self.log.make_known(shard)?;
            }
            let head = taken_over(before, shard, self.log.id());
            let entry = Entry::own(
                TAKEN,
                &Taken {
                    epoch: head.epoch,
                    instance,
                    at: now,
                },
            );
            let id = entry.id;
            match self.log.server.append(Append {
                stream: self.log.shard_stream(shard),
                expected: Expected::After(after),
                entries: vec![entry.clone()],
            }) {
                Ok(()) => {
                    self.log.absorb_written(shard, after, vec![entry]);
                    return Ok(head);
                }
                Err(AppendError::Elsewhere) => {}
                Err(AppendError::Unknown(_)) => {
                    self.log.doubt(shard, after);
                    mine = Some((id, head));
                }
                Err(AppendError::Refused(error)) => return Err(StoreError::Unavailable(error.into())),
                Err(AppendError::NotWritten(error)) => return Err(StoreError::Unavailable(error)),
            }
        }
        Err(StoreError::Unavailable(overtaken()))
    }
}

impl LogWriter for EsdbWriter {
    fn found(&mut self, shards: Shards) -> Result<Shards, StoreError> {
        self.log.found(shards)
    }

    /// A log has its id from when it was made: one that is to be a copy is made so ([`EsdbStore::create`](crate::EsdbStore::create)).
    fn found_as(&mut self, shards: Shards, log_id: Uuid) -> Result<Shards, StoreError> {
        if self.log.id() == log_id {
            self.log.found(shards)
        } else {
            Err(StoreError::not_a_copy(self.log.id(), log_id))
        }
    }

    fn take(&mut self, shard: u16, instance: Uuid, now: i64) -> Result<Head, StoreError> {
        self.claim(shard, instance, now, Claim::Vacant)
    }

    fn seize(&mut self, shard: u16, instance: Uuid, now: i64) -> Result<Head, StoreError> {
        self.claim(shard, instance, now, Claim::Assigned)
    }

    fn commit(&mut self, batches: &[&Batch]) -> Result<(), CommitError> {
        for batch in batches {
            entry::storable(batch).and_then(|()| batch.check()).map_err(CommitError::Refused)?;
        }
        if batches.is_empty() {
            return Ok(());
        }
        let mut fresh = false;
        for _ in 0..TRIES {
            let mut chains = self.plan(batches, fresh)?;
            self.send(&mut chains);
            match judge(&chains) {
                Judged::Written => return Ok(()),
                Judged::Failed(error) => return Err(error),
                Judged::Elsewhere => fresh = true,
            }
        }
        Err(CommitError::NotWritten(overtaken()))
    }

    fn heartbeat(&mut self, shard: u16, epoch: u64, now: i64) -> Result<(), CommitError> {
        let holder = self
            .log
            .caught_up([shard])
            .and_then(|state| state.head(shard))
            .map_err(not_written)?
            .map(|head| head.epoch);
        if holder != Some(epoch) {
            return Err(CommitError::Fenced(shard));
        }
        let stream = self.log.holder_stream(shard);
        let beat = Append {
            stream: stream.clone(),
            expected: Expected::Anywhere,
            entries: vec![Entry::own(HEARTBEAT, &Heartbeat { epoch, at: now })],
        };
        match self.log.server.append(beat) {
            Ok(()) => {}
            Err(AppendError::Elsewhere) => return Err(CommitError::NotWritten(overtaken())),
            Err(AppendError::Refused(error)) => return Err(CommitError::NotWritten(error.into())),
            Err(AppendError::NotWritten(error)) => return Err(CommitError::NotWritten(error)),
            Err(AppendError::Unknown(error)) => return Err(CommitError::Unknown(error)),
        }
        if !self.kept_short.contains(&shard) {
            match self.log.server.keep_last(&stream, HEARTBEATS.into()) {
                Ok(()) => {
                    self.kept_short.insert(shard);
                }
                // The stream only grows until the next heartbeat tries again.
                Err(error) => tracing::warn!(%error, shard, "the old heartbeats are not let go of"),
            }
        }
        Ok(())
    }
}

/// The head under its next epoch.
fn taken_over(before: Option<Head>, shard: u16, log_id: Uuid) -> Head {
    let head = before.unwrap_or(Head {
        shard,
        position: 0,
        epoch: 0,
        hash: GENESIS,
        recorded_at: 0,
        orders_numbered: 0,
        log_id,
    });
    Head {
        epoch: head.epoch + 1,
        ..head
    }
}

/// What is to be appended to one shard, one after the other.
struct Chain {
    shard: u16,
    tail: Option<u64>,
    appends: VecDeque<Vec<Entry>>,
    /// How many batches are closed.
    closed: usize,
    failed: Option<Failed>,
}

struct Failed {
    error: AppendError,
    /// Whether that append would have closed a batch.
    closing: bool,
}

impl EsdbWriter {
    /// What is to be appended, once the batches were found to fit what is there; `fresh` asks the server first.
    fn plan(&self, batches: &[&Batch], fresh: bool) -> Result<Vec<Chain>, CommitError> {
        let shards: BTreeSet<_> = batches.iter().map(|batch| batch.shard).collect();
        if !fresh {
            let mut state = self.log.current(&shards).map_err(not_written)?;
            if check(&state, batches).is_ok() {
                return self.chains(&mut state, batches);
            }
        }
        // What does not fit what was known may fit what is there now.
        let mut state = self.log.caught_up(shards).map_err(not_written)?;
        check(&state, batches)?;
        self.chains(&mut state, batches)
    }

    fn chains(&self, state: &mut State, batches: &[&Batch]) -> Result<Vec<Chain>, CommitError> {
        let mut chains: Vec<Chain> = Vec::new();
        for batch in batches {
            let appends = entry::appends(batch, self.log.limit).map_err(CommitError::Refused)?;
            if let Some(chain) = chains.iter_mut().find(|chain| chain.shard == batch.shard) {
                chain.appends.extend(appends);
                continue;
            }
            chains.push(Chain {
                shard: batch.shard,
                tail: state.shard(batch.shard).map_err(not_written)?.tail,
                appends: appends.into(),
                closed: 0,
                failed: None,
            });
        }
        Ok(chains)
    }

    /// Sends each chain until it is done or fails; the next of each of them together.
    fn send(&self, chains: &mut [Chain]) {
        loop {
            let mut round = Vec::new();
            for chain in chains.iter_mut().filter(|chain| chain.failed.is_none()) {
                if let Some(entries) = chain.appends.pop_front() {
                    round.push((chain, entries));
                }
            }
            if round.is_empty() {
                return;
            }
            let appends = round.iter().map(|(chain, entries)| Append {
                stream: self.log.shard_stream(chain.shard),
                expected: Expected::After(chain.tail),
                entries: entries.clone(),
            });
            let answers = self.log.server.append_each(appends.collect());
            let unanswered = || Err(AppendError::Unknown("the server's client gave no answer".into()));
            let answers = answers.into_iter().chain(std::iter::repeat_with(unanswered));
            for ((chain, entries), answer) in round.into_iter().zip(answers) {
                self.note(chain, entries, answer);
            }
        }
    }

    fn note(&self, chain: &mut Chain, entries: Vec<Entry>, answer: Result<(), AppendError>) {
        let closing = entries.last().is_some_and(|entry| entry.name == BATCH);
        match answer {
            Ok(()) => {
                let after = chain.tail;
                chain.tail = (after.map_or(0, |after| after + 1) + entries.len() as u64).checked_sub(1);
                chain.closed += usize::from(closing);
                self.log.absorb_written(chain.shard, after, entries);
            }
            Err(error) => {
                if let AppendError::Unknown(_) = error {
                    self.log.doubt(chain.shard, chain.tail);
                }
                chain.failed = Some(Failed { error, closing });
            }
        }
    }
}

/// What became of a commit.
enum Judged {
    Written,
    /// Nothing was written, because a stream ends elsewhere than was known.
    Elsewhere,
    Failed(CommitError),
}

fn judge(chains: &[Chain]) -> Judged {
    let failed: Vec<_> = chains
        .iter()
        .filter_map(|chain| Some((chain.shard, chain.failed.as_ref()?)))
        .collect();
    let Some((shard, first)) = failed.first() else {
        return Judged::Written;
    };
    if chains.iter().any(|chain| chain.closed > 0) {
        // Shards are not one transaction here. Each shard's head tells what became of its batch.
        let what = format!("some batches were written, that of shard {shard} was not: {}", words(&first.error));
        return Judged::Failed(CommitError::Unknown(what.into()));
    }
    let doubtful = |failed: &&Failed| failed.closing && matches!(failed.error, AppendError::Unknown(_));
    if let Some(failed) = failed.iter().map(|(_, failed)| *failed).find(doubtful) {
        return Judged::Failed(CommitError::Unknown(words(&failed.error).into()));
    }
    if let Some((_, refused)) = failed.iter().find(|(_, failed)| matches!(failed.error, AppendError::Refused(_))) {
        return Judged::Failed(CommitError::Refused(words(&refused.error)));
    }
    if failed.iter().all(|(_, failed)| matches!(failed.error, AppendError::Elsewhere)) {
        return Judged::Elsewhere;
    }
    // A batch that was not closed was not written, whatever became of its parts.
    Judged::Failed(CommitError::NotWritten(words(&first.error).into()))
}

fn words(error: &AppendError) -> String {
    match error {
        AppendError::Elsewhere => "the stream ends elsewhere".into(),
        AppendError::Refused(error) => error.clone(),
        AppendError::NotWritten(error) | AppendError::Unknown(error) => error.to_string(),
    }
}

/// A log that could not be read before anything was written.
fn not_written(error: StoreError) -> CommitError {
    CommitError::NotWritten(Box::new(error))
}

/// Whether the batches fit what the index says. The server only knows revisions; versions, keys and epochs are counted here.
fn check(state: &State, batches: &[&Batch]) -> Result<(), CommitError> {
    check_heads(state, batches)?;
    check_versions(state, batches)?;
    check_records(state, batches)?;
    check_unparked(state, batches)
}

fn check_heads(state: &State, batches: &[&Batch]) -> Result<(), CommitError> {
    let mut heads: HashMap<u16, (u64, u64, Hash)> = HashMap::new();
    for batch in batches {
        let stands = match heads.get(&batch.shard) {
            Some(stands) => Some(*stands),
            None => state
                .head(batch.shard)
                .map_err(not_written)?
                .map(|head| (head.epoch, head.position, head.hash)),
        };
        match stands {
            Some((epoch, position, hash)) if (epoch, position) == (batch.epoch, batch.first_position - 1) => {
                if hash != batch.previous_hash {
                    return Err(CommitError::Refused("the batch does not follow the hash of the one before".into()));
                }
            }
            _ => return Err(CommitError::Fenced(batch.shard)),
        }
        heads.insert(batch.shard, (batch.epoch, batch.last_position(), batch.hash));
    }
    Ok(())
}

fn check_versions(state: &State, batches: &[&Batch]) -> Result<(), CommitError> {
    let mut seen = HashSet::new();
    // From which sequence on a stream has nothing yet: one question for each stream, as a rule.
    let mut free_from = HashMap::new();
    for event in batches.iter().flat_map(|batch| &batch.events) {
        let exists = || CommitError::Refused(format!("{} has a version {} already", event.stream, event.sequence));
        if !seen.insert((&event.stream, event.sequence)) {
            return Err(exists());
        }
        if free_from.get(&event.stream).is_some_and(|from| event.sequence >= *from) {
            continue;
        }
        let next = state.reader.stream(&event.stream, event.sequence - 1, 1).map_err(not_written)?;
        match next.first() {
            None => {
                free_from.insert(&event.stream, event.sequence);
            }
            Some(next) if next.sequence == event.sequence => return Err(exists()),
            Some(_) => {}
        }
    }
    Ok(())
}

fn check_records(state: &State, batches: &[&Batch]) -> Result<(), CommitError> {
    let keys: Vec<_> = batches.iter().flat_map(|batch| &batch.records).map(|record| record.key).collect();
    if keys.is_empty() {
        return Ok(());
    }
    let refused = || CommitError::Refused("an idempotency record with this key exists".into());
    let mut seen = HashSet::new();
    if !keys.iter().all(|key| seen.insert(*key)) {
        return Err(refused());
    }
    let (found, _) = state.reader.read(&keys, &[]).map_err(not_written)?;
    if found.iter().any(Option::is_some) {
        Err(refused())
    } else {
        Ok(())
    }
}

fn check_unparked(state: &State, batches: &[&Batch]) -> Result<(), CommitError> {
    // What the batches before in the same commit set aside, or ended.
    let mut aside: HashMap<(u16, Uuid), bool> = HashMap::new();
    for batch in batches {
        for unparked in &batch.unparked {
            let input = (batch.shard, unparked.id);
            let is_aside = match aside.get(&input) {
                Some(is_aside) => *is_aside,
                None => state.reader.parked_input(batch.shard, unparked.id).map_err(not_written)?.is_some(),
            };
            if !is_aside {
                return Err(CommitError::Refused(format!("{} is not set aside", unparked.id)));
            }
            aside.insert(input, false);
        }
        aside.extend(batch.parked.iter().map(|parked| ((batch.shard, parked.id), true)));
    }
    Ok(())
}
