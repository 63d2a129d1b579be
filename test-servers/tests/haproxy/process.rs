//! A process of the shop as the entry sees it: it answers over HTTP, is ready or not, holds what it is told to hold, and can be killed.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// Requests to this path are answered when [`Process::release`] says so.
pub(crate) const HELD: &str = "/api/v1/held";

/// The answer to the key that the test sends, which is that of RFC 6455.
const ACCEPTED: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A process on a port of its own. It ends when it is dropped.
pub(crate) struct Process {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    ready: AtomicBool,
    killed: AtomicBool,
    answered: AtomicUsize,
    /// Requests that wait for the word, and whether it was given.
    held: Mutex<(usize, bool)>,
    changed: Condvar,
    connections: Mutex<Vec<TcpStream>>,
}

/// A request, as far as it matters here.
struct Request {
    method: String,
    path: String,
    head: String,
    body: Vec<u8>,
}

impl Process {
    /// One that is ready. It says its name in each answer.
    pub(crate) fn start(name: &str) -> Self {
        Self::start_on(name, (Ipv4Addr::LOCALHOST, 0).into())
    }

    /// One on the address of another that was killed.
    pub(crate) fn start_on(name: &str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("it has one");
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            ready: AtomicBool::new(true),
            killed: AtomicBool::new(false),
            answered: AtomicUsize::new(0),
            held: Mutex::new((0, false)),
            changed: Condvar::new(),
            connections: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accepting.accept(&listener));
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What /readyz says from now on.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.shared.ready.store(ready, SeqCst);
    }

    /// How many requests it has answered, apart from those after its health.
    pub(crate) fn answered(&self) -> usize {
        self.shared.answered.load(SeqCst)
    }

    /// How many requests to [`HELD`] have come.
    pub(crate) fn held(&self) -> usize {
        self.shared.held().0
    }

    /// Answers what is held.
    pub(crate) fn release(&self) {
        self.shared.held().1 = true;
        self.shared.changed.notify_all();
    }

    /// Ends as `kill -9` does it: every connection breaks, and nothing listens any more.
    pub(crate) fn kill(&self) {
        self.shared.killed.store(true, SeqCst);
        // The listener sees it at the next connection.
        drop(TcpStream::connect(self.address));
        for connection in self.shared.connections().drain(..) {
            // It may have ended by itself.
            let _ = connection.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
        while TcpStream::connect(self.address).is_ok() {
            thread::yield_now();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.shared.killed.load(SeqCst) {
            self.kill();
        }
    }
}

impl Shared {
    fn held(&self) -> std::sync::MutexGuard<'_, (usize, bool)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((stream, _)) = listener.accept() {
            // Under the lock, so that whoever kills breaks this connection too, or it is never served.
            let mut connections = self.connections();
            if self.killed.load(SeqCst) {
                return;
            }
            connections.push(stream.try_clone().expect("a second handle"));
            drop(connections);
            let shared = Arc::clone(self);
            thread::spawn(move || shared.serve(&stream));
        }
    }

    /// Answers on one connection until it ends.
    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some(request) = read(&mut reader) {
            if request.path == HELD && !self.hold() {
                return;
            }
            if self.killed.load(SeqCst) || self.answer(stream, &request).is_none() {
                return;
            }
        }
    }

    /// Waits for the word; false when the process is killed before.
    fn hold(&self) -> bool {
        let mut held = self.held();
        held.0 += 1;
        self.changed.notify_all();
        let over = |(_, released): &mut (usize, bool)| !*released && !self.killed.load(SeqCst);
        drop(self.changed.wait_while(held, over).unwrap_or_else(PoisonError::into_inner));
        !self.killed.load(SeqCst)
    }

    fn answer(&self, mut stream: &TcpStream, request: &Request) -> Option<()> {
        let (status, body) = match request.path.as_str() {
            "/readyz" if self.ready.load(SeqCst) => ("200 OK", "ready".to_owned()),
            "/readyz" => ("503 Service Unavailable", "stopping".to_owned()),
            "/graphql/ws" => {
                write!(
                    stream,
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{ACCEPTED}\r\n\r\n"
                )
                .ok()?;
                return echo(stream);
            }
            _ => {
                self.answered.fetch_add(1, SeqCst);
                let Request { method, path, head, body } = request;
                ("200 OK", format!("{} {method} {path} {}\n{head}", self.name, body.len()))
            }
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nServer: a-name-and-a-version\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).ok()
    }
}

fn echo(mut stream: &TcpStream) -> Option<()> {
    let mut bytes = [0; 64];
    loop {
        let length = stream.read(&mut bytes).ok().filter(|length| *length > 0)?;
        stream.write_all(&bytes[..length]).ok()?;
    }
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut head = String::new();
    while reader.read_line(&mut head).ok()? > 2 {}
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, head, body })
}
