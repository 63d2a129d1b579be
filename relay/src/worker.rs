//! The relay's thread: reads the log, publishes, and moves the checkpoints behind what is acknowledged.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use event_store::{Checkpoints, Event, EventStore, LogReader, StoreError};
use parking_lot::Mutex;
use rdkafka::ClientConfig;

use crate::{
    KafkaError, RelaySettings, Standing, client,
    place::{self, Found},
    publisher::{self, About, Came, NotTaken, Publisher, Refusal, Together},
    record::{self, Content},
    refusal::Blame,
    shard::{Pause, Refused, Shard, Stands},
    signal::Signal,
    standing::State,
    topics::Topics,
    trouble::Trouble,
    window::{Print, Seen},
};

/// Events that are read at once.
const PAGE: usize = 250;

/// A checkpoint is moved after so long. After a crash what was published since then comes again.
const SAVED_EVERY: Duration = Duration::from_millis(200);

/// How often it looks for new shards, where the logs end, and what others have published; and for events when it is told of new ones.
const LOOKED_AROUND_EVERY: Duration = Duration::from_secs(1);

/// How long a shard waits when it cannot be known which topics there are.
const BLOCKED_FOR: Duration = Duration::from_secs(5);

/// How long to wait before Kafka or the log is tried again: at first, and at most.
const AGAIN: Duration = Duration::from_millis(200);
const AGAIN_AT_MOST: Duration = Duration::from_secs(5);

/// How long what is under way may take when the relay stops.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

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

/// The log, as it is read, and the checkpoints.
struct Source {
    reader: Box<dyn LogReader>,
    checkpoints: Box<dyn Checkpoints>,
}

/// What the checkpoints are called.
struct Names {
    at: String,
    beyond: String,
    mark: String,
}

/// What records are made with.
struct Making {
    settings: RelaySettings,
    topics: Topics,
    /// The source of the `CloudEvents`.
    origin: Option<String>,
}

pub(crate) struct Worker {
    making: Making,
    store: Arc<dyn EventStore>,
    signal: Arc<Signal>,
    told: Arc<Mutex<State>>,
    names: Names,
    in_order: ClientConfig,
    singly: ClientConfig,
    source: Option<Source>,
    /// Of the events, in the order of their streams.
    publisher: Option<Publisher>,
    /// Of single events that were refused, and are tried again.
    trials: Option<Publisher>,
    together: Together,
    /// One by one they are taken: as soon as nothing is under way they go together again.
    eased: bool,
    shards: BTreeMap<u16, Shard>,
    /// The shard whose turn it is to publish.
    first: u16,
    saved_at: Instant,
    looked_at: Instant,
    looked_around_at: Option<Instant>,
    hindrance: Option<Hindrance>,
    again: Duration,
}

impl Worker {
    pub(crate) fn new(
        settings: RelaySettings,
        store: Arc<dyn EventStore>,
        signal: Arc<Signal>,
        told: Arc<Mutex<State>>,
    ) -> Result<Self, KafkaError> {
        let in_order = publisher::in_order(&settings)?;
        // What is wrong with the settings shows before anything is started.
        client::try_out(&in_order)?;
        describe_metrics();
        Ok(Self {
            store,
            signal,
            told,
            names: Names {
                at: settings.name.clone(),
                beyond: place::beyond(&settings.name),
                mark: place::mark(&settings.name),
            },
            in_order,
            singly: publisher::singly(&settings)?,
            source: None,
            publisher: None,
            trials: None,
            together: Together::default(),
            eased: false,
            shards: BTreeMap::new(),
            first: 0,
            saved_at: Instant::now(),
            looked_at: Instant::now(),
            looked_around_at: None,
            hindrance: None,
            again: AGAIN,
            making: Making {
                topics: Topics::new(settings.topics.clone(), settings.kafka.client()?),
                origin: settings.source.clone(),
                settings,
            },
        })
    }

