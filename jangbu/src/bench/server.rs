//! The bench's own server: this program again, on a free port, with its data in a folder that goes afterwards.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::client::{
    http::{Address, Call},
    people::Credentials,
};

const STARTS_WITHIN: Duration = Duration::from_mins(1);
const ENDS_WITHIN: Duration = Duration::from_mins(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// What the scratch folder holds: the data directory, and beside it what the server says.
const DATA: &str = "data";
const LOG: &str = "server.log";

/// A new folder on the disk that is to be measured.
pub(super) struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Within `base`; without one within `target/bench`, or the system's temporary folder where there is no `target`.
    pub(super) fn new(base: Option<&Path>, keep: bool) -> anyhow::Result<Self> {
        let base = match base {
            Some(base) => base.to_owned(),
            None if Path::new("target").is_dir() => Path::new("target").join("bench"),
            None => std::env::temp_dir(),
        };
        let path = base.join(format!("purchase-{}", Uuid::new_v4().simple()));
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        let path = fs::canonicalize(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Self { path, keep })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            super::say(&format!("{} was not removed: {error}", self.path.display()));
        }
    }
}

/// A server that ends with this value.
pub(super) struct Server {
    child: Child,
    pid: u32,
    scratch: PathBuf,
}

impl Server {
    /// Starts it and waits until it is ready. It takes the settings of this process's environment, as any server does.
    pub(super) async fn start(scratch: &Path, admin: &Credentials) -> anyhow::Result<(Self, Address)> {
        let log = fs::File::create(scratch.join(LOG)).context("creating the server's log")?;
        let program = std::env::current_exe().context("finding this program")?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(scratch.join(DATA));
        command
            .env("JANGBU_ADMIN__EMAIL", &admin.email)
            .env("JANGBU_ADMIN__PASSWORD", &admin.password);
        if std::env::var_os("JANGBU_LOG").is_none() {
            command.env("JANGBU_LOG", "warn");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let child = command.spawn().context("starting the server")?;
        let pid = child.id().context("the server ended at once")?;
        let mut server = Self {
            child,
            pid,
            scratch: scratch.to_owned(),
        };
        let address = server.ready().await?;
        Ok((server, address))
    }

    async fn ready(&mut self) -> anyhow::Result<Address> {
        let deadline = Instant::now() + STARTS_WITHIN;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server did not start ({status}): {}", self.last_lines());
            }
            if let Some(address) = self.address()
                && Call::get("/readyz").send(&address).await.is_ok_and(|(status, _)| status == 200)
            {
                return Ok(address);
            }
            if Instant::now() > deadline {
                bail!("the server was not ready within {STARTS_WITHIN:?}: {}", self.last_lines());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// It writes where it listens into its data directory.
    fn address(&self) -> Option<Address> {
        fs::read_to_string(self.scratch.join(DATA).join("address")).ok()?.parse().ok()
    }

    fn last_lines(&self) -> String {
        let log = fs::read_to_string(self.scratch.join(LOG)).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks it to end, and waits until it has.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        // Its end is not collected before `wait` below, so the id is still its own.
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).context("asking the server to end")?;
        }
        let ended = tokio::time::timeout(ENDS_WITHIN, self.child.wait()).await;
        let status = ended.with_context(|| format!("the server did not end within {ENDS_WITHIN:?}"))??;
        if !status.success() {
            bail!("the server ended with {status}: {}", self.last_lines());
        }
        Ok(())
    }
}

/// The settings in the environment that the server takes over, without those that are secret or personal.
pub(super) fn settings() -> BTreeMap<String, String> {
    const HIDDEN: [&str; 8] = ["ADMIN", "PASSWORD", "SECRET", "KEYS", "REDIS", "STORE", "VIEWS", "CACHE"];
    let ours = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    ours.filter(|(name, _)| name.starts_with("JANGBU_") && !HIDDEN.iter().any(|hidden| name.contains(hidden)))
        .collect()
}
