//! Second jobs of the lines of a chunk: each becomes a chunk without lines, so that it is stopped, and what it did is read
//! and paid, as that of any other job.

use std::time::SystemTime;

use super::{
    ChunkKey, ChunkState, Journal, Result,
    lease::{ONE, key_params},
};
use crate::store::Durable;

/// Their numbers within a round are larger than those of chunks that have lines.
const FIRST: u32 = 1 << 30;

impl Journal {
    /// Takes down a second job of a chunk's lines, which is to be stopped. `false`: it is known, or the chunk is not.
    pub(crate) async fn adopt_twin(&self, key: ChunkKey, twin: &str, now: SystemTime) -> Result<bool> {
        let twin = twin.to_owned();
        let places = ("batch: a second job is about to be noted", "batch: a second job is noted");
        self.write(places, Durable::Now, move |sql| {
            let [batch, round, no] = key_params(&key);
            let select = "SELECT max(no) FROM chunk WHERE batch = ?1 AND round = ?2";
            let last: Option<u32> = sql.one(select, &[batch, round], |row| row.maybe_number(0))?.flatten();
            let next = last.map_or(FIRST, |last| last.saturating_add(1).max(FIRST));
            let insert = format!(
                "INSERT INTO chunk (batch, round, no, state, since, upstream, model, endpoint, way, lines, bytes, tokens,
                     remote_id, next_at)
                 SELECT batch, round, ?4, ?5, ?6, upstream, model, endpoint, way, 0, 0, 0, ?7, ?6
                 FROM chunk WHERE {ONE} ON CONFLICT DO NOTHING"
            );
            let (state, twin) = (ChunkState::Cancelling.name(), twin.as_str());
            let added =
                sql.execute(&insert, &[batch, round, no, next.into(), state.into(), now.into(), twin.into()])?;
            Ok(added > 0)
        })
        .await
    }
}
