//! One test binary that can be carried to a machine with a server of EventStoreDB or `KurrentDB`, and needs nothing else there: the suite that
//! every store passes, and the purchases of a whole shop, each with streams of its own. `make esdb-tests` builds it; docs/eventstoredb.md says more.
//!
//! The shop is this binary too, started again.

#![allow(clippy::duplicate_mod, reason = "the tests that are put together here have the same harness")]

#[path = "../../event-store/eventstoredb/tests/eventstoredb.rs"]
mod suite;

#[path = "load.rs"]
mod load;
#[path = "races.rs"]
mod races;
#[path = "ways_back.rs"]
mod ways_back;

mod shop;

use std::{env, ffi::OsString, process::ExitCode};

/// Is the shop when it is asked to be, and otherwise proves nothing.
#[test]
fn as_the_shop() -> ExitCode {
    let Ok(arguments) = env::var(shop::ARGUMENTS) else {
        return ExitCode::SUCCESS;
    };
    let arguments: Vec<String> = serde_json::from_str(&arguments).expect("arguments");
    let program = ["jangbu".to_owned()];
    jangbu::main_with(program.into_iter().chain(arguments).map(OsString::from).collect())
}
