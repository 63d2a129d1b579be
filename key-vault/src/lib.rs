//! Keys: personal data sealed per subject, the blind index, and the token keys.
//!
//! A subject is a person whose data is sealed: an account. Whoever holds a sealed value and not the vault reads nothing, and when the
//! subject's key is gone, nobody ever will. The vault is a directory that is kept and backed up apart from the log:
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
//!
//! This crate never shows a key or a sealed text in a message, a log line or a `Debug` output.

mod cipher;
mod error;
mod files;
mod sown;
mod tokens;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use sha2::Sha256;
use unicode_normalization::UnicodeNormalization;
use uuid::Uuid;
use zeroize::Zeroizing;

pub use crate::error::VaultError;
pub use crate::tokens::{TokenKey, TokenKeys};

use crate::files::{Kind, Secret};
use crate::sown::Seed;

const FORMAT: &str = "format";
const INDEX: &str = "index";
const FINGERPRINT: &str = "fingerprint";
const TOKEN_CURRENT: &str = "token-current";
const TOKEN_PREVIOUS: &str = "token-previous";
const SUBJECTS: &str = "subjects";
const TMP: &str = "tmp";

/// What the file `format` says in the version of the directory that this code writes.
const FORMAT_LINE: &str = "jangbu-keys 1\n";

/// The cache of subject keys: a lock per stripe, so that sealing for one person does not wait for another's file.
const STRIPES: usize = 64;
const KEYS_PER_STRIPE: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not zero");

/// The keys of one shop. Clones share one vault.
#[derive(Clone)]
pub struct KeyVault {
    vault: Arc<Vault>,
}

struct Vault {
    dir: PathBuf,
    index: Hmac<Sha256>,
    fingerprint: Secret,
    tokens: RwLock<TokenKeys>,
    subjects: Vec<Mutex<LruCache<Uuid, Secret>>>,
    /// Where its keys and nonces come from; none when the operating system gives them.
    seed: Option<Seed>,
}

impl KeyVault {
    /// Opens the vault in this directory, and makes it when there is none. A vault that lacks a key or has a damaged one is refused: a
    /// new key in its place would make what the old one sealed or indexed unreadable without a word.
    pub fn open(dir: &Path) -> Result<Self, VaultError> {
        files::create_dir(dir)?;
        if !is_vault(dir)? {
            create(dir)?;
        }
        Self::load(dir)
    }

    /// Opens the vault in this directory, and refuses when there is none.
    pub fn open_existing(dir: &Path) -> Result<Self, VaultError> {
        if !dir.is_dir() || !is_vault(dir)? {
            return Err(VaultError::Missing { path: dir.join(FORMAT) });
        }
        Self::load(dir)
    }

    /// Opens the vault in this directory for one who only reads: nothing in it is made or removed.
    pub fn open_to_read(dir: &Path) -> Result<Self, VaultError> {
        if !dir.is_dir() || !is_vault(dir)? {
            return Err(VaultError::Missing { path: dir.join(FORMAT) });
        }
        Self::read(dir, None)
    }

    /// Makes a vault in a directory that is new or empty, whose every key and nonce follows from the seed: the same seed and the same calls
    /// in the same order give the same bytes. Whoever knows the seed knows the keys, so it is for people who are made up.
    ///
    /// Nothing in it is durable, and it is no vault for anybody else, before [`finish_sown`](Self::finish_sown).
    pub fn sow(dir: &Path, seed: &[u8; 32]) -> Result<Self, VaultError> {
        files::create_dir(dir)?;
        if !files::names(dir)?.is_empty() {
            return Err(VaultError::NotEmpty { path: dir.to_owned() });
        }
        prepare_folders(dir)?;
        let seed = Seed::new(seed);
        for (name, kind) in [(INDEX, Kind::Index), (FINGERPRINT, Kind::Fingerprint), (TOKEN_CURRENT, Kind::Token)] {
            files::write_new(&dir.join(name), kind, &seed.key(name.as_bytes()))?;
        }
        Self::read(dir, Some(seed))
    }

