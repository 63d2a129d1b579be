//! Orders, as their buyers, their sellers and the shop see them.

use std::sync::Arc;

use aggregates::{CommerceEvent, Line, Money, OrderEvent, OrderStatus, ProductId, Recorded};
use uuid::Uuid;

use crate::{Failure, OrderView, Projection};

/// One row per order, with its lines.
#[derive(Debug)]
pub struct Orders;

impl Projection for Orders {
    const NAME: &'static str = "orders_v1";
    type View = OrderView;

    fn key(event: &CommerceEvent) -> Option<Uuid> {
        if let CommerceEvent::Order(id, _) = event {
            Some(id.uuid())
        } else {
            None
        }
    }

    fn id(view: &OrderView) -> Uuid {
        view.id.uuid()
    }

    fn version(view: &OrderView) -> u64 {
        view.version
    }

    fn apply(view: Option<OrderView>, recorded: &Recorded) -> Option<OrderView> {
        let Some(CommerceEvent::Order(id, event)) = &recorded.event else {
            return view;
        };
        if let OrderEvent::Placed {
            buyer,
            number,
            tracking,
            lines,
            total,
            address,
            method,
            at,
            ..
        } = event
        {
            return Some(OrderView {
                id: *id,
                number: number.clone(),
                tracking: *tracking,
                status: OrderStatus::Placed,
                version: recorded.sequence,
                buyer: *buyer,
                address: address.clone(),
                method: *method,
                lines: Arc::clone(lines),
                total: *total,
                failure: None,
                placed_at: *at,
                updated_at: recorded.at,
                pay_until: None,
                payment: None,
                attention: None,
            });
        }
        let mut view = view?;
        view.version = recorded.sequence;
        view.updated_at = recorded.at;
        match event {
            OrderEvent::Placed { .. } => {}
            OrderEvent::Repriced { prices, total } => {
                view.lines = repriced(&view.lines, prices);
                view.total = *total;
            }
            OrderEvent::AwaitingPayment { payment, until } => {
                view.payment = Some(*payment);
                view.pay_until = Some(*until);
                view.status = OrderStatus::AwaitingPayment;
            }
            OrderEvent::PaymentSubmitted { payment, until, .. } => {
                view.payment = Some(*payment);
                view.pay_until = Some(*until);
                view.status = OrderStatus::PaymentPending;
            }
            OrderEvent::PaymentExpired {} | OrderEvent::CancellationRequested { .. } => view.status = OrderStatus::Cancelling,
            OrderEvent::Confirmed { payment } => {
                view.payment = Some(*payment);
                view.status = OrderStatus::Confirmed;
            }
            OrderEvent::Cancelled { failure, product } => {
                view.failure = Some(Failure {
                    code: *failure,
                    product: *product,
                });
                view.status = OrderStatus::Cancelled;
            }
            OrderEvent::AttentionNeeded { reason } => {
                view.attention = Some(reason.as_str().into());
                view.status = OrderStatus::NeedsAttention;
            }
        }
        Some(view)
    }
}

