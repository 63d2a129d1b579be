//! A shop in memory: the real aggregates, the process managers, and a provider that says what the test tells it to.

#![allow(dead_code, reason = "each test uses its part of it")]

use std::{collections::BTreeMap, time::Duration};

use aggregates::{
    AccountId, Command, CommerceEvent, Currency, FailureCode, Inventory, InventoryCommand, Kind, Money, Offer, Order, OrderCommand,
    OrderId, OrderStatus, Payment, PaymentCommand, PaymentId, PaymentKey, PaymentMethod, PlaceOrder, Product, ProductCommand, ProductId,
    Quantity, Refusal, RequestedLine, Sealed, State, Stock, Timestamp, TrackingId, Wallet, WalletCommand,
};
use sagas::{Ask, ProviderCall, Purchase, Settings, policies, purchase};
use uuid::Uuid;

pub(crate) const SELLER: AccountId = AccountId::new(Uuid::from_u128(0xA));
pub(crate) const BUYER: AccountId = AccountId::new(Uuid::from_u128(0xB));
pub(crate) const ORDER: OrderId = OrderId::new(Uuid::from_u128(0x0D));
pub(crate) const MINUTE: Duration = Duration::from_mins(1);
pub(crate) const DAY: Duration = Duration::from_hours(24);
/// What is in stock of every product, and what is in the buyer's wallet, at first.
pub(crate) const ON_HAND: u64 = 10;
pub(crate) const BALANCE: i64 = 100_000;

pub(crate) fn krw(minor: i64) -> Money {
    Money::new(minor, Currency::KRW)
}

pub(crate) fn product(number: u128) -> ProductId {
    ProductId::new(Uuid::from_u128(number))
}

pub(crate) fn key(text: &str) -> PaymentKey {
    text.parse().expect("a payment key")
}

/// One of each product, at the price that the shop asks.
pub(crate) fn order(products: &[u128]) -> PlaceOrder {
    let line = |number: &u128| RequestedLine {
        product: product(*number),
        quantity: Quantity::parse(1).expect("one is a quantity"),
        stated_price: None,
        offer: None,
    };
    PlaceOrder {
        buyer: BUYER,
        lines: products.iter().map(line).collect(),
        stated_total: None,
        address: Sealed::new("sealed"),
        method: PaymentMethod::Balance,
        payment_key: None,
        number: Some("2026112100000001".parse().expect("an order number")),
        tracking: TrackingId::for_order(ORDER),
        at: Timestamp::default(),
    }
}

/// The same, paid by card.
pub(crate) fn card_order(products: &[u128]) -> PlaceOrder {
    PlaceOrder {
        method: PaymentMethod::Card,
        ..order(products)
    }
}

/// What the provider says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Charged(i64),
    Declined,
    Unknown,
    NotCharged,
    Returned,
    NotReturned,
    Refused,
}

impl Answer {
    fn command(self) -> PaymentCommand {
        match self {
            Self::Charged(amount) => PaymentCommand::RecordCapture { amount: krw(amount) },
            Self::Declined => PaymentCommand::RecordDecline {
                code: "REJECT_CARD_COMPANY".to_owned(),
                message: "declined".to_owned(),
            },
            Self::Unknown => PaymentCommand::RecordUnknown {
                reason: "timeout".to_owned(),
            },
            Self::NotCharged => PaymentCommand::RecordNotCharged {
                status: "IN_PROGRESS".to_owned(),
            },
            Self::Returned => PaymentCommand::RecordReversal,
            Self::NotReturned => PaymentCommand::RecordReversalUnknown {
                reason: "timeout".to_owned(),
            },
            Self::Refused => PaymentCommand::RecordReversalRefused {
                code: "NOT_CANCELABLE".to_owned(),
                message: "no".to_owned(),
            },
        }
    }
}

