//! Without Kafka there is none of these: the settings are refused before.

use std::sync::Arc;

use engine::{Elsewhere, Engine, Engines, Transport};
use event_store::{EventStore, Shards};

use crate::{
    failure::Failure,
    health::Health,
    settings::{Role, Settings},
};

/// What this process has to do with Kafka.
pub(crate) enum Kafka {}

/// Its place among the engines.
pub(crate) enum Group {}

impl Kafka {
    #[expect(clippy::unnecessary_wraps, reason = "as it is with Kafka")]
    pub(crate) fn open(_: &Settings, _: Shards) -> Result<Option<Self>, Failure> {
        Ok(None)
    }

    pub(crate) fn transport(&self) -> Option<Arc<dyn Transport>> {
        match *self {}
    }

    pub(crate) fn elsewhere(&self) -> Option<Arc<dyn Elsewhere>> {
        match *self {}
    }

    pub(crate) fn join(&self, _: Engines) -> Result<Group, Failure> {
        match *self {}
    }

    pub(crate) fn take_decisions(&mut self, _: &Engine) -> Result<(), Failure> {
        match *self {}
    }

    pub(crate) fn relay(&mut self, _: &Arc<dyn EventStore>) -> Result<(), Failure> {
        match *self {}
    }

    pub(crate) fn watched_by(&self, _: &Health, _: Role, _: Option<&Engine>) {
        match *self {}
    }

    pub(crate) fn wake_relay(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        match *self {}
    }

    pub(crate) fn stop(self) {
        match self {}
    }
}

impl Group {
    pub(crate) fn watched_by(&self, _: &Health, _: &Engine) {
        match *self {}
    }

    pub(crate) fn stop(self) {
        match self {}
    }
}
