//! One thread's connection.

use std::{cell::RefCell, collections::HashMap, future::Future, pin::Pin, time::Duration};

use futures_util::future::join_all;
use tokio::{
    runtime::{Builder, Handle, Runtime, RuntimeFlavor},
    task::block_in_place,
};
use tokio_postgres::{Client, NoTls, Row, Statement, types::ToSql};
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
    process: i32,
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
            let client = connect(address).await?;
            client.batch_execute("SET jit = off; SET client_min_messages = warning").await?;
            client.batch_execute(set_up).await?;
            let process = client.query_one("SELECT pg_backend_pid()", &[]).await?.try_get(0)?;
            Ok((client, process))
        };
        let driver = Driver(Some(runtime));
        let (client, process) = driver.wait(within(patience, opened))?;
        Ok(Self {
            client,
            driver,
            statements: RefCell::default(),
            patience,
            process,
        })
    }

    /// The server's process that serves it, as `pg_terminate_backend` takes it.
    pub fn process(&self) -> i32 {
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

    /// Sends all, and waits for all answers, in their order.
    ///
    /// # Errors
    /// The first error that is not the aftermath of an earlier one. What a transaction around them has become, the caller must see to.
    pub fn run(self) -> Result<Vec<Vec<Row>>, Error> {
        let all = async {
            let mut rows = Vec::new();
            let mut failed = None;
            for answer in join_all(self.steps).await {
                match answer.map_err(Error::from) {
                    Ok(found) => rows.push(found),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            failed.map_or(Ok(rows), Err)
        };
        self.session.driver.wait(within(self.session.patience, all))
    }
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
async fn connect(address: &Address) -> Result<Client, Error> {
    if !address.is_encrypted() {
        let (client, connection) = address.config().connect(NoTls).await?;
        tokio::spawn(connection);
        return Ok(client);
    }
    let tls = address.tls().map_err(|error| Error::new(Trouble::Unable, error))?;
    let (client, connection) = address.config().connect(MakeRustlsConnect::new(tls)).await?;
    tokio::spawn(connection);
    Ok(client)
}
