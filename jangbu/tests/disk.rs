//! The real process on a disk that fails under load: it ends, or refuses and goes on when the disk does; it says why; and whatever it
//! acknowledged is there afterwards. The disk is `benches/slow-fsync/failing_disk.c`, between the process and the kernel.

mod shop;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::Value;
use shop::{
    ADMIN, BUYER, COFFEE, Chance, Client, PATIENCE, Pay, SELLER, Shop, Token,
    client::{fresh_key, pause, payment_key},
    eventually, invariants, order,
};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    task::JoinSet,
};

const ORDERS: &str = "/api/v1/orders";
const LOG: &str = "log.db,log.db-wal";
const CLIENTS: usize = 6;

/// What the disk does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing = 0,
    SyncFails = 1,
    /// The kernel says so once, and has thrown away what was to be synced.
    SyncLoses = 2,
    WriteFails = 3,
    NoRoom = 4,
    ShortWrites = 5,
    /// At and behind a place in the file.
    ReadFails = 6,
}

/// The disk under some files of a process, and the library that stands in for it.
struct Disk {
    scratch: TempDir,
    control: File,
    files: &'static str,
}

impl Disk {
    /// A disk that is sound, so far, under the files of these names.
    fn under(files: &'static str) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/slow-fsync/failing_disk.c");
        let compiled = std::process::Command::new("cc")
            .args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-o"])
            .arg(scratch.path().join("failing_disk.so"))
            .args([source, "-ldl", "-lpthread"])
            .status()
            .expect("there is a C compiler: tools/setup.sh test");
        assert!(compiled.success(), "the library is compiled");
        let path = scratch.path().join("control");
        fs::write(&path, [0; 40]).expect("a control file");
        let control = File::options().read(true).write(true).open(path).expect("the control file");
        Self { scratch, control, files }
    }

    /// From now on, after so many more syncs or bytes, it fails so often; for ever below zero.
    fn fails(&self, fault: Fault, room: u64, times: i64) {
        self.write(1, i64::try_from(room).expect("small"));
        self.write(2, times);
        self.write(0, fault as i64);
    }

    fn is_sound_again(&self) {
        self.write(0, Fault::Nothing as i64);
    }

    /// How often it has failed.
    fn failures(&self) -> i64 {
        self.read(3)
    }

    /// How often something was synced.
    fn syncs(&self) -> i64 {
        self.read(4)
    }

    fn write(&self, field: u64, value: i64) {
        self.control.write_all_at(&value.to_ne_bytes(), field * 8).expect("it is told");
    }

    fn read(&self, field: u64) -> i64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, field * 8).expect("it tells");
        i64::from_ne_bytes(bytes)
    }

    /// What puts it under a process.
    fn settings(&self) -> [(&'static str, String); 3] {
        let path = |name: &str| self.scratch.path().join(name).to_str().expect("UTF-8").to_owned();
        [
            ("LD_PRELOAD", path("failing_disk.so")),
            ("FAILING_DISK_CONTROL", path("control")),
            ("FAILING_DISK_FILES", self.files.to_owned()),
        ]
    }

    /// The demo shop on this disk.
    async fn shop(&self, more: &[(&str, &str)]) -> Shop {
        let own = self.settings();
        let own = own.iter().map(|(name, value)| (*name, value.as_str()));
        Shop::open(&own.chain(more.iter().copied()).collect::<Vec<_>>()).await
    }
}

/// A life of the shop on a disk that will end it.
struct Life {
    child: Child,
    client: Client,
    errors: PathBuf,
}

