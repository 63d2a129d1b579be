//! `jangbu adopt`: a log of ours from the events that another program wrote through postgres-es. The old database is only read.
//!
//! It is read twice within one transaction: first to find out whether everything in it can be taken, then to take it. So a table that holds
//! something that cannot be taken costs time, and no half of a log. The rows come in an order that their table decides, so one who is
//! interrupted compares what he has written and goes on behind it.

mod judge;
mod old;

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Args;
use event_store::{
    Batch, CommitError, Event, EventStore, GIVEN_UP, Head, KEPT, LogReader, LogWriter, Shards, StoreError, StreamId, batch_hash,
    verify_chain,
};
use event_store_postgres::PostgresStore;
use event_store_sqlite::SqliteStore;
use key_vault::Opening;
use postgres_session::Address;
use uuid::{Uuid, uuid};

use crate::{
    failure::Failure,
    new_log::{self, Progress, refuse_other_files, refuse_other_tables},
    places,
    settings::{KeysPlace, Place, Settings},
};
use judge::{Judged, Renaming};
use old::{Old, Order, Row};

/// Names that are derived here: of streams whose ids are no UUIDs, and of all events.
const NAMESPACE: Uuid = uuid!("6a9c8f0e-3d5b-5c1a-9e42-7b1d0c64a5f3");

/// Whoever adopts, whatever process it is: the next one goes on with what the one before left.
pub(crate) const ADOPTER: Uuid = uuid!("ad097000-0000-5000-8000-000000000000");

/// Where the original id of a stream stays when it is no UUID: a member of the metadata of each of its events.
const ORIGINAL_ID: &str = "originalId";

/// How many rows are read and written at once, and about how many bytes.
const MOST_ROWS: i64 = 1_000;
const MOST_BYTES: i64 = 16 * 1024 * 1024;

/// What is adopted, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct AdoptArgs {
    /// The old database: `postgres://USER:PASSWORD@HOST/DATABASE`. A role that may read the table is enough.
    #[arg(long, value_name = "URL", required_unless_present = "from_file", conflicts_with = "from_file")]
    from: Option<String>,
    /// A file with the address of the old database in it: everybody on this machine sees a command line.
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// The table of its events; `SCHEMA.TABLE` where it is not in the role's search path.
    #[arg(long, value_name = "TABLE", default_value = "events")]
    table: String,
    #[arg(
        long,
        value_name = "OLD=NEW",
        help = "Gives an aggregate type another name, as order=old_order. May be given several times. Types of the shop's own names need it"
    )]
    rename: Vec<Renaming>,
    /// The member of the metadata that says when an event happened, in RFC 3339. Every row has to have one; they decide the order and the time
    /// of what is adopted [default: in the order of type, id and sequence, at the time of the adoption].
    #[arg(long, value_name = "MEMBER")]
    time_member: Option<String>,
    /// The data directory [default: ./data].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

/// Adopts. A signal ends it early.
pub(crate) fn run(settings: &Settings, arguments: AdoptArgs) -> Result<(), Failure> {
    settings.check_supported()?;
    let settings = settings.clone();
    new_log::run("the adoption", move |stop| adopt(&settings, &arguments, stop))
}

fn adopt(settings: &Settings, arguments: &AdoptArgs, stop: &AtomicBool) -> Result<String, Failure> {
    let from = address_of(arguments)?;
    // What cannot be written need not be read first.
    let mut target = Target::open(settings, &from)?;
    let old = Old::open(from.named("jangbu adopt"), &arguments.table)?;
    let page = (MOST_BYTES / old.largest.max(1)).clamp(1, MOST_ROWS);
    let mut progress = Progress::of("rows", old.rows);
    let now = jiff::Timestamp::now().as_microsecond();

    let judged = judge::every_row(&old, arguments, page, now, &mut |read| proceed(stop, &mut progress, "read", read))?;
    let order = arguments.time_member.as_deref().map_or(Order::ByStream, Order::ByTime);
    old.pages(order, page, &mut |rows| {
        for row in rows {
            target.next(&judged, row, now)?;
        }
        target.write()?;
        proceed(stop, &mut progress, "adopted", target.adopted)
    })
    .map_err(|failure| target.with_what_is_there(failure))?;
    target.complete(old.rows)?;
    progress.clear();
    Ok(format!("{judged}{}", target.summary(settings)))
}

