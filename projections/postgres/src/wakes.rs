//! Hearing of what another process saves.

use std::{
    thread,
    time::{Duration, Instant},
};

use event_store::Wakes;
use postgres_session::{Address, Error, Session};

use crate::{open, schema::CHANNEL};

/// How long to wait before a lost session is opened again.
const AGAIN: Duration = Duration::from_millis(500);

/// So often there may be something new when nobody can be heard.
const DEAF: Duration = Duration::from_millis(50);

/// A session that nothing was heard on for so long is asked whether it is there: a connection may be cut without either end being told.
const SILENT: Duration = Duration::from_secs(10);

/// One that listens, on a session of its own to the server that the views are read from: what is heard can be read.
pub(crate) struct Listening {
    address: Address,
    /// None while it is lost.
    session: Option<Session>,
    /// When something was last heard, or tried.
    since: Instant,
}

impl Listening {
    /// A standby has no channels.
    pub(crate) fn to(address: &Address) -> Result<Self, Error> {
        Ok(Self {
            session: Some(listening(address)?),
            address: address.clone(),
            since: Instant::now(),
        })
    }

    /// Opens a session again, from time to time.
    fn again(&mut self) {
        if self.since.elapsed() >= AGAIN {
            match listening(&self.address) {
                Ok(session) => self.session = Some(session),
                Err(error) => tracing::debug!(%error, "nobody can be heard who saves views: they are asked again and again"),
            }
            self.since = Instant::now();
        }
    }
}

fn listening(address: &Address) -> Result<Session, Error> {
    let session = open::reading_again(address)?;
    session.listen(CHANNEL)?;
    Ok(session)
}

impl Wakes for Listening {
    fn wait(&mut self, at_most: Duration) -> bool {
        let Some(session) = &self.session else {
            thread::sleep(at_most.min(DEAF));
            self.again();
            return true;
        };
        let silent = self.since.elapsed() >= SILENT;
        let heard = session.heard(at_most).and_then(|heard| {
            if silent && !heard {
                session.script("")?;
            }
            Ok(heard)
        });
        if silent || heard.as_ref().is_ok_and(|heard| *heard) {
            self.since = Instant::now();
        }
        // One that is lost may have been told something.
        heard.unwrap_or_else(|error| {
            tracing::debug!(%error, "whoever saves views is heard no more");
            self.session = None;
            true
        })
    }
}
