//! The port to where keys are kept.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::VaultError;

/// The 32 bytes of a key. Wiped from memory when dropped, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// A new key.
    pub fn random() -> Result<Self, VaultError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut bytes[..]).map_err(VaultError::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// The key that was kept as these bytes, if they are 32.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut key = Zeroizing::new([0; 32]);
        (bytes.len() == key.len()).then(|| key.copy_from_slice(bytes))?;
        Some(Self(key))
    }
}

impl From<Zeroizing<[u8; 32]>> for Secret {
    fn from(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }
}

impl Deref for Secret {
    type Target = [u8; 32];

    fn deref(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// The blind index.
    Index,
    /// The fingerprints.
    Fingerprint,
    /// Access tokens.
    Token,
    /// What is sealed for this subject.
    Subject(Uuid),
}

impl KeyKind {
    /// A short text that only this key for this use has. Kept beside the key it shows damage, and a key that got into another's place.
    pub fn check(self, key: &Secret) -> String {
        check(&self.start(key))
    }

    /// The line of a key without its check.
    pub(crate) fn start(self, key: &Secret) -> Zeroizing<String> {
        let mut line = Zeroizing::new(String::with_capacity(160));
        line.push_str(&self.head());
        URL_SAFE_NO_PAD.encode_string(&key[..], &mut line);
        line
    }

    pub(crate) fn head(self) -> String {
        match self {
            Self::Index => "jangbu-key 1 index - ".to_owned(),
            Self::Fingerprint => "jangbu-key 1 fingerprint - ".to_owned(),
            Self::Token => "jangbu-key 1 token - ".to_owned(),
            Self::Subject(id) => format!("jangbu-key 1 subject {} ", id.hyphenated()),
        }
    }
}

pub(crate) fn check(start: &str) -> String {
    URL_SAFE_NO_PAD.encode(&blake3::hash(start.as_bytes()).as_bytes()[..9])
}

/// The keys that a shop has one of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShopKeys {
    /// The key of the blind index.
    pub index: Secret,
    /// The key of the fingerprints.
    pub fingerprint: Secret,
    /// The keys of access tokens.
    pub tokens: TokenSecrets,
}

impl ShopKeys {
    /// Those of a new shop.
    pub(crate) fn random() -> Result<Self, VaultError> {
        Ok(Self {
            index: Secret::random()?,
            fingerprint: Secret::random()?,
            tokens: TokenSecrets {
                current: Secret::random()?,
                previous: None,
            },
        })
    }
}

/// The private keys of access tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSecrets {
    /// The one that signs.
    pub current: Secret,
    /// The one before it, which still verifies.
    pub previous: Option<Secret>,
}

/// How a vault is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It is made when there is none.
    Make,
    /// It is refused when there is none.
    Existing,
    /// As [`Existing`](Self::Existing), by one who only reads: nothing is made or removed.
    Read,
}

/// Why a subject's key goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The person is erased. Where several nodes share the keys, the subject never has a key again: one that is a moment late does not
    /// bring it a new one.
    Erasure,
    /// Nothing that it sealed was recorded. The subject may have another key later.
    Unused,
}

/// How far a vault has followed what others remove. Each place counts as it likes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// The last removal of a subject's key; none before the first look.
    pub removal: Option<i64>,
}

/// So long may keys be used from memory without a look at what others have changed.
#[derive(Clone, Copy, Debug)]
pub struct Unchecked {
    /// Those of subjects: somebody may have been erased by now.
    pub subjects: Duration,
    /// Those that verify access tokens: one may have been removed by now.
    pub tokens: Duration,
}

/// What others have changed.
#[derive(Debug)]
pub struct Changes {
    /// The keys of access tokens as they are now.
    pub tokens: TokenSecrets,
    /// Whose keys are gone.
    pub gone: Gone,
}

/// Whose keys are gone.
#[derive(Debug, PartialEq, Eq)]
pub enum Gone {
    /// These subjects'.
    These(Vec<Uuid>),
    /// So many that they are not named.
    Many,
}

/// Where keys are kept: a directory, a database. Its `Display` names it to an operator, without a password.
///
/// What a call has made, replaced or removed is durable when it returns. A call may wait, so long as a bound of the place's own.
pub trait KeyPlace: fmt::Display + Send + Sync {
    /// The keys of the shop. Where there is no vault and one is to be made, it has the proposed ones; of several that do so at once,
    /// one's. A missing key of access tokens is replaced by the proposed one, unless the vault is opened to read; any other missing or
    /// damaged key is refused.
    fn open(&self, how: Opening, proposed: &ShopKeys) -> Result<ShopKeys, VaultError>;

    /// The keys of access tokens.
    fn tokens(&self) -> Result<TokenSecrets, VaultError>;

    /// Puts a new key in the place of the current one, which becomes the previous one. Says what there is then.
    fn rotate_tokens(&self, next: &Secret) -> Result<TokenSecrets, VaultError>;

    /// Keeps the proposed key of access tokens where there is none.
    fn add_token(&self, proposed: &Secret) -> Result<(), VaultError>;

    /// The subject's key, or `None` when it has none.
    fn subject(&self, subject: Uuid) -> Result<Option<Secret>, VaultError>;

    /// Keeps the proposed key for the subject unless it has one, and says which it has.
    fn create_subject(&self, subject: Uuid, proposed: &Secret) -> Result<Secret, VaultError>;

    /// Keeps these keys, and refuses when a subject has another one or was erased. Done twice it changes nothing.
    fn create_subjects(&self, keys: &[(Uuid, Secret)]) -> Result<(), VaultError> {
        for (subject, key) in keys {
            if self.create_subject(*subject, key)? != *key {
                return Err(VaultError::Taken { place: self.to_string() });
            }
        }
        Ok(())
    }

    /// Removes the subject's key. It is no error that there is none.
    fn remove_subject(&self, subject: Uuid, why: Removal) -> Result<(), VaultError>;

    /// At most so many subjects and their keys, in an order of the place's own, those after a given one.
    fn subjects(&self, after: Option<Uuid>, most: usize) -> Result<Vec<(Uuid, Secret)>, VaultError>;

    /// What others have changed since the last look. A missing key of access tokens is an error: all of them are void.
    fn changes(&self, seen: &mut Seen) -> Result<Changes, VaultError>;

    /// So long may keys be used from memory without a look at the [`changes`](Self::changes); `None` when nobody else removes keys.
    fn unchecked(&self) -> Option<Unchecked>;
}
