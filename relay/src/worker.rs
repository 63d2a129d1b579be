//! The relay's thread: reads the log, publishes, and moves the checkpoints behind what is acknowledged.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use event_store::{Checkpoints, Event, EventStore, LogReader, StoreError};
use parking_lot::{Condvar, Mutex};
use rdkafka::ClientConfig;

use crate::{
    KafkaError, RelaySettings, Standing, State as Told, client,
    parked::{self, Shown},
    publisher::{self, About, NotTaken, Publisher},
    record,
    topics::Topics,
    window::Window,
};

/// Events that are read at once.
const PAGE: usize = 250;

/// A checkpoint is moved after so long, or after so many events. After a crash what was published since then comes again.
const SAVED_EVERY: Duration = Duration::from_millis(200);
const SAVED_AFTER: u64 = 1_000;

/// How often it looks for new shards, where the logs end, what others have published, and what was set aside.
const LOOKED_AROUND_EVERY: Duration = Duration::from_secs(1);

/// The most inputs that are shown as set aside of each shard: the oldest.
const MOST_PARKED: usize = 1_000;

/// How long a shard waits whose next event cannot be sent.
const BLOCKED_FOR: Duration = Duration::from_secs(5);

/// How long to wait before Kafka or the log is tried again: at first, and at most.
const AGAIN: Duration = Duration::from_millis(200);
const AGAIN_AT_MOST: Duration = Duration::from_secs(5);

/// How long what is under way may take when the relay stops.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

/// What wakes the thread.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    events: bool,
    answers: bool,
    stop: bool,
}

impl Signal {
    /// There may be new events.
    pub(crate) fn wake(&self) {
        self.state.lock().events = true;
        self.changed.notify_one();
    }

    /// An answer of Kafka's has come.
    pub(crate) fn came(&self) {
        self.state.lock().answers = true;
        self.changed.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.state.lock().stop
    }

    /// Waits until something comes. True: there may be new events.
    fn wait(&self, at_most: Duration) -> bool {
        let mut state = self.state.lock();
        let nothing = |state: &mut State| !state.events && !state.answers && !state.stop;
        self.changed.wait_while_for(&mut state, nothing, at_most);
        state.answers = false;
        std::mem::take(&mut state.events)
    }

    /// Waits for an answer of Kafka's.
    fn wait_for_answers(&self, at_most: Duration) {
        let mut state = self.state.lock();
        self.changed.wait_while_for(&mut state, |state| !state.answers, at_most);
        state.answers = false;
    }

    /// Waits, whatever comes, unless it is stopped.
    pub(crate) fn rest(&self, for_so_long: Duration) {
        let mut state = self.state.lock();
        self.changed.wait_while_for(&mut state, |state| !state.stop, for_so_long);
    }
}

/// What stands in the way.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Log(#[from] StoreError),
    #[error("{0}")]
    Kafka(#[from] KafkaError),
}

/// A shard, as this relay knows it.
#[derive(Debug)]
struct Shard {
    /// What is published by this relay.
    window: Window,
    /// Where its checkpoint stood when it was read or moved last.
    saved: u64,
    /// Where its log ended when it was looked at last.
    end: u64,
    part: Part,
    /// There is more in the log than was read.
    more: bool,
    /// Its next event cannot be sent, and is tried again then.
    blocked: Option<Instant>,
    /// The checkpoint may have been moved: nobody knows.
    unsure: bool,
    /// Whether this relay has moved the checkpoint since it began to publish. Until then another may publish the same, so it sends one page.
    proven: bool,
}

/// What this relay does for a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Publishes,
    /// Another does; its checkpoint stands still, with events behind it, since then.
    Watches(Instant),
}

impl Shard {
    fn behind(position: u64) -> Self {
        Self {
            window: Window::behind(position),
            saved: position,
            end: position,
            part: Part::Publishes,
            more: true,
            blocked: None,
            unsure: false,
            proven: false,
        }
    }

    fn publishes(&self) -> bool {
        self.part == Part::Publishes
    }

    fn done(&self) -> u64 {
        if self.publishes() { self.window.done() } else { self.saved }
    }

    fn lag(&self) -> u64 {
        self.end.max(self.window.sent()).saturating_sub(self.done())
    }

