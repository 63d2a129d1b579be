//! W3C Trace Context on tracing's spans: a trace goes on where its sender left it, and is handed on to whoever is asked next.
//!
//! The crates that open spans know tracing and this; only the binary knows where spans go. When they go nowhere, all of this does nothing.

use std::{borrow::Cow, time::SystemTime};

use opentelemetry::{
    KeyValue,
    trace::{Span as _, SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, Tracer as _},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The header that carries it, and its name in an event's metadata.
pub const TRACEPARENT: &str = "traceparent";

/// Makes the span a part of the sender's trace. It must not have been entered yet; what is no `traceparent` is passed over.
pub fn continue_from(span: &Span, traceparent: &str) {
    if span.is_disabled() {
        return;
    }
    if let Some(parent) = parse(traceparent) {
        let parent = opentelemetry::Context::new().with_remote_span_context(parent);
        // Refused where nothing collects spans: then there is nothing to continue.
        let _ = span.set_parent(parent);
    }
}

/// The `traceparent` under which others continue this span; none when it is not collected.
pub fn of(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    (context.is_valid() && context.is_sampled()).then(|| written(&context))
}

/// The same of the span that is entered now.
pub fn current() -> Option<String> {
    of(&Span::current())
}

/// The trace and the span that are entered now, in hexadecimal; none when there are none.
pub fn ids() -> Option<(String, String)> {
    let context = opentelemetry::Context::current();
    let context = context.span().span_context().clone();
    context
        .is_valid()
        .then(|| (context.trace_id().to_string(), context.span_id().to_string()))
}

/// Something that has happened within a span already, when its beginning and its end are known.
pub fn record(parent: &Span, name: &'static str, begun: SystemTime, ended: SystemTime, figures: &[(&'static str, i64)]) {
    if parent.is_disabled() {
        return;
    }
    let context = parent.context();
    if !context.span().span_context().is_sampled() {
        return;
    }
    let tracer = opentelemetry::global::tracer(env!("CARGO_PKG_NAME"));
    let attributes: Vec<_> = figures.iter().map(|(name, value)| KeyValue::new(*name, *value)).collect();
    let builder = tracer
        .span_builder(Cow::Borrowed(name))
        .with_start_time(begun)
        .with_attributes(attributes);
    let mut span = builder.start_with_context(&tracer, &context);
    span.end_with_timestamp(ended.max(begun));
}

fn written(context: &SpanContext) -> String {
    format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags().to_u8()
    )
}

/// `00-<trace id>-<parent id>-<flags>`, in lower-case hexadecimal.
fn parse(traceparent: &str) -> Option<SpanContext> {
    let hexadecimal = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let fits = parts.next().is_none() && version == "00" && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
    if !(fits && hexadecimal(trace) && hexadecimal(span) && hexadecimal(flags)) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_again() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = parse(parent).expect("it is a traceparent");
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(written(&context), parent);
    }

    #[test]
    fn what_is_none_is_passed_over() {
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-ü",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn where_nothing_collects_spans_there_is_nothing_to_hand_on() {
        let span = tracing::error_span!("lonely");
        continue_from(&span, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        record(&span, "nothing", SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH, &[("events", 1)]);
        assert_eq!((of(&span), current(), ids()), (None, None, None));
    }
}
