//! What a process stands on: the log, the views, the keys and its own directory, opened where the settings say they are.

use std::{path::Path, sync::Arc, time::Duration};

use event_store::{DirectoryLock, EventStore, LogReader, Shards, StoreError, holder_of};
use event_store_eventstoredb::EsdbStore;
use event_store_postgres::{PostgresStore, Roles};
use event_store_sqlite::SqliteStore;
use key_vault::{KeyVault, Opening, VaultError};
use key_vault_postgres::PostgresKeys;
use projections::{Views, ViewsWriter};
use projections_postgres::PostgresViews;
use projections_sqlite::SqliteViews;
use secrecy::ExposeSecret as _;
use uuid::Uuid;

use crate::{
    failure::Failure,
    move_log::CopyId,
    serve::{ADDRESS, publish},
    settings::{KeysPlace, Place, Role, Settings},
};

/// The file that names the data directory itself, so that its process takes its shards back at once.
const INSTANCE: &str = "instance";

/// Where the index of a log on EventStoreDB is kept: it is made anew when it is missing.
pub(crate) const INDEX: &str = "index";

/// How often a process that stands by asks whether it may take over.
const STAND_BY: Duration = Duration::from_millis(500);

/// The log that the settings name, opened for this process.
pub(crate) struct Log {
    pub(crate) store: Arc<dyn EventStore>,
    pub(crate) shards: Shards,
    /// Where the log of each ends.
    pub(crate) heads: Vec<u64>,
    pub(crate) instance: Uuid,
    /// This process's alone, where no log holds it already.
    pub(crate) directory: Option<DirectoryLock>,
}

/// Told what a process waits for before it can begin.
pub(crate) type Waiting<'a> = &'a dyn Fn(&str);

impl Log {
    /// Opens it. A process that is to have all shards by itself stands by while another one holds them, and goes on when that one goes.
    pub(crate) fn open_when_free(settings: &Settings, waiting: Waiting<'_>) -> Result<Self, Failure> {
        Self::opened(settings, Some(waiting))
    }

    pub(crate) fn open(settings: &Settings) -> Result<Self, Failure> {
        Self::opened(settings, None)
    }

    fn opened(settings: &Settings, waiting: Option<Waiting<'_>>) -> Result<Self, Failure> {
        let data = &settings.data;
        // Who only reads it may have a role that may do no more.
        let writes = matches!(settings.role, Role::All | Role::Engine);
        let (store, directory): (Arc<dyn EventStore>, _) = match &settings.store {
            Place::Sqlite => {
                refuse_foreign(data)?;
                (Arc::new(SqliteStore::open(data)?), None)
            }
            Place::Postgres(address) => {
                let directory = DirectoryLock::take(data)?;
                let store = if writes {
                    PostgresStore::open(address)?
                } else {
                    PostgresStore::open_to_look(address)?
                };
                (Arc::new(store), Some(directory))
            }
            Place::Esdb(url) => {
                let directory = DirectoryLock::take(data)?;
                let store = EsdbStore::open(url.expose_secret(), event_store_eventstoredb::DEFAULT_NAME, &data.join(INDEX))?;
                (Arc::new(store), Some(directory))
            }
        };
        // This process holds the directory now: what another one said of itself is over.
        let _ = std::fs::remove_file(data.join(ADDRESS));
        let reader = store.reader()?;
        let mut known = reader.shard_count()?;
        if let (Some(waiting), None, Role::CommandApi | Role::QueryApi | Role::Relay) = (waiting, known, settings.role) {
            // Its first engine says how many shards it has: whoever guessed would ask for another number.
            waiting("the log is empty: waiting for its first engine");
            while known.is_none() {
                std::thread::sleep(STAND_BY);
                known = store.reader()?.shard_count()?;
            }
        }
        let shards = settings.shards.or(known).unwrap_or(Shards::ONE);
        if let Some(known) = known.filter(|known| *known != shards && settings.role != Role::All) {
            return Err(Failure::wrong(format_args!(
                "this log has {known} shards and keeps them; set JANGBU_SHARDS={known}"
            )));
        }
        let instance = instance(data)?;
        // Before anything else is opened: what the holder does meanwhile, with keys and views too, is its own.
        if let Some(waiting) = waiting
            && directory.is_some()
            && settings.role == Role::All
            && !settings.shares_shards()
        {
            wait_until_free(store.as_ref(), known.unwrap_or(shards), instance, waiting)?;
        }
        if waiting.is_some() && writes {
            refuse_moved(store.as_ref(), reader.as_ref())?;
        }
        let heads = heads(reader.as_ref(), shards)?;
        Ok(Self {
            store,
            shards,
            heads,
            instance,
            directory,
        })
    }

