//! Saving rows: a batch is one transaction, and one round trip.

use std::collections::BTreeSet;

use aggregates::Timestamp;
use postgres_session::{Address, Error, Pipeline, Row as Found, Session, Trouble};
use projections::{Changed, Checkpoint, Move, OrderView, Stored, Table, ViewsBatch, ViewsError, ViewsWriter, WalletEntry};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    open,
    schema::{EMPTY, MISSING, MOVED, TAKEN},
    table::{Column, Row, by_id},
};

/// What a server says that has become a standby, or was made to read only.
const READ_ONLY: &str = "25006";

/// At most so many rows of one statement.
const MOST: usize = 4_096;

/// The views, for writing. A session that is lost is opened again at the next call.
#[derive(Debug)]
pub struct PostgresViewsWriter {
    address: Address,
    session: Option<Session>,
    /// Names this writer among all that there ever were.
    writer: Uuid,
    /// Under which it keeps the views; none before it takes them, and when it knows that another one has.
    epoch: Option<i64>,
}

impl PostgresViewsWriter {
    pub(crate) fn on(session: Session, address: Address) -> Self {
        Self {
            address,
            session: Some(session),
            writer: Uuid::new_v4(),
            epoch: None,
        }
    }

    /// Writes under its epoch.
    fn keeping<T>(&mut self, work: impl FnOnce(&Session, Keeper) -> Result<T, Failed>) -> Result<T, ViewsError> {
        let Some(epoch) = self.epoch else {
            return Err(ViewsError::Held("this one has not taken them".into()));
        };
        let keeper = Keeper {
            writer: self.writer,
            epoch,
        };
        let done = self.with(|session| work(session, keeper));
        if matches!(done, Err(ViewsError::Held(_))) {
            self.epoch = None;
        }
        done
    }

    fn with<T>(&mut self, work: impl FnOnce(&Session) -> Result<T, Failed>) -> Result<T, ViewsError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => open::writing(&self.address).map_err(|error| ViewsError::Unavailable(Box::new(error)))?,
        };
        let done = work(&session);
        // What is left of a transaction that did not end goes with its session. So does one with a server that may not be written to any
        // more: another of the address's hosts may have taken its place.
        if !done.as_ref().is_err_and(Failed::spoils_the_session) {
            self.session = Some(session);
        }
        done.map_err(|error| error.explained(&self.address))
    }
}

/// Who writes.
#[derive(Clone, Copy)]
struct Keeper {
    writer: Uuid,
    epoch: i64,
}

impl ViewsWriter for PostgresViewsWriter {
    fn take(&mut self) -> Result<(), ViewsError> {
        let (writer, names) = (self.writer, projections::NAMES.join(" "));
        self.epoch = None;
        let taken = self.with(|session| {
            let mut pipeline = session.pipeline();
            pipeline.script("BEGIN");
            // No crash takes an epoch back that somebody writes under.
            pipeline.script("SET LOCAL synchronous_commit = on");
            pipeline.query(
                "SELECT taken, holder FROM jangbu_views.take($1, $2)",
                vec![Box::new(writer), Box::new(names)],
            )?;
            pipeline.script("COMMIT");
            let rows = pipeline.run()?;
            let row = rows
                .iter()
                .flatten()
                .next()
                .ok_or_else(|| Error::unexpected("nobody says who keeps the views"))?;
            let holder: Option<i32> = row.try_get(1).map_err(Error::from)?;
            match row.try_get(0).map_err(Error::from)? {
                Some(epoch) => Ok(epoch),
                None => Err(Failed::Held(holder.unwrap_or_default())),
            }
        });
        self.epoch = Some(taken?);
        Ok(())
    }

    fn keep(&mut self) -> Result<(), ViewsError> {
        self.keeping(|session, Keeper { writer, epoch }| {
            session.query("SELECT jangbu_views.keep($1, $2)", &[&writer, &epoch])?;
            Ok(())
        })
    }

    fn give_up(&mut self) {
        // Without a session the server sees for itself that it is gone.
        let Some((epoch, session)) = self.epoch.take().zip(self.session.as_ref()) else {
            return;
        };
        let sql = "UPDATE jangbu_views.views SET holder = NULL WHERE holder = $1 AND epoch = $2";
        if let Err(error) = session.execute(sql, &[&self.writer, &epoch]) {
            tracing::debug!(%error, "the views were not given up: another process has to wait until it sees that they are free");
            self.session = None;
        }
    }

