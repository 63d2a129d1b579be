//! Calls of the provider.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use event_store::EffectId;
use payment_gateway::{Cancellation, CancellationOutcome, Charge, ChargeOutcome, PaymentGateway, StatusOutcome, StatusQuery};
use sagas::ProviderCall;
use tokio::sync::Semaphore;
use tracing::{Instrument as _, Span};

use super::{Post, traced::Traces};
use crate::{Input, Outcome};

/// What the provider can be asked, and what can come of it.
const OUTCOMES: [(&str, &[&str]); 3] = [
    ("charge", &["charged", "declined", "unknown"]),
    ("status", &["charged", "cancelled", "not_charged", "not_found", "unknown"]),
    ("cancel", &["cancelled", "refused", "unknown"]),
];

/// Every figure of the calls is there from the start, so that the first of a kind shows as a rise.
pub(super) fn begin_to_count() {
    for (call, outcomes) in OUTCOMES {
        for outcome in outcomes {
            metrics::counter!("jangbu_provider_calls_total", "call" => call, "outcome" => *outcome).increment(0);
        }
    }
    metrics::gauge!("jangbu_provider_calls_under_way").set(0.0);
}

/// Makes the calls, and brings their outcomes to the shard that asked.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) gateway: Arc<dyn PaymentGateway>,
    pub(super) timeout: Duration,
    pub(super) permits: Arc<Semaphore>,
    pub(super) runtime: tokio::runtime::Handle,
}

impl Caller {
    /// Makes the call, as a part of the trace that its order belongs to.
    pub(super) fn call(&self, inbox: &mpsc::Sender<Post>, id: EffectId, call: ProviderCall, traces: &Traces) {
        let span = span(&call, traces);
        let (gateway, permits, inbox, timeout) = (Arc::clone(&self.gateway), Arc::clone(&self.permits), inbox.clone(), self.timeout);
        self.runtime.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let under_way = metrics::gauge!("jangbu_provider_calls_under_way");
            under_way.increment(1.0);
            let begun = Instant::now();
            let asked = tokio::spawn(perform(gateway, call.clone(), timeout).instrument(span.clone())).await;
            let outcome = asked.unwrap_or_else(|_| Outcome::unknown(&call, "the call broke off".to_owned()));
            under_way.decrement(1.0);
            measure(&span, &outcome, begun.elapsed());
            drop(span);
            // An engine that has ended asks again when it starts.
            let _ = inbox.send(Post::Input(Input::Outcome(id, outcome)));
        });
    }
}

fn span(call: &ProviderCall, traces: &Traces) -> Span {
    let (name, order, payment, attempt) = match call {
        ProviderCall::Charge {
            order, payment, attempt, ..
        } => ("charge", order, payment, attempt),
        ProviderCall::Status {
            order, payment, question, ..
        } => ("status", order, payment, question),
        ProviderCall::Cancel {
            order, payment, attempt, ..
        } => ("cancel", order, payment, attempt),
    };
    let span = tracing::debug_span!(
        parent: None,
        "provider",
        otel.name = format!("provider {name}"),
        call = name,
        order = %order,
        payment = %payment,
        attempt,
        outcome = tracing::field::Empty,
    );
    if let Some(traceparent) = traces.of(order.uuid()) {
        trace_context::continue_from(&span, traceparent);
    }
    span
}

fn measure(span: &Span, outcome: &Outcome, took: Duration) {
    let (call, outcome) = named(outcome);
    span.record("outcome", outcome);
    metrics::counter!("jangbu_provider_calls_total", "call" => call, "outcome" => outcome).increment(1);
    metrics::histogram!("jangbu_provider_call_seconds", "call" => call).record(took);
}

/// What was asked, and what came of it.
const fn named(outcome: &Outcome) -> (&'static str, &'static str) {
    match outcome {
        Outcome::Charge(ChargeOutcome::Charged { .. }) => ("charge", "charged"),
        Outcome::Charge(ChargeOutcome::Declined { .. }) => ("charge", "declined"),
        Outcome::Charge(ChargeOutcome::Unknown { .. }) => ("charge", "unknown"),
        Outcome::Status(StatusOutcome::Charged { .. }) => ("status", "charged"),
        Outcome::Status(StatusOutcome::Cancelled) => ("status", "cancelled"),
        Outcome::Status(StatusOutcome::NotCharged { .. }) => ("status", "not_charged"),
        Outcome::Status(StatusOutcome::NotFound) => ("status", "not_found"),
        Outcome::Status(StatusOutcome::Unknown { .. }) => ("status", "unknown"),
        Outcome::Cancel(CancellationOutcome::Cancelled) => ("cancel", "cancelled"),
        Outcome::Cancel(CancellationOutcome::Refused { .. }) => ("cancel", "refused"),
        Outcome::Cancel(CancellationOutcome::Unknown { .. }) => ("cancel", "unknown"),
    }
}

async fn perform(gateway: Arc<dyn PaymentGateway>, call: ProviderCall, timeout: Duration) -> Outcome {
    let answer = tokio::time::timeout(timeout, ask_provider(gateway.as_ref(), &call)).await;
    answer.unwrap_or_else(|_| Outcome::unknown(&call, format!("no answer within {timeout:?}")))
}

async fn ask_provider(gateway: &dyn PaymentGateway, call: &ProviderCall) -> Outcome {
    let idempotency_key = call.idempotency_key();
    match call {
        ProviderCall::Charge {
            order,
            payment_key,
            amount,
            ..
        } => Outcome::Charge(
            gateway
                .charge(Charge {
                    payment_key: payment_key.to_string(),
                    order_reference: order.to_string(),
                    amount: amount.minor(),
                    currency: amount.currency().to_string(),
                    idempotency_key,
                })
                .await,
        ),
        ProviderCall::Status {
            order,
            payment_key,
            amount,
            ..
        } => Outcome::Status(
            gateway
                .status(StatusQuery {
                    payment_key: payment_key.to_string(),
                    order_reference: order.to_string(),
                    currency: amount.currency().to_string(),
                })
                .await,
        ),
        ProviderCall::Cancel { payment_key, amount, .. } => Outcome::Cancel(
            gateway
                .cancel(Cancellation {
                    payment_key: payment_key.to_string(),
                    reason: "the order was cancelled".to_owned(),
                    amount: amount.minor(),
                    currency: amount.currency().to_string(),
                    idempotency_key,
                })
                .await,
        ),
    }
}
