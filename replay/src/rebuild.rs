//! The log folded into fresh views, beside the live ones.

use std::{
    fs,
    num::NonZeroUsize,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Instant,
};

use aggregates::{CommerceEvent, Recorded, Timestamp};
use event_store::EventRef;
use projections::{Fold, FoldError, Move, ViewTable, ViewsLook as _, ViewsWriter, each_row};
use projections_sqlite::{FILE, SqliteViews, ViewsFile};
use uuid::Uuid;

use crate::{
    Done,
    arguments::{RebuildArgs, RowsArgs, Source},
    failure::{Failure, OK},
    output::{Cell, Column, Rows, count},
    progress::Progress,
    source::{Cut, Log},
    state,
};

/// So many events are saved together.
const TOGETHER: usize = 10_000;

/// So many times as many may wait for it.
const WAITING: usize = 2;

/// So many rows of each view are kept in memory.
const RECENT: NonZeroUsize = NonZeroUsize::new(16_384).expect("16,384 is not zero");

const COLUMNS: [Column; 3] = [Column::new("view", 30), Column::new("rows", 20), Column::new("hash", 64)];

/// Events of one shard, in their order.
type Group = Vec<Recorded>;

pub(crate) fn run(source: &Source, arguments: &RebuildArgs, progress: &Progress) -> Done {
    let log = source.open()?;
    let to = log.cut(&arguments.to)?;
    let log_id = log.heads().first().map(|head| head.log_id);
    let log_id = log_id.ok_or_else(|| Failure::input("the log is empty: there is nothing to fold"))?;
    let file = place(&arguments.into)?;
    let begun = Instant::now();
    let writer = SqliteViews::create(&file).map_err(Failure::input)?;
    let filled = fill(&log, &to, log_id, writer, progress);
    let events = match filled {
        Ok(events) => events,
        Err(failure) => {
            // What is half filled is of no use, and was made here.
            for suffix in ["", "-wal", "-shm"] {
                let mut name = file.as_os_str().to_owned();
                name.push(suffix);
                let _ = fs::remove_file(PathBuf::from(name));
            }
            return Err(failure);
        }
    };
    let synced = fs::File::open(&file).and_then(|file| file.sync_all());
    synced.map_err(|error| Failure::input(format_args!("{} cannot be made durable: {error}", file.display())))?;
    let seconds = begun.elapsed().as_secs_f64();
    let views = ViewsFile::open(&file).map_err(Failure::input)?;
    let rows = RowsArgs {
        output: arguments.output,
        columns: Vec::new(),
        no_header: false,
    };
    let mut rows = Rows::new(&rows, &COLUMNS)?;
    for table in views.tables() {
        let (number, hash) = hashed(&views, table, progress)?;
        rows.row(&[Cell::Text(table.name()), Cell::Number(number), Cell::Text(&hash)])?;
    }
    rows.finish()?;
    // Rounded: it is for people.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate for people"
    )]
    let rate = (events as f64 / seconds.max(0.001)) as u64;
    progress.say(format_args!(
        "{} events folded into {} in {seconds:.1} s, {} a second",
        count(events),
        file.display(),
        count(rate)
    ));
    Ok(OK)
}

/// The file that is meant, in a directory that is there. Nothing is ever written over.
fn place(into: &Path) -> Result<PathBuf, Failure> {
    let wrong = |what: &dyn std::fmt::Display| Failure::input(format_args!("{} {what}", into.display()));
    let file = if into.extension().is_some_and(|extension| extension == "db") && !into.is_dir() {
        into.to_owned()
    } else {
        let occupied = match fs::read_dir(into) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(wrong(&format_args!("cannot be used: {error}"))),
        };
        if occupied {
            return Err(wrong(
                &"is not empty; name a new or an empty directory, or a file that is not there yet",
            ));
        }
        into.join(FILE)
    };
    if file.exists() {
        return Err(wrong(&"is there already; name another file: nothing is written over"));
    }
    if let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).map_err(|error| wrong(&format_args!("cannot be made: {error}")))?;
    }
    Ok(file)
}

