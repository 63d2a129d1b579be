//! Engines of one log in several processes: shards that come and go, and who asks from outside.

mod bad_reader;
mod shop;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aggregates::{Command, Kind, OrderStatus, PaymentMethod, ProductCommand, State, WalletCommand};
use bad_reader::{Badness, Heads};
use engine::{
    Answering, CoreSettings, Elsewhere, Engine, EngineError, EngineSettings, Engines, Inboxes, Message, Question, Response, Running,
    Shards, Transport, Versioned,
};
use event_store::{EventStore, LogReader, LogWriter, MemoryStore, StoreError, verify_chain};
use parking_lot::Mutex;
use shop::{Approving, Counter, PRICE, buyer, krw, processes, product, represent};
use uuid::Uuid;

const SHARDS: u16 = 4;

fn four() -> Shards {
    Shards::new(SHARDS).expect("four")
}

/// What lies between the processes: it loses every ninth question after it was answered, so that it is asked again.
#[derive(Clone, Default)]
struct Network {
    processes: Arc<Mutex<Vec<Engine>>>,
    asked: Arc<AtomicUsize>,
}

impl Network {
    fn processes(&self) -> Vec<Engine> {
        self.processes.lock().clone()
    }
}

impl Transport for Network {
    fn send(&self, message: Message, here: &Inboxes) {
        let (from, durable) = (message.from, here.durable(message.from));
        let Err(mut message) = here.deliver(message) else { return };
        for process in self.processes() {
            process.inboxes().heard_of(from, durable);
            match process.inboxes().deliver(message) {
                Ok(()) => return,
                Err(back) => message = back,
            }
        }
    }
}

