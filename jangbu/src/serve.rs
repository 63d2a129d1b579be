//! `jangbu serve`: opens what there is to open, connects it, serves it, and ends it in order.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use aggregates::{AccountId, Recorded, Role};
use axum::Router;
use command_api::{Api, Durable, TokenSettings};
use engine::{CoreSettings, Engine, EngineSettings, Running};
use event_store::{DirectoryLock, EventStore};
use payment_gateway_simulator::Simulator;
use payment_gateway_toss::{TossGateway, TossSettings};
use projections::{Runner, RunnerHandle, RunnerSettings};
use query_api::{AuthError, Limits, Principal, QueryApi, Timeouts};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use uuid::Uuid;

use crate::{
    demo,
    failure::Failure,
    health::{self, Health},
    http_server::{Phase, Server, Traffic},
    places::{Places, heads},
    root_page,
    settings::{Gateway, Settings},
    simulator,
    telemetry::{self, Looking},
};

/// The file in the data directory that says where the shop is served.
pub(crate) const ADDRESS: &str = "address";

/// Where Toss Payments is.
const TOSS: &str = "https://api.tosspayments.com";

/// The simulator takes any secret key.
const SIMULATOR_KEY: &str = "test_sk_jangbu";

/// How long requests may take to finish when the shop stops, then the engine, then the views.
const FINISH_REQUESTS: Duration = Duration::from_secs(10);
const FINISH_ENGINE: Duration = Duration::from_secs(10);
const FINISH_VIEWS: Duration = Duration::from_secs(3);

/// Serves the shop until a signal ends it, or it has to end.
pub(crate) fn run(settings: &Settings) -> Result<(), Failure> {
    settings.check_supported()?;
    // Ends last, so that the traces of what the end brings leave too.
    let _traces = telemetry::start(settings)?;
    for setting in settings.without_effect() {
        tracing::warn!(setting, "this setting has no effect in this version");
    }
    on_runtime(serve(settings))
}

/// Runs this on threads of its own, and leaves none behind.
pub(crate) fn on_runtime<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let threads = std::thread::available_parallelism().map_or(2, |threads| threads.get().max(2));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format_args!("no threads can be started: {error}")))?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// Listens, with a clear word when that cannot be.
pub(crate) async fn bind(listen: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(listen).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Failure::failed(format_args!(
            "{listen} is in use by another process; stop that one, or choose another address with --listen"
        )),
        _ => Failure::failed(format_args!(
            "{listen} cannot be listened on: {error}; choose another address with --listen"
        )),
    })
}

/// SIGTERM and SIGINT.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they do not end the process by themselves.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::failed(format_args!("signals cannot be listened to: {error}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Writes a small file as a whole.
pub(crate) fn publish(path: &Path, text: &str) -> Result<(), Failure> {
    let new = path.with_extension("new");
    let written = std::fs::write(&new, format!("{text}\n")).and_then(|()| std::fs::rename(&new, path));
    written.map_err(|error| Failure::failed(format_args!("{} cannot be written: {error}", path.display())))
}

/// Whom the engine asks for money, and the simulator if it is in this process.
fn gateway(settings: &Settings, own: SocketAddr) -> Result<(TossGateway, Option<Simulator>), Failure> {
    let simulator = match (settings.gateway, &settings.toss_url) {
        (Gateway::Simulator, None) => Some(simulator::open(settings)?),
        _ => None,
    };
    let url = match (&settings.toss_url, &simulator) {
        (Some(url), _) => url.clone(),
        (None, Some(_)) => format!("http://{}/simulator", loopback(own)),
        (None, None) => TOSS.to_owned(),
    };
    let secret_key = settings
        .toss_secret_key
        .clone()
        .unwrap_or_else(|| SecretString::from(SIMULATOR_KEY));
    let gateway = TossGateway::new(TossSettings {
        url,
        secret_key,
        timeout: settings.payment_timeout,
    })
    .map_err(Failure::wrong)?;
    Ok((gateway, simulator))
}

/// Where this machine reaches what it listens on itself.
pub(crate) fn loopback(own: SocketAddr) -> SocketAddr {
    let ip = match own.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, own.port())
}

/// The parts of a shop that runs.
struct Shop {
    looking: Looking,
    running: Running,
    runner: RunnerHandle,
    store: Arc<dyn EventStore>,
    traffic: Arc<Traffic>,
    servers: Vec<Server>,
    api: Api,
    directory: Option<DirectoryLock>,
}