impl Life {
    fn begin(disk: &Disk, scratch: &Path, data: &Path) -> Self {
        let errors = scratch.join("errors");
        let mut command = Command::new(env!("CARGO_BIN_EXE_jangbu"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("JANGBU_") {
                command.env_remove(name);
            }
        }
        let child = command
            .current_dir(scratch)
            .args(["serve", "--demo", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .envs(disk.settings())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&errors).expect("a file for what it says"))
            .kill_on_drop(true)
            .spawn()
            .expect("the binary runs");
        Self {
            child,
            client: Client::new(),
            errors,
        }
    }

    async fn ready(&mut self, data: &Path) {
        eventually("the shop is ready", async || {
            let ended = self.child.try_wait().expect("it can be asked");
            assert_eq!(ended, None, "{}", fs::read_to_string(&self.errors).unwrap_or_default());
            self.client.moved_to(fs::read_to_string(data.join("address")).ok()?.trim());
            self.client.is_ready().await.then_some(())
        })
        .await;
    }

    /// Waits until it has ended by itself: how, and the one line in which it says why.
    async fn ends(mut self) -> (ExitStatus, String) {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.expect("it ends by itself").expect("it has ended");
        let said = fs::read_to_string(&self.errors).expect("what it says");
        assert_eq!(said.trim_end().lines().count(), 1, "one line:\n{said}");
        (status, said)
    }
}

/// A request, and the answer that its client had.
#[derive(Clone)]
struct Asked {
    buyer: Token,
    key: String,
    body: Value,
    answer: Option<Value>,
}

/// What was asked and answered, remembered outside of the shop.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<Vec<Asked>>>);

impl Ledger {
    fn asked(&self, buyer: &Token, key: &str, body: &Value) -> usize {
        let mut all = self.0.lock().expect("nobody panics with it");
        all.push(Asked {
            buyer: buyer.clone(),
            key: key.to_owned(),
            body: body.clone(),
            answer: None,
        });
        all.len() - 1
    }

    fn answered(&self, number: usize, answer: Value) {
        self.0.lock().expect("nobody panics with it")[number].answer = Some(answer);
    }

    fn all(&self) -> Vec<Asked> {
        self.0.lock().expect("nobody panics with it").clone()
    }

    fn acknowledged(&self) -> usize {
        self.all().iter().filter(|asked| asked.answer.is_some()).count()
    }

    /// Every request again: what was acknowledged has its answer of before, word for word, and what was not is done now or was.
    async fn holds(&self, client: &Client) {
        let all = self.all();
        for asked in &all {
            let again = client.insist(&asked.buyer, ORDERS, &asked.key, &asked.body).await.expect(202);
            if let Some(answer) = &asked.answer {
                assert!(again.replayed(), "what was acknowledged is there: {answer}");
                assert_eq!(again.body, *answer, "the answer of before");
            }
            client.ended(&asked.buyer, &again.order_id()).await;
        }
    }
}

/// Clients who order until they are told to stop, or nobody answers any more.
struct Load {
    clients: JoinSet<()>,
    stop: Arc<AtomicBool>,
}

impl Load {
    fn begin(client: &Client, buyers: &[Token], ledger: &Ledger, chance: &mut Chance) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let buyer = buyers[number % buyers.len()].clone();
            clients.spawn(work(client.clone(), buyer, ledger.clone(), chance.fork(), Arc::clone(&stop)));
        }
        Self { clients, stop }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.ends().await;
    }

    /// Waits until nobody answers them any more.
    async fn ends(mut self) {
        let ends = async {
            while let Some(client) = self.clients.join_next().await {
                client.expect("no client panics");
            }
        };
        tokio::time::timeout(PATIENCE, ends).await.expect("the clients come to their end");
    }
}

async fn work(client: Client, buyer: Token, ledger: Ledger, mut chance: Chance, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let body = an_order(&mut chance);
        let key = fresh_key();
        let number = ledger.asked(&buyer, &key, &body);
        loop {
            let Ok(answer) = Client::send(client.command(&buyer, ORDERS, &key, &body)).await else {
                return;
            };
            if answer.status == 202 {
                ledger.answered(number, answer.body);
                break;
            }
            assert_eq!(answer.status, 503, "refused for now, and not otherwise: {}", answer.body);
            if stop.load(Ordering::Relaxed) {
                return;
            }
            pause(5).await;
        }
    }
}

fn an_order(chance: &mut Chance) -> Value {
    let coffee = [(COFFEE, 1)];
    match chance.below(4) {
        0 => order(&coffee, Pay::Card(&payment_key("ok"))),
        1 => order(&coffee, Pay::Card(&payment_key("declined"))),
        _ => order(&coffee, Pay::Balance),
    }
}

