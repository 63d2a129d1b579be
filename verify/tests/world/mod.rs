//! A small shop around the real core: any store, a clock that is set by hand, a provider that does what the payment key says.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::{collections::BTreeMap, time::Duration};

use aggregates::{
    AccountId, Command, Currency, EmailCommand, EmailIndex, InventoryCommand, Kind, Money, OrderCommand, OrderId, PaymentMethod,
    PlaceOrder, ProductCommand, ProductId, Quantity, Registration, RequestedLine, Role, Sealed, State, Stock, Timestamp, TrackingId,
    WalletCommand,
};
use engine::{Actor, Cause, Core, CoreSettings, Idempotency, Input, Outcome, Output, Request};
use event_store::{EventStore, LogWriter, RecordKey, Shards};
use payment_gateway::{CancellationOutcome, ChargeOutcome, StatusOutcome};
use sagas::ProviderCall;
use uuid::Uuid;
use verify::{Ledger, Provided};

/// 2026-11-20T00:00:00Z
pub(crate) const START: i64 = 1_795_132_800_000_000;
const PRICE: i64 = 5_000;
const SEAL: &str = "v1.4uCq1Zb08o9y3sYwq2n1Xk5v4uCq1Zb08o9y3sYwq2n1Xk5v4uCq1Zb0";

