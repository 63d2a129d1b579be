//! A place in a log, as text that its bearer passes on.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// A place in a log: a view that shows it has counted what stood there. To its bearer it is opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsistencyToken {
    /// Which log.
    pub log_id: Uuid,
    /// Which shard of it.
    pub shard: u16,
    /// The last position that must be seen.
    pub position: u64,
}

/// Why a text is no consistency token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a consistency token: pass the one of a command's answer as it is")]
pub struct TokenError;

impl fmt::Display for ConsistencyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.log_id.simple(), self.shard, self.position)
    }
}

impl FromStr for ConsistencyToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        let mut part = || parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let (log_id, shard, position) = (part(), part(), part());
        let token = || {
            let log_id = log_id.filter(|id| id.len() == 32)?.parse().ok()?;
            Some(Self {
                log_id,
                shard: shard?.parse().ok()?,
                position: position?.parse().ok()?,
            })
        };
        token().filter(|_| parts.next().is_none()).ok_or(TokenError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_went_and_nothing_else_is_one() {
        let token = ConsistencyToken {
            log_id: Uuid::from_u128(0xabc),
            shard: 3,
            position: u64::MAX,
        };
        assert_eq!(token.to_string().parse(), Ok(token));
        for wrong in [
            "",
            "7",
            "a.b.c",
            "00000000000000000000000000000abc.3",
            "00000000000000000000000000000abc.3.7.1",
            "00000000000000000000000000000abc.99999.1",
        ] {
            assert_eq!(wrong.parse::<ConsistencyToken>(), Err(TokenError), "{wrong}");
        }
    }
}
