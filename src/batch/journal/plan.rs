//! Planning a batch: its lines are written page by page where nobody sees them, and become a batch at once.

use std::{io, time::SystemTime};

use super::{
    BatchId, BatchState, ChunkState, Draft, Journal, JournalError, LineState, NewChunk, NewLine, Place, Planned,
    Result, Span,
    files::Appended,
    lines, locked,
    read::named,
    settle::{Tally, follow},
    spool::{CACHED, REQUESTS},
    sql::{self, Param, Sql},
};
use crate::store::{Durable, StoreError, StoreErrorKind, reach};

/// Rows that are deleted at once: a writer is not held up for long.
const SLICE: u64 = 500;

/// A batch that is being planned. Dropping it takes it back.
#[derive(Debug)]
pub(crate) struct Planning {
    journal: Journal,
    id: BatchId,
    /// Until they are flushed.
    files: Option<Files>,
    tally: Tally,
    /// Whether there are lines that repeat others.
    has_copies: bool,
    fate: Fate,
}

#[derive(Debug)]
struct Files {
    requests: Appended,
    cached: Appended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Planned,
    /// It may stand, and it may not: only the store knows.
    InDoubt,
    Stands,
}

impl Journal {
    /// Begins to plan a batch.
    pub(crate) async fn begin(&self, id: BatchId) -> Result<Planning> {
        let process = self.process();
        let places = ("batch: a plan is about to begin", "batch: a plan has begun");
        self.write(places, Durable::Soon, move |sql| {
            let insert = "INSERT INTO planning (id, owner) VALUES (?1, ?2)";
            sql.execute(insert, &[id.as_str().into(), process.into()]).map(drop)
        })
        .await?;
        let files = self.with_files(move |spool| {
            spool.make(id)?;
            Ok(Files { requests: Appended::open(spool, id, REQUESTS)?, cached: Appended::open(spool, id, CACHED)? })
        });
        match files.await {
            Ok(files) => {
                let (journal, tally) = (self.clone(), Tally::default());
                Ok(Planning { journal, id, files: Some(files), tally, has_copies: false, fate: Fate::Planned })
            }
            Err(error) => {
                locked(&self.0.dropped).push(id);
                Err(error)
            }
        }
    }

    /// Takes back what was planned and not finished: here, and by processes that are gone. How many.
    pub(crate) async fn sweep(&self) -> Result<usize> {
        let mine = std::mem::take(&mut *locked(&self.0.dropped));
        let swept = self.sweep_with(&mine).await;
        if swept.is_err() {
            locked(&self.0.dropped).extend(mine);
        }
        swept
    }

    async fn sweep_with(&self, mine: &[BatchId]) -> Result<usize> {
        let orphans = self
            .read(|sql| {
                let select = "SELECT id FROM planning WHERE owner NOT IN (SELECT id FROM process)";
                sql.query_readable(select, &[], |row| row.word(0, |id| id.parse().ok()))
            })
            .await?;
        let process = self.process();
        let (mut swept, mut failed) = (0, None);
        let all = mine.iter().map(|id| (*id, true)).chain(orphans.into_iter().map(|id| (id, false)));
        for (id, is_mine) in all {
            // First nobody's: what has become a batch meanwhile stays, and nobody can make one of it any more.
            let is_left = self
                .write(("batch: a plan is about to be swept", "batch: a plan is nobody's"), Durable::Soon, move |sql| {
                    let update = "UPDATE planning SET owner = 0 WHERE id = ?1
                         AND (owner = ?2 OR owner NOT IN (SELECT id FROM process))";
                    let owner = if is_mine { process } else { 0 };
                    Ok(sql.execute(update, &[id.as_str().into(), owner.into()])? > 0)
                })
                .await?;
            if is_left {
                // One whose folder cannot be deleted holds up no other.
                match self.erase(id).await {
                    Ok(()) => swept += 1,
                    Err(error) => failed = Some(error),
                }
            }
        }
        failed.map_or(Ok(swept), Err)
    }

