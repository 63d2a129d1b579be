//! The provider without wire, threads and clock: its books, kept at whatever time they are told. It decides as the served one does.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use payment_gateway_toss::amount;
use rusqlite::Connection;

use crate::SimulatorError;
use crate::decide::{Cancel, Change, Confirm, Decision, Refusal};
use crate::ledger::{self, Standing};
use crate::script::Script;

/// Changes that share a commit.
const MOST_AT_ONCE: u32 = 8_192;

/// A provider's books. What is told to them is durable after [`finish`](Self::finish).
#[derive(Debug)]
pub struct Books {
    connection: Connection,
    path: PathBuf,
    currency: String,
    /// Changes of the open transaction.
    open: u32,
}

/// What the provider says to a confirmation or a cancellation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It is done.
    Done {
        /// How much is charged in all.
        amount: i64,
    },
    /// It is not.
    Refused {
        /// The HTTP status that says so.
        status: u16,
        /// The provider's code.
        code: &'static str,
        /// The provider's words.
        message: &'static str,
    },
    /// Nothing: the connection stays open until the caller gives up.
    Silence,
}

/// What the provider knows of a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Charged, and not wholly given back.
    Charged {
        /// How much was charged.
        amount: i64,
        /// For what.
        order_id: String,
    },
    /// Charged and given back.
    Cancelled,
    /// Tried, or only begun: nothing was taken.
    NotCharged {
        /// The provider's name for it.
        status: &'static str,
    },
    /// There is no such payment.
    Nothing,
}

impl Books {
    /// Opens the books in this file, or begins them.
    pub fn open(path: &Path, currency: &str) -> Result<Self, SimulatorError> {
        if amount::decimals(currency).is_none() {
            return Err(SimulatorError::Currency(currency.to_owned()));
        }
        Ok(Self {
            connection: ledger::open(path)?,
            path: path.to_owned(),
            currency: currency.to_owned(),
            open: 0,
        })
    }

    /// A confirmation that comes at `at`.
    pub fn confirm(
        &mut self,
        at: Timestamp,
        payment_key: &str,
        order_id: &str,
        amount: i64,
        idempotency_key: &str,
    ) -> Result<Word, SimulatorError> {
        let Some(script) = Script::of(payment_key) else {
            return Ok(refused(Refusal::NOT_FOUND));
        };
        if script == Script::Lost {
            return Ok(Word::Silence);
        }
        let confirm = Change::Confirm(Confirm {
            script,
            payment_key: payment_key.to_owned(),
            order_id: order_id.to_owned(),
            amount,
            currency: self.currency.clone(),
            idempotency_key: Some(idempotency_key.to_owned()),
        });
        let decision = self.change(&confirm, at)?;
        Ok(if script == Script::LostApplied {
            Word::Silence
        } else {
            word(decision)
        })
    }

    /// A cancellation of this amount that comes at `at`.
    pub fn cancel(
        &mut self,
        at: Timestamp,
        payment_key: &str,
        amount: i64,
        reason: &str,
        idempotency_key: &str,
    ) -> Result<Word, SimulatorError> {
        let cancel = Change::Cancel(Cancel {
            payment_key: payment_key.to_owned(),
            amount: Some(amount),
            reason: reason.to_owned(),
            idempotency_key: Some(idempotency_key.to_owned()),
        });
        Ok(word(self.change(&cancel, at)?))
    }

    /// A question for a payment.
    pub fn known(&self, payment_key: &str) -> Result<Known, SimulatorError> {
        if Script::of(payment_key).is_none() {
            return Ok(Known::Nothing);
        }
        let standing = ledger::standing(&self.connection, payment_key).map_err(|error| self.unusable(error))?;
        Ok(match standing {
            Standing::Charged(payment) if payment.balance() == 0 => Known::Cancelled,
            Standing::Charged(payment) => Known::Charged {
                amount: payment.charge.amount,
                order_id: payment.charge.order_id,
            },
            Standing::Attempted(attempt) if attempt.declined => Known::NotCharged { status: "ABORTED" },
            Standing::Attempted(_) | Standing::Untouched => Known::NotCharged { status: "IN_PROGRESS" },
        })
    }

    /// Makes everything durable, and closes the books.
    pub fn finish(mut self) -> Result<(), SimulatorError> {
        self.commit()?;
        let path = self.path;
        self.connection.close().map_err(|(_, error)| SimulatorError::unusable(&path, error))
    }

    fn change(&mut self, change: &Change, at: Timestamp) -> Result<Decision, SimulatorError> {
        if self.open == 0 {
            self.execute("BEGIN IMMEDIATE")?;
        }
        self.open += 1;
        let decision = change.decide(&self.connection, at).map_err(|error| self.unusable(error))?;
        if self.open >= MOST_AT_ONCE {
            self.commit()?;
        }
        Ok(decision)
    }

    fn commit(&mut self) -> Result<(), SimulatorError> {
        if std::mem::take(&mut self.open) > 0 {
            self.execute("COMMIT")?;
        }
        Ok(())
    }

    fn execute(&self, sql: &str) -> Result<(), SimulatorError> {
        self.connection.execute_batch(sql).map_err(|error| self.unusable(error))
    }

    fn unusable(&self, error: rusqlite::Error) -> SimulatorError {
        SimulatorError::unusable(&self.path, error)
    }
}

fn word(decision: Decision) -> Word {
    match decision {
        Ok(payment) => Word::Done {
            amount: payment.charge.amount,
        },
        Err(refusal) => refused(refusal),
    }
}

fn refused(Refusal { status, code, message }: Refusal) -> Word {
    Word::Refused { status, code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn books(folder: &tempfile::TempDir) -> Books {
        Books::open(&folder.path().join("simulator.db"), "KRW").expect("books")
    }

    #[tokio::test]
    async fn what_the_books_were_told_the_served_provider_knows() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut books = books(&folder);
        let mut confirm = |key| books.confirm(at(7), key, "order-1", 5_000, "charge-1").expect("a word");
        assert_eq!(confirm("sim_ok_1"), Word::Done { amount: 5_000 });
        assert_eq!(confirm("sim_lost_applied_1"), Word::Silence);
        assert_eq!(confirm("sim_lost_1"), Word::Silence);
        assert!(matches!(confirm("sim_declined_1"), Word::Refused { status: 403, .. }));
        assert!(matches!(confirm("sim_5xx_1"), Word::Refused { status: 500, .. }));
        assert!(matches!(confirm("unknown"), Word::Refused { status: 404, .. }));
        let back = books.cancel(at(9), "sim_ok_1", 5_000, "not wanted", "cancel-1").expect("a word");
        assert_eq!(back, Word::Done { amount: 5_000 });
        let known = |key| books.known(key).expect("an answer");
        assert_eq!(known("sim_ok_1"), Known::Cancelled);
        assert!(matches!(known("sim_lost_applied_1"), Known::Charged { amount: 5_000, .. }));
        assert_eq!(known("sim_lost_1"), Known::NotCharged { status: "IN_PROGRESS" });
        assert_eq!(known("sim_declined_1"), Known::NotCharged { status: "ABORTED" });
        assert_eq!(known("unknown"), Known::Nothing);
        books.finish().expect("durable");
        let served = crate::Simulator::open(&folder.path().join("simulator.db")).expect("a simulator");
        let page = served.entries_after(0, 10, Some("order-1")).await.expect("a page");
        let times: Vec<_> = page.entries.iter().map(|entry| entry.at.as_second()).collect();
        assert_eq!((times, page.net["order-1"]), (vec![7, 7, 9], 5_000));
    }
}
