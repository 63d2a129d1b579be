//! A recorded answer as it is kept for all nodes.

use aggregates::Refusal;
use engine::{Answer, ConsistencyToken};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What stands before the body, on a line of its own.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    version: u64,
    shard: u16,
    position: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refusal: Option<Refusal>,
}

/// The answer as bytes.
pub(crate) fn encode(answer: &Answer) -> Option<Vec<u8>> {
    let (body, refusal) = match &answer.result {
        Ok(body) => (&body[..], None),
        Err(refusal) => (&[] as &[u8], Some(refusal.clone())),
    };
    let head = Head {
        version: answer.version,
        shard: answer.token.shard,
        position: answer.token.position,
        refusal,
    };
    let mut bytes = serde_json::to_vec(&head).ok()?;
    bytes.push(b'\n');
    bytes.extend_from_slice(body);
    Some(bytes)
}

/// The answer that these bytes are, of this log.
pub(crate) fn decode(log_id: Uuid, bytes: &[u8]) -> Option<Answer> {
    let line = bytes.iter().position(|byte| *byte == b'\n')?;
    let (head, body) = (bytes.get(..line)?, bytes.get(line + 1..)?);
    let head: Head = serde_json::from_slice(head).ok()?;
    let result = match head.refusal {
        Some(refusal) if body.is_empty() => Err(refusal),
        Some(_) => return None,
        None => Ok(body.into()),
    };
    Some(Answer {
        token: ConsistencyToken {
            log_id,
            shard: head.shard,
            position: head.position,
        },
        version: head.version,
        result,
    })
}

#[cfg(test)]
mod tests {
    use aggregates::Class;

    use super::*;

    fn answer(result: Result<&str, &str>) -> Answer {
        Answer {
            token: ConsistencyToken {
                log_id: Uuid::from_u128(9),
                shard: 3,
                position: u64::MAX,
            },
            version: 17,
            result: result.map(|body| body.as_bytes().into()).map_err(|detail| Refusal {
                class: Class::Rule,
                code: "invalid-value".into(),
                detail: detail.to_owned().into(),
                pointer: Some("/amount".to_owned()),
            }),
        }
    }

    #[test]
    fn an_answer_is_the_same_afterwards_byte_for_byte() {
        for answer in [
            answer(Ok("{\"orderId\": \"1\",\n \"name\":\"김\"}")),
            answer(Ok("")),
            answer(Err("not\nso")),
        ] {
            let bytes = encode(&answer).expect("it is JSON");
            let again = decode(Uuid::from_u128(9), &bytes).expect("it was one");
            assert_eq!(format!("{again:?}"), format!("{answer:?}"));
        }
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for bytes in [
            "",
            "\n",
            "{}\n{}",
            "{\"version\":1,\"shard\":0,\"position\":1}",
            "{\"version\":1,\"shard\":0,\"position\":1,\"x\":1}\n{}",
        ] {
            assert!(decode(Uuid::nil(), bytes.as_bytes()).is_none(), "{bytes}");
        }
        let mut refused = encode(&answer(Err("no"))).expect("it is JSON");
        refused.push(b'x');
        assert!(decode(Uuid::nil(), &refused).is_none());
    }
}
