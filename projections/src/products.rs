//! Products, as they are offered.

use aggregates::{CommerceEvent, ProductEvent, Recorded};
use uuid::Uuid;

use crate::{ProductView, Projection};

/// One row per product.
#[derive(Debug)]
pub struct Products;

impl Projection for Products {
    const NAME: &'static str = "products_v1";
    type View = ProductView;

    fn key(event: &CommerceEvent) -> Option<Uuid> {
        if let CommerceEvent::Product(id, _) = event {
            Some(id.uuid())
        } else {
            None
        }
    }

    fn id(view: &ProductView) -> Uuid {
        view.id.uuid()
    }

    fn version(view: &ProductView) -> u64 {
        view.version
    }

    fn apply(view: Option<ProductView>, recorded: &Recorded) -> Option<ProductView> {
        let Some(CommerceEvent::Product(id, event)) = &recorded.event else {
            return view;
        };
        if let ProductEvent::Created {
            seller,
            sku,
            name,
            description,
            price,
            at,
            ..
        } = event
        {
            return Some(ProductView {
                id: *id,
                version: recorded.sequence,
                seller: *seller,
                sku: sku.clone(),
                name: name.clone(),
                description: description.clone(),
                price: *price,
                retired: false,
                created_at: *at,
                updated_at: recorded.at,
            });
        }
        let mut view = view?;
        view.version = recorded.sequence;
        view.updated_at = recorded.at;
        match event {
            ProductEvent::Created { .. } => {}
            ProductEvent::Changed { name, description, price } => {
                if let Some(name) = name {
                    view.name = name.clone();
                }
                if description.is_some() {
                    view.description.clone_from(description);
                }
                view.price = price.unwrap_or(view.price);
            }
            ProductEvent::Retired {} => view.retired = true,
        }
        Some(view)
    }
}

#[cfg(test)]
mod tests {
    use aggregates::{AccountId, Currency, Money, ProductId, Stock, Timestamp};

    use super::*;
    use crate::projection::given::fold;

    fn is(event: ProductEvent) -> CommerceEvent {
        CommerceEvent::Product(ProductId::new(Uuid::from_u128(1)), event)
    }

    fn created() -> CommerceEvent {
        is(ProductEvent::Created {
            seller: AccountId::new(Uuid::from_u128(2)),
            sku: "COFFEE-1".parse().expect("a sku"),
            name: "커피".parse().expect("a name"),
            description: Some("따뜻한 커피".parse().expect("a description")),
            price: Money::new(5_000, Currency::KRW),
            stock: Stock::OnHand(1_000),
            at: Timestamp::from_micros(1),
        })
    }

    #[test]
    fn a_change_leaves_what_it_does_not_name() {
        let price = Some(Money::new(5_500, Currency::KRW));
        let changed = is(ProductEvent::Changed {
            name: None,
            description: None,
            price,
        });
        let view = fold::<Products>([created(), changed]).expect("a product");
        assert_eq!((view.name.as_str(), view.price.minor(), view.version), ("커피", 5_500, 2));
        assert_eq!(view.description.as_ref().map(aggregates::Description::as_str), Some("따뜻한 커피"));
    }

    #[test]
    fn a_retired_product_is_still_shown_as_what_it_was() {
        let view = fold::<Products>([created(), is(ProductEvent::Retired {})]).expect("a product");
        assert!(view.retired);
        assert_eq!(view.name.as_str(), "커피");
    }

    #[test]
    fn a_product_that_was_never_offered_has_no_row() {
        assert_eq!(fold::<Products>([is(ProductEvent::Retired {})]), None);
    }
}
