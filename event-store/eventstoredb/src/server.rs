//! What this store needs of a server of event streams.

use crate::entry::{Entry, Recorded};

/// Where an append goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Wherever the stream ends.
    Anywhere,
    /// Behind this revision, or into a stream that does not exist.
    After(Option<u64>),
}

/// Entries that are written together or not at all.
#[derive(Clone, Debug)]
pub(crate) struct Append {
    pub(crate) stream: String,
    pub(crate) expected: Expected,
    pub(crate) entries: Vec<Entry>,
}

/// What an error says, for those who read logs.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why an append was not acknowledged.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// The stream ends elsewhere: nothing was written.
    Elsewhere,
    /// The server does not take it, now or later: nothing was written.
    Refused(String),
    /// Nothing was written; it may be tried again.
    NotWritten(Cause),
    /// Nobody knows: it may have been written, and it may be written yet.
    Unknown(Cause),
}

/// A question for the entries of a stream behind a revision.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) stream: String,
    pub(crate) after: Option<u64>,
}

/// Entries of a stream, in order; of a stream that does not exist, none.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Recorded>,
    /// Whether the stream ended there when it was asked.
    pub(crate) end: bool,
}

/// A server of event streams. What it acknowledges is durable, and is read by whoever asks later.
pub(crate) trait Server: Send + Sync {
    /// Appends to several streams, each by itself; what became of each, in their order.
    fn append_each(&self, appends: Vec<Append>) -> Vec<Result<(), AppendError>>;

    /// The next entries of several streams, as they are in each by itself.
    fn read_each(&self, questions: &[Question]) -> Result<Vec<Page>, Cause>;

    /// At most so many entries from the end of a stream, the last first.
    fn last(&self, stream: &str, most: usize) -> Result<Vec<Entry>, Cause>;

    /// Says that no more than the last so many entries of a stream are wanted.
    fn keep_last(&self, stream: &str, most: u64) -> Result<(), Cause>;

    /// Appends to one stream.
    fn append(&self, append: Append) -> Result<(), AppendError> {
        let unanswered = || Err(AppendError::Unknown("the server's client gave no answer".into()));
        self.append_each(vec![append]).pop().unwrap_or_else(unanswered)
    }
}
