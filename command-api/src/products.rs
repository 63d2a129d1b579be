//! Products and their stock.

use aggregates::{
    AccountId, Command, Inventory, InventoryCommand, Kind, Money, Name, Note, Product, ProductCommand, ProductId, Role, Sku, State, Stock,
};
use axum::{extract::State as Of, response::Response};
use engine::Actor;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Api,
    answer::Scope,
    body::{Body, Faults, MoneyBody},
    caller::{Caller, OfProduct, Seller, StockKeeper},
    problem::{self, Problem},
    represent::{InventoryBody, ProductBody},
    terms::Terms,
};

/// What there is of a product at first: either a count, or always enough.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = InitialStock)]
struct StockBody {
    /// So many.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    on_hand: Option<i64>,
    /// `true`: it is not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    unlimited: Option<bool>,
}

impl StockBody {
    fn parse(&self, faults: &mut Faults) -> Option<Stock> {
        match (self.on_hand, self.unlimited) {
            (Some(count), None | Some(false)) => {
                let count = faults.count("/stock/onHand", count, 0..=Money::MAX_MINOR)?;
                u64::try_from(count).ok().map(Stock::OnHand)
            }
            (None, Some(true)) => Some(Stock::Unlimited),
            _ => {
                faults.add(
                    &problem::INVALID_VALUE,
                    "/stock",
                    "must be either {\"onHand\": n} or {\"unlimited\": true}",
                );
                None
            }
        }
    }
}

/// A new product.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = OfferProduct, example = json!({"sku": "COFFEE-1", "name": "Coffee", "description": "Freshly brewed",
    "price": {"amount": 5000, "currency": "KRW"}, "stock": {"onHand": 1000}}))]
pub(crate) struct OfferBody {
    /// Letters, digits, `.`, `_` and `-`.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._-]+$")]
    sku: String,
    #[schema(min_length = 1, max_length = 200)]
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 4000)]
    description: Option<String>,
    /// For one, at least 1.
    price: MoneyBody,
    stock: StockBody,
}

impl OfferBody {
    fn into_command(self, api: &Api, seller: AccountId) -> Result<ProductCommand, Problem> {
        let mut faults = Faults::default();
        let sku: Option<Sku> = faults.text("/sku", &self.sku);
        let name: Option<Name> = faults.text("/name", &self.name);
        let description = faults.optional_text("/description", self.description.as_deref());
        let price = faults.price("/price", self.price, api.settings().currency);
        let stock = self.stock.parse(&mut faults);
        match (sku, name, description, price, stock) {
            (Some(sku), Some(name), Some(description), Some(price), Some(stock)) => Ok(ProductCommand::Create {
                seller,
                sku,
                name,
                description,
                price,
                stock,
                at: api.engine().now(),
            }),
            _ => Err(faults.problem()),
        }
    }
}

/// Offers a product, and opens its stock.
#[utoipa::path(post, path = "/products", operation_id = "offerProduct", tag = "products", request_body = OfferBody,
    security(("bearer" = ["SELLER"])), responses((status = 201, description = "Offered.", body = ProductBody)))]
pub(crate) async fn offer(
    Of(api): Of<Api>,
    Seller(seller): Seller,
    terms: Terms,
    Body(body): Body<OfferBody>,
) -> Result<Response, Problem> {
    let scope = Scope::new(seller.account().uuid(), "POST", "/api/v1/products");
    let keyed = api.keyed(&terms, &scope, &body)?;
    let product = ProductId::new(scope.created_id(&terms));
    let command = Command::Product(product, body.into_command(&api, seller.account())?);
    let sent = api.send(command, Actor::Account(seller.account()), &terms, keyed).await?;
    Ok(Api::answer(sent, StatusCode::CREATED, &terms))
}

/// What changes about a product; what is not named stays.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ChangeProduct, example = json!({"price": {"amount": 5500, "currency": "KRW"}}))]
pub(crate) struct ChangeBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 4000)]
    description: Option<String>,
    /// For orders placed from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    price: Option<MoneyBody>,
}

