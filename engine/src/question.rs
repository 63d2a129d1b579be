//! What is asked of a shard's engine, and its answer, as they travel between processes: JSON.

use aggregates::{Kind, Refusal, State};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    Answer, Planned, Reply, Request, Response, SetAside, Unpark, Until, Versioned,
    stored::{decode_answer, encode_answer},
};

/// What is asked of the engine of a shard, by whoever cannot do it himself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Question {
    /// A command is to be decided.
    Command(Box<Request>),
    /// An aggregate as it is.
    Read(Kind, Uuid),
    /// An aggregate once it is as wanted.
    Watch(Kind, Uuid, Until),
    /// The oldest so many inputs that are set aside.
    Parked(usize),
    /// What an operator decides about one of them.
    Unpark(Unpark),
}

impl Question {
    /// Whether the answer is recorded, or something follows from it.
    pub const fn changes(&self) -> bool {
        matches!(self, Self::Command(_) | Self::Unpark(_))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Wire {
    Reply(Box<WireReply>),
    State(Option<WireState>),
    Parked(Vec<SetAside>),
    Done,
    Refused(Refusal),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireReply {
    log: Uuid,
    /// As an idempotency record keeps it.
    answer: Box<RawValue>,
    replayed: bool,
    latest: WireState,
    planned: Vec<Planned>,
}

#[derive(Serialize, Deserialize)]
struct WireState {
    kind: Kind,
    version: u64,
    state: Box<RawValue>,
}

impl WireState {
    fn of(versioned: &Versioned) -> Result<Self, serde_json::Error> {
        Ok(Self {
            kind: versioned.state.kind(),
            version: versioned.version,
            state: raw(versioned.state.to_json()?)?,
        })
    }

    fn read(&self) -> Result<Versioned, serde_json::Error> {
        Ok(Versioned {
            version: self.version,
            state: State::from_json(self.kind, self.state.get().as_bytes())?,
        })
    }
}

fn raw(json: impl Into<Vec<u8>>) -> Result<Box<RawValue>, serde_json::Error> {
    let text = String::from_utf8(json.into()).map_err(de::Error::custom)?;
    RawValue::from_string(text)
}

impl Wire {
    fn of(response: &Response) -> Result<Self, serde_json::Error> {
        Ok(match response {
            Response::Reply(reply) => Self::Reply(Box::new(WireReply {
                log: reply.answer.token.log_id,
                answer: raw(encode_answer(&reply.answer)?)?,
                replayed: reply.replayed,
                latest: WireState::of(&reply.latest)?,
                planned: reply.planned.clone(),
            })),
            Response::State(state) => Self::State(state.as_ref().map(WireState::of).transpose()?),
            Response::Parked(parked) => Self::Parked(parked.clone()),
            Response::Unparked(Ok(())) => Self::Done,
            Response::Unparked(Err(refusal)) => Self::Refused(refusal.clone()),
        })
    }

    fn read(self) -> Result<Response, serde_json::Error> {
        Ok(match self {
            Self::Reply(reply) => {
                let WireReply {
                    log,
                    answer,
                    replayed,
                    latest,
                    planned,
                } = *reply;
                let answer: Answer = decode_answer(log, answer.get().as_bytes())?;
                Response::Reply(Box::new(Reply {
                    answer,
                    replayed,
                    latest: latest.read()?,
                    planned,
                }))
            }
            Self::State(state) => Response::State(state.map(|state| state.read()).transpose()?),
            Self::Parked(parked) => Response::Parked(parked),
            Self::Done => Response::Unparked(Ok(())),
            Self::Refused(refusal) => Response::Unparked(Err(refusal)),
        })
    }
}

impl Serialize for Response {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Wire::of(self).map_err(ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Response {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Wire::deserialize(deserializer)?.read().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use aggregates::{AccountId, Class, Command, Currency, Wallet, WalletCommand};
    use event_store::{ConsistencyToken, RecordKey};

    use super::*;
    use crate::{Actor, Cause, EngineError, Idempotency};

    fn travels<T: Serialize + for<'de> Deserialize<'de>>(value: &T) -> T {
        let json = serde_json::to_string(value).expect("JSON");
        serde_json::from_str(&json).expect(&json)
    }

    fn refusal() -> Refusal {
        Refusal {
            class: Class::State,
            code: Cow::Borrowed("order-not-cancellable"),
            detail: Cow::Borrowed("it is on its way"),
            pointer: Some("/reason".to_owned()),
        }
    }

    #[test]
    fn a_command_arrives_as_it_was_given() {
        let account = AccountId::new(Uuid::from_u128(7));
        let mut request = Request::new(
            Command::Wallet(account, WalletCommand::Open { currency: Currency::KRW }),
            Cause {
                actor: Actor::Account(account),
                correlation: Uuid::from_u128(8),
                traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
            },
        );
        request.idempotency = Some(Idempotency {
            key: "\"a key\"".to_owned(),
            record: RecordKey([3; 16]),
            fingerprint: [4; 16],
        });
        request.if_match = Some(u64::MAX);
        let Question::Command(arrived) = travels(&Question::Command(Box::new(request.clone()))) else {
            panic!("another question")
        };
        assert_eq!(format!("{arrived:?}"), format!("{request:?}"));
    }

    #[test]
    fn every_answer_arrives_as_it_was_given() {
        let wallet = Versioned {
            version: 0,
            state: Kind::Wallet.initial(),
        };
        assert!(matches!(&wallet.state, State::Wallet(state) if **state == Wallet::default()));
        let reply = |result| {
            let answer = Answer {
                token: ConsistencyToken {
                    log_id: Uuid::from_u128(1),
                    shard: 3,
                    position: 99,
                },
                version: 2,
                result,
            };
            Response::Reply(Box::new(Reply {
                answer,
                replayed: true,
                latest: wallet.clone(),
                planned: Vec::new(),
            }))
        };
        let answers = [
            reply(Ok(br#"{"orderId":"7"}"#.as_slice().into())),
            reply(Err(refusal())),
            Response::State(None),
            Response::State(Some(wallet.clone())),
            Response::Parked(Vec::new()),
            Response::Unparked(Ok(())),
            Response::Unparked(Err(refusal())),
        ];
        for answer in answers {
            assert_eq!(format!("{:?}", travels(&answer)), format!("{answer:?}"));
        }
        let error: Result<Response, EngineError> = Err(EngineError::NoAnswer(3));
        assert_eq!(travels(&error).expect_err("an error"), EngineError::NoAnswer(3));
    }
}
