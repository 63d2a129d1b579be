//! The settings: flags, then `JANGBU_*` in the environment, then `jangbu.toml`, then the defaults. No other crate reads any of them.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use aggregates::{Currency, Email};
use command_api::{Rate, RateError, RateLimits};
use event_store::Shards;
use postgres_session::{Address, AddressError};
use secrecy::SecretString;

use crate::failure::Failure;

/// What every setting's name begins with in the environment.
const PREFIX: &str = "JANGBU_";

/// Names in the environment that are not the server's: the tests', the Makefile's, and where the file is.
const NOT_OURS: [&str; 2] = ["JANGBU_CACHE", "JANGBU_CONFIG"];
const TESTS: &str = "JANGBU_TEST_";

/// The file, in the working directory unless `--config` names another.
const FILE: &str = "jangbu.toml";

/// No duration is longer: what comes after ten years is a mistake.
const LONGEST: Duration = Duration::from_hours(10 * 366 * 24);

/// One setting: its name in the file, its default (none when empty), and whether it must not be shown.
struct Known {
    name: &'static str,
    default: &'static str,
    secret: bool,
}

const fn open(name: &'static str, default: &'static str) -> Known {
    Known {
        name,
        default,
        secret: false,
    }
}

const fn secret(name: &'static str) -> Known {
    Known {
        name,
        default: "",
        secret: true,
    }
}

/// Every setting there is.
const KNOWN: &[Known] = &[
    open("listen", "127.0.0.1:8080"),
    open("data", "./data"),
    open("role", "all"),
    open("demo", "false"),
    open("behind_proxy", "false"),
    Known {
        name: "store",
        default: "sqlite",
        secret: true,
    },
    secret("views"),
    secret("keys"),
    open("shards", ""),
    open("kafka", ""),
    open("kafka_security", "PLAINTEXT"),
    open("kafka_mechanism", "SCRAM-SHA-512"),
    open("kafka_user", ""),
    secret("kafka_password"),
    open("kafka_ca", ""),
    open("kafka_certificate", ""),
    secret("kafka_key"),
    open("kafka_topics", "jangbu."),
    open("kafka_topic_names", ""),
    open("drain", ""),
    secret("redis"),
    open("rate_limit.per_client", ""),
    open("rate_limit.per_account", ""),
    open("currency", "KRW"),
    open("time_zone", "Asia/Seoul"),
    secret("admin.email"),
    secret("admin.password"),
    open("reservation.ttl", "1h"),
    open("payment.deadline", "10m"),
    open("payment.timeout", "5s"),
    open("payment.stuck_after", "24h"),
    open("gateway", "simulator"),
    secret("toss.secret_key"),
    open("toss.url", ""),
    open("fulfilment.enabled", "true"),
    open("fulfilment.ship_after", "30m"),
    open("fulfilment.deliver_after", "2h"),
    open("log", "info"),
    open("log_format", "auto"),
    open("metrics.listen", ""),
    open("otlp", ""),
    open("otlp_sampling", "0.1"),
];

/// Which part of the engine this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everything.
    All,
    /// REST alone.
    CommandApi,
    /// The engine alone.
    Engine,
    /// The views alone.
    Projections,
    /// GraphQL alone.
    QueryApi,
    /// Kafka alone.
    Relay,
}

impl Role {
    /// Whether the engines of the log's shards run here, or are asked from here.
    pub(crate) const fn commands(self) -> bool {
        matches!(self, Self::All | Self::CommandApi | Self::Engine)
    }

    /// As it is written.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::CommandApi => "command-api",
            Self::Engine => "engine",
            Self::Projections => "projections",
            Self::QueryApi => "query-api",
            Self::Relay => "relay",
        }
    }
}

impl FromStr for Role {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "all" => Self::All,
            "command-api" => Self::CommandApi,
            "engine" => Self::Engine,
            "projections" => Self::Projections,
            "query-api" => Self::QueryApi,
            "relay" => Self::Relay,
            _ => return Err("write all, command-api, engine, projections, query-api or relay"),
        })
    }
}

/// Where the log is, or the views are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// In the data directory.
    Sqlite,
    /// In a database.
    Postgres(Box<Address>),
    /// In EventStoreDB.
    Esdb(SecretString),
}

/// Where the keys are.
#[derive(Clone, Debug)]
pub(crate) enum KeysPlace {
    /// In a directory.
    Directory(PathBuf),
    /// In a database, of another role than the log's.
    Postgres(Box<Address>),
}