fn address_of(arguments: &AdoptArgs) -> Result<Address, Failure> {
    let text = new_log::named(arguments.from.as_ref(), arguments.from_file.as_deref())?;
    let text = text.ok_or_else(|| Failure::wrong("name the old database with --from or --from-file"))?;
    text.parse()
        .map_err(|error| Failure::wrong(format_args!("the old database: {error}")))
}

/// Shows how far it is, and ends it when a signal came.
fn proceed(stop: &AtomicBool, progress: &mut Progress, what: &str, rows: u64) -> Result<(), Failure> {
    progress.at(what, rows);
    if stop.load(Ordering::Relaxed) {
        return Err(Failure::interrupted("interrupted"));
    }
    Ok(())
}

/// The stream that an old one becomes, and whether its id is a new one. A UUID as it is usually written stays.
fn stream_of(kind: &str, stored_kind: &str, id: &str) -> (StreamId, bool) {
    let usual = Uuid::try_parse(id)
        .ok()
        .filter(|uuid| uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == id);
    let stream = StreamId {
        kind: stored_kind.to_owned().into(),
        id: usual.unwrap_or_else(|| Uuid::new_v5(&NAMESPACE, format!("{kind}/{id}").as_bytes())),
    };
    (stream, usual.is_none())
}

/// The same event has the same id, whoever adopts it, and no engine makes one of this form.
fn event_id(stream: &StreamId, sequence: u64) -> Uuid {
    let mut name = Vec::with_capacity(stream.kind.len() + 25);
    name.extend_from_slice(stream.id.as_bytes());
    name.extend_from_slice(&sequence.to_be_bytes());
    name.extend_from_slice(stream.kind.as_bytes());
    Uuid::new_v5(&NAMESPACE, &name)
}

/// The log that is to be.
struct Target {
    store: Arc<dyn EventStore>,
    reader: Box<dyn LogReader>,
    writer: Option<Box<dyn LogWriter>>,
    keys: KeysPlace,
    shards: Vec<Shard>,
    count: Shards,
    /// How many events it held when it was opened.
    found: u64,
    /// How many rows it holds by now, those that were found compared.
    adopted: u64,
}

/// One of its shards.
struct Shard {
    head: Head,
    /// Where it ended when it was opened.
    found: u64,
    /// The events that it held then, behind what is compared.
    known: VecDeque<Event>,
    /// How far it is compared.
    compared: u64,
    /// What is written next.
    waiting: Vec<Event>,
}

impl Target {
    fn open(settings: &Settings, from: &Address) -> Result<Self, Failure> {
        let store: Arc<dyn EventStore> = match &settings.store {
            Place::Sqlite => {
                refuse_other_files(&settings.data)?;
                Arc::new(SqliteStore::open(&settings.data)?)
            }
            Place::Postgres(address) => {
                refuse_other_tables(address, address.is_same_database(from))?;
                Arc::new(PostgresStore::open(address)?)
            }
            Place::Esdb(_) => {
                return Err(Failure::wrong(
                    "an old database is adopted into SQLite or PostgreSQL: JANGBU_STORE names another store",
                ));
            }
        };
        let reader = store.reader()?;
        let known = reader.shard_count()?;
        let count = settings.shards.or(known).unwrap_or(Shards::ONE);
        if let Some(known) = known.filter(|known| *known != count) {
            return Err(Failure::wrong(format_args!(
                "the log has {known} shards and JANGBU_SHARDS says {count}; leave it away, or name another place"
            )));
        }
        let mut shards = Vec::new();
        for shard in count.all() {
            let head = reader.head(shard)?;
            shards.push(Shard {
                found: head.as_ref().map_or(0, |head| head.position),
                head: head.unwrap_or_else(|| none(shard)),
                known: VecDeque::new(),
                compared: 0,
                waiting: Vec::new(),
            });
        }
        Ok(Self {
            store,
            reader,
            writer: None,
            keys: settings.keys.clone(),
            found: shards.iter().map(|shard| shard.found).sum(),
            shards,
            count,
            adopted: 0,
        })
    }

