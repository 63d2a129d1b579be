//! Orders, as their buyers, their sellers and the shop see them.

use std::sync::Arc;

use aggregates::{Attention, CommerceEvent, Line, Money, OrderEvent, OrderStatus, ProductId, Recorded, Timestamp};
use uuid::Uuid;

use crate::{Failure, OrderView, Projection};

/// One row per order, with its lines.
#[derive(Debug)]
pub struct Orders;

impl Projection for Orders {
    const NAME: &'static str = "orders_v2";
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
                below: None,
                since: recorded.at,
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
                attention: Attention::default(),
                taken_up_at: None,
            });
        }
        let mut view = view?;
        view.version = recorded.sequence;
        view.updated_at = recorded.at;
        let mut stage = view.stage();
        match event {
            OrderEvent::Repriced { prices, total } => {
                view.lines = repriced(&view.lines, prices);
                view.total = *total;
            }
            OrderEvent::AwaitingPayment { payment, until } => {
                view.payment = Some(*payment);
                view.pay_until = Some(*until);
                stage = OrderStatus::AwaitingPayment;
            }
            OrderEvent::PaymentSubmitted { payment, until, .. } => {
                view.payment = Some(*payment);
                view.pay_until = Some(*until);
                stage = OrderStatus::PaymentPending;
            }
            OrderEvent::PaymentExpired {} | OrderEvent::CancellationRequested { .. } => stage = OrderStatus::Cancelling,
            OrderEvent::Confirmed { payment } => {
                view.payment = Some(*payment);
                stage = OrderStatus::Confirmed;
            }
            OrderEvent::Cancelled { failure, product } => {
                view.failure = Some(Failure {
                    code: *failure,
                    product: *product,
                });
                stage = OrderStatus::Cancelled;
            }
            OrderEvent::Placed { .. }
            | OrderEvent::AttentionNeeded { .. }
            | OrderEvent::AttentionEnded { .. }
            | OrderEvent::Resolved { .. } => {}
            OrderEvent::Resumed { .. } => view.taken_up_at = Some(recorded.at),
            OrderEvent::CompensationRequested { .. } => {
                view.taken_up_at = Some(recorded.at);
                if !matches!(stage, OrderStatus::Confirmed | OrderStatus::Cancelled) {
                    stage = OrderStatus::Cancelling;
                }
            }
        }
        view.attention.evolve(event);
        view.stands(stage, recorded.at);
        Some(view)
    }
}

