//! Whether what an engine remembers is what is.
//!
//! A process that stood still, or was cut off, may have lost its shard without having heard of it. What it writes the log refuses; what it answers
//! from memory nobody checks. So where others may have the shard, a question waits until the log has said, after the question came, that the shard
//! is still this engine's: by a batch that was written meanwhile, or asked for nothing else. Nothing rests on clocks. (A leader of Raft answers
//! reads that way: Ongaro, "Consensus: Bridging Theory and Practice", 6.4.)

use super::Ticket;
use crate::{EngineError, Input};

/// Keeps questions until it is known whose the shard is.
pub(super) struct Doubt {
    may_be_taken: bool,
    /// The log is asked for these next.
    waiting: Vec<Input<Ticket>>,
    /// The log is asked for these.
    asked: Vec<Input<Ticket>>,
    under_way: Option<Asked>,
}

/// By what the log is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Batch,
    Question,
}

impl Doubt {
    /// Keeps nothing where nobody else may take the shard.
    pub(super) fn new(may_be_taken: bool) -> Self {
        Self {
            may_be_taken,
            waiting: Vec::new(),
            asked: Vec::new(),
            under_way: None,
        }
    }

    /// Keeps what is answered from memory. Returns everything else, and behind the end of a batch what that has cleared.
    pub(super) fn pass(&mut self, input: Input<Ticket>) -> (Option<Input<Ticket>>, Vec<Input<Ticket>>) {
        if let Input::Committed(result) = &input {
            let cleared = if self.under_way == Some(Asked::Batch) {
                if result.is_ok() {
                    self.cleared()
                } else {
                    self.ask_again();
                    Vec::new()
                }
            } else {
                Vec::new()
            };
            return (Some(input), cleared);
        }
        if self.may_be_taken && answered_from_memory(&input) {
            self.waiting.push(input);
            return (None, Vec::new());
        }
        (Some(input), Vec::new())
    }

    /// Says whether the log is to be asked whose the shard is, at the end of a turn. A batch that was given out in this turn tells as well, and
    /// so will the one behind a batch that was given out earlier.
    pub(super) fn asks(&mut self, given_out: bool, earlier: bool) -> bool {
        if self.waiting.is_empty() || self.under_way.is_some() || (earlier && !given_out) {
            return false;
        }
        self.asked.append(&mut self.waiting);
        self.under_way = Some(if given_out { Asked::Batch } else { Asked::Question });
        !given_out
    }

    /// The shard is still this engine's: what may be answered.
    pub(super) fn cleared(&mut self) -> Vec<Input<Ticket>> {
        self.under_way = None;
        std::mem::take(&mut self.asked)
    }

    /// The log cannot be asked.
    pub(super) fn refuse(&mut self, error: &EngineError) {
        for input in self.cleared() {
            if let Input::Read(ticket, ..) | Input::Watch(ticket, ..) | Input::Parked(ticket, _) | Input::Command(ticket, _) = input {
                // Whoever asked may have gone.
                drop(ticket.answer.send(Err(error.clone())));
            }
        }
    }

    fn ask_again(&mut self) {
        self.under_way = None;
        self.waiting.splice(0..0, self.asked.drain(..));
    }
}

/// What changes something has to be written, and what has a key has a record: the log has the last word of both.
fn answered_from_memory(input: &Input<Ticket>) -> bool {
    match input {
        Input::Read(..) | Input::Watch(..) | Input::Parked(..) => true,
        Input::Command(_, request) => request.dry_run || request.idempotency.is_none(),
        Input::Unpark(..) | Input::Outcome(..) | Input::Received(_) | Input::Changed(..) | Input::Committed(_) => false,
    }
}
