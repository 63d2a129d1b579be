//! Answers that the engine has recorded, where every node finds them.

use std::time::{Duration, SystemTime};

use command_api::{AnswerName, Asked, KeptAnswers};
use key_vault::KeyVault;
use uuid::Uuid;

use crate::{Redis, sealed::Sealed};

/// So long is an answer found here; the log keeps it for at least thirty times as long.
const KEPT: Duration = Duration::from_hours(24);

/// The answers to requests with an idempotency key.
pub struct Answers(Sealed);

impl Answers {
    /// Those of this log, sealed with a key that follows from the vault's.
    pub fn new(redis: Redis, vault: KeyVault, log: Uuid) -> Self {
        Self(Sealed::new(redis, vault, log, "answers", KEPT))
    }
}

fn name(name: AnswerName) -> Vec<u8> {
    [name.record, name.fingerprint].concat()
}

impl KeptAnswers for Answers {
    fn find(&self, of: AnswerName) -> Asked<'_, Option<Vec<u8>>> {
        Box::pin(async move { self.0.find(&[name(of)]).await.pop().flatten() })
    }

    fn keep(&self, of: AnswerName, answer: &[u8]) {
        self.0.keep(&name(of), answer, SystemTime::now());
    }
}
