//! The writing side: one session, one transaction and one round trip for each commit.

use std::{
    collections::HashSet,
    hash::Hash,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use event_store::{Batch, Claim, CommitError, Event, GENESIS, Head, LogWriter, Shards, StoreError, batch_hash};
use postgres_session::{Address, Error, Pipeline, Process, Session, ToSql, Trouble};
use uuid::Uuid;

use crate::{
    errors,
    news::Teller,
    reader::{self, Unread, bound},
};

/// How long a commit may take. Longer, and the session is given up, to find out on another what has become of it.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long to wait before the next try to connect.
const AGAIN: Duration = Duration::from_millis(100);

/// How many rows of others become one batch.
const CHAINED_AT_ONCE: i64 = 1_000;

/// Whoever acknowledges must know that it is durable, whatever the database's own setting is.
const SET_UP: &str = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local');
SET idle_in_transaction_session_timeout = '30s';
SET lock_timeout = '15s';
SET default_transaction_read_only = on";

/// Nothing is written outside of a transaction: should the server not begin one, it refuses all that was sent behind it.
const BEGIN: &str = "BEGIN READ WRITE";

/// Appends to one log.
pub(crate) struct PostgresWriter {
    address: Arc<Address>,
    session: Option<Session>,
    outcome_within: Duration,
    teller: Arc<Teller>,
}

impl PostgresWriter {
    pub(crate) fn open(address: &Arc<Address>, outcome_within: Duration, teller: &Arc<Teller>) -> Result<Self, StoreError> {
        let address = Arc::new(address.as_ref().clone().for_writing());
        let session = connect(&address).map_err(|error| errors::reading(&address, error))?;
        let fsync: Option<String> = session
            .query_opt("SELECT current_setting('fsync')", &[])
            .map_err(|error| errors::reading(&address, error))?
            .map(|row| row.get(0));
        if fsync.as_deref() == Some("off") {
            tracing::warn!(%address, "the database runs with fsync = off: what it acknowledges may be lost when its machine fails");
        }
        for outcome in ["connected", "failed"] {
            metrics::counter!("jangbu_postgres_reconnects_total", "outcome" => outcome).increment(0);
        }
        Ok(Self {
            address,
            session: Some(session),
            outcome_within,
            teller: Arc::clone(teller),
        })
    }

    /// The session, a new one when the last was lost.
    fn session(&mut self) -> Result<&Session, Error> {
        let kept = self.session.take().filter(|session| !session.is_closed());
        let session = kept.map_or_else(|| reconnect(&self.address), Ok)?;
        Ok(self.session.insert(session))
    }

    /// Does something that may be done again.
    fn simply<T>(&mut self, work: impl Fn(&Session) -> Result<T, Error>) -> Result<T, Error> {
        let done = self.session().and_then(&work);
        let done = match done {
            Err(error) if matches!(error.trouble(), Trouble::Lost | Trouble::Silent) => {
                self.session = None;
                self.session().and_then(&work)
            }
            done => done,
        };
        // One that the server is unable on may speak to a standby by now.
        if done.as_ref().is_err_and(|error| error.trouble() != Trouble::Refused) {
            self.session = None;
        }
        done
    }

    /// A transaction that is open no more when this returns.
    fn transaction<T>(session: &Session, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        session.script(BEGIN)?;
        let done = work().and_then(|answer| session.script("COMMIT").map(|()| answer));
        if done.is_err() && !session.is_closed() {
            // The first error is the one to tell.
            let _ = session.script("ROLLBACK");
        }
        done
    }

    fn claim(&mut self, shard: u16, instance: Uuid, now: i64, claim: Claim) -> Result<Head, StoreError> {
        let gives_way = claim.gives_way(now);
        let taken = self.simply(|session| Self::transaction(session, || take(session, shard, instance, now, gives_way)));
        match taken.map_err(|error| errors::reading(&self.address, error))? {
            Ok(head) => Ok(head),
            Err(holder) => Err(StoreError::Held {
                shard,
                holder: format!("instance {holder}"),
            }),
        }
    }

    fn commit_sound(&mut self, batches: &[&Batch]) -> Result<(), CommitError> {
        let session = self.session().map_err(|error| CommitError::NotWritten(Box::new(error)))?;
        let process = session.process();
        match write(session, batches) {
            Ok(()) => Ok(()),
            Err(error) if matches!(error.trouble(), Trouble::Lost | Trouble::Silent) => self.find_out(process, batches, error),
            Err(error) => {
                if error.trouble() == Trouble::Unable {
                    // A standby, a server that stops: another connection may find a better one.
                    let failed = errors::writing(error, || 0);
                    self.session = None;
                    return Err(failed);
                }
                Err(errors::writing(error, || first_fenced(session, batches)))
            }
        }
    }

    /// What has become of a commit that got no answer: the server is asked until it tells.
    fn find_out(&mut self, process: Process, batches: &[&Batch], error: Error) -> Result<(), CommitError> {
        self.session = None;
        tracing::warn!(%error, address = %self.address, "a commit got no answer; asking what has become of it");
        let begun = Instant::now();
        loop {
            let found = self.session().and_then(|session| {
                Self::transaction(session, || {
                    settle(session, process, batches)?;
                    became(session, batches)
                })
            });
            match found {
                Ok(Became::Written) => {
                    tracing::info!("the commit without an answer was done");
                    return Ok(());
                }
                Ok(Became::Nothing) => return Err(CommitError::NotWritten(Box::new(error))),
                Ok(Became::Fenced(shard)) => return Err(CommitError::Fenced(shard)),
                Err(_) if begun.elapsed() < self.outcome_within => {
                    self.session = None;
                    thread::sleep(AGAIN);
                }
                // Neither written nor not: only a new start finds out.
                Err(_) => return Err(CommitError::Disk(Box::new(error))),
            }
        }
    }
}

/// What a commit without an answer has become.
enum Became {
    Written,
    Nothing,
    Fenced(u16),
}

fn reconnect(address: &Address) -> Result<Session, Error> {
    let connected = connect(address);
    let outcome = if connected.is_ok() { "connected" } else { "failed" };
    metrics::counter!("jangbu_postgres_reconnects_total", "outcome" => outcome).increment(1);
    connected
}

fn connect(address: &Address) -> Result<Session, Error> {
    Session::open(address, SET_UP, PATIENCE)
}

/// Returns once whatever an earlier session of ours had under way for these shards has ended.
fn settle(session: &Session, earlier: Process, batches: &[&Batch]) -> Result<(), Error> {
    // Nobody waits for it any more. It is not there when the server has started anew, or has noticed itself.
    session.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE pid = $1 AND (extract(epoch FROM backend_start) * 1000000)::bigint = $2 AND usename = current_user AND pid <> pg_backend_pid()",
        &[&earlier.number, &earlier.began],
    )?;
    // Waits for the locks that the earlier transaction has for as long as it lasts. Locking writes to the write-ahead log, so this transaction's own
    // COMMIT waits for a synchronous standby, which then has the earlier one too.
    for batch in batches {
        session.query("SELECT FROM log_head WHERE shard = $1 FOR SHARE", &[&i32::from(batch.shard)])?;
    }
    Ok(())
}

