//! What is remembered of a request whose trace is collected: when it came to what, and which trace the calls for its order belong to.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aggregates::Kind;
use rustc_hash::FxHashMap;
use tracing::Span;
use uuid::Uuid;

use crate::{EngineError, Request, Response};

/// So many orders' traces are remembered: a call of the provider follows within moments, or nobody looks at its trace any more.
const MOST_ORDERS: usize = 4_096;

/// The span that covers a request from its place in the queue to its answer.
pub(super) fn span(request: &Request, shard: u16) -> Span {
    let (kind, id) = request.command.target();
    // An address's stream is named by its blind index, which stands for a person for ever: that leaves nowhere.
    let id = Some(id).filter(|_| kind != Kind::Email).map(tracing::field::display);
    tracing::debug_span!(
        "execute",
        otel.name = format!("execute {}", kind.name()),
        aggregate = kind.name(),
        id,
        shard,
        correlation = %request.cause.correlation.simple(),
        version = tracing::field::Empty,
        outcome = tracing::field::Empty,
        batch.events = tracing::field::Empty,
    )
}

/// A request on its way through the engine.
pub(super) struct Traced {
    span: Span,
    traceparent: Arc<str>,
    put: SystemTime,
    taken: SystemTime,
}

impl Traced {
    /// None when nobody collects this request's trace, so that it costs nothing.
    pub(super) fn begin(span: &Span) -> Option<Box<Self>> {
        let traceparent = trace_context::of(span)?;
        let now = SystemTime::now();
        Some(Box::new(Self {
            span: span.clone(),
            traceparent: traceparent.into(),
            put: now,
            taken: now,
        }))
    }

    pub(super) fn traceparent(&self) -> &str {
        &self.traceparent
    }

    /// The core takes it up.
    pub(super) fn taken(&mut self) {
        self.taken = SystemTime::now();
    }

    /// The answer leaves, on this batch if it stands on one.
    pub(super) fn answered(&self, batch: Option<&Batch>, answer: &Result<Response, EngineError>) {
        trace_context::record(&self.span, "queue", self.put, self.taken, &[]);
        // A batch that was given out before it was taken holds nothing of it.
        match batch.filter(|batch| batch.given_out >= self.taken) {
            Some(batch) => {
                let events = i64::try_from(batch.events).unwrap_or(i64::MAX);
                self.span.record("batch.events", events);
                trace_context::record(&self.span, "decide", self.taken, batch.given_out, &[]);
                let figures = [("batch.events", events), ("batch.shard", i64::from(batch.shard))];
                trace_context::record(&self.span, "commit", batch.given_out, batch.durable, &figures);
            }
            None => trace_context::record(&self.span, "decide", self.taken, SystemTime::now(), &[]),
        }
        match answer {
            Ok(Response::Reply(reply)) => {
                self.span.record("version", reply.answer.version);
                let refused = reply.answer.result.as_ref().err();
                let outcome = refused.map_or("done", |refusal| refusal.code.as_ref());
                self.span.record("outcome", if reply.replayed { "replayed" } else { outcome });
            }
            Ok(_) => {}
            Err(error) => {
                self.span.record("outcome", error.name());
            }
        }
    }
}

/// A batch on its way to the disk, and there.
pub(super) struct Batch {
    pub(super) shard: u16,
    pub(super) events: usize,
    pub(super) given_out: SystemTime,
    pub(super) durable: SystemTime,
}

impl Batch {
    pub(super) fn given_out(batch: &event_store::Batch) -> Self {
        let now = SystemTime::now();
        Self {
            shard: batch.shard,
            events: batch.events.len(),
            given_out: now,
            durable: now,
        }
    }

    pub(super) fn durable(mut self) -> Self {
        self.durable = SystemTime::now().max(self.given_out);
        self
    }

    /// How long it took.
    pub(super) fn took(&self) -> Duration {
        self.durable.duration_since(self.given_out).unwrap_or_default()
    }
}

/// The traces that the calls of the provider belong to, by order.
#[derive(Default)]
pub(super) struct Traces {
    by_order: FxHashMap<Uuid, Arc<str>>,
    oldest_first: VecDeque<Uuid>,
}

impl Traces {
    /// What follows for the order of this request belongs to its trace.
    pub(super) fn remember(&mut self, request: &Request, traced: &Traced) {
        let Some(order) = sagas::order_of(&request.command) else { return };
        if self.by_order.insert(order.uuid(), Arc::clone(&traced.traceparent)).is_none() {
            self.oldest_first.push_back(order.uuid());
        }
        if self.oldest_first.len() > MOST_ORDERS
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.by_order.remove(&oldest);
        }
    }

    pub(super) fn of(&self, order: Uuid) -> Option<&str> {
        self.by_order.get(&order).map(AsRef::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use aggregates::{AccountId, Command, Currency, OrderCommand, OrderId, PaymentId, WalletCommand};

    use super::*;
    use crate::{Actor, Cause};

    fn request(command: Command) -> Request {
        let cause = Cause {
            actor: Actor::System,
            correlation: Uuid::nil(),
            traceparent: None,
        };
        Request::new(command, cause)
    }

    fn about(order: u128) -> Request {
        let order = OrderId::new(Uuid::from_u128(order));
        request(Command::Order(
            order,
            OrderCommand::Confirm {
                payment: PaymentId::for_order(order),
            },
        ))
    }

    fn traced() -> Traced {
        Traced {
            span: Span::none(),
            traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
            put: SystemTime::UNIX_EPOCH,
            taken: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_traces_of_the_newest_orders_are_remembered() {
        let mut traces = Traces::default();
        for order in 0..=MOST_ORDERS as u128 {
            traces.remember(&about(order), &traced());
            traces.remember(&about(order), &traced());
        }
        assert_eq!(traces.by_order.len(), MOST_ORDERS);
        assert_eq!(traces.oldest_first.len(), MOST_ORDERS);
        assert!(traces.of(Uuid::from_u128(0)).is_none());
        assert!(traces.of(Uuid::from_u128(1)).is_some());
    }

    #[test]
    fn what_belongs_to_no_order_is_not_remembered() {
        let mut traces = Traces::default();
        let open = Command::Wallet(AccountId::new(Uuid::nil()), WalletCommand::Open { currency: Currency::KRW });
        traces.remember(&request(open), &traced());
        assert!(traces.by_order.is_empty());
    }

    #[test]
    fn nobody_collects_what_has_no_span() {
        assert!(Traced::begin(&Span::none()).is_none());
    }
}
