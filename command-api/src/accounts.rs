//! Accounts: registering, and money into the balance.

use std::time::Duration;

use aggregates::{
    AccountId, Command, Email, EmailCommand, EmailIndex, Kind, PersonName, Phone, Registration, Role, Sealed, State, TextError,
    WalletCommand,
};
use axum::{extract::State as Of, response::Response};
use engine::{Actor, Cause, EngineError, Request, Until};
use http::StatusCode;
use key_vault::{KeyVault, VaultError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    Api,
    answer::Scope,
    body::{Body, Faults, MoneyBody},
    caller::{Admin, OfAccount},
    passwords::PasswordError,
    problem::{self, Problem},
    represent::{AccountBody, WalletBody},
    terms::Terms,
};

/// What may be registered by anyone.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = RegisteredRole)]
pub(crate) enum RoleBody {
    /// Orders.
    Buyer,
    /// Offers.
    Seller,
}

/// Somebody new.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Register, example = json!({"email": "minji@example.com", "password": "correct horse", "name": "김민지", "phone": "010-1234-5678", "role": "BUYER"}))]
pub(crate) struct RegisterBody {
    #[schema(format = "email", max_length = 254)]
    email: String,
    /// 8 to 128 characters.
    #[schema(value_type = String, format = "password", min_length = 8, max_length = 128)]
    password: Zeroizing<String>,
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone: Option<String>,
    role: RoleBody,
}

/// What somebody says of themselves, in the clear.
struct Person {
    email: Email,
    name: PersonName,
    phone: Option<Phone>,
    password: Zeroizing<String>,
    role: Role,
}

impl RegisterBody {
    fn into_person(self) -> Result<Person, Problem> {
        let mut faults = Faults::default();
        let email = faults.text("/email", &self.email);
        let name = faults.text("/name", &self.name);
        let phone = faults.optional_text("/phone", self.phone.as_deref());
        if let Err(detail) = check_password(&self.password) {
            faults.add(&problem::INVALID_VALUE, "/password", detail);
        }
        let role = match self.role {
            RoleBody::Buyer => Role::Buyer,
            RoleBody::Seller => Role::Seller,
        };
        match (email, name, phone) {
            (Some(email), Some(name), Some(phone)) => {
                faults.none()?;
                Ok(Person {
                    email,
                    name,
                    phone,
                    password: self.password,
                    role,
                })
            }
            _ => Err(faults.problem()),
        }
    }
}

/// How long an answer waits for the shard that opens the account.
const OPENED_WITHIN: Duration = Duration::from_secs(5);

fn check_password(password: &str) -> Result<(), &'static str> {
    if (8..=128).contains(&password.chars().count()) {
        Ok(())
    } else {
        Err("must have 8 to 128 characters")
    }
}

/// Registers an account.
///
/// Its wallet is opened with it, empty. An e-mail address belongs to one account.
#[utoipa::path(post, path = "/accounts", operation_id = "register", tag = "accounts", request_body = RegisterBody,
    responses((status = 201, description = "Registered.", body = AccountBody)))]
pub(crate) async fn register(Of(api): Of<Api>, terms: Terms, Body(body): Body<RegisterBody>) -> Result<Response, Problem> {
    let scope = Scope::new(Uuid::nil(), "POST", "/api/v1/accounts");
    let keyed = api.keyed(&terms, &scope, &body)?;
    // A dry run must not touch the key of an account that a real one makes meanwhile.
    let id = if terms.dry_run { Uuid::now_v7() } else { scope.created_id(&terms) };
    let account = AccountId::new(id);
    let Sealing {
        index,
        registration,
        new_key,
    } = api.seal_registration(account, body.into_person()?).await?;
    let command = Command::Email(index, EmailCommand::Claim { registration });
    let sent = api.send(command, Actor::Anonymous, &terms, keyed).await;
    if new_key && (terms.dry_run || sent.as_ref().is_err_and(Problem::is_refusal)) {
        api.forget_unused(account).await?;
    }
    let sent = sent?;
    if terms.dry_run {
        return Ok(Api::answer(sent, StatusCode::CREATED, &terms));
    }
    api.is_open(account).await;
    Ok(api.answer_for(sent, StatusCode::CREATED, &terms, [account.uuid()]))
}

