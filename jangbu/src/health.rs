//! What the shop says of its own health: /livez, /readyz and /metrics.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use engine::Engine;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::PrometheusHandle;
use parking_lot::RwLock;
use projections::Progress;
use serde_json::json;
use tokio::{net::TcpStream, sync::watch};

use crate::{
    failure::Failure,
    http_server::{Phase, Traffic},
    serve,
    settings::Settings,
    telemetry,
};

/// With views further behind than this many events the shop is not ready: what it shows is of another time.
const MOST_BEHIND: u64 = 50_000;

/// Says what is wrong, if something is.
type Check = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// Looks something up when somebody asks for the figures.
type Look = Box<dyn Fn() + Send + Sync>;

/// What the answers are made of. A clone is the same.
#[derive(Clone)]
pub(crate) struct Health(Arc<Parts>);

struct Parts {
    traffic: Arc<Traffic>,
    figures: PrometheusHandle,
    /// What it waits for before it can begin.
    waits_for: RwLock<String>,
    deaths: RwLock<Vec<Check>>,
    hindrances: RwLock<Vec<Check>>,
    looks: RwLock<Vec<Look>>,
}

impl Health {
    /// Of a process that begins.
    pub(crate) fn new(traffic: Arc<Traffic>, figures: PrometheusHandle) -> Self {
        Self(Arc::new(Parts {
            traffic,
            figures,
            waits_for: RwLock::new("the shop is starting".to_owned()),
            deaths: RwLock::default(),
            hindrances: RwLock::default(),
            looks: RwLock::default(),
        }))
    }

    /// What is waited for before it can begin.
    pub(crate) fn waits_for(&self, what: &str) {
        what.clone_into(&mut self.0.waits_for.write());
    }

    /// When this says something, the process should be replaced.
    pub(crate) fn dies_when(&self, check: impl Fn() -> Option<String> + Send + Sync + 'static) {
        self.0.deaths.write().push(Box::new(check));
    }

    /// When this says something, the process should not be sent requests now.
    pub(crate) fn hindered_when(&self, check: impl Fn() -> Option<String> + Send + Sync + 'static) {
        self.0.hindrances.write().push(Box::new(check));
    }

    /// This is looked up when somebody asks for the figures.
    pub(crate) fn looks_up(&self, look: impl Fn() + Send + Sync + 'static) {
        self.0.looks.write().push(Box::new(look));
    }

    /// The engine: that it runs, and what it has to do.
    pub(crate) fn watches_engine(&self, engine: &Engine) {
        let ended = engine.ended();
        self.dies_when(move || ended.borrow().clone().map(|reason| format!("the engine has ended: {reason}")));
        let engine = engine.clone();
        self.looks_up(move || {
            let load = engine.load();
            telemetry::gauge("jangbu_engine_queue_depth", load.waiting);
            telemetry::gauge("jangbu_engine_watchers", load.watching);
            for (shard, unanswered) in load.unanswered.into_iter().enumerate() {
                let unanswered = u32::try_from(unanswered).unwrap_or(u32::MAX);
                metrics::gauge!("jangbu_engine_unanswered", "shard" => shard.to_string()).set(f64::from(unanswered));
            }
        });
    }

    /// The views: how far behind they are. They may not have heard yet of where the log of each shard stood when the shop started.
    pub(crate) fn watches_views(&self, progress: watch::Receiver<Progress>, heads_at_start: Vec<u64>) {
        self.hindered_when(move || {
            let behind = behind(&progress.borrow(), &heads_at_start);
            (behind > MOST_BEHIND).then(|| format!("the views are {behind} events behind"))
        });
    }

    /// Why the process should be replaced.
    fn dead(&self) -> Option<String> {
        self.0.deaths.read().iter().find_map(|check| check())
    }

    /// Why the shop should not be sent requests now.
    fn unready(&self) -> Option<String> {
        if let Some(reason) = self.dead() {
            return Some(reason);
        }
        match self.0.traffic.phase() {
            Phase::Starting => Some(self.0.waits_for.read().clone()),
            Phase::Draining | Phase::Stopping => Some("the shop is stopping".to_owned()),
            Phase::Serving => self.0.hindrances.read().iter().find_map(|check| check()),
        }
    }

    /// What is looked up when somebody asks.
    fn look(&self) {
        telemetry::gauge("jangbu_ready", usize::from(self.unready().is_none()));
        telemetry::gauge("jangbu_http_connections", self.0.traffic.connections());
        telemetry::gauge("jangbu_http_requests_in_flight", self.0.traffic.in_flight());
        for look in self.0.looks.read().iter() {
            look();
        }
    }
}

fn behind(progress: &Progress, heads_at_start: &[u64]) -> u64 {
    let behind = (0..).zip(heads_at_start).map(|(shard, at_start)| {
        let heard_of = progress
            .shards
            .iter()
            .find(|known| known.shard == shard)
            .map_or(0, |known| known.head);
        heard_of.max(*at_start).saturating_sub(progress.position(shard))
    });
    behind.sum()
}

/// /livez and /readyz.
pub(crate) fn router(health: Health) -> Router {
    Router::new()
        .route("/livez", get(async |State(health): State<Health>| told("live", health.dead())))
        .route("/readyz", get(async |State(health): State<Health>| told("ready", health.unready())))
        .with_state(health)
}

/// /metrics.
pub(crate) fn figures_router(health: Health) -> Router {
    Router::new().route("/metrics", get(figures)).with_state(health)
}

fn told(good: &str, reason: Option<String>) -> Response {
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    match reason {
        None => (no_store, Json(json!({"status": good}))).into_response(),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            no_store,
            Json(json!({"status": format!("not {good}"), "reason": reason})),
        )
            .into_response(),
    }
}

async fn figures(State(health): State<Health>) -> impl IntoResponse {
    health.look();
    let mut text = health.0.figures.render();
    text.push_str(&telemetry::process_figures());
    (
        [
            (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"),
            (header::CACHE_CONTROL, "no-store"),
        ],
        text,
    )
}

/// `jangbu healthcheck`: asks the shop whether it is ready.
pub(crate) fn check(settings: &Settings, listen_given: bool) -> Result<(), Failure> {
    // A shop on a port that the system chose wrote it down.
    let written = std::fs::read_to_string(settings.data.join(serve::ADDRESS)).ok();
    let address = written
        .filter(|_| !listen_given)
        .map_or_else(|| settings.listen.clone(), |written| written.trim().to_owned());
    serve::on_runtime(async {
        let asked = tokio::time::timeout(PATIENCE, ask(&address)).await;
        let answered = asked.map_err(|_| Failure::failed(format_args!("the shop on {address} does not answer")))?;
        match answered.map_err(|error| Failure::failed(format_args!("the shop on {address} cannot be reached: {error:#}")))? {
            (StatusCode::OK, _) => Ok(()),
            (status, body) => Err(Failure::failed(format_args!("the shop on {address} is not ready: {status} {body}"))),
        }
    })
}

/// How long a health check waits.
const PATIENCE: Duration = Duration::from_secs(5);

async fn ask(address: &str) -> anyhow::Result<(StatusCode, String)> {
    let resolved = tokio::net::lookup_host(address)
        .await?
        .next()
        .ok_or_else(|| anyhow::anyhow!("the name has no address"))?;
    let stream = TcpStream::connect(serve::loopback(resolved)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::get("/readyz")
        .header(header::HOST, address)
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), 4_096)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))?
        .to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
