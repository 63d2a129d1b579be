//! How far it is, for people who watch; and whether they have had enough.

use std::{
    cell::Cell,
    io::{IsTerminal, Write as _, stderr},
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use tokio::signal::unix::{SignalKind, signal};

/// How often the line is written anew.
const EVERY: Duration = Duration::from_millis(200);

pub(crate) struct Progress {
    interrupted: Arc<AtomicBool>,
    shown: Cell<bool>,
    quiet: bool,
    begun: Instant,
    last: Cell<Instant>,
    width: Cell<usize>,
    errors: Cell<u64>,
}

/// So many errors are told one by one; all are counted.
const TOLD: u64 = 10;

impl Progress {
    /// Begins to listen for Ctrl-C. The first ends what is done in order, the second at once.
    pub(crate) fn start(quiet: bool) -> Self {
        let interrupted = Arc::new(AtomicBool::new(false));
        let listener = Arc::clone(&interrupted);
        let (ready, listening) = mpsc::channel::<()>();
        let listen = move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                let Ok(mut interrupts) = signal(SignalKind::interrupt()) else {
                    return;
                };
                drop(ready);
                while interrupts.recv().await.is_some() {
                    if listener.swap(true, Ordering::Relaxed) {
                        std::process::exit(130);
                    }
                }
            });
        };
        // Without it Ctrl-C ends the process as ever.
        drop(std::thread::Builder::new().name("signals".into()).spawn(listen));
        // Before anything is printed: an early one would end it in the middle of a row. Nothing is sent: the other end goes.
        let _ = listening.recv();
        Self {
            interrupted,
            shown: Cell::new(!quiet && stderr().is_terminal()),
            quiet,
            begun: Instant::now(),
            last: Cell::new(Instant::now()),
            width: Cell::new(0),
            errors: Cell::new(0),
        }
    }

    /// Shows nothing: what is read is itself shown as it comes.
    pub(crate) fn hide(&self) {
        self.shown.set(false);
    }

    /// Shows how far it is, and says whether to go on.
    pub(crate) fn at(&self, what: &str, done: u64, of: u64) -> ControlFlow<()> {
        if self.shown.get() && self.last.get().elapsed() >= EVERY {
            self.last.set(Instant::now());
            let percent = done.saturating_mul(100).checked_div(of).unwrap_or(100);
            let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
            let speed = done.saturating_mul(1_000) / millis;
            let left = of
                .saturating_sub(done)
                .checked_div(speed)
                .map_or(String::new(), |left| format!(", {left} s left"));
            let line = format!("{what}: {done} of {of} events ({percent}%), {speed}/s{left}");
            let width = self.width.replace(line.len());
            let _ = write!(stderr(), "\r{line:width$}");
        }
        self.go_on()
    }

    /// Whether to go on.
    pub(crate) fn go_on(&self) -> ControlFlow<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Says something that is good to know, unless nobody wants to.
    pub(crate) fn say(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            self.clear();
            let _ = writeln!(stderr(), "replay: {line}");
        }
    }

    /// Says what went wrong and did not end it: the first few times, then only how often.
    pub(crate) fn error(&self, line: impl std::fmt::Display) {
        let count = self.errors.get() + 1;
        self.errors.set(count);
        if count <= TOLD {
            self.clear();
            let _ = writeln!(stderr(), "replay: {line}");
        }
    }

    /// Takes the line away and counts the errors; returns how many there were.
    pub(crate) fn finish(&self) -> u64 {
        self.clear();
        let count = self.errors.get();
        if count > 0 {
            let _ = writeln!(stderr(), "replay: {count} {}", if count == 1 { "error" } else { "errors" });
        }
        count
    }

    /// Takes the line away.
    pub(crate) fn clear(&self) {
        let width = self.width.replace(0);
        if width > 0 {
            let _ = write!(stderr(), "\r{:width$}\r", "");
        }
    }
}
