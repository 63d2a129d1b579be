//! Traces by OTLP: spans go into a bounded queue and leave in batches. Whoever opens one never waits for the collector, and a collector that
//! is away costs spans and nothing else.

use std::time::Duration;

use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _, tonic_types::transport::ClientTlsConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor},
};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{Layer, filter::FilterFn, registry::LookupSpan};

use crate::failure::Failure;

/// So many spans may wait for the collector; more are dropped and counted.
const MOST_WAITING: usize = 8_192;
/// So many leave together.
const MOST_AT_ONCE: usize = 512;
/// How long a batch may fill before it leaves.
const GATHER: Duration = Duration::from_millis(500);
/// How long the collector may take for a batch.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the last spans may take to leave when the process ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// Whose spans are collected: ours, and not those of the libraries that carry them.
const OURS: [&str; 7] = [
    "command_api",
    "engine",
    "event_store",
    "jangbu",
    "payment_gateway",
    "projections",
    "query_api",
];

const EXPORTED: &str = "exported";
const DROPPED: &str = "dropped";
const FAILED: &str = "failed";

/// The spans that there are, from the start.
pub(super) fn begin_to_count() {
    for outcome in [EXPORTED, DROPPED, FAILED] {
        count(outcome, 0);
    }
}

fn count(outcome: &'static str, spans: usize) {
    metrics::counter!("jangbu_trace_spans_total", "outcome" => outcome).increment(spans as u64);
}

/// The traces of this process, on their way to a collector; dropped, they end.
#[must_use]
pub(crate) struct Traces(Option<Exporting>);

struct Exporting {
    provider: SdkTracerProvider,
    /// Its own, so that the last spans leave after the shop's threads have ended.
    runtime: Runtime,
    task: JoinHandle<()>,
    end: watch::Sender<bool>,
}

impl Traces {
    /// Nobody collects them.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// They go to this collector: those whose sender's are collected, and this share of the others.
    pub(super) fn start(endpoint: &str, share: f64) -> Result<Self, Failure> {
        let failed = |reason: &dyn std::fmt::Display| Failure::failed(format_args!("traces cannot be sent to {endpoint}: {reason}"));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("traces")
            .enable_all()
            .build()
            .map_err(|error| failed(&error))?;
        let exporter = {
            let _entered = runtime.enter();
            let mut builder = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(PATIENCE);
            if endpoint.starts_with("https://") {
                builder = builder.with_tls_config(ClientTlsConfig::new().with_native_roots());
            }
            builder.build().map_err(|error| failed(&error))?
        };
        let resource = Resource::builder_empty()
            .with_service_name("jangbu")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("process.pid", i64::from(std::process::id())))
            .build();
        let (queue, waiting) = mpsc::channel(MOST_WAITING);
        let (end, ended) = watch::channel(false);
        let sent = Sent {
            exporter: with_resource(exporter, &resource),
            endpoint: endpoint.to_owned(),
            away: false,
        };
        let task = runtime.spawn(export(sent, waiting, ended));
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share))))
            .with_resource(resource)
            .with_span_processor(Queue(queue))
            .build();
        // For spans that are recorded when they have ended.
        opentelemetry::global::set_tracer_provider(provider.clone());
        Ok(Self(Some(Exporting {
            provider,
            runtime,
            task,
            end,
        })))
    }

    /// What turns spans into traces.
    pub(super) fn layer<S>(&self) -> Option<impl Layer<S> + Send + Sync + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let exporting = self.0.as_ref()?;
        let layer = tracing_opentelemetry::layer()
            .with_tracer(exporting.provider.tracer("jangbu"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        Some(layer.with_filter(FilterFn::new(is_collected).with_max_level_hint(Level::DEBUG)))
    }
}

fn is_collected(metadata: &Metadata<'_>) -> bool {
    let ours = |target: &str| OURS.iter().any(|ours| target.starts_with(ours));
    metadata.is_span() && *metadata.level() <= Level::DEBUG && ours(metadata.target())
}

fn with_resource(mut exporter: SpanExporter, resource: &Resource) -> SpanExporter {
    exporter.set_resource(resource);
    exporter
}

impl Drop for Traces {
    /// Lets the last spans leave.
    fn drop(&mut self) {
        let Some(Exporting { runtime, task, end, .. }) = self.0.take() else {
            return;
        };
        end.send_replace(true);
        if runtime.block_on(async { tokio::time::timeout(FAREWELL, task).await }).is_err() {
            tracing::warn!("the last spans did not leave in time");
        }
        runtime.shutdown_background();
    }
}

/// Takes spans that have ended; never waits.
#[derive(Debug)]
struct Queue(mpsc::Sender<SpanData>);

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if self.0.try_send(span).is_err() {
            count(DROPPED, 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    /// The queue ends with whoever empties it.
    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The way to the collector.
struct Sent {
    exporter: SpanExporter,
    endpoint: String,
    /// Whether the last batch did not arrive: that is told once.
    away: bool,
}

impl Sent {
    async fn batch(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len();
        let sent = tokio::time::timeout(PATIENCE, self.exporter.export(batch)).await;
        let failure = match sent {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {PATIENCE:?}")),
        };
        count(if failure.is_none() { EXPORTED } else { FAILED }, spans);
        match (&failure, self.away) {
            (Some(reason), false) => {
                tracing::warn!(
                    endpoint = self.endpoint,
                    reason,
                    "the collector of traces takes none; they are lost until it does"
                );
            }
            (None, true) => tracing::info!(endpoint = self.endpoint, "the collector of traces takes them again"),
            _ => {}
        }
        self.away = failure.is_some();
    }
}

/// Sends what waits until the process ends, and then what is left.
async fn export(mut sent: Sent, mut waiting: mpsc::Receiver<SpanData>, mut ended: watch::Receiver<bool>) {
    let mut batch = Vec::with_capacity(MOST_AT_ONCE);
    let mut closing = false;
    loop {
        tokio::select! {
            received = waiting.recv_many(&mut batch, MOST_AT_ONCE) => if received == 0 {
                return;
            },
            // An error says that nobody is there to end it any more.
            _ = ended.wait_for(|ended| *ended), if !closing => {
                closing = true;
                waiting.close();
                continue;
            }
        }
        if !closing && batch.len() < MOST_AT_ONCE {
            // More may join it.
            let _ = tokio::time::timeout(GATHER, ended.wait_for(|ended| *ended)).await;
            while batch.len() < MOST_AT_ONCE
                && let Ok(span) = waiting.try_recv()
            {
                batch.push(span);
            }
        }
        sent.batch(std::mem::replace(&mut batch, Vec::with_capacity(MOST_AT_ONCE))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_that_is_away_keeps_nobody() {
        // A port that nothing listens on: it was free a moment ago.
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let traces = Traces::start(&format!("http://{}", free.expect("a port")), 1.0).expect("they begin all the same");
        let begun = std::time::Instant::now();
        let exporting = traces.0.as_ref().expect("they are sent");
        let tracer = exporting.provider.tracer("test");
        for _ in 0..MOST_WAITING * 2 {
            opentelemetry::trace::Tracer::start(&tracer, "a span");
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        drop(traces);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}
