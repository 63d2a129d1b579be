//! What shards say to one another, and what becomes of it on the way.
//!
//! A message may be lost, doubled, late or overtaken; nothing may come through between two shards for a while, or between none at all; and
//! what carries the messages may lose all that it holds. Once everything is calm nothing is lost any more.

use std::{collections::BTreeMap, sync::Arc};

use aggregates::{Kind, Product, Recorded, State};
use engine::{EngineError, Input, Message, Response};
use event_store::{LogReader, RecordKey, Shards, StreamId};
use rustc_hash::FxHashMap;
use serde_json::Value;
use uuid::Uuid;

use super::{Happening, World};
use crate::{
    clients,
    figures::Fault,
    script::{HOUR, Hindrance, MINUTE, What},
};

/// A message on its way.
pub(super) struct Parcel {
    message: Message,
    /// How many were sent before it from the same shard to the same shard.
    number: u64,
    /// Of which life of the transport it is.
    life: u32,
}

/// What carries the messages.
#[derive(Default)]
pub(super) struct Transport {
    began: i64,
    /// How often it has lost everything.
    life: u32,
    /// How many messages were sent from one shard to another, and the last of them that has arrived.
    links: BTreeMap<(u16, u16), (u64, u64)>,
    /// The last message that came to each shard.
    last: Vec<Option<Message>>,
    /// What each message brings, where a script wants to know; and since when each of its hitches is there.
    names: FxHashMap<Uuid, String>,
    hitches: BTreeMap<usize, i64>,
    /// How often a task was sent that is settled.
    in_vain: FxHashMap<Uuid, u32>,
}

impl Transport {
    pub(super) fn new(shards: Shards) -> Self {
        Self {
            began: i64::MIN,
            last: vec![None; usize::from(shards.count())],
            ..Self::default()
        }
    }

    /// The times of the script count from now on.
    pub(super) fn begin(&mut self, now: i64) {
        self.began = now;
    }

    /// When that was.
    pub(super) fn began(&self) -> i64 {
        self.began
    }

    /// The last message that came to a shard.
    pub(super) fn last_to(&self, shard: u16) -> Option<Message> {
        self.last.get(usize::from(shard)).cloned().flatten()
    }
}

/// What a task that is settled may be sent at most: it may have been under way already when its answer came.
const MOST_IN_VAIN: u32 = 2;

impl World {
    pub(super) fn send(&mut self, id: u32, message: Message) {
        if self.finale {
            return self.fail("a repeat changes nothing", message.summary());
        }
        let wrong = if message.is_answer() {
            self.check_message_answer(&message)
        } else {
            self.check_task(id, &message)
        };
        if let Err(what) = wrong {
            return self.fail("no message before it is durable", what);
        }
        self.figures.messages += 1;
        let (number, _) = message.id.as_u64_pair();
        let told = self.story.is_told();
        self.note(16, number, || {
            let name = told.then(|| name_of(&message)).flatten().unwrap_or_default();
            format!("process {id} sends {} {name}", message.summary())
        });
        // It is owed, and nobody takes it.
        if self.edge(id) {
            return;
        }
        self.hand_over(message);
        // It is on its way, and who sent it is gone.
        self.edge(id);
    }

    /// What is to be done elsewhere is owed durably, until its answer is recorded.
    fn check_task(&mut self, id: u32, message: &Message) -> Result<(), String> {
        let shard = self.process(id).map(|process| process.shard);
        if shard != Some(message.from) || message.to == message.from || message.to >= self.shards.count() {
            return Err(format!("process {id} sends {}", message.summary()));
        }
        if !self.disk.owed(message.id) {
            return Err(format!("nobody owes {}", message.summary()));
        }
        if self.disk.owes(message.from, message.id) {
            self.transport.in_vain.remove(&message.id);
        } else if self.serving(id) {
            let count = self.transport.in_vain.entry(message.id).or_default();
            *count += 1;
            if *count > MOST_IN_VAIN {
                return Err(format!("{} is settled, and sent again and again", message.summary()));
            }
        }
        Ok(())
    }

