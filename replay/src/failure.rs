//! Why it ends: one line for people, and an exit code for programs.

use std::{fmt, io::Write as _, process::ExitCode};

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

    /// Something that was asked for is not there, or not in a way that it could be looked at.
    pub(crate) fn partial(line: impl fmt::Display) -> Self {
        Self {
            line: one_line(&line),
            code: PARTIAL,
        }
    }

    /// The same, for one who has done some of what was asked for.
    pub(crate) fn into_partial(self) -> Self {
        Self { code: PARTIAL, ..self }
    }

    pub(crate) fn interrupted() -> Self {
        Self {
            line: "interrupted".to_owned(),
            code: INTERRUPTED,
        }
    }

    /// What is said, for one who goes on without.
    pub(crate) fn into_line(self) -> String {
        self.line
    }

    /// What is said.
    #[cfg(test)]
    pub(crate) fn line(&self) -> &str {
        &self.line
    }

    /// Says so on standard error.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.line.is_empty() {
            // Whoever reads it may have gone too.
            let _ = writeln!(std::io::stderr(), "replay: {}", self.line);
        }
        ExitCode::from(self.code)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::input(error)
    }
}

impl From<std::io::Error> for Failure {
    /// Of standard output. Whoever read it and has gone, as `head` does, has seen enough; a disk may be full.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self {
                line: String::new(),
                code: OK,
            };
        }
        Self::input(format_args!("the output cannot be written: {error}"))
    }
}

fn one_line(text: &impl fmt::Display) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
