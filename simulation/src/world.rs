//! A whole shop in one thread: processes, disk, clock, network, provider, projector and everybody outside, moved on by one queue of what
//! happens next. Nothing in it asks the machine for anything, so the same script and seed give the same run, to the last byte.
//!
//! Each shard has a process of its own, which ends, starts and is taken over while the others go on.

mod commits;
mod messages;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use aggregates::{
    AccountId, Command, Currency, EmailCommand, EmailIndex, Kind, Order, OrderStatus, ProductCommand, Recorded, Registration, Role, State,
    Stock, Timestamp, WalletCommand,
};
use engine::{Actor, Cause, Core, CoreSettings, EngineError, Input, Outcome, Output, Request, Response, Unparking};
use event_store::{Batch, LogReader, LogWriter, Shards, StoreError, StreamId};
use messages::{Parcel, Transport};
use sagas::ProviderCall;
use uuid::Uuid;

use crate::{
    chance::Chance,
    clients::{self, Outside},
    disk::{Disk, Fate},
    figures::{Fault, Figures, Injected},
    provider::{Provider, unknown},
    script::{DAY, HOUR, MINUTE, Operation, SECOND, Script, What},
    story::Story,
    views::{Projector, SaveFate},
};

/// 2026-11-20T00:00:00Z, when every run begins.
const START: i64 = 1_795_132_800_000_000;
/// How long after the last fault nothing may be left to do.
const QUIESCENCE: i64 = 20 * DAY;
/// How long the provider has to answer a call.
const CALL_TIMEOUT: i64 = 5 * SECOND;
/// More crashes than these tell nothing new.
const MOST_CRASHES: u64 = 12;
/// Nor do more than these of each shard, where there are several.
const MOST_CRASHES_OF_A_SHARD: u64 = 8;
/// How often the operator looks at most.
const MOST_ROUNDS: u32 = 12;
const INSTANCE: Uuid = Uuid::from_u128(7);

/// What broke, by which check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The check, in a few words.
    pub check: &'static str,
    /// What it found.
    pub what: String,
}

/// Where the processes end without having been asked to.
#[derive(Clone, Debug)]
pub(crate) enum Crashes {
    /// Wherever chance has it.
    ByChance,
    /// At these edges: each counted from the recovery after the one before.
    At(Vec<u64>),
}

/// Something that happens at its time.
enum Happening {
    /// Somebody asks, for the first time or again.
    Ask(usize),
    /// A request arrives at the shop.
    Arrive(usize),
    /// Somebody's patience is over, if they have tried so often and heard nothing.
    GiveUp(usize, u32),
    /// An answer arrives at who asked.
    Heard(usize, Box<Result<Response, EngineError>>),
    /// A process takes a step.
    Turn(u32),
    /// A process takes the step that it asked for.
    Wake(u32, i64),
    /// A commit comes to its end.
    Committed(u32),
    /// A call arrives at the provider.
    Call(u32, Uuid, Box<ProviderCall>, i64),
    /// The outcome of a call arrives at a process.
    Outcome(u32, Uuid, Box<Outcome>),
    /// The money of a charge is taken, long after it was asked for.
    Land(Box<ProviderCall>),
    /// A process starts, for this shard.
    Start(u16),
    /// Another process takes this shard over.
    TakeOver(u16),
    /// This shard's process ends, and is away for so long.
    Down(u16, i64),
    /// A message between shards arrives.
    Deliver(Box<Parcel>),
    /// Whatever carries the messages loses all that it holds.
    TransportFails,
    /// A process that was taken over wakes up.
    Thaw(u32),
    /// The clock jumps.
    ClockJump(i64),
    /// The projector works.
    Project,
    /// An operator looks what needs a person.
    Operate,
    /// An operator does this about all that is set aside.
    UnparkAll(Unparking),
    /// From now on nothing goes wrong any more.
    Calm,
}

/// One process that writes a shard, or believes to.
struct Process {
    id: u32,
    shard: u16,
    core: Core<u64>,
    writer: Box<dyn LogWriter>,
    epoch: u64,
    inbox: Vec<Input<u64>>,
    in_flight: Option<(Arc<Batch>, Fate)>,
    /// What its clock showed, and when that was.
    clock: (i64, i64),
    wake: Option<i64>,
    turn_due: bool,
    /// It was taken over, and does nothing before.
    frozen_until: Option<i64>,
    /// It was told that it must stop.
    must_stop: bool,
    stopped: bool,
    idle_turns: u32,
}

impl Process {
    /// As the shell's clock: the system's, but it never goes back while the process lives.
    fn read_clock(&mut self, now: i64, skew: i64) -> i64 {
        let (shown, at) = self.clock;
        let reading = (now + skew).max(shown + (now - at));
        self.clock = (reading, now);
        reading
    }
}

/// Under which an answer leaves.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    /// None for what opens the shop.
    ask: Option<usize>,
    process: u32,
    answered: bool,
    /// How many prices, of all products, somebody had been told were changed when this was asked.
    prices_told: usize,
}

/// How far somebody is with what they ask.
#[derive(Clone, Debug, Default)]
struct Patience {
    tries: u32,
    done: bool,
    /// What the buyer believes that the order costs; fixed with the first try.
    total: Option<i64>,
}

/// The whole of it.
pub(crate) struct World {
    pub(crate) shards: Shards,
    script: Script,
    crashes: Crashes,
    /// How many edges there were since the last crash that was planned.
    pub(crate) edges: u64,
    /// How many edges there were in all.
    pub(crate) edges_in_all: u64,
    chance: Chance,
    now: i64,
    skew: i64,
    calm: bool,
    /// Nothing may be written any more: only repeats are sent.
    pub(crate) finale: bool,
    queue: BTreeMap<(i64, u64), Happening>,
    queued: u64,
    pub(crate) disk: Disk,
    pub(crate) provider: Provider,
    processes: Vec<Process>,
    /// Who serves each shard.
    current: Vec<Option<u32>>,
    /// Until when a shard stays away.
    away: Vec<i64>,
    started: u32,
    transport: Transport,
    /// What somebody was told about products, in order: whose version is at least what.
    prices_told: Vec<(usize, u64)>,
    tickets: Vec<Ticket>,
    patience: Vec<Patience>,
    waiting_for: BTreeMap<usize, Vec<usize>>,
    totals: BTreeMap<usize, i64>,
    pub(crate) outside: Outside,
    pub(crate) views: Projector,
    projecting: bool,
    pub(crate) injected: Injected,
    pub(crate) figures: Figures,
    pub(crate) story: Story,
    pub(crate) failure: Option<Failure>,
    poison: Option<String>,
    /// How often the operator has looked.
    rounds: u32,
}

