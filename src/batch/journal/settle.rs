//! What came of lines: the first answer of a line counts, the lines that repeat it follow, and the batch's sums with
//! them.

use std::{collections::HashMap, time::SystemTime};

use super::{
    BatchId, ChunkKey, ChunkState, Journal, LineState, Outcome, Result,
    lease::{self, Step},
    lines::{OUTCOME, outcome_params},
    sql::{self, Param, Sql},
};
use crate::{store::Durable, types::Usage};

/// Lines that are handed to the database together: all at once would take more memory than all the rest.
pub(super) const PAGE: usize = 1_000;

/// What is added to a batch's sums.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// The last number in the order of arrival.
    pub(super) arrived: u64,
    done: u64,
    failed: u64,
    cancelled: u64,
    hits: u64,
    copies: u64,
    rescued: u64,
    retried: u64,
    unpriced: u64,
    cost: i64,
    usage: Usage,
}

impl Tally {
    /// Counts a line that has ended; its place in the order of arrival.
    pub(super) fn count(&mut self, outcome: &Outcome, tries: u32) -> u64 {
        if outcome.state == LineState::Done {
            self.hits += u64::from(outcome.cached);
            self.rescued += u64::from(outcome.rescued);
            self.unpriced += u64::from(outcome.cost.is_none() && !outcome.cached);
        }
        self.retried += u64::from(tries > 1);
        self.cost = self.cost.saturating_add(outcome.cost.unwrap_or(0));
        self.usage = sum(self.usage, outcome.usage);
        self.end(outcome.state)
    }

    /// Counts a line that repeats one that ended so.
    fn follow(&mut self, state: LineState) -> u64 {
        self.copies += u64::from(state == LineState::Done);
        self.end(state)
    }

    fn end(&mut self, state: LineState) -> u64 {
        match state {
            LineState::Waiting => return self.arrived,
            LineState::Done => self.done += 1,
            LineState::Failed => self.failed += 1,
            LineState::Cancelled => self.cancelled += 1,
        }
        self.arrived += 1;
        self.arrived
    }

    /// Adds it to the sums of its batch, whose row is this transaction's.
    pub(super) fn write(&self, sql: &Sql<'_>, batch: BatchId) -> sql::Result<()> {
        let Usage { prompt, cached, completion, reasoning, images, pixels, seconds } = self.usage;
        let sums: [(&str, Param<'_>); 16] = [
            ("done", self.done.into()),
            ("failed", self.failed.into()),
            ("cancelled", self.cancelled.into()),
            ("hits", self.hits.into()),
            ("copies", self.copies.into()),
            ("rescued", self.rescued.into()),
            ("retried", self.retried.into()),
            ("unpriced", self.unpriced.into()),
            ("cost", self.cost.into()),
            ("prompt", prompt.into()),
            ("cached", cached.into()),
            ("completion", completion.into()),
            ("reasoning", reasoning.into()),
            ("images", images.into()),
            ("pixels", pixels.into()),
            ("seconds", seconds.into()),
        ];
        let set: Vec<String> = sums.iter().zip(3..).map(|((name, _), at)| format!("{name} = {name} + ?{at}")).collect();
        let update = format!("UPDATE batch SET arrived = ?2, {} WHERE id = ?1", set.join(", "));
        let first = [batch.as_str().into(), self.arrived.into()];
        let params: Vec<Param<'_>> = first.into_iter().chain(sums.map(|(_, sum)| sum)).collect();
        sql.execute(&update, &params).map(drop)
    }
}

fn sum(one: Usage, other: Usage) -> Usage {
    Usage {
        prompt: one.prompt.saturating_add(other.prompt),
        cached: one.cached.saturating_add(other.cached),
        completion: one.completion.saturating_add(other.completion),
        reasoning: one.reasoning.saturating_add(other.reasoning),
        images: one.images.saturating_add(other.images),
        pixels: one.pixels.saturating_add(other.pixels),
        seconds: one.seconds.saturating_add(other.seconds),
    }
}

/// How outcomes count as tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tries {
    /// Each is one.
    One,
    /// Those of lines that have ended are; what waits on is counted with the rest of its chunk.
    Ended,
    /// None is: nothing was tried.
    None,
}

