//! What the journal tells.

use super::{
    BatchId, BatchRow, BatchState, ChunkKey, ChunkRow, ChunkState, Counts, Journal, LineRow, Result, Way,
    lease::{ONE, key_params},
    lines::{LINE, line_of, usage_of},
    sql::{self, Row, Sql},
    states::{OPEN, SUBMITTED},
};
use crate::types::{RouteId, Tenant};

pub(super) const BATCH: &str = "id, tenant, name, state, round, total, created, deadline, finished, policy";

pub(super) fn batch_of(row: &Row<'_>) -> sql::Result<BatchRow> {
    Ok(BatchRow {
        id: row.word(0, |id| id.parse().ok())?,
        tenant: row.maybe_text(1)?.map(|name| Tenant::from(&*name)),
        name: row.maybe_text(2)?,
        state: row.word(3, BatchState::named)?,
        round: row.number(4)?,
        total: row.number(5)?,
        created: row.time(6)?,
        deadline: row.maybe_time(7)?,
        finished: row.maybe_time(8)?,
        policy: row.text(9)?,
    })
}

/// A chunk, of a table that is called `c`.
pub(super) const CHUNK: &str = "SELECT c.batch, c.round, c.no, c.state, c.upstream, c.model, c.endpoint, c.way, \
     c.lines, c.bytes, c.tokens, c.intent_at, c.remote_id, c.remote_status, c.progress, c.output_file, c.error_file, \
     c.error, c.late, c.next_at, c.since, coalesce(c.moved, c.since)";
/// How many columns that are.
pub(super) const CHUNK_COLUMNS: usize = 22;

pub(super) fn chunk_of(row: &Row<'_>) -> sql::Result<ChunkRow> {
    let key = ChunkKey { batch: row.word(0, |id| id.parse().ok())?, round: row.number(1)?, no: row.number(2)? };
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    let percent = row.maybe_number::<i32>(14)?.map(|progress| progress as f32 / 1_000.0);
    Ok(ChunkRow {
        key,
        state: row.word(3, ChunkState::named)?,
        route: RouteId::new(&*row.text(4)?, &*row.text(5)?),
        endpoint: row.text(6)?,
        way: row.word(7, Way::named)?,
        lines: row.number(8)?,
        bytes: row.number(9)?,
        tokens: row.number(10)?,
        intent_at: row.maybe_time(11)?,
        remote_id: row.maybe_text(12)?,
        remote_status: row.maybe_text(13)?,
        percent,
        output_file: row.maybe_text(15)?,
        error_file: row.maybe_text(16)?,
        error: row.maybe_text(17)?,
        late: row.number(18)?,
        next_at: row.time(19)?,
        since: row.time(20)?,
        moved: row.time(21)?,
    })
}

/// A batch of that name, whatever its content, and the hash of that.
pub(super) fn named(
    sql: &Sql<'_>,
    tenant: Option<&Tenant>,
    name: &str,
) -> sql::Result<Option<(BatchId, Option<[u8; 32]>)>> {
    // A name of nobody's is not one of the tenant ''.
    let whose = if tenant.is_some() { "tenant IS NOT NULL" } else { "tenant IS NULL" };
    let select = format!("SELECT id, content FROM batch WHERE name = ?1 AND coalesce(tenant, '') = ?2 AND {whose}");
    let tenant = tenant.map_or("", Tenant::as_str);
    let read = |row: &Row<'_>| Ok((row.word(0, |id| id.parse().ok())?, row.maybe_hash(1)?));
    sql.one(&select, &[name.into(), tenant.into()], read)
}

/// How many are asked for, at most.
fn bound(most: usize) -> u64 {
    u64::try_from(most).unwrap_or(u64::MAX)
}

impl Journal {
    pub(crate) async fn find(&self, id: BatchId) -> Result<Option<BatchRow>> {
        self.read(move |sql| {
            sql.one(&format!("SELECT {BATCH} FROM batch WHERE id = ?1"), &[id.as_str().into()], batch_of)
        })
        .await
    }

    pub(crate) async fn find_named(&self, tenant: Option<Tenant>, name: &str) -> Result<Option<BatchRow>> {
        let name: Box<str> = name.into();
        self.read(move |sql| {
            let Some((id, _)) = named(sql, tenant.as_ref(), &name)? else { return Ok(None) };
            sql.one(&format!("SELECT {BATCH} FROM batch WHERE id = ?1"), &[id.as_str().into()], batch_of)
        })
        .await
    }

    /// Batches that go on and gather no more, oldest first.
    pub(crate) async fn open_batches(&self) -> Result<Vec<BatchRow>> {
        let select = format!("SELECT {BATCH} FROM batch WHERE state IN ('running', 'cancelling') ORDER BY created, id");
        self.read(move |sql| sql.query_readable(&select, &[], batch_of)).await
    }

