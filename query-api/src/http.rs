//! GraphQL over HTTP: reads requests, answers them, and says no to what is none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_graphql::{
    Request as Question, Response as Answered, ServerError, Value, Variables, async_trait,
    extensions::{Extension, ExtensionContext, ExtensionFactory, NextExecute},
};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest as _, Query, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use event_store::Shards;
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, time::Instant};
use tracing::Instrument as _;

use crate::{
    AuthError, ConsistencyToken, QueryApi,
    consistency::{self, Consistency, Wanted},
    error::BAD_USER_INPUT,
    language::Language,
    limits,
    problem::{self, Refused},
    reader::Source,
    schema::{self, ShopSchema, StuckAfter},
    shape::{self, Shape},
    stock::{KeptStock, SharedStock},
    viewer::Viewer,
};

/// The header and the cookie that carry consistency tokens, separated by commas. A cookie's name may end in `-` and the shard, so that the
/// newest token of one shard takes the place of that shard's older ones alone.
const CONSISTENCY_TOKEN: &str = "consistency-token";

/// So many tokens are looked at: one of each shard that a log may have.
const MOST_TOKENS: usize = Shards::MOST as usize;

/// The form of answers that tells a question that failed from one that was none by its status, and the older one that does not.
const GRAPHQL_JSON: &str = "application/graphql-response+json";
const JSON: &str = "application/json";

/// The most errors that an answer lists.
const MOST_ERRORS: usize = 20;

const EXPLORER: &str = include_str!("../assets/explorer.html");

/// The page comes from here and talks to here, and nowhere else.
const EXPLORER_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
                               form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// The routes: `/graphql`, and `/graphiql` when the settings want it.
pub fn router(settings: QueryApi) -> Router {
    routes(settings, None)
}

/// The same routes, of a node that shares with others what it has just read of stock.
pub fn router_sharing(settings: QueryApi, stock: Arc<dyn KeptStock>) -> Router {
    routes(settings, Some(stock))
}

fn routes(settings: QueryApi, stock: Option<Arc<dyn KeptStock>>) -> Router {
    let graphiql = settings.graphiql;
    let body = settings.limits.body;
    let routes = Router::new()
        .route("/graphql", get(graphql).post(graphql))
        .layer(DefaultBodyLimit::max(body))
        .with_state(Api::new(settings, stock));
    let routes = if graphiql {
        routes.route("/graphiql", get(explorer))
    } else {
        routes
    };
    routes.method_not_allowed_fallback(method_not_allowed)
}

/// The answer to any other method. The router adds which ones there are.
async fn method_not_allowed(headers: HeaderMap) -> Response {
    let (language, trace) = (crate::language::preferred(&headers), problem::trace_id(&headers));
    Refused::Method.into_response(language, &trace)
}

async fn explorer() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, EXPLORER_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, Html(EXPLORER))
}

#[derive(Clone)]
struct Api {
    settings: Arc<QueryApi>,
    schema: ShopSchema,
    source: Source,
    requests: Arc<Semaphore>,
}

impl Api {
    fn new(settings: QueryApi, stock: Option<Arc<dyn KeptStock>>) -> Self {
        for outcome in consistency::Outcome::ALL {
            metrics::counter!("jangbu_graphql_consistency_total", "outcome" => outcome.name()).increment(0);
        }
        let stock = stock.map(|kept| SharedStock::new(kept, settings.progress.clone()));
        Self {
            schema: schema::schema(&settings.limits, settings.introspection),
            source: Source::new(Arc::clone(&settings.views), settings.vault.clone(), settings.limits.reads, stock),
            requests: Arc::new(Semaphore::new(settings.limits.requests)),
            settings: Arc::new(settings),
        }
    }
}

