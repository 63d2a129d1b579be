//! Moments: how people name a place in a log, and how times are shown.
//!
//! Nothing is guessed. What can be read in two ways is refused with both readings and a way to write each.

use std::{fmt::Write as _, str::FromStr};

use event_store::LogPosition;
use jiff::{
    SignedDuration, Span, Timestamp,
    civil::{Date, DateTime},
    fmt::temporal::{DateTimeParser, Pieces},
    tz::{AmbiguousOffset, OffsetConflict, TimeZone},
};

use crate::failure::Failure;

/// A moment as it was written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    text: String,
    reading: Reading,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reading {
    Start,
    End,
    Time(Timestamp),
    /// A day, in the zone that is shown.
    Day(Date),
    /// A time of the clock, in the zone that it names, if it names one.
    Clock(DateTime, Option<String>),
    /// So long before now.
    Before(Length),
    /// So long after the other bound, or after now.
    After(Length),
    Position {
        shard: Option<u16>,
        position: u64,
    },
    Version(u64),
}

/// Days of the calendar, which are longer or shorter where the clocks are changed, and hours and less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Length {
    days: i64,
    rest: SignedDuration,
}

/// A moment that means one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Before everything.
    Start,
    /// After everything that is recorded.
    End,
    /// Microseconds since 1970.
    Time(i64),
    /// An event; without a shard where the log has but one.
    Position { shard: Option<u16>, position: u64 },
    /// The version of a stream.
    Version(u64),
}

impl Moment {
    /// As it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// What it means in this zone, and now; `+1h` counts from `base`, microseconds since 1970, where there is one.
    pub(crate) fn settle(&self, zone: &TimeZone, now: Timestamp, base: Option<i64>) -> Result<Settled, Failure> {
        let text = &self.text;
        let beyond = || Failure::input(format_args!("{text} is further away than times reach"));
        let moved = |from: i64, by: Length| {
            let from = Timestamp::from_microsecond(from).map_err(|_| beyond())?.to_zoned(zone.clone());
            let days = Span::new().try_days(by.days).map_err(|_| beyond())?;
            let time = from
                .checked_add(days)
                .and_then(|day| day.checked_add(by.rest))
                .map_err(|_| beyond())?;
            Ok(Settled::Time(time.timestamp().as_microsecond()))
        };
        match &self.reading {
            Reading::Start => Ok(Settled::Start),
            Reading::End => Ok(Settled::End),
            Reading::Time(time) => Ok(Settled::Time(ceiling(*time))),
            Reading::Day(day) => self.of_clock(day.to_datetime(jiff::civil::Time::midnight()), zone),
            Reading::Clock(clock, Some(name)) => {
                let zone = TimeZone::get(name).map_err(|_| {
                    Failure::input(format_args!(
                        "{text}: {name:?} is no time zone that this machine knows; write an IANA name, as Asia/Seoul"
                    ))
                })?;
                self.of_clock(*clock, &zone)
            }
            Reading::Clock(clock, None) => {
                let there = zone
                    .to_ambiguous_zoned(*clock)
                    .compatible()
                    .map(|zoned| shown(zoned.timestamp(), zone));
                Err(Failure::input(format_args!(
                    "{text} names no time zone: it may be {clock}Z or {}; write one of these, or {clock}[{}]",
                    there.unwrap_or_else(|_| clock.to_string()),
                    zone.iana_name().unwrap_or("Asia/Seoul")
                )))
            }
            Reading::Before(by) => moved(
                now.as_microsecond(),
                Length {
                    days: -by.days,
                    rest: -by.rest,
                },
            ),
            Reading::After(by) => moved(base.unwrap_or_else(|| now.as_microsecond()), *by),
            Reading::Position { shard, position } => Ok(Settled::Position {
                shard: *shard,
                position: *position,
            }),
            Reading::Version(version) => Ok(Settled::Version(*version)),
        }
    }

    /// A time of the clock, which there may be once, twice or never.
    fn of_clock(&self, clock: DateTime, zone: &TimeZone) -> Result<Settled, Failure> {
        let text = &self.text;
        let name = zone.iana_name().unwrap_or("this zone");
        let ambiguous = zone.to_ambiguous_zoned(clock);
        let both = || match (ambiguous.clone().earlier(), ambiguous.clone().later()) {
            (Ok(earlier), Ok(later)) => format!("{} or {}", shown(earlier.timestamp(), zone), shown(later.timestamp(), zone)),
            _ => "a time with its offset, as 2026-01-05T10:00:00+09:00".to_owned(),
        };
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } => {
                let zoned = ambiguous
                    .unambiguous()
                    .map_err(|error| Failure::input(format_args!("{text}: {error}")))?;
                Ok(Settled::Time(ceiling(zoned.timestamp())))
            }
            AmbiguousOffset::Gap { .. } => Err(Failure::input(format_args!(
                "{text} does not exist in {name}, where the clocks are put forward over it; write {}",
                both()
            ))),
            AmbiguousOffset::Fold { .. } => Err(Failure::input(format_args!(
                "{text} comes twice in {name}, where the clocks are put back; write {}",
                both()
            ))),
        }
    }
}