    /// What is answered is recorded, as it is answered.
    fn check_message_answer(&self, message: &Message) -> Result<(), String> {
        let key = RecordKey(message.id.into_bytes());
        let (mut found, _) = self.disk.durable().read(&[key], &[]).map_err(|error| error.to_string())?;
        let Some(record) = found.pop().flatten() else {
            return Err(format!("{} is not recorded", message.summary()));
        };
        let recorded: Value = serde_json::from_slice(&record.answer).map_err(|error| error.to_string())?;
        let said = serde_json::to_value(message).map_err(|error| error.to_string())?;
        let (recorded, said) = (&recorded["message"]["learnt"], &said["body"]["answer"]);
        if recorded == said {
            Ok(())
        } else {
            Err(format!("{} is recorded as {recorded}, and said to be {said}", message.summary()))
        }
    }

    fn hand_over(&mut self, message: Message) {
        let link = (message.from, message.to);
        let (sent, _) = self.transport.links.entry(link).or_default();
        *sent += 1;
        let parcel = Parcel {
            number: *sent,
            life: self.transport.life,
            message,
        };
        let mut takes = self.takes(1_000, 50, 50_000);
        match self.hindered(&parcel.message) {
            Some((Hindrance::Lost, _)) => return self.fault(Fault::MessageLost),
            Some((Hindrance::Late, left)) => {
                self.fault(Fault::MessageDelayed);
                takes += left;
            }
            None => {}
        }
        if self.nothing_comes_through(link) {
            return;
        }
        if self.strikes(self.script.faults.messages) {
            match self.chance.below(4) {
                0 => return self.fault(Fault::MessageLost),
                1 | 2 => {
                    self.fault(Fault::MessageDuplicated);
                    let again = self.chance.span(1_000, HOUR);
                    let copy = Parcel {
                        message: parcel.message.clone(),
                        ..parcel
                    };
                    self.later(again, Happening::Deliver(Box::new(copy)));
                }
                _ => {
                    self.fault(Fault::MessageDelayed);
                    takes += self.chance.span(1_000, 30 * MINUTE);
                }
            }
        }
        self.later(takes, Happening::Deliver(Box::new(parcel)));
    }

    /// Whether the transport is away, or the way between two shards.
    fn nothing_comes_through(&mut self, (from, to): (u16, u16)) -> bool {
        if self.calm {
            return false;
        }
        let at = self.now - self.transport.began;
        let faults = &self.script.faults;
        if faults.transport_down.iter().any(|(begin, end)| (*begin..*end).contains(&at)) {
            self.fault(Fault::TransportDown);
            return true;
        }
        let cut = faults
            .cuts
            .iter()
            .any(|cut| (cut.begin..cut.end).contains(&at) && (cut.from, cut.to) == (from, to));
        if cut {
            self.fault(Fault::MessageCutOff);
        }
        cut
    }

    /// What a script has in the way of a message, and how long still.
    fn hindered(&mut self, message: &Message) -> Option<(Hindrance, i64)> {
        if self.script.faults.hitches.is_empty() {
            return None;
        }
        if let Some(name) = name_of(message) {
            self.transport.names.insert(message.id, name);
        }
        let name = self.transport.names.get(&message.id)?;
        let hitches = self.script.faults.hitches.iter().enumerate();
        let (index, hitch) = hitches
            .filter(|(_, hitch)| hitch.answer == message.is_answer())
            .find(|(_, hitch)| hitch.of == name)?;
        let end = *self.transport.hitches.entry(index).or_insert(self.now) + hitch.span;
        (self.now < end).then_some((hitch.how, end - self.now))
    }

    /// Whatever is on its way is lost.
    pub(super) fn transport_fails(&mut self) {
        if !self.calm {
            self.transport.life += 1;
            self.note(17, 0, || "all messages that are on their way are lost".to_owned());
        }
    }

    pub(super) fn deliver(&mut self, parcel: Parcel) {
        let Parcel { message, number, life } = parcel;
        if life != self.transport.life {
            return self.fault(Fault::MessageForgotten);
        }
        let (_, arrived) = self.transport.links.entry((message.from, message.to)).or_default();
        let overtaken = number < *arrived;
        *arrived = number.max(*arrived);
        if overtaken {
            self.fault(Fault::MessageReordered);
        }
        let to = message.to;
        let Some(mut id) = self.serves(to) else {
            return self.fault(Fault::MessageToNobody);
        };
        if let Some(former) = self.former(to)
            && self.chance.per_mille(300)
        {
            self.fault(Fault::MessageToFormer);
            id = former;
        }
        self.note(18, u64::from(to), || format!("process {id} hears {}", message.summary()));
        if let Some(last) = self.transport.last.get_mut(usize::from(to)) {
            *last = Some(message.clone());
        }
        if let Some(process) = self.process(id) {
            process.inbox.push(Input::Received(Box::new(message)));
        }
        // It has arrived, and was not looked at.
        if self.edge(id) {
            return;
        }
        self.soon(id);
    }

