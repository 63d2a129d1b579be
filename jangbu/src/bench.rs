//! `jangbu bench purchase`: real HTTP load on a real server, and what it measured.
//!
//! The load is a closed loop: so many orders are in flight at any time, each over its own connection, and the next is sent when one is
//! answered. Every order asks to be answered once its purchase is settled (`Prefer: wait`), so the time of a request is the time from
//! accepting an order to its confirmation, durable. `docs/performance.md` explains each figure.

mod load;
mod machine;
mod metrics;
mod report;
mod server;
mod shop;

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use uuid::Uuid;

use self::{
    load::{Measured, Plan},
    machine::Cpu,
    metrics::Metrics,
    report::Report,
    server::{Scratch, Server},
};
use crate::client::{
    http::Address,
    people::{Administrator, Credentials},
};

/// The price of every product of the bench, in the currency's smallest unit.
const PRICE: u64 = 1_000;
/// How long the views may take to show the last order.
const CATCHES_UP_WITHIN: Duration = Duration::from_mins(2);

/// What `jangbu bench` takes.
#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Places orders over HTTP and measures how many are confirmed, and how fast.
    Purchase(Box<PurchaseArgs>),
}

#[derive(Args, Debug)]
struct PurchaseArgs {
    /// How many orders are measured.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    orders: u64,
    /// How many orders are in flight at any time, each on a connection of its own.
    #[arg(long, value_name = "K", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    in_flight: u64,
    /// How many products the orders choose from.
    #[arg(long, value_name = "M", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    products: u64,
    /// Every order takes the same product.
    #[arg(long, conflicts_with = "products")]
    hot: bool,
    /// How the orders are paid.
    #[arg(long, value_enum, default_value_t = Payment::Balance)]
    payment: Payment,
    /// How many buyers place them.
    #[arg(long, value_name = "B", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    buyers: u64,
    /// Orders placed before the measurement, and not counted.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    warm_up: u64,
    /// Chooses the products; the same seed, the same orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A server that runs already, by its address (`http://HOST:PORT`); without it the bench starts and ends one of its own.
    #[arg(long)]
    url: Option<Address>,
    /// Where the own server's data goes, in a new folder that is removed afterwards; without it target/bench, or the system's temporary
    /// folder where there is no target. With --url: where to measure the fsync.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Keeps the own server's data and log.
    #[arg(long, conflicts_with = "url")]
    keep: bool,
    #[command(flatten)]
    administrator: Administrator,
    /// The currency of the server at --url.
    #[arg(long, env = "JANGBU_CURRENCY", default_value = "KRW")]
    currency: String,
    /// For people or for programs.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How the orders of the bench are paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Payment {
    /// From the buyer's balance.
    Balance,
    /// By card, through the payment provider.
    Card,
}

