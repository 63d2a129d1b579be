//! A small client of a shop's REST API: for the bench, which shares the machine with what it measures, and for the attack tool.

pub(crate) mod http;
pub(crate) mod people;
