//! Where the log, the views and the keys are: files of a data directory, or databases.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use event_store::{EventStore, LogReader, StoreError};
use event_store_postgres::PostgresStore;
use event_store_sqlite::{SqliteStore, Standing};
use key_vault::{KeyVault, Opening};
use key_vault_postgres::PostgresKeys;
use postgres_session::Address;
use projections::ViewsLook;
use projections_postgres::ViewsAtOnce;
use projections_sqlite::{FILE, ViewsFile};

use crate::{arguments::Source, failure::Failure};

/// The data directory, unless another is named.
const DATA: &str = "./data";

/// Where a shop on `EventStoreDB` keeps what it has read of its log: in a log of SQLite.
const INDEX: &str = "index";

/// A place in words: never with a password.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A data directory, or the file in one.
    Files(PathBuf),
    /// A database.
    Database(Box<Address>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(path) => path.display().fmt(f),
            Self::Database(address) => address.fmt(f),
        }
    }
}

/// Whether this names a database, and not a path.
fn is_url(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

fn database(what: &str, text: &str) -> Result<Place, Failure> {
    match text.parse() {
        Ok(address) => Ok(Place::Database(Box::new(address))),
        Err(error) => Err(Failure::input(format_args!("{what}: {error}"))),
    }
}

/// A variable of the shop's own settings; one that is empty says nothing.
fn setting(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

impl Source {
    /// Whether the shop's own settings say where its places are: where the command line names neither its log nor its directory.
    fn is_of_settings(&self) -> bool {
        self.store.is_none() && self.data.is_none()
    }

    /// The data directory: of a log elsewhere there is one only when it is named.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        match (&self.data, &self.store) {
            (Some(data), _) => Some(data.clone()),
            (None, Some(store)) if store != "sqlite" => None,
            (None, _) => Some(setting("JANGBU_DATA").unwrap_or_else(|| DATA.to_owned()).into()),
        }
    }

    /// Where the log is.
    ///
    /// # Errors
    /// What is named is no place of a log.
    pub(crate) fn log_place(&self) -> Result<Place, Failure> {
        let store = self
            .store
            .clone()
            .or_else(|| setting("JANGBU_STORE").filter(|_| self.is_of_settings()));
        match store.as_deref() {
            None | Some("sqlite") => Ok(Place::Files(self.directory().unwrap_or_else(|| DATA.into()))),
            Some(url) if is_url(url) => database("the store", url),
            Some(url) if url.starts_with("esdb") || url.starts_with("kurrentdb") => self.index().map(Place::Files),
            Some(other) => Err(Failure::input(format_args!(
                "no log is on {}; write --store postgres://USER@HOST/DATABASE, or --data with the data directory of a shop",
                // What stands behind the scheme may hold a password.
                other.split(':').next().unwrap_or_default()
            ))),
        }
    }

    /// What the shop has read of its streams: these are not asked.
    fn index(&self) -> Result<PathBuf, Failure> {
        let directory = self.directory().unwrap_or_else(|| DATA.into()).join(INDEX);
        let entries = std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let mut logs: Vec<_> = entries.filter(|path| path.join("log.db").is_file()).collect();
        match (logs.pop(), logs.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(_), false) => Err(Failure::input(format_args!(
                "{} holds the indexes of several logs; name one of them with --data",
                directory.display()
            ))),
            (None, _) => Err(Failure::input(format_args!(
                "a log on EventStoreDB is read from the index that its shop keeps, and there is none in {}; name the shop's data directory \
                 with --data",
                directory.display()
            ))),
        }
    }

    /// Where the views are: where they are said to be, or beside the log.
    ///
    /// # Errors
    /// What is named is no place of views.
    pub(crate) fn views_place(&self) -> Result<Place, Failure> {
        let named = self
            .views
            .clone()
            .flatten()
            .or_else(|| setting("JANGBU_VIEWS").filter(|_| self.is_of_settings()));
        match named.as_deref() {
            None => match self.log_place()? {
                Place::Files(directory) => Ok(Place::Files(self.directory().unwrap_or(directory).join(FILE))),
                beside @ Place::Database(_) => Ok(beside),
            },
            Some("sqlite") => Ok(Place::Files(self.directory().unwrap_or_else(|| DATA.into()).join(FILE))),
            Some(text) => views_at(text),
        }
    }

    /// The keys, for what is sealed.
    ///
    /// # Errors
    /// They cannot be opened.
    pub(crate) fn open_keys(&self) -> Result<(KeyVault, Place), Failure> {
        let place = self.keys_place()?;
        let opened = match &place {
            Place::Files(directory) => KeyVault::open_to_read(directory),
            Place::Database(address) => PostgresKeys::open(address, Opening::Read),
        };
        let vault = opened.map_err(|error| {
            Failure::input(format_args!(
                "--reveal needs the shop's keys: {error}; name their directory with --keys"
            ))
        })?;
        Ok((vault, place))
    }

    fn keys_place(&self) -> Result<Place, Failure> {
        let named = self
            .keys
            .clone()
            .or_else(|| setting("JANGBU_KEYS").filter(|_| self.is_of_settings()));
        match (named, self.directory()) {
            (Some(url), _) if is_url(&url) => database("the keys", &url),
            (Some(directory), _) => Ok(Place::Files(directory.into())),
            (None, Some(data)) => Ok(Place::Files(data.join("keys"))),
            (None, None) => Err(Failure::input(
                "--reveal needs the shop's keys, and the log's database has none: name their directory or their database with --keys",
            )),
        }
    }
}

