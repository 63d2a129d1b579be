//! Events as they come.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use event_store::{Head, LogPosition};
use uuid::Uuid;

use crate::{
    Done,
    arguments::{Source, TailArgs},
    cat::Sheet,
    failure::{Failure, OK},
    progress::Progress,
    source::{Log, Wanted},
};

/// The log is not looked at more often, whatever is asked for.
const SHORTEST_POLL: Duration = Duration::from_millis(1);

/// How long Ctrl-C waits for an answer.
const NAP: Duration = Duration::from_millis(50);

pub(crate) fn run(source: &Source, arguments: &TailArgs, progress: &Progress) -> Done {
    progress.hide();
    let mut tail = Tail::new(source, arguments)?;
    let mut sheet = Sheet::new(source, &tail.log, &arguments.rows)?;
    let limit = arguments.limit.unwrap_or(u64::MAX);
    let followed = loop {
        if sheet.shown() >= limit {
            break Ok(OK);
        }
        let step = tail.step(source, &mut sheet, limit, progress).and_then(|()| sheet.flush());
        if step.is_ok() && sheet.shown() >= limit {
            break Ok(OK);
        }
        if let Err(failure) = step.and_then(|()| rest(arguments.poll.max(SHORTEST_POLL), progress)) {
            break Err(failure);
        }
    };
    sheet.finish(progress)?;
    followed
}

/// Waits, but not longer than somebody who has had enough.
fn rest(time: Duration, progress: &Progress) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        if progress.go_on().is_break() {
            return Err(Failure::interrupted());
        }
        match time.checked_sub(begun.elapsed()) {
            None | Some(Duration::ZERO) => return Ok(()),
            Some(left) => std::thread::sleep(left.min(NAP)),
        }
    }
}

struct Tail {
    log: Log,
    wanted: Wanted,
    id: Option<Uuid>,
}

impl Tail {
    fn new(source: &Source, arguments: &TailArgs) -> Result<Self, Failure> {
        let log = source.open()?;
        let (after, _) = log.range(Some(&arguments.from), None, arguments.filters.stream.as_ref())?;
        let wanted = Wanted {
            after,
            ..log.filtered(&arguments.filters)?
        };
        Ok(Self {
            id: log.heads().first().map(|head| head.log_id),
            log,
            wanted,
        })
    }

    /// Shows what has come since.
    fn step(&mut self, source: &Source, sheet: &mut Sheet, limit: u64, progress: &Progress) -> Result<(), Failure> {
        if self.id.is_none() {
            self.begin(source, sheet)?;
            if self.id.is_none() {
                return Ok(());
            }
        }
        self.log.look().map_err(Failure::into_partial)?;
        let heads = self.heads()?;
        let mut to = self.log.start();
        for head in &heads {
            self.check(head)?;
            to.set(head.shard, head.position);
        }
        self.wanted.to = to;
        let read = self.log.each(&self.wanted, "tail", progress, &mut |event| {
            sheet.show(&self.log, &event, progress)?;
            Ok(if sheet.shown() < limit {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        });
        match read {
            Ok(()) => self.wanted.after = self.wanted.to.clone(),
            Err(failure) => {
                return Err(if self.log.look().is_err() {
                    failure.into_partial()
                } else {
                    failure
                });
            }
        }
        Ok(())
    }

    /// A shop's log has no shards before its first start: then all of it is new.
    fn begin(&mut self, source: &Source, sheet: &mut Sheet) -> Result<(), Failure> {
        let log = source.open()?;
        let Some(head) = log.heads().first() else { return Ok(()) };
        self.id = Some(head.log_id);
        sheet.of_shards(log.shards());
        self.wanted.after = log.start();
        self.log = log;
        Ok(())
    }

    fn heads(&self) -> Result<Vec<Head>, Failure> {
        let reader = self.log.reader();
        let read = || {
            let mut heads = Vec::new();
            for shard in reader.shards()? {
                heads.extend(reader.head(shard)?);
            }
            Ok(heads)
        };
        read().map_err(|error| self.log.explained(error).into_partial())
    }

    /// That it is the same log still.
    fn check(&self, head: &Head) -> Result<(), Failure> {
        let after = self.wanted.after.of(head.shard);
        if self.id.is_some_and(|id| id != head.log_id) {
            return Err(Failure::partial(format_args!(
                "{} is another log now ({}); what was printed so far is of the one before",
                self.log.location(),
                head.log_id
            )));
        }
        if head.position < after {
            let ends = LogPosition {
                shard: head.shard,
                position: head.position,
            };
            return Err(Failure::partial(format_args!(
                "{} is shorter than it was: it ends at {}; what was printed so far is of the log before",
                self.log.location(),
                ends.text(self.log.shards())
            )));
        }
        Ok(())
    }
}