/// A registration that is ready to be claimed.
struct Sealing {
    index: EmailIndex,
    registration: Registration,
    /// The person's key was made for it, and is nobody else's.
    new_key: bool,
}

/// Money for a balance.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Deposit, example = json!({"amount": {"amount": 1_000_000, "currency": "KRW"}}))]
pub(crate) struct DepositBody {
    amount: MoneyBody,
}

/// Puts money into an account's balance.
#[utoipa::path(post, path = "/accounts/{id}/deposits", operation_id = "deposit", tag = "accounts", request_body = DepositBody,
    params(("id" = Uuid, Path, description = "The account.")), security(("bearer" = ["ADMIN"])),
    responses((status = 201, description = "Deposited.", body = WalletBody)))]
pub(crate) async fn deposit(
    Of(api): Of<Api>,
    Admin(admin): Admin,
    OfAccount(account): OfAccount,
    terms: Terms,
    Body(body): Body<DepositBody>,
) -> Result<Response, Problem> {
    terms.required_key()?;
    let scope = Scope::new(admin.account().uuid(), "POST", format!("/api/v1/accounts/{account}/deposits"));
    let keyed = api.keyed(&terms, &scope, &body)?;
    let mut faults = Faults::default();
    let amount = faults.money(|| "/amount".to_owned(), body.amount, api.settings().currency);
    let amount = amount.ok_or_else(|| faults.problem())?;
    let command = Command::Wallet(account, WalletCommand::Deposit { amount });
    let sent = api.send(command, Actor::Account(admin.account()), &terms, keyed).await?;
    Ok(Api::answer(sent, StatusCode::CREATED, &terms))
}

impl Api {
    /// Hashes the password and seals the person with a key of their own, which is durable first.
    async fn seal_registration(&self, account: AccountId, person: Person) -> Result<Sealing, Problem> {
        let turn = self.passwords().turn().await?;
        let hash = turn.hash(person.password.clone()).await?;
        let (vault, at) = (self.vault().clone(), self.engine().now());
        let sealed = tokio::task::spawn_blocking(move || {
            let index = EmailIndex::new(vault.blind_index(person.email.expose()));
            let new_key = vault.create_subject(account.uuid())?;
            let registration = seal_person(&vault, account, &person, &hash, at)?;
            Ok::<_, VaultError>(Sealing {
                index,
                registration,
                new_key,
            })
        });
        Ok(sealed.await.map_err(|_| Problem::of(&problem::INTERNAL))??)
    }

    /// Waits for the account and its wallet, which another shard may keep than its address: who is told that they are registered can log in.
    async fn is_open(&self, account: AccountId) {
        let id = account.uuid();
        let open = async {
            self.engine().watch(Kind::Account, id, Until::Exists).await?;
            self.engine().watch(Kind::Wallet, id, Until::Exists).await
        };
        // In vain, it is opened later all the same.
        let _ = tokio::time::timeout(OPENED_WITHIN, open).await;
    }

    /// Removes the key of an account that came to nothing.
    async fn forget_unused(&self, account: AccountId) -> Result<(), Problem> {
        // An old idempotency key may have named an account that is there.
        if self.registration(account).await?.is_some() {
            return Ok(());
        }
        let vault = self.vault().clone();
        let erased = tokio::task::spawn_blocking(move || vault.discard_subject(account.uuid()));
        Ok(erased.await.map_err(|_| Problem::of(&problem::INTERNAL))??)
    }
}

fn seal_person(
    vault: &KeyVault,
    account: AccountId,
    person: &Person,
    hash: &str,
    at: aggregates::Timestamp,
) -> Result<Registration, VaultError> {
    let subject = account.uuid();
    let seal = |text: &str| vault.seal(subject, text).map(Sealed::new);
    Ok(Registration {
        account,
        email: seal(person.email.expose())?,
        name: seal(person.name.expose())?,
        phone: person.phone.as_ref().map(|phone| seal(phone.expose())).transpose()?,
        password: seal(hash)?,
        role: person.role,
        at,
    })
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::of(&problem::OVERLOADED),
            PasswordError::Failed(_) => {
                tracing::error!(%error, "a password could not be processed");
                Self::of(&problem::INTERNAL)
            }
        }
    }
}

