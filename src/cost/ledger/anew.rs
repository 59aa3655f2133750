//! Making the sums anew, in another zone too: from the records, and where those are gone from the sums of hours.

use super::{
    rollups::{DAYS_CUT, HOURS_PRUNED, PRUNED, Rollups, ZONE},
    row::micros_since_1970,
    source::{Order, Source},
    zone::{Zone, hour_begins, hour_of},
};
use crate::store::{StoreError, StoreErrorKind};

/// Sums that are to take the place of those that a store has.
#[derive(Debug)]
pub(super) struct Anew {
    pub(super) sums: Rollups,
    /// The first hour and the first day of which the store's sums go.
    pub(super) from: (i64, i64),
    /// What becomes of [`ZONE`] and [`DAYS_CUT`].
    pub(super) settings: [(&'static str, String); 2],
}

/// Where the days of one zone end and those of another begin.
struct Cut {
    own: Zone,
    zone: Zone,
    /// The first day of the other zone; days before it stay as they are.
    first: i64,
}

impl Cut {
    /// The day that a moment is to be added to, and the one that has it and stays.
    fn days(&self, at: i64) -> (Option<i64>, Option<i64>) {
        let (day, was) = (self.zone.day(at), self.own.day(at));
        let is_new = day >= self.first;
        ((is_new || was >= self.first).then_some(day), (is_new && was < self.first).then_some(was))
    }
}

/// Adds up what a store has. No record is lost or doubled where the zones meet: the last day of the old one is as long as
/// it takes.
pub(super) fn of(source: &dyn Source, zone: Zone) -> Result<Anew, StoreError> {
    let number = |name| source.setting(name).map(|value| value.and_then(|value| value.parse::<i64>().ok()));
    let own = source.setting(ZONE)?.and_then(|name| Zone::named(&name)).unwrap_or_else(Zone::utc);
    let (pruned, cut) = (number(PRUNED)?.unwrap_or(i64::MIN), number(DAYS_CUT)?);
    let hours_pruned = number(HOURS_PRUNED)?.map_or(i64::MIN, |gone| hour_begins(hour_of(gone)));
    // Where every hour is there, nothing of the old days is needed.
    let is_whole = |zone: &Zone| zone.has_whole_hours(hours_pruned, pruned);
    let has_hours = hours_pruned < pruned && is_whole(&zone) && (hours_pruned == i64::MIN || is_whole(&own));
    let known = if has_hours { hours_pruned } else { pruned };
    let first = if known == i64::MIN {
        i64::MIN
    } else {
        let begins = own.day(known - 1).max(zone.day(known - 1)) + 1;
        begins.max(cut.unwrap_or(i64::MIN))
    };
    let since = match first {
        i64::MIN => None,
        _ if zone.name() == own.name() => cut,
        first => Some(first),
    };
    let settings =
        [(ZONE, zone.name().to_owned()), (DAYS_CUT, since.map_or_else(String::new, |since| since.to_string()))];
    let mut sums = Rollups::of(zone.clone());
    let cut = Cut { own, zone, first };
    if has_hours {
        source.sums("cost_hour", (hour_of(known), hour_of(pruned)), None, &mut |hour| {
            let days = cut.days(hour_begins(hour.number));
            let unknown = |error| StoreError::caused(StoreErrorKind::Corrupt, source.name(), error);
            sums.move_hour(days, hour).map_err(unknown)
        })?;
    }
    source.each(Order::Written, (pruned, i64::MAX), &mut |record| {
        let at = micros_since_1970(record.at);
        sums.put(hour_of(at), cut.days(at), &record);
        Ok(())
    })?;
    Ok(Anew { sums, from: (hour_of(pruned), first), settings })
}
