//! The real binary, serving the demo shop on a data directory of its own, and a client that speaks to it as anybody outside would.

#![allow(dead_code, reason = "each test binary uses its own part of the harness")]

pub(crate) mod client;
pub(crate) mod invariants;
pub(crate) mod kept;

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use test_servers::Database;
use tokio::process::{Child, Command};

#[allow(unused_imports, reason = "each test binary uses its own part of the harness")]
pub(crate) use client::{Answer, Client, Pay, Token, order};
use kept::Kept;

/// Of the demo: 5,000 KRW, 1,000 in stock.
pub(crate) const COFFEE: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
pub(crate) const ADMIN: &str = "admin@jangbu.dev";
pub(crate) const SELLER: &str = "seller@jangbu.dev";
pub(crate) const BUYER: &str = "buyer@jangbu.dev";
pub(crate) const PASSWORD: &str = "jangbu-demo";

/// How long anything may take before a test gives up: far more than it takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at something that is waited for.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// How many shards every shop of these tests has: `JANGBU_TEST_SHARDS`, or one.
pub(crate) fn shards() -> u16 {
    let shards = std::env::var("JANGBU_TEST_SHARDS");
    shards.map_or(1, |shards| shards.parse().expect("JANGBU_TEST_SHARDS is a number"))
}

/// A shop in a process of its own.
pub(crate) struct Shop {
    /// Holds what is not the shop's: its output. Removed with it.
    scratch: TempDir,
    data: PathBuf,
    settings: Vec<(String, String)>,
    child: Child,
    client: Client,
    /// Dropped when it has ended.
    kept: Option<Kept>,
}

impl Shop {
    /// The demo shop with these settings, ready.
    pub(crate) async fn open(settings: &[(&str, &str)]) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let data = scratch.path().join("data");
        Self::open_in(scratch, data, settings).await
    }

    /// The same, with its log and its views in this database.
    pub(crate) async fn open_on(database: Database, settings: &[(&str, &str)]) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let data = scratch.path().join("data");
        let kept = Kept::on(database, &data);
        Self::open_kept(scratch, data, Some(kept), settings).await
    }

    /// The same, with its data in this directory.
    pub(crate) async fn open_in(scratch: TempDir, data: PathBuf, settings: &[(&str, &str)]) -> Self {
        let kept = Kept::for_shop(&data);
        Self::open_kept(scratch, data, kept, settings).await
    }

    async fn open_kept(scratch: TempDir, data: PathBuf, kept: Option<Kept>, settings: &[(&str, &str)]) -> Self {
        let shards = ("JANGBU_SHARDS".to_owned(), shards().to_string());
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        // What a test asks for itself comes last, and counts.
        let place = kept.iter().flat_map(Kept::settings);
        let settings: Vec<_> = std::iter::once(shards).chain(place).chain(settings).collect();
        let child = spawn(scratch.path(), &data, &settings);
        let mut shop = Self {
            scratch,
            data,
            settings,
            child,
            client: Client::new(),
            kept,
        };
        shop.wait_until_ready().await;
        shop
    }

    /// A client that finds the shop also after it was started again.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Where its data is.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Drops all that is derived from the log; it is stopped.
    pub(crate) fn forget_views(&self) {
        match self.kept.as_ref().and_then(Kept::database) {
            Some(database) => {
                database.sql("DROP SCHEMA jangbu_views CASCADE; DELETE FROM jangbu_schemas WHERE name <> 'log'");
            }
            None => {
                for file in ["views.db", "views.db-wal", "views.db-shm"] {
                    match fs::remove_file(self.data.join(file)) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{file}: {error}"),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Ends it as a power cut does.
    pub(crate) async fn kill(&mut self) {
        self.child.start_kill().expect("the shop's own process can be killed");
        self.child.wait().await.expect("it has ended");
    }

    /// Whether it has not ended by itself.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("the shop's own process can be asked").is_none()
    }

    /// Starts it on what it left behind.
    pub(crate) async fn start_again(&mut self) {
        let left = self.child.try_wait().expect("the shop's own process can be asked");
        assert!(left.is_some(), "the shop runs already");
        self.child = spawn(self.scratch.path(), &self.data, &self.settings);
        self.wait_until_ready().await;
    }

    /// Kills it and starts it on what it left behind.
    pub(crate) async fn kill_and_start_again(&mut self) {
        self.kill().await;
        self.start_again().await;
    }

    /// Asks it to end, which it does in order.
    pub(crate) async fn stop(&mut self) {
        let pid = self.child.id().expect("the shop runs").to_string();
        // The shell's own kill: not every machine has the program.
        let asked = std::process::Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status();
        let asked = asked.expect("a shell can be run");
        assert!(asked.success(), "the shop's own process can be asked to end");
        let status = tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("it ends when it is asked to")
            .expect("it has ended");
        assert_eq!(status.code(), Some(0), "ends in order:\n{}", self.output());
    }

    /// Waits until the provider's ledger and the log say the same of every order.
    pub(crate) async fn agrees_with_the_provider(&self) {
        eventually("the provider's ledger and ours agree", async || {
            // The ledger first: every order in it is in the log by then.
            let ledger = invariants::provider(&self.data);
            invariants::read(&self.data).disagreement(&ledger).is_none().then_some(())
        })
        .await;
    }

    /// Ends it in order, and looks at everything that must always hold.
    pub(crate) async fn close(mut self) -> invariants::Log {
        self.stop().await;
        let output = self.output();
        assert!(!output.contains("panicked"), "a panic:\n{output}");
        let personal = invariants::PERSONAL
            .into_iter()
            .chain([PASSWORD])
            .find(|text| output.contains(text));
        assert_eq!(personal, None, "what it says names nobody:\n{output}");
        invariants::check(&self.data)
    }

    /// Everything that it has said, on both of its outputs, over all its lives.
    pub(crate) fn output(&self) -> String {
        let bytes = fs::read(output_file(self.scratch.path())).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    async fn wait_until_ready(&mut self) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the shop's own process can be asked") {
                panic!("the shop ended by itself ({status}):\n{}", self.output());
            }
            if let Some(address) = address(&self.data) {
                self.client.moved_to(&address);
                if self.client.is_ready().await {
                    return;
                }
            }
            assert!(begun.elapsed() < PATIENCE, "the shop is not ready:\n{}", self.output());
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<_> = output.lines().collect();
            eprintln!("the shop's last lines:");
            for line in &lines[lines.len().saturating_sub(40)..] {
                eprintln!("  | {line}");
            }
        }
    }
}