/// How Kafka is reached, as it is written.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "kafka"), allow(dead_code, reason = "it is checked and refused"))]
pub(crate) struct Kafka {
    pub(crate) brokers: String,
    pub(crate) security: String,
    pub(crate) mechanism: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<SecretString>,
    /// The certificates of those whom we trust.
    pub(crate) ca: Option<PathBuf>,
    /// Our own certificate.
    pub(crate) certificate: Option<PathBuf>,
    /// The file of its key.
    pub(crate) key: Option<PathBuf>,
    /// What every topic's name begins with.
    pub(crate) topics: String,
    /// Topics that are called otherwise.
    pub(crate) topic_names: BTreeMap<String, String>,
}

/// Who takes the money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gateway {
    /// The simulated provider.
    Simulator,
    /// Toss Payments.
    Toss,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The administrator who exists from the first start on.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) email: Email,
    pub(crate) password: SecretString,
}

/// All settings, each of them right by itself.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) listen: String,
    pub(crate) data: PathBuf,
    pub(crate) role: Role,
    pub(crate) demo: bool,
    pub(crate) behind_proxy: bool,
    pub(crate) store: Place,
    pub(crate) views: Place,
    pub(crate) keys: KeysPlace,
    /// None takes the log as it is; a new one has one.
    pub(crate) shards: Option<Shards>,
    pub(crate) kafka: Option<Kafka>,
    /// How long requests are taken still after the end was asked for, so that a proxy sends no more.
    pub(crate) drain: Option<Duration>,
    pub(crate) redis: Option<redis_cache::Address>,
    pub(crate) rate_limits: RateLimits,
    pub(crate) currency: Currency,
    pub(crate) time_zone: jiff::tz::TimeZone,
    pub(crate) admin: Option<Admin>,
    pub(crate) reservation_ttl: Duration,
    pub(crate) payment_deadline: Duration,
    pub(crate) payment_timeout: Duration,
    pub(crate) payment_stuck_after: Duration,
    pub(crate) gateway: Gateway,
    pub(crate) toss_secret_key: Option<SecretString>,
    pub(crate) toss_url: Option<String>,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) metrics_listen: Option<SocketAddr>,
    pub(crate) otlp: Option<String>,
    /// Of the traces that begin here, the share that is collected.
    pub(crate) otlp_sampling: f64,
    shown: Vec<Shown>,
}

/// A setting for people to read.
#[derive(Clone, Debug)]
struct Shown {
    name: String,
    value: String,
    origin: Origin,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Flag(&'static str),
    Environment,
    File(PathBuf),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Environment => f.write_str("the environment"),
            Self::File(path) => path.display().fmt(f),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What the command line says about settings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) config: Option<PathBuf>,
    pub(crate) listen: Option<String>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) role: Option<String>,
    pub(crate) demo: bool,
}

