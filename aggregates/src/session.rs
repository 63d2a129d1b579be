//! A session: one login, and the refresh tokens that follow one another. Only a token's hash is known here.
//!
//! Every refresh replaces the token. A token that was replaced and comes again was stolen, or its thief's: the session ends
//! (RFC 9700, 4.14.2).

use serde::{Deserialize, Serialize};

use crate::{AccountId, Class, Decide, Reason, Timestamp, aggregate, stored_names};

/// SHA-256 of a refresh token, in hexadecimal.
pub type TokenHash = String;

/// What a session can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionCommand {
    /// Somebody logged in.
    Start {
        /// Who.
        account: AccountId,
        /// Of the first refresh token.
        token: TokenHash,
        /// When it ends by itself.
        expires_at: Timestamp,
    },
    /// Replaces the token.
    Refresh {
        /// Of the token that was shown.
        shown: TokenHash,
        /// Of the next one.
        next: TokenHash,
        /// Now.
        at: Timestamp,
    },
    /// Somebody logged out.
    End {
        /// Of the token that was shown.
        shown: TokenHash,
    },
}

/// What has happened to a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum SessionEvent {
    /// Somebody logged in.
    #[serde(rename = "session.started")]
    Started {
        /// Who.
        account: AccountId,
        /// Of the first refresh token.
        token: TokenHash,
        /// When it ends by itself.
        expires_at: Timestamp,
    },
    /// The token was replaced.
    #[serde(rename = "session.refreshed")]
    Refreshed {
        /// Of the token that counts now.
        token: TokenHash,
    },
    /// A token that was replaced came again: nobody may go on.
    #[serde(rename = "session.revoked")]
    Revoked {},
    /// Somebody logged out.
    #[serde(rename = "session.ended")]
    Ended {},
}

stored_names!(SessionEvent {
    Started => "session.started",
    Refreshed => "session.refreshed",
    Revoked => "session.revoked",
    Ended => "session.ended",
});

/// Why a session refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// It never was, or is over.
    #[error("this session is over: log in again")]
    Over,
    /// Another session has this id.
    #[error("this session exists already")]
    Exists,
}

impl Reason for SessionError {
    fn class(&self) -> Class {
        Class::Forbidden
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Over => "session-over",
            Self::Exists => "session-exists",
        }
    }
}

/// A session's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Session {
    /// Nobody logged in yet.
    #[default]
    New,
    /// Going on.
    Open {
        /// Who.
        account: AccountId,
        /// Of the token that counts.
        token: TokenHash,
        /// When it ends by itself.
        expires_at: Timestamp,
    },
    /// Logged out, or revoked.
    Over,
}

impl Session {
    /// Who is logged in.
    pub fn account(&self) -> Option<AccountId> {
        match self {
            Self::Open { account, .. } => Some(*account),
            Self::New | Self::Over => None,
        }
    }
}

impl Decide for Session {
    fn decide(&self, command: SessionCommand) -> Result<Vec<SessionEvent>, SessionError> {
        match (self, command) {
            (
                Self::New,
                SessionCommand::Start {
                    account,
                    token,
                    expires_at,
                },
            ) => Ok(vec![SessionEvent::Started {
                account,
                token,
                expires_at,
            }]),
            (_, SessionCommand::Start { .. }) => Err(SessionError::Exists),
            (Self::Open { expires_at, .. }, SessionCommand::Refresh { at, .. }) if at >= *expires_at => Err(SessionError::Over),
            (Self::Open { token, .. }, SessionCommand::Refresh { shown, next, .. }) if *token == shown => {
                Ok(vec![SessionEvent::Refreshed { token: next }])
            }
            (Self::Open { .. }, SessionCommand::Refresh { .. }) => Ok(vec![SessionEvent::Revoked {}]),
            (Self::Open { token, .. }, SessionCommand::End { shown }) if *token == shown => Ok(vec![SessionEvent::Ended {}]),
            (_, SessionCommand::End { .. }) => Ok(vec![]),
            (Self::New | Self::Over, SessionCommand::Refresh { .. }) => Err(SessionError::Over),
        }
    }

    fn evolve(&mut self, event: &SessionEvent) {
        match (event, &mut *self) {
            (
                SessionEvent::Started {
                    account,
                    token,
                    expires_at,
                },
                _,
            ) => {
                *self = Self::Open {
                    account: *account,
                    token: token.clone(),
                    expires_at: *expires_at,
                };
            }
            (SessionEvent::Refreshed { token }, Self::Open { token: current, .. }) => current.clone_from(token),
            (SessionEvent::Refreshed { .. }, _) => {}
            (SessionEvent::Revoked {} | SessionEvent::Ended {}, _) => *self = Self::Over,
        }
    }
}

aggregate!(Session, "session", SessionCommand, SessionEvent, SessionError);
