//! A product: what a seller offers, and at which price. Its stock is an aggregate of its own.

use serde::{Deserialize, Serialize};

use crate::{AccountId, Class, Decide, Description, Money, Name, Reason, Sku, Stock, Timestamp, aggregate, stored_names};

/// What a product can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProductCommand {
    /// Offers it.
    Create {
        /// Whose it is.
        seller: AccountId,
        /// The seller's own number for it.
        sku: Sku,
        /// What it is called.
        name: Name,
        /// What it is.
        description: Option<Description>,
        /// For one.
        price: Money,
        /// What there is of it at first.
        stock: Stock,
        /// When.
        at: Timestamp,
    },
    /// Changes what is named, and leaves the rest.
    Change {
        /// A new name.
        name: Option<Name>,
        /// A new description.
        description: Option<Description>,
        /// A new price, for orders placed from now on.
        price: Option<Money>,
    },
    /// Takes it off the shelf: it can be ordered no more.
    Retire,
}

/// What has happened to a product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum ProductEvent {
    /// It is offered.
    #[serde(rename = "product.created")]
    Created {
        /// Whose it is.
        seller: AccountId,
        /// The seller's own number for it.
        sku: Sku,
        /// What it is called.
        name: Name,
        /// What it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        description: Option<Description>,
        /// For one.
        price: Money,
        /// What there is of it at first.
        stock: Stock,
        /// When.
        at: Timestamp,
    },
    /// It is described differently, or costs something else.
    #[serde(rename = "product.changed")]
    Changed {
        /// Its new name, if that changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<Name>,
        /// Its new description, if that changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        description: Option<Description>,
        /// Its new price, if that changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        price: Option<Money>,
    },
    /// It can be ordered no more.
    #[serde(rename = "product.retired")]
    Retired {},
}

stored_names!(ProductEvent { Created => "product.created", Changed => "product.changed", Retired => "product.retired" });

/// Why a product refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProductError {
    /// There is no such product.
    #[error("there is no such product")]
    Unknown,
    /// Another product has this id.
    #[error("this product exists already")]
    Exists,
    /// It was taken off the shelf.
    #[error("this product is retired")]
    Retired,
    /// One product, one currency.
    #[error("the price must be in {0}")]
    CurrencyMismatch(crate::Currency),
}

impl Reason for ProductError {
    fn class(&self) -> Class {
        match self {
            Self::Unknown => Class::Unknown,
            Self::Exists | Self::Retired => Class::State,
            Self::CurrencyMismatch(_) => Class::Rule,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown-product",
            Self::Exists => "product-exists",
            Self::Retired => "product-retired",
            Self::CurrencyMismatch(_) => "currency-mismatch",
        }
    }
}

/// A product's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Product {
    /// Nobody offered it yet.
    #[default]
    New,
    /// It is, or was, offered.
    Offered {
        /// Whose it is.
        seller: AccountId,
        /// What it is called.
        name: Name,
        /// What it is.
        description: Option<Description>,
        /// For one.
        price: Money,
        /// Whether it was taken off the shelf.
        retired: bool,
    },
}

impl Decide for Product {
    fn decide(&self, command: ProductCommand) -> Result<Vec<ProductEvent>, ProductError> {
        match (self, command) {
            (
                Self::New,
                ProductCommand::Create {
                    seller,
                    sku,
                    name,
                    description,
                    price,
                    stock,
                    at,
                },
            ) => Ok(vec![ProductEvent::Created {
                seller,
                sku,
                name,
                description,
                price,
                stock,
                at,
            }]),
            (Self::New, _) => Err(ProductError::Unknown),
            (Self::Offered { .. }, ProductCommand::Create { .. }) => Err(ProductError::Exists),
            (Self::Offered { retired: true, .. }, ProductCommand::Retire) => Ok(vec![]),
            (Self::Offered { retired: true, .. }, ProductCommand::Change { .. }) => Err(ProductError::Retired),
            (Self::Offered { .. }, ProductCommand::Retire) => Ok(vec![ProductEvent::Retired {}]),
            (
                Self::Offered {
                    name: n,
                    description: d,
                    price: p,
                    ..
                },
                ProductCommand::Change { name, description, price },
            ) => {
                if let Some(price) = price
                    && price.currency() != p.currency()
                {
                    return Err(ProductError::CurrencyMismatch(p.currency()));
                }
                let name = name.filter(|name| name != n);
                let description = description.filter(|description| Some(description) != d.as_ref());
                let price = price.filter(|price| price != p);
                let same = name.is_none() && description.is_none() && price.is_none();
                Ok(if same {
                    vec![]
                } else {
                    vec![ProductEvent::Changed { name, description, price }]
                })
            }
        }
    }

    fn evolve(&mut self, event: &ProductEvent) {
        match (event, &mut *self) {
            (
                ProductEvent::Created {
                    seller,
                    name,
                    description,
                    price,
                    ..
                },
                _,
            ) => {
                *self = Self::Offered {
                    seller: *seller,
                    name: name.clone(),
                    description: description.clone(),
                    price: *price,
                    retired: false,
                };
            }
            (
                ProductEvent::Changed { name, description, price },
                Self::Offered {
                    name: n,
                    description: d,
                    price: p,
                    ..
                },
            ) => {
                if let Some(name) = name {
                    n.clone_from(name);
                }
                if description.is_some() {
                    d.clone_from(description);
                }
                *p = price.unwrap_or(*p);
            }
            (ProductEvent::Retired {}, Self::Offered { retired, .. }) => *retired = true,
            (ProductEvent::Changed { .. } | ProductEvent::Retired {}, Self::New) => {}
        }
    }
}

aggregate!(Product, "product", ProductCommand, ProductEvent, ProductError);
