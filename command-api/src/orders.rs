//! Orders: placing, looking, paying, cancelling.

use aggregates::{
    Command, Currency, Kind, Money, Name, Note, Order, OrderCommand, OrderId, OrderStatus, PaymentKey, PaymentMethod, PersonName, Phone,
    PlaceOrder, ProductId, Quantity, RequestedLine, Role, Sealed, State, TextError, Timestamp, TrackingId,
    order::{MOST_LINES, Placed},
};
use axum::{extract::State as Of, response::Response};
use engine::{Actor, Until, Versioned};
use serde::{Deserialize, Serialize};
use std::{str::FromStr, sync::Arc, time::Duration};
use utoipa::ToSchema;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    Api,
    answer::{Scope, showing},
    body::{Body, Faults, MethodBody, MoneyBody},
    caller::{Buyer, Caller, Canceller, OfOrder},
    problem::{self, Problem},
    represent::OrderBody,
    terms::Terms,
};

/// What is bought in one line.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = OrderedLine)]
struct LineBody {
    product_id: Uuid,
    #[schema(minimum = 1, maximum = 1_000_000)]
    quantity: i64,
    /// The price that the buyer saw: the order ends as `PRICE_MISMATCH` when it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    unit_price: Option<MoneyBody>,
}

/// Where to.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ShippingAddress)]
struct AddressBody {
    #[schema(min_length = 1, max_length = 100)]
    recipient: String,
    #[schema(min_length = 1, max_length = 500)]
    street: String,
    #[schema(min_length = 1, max_length = 200)]
    city: String,
    #[schema(min_length = 1, max_length = 20)]
    postal_code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone: Option<String>,
}

/// How it is paid.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ChosenPayment)]
struct PaymentBody {
    method: MethodBody,
    /// The provider's authorisation, when the buyer has it already; only with `CARD`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    payment_key: Option<String>,
}

/// A new order.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = PlaceOrder, example = json!({
    "lines": [{"productId": "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", "quantity": 3}],
    "total": {"amount": 15000, "currency": "KRW"},
    "shippingAddress": {"recipient": "김민지", "street": "세종대로 110", "city": "서울", "postalCode": "04524"},
    "payment": {"method": "BALANCE"}}))]
pub(crate) struct PlaceBody {
    /// Each product once.
    #[schema(min_items = 1, max_items = 100)]
    lines: Vec<LineBody>,
    /// The total that the buyer saw: the order ends as `PRICE_MISMATCH` when it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<MoneyBody>,
    shipping_address: AddressBody,
    payment: PaymentBody,
}

/// An address whose parts are right: what is sealed, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Address<'a> {
    recipient: &'a str,
    street: &'a str,
    city: &'a str,
    postal_code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone: Option<&'a str>,
}

impl AddressBody {
    fn parse(&self, faults: &mut Faults) -> Option<Zeroizing<String>> {
        let recipient: Option<PersonName> = faults.text("/shippingAddress/recipient", &self.recipient);
        let street: Option<Note> = faults.text("/shippingAddress/street", &self.street);
        let city: Option<Name> = faults.text("/shippingAddress/city", &self.city);
        let postal_code: Option<PostalCode> = faults.text("/shippingAddress/postalCode", &self.postal_code);
        let phone: Option<Option<Phone>> = faults.optional_text("/shippingAddress/phone", self.phone.as_deref());
        let (recipient, street, city, postal_code, phone) = (recipient?, street?, city?, postal_code?, phone?);
        let address = Address {
            recipient: recipient.expose(),
            street: street.as_str(),
            city: city.as_str(),
            postal_code: postal_code.0.as_str(),
            phone: phone.as_ref().map(Phone::expose),
        };
        serde_json::to_string(&address).ok().map(Zeroizing::new)
    }
}

struct PostalCode(Name);

impl FromStr for PostalCode {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        if text.trim().chars().count() > 20 {
            return Err(TextError::TooLong(20));
        }
        text.parse().map(Self)
    }
}

impl PlaceBody {
    fn into_command(self, api: &Api, buyer: Caller, order: OrderId) -> Result<OrderCommand, Problem> {
        let mut faults = Faults::default();
        if self.lines.is_empty() || self.lines.len() > MOST_LINES {
            faults.add(&problem::LINE_COUNT, "/lines", "an order has 1 to 100 lines");
            return Err(faults.problem());
        }
        let shop = api.settings().currency;
        let lines = self
            .lines
            .iter()
            .enumerate()
            .filter_map(|(index, line)| line.parse(index, shop, &mut faults))
            .collect();
        let stated_total = self.total.and_then(|total| faults.money(|| "/total".to_owned(), total, shop));
        let address = self.shipping_address.parse(&mut faults);
        let payment_key = self.payment.parse(&mut faults);
        let (Some(address), Some(payment_key)) = (address, payment_key) else {
            return Err(faults.problem());
        };
        faults.none()?;
        Ok(OrderCommand::Place(Box::new(PlaceOrder {
            buyer: buyer.account(),
            lines,
            stated_total,
            address: api.vault().seal(buyer.account().uuid(), &address).map(Sealed::new)?,
            method: self.payment.method.into(),
            payment_key,
            number: None,
            tracking: TrackingId::for_order(order),
            at: api.engine().now(),
        })))
    }
}