    /// Whether its next events may be read.
    fn may_go_on(&self, now: Instant) -> bool {
        let proven = self.proven || self.window.sent() == self.saved;
        self.publishes() && self.more && proven && self.blocked.is_none_or(|until| until <= now)
    }

    /// Whether the checkpoint should be moved before its time.
    fn is_to_be_saved(&self) -> bool {
        let unsaved = self.window.done() - self.saved.min(self.window.done());
        self.publishes() && (unsaved >= SAVED_AFTER || !self.proven && unsaved > 0 && self.window.sent() == self.window.done())
    }

    /// Somebody else has moved the checkpoint. What this relay has under way is acknowledged or not, and means nothing any more.
    fn yields(&mut self, saved: u64, now: Instant) {
        self.part = Part::Watches(now);
        self.saved = saved;
        self.window = Window::behind(saved);
        self.unsure = false;
        self.blocked = None;
    }

    fn goes_on(&mut self) {
        self.part = Part::Publishes;
        self.window = Window::behind(self.saved);
        self.more = true;
        self.proven = false;
    }
}

/// What stood in the way last, and was said once.
#[derive(Debug)]
struct Hindrance {
    what: String,
    over: Over,
}

/// What ends it that something stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// A turn that comes to its end.
    Turn,
    /// A broker that answers.
    Answer,
    /// A record that is acknowledged, or that there is none to send.
    Record,
}

/// The log, as it is read.
struct Source {
    reader: Box<dyn LogReader>,
    checkpoints: Box<dyn Checkpoints>,
}

pub(crate) struct Worker {
    settings: RelaySettings,
    store: Arc<dyn EventStore>,
    signal: Arc<Signal>,
    told: Arc<Mutex<Told>>,
    client: ClientConfig,
    topics: Topics,
    source: Option<Source>,
    publisher: Option<Publisher>,
    shards: BTreeMap<u16, Shard>,
    shown: Shown,
    /// The source of the `CloudEvents`.
    origin: Option<String>,
    /// Records are sent one by one, because some were refused; and since then one was taken.
    careful: bool,
    eased: bool,
    /// The shard whose turn it is to publish.
    first: u16,
    saved_at: Instant,
    looked_at: Instant,
    looked_around_at: Option<Instant>,
    hindrance: Option<Hindrance>,
    /// Whether it was said that what was set aside cannot be published.
    said_parked: bool,
    again: Duration,
}

impl Worker {
    pub(crate) fn new(
        settings: RelaySettings,
        store: Arc<dyn EventStore>,
        signal: Arc<Signal>,
        told: Arc<Mutex<Told>>,
    ) -> Result<Self, KafkaError> {
        let client = publisher::config(&settings)?;
        // What is wrong with the settings shows before anything is started.
        client::try_out(&client)?;
        describe_metrics();
        Ok(Self {
            topics: Topics::new(settings.topics.clone(), settings.kafka.client()?),
            origin: settings.source.clone(),
            settings,
            store,
            signal,
            told,
            client,
            source: None,
            publisher: None,
            shards: BTreeMap::new(),
            shown: Shown::default(),
            careful: false,
            eased: false,
            first: 0,
            saved_at: Instant::now(),
            looked_at: Instant::now(),
            looked_around_at: None,
            hindrance: None,
            said_parked: false,
            again: AGAIN,
        })
    }

    pub(crate) fn run(mut self) {
        while !self.signal.is_stopped() {
            match self.turn() {
                Ok(rest) => {
                    if self.signal.wait(rest) || self.looked_at.elapsed() >= self.settings.idle {
                        self.looked_at = Instant::now();
                        self.shards.values_mut().for_each(|shard| shard.more = true);
                    }
                }
                Err(trouble) => {
                    self.fail(&trouble);
                    self.signal.rest(self.again);
                    self.again = (self.again * 2).min(AGAIN_AT_MOST);
                }
            }
        }
        self.finish();
    }

