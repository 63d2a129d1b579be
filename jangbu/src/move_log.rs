//! `jangbu move`: a shop that is stopped goes from files into databases, or back, with its whole log and its keys.
//!
//! Two shops that went on from one log would have two histories. So the copy is kept from everybody until it is complete and compared, then the
//! old log is kept from everybody for ever, and only then is the copy given away. Each step finds out what the ones before have done: one that was
//! interrupted is run again. Of several copies that were begun the one is given away that the old log was given up for.

mod copy_id;
mod keys;
mod source;

use std::{
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Args;
use event_store::{CommitError, CopyError, Copying, DirectoryLock, EventStore, LogCopy, StoreError, check_copy, give_away, holder_of};
use event_store_eventstoredb::EsdbStore;
use event_store_postgres::PostgresStore;
use event_store_sqlite::SqliteStore;
use secrecy::ExposeSecret as _;

use crate::{
    failure::Failure,
    new_log::{self, Progress, refuse_other_tables},
    places::{INDEX, refuse_foreign},
    settings::{Place, Settings},
};
pub(crate) use copy_id::CopyId;
use keys::Keys;
use source::{Found, Source};

/// The relay of every shop keeps its place under this name.
const RELAY: &str = "relay";

/// What is moved.
#[derive(Clone, Debug, Args)]
pub(crate) struct MoveArgs {
    /// Where the log is now: a data directory, or `postgres://USER:PASSWORD@HOST/DATABASE`. Its shop has to be stopped.
    #[arg(long, value_name = "PLACE", required_unless_present = "from_file", conflicts_with = "from_file")]
    from: Option<String>,
    /// A file with that address in it: everybody on this machine sees a command line.
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Where its keys are: a directory or `postgres://...` [default: `keys` in the data directory that is moved].
    #[arg(long, value_name = "PLACE", conflicts_with = "from_keys_file")]
    from_keys: Option<String>,
    /// A file with that address in it.
    #[arg(long, value_name = "FILE")]
    from_keys_file: Option<PathBuf>,
    /// The data directory of the shop as it will be [default: ./data].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

/// Moves. A signal ends it early.
pub(crate) fn run(settings: &Settings, arguments: MoveArgs) -> Result<(), Failure> {
    settings.check_supported()?;
    let settings = settings.clone();
    new_log::run("the move", move |stop| move_shop(&settings, &arguments, stop))
}

fn move_shop(settings: &Settings, arguments: &MoveArgs, stop: &AtomicBool) -> Result<String, Failure> {
    let mut source = Source::open(arguments)?;
    source.refuse_other_shards(settings.shards)?;
    let keys = Keys::named(arguments, source.directory(), settings)?;
    let done = match source.hold()? {
        Found::Moved(copy) => {
            let target = finish(&source, copy, &keys, settings)?;
            format!("the log has moved to {}\n", target.place)
        }
        Found::Free => {
            let target = Target::open(settings, &source)?;
            let copy = target.copy_id()?;
            let events = target.fill(copy, &source, &keys, stop)?;
            // From here on a stop would come too late, and what a crash leaves undone the next run does.
            source.keep_for_ever(copy)?;
            target.give_away(copy, &source)?;
            format!(
                "{events} events are in the log in {}; every hash of it was computed again\n",
                target.place
            )
        }
    };
    Ok(format!("{done}{keys}{}", source.farewell(settings)))
}

/// One that moved the log was interrupted after the old one was given up, and perhaps before the copy was given away.
fn finish(source: &Source, copy: CopyId, keys: &Keys, settings: &Settings) -> Result<Target, Failure> {
    let elsewhere = || {
        Failure::wrong(format_args!(
            "the log in {} has moved already, and not to {}, which the settings name",
            source.place,
            place_of(settings)
        ))
    };
    let target = Target::open_again(settings, source)?.ok_or_else(elsewhere)?;
    if !target.is_given_up_for(copy, source)? {
        return Err(elsewhere());
    }
    keys.check_copied()?;
    match give_away(source.reader.as_ref(), target.store.as_ref(), copying(copy)) {
        Ok(()) => Ok(target),
        Err(CopyError::Differs { .. }) => Err(elsewhere()),
        Err(error) => Err(not_copied(error, &target.place)),
    }
}

/// Where the log goes.
struct Target {
    store: Arc<dyn EventStore>,
    place: String,
    /// This process's alone, where no log holds it already.
    _directory: Option<DirectoryLock>,
}

impl Target {
    fn open(settings: &Settings, source: &Source) -> Result<Self, Failure> {
        if source.is_place_of(settings) {
            return Err(Failure::wrong(format_args!(
                "the log is in {} already: set JANGBU_STORE or --data to where it is to go",
                source.place
            )));
        }
        match &settings.store {
            Place::Sqlite => refuse_foreign(&settings.data)?,
            Place::Postgres(address) => refuse_other_tables(address, false)?,
            Place::Esdb(_) => {}
        }
        let directory = Self::directory(settings, source)?;
        let store: Arc<dyn EventStore> = match &settings.store {
            Place::Sqlite => Arc::new(SqliteStore::open(&settings.data)?),
            Place::Postgres(address) => Arc::new(PostgresStore::open(address)?),
            // Its logs keep the id that they are made with.
            Place::Esdb(url) => Arc::new(EsdbStore::create(
                url.expose_secret(),
                event_store_eventstoredb::DEFAULT_NAME,
                &settings.data.join(INDEX),
                source.log_id()?,
            )?),
        };
        Ok(Self {
            store,
            place: place_of(settings),
            _directory: directory,
        })
    }

    /// One that a run before has made; none where there is no log.
    fn open_again(settings: &Settings, source: &Source) -> Result<Option<Self>, Failure> {
        let is_there = match &settings.store {
            Place::Sqlite => settings.data.join("log.db").exists() && !source.is_place_of(settings),
            Place::Postgres(address) => match PostgresStore::open_to_look(address) {
                Ok(_) => true,
                Err(StoreError::Foreign(_)) => false,
                Err(error) => return Err(error.into()),
            },
            Place::Esdb(_) => true,
        };
        if is_there {
            Self::open(settings, source).map(Some)
        } else {
            Ok(None)
        }
    }

    fn directory(settings: &Settings, source: &Source) -> Result<Option<DirectoryLock>, Failure> {
        let is_locked = matches!(settings.store, Place::Sqlite) || source.is_in(&settings.data);
        Ok(if is_locked {
            None
        } else {
            Some(DirectoryLock::take(&settings.data)?)
        })
    }

    /// Of the copy that was begun in it, or of a new one.
    fn copy_id(&self) -> Result<CopyId, StoreError> {
        let (reader, mut writer) = (self.store.reader()?, self.store.writer()?);
        for shard in reader.shards()? {
            let holder = holder_of(shard, reader.as_ref(), writer.as_mut())?;
            if let Some(begun) = holder.and_then(|holder| CopyId::of_mover(&holder)) {
                return Ok(begun);
            }
        }
        Ok(CopyId::new())
    }

    /// Whether it is the copy that the log was given up for, when all of it was there: it is kept as that one, or was given away.
    fn is_given_up_for(&self, copy: CopyId, source: &Source) -> Result<bool, StoreError> {
        let (reader, mut writer) = (self.store.reader()?, self.store.writer()?);
        for head in source.reader.heads()? {
            let Some(there) = reader.head(head.shard)? else { return Ok(false) };
            let holder = holder_of(head.shard, reader.as_ref(), writer.as_mut())?;
            let is_the_one = match holder.and_then(|holder| CopyId::of_mover(&holder)) {
                Some(kept) => kept == copy,
                // Whatever was given away is under a later epoch than what it was given away for.
                None => there.epoch > head.epoch,
            };
            if !is_the_one {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Copies what is not there yet: the keys before the events that need them. Says how many events there are.
    fn fill(&self, copy: CopyId, source: &Source, keys: &Keys, stop: &AtomicBool) -> Result<u64, Failure> {
        if self.store.reader()?.shards()?.is_empty() {
            keys.refuse_occupied()?;
        }
        let copy = LogCopy::begin(source.reader.as_ref(), self.store.as_ref(), copying(copy));
        let mut copy = copy.map_err(|error| not_copied(error, &self.place))?;
        self.fill_held(&mut copy, source, keys, stop)
            .map_err(|failure| failure.with("; run it again, and it goes on behind what is there"))
    }

    fn fill_held(&self, copy: &mut LogCopy<'_>, source: &Source, keys: &Keys, stop: &AtomicBool) -> Result<u64, Failure> {
        let not_copied = |error| not_copied(error, &self.place);
        keys.copy()?;
        let mut progress = Progress::of("events", source.events());
        let copied = copy.copy(&mut |events| {
            progress.at("copied", events);
            if stop.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        copied.map_err(not_copied)?;
        self.keep_place_of_relay(source)?;
        progress.clear();
        let events = check_copy(source.reader.as_ref(), self.store.reader()?.as_ref()).map_err(not_copied)?;
        if stop.load(Ordering::Relaxed) {
            return Err(not_copied(CopyError::Stopped));
        }
        Ok(events)
    }

    /// What was published is not published again.
    fn keep_place_of_relay(&self, source: &Source) -> Result<(), Failure> {
        let published = source.store.checkpoints()?.read(RELAY)?;
        if published.is_empty() {
            return Ok(());
        }
        let mut checkpoints = self.store.checkpoints()?;
        let there = checkpoints.read(RELAY)?;
        for (shard, position) in published {
            let from = there.iter().find(|(known, _)| *known == shard).map_or(0, |(_, position)| *position);
            if from < position {
                checkpoints.advance(RELAY, shard, from, position)?;
            }
        }
        Ok(())
    }

    fn give_away(&self, copy: CopyId, source: &Source) -> Result<(), Failure> {
        give_away(source.reader.as_ref(), self.store.as_ref(), copying(copy))
            .map_err(|error| not_copied(error, &self.place).with("; run it again to finish the move"))
    }
}

fn place_of(settings: &Settings) -> String {
    match &settings.store {
        Place::Sqlite => settings.data.display().to_string(),
        Place::Postgres(address) => address.to_string(),
        // Its address may hold a password.
        Place::Esdb(_) => "EventStoreDB".to_owned(),
    }
}

fn copying(copy: CopyId) -> Copying {
    Copying {
        instance: copy.mover(),
        now: now(),
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

fn not_copied(error: CopyError, place: &str) -> Failure {
    match error {
        CopyError::Store(error) => error.into(),
        CopyError::Stopped => Failure::interrupted("interrupted"),
        CopyError::Write(CommitError::Fenced(_)) => {
            Failure::failed("another process has taken the log over: it moves it too, or serves it")
        }
        CopyError::NotEmpty { .. } => Failure::wrong(format_args!(
            "there is a log in {place}, and it is no copy that was begun from this one; name an empty database or directory"
        )),
        CopyError::Damaged { .. } | CopyError::OtherShards { .. } => Failure::wrong(error),
        CopyError::Write(_) | CopyError::Differs { .. } => Failure::failed(error),
    }
}
