//! Where events come from: a log that is opened for reading alone, and the ways into it.
//!
//! Everything is read through `event_store::LogReader`, so another store needs to be opened here and nowhere else. A log is read up to the
//! heads that it had when it was opened; a shop may go on writing meanwhile.

use std::{
    cell::{Cell, Ref, RefCell},
    cmp::Reverse,
    collections::VecDeque,
    ops::ControlFlow,
};

use event_store::{Event, EventRef, Head, LogPosition, LogReader, Selection, Shards, StoreError, StreamId, TypePattern};
use event_store_sqlite::Standing;
use jiff::{Timestamp, tz::TimeZone};
use uuid::Uuid;

use crate::{
    arguments::{FilterArgs, Source},
    failure::Failure,
    place::{Place, Store, standing_at},
    progress::Progress,
    time::{Clock, Moment, Settled},
};

/// How many positions are asked for at once: after each the disk is looked at, and whether somebody has had enough.
const SPAN: u64 = 20_000;

/// How many events of a stream, or of one of several shards, are read at once.
pub(crate) const PAGE: usize = 1_000;

/// How often a log is opened that a shop takes or leaves in that moment.
const MOST_TRIES: u32 = 20;

impl Source {
    /// Opens the log. Nothing is made, upgraded or locked.
    ///
    /// # Errors
    /// There is no log, or not one that this version reads.
    pub(crate) fn open(&self) -> Result<Log, Failure> {
        Log::open(self)
    }

    /// Shows recorded times.
    pub(crate) fn clock(&self) -> Clock {
        Clock::new(self.tz.clone())
    }
}

/// A log, as far as it went when it was opened.
pub(crate) struct Log {
    store: Store,
    place: Place,
    reader: RefCell<Box<dyn LogReader>>,
    /// None where the log is not in a file.
    standing: Cell<Option<Standing>>,
    shards: Shards,
    heads: Vec<Head>,
    zone: TimeZone,
    now: Timestamp,
    explain: bool,
    looked_at: Cell<u64>,
    given: Cell<u64>,
    bytes: Cell<u64>,
}

/// Of each shard, the last position that is meant; 0 for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut(Vec<u64>);

impl Cut {
    /// The last position of this shard.
    pub(crate) fn of(&self, shard: u16) -> u64 {
        self.0.get(usize::from(shard)).copied().unwrap_or_default()
    }

    /// The same, but for one shard.
    pub(crate) fn set(&mut self, shard: u16, position: u64) {
        if let Some(last) = self.0.get_mut(usize::from(shard)) {
            *last = position;
        }
    }
}

/// A moment in the history of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// The stream's own count.
    Version(u64),
    /// A place in the log.
    Cut(Cut),
}

/// Which events are wanted. What is empty or none asks for nothing in particular.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) kinds: Vec<String>,
    pub(crate) types: Vec<TypePattern>,
    pub(crate) stream: Option<StreamId>,
    pub(crate) correlation: Option<Uuid>,
    pub(crate) actor: Option<String>,
    pub(crate) shard: Option<u16>,
    /// Only what is behind these positions.
    pub(crate) after: Cut,
    /// Only what is not behind these.
    pub(crate) to: Cut,
    pub(crate) backwards: bool,
    /// So many events are read at once where what is found is printed as it comes: whoever looks at it slowly must not keep the log from
    /// being tidied up, or its write-ahead log grows for as long as they look.
    pub(crate) page: Option<usize>,
}

impl Wanted {
    fn selection(&self, shard: u16) -> Selection {
        Selection {
            after: self.after.of(shard),
            to: self.to.of(shard),
            kinds: self.kinds.clone(),
            types: self.types.clone(),
            stream: self.stream.clone(),
            correlation: self.correlation,
            actor: self.actor.clone(),
            backwards: self.backwards,
            ..Selection::of(shard)
        }
    }

