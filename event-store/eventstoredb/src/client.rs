//! The real server, through its client. The port is used from plain threads, the client from a runtime of its own.

use std::{future::Future, sync::mpsc, time::Duration};

use event_store::StoreError;
use eventstore::{
    AppendToStreamOptions, ClientSettings, CreateProjectionOptions, Error, EventData, ProjectionClient, ReadStreamOptions,
    StreamMetadataBuilder, StreamPosition, StreamState, UpdateProjectionOptions,
};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::runtime::{Builder, Runtime};

use crate::{
    entry::{Entry, Recorded},
    server::{Append, AppendError, Cause, Expected, Page, Question, Server},
};

/// How long the server may take to answer, and to be found.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often what was certainly not sent is tried: the leader is found at the second.
const TRIES: usize = 3;

/// Entries that are read at once, at most.
const PAGE: usize = 500;

/// Bytes after which a page ends.
const PAGE_BYTES: usize = 16 << 20;

pub(crate) struct Client {
    settings: ClientSettings,
    /// Replaced once its connection has ended.
    connected: Mutex<eventstore::Client>,
    runtime: Option<Runtime>,
}

impl Client {
    /// Nothing is sent yet.
    pub(crate) fn new(url: &str) -> Result<Self, StoreError> {
        let settings = settings(url)?;
        let runtime = runtime()?;
        let client = connect(&runtime, &settings)?;
        Ok(Self {
            settings,
            connected: Mutex::new(client),
            runtime: Some(runtime),
        })
    }

    /// Begins to work on something; it is done also when nobody waits for it.
    fn begin<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> mpsc::Receiver<T> {
        let (answer, answers) = mpsc::sync_channel(1);
        if let Some(runtime) = &self.runtime {
            runtime.spawn(async move {
                // Whoever asked may have gone.
                let _ = answer.send(work.await);
            });
        }
        answers
    }

    fn current(&self) -> eventstore::Client {
        self.connected.lock().clone()
    }

    /// A client that has lost its server stays without one: the next call gets another client.
    fn renew_after(&self, error: &Error) {
        if !matches!(error, Error::ConnectionClosed | Error::GrpcConnectionError(_)) {
            return;
        }
        let Some(runtime) = &self.runtime else { return };
        match connect(runtime, &self.settings) {
            Ok(client) => *self.connected.lock() = client,
            Err(error) => tracing::warn!(%error, "the client of EventStoreDB could not be made anew"),
        }
    }