impl LineBody {
    fn parse(&self, index: usize, shop: Currency, faults: &mut Faults) -> Option<RequestedLine> {
        let stated_price = match self.unit_price {
            Some(price) => Some(faults.money(|| format!("/lines/{index}/unitPrice"), price, shop)?),
            None => None,
        };
        match Quantity::parse(self.quantity) {
            Ok(quantity) => Some(RequestedLine {
                product: ProductId::new(self.product_id),
                quantity,
                stated_price,
                offer: None,
            }),
            Err(error) => {
                faults.add(
                    &problem::QUANTITY_OUT_OF_RANGE,
                    format!("/lines/{index}/quantity"),
                    error.to_string(),
                );
                None
            }
        }
    }
}

impl PaymentBody {
    #[expect(clippy::option_option, reason = "nothing wrong, and nothing there")]
    fn parse(&self, faults: &mut Faults) -> Option<Option<PaymentKey>> {
        if self.payment_key.is_some() && PaymentMethod::from(self.method) == PaymentMethod::Balance {
            faults.add(
                &problem::PAYMENT_KEY_NOT_ALLOWED,
                "/payment/paymentKey",
                "an order paid from the balance has no payment key",
            );
            return None;
        }
        faults.optional_text("/payment/paymentKey", self.payment_key.as_deref())
    }
}

/// Places an order. Repeating the request with the same `Idempotency-Key` places it once.
///
/// Prices, stock and payment are decided by the purchase that begins with it: `Prefer: wait=N` waits for its outcome.
#[utoipa::path(post, path = "/orders", operation_id = "placeOrder", tag = "orders", request_body = PlaceBody,
    security(("bearer" = ["BUYER"])), responses((status = 202, description = "Placed; the purchase goes on.", body = OrderBody)))]
pub(crate) async fn place(Of(api): Of<Api>, Buyer(buyer): Buyer, terms: Terms, Body(body): Body<PlaceBody>) -> Result<Response, Problem> {
    terms.required_key()?;
    let scope = Scope::new(buyer.account().uuid(), "POST", "/api/v1/orders");
    let keyed = api.keyed(&terms, &scope, &body)?;
    let order = OrderId::new(scope.created_id(&terms));
    let command = Command::Order(order, body.into_command(&api, buyer, order)?);
    let sent = api.send(command, Actor::Account(buyer.account()), &terms, keyed).await?;
    let mut response = api.answer_order(order, sent, &terms).await?;
    if let (false, Ok(location)) = (terms.dry_run, format!("/api/v1/orders/{order}").parse()) {
        response.headers_mut().insert(http::header::LOCATION, location);
    }
    Ok(response)
}

/// An order as it is now, never stale. A foreign one is as unknown as none.
#[utoipa::path(get, path = "/orders/{id}", operation_id = "order", tag = "orders",
    params(("id" = Uuid, Path, description = "The order.")), security(("bearer" = [])),
    responses((status = 200, description = "The order.", body = OrderBody)))]
pub(crate) async fn look(Of(api): Of<Api>, caller: Caller, OfOrder(order): OfOrder, terms: Terms) -> Result<Response, Problem> {
    let (versioned, _) = api.order_of(order, caller).await?;
    Ok(showing(Kind::Order, order.uuid(), &versioned, terms.language))
}

/// A payment of an order that waits for it.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = PayOrder, example = json!({"paymentKey": "sim_ok_1", "amount": {"amount": 15000, "currency": "KRW"}}))]
pub(crate) struct PayBody {
    /// The provider's authorisation.
    #[schema(min_length = 1, max_length = 200)]
    payment_key: String,
    /// What the buyer believes to pay: must be the order's total.
    amount: MoneyBody,
}

impl PayBody {
    fn into_command(self, shop: Currency, at: Timestamp) -> Result<OrderCommand, Problem> {
        let mut faults = Faults::default();
        let payment_key: Option<PaymentKey> = faults.text("/paymentKey", &self.payment_key);
        let amount: Option<Money> = faults.money(|| "/amount".to_owned(), self.amount, shop);
        match (payment_key, amount) {
            (Some(payment_key), Some(amount)) => Ok(OrderCommand::SubmitPayment { payment_key, amount, at }),
            _ => Err(faults.problem()),
        }
    }
}

