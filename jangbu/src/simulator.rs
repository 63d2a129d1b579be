//! `jangbu simulator`: the payment provider's simulator as a process of its own.

use std::sync::Arc;

use axum::{Json, Router, routing::get};
use payment_gateway_simulator::{Simulator, SimulatorSettings};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    failure::Failure,
    http_server::{Phase, Server, Traffic},
    serve::{self, Signals},
    settings::Settings,
    telemetry,
};

/// The ledger's file in the data directory.
pub(crate) const LEDGER: &str = "simulator.db";

/// Where the process says where it is served.
const ADDRESS: &str = "simulator.address";

/// Opens the simulator of a data directory.
pub(crate) fn open(settings: &Settings) -> Result<Simulator, Failure> {
    let simulated = SimulatorSettings {
        currency: settings.currency.to_string(),
        ..SimulatorSettings::default()
    };
    Ok(Simulator::open_with(&settings.data.join(LEDGER), simulated)?)
}

/// Serves it until a signal ends it.
pub(crate) fn run(settings: &Settings) -> Result<(), Failure> {
    telemetry::start_logging(settings)?;
    serve::on_runtime(simulate(settings))
}

async fn simulate(settings: &Settings) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let listener: TcpListener = serve::bind(&settings.listen).await?;
    let address = listener.local_addr().map_err(Failure::failed)?;
    std::fs::create_dir_all(&settings.data)
        .map_err(|error| Failure::failed(format_args!("{} cannot be made: {error}", settings.data.display())))?;
    let simulator = open(settings)?;
    let file = settings.data.join(ADDRESS);
    serve::publish(&file, &address.to_string())?;
    let traffic = Arc::new(Traffic::default());
    traffic.enter(Phase::Serving);
    let live = Router::new()
        .route("/livez", get(async || Json(json!({"status": "live"}))))
        .route("/readyz", get(async || Json(json!({"status": "ready"}))));
    let server = Server::start(listener, live.merge(simulator.router()), Arc::clone(&traffic));
    tracing::info!(%address, "the simulated payment provider is served");
    signals.next().await;
    tracing::info!("stopping");
    // Payments that are never answered are in flight for as long as their callers wait: they are not waited for.
    server.stop().await;
    // The process ends either way, and the next one writes it anew.
    let _ = std::fs::remove_file(file);
    Ok(())
}
