//! The catalogue kept up to date in the background, never on the path of a call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{InferenceService, state::State};

/// When the lists are read, and whether somebody does.
#[derive(Debug)]
pub(super) struct Refresher {
    every: Option<Duration>,
    running: Arc<AtomicBool>,
    /// A service that takes no more calls needs no lists.
    ended: CancellationToken,
}

impl Refresher {
    pub(super) fn new(every: Option<Duration>) -> Self {
        Self { every, running: Arc::default(), ended: CancellationToken::new() }
    }

    /// Ends the task, also in the middle of a list.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    /// Starts the task on this runtime unless one runs. If its runtime is dropped the next call starts another.
    pub(super) fn ensure_running(&self, state: &Arc<State>) {
        let Some(every) = self.every else { return };
        if self.running.load(Ordering::Acquire) || self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let (running, state) = (Running(Arc::clone(&self.running)), Arc::downgrade(state));
        let ended = self.ended.clone();
        let task = async move {
            let _running = running;
            loop {
                // Held while it reads alone: the service must be able to end.
                let Some(state) = state.upgrade() else { return };
                // A tenth more or less, so that many processes do not ask together.
                let wait = every.mul_f64(state.rng.next_f64().mul_add(0.2, 0.9));
                tokio::select! {
                    biased;
                    () = ended.cancelled() => return,
                    () = read(state, every / 2) => {}
                }
                tokio::select! {
                    biased;
                    () = ended.cancelled() => return,
                    () = sleep(wait) => {}
                }
            }
        };
        // Not counted among what a shutdown waits for: it ends when one begins.
        #[expect(clippy::disallowed_methods, reason = "it ends when a shutdown begins")]
        drop(tokio::spawn(task));
    }
}

/// Takes over the lists, also such as another process read in the last half of the time between two.
async fn read(state: Arc<State>, age: Duration) {
    let service = InferenceService { state };
    let refreshed = service.refresh_within(age).await;
    for failure in &refreshed.failures {
        tracing::warn!(upstream = %failure.upstream, error = %failure.error, "the model list could not be read");
    }
    tracing::debug!(new = refreshed.new, changed = refreshed.changed, "the catalogue was refreshed");
}

struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