/// The values as they were written, with where that was.
#[derive(Debug, Default)]
struct Written(BTreeMap<&'static str, (String, Origin)>);

impl Settings {
    /// The settings of this process.
    pub(crate) fn read(flags: &Flags) -> Result<Self, Failure> {
        Self::from(flags, std::env::vars_os(), Path::new(FILE))
    }

    fn from(flags: &Flags, environment: impl IntoIterator<Item = (OsString, OsString)>, file: &Path) -> Result<Self, Failure> {
        let mut environment: Vec<_> = environment.into_iter().collect();
        // The same mistake is told first, whatever the order of the environment.
        environment.sort();
        let mut written = Written::default();
        let named = flags.config.clone().or_else(|| {
            environment
                .iter()
                .find(|(name, _)| name == "JANGBU_CONFIG")
                .map(|(_, value)| value.into())
        });
        written.add_file(named.as_deref().unwrap_or(file), named.is_some())?;
        written.add_environment(&environment)?;
        written.add_flags(flags)?;
        written.settings()
    }

    /// Each setting with its value and where it came from; secrets are not shown.
    pub(crate) fn listing(&self) -> String {
        let width = self
            .shown
            .iter()
            .map(|shown| shown.name.len() + shown.value.chars().count())
            .max()
            .unwrap_or(0)
            + 1;
        let line = |Shown { name, value, origin }: &Shown| format!("{:<width$}  # {origin}\n", format!("{name}={value}"));
        self.shown.iter().map(line).collect()
    }

    /// What this version cannot do yet, in one line.
    pub(crate) fn check_supported(&self) -> Result<(), Failure> {
        if self.kafka.is_some() && cfg!(not(feature = "kafka")) {
            return Err(Failure::wrong(
                "JANGBU_KAFKA is set, but this program was built without Kafka: build it with `cargo build --features kafka`",
            ));
        }
        self.check_role()?;
        if let (Place::Postgres(log), KeysPlace::Postgres(keys)) = (&self.store, &self.keys)
            && log.is_same_database(keys)
        {
            return Err(Failure::wrong(
                "JANGBU_KEYS names the log's own database: whoever can read the one could read what the other seals; name another one",
            ));
        }
        if self.gateway == Gateway::Toss && self.toss_secret_key.is_none() && matches!(self.role, Role::All | Role::Engine) {
            return Err(Failure::wrong("JANGBU_GATEWAY=toss needs JANGBU_TOSS__SECRET_KEY"));
        }
        if self.demo && self.currency != Currency::KRW {
            return Err(Failure::wrong(
                "the demo shop sells in KRW; leave JANGBU_CURRENCY at KRW with --demo",
            ));
        }
        Ok(())
    }

    /// A role that is one process of several needs what they share.
    fn check_role(&self) -> Result<(), Failure> {
        let needs = |what: &str| {
            Err(Failure::wrong(format_args!(
                "a process that is not the whole shop needs what the others have too: set {what}, or run `jangbu serve` without --role"
            )))
        };
        let own_keys = matches!(&self.keys, KeysPlace::Directory(keys) if *keys == self.data.join("keys"));
        if self.role == Role::All && !self.shares_shards() {
            return Ok(());
        }
        if self.simulates() && matches!(self.role, Role::All | Role::Engine) {
            return needs("JANGBU_TOSS__URL=http://... (the provider, or a `jangbu simulator`)");
        }
        if own_keys && matches!(self.role, Role::All | Role::CommandApi | Role::QueryApi) {
            return needs("JANGBU_KEYS=postgres://... (another database than the log's), or a directory that all of them have");
        }
        if self.role == Role::All {
            return Ok(());
        }
        if matches!(self.store, Place::Sqlite) {
            return needs("JANGBU_STORE=postgres://... or esdb://...");
        }
        if matches!(self.role, Role::CommandApi | Role::QueryApi | Role::Projections) && !matches!(self.views, Place::Postgres(_)) {
            return needs("JANGBU_VIEWS=postgres://...");
        }
        if matches!(self.role, Role::CommandApi | Role::Engine | Role::Relay) && self.kafka.is_none() {
            return needs("JANGBU_KAFKA=HOST:PORT");
        }
        Ok(())
    }

    /// Whether the provider is the simulator of this process.
    fn simulates(&self) -> bool {
        self.gateway == Gateway::Simulator && self.toss_url.is_none()
    }

    /// Whether engines of several processes share the shards of the log, through Kafka.
    pub(crate) fn shares_shards(&self) -> bool {
        self.kafka.is_some() && !matches!(self.store, Place::Sqlite)
    }

    /// The directory of the log and that of the keys, for commands that work on files.
    pub(crate) fn directories(&self, command: &str) -> Result<(&Path, &Path), Failure> {
        match (&self.store, &self.keys) {
            (Place::Sqlite, KeysPlace::Directory(keys)) => Ok((&self.data, keys)),
            (Place::Sqlite, KeysPlace::Postgres(_)) => Err(Failure::wrong(format_args!(
                "`jangbu {command}` works on directories, and JANGBU_KEYS names a database; docs/operations.md says how to copy one"
            ))),
            (Place::Postgres(_) | Place::Esdb(_), _) => Err(Failure::wrong(format_args!(
                "`jangbu {command}` works on directories, and JANGBU_STORE names a server; docs/operations.md says how to copy what is there"
            ))),
        }
    }
}

impl Written {
    fn add_file(&mut self, path: &Path, must_exist: bool) -> Result<(), Failure> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(()),
            Err(error) => {
                return Err(Failure::wrong(format_args!(
                    "the settings file {} cannot be read: {error}",
                    path.display()
                )));
            }
        };
        // The parser's own message quotes the line, which may hold a password.
        let table: toml::Table = toml::from_str(&text).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(0, |span| {
                text.get(..span.start).map_or(0, |before| before.matches('\n').count() + 1)
            });
            Failure::wrong(format_args!(
                "the settings file {} is not TOML: line {line}: {}",
                path.display(),
                error.message()
            ))
        })?;
        self.add_table("", &table, path)
    }

    fn add_table(&mut self, prefix: &str, table: &toml::Table, path: &Path) -> Result<(), Failure> {
        for (key, value) in table {
            let name = format!("{prefix}{key}");
            let text = match value {
                toml::Value::Table(table) => {
                    self.add_table(&format!("{name}."), table, path)?;
                    continue;
                }
                toml::Value::String(text) => text.clone(),
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(yes) => yes.to_string(),
                toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Array(_) => {
                    return Err(Failure::wrong(format_args!(
                        "the setting {name} in {} must be a string, a whole number or true or false",
                        path.display()
                    )));
                }
            };
            let known = KNOWN.iter().find(|known| known.name == name);
            let known = known.ok_or_else(|| {
                Failure::wrong(format_args!(
                    "there is no setting {name}, but {} has it; .env.example lists all",
                    path.display()
                ))
            })?;
            self.put(known.name, text, Origin::File(path.to_owned()));
        }
        Ok(())
    }

    fn add_environment(&mut self, environment: &[(OsString, OsString)]) -> Result<(), Failure> {
        for (name, value) in environment {
            let name = name.to_string_lossy();
            if !name.starts_with(PREFIX) || name.starts_with(TESTS) || NOT_OURS.contains(&&*name) {
                continue;
            }
            let known = KNOWN.iter().find(|known| in_environment(known.name) == name);
            let known = known.ok_or_else(|| {
                Failure::wrong(format_args!(
                    "there is no setting {name}, but the environment has it; .env.example lists all"
                ))
            })?;
            let value = value
                .to_str()
                .ok_or_else(|| Failure::wrong(format_args!("the setting {name} in the environment is not UTF-8")))?;
            self.put(known.name, value.to_owned(), Origin::Environment);
        }
        Ok(())
    }

    fn add_flags(&mut self, flags: &Flags) -> Result<(), Failure> {
        if let Some(listen) = &flags.listen {
            self.put("listen", listen.clone(), Origin::Flag("--listen"));
        }
        if let Some(data) = &flags.data {
            let data = data.to_str().ok_or_else(|| Failure::wrong("--data is not UTF-8"))?;
            self.put("data", data.to_owned(), Origin::Flag("--data"));
        }
        if let Some(role) = &flags.role {
            self.put("role", role.clone(), Origin::Flag("--role"));
        }
        if flags.demo {
            self.put("demo", "true".to_owned(), Origin::Flag("--demo"));
        }
        Ok(())
    }

    /// A later one wins. An empty value is none.
    fn put(&mut self, name: &'static str, value: String, origin: Origin) {
        if value.is_empty() {
            self.0.remove(name);
        } else {
            self.0.insert(name, (value, origin));
        }
    }

    fn settings(&self) -> Result<Settings, Failure> {
        let email = self.optional("admin.email", |text| text.parse::<Email>().map_err(|error| error.to_string()))?;
        let password = self.optional("admin.password", |text| match text.chars().count() {
            8..=128 => Ok(SecretString::from(text)),
            _ => Err("a password has 8 to 128 characters".to_owned()),
        })?;
        let admin = match (email, password) {
            (Some(email), Some(password)) => Some(Admin { email, password }),
            (None, None) => None,
            _ => {
                return Err(Failure::wrong(
                    "JANGBU_ADMIN__EMAIL and JANGBU_ADMIN__PASSWORD are set together or not at all",
                ));
            }
        };
        // Whether shipments proceed by themselves, and when, is checked here and used by the fulfilment.
        self.required("fulfilment.enabled", yes_or_no)?;
        self.required("fulfilment.ship_after", duration)?;
        self.required("fulfilment.deliver_after", duration)?;
        let data = self.required("data", |text| Ok(PathBuf::from(text)))?;
        let store = self.required("store", log)?;
        let keys = self
            .optional("keys", keys)?
            .unwrap_or_else(|| KeysPlace::Directory(data.join("keys")));
        Ok(Settings {
            listen: self.required("listen", host_and_port)?,
            data,
            role: self.required("role", |text| text.parse::<Role>().map_err(str::to_owned))?,
            demo: self.required("demo", yes_or_no)?,
            behind_proxy: self.required("behind_proxy", yes_or_no)?,
            views: match self.optional("views", views)? {
                Some(views) => views,
                // Beside the log, if they can be there.
                None => match &store {
                    Place::Postgres(address) => Place::Postgres(address.clone()),
                    Place::Sqlite | Place::Esdb(_) => Place::Sqlite,
                },
            },
            store,
            keys,
            shards: self.optional("shards", |text| {
                let shards = text.parse().ok().and_then(Shards::new);
                shards.ok_or_else(|| format!("write a whole number from 1 to {}", Shards::MOST))
            })?,
            kafka: self.kafka()?,
            drain: self.optional("drain", duration)?,
            redis: self.optional("redis", |text| {
                text.parse::<redis_cache::Address>().map_err(|error| error.to_string())
            })?,
            rate_limits: RateLimits {
                per_client: self.optional("rate_limit.per_client", rate)?,
                per_account: self.optional("rate_limit.per_account", rate)?,
            },
            currency: self.required("currency", |text| text.parse::<Currency>().map_err(|error| error.to_string()))?,
            time_zone: self.required("time_zone", |text| {
                jiff::tz::TimeZone::get(text).map_err(|_| "write an IANA name, as Asia/Seoul".to_owned())
            })?,
            admin,
            reservation_ttl: self.required("reservation.ttl", duration)?,
            payment_deadline: self.required("payment.deadline", duration)?,
            payment_timeout: self.required("payment.timeout", duration)?,
            payment_stuck_after: self.required("payment.stuck_after", duration)?,
            gateway: self.required("gateway", |text| match text {
                "simulator" => Ok(Gateway::Simulator),
                "toss" => Ok(Gateway::Toss),
                _ => Err("write simulator or toss".to_owned()),
            })?,
            toss_secret_key: self.optional("toss.secret_key", |text| Ok(SecretString::from(text)))?,
            toss_url: self.optional("toss.url", http_url)?,
            log: self.required("log", |text| match tracing_subscriber::EnvFilter::try_new(text) {
                Ok(_) => Ok(text.to_owned()),
                Err(error) => Err(format!("{error}; write a level, or a filter as info,engine=debug")),
            })?,
            log_format: self.required("log_format", |text| match text {
                "auto" => Ok(LogFormat::Auto),
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                _ => Err("write auto, text or json".to_owned()),
            })?,
            metrics_listen: self.optional("metrics.listen", |text| {
                text.parse()
                    .map_err(|_| "write an address and a port, as 127.0.0.1:9100".to_owned())
            })?,
            otlp: self.optional("otlp", http_url)?,
            otlp_sampling: self.required("otlp_sampling", share)?,
            shown: self.shown(),
        })
    }

    fn kafka(&self) -> Result<Option<Kafka>, Failure> {
        let brokers = self.optional("kafka", |text| {
            text.split(',')
                .try_for_each(|broker| host_and_port(broker).map(drop))
                .map(|()| text.to_owned())
        })?;
        let path = |text: &str| Ok(PathBuf::from(text));
        let kafka = Kafka {
            brokers: brokers.clone().unwrap_or_default(),
            security: self.required("kafka_security", |text| match text {
                "PLAINTEXT" | "SSL" | "SASL_PLAINTEXT" | "SASL_SSL" => Ok(text.to_owned()),
                _ => Err("write PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL".to_owned()),
            })?,
            mechanism: self.required("kafka_mechanism", |text| match text {
                "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512" => Ok(text.to_owned()),
                _ => Err("write PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512".to_owned()),
            })?,
            user: self.optional("kafka_user", |text| Ok(text.to_owned()))?,
            password: self.optional("kafka_password", |text| Ok(SecretString::from(text)))?,
            ca: self.optional("kafka_ca", path)?,
            certificate: self.optional("kafka_certificate", path)?,
            key: self.optional("kafka_key", path)?,
            topics: self.required("kafka_topics", |text| {
                let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
                let fits = text.len() <= 100 && text.bytes().all(known);
                fits.then(|| text.to_owned())
                    .ok_or_else(|| "write letters, digits, '.', '_' and '-'".to_owned())
            })?,
            topic_names: self.optional("kafka_topic_names", pairs)?.unwrap_or_default(),
        };
        Ok(brokers.map(|_| kafka))
    }

    fn shown(&self) -> Vec<Shown> {
        let shown = |known: &Known| {
            let (value, origin) = self
                .0
                .get(known.name)
                .map_or((known.default, &Origin::Default), |(value, origin)| (value, origin));
            let value = if known.secret && value != known.default { "(set)" } else { value };
            Shown {
                name: in_environment(known.name),
                value: value.to_owned(),
                origin: origin.clone(),
            }
        };
        KNOWN.iter().map(shown).collect()
    }

    /// A setting that has a default.
    fn required<T>(&self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, Failure> {
        let default = KNOWN.iter().find(|known| known.name == name).map_or("", |known| known.default);
        let (value, origin) = self
            .0
            .get(name)
            .map_or((default, &Origin::Default), |(value, origin)| (value, origin));
        parse(value).map_err(|reason| bad(name, value, origin, &reason))
    }

    /// A setting that may have no value.
    fn optional<T>(&self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, Failure> {
        let Some((value, origin)) = self.0.get(name) else { return Ok(None) };
        parse(value).map(Some).map_err(|reason| bad(name, value, origin, &reason))
    }
}

fn bad(name: &str, value: &str, origin: &Origin, reason: &str) -> Failure {
    let secret = KNOWN.iter().any(|known| known.name == name && known.secret);
    let value = if secret { String::new() } else { format!("={value}") };
    Failure::wrong(format_args!(
        "the setting {}{value} (from {origin}) is not right: {reason}",
        in_environment(name)
    ))
}

/// The name in the environment: `payment.timeout` is `JANGBU_PAYMENT__TIMEOUT`.
fn in_environment(name: &str) -> String {
    format!("{PREFIX}{}", name.replace('.', "__").to_uppercase())
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write a number with a unit, as 500ms, 5s, 10m, 2h or 7d"))?;
    if duration.is_zero() || duration > LONGEST {
        return Err("a duration is longer than nothing and at most ten years".to_owned());
    }
    Ok(duration)
}

/// `order=orders,parked=dead-letters`.
fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        (!name.trim().is_empty() && !value.trim().is_empty()).then(|| (name.trim().to_owned(), value.trim().to_owned()))
    };
    text.split(',')
        .map(|text| pair(text).ok_or_else(|| "write KIND=TOPIC, several with commas between, as order=orders".to_owned()))
        .collect()
}