/// Why an account of the settings or of the demo could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// A value is not allowed.
    #[error("the account's {what} {reason}")]
    Value {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The address belongs to an account that may do something else.
    #[error("the account's e-mail address belongs to an account with another role")]
    OtherRole,
    /// The engine could not be asked.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The keys could not be read or written.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A rule forbids it.
    #[error("the account cannot be made: {0}")]
    Refused(String),
    /// The password could not be hashed.
    #[error("the account's password cannot be hashed: {0}")]
    Password(String),
}

/// Makes this account unless its address or its id has one, and says which account it is. Doing so twice changes nothing.
///
/// It is how the admin of the settings and the accounts of the demo come to be: over REST nobody becomes an admin.
pub async fn ensure_account(
    api: &Api,
    id: AccountId,
    email: &str,
    password: &str,
    name: &str,
    role: Role,
) -> Result<AccountId, EnsureError> {
    let value = |what, error: TextError| EnsureError::Value {
        what,
        reason: error.to_string(),
    };
    let person = Person {
        email: email.parse().map_err(|error| value("e-mail address", error))?,
        name: name.parse().map_err(|error| value("name", error))?,
        phone: None,
        password: Zeroizing::new(password.to_owned()),
        role,
    };
    check_password(password).map_err(|reason| EnsureError::Value {
        what: "password",
        reason: reason.to_owned(),
    })?;
    let index = EmailIndex::new(api.vault().blind_index(person.email.expose()));
    let as_wanted = |(account, its_role)| {
        if its_role == role {
            Ok(account)
        } else {
            Err(EnsureError::OtherRole)
        }
    };
    if let Some(known) = known_account(api, index, id).await? {
        return as_wanted(known);
    }
    let hashed = async { api.passwords().turn().await?.hash(person.password.clone()).await };
    let hash = hashed.await.map_err(|error| EnsureError::Password(error.to_string()))?;
    api.vault().create_subject(id.uuid())?;
    let registration = seal_person(api.vault(), id, &person, &hash, api.engine().now())?;
    let cause = Cause {
        actor: Actor::System,
        correlation: Uuid::now_v7(),
        traceparent: None,
    };
    let reply = api
        .engine()
        .execute(Request::new(Command::Email(index, EmailCommand::Claim { registration }), cause))
        .await?;
    match reply.answer.result {
        Ok(_) => {
            api.is_open(id).await;
            Ok(id)
        }
        // Another process may have been quicker.
        Err(refusal) => match known_account(api, index, id).await? {
            Some(known) => {
                if known.0 != id {
                    api.vault().discard_subject(id.uuid())?;
                }
                as_wanted(known)
            }
            None => Err(EnsureError::Refused(refusal.detail.into_owned())),
        },
    }
}

/// The account of this address, or the one with this id, and what it may do.
async fn known_account(api: &Api, index: EmailIndex, id: AccountId) -> Result<Option<(AccountId, Role)>, EngineError> {
    let claim = api.engine().read(Kind::Email, index.uuid()).await?;
    let owner = claim.and_then(|claim| match &claim.state {
        State::Email(claim) => claim.account(),
        _ => None,
    });
    let account = owner.unwrap_or(id);
    // Claimed before a crash, it may be opened only now.
    if owner.is_some() {
        api.is_open(account).await;
    }
    Ok(api.registration(account).await?.map(|registration| (account, registration.role)))
}

impl Api {
    /// What is recorded of an account.
    pub(crate) async fn registration(&self, account: AccountId) -> Result<Option<Registration>, EngineError> {
        let versioned = self.engine().read(Kind::Account, account.uuid()).await?;
        Ok(versioned.and_then(|versioned| match &versioned.state {
            State::Account(account) => account.registration().cloned(),
            _ => None,
        }))
    }
}