    /// Makes what was sown durable, and a vault like any other.
    pub fn finish_sown(&self) -> Result<(), VaultError> {
        let dir = &self.vault.dir;
        let mut folders = BTreeSet::new();
        for file in subject_files(dir)? {
            files::sync_file(&file)?;
            folders.extend(file.parent().map(Path::to_owned));
        }
        folders.iter().try_for_each(|folder| files::sync_dir(folder))?;
        for name in [INDEX, FINGERPRINT, TOKEN_CURRENT] {
            files::sync_file(&dir.join(name))?;
        }
        files::publish(&dir.join(TMP), &dir.join(FORMAT), FORMAT_LINE.as_bytes())?;
        Ok(())
    }

    fn load(dir: &Path) -> Result<Self, VaultError> {
        // Before anything is made: a vault that lacks one of them is refused as it is.
        files::read_existing(&dir.join(INDEX), Kind::Index)?;
        files::read_existing(&dir.join(FINGERPRINT), Kind::Fingerprint)?;
        prepare_folders(dir)?;
        files::remove_leftovers(&dir.join(TMP))?;
        // Without its token keys a shop only asks everyone to log in again, so removing them is the way to revoke all tokens.
        files::create(&dir.join(TMP), &dir.join(TOKEN_CURRENT), Kind::Token)?;
        Self::read(dir, None)
    }

    fn read(dir: &Path, seed: Option<Seed>) -> Result<Self, VaultError> {
        let index = files::read_existing(&dir.join(INDEX), Kind::Index)?;
        let fingerprint = files::read_existing(&dir.join(FINGERPRINT), Kind::Fingerprint)?;
        let tokens = read_tokens(dir)?;
        let stripes = (0..STRIPES).map(|_| Mutex::new(LruCache::new(KEYS_PER_STRIPE))).collect();
        Ok(Self {
            vault: Arc::new(Vault {
                dir: dir.to_owned(),
                index: Hmac::new_from_slice(&index[..]).expect("HMAC takes a key of any length"),
                fingerprint,
                tokens: RwLock::new(tokens),
                subjects: stripes,
                seed,
            }),
        })
    }

    /// Makes the subject's key unless there is one, and says whether it did. It is durable when this returns, so it can seal what is
    /// recorded after that.
    pub fn create_subject(&self, subject: Uuid) -> Result<bool, VaultError> {
        let mut stripe = self.stripe(subject).lock();
        if stripe.contains(&subject) {
            return Ok(false);
        }
        let file = self.subject_file(subject);
        let made = !file.exists();
        let key = match &self.vault.seed {
            Some(seed) => {
                let key = seed.key(subject.as_bytes());
                files::write_new(&file, Kind::Subject(subject), &key)?;
                key
            }
            None => files::create(&self.vault.dir.join(TMP), &file, Kind::Subject(subject))?,
        };
        stripe.put(subject, key);
        Ok(made)
    }

    /// Seals a text with the subject's key. The result is printable and differs each time.
    pub fn seal(&self, subject: Uuid, plain: &str) -> Result<String, VaultError> {
        let key = self.subject_key(subject)?.ok_or(VaultError::NoSubjectKey { subject })?;
        let nonce = match &self.vault.seed {
            Some(seed) => seed.nonce(),
            None => cipher::new_nonce()?,
        };
        cipher::seal(&key, subject, nonce, plain)
    }

    /// The text that was sealed, or `None` when the subject has no key: it was erased, or never was.
    pub fn open_sealed(&self, subject: Uuid, sealed: &str) -> Result<Option<Zeroizing<String>>, VaultError> {
        match self.subject_key(subject)? {
            Some(key) => cipher::open(&key, subject, sealed).map(Some),
            None => Ok(None),
        }
    }

    /// Erases the subject's key, and with it everything that it sealed, wherever a copy may be. Durable when this returns. Another process
    /// that has the same directory open may keep the key in its memory until it ends.
    pub fn erase_subject(&self, subject: Uuid) -> Result<(), VaultError> {
        let mut stripe = self.stripe(subject).lock();
        files::remove(&self.subject_file(subject))?;
        stripe.pop(&subject);
        Ok(())
    }