    /// Takes the next row: compares it with what is there, or has it written with the page that it is in.
    fn next(&mut self, judged: &Judged, row: &Row, now: i64) -> Result<(), Failure> {
        let (stream, renamed) = stream_of(&row.kind, judged.stored(&row.kind), &row.id);
        let compares = self.adopted < self.found;
        let shard = &mut self.shards[usize::from(self.count.of(stream.id))];
        let sequence = u64::try_from(row.sequence).map_err(Failure::failed)?;
        let before = if compares {
            shard.compared
        } else {
            shard.head.position + shard.waiting.len() as u64
        };
        let event = Event {
            shard: shard.head.shard,
            position: before + 1,
            event_id: event_id(&stream, sequence),
            stream,
            sequence,
            event_type: row.event_type.clone().into(),
            event_version: row.event_version.clone().into(),
            // Time never goes back in a log: rows that come in the order of time bring that with them.
            recorded_at: row.at.unwrap_or_else(|| now.max(shard.head.recorded_at)),
            payload: row.payload.as_str().into(),
            metadata: metadata(row, renamed)?.into(),
        };
        self.adopted += 1;
        if compares {
            return shard.compare(self.reader.as_ref(), event, row.at.is_some());
        }
        shard.waiting.push(event);
        Ok(())
    }

    /// Writes what waits, in one transaction.
    fn write(&mut self) -> Result<(), Failure> {
        if self.shards.iter().all(|shard| shard.waiting.is_empty()) {
            return Ok(());
        }
        if self.writer.is_none() {
            self.take()?;
        }
        let batches: Vec<_> = self.shards.iter_mut().filter_map(Shard::batch).collect();
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.commit(&batches.iter().collect::<Vec<_>>()).map_err(not_written)?;
        for batch in &batches {
            self.shards[usize::from(batch.shard)].advance(batch);
        }
        Ok(())
    }

    /// Becomes the only one who writes, until the log is complete. Its keys are there before its first event, as a shop's are.
    fn take(&mut self) -> Result<(), Failure> {
        places::open_keys(&self.keys, Opening::Make)?;
        let mut writer = self.store.writer()?;
        let founded = writer.found(self.count)?;
        if founded != self.count {
            return Err(Failure::wrong(format_args!(
                "the log has {founded} shards by now, not {}",
                self.count
            )));
        }
        for shard in &mut self.shards {
            let number = shard.head.shard;
            shard.head = writer
                .take(number, ADOPTER, jiff::Timestamp::now().as_microsecond())
                .map_err(in_use)?;
            if shard.head.position != shard.found || shard.compared != shard.found {
                return Err(Failure::wrong(
                    "the log has got events while it was looked at; name an empty database or directory",
                ));
            }
            writer.heartbeat(number, shard.head.epoch, KEPT).map_err(not_written)?;
        }
        self.writer = Some(writer);
        Ok(())
    }

    /// Looks at what was written, counts it, and gives the log to whoever serves it.
    fn complete(&mut self, rows: u64) -> Result<(), Failure> {
        if self.found > rows {
            return Err(not_ours(format_args!(
                "the log holds {} events and the old table {rows}",
                self.found
            )));
        }
        let mut events = 0;
        for shard in self.count.all() {
            events += verify_chain(self.reader.as_ref(), shard)?;
        }
        if events != rows || self.adopted != rows {
            return Err(Failure::failed(format_args!(
                "{rows} rows were to be adopted, and the log has {events} events; delete it and begin again"
            )));
        }
        self.give_away()
    }