/// Buyers with enough in their balances, in a shop with enough coffee for all of them.
async fn crowd(client: &Client) -> Vec<Token> {
    let (admin, seller) = (client.log_in(ADMIN).await, client.log_in(SELLER).await);
    let receive = serde_json::json!({ "quantity": 1_000_000 });
    client
        .post(&seller, &format!("/api/v1/products/{COFFEE}/stock/receipts"), &receive)
        .await
        .expect(201);
    let mut buyers = Vec::new();
    for _ in 0..3 {
        buyers.push(client.new_buyer(&admin, 1_000_000_000).await.0);
    }
    buyers
}

/// The shop at the end: each request is one order, and all that must hold does.
async fn close(shop: Shop, ledger: &Ledger) -> invariants::Log {
    shop.agrees_with_the_provider().await;
    let log = shop.close().await;
    assert_eq!(log.unfinished(), Vec::<&str>::new());
    let asked = ledger.all();
    assert_eq!(log.orders.len(), asked.len(), "each request is one order");
    log
}

#[tokio::test]
async fn a_log_that_cannot_be_written_for_certain_ends_the_shop_and_nothing_acknowledged_is_lost() {
    let faults = [
        (Fault::SyncFails, 1),
        (Fault::SyncFails, -1),
        (Fault::SyncLoses, 1),
        (Fault::SyncLoses, -1),
        (Fault::WriteFails, -1),
    ];
    let mut chance = Chance::new("disk");
    let disk = Disk::under(LOG);
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    let ledger = Ledger::default();
    let mut buyers = Vec::new();
    for (fault, times) in faults {
        let mut life = Life::begin(&disk, scratch.path(), &data);
        life.ready(&data).await;
        let client = life.client.clone();
        if buyers.is_empty() {
            buyers = crowd(&client).await;
        }
        // What the last life left in doubt is settled, and what it acknowledged is there.
        ledger.holds(&client).await;
        let (acknowledged, failures) = (ledger.acknowledged(), disk.failures());
        let load = Load::begin(&client, &buyers, &ledger, &mut chance);
        eventually("the shop is at work", async || {
            (ledger.acknowledged() > acknowledged + 20).then_some(())
        })
        .await;
        let room = match fault {
            Fault::WriteFails => chance.below(500_000),
            _ => chance.below(30),
        };
        disk.fails(fault, room, times);
        load.ends().await;
        let (status, said) = life.ends().await;
        disk.is_sound_again();
        assert!(disk.failures() > failures, "the disk has failed");
        println!("{fault:?}, {times} times: {status}: {}", said.trim_end());
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("the engine has ended") && said.contains("disk"), "says why: {said}");
    }
    assert!(disk.syncs() > 0);
    let shop = Shop::open_in(tempfile::tempdir().expect("a scratch directory"), data, &[]).await;
    ledger.holds(shop.client()).await;
    let log = close(shop, &ledger).await;
    println!(
        "disk: {} requests, {} acknowledged at once",
        log.orders.len(),
        ledger.acknowledged()
    );
}

#[tokio::test]
async fn a_shop_with_nothing_to_do_ends_as_well_when_its_disk_fails_once() {
    let disk = Disk::under(LOG);
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    let mut life = Life::begin(&disk, scratch.path(), &data);
    life.ready(&data).await;
    let buyer = life.client.log_in(BUYER).await;
    let bought = life.client.buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await;
    assert_eq!(bought.outcome(), "CONFIRMED");
    for fault in [Fault::SyncFails, Fault::SyncLoses, Fault::WriteFails] {
        disk.fails(fault, 0, 1);
        let (status, said) = life.ends().await;
        println!("{fault:?} with nothing to do: {status}: {}", said.trim_end());
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("the engine has ended") && said.contains("disk"), "says why: {said}");
        disk.is_sound_again();
        life = Life::begin(&disk, scratch.path(), &data);
        life.ready(&data).await;
        assert_eq!(life.client.order(&buyer, &bought.order_id()).await.outcome(), "CONFIRMED");
    }
    drop(life);
}

