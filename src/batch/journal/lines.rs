//! Lines as rows of the table.

use super::{
    BatchId, LineRef, LineRow, LineState, NewLine, Outcome, Place, Span,
    settle::Tally,
    sql::{Param, Result, Row, Sql, SqlError},
};
use crate::types::Usage;

/// The most that is kept of somebody's words on what went wrong.
const WORDS: usize = 500;

pub(super) fn capped(text: &str) -> &str {
    text.char_indices().nth(WORDS).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

/// What an outcome has columns for, in this order.
pub(super) const OUTCOME: [&str; 20] = [
    "state",
    "attempts",
    "arrived",
    "file",
    "answer_off",
    "answer_len",
    "prompt",
    "cached",
    "completion",
    "reasoning",
    "images",
    "pixels",
    "seconds",
    "cost",
    "hit",
    "rescued",
    "singly",
    "error_kind",
    "error_code",
    "error_message",
];

/// The values of those columns.
pub(super) fn outcome_params(outcome: &Outcome, attempts: u32, arrived: Option<u64>) -> [Param<'_>; OUTCOME.len()] {
    let Usage { prompt, cached, completion, reasoning, images, pixels, seconds } = outcome.usage;
    let span = outcome.answer.as_ref().map(|place| place.span);
    let failure = outcome.failure.as_ref();
    [
        outcome.state.number().into(),
        attempts.into(),
        arrived.into(),
        outcome.answer.as_ref().map(|place| &*place.file).into(),
        span.map(|span| span.offset).into(),
        span.map(|span| span.len).into(),
        prompt.into(),
        cached.into(),
        completion.into(),
        reasoning.into(),
        images.into(),
        pixels.into(),
        seconds.into(),
        outcome.cost.into(),
        outcome.cached.into(),
        outcome.rescued.into(),
        outcome.singly.into(),
        failure.map(|(kind, ..)| &**kind).into(),
        failure.map(|(_, code, _)| &**code).into(),
        failure.map(|(.., message)| capped(message)).into(),
    ]
}

const NEW: &str = "batch, idx, user_id, off, len, cache_key, copy_of, round, chunk";

/// Inserts new lines of a batch; those that have an outcome already arrive in their order.
pub(super) fn insert(sql: &Sql<'_>, batch: BatchId, lines: &[NewLine], tally: &mut Tally) -> Result<()> {
    let id = batch.as_str();
    let waits = Outcome::new(0, LineState::Waiting);
    let rows: Vec<Vec<Param<'_>>> = lines
        .iter()
        .map(|line| {
            let outcome = line.outcome.as_ref().filter(|_| line.duplicate_of.is_none());
            let arrived = outcome.map(|outcome| tally.count(outcome, 0));
            let mut row = vec![
                id.into(),
                line.index.into(),
                (&line.user_id).into(),
                line.request.offset.into(),
                line.request.len.into(),
                line.key.as_ref().map(|key| &key[..]).into(),
                line.duplicate_of.into(),
                line.chunk.map(|_| 0_i64).into(),
                line.chunk.map(i64::from).into(),
            ];
            row.extend(outcome_params(outcome.unwrap_or(&waits), 0, arrived));
            row
        })
        .collect();
    sql.insert("line", &format!("{}, {}", NEW, OUTCOME.join(", ")), &rows)
}

/// A line with what came of it: of the line that it repeats, if it does.
pub(super) const LINE: &str = "SELECT l.idx, l.user_id, l.off, l.len, l.copy_of, l.state, l.arrived, \
     o.file, o.answer_off, o.answer_len, \
     o.prompt, o.cached, o.completion, o.reasoning, o.images, o.pixels, o.seconds, \
     o.cost, o.hit, o.rescued, o.singly, o.attempts, o.round, o.error_kind, o.error_code, o.error_message \
     FROM line l JOIN line o ON o.batch = l.batch AND o.idx = coalesce(l.copy_of, l.idx)";

pub(super) fn line_of(row: &Row<'_>) -> Result<LineRow> {
    let failure = match (row.maybe_text(23)?, row.maybe_text(24)?, row.maybe_text(25)?) {
        (Some(kind), Some(code), Some(message)) => Some((kind, code, message)),
        _ => None,
    };
    let rounds = row.maybe_number::<u16>(22)?.map_or(0, |round| round.saturating_add(1));
    Ok(LineRow {
        index: row.number(0)?,
        user_id: row.maybe_text(1)?,
        request: Span { offset: row.number(2)?, len: row.number(3)? },
        duplicate_of: row.maybe_number(4)?,
        state: LineState::numbered(row.int(5)?).ok_or(SqlError::Unreadable(5))?,
        arrived: row.maybe_number(6)?,
        answer: place_of(row, 7)?,
        usage: usage_of(row, 10)?,
        cost: row.maybe_int(17)?,
        cached: row.is(18)?,
        rescued: row.is(19)?,
        singly: row.is(20)?,
        attempts: row.number(21)?,
        rounds,
        failure,
    })
}

fn place_of(row: &Row<'_>, from: usize) -> Result<Option<Place>> {
    let Some(file) = row.maybe_text(from)? else { return Ok(None) };
    Ok(Some(Place { file, span: Span { offset: row.number(from + 1)?, len: row.number(from + 2)? } }))
}

pub(super) fn usage_of(row: &Row<'_>, from: usize) -> Result<Usage> {
    Ok(Usage {
        prompt: row.number(from)?,
        cached: row.number(from + 1)?,
        completion: row.number(from + 2)?,
        reasoning: row.number(from + 3)?,
        images: row.number(from + 4)?,
        pixels: row.number(from + 5)?,
        seconds: row.number(from + 6)?,
    })
}

/// A line that waits.
pub(super) const REF: &str = "SELECT idx, off, len, cache_key, attempts, singly FROM line";

pub(super) fn ref_of(row: &Row<'_>) -> Result<LineRef> {
    Ok(LineRef {
        index: row.number(0)?,
        request: Span { offset: row.number(1)?, len: row.number(2)? },
        key: row.maybe_hash(3)?,
        attempts: row.number(4)?,
        singly: row.is(5)?,
    })
}
