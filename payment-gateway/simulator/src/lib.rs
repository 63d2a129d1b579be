//! A simulated payment provider: it speaks the Toss Payments wire API, the payment key decides what happens, and every
//! movement of money is in its own ledger, durable before the answer is sent.
//!
//! | payment key | a confirmation |
//! |---|---|
//! | `sim_ok_*` | is approved |
//! | `sim_declined_*`, `sim_insufficient_*` | is refused |
//! | `sim_lost_applied_*` | charges and is never answered |
//! | `sim_lost_*` | does not charge and is never answered |
//! | `sim_5xx_*` | fails twice with 500, then is approved |
//! | `sim_slow_*` | is approved after a while ([`SimulatorSettings::slow`]), also when the caller has hung up |
//!
//! The longest prefix decides; a payment under any other key does not exist. A payment key belongs to one order id.
//! A charged payment answers the same confirmation (same `Idempotency-Key`) with the same answer and refuses any other
//! with `ALREADY_PROCESSED_PAYMENT`. Any secret key that is not empty is accepted.
//!
//! Memory never decides: one thread takes what waits in a bounded queue, decides it against the ledger file, commits once
//! and then answers, so a restart forgets nothing that was answered.

mod books;
mod decide;
mod ledger;
mod script;
mod wire;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use payment_gateway_toss::amount;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{Semaphore, mpsc, oneshot};

pub use crate::books::{Books, Known, Word};
use crate::decide::{Change, Confirm, Decision, Refusal};
use crate::ledger::Standing;
pub use crate::ledger::{Entry, EntryKind, LARGEST_PAGE, LedgerPage};

/// Requests that wait for the writer, and questions that wait for the reader.
const QUEUE: usize = 8192;
/// The most changes of one commit.
const BATCH: usize = 1024;
/// The most confirmations that are held open without an answer, and the most slow ones.
const HELD: usize = 4096;
/// Every caller has hung up by then.
const HELD_FOR: Duration = Duration::from_mins(15);

/// How the simulator behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulatorSettings {
    /// How long a `sim_slow_*` payment takes.
    pub slow: Duration,
    /// The one currency that it charges, an ISO 4217 code whose wire form is known.
    pub currency: String,
}

impl Default for SimulatorSettings {
    fn default() -> Self {
        Self {
            slow: Duration::from_secs(3),
            currency: "KRW".into(),
        }
    }
}

/// Why the simulator cannot start or its ledger cannot be read. Every message is one line.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// The file is a database of something else.
    #[error("{} is not a ledger of the payment simulator", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A later version wrote the file.
    #[error("{} has format {format}, which is newer than this version of the payment simulator reads", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format that it has.
        format: i64,
    },
    /// The file cannot be opened, read or written, or is damaged.
    #[error("{} cannot be used as the payment simulator's ledger: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The storage's words.
        reason: String,
        /// The cause.
        source: rusqlite::Error,
    },
    /// The wire form of the currency is not known.
    #[error("the payment simulator does not know the currency {0}")]
    Currency(String),
    /// A thread cannot be started.
    #[error("the payment simulator cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
    /// More questions wait than the queue holds, or the simulator is stopping.
    #[error("the payment simulator is busy")]
    Busy,
}

impl SimulatorError {
    fn unusable(path: &Path, source: rusqlite::Error) -> Self {
        let reason = source.to_string().replace(['\n', '\r'], " ");
        Self::Unusable {
            path: path.into(),
            reason,
            source,
        }
    }
}

/// The simulated provider. Clones share one ledger; its threads end with the last clone.
#[derive(Clone)]
pub struct Simulator {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    settings: SimulatorSettings,
    writer: mpsc::Sender<Request>,
    reader: mpsc::Sender<Question>,
    commits: Arc<AtomicU64>,
    held: Semaphore,
    slow: Mutex<HashSet<String>>,
    // Dropped after the queues above, which ends the threads.
    _threads: Threads,
}

/// Waited for when the last clone goes, so that the ledger file is closed by then.
struct Threads(Vec<JoinHandle<()>>);

