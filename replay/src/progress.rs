//! How far it is, for people who watch; and whether they have had enough.

use std::{
    cell::Cell,
    io::{IsTerminal, Write as _, stderr},
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How often the line is written anew.
const EVERY: Duration = Duration::from_millis(200);

pub(crate) struct Progress {
    interrupted: Arc<AtomicBool>,
    shown: bool,
    last: Cell<Instant>,
    width: Cell<usize>,
}

impl Progress {
    /// Begins to listen for Ctrl-C. The first ends what is done in order, the second at once.
    pub(crate) fn start() -> Self {
        let interrupted = Arc::new(AtomicBool::new(false));
        let listener = Arc::clone(&interrupted);
        let listen = move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                while tokio::signal::ctrl_c().await.is_ok() {
                    if listener.swap(true, Ordering::Relaxed) {
                        std::process::exit(130);
                    }
                }
            });
        };
        // Without it Ctrl-C ends the process as ever.
        drop(std::thread::Builder::new().name("signals".into()).spawn(listen));
        Self {
            interrupted,
            shown: stderr().is_terminal(),
            last: Cell::new(Instant::now()),
            width: Cell::new(0),
        }
    }

    /// Shows how far it is, and says whether to go on.
    pub(crate) fn at(&self, what: &str, done: u64, of: u64) -> ControlFlow<()> {
        if self.shown && self.last.get().elapsed() >= EVERY {
            self.last.set(Instant::now());
            let percent = done.saturating_mul(100).checked_div(of).unwrap_or(100);
            let line = format!("{what}: {done} of {of} events ({percent}%)");
            let width = self.width.replace(line.len());
            let _ = write!(stderr(), "\r{line:width$}");
        }
        if self.interrupted.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&self) {
        let width = self.width.replace(0);
        if width > 0 {
            let _ = write!(stderr(), "\r{:width$}\r", "");
        }
    }
}
