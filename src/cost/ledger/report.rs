//! What records come to, from the quickest source that is exact.

use std::{collections::BTreeMap, fmt, time::SystemTime};

use super::{
    By, ReportQuery,
    rollups::{DAYS_CUT, HOURS_PRUNED, PRUNED, ZONE},
    row::time_of,
    source::{Order, Source},
    sums::Sums,
    zone::{Zone, date_of, hour_begins, hour_of, is_whole_hour, micros_of},
};
use crate::{
    cost::CostRecord,
    store::{StoreError, StoreErrorKind},
    types::{SessionId, Tenant, Usd},
};

/// What records come to.
///
/// Its `Display` is a table for people.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// What the rows are by.
    pub by: Vec<By>,
    /// In the order of their labels.
    pub rows: Vec<ReportRow>,
    /// All rows together.
    pub total: Sums,
    /// What it was added up from.
    pub basis: Basis,
    /// Where the range begins earlier than what the basis still has: what is before is missing. A query that asks for
    /// days alone, in the ledger's own zone, has everything, but what is before may be in days of the zone that the ledger
    /// had then, if [it was changed](super::Ledger::rebuild) after the sums of those hours were gone.
    pub complete_since: Option<SystemTime>,
}

/// A row of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReportRow {
    /// A label for each of [`Report::by`].
    pub labels: Vec<Box<str>>,
    /// What its records come to.
    pub sums: Sums,
}

/// What a report was added up from: each is exact, the first is the quickest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Basis {
    /// The sums of days.
    Days,
    /// The sums of hours.
    Hours,
    /// The records themselves.
    Records,
}

pub(super) fn no_such_zone(store: &str, zone: &str) -> StoreError {
    StoreError::new(
        StoreErrorKind::Other,
        store,
        format!("there is no time zone {zone:?}; name one such as Europe/Berlin"),
    )
}

/// Adds up.
pub(super) fn of(source: &dyn Source, query: &ReportQuery) -> Result<Report, StoreError> {
    let own = source.setting(ZONE)?;
    let own = own.as_deref().unwrap_or("UTC");
    let name = query.zone.as_deref().unwrap_or(own);
    let zone = Zone::named(name).ok_or_else(|| no_such_zone(source.name(), name))?;
    let range = query.range(&zone);
    let number = |name| source.setting(name).map(|value| value.and_then(|value| value.parse::<i64>().ok()));
    // What is before is in days of another zone.
    let cut = number(DAYS_CUT)?.map(|day| zone.beginning(day));
    let hours_gone = number(HOURS_PRUNED)?;
    let lacks = |gone: Option<i64>| gone.filter(|gone| range.0 < *gone);
    let basis = match basis(query, &zone, own, range) {
        Basis::Days if lacks(cut).is_some() && lacks(hours_gone).is_none() => match without_days(query, &zone, range) {
            Basis::Hours => Basis::Hours,
            _ => Basis::Days,
        },
        basis => basis,
    };
    let mut fold = Fold { query, zone: &zone, rows: BTreeMap::new() };
    match basis {
        Basis::Days => fold.days(source, range),
        Basis::Hours => fold.hours(source, range),
        Basis::Records => fold.records(source, range),
    }?;
    let gone = match basis {
        Basis::Days => cut,
        Basis::Hours => hours_gone,
        Basis::Records => number(PRUNED)?,
    };
    let rows: Vec<ReportRow> = fold.rows.into_iter().map(|(labels, sums)| ReportRow { labels, sums }).collect();
    let total = rows.iter().fold(Sums::default(), |total, row| total.plus(&row.sums));
    let complete_since = lacks(gone).map(time_of);
    Ok(Report { by: query.by.clone(), rows, total, basis, complete_since })
}

/// The quickest source that is exact.
fn basis(query: &ReportQuery, zone: &Zone, own: &str, (from, until): (i64, i64)) -> Basis {
    if query.by.iter().any(|by| matches!(by, By::Session | By::Tag(_))) {
        return Basis::Records;
    }
    let begins_a_day = |at: i64| zone.beginning(zone.day(at)) == at;
    if zone.name() == own && begins_a_day(from) && begins_a_day(until) && !query.by.contains(&By::Hour) {
        return Basis::Days;
    }
    without_days(query, zone, (from, until))
}

/// The same, where the sums of days are not.
fn without_days(query: &ReportQuery, zone: &Zone, (from, until): (i64, i64)) -> Basis {
    let by_days = query.by.iter().any(|by| matches!(by, By::Hour | By::Day | By::Month));
    let fits = !by_days || zone.has_whole_hours(from, until);
    if is_whole_hour(from) && is_whole_hour(until) && fits { Basis::Hours } else { Basis::Records }
}

/// Rows as they come together.
struct Fold<'a> {
    query: &'a ReportQuery,
    zone: &'a Zone,
    rows: BTreeMap<Vec<Box<str>>, Sums>,
}

