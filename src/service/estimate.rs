//! What a call would cost, by the same sums as one that is made, and the error of one that would cost too much.

use std::sync::{Arc, atomic::Ordering};

use super::{
    Error, InferenceService, TenantService,
    error::{Cause, ErrorKind},
    plan::Plan,
    state::{Counts, State, in_runtime},
};
use crate::{
    cost::{Estimate, Estimates, TooDear},
    inference::{InferenceRequest, Rejection},
    router::{Candidate, Expectation, NoRoute},
    types::{Cost, Usd},
};

/// Answers after which their average is what is expected of the next one.
const ENOUGH: u64 = 5;

impl InferenceService {
    /// What a request would cost: at the route that it would go to, and at each that it would fall back to. Nothing is
    /// sent.
    ///
    /// For what an answer from the cache costs, which is nothing, it does not look there; nor does it hold the
    /// request to its own `max_cost`, since what it would have to be is the answer.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, testing::Together};
    ///
    /// let service = InferenceService::builder(Together::new().client()).build()?;
    /// let request = InferenceRequest::chat("Why is the sky blue?").max_tokens(100);
    /// let estimates = service.estimate(&request).await?;
    /// println!("{estimates:#}");
    /// let reply = service.complete(request).await?;
    /// assert!(reply.cost().charge() <= estimates.chosen().unwrap().at_most.charge());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`explain`](Self::explain).
    pub async fn estimate(&self, request: &InferenceRequest) -> Result<Estimates, Error> {
        in_runtime()?;
        let request = request.clone().without_max_cost();
        let plan = self.state.plan_for(Arc::new(request), true).await?;
        let candidates = plan.ranking.candidates.iter().map(|candidate| self.state.estimate(&plan, candidate));
        Ok(Estimates::new(candidates.collect(), Arc::clone(&plan.ranking.decision)))
    }
}

impl TenantService {
    /// [`InferenceService::estimate`] for this tenant.
    ///
    /// # Errors
    ///
    /// As there, and for a request of another tenant.
    pub async fn estimate(&self, request: &InferenceRequest) -> Result<Estimates, Error> {
        self.service().estimate(&self.stamp(request.clone())?).await
    }
}

impl State {
    pub(super) fn estimate(self: &Arc<Self>, plan: &Plan, candidate: &Candidate) -> Estimate {
        let (request, route) = (&plan.request, &candidate.route);
        let usage_at_most = plan.usage_at_most(candidate, &self.counter);
        let mut usage = usage_at_most;
        usage.prompt = self.counter.prompt(route.model(), request).min(usage_at_most.prompt);
        let answers = u64::from(request.answers());
        let average = self.with_route(route, |route| route.counts.completion()).flatten();
        usage.completion = usage.completion.min(average.unwrap_or(Expectation::TOKENS).saturating_mul(answers));
        let price = self.price(candidate).map(|stamp| stamp.price);
        // Many texts go in several calls, each rounded up by itself: the tokens that the bound adds to each text are more.
        let mut estimate = Estimate::new(route.clone(), price, usage, usage_at_most);
        estimate.is_bounded =
            usage_at_most.completion == 0 || request.max_tokens_of().is_some() || candidate.max_output.is_some();
        estimate
    }
}

impl Counts {
    /// How many tokens this route's answers have on average, once there are some.
    fn completion(&self) -> Option<u64> {
        let answered = self.answered.load(Ordering::Relaxed);
        (answered >= ENOUGH).then(|| self.completion.load(Ordering::Relaxed).div_ceil(answered).max(1))
    }
}

impl Error {
    /// The error of a request that no route serves; of one with a ceiling, what it would have to be.
    pub(super) fn from_no_route(nobody: NoRoute, ceiling: Option<Usd>) -> Self {
        let candidates = nobody.rejected.iter().filter_map(|(route, why)| match why {
            Rejection::Cost { at_most } => Some((route.clone(), Cost::Unknown { at_most: *at_most })),
            Rejection::Unpriced => Some((route.clone(), Cost::Unpriced)),
            _ => None,
        });
        let candidates: Vec<_> = candidates.collect();
        match ceiling.filter(|_| !candidates.is_empty()) {
            Some(ceiling) => {
                let too_dear = TooDear::new(ceiling, candidates);
                let message = format!("{nobody}; {too_dear}");
                Self::caused(ErrorKind::NoRoute, message, Cause::TooDear(too_dear, Some(nobody)))
            }
            None => nobody.into(),
        }
    }

    /// The error of a request whose candidates may all cost more than is left of its ceiling.
    pub(super) fn of_too_dear(too_dear: TooDear) -> Self {
        let kind = if too_dear.least().is_some() { ErrorKind::OverBudget } else { ErrorKind::Unpriced };
        Self::caused(kind, too_dear.to_string(), Cause::TooDear(too_dear, None))
    }
}
