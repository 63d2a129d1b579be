//! The HTTP server: one listener, a bounded number of connections, and an end that loses nothing.
//!
//! A connection is cheap to hold and costs nothing but a place; slow senders of headers lose theirs. While the shop starts or stops, only
//! the provider's simulator and the questions after the server's health are answered; whoever asks for anything else is told to come back.

use std::{
    convert::Infallible,
    future::Future as _,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, response::IntoResponse as _};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    time::Sleep,
};
use tokio_util::task::TaskTracker;
use tower::Service as _;
use uuid::Uuid;

/// The most connections at once; fewer when the system gives fewer files.
const CONNECTIONS: u64 = 8_192;

/// Files that are kept for the log, the views, the keys and the calls of the provider.
const OTHER_FILES: u64 = 512;

/// Whoever has not sent a request's headers by then, or its body, or nothing at all, is not waited for.
const PATIENCE: Duration = Duration::from_secs(30);

const LARGEST_HEADERS: usize = 64 * 1024;
const MOST_HEADERS: usize = 100;

/// How long the last answers may take to leave.
const FAREWELL: Duration = Duration::from_millis(500);

/// What the server does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Not yet.
    Starting = 0,
    /// Answers them.
    Serving = 1,
    /// Still, but whoever asks whether it is ready hears that it is not: what stands in front sends no more.
    Draining = 2,
    /// Not any more.
    Stopping = 3,
}

/// What the server and those who watch it share.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    phase: AtomicU8,
    connections: AtomicUsize,
    in_flight: AtomicUsize,
    finished: Notify,
}

impl Traffic {
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            2 => Phase::Draining,
            _ => Phase::Stopping,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Requests to the shop itself that have no answer yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Waits until every request to the shop has its answer, at most so long; tells how many have none.
    pub(crate) async fn finish(&self, patience: Duration) -> usize {
        let finished = async {
            loop {
                let next = self.finished.notified();
                if self.in_flight() == 0 {
                    return;
                }
                next.await;
            }
        };
        // What is left is counted below.
        let _ = tokio::time::timeout(patience, finished).await;
        self.in_flight()
    }
}

/// Counts a request while it is answered.
struct Answering(Arc<Traffic>);

impl Answering {
    fn begin(traffic: &Arc<Traffic>) -> Self {
        traffic.in_flight.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(traffic))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.finished.notify_waiters();
        }
    }
}

/// A server that runs.
pub(crate) struct Server {
    traffic: Arc<Traffic>,
    tasks: TaskTracker,
    end: watch::Sender<bool>,
}

impl Server {
    /// Serves what `router` answers on this listener.
    pub(crate) fn start(listener: TcpListener, router: Router, traffic: Arc<Traffic>) -> Self {
        let tasks = TaskTracker::new();
        let (end, ended) = watch::channel(false);
        let accepting = accept(listener, router, Arc::clone(&traffic), tasks.clone(), ended);
        tasks.spawn(accepting);
        Self { traffic, tasks, end }
    }

    /// Lets the last answers leave, and closes all connections.
    pub(crate) async fn stop(self) {
        self.traffic.enter(Phase::Stopping);
        self.end.send_replace(true);
        self.tasks.close();
        if tokio::time::timeout(FAREWELL, self.tasks.wait()).await.is_err() {
            tracing::debug!(
                connections = self.traffic.connections(),
                "connections are closed before their answers left"
            );
        }
    }
}

/// Lets this process have as many files as the system allows, and says how many connections that makes.
fn most_connections() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let files = if setrlimit(Resource::Nofile, raised).is_ok() {
        limit.maximum
    } else {
        limit.current
    };
    let connections = files.map_or(CONNECTIONS, |files| files.saturating_sub(OTHER_FILES).clamp(64, CONNECTIONS));
    usize::try_from(connections).unwrap_or(1_024)
}

async fn accept(listener: TcpListener, router: Router, traffic: Arc<Traffic>, tasks: TaskTracker, mut ended: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(most_connections()));
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
            let (stream, peer) = listener.accept().await?;
            Ok::<_, io::Error>((place, stream, peer))
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            () = end_of(&mut ended) => return,
        };
        match accepted {
            Ok((place, stream, peer)) => {
                tasks.spawn(serve(stream, peer, place, router.clone(), Arc::clone(&traffic), ended.clone()));
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                // No files are left, or no memory: it passes when connections end.
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Waits until the server stops, or is gone.
async fn end_of(ended: &mut watch::Receiver<bool>) {
    // An error says that nobody is there to stop it any more.
    let _ = ended.wait_for(|ended| *ended).await;
}

fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
    router: Router,
    traffic: Arc<Traffic>,
    mut ended: watch::Receiver<bool>,
) {
    let _place = place;
    // Without it an answer may wait for the acknowledgement of the one before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection has ended already");
        return;
    }
    traffic.connections.fetch_add(1, Ordering::Relaxed);
    let answers = {
        let traffic = Arc::clone(&traffic);
        service_fn(move |request| answer(request, peer, router.clone(), Arc::clone(&traffic)))
    };
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(LARGEST_HEADERS)
        .max_headers(MOST_HEADERS);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), answers).with_upgrades());
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = end_of(&mut ended) => {
            connection.as_mut().graceful_shutdown();
            // An answer that is on its way still leaves; one that is not there by then does not.
            tokio::time::timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended with an error");
    }
    traffic.connections.fetch_sub(1, Ordering::Relaxed);
}

