//! Why the program ends: one line for people, and an exit code for programs.

use std::{fmt, process::ExitCode};

use event_store::StoreError;
use key_vault::VaultError;
use payment_gateway_simulator::SimulatorError;
use projections_sqlite::OpenError;

use crate::{adopt::ADOPTER, move_log::CopyId};

/// Why the program ends.
#[derive(Debug)]
pub(crate) struct Failure {
    line: String,
    code: u8,
}

impl Failure {
    /// What was asked cannot be done as it was asked: a setting, a flag or a directory has to change first.
    pub(crate) fn wrong(line: impl fmt::Display) -> Self {
        Self {
            line: one_line(&line),
            code: 2,
        }
    }

    /// Something went wrong while it was done.
    pub(crate) fn failed(line: impl fmt::Display) -> Self {
        Self {
            line: one_line(&line),
            code: 1,
        }
    }

    /// A signal ended it.
    pub(crate) fn interrupted(line: impl fmt::Display) -> Self {
        Self {
            line: one_line(&line),
            code: 130,
        }
    }

    /// The same, and this to be said with it.
    pub(crate) fn with(mut self, more: impl fmt::Display) -> Self {
        self.line = one_line(&format_args!("{}{more}", self.line));
        self
    }

    /// Says so on standard error.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("jangbu: {}", self.line);
        ExitCode::from(self.code)
    }

    /// The line.
    pub(crate) fn line(&self) -> &str {
        &self.line
    }
}

fn one_line(text: &impl fmt::Display) -> String {
    let text = text.to_string();
    text.split(['\n', '\r'])
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format_args!("{error:#}"))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Foreign(_) | StoreError::Corrupt(_) => Self::wrong(error),
            StoreError::Held { holder, .. } if holder.contains(&ADOPTER.to_string()) => Self::failed(
                "the log is not complete: `jangbu adopt` writes it, or was interrupted; run that again, and it goes on behind what is there",
            ),
            StoreError::Held { holder, .. } if CopyId::of_mover(&holder).is_some() => Self::failed(
                "the log is not complete: `jangbu move` copies it, or was interrupted; run that again, and it goes on behind what is there",
            ),
            StoreError::Held { holder, .. } if CopyId::of_moved(&holder).is_some() => Self::wrong(
                "this log has moved (`jangbu move`): a shop that went on from here would have another history; serve it where it is now, \
                 or move it back into a new place",
            ),
            StoreError::Held { holder, .. } => Self::failed(format_args!(
                "the data directory is in use by another process ({holder}); stop that one first, or name another directory with --data"
            )),
            StoreError::Unavailable(_) => Self::failed(error),
        }
    }
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Damaged { .. }
            | VaultError::Missing { .. }
            | VaultError::Foreign { .. }
            | VaultError::Incomplete { .. }
            | VaultError::NotEmpty { .. }
            | VaultError::Taken { .. }
            | VaultError::Refused { .. } => Self::wrong(error),
            _ => Self::failed(error),
        }
    }
}

impl From<SimulatorError> for Failure {
    fn from(error: SimulatorError) -> Self {
        match error {
            SimulatorError::Foreign { .. } | SimulatorError::Newer { .. } | SimulatorError::Currency(_) => Self::wrong(error),
            _ => Self::failed(error),
        }
    }
}

impl From<projections_postgres::OpenError> for Failure {
    fn from(error: projections_postgres::OpenError) -> Self {
        match error {
            projections_postgres::OpenError::Schema { .. } | projections_postgres::OpenError::OtherShapes { .. } => Self::wrong(error),
            projections_postgres::OpenError::Unavailable { .. } => Self::failed(error),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Newer { .. } | OpenError::Unusable { .. } => Self::wrong(error),
            OpenError::Unavailable { .. } | OpenError::NotMade { .. } | OpenError::OldSqlite(_) => Self::failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        assert_eq!(Failure::wrong("a\n  b\r\n\nc").line(), "a b c");
    }
}
