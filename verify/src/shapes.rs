//! The events' JSON, as far as it is counted: written down a second time, so that an error in the first shows.

use std::borrow::Cow;

use event_store::LogPosition;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use uuid::Uuid;

/// Text, borrowed where nothing in it is escaped.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// An amount in minor units.
#[derive(Clone, Copy, Deserialize)]
pub(crate) struct Money<'a> {
    pub(crate) amount: i64,
    #[serde(borrow)]
    pub(crate) currency: &'a str,
}

/// Any object.
#[derive(Deserialize)]
pub(crate) struct Anything {}

#[derive(Deserialize)]
pub(crate) struct OfOrder {
    pub(crate) order: Uuid,
}

#[derive(Deserialize)]
pub(crate) struct Amount<'a> {
    #[serde(borrow)]
    pub(crate) amount: Money<'a>,
}

#[derive(Deserialize)]
pub(crate) struct OrderAmount<'a> {
    pub(crate) order: Uuid,
    #[serde(borrow)]
    pub(crate) amount: Money<'a>,
}

#[derive(Deserialize)]
pub(crate) struct Created<'a> {
    #[serde(borrow)]
    pub(crate) price: Money<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Stock {
    OnHand(i64),
    Unlimited,
}

#[derive(Deserialize)]
pub(crate) struct StockOpened {
    pub(crate) stock: Stock,
}

#[derive(Deserialize)]
pub(crate) struct StockReceived {
    pub(crate) quantity: i64,
}

#[derive(Deserialize)]
pub(crate) struct StockAdjusted {
    pub(crate) delta: i64,
}

#[derive(Deserialize)]
pub(crate) struct Reserved<'a> {
    pub(crate) order: Uuid,
    pub(crate) quantity: i64,
    #[serde(borrow)]
    pub(crate) price: Money<'a>,
    pub(crate) expires_at: Option<i64>,
}

#[derive(Deserialize)]
pub(crate) struct OutOfStock {
    pub(crate) order: Uuid,
    pub(crate) quantity: i64,
    pub(crate) available: i64,
}

#[derive(Deserialize)]
pub(crate) struct Ended {
    pub(crate) order: Uuid,
    pub(crate) quantity: i64,
}

#[derive(Deserialize)]
pub(crate) struct Line<'a> {
    pub(crate) product: Uuid,
    pub(crate) quantity: i64,
    #[serde(borrow)]
    pub(crate) unit_price: Money<'a>,
}

#[derive(Deserialize)]
pub(crate) struct Placed<'a> {
    #[serde(borrow)]
    pub(crate) number: &'a str,
    #[serde(borrow)]
    pub(crate) lines: Vec<Line<'a>>,
    #[serde(borrow)]
    pub(crate) total: Money<'a>,
    #[serde(borrow)]
    pub(crate) method: &'a str,
}

#[derive(Deserialize)]
pub(crate) struct Repriced<'a> {
    #[serde(borrow)]
    pub(crate) prices: Vec<(Uuid, Money<'a>)>,
    #[serde(borrow)]
    pub(crate) total: Money<'a>,
}

#[derive(Deserialize)]
pub(crate) struct Until {
    pub(crate) payment: Uuid,
    pub(crate) until: i64,
}

#[derive(Deserialize)]
pub(crate) struct InTheWay {
    #[serde(default)]
    pub(crate) cause: Obstacle,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Obstacle {
    /// The first events did not say it.
    #[default]
    Provider,
    /// What was set aside.
    SetAside(Uuid),
}

#[derive(Deserialize)]
pub(crate) struct Paying {
    pub(crate) payment: Uuid,
}

#[derive(Deserialize)]
pub(crate) struct OrderCancelled<'a> {
    #[serde(rename = "failure", borrow)]
    pub(crate) _failure: &'a str,
}

#[derive(Deserialize)]
pub(crate) struct Requested<'a> {
    #[serde(borrow)]
    pub(crate) amount: Money<'a>,
    pub(crate) attempt: u64,
}

#[derive(Deserialize)]
pub(crate) struct Contradicted<'a> {
    #[serde(borrow)]
    pub(crate) found: Money<'a>,
}

#[derive(Deserialize)]
pub(crate) struct Resolved<'a> {
    #[serde(borrow)]
    pub(crate) outcome: &'a str,
    #[serde(borrow)]
    pub(crate) amount: Money<'a>,
}

#[derive(Deserialize)]
pub(crate) struct Advanced {
    pub(crate) seen: Vec<Seen>,
    pub(crate) steps: Vec<IgnoredAny>,
}

/// An event that a process has seen: a number is a position in its own shard, `S/N` one in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Here(u64),
    There(LogPosition),
}

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Seen;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a position, N or \"S/N\"")
            }

            fn visit_u64<E: serde::de::Error>(self, position: u64) -> Result<Seen, E> {
                Ok(Seen::Here(position))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Seen, E> {
                // Without a shard it would be read as one of the first.
                let place = Some(text).filter(|text| text.contains('/')).and_then(|text| text.parse().ok());
                place
                    .map(Seen::There)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// What a purchase is told by the answer to a message.
#[derive(Deserialize)]
pub(crate) struct Learnt {
    pub(crate) order: Uuid,
    pub(crate) seen: Seen,
}

/// What stands in the clear or sealed in an event about a person.
#[derive(Deserialize)]
pub(crate) struct Personal<'a> {
    #[serde(borrow)]
    pub(crate) address: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) reason: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) registration: Option<Registration<'a>>,
}

#[derive(Deserialize)]
pub(crate) struct Registration<'a> {
    #[serde(borrow)]
    pub(crate) email: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) phone: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) password: Option<Text<'a>>,
}

/// An event's metadata: a flat object of strings.
#[derive(Default)]
pub(crate) struct Metadata<'a> {
    pub(crate) correlation: Option<Cow<'a, str>>,
    pub(crate) causation: Option<Cow<'a, str>>,
    pub(crate) actor: Option<Cow<'a, str>>,
    pub(crate) key: Option<Cow<'a, str>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Metadata<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Metadata<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a flat object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Metadata<'de>, A::Error> {
                let mut metadata = Metadata::default();
                while let Some((Text(name), Text(value))) = members.next_entry::<Text<'de>, Text<'de>>()? {
                    match &*name {
                        "correlationId" => metadata.correlation = Some(value),
                        "causationId" => metadata.causation = Some(value),
                        "actor" => metadata.actor = Some(value),
                        "idempotencyKey" => metadata.key = Some(value),
                        _ => {}
                    }
                }
                Ok(metadata)
            }
        }
        deserializer.deserialize_map(Members)
    }
}
