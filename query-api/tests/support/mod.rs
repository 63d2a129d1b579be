//! A shop in memory: the views' port as a fake that counts how often it is asked, and a router on it.

#![allow(dead_code, reason = "each test file uses its part of it")]

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use aggregates::{
    AccountId, Attention, Currency, FailureCode, Line, Money, Obstacle, OrderEvent, OrderId, OrderNumber, OrderStatus, PaymentId,
    PaymentMethod, PaymentStatus, ProductId, Quantity, Role, Sealed, Timestamp, TrackingId,
};
use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header},
};
use event_store::Shards;
use http_body_util::BodyExt as _;
use key_vault::KeyVault;
use projections::{
    AccountView, Attempt, AttemptKind, AttemptOutcome, AttemptResult, Checkpoint, Cursor, EntryKind, Failure, InventoryView, OrderView,
    OrdersQuestion, Page, PaymentView, ProcessesQuestion, ProductView, ProductsQuestion, Progress, ReadError, RunnerState, Scope,
    ShardProgress, Views, WalletEntry, WalletView,
};
use query_api::{AuthError, ConsistencyToken, Limits, Principal, QueryApi, Timeouts};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tower::ServiceExt as _;
use uuid::Uuid;

pub(crate) const STUCK_AFTER: Duration = Duration::from_hours(24);
pub(crate) const LOG: Uuid = Uuid::from_u128(0x109);

/// Who there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Nobody,
    Buyer,
    OtherBuyer,
    Seller,
    OtherSeller,
    Admin,
}

impl Who {
    pub(crate) const ALL: [Self; 6] = [
        Self::Nobody,
        Self::Buyer,
        Self::OtherBuyer,
        Self::Seller,
        Self::OtherSeller,
        Self::Admin,
    ];

    pub(crate) fn account(self) -> AccountId {
        AccountId::new(Uuid::from_u128(0xACC0 + self as u128))
    }

    pub(crate) fn role(self) -> Role {
        match self {
            Self::Nobody | Self::Buyer | Self::OtherBuyer => Role::Buyer,
            Self::Seller | Self::OtherSeller => Role::Seller,
            Self::Admin => Role::Admin,
        }
    }

    fn token(self) -> Option<String> {
        (self != Self::Nobody).then(|| format!("token-of-{self:?}"))
    }
}

fn authenticate(token: &str) -> Result<Principal, AuthError> {
    if token == "expired" {
        return Err(AuthError::Expired);
    }
    let who = Who::ALL
        .into_iter()
        .find(|who| who.token().as_deref() == Some(token))
        .ok_or(AuthError::Invalid)?;
    Ok(Principal {
        account: who.account(),
        role: who.role(),
    })
}

/// The views, as maps.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) orders: Vec<OrderView>,
    pub(crate) products: Vec<ProductView>,
    pub(crate) inventories: Vec<InventoryView>,
    pub(crate) payments: Vec<PaymentView>,
    pub(crate) accounts: Vec<AccountView>,
    pub(crate) wallets: Vec<WalletView>,
    pub(crate) entries: Vec<WalletEntry>,
    /// How often each method was asked.
    pub(crate) calls: Mutex<BTreeMap<&'static str, usize>>,
    /// How long each answer takes.
    pub(crate) slow: Duration,
    /// Whether nothing can be read.
    pub(crate) broken: bool,
}

impl Memory {
    fn called(&self, name: &'static str) -> Result<(), ReadError> {
        *self.calls.lock().expect("no test panics with it").entry(name).or_default() += 1;
        std::thread::sleep(self.slow);
        if self.broken {
            Err(ReadError::Unavailable("the disk of this test is broken".into()))
        } else {
            Ok(())
        }
    }

    pub(crate) fn counted(&self) -> BTreeMap<&'static str, usize> {
        self.calls.lock().expect("no test panics with it").clone()
    }
}