impl World {
    pub(crate) fn new(script: Script, shards: Shards, crashes: Crashes, mut chance: Chance, told: bool) -> Self {
        let faults = &script.faults;
        let count = usize::from(shards.count());
        let honest_clock = faults.clock_jumps.is_empty();
        let down = faults.provider_down.iter().map(|(from, to)| (START + from, START + to)).collect();
        Self {
            provider: Provider::new(script.payments.clone(), down, faults.key_alone, honest_clock),
            disk: Disk::new(Uuid::from_u128(u128::from(chance.bits()) << 64 | u128::from(chance.bits()))),
            patience: vec![Patience::default(); script.asks.len()],
            poison: faults.poisoned.map(|ask| clients::correlation(ask).to_string()),
            crashes,
            edges: 0,
            edges_in_all: 0,
            chance,
            now: START,
            skew: 0,
            calm: true,
            finale: false,
            queue: BTreeMap::new(),
            queued: 0,
            processes: Vec::new(),
            current: vec![None; count],
            away: vec![i64::MIN; count],
            started: 0,
            transport: Transport::new(shards),
            prices_told: Vec::new(),
            tickets: Vec::new(),
            waiting_for: BTreeMap::new(),
            totals: BTreeMap::new(),
            outside: Outside::default(),
            views: Projector::new(shards),
            projecting: false,
            injected: Injected::default(),
            figures: Figures::default(),
            story: Story::new(told),
            failure: None,
            rounds: 0,
            shards,
            script,
        }
    }

    /// Opens the shop, lets everything happen, and waits until nothing is left to do.
    pub(crate) fn run(&mut self) {
        for shard in self.shards.all() {
            self.start(shard);
        }
        self.open_shop();
        self.happen();
        self.begin();
        self.happen();
    }

    /// The system's clock, which may be set back.
    pub(crate) fn system_time(&self) -> i64 {
        self.now + self.skew
    }

    fn begin(&mut self) {
        let mut last = 0;
        for number in 0..self.script.asks.len() {
            let (at, after) = (self.script.asks[number].at, self.script.asks[number].after);
            if let Some(other) = after {
                self.waiting_for.entry(other).or_default().push(number);
            } else {
                last = last.max(at);
                self.later(at, Happening::Ask(number));
            }
        }
        for (at, shard) in self.script.faults.take_overs.clone() {
            self.later(at, Happening::TakeOver(shard));
        }
        for (at, shard, away) in self.script.faults.downs.clone() {
            self.later(at, Happening::Down(shard, away));
        }
        for (from, _) in self.script.faults.transport_down.clone() {
            self.later(from, Happening::TransportFails);
        }
        for (at, how) in self.script.unparkings.clone() {
            self.later(at, Happening::UnparkAll(how));
        }
        self.transport.begin(self.now);
        if self.several_shards() {
            self.provider.away_later(self.now - START);
        }
        for (at, by) in self.script.faults.clock_jumps.clone() {
            self.later(at, Happening::ClockJump(by));
        }
        self.calm = false;
        let storm = match self.crashes {
            Crashes::ByChance => self.chance.pick(&[30 * SECOND, HOUR, DAY, 4 * DAY]),
            // What goes wrong is written down, and ends by itself.
            Crashes::At(_) => 10 * DAY,
        };
        self.later(last + storm, Happening::Calm);
        if matches!(self.crashes, Crashes::ByChance) && self.chance.per_mille(500) {
            let shift = self.chance.span(MINUTE, DAY);
            self.later(shift, Happening::Operate);
        }
    }

    fn later(&mut self, after: i64, happening: Happening) {
        self.queued += 1;
        self.queue.insert((self.now.saturating_add(after.max(0)), self.queued), happening);
    }

    /// Everything that happens, until nothing is left.
    pub(crate) fn happen(&mut self) {
        let mut calm_since = None;
        while self.failure.is_none()
            && let Some(((at, _), happening)) = self.queue.pop_first()
        {
            self.now = self.now.max(at);
            if self.calm {
                let since = *calm_since.get_or_insert(self.now);
                if self.now > since.saturating_add(QUIESCENCE) {
                    self.queue.clear();
                    return;
                }
            }
            self.one(happening);
        }
    }

    pub(crate) fn fail(&mut self, check: &'static str, what: impl Into<String>) {
        let what = what.into();
        self.failure.get_or_insert(Failure { check, what });
    }

    fn note(&mut self, kind: u64, what: u64, line: impl FnOnce() -> String) {
        self.story.note(self.now - START, kind, what, line);
    }

    fn fault(&mut self, fault: Fault) {
        self.injected.count(fault, 1);
        self.note(1, fault as u64, || format!("       FAULT {}", fault.name()));
    }

    /// How long something takes that takes no part in a fault: of a script, always the same.
    fn takes(&mut self, usual: i64, least: i64, most: i64) -> i64 {
        if self.calm || matches!(self.crashes, Crashes::At(_)) {
            usual
        } else {
            self.chance.span(least, most)
        }
    }

    /// Whether a fault of this rate occurs now.
    fn strikes(&mut self, rate: u32) -> bool {
        !self.calm && rate > 0 && self.chance.per_mille(rate)
    }

    fn one(&mut self, happening: Happening) {
        match happening {
            Happening::Ask(number) => self.ask(number),
            Happening::Arrive(number) => self.arrive(number),
            Happening::GiveUp(number, tries) => self.give_up(number, tries),
            Happening::Heard(number, result) => self.heard(number, *result),
            Happening::Turn(id) => {
                if let Some(process) = self.process(id) {
                    process.turn_due = false;
                    self.turn(id);
                }
            }
            Happening::Wake(id, at) => {
                let wanted = self.process(id).is_some_and(|process| process.wake == Some(at));
                if wanted {
                    self.process(id).into_iter().for_each(|process| process.wake = None);
                    self.turn(id);
                }
            }
            Happening::Committed(id) => self.committed(id),
            Happening::Call(id, effect, call, timeout) => self.call_arrives(id, effect, &call, timeout),
            Happening::Outcome(id, effect, outcome) => self.outcome(id, effect, *outcome),
            Happening::Land(call) => {
                let order = order_of(&call);
                let ended = self.state_of(order).is_some_and(|order| order.status() == OrderStatus::Cancelled);
                if ended {
                    self.fault(Fault::LateSuccess);
                }
                self.note(2, order as u64, || format!("provider  takes the money of order {order}, late"));
                self.provider.land(self.now, &call);
            }
            Happening::Start(shard) => {
                let (serves, away) = (self.current[usize::from(shard)], self.away[usize::from(shard)]);
                if serves.is_none() && away > self.now {
                    self.later(away - self.now, Happening::Start(shard));
                } else if serves.is_none() {
                    self.start(shard);
                }
            }
            Happening::TakeOver(shard) => self.take_over(shard),
            Happening::Down(shard, away) => self.down(shard, away),
            Happening::Deliver(parcel) => self.deliver(*parcel),
            Happening::TransportFails => self.transport_fails(),
            Happening::UnparkAll(how) => self.unpark_all(how),
            Happening::Thaw(id) => self.thaw(id),
            Happening::ClockJump(by) => self.clock_jump(by),
            Happening::Project => self.project(),
            Happening::Operate => self.operate(),
            Happening::Calm => self.calm_down(),
        }
    }