    /// From now on whoever wants to serves it.
    fn give_away(&mut self) -> Result<(), Failure> {
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.store.writer()?,
        };
        for shard in self.count.all() {
            // All of it may have been there: then the one before may have ended just before it gave the log away, or it is served by now.
            match writer.take(shard, ADOPTER, jiff::Timestamp::now().as_microsecond()) {
                Ok(head) => writer.heartbeat(shard, head.epoch, GIVEN_UP).map_err(not_written)?,
                Err(StoreError::Held { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What a failure leaves behind, and what can be done.
    fn with_what_is_there(&self, failure: Failure) -> Failure {
        if self.writer.is_none() {
            return failure;
        }
        let there: u64 = self.shards.iter().map(|shard| shard.head.position).sum();
        failure.with(format_args!(
            "; {there} events are adopted: run it again, and it goes on behind them"
        ))
    }

    fn summary(&self, settings: &Settings) -> String {
        let place = match &settings.store {
            Place::Postgres(address) => address.to_string(),
            Place::Sqlite | Place::Esdb(_) => settings.data.display().to_string(),
        };
        let before = if self.found > 0 {
            format!(", {} of them by the runs before", self.found)
        } else {
            String::new()
        };
        format!(
            "{} events are in the log in {place}{before}; every hash of it was computed again\n",
            self.adopted
        )
    }
}

impl Shard {
    /// What an earlier run wrote has to be what this one would write.
    fn compare(&mut self, reader: &dyn LogReader, mut event: Event, timed: bool) -> Result<(), Failure> {
        if self.known.is_empty() {
            let page = usize::try_from(MOST_ROWS).unwrap_or(1);
            self.known = reader.events(self.head.shard, self.compared, page)?.into();
        }
        let known = self.known.pop_front();
        if let (Some(known), false) = (&known, timed) {
            event.recorded_at = known.recorded_at;
        }
        if known.as_ref() != Some(&event) {
            return Err(not_ours(format_args!(
                "event {}/{} of the log is not event {} of {}",
                event.shard, event.position, event.sequence, event.stream
            )));
        }
        self.compared += 1;
        Ok(())
    }

    fn batch(&mut self) -> Option<Batch> {
        let events = std::mem::take(&mut self.waiting);
        if events.is_empty() {
            return None;
        }
        Some(Batch {
            shard: self.head.shard,
            epoch: self.head.epoch,
            first_position: self.head.position + 1,
            orders_numbered: self.head.orders_numbered,
            previous_hash: self.head.hash,
            hash: batch_hash(&self.head.hash, &events),
            events,
            ..Batch::default()
        })
    }

    fn advance(&mut self, batch: &Batch) {
        self.head.position = batch.last_position();
        self.head.hash = batch.hash;
        self.head.recorded_at = batch.events.last().map_or(self.head.recorded_at, |event| event.recorded_at);
    }
}

/// A shard that nobody has written to.
fn none(shard: u16) -> Head {
    Head {
        shard,
        position: 0,
        epoch: 0,
        hash: event_store::GENESIS,
        recorded_at: 0,
        orders_numbered: 0,
        log_id: Uuid::nil(),
    }
}

/// As the row has it, and with the original id where the stream has got another one.
fn metadata(row: &Row, renamed: bool) -> Result<String, Failure> {
    if !renamed {
        return Ok(row.metadata.clone());
    }
    let mut members = judge::members(&row.metadata).map_err(Failure::failed)?;
    members.insert(ORIGINAL_ID.to_owned(), row.id.clone());
    serde_json::to_string(&members).map_err(Failure::failed)
}

fn not_ours(what: impl std::fmt::Display) -> Failure {
    Failure::wrong(format_args!(
        "the log is not empty, and holds something else than what this would adopt: {what}; name an empty database or directory"
    ))
}

fn not_written(error: CommitError) -> Failure {
    match error {
        CommitError::Fenced(_) => Failure::failed("another process has taken the log over: it adopts too, or serves it"),
        other => Failure::failed(other),
    }
}

fn in_use(error: StoreError) -> Failure {
    match error {
        StoreError::Held { holder, .. } => Failure::wrong(format_args!(
            "the log is held by another process ({holder}); adopt into one that nobody serves"
        )),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_uuid_stays_and_everything_else_gets_one_that_says_so() {
        let usual = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
        let (stream, renamed) = stream_of("parcel", "parcel", usual);
        assert_eq!((stream.id.to_string().as_str(), renamed), (usual, false));
        let mut seen = std::collections::HashSet::new();
        for id in [
            "parcel-7",
            "",
            "PARCEL-7",
            &usual.to_uppercase(),
            "{0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0}",
            "소포 7",
        ] {
            let (stream, renamed) = stream_of("parcel", "old_parcel", id);
            assert!(renamed && stream.id.get_version_num() == 5, "{id}");
            assert_eq!(stream.kind, "old_parcel");
            assert!(seen.insert(stream.id), "{id}");
        }
        // docs/postgres-es.md tells how others compute it.
        assert_eq!(
            stream_of("parcel", "parcel", "parcel-7").0.id,
            Uuid::new_v5(&NAMESPACE, b"parcel/parcel-7")
        );
    }

    #[test]
    fn no_two_events_have_one_id() {
        let mut seen = std::collections::HashSet::new();
        for kind in ["a", "ab"] {
            for id in 0..3 {
                for sequence in 1..4 {
                    let stream = StreamId {
                        kind: kind.into(),
                        id: Uuid::from_u128(id),
                    };
                    let id = event_id(&stream, sequence);
                    assert!(seen.insert(id) && id.get_version_num() == 5);
                }
            }
        }
    }
}
