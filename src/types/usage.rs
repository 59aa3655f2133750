//! Token counts.

use serde::{Deserialize, Serialize};

/// What one attempt used, as the provider bills it: tokens, or pictures.
///
/// ```
/// use together_inference::Usage;
///
/// // 1,200 tokens in all: of the prompt 900 were cached, of the answer 150 were thoughts.
/// let usage = Usage { prompt: 1_000, cached: 900, completion: 200, reasoning: 150, ..Usage::default() };
/// assert_eq!(usage.total(), 1_200);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt: u64,
    /// Those of the prompt that the provider read from its own prompt cache.
    pub cached: u64,
    /// Tokens of the answer, reasoning included.
    pub completion: u64,
    /// Those of the answer that were reasoning.
    pub reasoning: u64,
    /// Pictures made.
    #[serde(default)]
    pub images: u64,
    /// Pixels of those pictures, all together.
    #[serde(default)]
    pub pixels: u64,
    /// Seconds of sound that were read or made, or in which an endpoint of one's own stood ready: whatever the model is
    /// priced by.
    #[serde(default)]
    pub seconds: u64,
}

impl Usage {
    /// Nothing used.
    pub const ZERO: Self = Self { prompt: 0, cached: 0, completion: 0, reasoning: 0, images: 0, pixels: 0, seconds: 0 };

    /// Prompt and completion tokens together.
    ///
    /// Cached and reasoning tokens are parts of them and not added again.
    ///
    /// ```
    /// use together_inference::Usage;
    ///
    /// let usage = Usage { prompt: 10, cached: 4, completion: 5, reasoning: 5, ..Usage::default() };
    /// assert_eq!(usage.total(), 15);
    /// ```
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }

    /// With what was counted where a report has nothing: no prompt is empty, and no text is made of no tokens.
    pub(crate) fn or_counted(self, counted: Self) -> Self {
        let or = |told: u64, counted: u64| if told == 0 { counted } else { told };
        Self { prompt: or(self.prompt, counted.prompt), completion: or(self.completion, counted.completion), ..self }
    }
}

/// Where the token counts of a record come from.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use together_inference::{InferenceRequest, InferenceService, UsageSource, testing::Together};
///
/// let service = InferenceService::builder(Together::new().client()).build()?;
/// let reply = service.complete(InferenceRequest::chat("Why is the sky blue?")).await?;
/// assert_eq!(reply.usage_source, UsageSource::Reported);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum UsageSource {
    /// The provider reported them.
    Reported,
    /// Counted by us, because the provider reported none, or only half of them: by
    /// [`count_tokens`](crate::inference::count_tokens), which is within about 5 % of a real tokenizer for English, 7
    /// % for code and 14 % for Chinese, or by the application's own [`CountTokens`](crate::inference::CountTokens),
    /// and four tokens a message. Pictures are counted exactly.
    Counted,
    /// Not known; the record carries the upper bound.
    UpperBound,
    /// No tokens were used: a cache hit, a coalesced follower, a refused attempt.
    None,
}
