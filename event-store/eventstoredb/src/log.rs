//! The log as it stands on the server, and the index beside it that is brought up to date before anybody reads.
//!
//! The index is a log of the SQLite store: what a shard's stream says is written there, batch after batch, together with how far the stream
//! was read. It is never the truth. Without it, it is made again from the streams.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use event_store::{Batch, CommitError, EventStore, Head, LogReader, LogWriter, Shards, Snapshot, StoreError, StreamId, StreamRead};
use event_store_sqlite::SqliteStore;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    entry::{self, Assembly, CREATED, Entry, FOUNDED, Found, Recorded, SETTLED, SHARD, Taken},
    server::{Append, AppendError, Expected, Page, Question, Server},
};

/// The kind of the streams under which the index keeps, as snapshots, how far it is. No aggregate has it.
pub(crate) const INDEX_KIND: &str = "jangbu-index";

/// The shape of those.
const INDEX_SHAPE: [u8; 32] = [1; 32];

/// How often something is tried that another process may come before.
const TRIES: usize = 100;

/// A log on a server.
pub(crate) struct Log {
    pub(crate) server: Arc<dyn Server>,
    name: String,
    id: Uuid,
    index: SqliteStore,
    /// The largest append.
    pub(crate) limit: usize,
    state: Mutex<State>,
}

/// What is known of the streams.
pub(crate) struct State {
    writer: Box<dyn LogWriter>,
    pub(crate) reader: Box<dyn LogReader>,
    /// The last revision of the log's own stream.
    tail: Option<u64>,
    known: BTreeSet<u16>,
    founded: Option<Shards>,
    shards: BTreeMap<u16, Shard>,
    /// Appends to shards that may have been written, or may be yet: what they expected.
    doubts: BTreeMap<u16, Option<u64>>,
}

/// What is known of a shard's stream.
pub(crate) struct Shard {
    /// The last revision.
    pub(crate) tail: Option<u64>,
    assembly: Assembly,
    /// The entry that stands behind the tail, when the index has read it before: the proof that it is the same stream.
    proof: Option<Uuid>,
    /// Who has it, and the entry that says so.
    pub(crate) taken: Option<(Uuid, Taken)>,
}

/// How far the index has read a shard's stream.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    revision: u64,
    entry: Uuid,
    taken: Option<(Uuid, Taken)>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    log_id: Uuid,
}

#[derive(Serialize, Deserialize)]
struct Founded {
    shards: u16,
}

#[derive(Serialize, Deserialize)]
struct Opened {
    shard: u16,
}

#[derive(Serialize)]
struct Nothing {}

impl Log {
    /// Opens the log, which is made with the proposed id when there is none, and the index for it.
    pub(crate) fn open(server: Arc<dyn Server>, name: &str, indexes: &Path, limit: usize, proposed: Uuid) -> Result<Self, StoreError> {
        let log_id = log_id(&*server, name, proposed)?;
        // Each log has an index of its own, so none is ever taken for that of another.
        let directory = indexes.join(log_id.to_string());
        let there = directory.join("log.db").try_exists();
        let index = if there.map_err(|error| StoreError::Unavailable(error.into()))? {
            SqliteStore::open(&directory)?
        } else {
            SqliteStore::create(&directory, log_id)?
        };
        let state = State {
            writer: index.writer()?,
            reader: index.reader()?,
            tail: None,
            known: BTreeSet::new(),
            founded: None,
            shards: BTreeMap::new(),
            doubts: BTreeMap::new(),
        };
        Ok(Self {
            server,
            name: name.to_owned(),
            id: log_id,
            index,
            limit,
            state: Mutex::new(state),
        })
    }

    /// Random, chosen when the log was made.
    pub(crate) const fn id(&self) -> Uuid {
        self.id
    }

