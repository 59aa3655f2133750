//! Answers taken out of the cache before their time.

use std::{collections::HashSet, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;

use super::{Error, ErrorKind, InferenceService};
use crate::{
    cache::CacheError,
    inference::{InferenceRequest, Input},
    types::Tenant,
};

impl InferenceService {
    /// Takes the answer to a request out of the cache, as it is kept for the request's tenant and scope; of a request for
    /// vectors those of all its texts. A call that is under way for it is not joined any more and keeps nothing.
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
    /// [`Error`] for a request that cannot be, and [`ErrorKind::Policy`] where the cache failed: the answer may still be
    /// there.
    pub async fn invalidate(&self, request: &InferenceRequest) -> Result<(), Error> {
        let state = &self.state;
        let _in_flight = state.begin()?;
        let plan = state.plan_for(Arc::new(request.clone()), true).await?;
        let keys = match plan.request.input() {
            Input::Embedding(input) => state.keys_of_texts(&plan, input),
            _ => vec![state.key(&plan)],
        };
        let texts: HashSet<_> = keys.iter().copied().collect();
        state.text_slots.forget(|text| texts.contains(text));
        for key in keys {
            state.slots.forget(|other| *other == key);
            let removed = AssertUnwindSafe(state.cache.remove(&key)).catch_unwind();
            removed
                .await
                .unwrap_or_else(|_| Err(CacheError::new("the cache panicked")))
                .map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Takes every answer of a tenant out of the cache: when its data change, or when it leaves. What is shared between
    /// tenants stays.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Policy`] where the cache failed or cannot tell tenants apart: answers may still be there.
    pub async fn invalidate_tenant(&self, tenant: &Tenant) -> Result<(), Error> {
        let state = &self.state;
        let _in_flight = state.begin()?;
        state.slots.forget(|key| key.is_of(tenant));
        state.text_slots.forget(|text| text.is_of(tenant));
        let forgotten = AssertUnwindSafe(state.cache.forget_tenant(tenant)).catch_unwind();
        forgotten.await.unwrap_or_else(|_| Err(CacheError::new("the cache panicked"))).map_err(|error| failed(&error))
    }
}

fn failed(error: &CacheError) -> Error {
    Error::new(ErrorKind::Policy, format!("{error}; what was to be forgotten may still be served"))
}