    /// For whoever asks it while this process goes on.
    pub(crate) fn reading(&self) -> Reading {
        Reading(Arc::clone(&self.store))
    }

    /// How the keys of this log are opened: new keys for an old log would make everything in it unreadable without a word.
    pub(crate) fn opening(&self) -> Opening {
        if self.heads.iter().all(|head| *head == 0) {
            Opening::Make
        } else {
            Opening::Existing
        }
    }
}

/// The log, for a command beside the process that serves it.
#[cfg(feature = "kafka")]
pub(crate) fn look_at_log(settings: &Settings) -> Result<Arc<dyn EventStore>, Failure> {
    Ok(match &settings.store {
        Place::Sqlite => Arc::new(SqliteStore::open(&settings.data)?),
        Place::Postgres(address) => Arc::new(PostgresStore::open_to_look(address)?),
        Place::Esdb(url) => Arc::new(EsdbStore::open(
            url.expose_secret(),
            event_store_eventstoredb::DEFAULT_NAME,
            &settings.data.join(INDEX),
        )?),
    })
}

/// A log that is asked.
pub(crate) struct Reading(Arc<dyn EventStore>);

impl Reading {
    /// Which log it is. One that has never had a writer has no name yet: its first engine is waited for.
    pub(crate) fn id_when_named(&self, waiting: Waiting<'_>) -> Result<Uuid, StoreError> {
        let mut waited = false;
        loop {
            // A new session each time: the server may go while nobody is there who would write.
            if let Some(head) = self.0.reader()?.head(0)? {
                return Ok(head.log_id);
            }
            if !waited {
                waiting("the log is empty: waiting for its first engine");
            }
            waited = true;
            std::thread::sleep(STAND_BY);
        }
    }
}

/// Takes each shard as soon as nobody else has it.
fn wait_until_free(store: &dyn EventStore, shards: Shards, instance: Uuid, waiting: Waiting<'_>) -> Result<(), Failure> {
    let mut writer = store.writer()?;
    let mut waited = false;
    for shard in shards.all() {
        while let Err(error) = writer.take(shard, instance, jiff::Timestamp::now().as_microsecond()) {
            match &error {
                StoreError::Held { holder, .. } if is_of_a_move(holder) => return Err(error.into()),
                StoreError::Held { holder, .. } if !waited => {
                    waiting("another process holds the log: standing by, to take over when it goes");
                    tracing::info!(shard, %holder, "another process holds the log: standing by, to take over when it goes");
                }
                StoreError::Held { .. } => {}
                // The database changes its place, perhaps together with the holder.
                StoreError::Unavailable(_) if waited => tracing::warn!(%error, "standing by"),
                _ => return Err(error.into()),
            }
            waited = true;
            std::thread::sleep(STAND_BY);
        }
    }
    Ok(())
}

/// A log that has moved, or is not all there yet, is served by nobody; engines that are assigned their shards would not ask for the holder.
fn refuse_moved(store: &dyn EventStore, reader: &dyn LogReader) -> Result<(), Failure> {
    // Of the shards of a log that moves the first is the first to be kept.
    match holder_of(0, reader, store.writer()?.as_mut())? {
        Some(holder) if is_of_a_move(&holder) => Err(StoreError::Held { shard: 0, holder }.into()),
        _ => Ok(()),
    }
}

fn is_of_a_move(holder: &str) -> bool {
    CopyId::of_mover(holder).or(CopyId::of_moved(holder)).is_some()
}

