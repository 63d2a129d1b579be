//! What a projection is.

use aggregates::{CommerceEvent, Recorded};
use uuid::Uuid;

/// Folds the events of one stream into one row.
pub trait Projection {
    /// Names the view and its shape; a new shape is a new name, filled from the first event.
    const NAME: &'static str;

    /// The row.
    type View: Clone;

    /// The row that this event belongs to; none when it does not concern this view.
    fn key(event: &CommerceEvent) -> Option<Uuid>;

    /// The row's key.
    fn id(view: &Self::View) -> Uuid;

    /// The sequence of the last event that the row counts.
    fn version(view: &Self::View) -> u64;

    /// The row after an event. None says that the event cannot follow what the row counts: the log contradicts itself.
    fn apply(view: Option<Self::View>, recorded: &Recorded) -> Option<Self::View>;
}

/// The names of all views; a store that holds others fills these anew.
pub const NAMES: [&str; 7] = [
    crate::Orders::NAME,
    crate::Products::NAME,
    crate::Inventories::NAME,
    crate::Payments::NAME,
    crate::Wallets::NAME,
    crate::WalletEntries::NAME,
    crate::Accounts::NAME,
];

#[cfg(test)]
pub(crate) mod given {
    //! Given these events, the row is this.

    use aggregates::{CommerceEvent, Recorded, Timestamp};

    use super::Projection;

    /// The n-th event is recorded n seconds after 1970 began.
    pub(crate) fn recorded(events: impl IntoIterator<Item = CommerceEvent>) -> Vec<Recorded> {
        let place = |(event, n): (CommerceEvent, u64)| Recorded {
            shard: 0,
            position: n,
            sequence: n,
            at: at(n),
            event: Some(event),
        };
        events.into_iter().zip(1..).map(place).collect()
    }

    pub(crate) fn at(n: u64) -> Timestamp {
        Timestamp::default().after(std::time::Duration::from_secs(n))
    }

    pub(crate) fn fold<P: Projection>(events: impl IntoIterator<Item = CommerceEvent>) -> Option<P::View> {
        recorded(events).iter().fold(None, |view, event| P::apply(view, event))
    }
}