/// Runs the binary until it ends by itself, which it does soon: what it said, and how it ended.
pub(crate) async fn runs_into(scratch: &Path, data: &Path, listen: &str) -> (ExitStatus, String) {
    let mut command = command(scratch, data, listen);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::time::timeout(PATIENCE, command.output())
        .await
        .expect("it ends by itself")
        .expect("the binary runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status, String::from_utf8_lossy(&said).into_owned())
}

fn spawn(scratch: &Path, data: &Path, settings: &[(String, String)]) -> Child {
    // The one before it left its own.
    let _ = fs::remove_file(data.join("address"));
    let output = output_file(scratch);
    let append = || -> File {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&output)
            .expect("a file for what it says")
    };
    let mut command = command(scratch, data, "127.0.0.1:0");
    for (name, value) in settings {
        command.env(name, value);
    }
    command
        .stdin(Stdio::null())
        .stdout(append())
        .stderr(append())
        .spawn()
        .expect("the binary runs")
}

fn command(scratch: &Path, data: &Path, listen: &str) -> Command {
    let data = data.to_str().expect("text");
    let mut command = Command::from(jangbu(&["serve", "--demo", "--listen", listen, "--data", data]));
    command.current_dir(scratch).kill_on_drop(true);
    command
}

/// What the arguments of the shop are called for a test binary that is the shop's binary too.
pub(crate) const ARGUMENTS: &str = "JANGBU_TEST_ARGUMENTS";

/// Whether this is the test binary that is carried to another machine (tests/esdb.rs), where no other binary is.
pub(crate) fn carried() -> bool {
    env!("CARGO_CRATE_NAME") == "esdb"
}

/// The binary with these arguments, and no setting of whoever runs the tests; no jangbu.toml of theirs is in the directory that the caller chooses.
pub(crate) fn jangbu(arguments: &[&str]) -> std::process::Command {
    let mut command = if carried() {
        let mut command = std::process::Command::new(std::env::current_exe().expect("this binary"));
        command.args(["--exact", "as_the_shop", "--nocapture"]);
        command
    } else {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_jangbu"));
        command.args(arguments);
        command
    };
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("JANGBU_") {
            command.env_remove(name);
        }
    }
    if carried() {
        command.env(ARGUMENTS, serde_json::to_string(arguments).expect("text"));
    }
    command
}

fn output_file(scratch: &Path) -> PathBuf {
    scratch.join("output")
}

/// Where it listens, once it has written that down.
fn address(data: &Path) -> Option<String> {
    let text = fs::read_to_string(data.join("address")).ok()?;
    let address = text.trim().trim_start_matches("http://");
    address.parse::<std::net::SocketAddr>().is_ok().then(|| address.to_owned())
}

/// Looks until it is as wanted.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Choices by chance: `SplitMix64` from a seed that is printed.
pub(crate) struct Chance(u64);

impl Chance {
    /// From `JANGBU_TEST_SEED`, or a new one; printed, so that the same choices can be had again.
    pub(crate) fn new(test: &str) -> Self {
        let seed = std::env::var("JANGBU_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
        println!("{test}: JANGBU_TEST_SEED={seed}");
        Self(seed)
    }

    /// Another, that goes its own way.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, and without, this.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
