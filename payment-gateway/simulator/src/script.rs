//! What a payment key makes the simulator do.

/// The part that a payment plays, named by its key's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    /// Approved.
    Ok,
    /// Refused by the card company.
    Declined,
    /// Refused because the money does not suffice.
    Insufficient,
    /// Charged, and the answer never arrives.
    LostApplied,
    /// Not charged, and no answer either.
    Lost,
    /// Fails twice, then approved.
    ServerError,
    /// Approved after a while.
    Slow,
}

/// A longer prefix stands before the shorter one that it begins with.
const PREFIXES: [(&str, Script); 7] = [
    ("sim_insufficient_", Script::Insufficient),
    ("sim_lost_applied_", Script::LostApplied),
    ("sim_declined_", Script::Declined),
    ("sim_lost_", Script::Lost),
    ("sim_slow_", Script::Slow),
    ("sim_5xx_", Script::ServerError),
    ("sim_ok_", Script::Ok),
];

impl Script {
    /// The script of this payment key; none when the provider knows no such payment.
    pub(crate) fn of(payment_key: &str) -> Option<Self> {
        PREFIXES
            .iter()
            .find(|(prefix, _)| payment_key.starts_with(prefix))
            .map(|(_, script)| *script)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_decides() {
        assert_eq!(Script::of("sim_lost_applied_1"), Some(Script::LostApplied));
        assert_eq!(Script::of("sim_lost_1"), Some(Script::Lost));
        assert_eq!(Script::of("sim_lost_applied"), Some(Script::Lost));
        assert_eq!(Script::of("sim_ok_1"), Some(Script::Ok));
        assert_eq!(Script::of("SIM_OK_1"), None);
        assert_eq!(Script::of("tviva2024"), None);
        assert_eq!(Script::of(""), None);
    }
}
