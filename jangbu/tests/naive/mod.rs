//! A small shop as such shops are often written: it reads, decides and writes, with an await in between.
//!
//! Whatever must not happen at the same time takes turns, unless a fault is planted there. It speaks only the calls that the attack makes.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, patch, post},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::AbortHandle};

/// How often the shop lets others go on between reading and writing.
const YIELDS: usize = 200;
/// How often, with a fault, it lets others go on until somebody else comes: that the calls meet is not left to chance.
const YIELDS_ALONE: usize = 2_000;

/// What is wrong with the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An order reads the reserved units, and writes them back larger.
    StockReadThenWritten,
    /// A receipt reads what is on hand, and writes it back larger.
    ReceiptOverwrites,
    /// A write-off looks whether there is enough, then takes it.
    WriteOffChecksFirst,
    /// A cancellation reads the reserved units, and writes them back smaller.
    ReleaseOverwrites,
    /// An order looks whether the balance is enough, then takes it.
    BalanceCheckedThenDebited,
    /// A deposit reads the balance, and writes it back larger.
    DepositOverwrites,
    /// A key is looked up before the work and remembered after it.
    KeyCheckedThenInserted,
    /// A payment looks whether the order waits for one, then charges.
    PaidTwice,
    /// Payment and cancellation do not see each other.
    CancelledWhilePaid,
    /// Two cancellations do not see each other.
    ReleasedTwice,
    /// What is charged is the price of a later moment than the total.
    PriceReadTwice,
    /// An order of a product that was retired meanwhile is dropped, and its money kept.
    DroppedAfterDebit,
}

/// The shop, for as long as it is kept.
pub(crate) struct Naive {
    pub(crate) address: SocketAddr,
    serving: AbortHandle,
}

impl Naive {
    /// Serves it with these faults.
    pub(crate) async fn open(faults: &'static [Fault]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let app = routes().with_state(Arc::new(Shop::new(faults)));
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.expect("served") }).abort_handle();
        Self { address, serving }
    }
}

impl Drop for Naive {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/api/v1/accounts", post(register))
        .route("/api/v1/auth/login", post(log_in))
        .route("/api/v1/accounts/{id}/deposits", post(deposit))
        .route("/api/v1/products", post(offer))
        .route("/api/v1/products/{id}", patch(change).delete(retire))
        .route("/api/v1/products/{id}/stock/receipts", post(receive))
        .route("/api/v1/products/{id}/stock/adjustments", post(adjust))
        .route("/api/v1/orders", post(place))
        .route("/api/v1/orders/{id}", get(look))
        .route("/api/v1/orders/{id}/payment", post(pay))
        .route("/api/v1/orders/{id}/cancellation", post(cancel))
        .route("/simulator/v1/ledger", get(ledger))
}

type Turn = tokio::sync::Mutex<()>;
/// Status and body.
type Answer = (u16, Value);

struct Shop {
    faults: &'static [Fault],
    /// How many requests have come.
    begun: AtomicUsize,
    books: Mutex<Books>,
    stock: Turn,
    credit: Turn,
    orders: Turn,
}

#[derive(Default)]
struct Books {
    named: u64,
    products: HashMap<String, Product>,
    balances: HashMap<String, i64>,
    /// Account by e-mail.
    accounts: HashMap<String, String>,
    orders: HashMap<String, Order>,
    /// Charges by order.
    charges: BTreeMap<String, Vec<i64>>,
    /// By who, where and which key; none while it is worked on.
    keys: HashMap<String, Option<(String, Answer)>>,
}

#[derive(Clone)]
struct Product {
    price: i64,
    on_hand: i64,
    reserved: i64,
    retired: bool,
}

#[derive(Clone)]
struct Order {
    buyer: String,
    product: String,
    quantity: i64,
    price: i64,
    total: i64,
    method: String,
    status: &'static str,
    failure: Option<&'static str>,
}

impl Shop {
    fn new(faults: &'static [Fault]) -> Self {
        Self {
            faults,
            begun: AtomicUsize::new(0),
            books: Mutex::default(),
            stock: Turn::default(),
            credit: Turn::default(),
            orders: Turn::default(),
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// Where the races are.
    async fn others_go_on(&self) {
        let begun = self.begun.load(Ordering::Relaxed);
        let alone = if self.faults.is_empty() { 0 } else { YIELDS_ALONE };
        for _ in 0..alone {
            if self.begun.load(Ordering::Relaxed) != begun {
                break;
            }
            tokio::task::yield_now().await;
        }
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("nobody panics with it")
    }

    /// Waits for its turn, unless one of these faults is planted.
    async fn turn<'a>(&self, turn: &'a Turn, faults: &[Fault]) -> Option<tokio::sync::MutexGuard<'a, ()>> {
        if faults.iter().any(|fault| self.has(*fault)) {
            return None;
        }
        Some(turn.lock().await)
    }

