//! Which events a process has seen.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An event that a process has seen, by its place: a number in the process's own shard, `S/N` in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// In the process's own shard.
    Here(u64),
    /// In another one.
    There {
        /// The shard.
        shard: u16,
        /// The position in it.
        position: u64,
    },
}

impl Serialize for Seen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Here(position) => serializer.serialize_u64(*position),
            Self::There { shard, position } => serializer.collect_str(&format_args!("{shard}/{position}")),
        }
    }
}

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Place)
    }
}

struct Place;

impl de::Visitor<'_> for Place {
    type Value = Seen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a position, N or \"S/N\"")
    }

    fn visit_u64<E: de::Error>(self, position: u64) -> Result<Seen, E> {
        Ok(Seen::Here(position))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Seen, E> {
        let place = text.split_once('/');
        let place = place.and_then(|(shard, position)| Some((u16::from_str(shard).ok()?, u64::from_str(position).ok()?)));
        let (shard, position) = place.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))?;
        Ok(Seen::There { shard, position })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_another_shard_names_it() {
        let seen = [Seen::Here(7), Seen::There { shard: 3, position: 9 }];
        let json = serde_json::to_string(&seen).expect("JSON");
        assert_eq!(json, r#"[7,"3/9"]"#);
        assert_eq!(serde_json::from_str::<[Seen; 2]>(&json).expect("read"), seen);
        for wrong in [r#""7""#, r#""3/""#, r#""/9""#, "-1", "1.5", "null", r#""70000/1""#] {
            assert!(serde_json::from_str::<Seen>(wrong).is_err(), "{wrong}");
        }
    }
}
