//! The thread that runs one shard's core.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use aggregates::{Kind, Recorded, Timestamp};
use event_store::CommitError;
use metrics::Histogram;
use tokio::sync::watch;

use super::{
    Post, Shared, Subscriber, Ticket,
    doubt::Doubt,
    provider::Caller,
    traced::{self, Traces},
    transport::Transport,
    writing::Job,
};
use crate::{Core, EngineError, Input, Output};

/// The most inputs that one turn takes.
const INPUTS: usize = 1_024;

const STORE_ENDED: &str = "the store thread has ended";

/// How often waiting requests are looked through for those that nobody waits for any more.
const PRUNE_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Worker {
    pub(super) shard: u16,
    pub(super) core: Core<Ticket>,
    /// Its own.
    pub(super) inbox: mpsc::Sender<Post>,
    pub(super) shared: Arc<Shared>,
    pub(super) caller: Caller,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) subscribers: Arc<[Subscriber]>,
    pub(super) jobs: mpsc::Sender<Job>,
    /// What is answered from memory, as long as it may be another's.
    pub(super) doubt: Doubt,
    pub(super) ended: watch::Sender<Option<String>>,
    pub(super) meters: Meters,
    pub(super) traces: Traces,
    /// The log has given the shard to another process.
    pub(super) taken_over: bool,
    /// The batch that is being made durable.
    pub(super) under_way: Option<traced::Batch>,
    /// The batch that this turn's answers stand on.
    pub(super) durable: Option<traced::Batch>,
}

/// What is counted of the turns.
pub(super) struct Meters {
    seconds: Histogram,
    inputs: Histogram,
    batch_seconds: Histogram,
}

impl Meters {
    /// They count into the recorder that is installed now.
    pub(super) fn new() -> Self {
        Self {
            seconds: metrics::histogram!("jangbu_engine_turn_seconds"),
            inputs: metrics::histogram!("jangbu_engine_turn_inputs"),
            batch_seconds: metrics::histogram!("jangbu_engine_batch_seconds"),
        }
    }
}

impl Worker {
    /// Runs until the engine is at its end. A panic ends it too: then somebody hears why.
    pub(super) fn run_to_its_end(mut self, messages: &mpsc::Receiver<Post>) {
        if catch_unwind(AssertUnwindSafe(|| self.run(messages))).is_err() {
            self.end("a thread of the engine panicked");
        }
        self.close();
    }

    fn run(&mut self, messages: &mpsc::Receiver<Post>) {
        let mut stopping = false;
        let mut pruned = Instant::now();
        let mut inputs = Vec::new();
        loop {
            if stopping && self.core.idle() {
                return;
            }
            self.wait(messages, &mut inputs, &mut stopping);
            let begun = Instant::now();
            let under_way_before = self.under_way.is_some();
            if !inputs.is_empty() {
                self.meters
                    .inputs
                    .record(f64::from(u32::try_from(inputs.len()).unwrap_or(u32::MAX)));
            }
            for output in self.core.step(self.now(), inputs.drain(..)) {
                if self.carry_out(output) {
                    return;
                }
            }
            self.durable = None;
            let given_out = !under_way_before && self.under_way.is_some();
            if self.doubt.asks(given_out, under_way_before) && self.jobs.send(Job::WhoHas(self.shard)).is_err() {
                return self.end(STORE_ENDED);
            }
            self.meters.seconds.record(begun.elapsed());
            self.count_unanswered(self.core.unanswered());
            if pruned.elapsed() > PRUNE_EVERY {
                self.core.forget_watchers(|ticket| ticket.answer.is_closed());
                pruned = Instant::now();
            }
        }
    }

    fn count_unanswered(&self, count: usize) {
        if let Some(unanswered) = self.shared.unanswered.get(usize::from(self.shard)) {
            unanswered.store(count, Ordering::Relaxed);
        }
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.lock().now()
    }

