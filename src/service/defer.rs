//! Answered now, or handed over to be answered later.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::{Error, ErrorKind, InferenceService, log, state::State};
use crate::{
    batch::{Deferred, Overflow, Overflowing},
    inference::{InferenceRequest, InferenceResponse},
    types::FOREVER,
};

/// Waits that are longer than this are for the overflow, or than a tenth of the time that is left if that is less.
const PATIENCE: Duration = Duration::from_secs(30);
/// An answer by the overflow takes its time: with less left, only an answer now is one.
const LEAST_LEFT: Duration = Duration::from_secs(3_600);
/// How long a request is tried for at once that may wait for hours.
const AT_ONCE: Duration = Duration::from_secs(120);

/// What became of a request that may wait.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Completion {
    /// It was answered.
    Answered(Box<InferenceResponse>),
    /// It was handed over and will be answered later.
    Deferred(Deferred),
}

impl InferenceService {
    /// Answers a request now, or hands it to the [overflow](super::ServiceBuilder::overflow) to be answered later.
    ///
    /// Handed over is only what says [`deferrable`](InferenceRequest::deferrable) and has an hour left at least (a request
    /// without a `deadline` has all the time): when its turn would come in more than 30 s, when the provider asks to wait
    /// longer than that, or when every model for it is down. It is tried at once for two minutes at most. Everything else
    /// is as with [`complete`](Self::complete).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, service::Completion, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// let request = InferenceRequest::chat("Summarise this.").deferrable();
    /// match service.complete_or_defer(request).await? {
    ///     Completion::Answered(reply) => println!("{reply}"),
    ///     Completion::Deferred(later) => println!("later: {}", later.ticket),
    ///     _ => {}
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`complete`](Self::complete), also where the overflow does not take the request.
    ///
    /// # Cancellation
    ///
    /// As [`complete`](Self::complete) until the request is handed over; that goes on to its end.
    pub async fn complete_or_defer(&self, request: impl Into<InferenceRequest>) -> Result<Completion, Error> {
        let request: InferenceRequest = request.into();
        let left = if request.names_deadline() { request.deadline_of() } else { FOREVER };
        let overflow = self.state.overflow.clone().filter(|_| request.is_deferrable() && left >= LEAST_LEFT);
        let Some(overflow) = overflow else {
            return Ok(Completion::Answered(Box::new(self.complete(request).await?)));
        };
        let patience = PATIENCE.min(left / 10);
        let request = Arc::new(request);
        if let Some(why) = self.state.must_wait(&request, patience).await?
            && let Some(deferred) = self.hand_over(&overflow, &request, why).await
        {
            return Ok(deferred);
        }
        let now = InferenceRequest::clone(&request).deadline(AT_ONCE);
        match self.complete(now).await {
            Ok(reply) => Ok(Completion::Answered(Box::new(reply))),
            Err(error) => {
                let taken = match why(&error) {
                    Some(why) => self.hand_over(&overflow, &request, why).await,
                    None => None,
                };
                taken.ok_or(error)
            }
        }
    }

    /// Lets the overflow have the request, in a task that outlives the caller; `None` if it does not take it.
    async fn hand_over(
        &self,
        overflow: &Arc<dyn Overflow>,
        request: &Arc<InferenceRequest>,
        why: Overflowing,
    ) -> Option<Completion> {
        let (overflow, request) = (Arc::clone(overflow), Arc::clone(request));
        let taken = self.state.tasks.spawn(async move {
            match AssertUnwindSafe(overflow.take(&request, why)).catch_unwind().await {
                Ok(Ok(deferred)) => Some(deferred),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the overflow did not take a request");
                    None
                }
                Err(_) => {
                    tracing::warn!("the overflow panicked");
                    None
                }
            }
        });
        let deferred = taken.await.ok().flatten()?;
        tracing::debug!(why = why.as_str(), "deferred");
        Some(Completion::Deferred(deferred))
    }
}

/// Why a call that failed is for the overflow, if so. What only needs a short wait was waited for already.
fn why(error: &Error) -> Option<Overflowing> {
    match error.kind() {
        ErrorKind::Overloaded | ErrorKind::DeadlineExceeded | ErrorKind::RateLimited => Some(Overflowing::RateLimit),
        ErrorKind::Ejected | ErrorKind::Upstream => Some(Overflowing::Outage),
        _ => None,
    }
}

impl State {
    /// Why a request had better not be tried at all: every candidate is down or has its turn too late.
    async fn must_wait(
        self: &Arc<Self>,
        request: &Arc<InferenceRequest>,
        patience: Duration,
    ) -> Result<Option<Overflowing>, Error> {
        let _in_flight = self.begin()?;
        let plan = self.plan_for(Arc::clone(request), true).await.inspect_err(|error| log(&Err(error.clone())))?;
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let (mut late, mut down, now) = (0, 0, Instant::now());
        for candidate in &*plan.ranking.candidates {
            let Some(route) = routes.get(&candidate.route) else { continue };
            late += usize::from(route.lane.health().predicted_wait > patience);
            // One whose probe is due may have this call for it: else nobody would find out that it is back.
            down += usize::from(route.ejection.is_shut(now));
        }
        let all = plan.ranking.candidates.len();
        Ok(match (late, down) {
            (_, down) if down == all => Some(Overflowing::Outage),
            (late, down) if late > 0 && late + down >= all => Some(Overflowing::RateLimit),
            _ => None,
        })
    }
}
