//! A shop to send requests to: an engine on the store in memory, keys in a scratch directory, and a provider that obeys the payment key.

use std::{
    path::Path,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use aggregates::{AccountId, Kind, Role, State};
use axum::{
    Router,
    body::{Body, Bytes},
};
use command_api::{Api, Settings, ensure_account, openapi_document, represent, router};
use engine::{CoreSettings, Engine, EngineSettings, Running};
use event_store::{Batch, CommitError, EventStore, Head, LogReader, LogWriter, MemoryStore, Shards, StoreError};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use key_vault::KeyVault;
use payment_gateway::{Answer, Cancellation, CancellationOutcome, Charge, ChargeOutcome, PaymentGateway, StatusOutcome, StatusQuery};
use projections::{Runner, RunnerHandle, RunnerSettings, Views};
use projections_sqlite::SqliteViews;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use uuid::Uuid;

/// How long the purchase's deadlines are.
#[derive(Clone, Copy)]
pub(crate) struct Deadlines {
    pub(crate) payment: Duration,
}

pub(crate) struct Shop {
    router: Router,
    pub(crate) api: Api,
    pub(crate) vault: KeyVault,
    views: Arc<dyn Views>,
    pub(crate) store: Arc<Store>,
    pub(crate) provider: Arc<Provider>,
    running: Running,
    runner: RunnerHandle,
    keys: tempfile::TempDir,
    pub(crate) admin: String,
    pub(crate) seller: String,
    pub(crate) buyer: String,
    pub(crate) buyer_id: Uuid,
}

pub(crate) const PASSWORD: &str = "jangbu-demo";

impl Shop {
    pub(crate) async fn open() -> Self {
        Self::with(
            Settings::default(),
            Deadlines {
                payment: Duration::from_mins(10),
            },
        )
        .await
    }

    pub(crate) async fn with(settings: Settings, deadlines: Deadlines) -> Self {
        Self::on(Store::default(), settings, deadlines).await
    }

    /// A shop whose log this is.
    pub(crate) async fn on(store: Store, settings: Settings, deadlines: Deadlines) -> Self {
        let keys = tempfile::tempdir().expect("a directory");
        let vault = KeyVault::open(keys.path()).expect("a vault");
        let store = Arc::new(store);
        let processes = sagas::Settings {
            currency: settings.currency,
            reservation_ttl: Duration::from_hours(1),
            payment_deadline: deadlines.payment,
            stuck_after: settings.stuck_after,
        };
        let core = CoreSettings::new(processes, jiff::tz::TimeZone::UTC, represent);
        let engine = EngineSettings::new(core, Uuid::from_u128(1));
        let port: Arc<dyn EventStore> = Arc::clone(&store) as Arc<dyn EventStore>;
        let runtime = tokio::runtime::Handle::current();
        let provider = Arc::new(Provider::default());
        let gateway = Arc::clone(&provider) as Arc<dyn PaymentGateway>;
        let running = Engine::start(&port, gateway, engine, Vec::new(), runtime).expect("an engine");
        let (writer, views) = SqliteViews::open(keys.path()).expect("views");
        let views: Arc<dyn Views> = views;
        let every = RunnerSettings {
            poll: Duration::from_millis(5),
            ..RunnerSettings::default()
        };
        let runner = Runner::start(Arc::clone(&port), Box::new(writer), every).expect("a thread");
        let api = Api::new(running.engine(), vault.clone(), Arc::clone(&views), settings);
        let mut shop = Self {
            router: router(api.clone()),
            api,
            vault,
            views,
            store,
            provider,
            running,
            runner,
            keys,
            admin: String::new(),
            seller: String::new(),
            buyer: String::new(),
            buyer_id: Uuid::from_u128(0xb),
        };
        for (id, name, role) in [
            (0xa, "admin", Role::Admin),
            (0x5, "seller", Role::Seller),
            (0xb, "buyer", Role::Buyer),
        ] {
            let email = format!("{name}@jangbu.dev");
            ensure_account(&shop.api, AccountId::new(Uuid::from_u128(id)), &email, PASSWORD, name, role)
                .await
                .expect("an account");
        }
        shop.admin = shop.log_in("admin@jangbu.dev").await;
        shop.seller = shop.log_in("seller@jangbu.dev").await;
        shop.buyer = shop.log_in("buyer@jangbu.dev").await;
        shop
    }

    /// The API of another node of this shop.
    pub(crate) fn another_node(&self, settings: Settings) -> Api {
        Api::new(self.engine(), self.vault.clone(), Arc::clone(&self.views), settings)
    }

    pub(crate) async fn log_in(&self, email: &str) -> String {
        let answer = self
            .post("/api/v1/auth/login")
            .json(json!({"email": email, "password": PASSWORD}))
            .send()
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.text("accessToken")
    }

    /// A new account of this role, logged in.
    pub(crate) async fn newcomer(&self, email: &str, role: &str) -> String {
        let body = json!({"email": email, "password": PASSWORD, "name": "새 사람", "role": role});
        assert_eq!(self.post("/api/v1/accounts").json(body).send().await.status, 201);
        self.log_in(email).await
    }

    pub(crate) fn keys(&self) -> &Path {
        self.keys.path()
    }

    /// Waits until the views count everything that is recorded.
    pub(crate) async fn counted(&self) {
        let head = self.store.head();
        let mut progress = self.runner.progress();
        let counted = progress.wait_for(|progress| progress.position(0) >= head);
        tokio::time::timeout(Duration::from_secs(20), counted)
            .await
            .expect("it happens in time")
            .expect("the runner lives");
    }

    pub(crate) fn engine(&self) -> Engine {
        self.running.engine()
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> Call {
        Call {
            router: self.router.clone(),
            method,
            path: path.to_owned(),
            headers: HeaderMap::new(),
            body: Body::empty(),
        }
    }

    pub(crate) fn post(&self, path: &str) -> Call {
        self.request(Method::POST, path)
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.request(Method::GET, path)
    }

    /// A product of the seller, at 5,000 won.
    pub(crate) async fn product(&self, stock: Value) -> Uuid {
        let body = json!({"sku": "COFFEE", "name": "Coffee", "price": won(5_000), "stock": stock});
        let answer = self.post("/api/v1/products").token(&self.seller).json(body).send().await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.id("productId")
    }

    pub(crate) async fn deposit(&self, account: Uuid, amount: i64) {
        let call = self
            .post(&format!("/api/v1/accounts/{account}/deposits"))
            .token(&self.admin)
            .new_key();
        let answer = call.json(json!({"amount": won(amount)})).send().await;
        assert_eq!(answer.status, 201, "{}", answer.body);
    }

    /// An order of the buyer; `more` changes its body.
    pub(crate) fn order(&self, product: Uuid, quantity: i64, more: impl FnOnce(&mut Value)) -> Call {
        self.post("/api/v1/orders")
            .token(&self.buyer)
            .new_key()
            .json(order_body(product, quantity, more))
    }

    /// On hand and reserved.
    pub(crate) async fn stock(&self, product: Uuid) -> (u64, u64) {
        let found = self.engine().read(Kind::Inventory, product).await.expect("readable").expect("kept");
        match found.state {
            State::Inventory(stock) => (stock.on_hand(), stock.reserved()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn balance(&self, account: Uuid) -> i64 {
        let found = self.engine().read(Kind::Wallet, account).await.expect("readable").expect("open");
        match found.state {
            State::Wallet(wallet) => wallet.balance().expect("open").minor(),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn won(amount: i64) -> Value {
    json!({"amount": amount, "currency": "KRW"})
}

pub(crate) fn order_body(product: Uuid, quantity: i64, more: impl FnOnce(&mut Value)) -> Value {
    let mut body = json!({
        "lines": [{"productId": product, "quantity": quantity}],
        "shippingAddress": {"recipient": "김민지", "street": "세종대로 110", "city": "서울", "postalCode": "04524", "phone": "010-1234-5678"},
        "payment": {"method": "BALANCE"},
    });
    more(&mut body);
    body
}

/// A request in the making.
pub(crate) struct Call {
    router: Router,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Body,
}

impl Call {
    /// Sent to this node.
    pub(crate) fn to(mut self, node: &Router) -> Self {
        self.router = node.clone();
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers
            .insert(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header value"));
        self
    }

    pub(crate) fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    pub(crate) fn new_key(self) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let key = format!("key-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.key(&key)
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    #[expect(clippy::needless_pass_by_value, reason = "bodies are written where they are sent")]
    pub(crate) fn json(self, body: Value) -> Self {
        self.raw(body.to_string())
    }

    pub(crate) fn raw(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self.header("content-type", "application/json")
    }

    pub(crate) async fn send(self) -> Reply {
        let mut request = http::Request::builder()
            .method(self.method.clone())
            .uri(&self.path)
            .body(self.body)
            .expect("a request");
        *request.headers_mut() = self.headers;
        let response = self.router.oneshot(request).await.expect("a router does not fail");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).unwrap_or(Value::Null)
        };
        let reply = Reply {
            status: parts.status,
            headers: parts.headers,
            body,
            bytes,
        };
        reply.check_form();
        check_documented(&self.method, &self.path, reply.status);
        reply
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    pub(crate) bytes: Bytes,
}

impl Reply {
    pub(crate) fn text(&self, member: &str) -> String {
        self.body[member]
            .as_str()
            .unwrap_or_else(|| panic!("no {member} in {}", self.body))
            .to_owned()
    }

    pub(crate) fn id(&self, member: &str) -> Uuid {
        self.text(member).parse().expect("an id")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Refused with this status and code.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) -> &Self {
        assert_eq!(
            (self.status.as_u16(), self.body["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.body
        );
        self
    }

    /// ... because of this member of the body.
    #[track_caller]
    pub(crate) fn at(&self, pointer: &str) {
        assert_eq!(self.body["errors"][0]["pointer"], pointer, "{}", self.body);
    }

    /// Every no is a problem (RFC 9457).
    fn check_form(&self) {
        if self.status.is_client_error() || self.status.is_server_error() {
            assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
            assert_eq!(self.body["status"], self.status.as_u16());
            assert_eq!(self.body["type"], format!("/problems/{}", self.text("code")));
            assert!(!self.text("title").is_empty() && self.text("traceId").len() == 32 && self.body["detail"].is_string());
        }
        if self.status == 503 {
            assert!(self.headers.contains_key("retry-after"));
        }
        if self.status == 401 {
            assert_eq!(self.header("www-authenticate"), Some("Bearer"));
        }
    }
}

/// A status that the API's description does not name is a mistake, in one of the two.
fn check_documented(method: &Method, path: &str, status: StatusCode) {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(openapi_document);
    let path = path.split('?').next().unwrap_or_default();
    let matches = |template: &str| {
        let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
        template.len() == path.len()
            && template
                .iter()
                .zip(path)
                .all(|(part, found)| part.starts_with('{') || *part == found)
    };
    let paths = DOCUMENT["paths"].as_object().expect("paths");
    let Some((template, operations)) = paths.iter().find(|(template, _)| matches(template)) else {
        return;
    };
    let operation = &operations[method.as_str().to_ascii_lowercase()];
    if operation.is_object() {
        assert!(
            operation["responses"].get(status.as_str()).is_some(),
            "{method} {template} answered {status}, which is not documented"
        );
    }
}

/// The store in memory, slower or out of order when a test wants it so.
#[derive(Default)]
pub(crate) struct Store {
    memory: MemoryStore,
    pub(crate) delay_millis: Arc<AtomicU64>,
    pub(crate) broken: Arc<AtomicBool>,
}

impl Store {
    /// The log's last position.
    pub(crate) fn head(&self) -> u64 {
        let reader = self.memory.reader().expect("a reader");
        reader.head(0).expect("a head").map_or(0, |head| head.position)
    }

    /// Everything that is recorded of events, as text.
    pub(crate) fn events(&self) -> String {
        let reader = self.memory.reader().expect("a reader");
        format!("{:?}", reader.events(0, 0, usize::MAX).expect("events"))
    }
}

impl EventStore for Store {
    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError> {
        let (delay_millis, broken) = (Arc::clone(&self.delay_millis), Arc::clone(&self.broken));
        Ok(Box::new(Writer {
            inner: self.memory.writer()?,
            delay_millis,
            broken,
        }))
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        self.memory.reader()
    }
}

struct Writer {
    inner: Box<dyn LogWriter>,
    delay_millis: Arc<AtomicU64>,
    broken: Arc<AtomicBool>,
}

impl LogWriter for Writer {
    fn found(&mut self, shards: Shards) -> Result<Shards, StoreError> {
        self.inner.found(shards)
    }

    fn take(&mut self, shard: u16, instance: Uuid, now: i64) -> Result<Head, StoreError> {
        self.inner.take(shard, instance, now)
    }

    fn commit(&mut self, batches: &[&Batch]) -> Result<(), CommitError> {
        std::thread::sleep(Duration::from_millis(self.delay_millis.load(Ordering::Relaxed)));
        if self.broken.load(Ordering::Relaxed) {
            return Err(CommitError::NotWritten("the disk is full".into()));
        }
        self.inner.commit(batches)
    }

    fn heartbeat(&mut self, shard: u16, epoch: u64, now: i64) -> Result<(), CommitError> {
        self.inner.heartbeat(shard, epoch, now)
    }
}

/// A provider that does what the payment key says, or says nothing.
#[derive(Default)]
pub(crate) struct Provider {
    /// Whether it gives no answer to anything.
    pub(crate) silent: AtomicBool,
}

impl Provider {
    fn silent(&self) -> Option<&'static str> {
        self.silent.load(Ordering::Relaxed).then_some("no answer")
    }
}

impl PaymentGateway for Provider {
    fn charge(&self, charge: Charge) -> Answer<'_, ChargeOutcome> {
        Box::pin(async move {
            if let Some(reason) = self.silent() {
                return ChargeOutcome::Unknown { reason: reason.into() };
            }
            if charge.payment_key.starts_with("sim_slow") {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            if charge.payment_key.starts_with("sim_declined") {
                return ChargeOutcome::Declined {
                    code: "REJECT_CARD_PAYMENT".into(),
                    message: "no".into(),
                };
            }
            ChargeOutcome::Charged { amount: charge.amount }
        })
    }

    fn status(&self, _: StatusQuery) -> Answer<'_, StatusOutcome> {
        Box::pin(async {
            self.silent()
                .map_or(StatusOutcome::NotFound, |reason| StatusOutcome::Unknown { reason: reason.into() })
        })
    }

    fn cancel(&self, _: Cancellation) -> Answer<'_, CancellationOutcome> {
        Box::pin(async { CancellationOutcome::Cancelled })
    }
}
