//! Views equal the fold: they are filled anew beside, up to the same checkpoint, and compared row by row.

use std::{collections::HashMap, ops::ControlFlow, path::Path, sync::Arc, time::Duration};

use event_store::{
    Event, EventStore, Hash, Head, IdempotencyRecord, LogReader, LogWriter, Parked, RecordKey, Shards, StoreError, StreamId, StreamRead,
    StreamSlice, Unfinished, Unparked,
};
use projections::{Checkpoint, Difference, Runner, RunnerSettings, RunnerState, ViewTable, ViewsLook, compare_rows};
use projections_sqlite::{FILE, SqliteViews, ViewsFile};
use uuid::Uuid;

use crate::{Invariant, Place, Report};

/// How often is looked how far the new views are.
const LOOK: Duration = Duration::from_millis(20);

/// After so long without an event more, the new views are given up.
const PATIENCE: Duration = Duration::from_mins(1);

/// What was compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewsChecked {
    /// All rows.
    Compared {
        /// How far the views count each shard's log.
        checkpoints: Vec<(u16, u64)>,
        /// How many rows there are.
        rows: u64,
    },
    /// There are no views, or none that this version can fill; why, in one line.
    NotChecked(String),
    /// It was told to stop.
    Interrupted,
}

/// Compares the views of a data directory with the fold of the log up to their checkpoint, also while both are written.
///
/// # Errors
/// The log cannot be read just now.
pub fn verify_views(
    data_dir: &Path,
    store: &Arc<dyn EventStore>,
    report: &mut Report,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<ViewsChecked, StoreError> {
    let path = data_dir.join(FILE);
    if !path.exists() {
        return Ok(ViewsChecked::NotChecked(format!("{} does not exist", path.display())));
    }
    match ViewsFile::open(&path) {
        Ok(views) => verify_stored_views(&views, store, report, progress),
        Err(error) => Ok(ViewsChecked::NotChecked(error.to_string())),
    }
}

/// The same for views wherever they are.
///
/// # Errors
/// The log cannot be read just now.
pub fn verify_stored_views(
    views: &dyn ViewsLook,
    store: &Arc<dyn EventStore>,
    report: &mut Report,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<ViewsChecked, StoreError> {
    let reader = store.reader()?;
    let mut heads = Vec::new();
    for shard in reader.shards()? {
        heads.extend(reader.head(shard)?);
    }
    let checkpoints: Vec<_> = views.checkpoints().iter().map(|known| (known.shard, known.position)).collect();
    if !belong(views, &heads, report) {
        return Ok(ViewsChecked::Compared { checkpoints, rows: 0 });
    }
    let scratch = match tempfile::tempdir() {
        Ok(scratch) => scratch,
        Err(error) => return Ok(ViewsChecked::NotChecked(format!("there is no room to fill views anew: {error}"))),
    };
    match fill(scratch.path(), store, &checkpoints, report, progress) {
        Ok(ControlFlow::Continue(true)) => {}
        Ok(ControlFlow::Continue(false)) => return Ok(ViewsChecked::Compared { checkpoints, rows: 0 }),
        Ok(ControlFlow::Break(())) => return Ok(ViewsChecked::Interrupted),
        Err(reason) => return Ok(ViewsChecked::NotChecked(reason)),
    }
    match compare(views, scratch.path(), report) {
        Ok(rows) => Ok(ViewsChecked::Compared { checkpoints, rows }),
        Err(error) => Ok(ViewsChecked::NotChecked(format!("{} cannot be compared: {error}", views.place()))),
    }
}

/// Fills new views up to these checkpoints. False when an event does not fit, which is a finding.
fn fill(
    directory: &Path,
    store: &Arc<dyn EventStore>,
    checkpoints: &[(u16, u64)],
    report: &mut Report,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<ControlFlow<(), bool>, String> {
    let (writer, _readers) = SqliteViews::open(directory).map_err(|error| error.to_string())?;
    let bounded: Arc<dyn EventStore> = Arc::new(Bounded {
        store: Arc::clone(store),
        to: checkpoints.iter().copied().collect(),
    });
    let runner = Runner::start(bounded, Box::new(writer), RunnerSettings::default()).map_err(|error| error.to_string())?;
    let watched = runner.progress();
    let total: u64 = checkpoints.iter().map(|(_, position)| position).sum();
    let (mut last, mut waited) = (0, Duration::ZERO);
    let filled = loop {
        let now = watched.borrow().clone();
        let done = checkpoints.iter().map(|(shard, _)| now.position(*shard)).sum();
        if progress(done, total).is_break() {
            break Ok(ControlFlow::Break(()));
        }
        if done >= total {
            break Ok(ControlFlow::Continue(true));
        }
        if let RunnerState::Stalled { shard, position, reason } = &now.state {
            report.add(
                Invariant::Views,
                Place::at(*shard, *position, *position),
                format!("views cannot be filled beyond here: {reason}"),
            );
            break Ok(ControlFlow::Continue(false));
        }
        waited = if done > last { Duration::ZERO } else { waited + LOOK };
        if waited > PATIENCE {
            break Err(format!("the new views do not go on at {done} of {total}"));
        }
        last = done;
        std::thread::sleep(LOOK);
    };
    runner.stop();
    filled
}

/// Whether they are of this log and not ahead of it.
fn belong(views: &dyn ViewsLook, heads: &[Head], report: &mut Report) -> bool {
    let found = report.found;
    if let Some(log) = views.log().filter(|log| heads.iter().any(|head| head.log_id != *log)) {
        report.add(Invariant::Views, Place::default(), format!("the views are of another log, {log}"));
    }
    for Checkpoint { shard, position, .. } in views.checkpoints() {
        let head = heads.iter().find(|head| head.shard == *shard).map_or(0, |head| head.position);
        if *position > head {
            report.add(
                Invariant::Views,
                Place::at(*shard, head, *position),
                format!("the views count up to {position}, and the log ends at {head}"),
            );
        }
    }
    report.found == found
}

/// Compares every row of every table with those filled anew; returns how many there are.
fn compare(views: &dyn ViewsLook, directory: &Path, report: &mut Report) -> Result<u64, String> {
    let anew = ViewsFile::open(&directory.join(FILE)).map_err(|error| error.to_string())?;
    // Whose views they are was looked at before; those of a shop that has just begun do not know their log yet.
    let mut rows = compare_checkpoints(views.checkpoints(), anew.checkpoints(), report);
    for table in anew.tables() {
        let read = compare_rows(views, &anew, table, &mut |difference| {
            if let Some(difference) = difference {
                differ(table, &difference, report);
            }
            ControlFlow::Continue(())
        });
        rows += read.map_err(|error| error.to_string())?;
    }
    Ok(rows)
}

fn compare_checkpoints(kept: &[Checkpoint], anew: &[Checkpoint], report: &mut Report) -> u64 {
    for new in anew {
        let one = kept.iter().find(|one| one.shard == new.shard);
        if one.is_some_and(|one| one.recorded_at != new.recorded_at) {
            let what = format!("the row {} of checkpoints is not the fold of the log in recorded_at", new.shard);
            report.add(Invariant::Views, Place::default(), what);
        }
    }
    kept.len() as u64
}

fn differ(table: &ViewTable, difference: &Difference, report: &mut Report) {
    let (row, what) = match difference {
        Difference::OnlyInOne(row) => (row, "is in the views, and not by the fold of the log".to_owned()),
        Difference::OnlyInOther(row) => (row, "is missing in the views".to_owned()),
        Difference::Changed(one, other) => {
            let fields = one.fields().iter().zip(other.fields());
            let wrong: Vec<_> = table
                .columns()
                .iter()
                .zip(fields)
                .filter(|(_, (one, other))| one != other)
                .map(|(name, _)| name.as_str())
                .collect();
            (one, format!("is not the fold of the log in {}", wrong.join(", ")))
        }
    };
    let order = match row.key_fields() {
        [id] if table.name().starts_with("orders") => id.id(),
        _ => None,
    };
    let place = Place { order, ..Place::default() };
    report.add(Invariant::Views, place, format!("the row {} of {} {what}", row.key(), table.name()));
}

/// A log that ends where the views do.
struct Bounded {
    store: Arc<dyn EventStore>,
    to: HashMap<u16, u64>,
}

impl EventStore for Bounded {
    fn writer(&self) -> Result<Box<dyn LogWriter>, StoreError> {
        Err(StoreError::Foreign("this log is only read".to_owned()))
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, StoreError> {
        Ok(Box::new(BoundedReader {
            reader: self.store.reader()?,
            to: self.to.clone(),
        }))
    }
}

struct BoundedReader {
    reader: Box<dyn LogReader>,
    to: HashMap<u16, u64>,
}

impl BoundedReader {
    fn to(&self, shard: u16) -> u64 {
        self.to.get(&shard).copied().unwrap_or_default()
    }
}

impl LogReader for BoundedReader {
    fn head(&self, shard: u16) -> Result<Option<Head>, StoreError> {
        let to = self.to(shard);
        Ok(self.reader.head(shard)?.map(|head| Head {
            position: head.position.min(to),
            ..head
        }))
    }

    fn read(
        &self,
        records: &[RecordKey],
        streams: &[StreamRead],
    ) -> Result<(Vec<Option<IdempotencyRecord>>, Vec<StreamSlice>), StoreError> {
        self.reader.read(records, streams)
    }

    fn events(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        let to = self.to(shard);
        let left = usize::try_from(to.saturating_sub(after)).unwrap_or(usize::MAX);
        let mut events = self.reader.events(shard, after, limit.min(left))?;
        events.retain(|event| event.position <= to);
        Ok(events)
    }

    fn stream(&self, stream: &StreamId, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.reader.stream(stream, after, limit)
    }

    fn batches(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<(u64, Hash, Hash, u64)>, StoreError> {
        self.reader.batches(shard, after, limit)
    }

    fn unfinished(&self, shard: u16) -> Result<Unfinished, StoreError> {
        self.reader.unfinished(shard)
    }

    fn parked(&self, shard: u16, limit: usize) -> Result<Vec<Parked>, StoreError> {
        self.reader.parked(shard, limit)
    }

    fn parked_input(&self, shard: u16, id: Uuid) -> Result<Option<Parked>, StoreError> {
        self.reader.parked_input(shard, id)
    }

    fn unparked(&self, shard: u16, id: Uuid) -> Result<Option<Unparked>, StoreError> {
        self.reader.unparked(shard, id)
    }

    fn shard_count(&self) -> Result<Option<Shards>, StoreError> {
        self.reader.shard_count()
    }

    fn shards(&self) -> Result<Vec<u16>, StoreError> {
        self.reader.shards()
    }
}