impl ChangeBody {
    fn into_command(self, api: &Api) -> Result<ProductCommand, Problem> {
        let mut faults = Faults::default();
        let name = faults.optional_text("/name", self.name.as_deref());
        let description = faults.optional_text("/description", self.description.as_deref());
        let price = self.price.and_then(|price| faults.price("/price", price, api.settings().currency));
        match (name, description) {
            (Some(name), Some(description)) => {
                faults.none()?;
                Ok(ProductCommand::Change { name, description, price })
            }
            _ => Err(faults.problem()),
        }
    }
}

/// Changes a product.
#[utoipa::path(patch, path = "/products/{id}", operation_id = "changeProduct", tag = "products", request_body = ChangeBody,
    params(("id" = Uuid, Path, description = "The product.")), security(("bearer" = ["SELLER"])),
    responses((status = 200, description = "Changed.", body = ProductBody)))]
pub(crate) async fn change(
    Of(api): Of<Api>,
    Seller(seller): Seller,
    OfProduct(product): OfProduct,
    terms: Terms,
    Body(body): Body<ChangeBody>,
) -> Result<Response, Problem> {
    let scope = Scope::new(seller.account().uuid(), "PATCH", format!("/api/v1/products/{product}"));
    let keyed = api.keyed(&terms, &scope, &body)?;
    let change = body.into_command(&api)?;
    api.product_of(product, seller).await?;
    let sent = api
        .send(Command::Product(product, change), Actor::Account(seller.account()), &terms, keyed)
        .await?;
    Ok(Api::answer(sent, StatusCode::OK, &terms))
}

/// Takes a product off the shelf: it can be ordered no more.
#[utoipa::path(delete, path = "/products/{id}", operation_id = "retireProduct", tag = "products",
    params(("id" = Uuid, Path, description = "The product.")), security(("bearer" = ["SELLER"])),
    responses((status = 204, description = "Retired.")))]
pub(crate) async fn retire(
    Of(api): Of<Api>,
    Seller(seller): Seller,
    OfProduct(product): OfProduct,
    terms: Terms,
) -> Result<Response, Problem> {
    let scope = Scope::new(seller.account().uuid(), "DELETE", format!("/api/v1/products/{product}"));
    let keyed = api.keyed(&terms, &scope, &())?;
    api.product_of(product, seller).await?;
    let command = Command::Product(product, ProductCommand::Retire);
    let sent = api.send(command, Actor::Account(seller.account()), &terms, keyed).await?;
    let mut response = Api::answer(sent, StatusCode::NO_CONTENT, &terms);
    if !terms.dry_run {
        *response.body_mut() = axum::body::Body::empty();
        response.headers_mut().remove(http::header::CONTENT_TYPE);
    }
    Ok(response)
}

/// Goods that came in.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ReceiveStock, example = json!({"quantity": 100, "reference": "delivery note 4711"}))]
pub(crate) struct ReceiptBody {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    quantity: i64,
    /// The delivery note.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 500)]
    reference: Option<String>,
}

/// Adds goods that came in to a product's stock.
#[utoipa::path(post, path = "/products/{id}/stock/receipts", operation_id = "receiveStock", tag = "products", request_body = ReceiptBody,
    params(("id" = Uuid, Path, description = "The product.")), security(("bearer" = ["SELLER", "ADMIN"])),
    responses((status = 201, description = "Received.", body = InventoryBody)))]
pub(crate) async fn receive(
    Of(api): Of<Api>,
    StockKeeper(keeper): StockKeeper,
    OfProduct(product): OfProduct,
    terms: Terms,
    Body(body): Body<ReceiptBody>,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let quantity = faults
        .count("/quantity", body.quantity, 1..=Money::MAX_MINOR)
        .and_then(|quantity| u64::try_from(quantity).ok());
    let reference: Option<Option<Note>> = faults.optional_text("/reference", body.reference.as_deref());
    let (Some(quantity), Some(reference)) = (quantity, reference) else {
        return Err(faults.problem());
    };
    api.change_stock(
        keeper,
        product,
        "receipts",
        &terms,
        &body,
        InventoryCommand::Receive { quantity, reference },
    )
    .await
}