    /// Waits for something to do, and takes all that is there.
    fn wait(&mut self, messages: &mpsc::Receiver<Post>, inputs: &mut Vec<Input<Ticket>>, stopping: &mut bool) {
        let first = match self.core.wake_at() {
            Some(due) => {
                let left = u64::try_from(due.micros().saturating_sub(self.now().micros())).unwrap_or(0);
                match messages.recv_timeout(Duration::from_micros(left).min(PRUNE_EVERY)) {
                    Ok(message) => Some(message),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => Some(Post::Stop),
                }
            }
            None => Some(messages.recv().unwrap_or(Post::Stop)),
        };
        for message in first.into_iter().chain(messages.try_iter().take(INPUTS)) {
            let (input, cleared) = match message {
                Post::Input(input) => self.doubt.pass(input),
                Post::StillOurs(Ok(())) => (None, self.doubt.cleared()),
                Post::StillOurs(Err(why)) => {
                    let elsewhere = self.shared.elsewhere.is_some();
                    // Another process may have the shard, and reach the log.
                    self.doubt.refuse(&if elsewhere {
                        EngineError::Stopping
                    } else {
                        EngineError::Unavailable(why)
                    });
                    continue;
                }
                Post::Stop => {
                    *stopping = true;
                    continue;
                }
            };
            for mut input in input.into_iter().chain(cleared) {
                self.look_at(&mut input);
                inputs.push(input);
            }
        }
    }

    /// What traces and figures have to know of an input.
    fn look_at(&mut self, input: &mut Input<Ticket>) {
        match input {
            Input::Command(ticket, request) => {
                if let Some(traced) = &mut ticket.traced {
                    traced.taken();
                    self.traces.remember(request, traced);
                }
            }
            Input::Committed(result) => {
                self.taken_over |= matches!(result, Err(CommitError::Fenced(_)));
                let done = self.under_way.take().filter(|_| result.is_ok()).map(traced::Batch::durable);
                if let Some(done) = &done {
                    self.meters.batch_seconds.record(done.took());
                }
                self.durable = done;
            }
            _ => {}
        }
    }

    /// Says whether the engine is at its end.
    fn carry_out(&mut self, output: Output<Ticket>) -> bool {
        match output {
            Output::Commit(batch) => {
                self.under_way = Some(traced::Batch::given_out(&batch));
                if self.jobs.send(Job::Write(batch)).is_err() {
                    self.end(STORE_ENDED);
                    return true;
                }
            }
            // Whoever asked may have gone.
            Output::Answer(ticket, answer) => {
                if let Some(traced) = &ticket.traced {
                    traced.answered(self.durable.as_ref(), &answer);
                }
                drop(ticket.answer.send(answer));
            }
            Output::Call(id, call) => self.caller.call(&self.inbox, id, call, &self.traces),
            Output::Send(message) => self.transport.send(*message, &self.shared.inboxes),
            Output::Publish(events) => self.publish(&events),
            Output::Stop { reason } => {
                self.end(&reason);
                return true;
            }
        }
        false
    }

    fn publish(&self, events: &Arc<[Recorded]>) {
        if let Some(last) = events.last() {
            self.shared.inboxes.heard_of(self.shard, last.position);
        }
        for subscriber in self.subscribers.iter() {
            subscriber(events);
        }
        // Before anybody is answered that a product is changed, the other shards, whose orders name it, know.
        for (kind, id) in events.iter().filter_map(|recorded| Some(recorded.event.as_ref()?.source())) {
            if kind == Kind::Product {
                for other in self.shared.inboxes.here().into_iter().filter(|other| *other != self.shard) {
                    self.shared.inboxes.put(other, Input::Changed(kind, id));
                }
            }
        }
    }

    /// Nothing more is for this engine.
    fn close(&self) {
        self.shared.inboxes.close(self.shard);
        self.count_unanswered(0);
    }

    fn end(&self, reason: &str) {
        self.close();
        if self.taken_over && self.shared.elsewhere.is_some() {
            tracing::warn!(shard = self.shard, %reason, "the engine stops: another process has its shard now");
        } else {
            tracing::error!(shard = self.shard, %reason, "the engine stops");
        }
        // The first reason is the one that counts.
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert_with(|| reason.to_owned());
            first
        });
    }
}
