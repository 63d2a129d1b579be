//! When people come: more in the evening, fewer at night, more at the weekend.

use jiff::{
    ToSpan, Zoned,
    civil::{Weekday, date},
    tz::TimeZone,
};

use crate::failure::Failure;

/// How likely each hour of the day is.
const HOURS: [u64; 24] = [3, 2, 1, 1, 1, 2, 3, 6, 9, 10, 10, 12, 15, 12, 9, 9, 9, 11, 13, 16, 19, 20, 15, 8];

const HOUR: i64 = 3_600_000_000;
pub(super) const MINUTE: i64 = 60_000_000;
pub(super) const SECOND: i64 = 1_000_000;

/// The shop's days.
#[derive(Clone, Debug)]
pub(super) struct Calendar {
    /// The first microsecond of each day, and of the one after the last.
    days: Vec<i64>,
    /// How likely all hours before the `i`th are.
    before: Vec<u64>,
}

impl Calendar {
    /// So many days from the shop's first one on, which never changes: Monday, the fifth of January 2026.
    pub(super) fn new(days: u16, zone: &TimeZone) -> Result<Self, Failure> {
        let wrong = |error: jiff::Error| Failure::wrong(format_args!("the shop's days cannot be counted: {error}"));
        let first = date(2026, 1, 5)
            .to_zoned(zone.clone())
            .and_then(|day| day.start_of_day())
            .map_err(wrong)?;
        let mut starts = Vec::with_capacity(usize::from(days) + 1);
        let mut before = vec![0];
        let mut sum = 0;
        for number in 0..=days {
            let day: Zoned = first
                .checked_add(i64::from(number).days())
                .and_then(|day| day.start_of_day())
                .map_err(wrong)?;
            starts.push(day.timestamp().as_microsecond());
            let weekend = matches!(day.weekday(), Weekday::Saturday | Weekday::Sunday);
            for weight in HOURS {
                sum += weight * if weekend { 13 } else { 10 };
                before.push(sum);
            }
        }
        before.truncate(usize::from(days) * HOURS.len() + 1);
        Ok(Self { days: starts, before })
    }

    pub(super) fn begin(&self) -> i64 {
        self.days.first().copied().unwrap_or_default()
    }

    pub(super) fn end(&self) -> i64 {
        self.days.last().copied().unwrap_or_default()
    }

    /// How many days there are.
    pub(super) fn days(&self) -> usize {
        self.days.len() - 1
    }

    /// This time of this day.
    pub(super) fn at(&self, day: usize, hour: i64, minute: i64) -> i64 {
        self.days.get(day).copied().unwrap_or_default() + hour * HOUR + minute * MINUTE
    }

    /// When the visit with this number comes, of so many: each has its share of the likely hours, and comes at `chance` millionths of it.
    pub(super) fn visit(&self, number: u64, of: u64, chance: u64) -> i64 {
        let total = u128::from(self.before.last().copied().unwrap_or(1));
        let share = (u128::from(number) * 1_000_000 + u128::from(chance)) * total / u128::from(of.max(1));
        let place = u64::try_from(share / 1_000_000).unwrap_or(u64::MAX);
        let hour = self.before.partition_point(|before| *before <= place).saturating_sub(1);
        let hour = hour.min(self.before.len().saturating_sub(2));
        let (from, to) = (self.before[hour], self.before[hour + 1]);
        let within = share - u128::from(from) * 1_000_000;
        let micros = within * u128::from(HOUR.unsigned_abs()) / (u128::from(to - from).max(1) * 1_000_000);
        let start = self.at(hour / HOURS.len(), 0, 0);
        let hour = i64::try_from(hour % HOURS.len()).unwrap_or_default();
        start + hour * HOUR + i64::try_from(micros).unwrap_or_default().min(HOUR - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_come_in_order_and_most_of_them_in_the_evening() {
        let calendar = Calendar::new(30, &TimeZone::get("Asia/Seoul").expect("a known time zone")).expect("a calendar");
        assert_eq!(
            calendar.begin(),
            "2026-01-05T00:00:00+09:00"
                .parse::<jiff::Timestamp>()
                .expect("a time")
                .as_microsecond()
        );
        let visits: Vec<i64> = (0..10_000).map(|number| calendar.visit(number, 10_000, 500_000)).collect();
        assert!(visits.is_sorted() && visits[0] >= calendar.begin() && visits[9_999] < calendar.end());
        let at = |hour: i64| visits.iter().filter(|at| (*at - calendar.begin()) / HOUR % 24 == hour).count();
        assert!(at(21) > 5 * at(3), "{} at 21, {} at 3", at(21), at(3));
    }
}
