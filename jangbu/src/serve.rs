//! `jangbu serve`: opens what there is to open, connects it, serves it, and ends it in order.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use aggregates::AccountId;
use axum::{Router, extract::Request, response::IntoResponse as _};
use command_api::{Api, RateLimiter, TokenSettings, TokenVerifier};
use engine::{CoreSettings, Engine, EngineSettings, Engines, Running, Subscriber};
use event_store::{DirectoryLock, EventStore, Shards};
use key_vault::Opening;
use metrics_exporter_prometheus::PrometheusHandle;
use payment_gateway_simulator::Simulator;
use payment_gateway_toss::{TossGateway, TossSettings};
use projections::{Follower, FollowerHandle, FollowerSettings, Progress, Runner, RunnerHandle, RunnerSettings, Views};
use query_api::{AuthError, Limits, Principal, QueryApi, Timeouts};
use redis_cache::{Answers, Redis, Stock, Topic};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tower::Service as _;
use uuid::Uuid;

use crate::{
    demo,
    failure::Failure,
    health::{self, Health},
    hints::Hints,
    http_server::{Phase, Server, Traffic, come_back},
    kafka::{Group, Kafka},
    places::{self, Log, heads},
    root_page,
    settings::{Gateway, Role, Settings},
    simulator,
    telemetry::{self, Looking},
};

/// The file in the data directory that says where the shop is served.
pub(crate) const ADDRESS: &str = "address";

/// Where Toss Payments is.
const TOSS: &str = "https://api.tosspayments.com";

/// Where the provider's simulator is, in the process of a whole shop.
const SIMULATOR_PATH: &str = "/simulator/";

/// The simulator takes any secret key.
const SIMULATOR_KEY: &str = "test_sk_jangbu";

/// How long requests may take to finish when the shop stops, then the engine, then the views.
const FINISH_REQUESTS: Duration = Duration::from_secs(10);
const FINISH_ENGINE: Duration = Duration::from_secs(10);
const FINISH_VIEWS: Duration = Duration::from_secs(3);

