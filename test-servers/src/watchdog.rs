//! A process that outlives the test process for a moment, and clears up.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use crate::processes::{self, eventually};

const SCRIPT: &str = include_str!("watchdog.sh");
/// Writes down who it is, then becomes the server. Without its scratch directory it becomes nothing, so one that is started while the
/// watchdog clears up does not stay.
const LAUNCH: &str = r#"echo $$ >"$0" && exec "$@""#;
/// More than the watchdog gives a server.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a server is run as: a user and a group.
#[derive(Clone, Copy)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A process with a scratch directory. It ends and the directory goes when this is dropped, and when the process that holds it is gone.
pub struct Guarded {
    scratch: PathBuf,
    watchdog: Child,
    child: Option<Child>,
}

impl Guarded {
    /// A scratch directory whose name begins with `name`, and a watchdog beside it, which will end what runs by `signal`.
    pub(crate) fn new(name: &str, signal: &str, owner: Option<User>) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix(&format!("jangbu-{name}-")).tempdir()?;
        if let Some(owner) = owner {
            chown(directory.path(), Some(owner.uid), Some(owner.gid))?;
        }
        // A group of its own, so that Ctrl-C in the terminal does not reach it; and nobody waits for the end of its output.
        let watchdog = Command::new("sh")
            .args(["-c", SCRIPT, "watchdog"])
            .arg(directory.path())
            .arg(signal)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        // From here on it is the watchdog's.
        Ok(Self {
            scratch: directory.keep(),
            watchdog,
            child: None,
        })
    }

    /// A command of a test, with this process's input and output, which ends with this process.
    pub fn command(command: &[OsString], settings: &[(String, String)]) -> io::Result<Self> {
        let mut guarded = Self::new("command", "TERM", None)?;
        let mut launch = guarded.launch(command);
        launch.envs(settings.iter().map(|(name, value)| (name, value)));
        guarded.child = Some(launch.spawn()?);
        Ok(guarded)
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.as_mut().ok_or_else(|| io::Error::other("it does not run"))?.wait();
        self.forget();
        status
    }

    pub(crate) fn scratch(&self) -> &Path {
        &self.scratch
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.scratch.join("log")
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts a server, which writes its log into the scratch directory.
    pub(crate) fn start(&mut self, command: &[OsString], user: Option<User>) -> io::Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut launch = self.launch(command);
        launch
            .current_dir(&self.scratch)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        if let Some(user) = user {
            launch.uid(user.uid).gid(user.gid);
        }
        self.child = Some(launch.spawn()?);
        Ok(())
    }

    /// Whether what was started still runs.
    pub(crate) fn runs(&mut self) -> bool {
        let runs = self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if !runs {
            self.forget();
        }
        runs
    }

    /// Kills what runs, with its children, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // One that has ended is waited for by now, and its number may be another's.
        if let Some(pid) = self.pid().filter(|_| self.runs()) {
            processes::kill(pid);
        }
        self.reap();
    }

    /// Waits until what runs has ended, for it was told to; killed if it does not listen. True: it did.
    pub(crate) fn end(&mut self, patience: Duration) -> bool {
        let ended = eventually(patience, || !self.runs());
        self.kill();
        ended
    }

    fn launch(&self, command: &[OsString]) -> Command {
        let mut launch = Command::new("sh");
        launch
            .args([OsStr::new("-c"), OsStr::new(LAUNCH), self.pid_file().as_os_str()])
            .args(command);
        launch
    }

    fn pid_file(&self) -> PathBuf {
        self.scratch.join("pid")
    }

    /// Its number may be another's as soon as it was waited for, so nobody may remember it then.
    fn reap(&mut self) {
        self.forget();
        if let Some(mut child) = self.child.take() {
            // It is dead.
            let _ = child.wait();
        }
    }

    fn forget(&self) {
        // It may never have been written.
        let _ = fs::remove_file(self.pid_file());
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // The end of its input is the watchdog's word to begin. It does what is to be done, so that there is one way to end.
        drop(self.watchdog.stdin.take());
        eventually(PATIENCE, || !matches!(self.watchdog.try_wait(), Ok(None)));
        // What follows finds nothing to do, unless someone has killed the watchdog.
        self.kill();
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        let _ = fs::remove_dir_all(&self.scratch);
    }
}
