//! The log of a shop that moves, and how nobody else comes to write to it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use event_store::{EventStore, GIVEN_UP, Head, KEPT, LogReader, LogWriter, Shards, StoreError, let_go};
use event_store_postgres::PostgresStore;
use event_store_sqlite::SqliteStore;
use postgres_session::Address;
use uuid::Uuid;

use super::{CopyId, MoveArgs, not_copied, now};
use crate::{
    adopt::ADOPTER,
    failure::Failure,
    new_log,
    settings::{Place, Settings},
    simulator::LEDGER,
};

/// How often it is said that the log is held: five times as often as one that is silent loses it.
const BEAT: Duration = Duration::from_secs(2);

/// The log as it is.
pub(super) struct Source {
    pub(super) store: Arc<dyn EventStore>,
    pub(super) reader: Box<dyn LogReader>,
    /// For people.
    pub(super) place: String,
    is: Is,
    shards: Shards,
    lease: Option<Lease>,
}

/// Where it is.
enum Is {
    Directory(PathBuf),
    Postgres(Box<Address>),
}

/// What was found when it was to be held.
pub(super) enum Found {
    /// It is this process's now.
    Free,
    /// It has moved: it was given up for this copy.
    Moved(CopyId),
}

impl Source {
    /// Opens the log that the command line names, and makes none.
    pub(super) fn open(arguments: &MoveArgs) -> Result<Self, Failure> {
        let text = new_log::named(arguments.from.as_ref(), arguments.from_file.as_deref())?;
        let text = text.ok_or_else(|| Failure::wrong("name the log with --from or --from-file"))?;
        let is = if text.contains("://") {
            let address: Address = text
                .parse()
                .map_err(|error| Failure::wrong(format_args!("the log is moved from a data directory or from PostgreSQL: {error}")))?;
            Is::Postgres(Box::new(address.named("jangbu move").for_writing()))
        } else {
            Is::Directory(new_log::directory(text, arguments.from_file.as_deref())?)
        };
        let (store, place): (Arc<dyn EventStore>, _) = match &is {
            Is::Directory(directory) => (Arc::new(of_directory(directory)?), directory.display().to_string()),
            Is::Postgres(address) => (Arc::new(PostgresStore::open_to_look(address)?), address.to_string()),
        };
        let reader = store.reader()?;
        let shards = reader.shard_count()?.filter(|_| has_events(reader.as_ref()));
        let shards =
            shards.ok_or_else(|| Failure::wrong(format_args!("there are no events in {place}: begin a new shop where you want it")))?;
        Ok(Self {
            store,
            reader,
            place,
            is,
            shards,
            lease: None,
        })
    }

    pub(super) fn directory(&self) -> Option<&Path> {
        match &self.is {
            Is::Directory(directory) => Some(directory),
            Is::Postgres(_) => None,
        }
    }

    /// Whether it is a log in this data directory.
    pub(super) fn is_in(&self, data: &Path) -> bool {
        self.directory().is_some_and(|directory| same_directory(directory, data))
    }

    /// Whether the settings name it as their own log.
    pub(super) fn is_place_of(&self, settings: &Settings) -> bool {
        match (&self.is, &settings.store) {
            (Is::Directory(_), Place::Sqlite) => self.is_in(&settings.data),
            (Is::Postgres(from), Place::Postgres(to)) => from.is_same_database(to),
            _ => false,
        }
    }

    pub(super) fn log_id(&self) -> Result<Uuid, Failure> {
        let head = self.reader.heads()?.into_iter().next();
        head.map(|head| head.log_id)
            .ok_or_else(|| Failure::failed("the log has no head any more"))
    }

    /// How many events were found in it.
    pub(super) fn events(&self) -> u64 {
        let heads = self.lease.iter().flat_map(|lease| &lease.heads);
        heads.map(|head| head.position).sum()
    }

    pub(super) fn refuse_other_shards(&self, wanted: Option<Shards>) -> Result<(), Failure> {
        let known = self.shards;
        match wanted.filter(|wanted| *wanted != known) {
            Some(wanted) => Err(Failure::wrong(format_args!(
                "the log has {known} shards and keeps them, and JANGBU_SHARDS says {wanted}; set JANGBU_SHARDS={known}"
            ))),
            None => Ok(()),
        }
    }

    /// Becomes the only one who may write to it, for as long as this process lives. Nothing is written.
    pub(super) fn hold(&mut self) -> Result<Found, Failure> {
        let mut writer = self.store.writer()?;
        let instance = Uuid::new_v4();
        let (mut heads, mut given_up) = (Vec::new(), Vec::new());
        for shard in self.shards.all() {
            let taken = match writer.take(shard, instance, now()) {
                Err(StoreError::Held { holder, .. }) => {
                    if let Some(copy) = CopyId::of_moved(&holder) {
                        given_up.push((shard, copy));
                        continue;
                    }
                    self.refuse_holder(&holder)?;
                    // The directory is this process's: whoever that was, has ended.
                    writer.seize(shard, instance, now())
                }
                taken => taken,
            };
            heads.push(taken?);
        }
        if let (true, Some((_, copy))) = (heads.is_empty(), given_up.first()) {
            return Ok(Found::Moved(*copy));
        }
        // One that was interrupted while it gave the log up has given no copy away. If it only sleeps, it finds the rest taken, and fails.
        // The first shard is the last to be free: by that one a shop knows whether the log has moved.
        for (shard, copy) in given_up.into_iter().rev() {
            writer.take(shard, copy.moved(), GIVEN_UP)?;
            heads.push(writer.take(shard, instance, now())?);
        }
        heads.sort_by_key(|head| head.shard);
        // A directory is held by its lock: nobody has to wait ten seconds for one who was killed.
        let beat = match &self.is {
            Is::Directory(_) => || GIVEN_UP,
            Is::Postgres(_) => now,
        };
        self.lease = Some(Lease::start(writer, heads, beat)?);
        Ok(Found::Free)
    }