/// Views that are named: a database, a file, or a directory with one.
///
/// # Errors
/// The address is none.
pub(crate) fn views_at(text: &str) -> Result<Place, Failure> {
    if is_url(text) {
        return database("the views", text);
    }
    let path = Path::new(text);
    Ok(Place::Files(if path.is_dir() { path.join(FILE) } else { path.to_owned() }))
}

/// Opens views to look at them.
///
/// # Errors
/// There are none, or not of this version.
pub(crate) fn open_views(place: &Place) -> Result<Box<dyn ViewsLook>, String> {
    match place {
        Place::Files(path) if !path.exists() => Err(format!("{} does not exist", path.display())),
        Place::Files(path) => ViewsFile::open(path)
            .map(|views| Box::new(views) as _)
            .map_err(|error| error.to_string()),
        Place::Database(address) => ViewsAtOnce::open(address)
            .map(|views| Box::new(views) as _)
            .map_err(|error| error.to_string()),
    }
}

/// A log that is opened to be read. Nothing in it is made, upgraded or locked.
#[derive(Clone)]
pub(crate) enum Store {
    Files(SqliteStore),
    Database(PostgresStore),
}

impl Store {
    /// # Errors
    /// There is no log, or not one that this version reads.
    pub(crate) fn open(place: &Place) -> Result<Self, StoreError> {
        match place {
            Place::Files(directory) => SqliteStore::open_to_look(directory).map(Self::Files),
            Place::Database(address) => PostgresStore::open_to_look(&address.as_ref().clone().named("jangbu replay")).map(Self::Database),
        }
    }

    pub(crate) fn reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        match self {
            Self::Files(store) => store.reader(),
            Self::Database(store) => store.reader(),
        }
    }

    /// The port.
    pub(crate) fn shared(&self) -> Arc<dyn EventStore> {
        match self {
            Self::Files(store) => Arc::new(store.clone()),
            Self::Database(store) => Arc::new(store.clone()),
        }
    }

    /// What there is on the disk; none where the log is not in a file.
    ///
    /// # Errors
    /// The file is not there any more.
    pub(crate) fn standing(&self) -> Result<Option<Standing>, StoreError> {
        match self {
            Self::Files(store) => store.standing().map(Some),
            Self::Database(_) => Ok(None),
        }
    }

    /// Whether one who reads slowly keeps nothing from being tidied up: each page of a database is a question of its own.
    pub(crate) fn answers_by_page(&self) -> bool {
        matches!(self, Self::Database(_))
    }
}

/// What there is on the disk before a log is opened; none where it is not in a file, or cannot be told.
pub(crate) fn standing_at(place: &Place) -> Option<Standing> {
    match place {
        Place::Files(directory) => SqliteStore::standing_in(directory).ok(),
        Place::Database(_) => None,
    }
}
