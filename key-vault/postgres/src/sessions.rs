//! A few sessions, each driven by a thread of its own, and a bounded queue in front of them.
//!
//! A session blocks, and must not be driven inside a task; the vault is asked from any thread.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use key_vault::VaultError;
use parking_lot::{Condvar, Mutex};
use postgres_session::{Address, Error, SchemaError, Session, Trouble};

/// So many sessions. A question takes one round trip, and few are asked: most keys are in memory.
const SESSIONS: usize = 4;

/// So many questions may wait for a session; more are refused.
const MOST_WAITING: usize = 256;

/// How long the server may take for one call.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long whoever asks waits for all of it: for its turn, and for the answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// After the server was found silent or gone, nobody waits for it for so long.
const REST: Duration = Duration::from_millis(500);

/// A key that was made must not be lost, whatever the server's default is: what it sealed would be unreadable.
const SET_UP: &str = "
    SET statement_timeout = '2500ms';
    SET lock_timeout = '2s';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// Why a question has no answer.
pub(crate) enum Failure {
    /// The session says so.
    Session(Error),
    /// The answer is no.
    Vault(VaultError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Session(error)
    }
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}

impl Failure {
    /// The tables are not those that this program needs, or cannot be looked at.
    pub(crate) fn of_schema(place: &Address, error: SchemaError) -> Self {
        match error {
            SchemaError::Failed { source, .. } => Self::Session(source),
            other => Self::Vault(VaultError::Refused {
                place: place.to_string(),
                reason: other.to_string(),
            }),
        }
    }
}

pub(crate) struct Sessions {
    shared: Arc<Shared>,
}

struct Shared {
    address: Address,
    queue: Mutex<Queue>,
    ready: Condvar,
    /// Until when nobody is to wait for the server, and why.
    resting: Mutex<Option<(Instant, String)>>,
}

struct Queue {
    jobs: VecDeque<Job>,
    open: bool,
}

struct Job {
    until: Instant,
    run: Box<dyn FnOnce(&mut Line<'_>) + Send>,
}

impl Sessions {
    pub(crate) fn start(address: Address) -> Result<Self, VaultError> {
        let shared = Arc::new(Shared {
            address,
            queue: Mutex::new(Queue {
                jobs: VecDeque::new(),
                open: true,
            }),
            ready: Condvar::new(),
            resting: Mutex::new(None),
        });
        let sessions = Self { shared };
        for _ in 0..SESSIONS {
            let shared = Arc::clone(&sessions.shared);
            let work = move || shared.work();
            let started: io::Result<_> = thread::Builder::new().name("keys session".to_owned()).spawn(work);
            started.map_err(|error| sessions.shared.unavailable(format!("no thread to ask with: {error}")))?;
        }
        Ok(sessions)
    }

    pub(crate) fn address(&self) -> &Address {
        &self.shared.address
    }

    /// Asks the server, and waits for the answer. The question may be asked twice when the connection is lost, so it must not matter if
    /// it was heard before.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        question: impl Fn(&Session) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, VaultError> {
        let shared = &self.shared;
        shared.refuse_resting()?;
        let (reply, answer) = sync_channel(1);
        shared.push(Job {
            until: Instant::now() + ANSWERED_WITHIN,
            run: Box::new(move |line| line.answer(&question, &reply)),
        })?;
        match answer.recv_timeout(ANSWERED_WITHIN) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Failure::Vault(error))) => Err(error),
            Ok(Err(Failure::Session(error))) => Err(shared.refused(&error)),
            Err(RecvTimeoutError::Timeout) => Err(shared.unavailable(format!("no answer within {} s", ANSWERED_WITHIN.as_secs()))),
            Err(RecvTimeoutError::Disconnected) => Err(shared.unavailable("the question was dropped".to_owned())),
        }
    }
}

/// The threads end by themselves when they have answered.
impl Drop for Sessions {
    fn drop(&mut self) {
        self.shared.queue.lock().open = false;
        self.shared.ready.notify_all();
    }
}

impl Shared {
    fn push(&self, job: Job) -> Result<(), VaultError> {
        let mut queue = self.queue.lock();
        if queue.jobs.len() >= MOST_WAITING {
            return Err(self.unavailable("too many questions wait for an answer".to_owned()));
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.ready.notify_one();
        Ok(())
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if !queue.open {
                return None;
            }
            self.ready.wait(&mut queue);
        }
    }

    fn work(&self) {
        let mut line = Line {
            shared: self,
            session: None,
        };
        while let Some(job) = self.next() {
            // Whoever asked has gone.
            if job.until > Instant::now() {
                (job.run)(&mut line);
            }
        }
    }

    fn refuse_resting(&self) -> Result<(), VaultError> {
        let mut resting = self.resting.lock();
        match &*resting {
            Some((until, why)) if *until > Instant::now() => Err(self.unavailable(why.clone())),
            _ => {
                *resting = None;
                Ok(())
            }
        }
    }

    fn rest(&self, why: &Error) {
        *self.resting.lock() = Some((Instant::now() + REST, why.to_string()));
    }

    fn unavailable(&self, reason: String) -> VaultError {
        VaultError::Unavailable {
            place: self.address.to_string(),
            reason,
        }
    }

    fn refused(&self, error: &Error) -> VaultError {
        if error.trouble() == Trouble::Refused || error.is_forbidden() {
            return VaultError::Refused {
                place: self.address.to_string(),
                reason: error.to_string(),
            };
        }
        self.unavailable(error.to_string())
    }
}

/// One thread's session, opened when it is needed.
struct Line<'a> {
    shared: &'a Shared,
    session: Option<Session>,
}

impl Line<'_> {
    fn answer<T>(&mut self, question: &dyn Fn(&Session) -> Result<T, Failure>, reply: &SyncSender<Result<T, Failure>>) {
        // Nobody may wait any more.
        let _ = reply.send(self.ask(question));
    }

    fn ask<T>(&mut self, question: &dyn Fn(&Session) -> Result<T, Failure>) -> Result<T, Failure> {
        let had_session = self.session.is_some();
        let answer = match self.try_once(question) {
            // The server was restarted while the session was idle, perhaps.
            Err(Failure::Session(error)) if had_session && error.trouble() == Trouble::Lost => self.try_once(question),
            answer => answer,
        };
        if let Err(Failure::Session(error)) = &answer
            && matches!(error.trouble(), Trouble::Lost | Trouble::Silent)
        {
            self.shared.rest(error);
        }
        answer
    }

    fn try_once<T>(&mut self, question: &dyn Fn(&Session) -> Result<T, Failure>) -> Result<T, Failure> {
        let session = match self.session.take() {
            Some(session) if !session.is_closed() => session,
            _ => Session::open(&self.shared.address, SET_UP, PATIENCE)?,
        };
        let answer = question(&session);
        let keep = match &answer {
            // One that was unable may speak to a server that is a standby by now.
            Err(Failure::Session(error)) => error.trouble() == Trouble::Refused,
            _ => true,
        };
        if keep {
            self.session = Some(session);
        }
        answer
    }
}