    fn product(&self, id: &str) -> Product {
        self.books().products[id].clone()
    }

    fn order(&self, id: &str) -> Order {
        self.books().orders[id].clone()
    }

    fn change(&self, product: &str, change: impl FnOnce(&mut Product)) {
        change(self.books().products.get_mut(product).expect("known"));
    }

    fn set(&self, order: &str, status: &'static str, failure: Option<&'static str>) {
        let mut books = self.books();
        let order = books.orders.get_mut(order).expect("known");
        (order.status, order.failure) = (status, failure);
    }

    async fn reserve(&self, product: &str, quantity: i64) -> bool {
        let _turn = self.turn(&self.stock, &[Fault::StockReadThenWritten]).await;
        let seen = self.product(product);
        let enough = seen.on_hand - seen.reserved >= quantity;
        self.others_go_on().await;
        if enough {
            self.change(product, |product| product.reserved = seen.reserved + quantity);
        }
        enough
    }

    async fn release(&self, product: &str, quantity: i64) {
        let _turn = self.turn(&self.stock, &[Fault::ReleaseOverwrites]).await;
        let seen = self.product(product);
        self.others_go_on().await;
        self.change(product, |product| product.reserved = seen.reserved - quantity);
    }

    async fn sell(&self, product: &str, quantity: i64) {
        let _turn = self.stock.lock().await;
        self.change(product, |product| {
            product.on_hand -= quantity;
            product.reserved -= quantity;
        });
    }

    async fn debit(&self, buyer: &str, amount: i64) -> bool {
        let _turn = self.turn(&self.credit, &[Fault::BalanceCheckedThenDebited]).await;
        let enough = self.books().balances[buyer] >= amount;
        self.others_go_on().await;
        if enough {
            *self.books().balances.get_mut(buyer).expect("known") -= amount;
        }
        enough
    }

    fn charge(&self, order: &str, amount: i64) {
        self.books().charges.entry(order.to_owned()).or_default().push(amount);
    }

    fn stock_shown(&self, product: &str) -> Value {
        let Product { on_hand, reserved, .. } = self.product(product);
        json!({ "productId": product, "onHand": on_hand, "reserved": reserved })
    }

    fn order_shown(&self, id: &str) -> Value {
        let order = self.order(id);
        let mut shown = json!({
            "orderId": id,
            "status": order.status,
            "lines": [{ "productId": order.product, "quantity": order.quantity, "unitPrice": money(order.price) }],
            "total": money(order.total),
            "payment": { "method": order.method },
        });
        if let Some(failure) = order.failure {
            shown["failure"] = json!({ "code": failure });
        }
        shown
    }

    /// Does the work once for each key.
    async fn once(&self, call: &Call, work: impl Future<Output = Answer>) -> Response {
        let Call { scope, body } = call;
        self.begun.fetch_add(1, Ordering::Relaxed);
        if let Some(known) = self.begin(scope, &body.to_string()) {
            return answer(known);
        }
        if self.has(Fault::KeyCheckedThenInserted) {
            self.others_go_on().await;
        }
        let done = work.await;
        self.books().keys.insert(scope.clone(), Some((body.to_string(), done.clone())));
        answer(done)
    }

    /// What was answered under this key before; else it is this request's from now on.
    fn begin(&self, scope: &str, body: &str) -> Option<Answer> {
        let mut books = self.books();
        match books.keys.get(scope) {
            Some(Some((known, answer))) if known == body => Some(answer.clone()),
            Some(Some(_)) => Some((422, json!({ "code": "idempotency-key-reused" }))),
            Some(None) => Some((409, json!({ "code": "request-in-flight" }))),
            None => {
                if !self.has(Fault::KeyCheckedThenInserted) {
                    books.keys.insert(scope.to_owned(), None);
                }
                None
            }
        }
    }
}

impl Books {
    fn fresh(&mut self, what: &str) -> String {
        self.named += 1;
        format!("{what}-{}", self.named)
    }
}

fn money(amount: i64) -> Value {
    json!({ "amount": amount, "currency": "KRW" })
}

fn answer((status, body): Answer) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    if status == StatusCode::NO_CONTENT {
        return status.into_response();
    }
    (status, Json(body)).into_response()
}