impl Tries {
    fn of(self, outcome: &Outcome) -> u32 {
        match (self, outcome.state) {
            (Self::None, _) | (_, LineState::Cancelled) | (Self::Ended, LineState::Waiting) => 0,
            _ => u32::from(!outcome.cached),
        }
    }
}

/// Writes outcomes to those of the lines that wait. Only whoever has locked the batch's row ends lines, so that what waits
/// now waits until the end of the transaction.
pub(super) fn apply(sql: &Sql<'_>, batch: BatchId, outcomes: &[Outcome], tries: Tries) -> sql::Result<()> {
    let mut tally = begin(sql, batch)?;
    let mut waiting = waiting(sql, batch, outcomes)?;
    let mut ended = HashMap::new();
    let id = batch.as_str();
    let set: Vec<String> = OUTCOME.iter().zip(3..).map(|(name, at)| format!("{name} = ?{at}")).collect();
    let update = format!("UPDATE line SET {} WHERE batch = ?1 AND idx = ?2", set.join(", "));
    for page in outcomes.chunks(PAGE) {
        let mut rows = Vec::with_capacity(page.len());
        for outcome in page {
            let is_over = outcome.state != LineState::Waiting;
            let before = if is_over { waiting.remove(&outcome.index) } else { waiting.get(&outcome.index).copied() };
            let Some(before) = before else { continue };
            let attempts = before.saturating_add(tries.of(outcome));
            let arrived = is_over.then(|| tally.count(outcome, attempts));
            if is_over {
                ended.insert(outcome.index, outcome.state);
            }
            let mut row = Vec::with_capacity(2 + OUTCOME.len());
            row.extend::<[Param<'_>; 2]>([id.into(), outcome.index.into()]);
            row.extend(outcome_params(outcome, attempts, arrived));
            rows.push(row);
        }
        sql.execute_many(&update, &rows)?;
    }
    let (first, last) = (ended.keys().min().copied(), ended.keys().max().copied());
    if let (Some(first), Some(last)) = (first, last) {
        let found = sql.query(
            "SELECT idx, copy_of FROM line
             WHERE batch = ?1 AND copy_of IS NOT NULL AND copy_of BETWEEN ?2 AND ?3 AND state = 0 ORDER BY idx",
            &[id.into(), first.into(), last.into()],
            |row| Ok((row.number(0)?, row.number(1)?)),
        )?;
        let copies = found.into_iter().filter_map(|(index, of): (u64, u64)| Some((index, *ended.get(&of)?)));
        follow(sql, batch, copies, &mut tally)?;
    }
    tally.write(sql, batch)
}

/// Locks the batch's row.
fn begin(sql: &Sql<'_>, batch: BatchId) -> sql::Result<Tally> {
    let select = format!("SELECT arrived FROM batch WHERE id = ?1 {}", sql.lock());
    let arrived = sql.one(&select, &[batch.as_str().into()], |row| row.number(0))?;
    Ok(Tally { arrived: arrived.unwrap_or_default(), ..Tally::default() })
}

/// Those lines of the outcomes that wait, and how often they were tried.
fn waiting(sql: &Sql<'_>, batch: BatchId, outcomes: &[Outcome]) -> sql::Result<HashMap<u64, u32>> {
    let indexes = || outcomes.iter().map(|outcome| outcome.index);
    let (Some(first), Some(last)) = (indexes().min(), indexes().max()) else { return Ok(HashMap::new()) };
    let waits = "SELECT idx, attempts FROM line WHERE batch = ?1 AND state = 0 AND copy_of IS NULL";
    let read = |row: &sql::Row<'_>| Ok((row.number(0)?, row.number(1)?));
    let id = batch.as_str();
    // Lines of a chunk mostly stand together: one question is quicker than many, unless most of its rows are others'.
    let found = if last - first < 4 * u64::try_from(outcomes.len()).unwrap_or(u64::MAX / 4) {
        sql.query(&format!("{waits} AND idx BETWEEN ?2 AND ?3"), &[id.into(), first.into(), last.into()], read)?
    } else {
        let rows: Vec<Vec<Param<'_>>> = indexes().map(|index| vec![id.into(), index.into()]).collect();
        sql.one_each(&format!("{waits} AND idx = ?2"), &rows, read)?
    };
    Ok(found.into_iter().collect())
}

/// Ends lines that repeat others as those did.
pub(super) fn follow(
    sql: &Sql<'_>,
    batch: BatchId,
    copies: impl Iterator<Item = (u64, LineState)>,
    tally: &mut Tally,
) -> sql::Result<()> {
    let id = batch.as_str();
    let rows: Vec<Vec<Param<'_>>> = copies
        .map(|(index, state)| vec![id.into(), index.into(), state.number().into(), tally.follow(state).into()])
        .collect();
    sql.execute_many("UPDATE line SET state = ?3, arrived = ?4 WHERE batch = ?1 AND idx = ?2", &rows).map(drop)
}

/// How a chunk is settled.
#[derive(Clone, Debug)]
pub(crate) struct Settling {
    pub(crate) from: Vec<ChunkState>,
    pub(crate) to: ChunkState,
    pub(crate) outcomes: Vec<Outcome>,
    /// Whether its lines without an outcome were tried in vain.
    pub(crate) tried: bool,
    /// Rows that were billed for lines that had been answered elsewhere.
    pub(crate) late: u64,
}

impl Journal {
    /// Writes what came of the lines of a chunk, and where it goes, at once. Lines without an outcome go on waiting. `false`:
    /// somebody else has the chunk, and nothing was written.
    pub(crate) async fn settle(&self, key: ChunkKey, fence: i64, how: Settling, now: SystemTime) -> Result<bool> {
        let places = ("batch: a chunk is about to be settled", "batch: a chunk is settled");
        self.write(places, Durable::Now, move |sql| {
            let change = super::Change::default();
            let step = Step { key: &key, fence, from: &how.from, to: how.to, change: &change, late: how.late, now };
            if !lease::step(sql, &step)? {
                return Ok(false);
            }
            apply(sql, key.batch, &how.outcomes, if how.tried { Tries::Ended } else { Tries::One })?;
            if how.tried {
                sql.execute(
                    "UPDATE line SET attempts = attempts + 1
                     WHERE batch = ?1 AND round = ?2 AND chunk = ?3 AND chunk IS NOT NULL AND state = 0",
                    &[key.batch.as_str().into(), key.round.into(), key.no.into()],
                )?;
            }
            Ok(true)
        })
        .await
    }

    /// The same for lines that are answered one by one: the chunk stays where it is.
    pub(crate) async fn settle_lines(&self, key: ChunkKey, fence: i64, outcomes: Vec<Outcome>) -> Result<bool> {
        let places = ("batch: lines are about to be settled", "batch: lines are settled");
        self.write(places, Durable::Now, move |sql| {
            if !lease::is_held(sql, &key, fence)? {
                return Ok(false);
            }
            apply(sql, key.batch, &outcomes, Tries::One)?;
            Ok(true)
        })
        .await
    }

    /// The same for lines that nobody tries any more.
    pub(crate) async fn end_lines(&self, batch: BatchId, outcomes: Vec<Outcome>) -> Result<()> {
        let places = ("batch: lines are about to be given up", "batch: lines are given up");
        self.write(places, Durable::Now, move |sql| apply(sql, batch, &outcomes, Tries::None)).await
    }
}
