//! What every request passes on its way in and out: its trace, the writing of problems, panics, and the figures.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, header::ACCEPT_LANGUAGE};
use metrics::{Counter, Histogram};
use rustc_hash::FxHashMap;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::{
    language::Language,
    problem::{self, Problem},
};

/// What a request belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    /// The same for everything that follows from one request: the trace id of its `traceparent`, else a new one.
    pub(crate) correlation: Uuid,
    /// W3C Trace Context, when the sender gave a valid one.
    pub(crate) parent: Option<String>,
}

impl Trace {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let parent = headers.get("traceparent").and_then(|value| value.to_str().ok());
        match parent.and_then(|parent| Some((trace_id(parent)?, parent.to_owned()))) {
            Some((correlation, parent)) => Self {
                correlation,
                parent: Some(parent),
            },
            None => Self {
                correlation: Uuid::now_v7(),
                parent: None,
            },
        }
    }
}

/// The trace id of a `traceparent` (`00-<trace id>-<parent id>-<flags>`, in lower-case hexadecimal).
fn trace_id(parent: &str) -> Option<Uuid> {
    let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = parent.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let fits = parts.next().is_none() && version == "00" && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
    let fits = fits && hex(trace) && hex(span) && hex(flags) && span.bytes().any(|byte| byte != b'0');
    let id = fits.then(|| u128::from_str_radix(trace, 16).ok()).flatten()?;
    (id != 0).then(|| Uuid::from_u128(id))
}

/// Passes a request on, and makes whatever comes back an answer of ours.
pub(crate) async fn pass(State(meters): State<Arc<Meters>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let trace = Trace::of(request.headers());
    let languages = request.headers().get(ACCEPT_LANGUAGE).cloned();
    let meter = meters.of(request.method(), request.extensions().get::<MatchedPath>().map(MatchedPath::as_str));
    let span = tracing::debug_span!(
        "request",
        otel.name = format!("{} {}", meter.method, meter.route),
        otel.kind = "server",
        http.request.method = meter.method,
        http.route = meter.route,
        http.response.status_code = tracing::field::Empty,
        otel.status_code = tracing::field::Empty,
        trace = %trace.correlation.simple(),
    );
    if let Some(parent) = &trace.parent {
        trace_context::continue_from(&span, parent);
    }
    let correlation = trace.correlation;
    request.extensions_mut().insert(trace);

    let response = catch(next.run(request)).instrument(span.clone()).await;
    let response = response.unwrap_or_else(|| {
        tracing::error!(route = meter.route, trace = %correlation.simple(), "a request panicked");
        Problem::of(&problem::INTERNAL).into_response()
    });
    let response = write_problem(response, correlation, || {
        let mut headers = HeaderMap::new();
        headers.extend(languages.map(|languages| (ACCEPT_LANGUAGE, languages)));
        crate::language::preferred(&headers)
    });
    meter.count(&response, started);
    span.record("http.response.status_code", response.status().as_u16());
    if response.status().is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    let _entered = span.enter();
    tracing::debug!(
        status = response.status().as_u16(),
        micros = started.elapsed().as_micros(),
        "answered"
    );
    response
}

/// Writes the problem that a handler left, keeping the headers that were added on the way.
fn write_problem(mut response: Response, trace: Uuid, language: impl FnOnce() -> Language) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else {
        return response;
    };
    let mut written = problem.render(language(), trace);
    for (name, value) in response.headers() {
        if !written.headers().contains_key(name) && name != http::header::CONTENT_LENGTH {
            written.headers_mut().insert(name.clone(), value.clone());
        }
    }
    written
}

/// The future's value, or none when it panics.
async fn catch<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(value)) => Poll::Ready(Some(value)),
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// Requests and their duration, per call.
pub(crate) struct Meters {
    calls: FxHashMap<&'static str, Vec<(Method, Meter)>>,
    other: Meter,
}

struct Meter {
    method: &'static str,
    route: &'static str,
    /// By the first digit of the status, from 1 to 5.
    answers: [Counter; 5],
    seconds: Histogram,
}

impl Meters {
    /// The handles of these calls. They count into the recorder that is installed now.
    pub(crate) fn new(calls: impl IntoIterator<Item = (Method, String)>) -> Self {
        let mut known: FxHashMap<&'static str, Vec<(Method, Meter)>> = FxHashMap::default();
        for (method, route) in calls {
            // A router is made once or a few times in a process, and its routes live as long as it.
            let route: &'static str = known
                .get_key_value(route.as_str())
                .map_or_else(|| route.clone().leak() as &str, |(route, _)| route);
            let meter = Meter::new(named(&method), route);
            known.entry(route).or_default().push((method, meter));
        }
        Self {
            calls: known,
            other: Meter::new("other", "other"),
        }
    }

    fn of(&self, method: &Method, route: Option<&str>) -> &Meter {
        let meters = route.and_then(|route| self.calls.get(route));
        let meter = meters.and_then(|meters| meters.iter().find(|(known, _)| known == method));
        meter.map_or(&self.other, |(_, meter)| meter)
    }
}

impl Meter {
    fn new(method: &'static str, route: &'static str) -> Self {
        let answers = ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|status| {
            metrics::counter!("jangbu_http_requests_total", "api" => "command", "method" => method, "route" => route, "status" => status)
        });
        let seconds = metrics::histogram!("jangbu_http_request_duration_seconds", "api" => "command", "method" => method, "route" => route);
        Self {
            method,
            route,
            answers,
            seconds,
        }
    }

    fn count(&self, response: &Response, started: Instant) {
        let class = usize::from(response.status().as_u16() / 100).clamp(1, 5);
        self.answers[class - 1].increment(1);
        self.seconds.record(started.elapsed());
    }
}

/// Of the methods that calls have: what a client invents stays out of the figures.
fn named(method: &Method) -> &'static str {
    let known = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let names = ["GET", "POST", "PUT", "PATCH", "DELETE"];
    let found = known.iter().zip(names).find(|(known, _)| *known == method);
    found.map_or("other", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_on_when_it_is_valid_and_begins_anew_when_it_is_not() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(
            trace_id(parent).map(|id| id.simple().to_string()).as_deref(),
            Some("4bf92f3577b34da6a3ce929d0e0e4736")
        );
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(trace_id(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_panic_is_caught_where_it_happens() {
        assert_eq!(catch(async { 7 }).await, Some(7));
        let panics = async {
            tokio::task::yield_now().await;
            panic!("on purpose");
        };
        assert_eq!(catch::<()>(panics).await, None);
    }
}
