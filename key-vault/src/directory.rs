//! Keys in a directory: a file each, for one machine.
//!
//! ```text
//! keys/format            what this directory is, written last when it is created
//! keys/index             the key of the blind index
//! keys/fingerprint       the key of the fingerprints
//! keys/token-current     the Ed25519 key that signs access tokens
//! keys/token-previous    the one before it, which still verifies
//! keys/subjects/ab/ID    one key per subject; ab are the last two digits of the id
//! keys/tmp/              files that are being written
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::error::VaultError;
use crate::files;
use crate::place::{Changes, Gone, KeyKind, KeyPlace, Opening, Removal, Secret, Seen, ShopKeys, TokenSecrets, Unchecked};

const FORMAT: &str = "format";
const INDEX: &str = "index";
const FINGERPRINT: &str = "fingerprint";
const TOKEN_CURRENT: &str = "token-current";
const TOKEN_PREVIOUS: &str = "token-previous";
const SUBJECTS: &str = "subjects";
const TMP: &str = "tmp";

/// What the file `format` says in the version of the directory that this code writes.
const FORMAT_LINE: &str = "jangbu-keys 1\n";

/// A directory of keys.
#[derive(Clone)]
pub(crate) struct Directory {
    dir: PathBuf,
    /// Whether each new key is durable at once. A directory that is sown is made durable at its end.
    durable: bool,
}

