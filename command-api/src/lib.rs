//! REST: a request becomes a command.
//!
//! This crate parses requests, knows who sends them, turns them into commands, and writes the engine's answers. It decides nothing about
//! the shop, and never lets what is personal into a log line, an error or the engine unsealed. It reads no view but those that list for
//! operators what needs them.

mod accounts;
mod answer;
mod body;
mod caller;
mod edge;
mod in_flight;
mod kept;
mod language;
mod limits;
mod openapi;
mod ops;
mod orders;
mod passwords;
mod problem;
mod products;
mod rate;
mod represent;
mod sessions;
mod shared;
mod slow_down;
mod terms;
mod tokens;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use aggregates::Currency;
use axum::{
    Json, Router,
    extract::Path,
    middleware,
    response::{IntoResponse as _, Response},
    routing,
};
use engine::Engine;
use http::HeaderMap;
use key_vault::KeyVault;
use projections::{ReadError, Views};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::{Config, SwaggerUi};

pub use crate::{
    accounts::{EnsureError, ensure_account},
    limits::{RateLimiter, RateLimits},
    rate::{Rate, RateError, Taken},
    represent::represent,
    shared::{AnswerName, Asked, Failures, Hashed, KeptAnswers, SharedLimits},
    tokens::{Principal, TokenError, TokenSettings, TokenVerifier},
};
use crate::{edge::Meters, in_flight::InFlight, passwords::Passwords, problem::Problem, slow_down::SlowDown};

/// How many questions to the views are asked at a time: they are operators' alone.
const READS: usize = 4;

/// What the operator decides about the API.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the shop sells in.
    pub currency: Currency,
    /// What tokens say and how long they last.
    pub tokens: TokenSettings,
    /// Whether a proxy stands before the server: then the last entry of `X-Forwarded-For` says who the client is.
    pub behind_proxy: bool,
    /// How many passwords are hashed at a time. Each takes 19 MiB and a processor.
    pub passwords_at_once: usize,
    /// How many may wait for that; more are turned away with 503.
    pub passwords_waiting: usize,
    /// How many requests may wait for the end of a purchase (`Prefer: wait`); more are answered at once.
    pub waits: usize,
    /// How long the payment provider may be silent before a person is asked to look: operators are told until when that is.
    pub stuck_after: Duration,
    /// How many requests a client and an account may send.
    pub rate_limits: RateLimits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            currency: Currency::KRW,
            tokens: TokenSettings::default(),
            behind_proxy: false,
            passwords_at_once: 1,
            passwords_waiting: 256,
            waits: 10_000,
            stuck_after: Duration::from_hours(24),
            rate_limits: RateLimits::default(),
        }
    }
}

/// The API: what its handlers share. A clone is the same API.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    vault: KeyVault,
    views: Arc<dyn Views>,
    /// Questions to the views under way; one more waits its turn.
    reads: Arc<Semaphore>,
    settings: Settings,
    verifier: TokenVerifier,
    passwords: Passwords,
    slow_down: SlowDown,
    limiter: RateLimiter,
    in_flight: InFlight,
    waits: Semaphore,
    /// Answers that nodes share, if they do.
    kept_answers: OnceLock<Arc<dyn KeptAnswers>>,
}

