//! Where it is written: the log in big transactions on one thread, the views on another.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use aggregates::Recorded;
use event_store::{
    Batch, Event, Hash, Head, IdempotencyRecord, LogReader, LogWriter, Parked, RecordKey, SetAside, Shards, StoreError, StreamId,
    StreamRead, StreamSlice, Unfinished, Unparked,
};
use projections::{Fold, Move, ViewsWriter};
use rustc_hash::FxHashSet;
use uuid::Uuid;

use crate::failure::Failure;

/// So many events share a transaction.
const TOGETHER: usize = 2_048;

/// So many transactions may wait for the disk.
const WAITING: usize = 2;

/// So many rows of each view are kept in memory.
const RECENT: NonZeroUsize = NonZeroUsize::new(16_384).expect("16,384 is not zero");

/// The log, as its writer's thread is given it.
pub(super) struct Log {
    state: Mutex<State>,
    written: Condvar,
}

/// What is on its way to the disk.
#[derive(Default)]
struct State {
    /// None once the log is closed.
    line: Option<SyncSender<Vec<Arc<Batch>>>>,
    group: Vec<Arc<Batch>>,
    events: usize,
    /// The streams that the group and those before it add to; the last is the group's.
    news: VecDeque<FxHashSet<StreamId>>,
    failed: Option<String>,
}

impl Log {
    pub(super) fn start(writer: Box<dyn LogWriter>) -> Result<(Arc<Self>, JoinHandle<()>), Failure> {
        let (line, groups) = sync_channel(WAITING);
        let log = Arc::new(Self {
            state: Mutex::new(State {
                line: Some(line),
                news: VecDeque::from([FxHashSet::default()]),
                ..State::default()
            }),
            written: Condvar::new(),
        });
        let shared = Arc::clone(&log);
        let thread = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.write(writer, &groups));
        Ok((log, thread.map_err(|error| no_thread(&error))?))
    }

    fn write(&self, mut writer: Box<dyn LogWriter>, groups: &Receiver<Vec<Arc<Batch>>>) {
        let _ended = Ended(self);
        for group in groups {
            let batches: Vec<&Batch> = group.iter().map(AsRef::as_ref).collect();
            let result = writer.commit(&batches);
            let mut state = self.state();
            state.news.pop_front();
            if let Err(error) = result {
                state.failed.get_or_insert_with(|| error.to_string());
            }
            self.written.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a batch to the disk with others.
    pub(super) fn push(&self, batch: Arc<Batch>) -> Result<(), Failure> {
        let mut state = self.state();
        if let Some(reason) = &state.failed {
            return Err(Failure::failed(reason));
        }
        if let Some(news) = state.news.back_mut() {
            news.extend(batch.events.iter().map(|event| event.stream.clone()));
        }
        state.events += batch.events.len().max(1);
        state.group.push(batch);
        if state.events >= TOGETHER {
            Self::send(state);
        }
        Ok(())
    }

    fn send(mut state: MutexGuard<'_, State>) {
        let group = std::mem::take(&mut state.group);
        if group.is_empty() {
            return;
        }
        state.events = 0;
        state.news.push_back(FxHashSet::default());
        let line = state.line.clone();
        // The thread takes the lock when it has written.
        drop(state);
        // Without a receiver the thread has panicked: whoever waits for it finds that.
        let _ = line.map(|line| line.send(group));
    }

    /// Waits until all is durable.
    fn drain(&self) {
        Self::send(self.state());
        let mut state = self.state();
        while state.news.len() > 1 {
            state = self.written.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes all durable, and ends the thread.
    pub(super) fn finish(&self, thread: JoinHandle<()>) -> Result<(), Failure> {
        Self::send(self.state());
        self.state().line = None;
        thread.join().map_err(|_| Failure::failed("the log's thread has panicked"))?;
        self.state().failed.take().map_or(Ok(()), |reason| Err(Failure::failed(reason)))
    }

    /// Whether something of these streams is not durable yet.
    fn brings(&self, streams: &[StreamRead]) -> bool {
        let state = self.state();
        state.news.iter().any(|news| streams.iter().any(|read| news.contains(&read.stream)))
    }
}

/// Nobody waits for a thread that has panicked.
struct Ended<'a>(&'a Log);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let mut state = self.0.state();
            state.failed.get_or_insert_with(|| "the log's thread has panicked".to_owned());
            state.news = VecDeque::from([FxHashSet::default()]);
            self.0.written.notify_all();
        }
    }
}

/// Reads the log as if all that was pushed were durable.
pub(super) struct Reader {
    pub(super) log: Arc<Log>,
    pub(super) durable: Box<dyn LogReader>,
}

impl Reader {
    fn all(&self) -> &dyn LogReader {
        self.log.drain();
        self.durable.as_ref()
    }
}

impl LogReader for Reader {
    fn head(&self, shard: u16) -> Result<Option<Head>, StoreError> {
        self.all().head(shard)
    }

