//! What the engine writes into the log beside events, as JSON: effects owed, timers, answers, what is set aside.

use aggregates::{Command, Refusal};
use sagas::ProviderCall;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use event_store::ConsistencyToken;

use crate::{Answer, Cause};

/// Who caused something that comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The same for everything that follows from one request.
    pub correlation: Uuid,
    /// The event that it follows from.
    pub causation: Uuid,
}

/// A command that is due at some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TimedCommand {
    pub command: Command,
    pub origin: Origin,
    /// How often it was tried in vain.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tries: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(tries: &usize) -> bool {
    *tries == 0
}

/// What is owed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Owed {
    /// The provider has to be called, or was and has not answered.
    Call { call: ProviderCall, origin: Origin },
    /// The rest of a cascade that was too long for one turn, in the order in which it goes on.
    Cascade { rest: Vec<Rest> },
}

/// A command that a cascade has still to give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rest {
    pub command: Command,
    pub origin: Origin,
    /// How often it was tried in vain.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tries: usize,
}

/// An input that was set aside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ParkedInput {
    pub command: Command,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

#[derive(Serialize)]
struct AnswerOut<'a> {
    version: u64,
    shard: u16,
    position: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'a Refusal>,
}

#[derive(Deserialize)]
struct AnswerIn<'a> {
    version: u64,
    shard: u16,
    position: u64,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
    #[serde(default)]
    refusal: Option<Refusal>,
}

/// An answer as an idempotency record keeps it.
pub(crate) fn encode_answer(answer: &Answer) -> Result<Box<[u8]>, serde_json::Error> {
    let body = answer
        .result
        .as_ref()
        .ok()
        .map(|body| serde_json::from_slice::<&RawValue>(body))
        .transpose()?;
    let refusal = answer.result.as_ref().err();
    let out = AnswerOut {
        version: answer.version,
        shard: answer.token.shard,
        position: answer.token.position,
        body,
        refusal,
    };
    serde_json::to_vec(&out).map(Vec::into_boxed_slice)
}

/// Reads a recorded answer.
pub(crate) fn decode_answer(log_id: Uuid, json: &[u8]) -> Result<Answer, serde_json::Error> {
    let stored: AnswerIn<'_> = serde_json::from_slice(json)?;
    let token = ConsistencyToken {
        log_id,
        shard: stored.shard,
        position: stored.position,
    };
    let result = match (stored.body, stored.refusal) {
        (_, Some(refusal)) => Err(refusal),
        (body, None) => Ok(body.map_or("null", RawValue::get).as_bytes().into()),
    };
    Ok(Answer {
        token,
        version: stored.version,
        result,
    })
}