    /// Asks until there is an answer, as long as the question was certainly not taken.
    fn ask<T, F>(&self, ask: impl Fn(eventstore::Client) -> F) -> Result<T, Cause>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let mut tries = 1;
        loop {
            let answer = self.begin(in_time(ask(self.current()))).recv();
            match answer {
                Ok(Some(Ok(answer))) => return Ok(answer),
                Ok(Some(Err(error))) => {
                    self.renew_after(&error);
                    if tries == TRIES || !is_worth_another_try(&error) {
                        return Err(in_words(error));
                    }
                    tries += 1;
                }
                Ok(None) => return Err(format!("EventStoreDB did not answer within {PATIENCE:?}").into()),
                Err(_) => return Err("the client of EventStoreDB gave no answer".into()),
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A runtime that is dropped where another one runs would panic.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Server for Client {
    fn append_each(&self, appends: Vec<Append>) -> Vec<Result<(), AppendError>> {
        let begun: Vec<_> = appends
            .into_iter()
            .map(|append| (self.begin(in_time(write(self.current(), append.clone()))), append))
            .collect();
        begun.into_iter().map(|(answer, append)| self.outcome(&answer, &append)).collect()
    }

    fn read_each(&self, questions: &[Question]) -> Result<Vec<Page>, Cause> {
        let begun: Vec<_> = questions
            .iter()
            .map(|question| self.begin(in_time(page(self.current(), question.clone()))))
            .collect();
        let first: Vec<_> = begun.into_iter().map(|answer| answer.recv()).collect();
        let answered = |(answer, question): (_, &Question)| match answer {
            Ok(Some(Ok(page))) => Ok(page),
            Ok(Some(Err(error))) => {
                self.renew_after(&error);
                self.ask(|client| page(client, question.clone()))
            }
            Ok(None) | Err(_) => Err(format!("EventStoreDB did not answer within {PATIENCE:?}").into()),
        };
        first.into_iter().zip(questions).map(answered).collect()
    }

    fn last(&self, stream: &str, most: usize) -> Result<Vec<Entry>, Cause> {
        self.ask(|client| last(client, stream.to_owned(), most))
    }

    fn keep_last(&self, stream: &str, most: u64) -> Result<(), Cause> {
        self.ask(|client| keep_last(client, stream.to_owned(), most))
    }
}

impl Client {
    fn outcome(&self, answer: &mpsc::Receiver<Option<Result<(), Error>>>, append: &Append) -> Result<(), AppendError> {
        let mut answer = answer.recv();
        for _ in 1..TRIES {
            match &answer {
                Ok(Some(Err(error))) if is_worth_another_try(error) => self.renew_after(error),
                _ => break,
            }
            answer = self.begin(in_time(write(self.current(), append.clone()))).recv();
        }
        match answer {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(error))) => {
                self.renew_after(&error);
                Err(appending(error))
            }
            Ok(None) => Err(AppendError::Unknown(format!("no answer within {PATIENCE:?}").into())),
            Err(_) => Err(AppendError::Unknown("the client gave no answer".into())),
        }
    }
}

/// Installs the projection that links each event to a stream of its aggregate, or brings it up to date.
pub(crate) fn install_projection(url: &str, name: &str, script: &str) -> Result<(), StoreError> {
    let unavailable = |error: Cause| StoreError::Unavailable(error);
    let settings = settings(url)?;
    let runtime = runtime()?;
    let (name, script) = (name.to_owned(), script.to_owned());
    let (answer, answers) = mpsc::sync_channel(1);
    let client =
        ProjectionClient::with_runtime_handle(runtime.handle().clone(), settings).map_err(|error| unavailable(error.to_string().into()))?;
    runtime.spawn(async move {
        let installed = in_time(install(client, name, script)).await;
        // Whoever asked may have gone.
        let _ = answer.send(installed);
    });
    let installed = answers.recv();
    runtime.shutdown_background();
    match installed {
        Ok(Some(Ok(()))) => Ok(()),
        Ok(Some(Err(error))) => Err(unavailable(in_words(error))),
        Ok(None) | Err(_) => Err(unavailable(format!("EventStoreDB did not answer within {PATIENCE:?}").into())),
    }
}

async fn install(client: ProjectionClient, name: String, script: String) -> Result<(), Error> {
    let made = client
        .create(&name, script.clone(), &CreateProjectionOptions::default().emit(true))
        .await;
    match made {
        Err(Error::ResourceAlreadyExists) => client.update(&name, script, &UpdateProjectionOptions::default().emit(true)).await,
        made => made,
    }
}

fn settings(url: &str) -> Result<ClientSettings, StoreError> {
    // The parser's own words may hold the password.
    url.parse().map_err(|_| {
        StoreError::Foreign("the address of EventStoreDB cannot be read; write esdb://HOST:2113, or esdb://HOST:2113?tls=false".into())
    })
}

fn runtime() -> Result<Runtime, StoreError> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("eventstoredb")
        .enable_all()
        .build()
        .map_err(|error| StoreError::Unavailable(error.into()))
}

fn connect(runtime: &Runtime, settings: &ClientSettings) -> Result<eventstore::Client, StoreError> {
    eventstore::Client::with_runtime_handle(runtime.handle().clone(), settings.clone())
        .map_err(|error| StoreError::Unavailable(error.to_string().into()))
}

async fn in_time<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(PATIENCE, work).await.ok()
}

async fn write(client: eventstore::Client, append: Append) -> Result<(), Error> {
    let state = match append.expected {
        Expected::Anywhere => StreamState::Any,
        Expected::After(None) => StreamState::NoStream,
        Expected::After(Some(revision)) => StreamState::StreamRevision(revision),
    };
    let options = AppendToStreamOptions::default()
        .stream_state(state)
        .requires_leader(true)
        .deadline(PATIENCE);
    let events: Vec<_> = append.entries.into_iter().map(event_data).collect();
    client.append_to_stream(append.stream, &options, events).await.map(drop)
}

