//! What this process has to do with Kafka.

use std::{str::FromStr as _, sync::Arc};

use aggregates::Class;
use engine::{Actor, Elsewhere, Engine, Engines, Transport, Unpark};
use event_store::{EventStore, Shards};
use relay::{
    Decision, Decisions, KafkaError, KafkaSettings, NotUnparked, Relay, RelaySettings, Sasl, SecurityProtocol, TopicSettings,
    UnparkSettings, Unparker,
};
use relay_commands::{Commands, CommandsSettings, Member};
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::{
    failure::Failure,
    health::Health,
    places,
    settings::{self, Role, Settings},
};

/// The brokers, and what goes there from here and comes from there.
pub(crate) struct Kafka {
    reached: KafkaSettings,
    topics: TopicSettings,
    /// None where this process holds all shards, or has nothing to do with commands.
    commands: Option<Arc<Commands>>,
    relay: Option<Arc<Relay>>,
    decisions: Option<Decisions>,
}

/// This process's place among the engines.
pub(crate) struct Group(Member);

impl From<KafkaError> for Failure {
    fn from(error: KafkaError) -> Self {
        Self::wrong(error)
    }
}

impl Kafka {
    /// What the settings say of it; none when they name no brokers.
    pub(crate) fn open(settings: &Settings, shards: Shards) -> Result<Option<Self>, Failure> {
        let Some(written) = &settings.kafka else { return Ok(None) };
        let reached = how_reached(written)?;
        let topics = TopicSettings {
            prefix: written.topics.clone(),
            names: written.topic_names.clone(),
            ..TopicSettings::default()
        };
        let commands = if settings.role.commands() && settings.shares_shards() {
            let settings = CommandsSettings {
                topics: topics.clone(),
                group: format!("{}engines", written.topics.replace('.', "-")),
                ..CommandsSettings::new(reached.clone(), shards)
            };
            // Another name at each start: nobody takes the answers that are for the process before.
            Some(Arc::new(Commands::open(settings, Uuid::new_v4())?))
        } else {
            None
        };
        Ok(Some(Self {
            reached,
            topics,
            commands,
            relay: None,
            decisions: None,
        }))
    }

    /// Takes messages to the shards of other processes.
    pub(crate) fn transport(&self) -> Option<Arc<dyn Transport>> {
        self.commands.as_ref().map(|commands| commands.transport())
    }

    /// Asks the engines of other processes.
    pub(crate) fn elsewhere(&self) -> Option<Arc<dyn Elsewhere>> {
        self.commands.as_ref().map(|commands| commands.elsewhere())
    }

    /// From now on this process takes the shards that it is assigned.
    pub(crate) fn join(&self, engines: Engines) -> Result<Group, Failure> {
        let commands = self.commands.as_ref();
        let commands = commands.ok_or_else(|| Failure::failed("this process has no way to the engines"))?;
        Ok(Group(commands.join(engines, Handle::current())?))
    }

    /// What operators decide in Kafka on inputs that were set aside is carried out by the engine.
    pub(crate) fn take_decisions(&mut self, engine: &Engine) -> Result<(), Failure> {
        let settings = UnparkSettings {
            topics: self.topics.clone(),
            group: format!("{}unpark", self.topics.prefix.replace('.', "-")),
            ..UnparkSettings::new(self.reached.clone())
        };
        let unparker = Arc::new(ByTheEngine {
            engine: engine.clone(),
            runtime: Handle::current(),
        });
        self.decisions = Some(Decisions::start(&settings, unparker)?);
        Ok(())
    }

    /// Events go out from here.
    pub(crate) fn relay(&mut self, store: &Arc<dyn EventStore>) -> Result<(), Failure> {
        let settings = RelaySettings {
            name: RELAY.to_owned(),
            topics: self.topics.clone(),
            ..RelaySettings::new(self.reached.clone())
        };
        self.relay = Some(Arc::new(Relay::start(settings, Arc::clone(store))?));
        Ok(())
    }

    /// Wakes the relay when there are events.
    pub(crate) fn wake_relay(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        let wake = self.relay.as_ref()?.waker();
        Some(Box::new(wake))
    }

