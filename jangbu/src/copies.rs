//! Backups: the log and the keys, in folders of their own, so that they can be kept apart.

use std::path::Path;

use event_store::StoreError;
use event_store_sqlite::SqliteStore;
use key_vault::KeyVault;

use crate::{failure::Failure, move_log::CopyId, settings::Settings};

const LOG: &str = "log";
const KEYS: &str = "keys";

/// Copies the log, then the keys: every key that the copied events need exists by then, because a key is durable before its event.
pub(crate) fn backup(settings: &Settings, to: &Path) -> Result<(), Failure> {
    settings.check_supported()?;
    if is_occupied(to)? {
        return Err(Failure::wrong(format_args!(
            "{} is not empty; name a new or an empty directory for the backup",
            to.display()
        )));
    }
    let (data, keys) = settings.directories("backup")?;
    refuse_incomplete(data)?;
    SqliteStore::backup(data, &to.join(LOG))?;
    KeyVault::restore(keys, &to.join(KEYS))?;
    eprintln!(
        "the log is in {}, the keys are in {}: keep them apart",
        to.join(LOG).display(),
        to.join(KEYS).display()
    );
    Ok(())
}

/// What is being copied or adopted is no shop yet. One that has moved may be copied: what is restored of it has moved too.
fn refuse_incomplete(data: &Path) -> Result<(), Failure> {
    let keeper = SqliteStore::open_read_only(data)?.keeper()?;
    match keeper.filter(|(_, holder)| CopyId::of_moved(holder).is_none()) {
        Some((shard, holder)) => Err(Failure::wrong(Failure::from(StoreError::Held { shard, holder }).line())),
        None => Ok(()),
    }
}

/// Puts the keys in place first: a data directory with a log is served, one with keys alone is not.
pub(crate) fn restore(from: &Path, settings: &Settings) -> Result<(), Failure> {
    settings.check_supported()?;
    let (data, keys) = settings.directories("restore")?;
    for place in [data, keys] {
        if is_occupied(place)? {
            return Err(Failure::wrong(format_args!(
                "{} is not empty; restore into a new or an empty directory",
                place.display()
            )));
        }
    }
    KeyVault::restore(&from.join(KEYS), keys)?;
    if let Err(error) = SqliteStore::restore(&from.join(LOG), data) {
        // The keys were copied just now, into a directory that was empty.
        let _ = std::fs::remove_dir_all(keys);
        return Err(error.into());
    }
    eprintln!(
        "{} holds the shop as it was; its views are filled anew when it is served",
        data.display()
    );
    Ok(())
}

fn is_occupied(directory: &Path) -> Result<bool, Failure> {
    match std::fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::wrong(format_args!("{} cannot be looked at: {error}", directory.display()))),
    }
}
