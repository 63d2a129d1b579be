//! Registering and logging in.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use super::http::{Address, Call};

/// Who may fill the buyers' balances.
#[derive(Args, Debug)]
pub(crate) struct Administrator {
    /// The shop's administrator, who fills the buyers' balances.
    #[arg(long, env = "JANGBU_ADMIN__EMAIL", hide_env_values = true, default_value = "admin@jangbu.dev")]
    admin_email: String,
    /// The administrator's password.
    #[arg(
        long,
        env = "JANGBU_ADMIN__PASSWORD",
        hide_env_values = true,
        default_value = "jangbu-demo",
        hide_default_value = true
    )]
    admin_password: String,
}

impl Administrator {
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials {
            email: self.admin_email.clone(),
            password: self.admin_password.clone(),
        }
    }
}

/// Who logs in, and with what.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) email: String,
    pub(crate) password: String,
}

/// Somebody who is logged in.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) access: String,
    pub(crate) refresh: String,
    pub(crate) expires_in: Duration,
}

/// Registers somebody under this name and logs them in: the account, and the session.
pub(crate) async fn register(address: &Address, person: &Credentials, name: &str, role: &str) -> anyhow::Result<(String, Session)> {
    let body = json!({ "email": person.email, "password": person.password, "name": name, "role": role });
    let account = Call::post("/api/v1/accounts", &body).expect(201, address).await?;
    Ok((text(&account, "accountId")?, log_in(address, person).await?))
}

/// Logs somebody in.
pub(crate) async fn log_in(address: &Address, person: &Credentials) -> anyhow::Result<Session> {
    let body = json!({ "email": person.email, "password": person.password });
    session(&Call::post("/api/v1/auth/login", &body).expect(200, address).await?)
}

/// The same session with new tokens.
pub(crate) async fn refresh(address: &Address, old: &Session) -> anyhow::Result<Session> {
    let body = json!({ "refreshToken": old.refresh });
    session(&Call::post("/api/v1/auth/refresh", &body).expect(200, address).await?)
}

fn session(tokens: &Value) -> anyhow::Result<Session> {
    let expires_in = tokens["expiresIn"].as_u64().context("the answer names no expiresIn")?;
    Ok(Session {
        access: text(tokens, "accessToken")?,
        refresh: text(tokens, "refreshToken")?,
        expires_in: Duration::from_secs(expires_in),
    })
}

/// A text of an answer.
pub(crate) fn text(answer: &Value, member: &str) -> anyhow::Result<String> {
    answer[member]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("the answer names no {member}"))
}
