//! Commits: when they reach the disk, what becomes of them, and what their writer is told.

use std::sync::Arc;

use engine::{Input, after_doubt};
use event_store::{Batch, CommitError};

use super::{Crashes, Happening, World};
use crate::{disk::Fate, figures::Fault, script::SECOND};

/// A process's batch that is committed now.
struct Going {
    id: u32,
    batch: Arc<Batch>,
    fate: Fate,
}

impl World {
    /// The batch in flight survives whole, is lost, or is torn.
    pub(super) fn crash_in_flight(&mut self, batch: &Batch, fate: Fate) {
        let may_survive = matches!(fate, Fate::Written | Fate::UnknownWritten | Fate::Failed { survives: true });
        let by_script = matches!(self.crashes, Crashes::At(_));
        let choice = if may_survive && !by_script { self.chance.below(3) } else { 0 };
        match choice {
            1 => {
                let survived = self.disk.write(&[batch]).is_ok();
                self.fault(if survived { Fault::CrashSurvived } else { Fault::CrashLost });
            }
            2 => {
                let rows = self.chance.index(batch.events.len() + 1);
                let whole = self.disk.recover_torn(batch, rows);
                self.fault(if whole { Fault::CrashSurvived } else { Fault::CrashTorn });
            }
            _ => self.fault(Fault::CrashLost),
        }
    }

    pub(super) fn commit(&mut self, id: u32, batch: Arc<Batch>) {
        if self.finale {
            return self.fail("a repeat changes nothing", format!("{batch:?}"));
        }
        if self.process(id).is_some_and(|process| process.in_flight.is_some()) {
            return self.fail("at most one commit is under way", format!("process {id}"));
        }
        // It is given out, and nothing of it reaches the disk.
        if self.edge(id) {
            return;
        }
        let (fate, takes) = self.fate(&batch);
        let (first, last) = (batch.first_position, batch.last_position());
        self.note(9, u64::from(batch.hash[0]), || {
            let names: Vec<_> = batch.events.iter().map(|event| &*event.event_type).collect();
            format!(
                "process {id} commits {first}..={last}, {} records, {} owed, {} settled: {}",
                batch.records.len(),
                batch.owed.len(),
                batch.settled.len(),
                names.join(" ")
            )
        });
        if let Some(process) = self.process(id) {
            process.in_flight = Some((batch, fate));
        }
        self.later(takes, Happening::Committed(id));
        // It is on its way to the disk; where a script has the crash, that is the edge before or the one after.
        if matches!(self.crashes, Crashes::ByChance) {
            self.edge(id);
        }
    }

    /// How a commit ends, and when.
    fn fate(&mut self, batch: &Batch) -> (Fate, i64) {
        if self.is_poisoned(batch) {
            return (Fate::Refused, 500);
        }
        if self.calm {
            return (Fate::Written, 500);
        }
        let faults = &self.script.faults;
        let (not_written, unknown, disk, refused, slow) = (faults.not_written, faults.unknown, faults.disk, faults.refused, faults.slow);
        let takes = self.takes(500, 30, 10_000);
        if self.strikes(not_written) {
            return (Fate::NotWritten, takes);
        }
        if self.strikes(unknown) {
            let written = self.chance.per_mille(500);
            return (if written { Fate::UnknownWritten } else { Fate::UnknownNotWritten }, takes);
        }
        if self.strikes(disk) {
            let survives = self.chance.per_mille(500);
            return (Fate::Failed { survives }, takes);
        }
        if self.strikes(refused) {
            return (Fate::Refused, takes);
        }
        if self.strikes(slow) {
            self.fault(Fault::SlowCommit);
            return (Fate::Written, self.chance.span(SECOND / 20, 30 * SECOND));
        }
        (Fate::Written, takes)
    }

    /// Whether a batch holds what is refused whatever it comes with.
    fn is_poisoned(&self, batch: &Batch) -> bool {
        let faults = &self.script.faults;
        let there = faults.poisoned_in.is_none_or(|shard| shard == batch.shard);
        let at = self.now.saturating_sub(self.transport.began());
        let now = at >= faults.poisoned_from && faults.poisoned_until.is_none_or(|until| at < until);
        let poisoned = |poison: &String| batch.events.iter().any(|event| event.metadata.contains(poison.as_str()));
        there && now && self.poison.as_ref().is_some_and(poisoned)
    }

    pub(super) fn committed(&mut self, id: u32) {
        let now = self.now;
        let Some(process) = self.process(id) else { return };
        if let Some(until) = process.frozen_until {
            return self.later(until - now, Happening::Committed(id));
        }
        let Some((batch, fate)) = process.in_flight.take() else { return };
        let mut going = vec![Going { id, batch, fate }];
        if self.several_shards() && self.chance.per_mille(self.script.faults.joint) {
            self.gather(&mut going);
        }
        let results = self.write(&going);
        let mut told = Vec::new();
        for (Going { id, batch, .. }, (fate, result)) in going.into_iter().zip(results) {
            if let Some(what) = refused_by_itself(&batch, fate, &result) {
                return self.fail("no batch is refused for what it contains", what);
            }
            let result = self.told(&batch, fate, result);
            let hash = u64::from_le_bytes(batch.hash[..8].try_into().unwrap_or_default());
            self.note(10, hash, || match &result {
                Ok(()) => format!(
                    "disk      {}..={} of process {id} is durable",
                    batch.first_position,
                    batch.last_position()
                ),
                Err(error) => format!("disk      {error}"),
            });
            self.figures.batches += u64::from(result.is_ok());
            told.push((id, result));
        }
        for (id, result) in told {
            self.hears(id, result);
        }
    }