/// How an order is paid.
#[derive(Clone, Copy)]
pub(crate) enum Paid {
    Balance,
    /// With this payment key, or one that comes later: `ok`, `declined`, `lost` (charged, and the answer is lost) or `late` (not
    /// charged at first).
    Card(Option<&'static str>),
}

pub(crate) struct World {
    shards: Shards,
    /// One for each shard.
    cores: Vec<Core<u64>>,
    /// After the cores: whose connection is closed last leaves the log in one file, and a reader's cannot.
    writer: Box<dyn LogWriter>,
    pub(crate) clock: i64,
    /// What comes in next, by shard.
    inboxes: Vec<Vec<Input<u64>>>,
    requests: u64,
    charges: BTreeMap<Uuid, Provided>,
    /// How often a charge was asked for.
    asked: BTreeMap<String, u32>,
    /// Calls that are not answered yet, and the shard that waits for each.
    calls: Vec<(u16, Uuid, ProviderCall)>,
    /// Looks at the log after every commit, at this time.
    pub(crate) look: Option<Box<dyn FnMut(i64) + Send>>,
}

pub(crate) fn product(number: u32) -> ProductId {
    ProductId::new(Uuid::from_u128(0x1000_0000_0000_4000_8000_0000_0000_0000 + u128::from(number)))
}

pub(crate) fn buyer() -> AccountId {
    AccountId::new(Uuid::from_u128(0x2000_0000_0000_4000_8000_0000_0000_0000))
}

/// The id of the order that was placed under this number.
pub(crate) fn key(number: u64) -> OrderId {
    OrderId::new(Uuid::new_v5(&Uuid::NAMESPACE_OID, &number.to_le_bytes()))
}

fn krw(amount: i64) -> Money {
    Money::new(amount, Currency::KRW)
}

fn represent(kind: Kind, id: Uuid, state: &State, version: u64) -> Vec<u8> {
    let (member, status) = match state {
        State::Order(order) => ("orderId", order.status().name()),
        _ => ("id", kind.name()),
    };
    format!(r#"{{"{member}":"{id}","status":"{status}","version":{version}}}"#).into_bytes()
}

impl World {
    /// A shop with three products, 10 of each, and a buyer with 100,000.
    pub(crate) fn open(store: &dyn EventStore) -> Self {
        Self::open_over(store, 1)
    }

    /// The same over so many shards.
    pub(crate) fn open_over(store: &dyn EventStore, shards: u16) -> Self {
        let mut world = Self::closed_over(store, shards);
        for number in 0..3 {
            world.create(number, Stock::OnHand(10));
        }
        world.create(3, Stock::Unlimited);
        world.register();
        // The account may be kept by another shard than its e-mail address.
        world.settle();
        world.deposit(100_000);
        world.settle();
        world
    }

    /// The same with nothing in it.
    pub(crate) fn closed(store: &dyn EventStore) -> Self {
        Self::closed_over(store, 1)
    }

    fn closed_over(store: &dyn EventStore, shards: u16) -> Self {
        let shards = Shards::new(shards).expect("a few shards");
        let mut writer = store.writer().expect("a writer");
        writer.found(shards).expect("a log that is new");
        let mut settings = CoreSettings::new(settings(), jiff::tz::TimeZone::UTC, represent);
        settings.shards = shards;
        let core = |shard: u16| {
            let head = writer.take(shard, Uuid::nil(), START).expect("the shard is free");
            Core::new(head, store.reader().expect("a reader"), settings.clone()).expect("a log that can be read")
        };
        Self {
            shards,
            cores: shards.all().map(core).collect(),
            writer,
            clock: START,
            inboxes: shards.all().map(|_| Vec::new()).collect(),
            requests: 0,
            charges: BTreeMap::new(),
            asked: BTreeMap::new(),
            calls: Vec::new(),
            look: None,
        }
    }

    /// Everything that a shop does, in a few hundred events, until nothing is under way but one order that waits to be paid.
    pub(crate) fn live(&mut self) {
        for number in 1..=3 {
            self.place(number, Paid::Balance, &[(0, 1), (3, 2)]);
            self.settle();
        }
        self.place(10, Paid::Card(Some("ok-10")), &[(0, 1), (1, 2)]);
        self.place(11, Paid::Card(Some("declined-11")), &[(1, 2), (2, 1)]);
        self.place(12, Paid::Card(Some("lost-12")), &[(2, 1)]);
        self.place(13, Paid::Card(Some("late-13")), &[(2, 1)]);
        self.settle();
        self.place(20, Paid::Card(None), &[(0, 1), (2, 2)]);
        self.place(21, Paid::Card(None), &[(1, 1)]);
        self.place(22, Paid::Card(None), &[(1, 1)]);
        self.settle();
        self.pay(20, "ok-20", 15_000);
        self.cancel(21);
        self.settle();
        self.place(30, Paid::Balance, &[(0, 50)]);
        self.place(31, Paid::Balance, &[(3, 1_000)]);
        self.place(32, Paid::Balance, &[(0, 1), (1, 100)]);
        self.receive(0, 5);
        self.adjust(2, -1);
        self.settle();
        // The provider is asked, and meanwhile nobody wants it any more: it is charged, and given back.
        self.place(40, Paid::Card(Some("lost-40")), &[(0, 1)]);
        self.begin();
        self.cancel(40);
        self.settle();
        // Order 22 is never paid.
        self.wait(Duration::from_mins(11));
        self.settle();
        self.wait(Duration::from_hours(24 * 30));
        self.settle();
        self.place(50, Paid::Card(None), &[(0, 1), (1, 1)]);
        self.settle();
    }

    fn request(&mut self, command: Command, idempotency: Option<Idempotency>) {
        self.requests += 1;
        let cause = Cause {
            actor: Actor::Account(buyer()),
            correlation: Uuid::from_u64_pair(0x3000_0000_0000_4000, 0x8000_0000_0000_0000 + self.requests),
            traceparent: None,
        };
        let request = Request {
            idempotency,
            ..Request::new(command, cause)
        };
        let (kind, id) = request.command.target();
        let shard = self.shards.of(kind.key(id));
        let ticket = self.requests;
        self.tell(shard, Input::Command(ticket, Box::new(request)));
    }

    fn keyed(&mut self, command: Command) {
        let key = format!("request-{}", self.requests);
        let mut record = [0; 16];
        record[8..].copy_from_slice(&self.requests.to_be_bytes());
        let record = RecordKey(record);
        self.request(
            command,
            Some(Idempotency {
                key,
                record,
                fingerprint: [7; 16],
            }),
        );
    }

    pub(crate) fn create(&mut self, number: u32, stock: Stock) {
        let create = ProductCommand::Create {
            seller: AccountId::new(Uuid::from_u128(0x4000)),
            sku: format!("P{number}").parse().expect("a SKU"),
            name: format!("Product {number}").parse().expect("a name"),
            description: Some("write to sales@example.com".parse().expect("a description")),
            price: krw(PRICE),
            stock,
            at: Timestamp::from_micros(self.clock),
        };
        self.request(Command::Product(product(number), create), None);
    }

    fn register(&mut self) {
        let registration = Registration {
            account: buyer(),
            email: Sealed::new(SEAL),
            name: Sealed::new(SEAL),
            phone: Some(Sealed::new(SEAL)),
            password: Sealed::new(SEAL),
            role: Role::Buyer,
            at: Timestamp::from_micros(self.clock),
        };
        let index = EmailIndex::new(Uuid::from_u128(0x5000));
        self.request(Command::Email(index, EmailCommand::Claim { registration }), None);
    }

    pub(crate) fn open_wallet(&mut self) {
        self.request(Command::Wallet(buyer(), WalletCommand::Open { currency: Currency::KRW }), None);
    }

    pub(crate) fn deposit(&mut self, amount: i64) {
        self.keyed(Command::Wallet(buyer(), WalletCommand::Deposit { amount: krw(amount) }));
    }

    pub(crate) fn place(&mut self, number: u64, paid: Paid, lines: &[(u32, i64)]) {
        let line = |(number, quantity): &(u32, i64)| RequestedLine {
            product: product(*number),
            quantity: Quantity::parse(*quantity).expect("a quantity"),
            stated_price: None,
            offer: None,
        };
        let (method, payment_key) = match paid {
            Paid::Balance => (PaymentMethod::Balance, None),
            Paid::Card(key) => (PaymentMethod::Card, key.map(|key| key.parse().expect("a payment key"))),
        };
        let place = PlaceOrder {
            buyer: buyer(),
            lines: lines.iter().map(line).collect(),
            stated_total: None,
            address: Sealed::new(SEAL),
            method,
            payment_key,
            number: None,
            tracking: TrackingId::for_order(key(number)),
            at: Timestamp::from_micros(self.clock),
        };
        self.keyed(Command::Order(key(number), OrderCommand::Place(Box::new(place))));
    }

    pub(crate) fn pay(&mut self, number: u64, payment_key: &str, amount: i64) {
        let submit = OrderCommand::SubmitPayment {
            payment_key: payment_key.parse().expect("a payment key"),
            amount: krw(amount),
            at: Timestamp::from_micros(self.clock),
        };
        self.keyed(Command::Order(key(number), submit));
    }

    pub(crate) fn cancel(&mut self, number: u64) {
        let cancel = OrderCommand::RequestCancellation {
            by: buyer(),
            reason: Sealed::new(SEAL),
            selling: false,
        };
        self.keyed(Command::Order(key(number), cancel));
    }

    pub(crate) fn receive(&mut self, number: u32, quantity: u64) {
        let receive = InventoryCommand::Receive { quantity, reference: None };
        self.keyed(Command::Inventory(product(number), receive));
    }

    fn adjust(&mut self, number: u32, delta: i64) {
        let reason = "broken in storage".parse().expect("a reason");
        self.keyed(Command::Inventory(product(number), InventoryCommand::Adjust { delta, reason }));
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.clock += i64::try_from(time.as_micros()).expect("a short time");
    }

    fn tell(&mut self, shard: u16, input: Input<u64>) {
        self.inboxes[usize::from(shard)].push(input);
    }

    /// Decides and commits what waits; what the provider is asked stays unanswered.
    pub(crate) fn begin(&mut self) {
        while self.go_on() {}
    }

    /// Every shard takes one step; says whether there is something to go on with.
    pub(crate) fn go_on(&mut self) -> bool {
        for shard in self.shards.all() {
            self.step(shard);
        }
        // Each step is a little later than the one before.
        self.clock += 1_000;
        self.wake_at().is_some_and(|due| due <= self.clock) || self.inboxes.iter().any(|inbox| !inbox.is_empty())
    }

    /// One shard takes one step.
    pub(crate) fn step(&mut self, shard: u16) {
        let index = usize::from(shard);
        let inputs = std::mem::take(&mut self.inboxes[index]);
        let outputs = self.cores[index].step(Timestamp::from_micros(self.clock), inputs);
        for output in outputs {
            self.take(shard, output);
        }
    }

    fn take(&mut self, shard: u16, output: Output<u64>) {
        match output {
            Output::Commit(batch) => {
                let committed = self.writer.commit(&[&batch]);
                self.tell(shard, Input::Committed(committed));
                if let Some(look) = &mut self.look {
                    look(self.clock);
                }
            }
            Output::Call(id, call) => self.calls.push((shard, id, call)),
            Output::Send(message) => self.tell(message.to, Input::Received(message)),
            Output::Publish(events) => {
                let changed = events.iter().filter_map(|recorded| Some(recorded.event.as_ref()?.source()));
                for (kind, id) in changed.filter(|(kind, _)| *kind == Kind::Product) {
                    for other in self.shards.all().filter(|other| *other != shard) {
                        self.tell(other, Input::Changed(kind, id));
                    }
                }
            }
            Output::Answer(..) => {}
            Output::Stop { reason } => panic!("it stopped: {reason}"),
        }
    }

    fn wake_at(&self) -> Option<i64> {
        self.cores.iter().filter_map(Core::wake_at).map(Timestamp::micros).min()
    }

    /// Until nothing moves any more but what is due later than in two minutes.
    pub(crate) fn settle(&mut self) {
        loop {
            self.begin();
            if !self.answer_calls() {
                match self.wake_at() {
                    Some(due) if due < self.clock + 120_000_000 => self.clock = self.clock.max(due),
                    _ => return,
                }
            }
        }
    }

    /// The provider answers what it was asked; says whether it was.
    pub(crate) fn answer_calls(&mut self) -> bool {
        let calls = std::mem::take(&mut self.calls);
        let any = !calls.is_empty();
        for (shard, id, call) in calls {
            let outcome = self.provider(&call);
            self.tell(shard, Input::Outcome(id, outcome));
        }
        any
    }

    fn provider(&mut self, call: &ProviderCall) -> Outcome {
        let at = self.clock;
        match call {
            ProviderCall::Charge {
                order,
                payment_key,
                amount,
                ..
            } => {
                let asked = self.asked.entry(payment_key.to_string()).or_default();
                *asked += 1;
                let key = payment_key.as_str();
                if key.starts_with("declined") {
                    let (code, message) = ("REJECT_CARD_COMPANY".to_owned(), "declined".to_owned());
                    return Outcome::Charge(ChargeOutcome::Declined { code, message });
                }
                let lost = Outcome::Charge(ChargeOutcome::Unknown {
                    reason: "no answer within 5s".to_owned(),
                });
                // The first request is on its way still, and a repeat is refused.
                if key.starts_with("doubtful") {
                    let (code, message) = ("NOT_FOUND_PAYMENT_SESSION".to_owned(), "no such session".to_owned());
                    let refused = Outcome::Charge(ChargeOutcome::Declined { code, message });
                    return if *asked == 1 { lost } else { refused };
                }
                if key.starts_with("late") && *asked < 3 {
                    return lost;
                }
                let provided = self.charges.entry(order.uuid()).or_default();
                if provided.charges == 0 {
                    (provided.charges, provided.charged, provided.charged_at) = (1, amount.minor(), Some(at));
                }
                if key.starts_with("lost") {
                    return lost;
                }
                Outcome::Charge(ChargeOutcome::Charged { amount: amount.minor() })
            }
            ProviderCall::Status { order, .. } => Outcome::Status(match self.charges.get(&order.uuid()) {
                Some(provided) => StatusOutcome::Charged {
                    amount: provided.charged,
                    order_reference: order.to_string(),
                },
                None => StatusOutcome::NotFound,
            }),
            ProviderCall::Cancel { order, amount, .. } => {
                self.charges.entry(order.uuid()).or_default().cancelled = amount.minor();
                Outcome::Cancel(CancellationOutcome::Cancelled)
            }
        }
    }

    pub(crate) fn ledger(&self) -> Ledger {
        self.charges.iter().map(|(order, provided)| (*order, *provided)).collect()
    }

    /// How many events there are.
    pub(crate) fn head(&self) -> u64 {
        self.cores.iter().map(|core| core.head().position).sum()
    }
}

pub(crate) fn settings() -> sagas::Settings {
    sagas::Settings {
        currency: Currency::KRW,
        reservation_ttl: Duration::from_hours(1),
        payment_deadline: Duration::from_mins(10),
        stuck_after: Duration::from_hours(24),
    }
}

/// `SplitMix64`.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }
}
