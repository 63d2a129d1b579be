//! Requests from outside: read ahead, decided, answered, and answered again.

use std::sync::Arc;

use aggregates::{Class, Command, Kind, OrderCommand, Refusal};
use event_store::{Event, IdempotencyRecord, StreamId, StreamRead};
use uuid::Uuid;

use super::{
    Core, Decided, Failure, Release, Response, Work,
    cascade::{Cascade, MetadataJson},
    load::{fold, shape},
    messages::record_of,
    open::Own,
};
use crate::{
    Answer, ConsistencyToken, EngineError, Planned, Reply, Request,
    stored::{Origin, decode_answer, encode_answer},
};

impl<T> Core<T> {
    /// Reads what the waiting requests need, in one query.
    pub(super) fn prefetch(&mut self) {
        let mut records = Vec::new();
        let mut streams = Vec::new();
        for (_, request) in self.waiting.iter().take(self.settings.batch) {
            if let Some(idempotency) = &request.idempotency
                && !request.dry_run
                && !self.fresh_records.contains_key(&idempotency.record)
                && !self.prefetched.contains_key(&idempotency.record)
            {
                records.push(idempotency.record);
            }
            let (kind, id) = request.command.target();
            let placed = match &request.command {
                Command::Order(_, OrderCommand::Place(place)) => Some(place),
                _ => None,
            };
            // A stream named after a new id is not read; what the order names is.
            if !(placed.is_some() && request.idempotency.is_some()) {
                streams.push((kind, id));
            }
            streams.extend(
                placed
                    .iter()
                    .flat_map(|place| &place.lines)
                    .map(|line| (Kind::Product, line.product.uuid())),
            );
        }
        for message in self.backlog.iter().filter_map(Own::asked).take(self.settings.batch) {
            let record = record_of(message.id);
            if !self.fresh_answers.contains_key(&message.id) && !self.prefetched.contains_key(&record) {
                records.push(record);
            }
        }
        streams.sort_unstable();
        streams.dedup();
        streams.retain(|key| !self.states.contains(key));
        if records.is_empty() && streams.is_empty() {
            return;
        }
        let reads: Vec<_> = streams
            .iter()
            .map(|(kind, id)| StreamRead {
                stream: StreamId::new(kind.name(), *id),
                shape: shape(*kind),
            })
            .collect();
        // What fails here is read again, and its error answered, when it is needed.
        let Ok((found, slices)) = self.reader.read(&records, &reads) else {
            return;
        };
        self.prefetched.extend(records.into_iter().zip(found));
        for ((kind, id), slice) in streams.into_iter().zip(slices) {
            if let Ok((state, version)) = fold(kind, id, &slice) {
                self.loaded(kind, id, state, version);
            }
        }
    }

    /// Decides one input and lets it join the open batch; whatever goes wrong concerns this input alone.
    pub(super) fn process(&mut self, work: Work<T>) {
        match work {
            Work::Request(ticket, request) => self.process_request(ticket, request),
            Work::Unpark(ticket, unpark) => self.process_unpark(ticket, unpark),
            Work::Own(own) => self.process_own(own),
        }
    }

    pub(super) fn process_request(&mut self, ticket: T, request: Box<Request>) {
        if let Some(answer) = self.replay(&request) {
            self.open.releases.push(Release::Answer {
                ticket,
                answer,
                retry: None,
            });
            return;
        }
        let mut decided = self.undoable(self.settings.cascade, |core, cascade| core.decide_request(cascade, &request));
        if let Err(Failure::Broken(_)) = decided
            && can_go_in_pieces(&request)
        {
            decided = self.decide_alone(&request);
        }
        let answer = match decided {
            Ok(decided) => Ok(self.reply(&request, decided)),
            Err(Failure::Refused(refusal)) => self.refuse(&request, refusal),
            Err(Failure::Unavailable(reason)) => Err(EngineError::Unavailable(reason)),
            Err(Failure::Broken(reason)) => Err(self.park(&request, reason)),
        };
        self.open.releases.push(Release::Answer {
            ticket,
            answer,
            retry: Some(request),
        });
    }

