//! Moves what is written from the write-ahead log to the file, beside the writer, so that no batch waits for it.
//!
//! Should it fall behind, the writer does it itself once the write-ahead log is long; there is always an end to its growth.

use std::{
    path::Path,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::Connection;

/// How often it looks.
const INTERVAL: Duration = Duration::from_millis(200);

/// After this many pages the writer does it itself.
pub(crate) const WRITER_CHECKPOINTS_AFTER: i64 = 24_000;

/// The thread; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Without it the views work as well, only less evenly: so nothing here is an error.
    pub(crate) fn start(path: &Path) -> Option<Self> {
        let connection = Connection::open(path).and_then(|connection| {
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            Ok(connection)
        });
        let connection = connection.ok()?;
        let (stop, stopped) = channel();
        let work = move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(INTERVAL) {
                // Passive: it waits for nobody, and nobody for it. What it cannot move now it moves the next time.
                let moved = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
                if let Err(error) = moved {
                    tracing::debug!(%error, "the views' write-ahead log was not moved to their file");
                }
            }
        };
        let thread = std::thread::Builder::new().name("views-checkpoint".into()).spawn(work).ok()?;
        Some(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