/// Times are recorded in microseconds: what lies between two of them is before the second.
fn ceiling(time: Timestamp) -> i64 {
    let micros = time.as_microsecond();
    let between = time.as_nanosecond() - i128::from(micros) * 1_000 > 0;
    if between { micros.saturating_add(1) } else { micros }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self {
            reading: read(text)?,
            text: text.to_owned(),
        })
    }
}

fn read(text: &str) -> Result<Reading, String> {
    match text {
        "start" => return Ok(Reading::Start),
        "end" => return Ok(Reading::End),
        "" => return Err(FORMS.to_owned()),
        _ => {}
    }
    if let Some(place) = text.strip_prefix("pos:") {
        return position(place);
    }
    if let Some(version) = text.strip_prefix("v:") {
        return match digits(version) {
            Some(version) if version > 0 => Ok(Reading::Version(version)),
            _ => Err("a version is v:N, counted from 1".to_owned()),
        };
    }
    if let Some(length) = text.strip_prefix('-') {
        return length_of(text, length).map(Reading::Before);
    }
    if let Some(length) = text.strip_prefix('+') {
        return length_of(text, length).map(Reading::After);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bare_number(text));
    }
    time(text)
}

const FORMS: &str = "write 2026-01-05T10:00+09:00, 2026-01-05, -2h, pos:N, v:N, start or end";

fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn position(place: &str) -> Result<Reading, String> {
    let wrong = || "a position is pos:N, or pos:S/N (shard and position) where the log has several shards; N counts from 1".to_owned();
    let known: LogPosition = place.parse().map_err(|_| wrong())?;
    if known.position == 0 {
        return Err(wrong());
    }
    Ok(Reading::Position {
        shard: place.contains('/').then_some(known.shard),
        position: known.position,
    })
}

fn length_of(text: &str, length: &str) -> Result<Length, String> {
    let wrong = |why: &str| format!("{text:?} is no length of time{why}; write -2h, +30m, -1h30m or +7d");
    let span: Span = length.parse().map_err(|_| wrong(""))?;
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err(wrong(" that is always the same"));
    }
    let days = i64::from(span.get_weeks()) * 7 + i64::from(span.get_days());
    let rest = span.weeks(0).days(0).to_duration(jiff::SpanRelativeTo::days_are_24_hours());
    let rest = rest.map_err(|_| wrong(""))?;
    if days < 0 || rest.is_negative() {
        return Err(wrong(""));
    }
    Ok(Length { days, rest })
}

/// A number may be a position, a version, or seconds, milliseconds or microseconds since 1970.
fn bare_number(text: &str) -> String {
    let mut readings = format!("{text} can be read as a position (pos:{text}), as a version (v:{text})");
    let number: i64 = text.parse().unwrap_or(i64::MAX);
    let time = [
        ("seconds", Timestamp::from_second(number)),
        ("milliseconds", Timestamp::from_millisecond(number)),
        ("microseconds", Timestamp::from_microsecond(number)),
    ];
    for (unit, time) in time {
        if let Ok(time) = time {
            let _ = write!(readings, ", as {unit} since 1970 ({time})");
        }
    }
    readings.push_str("; write the one that you mean");
    readings
}

fn time(text: &str) -> Result<Reading, String> {
    let wrong = |why: &str| format!("{text:?} is no moment: {why}; {FORMS}");
    // RFC 3339 allows a space; a lower-case t and z are the same letters.
    let pieces = Pieces::parse(text).map_err(|error| wrong(&error.to_string()))?;
    let date = pieces.date();
    let Some(clock) = pieces.time() else {
        return if pieces.offset().is_none() && pieces.time_zone_annotation().is_none() {
            Ok(Reading::Day(date))
        } else {
            Err(wrong("a day with a zone needs a time"))
        };
    };
    let clock = date.to_datetime(clock);
    if pieces.offset().is_some() && pieces.time_zone_annotation().is_some() {
        let parser = DateTimeParser::new().offset_conflict(OffsetConflict::Reject);
        let zoned = parser.parse_zoned(text).map_err(|error| wrong(&error.to_string()))?;
        return Ok(Reading::Time(zoned.timestamp()));
    }
    match (pieces.to_numeric_offset(), pieces.offset()) {
        (Some(offset), _) => {
            let time = offset.to_timestamp(clock).map_err(|error| wrong(&error.to_string()))?;
            Ok(Reading::Time(time))
        }
        // Z.
        (None, Some(_)) => {
            let time = jiff::tz::Offset::UTC
                .to_timestamp(clock)
                .map_err(|error| wrong(&error.to_string()))?;
            Ok(Reading::Time(time))
        }
        (None, None) => {
            let zone = pieces.time_zone_annotation().map(|annotation| match annotation.kind() {
                jiff::fmt::temporal::TimeZoneAnnotationKind::Named(name) => name.as_str().to_owned(),
                _ => String::new(),
            });
            Ok(Reading::Clock(clock, zone.filter(|name| !name.is_empty())))
        }
    }
}