    /// Decides a request's own command, whatever becomes of what follows from it: that is owed.
    pub(super) fn decide_alone(&mut self, request: &Request) -> Result<Decided, Failure> {
        self.undoable(0, |core, cascade| core.decide_request(cascade, request))
    }

    /// After the store has refused a request's batch: tries to make at least its own command durable. Says whether it may work.
    pub(super) fn answer_in_pieces(&mut self, ticket: T, request: Box<Request>) -> Result<(), (T, Box<Request>)> {
        if !can_go_in_pieces(&request) {
            return Err((ticket, request));
        }
        let Ok(decided) = self.decide_alone(&request) else {
            return Err((ticket, request));
        };
        self.open.in_pieces = true;
        let answer = Ok(self.reply(&request, decided));
        self.open.releases.push(Release::Answer {
            ticket,
            answer,
            retry: Some(request),
        });
        Ok(())
    }

    pub(super) fn decide_request(&mut self, cascade: &mut Cascade, request: &Request) -> Result<Decided, Failure> {
        let (kind, id) = request.command.target();
        if request.idempotency.is_some()
            && !request.dry_run
            && let Command::Order(order, OrderCommand::Place(_)) = &request.command
        {
            self.new_order(*order);
        }
        let command = self.enrich(cascade, request.command.clone())?;
        let before = self.load_or_fail(kind, id)?;
        if let Some(expected) = request.if_match
            && expected != before.version
        {
            return Err(Failure::Refused(version_mismatch(before.version)));
        }
        let origin = Origin {
            correlation: request.cause.correlation,
            causation: Uuid::nil(),
        };
        let events = before.state.decide(command).map_err(Failure::Refused)?;
        let actor = request.cause.actor.to_string();
        let metadata = MetadataJson {
            correlation_id: request.cause.correlation,
            causation_id: None,
            actor: Some(&actor),
            idempotency_key: request.idempotency.as_ref().map(|idempotency| idempotency.key.as_str()),
            traceparent: request.cause.traceparent.as_deref(),
        };
        drop(before);
        self.sequence(cascade, events, origin, &metadata)?;
        // The command's own answer, whatever follows.
        let own = self.load_or_fail(kind, id)?;
        let body = (self.settings.represent)(kind, id, &own.state, own.version);
        let position = self.open.position() + cascade.events.len() as u64;
        let token = ConsistencyToken {
            log_id: self.durable.log_id,
            shard: self.durable.shard,
            position,
        };
        let answer = Answer {
            token,
            version: own.version,
            result: Ok(body.into()),
        };
        drop(own);
        self.run(cascade)?;
        let latest = self.load_or_fail(kind, id)?;
        if request.dry_run {
            self.remember(cascade)?;
            let planned = planned(&cascade.events)?;
            // Nothing of this joins.
            self.undo();
            *cascade = Cascade::default();
            return Ok(Decided { answer, latest, planned });
        }
        Ok(Decided {
            answer,
            latest,
            planned: Vec::new(),
        })
    }

    /// The order's streams are named after an id that was made for this request: there is nothing to read.
    pub(super) fn new_order(&mut self, order: aggregates::OrderId) {
        let payment = aggregates::PaymentId::for_order(order).uuid();
        let fresh = [(Kind::Order, order.uuid()), (Kind::Payment, payment)];
        for (kind, id) in fresh {
            if !self.states.contains(&(kind, id)) {
                self.states.loaded((kind, id), kind.initial(), 0, self.turn);
            }
        }
        if !self.purchases.contains(&order.uuid()) {
            self.purchases.loaded(order.uuid(), Arc::default(), 0, self.turn);
        }
    }

