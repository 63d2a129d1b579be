//! How an aggregate is shown: small structures that borrow from its state, written once.
//!
//! What is written here is recorded as a command's answer, so it holds codes and nothing personal; the words for people are added when
//! it is answered.

use std::fmt::Display;

use aggregates::{
    Inventory, Kind, Line, Money, Name, Order, OrderNumber, OrderPayment, OrderStatus, Payment, PaymentId, PaymentMethod, PaymentStatus,
    Product, ProductId, Role, State, Timestamp, TrackingId,
};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::language::{Language, failure_message};

/// How an aggregate is shown to the outside: JSON. The engine takes this function as its `Represent`.
pub fn represent(kind: Kind, id: Uuid, state: &State, version: u64) -> Vec<u8> {
    match state {
        State::Order(order) => OrderBody::new(id, order, version)
            .map_or_else(|| bare(kind, id, version), |body| written(&body, 384 + 224 * order.lines().len())),
        State::Product(product) => {
            ProductBody::new(id, product, version).map_or_else(|| bare(kind, id, version), |body| written(&body, 512))
        }
        State::Inventory(inventory) => written(&InventoryBody::new(id, inventory, version), 192),
        State::Wallet(wallet) => written(
            &WalletBody {
                account_id: id,
                balance: wallet.balance().map(MoneyShown),
                version,
            },
            160,
        ),
        State::Email(claim) => written(
            &AccountBody {
                account_id: claim.account().map(aggregates::AccountId::uuid),
                role: None,
            },
            64,
        ),
        State::Account(account) => written(
            &AccountBody {
                account_id: Some(id),
                role: account.registration().map(|registration| registration.role),
            },
            96,
        ),
        State::Payment(payment) => written(&PaymentShown::new(id, payment, version), 256),
        State::Session(_) => bare(kind, id, version),
    }
}

fn written(body: &impl Serialize, size: usize) -> Vec<u8> {
    let mut json = Vec::with_capacity(size);
    // Writing these structures to memory cannot fail; an empty object is what is left to say if it ever did.
    if serde_json::to_writer(&mut json, body).is_err() {
        json = b"{}".to_vec();
    }
    json
}

fn bare(kind: Kind, id: Uuid, version: u64) -> Vec<u8> {
    format!(r#"{{"{}Id":"{id}","version":{version}}}"#, kind.name()).into_bytes()
}

/// Adds the message for people to an order that has failed; any other body stays as it is.
pub(crate) fn with_failure_message(body: Box<[u8]>, language: Language) -> Box<[u8]> {
    // Within a JSON string a quote has a backslash before it, so these bytes are the member itself. It is among the first.
    const MEMBER: &[u8] = br#","failure":{"code":""#;
    const WITHIN: usize = 256;
    let head = &body[..body.len().min(WITHIN)];
    let Some(start) = head
        .windows(MEMBER.len())
        .position(|window| window == MEMBER)
        .map(|at| at + MEMBER.len())
    else {
        return body;
    };
    let Some(length) = body[start..].iter().position(|byte| *byte == b'"') else {
        return body;
    };
    let (before, after) = body.split_at(start + length + 1);
    let message = failure_message(std::str::from_utf8(&body[start..start + length]).unwrap_or_default(), language);
    [before, br#","message":""#, message.as_bytes(), br#"""#, after].concat().into()
}

/// What shows itself as text.
pub(crate) struct Text<T>(pub(crate) T);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// An amount in the smallest unit of its currency.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(as = Money, value_type = crate::body::MoneyBody)]
pub(crate) struct MoneyShown(pub(crate) Money);

/// An order, exactly as it is now.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Order)]
pub(crate) struct OrderBody<'a> {
    order_id: Uuid,
    /// For people: the day it was placed and at least eight digits.
    #[schema(value_type = String, example = "2026112100000001")]
    order_number: &'a OrderNumber,
    /// Follows the order without revealing its id.
    #[schema(value_type = Uuid)]
    tracking_id: TrackingId,
    #[schema(value_type = OrderStatusBody)]
    status: OrderStatus,
    /// Why it was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureBody>,
    #[schema(value_type = Vec<LineBody>)]
    lines: Lines<'a>,
    #[schema(value_type = crate::body::MoneyBody)]
    total: Option<MoneyShown>,
    payment: OrderPaymentBody,
    #[schema(value_type = String, format = DateTime)]
    placed_at: Text<Timestamp>,
    /// Until when it can be paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pay_until: Option<Text<Timestamp>>,
    /// Counts what has happened to it; the same as in the `ETag`.
    version: u64,
}

impl<'a> OrderBody<'a> {
    fn new(id: Uuid, order: &'a Order, version: u64) -> Option<Self> {
        let placed = order.placed()?;
        let may_pay = matches!(order.status(), OrderStatus::AwaitingPayment | OrderStatus::PaymentPending);
        Some(Self {
            order_id: id,
            order_number: &placed.number,
            tracking_id: placed.tracking,
            status: order.status(),
            failure: order.failure().map(|(code, product)| FailureBody {
                code: code.code(),
                message: None,
                product_id: product,
            }),
            lines: Lines(order.lines()),
            total: order.total().map(MoneyShown),
            payment: OrderPaymentBody {
                payment_id: order.payment(),
                method: placed.method,
                status: order.payment_status(),
            },
            placed_at: Text(placed.at),
            pay_until: order.pay_until().filter(|_| may_pay).map(Text),
            version,
        })
    }
}

/// Where an order stands.
#[derive(ToSchema)]
#[schema(as = OrderStatus, rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(dead_code, reason = "the schema of the domain's OrderStatus; a test compares the two")]
pub(crate) enum OrderStatusBody {
    Placed,
    AwaitingPayment,
    PaymentPending,
    Confirmed,
    PreparingShipment,
    Shipped,
    Delivered,
    Cancelling,
    Cancelled,
    Refunded,
    NeedsAttention,
}

/// Why an order was cancelled.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Failure)]
struct FailureBody {
    /// For programs.
    #[schema(example = "OUT_OF_STOCK")]
    code: &'static str,
    /// For people, in the language of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, example = "재고 부족으로 주문이 취소되었습니다")]
    message: Option<&'static str>,
    /// The product that is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    product_id: Option<ProductId>,
}

struct Lines<'a>(&'a [Line]);