fn repriced(lines: &[Line], prices: &[(ProductId, Money)]) -> Arc<[Line]> {
    let price = |line: &Line| {
        prices
            .iter()
            .find(|(product, _)| *product == line.product)
            .map_or(line.unit_price, |(_, price)| *price)
    };
    lines
        .iter()
        .map(|line| Line {
            unit_price: price(line),
            ..line.clone()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use aggregates::{AccountId, Currency, FailureCode, OrderId, PaymentId, PaymentMethod, Quantity, Sealed, Timestamp, TrackingId};

    use super::*;
    use crate::projection::given::{at, fold};

    fn order() -> OrderId {
        OrderId::new(Uuid::from_u128(7))
    }

    fn won(amount: i64) -> Money {
        Money::new(amount, Currency::KRW)
    }

    fn coffee() -> ProductId {
        ProductId::new(Uuid::from_u128(1))
    }

    fn is(event: OrderEvent) -> CommerceEvent {
        CommerceEvent::Order(order(), event)
    }

    fn placed() -> CommerceEvent {
        let line = Line {
            product: coffee(),
            name: "커피".parse().expect("a name"),
            seller: AccountId::new(Uuid::from_u128(2)),
            quantity: Quantity::parse(3).expect("a quantity"),
            unit_price: won(5_000),
            stated: false,
        };
        is(OrderEvent::Placed {
            buyer: AccountId::new(Uuid::from_u128(3)),
            number: "2026112100000001".parse().expect("a number"),
            tracking: TrackingId::for_order(order()),
            lines: [line].into(),
            total: won(15_000),
            stated_total: None,
            address: Sealed::new("sealed"),
            method: PaymentMethod::Balance,
            payment_key: None,
            at: Timestamp::from_micros(1),
        })
    }

    #[test]
    fn a_placed_order_shows_what_was_ordered() {
        let view = fold::<Orders>([placed()]).expect("an order");
        assert_eq!((view.status, view.version, view.total), (OrderStatus::Placed, 1, won(15_000)));
        assert_eq!((view.placed_at, view.updated_at), (Timestamp::from_micros(1), at(1)));
        assert_eq!(view.payment, None);
    }

    #[test]
    fn a_confirmed_order_names_what_paid_it() {
        let payment = PaymentId::for_order(order());
        let view = fold::<Orders>([placed(), is(OrderEvent::Confirmed { payment })]).expect("an order");
        assert_eq!(
            (view.status, view.payment, view.version),
            (OrderStatus::Confirmed, Some(payment), 2)
        );
    }

    #[test]
    fn a_repriced_order_shows_the_locked_price_and_the_new_sum() {
        let event = OrderEvent::Repriced {
            prices: vec![(coffee(), won(6_000))],
            total: won(18_000),
        };
        let view = fold::<Orders>([placed(), is(event)]).expect("an order");
        assert_eq!(
            (view.lines[0].unit_price, view.total, view.status),
            (won(6_000), won(18_000), OrderStatus::Placed)
        );
    }

    #[test]
    fn a_cancelled_order_says_why_and_which_product_is_to_blame() {
        let event = OrderEvent::Cancelled {
            failure: FailureCode::OutOfStock,
            product: Some(coffee()),
        };
        let view = fold::<Orders>([placed(), is(event)]).expect("an order");
        assert_eq!(view.status, OrderStatus::Cancelled);
        assert_eq!(
            view.failure,
            Some(Failure {
                code: FailureCode::OutOfStock,
                product: Some(coffee())
            })
        );
    }

    #[test]
    fn an_order_that_waits_says_until_when() {
        let payment = PaymentId::for_order(order());
        let until = Timestamp::from_micros(9);
        let view = fold::<Orders>([placed(), is(OrderEvent::AwaitingPayment { payment, until })]).expect("an order");
        assert_eq!((view.status, view.pay_until), (OrderStatus::AwaitingPayment, Some(until)));
        let expired = fold::<Orders>([
            placed(),
            is(OrderEvent::AwaitingPayment { payment, until }),
            is(OrderEvent::PaymentExpired {}),
        ]);
        assert_eq!(expired.map(|view| view.status), Some(OrderStatus::Cancelling));
    }

    #[test]
    fn an_order_that_was_never_placed_has_no_row() {
        assert_eq!(fold::<Orders>([is(OrderEvent::PaymentExpired {})]), None);
    }

    #[test]
    fn a_person_has_to_look_at_what_needs_attention() {
        let view = fold::<Orders>([
            placed(),
            is(OrderEvent::AttentionNeeded {
                reason: "contradicted".into(),
            }),
        ])
        .expect("an order");
        assert_eq!(
            (view.status, view.attention.as_deref()),
            (OrderStatus::NeedsAttention, Some("contradicted"))
        );
    }
}