/// Answers a question.
async fn graphql(State(api): State<Api>, request: Request) -> Response {
    let language = crate::language::preferred(request.headers());
    let trace = problem::trace_id(request.headers());
    let began = Instant::now();
    let method = if request.method() == Method::POST { "POST" } else { "GET" };
    let span = tracing::debug_span!(
        "graphql",
        otel.name = format!("{method} /graphql"),
        otel.kind = "server",
        http.request.method = method,
        http.route = "/graphql",
        http.response.status_code = tracing::field::Empty,
        otel.status_code = tracing::field::Empty,
        %trace,
        outcome = tracing::field::Empty,
        consistency = tracing::field::Empty,
        errors = tracing::field::Empty
    );
    if let Some(parent) = request
        .headers()
        .get(trace_context::TRACEPARENT)
        .and_then(|parent| parent.to_str().ok())
    {
        trace_context::continue_from(&span, parent);
    }
    let answer = async {
        let _permit = api.requests.try_acquire().map_err(|_| Refused::Busy)?;
        tokio::time::timeout(api.settings.timeouts.request, answer(&api, request, language))
            .await
            .map_err(|_| Refused::TooSlow)?
    };
    let answer = answer.instrument(span.clone()).await;
    let outcome = match &answer {
        Ok((outcome, _)) => *outcome,
        Err(refused) => refused.code(),
    };
    span.record("outcome", outcome);
    metrics::counter!("jangbu_graphql_requests_total", "outcome" => outcome).increment(1);
    metrics::histogram!("jangbu_graphql_request_seconds").record(began.elapsed().as_secs_f64());
    let response = match answer {
        Ok((_, response)) => response,
        Err(refused) => refused.into_response(language, &trace),
    };
    count(method, response.status(), began.elapsed());
    span.record("http.response.status_code", response.status().as_u16());
    if response.status().is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    response
}

/// As the other API counts its calls.
fn count(method: &'static str, status: StatusCode, took: Duration) {
    let status = match status.as_u16() {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    };
    metrics::counter!("jangbu_http_requests_total", "api" => "query", "method" => method, "route" => "/graphql", "status" => status)
        .increment(1);
    metrics::histogram!("jangbu_http_request_duration_seconds", "api" => "query", "method" => method, "route" => "/graphql").record(took);
}

async fn answer(api: &Api, request: Request, language: Language) -> Result<(&'static str, Response), Refused> {
    let form = Form::of(request.headers())?;
    let viewer = viewer(api, request.headers())?;
    let wanted = wanted(api, request.headers())?;
    let asked = Asked::read(request, api.settings.limits.body).await?;

    let document = limits::parse(&asked.query, &api.settings.limits, api.settings.introspection);
    let waiting = Instant::now();
    let consistency = consistency::reach(api.settings.progress.clone(), &wanted, api.settings.timeouts.consistency)
        .instrument(tracing::debug_span!("reach"))
        .await;
    metrics::histogram!("jangbu_graphql_consistency_wait_seconds").record(waiting.elapsed());
    tracing::Span::current().record("consistency", consistency.outcome.name());
    metrics::counter!("jangbu_graphql_consistency_total", "outcome" => consistency.outcome.name()).increment(1);
    let document = match document {
        Ok(document) => document,
        Err(error) => return Ok(("refused", form.refuse(vec![error], &consistency))),
    };

    let started = Arc::new(AtomicBool::new(false));
    let (reader, batches) = api.source.reader(&wanted);
    let stock = reader.loader().stock().cloned();
    let mut question = Question::new(asked.query)
        .variables(asked.variables)
        .data(viewer)
        .data(StuckAfter(api.settings.stuck_after))
        .data(language)
        .data(reader)
        .data(StartedFlag(Arc::clone(&started)));
    question.operation_name = asked.operation_name;
    let shape = Shape::of(&document, question.operation_name.as_deref());
    question.set_parsed_query(document);
    let answered = batches
        .run(api.schema.execute(question))
        .instrument(tracing::debug_span!("resolve"))
        .await;
    tracing::Span::current().record("errors", answered.errors.len());
    if !started.load(Ordering::Relaxed) {
        return Ok(("refused", form.refuse(answered.errors, &consistency)));
    }
    let outcome = if answered.errors.is_empty() { "answered" } else { "failed" };
    let consistency = match stock {
        Some(stock) => consistency.showing(&stock.shown()),
        None => consistency,
    };
    Ok((outcome, form.answer(answered, &shape, &consistency)))
}

/// Who asks. A token that is no good is refused: answering it as nobody's would look like an empty shop.
fn viewer(api: &Api, headers: &HeaderMap) -> Result<Viewer, Refused> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(Viewer(None));
    };
    let token = value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let (_, token) = token.ok_or(Refused::Unauthenticated(AuthError::Invalid))?;
    (api.settings.authenticate)(token.trim())
        .map(|asker| Viewer(Some(asker)))
        .map_err(Refused::Unauthenticated)
}