    pub(crate) fn index_reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        self.index.reader()
    }

    pub(crate) fn shard_stream(&self, shard: u16) -> String {
        format!("{}-shard-{shard}", self.name)
    }

    /// Where a shard's holder says that it lives.
    pub(crate) fn holder_stream(&self, shard: u16) -> String {
        format!("{}-shard-{shard}-holder", self.name)
    }

    /// Where one who reads the log says how far it is.
    pub(crate) fn checkpoint_stream(&self, reader: &str) -> String {
        format!("{}-checkpoint-{reader}", self.name)
    }

    /// Brings the index to where these shards stand now.
    pub(crate) fn caught_up(&self, shards: impl IntoIterator<Item = u16>) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = self.state.lock();
        self.follow(&mut state, shards.into_iter().map(Some).collect(), false)?;
        Ok(state)
    }

    /// Brings the index to where the whole log stands now.
    pub(crate) fn all_caught_up(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = self.state.lock();
        let shards = state.known.iter().map(|shard| Some(*shard));
        let streams = shards.chain([None]).collect();
        self.follow(&mut state, streams, true)?;
        Ok(state)
    }

    /// The index as it is, where these shards were read at all and no doubt is left of them.
    pub(crate) fn current(&self, shards: &BTreeSet<u16>) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = self.state.lock();
        let unread = shards
            .iter()
            .filter(|shard| !state.shards.contains_key(shard) || state.doubts.contains_key(shard))
            .map(|shard| Some(*shard))
            .collect::<BTreeSet<_>>();
        self.follow(&mut state, unread, false)?;
        Ok(state)
    }

    /// Reads streams (a shard's, or none for the log's own) to their end; with those that the log's own makes known, where that is wanted.
    fn follow(&self, state: &mut State, streams: BTreeSet<Option<u16>>, and_others: bool) -> Result<(), StoreError> {
        let mut streams = streams;
        while !streams.is_empty() {
            let mut questions = Vec::with_capacity(streams.len());
            for stream in &streams {
                questions.push(match stream {
                    None => Question {
                        stream: log_stream(&self.name),
                        after: state.tail,
                    },
                    Some(shard) => {
                        self.settle(state, *shard)?;
                        Question {
                            stream: self.shard_stream(*shard),
                            after: state.shard(*shard)?.tail,
                        }
                    }
                });
            }
            let pages = self.server.read_each(&questions).map_err(StoreError::Unavailable)?;
            for (stream, page) in std::mem::take(&mut streams).into_iter().zip(pages) {
                if !page.end {
                    streams.insert(stream);
                }
                if let Some(shard) = stream {
                    self.absorb(state, shard, &page)?;
                    continue;
                }
                let known = state.absorb_log(&page)?;
                if and_others {
                    streams.extend(known.into_iter().map(Some));
                }
            }
        }
        Ok(())
    }

    /// Makes sure that an append whose answer never came is written by now, or never will be: something else takes its place.
    fn settle(&self, state: &mut State, shard: u16) -> Result<(), StoreError> {
        let Some(expected) = state.doubts.get(&shard).copied() else {
            return Ok(());
        };
        let settled = self.server.append(Append {
            stream: self.shard_stream(shard),
            expected: Expected::After(expected),
            entries: vec![Entry::own(SETTLED, &Nothing {})],
        });
        match settled {
            Ok(()) | Err(AppendError::Elsewhere) => {
                state.doubts.remove(&shard);
                Ok(())
            }
            Err(AppendError::Refused(error)) => Err(StoreError::Unavailable(error.into())),
            Err(AppendError::NotWritten(error) | AppendError::Unknown(error)) => Err(StoreError::Unavailable(error)),
        }
    }

    fn absorb(&self, state: &mut State, shard: u16, page: &Page) -> Result<(), StoreError> {
        let absorbed = state.absorb(shard, page);
        if absorbed.is_err() {
            // What is in memory may be ahead of the index: it is read again from where the index is.
            state.shards.remove(&shard);
        }
        absorbed.map_err(|error| match error {
            StoreError::Corrupt(what) => StoreError::Corrupt(format!("{}: {what}", self.shard_stream(shard))),
            error => error,
        })
    }

    /// Takes over what was just written, unless somebody has read it already.
    pub(crate) fn absorb_written(&self, shard: u16, after: Option<u64>, entries: Vec<Entry>) {
        let mut state = self.state.lock();
        if state.shards.get(&shard).is_none_or(|known| known.tail != after) {
            return;
        }
        let entries = (after.map_or(0, |after| after + 1)..)
            .zip(entries)
            .map(|(revision, entry)| Recorded { revision, entry })
            .collect();
        if let Err(error) = self.absorb(&mut state, shard, &Page { entries, end: true }) {
            // It is durable on the server; whoever reads next finds out whether the index can be written again.
            tracing::warn!(%error, shard, "the index could not be brought up to date");
        }
    }

    /// Remembers that an append may have been written, or may be yet.
    pub(crate) fn doubt(&self, shard: u16, expected: Option<u64>) {
        self.state.lock().doubts.insert(shard, expected);
    }

    /// Fixes how many shards the log has, if that is not fixed yet.
    pub(crate) fn found(&self, shards: Shards) -> Result<Shards, StoreError> {
        for _ in 0..TRIES {
            let state = self.own_stream()?;
            if let Some(founded) = state.founded {
                return Ok(founded);
            }
            self.append_to_log(state, Entry::own(FOUNDED, &Founded { shards: shards.count() }))?;
        }
        Err(StoreError::Unavailable(overtaken()))
    }

    /// Makes it known that a shard exists, before anything is in its stream.
    pub(crate) fn make_known(&self, shard: u16) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let state = self.own_stream()?;
            if state.known.contains(&shard) {
                return Ok(());
            }
            self.append_to_log(state, Entry::own(SHARD, &Opened { shard }))?;
        }
        Err(StoreError::Unavailable(overtaken()))
    }

    fn own_stream(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = self.state.lock();
        self.follow(&mut state, BTreeSet::from([None]), false)?;
        Ok(state)
    }

    /// Appends to the log's own stream where it was read to. What became of it shows when it is read again.
    fn append_to_log(&self, state: MutexGuard<'_, State>, entry: Entry) -> Result<(), StoreError> {
        let expected = Expected::After(state.tail);
        drop(state);
        written_or_not(self.server.append(Append {
            stream: log_stream(&self.name),
            expected,
            entries: vec![entry],
        }))
    }
}

