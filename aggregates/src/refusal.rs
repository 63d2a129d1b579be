//! Why the shop says no, in words that a shopper or an operator understands.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// What kind of no it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// There is no such thing.
    Unknown,
    /// Not in the state that it is in.
    State,
    /// Too late, for good.
    Gone,
    /// The caller named a version that is not the current one.
    Version,
    /// A rule forbids it.
    Rule,
    /// The caller may not.
    Forbidden,
}

/// A refusal as it is recorded and answered: it survives a restart, so it owns its words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What kind of no it is.
    pub class: Class,
    /// Stable, for programs.
    pub code: Cow<'static, str>,
    /// For people.
    pub detail: Cow<'static, str>,
    /// JSON pointer into the request's body, where one member is to blame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
}

/// An aggregate's error, seen from outside.
pub trait Reason: std::error::Error {
    /// What kind of no it is.
    fn class(&self) -> Class;

    /// Stable, for programs.
    fn code(&self) -> &'static str;

    /// JSON pointer into the request's body, where one member is to blame.
    fn pointer(&self) -> Option<String> {
        None
    }
}

impl<R: Reason> From<R> for Refusal {
    fn from(reason: R) -> Self {
        Self {
            class: reason.class(),
            code: Cow::Borrowed(reason.code()),
            detail: Cow::Owned(reason.to_string()),
            pointer: reason.pointer(),
        }
    }
}