impl Serialize for Lines<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(LineBody::new))
    }
}

/// One line of an order.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Line)]
pub(crate) struct LineBody<'a> {
    #[schema(value_type = Uuid)]
    product_id: ProductId,
    /// What it was called when the order was placed.
    #[schema(value_type = String, example = "Coffee")]
    product_name: &'a Name,
    #[schema(example = 3)]
    quantity: u32,
    #[schema(value_type = crate::body::MoneyBody)]
    unit_price: MoneyShown,
    #[schema(value_type = crate::body::MoneyBody)]
    line_total: Option<MoneyShown>,
}

impl<'a> LineBody<'a> {
    fn new(line: &'a Line) -> Self {
        Self {
            product_id: line.product,
            product_name: &line.name,
            quantity: line.quantity.get(),
            unit_price: MoneyShown(line.unit_price),
            line_total: line.total().ok().map(MoneyShown),
        }
    }
}

/// An order's payment, as far as the order knows.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OrderPayment)]
struct OrderPaymentBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    payment_id: Option<PaymentId>,
    #[schema(value_type = crate::body::MethodBody)]
    method: PaymentMethod,
    #[schema(value_type = String, example = "CAPTURED")]
    status: OrderPayment,
}

/// A product.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Product)]
pub(crate) struct ProductBody<'a> {
    product_id: Uuid,
    #[schema(value_type = Uuid)]
    seller_id: aggregates::AccountId,
    #[schema(example = "Coffee")]
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[schema(value_type = crate::body::MoneyBody)]
    price: MoneyShown,
    /// Whether it was taken off the shelf.
    retired: bool,
    version: u64,
}

impl<'a> ProductBody<'a> {
    fn new(id: Uuid, product: &'a Product, version: u64) -> Option<Self> {
        let Product::Offered {
            seller,
            name,
            description,
            price,
            retired,
        } = product
        else {
            return None;
        };
        Some(Self {
            product_id: id,
            seller_id: *seller,
            name: name.as_str(),
            description: description.as_ref().map(aggregates::Description::as_str),
            price: MoneyShown(*price),
            retired: *retired,
            version,
        })
    }
}

/// A product's stock.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Inventory)]
pub(crate) struct InventoryBody {
    product_id: Uuid,
    /// On the shelf.
    on_hand: u64,
    /// Of these, promised to orders.
    reserved: u64,
    /// On hand less reserved.
    available: u64,
    /// Not counted: there is always enough.
    unlimited: bool,
    version: u64,
}

impl InventoryBody {
    fn new(id: Uuid, inventory: &Inventory, version: u64) -> Self {
        Self {
            product_id: id,
            on_hand: inventory.on_hand(),
            reserved: inventory.reserved(),
            available: inventory.available(),
            unlimited: inventory.unlimited(),
            version,
        }
    }
}

