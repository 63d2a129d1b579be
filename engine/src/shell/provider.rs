//! Calls of the provider.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use event_store::EffectId;
use payment_gateway::{Cancellation, Charge, PaymentGateway, StatusQuery};
use sagas::ProviderCall;
use tokio::sync::Semaphore;

use super::Post;
use crate::{Input, Outcome};

/// Makes the calls, and brings their outcomes to the shard that asked.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) gateway: Arc<dyn PaymentGateway>,
    pub(super) timeout: Duration,
    pub(super) permits: Arc<Semaphore>,
    pub(super) runtime: tokio::runtime::Handle,
}

impl Caller {
    pub(super) fn call(&self, inbox: &mpsc::Sender<Post>, id: EffectId, call: ProviderCall) {
        let (gateway, permits, inbox, timeout) = (Arc::clone(&self.gateway), Arc::clone(&self.permits), inbox.clone(), self.timeout);
        self.runtime.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let asked = tokio::spawn(perform(gateway, call.clone(), timeout)).await;
            let outcome = asked.unwrap_or_else(|_| Outcome::unknown(&call, "the call broke off".to_owned()));
            // An engine that has ended asks again when it starts.
            let _ = inbox.send(Post::Input(Input::Outcome(id, outcome)));
        });
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
        ProviderCall::Status { order, payment_key, .. } => Outcome::Status(
            gateway
                .status(StatusQuery {
                    payment_key: payment_key.to_string(),
                    order_reference: order.to_string(),
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