/// Brings everything to the versions of this program, and gives roles of the log's database what they need.
pub(crate) fn migrate(settings: &Settings, roles: &Roles) -> Result<(), Failure> {
    settings.check_supported()?;
    let log = Log::open(settings)?;
    let keys = open_keys(&settings.keys, log.opening())?;
    let views = open_views(settings)?;
    let named = !roles.is_empty();
    match &settings.store {
        Place::Postgres(address) => PostgresStore::open(address)?.grant(roles)?,
        Place::Sqlite | Place::Esdb(_) if named => {
            return Err(Failure::wrong("only a log in PostgreSQL has roles: JANGBU_STORE names none"));
        }
        Place::Sqlite | Place::Esdb(_) => {}
    }
    eprintln!("{} is ready to be served", settings.data.display());
    drop((log, keys, views));
    Ok(())
}

/// Has access tokens signed with a new key.
pub(crate) fn rotate_keys(settings: &Settings) -> Result<(), Failure> {
    settings.check_supported()?;
    let keys = open_keys(&settings.keys, Opening::Existing)?.rotate_token_keys()?;
    eprintln!("tokens are signed with the key {} from now on", keys.current().kid());
    Ok(())
}

/// Who writes the views, and who reads them.
pub(crate) type OpenedViews = (Box<dyn ViewsWriter>, Arc<dyn Views>);

/// The views, to be written here.
pub(crate) fn open_views(settings: &Settings) -> Result<OpenedViews, Failure> {
    match &settings.views {
        Place::Sqlite | Place::Esdb(_) => {
            let (writer, views) = SqliteViews::open(&settings.data)?;
            Ok((Box::new(writer), views))
        }
        Place::Postgres(address) => {
            let (writer, views) = PostgresViews::open(address)?;
            Ok((Box::new(writer), views))
        }
    }
}

/// The views, written by another process.
pub(crate) fn look_at_views(settings: &Settings) -> Result<Arc<dyn Views>, Failure> {
    match &settings.views {
        Place::Postgres(address) => Ok(PostgresViews::open_read_only(address)?),
        Place::Sqlite | Place::Esdb(_) => Ok(SqliteViews::open(&settings.data)?.1),
    }
}

/// The keys.
pub(crate) fn open_keys(place: &KeysPlace, how: Opening) -> Result<KeyVault, VaultError> {
    match (place, how) {
        (KeysPlace::Directory(directory), Opening::Make) => KeyVault::open(directory),
        (KeysPlace::Directory(directory), Opening::Existing) => KeyVault::open_existing(directory),
        (KeysPlace::Directory(directory), Opening::Read) => KeyVault::open_to_read(directory),
        (KeysPlace::Postgres(address), how) => PostgresKeys::open(address, how),
    }
}

/// Where the log of each shard ends.
pub(crate) fn heads(reader: &dyn LogReader, shards: Shards) -> Result<Vec<u64>, StoreError> {
    let position = |shard| Ok(reader.head(shard)?.map_or(0, |head| head.position));
    shards.all().map(position).collect()
}

/// A directory without a log is made a data directory only when it holds nothing else.
pub(crate) fn refuse_foreign(data: &Path) -> Result<(), Failure> {
    let unusable = |error: std::io::Error| Failure::failed(format_args!("the data directory {} cannot be used: {error}", data.display()));
    let entries = match std::fs::read_dir(data) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unusable(error)),
    };
    let mut other = None;
    for entry in entries {
        let name = entry.map_err(unusable)?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("log.db") && name != "log.db.new" {
            return Ok(());
        }
        let harmless =
            name == "lock" || name == "log.db.new" || name == "lost+found" || name.starts_with('.') || name.starts_with("simulator.");
        if !harmless {
            other = Some(name.into_owned());
        }
    }
    other.map_or(Ok(()), |name| {
        Err(Failure::wrong(format_args!(
            "{} holds {name} but no log.db, so it is no data directory; name another one, or an empty one",
            data.display()
        )))
    })
}

fn instance(data: &Path) -> Result<Uuid, Failure> {
    let path = data.join(INSTANCE);
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| {
            Failure::wrong(format_args!(
                "{} is damaged; delete it, and start again after ten seconds",
                path.display()
            ))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let instance = Uuid::new_v4();
            publish(&path, &instance.to_string())?;
            Ok(instance)
        }
        Err(error) => Err(Failure::failed(format_args!("{} cannot be read: {error}", path.display()))),
    }
}
