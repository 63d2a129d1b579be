//! The entry of the shop.

use std::{
    cell::Cell,
    ffi::OsString,
    fmt::Write as _,
    fs,
    io::{Read, Write as _},
    net::{SocketAddr, TcpStream},
    ops::{Deref, DerefMut},
    path::PathBuf,
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    port,
    processes::eventually,
    server::{Recipe, Server, not_installed},
};

const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take to see that a process has come or gone.
const PATIENCE_WITH_CHECKS: Duration = Duration::from_mins(1);
/// Where Debian has it, which is not on everybody's path.
const DEBIAN: &str = "/usr/sbin/haproxy";
/// What is the same wherever the shop runs.
const CONFIGURATION: &str = include_str!("../../deploy/haproxy/haproxy.cfg");
/// Where the processes are, where their names say so.
const DISCOVERY: &str = include_str!("../../deploy/haproxy/backends-dns.cfg");

/// The shop's entry, `deploy/haproxy/haproxy.cfg`, before processes at these addresses.
pub struct Haproxy {
    server: Server,
    figures: SocketAddr,
}

impl Haproxy {
    /// Starts one before these processes, which need not run yet. No other web site may call the shop.
    pub fn start(command_api: &[SocketAddr], query_api: &[SocketAddr]) -> Self {
        Self::start_for(command_api, query_api, &[])
    }

    /// Starts one that lets the pages of these web sites call the shop.
    pub fn start_for(command_api: &[SocketAddr], query_api: &[SocketAddr], origins: &[&str]) -> Self {
        let backends = [backend("command-api", command_api), backend("query-api", query_api)].concat();
        Self::run(&backends, &[format!("ENTRY_ORIGINS={}", origins.join(" "))])
    }

    /// Starts one that asks this name server where the processes are: two names with their ports, as `command-api:8080`.
    pub fn start_discovering(name_server: SocketAddr, command_api: &str, query_api: &str) -> Self {
        let backends = DISCOVERY.replace("parse-resolv-conf", &format!("nameserver of-the-test {name_server}"));
        let names = [("COMMAND_API", command_api), ("QUERY_API", query_api)].map(|(role, name)| format!("ENTRY_{role}={name}"));
        Self::run(&backends, &names)
    }

    fn run(backends: &str, environment: &[String]) -> Self {
        let Some(program) = program() else { not_installed("HAProxy") };
        let figures = Cell::new(port::local(0));
        let server = Server::started(|| {
            let recipe = Recipe {
                name: "haproxy",
                command: vec![],
                user: None,
                quickly: "TERM",
                orderly: Signal::TERM,
                ready,
            };
            let mut server = Server::prepare(port::free(), recipe);
            figures.set(port::local(port::free()));
            let mut command = vec![
                OsString::from("env"),
                format!("ENTRY_LISTEN={}", server.address()).into(),
                format!("ENTRY_STATS={}", figures.get()).into(),
            ];
            command.extend(environment.iter().map(OsString::from));
            command.push(program.clone().into());
            for (name, text) in [("haproxy.cfg", CONFIGURATION), ("backends.cfg", backends)] {
                let file = server.scratch().join(name);
                fs::write(&file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
                command.extend([OsString::from("-f"), file.into()]);
            }
            server.set_command(command);
            server
        });
        Self {
            server,
            figures: figures.get(),
        }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Where its page for operators (`/stats`) and its figures (`/metrics`) are.
    pub fn figures(&self) -> SocketAddr {
        self.figures
    }

    /// How many processes of `command-api` or `query-api` it sends requests to.
    pub fn up(&self, backend: &str) -> usize {
        let Some(page) = get(self.figures, "/stats;csv") else { return 0 };
        // The proxy, the process or a sum, and 15 columns later its state.
        let rows = page.lines().map(|line| line.split(',').collect::<Vec<_>>());
        rows.filter(|row| {
            row.first() == Some(&backend)
                && row.get(1).is_some_and(|process| process.starts_with(backend))
                && row.get(17).is_some_and(|state| state.starts_with("UP"))
        })
        .count()
    }

    /// Waits until it sends requests to so many processes of `command-api` or `query-api`.
    ///
    /// # Panics
    /// When that takes a minute.
    pub fn wait_until_up(&self, backend: &str, processes: usize) {
        let seen = eventually(PATIENCE_WITH_CHECKS, || self.up(backend) == processes);
        assert!(seen, "{} of {backend} are up, not {processes}:\n{}", self.up(backend), self.log());
    }
}

impl Deref for Haproxy {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Haproxy {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path)
        .map(|directory| directory.join("haproxy"))
        .chain([DEBIAN.into()]);
    places.find(|place| place.is_file())
}

/// As `deploy/haproxy/backends-processes.cfg`, for any number of processes.
fn backend(name: &str, processes: &[SocketAddr]) -> String {
    let mut text = format!("backend {name} from upstream\n");
    for (index, address) in processes.iter().enumerate() {
        writeln!(text, "    server {name}{} {address}", index + 1).expect("a string takes what is written");
    }
    text.push('\n');
    text
}

fn ready(server: &Server) -> bool {
    get(server.address(), "/livez").is_some_and(|answer| answer.starts_with("HTTP/1.1 200 "))
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
