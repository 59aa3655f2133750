//! A record as a row: every field as a number, a text or a blob, and back.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use crate::{
    client::ErrorKind,
    cost::{CostRecord, Ending},
    inference::{Bypass, Origin, Source},
    types::{AttemptId, BoxError, Cost, Price, RequestId, RouteId, TraceId, Usage, UsageSource, Usd},
};

/// The columns of a record, in the order of the table's.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) attempt: [u8; 16],
    pub(super) request: [u8; 16],
    pub(super) at: i64,
    pub(super) tenant: Option<Cow<'a, str>>,
    pub(super) session: Option<Cow<'a, str>>,
    pub(super) tags: Option<String>,
    pub(super) task: Cow<'a, str>,
    pub(super) priority: Cow<'a, str>,
    pub(super) upstream: Cow<'a, str>,
    pub(super) model: Cow<'a, str>,
    pub(super) served: Option<Cow<'a, str>>,
    pub(super) usage: [i64; 7],
    pub(super) usage_source: Cow<'a, str>,
    pub(super) cost: (Option<i64>, bool),
    pub(super) saved: (Option<i64>, bool),
    pub(super) price: Option<Price>,
    pub(super) price_version: Option<i64>,
    pub(super) source: Cow<'a, str>,
    pub(super) ending: Cow<'a, str>,
    pub(super) error: Option<Cow<'a, str>>,
    pub(super) latency: i64,
    pub(super) first_token: Option<i64>,
    pub(super) batch: Option<Cow<'a, str>>,
    pub(super) arm: Option<Cow<'a, str>>,
    pub(super) trace_id: Option<[u8; 16]>,
}

impl<'a> Row<'a> {
    pub(super) fn of(record: &'a CostRecord) -> Self {
        let text = |text: &'a str| Cow::Borrowed(text);
        let Usage { prompt, cached, completion, reasoning, images, pixels, seconds } = record.usage;
        let served =
            record.served.as_ref().map(|served| if served == record.route.model() { "" } else { served.as_str() });
        let error = match record.ending {
            Ending::Failed(kind) => Some(kind.as_str()),
            _ => None,
        };
        Self {
            attempt: record.attempt.value().to_be_bytes(),
            request: record.request.value().to_be_bytes(),
            at: micros_since_1970(record.at),
            tenant: record.tenant.as_ref().map(|tenant| text(tenant.as_str())),
            session: record.session.as_ref().map(|session| text(session.as_str())),
            // Pairs of text always are JSON.
            tags: if record.tags.is_empty() { None } else { serde_json::to_string(&record.tags).ok() },
            task: text(record.task.as_str()),
            priority: text(record.priority.as_str()),
            upstream: text(record.route.upstream().as_str()),
            model: text(record.route.model().as_str()),
            served: served.map(text),
            usage: [prompt, cached, completion, reasoning, images, pixels, seconds].map(clamped),
            usage_source: text(usage_source(record.usage_source)),
            cost: money(record.cost),
            saved: money(record.saved),
            price: record.price,
            price_version: record.price_version.map(clamped),
            source: text(source(record.source)),
            ending: text(record.ending.as_str()),
            error: error.map(text),
            latency: micros(record.latency),
            first_token: record.first_token.map(micros),
            batch: record.batch.as_deref().map(text),
            arm: record.arm.as_deref().map(text),
            trace_id: record.trace_id.map(|trace| trace.value().to_be_bytes()),
        }
    }

