//! How Kafka is reached, and what goes where.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use secrecy::SecretString;

/// How Kafka is reached. Nothing of it is shown but the brokers.
#[derive(Clone, Default)]
pub struct KafkaSettings {
    /// `HOST:PORT`, several with commas between.
    pub brokers: String,
    /// Whether the connection is encrypted, and whether we say who we are.
    pub security: SecurityProtocol,
    /// Who we are, where the protocol asks for it.
    pub sasl: Option<Sasl>,
    /// The certificates (PEM) of those whom we trust; the system's where none are named.
    pub ca_location: Option<PathBuf>,
    /// Our own certificate and its key (PEM), where the brokers ask for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl KafkaSettings {
    /// Brokers on a network that is trusted.
    pub fn plaintext(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            ..Self::default()
        }
    }
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("security", &self.security)
            .finish_non_exhaustive()
    }
}

/// Who we are for the brokers.
#[derive(Clone)]
pub struct Sasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    /// The user.
    pub username: String,
    /// The user's password.
    pub password: SecretString,
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sasl").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

/// A setting has no such value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is none of {known}")]
pub struct UnknownName {
    found: String,
    known: &'static str,
}

/// What a connection is protected by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecurityProtocol {
    /// Nothing.
    #[default]
    Plaintext,
    /// TLS.
    Ssl,
    /// A user, who is checked; what is sent can be read by others.
    SaslPlaintext,
    /// TLS, and a user.
    SaslSsl,
}

impl SecurityProtocol {
    /// As Kafka calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Ssl => "SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslSsl => "SASL_SSL",
        }
    }

    pub(crate) const fn has_user(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

impl FromStr for SecurityProtocol {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let all = [Self::Plaintext, Self::Ssl, Self::SaslPlaintext, Self::SaslSsl];
        named(text, &all, Self::name, "PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL")
    }
}

/// How batches of records are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Zstandard.
    #[default]
    Zstd,
    /// LZ4.
    Lz4,
    /// Not at all.
    None,
}

impl Compression {
    /// As Kafka calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::None => "none",
        }
    }
}

impl FromStr for Compression {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        named(text, &[Self::Zstd, Self::Lz4, Self::None], Self::name, "zstd, lz4, none")
    }
}

fn named<T: Copy>(text: &str, all: &[T], name: impl Fn(T) -> &'static str, known: &'static str) -> Result<T, UnknownName> {
    let found = all.iter().find(|value| name(**value).eq_ignore_ascii_case(text));
    found.copied().ok_or_else(|| UnknownName {
        found: text.to_owned(),
        known,
    })
}

/// What the topics are called, and what they are made with where there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// What every name begins with that is not given by itself: `jangbu.` makes `jangbu.order-events`.
    pub prefix: String,
    /// Topics of single kinds of aggregates, by the kind (`order`); and of `parked` and `unpark`. Several may share one.
    pub names: BTreeMap<String, String>,
    /// Whether a topic that is not there is made.
    pub create: bool,
    /// Partitions of a topic that is made here. Adding some to a topic that holds events moves streams to other partitions: order is kept
    /// within a partition only.
    pub partitions: u16,
    /// How often each partition is kept by a topic that is made here; the broker's default where it is not said.
    pub replication: Option<u16>,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self {
            prefix: "jangbu.".into(),
            names: BTreeMap::new(),
            create: true,
            partitions: 12,
            replication: None,
        }
    }
}

impl TopicSettings {
    /// The topic of an aggregate's events: `jangbu.order-events` for `order`.
    pub fn of_events(&self, kind: &str) -> String {
        self.named(kind, &format!("{kind}-events"))
    }

    /// The topic of inputs that were set aside.
    pub fn parked(&self) -> String {
        self.named("parked", "parked")
    }

    /// The topic of decisions on inputs that were set aside.
    pub fn unpark(&self) -> String {
        self.named("unpark", "unpark")
    }

    /// Kafka knows letters, digits, `.`, `_` and `-`; what else a kind may hold becomes `-`.
    fn named(&self, key: &str, otherwise: &str) -> String {
        let known = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
        let cleaned = |letter| if known(letter) { letter } else { '-' };
        let given = self.names.get(key).cloned();
        given.unwrap_or_else(|| format!("{}{}", self.prefix, otherwise.chars().map(cleaned).collect::<String>()))
    }
}

/// What a relay does.
#[derive(Clone, Debug)]
pub struct RelaySettings {
    /// How Kafka is reached.
    pub kafka: KafkaSettings,
    /// Where the records go.
    pub topics: TopicSettings,
    /// The name of its checkpoints: letters, digits and `_`. Relays of one name share the work, relays of different names each publish everything.
    pub name: String,
    /// The source of the `CloudEvents`; `/jangbu/LOG-ID` where it is not said.
    pub source: Option<String>,
    /// How batches are compressed.
    pub compression: Compression,
    /// The most records that are under way.
    pub most_in_flight: usize,
    /// How often it looks for events when nobody wakes it.
    pub idle: Duration,
    /// How long another's checkpoint has to stand still, with events behind it, before this relay goes on in its place.
    pub takeover: Duration,
}

impl RelaySettings {
    /// The usual ones, for this Kafka.
    pub fn new(kafka: KafkaSettings) -> Self {
        Self {
            kafka,
            topics: TopicSettings::default(),
            name: "relay".into(),
            source: None,
            compression: Compression::default(),
            most_in_flight: 5_000,
            idle: Duration::from_millis(50),
            takeover: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_named_by_kind_unless_it_is_said_otherwise() {
        let mut topics = TopicSettings::default();
        assert_eq!(topics.of_events("order"), "jangbu.order-events");
        assert_eq!(topics.of_events("a kind/of"), "jangbu.a-kind-of-events");
        assert_eq!((topics.parked(), topics.unpark()), ("jangbu.parked".into(), "jangbu.unpark".into()));
        topics.prefix = "shop-7.".into();
        topics.names.insert("order".into(), "orders".into());
        topics.names.insert("parked".into(), "dead-letters".into());
        assert_eq!(topics.of_events("order"), "orders");
        assert_eq!(topics.of_events("payment"), "shop-7.payment-events");
        assert_eq!((topics.parked(), topics.unpark()), ("dead-letters".into(), "shop-7.unpark".into()));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let settings = RelaySettings::new(KafkaSettings {
            security: SecurityProtocol::SaslSsl,
            sasl: Some(Sasl {
                mechanism: "SCRAM-SHA-512".into(),
                username: "the-user".into(),
                password: "the-password".into(),
            }),
            ..KafkaSettings::plaintext("broker:9092")
        });
        let shown = format!("{settings:?} {:?}", settings.kafka.sasl);
        assert!(shown.contains("broker:9092"), "{shown}");
        assert!(!shown.contains("the-password") && !shown.contains("the-user"), "{shown}");
    }

    #[test]
    fn protocols_and_compressions_are_read_by_their_names() {
        assert_eq!("sasl_ssl".parse(), Ok(SecurityProtocol::SaslSsl));
        assert_eq!("LZ4".parse(), Ok(Compression::Lz4));
        let refused = "tls".parse::<SecurityProtocol>().expect_err("no name").to_string();
        assert_eq!(refused, "\"tls\" is none of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL");
    }
}