/// What the tokens that were shown ask for. A wrong one in the header is a mistake to be told of; a cookie may be left over from another
/// log, and nobody could repair it, so it is passed over.
fn wanted(api: &Api, headers: &HeaderMap) -> Result<Wanted, Refused> {
    let mut wanted = Wanted::default();
    if headers.contains_key(CONSISTENCY_TOKEN) {
        let values = headers.get_all(CONSISTENCY_TOKEN).iter();
        let tokens = values.flat_map(|value| value.to_str().unwrap_or_default().split(','));
        for (number, token) in tokens.enumerate() {
            if number >= MOST_TOKENS {
                return Err(Refused::ConsistencyToken(format!(
                    "there are more than {MOST_TOKENS} consistency tokens"
                )));
            }
            wanted.add(ours(api, token).map_err(Refused::ConsistencyToken)?);
        }
        return Ok(wanted);
    }
    let cookies = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    let tokens = cookies
        .filter_map(|cookie| cookie.split_once('='))
        .filter(|(name, _)| carries_tokens(name.trim()))
        .flat_map(|(_, tokens)| tokens.split(','));
    for token in tokens.take(MOST_TOKENS).filter_map(|token| ours(api, token).ok()) {
        wanted.add(token);
    }
    Ok(wanted)
}

fn carries_tokens(cookie: &str) -> bool {
    let (name, rest) = cookie.split_at_checked(CONSISTENCY_TOKEN.len()).unwrap_or_default();
    let shard = rest.strip_prefix('-').is_some_and(|shard| shard.parse::<u16>().is_ok());
    name.eq_ignore_ascii_case(CONSISTENCY_TOKEN) && (rest.is_empty() || shard)
}

/// A token of this shop's log, of a shard that it has.
fn ours(api: &Api, token: &str) -> Result<ConsistencyToken, String> {
    let token: ConsistencyToken = token.parse().map_err(|error: crate::TokenError| error.to_string())?;
    if token.log_id != api.settings.log_id {
        return Err("this consistency token is of another log: it was not issued by this shop".to_owned());
    }
    match api.settings.progress.borrow().count {
        Some(count) if token.shard >= count.count() => Err(format!(
            "this consistency token is of shard {}, which this shop's log does not have",
            token.shard
        )),
        _ => Ok(token),
    }
}

/// What is asked, however it came.
struct Asked {
    query: String,
    operation_name: Option<String>,
    variables: Variables,
}

/// The members of a request, and the parameters of a GET. Others mean nothing to us (GraphQL over HTTP, 5.1).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Posted {
    query: Option<String>,
    operation_name: Option<String>,
    variables: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Got {
    query: Option<String>,
    operation_name: Option<String>,
    variables: Option<String>,
}

impl Asked {
    async fn read(request: Request, most: usize) -> Result<Self, Refused> {
        let posted = if request.method() == Method::POST {
            Self::posted(request, most).await?
        } else {
            Self::got(&request, most)?
        };
        let query = posted
            .query
            .ok_or_else(|| Refused::Unreadable("`query` is missing: it is the question".to_owned()))?;
        let variables = posted.variables.unwrap_or_default();
        if !(variables.is_object() || variables.is_null()) {
            return Err(Refused::Unreadable("`variables` is an object".to_owned()));
        }
        Ok(Self {
            query,
            operation_name: posted.operation_name.filter(|name| !name.is_empty()),
            variables: Variables::from_json(variables),
        })
    }

    async fn posted(request: Request, most: usize) -> Result<Posted, Refused> {
        let content = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if !content.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(JSON) {
            return Err(Refused::MediaType);
        }
        let body = Bytes::from_request(request, &())
            .await
            .map_err(|refused| match refused.into_response().status() {
                StatusCode::PAYLOAD_TOO_LARGE => Refused::TooLarge(most),
                _ => Refused::Unreadable("the body broke off".to_owned()),
            })?;
        if body.trim_ascii_start().starts_with(b"[") {
            return Err(Refused::Unreadable(
                "one request asks one question: batches are not answered".to_owned(),
            ));
        }
        // The parser's words name a line and a column, and at most a member of ours.
        serde_json::from_slice(&body).map_err(|error| Refused::Unreadable(format!("the body is not a question in JSON: {error}")))
    }