    /// What other shards have given out goes into the same transaction.
    fn gather(&mut self, going: &mut Vec<Going>) {
        for process in &mut self.processes {
            let there = process.frozen_until.is_none() && going.iter().all(|going| going.batch.shard != process.shard);
            if there && let Some((batch, fate)) = process.in_flight.take() {
                going.push(Going {
                    id: process.id,
                    batch,
                    fate,
                });
            }
        }
        if going.len() > 1 {
            self.fault(Fault::CommittedTogether);
        }
    }

    /// Writes batches in one transaction; when that is refused for one of them, each alone, as the shell's store thread does it. With what
    /// became of each comes the fate that it met.
    fn write(&self, going: &[Going]) -> Vec<(Fate, Result<(), CommitError>)> {
        let alone = |going: &Going| (going.fate, self.disk.commit_as(going.fate, &[going.batch.as_ref()]));
        if let [one] = going {
            return vec![alone(one)];
        }
        let together: Vec<_> = going.iter().map(|going| going.batch.as_ref()).collect();
        let fates = || going.iter().map(|going| going.fate);
        // A batch that the store does not take is one whatever it comes with; of the rest one fate is everybody's.
        let fate = fates().find(|fate| *fate == Fate::Refused);
        let fate = fate.or_else(|| fates().find(|fate| *fate != Fate::Written)).unwrap_or_default();
        match self.disk.commit_as(fate, &together) {
            Ok(()) => going.iter().map(|_| (fate, Ok(()))).collect(),
            Err(CommitError::Refused(_) | CommitError::Fenced(_)) => going.iter().map(alone).collect(),
            Err(error) => going.iter().map(|_| (fate, Err(alike(&error)))).collect(),
        }
    }

    fn hears(&mut self, id: u32, result: Result<(), CommitError>) {
        // Durable, and its writer never hears of it.
        if result.is_ok() && self.edge(id) {
            return;
        }
        let must_stop = matches!(result, Err(CommitError::Fenced(_) | CommitError::Disk(_)));
        if let Some(process) = self.process(id) {
            process.must_stop |= must_stop;
            process.inbox.push(Input::Committed(result));
        }
        if must_stop {
            self.turn(id);
        } else {
            self.soon(id);
        }
    }

    /// What the core is told of a commit: doubts are settled by the head, as the shell does it.
    fn told(&mut self, batch: &Batch, fate: Fate, result: Result<(), CommitError>) -> Result<(), CommitError> {
        match (&result, fate) {
            (Err(CommitError::Fenced(_)), _) => self.fault(Fault::Fenced),
            (_, Fate::NotWritten) => self.fault(Fault::NotWritten),
            (_, Fate::UnknownWritten) => self.fault(Fault::UnknownWritten),
            (_, Fate::UnknownNotWritten) => self.fault(Fault::UnknownNotWritten),
            (_, Fate::Failed { .. }) => self.fault(Fault::DiskFailed),
            (_, Fate::Refused) => {
                let poisoned = self.is_poisoned(batch);
                self.fault(if poisoned { Fault::Poisoned } else { Fault::Refused });
            }
            (_, Fate::Written) => {}
        }
        let Err(CommitError::Unknown(source)) = result else { return result };
        // A doubtful batch that moves no head may be told as it is: what it held is read again.
        if batch.events.is_empty() || fate == Fate::UnknownNotWritten && self.chance.per_mille(500) {
            return Err(CommitError::Unknown(source));
        }
        after_doubt(self.disk.durable(), batch, CommitError::Unknown(source))
    }
}

/// An error of the same kind: each of those who were written together is told its own.
fn alike(error: &CommitError) -> CommitError {
    let text = error.to_string().into();
    match error {
        CommitError::Unknown(_) => CommitError::Unknown(text),
        CommitError::Disk(_) => CommitError::Disk(text),
        CommitError::NotWritten(_) | CommitError::Refused(_) | CommitError::Fenced(_) => CommitError::NotWritten(text),
    }
}

/// What the store has against a batch that nothing was to happen to.
fn refused_by_itself(batch: &Batch, fate: Fate, result: &Result<(), CommitError>) -> Option<String> {
    match result {
        Err(CommitError::Refused(reason)) if fate != Fate::Refused => {
            let (first, last) = (batch.first_position, batch.last_position());
            Some(format!("{first}..={last} of shard {}: {reason}", batch.shard))
        }
        _ => None,
    }
}
