//! An account: a person or a shop that may log in. What is personal is sealed with the account's own key.

use serde::{Deserialize, Serialize};

use crate::{AccountId, Class, Decide, EmailIndex, Reason, Sealed, Timestamp, aggregate, stored_names};

/// What an account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Role {
    /// Orders.
    Buyer,
    /// Offers.
    Seller,
    /// Runs the shop.
    Admin,
}

impl Role {
    /// As the outside sees it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Buyer => "BUYER",
            Self::Seller => "SELLER",
            Self::Admin => "ADMIN",
        }
    }
}

/// What somebody says of themselves when they register; sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The new account.
    pub account: AccountId,
    /// The e-mail address.
    pub email: Sealed,
    /// The name.
    pub name: Sealed,
    /// The telephone number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<Sealed>,
    /// The password's argon2id hash.
    pub password: Sealed,
    /// What the account may do.
    pub role: Role,
    /// When.
    pub at: Timestamp,
}

/// What an account can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountCommand {
    /// Begins, once its e-mail address is claimed.
    Open {
        /// The claimed address.
        index: EmailIndex,
        /// Who.
        registration: Registration,
    },
}

/// What has happened to an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum AccountEvent {
    /// Somebody may log in from now on.
    #[serde(rename = "account.opened")]
    Opened {
        /// The claimed address.
        index: EmailIndex,
        /// Who.
        registration: Registration,
    },
}

stored_names!(AccountEvent { Opened => "account.opened" });

/// Why an account refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// Another account has this id.
    #[error("this account exists already")]
    Exists,
}

impl Reason for AccountError {
    fn class(&self) -> Class {
        Class::State
    }

    fn code(&self) -> &'static str {
        "account-exists"
    }
}

/// An account's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    registration: Option<Registration>,
}

impl Account {
    /// Who; none before it is opened.
    pub fn registration(&self) -> Option<&Registration> {
        self.registration.as_ref()
    }
}

impl Decide for Account {
    fn decide(&self, command: AccountCommand) -> Result<Vec<AccountEvent>, AccountError> {
        let AccountCommand::Open { index, registration } = command;
        match &self.registration {
            None => Ok(vec![AccountEvent::Opened { index, registration }]),
            Some(known) if *known == registration => Ok(vec![]),
            Some(_) => Err(AccountError::Exists),
        }
    }

    fn evolve(&mut self, event: &AccountEvent) {
        let AccountEvent::Opened { registration, .. } = event;
        self.registration = Some(registration.clone());
    }
}

aggregate!(Account, "account", AccountCommand, AccountEvent, AccountError);