impl State {
    /// What is known of a shard's stream; as far as the index is, when nothing was read yet.
    pub(crate) fn shard(&mut self, shard: u16) -> Result<&mut Shard, StoreError> {
        if !self.shards.contains_key(&shard) {
            let known = load(&*self.reader, shard)?;
            self.shards.insert(shard, known);
        }
        self.shards
            .get_mut(&shard)
            .ok_or_else(|| StoreError::Corrupt(format!("shard {shard} is not known")))
    }

    /// Whom the shard belongs to.
    pub(crate) fn taken(&self, shard: u16) -> Option<&(Uuid, Taken)> {
        self.shards.get(&shard)?.taken.as_ref()
    }

    pub(crate) const fn founded(&self) -> Option<Shards> {
        self.founded
    }

    pub(crate) fn head(&self, shard: u16) -> Result<Option<Head>, StoreError> {
        self.reader.head(shard)
    }

    /// The shards that were not known before.
    fn absorb_log(&mut self, page: &Page) -> Result<Vec<u16>, StoreError> {
        let mut new = Vec::new();
        for recorded in &page.entries {
            let (revision, entry) = (recorded.revision, &recorded.entry);
            let unreadable = |what: String| StoreError::Corrupt(format!("revision {revision} of the log's own stream: {what}"));
            match entry.name.as_str() {
                // Only the first counts: it is written by exact revision.
                FOUNDED if self.founded.is_none() => {
                    let founded: Founded = entry::data(entry).map_err(unreadable)?;
                    let shards = Shards::new(founded.shards);
                    let shards = shards.ok_or_else(|| unreadable(format!("a log cannot have {} shards", founded.shards)))?;
                    self.writer.found(shards)?;
                    self.founded = Some(shards);
                }
                SHARD => {
                    let opened: Opened = entry::data(entry).map_err(unreadable)?;
                    if self.known.insert(opened.shard) {
                        new.push(opened.shard);
                    }
                }
                _ => {}
            }
            self.tail = Some(revision);
        }
        Ok(new)
    }

