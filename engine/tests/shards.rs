//! Several shards: an order, its goods and its buyer's balance are kept by different writers, and messages go between them.

mod bad_reader;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use aggregates::{
    AccountId, Command, Currency, FailureCode, Kind, Money, Order, OrderCommand, OrderError, OrderId, OrderStatus, PaymentMethod,
    PlaceOrder, ProductCommand, ProductId, Quantity, Refusal, RequestedLine, Sealed, State, Stock, Timestamp, TrackingId, WalletCommand,
};
use engine::{
    Actor, Cause, Core, CoreSettings, EngineError, Idempotency, Input, Message, Outcome, Output, Request, Response, SetAside, Shards,
    Unpark, Unparking,
};
use event_store::{Batch, CommitError, EventStore, LogWriter, MemoryStore, RecordKey, StreamId, verify_chain};
use payment_gateway::ChargeOutcome;
use sagas::ProviderCall;
use uuid::Uuid;

use bad_reader::Badness;

const PRICE: i64 = 1_000;
const BALANCE: i64 = 1_000_000;
const START: i64 = 1_700_000_000_000_000;
/// An order's shard, its goods' and its buyer's.
const ORDERS: u16 = 0;
const GOODS: u16 = 1;
const BUYERS: u16 = 2;
/// So long each try of what cannot be done waits for the next; after the last it is set aside.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(10), Duration::from_mins(1)];
const ADMIN: AccountId = AccountId::new(Uuid::from_u128(0x4000));

/// The `n`th id of so many that a shard keeps.
fn id_in(shard: u16, n: usize) -> Uuid {
    let shards = four();
    let ids = (0_u32..).map(|n| Uuid::new_v5(&Uuid::NAMESPACE_OID, &n.to_le_bytes()));
    ids.filter(|id| shards.of(*id) == shard).nth(n).expect("there are enough")
}

fn four() -> Shards {
    Shards::new(4).expect("four")
}

fn coffee() -> ProductId {
    ProductId::new(id_in(GOODS, 0))
}

fn buyer() -> AccountId {
    AccountId::new(id_in(BUYERS, 0))
}

fn order(n: usize) -> OrderId {
    OrderId::new(id_in(ORDERS, 10 + n))
}

fn krw(amount: i64) -> Money {
    Money::new(amount, Currency::KRW)
}

