//! Order numbers for people: the day, and a count.

use aggregates::{OrderNumber, TextError, Timestamp};
use event_store::Shards;
use jiff::{ToSpan, tz::TimeZone};

/// Numbers the orders of one shard.
#[derive(Debug)]
pub(crate) struct OrderNumbers {
    zone: TimeZone,
    shard: u16,
    shards: Shards,
    /// The day as it is written, from its first microsecond to its last.
    day: Option<(i64, i64, String)>,
}

impl OrderNumbers {
    pub(crate) fn new(zone: TimeZone, shard: u16, shards: Shards) -> Self {
        Self {
            zone,
            shard,
            shards,
            day: None,
        }
    }

    /// The number of the `count`th order of this shard (from 1), placed at `at`.
    pub(crate) fn number(&mut self, count: u64, at: Timestamp) -> Result<OrderNumber, TextError> {
        let number = count
            .saturating_mul(u64::from(self.shards.count()))
            .saturating_add(u64::from(self.shard));
        format!("{}{number:08}", self.day(at)).parse()
    }

    fn day(&mut self, at: Timestamp) -> &str {
        let known = self.day.as_ref().is_some_and(|(from, to, _)| (*from..*to).contains(&at.micros()));
        if !known {
            let zoned = jiff::Timestamp::from_microsecond(at.micros())
                .unwrap_or_default()
                .to_zoned(self.zone.clone());
            let text = zoned.strftime("%Y%m%d").to_string();
            let start = zoned.start_of_day().map_or(at.micros(), |start| start.timestamp().as_microsecond());
            let end = zoned
                .start_of_day()
                .and_then(|start| start.checked_add(1.day()))
                .map_or(start, |end| end.timestamp().as_microsecond());
            self.day = Some((start, end, text));
        }
        self.day.as_ref().map_or("", |(_, _, text)| text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_day_in_the_shops_time_zone_and_a_count() {
        let mut numbers = OrderNumbers::new(TimeZone::get("Asia/Seoul").expect("a known time zone"), 0, Shards::ONE);
        let before_midnight: jiff::Timestamp = "2026-11-20T14:59:59Z".parse().expect("a time");
        let at = |time: jiff::Timestamp| Timestamp::from_micros(time.as_microsecond());
        assert_eq!(
            numbers.number(1, at(before_midnight)).expect("a number").as_str(),
            "2026112000000001"
        );
        assert_eq!(
            numbers.number(2, at(before_midnight + 1.second())).expect("a number").as_str(),
            "2026112100000002"
        );
    }

    #[test]
    fn shards_never_give_the_same_number() {
        let zone = TimeZone::UTC;
        let two = Shards::new(2).expect("two");
        let (mut first, mut second) = (OrderNumbers::new(zone.clone(), 0, two), OrderNumbers::new(zone, 1, two));
        let at = Timestamp::from_micros(0);
        assert_eq!(first.number(3, at).expect("a number").as_str(), "1970010100000006");
        assert_eq!(second.number(3, at).expect("a number").as_str(), "1970010100000007");
    }
}