    /// Writes into the index what comes next in a shard's stream.
    fn absorb(&mut self, shard: u16, page: &Page) -> Result<(), StoreError> {
        let mut entries = page.entries.iter();
        let known = self.shard(shard)?;
        if let Some(proof) = known.proof {
            match entries.next() {
                Some(first) if first.entry.id == proof => known.tail = Some(first.revision),
                Some(_) => return Err(lost("another entry stands where the index was read to")),
                None if page.end => return Err(lost("the stream ends before where the index was read to")),
                None => return Ok(()),
            }
            known.proof = None;
        }
        let mut run = Vec::new();
        let mut read = None;
        for recorded in entries {
            let known = self.shard(shard)?;
            let revision = recorded.revision;
            if revision != known.tail.map_or(0, |tail| tail + 1) {
                return Err(StoreError::Corrupt(format!(
                    "revision {revision} comes too early: entries before it are gone"
                )));
            }
            known.tail = Some(revision);
            let unreadable = |what| StoreError::Corrupt(format!("revision {revision}: {what}"));
            match known.assembly.add(recorded).map_err(unreadable)? {
                None => {}
                Some(Found::Batch(batch)) => {
                    run.push(*batch);
                    read = Some(recorded);
                }
                Some(Found::Taken(taken)) => {
                    self.index(shard, &mut run, read.take())?;
                    self.index_taken(shard, recorded, taken)?;
                }
            }
        }
        self.index(shard, &mut run, read)
    }

    /// Batches and how far the stream was read, in one transaction.
    fn index(&mut self, shard: u16, run: &mut Vec<Batch>, read: Option<&Recorded>) -> Result<(), StoreError> {
        let (Some(last), Some(read)) = (run.last_mut(), read) else {
            return Ok(());
        };
        let taken = self.shards.get(&shard).and_then(|shard| shard.taken.clone());
        last.snapshots.push(checkpoint(shard, read, taken)?);
        let written = self.writer.commit(&run.iter().collect::<Vec<_>>());
        run.clear();
        written.map_err(|error| indexing(read.revision, error))
    }

    fn index_taken(&mut self, shard: u16, read: &Recorded, taken: Taken) -> Result<(), StoreError> {
        let before = self.reader.head(shard)?.map_or(0, |head| head.epoch);
        // The index may have come as far before, and no further.
        if before.checked_add(1) == Some(taken.epoch) {
            self.writer.take(shard, Uuid::nil(), 0)?;
        } else if before != taken.epoch {
            let what = format!("revision {}: epoch {} does not follow {before}", read.revision, taken.epoch);
            return Err(StoreError::Corrupt(what));
        }
        let Some(head) = self.reader.head(shard)? else {
            return Err(StoreError::Corrupt(format!("shard {shard} has no head in the index")));
        };
        let taken = Some((read.entry.id, taken));
        let mark = Batch {
            snapshots: vec![checkpoint(shard, read, taken.clone())?],
            orders_numbered: head.orders_numbered,
            ..following(&head)
        };
        self.writer.commit(&[&mark]).map_err(|error| indexing(read.revision, error))?;
        self.shard(shard)?.taken = taken;
        Ok(())
    }
}

/// A batch without events behind a head.
fn following(head: &Head) -> Batch {
    Batch {
        shard: head.shard,
        epoch: head.epoch,
        first_position: head.position + 1,
        previous_hash: head.hash,
        hash: head.hash,
        ..Batch::default()
    }
}

fn index_stream(shard: u16) -> StreamId {
    StreamId::new(INDEX_KIND, Uuid::from_u128(u128::from(shard)))
}