    /// Where an e-mail address is looked up without being known: equal for all spellings of one address, and meaningless without the key.
    pub fn blind_index(&self, email: &str) -> Uuid {
        let address: Zeroizing<String> = Zeroizing::new(email.nfc().collect::<String>().to_lowercase().nfc().collect());
        let mut mac = self.vault.index.clone();
        mac.update(address.as_bytes());
        let code = mac.finalize().into_bytes();
        let mut first = [0; 16];
        first.copy_from_slice(&code[..16]);
        Uuid::new_v8(first)
    }

    /// A keyed hash of these parts, for telling whether two requests are the same without keeping what they say. Where one part ends and
    /// the next begins counts.
    pub fn fingerprint(&self, parts: &[&[u8]]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.vault.fingerprint);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut first = [0; 16];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        first
    }

    /// The keys of access tokens as they are now.
    pub fn token_keys(&self) -> TokenKeys {
        self.vault.tokens.read().clone()
    }

    /// Signs with a new key from now on. Tokens of the key before it still verify, those of older keys do not.
    pub fn rotate_token_keys(&self) -> Result<TokenKeys, VaultError> {
        let mut tokens = self.vault.tokens.write();
        let (dir, tmp) = (&self.vault.dir, self.vault.dir.join(TMP));
        files::replace(&tmp, &dir.join(TOKEN_PREVIOUS), Kind::Token, tokens.current().secret())?;
        files::replace(&tmp, &dir.join(TOKEN_CURRENT), Kind::Token, &files::new_secret()?)?;
        *tokens = read_tokens(dir)?;
        Ok(tokens.clone())
    }

    /// Copies all keys into a directory that is new or empty, each verified on the way. Made while serving, the copy has every key that
    /// existed when it began: so copy the log first, and the keys after it.
    pub fn copy_to(&self, dir: &Path) -> Result<(), VaultError> {
        // The two token keys of the copy belong together.
        let _tokens = self.vault.tokens.read();
        copy(&self.vault.dir, dir)
    }

    /// Makes a vault in `dir`, new or empty, from a copy.
    pub fn restore(from: &Path, dir: &Path) -> Result<Self, VaultError> {
        copy(from, dir)?;
        Self::open_existing(dir)
    }

    fn subject_key(&self, subject: Uuid) -> Result<Option<Secret>, VaultError> {
        let mut stripe = self.stripe(subject).lock();
        if let Some(key) = stripe.get(&subject) {
            return Ok(Some(key.clone()));
        }
        // Read under the lock: an erasure meanwhile would otherwise leave the key in the cache.
        let key = files::read(&self.subject_file(subject), Kind::Subject(subject))?;
        if let Some(key) = &key {
            stripe.put(subject, key.clone());
        }
        Ok(key)
    }

    fn stripe(&self, subject: Uuid) -> &Mutex<LruCache<Uuid, Secret>> {
        &self.vault.subjects[usize::from(last_byte(subject)) % STRIPES]
    }

    fn subject_file(&self, subject: Uuid) -> PathBuf {
        subject_file(&self.vault.dir, subject)
    }
}

impl fmt::Debug for KeyVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyVault").field("dir", &self.vault.dir).finish_non_exhaustive()
    }
}

/// The last byte, because the first ones of a `UUIDv7` are the time.
fn last_byte(subject: Uuid) -> u8 {
    subject.as_bytes()[15]
}

fn subject_file(dir: &Path, subject: Uuid) -> PathBuf {
    dir.join(SUBJECTS)
        .join(format!("{:02x}", last_byte(subject)))
        .join(subject.hyphenated().to_string())
}

