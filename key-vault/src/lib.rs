//! Keys: personal data sealed per subject, the blind index, and the token keys.
//!
//! A subject is a person whose data is sealed: an account. Whoever holds a sealed value and not the vault reads nothing, and when the
//! subject's key is gone, nobody ever will. A vault keeps its keys in a [place](KeyPlace) apart from the log, backed up apart from it: a
//! directory on one machine ([`KeyVault::open`]), a database where several nodes share them ([`KeyVault::open_in`]).
//!
//! # Several nodes
//! What one node makes, the others find. What one removes or rotates, the others see when they look, every [`LOOK_EVERY`] on a thread of
//! the vault's own: a removed key is in no node's memory for longer than that, or, while the place is out of reach, than
//! [`KeyPlace::unchecked`] says; a node that could not look for so long uses no key from memory, and says that it cannot tell. A token that
//! names a key that this node does not know makes it look at once ([`KeyVault::token_key`]).
//!
//! Removing the keys of access tokens from the place makes all tokens void: the nodes find them gone, and go on with a new one.
//!
//! A call that has to ask a shared place waits for the answer. On a thread of a multi-threaded tokio runtime the thread's other tasks go
//! on meanwhile elsewhere; still, a task that asks for many keys belongs on a thread that may block.
//!
//! This crate never shows a key or a sealed text in a message, a log line or a `Debug` output.

mod cache;
mod cipher;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod directory;
mod error;
mod files;
mod place;
mod sown;
mod tokens;
mod watch;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Instant;

use hmac::{Hmac, KeyInit, Mac};
use parking_lot::RwLock;
use sha2::Sha256;
use unicode_normalization::UnicodeNormalization;
use uuid::Uuid;
use zeroize::Zeroizing;

pub use crate::error::VaultError;
pub use crate::place::{Changes, Gone, KeyKind, KeyPlace, Opening, Removal, Secret, Seen, ShopKeys, TokenSecrets, Unchecked};
pub use crate::tokens::{TokenKey, TokenKeys};
pub use crate::watch::LOOK_EVERY;

use crate::cache::Cache;
use crate::directory::Directory;
use crate::sown::Seed;
use crate::watch::{Looks, Watcher, waiting};

/// So many subjects are copied at a time.
const PAGE: usize = 1000;

/// The keys of one shop. Clones share one vault.
#[derive(Clone)]
pub struct KeyVault {
    vault: Arc<Vault>,
}

struct Vault {
    place: Box<dyn KeyPlace>,
    /// Whether it makes what is missing, as one that is opened to read does not.
    makes: bool,
    /// How long keys may be used from memory without a look at what others changed; none when no other node removes keys.
    unchecked: Option<Unchecked>,
    index: Hmac<Sha256>,
    fingerprint: Secret,
    tokens: RwLock<TokenKeys>,
    subjects: Cache,
    looks: Looks,
    sown: Option<Sown>,
    /// Ends with the vault.
    watcher: OnceLock<Watcher>,
}

/// Where the keys and nonces of a sown vault come from, and where they go.
struct Sown {
    seed: Seed,
    directory: Directory,
}

impl KeyVault {
    /// Opens the vault in this directory, and makes it when there is none. A vault that lacks a key or has a damaged one is refused: a
    /// new key in its place would make what the old one sealed or indexed unreadable without a word.
    pub fn open(dir: &Path) -> Result<Self, VaultError> {
        Self::open_in(Directory::at(dir), Opening::Make)
    }

    /// Opens the vault in this directory, and refuses when there is none.
    pub fn open_existing(dir: &Path) -> Result<Self, VaultError> {
        Self::open_in(Directory::at(dir), Opening::Existing)
    }

    /// Opens the vault in this directory for one who only reads: nothing in it is made or removed.
    pub fn open_to_read(dir: &Path) -> Result<Self, VaultError> {
        Self::open_in(Directory::at(dir), Opening::Read)
    }