async fn serve(settings: &Settings) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let listener = bind(&settings.listen).await?;
    let address = listener.local_addr().map_err(Failure::failed)?;
    let shop = tokio::select! {
        shop = Shop::start(settings, listener, address) => shop?,
        // It stood by, and nobody needs it any more.
        () = signals.next() => return Ok(()),
    };
    let engine = shop.running.engine();
    load(settings, &shop.api, &engine).await?;
    shop.traffic.enter(Phase::Serving);
    publish(&settings.data.join(ADDRESS), &address.to_string())?;
    tracing::info!(%address, data = %settings.data.display(), demo = settings.demo, version = env!("CARGO_PKG_VERSION"), "the shop is open on http://{address}");

    let mut ended = engine.ended();
    tokio::select! {
        () = signals.next() => {}
        reason = ended.wait_for(Option::is_some) => {
            let reason = reason.ok().and_then(|reason| reason.clone()).unwrap_or_else(|| "its thread has ended".to_owned());
            return Err(at_once(&Failure::failed(format_args!("the engine has ended: {reason}"))));
        }
    }
    tracing::info!("the shop is closing");
    tokio::select! {
        stopped = shop.stop() => stopped?,
        () = signals.next() => return Err(at_once(&Failure::failed("a second signal ended the shop before it had finished"))),
    }
    // The next start writes it anew.
    let _ = std::fs::remove_file(settings.data.join(ADDRESS));
    tracing::info!("the shop is closed");
    Ok(())
}

/// Ends the process without waiting for anything: what is durable is durable, and nothing else may be.
fn at_once(failure: &Failure) -> Failure {
    // Whatever still runs stands on an engine that is gone.
    let _ = failure.report();
    std::process::exit(1)
}

/// What has to be there before the first request: the admin of the settings, and the demo.
async fn load(settings: &Settings, api: &Api, engine: &Engine) -> Result<(), Failure> {
    if let Some(admin) = &settings.admin {
        let email = admin.email.expose();
        let id = AccountId::new(Uuid::now_v7());
        let made = command_api::ensure_account(api, id, email, admin.password.expose_secret(), "Admin", Role::Admin).await;
        made.map_err(|error| Failure::failed(format_args!("the account of JANGBU_ADMIN__EMAIL: {error}")))?;
    }
    if settings.demo { demo::load(api, engine).await } else { Ok(()) }
}

/// Opens them on a thread that may wait.
async fn open_places(settings: &Settings) -> Result<Places, Failure> {
    let settings = settings.clone();
    let opening = tokio::task::spawn_blocking(move || Places::open_when_free(&settings));
    opening
        .await
        .map_err(|_| Failure::failed("what the settings name could not be opened"))?
}

