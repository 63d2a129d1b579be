//! What is the same for every server: it runs, it answers, and a test may break it.

use std::{ffi::OsString, fs, net::SocketAddr, path::Path, time::Duration};

use rustix::process::Signal;

use crate::{
    port,
    processes::{self, eventually},
    watchdog::{Guarded, User},
};

/// How long a server may take to answer, on a busy machine and after a crash.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long it may take to end when it is told to.
const PATIENCE_WITH_THE_END: Duration = Duration::from_secs(30);
/// How much of a log is shown when a server does not come up.
const SHOWN_LINES: usize = 30;
/// How often a port that was free may turn out to be taken.
const STARTS: usize = 5;

/// A server of this test process's own. It may be stopped, killed, frozen and started again; dropped, it ends and its data is removed.
pub struct Server {
    recipe: Recipe,
    port: u16,
    guarded: Guarded,
}

/// How a server is run.
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    /// Without its log, which is the output.
    pub(crate) command: Vec<OsString>,
    pub(crate) user: Option<User>,
    /// By which it ends at once, but clears up what is not in the scratch directory; and by which it ends in good order.
    pub(crate) quickly: &'static str,
    pub(crate) orderly: Signal,
    /// Whether it answers.
    pub(crate) ready: fn(&Server) -> bool,
}

impl Server {
    /// A scratch directory for a server on this port; nothing runs yet.
    pub(crate) fn prepare(port: u16, recipe: Recipe) -> Self {
        let guarded = Guarded::new(recipe.name, recipe.quickly, recipe.user)
            .unwrap_or_else(|error| panic!("{} has no scratch directory and no watchdog: {error}", recipe.name));
        Self { recipe, port, guarded }
    }

    /// What is started, once it is known where.
    pub(crate) fn set_command(&mut self, command: Vec<OsString>) {
        self.recipe.command = command;
    }

    /// A server that answers, from one that is prepared on free ports.
    pub(crate) fn started(prepare: impl Fn() -> Self) -> Self {
        for _ in 0..STARTS {
            let mut server = prepare();
            if server.start() {
                return server;
            }
        }
        panic!("a port that was free was taken {STARTS} times");
    }

    /// Starts it and waits until it answers. False: someone was quicker and has the port.
    fn start(&mut self) -> bool {
        let name = self.recipe.name;
        if let Err(error) = self.guarded.start(&self.recipe.command, self.recipe.user) {
            panic!("{name} cannot be started: {error}");
        }
        let mut ended = false;
        let answers = eventually(PATIENCE, || {
            ended = !self.guarded.runs();
            ended || (self.recipe.ready)(self)
        });
        // Another server answers on that port, and this one has just found it taken.
        ended |= !self.guarded.runs();
        if ended && self.log().to_ascii_lowercase().contains("address already in use") {
            self.guarded.kill();
            return false;
        }
        assert!(
            answers && !ended,
            "{name} {}:\n{}",
            if ended { "ended" } else { "does not answer" },
            self.end_of_log()
        );
        true
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        port::local(self.port)
    }

    /// The port it listens on, the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process that was started; for PostgreSQL the postmaster. It is another after a restart.
    ///
    /// # Panics
    /// When it was killed or stopped.
    pub fn pid(&self) -> u32 {
        self.guarded.pid().unwrap_or_else(|| panic!("{} was stopped", self.recipe.name))
    }

    /// The scratch directory, with the log in it.
    pub fn scratch(&self) -> &Path {
        self.guarded.scratch()
    }

    /// What it has logged since the first start.
    pub fn log(&self) -> String {
        fs::read(self.guarded.log())
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Whether it runs, if only to answer nothing.
    pub fn runs(&mut self) -> bool {
        self.guarded.runs()
    }

    /// Kills it and all its processes without a word, as `kill -9` does. Its data stays.
    pub fn kill(&mut self) {
        self.guarded.kill();
    }

    /// Ends it in good order, as at a planned restart. Its data stays.
    pub fn stop(&mut self) {
        let Some(pid) = self.guarded.pid() else { return };
        processes::signal(pid, self.recipe.orderly);
        assert!(
            self.guarded.end(PATIENCE_WITH_THE_END),
            "{} does not end in good order:\n{}",
            self.recipe.name,
            self.end_of_log()
        );
    }

    /// Starts it again on the same data and the same port, and waits until it answers. One that still runs is killed before.
    pub fn restart(&mut self) {
        self.guarded.kill();
        assert!(
            self.start(),
            "the port of {} was taken while it was down:\n{}",
            self.recipe.name,
            self.end_of_log()
        );
    }

    /// Stops all its processes where they stand: connections stay and nothing answers.
    pub fn freeze(&self) {
        processes::freeze(self.pid());
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        processes::thaw(self.pid());
    }

    fn end_of_log(&self) -> String {
        let log = self.log();
        let lines = log.lines().collect::<Vec<_>>();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

/// The text that a test dies with where a server is not installed.
pub(crate) fn not_installed(what: &str) -> ! {
    panic!("{what} is not installed. This installs it: tools/setup.sh servers")
}