/// Whether the directory says that it is a vault; another format is refused.
fn is_vault(dir: &Path) -> Result<bool, VaultError> {
    let path = dir.join(FORMAT);
    match fs::read(&path) {
        Ok(line) if line == FORMAT_LINE.as_bytes() => Ok(true),
        Ok(_) => Err(VaultError::Damaged {
            path,
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

/// Makes the master keys of a new vault, or finishes what a crash interrupted.
fn create(dir: &Path) -> Result<(), VaultError> {
    refuse_foreign(dir)?;
    prepare_folders(dir)?;
    let tmp = dir.join(TMP);
    files::create(&tmp, &dir.join(INDEX), Kind::Index)?;
    files::create(&tmp, &dir.join(FINGERPRINT), Kind::Fingerprint)?;
    files::create(&tmp, &dir.join(TOKEN_CURRENT), Kind::Token)?;
    files::publish(&tmp, &dir.join(FORMAT), FORMAT_LINE.as_bytes())?;
    Ok(())
}

/// A directory without a format may hold what an interrupted creation left, and nothing else: neither another program's files nor keys
/// of subjects, which only an incomplete copy would have.
fn refuse_foreign(dir: &Path) -> Result<(), VaultError> {
    for name in files::names(dir)? {
        if ![INDEX, FINGERPRINT, TOKEN_CURRENT, SUBJECTS, TMP].contains(&name.as_str()) {
            return Err(VaultError::Foreign { path: dir.join(name) });
        }
    }
    if let Some(subject) = subject_files(dir)?.into_iter().next() {
        return Err(VaultError::Incomplete { path: subject });
    }
    Ok(())
}

/// All folders of the vault. They exist before any key, so that making a subject's key syncs one folder only.
fn prepare_folders(dir: &Path) -> Result<(), VaultError> {
    let subjects = dir.join(SUBJECTS);
    files::make_dir(&dir.join(TMP))?;
    files::make_dir(&subjects)?;
    for byte in 0..=u8::MAX {
        files::make_dir(&subjects.join(format!("{byte:02x}")))?;
    }
    files::sync_dir(&subjects)?;
    files::sync_dir(dir)
}

fn read_tokens(dir: &Path) -> Result<TokenKeys, VaultError> {
    let current = files::read_existing(&dir.join(TOKEN_CURRENT), Kind::Token)?;
    // A crash between the two steps of a rotation leaves the same key twice: then there is no previous one.
    let previous = files::read(&dir.join(TOKEN_PREVIOUS), Kind::Token)?.filter(|key| **key != *current);
    Ok(TokenKeys::new(&current, previous.as_ref()))
}

/// The files of all subjects' keys, in order.
fn subject_files(dir: &Path) -> Result<BTreeSet<PathBuf>, VaultError> {
    let subjects = dir.join(SUBJECTS);
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

/// Copies a vault: the subjects' keys first and the format last, so that an interrupted copy is not taken for a vault.
fn copy(from: &Path, to: &Path) -> Result<(), VaultError> {
    if !from.is_dir() || !is_vault(from)? {
        return Err(VaultError::Missing { path: from.join(FORMAT) });
    }
    files::create_dir(to)?;
    if !files::names(to)?.is_empty() {
        return Err(VaultError::NotEmpty { path: to.to_owned() });
    }
    prepare_folders(to)?;
    copy_subjects(from, to)?;
    let tmp = to.join(TMP);
    for (name, kind) in [(INDEX, Kind::Index), (FINGERPRINT, Kind::Fingerprint), (TOKEN_CURRENT, Kind::Token)] {
        files::replace(&tmp, &to.join(name), kind, &files::read_existing(&from.join(name), kind)?)?;
    }
    if let Some(previous) = files::read(&from.join(TOKEN_PREVIOUS), Kind::Token)? {
        files::replace(&tmp, &to.join(TOKEN_PREVIOUS), Kind::Token, &previous)?;
    }
    files::publish(&tmp, &to.join(FORMAT), FORMAT_LINE.as_bytes())?;
    Ok(())
}

fn copy_subjects(from: &Path, to: &Path) -> Result<(), VaultError> {
    let mut folders = BTreeSet::new();
    let mut copies = Vec::new();
    for file in subject_files(from)? {
        let subject = files::subject_of(&file)?;
        // Erased since the folder was listed.
        let Some(key) = files::read(&file, Kind::Subject(subject))? else {
            continue;
        };
        let copy = subject_file(to, subject);
        folders.extend(copy.parent().map(Path::to_owned));
        files::write_new(&copy, Kind::Subject(subject), &key)?;
        copies.push(copy);
    }
    // Synced when all are written: the first barrier then carries most of them.
    for copy in &copies {
        files::sync_file(copy)?;
    }
    folders.iter().try_for_each(|folder| files::sync_dir(folder))
}
