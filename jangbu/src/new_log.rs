//! A log that a command makes as a whole, of what is somewhere else: where it may be made, how far it is, and what ends it early.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use postgres_session::{Address, Session};

use crate::{
    failure::Failure,
    serve::{self, Signals},
};

/// Does the work on a thread that may wait, and prints what it has to say. A signal tells it to stop.
pub(crate) fn run(what: &str, work: impl FnOnce(&AtomicBool) -> Result<String, Failure> + Send + 'static) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    serve::on_runtime(async move {
        let mut signals = Signals::listen()?;
        let mut work = tokio::task::spawn_blocking(move || work(&stopped));
        let done = tokio::select! {
            done = &mut work => done,
            () = signals.next() => {
                stop.store(true, Ordering::Relaxed);
                work.await
            }
        };
        let summary = done.map_err(|_| Failure::failed(format_args!("{what} panicked")))??;
        print!("{summary}");
        Ok(())
    })
}

/// What was named, by itself or by a file that has it in it.
pub(crate) fn named(text: Option<&String>, file: Option<&Path>) -> Result<Option<String>, Failure> {
    let text = match (text, file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => {
            std::fs::read_to_string(file).map_err(|error| Failure::wrong(format_args!("{} cannot be read: {error}", file.display())))?
        }
        (None, None) => return Ok(None),
    };
    Ok(Some(text.trim().to_owned()))
}

/// What was named, as a directory. What came out of a file is shown to nobody before it is known to be one: it may be an address of another
/// form, with a password in it.
pub(crate) fn directory(named: String, file: Option<&Path>) -> Result<PathBuf, Failure> {
    let directory = PathBuf::from(named);
    match file {
        Some(file) if !directory.is_dir() => Err(Failure::wrong(format_args!(
            "{} holds neither an address that begins with postgres:// nor the name of a directory that is there",
            file.display()
        ))),
        _ => Ok(directory),
    }
}

/// A directory becomes a data directory only when it holds nothing else.
pub(crate) fn refuse_other_files(data: &Path) -> Result<(), Failure> {
    if data.join("log.db").exists() {
        return Ok(());
    }
    match std::fs::read_dir(data).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(Failure::wrong(format_args!(
            "{} is not empty; name a new or an empty directory with --data",
            data.display()
        ))),
        Ok(false) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::wrong(format_args!("{} cannot be looked at: {error}", data.display()))),
    }
}

/// A database of another program stays as it is: not even the tables of a log are made there, whatever name the server is called by.
pub(crate) fn refuse_other_tables(address: &Address, is_another_programs: bool) -> Result<(), Failure> {
    const IS_OTHER: &str = "SELECT to_regclass('events') IS NOT NULL AND to_regclass('log_head') IS NULL";
    let patience = Duration::from_secs(10);
    let session = Session::open(address, "", patience).map_err(|error| Failure::failed(format_args!("{address}: {error}")))?;
    let found = session.query_opt(IS_OTHER, &[]);
    let found = found.map_err(|error| Failure::failed(format_args!("{address}: {error}")))?;
    if is_another_programs || found.is_some_and(|row| row.get(0)) {
        return Err(Failure::wrong(format_args!(
            "JANGBU_STORE names {address}, which holds events of another program; name an empty database"
        )));
    }
    Ok(())
}

/// Shown on a terminal as it goes, elsewhere from time to time.
pub(crate) struct Progress {
    /// What is counted.
    what: &'static str,
    most: u64,
    shown: Instant,
    terminal: bool,
    begun: bool,
}

impl Progress {
    pub(crate) fn of(what: &'static str, most: u64) -> Self {
        Self {
            what,
            most,
            shown: Instant::now(),
            terminal: stderr().is_terminal(),
            begun: false,
        }
    }

    pub(crate) fn at(&mut self, done: &str, count: u64) {
        let every = Duration::from_millis(if self.terminal { 100 } else { 5_000 });
        if self.shown.elapsed() < every {
            return;
        }
        self.shown = Instant::now();
        self.begun = true;
        let (before, after) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        // Nobody reads a closed standard error.
        let _ = write!(stderr(), "{before}{done} {count}/{} {}{after}", self.most, self.what);
    }

    pub(crate) fn clear(&mut self) {
        if self.terminal && std::mem::take(&mut self.begun) {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
