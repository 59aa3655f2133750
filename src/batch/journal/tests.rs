//! The promises of the journal, each on a file and on a server.

#[cfg(feature = "testing")]
mod crashes;
mod crowds;
mod home;
mod leases;
mod lines;
mod plans;
mod scale;
#[cfg(feature = "postgres")]
#[path = "../../../tests/service/ledger/server.rs"]
#[allow(dead_code, clippy::unused_async, reason = "these tests need less of it than those of the ledger")]
mod server;
mod spools;
mod sums;
mod twins;

use std::time::{Duration, SystemTime};

use self::home::Home;
use super::*;
use crate::types::{RouteId, Usage};

/// How long a claim holds here.
pub(super) const LEASE: Duration = Duration::from_secs(30);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn id(number: u128) -> BatchId {
    BatchId::new(number)
}

fn route() -> RouteId {
    RouteId::new("together", "small")
}

fn draft(number: u128, total: u64) -> Draft {
    let policy = "{}".into();
    let (tenant, name, content, deadline) = (None, None, [7; 32], None);
    Draft { id: id(number), tenant, name, content, total, created: at(0), deadline, policy }
}

fn chunk(no: u32, lines: u64) -> NewChunk {
    let endpoint = "/v1/chat/completions".into();
    let (bytes, tokens, rest) = (10 * lines, 100 * lines, Duration::ZERO);
    NewChunk { no, route: route(), endpoint, way: Way::Batch, lines, bytes, tokens, rest }
}

fn key(number: u128, round: u16, no: u32) -> ChunkKey {
    ChunkKey { batch: id(number), round, no }
}

fn line(index: u64, request: Span) -> NewLine {
    let (user_id, key, duplicate_of, outcome) = (Some(format!("user {index}").into()), None, None, None);
    NewLine { index, user_id, request, key, duplicate_of, chunk: Some(0), outcome }
}

fn done(index: u64, offset: u64) -> Outcome {
    let usage = Usage { prompt: 3, completion: 2, ..Usage::ZERO };
    let answer = Some(Place { file: "0-0-1.out.jsonl".into(), span: Span { offset, len: 5 } });
    Outcome { answer, usage, cost: Some(10), ..Outcome::new(index, LineState::Done) }
}

fn failed(index: u64) -> Outcome {
    let failure = Some(("rejected".into(), "400".into(), "no".into()));
    Outcome { failure, ..Outcome::new(index, LineState::Failed) }
}

/// Plans a batch of these lines, in one chunk; each asks for its own number.
async fn planned(journal: &Journal, draft: Draft, edit: impl Fn(&mut NewLine)) -> Planned {
    let mut planning = journal.begin(draft.id).await.unwrap();
    let mut lines = Vec::new();
    for index in 0..draft.total {
        let request = planning.add(format!("{{\"line\":{index}}}").as_bytes()).unwrap();
        let mut line = line(index, request);
        edit(&mut line);
        lines.push(line);
    }
    planning.lines(lines).await.unwrap();
    let total = draft.total;
    planning.finish(draft, vec![chunk(0, total)]).await.unwrap()
}

/// A batch of so many lines, whose chunk is ours; the chunk's fence.
async fn claimed(journal: &Journal, number: u128, total: u64) -> i64 {
    assert_eq!(planned(journal, draft(number, total), |_| ()).await, Planned::New);
    let claims = journal.claim(10, at(0)).await.unwrap();
    assert_eq!(claims.len(), 1);
    claims[0].fence
}

fn settling(outcomes: Vec<Outcome>) -> Settling {
    Settling { from: vec![ChunkState::Planned], to: ChunkState::Settled, outcomes, tried: true, late: 0 }
}

fn indexes(lines: &[LineRow]) -> Vec<u64> {
    lines.iter().map(|line| line.index).collect()
}

impl Journal {
    /// What happened to the chunks of a batch.
    async fn transitions(&self, batch: BatchId) -> Result<Vec<String>> {
        self.read(move |sql| {
            let select = "SELECT round, no, from_state, to_state, fence FROM transition WHERE batch = ?1 ORDER BY seq";
            sql.query(select, &[batch.as_str().into()], |row| {
                let (from, to) = (row.maybe_text(2)?.unwrap_or_default(), row.text(3)?);
                Ok(format!("{}-{} {from} {to} {}", row.int(0)?, row.int(1)?, row.int(4)?))
            })
        })
        .await
    }

    /// Rows of a table that belong to a batch.
    async fn rows_in(&self, table: &str, column: &str, batch: BatchId) -> u64 {
        let select = format!("SELECT count(*) FROM {table} WHERE {column} = ?1");
        let count = self.read(move |sql| sql.one(&select, &[batch.as_str().into()], |row| row.number(0)));
        count.await.unwrap().unwrap()
    }
}