/// How often engines that do not answer yet are asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Serves the shop until a signal ends it, or it has to end.
pub(crate) fn run(settings: &Settings) -> Result<(), Failure> {
    settings.check_supported()?;
    // Ends last, so that the traces of what the end brings leave too.
    let _traces = telemetry::start(settings)?;
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

/// The provider's simulator, if it is in this process.
fn own_simulator(settings: &Settings) -> Result<Option<Simulator>, Failure> {
    match (settings.gateway, &settings.toss_url, settings.role) {
        (Gateway::Simulator, None, Role::All) => simulator::open(settings).map(Some),
        _ => Ok(None),
    }
}

/// Whom the engine asks for money.
fn gateway(settings: &Settings, own: SocketAddr) -> Result<TossGateway, Failure> {
    let url = match (&settings.toss_url, settings.gateway) {
        (Some(url), _) => url.clone(),
        (None, Gateway::Simulator) => format!("http://{}/simulator", loopback(own)),
        (None, Gateway::Toss) => TOSS.to_owned(),
    };
    let secret_key = settings
        .toss_secret_key
        .clone()
        .unwrap_or_else(|| SecretString::from(SIMULATOR_KEY));
    let settings = TossSettings {
        url,
        secret_key,
        timeout: settings.payment_timeout,
    };
    TossGateway::new(settings).map_err(Failure::wrong)
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

async fn serve(settings: &Settings) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let figures = telemetry::start_counting()?;
    let listener = bind(&settings.listen).await?;
    let address = listener.local_addr().map_err(Failure::failed)?;
    let traffic = Arc::new(Traffic::default());
    let health = Health::new(Arc::clone(&traffic), figures.clone());
    // Before anything is opened: whoever asks hears what is waited for.
    let front = Front::open(settings, listener, &health, &traffic).await?;
    let begin = async {
        let shop = Shop::start(settings, &front, &health, address, figures).await?;
        shop.load(settings, &health).await?;
        Ok::<_, Failure>(shop)
    };
    let shop = tokio::select! {
        shop = begin => shop?,
        // It waited for something, and nobody needs it any more.
        () = signals.next() => return Ok(()),
    };
    traffic.enter(Phase::Serving);
    publish(&settings.data.join(ADDRESS), &address.to_string())?;
    tracing::info!(%address, data = %settings.data.display(), demo = settings.demo, role = settings.role.name(), version = env!("CARGO_PKG_VERSION"), "the shop is open on http://{address}");

    tokio::select! {
        () = signals.next() => {}
        reason = shop.ended() => {
            return Err(at_once(&Failure::failed(format_args!("the engine has ended: {reason}"))));
        }
    }
    if let Some(drain) = settings.drain {
        tracing::info!(?drain, "the shop takes requests a while still");
        traffic.enter(Phase::Draining);
        tokio::select! {
            () = tokio::time::sleep(drain) => {}
            () = signals.next() => {}
            reason = shop.ended() => {
                return Err(at_once(&Failure::failed(format_args!("the engine has ended: {reason}"))));
            }
        }
    }
    tracing::info!("the shop is closing");
    tokio::select! {
        stopped = shop.stop(front, &traffic) => stopped?,
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

/// What the listeners answer: health from the first moment on, everything else when it is there.
struct Front {
    servers: Vec<Server>,
    shop: Arc<OnceLock<Router>>,
    /// The provider's simulator, where it is in this process.
    provider: Arc<OnceLock<Router>>,
}

impl Front {
    async fn open(settings: &Settings, listener: TcpListener, health: &Health, traffic: &Arc<Traffic>) -> Result<Self, Failure> {
        let shop = Arc::new(OnceLock::<Router>::new());
        let provider = Arc::new(OnceLock::<Router>::new());
        let (inner, simulated) = (Arc::clone(&shop), Arc::clone(&provider));
        let mut router = health::router(health.clone()).fallback(async move |request: Request| {
            let simulated = simulated.get().filter(|_| request.uri().path().starts_with(SIMULATOR_PATH));
            match simulated.or_else(|| inner.get()) {
                Some(router) => router.clone().call(request).await.into_response(),
                None => come_back(Phase::Starting, request.headers()),
            }
        });
        let mut servers = Vec::new();
        match settings.metrics_listen {
            Some(own) => {
                let listener = bind(&own.to_string()).await?;
                let bare = Arc::new(Traffic::default());
                servers.push(Server::start(listener, health::figures_router(health.clone()), bare));
            }
            None => router = router.merge(health::figures_router(health.clone())),
        }
        servers.push(Server::start(listener, router, Arc::clone(traffic)));
        Ok(Self { servers, shop, provider })
    }

    /// The provider is somebody else's server, as far as the engine knows: it answers before the engine asks, which is as soon as it starts.
    fn serves_provider(&self, simulator: &Simulator) {
        // It is given once.
        let _ = self
            .provider
            .set(Router::new().nest(SIMULATOR_PATH.trim_end_matches('/'), simulator.router()));
    }

    fn serves(&self, router: Router) {
        // It is given once.
        let _ = self.shop.set(router.fallback(command_api::unknown_path));
    }

    async fn close(self) {
        for server in self.servers {
            server.stop().await;
        }
    }
}

/// The engines of this process.
enum Sells {
    /// All shards of the log are here.
    All(Running),
    /// Those that the group of the engines assigns to this process.
    Some(Group),
    /// None.
    Nothing,
}

/// The views of this process.
enum Shows {
    /// It writes them.
    Written(RunnerHandle),
    /// Another process does.
    Followed(FollowerHandle),
    Nothing,
}

/// The parts of a shop that run in this process.
struct Shop {
    looking: Looking,
    sells: Sells,
    shows: Shows,
    hints: Option<Hints>,
    kafka: Option<Kafka>,
    store: Arc<dyn EventStore>,
    shards: Shards,
    /// None in a process that changes nothing.
    engine: Option<Engine>,
    api: Option<Api>,
    directory: Option<DirectoryLock>,
}

/// Does something that may wait, on a thread that may.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Failure::failed("what the settings name could not be opened"))?
}

impl Shop {
    async fn start(
        settings: &Settings,
        front: &Front,
        health: &Health,
        address: SocketAddr,
        figures: PrometheusHandle,
    ) -> Result<Self, Failure> {
        let role = settings.role;
        let log = {
            let (settings, health) = (settings.clone(), health.clone());
            aside(move || Log::open_when_free(&settings, &|what| health.waits_for(what))).await?
        };
        let mut kafka = Kafka::open(settings, log.shards)?;
        let views = open_views(settings, &log).await?;
        let vault = match role {
            Role::All | Role::CommandApi | Role::QueryApi => {
                // Who only answers questions has nothing to seal.
                let how = if role == Role::QueryApi { Opening::Read } else { log.opening() };
                let place = settings.keys.clone();
                Some(aside(move || Ok(places::open_keys(&place, how)?)).await?)
            }
            Role::Engine | Role::Projections | Role::Relay => None,
        };
        let shows = views.keeper;
        let progress = shows.progress();
        if let Some(kafka) = &mut kafka
            && matches!(role, Role::All | Role::Relay)
        {
            kafka.relay(&log.store)?;
        }
        let simulator = own_simulator(settings)?;
        if let Some(simulator) = &simulator {
            front.serves_provider(simulator);
        }
        let hints = hints(settings, &shows, kafka.as_ref())?;
        let (engine, sells) = start_engine(settings, &log, kafka.as_mut(), &shows, hints.as_ref(), address, health).await?;
        let redis = settings.redis.clone().filter(|_| vault.is_some());
        let redis = redis.map(|address| Redis::start(redis_cache::Settings::new(address)));
        let mut router = Router::new();
        let mut api = None;
        if let (Some(engine), Some(vault), Some(views), Role::All | Role::CommandApi) = (&engine, &vault, &views.views, role) {
            let mut rest = Api::new(engine.clone(), vault.clone(), Arc::clone(views), api_settings(settings));
            if let Some(redis) = &redis {
                let log_id = log_id(&log, Some(engine), health).await?;
                rest = rest
                    .with_shared_limits(Arc::new(redis_cache::Limits::new(redis.clone())))
                    .with_kept_answers(Arc::new(Answers::new(redis.clone(), vault.clone(), log_id)));
            }
            router = router
                .merge(root_page::router(settings.demo, address, simulator.is_some()))
                .merge(command_api::router(rest.clone()));
            api = Some(rest);
        }
        if let (Some(vault), Some(views), Some(progress), Role::All | Role::QueryApi) = (&vault, &views.views, &progress, role) {
            let log_id = log_id(&log, engine.as_ref(), health).await?;
            let questions = QueryApi {
                views: Arc::clone(views),
                progress: progress.clone(),
                log_id,
                authenticate: authenticate(TokenVerifier::new(vault.clone(), &api_settings(settings).tokens)),
                vault: vault.clone(),
                graphiql: settings.demo,
                introspection: true,
                limits: Limits::default(),
                timeouts: Timeouts::default(),
                stuck_after: settings.payment_stuck_after,
            };
            let questions = match &redis {
                Some(redis) => query_api::router_sharing(questions, Arc::new(Stock::new(redis.clone(), vault.clone(), log_id))),
                None => query_api::router(questions),
            };
            // A client's commands and questions count together, in one process as over all.
            let limiter = match (&api, &redis) {
                (Some(api), _) => api.limiter().clone(),
                (None, Some(redis)) => {
                    RateLimiter::new(vault.clone(), &api_settings(settings)).sharing(Arc::new(redis_cache::Limits::new(redis.clone())))
                }
                (None, None) => RateLimiter::new(vault.clone(), &api_settings(settings)),
            };
            router = router.merge(limiter.limit(questions));
        }
        front.serves(router);
        if let Some(progress) = progress {
            health.watches_views(progress, log.heads.clone());
        }
        if let Some(engine) = &engine {
            health.watches_engine(engine);
        }
        if let Some(kafka) = &kafka {
            kafka.watched_by(health, role, engine.as_ref());
        }
        if let (Sells::Some(group), Some(engine)) = (&sells, &engine) {
            group.watched_by(health, engine);
        }
        let looks = telemetry::Looks {
            log: matches!(role, Role::All | Role::Engine).then(|| (Arc::clone(&log.store), log.shards)),
            views: views.views.filter(|_| matches!(role, Role::All | Role::Projections)),
            data: settings.data.clone(),
            figures,
        };
        Ok(Self {
            looking: looks.start()?,
            sells,
            shows,
            hints,
            kafka,
            store: log.store,
            shards: log.shards,
            engine,
            api,
            directory: log.directory,
        })
    }

    /// What has to be there before the first request: the admin of the settings, and the demo.
    async fn load(&self, settings: &Settings, health: &Health) -> Result<(), Failure> {
        let (Some(api), Some(engine)) = (&self.api, &self.engine) else {
            return Ok(());
        };
        let to_load = settings.demo || settings.admin.is_some();
        if to_load && !matches!(self.sells, Sells::All(_)) {
            wait_for_engines(engine, self.shards, health).await;
        }
        if let Some(admin) = &settings.admin {
            let email = admin.email.expose();
            let id = AccountId::new(Uuid::now_v7());
            let made = command_api::ensure_account(api, id, email, admin.password.expose_secret(), "Admin", aggregates::Role::Admin).await;
            made.map_err(|error| Failure::failed(format_args!("the account of JANGBU_ADMIN__EMAIL: {error}")))?;
        }
        if settings.demo { demo::load(api, engine).await } else { Ok(()) }
    }

    /// Waits until the engine has ended by itself, and says why.
    async fn ended(&self) -> String {
        let Some(engine) = &self.engine else {
            return std::future::pending().await;
        };
        let mut ended = engine.ended();
        let reason = ended.wait_for(Option::is_some).await;
        let reason = reason.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| "its thread has ended".to_owned())
    }

    /// Takes nothing more, finishes what is begun, and ends: requests, then the engine, then the views, then the connections.
    async fn stop(self, front: Front, traffic: &Traffic) -> Result<(), Failure> {
        let Self {
            looking,
            sells,
            shows,
            hints,
            kafka,
            store,
            shards,
            engine,
            api,
            directory,
        } = self;
        traffic.enter(Phase::Stopping);
        looking.stop();
        let unanswered = traffic.finish(FINISH_REQUESTS).await;
        if unanswered > 0 {
            tracing::warn!(unanswered, "requests are left without an answer");
        }
        let alone = matches!(sells, Sells::All(_));
        let stopped = tokio::task::spawn_blocking(move || match sells {
            Sells::All(running) => running.stop(),
            Sells::Some(group) => group.stop(),
            Sells::Nothing => {}
        });
        match tokio::time::timeout(FINISH_ENGINE, stopped).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Failure::failed("the engine panicked while it stopped")),
            Err(_) => {
                return Err(at_once(&Failure::failed(
                    "the engine did not stop in time; it takes up what it left at the next start",
                )));
            }
        }
        if let Shows::Written(runner) = &shows
            && alone
        {
            let heads = heads(store.reader()?.as_ref(), shards)?;
            let mut progress = runner.progress();
            let caught_up = progress.wait_for(|progress| (0..).zip(&heads).all(|(shard, head)| progress.position(shard) >= *head));
            if !matches!(tokio::time::timeout(FINISH_VIEWS, caught_up).await, Ok(Ok(_))) {
                tracing::warn!("the views are behind the log; they catch up at the next start");
            }
        }
        let stopped = tokio::task::spawn_blocking(move || {
            drop(hints);
            match shows {
                Shows::Written(runner) => runner.stop(),
                Shows::Followed(follower) => follower.stop(),
                Shows::Nothing => {}
            }
            if let Some(kafka) = kafka {
                kafka.stop();
            }
        });
        if tokio::time::timeout(FINISH_VIEWS + FINISH_ENGINE, stopped).await.is_err() {
            tracing::warn!("the views, or what has to do with Kafka, did not stop in time; they catch up at the next start");
        }
        if alone {
            // The last one to close the log may write, so that SQLite leaves one file and no write-ahead log beside it.
            drop(store.writer()?);
        }
        front.close().await;
        drop((api, engine));
        drop(directory);
        Ok(())
    }
}

