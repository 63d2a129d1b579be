//! Redis.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    io::{Read, Write as _},
    net::{SocketAddr, TcpStream},
    ops::{Deref, DerefMut},
    path::Path,
    sync::OnceLock,
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    port,
    postgres::named_by,
    server::{Recipe, Server, not_installed},
};

const PATIENCE: Duration = Duration::from_secs(2);

/// A Redis of this test process's own. It writes nothing to disk, so that one that was killed comes back empty.
pub struct Redis(Server);

/// The Redis that a whole test process shares.
pub struct SharedRedis {
    url: String,
    /// None where `JANGBU_TEST_REDIS` names the server.
    _own: Option<Redis>,
}

impl Redis {
    /// Starts one.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with lines of `redis.conf`, such as `("appendonly", "yes")` or `("requirepass", "secret")`.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        if !std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|path| path.join("redis-server").exists()) {
            not_installed("Redis");
        }
        Self(Server::started(|| {
            let recipe = Recipe {
                name: "redis",
                command: vec![],
                user: None,
                quickly: "KILL",
                orderly: Signal::TERM,
                ready,
            };
            let mut server = Server::prepare(port::free(), recipe);
            let file = server.scratch().join("redis.conf");
            let mut text = format!(
                "bind 127.0.0.1\nport {}\ndir {}\nsave \"\"\nappendonly no\n",
                server.port(),
                server.scratch().display()
            );
            for (name, value) in settings {
                writeln!(text, "{name} {value}").expect("a string takes what is written");
            }
            fs::write(&file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            server.set_command(vec![OsString::from("redis-server"), file.into()]);
            server
        }))
    }

    /// The one that this test process shares: the one that `JANGBU_TEST_REDIS` names by a URL, or one of its own, which ends with the
    /// process. It is neither to be broken nor flushed, and keys are to begin with something of the test's own.
    pub fn shared() -> &'static SharedRedis {
        static SHARED: OnceLock<SharedRedis> = OnceLock::new();
        SHARED.get_or_init(|| {
            if let Some(url) = named_by("JANGBU_TEST_REDIS") {
                return SharedRedis { url, _own: None };
            }
            let own = Self::start();
            SharedRedis {
                url: own.url(),
                _own: Some(own),
            }
        })
    }

    /// `redis://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// The directory of whatever it may write.
    pub fn data(&self) -> &Path {
        self.scratch()
    }
}

impl Deref for Redis {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for Redis {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

impl SharedRedis {
    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }
}

fn ready(server: &Server) -> bool {
    ping(server.address()).is_some_and(|answer| answer.starts_with("+PONG") || answer.starts_with("-NOAUTH"))
}

fn ping(address: SocketAddr) -> Option<String> {
    let mut redis = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    redis.set_read_timeout(Some(PATIENCE)).ok()?;
    redis.write_all(b"PING\r\n").ok()?;
    let mut answer = [0; 64];
    let length = redis.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}