fn pick<K: Copy + Eq + std::hash::Hash, V: Clone>(rows: &[V], ids: &[K], key: impl Fn(&V) -> K) -> HashMap<K, V> {
    rows.iter()
        .filter(|row| ids.contains(&key(row)))
        .map(|row| (key(row), row.clone()))
        .collect()
}

fn page<V>(mut rows: Vec<V>, cursor: impl Fn(&V) -> Cursor, first: usize, after: Option<Cursor>) -> Page<V> {
    rows.sort_by_key(|row| std::cmp::Reverse(cursor(row)));
    let rows = rows
        .into_iter()
        .filter(|row| after.is_none_or(|after| cursor(row) < after))
        .take(first + 1)
        .collect();
    Page::of(rows, first)
}

impl Views for Memory {
    fn orders(&self, ids: &[OrderId]) -> Result<HashMap<OrderId, OrderView>, ReadError> {
        self.called("orders")?;
        Ok(pick(&self.orders, ids, |row| row.id))
    }

    fn order_by_number(&self, number: &OrderNumber) -> Result<Option<OrderView>, ReadError> {
        self.called("order_by_number")?;
        Ok(self.orders.iter().find(|row| row.number == *number).cloned())
    }

    fn order_by_tracking(&self, tracking: TrackingId) -> Result<Option<OrderView>, ReadError> {
        self.called("order_by_tracking")?;
        Ok(self.orders.iter().find(|row| row.tracking == tracking).cloned())
    }

    fn orders_page(&self, question: &OrdersQuestion) -> Result<Page<OrderView>, ReadError> {
        self.called("orders_page")?;
        let wanted = |row: &&OrderView| question.scope.sees(row) && question.status.is_none_or(|status| row.status == status);
        let found = |row: &&OrderView| question.search.as_ref().is_none_or(|text| row.number.as_str().contains(text));
        Ok(page(
            self.orders.iter().filter(wanted).filter(found).cloned().collect(),
            OrderView::cursor,
            question.first,
            question.after,
        ))
    }

    fn processes_page(&self, question: &ProcessesQuestion) -> Result<Page<OrderView>, ReadError> {
        self.called("processes_page")?;
        let wanted = |row: &&OrderView| {
            row.purchase_under_way()
                && question.stuck.is_none_or(|stuck| row.stuck() == stuck)
                && question.after.is_none_or(|after| row.cursor() > after)
        };
        let mut rows: Vec<_> = self.orders.iter().filter(wanted).cloned().collect();
        rows.sort_by_key(OrderView::cursor);
        rows.truncate(question.first + 1);
        Ok(Page::of(rows, question.first))
    }

    fn products(&self, ids: &[ProductId]) -> Result<HashMap<ProductId, ProductView>, ReadError> {
        self.called("products")?;
        Ok(pick(&self.products, ids, |row| row.id))
    }

    fn products_page(&self, question: &ProductsQuestion) -> Result<Page<ProductView>, ReadError> {
        self.called("products_page")?;
        let wanted = |row: &&ProductView| question.seller.is_none_or(|seller| row.seller == seller) && (question.retired || !row.retired);
        let found = |row: &&ProductView| question.search.as_ref().is_none_or(|text| row.name.as_str().contains(text));
        Ok(page(
            self.products.iter().filter(wanted).filter(found).cloned().collect(),
            ProductView::cursor,
            question.first,
            question.after,
        ))
    }

    fn inventories(&self, ids: &[ProductId]) -> Result<HashMap<ProductId, InventoryView>, ReadError> {
        self.called("inventories")?;
        Ok(pick(&self.inventories, ids, |row| row.product))
    }

    fn payments(&self, ids: &[PaymentId]) -> Result<HashMap<PaymentId, PaymentView>, ReadError> {
        self.called("payments")?;
        Ok(pick(&self.payments, ids, |row| row.id))
    }