impl Elsewhere for Network {
    fn ask(&self, shard: u16, question: Question, here: &Inboxes) -> Answering {
        let (network, here) = (self.clone(), here.clone());
        Box::pin(async move {
            let travels = serde_json::to_vec(&question).expect("JSON");
            for _ in 0..2_000 {
                for process in network.processes() {
                    let question = serde_json::from_slice(&travels).expect("a question");
                    let Some(answer) = process.answer(shard, question).await else {
                        continue;
                    };
                    if network.asked.fetch_add(1, Ordering::Relaxed) % 9 == 8 {
                        continue;
                    }
                    for (shard, position) in (0..).zip(process.inboxes().all_durable()) {
                        here.heard_of(shard, position);
                    }
                    let answer = serde_json::to_vec(&answer).expect("JSON");
                    return serde_json::from_slice::<Result<Response, EngineError>>(&answer).expect("an answer");
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(EngineError::NoAnswer(shard))
        })
    }
}

fn settings(network: &Network, instance: u128) -> EngineSettings {
    let core = CoreSettings {
        shards: four(),
        others_read_anew: true,
        ..CoreSettings::new(processes(), jiff::tz::TimeZone::UTC, represent)
    };
    EngineSettings {
        transport: Arc::new(network.clone()),
        elsewhere: Some(Arc::new(network.clone())),
        ..EngineSettings::new(core, Uuid::from_u128(instance))
    }
}

/// A log, two processes that have none of its shards yet, and one that only asks.
struct Apart {
    store: Arc<dyn EventStore>,
    gateway: Arc<Approving>,
    processes: [Engines; 2],
    outside: Counter,
}

impl Apart {
    fn begin() -> Self {
        let network = Network::default();
        let store: Arc<dyn EventStore> = Arc::new(MemoryStore::default());
        let gateway = Arc::new(Approving::default());
        let process = |instance| {
            let runtime = tokio::runtime::Handle::current();
            let engines = Engines::new(&store, gateway.clone(), settings(&network, instance), Vec::new(), runtime);
            network.processes.lock().push(engines.engine());
            engines
        };
        let processes = [process(1), process(2)];
        let outside = Engine::asking(four(), Uuid::nil(), &settings(&network, 3));
        Self {
            store,
            gateway,
            processes,
            outside: Counter { engine: outside },
        }
    }

    /// Each process takes half of the shards.
    fn halves(&self) -> Vec<Option<Running>> {
        let start = |shard: u16| self.processes[usize::from(shard % 2)].start_one(shard).expect("the shard");
        four().all().map(start).map(Some).collect()
    }

    /// Sells to as many as come, all of product 0, and says how many orders were confirmed.
    async fn sell(&self, orders: u64, meanwhile: impl Future<Output = ()>) -> u64 {
        let tasks: Vec<_> = (0..orders)
            .map(|key| {
                let method = [PaymentMethod::Balance, PaymentMethod::Card][usize::try_from(key % 2).expect("small")];
                let (id, request) = self.outside.order(key, u128::from(key % 10), method, &[0]);
                let engine = self.outside.engine.clone();
                tokio::spawn(async move { (id, engine.execute(request).await) })
            })
            .collect();
        meanwhile.await;
        let mut confirmed = 0;
        for task in tasks {
            let (id, reply) = task.await.expect("no panic");
            reply.expect("an answer").answer.result.expect("accepted");
            let (status, _) = self.outside.settled(id).await;
            assert!(matches!(status, OrderStatus::Confirmed | OrderStatus::Cancelled), "{status:?}");
            confirmed += u64::from(status == OrderStatus::Confirmed);
        }
        confirmed
    }

    async fn open_with(&self, stock: u64) {
        self.outside.offer(0, stock).await;
        for number in 0..10 {
            self.outside.wallet(number, 1_000_000).await;
        }
    }

    /// Ten buyers have paid for exactly so many orders, from their balances or by card.
    async fn assert_paid(&self, orders: i64) {
        let mut paid = i64::try_from(self.gateway.charges.load(Ordering::Relaxed)).expect("few") * PRICE;
        for number in 0..10 {
            let wallet = self
                .outside
                .engine
                .read(Kind::Wallet, buyer(number).uuid())
                .await
                .expect("an answer");
            let State::Wallet(wallet) = wallet.expect("it is open").state else {
                panic!("not a wallet")
            };
            paid += 1_000_000 - wallet.balance().expect("open").minor();
        }
        assert_eq!(paid, orders * PRICE);
    }

    fn assert_whole(&self) {
        let reader = self.store.reader().expect("a reader");
        for shard in four().all() {
            verify_chain(reader.as_ref(), shard).expect("the chain holds");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_and_one_that_only_asks_sell_as_one_would() {
    let apart = Apart::begin();
    let running = apart.halves();
    apart.open_with(30).await;
    assert_eq!(apart.sell(60, async {}).await, 30);
    apart.assert_paid(30).await;
    drop(running);
    apart.assert_whole();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_moves_while_everybody_buys_loses_nothing_and_does_nothing_twice() {
    let apart = Arc::new(Apart::begin());
    let mut running = apart.halves();
    apart.open_with(1_000).await;
    let moving = Arc::clone(&apart);
    let moves = async move {
        tokio::task::spawn_blocking(move || {
            for shard in four().all() {
                let held = running[usize::from(shard)].take().expect("it runs");
                // Half of them end in order, half are taken from who still holds them.
                let other = &moving.processes[usize::from(1 - shard % 2)];
                let taken = if shard < 2 {
                    held.stop();
                    other.start_one(shard)
                } else {
                    let taken = other.start_one(shard);
                    let _fenced = held;
                    taken
                };
                running[usize::from(shard)] = Some(taken.expect("the shard"));
            }
            running
        })
        .await
        .expect("no panic")
    };
    let mut after = None;
    let sold = apart.sell(300, async { after = Some(moves.await) }).await;
    assert_eq!(sold, 300);
    apart.assert_paid(300).await;
    drop(after);
    apart.assert_whole();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_key_is_done_once_although_its_answer_is_lost() {
    let apart = Apart::begin();
    let _running = apart.halves();
    apart.outside.wallet(0, 1).await;
    for _ in 0..40 {
        apart
            .outside
            .ask(Command::Wallet(buyer(0), WalletCommand::Deposit { amount: krw(1) }))
            .await;
    }
    let wallet = apart.outside.engine.read(Kind::Wallet, buyer(0).uuid()).await.expect("an answer");
    let State::Wallet(wallet) = wallet.expect("it is open").state else {
        panic!("not a wallet")
    };
    assert_eq!(wallet.balance().expect("open").minor(), 41);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_placed_for_a_product_as_it_was_when_its_seller_was_answered() {
    let apart = Apart::begin();
    let _running = apart.halves();
    apart.outside.wallet(0, 1_000_000).await;
    for number in 0..8_u128 {
        let unknown = apart
            .outside
            .order(100 + u64::try_from(number).expect("small"), 0, PaymentMethod::Balance, &[number]);
        let refused = apart.outside.engine.execute(unknown.1).await.expect("an answer").answer.result;
        assert_eq!(refused.expect_err("nobody offers it").code, "unknown-product");
        apart.outside.offer(number, 10).await;
        let (id, request) = apart
            .outside
            .order(200 + u64::try_from(number).expect("small"), 0, PaymentMethod::Balance, &[number]);
        apart
            .outside
            .engine
            .execute(request)
            .await
            .expect("an answer")
            .answer
            .result
            .expect("it is offered now");
        assert_eq!(apart.outside.settled(id).await.0, OrderStatus::Confirmed);
        let retire = ProductCommand::Retire;
        apart.outside.ask(Command::Product(product(number), retire)).await;
        let late = apart
            .outside
            .order(300 + u64::try_from(number).expect("small"), 0, PaymentMethod::Balance, &[number]);
        let refused = apart.outside.engine.execute(late.1).await.expect("an answer").answer.result;
        assert_eq!(refused.expect_err("it is retired").code, "unknown-product");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_answered_knows_how_far_the_shards_are_that_it_stands_on() {
    let apart = Apart::begin();
    let _running = apart.halves();
    apart.open_with(10).await;
    assert_eq!(apart.sell(5, async {}).await, 5);
    // The order's goods were committed by their shard before the order was confirmed by its own.
    let reader = apart.store.reader().expect("a reader");
    let goods = four().of(product(0).uuid());
    let committed = reader.events(goods, 0, 1_000).expect("read");
    let last = committed
        .iter()
        .rfind(|event| &*event.event_type == "inventory.committed")
        .expect("sold");
    assert!(apart.outside.engine.durable(goods) >= last.position);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_a_shard_from_a_process_that_lives_fences_that_one_alone() {
    let apart = Apart::begin();
    let [first, second] = &apart.processes;
    let held: Vec<_> = (0..2).map(|shard| first.start_one(shard).expect("the shard")).collect();
    assert!(second.start_if_vacant(0).is_err(), "its holder lives");
    let _taken = second.start_one(0).expect("it is assigned");
    let mut ended = held[0].ended();
    // Its next heartbeat or its next batch tells it.
    tokio::time::timeout(Duration::from_secs(20), ended.wait_for(Option::is_some))
        .await
        .expect("in time")
        .expect("it says why");
    assert!(held[1].ended().borrow().is_none());
    assert_eq!(first.engine().inboxes().here(), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_has_lost_its_shard_and_does_not_know_it_answers_nothing_from_memory() {
    let apart = Apart::begin();
    let [first, second] = &apart.processes;
    let shard = four().of(buyer(0).uuid());
    let mut fenced = vec![first.start_one(shard).expect("the shard")];
    let (mut before, mut now) = (first, second);
    apart.outside.wallet(0, 100).await;
    for round in 1..=20_i64 {
        let question = || Question::Read(Kind::Wallet, buyer(0).uuid());
        let mine = before.engine().answer(shard, question()).await;
        assert!(matches!(mine, Some(Ok(Response::State(Some(_))))), "the shard is its own");
        fenced.push(now.start_one(shard).expect("it is assigned"));
        let deposit = Command::Wallet(buyer(0), WalletCommand::Deposit { amount: krw(1) });
        apart.outside.ask(deposit).await;
        // Whoever was answered asks the one before.
        for _ in 0..3 {
            match before.engine().answer(shard, question()).await {
                None => {}
                Some(Ok(Response::State(Some(Versioned {
                    state: State::Wallet(wallet),
                    ..
                })))) => assert_eq!(wallet.balance().expect("open").minor(), 100 + round, "an answer of the past"),
                Some(other) => panic!("{other:?}"),
            }
        }
        std::mem::swap(&mut before, &mut now);
    }
}

/// A log that other processes can write, and whose heads are read as they can be.
struct Elsewheres {
    inner: MemoryStore,
    badness: Badness,
}

impl EventStore for Elsewheres {
    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError> {
        self.inner.writer()
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        Ok(self.badness.of(self.inner.reader()?))
    }

    fn is_shared(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_the_log_does_not_clear_has_an_answer_all_the_same_and_what_is_written_goes_on() {
    let badness = Badness::default();
    let store: Arc<dyn EventStore> = Arc::new(Elsewheres {
        inner: MemoryStore::default(),
        badness: badness.clone(),
    });
    let settings = EngineSettings {
        answered_within: Duration::from_millis(300),
        ..EngineSettings::new(
            CoreSettings::new(processes(), jiff::tz::TimeZone::UTC, represent),
            Uuid::from_u128(7),
        )
    };
    let gateway = Arc::new(Approving::default());
    let running = Engine::start(&store, gateway, settings, Vec::new(), tokio::runtime::Handle::current()).expect("it starts");
    let counter = Counter { engine: running.engine() };
    counter.wallet(0, 100).await;
    let balance = async || match counter.engine.read(Kind::Wallet, buyer(0).uuid()).await {
        Ok(Some(Versioned {
            state: State::Wallet(wallet),
            ..
        })) => Ok(wallet.balance().expect("open").minor()),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    };
    assert_eq!(balance().await, Ok(100));
    badness.heads(Heads::Unavailable);
    let refused = balance().await;
    assert!(
        matches!(&refused, Err(EngineError::Unavailable(why)) if why.contains("planted")),
        "{refused:?}"
    );
    // A batch that is written clears as well.
    let (_, keyed) = counter.order(1, 0, PaymentMethod::Balance, &[0]);
    let refusal = counter.engine.execute(keyed).await.expect("an answer").answer.result;
    assert_eq!(refusal.expect_err("nobody offers it").code, "unknown-product");
    badness.heads(Heads::Silent);
    let refused = balance().await;
    assert!(
        matches!(&refused, Err(EngineError::Unavailable(why)) if why.contains("in time")),
        "{refused:?}"
    );
    badness.heads(Heads::Well);
    assert_eq!(balance().await, Ok(100));
    running.stop();
}