/// The shop.
pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) settings: Settings,
    /// What is asked of aggregates and not delivered, the next first.
    pub(crate) asked: Vec<Command>,
    /// What is asked of the provider and not answered, the oldest first.
    pub(crate) calls: Vec<ProviderCall>,
    pub(crate) timers: BTreeMap<Uuid, (Timestamp, Command)>,
    /// Everything that happened since the shop opened.
    pub(crate) log: Vec<CommerceEvent>,
    /// What a process asked for and was refused.
    pub(crate) refused: Vec<(Command, Refusal)>,
    /// Shows the purchase each of its events so often.
    pub(crate) deliveries: usize,
    states: BTreeMap<(Kind, Uuid), State>,
    purchase: Purchase,
}

impl World {
    /// Three products at 1,000, 2,000 and 3,000 KRW, and a buyer.
    pub(crate) fn new() -> Self {
        let settings = Settings {
            currency: Currency::KRW,
            reservation_ttl: 60 * MINUTE,
            payment_deadline: 10 * MINUTE,
            stuck_after: Duration::from_hours(24),
        };
        let mut world = Self {
            now: Timestamp::default(),
            settings,
            asked: vec![],
            calls: vec![],
            timers: BTreeMap::new(),
            log: vec![],
            refused: vec![],
            deliveries: 1,
            states: BTreeMap::new(),
            purchase: Purchase::default(),
        };
        for number in 1..=3_u32 {
            let create = ProductCommand::Create {
                seller: SELLER,
                sku: format!("SKU-{number}").parse().expect("a SKU"),
                name: format!("Product {number}").parse().expect("a name"),
                description: None,
                price: krw(1_000 * i64::from(number)),
                stock: Stock::OnHand(ON_HAND),
                at: world.now,
            };
            world.expect(Command::Product(product(number.into()), create));
        }
        world.expect(Command::Wallet(BUYER, WalletCommand::Open { currency: Currency::KRW }));
        world.expect(Command::Wallet(BUYER, WalletCommand::Deposit { amount: krw(BALANCE) }));
        world.log.clear();
        world
    }

    /// A shop where this order was just placed; nothing has followed yet.
    pub(crate) fn with_placed(place: PlaceOrder) -> Self {
        let mut world = Self::new();
        world.place(place);
        world
    }

    /// A shop where this order was placed, and everything followed that needs nobody else.
    pub(crate) fn with(place: PlaceOrder) -> Self {
        let mut world = Self::with_placed(place);
        world.run();
        world
    }

    pub(crate) fn place(&mut self, place: PlaceOrder) {
        self.tell(Command::Order(ORDER, OrderCommand::Place(Box::new(place))))
            .expect("the order can be placed");
    }

    /// Tells an aggregate; what follows waits in `asked`.
    pub(crate) fn tell(&mut self, command: Command) -> Result<(), Refusal> {
        let command = self.enriched(command);
        let (kind, id) = command.target();
        let state = self.states.entry((kind, id)).or_insert_with(|| kind.initial());
        for event in state.decide(command)? {
            self.record(event);
        }
        Ok(())
    }

    /// Tells an aggregate, and sees to everything that follows.
    pub(crate) fn expect(&mut self, command: Command) {
        self.tell(command).expect("allowed");
        self.run();
    }

    /// Delivers one of the commands that wait.
    pub(crate) fn deliver(&mut self, index: usize) {
        let command = self.asked.remove(index);
        if let Err(refusal) = self.tell(command.clone()) {
            self.refused.push((command, refusal));
        }
    }

    /// Delivers all commands, depth first as the engine does.
    pub(crate) fn run(&mut self) {
        while !self.asked.is_empty() {
            self.deliver(0);
        }
        assert_eq!(self.refused, [], "a process asked for what is refused");
    }

    /// The provider answers the oldest call.
    pub(crate) fn answer(&mut self, answer: Answer) -> ProviderCall {
        let call = self.calls.remove(0);
        self.expect(Command::Payment(call.payment(), answer.command()));
        call
    }