    /// Does what can be done now. Says how long to wait for more.
    fn turn(&mut self) -> Result<Duration, Trouble> {
        self.open_source()?;
        self.open_publisher()?;
        self.collect()?;
        self.open_publisher()?;
        self.save()?;
        if self.looked_around_at.is_none_or(|at| at.elapsed() >= LOOKED_AROUND_EVERY) {
            self.look_around()?;
            self.looked_around_at = Some(Instant::now());
        }
        self.publish()?;
        let over = match self.hindrance.as_ref().map(|hindrance| hindrance.over) {
            Some(Over::Turn) => true,
            Some(Over::Record) => self.shards.values().all(|shard| !shard.publishes() || shard.lag() == 0),
            Some(Over::Answer) | None => false,
        };
        if over {
            self.works();
        }
        Ok(self.rest())
    }

    fn open_source(&mut self) -> Result<(), Trouble> {
        if self.source.is_some() {
            return Ok(());
        }
        self.source = Some(Source {
            reader: self.store.reader()?,
            checkpoints: self.store.checkpoints()?,
        });
        self.looked_around_at = None;
        Ok(())
    }

    fn open_publisher(&mut self) -> Result<(), Trouble> {
        if self.publisher.is_some() {
            return Ok(());
        }
        self.publisher = Some(Publisher::open(
            &self.client,
            self.careful,
            &mut self.topics,
            Arc::clone(&self.signal),
        )?);
        self.looked_around_at = None;
        Ok(())
    }

    /// What the broker has acknowledged.
    fn collect(&mut self) -> Result<(), Trouble> {
        let Some(publisher) = &mut self.publisher else { return Ok(()) };
        let (acknowledged, failed) = publisher.collect();
        let away = publisher.away();
        for about in &acknowledged {
            if let About::Event { shard, position } = about
                && let Some(shard) = self.shards.get_mut(shard)
            {
                // While it watches nothing is under way that it would know of.
                shard.window.acknowledge(*position);
            }
        }
        if !acknowledged.is_empty() {
            self.works();
            self.eased = self.careful;
        }
        failed?;
        if self.eased && self.in_flight() == 0 {
            // The next one sends many at once again.
            (self.careful, self.eased) = (false, false);
            self.publisher = None;
        }
        if acknowledged.is_empty()
            && let Some(reason) = away
        {
            // What is under way stays there: the client sends it when a broker comes back.
            self.say(format!("no broker can be reached ({reason})"), Over::Answer);
        }
        Ok(())
    }

    /// Moves the checkpoints.
    fn save(&mut self) -> Result<(), Trouble> {
        if self.saved_at.elapsed() < SAVED_EVERY && !self.shards.values().any(Shard::is_to_be_saved) {
            return Ok(());
        }
        self.saved_at = Instant::now();
        self.save_all()
    }

    fn save_all(&mut self) -> Result<(), Trouble> {
        let Some(Source { checkpoints, .. }) = &mut self.source else {
            return Ok(());
        };
        for (number, shard) in &mut self.shards {
            let (from, to) = (shard.saved, shard.window.done());
            if !shard.publishes() || (from == to && !shard.unsure) {
                continue;
            }
            if shard.unsure {
                let stands = stands_at(checkpoints.as_mut(), &self.settings.name, *number)?;
                shard.unsure = false;
                // Ours, if it was moved at all: to where this relay is, or to where it was when it asked.
                if stands < from || stands > to {
                    yield_to_another(*number, shard, stands, &mut self.shown);
                    continue;
                }
                shard.saved = stands;
            }
            let from = shard.saved;
            if from == to {
                continue;
            }
            shard.unsure = true;
            let moved = checkpoints.advance(&self.settings.name, *number, from, to)?;
            shard.unsure = false;
            if moved {
                shard.saved = to;
                shard.proven = true;
                metrics::gauge!("jangbu_relay_position", "shard" => number.to_string()).set(as_gauge(to));
            } else {
                let stands = stands_at(checkpoints.as_mut(), &self.settings.name, *number)?;
                yield_to_another(*number, shard, stands, &mut self.shown);
            }
        }
        Ok(())
    }

