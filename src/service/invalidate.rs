//! Answers taken out of the cache before their time.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{Error, ErrorKind, InferenceService, layer::ask, plan::Plan, state::State};
use crate::{
    cache::CacheError,
    inference::{CacheKey, InferenceRequest, Input},
    types::{RouteId, Tenant},
};

/// How long a layer may take to forget an answer. Somebody waits for it to be gone: longer than for a look-up.
const LONGEST: Duration = Duration::from_secs(1);
/// How long it may take to look through everything for a tenant's.
const LONGEST_OF_TENANT: Duration = Duration::from_secs(30);

impl InferenceService {
    /// Takes the answer to a request out of the cache, as it is kept for the request's tenant and scope; of a request for
    /// vectors those of all its texts. A call, stream or refresh that is under way for it is not joined any more and keeps
    /// nothing.
    ///
    /// An answer is kept under the question to the model that was the first choice then. It is taken out whichever of the
    /// models that are candidates now that was. What cannot be reached from here goes when its time is over: answers of
    /// models that are candidates no more, and what other processes have in their own memory or on its way.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use together_inference::{InferenceRequest, InferenceService, testing::Together};
    ///
    /// let together = Together::new();
    /// let service = InferenceService::builder(together.client()).build()?;
    /// let ask = InferenceRequest::chat("What is in stock?").temperature(0.0);
    /// service.complete(ask.clone()).await?;
    /// service.invalidate(&ask).await?;
    /// service.complete(ask).await?;
    /// assert_eq!(together.calls(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error`] for a request that cannot be, and [`ErrorKind::Policy`] where the cache failed or took longer than a
    /// second: the answer may still be there.
    pub async fn invalidate(&self, request: &InferenceRequest) -> Result<(), Error> {
        let state = &self.state;
        let _in_flight = state.begin()?;
        let plan = state.plan_for(Arc::new(request.clone()), true).await?;
        let keys = state.keys_of_all(&plan);
        // All at once and first, so that none is kept while others are taken out.
        keys.iter().for_each(|key| state.invalidations.note_key(key));
        state.join_no_more(|key| keys.contains(key));
        for key in &keys {
            ask(LONGEST, async { state.cache.remove(key).await }).await.map_err(|error| failed(&error))?;
        }
        state.join_no_more(|key| keys.contains(key));
        Ok(())
    }

    /// Takes every answer of a tenant out of the cache: when its data change, or when it leaves. What is shared between
    /// tenants stays.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Policy`] where the cache failed, took longer than 30 s or cannot tell tenants apart: answers may still be
    /// there.
    pub async fn invalidate_tenant(&self, tenant: &Tenant) -> Result<(), Error> {
        let state = &self.state;
        let _in_flight = state.begin()?;
        state.invalidations.note_tenant(tenant);
        state.join_no_more(|key| key.is_of(tenant));
        let forgotten = ask(LONGEST_OF_TENANT, async { state.cache.forget_tenant(tenant).await });
        forgotten.await.map_err(|error| failed(&error))?;
        state.join_no_more(|key| key.is_of(tenant));
        Ok(())
    }
}

impl State {
    /// Nobody joins the calls for these any more. Asked for before something is taken out of the cache, and once more after:
    /// a leader that came in between may have found there what is gone now.
    fn join_no_more(&self, which: impl Fn(&CacheKey) -> bool) {
        self.slots.forget(&which);
        self.text_slots.forget(&which);
    }

    /// What an answer to this call may be cached under: the first choice may have been another one then.
    fn keys_of_all(&self, plan: &Plan) -> HashSet<CacheKey> {
        let routes = plan.ranking.candidates.iter().map(|candidate| &candidate.route);
        let of_route = |route: &RouteId| match plan.request.input() {
            Input::Embedding(input) => self.keys_by(plan, input, route),
            _ => vec![self.key_to(&plan.request, route)],
        };
        routes.chain([plan.asked()]).flat_map(of_route).collect()
    }
}

fn failed(error: &CacheError) -> Error {
    Error::new(ErrorKind::Policy, format!("{error}; what was to be forgotten may still be served"))
}