    pub(crate) fn run(mut self) {
        while !self.signal.is_stopped() {
            self.told.lock().turned = Some(Instant::now());
            match self.turn() {
                Ok(rest) => {
                    if self.signal.wait(rest) || self.looked_at.elapsed() >= self.idle() {
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
        self.collect_trials();
        self.open_publisher()?;
        self.save()?;
        if self.looked_around_at.is_none_or(|at| at.elapsed() >= LOOKED_AROUND_EVERY) {
            self.look_around()?;
            self.looked_around_at = Some(Instant::now());
        }
        self.publish()?;
        self.try_again()?;
        let over = match self.hindrance.as_ref().map(|hindrance| hindrance.over) {
            Some(Over::Turn) => true,
            Some(Over::Record) => self.shards.values().all(Shard::is_at_rest),
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
            &self.in_order,
            self.together,
            &mut self.making.topics,
            Arc::clone(&self.signal),
        )?);
        self.looked_around_at = None;
        Ok(())
    }

    /// What the broker has acknowledged, and what it has not taken.
    fn collect(&mut self) -> Result<(), Trouble> {
        let Some(publisher) = &mut self.publisher else { return Ok(()) };
        let Came {
            acknowledged,
            refused,
            failed,
            ..
        } = publisher.collect();
        let away = publisher.away();
        if !acknowledged.is_empty() || failed.is_some() {
            self.shards.values_mut().for_each(Shard::hears);
        }
        let is_forgotten = publisher.is_forgotten();
        self.acknowledge(&acknowledged);
        if !acknowledged.is_empty() {
            self.works();
            self.eased = self.together.is_one_by_one();
        }
        if let Some(error) = failed {
            if !self.blame(refused) {
                return Err(error.into());
            }
            metrics::counter!("jangbu_relay_errors_total").increment(1);
            self.let_go_of_publisher();
            return Ok(());
        }
        if is_forgotten {
            self.let_go_of_publisher();
        }
        if self.eased && self.in_flight() == 0 {
            self.together.unite();
            self.eased = false;
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

    fn acknowledge(&mut self, acknowledged: &[About]) {
        for about in acknowledged {
            if let About::Event { shard, position } = about
                && let Some(shard) = self.shards.get_mut(shard)
            {
                // While it watches nothing is under way that it would know of.
                shard.acknowledge(*position);
            }
        }
    }

    /// Finds out which records, or topics, are the reason that a producer has failed. False: they are not; everything is.
    ///
    /// Of many that were sent together nobody knows which one it was: they are sent once more, one by one.
    fn blame(&mut self, refused: Vec<Refusal>) -> bool {
        // What is given back comes bit by bit: that there is only one says nothing.
        let alone = self.together.is_one_by_one();
        let mut found = false;
        for Refusal { about, blame, why } in refused {
            let About::Event { shard, position } = about else { continue };
            let Some(shard) = self.shards.get_mut(&shard) else { continue };
            let whole_topic = blame == Blame::Topic;
            match blame {
                Blame::Everything | Blame::Another => continue,
                Blame::Size | Blame::Record if !alone => self.together.separate(blame == Blame::Size),
                Blame::Size if shard.referred.insert(position) => self.together.acquit(),
                Blame::Size | Blame::Record | Blame::Topic => {
                    shard.refused.insert(position, Refused { why, whole_topic });
                }
            }
            found = true;
        }
        found
    }

    /// The next producer begins behind what is acknowledged, in each shard.
    fn let_go_of_publisher(&mut self) {
        self.publisher = None;
        self.eased = false;
        self.shards.values_mut().filter(|shard| shard.publishes()).for_each(Shard::forget);
    }

    /// A shard has begun anew, perhaps with other events at the same positions: what comes of those that are under way must not count for them.
    fn start_afresh(&mut self) {
        self.let_go_of_publisher();
        self.trials = None;
        let now = Instant::now();
        self.shards.values_mut().for_each(|shard| shard.holds.forget_trials(now));
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
        for (number, shard) in self.shards.iter_mut().filter(|(_, shard)| shard.is_unsaved()) {
            if let Some(stands) = save_shard(checkpoints.as_mut(), &self.names, *number, shard)? {
                give_way(*number, shard, stands);
            } else {
                metrics::gauge!("jangbu_relay_position", "shard" => number.to_string()).set(as_gauge(shard.saved.at));
            }
        }
        Ok(())
    }

    /// What changes seldom: shards, where the logs end, what others do.
    fn look_around(&mut self) -> Result<(), Trouble> {
        let away = self.hindrance.as_ref().is_some_and(|hindrance| hindrance.over == Over::Answer);
        if away
            && self
                .publisher
                .as_ref()
                .is_some_and(|publisher| publisher.answers(&mut self.making.topics))
        {
            self.works();
        }
        let Some(Source { reader, checkpoints }) = &mut self.source else {
            return Ok(());
        };
        let now = Instant::now();
        let all = all_stand_at(checkpoints.as_mut(), &self.names)?;
        let mut is_anew = false;
        for number in reader.shards()? {
            let stands = all.get(&number).copied().unwrap_or_default();
            let end = match reader.head(number)? {
                Some(head) => {
                    self.making.origin.get_or_insert_with(|| format!("/jangbu/{}", head.log_id));
                    head.position
                }
                None => 0,
            };
            if let Some(shard) = self.shards.get_mut(&number) {
                shard.end = end;
                if look_at(number, shard, stands, now, self.making.settings.takeover) {
                    is_anew = true;
                    shard.saved = stands;
                    begin(reader.as_ref(), number, shard, &self.told)?;
                }
                save_mark(checkpoints.as_mut(), &self.names, number, shard)?;
            } else {
                let mut shard = Shard::new(stands, None);
                shard.end = end;
                begin(reader.as_ref(), number, &mut shard, &self.told)?;
                self.shards.insert(number, shard);
            }
        }
        if is_anew {
            self.start_afresh();
        }
        self.tell();
        Ok(())
    }

    /// Says how far it is.
    fn tell(&self) {
        let mut told = self.told.lock();
        told.standing = Standing {
            connected: self.hindrance.is_none(),
            lag: self.shards.values().map(Shard::lag).sum(),
            held: self.shards.values().map(Shard::held).sum(),
        };
        told.held.clear();
        told.publishes.clear();
        for (number, shard) in &self.shards {
            if shard.publishes() {
                told.publishes.insert(*number);
            }
            if let Some(mut what) = shard.holds.tell(*number) {
                if shard.is_full() {
                    what.push_str("; so much has come behind it that the whole shard waits now");
                }
                told.held.insert(*number, what);
            }
            let label = number.to_string();
            metrics::gauge!("jangbu_relay_position", "shard" => label.clone()).set(as_gauge(shard.saved.at));
            metrics::gauge!("jangbu_relay_lag_events", "shard" => label.clone()).set(as_gauge(shard.lag()));
            metrics::gauge!("jangbu_relay_held_events", "shard" => label.clone()).set(as_gauge(shard.held()));
            metrics::gauge!("jangbu_relay_stopped", "shard" => label).set(f64::from(u8::from(shard.is_stopped())));
        }
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
            if !self.publish_page(number, now)? {
                self.follow_another_history(number)?;
            }
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        if self.eased {
            return false;
        }
        let most = self.making.settings.most_in_flight;
        let room = |publisher: &Publisher| publisher.in_flight() == 0 || publisher.in_flight() + PAGE <= most;
        self.publisher.as_ref().is_some_and(room)
    }

    /// False: this is not the log that was read before.
    fn publish_page(&mut self, number: u16, now: Instant) -> Result<bool, Trouble> {
        let (Some(Source { reader, .. }), Some(publisher), Some(shard)) = (&self.source, &mut self.publisher, self.shards.get_mut(&number))
        else {
            return Ok(true);
        };
        // The one that was looked at last is read once more: if it is another one, the log was put back to an earlier state in between.
        let cursor = shard.window.cursor();
        let page = PAGE.min(self.making.settings.most_in_flight.max(1)) + usize::from(cursor > 0);
        let events = reader.events(number, cursor.saturating_sub(1), page)?;
        if cursor > 0 && events.is_empty() {
            return Ok(false);
        }
        shard.more = events.len() == page;
        for event in &events {
            let print = Print::of(event.event_id);
            match shard.window.look(event.position, print) {
                Seen::Last if event.position == shard.window.done() => shard.window.recognise(print),
                Seen::Last => {}
                Seen::Passed => shard.window.pass(),
                Seen::Another => return Ok(false),
                Seen::TooFar => {
                    let (next, found) = (shard.window.cursor() + 1, event.position);
                    return Err(StoreError::Corrupt(format!("shard {number} has no event at {next}, but one at {found}")).into());
                }
                Seen::New => match publish_one(publisher, &mut self.making, shard, event, print, now) {
                    Next::Goes => {}
                    Next::Waits(pause) => {
                        (shard.more, shard.pause) = (true, Some(pause));
                        return Ok(true);
                    }
                },
            }
        }
        shard.pause = None;
        shard.end = shard.end.max(shard.window.last());
        Ok(true)
    }

    /// The log was put back to an earlier state while this relay was reading it, and goes on another way. The checkpoint is in the same store and
    /// went back with it; if it did not, an operator has to say where to go on.
    fn follow_another_history(&mut self, number: u16) -> Result<(), Trouble> {
        let (Some(Source { reader, checkpoints }), Some(shard)) = (&mut self.source, self.shards.get_mut(&number)) else {
            return Ok(());
        };
        let stands = all_stand_at(checkpoints.as_mut(), &self.names)?.remove(&number).unwrap_or_default();
        let known = if stands.at == shard.saved.at { shard.saved_print } else { None };
        let published = shard.window.last();
        shard.saved = stands;
        shard.end = reader.head(number)?.map_or(0, |head| head.position);
        metrics::counter!("jangbu_relay_histories_total").increment(1);
        let found = place::find(reader.as_ref(), number, stands.at, stands.mark)?;
        match (found, known) {
            (Found::Event(Some(print)), Some(known)) if print != known => {
                stop(number, shard, Found::AnotherAt(stands.at), &self.told);
            }
            (Found::Event(print), _) => {
                tracing::error!(
                    shard = number,
                    checkpoint = stands.at,
                    published,
                    "the log was put back to an earlier state: Kafka may hold events behind the checkpoint that the log no longer has. What the log has now is published from the checkpoint on"
                );
                shard.goes_on(print);
            }
            (found, _) => stop(number, shard, found, &self.told),
        }
        self.start_afresh();
        Ok(())
    }

    /// Tries what was refused once more, when its time has come: the first event of each stream or topic that is held back, by itself.
    fn try_again(&mut self) -> Result<(), Trouble> {
        if self.hindrance.is_some() {
            return Ok(());
        }
        let now = Instant::now();
        let Some(Source { reader, .. }) = &self.source else { return Ok(()) };
        for (number, shard) in self.shards.iter_mut().filter(|(_, shard)| shard.publishes()) {
            for position in shard.holds.due(now) {
                // Nothing that precedes it may still be under way.
                let is_first = shard.window.beyond() >= position;
                let found = if is_first {
                    reader.events(*number, position - 1, 1)?
                } else {
                    Vec::new()
                };
                let Some(event) = found.first().filter(|event| event.position == position) else {
                    shard.holds.try_later(position, now);
                    continue;
                };
                let trials = match &mut self.trials {
                    Some(trials) => trials,
                    none => {
                        let opened = Publisher::open(&self.singly, Together::default(), &mut self.making.topics, Arc::clone(&self.signal));
                        match opened {
                            Ok(opened) => none.insert(opened),
                            Err(error) => {
                                shard.holds.put_off(position, &error.to_string(), now);
                                continue;
                            }
                        }
                    }
                };
                match send(trials, &mut self.making, event, &mut shard.referred) {
                    Ok(()) => {}
                    Err(NotTaken::Full) => shard.holds.try_later(position, now),
                    Err(NotTaken::Away(error)) => shard.holds.put_off(position, &error.to_string(), now),
                    Err(NotTaken::Refused { why, .. }) => {
                        metrics::counter!("jangbu_relay_errors_total").increment(1);
                        shard.holds.put_off(position, &why, now);
                    }
                }
            }
        }
        Ok(())
    }

    /// What came of the trials.
    fn collect_trials(&mut self) {
        let Some(trials) = &mut self.trials else { return };
        let came = trials.collect();
        let now = Instant::now();
        for about in &came.acknowledged {
            if let About::Event { shard: number, position } = about
                && let Some(shard) = self.shards.get_mut(number)
            {
                shard.acknowledge(*position);
                if shard.holds.lift(*position) {
                    tracing::info!(
                        shard = number,
                        position,
                        "the event is published, and those that waited for it follow"
                    );
                    shard.go_over_again();
                }
            }
        }
        for Refusal { about, blame, why } in &came.refused {
            if let About::Event { shard, position } = about
                && let Some(shard) = self.shards.get_mut(shard)
            {
                metrics::counter!("jangbu_relay_errors_total").increment(1);
                if *blame == Blame::Size && shard.referred.insert(*position) {
                    shard.holds.try_later(*position, now);
                } else {
                    shard.holds.put_off(*position, why, now);
                }
            }
        }
        if came.failed.is_some() {
            // It may remember what it was refused.
            self.trials = None;
            self.shards.values_mut().for_each(|shard| shard.holds.forget_trials(now));
        }
    }

    /// How long until it looks for events of which nobody tells it.
    fn idle(&self) -> Duration {
        let idle = self.making.settings.idle;
        if self.signal.is_hearing() {
            idle.max(LOOKED_AROUND_EVERY)
        } else {
            idle
        }
    }

    /// How long to wait for what may come.
    fn rest(&self) -> Duration {
        let now = Instant::now();
        if self.has_room() && self.shards.values().any(|shard| shard.may_go_on(now)) {
            return Duration::ZERO;
        }
        let look = self.idle().saturating_sub(self.looked_at.elapsed());
        let save = SAVED_EVERY.saturating_sub(self.saved_at.elapsed());
        if self.shards.values().any(Shard::is_unsaved) {
            look.min(save)
        } else {
            look
        }
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
                if self.publisher.is_some() {
                    self.together.separate(false);
                }
                self.let_go_of_publisher();
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
                tracing::warn!(brokers = %self.making.settings.kafka.brokers, "nothing is published: {what}. Events wait in the log");
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
        if let Err(error) = saved.and_then(|()| self.save_all()).and_then(|()| self.save_marks()) {
            tracing::warn!(%error, "the relay stops without having moved its checkpoints; what it published since comes again");
        } else if self.in_flight() > 0 {
            tracing::warn!("not all records were acknowledged before the relay stopped; they come again");
        }
    }

    fn save_marks(&mut self) -> Result<(), Trouble> {
        let Some(Source { checkpoints, .. }) = &mut self.source else {
            return Ok(());
        };
        for (number, shard) in &mut self.shards {
            save_mark(checkpoints.as_mut(), &self.names, *number, shard)?;
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.publisher.as_ref().map_or(0, Publisher::in_flight)
    }
}

/// What comes after an event that was to be published.
enum Next {
    /// The one behind it.
    Goes,
    /// Nothing, for now.
    Waits(Pause),
}

/// Publishes the next event of a shard, or holds it back.
fn publish_one(publisher: &mut Publisher, making: &mut Making, shard: &mut Shard, event: &Event, print: Print, now: Instant) -> Next {
    let topic = making.settings.topics.of_events(&event.stream.kind);
    if let Some(Refused { why, whole_topic }) = shard.refused.remove(&event.position) {
        hold(shard, event, &topic, &why, whole_topic, now);
    }
    if shard.holds.cover(&event.stream, &topic, event.position) {
        shard.window.keep(print);
        return Next::Goes;
    }
    match send(publisher, making, event, &mut shard.referred) {
        Ok(()) => {
            shard.window.send(print);
            Next::Goes
        }
        Err(NotTaken::Full) => Next::Waits(Pause::ForAnAnswer),
        Err(NotTaken::Away(error)) => {
            metrics::counter!("jangbu_relay_errors_total").increment(1);
            tracing::debug!(shard = event.shard, position = event.position, %error, "an event waits");
            Next::Waits(Pause::Until(now + BLOCKED_FOR))
        }
        Err(NotTaken::Refused { blame, why }) => {
            metrics::counter!("jangbu_relay_errors_total").increment(1);
            hold(shard, event, &topic, &why, blame == Blame::Topic, now);
            shard.window.keep(print);
            Next::Goes
        }
    }
}

/// Of a stream nothing comes before what precedes it: what Kafka refuses keeps its stream, or its topic, and nothing else.
fn hold(shard: &mut Shard, event: &Event, topic: &str, why: &str, whole_topic: bool, now: Instant) {
    let (number, position, stream) = (event.shard, event.position, &event.stream);
    if whole_topic {
        tracing::warn!(
            shard = number,
            position,
            topic,
            why,
            "a topic takes no events; they wait in the log, those of others go on"
        );
        shard.holds.hold_topic(topic, position, why, now);
    } else {
        tracing::warn!(shard = number, position, %stream, topic, why, "an event is refused; its stream waits in the log, others go on");
        shard.holds.hold_stream(stream, topic, position, why, now);
    }
}

/// Gives an event to a producer: whole, or as a reference where it is too large.
fn send(
    publisher: &mut Publisher,
    making: &mut Making,
    event: &Event,
    referred: &mut std::collections::BTreeSet<u64>,
) -> Result<(), NotTaken> {
    let topic = making.settings.topics.of_events(&event.stream.kind);
    publisher.ensure(&mut making.topics, &topic, &[])?;
    let key = record::key(event);
    let about = About::Event {
        shard: event.shard,
        position: event.position,
    };
    let origin = making.origin.as_deref().unwrap_or_default();
    let partitions = making.topics.partitions(&topic);
    loop {
        let content = if referred.contains(&event.position) {
            Content::Reference
        } else {
            Content::Whole
        };
        let headers = record::headers(event, &key, origin, content);
        match publisher.send(&topic, &key, Some(content.value(event)), headers, about, partitions) {
            Err(NotTaken::Refused { blame: Blame::Size, .. }) if referred.insert(event.position) => {}
            Ok(()) if content == Content::Reference => {
                metrics::counter!("jangbu_relay_references_total", "topic" => topic).increment(1);
                tracing::info!(
                    shard = event.shard,
                    position = event.position,
                    "an event is too large for its topic and is published as a reference"
                );
                return Ok(());
            }
            sent => return sent,
        }
    }
}

/// Where all checkpoints of a relay stand.
fn all_stand_at(checkpoints: &mut dyn Checkpoints, names: &Names) -> Result<BTreeMap<u16, Stands>, StoreError> {
    let mut all: BTreeMap<u16, Stands> = BTreeMap::new();
    for (shard, at) in checkpoints.read(&names.at)? {
        all.entry(shard).or_default().at = at;
    }
    for (shard, beyond) in checkpoints.read(&names.beyond)? {
        all.entry(shard).or_default().beyond = beyond;
    }
    for (shard, mark) in checkpoints.read(&names.mark)? {
        all.entry(shard).or_default().mark = mark;
    }
    Ok(all)
}

/// Moves a shard's checkpoints. If somebody else has moved them: where they stand.
fn save_shard(checkpoints: &mut dyn Checkpoints, names: &Names, number: u16, shard: &mut Shard) -> Result<Option<Stands>, StoreError> {
    if shard.unsure {
        let stands = all_stand_at(checkpoints, names)?.remove(&number).unwrap_or_default();
        shard.unsure = false;
        // Ours, if they were moved at all: to where this relay is, or to where it was when it asked.
        let beyond = shard.beyond_to_be();
        let ours = (shard.saved.at..=shard.window.done()).contains(&stands.at)
            && (shard.saved.beyond.min(beyond)..=shard.saved.beyond.max(beyond)).contains(&stands.beyond);
        if !ours {
            return Ok(Some(stands));
        }
        if stands.at != shard.saved.at {
            shard.saved_print = None;
        }
        shard.saved = stands;
    }
    let (at, print) = (shard.window.done(), shard.window.done_print());
    if at != shard.saved.at {
        if !moved(checkpoints, &names.at, number, shard, shard.saved.at, at)? {
            return all_stand_at(checkpoints, names).map(|mut all| Some(all.remove(&number).unwrap_or_default()));
        }
        shard.saved.at = at;
    }
    shard.saved_print = print;
    let beyond = shard.beyond_to_be();
    if beyond != shard.saved.beyond {
        if !moved(checkpoints, &names.beyond, number, shard, shard.saved.beyond, beyond)? {
            return all_stand_at(checkpoints, names).map(|mut all| Some(all.remove(&number).unwrap_or_default()));
        }
        shard.saved.beyond = beyond;
    }
    Ok(None)
}

fn moved(checkpoints: &mut dyn Checkpoints, name: &str, number: u16, shard: &mut Shard, from: u64, to: u64) -> Result<bool, StoreError> {
    shard.unsure = true;
    let moved = checkpoints.advance(name, number, from, to)?;
    shard.unsure = false;
    shard.proven |= moved;
    Ok(moved)
}

/// Notes which event stands at the checkpoint, so that a relay that begins there later sees whether the log is still the same.
fn save_mark(checkpoints: &mut dyn Checkpoints, names: &Names, number: u16, shard: &mut Shard) -> Result<(), StoreError> {
    let Some(mark) = shard.saved_print.and_then(|print| place::as_mark(shard.saved.at, print)) else {
        return Ok(());
    };
    if shard.publishes() && !shard.unsure && mark != shard.saved.mark {
        // Where it stands elsewhere it is seen the next time it is read.
        checkpoints.advance(&names.mark, number, shard.saved.mark, mark)?;
        shard.saved.mark = mark;
    }
    Ok(())
}

/// Somebody else has moved a checkpoint.
fn give_way(number: u16, shard: &mut Shard, stands: Stands) {
    let (position, stood) = (stands.at, shard.saved.at);
    if position < stood {
        tracing::warn!(
            shard = number,
            position,
            stood,
            "the relay's checkpoint was put back, by an operator or with the whole log; what is behind it is published again"
        );
    } else {
        tracing::info!(shard = number, position, "another relay publishes this shard; this one watches");
    }
    shard.yields(stands, Instant::now());
}

/// Looks at where a shard's checkpoints stand. True: this relay is to begin there.
fn look_at(number: u16, shard: &mut Shard, stands: Stands, now: Instant, takeover: Duration) -> bool {
    if shard.is_stopped() {
        // Somebody has moved it, or the log has come back: the mark tells that it is the same.
        let is_moved = stands.at != shard.saved.at;
        return is_moved || (shard.end >= stands.at && place::is_marked(stands.at, stands.mark));
    }
    if shard.publishes() {
        let moved = (stands.at, stands.beyond) != (shard.saved.at, shard.saved.beyond);
        if moved && !shard.unsure {
            give_way(number, shard, stands);
        }
        shard.saved.mark = stands.mark;
        return false;
    }
    let goes_on = shard.watch(stands, now, takeover);
    if goes_on {
        tracing::info!(
            shard = number,
            position = stands.at,
            "the relay that published this shard stands still; this one goes on"
        );
    }
    goes_on
}

/// Begins to publish a shard behind its checkpoint, if the log is the one that the checkpoint was made for.
fn begin(reader: &dyn LogReader, number: u16, shard: &mut Shard, told: &Mutex<State>) -> Result<(), StoreError> {
    match place::find(reader, number, shard.saved.at, shard.saved.mark)? {
        Found::Event(print) => {
            if shard.is_stopped() {
                tracing::info!(
                    shard = number,
                    position = shard.saved.at,
                    "the shard is published again, from its checkpoint on"
                );
            }
            told.lock().stopped.remove(&number);
            shard.goes_on(print);
        }
        found => stop(number, shard, found, told),
    }
    Ok(())
}

/// Stops publishing a shard whose log is not the one that was published, until an operator has moved the checkpoint.
fn stop(number: u16, shard: &mut Shard, found: Found, told: &Mutex<State>) {
    let checkpoint = shard.saved.at;
    let what = match found {
        Found::AnotherAt(position) => format!("another event stands at {position} than the one that was published"),
        Found::LogEnds(end) => format!("the log ends at {end}"),
        Found::Event(_) => "the log goes another way".to_owned(),
    };
    let line = format!(
        "shard {number}: the relay's checkpoint is {checkpoint}, and {what}: the log was put back to an earlier state. Move the checkpoint to the last \
         position that both have in common (docs/kafka.md, \"A log that went back\")"
    );
    let said = told.lock().stopped.insert(number, line.clone());
    if said.as_ref() != Some(&line) {
        metrics::counter!("jangbu_relay_errors_total").increment(1);
        tracing::error!(shard = number, "nothing of this shard is published: {line}");
    }
    shard.stops();
}

#[allow(clippy::cast_precision_loss, reason = "a gauge is a float, and exact up to 2^53")]
fn as_gauge(count: u64) -> f64 {
    count as f64
}

fn describe_metrics() {
    metrics::describe_counter!("jangbu_relay_published_total", "Records that Kafka has acknowledged, by topic.");
    metrics::describe_counter!(
        "jangbu_relay_references_total",
        "Events too large for their topic, published as a reference, by topic."
    );
    metrics::describe_gauge!("jangbu_relay_position", "The relay's checkpoint, by shard.");
    metrics::describe_gauge!("jangbu_relay_lag_events", "Events in the log that are not published yet, by shard.");
    metrics::describe_gauge!(
        "jangbu_relay_held_events",
        "Events that wait because Kafka refuses them, or one before them in their stream, by shard."
    );
    metrics::describe_gauge!("jangbu_relay_held_parked", "Inputs that were set aside, and that Kafka refuses.");
    metrics::describe_gauge!(
        "jangbu_relay_stopped",
        "1 while a shard is not published because its log is not the one that was published, by shard."
    );
    metrics::describe_counter!(
        "jangbu_relay_histories_total",
        "How often a log was put back to an earlier state under the relay."
    );
    metrics::describe_counter!("jangbu_relay_errors_total", "How often something stood in the relay's way.");
}