fn api_settings(settings: &Settings) -> command_api::Settings {
    command_api::Settings {
        currency: settings.currency,
        tokens: TokenSettings::default(),
        rate_limits: settings.rate_limits,
        behind_proxy: settings.behind_proxy,
        stuck_after: settings.payment_stuck_after,
        ..command_api::Settings::default()
    }
}

/// The views as this process has them.
struct OpenViews {
    views: Option<Arc<dyn Views>>,
    keeper: Shows,
}

async fn open_views(settings: &Settings, log: &Log) -> Result<OpenViews, Failure> {
    let no_thread = |error: std::io::Error| Failure::failed(format_args!("the views' thread cannot be started: {error}"));
    match settings.role {
        Role::All | Role::Projections => {
            let opening = settings.clone();
            let (writer, views) = aside(move || places::open_views(&opening)).await?;
            let keeping = RunnerSettings {
                listen: others_record(settings),
                ..RunnerSettings::default()
            };
            let runner = Runner::start(Arc::clone(&log.store), writer, keeping);
            Ok(OpenViews {
                views: Some(views),
                keeper: Shows::Written(runner.map_err(no_thread)?),
            })
        }
        Role::QueryApi | Role::CommandApi => {
            let looking = settings.clone();
            let views = aside(move || places::look_at_views(&looking)).await?;
            let keeper = if settings.role == Role::QueryApi {
                let follower = Follower::start(Arc::clone(&views), Arc::clone(&log.store), FollowerSettings::default());
                Shows::Followed(follower.map_err(no_thread)?)
            } else {
                Shows::Nothing
            };
            Ok(OpenViews {
                views: Some(views),
                keeper,
            })
        }
        Role::Engine | Role::Relay => Ok(OpenViews {
            views: None,
            keeper: Shows::Nothing,
        }),
    }
}