    pub(super) fn reply(&mut self, request: &Request, decided: Decided) -> Response {
        if !request.dry_run {
            self.record(request, &decided.answer);
        }
        Response::Reply(Box::new(Reply {
            answer: decided.answer,
            replayed: false,
            latest: decided.latest,
            planned: decided.planned,
        }))
    }

    pub(super) fn refuse(&mut self, request: &Request, refusal: Refusal) -> Result<Response, EngineError> {
        let (kind, id) = request.command.target();
        let latest = self.load(kind, id)?;
        let token = ConsistencyToken {
            log_id: self.durable.log_id,
            shard: self.durable.shard,
            position: self.open.position(),
        };
        let answer = Answer {
            token,
            version: latest.version,
            result: Err(refusal),
        };
        let planned = Vec::new();
        Ok(self.reply(request, Decided { answer, latest, planned }))
    }

    pub(super) fn record(&mut self, request: &Request, answer: &Answer) {
        let Some(idempotency) = &request.idempotency else { return };
        self.prefetched.remove(&idempotency.record);
        let Ok(json) = encode_answer(answer) else {
            tracing::error!("an answer is not JSON; it is not recorded");
            return;
        };
        self.fresh_records
            .insert(idempotency.record, (idempotency.fingerprint, answer.clone()));
        self.open.records.push(IdempotencyRecord {
            key: idempotency.record,
            fingerprint: idempotency.fingerprint,
            position: answer.token.position,
            recorded_at: self.now.micros(),
            answer: json,
        });
    }

    /// The answer that a request with this key got before, if there was one.
    pub(super) fn replay(&mut self, request: &Request) -> Option<Result<Response, EngineError>> {
        if request.dry_run {
            return None;
        }
        let idempotency = request.idempotency.as_ref()?;
        let known = match self.fresh_records.get(&idempotency.record) {
            Some((fingerprint, answer)) => Some(Ok((*fingerprint, answer.clone()))),
            None => match self.prefetched.remove(&idempotency.record) {
                Some(found) => found.map(Ok),
                None => match self.reader.read(&[idempotency.record], &[]) {
                    Ok((mut found, _)) => found.pop().flatten().map(Ok),
                    Err(error) => Some(Err(EngineError::Unavailable(error.to_string()))),
                },
            }
            .map(|found: Result<IdempotencyRecord, EngineError>| {
                let record = found?;
                let answer =
                    decode_answer(self.durable.log_id, &record.answer).map_err(|error| EngineError::Unavailable(error.to_string()))?;
                Ok((record.fingerprint, answer))
            }),
        }?;
        Some(known.and_then(|(fingerprint, answer)| {
            if fingerprint != idempotency.fingerprint {
                return Err(EngineError::KeyReused);
            }
            let (kind, id) = request.command.target();
            let latest = self.load(kind, id)?;
            Ok(Response::Reply(Box::new(Reply {
                answer,
                replayed: true,
                latest,
                planned: Vec::new(),
            })))
        }))
    }
}

/// Whether what follows from a request may be owed when it cannot be done: then the request itself counts. An order that is only being
/// placed had better not begin.
fn can_go_in_pieces(request: &Request) -> bool {
    !request.dry_run && !matches!(request.command, Command::Order(_, OrderCommand::Place(_)))
}

fn planned(events: &[Event]) -> Result<Vec<Planned>, Failure> {
    let plan = |event: &Event| {
        Ok(Planned {
            aggregate_type: event.stream.kind.to_string(),
            aggregate_id: event.stream.id,
            sequence: event.sequence,
            event_type: event.event_type.to_string(),
            payload: serde_json::value::RawValue::from_string(event.payload.to_string())?,
        })
    };
    events.iter().map(plan).collect()
}

fn version_mismatch(version: u64) -> Refusal {
    Refusal {
        class: Class::Version,
        code: "version-mismatch".into(),
        detail: format!("the current version is {version}").into(),
        pointer: None,
    }
}