fn checkpoint(shard: u16, read: &Recorded, taken: Option<(Uuid, Taken)>) -> Result<Snapshot, StoreError> {
    let checkpoint = Checkpoint {
        revision: read.revision,
        entry: read.entry.id,
        taken,
    };
    let state = serde_json::to_vec(&checkpoint).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    Ok(Snapshot {
        stream: index_stream(shard),
        sequence: read.revision.saturating_add(1),
        shape: INDEX_SHAPE,
        state: state.into(),
    })
}

/// What the index says of a shard's stream.
fn load(index: &dyn LogReader, shard: u16) -> Result<Shard, StoreError> {
    let question = StreamRead {
        stream: index_stream(shard),
        shape: INDEX_SHAPE,
    };
    let (_, mut slices) = index.read(&[], &[question])?;
    let mut known = Shard {
        tail: None,
        assembly: Assembly::new(shard),
        proof: None,
        taken: None,
    };
    if let Some(snapshot) = slices.pop().and_then(|slice| slice.snapshot) {
        let checkpoint: Checkpoint = serde_json::from_slice(&snapshot.state)
            .map_err(|error| StoreError::Corrupt(format!("the index cannot be read ({error}); delete it, and it is made again")))?;
        known.tail = checkpoint.revision.checked_sub(1);
        known.proof = Some(checkpoint.entry);
        known.taken = checkpoint.taken;
    }
    Ok(known)
}

/// The id of the log with this name, which is the proposed one when there was none.
fn log_id(server: &dyn Server, name: &str, proposed: Uuid) -> Result<Uuid, StoreError> {
    for _ in 0..TRIES {
        let question = Question {
            stream: log_stream(name),
            after: None,
        };
        let pages = server.read_each(&[question]).map_err(StoreError::Unavailable)?;
        if let Some(first) = pages.first().and_then(|page| page.entries.first()) {
            let foreign = |_| {
                StoreError::Foreign(format!(
                    "the stream {} in EventStoreDB belongs to another program; give the log another name",
                    log_stream(name)
                ))
            };
            if first.entry.name != CREATED || first.revision != 0 {
                return Err(foreign(String::new()));
            }
            return entry::data(&first.entry).map(|created: Created| created.log_id).map_err(foreign);
        }
        written_or_not(server.append(Append {
            stream: log_stream(name),
            expected: Expected::After(None),
            entries: vec![Entry::own(CREATED, &Created { log_id: proposed })],
        }))?;
    }
    Err(StoreError::Unavailable(overtaken()))
}

/// The stream of what is said of the whole log.
fn log_stream(name: &str) -> String {
    format!("{name}-log")
}

/// Whether it was written shows when the stream is read again.
fn written_or_not(answer: Result<(), AppendError>) -> Result<(), StoreError> {
    match answer {
        Ok(()) | Err(AppendError::Elsewhere | AppendError::Unknown(_)) => Ok(()),
        Err(AppendError::Refused(error)) => Err(StoreError::Unavailable(error.into())),
        Err(AppendError::NotWritten(error)) => Err(StoreError::Unavailable(error)),
    }
}

pub(crate) fn overtaken() -> crate::server::Cause {
    "others append to the same stream all the time".into()
}

fn lost(what: &str) -> StoreError {
    StoreError::Corrupt(format!(
        "{what}: the server has lost what it acknowledged, or was restored from a backup; delete the index to go on with what the server has"
    ))
}

/// What the stream says must go into the index; when it does not, one of the two is wrong, or the disk is.
fn indexing(revision: u64, error: CommitError) -> StoreError {
    match error {
        CommitError::Fenced(_) | CommitError::Refused(_) => StoreError::Corrupt(format!(
            "the batch at revision {revision} does not follow what stands before it ({error})"
        )),
        CommitError::NotWritten(error) | CommitError::Unknown(error) | CommitError::Disk(error) => {
            StoreError::Unavailable(format!("the index cannot be written: {error}").into())
        }
    }
}