/// The data goes out byte by byte as it is: as JSON where it is that, so that the server's projections can read it.
fn event_data(entry: Entry) -> EventData {
    let json = entry
        .json
        .then(|| serde_json::from_slice::<&RawValue>(&entry.data).ok())
        .flatten()
        .and_then(|raw| EventData::json(&entry.name, &raw).ok());
    let event = json.unwrap_or_else(|| EventData::binary(&entry.name, entry.data.clone()));
    event.id(entry.id).metadata(entry.metadata)
}

async fn page(client: eventstore::Client, question: Question) -> Result<Page, Error> {
    let from = question
        .after
        .map_or(StreamPosition::Start, |after| StreamPosition::Position(after.saturating_add(1)));
    let options = ReadStreamOptions::default()
        .position(from)
        .max_count(PAGE)
        .requires_leader(true)
        .deadline(PATIENCE);
    let (mut entries, mut bytes) = (Vec::new(), 0);
    let read = async {
        let mut stream = client.read_stream(question.stream, &options).await?;
        while bytes < PAGE_BYTES {
            let Some(event) = stream.next().await? else {
                return Ok(entries.len() < PAGE);
            };
            let Some(event) = event.event else { continue };
            bytes += event.data.len() + event.custom_metadata.len();
            entries.push(Recorded {
                revision: event.revision,
                entry: entry(event),
            });
        }
        Ok(false)
    };
    match read.await {
        Ok(end) => Ok(Page { entries, end }),
        Err(Error::ResourceNotFound) => Ok(Page {
            entries: Vec::new(),
            end: true,
        }),
        Err(error) => Err(error),
    }
}

fn entry(event: eventstore::RecordedEvent) -> Entry {
    Entry {
        id: event.id,
        name: event.event_type,
        json: event.is_json,
        data: event.data,
        metadata: event.custom_metadata,
    }
}

async fn last(client: eventstore::Client, stream: String, most: usize) -> Result<Vec<Entry>, Error> {
    let options = ReadStreamOptions::default()
        .position(StreamPosition::End)
        .max_count(most)
        .requires_leader(true)
        .deadline(PATIENCE);
    let mut entries = Vec::new();
    let mut read = match client.read_stream(stream, &options).await {
        Err(Error::ResourceNotFound) => return Ok(entries),
        read => read?,
    };
    loop {
        match read.next().await {
            Ok(Some(event)) => entries.extend(event.event.map(entry)),
            Ok(None) | Err(Error::ResourceNotFound) => return Ok(entries),
            Err(error) => return Err(error),
        }
    }
}

async fn keep_last(client: eventstore::Client, stream: String, most: u64) -> Result<(), Error> {
    let options = AppendToStreamOptions::default().requires_leader(true).deadline(PATIENCE);
    let metadata = StreamMetadataBuilder::new().max_count(most).build();
    client.set_stream_metadata(stream, &options, &metadata).await.map(drop)
}

/// Whether nothing was taken, and another try may find the leader, or a connection.
const fn is_worth_another_try(error: &Error) -> bool {
    matches!(error, Error::NotLeaderException(_) | Error::ConnectionClosed)
}

/// What became of an append that the client gave this error for.
fn appending(error: Error) -> AppendError {
    match error {
        Error::WrongExpectedVersion { .. } => AppendError::Elsewhere,
        // Before it was sent, or the server says that it did not take it.
        Error::GrpcConnectionError(_)
        | Error::ConnectionClosed
        | Error::NotLeaderException(_)
        | Error::AccessDenied
        | Error::ResourceDeleted
        | Error::ResourceNotFound
        | Error::InitializationError(_)
        | Error::UnsupportedFeature => AppendError::NotWritten(in_words(error)),
        Error::Grpc { code, ref message } if is_too_large(message) => AppendError::Refused(format!(
            "EventStoreDB takes no append of this size ({code:?}): {message}; set MaxAppendSize to 1 MiB"
        )),
        _ => AppendError::Unknown(in_words(error)),
    }
}

fn is_too_large(message: &str) -> bool {
    message.contains("Maximum Append Size")
}

fn in_words(error: Error) -> Cause {
    match error {
        Error::AccessDenied => "EventStoreDB refuses access: name a user that may read and append, as esdb://USER:PASSWORD@HOST".into(),
        Error::ResourceDeleted => "a stream of the log was deleted in EventStoreDB: restore its backup".into(),
        error => Box::new(error),
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
