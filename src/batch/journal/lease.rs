//! Who works on a chunk, and for how long: claims, renewals, and writes that only the owner may do.

use std::time::{Duration, SystemTime};

use super::{
    BRIEF, Change, ChunkKey, ChunkState, Claim, Journal, LineRef, Result,
    lines::{REF, capped, ref_of},
    read::{CHUNK, CHUNK_COLUMNS, chunk_of},
    sql::{self, Param, Sql},
    states::OPEN,
};
use crate::store::Durable;

/// How long a chunk is left alone whose row cannot be read: a newer version, or a person, may mend it.
const UNREADABLE: Duration = Duration::from_secs(600);

/// One chunk, by the first three values.
pub(super) const ONE: &str = "batch = ?1 AND round = ?2 AND no = ?3";

pub(super) fn key_params(key: &ChunkKey) -> [Param<'_>; 3] {
    [key.batch.as_str().into(), key.round.into(), key.no.into()]
}

/// Until when a claim holds.
fn until(clock: i64, lease: Duration) -> i64 {
    clock.saturating_add(i64::try_from(lease.as_micros()).unwrap_or(i64::MAX))
}

/// A change of a chunk by its owner.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) key: &'a ChunkKey,
    pub(super) fence: i64,
    pub(super) from: &'a [ChunkState],
    pub(super) to: ChunkState,
    pub(super) change: &'a Change,
    pub(super) late: u64,
    pub(super) now: SystemTime,
}

/// Changes a chunk if its fence and its state are what its owner believes; `false` if not.
pub(super) fn step(sql: &Sql<'_>, step: &Step<'_>) -> sql::Result<bool> {
    let Step { key, fence, from, to, change, late, now } = *step;
    #[expect(clippy::cast_possible_truncation, reason = "a percentage")]
    let progress = change.percent.map(|percent| (percent.clamp(0.0, 100.0) * 1_000.0).round() as i64);
    let update = format!(
        "UPDATE chunk SET was = state, state = ?5, since = CASE WHEN state = ?5 THEN since ELSE ?6 END,
             moved = CASE WHEN state = ?5 AND coalesce(?9, remote_status, '') = coalesce(remote_status, '')
                 AND coalesce(?10, progress, -1) = coalesce(progress, -1) THEN moved ELSE ?6 END,
             intent_at = coalesce(?7, intent_at), remote_id = coalesce(?8, remote_id),
             remote_status = coalesce(?9, remote_status), progress = coalesce(?10, progress),
             output_file = coalesce(?11, output_file), error_file = coalesce(?12, error_file),
             error = CASE WHEN ?8 IS NULL THEN coalesce(?13, error) ELSE ?13 END, next_at = coalesce(?14, next_at), late = late + ?15
         WHERE {ONE} AND fence = ?4 AND state IN ({})",
        ChunkState::list(from)
    );
    let [batch, round, no] = key_params(key);
    let changed = sql.execute(
        &update,
        &[
            batch,
            round,
            no,
            fence.into(),
            to.name().into(),
            now.into(),
            change.intent_at.into(),
            (&change.remote_id).into(),
            (&change.remote_status).into(),
            progress.into(),
            (&change.output_file).into(),
            (&change.error_file).into(),
            change.error.as_deref().map(capped).into(),
            change.next_at.into(),
            late.into(),
        ],
    )?;
    if changed == 0 {
        return Ok(false);
    }
    note(sql, key, now)?;
    Ok(true)
}

/// Adds the change of state that a chunk has just seen, if it was one.
fn note(sql: &Sql<'_>, key: &ChunkKey, now: SystemTime) -> sql::Result<()> {
    let [batch, round, no] = key_params(key);
    let insert = format!(
        "INSERT INTO transition (batch, round, no, from_state, to_state, at, fence)
         SELECT batch, round, no, was, state, ?4, fence FROM chunk WHERE {ONE} AND was <> state"
    );
    sql.execute(&insert, &[batch, round, no, now.into()]).map(drop)
}

/// Whether nobody else has claimed the chunk since, nor can until the transaction ends.
pub(super) fn is_held(sql: &Sql<'_>, key: &ChunkKey, fence: i64) -> sql::Result<bool> {
    let [batch, round, no] = key_params(key);
    let select = format!("SELECT 1 FROM chunk WHERE {ONE} AND fence = ?4 AND {OPEN} {}", sql.lock());
    Ok(sql.one(&select, &[batch, round, no, fence.into()], |_| Ok(()))?.is_some())
}