/// Looks for what the batches have left behind. They are one transaction, so the trace of one is that of all.
fn became(session: &Session, batches: &[&Batch]) -> Result<Became, Error> {
    for batch in batches {
        let written = if !batch.events.is_empty() {
            session.query_opt(
                "SELECT FROM batches WHERE shard = $1 AND last_position = $2 AND hash = $3 AND epoch = $4",
                &[
                    &i32::from(batch.shard),
                    &bound(batch.last_position()),
                    &batch.hash.as_slice(),
                    &bound(batch.epoch),
                ],
            )?
        } else if let Some(record) = batch.records.first() {
            session.query_opt("SELECT FROM idempotency WHERE key = $1", &[&record.key.0.as_slice()])?
        } else {
            continue;
        };
        return Ok(match (written, reader::head(session, batch.shard)?) {
            // The record may be of another writer, who has decided the same request by now.
            (Some(_), Some(head)) if batch.events.is_empty() && head.epoch != batch.epoch => Became::Fenced(batch.shard),
            (Some(_), _) => Became::Written,
            (None, Some(head)) if head.epoch != batch.epoch => Became::Fenced(batch.shard),
            (None, _) => Became::Nothing,
        });
    }
    // It leaves no trace that could be told from an older one. Whoever drops it loses nothing: what it holds is read again.
    Ok(Became::Nothing)
}

impl LogWriter for PostgresWriter {
    fn found(&mut self, shards: Shards) -> Result<Shards, StoreError> {
        let found = self.simply(|session| {
            Self::transaction(session, || {
                session.execute("UPDATE log SET shards = $1 WHERE shards IS NULL", &[&i32::from(shards.count())])?;
                reader::shard_count(session)
            })
        });
        let found = found.map_err(|error| errors::reading(&self.address, error))?;
        found.ok_or_else(|| errors::damaged(&self.address, "the log does not say how many shards it has"))
    }

