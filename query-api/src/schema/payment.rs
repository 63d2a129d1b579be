//! Payments, and the calls that were made for them.

use std::sync::Arc;

use async_graphql::{Context, ID, Object, Result, SimpleObject};
use projections::{Attempt, PaymentView};

use super::{
    Order, reader,
    values::{AttemptKind, AttemptResult, DateTime, Money, PaymentMethod, PaymentStatus},
    viewer,
};

/// How many calls a payment is taken to have when the cost of a question is estimated.
const USUAL_ATTEMPTS: usize = 3;

/// A payment that its viewer may see.
pub(crate) struct Payment(pub(crate) Arc<PaymentView>);

impl Payment {
    /// The payment, if the viewer may see it: whoever sees an order sees what pays it.
    pub(crate) async fn shown(ctx: &Context<'_>, payment: Option<Arc<PaymentView>>) -> Result<Option<Self>> {
        let viewer = viewer(ctx)?;
        let Some(payment) = payment else { return Ok(None) };
        if viewer.owns(payment.buyer) {
            return Ok(Some(Self(payment)));
        }
        if viewer.seller().is_none() {
            return Ok(None);
        }
        let order = reader(ctx)?.load_one(payment.order).await?;
        Ok(order.filter(|order| viewer.sees_order(order)).map(|_| Self(payment)))
    }
}

/// The payment of an order: what was asked of whom, and what came of it.
#[Object]
impl Payment {
    /// Names it.
    pub(crate) async fn id(&self) -> ID {
        self.0.id.into()
    }

    /// How many events it counts.
    async fn version(&self) -> u64 {
        self.0.version
    }

    /// Where it stands.
    async fn status(&self) -> PaymentStatus {
        self.0.status.into()
    }

    /// How it is paid.
    async fn method(&self) -> PaymentMethod {
        self.0.method.into()
    }

    /// How much is to be paid.
    async fn amount(&self) -> Money {
        self.0.amount.into()
    }

    /// How much was given back.
    async fn refunded(&self) -> Money {
        self.0.refunded.into()
    }

    /// The calls to the payment provider, oldest first; of very many, the newest.
    #[graphql(complexity = "USUAL_ATTEMPTS * child_complexity + 1")]
    async fn attempts(&self) -> Vec<PaymentAttempt> {
        self.0.attempts.iter().map(PaymentAttempt::from).collect()
    }

    /// What it pays.
    async fn order(&self, ctx: &Context<'_>) -> Result<Option<Order>> {
        Order::shown(ctx, reader(ctx)?.load_one(self.0.order).await?)
    }

    /// When it last changed.
    async fn updated_at(&self) -> DateTime {
        DateTime(self.0.updated_at)
    }
}

/// One call to the payment provider.
#[derive(SimpleObject)]
pub(crate) struct PaymentAttempt {
    /// What was asked.
    kind: AttemptKind,
    /// Counted from 1, each kind for itself.
    attempt: u32,
    /// When.
    at: DateTime,
    /// What came of it; null while it is under way.
    result: Option<AttemptResult>,
    /// When that was known.
    answered_at: Option<DateTime>,
    /// The provider's code or status, or what happened instead of an answer.
    code: Option<String>,
    /// The provider's words.
    message: Option<String>,
}

impl From<&Attempt> for PaymentAttempt {
    fn from(attempt: &Attempt) -> Self {
        let outcome = attempt.outcome.as_ref();
        Self {
            kind: attempt.kind.into(),
            attempt: attempt.attempt,
            at: DateTime(attempt.at),
            result: outcome.map(|outcome| outcome.result.into()),
            answered_at: outcome.map(|outcome| DateTime(outcome.at)),
            code: outcome.and_then(|outcome| outcome.code.clone()),
            message: outcome.and_then(|outcome| outcome.message.clone()),
        }
    }
}