    fn accounts(&self, ids: &[AccountId]) -> Result<HashMap<AccountId, AccountView>, ReadError> {
        self.called("accounts")?;
        Ok(pick(&self.accounts, ids, |row| row.id))
    }

    fn wallets(&self, ids: &[AccountId]) -> Result<HashMap<AccountId, WalletView>, ReadError> {
        self.called("wallets")?;
        Ok(pick(&self.wallets, ids, |row| row.account))
    }

    fn wallet_entries(&self, account: AccountId, first: usize, after: Option<u64>) -> Result<Page<WalletEntry>, ReadError> {
        self.called("wallet_entries")?;
        let rows = self
            .entries
            .iter()
            .rev()
            .filter(|row| row.account == account && after.is_none_or(|after| row.sequence < after));
        Ok(Page::of(rows.take(first + 1).cloned().collect(), first))
    }

    fn seller_sees(&self, seller: AccountId, buyer: AccountId) -> Result<bool, ReadError> {
        self.called("seller_sees")?;
        Ok(self.orders.iter().any(|row| row.buyer == buyer && Scope::Seller(seller).sees(row)))
    }

    fn positions(&self) -> Result<Vec<Checkpoint>, ReadError> {
        self.called("positions")?;
        Ok(vec![])
    }
}

/// The seller's product (1), the other seller's (2), and others of the seller's.
pub(crate) fn product_id(n: u128) -> ProductId {
    ProductId::new(Uuid::from_u128(0x0DD0_0000 + n))
}

/// The buyer's order at the seller's (1), and the other buyer's at the other seller's (2).
pub(crate) fn order_id(n: u128) -> OrderId {
    OrderId::new(Uuid::from_u128(0x0BDE_0000 + n))
}

pub(crate) fn won(amount: i64) -> Money {
    Money::new(amount, Currency::KRW)
}

fn line(product: ProductId, seller: Who) -> Line {
    Line {
        product,
        name: "coffee".parse().expect("a name"),
        seller: seller.account(),
        quantity: Quantity::parse(3).expect("a quantity"),
        unit_price: won(5_000),
        stated: false,
    }
}

fn number(n: u128) -> OrderNumber {
    format!("20261121{n:08}").parse().expect("a number")
}

/// A shop, and what a test needs to ask it.
pub(crate) struct Shop {
    pub(crate) vault: KeyVault,
    pub(crate) memory: Memory,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) introspection: bool,
    pub(crate) graphiql: bool,
    pub(crate) progress: Progress,
    keys: TempDir,
}

/// A router, its views and what moves them.
pub(crate) struct Served {
    pub(crate) router: Router,
    pub(crate) memory: Arc<Memory>,
    pub(crate) report: watch::Sender<Progress>,
    keys: TempDir,
}

impl Shop {
    /// Two buyers, two sellers, an admin; an order of each buyer at one seller each.
    pub(crate) fn new() -> Self {
        let keys = tempfile::tempdir().expect("a directory");
        let vault = KeyVault::open(keys.path()).expect("a vault");
        let mut shop = Self {
            vault,
            memory: Memory::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            introspection: true,
            graphiql: true,
            progress: at_position(10),
            keys,
        };
        for who in [Who::Buyer, Who::OtherBuyer, Who::Seller, Who::OtherSeller, Who::Admin] {
            shop.add_account(who.account(), who.role(), &format!("{who:?}"));
        }
        shop.add_product(1, Who::Seller);
        shop.add_product(2, Who::OtherSeller);
        shop.add_order(1, Who::Buyer.account(), Who::Seller, &[1]);
        shop.add_order(2, Who::OtherBuyer.account(), Who::OtherSeller, &[2]);
        shop
    }

    fn seal(&self, subject: AccountId, text: &str) -> Sealed {
        Sealed::new(self.vault.seal(subject.uuid(), text).expect("a sealed text"))
    }