impl OrderView {
    /// It has come to this stage; while a person has to look, that is what is shown instead.
    fn stands(&mut self, stage: OrderStatus, at: Timestamp) {
        let (shown, below) = if self.stuck() {
            (OrderStatus::NeedsAttention, Some(stage))
        } else {
            (stage, None)
        };
        if self.status != shown {
            self.since = at;
        }
        self.status = shown;
        self.below = below;
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
    use aggregates::{
        AccountId, Currency, Decide as _, FailureCode, Obstacle, Order, OrderId, PaymentId, PaymentMethod, Quantity, Resolution, Sealed,
        TrackingId,
    };

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
                cause: Obstacle::Provider,
                reason: "contradicted".into(),
            }),
        ])
        .expect("an order");
        assert_eq!(
            (view.status, view.attention.reason()),
            (OrderStatus::NeedsAttention, Some("contradicted"))
        );
    }

    fn payment() -> PaymentId {
        PaymentId::for_order(order())
    }

    fn submitted() -> CommerceEvent {
        is(OrderEvent::PaymentSubmitted {
            payment: payment(),
            payment_key: "sim_lost_1".parse().expect("a key"),
            until: Timestamp::from_micros(9),
        })
    }

    fn needed() -> CommerceEvent {
        is(OrderEvent::AttentionNeeded {
            cause: Obstacle::Provider,
            reason: "silent".into(),
        })
    }

    fn set_aside() -> CommerceEvent {
        is(OrderEvent::AttentionNeeded {
            cause: Obstacle::SetAside(Uuid::nil()),
            reason: "set aside".into(),
        })
    }

    fn over(cause: Obstacle) -> CommerceEvent {
        is(OrderEvent::AttentionEnded { cause })
    }

    fn by() -> AccountId {
        AccountId::new(Uuid::from_u128(11))
    }

    fn compensation() -> CommerceEvent {
        is(OrderEvent::CompensationRequested {
            by: by(),
            reason: Sealed::new("sealed"),
        })
    }

    fn resolved(outcome: Resolution) -> CommerceEvent {
        is(OrderEvent::Resolved {
            by: by(),
            outcome,
            reason: Sealed::new("sealed"),
        })
    }

    #[test]
    fn an_order_that_needed_a_person_is_where_it_was_when_it_goes_on() {
        for over in [
            over(Obstacle::Provider),
            is(OrderEvent::Resumed { by: by() }),
            resolved(Resolution::Charged),
        ] {
            let view = fold::<Orders>([placed(), submitted(), needed(), over]).expect("an order");
            assert_eq!((view.status, view.below, view.stuck()), (OrderStatus::PaymentPending, None, false));
            assert_eq!(view.since, at(4), "it stands there anew");
        }
    }

    #[test]
    fn an_order_goes_on_below_while_a_person_has_to_look() {
        let cancelled_by_buyer = is(OrderEvent::CancellationRequested {
            by: by(),
            reason: Sealed::new("sealed"),
        });
        let view = fold::<Orders>([placed(), submitted(), needed(), cancelled_by_buyer.clone()]).expect("an order");
        assert_eq!((view.status, view.stage()), (OrderStatus::NeedsAttention, OrderStatus::Cancelling));
        assert_eq!(
            (view.since, view.updated_at),
            (at(3), at(4)),
            "it needs a person since the third event"
        );
        let over = over(Obstacle::Provider);
        let view = fold::<Orders>([placed(), submitted(), needed(), cancelled_by_buyer, over]).expect("an order");
        assert_eq!(view.status, OrderStatus::Cancelling);
    }

    #[test]
    fn an_operator_s_compensation_undoes_what_has_not_ended() {
        let view = fold::<Orders>([placed(), submitted(), needed(), compensation()]).expect("an order");
        assert_eq!(
            (view.status, view.stuck(), view.taken_up_at),
            (OrderStatus::Cancelling, false, Some(at(4)))
        );
        let ended = is(OrderEvent::Cancelled {
            failure: FailureCode::PaymentExpired,
            product: None,
        });
        let view = fold::<Orders>([placed(), submitted(), ended, needed(), compensation()]).expect("an order");
        assert_eq!(view.status, OrderStatus::Cancelled);
    }

    #[test]
    fn a_row_stands_where_the_order_itself_does_whatever_comes_after_what() {
        let events = [
            is(OrderEvent::AwaitingPayment {
                payment: payment(),
                until: Timestamp::from_micros(9),
            }),
            submitted(),
            is(OrderEvent::PaymentExpired {}),
            is(OrderEvent::Confirmed { payment: payment() }),
            is(OrderEvent::Cancelled {
                failure: FailureCode::PaymentExpired,
                product: None,
            }),
            needed(),
            set_aside(),
            over(Obstacle::Provider),
            over(Obstacle::SetAside(Uuid::nil())),
            is(OrderEvent::Resumed { by: by() }),
            compensation(),
            resolved(Resolution::Refunded),
        ];
        let count = events.len();
        for walk in 0..count.pow(4) {
            let picked: Vec<_> = (0..4).map(|n| events[walk / count.pow(n) % count].clone()).collect();
            let mut order = Order::default();
            for event in std::iter::once(&placed()).chain(&picked) {
                let CommerceEvent::Order(_, event) = event else { continue };
                order.evolve(event);
            }
            let view = fold::<Orders>(std::iter::once(placed()).chain(picked)).expect("an order");
            assert_eq!(
                (view.status, view.attention.reason()),
                (order.status(), order.attention()),
                "{walk}"
            );
            assert_eq!(view.stuck(), view.below.is_some());
        }
    }
}