/// Which chunks are claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Those that wait for the provider: one question tells of all of them.
    Jobs,
    /// Those that somebody must do something about.
    Steps,
    /// All.
    #[cfg(test)]
    All,
}

impl Due {
    const fn condition(self) -> &'static str {
        match self {
            Self::Jobs => "c.way = 'batch' AND c.state IN ('running', 'cancelling')",
            Self::Steps => "NOT (c.way = 'batch' AND c.state IN ('running', 'cancelling'))",
            #[cfg(test)]
            Self::All => "1 = 1",
        }
    }
}

fn claim(
    sql: &Sql<'_>,
    (due, most): (Due, usize),
    (process, lease): (i64, Duration),
    now: SystemTime,
) -> sql::Result<Vec<Claim>> {
    let clock = sql.lease_clock(now)?;
    let select = format!(
        "{CHUNK}, c.fence FROM chunk c JOIN batch b ON b.id = c.batch
         WHERE c.{OPEN} AND {} AND c.next_at <= ?1 AND b.state <> 'gathering'
           AND (c.owner IS NULL OR c.lease_until < ?2 OR NOT EXISTS (SELECT 1 FROM process p WHERE p.id = c.owner))
         ORDER BY c.next_at, c.batch, c.round, c.no LIMIT ?3 {}",
        due.condition(),
        sql.lock_free()
    );
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    let mut unreadable = Vec::new();
    let claims = sql.query(&select, &[now.into(), clock.into(), most.into()], |row| {
        let read = || Ok(Claim { chunk: chunk_of(row)?, fence: row.int(CHUNK_COLUMNS)?.saturating_add(1) });
        let claim = row.readable(read())?;
        if claim.is_none()
            && let (Ok(batch), Ok(round), Ok(no)) = (row.text(0), row.int(1), row.int(2))
        {
            unreadable.push((batch, round, no));
        }
        Ok(claim)
    })?;
    let claims: Vec<Claim> = claims.into_iter().flatten().collect();
    // Else they would come first in every turn.
    let later = now.checked_add(UNREADABLE);
    let rows: Vec<Vec<Param<'_>>> = unreadable
        .iter()
        .map(|(batch, round, no)| vec![(&**batch).into(), (*round).into(), (*no).into(), later.into()])
        .collect();
    sql.execute_many(&format!("UPDATE chunk SET next_at = ?4 WHERE {ONE}"), &rows)?;
    let until = until(clock, lease);
    let rows: Vec<Vec<Param<'_>>> = claims
        .iter()
        .map(|claim| {
            let [batch, round, no] = key_params(&claim.chunk.key);
            vec![batch, round, no, claim.fence.into(), process.into(), until.into()]
        })
        .collect();
    let update = format!("UPDATE chunk SET fence = ?4, owner = ?5, lease_until = ?6 WHERE {ONE}");
    sql.execute_many(&update, &rows)?;
    Ok(claims)
}

impl Journal {
    /// Takes chunks that are due and nobody's, or whose owner is silent or gone: so many at most, for so long.
    pub(crate) async fn claim_due(
        &self,
        due: Due,
        most: usize,
        lease: Duration,
        now: SystemTime,
    ) -> Result<Vec<Claim>> {
        let process = self.process();
        let places = ("batch: chunks are about to be claimed", "batch: chunks are claimed");
        self.write_within(BRIEF, places, Durable::Soon, move |sql| claim(sql, (due, most), (process, lease), now)).await
    }

    /// The same of all.
    #[cfg(test)]
    pub(super) async fn claim(&self, most: usize, now: SystemTime) -> Result<Vec<Claim>> {
        self.claim_due(Due::All, most, super::tests::LEASE, now).await
    }

    /// Holds claims for so much longer; those that somebody else has by now.
    pub(crate) async fn renew(
        &self,
        held: &[(ChunkKey, i64)],
        lease: Duration,
        now: SystemTime,
    ) -> Result<Vec<ChunkKey>> {
        let (mut held, process) = (held.to_vec(), self.process());
        // All who lock many do so in one order.
        held.sort_unstable_by_key(|(key, _)| *key);
        let places = ("batch: claims are about to be renewed", "batch: claims are renewed");
        self.write_within(BRIEF, places, Durable::Soon, move |sql| {
            let until = until(sql.lease_clock(now)?, lease);
            let rows: Vec<Vec<Param<'_>>> = held
                .iter()
                .map(|(key, fence)| {
                    let [batch, round, no] = key_params(key);
                    vec![batch, round, no, (*fence).into(), process.into(), until.into()]
                })
                .collect();
            let update = format!("UPDATE chunk SET lease_until = ?6 WHERE {ONE} AND fence = ?4 AND owner = ?5");
            let renewed = sql.execute_many(&update, &rows)?;
            Ok(held.iter().zip(renewed).filter(|(_, renewed)| *renewed == 0).map(|((key, _), _)| *key).collect())
        })
        .await
    }

