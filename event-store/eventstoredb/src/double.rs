//! A server in memory, with the real one's rules for revisions and repeats, that can lose answers, be late, or be away.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::{
    entry::{Entry, Recorded},
    server::{Append, AppendError, Cause, Expected, Page, Question, Server},
};

/// Entries that are read at once, so that tests see pages too.
const PAGE: usize = 100;

/// What happens to an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It never left.
    NotSent,
    /// It is written, and the answer is lost.
    AnswerLost,
    /// It is lost on its way, and nobody knows.
    Lost,
    /// Nobody knows of it; it arrives just before the next append to the stream.
    Late,
    /// Nobody knows of it; it arrives just after the next append to the stream.
    VeryLate,
}

type Faults = Box<dyn FnMut(&Append) -> Option<Fault> + Send>;

pub(crate) struct Double {
    streams: Mutex<Streams>,
    faults: Mutex<Faults>,
    /// The largest append that it takes.
    largest: usize,
}

#[derive(Default)]
struct Streams {
    recorded: HashMap<String, Vec<Recorded>>,
    under_way: Vec<(Fault, Append)>,
    kept: HashMap<String, usize>,
}

impl Default for Double {
    fn default() -> Self {
        Self::with(1 << 20, |_| None)
    }
}

impl Double {
    pub(crate) fn with(largest: usize, faults: impl FnMut(&Append) -> Option<Fault> + Send + 'static) -> Self {
        Self {
            streams: Mutex::default(),
            faults: Mutex::new(Box::new(faults)),
            largest,
        }
    }

    /// From now on.
    pub(crate) fn now(&self, faults: impl FnMut(&Append) -> Option<Fault> + Send + 'static) {
        *self.faults.lock() = Box::new(faults);
    }

    /// The next append has this fault, and no other.
    pub(crate) fn once(&self, fault: Fault) {
        let mut fault = Some(fault);
        self.now(move |_| fault.take());
    }

    pub(crate) fn stream(&self, name: &str) -> Vec<Recorded> {
        self.streams.lock().recorded.get(name).cloned().unwrap_or_default()
    }

    /// Loses what stands at the end of a stream, as a server does that is restored from a backup.
    pub(crate) fn lose(&self, name: &str, entries: usize) {
        if let Some(stream) = self.streams.lock().recorded.get_mut(name) {
            stream.truncate(stream.len().saturating_sub(entries));
        }
    }

    fn answer(&self, streams: &mut Streams, append: Append) -> Result<(), AppendError> {
        let fault = (self.faults.lock())(&append);
        let name = append.stream.clone();
        streams.arrive(&name, Fault::Late);
        let answer = match fault {
            None => streams.write(&append, self.largest),
            Some(Fault::NotSent) => Err(AppendError::NotWritten("connection refused".into())),
            Some(Fault::AnswerLost) => {
                // Whatever it was.
                let _ = streams.write(&append, self.largest);
                Err(AppendError::Unknown("the connection died".into()))
            }
            Some(Fault::Lost) => Err(AppendError::Unknown("the connection died".into())),
            Some(_) => Err(AppendError::Unknown("no answer in time".into())),
        };
        streams.arrive(&name, Fault::VeryLate);
        if let Some(late @ (Fault::Late | Fault::VeryLate)) = fault {
            streams.under_way.push((late, append));
        }
        answer
    }
}

impl Streams {
    /// What was under way to a stream arrives; nobody waits for an answer any more.
    fn arrive(&mut self, stream: &str, when: Fault) {
        let arriving = |(fault, append): &mut (Fault, Append)| *fault == when && append.stream == stream;
        for (_, append) in self.under_way.extract_if(.., arriving).collect::<Vec<_>>() {
            // Whatever it was.
            let _ = self.write(&append, usize::MAX);
        }
    }

    fn write(&mut self, append: &Append, largest: usize) -> Result<(), AppendError> {
        let size: usize = append
            .entries
            .iter()
            .map(|entry| entry.data.len() + entry.metadata.len() + 2 * entry.name.len())
            .sum();
        if size > largest {
            return Err(AppendError::Refused(format!("Maximum Append Size of {largest} Exceeded.")));
        }
        let stream = self.recorded.entry(append.stream.clone()).or_default();
        let end = stream.last().map(|last| last.revision);
        match append.expected {
            Expected::Anywhere => {}
            Expected::After(after) if after == end => {}
            Expected::After(after) => {
                // The server takes an append that it has seen at this place for done. It looks at the ids, and at nothing else.
                let from = after.map_or(0, |after| usize::try_from(after).expect("small") + 1);
                let there = stream.get(from..).unwrap_or_default();
                let seen = there.len() >= append.entries.len()
                    && there.iter().zip(&append.entries).all(|(there, entry)| there.entry.id == entry.id);
                return if seen { Ok(()) } else { Err(AppendError::Elsewhere) };
            }
        }
        let next = end.map_or(0, |end| end + 1);
        stream.extend(
            (next..)
                .zip(append.entries.iter().cloned())
                .map(|(revision, entry)| Recorded { revision, entry }),
        );
        if let Some(most) = self.kept.get(&append.stream) {
            stream.drain(..stream.len().saturating_sub(*most));
        }
        Ok(())
    }
}

impl Server for Double {
    fn append_each(&self, appends: Vec<Append>) -> Vec<Result<(), AppendError>> {
        let mut streams = self.streams.lock();
        appends.into_iter().map(|append| self.answer(&mut streams, append)).collect()
    }

    fn read_each(&self, questions: &[Question]) -> Result<Vec<Page>, Cause> {
        let streams = self.streams.lock();
        let page = |question: &Question| {
            let stream = streams.recorded.get(&question.stream).map_or(&[][..], Vec::as_slice);
            let behind = |recorded: &&Recorded| question.after.is_none_or(|after| recorded.revision > after);
            let entries: Vec<_> = stream.iter().filter(behind).take(PAGE).cloned().collect();
            Page {
                end: entries.len() < PAGE,
                entries,
            }
        };
        Ok(questions.iter().map(page).collect())
    }

    fn last(&self, stream: &str, most: usize) -> Result<Vec<Entry>, Cause> {
        let streams = self.streams.lock();
        let stream = streams.recorded.get(stream).map_or(&[][..], Vec::as_slice);
        Ok(stream.iter().rev().take(most).map(|recorded| recorded.entry.clone()).collect())
    }

    fn keep_last(&self, stream: &str, most: u64) -> Result<(), Cause> {
        self.streams.lock().kept.insert(stream.to_owned(), usize::try_from(most)?);
        Ok(())
    }
}