impl Shop {
    async fn start(settings: &Settings, listener: TcpListener, address: SocketAddr) -> Result<Self, Failure> {
        let figures = telemetry::start_counting()?;
        let Places {
            store,
            shards,
            heads,
            vault,
            views,
            views_writer,
            instance,
            directory,
        } = open_places(settings).await?;
        let (gateway, simulator) = gateway(settings, address)?;
        let runner = Runner::start(Arc::clone(&store), views_writer, RunnerSettings::default());
        let runner = runner.map_err(|error| Failure::failed(format_args!("the views' thread cannot be started: {error}")))?;
        let tail = runner.tail();
        let processes = sagas::Settings {
            currency: settings.currency,
            reservation_ttl: settings.reservation_ttl,
            payment_deadline: settings.payment_deadline,
            stuck_after: settings.payment_stuck_after,
        };
        let core = CoreSettings {
            shards,
            ..CoreSettings::new(processes, settings.time_zone.clone(), command_api::represent)
        };
        let engine_settings = EngineSettings {
            payment_timeout: settings.payment_timeout,
            ..EngineSettings::new(core, instance)
        };
        let offer = move |events: &Arc<[Recorded]>| tail.offer(Arc::clone(events));
        let durable = Durable::from_heads(heads.iter().copied());
        let running = Engine::start(
            &store,
            Arc::new(gateway),
            engine_settings,
            vec![Box::new(offer), durable.subscriber()],
            tokio::runtime::Handle::current(),
        )?;

        let engine = running.engine();
        let api = Api::new(
            engine.clone(),
            durable,
            vault.clone(),
            Arc::clone(&views),
            command_api::Settings {
                currency: settings.currency,
                tokens: TokenSettings::default(),
                behind_proxy: settings.behind_proxy,
                stuck_after: settings.payment_stuck_after,
                ..command_api::Settings::default()
            },
        );
        let traffic = Arc::new(Traffic::default());
        let health = Health {
            engine: engine.clone(),
            progress: runner.progress(),
            heads_at_start: heads.into(),
            traffic: Arc::clone(&traffic),
            figures: figures.clone(),
        };
        let looks = telemetry::Looks {
            log: Some((Arc::clone(&store), shards)),
            views: Some(Arc::clone(&views)),
            data: settings.data.clone(),
            figures,
        };
        let query_api = QueryApi {
            views,
            progress: runner.progress(),
            log_id: engine.log_id(),
            vault,
            authenticate: authenticate(&api),
            graphiql: settings.demo,
            introspection: true,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            stuck_after: settings.payment_stuck_after,
        };
        let mut servers = Vec::new();
        let mut router = Router::new()
            .merge(root_page::router(settings.demo, address, simulator.is_some()))
            .merge(command_api::router(api.clone()))
            .merge(query_api::router(query_api))
            .merge(health::router(health.clone()));
        if let Some(simulator) = &simulator {
            router = router.nest("/simulator", simulator.router());
        }
        match settings.metrics_listen {
            Some(own) => {
                let listener = bind(&own.to_string()).await?;
                let bare = Arc::new(Traffic::default());
                servers.push(Server::start(listener, health::figures_router(health), bare));
            }
            None => router = router.merge(health::figures_router(health)),
        }
        servers.push(Server::start(
            listener,
            router.fallback(command_api::unknown_path),
            Arc::clone(&traffic),
        ));
        Ok(Self {
            looking: looks.start()?,
            running,
            runner,
            store,
            traffic,
            servers,
            api,
            directory,
        })
    }

    /// Takes nothing more, finishes what is begun, and ends: requests, then the engine, then the views, then the connections.
    async fn stop(self) -> Result<(), Failure> {
        let Self {
            looking,
            running,
            runner,
            store,
            traffic,
            servers,
            api,
            directory,
        } = self;
        traffic.enter(Phase::Stopping);
        looking.stop();
        let shards = running.engine().shards();
        let unanswered = traffic.finish(FINISH_REQUESTS).await;
        if unanswered > 0 {
            tracing::warn!(unanswered, "requests are left without an answer");
        }
        let stopped = tokio::task::spawn_blocking(move || running.stop());
        match tokio::time::timeout(FINISH_ENGINE, stopped).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Failure::failed("the engine panicked while it stopped")),
            Err(_) => {
                return Err(at_once(&Failure::failed(
                    "the engine did not stop in time; it takes up what it left at the next start",
                )));
            }
        }
        let heads = heads(store.reader()?.as_ref(), shards)?;
        let mut progress = runner.progress();
        let caught_up = progress.wait_for(|progress| (0..).zip(&heads).all(|(shard, head)| progress.position(shard) >= *head));
        if !matches!(tokio::time::timeout(FINISH_VIEWS, caught_up).await, Ok(Ok(_))) {
            tracing::warn!("the views are behind the log; they catch up at the next start");
        }
        let stopped = tokio::task::spawn_blocking(move || runner.stop());
        if tokio::time::timeout(FINISH_VIEWS, stopped).await.is_err() {
            tracing::warn!("the views did not stop in time; they catch up at the next start");
        }
        // The last one to close the log may write, so that SQLite leaves one file and no write-ahead log beside it.
        drop(store.writer()?);
        for server in servers {
            server.stop().await;
        }
        drop(api);
        drop(directory);
        Ok(())
    }
}

fn authenticate(api: &Api) -> Arc<query_api::Authenticate> {
    let verifier = api.verifier().clone();
    Arc::new(move |token| match verifier.verify(token) {
        Ok(command_api::Principal { account, role }) => Ok(Principal { account, role }),
        Err(command_api::TokenError::Invalid) => Err(AuthError::Invalid),
        Err(command_api::TokenError::Expired) => Err(AuthError::Expired),
    })
}
