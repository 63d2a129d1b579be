//! The production topology as processes on this machine: PostgreSQL, Kafka, Redis, the provider, `HAProxy`, and the shop in nine processes.

use std::{
    fs::{self, File, OpenOptions},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use test_servers::{Database, Haproxy, Kafka, Postgres, Proxy, Redis};
use tokio::{
    process::{Child, Command},
    sync::{Mutex, MutexGuard},
};

use crate::shop::{Client, LOOK, PATIENCE};

/// How many shards the log has.
pub(crate) const SHARDS: u16 = 16;

/// How long a process takes requests still when it is told to end: longer than `HAProxy` needs to notice.
const DRAIN: &str = "1500ms";

/// A process that does not answer so quickly has got stuck.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// One process of the shop.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    arguments: Vec<String>,
    settings: Vec<(String, String)>,
    scratch: PathBuf,
    child: Option<Child>,
}

/// All of it.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) entry: Haproxy,
    pub(crate) kafka: Kafka,
    pub(crate) postgres: Postgres,
    pub(crate) redis: Redis,
    /// What the shop's processes go through to reach them.
    pub(crate) to_kafka: Proxy,
    pub(crate) to_postgres: Proxy,
    pub(crate) to_redis: Proxy,
    pub(crate) log: Database,
    _keys: Database,
    /// Their data and what they write. Removed with it.
    _scratch: TempDir,
    /// One at a time: each is as much as a machine can carry.
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::const_new(());

/// How many processes of each role there are.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) engines: usize,
    pub(crate) apis: usize,
    pub(crate) queries: usize,
}

fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}

impl Node {
    fn begin(scratch: &Path, name: &str, arguments: &[&str], settings: &[(String, String)]) -> Self {
        let mut node = Self {
            name: name.to_owned(),
            address: free_address(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            settings: settings.to_vec(),
            scratch: scratch.to_owned(),
            child: None,
        };
        node.start();
        node
    }

    /// Starts it, with the data directory that it had.
    pub(crate) fn start(&mut self) {
        let output = self.output_file();
        let command = Command::new(env!("CARGO_BIN_EXE_jangbu"))
            .args(&self.arguments)
            .args(["--listen", &self.address.to_string()])
            .arg("--data")
            .arg(self.data())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.scratch)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .kill_on_drop(true)
            .spawn();
        self.child = Some(command.expect("the binary starts"));
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.scratch.join(&self.name)
    }

    fn output_file(&self) -> File {
        let path = self.scratch.join(format!("{}.log", self.name));
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("a file for its output")
    }