impl Api {
    /// The API of this engine; personal data is sealed with the keys of this vault, and operators are
    /// shown what these views list.
    pub fn new(engine: Engine, vault: KeyVault, views: Arc<dyn Views>, settings: Settings) -> Self {
        let shared = Shared {
            verifier: TokenVerifier::new(vault.clone(), &settings.tokens),
            passwords: Passwords::new(settings.passwords_at_once.max(1), settings.passwords_waiting),
            slow_down: SlowDown::new(),
            limiter: RateLimiter::new(vault.clone(), &settings),
            kept_answers: OnceLock::new(),
            in_flight: InFlight::new(),
            waits: Semaphore::new(settings.waits),
            engine,
            vault,
            views,
            reads: Arc::new(Semaphore::new(READS)),
            settings,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Counts requests and failed logins together with other nodes. Said once, before the API is served.
    #[must_use]
    pub fn with_shared_limits(self, limits: Arc<dyn SharedLimits>) -> Self {
        let _ = self.limiter().clone().sharing(limits);
        self
    }

    /// What counts its requests; the query API of the same process counts in the same place.
    pub fn limiter(&self) -> &RateLimiter {
        &self.shared.limiter
    }

    /// Answers repeated requests from what all nodes keep, where that has the answer. Said once, before the API is served.
    #[must_use]
    pub fn with_kept_answers(self, answers: Arc<dyn KeptAnswers>) -> Self {
        let _ = self.shared.kept_answers.set(answers);
        self
    }

    /// Verifies access tokens; the query API shares it.
    pub fn verifier(&self) -> &TokenVerifier {
        &self.shared.verifier
    }

    fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    fn vault(&self) -> &KeyVault {
        &self.shared.vault
    }

    fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    fn passwords(&self) -> &Passwords {
        &self.shared.passwords
    }

    fn slow_down(&self) -> &SlowDown {
        &self.shared.slow_down
    }

    fn shared_limits(&self) -> Option<&Arc<dyn SharedLimits>> {
        self.limiter().shared()
    }

    fn kept_answers(&self) -> Option<&Arc<dyn KeptAnswers>> {
        self.shared.kept_answers.get()
    }

    fn in_flight(&self) -> &InFlight {
        &self.shared.in_flight
    }

    /// Asks the views, on a thread that may wait.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Views) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Problem> {
        let reads = Arc::clone(&self.shared.reads).acquire_owned().await;
        let permit = reads.map_err(|_| Problem::of(&problem::UNAVAILABLE))?;
        let views = Arc::clone(&self.shared.views);
        let asked = tokio::task::spawn_blocking(move || {
            // Kept until the answer is there, also when nobody waits for it any more.
            let _permit = permit;
            question(&*views)
        });
        let answer = asked.await.map_err(|error| {
            tracing::error!(%error, "a question to the views panicked");
            Problem::of(&problem::INTERNAL)
        })?;
        Ok(answer?)
    }

    fn waits(&self) -> &Semaphore {
        &self.shared.waits
    }
}

/// The calls under `/api/v1`, `/.well-known/jwks.json`, `/problems/{code}`, `/openapi.json` and `/docs`.
///
/// It has no fallback outside `/api/v1`: [`unknown_path`] is one. Install the recorder of the figures before, and serve it with
/// `ConnectInfo<SocketAddr>`, so that failed logins are slowed per client too.
pub fn router(api: Api) -> Router {
    let (router, document) = calls();
    let meters = Arc::new(Meters::new(openapi::calls(&document)));
    let config = Config::from("/openapi.json").validator_url("none").display_request_duration(true);
    let pages = SwaggerUi::new("/docs")
        .external_url_unchecked("/openapi.json", document)
        .config(config);
    api.limiter()
        .limit(router)
        .layer(middleware::from_fn_with_state(meters, edge::pass))
        .with_state(api)
        .merge(pages)
}

/// The API's description, OpenAPI 3.1.
pub fn openapi_document() -> Value {
    calls().1
}

fn calls() -> (Router<Api>, Value) {
    let v1 = OpenApiRouter::new()
        .routes(routes!(accounts::register))
        .routes(routes!(accounts::deposit))
        .routes(routes!(sessions::log_in))
        .routes(routes!(sessions::refresh))
        .routes(routes!(sessions::log_out))
        .routes(routes!(sessions::jwks))
        .routes(routes!(products::offer))
        .routes(routes!(products::change, products::retire))
        .routes(routes!(products::receive))
        .routes(routes!(products::adjust))
        .routes(routes!(orders::place))
        .routes(routes!(orders::look))
        .routes(routes!(orders::pay))
        .routes(routes!(orders::cancel))
        .routes(routes!(ops::processes))
        .routes(routes!(ops::resume))
        .routes(routes!(ops::compensate))
        .routes(routes!(ops::resolve))
        .routes(routes!(ops::parked))
        .routes(routes!(ops::retry))
        .routes(routes!(ops::give_up))
        .fallback(async || Problem::of(&problem::NOT_FOUND));
    let (router, collected) = OpenApiRouter::new().nest("/api/v1", v1).split_for_parts();
    let router = router
        // The calls' own fallback does not see this one.
        .route("/api/v1/", routing::any(async || Problem::of(&problem::NOT_FOUND)))
        .route("/.well-known/jwks.json", routing::get(sessions::jwks))
        .route("/problems/{code}", routing::get(explain))
        .method_not_allowed_fallback(async || Problem::of(&problem::METHOD_NOT_ALLOWED));
    (router, openapi::describe(&collected))
}

/// What a problem's `type` refers to.
async fn explain(Path(code): Path<String>) -> Result<Json<Value>, Problem> {
    let code = problem::registered(&code).ok_or_else(|| Problem::of(&problem::NOT_FOUND))?;
    Ok(Json(
        json!({"code": code.name, "status": code.status, "title": {"ko": code.korean, "en": code.english}}),
    ))
}

/// The answer for a path that nothing serves, as the API words it: a fallback for the server.
#[expect(clippy::unused_async, reason = "a handler is asynchronous")]
pub async fn unknown_path(headers: HeaderMap) -> Response {
    let trace = edge::Trace::of(&headers).correlation;
    Problem::of(&problem::NOT_FOUND)
        .render(crate::language::preferred(&headers), trace)
        .into_response()
}