fn rate(text: &str) -> Result<Rate, String> {
    text.parse().map_err(|error: RateError| error.to_string())
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("write a share from 0 to 1, as 0.1".to_owned()),
    }
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

fn log(text: &str) -> Result<Place, String> {
    if ["esdb://", "esdb+discover://", "kurrentdb://"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
    {
        return Ok(Place::Esdb(text.into()));
    }
    views(text).map_err(|error| format!("{error}, or esdb://..."))
}

fn views(text: &str) -> Result<Place, String> {
    match text {
        "sqlite" => Ok(Place::Sqlite),
        _ if text.starts_with("postgres") => text
            .parse()
            .map(Box::new)
            .map(Place::Postgres)
            .map_err(|error: AddressError| error.to_string()),
        _ => Err("write sqlite or postgres://...".to_owned()),
    }
}

fn keys(text: &str) -> Result<KeysPlace, String> {
    match text.split_once("://") {
        None => Ok(KeysPlace::Directory(text.into())),
        Some(("postgres" | "postgresql", _)) => text
            .parse()
            .map(Box::new)
            .map(KeysPlace::Postgres)
            .map_err(|error: AddressError| error.to_string()),
        Some(_) => Err("name a directory, or write postgres://...".to_owned()),
    }
}

fn host_and_port(text: &str) -> Result<String, String> {
    let fits = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let plain = !host.is_empty() && !host.contains([':', '/', '@', ' ']);
        (bracketed || plain) && port.parse::<u16>().is_ok()
    });
    if fits {
        Ok(text.to_owned())
    } else {
        Err("write a host and a port, as 127.0.0.1:8080".to_owned())
    }
}

