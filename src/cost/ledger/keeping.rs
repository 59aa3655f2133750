//! How long a store keeps what: what the ledgers of this process ask for, and what the store was told.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use super::zone::micros_of;
use crate::types::{Clock, SystemClock};

/// For how many seconds records are kept, as it was said last.
pub(super) const KEPT: &str = "ledger: records are kept for";

const DAY: Duration = Duration::from_secs(86_400);
/// Unless somebody says otherwise.
const RECORDS: Duration = Duration::from_secs(90 * 86_400);
const HOURS: Duration = Duration::from_secs(400 * 86_400);

/// What the ledgers of a process ask of a store. Its chore ends when they are gone.
#[derive(Debug, Default)]
pub(super) struct Keeping(Mutex<Asked>);

#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    /// The longest time, if anybody asked for one.
    time: Option<Duration>,
    /// Whether the store was seen to know it.
    is_known: bool,
}

/// What a chore is to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// What is older may go, in microseconds since 1970: records, sums by hour.
    pub(super) before: (i64, i64),
    /// What the store is to be told, in seconds.
    pub(super) told: Option<u64>,
}

impl Keeping {
    /// A ledger asks for a time, or takes what the store was told.
    pub(super) fn ask(&self, time: Option<Duration>) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if time > asked.time {
            *asked = Asked { time, is_known: false };
        }
    }

    /// What may go now, where the store says this of [`KEPT`].
    pub(super) fn cut(&self, kept: Option<&str>) -> Cut {
        self.cut_at(kept, SystemClock.now())
    }

    fn cut_at(&self, kept: Option<&str>, now: SystemTime) -> Cut {
        let kept = kept.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = asked.time.map(|time| Duration::from_secs(time.as_secs()));
        // Only what is read again was not undone.
        asked.is_known |= whole.is_none() || whole == kept;
        let (told, time) = if asked.is_known { (None, kept) } else { (whole.map(|time| time.as_secs()), whole) };
        let records = time.unwrap_or(RECORDS);
        let before = |time: Duration| now.checked_sub(time).map_or(i64::MIN, micros_of);
        // Whole days, so that what is left can be added up.
        let day = i64::try_from(DAY.as_micros()).unwrap_or(i64::MAX);
        let records_before = before(records).div_euclid(day).saturating_mul(day);
        Cut { before: (records_before, before(records.max(HOURS))), told }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + days(20_000)
    }

    const fn days(days: u64) -> Duration {
        Duration::from_secs(days * 86_400)
    }

    #[test]
    fn the_longest_time_of_a_process_is_told_until_the_store_knows_it() {
        let keeping = Keeping::default();
        keeping.ask(Some(days(30)));
        keeping.ask(None);
        keeping.ask(Some(days(365)));
        keeping.ask(Some(days(7)));
        let year = days(365).as_secs();
        assert_eq!(keeping.cut_at(None, now()).told, Some(year));
        assert_eq!(keeping.cut_at(Some("86400"), now()).told, Some(year));
        assert_eq!(keeping.cut_at(Some(&year.to_string()), now()).told, None);
    }

    #[test]
    fn what_the_store_was_told_last_holds_for_those_who_ask_for_nothing_and_for_those_who_asked_before() {
        let (keeping, other) = (Keeping::default(), Keeping::default());
        keeping.ask(Some(days(30)));
        let month = keeping.cut_at(None, now()).before.0;
        let kept = days(30).as_secs().to_string();
        for ledgers in [&keeping, &other] {
            let cut = ledgers.cut_at(Some(&kept), now());
            assert_eq!((cut.told, cut.before.0), (None, month));
        }
        assert_eq!(
            other.cut_at(None, now()).before.0,
            month - 60 * 86_400_000_000,
            "90 days unless somebody says otherwise"
        );
        let year = days(365).as_secs().to_string();
        assert_eq!(keeping.cut_at(Some(&year), now()).before.0, month - 335 * 86_400_000_000);
    }
}