/// A time as people read it in this zone: RFC 3339 with the offset.
pub(crate) fn shown(time: Timestamp, zone: &TimeZone) -> String {
    let offset = zone.to_offset(time);
    time.display_with_offset(offset).to_string()
}

/// Shows recorded times in one zone, always to the microsecond, so that they stand in columns and sort as text.
///
/// Events of one batch share their time, and those of one second most of it: what was written last is kept.
#[derive(Debug)]
pub(crate) struct Clock {
    zone: TimeZone,
    second: Option<i64>,
    text: String,
}

/// Where the six digits stand in `2026-01-05T10:00:00.123456+09:00`.
const FRACTION: std::ops::Range<usize> = 20..26;

impl Clock {
    pub(crate) fn new(zone: TimeZone) -> Self {
        Self {
            zone,
            second: None,
            text: String::new(),
        }
    }

    /// Microseconds since 1970, as RFC 3339.
    pub(crate) fn show(&mut self, micros: i64) -> &str {
        let (second, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
        if self.second != Some(second) {
            self.text = Timestamp::from_second(second).map_or_else(|_| String::new(), |time| whole(time, &self.zone));
            self.second = Some(second);
        }
        if self.text.len() <= FRACTION.end {
            // Further away than the calendar reaches; nothing that a shop records.
            self.second = None;
            self.text = format!("{micros}us");
            return &self.text;
        }
        let mut digits = [b'0'; 6];
        let mut rest = fraction;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
        }
        if let Ok(digits) = std::str::from_utf8(&digits) {
            self.text.replace_range(FRACTION, digits);
        }
        &self.text
    }
}