    /// Gives a claim back, so that others need not wait for its end.
    pub(crate) async fn release(&self, key: ChunkKey, fence: i64) -> Result<()> {
        let places = ("batch: a claim is about to be released", "batch: a claim is released");
        self.write_within(BRIEF, places, Durable::Soon, move |sql| {
            let [batch, round, no] = key_params(&key);
            let update = format!("UPDATE chunk SET owner = NULL, lease_until = NULL WHERE {ONE} AND fence = ?4");
            sql.execute(&update, &[batch, round, no, fence.into()]).map(drop)
        })
        .await
    }

    /// Has a chunk go on, from one of these states. `false`: somebody else has it, and nothing was written.
    pub(crate) async fn step(
        &self,
        key: ChunkKey,
        fence: i64,
        from: &[ChunkState],
        to: ChunkState,
        change: Change,
        now: SystemTime,
    ) -> Result<bool> {
        let from = from.to_vec();
        // What a poll learns is learnt again by the next one.
        let is_news = from != [to] || {
            let Change {
                intent_at,
                remote_id,
                remote_status: _,
                percent: _,
                output_file,
                error_file,
                error,
                next_at: _,
            } = &change;
            intent_at.is_some() || [remote_id, output_file, error_file, error].into_iter().any(Option::is_some)
        };
        let durable = if is_news { Durable::Now } else { Durable::Soon };
        let places = ("batch: a chunk is about to go on", "batch: a chunk went on");
        self.write(places, durable, move |sql| {
            step(sql, &Step { key: &key, fence, from: &from, to, change: &change, late: 0, now })
        })
        .await
    }

    /// Has whoever owns a running chunk stop its job, at once: the owner is not asked. `false` if it does not run.
    pub(crate) async fn hurry(&self, key: ChunkKey, now: SystemTime) -> Result<bool> {
        let places = ("batch: a chunk is about to be hurried", "batch: a chunk is hurried");
        self.write(places, Durable::Now, move |sql| {
            let [batch, round, no] = key_params(&key);
            let update = format!(
                "UPDATE chunk SET was = state, state = 'cancelling', since = ?4, next_at = ?4
                 WHERE {ONE} AND state = 'running'"
            );
            let changed = sql.execute(&update, &[batch, round, no, now.into()])?;
            if changed > 0 {
                note(sql, &key, now)?;
            }
            Ok(changed > 0)
        })
        .await
    }

    /// Whether lines of a chunk wait.
    pub(crate) async fn has_lines(&self, key: ChunkKey) -> Result<bool> {
        self.read(move |sql| {
            let select = "SELECT 1 FROM line
                 WHERE batch = ?1 AND round = ?2 AND chunk = ?3 AND chunk IS NOT NULL AND state = 0 LIMIT 1";
            Ok(sql.one(select, &key_params(&key), |_| Ok(()))?.is_some())
        })
        .await
    }

    /// The lines of a chunk that wait, in their order.
    pub(crate) async fn lines_of(&self, key: ChunkKey) -> Result<Vec<LineRef>> {
        self.read(move |sql| {
            let select = format!(
                "{REF} WHERE batch = ?1 AND round = ?2 AND chunk = ?3 AND chunk IS NOT NULL AND state = 0 ORDER BY idx"
            );
            sql.query(&select, &key_params(&key), ref_of)
        })
        .await
    }

    /// Lines of these numbers, whatever became of them, in their order.
    pub(crate) async fn lines_at(&self, batch: super::BatchId, indexes: &[u64]) -> Result<Vec<LineRef>> {
        let mut indexes = indexes.to_vec();
        indexes.sort_unstable();
        self.read(move |sql| {
            let rows: Vec<Vec<Param<'_>>> =
                indexes.iter().map(|index| vec![batch.as_str().into(), (*index).into()]).collect();
            sql.one_each(&format!("{REF} WHERE batch = ?1 AND idx = ?2"), &rows, ref_of)
        })
        .await
    }
}
