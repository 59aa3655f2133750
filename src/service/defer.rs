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
    types::{FOREVER, later},
};

/// Waits that are longer than this are for the overflow, or than a tenth of the time that is left if that is less.
const PATIENCE: Duration = Duration::from_secs(30);
/// An answer by the overflow takes its time: with less left, only an answer now is one.
const LEAST_LEFT: Duration = Duration::from_secs(3_600);
/// With less left a request does not wait for a batch's price.
#[cfg(feature = "batch")]
const TIME_FOR_A_BATCH: Duration = Duration::from_secs(4 * 3_600);
/// How long a request is tried for at once that may wait for hours.
const AT_ONCE: Duration = Duration::from_secs(120);
/// How long to wait for a probe where nobody knows when the next one is due.
const PAUSE: Duration = Duration::from_secs(1);
/// How long to wait at least: the probe that is due may be another call's.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

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
    /// longer than that, when every model for it has been down for more than 30 s, or when it was tried and failed. While
    /// they are down for less it waits to be tried. It is tried at once for two minutes at most; a call that it shares with
    /// others it waits for to its end, so that it is not answered twice. Where the service's own
    /// [batches](super::ServiceBuilder::batches) cost a fifth less at its model and four hours are left, it is handed over at
    /// once, unless the cache has an answer. Everything else is as with
    /// [`complete`](Self::complete).
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
        let overflow = self.state.overflow().filter(|_| request.is_deferrable() && left >= LEAST_LEFT);
        let Some(overflow) = overflow else {
            return Ok(Completion::Answered(Box::new(self.complete(request).await?)));
        };
        let (patience, begun) = (PATIENCE.min(left / 10), Instant::now());
        let (request, until) = (Arc::new(request), later(begun, left));
        #[cfg(feature = "batch")]
        if left >= TIME_FOR_A_BATCH
            && self.state.is_cheaper_later(&request).await.unwrap_or_else(|error| {
                // A journal that cannot be read is none of the call's business.
                tracing::warn!(%error, "whether batches are cheaper is not known");
                false
            })
            && let Some(deferred) = self.hand_over(&overflow, &request, Overflowing::Cheaper).await
        {
            return Ok(deferred);
        }
        loop {
            let must_wait = self.state.must_wait(&request, patience).await?;
            if let Some(why) = must_wait
                && let Some(deferred) = self.hand_over(&overflow, &request, why).await
            {
                return Ok(deferred);
            }
            let error = match self.try_at_once(&request, AT_ONCE.saturating_sub(begun.elapsed()), until).await {
                Ok(reply) => return Ok(Completion::Answered(Box::new(reply))),
                Err(error) => error,
            };
            // It is asked once for a call, and the time at once is part of the hour.
            let may = must_wait.is_none() && left.saturating_sub(begun.elapsed()) + AT_ONCE >= LEAST_LEFT;
            let Some(why) = why(&error).filter(|_| may) else { return Err(error) };
            if error.kind() == ErrorKind::Ejected {
                let wait = error.retry_after().unwrap_or(PAUSE).max(LEAST_PAUSE);
                if begun.elapsed() + wait < AT_ONCE {
                    let _in_flight = self.state.begin()?;
                    self.state.rest(wait).await?;
                    continue;
                }
            }
            return self.hand_over(&overflow, &request, why).await.ok_or(error);
        }
    }

    /// Tries a request for so long. Where it shares a call it stays until that has ended: what is under way for it is not
    /// for anybody else to answer.
    async fn try_at_once(
        &self,
        request: &InferenceRequest,
        time: Duration,
        until: Instant,
    ) -> Result<InferenceResponse, Error> {
        let (state, request) = (&self.state, Arc::new(request.clone().deadline(time)));
        let _in_flight = state.begin()?;
        let reply = match state.plan(request).await {
            Ok(mut plan) => {
                plan.stays_until = Some(until);
                state.carry_out(plan).await
            }
            Err(error) => Err(error),
        };
        log(&reply);
        reply
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
    /// Who takes over what may wait: the application's own, else the batches.
    fn overflow(self: &Arc<Self>) -> Option<Arc<dyn Overflow>> {
        #[cfg(feature = "batch")]
        if self.overflow.is_none() && self.batches.is_some() {
            return Some(Arc::new(super::batch::Gather(Arc::clone(self))));
        }
        self.overflow.clone()
    }

    /// Why a request had better not be tried at all: every candidate has been down for long, or those that are not down
    /// have its turn too late.
    async fn must_wait(
        self: &Arc<Self>,
        request: &Arc<InferenceRequest>,
        patience: Duration,
    ) -> Result<Option<Overflowing>, Error> {
        let _in_flight = self.begin()?;
        let plan = self.plan_for(Arc::clone(request), true).await.inspect_err(|error| log(&Err(error.clone())))?;
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let (mut late, mut shut, mut down, now) = (0, 0, 0, Instant::now());
        for candidate in &*plan.ranking.candidates {
            let Some(route) = routes.get(&candidate.route) else { continue };
            late += usize::from(route.lane.health().predicted_wait > patience);
            // One whose probe is due may have this call for it: else nobody would find out that it is back.
            shut += usize::from(route.ejection.is_shut(now));
            down += usize::from(route.ejection.is_shut_for(patience, now));
        }
        let all = plan.ranking.candidates.len();
        Ok(match (late, shut) {
            _ if down == all => Some(Overflowing::Outage),
            (late, shut) if late > 0 && late + shut >= all => Some(Overflowing::RateLimit),
            _ => None,
        })
    }
}