    /// Deletes the lines and the folder of a plan, and then its row.
    async fn erase(&self, id: BatchId) -> Result<()> {
        let places = ("batch: lines are about to be deleted", "batch: lines are deleted");
        loop {
            let deleted = self.write(places, Durable::Soon, move |sql| {
                let delete = "DELETE FROM line WHERE batch = ?1 AND idx IN
                     (SELECT idx FROM line WHERE batch = ?1 ORDER BY idx LIMIT ?2)";
                sql.execute(delete, &[id.as_str().into(), SLICE.into()])
            });
            if deleted.await? == 0 {
                break;
            }
        }
        self.with_files(move |spool| spool.discard(id)).await?;
        self.write(("batch: a plan is about to be deleted", "batch: a plan is deleted"), Durable::Soon, move |sql| {
            sql.execute("DELETE FROM planning WHERE id = ?1", &[id.as_str().into()]).map(drop)
        })
        .await
    }
}

/// Whether the plan is still its process's, until the transaction ends.
fn is_ours(sql: &Sql<'_>, id: BatchId, process: i64) -> sql::Result<bool> {
    let select = format!("SELECT 1 FROM planning WHERE id = ?1 AND owner = ?2 {}", sql.lock());
    Ok(sql.one(&select, &[id.as_str().into(), process.into()], |_| Ok(()))?.is_some())
}

impl Planning {
    /// Keeps a request.
    pub(crate) fn add(&mut self, request: &[u8]) -> Result<Span> {
        self.append(request, |files| &mut files.requests)
    }

    /// Keeps an answer out of the cache.
    pub(crate) fn cached(&mut self, answer: &[u8]) -> Result<Place> {
        let span = self.append(answer, |files| &mut files.cached)?;
        Ok(Place { file: CACHED.into(), span })
    }

    fn append(&mut self, row: &[u8], to: impl FnOnce(&mut Files) -> &mut Appended) -> Result<Span> {
        let closed = || io::Error::other("the plan is finished");
        let appended = self.files.as_mut().ok_or_else(closed).and_then(|files| to(files).append(row));
        appended.map_err(|error| self.journal.spool_failed(error))
    }

    /// Writes lines: a thousand or so at a time.
    pub(crate) async fn lines(&mut self, lines: Vec<NewLine>) -> Result<()> {
        self.has_copies |= lines.iter().any(|line| line.duplicate_of.is_some());
        let (id, process, mut tally) = (self.id, self.journal.process(), self.tally.clone());
        let places = ("batch: lines are about to be planned", "batch: lines are planned");
        let written = self.journal.write(places, Durable::Soon, move |sql| {
            if !is_ours(sql, id, process)? {
                return Ok(None);
            }
            lines::insert(sql, id, &lines, &mut tally)?;
            Ok(Some(tally))
        });
        self.tally = written.await?.ok_or_else(|| self.was_swept())?;
        Ok(())
    }

    /// Has the disk take everything, and then makes it a batch, unless one of its name stands.
    pub(crate) async fn finish(mut self, draft: Draft, chunks: Vec<NewChunk>) -> Result<Planned> {
        self.flush().await?;
        let (id, process, has_copies) = (self.id, self.journal.process(), self.has_copies);
        let mut tally = std::mem::take(&mut self.tally);
        self.fate = Fate::InDoubt;
        let places = ("batch: a plan is about to stand", "batch: a plan stands");
        let planned = self.journal.write(places, Durable::Now, move |sql| {
            if !is_ours(sql, id, process)? {
                return Ok(None);
            }
            if !insert(sql, id, &draft, BatchState::Running, None)? {
                let Some(name) = draft.name.as_deref() else { return Err(sql::SqlError::Unreadable(0)) };
                let other = named(sql, draft.tenant.as_ref(), name)?;
                let (other, content) = other.ok_or(sql::SqlError::Unreadable(0))?;
                let is_same = content == Some(draft.content);
                return Ok(Some(if is_same { Planned::Same(other) } else { Planned::NameTaken(other) }));
            }
            insert_chunks(sql, id, 0, &chunks, draft.created)?;
            if has_copies {
                follow_planned(sql, id, &mut tally)?;
            }
            tally.write(sql, id)?;
            sql.execute("DELETE FROM planning WHERE id = ?1", &[id.as_str().into()])?;
            Ok(Some(Planned::New))
        });
        let planned = planned.await?.ok_or_else(|| self.was_swept())?;
        self.fate = if planned == Planned::New { Fate::Stands } else { Fate::Planned };
        Ok(planned)
    }

