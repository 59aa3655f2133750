//! When a budget begins anew.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};

/// For how long an amount is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Window {
    /// For good.
    Total,
    /// From midnight to midnight in the budget's time zone: 23 to 25 hours.
    Day,
    /// A month of the calendar, in the budget's time zone.
    Month,
    /// What was spent of late counts, back to this long ago and up to a sixtieth longer.
    Rolling(Duration),
}

impl Window {
    /// As an adjective of a budget.
    pub(super) fn adjective(self) -> String {
        match self {
            Self::Total => String::new(),
            Self::Day => "daily ".into(),
            Self::Month => "monthly ".into(),
            Self::Rolling(time) if time.as_secs().is_multiple_of(3_600) => format!("{}-hour ", time.as_secs() / 3_600),
            Self::Rolling(time) => format!("{}-second ", time.as_secs_f64()),
        }
    }

    /// As a part of an account's name.
    pub(super) fn key(self) -> String {
        match self {
            Self::Total => "total".into(),
            Self::Day => "day".into(),
            Self::Month => "month".into(),
            Self::Rolling(time) => format!("rolling-{}", time.as_nanos()),
        }
    }
}

/// Which money of an account counts, and where a charge goes: in seconds since 1970.
///
/// An account keeps its money by slots. A charge goes to the slot of its reservation for good, whenever it is settled,
/// so that nothing is allowed twice around midnight.
///
/// ```
/// use together_inference::cost::Period;
///
/// let day = Period::new(86_400);
/// assert!(day.counts(86_400) && !day.counts(0) && !day.counts(172_800));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Period {
    /// The slot that a charge goes to.
    pub slot: i64,
    /// The first slot that counts.
    pub since: i64,
    /// The last slot that counts.
    pub until: i64,
}

impl Period {
    /// One slot, which alone counts.
    #[must_use]
    pub const fn new(slot: i64) -> Self {
        Self { slot, since: slot, until: slot }
    }

    /// A slot, with what counts since an earlier one. Later ones count as well: they are there where a clock was set
    /// back.
    ///
    /// ```
    /// use together_inference::cost::Period;
    ///
    /// assert!(Period::rolling(120, 60).counts(60) && !Period::rolling(120, 60).counts(59));
    /// ```
    #[must_use]
    pub const fn rolling(slot: i64, since: i64) -> Self {
        Self { slot, since, until: i64::MAX }
    }

    /// Whether the money of this slot counts.
    #[must_use]
    pub const fn counts(&self, slot: i64) -> bool {
        self.since <= slot && slot <= self.until
    }
}

/// A period with the time at which it is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) period: Period,
    /// `None`: never.
    pub(super) ends: Option<i64>,
}

impl Cut {
    /// When it is over, as wall time.
    pub(super) fn resets_at(&self) -> Option<SystemTime> {
        let ends = u64::try_from(self.ends?).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(ends))
    }
}

/// Cuts time into the windows of one budget. A calendar is asked once a window.
#[derive(Debug)]
pub(super) struct Cutter {
    window: Window,
    zone: TimeZone,
    last: Mutex<Option<Cut>>,
}

impl Cutter {
    /// `None`: there is no such time zone.
    pub(super) fn new(window: Window, zone: Option<&str>) -> Option<Self> {
        let zone = zone.map_or(Some(TimeZone::UTC), |name| TimeZone::get(name).ok())?;
        Some(Self { window, zone, last: Mutex::default() })
    }

    pub(super) fn cut(&self, at: SystemTime) -> Cut {
        let now = seconds(at);
        match self.window {
            Window::Total => Cut { period: Period::new(0), ends: None },
            Window::Rolling(time) => rolling(now, time),
            Window::Day | Window::Month => {
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                let holds = |cut: &Cut| cut.period.slot <= now && cut.ends.is_some_and(|ends| now < ends);
                match *last {
                    Some(cut) if holds(&cut) => cut,
                    _ => *last.insert(self.of_calendar(now)),
                }
            }
        }
    }

