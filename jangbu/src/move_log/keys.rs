//! The keys of a shop that moves.

use std::{fmt, path::Path};

use key_vault::{KeyVault, Opening, VaultError};
use key_vault_postgres::PostgresKeys;

use super::{MoveArgs, source::same_directory};
use crate::{
    failure::Failure,
    new_log,
    places::open_keys,
    settings::{KeysPlace, Settings},
};

/// Where they are, and where they go.
pub(super) struct Keys {
    vault: KeyVault,
    from: KeysPlace,
    to: KeysPlace,
}

impl Keys {
    /// Those that the command line names, or that are beside the log.
    pub(super) fn named(arguments: &MoveArgs, directory: Option<&Path>, settings: &Settings) -> Result<Self, Failure> {
        let named = new_log::named(arguments.from_keys.as_ref(), arguments.from_keys_file.as_deref())?;
        let from = match (named, directory) {
            (Some(text), _) if text.contains("://") => KeysPlace::Postgres(Box::new(
                text.parse()
                    .map_err(|error| Failure::wrong(format_args!("the keys of the shop: {error}")))?,
            )),
            (Some(text), _) => KeysPlace::Directory(new_log::directory(text, arguments.from_keys_file.as_deref())?),
            (None, Some(directory)) => KeysPlace::Directory(directory.join("keys")),
            (None, None) => {
                return Err(Failure::wrong(
                    "name the keys of the shop with --from-keys, a directory or postgres://...: they are not in the database of its log",
                ));
            }
        };
        Ok(Self {
            vault: open_keys(&from, Opening::Read)?,
            from,
            to: settings.keys.clone(),
        })
    }

    fn stay(&self) -> bool {
        match (&self.from, &self.to) {
            (KeysPlace::Directory(from), KeysPlace::Directory(to)) => same_directory(from, to),
            (KeysPlace::Postgres(from), KeysPlace::Postgres(to)) => from.is_same_database(to),
            _ => false,
        }
    }

    /// Keys of another shop are never mixed with these.
    pub(super) fn refuse_occupied(&self) -> Result<(), Failure> {
        let is_occupied = match &self.to {
            _ if self.stay() => false,
            KeysPlace::Directory(directory) => match std::fs::read_dir(directory) {
                Ok(mut entries) => entries.next().is_some(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
                Err(error) => return Err(Failure::wrong(format_args!("{} cannot be looked at: {error}", directory.display()))),
            },
            KeysPlace::Postgres(_) => match open_keys(&self.to, Opening::Read) {
                Ok(_) => true,
                Err(VaultError::Missing { .. }) => false,
                Err(error) => return Err(error.into()),
            },
        };
        if is_occupied {
            return Err(Failure::wrong(format_args!(
                "there are keys in {} already; name a place without any with JANGBU_KEYS",
                shown(&self.to)
            )));
        }
        Ok(())
    }

    /// Puts them where they go. What was interrupted is finished.
    pub(super) fn copy(&self) -> Result<(), VaultError> {
        if self.stay() {
            return Ok(());
        }
        match &self.to {
            KeysPlace::Directory(directory) => self.vault.copy_in_directory(directory),
            KeysPlace::Postgres(address) => self.vault.copy_in(PostgresKeys::at(address)?),
        }
        .map(drop)
    }

    /// That they are where they go, all of them: whoever is told so deletes those that are left.
    pub(super) fn check_copied(&self) -> Result<(), Failure> {
        if self.stay() {
            return Ok(());
        }
        let is_copied = match open_keys(&self.to, Opening::Read) {
            Ok(there) => there.has_all_of(&self.vault)?,
            Err(VaultError::Missing { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        if !is_copied {
            return Err(Failure::wrong(format_args!(
                "the log has moved, but the keys in {} are not all that are in {}: name where they went with JANGBU_KEYS, and delete none \
                 before (of people who were erased since then there are none)",
                shown(&self.to),
                shown(&self.from)
            )));
        }
        Ok(())
    }
}

/// What became of them, for people. True once they are [copied](Keys::copy), or [known to be](Keys::check_copied).
impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (shown(&self.from), shown(&self.to));
        if self.stay() {
            writeln!(f, "the keys stay in {to}")
        } else {
            writeln!(
                f,
                "the keys are in {to}; those in {from} still open what was sealed, of people who are erased from now on too: delete them"
            )
        }
    }
}

fn shown(place: &KeysPlace) -> String {
    match place {
        KeysPlace::Directory(directory) => directory.display().to_string(),
        KeysPlace::Postgres(address) => address.to_string(),
    }
}
