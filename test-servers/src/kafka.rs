//! Kafka: one process that is broker and controller.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    kafka_protocol::{create_topic, metadata},
    port,
    postgres::{cache, named_by},
    processes::eventually,
    proxy::Proxy,
    server::{Recipe, Server, not_installed},
};

const POM: &str = include_str!("../../tools/kafka/pom.xml");
const PATIENCE_WITH_AN_ANSWER: Duration = Duration::from_secs(2);
const PATIENCE_WITH_LEADERS: Duration = Duration::from_mins(1);

/// One broker suffices for everything, a new group is not kept waiting, and one that was killed serves again in seconds. With Kafka's own
/// timeouts it would take twelve.
const SETTINGS: &str = "\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=300
controller.quorum.election.timeout.ms=500
controller.quorum.fetch.timeout.ms=500
";

const LOGGING: &str = "\
rootLogger.level=WARN
rootLogger.appenderRefs=output
rootLogger.appenderRef.output.ref=output
appender.output.type=Console
appender.output.name=output
appender.output.layout.type=PatternLayout
appender.output.layout.pattern=%d %p %c{1} %m%n
";

/// A Kafka of this test process's own, without authentication. Topics are created by [`Kafka::topic`] and in no other way.
pub struct Kafka {
    server: Server,
    /// Clients that come through the proxy are told to come back that way.
    proxied: SocketAddr,
    proxy: SocketAddr,
}

/// The Kafka that a whole test process shares.
pub struct SharedKafka {
    url: String,
    /// None where `JANGBU_TEST_KAFKA` names the server.
    _own: Option<Kafka>,
}

impl Kafka {
    /// Starts one.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with settings of a broker, such as `("transaction.max.timeout.ms", "5000")`.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let home = home();
        let [proxied, proxy] = [(); 2].map(|()| port::local(port::free()));
        let server = Server::started(|| {
            let recipe = Recipe {
                name: "kafka",
                command: vec![],
                user: None,
                quickly: "KILL",
                orderly: Signal::TERM,
                ready,
            };
            let mut server = Server::prepare(port::free(), recipe);
            let scratch = server.scratch().to_owned();
            let (plain, controller) = (server.address(), port::local(port::free()));
            let mut text = format!(
                "{SETTINGS}controller.quorum.voters=1@{controller}\n\
                 listeners=PLAINTEXT://{plain},PROXIED://{proxied},CONTROLLER://{controller}\n\
                 advertised.listeners=PLAINTEXT://{plain},PROXIED://{proxy}\n\
                 log.dirs={}\n",
                scratch.join("data").display()
            );
            for (name, value) in settings {
                // The last one counts.
                writeln!(text, "{name}={value}").expect("a string takes what is written");
            }
            lay_out(&home, &scratch, &text).unwrap_or_else(|error| panic!("no directory for Kafka in {}: {error}", scratch.display()));
            server.set_command(command(&home, &scratch));
            server
        });
        Self { server, proxied, proxy }
    }

    /// The one that this test process shares: the one that `JANGBU_TEST_KAFKA` names by `HOST:PORT`, or one of its own, which ends with
    /// the process. It is not to be broken, and topics are to begin with something of the test's own.
    pub fn shared() -> &'static SharedKafka {
        static SHARED: OnceLock<SharedKafka> = OnceLock::new();
        SHARED.get_or_init(|| {
            if let Some(url) = named_by("JANGBU_TEST_KAFKA") {
                return SharedKafka { url, _own: None };
            }
            let own = Self::start();
            SharedKafka {
                url: own.url(),
                _own: Some(own),
            }
        })
    }

    /// `127.0.0.1:PORT`, to begin with.
    pub fn url(&self) -> String {
        self.address().to_string()
    }

    /// A proxy before it, and no way around: a broker tells its clients where to find it, and whoever comes through this one is told to
    /// come this way. One at a time.
    pub fn proxy(&self) -> Proxy {
        Proxy::at(self.proxy, self.proxied)
    }

    /// Creates a topic, unless it is there, and waits until each partition has a leader.
    pub fn topic(&self, name: &str, partitions: u16) {
        self.topic_with(name, partitions, &[]);
    }

    /// Creates a topic with settings, such as `("cleanup.policy", "compact")`.
    pub fn topic_with(&self, name: &str, partitions: u16, settings: &[(&str, &str)]) {
        topic(self.address(), name, partitions, settings);
    }

    /// The directory of its logs.
    pub fn data(&self) -> PathBuf {
        self.scratch().join("data")
    }
}