    /// Sums over the lines of a batch: one row, however many they are.
    pub(crate) async fn counts(&self, id: BatchId) -> Result<Counts> {
        let select =
            "SELECT total - done - failed - cancelled, done, failed, cancelled, hits, copies, rescued, retried,
                 unpriced, cost, prompt, cached, completion, reasoning, images, pixels, seconds
             FROM batch WHERE id = ?1";
        let counts = self.read(move |sql| sql.one(select, &[id.as_str().into()], counts_of)).await?;
        Ok(counts.unwrap_or_default())
    }

    /// The chunks of a batch, by round and number.
    pub(crate) async fn chunks(&self, id: BatchId) -> Result<Vec<ChunkRow>> {
        let select = format!("{CHUNK} FROM chunk c WHERE c.batch = ?1 ORDER BY c.round, c.no");
        self.read(move |sql| sql.query(&select, &[id.as_str().into()], chunk_of)).await
    }

    pub(crate) async fn chunk(&self, key: ChunkKey) -> Result<Option<ChunkRow>> {
        self.read(move |sql| sql.one(&format!("{CHUNK} FROM chunk c WHERE {ONE}"), &key_params(&key), chunk_of)).await
    }

    /// Lines in the order in which they were asked, from that one on.
    pub(crate) async fn lines(&self, id: BatchId, from: u64, most: usize) -> Result<Vec<LineRow>> {
        self.select(id, "l.idx >= ?2 ORDER BY l.idx", from, most).await
    }

    /// Lines in the order in which they ended, after that number.
    pub(crate) async fn arrived(&self, id: BatchId, after: u64, most: usize) -> Result<Vec<LineRow>> {
        self.select(id, "l.arrived > ?2 AND l.arrived IS NOT NULL ORDER BY l.arrived", after, most).await
    }

    /// Lines that failed, in the order in which they were asked, from that one on.
    pub(crate) async fn failures(&self, id: BatchId, from: u64, most: usize) -> Result<Vec<LineRow>> {
        self.select(id, "l.idx >= ?2 AND l.state = 2 ORDER BY l.idx", from, most).await
    }

    /// Lines that wait, repeat no other and are not being answered one by one, in the order in which they were asked, from
    /// that one on.
    pub(crate) async fn waiting(&self, id: BatchId, from: u64, most: usize) -> Result<Vec<LineRow>> {
        let which = format!(
            "l.idx >= ?2 AND l.state = 0 AND l.copy_of IS NULL
             AND NOT EXISTS (SELECT 1 FROM chunk c WHERE c.batch = l.batch AND c.round = l.round AND c.no = l.chunk
                                 AND c.way <> 'batch' AND c.{OPEN})
             ORDER BY l.idx"
        );
        self.select(id, which, from, most).await
    }

    /// The same, those that are being answered one by one as well.
    pub(crate) async fn all_waiting(&self, id: BatchId, from: u64, most: usize) -> Result<Vec<LineRow>> {
        self.select(id, "l.idx >= ?2 AND l.state = 0 AND l.copy_of IS NULL ORDER BY l.idx", from, most).await
    }

    async fn select(
        &self,
        id: BatchId,
        which: impl std::fmt::Display + Send + 'static,
        from: u64,
        most: usize,
    ) -> Result<Vec<LineRow>> {
        self.read(move |sql| {
            let select = format!("{LINE} WHERE l.batch = ?1 AND {which} LIMIT ?3");
            sql.query(&select, &[id.as_str().into(), from.into(), bound(most).into()], line_of)
        })
        .await
    }

    /// The estimated tokens of chunks of a model that the provider has.
    pub(crate) async fn enqueued_tokens(&self, route: &RouteId) -> Result<u64> {
        let route = route.clone();
        let sum = self.read(move |sql| {
            let select = format!(
                "SELECT CAST(coalesce(sum(tokens), 0) AS BIGINT) FROM chunk
                 WHERE {SUBMITTED} AND upstream = ?1 AND model = ?2"
            );
            sql.one(&select, &[route.upstream().as_str().into(), route.model().as_str().into()], |row| row.number(0))
        });
        Ok(sum.await?.unwrap_or_default())
    }

    /// Chunks that the provider has, of all batches.
    pub(crate) async fn in_flight(&self) -> Result<u64> {
        let select = format!("SELECT count(*) FROM chunk WHERE {SUBMITTED}");
        Ok(self.read(move |sql| sql.one(&select, &[], |row| row.number(0))).await?.unwrap_or_default())
    }
}

fn counts_of(row: &Row<'_>) -> sql::Result<Counts> {
    Ok(Counts {
        waiting: row.number(0)?,
        done: row.number(1)?,
        failed: row.number(2)?,
        cancelled: row.number(3)?,
        cached: row.number(4)?,
        duplicates: row.number(5)?,
        rescued: row.number(6)?,
        retried: row.number(7)?,
        unpriced: row.number(8)?,
        cost: row.int(9)?,
        usage: usage_of(row, 10)?,
    })
}
