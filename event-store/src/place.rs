//! Shards, and places in a log that has several.

use std::{fmt, num::NonZeroU16, str::FromStr};

use uuid::Uuid;

/// How many shards a log has: fixed when the log is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shards(NonZeroU16);

impl Shards {
    /// One shard: the whole log has one order.
    pub const ONE: Self = Self(NonZeroU16::MIN);

    /// The most shards that a log may have.
    pub const MOST: u16 = 1_024;

    /// So many shards; none when there cannot be so many.
    pub fn new(count: u16) -> Option<Self> {
        NonZeroU16::new(count).filter(|count| count.get() <= Self::MOST).map(Self)
    }

    /// How many.
    pub const fn count(self) -> u16 {
        self.0.get()
    }

    /// All of them, in order.
    pub fn all(self) -> impl Iterator<Item = u16> {
        0..self.count()
    }

    /// The shard that keeps what has this key, for ever: FNV-1a (64 bit) over the key's 16 bytes, its halves combined, modulo the count.
    ///
    /// The function is Fowler, Noll and Vo's: <https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>. It is short enough for an analyst to
    /// write it down in any language.
    pub fn of(self, key: Uuid) -> u16 {
        let hash = key.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let folded = hash ^ (hash >> 32);
        // Smaller than the count, which is 16 bits wide.
        u16::try_from(folded % u64::from(self.count())).unwrap_or_default()
    }
}

impl fmt::Display for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in a log: `N` where it has one shard, `S/N` where it has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// The shard.
    pub shard: u16,
    /// The position in it, from 1; 0 is before the first event.
    pub position: u64,
}

/// Why a text is no place in a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a position: write N, or S/N (shard and position) where the log has several shards")]
pub struct PositionError(String);

impl LogPosition {
    /// As people write it.
    pub fn text(self, shards: Shards) -> String {
        if shards == Shards::ONE {
            self.position.to_string()
        } else {
            self.to_string()
        }
    }
}

/// Always with the shard.
impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.shard, self.position)
    }
}

impl FromStr for LogPosition {
    type Err = PositionError;

    /// Without a shard it is the first.
    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (shard, position) = text.split_once('/').unwrap_or(("0", text));
        // A number may begin with a sign, a position may not.
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        match (shard.parse(), position.parse()) {
            (Ok(number), Ok(place)) if digits(shard) && digits(position) => Ok(Self {
                shard: number,
                position: place,
            }),
            _ => Err(PositionError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_in_its_shard_for_ever() {
        let shards = |count| Shards::new(count).expect("a few");
        let key = Uuid::from_u128(0x0f1e_2d3c_4b5a_6978_8796_a5b4_c3d2_e1f0);
        assert_eq!([1, 2, 4, 16].map(|count| shards(count).of(key)), [0, 1, 3, 15]);
        assert_eq!([1, 2, 4, 16].map(|count| shards(count).of(Uuid::from_u128(1))), [0, 1, 3, 11]);
    }

    #[test]
    fn keys_spread_over_all_shards() {
        let shards = Shards::new(4).expect("four");
        for keys in [
            (0..4_000).map(Uuid::from_u128).collect::<Vec<_>>(),
            (0..4_000_u32).map(|n| Uuid::new_v5(&Uuid::nil(), &n.to_le_bytes())).collect(),
        ] {
            let mut counts = [0_u32; 4];
            for key in keys {
                counts[usize::from(shards.of(key))] += 1;
            }
            assert!(counts.iter().all(|count| (800..=1_200).contains(count)), "{counts:?}");
        }
    }

    #[test]
    fn a_position_is_read_as_it_is_written() {
        let place = LogPosition { shard: 3, position: 17 };
        assert_eq!(place.to_string().parse(), Ok(place));
        assert_eq!("17".parse(), Ok(LogPosition { shard: 0, position: 17 }));
        assert_eq!(place.text(Shards::new(4).expect("four")), "3/17");
        assert_eq!(LogPosition { shard: 0, position: 17 }.text(Shards::ONE), "17");
        for wrong in [
            "",
            "/",
            "1/",
            "/1",
            "+1",
            "1/+1",
            "1/2/3",
            "70000/1",
            "x",
            "-1",
            "99999999999999999999",
        ] {
            assert!(wrong.parse::<LogPosition>().is_err(), "{wrong}");
        }
    }
}
