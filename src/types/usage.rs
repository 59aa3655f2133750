//! Token counts.

use serde::{Deserialize, Serialize};

/// Tokens of one attempt, as the provider bills them.
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
}

impl Usage {
    /// Prompt and completion tokens together.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }
}

/// Where the token counts of a record come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum UsageSource {
    /// The provider reported them.
    Reported,
    /// Counted by us, because the provider reported none: four UTF-8 bytes a token, rounded up, and four tokens a
    /// message. On English text that is within about 25 % of a real tokenizer.
    Counted,
    /// Not known; the record carries the upper bound.
    UpperBound,
    /// No tokens were used: a cache hit, a coalesced follower, a refused attempt.
    None,
}
