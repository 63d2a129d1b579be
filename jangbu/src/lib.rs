//! The binary: roles, settings, telemetry, demo shop.
//!
//! It turns the libraries beside it into processes, and is the only one that reads settings. It decides nothing about the shop.

mod adopt;
mod attack;
pub mod bench;
mod cli;
mod client;
mod copies;
mod demo;
mod failure;
pub mod generate;
mod health;
mod hints;
mod http_server;
mod kafka;
mod move_log;
mod new_log;
mod places;
mod root_page;
mod serve;
mod settings;
mod simulator;
mod telemetry;

pub use cli::{main, main_with};
