//! Who works on batches, and which models take none.

use std::time::{Duration, SystemTime};

use super::{BRIEF, Journal, Result};
use crate::{store::Durable, types::RouteId};

/// A worker that was silent for this long works no more.
const SILENT: Duration = Duration::from_secs(30);
/// How long a model that took no batch is not asked again.
const REFUSED: Duration = Duration::from_secs(24 * 60 * 60);

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

impl Journal {
    /// Says that a worker of this process lives.
    pub(crate) async fn beat(&self, now: SystemTime) -> Result<()> {
        let process = self.process();
        let places = ("batch: a worker is about to say that it lives", "batch: a worker has said that it lives");
        self.write_within(BRIEF, places, Durable::Soon, move |sql| {
            let clock = sql.lease_clock(now)?;
            sql.execute("DELETE FROM worker WHERE process NOT IN (SELECT id FROM process)", &[])?;
            let upsert = "INSERT INTO worker (process, beat) VALUES (?1, ?2)
                 ON CONFLICT (process) DO UPDATE SET beat = excluded.beat";
            sql.execute(upsert, &[process.into(), clock.into()]).map(drop)
        })
        .await
    }

    /// Whether a worker lives, in whatever process.
    pub(crate) async fn has_worker(&self, now: SystemTime) -> Result<bool> {
        self.read(move |sql| {
            let since = sql.lease_clock(now)?.saturating_sub(micros(SILENT));
            let select = "SELECT 1 FROM worker w JOIN process p ON p.id = w.process WHERE w.beat >= ?1 LIMIT 1";
            Ok(sql.one(select, &[since.into()], |_| Ok(()))?.is_some())
        })
        .await
    }

    /// Remembers that a model does not take batches.
    pub(crate) async fn refused(&self, route: &RouteId, now: SystemTime) -> Result<()> {
        let route = route.clone();
        let places = ("batch: a refusal is about to be remembered", "batch: a refusal is remembered");
        self.write(places, Durable::Now, move |sql| {
            let upsert = "INSERT INTO refusal (upstream, model, until) VALUES (?1, ?2, ?3)
                 ON CONFLICT (upstream, model) DO UPDATE SET until = excluded.until";
            let (upstream, model) = (route.upstream().as_str(), route.model().as_str());
            sql.execute(upsert, &[upstream.into(), model.into(), (now + REFUSED).into()]).map(drop)
        })
        .await
    }

    /// Whether that was within the last day.
    pub(crate) async fn is_refused(&self, route: &RouteId, now: SystemTime) -> Result<bool> {
        let route = route.clone();
        self.read(move |sql| {
            let select = "SELECT 1 FROM refusal WHERE upstream = ?1 AND model = ?2 AND until > ?3";
            let (upstream, model) = (route.upstream().as_str(), route.model().as_str());
            Ok(sql.one(select, &[upstream.into(), model.into(), now.into()], |_| Ok(()))?.is_some())
        })
        .await
    }
}
