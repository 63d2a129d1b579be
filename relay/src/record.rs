//! What a record looks like: a `CloudEvent` 1.0 in binary mode.

use std::borrow::Cow;

use event_store::Event;
use jiff::Timestamp;
use rdkafka::message::{Header, OwnedHeaders};
use serde::Deserialize;
use uuid::Uuid;

/// What a consumer drops repeats by.
pub(crate) const DEDUPE: &str = "jangbu-dedupe-key";

/// Where the payload of an event is that is not in its record: an extension of `CloudEvents`.
pub(crate) const REFERENCE: &str = "ce_dataref";

pub(crate) const JSON: &str = "application/json";

/// As many as a record has here.
const HEADERS: usize = 16;

/// What is taken over from an event's metadata. Who did it and under which idempotency key stays in the log.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow, default)]
    correlation_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    causation_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    traceparent: Option<Cow<'a, str>>,
}

/// The key of an event's record, and its subject: its stream, as `order-0193...`. So a stream is in one partition, in its order.
pub(crate) fn key(event: &Event) -> String {
    event.stream.to_string()
}

/// What a record holds of its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Its payload.
    Whole,
    /// Only where the payload is to be found, because it is too large.
    Reference,
}

impl Content {
    /// The record's value.
    pub(crate) fn value(self, event: &Event) -> &[u8] {
        match self {
            Self::Whole => event.payload.as_bytes(),
            // Empty, and not missing: a record without a value would delete its key where a topic is compacted.
            Self::Reference => &[],
        }
    }
}

/// The headers of an event's record.
pub(crate) fn headers(event: &Event, subject: &str, source: &str, content: Content) -> OwnedHeaders {
    let about_data = match content {
        Content::Whole => ("content-type", JSON.to_owned()),
        Content::Reference => (REFERENCE, format!("{source}/shards/{}/events/{}", event.shard, event.position)),
    };
    // What another program wrote into the log may have other metadata.
    let metadata: Metadata<'_> = serde_json::from_str(&event.metadata).unwrap_or_default();
    let position = event.position.to_string();
    let headers = attributes(event.event_id, source, &event.event_type, event.recorded_at);
    let mut headers = with(headers, about_data.0, &about_data.1);
    for (name, value) in [
        ("ce_subject", Some(subject)),
        ("ce_sequence", Some(&*event.sequence.to_string())),
        ("ce_jangbuversion", Some(&*event.event_version)),
        ("ce_jangbushard", Some(&*event.shard.to_string())),
        ("ce_jangbuposition", Some(&*position)),
        ("ce_correlationid", metadata.correlation_id.as_deref()),
        ("ce_causationid", metadata.causation_id.as_deref()),
        ("ce_traceparent", metadata.traceparent.as_deref()),
        // Where those look who trace records and know no `CloudEvents`.
        ("traceparent", metadata.traceparent.as_deref()),
    ] {
        if let Some(value) = value {
            headers = with(headers, name, value);
        }
    }
    headers
}

/// What every `CloudEvent` has, and what it is known by when it comes again.
pub(crate) fn attributes(id: Uuid, source: &str, kind: &str, at: i64) -> OwnedHeaders {
    let id = id.to_string();
    let mut headers = OwnedHeaders::new_with_capacity(HEADERS);
    for (name, value) in [
        ("ce_specversion", "1.0"),
        ("ce_id", &id),
        ("ce_source", source),
        ("ce_type", kind),
        (DEDUPE, &id),
    ] {
        headers = with(headers, name, value);
    }
    match Timestamp::from_microsecond(at) {
        Ok(at) => with(headers, "ce_time", &at.to_string()),
        // The attribute is optional, and a year that no calendar has is none.
        Err(_) => headers,
    }
}

pub(crate) fn with(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

#[cfg(test)]
mod tests {
    use event_store::StreamId;
    use rdkafka::message::Headers as _;

    use super::*;

    fn event(metadata: &str) -> Event {
        Event {
            shard: 3,
            position: 70,
            stream: StreamId::new("order", Uuid::from_u128(1)),
            sequence: 2,
            event_id: Uuid::from_u128(9),
            event_type: "order.placed".into(),
            event_version: "1.0.0".into(),
            recorded_at: 1_750_000_000_123_456,
            payload: "{}".into(),
            metadata: metadata.into(),
        }
    }

    fn shown(event: &Event, content: Content) -> Vec<(String, String)> {
        let headers = headers(event, &key(event), "/jangbu/log", content);
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.expect("a value").to_vec()).expect("text");
        headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect()
    }

    #[test]
    fn an_event_is_a_cloud_event_in_binary_mode() {
        let metadata = r#"{"correlationId":"c","causationId":"b","actor":"a","idempotencyKey":"i","traceparent":"00-1-2-01"}"#;
        let shown = shown(&event(metadata), Content::Whole);
        let expected = [
            ("ce_specversion", "1.0"),
            ("ce_id", "00000000-0000-0000-0000-000000000009"),
            ("ce_source", "/jangbu/log"),
            ("ce_type", "order.placed"),
            ("jangbu-dedupe-key", "00000000-0000-0000-0000-000000000009"),
            ("ce_time", "2025-06-15T15:06:40.123456Z"),
            ("content-type", "application/json"),
            ("ce_subject", "order-00000000-0000-0000-0000-000000000001"),
            ("ce_sequence", "2"),
            ("ce_jangbuversion", "1.0.0"),
            ("ce_jangbushard", "3"),
            ("ce_jangbuposition", "70"),
            ("ce_correlationid", "c"),
            ("ce_causationid", "b"),
            ("ce_traceparent", "00-1-2-01"),
            ("traceparent", "00-1-2-01"),
        ];
        assert_eq!(shown, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn an_event_that_is_too_large_says_where_it_is() {
        let event = event("{}");
        let shown = shown(&event, Content::Reference);
        assert!(
            shown.contains(&("ce_dataref".into(), "/jangbu/log/shards/3/events/70".into())),
            "{shown:?}"
        );
        assert!(
            shown.iter().all(|(name, _)| name != "content-type"),
            "there is nothing that would have a type"
        );
        assert_eq!(
            (Content::Reference.value(&event), Content::Whole.value(&event)),
            (&b""[..], &b"{}"[..])
        );
    }

    #[test]
    fn metadata_of_another_program_and_times_that_are_none_do_no_harm() {
        for metadata in ["{}", "[]", "not json", r#"{"correlationId":7}"#] {
            let mut event = event(metadata);
            event.recorded_at = i64::MAX;
            let shown = shown(&event, Content::Whole);
            assert!(
                shown.iter().all(|(name, _)| name != "ce_time" && name != "ce_correlationid"),
                "{shown:?}"
            );
        }
    }
}