    /// The provider answers, and nothing has followed yet.
    pub(crate) fn hear(&mut self, payment: PaymentId, answer: Answer) {
        self.tell(Command::Payment(payment, answer.command()))
            .expect("the provider's word is always taken");
    }

    pub(crate) fn buyer_cancels(&mut self) -> Result<(), Refusal> {
        self.cancels(BUYER)
    }

    pub(crate) fn cancels(&mut self, by: AccountId) -> Result<(), Refusal> {
        self.tell(Command::Order(
            ORDER,
            OrderCommand::RequestCancellation {
                by,
                reason: Sealed::new("sealed"),
                selling: false,
            },
        ))
    }

    pub(crate) fn buyer_pays(&mut self, amount: i64) -> Result<(), Refusal> {
        let at = self.now;
        self.tell(Command::Order(
            ORDER,
            OrderCommand::SubmitPayment {
                payment_key: key("pk"),
                amount: krw(amount),
                at,
            },
        ))?;
        self.run();
        Ok(())
    }

    /// An operator does something about the order, and everything follows.
    pub(crate) fn operator(&mut self, command: OrderCommand) {
        self.expect(Command::Order(ORDER, command));
    }

    /// The next timer's time comes; nothing has followed yet. Says how long that took.
    pub(crate) fn fire_next(&mut self) -> Option<Duration> {
        let (id, due) = self.next_timer()?;
        let waited = u64::try_from(due.micros().saturating_sub(self.now.micros())).unwrap_or_default();
        self.now = self.now.max(due);
        let (_, command) = self.timers.remove(&id)?;
        if let Err(refusal) = self.tell(command.clone()) {
            self.refused.push((command, refusal));
        }
        Some(Duration::from_micros(waited))
    }

    /// The next timer's time comes, and what it asks for waits with the others.
    pub(crate) fn ring_next(&mut self) {
        let Some((id, due)) = self.next_timer() else { return };
        self.now = self.now.max(due);
        self.asked.extend(self.timers.remove(&id).map(|(_, command)| command));
    }

    fn next_timer(&self) -> Option<(Uuid, Timestamp)> {
        let timers = self.timers.iter().map(|(id, (due, _))| (*id, *due));
        timers.min_by_key(|(id, due)| (*due, *id))
    }

    /// The next timer's time comes, and everything follows.
    pub(crate) fn wait(&mut self) -> Option<Duration> {
        let waited = self.fire_next();
        self.run();
        waited
    }

    pub(crate) fn status(&self) -> OrderStatus {
        self.state(Kind::Order, ORDER.uuid(), |state| {
            if let State::Order(order) = state {
                order.status()
            } else {
                unreachable!("an order")
            }
        })
    }

    pub(crate) fn order(&self) -> Order {
        self.state(Kind::Order, ORDER.uuid(), |state| {
            if let State::Order(order) = state {
                (**order).clone()
            } else {
                unreachable!("an order")
            }
        })
    }

    pub(crate) fn failure(&self) -> Option<FailureCode> {
        self.order().failure().map(|(code, _)| code)
    }

    pub(crate) fn payment(&self) -> Payment {
        let id = PaymentId::for_order(ORDER).uuid();
        self.state(Kind::Payment, id, |state| {
            if let State::Payment(payment) = state {
                (**payment).clone()
            } else {
                unreachable!("a payment")
            }
        })
    }

    pub(crate) fn inventory(&self, number: u128) -> Inventory {
        let id = product(number).uuid();
        self.state(Kind::Inventory, id, |state| {
            if let State::Inventory(stock) = state {
                (**stock).clone()
            } else {
                unreachable!("a stock")
            }
        })
    }

    /// On hand and reserved.
    pub(crate) fn stock(&self, number: u128) -> (u64, u64) {
        let inventory = self.inventory(number);
        (inventory.on_hand(), inventory.reserved())
    }

