//! Inputs that the engine has set aside, as records of a topic that shows what is set aside now.

use std::collections::HashMap;

use event_store::Parked;
use rdkafka::message::OwnedHeaders;
use serde::Serialize;
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
    input: Input<'a>,
}

/// As the log has it.
#[derive(Serialize)]
#[serde(untagged)]
enum Input<'a> {
    Json(&'a RawValue),
    Text(&'a str),
}

/// The record's headers and text.
pub(crate) fn record(shard: u16, parked: &Parked, source: &str) -> (OwnedHeaders, Vec<u8>) {
    let body = Body {
        id: parked.id,
        shard,
        parked_at: parked.at,
        reason: &parked.reason,
        input: serde_json::from_str(&parked.input).map_or(Input::Text(&parked.input), Input::Json),
    };
    let text = serde_json::to_vec(&body).unwrap_or_default();
    (record::attributes(parked.id, source, TYPE, parked.at), text)
}

/// What of the inputs that are set aside has been published. Kept in memory: whoever begins anew publishes all of them again.
#[derive(Debug, Default)]
pub(crate) struct Shown(HashMap<Uuid, u16>);

impl Shown {
    /// Those that are not published yet.
    pub(crate) fn unseen<'a>(&self, parked: &'a [Parked]) -> Vec<&'a Parked> {
        parked.iter().filter(|parked| !self.0.contains_key(&parked.id)).collect()
    }

    /// Those of a shard that have come to their end.
    pub(crate) fn ended(&self, shard: u16, parked: &[Parked]) -> Vec<Uuid> {
        let of_shard = self.0.iter().filter(|(_, of)| **of == shard).map(|(id, _)| *id);
        of_shard.filter(|id| parked.iter().all(|parked| parked.id != *id)).collect()
    }

    pub(crate) fn show(&mut self, shard: u16, id: Uuid) {
        self.0.insert(id, shard);
    }

    pub(crate) fn forget(&mut self, id: Uuid) {
        self.0.remove(&id);
    }

    /// Another publishes this shard from now on.
    pub(crate) fn leave(&mut self, shard: u16) {
        self.0.retain(|_, of| *of != shard);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
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
        let (_, text) = record(3, &parked(1, r#"{"a": 1}"#), "/jangbu/log");
        assert_eq!(
            String::from_utf8(text).expect("text"),
            r#"{"id":"00000000-0000-0000-0000-000000000001","shard":3,"parkedAt":7,"reason":"it \"panicked\"","input":{"a": 1}}"#
        );
        let (_, text) = record(3, &parked(1, "no json"), "/jangbu/log");
        assert!(String::from_utf8(text).expect("text").ends_with(r#""input":"no json"}"#));
    }

    #[test]
    fn each_is_shown_once_and_its_end_too() {
        let mut shown = Shown::default();
        let all = [parked(1, "{}"), parked(2, "{}")];
        assert_eq!(shown.unseen(&all).len(), 2);
        shown.show(0, all[0].id);
        shown.show(1, all[1].id);
        assert!(shown.unseen(&all).is_empty());
        assert_eq!(shown.ended(0, &[]), [all[0].id], "of its shard");
        assert!(shown.ended(0, &all[..1]).is_empty());
        shown.leave(1);
        assert_eq!(shown.unseen(&all), [&all[1]]);
    }
}
