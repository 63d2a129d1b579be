//! What the engine writes into the log beside events, as JSON: effects owed, timers, answers, what is set aside.

use aggregates::{Command, Kind, OrderId, Refusal};
use sagas::{ProviderCall, Seen, Step};
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

/// Something that a process has still to have done: at once, at its time, or in another shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    #[serde(flatten)]
    pub deed: Deed,
    pub origin: Origin,
    /// How often it was tried in vain.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tries: usize,
}

impl Task {
    pub(crate) fn new(deed: Deed, origin: Origin) -> Self {
        Self { deed, origin, tries: 0 }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Deed {
    /// A command is to be given.
    Command(Command),
    /// A purchase is to learn what happened in another shard.
    Learn(Learnt),
}

impl Deed {
    /// The aggregate that it is for.
    pub(crate) fn target(&self) -> (Kind, Uuid) {
        match self {
            Self::Command(command) => command.target(),
            Self::Learn(learnt) => (Kind::Order, learnt.order.uuid()),
        }
    }

    /// The order whose purchase waits for it.
    pub(crate) fn order(&self) -> Option<OrderId> {
        match self {
            Self::Command(command) => sagas::order_of(command),
            Self::Learn(learnt) => Some(learnt.order),
        }
    }
}

/// What a purchase learns from an event of another shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Learnt {
    pub order: OrderId,
    /// Where the event stands.
    pub seen: Seen,
    /// The event's id.
    pub event: Uuid,
    pub step: Step,
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
    Cascade { rest: Vec<Task> },
    /// Another shard has to do it, or has and its answer has not come.
    Message { to: u16, task: Task },
}

/// An input that was set aside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ParkedInput {
    #[serde(flatten)]
    pub deed: Deed,
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

/// How a message was answered, as its idempotency record keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MessageAnswer {
    pub shard: u16,
    /// Where the receiver's log stood after it.
    pub position: u64,
    pub message: Answered,
}

/// To whom, and what its purchases learn from it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answered {
    pub from: u16,
    pub learnt: Vec<Learnt>,
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

#[cfg(test)]
mod tests {
    use super::*;

    const COMMAND: &str = r#""command":{"Order":["0193e6a0-11aa-7bbb-8ccc-9ddd0eee1fff",{"ExpirePayment":{"at":1795234200000000}}]}"#;
    const ORIGIN: &str =
        r#""origin":{"correlation":"0193e6a0-11aa-7bbb-8ccc-9ddd0eee1fff","causation":"0193e6a0-11aa-8bbb-8ccc-9ddd0eee1fff"}"#;

    /// What was stored reads as it was written, and is written again as it was.
    fn loads<T: Serialize + for<'de> Deserialize<'de>>(json: &str) -> T {
        let stored: T = serde_json::from_str(json).expect(json);
        assert_eq!(serde_json::to_string(&stored).expect("JSON"), json);
        stored
    }

    #[test]
    fn timers_effects_and_parked_inputs_of_before_there_were_shards_still_load() {
        let timer: Task = loads(&format!("{{{COMMAND},{ORIGIN}}}"));
        assert!(matches!(timer.deed, Deed::Command(Command::Order(..))));
        let again: Task = loads(&format!(r#"{{{COMMAND},{ORIGIN},"tries":2}}"#));
        assert_eq!(again, Task { tries: 2, ..timer.clone() });
        let rest: Owed = loads(&format!(r#"{{"Cascade":{{"rest":[{{{COMMAND},{ORIGIN}}}]}}}}"#));
        assert_eq!(rest, Owed::Cascade { rest: vec![timer.clone()] });
        let parked: ParkedInput = loads(&format!("{{{COMMAND},{ORIGIN}}}"));
        assert_eq!((parked.deed, parked.origin), (timer.deed, Some(timer.origin)));
    }

    #[test]
    fn what_shards_owe_one_another_loads_for_ever() {
        let owed: Owed = loads(&format!(r#"{{"Message":{{"to":3,"task":{{{COMMAND},{ORIGIN}}}}}}}"#));
        assert!(matches!(owed, Owed::Message { to: 3, .. }));
        let answer = r#"{"shard":3,"position":17,"message":{"from":1,"learnt":[{"order":"0193e6a0-11aa-7bbb-8ccc-9ddd0eee1fff","seen":"3/16","event":"0193e6a0-11aa-8bbb-8ccc-9ddd0eee1fff","step":{"held":{"product":"0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"}}}]}}"#;
        let answer: MessageAnswer = loads(answer);
        let news = answer.message.learnt.into_iter().next().expect("one");
        let json = serde_json::to_string(&Deed::Learn(news.clone())).expect("JSON");
        assert!(json.starts_with(r#"{"learn":{"order":"#), "{json}");
        assert_eq!(loads::<Deed>(&json), Deed::Learn(news));
    }
}