    pub(crate) fn wallet(&self) -> Wallet {
        self.state(Kind::Wallet, BUYER.uuid(), |state| {
            if let State::Wallet(wallet) = state {
                (**wallet).clone()
            } else {
                unreachable!("a wallet")
            }
        })
    }

    pub(crate) fn balance(&self) -> i64 {
        self.wallet().balance().expect("the wallet is open").minor()
    }

    /// The stored names of what happened since the shop opened.
    pub(crate) fn happened(&self) -> Vec<&'static str> {
        self.log.iter().map(CommerceEvent::stored_name).collect()
    }

    pub(crate) fn count(&self, name: &str) -> usize {
        self.happened().iter().filter(|happened| **happened == name).count()
    }

    /// Nothing is left of the order, but that it was cancelled.
    #[track_caller]
    pub(crate) fn assert_undone(&self, failure: FailureCode) {
        assert_eq!((self.status(), self.failure()), (OrderStatus::Cancelled, Some(failure)));
        for number in 1..=3 {
            assert_eq!(self.stock(number), (ON_HAND, 0), "product {number}");
        }
        assert_eq!(self.balance(), BALANCE);
        assert_eq!(self.count("payment.captured"), self.count("payment.reversed"));
    }

    fn state<R>(&self, kind: Kind, id: Uuid, read: impl Fn(&State) -> R) -> R {
        self.states.get(&(kind, id)).map_or_else(|| read(&kind.initial()), &read)
    }

    /// What the engine adds to a command.
    fn enriched(&self, command: Command) -> Command {
        match command {
            Command::Order(id, OrderCommand::Place(mut place)) => {
                for line in &mut place.lines {
                    line.offer = self.offer(line.product);
                }
                Command::Order(id, OrderCommand::Place(place))
            }
            Command::Inventory(
                id,
                InventoryCommand::Reserve {
                    order,
                    quantity,
                    expected,
                    expires_at,
                    ..
                },
            ) => {
                let price = self.offer(id).map(|offer| offer.price);
                Command::Inventory(
                    id,
                    InventoryCommand::Reserve {
                        order,
                        quantity,
                        expected,
                        price,
                        expires_at,
                    },
                )
            }
            Command::Order(id, OrderCommand::RequestCancellation { by, reason, .. }) => {
                let selling = self.purchase.selling();
                Command::Order(id, OrderCommand::RequestCancellation { by, reason, selling })
            }
            other => other,
        }
    }

    fn offer(&self, id: ProductId) -> Option<Offer> {
        match self.states.get(&(Kind::Product, id.uuid())) {
            Some(State::Product(product)) => match &**product {
                Product::Offered {
                    seller,
                    name,
                    price,
                    retired: false,
                    ..
                } => Some(Offer {
                    seller: *seller,
                    name: name.clone(),
                    price: *price,
                }),
                Product::Offered { .. } | Product::New => None,
            },
            _ => None,
        }
    }

    fn record(&mut self, event: CommerceEvent) {
        let (kind, id) = event.source();
        self.states.entry((kind, id)).or_insert_with(|| kind.initial()).evolve(&event);
        let mut asks = policies(&event, &self.settings);
        if let Some((order, step)) = purchase::interpret(&event, self.now) {
            for _ in 0..self.deliveries {
                self.purchase.evolve(order, &step);
                asks.extend(self.purchase.react(&step, self.now, &self.settings));
            }
        }
        let mut follows = Vec::new();
        for ask in asks {
            match ask {
                Ask::Tell(command) => follows.push(command),
                // The engine owes a call once under its id.
                Ask::Provider(call) if self.calls.contains(&call) => {}
                Ask::Provider(call) => self.calls.push(call),
                Ask::SetTimer { id, due, command } => {
                    self.timers.insert(id, (due, command));
                }
                Ask::CancelTimer { id } => {
                    self.timers.remove(&id);
                }
            }
        }
        // Depth first: before everything that waits already.
        self.asked.splice(0..0, follows);
        self.log.push(event);
    }
}