    pub(crate) fn add_account(&mut self, id: AccountId, role: Role, name: &str) {
        self.vault.create_subject(id.uuid()).expect("a key");
        let view = AccountView {
            id,
            version: 1,
            email: self.seal(id, &format!("{name}@jangbu.dev")),
            name: self.seal(id, name),
            phone: Some(self.seal(id, "010-1234-5678")),
            role,
            opened_at: Timestamp::from_micros(1),
        };
        self.memory.accounts.push(view);
        self.memory.wallets.push(WalletView {
            account: id,
            version: 2,
            balance: won(1_000_000),
        });
        let entry = WalletEntry {
            account: id,
            sequence: 2,
            at: Timestamp::from_micros(2),
            kind: EntryKind::Deposit,
            amount: won(1_000_000),
            order: None,
        };
        self.memory.entries.push(entry);
    }

    pub(crate) fn add_product(&mut self, n: u128, seller: Who) {
        let at = Timestamp::from_micros(1_700_000_000_000_000 + i64::try_from(n).expect("a small number"));
        self.memory.products.push(ProductView {
            id: product_id(n),
            version: 1,
            seller: seller.account(),
            sku: format!("SKU-{n}").parse().expect("a SKU"),
            name: format!("product {n}").parse().expect("a name"),
            description: None,
            price: won(5_000),
            retired: false,
            created_at: at,
            updated_at: at,
        });
        let stock = InventoryView {
            product: product_id(n),
            version: 4,
            seller: seller.account(),
            unlimited: false,
            on_hand: 1_000,
            reserved: 30,
        };
        self.memory.inventories.push(stock);
    }

    pub(crate) fn add_order(&mut self, n: u128, buyer: AccountId, seller: Who, products: &[u128]) {
        let address =
            json!({"recipient": "Kim", "street": "Sejong-daero 1", "city": "Seoul", "postalCode": "04524", "phone": "02-123-4567"});
        // Two orders each have the same time: the id decides.
        let at = Timestamp::from_micros(1_700_000_000_000_000 + i64::try_from(n / 2).expect("a small number"));
        let id = order_id(n);
        self.memory.orders.push(OrderView {
            id,
            number: number(n),
            tracking: TrackingId::for_order(id),
            status: OrderStatus::Confirmed,
            below: None,
            since: at,
            version: 3,
            buyer,
            address: self.seal(buyer, &address.to_string()),
            method: PaymentMethod::Card,
            lines: products.iter().map(|product| line(product_id(*product), seller)).collect(),
            total: won(15_000),
            failure: None,
            placed_at: at,
            updated_at: at,
            pay_until: None,
            payment: Some(PaymentId::for_order(id)),
            attention: Attention::default(),
            taken_up_at: None,
        });
        self.memory.payments.push(PaymentView {
            id: PaymentId::for_order(id),
            order: id,
            buyer,
            status: PaymentStatus::Captured,
            method: PaymentMethod::Card,
            amount: won(15_000),
            refunded: won(0),
            attempts: vec![Attempt {
                attempt: 1,
                kind: AttemptKind::Charge,
                at,
                outcome: Some(AttemptOutcome {
                    at,
                    result: AttemptResult::Captured,
                    code: None,
                    message: None,
                }),
            }],
            version: 3,
            updated_at: at,
        });
    }

    pub(crate) fn cancel(&mut self, n: u128, code: FailureCode) {
        let order = self
            .memory
            .orders
            .iter_mut()
            .find(|order| order.id == order_id(n))
            .expect("an order");
        order.status = OrderStatus::Cancelled;
        order.failure = Some(Failure { code, product: None });
    }

    /// The provider was asked for the order's money and gave no answer.
    pub(crate) fn silence(&mut self, n: u128) {
        let (order, payment) = self.order_and_payment(n);
        order.status = OrderStatus::PaymentPending;
        payment.status = PaymentStatus::Unknown;
        for attempt in &mut payment.attempts {
            attempt.outcome = Some(AttemptOutcome {
                at: order.placed_at,
                result: AttemptResult::Unknown,
                code: None,
                message: None,
            });
        }
    }

