//! Orders, and what they are made of.

use std::{sync::Arc, time::Duration};

use aggregates::{Line, PaymentId};
use async_graphql::{Context, ID, Object, Result, SimpleObject};
use projections::{OrderView, explain};
use serde::Deserialize;

use super::{
    Account, Payment, Product, reader,
    values::{DateTime, FailureCode, Money, OrderStatus},
    viewer,
};
use crate::{error::Failed, language::Language, reader::SealedText, viewer::Sight};

/// How long the payment provider may be silent before a person is asked to look.
#[derive(Clone, Copy)]
pub(crate) struct StuckAfter(pub(crate) Duration);

/// How many lines an order is taken to have when the cost of a question is estimated.
const USUAL_LINES: usize = 5;

/// An order that its viewer may see.
pub(crate) struct Order(pub(crate) Arc<OrderView>);

impl Order {
    /// The order, if the viewer may see it; what they may not see is not there.
    pub(crate) fn shown(ctx: &Context<'_>, order: Option<Arc<OrderView>>) -> Result<Option<Self>> {
        let viewer = viewer(ctx)?;
        Ok(order.filter(|order| viewer.sees_order(order)).map(Self))
    }
}

/// What somebody ordered, and what became of it.
#[Object]
impl Order {
    /// Names it.
    pub(crate) async fn id(&self) -> ID {
        self.0.id.into()
    }

    /// For people: the day it was placed, and a number.
    async fn order_number(&self) -> &str {
        self.0.number.as_str()
    }

    /// To follow it without knowing its id.
    async fn tracking_id(&self) -> ID {
        self.0.tracking.into()
    }

    /// Where it stands.
    async fn status(&self) -> OrderStatus {
        self.0.status.into()
    }

    /// How many events it counts; the `ETag` of the order in the REST API.
    async fn version(&self) -> u64 {
        self.0.version
    }

    /// Where to; null once its buyer's data was erased.
    async fn shipping_address(&self, ctx: &Context<'_>) -> Result<Option<Address>> {
        let sealed = SealedText {
            subject: self.0.buyer,
            sealed: self.0.address.clone(),
        };
        let Some(text) = reader(ctx)?.load_one(sealed).await? else {
            return Ok(None);
        };
        let address = serde_json::from_str(&text).map_err(|_| {
            // The parser's words could repeat the text.
            tracing::error!(order = %self.0.id, "a shipping address is not of the shape that is sealed");
            Failed::Internal
        })?;
        Ok(Some(address))
    }

    /// Why it came to nothing, if it did.
    async fn failure(&self, ctx: &Context<'_>) -> Result<Option<Failure>> {
        let language = *ctx.data::<Language>()?;
        Ok(self.0.failure.map(|failure| Failure {
            code: failure.code.into(),
            message: failure.code.message(language),
            product_id: failure.product.map(ID::from),
        }))
    }

    /// When it was placed.
    async fn placed_at(&self) -> DateTime {
        DateTime(self.0.placed_at)
    }

    /// When it last changed.
    async fn updated_at(&self) -> DateTime {
        DateTime(self.0.updated_at)
    }

    /// Who ordered.
    async fn buyer(&self, ctx: &Context<'_>) -> Result<Option<Account>> {
        // Whoever sees the order and is neither its buyer nor an admin sells something in it.
        let sight = viewer(ctx)?.sight(self.0.buyer, Sight::Customer);
        Account::load(ctx, self.0.buyer, sight).await
    }

    /// What.
    #[graphql(complexity = "USUAL_LINES * child_complexity + 1")]
    async fn lines(&self) -> Vec<OrderLine<'_>> {
        self.0.lines.iter().map(OrderLine).collect()
    }

    /// The sum of its lines.
    async fn total(&self) -> Money {
        self.0.total.into()
    }

    /// What pays it, once that was prepared.
    async fn payment(&self, ctx: &Context<'_>) -> Result<Option<Payment>> {
        let payment = self.0.payment.unwrap_or_else(|| PaymentId::for_order(self.0.id));
        Ok(reader(ctx)?.load_one(payment).await?.map(Payment))
    }

    /// What it waits for, until when, and what follows.
    async fn explain(&self, ctx: &Context<'_>) -> Result<Explanation> {
        let order = &self.0;
        let payment = if order.purchase_under_way() {
            let payment = order.payment.unwrap_or_else(|| PaymentId::for_order(order.id));
            reader(ctx)?.load_one(payment).await?
        } else {
            None
        };
        let StuckAfter(stuck_after) = *ctx.data::<StuckAfter>()?;
        let audience = viewer(ctx)?.audience(order);
        let explained = explain(order, payment.as_deref(), stuck_after, audience, *ctx.data::<Language>()?);
        let (waiting_for, until, next) = explained.map_or((None, None, None), |explained| {
            (Some(explained.waiting_for), explained.until, Some(explained.next))
        });
        Ok(Explanation {
            status: order.status.into(),
            waiting_for,
            until: until.map(DateTime),
            next,
        })
    }
}

/// One line of an order.
pub(crate) struct OrderLine<'a>(&'a Line);

/// So many of one product, at one price.
#[Object]
impl OrderLine<'_> {
    /// The product as it is offered now.
    async fn product(&self, ctx: &Context<'_>) -> Result<Option<Product>> {
        Ok(reader(ctx)?.load_one(self.0.product).await?.map(Product))
    }

    /// What it was called when the order was placed.
    async fn product_name(&self) -> &str {
        self.0.name.as_str()
    }

    /// Whose it is.
    async fn seller(&self, ctx: &Context<'_>) -> Result<Option<Account>> {
        let sight = viewer(ctx)?.sight(self.0.seller, Sight::Shop);
        Account::load(ctx, self.0.seller, sight).await
    }

    /// How many.
    async fn quantity(&self) -> u32 {
        self.0.quantity.get()
    }

    /// For one.
    async fn unit_price(&self) -> Money {
        self.0.unit_price.into()
    }

    /// For all of them.
    async fn line_total(&self) -> Result<Money> {
        let total = self.0.total().map_err(|error| {
            tracing::error!(product = %self.0.product, %error, "a line has no total");
            Failed::Internal
        })?;
        Ok(total.into())
    }
}

/// Where an order goes.
#[derive(Deserialize, SimpleObject)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Address {
    /// Who receives it.
    recipient: String,
    /// Street, house and flat.
    street: String,
    /// City.
    city: String,
    /// Postal code.
    postal_code: String,
    /// Whom the courier may call.
    phone: Option<String>,
}

/// Why an order came to nothing.
#[derive(SimpleObject)]
pub(crate) struct Failure {
    /// For programs.
    code: FailureCode,
    /// For people, in the language of `Accept-Language`: Korean or English.
    message: &'static str,
    /// Which product is to blame, where one is.
    product_id: Option<ID>,
}

/// What an order waits for, in the language of `Accept-Language`: Korean or English.
#[derive(SimpleObject)]
pub(crate) struct Explanation {
    /// Where it stands.
    status: OrderStatus,
    /// Who or what has to act; null when nothing more is to happen.
    waiting_for: Option<String>,
    /// Until when: the deadline to pay, or when a person is asked to look; null where there is no bound.
    until: Option<DateTime>,
    /// What follows by itself, and what the asker can do.
    next: Option<String>,
}