impl Fold<'_> {
    fn days(&mut self, source: &dyn Source, (from, until): (i64, i64)) -> Result<(), StoreError> {
        let buckets = (self.zone.day(from), self.zone.day(until));
        self.sums(source, "cost_day", buckets, |zone, by, day| match by {
            By::Month => date_of(day).strftime("%Y-%m").to_string(),
            By::Hour => zone.hour(zone.beginning(day)),
            _ => date_of(day).to_string(),
        })
    }

    fn hours(&mut self, source: &dyn Source, (from, until): (i64, i64)) -> Result<(), StoreError> {
        self.sums(source, "cost_hour", (hour_of(from), hour_of(until)), |zone, by, hour| {
            moment(zone, by, hour_begins(hour))
        })
    }

    /// Reads sums of a table; `label` tells what a bucket is called by time.
    fn sums(
        &mut self,
        source: &dyn Source,
        table: &str,
        range: (i64, i64),
        label: impl Fn(&Zone, &By, i64) -> String,
    ) -> Result<(), StoreError> {
        let (query, zone) = (self.query, self.zone);
        source.sums(table, range, query.tenant.as_ref().map(Tenant::as_str), &mut |row| {
            let [upstream, model, tenant, task, priority] = row.names;
            let labels = query.by.iter().map(|by| match by {
                By::Upstream => named(upstream),
                By::Model => named(model),
                By::Tenant => named(tenant),
                By::Task => named(task),
                By::Priority => named(priority),
                _ => label(zone, by, row.number).into(),
            });
            self.add(labels.collect(), &row.sums);
            Ok(())
        })
    }

    fn records(&mut self, source: &dyn Source, range: (i64, i64)) -> Result<(), StoreError> {
        source.each(Order::Written, range, &mut |record| {
            if self.query.tenant.is_none() || self.query.tenant == record.tenant {
                let labels = self.query.by.iter().map(|by| self.label(by, &record)).collect();
                let mut sums = Sums::default();
                sums.add(&record);
                self.add(labels, &sums);
            }
            Ok(())
        })
    }

    fn label(&self, by: &By, record: &CostRecord) -> Box<str> {
        let or_none = |name: Option<&str>| named(name.unwrap_or_default());
        match by {
            By::Hour | By::Day | By::Month => moment(self.zone, by, micros_of(record.at)).into(),
            By::Upstream => record.route.upstream().as_str().into(),
            By::Model => record.model().as_str().into(),
            By::Tenant => or_none(record.tenant.as_ref().map(Tenant::as_str)),
            By::Task => record.task.as_str().into(),
            By::Priority => record.priority.as_str().into(),
            By::Session => or_none(record.session.as_ref().map(SessionId::as_str)),
            By::Tag(name) => or_none(record.tags.iter().find(|(tag, _)| tag == name).map(|(_, value)| &**value)),
        }
    }

    fn add(&mut self, labels: Vec<Box<str>>, sums: &Sums) {
        let row = self.rows.entry(labels).or_default();
        *row = row.plus(sums);
    }
}

fn named(name: &str) -> Box<str> {
    if name.is_empty() { "-".into() } else { name.into() }
}

/// What a moment is called by time.
fn moment(zone: &Zone, by: &By, micros: i64) -> String {
    match by {
        By::Month => zone.date(micros).strftime("%Y-%m").to_string(),
        By::Day => zone.date(micros).to_string(),
        _ => zone.hour(micros),
    }
}

impl fmt::Display for Report {
    /// A table, with a line for all rows together where there are several.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["attempts", "failed", "hits", "tokens", "cost", "at most more", "saved", "unpriced"];
        let header = self.by.iter().map(|by| by.name().to_owned()).chain(names.map(str::to_owned)).collect();
        let mut lines: Vec<Vec<String>> = vec![header];
        let rows = self.rows.iter().map(|row| (row.labels.clone(), &row.sums));
        let total = (self.rows.len() > 1).then(|| {
            let labels = (0..self.by.len()).map(|at| if at == 0 { "total" } else { "" }.into());
            (labels.collect(), &self.total)
        });
        for (labels, sums) in rows.chain(total) {
            lines.push(labels.iter().map(ToString::to_string).chain(numbers(sums)).collect());
        }
        let width = |at: usize| lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..self.by.len() + names.len()).map(|at| width(at).unwrap_or(0)).collect();
        for line in &lines {
            let cells = line.iter().zip(&widths).enumerate().map(|(at, (cell, width))| {
                // Names stand to the left, numbers to the right.
                if at < self.by.len() { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

fn numbers(sums: &Sums) -> [String; 8] {
    let some = |usd: Usd| if usd.is_zero() { "-".to_owned() } else { usd.to_string() };
    [
        sums.attempts.to_string(),
        sums.failed.to_string(),
        (sums.hits + sums.followers).to_string(),
        sums.usage.total().to_string(),
        sums.known.to_string(),
        some(sums.unknown),
        some(sums.saved + sums.batch_saved),
        sums.unpriced.to_string(),
    ]
}