    // What is told by memory.

    /// Other shards hear at once which products have changed.
    pub(super) fn tell_of_changes(&mut self, shard: u16, events: &Arc<[Recorded]>) {
        if !self.several_shards() {
            return;
        }
        let changed = events.iter().filter_map(|recorded| Some(recorded.event.as_ref()?.source()));
        let changed: Vec<_> = changed.filter(|(kind, _)| *kind == Kind::Product).collect();
        self.tell_others(shard, &changed);
    }

    /// What was recorded, and not told of, before a shard's process ended: in one process all would have ended.
    pub(super) fn tell_of_products(&mut self, shard: u16) {
        if !self.several_shards() {
            return;
        }
        let products = (0..self.script.products.len()).map(|number| (Kind::Product, clients::product(number).uuid()));
        let here: Vec<_> = products.filter(|(kind, id)| self.home(*kind, *id) == shard).collect();
        self.tell_others(shard, &here);
    }

    fn tell_others(&mut self, shard: u16, changed: &[(Kind, Uuid)]) {
        for process in self.processes.iter_mut().filter(|process| process.shard != shard) {
            let told = changed.iter().map(|(kind, id)| Input::Changed(*kind, *id));
            process.inbox.extend(told);
        }
    }

    /// Who was told that a price has changed, and orders after that, orders at the new one.
    pub(super) fn check_prices(&self, ticket: u64, number: usize, result: &Result<Response, EngineError>) -> Result<(), String> {
        let (What::Place(basket), Ok(Response::Reply(reply))) = (&self.script.asks[number].what, result) else {
            return Ok(());
        };
        let Some(ticket) = usize::try_from(ticket).ok().and_then(|ticket| self.tickets.get(ticket)) else {
            return Ok(());
        };
        // What a process that was taken over plans in a dry run stands on what it knew.
        if !self.serving(ticket.process) {
            return Ok(());
        }
        let told = &self.prices_told[..ticket.prices_told];
        let State::Order(order) = &reply.latest.state else { return Ok(()) };
        if !self.several_shards() || reply.replayed || reply.answer.result.is_err() || told.is_empty() {
            return Ok(());
        }
        for (product, _, stated) in &basket.lines {
            let known = told.iter().filter(|(known, _)| known == product).map(|(_, version)| *version).max();
            let line = order.lines().iter().find(|line| line.product == clients::product(*product));
            let (Some(known), Some(line)) = (known, line) else { continue };
            let prices = self.prices_since(*product, known);
            let fits = if stated.is_some() {
                !prices.is_empty()
            } else {
                prices.contains(&line.unit_price.minor())
            };
            if !fits {
                let price = line.unit_price;
                return Err(format!(
                    "product {product} at {price}, and since version {known} it costs {prices:?}"
                ));
            }
        }
        Ok(())
    }

    /// What a product has cost since this version, as long as it was on the shelf.
    fn prices_since(&self, product: usize, version: u64) -> Vec<i64> {
        let stream = StreamId::new("product", clients::product(product).uuid());
        let events = self.disk.durable().stream(&stream, 0, usize::MAX).unwrap_or_default();
        let mut prices = Vec::new();
        let mut state = Product::default();
        for recorded in crate::views::decode(&events).unwrap_or_default() {
            if let Some(aggregates::CommerceEvent::Product(_, event)) = &recorded.event {
                aggregates::Decide::evolve(&mut state, event);
            }
            if let Product::Offered { price, retired: false, .. } = &state
                && recorded.sequence >= version
            {
                prices.push(price.minor());
            }
        }
        prices
    }
}

/// What a task has done, as its JSON names it; none for an answer.
fn name_of(message: &Message) -> Option<String> {
    let value = serde_json::to_value(message).ok()?;
    let task = value.get("body")?.get("task")?;
    if task.get("learn").is_some() {
        return Some("Learn".to_owned());
    }
    // {"Kind": [id, command]}, and a command is a name, or a name with what belongs to it.
    let command = task.get("command")?.as_object()?.values().next()?.as_array()?.get(1)?;
    let name = command.as_object().and_then(|command| command.keys().next()).cloned();
    name.or_else(|| command.as_str().map(str::to_owned))
}