    /// What it has written.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.scratch.join(format!("{}.log", self.name))).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(Child::id).expect("it runs");
        let id = Pid::from_raw(i32::try_from(id).expect("a process id")).expect("a process");
        kill_process(id, signal).expect("a process of this test's own");
    }

    /// Ends it as a power cut does.
    pub(crate) async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.start_kill().expect("its own process");
            child.wait().await.expect("it has ended");
        }
    }

    /// Ends it in order.
    pub(crate) async fn stop(&mut self) {
        if self.child.is_none() {
            return;
        }
        self.signal(Signal::TERM);
        let mut child = self.child.take().expect("it runs");
        let status = tokio::time::timeout(PATIENCE, child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("{} does not end:\n{}", self.name, self.output()));
        let status = status.expect("it has ended");
        assert!(status.success(), "{} ends with {status}:\n{}", self.name, tail(&self.output()));
    }

    /// What it says to whoever asks whether it is ready, when it is not.
    async fn unready(&self) -> Option<String> {
        let client = Client::new();
        client.moved_to(&self.address.to_string());
        let request = client.request(reqwest::Method::GET, "/readyz").timeout(ANSWERS_WITHIN);
        match Client::send(request).await {
            Ok(answer) if answer.status == 200 => None,
            Ok(answer) => Some(answer.body.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    pub(crate) async fn wait_until_ready(&mut self) {
        let begun = Instant::now();
        while let Some(reason) = self.unready().await {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("it can be asked"));
            assert!(ended.is_none(), "{} has ended: {}", self.name, tail(&self.output()));
            assert!(
                begun.elapsed() < PATIENCE,
                "{} does not get ready: {reason}\n{}",
                self.name,
                tail(&self.output())
            );
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The last lines.
pub(crate) fn tail(output: &str) -> String {
    let lines: Vec<_> = output.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

impl Cluster {
    /// The demo shop, ready.
    pub(crate) async fn open(size: Size) -> Self {
        let turn = TURN.lock().await;
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (postgres, kafka, redis) = (Postgres::start(), Kafka::start(), Redis::start());
        let (log, keys) = (postgres.database(), postgres.database());
        let (to_postgres, to_kafka, to_redis) = (Proxy::to(postgres.address()), kafka.proxy(), Proxy::to(redis.address()));
        let provider = Node::begin(scratch.path(), "provider", &["simulator"], &[]);
        wait_for(&provider).await;
        let settings: Vec<(String, String)> = [
            ("JANGBU_STORE", log.url_at(to_postgres.address())),
            ("JANGBU_VIEWS", log.url_at(to_postgres.address())),
            ("JANGBU_KEYS", keys.url_at(to_postgres.address())),
            ("JANGBU_KAFKA", to_kafka.address().to_string()),
            ("JANGBU_REDIS", format!("redis://{}", to_redis.address())),
            ("JANGBU_SHARDS", SHARDS.to_string()),
            ("JANGBU_TOSS__URL", format!("http://{}", provider.address)),
            ("JANGBU_BEHIND_PROXY", "true".to_owned()),
            ("JANGBU_DRAIN", DRAIN.to_owned()),
            ("JANGBU_LOG_FORMAT", "text".to_owned()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        migrate(scratch.path(), &settings).await;
        let mut nodes = vec![provider];
        let roles = [
            ("engine", size.engines),
            ("projections", 1),
            ("relay", 1),
            ("command-api", size.apis),
            ("query-api", size.queries),
        ];
        for (role, count) in roles {
            for number in 1..=count {
                let demo: &[&str] = if role == "command-api" { &["--demo"] } else { &[] };
                let arguments = [&["serve", "--role", role], demo].concat();
                nodes.push(Node::begin(scratch.path(), &format!("{role}-{number}"), &arguments, &settings));
            }
        }
        for node in nodes.iter_mut().skip(1) {
            node.wait_until_ready().await;
        }
        let of = |role: &str| -> Vec<_> {
            nodes
                .iter()
                .filter(|node| node.name.starts_with(role))
                .map(|node| node.address)
                .collect()
        };
        let entry = Haproxy::start(&of("command-api"), &of("query-api"));
        entry.wait_until_up("command-api", size.apis);
        entry.wait_until_up("query-api", size.queries);
        Self {
            nodes,
            entry,
            kafka,
            postgres,
            redis,
            to_kafka,
            to_postgres,
            to_redis,
            log,
            _keys: keys,
            _scratch: scratch,
            _turn: turn,
        }
    }

    /// Who comes in by the one entry.
    pub(crate) fn client(&self) -> Client {
        let client = Client::new();
        client.moved_to(&self.entry.address().to_string());
        client
    }

    pub(crate) fn node(&mut self, name: &str) -> &mut Node {
        let node = self.nodes.iter_mut().find(|node| node.name == name);
        node.unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// The ledger of the provider.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.nodes[0].data().join("simulator.db")
    }

    /// Ends all processes of the shop but the provider, in order.
    pub(crate) async fn stop(&mut self) {
        // Those who ask before those who answer.
        for role in ["query-api", "command-api", "engine", "projections", "relay"] {
            for node in self.nodes.iter_mut().filter(|node| node.name.starts_with(role)) {
                node.stop().await;
            }
        }
    }
}

async fn wait_for(provider: &Node) {
    let begun = Instant::now();
    while std::net::TcpStream::connect(provider.address).is_err() {
        assert!(begun.elapsed() < PATIENCE, "the provider does not start: {}", provider.output());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn migrate(scratch: &Path, settings: &[(String, String)]) {
    let done = Command::new(env!("CARGO_BIN_EXE_jangbu"))
        .args(["migrate", "--data"])
        .arg(scratch.join("migrate"))
        .env_clear()
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .output()
        .await
        .expect("the binary runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
