//! For operators: purchases that have not come to their end, those that need a person, and what was set aside.

use aggregates::{
    Command, Kind, Language, Note, OrderCommand, OrderId, OrderNumber, OrderStatus, PaymentId, PaymentStatus, Resolution, Sealed,
    Timestamp, order::Placed,
};
use axum::{
    extract::{FromRequestParts, State as Of},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use engine::{Actor, Idempotency, SetAside, Unpark, Unparking};
use http::{HeaderMap, StatusCode, request::Parts};
use projections::{Audience, Checkpoint, Cursor, MOST_ROWS, OrderView, PaymentView, ProcessesQuestion, explain};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    Api,
    answer::{Scope, json},
    body::{Body, Faults},
    caller::{Admin, Caller, OfOrder, OfParked},
    problem::{self, Problem},
    represent::{MoneyShown, OrderBody, OrderStatusBody, Text},
    terms::Terms,
};

/// How many rows a page has when nobody says.
const DEFAULT_FIRST: usize = 20;

/// How many of the inputs that were set aside one answer shows.
const MOST_PARKED: usize = 100;

/// What operators can do with an order that needs a person.
const ACTIONS: &[&str] = &["resume", "compensate", "resolve"];

/// Which part of which list is wanted.
pub(crate) struct Wanted(ProcessesQuestion);

impl<S: Send + Sync> FromRequestParts<S> for Wanted {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        wanted(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn wanted(query: &str) -> Result<ProcessesQuestion, Problem> {
    let invalid = |detail: &'static str| Problem::with(&problem::INVALID_QUERY, detail);
    let mut question = ProcessesQuestion {
        first: DEFAULT_FIRST,
        ..ProcessesQuestion::default()
    };
    for pair in query.split('&') {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("stuck", "true") => question.stuck = Some(true),
            ("stuck", "false") => question.stuck = Some(false),
            ("stuck", _) => return Err(invalid("stuck is true or false")),
            ("first", number) => {
                let first = number.parse().ok().filter(|first| (1..=MOST_ROWS).contains(first));
                question.first = first.ok_or_else(|| invalid("first is a whole number from 1 to 100"))?;
            }
            ("after", cursor) => {
                let cursor = read_cursor(cursor).ok_or_else(|| invalid("after is the next of the page before, as it is"));
                question.after = Some(cursor?);
            }
            _ => {}
        }
    }
    Ok(question)
}

/// Names the last row of a page. The digit is the version of its shape.
fn written_cursor(cursor: Cursor) -> String {
    URL_SAFE_NO_PAD.encode(format!("k1:{}:{}", cursor.at.micros(), cursor.id.simple()))
}

fn read_cursor(text: &str) -> Option<Cursor> {
    // No cursor of ours is longer.
    if text.len() > 128 {
        return None;
    }
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (at, id) = text.strip_prefix("k1:")?.split_once(':')?;
    Some(Cursor {
        at: Timestamp::from_micros(at.parse().ok()?),
        id: id.parse().ok()?,
    })
}

/// Purchases that have not come to their end, oldest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Processes)]
pub(crate) struct ProcessesBody {
    items: Vec<ProcessBody>,
    /// Pass it as `after` to see those that follow; missing on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// How far the log is counted here: what happened later is not seen yet.
    views: Vec<CountedBody>,
}

/// How far a shard's log is counted.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Counted)]
struct CountedBody {
    shard: u16,
    /// The last event that counts.
    position: u64,
    /// When that event was recorded.
    #[schema(value_type = String, format = DateTime)]
    recorded_at: Text<Timestamp>,
}

impl From<Checkpoint> for CountedBody {
    fn from(checkpoint: Checkpoint) -> Self {
        Self {
            shard: checkpoint.shard,
            position: checkpoint.position,
            recorded_at: Text(checkpoint.recorded_at),
        }
    }
}

/// A purchase that has not come to its end.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Process)]
struct ProcessBody {
    /// The order's id: an order has one purchase.
    #[schema(value_type = Uuid)]
    process_id: OrderId,
    #[schema(value_type = Uuid)]
    order_id: OrderId,
    #[schema(value_type = String, example = "2026112100000001")]
    order_number: OrderNumber,
    #[schema(value_type = OrderStatusBody)]
    status: OrderStatus,
    /// Whether it needs a person.
    stuck: bool,
    /// Why it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Whom or what it waits for, in the language of the request.
    waiting_for: String,
    /// Since when it stands where it does.
    #[schema(value_type = String, format = DateTime)]
    since: Text<Timestamp>,
    /// Until when it waits: the deadline to pay, or when it needs a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Text<Timestamp>>,
    /// What follows by itself, and what an operator can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "UNKNOWN")]
    payment_status: Option<PaymentStatus>,
    #[schema(value_type = crate::body::MoneyBody)]
    total: MoneyShown,
    /// What can be posted below it: `/ops/processes/{id}/resume`.
    #[schema(value_type = Vec<String>, example = json!(ACTIONS))]
    actions: &'static [&'static str],
}

