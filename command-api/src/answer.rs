//! From a command to its answer: the key that makes a repeat harmless, the engine, the headers.

use std::{borrow::Cow, collections::BTreeSet, time::Duration};

use aggregates::{Command, Kind, OrderId, State};
use axum::response::Response;
use bytes::Bytes;
use engine::{Actor, Answer, Cause, ConsistencyToken, Idempotency, Planned, Reply, Request, Until, Versioned};
use event_store::RecordKey;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, ETAG},
};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    Api, kept,
    language::Language,
    problem::{self, Problem},
    represent::{represent, with_failure_message},
    shared::AnswerName,
    terms::{Terms, preference_applied},
};

/// The names that requests create are derived from this one.
const NAMESPACE: Uuid = Uuid::from_u128(0x6a61_6e67_6275_5f63_8f6d_6d61_6e64_7301);

const CONSISTENCY_TOKEN: HeaderName = HeaderName::from_static("consistency-token");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Where an idempotency key counts.
pub(crate) struct Scope {
    account: Uuid,
    method: &'static str,
    path: Cow<'static, str>,
}

impl Scope {
    /// A call of this account; nil when nobody is logged in.
    pub(crate) fn new(account: Uuid, method: &'static str, path: impl Into<Cow<'static, str>>) -> Self {
        Self {
            account,
            method,
            path: path.into(),
        }
    }

    /// The id of what this request creates: derived from its key, so that a repeat names the same; else a new one.
    pub(crate) fn created_id(&self, terms: &Terms) -> Uuid {
        match terms.key().filter(|_| !terms.dry_run) {
            Some(key) => Uuid::new_v5(
                &NAMESPACE,
                format!("{} {} {} {key}", self.account, self.method, self.path).as_bytes(),
            ),
            None => Uuid::now_v7(),
        }
    }
}

/// A command's answer, and the trace that it belongs to.
pub(crate) struct Sent {
    answer: Answer,
    replayed: bool,
    /// The aggregate now; none when the answer is an earlier one.
    latest: Option<Versioned>,
    planned: Vec<Planned>,
    correlation: Uuid,
}

impl Sent {
    fn new(reply: Reply, correlation: Uuid) -> Self {
        Self {
            answer: reply.answer,
            replayed: reply.replayed,
            latest: (!reply.replayed).then_some(reply.latest),
            planned: reply.planned,
            correlation,
        }
    }

    /// An answer that was recorded before.
    fn again(answer: Answer, correlation: Uuid) -> Self {
        Self {
            answer,
            replayed: true,
            latest: None,
            planned: Vec::new(),
            correlation,
        }
    }

    /// A refusal is a problem.
    fn or_refused(mut self, dry_run: bool) -> Result<Self, Problem> {
        match std::mem::replace(&mut self.answer.result, Ok(Box::default())) {
            Ok(body) => {
                self.answer.result = Ok(body);
                Ok(self)
            }
            Err(refusal) => {
                let mut headers = HeaderMap::new();
                if !dry_run {
                    headers = answer_headers(&self.answer, self.replayed);
                }
                let refused = Problem::refused(refusal).trace(self.correlation);
                Err(headers
                    .iter()
                    .fold(refused, |problem, (name, value)| problem.header(name.clone(), value.clone())))
            }
        }
    }
}

impl Api {
    /// The key of this request and its body, hashed; none when it has no key or is a dry run.
    ///
    /// The body is hashed as it was understood: white space and the order of its members make no other request.
    pub(crate) fn keyed(&self, terms: &Terms, scope: &Scope, body: &impl Serialize) -> Result<Option<Idempotency>, Problem> {
        let Some(key) = terms.key().filter(|_| !terms.dry_run) else {
            return Ok(None);
        };
        let vault = self.vault();
        let canonical = serde_json::to_vec(body).map_err(|_| Problem::of(&problem::INTERNAL))?;
        let record = vault.fingerprint(&[
            scope.account.as_bytes(),
            scope.method.as_bytes(),
            scope.path.as_bytes(),
            key.as_bytes(),
        ]);
        Ok(Some(Idempotency {
            key: key.to_owned(),
            record: RecordKey(record),
            fingerprint: vault.fingerprint(&[&canonical]),
        }))
    }