    fn found_as(&mut self, shards: Shards, log_id: Uuid) -> Result<Shards, StoreError> {
        let named = self.simply(|session| {
            Self::transaction(session, || {
                // Whoever takes a shard has fixed their number first, and waits for this row.
                session.execute(
                    "UPDATE log SET log_id = $1 WHERE shards IS NULL AND log_id <> $1 AND NOT EXISTS (SELECT FROM log_head)",
                    &[&log_id],
                )?;
                session.query_opt("SELECT log_id FROM log", &[])
            })
        });
        match named.map_err(|error| errors::reading(&self.address, error))?.map(|row| row.get(0)) {
            Some(id) if id == log_id => self.found(shards),
            Some(id) => Err(StoreError::not_a_copy(id, log_id)),
            None => Err(errors::damaged(&self.address, "the log has no id")),
        }
    }

    fn take(&mut self, shard: u16, instance: Uuid, now: i64) -> Result<Head, StoreError> {
        self.claim(shard, instance, now, Claim::Vacant)
    }

    fn seize(&mut self, shard: u16, instance: Uuid, now: i64) -> Result<Head, StoreError> {
        self.claim(shard, instance, now, Claim::Assigned)
    }

    fn commit(&mut self, batches: &[&Batch]) -> Result<(), CommitError> {
        for batch in batches {
            batch.check().map_err(CommitError::Refused)?;
        }
        if !batches.is_empty() {
            self.commit_sound(batches)?;
            self.teller.committed(batches);
        }
        Ok(())
    }

    fn heartbeat(&mut self, shard: u16, epoch: u64, now: i64) -> Result<(), CommitError> {
        let moved = self.simply(|session| {
            Self::transaction(session, || {
                session.execute(
                    "UPDATE log_head SET heartbeat = $1 WHERE shard = $2 AND epoch = $3",
                    &[&now, &i32::from(shard), &bound(epoch)],
                )
            })
        });
        match moved {
            Ok(1) => Ok(()),
            Ok(_) => Err(CommitError::Fenced(shard)),
            Err(error) => Err(CommitError::NotWritten(Box::new(error))),
        }
    }
}

/// Which of these batches' shards is not where its batch says: the server's error names none that a program could read.
fn first_fenced(session: &Session, batches: &[&Batch]) -> u16 {
    let elsewhere = |batch: &&&Batch| {
        let from = batch.first_position - 1;
        !matches!(reader::head(session, batch.shard), Ok(Some(head)) if (head.epoch, head.position) == (batch.epoch, from))
    };
    let fenced = batches.iter().find(elsewhere).or(batches.first());
    fenced.map_or(0, |batch| batch.shard)
}

/// The head under its new epoch, or the instance that holds it.
fn take(session: &Session, shard: u16, instance: Uuid, now: i64, gives_way: i64) -> Result<Result<Head, Uuid>, Error> {
    // Whoever only asks takes no lock that the holder would wait for.
    let held = session.query_opt(
        "SELECT instance FROM log_head WHERE shard = $1 AND instance <> $2 AND heartbeat > $3",
        &[&i32::from(shard), &instance, &gives_way],
    )?;
    if let Some(row) = held {
        return Ok(Err(row.get(0)));
    }
    let taken = session.query_opt(
        "INSERT INTO log_head AS held (shard, position, epoch, hash, recorded_at, orders_numbered, instance, heartbeat)
         VALUES ($1, 0, 1, $2, 0, 0, $3, $4)
         ON CONFLICT (shard) DO UPDATE SET epoch = held.epoch + 1, instance = excluded.instance, heartbeat = excluded.heartbeat
         WHERE held.instance = excluded.instance OR held.heartbeat <= $5
         RETURNING shard",
        &[&i32::from(shard), &GENESIS.as_slice(), &instance, &now, &gives_way],
    )?;
    if taken.is_none() {
        let holder = session.query_opt("SELECT instance FROM log_head WHERE shard = $1", &[&i32::from(shard)])?;
        return Ok(Err(holder.map_or(Uuid::nil(), |row| row.get(0))));
    }
    chain(session, shard)?;
    match reader::head(session, shard)? {
        Some(head) => Ok(Ok(head)),
        None => Ok(Err(Uuid::nil())),
    }
}

