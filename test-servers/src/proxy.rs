//! A TCP proxy in this process, in front of a server.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{port, processes::LOOKED_EVERY};

const PATIENCE_WITH_CONNECTING: Duration = Duration::from_secs(5);
/// What is read at once.
const CHUNK: usize = 64 * 1024;

/// Passes on what it is sent, until it is told otherwise.
///
/// A held proxy is a network that swallows packets: a client connects (its own system says so), sends, and hears nothing; what it sent
/// arrives when the network is mended. A cut one ends all connections and refuses new ones.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    server: SocketAddr,
    network: Mutex<Network>,
    /// Something has changed.
    changed: Condvar,
}

struct Network {
    /// Not while it is cut.
    listener: Option<Arc<TcpListener>>,
    /// Somebody waits for the next connection, and holds the listener too.
    accepting: bool,
    held: bool,
    delay: Duration,
    closed: bool,
    /// The ends of each connection, by its number; the server's comes later.
    connections: HashMap<u64, Vec<TcpStream>>,
    connected: u64,
}

impl Proxy {
    /// A proxy on a port of its own.
    pub fn to(server: SocketAddr) -> Self {
        Self::at(port::local(port::free()), server)
    }

    pub(crate) fn at(address: SocketAddr, server: SocketAddr) -> Self {
        let network = Network {
            listener: Some(listen(address)),
            accepting: false,
            held: false,
            delay: Duration::ZERO,
            closed: false,
            connections: HashMap::new(),
            connected: 0,
        };
        let shared = Arc::new(Shared {
            server,
            network: Mutex::new(network),
            changed: Condvar::new(),
        });
        let listening = thread::spawn({
            let shared = shared.clone();
            move || shared.accept_all()
        });
        Self {
            address,
            shared,
            listening: Some(listening),
        }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections and refuses new ones.
    pub fn cut(&self) {
        let mut network = self.shared.lock();
        for end in network.connections.drain().flat_map(|(_, ends)| ends) {
            // The other side may have ended it.
            let _ = end.shutdown(Shutdown::Both);
        }
        if network.listener.take().is_some() {
            // Whoever waits for the next connection lets go of the listener when one comes. Nobody waits: then this one is refused.
            let _ = TcpStream::connect(self.address);
        }
        self.shared.changed.notify_all();
        while network.accepting {
            network = self.shared.wait(network);
        }
    }

    /// Passes on nothing, in either direction, and ends nothing.
    pub fn hold(&self) {
        self.change(|network| network.held = true);
    }

    /// Keeps back each chunk for so long, in each direction. It does not end what `cut` and `hold` began.
    pub fn delay(&self, delay: Duration) {
        self.change(|network| network.delay = delay);
    }

    /// Passes everything on at once, also what was held.
    pub fn mend(&self) {
        self.change(|network| {
            network.held = false;
            network.delay = Duration::ZERO;
            if network.listener.is_none() {
                network.listener = Some(listen(self.address));
            }
        });
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.shared.lock().connections.len()
    }

    fn change(&self, change: impl FnOnce(&mut Network)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|network| network.closed = true);
        self.cut();
        if let Some(listening) = self.listening.take() {
            // It cannot panic.
            let _ = listening.join();
        }
    }
}

fn listen(address: SocketAddr) -> Arc<TcpListener> {
    Arc::new(TcpListener::bind(address).unwrap_or_else(|error| panic!("the proxy cannot listen on {address}: {error}")))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, network: MutexGuard<'a, Network>) -> MutexGuard<'a, Network> {
        self.changed.wait(network).unwrap_or_else(PoisonError::into_inner)
    }

    fn accept_all(self: Arc<Self>) {
        let mut network = self.lock();
        while !network.closed {
            let Some(listener) = network.listener.clone() else {
                network = self.wait(network);
                continue;
            };
            network.accepting = true;
            drop(network);
            let accepted = listener.accept();
            drop(listener);
            network = self.lock();
            network.accepting = false;
            self.changed.notify_all();
            match accepted {
                // The one that is to wake it up, or one that came too late.
                Ok(_) if network.listener.is_none() => {}
                Ok((client, _)) => self.clone().connect(&mut network, client),
                Err(_) => thread::sleep(LOOKED_EVERY),
            }
        }
    }

    fn connect(self: Arc<Self>, network: &mut Network, client: TcpStream) {
        let Ok(end) = client.try_clone() else { return };
        network.connected += 1;
        let number = network.connected;
        network.connections.insert(number, vec![end]);
        thread::spawn(move || {
            // One that fails on the way is hung up on, as below.
            let _ = self.carry(number, &client);
            for end in self.lock().connections.remove(&number).into_iter().flatten() {
                let _ = end.shutdown(Shutdown::Both);
            }
        });
    }

    /// Carries a connection until both sides have ended it, or it is cut.
    fn carry(&self, number: u64, client: &TcpStream) -> io::Result<()> {
        if !self.may_pass(number) {
            return Ok(());
        }
        let server = TcpStream::connect_timeout(&self.server, PATIENCE_WITH_CONNECTING)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        match self.lock().connections.get_mut(&number) {
            Some(ends) => ends.push(server.try_clone()?),
            None => return Ok(()),
        }
        thread::scope(|scope| {
            scope.spawn(|| self.pass_on(number, client, &server));
            self.pass_on(number, &server, client);
        });
        Ok(())
    }

    fn pass_on(&self, number: u64, mut from: &TcpStream, mut to: &TcpStream) {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = from.read(&mut chunk).unwrap_or(0);
            // The end of what is sent takes as long as what is sent.
            if !self.may_pass(number) {
                return;
            }
            if read == 0 {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            if to.write_all(&chunk[..read]).is_err() {
                // Nobody is there to read what comes from this side.
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
        }
    }

    /// Waits as long as what has just come is to be kept back. False: the connection was cut.
    fn may_pass(&self, number: u64) -> bool {
        let since = Instant::now();
        let mut network = self.lock();
        loop {
            if !network.connections.contains_key(&number) {
                return false;
            }
            let left = network.delay.saturating_sub(since.elapsed());
            network = match (network.held, left) {
                (true, _) => self.wait(network),
                (false, Duration::ZERO) => return true,
                (false, left) => self.changed.wait_timeout(network, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }
}