    /// A person has to look at the order, for this reason.
    pub(crate) fn stick(&mut self, n: u128, reason: &str) {
        self.silence(n);
        let (order, _) = self.order_and_payment(n);
        order.below = Some(order.status);
        order.status = OrderStatus::NeedsAttention;
        order.attention.evolve(&OrderEvent::AttentionNeeded {
            cause: Obstacle::Provider,
            reason: reason.to_owned(),
        });
    }

    pub(crate) fn order_and_payment(&mut self, n: u128) -> (&mut OrderView, &mut PaymentView) {
        let order = self.memory.orders.iter_mut().find(|order| order.id == order_id(n));
        let payment = self.memory.payments.iter_mut().find(|payment| payment.order == order_id(n));
        (order.expect("an order"), payment.expect("a payment"))
    }

    pub(crate) fn serve(self) -> Served {
        self.serve_with(query_api::router)
    }

    pub(crate) fn serve_with(self, router: impl FnOnce(QueryApi) -> Router) -> Served {
        let memory = Arc::new(self.memory);
        let (report, progress) = watch::channel(self.progress);
        let views: Arc<dyn Views> = memory.clone();
        let router = router(QueryApi {
            views,
            progress,
            log_id: LOG,
            vault: self.vault,
            authenticate: Arc::new(authenticate),
            graphiql: self.graphiql,
            introspection: self.introspection,
            limits: self.limits,
            timeouts: self.timeouts,
            stuck_after: STUCK_AFTER,
        });
        Served {
            router,
            memory,
            report,
            keys: self.keys,
        }
    }
}

pub(crate) fn at_position(position: u64) -> Progress {
    Progress {
        shards: vec![ShardProgress {
            shard: 0,
            position,
            recorded_at: Timestamp::from_micros(1),
            head: position,
        }],
        state: RunnerState::Running,
        ..Progress::default()
    }
}

/// A log of several shards, and where each is.
pub(crate) fn at_positions(positions: &[u64]) -> Progress {
    let shards = (0..).zip(positions).map(|(shard, position)| ShardProgress {
        shard,
        ..at_position(*position).shards[0]
    });
    Progress {
        shards: shards.collect(),
        count: Shards::new(u16::try_from(positions.len()).expect("few")),
        ..Progress::default()
    }
}

pub(crate) fn token(position: u64) -> String {
    token_of(0, position)
}

pub(crate) fn token_of(shard: u16, position: u64) -> String {
    ConsistencyToken {
        log_id: LOG,
        shard,
        position,
    }
    .to_string()
}

/// An answer: its status, its headers and its JSON.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) json: Value,
}

impl Answer {
    pub(crate) fn code(&self) -> &str {
        self.json["errors"][0]["extensions"]["code"].as_str().unwrap_or("none")
    }

    /// The data of an answer without errors.
    pub(crate) fn data(&self) -> &Value {
        assert!(self.json.get("errors").is_none(), "{}", self.json);
        &self.json["data"]
    }
}

impl Served {
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.expect("a router answers");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let json = serde_json::from_slice(&body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
        Answer {
            status: parts.status,
            headers: parts.headers,
            json,
        }
    }

    pub(crate) async fn ask(&self, who: Who, query: &str, variables: Value) -> Answer {
        self.ask_with(who, query, variables, &[("accept-language", "ko")]).await
    }

    pub(crate) async fn ask_with(&self, who: Who, query: &str, variables: Value, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::post("/graphql").header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = who.token() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = json!({"query": query, "variables": variables}).to_string();
        self.send(request.body(Body::from(body)).expect("a request")).await
    }

    pub(crate) async fn post(&self, body: impl Into<Body>) -> Answer {
        self.send(
            Request::post("/graphql")
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.into())
                .expect("a request"),
        )
        .await
    }
}