impl Deref for Kafka {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Kafka {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

impl SharedKafka {
    /// `HOST:PORT`, to begin with.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Creates a topic, unless it is there, and waits until each partition has a leader.
    pub fn topic(&self, name: &str, partitions: u16) {
        self.topic_with(name, partitions, &[]);
    }

    /// Creates a topic with settings, such as `("cleanup.policy", "compact")`.
    pub fn topic_with(&self, name: &str, partitions: u16, settings: &[(&str, &str)]) {
        use std::net::ToSocketAddrs;
        let address = self.url.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
        topic(
            address.unwrap_or_else(|| panic!("JANGBU_TEST_KAFKA is no HOST:PORT: {}", self.url)),
            name,
            partitions,
            settings,
        );
    }
}

fn topic(broker: SocketAddr, name: &str, partitions: u16, settings: &[(&str, &str)]) {
    create_topic(broker, name, partitions.into(), settings).unwrap_or_else(|error| panic!("the topic {name} cannot be created: {error}"));
    let led = eventually(PATIENCE_WITH_LEADERS, || {
        let Ok(metadata) = metadata(broker, PATIENCE_WITH_AN_ANSWER) else {
            return false;
        };
        let Some(topic) = metadata.topics.iter().find(|topic| topic.name == name) else {
            return false;
        };
        assert_eq!(
            topic.partitions,
            usize::from(partitions),
            "the topic {name} is there with other partitions"
        );
        topic.led
    });
    assert!(led, "the topic {name} has no leaders");
}

/// It knows itself, and each partition of what it holds has a leader again.
fn ready(server: &Server) -> bool {
    let known = metadata(server.address(), PATIENCE_WITH_AN_ANSWER);
    known.is_ok_and(|metadata| metadata.brokers > 0 && metadata.topics.iter().all(|topic| topic.led))
}

/// Where `tools/setup.sh servers` has put the version that the pom names.
fn home() -> PathBuf {
    let version = POM
        .split("<kafka.version>")
        .nth(1)
        .and_then(|rest| rest.split('<').next())
        .expect("the pom names a version");
    let home = cache().join(format!("kafka-{version}"));
    if !home.join("formatted/meta.properties").exists() {
        not_installed(&format!("Kafka {version}"));
    }
    home
}

/// A formatted directory, and the files that Kafka is started with.
fn lay_out(home: &Path, scratch: &Path, settings: &str) -> std::io::Result<()> {
    fs::write(scratch.join("server.properties"), settings)?;
    fs::write(scratch.join("log4j2.properties"), LOGGING)?;
    fs::create_dir(scratch.join("data"))?;
    for file in fs::read_dir(home.join("formatted"))? {
        let file = file?;
        fs::copy(file.path(), scratch.join("data").join(file.file_name()))?;
    }
    Ok(())
}

fn command(home: &Path, scratch: &Path) -> Vec<OsString> {
    let mut logging = OsString::from("-Dlog4j2.configurationFile=");
    logging.push(scratch.join("log4j2.properties"));
    let mut command = ["java", "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        .map(OsString::from)
        .to_vec();
    command.extend([
        logging,
        "-cp".into(),
        home.join("lib/*").into(),
        "kafka.Kafka".into(),
        scratch.join("server.properties").into(),
    ]);
    command
}