impl Shows {
    fn progress(&self) -> Option<watch::Receiver<Progress>> {
        match self {
            Self::Written(runner) => Some(runner.progress()),
            Self::Followed(follower) => Some(follower.progress()),
            Self::Nothing => None,
        }
    }
}

/// Whether events come by other processes too.
fn others_record(settings: &Settings) -> bool {
    settings.role != Role::All || settings.shares_shards()
}

/// What this process and others tell one another through Redis.
fn hints(settings: &Settings, shows: &Shows, kafka: Option<&Kafka>) -> Result<Option<Hints>, Failure> {
    let Some(address) = &settings.redis else { return Ok(None) };
    let mut hints = Hints::new(address);
    match shows {
        Shows::Written(runner) => {
            hints.tells_of_views(runner.progress());
            if others_record(settings) {
                let tail = runner.tail();
                hints.hears(Topic::Log, move || tail.look())?;
            }
        }
        Shows::Followed(follower) => hints.hears(Topic::Views, follower.waker())?,
        Shows::Nothing => {}
    }
    if let Some(wake) = kafka.and_then(Kafka::wake_relay).filter(|_| others_record(settings)) {
        hints.hears(Topic::Log, wake)?;
    }
    Ok(Some(hints))
}

/// Starts the engines of this process, or opens the way to those of others.
async fn start_engine(
    settings: &Settings,
    log: &Log,
    kafka: Option<&mut Kafka>,
    shows: &Shows,
    hints: Option<&Hints>,
    address: SocketAddr,
    health: &Health,
) -> Result<(Option<Engine>, Sells), Failure> {
    if !settings.role.commands() {
        return Ok((None, Sells::Nothing));
    }
    let processes = sagas::Settings {
        currency: settings.currency,
        reservation_ttl: settings.reservation_ttl,
        payment_deadline: settings.payment_deadline,
        stuck_after: settings.payment_stuck_after,
    };
    let apart = kafka.as_ref().and_then(|kafka| Some((kafka.transport()?, kafka.elsewhere()?)));
    let core = CoreSettings {
        shards: log.shards,
        others_read_anew: apart.is_some(),
        ..CoreSettings::new(processes, settings.time_zone.clone(), command_api::represent)
    };
    let mut engine_settings = EngineSettings {
        payment_timeout: settings.payment_timeout,
        ..EngineSettings::new(core, log.instance)
    };
    if let Some((transport, elsewhere)) = apart {
        engine_settings.transport = transport;
        engine_settings.elsewhere = Some(elsewhere);
    }
    if settings.role == Role::CommandApi {
        let named = log_id(log, None, health).await?;
        return Ok((Some(Engine::asking(log.shards, named, &engine_settings)), Sells::Nothing));
    }
    let mut subscribers: Vec<Subscriber> = Vec::new();
    if let Shows::Written(runner) = shows {
        let tail = runner.tail();
        subscribers.push(Box::new(move |events| tail.offer(Arc::clone(events))));
    }
    subscribers.extend(hints.map(Hints::tells_of_log));
    if let Some(wake) = kafka.as_ref().and_then(|kafka| kafka.wake_relay()) {
        subscribers.push(Box::new(move |_| wake()));
    }
    let gateway = Arc::new(gateway(settings, address)?);
    let engines = Engines::new(&log.store, gateway, engine_settings, subscribers, Handle::current());
    let engine = engines.engine();
    let sells = match &kafka {
        Some(kafka) if settings.shares_shards() => Sells::Some(kafka.join(engines)?),
        _ => Sells::All(aside(move || Ok(engines.start_all()?)).await?),
    };
    if let Some(kafka) = kafka {
        kafka.take_decisions(&engine)?;
    }
    Ok((Some(engine), sells))
}