/// A correction of the stock.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = AdjustStock, example = json!({"delta": -2, "reason": "broken"}))]
pub(crate) struct AdjustmentBody {
    /// Negative writes off.
    #[schema(minimum = -9_007_199_254_740_991_i64, maximum = 9_007_199_254_740_991_i64)]
    delta: i64,
    #[schema(min_length = 1, max_length = 500)]
    reason: String,
}

/// Writes off goods that were lost, or adds those that were found.
#[utoipa::path(post, path = "/products/{id}/stock/adjustments", operation_id = "adjustStock", tag = "products", request_body = AdjustmentBody,
    params(("id" = Uuid, Path, description = "The product.")), security(("bearer" = ["SELLER", "ADMIN"])),
    responses((status = 201, description = "Adjusted.", body = InventoryBody)))]
pub(crate) async fn adjust(
    Of(api): Of<Api>,
    StockKeeper(keeper): StockKeeper,
    OfProduct(product): OfProduct,
    terms: Terms,
    Body(body): Body<AdjustmentBody>,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let delta = faults.count("/delta", body.delta, -Money::MAX_MINOR..=Money::MAX_MINOR);
    let reason: Option<Note> = faults.text("/reason", &body.reason);
    let (Some(delta), Some(reason)) = (delta, reason) else {
        return Err(faults.problem());
    };
    api.change_stock(
        keeper,
        product,
        "adjustments",
        &terms,
        &body,
        InventoryCommand::Adjust { delta, reason },
    )
    .await
}

impl Api {
    async fn change_stock(
        &self,
        keeper: Caller,
        product: ProductId,
        what: &str,
        terms: &Terms,
        body: &impl Serialize,
        command: InventoryCommand,
    ) -> Result<Response, Problem> {
        terms.required_key()?;
        let scope = Scope::new(keeper.account().uuid(), "POST", format!("/api/v1/products/{product}/stock/{what}"));
        let keyed = self.keyed(terms, &scope, body)?;
        self.stock_of(product, keeper).await?;
        let sent = self
            .send(Command::Inventory(product, command), Actor::Account(keeper.account()), terms, keyed)
            .await?;
        Ok(Self::answer(sent, StatusCode::CREATED, terms))
    }

    /// Lets the product's own seller pass.
    async fn product_of(&self, product: ProductId, seller: Caller) -> Result<(), Problem> {
        let versioned = self.engine().read(Kind::Product, product.uuid()).await?;
        match versioned.as_ref().map(|versioned| &versioned.state) {
            Some(State::Product(known)) => match &**known {
                Product::Offered { seller: owner, .. } if *owner == seller.account() => Ok(()),
                Product::Offered { .. } => Err(Problem::of(&problem::NOT_YOUR_PRODUCT)),
                Product::New => Err(Problem::of(&problem::UNKNOWN_PRODUCT)),
            },
            _ => Err(Problem::of(&problem::UNKNOWN_PRODUCT)),
        }
    }

    /// Lets the stock's own seller and the admin pass.
    async fn stock_of(&self, product: ProductId, keeper: Caller) -> Result<(), Problem> {
        let versioned = self.engine().read(Kind::Inventory, product.uuid()).await?;
        let owner = versioned.as_ref().and_then(|versioned| match &versioned.state {
            State::Inventory(stock) => Inventory::seller(stock),
            _ => None,
        });
        match owner {
            Some(owner) if owner == keeper.account() || keeper.role() == Role::Admin => Ok(()),
            Some(_) => Err(Problem::of(&problem::NOT_YOUR_PRODUCT)),
            None => Err(Problem::of(&problem::UNKNOWN_PRODUCT)),
        }
    }
}
