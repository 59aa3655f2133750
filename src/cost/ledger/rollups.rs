//! What records change in the sums by hour and by day, whatever keeps them.

use super::{
    row::micros_since_1970,
    source::Bucket,
    sums::Folded,
    zone::{Zone, hour_of},
};
use crate::{cost::CostRecord, types::ParseTaskError};

/// Before this moment there are no records any more, in microseconds since 1970.
pub(super) const PRUNED: &str = "ledger: pruned before";
/// Before this moment there are no sums by hour any more, likewise.
pub(super) const HOURS_PRUNED: &str = "ledger: hours pruned before";
/// The zone in which the ledger's days begin.
pub(super) const ZONE: &str = "ledger: reporting zone";

/// The first day of which all days begin in that zone, in days since 1970; nothing where all of them do.
pub(super) const DAYS_CUT: &str = "ledger: days in that zone since";

/// Records that a chore takes at a time: more would hold up the calls.
pub(super) const CHUNK: usize = 500;

/// Every column that [`Row`](super::row::Row) has, in this order.
pub(super) const COLUMN_NAMES: &str = "attempt, request, at, tenant, session, tags, task, priority, upstream, model, \
     served, prompt, cached, completion, reasoning, images, pixels, seconds, usage_source, cost, cost_exact, saved, \
     saved_exact, price, price_version, source, ending, error, latency, first_token, batch, arm, trace_id";

/// The columns of a record as they are read: with the price for its number.
pub(super) fn columns_to_read() -> String {
    COLUMN_NAMES.replace(" price,", " (SELECT body FROM price WHERE id = cost_record.price),")
}

/// What a page changes in the sums by hour and by day.
#[derive(Debug)]
pub(super) struct Rollups {
    zone: Zone,
    hours: Folded,
    days: Folded,
}

impl Rollups {
    pub(super) fn of(zone: Zone) -> Self {
        Self { zone, hours: Folded::default(), days: Folded::default() }
    }

    pub(super) fn add(&mut self, record: &CostRecord) {
        let (hour, day) = self.buckets(record);
        self.put(hour, (Some(day), None), record);
    }

    /// Adds a record to an hour and a day, and takes it from another day.
    pub(super) fn put(&mut self, hour: i64, (to, from): (Option<i64>, Option<i64>), record: &CostRecord) {
        self.hours.add(hour, record);
        to.into_iter().for_each(|day| self.days.add(day, record));
        from.into_iter().for_each(|day| self.days.take(day, record));
    }

    /// Adds the sums of an hour to a day, and takes them from another day.
    pub(super) fn move_hour(
        &mut self,
        (to, from): (Option<i64>, Option<i64>),
        hour: &Bucket<'_>,
    ) -> Result<(), ParseTaskError> {
        to.map_or(Ok(()), |day| self.days.change_by(day, hour, i64::saturating_add))?;
        from.map_or(Ok(()), |day| self.days.change_by(day, hour, i64::saturating_sub))
    }

    pub(super) fn take(&mut self, record: &CostRecord) {
        let (hour, day) = self.buckets(record);
        self.hours.take(hour, record);
        self.days.take(day, record);
    }

    fn buckets(&self, record: &CostRecord) -> (i64, i64) {
        let at = micros_since_1970(record.at);
        (hour_of(at), self.zone.day(at))
    }

    pub(super) const fn hours(&self) -> &Folded {
        &self.hours
    }

    pub(super) const fn days(&self) -> &Folded {
        &self.days
    }
}
