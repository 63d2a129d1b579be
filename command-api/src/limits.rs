//! Rate limits: how many requests a client and an account may send, over all nodes where they share a count, and else on each by itself.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{FromRequestParts as _, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER, request::Parts};
use metrics::Counter;

use crate::{
    Api,
    caller::{Caller, Client},
    problem::{self, Problem},
    rate::{Buckets, Doubts, Rate, Taken},
    shared::{Hashed, SharedLimits},
    slow_down::Suspect,
};

/// The calls that are limited.
const CALLS: &str = "/api/v1/";
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

/// The limits, as this node knows them.
pub(crate) struct Limited {
    per_client: Option<Limit>,
    per_account: Option<Limit>,
}

struct Limit {
    name: &'static str,
    rate: Rate,
    here: Buckets,
    doubts: Doubts,
    refused: Counter,
}

impl Limited {
    pub(crate) fn new(limits: RateLimits) -> Self {
        Self {
            per_client: Limit::new("client", limits.per_client),
            per_account: Limit::new("account", limits.per_account),
        }
    }

    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        self.per_client.is_some() || self.per_account.is_some()
    }
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

/// Lets a request pass, or turns it away.
pub(crate) async fn pass(State(api): State<Api>, request: Request, next: Next) -> Response {
    if !request.uri().path().starts_with(CALLS) {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    match api.admit(&mut parts).await {
        Ok(said) => {
            let mut response = next.run(Request::from_parts(parts, body)).await;
            said.add_to(response.headers_mut());
            response
        }
        Err(problem) => problem.into_response(),
    }
}

impl Api {
    async fn admit(&self, parts: &mut Parts) -> Result<Said, Problem> {
        let (limited, mut said) = (self.limited(), Said::default());
        if let Some(limit) = &limited.per_client {
            let Ok(Client(client)) = Client::from_request_parts(parts, self).await;
            if let Some(client) = client {
                self.take(limit, Suspect::client(client).hashed(self.vault()), &mut said).await?;
            }
        }
        if let Some(limit) = &limited.per_account
            // Who is nobody is refused by the call, if it is for somebody.
            && let Ok(caller) = Caller::from_request_parts(parts, self).await
        {
            let account = self.vault().fingerprint(&[b"limit of account", caller.account().uuid().as_bytes()]);
            self.take(limit, account, &mut said).await?;
        }
        Ok(said)
    }

    async fn take(&self, limit: &Limit, who: Hashed, said: &mut Said) -> Result<(), Problem> {
        let taken = limit.take(who, self.shared_limits()).await;
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
