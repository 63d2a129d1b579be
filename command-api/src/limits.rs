//! Rate limits: how many requests a client and an account may send, over all nodes where they share a count, and else on each by itself.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};
use key_vault::KeyVault;
use metrics::Counter;

use crate::{
    Settings, TokenVerifier,
    caller::{self, Caller},
    edge::Trace,
    language::preferred,
    problem::{self, Problem},
    rate::{Buckets, Doubts, Rate, Taken},
    shared::{Hashed, SharedLimits},
    slow_down::Suspect,
};

/// The calls that are limited: commands and questions, and not the pages that describe them.
const CALLS: [&str; 2] = ["/api/v1/", "/graphql"];

/// So much sooner may a request be counted here than where it is counted for all.
const LEEWAY: Duration = Duration::from_millis(100);

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// How many requests somebody may send. Off unless set.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimits {
    /// A client: an address, of IPv6 its network.
    pub per_client: Option<Rate>,
    /// An account, from wherever it is used.
    pub per_account: Option<Rate>,
}

struct Limit {
    name: &'static str,
    rate: Rate,
    here: Buckets,
    doubts: Doubts,
    refused: Counter,
}

impl Limit {
    fn new(name: &'static str, rate: Option<Rate>) -> Option<Self> {
        let refused = metrics::counter!("jangbu_rate_limited_total", "limit" => name);
        refused.increment(0);
        rate.map(|rate| Self {
            name,
            rate,
            here: Buckets::new(rate),
            doubts: Doubts::new(),
            refused,
        })
    }

    /// Takes a request of theirs.
    async fn take(&self, who: Hashed, shared: Option<&Arc<dyn SharedLimits>>) -> Taken {
        let Some(shared) = shared else {
            return self.here.take(who, Instant::now());
        };
        // Who sends too much to this node alone sends too much, whatever others say.
        if let Some(over) = self.here.over(who, Instant::now(), LEEWAY) {
            return over;
        }
        let taken = shared.take(who, self.rate).await.filter(|taken| taken.can_be(self.rate));
        let now = Instant::now();
        match taken {
            Some(taken) if taken.allowed => {
                self.here.note(who, now);
                self.doubts.clear(who);
                taken
            }
            Some(taken) if self.doubts.believe(who, now, self.rate.window()) => taken,
            _ => self.here.take(who, now),
        }
    }
}

/// What an answer says of the limits that its request passed.
#[derive(Default)]
struct Said {
    policies: String,
    limits: String,
}

impl Said {
    fn add(&mut self, limit: &Limit, taken: Taken) {
        use std::fmt::Write as _;
        let (name, rate) = (limit.name, limit.rate);
        let comma = if self.policies.is_empty() { "" } else { ", " };
        // A string takes what is written.
        let _ = write!(self.policies, "{comma}\"{name}\";q={};w={}", rate.count(), rate.window().as_secs());
        let (left, reset) = (taken.left(rate), whole_seconds(taken.owed));
        let _ = write!(self.limits, "{comma}\"{name}\";r={left};t={reset}");
    }

    fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let value = |text: &str| HeaderValue::try_from(text).ok();
        let headers = [(POLICY, value(&self.policies)), (LIMIT, value(&self.limits))];
        headers.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }

    fn add_to(&self, headers: &mut HeaderMap) {
        for (name, value) in self.headers() {
            // A login that was refused speaks of its own limit.
            headers.entry(name).or_insert(value);
        }
    }
}

/// Not fewer than one: whoever is told to wait waits.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// Counts requests by client and by account, and turns away those that are too many. A clone counts on in the same place.
#[derive(Clone)]
pub struct RateLimiter {
    inner: Arc<Inner>,
}

struct Inner {
    per_client: Option<Limit>,
    per_account: Option<Limit>,
    behind_proxy: bool,
    vault: KeyVault,
    verifier: TokenVerifier,
    /// Where all nodes count together, if they do.
    shared: OnceLock<Arc<dyn SharedLimits>>,
}

impl RateLimiter {
    /// The limits of these settings. Clients and accounts are known by hashes with the keys of this vault, accounts by its tokens.
    pub fn new(vault: KeyVault, settings: &Settings) -> Self {
        let inner = Inner {
            per_client: Limit::new("client", settings.rate_limits.per_client),
            per_account: Limit::new("account", settings.rate_limits.per_account),
            behind_proxy: settings.behind_proxy,
            verifier: TokenVerifier::new(vault.clone(), &settings.tokens),
            vault,
            shared: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Counts together with other nodes. Said once, before anything is counted.
    #[must_use]
    pub fn sharing(self, limits: Arc<dyn SharedLimits>) -> Self {
        let _ = self.inner.shared.set(limits);
        self
    }

    /// Limits every request that this router gets, or hands it back as it is when there are no limits. Serve it with
    /// `ConnectInfo<SocketAddr>`, which says where a request comes from.
    pub fn limit<S: Clone + Send + Sync + 'static>(&self, router: Router<S>) -> Router<S> {
        if self.inner.per_client.is_some() || self.inner.per_account.is_some() {
            router.layer(middleware::from_fn_with_state(self.clone(), pass))
        } else {
            router
        }
    }

    pub(crate) fn shared(&self) -> Option<&Arc<dyn SharedLimits>> {
        self.inner.shared.get()
    }

    async fn admit(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Said, Problem> {
        let (inner, mut said) = (&*self.inner, Said::default());
        if let Some(limit) = &inner.per_client
            && let Some(client) = caller::client(headers, extensions, inner.behind_proxy)
        {
            self.take(limit, Suspect::client(client).hashed(&inner.vault), &mut said).await?;
        }
        if let Some(limit) = &inner.per_account
            // Who is nobody is refused by the call, if it is for somebody.
            && let Ok(caller) = Caller::of(headers, &inner.verifier)
        {
            let account = inner.vault.fingerprint(&[b"limit of account", caller.account().uuid().as_bytes()]);
            self.take(limit, account, &mut said).await?;
        }
        Ok(said)
    }

    async fn take(&self, limit: &Limit, who: Hashed, said: &mut Said) -> Result<(), Problem> {
        let taken = limit.take(who, self.shared()).await;
        said.add(limit, taken);
        if taken.allowed {
            return Ok(());
        }
        limit.refused.increment(1);
        let wait = whole_seconds(taken.wait(limit.rate));
        let refused = Problem::of(&problem::TOO_MANY_REQUESTS).header(RETRY_AFTER, HeaderValue::from(wait));
        Err(said.headers().fold(refused, |problem, (name, value)| problem.header(name, value)))
    }
}

/// Lets a request pass, or turns it away.
async fn pass(State(limiter): State<RateLimiter>, request: Request, next: Next) -> Response {
    if !CALLS.iter().any(|calls| request.uri().path().starts_with(calls)) {
        return next.run(request).await;
    }
    let headers = request.headers();
    let known = request.extensions().get::<Trace>().map(|trace| trace.correlation);
    let (language, trace) = (preferred(headers), known.unwrap_or_else(|| Trace::of(headers).correlation));
    match limiter.admit(headers, request.extensions()).await {
        Ok(said) => {
            let mut response = next.run(request).await;
            said.add_to(response.headers_mut());
            response
        }
        // Whoever serves the router may not know how to write a problem.
        Err(problem) => problem.render(language, trace),
    }
}
