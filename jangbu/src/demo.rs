//! The demo shop: three accounts, a balance, and the products of a cafe. Loading it twice changes nothing.

use aggregates::{AccountId, Command, Currency, Kind, Money, ProductCommand, ProductId, Role, State, Stock, WalletCommand};
use command_api::{Api, ensure_account};
use engine::{Actor, Cause, Engine, Idempotency, Request};
use event_store::RecordKey;
use uuid::{Uuid, uuid};

use crate::failure::Failure;

/// The password of every demo account.
pub(crate) const PASSWORD: &str = "jangbu-demo";

/// What the buyer begins with, in won.
const BALANCE: i64 = 1_000_000;

/// The ids of the demo derive from this one.
const NAMESPACE: Uuid = uuid!("6a616e67-6275-5000-8000-64656d6f7368");

/// An account of the demo.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DemoAccount {
    pub(crate) email: &'static str,
    pub(crate) role: Role,
    pub(crate) does: &'static str,
    name: &'static str,
}

/// The accounts: the first runs the shop, the second offers, the third orders.
pub(crate) const ACCOUNTS: [DemoAccount; 3] = [ADMIN, SELLER, BUYER];
const ADMIN: DemoAccount = DemoAccount {
    email: "admin@jangbu.dev",
    role: Role::Admin,
    does: "runs the shop",
    name: "관리자",
};
const SELLER: DemoAccount = DemoAccount {
    email: "seller@jangbu.dev",
    role: Role::Seller,
    does: "offers the products",
    name: "장부 카페",
};
const BUYER: DemoAccount = DemoAccount {
    email: "buyer@jangbu.dev",
    role: Role::Buyer,
    does: "orders, with a balance of 1,000,000 KRW",
    name: "김민지",
};

impl DemoAccount {
    fn id(self) -> AccountId {
        AccountId::new(Uuid::new_v5(&NAMESPACE, self.email.as_bytes()))
    }
}

/// A product of the demo.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DemoProduct {
    pub(crate) id: Uuid,
    pub(crate) name: &'static str,
    pub(crate) price: i64,
    pub(crate) stock: Stock,
    pub(crate) description: &'static str,
    sku: &'static str,
}

/// The products.
pub(crate) const PRODUCTS: [DemoProduct; 6] = [
    DemoProduct {
        id: uuid!("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"),
        name: "커피",
        price: 5_000,
        stock: Stock::OnHand(1_000),
        sku: "COFFEE",
        description: "Coffee, hot or iced",
    },
    DemoProduct {
        id: uuid!("1f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f1"),
        name: "샌드위치",
        price: 8_000,
        stock: Stock::OnHand(500),
        sku: "SANDWICH",
        description: "Sandwich with ham, cheese and tomato",
    },
    DemoProduct {
        id: uuid!("2f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f2"),
        name: "샐러드",
        price: 12_000,
        stock: Stock::OnHand(300),
        sku: "SALAD",
        description: "Salad of the season",
    },
    DemoProduct {
        id: uuid!("3f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f3"),
        name: "피자",
        price: 25_000,
        stock: Stock::OnHand(200),
        sku: "PIZZA",
        description: "Pizza margherita, for two",
    },
    DemoProduct {
        id: uuid!("4f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f4"),
        name: "파스타",
        price: 18_000,
        stock: Stock::OnHand(250),
        sku: "PASTA",
        description: "Pasta with tomato and basil",
    },
    DemoProduct {
        id: uuid!("5f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f5"),
        name: "모바일 상품권",
        price: 10_000,
        stock: Stock::Unlimited,
        sku: "GIFT-CARD",
        description: "Gift card, never out of stock",
    },
];

/// Makes what there is not yet.
pub(crate) async fn load(api: &Api, engine: &Engine) -> Result<(), Failure> {
    let failed =
        |what: &str, error: &dyn std::fmt::Display| Failure::failed(format_args!("the demo shop cannot be loaded: {what}: {error}"));
    let mut seller = SELLER.id();
    for account in ACCOUNTS {
        let id = ensure_account(api, account.id(), account.email, PASSWORD, account.name, account.role).await;
        let id = id.map_err(|error| failed(account.email, &error))?;
        match account.role {
            Role::Seller => seller = id,
            Role::Buyer => deposit(engine, id).await.map_err(|error| failed("the buyer's balance", &error))?,
            Role::Admin => {}
        }
    }
    for product in PRODUCTS {
        offer(engine, seller, product).await.map_err(|error| failed(product.sku, &error))?;
    }
    tracing::info!(accounts = ACCOUNTS.len(), products = PRODUCTS.len(), "the demo shop is loaded");
    Ok(())
}

fn request(command: Command) -> Request {
    Request::new(
        command,
        Cause {
            actor: Actor::System,
            correlation: Uuid::now_v7(),
            traceparent: None,
        },
    )
}

/// Fills a wallet that nothing has happened to but its opening. Two records guard it: the wallet's version, for ever, and the request's
/// own, so that two processes that look at the same time deposit once.
async fn deposit(engine: &Engine, account: AccountId) -> Result<(), String> {
    const OPENED: u64 = 1;
    let wallet = engine.read(Kind::Wallet, account.uuid()).await.map_err(|error| error.to_string())?;
    if wallet.is_some_and(|wallet| wallet.version > OPENED) {
        return Ok(());
    }
    let mark = Uuid::new_v5(&NAMESPACE, b"deposit").into_bytes();
    let amount = Money::new(BALANCE, Currency::KRW);
    let request = Request {
        idempotency: Some(Idempotency {
            key: "demo-balance".to_owned(),
            record: RecordKey(mark),
            fingerprint: mark,
        }),
        ..request(Command::Wallet(account, WalletCommand::Deposit { amount }))
    };
    done(engine, request).await
}

async fn is_offered(engine: &Engine, product: &DemoProduct) -> Result<bool, String> {
    let known = engine.read(Kind::Product, product.id).await.map_err(|error| error.to_string())?;
    Ok(known.is_some_and(|known| matches!(known.state, State::Product(_))))
}

async fn offer(engine: &Engine, seller: AccountId, product: DemoProduct) -> Result<(), String> {
    if is_offered(engine, &product).await? {
        return Ok(());
    }
    let text = |error: aggregates::TextError| error.to_string();
    let create = ProductCommand::Create {
        seller,
        sku: product.sku.parse().map_err(text)?,
        name: product.name.parse().map_err(text)?,
        description: Some(product.description.parse().map_err(text)?),
        price: Money::new(product.price, Currency::KRW),
        stock: product.stock,
        at: engine.now(),
    };
    let created = done(engine, request(Command::Product(ProductId::new(product.id), create))).await;
    // Another process may have been quicker.
    if created.is_err() && is_offered(engine, &product).await? {
        return Ok(());
    }
    created
}

async fn done(engine: &Engine, request: Request) -> Result<(), String> {
    let reply = engine.execute(request).await.map_err(|error| error.to_string())?;
    reply.answer.result.map(drop).map_err(|refusal| refusal.detail.into_owned())
}