/// Starts a shop on a disk that fails like this from the first moment: it says that the disk is to blame, which file it is about, and
/// what to do.
async fn does_not_start(disk: &Disk, scratch: &Path, data: &Path, fault: Fault, room: u64) {
    let failures = disk.failures();
    disk.fails(fault, room, -1);
    let (status, said) = Life::begin(disk, scratch, data).ends().await;
    disk.is_sound_again();
    println!("{fault:?} behind {room}: {status}: {}", said.trim_end());
    assert!(disk.failures() > failures, "the disk has failed");
    assert_eq!(status.code(), Some(1), "{said}");
    let (why, what_to_do) = match fault {
        Fault::NoRoom => ("the disk has no room left", "make some, and start again"),
        _ => (
            "the disk cannot be read or written",
            "look at the disk, for instance with `dmesg`, and start again",
        ),
    };
    assert!(said.contains(why) && said.contains(what_to_do), "{said}");
    assert!(said.contains("log.db") && !said.contains("damaged"), "{said}");
}

#[tokio::test]
async fn a_disk_that_fails_from_the_first_moment_lets_no_shop_start() {
    let disk = Disk::under("log.db,log.db-wal,log.db.new,log.db.new-wal,log.db.new-journal");
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    for fault in [Fault::SyncFails, Fault::WriteFails, Fault::NoRoom] {
        for room in [0, 1, 2, 10_000] {
            if fault != Fault::SyncFails || room <= 2 {
                does_not_start(&disk, scratch.path(), &data, fault, room).await;
            }
        }
    }
    let own = tempfile::tempdir().expect("a scratch directory");
    let mut shop = Shop::open_in(own, data.clone(), &[]).await;
    let buyer = shop.client().log_in(BUYER).await;
    let bought = shop.client().buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await;
    assert_eq!(bought.outcome(), "CONFIRMED", "what began on a bad disk goes on on a good one");
    shop.stop().await;
    for fault in [Fault::SyncFails, Fault::WriteFails, Fault::NoRoom] {
        does_not_start(&disk, scratch.path(), &data, fault, 0).await;
    }
    // In the file's first bytes, in the schema, and in the middle of a table.
    for room in [0, 4_096, 8_192, 30_000] {
        does_not_start(&disk, scratch.path(), &data, Fault::ReadFails, room).await;
    }
    shop.start_again().await;
    assert_eq!(shop.client().order(&buyer, &bought.order_id()).await.outcome(), "CONFIRMED");
    shop.close().await;
}

#[tokio::test]
async fn without_room_for_the_log_requests_are_refused_until_there_is_some_again() {
    let mut chance = Chance::new("disk");
    let disk = Disk::under(LOG);
    let shop = disk.shop(&[]).await;
    let client = shop.client().clone();
    let buyers = crowd(&client).await;
    let ledger = Ledger::default();
    let load = Load::begin(&client, &buyers, &ledger, &mut chance);
    for _ in 0..8 {
        let (acknowledged, failures) = (ledger.acknowledged(), disk.failures());
        eventually("the shop is at work", async || {
            (ledger.acknowledged() > acknowledged + 20).then_some(())
        })
        .await;
        // The end of the disk may be anywhere in a page.
        disk.fails(Fault::NoRoom, chance.below(200_000), -1);
        eventually("the disk is full", async || (disk.failures() > failures).then_some(())).await;
        let body = order(&[(COFFEE, 1)], Pay::Balance);
        let key = fresh_key();
        let refused = ledger.asked(&buyers[0], &key, &body);
        let answer = Client::send(client.command(&buyers[0], ORDERS, &key, &body))
            .await
            .expect("it answers");
        let answer = answer.expect_problem(503, "unavailable");
        assert!(answer.headers.contains_key("retry-after"));
        let alive = Client::send(client.request(reqwest::Method::GET, "/livez")).await;
        assert_eq!(alive.expect("it lives").status, 200);
        disk.is_sound_again();
        let answer = client.insist(&buyers[0], ORDERS, &key, &body).await.expect(202);
        assert!(!answer.replayed(), "what was refused left no record");
        ledger.answered(refused, answer.body);
    }
    load.end().await;
    ledger.holds(&client).await;
    let said = shop.output();
    assert!(
        said.contains("a batch was not written") && said.contains("full"),
        "says why:\n{said}"
    );
    assert!(said.lines().count() < 1_000, "a full disk is told {} times", said.lines().count());
    close(shop, &ledger).await;
}