/// A request with its key.
struct Call {
    scope: String,
    body: Value,
}

impl Call {
    fn new(path: &str, headers: &HeaderMap, body: Value) -> Self {
        let key = headers["idempotency-key"].to_str().expect("a key");
        let scope = format!("{} {path} {key}", caller(headers));
        Self { scope, body }
    }
}

/// A token is the account's id.
fn caller(headers: &HeaderMap) -> String {
    let token = headers["authorization"].to_str().expect("a token");
    token.trim_start_matches("Bearer ").to_owned()
}

fn number(value: &Value) -> i64 {
    value.as_i64().expect("a number")
}

type Of = State<Arc<Shop>>;

async fn register(State(shop): Of, Json(body): Json<Value>) -> Response {
    let mut books = shop.books();
    let account = books.fresh("account");
    books.accounts.insert(body["email"].to_string(), account.clone());
    books.balances.insert(account.clone(), 0);
    answer((201, json!({ "accountId": account })))
}

async fn log_in(State(shop): Of, Json(body): Json<Value>) -> Response {
    let account = shop.books().accounts.get(&body["email"].to_string()).cloned();
    let token = account.unwrap_or_else(|| "admin".to_owned());
    answer((200, json!({ "accessToken": token, "refreshToken": token, "expiresIn": 3_600 })))
}

async fn deposit(State(shop): Of, Path(account): Path<String>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let call = Call::new(&format!("deposits/{account}"), &headers, body);
    let work = async {
        let _turn = shop.turn(&shop.credit, &[Fault::DepositOverwrites]).await;
        let seen = shop.books().balances[&account];
        shop.others_go_on().await;
        let balance = seen + number(&call.body["amount"]["amount"]);
        shop.books().balances.insert(account.clone(), balance);
        (201, json!({ "accountId": account, "balance": money(balance) }))
    };
    shop.once(&call, work).await
}

async fn offer(State(shop): Of, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let call = Call::new("products", &headers, body);
    let work = async {
        let mut books = shop.books();
        let id = books.fresh("product");
        let product = Product {
            price: number(&call.body["price"]["amount"]),
            on_hand: number(&call.body["stock"]["onHand"]),
            reserved: 0,
            retired: false,
        };
        books.products.insert(id.clone(), product);
        (201, json!({ "productId": id }))
    };
    shop.once(&call, work).await
}

async fn change(State(shop): Of, Path(product): Path<String>, Json(body): Json<Value>) -> Response {
    shop.begun.fetch_add(1, Ordering::Relaxed);
    shop.change(&product, |product| product.price = number(&body["price"]["amount"]));
    answer((200, json!({ "productId": product })))
}

async fn retire(State(shop): Of, Path(product): Path<String>) -> Response {
    shop.begun.fetch_add(1, Ordering::Relaxed);
    shop.change(&product, |product| product.retired = true);
    answer((204, Value::Null))
}

async fn receive(State(shop): Of, Path(product): Path<String>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let call = Call::new(&format!("receipts/{product}"), &headers, body);
    let work = async {
        let _turn = shop.turn(&shop.stock, &[Fault::ReceiptOverwrites]).await;
        let seen = shop.product(&product);
        shop.others_go_on().await;
        shop.change(&product, |product| product.on_hand = seen.on_hand + number(&call.body["quantity"]));
        (201, shop.stock_shown(&product))
    };
    shop.once(&call, work).await
}

async fn adjust(State(shop): Of, Path(product): Path<String>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let call = Call::new(&format!("adjustments/{product}"), &headers, body);
    let work = async {
        let _turn = shop.turn(&shop.stock, &[Fault::WriteOffChecksFirst]).await;
        let delta = number(&call.body["delta"]);
        let seen = shop.product(&product);
        shop.others_go_on().await;
        if seen.on_hand + delta < seen.reserved {
            return (422, json!({ "code": "below-reserved" }));
        }
        shop.change(&product, |product| product.on_hand += delta);
        (201, shop.stock_shown(&product))
    };
    shop.once(&call, work).await
}