    /// What changes seldom: shards, where the logs end, what others do, what was set aside.
    fn look_around(&mut self) -> Result<(), Trouble> {
        let away = self.hindrance.as_ref().is_some_and(|hindrance| hindrance.over == Over::Answer);
        if away && self.publisher.as_ref().is_some_and(|publisher| publisher.answers(&mut self.topics)) {
            self.works();
        }
        let Some(Source { reader, checkpoints }) = &mut self.source else {
            return Ok(());
        };
        let now = Instant::now();
        let saved: BTreeMap<u16, u64> = checkpoints.read(&self.settings.name)?.into_iter().collect();
        let mut lag = 0;
        for number in reader.shards()? {
            let stands = saved.get(&number).copied().unwrap_or(0);
            let is_new = !self.shards.contains_key(&number);
            let shard = self.shards.entry(number).or_insert_with(|| Shard::behind(stands));
            if let Some(head) = reader.head(number)? {
                shard.end = head.position;
                if is_new && stands > head.position {
                    let end = head.position;
                    tracing::warn!(
                        shard = number,
                        checkpoint = stands,
                        end,
                        "more was published than the log has; what it gets up to there is not"
                    );
                }
                self.origin.get_or_insert_with(|| format!("/jangbu/{}", head.log_id));
            }
            watch(number, shard, stands, now, self.settings.takeover);
            lag += shard.lag();
            let label = number.to_string();
            metrics::gauge!("jangbu_relay_position", "shard" => label.clone()).set(as_gauge(shard.saved));
            metrics::gauge!("jangbu_relay_lag_events", "shard" => label).set(as_gauge(shard.lag()));
        }
        self.told.lock().standing = Standing {
            connected: self.hindrance.is_none(),
            lag,
        };
        self.show_parked()
    }

    /// Publishes what was set aside and is not published, and the ends of what was.
    fn show_parked(&mut self) -> Result<(), Trouble> {
        let (Some(Source { reader, .. }), Some(publisher), Some(origin)) = (&self.source, &mut self.publisher, &self.origin) else {
            return Ok(());
        };
        for (number, _) in self.shards.iter().filter(|(_, shard)| shard.publishes()) {
            let parked = reader.parked(*number, MOST_PARKED)?;
            let (unseen, ended) = (self.shown.unseen(&parked), self.shown.ended(*number, &parked));
            if unseen.is_empty() && ended.is_empty() {
                continue;
            }
            let topic = self.settings.topics.parked();
            if let Err(error) = publisher.ensure(&mut self.topics, &topic, Topics::COMPACTED) {
                // No reason to keep back events.
                metrics::counter!("jangbu_relay_errors_total").increment(1);
                if !std::mem::replace(&mut self.said_parked, true) {
                    tracing::warn!(%error, "inputs that were set aside are not published");
                }
                return Ok(());
            }
            self.said_parked = false;
            for parked in unseen {
                let (headers, text) = parked::record(*number, parked, origin);
                match publisher.send(
                    &topic,
                    &parked.id.to_string(),
                    Some(&text),
                    headers,
                    About::Parked { id: parked.id },
                ) {
                    Ok(()) => {}
                    Err(NotTaken::Full) => return Ok(()),
                    Err(NotTaken::Refused(error)) => {
                        metrics::counter!("jangbu_relay_errors_total").increment(1);
                        tracing::warn!(id = %parked.id, %error, "an input that was set aside cannot be published");
                    }
                }
                self.shown.show(*number, parked.id);
            }
            for id in ended {
                // Nothing under its key: it is set aside no more.
                let nothing = rdkafka::message::OwnedHeaders::new();
                if publisher
                    .send(&topic, &id.to_string(), None, nothing, About::Parked { id })
                    .is_err()
                {
                    return Ok(());
                }
                self.shown.forget(id);
            }
        }
        Ok(())
    }