    /// In words, for `--explain`.
    fn words(&self) -> String {
        let list = |name: &str, values: Vec<String>| (!values.is_empty()).then(|| format!("{name} {}", values.join(" or ")));
        let parts = [
            self.stream.as_ref().map(|stream| format!("stream {stream} by its index")),
            list("kind", self.kinds.clone()),
            list("type", self.types.iter().map(ToString::to_string).collect()),
            self.correlation.map(|id| format!("correlation {id}")),
            self.actor.as_ref().map(|actor| format!("actor {actor}")),
            self.backwards.then(|| "the last first".to_owned()),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            "everything".to_owned()
        } else {
            parts.join(", ")
        }
    }
}

impl Log {
    /// Opens it as it is: beside a shop that serves, or as files that nobody changes. A shop may start or stop just then.
    fn open(source: &Source) -> Result<Self, Failure> {
        let place = source.log_place()?;
        let mut tries = 0;
        loop {
            let before = standing_at(&place);
            let opened = Self::open_as_it_is(source, &place);
            let moved = || match (before, standing_at(&place)) {
                (Some(before), Some(after)) => after.is_stale(&before),
                _ => false,
            };
            tries += 1;
            if opened.is_ok() || tries >= MOST_TRIES || !moved() {
                return opened;
            }
        }
    }

    fn open_as_it_is(source: &Source, place: &Place) -> Result<Self, Failure> {
        let store = Store::open(place)?;
        let standing = store.standing()?;
        let reader = store.reader()?;
        let shards = reader.shard_count()?.unwrap_or(Shards::ONE);
        let mut heads = Vec::new();
        for shard in reader.shards()? {
            let Some(head) = reader.head(shard)? else { continue };
            check_end(reader.as_ref(), &head, place)?;
            heads.push(head);
        }
        if let Some(stray) = heads.iter().find(|head| head.shard >= shards.count()) {
            return Err(Failure::input(format_args!(
                "the log in {place} is damaged: it has {shards} shards, and a shard {}; `replay verify` tells more",
                stray.shard
            )));
        }
        Ok(Self {
            store,
            place: place.clone(),
            reader: RefCell::new(reader),
            standing: Cell::new(standing),
            shards,
            heads,
            zone: source.tz.clone(),
            now: Timestamp::now(),
            explain: source.explain,
            looked_at: Cell::new(0),
            given: Cell::new(0),
            bytes: Cell::new(0),
        })
    }

