//! The schema: what can be asked. Its types wrap views; who may see what is `viewer`'s to say.

#![allow(clippy::unused_async, reason = "what resolves a field is async, whether it waits or not")]

mod account;
mod order;
mod payment;
mod product;
mod values;

use aggregates::{AccountId, OrderId, PaymentId, ProductId};
use async_graphql::{
    Context, EmptyMutation, EmptySubscription, ID, Interface, Object, Result, Schema,
    connection::{Connection, Edge},
};
use projections::{OrdersQuestion, ProductsQuestion};
use uuid::Uuid;

pub(crate) use account::Account;
pub(crate) use order::{Order, StuckAfter};
pub(crate) use payment::Payment;
pub(crate) use product::{Inventory, Product};

use crate::{
    Limits,
    cursor::{self, List, page_cost, page_size},
    error::Failed,
    reader::{Reader, StockOf},
    viewer::{Sight, Viewer},
};
use values::{OrderStatus, id};

/// The most characters of a search.
const MOST_SEARCHED: usize = 200;

/// The schema of the shop's questions.
pub(crate) type ShopSchema = Schema<Query, EmptyMutation, EmptySubscription>;

/// Builds the schema. Depth is bounded with the other limits, before validation.
pub(crate) fn schema(limits: &Limits, introspection: bool) -> ShopSchema {
    let builder = Schema::build(Query, EmptyMutation, EmptySubscription)
        .limit_complexity(limits.complexity)
        .extension(crate::http::Started);
    if introspection {
        builder.finish()
    } else {
        builder.disable_introspection().disable_suggestions().finish()
    }
}

/// The schema in GraphQL's own language, as `schema.graphql` keeps it.
#[must_use]
pub fn schema_sdl() -> String {
    schema(&Limits::default(), true).sdl()
}

fn reader<'a>(ctx: &Context<'a>) -> Result<&'a Reader> {
    ctx.data::<Reader>()
}

fn viewer(ctx: &Context<'_>) -> Result<Viewer> {
    ctx.data::<Viewer>().copied()
}