    fn stored(&mut self) -> Result<Stored, ViewsError> {
        self.with(|session| {
            let rows = session.query(
                "SELECT v.log, c.shard, c.position, c.recorded_at
                 FROM jangbu_views.views v LEFT JOIN jangbu_views.checkpoints c ON true ORDER BY c.shard",
                &[],
            )?;
            let mut stored = Stored::default();
            for row in rows {
                stored.log = row.try_get(0).map_err(Error::from)?;
                // No shard is counted: the one row is the log's.
                if row.try_get::<_, Option<i32>>(1).map_err(Error::from)?.is_some() {
                    stored.checkpoints.push(checkpoint(&row, 1)?);
                }
            }
            Ok(stored)
        })
    }

    fn reset(&mut self, log: Uuid) -> Result<(), ViewsError> {
        self.keeping(|session, Keeper { writer, epoch }| {
            let mut pipeline = session.pipeline();
            pipeline.script("BEGIN");
            pipeline.query("SELECT jangbu_views.keep($1, $2)", vec![Box::new(writer), Box::new(epoch)])?;
            pipeline.script(EMPTY);
            pipeline.query("UPDATE jangbu_views.views SET log = $1", vec![Box::new(log)])?;
            pipeline.script("COMMIT");
            Ok(pipeline.run().map(drop)?)
        })
    }

    fn save(&mut self, batch: &ViewsBatch<'_>) -> Result<(), ViewsError> {
        self.keeping(|session, keeper| {
            let mut pipeline = session.pipeline();
            pipeline.script("BEGIN");
            moves(&mut pipeline, keeper, batch.moves)?;
            rows(&mut pipeline, &batch.orders)?;
            sellers(&mut pipeline, &batch.orders)?;
            rows(&mut pipeline, &batch.products)?;
            rows(&mut pipeline, &batch.inventories)?;
            rows(&mut pipeline, &batch.payments)?;
            rows(&mut pipeline, &batch.wallets)?;
            entries(&mut pipeline, batch.wallet_entries)?;
            rows(&mut pipeline, &batch.accounts)?;
            // After an error of any of these the server makes a rollback of it.
            pipeline.script("COMMIT");
            Ok(pipeline.run().map(drop)?)
        })
    }
}

impl<V: Row> Table<V> for PostgresViewsWriter {
    fn load(&mut self, ids: &[Uuid]) -> Result<Vec<V>, ViewsError> {
        self.with(|session| {
            let (sql, mut found) = (by_id(V::TABLE), Vec::with_capacity(ids.len()));
            for ids in ids.chunks(MOST) {
                for row in session.query(&sql, &[&ids])? {
                    found.push(serde_json::from_str(row.try_get(1).map_err(Error::from)?)?);
                }
            }
            Ok(found)
        })
    }
}

/// Of three columns from this one on.
pub(crate) fn checkpoint(row: &Found, from: usize) -> Result<Checkpoint, Error> {
    let (shard, position): (i32, i64) = (row.try_get(from)?, row.try_get(from + 1)?);
    Ok(Checkpoint {
        // What is there was written from these types.
        shard: u16::try_from(shard).unwrap_or_default(),
        position: u64::try_from(position).unwrap_or_default(),
        recorded_at: Timestamp::from_micros(row.try_get(from + 2)?),
    })
}

fn moves(pipeline: &mut Pipeline<'_>, keeper: Keeper, moves: &[Move]) -> Result<(), Failed> {
    let places = |of: fn(&Move) -> u64| moves.iter().map(|step| number(of(step))).collect::<Result<Vec<i64>, Failed>>();
    pipeline.query(
        "SELECT jangbu_views.advance($1, $2, $3, $4, $5, $6)",
        vec![
            Box::new(keeper.writer),
            Box::new(keeper.epoch),
            Box::new(moves.iter().map(|step| i32::from(step.shard)).collect::<Vec<_>>()),
            Box::new(places(|step| step.from)?),
            Box::new(places(|step| step.to)?),
            Box::new(moves.iter().map(|step| step.recorded_at.micros()).collect::<Vec<_>>()),
        ],
    )?;
    Ok(())
}

fn rows<V: Row>(pipeline: &mut Pipeline<'_>, rows: &[Changed<'_, V>]) -> Result<(), Failed> {
    let of = |fresh: bool| -> Vec<&V> { rows.iter().filter(|row| row.fresh == fresh).map(|row| row.view).collect() };
    for rows in of(true).chunks(MOST) {
        pipeline.query(V::INSERT, values(rows, V::columns(rows))?)?;
    }
    for rows in of(false).chunks(MOST) {
        pipeline.query(V::UPDATE, values(rows, V::changing(rows))?)?;
    }
    Ok(())
}

