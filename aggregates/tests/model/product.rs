//! A product as what stands on its price tag.

use aggregates::{
    AccountId, Class, Currency, Description, Money, Name, Product, ProductCommand as Ask, ProductEvent as Event, Stock, Timestamp,
};
use proptest::prelude::*;

use crate::{Expected, Model, config, id, krw, steps, walk};

#[derive(Clone, PartialEq)]
struct Tag {
    seller: AccountId,
    name: Name,
    description: Option<Description>,
    price: Money,
}

#[derive(Default)]
struct Shelf {
    tag: Option<Tag>,
    retired: bool,
}

/// The new value, when it is one.
fn news<T: Clone + PartialEq>(old: Option<&T>, new: Option<&T>) -> Option<T> {
    if old == new { None } else { new.cloned() }
}

impl Model for Shelf {
    type Of = Product;

    fn tell(&mut self, command: &Ask) -> Expected<Event> {
        let Some(tag) = &mut self.tag else {
            let Ask::Create {
                seller,
                sku,
                name,
                description,
                price,
                stock,
                at,
            } = command.clone()
            else {
                return Err((Class::Unknown, "unknown-product"));
            };
            self.tag = Some(Tag {
                seller,
                name: name.clone(),
                description: description.clone(),
                price,
            });
            return Ok(vec![Event::Created {
                seller,
                sku,
                name,
                description,
                price,
                stock,
                at,
            }]);
        };
        match command {
            Ask::Create { .. } => Err((Class::State, "product-exists")),
            Ask::Retire if self.retired => Ok(vec![]),
            Ask::Retire => {
                self.retired = true;
                Ok(vec![Event::Retired {}])
            }
            Ask::Change { .. } if self.retired => Err((Class::State, "product-retired")),
            Ask::Change { price: Some(price), .. } if price.currency() != tag.price.currency() => Err((Class::Rule, "currency-mismatch")),
            Ask::Change { name, description, price } => {
                let before = tag.clone();
                tag.name = name.clone().unwrap_or(tag.name.clone());
                tag.description = description.clone().or(tag.description.take());
                tag.price = price.unwrap_or(tag.price);
                if *tag == before {
                    return Ok(vec![]);
                }
                // Only what differs is recorded.
                Ok(vec![Event::Changed {
                    name: news(Some(&before.name), name.as_ref()),
                    description: news(before.description.as_ref(), description.as_ref()),
                    price: news(Some(&before.price), price.as_ref()),
                }])
            }
        }
    }

    fn check(&self, product: &Product) {
        let expected = match &self.tag {
            None => Product::New,
            Some(tag) => Product::Offered {
                seller: tag.seller,
                name: tag.name.clone(),
                description: tag.description.clone(),
                price: tag.price,
                retired: self.retired,
            },
        };
        assert_eq!(*product, expected);
    }

    fn may_repeat(&self, _: &Ask) -> bool {
        true
    }
}

fn name() -> impl Strategy<Value = Name> {
    prop::sample::select(&["coffee", "tea"][..]).prop_map(|name| name.parse().expect("a name"))
}

fn description() -> impl Strategy<Value = Option<Description>> {
    prop::option::of(prop::sample::select(&["hot", "cold"][..]).prop_map(|text| text.parse().expect("a description")))
}

fn price() -> impl Strategy<Value = Money> {
    let dollar: Currency = "USD".parse().expect("a currency");
    prop_oneof![4 => (1..4_i64).prop_map(krw), 1 => Just(Money::new(1, dollar)), 1 => Just(krw(Money::MAX_MINOR))]
}

fn command() -> impl Strategy<Value = Ask> {
    prop_oneof![
        2 => (name(), description(), price()).prop_map(|(name, description, price)| Ask::Create {
            seller: AccountId::new(id(1)),
            sku: "SKU-1".parse().expect("a SKU"),
            name,
            description,
            price,
            stock: Stock::Unlimited,
            at: Timestamp::default(),
        }),
        12 => (prop::option::of(name()), description(), prop::option::of(price()))
            .prop_map(|(name, description, price)| Ask::Change { name, description, price }),
        1 => Just(Ask::Retire),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_product_is_what_its_tag_says(commands in steps(command())) {
        walk::<Shelf>(commands);
    }
}
