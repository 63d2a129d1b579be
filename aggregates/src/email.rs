//! An e-mail address, known by its blind index alone: it belongs to one account.

use serde::{Deserialize, Serialize};

use crate::{AccountId, Class, Decide, Reason, Registration, aggregate, stored_names};

/// What an address can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EmailCommand {
    /// Registers an account under it.
    Claim {
        /// Who.
        registration: Registration,
    },
}

/// What has happened to an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum EmailEvent {
    /// It belongs to an account from now on.
    #[serde(rename = "email.claimed")]
    Claimed {
        /// Who.
        registration: Registration,
    },
}

stored_names!(EmailEvent { Claimed => "email.claimed" });

/// Why an address refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmailError {
    /// It is another account's.
    #[error("an account with this e-mail address exists already")]
    Taken,
}

impl Reason for EmailError {
    fn class(&self) -> Class {
        Class::State
    }

    fn code(&self) -> &'static str {
        "email-taken"
    }

    fn pointer(&self) -> Option<String> {
        Some("/email".to_owned())
    }
}

/// An address's state: whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmailClaim {
    account: Option<AccountId>,
}

impl EmailClaim {
    /// Whose it is.
    pub fn account(&self) -> Option<AccountId> {
        self.account
    }
}

impl Decide for EmailClaim {
    fn decide(&self, command: EmailCommand) -> Result<Vec<EmailEvent>, EmailError> {
        let EmailCommand::Claim { registration } = command;
        match self.account {
            None => Ok(vec![EmailEvent::Claimed { registration }]),
            Some(_) => Err(EmailError::Taken),
        }
    }

    fn evolve(&mut self, event: &EmailEvent) {
        let EmailEvent::Claimed { registration } = event;
        self.account = Some(registration.account);
    }
}

aggregate!(EmailClaim, "email", EmailCommand, EmailEvent, EmailError);