impl Directory {
    pub(crate) fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            durable: true,
        }
    }

    /// A new directory with these keys, nothing of it durable before [`finish`](Self::finish).
    pub(crate) fn sow(dir: &Path, keys: &ShopKeys) -> Result<Self, VaultError> {
        let sown = Self {
            dir: dir.to_owned(),
            durable: false,
        };
        sown.prepare_empty()?;
        sown.write_shop(keys)?;
        Ok(sown)
    }

    /// Makes all of it durable, and a vault: the format comes last, so that what was interrupted is not taken for one.
    pub(crate) fn finish(&self) -> Result<(), VaultError> {
        let mut folders = BTreeSet::new();
        // Synced when all are written: the first barrier then carries most of them.
        for file in self.subject_files()? {
            files::sync_file(&file)?;
            folders.extend(file.parent().map(Path::to_owned));
        }
        folders.iter().try_for_each(|folder| files::sync_dir(folder))?;
        for name in [INDEX, FINGERPRINT, TOKEN_CURRENT, TOKEN_PREVIOUS] {
            let path = self.dir.join(name);
            if path.exists() {
                files::sync_file(&path)?;
            }
        }
        files::sync_dir(&self.dir)?;
        files::publish(&self.tmp(), &self.dir.join(FORMAT), FORMAT_LINE.as_bytes())?;
        Ok(())
    }

    /// Whether there is a vault, and not a directory that is empty, or none.
    pub(crate) fn has_vault(&self) -> Result<bool, VaultError> {
        Ok(self.dir.is_dir() && self.is_vault()?)
    }

    fn prepare_empty(&self) -> Result<(), VaultError> {
        files::create_dir(&self.dir)?;
        if !files::names(&self.dir)?.is_empty() {
            return Err(VaultError::NotEmpty { path: self.dir.clone() });
        }
        self.prepare_folders()
    }

    fn write_shop(&self, keys: &ShopKeys) -> Result<(), VaultError> {
        let write = |name, kind, key| files::write_new(&self.dir.join(name), kind, key);
        write(INDEX, KeyKind::Index, &keys.index)?;
        write(FINGERPRINT, KeyKind::Fingerprint, &keys.fingerprint)?;
        write(TOKEN_CURRENT, KeyKind::Token, &keys.tokens.current)?;
        match &keys.tokens.previous {
            Some(previous) => write(TOKEN_PREVIOUS, KeyKind::Token, previous),
            None => Ok(()),
        }
    }

    /// Makes the master keys of a new vault, or finishes what a crash interrupted.
    fn make(&self, proposed: &ShopKeys) -> Result<(), VaultError> {
        self.refuse_foreign()?;
        self.prepare_folders()?;
        let create = |name, kind, key| files::create(&self.tmp(), &self.dir.join(name), kind, key);
        create(INDEX, KeyKind::Index, &proposed.index)?;
        create(FINGERPRINT, KeyKind::Fingerprint, &proposed.fingerprint)?;
        create(TOKEN_CURRENT, KeyKind::Token, &proposed.tokens.current)?;
        files::publish(&self.tmp(), &self.dir.join(FORMAT), FORMAT_LINE.as_bytes())?;
        Ok(())
    }

    /// Sees to what an opened vault needs.
    fn ready(&self, proposed: &ShopKeys) -> Result<(), VaultError> {
        // Before anything is made: a vault that lacks one of them is refused as it is.
        self.existing(INDEX, KeyKind::Index)?;
        self.existing(FINGERPRINT, KeyKind::Fingerprint)?;
        self.prepare_folders()?;
        files::remove_leftovers(&self.tmp())?;
        self.add_token(&proposed.tokens.current)
    }

    fn existing(&self, name: &str, kind: KeyKind) -> Result<Secret, VaultError> {
        files::read_existing(&self.dir.join(name), kind)
    }

    /// Whether the directory says that it is a vault; another format is refused.
    fn is_vault(&self) -> Result<bool, VaultError> {
        let path = self.dir.join(FORMAT);
        match fs::read(&path) {
            Ok(line) if line == FORMAT_LINE.as_bytes() => Ok(true),
            Ok(_) => Err(VaultError::Damaged {
                key: files::shown(&path),
                reason: "it does not name a format that this version knows",
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(VaultError::Io {
                action: "read",
                path,
                source,
            }),
        }
    }

    fn refuse_none(&self) -> Result<(), VaultError> {
        if self.has_vault()? {
            return Ok(());
        }
        Err(VaultError::Missing {
            key: files::shown(&self.dir.join(FORMAT)),
        })
    }

    /// A directory without a format may hold what an interrupted creation left, and nothing else: neither another program's files nor
    /// keys of subjects, which only an incomplete copy would have.
    fn refuse_foreign(&self) -> Result<(), VaultError> {
        for name in files::names(&self.dir)? {
            if ![INDEX, FINGERPRINT, TOKEN_CURRENT, SUBJECTS, TMP].contains(&name.as_str()) {
                return Err(VaultError::Foreign { path: self.dir.join(name) });
            }
        }
        if let Some(subject) = self.subject_files()?.into_iter().next() {
            return Err(VaultError::Incomplete { path: subject });
        }
        Ok(())
    }

    /// All folders of the vault. They exist before any key, so that making a subject's key syncs one folder only.
    fn prepare_folders(&self) -> Result<(), VaultError> {
        let subjects = self.dir.join(SUBJECTS);
        files::make_dir(&self.tmp())?;
        files::make_dir(&subjects)?;
        for byte in 0..=u8::MAX {
            files::make_dir(&self.folder(byte))?;
        }
        files::sync_dir(&subjects)?;
        files::sync_dir(&self.dir)
    }

    /// The files of all subjects' keys, in order.
    fn subject_files(&self) -> Result<BTreeSet<PathBuf>, VaultError> {
        let subjects = self.dir.join(SUBJECTS);
        let mut found = BTreeSet::new();
        if !subjects.is_dir() {
            return Ok(found);
        }
        for folder in files::names(&subjects)? {
            let folder = subjects.join(folder);
            found.extend(files::names(&folder)?.into_iter().map(|name| folder.join(name)));
        }
        Ok(found)
    }

    fn tmp(&self) -> PathBuf {
        self.dir.join(TMP)
    }

    fn folder(&self, last_byte: u8) -> PathBuf {
        self.dir.join(SUBJECTS).join(format!("{last_byte:02x}"))
    }

    fn subject_file(&self, subject: Uuid) -> PathBuf {
        self.folder(last_byte(subject)).join(subject.hyphenated().to_string())
    }
}

/// The last byte, because the first ones of a `UUIDv7` are the time.
fn last_byte(subject: Uuid) -> u8 {
    subject.as_bytes()[15]
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dir.display())
    }
}

impl KeyPlace for Directory {
    fn open(&self, how: Opening, proposed: &ShopKeys) -> Result<ShopKeys, VaultError> {
        if how == Opening::Make {
            files::create_dir(&self.dir)?;
            if !self.is_vault()? {
                self.make(proposed)?;
            }
        } else {
            self.refuse_none()?;
        }
        if how != Opening::Read {
            self.ready(proposed)?;
        }
        Ok(ShopKeys {
            index: self.existing(INDEX, KeyKind::Index)?,
            fingerprint: self.existing(FINGERPRINT, KeyKind::Fingerprint)?,
            tokens: self.tokens()?,
        })
    }

    fn tokens(&self) -> Result<TokenSecrets, VaultError> {
        let current = self.existing(TOKEN_CURRENT, KeyKind::Token)?;
        // A crash between the two steps of a rotation leaves the same key twice: then there is no previous one.
        let previous = files::read(&self.dir.join(TOKEN_PREVIOUS), KeyKind::Token)?.filter(|key| *key != current);
        Ok(TokenSecrets { current, previous })
    }