    /// Sends a command and waits for its own answer. A refusal is a problem.
    pub(crate) async fn send(&self, command: Command, actor: Actor, terms: &Terms, keyed: Option<Idempotency>) -> Result<Sent, Problem> {
        let _entered = match &keyed {
            Some(keyed) => Some(
                self.in_flight()
                    .enter(keyed.record.0)
                    .ok_or_else(|| Problem::of(&problem::REQUEST_IN_FLIGHT))?,
            ),
            None => None,
        };
        // Without a trace of its sender's, all repeats of one request belong together.
        let correlation = match (&terms.trace.parent, &keyed) {
            (None, Some(keyed)) => Uuid::new_v8(keyed.record.0),
            _ => terms.trace.correlation,
        };
        let name = keyed.as_ref().map(answer_name);
        if let Some(answer) = self.kept_answer(name).await {
            return Sent::again(answer, correlation).or_refused(terms.dry_run);
        }
        let cause = Cause {
            actor,
            correlation,
            traceparent: terms.trace.parent.clone(),
        };
        let request = Request {
            command,
            cause,
            idempotency: keyed,
            if_match: terms.if_match,
            dry_run: terms.dry_run,
        };
        let reply = self
            .engine()
            .execute(request)
            .await
            .map_err(|error| Problem::from(error).trace(correlation))?;
        self.keep_answer(name, &reply.answer);
        Sent::new(reply, correlation).or_refused(terms.dry_run)
    }

    /// The answer that was recorded for this request, where all nodes keep it. Whatever is in doubt there is the engine's to say.
    async fn kept_answer(&self, name: Option<AnswerName>) -> Option<Answer> {
        let kept = self.kept_answers()?.find(name?).await?;
        let answer = kept::decode(self.engine().log_id(), &kept)?;
        // A log that was put back to a copy of itself has lost what was answered after that.
        let there = answer.token.position <= self.engine().durable(answer.token.shard);
        there.then_some(answer)
    }

    fn keep_answer(&self, name: Option<AnswerName>, answer: &Answer) {
        if let (Some(kept), Some(name)) = (self.kept_answers(), name)
            && let Some(bytes) = kept::encode(answer)
        {
            kept.keep(name, &bytes);
        }
    }

    /// The answer to a command that nobody waits for the end of.
    pub(crate) fn answer(sent: Sent, status: StatusCode, terms: &Terms) -> Response {
        if terms.dry_run {
            return planned(&sent.planned);
        }
        let headers = answer_headers(&sent.answer, sent.replayed);
        json(
            status,
            headers,
            with_failure_message(sent.answer.result.unwrap_or_default(), terms.language),
        )
    }

    /// The answer to an order's command: 202, or with `Prefer: wait` 200 once the purchase has settled.
    pub(crate) async fn answer_order(&self, order: OrderId, sent: Sent, terms: &Terms) -> Result<Response, Problem> {
        let Some(wait) = terms.wait.filter(|_| !terms.dry_run) else {
            return Ok(Self::answer(sent, StatusCode::ACCEPTED, terms));
        };
        // Too many wait already: this one has its answer at once.
        let Ok(_waits) = self.waits().try_acquire() else {
            return Ok(Self::answer(sent, StatusCode::ACCEPTED, terms));
        };
        let mut headers = answer_headers(&sent.answer, sent.replayed);
        headers.insert(PREFERENCE_APPLIED, preference_applied(wait));
        let latest = match sent.latest.clone() {
            Some(latest) => Some(latest),
            None => self.now_of(order, sent.correlation).await?,
        };
        let (settled, versioned) = match self.settled(order, latest.as_ref(), wait).await {
            Some(versioned) => (true, Some(versioned)),
            None => (false, self.now_of(order, sent.correlation).await?),
        };
        let Some(versioned) = versioned else {
            return Ok(Self::answer(sent, StatusCode::ACCEPTED, terms));
        };
        headers.insert(ETAG, etag(versioned.version));
        self.insert_tokens_of(&mut headers, sent.answer.token, keys_of(order, &versioned.state));
        let status = if settled { StatusCode::OK } else { StatusCode::ACCEPTED };
        Ok(json(status, headers, shown(Kind::Order, order.uuid(), &versioned, terms.language)))
    }

    /// The answer to a command after what it led to elsewhere: a view that shows its tokens shows what has these keys as it is now.
    pub(crate) fn answer_for(&self, sent: Sent, status: StatusCode, terms: &Terms, keys: impl IntoIterator<Item = Uuid>) -> Response {
        let own = sent.answer.token;
        let mut response = Self::answer(sent, status, terms);
        self.insert_tokens_of(response.headers_mut(), own, keys);
        response
    }