fn represent(kind: Kind, _: Uuid, _: &State, version: u64) -> Vec<u8> {
    format!(r#"{{"kind":"{}","version":{version}}}"#, kind.name()).into_bytes()
}

/// One shard's engine, and the batch that it is writing.
struct Node {
    core: Core<u64>,
    writer: Box<dyn LogWriter>,
    writing: Option<Arc<Batch>>,
}

/// What happens to a message on its way, counted from the first.
#[derive(Clone, Copy)]
enum Fate {
    Lost(usize),
    Doubled(usize),
    /// It comes, and its receiver's process ends with it.
    Crash(usize),
    /// It comes again when all else is done.
    Again(usize),
    Honest,
}

struct World {
    store: MemoryStore,
    settings: CoreSettings,
    badness: Badness,
    nodes: Vec<Node>,
    clock: i64,
    tickets: u64,
    answers: Vec<(u64, Result<Response, EngineError>)>,
    mail: VecDeque<Message>,
    delivered: usize,
    fate: Fate,
    late: Vec<Message>,
    calls: Vec<(u16, Uuid, ProviderCall)>,
}

impl World {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut CoreSettings)) -> Self {
        let processes = sagas::Settings {
            currency: Currency::KRW,
            reservation_ttl: Duration::from_hours(1),
            payment_deadline: Duration::from_hours(2),
            stuck_after: Duration::from_hours(24),
        };
        let mut settings = CoreSettings::new(processes, jiff::tz::TimeZone::UTC, represent);
        settings.shards = four();
        change(&mut settings);
        let store = MemoryStore::default();
        store.writer().and_then(|mut writer| writer.found(four())).expect("founded");
        let mut world = Self {
            store,
            settings,
            badness: Badness::default(),
            nodes: Vec::new(),
            clock: START,
            tickets: 0,
            answers: Vec::new(),
            mail: VecDeque::new(),
            delivered: 0,
            fate: Fate::Honest,
            late: Vec::new(),
            calls: Vec::new(),
        };
        for shard in four().all() {
            let node = world.node(shard);
            world.nodes.push(node);
        }
        world.tell(create(PRICE, 100));
        world.tell(Command::Wallet(buyer(), WalletCommand::Open { currency: Currency::KRW }));
        world.tell(Command::Wallet(buyer(), WalletCommand::Deposit { amount: krw(BALANCE) }));
        world.settle();
        world.delivered = 0;
        world
    }

    fn node(&self, shard: u16) -> Node {
        let mut writer = self.store.writer().expect("a writer");
        let head = writer.take(shard, Uuid::nil(), self.clock).expect("the shard");
        let reader = self.badness.of(self.store.reader().expect("a reader"));
        let core = Core::new(head, reader, self.settings.clone()).expect("a core");
        Node {
            core,
            writer,
            writing: None,
        }
    }

    fn restart(&mut self, shard: u16) {
        let node = self.node(shard);
        self.nodes[usize::from(shard)] = node;
    }

    /// From now on this stream cannot be read by the shard, which starts anew.
    fn poison(&mut self, shard: u16, stream: StreamId) {
        self.badness.poison(stream);
        self.restart(shard);
    }

    fn heal(&mut self) {
        self.badness.heal();
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.clock)
    }

    fn shard_of(command: &Command) -> u16 {
        let (kind, id) = command.target();
        four().of(kind.key(id))
    }

    fn tell(&mut self, command: Command) -> u64 {
        let shard = Self::shard_of(&command);
        let cause = Cause {
            actor: Actor::Account(buyer()),
            correlation: Uuid::from_u128(0x3000),
            traceparent: None,
        };
        self.send(shard, Request::new(command, cause))
    }

    fn send(&mut self, shard: u16, request: Request) -> u64 {
        self.tickets += 1;
        self.step(shard, vec![Input::Command(self.tickets, Box::new(request))]);
        self.tickets
    }

    fn step(&mut self, shard: u16, inputs: Vec<Input<u64>>) {
        let now = self.now();
        let outputs = self.nodes[usize::from(shard)].core.step(now, inputs);
        for output in outputs {
            match output {
                Output::Commit(batch) => self.nodes[usize::from(shard)].writing = Some(batch),
                Output::Answer(ticket, answer) => self.answers.push((ticket, answer)),
                Output::Call(id, call) => self.calls.push((shard, id, call)),
                Output::Send(message) => self.mail.push_back(*message),
                Output::Publish(events) => {
                    let sources = events.iter().filter_map(|recorded| Some(recorded.event.as_ref()?.source()));
                    for (kind, id) in sources.filter(|(kind, _)| *kind == Kind::Product) {
                        for other in four().all().filter(|other| *other != shard) {
                            self.step(other, vec![Input::Changed(kind, id)]);
                        }
                    }
                }
                Output::Stop { reason } => panic!("shard {shard} stops: {reason}"),
            }
        }
    }

    /// Writes what a shard has decided; says whether there was anything.
    fn commit(&mut self, shard: u16) -> bool {
        let node = &mut self.nodes[usize::from(shard)];
        let Some(batch) = node.writing.take() else { return false };
        let result = node.writer.commit(&[&batch]);
        self.step(shard, vec![Input::Committed(result)]);
        true
    }

    /// The next message arrives, if its fate is to.
    fn deliver(&mut self) -> bool {
        let Some(message) = self.mail.pop_front() else { return false };
        let (number, to) = (self.delivered, message.to);
        self.delivered += 1;
        match self.fate {
            Fate::Lost(lost) if lost == number => return true,
            Fate::Doubled(doubled) if doubled == number => self.step(to, vec![Input::Received(Box::new(message.clone()))]),
            Fate::Again(again) if again == number => self.late.push(message.clone()),
            Fate::Crash(crash) if crash == number => {
                self.step(to, vec![Input::Received(Box::new(message))]);
                self.restart(to);
                return true;
            }
            _ => {}
        }
        self.step(to, vec![Input::Received(Box::new(message))]);
        true
    }

    /// Until nothing moves, however long nothing has to wait for its time.
    fn settle(&mut self) {
        loop {
            let mut moved = self.deliver();
            for shard in four().all() {
                moved |= self.commit(shard);
                let node = &self.nodes[usize::from(shard)];
                if node.writing.is_none() && node.core.wake_at().is_some_and(|due| due.micros() <= self.clock) {
                    self.step(shard, Vec::new());
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.clock = self.now().after(time).micros();
        self.settle();
    }

    fn wait_out(&mut self, pauses: &[Duration]) {
        for pause in pauses {
            self.wait(*pause);
        }
    }

    /// Until every message that was lost has been sent again, and what came late has come.
    fn settle_after_trouble(&mut self) {
        self.settle();
        self.wait(Duration::from_secs(1));
        for message in std::mem::take(&mut self.late) {
            self.mail.push_back(message);
        }
        self.settle();
    }

    fn place(&mut self, order: OrderId, method: PaymentMethod, total: Option<i64>) -> u64 {
        let line = RequestedLine {
            product: coffee(),
            quantity: Quantity::parse(2).expect("a quantity"),
            stated_price: None,
            offer: None,
        };
        let place = PlaceOrder {
            buyer: buyer(),
            lines: vec![line],
            stated_total: total.map(krw),
            address: Sealed::new("v1.sealed"),
            method,
            payment_key: None,
            number: None,
            tracking: TrackingId::for_order(order),
            at: self.now(),
        };
        let command = Command::Order(order, OrderCommand::Place(Box::new(place)));
        let shard = Self::shard_of(&command);
        let cause = Cause {
            actor: Actor::Account(buyer()),
            correlation: order.uuid(),
            traceparent: None,
        };
        let idempotency = Some(Idempotency {
            key: order.to_string(),
            record: RecordKey(order.uuid().into_bytes()),
            fingerprint: [0; 16],
        });
        let request = Request {
            idempotency,
            ..Request::new(command, cause)
        };
        self.send(shard, request)
    }

    fn cancel(&mut self, order: OrderId) -> u64 {
        let cancel = OrderCommand::RequestCancellation {
            by: buyer(),
            reason: Sealed::new("v1.sealed"),
            selling: false,
        };
        self.tell(Command::Order(order, cancel))
    }

    /// The buyer pays by card, and the provider charges it.
    fn pay(&mut self, order: OrderId, amount: i64) {
        let submit = OrderCommand::SubmitPayment {
            payment_key: "sim_ok_1".parse().expect("a payment key"),
            amount: krw(amount),
            at: self.now(),
        };
        self.tell(Command::Order(order, submit));
        self.settle();
        let [(shard, id, ProviderCall::Charge { amount: asked, .. })] = &self.calls[..] else {
            panic!("not one charge: {:?}", self.calls)
        };
        assert_eq!(*asked, krw(amount));
        let charged = Outcome::Charge(ChargeOutcome::Charged { amount });
        self.step(*shard, vec![Input::Outcome(*id, charged)]);
    }

    /// The rule that forbade what was asked under this ticket.
    fn refusal(&self, ticket: u64) -> Refusal {
        let answer = self.answers.iter().find(|(answered, _)| *answered == ticket);
        match answer {
            Some((_, Ok(Response::Reply(reply)))) => reply.answer.result.clone().expect_err("it is refused"),
            other => panic!("no answer: {other:?}"),
        }
    }

    fn state(&mut self, kind: Kind, id: Uuid) -> State {
        self.tickets += 1;
        let ticket = self.tickets;
        self.step(four().of(kind.key(id)), vec![Input::Read(ticket, kind, id)]);
        match self.answers.pop() {
            Some((answered, Ok(Response::State(Some(versioned))))) if answered == ticket => versioned.state,
            other => panic!("no state of {}-{id}: {other:?}", kind.name()),
        }
    }

    fn order(&mut self, order: OrderId) -> Arc<Order> {
        let State::Order(order) = self.state(Kind::Order, order.uuid()) else {
            panic!("an order")
        };
        order
    }

    fn status(&mut self, order: OrderId) -> OrderStatus {
        self.order(order).status()
    }

    /// On hand, reserved.
    fn stock(&mut self) -> (u64, u64) {
        let State::Inventory(stock) = self.state(Kind::Inventory, coffee().uuid()) else {
            panic!("a stock")
        };
        (stock.on_hand(), stock.reserved())
    }

    fn balance(&mut self) -> i64 {
        let State::Wallet(wallet) = self.state(Kind::Wallet, buyer().uuid()) else {
            panic!("a wallet")
        };
        wallet.balance().map_or(0, Money::minor)
    }

    /// How often this has happened, in all shards.
    fn count(&self, name: &str) -> usize {
        let reader = self.store.reader().expect("a reader");
        let events = four().all().flat_map(|shard| reader.events(shard, 0, usize::MAX).expect("read"));
        events.filter(|event| event.event_type == name).count()
    }

    /// Nothing is owed by anybody, and every shard's log is sound.
    fn is_at_rest(&self) {
        let reader = self.store.reader().expect("a reader");
        for shard in four().all() {
            assert_eq!(reader.unfinished(shard).expect("read").effects, [], "shard {shard} owes something");
            verify_chain(reader.as_ref(), shard).expect("a sound log");
        }
    }

    fn parked(&mut self, shard: u16) -> Vec<SetAside> {
        self.tickets += 1;
        self.step(shard, vec![Input::Parked(self.tickets, 10)]);
        match self.answers.pop() {
            Some((_, Ok(Response::Parked(parked)))) => parked,
            other => panic!("no list: {other:?}"),
        }
    }

    fn retry(&mut self, shard: u16, id: Uuid) -> Result<(), Refusal> {
        self.tickets += 1;
        let ticket = self.tickets;
        let (how, by) = (Unparking::Retried, Actor::System);
        self.step(shard, vec![Input::Unpark(ticket, Unpark { id, how, by })]);
        while self.commit(shard) {}
        let answer = self.answers.iter().find(|(answered, _)| *answered == ticket);
        match answer {
            Some((_, Ok(Response::Unparked(done)))) => done.clone(),
            other => panic!("no answer to the operator: {other:?}"),
        }
    }
}

fn create(price: i64, stock: u64) -> Command {
    let create = ProductCommand::Create {
        seller: ADMIN,
        sku: "COFFEE".parse().expect("a SKU"),
        name: "Coffee".parse().expect("a name"),
        description: None,
        price: krw(price),
        stock: Stock::OnHand(stock),
        at: Timestamp::from_micros(START),
    };
    Command::Product(coffee(), create)
}

fn change_price(price: i64) -> Command {
    let change = ProductCommand::Change {
        name: None,
        description: None,
        price: Some(krw(price)),
    };
    Command::Product(coffee(), change)
}

/// Everything that one order paid from a balance leads to.
fn assert_bought_once(world: &mut World, told: &str) {
    assert_eq!(world.status(order(0)), OrderStatus::Confirmed, "{told}");
    assert_eq!((world.stock(), world.balance()), ((98, 0), BALANCE - 2 * PRICE), "{told}");
    for name in ["inventory.reserved", "inventory.committed", "wallet.debited", "order.confirmed"] {
        assert_eq!(world.count(name), 1, "{told}: {name}");
    }
    world.is_at_rest();
}

#[test]
fn an_order_whose_goods_and_balance_other_shards_keep_is_confirmed() {
    let mut world = World::new();
    world.place(order(0), PaymentMethod::Balance, Some(2 * PRICE));
    world.settle();
    assert_bought_once(&mut world, "nothing goes wrong");
    assert_eq!(world.delivered, 6, "reserve, debit, commit and their answers");
}

#[test]
fn nothing_is_sent_and_nothing_answered_before_it_is_durable() {
    let mut world = World::new();
    let ticket = world.place(order(0), PaymentMethod::Balance, None);
    assert!(world.mail.is_empty() && world.answers.iter().all(|(answered, _)| *answered != ticket));
    world.commit(ORDERS);
    assert!(world.answers.iter().any(|(answered, _)| *answered == ticket));
    let reserve: Vec<_> = world
        .mail
        .iter()
        .map(|message| (message.from, message.to, message.is_answer()))
        .collect();
    assert_eq!(reserve, [(ORDERS, GOODS, false)]);
    world.deliver();
    assert!(world.mail.is_empty(), "what is reserved is not durable yet");
    world.commit(GOODS);
    let answer: Vec<_> = world
        .mail
        .iter()
        .map(|message| (message.from, message.to, message.is_answer()))
        .collect();
    assert_eq!(answer, [(GOODS, ORDERS, true)]);
}

#[test]
fn whatever_message_is_lost_is_sent_again() {
    for lost in 0..6 {
        let mut world = World::new();
        world.fate = Fate::Lost(lost);
        world.place(order(0), PaymentMethod::Balance, None);
        world.settle_after_trouble();
        assert_bought_once(&mut world, &format!("message {lost} is lost"));
    }
}

#[test]
fn whatever_message_comes_twice_is_done_once() {
    for twice in 0..6 {
        for fate in [Fate::Doubled(twice), Fate::Again(twice)] {
            let mut world = World::new();
            world.fate = fate;
            world.place(order(0), PaymentMethod::Balance, None);
            world.settle_after_trouble();
            assert_bought_once(&mut world, &format!("message {twice} comes twice"));
        }
    }
}

#[test]
fn whatever_process_ends_with_a_message_takes_it_again() {
    for crash in 0..6 {
        let mut world = World::new();
        world.fate = Fate::Crash(crash);
        world.place(order(0), PaymentMethod::Balance, None);
        world.settle_after_trouble();
        assert_bought_once(&mut world, &format!("the receiver of message {crash} ends"));
    }
}

#[test]
fn what_a_process_owed_when_it_ended_is_sent_when_it_starts() {
    let mut world = World::new();
    world.place(order(0), PaymentMethod::Balance, None);
    world.commit(ORDERS);
    world.mail.clear();
    world.restart(ORDERS);
    world.settle();
    assert_bought_once(&mut world, "nobody waited for a second");
}

#[test]
fn a_cancellation_while_the_balance_is_asked_gives_back_what_it_took() {
    let mut world = while_the_balance_is_asked();
    world.cancel(order(0));
    world.commit(ORDERS);
    assert_eq!(world.status(order(0)), OrderStatus::Cancelling);
    world.settle();
    let cancelled = world.order(order(0));
    assert_eq!(cancelled.status(), OrderStatus::Cancelled);
    assert_eq!(cancelled.failure().map(|(code, _)| code), Some(FailureCode::CancelledByBuyer));
    assert_eq!((world.stock(), world.balance()), ((100, 0), BALANCE));
    assert_eq!((world.count("wallet.debited"), world.count("wallet.credited")), (1, 1));
    world.is_at_rest();
}

#[test]
fn a_cancellation_while_the_goods_are_being_sold_is_refused() {
    let moments = ["the sale is on its way", "it has arrived", "its answer is on its way"];
    for (moment, told) in moments.into_iter().enumerate() {
        for restarted in [false, true] {
            let mut world = World::new();
            world.place(order(0), PaymentMethod::Card, None);
            world.settle();
            world.pay(order(0), 2 * PRICE);
            world.commit(ORDERS);
            assert!(moment < 1 || world.deliver());
            assert!(moment < 2 || world.commit(GOODS));
            if restarted {
                world.restart(ORDERS);
            }
            assert_eq!(world.status(order(0)), OrderStatus::PaymentPending, "{told}");

            let ticket = world.cancel(order(0));
            world.commit(ORDERS);
            let refusal = world.refusal(ticket);
            assert_eq!(refusal.code, "order-not-cancellable", "{told}");
            assert_eq!(refusal.detail, OrderError::BeingSold.to_string(), "{told}");
            assert_eq!(world.status(order(0)), OrderStatus::PaymentPending, "{told}");

            world.settle();
            assert_eq!((world.status(order(0)), world.stock()), (OrderStatus::Confirmed, (98, 0)), "{told}");
            for name in ["payment.captured", "inventory.committed", "order.confirmed"] {
                assert_eq!(world.count(name), 1, "{told}: {name}");
            }
            assert_eq!((world.count("order.cancellation_requested"), world.calls.len()), (0, 1), "{told}");
            world.is_at_rest();
        }
    }
}

#[test]
fn goods_that_are_promised_after_the_order_was_cancelled_are_free_again() {
    let mut world = World::new();
    world.place(order(0), PaymentMethod::Balance, None);
    world.commit(ORDERS);
    world.cancel(order(0));
    world.commit(ORDERS);
    assert_eq!(world.status(order(0)), OrderStatus::Cancelled);
    world.settle();
    assert_eq!((world.stock(), world.count("inventory.reserved")), ((100, 0), 1));
    world.is_at_rest();
}

#[test]
fn a_price_that_another_shard_changed_is_known_at_once() {
    let mut world = World::new();
    world.place(order(0), PaymentMethod::Balance, Some(2 * PRICE));
    world.settle();
    world.tell(change_price(3_000));
    world.commit(GOODS);
    world.place(order(1), PaymentMethod::Balance, Some(6_000));
    world.settle();
    assert_eq!(world.status(order(1)), OrderStatus::Confirmed);
    assert_eq!(world.balance(), BALANCE - 2 * PRICE - 6_000);
}

#[test]
fn a_price_that_changes_while_the_order_is_on_its_way_is_the_goods_shards_to_say() {
    for (total, status) in [(None, OrderStatus::Confirmed), (Some(2 * PRICE), OrderStatus::Cancelled)] {
        let mut world = World::new();
        world.place(order(0), PaymentMethod::Balance, total);
        world.commit(ORDERS);
        world.tell(change_price(3_000));
        world.settle();
        assert_eq!(world.status(order(0)), status);
        let paid = if total.is_none() { 6_000 } else { 0 };
        assert_eq!((world.balance(), world.stock().1), (BALANCE - paid, 0));
        world.is_at_rest();
    }
}

#[test]
fn a_reservation_that_expires_in_its_shard_cancels_the_order_in_its_own() {
    let mut world = World::new();
    world.place(order(0), PaymentMethod::Card, None);
    world.settle();
    assert_eq!((world.status(order(0)), world.stock()), (OrderStatus::AwaitingPayment, (100, 2)));
    world.wait(Duration::from_hours(1));
    let cancelled = world.order(order(0));
    assert_eq!(cancelled.failure().map(|(code, _)| code), Some(FailureCode::ReservationExpired));
    assert_eq!(world.stock(), (100, 0));
    world.is_at_rest();
}

#[test]
fn of_what_many_shards_orders_want_never_more_is_sold_than_there_is() {
    let mut world = World::with(|_| ());
    let orders: Vec<_> = (0..80).map(|n| OrderId::new(id_in(n % 4, 20 + usize::from(n)))).collect();
    for order in &orders {
        world.place(*order, PaymentMethod::Balance, None);
    }
    world.settle();
    let confirmed = orders
        .iter()
        .filter(|order| world.status(**order) == OrderStatus::Confirmed)
        .count();
    assert_eq!(confirmed, 50, "100 in stock, 2 an order, and nobody gives back what they hold");
    assert_eq!((world.stock(), world.balance()), ((0, 0), BALANCE - 100 * PRICE));
    world.is_at_rest();
}

#[test]
fn what_the_other_shard_cannot_do_it_tries_again_and_the_order_says_what_it_waits_for() {
    let mut world = while_the_goods_cannot_be_read();
    assert_eq!(world.status(order(0)), OrderStatus::Placed);
    let reader = world.store.reader().expect("a reader");
    assert_eq!(reader.unfinished(ORDERS).expect("read").effects, [], "the other shard sees to it");
    for pause in PAUSES {
        assert!(world.parked(GOODS).is_empty());
        world.wait(pause);
    }
    let parked = world.parked(GOODS);
    assert_eq!(parked.iter().map(|input| input.order).collect::<Vec<_>>(), [Some(order(0))]);
    assert_eq!(world.status(order(0)), OrderStatus::NeedsAttention);

    let again = world.retry(GOODS, parked[0].id).expect_err("nothing has changed");
    assert_eq!(again.code, "parked-again");
    world.heal();
    world.retry(GOODS, parked[0].id).expect("it can be done now");
    world.settle();
    assert_bought_once(&mut world, "after an operator's retry");
}

#[test]
fn what_an_order_has_not_heard_of_yet_is_not_retried() {
    let mut world = while_the_goods_cannot_be_read();
    let [first, second, last] = PAUSES;
    world.wait_out(&[first, second]);
    world.clock = world.now().after(last).micros();
    world.step(GOODS, Vec::new());
    world.commit(GOODS);
    let parked = world.parked(GOODS);
    world.heal();
    let early = world.retry(GOODS, parked[0].id).expect_err("the order is being told that it waits");
    assert_eq!(early.code, "parked-just-now");
    world.settle();
    world.retry(GOODS, parked[0].id).expect("now it knows");
    world.settle();
    assert_bought_once(&mut world, "after the second retry");
}

/// An order whose goods' shard cannot read what there is of them.
fn while_the_goods_cannot_be_read() -> World {
    let mut world = World::new();
    world.poison(GOODS, StreamId::new("inventory", coffee().uuid()));
    world.place(order(0), PaymentMethod::Balance, None);
    world.settle();
    world
}

/// An order whose balance is being asked.
fn while_the_balance_is_asked() -> World {
    let mut world = World::new();
    world.place(order(0), PaymentMethod::Balance, None);
    while !world.mail.iter().any(|message| message.to == BUYERS) {
        assert!(world.deliver() | world.commit(ORDERS) | world.commit(GOODS), "the balance is asked");
    }
    world
}

fn attention(world: &mut World) -> Option<String> {
    world.order(order(0)).attention().map(str::to_owned)
}

#[test]
fn what_happened_elsewhere_is_learnt_however_long_the_purchase_cannot_be_read() {
    let purchase = || StreamId::new("purchase", order(0).uuid());
    for operator in [
        None,
        Some(OrderCommand::Resume { by: ADMIN }),
        Some(OrderCommand::Compensate {
            by: ADMIN,
            reason: Sealed::new("v1.sealed"),
        }),
    ] {
        let mut world = while_the_balance_is_asked();
        world.poison(ORDERS, purchase());
        world.settle();
        let [first, second, last] = PAUSES;
        for pause in [first, second, last, last] {
            assert_eq!(world.balance(), BALANCE - 2 * PRICE, "it is debited");
            world.wait(pause);
        }
        assert!(attention(&mut world).is_some_and(|reason| reason.contains("cannot be recorded")));
        assert!(world.parked(ORDERS).is_empty(), "nobody can drop what has happened");
        world.heal();
        let compensated = matches!(operator, Some(OrderCommand::Compensate { .. }));
        if let Some(command) = operator {
            world.tell(Command::Order(order(0), command));
            world.settle();
        }
        world.wait(Duration::from_mins(1));
        if compensated {
            assert_eq!(world.status(order(0)), OrderStatus::Cancelled);
            assert_eq!((world.stock(), world.balance()), ((100, 0), BALANCE));
            assert_eq!((world.count("wallet.debited"), world.count("wallet.credited")), (1, 1));
        } else {
            assert_bought_once(&mut world, "the debit is learnt in the end");
        }
        assert_eq!(attention(&mut world), None);
        world.is_at_rest();
    }
}

#[test]
fn goods_that_were_promised_while_the_purchase_could_not_be_read_are_not_forgotten() {
    let mut world = World::new();
    world.place(order(0), PaymentMethod::Balance, None);
    world.commit(ORDERS);
    world.poison(ORDERS, StreamId::new("purchase", order(0).uuid()));
    world.settle();
    world.wait_out(&PAUSES);
    assert_eq!((world.status(order(0)), world.stock()), (OrderStatus::NeedsAttention, (100, 2)));
    world.heal();
    world.wait(Duration::from_mins(1));
    assert_bought_once(&mut world, "the reservation is learnt in the end");
    assert_eq!(attention(&mut world), None);
}

#[test]
fn an_order_never_hears_that_it_waits_after_that_is_over() {
    let mut world = while_the_goods_cannot_be_read();
    let [first, second, last] = PAUSES;
    world.wait_out(&[first, second]);
    // Just when it is to be told, the order cannot be read.
    world.poison(ORDERS, StreamId::new("order", order(0).uuid()));
    world.wait(last);
    world.heal();
    let parked = world.parked(GOODS);
    let early = world.retry(GOODS, parked[0].id).expect_err("the order has not heard of it");
    assert_eq!(early.code, "parked-just-now");
    world.wait(Duration::from_mins(1));
    world.retry(GOODS, parked[0].id).expect("now it has");
    world.settle();
    world.wait(Duration::from_hours(24));
    assert_bought_once(&mut world, "after the retry");
    assert_eq!(attention(&mut world), None);
}

#[test]
fn whatever_commit_fails_and_however_the_order_is_bought_once() {
    for refused in [false, true] {
        // The first is the order's own: whoever placed it is told.
        for failing in 1..7 {
            let mut world = World::new();
            world.place(order(0), PaymentMethod::Balance, None);
            let mut commits = 0;
            loop {
                let mut moved = world.deliver();
                for shard in four().all() {
                    let writing = world.nodes[usize::from(shard)].writing.is_some();
                    if writing && commits == failing {
                        let error = if refused {
                            CommitError::Refused("a planted refusal".to_owned())
                        } else {
                            CommitError::NotWritten("a planted failure".into())
                        };
                        world.nodes[usize::from(shard)].writing = None;
                        world.step(shard, vec![Input::Committed(Err(error))]);
                        moved = true;
                    } else {
                        moved |= world.commit(shard);
                    }
                    commits += usize::from(writing);
                }
                if !moved {
                    break;
                }
            }
            assert!(commits > failing, "it was reached");
            world.wait(PAUSES[0]);
            world.wait_out(&PAUSES);
            assert_bought_once(&mut world, &format!("commit {failing} failed, refused: {refused}"));
        }
    }
}

#[test]
fn in_pieces_too_whatever_happens_to_a_message_it_is_done_once() {
    for cascade in 1..4 {
        for message in 0..8 {
            for fate in [
                Fate::Lost(message),
                Fate::Doubled(message),
                Fate::Crash(message),
                Fate::Again(message),
            ] {
                let mut world = World::with(|settings| settings.cascade = cascade);
                world.fate = fate;
                world.place(order(0), PaymentMethod::Balance, None);
                world.settle_after_trouble();
                world.settle_after_trouble();
                assert_bought_once(&mut world, &format!("{cascade} commands a turn, message {message}"));
            }
        }
    }
}

#[test]
fn a_message_that_waits_is_not_kept_twice() {
    let mut world = World::new();
    world.place(order(0), PaymentMethod::Balance, None);
    world.commit(ORDERS);
    let reserve = world.mail.front().cloned().expect("a message");
    let many = (0..100).map(|_| Input::Received(Box::new(reserve.clone()))).collect();
    world.step(GOODS, many);
    world.commit(GOODS);
    let answers = world.mail.iter().filter(|message| message.is_answer()).count();
    assert_eq!(answers, 1);
    world.settle();
    assert_bought_once(&mut world, "it came a hundred times");
}

#[test]
fn a_message_for_another_shard_changes_nothing() {
    let mut world = World::new();
    world.place(order(0), PaymentMethod::Balance, None);
    world.commit(ORDERS);
    let message = world.mail.front().cloned().expect("a message");
    world.step(BUYERS, vec![Input::Received(Box::new(message))]);
    assert!(world.nodes[usize::from(BUYERS)].writing.is_none());
}

#[test]
fn a_request_for_what_another_shard_keeps_is_not_decided() {
    let mut world = World::new();
    let cause = Cause {
        actor: Actor::System,
        correlation: Uuid::nil(),
        traceparent: None,
    };
    let ticket = world.send(ORDERS, Request::new(create(PRICE, 1), cause));
    assert!(world.nodes[usize::from(ORDERS)].writing.is_none());
    let answer = world.answers.iter().find(|(answered, _)| *answered == ticket);
    assert!(
        matches!(answer, Some((_, Err(EngineError::Unavailable(why)))) if why.contains("shard 1 keeps product")),
        "{answer:?}"
    );
}

#[test]
fn order_numbers_are_unique_over_shards() {
    let mut world = World::new();
    let orders: Vec<_> = (0..8).map(|n| OrderId::new(id_in(n % 4, 20 + usize::from(n)))).collect();
    for order in &orders {
        world.place(*order, PaymentMethod::Card, None);
    }
    world.settle();
    let numbers: std::collections::BTreeSet<_> = orders
        .iter()
        .map(|id| world.order(*id).placed().expect("placed").number.to_string())
        .collect();
    assert_eq!(numbers.len(), orders.len(), "{numbers:?}");
}