impl Drop for Threads {
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A change and where its decision is awaited.
struct Request {
    change: Change,
    answer: oneshot::Sender<Decision>,
}

type Question = Box<dyn FnOnce(&Connection) + Send>;

impl Simulator {
    /// Opens the ledger in this file, or creates it, with the usual settings.
    pub fn open(path: &Path) -> Result<Self, SimulatorError> {
        Self::open_with(path, SimulatorSettings::default())
    }

    /// Opens the ledger in this file, or creates it.
    pub fn open_with(path: &Path, settings: SimulatorSettings) -> Result<Self, SimulatorError> {
        if amount::decimals(&settings.currency).is_none() {
            return Err(SimulatorError::Currency(settings.currency));
        }
        let connection = ledger::open(path)?;
        let read_connection = ledger::open_to_read(path)?;
        let (writer, requests) = mpsc::channel(QUEUE);
        let (reader, questions) = mpsc::channel(QUEUE);
        let commits = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&commits);
        let threads = vec![
            start("simulator-write", move || write(connection, requests, &counted))?,
            start("simulator-read", move || read(&read_connection, questions))?,
        ];
        let inner = Inner {
            path: path.into(),
            settings,
            writer,
            reader,
            commits,
            held: Semaphore::new(HELD),
            slow: Mutex::default(),
            _threads: Threads(threads),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The wire API: `POST /v1/payments/confirm`, `GET /v1/payments/{paymentKey}`,
    /// `POST /v1/payments/{paymentKey}/cancel` and the open `GET /v1/ledger?after=&limit=&orderId=`, which answers with a
    /// [`LedgerPage`].
    pub fn router(&self) -> axum::Router {
        wire::router(self.clone())
    }

    /// A page of the ledger: at most `limit` (1 to [`LARGEST_PAGE`]) entries after the one with this id, of one order or
    /// of all.
    pub async fn entries_after(&self, after: i64, limit: usize, order_id: Option<&str>) -> Result<LedgerPage, SimulatorError> {
        let order_id = order_id.map(str::to_owned);
        self.ask(move |connection| ledger::entries_after(connection, after, limit, order_id.as_deref()))
            .await
    }

    /// What the shop has kept for an order: all its charges less all its cancellations, in the currency's smallest unit.
    pub async fn net(&self, order_id: &str) -> Result<i64, SimulatorError> {
        let order_id = order_id.to_owned();
        self.ask(move |connection| ledger::net(connection, &order_id)).await
    }

    /// How many times changes were made durable since the ledger was opened. Many requests share one commit.
    pub fn commits(&self) -> u64 {
        self.inner.commits.load(Ordering::Relaxed)
    }

    pub(crate) fn settings(&self) -> &SimulatorSettings {
        &self.inner.settings
    }

    pub(crate) async fn standing(&self, payment_key: String) -> Result<Standing, SimulatorError> {
        self.ask(move |connection| ledger::standing(connection, &payment_key)).await
    }

    /// Queues a change and waits until it is decided and durable. Once queued it happens, whether or not anyone waits.
    pub(crate) async fn change(&self, change: Change) -> Decision {
        let (answer, decision) = oneshot::channel();
        self.inner.writer.try_send(Request { change, answer }).map_err(|_| Refusal::BUSY)?;
        decision.await.unwrap_or(Err(Refusal::FAILED))
    }

    /// Confirms after the slow payment's delay. It goes on when the caller hangs up: the money moves all the same.
    pub(crate) async fn confirm_slowly(&self, confirm: Confirm) -> Decision {
        {
            let mut slow = self.inner.slow.lock();
            if slow.len() >= HELD {
                return Err(Refusal::BUSY);
            }
            if !slow.insert(confirm.payment_key.clone()) {
                return Err(Refusal::IN_PROGRESS);
            }
        }
        let simulator = self.clone();
        let confirmation = tokio::spawn(async move {
            tokio::time::sleep(simulator.inner.settings.slow).await;
            let payment_key = confirm.payment_key.clone();
            let decision = simulator.change(Change::Confirm(confirm)).await;
            simulator.inner.slow.lock().remove(&payment_key);
            decision
        });
        confirmation.await.unwrap_or(Err(Refusal::FAILED))
    }

    /// Leaves the caller without an answer until it hangs up.
    pub(crate) async fn hold(&self) -> Refusal {
        let Ok(_place) = self.inner.held.try_acquire() else {
            return Refusal::BUSY;
        };
        tokio::time::sleep(HELD_FOR).await;
        Refusal::NO_ANSWER
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, SimulatorError> {
        let (answer, answered) = oneshot::channel();
        let question: Question = Box::new(move |connection| {
            // Whoever asked may have left.
            let _ = answer.send(question(connection));
        });
        self.inner.reader.try_send(question).map_err(|_| SimulatorError::Busy)?;
        let answer = answered.await.map_err(|_| SimulatorError::Busy)?;
        answer.map_err(|source| SimulatorError::unusable(&self.inner.path, source))
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, SimulatorError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(SimulatorError::Thread)
}

/// The writer: takes all that waits, decides it in one transaction, and answers when that is durable.
fn write(mut connection: Connection, mut requests: mpsc::Receiver<Request>, commits: &AtomicU64) {
    let mut batch = Vec::with_capacity(BATCH);
    while requests.blocking_recv_many(&mut batch, BATCH) > 0 {
        match commit(&mut connection, &batch) {
            Ok(decisions) => {
                commits.fetch_add(1, Ordering::Relaxed);
                for (request, decision) in batch.drain(..).zip(decisions) {
                    let _ = request.answer.send(decision);
                }
            }
            Err(error) => {
                tracing::error!(%error, requests = batch.len(), "the payment simulator's ledger cannot be written");
                for request in batch.drain(..) {
                    let _ = request.answer.send(Err(Refusal::FAILED));
                }
            }
        }
    }
}

fn commit(connection: &mut Connection, batch: &[Request]) -> rusqlite::Result<Vec<Decision>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let now = Timestamp::now();
    let decisions = batch
        .iter()
        .map(|request| request.change.decide(&transaction, now))
        .collect::<Result<_, _>>()?;
    transaction.commit()?;
    Ok(decisions)
}

fn read(connection: &Connection, mut questions: mpsc::Receiver<Question>) {
    while let Some(question) = questions.blocking_recv() {
        question(connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Script;
    use tokio::io::AsyncWriteExt;
    use tokio::task::JoinSet;

    fn confirm(n: usize) -> Change {
        Change::Confirm(Confirm {
            script: Script::Ok,
            payment_key: format!("sim_ok_{n}"),
            order_id: "order-1".into(),
            amount: 1,
            currency: "KRW".into(),
            idempotency_key: None,
        })
    }

    #[tokio::test]
    async fn a_full_queue_is_refused_and_what_was_queued_is_charged() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("simulator.db");
        let simulator = Simulator::open(&path).expect("a ledger");
        let other = Connection::open(&path).expect("the ledger");
        other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
        let all = QUEUE + 2 * BATCH;
        let tried = Arc::new(AtomicU64::new(0));
        let mut changes = JoinSet::new();
        for n in 0..all {
            let (simulator, tried) = (simulator.clone(), Arc::clone(&tried));
            changes.spawn(async move {
                tried.fetch_add(1, Ordering::Relaxed);
                simulator.change(confirm(n)).await.err()
            });
        }
        while tried.load(Ordering::Relaxed) < all as u64 {
            tokio::task::yield_now().await;
        }
        other.execute_batch("ROLLBACK").expect("the lock is given back");
        let decisions = changes.join_all().await;
        let charged = decisions.iter().filter(|refusal| refusal.is_none()).count();
        assert!(decisions.iter().flatten().all(|refusal| *refusal == Refusal::BUSY));
        assert!((QUEUE..=QUEUE + BATCH).contains(&charged), "{charged}");
        let net = simulator.net("order-1").await.expect("a sum");
        assert_eq!(usize::try_from(net), Ok(charged));
    }

    #[tokio::test]
    async fn a_held_confirmation_ends_when_the_caller_hangs_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let simulator = Simulator::open(&folder.path().join("simulator.db")).expect("a ledger");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let router = simulator.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let held = || HELD - simulator.inner.held.available_permits();

        let mut caller = tokio::net::TcpStream::connect(address).await.expect("a connection");
        let body = r#"{"paymentKey":"sim_lost_1","orderId":"order-1","amount":1}"#;
        let request = format!(
            "POST /v1/payments/confirm HTTP/1.1\r\nhost: a\r\nauthorization: Basic c2s6\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        caller.write_all(request.as_bytes()).await.expect("the request is sent");
        while held() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(caller);
        while held() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
