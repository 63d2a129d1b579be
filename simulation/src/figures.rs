//! What was done, counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident = $name:literal,)+) => {
        /// The faults there are.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault { $($(#[$doc])* $fault,)+ }

        impl Fault {
            /// Whether it can only strike where there are several shards.
            pub const fn of_shards(self) -> bool {
                self as usize >= Self::CrashTogether as usize
            }

            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$fault,)+];

            /// As it is printed.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$fault => $name,)+ }
            }
        }
    };
}

faults! {
    /// The process ended with nothing being written.
    CrashIdle = "crash, nothing in flight",
    /// The process ended, and the batch in flight was lost.
    CrashLost = "crash, batch lost",
    /// The process ended, and the batch in flight was there after all.
    CrashSurvived = "crash, batch survived",
    /// The process ended, and half of the batch in flight was there: recovery dropped it.
    CrashTorn = "crash, batch torn",
    /// The process ended while it was starting.
    CrashStarting = "crash while starting",
    /// A batch was not written: the disk was full.
    NotWritten = "commit not written",
    /// A batch was written, and its writer was not told so.
    UnknownWritten = "commit unknown, written",
    /// A batch was not written, and its writer was not told so.
    UnknownNotWritten = "commit unknown, not written",
    /// The disk failed to make a batch durable.
    DiskFailed = "fsync failed",
    /// A batch of several inputs was refused.
    Refused = "commit refused",
    /// An input was refused whatever it came with.
    Poisoned = "input poisoned",
    /// A commit took long.
    SlowCommit = "commit slow",
    /// A writer found that another one had the shard.
    Fenced = "writer fenced",
    /// Another process took the shard while the first went on.
    TakenOver = "shard taken over",
    /// A read of the log failed.
    ReadFailed = "read failed",
    /// The log could not be read when the process started.
    StartFailed = "start failed",
    /// The clock went ahead.
    ClockForward = "clock forward",
    /// The clock was set back.
    ClockBackward = "clock backward",
    /// A step came before anything was due.
    TimerEarly = "timer early",
    /// A step came after something was due.
    TimerLate = "timer late",
    /// A step came twice.
    TimerTwice = "timer twice",
    /// A request never arrived.
    RequestLost = "request lost",
    /// A request arrived twice.
    RequestDuplicated = "request duplicated",
    /// A request took long, so that later ones came first.
    RequestDelayed = "request delayed",
    /// A request came to a process that had been taken over.
    RequestToFormer = "request to the former writer",
    /// An answer never arrived at who had asked.
    AnswerLost = "answer lost",
    /// A key was used for another body.
    OtherBody = "key with another body",
    /// A call of the provider never arrived.
    CallLost = "call lost",
    /// A call arrived at the provider twice.
    CallDuplicated = "call duplicated",
    /// The provider did what it was asked, and its answer was lost.
    OutcomeLost = "provider's answer lost",
    /// The provider's answer came when nobody waited for it any more.
    OutcomeLate = "provider's answer late",
    /// The provider's answer came twice.
    OutcomeDuplicated = "provider's answer twice",
    /// The provider failed after it had done what it was asked.
    ErrorAfterEffect = "provider 5xx after the effect",
    /// The provider failed, and had done nothing.
    ErrorBeforeEffect = "provider 5xx before the effect",
    /// The provider did not find a payment that it found later.
    NotFoundThenFound = "not found, then found",
    /// The provider took the money long after it was asked.
    LateCharge = "charged late",
    /// The provider refused a repeat while the first request was under way.
    TurnedAway = "repeat refused while one is under way",
    /// The provider took the money after its order had been cancelled.
    LateSuccess = "charged after the end",
    /// The provider refused for good.
    Declined = "declined",
    /// The provider refused for good: no money.
    Insufficient = "insufficient",
    /// The provider was slow.
    ProviderSlow = "provider slow",
    /// The provider was away.
    ProviderDown = "provider down",
    /// The provider took another amount.
    WrongAmount = "wrong amount",
    /// The provider would not give the money back at first.
    CancellationRefused = "cancellation refused",
    /// Nobody knew whether the money was given back.
    CancellationUnknown = "cancellation unknown",
    /// The projector ended between two rows.
    ViewsCrashedInRows = "views: crash between rows",
    /// The projector ended between the rows and the checkpoint.
    ViewsCrashedBeforeCheckpoint = "views: crash before the checkpoint",
    /// The projector ended before it heard that it had saved.
    ViewsCrashedAfterSave = "views: crash after saving",
    /// The views could not be written.
    ViewsUnavailable = "views: not written",
    /// What was published did not reach the projector.
    TailDropped = "views: tail dropped",
    /// What was published reached the projector twice.
    TailDuplicated = "views: tail duplicated",
    /// What was published reached the projector out of order.
    TailReordered = "views: tail reordered",
    /// All processes ended at once.
    CrashTogether = "crash of all shards",
    /// One shard was away for a while, and the others went on.
    ShardDown = "shard down",
    /// Batches of several shards were written in one transaction.
    CommittedTogether = "shards committed together",
    /// A message between shards never arrived.
    MessageLost = "message lost",
    /// A message arrived more than once.
    MessageDuplicated = "message duplicated",
    /// A message took long.
    MessageDelayed = "message delayed",
    /// A message arrived after one that was sent later.
    MessageReordered = "message overtaken",
    /// A message was sent while nothing went from its shard to the other.
    MessageCutOff = "message cut off",
    /// A message was sent while nothing carried messages at all.
    TransportDown = "message with no transport",
    /// What carries the messages lost all that it held, and this one with them.
    MessageForgotten = "message lost with all others",
    /// A message came to a shard that nobody served.
    MessageToNobody = "message to nobody",
    /// A message came to a process that had been taken over.
    MessageToFormer = "message to the former writer",
}