/// What others have put in while nobody held the shard gets its place in the chain.
fn chain(session: &Session, shard: u16) -> Result<(), Error> {
    loop {
        let Some(head) = reader::head(session, shard)? else { return Ok(()) };
        let chained = session.query_opt(
            "SELECT last_position FROM batches WHERE shard = $1 ORDER BY last_position DESC LIMIT 1",
            &[&i32::from(shard)],
        )?;
        let chained: i64 = chained.map_or(0, |row| row.get(0));
        if chained >= bound(head.position) {
            return Ok(());
        }
        let events: Vec<Event> = reader::events(session, shard, chained, CHAINED_AT_ONCE).map_err(Unread::into_error)?;
        let Some(last) = events.last() else {
            return Err(Error::unexpected(format!(
                "shard {shard} has no event behind {chained}, and its head is at {}",
                head.position
            )));
        };
        let hash = batch_hash(&head.hash, &events);
        session.query(
            "SELECT jangbu_chain($1, $2, $3, $4, $5)",
            &[
                &i32::from(shard),
                &bound(head.epoch),
                &bound(last.position),
                &head.hash.as_slice(),
                &hash.as_slice(),
            ],
        )?;
        tracing::info!(
            shard,
            events = events.len(),
            "events that another program had written were taken into the chain"
        );
    }
}

fn write(session: &Session, batches: &[&Batch]) -> Result<(), Error> {
    let mut pipeline = session.pipeline();
    pipeline.script(BEGIN);
    for batch in batches {
        append(&mut pipeline, batch)?;
        write_unfinished(&mut pipeline, batch)?;
        write_kept(&mut pipeline, batch)?;
    }
    pipeline.script("COMMIT");
    // The COMMIT of a transaction that has failed is its ROLLBACK, and its own error is not the first.
    pipeline.run()?;
    Ok(())
}

type Values<'a> = Vec<Box<dyn ToSql + Sync + 'a>>;

/// One member of each item: a column of rows to be.
fn column<'a, T, V: ToSql + Sync + 'a>(items: &[&'a T], value: impl Fn(&'a T) -> V) -> Box<dyn ToSql + Sync + 'a>
where
    Vec<V>: ToSql,
{
    Box::new(items.iter().map(|item| value(item)).collect::<Vec<V>>())
}

/// Of items with the same key the last, in their order: a statement may put in a row once.
fn last_of<'a, T, K: Eq + Hash>(items: &'a [T], key: impl Fn(&'a T) -> K) -> Vec<&'a T> {
    let mut seen = HashSet::new();
    let mut last: Vec<_> = items.iter().rev().filter(|item| seen.insert(key(item))).collect();
    last.reverse();
    last
}

fn append<'a>(pipeline: &mut Pipeline<'a>, batch: &'a Batch) -> Result<(), Error> {
    let events: Vec<_> = batch.events.iter().collect();
    let values: Values<'a> = vec![
        Box::new(i32::from(batch.shard)),
        Box::new(bound(batch.epoch)),
        Box::new(bound(batch.first_position - 1)),
        Box::new(batch.previous_hash.as_slice()),
        Box::new(batch.hash.as_slice()),
        Box::new(events.last().map(|event| event.recorded_at)),
        Box::new(bound(batch.orders_numbered)),
        column(&events, |event| &*event.stream.kind),
        column(&events, |event| event.stream.id.to_string()),
        column(&events, |event| bound(event.sequence)),
        column(&events, |event| event.event_id),
        column(&events, |event| &*event.event_type),
        column(&events, |event| &*event.event_version),
        column(&events, |event| event.recorded_at),
        column(&events, |event| &*event.payload),
        column(&events, |event| &*event.metadata),
    ];
    pipeline.query(
        "SELECT jangbu_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
        values,
    )
}

fn write_unfinished<'a>(pipeline: &mut Pipeline<'a>, batch: &'a Batch) -> Result<(), Error> {
    let shard = i32::from(batch.shard);
    // What is asked and answered in one batch is never owed.
    let settled: HashSet<_> = batch.settled.iter().collect();
    let mut owed = last_of(&batch.owed, |owed| owed.id);
    owed.retain(|owed| !settled.contains(&owed.id));
    if !owed.is_empty() {
        pipeline.query(
            "INSERT INTO effects SELECT $1, id, effect FROM unnest($2::uuid[], $3::text[]) AS owed (id, effect)
             ON CONFLICT (shard, id) DO UPDATE SET effect = excluded.effect",
            vec![Box::new(shard), column(&owed, |owed| owed.id), column(&owed, |owed| &*owed.effect)],
        )?;
    }
    if !batch.settled.is_empty() {
        pipeline.query(
            "DELETE FROM effects WHERE shard = $1 AND id = ANY ($2)",
            vec![Box::new(shard), Box::new(&batch.settled)],
        )?;
    }
    if !batch.timers.is_empty() {
        let timers = last_of(&batch.timers, |timer| timer.id);
        pipeline.query(
            "INSERT INTO timers SELECT $1, id, due, command FROM unnest($2::uuid[], $3::bigint[], $4::text[]) AS timer (id, due, command)
             ON CONFLICT (shard, id) DO UPDATE SET due = excluded.due, command = excluded.command",
            vec![
                Box::new(shard),
                column(&timers, |timer| timer.id),
                column(&timers, |timer| timer.due),
                column(&timers, |timer| &*timer.command),
            ],
        )?;
    }
    if !batch.timers_done.is_empty() {
        pipeline.query(
            "DELETE FROM timers WHERE shard = $1 AND id = ANY ($2)",
            vec![Box::new(shard), Box::new(&batch.timers_done)],
        )?;
    }
    Ok(())
}