    /// The record again.
    pub(super) fn record(self) -> Result<CostRecord, BoxError> {
        let [prompt, cached, completion, reasoning, images, pixels, seconds] = self.usage.map(i64::unsigned_abs);
        let route = RouteId::new(&*self.upstream, &*self.model);
        let served =
            self.served.map(|served| if served.is_empty() { route.model().clone() } else { (&*served).into() });
        let ending = match (&*self.ending, self.error.as_deref()) {
            ("failed", Some(kind)) => Ending::Failed(named(kind, &ErrorKind::ALL, |kind| kind.as_str())?),
            (ending, _) => named(ending, &ENDINGS, |ending| ending.as_str())?,
        };
        let attempt = AttemptId::new(u128::from_be_bytes(self.attempt));
        let request = RequestId::new(u128::from_be_bytes(self.request));
        Ok(CostRecord {
            tenant: self.tenant.map(|tenant| (&*tenant).into()),
            session: self.session.map(|session| (&*session).into()),
            tags: self.tags.map_or_else(|| Ok(Vec::new()), |tags| serde_json::from_str(&tags))?,
            task: self.task.parse()?,
            priority: self.priority.parse()?,
            served,
            usage: Usage { prompt, cached, completion, reasoning, images, pixels, seconds },
            usage_source: named(&self.usage_source, &USAGE_SOURCES, |from| usage_source(*from))?,
            cost: cost(self.cost),
            saved: cost(self.saved),
            price: self.price,
            price_version: self.price_version.map(i64::unsigned_abs),
            source: named(&self.source, &SOURCES, |from| source(*from))?,
            batch: self.batch.map(|batch| (&*batch).into()),
            arm: self.arm.map(|arm| (&*arm).into()),
            trace_id: self.trace_id.map(|trace| TraceId::new(u128::from_be_bytes(trace))),
            ending,
            latency: Duration::from_micros(self.latency.unsigned_abs()),
            first_token: self.first_token.map(|micros| Duration::from_micros(micros.unsigned_abs())),
            ..CostRecord::new(attempt, request, route, time_of(self.at))
        })
    }
}

const ENDINGS: [Ending; 6] =
    [Ending::Answered, Ending::Cancelled, Ending::Hit, Ending::Stale, Ending::Follower, Ending::Lost];

const USAGE_SOURCES: [UsageSource; 4] =
    [UsageSource::Reported, UsageSource::Counted, UsageSource::UpperBound, UsageSource::None];

const SOURCES: [Source; 10] = [
    Source::Miss,
    Source::Upstream(Bypass::Asked),
    Source::Upstream(Bypass::Stochastic),
    Source::Cache(Origin::Memory),
    Source::Cache(Origin::Redis),
    Source::Cache(Origin::Other),
    Source::Stale(Origin::Memory),
    Source::Stale(Origin::Redis),
    Source::Stale(Origin::Other),
    Source::Coalesced,
];

const fn usage_source(source: UsageSource) -> &'static str {
    match source {
        UsageSource::Reported => "reported",
        UsageSource::Counted => "counted",
        UsageSource::UpperBound => "upper bound",
        UsageSource::None => "none",
    }
}

const fn source(source: Source) -> &'static str {
    match source {
        Source::Miss => "miss",
        Source::Upstream(Bypass::Asked) => "bypass (asked)",
        Source::Upstream(Bypass::Stochastic) => "bypass (stochastic)",
        Source::Cache(Origin::Memory) => "memory",
        Source::Cache(Origin::Redis) => "redis",
        Source::Cache(Origin::Other) => "cache",
        Source::Stale(Origin::Memory) => "stale (memory)",
        Source::Stale(Origin::Redis) => "stale (redis)",
        Source::Stale(Origin::Other) => "stale (cache)",
        Source::Coalesced => "coalesced",
    }
}

/// The value of this name.
fn named<T: Copy>(name: &str, all: &[T], name_of: impl Fn(&T) -> &'static str) -> Result<T, BoxError> {
    all.iter()
        .find(|value| name_of(value) == name)
        .copied()
        .ok_or_else(|| format!("{name:?} has no meaning here").into())
}

const fn money(cost: Cost) -> (Option<i64>, bool) {
    match cost {
        Cost::Known(usd) => (Some(usd.nanos()), true),
        Cost::Unknown { at_most } => (Some(at_most.nanos()), false),
        Cost::Unpriced => (None, false),
    }
}

const fn cost(money: (Option<i64>, bool)) -> Cost {
    match money {
        (Some(nanos), true) => Cost::Known(Usd::from_nanos(nanos)),
        (Some(nanos), false) => Cost::Unknown { at_most: Usd::from_nanos(nanos) },
        (None, _) => Cost::Unpriced,
    }
}

fn clamped(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// Microseconds since 1970 (UTC).
pub(super) fn micros_since_1970(at: SystemTime) -> i64 {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => micros(since),
        Err(before) => micros(before.duration()).saturating_neg(),
    }
}

/// The time that is so many microseconds after 1970.
pub(super) fn time_of(micros: i64) -> SystemTime {
    let by = Duration::from_micros(micros.unsigned_abs());
    let at = if micros < 0 { SystemTime::UNIX_EPOCH.checked_sub(by) } else { SystemTime::UNIX_EPOCH.checked_add(by) };
    at.unwrap_or(SystemTime::UNIX_EPOCH)
}