    /// The port itself.
    pub(crate) fn reader(&self) -> Ref<'_, Box<dyn LogReader>> {
        self.reader.borrow()
    }

    /// Where it is.
    pub(crate) fn location(&self) -> &Place {
        &self.place
    }

    /// How many shards it has.
    pub(crate) fn shards(&self) -> Shards {
        self.shards
    }

    /// Where each shard ended when the log was opened. A shard without a head has no events.
    pub(crate) fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// Everything up to where it ended then.
    pub(crate) fn end(&self) -> Cut {
        let mut cut = self.start();
        for head in &self.heads {
            cut.set(head.shard, head.position);
        }
        cut
    }

    /// Nothing.
    pub(crate) fn start(&self) -> Cut {
        Cut(vec![0; usize::from(self.shards.count())])
    }

    /// Every event there is.
    pub(crate) fn everything(&self) -> Wanted {
        Wanted {
            kinds: Vec::new(),
            types: Vec::new(),
            stream: None,
            correlation: None,
            actor: None,
            shard: None,
            after: self.start(),
            to: self.end(),
            backwards: false,
            page: None,
        }
    }

    /// The events that these arguments ask for, wherever they are.
    pub(crate) fn filtered(&self, filters: &FilterArgs) -> Result<Wanted, Failure> {
        if let Some(shard) = filters.shard {
            self.check_shard(shard)?;
        }
        Ok(Wanted {
            kinds: filters.kind.clone(),
            types: filters.types.clone(),
            stream: filters.stream.clone(),
            correlation: filters.correlation,
            actor: filters.actor.clone(),
            shard: filters.shard,
            page: Some(PAGE),
            ..self.everything()
        })
    }

    /// Looks at the disk: a reader that sees less than there is is opened anew.
    ///
    /// # Errors
    /// The file is another one now, or something of it was cut off.
    pub(crate) fn look(&self) -> Result<(), Failure> {
        let (Some(before), Some(now)) = (self.standing.get(), self.store.standing()?) else {
            return Ok(());
        };
        if now.is_another(&before) {
            return Err(self.changed("was replaced by another file"));
        }
        if now.is_shorter(&before) {
            return Err(self.changed("was cut off"));
        }
        if now.is_stale(&before)
            && let Ok(mut reader) = self.reader.try_borrow_mut()
        {
            *reader = self.store.reader()?;
        } else if now.is_stale(&before) {
            return Ok(());
        }
        self.standing.set(Some(now));
        Ok(())
    }

    fn changed(&self, how: &str) -> Failure {
        Failure::input(format_args!(
            "{} {how} while it was read; what was printed so far is of the file before, so start again",
            self.file()
        ))
    }

    fn file(&self) -> String {
        match &self.store {
            Store::Files(store) => store.path().display().to_string(),
            Store::Database(_) => self.place.to_string(),
        }
    }

    /// Why it could not be read: the file may have changed under the reader.
    pub(crate) fn explained(&self, error: StoreError) -> Failure {
        self.look().err().unwrap_or_else(|| error.into())
    }

    fn check_shard(&self, shard: u16) -> Result<(), Failure> {
        if shard < self.shards.count() {
            return Ok(());
        }
        Err(Failure::input(if self.shards == Shards::ONE {
            format!("there is no shard {shard}: the log has one, 0")
        } else {
            format!(
                "there is no shard {shard}: the log has {}, 0 to {}",
                self.shards,
                self.shards.count() - 1
            )
        }))
    }

    fn head(&self, shard: u16) -> u64 {
        self.heads.iter().find(|head| head.shard == shard).map_or(0, |head| head.position)
    }

    /// What a moment means in this log; `v:N` where a stream is named.
    fn settle(&self, moment: &Moment, base: Option<i64>, stream: Option<&StreamId>) -> Result<Settled, Failure> {
        match (moment.settle(&self.zone, self.now, base)?, stream) {
            (Settled::Position { shard, position }, _) => {
                let place = self.place(moment.text(), shard, position)?;
                Ok(Settled::Position {
                    shard: Some(place.shard),
                    position: place.position,
                })
            }
            (Settled::Version(version), Some(stream)) => {
                let events = self
                    .reader()
                    .stream(stream, version - 1, 1)
                    .map_err(|error| self.explained(error))?;
                let event = events.first().ok_or_else(|| {
                    Failure::input(format_args!(
                        "{stream} has no version {version}; `replay cat --stream {stream} --reverse --limit 1` shows its last"
                    ))
                })?;
                Ok(Settled::Position {
                    shard: Some(event.shard),
                    position: event.position,
                })
            }
            (settled, _) => Ok(settled),
        }
    }

    /// A position that there is.
    fn place(&self, text: &str, shard: Option<u16>, position: u64) -> Result<LogPosition, Failure> {
        let shard = match shard {
            Some(shard) => shard,
            None if self.shards == Shards::ONE => 0,
            None => {
                return Err(Failure::input(format_args!(
                    "{text} names no shard, and the log has {}; write S/N, as 0/{position}",
                    self.shards
                )));
            }
        };
        self.check_shard(shard)?;
        let head = self.head(shard);
        if position > head {
            return Err(Failure::input(format_args!(
                "{text} is behind the end of the log: {} ends at {}",
                if self.shards == Shards::ONE {
                    "it".to_owned()
                } else {
                    format!("shard {shard}")
                },
                LogPosition { shard, position: head }.text(self.shards)
            )));
        }
        Ok(LogPosition { shard, position })
    }

    /// What had happened at this moment: what was recorded at that time or before, or up to that event and what was recorded by then.
    ///
    /// # Errors
    /// There is no such moment in this log.
    pub(crate) fn cut(&self, moment: &Moment) -> Result<Cut, Failure> {
        match self.settle(moment, None, None)? {
            Settled::Version(_) => Err(no_stream(moment)),
            settled => self.until(settled),
        }
    }

    /// The same for one stream, of which versions may be named.
    ///
    /// # Errors
    /// There is no such moment in this log.
    pub(crate) fn at(&self, moment: &Moment) -> Result<At, Failure> {
        match self.settle(moment, None, None)? {
            Settled::Version(version) => Ok(At::Version(version)),
            settled => self.until(settled).map(At::Cut),
        }
    }

    fn until(&self, settled: Settled) -> Result<Cut, Failure> {
        match settled {
            Settled::Start | Settled::Version(_) => Ok(self.start()),
            Settled::End => Ok(self.end()),
            Settled::Time(time) => self.by_time(|recorded| recorded <= time),
            Settled::Position { shard, position } => {
                let shard = shard.unwrap_or_default();
                let time = self.recorded_at(shard, position)?;
                let mut cut = self.by_time(|recorded| recorded <= time)?;
                cut.set(shard, position);
                Ok(cut)
            }
        }
    }

    /// What was before this moment.
    fn before(&self, settled: Settled) -> Result<Cut, Failure> {
        match settled {
            Settled::Time(time) => self.by_time(|recorded| recorded < time),
            Settled::Position { shard, position } => {
                let shard = shard.unwrap_or_default();
                let time = self.recorded_at(shard, position)?;
                let mut cut = self.by_time(|recorded| recorded < time)?;
                cut.set(shard, position - 1);
                Ok(cut)
            }
            Settled::Start | Settled::Version(_) => Ok(self.start()),
            Settled::End => Ok(self.end()),
        }
    }

    /// From a moment on, and up to another: before the time that is named, and with the event that is named.
    ///
    /// # Errors
    /// There is no such moment in this log, or the range ends before it begins.
    pub(crate) fn range(&self, from: Option<&Moment>, to: Option<&Moment>, stream: Option<&StreamId>) -> Result<(Cut, Cut), Failure> {
        let known = |moment: Option<&Moment>, base| match moment {
            Some(moment) => match self.settle(moment, base, stream)? {
                Settled::Version(_) => Err(no_stream(moment)),
                settled => Ok(Some(settled)),
            },
            None => Ok(None),
        };
        let first = known(from, None)?.unwrap_or(Settled::Start);
        let begins = match first {
            Settled::Time(time) => Some(time),
            Settled::Position { shard, position } => Some(self.recorded_at(shard.unwrap_or_default(), position)?),
            _ => None,
        };
        let last = known(to, begins)?.unwrap_or(Settled::End);
        let after = self.before(first)?;
        let until = match last {
            Settled::Time(time) => self.by_time(|recorded| recorded < time)?,
            last => self.until(last)?,
        };
        let contrary = match (first, last) {
            (Settled::Time(first), Settled::Time(last)) => first > last,
            (
                Settled::Position {
                    shard: one,
                    position: first,
                },
                Settled::Position {
                    shard: other,
                    position: last,
                },
            ) if one == other => first > last,
            (_, Settled::Start | Settled::End) | (Settled::Start, _) => false,
            // Of different sorts: where in some shard the end lies before the beginning.
            _ => self.shards.all().any(|shard| after.of(shard) > until.of(shard)),
        };
        if contrary {
            let text = |moment: Option<&Moment>| moment.map(|moment| moment.text().to_owned()).unwrap_or_default();
            return Err(Failure::input(format_args!(
                "the range ends before it begins: --from {} is after --to {}",
                text(from),
                text(to)
            )));
        }
        Ok((after, until))
    }

    /// What comes in the order of the output up to and with this position: N, or S/N.
    ///
    /// # Errors
    /// There is no such position in this log.
    pub(crate) fn behind(&self, text: &str, shard: Option<u16>) -> Result<Cut, Failure> {
        let known: LogPosition = text.parse().map_err(Failure::input)?;
        let named = text.contains('/').then_some(known.shard).or(shard);
        let LogPosition { shard, position } = self.place(text, named, known.position)?;
        if position == 0 {
            return Ok(self.start());
        }
        let time = self.recorded_at(shard, position)?;
        let mut cut = self.by_time(|recorded| recorded < time)?;
        for lower in 0..shard {
            cut.set(lower, self.last_of(lower, |recorded| recorded <= time)?);
        }
        cut.set(shard, position);
        Ok(cut)
    }

    fn by_time(&self, is_in: impl Fn(i64) -> bool) -> Result<Cut, Failure> {
        let mut cut = self.start();
        for shard in self.shards.all() {
            cut.set(shard, self.last_of(shard, &is_in)?);
        }
        Ok(cut)
    }

    /// Recorded times never decrease within a shard, so the place is found by halving.
    fn last_of(&self, shard: u16, is_in: impl Fn(i64) -> bool) -> Result<u64, Failure> {
        let (mut last_in, mut first_out) = (0, self.head(shard) + 1);
        while first_out - last_in > 1 {
            let middle = last_in + (first_out - last_in) / 2;
            if is_in(self.recorded_at(shard, middle)?) {
                last_in = middle;
            } else {
                first_out = middle;
            }
        }
        Ok(last_in)
    }

    /// When the event at this position was recorded.
    fn recorded_at(&self, shard: u16, position: u64) -> Result<i64, Failure> {
        Ok(self.event(LogPosition { shard, position })?.recorded_at)
    }

    /// The event at this position.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub(crate) fn event(&self, place: LogPosition) -> Result<Event, Failure> {
        let events = self.reader().events(place.shard, place.position.saturating_sub(1), 1);
        let events = events.map_err(|error| self.explained(error))?;
        events
            .into_iter()
            .next()
            .filter(|event| event.position == place.position)
            .ok_or_else(|| {
                Failure::input(format_args!(
                    "the log is damaged: there is no event at {}; `replay verify` tells more",
                    place.text(self.shards)
                ))
            })
    }

    /// Shows each event that is wanted: the events of one shard in their order, those of several in the order in which they were recorded
    /// (and those of one time by shard), until the visitor breaks off.
    ///
    /// # Errors
    /// The log cannot be read, the visitor failed, or Ctrl-C was pressed.
    pub(crate) fn each(
        &self,
        wanted: &Wanted,
        what: &str,
        progress: &Progress,
        visit: &mut dyn FnMut(EventRef<'_>) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        let shards: Vec<u16> = match wanted.shard {
            Some(shard) => vec![shard],
            None => self
                .shards
                .all()
                .filter(|shard| wanted.to.of(*shard) > wanted.after.of(*shard))
                .collect(),
        };
        let read = match shards.as_slice() {
            [] => Ok(()),
            [shard] if wanted.page.is_none() || (self.store.answers_by_page() && wanted.page == Some(PAGE)) => {
                self.each_of(wanted.selection(*shard), what, progress, visit)
            }
            _ => self.each_merged(wanted, &shards, what, progress, visit),
        };
        if self.explain {
            let ranges = shards
                .iter()
                .map(|shard| format!("{shard}: {} to {}", wanted.after.of(*shard) + 1, wanted.to.of(*shard)));
            progress.say(format_args!(
                "asked the store for {}; positions by shard: {}",
                wanted.words(),
                ranges.collect::<Vec<_>>().join(", ")
            ));
            progress.say(format_args!(
                "it looked at {} rows and gave {}, with {} bytes of JSON",
                self.looked_at.get(),
                self.given.get(),
                self.bytes.get()
            ));
        }
        read
    }

    /// Says how something was read, if that was asked for.
    pub(crate) fn explain(&self, how: impl std::fmt::Display, progress: &Progress) {
        if self.explain {
            progress.say(how);
        }
    }

    /// Straight from the store.
    fn each_of(
        &self,
        selection: Selection,
        what: &str,
        progress: &Progress,
        visit: &mut dyn FnMut(EventRef<'_>) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        let mut rest = Rest::new(selection, PAGE);
        let of = rest.left();
        let mut end = None;
        while end.is_none() && rest.next_span() {
            if progress.at(what, of - rest.left(), of).is_break() {
                return Err(Failure::interrupted());
            }
            self.look()?;
            let read = self.reader().select_each(&rest.span, &mut |event| {
                self.count(&event);
                rest.given += 1;
                rest.last = event.position;
                match visit(event) {
                    Ok(ControlFlow::Continue(())) => ControlFlow::Continue(()),
                    ended => {
                        end = Some(ended.map(|_| ()));
                        ControlFlow::Break(())
                    }
                }
            });
            let broken_off = end.is_some().then_some(rest.last);
            self.looked_at.set(self.looked_at.get() + rest.looked_at(broken_off));
            read.map_err(|error| self.explained(error))?;
        }
        end.unwrap_or(Ok(()))
    }

    fn count(&self, event: &EventRef<'_>) {
        self.given.set(self.given.get() + 1);
        let bytes = event.payload.len() + event.metadata.len();
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    /// A page of each shard at a time, and from them the next event.
    fn each_merged(
        &self,
        wanted: &Wanted,
        shards: &[u16],
        what: &str,
        progress: &Progress,
        visit: &mut dyn FnMut(EventRef<'_>) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        let mut queues: Vec<_> = shards
            .iter()
            .map(|shard| Queue::new(wanted.selection(*shard), wanted.page.unwrap_or(PAGE)))
            .collect();
        let of: u64 = queues.iter().map(|queue| queue.rest.left()).sum();
        loop {
            for queue in &mut queues {
                if queue.page.is_empty() && !queue.rest.ended {
                    self.look()?;
                    self.fill(queue, progress)?;
                    let left: u64 = queue.rest.left();
                    if progress.at(what, of.saturating_sub(left), of).is_break() {
                        return Err(Failure::interrupted());
                    }
                }
            }
            let key = |queue: &&mut Queue| queue.page.rows.front().map(|event| (event.recorded_at, event.shard));
            let filled = queues.iter_mut().filter(|queue| !queue.page.is_empty());
            let next = if wanted.backwards {
                filled.min_by_key(|queue| Reverse(key(queue)))
            } else {
                filled.min_by_key(key)
            };
            let Some(Queue { page, .. }) = next else { return Ok(()) };
            let Some(event) = page.rows.pop_front() else { return Ok(()) };
            if visit(page.event(&event))?.is_break() {
                return Ok(());
            }
        }
    }

    fn fill(&self, queue: &mut Queue, progress: &Progress) -> Result<(), Failure> {
        while queue.page.is_empty() && queue.rest.next_page() {
            if progress.go_on().is_break() {
                return Err(Failure::interrupted());
            }
            let Queue { rest, page } = queue;
            page.texts.clear();
            let read = self.reader().select_each(&rest.span, &mut |event| {
                self.count(&event);
                rest.given += 1;
                rest.last = event.position;
                page.push(&event);
                ControlFlow::Continue(())
            });
            let full = page.rows.len() >= rest.page;
            self.looked_at.set(self.looked_at.get() + rest.looked_at(full.then_some(rest.last)));
            read.map_err(|error| self.explained(error))?;
        }
        Ok(())
    }
}

/// The events of one shard that were read and not shown yet.
struct Queue {
    rest: Rest,
    page: Page,
}

/// Events with all their texts in one piece of memory: none is copied by itself, and nothing is made of an id but what stands there.
#[derive(Default)]
struct Page {
    texts: String,
    rows: VecDeque<Row>,
}

/// An event of a page.
struct Row {
    shard: u16,
    position: u64,
    sequence: u64,
    recorded_at: i64,
    begin: usize,
    /// Where each text ends.
    ends: [usize; 7],
}

impl Page {
    fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn push(&mut self, event: &EventRef<'_>) {
        let begin = self.texts.len();
        let texts = [
            event.kind,
            event.id,
            event.event_id,
            event.event_type,
            event.event_version,
            event.payload,
            event.metadata,
        ];
        let ends = texts.map(|text| {
            self.texts.push_str(text);
            self.texts.len()
        });
        self.rows.push_back(Row {
            shard: event.shard,
            position: event.position,
            sequence: event.sequence,
            recorded_at: event.recorded_at,
            begin,
            ends,
        });
    }

    fn event(&self, row: &Row) -> EventRef<'_> {
        let mut begin = row.begin;
        let [kind, id, event_id, event_type, event_version, payload, metadata] = row.ends.map(|end| {
            let text = self.texts.get(begin..end).unwrap_or_default();
            begin = end;
            text
        });
        EventRef {
            shard: row.shard,
            position: row.position,
            kind,
            id,
            sequence: row.sequence,
            event_id,
            event_type,
            event_version,
            recorded_at: row.recorded_at,
            payload,
            metadata,
        }
    }
}

impl Queue {
    fn new(selection: Selection, page: usize) -> Self {
        Self {
            rest: Rest::new(selection, page),
            page: Page::default(),
        }
    }
}

/// What is left of a selection, and the part of it that is asked for next.
struct Rest {
    whole: Selection,
    span: Selection,
    /// So many events at most, where a page is asked for.
    page: usize,
    /// Of the span.
    given: usize,
    last: u64,
    begun: bool,
    ended: bool,
}

impl Rest {
    fn new(selection: Selection, page: usize) -> Self {
        Self {
            page,
            span: selection.clone(),
            ended: selection.after >= selection.to,
            whole: selection,
            given: 0,
            last: 0,
            begun: false,
        }
    }

    /// How many positions.
    fn left(&self) -> u64 {
        self.whole.to.saturating_sub(self.whole.after)
    }

    /// Some positions, or some events of a stream: a stream's are found by their index, and lie anywhere.
    fn next_span(&mut self) -> bool {
        let limit = if self.whole.stream.is_some() { PAGE } else { usize::MAX };
        self.next_part(limit)
    }

    /// The same, and at most a page of events.
    fn next_page(&mut self) -> bool {
        self.next_part(self.page)
    }

    fn next_part(&mut self, limit: usize) -> bool {
        if self.begun {
            // Whatever was asked for has come, up to the limit.
            let full = self.given >= self.span.limit;
            match (self.whole.backwards, full) {
                (false, true) => self.whole.after = self.last,
                (false, false) => self.whole.after = self.span.to,
                (true, true) => self.whole.to = self.last.saturating_sub(1),
                (true, false) => self.whole.to = self.span.after,
            }
        }
        self.begun = true;
        self.ended = self.whole.after >= self.whole.to;
        if self.ended {
            return false;
        }
        self.given = 0;
        self.span.limit = limit;
        (self.span.after, self.span.to) = (self.whole.after, self.whole.to);
        if self.whole.stream.is_none() {
            if self.whole.backwards {
                self.span.after = self.whole.after.max(self.whole.to.saturating_sub(SPAN));
            } else {
                self.span.to = self.whole.to.min(self.whole.after.saturating_add(SPAN));
            }
        }
        true
    }

    /// How many rows the store has looked at for the span, which may have been broken off at a position.
    fn looked_at(&self, broken_off: Option<u64>) -> u64 {
        match (&self.whole.stream, broken_off, self.whole.backwards) {
            (Some(_), ..) => self.given as u64,
            (None, None, _) => self.span.to - self.span.after,
            (None, Some(at), false) => at - self.span.after,
            (None, Some(at), true) => self.span.to - at + 1,
        }
    }
}

/// That the log ends where its head says, so that a log that was cut off is not taken for a short one.
fn check_end(reader: &dyn LogReader, head: &Head, place: &Place) -> Result<(), Failure> {
    let end = reader.events(head.shard, head.position.saturating_sub(1), 1)?;
    if end.first().map_or(0, |event| event.position) == head.position {
        return Ok(());
    }
    // The first events may have come since the head was read.
    if reader.head(head.shard)?.is_some_and(|now| now.position > head.position) {
        return Ok(());
    }
    Err(Failure::input(format_args!(
        "the log in {place} is damaged: the events of shard {} do not end at {}, where its head is; `replay verify` tells more",
        head.shard, head.position
    )))
}

fn no_stream(moment: &Moment) -> Failure {
    Failure::input(format_args!(
        "{} is a version, and versions are counted by stream: name a stream, or a position as pos:N",
        moment.text()
    ))
}