fn http_url(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match host {
        Some(host) if !host.is_empty() && !host.starts_with('/') && !text.contains(|c: char| c.is_whitespace() || c == '@') => {
            Ok(text.to_owned())
        }
        _ => Err("write http://... or https://..., without a user".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(environment: &[(&str, &str)], file: &str, flags: &Flags) -> Result<Settings, Failure> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("jangbu.toml");
        std::fs::write(&path, file).expect("a file");
        Settings::from(
            flags,
            environment
                .iter()
                .map(|(name, value)| (OsString::from(name), OsString::from(value))),
            &path,
        )
    }

    fn from_environment(environment: &[(&str, &str)]) -> Result<Settings, Failure> {
        Settings::from(
            &Flags::default(),
            environment
                .iter()
                .map(|(name, value)| (OsString::from(name), OsString::from(value))),
            Path::new("/nonexistent/jangbu.toml"),
        )
    }

    #[test]
    fn nothing_set_is_the_defaults() {
        let settings = from_environment(&[]).expect("the defaults are right");
        assert_eq!(settings.reservation_ttl, Duration::from_hours(1));
        assert_eq!(settings.payment_deadline, Duration::from_mins(10));
        assert_eq!(settings.payment_timeout, Duration::from_secs(5));
        assert_eq!(settings.payment_stuck_after, Duration::from_hours(24));
        assert_eq!(settings.currency, Currency::KRW);
        assert!(settings.admin.is_none() && settings.toss_url.is_none() && !settings.demo);
        settings.check_supported().expect("the defaults can be served");
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let file = "listen = \"127.0.0.1:1\"\ndata = \"/from/file\"\nshards = 2\n[payment]\ntimeout = \"1s\"\ndeadline = \"2m\"\nstuck_after = \"12h\"\n";
        let environment = [
            ("JANGBU_LISTEN", "127.0.0.1:2"),
            ("JANGBU_DATA", "/from/environment"),
            ("JANGBU_PAYMENT__TIMEOUT", "3s"),
        ];
        let flags = Flags {
            listen: Some("127.0.0.1:3".to_owned()),
            ..Flags::default()
        };
        let settings = read(&environment, file, &flags).expect("all is right");
        assert_eq!(settings.listen, "127.0.0.1:3");
        assert_eq!(settings.data, Path::new("/from/environment"));
        assert_eq!(settings.payment_timeout, Duration::from_secs(3));
        assert_eq!(settings.payment_deadline, Duration::from_mins(2));
        assert_eq!(settings.payment_stuck_after, Duration::from_hours(12));
        assert_eq!(settings.shards, Shards::new(2));
        let listing = settings.listing();
        assert!(
            listing.contains("JANGBU_LISTEN=127.0.0.1:3 ") && listing.contains("# --listen"),
            "{listing}"
        );
        assert!(
            listing.contains("# the environment") && listing.contains("jangbu.toml") && listing.contains("# default"),
            "{listing}"
        );
    }

    #[test]
    fn a_bad_value_is_told_with_its_name_and_where_it_is() {
        for (name, value) in [
            ("JANGBU_PAYMENT__TIMEOUT", "5"),
            ("JANGBU_PAYMENT__TIMEOUT", "0s"),
            ("JANGBU_PAYMENT__DEADLINE", "-1s"),
            ("JANGBU_PAYMENT__STUCK_AFTER", "a day"),
            ("JANGBU_PAYMENT__STUCK_AFTER", "0s"),
            ("JANGBU_RESERVATION__TTL", "99999999999y"),
            ("JANGBU_FULFILMENT__SHIP_AFTER", "soon"),
            ("JANGBU_FULFILMENT__ENABLED", "perhaps"),
            ("JANGBU_CURRENCY", "won"),
            ("JANGBU_TIME_ZONE", "Seoul/Asia"),
            ("JANGBU_SHARDS", "0"),
            ("JANGBU_SHARDS", "1025"),
            ("JANGBU_STORE", "mysql://x"),
            ("JANGBU_GATEWAY", "cash"),
            ("JANGBU_TOSS__URL", "ftp://x"),
            ("JANGBU_LISTEN", "8080"),
            ("JANGBU_ROLE", "everything"),
            ("JANGBU_LOG", "info,=="),
            ("JANGBU_LOG_FORMAT", "xml"),
            ("JANGBU_METRICS__LISTEN", "here"),
            ("JANGBU_REDIS", "localhost"),
            ("JANGBU_RATE_LIMIT__PER_CLIENT", "100"),
            ("JANGBU_RATE_LIMIT__PER_ACCOUNT", "0/s"),
        ] {
            let failure = from_environment(&[(name, value)]).expect_err(name);
            assert!(
                failure.line().contains(name) && failure.line().contains("the environment"),
                "{}",
                failure.line()
            );
        }
        let failure = read(&[], "[payment]\ntimeout = \"x\"", &Flags::default()).expect_err("a bad value");
        assert!(
            failure.line().contains("JANGBU_PAYMENT__TIMEOUT=x") && failure.line().contains("jangbu.toml"),
            "{}",
            failure.line()
        );
        let failure = read(&[], "a = [", &Flags::default()).expect_err("not TOML");
        assert!(failure.line().contains("line 1"), "{}", failure.line());
    }

    #[test]
    fn an_unknown_setting_is_refused_and_those_of_the_tests_are_not_settings() {
        let failure = from_environment(&[("JANGBU_PAYMNT__TIMEOUT", "5s")]).expect_err("unknown");
        assert!(failure.line().contains("JANGBU_PAYMNT__TIMEOUT"), "{}", failure.line());
        let failure = read(&[], "[payment]\ntimout = \"5s\"", &Flags::default()).expect_err("unknown");
        assert!(failure.line().contains("payment.timout"), "{}", failure.line());
        assert!(
            from_environment(&[
                ("JANGBU_TEST_POSTGRES", "x"),
                ("JANGBU_CACHE", "x"),
                ("JANGBULOG", "x"),
                ("PATH", "x")
            ])
            .is_ok()
        );
    }

    #[test]
    fn an_empty_value_is_none() {
        assert!(
            from_environment(&[
                ("JANGBU_TOSS__URL", ""),
                ("JANGBU_ADMIN__EMAIL", ""),
                ("JANGBU_PAYMENT__TIMEOUT", "")
            ])
            .is_ok()
        );
    }

    #[test]
    fn secrets_are_shown_nowhere() {
        let environment = [
            ("JANGBU_ADMIN__EMAIL", "boss@example.com"),
            ("JANGBU_ADMIN__PASSWORD", "hunter2-hunter2"),
            ("JANGBU_TOSS__SECRET_KEY", "hunter2"),
            ("JANGBU_STORE", "postgres://u:hunter2@h/d"),
            ("JANGBU_REDIS", "redis://:hunter2@h"),
        ];
        let settings = from_environment(&environment).expect("all is right");
        let shown = format!("{settings:?} {}", settings.listing());
        assert!(!shown.contains("hunter2") && !shown.contains("boss@"), "{shown}");
        let failure =
            from_environment(&[("JANGBU_ADMIN__EMAIL", "boss@example.com"), ("JANGBU_ADMIN__PASSWORD", "hunter")]).expect_err("too short");
        assert!(!failure.line().contains("hunter2"), "{}", failure.line());
        let failure = read(&[], "[admin]\npassword = \"hunter2", &Flags::default()).expect_err("not TOML");
        assert!(!failure.line().contains("hunter2"), "{}", failure.line());
    }

    #[test]
    fn the_log_the_views_and_the_keys_may_be_on_servers() {
        for (name, value) in [
            ("JANGBU_STORE", "postgres://h/d"),
            ("JANGBU_STORE", "esdb://h"),
            ("JANGBU_VIEWS", "postgres://h/d"),
            ("JANGBU_KEYS", "postgres://h/d"),
        ] {
            from_environment(&[(name, value)])
                .and_then(|settings| settings.check_supported())
                .expect("it is right");
        }
        let beside = from_environment(&[("JANGBU_STORE", "postgres://h/d")]).expect("it is right");
        assert!(matches!(beside.views, Place::Postgres(_)), "the views are beside the log");
        let apart = from_environment(&[("JANGBU_STORE", "postgres://h/d"), ("JANGBU_VIEWS", "sqlite")]).expect("it is right");
        assert!(matches!(apart.views, Place::Sqlite));
        let together = [("JANGBU_STORE", "postgres://a@h/d"), ("JANGBU_KEYS", "postgres://b@h/d")];
        let failure = from_environment(&together).and_then(|settings| settings.check_supported());
        let line = failure.expect_err("one database").line().to_owned();
        assert!(line.contains("JANGBU_KEYS"), "{line}");
    }

    #[test]
    fn the_provider_needs_its_key() {
        let failure = from_environment(&[("JANGBU_GATEWAY", "toss")]).and_then(|settings| settings.check_supported());
        assert!(failure.expect_err("no key").line().contains("JANGBU_TOSS__SECRET_KEY"));
    }

    #[test]
    fn a_process_of_several_needs_what_they_share() {
        let shared = [
            ("JANGBU_STORE", "postgres://h/d"),
            ("JANGBU_KAFKA", "h:9092"),
            ("JANGBU_TOSS__URL", "http://provider"),
            ("JANGBU_KEYS", "postgres://h/keys"),
        ];
        let with = |role: &str, without: &str| {
            let set = shared.iter().filter(|(name, _)| *name != without).copied();
            let set: Vec<_> = set.chain([("JANGBU_ROLE", role)]).collect();
            from_environment(&set).expect("its form is right").check_role()
        };
        for role in ["command-api", "engine", "projections", "query-api", "relay"] {
            with(role, "").expect("all of it");
            let line = with(role, "JANGBU_STORE").expect_err("no log").line().to_owned();
            assert!(line.contains("JANGBU_STORE"), "{line}");
        }
        for role in ["all", "engine"] {
            assert!(with(role, "JANGBU_TOSS__URL").is_err(), "{role}");
        }
        for role in ["all", "command-api", "query-api"] {
            let line = with(role, "JANGBU_KEYS").expect_err("keys of its own").line().to_owned();
            assert!(line.contains("JANGBU_KEYS"), "{line}");
        }
        assert!(with("relay", "JANGBU_KAFKA").is_err());
        assert!(with("query-api", "JANGBU_KAFKA").is_ok());
    }

    #[test]
    fn kafka_is_there_or_its_absence_is_said() {
        let settings = from_environment(&[
            ("JANGBU_KAFKA", "a:9092,b:9092"),
            ("JANGBU_KAFKA_TOPIC_NAMES", "order=orders, parked=dead"),
        ])
        .expect("its form is right");
        assert_eq!(settings.kafka.as_ref().map(|kafka| kafka.topic_names.len()), Some(2));
        let supported = settings.check_supported();
        if cfg!(feature = "kafka") {
            supported.expect("it is built in");
        } else {
            let line = supported.expect_err("it is not built in").line().to_owned();
            assert!(line.contains("JANGBU_KAFKA") && line.contains("--features kafka"), "{line}");
        }
        for wrong in [
            ("JANGBU_KAFKA", "a"),
            ("JANGBU_KAFKA_TOPIC_NAMES", "order"),
            ("JANGBU_KAFKA_SECURITY", "TLS"),
        ] {
            assert!(from_environment(&[wrong]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_example_documents_every_setting_with_its_default() {
        let example = include_str!("../../.env.example");
        let mut documented = BTreeMap::new();
        for line in example.lines() {
            let commented = line.starts_with('#');
            let Some((name, value)) = line.trim_start_matches('#').split_once('=') else {
                continue;
            };
            if name.starts_with(PREFIX) && !name.contains(' ') {
                assert!(
                    documented.insert(name.to_owned(), (commented, value.to_owned())).is_none(),
                    "{name} stands there twice"
                );
            }
        }
        for known in KNOWN {
            let name = in_environment(known.name);
            let found = documented.remove(&name).unwrap_or_else(|| panic!("{name} is not in .env.example"));
            assert_eq!(found, (known.default.is_empty(), known.default.to_owned()), "{name}");
        }
        assert!(documented.is_empty(), "these are no settings: {documented:?}");
    }
}