    /// Opens the vault in this place, which is refused as a directory would be, and follows what other nodes change there.
    pub fn open_in(place: impl KeyPlace + 'static, how: Opening) -> Result<Self, VaultError> {
        let keys = ask(&place, |place| place.open(how, &ShopKeys::random()?))?;
        let vault = Self::of(Box::new(place), how, &keys, None);
        if how != Opening::Read || vault.vault.unchecked.is_some() {
            // Before any key is in memory: from now on every removal is seen.
            vault.vault.look()?;
            let watcher = watch::start(&vault.vault)?;
            vault.vault.watcher.get_or_init(|| watcher);
        }
        Ok(vault)
    }

    /// Makes a vault in a directory that is new or empty, whose every key and nonce follows from the seed: the same seed and the same calls
    /// in the same order give the same bytes. Whoever knows the seed knows the keys, so it is for people who are made up.
    ///
    /// Nothing in it is durable, and it is no vault for anybody else, before [`finish_sown`](Self::finish_sown).
    pub fn sow(dir: &Path, seed: &[u8; 32]) -> Result<Self, VaultError> {
        let seed = Seed::new(seed);
        let keys = ShopKeys {
            index: seed.key(b"index"),
            fingerprint: seed.key(b"fingerprint"),
            tokens: TokenSecrets {
                current: seed.key(b"token-current"),
                previous: None,
            },
        };
        let directory = Directory::sow(dir, &keys)?;
        let sown = Sown {
            seed,
            directory: directory.clone(),
        };
        Ok(Self::of(Box::new(directory), Opening::Make, &keys, Some(sown)))
    }

    /// Makes what was sown durable, and a vault like any other.
    pub fn finish_sown(&self) -> Result<(), VaultError> {
        match &self.vault.sown {
            Some(sown) => sown.directory.finish(),
            None => Ok(()),
        }
    }

    fn of(place: Box<dyn KeyPlace>, how: Opening, keys: &ShopKeys, sown: Option<Sown>) -> Self {
        Self {
            vault: Arc::new(Vault {
                makes: how != Opening::Read,
                unchecked: place.unchecked(),
                place,
                index: Hmac::new_from_slice(&keys.index[..]).expect("HMAC takes a key of any length"),
                fingerprint: keys.fingerprint.clone(),
                tokens: RwLock::new(TokenKeys::new(&keys.tokens)),
                subjects: Cache::new(),
                looks: Looks::new(),
                sown,
                watcher: OnceLock::new(),
            }),
        }
    }

    /// Makes the subject's key unless there is one, and says whether it did. It is durable when this returns, so it can seal what is
    /// recorded after that. Where several nodes share the keys, a subject that was erased is refused.
    pub fn create_subject(&self, subject: Uuid) -> Result<bool, VaultError> {
        let vault = &*self.vault;
        // Where others remove keys too, memory does not prove that there is one.
        if vault.unchecked.is_none() && vault.subjects.get(subject).is_ok() {
            return Ok(false);
        }
        let ticket = vault.subjects.ticket(subject);
        let proposed = match &vault.sown {
            Some(sown) => sown.seed.key(subject.as_bytes()),
            None => Secret::random()?,
        };
        let kept = vault.ask(|place| place.create_subject(subject, &proposed))?;
        let made = kept == proposed;
        vault.subjects.put(subject, kept, ticket);
        Ok(made)
    }

    /// Seals a text with the subject's key. The result is printable and differs each time.
    pub fn seal(&self, subject: Uuid, plain: &str) -> Result<String, VaultError> {
        let key = self.vault.subject_key(subject)?.ok_or(VaultError::NoSubjectKey { subject })?;
        let nonce = match &self.vault.sown {
            Some(sown) => sown.seed.nonce(),
            None => cipher::new_nonce()?,
        };
        cipher::seal(&key, subject, nonce, plain)
    }