    /// A token for the command's own shard, and one for each that keeps one of these.
    fn insert_tokens_of(&self, headers: &mut HeaderMap, own: ConsistencyToken, keys: impl IntoIterator<Item = Uuid>) {
        let shards = self.engine().shards();
        let kept: BTreeSet<_> = keys.into_iter().map(|key| shards.of(key)).chain([own.shard]).collect();
        let tokens: Vec<_> = kept.into_iter().map(|shard| self.token(own, shard)).collect();
        insert_tokens(headers, &tokens);
    }

    /// A view that shows this shows all of a shard that is durable now, as far as the engines have said. They say it before they answer.
    ///
    /// An order that was waited for has moved on since its command, often by another batch, and its goods and its buyer's balance may be
    /// kept by other shards. A token of the command's own place would let the views show it as it was before.
    fn token(&self, own: ConsistencyToken, shard: u16) -> ConsistencyToken {
        let durable = self.engine().durable(shard);
        let decided = if shard == own.shard { own.position } else { 0 };
        ConsistencyToken {
            shard,
            position: durable.max(decided),
            ..own
        }
    }

    /// The order as it is.
    async fn now_of(&self, order: OrderId, correlation: Uuid) -> Result<Option<Versioned>, Problem> {
        let read = self.engine().read(Kind::Order, order.uuid()).await;
        read.map_err(|error| Problem::from(error).trace(correlation))
    }

    /// The order once it has settled, if that happens in time.
    async fn settled(&self, order: OrderId, latest: Option<&Versioned>, wait: Duration) -> Option<Versioned> {
        if let Some(latest) = latest.filter(|latest| Until::OrderSettled.holds()(&latest.state)) {
            return Some(latest.clone());
        }
        let watch = self.engine().watch(Kind::Order, order.uuid(), Until::OrderSettled);
        tokio::time::timeout(wait, watch).await.ok()?.ok()
    }
}

fn answer_name(keyed: &Idempotency) -> AnswerName {
    AnswerName {
        record: keyed.record.0,
        fingerprint: keyed.fingerprint,
    }
}

/// What an order leads to is kept with these.
fn keys_of(order: OrderId, state: &State) -> Vec<Uuid> {
    let mut keys = vec![order.uuid()];
    if let State::Order(order) = state {
        keys.extend(order.placed().map(|placed| placed.buyer.uuid()));
        keys.extend(order.lines().iter().map(|line| line.product.uuid()));
    }
    keys
}

/// An aggregate as it is, in the language of the request.
pub(crate) fn shown(kind: Kind, id: Uuid, versioned: &Versioned, language: Language) -> Box<[u8]> {
    with_failure_message(represent(kind, id, &versioned.state, versioned.version).into(), language)
}

/// The answer that shows an aggregate, with its version.
pub(crate) fn showing(kind: Kind, id: Uuid, versioned: &Versioned, language: Language) -> Response {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(ETAG, etag(versioned.version));
    json(StatusCode::OK, headers, shown(kind, id, versioned, language))
}

fn answer_headers(answer: &Answer, replayed: bool) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(6);
    headers.insert(ETAG, etag(answer.version));
    insert_tokens(&mut headers, &[answer.token]);
    if replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    headers
}

/// Where several shards have to be waited for, one token for each: a list as HTTP has it.
fn insert_tokens(headers: &mut HeaderMap, tokens: &[ConsistencyToken]) {
    let list: Vec<_> = tokens.iter().map(ConsistencyToken::to_string).collect();
    if let Ok(list) = HeaderValue::try_from(list.join(", ")) {
        headers.insert(CONSISTENCY_TOKEN, list);
    }
}

fn etag(version: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"0\""))
}

/// What a dry run answers: the events that would be recorded.
fn planned(events: &[Planned]) -> Response {
    #[derive(Serialize)]
    struct Events<'a> {
        events: &'a [Planned],
    }
    let body = serde_json::to_vec(&Events { events }).unwrap_or_default();
    json(StatusCode::OK, HeaderMap::new(), body.into())
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, mut headers: HeaderMap, body: Box<[u8]>) -> Response {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut response = Response::new(Bytes::from(body).into());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