impl Payment {
    const fn name(self) -> &'static str {
        match self {
            Self::Balance => "balance",
            Self::Card => "card",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Runs a bench and prints what it measured on standard output. An order that was not confirmed is an error, once all is printed.
pub async fn run(args: BenchArgs) -> anyhow::Result<()> {
    let What::Purchase(args) = args.what;
    let report = tokio::select! {
        report = purchase(&args) => report?,
        // What was started goes with the future that is dropped here.
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    };
    let text = match args.output {
        Output::Text => report.to_string(),
        Output::Json => serde_json::to_string(&report)? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes()).context("writing the result")?;
    if report.confirmed < args.orders {
        bail!("{} of {} orders were not confirmed", args.orders - report.confirmed, args.orders);
    }
    Ok(())
}

async fn purchase(args: &PurchaseArgs) -> anyhow::Result<Report> {
    let target = Target::start(args).await?;
    say("preparing accounts, balances and products");
    let plan = prepare(args, &target).await?;
    if args.warm_up > 0 {
        say(&format!("warming up with {} orders", args.warm_up));
        let warm = load::run(plan.clone().of(args.warm_up, "warm")).await?;
        anyhow::ensure!(warm.failures.is_empty(), "the first orders were not confirmed: {:?}", warm.failures);
    }
    let before = target.settled(None).await?;
    say(&format!("placing {} orders, {} in flight", args.orders, args.in_flight));
    let generator = Cpu::own();
    let server = target.cpu(&before);
    let written = target.written();
    let measured = load::run(plan.of(args.orders, "load")).await?;
    let loaded = Instant::now();
    let generator = Cpu::since(generator, Cpu::own());
    // A server that went away cannot be asked any more; what it answered until then is still worth knowing.
    let so_far = || format!("{} orders confirmed, others {:?}", measured.confirmed, measured.failures);
    let during = target.cpu(&target.metrics().await.with_context(so_far)?);
    let after = target.settled(Some(&before)).await.with_context(so_far)?;
    let caught_up = loaded.elapsed();
    let all = target.cpu(&after);
    let written = target.written().zip(written).map(|(after, before)| after.saturating_sub(before));

    let report = Report::new(&report::Figures {
        run: args,
        target: &target,
        measured: &measured,
        before: &before,
        after: &after,
        caught_up,
        written,
        generator,
        server_during: Cpu::since(server, during),
        server_all: Cpu::since(server, all),
    });
    target.end().await?;
    Ok(report)
}

/// The accounts and products, and what to place.
async fn prepare(args: &PurchaseArgs, target: &Target) -> anyhow::Result<Plan> {
    let run = Uuid::new_v4().simple().to_string()[..12].to_owned();
    let orders = args.orders + args.warm_up;
    // Warm-up and load each give the buyers their turns from the first on.
    let orders_of_each = args.orders.div_ceil(args.buyers) + args.warm_up.div_ceil(args.buyers);
    let wanted = shop::Wanted {
        run: &run,
        admin: &target.admin,
        currency: &args.currency,
        buyers: args.buyers,
        balance: if args.payment == Payment::Balance {
            orders_of_each * PRICE
        } else {
            0
        },
        products: if args.hot { 1 } else { args.products },
        stock: orders,
        price: PRICE,
    };
    let shop = shop::open(&target.address, &wanted).await?;
    Ok(Plan::new(&target.address, &run, shop, args.payment, args.in_flight, args.seed))
}

/// The server that is measured, and where it keeps its data.
struct Target {
    address: Address,
    admin: Credentials,
    own: Option<Server>,
    /// None when it is not known where the server keeps its data.
    data: Option<PathBuf>,
    fsync: Option<Duration>,
    settings: BTreeMap<String, String>,
    // Last, so that it is removed after the server has ended.
    _scratch: Option<Scratch>,
}

impl Target {
    async fn start(args: &PurchaseArgs) -> anyhow::Result<Self> {
        if let Some(address) = &args.url {
            let admin = args.administrator.credentials();
            let fsync = args.data.as_deref().map(machine::fsync_p50).transpose()?;
            let data = args.data.clone();
            return Ok(Self {
                address: address.clone(),
                admin,
                own: None,
                data,
                fsync,
                settings: BTreeMap::new(),
                _scratch: None,
            });
        }
        let scratch = Scratch::new(args.data.as_deref(), args.keep)?;
        let data = scratch.path().to_owned();
        let fsync = machine::fsync_p50(&data)?;
        say(&format!("starting a server with its data in {}", data.display()));
        let admin = Credentials {
            email: "admin@bench.example".to_owned(),
            password: Uuid::new_v4().to_string(),
        };
        let (server, address) = Server::start(&data, &admin).await?;
        let settings = server::settings();
        Ok(Self {
            address,
            admin,
            own: Some(server),
            data: Some(data),
            fsync: Some(fsync),
            settings,
            _scratch: Some(scratch),
        })
    }

    async fn metrics(&self) -> anyhow::Result<Metrics> {
        metrics::read(&self.address).await
    }

    /// The metrics once the views have counted everything since `before`, and stand still.
    async fn settled(&self, before: Option<&Metrics>) -> anyhow::Result<Metrics> {
        let deadline = Instant::now() + CATCHES_UP_WITHIN;
        let mut last = self.metrics().await?;
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = self.metrics().await?;
            let behind = before.is_some_and(|before| now.shown() - before.shown() < now.events() - before.events());
            // Without an earlier count to compare with, standing still is all there is to see.
            if !behind && (before.is_some() || metrics::stood_still(&last, &now)) {
                return Ok(now);
            }
            anyhow::ensure!(Instant::now() < deadline, "the views did not catch up within {CATCHES_UP_WITHIN:?}");
            if before.is_none() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            last = now;
        }
    }

    /// What the server has used so far, if that can be known.
    fn cpu(&self, metrics: &Metrics) -> Option<Cpu> {
        match &self.own {
            Some(server) => Cpu::of(server.pid()),
            None => metrics.value("process_cpu_seconds_total").map(Cpu::total),
        }
    }

    /// What the server has had written so far, if that can be known.
    fn written(&self) -> Option<u64> {
        machine::written(self.own.as_ref()?.pid())
    }

    async fn end(self) -> anyhow::Result<()> {
        match self.own {
            Some(server) => server.end().await,
            None => Ok(()),
        }
    }
}

/// Progress is for people and goes to standard error.
fn say(text: &str) {
    eprintln!("bench: {text}");
}