    fn rotate_tokens(&self, next: &Secret) -> Result<TokenSecrets, VaultError> {
        let current = self.existing(TOKEN_CURRENT, KeyKind::Token)?;
        files::replace(&self.tmp(), &self.dir.join(TOKEN_PREVIOUS), KeyKind::Token, &current)?;
        files::replace(&self.tmp(), &self.dir.join(TOKEN_CURRENT), KeyKind::Token, next)?;
        self.tokens()
    }

    /// Without its token keys a shop only asks everyone to log in again, so removing them is the way to revoke all tokens.
    fn add_token(&self, proposed: &Secret) -> Result<(), VaultError> {
        files::create(&self.tmp(), &self.dir.join(TOKEN_CURRENT), KeyKind::Token, proposed)?;
        Ok(())
    }

    fn subject(&self, subject: Uuid) -> Result<Option<Secret>, VaultError> {
        files::read(&self.subject_file(subject), KeyKind::Subject(subject))
    }

    fn create_subject(&self, subject: Uuid, proposed: &Secret) -> Result<Secret, VaultError> {
        let (file, kind) = (self.subject_file(subject), KeyKind::Subject(subject));
        if self.durable {
            return files::create(&self.tmp(), &file, kind, proposed);
        }
        files::write_new(&file, kind, proposed)?;
        Ok(proposed.clone())
    }

    /// Its file is removed, and nothing is left to say that there was one.
    fn remove_subject(&self, subject: Uuid, _: Removal) -> Result<(), VaultError> {
        files::remove(&self.subject_file(subject))
    }

    fn subjects(&self, after: Option<Uuid>, most: usize) -> Result<Vec<(Uuid, Secret)>, VaultError> {
        let mut found = Vec::new();
        for byte in after.map_or(0, last_byte)..=u8::MAX {
            let folder = self.folder(byte);
            for name in files::names(&folder)? {
                let subject = files::subject_of(&folder.join(name))?;
                if after.is_some_and(|after| last_byte(after) == byte && subject <= after) {
                    continue;
                }
                // Erased since the folder was listed.
                let Some(key) = self.subject(subject)? else { continue };
                found.push((subject, key));
                if found.len() == most {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    /// Another process may have rotated the keys of access tokens.
    fn changes(&self, _: &mut Seen) -> Result<Changes, VaultError> {
        Ok(Changes {
            tokens: self.tokens()?,
            gone: Gone::These(Vec::new()),
        })
    }

    fn unchecked(&self) -> Option<Unchecked> {
        None
    }
}

/// Makes a new directory of these keys; `None` ends the pages of subjects. Its format is written last.
pub(crate) fn write_copy(
    dir: &Path,
    shop: &ShopKeys,
    mut next: impl FnMut(Option<Uuid>) -> Result<Vec<(Uuid, Secret)>, VaultError>,
) -> Result<(), VaultError> {
    let copy = Directory {
        dir: dir.to_owned(),
        durable: false,
    };
    copy.prepare_empty()?;
    let mut after = None;
    loop {
        let page = next(after)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for (subject, key) in &page {
            copy.create_subject(*subject, key)?;
        }
    }
    copy.write_shop(shop)?;
    copy.finish()
}

/// Makes a new directory under another name beside it, and gives it its own when it is complete, durably.
pub(crate) fn as_a_whole(dir: &Path, make: impl FnOnce(&Path) -> Result<(), VaultError>) -> Result<(), VaultError> {
    let part = beside(dir);
    if part.is_dir() {
        // Left by one who was interrupted; nobody else's.
        for name in files::names(&part)? {
            if ![FORMAT, INDEX, FINGERPRINT, TOKEN_CURRENT, TOKEN_PREVIOUS, SUBJECTS, TMP].contains(&name.as_str()) {
                return Err(VaultError::Foreign { path: part.join(name) });
            }
        }
        files::remove_dir(&part)?;
    }
    make(&part)?;
    files::rename_dir(&part, dir)
}

/// Where the parts of a directory are before it is whole.
fn beside(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    dir.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use crate::conformance::Place;
    use crate::{KeyVault, Opening, VaultError};

    struct Scratch(TempDir);

    impl Place for Scratch {
        fn open(&self, how: Opening) -> Result<KeyVault, VaultError> {
            let dir = self.0.path().join("keys");
            match how {
                Opening::Make => KeyVault::open(&dir),
                Opening::Existing => KeyVault::open_existing(&dir),
                Opening::Read => KeyVault::open_to_read(&dir),
            }
        }
    }

    crate::conformance_suite!(Scratch(tempfile::tempdir().expect("a scratch directory")));
}
