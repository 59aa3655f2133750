//! Batches whose lines come one by one: each is on the disk before whoever brought it goes on.

use std::time::SystemTime;

use super::{
    BatchId, BatchRow, BatchState, Draft, Journal, NewLine, Planned, Result,
    files::Appended,
    lines, locked, plan,
    read::{BATCH, batch_of, named},
    settle::Tally,
    spool::REQUESTS,
    sql,
};
use crate::store::{Durable, reach};

impl Journal {
    /// Makes a batch without lines, which this process gathers.
    pub(crate) async fn gather(&self, draft: Draft) -> Result<Planned> {
        let (id, process) = (draft.id, self.process());
        self.with_files(move |spool| {
            spool.make(id)?;
            spool.sync_names(id)
        })
        .await?;
        let places = ("batch: a gathering is about to begin", "batch: a gathering has begun");
        let made = self.write(places, Durable::Now, move |sql| {
            if plan::insert(sql, id, &draft, BatchState::Gathering, Some(process))? {
                return Ok(Planned::New);
            }
            let name = draft.name.as_deref().ok_or(sql::SqlError::Unreadable(0))?;
            let (other, content) = named(sql, draft.tenant.as_ref(), name)?.ok_or(sql::SqlError::Unreadable(0))?;
            Ok(if content == Some(draft.content) { Planned::Same(other) } else { Planned::NameTaken(other) })
        });
        let made = made.await?;
        if made != Planned::New {
            self.with_files(move |spool| spool.discard(id)).await?;
        }
        Ok(made)
    }

    /// Adds a line to a batch that this process gathers: the disk has it when its number is told. A deadline before the
    /// batch's becomes the batch's. `None` once the batch gathers no more.
    pub(crate) async fn append(
        &self,
        batch: BatchId,
        request: Vec<u8>,
        key: Option<[u8; 32]>,
        deadline: Option<SystemTime>,
    ) -> Result<Option<u64>> {
        // Nobody else may touch the file.
        if !locked(&self.0.gathering).contains_key(&batch) && !self.gathers(batch).await? {
            return Ok(None);
        }
        let journal = self.clone();
        reach("batch: a line is about to be gathered");
        let request = self.with_files(move |spool| {
            let mut gathering = locked(&journal.0.gathering);
            let mut file = match gathering.remove(&batch) {
                Some(file) => file,
                None => Appended::open(spool, batch, REQUESTS)?,
            };
            let span = file.append(&request)?;
            file.sync()?;
            // One that failed is opened anew, after its last whole row.
            gathering.insert(batch, file);
            Ok(span)
        });
        let (request, process) = (request.await?, self.process());
        let places = ("batch: a gathered line is about to be written", "batch: a gathered line is written");
        self.write(places, Durable::Now, move |sql| {
            let id = batch.as_str();
            let update = "UPDATE batch SET total = total + 1,
                     deadline = CASE WHEN deadline IS NULL OR deadline > ?3 THEN ?3 ELSE deadline END
                 WHERE id = ?1 AND owner = ?2 AND state = 'gathering'";
            if sql.execute(update, &[id.into(), process.into(), deadline.into()])? == 0 {
                return Ok(None);
            }
            let index = sql.one("SELECT total - 1 FROM batch WHERE id = ?1", &[id.into()], |row| row.number(0))?;
            let index = index.ok_or(sql::SqlError::Unreadable(0))?;
            let line = NewLine { index, user_id: None, request, key, duplicate_of: None, chunk: None, outcome: None };
            lines::insert(sql, batch, &[line], &mut Tally::default())?;
            Ok(Some(index))
        })
        .await
    }

    /// Whether this process gathers the batch.
    async fn gathers(&self, batch: BatchId) -> Result<bool> {
        let process = self.process();
        self.read(move |sql| {
            let select = "SELECT 1 FROM batch WHERE id = ?1 AND owner = ?2 AND state = 'gathering'";
            Ok(sql.one(select, &[batch.as_str().into(), process.into()], |_| Ok(()))?.is_some())
        })
        .await
    }

    /// Has a batch gather no more, and run; `false` if it does not gather.
    pub(crate) async fn gathered(&self, batch: BatchId) -> Result<bool> {
        let places = ("batch: a gathering is about to end", "batch: a gathering has ended");
        let ended = self.write(places, Durable::Now, move |sql| {
            let update = "UPDATE batch SET state = 'running' WHERE id = ?1 AND state = 'gathering'";
            Ok(sql.execute(update, &[batch.as_str().into()])? > 0)
        });
        let ended = ended.await?;
        locked(&self.0.gathering).remove(&batch);
        Ok(ended)
    }

    /// Batches that gather, how many lines each has, and whether the process lives that gathers them.
    pub(crate) async fn gatherings(&self) -> Result<Vec<(BatchRow, u64, bool)>> {
        let select = format!(
            "SELECT {BATCH}, CASE WHEN EXISTS (SELECT 1 FROM process p WHERE p.id = owner) THEN CAST(1 AS BIGINT) ELSE 0 END
             FROM batch WHERE state = 'gathering' ORDER BY created, id"
        );
        self.read(move |sql| {
            sql.query_readable(&select, &[], |row| {
                let batch = batch_of(row)?;
                let lines = batch.total;
                Ok((batch, lines, row.is(10)?))
            })
        })
        .await
    }
}
