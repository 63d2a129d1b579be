//! One thread's connection.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::{Builder, Handle, Runtime, RuntimeFlavor},
    sync::Notify,
    task::block_in_place,
};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Row, Statement, types::ToSql};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{Address, Error, Trouble};

/// A connection that one thread drives: its calls block. Within a task of a runtime with several threads they block that thread alone.
///
/// After [`Trouble::Lost`] or [`Trouble::Silent`] it is of no use; open another.
pub struct Session {
    client: Client,
    driver: Driver,
    statements: RefCell<HashMap<String, Statement>>,
    patience: Duration,
    process: Process,
    /// Rung when something was said on a channel that this session listens to, and when the connection ends.
    heard: Arc<Notify>,
}

/// The server's process that serves a session. The number alone may be another one's later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// As `pg_terminate_backend` takes it.
    pub number: i32,
    /// When it began, in microseconds since 1970: `backend_start` in `pg_stat_activity`.
    pub began: i64,
}

impl Process {
    /// Which of the processes this session is served by, and when it began.
    const OWN: &str =
        "SELECT pid, (extract(epoch FROM backend_start) * 1000000)::bigint FROM pg_stat_activity WHERE pid = pg_backend_pid()";
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Session {
    /// Connects, and runs `set_up` (settings of the session). Each call waits for the server so long as `patience`.
    ///
    /// # Errors
    /// The server is not there, does not let us in, or refuses the set-up.
    pub fn open(address: &Address, set_up: &str, patience: Duration) -> Result<Self, Error> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::new(Trouble::Unable, format!("no runtime: {error}")))?;
        let opened = async {
            let heard = Arc::new(Notify::new());
            let client = connect(address, &heard).await?;
            client.batch_execute("SET jit = off; SET client_min_messages = warning").await?;
            client.batch_execute(set_up).await?;
            let own = client.query_one(Process::OWN, &[]).await?;
            let process = Process {
                number: own.try_get(0)?,
                began: own.try_get(1)?,
            };
            Ok((client, process, heard))
        };
        let driver = Driver(Some(runtime));
        let (client, process, heard) = driver.wait(within(patience, opened))?;
        Ok(Self {
            client,
            driver,
            statements: RefCell::default(),
            patience,
            process,
            heard,
        })
    }

    /// The server's process that serves it.
    pub fn process(&self) -> Process {
        self.process
    }

    /// Whether it is known to be lost.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs what is asked of the client, and waits for it.
    ///
    /// # Errors
    /// What the work says, or that the server did not answer in time.
    pub fn run<'a, T, F>(&'a self, work: impl FnOnce(&'a Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>> + 'a,
    {
        let work = work(&self.client);
        self.driver.wait(within(self.patience, async { Ok(work.await?) }))
    }

    /// A statement, prepared once.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn prepared(&self, sql: &str) -> Result<Statement, Error> {
        if let Some(known) = self.statements.borrow().get(sql) {
            return Ok(known.clone());
        }
        let statement = self.run(|client| client.prepare(sql))?;
        self.statements.borrow_mut().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// The rows that a statement finds.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        let statement = self.prepared(sql)?;
        self.run(|client| async move { client.query(&statement, values).await })
    }

    /// The one row that a statement finds, if it finds one.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn query_opt(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, Error> {
        Ok(self.query(sql, values)?.into_iter().next())
    }

    /// How many rows a statement changed.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn execute(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        let statement = self.prepared(sql)?;
        self.run(|client| async move { client.execute(&statement, values).await })
    }

    /// Several statements without values, in one go.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn script(&self, sql: &str) -> Result<(), Error> {
        self.run(|client| client.batch_execute(sql))
    }

    /// Hears from now on what others say on this channel with `NOTIFY`. A standby has no channels.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn listen(&self, channel: &str) -> Result<(), Error> {
        self.script(&format!("LISTEN \"{}\"", channel.replace('"', "\"\"")))
    }

    /// Waits until something was said on a channel that it listens to, `at_most` so long, and says whether it was. What was said several times
    /// since the last call counts once.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn heard(&self, at_most: Duration) -> Result<bool, Error> {
        self.driver.wait(async {
            let heard = tokio::time::timeout(at_most, self.heard.notified()).await.is_ok();
            if self.client.is_closed() {
                return Err(Error::new(Trouble::Lost, "the connection is lost"));
            }
            Ok(heard)
        })
    }

    /// Statements that share a round trip.
    pub fn pipeline(&self) -> Pipeline<'_> {
        Pipeline {
            session: self,
            steps: Vec::new(),
        }
    }
}

