//! TLS, and a user.

use std::{fs, path::Path, process::Command};

use event_store::MemoryStore;
use relay::{KafkaSettings, Relay, RelaySettings, Sasl, SecurityProtocol};
use test_servers::Kafka;

use crate::{eventually, log::Log, reading::check, settings};

/// A key and a certificate for 127.0.0.1, which vouches for itself.
fn certificate(scratch: &Path) -> (String, String) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
        ])
        .args([
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            "key.pem",
            "-out",
            "certificate.pem",
        ])
        .current_dir(scratch)
        .output()
        .expect("openssl is there: tools/setup.sh servers");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = |name| fs::read_to_string(scratch.join(name)).expect("written");
    (text("key.pem"), text("certificate.pem"))
}

/// As a line of a properties file.
fn one_line(text: &str) -> String {
    text.replace('\n', "\\n")
}

#[test]
fn a_broker_that_asks_for_tls_and_a_user_gets_both() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let (key, certificate) = certificate(scratch.path());
    let user = r#"org.apache.kafka.common.security.plain.PlainLoginModule required user_jangbu="the-password";"#;
    let kafka = Kafka::start_with(&[
        (
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:SASL_SSL",
        ),
        ("listener.name.proxied.sasl.enabled.mechanisms", "PLAIN"),
        ("listener.name.proxied.plain.sasl.jaas.config", user),
        ("listener.name.proxied.ssl.keystore.type", "PEM"),
        ("listener.name.proxied.ssl.keystore.key", &one_line(&key)),
        ("listener.name.proxied.ssl.keystore.certificate.chain", &one_line(&certificate)),
    ]);
    let proxy = kafka.proxy();
    let reading = settings(&kafka.url());
    let with = |password: &str, ca: Option<&Path>| RelaySettings {
        kafka: KafkaSettings {
            security: SecurityProtocol::SaslSsl,
            sasl: Some(Sasl {
                mechanism: "PLAIN".into(),
                username: "jangbu".into(),
                password: password.into(),
            }),
            ca_location: ca.map(Path::to_owned),
            ..KafkaSettings::plaintext(proxy.address().to_string())
        },
        ..reading.clone()
    };
    let trusted = scratch.path().join("certificate.pem");
    let mut log = Log::new(MemoryStore::default(), 1);
    log.append(100);
    for refused in [with("another", Some(&trusted)), with("the-password", None)] {
        let relay = Relay::start(refused, log.store.clone()).expect("sound settings");
        eventually("it has tried", || relay.hindrance().is_some());
        let why = relay.hindrance().expect("it is known");
        println!("{why}");
        assert!(!why.contains("another") && !why.contains("the-password"), "{why}");
        relay.stop();
        assert_eq!(log.published("relay"), 0);
    }
    let relay = Relay::start(with("the-password", Some(&trusted)), log.store.clone()).expect("sound settings");
    eventually("all are published", || log.is_published("relay"));
    relay.stop();
    assert_eq!(check(&reading, &log), 0);
}
