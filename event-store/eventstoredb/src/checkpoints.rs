//! How far those have come who read the log: a stream for each reader, whose last entry says it for all shards.

use std::{collections::BTreeMap, sync::Arc};

use event_store::{Checkpoints, StoreError};
use serde::{Deserialize, Serialize};

use crate::{
    check_name,
    entry::{self, CHECKPOINT, Entry},
    log::{Log, overtaken},
    server::{Append, AppendError, Expected, Question},
};

/// How often a step is tried that others come before, or whose answer is lost.
const TRIES: usize = 20;

/// How many entries are kept: one counts, and the others are for people to see.
const KEPT: u64 = 10;

/// The checkpoints of one log.
pub(crate) struct EsdbCheckpoints {
    log: Arc<Log>,
    /// The readers whose stream was told how much to keep.
    kept_short: Vec<String>,
}

/// The last entry of a reader's stream, and where it stands.
#[derive(Default)]
struct Stands {
    revision: Option<u64>,
    positions: BTreeMap<u16, u64>,
}

#[derive(Serialize, Deserialize)]
struct Checkpoint {
    positions: BTreeMap<u16, u64>,
}

impl EsdbCheckpoints {
    pub(crate) const fn new(log: Arc<Log>) -> Self {
        Self {
            log,
            kept_short: Vec::new(),
        }
    }

    fn stands(&self, stream: &str) -> Result<Stands, StoreError> {
        let mut stands = Stands::default();
        loop {
            let question = Question {
                stream: stream.to_owned(),
                after: stands.revision,
            };
            let pages = self.log.server.read_each(&[question]).map_err(StoreError::Unavailable)?;
            let Some(page) = pages.into_iter().next() else { return Ok(stands) };
            if let Some(last) = page.entries.last() {
                let checkpoint: Checkpoint =
                    entry::data(&last.entry).map_err(|error| StoreError::Corrupt(format!("the stream {stream}: {error}")))?;
                stands = Stands {
                    revision: Some(last.revision),
                    positions: checkpoint.positions,
                };
            }
            if page.end {
                return Ok(stands);
            }
        }
    }

    fn keep_short(&mut self, stream: &str) {
        if self.kept_short.iter().any(|kept| kept == stream) {
            return;
        }
        match self.log.server.keep_last(stream, KEPT) {
            Ok(()) => self.kept_short.push(stream.to_owned()),
            // The stream only grows until the next step tries again.
            Err(error) => tracing::warn!(%error, stream, "the old checkpoints are not let go of"),
        }
    }
}

impl Checkpoints for EsdbCheckpoints {
    fn read(&mut self, name: &str) -> Result<Vec<(u16, u64)>, StoreError> {
        check_name(name)?;
        let stands = self.stands(&self.log.checkpoint_stream(name))?;
        Ok(stands.positions.into_iter().collect())
    }

    fn advance(&mut self, name: &str, shard: u16, from: u64, to: u64) -> Result<bool, StoreError> {
        check_name(name)?;
        let stream = self.log.checkpoint_stream(name);
        for _ in 0..TRIES {
            let Stands { revision, mut positions } = self.stands(&stream)?;
            if positions.get(&shard).copied().unwrap_or(0) != from {
                return Ok(false);
            }
            positions.insert(shard, to);
            let step = Append {
                stream: stream.clone(),
                expected: Expected::After(revision),
                entries: vec![Entry::own(CHECKPOINT, &Checkpoint { positions })],
            };
            match self.log.server.append(step) {
                Ok(()) => {
                    self.keep_short(&stream);
                    return Ok(true);
                }
                // Another shard's step came before, or another's of this shard.
                Err(AppendError::Elsewhere) => {}
                Err(AppendError::Refused(error)) => return Err(StoreError::Unavailable(error.into())),
                // It may arrive yet: at this revision, or never.
                Err(AppendError::NotWritten(error) | AppendError::Unknown(error)) => return Err(StoreError::Unavailable(error)),
            }
        }
        Err(StoreError::Unavailable(overtaken()))
    }
}
