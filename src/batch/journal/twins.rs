//! Second jobs of the lines of a chunk: each becomes a chunk without lines, so that it is stopped, and what it did is read
//! and paid, as that of any other job.

use std::time::SystemTime;

use super::{
    ChunkKey, ChunkState, Journal, Result,
    lease::{ONE, key_params},
    sql::{Param, Row},
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
            let select = format!("SELECT upstream, model, endpoint, way FROM chunk WHERE {ONE} {}", sql.lock());
            let read = |row: &Row<'_>| Ok([row.text(0)?, row.text(1)?, row.text(2)?, row.text(3)?]);
            let Some([upstream, model, endpoint, way]) = sql.one(&select, &[batch, round, no], read)? else {
                return Ok(false);
            };
            let known = "SELECT 1 FROM chunk WHERE upstream = ?1 AND remote_id = ?2";
            if sql.one(known, &[(&*upstream).into(), (&*twin).into()], |_| Ok(()))?.is_some() {
                return Ok(false);
            }
            let select = "SELECT max(no) FROM chunk WHERE batch = ?1 AND round = ?2";
            let last: Option<u32> = sql.one(select, &[batch, round], |row| row.maybe_number(0))?.flatten();
            let next = last.map_or(FIRST, |last| last.saturating_add(1).max(FIRST)).into();
            let (state, none) = (ChunkState::Cancelling.name().into(), 0_u64.into());
            let route: [Param<'_>; 5] =
                [(&*upstream).into(), (&*model).into(), (&*endpoint).into(), (&*way).into(), (&*twin).into()];
            let [upstream, model, endpoint, way, twin] = route;
            let row = vec![
                batch,
                round,
                next,
                state,
                now.into(),
                upstream,
                model,
                endpoint,
                way,
                none,
                none,
                none,
                twin,
                now.into(),
            ];
            let columns = "batch, round, no, state, since, upstream, model, endpoint, way, lines, bytes, tokens,
                 remote_id, next_at";
            sql.insert("chunk", columns, &[row])?;
            sql.insert(
                "transition",
                "batch, round, no, to_state, at, fence",
                &[vec![batch, round, next, state, now.into(), none]],
            )?;
            Ok(true)
        })
        .await
    }
}