impl ProcessBody {
    fn new(order: &OrderView, payment: Option<&PaymentView>, api: &Api, language: Language) -> Self {
        let explained = explain(order, payment, api.settings().stuck_after, Audience::Operator, language);
        let (waiting_for, until, next) = explained.map_or((String::new(), None, None), |explained| {
            (explained.waiting_for, explained.until, Some(explained.next))
        });
        Self {
            process_id: order.id,
            order_id: order.id,
            order_number: order.number.clone(),
            status: order.status,
            stuck: order.stuck(),
            reason: order.attention.reason().map(str::to_owned),
            waiting_for,
            since: Text(order.since),
            until: until.map(Text),
            next,
            payment_status: payment.map(|payment| payment.status),
            total: MoneyShown(order.total),
            actions: if order.stuck() { ACTIONS } else { &[] },
        }
    }
}

/// Purchases that have not come to their end, oldest first: all of them, or those that need a person.
///
/// They are read from the views and waited for by nobody: `views` says how far these are.
#[utoipa::path(get, path = "/ops/processes", operation_id = "processes", tag = "ops",
    params(
        ("stuck" = Option<bool>, Query, description = "true: only those that need a person; false: only the others."),
        ("first" = Option<u32>, Query, description = "How many, 1 to 100; 20 unless said."),
        ("after" = Option<String>, Query, description = "Behind this row: the `next` of the page before.")),
    security(("bearer" = ["ADMIN"])), responses((status = 200, description = "A page of them.", body = ProcessesBody)))]
pub(crate) async fn processes(
    Of(api): Of<Api>,
    Admin(_caller): Admin,
    Wanted(question): Wanted,
    terms: Terms,
) -> Result<Response, Problem> {
    let ask = move |views: &dyn projections::Views| {
        // First how far they are: they may be further by the time the rows are read, and never less far.
        let positions = views.positions()?;
        let page = views.processes_page(&question)?;
        let payment = |order: &OrderView| order.payment.unwrap_or_else(|| PaymentId::for_order(order.id));
        let payments = views.payments(&page.rows.iter().map(payment).collect::<Vec<_>>())?;
        let rows: Vec<_> = page
            .rows
            .into_iter()
            .map(|order| (payments.get(&payment(&order)).cloned(), order))
            .collect();
        Ok((positions, rows, page.more))
    };
    let (positions, rows, more) = api.ask(ask).await?;
    let last = rows.last().map(|(_, order)| written_cursor(order.cursor()));
    let body = ProcessesBody {
        next: last.filter(|_| more),
        items: rows
            .iter()
            .map(|(payment, order)| ProcessBody::new(order, payment.as_ref(), &api, terms.language))
            .collect(),
        views: positions.into_iter().map(CountedBody::from).collect(),
    };
    Ok(shown(&body))
}

/// Nothing more is to be said.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ResumeProcess, example = json!({}))]
pub(crate) struct ResumeBody {}

/// Lets an order that needs a person try again: what comes next is asked for again, and never done twice.
#[utoipa::path(post, path = "/ops/processes/{id}/resume", operation_id = "resumeProcess", tag = "ops", request_body = ResumeBody,
    params(("id" = Uuid, Path, description = "The order.")), security(("bearer" = ["ADMIN"])),
    responses((status = 202, description = "It tries again.", body = OrderBody)))]
pub(crate) async fn resume(
    Of(api): Of<Api>,
    Admin(caller): Admin,
    OfOrder(order): OfOrder,
    terms: Terms,
    Body(body): Body<ResumeBody>,
) -> Result<Response, Problem> {
    let keyed = api.keyed(&terms, &scope(caller, order, "resume"), &body)?;
    api.order_of(order, caller).await?;
    let command = OrderCommand::Resume { by: caller.account() };
    api.operate(caller, order, command, &terms, keyed).await
}

/// Why an order is to be undone.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = CompensateProcess, example = json!({"reason": "the buyer called"}))]
pub(crate) struct CompensateBody {
    #[schema(min_length = 1, max_length = 500)]
    reason: String,
}

/// Has an order that needs a person undone: as soon as it is known what was taken, that goes back.
#[utoipa::path(post, path = "/ops/processes/{id}/compensate", operation_id = "compensateProcess", tag = "ops",
    request_body = CompensateBody, params(("id" = Uuid, Path, description = "The order.")), security(("bearer" = ["ADMIN"])),
    responses((status = 202, description = "It is being undone.", body = OrderBody)))]