/// Reads and decodes here, folds and saves on another thread. Returns how many events there were.
fn fill(log: &Log, to: &Cut, log_id: Uuid, mut writer: impl ViewsWriter, progress: &Progress) -> Result<u64, Failure> {
    writer.reset(log_id).map_err(Failure::input)?;
    thread::scope(|scope| {
        let (line, groups) = sync_channel::<Group>(WAITING);
        let folding = thread::Builder::new()
            .name("views".to_owned())
            .spawn_scoped(scope, move || save(&mut writer, &groups));
        let folding = folding.map_err(|error| Failure::input(format_args!("the system gives no thread: {error}")))?;
        let read = read(log, to, &line, progress);
        drop(line);
        let saved = folding.join().map_err(|_| Failure::input("the views' thread has panicked"))?;
        // Why they could not be saved is also why nobody took more.
        saved.map_err(Failure::input)?;
        read
    })
}

fn read(log: &Log, to: &Cut, line: &SyncSender<Group>, progress: &Progress) -> Result<u64, Failure> {
    let mut events = 0;
    for shard in log.shards().all() {
        let mut wanted = log.everything();
        wanted.shard = Some(shard);
        wanted.to = to.clone();
        if wanted.to.of(shard) == 0 {
            continue;
        }
        let mut group = Vec::with_capacity(TOGETHER);
        log.each(&wanted, "rebuild", progress, &mut |event| {
            group.push(recorded(log, &event)?);
            events += 1;
            if group.len() < TOGETHER {
                return Ok(ControlFlow::Continue(()));
            }
            let full = std::mem::replace(&mut group, Vec::with_capacity(TOGETHER));
            Ok(if line.send(full).is_ok() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })?;
        if line.send(group).is_err() {
            break;
        }
    }
    Ok(events)
}

fn recorded(log: &Log, event: &EventRef<'_>) -> Result<Recorded, Failure> {
    let wrong = |what: &dyn std::fmt::Display| {
        let place = state::position(log, event.shard, event.position);
        Failure::input(format_args!("what stands at position {place} cannot be folded: {what}"))
    };
    let id = Uuid::try_parse(event.id).map_err(|error| wrong(&error))?;
    Ok(Recorded {
        shard: event.shard,
        position: event.position,
        sequence: event.sequence,
        at: Timestamp::from_micros(event.recorded_at),
        event: CommerceEvent::decode(event.kind, id, event.payload).map_err(|error| wrong(&error))?,
    })
}

fn save(writer: &mut impl ViewsWriter, groups: &Receiver<Group>) -> Result<(), String> {
    let mut fold = Fold::new(RECENT);
    let mut counted: Option<Move> = None;
    for group in groups {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            continue;
        };
        let before = counted
            .filter(|counted| counted.shard == first.shard)
            .map_or(0, |counted| counted.to);
        let step = Move {
            shard: last.shard,
            from: before,
            to: last.position,
            recorded_at: last.at,
        };
        let events: Vec<&Recorded> = group.iter().collect();
        fold.apply(&events, writer).map_err(|error| unfit(&group, error))?;
        writer.save(&fold.changed(&[step])).map_err(|error| error.to_string())?;
        fold.saved();
        counted = Some(step);
    }
    Ok(())
}

fn unfit(group: &[Recorded], error: FoldError) -> String {
    match error {
        FoldError::Views(error) => error.to_string(),
        FoldError::Unfit { index, reason } => match group.get(index) {
            Some(event) => format!(
                "what stands at position {}/{} cannot be folded: {reason}",
                event.shard, event.position
            ),
            None => reason,
        },
    }
}

/// How many rows a table has, and the BLAKE3 hash of all of them in the order of their keys.
fn hashed(views: &ViewsFile, table: &ViewTable, progress: &Progress) -> Result<(u64, String), Failure> {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = Vec::new();
    let mut rows = 0;
    let mut interrupted = false;
    let read = each_row(views, table, &mut |row| {
        bytes.clear();
        row.fields().iter().for_each(|field| field.bytes(&mut bytes));
        hasher.update(&bytes);
        rows += 1;
        interrupted = progress.go_on().is_break();
        if interrupted {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    read.map_err(Failure::input)?;
    if interrupted {
        return Err(Failure::interrupted());
    }
    Ok((rows, hasher.finalize().to_hex().to_string()))
}