/// Pays an order with the provider's authorisation. A wrong amount leaves the order as it is.
#[utoipa::path(post, path = "/orders/{id}/payment", operation_id = "payOrder", tag = "orders", request_body = PayBody,
    params(("id" = Uuid, Path, description = "The order.")), security(("bearer" = ["BUYER"])),
    responses((status = 202, description = "The provider is asked.", body = OrderBody)))]
pub(crate) async fn pay(
    Of(api): Of<Api>,
    Buyer(buyer): Buyer,
    OfOrder(order): OfOrder,
    terms: Terms,
    Body(body): Body<PayBody>,
) -> Result<Response, Problem> {
    terms.required_key()?;
    let scope = Scope::new(buyer.account().uuid(), "POST", format!("/api/v1/orders/{order}/payment"));
    let keyed = api.keyed(&terms, &scope, &body)?;
    let (_, known) = api.order_of(order, buyer).await?;
    api.goods_are_promised(order, &known).await;
    let command = body.into_command(api.settings().currency, api.engine().now())?;
    let sent = api
        .send(Command::Order(order, command), Actor::Account(buyer.account()), &terms, keyed)
        .await?;
    api.answer_order(order, sent, &terms).await
}

/// Why an order is not wanted any more.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = CancelOrder, example = json!({"reason": "ordered twice"}))]
pub(crate) struct CancelBody {
    #[schema(min_length = 1, max_length = 500)]
    reason: String,
}

/// Cancels an order until its money is taken. While the provider is asked, the cancellation waits for its answer.
#[utoipa::path(post, path = "/orders/{id}/cancellation", operation_id = "cancelOrder", tag = "orders", request_body = CancelBody,
    params(("id" = Uuid, Path, description = "The order.")), security(("bearer" = ["BUYER", "ADMIN"])),
    responses((status = 202, description = "The purchase is being undone.", body = OrderBody)))]
pub(crate) async fn cancel(
    Of(api): Of<Api>,
    Canceller(caller): Canceller,
    OfOrder(order): OfOrder,
    terms: Terms,
    Body(body): Body<CancelBody>,
) -> Result<Response, Problem> {
    terms.required_key()?;
    let scope = Scope::new(caller.account().uuid(), "POST", format!("/api/v1/orders/{order}/cancellation"));
    let keyed = api.keyed(&terms, &scope, &body)?;
    let mut faults = Faults::default();
    let Some(reason) = faults.text::<Note>("/reason", &body.reason) else {
        return Err(faults.problem());
    };
    let (_, known) = api.order_of(order, caller).await?;
    let buyer = known.placed().map(|placed: &Placed| placed.buyer.uuid());
    let sealed = api.vault().seal(buyer.unwrap_or(caller.account().uuid()), reason.as_str())?;
    let command = OrderCommand::RequestCancellation {
        by: caller.account(),
        reason: Sealed::new(sealed),
        selling: false,
    };
    let sent = api
        .send(Command::Order(order, command), Actor::Account(caller.account()), &terms, keyed)
        .await?;
    api.answer_order(order, sent, &terms).await
}

/// How long a payment waits for the shards that promise the order's goods.
const GOODS_ARE_PROMISED_WITHIN: Duration = Duration::from_secs(5);

fn waits_for_goods(order: &Order) -> bool {
    order.status() == OrderStatus::Placed
}

impl Api {
    /// Waits a moment for an order that was just placed, and whose goods other shards keep, to be ready to be paid.
    async fn goods_are_promised(&self, order: OrderId, known: &Order) {
        if waits_for_goods(known) {
            let watch = self.engine().watch(Kind::Order, order.uuid(), Until::GoodsPromised);
            // In vain, it is the order's to say that it cannot be paid yet.
            let _ = tokio::time::timeout(GOODS_ARE_PROMISED_WITHIN, watch).await;
        }
    }

    /// The order, for those who may see it: its buyer, the sellers of its products, the admin.
    pub(crate) async fn order_of(&self, order: OrderId, caller: Caller) -> Result<(Versioned, Arc<Order>), Problem> {
        let unknown = || Problem::of(&problem::UNKNOWN_ORDER);
        let versioned = self.engine().read(Kind::Order, order.uuid()).await?.ok_or_else(unknown)?;
        let State::Order(known) = &versioned.state else {
            return Err(unknown());
        };
        let known = Arc::clone(known);
        let account = caller.account();
        let allowed = match caller.role() {
            Role::Buyer => known.placed().is_some_and(|placed| placed.buyer == account),
            Role::Seller => known.lines().iter().any(|line| line.seller == account),
            Role::Admin => true,
        };
        if allowed && known.placed().is_some() {
            Ok((versioned, known))
        } else {
            Err(unknown())
        }
    }
}