    /// The text that was sealed, or `None` when the subject has no key: it was erased, or never was.
    pub fn open_sealed(&self, subject: Uuid, sealed: &str) -> Result<Option<Zeroizing<String>>, VaultError> {
        match self.vault.subject_key(subject)? {
            Some(key) => cipher::open(&key, subject, sealed).map(Some),
            None => Ok(None),
        }
    }

    /// Erases the subject's key, and with it everything that it sealed, wherever a copy may be. Durable when this returns. Other nodes
    /// that share the keys forget it when they look next, and make no new one; another process that has the same directory open may keep
    /// the key in its memory until it ends.
    pub fn erase_subject(&self, subject: Uuid) -> Result<(), VaultError> {
        self.remove_subject(subject, Removal::Erasure)
    }

    /// Removes the key of a subject that came to nothing: nothing that it sealed was recorded. It may have another key later. Other nodes
    /// forget it when they look next.
    pub fn discard_subject(&self, subject: Uuid) -> Result<(), VaultError> {
        self.remove_subject(subject, Removal::Unused)
    }

    fn remove_subject(&self, subject: Uuid, why: Removal) -> Result<(), VaultError> {
        self.vault.ask(|place| place.remove_subject(subject, why))?;
        self.vault.subjects.forget(subject);
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

    /// The key that a token names, or none when tokens of that name are not believed. If it is unknown, another node may have rotated the
    /// keys a moment ago: then this looks, a few times a second and no oftener, whatever names strangers invent. Where nodes share the
    /// keys it may wait a second.
    ///
    /// # Errors
    /// The place could not be looked at for longer than keys may go [`unchecked`](KeyPlace::unchecked): nobody can tell whether the key is
    /// still believed. Later it may go.
    pub fn token_key(&self, kid: &str) -> Result<Option<Arc<TokenKey>>, VaultError> {
        let vault = &*self.vault;
        if let Some(key) = vault.believed(kid) {
            return Ok(Some(key));
        }
        if vault.sown.is_none() {
            vault.look_for(kid);
        }
        if vault.tokens_are_checked() {
            return Ok(vault.believed(kid));
        }
        Err(VaultError::Unavailable {
            place: vault.place.to_string(),
            reason: "nobody can tell whether the keys of access tokens are still the same".to_owned(),
        })
    }

    /// Whether tokens of this key are believed, as far as this node knows without asking.
    pub fn knows_token_key(&self, kid: &str) -> bool {
        self.vault.believed(kid).is_some()
    }

    /// Signs with a new key from now on. Tokens of the key before it still verify, those of older keys do not. Other nodes notice within
    /// [`LOOK_EVERY`], or when they meet a token of the new key; several nodes that rotate at the same moment rotate once.
    pub fn rotate_token_keys(&self) -> Result<TokenKeys, VaultError> {
        let next = Secret::random()?;
        self.vault.rotate(&next)?;
        Ok(self.token_keys())
    }

    /// Copies all keys into a directory that is new or empty, each verified on the way. Made while serving, the copy has every key that
    /// existed when it began: so copy the log first, and the keys after it.
    pub fn copy_to(&self, dir: &Path) -> Result<(), VaultError> {
        self.vault.ask(|place| copy(place, dir))
    }

    /// Makes a vault in `dir`, new or empty, from a copy.
    pub fn restore(from: &Path, dir: &Path) -> Result<Self, VaultError> {
        copy(&Directory::at(from), dir)?;
        Self::open_existing(dir)
    }

    /// Makes a vault in a place that has no keys, from a copy in a directory. What was interrupted can be done again.
    pub fn restore_in(from: &Path, place: impl KeyPlace + 'static) -> Result<Self, VaultError> {
        ask(&place, |place| fill(&Directory::at(from), place))?;
        Self::open_in(place, Opening::Existing)
    }

    /// Copies all keys into a place that has none, without a copy in between. What was interrupted can be done again, and brings keys that are
    /// new since then; a place that has a key that is not here is refused.
    pub fn copy_in(&self, place: impl KeyPlace + 'static) -> Result<Self, VaultError> {
        self.vault
            .ask(|from| refuse_others(from, &place).and_then(|()| fill(from, &place)))?;
        Self::open_in(place, Opening::Existing)
    }

    /// The same with a directory. It has its name once all keys are in it; until then it has the same with `.part` behind it.
    pub fn copy_in_directory(&self, dir: &Path) -> Result<Self, VaultError> {
        let place = Directory::at(dir);
        self.vault.ask(|from| {
            if place.has_vault()? {
                return refuse_others(from, &place).and_then(|()| fill(from, &place));
            }
            directory::as_a_whole(dir, |part| copy(from, part))
        })?;
        Self::open_existing(dir)
    }

    /// Whether it is the vault of the same shop, and has every key of a subject that the other one has. The keys of access tokens may be others:
    /// they are rotated.
    pub fn has_all_of(&self, other: &Self) -> Result<bool, VaultError> {
        self.vault.ask(|place| has_all_of(place, &*other.vault.place))
    }
}

impl Vault {
    fn subject_key(&self, subject: Uuid) -> Result<Option<Secret>, VaultError> {
        let ticket = match self.subjects.get(subject) {
            Ok(key) if self.may_remember() => return Ok(Some(key)),
            Ok(_) => self.subjects.ticket(subject),
            Err(ticket) => ticket,
        };
        let key = self.ask(|place| place.subject(subject))?;
        if let Some(key) = &key {
            self.subjects.put(subject, key.clone(), ticket);
        }
        Ok(key)
    }

