//! The vocabulary of a call: what is asked, what is answered, and what both are known by.
//!
//! Policies (router, cache, cost) and the service speak these words; they live below both.

mod answer;
mod cache_control;
mod content;
mod counting;
mod decision;
mod forms;
mod hash;
mod input;
mod key;
mod key_inputs;
mod leaks;
mod media;
mod needs;
mod reading;
mod request;
mod response;
mod selection;
mod stored;
mod structured;
mod tokens;
mod trace;
mod validate;

#[cfg(test)]
mod key_field_tests;
#[cfg(test)]
#[path = "key_tests.rs"]
mod property_tests;

use async_trait::async_trait;

#[cfg(feature = "schema")]
pub(crate) use self::structured::{Parsed, Start, parse_value, start_of};
pub(crate) use self::tokens::TokenTally;
pub use self::{
    answer::{Answer, Output},
    cache_control::{CacheControl, CacheScope},
    decision::{Condition, Considered, Decision, Rejection},
    input::Input,
    key::{CacheKey, Kind},
    leaks::leaked_tool_markup,
    needs::{JsonNeed, Needs},
    request::InferenceRequest,
    response::{Attempt, Bypass, InferenceResponse, Origin, Source, Timings},
    selection::{ModelRef, Selection},
    structured::{Partial, Repaired, repair_json},
    tokens::{CountTokens, count_tokens},
    trace::{MAX_TRACE_BYTES, Trace},
    validate::InvalidRequest,
};
use crate::types::BoxError;

/// Anything that answers inference requests: the service itself, given to those who must call a model from below (a
/// judge, a verifier, a batch over realtime), or a stand-in in their tests.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), together_inference::types::BoxError> {
/// use together_inference::{InferenceRequest, InferenceService, inference::Infer, testing::Together};
///
/// /// Whether a text is polite, by the word of whatever answers.
/// async fn is_polite(judge: &dyn Infer, text: &str) -> Result<bool, together_inference::types::BoxError> {
///     let ask = InferenceRequest::chat(text).system("Is this polite? Answer yes or no.");
///     Ok(judge.infer(ask).await?.text().starts_with("yes"))
/// }
///
/// let together = Together::new();
/// together.on("please").reply("yes");
/// let service = InferenceService::builder(together.client()).build()?;
/// assert!(is_polite(&service, "A coffee, please.").await?);
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Infer: Send + Sync + std::fmt::Debug {
    /// Answers one request.
    ///
    /// # Errors
    ///
    /// The service's own error, boxed.
    async fn infer(&self, request: InferenceRequest) -> Result<InferenceResponse, BoxError>;
}