    fn refuse_holder(&self, holder: &str) -> Result<(), Failure> {
        let place = &self.place;
        if CopyId::of_mover(holder).is_some() || holder.contains(&ADOPTER.to_string()) {
            return Err(Failure::wrong(format_args!(
                "the log in {place} is not complete: `jangbu adopt` or `jangbu move` writes it, or was interrupted; run that to its end first"
            )));
        }
        match &self.is {
            Is::Directory(_) => Ok(()),
            Is::Postgres(_) => Err(Failure::wrong(format_args!(
                "the log in {place} is held by another process ({holder}); stop its shop first, or wait ten seconds if that was killed"
            ))),
        }
    }

    /// Keeps it from being served for ever, for the sake of this copy, if nobody but this process has had it since it was held.
    pub(super) fn keep_for_ever(&mut self, copy: CopyId) -> Result<(), Failure> {
        let taken_over = || {
            Failure::failed(format_args!(
                "the log in {} was taken over while it was copied; stop its shop, and run this again",
                self.place
            ))
        };
        let Some(lease) = self.lease.take() else { return Err(taken_over()) };
        let (mut writer, heads) = lease.end()?;
        // Before anything is taken from whoever has it by now.
        if heads.iter().any(|head| writer.heartbeat(head.shard, head.epoch, now()).is_err()) {
            return Err(taken_over());
        }
        let mut kept = Vec::new();
        for head in heads {
            let marked = writer.seize(head.shard, copy.moved(), KEPT)?;
            let is_same = (marked.epoch, marked.position) == (head.epoch + 1, head.position);
            kept.push(marked);
            if !is_same {
                for head in kept.iter().rev() {
                    let_go(head.shard, head.epoch, writer.as_mut(), now()).map_err(|error| not_copied(error, &self.place))?;
                }
                return Err(taken_over());
            }
        }
        Ok(())
    }

    /// What is left to be done, for people.
    pub(super) fn farewell(&self, settings: &Settings) -> String {
        let left_behind = self
            .directory()
            .filter(|directory| directory.join(LEDGER).exists() && !self.is_in(&settings.data));
        let ledger = left_behind.map_or(String::new(), |directory| {
            let (from, to) = (directory.display(), settings.data.display());
            format!("the simulated provider's {LEDGER} stays: copy it from {from} to {to} by hand if you want it\n")
        });
        format!(
            "no shop serves the log in {} any more; the views are filled anew when the new one is served\n{ledger}",
            self.place
        )
    }
}

fn has_events(reader: &dyn LogReader) -> bool {
    // A log that cannot be read is found out by whoever reads it next.
    reader.heads().map_or(true, |heads| heads.iter().any(|head| head.position > 0))
}

fn of_directory(directory: &Path) -> Result<SqliteStore, Failure> {
    if !directory.join("log.db").exists() {
        return Err(Failure::wrong(format_args!(
            "{} holds no log.db; name the data directory of a shop, or the address of its log",
            directory.display()
        )));
    }
    SqliteStore::open(directory).map_err(|error| match error {
        StoreError::Held { holder, .. } => Failure::wrong(format_args!(
            "{} is in use by another process ({holder}); stop its shop first",
            directory.display()
        )),
        error => error.into(),
    })
}

/// Whether both lead to one place.
pub(super) fn same_directory(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

/// The shards of a log, held by a thread that says so from time to time. Dropped, it lets go of them.
struct Lease {
    heads: Vec<Head>,
    /// None once it has ended.
    held: Option<(Sender<()>, Holder)>,
}

/// Gives the writer back at its end.
type Holder = JoinHandle<Box<dyn LogWriter>>;

impl Lease {
    fn start(mut writer: Box<dyn LogWriter>, heads: Vec<Head>, beat: fn() -> i64) -> Result<Self, Failure> {
        say(writer.as_mut(), &heads, beat);
        let (stop, stopped) = channel();
        let beating = heads.clone();
        let thread = std::thread::Builder::new().name("lease".to_owned()).spawn(move || {
            while stopped.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                say(writer.as_mut(), &beating, beat);
            }
            writer
        });
        let thread = thread.map_err(|error| Failure::failed(format_args!("a thread cannot be started: {error}")))?;
        Ok(Self {
            heads,
            held: Some((stop, thread)),
        })
    }

    fn stop(&mut self) -> Option<Box<dyn LogWriter>> {
        let (stop, thread) = self.held.take()?;
        drop(stop);
        thread.join().ok()
    }

    /// The writer, and what was held.
    fn end(mut self) -> Result<(Box<dyn LogWriter>, Vec<Head>), Failure> {
        let writer = self
            .stop()
            .ok_or_else(|| Failure::failed("the thread that held the log has panicked"))?;
        Ok((writer, std::mem::take(&mut self.heads)))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(mut writer) = self.stop() {
            say(writer.as_mut(), &self.heads, || GIVEN_UP);
        }
    }
}

/// Whether it is still held shows when it is kept for ever.
fn say(writer: &mut dyn LogWriter, heads: &[Head], beat: fn() -> i64) {
    for head in heads {
        if let Err(error) = writer.heartbeat(head.shard, head.epoch, beat()) {
            tracing::warn!(%error, shard = head.shard, "the heartbeat was not written");
        }
    }
}
