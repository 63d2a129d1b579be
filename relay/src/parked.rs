//! Inputs that the engine has set aside, as records of a topic that shows what is set aside now.

use event_store::Parked;
use rdkafka::message::OwnedHeaders;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::record;

/// The type of the record.
const TYPE: &str = "jangbu.input.parked";

/// What the record says.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    id: Uuid,
    shard: u16,
    parked_at: i64,
    reason: &'a str,
    input: Option<Input<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    too_large: bool,
}

/// As the log has it.
#[derive(Serialize)]
#[serde(untagged)]
enum Input<'a> {
    Json(&'a RawValue),
    Text(&'a str),
}

/// The record's headers and text. `bare`: without the input itself, which is too large for the topic.
pub(crate) fn record(shard: u16, parked: &Parked, source: &str, bare: bool) -> (OwnedHeaders, Vec<u8>) {
    let input = serde_json::from_str(&parked.input).map_or(Input::Text(&parked.input), Input::Json);
    let body = Body {
        id: parked.id,
        shard,
        parked_at: parked.at,
        reason: &parked.reason,
        input: (!bare).then_some(input),
        too_large: bare,
    };
    let text = serde_json::to_vec(&body).unwrap_or_default();
    let headers = record::attributes(parked.id, source, TYPE, parked.at);
    (record::with(headers, "content-type", record::JSON), text)
}

/// The shard that a record is about, when it is a record of ours.
pub(crate) fn shard_of(text: &[u8]) -> Option<u16> {
    #[derive(Deserialize)]
    struct Said {
        shard: u16,
    }
    serde_json::from_slice(text).ok().map(|Said { shard }| shard)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(id: u128, input: &str) -> Parked {
        Parked {
            id: Uuid::from_u128(id),
            at: 7,
            input: input.into(),
            reason: "it \"panicked\"".into(),
        }
    }

    #[test]
    fn an_input_is_shown_as_the_log_has_it() {
        let (_, text) = record(3, &parked(1, r#"{"a": 1}"#), "/jangbu/log", false);
        assert_eq!(shard_of(&text), Some(3));
        assert_eq!(
            String::from_utf8(text).expect("text"),
            r#"{"id":"00000000-0000-0000-0000-000000000001","shard":3,"parkedAt":7,"reason":"it \"panicked\"","input":{"a": 1}}"#
        );
        let (_, text) = record(3, &parked(1, "no json"), "/jangbu/log", false);
        assert!(String::from_utf8(text).expect("text").ends_with(r#""input":"no json"}"#));
        assert_eq!(shard_of(b"no record of ours"), None);
    }

    #[test]
    fn an_input_that_is_too_large_is_left_out() {
        let (_, text) = record(3, &parked(1, r#"{"a": 1}"#), "/jangbu/log", true);
        assert!(String::from_utf8(text).expect("text").ends_with(r#""input":null,"tooLarge":true}"#));
    }
}