/// A search, trimmed; none when nothing is left.
fn search(text: Option<String>) -> Result<Option<String>, Failed> {
    let Some(text) = text else { return Ok(None) };
    let text = text.trim();
    if text.chars().count() > MOST_SEARCHED || text.chars().any(char::is_control) {
        return Err(Failed::bad_input(format!(
            "`search` has at most {MOST_SEARCHED} characters, and no control characters"
        )));
    }
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

/// What has an id of its own.
#[derive(Interface)]
#[graphql(field(name = "id", ty = "ID", desc = "Names it."))]
pub(crate) enum Node {
    Order(Order),
    Product(Product),
    Account(Account),
    Payment(Payment),
}

/// The questions. What the asker may not see is answered like what is not there.
pub(crate) struct Query;

/// The questions. What the asker may not see is answered like what is not there.
#[Object]
impl Query {
    /// The asker's own account; null without a login.
    async fn me(&self, ctx: &Context<'_>) -> Result<Option<Account>> {
        match viewer(ctx)?.0 {
            Some(asker) => Account::load(ctx, asker.account, Sight::Whole).await,
            None => Ok(None),
        }
    }

    /// The product with this id.
    async fn product(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Product>> {
        let product: ProductId = values::id("id", &id)?;
        Ok(reader(ctx)?.load_one(product).await?.map(Product))
    }

    /// The products on offer, newest first.
    #[graphql(complexity = "page_cost(first, child_complexity)")]
    async fn products(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many, 1 to 100; 20 unless said.")] first: Option<i32>,
        #[graphql(desc = "Behind this cursor.")] after: Option<String>,
        #[graphql(desc = "Only those whose name, description or SKU contains this text.")] search: Option<String>,
        #[graphql(desc = "Only this seller's.")] seller_id: Option<ID>,
    ) -> Result<Option<Connection<String, Product>>> {
        let question = ProductsQuestion {
            seller: seller_id.map(|seller| id("sellerId", &seller)).transpose()?,
            search: self::search(search)?,
            retired: false,
            first: page_size(first)?,
            after: cursor::parse_by_time(List::Products, after.as_deref())?,
        };
        let behind = question.after.is_some();
        let page = reader(ctx)?.loader().ask(move |views| views.products_page(&question)).await?;
        let mut connection = Connection::new(behind, page.more);
        let edge =
            |product: projections::ProductView| Edge::new(cursor::by_time(List::Products, product.cursor()), Product(product.into()));
        connection.edges.extend(page.rows.into_iter().map(edge));
        Ok(Some(connection))
    }

    /// The order with this id.
    async fn order(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Order>> {
        let order: OrderId = values::id("id", &id)?;
        Order::shown(ctx, reader(ctx)?.load_one(order).await?)
    }

    /// The order with this number.
    async fn order_by_number(&self, ctx: &Context<'_>, order_number: ID) -> Result<Option<Order>> {
        let number = order_number
            .parse()
            .map_err(|_| Failed::bad_input("`orderNumber` is not an order number: it has at least 16 digits"))?;
        let order = reader(ctx)?.loader().ask(move |views| views.order_by_number(&number)).await?;
        Order::shown(ctx, order.map(Into::into))
    }

    /// The order with this tracking id.
    async fn order_by_tracking_id(&self, ctx: &Context<'_>, tracking_id: ID) -> Result<Option<Order>> {
        let tracking = id("trackingId", &tracking_id)?;
        let order = reader(ctx)?.loader().ask(move |views| views.order_by_tracking(tracking)).await?;
        Order::shown(ctx, order.map(Into::into))
    }

    /// The orders that the asker may see, newest first: a buyer's own, those of a seller's products, an admin's all.
    #[graphql(complexity = "page_cost(first, child_complexity)")]
    async fn orders(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many, 1 to 100; 20 unless said.")] first: Option<i32>,
        #[graphql(desc = "Behind this cursor.")] after: Option<String>,
        #[graphql(desc = "Only those that stand here.")] status: Option<OrderStatus>,
        #[graphql(desc = "Only those whose number, or the name of one of whose products, contains this text.")] search: Option<String>,
    ) -> Result<Option<Connection<String, Order>>> {
        let question = OrdersQuestion {
            scope: viewer(ctx)?.scope().ok_or(Failed::Unauthenticated)?,
            status: status.map(Into::into),
            search: self::search(search)?,
            first: page_size(first)?,
            after: cursor::parse_by_time(List::Orders, after.as_deref())?,
        };
        let behind = question.after.is_some();
        let page = reader(ctx)?.loader().ask(move |views| views.orders_page(&question)).await?;
        let mut connection = Connection::new(behind, page.more);
        let edge = |order: projections::OrderView| Edge::new(cursor::by_time(List::Orders, order.cursor()), Order(order.into()));
        connection.edges.extend(page.rows.into_iter().map(edge));
        Ok(Some(connection))
    }

    /// The stock of this product.
    async fn inventory(&self, ctx: &Context<'_>, product_id: ID) -> Result<Option<Inventory>> {
        let product: ProductId = id("productId", &product_id)?;
        Ok(reader(ctx)?.load_one(StockOf(product)).await?.map(Inventory))
    }

    /// The payment with this id.
    async fn payment(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Payment>> {
        let payment: PaymentId = values::id("id", &id)?;
        Payment::shown(ctx, reader(ctx)?.load_one(payment).await?).await
    }

    /// Whatever has this id: an order, a product, an account or a payment.
    #[graphql(complexity = "10 + child_complexity")]
    async fn node(&self, ctx: &Context<'_>, id: ID) -> Result<Option<Node>> {
        let id: Uuid = values::id("id", &id)?;
        let reader = reader(ctx)?;
        // All at once, so that the time it takes does not tell what there is.
        let (product, order, payment) = tokio::try_join!(
            reader.load_one(ProductId::new(id)),
            reader.load_one(OrderId::new(id)),
            reader.load_one(PaymentId::new(id))
        )?;
        if let Some(product) = product {
            return Ok(Some(Node::Product(Product(product))));
        }
        if order.is_some() {
            return Ok(Order::shown(ctx, order)?.map(Node::Order));
        }
        if payment.is_some() {
            return Ok(Payment::shown(ctx, payment).await?.map(Node::Payment));
        }
        let account = AccountId::new(id);
        match account_sight(ctx, account).await? {
            Some(sight) => Ok(Account::load(ctx, account, sight).await?.map(Node::Account)),
            None => Ok(None),
        }
    }
}

/// How much is seen of an account that nothing leads to but its id.
async fn account_sight(ctx: &Context<'_>, account: AccountId) -> Result<Option<Sight>> {
    let viewer = viewer(ctx)?;
    if viewer.owns(account) {
        return Ok(Some(Sight::Whole));
    }
    let Some(seller) = viewer.seller() else { return Ok(None) };
    let sold = reader(ctx)?.loader().ask(move |views| views.seller_sees(seller, account)).await?;
    Ok(sold.then_some(Sight::Customer))
}