pub(crate) async fn compensate(
    Of(api): Of<Api>,
    Admin(caller): Admin,
    OfOrder(order): OfOrder,
    terms: Terms,
    Body(body): Body<CompensateBody>,
) -> Result<Response, Problem> {
    let keyed = api.keyed(&terms, &scope(caller, order, "compensate"), &body)?;
    let reason = api.sealed_reason(order, caller, &body.reason).await?;
    let by = caller.account();
    api.operate(caller, order, OrderCommand::Compensate { by, reason }, &terms, keyed)
        .await
}

/// Where the money is, as it was found at the payment provider.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = Resolution)]
enum OutcomeBody {
    /// It was taken, all of it.
    Charged,
    /// It was not taken, and will not be.
    NotCharged,
    /// It was taken and given back.
    Refunded,
}

impl From<OutcomeBody> for Resolution {
    fn from(outcome: OutcomeBody) -> Self {
        match outcome {
            OutcomeBody::Charged => Self::Charged,
            OutcomeBody::NotCharged => Self::NotCharged,
            OutcomeBody::Refunded => Self::Refunded,
        }
    }
}

/// What an operator found at the payment provider, and how they know.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ResolveProcess, example = json!({"outcome": "NOT_CHARGED", "reason": "not in the provider's books of that day"}))]
pub(crate) struct ResolveBody {
    outcome: OutcomeBody,
    #[schema(min_length = 1, max_length = 500)]
    reason: String,
}

/// Says where the money of an order that needs a person is: this counts where the provider's own word is missing, not against it.
#[utoipa::path(post, path = "/ops/processes/{id}/resolve", operation_id = "resolveProcess", tag = "ops", request_body = ResolveBody,
    params(("id" = Uuid, Path, description = "The order.")), security(("bearer" = ["ADMIN"])),
    responses((status = 202, description = "It goes on from there.", body = OrderBody)))]
pub(crate) async fn resolve(
    Of(api): Of<Api>,
    Admin(caller): Admin,
    OfOrder(order): OfOrder,
    terms: Terms,
    Body(body): Body<ResolveBody>,
) -> Result<Response, Problem> {
    let keyed = api.keyed(&terms, &scope(caller, order, "resolve"), &body)?;
    let reason = api.sealed_reason(order, caller, &body.reason).await?;
    let command = OrderCommand::Resolve {
        by: caller.account(),
        outcome: body.outcome.into(),
        reason,
    };
    api.operate(caller, order, command, &terms, keyed).await
}

fn scope(caller: Caller, order: OrderId, action: &str) -> Scope {
    Scope::new(caller.account().uuid(), "POST", format!("/api/v1/ops/processes/{order}/{action}"))
}

impl Api {
    /// An operator's reason, sealed with the key of the order's buyer: what it says of them is theirs.
    async fn sealed_reason(&self, order: OrderId, caller: Caller, reason: &str) -> Result<Sealed, Problem> {
        let mut faults = Faults::default();
        let Some(reason) = faults.text::<Note>("/reason", reason) else {
            return Err(faults.problem());
        };
        let (_, known) = self.order_of(order, caller).await?;
        let buyer = known.placed().map(|placed: &Placed| placed.buyer);
        let sealed = self.vault().seal(buyer.unwrap_or(caller.account()).uuid(), reason.as_str())?;
        Ok(Sealed::new(sealed))
    }

    async fn operate(
        &self,
        caller: Caller,
        order: OrderId,
        command: OrderCommand,
        terms: &Terms,
        keyed: Option<Idempotency>,
    ) -> Result<Response, Problem> {
        let sent = self
            .send(Command::Order(order, command), Actor::Account(caller.account()), terms, keyed)
            .await?;
        self.answer_order(order, sent, terms).await
    }

    /// Decides what becomes of an input that was set aside.
    async fn unpark(&self, caller: Caller, id: Uuid, how: Unparking, terms: &Terms) -> Result<Response, Problem> {
        if terms.dry_run {
            return Err(Problem::with(&problem::INVALID_QUERY, "this call has no dry run"));
        }
        let by = Actor::Account(caller.account());
        self.engine().unpark(Unpark { id, how, by }).await?.map_err(Problem::refused)?;
        Ok(shown(&UnparkedBody {
            parked_id: id,
            outcome: how.name(),
        }))
    }
}

/// What was set aside because it could not be processed, oldest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Parked)]
pub(crate) struct ParkedBody {
    items: Vec<SetAsideBody>,
    /// Whether there are others, which show when these have come to their end.
    more: bool,
}

/// Where an input came from.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = ParkedFrom)]
enum FromBody {
    /// From outside: its sender was told, and can send it again.
    Request,
    /// From a process of the shop: its order waits for it.
    Process,
}

