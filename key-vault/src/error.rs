//! Why the vault refuses.

use std::io;
use std::path::PathBuf;

use uuid::Uuid;

/// Why the vault refuses. Each message is one line that names the file, and never shows a key or a text.
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
    /// A file is not what was written.
    #[error("the key file {} is damaged: {reason}; restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file of the vault is not there.
    #[error("the key file {} is missing; restore it from a backup", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
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
    /// The subject has no key to seal with.
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