    /// A day or a month; what no calendar knows is one window for good.
    fn of_calendar(&self, now: i64) -> Cut {
        let cut = || {
            let today = Timestamp::from_second(now).ok()?.to_zoned_datetime(self.zone.clone()).date();
            let (first, next) = match self.window {
                Window::Month => (today.first_of_month(), today.last_of_month().checked_add(1.day()).ok()?),
                _ => (today, today.checked_add(1.day()).ok()?),
            };
            Some(Cut { period: Period::new(self.begins(first)?), ends: Some(self.begins(next)?) })
        };
        cut().unwrap_or(Cut { period: Period::new(i64::MIN), ends: None })
    }

    /// The first second of a day: where the clocks go forward at midnight, it is not 00:00.
    fn begins(&self, date: Date) -> Option<i64> {
        let begins = date.to_zoned_datetime(self.zone.clone()).and_then(|midnight| midnight.start_of_day());
        Some(begins.ok()?.timestamp().as_second())
    }
}

/// Slots of a sixtieth of the time.
fn rolling(now: i64, time: Duration) -> Cut {
    let time = i64::try_from(time.as_secs()).unwrap_or(i64::MAX / 4).clamp(1, i64::MAX / 4);
    let slice = (time / 60).max(1);
    let slot = now.div_euclid(slice) * slice;
    // Whatever was spent within the time is in one of these, wherever in its slot it was.
    let since = (slot - time).div_euclid(slice) * slice;
    Cut { period: Period::rolling(slot, since), ends: Some(slot + slice + time) }
}

fn seconds(at: SystemTime) -> i64 {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> SystemTime {
        let second = time.parse::<Timestamp>().unwrap().as_second();
        SystemTime::UNIX_EPOCH + Duration::from_secs(second.unsigned_abs())
    }

    fn window(window: Window, zone: &str, now: &str) -> (String, String) {
        let cut = Cutter::new(window, Some(zone)).unwrap().cut(at(now));
        let written = |second| Timestamp::from_second(second).unwrap().to_string();
        (written(cut.period.slot), written(cut.ends.unwrap()))
    }

    #[test]
    fn days_and_months_are_those_of_the_zone_however_long() {
        for (of, zone, now, begins, ends) in [
            (Window::Day, "UTC", "2026-11-28T00:00:00Z", "2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z"),
            (Window::Day, "UTC", "2026-11-28T23:59:59Z", "2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z"),
            // 23 hours, then 25.
            (Window::Day, "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
            (Window::Day, "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
            // The clocks go forward at midnight: the day begins at 01:00.
            (Window::Day, "Asia/Beirut", "2026-03-29T10:00:00Z", "2026-03-28T22:00:00Z", "2026-03-29T21:00:00Z"),
            (Window::Month, "Europe/Berlin", "2026-03-31T21:59:59Z", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"),
            (Window::Month, "UTC", "2026-12-15T00:00:00Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ] {
            assert_eq!(window(of, zone, now), (begins.into(), ends.into()), "{of:?} of {now} in {zone}");
        }
        assert!(Cutter::new(Window::Day, Some("Europe/Atlantis")).is_none());
    }

    #[test]
    fn a_clock_that_is_set_back_is_in_the_day_that_it_shows() {
        let cutter = Cutter::new(Window::Day, None).unwrap();
        let slots = ["2026-11-28T23:30:00Z", "2026-11-29T00:30:00Z", "2026-11-28T23:30:00Z"]
            .map(|time| cutter.cut(at(time)).period.slot);
        assert!(slots[0] == slots[2] && slots[0] < slots[1]);
    }

    #[test]
    fn what_was_spent_within_the_time_always_counts_and_soon_after_no_more() {
        for time in [1_i64, 59, 60, 61, 3_600, 86_400] {
            let of = |now| rolling(now, Duration::from_secs(time.unsigned_abs())).period;
            for now in [0, 1, 59, 1_000_003, -7] {
                for later in [0, 1, time / 2, time - 1] {
                    assert!(of(now + later).counts(of(now).slot), "{later} s after {now} of {time}");
                }
                assert!(!of(now + time + 2 * (time / 60).max(1)).counts(of(now).slot), "{now} of {time}");
            }
        }
    }

    #[test]
    fn no_time_is_beyond_a_window() {
        let far = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(1 << 61)).unwrap();
        for window in [Window::Day, Window::Month, Window::Rolling(Duration::MAX)] {
            let _ = Cutter::new(window, None).unwrap().cut(far);
        }
    }
}
