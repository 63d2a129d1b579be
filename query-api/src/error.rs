//! Why a question, or a part of one, has no answer.

use std::borrow::Cow;

use async_graphql::{Error, ErrorExtensionValues};
use key_vault::VaultError;
use projections::ReadError;

/// Why a question has no answer. It is cloned to everyone who waited for the same batch.
#[derive(Clone, Debug)]
pub(crate) enum Failed {
    /// The asker's mistake, in words that say how to do it right.
    BadInput(Cow<'static, str>),
    /// One has to log in first.
    Unauthenticated,
    /// The views cannot be read now.
    Unavailable,
    /// Too many questions at once.
    Busy,
    /// The question takes too long.
    TooSlow,
    /// What is ours to repair.
    Internal,
}

/// The code of a [`Failed::BadInput`].
pub(crate) const BAD_USER_INPUT: &str = "BAD_USER_INPUT";

impl Failed {
    pub(crate) fn bad_input(message: impl Into<Cow<'static, str>>) -> Self {
        Self::BadInput(message.into())
    }

    fn code(&self) -> &'static str {
        match self {
            Self::BadInput(_) => BAD_USER_INPUT,
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Busy => "BUSY",
            Self::TooSlow => "TOO_SLOW",
            Self::Internal => "INTERNAL",
        }
    }

    fn message(self) -> Cow<'static, str> {
        match self {
            Self::BadInput(message) => message,
            Self::Unauthenticated => Cow::Borrowed("log in to ask this: send an access token as `Authorization: Bearer`"),
            Self::Unavailable => Cow::Borrowed("the views cannot be read now; try again"),
            Self::Busy => Cow::Borrowed("too many questions at once; try again"),
            Self::TooSlow => Cow::Borrowed("this question takes too long; search for something rarer"),
            Self::Internal => Cow::Borrowed("this could not be answered"),
        }
    }
}

// The cause is logged here, where it is turned into words that tell a stranger nothing of our insides.
impl From<ReadError> for Failed {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable(_) => {
                tracing::error!(%error, "the views cannot be read");
                Self::Unavailable
            }
            ReadError::Busy => Self::Busy,
            ReadError::TooSlow => Self::TooSlow,
            ReadError::TooManyIds => {
                tracing::error!("a batch named more ids than the views take");
                Self::Internal
            }
        }
    }
}

impl From<VaultError> for Failed {
    fn from(error: VaultError) -> Self {
        tracing::error!(%error, "a sealed value cannot be opened");
        match error {
            VaultError::Unavailable { .. } => Self::Unavailable,
            _ => Self::Internal,
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        let mut extensions = ErrorExtensionValues::default();
        extensions.set("code", failed.code());
        Self {
            message: failed.message().into_owned(),
            source: None,
            extensions: Some(extensions),
        }
    }
}
