//! What the shop says of its own health: /livez, /readyz and /metrics.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use engine::Engine;
use metrics_exporter_prometheus::PrometheusHandle;
use projections::Progress;
use serde_json::json;
use tokio::sync::watch;

use crate::{
    http_server::{Phase, Traffic},
    telemetry,
};

/// With views further behind than this many events the shop is not ready: what it shows is of another time.
const MOST_BEHIND: u64 = 50_000;

/// What the answers are made of.
#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) engine: Engine,
    pub(crate) progress: watch::Receiver<Progress>,
    /// Where the log stood when the shop started: the views may not have heard of it yet.
    pub(crate) head_at_start: u64,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) figures: PrometheusHandle,
}

impl Health {
    /// Why the process should be replaced.
    fn dead(&self) -> Option<String> {
        self.engine.ended().borrow().clone().map(|reason| format!("the engine has ended: {reason}"))
    }

    /// Why the shop should not be sent requests now.
    fn unready(&self) -> Option<String> {
        if let Some(reason) = self.dead() {
            return Some(reason);
        }
        match self.traffic.phase() {
            Phase::Starting => return Some("the shop is starting".to_owned()),
            Phase::Stopping => return Some("the shop is stopping".to_owned()),
            Phase::Serving => {}
        }
        let behind = self.behind();
        (behind > MOST_BEHIND).then(|| format!("the views are {behind} events behind"))
    }

    fn behind(&self) -> u64 {
        let progress = self.progress.borrow();
        let head = progress.shards.iter().map(|shard| shard.head).max().unwrap_or(0).max(self.head_at_start);
        head.saturating_sub(progress.position(SHARD))
    }
}

/// There is one so far.
const SHARD: u16 = 0;

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
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, no_store, Json(json!({"status": format!("not {good}"), "reason": reason}))).into_response(),
    }
}

async fn figures(State(health): State<Health>) -> impl IntoResponse {
    let mut text = health.figures.render();
    for (name, help, value) in [
        ("jangbu_http_connections", "Open connections.", health.traffic.connections()),
        ("jangbu_http_requests_in_flight", "Requests without an answer.", health.traffic.in_flight()),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    text.push_str(&telemetry::process_figures());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"), (header::CACHE_CONTROL, "no-store")], text)
}