fn write_kept<'a>(pipeline: &mut Pipeline<'a>, batch: &'a Batch) -> Result<(), Error> {
    let shard = i32::from(batch.shard);
    if !batch.unparked.is_empty() {
        let unparked: Vec<_> = batch.unparked.iter().collect();
        pipeline.query(
            "SELECT jangbu_unpark($1, $2, $3, $4, $5)",
            vec![
                Box::new(shard),
                column(&unparked, |unparked| unparked.id),
                column(&unparked, |unparked| unparked.at),
                column(&unparked, |unparked| &*unparked.by),
                column(&unparked, |unparked| unparked.how.name()),
            ],
        )?;
    }
    if !batch.records.is_empty() {
        let records: Vec<_> = batch.records.iter().collect();
        pipeline.query(
            "INSERT INTO idempotency (key, fingerprint, position, recorded_at, answer)
             SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bytea[])",
            vec![
                column(&records, |record| record.key.0.as_slice()),
                column(&records, |record| record.fingerprint.as_slice()),
                column(&records, |record| bound(record.position)),
                column(&records, |record| record.recorded_at),
                column(&records, |record| &*record.answer),
            ],
        )?;
    }
    if !batch.parked.is_empty() {
        let parked = last_of(&batch.parked, |parked| parked.id);
        pipeline.query(
            "INSERT INTO parked (shard, id, at, input, reason)
             SELECT $1, id, at, input, reason FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::text[]) AS parked (id, at, input, reason)
             ON CONFLICT (shard, id) DO UPDATE SET at = excluded.at, input = excluded.input, reason = excluded.reason,
                 ended_at = NULL, ended_by = NULL, ended_how = NULL",
            vec![
                Box::new(shard),
                column(&parked, |parked| parked.id),
                column(&parked, |parked| parked.at),
                column(&parked, |parked| &*parked.input),
                column(&parked, |parked| parked.reason.as_str()),
            ],
        )?;
    }
    if !batch.snapshots.is_empty() {
        let snapshots = last_of(&batch.snapshots, |snapshot| (&snapshot.stream, snapshot.shape));
        pipeline.query(
            "INSERT INTO snapshots AS kept (aggregate_type, aggregate_id, shape, sequence, state)
             SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bigint[], $5::bytea[])
             ON CONFLICT (aggregate_type, aggregate_id, shape) DO UPDATE SET sequence = excluded.sequence, state = excluded.state
             WHERE excluded.sequence >= kept.sequence",
            vec![
                column(&snapshots, |snapshot| &*snapshot.stream.kind),
                column(&snapshots, |snapshot| snapshot.stream.id.to_string()),
                column(&snapshots, |snapshot| snapshot.shape.as_slice()),
                column(&snapshots, |snapshot| bound(snapshot.sequence)),
                column(&snapshots, |snapshot| &*snapshot.state),
            ],
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use test_servers::Postgres;

    use super::*;

    #[test]
    fn a_process_that_has_only_the_number_of_the_earlier_one_is_left_alone() {
        let database = Postgres::shared().database();
        let address: Address = database.url().parse().expect("an address");
        let open = || Session::open(&address, "", PATIENCE).expect("a session");
        let (asking, other) = (open(), open());
        let before = Process {
            began: other.process().began - 1,
            ..other.process()
        };
        settle(&asking, before, &[]).expect("asked");
        other.script("SELECT 1").expect("another session goes on");
        settle(&asking, other.process(), &[]).expect("asked");
        let ended = other.script("SELECT 1").expect_err("the earlier one itself was ended");
        assert_eq!(ended.trouble(), Trouble::Lost);
    }
}