    async fn flush(&mut self) -> Result<()> {
        let (id, files) = (self.id, self.files.take());
        reach("batch: requests are about to be flushed");
        self.journal
            .with_files(move |spool| {
                if let Some(mut files) = files {
                    files.requests.sync()?;
                    files.cached.sync()?;
                }
                spool.sync_names(id)
            })
            .await?;
        reach("batch: requests are flushed");
        Ok(())
    }

    fn was_swept(&self) -> JournalError {
        let detail = "this process was silent for so long that its plan of a batch was taken back; plan it again";
        StoreError::new(StoreErrorKind::Other, self.journal.0.books.name(), detail).into()
    }
}

impl Drop for Planning {
    fn drop(&mut self) {
        if self.fate == Fate::Stands {
            return;
        }
        locked(&self.journal.0.dropped).push(self.id);
        if self.fate == Fate::InDoubt {
            // The sweep asks the store first.
            return;
        }
        let (journal, id) = (self.journal.clone(), self.id);
        let discard = move || {
            if let Err(error) = journal.0.spool.discard(id) {
                tracing::warn!(%error, batch = %id, "the folder of a plan was left behind");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(discard)),
            Err(_) => discard(),
        }
    }
}

/// Makes the batch; `false` where one of its name stands, which another process may just be making.
pub(super) fn insert(
    sql: &Sql<'_>,
    id: BatchId,
    draft: &Draft,
    state: BatchState,
    owner: Option<i64>,
) -> sql::Result<bool> {
    let inserted = sql.execute(
        "INSERT INTO batch (id, tenant, name, content, state, owner, round, total, created, deadline, policy)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
        &[
            id.as_str().into(),
            draft.tenant.as_ref().map(crate::types::Tenant::as_str).into(),
            (&draft.name).into(),
            draft.content[..].into(),
            state.name().into(),
            owner.into(),
            draft.total.into(),
            draft.created.into(),
            draft.deadline.into(),
            (&*draft.policy).into(),
        ],
    )?;
    Ok(inserted > 0)
}

/// Adds the chunks of a round.
pub(super) fn insert_chunks(
    sql: &Sql<'_>,
    batch: BatchId,
    round: u16,
    chunks: &[NewChunk],
    now: SystemTime,
) -> sql::Result<()> {
    let id = batch.as_str();
    let rows: Vec<Vec<Param<'_>>> = chunks
        .iter()
        .map(|chunk| {
            vec![
                id.into(),
                round.into(),
                chunk.no.into(),
                ChunkState::Planned.name().into(),
                now.into(),
                chunk.route.upstream().as_str().into(),
                chunk.route.model().as_str().into(),
                (&*chunk.endpoint).into(),
                chunk.way.name().into(),
                chunk.lines.into(),
                chunk.bytes.into(),
                chunk.tokens.into(),
                now.checked_add(chunk.rest).unwrap_or(now).into(),
            ]
        })
        .collect();
    let columns = "batch, round, no, state, since, upstream, model, endpoint, way, lines, bytes, tokens, next_at";
    sql.insert("chunk", columns, &rows)?;
    let rows: Vec<Vec<Param<'_>>> = chunks
        .iter()
        .map(|chunk| {
            let state = ChunkState::Planned.name();
            vec![id.into(), round.into(), chunk.no.into(), state.into(), now.into(), 0_i64.into()]
        })
        .collect();
    sql.insert("transition", "batch, round, no, to_state, at, fence", &rows)
}

/// Lines that repeat one that had its answer before anything was sent.
fn follow_planned(sql: &Sql<'_>, batch: BatchId, tally: &mut Tally) -> sql::Result<()> {
    let found = sql.query(
        "SELECT l.idx, o.state FROM line l JOIN line o ON o.batch = l.batch AND o.idx = l.copy_of
         WHERE l.batch = ?1 AND l.copy_of IS NOT NULL AND l.state = 0 AND o.state <> 0 ORDER BY l.idx",
        &[batch.as_str().into()],
        |row| Ok((row.number(0)?, LineState::numbered(row.int(1)?).ok_or(sql::SqlError::Unreadable(1))?)),
    )?;
    follow(sql, batch, found.into_iter(), tally)
}
