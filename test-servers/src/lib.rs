//! Real servers for tests, as `tools/setup.sh servers` installs them: PostgreSQL, Redis, Kafka and the shop's entry, each on free loopback
//! ports with its data in a scratch directory. They may be killed, frozen, cut off and started again; and they are stopped and their data
//! removed when the value is dropped, and also when the test process ends in any other way: a watchdog per server waits for that.
//!
//! For tests alone: what cannot be done is a panic that says why. Nothing here talks to a server that a test did not start, except to one
//! that `JANGBU_TEST_POSTGRES`, `JANGBU_TEST_REDIS` or `JANGBU_TEST_KAFKA` names, and there it only makes databases and topics.

mod haproxy;
mod kafka;
mod kafka_protocol;
mod port;
mod postgres;
mod processes;
mod proxy;
mod redis;
mod server;
mod watchdog;

pub use haproxy::Haproxy;
pub use kafka::{Kafka, SharedKafka};
pub use postgres::{Database, Postgres, SharedPostgres};
pub use proxy::Proxy;
pub use redis::{Redis, SharedRedis};
pub use server::Server;
pub use watchdog::Guarded;