/// A request's body that has to arrive in time: whoever sends it slowly would hold a place for nothing.
struct Hurried<B> {
    body: B,
    patience: Duration,
    /// Set when the body is waited for first.
    until: Option<Pin<Box<Sleep>>>,
}

impl<B> Hurried<B> {
    fn new(body: B, patience: Duration) -> Self {
        Self {
            body,
            patience,
            until: None,
        }
    }
}

impl<B> hyper::body::Body for Hurried<B>
where
    B: hyper::body::Body + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = B::Data;
    type Error = axum::BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, axum::BoxError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let patience = this.patience;
        let until = this.until.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        until
            .as_mut()
            .poll(context)
            .map(|()| Some(Err("the body did not arrive in time".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn answer(
    mut request: Request<Incoming>,
    peer: SocketAddr,
    mut router: Router,
    traffic: Arc<Traffic>,
) -> Result<Response<Body>, Infallible> {
    request.extensions_mut().insert(ConnectInfo(peer));
    tracing::debug!(method = %request.method(), path = request.uri().path(), "a request");
    if is_always_answered(request.uri().path()) {
        return router.call(request).await;
    }
    let request = request.map(|body| Hurried::new(body, PATIENCE));
    // Counted before the phase is looked at: whoever stops the shop sets the phase and then waits for the count.
    let answering = Answering::begin(&traffic);
    let phase = traffic.phase();
    if !matches!(phase, Phase::Serving | Phase::Draining) {
        return Ok(come_back(phase, request.headers()));
    }
    let Ok(mut response) = router.call(request).await;
    drop(answering);
    if matches!(traffic.phase(), Phase::Draining | Phase::Stopping) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// The simulator is somebody else's server, whatever the shop does, and the engine needs it to the end.
fn is_always_answered(path: &str) -> bool {
    path.starts_with("/simulator/") || matches!(path, "/livez" | "/readyz" | "/metrics")
}

/// A problem as the API writes them, which is not asked before the shop is open or after it has closed.
pub(crate) fn come_back(phase: Phase, headers: &HeaderMap) -> Response<Body> {
    let language = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    let korean = language.is_none_or(|language| language.contains("ko") || language.trim() == "*");
    let (code, title) = match (phase, korean) {
        (Phase::Starting, true) => ("unavailable", "서버가 시작 중입니다. 잠시 후 다시 시도해 주세요"),
        (Phase::Starting, false) => ("unavailable", "The server is starting: try again later"),
        (_, true) => ("stopping", "서버가 종료 중입니다. 잠시 후 다시 시도해 주세요"),
        (_, false) => ("stopping", "The server is stopping: try again later"),
    };
    let body = json!({
        "type": format!("/problems/{code}"),
        "title": title,
        "status": 503,
        "detail": title,
        "code": code,
        "traceId": Uuid::now_v7().simple().to_string(),
    });
    let headers = [
        (header::CONTENT_TYPE, "application/problem+json"),
        (header::CONTENT_LANGUAGE, if korean { "ko" } else { "en" }),
        (header::RETRY_AFTER, "2"),
        (header::CONNECTION, "close"),
    ];
    (StatusCode::SERVICE_UNAVAILABLE, headers, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    /// A body whose sender has fallen asleep.
    struct Asleep;

    impl hyper::body::Body for Asleep {
        type Data = bytes::Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_is_given_up() {
        let whole = Hurried::new(Full::new(bytes::Bytes::from_static(b"all of it")), Duration::from_millis(5));
        assert_eq!(whole.collect().await.expect("it is there").to_bytes(), "all of it");
        assert!(Hurried::new(Asleep, Duration::from_millis(5)).collect().await.is_err());
    }

    #[tokio::test]
    async fn who_stops_the_shop_waits_for_the_answers_that_are_under_way() {
        let traffic = Arc::new(Traffic::default());
        assert_eq!(traffic.finish(Duration::ZERO).await, 0);
        let answering = Answering::begin(&traffic);
        assert_eq!(traffic.finish(Duration::from_millis(5)).await, 1);
        let (left, ()) = tokio::join!(traffic.finish(Duration::from_mins(1)), async { drop(answering) });
        assert_eq!(left, 0);
    }
}