/// An input that was set aside.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SetAside)]
struct SetAsideBody {
    parked_id: Uuid,
    /// When it was set aside.
    #[schema(value_type = String, format = DateTime)]
    at: Text<Timestamp>,
    from: FromBody,
    /// What it is for; missing when it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "inventory")]
    aggregate_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregate_id: Option<Uuid>,
    /// The order that waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    order_id: Option<OrderId>,
    /// Why it could not be processed.
    reason: String,
    /// What can be posted below it: `/ops/parked/{id}/retry`.
    #[schema(value_type = Vec<String>, example = json!(["retry", "drop"]))]
    actions: &'static [&'static str],
}

impl From<SetAside> for SetAsideBody {
    fn from(input: SetAside) -> Self {
        let again = !input.request && input.target.is_some();
        Self {
            parked_id: input.id,
            at: Text(input.at),
            from: if input.request { FromBody::Request } else { FromBody::Process },
            aggregate_type: input.target.map(|(kind, _): (Kind, Uuid)| kind.name()),
            aggregate_id: input.target.map(|(_, id)| id),
            order_id: input.order,
            reason: input.reason,
            actions: if again { &["retry", "drop"] } else { &["drop"] },
        }
    }
}

/// What became of an input that was set aside.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Unparked)]
pub(crate) struct UnparkedBody {
    parked_id: Uuid,
    #[schema(example = "RETRIED")]
    outcome: &'static str,
}

/// What was set aside because it could not be processed: the oldest hundred. It stops nothing else.
#[utoipa::path(get, path = "/ops/parked", operation_id = "parked", tag = "ops", security(("bearer" = ["ADMIN"])),
    responses((status = 200, description = "What is set aside.", body = ParkedBody)))]
pub(crate) async fn parked(Of(api): Of<Api>, Admin(_caller): Admin) -> Result<Response, Problem> {
    let mut parked = api.engine().parked(MOST_PARKED + 1).await?;
    let more = parked.len() > MOST_PARKED;
    parked.truncate(MOST_PARKED);
    Ok(shown(&ParkedBody {
        items: parked.into_iter().map(SetAsideBody::from).collect(),
        more,
    }))
}

/// The name of what was set aside.
#[derive(Clone, Copy)]
pub(crate) struct ParkedId(Uuid);

impl ParkedId {
    pub(crate) const fn new(id: Uuid) -> Self {
        Self(id)
    }
}

/// Processes what was set aside after all; the order that waits for it goes on. A request from outside is for its sender to repeat.
/// Asked again by the same operator, it is answered again, and nothing is done twice.
#[utoipa::path(post, path = "/ops/parked/{id}/retry", operation_id = "retryParked", tag = "ops",
    params(("id" = Uuid, Path, description = "What was set aside.")), security(("bearer" = ["ADMIN"])),
    responses((status = 200, description = "It is processed.", body = UnparkedBody)))]
pub(crate) async fn retry(
    Of(api): Of<Api>,
    Admin(caller): Admin,
    OfParked(ParkedId(id)): OfParked,
    terms: Terms,
) -> Result<Response, Problem> {
    api.unpark(caller, id, Unparking::Retried, &terms).await
}

/// Gives up what was set aside. It stays recorded, with who decided it. Asked again by the same operator, it is answered again.
#[utoipa::path(post, path = "/ops/parked/{id}/drop", operation_id = "dropParked", tag = "ops",
    params(("id" = Uuid, Path, description = "What was set aside.")), security(("bearer" = ["ADMIN"])),
    responses((status = 200, description = "It is given up.", body = UnparkedBody)))]
pub(crate) async fn give_up(
    Of(api): Of<Api>,
    Admin(caller): Admin,
    OfParked(ParkedId(id)): OfParked,
    terms: Terms,
) -> Result<Response, Problem> {
    api.unpark(caller, id, Unparking::Dropped, &terms).await
}

fn shown(body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).unwrap_or_default();
    json(StatusCode::OK, HeaderMap::new(), body.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_behind_the_row_that_its_cursor_names() {
        let cursor = Cursor {
            at: Timestamp::from_micros(1_700_000_000_000_123),
            id: Uuid::from_u128(7),
        };
        let asked = wanted(&format!("stuck=true&first=5&other=x&after={}", written_cursor(cursor)));
        let question = ProcessesQuestion {
            stuck: Some(true),
            first: 5,
            after: Some(cursor),
        };
        assert!(asked.is_ok_and(|asked| asked == question));
        assert!(wanted("").is_ok_and(|asked| asked.stuck.is_none() && asked.first == DEFAULT_FIRST));
    }

    #[test]
    fn a_page_that_cannot_be_meant_is_refused() {
        for wrong in [
            "stuck=yes",
            "stuck",
            "first=0",
            "first=101",
            "first=-1",
            "first=x",
            "first",
            "after=",
            "after=x",
            "after=azE6MQ",
            "after=%20",
        ] {
            assert!(wanted(wrong).is_err(), "{wrong}");
        }
    }
}