/// What drives the connection while somebody waits for it.
struct Driver(Option<Runtime>);

impl Driver {
    fn wait<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let Some(runtime) = &self.0 else {
            return Err(Error::new(Trouble::Lost, "the session has ended"));
        };
        match Handle::try_current().map(|current| current.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => block_in_place(|| runtime.block_on(work)),
            Ok(_) | Err(_) => runtime.block_on(work),
        }
    }
}

impl Drop for Driver {
    /// Where nothing may block, nothing waits for it either.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

type Step<'a> = Pin<Box<dyn Future<Output = Result<Vec<Row>, tokio_postgres::Error>> + 'a>>;

/// Statements that are sent one behind the other without waiting for answers, and are done in that order.
///
/// They are one transaction only if they begin and commit one.
pub struct Pipeline<'a> {
    session: &'a Session,
    steps: Vec<Step<'a>>,
}

impl<'a> Pipeline<'a> {
    /// Adds a statement that is not prepared and has no values.
    pub fn script(&mut self, sql: &'a str) {
        let client = &self.session.client;
        self.steps
            .push(Box::pin(async move { client.batch_execute(sql).await.map(|()| Vec::new()) }));
    }

    /// Adds a statement.
    ///
    /// # Errors
    /// It has to be prepared, and cannot be.
    pub fn query(&mut self, sql: &str, values: Vec<Box<dyn ToSql + Sync + 'a>>) -> Result<(), Error> {
        let client = &self.session.client;
        let statement = self.session.prepared(sql)?;
        self.steps.push(Box::pin(async move {
            let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect();
            client.query(&statement, &values).await
        }));
        Ok(())
    }

    /// Sends all, and waits for all answers, in their order. A statement that cannot be sent (a value that does not fit its place) keeps those
    /// behind it from being sent, and a transaction that was begun before it is rolled back: a COMMIT at the end never commits a part.
    ///
    /// # Errors
    /// The first error that is not the aftermath of an earlier one. What a transaction around them has become, the caller must see to.
    pub fn run(self) -> Result<Vec<Vec<Row>>, Error> {
        let session = self.session;
        let all = async {
            let (under_way, unsent) = send(self.steps).await;
            let mut rows = Vec::new();
            let mut failed = None;
            for step in under_way {
                match step.await.map_err(Error::from) {
                    Ok(found) => rows.push(found),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            if unsent.is_some() {
                session.client.batch_execute("ROLLBACK").await?;
            }
            failed.or(unsent).map_or(Ok(rows), Err)
        };
        session.driver.wait(within(session.patience, all))
    }
}

/// Sends steps one after the other, up to one that cannot be sent. The first look at a step sends it, and its answer cannot be there yet.
async fn send(steps: Vec<Step<'_>>) -> (Vec<Step<'_>>, Option<Error>) {
    let mut under_way = Vec::with_capacity(steps.len());
    for mut step in steps {
        match poll_fn(|context| Poll::Ready(step.as_mut().poll(context))).await {
            Poll::Pending => under_way.push(step),
            Poll::Ready(Ok(rows)) => under_way.push(Box::pin(async move { Ok(rows) })),
            Poll::Ready(Err(error)) => return (under_way, Some(error.into())),
        }
    }
    (under_way, None)
}

async fn within<T>(patience: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(patience, work).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::new(
            Trouble::Silent,
            format!("the database gave no answer within {} s", patience.as_secs()),
        )),
    }
}

/// Connects, and leaves the connection's own work to the runtime that this runs on.
async fn connect(address: &Address, heard: &Arc<Notify>) -> Result<Client, Error> {
    if !address.is_encrypted() {
        let (client, connection) = address.config().connect(NoTls).await?;
        tokio::spawn(drive(connection, Arc::clone(heard)));
        return Ok(client);
    }
    let tls = address.tls().map_err(|error| Error::new(Trouble::Unable, error))?;
    let (client, connection) = address.config().connect(MakeRustlsConnect::new(tls)).await?;
    tokio::spawn(drive(connection, Arc::clone(heard)));
    Ok(client)
}

/// What the server says besides answers. Its notices are nobody's: they may repeat values of rows.
async fn drive<S, T>(mut connection: Connection<S, T>, heard: Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    // An error ends the connection, and whoever waits for an answer is told.
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if matches!(message, AsyncMessage::Notification(_)) {
            heard.notify_one();
        }
    }
    drop(connection);
    heard.notify_one();
}
