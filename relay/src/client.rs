//! What is the same for everybody who speaks to Kafka.

use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext,
    admin::AdminClient,
    config::{FromClientConfigAndContext as _, RDKafkaLogLevel},
    error::{KafkaError as Cause, RDKafkaErrorCode},
};
use secrecy::ExposeSecret as _;

use crate::{KafkaSettings, settings::Sasl, topics::Missing};

/// How long a broker may take to answer before the request is sent again.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Why Kafka cannot be used as it was set up.
#[derive(Debug, thiserror::Error)]
#[error("Kafka: {0}")]
pub struct KafkaError(String);

impl KafkaError {
    /// What is wrong, in words for an operator.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    pub(crate) fn no_thread(error: &std::io::Error) -> Self {
        Self(format!("no thread can be started: {error}"))
    }
}

impl From<Missing> for KafkaError {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Unknown(error) | Missing::Topic(error) => error,
        }
    }
}

impl From<Cause> for KafkaError {
    fn from(cause: Cause) -> Self {
        match cause {
            // Its value may be a password.
            Cause::ClientConfig(_, what, name, _) => Self(format!("the setting {name}: {what}")),
            cause => Self(cause.to_string()),
        }
    }
}

impl KafkaSettings {
    /// A client's settings, before it says what it is for.
    ///
    /// # Errors
    /// The settings contradict themselves; the text says which.
    pub fn client(&self) -> Result<ClientConfig, KafkaError> {
        if self.brokers.trim().is_empty() {
            return Err(KafkaError::new("no brokers are named; write HOST:PORT"));
        }
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "jangbu")
            .set("security.protocol", self.security.name())
            .set("socket.timeout.ms", ANSWER_WITHIN.as_millis().to_string())
            .set("socket.connection.setup.timeout.ms", "5000")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.max.ms", "2000")
            .set_log_level(RDKafkaLogLevel::Warning);
        if self.security.has_user() {
            let Some(sasl) = &self.sasl else {
                return Err(KafkaError::new(format!("{} needs a user and a password", self.security.name())));
            };
            identify(&mut client, sasl);
        }
        if let Some(trusted) = &self.ca_location {
            client.set("ssl.ca.location", text(trusted)?);
        }
        if let Some((certificate, key)) = &self.certificate {
            client
                .set("ssl.certificate.location", text(certificate)?)
                .set("ssl.key.location", text(key)?);
        }
        Ok(client)
    }
}

/// Makes a client and lets it go: what is wrong with the settings shows without a broker.
pub(crate) fn try_out(config: &ClientConfig) -> Result<(), KafkaError> {
    AdminClient::from_config_and_context(config, Said::default())
        .map(drop)
        .map_err(KafkaError::from)
}

fn identify(client: &mut ClientConfig, sasl: &Sasl) {
    client
        .set("sasl.mechanism", &sasl.mechanism)
        .set("sasl.username", &sasl.username)
        .set("sasl.password", sasl.password.expose_secret());
}

fn text(path: &std::path::Path) -> Result<&str, KafkaError> {
    path.to_str()
        .ok_or_else(|| KafkaError::new(format!("{} is no name that Kafka's client can take", path.display())))
}

/// What the client says of its own accord: it repeats itself, so it is kept until somebody asks.
#[derive(Debug, Default)]
pub(crate) struct Said(Mutex<Saying>);

#[derive(Debug, Default)]
struct Saying {
    last: Option<String>,
    away: bool,
}

impl Said {
    /// Whether no broker can be reached since it was asked last, and why, as far as it is known.
    pub(crate) fn away(&self) -> Option<String> {
        let mut said = self.0.lock();
        std::mem::take(&mut said.away).then(|| said.last.clone().unwrap_or_else(|| "no broker can be reached".into()))
    }

    /// The last that it said, as far as it said something.
    pub(crate) fn last(&self) -> Option<String> {
        self.0.lock().last.clone()
    }
}

impl ClientContext for Said {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::warn!(facility, message, "Kafka's client");
            }
            _ => tracing::debug!(facility, message, "Kafka's client"),
        }
    }

    fn error(&self, error: Cause, reason: &str) {
        let mut said = self.0.lock();
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            said.away = true;
        } else {
            said.last = Some(reason.to_owned());
        }
        tracing::debug!(%error, reason, "Kafka's client");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecurityProtocol;

    #[test]
    fn tls_and_a_user_are_settings() {
        let mut settings = KafkaSettings {
            security: SecurityProtocol::SaslSsl,
            ca_location: Some("/etc/ssl/certs/shop.pem".into()),
            certificate: Some(("/etc/shop.crt".into(), "/etc/shop.key".into())),
            ..KafkaSettings::plaintext("broker:9092")
        };
        let refused = settings.client().expect_err("no user").to_string();
        assert_eq!(refused, "Kafka: SASL_SSL needs a user and a password");
        settings.sasl = Some(Sasl {
            mechanism: "SCRAM-SHA-512".into(),
            username: "jangbu".into(),
            password: "secret".into(),
        });
        let client = settings.client().expect("sound");
        for (name, value) in [
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "jangbu"),
            ("sasl.password", "secret"),
            ("ssl.ca.location", "/etc/ssl/certs/shop.pem"),
            ("ssl.certificate.location", "/etc/shop.crt"),
            ("ssl.key.location", "/etc/shop.key"),
        ] {
            assert_eq!(client.get(name), Some(value), "{name}");
        }
        assert!(KafkaSettings::plaintext(" ").client().is_err());
    }

    #[test]
    fn a_setting_that_is_refused_does_not_show_its_value() {
        let mut client = KafkaSettings::plaintext("broker:9092").client().expect("sound");
        client.set("sasl.mechanisms", "SCRAM-SHA-512").set("sasl.nonsense", "secret");
        let refused = KafkaError::from(client.create_native_config().err().expect("there is no such setting")).to_string();
        assert!(refused.contains("sasl.nonsense") && !refused.contains("secret"), "{refused}");
    }
}
