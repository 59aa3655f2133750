//! The time zone in which a ledger's days begin.

use std::time::SystemTime;

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::row::micros_since_1970;

const MICROS_PER_HOUR: i64 = 3_600_000_000;

/// A time zone by its name in the IANA's database.
#[derive(Clone, Debug)]
pub(super) struct Zone {
    name: Box<str>,
    zone: TimeZone,
}

impl Zone {
    pub(super) fn utc() -> Self {
        Self { name: "UTC".into(), zone: TimeZone::UTC }
    }

    /// `None`: nobody knows it.
    pub(super) fn named(name: &str) -> Option<Self> {
        let zone = if name == "UTC" { TimeZone::UTC } else { TimeZone::get(name).ok()? };
        Some(Self { name: name.into(), zone })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The day of a moment, in days since 1970.
    pub(super) fn day(&self, micros: i64) -> i64 {
        if self.name() == "UTC" {
            return micros.div_euclid(24 * MICROS_PER_HOUR);
        }
        days_of(self.date(micros))
    }

    pub(super) fn date(&self, micros: i64) -> Date {
        let at = Timestamp::from_microsecond(micros).unwrap_or_default();
        at.to_zoned_datetime(self.zone.clone()).date()
    }

    /// The moment at which a day begins here.
    pub(super) fn beginning(&self, day: i64) -> i64 {
        date_of(day)
            .to_zoned_datetime(self.zone.clone())
            .and_then(|midnight| midnight.start_of_day())
            .map_or(day * 24 * MICROS_PER_HOUR, |at| at.timestamp().as_microsecond())
    }

    /// An hour as people write it here, with its distance from UTC: in autumn there are two of the same name.
    pub(super) fn hour(&self, micros: i64) -> String {
        let at = Timestamp::from_microsecond(micros).unwrap_or_default().to_zoned_datetime(self.zone.clone());
        at.strftime("%Y-%m-%dT%H:00%:z").to_string()
    }

    /// Whether its hours are UTC's from one moment to another.
    pub(super) fn has_whole_hours(&self, from: i64, until: i64) -> bool {
        let is_whole = |offset: jiff::tz::Offset| offset.seconds().rem_euclid(3_600) == 0;
        let at = |micros: i64| Timestamp::from_microsecond(micros).unwrap_or_default();
        let (from, until) = (at(from), at(until));
        let changes = self.zone.following(from).take_while(|change| change.timestamp() < until);
        is_whole(self.zone.to_offset(from)) && changes.map(|change| change.offset()).all(is_whole)
    }
}

/// The hour of a moment, in hours since 1970 (UTC).
pub(super) const fn hour_of(micros: i64) -> i64 {
    micros.div_euclid(MICROS_PER_HOUR)
}

pub(super) const fn hour_begins(hour: i64) -> i64 {
    hour.saturating_mul(MICROS_PER_HOUR)
}

/// Whether a moment is a whole hour.
pub(super) const fn is_whole_hour(micros: i64) -> bool {
    micros.rem_euclid(MICROS_PER_HOUR) == 0
}

pub(super) fn micros_of(at: SystemTime) -> i64 {
    micros_since_1970(at)
}

/// The date of a day that is counted from 1970.
pub(super) fn date_of(day: i64) -> Date {
    let epoch = jiff::civil::date(1970, 1, 1);
    let days = jiff::Span::new().try_days(day).unwrap_or_default();
    epoch.checked_add(days).unwrap_or(epoch)
}

fn days_of(date: Date) -> i64 {
    let since = date.since(jiff::civil::date(1970, 1, 1));
    since.map_or(0, |span| i64::from(span.get_days()))
}
