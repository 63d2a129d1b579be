//! Log lines for programs: one JSON object each, which names the trace that it belongs to.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormattedFields,
        format::{JsonFields, Writer},
    },
    registry::LookupSpan,
};

/// One object a line: `timestamp`, `level`, `message` and the event's other fields, `target`, `trace_id` and `span_id` when the line belongs
/// to a trace, and `spans` from the outermost to the innermost.
pub(super) struct JsonLines;

#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'a str,
    #[serde(flatten)]
    fields: Fields,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    spans: Vec<Within>,
}

/// A span that the line stands in.
#[derive(Serialize)]
struct Within {
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<Box<RawValue>>,
}

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(&self, context: &FmtContext<'_, S, JsonFields>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let (trace_id, span_id) = trace_context::ids().unzip();
        let spans = context
            .event_scope()
            .into_iter()
            .flat_map(tracing_subscriber::registry::Scope::from_root);
        let line = Line {
            timestamp: Timestamp::now().to_string(),
            level: name(*event.metadata().level()),
            fields,
            target: event.metadata().target(),
            trace_id,
            span_id,
            spans: spans.map(|span| within(span.name(), span.extensions().get())).collect(),
        };
        let line = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

fn within(name: &'static str, fields: Option<&FormattedFields<JsonFields>>) -> Within {
    let fields = fields.and_then(|fields| RawValue::from_string(fields.fields.clone()).ok());
    Within { name, fields }
}

fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    }
}

/// The fields of an event, by name; those that the line has itself give way.
#[derive(Default, Serialize)]
struct Fields(BTreeMap<&'static str, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let name = match field.name() {
            name @ ("timestamp" | "level" | "target" | "trace_id" | "span_id" | "spans") => {
                self.0.insert("field", Value::from(name));
                return;
            }
            // What the `log` crate says of itself.
            name if name.starts_with("log.") => return,
            name => name,
        };
        self.0.insert(name, value);
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt as _};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("nobody panics with it").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn every_line_is_one_object_with_its_fields_and_spans() {
        let kept = Kept::default();
        let lines = tracing_subscriber::fmt::layer()
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines)
            .with_writer(kept.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            let outer = tracing::info_span!("outer", order = 7);
            let _outer = outer.enter();
            let _inner = tracing::info_span!("inner").entered();
            tracing::warn!(count = 3_u64, name = "a \"quoted\"\nname", target = "not this", "it {}", "happened");
        });
        let written = kept.0.lock().expect("nobody panics with it").clone();
        let line: Value = serde_json::from_slice(&written).expect("it is JSON");
        assert_eq!((&line["level"], &line["message"]), (&"WARN".into(), &"it happened".into()));
        assert_eq!((&line["count"], &line["name"]), (&3.into(), &"a \"quoted\"\nname".into()));
        assert!(line["target"].as_str().is_some_and(|target| target.ends_with("lines::tests")));
        assert!(line["timestamp"].as_str().is_some_and(|at| at.parse::<Timestamp>().is_ok()));
        assert_eq!(
            line["spans"],
            serde_json::json!([{ "name": "outer", "fields": { "order": 7 } }, { "name": "inner", "fields": {} }])
        );
        assert!(line.get("trace_id").is_none());
        assert_eq!(String::from_utf8_lossy(&written).lines().count(), 1);
    }
}