/// Which log it is.
async fn log_id(log: &Log, engine: Option<&Engine>, health: &Health) -> Result<Uuid, Failure> {
    let known = engine.map(Engine::log_id).filter(|id| !id.is_nil());
    if let Some(id) = known {
        return Ok(id);
    }
    let (log, health) = (log.reading(), health.clone());
    aside(move || Ok(log.id_when_named(&|what| health.waits_for(what))?)).await
}

/// Waits until the engine of every shard answers, wherever it is.
async fn wait_for_engines(engine: &Engine, shards: Shards, health: &Health) {
    for shard in shards.all() {
        health.waits_for(&format!("the engine of shard {shard} has not answered yet"));
        while let Err(error) = engine.is_answered_by(shard).await {
            tracing::debug!(shard, %error, "its engine does not answer yet");
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

fn authenticate(verifier: TokenVerifier) -> Arc<query_api::Authenticate> {
    Arc::new(move |token| match verifier.verify(token) {
        Ok(command_api::Principal { account, role }) => Ok(Principal { account, role }),
        Err(command_api::TokenError::Invalid) => Err(AuthError::Invalid),
        Err(command_api::TokenError::Expired) => Err(AuthError::Expired),
        Err(command_api::TokenError::Unknown) => Err(AuthError::Unknown),
    })
}
