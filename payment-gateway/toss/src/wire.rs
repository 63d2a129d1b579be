//! The bodies of the Toss Payments wire API, as far as this client reads and writes them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The body of `POST /v1/payments/confirm`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Confirm<'a> {
    pub(crate) payment_key: &'a str,
    pub(crate) order_id: &'a str,
    pub(crate) amount: &'a RawValue,
}

/// The body of `POST /v1/payments/{paymentKey}/cancel`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cancel<'a> {
    pub(crate) cancel_reason: &'a str,
    pub(crate) cancel_amount: &'a RawValue,
}

/// A payment, the answer to every call that succeeds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Payment<'a> {
    #[serde(borrow, rename = "paymentKey")]
    pub(crate) key: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) order_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) status: Cow<'a, str>,
    #[serde(borrow)]
    total_amount: Option<&'a RawValue>,
    #[serde(borrow)]
    balance_amount: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) currency: Option<Cow<'a, str>>,
    #[serde(borrow)]
    cancels: Option<Vec<PastCancel<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PastCancel<'a> {
    #[serde(borrow)]
    cancel_amount: &'a RawValue,
    /// `DONE`, or that it is still on its way or has failed; older versions of the API do not say it.
    #[serde(borrow)]
    cancel_status: Option<Cow<'a, str>>,
}

/// Why a call was refused.
#[derive(Deserialize)]
pub(crate) struct Failure {
    pub(crate) code: String,
    #[serde(default)]
    pub(crate) message: String,
}

impl Payment<'_> {
    /// The amount that was charged in minor units; none when it cannot be read exactly.
    pub(crate) fn total(&self) -> Option<i64> {
        crate::amount::from_wire(self.total_amount?.get(), self.currency.as_deref()?)
    }

    /// What is left of it after cancellations, in minor units; none when it cannot be read exactly.
    pub(crate) fn balance(&self) -> Option<i64> {
        crate::amount::from_wire(self.balance_amount?.get(), self.currency.as_deref()?)
    }

    /// Whether one of the payment's cancellations gave back exactly this amount.
    pub(crate) fn gave_back(&self, amount: i64) -> bool {
        let Some(currency) = self.currency.as_deref() else { return false };
        self.cancels
            .iter()
            .flatten()
            .filter(|cancel| cancel.cancel_status.as_deref().is_none_or(|status| status == "DONE"))
            .any(|cancel| crate::amount::from_wire(cancel.cancel_amount.get(), currency) == Some(amount))
    }
}