    fn process(&mut self, id: u32) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.id == id)
    }

    /// Who serves a shard.
    fn serves(&self, shard: u16) -> Option<u32> {
        self.current.get(usize::from(shard)).copied().flatten()
    }

    fn serving(&self, id: u32) -> bool {
        self.current.contains(&Some(id))
    }

    fn several_shards(&self) -> bool {
        self.shards != Shards::ONE
    }

    /// The shard that keeps an aggregate.
    fn home(&self, kind: Kind, id: Uuid) -> u16 {
        self.shards.of(kind.key(id))
    }

    /// The shard that answers this.
    fn home_of(&self, what: &What) -> u16 {
        match what {
            What::SetAside { shard } | What::Unpark { shard, .. } => *shard,
            what => {
                let (kind, id) = clients::target(what);
                self.home(kind, id)
            }
        }
    }

    fn name_of_shard(&self, shard: u16) -> String {
        if self.several_shards() {
            format!("shard {shard}")
        } else {
            "the shard".to_owned()
        }
    }

    // Processes: they start, take steps, and end.

    fn settings(&self) -> CoreSettings {
        let micros = |micros: i64| Duration::from_micros(micros.unsigned_abs());
        let shape = self.script.core;
        let processes = sagas::Settings {
            currency: Currency::KRW,
            reservation_ttl: micros(shape.reservation_ttl),
            payment_deadline: micros(shape.payment_deadline),
            stuck_after: micros(shape.stuck_after),
        };
        let mut settings = CoreSettings::new(processes, jiff::tz::TimeZone::UTC, clients::represent);
        settings.shards = self.shards;
        settings.cache = shape.cache;
        settings.cascade = shape.cascade;
        settings.batch = shape.batch;
        settings
    }

    fn start(&mut self, shard: u16) {
        let opening = self.started < u32::from(self.shards.count());
        self.started += 1;
        let id = self.started;
        let mut writer: Box<dyn LogWriter> = Box::new(self.disk.clone());
        let head = writer
            .found(self.shards)
            .and_then(|_| writer.take(shard, INSTANCE, self.system_time()));
        let head = match head {
            Ok(head) => head,
            Err(error) => return self.fail("the shard can be taken", error.to_string()),
        };
        let (epoch, recorded_at) = (head.epoch, head.recorded_at);
        let name = self.name_of_shard(shard);
        self.note(3, epoch, || format!("process {id} takes {name}, epoch {epoch}"));
        if self.edge_of_start(shard) {
            return;
        }
        if self.strikes(self.script.faults.reads) {
            self.disk.fail_reads(1);
        }
        let core = Core::new(head, Box::new(self.disk.clone()), self.settings());
        self.disk.fail_reads(0);
        let core = match core {
            Ok(core) => core,
            Err(StoreError::Unavailable(_)) => {
                self.disk.failed_reads();
                self.fault(Fault::StartFailed);
                self.later(SECOND, Happening::Start(shard));
                return;
            }
            Err(error) => return self.fail("the log can be opened", error.to_string()),
        };
        if self.edge_of_start(shard) {
            return;
        }
        if !opening {
            self.figures.recoveries += 1;
            // What the one before wrote and did not publish is in the log.
            self.views.miss();
            self.project_soon();
        }
        self.current[usize::from(shard)] = Some(id);
        self.processes.push(Process {
            id,
            shard,
            core,
            writer,
            epoch,
            inbox: Vec::new(),
            in_flight: None,
            clock: (self.system_time().max(recorded_at), self.now),
            wake: None,
            turn_due: false,
            frozen_until: None,
            must_stop: false,
            stopped: false,
            idle_turns: 0,
        });
        self.tell_of_products(shard);
        self.turn(id);
    }

    /// A place where the process may end. Says whether it has.
    fn edge(&mut self, id: u32) -> bool {
        let crash = self.edge_crashes();
        if crash {
            self.crash(id);
        }
        crash
    }

    /// The same for a process that is starting.
    fn edge_of_start(&mut self, shard: u16) -> bool {
        let crash = self.edge_crashes();
        if crash {
            self.figures.crashes += 1;
            self.fault(Fault::CrashStarting);
            self.start_soon(shard);
        }
        crash
    }

    fn edge_crashes(&mut self) -> bool {
        if self.finale {
            return false;
        }
        self.edges_in_all += u64::from(!self.calm);
        match &mut self.crashes {
            Crashes::ByChance => {
                let rate = self.script.faults.crash;
                let most = if self.shards == Shards::ONE {
                    MOST_CRASHES
                } else {
                    MOST_CRASHES_OF_A_SHARD * u64::from(self.shards.count())
                };
                self.figures.crashes < most && self.strikes(rate)
            }
            Crashes::At(edges) => {
                let here = !self.calm && edges.first() == Some(&self.edges);
                self.edges += u64::from(!self.calm);
                if here {
                    edges.remove(0);
                    self.edges = 0;
                }
                here
            }
        }
    }

    fn crash(&mut self, id: u32) {
        self.crash_one(id);
        if self.several_shards() && self.strikes(self.script.faults.all_at_once) {
            self.fault(Fault::CrashTogether);
            let others: Vec<_> = self.processes.iter().map(|process| process.id).collect();
            for other in others {
                self.crash_one(other);
            }
        }
        if let Err(what) = self.outside.compare(self.disk.durable()) {
            self.fail("what was acknowledged is in the log after a crash", what);
        }
    }

    fn crash_one(&mut self, id: u32) {
        let Some(index) = self.processes.iter().position(|process| process.id == id) else {
            return;
        };
        self.figures.crashes += 1;
        let process = self.processes.remove(index);
        self.note(4, u64::from(id), || format!("process {id} CRASHES"));
        match process.in_flight {
            Some((batch, fate)) => self.crash_in_flight(&batch, fate),
            None => self.fault(Fault::CrashIdle),
        }
        self.replace(id, process.shard);
    }

    /// A process that served is gone: another one starts.
    fn replace(&mut self, id: u32, shard: u16) {
        if self.serves(shard) == Some(id) {
            self.current[usize::from(shard)] = None;
            self.start_soon(shard);
        }
    }

    fn start_soon(&mut self, shard: u16) {
        let longest = self.script.faults.away.max(SECOND);
        let away = self.takes(SECOND, 1_000, longest);
        self.later(away, Happening::Start(shard));
    }

    /// A shard goes away for a while, and the others go on.
    fn down(&mut self, shard: u16, away: i64) {
        let Some(id) = self.serves(shard).filter(|_| !self.calm) else {
            return;
        };
        self.fault(Fault::ShardDown);
        self.away[usize::from(shard)] = self.now + away;
        self.crash(id);
    }

    /// The process takes a step now, or together with what else comes in soon.
    fn soon(&mut self, id: u32) {
        let together = self.script.faults.together;
        let wait = if self.strikes(together) { self.chance.span(1, 5_000) } else { 0 };
        match self.process(id) {
            Some(process) if process.turn_due || process.frozen_until.is_some() => {}
            Some(process) if wait > 0 => {
                process.turn_due = true;
                self.later(wait, Happening::Turn(id));
            }
            Some(_) => self.turn(id),
            None => {}
        }
    }

    fn turn(&mut self, id: u32) {
        let (now, skew) = (self.now, self.skew);
        let Some(process) = self.process(id) else { return };
        if process.frozen_until.is_some() || process.stopped {
            return;
        }
        let mut reading = process.read_clock(now, skew);
        let inputs = std::mem::take(&mut process.inbox);
        let must_stop = process.must_stop;
        if self.strikes(self.script.faults.clock_back) {
            reading -= self.chance.span(1_000, DAY);
            self.fault(Fault::ClockBackward);
        }
        let unreadable = self.strikes(self.script.faults.reads);
        if unreadable {
            let reads = self.chance.between(1, 3);
            self.disk.fail_reads(u32::try_from(reads).unwrap_or(1));
        }
        let count = inputs.len();
        self.note(5, count as u64, || format!("process {id} step with {count} inputs"));
        self.figures.steps += 1;
        let Some(process) = self.process(id) else { return };
        let outputs = process.core.step(Timestamp::from_micros(reading), inputs);
        process.idle_turns = if outputs.is_empty() { process.idle_turns + 1 } else { 0 };
        if unreadable {
            self.disk.fail_reads(0);
            let failed = self.disk.failed_reads();
            self.injected.count(Fault::ReadFailed, failed);
        }
        if must_stop {
            return self.end(id, outputs);
        }
        for output in outputs {
            self.carry_out(id, output);
            if self.failure.is_some() || self.process(id).is_none() {
                return;
            }
        }
        if self.process(id).is_some_and(|process| process.stopped) {
            return self.remove(id);
        }
        self.plan_wake(id);
    }

    /// A process that was fenced, or whose disk failed, says so to everybody, stops, and says nothing more.
    fn end(&mut self, id: u32, outputs: Vec<Output<u64>>) {
        let mut stopped = false;
        for output in outputs {
            match output {
                Output::Answer(ticket, Err(EngineError::Stopping)) => self.answer(id, ticket, Err(EngineError::Stopping)),
                Output::Stop { reason } => {
                    self.note(6, u64::from(id), || format!("process {id} stops: {reason}"));
                    stopped = true;
                }
                other => self.fail("a process that must stop does nothing more", format!("{other:?}")),
            }
        }
        if !stopped {
            return self.fail("a process that must stop stops", format!("process {id} goes on"));
        }
        let Some(process) = self.process(id) else { return };
        process.stopped = true;
        let (ticket, shard) = (u64::MAX, process.shard);
        let reading = process.clock.0;
        let late = [
            Input::Read(ticket, Kind::Order, clients::order(0).uuid()),
            Input::Watch(ticket, Kind::Order, clients::order(0).uuid(), |_| true),
        ];
        let message = self.transport.last_to(shard).map(|message| Input::Received(Box::new(message)));
        let late: Vec<_> = late.into_iter().chain(message).collect();
        let Some(process) = self.process(id) else { return };
        let outputs = process.core.step(Timestamp::from_micros(reading), late);
        let silent = outputs
            .iter()
            .all(|output| matches!(output, Output::Answer(_, Err(EngineError::Stopping))));
        if !silent {
            self.fail("a stopped process does nothing more", format!("{outputs:?}"));
        }
        self.remove(id);
    }

    fn remove(&mut self, id: u32) {
        let Some(index) = self.processes.iter().position(|process| process.id == id) else {
            return;
        };
        let shard = self.processes.remove(index).shard;
        self.replace(id, shard);
    }

    fn plan_wake(&mut self, id: u32) {
        let (now, skew) = (self.now, self.skew);
        let Some(process) = self.process(id) else { return };
        let Some(due) = process.core.wake_at() else {
            process.wake = None;
            return;
        };
        if process.idle_turns > 1_000 {
            return self.fail(
                "the core rests when there is nothing to do",
                format!("it is woken for {due} over and over"),
            );
        }
        let wait = due.micros().saturating_sub(process.read_clock(now, skew)).max(0);
        let at = now.saturating_add(wait);
        if process.wake == Some(at) {
            return;
        }
        process.wake = Some(at);
        let timers = self.script.faults.timers;
        if wait > 0 && self.strikes(timers) {
            match self.chance.below(3) {
                0 => {
                    self.fault(Fault::TimerEarly);
                    self.later(wait / 2, Happening::Turn(id));
                    self.later(wait, Happening::Wake(id, at));
                }
                1 => {
                    self.fault(Fault::TimerLate);
                    let late = self.chance.span(1_000, HOUR);
                    self.later(wait.saturating_add(late), Happening::Wake(id, at));
                }
                _ => {
                    self.fault(Fault::TimerTwice);
                    self.later(wait, Happening::Wake(id, at));
                    self.later(wait, Happening::Turn(id));
                }
            }
        } else {
            self.later(wait, Happening::Wake(id, at));
        }
    }

    fn take_over(&mut self, shard: u16) {
        let Some(former) = self.serves(shard).filter(|_| !self.calm) else {
            return;
        };
        let frozen = self.chance.span(1_000, HOUR);
        let until = self.now + frozen;
        if let Some(process) = self.process(former) {
            process.frozen_until = Some(until);
        }
        self.fault(Fault::TakenOver);
        self.later(frozen, Happening::Thaw(former));
        self.current[usize::from(shard)] = None;
        self.start(shard);
    }

    /// The former writer goes on as if nothing had happened, until it is told.
    fn thaw(&mut self, id: u32) {
        let Some(process) = self.process(id) else { return };
        process.frozen_until = None;
        self.note(7, u64::from(id), || format!("process {id} wakes up"));
        self.beat(id);
        if self.process(id).is_some() {
            self.later(3 * SECOND, Happening::Thaw(id));
        }
    }

    /// A heartbeat, which also tells a writer with nothing to write that it was fenced.
    fn beat(&mut self, id: u32) {
        // What came in before comes first.
        self.turn(id);
        let now = self.system_time();
        let Some(process) = self.process(id) else { return };
        if process.in_flight.is_some() {
            return;
        }
        if let Err(error) = process.writer.heartbeat(process.shard, process.epoch, now) {
            process.inbox.push(Input::Committed(Err(error)));
            process.must_stop = true;
            self.fault(Fault::Fenced);
            self.turn(id);
        }
    }

    fn clock_jump(&mut self, by: i64) {
        self.skew += by;
        self.fault(if by > 0 { Fault::ClockForward } else { Fault::ClockBackward });
        let ids: Vec<_> = self.processes.iter().map(|process| process.id).collect();
        for id in ids {
            self.turn(id);
        }
    }

    fn calm_down(&mut self) {
        self.calm = true;
        self.provider.calm();
        self.note(8, 0, || "everything is calm from now on".to_owned());
        self.project_soon();
        self.later(DAY, Happening::Operate);
    }

    /// An operator looks at what needs a person, and acts: on what is set aside first, then on the orders.
    fn operate(&mut self) {
        self.rounds += 1;
        let mut asks = Vec::new();
        for shard in self.shards.all() {
            asks.push((What::SetAside { shard }, false));
            for parked in self.disk.durable().parked(shard, usize::MAX).unwrap_or_default() {
                // A request's sender was told that it failed; only what the shop itself wanted is tried again.
                // What is still refused after some days has been overtaken by what was done about its order.
                let own = parked.input.contains(r#""origin""#);
                let how = if own && self.rounds <= 4 {
                    Unparking::Retried
                } else {
                    Unparking::Dropped
                };
                let id = parked.id;
                asks.push((What::Unpark { shard, id, how }, false));
            }
        }
        let orders: Vec<_> = self.script.asks.iter().filter_map(|ask| order_number(&ask.what)).collect();
        let orders: BTreeSet<_> = orders.into_iter().collect();
        for order in orders {
            let stuck = self
                .state_of(order)
                .is_some_and(|order| order.status() == OrderStatus::NeedsAttention);
            if stuck {
                let how = self.operation(order);
                asks.push((What::Operate { order, how }, true));
            }
        }
        let idle = asks.len() == self.current.len();
        for (what, keyed) in asks {
            self.ask_now(what, keyed);
        }
        if self.rounds < MOST_ROUNDS && !(idle && self.calm) {
            let next = self.takes(DAY, HOUR, DAY);
            self.later(next, Happening::Operate);
        }
    }

    fn ask_now(&mut self, what: What, keyed: bool) {
        let number = self.script.ask(0, None, what, keyed);
        self.patience.push(Patience::default());
        self.later(0, Happening::Ask(number));
    }

    /// An operator does the same about all that is set aside.
    fn unpark_all(&mut self, how: Unparking) {
        for shard in self.shards.all() {
            for parked in self.disk.durable().parked(shard, usize::MAX).unwrap_or_default() {
                let id = parked.id;
                self.ask_now(What::Unpark { shard, id, how }, false);
            }
        }
    }

    /// What an operator does about an order: one thing today, another tomorrow.
    fn operation(&mut self, order: usize) -> Operation {
        let truth = self.provider.truth(clients::order(order).uuid()).filter(|_| self.calm);
        match (self.rounds % 3, truth) {
            (1, _) => Operation::Resume,
            (2, Some(truth)) => Operation::Resolve(truth),
            _ => Operation::Compensate,
        }
    }

    // What a step wants to be carried out.

    fn carry_out(&mut self, id: u32, output: Output<u64>) {
        match output {
            Output::Commit(batch) => self.commit(id, batch),
            Output::Answer(ticket, result) => self.answer(id, ticket, result),
            Output::Call(effect, call) => self.call(id, effect, call),
            Output::Publish(events) => self.publish(id, events),
            Output::Send(message) => self.send(id, *message),
            Output::Stop { reason } => {
                self.note(6, u64::from(id), || format!("process {id} stops by itself: {reason}"));
                self.fail("nothing stops a process but a fence or its disk", reason);
            }
        }
    }

    fn answer(&mut self, id: u32, ticket: u64, result: Result<Response, EngineError>) {
        let Some(known) = usize::try_from(ticket).ok().and_then(|ticket| self.tickets.get_mut(ticket)) else {
            return self.fail("every answer has a question", format!("ticket {ticket}"));
        };
        if std::mem::replace(&mut known.answered, true) || known.process != id {
            return self.fail("a question is answered once", format!("ticket {ticket}"));
        }
        self.figures.answers += 1;
        let Some(number) = known.ask else {
            if let Err(error) = result {
                self.fail("the shop can be opened", error.to_string());
            }
            return;
        };
        if let Err(what) = self.check_answer(number, &result) {
            return self.fail("no answer before it is durable", what);
        }
        if let Err(what) = self.check_prices(ticket, number, &result) {
            return self.fail("no order at a price that its buyer knew to be old", what);
        }
        if let Err(what) = self.keep_answer(number, &result) {
            return self.fail("a repeat gets the same answer", what);
        }
        self.note(11, ticket, || format!("process {id} answers ask {number}: {}", shown(&result)));
        // The answer is ready, and nobody gets it.
        if self.edge(id) {
            return;
        }
        if self.strikes(self.script.faults.answers) {
            self.fault(Fault::AnswerLost);
        } else {
            let takes = self.takes(1_000, 50, 50_000);
            self.later(takes, Happening::Heard(number, Box::new(result)));
        }
        self.edge(id);
    }

    /// What an answer stands on must be durable now.
    fn check_answer(&self, number: usize, result: &Result<Response, EngineError>) -> Result<(), String> {
        let log = self.disk.durable();
        let ask = &self.script.asks[number];
        let (kind, id) = clients::target(&ask.what);
        let stream = StreamId::new(kind.name(), id);
        let shard = self.home_of(&ask.what);
        let head = self.head(shard);
        match result {
            Err(_) | Ok(Response::State(None) | Response::Unparked(Err(_))) => Ok(()),
            Ok(Response::Parked(parked)) => {
                let known = log.parked(shard, usize::MAX).unwrap_or_default();
                match parked.iter().find(|shown| known.iter().all(|known| known.id != shown.id)) {
                    Some(shown) => Err(format!("{} is shown as set aside, and is not", shown.id)),
                    None => Ok(()),
                }
            }
            Ok(Response::Unparked(Ok(()))) => {
                let What::Unpark { id, .. } = ask.what else { return Ok(()) };
                match log.parked_input(shard, id) {
                    Ok(None) => Ok(()),
                    _ => Err(format!("{id} is said to have come to its end, and has not")),
                }
            }
            Ok(Response::State(Some(versioned))) => {
                if clients::reaches(log, &stream, versioned.version) {
                    Ok(())
                } else {
                    Err(format!("{stream} is shown at version {}, which is not durable", versioned.version))
                }
            }
            Ok(Response::Reply(reply)) => {
                let position = reply.answer.token.position;
                if reply.answer.token.shard != shard {
                    return Err(format!("ask {number} is answered for shard {}", reply.answer.token.shard));
                }
                if matches!(&ask.what, What::Place(basket) if basket.dry_run) {
                    let base = position.saturating_sub(reply.planned.len() as u64);
                    return if base <= head {
                        Ok(())
                    } else {
                        Err(format!("a dry run on {base}, the log is at {head}"))
                    };
                }
                if position > head || !clients::reaches(log, &stream, reply.latest.version) {
                    return Err(format!("ask {number} is answered at {position}, the log is at {head}"));
                }
                ask.key.map_or(Ok(()), |key| clients::recorded(log, key, ask.body, &reply.answer))
            }
        }
    }

    /// Where a shard's log stands durably.
    fn head(&self, shard: u16) -> u64 {
        self.disk.durable().head(shard).ok().flatten().map_or(0, |head| head.position)
    }

    /// The answer is out: from now on it counts.
    fn keep_answer(&mut self, number: usize, result: &Result<Response, EngineError>) -> Result<(), String> {
        let ask = &self.script.asks[number];
        match result {
            Ok(Response::Reply(reply)) => {
                if matches!(&ask.what, What::Place(basket) if basket.dry_run) {
                    return Ok(());
                }
                if let (What::Price { product, .. } | What::Retire { product }, Ok(_)) = (&ask.what, &reply.answer.result) {
                    self.prices_told.push((*product, reply.answer.version));
                }
                self.outside.keep(number, ask, &reply.answer, reply.replayed)
            }
            Err(EngineError::KeyReused) if ask.key.is_none_or(|key| self.outside.knows(key, ask.body)) => {
                Err(format!("ask {number} is told that its key is another's"))
            }
            Ok(Response::State(_) | Response::Parked(_) | Response::Unparked(_)) | Err(_) => Ok(()),
        }
    }

    fn publish(&mut self, id: u32, events: Arc<[Recorded]>) {
        let Some(shard) = self.process(id).map(|process| process.shard) else {
            return;
        };
        let head = self.head(shard);
        let last = events.last().map_or(0, |event| event.position);
        if last > head {
            return self.fail("nothing is published before it is durable", format!("{last}, the log is at {head}"));
        }
        if !events
            .iter()
            .zip(events.iter().skip(1))
            .all(|(one, next)| one.position + 1 == next.position)
        {
            return self.fail("what is published is without a gap", format!("up to {last}"));
        }
        self.tell_of_changes(shard, &events);
        let tail = self.script.faults.tail;
        if self.strikes(tail) {
            match self.chance.below(3) {
                0 => {
                    self.fault(Fault::TailDropped);
                    self.views.miss();
                    return self.project_soon();
                }
                1 => {
                    self.fault(Fault::TailDuplicated);
                    self.views.offer(shard, Arc::clone(&events));
                    self.views.offer(shard, events);
                }
                _ => {
                    self.views.offer(shard, events);
                    if self.views.reorder(shard) {
                        self.fault(Fault::TailReordered);
                    }
                }
            }
        } else {
            self.views.offer(shard, events);
        }
        self.project_soon();
    }

    fn project_soon(&mut self) {
        if !std::mem::replace(&mut self.projecting, true) {
            let wait = self.takes(1_000, 100, 20_000);
            self.later(wait, Happening::Project);
        }
    }

    fn project(&mut self) {
        self.projecting = false;
        let mut fate = SaveFate::Saved;
        if self.strikes(self.script.faults.views) {
            let (drawn, fault) = self.chance.pick(&[
                (SaveFate::Unavailable, Fault::ViewsUnavailable),
                (SaveFate::CrashInRows, Fault::ViewsCrashedInRows),
                (SaveFate::CrashBeforeCheckpoint, Fault::ViewsCrashedBeforeCheckpoint),
                (SaveFate::CrashAfter, Fault::ViewsCrashedAfterSave),
            ]);
            fate = drawn;
            self.fault(fault);
        }
        if let Err(what) = self.views.work(self.disk.durable(), fate) {
            return self.fail("the views go on", what);
        }
        if self.views.behind() {
            self.project_soon();
        }
    }

    // The provider, and the way to it and back.

    fn call(&mut self, id: u32, effect: Uuid, call: ProviderCall) {
        if !self.disk.owed(effect) {
            return self.fail("no call before it is durable", format!("{call:?}"));
        }
        self.figures.calls += 1;
        let order = order_of(&call);
        let name = name_of(&call);
        self.note(12, order as u64, || {
            format!("process {id} asks the provider: {name} of order {order}")
        });
        // The call is owed, and was not made.
        if self.edge(id) {
            return;
        }
        let timeout = self.now + CALL_TIMEOUT;
        let takes = self.takes(1_000, 500, 100_000);
        if self.strikes(self.script.faults.calls) {
            if self.chance.per_mille(500) {
                self.fault(Fault::CallLost);
                let outcome = Box::new(unknown(&call, "no answer in time"));
                self.later(CALL_TIMEOUT, Happening::Outcome(id, effect, outcome));
                self.edge(id);
                return;
            }
            self.fault(Fault::CallDuplicated);
            let again = self.chance.span(1_000, MINUTE);
            self.later(again, Happening::Call(id, effect, Box::new(call.clone()), i64::MIN));
        }
        self.later(takes, Happening::Call(id, effect, Box::new(call), timeout));
        // The call is made, and its answer finds nobody.
        self.edge(id);
    }

    fn call_arrives(&mut self, id: u32, effect: Uuid, call: &ProviderCall, timeout: i64) {
        let order = order_of(call);
        let word = self.provider.hear(self.now, call, order, &mut self.injected);
        let name = name_of(call);
        self.note(13, order as u64, || {
            format!("provider  hears {name} of order {order}: {:?}", word.outcome)
        });
        if let Some(at) = word.charged_at {
            self.later(at - self.now, Happening::Land(Box::new(call.clone())));
        }
        // A copy that the network made: its answer goes nowhere.
        if timeout == i64::MIN {
            return;
        }
        let back = self.takes(1_000, 500, 100_000);
        let arrives = self.now + word.after + back;
        let mut lost = word.lost || arrives > timeout;
        let outcomes = self.script.faults.outcomes;
        if !lost && self.strikes(outcomes) {
            match self.chance.below(3) {
                0 => {
                    self.fault(Fault::OutcomeLost);
                    lost = true;
                }
                1 => {
                    self.fault(Fault::OutcomeDuplicated);
                    let again = self.chance.span(1, 10 * SECOND);
                    self.later(
                        arrives + again - self.now,
                        Happening::Outcome(id, effect, Box::new(word.outcome.clone())),
                    );
                }
                _ => {
                    // It comes when the call was given up.
                    self.fault(Fault::OutcomeLate);
                    let late = self.chance.span(1, HOUR);
                    self.later(
                        timeout + late - self.now,
                        Happening::Outcome(id, effect, Box::new(word.outcome.clone())),
                    );
                    lost = true;
                }
            }
        }
        if lost {
            let outcome = Box::new(unknown(call, "no answer in time"));
            self.later(timeout - self.now, Happening::Outcome(id, effect, outcome));
        } else {
            self.later(arrives - self.now, Happening::Outcome(id, effect, Box::new(word.outcome)));
        }
    }

    fn outcome(&mut self, id: u32, effect: Uuid, outcome: Outcome) {
        let Some(process) = self.process(id) else { return };
        process.inbox.push(Input::Outcome(effect, outcome));
        // The answer is there, and the process ends before it looks at it.
        if self.edge(id) {
            return;
        }
        self.soon(id);
    }

    // Everybody outside.

    fn ask(&mut self, number: usize) {
        if self.patience[number].done {
            return;
        }
        self.patience[number].tries += 1;
        let tries = self.patience[number].tries;
        self.figures.requests += 1;
        if tries == 1 {
            self.look_into_the_books(number);
        }
        let watch = matches!(self.script.asks[number].what, What::Watch { .. });
        let patience = if watch { 10 * MINUTE } else { (10 * SECOND) << tries.min(8) };
        self.later(patience, Happening::GiveUp(number, tries));
        if self.strikes(self.script.faults.requests) {
            match self.chance.below(3) {
                0 => return self.fault(Fault::RequestLost),
                1 => {
                    // Only what has a key may be sent twice by the network; the rest is one connection's.
                    if self.script.asks[number].key.is_some() {
                        self.fault(Fault::RequestDuplicated);
                        let again = self.chance.span(1, 5 * SECOND);
                        self.later(again, Happening::Arrive(number));
                    }
                }
                _ => {
                    self.fault(Fault::RequestDelayed);
                    let late = self.chance.span(1_000, 10 * SECOND);
                    return self.later(late, Happening::Arrive(number));
                }
            }
        }
        let takes = self.takes(100, 50, 5_000);
        self.later(takes, Happening::Arrive(number));
    }

    /// An operator says where the money is, and not where a script believed that it would be.
    fn look_into_the_books(&mut self, number: usize) {
        let What::Operate { order, how } = &mut self.script.asks[number].what else {
            return;
        };
        if matches!(how, Operation::Resolve(_)) {
            let truth = self.provider.truth(clients::order(*order).uuid());
            *how = truth.map_or(Operation::Resume, Operation::Resolve);
        }
    }

    fn arrive(&mut self, number: usize) {
        let shard = self.home_of(&self.script.asks[number].what);
        let Some(mut id) = self.serves(shard) else {
            // Nobody listens: the connection is refused, and its patience is over sooner or later.
            return;
        };
        if let Some(former) = self.former(shard)
            && self.chance.per_mille(300)
        {
            self.fault(Fault::RequestToFormer);
            id = former;
        }
        if self.script.asks[number].body > 0 {
            self.fault(Fault::OtherBody);
        }
        let ticket = self.ticket(Some(number), id);
        let ask = &self.script.asks[number];
        let what = format_args!("{:?}", ask.what).to_string();
        let order = order_number(&ask.what);
        let owner = order.map_or(AccountId::default(), |order| self.owner(order));
        let total = order.and_then(|order| self.totals.get(&order)).copied().unwrap_or_default();
        let total = *self.patience[number].total.get_or_insert(total);
        let at = Timestamp::from_micros(self.system_time());
        let input = clients::input(ticket, number, ask, at, owner, total);
        self.note(14, number as u64, || format!("ask {number} arrives at process {id}: {what}"));
        if let Some(process) = self.process(id) {
            process.inbox.push(input);
        }
        // It has arrived, and was not looked at.
        if self.edge(id) {
            return;
        }
        self.soon(id);
    }

    /// The oldest of those who write a shard, if there are several.
    fn former(&self, shard: u16) -> Option<u32> {
        let mut writers = self.processes.iter().filter(|process| process.shard == shard);
        let first = writers.next()?;
        writers.next().map(|_| first.id)
    }

    fn ticket(&mut self, ask: Option<usize>, process: u32) -> u64 {
        self.tickets.push(Ticket {
            ask,
            process,
            answered: false,
            prices_told: self.prices_told.len(),
        });
        self.tickets.len() as u64 - 1
    }

    /// Whose order it is.
    fn owner(&self, order: usize) -> AccountId {
        let buyer = self.script.asks.iter().find_map(|ask| match &ask.what {
            What::Place(basket) if basket.order == order => Some(basket.buyer),
            _ => None,
        });
        clients::buyer(buyer.unwrap_or_default())
    }

    fn give_up(&mut self, number: usize, tries: u32) {
        let patience = &self.patience[number];
        if patience.done || patience.tries != tries {
            return;
        }
        let ask = &self.script.asks[number];
        let repeatable = ask.key.is_some() || matches!(ask.what, What::Read { .. } | What::Stock { .. });
        if repeatable && tries < 200 {
            self.ask(number);
        } else {
            self.note(15, number as u64, || format!("ask {number} is given up"));
            self.finished(number);
        }
    }

    fn heard(&mut self, number: usize, result: Result<Response, EngineError>) {
        if self.patience[number].done {
            return;
        }
        match result {
            Ok(response) => {
                self.learn_total(number, &response);
                self.finished(number);
            }
            Err(EngineError::KeyReused | EngineError::Parked(_)) => self.finished(number),
            Err(EngineError::Unavailable(_) | EngineError::Overloaded | EngineError::Stopping | EngineError::NoAnswer(_)) => {
                let ask = &self.script.asks[number];
                let repeatable = ask.key.is_some() || matches!(ask.what, What::Read { .. } | What::Stock { .. });
                if repeatable {
                    let wait = self.takes(SECOND, 1_000, 10 * SECOND);
                    self.later(wait, Happening::Ask(number));
                } else {
                    self.finished(number);
                }
            }
        }
    }

    fn learn_total(&mut self, number: usize, response: &Response) {
        if let Response::Reply(reply) = response
            && let State::Order(order) = &reply.latest.state
            && let (Some(total), Some(known)) = (order.total(), order_number(&self.script.asks[number].what))
        {
            self.totals.insert(known, total.minor());
        }
    }

    /// Somebody has what they asked for, or asks no more: what they wanted to do after that begins.
    fn finished(&mut self, number: usize) {
        self.patience[number].done = true;
        for next in self.waiting_for.remove(&number).unwrap_or_default() {
            let wait = self.script.asks[next].at;
            self.later(wait, Happening::Ask(next));
        }
    }

    /// Sends every request again that has a key and was answered: each gets its answer again, and nothing is recorded.
    pub(crate) fn repeat_everything(&mut self) {
        self.finale = true;
        if self.current.contains(&None) {
            return self.fail("somebody serves at the end", "no process");
        }
        let asks: Vec<_> = self.outside.keyed().map(|(_, known)| known.ask).collect();
        let at = Timestamp::from_micros(self.system_time());
        let first = self.tickets.len();
        for number in asks {
            let home = self.home_of(&self.script.asks[number].what);
            let Some(id) = self.serves(home) else { continue };
            let ticket = self.ticket(Some(number), id);
            let ask = &self.script.asks[number];
            let owner = order_number(&ask.what).map_or(AccountId::default(), |order| self.owner(order));
            let total = self.patience[number].total.unwrap_or_default();
            let input = clients::input(ticket, number, ask, at, owner, total);
            if let Some(process) = self.process(id) {
                process.inbox.push(input);
            }
        }
        for id in self.current.clone().into_iter().flatten() {
            self.turn(id);
        }
        self.happen();
        if let Some(ticket) = (first..self.tickets.len()).find(|ticket| !self.tickets[*ticket].answered) {
            self.fail(
                "a repeat gets the same answer",
                format!("ask {:?} gets none", self.tickets[ticket].ask),
            );
        }
    }

    /// Who still waits for an answer of the process that serves.
    pub(crate) fn unanswered(&self) -> Vec<usize> {
        let waits = |ticket: &&Ticket| !ticket.answered && self.serving(ticket.process);
        self.tickets.iter().filter(waits).filter_map(|ticket| ticket.ask).collect()
    }

    /// What asks nobody has answered, of those that are repeated until somebody does.
    pub(crate) fn unheard(&self) -> Vec<usize> {
        let asks = self.script.asks.iter().enumerate().zip(&self.patience);
        asks.filter(|((_, ask), patience)| ask.key.is_some() && !patience.done && patience.tries > 0)
            .map(|((number, _), _)| number)
            .collect()
    }

    /// Whether a cascade may be cut, so that others come between.
    pub(crate) fn cuts_cascades(&self) -> bool {
        self.script.core.cascade < 100
    }

    /// Whether the clock jumped between what was asked and what was recorded of it.
    pub(crate) fn clock_jumped(&self) -> bool {
        !self.script.faults.clock_jumps.is_empty()
    }

    /// Where all want one of the same: how many there are, and how many are wanted. None where something else has come between.
    pub(crate) fn rush(&self, states: &rustc_hash::FxHashMap<(Kind, Uuid), State>) -> Option<(u64, u64)> {
        if !self.script.rush || self.script.faults.poisoned.is_some() {
            return None;
        }
        let (stock, _) = *self.script.products.first()?;
        let mut placed = 0;
        for state in states.values() {
            let State::Order(order) = state else { continue };
            // What one body of a key asks for two of is another rush.
            let one = order.lines().iter().all(|line| line.quantity.get() == 1);
            let code = order.failure().map(|(code, _)| code);
            if !one || code.is_some_and(|code| code != aggregates::FailureCode::OutOfStock) {
                return None;
            }
            placed += 1;
        }
        Some((stock?, placed))
    }

    pub(crate) fn what(&self, ask: usize) -> &What {
        &self.script.asks[ask].what
    }

    fn state_of(&self, number: usize) -> Option<Order> {
        let stream = StreamId::new("order", clients::order(number).uuid());
        let events = self.disk.durable().stream(&stream, 0, usize::MAX).ok()?;
        let mut order = Order::default();
        for event in crate::views::decode(&events).ok()? {
            if let Some(aggregates::CommerceEvent::Order(_, event)) = &event.event {
                aggregates::Decide::evolve(&mut order, event);
            }
        }
        Some(order)
    }

    // Before it begins.

    fn open_shop(&mut self) {
        let mut commands = Vec::new();
        for (number, (stock, price)) in self.script.products.iter().enumerate() {
            let create = ProductCommand::Create {
                seller: clients::seller(),
                sku: format!("P{number}").parse().expect("a SKU"),
                name: format!("Product {number}").parse().expect("a name"),
                description: None,
                price: clients::won(*price),
                stock: stock.map_or(Stock::Unlimited, Stock::OnHand),
                at: Timestamp::from_micros(START),
            };
            commands.push(Command::Product(clients::product(number), create));
        }
        for (number, balance) in self.script.balances.iter().enumerate() {
            let account = clients::buyer(number);
            let registration = Registration {
                account,
                email: clients::sealed(),
                name: clients::sealed(),
                phone: None,
                password: clients::sealed(),
                role: Role::Buyer,
                at: Timestamp::from_micros(START),
            };
            let index = EmailIndex::new(Uuid::from_u128(0x6000 + number as u128));
            commands.push(Command::Email(index, EmailCommand::Claim { registration }));
            if *balance > 0 {
                let amount = clients::won(*balance);
                commands.push(Command::Wallet(account, WalletCommand::Deposit { amount }));
            }
        }
        for command in commands {
            let (kind, target) = command.target();
            let Some(id) = self.serves(self.home(kind, target)) else { return };
            let ticket = self.ticket(None, id);
            let cause = Cause {
                actor: Actor::System,
                correlation: Uuid::from_u128(0x2fff_ffff),
                traceparent: None,
            };
            let request = Request::new(command, cause);
            if let Some(process) = self.process(id) {
                process.inbox.push(Input::Command(ticket, Box::new(request)));
            }
            // Each is durable before the next comes: an account is there before money comes in.
            self.turn(id);
            self.happen();
        }
    }
}

