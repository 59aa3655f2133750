//! A response without a service.

use std::sync::Arc;

use crate::{
    inference::{Answer, Bypass, Decision, InferenceResponse, Source, Timings},
    types::{Cost, ModelId, Priority, RequestId, RouteId, Task, Tier, UpstreamId, UsageSource, Usd},
};

/// The model that answers, by its own word.
const MODEL: &str = "stand-in";

/// A response with this text, as if it had cost nothing: what a stand-in for the service answers in tests. The fields
/// are public; set what differs.
///
/// ```
/// use together_inference::{InferenceRequest, InferenceResponse, inference::Infer, testing, types::BoxError};
///
/// /// Judges that everything is fine.
/// #[derive(Debug)]
/// struct Kind;
///
/// #[together_inference::async_trait]
/// impl Infer for Kind {
///     async fn infer(&self, _: InferenceRequest) -> Result<InferenceResponse, BoxError> {
///         Ok(testing::reply("5/5"))
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// assert_eq!(Kind.infer(InferenceRequest::chat("How good is this?")).await?.text(), "5/5");
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
pub fn reply(text: impl Into<String>) -> InferenceResponse {
    let route = RouteId::new(UpstreamId::together(), MODEL);
    let decision = Decision::new("testing", Task::Chat, Priority::Standard, Tier::Mid, "a stand-in");
    InferenceResponse {
        leaked: None,
        answer: Arc::new(Answer::chat(text, ModelId::from(MODEL))),
        asked: route.clone(),
        route,
        source: Source::Upstream(Bypass::Asked),
        cost: Cost::Known(Usd::ZERO),
        saved: Cost::Known(Usd::ZERO),
        usage_source: UsageSource::None,
        attempts: Arc::new([]),
        timings: Timings::default(),
        id: RequestId::new(0),
        at: std::time::SystemTime::UNIX_EPOCH,
        request_id: None,
        warnings: Arc::new([]),
        decision: Arc::new(decision),
        prompt_tokens_at_most: 0,
    }
}
