//! What was set aside, and what operators decide about it.

use aggregates::{Class, Kind, Refusal, State, Timestamp};
use event_store::{Parked, Unparked, Unparking};

use super::{Core, EngineError, Failure, Release, Response, SetAside, Unpark, Versioned};
use crate::stored::{Deed, ParkedInput, Task};

/// So many inputs that are set aside are looked through at most.
const MOST_LOOKED_AT: usize = 10_000;

impl<T> Core<T> {
    /// What is set aside: what orders wait for comes first, then the oldest.
    pub(super) fn parked(&self, limit: usize) -> Result<Response, EngineError> {
        let parked = self.reader.parked(self.durable.shard, MOST_LOOKED_AT).map_err(unavailable)?;
        let mut shown: Vec<_> = parked.into_iter().map(shown).collect();
        shown.sort_by_key(SetAside::order_of_attention);
        shown.truncate(limit);
        Ok(Response::Parked(shown))
    }

    pub(super) fn process_unpark(&mut self, ticket: T, unpark: Unpark) {
        let answer = self.unpark(unpark).map(Response::Unparked);
        self.open.releases.push(Release::Answer {
            ticket,
            answer,
            retry: None,
        });
    }

    fn unpark(&mut self, unpark: Unpark) -> Result<Result<(), Refusal>, EngineError> {
        let parked = self.reader.parked_input(self.durable.shard, unpark.id).map_err(unavailable)?;
        let Some(parked) = parked else {
            return self.answer_again(&unpark);
        };
        match unpark.how {
            Unparking::Retried => {
                if let Err(refusal) = self.try_again(&parked)? {
                    return Ok(Err(refusal));
                }
            }
            Unparking::Dropped => self.remember_what_is_dropped(&parked)?,
        }
        self.open.unparked.push(Unparked {
            id: unpark.id,
            at: self.now.micros(),
            by: unpark.by.to_string().into(),
            how: unpark.how,
        });
        Ok(Ok(()))
    }

    /// What is not set aside may have come to its end: who asks again, because the answer was lost, hears what was said then. Decisions are
    /// committed alone, so the log knows of all that were made before.
    fn answer_again(&self, unpark: &Unpark) -> Result<Result<(), Refusal>, EngineError> {
        Ok(match self.reader.unparked(self.durable.shard, unpark.id).map_err(unavailable)? {
            Some(ended) if ended.how == unpark.how && *ended.by == *unpark.by.to_string() => Ok(()),
            Some(ended) => {
                let how = match ended.how {
                    Unparking::Retried => "processed",
                    Unparking::Dropped => "dropped",
                };
                let detail = format!("it was {how} at {} by {}", Timestamp::from_micros(ended.at), ended.by);
                Err(refusal(Class::State, "parked-ended", detail))
            }
            None => {
                let detail = "nothing of this name is set aside";
                Err(refusal(Class::Unknown, "unknown-parked", detail.to_owned()))
            }
        })
    }

    /// The order that waits for what is dropped goes on waiting for a person, also when it could not be told that it was set aside.
    fn remember_what_is_dropped(&mut self, parked: &Parked) -> Result<(), EngineError> {
        let Ok(ParkedInput {
            deed,
            origin: Some(origin),
            ..
        }) = serde_json::from_str(&parked.input)
        else {
            return Ok(());
        };
        let Some(order) = deed.order() else { return Ok(()) };
        // What another shard's order knows is not known here: it is told again.
        if self.is_here(Kind::Order, order.uuid()) {
            match self.load_or_fail(Kind::Order, order.uuid()) {
                Ok(Versioned {
                    state: State::Order(order),
                    ..
                }) if order.placed().is_some() && order.attention().is_none() => {}
                Err(Failure::Unavailable(reason)) => return Err(EngineError::Unavailable(reason)),
                _ => return Ok(()),
            }
        }
        let attention = sagas::set_aside(order, parked.id, "it was dropped");
        match self.carry_on(&[Task::new(Deed::Command(attention), origin)], None) {
            Err(Failure::Unavailable(reason)) => Err(EngineError::Unavailable(reason)),
            // An order that cannot be told anything is one that nobody can help by dropping this.
            Ok(()) | Err(Failure::Refused(_) | Failure::Broken(_)) => Ok(()),
        }
    }

    /// Processes an input that was set aside; the order that waits for it goes on.
    fn try_again(&mut self, parked: &Parked) -> Result<Result<(), Refusal>, EngineError> {
        let input: ParkedInput = match serde_json::from_str(&parked.input) {
            Ok(input) => input,
            Err(error) => {
                return Ok(Err(refusal(
                    Class::State,
                    "parked-unreadable",
                    format!("it cannot be read: {error}"),
                )));
            }
        };
        let Some(origin) = input.origin else {
            let detail = "this is a request from outside: its sender was told that it failed and can send it again, so it is not done here";
            return Ok(Err(refusal(Class::State, "parked-request", detail.to_owned())));
        };
        let order = input.deed.order();
        // Or it could hear that later than that it is done.
        if order.is_some_and(|order| self.is_to_be_told(order, parked.id)) {
            let detail = "the order that waits for it has not heard yet that it is set aside; try again in a moment";
            return Ok(Err(refusal(Class::State, "parked-just-now", detail.to_owned())));
        }
        let goes_on = order.map(|order| Deed::Command(sagas::taken_up(order, parked.id)));
        let tasks: Vec<_> = [Some(input.deed), goes_on]
            .into_iter()
            .flatten()
            .map(|deed| Task::new(deed, origin))
            .collect();
        // What follows goes by itself: it may be what is in the way.
        match self.carry_on_at_most(1, &tasks, None) {
            Ok(()) => Ok(Ok(())),
            Err(Failure::Unavailable(reason)) => Err(EngineError::Unavailable(reason)),
            Err(Failure::Broken(reason)) => Ok(Err(refusal(
                Class::State,
                "parked-again",
                format!("it still cannot be processed: {reason}"),
            ))),
            Err(Failure::Refused(refusal)) => Ok(Err(refusal)),
        }
    }
}

fn shown(parked: Parked) -> SetAside {
    let input: Option<ParkedInput> = serde_json::from_str(&parked.input).ok();
    SetAside {
        id: parked.id,
        at: Timestamp::from_micros(parked.at),
        request: input.as_ref().is_some_and(|input| input.origin.is_none()),
        target: input.as_ref().map(|input| input.deed.target()),
        order: input.as_ref().and_then(|input| input.deed.order()),
        reason: parked.reason,
    }
}

fn refusal(class: Class, code: &'static str, detail: String) -> Refusal {
    Refusal {
        class,
        code: code.into(),
        detail: detail.into(),
        pointer: None,
    }
}

#[allow(clippy::needless_pass_by_value, reason = "map_err gives the error away")]
fn unavailable(error: event_store::StoreError) -> EngineError {
    EngineError::Unavailable(error.to_string())
}