fn order_number(what: &What) -> Option<usize> {
    match what {
        What::Place(basket) => Some(basket.order),
        What::Pay { order, .. }
        | What::Cancel { order, .. }
        | What::Operate { order, .. }
        | What::Read { order }
        | What::Watch { order } => Some(*order),
        _ => None,
    }
}

fn order_of(call: &ProviderCall) -> usize {
    let (ProviderCall::Charge { payment_key, .. } | ProviderCall::Status { payment_key, .. } | ProviderCall::Cancel { payment_key, .. }) =
        call;
    clients::order_of(payment_key.as_str())
}

fn name_of(call: &ProviderCall) -> &'static str {
    match call {
        ProviderCall::Charge { .. } => "charge",
        ProviderCall::Status { .. } => "status",
        ProviderCall::Cancel { .. } => "cancellation",
    }
}

fn shown(result: &Result<Response, EngineError>) -> String {
    match result {
        Ok(Response::Reply(reply)) => match &reply.answer.result {
            Ok(body) => String::from_utf8_lossy(body).into_owned(),
            Err(refusal) => format!("refused, {}", refusal.code),
        },
        Ok(Response::Parked(parked)) => format!("{} are set aside", parked.len()),
        Ok(Response::Unparked(Ok(()))) => "done".to_owned(),
        Ok(Response::Unparked(Err(refusal))) => format!("refused, {}", refusal.code),
        Ok(Response::State(state)) => format!("at version {}", state.as_ref().map_or(0, |state| state.version)),
        Err(error) => error.to_string(),
    }
}
