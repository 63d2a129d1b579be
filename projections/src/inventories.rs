//! Stock: what is on hand and what is promised.

use aggregates::{CommerceEvent, InventoryEvent, Quantity, Recorded, Stock};
use uuid::Uuid;

use crate::{InventoryView, Projection};

/// One row per product. It counts what the events say, as the aggregate does.
#[derive(Debug)]
pub struct Inventories;

impl Projection for Inventories {
    const NAME: &'static str = "inventories_v1";
    type View = InventoryView;

    fn key(event: &CommerceEvent) -> Option<Uuid> {
        if let CommerceEvent::Inventory(id, _) = event {
            Some(id.uuid())
        } else {
            None
        }
    }

    fn id(view: &InventoryView) -> Uuid {
        view.product.uuid()
    }

    fn version(view: &InventoryView) -> u64 {
        view.version
    }

    fn apply(view: Option<InventoryView>, recorded: &Recorded) -> Option<InventoryView> {
        use InventoryEvent as Event;
        let Some(CommerceEvent::Inventory(id, event)) = &recorded.event else {
            return view;
        };
        if let Event::Opened { seller, stock } = event {
            let (on_hand, unlimited) = match stock {
                Stock::OnHand(units) => (*units, false),
                Stock::Unlimited => (0, true),
            };
            return Some(InventoryView {
                product: *id,
                version: recorded.sequence,
                seller: *seller,
                unlimited,
                on_hand,
                reserved: 0,
            });
        }
        let mut view = view?;
        view.version = recorded.sequence;
        match event {
            Event::Received { quantity, .. } => view.on_hand = view.on_hand.saturating_add(*quantity),
            Event::Adjusted { delta, .. } => view.on_hand = view.on_hand.saturating_add_signed(*delta),
            Event::Reserved { quantity, .. } => view.promise(*quantity),
            Event::Committed { quantity, .. } => view.sell(*quantity),
            Event::Released { quantity, .. } | Event::Expired { quantity, .. } => view.free(*quantity),
            Event::Opened { .. }
            | Event::OutOfStock { .. }
            | Event::PriceChanged { .. }
            | Event::NotOffered { .. }
            | Event::Held { .. }
            | Event::NotHeld { .. }
            | Event::NotCommitted { .. }
            | Event::ReleaseNoted { .. }
            | Event::ReservationRefused { .. } => {}
        }
        Some(view)
    }
}

impl InventoryView {
    fn promise(&mut self, quantity: Quantity) {
        if !self.unlimited {
            self.reserved = self.reserved.saturating_add(quantity.units());
        }
    }

    fn free(&mut self, quantity: Quantity) {
        if !self.unlimited {
            self.reserved = self.reserved.saturating_sub(quantity.units());
        }
    }

    fn sell(&mut self, quantity: Quantity) {
        self.free(quantity);
        if !self.unlimited {
            self.on_hand = self.on_hand.saturating_sub(quantity.units());
        }
    }
}

#[cfg(test)]
mod tests {
    use aggregates::{AccountId, Currency, Money, OrderId, ProductId};

    use super::*;
    use crate::projection::given::fold;

    fn is(event: InventoryEvent) -> CommerceEvent {
        CommerceEvent::Inventory(ProductId::new(Uuid::from_u128(1)), event)
    }

    fn opened(stock: Stock) -> CommerceEvent {
        is(InventoryEvent::Opened {
            seller: AccountId::new(Uuid::from_u128(2)),
            stock,
        })
    }

    fn order() -> OrderId {
        OrderId::new(Uuid::from_u128(7))
    }

    fn three() -> Quantity {
        Quantity::parse(3).expect("a quantity")
    }

    fn reserved() -> CommerceEvent {
        is(InventoryEvent::Reserved {
            order: order(),
            quantity: three(),
            price: Money::new(5_000, Currency::KRW),
            expires_at: None,
        })
    }

    fn counts(events: impl IntoIterator<Item = CommerceEvent>) -> (u64, u64, u64) {
        let view = fold::<Inventories>(events).expect("stock");
        (view.on_hand, view.reserved, view.available())
    }

    #[test]
    fn what_is_reserved_is_on_hand_but_not_available() {
        assert_eq!(counts([opened(Stock::OnHand(10)), reserved()]), (10, 3, 7));
    }

    #[test]
    fn what_is_sold_is_gone_and_what_is_released_or_expired_is_free() {
        let committed = is(InventoryEvent::Committed {
            order: order(),
            quantity: three(),
        });
        assert_eq!(counts([opened(Stock::OnHand(10)), reserved(), committed]), (7, 0, 7));
        for freed in [
            InventoryEvent::Released {
                order: order(),
                quantity: three(),
            },
            InventoryEvent::Expired {
                order: order(),
                quantity: three(),
            },
        ] {
            assert_eq!(counts([opened(Stock::OnHand(10)), reserved(), is(freed)]), (10, 0, 10));
        }
    }

    #[test]
    fn goods_come_in_and_are_written_off() {
        let received = is(InventoryEvent::Received {
            quantity: 5,
            reference: None,
        });
        let lost = is(InventoryEvent::Adjusted {
            delta: -2,
            reason: "lost".parse().expect("a note"),
        });
        assert_eq!(counts([opened(Stock::OnHand(10)), received, lost]), (13, 0, 13));
    }

    #[test]
    fn unlimited_stock_is_not_counted() {
        let committed = is(InventoryEvent::Committed {
            order: order(),
            quantity: three(),
        });
        assert_eq!(counts([opened(Stock::Unlimited), reserved(), committed]), (0, 0, 0));
    }

    #[test]
    fn a_refusal_changes_the_version_alone() {
        let refused = is(InventoryEvent::OutOfStock {
            order: order(),
            quantity: three(),
            available: 1,
        });
        let view = fold::<Inventories>([opened(Stock::OnHand(1)), refused]).expect("stock");
        assert_eq!((view.version, view.on_hand, view.reserved), (2, 1, 0));
    }
}