    /// Whether what has to be done by Kafka can be.
    pub(crate) fn watched_by(&self, health: &Health, role: Role, engine: Option<&Engine>) {
        if let (Some(commands), Some(engine)) = (self.commands.clone(), engine.cloned()) {
            let alive = Arc::clone(&commands);
            health.dies_when(move || (!alive.is_alive()).then(|| "what takes the answers of other engines has ended".to_owned()));
            health.hindered_when(move || {
                // Who holds all shards need not ask anybody.
                let hindrance = commands.hindrance().filter(|_| !engine.holds_all());
                hindrance.map(|hindrance| format!("the engines cannot be asked: {hindrance}"))
            });
        }
        if let Some(relay) = self.relay.clone()
            // A shop is open also while its events cannot go out.
            && role == Role::Relay
        {
            health.hindered_when(move || relay.readiness().err());
        }
    }

    /// Ends all of it. What was published is noted.
    pub(crate) fn stop(self) {
        let Self {
            commands,
            relay,
            decisions,
            ..
        } = self;
        drop((decisions, relay, commands));
    }
}

/// The name of the relay's checkpoints.
const RELAY: &str = "relay";

/// Moves the relay's checkpoint: what stands behind it is published, again or for the first time.
pub(crate) fn move_checkpoint(settings: &Settings, shard: u16, to: u64) -> Result<(), Failure> {
    settings.check_supported()?;
    let store = places::look_at_log(settings)?;
    relay::move_checkpoint(store.as_ref(), RELAY, shard, to)?;
    eprintln!("events of shard {shard} are published from behind position {to} on");
    Ok(())
}

impl Group {
    /// Whether the shards that it is assigned are taken.
    pub(crate) fn watched_by(&self, health: &Health, engine: &Engine) {
        let (standing, ended) = (self.0.watched(), self.0.watched());
        let engine = engine.clone();
        health.dies_when(move || ended().ended.then(|| "what takes commands from Kafka has ended".to_owned()));
        health.hindered_when(move || {
            let standing = standing();
            // Who holds all shards serves them also while Kafka is away.
            if standing.is_ready() || engine.holds_all() {
                return None;
            }
            Some(
                standing
                    .hindrance
                    .unwrap_or_else(|| "shards that were assigned are not taken yet".to_owned()),
            )
        });
    }

    /// Leaves the group: what is begun is finished, and others take the shards.
    pub(crate) fn stop(self) {
        self.0.stop();
    }
}

fn how_reached(written: &settings::Kafka) -> Result<KafkaSettings, Failure> {
    let security =
        SecurityProtocol::from_str(&written.security).map_err(|error| Failure::wrong(format_args!("JANGBU_KAFKA_SECURITY: {error}")))?;
    let sasl = match (&written.user, &written.password) {
        (Some(user), Some(password)) => Some(Sasl {
            mechanism: written.mechanism.clone(),
            username: user.clone(),
            password: password.clone(),
        }),
        (None, None) => None,
        _ => {
            return Err(Failure::wrong(
                "JANGBU_KAFKA_USER and JANGBU_KAFKA_PASSWORD are set together or not at all",
            ));
        }
    };
    let certificate = match (&written.certificate, &written.key) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        _ => {
            return Err(Failure::wrong(
                "JANGBU_KAFKA_CERTIFICATE and JANGBU_KAFKA_KEY are set together or not at all",
            ));
        }
    };
    Ok(KafkaSettings {
        brokers: written.brokers.clone(),
        security,
        sasl,
        ca_location: written.ca.clone(),
        certificate,
    })
}

/// Carries decisions out.
struct ByTheEngine {
    engine: Engine,
    runtime: Handle,
}

impl Unparker for ByTheEngine {
    fn unpark(&self, decision: Decision) -> Result<(), NotUnparked> {
        let unpark = Unpark {
            id: decision.id,
            how: decision.how,
            by: Actor::System,
        };
        match self.runtime.block_on(self.engine.unpark(unpark)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refusal)) if refusal.class == Class::Unknown => Err(NotUnparked::Unknown),
            Ok(Err(refusal)) => Err(NotUnparked::Refused(refusal.detail.into_owned())),
            Err(error) => Err(NotUnparked::Unavailable(error.to_string())),
        }
    }
}
