//! An orderly end: no new calls, the running ones finish or are cancelled, every record is handed over.
//!
//! Calls run on their callers' runtimes; what works for several of them (the task that hands over records, the leaders of
//! coalesced calls, alerts) runs on the runtime of the call that started it. If that runtime is dropped, the next call
//! starts what is needed on its own, and no record is lost. If it is kept but not driven, what runs on it waits, and so
//! does whoever waits for it: a follower until its deadline, a flush or a shutdown until theirs.

use std::{panic::AssertUnwindSafe, sync::atomic::Ordering, time::Duration};

use futures_util::FutureExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    InferenceService,
    layer::ask,
    state::{State, in_runtime},
};
use crate::{cost::CostSink, types::later};

/// How long cancelled calls may take to settle, and the sinks to take what is left.
const GRACE: Duration = Duration::from_secs(5);

/// What became of the calls that were running when a shutdown began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Calls that ended by themselves.
    pub finished: usize,
    /// Calls that were cancelled at the deadline.
    pub cancelled: usize,
    /// Attempts among those whose cost is only known as an upper bound.
    pub unknown: u64,
    /// Cost records that no sink took, and attempts never made that a sink was not told to forget.
    pub records_lost: u64,
}

impl InferenceService {
    /// Takes no more calls; running ones go on. [`health`](Self::health) says so to a load balancer. The catalogue is not
    /// refreshed in the background any more.
    pub fn begin_shutdown(&self) {
        self.state.closed.store(true, Ordering::Release);
        self.state.calls.close();
        self.state.tasks.close();
        self.state.refresher.end();
        self.state.backgrounds.end();
    }

    /// Takes no more calls, waits up to `deadline` for the running ones, cancels the rest, and hands every record to the
    /// sinks and what was to be cached to the cache (for up to five seconds more). Calling it again waits for the same end.
    ///
    /// When it returns, every attempt is settled, also those of streams that their callers hold without reading them:
    /// they are cut with what had arrived. Drive the runtimes of the running calls meanwhile: a call on a runtime that is
    /// kept but not driven cannot be settled.
    ///
    /// Where there is no Tokio runtime with time it cannot wait: everything is cancelled at once, and what can be said is
    /// said.
    pub async fn shutdown(&self, deadline: Duration) -> Drained {
        let state = &self.state;
        self.begin_shutdown();
        let (running, unknown) = (state.calls.len(), state.totals.unknown_attempts.load(Ordering::Relaxed));
        if in_runtime().is_err() {
            state.cancel.cancel();
            state.streams.cut();
            return state.drained(0, running, unknown);
        }
        let by = later(Instant::now(), deadline);
        let cancelled = match timeout_at(by, state.over()).await {
            Ok(()) => 0,
            Err(_) => {
                let left = state.calls.len();
                state.cancel.cancel();
                state.streams.cut();
                if timeout(GRACE, state.over()).await.is_err() {
                    tracing::warn!(calls = state.calls.len(), "calls are still held after their cancellation");
                }
                left
            }
        };
        state.recorder.ensure_running(state);
        if !state.flush().await {
            tracing::warn!(records = state.recorder.waiting(), "the sinks did not take every cost record in time");
        }
        state.drained(running.saturating_sub(cancelled), cancelled, unknown)
    }

    /// Waits until every cost record so far was handed to every sink, or given up, at most five seconds: `false` if not,
    /// and where there is no Tokio runtime with time. A cache that writes behind the calls gets as long to end it.
    pub async fn flush(&self) -> bool {
        if in_runtime().is_err() {
            return false;
        }
        self.state.recorder.ensure_running(&self.state);
        self.state.flush().await
    }
}

impl State {
    /// `unknown`: how many there were before.
    fn drained(&self, finished: usize, cancelled: usize, unknown: u64) -> Drained {
        Drained {
            finished,
            cancelled,
            unknown: self.totals.unknown_attempts.load(Ordering::Relaxed).saturating_sub(unknown),
            records_lost: self.recorder.lost(),
        }
    }

    /// Whether the sinks have everything; the cache may end meanwhile what it writes behind the calls.
    async fn flush(&self) -> bool {
        let by = Instant::now() + GRACE;
        let cache = ask(GRACE, async { self.cache.flush().await });
        let records = async {
            let taken = self.recorder.flush(by).await;
            let flush = AssertUnwindSafe(CostSink::flush(&self.sinks)).catch_unwind();
            match timeout_at(by, flush).await {
                Ok(Ok(Ok(()))) => taken,
                Ok(Ok(Err(error))) => {
                    tracing::warn!(%error, "a cost sink could not be flushed");
                    taken
                }
                _ => false,
            }
        };
        let (records, cached) = tokio::join!(records, cache);
        if let Err(error) = cached {
            tracing::warn!(%error, "the cache could not keep everything");
        }
        records
    }

    /// Waits for the calls, and then for what they left to do.
    async fn over(&self) {
        self.calls.wait().await;
        self.tasks.wait().await;
    }
}