/// An account's balance.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Wallet)]
pub(crate) struct WalletBody {
    account_id: Uuid,
    #[schema(value_type = crate::body::MoneyBody)]
    balance: Option<MoneyShown>,
    version: u64,
}

/// An account.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Account)]
pub(crate) struct AccountBody {
    #[schema(value_type = Uuid)]
    account_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    role: Option<Role>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PaymentShown {
    payment_id: Uuid,
    status: PaymentStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<aggregates::OrderId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<PaymentMethod>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<MoneyShown>,
    version: u64,
}

impl PaymentShown {
    fn new(id: Uuid, payment: &Payment, version: u64) -> Self {
        let bill = payment.bill();
        Self {
            payment_id: id,
            status: payment.status(),
            order_id: bill.map(|bill| bill.order),
            method: bill.map(|bill| bill.method),
            amount: bill.map(|bill| MoneyShown(bill.amount)),
            version,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aggregates::{AccountId, Currency, Decide as _, FailureCode, OrderEvent, Sealed};
    use serde_json::{Value, json};
    use utoipa::PartialSchema as _;

    use super::*;

    fn order(events: &[OrderEvent]) -> State {
        let name = r#"Coffee ","failure":{"code":"X"}"#;
        let mut order = Order::default();
        order.evolve(&OrderEvent::Placed {
            buyer: AccountId::default(),
            number: "2026112100000001".parse().expect("a number"),
            tracking: TrackingId::default(),
            lines: Arc::from([Line {
                product: ProductId::default(),
                name: name.parse().expect("a name"),
                seller: AccountId::default(),
                quantity: aggregates::Quantity::parse(3).expect("a quantity"),
                unit_price: Money::new(5_000, Currency::KRW),
                stated: false,
            }]),
            total: Money::new(15_000, Currency::KRW),
            stated_total: None,
            address: Sealed::new("v1.sealed"),
            method: PaymentMethod::Balance,
            payment_key: None,
            at: Timestamp::from_micros(1_700_000_000_000_000),
        });
        for event in events {
            order.evolve(event);
        }
        State::Order(Arc::new(order))
    }

    fn shown(state: &State, version: u64) -> Value {
        serde_json::from_slice(&represent(state.kind(), Uuid::nil(), state, version)).expect("JSON")
    }

    #[test]
    fn an_order_is_shown_as_the_contract_has_it() {
        let body = shown(&order(&[]), 1);
        assert_eq!(body["status"], "PLACED");
        assert_eq!(body["total"], json!({"amount": 15_000, "currency": "KRW"}));
        assert_eq!(body["lines"][0]["lineTotal"]["amount"], 15_000);
        assert_eq!(body["payment"], json!({"method": "BALANCE", "status": "NOT_STARTED"}));
        assert_eq!(body["placedAt"], "2023-11-14T22:13:20Z");
        assert_eq!(body["version"], 1);
        assert!(body.get("failure").is_none() && body.get("payUntil").is_none());
        assert!(!body.to_string().contains("sealed"));
    }

    #[test]
    fn a_failure_gets_its_message_in_the_language_asked_for_and_nothing_else_does() {
        let untouched = represent(Kind::Order, Uuid::nil(), &order(&[]), 1).into_boxed_slice();
        assert_eq!(
            with_failure_message(untouched.clone(), Language::Korean),
            untouched,
            "a name is no failure"
        );

        let failed = order(&[OrderEvent::Cancelled {
            failure: FailureCode::OutOfStock,
            product: Some(ProductId::default()),
        }]);
        let body = represent(Kind::Order, Uuid::nil(), &failed, 2).into_boxed_slice();
        let korean: Value = serde_json::from_slice(&with_failure_message(body.clone(), Language::Korean)).expect("JSON");
        assert_eq!(korean["failure"]["message"], "재고 부족으로 주문이 취소되었습니다");
        assert_eq!(korean["failure"]["code"], "OUT_OF_STOCK");
        assert_eq!(korean["failure"]["productId"], json!(Uuid::nil()));
        let english: Value = serde_json::from_slice(&with_failure_message(body, Language::English)).expect("JSON");
        assert!(english["failure"]["message"].as_str().is_some_and(str::is_ascii));
    }

    #[test]
    fn what_nothing_has_happened_to_is_shown_by_its_id_alone() {
        for kind in Kind::ALL {
            assert!(shown(&kind.initial(), 0).is_object(), "{kind:?}");
        }
    }

    #[test]
    fn the_documented_statuses_are_those_there_are() {
        let schema = serde_json::to_value(OrderStatusBody::schema()).expect("JSON");
        assert_eq!(schema["enum"], json!(OrderStatus::ALL.map(OrderStatus::name)));
    }
}