    fn got(request: &Request, most: usize) -> Result<Posted, Refused> {
        if request.uri().query().is_some_and(|query| query.len() > most) {
            return Err(Refused::TooLarge(most));
        }
        let Query(got) = Query::<Got>::try_from_uri(request.uri())
            .map_err(|error| Refused::Unreadable(format!("the parameters cannot be read: {error}")))?;
        let variables = got.variables.filter(|variables| !variables.is_empty());
        let variables = variables.map(|variables| serde_json::from_str(&variables)).transpose();
        let variables = variables.map_err(|error| Refused::Unreadable(format!("`variables` is not JSON: {error}")))?;
        Ok(Posted {
            query: got.query,
            operation_name: got.operation_name,
            variables,
        })
    }
}

/// In which form the caller wants the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    GraphQl,
    Json,
}

/// An answer; one to what was no question has no data, not even null.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [ServerError],
    extensions: Extensions<'a>,
}

#[derive(Serialize)]
struct Extensions<'a> {
    consistency: &'a Consistency,
}

impl Form {
    /// The first of ours that `Accept` names; the newer one when it names none, or all.
    fn of(headers: &HeaderMap) -> Result<Self, Refused> {
        let mut named = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .peekable();
        if named.peek().is_none() {
            return Ok(Self::GraphQl);
        }
        let form = |range: &str| match range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            GRAPHQL_JSON | "*/*" | "application/*" => Some(Self::GraphQl),
            JSON => Some(Self::Json),
            _ => None,
        };
        named.take(32).find_map(form).ok_or(Refused::NotAcceptable)
    }

    fn answer(self, mut answered: Answered, shape: &Shape, consistency: &Consistency) -> Response {
        shape::fill_in(&mut answered.data, &answered.errors);
        shape.arrange(&mut answered.data);
        let errors = with_codes(answered.errors, BAD_USER_INPUT);
        self.respond(
            StatusCode::OK,
            &Body {
                data: Some(&answered.data),
                errors: &errors,
                extensions: Extensions { consistency },
            },
        )
    }

    /// Says what is wrong with a question before anything of it was answered.
    fn refuse(self, errors: Vec<ServerError>, consistency: &Consistency) -> Response {
        let errors = with_codes(errors, "GRAPHQL_VALIDATION_FAILED");
        // The older form's status speaks of the request alone (GraphQL over HTTP, 6.4.1).
        let status = if self == Self::GraphQl {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::OK
        };
        self.respond(
            status,
            &Body {
                data: None,
                errors: &errors,
                extensions: Extensions { consistency },
            },
        )
    }

    fn respond(self, status: StatusCode, body: &Body<'_>) -> Response {
        let content = match self {
            Self::GraphQl => "application/graphql-response+json; charset=utf-8",
            Self::Json => "application/json; charset=utf-8",
        };
        match serde_json::to_vec(body) {
            Ok(body) => (status, [(header::CONTENT_TYPE, content), (header::CACHE_CONTROL, "no-store")], body).into_response(),
            Err(error) => {
                tracing::error!(%error, "an answer cannot be written");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

/// The first errors, each with a code.
fn with_codes(mut errors: Vec<ServerError>, code: &str) -> Vec<ServerError> {
    errors.truncate(MOST_ERRORS);
    for error in &mut errors {
        let extensions = error.extensions.get_or_insert_default();
        if extensions.get("code").is_none() {
            extensions.set("code", code);
        }
    }
    errors
}

/// Raised when the answering of a question begins: until then, what is wrong is wrong with the question.
struct StartedFlag(Arc<AtomicBool>);

/// Raises the request's [`StartedFlag`], and names its operation in the span.
pub(crate) struct Started;

impl ExtensionFactory for Started {
    fn create(&self) -> Arc<dyn Extension> {
        Arc::new(Self)
    }
}

#[async_trait::async_trait]
impl Extension for Started {
    async fn execute(&self, ctx: &ExtensionContext<'_>, operation: Option<&str>, next: NextExecute<'_>) -> Answered {
        if let Ok(StartedFlag(started)) = ctx.data::<StartedFlag>() {
            started.store(true, Ordering::Relaxed);
        }
        tracing::Span::current().record("operation", operation.map(|name| &name[..name.len().min(64)]));
        next.run(ctx, operation).await
    }
}
