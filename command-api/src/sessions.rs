//! Sessions: logging in, going on, logging out.

use std::time::Instant;

use aggregates::{AccountId, Command, Email, EmailIndex, Kind, Session, SessionCommand, SessionId, State};
use axum::{extract::State as Of, response::Response};
use engine::{Actor, Cause, Request};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, RETRY_AFTER},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    Api, Principal,
    answer::json,
    body::Body,
    caller::Client,
    limits::whole_seconds,
    problem::{self, Problem},
    slow_down::{FREE_PER_ADDRESS, Suspect, WINDOW},
    terms::Terms,
    tokens::{self, RefreshToken},
};

/// Who logs in.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = LogIn, example = json!({"email": "buyer@jangbu.dev", "password": "jangbu-demo"}))]
pub(crate) struct LogInBody {
    #[schema(format = "email")]
    email: String,
    #[schema(value_type = String, format = "password")]
    password: Zeroizing<String>,
}

/// A refresh token.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = RefreshToken)]
pub(crate) struct RefreshBody {
    #[schema(value_type = String)]
    refresh_token: Zeroizing<String>,
}

/// The tokens of a session.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Tokens)]
pub(crate) struct TokensBody {
    /// For `Authorization: Bearer`.
    access_token: String,
    /// For the next tokens; it counts once.
    refresh_token: String,
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds until the access token expires.
    #[schema(example = 600)]
    expires_in: u64,
}

/// Logs in.
///
/// Repeated failures take longer and longer, whether the address has an account or not.
#[utoipa::path(post, path = "/auth/login", operation_id = "logIn", tag = "sessions", request_body = LogInBody,
    responses((status = 200, description = "Logged in.", body = TokensBody)))]
pub(crate) async fn log_in(
    Of(api): Of<Api>,
    Client(client): Client,
    terms: Terms,
    Body(body): Body<LogInBody>,
) -> Result<Response, Problem> {
    let address = body.email.parse::<Email>().ok();
    let index = api.vault().blind_index(address.as_ref().map_or(body.email.trim(), Email::expose));
    let suspects: Vec<_> = std::iter::once(Suspect::Address(index))
        .chain(client.map(Suspect::client))
        .collect();
    api.not_too_soon(&suspects).await?;
    let turn = api.passwords().turn().await?;
    // Others may have failed while this one waited.
    api.not_too_soon(&suspects).await?;
    let known = api.known(EmailIndex::new(index)).await?;
    let (principal, hash) = known.unzip();
    let right = turn.verify(body.password, hash).await?;
    let Some(principal) = principal.filter(|_| right) else {
        api.failed(&suspects).await;
        return Err(Problem::of(&problem::INVALID_CREDENTIALS));
    };
    api.succeeded(&suspects).await;
    api.start_session(principal, &terms).await
}

/// Replaces the tokens of a session.
///
/// A refresh token counts once: when it comes again the session ends, because one of the two who had it stole it.
#[utoipa::path(post, path = "/auth/refresh", operation_id = "refresh", tag = "sessions", request_body = RefreshBody,
    responses((status = 200, description = "The next tokens.", body = TokensBody)))]
pub(crate) async fn refresh(Of(api): Of<Api>, terms: Terms, Body(body): Body<RefreshBody>) -> Result<Response, Problem> {
    let over = || Problem::of(&problem::SESSION_OVER);
    let shown: RefreshToken = body.refresh_token.parse().map_err(|_| over())?;
    let next = new_token(shown.session)?;
    let command = SessionCommand::Refresh {
        shown: shown.hash(),
        next: next.hash(),
        at: api.engine().now(),
    };
    let state = api.ask_session(shown.session, Actor::Anonymous, command, &terms).await?;
    let account = match &state {
        State::Session(session) => match &**session {
            Session::Open { account, token, .. } if *token == next.hash() => *account,
            // The token had been replaced before: the session is revoked now.
            _ => return Err(over()),
        },
        _ => return Err(over()),
    };
    let role = api.registration(account).await?.ok_or_else(over)?.role;
    api.tokens(Principal { account, role }, &next)
}

/// Logs out. It is no error that the session is over already.
#[utoipa::path(post, path = "/auth/logout", operation_id = "logOut", tag = "sessions", request_body = RefreshBody,
    responses((status = 204, description = "The session is over.")))]
pub(crate) async fn log_out(Of(api): Of<Api>, terms: Terms, Body(body): Body<RefreshBody>) -> Result<StatusCode, Problem> {
    if let Ok(shown) = body.refresh_token.parse::<RefreshToken>() {
        let command = SessionCommand::End { shown: shown.hash() };
        api.ask_session(shown.session, Actor::Anonymous, command, &terms).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// The public keys that access tokens are verified with, as a JWK set.
#[utoipa::path(get, path = "/.well-known/jwks.json", operation_id = "jwks", tag = "sessions",
    responses((status = 200, description = "The keys (RFC 7517).", body = serde_json::Value)))]
