//! Sums over records: what roll-ups keep and reports show.

use std::collections::BTreeMap;

use super::source::Bucket;
use crate::{
    cost::{CostRecord, Ending},
    types::{Cost, ParseTaskError, Priority, Task, Usage, Usd},
};

/// What many records come to.
///
/// ```
/// use std::time::SystemTime;
/// use together_inference::{Cost, RouteId, cost::{CostRecord, Ending, Sums}, types::RequestId, usd};
///
/// let call = RequestId::new(7);
/// let mut record = CostRecord::new(call.attempt(0), call, RouteId::new("together", "m"), SystemTime::now());
/// record.ending = Ending::Answered;
/// record.cost = Cost::Known(usd!("0.02"));
/// let mut sums = Sums::default();
/// sums.add(&record);
/// assert_eq!((sums.attempts, sums.known), (1, usd!("0.02")));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sums {
    /// Attempts that were made.
    pub attempts: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that nobody waited for any more.
    pub cancelled: u64,
    /// Calls that the cache answered.
    pub hits: u64,
    /// Calls that another caller's attempt answered.
    pub followers: u64,
    /// Tokens and pictures.
    pub usage: Usage,
    /// The costs that are known.
    pub known: Usd,
    /// The upper bounds of those that are not.
    pub unknown: Usd,
    /// Attempts of unknown cost.
    pub unknowns: u64,
    /// Attempts without a price.
    pub unpriced: u64,
    /// What hits and followers did not have to pay.
    pub saved: Usd,
    /// What was saved by sending in batches.
    pub batch_saved: Usd,
}

/// How many columns a store has for them.
pub(super) const COLUMNS: usize = 16;

/// Their names, in the order of [`Sums::columns`].
pub(super) const NAMES: [&str; COLUMNS] = [
    "attempts",
    "failed",
    "cancelled",
    "hits",
    "followers",
    "prompt",
    "cached",
    "completion",
    "reasoning",
    "images",
    "known",
    "unknown",
    "unknowns",
    "unpriced",
    "saved",
    "batch_saved",
];

impl Sums {
    /// Counts a record in.
    pub fn add(&mut self, record: &CostRecord) {
        *self = self.plus(&Self::of(record));
    }

    /// The sums of one record.
    fn of(record: &CostRecord) -> Self {
        let is_attempt = record.ending.is_attempt();
        let (known, unknown, unpriced) = match record.cost {
            Cost::Known(usd) => (usd, Usd::ZERO, false),
            Cost::Unknown { at_most } => (Usd::ZERO, at_most, false),
            Cost::Unpriced => (Usd::ZERO, Usd::ZERO, true),
        };
        let saved = record.saved.known().unwrap_or(Usd::ZERO);
        Self {
            attempts: u64::from(is_attempt),
            failed: u64::from(matches!(record.ending, Ending::Failed(_))),
            cancelled: u64::from(record.ending == Ending::Cancelled),
            hits: u64::from(matches!(record.ending, Ending::Hit | Ending::Stale)),
            followers: u64::from(record.ending == Ending::Follower),
            usage: record.usage,
            known,
            unknown,
            unknowns: u64::from(matches!(record.cost, Cost::Unknown { .. })),
            unpriced: u64::from(unpriced),
            saved: if is_attempt { Usd::ZERO } else { saved },
            batch_saved: if is_attempt { saved } else { Usd::ZERO },
        }
    }

    /// Both together. What is beyond the largest number stays at it.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let (mut sum, other) = (self.columns(), other.columns());
        sum.iter_mut().zip(other).for_each(|(sum, other)| *sum = sum.saturating_add(other));
        Self::from_columns(sum)
    }

    pub(super) fn columns(&self) -> [i64; COLUMNS] {
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        [
            count(self.attempts),
            count(self.failed),
            count(self.cancelled),
            count(self.hits),
            count(self.followers),
            count(self.usage.prompt),
            count(self.usage.cached),
            count(self.usage.completion),
            count(self.usage.reasoning),
            count(self.usage.images),
            self.known.nanos(),
            self.unknown.nanos(),
            count(self.unknowns),
            count(self.unpriced),
            self.saved.nanos(),
            self.batch_saved.nanos(),
        ]
    }

    pub(super) fn from_columns(columns: [i64; COLUMNS]) -> Self {
        let [attempts, failed, cancelled, hits, followers, prompt, cached, completion, reasoning, images, ..] =
            columns.map(|number| u64::try_from(number).unwrap_or(0));
        let [.., known, unknown, unknowns, unpriced, saved, batch_saved] = columns;
        Self {
            attempts,
            failed,
            cancelled,
            hits,
            followers,
            usage: Usage { prompt, cached, completion, reasoning, images, ..Usage::ZERO },
            known: Usd::from_nanos(known),
            unknown: Usd::from_nanos(unknown),
            unknowns: u64::try_from(unknowns).unwrap_or(0),
            unpriced: u64::try_from(unpriced).unwrap_or(0),
            saved: Usd::from_nanos(saved),
            batch_saved: Usd::from_nanos(batch_saved),
        }
    }
}

/// What roll-ups keep apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) bucket: i64,
    pub(super) upstream: Box<str>,
    pub(super) model: Box<str>,
    /// Empty for none.
    pub(super) tenant: Box<str>,
    pub(super) task: Task,
    pub(super) priority: Priority,
}

/// What a page of records changes in the roll-ups: in the order of the keys, so that two that write do so in one order.
#[derive(Debug, Default)]
pub(super) struct Folded(BTreeMap<Key, [i64; COLUMNS]>);

impl Folded {
    /// Counts a record in.
    pub(super) fn add(&mut self, bucket: i64, record: &CostRecord) {
        self.change(bucket, record, i64::saturating_add);
    }

    /// Counts a record out again.
    pub(super) fn take(&mut self, bucket: i64, record: &CostRecord) {
        self.change(bucket, record, i64::saturating_sub);
    }

    fn change(&mut self, bucket: i64, record: &CostRecord, by: impl Fn(i64, i64) -> i64) {
        let key = Key {
            bucket,
            upstream: record.route.upstream().as_str().into(),
            model: record.model().as_str().into(),
            tenant: record.tenant.as_ref().map_or("", |tenant| tenant.as_str()).into(),
            task: record.task,
            priority: record.priority,
        };
        self.change_key(key, &Sums::of(record), by);
    }

    /// The same with the sums of a bucket, which go to another one.
    pub(super) fn change_by(
        &mut self,
        bucket: i64,
        of: &Bucket<'_>,
        by: impl Fn(i64, i64) -> i64,
    ) -> Result<(), ParseTaskError> {
        let [upstream, model, tenant, task, priority] = of.names;
        let (task, priority) = (task.parse()?, priority.parse()?);
        let key = Key { bucket, upstream: upstream.into(), model: model.into(), tenant: tenant.into(), task, priority };
        self.change_key(key, &of.sums, by);
        Ok(())
    }

    fn change_key(&mut self, key: Key, sums: &Sums, by: impl Fn(i64, i64) -> i64) {
        let all = self.0.entry(key).or_insert([0; COLUMNS]);
        all.iter_mut().zip(sums.columns()).for_each(|(sum, one)| *sum = by(*sum, one));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &[i64; COLUMNS])> {
        self.0.iter()
    }
}