    fn read(
        &self,
        records: &[RecordKey],
        streams: &[StreamRead],
    ) -> Result<(Vec<Option<IdempotencyRecord>>, Vec<StreamSlice>), StoreError> {
        // No request of the town is ever repeated: each has a key of its own. To ask the disk for each costs more than all else here.
        let none = vec![None; records.len()];
        if streams.is_empty() {
            return Ok((none, Vec::new()));
        }
        if self.log.brings(streams) {
            self.log.drain();
        }
        let (_, slices) = self.durable.read(&[], streams)?;
        Ok((none, slices))
    }

    fn events(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.all().events(shard, after, limit)
    }

    fn stream(&self, stream: &StreamId, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.all().stream(stream, after, limit)
    }

    fn batches(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<(u64, Hash, Hash, u64)>, StoreError> {
        self.all().batches(shard, after, limit)
    }

    fn unfinished(&self, shard: u16) -> Result<Unfinished, StoreError> {
        self.all().unfinished(shard)
    }

    fn parked(&self, shard: u16, limit: usize) -> Result<Vec<Parked>, StoreError> {
        self.all().parked(shard, limit)
    }

    fn parked_input(&self, shard: u16, id: Uuid) -> Result<Option<Parked>, StoreError> {
        self.all().parked_input(shard, id)
    }

    fn unparked(&self, shard: u16, id: Uuid) -> Result<Option<Unparked>, StoreError> {
        self.all().unparked(shard, id)
    }

    fn set_aside(&self, shard: u16, after: Option<Uuid>, limit: usize) -> Result<Option<Vec<SetAside>>, StoreError> {
        self.all().set_aside(shard, after, limit)
    }

    fn shard_count(&self) -> Result<Option<Shards>, StoreError> {
        self.all().shard_count()
    }

    fn shards(&self) -> Result<Vec<u16>, StoreError> {
        self.all().shards()
    }
}

/// The views' thread, and what is on its way there.
pub(super) struct Views {
    line: SyncSender<Vec<Arc<[Recorded]>>>,
    group: Vec<Arc<[Recorded]>>,
    events: usize,
    thread: JoinHandle<Result<(), String>>,
}

impl Views {
    pub(super) fn start(mut writer: Box<dyn ViewsWriter>, log: Uuid) -> Result<Self, Failure> {
        let (line, groups) = sync_channel(WAITING);
        let fold = move || {
            writer.reset(log).map_err(|error| error.to_string())?;
            fold(writer.as_mut(), &groups)
        };
        let thread = thread::Builder::new().name("views".to_owned()).spawn(fold);
        Ok(Self {
            line,
            group: Vec::new(),
            events: 0,
            thread: thread.map_err(|error| no_thread(&error))?,
        })
    }

    pub(super) fn push(&mut self, events: Arc<[Recorded]>) {
        self.events += events.len();
        self.group.push(events);
        if self.events >= TOGETHER {
            self.send();
        }
    }

    fn send(&mut self) {
        self.events = 0;
        // Without a receiver the fold has ended early, and says why at the end.
        let _ = self.line.send(std::mem::take(&mut self.group));
    }

    pub(super) fn finish(mut self) -> Result<(), Failure> {
        self.send();
        let Self { line, thread, .. } = self;
        drop(line);
        match thread.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(Failure::failed(reason)),
            Err(_) => Err(Failure::failed("the views' thread has panicked")),
        }
    }
}

fn fold(writer: &mut dyn ViewsWriter, groups: &Receiver<Vec<Arc<[Recorded]>>>) -> Result<(), String> {
    let mut fold = Fold::new(RECENT);
    let mut counted: Vec<Move> = Vec::new();
    for group in groups {
        let events: Vec<&Recorded> = group.iter().flat_map(|events| events.iter()).collect();
        fold.apply(&events, writer)
            .map_err(|error| format!("an event does not fit the views: {error:?}"))?;
        let moves = moves(&mut counted, &events);
        writer.save(&fold.changed(&moves)).map_err(|error| error.to_string())?;
        fold.saved();
    }
    Ok(())
}

/// How far these events take the views; `counted` is how far they were.
fn moves(counted: &mut Vec<Move>, events: &[&Recorded]) -> Vec<Move> {
    let mut moved: Vec<Move> = Vec::new();
    for event in events {
        let step = |from| Move {
            shard: event.shard,
            from,
            to: event.position,
            recorded_at: event.at,
        };
        if let Some(known) = moved.iter_mut().find(|known| known.shard == event.shard) {
            *known = step(known.from);
        } else {
            let before = counted.iter().find(|known| known.shard == event.shard);
            moved.push(step(before.map_or(0, |known| known.to)));
        }
    }
    counted.retain(|known| moved.iter().all(|step| step.shard != known.shard));
    counted.extend(&moved);
    moved
}

fn no_thread(error: &std::io::Error) -> Failure {
    Failure::failed(format_args!("the system gives no thread: {error}"))
}