pub(crate) async fn jwks(Of(api): Of<Api>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    json(
        StatusCode::OK,
        headers,
        api.vault().token_keys().jwks().to_string().into_bytes().into(),
    )
}

fn new_token(session: SessionId) -> Result<RefreshToken, Problem> {
    RefreshToken::new(session).map_err(|error| {
        tracing::error!(%error, "there is no randomness for a token");
        Problem::of(&problem::UNAVAILABLE)
    })
}

impl Api {
    /// Turns away whoever failed too often.
    async fn not_too_soon(&self, suspects: &[Suspect]) -> Result<(), Problem> {
        let shared = self.shared_limits().map(|shared| &**shared);
        let Some(wait) = self.slow_down().wait_of_all(suspects, self.vault(), shared).await else {
            return Ok(());
        };
        let seconds = whole_seconds(wait);
        let value = |text: String| HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("60"));
        let problem = Problem::of(&problem::TOO_MANY_LOGINS)
            .header(RETRY_AFTER, value(seconds.to_string()))
            .header("ratelimit-policy", value(format!("\"login\";q={FREE_PER_ADDRESS};w=900")))
            .header("ratelimit", value(format!("\"login\";r=0;t={seconds}")));
        Err(problem)
    }

    /// A login failed: here, and wherever nodes count together.
    async fn failed(&self, suspects: &[Suspect]) {
        self.slow_down().failed(suspects, Instant::now());
        if let Some(shared) = self.shared_limits() {
            let names: Vec<_> = suspects.iter().map(|suspect| suspect.hashed(self.vault())).collect();
            shared.failed(&names, WINDOW).await;
        }
    }

    /// They knew the password.
    async fn succeeded(&self, suspects: &[Suspect]) {
        self.slow_down().succeeded(suspects);
        if let Some(shared) = self.shared_limits() {
            for suspect in suspects.iter().filter(|suspect| matches!(suspect, Suspect::Address(_))) {
                shared.succeeded(suspect.hashed(self.vault())).await;
            }
        }
    }

    /// Whose address it is, and their password's hash.
    async fn known(&self, index: EmailIndex) -> Result<Option<(Principal, Zeroizing<String>)>, Problem> {
        let claim = self.engine().read(Kind::Email, index.uuid()).await?;
        let Some(account) = claim.and_then(|claim| owner(&claim.state)) else {
            return Ok(None);
        };
        let Some(registration) = self.registration(account).await? else {
            return Ok(None);
        };
        let hash = self.vault().open_sealed(account.uuid(), registration.password.ciphertext())?;
        Ok(hash.map(|hash| {
            (
                Principal {
                    account,
                    role: registration.role,
                },
                hash,
            )
        }))
    }

    async fn start_session(&self, principal: Principal, terms: &Terms) -> Result<Response, Problem> {
        let token = new_token(SessionId::new(Uuid::now_v7()))?;
        let expires_at = self.engine().now().after(self.settings().tokens.refresh_ttl);
        let command = SessionCommand::Start {
            account: principal.account,
            token: token.hash(),
            expires_at,
        };
        self.ask_session(token.session, Actor::Account(principal.account), command, terms)
            .await?;
        self.tokens(principal, &token)
    }

    /// Sends a command to a session, and says how it stands after it.
    async fn ask_session(&self, session: SessionId, actor: Actor, command: SessionCommand, terms: &Terms) -> Result<State, Problem> {
        let cause = Cause {
            actor,
            correlation: terms.trace.correlation,
            traceparent: terms.trace.parent.clone(),
        };
        let reply = self
            .engine()
            .execute(Request::new(Command::Session(session, command), cause))
            .await?;
        match reply.answer.result {
            Ok(_) if !reply.replayed => Ok(reply.latest.state),
            Ok(_) => {
                let now = self.engine().read(Kind::Session, session.uuid()).await?;
                Ok(now.unwrap_or(reply.latest).state)
            }
            Err(refusal) => Err(Problem::refused(refusal)),
        }
    }

    fn tokens(&self, principal: Principal, refresh: &RefreshToken) -> Result<Response, Problem> {
        let settings = &self.settings().tokens;
        let access_token = tokens::issue(settings, self.vault().token_keys().current(), principal, refresh.session).map_err(|error| {
            tracing::error!(%error, "an access token cannot be signed");
            Problem::of(&problem::INTERNAL)
        })?;
        let body = TokensBody {
            access_token,
            refresh_token: refresh.expose(),
            token_type: "Bearer",
            expires_in: settings.access_ttl.as_secs(),
        };
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let body = serde_json::to_vec(&body).map_err(|_| Problem::of(&problem::INTERNAL))?;
        Ok(json(StatusCode::OK, headers, body.into()))
    }
}

fn owner(state: &State) -> Option<AccountId> {
    match state {
        State::Email(claim) => claim.account(),
        _ => None,
    }
}