    /// Whether the last look at what others removed is young enough to use the keys of subjects from memory.
    fn may_remember(&self) -> bool {
        let young = |bound: Unchecked| self.looks.age().is_some_and(|age| age < bound.subjects);
        self.unchecked.is_none_or(young)
    }

    /// Whether it is young enough to believe tokens.
    fn tokens_are_checked(&self) -> bool {
        let age = self.looks.age();
        age.is_some_and(|age| self.unchecked.is_none_or(|bound| age < bound.tokens))
    }

    /// The key of this name, if its tokens are believed.
    fn believed(&self, kid: &str) -> Option<Arc<TokenKey>> {
        let key = self.tokens.read().take(kid)?;
        self.tokens_are_checked().then_some(key)
    }

    fn ask<T>(&self, question: impl FnOnce(&dyn KeyPlace) -> T) -> T {
        ask(&*self.place, question)
    }

    /// Takes in what others have changed.
    fn look(&self) -> Result<(), VaultError> {
        let mut looking = self.looks.turn();
        self.look_in_turn(&mut looking)
    }

    /// The look that is taken every so often.
    fn look_as_usual(&self) {
        let mut looking = self.looks.turn();
        let looked = self.look_in_turn(&mut looking);
        looking.report(looked);
    }

    fn look_in_turn(&self, looking: &mut watch::Looking) -> Result<(), VaultError> {
        let began = looking.begin();
        let changes = self.ask(|place| self.changes(place, &mut looking.seen));
        let changes = changes.inspect_err(|error| {
            // It answers, and what is remembered of it is not there any more.
            if matches!(error, VaultError::Missing { .. } | VaultError::Damaged { .. }) {
                self.looks.void();
            }
        })?;
        match changes.gone {
            Gone::These(subjects) => subjects.into_iter().for_each(|subject| self.subjects.forget(subject)),
            Gone::Many => self.subjects.forget_all(),
        }
        self.take(&changes.tokens);
        self.looks.done(began);
        Ok(())
    }

    fn changes(&self, place: &dyn KeyPlace, seen: &mut Seen) -> Result<Changes, VaultError> {
        match place.changes(seen) {
            Err(VaultError::Missing { .. }) if self.makes => {
                place.add_token(&Secret::random()?)?;
                place.changes(seen)
            }
            looked => looked,
        }
    }