/// The second, with room for its digits; nothing where a year has more than four.
fn whole(time: Timestamp, zone: &TimeZone) -> String {
    let offset = zone.to_offset(time);
    let civil = offset.to_datetime(time);
    if !(0..=9_999).contains(&civil.year()) {
        return String::new();
    }
    let seconds = offset.seconds();
    let mut text = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.000000",
        civil.year(),
        civil.month(),
        civil.day(),
        civil.hour(),
        civil.minute(),
        civil.second()
    );
    if seconds == 0 {
        text.push('Z');
    } else {
        let sign = if seconds < 0 { '-' } else { '+' };
        let minutes = seconds.abs() / 60;
        let _ = write!(text, "{sign}{:02}:{:02}", minutes / 60, minutes % 60);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_767_225_600_000_000;

    fn moment(text: &str) -> Moment {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn settle_in(zone: &str, text: &str, base: Option<i64>) -> Result<Settled, String> {
        let zone = TimeZone::get(zone).expect("a zone");
        let now = Timestamp::from_microsecond(NOW).expect("a time");
        moment(text).settle(&zone, now, base).map_err(|failure| failure.line().to_owned())
    }

    fn settled(text: &str) -> Settled {
        settle_in("Asia/Seoul", text, None).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn time(text: &str) -> Settled {
        Settled::Time(text.parse::<Timestamp>().expect("a time").as_microsecond())
    }

    #[test]
    fn every_way_to_write_a_moment_means_one_thing() {
        assert_eq!(settled("2026-01-05T10:00:00Z"), time("2026-01-05T10:00:00Z"));
        assert_eq!(settled("2026-01-05T10:00+09:00"), time("2026-01-05T01:00:00Z"));
        assert_eq!(settled("2026-01-05 10:00:00.5-03:30"), time("2026-01-05T13:30:00.5Z"));
        assert_eq!(settled("2026-01-05T10:00[Europe/Berlin]"), time("2026-01-05T09:00:00Z"));
        assert_eq!(settled("2026-01-05"), time("2026-01-04T15:00:00Z"));
        assert_eq!(settled("-2h"), Settled::Time(NOW - 7_200_000_000));
        assert_eq!(settled("+90s"), Settled::Time(NOW + 90_000_000));
        assert_eq!(settle_in("Asia/Seoul", "+1h", Some(0)), Ok(Settled::Time(3_600_000_000)));
        assert_eq!(settle_in("Asia/Seoul", "-1h", Some(0)), Ok(Settled::Time(NOW - 3_600_000_000)));
        assert_eq!(settled("pos:17"), Settled::Position { shard: None, position: 17 });
        assert_eq!(
            settled("pos:3/17"),
            Settled::Position {
                shard: Some(3),
                position: 17
            }
        );
        assert_eq!(settled("v:4"), Settled::Version(4));
        assert_eq!((settled("start"), settled("end")), (Settled::Start, Settled::End));
        // Between two microseconds: what is recorded at the first was before it.
        assert_eq!(settled("2026-01-01T00:00:00.0000001Z"), Settled::Time(NOW + 1));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused_with_both() {
        let refused = |zone: &str, text: &str| settle_in(zone, text, None).expect_err(text);
        let no_zone = refused("Asia/Seoul", "2026-01-05T10:00");
        assert!(
            no_zone.contains("2026-01-05T10:00:00Z or 2026-01-05T10:00:00+09:00") && no_zone.contains("[Asia/Seoul]"),
            "{no_zone}"
        );
        let twice = refused("Europe/Berlin", "2026-10-25T02:30[Europe/Berlin]");
        assert!(
            twice.contains("comes twice") && twice.contains("2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00"),
            "{twice}"
        );
        let never = refused("Asia/Seoul", "2026-03-29T02:30[Europe/Berlin]");
        assert!(
            never.contains("does not exist") && never.contains("2026-03-29T03:30:00+02:00"),
            "{never}"
        );
        // A day that has no midnight.
        let day = refused("America/Santiago", "2026-09-06");
        assert!(day.contains("does not exist"), "{day}");
        let number = "1767225600".parse::<Moment>().expect_err("a number");
        for reading in ["pos:1767225600", "v:1767225600", "2026-01-01T00:00:00Z"] {
            assert!(number.contains(reading), "{number}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused_with_the_forms() {
        for text in [
            "",
            "2026-13-01",
            "2026-02-30",
            "yesterday",
            "10:00",
            "2026-01-05T25:00Z",
            "2026-01-05Z",
            "주문",
        ] {
            let error = text.parse::<Moment>().expect_err(text);
            assert!(error.contains("pos:N"), "{error}");
        }
        for text in ["pos:", "pos:0", "pos:x", "pos:1/2/3", "pos:-1", "pos:70000/1"] {
            assert!(text.parse::<Moment>().expect_err(text).contains("pos:S/N"), "{text}");
        }
        for text in ["v:", "v:0", "v:x", "-", "+", "-2", "-2x", "--2h", "-2 h h"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
        for text in [
            "-9999999999h",
            "+99999999years",
            "+1mo",
            "-1y",
            "2026-01-05T10:00+05:00[Asia/Seoul]",
        ] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
        assert!(settle_in("Asia/Seoul", "+4000000d", None).is_err());
        assert!(settle_in("Asia/Seoul", "2026-01-05T10:00[Mars/Base]", None).is_err());
    }

    #[test]
    fn a_day_is_one_of_the_calendar_and_an_hour_an_hour() {
        let midnight = |day: &str| settle_in("Europe/Berlin", day, None).expect("a day");
        let Settled::Time(base) = midnight("2026-03-29") else {
            panic!("a time")
        };
        assert_eq!(settle_in("Europe/Berlin", "+1d", Some(base)), Ok(midnight("2026-03-30")));
        assert_eq!(settle_in("Europe/Berlin", "+1w", Some(base)), Ok(midnight("2026-04-05")));
        assert_eq!(
            settle_in("Europe/Berlin", "+24h", Some(base)),
            Ok(Settled::Time(base + 24 * 3_600_000_000))
        );
        let Settled::Time(next) = midnight("2026-03-30") else {
            panic!("a time")
        };
        assert_eq!(next - base, 23 * 3_600_000_000, "the clocks are put forward");
        assert_eq!(
            settled("2026-01-05T10:00+09:00[Asia/Seoul]"),
            time("2026-01-05T01:00:00Z"),
            "an offset that is the zone's"
        );
    }

    #[test]
    fn times_are_shown_to_the_microsecond_in_the_zone() {
        let mut clock = Clock::new(TimeZone::get("Asia/Seoul").expect("a zone"));
        assert_eq!(clock.show(NOW), "2026-01-01T09:00:00.000000+09:00");
        assert_eq!(clock.show(NOW + 1_234), "2026-01-01T09:00:00.001234+09:00");
        assert_eq!(clock.show(NOW + 1_000_000), "2026-01-01T09:00:01.000000+09:00");
        assert_eq!(clock.show(-1), "1970-01-01T08:59:59.999999+09:00");
        assert_eq!(clock.show(i64::MAX), "9223372036854775807us");
        assert_eq!(clock.show(NOW), "2026-01-01T09:00:00.000000+09:00");
        assert_eq!(Clock::new(TimeZone::UTC).show(NOW), "2026-01-01T00:00:00.000000Z");
    }
}
