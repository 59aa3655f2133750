//! What a report is asked for.

use std::{ops::Range, time::SystemTime};

use super::zone::{Zone, micros_of};
use crate::types::{Clock, SystemClock, Tenant};

/// What the rows of a report are by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum By {
    /// The hour, with its distance from UTC.
    Hour,
    /// The day in the report's time zone.
    Day,
    /// The month in the report's time zone.
    Month,
    /// The upstream.
    Upstream,
    /// The model that was billed.
    Model,
    /// The tenant; `-` for none.
    Tenant,
    /// The task.
    Task,
    /// The priority.
    Priority,
    /// The session: from records alone, as long as they are kept.
    Session,
    /// The value of a label: from records alone, as long as they are kept.
    Tag(Box<str>),
}

impl By {
    /// What its column is called.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Upstream => "upstream",
            Self::Model => "model",
            Self::Tenant => "tenant",
            Self::Task => "task",
            Self::Priority => "priority",
            Self::Session => "session",
            Self::Tag(name) => name,
        }
    }
}

#[derive(Clone, Debug)]
enum Span {
    Range(Range<SystemTime>),
    LastDays(u32),
}

/// What a report is asked for: a range of time, what its rows are by, whose records.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use together_inference::cost::{By, ReportQuery};
///
/// let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_478_400); // 2026-11-24 00:00 UTC
/// let week = start..start + Duration::from_secs(7 * 86_400);
/// let query = ReportQuery::new(week).by(By::Day).by(By::Tenant).zone("Europe/Berlin");
/// ```
#[derive(Clone, Debug)]
pub struct ReportQuery {
    span: Span,
    pub(super) by: Vec<By>,
    pub(super) zone: Option<Box<str>>,
    pub(super) tenant: Option<Tenant>,
}

impl ReportQuery {
    /// Everything from the start of the range until before its end.
    #[must_use]
    pub const fn new(range: Range<SystemTime>) -> Self {
        Self { span: Span::Range(range), by: Vec::new(), zone: None, tenant: None }
    }

    /// Today and the days before it, so many in all, in the report's time zone.
    #[must_use]
    pub const fn last_days(days: u32) -> Self {
        Self { span: Span::LastDays(days), by: Vec::new(), zone: None, tenant: None }
    }

    /// From when until when, in microseconds since 1970.
    pub(super) fn range(&self, zone: &Zone) -> (i64, i64) {
        match &self.span {
            Span::Range(range) => (micros_of(range.start), micros_of(range.end)),
            Span::LastDays(days) => {
                let end = zone.day(micros_of(SystemClock.now())) + 1;
                (zone.beginning(end - i64::from(*days)), zone.beginning(end))
            }
        }
    }

    /// Adds a column that rows are by; one row in all unless there is one.
    #[must_use]
    pub fn by(mut self, by: By) -> Self {
        self.by.push(by);
        self
    }

    /// Sets the time zone that days and months begin in, by its name in the IANA's database; that of the ledger unless
    /// set. Quickest in the ledger's own; from the sums of hours in another; where a zone is not whole hours from UTC,
    /// from records alone.
    #[must_use]
    pub fn zone(mut self, name: &str) -> Self {
        self.zone = Some(name.into());
        self
    }

    /// The records of this tenant alone.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<Tenant>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }
}
