//! How fast it is: printed, for people. It counts when nothing else runs, and what is asked has to have been done.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aggregates::{Command, WalletCommand};
use engine::Request;
use test_servers::Kafka;
use tokio::task::JoinSet;

use crate::shop::{Outside, Shop, all_run, buyer, cause, krw};

/// How long each is measured.
const FOR: Duration = Duration::from_secs(3);

const WALLETS: u64 = 256;

struct Measured {
    times: Vec<Duration>,
}

impl Measured {
    /// So many deposits at once, one after another each.
    async fn of(outside: &Outside, in_flight: u64) -> Self {
        let next = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..in_flight {
            let (outside, next) = (outside.clone(), Arc::clone(&next));
            tasks.spawn(async move {
                let mut times = Vec::new();
                while begun.elapsed() < FOR {
                    let wallet = buyer(next.fetch_add(1, Ordering::Relaxed) % WALLETS);
                    let deposit = Command::Wallet(wallet, WalletCommand::Deposit { amount: krw(1) });
                    let asked = Instant::now();
                    let reply = outside.engine.execute(Request::new(deposit, cause())).await.expect("an answer");
                    reply.answer.result.expect("not refused");
                    times.push(asked.elapsed());
                }
                times
            });
        }
        let mut times = tasks.join_all().await.concat();
        times.sort();
        Self { times }
    }

    fn print(&self, what: &str) {
        let at = |share: usize| self.times[(self.times.len() * share / 100).min(self.times.len() - 1)].as_micros();
        println!(
            "{what}: {} commands/s, p50 {} us, p99 {} us, longest {} us",
            self.times.len() as u64 / FOR.as_secs(),
            at(50),
            at(99),
            at(100)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_through_kafka_take_their_time_and_all_are_done() {
    let cores = std::thread::available_parallelism().expect("known");
    println!("{cores} cores for Kafka, the engines and who asks; the log is in memory");
    let shop = Shop::new(Kafka::shared().url());
    let (one, outside) = (shop.process(), shop.outside());
    all_run(&[&one]).await;
    let mut opening = JoinSet::new();
    for wallet in 0..WALLETS {
        let outside = outside.clone();
        opening.spawn(async move { outside.wallet(wallet, 1).await });
    }
    opening.join_all().await;
    let mut done = 0;
    for in_flight in [1, 64, 512] {
        let measured = Measured::of(&outside, in_flight).await;
        measured.print(&format!("one engine, {in_flight} in flight"));
        done += measured.times.len();
    }
    let mut two = shop.process();
    all_run(&[&one, &two]).await;
    for in_flight in [1, 64, 512] {
        let measured = Measured::of(&outside, in_flight).await;
        measured.print(&format!("two engines, {in_flight} in flight"));
        done += measured.times.len();
    }
    let (leaving, measured) = tokio::join!(two.leaves(), Measured::of(&outside, 8));
    let () = leaving;
    measured.print("one of two leaves, 8 in flight");
    done += measured.times.len();
    let mut joins = None;
    let (measured, ()) = tokio::join!(Measured::of(&outside, 8), async { joins = Some(shop.process()) });
    measured.print("a second joins, 8 in flight");
    done += measured.times.len();
    let mut sum = 0;
    for wallet in 0..WALLETS {
        sum += outside.balance(wallet).await - 1;
    }
    assert_eq!(usize::try_from(sum).expect("few"), done);
}
