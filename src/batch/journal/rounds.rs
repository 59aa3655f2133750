//! From round to round, and to the end.

use std::time::SystemTime;

use super::{
    BatchId, BatchRow, Journal, NewChunk, Result,
    lease::ONE,
    plan::insert_chunks,
    read::{BATCH, batch_of},
    settle::PAGE,
    sql::Param,
    states::OPEN,
};
use crate::store::Durable;

impl Journal {
    /// Batches for whose lines nothing is under way any more, and how many of them wait. Chunks whose lines went another way
    /// may still be.
    pub(crate) async fn rounds_over(&self) -> Result<Vec<(BatchRow, u64)>> {
        let select = format!(
            "SELECT {BATCH}, total - done - failed - cancelled
             FROM batch b WHERE state IN ('running', 'cancelling')
               AND (done + failed + cancelled >= total
                    OR NOT EXISTS (SELECT 1 FROM chunk c WHERE c.batch = b.id AND c.{OPEN}
                                       AND EXISTS (SELECT 1 FROM line l WHERE l.batch = c.batch AND l.round = c.round
                                                       AND l.chunk = c.no AND l.chunk IS NOT NULL AND l.state = 0)))
             ORDER BY created, id"
        );
        self.read(move |sql| sql.query_readable(&select, &[], |row| Ok((batch_of(row)?, row.number(10)?)))).await
    }

    /// Begins the round after `round`, with new chunks and with lines in them that wait; lines of chunks that are still
    /// under way too. `false` if somebody else has begun it, or the batch has ended.
    pub(crate) async fn next_round(
        &self,
        batch: BatchId,
        round: u16,
        chunks: Vec<NewChunk>,
        lines: &[(u64, u32)],
        now: SystemTime,
    ) -> Result<bool> {
        let (lines, next) = (lines.to_vec(), round.saturating_add(1));
        let places = ("batch: a round is about to begin", "batch: a round has begun");
        self.write(places, Durable::Now, move |sql| {
            let update = "UPDATE batch SET round = ?3
                 WHERE id = ?1 AND round = ?2 AND state IN ('running', 'cancelling')";
            let id = batch.as_str();
            if sql.execute(update, &[id.into(), round.into(), next.into()])? == 0 {
                return Ok(false);
            }
            insert_chunks(sql, batch, next, &chunks, now)?;
            let update = "UPDATE line SET round = ?3, chunk = ?4
                 WHERE batch = ?1 AND idx = ?2 AND state = 0 AND copy_of IS NULL";
            for page in lines.chunks(PAGE) {
                let row = |(index, no): &(u64, u32)| vec![id.into(), (*index).into(), next.into(), (*no).into()];
                sql.execute_many(update, &page.iter().map(row).collect::<Vec<_>>())?;
            }
            Ok(true)
        })
        .await
    }

    /// Ends a batch of which no line waits; `false` if one does, or it has ended.
    pub(crate) async fn finish(&self, batch: BatchId, now: SystemTime) -> Result<bool> {
        let places = ("batch: a batch is about to end", "batch: a batch has ended");
        self.write(places, Durable::Now, move |sql| {
            let update = "UPDATE batch SET state = 'finished', finished = ?2
                 WHERE id = ?1 AND state IN ('running', 'cancelling') AND done + failed + cancelled >= total";
            Ok(sql.execute(update, &[batch.as_str().into(), now.into()])? > 0)
        })
        .await
    }

    /// Has a batch stopped, and its chunks looked at now; `false` if it does not run.
    pub(crate) async fn cancel(&self, batch: BatchId, now: SystemTime) -> Result<bool> {
        let places = ("batch: a batch is about to be cancelled", "batch: a batch is cancelled");
        self.write(places, Durable::Now, move |sql| {
            let id = batch.as_str();
            // Chunks before the batch, and those in their order: all who lock them do so.
            let select = format!("SELECT round, no FROM chunk WHERE batch = ?1 AND {OPEN} ORDER BY round, no");
            let open = sql.query(&select, &[id.into()], |row| Ok((row.int(0)?, row.int(1)?)))?;
            let rows: Vec<Vec<Param<'_>>> =
                open.into_iter().map(|(round, no)| vec![id.into(), round.into(), no.into(), now.into()]).collect();
            sql.execute_many(&format!("UPDATE chunk SET next_at = ?4 WHERE {ONE}"), &rows)?;
            let update = "UPDATE batch SET state = 'cancelling' WHERE id = ?1 AND state IN ('gathering', 'running')";
            Ok(sql.execute(update, &[id.into()])? > 0)
        })
        .await
    }
}