async fn place(State(shop): Of, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let call = Call::new("orders", &headers, body);
    let work = async {
        let line = &call.body["lines"][0];
        let id = line["productId"].as_str().expect("a product").to_owned();
        let product = shop.product(&id);
        if product.retired {
            return (422, json!({ "code": "unknown-product" }));
        }
        let quantity = number(&line["quantity"]);
        let order = Order {
            buyer: caller(&headers),
            product: id,
            quantity,
            price: product.price,
            total: product.price * quantity,
            method: call.body["payment"]["method"].as_str().expect("a method").to_owned(),
            status: "PLACED",
            failure: None,
        };
        let id = {
            let mut books = shop.books();
            let id = books.fresh("order");
            books.orders.insert(id.clone(), order.clone());
            id
        };
        let stated = line["unitPrice"]["amount"].as_i64();
        if stated.is_some_and(|stated| stated != order.price) {
            shop.set(&id, "CANCELLED", Some("PRICE_MISMATCH"));
        } else {
            purchase(&shop, &id, &order, &call.body["payment"]).await;
        }
        (202, shop.order_shown(&id))
    };
    shop.once(&call, work).await
}

async fn purchase(shop: &Shop, id: &str, order: &Order, payment: &Value) {
    let Order { product, quantity, .. } = order;
    if !shop.reserve(product, *quantity).await {
        return shop.set(id, "CANCELLED", Some("OUT_OF_STOCK"));
    }
    if order.method == "CARD" && payment["paymentKey"].is_null() {
        return shop.set(id, "AWAITING_PAYMENT", None);
    }
    if order.method == "CARD" {
        shop.charge(id, order.total);
    } else {
        let mut due = order.total;
        if shop.has(Fault::PriceReadTwice) {
            shop.others_go_on().await;
            due = shop.product(product).price * quantity;
        }
        if !shop.debit(&order.buyer, due).await {
            shop.release(product, *quantity).await;
            return shop.set(id, "CANCELLED", Some("INSUFFICIENT_BALANCE"));
        }
    }
    if shop.has(Fault::DroppedAfterDebit) {
        shop.others_go_on().await;
        if shop.product(product).retired {
            shop.release(product, *quantity).await;
            return shop.set(id, "CANCELLED", Some("PRODUCT_RETIRED"));
        }
    }
    shop.sell(product, *quantity).await;
    shop.set(id, "CONFIRMED", None);
}

async fn look(State(shop): Of, Path(order): Path<String>) -> Response {
    answer((200, shop.order_shown(&order)))
}

async fn pay(State(shop): Of, Path(id): Path<String>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let call = Call::new(&format!("payment/{id}"), &headers, body);
    let work = async {
        let _turn = shop.turn(&shop.orders, &[Fault::PaidTwice]).await;
        let refused = || (409, json!({ "code": "order-not-awaiting-payment" }));
        let order = shop.order(&id);
        if order.status != "AWAITING_PAYMENT" {
            return refused();
        }
        shop.others_go_on().await;
        let paid = match shop.order(&id).status {
            "CONFIRMED" if !shop.has(Fault::PaidTwice) => return refused(),
            "CANCELLED" if !shop.has(Fault::CancelledWhilePaid) => return refused(),
            status => status == "CONFIRMED",
        };
        shop.charge(&id, order.total);
        if !paid {
            shop.set(&id, "CONFIRMED", None);
            shop.sell(&order.product, order.quantity).await;
        }
        (202, shop.order_shown(&id))
    };
    shop.once(&call, work).await
}

async fn cancel(State(shop): Of, Path(id): Path<String>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let call = Call::new(&format!("cancellation/{id}"), &headers, body);
    let work = async {
        let _turn = shop.turn(&shop.orders, &[Fault::CancelledWhilePaid, Fault::ReleasedTwice]).await;
        let refused = || (409, json!({ "code": "order-not-cancellable" }));
        let order = shop.order(&id);
        match order.status {
            "AWAITING_PAYMENT" => {}
            "CANCELLED" => return (202, shop.order_shown(&id)),
            _ => return refused(),
        }
        shop.others_go_on().await;
        match shop.order(&id).status {
            "CONFIRMED" if !shop.has(Fault::CancelledWhilePaid) => return refused(),
            "CANCELLED" if !shop.has(Fault::ReleasedTwice) => return (202, shop.order_shown(&id)),
            _ => shop.set(&id, "CANCELLED", Some("CANCELLED_BY_BUYER")),
        }
        shop.release(&order.product, order.quantity).await;
        (202, shop.order_shown(&id))
    };
    shop.once(&call, work).await
}

async fn ledger(State(shop): Of, Query(query): Query<HashMap<String, String>>) -> Response {
    let order = query.get("orderId").cloned().unwrap_or_default();
    let charges = shop.books().charges.get(&order).cloned().unwrap_or_default();
    let entries: Vec<_> = charges
        .iter()
        .map(|amount| json!({ "kind": "CHARGE", "orderId": order, "amount": amount }))
        .collect();
    answer((200, json!({ "entries": entries })))
}
