//! Why it ends: one line for people, and an exit code for programs.

use std::{fmt, process::ExitCode};

use event_store::StoreError;

pub(crate) const OK: u8 = 0;
/// A wrong command line, or an input that cannot be read.
pub(crate) const USAGE: u8 = 1;
/// Something does not hold.
pub(crate) const FAILED: u8 = 2;
/// Something that was asked for could not be checked.
pub(crate) const PARTIAL: u8 = 3;
const INTERRUPTED: u8 = 130;

/// Why it ends before its time.
#[derive(Debug)]
pub(crate) struct Failure {
    line: String,
    code: u8,
}

impl Failure {
    /// The input is not one that can be read.
    pub(crate) fn input(line: impl fmt::Display) -> Self {
        Self {
            line: one_line(&line),
            code: USAGE,
        }
    }

    pub(crate) fn interrupted() -> Self {
        Self {
            line: "interrupted".to_owned(),
            code: INTERRUPTED,
        }
    }

    /// Says so on standard error.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("replay: {}", self.line);
        ExitCode::from(self.code)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::input(error)
    }
}

impl From<std::io::Error> for Failure {
    /// Of standard output: whoever read it has gone, or its disk is full.
    fn from(error: std::io::Error) -> Self {
        Self::input(format_args!("the output cannot be written: {error}"))
    }
}

fn one_line(text: &impl fmt::Display) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
