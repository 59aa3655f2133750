//! What records change in the sums by hour and by day, whatever keeps them.

use super::{
    row::micros_since_1970,
    sums::Folded,
    zone::{Zone, hour_of},
};
use crate::cost::CostRecord;

/// Before this moment there are no records any more, in microseconds since 1970.
pub(super) const PRUNED: &str = "ledger: pruned before";
/// Before this moment there are no sums by hour any more, likewise.
pub(super) const HOURS_PRUNED: &str = "ledger: hours pruned before";
/// The zone in which the ledger's days begin.
pub(super) const ZONE: &str = "ledger: reporting zone";

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
    /// The first hour and day that count.
    from: (i64, i64),
}

impl Rollups {
    pub(super) fn of(zone: Zone) -> Self {
        Self { zone, hours: Folded::default(), days: Folded::default(), from: (i64::MIN, i64::MIN) }
    }

    /// Sums to be made anew where the records before a moment (if any) are gone: of the hours and days of which every
    /// record is there.
    pub(super) fn anew(zone: Zone, pruned: Option<i64>) -> Self {
        let from = pruned.map_or((i64::MIN, i64::MIN), |since| {
            let last = since.saturating_sub(1);
            (hour_of(last) + 1, zone.day(last) + 1)
        });
        Self { from, ..Self::of(zone) }
    }

    /// The first hour and the first day that count.
    pub(super) const fn from(&self) -> (i64, i64) {
        self.from
    }

    pub(super) fn add(&mut self, record: &CostRecord) {
        let (hour, day) = self.buckets(record);
        if hour >= self.from.0 {
            self.hours.add(hour, record);
        }
        if day >= self.from.1 {
            self.days.add(day, record);
        }
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