    /// Publishes the next page of each shard, as far as there is room. Who had to wait for room comes first the next time.
    fn publish(&mut self) -> Result<(), Trouble> {
        let now = Instant::now();
        let waiting = |(number, shard): (&u16, &Shard)| shard.may_go_on(now).then_some(*number);
        let behind = self.shards.range(self.first..).chain(self.shards.range(..self.first));
        for number in behind.filter_map(waiting).collect::<Vec<_>>() {
            self.first = number;
            if !self.has_room() {
                return Ok(());
            }
            self.publish_page(number, now)?;
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        if self.eased {
            return false;
        }
        let room = |publisher: &Publisher| publisher.in_flight() == 0 || publisher.in_flight() + PAGE <= self.settings.most_in_flight;
        self.publisher.as_ref().is_some_and(room)
    }

    fn publish_page(&mut self, number: u16, now: Instant) -> Result<(), Trouble> {
        let (Some(Source { reader, .. }), Some(publisher), Some(origin), Some(shard)) =
            (&self.source, &mut self.publisher, &self.origin, self.shards.get_mut(&number))
        else {
            return Ok(());
        };
        let page = PAGE.min(self.settings.most_in_flight.max(1));
        let events = reader.events(number, shard.window.sent(), page)?;
        shard.more = events.len() == page;
        for event in &events {
            let next = shard.window.sent() + 1;
            if event.position != next {
                let damage = format!("shard {number} has no event at {next}, but one at {}", event.position);
                return Err(StoreError::Corrupt(damage).into());
            }
            match send(publisher, &mut self.topics, &self.settings, event, origin) {
                Ok(()) => shard.window.send(),
                Err(NotTaken::Full) => {
                    shard.more = true;
                    break;
                }
                // What comes after it waits, too: of a stream nothing comes before what precedes it.
                Err(NotTaken::Refused(error)) => {
                    metrics::counter!("jangbu_relay_errors_total").increment(1);
                    if shard.blocked.is_none() {
                        tracing::warn!(shard = number, position = next, %error, "an event cannot be published; those behind it wait in the log");
                    }
                    shard.more = true;
                    shard.blocked = Some(now + BLOCKED_FOR);
                    return Ok(());
                }
            }
            if shard.blocked.take().is_some() {
                tracing::info!(shard = number, position = next, "the event is published, and those behind it");
            }
        }
        shard.end = shard.end.max(shard.window.sent());
        Ok(())
    }

    /// How long to wait for what may come.
    fn rest(&self) -> Duration {
        let now = Instant::now();
        if self.has_room() && self.shards.values().any(|shard| shard.may_go_on(now)) {
            return Duration::ZERO;
        }
        let unsaved = self
            .shards
            .values()
            .any(|shard| shard.publishes() && shard.window.done() != shard.saved);
        let look = self.settings.idle.saturating_sub(self.looked_at.elapsed());
        let save = SAVED_EVERY.saturating_sub(self.saved_at.elapsed());
        if unsaved { look.min(save) } else { look }
    }

    /// Says what stands in the way, and lets go of what may be broken.
    fn fail(&mut self, trouble: &Trouble) {
        let over = match trouble {
            Trouble::Kafka(_) if self.publisher.is_some() => Over::Record,
            Trouble::Kafka(_) | Trouble::Log(_) => Over::Turn,
        };
        self.say(trouble.to_string(), over);
        match trouble {
            Trouble::Log(_) => self.source = None,
            Trouble::Kafka(_) => {
                self.careful |= self.publisher.take().is_some();
                self.eased = false;
                self.shown.clear();
                // The next producer begins behind what is acknowledged, in each shard.
                for shard in self.shards.values_mut().filter(|shard| shard.publishes()) {
                    shard.window = Window::behind(shard.window.done());
                    shard.more = true;
                }
            }
        }
    }

    fn say(&mut self, what: String, over: Over) {
        metrics::counter!("jangbu_relay_errors_total").increment(1);
        let mut told = self.told.lock();
        told.standing.connected = false;
        told.hindrance = Some(what.clone());
        drop(told);
        match &mut self.hindrance {
            None => {
                tracing::warn!(brokers = %self.settings.kafka.brokers, "nothing is published: {what}. Events wait in the log");
                self.hindrance = Some(Hindrance { what, over });
            }
            Some(said) => {
                if said.what != what {
                    tracing::debug!("still nothing is published: {what}");
                }
                // Records that were refused are refused again, whatever else happens in between.
                let over = if said.over == Over::Record { said.over } else { over };
                *said = Hindrance { what, over };
            }
        }
    }

    fn works(&mut self) {
        self.again = AGAIN;
        if self.hindrance.take().is_some() {
            let mut told = self.told.lock();
            told.standing.connected = true;
            told.hindrance = None;
            drop(told);
            tracing::info!("events are published again");
        }
    }

    /// Waits for what is under way, and moves the checkpoints to what came of it.
    fn finish(mut self) {
        let begun = Instant::now();
        let mut saved = self.collect();
        while saved.is_ok() && self.in_flight() > 0 && begun.elapsed() < FINISH_WITHIN {
            self.signal.wait_for_answers(FINISH_WITHIN.saturating_sub(begun.elapsed()));
            saved = self.collect();
        }
        if let Err(error) = saved.and_then(|()| self.save_all()) {
            tracing::warn!(%error, "the relay stops without having moved its checkpoints; what it published since comes again");
        } else if self.in_flight() > 0 {
            tracing::warn!("not all records were acknowledged before the relay stopped; they come again");
        }
    }

    fn in_flight(&self) -> usize {
        self.publisher.as_ref().map_or(0, Publisher::in_flight)
    }
}

fn send(publisher: &mut Publisher, topics: &mut Topics, settings: &RelaySettings, event: &Event, origin: &str) -> Result<(), NotTaken> {
    let topic = settings.topics.of_events(&event.stream.kind);
    publisher.ensure(topics, &topic, &[]).map_err(NotTaken::Refused)?;
    let key = record::key(event);
    let about = About::Event {
        shard: event.shard,
        position: event.position,
    };
    let headers = record::headers(event, &key, origin);
    publisher.send(&topic, &key, Some(event.payload.as_bytes()), headers, about)
}

/// Another relay moved the checkpoint.
fn yield_to_another(number: u16, shard: &mut Shard, stands: u64, shown: &mut Shown) {
    tracing::info!(
        shard = number,
        position = stands,
        "another relay publishes this shard; this one watches"
    );
    shard.yields(stands, Instant::now());
    shown.leave(number);
}

/// Looks whether another relay still publishes a shard, and goes on in its place when it does not.
fn watch(number: u16, shard: &mut Shard, stands: u64, now: Instant, takeover: Duration) {
    let Part::Watches(since) = shard.part else { return };
    if stands != shard.saved || stands >= shard.end {
        shard.saved = stands;
        shard.window = Window::behind(stands);
        shard.part = Part::Watches(now);
    } else if now.duration_since(since) >= takeover {
        tracing::info!(
            shard = number,
            position = stands,
            "the relay that published this shard stands still; this one goes on"
        );
        shard.goes_on();
    }
}

fn stands_at(checkpoints: &mut dyn Checkpoints, name: &str, shard: u16) -> Result<u64, StoreError> {
    let all = checkpoints.read(name)?;
    Ok(all.iter().find(|(number, _)| *number == shard).map_or(0, |(_, position)| *position))
}

#[allow(clippy::cast_precision_loss, reason = "a gauge is a float, and exact up to 2^53")]
fn as_gauge(count: u64) -> f64 {
    count as f64
}

fn describe_metrics() {
    metrics::describe_counter!("jangbu_relay_published_total", "Records that Kafka has acknowledged, by topic.");
    metrics::describe_gauge!("jangbu_relay_position", "The relay's checkpoint, by shard.");
    metrics::describe_gauge!("jangbu_relay_lag_events", "Events in the log that are not published yet, by shard.");
    metrics::describe_counter!("jangbu_relay_errors_total", "How often something stood in the relay's way.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_goes_on_when_the_checkpoint_stands_still_with_events_behind_it() {
        let takeover = Duration::from_secs(5);
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut shard = Shard::behind(10);
        shard.yields(20, begun);
        shard.end = 20;
        for seconds in [1, 100] {
            watch(0, &mut shard, 20, at(seconds), takeover);
            assert!(!shard.publishes(), "nothing waits");
        }
        shard.end = 30;
        watch(0, &mut shard, 20, at(101), takeover);
        assert!(!shard.publishes(), "it may be on its way");
        watch(0, &mut shard, 25, at(104), takeover);
        watch(0, &mut shard, 25, at(108), takeover);
        assert!(!shard.publishes(), "it moved");
        watch(0, &mut shard, 25, at(109), takeover);
        assert!(shard.publishes());
        assert_eq!((shard.window.sent(), shard.saved, shard.lag()), (25, 25, 5));
    }
}