    /// Looks because a token names an unknown key. Too many at a time are not looked for; nor are those that come a moment after
    /// another, except where several nodes sign: there they wait for that moment to end.
    fn look_for(&self, kid: &str) {
        let arrived = Instant::now();
        self.ask(|_| {
            let Some(mut looking) = self.looks.turn_of_stranger() else {
                return;
            };
            // Somebody else may have looked while this one waited.
            if looking.was_since(arrived) || self.believed(kid).is_some() {
                return;
            }
            while let Some(moment) = looking.stranger_waits() {
                if self.unchecked.is_none() {
                    return;
                }
                thread::sleep(moment);
            }
            let looked = self.look_in_turn(&mut looking);
            looking.report(looked);
        });
    }

    fn rotate(&self, next: &Secret) -> Result<(), VaultError> {
        self.ask(|place| {
            // In turn with looks: one that began before would bring back what it saw then.
            let _turn = self.looks.turn();
            self.take(&place.rotate_tokens(next)?);
            Ok(())
        })
    }

    fn take(&self, tokens: &TokenSecrets) {
        if !self.tokens.read().are(tokens) {
            *self.tokens.write() = TokenKeys::new(tokens);
        }
    }
}

/// Asks a place. A directory answers at once, one that is shared may be far away.
fn ask<T>(place: &dyn KeyPlace, question: impl FnOnce(&dyn KeyPlace) -> T) -> T {
    if place.unchecked().is_some() {
        waiting(|| question(place))
    } else {
        question(place)
    }
}

/// Copies a vault, without making or removing anything in it.
fn copy(from: &dyn KeyPlace, to: &Path) -> Result<(), VaultError> {
    let keys = from.open(Opening::Read, &ShopKeys::random()?)?;
    directory::write_copy(to, &keys, |after| from.subjects(after, PAGE))
}

/// Puts all keys into another place, which has none, or the same.
fn fill(from: &dyn KeyPlace, to: &dyn KeyPlace) -> Result<(), VaultError> {
    let keys = from.open(Opening::Read, &ShopKeys::random()?)?;
    if to.open(Opening::Make, &keys)? != keys {
        return Err(VaultError::Taken { place: to.to_string() });
    }
    let mut after = None;
    loop {
        let page = from.subjects(after, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(*last);
        to.create_subjects(&page)?;
    }
}

fn has_all_of(place: &dyn KeyPlace, other: &dyn KeyPlace) -> Result<bool, VaultError> {
    let proposed = ShopKeys::random()?;
    let (here, there) = (place.open(Opening::Read, &proposed)?, other.open(Opening::Read, &proposed)?);
    if (here.index, here.fingerprint) != (there.index, there.fingerprint) {
        return Ok(false);
    }
    let mut after = None;
    loop {
        let page = other.subjects(after, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(true) };
        after = Some(*last);
        for (subject, key) in &page {
            if place.subject(*subject)?.as_ref() != Some(key) {
                return Ok(false);
            }
        }
    }
}

/// Whoever has been erased since an earlier copy would have a key again.
fn refuse_others(from: &dyn KeyPlace, to: &dyn KeyPlace) -> Result<(), VaultError> {
    match to.open(Opening::Read, &ShopKeys::random()?) {
        Ok(_) => {}
        Err(VaultError::Missing { .. }) => return Ok(()),
        Err(error) => return Err(error),
    }
    let mut after = None;
    loop {
        let page = to.subjects(after, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(*last);
        for (subject, key) in &page {
            if from.subject(*subject)?.as_ref() != Some(key) {
                return Err(VaultError::Taken { place: to.to_string() });
            }
        }
    }
}

impl fmt::Debug for KeyVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyVault")
            .field("place", &format_args!("{}", self.vault.place))
            .finish_non_exhaustive()
    }
}
