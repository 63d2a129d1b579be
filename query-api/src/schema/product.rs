//! Products and their stock: anyone may see them.

use std::sync::Arc;

use async_graphql::{Context, ID, Object, Result};
use projections::{InventoryView, ProductView};

use super::{
    Account, reader,
    values::{DateTime, Money, Units},
    viewer,
};
use crate::{reader::StockOf, viewer::Sight};

/// A product.
pub(crate) struct Product(pub(crate) Arc<ProductView>);

/// What a seller offers, and at which price.
#[Object]
impl Product {
    /// Names it.
    pub(crate) async fn id(&self) -> ID {
        self.0.id.into()
    }

    /// How many events it counts; the `ETag` of the product in the REST API.
    async fn version(&self) -> u64 {
        self.0.version
    }

    /// The seller's own number for it.
    async fn sku(&self) -> &str {
        self.0.sku.as_str()
    }

    /// What it is called.
    async fn name(&self) -> &str {
        self.0.name.as_str()
    }

    /// What it is.
    async fn description(&self) -> Option<&str> {
        self.0.description.as_ref().map(aggregates::Description::as_str)
    }

    /// For one.
    async fn price(&self) -> Money {
        self.0.price.into()
    }

    /// Whether it was taken off the shelf: then it can be ordered no more.
    async fn retired(&self) -> bool {
        self.0.retired
    }

    /// When it was offered first.
    async fn created_at(&self) -> DateTime {
        DateTime(self.0.created_at)
    }

    /// Whose it is.
    async fn seller(&self, ctx: &Context<'_>) -> Result<Option<Account>> {
        let sight = viewer(ctx)?.sight(self.0.seller, Sight::Shop);
        Account::load(ctx, self.0.seller, sight).await
    }

    /// Its stock.
    async fn inventory(&self, ctx: &Context<'_>) -> Result<Option<Inventory>> {
        Ok(reader(ctx)?.load_one(StockOf(self.0.id)).await?.map(Inventory))
    }
}

/// The stock of a product.
pub(crate) struct Inventory(pub(crate) Arc<InventoryView>);

/// The stock of one product. Always: available = on hand - reserved.
#[Object]
impl Inventory {
    /// How many events it counts; the `ETag` of stock changes in the REST API.
    async fn version(&self) -> u64 {
        self.0.version
    }

    /// On the shelf.
    async fn on_hand(&self) -> Units {
        Units(self.0.on_hand)
    }

    /// Of these, promised to orders.
    async fn reserved(&self) -> Units {
        Units(self.0.reserved)
    }

    /// Of these, free to be ordered.
    async fn available(&self) -> Units {
        Units(self.0.available())
    }

    /// Whether there is always enough, and nothing is counted.
    async fn unlimited(&self) -> bool {
        self.0.unlimited
    }

    /// Of what.
    async fn product(&self, ctx: &Context<'_>) -> Result<Option<Product>> {
        Ok(reader(ctx)?.load_one(self.0.product).await?.map(Product))
    }
}