/// What one or many runs did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Figures {
    /// Runs.
    pub seeds: u64,
    /// Steps of a core.
    pub steps: u64,
    /// Batches that became durable.
    pub batches: u64,
    /// Events in the logs at the end.
    pub events: u64,
    /// Requests from outside, repeats included.
    pub requests: u64,
    /// Answers that left.
    pub answers: u64,
    /// Calls of the provider.
    pub calls: u64,
    /// Messages that shards sent to one another, repeats and answers included.
    #[serde(default)]
    pub messages: u64,
    /// Processes that ended without having been asked to.
    pub crashes: u64,
    /// Processes that took up what one before had left.
    pub recoveries: u64,
    /// Orders by how they ended.
    pub orders: BTreeMap<String, u64>,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
}

impl Figures {
    /// Adds what others did.
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.batches += other.batches;
        self.events += other.events;
        self.requests += other.requests;
        self.answers += other.answers;
        self.calls += other.calls;
        self.messages += other.messages;
        self.crashes += other.crashes;
        self.recoveries += other.recoveries;
        for (mine, theirs) in [(&mut self.orders, &other.orders), (&mut self.faults, &other.faults)] {
            for (name, count) in theirs {
                match mine.get_mut(name) {
                    Some(known) => *known += count,
                    None => {
                        mine.insert(name.clone(), *count);
                    }
                }
            }
        }
    }

    /// How often this fault occurred.
    pub fn fault(&self, fault: Fault) -> u64 {
        self.faults.get(fault.name()).copied().unwrap_or_default()
    }
}

/// Faults of one run.
#[derive(Clone, Debug)]
pub(crate) struct Injected([u32; Fault::ALL.len()]);

impl Default for Injected {
    fn default() -> Self {
        Self([0; Fault::ALL.len()])
    }
}

impl Injected {
    pub(crate) fn count(&mut self, fault: Fault, times: u32) {
        self.0[fault as usize] += times;
    }

    pub(crate) fn by_name(&self) -> BTreeMap<String, u64> {
        let named = Fault::ALL.iter().zip(&self.0).filter(|(_, count)| **count > 0);
        named.map(|(fault, count)| (fault.name().to_owned(), u64::from(*count))).collect()
    }
}
