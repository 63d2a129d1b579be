//! Kafka, where it is built in: events go out, and engines of several processes share the shards of the log.

#[cfg(feature = "kafka")]
mod with;
#[cfg(not(feature = "kafka"))]
mod without;

#[cfg(feature = "kafka")]
pub(crate) use with::{Group, Kafka, move_checkpoint};
#[cfg(not(feature = "kafka"))]
pub(crate) use without::{Group, Kafka};
