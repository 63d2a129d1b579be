//! Why the vault refuses.

use std::io;
use std::path::PathBuf;

use uuid::Uuid;

/// Why the vault refuses. Each message is one line that names the place, and never shows a key or a text.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A key is not what was kept.
    #[error("{key} is damaged: {reason}; restore it from a backup")]
    Damaged {
        /// Which, and where.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A key of the vault, or the vault itself, is not there.
    #[error("{key} is missing; restore it from a backup")]
    Missing {
        /// Which, and where.
        key: String,
    },
    /// The directory belongs to something else.
    #[error("this is not a directory of keys: it holds {}", path.display())]
    Foreign {
        /// The first file that has no place in a vault.
        path: PathBuf,
    },
    /// The directory has keys of subjects, and not the file that ends its creation.
    #[error("this copy of the keys is incomplete: it holds {}, but no file \"format\"; copy it again", path.display())]
    Incomplete {
        /// A subject's key.
        path: PathBuf,
    },
    /// A copy goes only into a new or an empty directory.
    #[error("{} is not empty; name a new directory for the keys", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// Copied keys go only into a place that has none, or the same.
    #[error("{place} holds other keys; name a place without any")]
    Taken {
        /// The place.
        place: String,
    },
    /// The place where the keys are is out of reach, or busy. Later it may go.
    #[error("the keys in {place} are out of reach: {reason}")]
    Unavailable {
        /// The place.
        place: String,
        /// What happened.
        reason: String,
    },
    /// The place where the keys are does not let us use them. An operator must step in.
    #[error("the keys in {place} cannot be used: {reason}")]
    Refused {
        /// The place.
        place: String,
        /// Why.
        reason: String,
    },
    /// The subject has no key to seal with: it never had one, or was erased.
    #[error("there is no key for the subject {subject}")]
    NoSubjectKey {
        /// The subject.
        subject: Uuid,
    },
    /// The text was not made by sealing.
    #[error("this is not a sealed text")]
    NotSealed,
    /// The text was sealed for another subject, or altered since.
    #[error("this sealed text was altered, or belongs to another subject")]
    NotAuthentic,
    /// The text is longer than the cipher takes.
    #[error("this text is too long to be sealed")]
    TooLong,
    /// The operating system gave no randomness.
    #[error("the operating system gave no randomness: {0}")]
    NoRandomness(getrandom::Error),
}