#[tokio::test]
async fn a_disk_that_takes_half_of_each_write_changes_nothing() {
    let mut chance = Chance::new("disk");
    let disk = Disk::under("log.db,log.db-wal,views.db,views.db-wal,simulator.db,simulator.db-wal");
    disk.fails(Fault::ShortWrites, 0, -1);
    let shop = disk.shop(&[]).await;
    let client = shop.client().clone();
    let buyers = crowd(&client).await;
    let ledger = Ledger::default();
    let load = Load::begin(&client, &buyers, &ledger, &mut chance);
    eventually("the shop is at work", async || (ledger.acknowledged() > 200).then_some(())).await;
    load.end().await;
    assert!(disk.failures() > 1_000, "the disk was short {} times", disk.failures());
    assert_eq!(ledger.acknowledged(), ledger.all().len(), "nobody was refused");
    ledger.holds(&client).await;
    close(shop, &ledger).await;
}

#[tokio::test]
async fn a_provider_whose_ledger_cannot_be_written_holds_up_its_own_payments_alone() {
    let disk = Disk::under("simulator.db,simulator.db-wal");
    let shop = disk.shop(&[("JANGBU_PAYMENT__DEADLINE", "5m")]).await;
    let client = shop.client().clone();
    let buyer = client.log_in(BUYER).await;
    let mut by_card = Vec::new();
    for fault in [Fault::SyncFails, Fault::SyncLoses, Fault::WriteFails, Fault::NoRoom] {
        let failures = disk.failures();
        disk.fails(fault, 0, -1);
        for _ in 0..3 {
            let body = order(&[(COFFEE, 1)], Pay::Card(&payment_key("ok")));
            by_card.push(client.place(&buyer, &body).await.order_id());
        }
        eventually("the provider's disk fails", async || (disk.failures() > failures).then_some(())).await;
        let bought = client.buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await;
        assert_eq!(bought.outcome(), "CONFIRMED", "the balance needs no provider");
        for order in &by_card[by_card.len() - 3..] {
            assert_eq!(client.order(&buyer, order).await.outcome(), "PAYMENT_PENDING");
        }
        disk.is_sound_again();
        for order in &by_card {
            assert_eq!(client.ended(&buyer, order).await.outcome(), "CONFIRMED", "{fault:?}");
            client.ledger_is(order, &[("CHARGE", 5_000)]).await;
        }
    }
    shop.agrees_with_the_provider().await;
    let log = shop.close().await;
    assert_eq!(log.ended("order.confirmed"), by_card.len() + 4);
}

#[tokio::test]
async fn views_that_cannot_be_written_hold_up_no_command_and_catch_up_afterwards() {
    let mut chance = Chance::new("disk");
    let disk = Disk::under("views.db,views.db-wal");
    let shop = disk.shop(&[]).await;
    let client = shop.client().clone();
    let buyers = crowd(&client).await;
    let ledger = Ledger::default();
    for fault in [Fault::WriteFails, Fault::NoRoom, Fault::SyncFails] {
        let (acknowledged, failures) = (ledger.acknowledged(), disk.failures());
        disk.fails(fault, chance.below(100), -1);
        let load = Load::begin(&client, &buyers, &ledger, &mut chance);
        eventually("the shop is at work", async || {
            (ledger.acknowledged() > acknowledged + 50).then_some(())
        })
        .await;
        if fault != Fault::SyncFails {
            // Views are synced when they are copied into their file, which so few never are.
            eventually("the views' disk fails", async || (disk.failures() > failures).then_some(())).await;
        }
        load.end().await;
        disk.is_sound_again();
        for asked in &ledger.all()[acknowledged..] {
            let answer = asked.answer.as_ref().expect("nobody was refused");
            let order = answer["orderId"].as_str().expect("an id");
            let outcome = client.ended(&asked.buyer, order).await.outcome();
            client.shown(&asked.buyer, order, &outcome).await;
        }
    }
    let figures = client.figures(&buyers[0], &[COFFEE]).await;
    let log = close(shop, &ledger).await;
    let coffee = &log.stocks[COFFEE];
    assert_eq!(
        figures.stock[COFFEE],
        (coffee.on_hand, coffee.reserved),
        "the views show what the log says"
    );
}