fn values<V: Row>(rows: &[&V], columns: Vec<Column>) -> Result<Vec<Column>, Failed> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id()).collect();
    let mut values: Vec<Column> = vec![Box::new(ids), Box::new(written(rows)?)];
    values.extend(columns);
    Ok(values)
}

fn written<V: Serialize>(rows: &[&V]) -> Result<Vec<String>, Failed> {
    Ok(rows.iter().map(serde_json::to_string).collect::<Result<_, _>>()?)
}

/// What leads from a seller to their orders and buyers. It never changes, so only new orders bring any.
fn sellers(pipeline: &mut Pipeline<'_>, orders: &[Changed<'_, OrderView>]) -> Result<(), Failed> {
    let (mut of_sellers, mut buyers) = (Vec::new(), BTreeSet::new());
    for order in orders.iter().filter(|order| order.fresh).map(|order| order.view) {
        let sellers: BTreeSet<Uuid> = order.lines.iter().map(|line| line.seller.uuid()).collect();
        for seller in sellers {
            of_sellers.push((seller, order.placed_at.micros(), order.id.uuid()));
            buyers.insert((seller, order.buyer.uuid()));
        }
    }
    for rows in of_sellers.chunks(MOST) {
        pipeline.query(
            "INSERT INTO jangbu_views.order_sellers_v1 (seller, placed_at, id) SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::uuid[])",
            vec![
                Box::new(rows.iter().map(|row| row.0).collect::<Vec<_>>()),
                Box::new(rows.iter().map(|row| row.1).collect::<Vec<_>>()),
                Box::new(rows.iter().map(|row| row.2).collect::<Vec<_>>()),
            ],
        )?;
    }
    let buyers: Vec<_> = buyers.into_iter().collect();
    for rows in buyers.chunks(MOST) {
        pipeline.query(
            "INSERT INTO jangbu_views.seller_buyers_v1 (seller, buyer) SELECT * FROM unnest($1::uuid[], $2::uuid[]) ON CONFLICT DO NOTHING",
            vec![
                Box::new(rows.iter().map(|row| row.0).collect::<Vec<_>>()),
                Box::new(rows.iter().map(|row| row.1).collect::<Vec<_>>()),
            ],
        )?;
    }
    Ok(())
}

fn entries(pipeline: &mut Pipeline<'_>, entries: &[WalletEntry]) -> Result<(), Failed> {
    for rows in entries.chunks(MOST) {
        let sequences: Vec<i64> = rows.iter().map(|row| number(row.sequence)).collect::<Result<_, _>>()?;
        pipeline.query(
            "INSERT INTO jangbu_views.wallet_entries_v1 (account, sequence, data)
             SELECT n.account, n.sequence, n.data::json FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS n(account, sequence, data)",
            vec![
                Box::new(rows.iter().map(|row| row.account.uuid()).collect::<Vec<_>>()),
                Box::new(sequences),
                Box::new(written(&rows.iter().collect::<Vec<_>>())?),
            ],
        )?;
    }
    Ok(())
}

fn number(number: u64) -> Result<i64, Failed> {
    i64::try_from(number).map_err(|_| Failed::TooLarge)
}

enum Failed {
    Postgres(Error),
    Json(serde_json::Error),
    TooLarge,
    /// Another one keeps the views: it is served by this process of the server.
    Held(i32),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<serde_json::Error> for Failed {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}

impl Failed {
    /// Whether nobody knows what the session is in the middle of.
    fn spoils_the_session(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        matches!(error.trouble(), Trouble::Lost | Trouble::Silent) || error.code() == Some(READ_ONLY)
    }

    fn explained(self, address: &Address) -> ViewsError {
        let damaged = |what: &str| {
            let remedy = "stop, drop the schema jangbu_views, and the views are filled anew from the log";
            ViewsError::Unavailable(format!("the views in {address} are damaged ({what}): {remedy}").into())
        };
        match self {
            Self::Postgres(error) => match error.code() {
                Some(MOVED) => ViewsError::Moved(shard(&error)),
                Some(MISSING) => damaged("a row is missing"),
                Some(TAKEN) => ViewsError::Held("it has taken them from this one".into()),
                // A constraint: a row that should not be there, or one that is not as it must be.
                Some(code) if code.starts_with("23") => damaged(&error.to_string()),
                _ => ViewsError::Unavailable(Box::new(error)),
            },
            Self::Json(error) => damaged(&error.to_string()),
            Self::TooLarge => damaged("a number is too large"),
            Self::Held(process) => ViewsError::Held(format!("whom process {process} of the database serves")),
        }
    }
}

/// The shard that the server names.
fn shard(error: &Error) -> u16 {
    let text = error.to_string();
    let digits = text.split(|character: char| !character.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_default()
}
